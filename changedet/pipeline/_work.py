"""What every command's work needs: an output folder that is whole or untouched, a clock, a progress call."""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from changedet.errors import LockedError, OutputPathError, WriteError

Progress = Callable[[str, int, int], None]
"""``progress(stage, done, total)``: called as work goes on; whatever is slow reports to it."""

_LOCK = ".changedet.lock"
_STAGE = ".changedet-"


def quiet(stage: str, done: int, total: int) -> None:
    """Report to nobody."""


@contextmanager
def staged(
    out: Path, *, marker: str = "run.json", names: Collection[str] = (), overwrite: bool = False
) -> Iterator[Path]:
    """Give a folder to write results in; they are moved to ``out`` together when all are written.

    Parameters
    ----------
    out : folder of the results, made where it is missing
    marker : name of the file that says that a folder is finished; it is moved last
    names : names that may be written or, being ours, replaced
    overwrite : replace the results of an earlier run; other files stay as they are

    Yields
    ------
    Path
        An empty folder inside ``out``.

    Raises
    ------
    OutputPathError
        ``out`` is a file, or holds results already and ``overwrite`` is not given.
    LockedError
        Another run works in ``out``.
    WriteError
        The folder cannot be made or written in; ``out`` is as it was before.
    """
    check_folder(out, marker=marker, names=names, overwrite=overwrite)
    made = _make(out)
    try:
        with _lock(out):
            stage = out / f"{_STAGE}{uuid.uuid4().hex[:8]}"
            try:
                _attempt(stage.mkdir, out)
                yield stage
                _move(stage, out, marker, names)
            finally:
                shutil.rmtree(stage, ignore_errors=True)
    finally:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()  # only where nothing was put in


def check_folder(
    out: Path, *, marker: str = "run.json", names: Collection[str] = (), overwrite: bool = False
) -> None:
    """Refuse an output folder that cannot take results, before any work is done.

    Raises
    ------
    OutputPathError
        It is a file, lies below one, or holds results already and ``overwrite`` is not given.
    """
    for place in (out, *out.parents):
        if place.exists() and not place.is_dir():
            raise OutputPathError(
                f"{place} is a file; wanted a folder for the results; give another path with -o"
            )
    if overwrite or not out.is_dir():
        return
    if (out / marker).exists():
        raise OutputPathError(
            f"{out} holds the results of a finished run ({marker}); give another folder, or --overwrite"
        )
    there = sorted(n for n in names if (out / n).exists())
    if there:
        raise OutputPathError(f"{out} holds {', '.join(there)} already; give another folder, or --overwrite")


def _make(out: Path) -> list[Path]:
    """Make a folder with its parents; return those that were missing, deepest first."""
    missing = [p for p in (out, *out.parents) if not p.exists()]
    _attempt(lambda: out.mkdir(parents=True, exist_ok=True), out)
    return missing


def _attempt(action: Callable[[], object], out: Path) -> None:
    """Run a step on the file system; what the system refuses becomes a WriteError."""
    try:
        action()
    except OSError as error:
        raise WriteError(
            f"{out} cannot be written: {error.strerror or error}; wanted a folder with room and the right to "
            "write; free space or choose another folder"
        ) from error


@contextmanager
def _lock(out: Path) -> Iterator[None]:
    """Keep other runs out of a folder; the system gives the lock back whatever becomes of the process."""
    try:
        import fcntl
    except ImportError:  # a system without such locks: its own rules on open files must do
        yield
        return
    path = out / _LOCK
    handle = _opened(path, out)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise LockedError(
                f"another run is working in {out}; wait for it to end, or give another folder"
            ) from error
        try:
            for left in out.glob(f"{_STAGE}*"):  # by a run that was killed
                shutil.rmtree(left, ignore_errors=True)
            yield
        finally:
            with suppress(OSError):
                path.unlink()
    finally:
        os.close(handle)


def _opened(path: Path, out: Path) -> int:
    """Open the lock file."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise WriteError(
            f"{out} cannot be written: {error.strerror}; choose a folder you may write in"
        ) from error


def _move(stage: Path, out: Path, marker: str, names: Collection[str]) -> None:
    """Move what was written to its place, the marker last; drop what only an earlier run wrote."""
    written = sorted(stage.iterdir(), key=lambda p: (p.name == marker, p.name))
    stale = set(names).intersection(_files_of(out / marker)) - {p.name for p in written}
    with suppress(FileNotFoundError):
        (out / marker).unlink()
    for name in stale:
        with suppress(OSError):
            (out / name).unlink()
    for path in written:
        _attempt(functools.partial(os.replace, path, out / path.name), out)


def _files_of(marker: Path) -> list[str]:
    """Return the plain names that an earlier run's record lists as its files."""
    try:
        return [str(name) for name in json.loads(marker.read_text(encoding="utf-8"))["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


class Clock:
    """Wall time by stage, s: ``with clock("read"): …``."""

    def __init__(self) -> None:
        self.timings: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Measure one stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.timings[stage] = round(self.timings.get(stage, 0.0) + spent, 4)


def peak_memory_mb() -> float | None:
    """Return the largest resident set of this process so far, MB; None where the system does not say."""
    with suppress(OSError, StopIteration, ValueError):  # Linux; what follows counts the parent's memory too
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        peak_kb = next(line.split()[1] for line in lines if line.startswith("VmHWM:"))
        return round(int(peak_kb) / 2**10, 1)
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def grid_record(grid: Any) -> dict[str, Any]:
    """Return a grid as ``run.json`` holds it."""
    return {
        "crs": grid.crs,
        "transform": [float(v) for v in grid.transform[:6]],
        "shape": list(grid.shape),
        "gsd_m": grid.gsd_m,
    }
