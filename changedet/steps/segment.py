"""Objects: connected pixels above a level, large enough, as labels and as a table of measured outlines.

The minimum mapping unit comes before the vectors: noise is counted as pixels and dropped, and only what is
left is outlined. Labels are numbered in raster order of first pixels, so they do not depend on chunks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from changedet.blocks import chunked_like, label, read_stream, renumber
from changedet.errors import InputError, SettingError
from changedet.grid import Grid, Window
from changedet.steps._measure import measure_polygons
from changedet.steps._outline import outlines

if TYPE_CHECKING:
    import geopandas as gpd

__all__ = ["measure_polygons", "segment"]

Array = npt.NDArray[Any]

WHOLE_PX = 1 << 25
"""Larger images are labelled strip by strip: a mask of all of it would not fit beside it and its labels."""

STRIP_PX = 512
"""Rows of such a strip that are compared with a level at one time."""

_ROUNDING = 1 - 1e-9  # an area that equals the limit but for rounding is large enough


def segment(
    image: xr.DataArray,
    *,
    low: float,
    high: float | None = None,
    min_area_m2: float,
    connectivity: int = 8,
    fill_holes_m2: float = 0.0,
) -> tuple[xr.DataArray, gpd.GeoDataFrame]:
    """Outline the connected parts of an image above a level.

    An outline needs the whole image, so this computes where the image is lazy; the labels are then returned
    in its chunks.

    Parameters
    ----------
    image : (y, x), NaN = invalid (belongs to no object); the absolute value is used where the attribute
        ``signed`` is true
    low : pixels above it belong to an object
    high : an object needs a pixel above it (hysteresis); None means that any pixel will do
    min_area_m2 : minimum mapping unit; smaller objects are dropped before outlines are drawn
    connectivity : 4 (sides) or 8 (sides and corners; a one-pixel diagonal is one object)
    fill_holes_m2 : enclosed holes up to this area are filled first, invalid pixels excepted

    Returns
    -------
    labels : (y, x) uint32 DataArray, 0 = none, numbered in raster order of first pixels
    objects : GeoDataFrame in the image's own CRS (or without one), a row a label: ``label``, ``pixels``,
        ``area_m2``, ``length_m``, ``width_m``, ``bearing_deg``, ``mean`` and ``max`` of the image in the
        object, ``geometry``

    Raises
    ------
    InputError
        The image is not ``(y, x)``.
    SettingError
        A level, an area or the connectivity cannot be used.
    """
    _check(image, low, high, min_area_m2, fill_holes_m2)
    grid = Grid.of(image)
    flat = image.transpose("y", "x").compute()
    signed = bool(image.attrs.get("signed"))
    mask = _above(flat, low, signed)
    if fill_holes_m2 > 0:
        holes = _small_holes(mask, grid, fill_holes_m2, 12 - connectivity)
        mask = mask | (holes & np.isfinite(flat))
    found, number = label(mask, connectivity, seeds=None if high is None else _above(flat, high, signed))
    del mask
    labels, at = _large_enough(found.values, number, grid, min_area_m2)
    inside = flat.values.ravel()[at].astype(np.float64)
    objects = _table(labels, at, np.abs(inside) if signed else inside, grid)
    result = flat.copy(data=labels.view(np.uint32)).rename("labels")
    result.attrs = {}
    return chunked_like(result, image), objects


def _above(image: xr.DataArray, level: float, signed: bool) -> xr.DataArray:
    """Return where finite values, or their absolute values, are above a level; a stream where many."""

    def make(window: Window) -> Array:
        part = image.values[window]
        part = np.abs(part) if signed else part
        return np.asarray((part > level) & (part < np.inf))

    if image.size > WHOLE_PX:
        tile = (STRIP_PX, image.sizes["x"])
        return image.copy(data=read_stream(make, image.shape, dtype=bool, tile=tile))
    return image.copy(data=make((slice(None), slice(None))))


def _check(image: xr.DataArray, low: float, high: float | None, *areas_m2: float) -> None:
    """Refuse what cannot be segmented."""
    if set(image.dims) != {"y", "x"}:
        raise InputError(f"image has dimensions {image.dims}; wanted (y, x); select one band or date first")
    if np.isnan(low) or (high is not None and not high >= low):
        raise SettingError(f"low={low}, high={high}; wanted two numbers, the lower level first")
    if not all(area >= 0 for area in areas_m2):
        raise SettingError(f"areas of {areas_m2} m²; wanted 0 or more")


def _areas(at: Array, ids: Array, number: int, grid: Grid) -> Array:
    """Return the area in m² of every label from 0 on (0 for the background, which is not looked at)."""
    row_areas = grid.pixel_areas_m2()
    if not grid.geographic:
        return np.asarray(np.bincount(ids, minlength=number + 1) * row_areas[0])
    return np.bincount(ids, weights=row_areas[at // grid.shape[1]], minlength=number + 1)


def _large_enough(labels: Array, number: int, grid: Grid, min_area_m2: float) -> tuple[Array, Array]:
    """Drop small labels, in place; return the labels and the flat positions of what is left."""
    at = np.flatnonzero(labels)
    areas = _areas(at, labels.ravel()[at], number, grid)
    keep = areas >= min_area_m2 * _ROUNDING
    keep[0] = False
    if keep[1:].all():
        return labels, at
    labels, _ = renumber(labels, keep)
    return labels, at[labels.ravel()[at] > 0]


def _small_holes(mask: xr.DataArray, grid: Grid, max_area_m2: float, connectivity: int) -> xr.DataArray:
    """Mark the holes up to an area: parts of the background that do not reach the image's edge."""
    found, number = label(~mask, connectivity)
    labels = found.values
    at = np.flatnonzero(labels)
    fill = _areas(at, labels.ravel()[at], number, grid) <= max_area_m2 / _ROUNDING
    for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        fill[side] = False
    fill[0] = False
    return found.copy(data=fill[labels])


def _table(labels: Array, at: Array, inside: Array, grid: Grid) -> gpd.GeoDataFrame:
    """Outline and measure the objects; ``inside`` are the values at the flat positions ``at``."""
    import geopandas as gpd

    shapes = outlines(labels, at, grid.transform)
    ids = labels.ravel()[at]
    number = len(shapes)
    pixels = np.bincount(ids, minlength=number + 1)[1:]
    largest = np.full(number + 1, -np.inf)
    np.maximum.at(largest, ids, inside)
    geometry = gpd.GeoSeries(shapes, crs=grid.crs)
    measured = measure_polygons(geometry, grid.crs)
    columns = {
        "label": np.arange(1, number + 1),
        "pixels": pixels,
        **{str(name): measured[name].to_numpy() for name in measured},
        "mean": np.bincount(ids, weights=inside, minlength=number + 1)[1:] / pixels,
        "max": largest[1:],
    }
    return gpd.GeoDataFrame(columns, geometry=geometry)
