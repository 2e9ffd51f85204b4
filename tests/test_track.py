"""Objects in time: series whose answer is plain to see, and what holds for any series."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from changedet.columns import REASONS, STATUSES
from changedet.steps import _causes as causes_of
from changedet.steps import track
from changedet.steps.track import Candidate, Causes, Growth, Persistence, Series, Verdict

NAN = float("nan")
BANDS = ("blue", "green", "red", "nir")


def series(value, *, noise=0.05, share=None, frozen=(), near_cloud=()):
    """A series; dates named in ``frozen`` and ``near_cloud`` are that; NaN = not usable."""
    value = np.asarray(value, np.float64)
    flags = [np.isin(np.arange(value.size), np.asarray(list(dates), int)) for dates in (frozen, near_cloud)]
    part = np.isfinite(value).astype(np.float64) if share is None else np.asarray(share, np.float64)
    return Series(value, np.broadcast_to(np.float64(noise), value.shape).copy(), part, *flags)


def causes(n, *, frozen=(), over="water", **more):
    """What else might explain it: by default nothing, on dates 50 days apart."""
    given = {"level": np.full(n, NAN), "years": np.arange(n) * 50 / 365.25} | more
    return Causes(frozen=np.isin(np.arange(n), list(frozen)), over=over, **given)


def judged(value, *, over="water", frozen=(), rules=Persistence(), **more):  # noqa: B008
    """Verdict on a series of values; noise, share and near_cloud go to the series, the rest to the causes."""
    own = {k: more.pop(k) for k in ("noise", "share", "near_cloud") if k in more}
    return track.judge(
        series(value, frozen=frozen, **own), causes(len(value), frozen=frozen, over=over, **more), rules
    )


def interval(verdict):
    return verdict.last_absent, verdict.first


# --------------------------------------------------------------------------------------------- structures


@pytest.mark.parametrize("over", ["water", "shore", "land"])
@pytest.mark.parametrize("begin", [4, 8, 12])
def test_a_pier_comes_and_stays(begin, over):
    verdict = judged([0] * begin + [1] * (16 - begin), over=over)
    assert (verdict.status, verdict.reason) == ("persistent", None)
    assert interval(verdict) == (begin - 1, begin)
    assert verdict.last == 15
    np.testing.assert_array_equal(np.flatnonzero(verdict.seen), np.arange(begin, 16))
    assert verdict.first < verdict.confirmed < 16
    assert verdict.snr > Persistence().min_snr


def test_noise_does_not_move_the_date():
    rng = np.random.default_rng(3)
    for begin in range(4, 12):
        value = np.r_[np.zeros(begin), np.ones(16 - begin)] + 0.08 * rng.standard_normal(16)
        verdict = judged(value, noise=0.08)
        assert (verdict.status, *interval(verdict)) == ("persistent", begin - 1, begin)


def test_contrast_may_change_with_the_season_while_it_stands():
    verdict = judged([0] * 6 + [1, 0.8, 0.6, 0.7, 1, 1.1, 0.9, 0.6, 0.7, 1])
    assert (verdict.status, *interval(verdict)) == ("persistent", 5, 6)
    assert verdict.seen[6:].all()


def test_it_is_confirmed_when_it_was_seen_often_enough():
    few, many = (judged([0] * 8 + [1] * 8, rules=Persistence(min_after=n)) for n in (2, 5))
    assert (few.confirmed, many.confirmed) == (9, 12)


def test_a_platform_that_is_there_on_four_dates_only():
    # three levels: nothing, the platform, and the little that is left of it
    verdict = judged([0] * 6 + [1] * 4 + [0.1] * 6)
    assert verdict.status in ("transient", "removed")
    assert interval(verdict) == (5, 6) and verdict.last == 9
    np.testing.assert_array_equal(np.flatnonzero(verdict.seen), np.arange(6, 10))


def test_a_pier_that_stood_long_and_was_removed():
    verdict = judged([0] * 5 + [1] * 8 + [0] * 4)
    assert (verdict.status, *interval(verdict)) == ("removed", 4, 5)
    assert verdict.last == 12


def test_one_absent_date_at_the_end_leaves_it_open_whether_it_is_gone():
    verdict = judged([0] * 5 + [1] * 10 + [0])
    assert (verdict.status, verdict.last) == ("unresolved", 14)


def test_too_few_dates_after_it_came_leave_it_unresolved():
    verdict = judged([0] * 14 + [1] * 2)
    assert (verdict.status, *interval(verdict)) == ("unresolved", 13, 14)
    assert verdict.confirmed == -1


def test_only_ice_since_it_came_leaves_it_unresolved():
    value = [0] * 10 + [1] * 6
    assert judged(value).status == "persistent"
    assert judged(value, frozen=range(12, 16)).status == "unresolved"
    assert judged(value, frozen=range(10, 16)).status is None  # never seen in open water


def test_what_is_seen_under_ice_does_not_move_the_date():
    value = [0] * 8 + [1] * 8
    verdict = judged(value, frozen=[7, 8])
    assert (verdict.status, *interval(verdict)) == ("persistent", 6, 9)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_dates_on_which_it_is_hidden_widen_the_interval(share):
    value = np.array([0.0] * 8 + [0, 1] + [1.0] * 6)  # what hidden dates say must not count
    part = np.where(np.isin(np.arange(16), [8, 9]), share, 1.0)
    verdict = judged(value, share=part)
    assert (verdict.status, *interval(verdict)) == ("persistent", 7, 10)
    assert not verdict.seen[[8, 9]].any()


def test_a_hidden_date_before_or_long_after_moves_nothing():
    value = [0, 0, NAN, 0, 0, 0, 1, 1, 1, NAN, 1, 1, 1, 1]
    verdict = judged(value)
    assert (verdict.status, *interval(verdict)) == ("persistent", 5, 6)
    np.testing.assert_array_equal(np.flatnonzero(verdict.seen), [6, 7, 8, 10, 11, 12, 13])


def test_a_noisy_date_says_nothing():
    noise = np.where(np.arange(16) == 8, 3.0, 0.05)
    value = np.array([0.0] * 8 + [0.9] + [1.0] * 7)
    verdict = judged(value, noise=noise)
    assert (verdict.status, *interval(verdict)) == ("persistent", 7, 9)
    assert not verdict.seen[8]


def test_the_edge_of_a_cloud_gives_no_first_date():
    verdict = judged([0] * 7 + [1] * 9, near_cloud=[7])
    assert (verdict.status, *interval(verdict)) == ("persistent", 6, 8)


# --------------------------------------------------------------------------------------------- alarms


def test_a_boat_on_one_date_is_a_vessel():
    value = [0.0] * 16
    value[8] = 1
    verdict = judged(value)
    assert (verdict.status, verdict.reason) == (None, "vessel")
    assert interval(verdict) == (7, 8) and verdict.confirmed == -1
    np.testing.assert_array_equal(np.flatnonzero(verdict.seen), [8])


def test_one_date_on_land_is_no_vessel_and_no_structure():
    value = [0.0] * 16
    value[8] = 1
    verdict = judged(value, over="land")
    assert verdict.status is None and verdict.reason not in (None, "vessel")


def test_nothing_at_all_is_no_structure():
    for value in (np.zeros(16), 0.02 * np.random.default_rng(0).standard_normal(16), np.full(16, NAN)):
        verdict = judged(value)
        assert verdict.status is None and verdict.reason in REASONS and verdict.confirmed == -1


def test_what_was_there_from_the_first_date_is_not_new():
    assert judged([1] * 16).status is None
    assert judged([0] + [1] * 15).status is None  # one date is too little to say that it was absent


@pytest.mark.parametrize(("over", "reason"), [("water", "ice"), ("shore", "ice"), ("land", "snow")])
def test_what_is_there_on_frozen_dates_alone_is_ice_or_snow(over, reason):
    frozen = range(4, 10)
    verdict = judged([0] * 4 + [1] * 6, over=over, frozen=frozen)
    assert (verdict.status, verdict.reason) == (None, reason)


def test_ice_between_open_dates_is_no_structure():
    frozen = [6, 7, 8, 9]
    value = np.isin(np.arange(16), frozen).astype(float)
    assert judged(value, frozen=frozen).status is None


def test_ice_between_open_dates_is_named_ice():
    frozen = [6, 7, 8, 9]
    value = np.isin(np.arange(16), frozen).astype(float)
    assert judged(value, frozen=frozen).reason == "ice"


def test_what_is_there_beside_one_or_two_clouds_alone_is_cloud():
    verdict = judged([0] * 14 + [1] * 2, near_cloud=[14, 15])
    assert verdict.status is None and verdict.reason == "cloud"


def test_what_looks_the_same_beside_several_clouds_is_not_decided_yet():
    assert judged([0] * 13 + [1] * 3, near_cloud=[13, 14, 15]).status == "unresolved"


# The water is as high before date 8 as it is low after it: time and level explain a bar alike.
FALLING = np.r_[0.3, 0.2, 0.4, 0.3, 0.25, 0.3, 0.2, 0.4, -0.2, -0.3, -0.25, -0.4, -0.2, -0.3, -0.25, -0.2]
CHANGING = np.r_[0.3, -0.2, 0.4, -0.3, 0.25, -0.3, 0.2, 0.4, -0.2, 0.3, -0.25, -0.4, 0.2, -0.3, 0.25, -0.2]


@pytest.mark.parametrize("over", ["water", "shore"])
def test_a_sandbar_that_falls_dry_is_the_water_level(over):
    verdict = judged(FALLING < 0, over=over, level=FALLING)
    assert (verdict.status, verdict.reason) == (None, "water-level")


def test_a_sandbar_seen_early_too_is_no_structure():
    level = FALLING.copy()
    level[3] = -0.35
    verdict = judged(level < 0, over="shore", level=level)
    assert (verdict.status, verdict.reason) == (None, "water-level")
    assert judged(CHANGING < 0, over="shore", level=CHANGING).status is None


def test_the_water_level_does_not_explain_what_stays_at_every_level():
    verdict = judged([0] * 8 + [1] * 8, over="shore", level=CHANGING)
    assert (verdict.status, *interval(verdict)) == ("persistent", 7, 8)


def test_the_water_level_explains_nothing_on_land():
    assert judged(FALLING < 0, over="land", level=FALLING).status == "persistent"


def test_a_yearly_cycle_on_land_is_phenology():
    years = np.arange(20) * 0.13
    verdict = judged(0.5 - 0.5 * np.cos(2 * np.pi * years), over="land", years=years)
    assert (verdict.status, verdict.reason) == (None, "phenology")


def test_a_field_mown_for_a_few_weeks_is_phenology_but_a_platform_is_not():
    value = [0] * 6 + [1] * 4 + [0] * 6
    years = np.arange(16) * 25 / 365.25
    assert judged(value, over="land", cleared=True, years=years).reason == "phenology"
    assert judged(value, over="land", years=years).status == "transient"


def test_a_step_of_plants_alone_is_phenology():
    value = [0] * 8 + [1] * 8
    assert judged(value, over="land", plants=True).reason == "phenology"


@pytest.mark.parametrize(
    ("over", "reason"), [("water", "turbidity"), ("shore", "water-level"), ("land", "shadow")]
)
def test_what_only_darkens_is_not_built(over, reason):
    verdict = judged([0] * 8 + [1] * 8, over=over, darker=True)
    assert (verdict.status, verdict.reason) == (None, reason)


def test_what_a_shift_would_explain_is_misregistration():
    value = [0] * 8 + [1] * 8
    assert judged(value, edge_step=3.0, step=1.0).reason == "misregistration"
    assert judged(value, edge_step=0.2, step=1.0).status == "persistent"


def test_what_never_looks_alike_while_it_stands_is_no_structure():
    value = [0.0] * 8 + [0.4, 3.0, 0.5, 0.45, 2.8, 0.4, 2.9, 0.5]
    assert judged(value, noise=0.02, over="land").status is None
    assert judged([0.0] * 8 + [1.0] * 8, noise=0.02, over="land").status == "persistent"
    assert judged(value, noise=0.02, over="water").status == "persistent"  # the water about it may change


def test_a_weak_step_counts_where_many_dates_show_it():
    rng = np.random.default_rng(0)
    long = np.repeat([0.0, 1.0], 14) + rng.normal(0, 0.3, 28)
    assert judged(long, noise=0.3, over="land").status == "persistent"
    short = np.repeat([0.0, 1.0], 4) + np.array([0.3, -0.3, 0.3, -0.3] * 2)
    assert judged(short, noise=0.3, over="land").status is None


# --------------------------------------------------------------------------------------------- growth


def verdict(status="persistent", first=5, **more):
    n = 12
    seen = np.arange(n) >= first
    values = {"last_absent": first - 1, "confirmed": first + 2, "last": n - 1, "snr": 8.0} | more
    return Verdict(status, None, first, seen=seen, **values)


def first_part(index):
    """The first part of pixels in one row."""
    return track.first_part(index, np.full(index.size, 3), np.arange(index.size) + 7)


def test_a_causeway_has_a_part_that_came_first():
    index = np.r_[np.full(20, 4), np.full(20, 7), np.full(20, 10)]
    np.testing.assert_array_equal(first_part(index), index == 4)


def test_a_first_part_is_one_piece():
    index = np.full((10, 12), 8)
    index[::3, ::3] = 2  # scattered early pixels are noise
    index[4:7, 5:8] = 5
    index[4:, 8:] = 5
    rows, columns = np.indices(index.shape).reshape(2, -1)
    early = track.first_part(index.ravel(), rows, columns)
    assert early is not None
    found = early.reshape(index.shape)
    assert found[index == 5].all() and not found[index == 8].any()
    assert not found[0, 0] and not found[0, 3]


def test_what_came_at_once_has_no_first_part():
    assert first_part(np.full(60, 5)) is None
    assert first_part(np.r_[np.full(30, 5), np.full(30, 6)]) is None  # one date apart: noise of dating
    assert first_part(np.r_[np.full(58, 5), np.full(2, 9)]) is None  # a few late pixels
    assert first_part(np.r_[4, 4, 8, 8, 8]) is None  # too small to tell


@given(st.lists(st.integers(-1, 20), min_size=1, max_size=80))
def test_a_first_part_is_earlier_than_the_rest(dates):
    index = np.array(dates)
    early = first_part(index)
    if early is not None:
        assert early.dtype == bool and early.any() and not early.all()
        assert index[early].max() < index[~early].max()


def test_a_causeway_that_grows():
    part, whole = verdict(first=4), verdict(first=8, snr=20.0)
    joined = track.grown(whole, part)
    assert (joined.status, *interval(joined)) == ("growing", 3, 4)
    assert joined.last == 11 and joined.snr == 20.0
    np.testing.assert_array_equal(joined.seen, np.arange(12) >= 4)


def test_what_grows_may_have_begun_too_small_to_be_seen():
    part = verdict(first=6, absent_before=3)
    joined = track.grown(verdict(first=9), part)
    assert (joined.status, *interval(joined)) == ("growing", 3, 6)


def test_pixels_begin_where_they_show_the_object():
    begin = np.array([1, 4, 7, 10])
    value = (np.arange(10)[:, None] >= begin).astype(float)
    value[2, 1], value[8, 1] = 0.9, 0.1  # one mistake on either side
    value[5] = NAN
    np.testing.assert_array_equal(track.pixel_begins(value, np.zeros(10, bool)), begin)
    iced = value.copy()
    iced[[0, 6]] = 1 - iced[[0, 6]]
    doubt = np.isin(np.arange(10), [0, 6])
    np.testing.assert_array_equal(
        track.pixel_begins(iced, doubt)[1:3], track.pixel_begins(value, doubt)[1:3]
    )  # dates in doubt say nothing


@given(st.integers(1, 12), st.integers(0, 12))
def test_an_early_part_is_told_from_the_rest_by_its_pixels(begin, later):
    index = np.r_[np.full(20, begin), np.full(40, begin + later)]
    value = (np.arange(26)[:, None] >= index) + 0.2 * np.sin(np.arange(26 * 60)).reshape(26, 60)
    found = track.pixel_begins(value, np.zeros(26, bool))
    np.testing.assert_array_equal(found, index)
    early = first_part(found)
    if later < 2:
        assert early is None
    else:
        np.testing.assert_array_equal(early, index == begin)


def test_a_part_that_is_rejected_or_comes_no_earlier_changes_nothing():
    whole = verdict(first=5)
    for part in (verdict(first=5), verdict(first=7), replace(verdict(None, first=2), reason="vessel")):
        assert track.grown(whole, part) is whole
        dated = replace(whole, absent_before=2)
        assert interval(track.grown(dated, part)) == (2, whole.first)  # it grew: smaller, it was there before


def test_growth_makes_a_structure_of_what_as_a_whole_is_none():
    whole = replace(verdict(None, first=8, confirmed=-1), reason="not-persistent")
    joined = track.grown(whole, verdict(first=4))
    assert (joined.status, joined.reason, joined.first) == ("growing", None, 4)


# --------------------------------------------------------------------------------------------- any series

VALUES = st.one_of(st.floats(-2, 3), st.just(NAN), st.sampled_from([0.0, 1.0]))


@st.composite
def cases(draw):
    """A random series with random causes; often with a plain step in it."""
    n = draw(st.integers(3, 18))
    value = np.array(draw(st.lists(VALUES, min_size=n, max_size=n)))
    if draw(st.booleans()):
        first, end = draw(st.integers(0, n)), draw(st.integers(0, n))
        value = 0.1 * value + ((np.arange(n) >= first) & (np.arange(n) < max(end, first)))
    flags = [
        np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n))) & draw(st.booleans())
        for _ in range(2)
    ]
    noise = np.array(draw(st.lists(st.floats(0.01, 0.6), min_size=n, max_size=n)))
    share = np.where(np.isfinite(value), draw(st.sampled_from([1.0, 0.6])), 0.0)
    level = np.array(draw(st.lists(st.floats(-1, 1) | st.just(NAN), min_size=n, max_size=n)))
    setting = {"over": draw(st.sampled_from(["water", "shore", "land"])), "step": 1.0}
    setting |= {k: draw(st.booleans()) for k in ("plants", "darker", "cleared")}
    return (
        Series(value, noise, share, *flags),
        Causes(level=level, years=np.arange(n) * 0.12, frozen=flags[0], **setting),
    )


@given(cases())
def test_what_holds_for_every_series(case):
    own, other = case
    v = track.judge(own, other)
    n = own.value.size
    assert (v.status is None) != (v.reason is None)
    assert v.status is None or v.status in STATUSES
    assert v.reason is None or v.reason in REASONS
    assert all(-1 <= k < n for k in (v.first, v.last_absent, v.confirmed, v.last))
    assert v.seen.shape == (n,) and v.seen.dtype == bool
    assert not v.seen[~own.usable].any()
    assert v.last_absent < v.first or v.first == -1 == v.last_absent
    assert v.confirmed == -1 or v.confirmed >= v.first
    assert v.absent_before == -1 or v.absent_before < v.last_absent
    for k in (v.last_absent, v.absent_before):
        assert k == -1 or (own.usable[k] and not v.seen[k])
    if v.status is None:
        assert v.confirmed == -1
    else:
        assert v.first >= 1 and v.last_absent >= 0 and v.seen[v.last] and own.usable[v.first]
        assert v.first <= v.last and v.snr >= Persistence().min_snr
        assert not v.seen[v.last + 1 :].any()


@given(cases(), st.data())
def test_a_date_without_use_changes_nothing_but_the_numbering(case, data):
    own, other = case
    n = own.value.size
    at = data.draw(st.integers(0, n))
    kept = np.delete(np.arange(n + 1), at)

    def wider(values, fill):
        return np.insert(values, at, fill)

    longer = Series(
        wider(own.value, NAN), wider(own.noise, np.inf), wider(own.share, 0.0),
        wider(own.frozen, False), wider(own.near_cloud, False),
    )  # fmt: skip
    years = wider(other.years, other.years[min(at, n - 1)])
    more = replace(
        other, level=wider(other.level, NAN), frozen=wider(other.frozen, False), years=np.sort(years)
    )
    one, two = track.judge(own, other), track.judge(longer, more)
    assert (one.status, one.reason) == (two.status, two.reason)
    names = ("first", "last_absent", "confirmed", "last")
    assert [kept[getattr(one, k)] if getattr(one, k) >= 0 else -1 for k in names] == [
        getattr(two, k) for k in names
    ]
    np.testing.assert_array_equal(two.seen[kept], one.seen)
    assert not two.seen[at]


@given(cases())
def test_judging_leaves_its_inputs_alone(case):
    own, other = case
    kept = [a.copy() for a in (own.value, own.noise, own.share, other.level)]
    track.judge(own, other)
    for before, now in zip(kept, (own.value, own.noise, own.share, other.level), strict=True):
        np.testing.assert_array_equal(before, now)


# --------------------------------------------------------------------------------------------- levels


def weighted_sse(value, weight):
    middle = (weight * value).sum() / weight.sum()
    return float((weight * (value - middle) ** 2).sum())


SERIES = st.lists(st.tuples(st.floats(-5, 5), st.floats(0.1, 10)), min_size=4, max_size=14)


@given(SERIES, st.integers(1, 2))
def test_split_levels_against_a_loop(pairs, min_side):
    value, weight = np.array(pairs).T
    found = causes_of.split_levels(value, weight, min_side=min_side)
    costs = {
        k: weighted_sse(value[:k], weight[:k]) + weighted_sse(value[k:], weight[k:])
        for k in range(min_side, value.size - min_side + 1)
    }
    assert found.sse == pytest.approx(min(costs.values()), abs=1e-6)
    assert costs[found.index] == pytest.approx(found.sse, abs=1e-6)
    assert found.sse0 == pytest.approx(weighted_sse(value, weight), abs=1e-6)
    assert found.low == pytest.approx(np.average(value[: found.index], weights=weight[: found.index]))
    assert found.high == pytest.approx(np.average(value[found.index :], weights=weight[found.index :]))


@given(SERIES)
def test_find_stay_against_a_loop(pairs):
    value, weight = np.array(pairs).T
    n = value.size
    found = track.find_stay(value, weight)
    best = np.inf
    for i in range(2, n - 1):
        for j in range(i + 2, n + 1):
            inside = np.zeros(n, bool)
            inside[i:j] = True
            sse = weighted_sse(value[inside], weight[inside]) + weighted_sse(value[~inside], weight[~inside])
            sse = max(sse, 1e-6 * (weight * value * value).sum())
            best = min(best, sse * (1.4 if j < n else 1.0))
    own = max(found.sse, 1e-6 * (weight * value * value).sum()) * (1.4 if found.end < n else 1.0)
    assert own == pytest.approx(best, abs=1e-6)
    assert 2 <= found.first <= found.end - 2


def test_levels_need_enough_dates():
    assert causes_of.split_levels(np.zeros(3), np.ones(3)) is None
    assert track.find_stay(np.zeros(3), np.ones(3)) is None


def test_a_cause_explains_a_series_that_it_sorts_better_than_time_does():
    weight = np.ones(16)
    assert causes_of.explained_by(-CHANGING, (CHANGING < 0).astype(float), weight)
    step = (np.arange(16) >= 8).astype(float)
    assert not causes_of.explained_by(-CHANGING, step, weight)
    assert not causes_of.explained_by(np.full(16, NAN), step, weight)
    assert not causes_of.explained_by(-CHANGING[:4], step[:4], weight[:4])


def test_a_season_needs_a_year_and_a_cycle():
    years = np.arange(20) * 0.13
    cycle, step = np.cos(2 * np.pi * years), (np.arange(20) >= 10).astype(float)
    assert causes_of.seasonal(years, cycle, np.ones(20))
    assert not causes_of.seasonal(years, step, np.ones(20))
    assert not causes_of.seasonal(years * 0.3, cycle, np.ones(20))


@pytest.mark.parametrize(
    ("delta", "plants", "darker", "gone"),
    [
        ((0.02, -0.02, 0.03, -0.6), True, False, True),  # vigor lost
        ((0.2, 0.1, 0.35, -0.45), True, False, True),  # ripe
        ((-0.05, 0.0, -0.4, 0.5), True, False, False),  # grown
        ((0.8, 0.7, 0.9, -0.3), False, False, True),  # built on plants
        ((1.2, 1.0, 1.1, 1.4), False, False, False),  # concrete over water
        ((-0.4, -0.5, -0.4, -0.6), False, True, False),  # a shadow
        ((0.0, 0.0, 0.0, 0.0), False, False, False),
    ],
)
def test_the_color_of_a_step(delta, plants, darker, gone):
    step = np.array(delta)
    assert track.only_plants(step, BANDS) is plants
    assert track.all_darker(step) is darker
    assert track.plants_gone(step, BANDS) is gone


def test_colors_that_are_not_there_say_nothing():
    step = np.array([-0.5, -0.6])
    assert not track.only_plants(step, ("vv", "vh")) and not track.plants_gone(step, ("vv", "vh"))
    assert not track.all_darker(np.array([-2.0]))  # one band alone cannot tell a shadow from a change


# --------------------------------------------------------------------------------------------- projection


def projected(residual, weight, delta, whiten=None, **flags):
    times = residual.shape[0]
    frozen, edge = (flags.get(k, np.zeros(times, bool)) for k in ("frozen", "near_cloud"))
    matrix = np.eye(delta.size) if whiten is None else whiten
    return track.project(*track.pixel_values(residual, weight, delta, matrix), frozen, edge)


@pytest.mark.parametrize("scale", [0.01, 1.0, 5.0])
def test_evidence_along_the_step_is_projected_on_its_share(scale):
    delta = scale * np.array([0.5, -0.2, 0.9])
    share = np.r_[0, 0, 0, 1, 0.5, 1, -0.3]
    residual = (share[:, None, None] * delta[:, None] * np.ones((7, 3, 5))).astype(np.float32)
    weight = np.full((7, 3, 5), 4.0, np.float32)
    mixing = np.array([[2.0, 0.3, 0], [0, 1.0, 0.2], [0.1, 0, 3.0]])
    for whiten in (np.eye(3), mixing):
        found = projected(residual, weight, delta, whiten)
        np.testing.assert_allclose(found.value, share, atol=1e-5)
        np.testing.assert_allclose(found.share, 1)


def test_noise_falls_with_weight_and_with_pixels():
    delta = np.array([1.0, 1.0])

    def noise(weight, pixels):
        shape = (4, 2, pixels)
        return projected(np.zeros(shape, np.float32), np.full(shape, weight, np.float32), delta).noise

    assert (noise(100, 9) < noise(25, 9)).all() and (noise(25, 40) < noise(25, 9)).all()
    np.testing.assert_allclose(noise(25, 9), 2 * noise(100, 9), rtol=1e-5)


def test_gaps_lower_the_share_and_never_the_value():
    rng = np.random.default_rng(0)
    delta = np.array([1.0, 0.5])
    residual = (np.r_[0, 0, 1, 1, 1][:, None, None] * delta[:, None] * np.ones((5, 2, 8))).astype(np.float32)
    weight = np.full(residual.shape, 9.0, np.float32)
    weight[1], weight[2, :, :6], weight[3, 0, :2] = 0, 0, 0
    residual[weight == 0] = rng.uniform(-50, 50, int((weight == 0).sum()))
    found = projected(residual, weight, delta)
    np.testing.assert_allclose(found.share, [1, 0, 0.25, 0.75, 1])
    np.testing.assert_array_equal(found.usable, [True, False, False, True, True])
    np.testing.assert_allclose(found.value[[0, 2, 3, 4]], [0, 1, 1, 1], atol=1e-6)
    assert np.isnan(found.value[1]) and np.isinf(found.noise[1])


# --------------------------------------------------------------------------------------------- candidates


def scene(*blocks, shape=(40, 50), rim=0.0):
    """Evidence and steps: (rows, columns, z, step) a block on quiet ground."""
    z = np.zeros(shape, np.float32)
    delta = np.zeros((2, *shape), np.float32)
    for rows, columns, height, step in blocks:
        z[rows, columns] = height
        delta[:, rows, columns] = np.asarray(step, np.float32)[:, None, None]
    return z, delta


def pixels(candidate):
    return set(zip(candidate.rows.tolist(), candidate.columns.tolist(), strict=True))


def block(rows, columns):
    return {(r, c) for r in range(rows.start, rows.stop) for c in range(columns.start, columns.stop)}


A, B = (slice(5, 8), slice(10, 13)), (slice(25, 29), slice(30, 42))


def test_separate_blocks_are_separate_candidates_in_raster_order():
    z, delta = scene((*B, 30, (0.5, 0.4)), (*A, 20, (1.0, 0.2)))
    first, second = track.candidates(z, delta, np.full(z.shape, 8.0))
    assert pixels(first) == block(*A) and pixels(second) == block(*B)
    assert first.peak == 20 and second.peak == 30
    np.testing.assert_allclose(first.delta, (1.0, 0.2))
    assert first.window == A and second.window == B


def test_a_candidate_needs_a_seed_and_grows_to_weaker_pixels_of_the_same_step():
    z, delta = scene((slice(5, 9), slice(10, 20), 6, (1, 1)), (*B, 6, (1, 1)))
    z[6, 12] = 12  # the only pixel above the seed level
    (found,) = track.candidates(z, delta, np.full(z.shape, 8.0))
    assert pixels(found) == block(slice(5, 9), slice(10, 20))


def test_a_faint_rim_is_cut_where_less_than_half_of_the_step_is_left():
    z, delta = scene((slice(4, 9), slice(9, 14), 9, (0.3, 0.3)), (*A, 20, (1.0, 1.0)))
    (found,) = track.candidates(z, delta, np.full(z.shape, 10.0))
    assert pixels(found) == block(*A)


def test_touching_objects_of_other_steps_are_apart():
    left, right = (slice(5, 10), slice(5, 12)), (slice(5, 10), slice(12, 20))
    z, delta = scene((*left, 25, (1.0, 1.0)), (*right, 20, (-1.0, -1.0)))
    found = track.candidates(z, delta, np.full(z.shape, 8.0))
    assert len(found) == 2
    steps = sorted(float(c.delta[0]) for c in found)
    assert steps == [-1.0, 1.0]
    for candidate in found:
        own = left if candidate.delta[0] > 0 else right
        assert pixels(candidate) <= block(*own) and len(pixels(candidate)) >= 0.7 * len(block(*own))


def test_single_pixels_are_dropped_and_may_be_kept():
    z, delta = scene((slice(5, 6), slice(5, 6), 30, (1, 1)))
    level = np.full(z.shape, 8.0)
    assert track.candidates(z, delta, level) == []
    assert len(track.candidates(z, delta, level, Growth(min_px=1))) == 1


def test_where_there_is_no_decision_there_is_no_candidate():
    z, delta = scene((*A, 20, (1, 1)))
    z[:, 30:] = np.nan
    delta[:, :, 30:] = np.nan
    z[5:8, 11] = np.nan
    level = np.full(z.shape, 8.0)
    level[20:] = np.inf
    kept = z.copy(), delta.copy(), level.copy()
    (found,) = track.candidates(z, delta, level, Growth(min_px=1))[:1]
    assert all(np.isfinite(z[r, c]) for r, c in pixels(found))
    for before, now in zip(kept, (z, delta, level), strict=True):
        np.testing.assert_array_equal(before, now)


@given(st.integers(0, 2**32 - 1))
def test_candidates_are_disjoint_and_hold_a_seed(seed):
    rng = np.random.default_rng(seed)
    z = rng.gamma(1.2, 3.0, (24, 24)).astype(np.float32)
    delta = rng.standard_normal((2, 24, 24)).astype(np.float32)
    level = np.full(z.shape, 8.0)
    found = track.candidates(z, delta, level)
    everything = [p for c in found for p in pixels(c)]
    assert len(everything) == len(set(everything))
    for candidate in found:
        assert isinstance(candidate, Candidate) and candidate.rows.size >= Growth().min_px
        inside = z[candidate.rows, candidate.columns]
        assert candidate.peak == inside.max() > 8.0 and inside.min() > Growth().grow


def test_what_is_no_brighter_in_visible_light_is_told():
    assert track.not_brighter(np.array([-0.1, 0.05, 0.0, 0.8]), BANDS)
    assert not track.not_brighter(np.array([-0.1, 0.05, 0.3, -0.8]), BANDS)
    assert not track.not_brighter(np.array([-1.0]), ("vv",))  # no visible band, no verdict
