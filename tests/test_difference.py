"""difference: methods against independent numbers, their properties, and what is refused."""

from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from changedet.blocks import parameters
from changedet.errors import (
    BandError,
    CRSError,
    GridError,
    SettingError,
    UnknownMethodError,
    UnknownSettingError,
)
from changedet.grid import Grid, attach
from changedet.steps._difference import change_vector, log_ratio, robust_change_vector, spectral_angle
from changedet.steps.difference import METHODS, difference, robust_scale

REFERENCE = np.load(Path(__file__).parent / "reference" / "bitemporal_difference.npz")
GRID = Grid.make("EPSG:32652", Affine(10, 0, 500_000, 0, -10, 4_800_000), (6, 8))
BANDS = ["green", "red", "nir"]

LEARNED = ("pca-kmeans", "auto")
"""Methods that learn from the whole pair and have tests of their own: tiny images teach them nothing."""

PLAIN = [n for n, method in METHODS.items() if method.layers == ("magnitude",) and n not in LEARNED]
"""The others need numbers about the whole image, see their own tests."""

pairs = arrays(np.float64, (2, 3, 5, 4), elements=st.floats(1e-3, 1e3) | st.just(np.nan))


def scene(seed=0, *, grid=GRID, bands=BANDS, **attrs):
    values = np.random.default_rng(seed).uniform(0.01, 0.6, (len(bands), *grid.shape)).astype(np.float32)
    image = attach(values, grid, dims=("band", "y", "x"), coords={"band": bands})
    return image.assign_attrs(attrs)


def plain(values):
    return xr.DataArray(values, dims=("band", "y", "x"))


# --- against independent numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "params", "key", "tolerance"),
    [
        ("cva", {}, "cva_mag", 1e-6),
        ("sam", {}, "sam_angle", 1e-5),
        ("rcva", {"combine": "min"}, "rcva_r1_min", 1e-6),
        ("rcva", {}, "rcva_r1_max", 1e-6),
    ],
)
def test_reference(method, params, key, tolerance):
    found = difference(plain(REFERENCE["x"]), plain(REFERENCE["y"]), method, **params)
    np.testing.assert_allclose(found, REFERENCE[key], rtol=0, atol=tolerance)


def test_by_hand():
    before = plain(np.array([[[0.1, 0.2]], [[0.3, 0.2]]]))
    after = plain(np.array([[[0.4, 0.1]], [[0.2, 0.2]]]))
    expect = {
        "absdiff": [0.2, 0.05],
        "cva": [np.sqrt(0.1), 0.1],
        "logratio": [5 * np.log10(0.4 / 0.1 * 0.2 / 0.3), 5 * np.log10(0.1 / 0.2)],
        "ratio": [(0.3 / 0.5 - 0.1 / 0.5) / 2, -0.1 / 0.3 / 2],
    }
    for method, values in expect.items():
        np.testing.assert_allclose(difference(before, after, method)[0], values, rtol=1e-6, err_msg=method)


def test_small_angles_keep_their_digits():
    a = np.array([1.0, 1.0]).reshape(2, 1, 1)
    for angle in (1e-6, 1e-4, np.pi / 2, np.pi):
        turned = np.array([np.cos(np.pi / 4 + angle), np.sin(np.pi / 4 + angle)]).reshape(2, 1, 1)
        np.testing.assert_allclose(spectral_angle(a, turned), angle, rtol=1e-6)
    assert np.isnan(spectral_angle(a, a * 0)).all() and (spectral_angle(a, a) == 0).all()


# --- properties --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [n for n in PLAIN if n != "ssim"])  # weighs the gaps of both
@settings(max_examples=40, deadline=None)
@given(pair=pairs)
def test_exchange_of_dates(method, pair):
    a, b = map(plain, pair)
    forward, backward = difference(a, b, method), difference(b, a, method)
    sign = -1 if forward.attrs["signed"] else 1
    np.testing.assert_array_equal(forward, sign * backward)
    valid = np.isfinite(pair).all(axis=(0, 1))
    np.testing.assert_array_equal(np.isfinite(forward), valid)
    assert (difference(a, a, method).values[np.isfinite(pair[0]).all(axis=0)] == 0).all()


def test_brighter_after_is_positive():
    dark, bright = plain(np.full((2, 2, 2), 0.05)), plain(np.full((2, 2, 2), 0.3))
    for method in METHODS:
        if METHODS[method].signed:
            assert (difference(dark, bright, method) > 0).all(), method
            assert (difference(bright, dark, method) < 0).all(), method


@settings(max_examples=40, deadline=None)
@given(pair=arrays(np.float64, (2, 3, 4, 4), elements=st.floats(0.01, 1)), angle=st.floats(0, 6.3))
def test_change_vector_is_blind_to_a_rotation_of_the_bands(pair, angle):
    c, s = np.cos(angle), np.sin(angle)
    rotation = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    turned = np.einsum("ij,tjyx->tiyx", rotation, pair)
    np.testing.assert_allclose(change_vector(*turned), change_vector(*pair), rtol=1e-5, atol=1e-7)


