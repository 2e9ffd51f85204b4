"""Measures of polygons in metres, shared by the steps that hold tables of objects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from changedet.grid import areas_m2

if TYPE_CHECKING:
    import pandas as pd
    from shapely.geometry.base import BaseGeometry

Array = npt.NDArray[Any]

_WGS84_A, _WGS84_E2 = 6_378_137.0, 0.006_694_379_990_14  # semi-major axis in m, squared eccentricity
_PAIRS_AT_A_TIME = 1_000_000
_NORTHWARD_DEG = 1e-4  # a step of about 10 m: far above rounding, far below the bend of a meridian


def measure_polygons(geometries: Iterable[BaseGeometry], crs: Any) -> pd.DataFrame:
    """Area, and length, width and bearing of the smallest rotated rectangle, of each polygon.

    Parameters
    ----------
    geometries : (multi)polygons in ``crs``
    crs : anything that pyproj reads, or None: measures are then in pixels, and there is no bearing

    Returns
    -------
    DataFrame, one row a polygon: ``area_m2`` (geodesic in degrees), ``length_m`` ≥ ``width_m``, and
    ``bearing_deg`` of the longer side, 0 ≤ bearing < 180 clockwise from true north (the smaller one for a
    square); NaN for an empty polygon
    """
    import geopandas as gpd
    import pandas as pd

    shapes = geometries if isinstance(geometries, gpd.GeoSeries) else list(geometries)
    series = gpd.GeoSeries(np.asarray(shapes, dtype=object), crs=crs)
    outlines = np.asarray(series.array, dtype=object)
    middle = _middles(outlines)
    length, width, bearing = _rectangles(outlines, middle, _metres_per_unit(series.crs, middle))
    return pd.DataFrame(
        {
            "area_m2": np.where(series.is_empty, np.nan, areas_m2(series)),
            "length_m": length,
            "width_m": width,
            "bearing_deg": np.mod(np.round(bearing - _true_north_deg(series.crs, middle), 6), 180),
        }
    )


def _middles(shapes: Array) -> Array:
    """Return the middle of each shape's bounds, (n, 2)."""
    import shapely

    bounds = shapely.bounds(shapes)
    return np.asarray((bounds[:, :2] + bounds[:, 2:]) / 2)


def _metres_per_unit(crs: Any, middle: Array) -> Array:
    """Return the metres in a unit of x and y at each middle, (n, 2); 1 without CRS."""
    unit = 1.0 if crs is None else float(crs.axis_info[0].unit_conversion_factor)
    if crs is None or not crs.is_geographic:
        return np.full(middle.shape, unit)
    latitude = middle[:, 1] * unit
    curve = 1 - _WGS84_E2 * np.sin(latitude) ** 2
    east = _WGS84_A / np.sqrt(curve) * np.cos(latitude)
    north = _WGS84_A * (1 - _WGS84_E2) / curve**1.5
    return np.stack([east, north], axis=1) * unit


def _rectangles(shapes: Array, middle: Array, scale: Array) -> tuple[Array, Array, Array]:
    """Return length, width and bearing (degrees from the y axis) of the smallest rotated rectangles.

    One side of the smallest rectangle lies along a side of the convex hull, so every side is tried; of
    equally small rectangles the one with the smaller bearing counts.

    Parameters
    ----------
    shapes : (n,) polygons
    middle : (n, 2) middle of each; coordinates are taken from there, as small numbers keep their digits
    scale : (n, 2) metres in a unit of x and y
    """
    import shapely

    result = np.full((3, len(shapes)), np.nan)
    points, owner = shapely.get_coordinates(shapely.convex_hull(shapes), return_index=True)
    points = (points - middle[owner]) * scale[owner]
    begins = np.flatnonzero(owner[1:] == owner[:-1])
    side = points[begins + 1] - points[begins]
    along = side / np.hypot(side[:, 0], side[:, 1])[:, None]
    owner, points = owner[begins], points[begins]
    if not owner.size:
        return result[0], result[1], result[2]
    extent = _extents(points, owner, along)
    angle = np.degrees(np.arctan2(along[:, 0], along[:, 1])) + np.where(extent[:, 0] >= extent[:, 1], 0, 90)
    angle = np.mod(np.round(angle, 6), 180)
    square = np.isclose(extent[:, 0], extent[:, 1], rtol=1e-9, atol=0)
    angle = np.where(square, np.mod(angle, 90), angle)
    area = extent.prod(axis=1)
    least = np.full(len(shapes), np.inf)
    np.minimum.at(least, owner, area)
    small = np.flatnonzero(area <= least[owner] * (1 + 1e-9))
    best = small[np.lexsort((angle[small], owner[small]))]
    best = best[np.unique(owner[best], return_index=True)[1]]
    result[:, owner[best]] = extent[best].max(axis=1), extent[best].min(axis=1), angle[best]
    return result[0], result[1], result[2]


def _extents(points: Array, owner: Array, along: Array) -> Array:
    """Return the size of each shape along and across each of its hull's sides, (n, 2).

    Parameters
    ----------
    points : (n, 2) corners of the hulls, the side of the same number beginning there
    owner : (n,) shape of each, rising
    along : (n, 2) unit vectors of the sides
    """
    count = np.bincount(owner)
    first = (np.cumsum(count) - count)[owner]
    pairs = count[owner]
    extent = np.empty((len(owner), 2))
    for batch in np.split(np.arange(len(owner)), _batches(pairs)):
        n = pairs[batch]
        starts = np.cumsum(n) - n
        side = np.repeat(batch, n)
        x, y = points[np.arange(n.sum()) - np.repeat(starts, n) + first[side]].T
        ux, uy = along[side].T
        for k, reach in enumerate((x * ux + y * uy, x * uy - y * ux)):
            extent[batch, k] = np.maximum.reduceat(reach, starts) - np.minimum.reduceat(reach, starts)
    return extent


def _batches(pairs: Array) -> Array:
    """Return where to cut so that few shapes' pairs of side and corner are held at a time."""
    return np.flatnonzero(np.diff(np.cumsum(pairs) // _PAIRS_AT_A_TIME)) + 1


def _true_north_deg(crs: Any, middle: Array) -> Array:
    """Return the direction of true north at each middle, degrees clockwise from the y axis, or NaN."""
    from pyproj import Transformer

    if crs is None:
        return np.full(len(middle), np.nan)
    if crs.is_geographic or not len(middle):
        return np.zeros(len(middle))
    x, y = middle.T
    to_degrees = Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    lon, lat = to_degrees.transform(x, y)
    step = np.where(np.asarray(lat) > 0, -_NORTHWARD_DEG, _NORTHWARD_DEG)  # never across a pole
    x1, y1 = to_degrees.transform(lon, lat + step, direction="INVERSE")
    sign = np.sign(step)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.degrees(np.arctan2((x1 - x) * sign, (y1 - y) * sign)))
