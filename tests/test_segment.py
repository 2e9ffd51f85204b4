"""segment: labels, minimum mapping unit, outlines and measures."""

import dask
import numpy as np
import pytest
import shapely
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod, Transformer
from shapely.geometry import Polygon, box

from changedet.blocks._tiles import label_array
from changedet.errors import InputError, SettingError
from changedet.grid import Grid, attach
from changedet.steps._outline import outlines
from changedet.steps.segment import measure_polygons, segment

UTM = "EPSG:32652"
GEOD = Geod(ellps="WGS84")


def grid_of(shape, crs=UTM, size=10.0):
    return Grid.make(crs, Affine(size, 0, 500_000, 0, -size, 4_800_000), shape)


def image_of(text, crs=UTM, size=10.0):
    """Draw an image: a digit is a value, '.' is 0, '?' is NaN."""
    rows = [row for row in text.split() if row]
    values = np.array(
        [[{".": 0.0, "?": np.nan}.get(c) or float(c if c.isdigit() else 0) for c in r] for r in rows]
    )
    values[np.array([[c == "?" for c in r] for r in rows])] = np.nan
    return attach(values.astype(np.float32), grid_of(values.shape, crs, size))


# --- labels ------------------------------------------------------------------------------------------------


def test_small_objects_go_and_labels_follow_the_raster():
    image = image_of("""
        5...22.
        ....2..
        .33....
        .3....9
    """)
    labels, table = segment(image, low=1, min_area_m2=300)
    expected = np.zeros((4, 7), np.uint32)
    expected[:2, 4:6] = [[1, 1], [1, 0]]
    expected[2:, 1:3] = [[2, 2], [2, 0]]
    np.testing.assert_array_equal(labels, expected)
    assert labels.dtype == np.uint32 and labels.name == "labels"
    assert list(table.label) == [1, 2] and list(table.pixels) == [3, 3]
    assert list(table.area_m2) == [300, 300] and table.crs == UTM
    assert list(table["mean"]) == [2, 3] and list(table["max"]) == [2, 3]


def test_an_area_that_equals_the_limit_is_large_enough():
    image = image_of("22. ..2", size=0.1)
    labels, table = segment(image, low=1, min_area_m2=3 * 0.1 * 0.1)
    assert len(table) == 1 and int((labels > 0).sum()) == 3


def test_diagonals_hold_together_in_eight_directions_only():
    image = image_of("2.. .2. ..2")
    _, eight = segment(image, low=1, min_area_m2=0)
    _, four = segment(image, low=1, min_area_m2=0, connectivity=4)
    assert len(eight) == 1 and len(four) == 3
    assert eight.geometry[0].geom_type == "MultiPolygon" and eight.is_valid.all()
    assert eight.area_m2[0] == 300 == four.area_m2.sum()


def test_hysteresis_needs_a_seed():
    image = image_of("22.23. ...... .9....")
    labels, table = segment(image, low=1, high=2.5, min_area_m2=0)
    assert list(table.pixels) == [2, 1] and list(table["max"]) == [3, 9] and int(labels[0, 0]) == 0
    assert len(segment(image, low=1, high=8.5, min_area_m2=0)[1]) == 1


def test_signed_images_are_taken_by_their_size():
    image = -image_of("22. ... .33")
    assert len(segment(image, low=1, min_area_m2=0)[1]) == 0
    _, table = segment(image.assign_attrs(signed=True), low=1, min_area_m2=0)
    assert list(table["max"]) == [2, 3]


def test_nan_and_infinity_belong_to_no_object():
    image = image_of("222 2?2 222")
    image[0, 0] = np.inf
    labels, table = segment(image, low=1, min_area_m2=0, fill_holes_m2=1e6)
    assert int(labels[1, 1]) == 0 and int(labels[0, 0]) == 0 and list(table.pixels) == [7]
    assert np.isfinite(table["mean"]).all()


def test_holes_are_filled_up_to_a_size():
    image = image_of("""
        22222......
        2.2.2.2222.
        2222..2..2.
        ......2..2.
        ......2222.
        .2222222222
        .2.........
    """)
    _, plain = segment(image, low=1, min_area_m2=0)
    _, small = segment(image, low=1, min_area_m2=0, fill_holes_m2=100)
    _, large = segment(image, low=1, min_area_m2=0, fill_holes_m2=600)
    # The hole at (1, 3) leaks through no side but touches the outside at a corner: in eight directions, what
    # is around it is closed by corners only.
    assert small.pixels.sum() - plain.pixels.sum() == 2
    assert large.pixels.sum() - small.pixels.sum() == 4
    assert [len(p.interiors) for p in large.geometry.explode().geometry] == [0] * len(
        large.geometry.explode()
    )


def test_a_hole_at_the_edge_of_the_image_is_no_hole():
    image = image_of("2.2 222 222")
    assert segment(image, low=1, min_area_m2=0, fill_holes_m2=1e6)[1].pixels[0] == 8


