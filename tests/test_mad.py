"""mad and irmad: moments that merge, independent numbers, invariances, false alarms, and what is refused."""

from itertools import pairwise
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import eigh
from scipy.stats import chi2

from changedet.errors import DegenerateError, SettingError
from changedet.steps._mad import canonical
from changedet.steps._statistics import (
    RIDGES,
    Moments,
    chi_square_sf,
    combined,
    consistency_factor,
    factored,
    moments,
    symmetric_definite,
)
from changedet.steps.difference import difference

HERE = Path(__file__).parent / "reference"
IMAGES = np.load(HERE / "bitemporal_difference.npz")
REFERENCE = np.load(HERE / "bitemporal_statistics.npz")
IRMAD_CHI2 = np.load(HERE / "irmad_chi2.npz")["canty_irmad_chi2"]
METHODS = ["mad", "irmad"]


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


# --- moments -----------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, 40), max_size=6), holes=st.booleans())
def test_moments_merge(seed, cuts, holes):
    rng = np.random.default_rng(seed)
    before, after = rng.normal(0.02, 0.002, (2, 3, 40, 5)).astype(np.float32)
    if holes:
        before[rng.random(before.shape) < 0.1], after[1, 3:8] = np.nan, np.inf
    weighting = difference_axes(before, after)
    whole = moments(before, after, weighting=weighting)
    edges = [0, *sorted(cuts), 40]
    parts = [moments(before[:, a:b], after[:, a:b], weighting=weighting) for a, b in pairwise(edges)]
    total = parts[0]
    for part in parts[1:]:
        total = combined(total, part)
    for name in ("number", "weight", "weight2", "shift", "mean"):
        np.testing.assert_allclose(getattr(total, name), getattr(whole, name), rtol=1e-12)
    scale = np.sqrt(np.outer(np.diag(whole.products), np.diag(whole.products)))
    assert np.abs((total.products - whole.products) / scale).max() < 1e-12
    same = Moments.unpacked(whole.packed(), 6)
    np.testing.assert_array_equal(same.packed(), whole.packed())


def difference_axes(before, after):
    from changedet.steps._mad import _MAD
    from changedet.steps._statistics_layers import fitted

    return fitted(plain(before), plain(after), _MAD).axes


def test_moments_are_numpys():
    before, after, _ = drawn()
    both = np.concatenate([before, after]).reshape(6, -1)
    found = moments(before, after)
    np.testing.assert_allclose(found.mean, both.mean(axis=1), rtol=1e-13)
    np.testing.assert_allclose(found.products / (found.weight - 1), np.cov(both), rtol=1e-12)
    axes = difference_axes(before, after)
    weights = axes.no_change(both - axes.center[:, None])
    found = moments(before, after, weighting=axes)
    np.testing.assert_allclose(found.products / found.weight, np.cov(both, aweights=weights, ddof=0))
    assert found.effective == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert found.shift == pytest.approx(1 - weights.min())


def test_float32_of_dark_water_keeps_its_variance():
    rng = np.random.default_rng(1)
    values = (1000 + rng.normal(0, 0.01, (1, 50, 50))).astype(np.float32)
    found = moments(values, values)
    np.testing.assert_allclose(found.variance, values.astype(np.float64).var(), rtol=1e-12)


def test_an_empty_set_changes_nothing():
    before, after, _ = drawn(size=20)
    found, empty = moments(before, after), moments(before[:, :0], after[:, :0])
    assert empty.number == 0 and empty.effective == 0
    for total in (combined(found, empty), combined(empty, found)):
        np.testing.assert_array_equal(total.packed(), found.packed())


# --- numbers behind ----------------------------------------------------------------------------------------


def test_consistency_factor():
    table = {
        1: 0.3634, 2: 0.5, 3: 0.5756, 4: 0.625, 5: 0.6605, 6: 0.6875, 8: 0.7266, 10: 0.7539, 13: 0.7829,
    }  # fmt: skip
    assert {p: round(consistency_factor(p), 4) for p in table} == table
    a, b = np.random.default_rng(0).chisquare(7, (2, 400_000))
    assert consistency_factor(7) == pytest.approx(np.minimum(a, b).mean() / 7, abs=2e-3)


@pytest.mark.parametrize("dof", range(1, 14))
def test_chi_square_tail(dof):
    values = np.concatenate([[0], np.geomspace(1e-8, 700, 200)])
    np.testing.assert_allclose(chi_square_sf(values, dof), chi2.sf(values, dof), rtol=1e-11)
    assert chi_square_sf(np.array([1e300, np.inf]), dof).tolist() == [0, 0]


