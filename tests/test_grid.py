"""The grid: equality, windows, areas, coordinates, and its way through xarray."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod

from changedet.errors import AOIError, CRSError, GridError
from changedet.grid import TOLERANCE_PX, Grid, areas_m2, attach

UTM = Affine(10, 0, 500_000, 0, -10, 4_700_000)
TRANSFORMS = {
    "utm": ("EPSG:32652", UTM),
    "degrees": ("EPSG:4326", Affine(1 / 3e4, 0, 130.64, 0, -1 / 7e4, 42.41)),
    "laea": ("EPSG:3035", Affine(10, 0, 5_341_234.567, 0, -10, 2_600_000.1)),
    "south up": ("EPSG:32652", Affine(10, 0, 500_000, 0, 10, 4_700_000)),
    "rotated": ("EPSG:32652", Affine.rotation(20) @ UTM),
    "bare": (None, Affine.identity()),
    "world file": (None, Affine(0.5, 0, 100, 0, -0.5, 200)),
}


def grid(name: str = "utm", shape: tuple[int, int] = (30, 40)) -> Grid:
    """One of the grids above."""
    crs, transform = TRANSFORMS[name]
    return Grid.make(crs, transform, shape)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_grid_survives_xarray(name: str) -> None:
    given_grid = grid(name)
    image = attach(np.zeros(given_grid.shape, np.float32), given_grid)
    assert Grid.of(image).transform.almost_equals(given_grid.transform)
    assert Grid.of(image).same_as(given_grid)
    assert Grid.of(image.to_dataset(name="a")).same_as(given_grid)
    assert Grid.of(image + 1).same_as(given_grid)


@pytest.mark.parametrize("name", TRANSFORMS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_crop_agrees_with_isel_down_to_one_pixel(name: str, data: st.DataObject) -> None:
    whole = grid(name)
    r0, c0 = data.draw(st.integers(0, 29)), data.draw(st.integers(0, 39))
    window = (slice(r0, data.draw(st.integers(r0 + 1, 30))), slice(c0, data.draw(st.integers(c0 + 1, 40))))
    image = attach(np.zeros(whole.shape, np.float32), whole).isel(y=window[0], x=window[1])
    if whole.crs is None and not whole.transform.is_identity and 1 in image.shape:
        return  # one row without a CRS does not say how large its pixels are
    assert Grid.of(image).same_as(whole.crop(window))


def test_crop_is_exact_where_there_is_a_crs() -> None:
    whole = grid("degrees")
    part = attach(np.zeros(whole.shape), whole).isel(y=slice(7, 9), x=slice(3, 4))
    assert Grid.of(part).transform == whole.crop((slice(7, 9), slice(3, 4))).transform


def test_uneven_coordinates_are_refused() -> None:
    image = xr.DataArray(np.zeros((3, 3)), dims=("y", "x"), coords={"y": [0, 1, 3.0], "x": [0, 1, 2.0]})
    with pytest.raises(GridError, match="evenly"):
        Grid.of(image)
    assert Grid.of(xr.DataArray(np.zeros((3, 4)), dims=("y", "x"))).shape == (3, 4)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(["utm", "degrees", "rotated"]), st.floats(-2, 2), st.floats(-2, 2))
def test_shift_tells_grids_apart(name: str, dy: float, dx: float) -> None:
    one = grid(name)
    other = Grid.make(one.crs, one.transform @ Affine.translation(dx, dy), one.shape)
    far = max(abs(dy), abs(dx))
    if far < 0.9 * TOLERANCE_PX:
        assert one.same_as(other)
        assert other.same_as(one)
    elif far > 1.1 * TOLERANCE_PX:
        assert not one.same_as(other)
        assert not other.same_as(one)


def test_differences_are_said_in_words() -> None:
    one = grid()
    one.require_same(grid())
    with pytest.raises(
        GridError, match=r"after is not on the grid of before.*\(\+0\.500, \+0\.000\) px.*warp"
    ):
        one.require_same(Grid.make(one.crs, UTM @ Affine.translation(0, 0.5), one.shape))
    with pytest.raises(GridError, match=r"b is not on the grid of a: shape \(31, 40\) against \(30, 40\)"):
        one.require_same(grid(shape=(31, 40)), name="b", reference="a")
    with pytest.raises(CRSError, match="EPSG:32651 against EPSG:32652"):
        one.require_same(Grid.make("EPSG:32651", UTM, one.shape))
    with pytest.raises(CRSError, match="None against EPSG:32652"):
        one.require_same(grid("bare"))
    with pytest.raises(GridError, match="corners differ"):
        one.require_same(Grid.make(one.crs, Affine(10.01, 0, 500_000, 0, -10, 4_700_000), one.shape))


def test_crs_is_a_code_or_wkt_or_none() -> None:
    assert grid().crs == "EPSG:32652"
    assert grid("bare").crs is None
    local = "+proj=tmerc +lat_0=42 +lon_0=130 +datum=WGS84 +units=m"
    assert str(Grid.make(local, UTM, (2, 2)).crs).startswith("PROJCRS")
    assert grid("degrees").geographic
    assert not grid().geographic
    assert not grid("bare").georeferenced


def test_pixel_areas() -> None:
    assert grid().pixel_areas_m2().tolist() == [100.0] * 30
    assert grid().gsd_m == 10
    assert grid("bare").gsd_m == 1
    degrees = grid("degrees", (300, 300))
    cells = [shapely.box(*degrees.crop((slice(r, r + 1), slice(0, 1))).bounds) for r in (0, 299)]
    exact = [abs(Geod(ellps="WGS84").geometry_area_perimeter(c)[0]) for c in cells]
    np.testing.assert_allclose(degrees.pixel_areas_m2()[[0, 299]], exact, rtol=1e-5)
    feet = Grid.make("EPSG:2263", Affine(10, 0, 980_000, 0, -10, 200_000), (4, 4))
    assert feet.gsd_m == pytest.approx(3.048, rel=1e-4)


def test_areas_of_polygons() -> None:
    import geopandas as gpd

    square = gpd.GeoSeries([shapely.box(500_000, 4_700_000, 500_100, 4_700_050)], crs="EPSG:32652")
    assert areas_m2(square)[0] == pytest.approx(5000)
    assert areas_m2(square.to_crs("EPSG:4326"))[0] == pytest.approx(5000, rel=1e-3)
    assert areas_m2(square.set_crs(None, allow_override=True))[0] == pytest.approx(5000)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("name", ["utm", "degrees", "south up"])
def test_window_of_a_windows_bounds_is_that_window(name: str, data: st.DataObject) -> None:
    whole = grid(name)
    r0, c0 = data.draw(st.integers(0, 29)), data.draw(st.integers(0, 39))
    window = (slice(r0, data.draw(st.integers(r0 + 1, 30))), slice(c0, data.draw(st.integers(c0 + 1, 40))))
    assert whole.window_of(shapely.box(*whole.crop(window).bounds)) == window


def test_window_is_cut_at_the_edge_or_refused_outside() -> None:
    whole = grid()
    assert whole.window_of(shapely.box(0, 0, 1e7, 1e7)) == (slice(0, 30), slice(0, 40))
    assert whole.window_of(shapely.Point(500_005, 4_699_995)) == (slice(0, 1), slice(0, 1))
    with pytest.raises(AOIError, match="does not overlap"):
        whole.window_of(shapely.box(0, 0, 10, 10), what="the site")
    with pytest.raises(AOIError, match="the site is empty"):
        whole.window_of(shapely.Polygon(), what="the site")


def test_rasterize_and_polygons_are_inverse() -> None:
    whole = grid()
    labels = np.zeros(whole.shape, np.uint32)
    labels[2:5, 3:9] = 1
    labels[10, 10] = labels[11, 11] = 2
    found = whole.polygons(labels)
    assert found["label"].tolist() == [1, 2]
    assert found.area.tolist() == [1800, 200]
    assert found.crs == "EPSG:32652"
    for label, shape in zip(found["label"], found.geometry, strict=True):
        np.testing.assert_array_equal(whole.rasterize([shape]), labels == label)
    assert not whole.rasterize([shapely.Polygon()]).any()


def test_positions_are_pixel_centers() -> None:
    x, y = grid().xy([0, 1], [0, 3])
    assert x.tolist() == [500_005, 500_035]
    assert y.tolist() == [4_699_995, 4_699_985]
    coords = grid().coords()
    assert float(coords["x"][3]) == 500_035
    assert float(coords["y"][1]) == 4_699_985