@settings(max_examples=40, deadline=None)
@given(values=arrays(np.float64, (3, 2, 3, 3), elements=st.floats(0.01, 10)), gain=st.floats(0.5, 4))
def test_log_ratio_adds_up_and_ignores_a_common_gain(values, gain):
    a, b, c = values
    np.testing.assert_allclose(log_ratio(a, c), log_ratio(a, b) + log_ratio(b, c), atol=2e-5)
    np.testing.assert_allclose(log_ratio(a * gain, b * gain), log_ratio(a, b), atol=1e-5)


def test_log_ratio_offset_and_floor():
    zero, one = plain(np.zeros((1, 1, 1))), plain(np.ones((1, 1, 1)))
    assert difference(zero, one, "logratio", floor=0.01).item() == pytest.approx(20)
    optical, radar = (
        [scene(bands=names) * 0 + value for value in (0.0, 0.18)] for names in (["red", "nir"], ["vv", "vh"])
    )
    assert difference(*optical, "logratio").values == pytest.approx(10)
    assert difference(*radar, "logratio").values == pytest.approx(10 * np.log10(0.18 / 1e-4))
    assert difference(*optical, "logratio", offset=0.06).values == pytest.approx(10 * np.log10(4))


@settings(max_examples=30, deadline=None)
@given(pair=pairs, radius=st.integers(0, 6))
def test_rcva_is_never_above_cva(pair, radius):
    a, b = pair
    least, most = (robust_change_vector(a, b, radius_px=radius, combine=c) for c in ("min", "max"))
    full = change_vector(a, b)
    valid = np.isfinite(full)
    assert (least[valid] <= most[valid]).all() and (most[valid] <= full[valid]).all()
    if radius == 0:
        np.testing.assert_array_equal(most, full)


@pytest.mark.parametrize("shift", [(0, 1), (1, 1), (-2, 1), (2, -2)])
def test_rcva_forgives_a_shift_inside(shift):
    a = np.random.default_rng(3).random((2, 20, 20))
    b = np.roll(a, shift, axis=(1, 2))
    inside = (slice(4, -4), slice(4, -4))
    for combine in ("min", "max"):
        assert (robust_change_vector(a, b, radius_px=2, combine=combine)[inside] == 0).all()
    assert (robust_change_vector(a, b, radius_px=0)[inside] > 0).all()


def test_rcva_max_keeps_a_small_object_that_min_loses():
    a, b = np.zeros((1, 9, 9)), np.zeros((1, 9, 9))
    b[0, 4, 4] = 1
    assert robust_change_vector(a, b)[4, 4] == 1
    assert robust_change_vector(a, b, combine="min").max() == 0


def test_rcva_skips_invalid_neighbors():
    a = np.zeros((1, 3, 3))
    b = np.ones((1, 3, 3))
    b[0, 0, 0] = np.nan
    a[0, 2, 2] = np.inf
    result = robust_change_vector(a, b)
    assert np.isnan(result[0, 0]) and np.isnan(result[2, 2]) and np.isfinite(result).sum() == 7
    assert (result[np.isfinite(result)] == 1).all()


def test_standardized_cva_lets_no_band_rule():
    rng = np.random.default_rng(5)
    before = rng.normal(0.3, 0.1, (2, 60, 60))
    noise = rng.normal(0, 1, (2, 60, 60)) * np.array([0.001, 0.1]).reshape(2, 1, 1)
    after = before + noise
    after[0, 10:12, 10:12] += 0.02  # 20 sigma in the quiet band, a fifth of one in the loud
    a, b = plain(before), plain(after)
    found = difference(a, b, standardize=True)
    assert found.values[10:12, 10:12].min() > 15 > 6 > np.quantile(found, 0.99)
    assert difference(a, b).values[10:12, 10:12].max() < np.quantile(difference(a, b), 0.9)
    scaled = difference(plain(before * [[[5]], [[0.1]]]), plain(after * [[[5]], [[0.1]]]), standardize=True)
    np.testing.assert_allclose(found, scaled, rtol=1e-4)


def test_robust_scale_of_normal_noise_with_outliers():
    values = np.random.default_rng(1).normal(0.4, 0.02, (1, 100_000))
    values[0, :5000] = 100
    assert robust_scale(values)[0] == pytest.approx(0.02, rel=0.08)
    mostly_zero = np.zeros((1, 100))
    mostly_zero[0, 0] = 1
    assert robust_scale(mostly_zero)[0] == pytest.approx(mostly_zero.std())
    assert np.isnan(robust_scale(np.empty((2, 0)))).all()


def test_a_silent_band_does_not_spoil_the_standardized_length():
    before, after = scene(0), scene(1)
    after[2] = before[2] + 0.25
    found = difference(before, after, standardize=True)
    two = difference(before.isel(band=[0, 1]), after.isel(band=[0, 1]), standardize=True)
    np.testing.assert_allclose(found, two, rtol=1e-6)


# --- numbers as they come ----------------------------------------------------------------------------------


