"""Cloud-optimised GeoTIFFs, written whole or window by window."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from changedet.errors import InputError, UnreadableError, WriteError
from changedet.grid import Grid, Window
from changedet.io import _overviews
from changedet.io._gdal import cpl_error, first_line, gdal_env, opened, quiet, refuse_truncated
from changedet.io.files import STAGE, atomic

if TYPE_CHECKING:
    import xarray as xr

Compress = Literal["none", "deflate", "zstd"]

FLOAT_LEVELS = {"deflate": 1, "zstd": 3}
"""Levels for measured numbers: their last digits are noise, and GDAL's own levels take twice and three times
as long for a hundredth of the size."""


def write_cog(
    path: str | os.PathLike[str],
    image: xr.DataArray,
    *,
    compress: Compress = "deflate",
    nodata: float | None = None,
    category_names: Mapping[int, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> Path:
    """Write a Cloud-optimised GeoTIFF, atomically.

    Parameters
    ----------
    path : file to write
    image : (y, x) or (band, y, x), float32, uint8, uint16, uint32, int16 or int32 (float64 and bool are cast
        to float32 and uint8); its CRS may be missing. Band names come from the ``band`` coordinate, else from
        the array's name. A lazy image is computed in strips, each chunk once
    compress : ``none``, ``deflate`` or ``zstd``
    nodata : value that means no data (NaN for floats if None)
    category_names : value → word, kept as tags ``CATEGORY_<value>``; overviews then take the nearest pixel
    tags : further tags of the file

    Raises
    ------
    WriteError
        Writing failed; nothing is left behind under the final name.
    InputError
        The dtype or the dimensions cannot be written.
    """
    bands = _as_bands(image)
    profile = Profile(
        bands.dtype.name, _band_names(bands), compress, nodata, category_names or {}, tags or {}
    )
    with cog_writer(path, Grid.of(image), profile) as put:
        for rows in _strips(bands):
            put((rows, slice(0, bands.shape[2])), bands.isel(y=rows).compute().values)
    return Path(path)


@dataclass(frozen=True)
class Profile:
    """How a raster is written.

    Parameters
    ----------
    dtype : ``float32``, ``uint8``, ``uint16``, ``uint32``, ``int16`` or ``int32``
    bands : descriptions, one a band
    compress : ``none``, ``deflate`` or ``zstd``
    nodata : value that means no data (NaN for floats if None)
    category_names : value → word; overviews then take the nearest pixel
    tags : further tags of the file
    """

    dtype: str
    bands: tuple[str, ...] = ("",)
    compress: Compress = "deflate"
    nodata: float | None = None
    category_names: Mapping[int, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def smooth(self) -> bool:
        """True where overviews may average."""
        return self.dtype.startswith("float") and not self.category_names


@contextmanager
def cog_writer(
    path: str | os.PathLike[str], grid: Grid, profile: Profile
) -> Iterator[Callable[[Window, npt.NDArray[Any]], None]]:
    """Write a Cloud-optimised GeoTIFF window by window, atomically.

    Parameters
    ----------
    path : file to write
    grid : grid of the whole raster; its CRS may be missing
    profile : dtype, bands, compression, nodata, words

    Yields
    ------
    function ``put(window, values)`` with values ``(y, x)`` or ``(band, y, x)``; what is never put is nodata

    Raises
    ------
    WriteError
        Writing failed; nothing is left behind under the final name.
    """
    from rasterio.errors import RasterioError
    from rasterio.shutil import copy

    options = _cog_options(profile)
    with atomic(path) as part:
        stage = part.with_name(part.name + STAGE)
        try:
            with gdal_env():
                with _stage(stage, grid, profile) as dataset:
                    yield partial(_put, dataset)
                with quiet():
                    _overviews.build(stage, _stage_options(grid, profile), smooth=profile.smooth)
                    copy(str(stage), str(part), driver="COG", **options)
            _require_whole(part)
        except (RasterioError, cpl_error()) as error:
            raise WriteError(
                f"{path} could not be written: {first_line(error)}; free space or choose another folder"
            ) from error


def _stage_options(grid: Grid, profile: Profile) -> dict[str, Any]:
    """Return how the plain file is made that windows are put into before it becomes a COG."""
    floats = profile.dtype.startswith("float")
    options = {
        "driver": "GTiff",
        "width": grid.shape[1],
        "height": grid.shape[0],
        "count": len(profile.bands),
        "dtype": profile.dtype,
        "crs": grid.crs,
        "nodata": np.nan if profile.nodata is None and floats else profile.nodata,
        "tiled": True,
        "blockxsize": 512,
        "blockysize": 512,
        "interleave": "band",
        "bigtiff": "IF_SAFER",
        "sparse_ok": True,
    }
    if grid.georeferenced or not grid.transform.is_identity:
        options["transform"] = grid.transform
    return options


def _stage(stage: Path, grid: Grid, profile: Profile) -> Any:
    """Open the plain file."""
    import rasterio

    with quiet():
        dataset = rasterio.open(stage, "w", **_stage_options(grid, profile))
    for i, name in enumerate(profile.bands, 1):
        dataset.set_band_description(i, name)
    dataset.update_tags(**{f"CATEGORY_{k}": v for k, v in profile.category_names.items()}, **profile.tags)
    return dataset


def _put(dataset: Any, window: Window, values: npt.NDArray[Any]) -> None:
    """Write one window."""
    from rasterio.windows import Window as RasterioWindow

    dataset.write(values if values.ndim == 3 else values[None], window=RasterioWindow.from_slices(*window))


def _require_whole(part: Path) -> None:
    """Read the finished file's header back: a full disk is not always reported while writing."""
    try:
        with opened(part) as dataset:
            refuse_truncated(dataset)
    except UnreadableError as error:
        raise WriteError(f"{part.parent}: the raster did not reach the disk whole; free space") from error


