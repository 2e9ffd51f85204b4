"""speckle and powerstep: how many looks a stack has, and the test of two groups of dates."""

import numpy as np
import pytest
from affine import Affine
from scipy.ndimage import correlate1d
from scipy.stats import f as f_distribution

from changedet import detector
from changedet.grid import Grid
from changedet.scenes import make_stack
from changedet.steps import powerstep, speckle

TIMES = 20
LAND = (0.08, 0.015)


def power(seed, looks=5, bands=2, side=100, alike=True, mean=LAND, times=TIMES):
    """Simulate power of one surface without change, (time, band, y, x) float32.

    Neighbors that are alike come of complex echoes smoothed before they are squared, as in a sensor: a whole
    number of looks. Others are plain gamma values.
    """
    rng = np.random.default_rng(seed)
    shape = (times, bands, side, side)
    if alike:
        total = np.zeros(shape)
        for _ in range(2 * looks):  # real and imaginary part of each look
            echo = rng.standard_normal(shape, np.float32)
            for axis, side_lobe in ((2, 0.27), (3, 0.16)):
                taps = np.array([side_lobe, 1, side_lobe])
                echo = correlate1d(echo, taps / np.sqrt((taps**2).sum()), axis=axis, mode="wrap")
            total += echo**2
        image = total / (2 * looks)
    else:
        image = rng.gamma(looks, 1 / looks, shape)
    return (image * np.asarray(mean)[:bands, None, None]).astype(np.float32)


def alike_by_lag():
    """Return the correlation of the smoothed speckle of :func:`power` at lags down and across."""
    down, across = ((np.correlate(t := np.array([a, 1, a]), t, "full") / (t @ t)) ** 2 for a in (0.27, 0.16))
    return np.outer(down, across)


def stack_of(image, bands=("vv", "vh"), gsd_m=10.0):
    """Wrap power as a stack, a date every 12 days."""
    grid = Grid.make("EPSG:32611", Affine(gsd_m, 0, 5e5, 0, -gsd_m, 4e6), image.shape[2:])
    dates = np.datetime64("2021-01-01", "ns") + np.arange(len(image)) * np.timedelta64(12, "D")
    return make_stack(image.astype(np.float32), grid, dates=dates, bands=bands[: image.shape[1]])


def stepped(image, place, first, db, end=None):
    """Add dB to a place from a date on."""
    out = image.copy()
    out[(slice(first, end), slice(None), *place)] *= 10 ** (db / 10)
    return out


def block(row, column, height=3, width=4):
    return slice(row, row + height), slice(column, column + width)


# --- looks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("looks", "alike"), [(4.4, False), (5, True), (12, True)])
def test_looks_and_their_correlation_are_found(looks, alike):
    model = detector.fit(stack_of(power(1, looks, alike=alike)))
    assert model.surfaces[2].looks.mean() == pytest.approx(looks, rel=0.02)
    middle = speckle.REACH_PX
    found = model.rho[middle - 2 : middle + 3, middle - 2 : middle + 3]
    wanted = alike_by_lag() if alike else np.diag([0, 0, 1, 0, 0]) * np.eye(5)
    np.testing.assert_allclose(found, wanted, atol=0.02)
    np.testing.assert_allclose(model.rho, model.rho[::-1, ::-1])


def test_rough_ground_and_changing_fields_take_no_looks_away():
    image = power(2, 8)
    rng = np.random.default_rng(3)
    rough = np.kron(rng.lognormal(0, 1, (50, 50)), np.ones((2, 2)))
    fields = np.kron(rng.lognormal(0, 0.3, (TIMES, 1, 5, 5)), np.ones((1, 1, 20, 20)))
    model = detector.fit(stack_of(image * rough * fields))
    assert model.surfaces[2].looks.mean() == pytest.approx(8.0, rel=0.12)  # every 20th pixel is an edge
    assert model.surfaces[2].unrest.max() > 0.01


