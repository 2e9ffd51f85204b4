"""Single rasters: headers, windows of pixels, and Cloud-optimised GeoTIFFs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from changedet.errors import (
    CRSError,
    GridError,
    InputError,
    MissingInputError,
    UnreadableError,
    VanishedInputError,
)
from changedet.grid import Grid, Window
from changedet.io._cog import Compress, Profile, cog_writer, write_cog
from changedet.io._gdal import DRIVERS, OpenFiles, gdal_env, opened, refuse_truncated
from changedet.io.files import atomic

__all__ = [
    "DRIVERS",
    "Compress",
    "Header",
    "OpenFiles",
    "Profile",
    "atomic",
    "cog_writer",
    "gdal_env",
    "opened",
    "read_header",
    "read_window",
    "write_cog",
]


@dataclass(frozen=True)
class Header:
    """What a raster file says of itself, pixels aside.

    Parameters
    ----------
    path, driver : file and format
    grid : CRS, transform, shape
    dtypes, nodata, names, scales, offsets, roles, wavelengths_um : along the bands
    tags : tags of the file (upper-case keys)
    masked : has a mask or an alpha band of its own
    block : (rows, columns) of its tiles or strips
    """

    path: str
    driver: str
    grid: Grid
    dtypes: tuple[str, ...]
    nodata: tuple[float | None, ...]
    names: tuple[str, ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    roles: tuple[str, ...]
    wavelengths_um: tuple[float | None, ...]
    tags: dict[str, str]
    masked: bool
    block: tuple[int, int]

    @property
    def count(self) -> int:
        """Number of bands."""
        return len(self.dtypes)


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read the header of a raster and refuse what cannot be an image.

    Raises
    ------
    UnreadableError
        Not a raster, truncated, or without bands.
    InputError
        Complex numbers or a color table.
    GridError, CRSError
        Ground control points only, or a CRS without a transform.
    """
    with opened(path) as dataset:
        _refuse_odd(dataset)
        refuse_truncated(dataset)
        tags = {**dataset.tags(ns="IMAGERY"), **dataset.tags()}
        band_tags = [dataset.tags(i) for i in dataset.indexes]
        flags = [f.name for per_band in dataset.mask_flag_enums for f in per_band]
        return Header(
            path=str(path),
            driver=dataset.driver,
            grid=_grid_of(dataset),
            dtypes=tuple(dataset.dtypes),
            nodata=tuple(dataset.nodatavals),
            names=tuple(d or "" for d in dataset.descriptions),
            scales=tuple(map(float, dataset.scales)),
            offsets=tuple(map(float, dataset.offsets)),
            roles=tuple(c.name for c in dataset.colorinterp),
            wavelengths_um=tuple(_wavelength(t) for t in band_tags),
            tags={k.upper(): v for k, v in tags.items()},
            masked="per_dataset" in flags or "alpha" in flags,
            block=(int(dataset.block_shapes[0][0]), int(dataset.block_shapes[0][1])),
        )


def _grid_of(dataset: Any) -> Grid:
    """Return the grid of a dataset; half a reference is refused."""
    from affine import Affine

    plain = dataset.transform == Affine.identity()
    if plain and (dataset.gcps[0] or dataset.rpcs):
        raise GridError(
            f"{dataset.name} has ground control points or RPCs but no map grid; wanted a geocoded raster; "
            "geocode it first (gdalwarp, SNAP, or an RTC product)"
        )
    if plain and dataset.crs:
        raise CRSError(f"{dataset.name} names a CRS but no transform; wanted both; georeference it again")
    code = dataset.crs.to_epsg() if dataset.crs else None
    return Grid.make(f"EPSG:{code}" if code else dataset.crs or None, dataset.transform, dataset.shape)


def _refuse_odd(dataset: Any) -> None:
    """Refuse rasters whose numbers are not measurements."""
    if dataset.count == 0:
        raise UnreadableError(f"{dataset.name} has no bands of its own; give the subdatasets as files")
    if any("complex" in d for d in dataset.dtypes):
        raise InputError(
            f"{dataset.name} holds complex numbers; wanted intensities (power); detect the amplitude first"
        )
    if any(c.name == "palette" for c in dataset.colorinterp) and not _gray_ramp(dataset):
        raise InputError(
            f"{dataset.name} holds a color table, so its numbers are codes; wanted measured values; "
            "give the original raster"
        )


def _gray_ramp(dataset: Any) -> bool:
    """Return True where the color table only says that n is gray level n (as 8-bit BMP pictures do)."""
    table = dataset.colormap(1)
    return all(color[:3] == (value,) * 3 for value, color in table.items())


def _wavelength(tags: dict[str, str]) -> float | None:
    """Return a band's center wavelength in micrometres where its tags give one."""
    lower = {k.lower(): v for k, v in tags.items()}
    try:
        value = float(lower["wavelength"])
    except (KeyError, ValueError):
        return None
    unit = lower.get("wavelength_units", "").lower()
    return value / 1000 if unit.startswith("nano") or value > 100 else value


@contextmanager
def _still_there(path: str) -> Iterator[None]:
    """Turn "missing" into "went away": a layer was there when its scene was recognised."""
    try:
        yield
    except MissingInputError as error:
        raise VanishedInputError(
            f"{path} was there when the work began and is gone; put it back and run again"
        ) from error


def read_window(
    layer: Any,
    window: Window | None = None,
    *,
    indexes: tuple[int, ...] | None = None,
    out_shape: tuple[int, int] | None = None,
    files: OpenFiles | None = None,
) -> npt.NDArray[Any]:
    """Read stored values of a window.

    Parameters
    ----------
    layer : Layer or Mask (``path`` and ``indexes``)
    window : (rows, columns) slices; None reads everything
    indexes : 1-based band indexes, those of the layer if None; index 0 is the file's own mask
    out_shape : (rows, columns) of a decimated read (nearest pixel)
    files : files to leave open for the next window; None opens and closes the file

    Returns
    -------
    (band, y, x) array in the dtype as stored

    Raises
    ------
    UnreadableError, VanishedInputError
        The pixels cannot be read.
    """
    from rasterio.windows import Window as RasterioWindow

    wanted = layer.indexes if indexes is None else indexes
    known = layer.grid is not None and layer.grid.georeferenced
    opening = opened if files is None else files.opened
    with _still_there(layer.path), opening(layer.path, georeferenced=known) as dataset:
        part = None if window is None else RasterioWindow.from_slices(*window)
        if tuple(wanted) == (0,):
            return np.asarray(dataset.dataset_mask(window=part, out_shape=out_shape))[None]
        shape = None if out_shape is None else (len(wanted), *out_shape)
        return np.asarray(dataset.read(list(wanted), window=part, out_shape=shape))
