"""omnibus: the test of equal SAR intensity against independent numbers, its error rates and properties."""

from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import betainc

from changedet.errors import DegenerateError, InputError, SettingError
from changedet.grid import Grid, attach
from changedet.steps._omnibus import (
    equivalent_looks,
    interval_test,
    looks_of,
    omnibus,
    sequential_omnibus,
)

REFERENCE = np.load(Path(__file__).parent / "reference" / "sar_omnibus.npz")
ENL = float(REFERENCE["enl"])
CHANNELS = {"dual": slice(None), "single": slice(0, 1)}


def pair(seed=0, shape=(2, 60, 70), enl=4.4, gain=1.0):
    rng = np.random.default_rng(seed)
    images = (rng.gamma(enl, 0.05 / enl, shape) * [[[1]], [[0.2]]][: shape[0]] for _ in range(2))
    before, after = (xr.DataArray(v.astype(np.float32), dims=("band", "y", "x")) for v in images)
    return before, (after * gain).astype(np.float32)


def series(seed=0, shape=(6, 2, 9, 8)):
    values = np.random.default_rng(seed).gamma(4.4, 0.05 / 4.4, shape).astype(np.float32)
    return xr.DataArray(values, dims=("time", "band", "y", "x"))


# --- against independent numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize("channels", CHANNELS)
def test_many_dates_against_independent_numbers(channels):
    image = xr.DataArray(REFERENCE["intensity"][:, CHANNELS[channels]], dims=("time", "band", "y", "x"))
    found = sequential_omnibus(image, enl=ENL, alpha=1e-3)
    np.testing.assert_allclose(found.ln_q, REFERENCE[f"{channels}_lnQ_all"], rtol=1e-9, atol=1e-9)
    for start in range(7):
        later = sequential_omnibus(image[start:], enl=ENL).p_value
        np.testing.assert_allclose(later, REFERENCE[f"{channels}_pQ"][start], rtol=0, atol=1e-5)
    near = (np.abs(REFERENCE[f"{channels}_pQ"] - 1e-3) < 1e-6).any(axis=0)
    assert near.mean() < 0.01
    for name, key in [("first_change", "smap"), ("last_change", "cmap"), ("n_changes", "fmap")]:
        expect = REFERENCE[f"{channels}_{key}"]
        assert expect.any()
        np.testing.assert_array_equal(found[name].values[~near], expect[~near], err_msg=name)


@pytest.mark.parametrize("channels", CHANNELS)
def test_intervals_against_independent_numbers_and_their_sum(channels):
    image = REFERENCE["intensity"][:, CHANNELS[channels]].astype(np.float64)
    image = image.reshape(*image.shape[:2], -1)
    total, ln_q = image[0], 0
    for j in range(1, 8):
        ln_r, p_value = interval_test(total, image[j], np.full(image.shape[2], float(j)), ENL)
        expect = REFERENCE[f"{channels}_pR_first"][j - 1].ravel()
        np.testing.assert_allclose(p_value, expect, rtol=0, atol=1e-5)
        total, ln_q = total + image[j], ln_q + ln_r
    logs = 8 * np.log(8) * len(total) + np.log(image).sum(axis=(0, 1)) - 8 * np.log(total).sum(axis=0)
    np.testing.assert_allclose(ln_q, ENL * logs, rtol=1e-10, atol=1e-10)


def test_two_dates_against_the_first_interval():
    before, after = (xr.DataArray(REFERENCE["intensity"][t], dims=("band", "y", "x")) for t in (0, 1))
    found = omnibus(before, after, enl=ENL)
    np.testing.assert_allclose(found.p_value, REFERENCE["dual_pR_first"][0], rtol=0, atol=1e-5)


def test_one_channel_agrees_with_the_exact_distribution_of_the_ratio():
    ratio = np.array([0.05, 0.2, 0.5, 1, 2, 6, 12])
    before = xr.DataArray(np.full((1, 1, 7), 0.1), dims=("band", "y", "x"))
    for looks in (3.0, 4.4, 20.0):
        share = 1 / (1 + ratio)  # b/a is F distributed, so a/(a + b) is beta distributed
        low = np.minimum(share, 1 - share)
        exact = 2 * betainc(looks, looks, low)
        found = omnibus(before, before * ratio, enl=looks).p_value[0]
        np.testing.assert_allclose(found, exact, rtol=0.02, atol=1e-12)


