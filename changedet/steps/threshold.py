"""Thresholds: from an image to the level above which a pixel has changed.

Every method works on a histogram, which is counted chunk by chunk; so a level is the same for any chunking
and needs no copy of the image. Compare with ``>``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from changedet.blocks import Reduction, check_parameters, label, sampled
from changedet.errors import DegenerateError, SettingError, UnknownMethodError
from changedet.steps._threshold import (
    MIN_PIXELS,
    Array,
    Level,
    count,
    expected_above,
    fdr_bh,
    fdr_cut,
    kapur,
    kittler,
    otsu,
    robust,
    triangle,
)
from changedet.steps._threshold import hysteresis as two_levels

__all__ = ["METHODS", "false_discovery", "fdr_bh", "hysteresis", "magnitude_of", "threshold"]

CLIP = 0.001
"""Share of the values beyond either end of a histogram: one outlier must not stretch the bins."""

STATISTIC_BINS = 10_000
"""Bins for p-values and statistics: a cut is conservative by at most a hundredth of p."""

_STATISTIC_DIMS = (("bin", STATISTIC_BINS),)


def magnitude_of(image: xr.DataArray) -> xr.DataArray:
    """Return how much changed: the absolute value where the image says that it is signed."""
    return abs(image) if image.attrs.get("signed") else image


def _extent(block: Array) -> Array:
    """Return number, smallest and largest of the finite values."""
    values = block[np.isfinite(block)]
    return np.array([values.size, values.min(initial=np.inf), values.max(initial=-np.inf)])


def _wider(a: Array, b: Array) -> Array:
    """Join two extents."""
    return np.array([a[0] + b[0], min(a[1], b[1]), max(a[2], b[2])])


def _finite(block: Array) -> Array:
    """Return the finite values."""
    return block[np.isfinite(block)]


def _joined(a: Array, b: Array) -> Array:
    """Join two sets of values."""
    return np.concatenate([a, b])


def _tails(values: Array, clip: float) -> Array:
    """Return the quantiles ``clip`` and ``1 − clip``."""
    return np.quantile(values.astype(np.float64), [clip, 1 - clip]) if values.size else np.full(2, np.nan)


def _count_above(block: Array, *, level: float = 0.0) -> Array:
    """Return how many values lie above a level."""
    return np.asarray(np.count_nonzero(block > level))


_ABOVE = Reduction(_count_above, np.add, np.asarray)
_EXTENT = Reduction(_extent, _wider, np.asarray, dims=(("extent", 3),))


def _bounds(extent: Array, tails: Array) -> Array:
    """Return the range of a histogram; refuse what determines no threshold."""
    number, low, high = extent
    if number < MIN_PIXELS:
        raise DegenerateError(
            f"{int(number)} finite values; wanted at least {MIN_PIXELS}; check the masks and the overlap"
        )
    if low == high:
        raise DegenerateError(
            f"all {int(number)} values are {low:.6g}; wanted a spread; the images may be the same one"
        )
    # Where nearly all values are one value, its quantiles enclose nothing: take all.
    return np.asarray(tails if tails[0] < tails[1] else extent[1:])


def _histogram(image: xr.DataArray, bins: int, clip: float, *, now: bool) -> list[xr.DataArray]:
    """Return extent, bounds and counts; ``now`` computes each before the next, so that no block is kept."""
    if bins < 2 or not 0 <= clip < 0.5:
        raise SettingError(f"bins={bins}, clip={clip}; wanted at least 2 bins and a clip from 0 to below 0.5")
    done = xr.DataArray.compute if now else xr.DataArray.copy
    quantiles = Reduction(_finite, _joined, partial(_tails, clip=clip), dims=(("bound", 2),))
    extent, tails = done(_EXTENT(image)), done(quantiles(sampled(image)))
    bounds = xr.apply_ufunc(
        _bounds,
        extent,
        tails,
        input_core_dims=[["extent"], ["bound"]],
        output_core_dims=[["bound"]],
        dask="parallelized",
        output_dtypes=[np.float64],
    )
    counts = Reduction(partial(count, bins=bins), np.add, np.asarray, dims=(("bin", bins),))
    return [extent, bounds, done(counts(image, bounds=bounds))]


def _edges(bounds: Array, bins: int) -> Array:
    """Return the edges of the bins."""
    return np.linspace(float(bounds[0]), float(bounds[1]), bins + 1)


@dataclass(frozen=True)
class FromCounts:
    """A threshold method: a kernel over counts and bin edges.

    Called on an image it returns the level as a 0-d DataArray, lazy where the image is.

    Parameters
    ----------
    kernel : ``(counts, edges, **params)`` → (level, what else it found)
    bins : bins of the histogram: few where the shape of the counts matters, as it must not be noise
    """

    kernel: Callable[..., Level]
    bins: int = 256

    def __call__(
        self, image: xr.DataArray, *, bins: int | None = None, clip: float = CLIP, **params: Any
    ) -> xr.DataArray:
        """Return the level of an image."""
        check_parameters(self, params)
        _, bounds, counts = _histogram(magnitude_of(image), bins or self.bins, clip, now=False)
        level: xr.DataArray = xr.apply_ufunc(
            partial(self._level, **params),
            counts,
            bounds,
            input_core_dims=[["bin"], ["bound"]],
            dask="parallelized",
            output_dtypes=[np.float64],
        )
        return level.rename("threshold")

    def _level(self, counts: Array, bounds: Array, **params: Any) -> Array:
        """Run the kernel."""
        return np.asarray(self.kernel(counts, _edges(bounds, counts.size), **params)[0])


METHODS: Mapping[str, FromCounts] = {
    "otsu": FromCounts(otsu),
    "kapur": FromCounts(kapur),
    "kittler": FromCounts(kittler),
    "triangle": FromCounts(triangle),
    "robust": FromCounts(robust, bins=4096),
    "hysteresis": FromCounts(two_levels, bins=4096),
}


def threshold(
    image: xr.DataArray,
    method: str | float = "otsu",
    *,
    bins: int | None = None,
    clip: float = CLIP,
    **params: Any,
) -> tuple[float, dict[str, Any]]:
    """Find the level above which a pixel has changed.

    A level is one number about the whole image, so this computes where the image is lazy (in passes over its
    chunks); :data:`METHODS` give the same level without computing.

    Parameters
    ----------
    image : (y, x), NaN = invalid; the absolute value is used where the attribute ``signed`` is true
    method : one of :data:`METHODS`; ``"auto"`` (robust); ``"chi2"`` or ``"fdr"`` for statistics that follow
        a chi-square distribution without change (``alpha``; ``dof``, or the image's attribute); or the
        level itself, a number
    bins : bins of the histogram; None means the method's own (256, or 4096 for robust and hysteresis)
    clip : share of the values beyond either end of the histogram, counted in its outer bins
    params : tuning values of the method

    Returns
    -------
    level : ``image > level`` has changed
    info : ``method``, ``threshold``, and for the histogram methods the range (``low_edge``, ``high_edge``),
        ``bins``, ``number`` of finite pixels, ``above``, ``expected_above`` (without change) and
        ``credible``: False where about as many lie above as would without change, as Otsu's and Kapur's
        levels do on a pair that did not change

    Raises
    ------
    UnknownMethodError, UnknownSettingError
        No such method or tuning value.
    SettingError
        A value cannot be used.
    DegenerateError
        Fewer than 64 finite values, or all the same.
    """
    number = _number(method)
    if number is not None:
        return number, {"method": "number", "threshold": number}
    name = "robust" if method == "auto" else str(method)
    if name not in METHODS and name not in STATISTICS:
        raise UnknownMethodError("threshold", name, [*METHODS, *STATISTICS, "auto"])
    chosen = STATISTICS.get(name) or METHODS[name]
    check_parameters(chosen, params)
    if isinstance(chosen, FromCounts):
        level, found = _from_counts(chosen, magnitude_of(image), bins or chosen.bins, clip, params)
    else:
        level, found = chosen(image, **params)
    return level, {"method": name, "threshold": level} | found


def _from_counts(
    method: FromCounts, image: xr.DataArray, bins: int, clip: float, params: dict[str, Any]
) -> tuple[float, dict[str, Any]]:
    """Run a histogram method pass by pass, with what a reader of the result wants to know."""
    extent, bounds, counts = _histogram(image, bins, clip, now=True)
    edges = _edges(bounds.values, bins)
    level, found = method.kernel(counts.values, edges, **params)
    above = int(_ABOVE(image, level=level))
    expected = expected_above(counts.values, edges, level)
    return level, found | {
        "low_edge": float(edges[0]),
        "high_edge": float(edges[-1]),
        "bins": bins,
        "number": int(extent[0]),
        "above": above,
        "expected_above": expected,
        "credible": above > max(2 * expected, expected + 5 * (expected + 1) ** 0.5),
    }


def _number(method: str | float) -> float | None:
    """Return the level that was given as a number, also as text; None for a name."""
    try:
        number = float(method)
    except ValueError:
        return None
    if not np.isfinite(number):
        raise SettingError(f"threshold {number}; wanted a finite number or a method: {', '.join(METHODS)}")
    return number


def chi_square_level(image: xr.DataArray, *, dof: float | None = None, alpha: float = 0.01) -> Level:
    """Level that a chi-square statistic passes with probability ``alpha`` where nothing changed.

    Parameters
    ----------
    image : (y, x) statistic
    dof : degrees of freedom; None means the image's attribute
    alpha : false-alarm rate of a pixel

    Returns
    -------
    level, and ``dof`` and ``alpha``
    """
    from scipy.stats import chi2

    if not 0 < alpha < 1:
        raise SettingError(f"alpha={alpha}; wanted a rate between 0 and 1, such as 0.01")
    dof = _dof(image, dof)
    return float(chi2.isf(alpha, dof)), {"dof": dof, "alpha": alpha}


def chi_square_fdr(
    image: xr.DataArray, *, dof: float | None = None, alpha: float = 0.05, dependent: bool = False
) -> Level:
    """Level of a chi-square statistic at a false discovery rate.

    Parameters
    ----------
    image : (y, x) statistic, NaN = invalid
    dof : degrees of freedom; None means the image's attribute
    alpha, dependent : as in :func:`fdr_bh`

    Returns
    -------
    level (infinity where nothing passes), and ``dof``, ``alpha``, ``rejected`` and ``number``
    """
    from scipy.stats import chi2

    dof = _dof(image, dof)
    bounds = np.array([0.0, chi2.isf(1e-30, dof)])
    edges = _edges(bounds, STATISTIC_BINS)
    counts = Reduction(partial(count, bins=STATISTIC_BINS), np.add, np.asarray, dims=_STATISTIC_DIMS)
    found = counts(image, bounds=bounds).values
    cut = fdr_cut(found, chi2.sf(edges, dof), alpha, dependent=dependent)
    rejected = int(found[cut:].sum())
    level = float(edges[cut]) if rejected else float("inf")
    return level, {"dof": dof, "alpha": alpha, "rejected": rejected, "number": int(found.sum())}


STATISTICS: Mapping[str, Callable[..., Level]] = {"chi2": chi_square_level, "fdr": chi_square_fdr}


def _dof(image: xr.DataArray, dof: float | None) -> float:
    """Return the degrees of freedom of a statistic."""
    found = image.attrs.get("dof") if dof is None else dof
    if found is None or not found > 0:
        raise SettingError(
            f"degrees of freedom are {found}; wanted a number above 0; the methods chi2 and fdr need a "
            "statistic that is chi-square without change: give dof, or use another method"
        )
    return float(found)


def _minus_log10(block: Array) -> Array:
    """Return −log10 of p-values, a p of 0 as the smallest one there is."""
    with np.errstate(all="ignore"):
        return np.asarray(-np.log10(np.maximum(block.astype(np.float64), 1e-300)))


def _count_p(block: Array) -> Array:
    """Histogram of −log10 p."""
    return count(_minus_log10(block), bounds=np.array([0.0, 30.0]), bins=STATISTIC_BINS)


_P_COUNTS = Reduction(_count_p, np.add, np.asarray, dims=_STATISTIC_DIMS)


def false_discovery(
    p_values: xr.DataArray, alpha: float = 0.05, *, dependent: bool = False
) -> tuple[float, dict[str, Any]]:
    """Largest p-value to reject at a false discovery rate, on a histogram; :func:`fdr_bh` is exact.

    Parameters
    ----------
    p_values : (y, x), NaN = invalid
    alpha : expected share of false ones among the rejected
    dependent : hold for any dependence between pixels (Benjamini & Yekutieli), which costs power

    Returns
    -------
    cut : ``p < cut`` is rejected; 0 where nothing can be
    info : ``number`` of p-values and ``rejected``
    """
    counts = _P_COUNTS(p_values).values
    edges = 10.0 ** -np.linspace(0, 30, STATISTIC_BINS + 1)
    first = fdr_cut(counts, edges, alpha, dependent=dependent)
    rejected = int(counts[first:].sum())
    return (float(edges[first]) if rejected else 0.0), {"number": int(counts.sum()), "rejected": rejected}


def hysteresis(image: xr.DataArray, low: float, high: float, connectivity: int = 8) -> xr.DataArray:
    """Mark the parts above ``low`` that hold a pixel above ``high``; lazy where the image is.

    Parameters
    ----------
    image : (y, x), NaN = invalid; the absolute value is used where the attribute ``signed`` is true
    low, high : levels, ``low <= high``
    connectivity : 4 (sides) or 8 (sides and corners; one-pixel diagonals hold together)

    Returns
    -------
    (y, x) bool

    Raises
    ------
    SettingError
        ``low`` is above ``high``.
    """
    if low > high:
        raise SettingError(f"low={low} is above high={high}; wanted the lower level below the upper one")
    size = magnitude_of(image)
    return label(size > low, connectivity, seeds=size > high)[0] > 0
