"""How GDAL is used: few drivers, fixed settings, and its failures as errors of ours."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from changedet.errors import UnreadableError, VanishedInputError
from changedet.io.safety import local_path

DRIVERS = ("GTiff", "VRT", "ENVI", "JP2OpenJPEG", "PNG", "JPEG", "BMP")
"""Formats that are read, whatever else the GDAL build knows."""

_QUIET = threading.Lock()


def gdal_env() -> Any:
    """Return a context with the GDAL settings that every read and write of the package uses."""
    import rasterio

    return rasterio.Env(
        GDAL_DISABLE_READDIR_ON_OPEN="TRUE",
        GDAL_VRT_ENABLE_PYTHON="NO",
        GDAL_HTTP_TIMEOUT="1",
        CPL_VSIL_CURL_ALLOWED_EXTENSIONS="{noext}",
        GDAL_TIFF_INTERNAL_MASK="YES",
        GDAL_CACHEMAX=64 << 20,  # bytes: a row of tiles of one window, decoded once
    )


@contextmanager
def opened(path: str | os.PathLike[str], *, georeferenced: bool = False) -> Iterator[Any]:
    """Open a raster for reading; what goes wrong while it is open becomes an error of ours.

    Parameters
    ----------
    path : local file
    georeferenced : the file is known to have a transform, so no warning has to be silenced

    Raises
    ------
    MissingInputError, UnsafePathError
        The path is not there, or may not be opened.
    UnreadableError
        The file is not a raster of a known format, or its pixels cannot be decoded.
    VanishedInputError
        The file went away while it was read.
    """
    found = _file(path)
    with _failures(found), gdal_env(), _open(str(found), georeferenced) as dataset:
        yield dataset


def _file(path: str | os.PathLike[str]) -> Path:
    """Return a path that may be opened."""
    found = local_path(path)
    if found.is_dir():
        raise UnreadableError(f"{found} is a folder; wanted a raster file; give the files in it")
    return found


@contextmanager
def _failures(found: Path) -> Iterator[None]:
    """Turn what goes wrong while a file is read into an error of ours."""
    from rasterio.errors import RasterioError

    try:
        yield
    except (RasterioError, cpl_error()) as error:
        if not found.exists():
            raise VanishedInputError(
                f"{found} went away while it was read; put it back, run again"
            ) from error
        raise UnreadableError(
            f"{found} cannot be read: {first_line(error)}; wanted a complete raster ({', '.join(DRIVERS)}); "
            "copy or download it again"
        ) from error


class OpenFiles:
    """Rasters that stay open while many windows of them are read, each thread's own."""

    def __init__(self) -> None:
        self._own = threading.local()
        self._all: list[Any] = []

    @contextmanager
    def opened(self, path: str | os.PathLike[str], *, georeferenced: bool = False) -> Iterator[Any]:
        """Give a raster as :func:`opened` does, and leave it open."""
        datasets: dict[str, Any] = self._own.__dict__
        with gdal_env():
            if str(path) not in datasets:
                found = _file(path)
                with _failures(found):
                    datasets[str(path)] = _open(str(found), georeferenced)
                self._all.append(datasets[str(path)])
            with _failures(Path(path)):
                yield datasets[str(path)]

    def close(self) -> None:
        """Close all of them; no thread may be reading. What is read later is opened again."""
        self._own = threading.local()
        while self._all:
            self._all.pop().close()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warning that a plain picture has no georeference, around a call that is short.

    The lock keeps threads from restoring one another's warning filters.
    """
    from rasterio.errors import NotGeoreferencedWarning

    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def _open(path: str, georeferenced: bool) -> Any:
    """Open a dataset, without the warning that a plain picture has no georeference."""
    import rasterio

    with nullcontext() if georeferenced else quiet():
        return rasterio.DatasetReader(path, driver=list(DRIVERS))


def cpl_error() -> type[Exception]:
    """Return the root of GDAL's own errors."""
    from rasterio._err import CPLE_BaseError

    kind: type[Exception] = CPLE_BaseError
    return kind


def first_line(error: BaseException) -> str:
    """Return the first line of the deepest cause, which is where GDAL says what it met."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def refuse_truncated(dataset: Any) -> None:
    """Refuse a GeoTIFF whose last tile lies beyond the end of the file (without decoding anything)."""
    if dataset.driver != "GTiff":
        return
    size = Path(dataset.name).stat().st_size
    rows, columns = dataset.block_shapes[0]
    last = f"{(dataset.width - 1) // columns}_{(dataset.height - 1) // rows}"
    for index in {1, dataset.count}:
        start = dataset.get_tag_item(f"BLOCK_OFFSET_{last}", "TIFF", bidx=index)
        length = dataset.get_tag_item(f"BLOCK_SIZE_{last}", "TIFF", bidx=index)
        if start and length and int(start) + int(length) > size:
            raise UnreadableError(
                f"{dataset.name} is cut short: {size} bytes, but its pixels reach byte "
                f"{int(start) + int(length)}; wanted the whole file; copy or download it again"
            )
