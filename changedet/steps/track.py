"""From evidence to objects in time: candidates, interval of appearance, status, or why not.

Objects are dated, never single pixels: the evidence of an object's core pixels is projected on its own step
and the series is split in two levels. The interval is ``(last_absent, first_seen]`` between two dates on
which most of the object was usable.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from changedet.steps._candidates import Candidate, Growth, candidates
from changedet.steps._causes import (
    Causes,
    Stay,
    all_darker,
    explained_by,
    find_stay,
    not_brighter,
    only_plants,
    plants_gone,
    seasonal,
    split_levels,
)
from changedet.steps._series import Series, first_part, pixel_begins, pixel_values, project

__all__ = [
    "Candidate",
    "Causes",
    "Growth",
    "Persistence",
    "Series",
    "Verdict",
    "all_darker",
    "candidates",
    "find_stay",
    "first_part",
    "grown",
    "judge",
    "not_brighter",
    "only_plants",
    "pixel_begins",
    "pixel_values",
    "plants_gone",
    "project",
    "settled",
]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Verdict:
    """What the series of an object says.

    Parameters
    ----------
    status : of a structure, or None where it is an alarm
    reason : of an alarm, or None
    first, last_absent, confirmed, last : indexes of dates (first_seen, …); −1 unknown
    seen : (time,) bool, usable dates on which it was there
    snr : step over the scatter while it is absent
    absent_before : index of the date before ``last_absent`` that showed it absent; −1 unknown
    unexplained : share of the variation of its series that one step leaves; NaN unknown
    standing : status that an alarm would have, were it believed
    """

    status: str | None
    reason: str | None
    first: int
    last_absent: int
    confirmed: int
    last: int
    seen: Array
    snr: float
    absent_before: int = -1
    unexplained: float = float("nan")
    standing: str | None = None


@dataclass(frozen=True)
class Persistence:
    """Rules of persistence.

    Parameters
    ----------
    present : share of the full step above which an object counts as there (its contrast changes with season)
    present_sd : the same, in units of the scatter while it is absent, but half of the step at most
    max_noise : a date with more noise than this share of the step says nothing
    after : weighted share of later dates on which it must be there
    before : weighted share of the earlier dates on which it may seem to be there
    min_after : open dates on which it must be seen before it is no longer unresolved
    min_stay : dates a thing that is gone again must have stayed to be a structure
    min_snr : least step over the scatter while it is absent
    min_t : least step over the error of the difference of both levels, were that scatter its only source: a
        weak step counts where many dates show it
    season_years : what clears plants for a shorter time was mowing, fire or flood
    max_unrest : most scatter on land while it is there, as a share of the step: what stands looks alike,
        plants do not
    min_confidence : least probability that it was built, at the reference false-alarm level: precision and
        recall together are best at half of what they reach
    """

    present: float = 0.3
    present_sd: float = 2.0
    max_noise: float = 0.4
    after: float = 0.7
    before: float = 0.25
    min_after: int = 3
    min_stay: int = 4
    min_snr: float = 2.5
    min_t: float = 6.0
    season_years: float = 0.8
    max_unrest: float = 0.6
    min_confidence: float = 0.4


UNSURE = ("not-persistent", "phenology", "cloud", "vessel", "water-level")
"""Reasons that weigh, but do not exclude that something was built."""


def judge(series: Series, causes: Causes, rules: Persistence = Persistence()) -> Verdict:
    """Date an object and say whether it is a structure.

    Parameters
    ----------
    series : projected evidence
    causes : what else might explain it
    rules : persistence rules

    Notes
    -----
    The contrast of an object changes with the season, so its presence is judged against the scatter while it
    is absent, not against its mean height. A date says "there", "absent" or nothing (ice, a cloud's edge that
    looks like the object, too noisy, in between); the interval lies between dates that speak.
    """
    open_dates = series.usable & ~series.frozen
    dates = np.flatnonzero(open_dates if open_dates.sum() >= 5 else series.usable)
    value, noise = series.value[dates], series.noise[dates]
    stay = find_stay(value, 1 / (noise**2 + 0.1**2))
    if stay is None:
        nothing = np.zeros(series.value.size, bool)
        return Verdict(None, "not-persistent", -1, -1, -1, -1, nothing, 0.0)
    run = _presence(dates, value, noise, series.near_cloud[dates], stay, rules)
    seen = np.zeros(series.value.size, bool)
    times = dates[run.first : run.end][run.state[run.first : run.end] > 0]
    seen[times] = True
    status, reason = _status(series, causes, rules, run)
    split = split_levels(series.value[run.dates], run.weight, min_side=1)
    # a veil hides what stands below it, so "absent" beside a cloud closes no interval
    absent = dates[: run.first][run.state[: run.first] < 0]
    absent = absent[~series.near_cloud[absent]] if (~series.near_cloud[absent]).any() else absent
    clear = times[~series.near_cloud[times]]
    first = int(clear[0]) if clear.size else int(dates[run.first])
    before = absent[absent < first]
    enough = times.size >= rules.min_after
    standing = _standing(series, rules, run, times) if enough and reason in UNSURE else None
    confirmed = int(times[rules.min_after - 1]) if enough and status else -1
    return Verdict(
        status,
        reason,
        first,
        int(before[-1]) if before.size else -1,
        max(confirmed, first) if confirmed >= 0 else -1,
        int(times[-1]) if times.size else -1,
        seen,
        run.snr,
        int(before[-2]) if before.size > 1 else -1,
        split.sse / max(split.sse0, 1e-9) if split else float("nan"),
        standing,
    )


@dataclass(frozen=True)
class _Run:
    """States of the used dates (1 there, −1 absent, 0 unclear), and the stretch that fits them."""

    dates: Array
    weight: Array
    state: Array
    first: int
    end: int
    height: float
    snr: float
    unrest: float


def _presence(
    dates: Array, value: Array, noise: Array, near_cloud: Array, stay: Stay, rules: Persistence
) -> _Run:
    """Say on which dates an object is there, and find the stretch with the fewest mistakes."""
    first, end = stay.first, stay.end
    weight = 1 / (noise**2 + 0.1**2)
    for _ in range(3):
        outside = np.ones(value.size, bool)
        outside[first:end] = False
        low = float(np.median(value[outside])) if outside.any() else stay.low
        height = float(np.median(value[~outside])) - low
        scatter, scale = _scatter(value[outside] - low, noise[outside])
        state = _states(value - low, noise * scale, height, scatter, rules)
        # the thin edge of a cloud can look like a bright object: it may support, it may not decide
        first, end = _best_stretch(state, weight * np.where(near_cloud & (state > 0), 0.3, 1.0))
    inside = np.zeros(value.size, bool)
    inside[first:end] = (noise[first:end] * scale <= rules.max_noise * max(height, 1e-6)) & ~near_cloud[
        first:end
    ]
    level = value[inside] - low
    excess = (
        float(np.sqrt(max(level.var() - float(np.mean((noise[inside] * scale) ** 2)), 0)))
        if inside.any()
        else 0.0
    )
    unrest = excess / max(float(level.mean()), 1e-6) if inside.any() else 0.0
    return _Run(dates, weight, state, first, end, height, height / scatter, unrest)


def _states(value: Array, noise: Array, height: float, scatter: float, rules: Persistence) -> Array:
    """Return 1 (there), −1 (absent) or 0 (unclear) for every date."""
    # half of the height parts two levels best, however wide the scatter about them
    there = max(rules.present * height, min(rules.present_sd * scatter, 0.5 * height))
    absent = 0.6 * there
    clear = noise <= rules.max_noise * max(height, 1e-6)
    return np.where(~clear, 0, np.where(value > there, 1, np.where(value < absent, -1, 0))).astype(np.int8)


def _best_stretch(state: Array, weight: Array) -> tuple[int, int]:
    """Return the stretch of dates with the fewest weighted mistakes; it begins with a date that shows it.

    A stretch that ends before the last date costs one mean weight: what stands is expected to stay.
    """
    n = state.size
    gain = np.concatenate([[0.0], np.cumsum(weight * state)])
    i, j = np.triu_indices(n + 1, k=1)
    keep = i >= 1
    i, j = i[keep], j[keep]
    score = gain[j] - gain[i] - np.where(j < n, weight.mean(), 0.0)
    best = int(np.argmax(score))
    first, end = int(i[best]), int(j[best])
    while first < end - 1 and state[first] <= 0:
        first += 1
    return first, end


def _scatter(deviation: Array, noise: Array) -> tuple[float, float]:
    """Return the robust scatter of a series while the object is absent, and its ratio to the expected noise.

    What neighbors share is unknown beforehand, so expected noise is right between dates but not in scale: the
    series itself gives the scale, within limits, as it may be short.
    """
    expected = max(float(np.median(noise)) if noise.size else 0.05, 1e-3)
    found = 1.4826 * float(np.median(np.abs(deviation))) if deviation.size else 0.0
    scatter = max(found, 0.35 * expected, 0.03)
    return scatter, min(scatter / expected, 1.0)


def _status(series: Series, causes: Causes, rules: Persistence, run: _Run) -> tuple[str | None, str | None]:
    """Return status, or the reason of an alarm."""
    inside, early = slice(run.first, run.end), slice(0, run.first)
    before = _share(run.state[early], run.weight[early])
    after = _share(run.state[inside], run.weight[inside])
    seen = run.dates[inside][run.state[inside] > 0]
    absent = int((run.state[early] < 0).sum())
    if (
        run.height <= 0
        or absent < 2
        or before > rules.before
        or after < rules.after
        or run.snr < rules.min_snr
        or run.snr < rules.min_t * np.sqrt(1 / max(seen.size, 1) + 1 / absent)
    ):
        return None, _not_persistent(series, causes, run, seen)
    other = _other_cause(series, causes, run, rules)
    if other is not None:
        return None, other
    gone = _absent_since(run, series.near_cloud[run.dates])
    if gone and causes.cleared and np.ptp(causes.years[seen]) < rules.season_years:
        return None, "phenology"
    status = _standing(series, rules, run, seen)
    return status, None if status else _not_persistent(series, causes, run, seen)


def _standing(series: Series, rules: Persistence, run: _Run, seen: Array) -> str | None:
    """Return the status that follows from the dates on which it was seen, None where they are too few."""
    # the edge of a cloud may fool once; the same look beside several clouds is no cloud
    open_seen = float(np.where(series.near_cloud[seen], 0.5, 1.0)[~series.frozen[seen]].sum())
    gone, long = _absent_since(run, series.near_cloud[run.dates]), seen.size >= rules.min_stay + 2
    if gone:
        if seen.size < rules.min_stay or open_seen < 2 or (gone == 1 and not long):
            return None
        return "unresolved" if gone == 1 else "removed" if long else "transient"
    if seen.size >= rules.min_after and open_seen >= rules.min_after - 1:
        return "persistent"
    return "unresolved" if seen.size >= 2 and open_seen > 1 else None


def settled(
    verdict: Verdict, confidence: float, causes: Causes, rules: Persistence = Persistence()
) -> Verdict:
    """Let the probability that it was built decide where the series alone does not exclude it.

    Parameters
    ----------
    verdict : of its series
    confidence : probability that it was built
    causes : what else might explain it
    rules : persistence rules
    """
    status, times = verdict.status or verdict.standing, np.flatnonzero(verdict.seen)
    if status is None:
        return verdict
    if confidence >= rules.min_confidence:
        enough = times.size >= rules.min_after
        confirmed = max(int(times[rules.min_after - 1]), verdict.first) if enough else -1
        return replace(verdict, status=status, reason=None, confirmed=confirmed)
    ordinary = {"water": "turbidity", "shore": "water-level", "land": "phenology"}[causes.over]
    other = "misregistration" if 0.5 * causes.edge_step > causes.step else ordinary
    return replace(verdict, status=None, reason=verdict.reason or other, standing=status, confirmed=-1)


def _absent_since(run: _Run, near_cloud: Array) -> int:
    """Return on how many of the last dates the object is absent; a cloud's edge does not speak for it."""
    state = np.where(near_cloud & (run.state > 0), 0, run.state)[run.first :]
    there = np.flatnonzero(state > 0)
    return int((state[there[-1] + 1 if there.size else 0 :] < 0).sum())


