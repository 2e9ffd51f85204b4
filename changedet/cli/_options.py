"""Options that commands share, and how they become a plan."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from changedet.cli._console import change_talk
from changedet.errors import InputError

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

    from changedet.pipeline import Plan
    from changedet.sites import Site


class Compression(StrEnum):
    """Choices of ``--compress``."""

    none = "none"
    deflate = "deflate"
    zstd = "zstd"


def _quiet(value: bool) -> bool:
    """Take ``-q``."""
    if value:
        change_talk(quiet=True)
    return value


def _verbose(value: int) -> int:
    """Take ``-v``."""
    if value:
        change_talk(verbose=value)
    return value


def _json(value: bool) -> bool:
    """Take ``--json``."""
    if value:
        change_talk(json=True)
    return value


Scenes = Annotated[
    list[str],
    typer.Argument(
        metavar="SCENES...",
        help="Files, folders (searched) and globs; several files of one acquisition are one.",
    ),
]
Out = Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Folder for the results.")]
SiteName = Annotated[
    str | None,
    typer.Option("--site", metavar="NAME|FILE", help="A site dossier; see `changedet site`."),
]
Aoi = Annotated[Path | None, typer.Option("--aoi", metavar="FILE", help="Area to crop to.")]
Since = Annotated[str | None, typer.Option("--since", metavar="DATE", help="First day.")]
Until = Annotated[str | None, typer.Option("--until", metavar="DATE", help="Last day.")]
Bands = Annotated[
    str | None,
    typer.Option("--bands", metavar="A,B", help="Bands to use [all that scenes share]."),
]
BandNames = Annotated[
    str | None,
    typer.Option("--band-names", metavar="A,B", help="Names in file order, where files do not say."),
]
Date = Annotated[
    list[str] | None,
    typer.Option(
        "--date",
        metavar="DATE",
        help="Where files do not say: a day, NAME=DATE, or a strptime pattern over the name. Repeatable.",
    ),
]
Warp = Annotated[
    bool,
    typer.Option("--warp", help="Resample onto the first scene's grid [other grids are refused]."),
]
StacSearch = Annotated[
    str | None,
    typer.Option("--stac-search", metavar="URL", help="Search a STAC API."),
]
Collection = Annotated[
    str | None,
    typer.Option("--collection", metavar="NAME", help="Collection to search."),
]
MinArea = Annotated[
    float | None,
    typer.Option("--min-area", metavar="M2", help="Smallest object [from pixel size]."),
]
Alpha = Annotated[float | None, typer.Option("--alpha", metavar="A", help="False-alarm level [0.05].")]
PlanFile = Annotated[
    Path | None,
    typer.Option("--plan", metavar="FILE", help="Settings of an earlier run: plan.toml or run.json."),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="STEP.OPTION=VALUE", help="One setting; plan.toml of a run lists all. Repeatable."
    ),
]
Workers = Annotated[int | None, typer.Option("--workers", metavar="N", help="Threads [all].")]
Scheduler = Annotated[
    str | None,
    typer.Option("--scheduler", metavar="ADDRESS", help="A running dask cluster."),
]
Memory = Annotated[
    str | None,
    typer.Option("--memory", metavar="2GB", help="Bound of the working set."),
]
Outputs = Annotated[
    list[str] | None,
    typer.Option("--outputs", metavar="NAME,NAME", help="Only these files. Repeatable."),
]
Compress = Annotated[
    Compression | None,
    typer.Option("--compress", help="Compression of rasters [deflate]."),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace the results of an earlier run in DIR; touch nothing else."),
]
Strict = Annotated[bool, typer.Option("--strict", help="Fail when a self-test fails.")]
Quiet = Annotated[
    bool,
    typer.Option("-q", "--quiet", help="Say errors only.", callback=_quiet, is_eager=True),
]
Verbose = Annotated[
    int,
    typer.Option(
        "-v",
        "--verbose",
        count=True,
        help="Say more; -vv shows tracebacks.",
        show_default=False,
        callback=_verbose,
        is_eager=True,
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="One machine-readable line on stdout.", callback=_json, is_eager=True),
]

_KEYS = {
    "since": "read.since",
    "until": "read.until",
    "bands": "read.bands",
    "band_names": "read.band_names",
    "date": "read.date",
    "warp": "read.warp",
    "min_area": "run.min_area_m2",
    "alpha": "run.alpha",
    "workers": "compute.workers",
    "memory": "compute.memory",
    "compress": "write.compress",
    "method": "diff.method",
    "threshold": "diff.threshold",
}
_LISTS = ("bands", "band_names")


def make_plan(given: Mapping[str, Any]) -> Plan:
    """Return the plan of a command: the file of ``--plan``, then the named options, then what ``--set`` says.

    Parameters
    ----------
    given : the command's options by name (its ``locals()``); None and False leave the plan as it is
    """
    from changedet.pipeline import Plan

    base = Plan() if given.get("plan") is None else Plan.from_toml(given["plan"])
    said = {k: v for k, v in given.items() if k in _KEYS and v is not None and v is not False}
    changes = {_KEYS[k]: names_of(v) if k in _LISTS else v for k, v in said.items()}
    return base.with_values(changes).with_set(given.get("set_") or ())


def names_of(text: str | list[str] | None) -> list[str] | None:
    """Split comma-separated names, given once or repeatedly."""
    if text is None:
        return None
    parts = [text] if isinstance(text, str) else text
    return [name.strip() for part in parts for name in part.split(",")]


def area_of(site: str | Site | None, aoi: Path | None) -> BaseGeometry | None:
    """Return the lon/lat area to crop to: that of ``--aoi``, else that of the site."""
    if isinstance(site, str):
        site = site_of(site)
    if aoi is not None:
        from changedet.io.vector import read_aoi

        return read_aoi(aoi)
    return None if site is None else site.aoi


def site_of(name: str | None) -> Site | None:
    """Return the dossier that ``--site`` names."""
    if name is None:
        return None
    from changedet.sites import load_site

    return load_site(name)


def refuse_unavailable(**asked: object) -> None:
    """Refuse options that this version does not have yet, rather than ignore them.

    Raises
    ------
    InputError
        One of them is given.
    """
    for name, value in asked.items():
        if value is not None:
            raise InputError(f"--{name.replace('_', '-')} is not available yet in this version; leave it out")
