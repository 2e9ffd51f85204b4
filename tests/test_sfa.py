"""sfa and isfa: independent numbers, invariances, false alarms, and what is refused."""

from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import eigh

from changedet.errors import DegenerateError, SettingError
from changedet.steps._sfa import slow_features
from changedet.steps.difference import difference

HERE = Path(__file__).parent / "reference"
IMAGES = np.load(HERE / "bitemporal_difference.npz")
REFERENCE = np.load(HERE / "bitemporal_statistics.npz")
METHODS = ["sfa", "isfa"]


def plain(values, **coords):
    return xr.DataArray(values, dims=("band", "y", "x"), coords=coords)


def drawn(seed=0, bands=3, size=60, changed=0.0, strength=2.0):
    """Two dates that share a mixed signal; some of the pixels of the second are moved by ``strength``."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(bands, bands)) + 2 * np.eye(bands)
    shared = rng.normal(size=(bands, size, size))
    before, after = (
        np.tensordot(mixing, shared + 0.4 * rng.normal(size=shared.shape), 1) + 5 for _ in range(2)
    )
    moved = rng.random((size, size)) < changed
    after[:, moved] += strength * rng.normal(size=(bands, int(moved.sum())))
    return before, after, moved


def statistic(found):
    return found.magnitude.values.astype(np.float64) ** 2


def slowness(found):
    return np.array(found.attrs["slow_feature_variance"])


# --- numbers -----------------------------------------------------------------------------------------------


def test_reference():
    found = difference(plain(IMAGES["x"]), plain(IMAGES["y"]), "sfa")
    np.testing.assert_allclose(slowness(found), REFERENCE["sfa_lambda"], rtol=1e-8)
    np.testing.assert_allclose(statistic(found), REFERENCE["sfa_chi2"], rtol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_features_solve_the_eigenproblem(seed):
    before, after, _ = drawn(seed, bands=4)
    r = np.corrcoef(np.concatenate([before, after]).reshape(8, -1))
    a = r[:4, :4] + r[4:, 4:] - r[:4, 4:] - r[4:, :4]
    b = (r[:4, :4] + r[4:, 4:]) / 2
    found = slow_features(r)
    np.testing.assert_allclose(found.values, eigh(a, b, eigvals_only=True), rtol=1e-10)
    np.testing.assert_allclose(found.after @ b @ found.after.T, np.eye(4), atol=1e-10)
    np.testing.assert_allclose(found.after @ a @ found.after.T, np.diag(found.values), atol=1e-10)
    assert ((found.after @ b).sum(axis=1) > 0).all()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), opposite=st.floats(-1, 1))
def test_variances_are_zero_to_four(seed, opposite):
    before, after, _ = drawn(seed, size=12)
    found = slow_features(
        np.corrcoef(np.concatenate([before, after + 50 * opposite * before]).reshape(6, -1))
    )
    assert (found.values > -1e-9).all() and (found.values < 4 + 1e-9).all()
    assert (np.diff(found.values) >= 0).all() and (found.variance >= 1e-9).all()


def test_inverted_images_differ_most():
    before, _, _ = drawn()
    np.testing.assert_allclose(slowness(difference(plain(before), plain(-before), "sfa")), 4)


def test_components_have_the_variance_they_say():
    before, after, _ = drawn(3, bands=5)
    found = difference(plain(before), plain(after), "sfa")
    parts = found.components.values.reshape(5, -1).astype(np.float64)
    np.testing.assert_allclose(np.cov(parts, ddof=0), np.diag(slowness(found)), atol=1e-6)
    assert statistic(found).mean() == pytest.approx(5, rel=1e-6)
    assert list(found.components.band.values) == ["sfa1", "sfa2", "sfa3", "sfa4", "sfa5"]


# --- invariances -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000))
def test_blind_to_gain_and_offset_of_each_band(method, seed):
    before, after, _ = drawn(seed, size=30, changed=0.1)
    gain, offset = np.random.default_rng(seed).uniform(0.1, 10, (2, 2, 3, 1, 1))
    one = difference(plain(before), plain(after), method)
    two = difference(plain(gain[0] * before - offset[0]), plain(gain[1] * after + offset[1]), method)
    np.testing.assert_allclose(two.magnitude, one.magnitude, rtol=1e-6)
    np.testing.assert_allclose(two.components, one.components, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(slowness(two), slowness(one), rtol=1e-7)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(5))
def test_exchange_of_dates_turns_the_sign(method, seed):
    before, after, _ = drawn(seed, bands=4, changed=0.1)
    one, two = (difference(*map(plain, p), method) for p in ((before, after), (after, before)))
    np.testing.assert_allclose(two.components, -one.components, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(two.magnitude, one.magnitude, rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_image_twice_has_not_changed(method):
    before, _, _ = drawn()
    for after in (before, 3 * before + 1):
        found = difference(plain(before), plain(after), method)
        assert found.magnitude.values.max() < 1e-3 and found.p_value.values.min() > 0.999


def test_brighter_after_is_positive():
    before, after, _ = drawn(bands=1)
    after[0, 10:15, 10:15] += 20
    assert difference(plain(before), plain(after), "sfa").components.values[0, 10:15, 10:15].min() > 1


def test_one_pass_is_sfa():
    images = [plain(v) for v in drawn(5)[:2]]
    one, two = difference(*images, "isfa", max_iterations=1), difference(*images, "sfa")
    for name in two:
        np.testing.assert_array_equal(one[name], two[name])
    assert one.attrs == two.attrs


# --- false alarms ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 6])
def test_false_alarms_without_change(bands):
    images = [plain(v) for v in drawn(bands, bands, size=180)[:2]]
    found = difference(*images, "isfa")
    assert (found.p_value.values < 0.01).mean() == pytest.approx(0.01, abs=0.003)
    assert (found.p_value.values < 0.5).mean() == pytest.approx(0.5, abs=0.02)
    assert found.attrs["converged"] and found.attrs["iterations"] < 30
    if bands > 2:
        published = difference(*images, "isfa", consistency=False)
        assert (published.p_value.values < 0.01).mean() > 0.2


@pytest.mark.parametrize("bands", [3, 6])
def test_strong_change_is_found_and_does_not_spoil_the_rest(bands):
    before, after, moved = drawn(7, bands, size=120, changed=0.1, strength=10)
    alarm = difference(plain(before), plain(after), "isfa").p_value.values < 0.01
    assert alarm[moved].mean() > 0.94 and alarm[~moved].mean() == pytest.approx(0.01, abs=0.005)
    plainly = difference(plain(before), plain(after), "sfa").p_value.values < 0.01
    assert alarm[moved].mean() > plainly[moved].mean()


# --- bands and pixels that cannot be used ------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_constant_and_repeated_bands(method):
    before, after, _ = drawn(10)
    clean = difference(plain(before), plain(after), method)
    flat = [np.insert(v, 1, 0.3, axis=0) for v in (before, after)]
    found = difference(*(plain(v, band=["blue", "green", "red", "nir"]) for v in flat), method)
    np.testing.assert_allclose(found.magnitude, clean.magnitude, rtol=1e-6)
    assert found.attrs["dropped_bands"] == ["green"] and found.attrs["dof"] == 3
    doubled = [np.concatenate([v, 2 * v[:1] + 1]) for v in (before, after)]
    found = difference(*map(plain, doubled), method)
    assert found.attrs["ridge"] == 1e-8 and found.attrs["dof"] == 3
    np.testing.assert_allclose(found.magnitude, clean.magnitude, rtol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_pixels_and_images_that_cannot_be_used(method):
    before, after, _ = drawn(12, size=20)
    before[0, 3, 4], after[2, 7, :9] = np.inf, np.nan
    found = difference(plain(before), plain(after), method)
    bad = np.zeros((20, 20), bool)
    bad[3, 4] = bad[7, :9] = True
    for name in found:
        np.testing.assert_array_equal(np.isnan(found[name]), np.broadcast_to(bad, found[name].shape))
    with pytest.raises(DegenerateError, match="48 pixels"):
        difference(plain(before[:, 12:16, :12]), plain(after[:, 12:16, :12]), method)
    with pytest.raises(DegenerateError, match="constant"):
        difference(plain(np.ones_like(before)), plain(after), method)


def test_few_bands_need_the_correction():
    images = [plain(v) for v in drawn(14, 2)[:2]]
    with pytest.raises(SettingError, match="at least 3"):
        difference(*images, "isfa", consistency=False)


# --- chunks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=6, deadline=None)
@given(y=st.integers(7, 40), x=st.integers(7, 40), seed=st.integers(0, 100))
def test_equal_on_any_chunking(method, y, x, seed):
    before, after, _ = drawn(seed, size=40, changed=0.1)
    before[:, :9, :9] = np.nan
    eager = difference(plain(before), plain(after), method)
    with dask.config.set(scheduler="sync"):
        lazy = difference(plain(before).chunk(y=y, x=x), plain(after).chunk(y=y, x=x), method)
        assert all(v.chunks is not None and v.dtype == np.float32 for v in lazy.values())
        assert lazy.attrs["iterations"] == eager.attrs["iterations"]
        for name in eager:
            np.testing.assert_allclose(lazy[name], eager[name], rtol=1e-5, atol=1e-6)