def test_an_empty_table_has_its_columns_and_crs():
    for low in (5, np.inf):
        labels, table = segment(image_of("22. ..."), low=low, min_area_m2=0)
        assert len(table) == 0 and table.crs == UTM and not labels.any()
        assert {"label", "area_m2", "length_m", "width_m", "bearing_deg", "mean", "max"} <= set(table.columns)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    y=st.integers(2, 12),
    x=st.integers(2, 15),
    connectivity=st.sampled_from([4, 8]),
    least=st.integers(0, 5),
    holes=st.integers(0, 3),
)
def test_chunks_do_not_matter(seed, y, x, connectivity, least, holes):
    rng = np.random.default_rng(seed)
    image = attach(rng.normal(size=(12, 15)).astype(np.float32), grid_of((12, 15)))
    image[3, 3] = np.nan
    options = {
        "low": 0.2,
        "min_area_m2": least * 100,
        "connectivity": connectivity,
        "fill_holes_m2": holes * 100,
    }
    labels, table = segment(image, **options)
    with dask.config.set(scheduler="sync"):
        lazy, again = segment(image.chunk(y=y, x=x), **options)
        assert lazy.chunks is not None
        xr.testing.assert_identical(lazy.compute(), labels)
    assert table.equals(again)
    sizes = np.bincount(labels.values.ravel())[1:]
    np.testing.assert_array_equal(table.pixels, sizes)
    assert (sizes >= least).all() and table.is_valid.all()
    np.testing.assert_allclose(table.area, sizes * 100)
    first = [np.flatnonzero(labels.values == k)[0] for k in table.label]
    assert first == sorted(first)


def test_inputs_are_left_alone_and_labels_carry_the_grid():
    image = image_of("22. ..2").assign_attrs(units="dB")
    kept = image.copy(deep=True)
    image.values.setflags(write=False)
    labels, _ = segment(image, low=1, min_area_m2=0)
    xr.testing.assert_identical(image, kept)
    assert Grid.of(labels).difference_from(Grid.of(image)) is None and labels.attrs == {}
    flipped, _ = segment(image.transpose("x", "y"), low=1, min_area_m2=0)
    xr.testing.assert_identical(flipped, labels)


def test_pictures_without_georeference_are_measured_in_pixels():
    image = xr.DataArray(image_of("222. .... ....").values, dims=("y", "x"))
    _, table = segment(image, low=1, min_area_m2=3)
    assert table.crs is None and list(table.area_m2) == [3]
    assert (table.length_m[0], table.width_m[0]) == (3, 1) and np.isnan(table.bearing_deg[0])
    assert len(segment(image, low=1, min_area_m2=4)[1]) == 0


def test_degrees_are_measured_on_the_ellipsoid():
    size = 1e-4
    grid = Grid.make("EPSG:4326", Affine(size, 0, 130.0, 0, -size, 42.5), (30, 40))
    values = np.zeros(grid.shape, np.float32)
    values[10:13, 5:25] = 1
    image = attach(values, grid)
    _, table = segment(image, low=0.5, min_area_m2=0)
    _, _, wide = GEOD.inv(130.0005, 42.49885, 130.0025, 42.49885)
    _, _, high = GEOD.inv(130.0015, 42.499, 130.0015, 42.4987)
    assert table.length_m[0] == pytest.approx(wide, rel=1e-6)
    assert table.width_m[0] == pytest.approx(high, rel=1e-6)
    assert table.bearing_deg[0] == pytest.approx(90, abs=1e-3)
    assert table.area_m2[0] == pytest.approx(wide * high, rel=1e-5)
    assert len(segment(image, low=0.5, min_area_m2=table.area_m2[0] * 1.001)[1]) == 0
    assert len(segment(image, low=0.5, min_area_m2=table.area_m2[0] * 0.999)[1]) == 1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"low": np.nan}, SettingError),
        ({"low": 2, "high": 1}, SettingError),
        ({"low": 1, "min_area_m2": -1}, SettingError),
        ({"low": 1, "fill_holes_m2": np.nan}, SettingError),
        ({"low": 1, "connectivity": 6}, SettingError),
    ],
)
def test_nonsense_is_refused(options, error):
    with pytest.raises(error, match="wanted"):
        segment(image_of("22. ..."), **({"min_area_m2": 0} | options))
    with pytest.raises(InputError, match="select one"):
        segment(image_of("22. ...").expand_dims("band"), low=1, min_area_m2=0)


# --- outlines ----------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 100_000),
    shape=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    density=st.floats(0, 1),
    connectivity=st.sampled_from([4, 8]),
    transform=st.sampled_from(
        [
            Affine(10, 0, 500_000, 0, -10, 4_800_000),
            Affine(2, 0, 0, 0, 3, 0),
            Affine.rotation(30) @ Affine.scale(10, -10),
        ]
    ),
)
def test_outlines_are_those_of_gdal_and_valid(seed, shape, density, connectivity, transform):
    mask = np.random.default_rng(seed).random(shape) < density
    labels, number = label_array(mask, connectivity)
    found = outlines(labels, np.flatnonzero(labels), transform)
    assert len(found) == number
    assert shapely.is_valid(found).all()
    area = abs(transform.determinant)
    np.testing.assert_allclose(shapely.area(found), np.bincount(labels.ravel(), minlength=1)[1:] * area)
    expected = Grid.make(UTM, transform, shape).polygons(labels, connectivity=4)
    assert list(expected.label) == list(range(1, number + 1))
    # Rotated corners are rounded on either side: compare what is left of the difference there.
    rest = shapely.area(shapely.symmetric_difference(found, np.asarray(expected.geometry)))
    np.testing.assert_allclose(rest, 0, atol=1e-6 * area)


