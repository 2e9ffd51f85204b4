"""SAR: how many looks a stack has, the test of two groups of dates, and ``detect`` on simulated speckle."""

import os
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from scipy.ndimage import correlate1d
from scipy.stats import f as f_distribution

import changedet as cd
from changedet import detector
from changedet.grid import Grid
from changedet.io.products import find_scenes
from changedet.scenes import make_stack
from changedet.steps import backscatter, powerstep, speckle

DATA = Path(os.environ.get("CHANGEDET_DATA", Path(__file__).parents[2] / "shared" / "data"))
CALIFORNIA = DATA / "stacks" / "s1rtc_california"
OPEN_SEA = ("292318-IW1", "292318-IW2", "292319-IW1", "292321-IW1", "292324-IW1")

TIMES = 20
LAND, WATER = (0.08, 0.015), (0.02, 0.0018)


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


def alike_by_lag():
    """Return the correlation of the smoothed speckle of :func:`power` at lags down and across."""
    down, across = ((np.correlate(t := np.array([a, 1, a]), t, "full") / (t @ t)) ** 2 for a in (0.27, 0.16))
    return np.outer(down, across)


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


def wind(seed=0):
    """Return how much water differs from date to date, (time, band): 4 dB in VV, little in VH."""
    swing_db = np.random.default_rng(seed).normal(0, 4, (TIMES, 1)) * [1, 0.3]
    return 10 ** (swing_db / 10)


def found_in(image, **settings):
    """Return model, evidence and objects of an image of power."""
    stack = stack_of(image)
    model = detector.fit(stack)
    maps = detector.scan(stack, model)
    return detector.objects(stack, model, maps, **settings)


def at(objects, place):
    """Return the objects that touch a place."""
    rows, columns = place
    return [
        o
        for o in objects
        if np.any(
            (o.candidate.rows >= rows.start) & (o.candidate.rows < rows.stop)
            & (o.candidate.columns >= columns.start) & (o.candidate.columns < columns.stop)
        )
    ]  # fmt: skip


def structures(objects):
    return [o for o in objects if o.verdict.status is not None]


# --- the detector on simulated speckle ---------------------------------------------------------------------


@pytest.mark.parametrize(("bands", "alike"), [(1, False), (2, True)])
def test_speckle_alone_makes_as_many_objects_as_alpha_says(bands, alike):
    alpha, scenes, found = 2.0, 2, 0
    for seed in range(20, 20 + scenes):
        stack = stack_of(power(seed, bands=bands, side=200, alike=alike))
        model = detector.fit(stack)
        maps = detector.scan(stack, model)
        found += len(detector.objects(stack, model, maps, alpha=alpha))
        assert structures(detector.objects(stack, model, maps)) == []
    assert found <= alpha * scenes + 2 * np.sqrt(alpha * scenes)


@pytest.mark.parametrize("bands", [1, 2])
def test_a_step_of_5_db_is_found_and_dated(bands):
    image = power(30, bands=bands, side=130)
    places = [(block(12 + 28 * i, 12 + 28 * j), 8 + 2 * j + i) for i in range(4) for j in range(4)]
    for place, first in places:
        image = stepped(image, place, first, 5)
    objects = structures(found_in(image))
    hits = [(at(objects, place), first) for place, first in places]
    right = [len(o) == 1 and o[0].verdict.last_absent < first <= o[0].verdict.first for o, first in hits]
    assert np.mean(right) >= 0.9
    assert len(objects) == sum(len(o) for o, _ in hits)
    for (one, *_), _first in (h for h in hits if h[0]):
        assert 6 <= one.candidate.rows.size <= 24
        assert one.verdict.first - one.verdict.last_absent <= 2


def test_water_is_judged_by_its_own_level():
    image = power(40, mean=WATER) * wind()[..., None, None].astype(np.float32)
    across = (
        1
        + 0.5 * np.sin(np.arange(100) / 30)[None, None, None, :] * (np.arange(TIMES) % 2)[:, None, None, None]
    )
    pier, gone, ship = block(20, 20), block(50, 30), block(70, 70)
    quiet = image * across
    assert structures(found_in(quiet)) == []
    image = stepped(stepped(stepped(quiet, pier, 10, 8), gone, 6, 9, 13), ship, 12, 18, 13)
    objects = found_in(image)
    (one,), (other,) = at(objects, pier), at(objects, gone)
    assert (one.verdict.status, one.verdict.last_absent, one.verdict.first) == ("persistent", 9, 10)
    assert (other.verdict.status, other.verdict.last_absent, other.verdict.first) == ("removed", 5, 6)
    assert (one.stratum, other.stratum) == ("water", "water")
    assert structures(at(objects, ship)) == [] and len(structures(objects)) == 2


def test_ships_that_come_and_go_are_no_structure():
    image = power(41, mean=WATER)
    berth = block(40, 40)
    for date in (3, 7, 8, 12, 16):
        image = stepped(image, berth, date, 15, date + 1)
    assert structures(found_in(image)) == []


def test_what_gets_darker_is_an_alarm_with_its_reason():
    image = power(42)
    field = block(30, 30, 6, 6)
    (one,) = at(found_in(stepped(image, field, 9, -6)), field)
    assert (one.verdict.status, one.verdict.reason) == (None, "phenology")
    assert one.verdict.confirmed == -1 and np.all(one.candidate.delta < 0)


