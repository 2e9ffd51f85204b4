"""What commands say, where they say it, and how they fail.

Results for people go to stdout; with ``--json`` stdout holds one line for machines and people's text goes to
stderr. Errors are one line on stderr and the contract's exit status; a traceback is shown with ``-vv`` only.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from changedet.errors import ChangedetError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PIPE_WIDTH = 220
"""Columns of tables that do not go to a terminal."""

INTERRUPTED = 130


@dataclass(frozen=True)
class Talk:
    """How this invocation talks.

    Parameters
    ----------
    quiet : errors and asked-for results only
    verbose : 1 = stages, 2 = tracebacks
    json : stdout is for machines
    args : what the command line was
    """

    quiet: bool = False
    verbose: int = 0
    json: bool = False
    args: tuple[str, ...] = ()


_TALK: ContextVar[Talk] = ContextVar("talk", default=Talk())  # noqa: B039  the record is frozen


def talk() -> Talk:
    """Return how this invocation talks."""
    return _TALK.get()


def change_talk(**changes: Any) -> None:
    """Set how this invocation talks."""
    _TALK.set(replace(_TALK.get(), **changes))


def command_line() -> str:
    """Return the command line, for ``run.json``."""
    return shlex.join(["changedet", *talk().args])


# ------------------------------------------------------------------------------------------------ saying


def console(*, error: bool = False) -> Console:
    """Return a rich console on stdout or stderr that takes all text literally."""
    from rich.console import Console

    file = sys.stderr if error else sys.stdout
    width = None if file.isatty() else PIPE_WIDTH
    return Console(file=file, width=width, markup=False, highlight=False, emoji=False)


def say(*what: RenderableType) -> None:
    """Tell people: on stdout, or on stderr where stdout is for machines."""
    if not talk().quiet:
        place = console(error=talk().json)
        for one in what:
            place.print(one)


def warn(lines: Iterable[str]) -> None:
    """Tell people what to know before they trust the result, on stderr."""
    for line in lines:
        if not talk().quiet:
            print(f"warning: {one_line(line)}", file=sys.stderr)


def emit(value: Any) -> None:
    """Write one machine-readable line on stdout, where it was asked for."""
    if talk().json:
        from changedet.io.files import strict

        narrow = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
        print(json.dumps(strict(value), ensure_ascii=narrow, allow_nan=False))


def one_line(text: str) -> str:
    """Return text without line ends and control characters."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))


def table(columns: Iterable[str], rows: Iterable[Iterable[object]], *, title: str | None = None) -> Any:
    """Return a table; None is an empty cell."""
    from rich import box
    from rich.table import Table

    drawn = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for name in columns:
        drawn.add_column(name, overflow="fold")
    for row in rows:
        drawn.add_row(*(cell(value) for value in row))
    return drawn


def cell(value: object) -> str:
    """Return a value as a table shows it; unknown ones are empty."""
    if value is None or value != value:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return one_line(str(value))


@contextmanager
def bars() -> Iterator[Callable[[str, int, int], None]]:
    """Give a progress call that draws on stderr: bars on a terminal, lines with ``-v``, else nothing."""
    if talk().quiet or not sys.stderr.isatty():
        yield _lines() if talk().verbose else _nothing
        return
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description:<12}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeRemainingColumn(), console=console(error=True), transient=True) as drawn:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = drawn.add_task(stage, total=total)
            drawn.update(tasks[stage], completed=done, total=total)

        yield report


def _nothing(stage: str, done: int, total: int) -> None:
    """Draw nothing."""


def _lines() -> Callable[[str, int, int], None]:
    """Return a progress call that writes one line as each stage begins."""
    seen: set[str] = set()

    def report(stage: str, done: int, total: int) -> None:
        if stage not in seen:
            seen.add(stage)
            print(f"{stage} …", file=sys.stderr)

    return report


# ------------------------------------------------------------------------------------------------ failing


class Door(TyperGroup):
    """The group of all commands; turns what goes wrong into one line and an exit status."""

    def main(self, args: Any = None, **extra: Any) -> Any:  # type: ignore[override]
        """Run a command line and leave with its status."""
        leave = extra.pop("standalone_mode", True)
        given = list(sys.argv[1:] if args is None else args)
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, ValueError):  # what a terminal cannot show must not stop the work
                stream.reconfigure(errors="replace")  # type: ignore[union-attr]
        _TALK.set(Talk(args=tuple(given)))
        try:
            found = super().main(given, standalone_mode=False, **extra)
            status = found if isinstance(found, int) else 0
            sys.stdout.flush()
        except BaseException as error:
            status = failed(error)
        if status == INTERRUPTED:
            _complain("interrupted; the same command starts again, or resumes where it can")
        if leave:
            sys.exit(status)
        return status


def failed(error: BaseException) -> int:
    """Say what went wrong in one line and return the exit status."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    status, words = _diagnosis(error)
    _complain(words)
    if talk().verbose >= 2:
        traceback.print_exception(error, file=sys.stderr)
    return status


def _diagnosis(error: BaseException) -> tuple[int, str]:
    """Return the exit status of an error and what to say of it."""
    if isinstance(error, ChangedetError):
        return error.exit_status, str(error)
    usage = getattr(error, "format_message", None)  # of click, wherever typer takes it from
    if usage is not None:
        context = getattr(error, "ctx", None)
        hint = f" See `{context.command_path} --help`." if context is not None else ""
        return 2, f"{usage()}{hint}"
    if isinstance(error, MemoryError):
        return 1, "out of memory; give less: a smaller area, fewer scenes, or --memory"
    if isinstance(error, OSError):
        return 1, f"{error}; check the path, free space and permissions"
    return (
        1,
        f"{type(error).__name__}: {error}; this is a fault of changedet: report it with the output of -vv",
    )


def _complain(text: str) -> None:
    """Write one line on stderr."""
    print(f"changedet: {one_line(text)}", file=sys.stderr)
