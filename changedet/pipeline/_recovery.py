"""From structures put in and found again to rates, curves and the smallest size that is found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from changedet.pipeline._injection import Kind

Array = npt.NDArray[Any]

CSV = (
    "over",
    "material",
    "shape",
    "side_m",
    "size_m2",
    "date",
    "scene",
    "n_after",
    "n",
    "recovered",
    "rate",
    "rate_low",
    "rate_high",
    "date_hit",
    "interval_days",
    "unresolved",
    "missed",
)
"""Columns of ``recovery.csv``."""

UNSEEN = "no evidence"
"""Of a structure where not even an alarm was raised."""

LEVEL = 0.9
"""Probability of the intervals of sizes."""

_CEILING = 0.5
"""Belief, before anything is seen, that what is large enough is always found."""


@dataclass(frozen=True)
class Outcome:
    """What became of one structure.

    Parameters
    ----------
    kind : what was put in
    recovered : a structure was found there that was not there before
    status : of that structure, None where none was found
    date_hit : its interval holds the date on which it was put in
    interval_days : length of that interval
    clarity : how clear a structure stands out there, against the usual of its stratum
    missed : why it was not found: the reason of the alarm there, or :data:`UNSEEN`; None where it was
    """

    kind: Kind
    recovered: bool
    status: str | None = None
    date_hit: bool | None = None
    interval_days: float | None = None
    clarity: float = float("nan")
    missed: str | None = None


def wilson(hits: int, n: int, *, z: float = 1.96) -> tuple[float, float]:
    """Return the Wilson interval of a share (95 % by default); (0, 1) where nothing was tried.

    >>> [round(v, 3) for v in wilson(9, 10)]
    [0.596, 0.982]
    """
    if n == 0:
        return 0.0, 1.0
    p, q = hits / n, z * z / n
    middle, half = p + q / 2, z * np.sqrt(p * (1 - p) / n + q / (4 * n))
    return max(float((middle - half) / (1 + q)), 0.0), min(float((middle + half) / (1 + q)), 1.0)


# ------------------------------------------------------------------------------------------------ curve


@dataclass(frozen=True)
class Curve:
    """Recovery against size: rate = ceiling / (1 + exp(−slope · (ln area − middle))).

    Parameters
    ----------
    middle, slope, ceiling : (n,) parameters that were weighed
    weight : (n,) their probability
    """

    middle: Array
    slope: Array
    ceiling: Array
    weight: Array

    def rate(self, area_m2: Array) -> Array:
        """Return the expected rate at some areas."""
        x = np.log(np.asarray(area_m2, float))[:, None]
        return np.asarray((_rate(x, self.middle, self.slope, self.ceiling) * self.weight).sum(axis=1))

    def size_m2(self, target: float, quantile: float = 0.5) -> float:
        """Return the area of which ``target`` are found, at a quantile of belief; it may be infinite."""
        reach = self.ceiling > target
        odds = np.log(target / np.where(reach, self.ceiling - target, 1))
        at = np.where(reach, np.exp(np.minimum(self.middle + odds / self.slope, 600)), np.inf)
        order = np.argsort(at)
        total = np.cumsum(self.weight[order])
        return float(at[order][min(int(np.searchsorted(total, quantile)), at.size - 1)])


def _rate(x: Array, middle: Array, slope: Array, ceiling: Array) -> Array:
    """Return the rate at ln areas."""
    return np.asarray(ceiling / (1 + np.exp(np.clip(-slope * (x - middle), -50, 50))))


def fit_curve(area_m2: Array, recovered: Array) -> Curve:
    """Fit recovery against size, by the likelihood of every curve on a grid: rising, with a ceiling.

    What is known beforehand is that larger structures are found more often; that the ceiling is 1 is as
    likely as that it is anything less, since some places hide structures of every size.

    Parameters
    ----------
    area_m2 : (trial,)
    recovered : (trial,) bool
    """
    sizes, which = np.unique(np.asarray(area_m2, float), return_inverse=True)
    n = np.bincount(which, minlength=sizes.size)
    hits = np.bincount(which, np.asarray(recovered, float), sizes.size)
    axes = (
        np.linspace(np.log(sizes[0] / 8), np.log(sizes[-1] * 8), 80),
        np.geomspace(0.6, 8, 9),
        np.append(np.arange(0.02, 1, 0.04), 1.0),
    )
    middle, slope, ceiling = (a.ravel() for a in np.meshgrid(*axes, indexing="ij"))
    prior = np.where(ceiling == 1, _CEILING, (1 - _CEILING) / (axes[2].size - 1))
    log_like = np.log(prior)
    for x, trials, found in zip(np.log(sizes), n, hits, strict=True):
        p = np.clip(_rate(x, middle, slope, ceiling), 1e-6, 1 - 1e-6)
        log_like += found * np.log(p) + (trials - found) * np.log1p(-p)
    weight = np.exp(log_like - log_like.max())
    return Curve(middle, slope, ceiling, weight / weight.sum())


@dataclass(frozen=True)
class Size:
    """Smallest size that is found often enough.

    Parameters
    ----------
    m2 : area; None where it cannot be said
    low_m2, high_m2 : 90 % interval; None = no bound within what was tried
    n, recovered : structures tried and found
    largest : rate of the largest that were tried
    why : why there is no area, empty where there is one
    half_m2 : area of which half are found, which few structures say more surely; None beyond what was tried
    """

    m2: float | None
    low_m2: float | None
    high_m2: float | None
    n: int
    recovered: int
    largest: float | None
    why: str = ""
    half_m2: float | None = None

    def record(self) -> dict[str, Any]:
        """Return what ``run.json`` holds."""
        return {k: v for k, v in vars(self).items() if not (k == "why" and not v)}


def smallest(
    area_m2: Array, recovered: Array, target: float, *, least: int = 12
) -> tuple[Size, Curve | None]:
    """Return the smallest area of which ``target`` are found, and the curve it was read from.

    Parameters
    ----------
    area_m2, recovered : of each structure
    target : rate wanted
    least : fewer structures say nothing
    """
    area, hit = np.asarray(area_m2, float), np.asarray(recovered, bool)
    n, hits = int(area.size), int(hit.sum())
    if n < least:
        words = f"only {n} structures could be put there" if n else "no structure could be put there"
        return Size(None, None, None, n, hits, None, words), None
    curve = fit_curve(area, hit)
    share = float(hit[area == area.max()].mean())
    spread = ((1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2)
    low, m2, high = (_within(curve.size_m2(target, q), area) for q in spread)
    why = ""
    if m2 is None:
        why = _why_not(curve, area, hit, target)
    half = _within(curve.size_m2(0.5), area)
    return Size(m2, low, high, n, hits, share, why, half), curve


def _why_not(curve: Curve, area: Array, hit: Array, target: float) -> str:
    """Say why no size of which ``target`` are found can be given."""
    top = area == area.max()
    said = f"of the largest tried, {area.max():.0f} m², {hit[top].sum()} of {top.sum()} were found"
    ceiling = float((curve.ceiling * curve.weight).sum())
    level = _within(curve.size_m2(0.9 * ceiling), area)
    if ceiling > target or level is None:
        return f"{said}: more would have to be put in to say where {target:.0%} are"
    return f"{said}; from about {level:g} m² on, some {ceiling:.0%} are, whatever the size"


def _within(size: float, area: Array) -> float | None:
    """Return a size within what was tried: at least the smallest tried, None beyond the largest."""
    if size > area.max():
        return None
    return float(f"{max(size, float(area.min())):.3g}")


def exponent(area_m2: Array, recovered: Array, clarity: Array) -> float:
    """Return how the size needed depends on how clear a structure stands out: area ∝ clarity^−exponent.

    Of a few exponents the one under which the outcomes are likeliest; 0 where clarity says nothing.

    Parameters
    ----------
    area_m2, recovered, clarity : of each structure; clarity against the usual of its stratum
    """
    best, chosen = -np.inf, 0.0
    x, hit = np.log(np.asarray(area_m2, float)), np.asarray(recovered, bool)
    middle, slope, ceiling = (
        a.ravel()
        for a in np.meshgrid(
            np.linspace(x.min() - 2, x.max() + 2, 40), np.geomspace(0.6, 8, 6), np.linspace(0.5, 1, 6)
        )
    )
    for power in (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0):
        at = x + power * np.log(clarity)
        p = np.clip(_rate(at[:, None], middle, slope, ceiling), 1e-6, 1 - 1e-6)
        like = float(np.where(hit[:, None], np.log(p), np.log1p(-p)).sum(axis=0).max())
        if like > best + 2.0:  # clearly likelier, two units of log likelihood, than with less dependence
            best, chosen = like, power
    return chosen


# ------------------------------------------------------------------------------------------------ tables


def select(outcomes: Sequence[Outcome], **wanted: str) -> tuple[Array, Array]:
    """Return areas and outcomes of the structures of some stratum, material, ..."""
    own = [o for o in outcomes if all(getattr(o.kind, k) == v for k, v in wanted.items())]
    return np.array([o.kind.side_m**2 for o in own]), np.array([o.recovered for o in own], bool)


def cells(outcomes: Sequence[Outcome], times: Array, scenes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of ``recovery.csv``: one a stratum, material, shape, size and date.

    Parameters
    ----------
    outcomes : all of them
    times, scenes : (time,) date and id of each scene
    """

    def key(one: Outcome) -> tuple[Any, ...]:
        k = one.kind
        return k.over, k.material, k.shape, k.side_m, k.onset

    rows = []
    for (over, material, shape, side, onset), group in groupby(sorted(outcomes, key=key), key):
        own = list(group)
        hits = [o for o in own if o.recovered]
        low, high = wilson(len(hits), len(own))
        date = f"{np.datetime_as_string(times[onset], unit='s')}Z"
        what = (over, material, shape, side, side**2, date, scenes[onset], len(times) - onset)
        why = "; ".join(f"{word} {count}" for word, count in reasons(own).items()) or None
        row = (*what, len(own), len(hits), len(hits) / len(own), low, high, *_dates(hits), why)
        rows.append(dict(zip(CSV, row, strict=True)))
    return rows


def reasons(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Return why structures were missed, and how many for each reason, the commonest first."""
    return dict(Counter(o.missed or UNSEEN for o in outcomes if not o.recovered).most_common())


def _dates(hits: Sequence[Outcome]) -> tuple[float | None, float | None, float | None]:
    """Return share of dates hit, median length of the interval, and share of unresolved of what was found."""
    if not hits:
        return None, None, None
    days = [o.interval_days for o in hits if o.interval_days is not None]
    return (
        sum(bool(o.date_hit) for o in hits) / len(hits),
        float(np.median(days)) if days else None,
        sum(o.status == "unresolved" for o in hits) / len(hits),
    )