def test_a_mean_has_the_variance_that_was_foretold():
    image = power(4, times=60, bands=1)[:, 0] / LAND[0]
    rows, columns = (a.ravel() for a in np.mgrid[10:14, 20:23])
    step = 8
    means = [
        image[:, rows + i, columns + j].mean(axis=1) for i in range(0, 80, step) for j in range(0, 72, step)
    ]
    factor = speckle.mean_factor(rows, columns, alike_by_lag())
    assert np.var(means) == pytest.approx(factor / 5, rel=0.06)
    assert factor > 1.5 / rows.size


def test_variance_and_looks_are_each_others_inverse():
    looks = np.array([1.0, 4.4, 30.0])
    np.testing.assert_allclose(speckle.looks_of_variance(speckle.variance_of_looks(looks)), looks, rtol=1e-3)


# --- the test ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("bands", [1, 2])
def test_the_omnibus_test_of_a_pixel_keeps_its_rate(bands, known):
    image = power(5, 4.4, bands=bands, side=150, alike=False)
    looks = 4.4 if known else detector.fit(stack_of(image)).surfaces[2].looks[..., None]
    flat = image.reshape(*image.shape[:2], -1)
    p_value = powerstep.omnibus_p(flat, np.broadcast_to(looks, flat.shape))
    assert (p_value < 0.01).mean() == pytest.approx(0.01, rel=0.2)


def test_averaged_correlated_pixels_keep_the_rate_too():
    image = power(6, side=150)
    model = detector.fit(stack_of(image))
    averaged, support = speckle.multilook(image)
    looks = model.looks(model.stratum, speckle.smoothing_factor(model.rho)) * support
    shape = (*image.shape[:2], -1)
    p_value = powerstep.omnibus_p(averaged.reshape(shape), looks.reshape(shape))
    assert (p_value < 0.01).mean() == pytest.approx(0.01, rel=0.35)  # neighbors agree: fewer than they seem


def test_two_groups_of_dates_against_the_exact_distribution():
    ratio = np.array([0.3, 0.5, 1.0, 1.6, 3.0])
    before, after = np.ones((4, 1, 5)), np.broadcast_to(ratio, (6, 1, 5))
    both = np.concatenate([before, after])
    _, delta, fewest = powerstep.statistics(both, np.full(both.shape, 4.4), 4, 10)
    np.testing.assert_allclose(delta[0], np.log(ratio), rtol=1e-6)
    assert fewest.tolist() == [4] * 5
    sample = np.random.default_rng(7).gamma(4.4, 1 / 4.4, (10, 1, 40_000))
    null = powerstep.statistics(sample, np.full(sample.shape, 4.4), 4, 10)[0]
    exact = f_distribution.ppf(
        [0.005, 0.995], 2 * 6 * 4.4, 2 * 4 * 4.4
    )  # the ratio of means is F distributed
    outside = np.exp(powerstep.statistics(sample, np.full(sample.shape, 4.4), 4, 10)[1][0])[:, None] > exact
    assert (null > 6.635).mean() == pytest.approx(0.01, rel=0.15)  # chi-square, 1 degree of freedom
    assert (outside.sum(axis=1) != 1).mean() == pytest.approx(0.01, rel=0.15)


def test_gaps_take_dates_away_and_nothing_else():
    image = stepped(power(8, side=12), block(0, 0, 12, 12), 10, 6)
    flat = image.reshape(TIMES, 2, -1)
    looks = np.full(flat.shape, 4.4, np.float32)
    gappy = flat.copy()
    gappy[[3, 14], 0] = np.nan
    kept = [t for t in range(TIMES) if t not in (3, 14)]
    with_gaps = powerstep.best_split(gappy, looks, lengths=(0,))
    without = powerstep.best_split(flat[kept], looks[kept], lengths=(0,))
    np.testing.assert_allclose(with_gaps.score, without.score, rtol=1e-4)
    assert np.all(powerstep.best_split(flat[:5], looks[:5]).index == -1)


def test_the_interval_of_a_change_holds_it():
    rng = np.random.default_rng(9)
    held = []
    for _ in range(200):
        series = rng.gamma(8, 1 / 8, (TIMES, 1)) * np.where(np.arange(TIMES) < 12, 1, 10**0.5)[:, None]
        first, last = powerstep.split_interval(series, np.full(series.shape, 8.0), TIMES)
        held.append(first <= 12 <= last)
    assert np.mean(held) > 0.93
