"""Everything changedet raises on purpose.

Each class is a :class:`ChangedetError` and the built-in exception that fits, so that ``except OSError`` and
``except ValueError`` keep working. A message names what was seen, what was wanted and what to do next.
``exit_status`` is what the command line returns: 2 where the request was wrong, 1 where the work failed.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ChangedetError(Exception):
    """Root of every deliberate failure."""

    exit_status = 2


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest known name, or an empty string."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


class UnknownMethodError(ChangedetError, LookupError):
    """A step has no method of that name."""

    def __init__(self, step: str, name: str, known: Iterable[str]) -> None:
        self.step, self.name, self.known = step, name, sorted(known)
        super().__init__(
            f"{step}: no method {name!r}{nearest(name, self.known)} Known: {', '.join(self.known)}"
        )


class SettingError(ChangedetError, ValueError):
    """A setting is unknown, or its value cannot be used."""


class UnknownSettingError(SettingError, LookupError):
    """A plan or ``--set`` names a setting that does not exist."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name, self.known = name, sorted(known)
        super().__init__(f"unknown setting {name!r}{nearest(name, self.known)} See `changedet run --help`.")


class InputError(ChangedetError, ValueError):
    """What was given cannot be used for this request."""


class MissingInputError(InputError, FileNotFoundError):
    """An input does not exist."""


class UnreadableError(ChangedetError, OSError):
    """A file exists but cannot be read as what it claims to be."""


class UnsafePathError(InputError, PermissionError):
    """A file points outside what was asked for (VRT source, GDAL virtual path, address)."""


class GridError(InputError):
    """Two rasters are not on the same grid, or a grid cannot be used."""


class CRSError(GridError):
    """Coordinate reference systems differ or are missing."""


class BandError(InputError, LookupError):
    """A band that is needed is not there, or band names clash."""


class DateError(InputError):
    """A scene has no date, or dates clash."""


class TooFewScenesError(InputError):
    """Fewer usable scenes than the request needs."""


class AOIError(InputError):
    """The area of interest is empty, invalid or outside the scenes."""


class SiteError(InputError, LookupError):
    """A site dossier is unknown or malformed."""


class DegenerateError(ChangedetError, ArithmeticError):
    """The numbers do not determine an answer (constant, too few, singular)."""


class OutputPathError(InputError, FileExistsError):
    """The output path cannot take the results (it is a file, or holds a finished run)."""


class WorkError(ChangedetError, RuntimeError):
    """The work failed on the way; nothing half-written stays under a final name."""

    exit_status = 1


class WriteError(WorkError, OSError):
    """An output could not be written (disk full, read-only, quota)."""


class VanishedInputError(WorkError, FileNotFoundError):
    """An input that was there when the work began is gone or can no longer be read."""


class LockedError(WorkError, BlockingIOError):
    """Another run is working in the same output folder."""


class ControlFailedError(WorkError):
    """A control target that must not change did change, and ``--strict`` was asked for."""
