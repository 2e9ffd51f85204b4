"""What a path may be: local files that were asked for, and nothing they could point to elsewhere."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from changedet.errors import MissingInputError, UnreadableError, UnsafePathError

_VIRTUAL = re.compile(r"/vsi[a-z0-9_]*[/?]|^vsi", re.IGNORECASE)
_ADDRESS = re.compile(r"^[a-z][a-z0-9+.\-]+://", re.IGNORECASE)
_PREFIX = re.compile(
    r"^(GTIFF_DIR|GTIFF_RAW|NETCDF|HDF[45]|ZARR|SENTINEL2_L\w+|WMS|WCS|MEM|VRT|STACIT|STACTA):", re.IGNORECASE
)
_MAX_VRT_BYTES = 16 << 20
_MAX_VRT_DEPTH = 8


def refuse_virtual(text: str) -> None:
    """Refuse GDAL virtual paths, driver prefixes and network addresses.

    Raises
    ------
    UnsafePathError
        The text is not a plain local path.
    """
    if _VIRTUAL.search(text) or _ADDRESS.match(text) or _PREFIX.match(text) or text.lstrip().startswith("<"):
        raise UnsafePathError(
            f"{text[:200]!r} is not a local file; wanted a plain path (no /vsi… path, driver prefix or "
            "address); copy the file here, or ask for a catalog with --stac-search"
        )


def local_path(path: str | os.PathLike[str]) -> Path:
    """Return an input as a path that exists and may be opened.

    Raises
    ------
    UnsafePathError
        It is a virtual path or an address, or a VRT that points outside its folder.
    MissingInputError
        It does not exist.
    """
    text = os.fspath(path)
    refuse_virtual(text)
    found = Path(text)
    if not found.exists():
        raise MissingInputError(f"{text} does not exist; wanted a file or folder; check the path")
    if found.is_file() and _is_vrt(found):
        check_vrt(found)
    return found


def _is_vrt(path: Path) -> bool:
    """Return True where a file is a GDAL virtual raster, whatever its name says."""
    try:
        with path.open("rb") as file:
            return b"<VRTDataset" in file.read(2048)
    except OSError as error:
        raise UnreadableError(f"{path} cannot be read: {error}; check its permissions") from error


def check_vrt(path: Path, *, depth: int = 0) -> None:
    """Refuse a virtual raster that reads anything outside its own folder, or that runs code.

    Raises
    ------
    UnsafePathError
        A source is a virtual path, an address or outside the folder; or the file holds Python code.
    UnreadableError
        The file is not well-formed, or is far too large for a virtual raster.
    """
    root = _vrt_root(path)
    if depth > _MAX_VRT_DEPTH:
        raise UnsafePathError(f"{path} nests virtual rasters more than {_MAX_VRT_DEPTH} deep; give the files")
    for element in root.iter():
        tag = element.tag.rsplit("}", 1)[-1].lower()
        if tag in ("pixelfunctioncode", "pixelfunctionlanguage"):
            raise UnsafePathError(f"{path} holds code to run; wanted plain sources; give the files")
        if tag in ("sourcefilename", "sourcedataset", "maskfilename", "filename"):
            _check_source(path, (element.text or "").strip(), depth)
            for value in element.attrib.values():
                if _VIRTUAL.search(value) or _ADDRESS.match(value):
                    _check_source(path, value, depth)


def _vrt_root(path: Path) -> Any:
    """Parse a virtual raster; entities are refused before parsing."""
    if path.stat().st_size > _MAX_VRT_BYTES:
        raise UnreadableError(f"{path} is too large for a virtual raster; give the files themselves")
    text = path.read_bytes()
    if b"<!DOCTYPE" in text or b"<!ENTITY" in text:
        raise UnsafePathError(f"{path} defines XML entities; wanted a plain virtual raster")
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise UnreadableError(f"{path} is no well-formed virtual raster: {error}; make it again") from error


def _check_source(path: Path, source: str, depth: int) -> None:
    """Refuse one source that is not a plain file in the folder of the virtual raster."""
    folder = path.resolve().parent
    target = (folder / source).resolve()
    outside = _VIRTUAL.search(source) or _ADDRESS.match(source) or _PREFIX.match(source)
    if outside or source.lstrip().startswith("<") or not target.is_relative_to(folder):
        raise UnsafePathError(
            f"{path} points at {source[:200]!r}, outside its own folder {folder}; wanted sources beside it; "
            "give the files themselves"
        )
    if target.is_file() and _is_vrt(target):
        check_vrt(target, depth=depth + 1)
