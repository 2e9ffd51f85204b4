"""Expected values from pixels alike: gaps, classes, windows, and what must not matter."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from changedet.errors import DegenerateError
from changedet.steps import _robust, background

TIMES, HISTORY, BANDS = 12, 5, 3
SHAPE = (24, 40)
POSITION = np.stack([a.ravel() for a in np.mgrid[: SHAPE[0], : SHAPE[1]]], axis=1)


def classes(noise=0.01, seed=0, gaps=0.0, count=4):
    """Values of pixels of a few classes, (pixel, time, band), and the classes; columns belong together.

    Classes differ in every band by far more than the noise. On every date each class does as it likes: what a
    scene, a flood or a season does to it.
    """
    rng = np.random.default_rng(seed)
    level = np.arange(count)[:, None, None] * 0.8 + rng.uniform(-0.1, 0.1, (count, 1, BANDS))
    course = level + rng.normal(0, 0.15, (count, TIMES, BANDS))
    which = (POSITION[:, 1] * count // SHAPE[1]).astype(int)
    values = course[which] + noise * rng.standard_normal((which.size, TIMES, BANDS))
    values[rng.random((which.size, TIMES)) < gaps] = np.nan
    return values.astype(np.float32), which, course.astype(np.float32)


def fitted(values, **more):
    return background.fit_background(values, POSITION, n_history=HISTORY, **more)


def predicted(model, values, position=POSITION, **more):
    return background.predict(model, values[:, :HISTORY], position, **more)


def wrong(found, which, course, pick=slice(None), *, by=0.3):
    """Share of the values of some pixels that are expected to be those of another class."""
    apart = np.abs(found.mean - course[which])[pick]
    return float((apart > by)[np.isfinite(apart)].mean())


@pytest.fixture(scope="module")
def plain():
    """Values, classes, courses, model and prediction from the nearest prototype."""
    values, which, course = classes()
    model = fitted(values)
    return values, which, course, model, predicted(model, values, nearest=1)


# --------------------------------------------------------------------------------------------- prediction


def test_a_pixel_is_expected_to_do_what_its_class_does(plain):
    _, which, course, _, found = plain
    assert found.mean.shape == (960, TIMES, BANDS) and found.mean.dtype == np.float32
    np.testing.assert_allclose(found.mean, course[which], atol=0.02)
    assert (found.spread >= 0).all() and found.spread.max() < 0.03
    assert (found.unlike >= 0).all()


def test_a_mixture_errs_by_no_more_than_it_says(plain):
    values, which, course, model, _ = plain
    found = predicted(model, values)
    apart = np.abs(found.mean - course[which])
    assert np.median(apart) < 0.01
    assert (apart < found.spread + 0.02).all()


def test_a_mixture_of_classes_that_differ_is_the_class_of_the_pixel(plain):
    values, which, course, model, _ = plain
    np.testing.assert_allclose(predicted(model, values).mean, course[which], atol=0.05)


def test_what_a_scene_does_to_a_class_is_expected_of_every_pixel_of_it(plain):
    values, which, _, _, before = plain
    hazy = values.copy()
    hazy[:, 8] += 0.7 + 0.3 * which[:, None]  # after the history, other for each class
    after = predicted(fitted(hazy), hazy, nearest=1)
    rise = np.repeat(0.7 + 0.3 * which[:, None], BANDS, axis=1)
    np.testing.assert_allclose(after.mean[:, 8] - before.mean[:, 8], rise, atol=1e-5)
    np.testing.assert_array_equal(np.delete(after.mean, 8, axis=1), np.delete(before.mean, 8, axis=1))


def test_what_is_built_on_a_few_pixels_is_not_expected(plain):
    values, which, course, _, _ = plain
    works = [100, 101, 140, 141]
    built = values.copy()
    built[works, 7:] += 1.5
    found = predicted(fitted(built), built, nearest=1)
    np.testing.assert_allclose(found.mean, course[which], atol=0.02)
    residual = built - found.mean
    assert residual[works, 7:].min() > 1.4
    assert np.abs(np.delete(residual, works, axis=0)).max() < 0.1


def test_a_class_that_agrees_less_has_the_wider_spread():
    values, which, _ = classes()
    rng = np.random.default_rng(5)
    restless = which == 2
    values[restless, 9] += 0.4 * rng.standard_normal((restless.sum(), BANDS)).astype(np.float32)
    found = predicted(fitted(values), values, nearest=1)
    assert np.median(found.spread[restless, 9]) == pytest.approx(0.4, rel=0.3)
    assert np.median(found.spread[~restless, 9]) < 0.03


def test_a_pixel_like_no_other_says_so(plain):
    values, _, _, model, found = plain
    strange = values[:1].copy()
    strange[:, :HISTORY:2] += 1.1
    strange[:, 1:HISTORY:2] -= 1.1
    assert predicted(model, strange, POSITION[:1]).unlike[0] > 5 * np.quantile(found.unlike, 0.95)


# --------------------------------------------------------------------------------------------- windows


@settings(max_examples=20)
@given(
    rows=st.tuples(st.integers(0, 20), st.integers(1, 24)),
    columns=st.tuples(st.integers(0, 36), st.integers(1, 40)),
    gaps=st.sampled_from([0.0, 0.25]),
)
def test_a_window_alone_is_predicted_as_in_the_whole(rows, columns, gaps):
    values, _, _ = classes(noise=0.1, gaps=gaps)
    model = fitted(values)
    whole = predicted(model, values)
    inside = np.zeros(SHAPE, bool)
    inside[rows[0] : rows[0] + rows[1], columns[0] : columns[0] + columns[1]] = True
    pick = inside.ravel()
    part = predicted(model, values[pick], POSITION[pick])
    for name in ("mean", "spread", "unlike"):
        np.testing.assert_allclose(getattr(part, name), getattr(whole, name)[pick], atol=1e-5, rtol=1e-5)


def test_the_order_of_pixels_does_not_matter(plain):
    values, _, _, model, found = plain
    order = np.random.default_rng(1).permutation(len(values))
    other = predicted(model, values[order], POSITION[order], nearest=1)
    np.testing.assert_allclose(other.mean, found.mean[order], atol=1e-5)


def test_equal_seeds_give_equal_models(plain):
    values, _, _, model, _ = plain
    again, other = fitted(values), fitted(values, seed=1)
    np.testing.assert_array_equal(again.centers, model.centers)
    np.testing.assert_array_equal(again.median, model.median)
    assert other.centers.shape != model.centers.shape or not np.array_equal(other.centers, model.centers)


def test_only_differences_of_position_count(plain):
    values, _, _, _, found = plain
    model = background.fit_background(values, POSITION + 1000, n_history=HISTORY)
    other = background.predict(model, values[:, :HISTORY], POSITION + 1000, nearest=1)
    np.testing.assert_allclose(other.mean, found.mean, atol=0.02)


# --------------------------------------------------------------------------------------------- gaps


def cloudy(gaps, known):
    """A stack with gaps, and its pixels of whose history that many dates are known."""
    values, which, course = classes(noise=0.05, gaps=gaps)
    count = np.isfinite(values[:, :HISTORY]).all(axis=2).sum(axis=1)
    return values, which, course, np.isin(count, known)


@pytest.mark.parametrize("gaps", [0.2, 0.4])
def test_a_pixel_is_known_by_most_of_its_history(gaps):
    values, which, course, pick = cloudy(gaps, [3, 4, 5])
    found = predicted(fitted(values), values, nearest=1)
    assert np.isfinite(found.mean[pick]).mean() > 0.8  # a class of few pixels has no median on some dates
    assert wrong(found, which, course, pick) < 0.01


@pytest.mark.parametrize("gaps", [0.2, 0.4])
def test_a_pixel_is_known_by_two_dates_of_its_history(gaps):
    values, which, course, pick = cloudy(gaps, [2])
    assert pick.sum() > 30
    assert wrong(predicted(fitted(values), values, nearest=1), which, course, pick) < 0.1


def test_a_pixel_without_history_has_no_expectation(plain):
    values, _, _, model, _ = plain
    lost = values[:6].copy()
    lost[2, :HISTORY] = np.nan
    found = predicted(model, lost, POSITION[:6])
    assert np.isnan(found.mean[2]).all() and np.isnan(found.unlike[2])
    assert np.isfinite(np.delete(found.mean, 2, axis=0)).all()
    assert not np.isnan(np.delete(found.unlike, 2)).any()


def test_a_class_under_cloud_has_no_expectation_on_that_date_alone():
    values, which, _ = classes()
    values[which < 3, 9] = np.nan
    found = predicted(fitted(values), values, nearest=1)
    assert np.isnan(found.mean[which < 3, 9]).all()
    assert np.isfinite(found.mean[which == 3]).all()
    assert np.isfinite(np.delete(found.mean, 9, axis=1)).all()


def test_a_scene_that_no_prototype_saw_is_no_reason_to_warn():
    values, _, _ = classes()
    values[:, 9] = np.nan
    assert np.isnan(predicted(fitted(values), values).mean[:, 9]).all()


def test_a_history_with_a_scene_under_cloud_is_no_reason_to_warn():
    values, which, course = classes()
    values[:, 2] = np.nan
    found = predicted(fitted(values), values, nearest=1)
    np.testing.assert_allclose(np.delete(found.mean - course[which], 2, axis=1), 0, atol=0.02)


def test_a_gap_may_hold_anything_but_is_nan(plain):
    values, _, _, model, _ = plain
    history = values[:50, :HISTORY].copy()
    history[::3, 1] = np.nan
    kept = history.copy()
    found = background.predict(model, history, POSITION[:50])
    np.testing.assert_array_equal(history, kept)
    assert np.isfinite(found.mean).all()


# --------------------------------------------------------------------------------------------- factors


def low_rank(seed=0, pixels=400, features=15, rank=3, noise=0.02):
    rng = np.random.default_rng(seed)
    factors = rng.normal(0, 1, (pixels, rank))
    return (
        factors @ rng.normal(0, 1, (rank, features)) + noise * rng.standard_normal((pixels, features)) + 2.0
    )


@pytest.mark.parametrize("gaps", [0.1, 0.3])
def test_factors_of_a_pixel_with_gaps_are_those_of_the_whole_pixel(gaps):
    history = low_rank().astype(np.float32)
    model = background.fit_factors(history, rank=3)
    whole = background.scores(model, history)
    holes = np.where(np.random.default_rng(1).random(history.shape) < gaps, np.nan, history)
    part = background.scores(model, holes.astype(np.float32))
    spread = whole.std(axis=0)
    assert np.median(np.abs(part - whole) / spread) < 0.15
    for j in range(3):
        assert np.corrcoef(part[:, j], whole[:, j])[0, 1] > 0.95


def test_factors_may_be_fitted_to_gaps():
    history = low_rank().astype(np.float32)
    holes = np.where(np.random.default_rng(2).random(history.shape) < 0.3, np.nan, history)
    planes = [np.linalg.qr(background.fit_factors(h, rank=3).loadings * 1.0)[0] for h in (history, holes)]
    cosines = np.linalg.svd(planes[0].T @ planes[1], compute_uv=False)
    assert cosines.min() > 0.97  # the angle between the two subspaces is small


def test_scores_of_pixels_do_not_depend_on_their_neighbors():
    history = low_rank().astype(np.float32)
    history[::7, :4] = np.nan
    model = background.fit_factors(history, rank=4)
    whole = background.scores(model, history)
    one_by_one = np.concatenate([background.scores(model, history[i : i + 1]) for i in range(0, 60)])
    np.testing.assert_allclose(one_by_one, whole[:60], atol=1e-5)
    assert whole.dtype == np.float32 and whole.shape == (400, 4)


def test_nothing_known_gives_no_factors_and_the_middle_gives_zero():
    history = low_rank().astype(np.float32)
    model = background.fit_factors(history, rank=3)
    odd = np.stack([np.full(15, np.nan), model.center]).astype(np.float32)
    found = background.scores(model, odd)
    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(found[1], 0, atol=1e-4)


def test_few_pixels_with_a_history_determine_nothing():
    history = low_rank(pixels=200)
    history[60:] = np.nan
    with pytest.raises(DegenerateError, match=r"60 .*64"):
        background.fit_factors(history)


def test_a_constant_history_is_no_failure():
    values = np.full((960, TIMES, BANDS), 0.5, np.float32)
    found = predicted(fitted(values), values)
    np.testing.assert_allclose(found.mean, 0.5, atol=1e-5)
    np.testing.assert_allclose(found.spread, 0, atol=1e-3)


# --------------------------------------------------------------------------------------------- small parts


@given(
    st.lists(st.one_of(st.floats(-10, 10), st.just(float("nan"))), min_size=1, max_size=30),
    st.sampled_from([0.0, 0.16, 0.5, 0.84, 1.0]),
)
def test_rank_is_the_nearest_quantile_of_what_is_finite(values, share):
    ordered = np.sort(np.array(values))[:, None]
    n = np.isfinite(ordered).sum(axis=0)
    found = _robust.rank(ordered, n, share)
    if n[0] == 0:
        assert np.isnan(found[0])
    else:
        finite = ordered[: n[0], 0]
        assert found[0] in finite
        assert found[0] == finite[int(np.round(share * (n[0] - 1)))]


def test_inputs_are_left_alone():
    values, _, _ = classes(gaps=0.2)
    position = POSITION.copy()
    kept = values.copy()
    values.setflags(write=False)
    position.setflags(write=False)
    model = fitted(values)
    predicted(model, values, position)
    np.testing.assert_array_equal(values, kept)
    np.testing.assert_array_equal(position, POSITION)
