"""The best step of every pixel: against a loop, against other software, and what holds for any numbers."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from changedet.steps import breaks
from changedet.steps.breaks import NullScale, Step

REFERENCE = Path(__file__).parent / "reference" / "stack_step.npz"
EYE = np.eye(3)


def numbers(seed, *, times=12, bands=3, pixels=40, gaps=0.2):
    """Random residuals and weights; gaps hold wild values that must not count."""
    rng = np.random.default_rng(seed)
    residual = rng.normal(0, 0.1, (times, bands, pixels)).astype(np.float32)
    weight = rng.uniform(20, 400, residual.shape).astype(np.float32)
    lost = rng.random((times, 1, pixels)) < gaps
    weight = np.where(lost, 0, weight).astype(np.float32)
    residual = np.where(lost, rng.choice([np.nan, 1e6, -7.0], residual.shape), residual).astype(np.float32)
    return residual, weight


def loop(residual, weight, whiten, *, min_side=3, lengths=(0,)):
    """Slow and literal: for one pixel, every break and every length; returns all that was tried."""
    times = residual.shape[0]
    used = (weight > 0).all(axis=1)
    tried = {}
    for k in range(min_side, times - min_side + 1):
        for length in lengths:
            end = times if length == 0 else min(k + length, times)
            before, after = np.flatnonzero(used[:k]), k + np.flatnonzero(used[k:end])
            if before.size < min_side or after.size < min_side:
                continue
            step, variance = [], []
            for band in range(residual.shape[1]):
                sides = [(residual[t, band].astype(float), weight[t, band].astype(float))
                         for t in (before, after)]  # fmt: skip
                (low, wl), (high, wh) = sides
                step.append((wh * high).sum() / wh.sum() - (wl * low).sum() / wl.sum())
                variance.append(1 / wl.sum() + 1 / wh.sum())
            white = whiten @ (np.array(step) / np.sqrt(variance))
            tried[k, end] = float(np.sqrt(white @ white)), np.array(step)
    return tried


@pytest.mark.parametrize("min_side", [2, 3, 4])
@pytest.mark.parametrize("lengths", [(0,), (0, 5), (4,), (0, 4, 6)])
@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1), gaps=st.sampled_from([0.0, 0.2, 0.5, 0.8]))
def test_best_step_against_a_loop(min_side, lengths, seed, gaps):
    residual, weight = numbers(seed, pixels=8, gaps=gaps)
    whiten = np.random.default_rng(seed).normal(0, 1, (3, 3))
    found = breaks.best_step(residual, weight, whiten, min_side=min_side, lengths=lengths)
    for i in range(8):
        tried = loop(residual[..., i], weight[..., i], whiten, min_side=min_side, lengths=lengths)
        if not tried:
            assert np.isnan(found.score[i]) and found.index[i] == -1 and found.length[i] == 0
            np.testing.assert_array_equal(found.delta[:, i], 0)
            continue
        best = max(score for score, _ in tried.values())
        assert found.score[i] == pytest.approx(best, rel=1e-4, abs=1e-4)
        own, step = tried[int(found.index[i]), int(found.index[i] + found.length[i])]
        assert own == pytest.approx(best, rel=1e-4, abs=1e-4)  # ties may fall either way
        np.testing.assert_allclose(found.delta[:, i], step, rtol=1e-4, atol=1e-4)


def test_types_and_shapes():
    residual, weight = numbers(0)
    found = breaks.best_step(residual, weight, EYE)
    assert isinstance(found, Step)
    assert (found.score.dtype, found.index.dtype, found.length.dtype, found.delta.dtype) == (
        np.float32, np.int16, np.int16, np.float32)  # fmt: skip
    assert found.score.shape == found.index.shape == found.length.shape == (40,)
    assert found.delta.shape == (3, 40)


@given(
    st.integers(3, 9),
    st.lists(st.floats(-2, 2), min_size=3, max_size=3).filter(lambda d: max(map(abs, d)) > 0.01),
    st.integers(0, 1000),
)
def test_an_injected_step_is_recovered_exactly(k, delta, seed):
    rng = np.random.default_rng(seed)
    level = rng.uniform(-1, 1, (3, 5))
    step = np.array(delta)
    residual = np.repeat(level[None], 12, axis=0)
    residual[k:] += step[:, None]
    weight = rng.uniform(20, 400, (12, 3, 5))
    found = breaks.best_step(residual.astype(np.float32), weight.astype(np.float32), EYE)
    np.testing.assert_array_equal(found.index, k)
    np.testing.assert_array_equal(found.length, 12 - k)
    np.testing.assert_allclose(found.delta, np.broadcast_to(step[:, None], (3, 5)), atol=2e-5)


def test_a_window_finds_what_was_removed_again():
    residual = np.zeros((16, 3, 1), np.float32)
    residual[5:10] = 1
    weight = np.full(residual.shape, 100, np.float32)
    whole = breaks.best_step(residual, weight, EYE)
    window = breaks.best_step(residual, weight, EYE, lengths=(0, 5))
    assert (window.index[0], window.length[0]) == (5, 5)
    np.testing.assert_allclose(window.delta[:, 0], 1, atol=1e-5)
    assert window.score[0] > whole.score[0]


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 20))
def test_scale(seed, factor):
    residual, weight = numbers(seed, gaps=0.2)
    one = breaks.best_step(residual, weight, EYE, lengths=(0, 5))
    wider = breaks.best_step((factor * residual).astype(np.float32), weight, EYE, lengths=(0, 5))
    surer = breaks.best_step(residual, (factor * weight).astype(np.float32), EYE, lengths=(0, 5))
    np.testing.assert_allclose(wider.score, factor * one.score, rtol=1e-3)
    np.testing.assert_allclose(surer.score, np.sqrt(factor) * one.score, rtol=1e-3)
    same = wider.index == one.index  # equal but for near ties
    assert same.mean() > 0.9
    np.testing.assert_allclose(
        wider.delta[:, same], factor * one.delta[:, same], rtol=1e-2, atol=1e-4 * factor
    )


@given(st.integers(0, 2**32 - 1))
def test_sign_and_level(seed):
    residual, weight = numbers(seed)
    one = breaks.best_step(residual, weight, EYE)
    other = breaks.best_step(-residual, weight, EYE)
    np.testing.assert_array_equal(other.score, one.score)
    np.testing.assert_array_equal(other.index, one.index)
    np.testing.assert_array_equal(other.delta, -one.delta)
    moved = breaks.best_step(residual + np.float32(0.5), weight, EYE)
    np.testing.assert_allclose(moved.score, one.score, rtol=5e-3, atol=5e-3)


@given(st.integers(0, 2**32 - 1), st.integers(0, 12))
def test_a_date_without_weight_does_not_count(seed, at):
    residual, weight = numbers(seed, gaps=0.0)
    one = breaks.best_step(residual, weight, EYE)
    for value in (np.nan, np.inf, 1e9, 0.0):
        wider, lighter = np.insert(residual, at, value, axis=0), np.insert(weight, at, 0, axis=0)
        other = breaks.best_step(wider, lighter, EYE)
        np.testing.assert_array_equal(other.score, one.score)
        np.testing.assert_array_equal(other.delta, one.delta)
        # a break at the gap is the same break on either side of it
        kept = np.delete(np.arange(13), at)
        follows = np.append(kept, 13)
        first_used = np.where(other.index == at, at + 1, other.index)
        np.testing.assert_array_equal(first_used, follows[one.index])


def test_a_date_that_lacks_a_band_does_not_count_as_a_date():
    residual, weight = numbers(1, times=6, gaps=0.0)
    assert np.isfinite(breaks.best_step(residual, weight, EYE).score).all()
    weight[4, 1] = 0
    assert np.isnan(breaks.best_step(residual, weight, EYE).score).all()


@pytest.mark.parametrize("times", [1, 3, 5])
def test_too_few_dates_give_no_step(times):
    found = breaks.best_step(np.ones((times, 3, 4), np.float32), np.ones((times, 3, 4), np.float32), EYE)
    assert np.isnan(found.score).all() and (found.index == -1).all() and (found.length == 0).all()


@given(st.integers(0, 2**32 - 1))
def test_a_rotation_of_white_bands_changes_nothing(seed):
    residual, weight = numbers(seed)
    turned, _ = np.linalg.qr(np.random.default_rng(seed).normal(0, 1, (3, 3)))
    one, other = (breaks.best_step(residual, weight, m) for m in (EYE, turned))
    np.testing.assert_allclose(one.score, other.score, rtol=1e-4, atol=1e-4)


def test_pixels_do_not_know_of_each_other():
    residual, weight = numbers(2)
    whole = breaks.best_step(residual, weight, EYE, lengths=(0, 5))
    part = breaks.best_step(residual[..., 10:20], weight[..., 10:20], EYE, lengths=(0, 5))
    np.testing.assert_array_equal(part.score, whole.score[10:20])
    np.testing.assert_array_equal(part.index, whole.index[10:20])


def test_inputs_are_left_alone():
    residual, weight = numbers(3)
    for a in (residual, weight):
        a.setflags(write=False)
    kept = residual.copy(), weight.copy()
    breaks.best_step(residual, weight, EYE, lengths=(0, 5))
    np.testing.assert_array_equal(residual, kept[0])
    np.testing.assert_array_equal(weight, kept[1])


# --------------------------------------------------------------------------------------- other software


@pytest.fixture(scope="module")
def reference():
    with np.load(REFERENCE, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def test_the_best_break_is_that_of_ruptures(reference):
    """Least squares in two levels (Dynp, l2, at least 3 dates a side) is the same break, all weights 1."""
    pixels = np.ascontiguousarray(reference["y"][:, :, :10, :10]).reshape(20, 3, -1)
    found = breaks.best_step(pixels, np.ones_like(pixels), EYE)
    np.testing.assert_array_equal(found.index, reference["ruptures_l2_single_k"].ravel())


def test_strong_steps_lie_where_a_model_with_a_season_puts_them(reference):
    """The loop of the reference fits a season; here it is what unchanged pixels do on the same date."""
    times, bands = reference["y"].shape[:2]
    strength, index = reference["step_sumF"].ravel(), reference["step_k"].ravel()
    values = np.where(reference["valid"][:, None], reference["y"], np.nan).reshape(times, bands, -1)
    quiet = strength < np.median(strength)
    residual = (values - np.nanmedian(values[..., quiet], axis=2, keepdims=True)).astype(np.float32)
    found = breaks.best_step(residual, np.isfinite(residual).astype(np.float32), EYE)
    strong = strength > 50
    assert strong.sum() == 26  # the two blocks that the reference changed, as far as they are plain
    assert (found.index == index)[strong].mean() > 0.8
    assert found.score[strong].min() > np.quantile(found.score[~strong], 0.95)


# --------------------------------------------------------------------------------------- weights, gradient


def test_a_ramp_has_its_gradient_and_gaps_have_none():
    rows, columns = np.mgrid[:8, :9].astype(np.float32)
    image = np.stack([3 * columns + 4 * rows, 0 * rows])
    np.testing.assert_allclose(breaks.gradient(image)[0], 5, rtol=1e-6)
    np.testing.assert_array_equal(breaks.gradient(image)[1], 0)
    image[0, 4, 4] = np.nan
    found = breaks.gradient(image)
    assert found.dtype == np.float32 and np.isfinite(found).all()
    assert (breaks.gradient(image[:, :1, :1]) == 0).all()


def weight_of(**changes):
    given = {
        "residual": np.zeros((2, 1, 3), np.float32),
        "spread": np.full((2, 1, 3), 0.02, np.float32),
        "class_spread": np.full((2, 1, 3), 0.05, np.float32),
        "slope": np.full((1, 3), 0.4, np.float32),
        "tolerance_px": np.array([0.1, 0.5]),
        "floor": 0.03,
    } | changes
    arrays = [given.pop(k) for k in ("residual", "spread", "class_spread", "slope")]
    return breaks.weights(*arrays, **given)


def test_weights_are_one_over_all_variances():
    found = weight_of()
    expected = [1 / (0.05**2 + 0.04**2 + 0.03**2), 1 / (0.05**2 + 0.2**2 + 0.03**2)]
    np.testing.assert_allclose(found[:, 0, 0], expected, rtol=1e-5)
    np.testing.assert_allclose(weight_of(spread=np.full((2, 1, 3), 0.2, np.float32))[0, 0],
                               1 / (0.2**2 + 0.04**2 + 0.03**2), rtol=1e-5)  # fmt: skip


def test_what_is_unknown_has_no_weight_and_an_unknown_spread_is_the_strata_s():
    residual = np.zeros((2, 1, 3), np.float32)
    residual[0, 0, 1] = np.nan
    spread = np.full((2, 1, 3), 0.02, np.float32)
    spread[1, 0, 2] = np.nan
    found = weight_of(residual=residual, spread=spread)
    assert found[0, 0, 1] == 0 and (np.delete(found.ravel(), 1) > 0).all()
    assert found[1, 0, 2] == found[1, 0, 0]


# --------------------------------------------------------------------------------------- whitening, null


def test_whitening_makes_the_bands_independent():
    rng = np.random.default_rng(0)
    mixing = np.array([[1.0, 0, 0], [0.9, 0.4, 0], [-0.3, 0.5, 0.7]])
    values = 0.8 * rng.standard_normal((20_000, 3)) @ mixing.T
    values[::50] = np.nan
    matrix = breaks.whitening(values)
    white = values[np.isfinite(values).all(axis=1)] @ matrix.T
    np.testing.assert_allclose(np.cov(white, rowvar=False), EYE, atol=0.05)


def test_whitening_needs_samples_and_is_not_led_by_what_is_looked_for():
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(breaks.whitening(rng.standard_normal((20, 3))), EYE)
    values = rng.standard_normal((5000, 3))
    built = values.copy()
    built[:50] += 200
    one, other = (m.T @ m for m in map(breaks.whitening, (values, built)))  # lengths, however it is turned
    np.testing.assert_allclose(other, one, atol=0.25)


def test_the_null_of_a_known_distribution():
    rng = np.random.default_rng(0)
    score = 3.0 + 2.0 * rng.exponential(1.0, 200_000)
    null = breaks.null_scale(score)
    spread = 1.4826 * np.log((1 + np.sqrt(5)) / 2)  # MAD of the exponential is ln of the golden ratio
    assert null.location == pytest.approx(3 + 2 * np.log(2), rel=0.01)
    assert null.spread == pytest.approx(2 * spread, rel=0.01)
    assert null.tail == pytest.approx(1 / spread, rel=0.05)
    assert null.n == 200_000
    z = null.z(score)
    for level, factor in ((1.0, 3.0), (2.0, 10.0)):
        rare = (z > null.moved(level, factor)).mean()
        assert rare == pytest.approx((z > level).mean() / factor, rel=0.1)


def test_the_null_of_normal_scores():
    null = breaks.null_scale(np.random.default_rng(0).normal(5, 2, 100_000))
    assert (null.location, null.spread) == (pytest.approx(5, abs=0.05), pytest.approx(2, rel=0.02))


def test_the_null_is_not_led_by_gaps_or_by_what_was_built():
    rng = np.random.default_rng(1)
    score = rng.gamma(4, 1, 50_000)
    null = breaks.null_scale(score)
    gaps = np.where(rng.random(score.size) < 0.3, np.nan, score)
    built = score.copy()
    built[:100] = 80
    for other in (breaks.null_scale(gaps), breaks.null_scale(built)):
        assert other.location == pytest.approx(null.location, rel=0.02)
        assert other.spread == pytest.approx(null.spread, rel=0.03)
        assert other.tail == pytest.approx(null.tail, rel=0.15)
    assert breaks.null_scale(built).z(np.float32(80)) > 20


def test_no_null_from_few_pixels_and_none_that_is_flat():
    assert breaks.null_scale(np.zeros(99)) is None
    assert breaks.null_scale(np.r_[np.ones(99), np.full(500, np.nan)]) is None
    flat = breaks.null_scale(np.ones(200))
    assert np.isfinite(flat.z(np.ones(3))).all() and flat.tail > 0


@given(st.floats(-5, 20), st.floats(0.01, 10), st.floats(0.2, 5), st.floats(-2, 12), st.floats(0.01, 1))
def test_a_stricter_level_asks_for_more_evidence(location, spread, tail, level, alpha):
    null = NullScale(location, spread, tail, 1000)
    assert null.moved(level, 1.0) == pytest.approx(level)
    levels = [null.moved(level, 0.05 / a) for a in (alpha, alpha / 2, alpha / 10)]
    assert levels[0] < levels[1] < levels[2]
    twice = null.moved(null.moved(level, 3), 4)
    assert twice == pytest.approx(null.moved(level, 12))


@given(st.floats(0.1, 50), st.floats(-20, 20))
def test_evidence_does_not_depend_on_the_unit_of_the_score(factor, shift):
    score = np.random.default_rng(4).gamma(3, 1, 2000)
    one, other = breaks.null_scale(score), breaks.null_scale(factor * score + shift)
    np.testing.assert_allclose(other.z(factor * score + shift), one.z(score), rtol=1e-4, atol=1e-4)
    assert other.tail == pytest.approx(one.tail, rel=1e-6)
