"""Files as wholes: atomic writing, checksums, text and JSON.

Every writer of the package goes through :func:`atomic`: the content is made under a temporary name in the
same folder, flushed to the disk and renamed: a name holds the whole new content or what it held before.
"""

from __future__ import annotations

import glob
import hashlib
import json
import math
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from changedet.errors import ChangedetError, MissingInputError, OutputPathError, UnreadableError, WriteError

STAGE = ".stage"
"""Ending of a plain raster that is written before its final form."""


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name to write to; on success rename it to ``path``, else leave nothing behind.

    Parameters
    ----------
    path : final name; its folder is made where it is missing

    Yields
    ------
    Path
        Name in the same folder, with the same ending, that does not exist yet.

    Raises
    ------
    OutputPathError
        ``path`` is a folder, or its parent is a file.
    WriteError
        Writing failed (disk full, read-only, quota); ``path`` is as it was before.
    """
    final = Path(path)
    _make_parent(final)
    part = final.with_name(f".{final.stem}.{uuid.uuid4().hex[:12]}.part{final.suffix}")
    try:
        yield part
        _flush(part)
        os.replace(part, final)
        _flush(final.parent)
    except ChangedetError:
        raise
    except Exception as error:
        if not isinstance(error, OSError) and not type(error).__module__.startswith(_GDAL_MODULES):
            raise
        raise WriteError(
            f"{final} could not be written: {error}; wanted room and the right to write in {final.parent}; "
            "free space or choose another output folder"
        ) from error
    finally:
        # GDAL and SQLite add endings to the name of a file they write: overviews, statistics, journals
        for leftover in part.parent.glob(f"{glob.escape(part.name)}*"):
            with suppress(OSError):
                leftover.unlink()


_GDAL_MODULES = ("rasterio", "pyogrio", "sqlite3")


def _make_parent(final: Path) -> None:
    """Make the folder of a file, with an error in words where that cannot be."""
    if final.is_dir():
        raise OutputPathError(f"{final} is a folder; wanted the name of a file; give another name")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise OutputPathError(
            f"{final.parent} is not a folder; wanted a folder for {final.name}; give another output path"
        ) from error
    except OSError as error:
        raise WriteError(f"{final.parent} could not be made: {error}; choose another folder") from error


def _flush(path: Path) -> None:
    """Make the system write a file or a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file as hexadecimal text.

    Raises
    ------
    MissingInputError, UnreadableError
        The file is not there, or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise MissingInputError(f"{os.fspath(path)} does not exist; wanted a file to check") from error
    except OSError as error:
        raise UnreadableError(f"{os.fspath(path)} cannot be read: {error}; check its permissions") from error


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write UTF-8 text (line ends as they are), atomically.

    Raises
    ------
    WriteError
        Writing failed; nothing is left behind.
    """
    with atomic(path) as part:
        part.write_bytes(text.encode("utf-8"))
    return Path(path)


def write_json(path: str | os.PathLike[str], value: Any, *, indent: int | None = 2) -> Path:
    """Write strict JSON (NaN and infinities become null), atomically.

    Raises
    ------
    WriteError
        Writing failed; nothing is left behind.
    """
    text = json.dumps(strict(value), indent=indent, ensure_ascii=False, allow_nan=False)
    return write_text(path, text + "\n")


def strict(value: Any) -> Any:
    """Turn a value into what strict JSON can hold.

    NumPy scalars and arrays become Python numbers and lists, dates ISO 8601 text, NaN and infinities null.

    >>> strict({"a": float("nan"), "b": (1, 2)})
    {'a': None, 'b': [1, 2]}
    """
    if isinstance(value, dict):
        return {str(k): strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [strict(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if hasattr(value, "isoformat") or type(value).__name__ == "datetime64":
        text = value.isoformat() if hasattr(value, "isoformat") else str(value)
        return None if text == "NaT" else text
    if hasattr(value, "tolist"):
        return strict(value.tolist())
    return str(value)