def _not_persistent(series: Series, causes: Causes, run: _Run, seen: Array) -> str:
    """Name the likeliest cause of what does not stay."""
    icy = series.usable & series.frozen & (series.value > 0.5)
    if icy.sum() > seen.size or (seen.size and causes.frozen[seen].mean() > 0.5):
        return "snow" if causes.over == "land" else "ice"
    if 0 < seen.size <= 2 and series.near_cloud[seen].all():
        return "cloud"
    if causes.over == "water" and run.end < run.dates.size and seen.size <= 3:
        return "vessel"
    if causes.over == "land" and seasonal(causes.years[run.dates], series.value[run.dates], run.weight):
        return "phenology"
    return "not-persistent"


def _other_cause(series: Series, causes: Causes, run: _Run, rules: Persistence) -> str | None:
    """Return a cause that explains the series at least as well as a step in time does."""
    value = series.value[run.dates]
    known = np.isfinite(causes.level[run.dates])
    if causes.over != "land" and known.sum() >= 6:
        if explained_by(-causes.level[run.dates][known], value[known], run.weight[known]):
            return "water-level"
    if causes.darker:
        return {"water": "turbidity", "shore": "water-level"}.get(causes.over, "shadow")
    # what stands in water looks other whenever the water does
    if causes.over == "land" and run.unrest > rules.max_unrest:
        return "phenology"
    if causes.over != "water" and (causes.plants or seasonal(causes.years[run.dates], value, run.weight)):
        return "phenology"
    if 0.5 * causes.edge_step > causes.step:
        return "misregistration"
    return None


def _share(state: Array, weight: Array) -> float:
    """Return the weighted share of "there" among the dates that speak, 0 without any."""
    total = float(weight[state != 0].sum())
    return float(weight[state > 0].sum() / total) if total > 0 else 0.0


def grown(whole: Verdict, part: Verdict) -> Verdict:
    """Join the verdicts on an object that grew and on its first part.

    What grows was there before it was large enough to be seen, so its interval opens one date earlier. Where
    its first part stands too, that part dates it.
    """
    if part.status in ("persistent", "unresolved") and 0 <= part.first < whole.first:
        status = "growing" if part.status == "persistent" else part.status
        seen, snr = part.seen | whole.seen, max(whole.snr, part.snr)
        joined = replace(part, status=status, last=max(part.last, whole.last), seen=seen, snr=snr)
    else:
        joined = whole
    return joined if joined.absent_before < 0 else replace(joined, last_absent=joined.absent_before)
