"""Kernels of :mod:`changedet.steps.threshold`: counts in, a level out.

A level is the upper edge of the last background bin; what lies above it (``>``) has changed. Bins hold their
upper edge, so that the counts above a level are those of ``image > level``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from changedet.errors import DegenerateError, SettingError

Array = npt.NDArray[Any]
Level = tuple[float, dict[str, float]]
"""A level, and what else the method found."""

MIN_PIXELS = 64
"""Fewer finite values than this determine no threshold."""

_QUIET = np.errstate(all="ignore")


def count(block: Array, *, bounds: Array, bins: int = 256) -> npt.NDArray[np.int64]:
    """Histogram of the finite values over ``bounds``; what lies outside counts in the outer bins.

    Parameters
    ----------
    block : float array, NaN = invalid
    bounds : (2,) lower and upper end
    bins : number of bins of equal width, each with its upper edge

    Returns
    -------
    (bins,) int64 array
    """
    low, high = (float(v) for v in bounds)
    values = block[np.isfinite(block)].astype(np.float64)
    values -= low
    values *= bins / (high - low)
    np.ceil(values, out=values)
    np.clip(values, 1, bins, out=values)
    return np.bincount(values.astype(np.int64) - 1, minlength=bins)


def otsu(counts: Array, edges: Array) -> Level:
    """Otsu's level: most variance between the two classes (1979, doi:10.1109/TSMC.1979.4310076).

    Needs two classes of comparable size; a rare change leaves it in the middle of the noise.

    Parameters
    ----------
    counts : (n,) counts
    edges : (n + 1,) bin edges, equally spaced

    Returns
    -------
    level in the unit of the edges, and ``criterion``: the variance between the classes

    >>> otsu(np.array([5, 9, 5, 0, 0, 2, 1]), np.arange(8.0))[0]
    3.0
    """
    weight, mean, _ = _below(counts, edges)
    (w0, w1), (m0, m1) = weight, mean
    return _best(w0 * w1 * (m1 - m0) ** 2, edges)


@_QUIET
def kapur(counts: Array, edges: Array) -> Level:
    """Kapur's level: most entropy of the two classes together (1985, doi:10.1016/0734-189X(85)90125-2).

    Parameters
    ----------
    counts : (n,) counts
    edges : (n + 1,) bin edges

    Returns
    -------
    level in the unit of the edges, and ``criterion``: the sum of both entropies, nats
    """
    p = counts / counts.sum()
    information = np.cumsum(np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0))
    w0 = np.cumsum(p)
    w1 = 1 - w0
    entropy = np.log(w0) - information / w0 + np.log(w1) - (information[-1] - information) / w1
    return _best(np.where(_split(counts), entropy, -np.inf)[:-1], edges)


@_QUIET
def kittler(counts: Array, edges: Array) -> Level:
    """Minimum error level for two normal classes (Kittler & Illingworth 1986, 10.1016/0031-3203(86)90030-0).

    Every bin is tried; a class narrower than one bin is passed over.

    Parameters
    ----------
    counts : (n,) counts
    edges : (n + 1,) bin edges, equally spaced

    Returns
    -------
    level in the unit of the edges, and ``criterion``: the error function at it, smallest

    Raises
    ------
    DegenerateError
        No bin leaves two classes of some width.
    """
    (w0, w1), _, (v0, v1) = _below(counts, edges)
    width = edges[1] - edges[0]
    error = 1 + w0 * np.log(v0) + w1 * np.log(v1) - 2 * (w0 * np.log(w0) + w1 * np.log(w1))
    usable = (v0 > width**2 / 12) & (v1 > width**2 / 12) & np.isfinite(error)
    if not usable.any():
        raise DegenerateError(
            "kittler: no level leaves two classes wider than a bin; wanted two classes with spread; "
            "use more bins, or the method robust"
        )
    level, found = _best(np.where(usable, -error, -np.inf), edges)
    return level, {"criterion": -found["criterion"]}


def triangle(counts: Array, edges: Array) -> Level:
    """Level farthest below the line from the peak to the end of the longer tail (Zack et al. 1977).

    Parameters
    ----------
    counts : (n,) counts
    edges : (n + 1,) bin edges, equally spaced

    Returns
    -------
    level in the unit of the edges, and ``peak``: the center of the fullest bin
    """
    filled = np.flatnonzero(counts)
    first, peak, last = int(filled[0]), int(np.argmax(counts)), int(filled[-1])
    end = last if last - peak >= peak - first else first
    along = np.arange(min(peak, end), max(peak, end) + 1)
    height, run = float(counts[peak] - counts[end]), float(abs(end - peak))
    below = height * np.abs(end - along) - run * (counts[along] - counts[end])
    farthest = int(along[np.argmax(below)])
    return float(edges[farthest + 1]), {"peak": float((edges[peak] + edges[peak + 1]) / 2)}


def robust(counts: Array, edges: Array, *, k: float = 4.0, least: float | None = None) -> Level:
    """Median plus ``k`` robust standard deviations: the default where change is rare.

    Parameters
    ----------
    counts : (n,) counts
    edges : (n + 1,) bin edges
    k : standard deviations (1.4826 · median absolute deviation) above the median; without change, 4 is
        passed by 3 pixels in 100 000 of a normal image and 6 in 10 000 of a Rayleigh one (a magnitude)
    least : a lower level is raised to this: smaller values mean nothing, however even the image is

    Returns
    -------
    level in the unit of the edges, and ``median`` and ``scale``
    """
    median, scale = center_and_scale(counts, edges)
    level = median + k * scale
    return level if least is None else max(level, least), {"median": median, "scale": scale}


def hysteresis(counts: Array, edges: Array, *, k: float = 6.0, k_low: float = 3.0) -> Level:
    """Two levels like :func:`robust`: seeds above ``k``, grown while above ``k_low``.

    Parameters
    ----------
    counts : (n,) counts
    edges : (n + 1,) bin edges
    k, k_low : robust standard deviations above the median

    Returns
    -------
    the upper level in the unit of the edges, and ``low``, ``median`` and ``scale``

    Raises
    ------
    SettingError
        ``k_low`` is above ``k``.
    """
    if k_low > k:
        raise SettingError(f"k_low={k_low} is above k={k}; wanted the lower level below the upper one")
    median, scale = center_and_scale(counts, edges)
    return median + k * scale, {"low": median + k_low * scale, "median": median, "scale": scale}


def center_and_scale(counts: Array, edges: Array) -> tuple[float, float]:
    """Median and 1.4826 · median absolute deviation, by interpolation inside the bins.

    Parameters
    ----------
    counts : (n,) counts
    edges : (n + 1,) bin edges

    Returns
    -------
    median and scale in the unit of the edges, each to about the width of a bin
    """
    share = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])
    median = _quantile(share, edges, 0.5)
    distances = np.unique(np.concatenate([[0.0], np.abs(edges - median)]))
    inside = np.interp(median + distances, edges, share) - np.interp(median - distances, edges, share)
    return median, 1.4826 * _quantile(inside, distances, 0.5)


def _quantile(share: Array, edges: Array, q: float) -> float:
    """Invert a cumulative share that rises from edge to edge."""
    i = int(np.searchsorted(share, q))
    i = min(max(i, 1), share.size - 1)
    step = share[i] - share[i - 1]
    part = (q - share[i - 1]) / step if step > 0 else 0.0
    return float(edges[i - 1] + part * (edges[i] - edges[i - 1]))


def fdr_bh(p_values: Array, alpha: float = 0.05, *, dependent: bool = False) -> float:
    """Largest p-value to reject at a false discovery rate (Benjamini & Hochberg 1995).

    Parameters
    ----------
    p_values : float array, NaN = invalid
    alpha : expected share of false ones among the rejected
    dependent : divide by Σ 1/i (Benjamini & Yekutieli 2001), valid for any dependence

    Returns
    -------
    the cut: reject where ``p <= cut``; −1 where nothing can be rejected

    >>> fdr_bh(np.array([0.001, 0.02, 0.9, 0.8]))
    0.02
    """
    p = p_values[np.isfinite(p_values)].astype(np.float64)
    alpha = _level(alpha, p.size, dependent)
    candidates = np.sort(p[p <= alpha])  # no larger p can pass
    passing = np.flatnonzero(candidates * p.size <= alpha * np.arange(1, candidates.size + 1))
    return float(candidates[passing[-1]]) if passing.size else -1.0


def fdr_cut(counts: Array, p_edges: Array, alpha: float = 0.05, *, dependent: bool = False) -> int:
    """Find the same cut on a histogram; conservative by up to one bin.

    Parameters
    ----------
    counts : (n,) counts of p-values, from the largest p to the smallest
    p_edges : (n + 1,) p-values of the bin edges, falling
    alpha, dependent : as in :func:`fdr_bh`

    Returns
    -------
    index of the edge from which on all is rejected; n where nothing can be
    """
    number = int(counts.sum())
    rejected = np.concatenate([np.cumsum(counts[::-1])[::-1], [0]])
    alpha = _level(alpha, number, dependent)
    passing = np.flatnonzero((p_edges * number <= alpha * rejected) & (rejected > 0))
    return int(passing[0]) if passing.size else counts.size


def _level(alpha: float, number: int, dependent: bool) -> float:
    """Check a level, and lower it for dependent tests."""
    if not 0 < alpha < 1:
        raise SettingError(f"alpha={alpha}; wanted a rate between 0 and 1, such as 0.05")
    if not dependent or number == 0:
        return alpha
    exact = np.sum(1 / np.arange(1.0, min(number, 1000) + 1))
    return float(alpha / (exact + np.log(number / min(number, 1000))))


@_QUIET
def _below(counts: Array, edges: Array) -> tuple[tuple[Array, Array], ...]:
    """Weights, means and variances of the two classes for every cut but the last, as pairs."""
    p = counts / counts.sum()
    center = (edges[:-1] + edges[1:]) / 2
    middle = float(p @ center)
    x = center - middle  # sums of squares keep their digits
    w, s, q = (np.cumsum(v)[:-1] for v in (p, p * x, p * x * x))
    total, square = float(p @ x), float(p @ (x * x))
    split = _split(counts)[:-1]
    w0, w1 = np.where(split, w, np.nan), np.where(split, 1 - w, np.nan)
    m0, m1 = s / w0, (total - s) / w1
    v0, v1 = q / w0 - m0**2, (square - q) / w1 - m1**2
    return (w0, w1), (m0 + middle, m1 + middle), (v0, v1)


def _split(counts: Array) -> Array:
    """Return True for the cuts that leave pixels on both sides."""
    below = np.cumsum(counts)
    return np.asarray((below > 0) & (below < below[-1]))


def _best(score: Array, edges: Array) -> Level:
    """Return the upper edge of the bin with the largest score (the first of equals)."""
    best = int(np.nanargmax(score))
    return float(edges[best + 1]), {"criterion": float(score[best])}


def expected_above(counts: Array, edges: Array, level: float) -> float:
    """Pixels above a level if nothing had changed, from the lower half of the histogram alone.

    A Nakagami distribution (half-normal, Rayleigh and chi are of this family, as magnitudes are) through the
    lower quartile and the median, or a normal one where values are negative. No magnitude of noise is wider
    than half-normal: where the quartile lies lower still, part of the image is quieter than the rest.

    Parameters
    ----------
    counts : (n,) counts
    edges : (n + 1,) bin edges
    level : in the unit of the edges

    Returns
    -------
    number of pixels
    """
    from scipy import special, stats

    share = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])
    low, middle = (_quantile(share, edges, q) for q in (0.25, 0.5))
    number = float(counts.sum())
    if edges[0] < 0 or low <= 0:
        scale = max(middle - low, edges[1] - edges[0]) / 0.6744898
        return number * float(stats.norm.sf(level, middle, scale))
    shapes = np.geomspace(0.5, 500, 400)  # from half-normal on
    ratios = special.gammaincinv(shapes, 0.5) / special.gammaincinv(shapes, 0.25)
    shape = float(np.interp(-((middle / low) ** 2), -ratios, shapes))
    spread = middle**2 / float(special.gammaincinv(shape, 0.5))
    return number * float(special.gammaincc(shape, level**2 / spread))
