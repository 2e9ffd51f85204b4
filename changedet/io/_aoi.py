"""Areas of interest on the grids of scenes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from changedet.errors import AOIError
from changedet.grid import Grid, Window

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry


def aoi_window(aoi: BaseGeometry, grid: Grid, *, crs: Any = "EPSG:4326") -> Window:
    """Return the window of a grid that holds an area.

    Parameters
    ----------
    aoi : geometry in ``crs`` (lon/lat by default)
    grid : where the window is wanted

    Raises
    ------
    AOIError
        The area is empty or invalid, crosses the antimeridian, or does not touch the grid.
    """
    import shapely
    from pyproj import Transformer

    if grid.crs is None:
        raise AOIError(
            "the scenes have no CRS, so an area on the ground cannot be found in them; leave it out"
        )
    check_aoi(aoi, geographic=str(crs).upper() == "EPSG:4326")
    left, low, right, high = aoi.bounds
    dense = shapely.segmentize(aoi, max((right - left) / 32, (high - low) / 32, 1e-9))
    transformer = Transformer.from_crs(crs, grid.crs, always_xy=True)
    moved = shapely.transform(dense, transformer.transform, interleaved=False)
    if not all(abs(v) < float("inf") for v in moved.bounds):
        raise AOIError(
            f"the area of interest {aoi.bounds} cannot be expressed in {grid.crs}; check its lon/lat"
        )
    return grid.window_of(moved)


def check_aoi(aoi: BaseGeometry, *, geographic: bool = True) -> None:
    """Refuse an area that is empty, invalid or crosses the antimeridian.

    Raises
    ------
    AOIError
        With the reason.
    """
    import shapely

    if aoi.is_empty:
        raise AOIError("the area of interest is empty; wanted a polygon that overlaps the scenes")
    if not aoi.is_valid:
        raise AOIError(f"the area of interest is invalid: {shapely.is_valid_reason(aoi)}; draw it again")
    if not geographic:
        return
    left, low, right, high = aoi.bounds
    if not (-90 <= low <= high <= 90):
        raise AOIError(
            f"the area of interest reaches latitude {low:g} to {high:g}; wanted lon/lat in degrees"
        )
    if left < -180 or right > 180 or right - left > 180:
        raise AOIError(
            f"the area of interest runs from longitude {left:g} to {right:g}, across the antimeridian; "
            "wanted an area on one side of it; cut it at 180 degrees and run each part"
        )


def touches(grid: Grid, aoi: BaseGeometry) -> bool:
    """Return True where a lon/lat area overlaps a grid.

    Raises
    ------
    AOIError
        The area itself cannot be used.
    """
    check_aoi(aoi)
    if grid.crs is None:
        return True
    try:
        aoi_window(aoi, grid)
    except AOIError:
        return False
    return True
