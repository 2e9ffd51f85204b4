"""Levels of a series, and what else than building might explain a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Split:
    """A two-level split of a series.

    Parameters
    ----------
    index : position in the list of used dates of the first date after the split
    low, high : levels before and after
    sse : weighted sum of squares that is left
    sse0 : the same without a split
    """

    index: int
    low: float
    high: float
    sse: float
    sse0: float


def split_levels(value: Array, weight: Array, *, min_side: int = 2) -> Split | None:
    """Split a series in two levels, minimizing the weighted squared deviation.

    Parameters
    ----------
    value, weight : (n,) finite values and weights > 0
    min_side : dates wanted on each side

    Returns
    -------
    Split, or None with too few dates

    >>> split_levels(np.array([0.0, 0, 0, 1, 1]), np.ones(5)).index
    3
    """
    n = value.size
    if n < 2 * min_side:
        return None
    w, wy, wyy = np.cumsum(weight), np.cumsum(weight * value), np.cumsum(weight * value * value)
    k = np.arange(min_side, n - min_side + 1)
    left = wyy[k - 1] - wy[k - 1] ** 2 / w[k - 1]
    rest_w, rest_y = w[-1] - w[k - 1], wy[-1] - wy[k - 1]
    right = (wyy[-1] - wyy[k - 1]) - rest_y**2 / rest_w
    best = int(np.argmin(left + right))
    i = int(k[best])
    return Split(
        i,
        float(wy[i - 1] / w[i - 1]),
        float(rest_y[best] / rest_w[best]),
        float(max(left[best] + right[best], 0)),
        float(wyy[-1] - wy[-1] ** 2 / w[-1]),
    )


@dataclass(frozen=True)
class Stay:
    """The stretch of dates on which a series is high.

    Parameters
    ----------
    first, end : positions in the list of used dates: high on ``first … end − 1``
    low, high : levels outside and inside
    sse : weighted sum of squares that is left
    sd : weighted standard deviation within the two levels
    """

    first: int
    end: int
    low: float
    high: float
    sse: float
    sd: float


def find_stay(value: Array, weight: Array, *, min_dates: int = 2, penalty: float = 1.4) -> Stay | None:
    """Find the stretch that minimizes the weighted squared deviation from two levels.

    Parameters
    ----------
    value, weight : (n,) finite values and weights > 0, in order of time
    min_dates : dates wanted inside, and before
    penalty : a stretch that ends before the last date must beat one that does not by this factor

    Returns
    -------
    Stay, or None with too few dates

    >>> stay = find_stay(np.array([0.0, 0, 0, 1, 1, 1]), np.ones(6))
    >>> stay.first, stay.end
    (3, 6)
    """
    n = value.size
    if n < 2 * min_dates:
        return None
    sums = [np.concatenate([[0.0], np.cumsum(x)]) for x in (weight, weight * value, weight * value * value)]
    i, j = np.triu_indices(n + 1, k=min_dates)
    keep = i >= min_dates
    i, j = i[keep], j[keep]
    inside = [s[j] - s[i] for s in sums]
    outside = [s[-1] - part for s, part in zip(sums, inside, strict=True)]
    sse = sum(p[2] - p[1] ** 2 / p[0] for p in (inside, outside))
    cost = np.maximum(sse, 1e-6 * sums[2][-1]) * np.where(j < n, penalty, 1.0)
    best = int(np.argmin(cost))
    left = float(max(sse[best], 0.0))
    return Stay(
        int(i[best]),
        int(j[best]),
        float(outside[1][best] / outside[0][best]),
        float(inside[1][best] / inside[0][best]),
        left,
        float(np.sqrt(left / sums[0][-1] * n / max(n - 2, 1))),
    )


@dataclass(frozen=True)
class Causes:
    """What else might explain an object.

    Parameters
    ----------
    level : (time,) water level, NaN unknown
    years : (time,) time in years
    frozen : (time,) bool, ice or snow in the object's stratum
    over : stratum the object lies in: water, shore or land
    edge_step : what a shift of one pixel would change here, ln units
    step : length of the object's step, ln units
    plants : the step is one of plants only: they lost vigor, or grew
    darker : every band fell: a shadow, wet ground, deeper or clearer water; on land, no visible band rose
    cleared : plants are gone from the place, as after building, mowing or fire
    """

    level: Array
    years: Array
    frozen: Array
    over: str
    edge_step: float = 0.0
    step: float = np.inf
    plants: bool = False
    darker: bool = False
    cleared: bool = False


def explained_by(order: Array, value: Array, weight: Array, *, margin: float = 1.0) -> bool:
    """Return True where sorting by another cause (water level) splits a series at least as well as time does.

    Parameters
    ----------
    order : (n,) the other cause; its order is what counts
    value, weight : (n,) series and weights, in order of time
    margin : the other cause explains it if its residual is at most this many times that of the step in time

    Returns
    -------
    bool; False with fewer than 5 dates
    """
    if value.size < 5 or not np.isfinite(order).all():
        return False
    in_time = split_levels(value, weight, min_side=1)
    by = np.argsort(order, kind="stable")
    in_order = split_levels(value[by], weight[by], min_side=1)
    if in_time is None or in_order is None:
        return False
    return in_order.sse <= margin * in_time.sse and in_order.sse < 0.5 * in_order.sse0


def only_plants(delta: Array, bands: tuple[str, ...], *, change: float = 0.15) -> bool:
    """Return True where a step is one of plants alone.

    They lose vigor (near infrared falls by more than the visible rises) or grow (near infrared up, red down).

    Whatever is built on plants hides them: visible light, of which plants reflect a twentieth, then rises by
    far more than near infrared, of which they reflect a third, falls.

    Parameters
    ----------
    delta : (band,) step, ln units
    bands : names of the bands
    change : least change of the near infrared, and of red where plants grow
    """
    nir, red = _band(delta, bands, "nir", "nir08"), _band(delta, bands, "red")
    if nir is None or red is None:
        return False
    visible = float(np.mean(_visible(delta, bands)))
    return bool((nir < -change < visible < -nir) or (nir > change and red < -change))


def not_brighter(delta: Array, bands: tuple[str, ...], *, rise: float = 0.1) -> bool:
    """Return True where no visible band rose by ``rise`` (ln units); False where there is none."""
    visible = _visible(delta, bands)
    return bool(visible) and max(visible) < rise


def _visible(delta: Array, bands: tuple[str, ...]) -> list[float]:
    """Return the steps in the visible bands."""
    return [float(d) for d, b in zip(delta, bands, strict=True) if b in ("blue", "green", "red")]


def all_darker(delta: Array, *, fall: float = 0.1) -> bool:
    """Return True where every band fell by more than ``fall`` (ln units).

    Concrete, bare fill and steel are brighter than water and, in some band, than plants; what darkens a
    place in every band is a shadow, water, or wet ground. A black roof is lost by this rule.
    """
    return bool(delta.size > 1 and np.max(delta) < -fall)


def plants_gone(delta: Array, bands: tuple[str, ...], *, fall: float = 0.3) -> bool:
    """Return True where near infrared falls against red by more than ``fall`` (ln units): plants are gone."""
    nir, red = _band(delta, bands, "nir", "nir08"), _band(delta, bands, "red")
    return nir is not None and red is not None and nir - red < -fall


def _band(delta: Array, bands: tuple[str, ...], *names: str) -> float | None:
    """Return the step in the first of some bands that is there."""
    found = [float(d) for d, b in zip(delta, bands, strict=True) if b in names]
    return found[0] if found else None


def seasonal(years: Array, value: Array, weight: Array) -> bool:
    """Return True where a yearly cycle explains a series better than one step does.

    Parameters
    ----------
    years : (n,) time in years
    value, weight : (n,) series and weights
    """
    if value.size < 8 or np.ptp(years) < 1.2:
        return False
    step = split_levels(value, weight, min_side=1)
    design = np.stack([np.ones_like(years), np.cos(2 * np.pi * years), np.sin(2 * np.pi * years)], axis=1)
    root = np.sqrt(weight)
    beta, *_ = np.linalg.lstsq(design * root[:, None], value * root, rcond=None)
    left = float((weight * (value - design @ beta) ** 2).sum())
    return step is not None and left < step.sse
