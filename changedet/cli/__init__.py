"""The command line: ``changedet COMMAND …``."""

from __future__ import annotations

import atexit
import gc
import os
from typing import Annotated

import typer

from changedet import __version__
from changedet.cli import detect, pair, scenes, score, site
from changedet.cli._console import Door

__all__ = ["app", "main"]

ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "DASK_SCHEDULER": "threads"}
"""What the process is given where the user's environment does not say."""

app = typer.Typer(
    cls=Door,
    name="changedet",
    help="Find, date and describe new structures in satellite image time series.",
    add_completion=False,
    rich_markup_mode=None,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (
    detect.run,
    pair.diff,
    scenes.align,
    scenes.normalize,
    scenes.info,
    score.evaluate,
    detect.sensitivity,
    detect.update,
    detect.report,
    site.site,
    detect.demo,
):
    app.command(name=_command.__name__)(_command)


def _version(value: bool) -> None:
    """Print the version and leave."""
    if value:
        typer.echo(f"changedet {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Find, date and describe new structures in satellite image time series."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Run the command line of this process.

    A third of the time that imports and the end of the process take goes into looking for garbage among
    what they made, where there is none: it is looked for less often, and not at the end. Linear algebra gets
    one thread unless the user says otherwise: windows are worked on side by side already, and threads of its
    own only wait for one another, at full speed (a tenth of a comparison's processor time).
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when NumPy is imported, which is later
    gc.set_threshold(100_000, 20, 20)
    atexit.register(gc.freeze)
    app()