def test_integers_are_cast_before_subtraction():
    before, after = (plain(np.array([[[v]]], np.uint16)) for v in (10, 7))
    assert difference(before, after, "absdiff").item() == 3
    before, after = (plain(np.array([[[v]]], np.int32)) for v in (2**30, 2**30 + 1))
    assert difference(before, after, "cva").item() == 1


def test_float64_digits_survive_the_subtraction():
    before, after = (plain(np.array([[[v]]])) for v in (1000.0, 1000.00001))
    assert difference(before, after, "cva").item() == pytest.approx(1e-5, rel=1e-6)


@pytest.mark.parametrize("method", PLAIN)
def test_infinity_is_no_measurement(method):
    before, after = scene(0), scene(1)
    before[0, 1, 1], after[1, 2, 2] = np.inf, -np.inf
    found = difference(before, after, method)
    assert np.isnan(found.values[[1, 2], [1, 2]]).all() and not np.isinf(found).any()
    assert np.isfinite(found).sum() == found.size - 2


# --- labels, grids, bands ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", PLAIN)
def test_result_carries_grid_and_meaning(method):
    before, after = scene(0, sensor="s2"), scene(1, sensor="s2")
    found = difference(before, after, method)
    assert found.name == "magnitude" and found.dims == ("y", "x") and found.dtype == np.float32
    assert Grid.of(found).same_as(GRID) and Grid.of(found).crs == "EPSG:32652"
    assert found.attrs["method"] == method and found.attrs["sensor"] == "s2"
    assert found.attrs["signed"] is METHODS[method].signed
    assert found.attrs["units"] == {"logratio": "dB", "sam": "rad"}.get(method, "1")


def test_bands_are_matched_by_name_not_by_order():
    before, after = scene(0), scene(1)
    shuffled = after.isel(band=[2, 0, 1])
    xr.testing.assert_identical(difference(before, after), difference(before, shuffled))


@pytest.mark.parametrize(
    "other", [scene(bands=["green", "red", "blue"]), scene(bands=["green", "red"]), scene().isel(band=0)]
)
def test_other_bands_are_refused(other):
    with pytest.raises(BandError, match="--bands"):
        difference(scene(), other)


@pytest.mark.parametrize(
    ("crs", "transform", "error", "words"),
    [
        ("EPSG:32651", GRID.transform, CRSError, "EPSG:32651"),
        ("EPSG:32652", GRID.transform @ Affine.translation(0.5, 0.5), GridError, "0.500"),
        ("EPSG:32652", GRID.transform @ Affine.scale(2), GridError, "corners differ"),
        ("EPSG:32652", Affine(10, 0, 500_000, 0, 10, 4_799_940), GridError, "corners differ"),
        (None, GRID.transform, CRSError, "None"),
    ],
)
def test_another_grid_is_refused(crs, transform, error, words):
    other = scene(grid=Grid.make(crs, transform, GRID.shape))
    with pytest.raises(error, match=words):
        difference(scene(), other)


def test_a_hundredth_of_a_pixel_is_the_same_grid():
    nearly = Grid.make(GRID.crs, GRID.transform @ Affine.translation(0.002, 0), GRID.shape)
    found = difference(scene(0), scene(1, grid=nearly))
    np.testing.assert_array_equal(found, difference(scene(0), scene(1)))
    np.testing.assert_array_equal(found.x, scene().x)


def test_pictures_without_georeference_need_equal_shapes():
    a = plain(np.ones((3, 4, 5)))
    assert difference(a, a * 2).shape == (4, 5)
    with pytest.raises(GridError, match="shape"):
        difference(a, plain(np.ones((3, 4, 6))))
    with pytest.raises(GridError, match="wanted"):
        difference(a.rename(y="row"), a)


def test_unknown_names_are_answered_with_the_known():
    with pytest.raises(UnknownMethodError, match="did you mean 'rcva'"):
        difference(scene(), scene(), "rcvaa")
    with pytest.raises(UnknownSettingError, match="radius_px"):
        difference(scene(), scene(), "rcva", radius=2)
    with pytest.raises(SettingError, match="max"):
        difference(scene(), scene(), "rcva", combine="mean")
    with pytest.raises(SettingError, match="floor"):
        difference(scene(), scene(), "logratio", floor=0)
    assert parameters(METHODS["rcva"]) == {"radius_px": 1, "combine": "max"}
    assert parameters(METHODS["cva"]) == {"standardize": False}


def test_auto_compares_plainly_what_is_too_small_to_learn_from():
    found = difference(scene(), scene(1), "auto")
    assert (
        found.attrs["method"] == "auto" and found.attrs["chosen"] == "cva" and "sampled" in found.attrs["why"]
    )
    np.testing.assert_array_equal(found.values, difference(scene(), scene(1), "cva").values)


def test_eager_and_lazy_dates_mix():
    before, after = scene(0), scene(1)
    with dask.config.set(scheduler="sync"):
        xr.testing.assert_identical(difference(before, after.chunk(y=2)).compute(), difference(before, after))