# --- error rates -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bands", [1, 2])
def test_error_rate_of_two_dates(bands):
    p_value = omnibus(*pair(1, (bands, 700, 700)), enl=4.4).p_value.values
    assert abs((p_value < 0.01).mean() - 0.01) < 0.001
    assert abs((p_value < 0.001).mean() - 0.001) < 0.0002


def test_error_rate_with_estimated_looks():
    p_value = omnibus(*pair(2, (2, 700, 700))).p_value.values
    assert abs((p_value < 0.01).mean() - 0.01) < 0.002
    assert abs((p_value < 0.001).mean() - 0.001) < 0.0002


def test_error_rate_of_many_dates_with_gaps():
    rng = np.random.default_rng(3)
    image = series(4, (6, 2, 300, 300))
    image.values[rng.random(image.shape) < 0.15] = np.nan
    found = sequential_omnibus(image, enl=4.4, alpha=0.01)
    p_value = found.p_value.values[found.n_valid.values > 1]
    assert abs((p_value < 0.01).mean() - 0.01) < 0.002
    assert abs((p_value < 0.001).mean() - 0.001) < 0.0003
    assert (found.n_changes.values > 0).mean() <= (p_value < 0.01).mean()
    assert len(np.unique(found.n_valid)) > 3


# --- looks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("enl", [1.0, 4.4, 12.0, 100.0])
def test_looks_are_found_despite_fields(enl):
    before, after = pair(5, (2, 320, 320), enl)
    fields = np.kron(np.random.default_rng(6).uniform(0.1, 3, (11, 11)), np.ones((30, 30)))[:320, :320]
    assert float(equivalent_looks(before * fields, after * fields)) == pytest.approx(enl, rel=0.03)


def test_looks_skip_what_is_invalid_and_need_a_window():
    before, after = pair(7, (2, 160, 160))
    whole = float(equivalent_looks(before, after))
    before.values[0, :40], before.values[1, 60:70] = np.nan, 0
    after.values[0, 80:90, 3] = np.inf
    assert float(equivalent_looks(before, after)) == pytest.approx(whole, rel=0.05)
    with pytest.raises(DegenerateError, match="give the equivalent number of looks"):
        omnibus(*pair(0, (2, 7, 40)))
    with pytest.raises(DegenerateError, match="at least 1"):
        looks_of(np.array([1.5]))


# --- properties --------------------------------------------------------------------------------------------

powers = arrays(
    np.float64, (5, 2, 3, 4), elements=st.floats(1e-4, 10) | st.sampled_from([np.nan, np.inf, 0.0, -1.0])
)


