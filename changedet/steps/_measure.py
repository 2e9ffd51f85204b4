"""Measures of polygons in metres, shared by the steps that hold tables of objects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from changedet.grid import areas_m2

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd
    from shapely.geometry.base import BaseGeometry

Array = npt.NDArray[Any]

_WGS84_A, _WGS84_E2 = 6_378_137.0, 0.006_694_379_990_14  # semi-major axis in m, squared eccentricity
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
    length, width, bearing = _rectangles(_in_metres(series))
    return pd.DataFrame(
        {
            "area_m2": np.where(series.is_empty, np.nan, areas_m2(series)),
            "length_m": length,
            "width_m": width,
            "bearing_deg": np.mod(np.round(bearing - _true_north_deg(series), 6), 180),
        }
    )


def _in_metres(series: gpd.GeoSeries) -> Array:
    """Return the shapes in metres around the middle of each: small numbers keep their digits."""
    import shapely

    shapes = np.array(series.array, dtype=object)
    points, owner = shapely.get_coordinates(shapes, return_index=True)
    middle = _middles(shapes)
    scale = _metres_per_unit(series.crs, middle)
    return np.asarray(shapely.set_coordinates(shapes, (points - middle[owner]) * scale[owner]))


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


def _rectangles(shapes: Array) -> tuple[Array, Array, Array]:
    """Return length, width and bearing (degrees from the y axis) of the smallest rotated rectangles."""
    import shapely

    length, width, bearing = (np.full(len(shapes), np.nan) for _ in range(3))
    boxes = shapely.oriented_envelope(shapes)
    good = np.flatnonzero(shapely.get_num_coordinates(boxes) == 5)
    if good.size:
        corners = shapely.get_coordinates(boxes[good]).reshape(-1, 5, 2)
        sides = np.diff(corners[:, :3], axis=1)
        size = np.hypot(sides[..., 0], sides[..., 1])
        angle = np.mod(np.round(np.degrees(np.arctan2(sides[..., 0], sides[..., 1])), 9), 180)
        square = np.isclose(size[:, 0], size[:, 1], rtol=1e-9)
        longer = np.where(square, np.argmin(angle, axis=1), np.argmax(size, axis=1))
        length[good], width[good] = size.max(axis=1), size.min(axis=1)
        bearing[good] = np.take_along_axis(angle, longer[:, None], axis=1)[:, 0]
    return length, width, bearing


def _true_north_deg(series: gpd.GeoSeries) -> Array:
    """Return the direction of true north at each shape, degrees clockwise from the y axis, or NaN."""
    from pyproj import Transformer

    if series.crs is None:
        return np.full(len(series), np.nan)
    if series.crs.is_geographic or not len(series):
        return np.zeros(len(series))
    x, y = _middles(np.asarray(series.array, dtype=object)).T
    to_degrees = Transformer.from_crs(series.crs, series.crs.geodetic_crs, always_xy=True)
    lon, lat = to_degrees.transform(x, y)
    step = np.where(np.asarray(lat) > 0, -_NORTHWARD_DEG, _NORTHWARD_DEG)  # never across a pole
    x1, y1 = to_degrees.transform(lon, lat + step, direction="INVERSE")
    sign = np.sign(step)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.degrees(np.arctan2((x1 - x) * sign, (y1 - y) * sign)))
