"""Straight lines between two noisy sides: at right angles, by medians, and robustly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from changedet.errors import DegenerateError

Array = npt.NDArray[Any]

_BISQUARE = 4.685  # 95 % efficiency under Gaussian noise
_ROUNDS = 60
_THEIL_SEN_POINTS = 1500


@dataclass(frozen=True)
class Line:
    """How one band of a scene goes over into the reference.

    Parameters
    ----------
    gain, offset : reference = gain * subject + offset; 1 and 0 where nothing is to be done
    n : no-change pixels
    r2 : squared correlation of the pixels that count
    rmse_before, rmse_after : difference from the reference on held-out pixels (nearest 90 %), in its units
    accepted : whether the line can be trusted
    why : the reason, in words
    gain_error, offset_error : standard errors
    """

    gain: float = 1.0
    offset: float = 0.0
    n: int = 0
    r2: float = float("nan")
    rmse_before: float = float("nan")
    rmse_after: float = float("nan")
    accepted: bool = False
    why: str = ""
    gain_error: float = float("nan")
    offset_error: float = float("nan")


def orthogonal_line(x: Array, y: Array, weights: Array | None = None) -> tuple[float, float]:
    """Line that minimizes the distances at right angles: both sides may be noisy.

    Parameters
    ----------
    x, y : (n,) float arrays, finite
    weights : (n,) float array, not negative

    Returns
    -------
    (slope, intercept) of y on x; exchanging x and y gives the inverse line

    Raises
    ------
    DegenerateError
        Fewer than two points, or no correlation.

    >>> orthogonal_line(np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0, 5.0]))
    (2.0, 1.0)
    """
    slope, intercept, _, _ = _orthogonal(x, y, np.ones(np.shape(x)) if weights is None else weights)
    return slope, intercept


def _orthogonal(x: Array, y: Array, weights: Array) -> tuple[float, float, float, float]:
    """Slope, intercept, squared correlation and standard error of the slope."""
    x, y, w = (np.asarray(a, np.float64) for a in (x, y, weights))
    total = w.sum()
    mx, my = ((w @ a) / total if total > 0 else np.nan for a in (x, y))
    sxx, syy, sxy = (float(w @ p) / total if total > 0 else 0.0 for p in _products(x - mx, y - my))
    if np.count_nonzero(w) < 2 or not abs(sxy) > 1e-12 * np.sqrt(sxx * syy) or not sxx * syy > 0:
        raise DegenerateError(
            f"{np.count_nonzero(w)} points with variances {sxx:.3g} and {syy:.3g} fix no line; "
            "wanted two varying, correlated sides; choose other no-change pixels"
        )
    half = syy - sxx
    root = float(np.hypot(half, 2 * sxy))
    # of two equal forms the one that does not subtract numbers of the same size
    slope = (half + root) / (2 * sxy) if half >= 0 else 2 * sxy / (root - half)
    count = max(total**2 / float(w @ w) - 2, 1.0)
    # the angle's variance is the product of the principal variances over n times their squared distance
    angle = np.sqrt(max((sxx * syy - sxy**2), 0.0) / count) / root
    return float(slope), float(my - slope * mx), float(sxy**2 / (sxx * syy)), float((1 + slope**2) * angle)


def _products(x: Array, y: Array) -> tuple[Array, Array, Array]:
    """Squares and product."""
    return x * x, y * y, x * y


def theil_sen(x: Array, y: Array) -> tuple[float, float]:
    """Median of the slopes between all pairs; stands 29 % outliers, but noise in x makes it flatter.

    Parameters
    ----------
    x, y : (n,) float arrays, finite; of more than 1500 points a regular sample is used

    Returns
    -------
    (slope, intercept), the intercept from the medians of both

    Raises
    ------
    DegenerateError
        All x are equal.
    """
    every = max(int(np.ceil(np.size(x) / _THEIL_SEN_POINTS)), 1)
    x, y = (np.asarray(a, np.float64)[::every] for a in (x, y))
    i, j = np.triu_indices(x.size, 1)
    run, rise = x[j] - x[i], y[j] - y[i]
    if not (run != 0).any():
        raise DegenerateError(f"{x.size} points share one x; wanted at least two different values")
    slope = float(np.median(rise[run != 0] / run[run != 0]))
    return slope, float(np.median(y) - slope * np.median(x))


def robust_line(x: Array, y: Array, weights: Array | None = None) -> Line:
    """Orthogonal line with bisquare weights, started where both sides are treated alike.

    Parameters
    ----------
    x, y : (n,) float arrays, finite: subject and reference
    weights : (n,) prior weights, not negative (no-change probabilities, say)

    Returns
    -------
    Line with ``gain``, ``offset``, ``n``, ``r2`` and the standard errors

    Raises
    ------
    DegenerateError
        The points fix no line.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    prior = np.ones(x.size) if weights is None else np.asarray(weights, np.float64)
    slope, intercept = _symmetric_start(x[prior > 0], y[prior > 0])
    r2 = error = float("nan")
    w = prior
    for _ in range(_ROUNDS):
        away = (y - intercept - slope * x) / np.hypot(1, slope)
        spread = max(1.4826 * float(np.median(np.abs(away[prior > 0]))), 1e-9)
        w = prior * np.square(np.clip(1 - np.square(away / (_BISQUARE * spread)), 0, None))
        before = slope
        slope, intercept, r2, error = _orthogonal(x, y, w)
        if abs(slope - before) <= 1e-11 * abs(before):
            break
    mean = float(w @ x) / float(w.sum())
    level = float(np.sqrt((w @ np.square(y - intercept - slope * x)) / w.sum() * (w @ w))) / float(w.sum())
    return Line(
        slope, intercept, int((prior > 0).sum()), r2, gain_error=error,
        offset_error=float(np.hypot(level, mean * error)),
    )  # fmt: skip


