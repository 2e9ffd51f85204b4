"""Steps in a series of SAR power, tested by the distribution of speckle.

Power averaged over L looks is gamma distributed with shape L, so two groups of dates are compared by the
likelihood ratio of their means: the factor of the sequential omnibus test (Conradsen et al. 2016,
doi:10.1109/TGRS.2015.2510160) with every group taken as one date of as many looks as its dates have together.
It has no scale, needs no variance from the few dates of a pixel, and serves a pixel and the mean of an object
alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Split:
    """The best split of series in dates before and after.

    Parameters
    ----------
    score : (n,) float32 signed root of the test statistic, positive = brighter after; NaN = not tested
    index, length : (n,) int16, first date after the split, dates that were used after; −1, 0 where none
    delta : (band, n) float32, ln of mean power after over that before
    """

    score: Array
    index: Array
    length: Array
    delta: Array


def clipped(power: Array, looks: Array, *, limit: float = 5.0, dates: int = 3) -> Array:
    """Cut power that no more than two dates reach (a ship): what stays is there on three at least.

    Parameters
    ----------
    power : (time, band, n), NaN = not usable
    looks : (time, band, n)
    limit : standard deviations of log power by which a date may exceed the third highest
    dates : on which what stays is there at least
    """
    ordered = np.sort(power, axis=0)
    n = np.isfinite(ordered).sum(axis=0)
    at = np.clip(n - dates, 0, len(power) - 1)
    known = np.take_along_axis(ordered, at[None], axis=0)
    return np.asarray(np.minimum(power, known * np.exp(limit / np.sqrt(np.maximum(looks, 1.0)))), np.float32)


def statistics(power: Array, looks: Array, first: int, end: int) -> tuple[Array, Array, Array]:
    """Compare the dates before ``first`` with ``first … end − 1``.

    Parameters
    ----------
    power : (time, band, n) NaN = not usable
    looks : (time, band, n)

    Returns
    -------
    statistic : (n,) −2ρ·ln of the likelihood ratio summed over bands
    delta : (band, n) ln of the ratio of the means
    fewest : (n,) usable dates on the side that has fewer
    """
    w, wx, used = _weighed(power, looks)
    sides = slice(0, first), slice(first, end)
    (a, b), (u, v) = ([x[s].sum(axis=0) for s in sides] for x in (w, wx))
    stat, delta = _ratio(a, b, u, v)
    return stat, delta, np.minimum(*(used[s].sum(axis=0) for s in sides))


def _weighed(power: Array, looks: Array) -> tuple[Array, Array, Array]:
    """Return looks, power times looks, and the dates used; a date without some band is not."""
    used: Array = np.asarray(np.isfinite(power).all(axis=1))
    w = np.where(used[:, None], looks, 0).astype(np.float32)
    return w, np.where(used[:, None], power, 0).astype(np.float32) * w, used


def _ratio(a: Array, b: Array, u: Array, v: Array) -> tuple[Array, Array]:
    """Return test statistic and step from looks and looks-weighted power before (a, u) and after (b, v)."""
    tiny = np.float32(1e-9)
    a, b = np.maximum(a, tiny), np.maximum(b, tiny)
    before, after = np.maximum(u / a, tiny), np.maximum(v / b, tiny)
    both = (u + v) / (a + b)
    log_before, log_after = np.log(before), np.log(after)
    ratio = (a + b) * np.log(np.maximum(both, tiny)) - a * log_before - b * log_after
    rho = np.maximum(1 - (1 / a + 1 / b - 1 / (a + b)) / 6, 0.1)
    return np.maximum(2 * rho * ratio, 0).sum(axis=0), log_after - log_before


def best_split(
    power: Array, looks: Array, *, min_sides: tuple[int, int] = (4, 3), lengths: tuple[int, ...] = (0, 5)
) -> Split:
    """Find the split of each series that its likelihood ratio favors most.

    Parameters
    ----------
    power : (time, band, n) NaN = not usable
    looks : (time, band, n)
    min_sides : usable dates wanted before and after
    lengths : dates after the split that count; 0 = all of them, fewer find what was removed again
    """
    times, bands, n = power.shape
    w, wx, used = _weighed(power, looks)
    cw, cx, cn = (_prefix(v) for v in (w, wx, used))
    best = np.full(n, -1, np.float32)
    index, length = np.full(n, -1, np.int16), np.zeros(n, np.int16)
    delta = np.zeros((bands, n), np.float32)
    least_before, least_after = min_sides
    for k in range(least_before, times - least_after + 1):
        for end in sorted({times if span == 0 else min(k + span, times) for span in lengths}):
            stat, step = _ratio(cw[k], cw[end] - cw[k], cx[k], cx[end] - cx[k])
            better = (cn[k] >= least_before) & (cn[end] - cn[k] >= least_after) & (stat > best)
            best = np.where(better, stat, best)
            index[better], length[better] = k, end - k
            delta[:, better] = step[:, better]
    score = np.where(best >= 0, np.sqrt(np.maximum(best, 0)) * rising(delta), np.nan).astype(np.float32)
    return Split(score, index, length, delta)


def rising(delta: Array) -> Array:
    """Return 1 where a step is to brighter power, on the mean of the bands, else −1."""
    return np.where(delta.mean(axis=0) > 0, np.float32(1), np.float32(-1))


def _prefix(values: Array) -> Array:
    """Return sums before each date, (time + 1, …)."""
    out = np.zeros((values.shape[0] + 1, *values.shape[1:]), np.float32)
    for t, value in enumerate(values):  # faster than cumsum along the first axis
        np.add(out[t], value, out=out[t + 1])
    return out


def measure(split: Split, power: Array, looks: Array) -> Array:
    """Return the steps of other power at the splits already found, (band, n): that which was not cut."""
    t = np.arange(power.shape[0], dtype=np.int16)[:, None]
    w, wx, _ = _weighed(power, looks)
    sides = (t < split.index, (t >= split.index) & (t < split.index + split.length))
    sums = [[np.einsum("tn,tbn->bn", s.astype(np.float32), v) for v in (w, wx)] for s in sides]
    delta = _ratio(sums[0][0], sums[1][0], sums[0][1], sums[1][1])[1]
    return np.where(split.index >= 0, delta, 0).astype(np.float32)


def omnibus_p(power: Array, looks: Array) -> Array:
    """Return the probability of so unlike dates if nothing changed at any date, (n,).

    Parameters
    ----------
    power : (time, band, n), NaN = not usable
    looks : (time, band, n), may differ from date to date

    Notes
    -----
    The omnibus test of all dates, with Bartlett's correction, which holds for unequal looks.
    """
    from scipy.special import chdtrc

    used: Array = np.asarray((np.isfinite(power) & (power > 0)).all(axis=1))[:, None]
    w = np.where(used, looks, 0).astype(np.float64)
    x = np.where(used, power, 1).astype(np.float64)
    total = np.maximum(w.sum(axis=0), 1e-9)
    mean = np.maximum((w * x).sum(axis=0) / total, 1e-30)
    stat = 2 * (total * np.log(mean) - (w * np.log(x)).sum(axis=0))
    n = np.maximum(used[:, 0].sum(axis=0), 2)
    inverse = np.where(w > 0, 1 / np.maximum(w, 1e-9), 0).sum(axis=0)
    stat = stat / (1 + (inverse - 1 / total) / (6 * (n - 1)))
    return np.asarray(chdtrc(len(stat) * (n - 1), np.maximum(stat, 0).sum(axis=0)))


def split_interval(power: Array, looks: Array, end: int, *, support: float = 6.0) -> tuple[int, int] | None:
    """Return the first and the last date at which one series may have changed.

    Parameters
    ----------
    power, looks : (time, band), NaN = not usable
    end : dates from here on do not count
    support : splits whose statistic is this close to the best may be the right one (20 times less likely)

    Returns
    -------
    first, last : indexes of the earliest and the latest date that may be the first after the change
    """
    dates = np.flatnonzero(np.isfinite(power[:end]).all(axis=1))
    if dates.size < 3:
        return None
    x, w = power[dates][..., None], looks[dates][..., None]
    found = [float(statistics(x, w, k, dates.size)[0][0]) for k in range(1, dates.size)]
    near = 1 + np.flatnonzero(np.array(found) >= max(found) - support)
    return int(dates[near[0]]), int(dates[near[-1]])


# --- objects -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mean:
    """The mean of an object's pixels: power relative to its usual one and looks, (time, band); its test."""

    power: Array
    looks: Array
    share: Array
    statistic: float
    split: Split


def relative_mean(power: Array) -> tuple[Array, Array]:
    """Return the mean over pixels of power relative to each pixel's own mean over time.

    Parameters
    ----------
    power : (time, band, pixel), NaN = not usable

    Returns
    -------
    mean : (time, band), NaN where less than half of the pixels are usable
    share : (time,) share of pixels that are usable
    """
    known = np.isfinite(power)
    value = np.where(known, power, 0)
    usual = value.sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    total = (value / np.maximum(usual, 1e-30)).sum(axis=-1)
    count = known.sum(axis=-1)
    mean = np.where(count >= 0.5 * power.shape[-1], total / np.maximum(count, 1), np.nan)
    return mean, known.all(axis=1).mean(axis=-1)


def mean_of(power: Array, looks: Array) -> Mean:
    """Test the mean of an object.

    Parameters
    ----------
    power : (time, band, pixel)
    looks : (time, band) of the mean
    """
    mean, share = relative_mean(power)
    x, w = mean[..., None].astype(np.float32), looks[..., None].astype(np.float32)
    split = best_split(clipped(x, w), w)
    split = replace(split, delta=measure(split, x, w))
    return Mean(mean, looks, share, float(np.nan_to_num(split.score[0]) ** 2), split)