def _as_bands(image: xr.DataArray) -> xr.DataArray:
    """Return an image as (band, y, x) in a dtype that the format holds."""
    if image.ndim not in (2, 3) or image.dims[-2:] != ("y", "x"):
        raise InputError(f"image has dimensions {image.dims}; wanted (y, x) or (band, y, x)")
    if image.dtype == np.float64:
        image = image.astype(np.float32)
    if image.dtype == bool:
        image = image.astype(np.uint8)
    if image.dtype.name not in ("float32", "uint8", "uint16", "uint32", "int16", "int32"):
        raise InputError(f"image is {image.dtype}; wanted float32, uint8, uint16 or uint32; cast it first")
    return image if image.ndim == 3 else image.expand_dims("band")


def _cog_options(profile: Profile) -> dict[str, Any]:
    """Return creation options of the COG driver."""
    if profile.compress not in ("none", "deflate", "zstd"):
        raise InputError(f"unknown compression {profile.compress!r}; wanted none, deflate or zstd")
    options = {
        "compress": profile.compress.upper(),
        "overview_resampling": "AVERAGE" if profile.smooth else "NEAREST",
        "bigtiff": "IF_SAFER",
    }
    if profile.compress == "none":
        return options
    level = {"level": FLOAT_LEVELS[profile.compress]} if profile.smooth else {}
    return {**options, "predictor": "YES", **level}


def _band_names(bands: xr.DataArray) -> tuple[str, ...]:
    """Return descriptions of the bands."""
    if "band" in bands.coords:
        return tuple(str(b) for b in np.atleast_1d(bands["band"].values))
    return ("" if bands.name is None else str(bands.name),) * bands.shape[0]


def _strips(bands: xr.DataArray, *, rows_px: int = 1024) -> Iterator[slice]:
    """Yield strips of rows of about a height, cut where the chunks of a lazy image are cut."""
    height = bands.shape[1]
    chunks = bands.chunks[1] if bands.chunks is not None else (rows_px,) * -(-height // rows_px)
    start = stop = 0
    for rows in chunks:
        stop = min(stop + rows, height)
        if stop - start >= rows_px or stop == height:
            yield slice(start, stop)
            start = stop