def theil_sen_line(x: Array, y: Array, weights: Array | None = None) -> Line:
    """Theil–Sen line with what is known of its quality.

    Parameters
    ----------
    x, y : (n,) float arrays, finite: subject and reference
    weights : (n,) prior weights; only whether they are above 0 counts

    Returns
    -------
    Line with ``gain``, ``offset``, ``n``, ``r2`` of the points near it, and standard errors as if the points
    used had normal errors

    Raises
    ------
    DegenerateError
        The points fix no line.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if weights is not None:
        x, y = x[np.asarray(weights) > 0], y[np.asarray(weights) > 0]
    slope, _ = theil_sen(x, y)
    intercept = float(np.median(y - slope * x))  # far steadier than the difference of two medians
    away = y - intercept - slope * x
    spread = max(1.4826 * float(np.median(np.abs(away - np.median(away)))), 1e-12)
    near = np.square(np.clip(1 - np.square(away / (_BISQUARE * spread)), 0, None))
    _, _, r2, _ = _orthogonal(x, y, near)
    used = min(x.size, _THEIL_SEN_POINTS)
    wide = 1.4826 * float(np.median(np.abs(x - np.median(x))))
    error = spread / (max(wide, 1e-12) * float(np.sqrt(used)))
    middle = float(np.median(x))
    level = 1.2533 * spread / float(np.sqrt(used))  # of a median
    return Line(
        slope, intercept, x.size, r2, gain_error=error, offset_error=float(np.hypot(level, middle * error))
    )


def _symmetric_start(x: Array, y: Array) -> tuple[float, float]:
    """Line through the medians whose slope is the ratio of the spreads."""
    if x.size < 2:
        raise DegenerateError(f"{x.size} points fix no line; wanted at least two")
    dx, dy = x - np.median(x), y - np.median(y)
    spreads = [float(np.median(np.abs(d))) or float(np.abs(d).mean()) for d in (dx, dy)]
    sign = float(np.sign(np.sum(np.sign(dx) * np.sign(dy)))) or 1.0
    if not min(spreads) > 0:
        raise DegenerateError("one side is constant and fixes no line; wanted values that vary")
    slope = sign * spreads[1] / spreads[0]
    return slope, float(np.median(y) - slope * np.median(x))
