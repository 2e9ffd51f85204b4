"""One grid type for everything: CRS, transform and shape, over odc-geo's ``GeoBox``.

Two grids are equal or they are not: nothing is aligned by index, and the only tolerance is
:data:`TOLERANCE_PX`. A grid without CRS and transform (a plain picture) works in pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from affine import Affine
from odc.geo.geobox import GeoBox

from changedet.errors import AOIError, CRSError, GridError

if TYPE_CHECKING:
    import geopandas as gpd
    import xarray as xr
    from shapely.geometry.base import BaseGeometry

TOLERANCE_PX = 0.01
"""Two grids whose corners differ by less than this part of a pixel are the same grid."""

Window = tuple[slice, slice]
"""A spatial window as ``(rows, columns)`` slices with explicit start and stop."""


def grow(window: Window, margin_px: int, shape: tuple[int, int]) -> Window:
    """Return a window with a margin on every side, cut where an image of ``shape`` ends.

    >>> grow((slice(1, 4), slice(6, 8)), 2, (10, 9))
    (slice(0, 6, None), slice(4, 9, None))
    """
    rows, columns = (
        slice(max(part.start - margin_px, 0), min(part.stop + margin_px, size))
        for part, size in zip(window, shape, strict=True)
    )
    return rows, columns


@dataclass(frozen=True)
class Grid:
    """CRS, transform and shape of a raster.

    Parameters
    ----------
    geobox : odc.geo.geobox.GeoBox
        Pixel grid; its CRS may be ``None`` (work in pixels).
    """

    geobox: GeoBox

    @classmethod
    def make(cls, crs: Any, transform: Affine, shape: tuple[int, int]) -> Grid:
        """Build a grid from a CRS (anything pyproj reads, or None), a transform and ``(rows, columns)``."""
        return cls(GeoBox(tuple(int(n) for n in shape), transform, crs))

    @classmethod
    def of(cls, image: xr.DataArray | xr.Dataset) -> Grid:
        """Return the grid of an xarray object with ``y`` and ``x``.

        Raises
        ------
        GridError
            The coordinates are not a regular grid.
        """
        crs, stored = _reference(image)
        shape = (image.sizes["y"], image.sizes["x"])
        if "y" not in image.coords or "x" not in image.coords:
            return cls.make(crs, stored or Affine.identity(), shape)
        rotated = stored is not None and not (abs(stored.b) + abs(stored.d) < 1e-12)
        guess = Affine.identity() if stored is None or rotated else stored
        columns = _axis(image.coords["x"].values, guess.a, "x")
        rows = _axis(image.coords["y"].values, guess.e, "y")
        transform = Affine(columns[1], 0, columns[0], 0, rows[1], rows[0])
        if rotated and stored is not None:
            transform = stored @ transform
        return cls.make(crs, _snap(transform, stored), shape)

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, columns)``."""
        rows, columns = self.geobox.shape
        return int(rows), int(columns)

    @property
    def transform(self) -> Affine:
        """Affine from ``(column, row)`` of pixel corners to coordinates."""
        return self.geobox.affine

    @property
    def crs(self) -> str | None:
        """CRS as ``EPSG:n`` where there is such a code, else as WKT; None without CRS."""
        crs = self.geobox.crs
        if crs is None:
            return None
        return f"EPSG:{crs.epsg}" if crs.epsg is not None else str(crs.to_wkt())

    @property
    def georeferenced(self) -> bool:
        """True where the grid has a CRS."""
        return self.geobox.crs is not None

    @property
    def geographic(self) -> bool:
        """True where coordinates are degrees."""
        return bool(self.geobox.crs is not None and self.geobox.crs.geographic)

    @property
    def gsd_m(self) -> float:
        """Ground sample distance in metres (geometric mean of both axes, at the grid's center).

        In pixels (1.0 a pixel) where there is no CRS.
        """
        return float(np.sqrt(np.median(self.pixel_areas_m2())))

    def pixel_areas_m2(self) -> npt.NDArray[np.float64]:
        """Area of a pixel in each row, m², shape ``(rows,)`` (geodesic in degrees; px² without CRS)."""
        rows = self.shape[0]
        if not self.geographic:
            scale = self._metres_per_unit() ** 2
            return np.full(rows, abs(self.transform.determinant) * scale)
        from pyproj import Geod

        middle = self.shape[1] / 2
        corners = [(self.transform @ (middle, r)) for r in range(rows + 1)]
        lon = np.array([c[0] for c in corners])
        lat = np.clip([c[1] for c in corners], -90, 90)
        step = abs(self.transform.a)
        _, _, east_m = Geod(ellps="WGS84").inv(
            lon[:-1], (lat[:-1] + lat[1:]) / 2, lon[:-1] + step, (lat[:-1] + lat[1:]) / 2
        )
        _, _, north_m = Geod(ellps="WGS84").inv(lon[:-1], lat[:-1], lon[:-1], lat[1:])
        return np.asarray(east_m, np.float64) * np.asarray(north_m, np.float64)

    def _metres_per_unit(self) -> float:
        """Return the length of one CRS unit in metres (1 without CRS)."""
        if self.geobox.crs is None:
            return 1.0
        info = self.geobox.crs.proj.axis_info
        return float(info[0].unit_conversion_factor) if info else 1.0

    def difference_from(self, other: Grid) -> str | None:
        """Say in words how this grid differs from another one; None where they are the same."""
        if self.geobox.crs != other.geobox.crs:
            return f"CRS {self.crs} against {other.crs}"
        if self.shape != other.shape:
            return f"shape {self.shape} against {other.shape} pixels"
        rows, columns = self.shape
        to_pixel = ~other.transform @ self.transform
        corners = np.array([to_pixel @ c for c in ((0, 0), (columns, 0), (0, rows), (columns, rows))])
        off = corners - np.array([(0, 0), (columns, 0), (0, rows), (columns, rows)])
        worst = off[np.argmax(np.abs(off).max(axis=1))]
        if np.abs(worst).max() <= TOLERANCE_PX:
            return None
        return f"origin or pixel size: corners differ by (dy, dx) = ({worst[1]:+.3f}, {worst[0]:+.3f}) px"

    def same_as(self, other: Grid) -> bool:
        """Return True where both grids are the same to :data:`TOLERANCE_PX`."""
        return self.difference_from(other) is None

    def require_same(self, other: Grid, *, name: str = "after", reference: str = "before") -> None:
        """Refuse another grid that is not this one.

        Raises
        ------
        CRSError, GridError
            The other grid differs; the message says how.
        """
        words = other.difference_from(self)
        if words is None:
            return
        error = CRSError if words.startswith("CRS") else GridError
        raise error(
            f"{name} is not on the grid of {reference}: {words}; wanted the same grid; "
            "use --warp (warp=True) to resample onto it"
        )

    def crop(self, window: Window) -> Grid:
        """Return the grid of a window."""
        rows, columns = (part.indices(n)[:2] for part, n in zip(window, self.shape, strict=True))
        corner = Affine.translation(columns[0], rows[0])
        shape = (rows[1] - rows[0], columns[1] - columns[0])
        return Grid(GeoBox(shape, self.transform @ corner, self.geobox.crs))

    def window_of(self, geometry: BaseGeometry, *, what: str = "the area of interest") -> Window:
        """Return the smallest window that holds a geometry given in this grid's CRS.

        Raises
        ------
        AOIError
            The geometry is empty or does not touch the grid.
        """
        if geometry.is_empty:
            raise AOIError(f"{what} is empty; wanted an area that overlaps the scenes")
        left, bottom, right, top = geometry.bounds
        inverse = ~self.transform
        corners = np.array(
            [inverse @ c for c in ((left, top), (right, top), (left, bottom), (right, bottom))]
        )
        (c0, r0), (c1, r1) = np.floor(corners.min(axis=0) + 1e-6), np.ceil(corners.max(axis=0) - 1e-6)
        rows, columns = self.shape
        r0, r1 = max(int(r0), 0), min(int(r1), rows)
        c0, c1 = max(int(c0), 0), min(int(c1), columns)
        if r0 >= r1 or c0 >= c1:
            raise AOIError(
                f"{what} ({left:.5g}, {bottom:.5g}, {right:.5g}, {top:.5g}) does not overlap the scenes' "
                f"grid {tuple(round(v, 5) for v in self.bounds)} ({self.crs}); give an area inside it"
            )
        return slice(r0, r1), slice(c0, c1)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """``(left, bottom, right, top)`` of the grid in its own CRS."""
        box = self.geobox.boundingbox
        return float(box.left), float(box.bottom), float(box.right), float(box.top)

    def coords(self) -> dict[str, Any]:
        """Return xarray coordinates (pixel centers, and ``spatial_ref`` where there is a CRS)."""
        from odc.geo.xr import xr_coords

        if self.georeferenced:
            names = {"latitude": "y", "longitude": "x"}
            return {
                names.get(str(k), str(k)): v.rename({d: names.get(str(d), d) for d in v.dims})
                for k, v in xr_coords(self.geobox).items()
            }
        rows, columns = self.shape
        t = self.transform
        return {
            "y": ("y", t.f + t.e * (np.arange(rows) + 0.5)),
            "x": ("x", t.c + t.a * (np.arange(columns) + 0.5)),
        }

    def rasterize(
        self, geometries: Iterable[BaseGeometry], *, all_touched: bool = False
    ) -> npt.NDArray[np.bool_]:
        """Return a ``(y, x)`` bool array, True inside the geometries (in this grid's CRS)."""
        from rasterio.features import rasterize

        shapes = [(g, 1) for g in geometries if not g.is_empty]
        if not shapes:
            return np.zeros(self.shape, bool)
        burnt = rasterize(
            shapes, self.shape, transform=self.transform, all_touched=all_touched, dtype="uint8"
        )
        return np.asarray(burnt, bool)

    def polygons(self, labels: npt.NDArray[np.integer[Any]], *, connectivity: int = 8) -> gpd.GeoDataFrame:
        """Turn a label image into polygons, one (multi)polygon a label.

        Parameters
        ----------
        labels : (y, x) integer array, 0 = background
        connectivity : 4 or 8

        Returns
        -------
        GeoDataFrame with ``label`` (int) and ``geometry`` in this grid's CRS, by label.
        """
        import geopandas as gpd
        from rasterio.features import shapes
        from shapely.geometry import shape
        from shapely.ops import unary_union

        parts: dict[int, list[BaseGeometry]] = {}
        found = shapes(
            labels.astype(np.int32), mask=labels > 0, connectivity=connectivity, transform=self.transform
        )
        for outline, value in found:
            parts.setdefault(int(value), []).append(shape(outline))
        order = sorted(parts)
        merged = [_valid(unary_union([_valid(p) for p in parts[k]])) for k in order]
        return gpd.GeoDataFrame(
            {"label": np.array(order, np.int64)}, geometry=merged, crs=self.geobox.crs and self.crs
        )

    def xy(
        self, rows: Sequence[float] | npt.NDArray[Any], columns: Sequence[float] | npt.NDArray[Any]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return coordinates ``(x, y)`` of pixel positions (0 = the center of the first pixel)."""
        c = np.asarray(columns, np.float64) + 0.5
        r = np.asarray(rows, np.float64) + 0.5
        t = self.transform
        return t.a * c + t.b * r + t.c, t.d * c + t.e * r + t.f


def _valid(geometry: BaseGeometry) -> BaseGeometry:
    """Return a valid form of a polygon traced with 8-connectivity (corners may touch)."""
    return geometry if geometry.is_valid else geometry.buffer(0)


def _reference(image: xr.DataArray | xr.Dataset) -> tuple[str | None, Affine | None]:
    """Return the CRS and the transform that an xarray object carries as attributes."""
    for coordinate in image.coords.values():
        words = coordinate.attrs
        crs = words.get("crs_wkt") or words.get("spatial_ref")
        if coordinate.ndim == 0 and crs:
            numbers = str(words.get("GeoTransform", "")).split()
            return crs, Affine.from_gdal(*map(float, numbers)) if len(numbers) == 6 else None
    x = image.coords.get("x")
    return (None if x is None else x.attrs.get("crs")), None


def _axis(centers: npt.NDArray[Any], step: float, name: str) -> tuple[float, float]:
    """Return the first edge and the step of evenly spaced centers (``step`` where there is only one)."""
    values = np.asarray(centers, np.float64)
    if values.size > 1:
        step = float((values[-1] - values[0]) / (values.size - 1))
        even = values[0] + step * np.arange(values.size)
        if step == 0 or np.abs(values - even).max() > TOLERANCE_PX * abs(step):
            raise GridError(
                f"the {name} coordinates are not evenly spaced; wanted a regular grid; resample to one first"
            )
    return float(values[0] - step / 2), step


def _snap(transform: Affine, stored: Affine | None) -> Affine:
    """Return the stored transform, moved by whole pixels, where a computed one agrees with it."""
    if stored is None:
        return transform
    off = ~stored @ transform
    columns, rows = round(off.c), round(off.f)
    unit = np.allclose((off.a, off.b, off.d, off.e), (1, 0, 0, 1), rtol=0, atol=1e-6)
    if unit and abs(off.c - columns) < TOLERANCE_PX / 10 and abs(off.f - rows) < TOLERANCE_PX / 10:
        return stored @ Affine.translation(columns, rows)
    return transform


def areas_m2(geometries: gpd.GeoSeries) -> npt.NDArray[np.float64]:
    """Areas in m²: planar in a projected CRS, geodesic in a geographic one, px² without CRS."""
    if geometries.crs is None or not geometries.crs.is_geographic:
        factor = 1.0 if geometries.crs is None else geometries.crs.axis_info[0].unit_conversion_factor
        return np.asarray(geometries.area, np.float64) * float(factor) ** 2
    from pyproj import Geod

    geod = Geod(ellps="WGS84")
    return np.array([abs(geod.geometry_area_perimeter(g)[0]) for g in geometries], np.float64)


def attach(
    values: Any,
    grid: Grid,
    *,
    dims: tuple[str, ...] = ("y", "x"),
    coords: dict[str, Any] | None = None,
    name: str | None = None,
) -> xr.DataArray:
    """Wrap an array in a DataArray that carries the grid."""
    import xarray as xr

    return xr.DataArray(values, dims=dims, coords={**grid.coords(), **(coords or {})}, name=name)