@settings(max_examples=40, deadline=None)
@given(values=powers, gain=st.floats(0.01, 100))
def test_gain_order_and_invalid_pixels(values, gain):
    before, after = (xr.DataArray(v, dims=("band", "y", "x")) for v in values[:2])
    kept = values.copy()
    found = omnibus(before, after, enl=5)
    for name in ("magnitude", "p_value"):
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], omnibus(after, before, enl=5)[name])
    scaled = omnibus(before * gain, after * gain, enl=5)
    np.testing.assert_allclose(scaled.magnitude, found.magnitude, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(values, kept)
    usable = ((values[:2] > 0) & np.isfinite(values[:2])).all(axis=(0, 1))
    np.testing.assert_array_equal(np.isfinite(found.magnitude), usable)
    np.testing.assert_array_equal(np.isfinite(found.p_value), usable)
    alike = omnibus(before, before, enl=5)
    assert (alike.magnitude.values[usable] == 0).all() and (alike.p_value.values[usable] == 1).all()


@settings(max_examples=30, deadline=None)
@given(values=powers)
def test_only_valid_dates_count(values):
    found = sequential_omnibus(xr.DataArray(values, dims=("time", "band", "y", "x")), enl=5, alpha=0.05)
    usable = ((values > 0) & np.isfinite(values)).all(axis=1)
    np.testing.assert_array_equal(found.n_valid, usable.sum(axis=0))
    for y, x in np.ndindex(3, 4):
        dates = np.flatnonzero(usable[:, y, x])
        here = found.isel(y=y, x=x)
        if dates.size < 2:
            assert np.isnan(here.p_value) and np.isnan(here.ln_q) and here.n_changes == 0
            continue
        short = sequential_omnibus(
            xr.DataArray(values[dates][..., y : y + 1, x : x + 1], dims=("time", "band", "y", "x")),
            enl=5,
            alpha=0.05,
        ).isel(y=0, x=0)
        assert here.ln_q == pytest.approx(float(short.ln_q), rel=1e-10, abs=1e-10)
        assert here.n_changes == short.n_changes
        if here.n_changes:
            assert here.first_change == dates[int(short.first_change)]
            assert here.first_change_since == dates[int(short.first_change) - 1]
            assert here.last_change == dates[int(short.last_change)]


def test_a_strong_step_is_dated_between_valid_dates_with_its_sign():
    image = series(8, (8, 2, 1, 3)) * 0 + np.float32(0.01)
    image.values[4:, :, 0, 0] = 1.0
    image.values[3, 0, 0, 0] = np.nan
    image.values[2:5, :, 0, 1] = 1e-4
    image.values[3:, 0, 0, 2], image.values[3:, 1, 0, 2] = 1.0, 1e-4
    found = sequential_omnibus(image, enl=10).isel(y=0)
    np.testing.assert_array_equal(found.first_change, [4, 2, 3])
    np.testing.assert_array_equal(found.first_change_since, [2, 1, 2])
    np.testing.assert_array_equal(found.last_change, [4, 5, 3])
    np.testing.assert_array_equal(found.n_changes, [1, 2, 1])
    np.testing.assert_array_equal(found.first_change_sign, [1, -1, 0])


@pytest.mark.parametrize("chunks", [{"y": 7, "x": 31}, {"y": 60, "x": 13}, {"band": 1, "y": 11, "x": 70}])
def test_chunks_change_nothing(chunks):
    before, after = pair(9)
    before.values[0, 5, 6], after.values[1, 30:40, 9] = np.nan, 0
    with dask.config.set(scheduler="sync"):
        xr.testing.assert_equal(omnibus(before.chunk(chunks), after).compute(), omnibus(before, after))
        assert omnibus(before.chunk(chunks), after).magnitude.chunks is not None
        image = xr.concat([before, after, before, after * 3], "time")
        lazy = sequential_omnibus(image.chunk(chunks))
        assert all(v.chunks is not None for v in lazy.values())
        xr.testing.assert_equal(lazy.compute(), sequential_omnibus(image))
    assert omnibus(before, after, threads=3).identical(omnibus(before, after))


def test_results_keep_the_grid_and_take_one_band_or_none():
    grid = Grid.make("EPSG:32652", Affine(10, 0, 500_000, 0, -10, 4_800_000), (16, 24))
    values = pair(10, (2, 16, 24))[0].values
    image = attach(values, grid, dims=("band", "y", "x"), coords={"band": ["vv", "vh"]})
    for found in (omnibus(image, image * 2), sequential_omnibus(xr.concat([image, image * 2], "time"))):
        assert Grid.of(found.p_value).same_as(grid)
    one = image.isel(band=0)
    found = omnibus(one, one * 2)
    np.testing.assert_array_equal(found.magnitude, omnibus(image[:1], image[:1] * 2).magnitude)
    assert found.magnitude.attrs["units"] == "1"


def test_what_is_refused():
    before, after = pair()
    for enl in (0.5, np.nan, np.inf):
        with pytest.raises(SettingError, match="at least 1"):
            omnibus(before, after, enl=enl)
    with pytest.raises(SettingError, match="alpha"):
        sequential_omnibus(series(), enl=4, alpha=0)
    with pytest.raises(InputError, match="wanted"):
        sequential_omnibus(series().isel(band=0), enl=4)
