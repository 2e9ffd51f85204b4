"""The detector on hand-made stacks: what is put in is found and dated, however the work is cut."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import xarray as xr
from affine import Affine
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter

from changedet import detector
from changedet.errors import DegenerateError
from changedet.grid import Grid
from changedet.scenes import Quality, make_stack
from changedet.steps import bridge
from changedet.steps.breaks import Noise, NullScale
from changedet.steps.track import Candidate, Growth

GRID = Grid.make("EPSG:32652", Affine(3, 0, 600_000, 0, -3, 4_700_000), (96, 96))
TIMES = 14
DATES = np.datetime64("2023-04-10") + np.arange(TIMES) * np.timedelta64(37, "D")
BANDS = ("blue", "green", "red", "nir")
COLORS = np.array(
    [(0.06, 0.07, 0.05, 0.02), (0.15, 0.18, 0.22, 0.28), (0.03, 0.06, 0.04, 0.35), (0.10, 0.12, 0.16, 0.22)]
)
CONCRETE = (0.30, 0.32, 0.33, 0.34)
WATER, PLANTS = (slice(30, 33), slice(20, 23)), (slice(8, 11), slice(80, 83))
HIDDEN = int(Quality.CLOUD)
FEW = detector.Options(sample_px=4000)  # quick, and a sample as in a large scene


def ground():
    """Water, sand, plants and soil: the class of every pixel."""
    which = np.zeros(GRID.shape, int)
    which[:, 50:] = 2
    which[:, 56:] = 1
    which[60:, 60:] = 3
    which[:20, 70:] = 2
    return which


def scene(*objects, seed=0, noise=0.02, clouds=(), frozen=()):
    """A stack of four textured classes whose gains differ by date.

    Parameters
    ----------
    objects : (window, dates) that are concrete then
    clouds : (window, date) that are masked
    frozen : dates on which everything is four times as bright
    """
    rng = np.random.default_rng(seed)
    which = ground()
    base = COLORS[which].transpose(2, 0, 1) * rng.normal(1, 0.05, (1, *GRID.shape))
    gains = rng.normal(1, 0.03, (TIMES, 4, 4))
    image = base * gains[:, which].transpose(0, 3, 1, 2) * rng.normal(1, noise, (TIMES, 4, *GRID.shape))
    for window, dates in objects:
        size = tuple(part.stop - part.start for part in window)
        for t in dates:
            image[(t, slice(None), *window)] = np.array(CONCRETE)[:, None, None] * rng.normal(
                1, noise, (4, *size)
            )
    for t in frozen:
        image[t] *= 4
    quality = np.zeros((TIMES, *GRID.shape), np.uint8)
    for window, t in clouds:
        image[(t, slice(None), *window)] = np.nan
        quality[(t, *window)] = HIDDEN
    return make_stack(image.astype(np.float32), GRID, dates=DATES, bands=BANDS, quality=quality)


def found_in(stack, **more):
    model = detector.fit(stack, FEW)
    return detector.objects(stack, model, detector.scan(stack, model), **more)


def standing_of(found):
    """Those that are structures, without the alarms."""
    return [o for o in found if o.verdict.status is not None]


def structures_in(stack, **more):
    return standing_of(found_in(stack, **more))


def pixels(one):
    return set(zip(one.candidate.rows.tolist(), one.candidate.columns.tolist(), strict=True))


def block(window):
    rows, columns = window
    return {(r, c) for r in range(rows.start, rows.stop) for c in range(columns.start, columns.stop)}


@pytest.fixture(scope="module")
def pier():
    """A stack with a pier from date 7 on, the model, and the evidence."""
    stack = scene((WATER, range(7, TIMES)))
    model = detector.fit(stack, FEW)
    return stack, model, detector.scan(stack, model)


# --------------------------------------------------------------------------------------------- what is found


@pytest.mark.parametrize(("window", "over"), [(WATER, "water"), (PLANTS, "land")])
@pytest.mark.parametrize("begin", [6, 8, 10])
def test_what_is_built_is_found_and_dated_exactly(window, over, begin):
    (one,) = structures_in(scene((window, range(begin, TIMES)), seed=begin))
    assert pixels(one) == block(window)
    verdict = one.verdict
    assert (verdict.status, verdict.last_absent, verdict.first) == ("persistent", begin - 1, begin)
    assert one.stratum == over
    assert_array_equal(np.flatnonzero(verdict.seen), np.arange(begin, TIMES))


@pytest.mark.parametrize("seed", [0, 1])
def test_where_nothing_is_built_nothing_is_found(seed):
    assert [o for o in found_in(scene(seed=seed)) if o.verdict.status is not None] == []


def test_the_series_is_zero_before_and_one_after(pier):
    stack, model, maps = pier
    (one,) = standing_of(detector.objects(stack, model, maps))
    assert (one.candidate.delta > 0).all()  # after - before: concrete is brighter than water in every band
    assert_allclose(one.series.value[:7], 0, atol=0.15)
    assert_allclose(one.series.value[7:], 1, atol=0.15)
    assert one.candidate.peak == pytest.approx(float(np.nanmax(maps.z)))


def test_the_step_is_that_of_the_pixels(pier):
    stack, model, maps = pier
    (one,) = standing_of(detector.objects(stack, model, maps))
    values = np.log(stack.image.values + 0.02)[(slice(None), slice(None), *WATER)]
    step = values[7:].mean(axis=(0, 2, 3)) - values[:7].mean(axis=(0, 2, 3))
    assert_allclose(one.candidate.delta, step, rtol=0.3)


@pytest.mark.parametrize("size", [3, 5])
def test_the_footprint_of_a_blurred_object_is_what_it_covers_by_half(size):
    stack = scene()
    cover = np.zeros(GRID.shape)
    cover[30 : 30 + size, 20 : 20 + size] = 1
    cover = gaussian_filter(cover, 0.64)  # a point-spread function of 1.5 pixels
    image = stack.image.values.copy()
    image[7:] += (np.array(CONCRETE)[:, None, None] - image[7:]) * cover
    (one,) = structures_in(stack.assign(image=(stack.image.dims, image.astype(np.float32))))
    assert (cover > 0.5).sum() == size**2
    assert len(pixels(one) ^ {tuple(p) for p in np.argwhere(cover > 0.5).tolist()}) <= 4


def test_two_piers_are_two_objects():
    other = (slice(60, 63), slice(10, 14))
    found = structures_in(scene((WATER, range(7, TIMES)), (other, range(9, TIMES))))
    assert [(pixels(o), o.verdict.first) for o in found] == [(block(WATER), 7), (block(other), 9)]


def test_a_boat_is_an_alarm_or_nothing_and_a_pontoon_is_gone():
    assert all(o.verdict.status is None for o in found_in(scene((WATER, [9]))))
    (one,) = structures_in(scene((WATER, range(6, 11))))
    assert one.verdict.status in ("transient", "removed")
    assert (one.verdict.last_absent, one.verdict.first, one.verdict.last) == (5, 6, 10)


def test_a_cloud_over_the_first_date_widens_the_interval():
    around = (slice(22, 42), slice(12, 32))
    (one,) = structures_in(scene((WATER, range(7, TIMES)), clouds=[(around, 7)]))
    assert pixels(one) == block(WATER)
    assert (one.verdict.status, one.verdict.last_absent, one.verdict.first) == ("persistent", 6, 8)
    assert not one.series.usable[7]


def test_ice_is_no_structure_and_hides_none():
    nothing = found_in(scene(frozen=[5, 9, 13]))
    assert [o for o in nothing if o.verdict.status is not None] == []
    (one,) = [o for o in found_in(scene((WATER, range(7, TIMES)), frozen=[9, 12])) if o.verdict.status]
    assert pixels(one) == block(WATER)
    assert (one.verdict.status, one.verdict.last_absent, one.verdict.first) == ("persistent", 6, 7)
    assert one.series.frozen.tolist() == [t in (9, 12) for t in range(TIMES)]


def test_the_gain_of_a_scene_does_not_matter(pier):
    stack, _, _ = pier
    gain = xr.DataArray(np.linspace(0.8, 1.2, TIMES).astype(np.float32), dims="time")
    (one,) = structures_in(stack.assign(image=(stack.image * gain).transpose(*stack.image.dims)))
    assert pixels(one) == block(WATER) and (one.verdict.last_absent, one.verdict.first) == (6, 7)


def test_a_scene_that_is_masked_is_no_scene():
    stack = scene((WATER, range(7, TIMES)), clouds=[((slice(0, 96), slice(0, 96)), t) for t in (2, 10)])
    (one,) = structures_in(stack)
    assert pixels(one) == block(WATER)
    assert (one.verdict.status, one.verdict.last_absent, one.verdict.first) == ("persistent", 6, 7)
    assert not one.series.usable[[2, 10]].any()


def test_radar_power_is_searched_too():
    rng = np.random.default_rng(0)
    mean = np.stack([np.where(ground() == 0, 0.01, 0.1), np.where(ground() == 0, 0.002, 0.03)])
    image = (mean * rng.gamma(12, 1 / 12, (TIMES, 2, *GRID.shape))).astype(np.float32)
    image[(slice(7, None), slice(None), *WATER)] = 0.8
    (one,) = [
        o for o in found_in(make_stack(image, GRID, dates=DATES, bands=("vv", "vh"))) if o.verdict.status
    ]
    assert pixels(one) == block(WATER)
    assert (one.verdict.last_absent, one.verdict.first) == (6, 7)


def test_a_history_that_is_hidden_determines_nothing():
    whole = (slice(0, 96), slice(0, 96))
    with pytest.raises(DegenerateError, match="usable history"):
        detector.fit(scene(clouds=[(whole, t) for t in range(8)]))


# --------------------------------------------------------------------------------------------- cutting work


def same_maps(one, other):
    assert_allclose(one.z, other.z, atol=1e-4, rtol=1e-4)
    assert (one.index == other.index).mean() > 0.999  # near ties may fall either way
    same = one.index == other.index
    assert_allclose(one.delta[:, same], other.delta[:, same], atol=1e-4)
    assert_array_equal(one.stratum, other.stratum)


def same_objects(one, other):
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        assert pixels(a) == pixels(b)
        assert [getattr(a.verdict, k) for k in ("status", "reason", "first", "last_absent", "last")] == [
            getattr(b.verdict, k) for k in ("status", "reason", "first", "last_absent", "last")
        ]
        assert_allclose(a.series.value, b.series.value, atol=1e-4)


@pytest.mark.parametrize("tile_px", [17, 32, 95])
def test_the_size_of_the_tiles_does_not_matter(pier, monkeypatch, tile_px):
    stack, model, maps = pier
    monkeypatch.setattr(detector, "TILE_PX", tile_px)
    other = detector.scan(stack, model)
    same_maps(maps, other)
    same_objects(detector.objects(stack, model, maps), detector.objects(stack, model, other))


def test_an_object_on_a_seam_is_one_object(monkeypatch):
    monkeypatch.setattr(detector, "TILE_PX", 31)
    clouds = [((slice(20, 45), slice(26, 60)), 9), ((slice(0, 40), slice(0, 27)), 3)]
    stack = scene((WATER, range(7, TIMES)), ((slice(60, 64), slice(30, 33)), range(8, TIMES)), clouds=clouds)
    model = detector.fit(stack, FEW)
    small = detector.scan(stack, model)
    monkeypatch.setattr(detector, "TILE_PX", 512)
    whole = detector.scan(stack, model)
    same_maps(whole, small)
    same_objects(detector.objects(stack, model, whole), detector.objects(stack, model, small))


def test_threads_do_not_matter(pier, monkeypatch):
    stack, model, _ = pier
    monkeypatch.setattr(detector, "TILE_PX", 40)
    ticks = []
    one = detector.scan(stack, model, threads=1, tick=ticks.append)
    other = detector.scan(stack, model, threads=3)
    assert sum(ticks) == detector.tile_count(stack) == 9
    assert_array_equal(one.z, other.z)
    assert_array_equal(one.index, other.index)


def test_a_lazy_stack_gives_the_same(pier):
    stack, _, maps = pier
    lazy = stack.chunk({"time": 5, "y": 24, "x": 24})
    model = detector.fit(lazy, FEW)
    other = detector.scan(lazy, model)
    same_maps(maps, other)
    same_objects(detector.objects(stack, pier[1], maps), detector.objects(lazy, model, other))
    assert lazy.image.chunks is not None


def test_equal_stacks_give_equal_numbers(pier):
    stack, model, maps = pier
    again = detector.fit(stack, FEW)
    assert_array_equal(again.background.centers, model.background.centers)
    assert_array_equal(detector.scan(stack, again).z, maps.z)


def test_evidence_of_a_window_is_that_of_the_whole(pier):
    stack, model, _ = pier
    whole = (slice(0, 96), slice(0, 96))
    part = (slice(20, 50), slice(10, 70))
    all_of_it, own = (detector.evidence(model, *detector.read_window(stack, w), w) for w in (whole, part))
    halo = model.halo_px
    inner = (slice(halo, 30 - halo), slice(halo, 60 - halo))
    outer = (slice(20 + halo, 50 - halo), slice(10 + halo, 70 - halo))
    for field in dataclasses.fields(own):
        a, b = getattr(own, field.name), getattr(all_of_it, field.name)
        assert_allclose(a[(..., *inner)], b[(..., *outer)], atol=1e-4, rtol=1e-4, err_msg=field.name)


def test_the_stack_is_left_alone(pier):
    stack = scene((WATER, range(7, TIMES)), clouds=[(PLANTS, 4)])
    kept = stack.copy(deep=True)
    for name in ("image", "quality"):
        stack[name].values.setflags(write=False)
    found_in(stack)
    xr.testing.assert_identical(stack, kept)


# --------------------------------------------------------------------------------------------- evidence


def test_residuals_are_noise_where_nothing_was_built(pier):
    stack, model, _ = pier
    window = (slice(40, 90), slice(5, 45))
    own = detector.evidence(model, *detector.read_window(stack, window), window)
    assert own.residual.shape == (TIMES, 4, 50, 40) == own.weight.shape
    assert abs(np.median(own.residual)) < 0.02 and (own.weight > 0).all()
    score = own.residual * np.sqrt(own.weight)
    assert 0.2 < score.std() < 1.3  # the noise is known to its order; its floor is that of real ground
    assert np.abs(own.clipped * np.sqrt(own.weight)).max() <= Noise().clip * 1.001


def test_a_gap_has_no_weight_and_a_doubtful_date_little():
    window = (slice(30, 40), slice(10, 20))
    stack = scene(clouds=[(window, 8)], frozen=[11])
    model = detector.fit(stack, FEW)
    whole = (slice(0, 96), slice(0, 96))
    own = detector.evidence(model, *detector.read_window(stack, whole), whole)
    assert (own.weight[(8, slice(None), *window)] == 0).all() and np.isfinite(own.residual).all()
    assert own.near_cloud[8, 28, 15] and not own.near_cloud[8, 60, 15] and not own.near_cloud[7].any()
    assert own.frozen[11].all() and not own.frozen[10].any()
    clear, edge = own.weight[8, :, 60, 15].mean(), own.weight[8, :, 28, 15].mean()
    assert edge < 0.75 * clear
    assert np.median(own.weight[11]) < 0.75 * np.median(own.weight[10])


def test_the_surroundings_of_a_cloud_are_a_square():
    quality = np.zeros((2, 12, 14), np.uint8)
    quality[0, 5, 6], quality[1, 0, 0] = HIDDEN, int(Quality.SNOW)
    kept = quality.copy()
    found = detector.near_cloud(quality, 2)
    expected = np.zeros(quality.shape, bool)
    expected[0, 3:8, 4:9] = True
    assert_array_equal(found, expected)
    assert_array_equal(quality, kept)


def evidence_of(residual, weight):
    nothing = np.zeros(residual.shape[2:])
    return detector.Evidence(residual, weight, residual, *[nothing] * 4)


def test_pooling_keeps_what_is_even_and_ignores_what_has_no_weight():
    residual, weight = np.full((3, 2, 9, 9), 0.4, np.float32), np.full((3, 2, 9, 9), 50, np.float32)
    weight[:, :, 4, 4], residual[:, :, 4, 4] = 0, 1e6
    pooled, total = detector.pool(evidence_of(residual, weight), 0.6)
    known = np.ones((9, 9), bool)
    known[4, 4] = False
    assert_allclose(pooled[..., known], 0.4, rtol=1e-5)
    assert (total[..., 4, 4] == 0).all() and (total[..., known] > 0).all()


def test_a_pooled_pixel_is_mostly_itself():
    residual, weight = np.zeros((1, 1, 9, 9), np.float32), np.ones((1, 1, 9, 9), np.float32)
    residual[0, 0, 4, 4] = 1
    pooled, _ = detector.pool(evidence_of(residual, weight), 0.4)
    assert pooled[0, 0, 4, 4] > 0.5 > pooled[0, 0, 4, 5] > pooled[0, 0, 5, 5] > 0
    assert pooled.sum() == pytest.approx(1, rel=1e-4)


def test_the_spread_of_a_stratum_is_half_of_what_holds_two_thirds():
    rng = np.random.default_rng(0)
    residual = rng.normal(0, 1, (4000, 3, 2)) * np.array([1, 2, 3])[:, None]
    stratum = np.repeat([0, 2], 2000)
    residual[stratum == 2] *= 5
    residual[:1990, 1, 0] = np.nan
    found = detector.class_spread(residual.astype(np.float32), stratum)
    assert found.shape == (3, 2, 3) and found.dtype == np.float32
    assert_allclose(found[:, 1, 0], [1, 2, 3], rtol=0.1)
    assert_allclose(found[:, 1, 2], [5, 10, 15], rtol=0.1)
    assert (found[:, :, 1] == 0).all() and found[1, 0, 0] == 0  # unknown


@pytest.mark.parametrize("shape", [(96, 96), (1000, 50), (7, 3), (2000, 2000)])
def test_the_sample_is_spread_over_the_scene(shape):
    rows, columns = detector.sample_positions(shape, 400)
    assert rows.size == columns.size and len(set(zip(rows, columns, strict=True))) == rows.size
    assert 0 <= rows.min() and rows.max() < shape[0] and 0 <= columns.min() and columns.max() < shape[1]
    assert rows.size == shape[0] * shape[1] if shape[0] * shape[1] < 400 else 250 < rows.size < 700
    for values, n in ((rows, shape[0]), (columns, shape[1])):
        gaps = np.diff(np.r_[-1, np.unique(values), n])
        assert gaps.max() <= 2 * np.sqrt(max(shape[0] * shape[1] / 400, 1)) + 1


def test_a_shift_that_was_left_in_is_tolerated():
    stack = scene()
    assert_allclose(detector.tolerance(stack, Noise(shift_px=0.2)), 0.2)
    shifts = {
        "shift_dy_px": ("time", np.r_[3.0, 0.0, 0.4, np.nan, np.zeros(10)]),
        "shift_dx_px": ("time", np.r_[4.0, 0.0, 0.3, 0.1, np.zeros(10)]),
        "shift_applied": ("time", np.r_[True, np.zeros(13, bool)]),
    }
    found = detector.tolerance(stack.assign_coords(shifts), Noise(shift_px=0.2))
    assert_allclose(found[[0, 1]], 0.2)
    assert found[2] > 0.3 and found[3] > 0.2 and np.isfinite(found).all()


def maps_of(stratum, nulls):
    z = np.zeros(stratum.shape, np.float32)
    return detector.Maps(z, z.astype(np.int16), z[None], stratum.astype(np.int8), nulls)


def test_a_stricter_level_asks_for_more_evidence_by_the_tail_of_each_stratum():
    stratum = np.repeat([[0, 1, 2]], 4, axis=0)
    maps = maps_of(stratum, (NullScale(2, 0.5, 0.6, 999), None, NullScale(2, 0.5, 1.5, 999)))
    levels = [detector.seed_level(maps, 8.0, alpha) for alpha in (0.2, detector.REFERENCE_ALPHA, 0.005, 1e-4)]
    for level in levels:
        assert np.isinf(level[stratum == 1]).all()
        assert (level >= 3).all()
    assert_allclose(levels[1][stratum != 1], 8, rtol=1e-5)
    for looser, stricter in pairwise(levels):
        assert (stricter > looser)[stratum != 1].all()
    rise = levels[2][0, ::2] - levels[1][0, ::2]
    assert rise[1] / rise[0] == pytest.approx(2.5, rel=1e-4)  # the longer tail asks for more


def test_alpha_reaches_the_candidates(pier):
    stack, model, maps = pier
    assert len(standing_of(detector.objects(stack, model, maps, alpha=0.05))) == 1
    assert detector.objects(stack, model, maps, alpha=1e-60) == []


def patches(dates, peaks, shape=(60, 60)):
    """Evidence with single pixels of given peaks and dates on a lattice, all on land."""
    z, index = np.zeros(shape, np.float32), np.full(shape, -1, np.int16)
    at = np.array([(r, c) for r in range(1, 59, 3) for c in range(1, 59, 3)])[: len(peaks)].T
    z[tuple(at)], index[tuple(at)] = peaks, dates
    nothing = np.zeros((4, *shape), np.float32)
    return detector.Maps(z, index, nothing, np.full(shape, 2, np.int8), (None, None, None)), tuple(at)


def test_a_date_on_which_all_the_land_changes_asks_for_more():
    rng = np.random.default_rng(0)
    peaks = np.r_[3 + rng.exponential(2, 200), 3 + rng.exponential(0.5, 100), 20.0, 20.0]
    dates = np.r_[np.full(200, 8), np.full(100, 5), 5, 11]
    maps, at = patches(dates, peaks)
    level = detector.restless_level(maps)[at]
    assert_allclose(level[:200], 3 + 2 * np.log(200), rtol=0.15)  # one patch a scene by chance
    assert_allclose(level[200:301], 3 + 0.5 * np.log(101), rtol=0.15)
    assert level[-1] == 3  # one patch alone says nothing of its date
    assert (detector.restless_level(maps, 10.0)[at] >= level).all()


def row_of(columns, peaks, rows=None):
    """Evidence with blocks of 3 by 3 pixels on row 40, or on the rows given, and what is known of them."""
    z, shape = np.full((90, 200), 0.5, np.float32), (90, 200)
    delta = np.zeros((4, *shape), np.float32)
    places = list(zip(rows or [40] * len(columns), columns, strict=True))
    for (r, c), peak in zip(places, peaks, strict=True):
        z[r - 1 : r + 2, c - 1 : c + 2] = peak
        delta[:, r - 1 : r + 2, c - 1 : c + 2] = 0.7
    nothing = np.full(shape, 2, np.int8)
    return detector.Maps(z, np.zeros(shape, np.int16), delta, nothing, (None, None, None)), places


def standing(place):
    """A found object of 3 by 3 pixels."""
    r, c = np.mgrid[place[0] - 1 : place[0] + 2, place[1] - 1 : place[1] + 2]
    candidate = Candidate(r.ravel(), c.ravel(), 12.0, np.full(4, 0.7))
    return candidate


def wanted_in_rows(maps, places):
    seed = np.full(maps.z.shape, 7.0, np.float32)
    found = [standing(place) for place in places]
    settings = (Growth(), bridge.Rules())
    return [
        (int(c.rows.mean()), int(c.columns.mean()))
        for c in detector.row_candidates(maps, found, seed, settings, 3.0)
    ]


def test_less_evidence_is_asked_for_in_a_row():
    columns, rows = [20, 40, 60, 80, 100, 120], [40, 40, 40, 40, 40, 70]
    maps, places = row_of(columns, [12, 12, 12, 12, 5.5, 5.5], rows)
    assert wanted_in_rows(maps, places[:4]) == [(40, 100)]  # the equal one beside the line is not looked for
    assert wanted_in_rows(maps, places[:3]) == []  # three are no row
    weak, _ = row_of(columns, [12, 12, 12, 12, 4.2, 4.2], rows)
    assert wanted_in_rows(weak, places[:4]) == []


def test_years_begin_with_the_first_date():
    found = detector.years(scene())
    assert found[0] == 0 and found[-1] == pytest.approx(13 * 37 / 365.25)
    assert_allclose(np.diff(found), 37 / 365.25)