def test_eigenproblem_is_scipys():
    a, b = (m @ m.T for m in np.random.default_rng(2).normal(size=(2, 5, 9)))
    values, vectors, ridge = symmetric_definite(a, b)
    np.testing.assert_allclose(values, eigh(a, b, eigvals_only=True), rtol=1e-10)
    np.testing.assert_allclose(vectors.T @ b @ vectors, np.eye(5), atol=1e-10)
    assert ridge == 0


def test_ridge_grows_until_it_helps():
    assert factored(np.eye(3))[1] == 0 and factored(np.ones((3, 3)))[1] == RIDGES[1]
    indefinite = np.array([[1, 1 + 1e-6], [1 + 1e-6, 1]])
    lower, ridge = factored(indefinite)
    assert ridge == pytest.approx(1e-5)
    np.testing.assert_allclose(lower @ lower.T, indefinite + ridge * np.eye(2))
    with pytest.raises(DegenerateError, match="--bands"):
        factored(np.array([[1, 1.1], [1.1, 1]]))


# --- against independent numbers ---------------------------------------------------------------------------


def test_mad_reference():
    found = difference(plain(IMAGES["x"]), plain(IMAGES["y"]), "mad")
    np.testing.assert_allclose(statistic(found), REFERENCE["canty_mad_chi2"], rtol=1e-4)
    rho = found.attrs["canonical_correlation"]
    np.testing.assert_allclose(rho, REFERENCE["canty_mad_rho"], atol=1e-7)
    np.testing.assert_allclose(rho, REFERENCE["sklearn_cca_rho"], atol=1e-6)
    theirs = np.abs(REFERENCE["otb_mad"][::-1])  # in ascending order of ρ, any sign
    np.testing.assert_allclose(np.abs(found.components), theirs, rtol=1e-4, atol=1e-6)


def test_irmad_reference():
    """The published algorithm; the peer stops after 15 passes (16 masked), where its ρ moves by 0.001."""
    images = plain(IMAGES["x"]), plain(IMAGES["y"])
    found = difference(*images, "irmad", consistency=False, max_iterations=15)
    np.testing.assert_allclose(statistic(found), IRMAD_CHI2, rtol=2e-4)
    np.testing.assert_allclose(found.attrs["canonical_correlation"], REFERENCE["canty_irmad_rho"], atol=1e-5)
    assert difference(*images, "irmad", consistency=False, tolerance=1e-3).attrs["iterations"] == 15
    masked = images[0].where(REFERENCE["valid"])
    found = difference(masked, images[1], "irmad", consistency=False, max_iterations=16)
    np.testing.assert_array_equal(np.isfinite(found.p_value), REFERENCE["valid"])
    np.testing.assert_allclose(statistic(found), REFERENCE["canty_irmad_masked_chi2"], rtol=2e-4)
    np.testing.assert_allclose(
        found.attrs["canonical_correlation"], REFERENCE["canty_irmad_masked_rho"], atol=1e-5
    )


def test_p_values_are_those_of_the_statistic():
    found = difference(plain(IMAGES["x"]), plain(IMAGES["y"]), "mad")
    np.testing.assert_allclose(found.p_value, chi2.sf(statistic(found), 6), rtol=1e-4, atol=1e-30)


# --- invariances -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000))
def test_blind_to_any_linear_change_of_the_bands(method, seed):
    before, after, _ = drawn(seed, size=30, changed=0.1)
    rng = np.random.default_rng(seed + 1)
    first, second = rng.normal(size=(2, 3, 3)) + 3 * np.eye(3)
    turned = np.tensordot(first, before, 1) + rng.normal(size=(3, 1, 1)), 100 * np.tensordot(second, after, 1)
    one, two = difference(*map(plain, (before, after)), method), difference(*map(plain, turned), method)
    np.testing.assert_allclose(two.magnitude, one.magnitude, rtol=1e-6)
    np.testing.assert_allclose(np.abs(two.components), np.abs(one.components), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        two.attrs["canonical_correlation"], one.attrs["canonical_correlation"], rtol=1e-7
    )


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
    assert difference(plain(before), plain(after), "mad").components.values[0, 10:15, 10:15].min() > 1