def test_rings_that_touch_at_a_corner():
    mask = np.array([[0, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]], bool)
    labels, _ = label_array(mask, 4)
    (found,) = outlines(labels, np.flatnonzero(labels), Affine.identity())
    assert found.is_valid and found.geom_type == "Polygon" and len(found.interiors) == 1 and found.area == 11


# --- measures ----------------------------------------------------------------------------------------------


def bar(x, y, length, width, bearing_deg):
    """Return a rectangle around (x, y), its longer side at a bearing from the y axis."""
    along = np.array([np.sin(np.radians(bearing_deg)), np.cos(np.radians(bearing_deg))])
    across = np.array([along[1], -along[0]])
    signs = [(1, 1), (1, -1), (-1, -1), (-1, 1)]
    return Polygon([np.array([x, y]) + a * along * length / 2 + c * across * width / 2 for a, c in signs])


@settings(max_examples=60, deadline=None)
@given(
    bearing=st.floats(0, 179.99),
    length=st.floats(20, 500),
    ratio=st.floats(0.05, 0.9),
    lon=st.floats(126.2, 131.8),
    lat=st.floats(-75, 75),
)
def test_bars_in_utm_are_measured_from_true_north(bearing, length, ratio, lon, lat):
    to_utm = Transformer.from_crs(4326, UTM, always_xy=True)
    x, y = to_utm.transform(lon, lat)
    found = measure_polygons([bar(x, y, length, length * ratio, bearing)], UTM).iloc[0]
    assert found.length_m == pytest.approx(length, rel=1e-6)
    assert found.width_m == pytest.approx(length * ratio, rel=1e-6)
    assert found.area_m2 == pytest.approx(length**2 * ratio, rel=1e-6)
    half = np.array([np.sin(np.radians(bearing)), np.cos(np.radians(bearing))]) * length / 2
    ends = [np.array([x, y]) - half, np.array([x, y]) + half]
    degrees = [to_utm.transform(*end, direction="INVERSE") for end in ends]
    true, _, _ = GEOD.inv(*degrees[0], *degrees[1])
    off = (found.bearing_deg - true + 90) % 180 - 90
    assert abs(off) < 0.01 and 0 <= found.bearing_deg < 180


@pytest.mark.parametrize("lat", [-60, 0.5, 42.5, 70])
@pytest.mark.parametrize("azimuth", [10, 60, 135])
def test_bars_in_degrees(lat, azimuth):
    corners = []
    lon0, lat0 = 130.5, lat
    for along, across in ((150, 20), (150, -20), (-150, -20), (-150, 20)):
        lon, la, _ = GEOD.fwd(lon0, lat0, azimuth, along)
        lon, la, _ = GEOD.fwd(lon, la, azimuth + 90, across)
        corners.append((lon, la))
    found = measure_polygons([Polygon(corners)], "EPSG:4326").iloc[0]
    assert found.length_m == pytest.approx(300, rel=1e-4) and found.width_m == pytest.approx(40, rel=2e-3)
    assert found.bearing_deg == pytest.approx(azimuth, abs=0.05)
    assert found.area_m2 == pytest.approx(12_000, rel=1e-3)


def test_feet_are_turned_into_metres():
    foot = 0.3048006096
    found = measure_polygons([bar(984_000, 200_000, 300, 100, 20)], "EPSG:2263").iloc[0]
    assert found.length_m == pytest.approx(300 * foot, rel=1e-6)
    assert found.area_m2 == pytest.approx(30_000 * foot**2, rel=1e-6)


def test_squares_points_and_emptiness():
    frame = measure_polygons([box(0, 0, 2, 2), bar(0, 0, 2, 2, 30), Polygon(), box(0, 0, 5, 1)], None)
    assert list(frame.length_m[:2]) == pytest.approx([2, 2]) and frame.length_m[3] == 5
    assert frame.loc[2].isna().all() and frame.bearing_deg.isna().all()
    frame = measure_polygons([box(500_000, 0, 500_002, 2), bar(500_000, 0, 2, 2, 30)], UTM)
    assert list(frame.bearing_deg) == pytest.approx([0, 30], abs=1e-6)
    assert len(measure_polygons([], UTM)) == 0


def test_the_smallest_rectangle_is_that_of_geos():
    rng = np.random.default_rng(0)
    clouds = [rng.normal(size=(rng.integers(3, 40), 2)) * [3, 1] for _ in range(300)]
    shapes = shapely.convex_hull([shapely.multipoints(cloud) for cloud in clouds])
    found = measure_polygons(shapes, None)
    boxes = shapely.area(shapely.oriented_envelope(shapes))
    np.testing.assert_allclose(found.length_m * found.width_m, boxes, rtol=1e-9)
    assert (found.length_m >= found.width_m).all()