def test_a_place_among_many_that_change_is_not_believed():
    rng = np.random.default_rng(43)
    image = power(43, side=160)
    for row in range(4, 150, 12):  # a crop is up in hundreds of plots
        for column in range(4, 150, 12):
            if rng.random() < 0.6:
                image = stepped(image, block(row, column, 5, 5), 11, rng.normal(0, 4))
    objects = found_in(image)
    assert len(objects) > 20 and len(structures(objects)) <= 2
    assert {o.verdict.reason for o in objects} <= {None, "phenology", "not-persistent"}


def test_places_that_get_darker_say_how_far_chance_reaches():
    rng = np.random.default_rng(51)
    image = power(51, side=150)
    weak, strong = block(10, 10, 2, 2), block(10, 60, 4, 4)
    image = stepped(stepped(image, weak, 10, 5), strong, 11, 12)
    assert len(structures(found_in(image))) == 2
    for row in range(30, 150, 20):  # plots are cut, on all kinds of dates
        for column in range(10, 140, 25):
            image = stepped(image, block(row, column, 2, 2), int(rng.integers(6, 16)), -rng.uniform(4, 7))
    objects = found_in(image)
    assert structures(at(objects, weak)) == []
    (one,) = structures(objects)
    assert at([one], strong) == [one]


def test_a_bar_falling_dry_is_the_waters_level():
    image, low = power(44), np.arange(TIMES) % 5 >= 3
    low[14:] = True
    river, bar = (slice(0, 100), slice(0, 60)), block(20, 57, 40, 3)
    image[(slice(None), slice(None), *river)] *= (np.array(WATER) / LAND)[:, None, None]
    ratio = (np.array(LAND) / WATER)[:, None, None]
    for t in np.flatnonzero(low):
        image[(t, slice(None), *bar)] *= ratio
    assert structures(found_in(image)) == []


def test_land_and_water_are_told_apart():
    image = power(45)
    image[:, :, :, :30] *= (np.array(WATER) / LAND)[:, None, None]
    model = detector.fit(stack_of(image * np.where(np.arange(100) < 30, wind()[..., None, None], 1)))
    assert (model.wet[:, :29].all(), model.wet[:, 31:].any()) == (True, False)
    assert (
        set(model.stratum[:, 45]) == {2}
        and set(model.stratum[:, 10]) == {0}
        and set(model.stratum[:, 30]) == {1}
    )
    dry = power(46, mean=(0.03, 0.004)) * np.random.default_rng(0).lognormal(0, 0.5, (100, 100))
    assert not detector.fit(stack_of(dry)).wet.any()


def test_levels_are_those_of_the_surface():
    rise = np.random.default_rng(47).normal(0.3, 0.1, 5000)
    rise[:1500] += 1.5
    assert backscatter.steady_level(rise) == pytest.approx(0.3, abs=0.03)
    level = np.arange(12.0).reshape(3, 4)
    window = (slice(8, 40), slice(8, 56))
    inside = backscatter.cells_at(level, window)
    assert inside.shape == (32, 48)
    assert inside[0, 0] == pytest.approx(0.0, abs=0.2) and inside[-1, -1] == pytest.approx(11.0, abs=0.2)


def test_the_work_does_not_depend_on_tiles_or_threads(monkeypatch):
    image = stepped(power(48, side=90), block(40, 40), 10, 6)
    stack = stack_of(image)
    model = detector.fit(stack)
    whole = detector.scan(stack, model)
    monkeypatch.setattr("changedet._detector_radar.TILE_PX", 32)
    tiled = detector.scan(stack, model, threads=2)
    np.testing.assert_allclose(tiled.z, whole.z, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(tiled.index, whole.index)
    assert detector.fit(stack).surfaces[2].tail == model.surfaces[2].tail


def test_edges_without_data_and_empty_dates_are_passed_over():
    image = stepped(power(49), block(40, 40), 10, 7)
    image[:, :, :, :25] = np.nan
    image[5] = np.nan
    image[12, 1, 60:] = 0
    (one,) = structures(found_in(image))
    assert at([one], block(40, 40)) == [one]
    assert (one.verdict.last_absent, one.verdict.first) == (9, 10) and not one.series.usable[5]


def test_tables_are_those_of_every_run():
    result = cd.detect(stack_of(stepped(power(50), block(40, 40), 10, 7)))
    (row,) = result.structures.itertuples()
    assert (row.status, row.over, row.first_seen[:10]) == ("persistent", "land", "2021-05-01")
    assert set(result.observations["seen"]) == {"seen", "absent"}
    assert np.isfinite(result.statistic).all() and int((result.labels.values > 0).sum()) * 100 == row.area_m2


# --- real scenes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPEN_SEA)
def test_no_structure_stands_in_the_open_sea(name):
    folder = CALIFORNIA / name
    if not folder.is_dir():
        pytest.skip("the real stacks are not here (CHANGEDET_DATA)")
    result = cd.detect(cd.open_stack(find_scenes([str(folder)])))
    assert len(result.structures) == 0
    assert len(result.alarms) <= 2