def test_order_and_variances():
    before, after, _ = drawn(3, bands=5)
    found = difference(plain(before), plain(after), "mad")
    rho = np.array(found.attrs["canonical_correlation"])
    assert (np.diff(rho) < 0).all() and ((rho >= 0) & (rho < 1)).all()
    np.testing.assert_allclose(found.attrs["variance"], 2 * (1 - rho))
    parts = found.components.values.reshape(5, -1).astype(np.float64)
    np.testing.assert_allclose(np.cov(parts), np.diag(2 * (1 - rho)), atol=1e-6)
    assert parts.var(axis=1, ddof=1).sum() == pytest.approx(2 * (1 - rho).sum(), rel=1e-6)
    assert list(found.components.band.values) == ["mad1", "mad2", "mad3", "mad4", "mad5"]


def test_variates_are_canonical():
    before, after, _ = drawn(4)
    both = np.corrcoef(np.concatenate([before, after]).reshape(6, -1))
    found = canonical(both)
    f, g = found.before, found.after
    np.testing.assert_allclose(f @ both[:3, :3] @ f.T, np.eye(3), atol=1e-10)
    np.testing.assert_allclose(g @ both[3:, 3:] @ g.T, np.eye(3), atol=1e-10)
    np.testing.assert_allclose(f @ both[:3, 3:] @ g.T, np.diag(found.values), atol=1e-10)
    assert ((f @ both[:3, :3] + g @ both[3:, 3:]).sum(axis=1) > 0).all()


def test_one_pass_is_mad():
    images = [plain(v) for v in drawn(5)[:2]]
    one, two = difference(*images, "irmad", max_iterations=1), difference(*images, "mad")
    for name in two:
        np.testing.assert_array_equal(one[name], two[name])
    assert one.attrs == two.attrs and two.attrs["iterations"] == 1


# --- false alarms ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bands", [1, 2, 3, 4, 6])
def test_false_alarms_without_change(bands):
    images = [plain(v) for v in drawn(bands, bands, size=180)[:2]]
    found = difference(*images, "irmad")
    assert (found.p_value.values < 0.01).mean() == pytest.approx(0.01, abs=0.003)
    assert (found.p_value.values < 0.5).mean() == pytest.approx(0.5, abs=0.02)
    assert found.attrs["converged"] and found.attrs["iterations"] < 30
    if bands > 2:
        published = difference(*images, "irmad", consistency=False)
        assert (published.p_value.values < 0.01).mean() > 0.2


@pytest.mark.parametrize("bands", [3, 6])
def test_strong_change_is_found_and_does_not_spoil_the_rest(bands):
    before, after, moved = drawn(7, bands, size=120, changed=0.1, strength=10)
    found = difference(plain(before), plain(after), "irmad")
    alarm = found.p_value.values < 0.01
    assert alarm[moved].mean() > 0.94 and alarm[~moved].mean() == pytest.approx(0.01, abs=0.005)
    plainly = difference(plain(before), plain(after), "mad").p_value.values < 0.01
    assert alarm[moved].mean() > plainly[moved].mean() and plainly[~moved].mean() < 0.001


def test_weights_that_collapse_give_mad():
    before, after = np.random.default_rng(8).normal(size=(2, 3, 60, 60))
    after[:, :1] = before[:, :1]  # few pixels that are alike pull all the weight where nothing corrects it
    found = difference(plain(before), plain(after), "irmad", consistency=False)
    assert found.attrs["fallback"] and found.attrs["effective_number"] < 0.05 * 3600
    assert any("collapsed" in words for words in found.attrs["warnings"])
    np.testing.assert_array_equal(found.magnitude, difference(plain(before), plain(after), "mad").magnitude)


def test_too_few_passes_are_told():
    images = [plain(v) for v in drawn(9, changed=0.1)[:2]]
    found = difference(*images, "irmad", max_iterations=3)
    assert found.attrs["iterations"] == 3 and not found.attrs["converged"]
    assert any("did not settle" in words for words in found.attrs["warnings"])
    assert 0.05 < found.attrs["effective_number"] / found.attrs["number"] < 1


# --- bands and pixels that cannot be used ------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_band_is_left_out(method):
    before, after, _ = drawn(10)
    spoiled = [np.insert(v, 1, 0.3, axis=0).astype(np.float32) for v in (before, after)]
    spoiled[1][1] += np.random.default_rng(0).normal(size=(60, 60))  # constant on one date is enough
    names = ["blue", "green", "red", "nir"]
    found = difference(*(plain(v, band=names) for v in spoiled), method)
    clean = difference(*(plain(v.astype(np.float32)) for v in (before, after)), method)
    np.testing.assert_allclose(found.magnitude, clean.magnitude, rtol=1e-6)
    assert found.attrs["dropped_bands"] == ["green"] and found.attrs["dof"] == 3
    assert "green" in found.attrs["warnings"][0]


@pytest.mark.parametrize("method", METHODS)
def test_a_repeated_band_adds_no_degree_of_freedom(method):
    before, after, _ = drawn(11)
    doubled = [np.concatenate([v, 2 * v[:1] + 1]) for v in (before, after)]
    found, clean = difference(*map(plain, doubled), method), difference(plain(before), plain(after), method)
    assert found.attrs["ridge"] == 1e-8 and found.attrs["dof"] == 3 and found.sizes["band"] == 3
    np.testing.assert_allclose(found.magnitude, clean.magnitude, rtol=1e-3)
    assert any("repeat" in words for words in found.attrs["warnings"])


@pytest.mark.parametrize("method", METHODS)
def test_pixels_that_are_not_finite_are_left_out(method):
    before, after, _ = drawn(12)
    bad = np.zeros((60, 60), bool)
    bad[3, 4] = bad[7, :9] = bad[50:, 50:] = True
    clean = difference(*(plain(v).where(~bad) for v in (before, after)), method)
    before[0, 3, 4], after[2, 7, :9], before[:, 50:, 50:] = np.inf, -np.inf, np.nan
    found = difference(plain(before), plain(after), method)
    for name in found:
        np.testing.assert_array_equal(found[name], clean[name])
        np.testing.assert_array_equal(np.isfinite(found[name]), np.broadcast_to(~bad, found[name].shape))
    assert found.attrs["number"] == 3600 - bad.sum()


@pytest.mark.parametrize("method", METHODS)
def test_what_determines_nothing_is_refused(method):
    before, after, _ = drawn(13, size=8)
    difference(plain(before), plain(after), method)
    before[0, 0, :5] = np.nan
    with pytest.raises(DegenerateError, match=r"59 pixels .* at least 60"):
        difference(plain(before), plain(after), method)
    before[1] = np.nan
    with pytest.raises(DegenerateError, match=r"^0 pixels"):
        difference(plain(before), plain(after), method)
    with pytest.raises(DegenerateError, match="constant"):
        difference(plain(np.full((2, 9, 9), 0.1)), plain(after[:2, :1, :1] + np.zeros((2, 9, 9))), method)


@pytest.mark.parametrize("bands", [1, 2])
def test_few_bands_need_the_correction(bands):
    images = [plain(v) for v in drawn(14, bands)[:2]]
    with pytest.raises(SettingError, match="at least 3"):
        difference(*images, "irmad", consistency=False)
    difference(*images, "irmad", consistency=False, max_iterations=1)


@pytest.mark.parametrize("params", [{"max_iterations": 0}, {"tolerance": 0.0}])
def test_settings_that_cannot_be_used(params):
    images = [plain(v) for v in drawn(15)[:2]]
    with pytest.raises(SettingError, match="wanted"):
        difference(*images, "irmad", **params)


def test_one_band_with_or_without_an_axis_and_integers():
    before, after, _ = drawn(16, bands=1)
    counts = [np.round(1000 * (v + 20)).astype(np.uint16) for v in (before, after)]
    one = difference(*map(plain, counts), "irmad")
    two = difference(*(plain(v).isel(band=0) for v in counts), "irmad")
    np.testing.assert_array_equal(one.magnitude, two.magnitude)
    assert two.components.dims == ("band", "y", "x") and two.components.shape == (1, 60, 60)
    floats = difference(*(plain(v.astype(np.float64)) for v in counts), "irmad")
    np.testing.assert_array_equal(one.magnitude, floats.magnitude)


# --- chunks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=6, deadline=None)
@given(y=st.integers(7, 40), x=st.integers(7, 40), seed=st.integers(0, 100))
def test_equal_on_any_chunking(method, y, x, seed):
    before, after, _ = drawn(seed, size=40, changed=0.1)
    before[:, :9, :9] = np.nan
    kept = before.copy(), after.copy()
    eager = difference(plain(before), plain(after), method)
    with dask.config.set(scheduler="sync"):
        lazy = difference(plain(before).chunk(y=y, x=x), plain(after).chunk(y=y, x=x), method)
        assert all(v.chunks is not None and v.dtype == np.float32 for v in lazy.values())
        assert lazy.attrs["iterations"] == eager.attrs["iterations"]
        for name in eager:
            np.testing.assert_allclose(lazy[name], eager[name], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(before, kept[0])
    np.testing.assert_array_equal(after, kept[1])


def test_threads_give_the_same():
    images = [plain(v).chunk(y=20) for v in drawn(17)[:2]]
    one, two = (difference(*images, "irmad", threads=n).compute() for n in (1, 2))
    xr.testing.assert_identical(one, two)
