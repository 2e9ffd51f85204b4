"""Speckle of a SAR stack: how many looks a pixel has, how alike neighbors are, and what it does alone.

Power averaged over L looks is gamma distributed with shape L; the variance of its logarithm is the trigamma
function of L, whatever the ground returns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

BLOCK_PX = 11
"""Side of the blocks in which looks are counted."""

APART_PX = 2
"""Distance of the pixels whose difference counts looks: hardly alike in speckle, nearly always one field."""

REACH_PX = 3
"""Lags up to which speckle of neighbors is correlated: the resampling of a product reaches no further."""

MOST_LOOKS = 500.0

_TAPS = np.array([0.25, 0.5, 0.25])


# --- looks and their correlation ---------------------------------------------------------------------------


def looks_of_variance(variance: Array | float) -> Array:
    """Return the looks whose log power has this variance, 0.5 to 500; the inverse of the trigamma function.

    >>> float(looks_of_variance(0.2556).round(1))
    4.4
    """
    from scipy.special import polygamma

    looks = np.geomspace(0.5, MOST_LOOKS, 1500)
    known = polygamma(1, looks)
    found = np.interp(np.log(np.maximum(variance, 1e-6)), np.log(known[::-1]), np.log(looks[::-1]))
    return np.asarray(np.exp(found))


def variance_of_looks(looks: Array | float) -> Array:
    """Return the variance of the natural logarithm of power of so many looks."""
    from scipy.special import polygamma

    return np.asarray(polygamma(1, looks))


def correlation(residual: Array, *, reach: int = REACH_PX, limit: float = 4.0) -> Array:
    """Return the correlation of power by lag, (2·reach + 1, 2·reach + 1), 1 in the middle.

    Parameters
    ----------
    residual : (image, y, x) log power freed of fixed and of large patterns, NaN = not usable
    reach : largest lag
    limit : power is cut at this many standard deviations, so that few strong changes do not count
    """
    known = np.isfinite(residual)
    count = max(int(known.sum()), 1)
    value = np.where(known, np.exp(np.where(known, residual, 0)), 0)
    mean = value.sum() / count
    scale = np.sqrt((np.where(known, value - mean, 0) ** 2).sum() / count)
    value = np.where(known, np.clip(value - mean, -limit * scale, limit * scale), 0)
    power = max(float((value**2).sum()) / count, 1e-12)
    out = np.zeros((2 * reach + 1, 2 * reach + 1))
    height, width = residual.shape[-2:]
    for dy in range(reach + 1):
        for dx in range(-reach, reach + 1):
            here = (..., slice(0, height - dy), slice(max(-dx, 0), width - max(dx, 0)))
            there = (..., slice(dy, height), slice(max(dx, 0), width - max(-dx, 0)))
            pairs = max(int((known[here] & known[there]).sum()), 1)
            rho = float((value[here] * value[there]).sum()) / (pairs * power)
            out[reach + dy, reach + dx] = out[reach - dy, reach - dx] = rho
    return out


def settled(rho: Array, count: int) -> Array:
    """Return a mean of correlations freed of what is not speckle.

    What even the farthest lags share is ground that changed, and is taken off. Lags that are not above the
    noise of the estimate, or below 0, count as 0: what is left adds variance to a mean.

    Parameters
    ----------
    rho : mean over images of :func:`correlation`
    count : pixels of all images
    """
    rim = np.ones_like(rho, bool)
    rim[1:-1, 1:-1] = False
    wide = float(np.clip(rho[rim].mean(), 0, 0.9))
    out = np.clip((rho - wide) / (1 - wide), 0, 0.99)
    out[out < 4 / np.sqrt(max(count, 1))] = 0
    out[rho.shape[0] // 2, rho.shape[1] // 2] = 1
    return out


def mean_factor(rows: Array, columns: Array, rho: Array, weight: Array | None = None) -> float:
    """Return variance of a mean over pixels in units of that of one pixel.

    Parameters
    ----------
    rows, columns : (pixel,) int
    rho : correlation by lag, see :func:`correlation`
    weight : (pixel,) weights of the mean; alike where None

    >>> mean_factor(np.array([0, 0]), np.array([0, 1]), np.array([[0.0, 0, 0], [0.5, 1, 0.5], [0, 0, 0]]))
    0.75
    """
    from scipy.ndimage import correlate

    image = np.zeros((int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1))
    share = np.full(rows.size, 1 / rows.size) if weight is None else weight / weight.sum()
    image[rows - rows.min(), columns - columns.min()] = share
    return float((image * correlate(image, rho, mode="constant")).sum())


def smoothing_factor(rho: Array) -> float:
    """Return variance of :func:`multilook` in units of that of one pixel."""
    rows, columns = np.mgrid[:3, :3]
    return mean_factor(rows.ravel(), columns.ravel(), rho, np.outer(_TAPS, _TAPS).ravel())


def multilook(power: Array) -> tuple[Array, Array]:
    """Average power over 3 × 3 pixels, the nearer ones counting more.

    Parameters
    ----------
    power : (..., y, x), NaN = not usable

    Returns
    -------
    averaged : NaN where the middle is
    support : share of the looks of a whole average, less at edges and beside what is not usable
    """
    from scipy.ndimage import correlate1d

    known = np.isfinite(power)
    total, weight = np.where(known, power, 0).astype(np.float32), known.astype(np.float32)
    for axis in (-2, -1):
        total = correlate1d(total, _TAPS, axis=axis, mode="constant")
        weight = correlate1d(weight, _TAPS, axis=axis, mode="constant")
    averaged = np.where(known, total / np.maximum(weight, 1e-6), np.nan).astype(np.float32)
    return averaged, weight ** np.float32(1.4)  # at an edge, variance rises by 1.5 where weight falls to 0.75


def block_variances(residual: Array, *, side: int = BLOCK_PX, share: float = 0.6) -> Array:
    """Return half of the mean squared difference of pixels two apart, in blocks, (..., block).

    Parameters
    ----------
    residual : (..., y, x), NaN = not usable
    side : of a block, pixels
    share : of its pixels that must be usable; NaN where fewer are
    """
    size = residual.shape[-2:]
    down = residual[..., APART_PX:, :] - residual[..., :-APART_PX, :]
    across = residual[..., APART_PX:] - residual[..., :-APART_PX]
    found = [_block_sums(d * d / 2, (size[0], size[1]), side) for d in (down, across)]
    total, count = (a + b for a, b in zip(*found, strict=True))
    return np.where(count >= share * 2 * side * side, total / np.maximum(count, 1), np.nan)


def _block_sums(values: Array, shape: tuple[int, int], side: int) -> tuple[Array, Array]:
    """Return sums and counts of what is finite in the blocks of an image of a shape, (..., block)."""
    rows, columns = (s // side for s in shape)
    known = np.isfinite(values)
    out = []
    for part in (np.where(known, values, 0), known):
        full = np.zeros((*values.shape[:-2], rows * side, columns * side))
        part = part[..., : rows * side, : columns * side]
        full[..., : part.shape[-2], : part.shape[-1]] = part
        full = full.reshape(*full.shape[:-2], rows, side, columns, side)
        out.append(full.sum(axis=(-3, -1)).reshape(*values.shape[:-2], -1))
    return out[0], out[1]


def block_shrinkage(rho: Array, *, side: int = BLOCK_PX) -> tuple[float, float]:
    """Return :func:`block_variances` in units of the variance, and its degrees of freedom.

    Parameters
    ----------
    rho : correlation by lag
    side : of a block, pixels
    """
    middle = rho.shape[0] // 2
    reach = min(APART_PX, middle)
    apart = [rho[middle + reach, middle], rho[middle, middle + reach]] if reach == APART_PX else [0.0, 0.0]
    # both directions and neighbors two apart share pixels: two thirds of the pixels count
    return 1 - float(np.mean(apart)), side * side / 1.5 / float((rho**2).sum())


def looks_in(variances: Array, rho: Array, dates: int) -> tuple[float, float]:
    """Return the looks of a set of blocks by the median of their variances, and its relative error.

    Parameters
    ----------
    variances : (n,) from :func:`block_variances` of log power less the mean over ``dates`` dates of each
        pixel: what is fixed on the ground, however rough, is gone; what changes in fields is gone with the
        difference of neighbors but at their edges; the median leaves out the blocks with many of those
    rho : correlation by lag
    dates : how many

    Returns
    -------
    looks, error : both NaN with fewer than 4 blocks
    """
    values = variances[np.isfinite(variances)]
    if values.size < 4:
        return float("nan"), float("nan")
    share, freedom = block_shrinkage(rho)
    freedom /= 1.25  # log power of few looks has a somewhat heavier tail than a normal distribution
    middle = (1 - 2 / (9 * freedom)) ** 3
    variance = float(np.median(values)) / (share * middle * (1 - 1 / max(dates, 2)))
    return float(looks_of_variance(variance)), float(1.25 * np.sqrt(2 / freedom / values.size))


def less_surroundings(residual: Array, *, side: int = 33) -> Array:
    """Return residuals less their mean over a wide square: blocks are to vary by speckle alone."""
    from scipy.ndimage import uniform_filter1d

    known = np.isfinite(residual)
    total, count = np.where(known, residual, 0), known.astype(np.float64)
    for axis in (-2, -1):
        total = uniform_filter1d(total, side, axis=axis, mode="constant")
        count = uniform_filter1d(count, side, axis=axis, mode="constant")
    return np.asarray(residual - total / np.maximum(count, 1e-6))


def iqr(values: Array) -> float:
    """Return the interquartile range of what is finite, NaN with fewer than 100 values."""
    values = values[np.isfinite(values)]
    return float(np.subtract(*np.quantile(values, [0.75, 0.25]))) if values.size >= 100 else float("nan")


def looks_by_date(variances: Array, rho: Array, times: int, *, sure: float = 3.0) -> Array:
    """Return looks by date and band: those of all dates, fewer where a date clearly has fewer.

    Parameters
    ----------
    variances : (time, band, block)
    rho : correlation by lag
    times : dates of the stack
    sure : standard errors by which a date must vary more
    """
    out = np.full(variances.shape[:2], np.nan)
    for b in range(variances.shape[1]):
        whole, _ = looks_in(variances[:, b].ravel(), rho, times)
        for t in range(len(out)):
            own, error = looks_in(variances[t, b], rho, times)
            rougher = np.isfinite(own) and own < whole / (1 + sure * error)
            out[t, b] = own if rougher else whole
    return out


def unrest(spread: Array, looks: Array, times: int, *, slack: float = 1.1) -> Array:
    """Return the variance of averaged log power beyond that of speckle, (time, band).

    Parameters
    ----------
    spread : (time, band) interquartile range over a stratum's pixels
    looks : (time, band) of the averaged pixels
    times : dates of the stack
    slack : ratio of variances that counts as chance
    """
    from scipy.special import gammaincinv

    known = np.log(gammaincinv(looks, 0.75) / gammaincinv(looks, 0.25)) * np.sqrt(1 - 1 / max(times, 2))
    ratio = np.nan_to_num((spread / known) ** 2, nan=1.0)
    return np.where(ratio > slack, ratio - 1, 0) * variance_of_looks(looks)


# --- the null ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tail:
    """How often objects of speckle alone reach a statistic.

    Parameters
    ----------
    rate : of them a pixel above ``level``
    level, scale : the rate falls by e for every ``scale`` above ``level``
    """

    rate: float
    level: float
    scale: float

    def expected(self, statistic: float, pixels: int) -> float:
        """Return how many objects of at least this statistic are expected on so many pixels of speckle."""
        return float(self.rate * pixels * np.exp(-(statistic - self.level) / self.scale))


def tail_of(found: Array, pixels: int) -> Tail:
    """Fit an exponential tail to the statistics of objects found in simulated speckle.

    Parameters
    ----------
    found : (n,) statistics
    pixels : on how many pixels

    Notes
    -----
    The statistic is minus twice the logarithm of a likelihood ratio: its tail falls by e every 2 or faster
    than that never; a fitted scale below 2 would be chance.
    """
    if found.size < 4:
        return Tail(4 / max(pixels, 1), float(found.max()) if found.size else 20.0, 2.5)
    level = float(np.quantile(found, 0.4))
    above = found[found > level]
    return Tail(above.size / pixels, level, max(float((above - level).mean()), 2.0))


def robust_tail(found: Array, pixels: int) -> Tail:
    """Fit an exponential tail to the stronger half of real objects; the few strongest do not move it.

    Parameters
    ----------
    found : (n,) statistics, at least one
    pixels : on how many pixels
    """
    level = float(np.median(found))
    above = found[found >= level]
    return Tail(above.size / pixels, level, max(float(np.median(above - level)) / np.log(2), 2.0))


def speckle_field(
    rng: np.random.Generator, looks: Array, unrest: Array, rho: Array, shape: tuple[int, int]
) -> Array:
    """Simulate power of mean 1: speckle as correlated as measured, on ground that wavers a little.

    Parameters
    ----------
    looks, unrest : (time, band) looks, and variance of log power that neighbors share
    rho : correlation by lag
    shape : (y, x)

    Returns
    -------
    (time, band, y, x) float32
    """
    from scipy.ndimage import gaussian_filter
    from scipy.special import gammaincinv, ndtr

    reach = rho.shape[0] // 2
    wrapped = np.zeros(shape)
    lags = np.arange(-reach, reach + 1)
    wrapped[np.ix_(lags, lags)] = rho
    gain = np.sqrt(np.maximum(np.fft.rfft2(wrapped).real, 0))
    gain /= np.sqrt((np.abs(np.fft.irfft2(gain, shape)) ** 2).sum())
    grid = np.linspace(-6, 6, 4001)
    known = {n: np.asarray(gammaincinv(n, ndtr(grid)) / n, np.float32) for n in np.unique(looks).tolist()}
    out = np.empty((*looks.shape, *shape), np.float32)
    for at in np.ndindex(looks.shape):
        normal = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(shape)) * gain, shape)
        place = ((normal + 6) * ((grid.size - 1) / 12) + 0.5).astype(np.intp)
        field = known[float(looks[at])][np.clip(place, 0, grid.size - 1)]
        if unrest[at] > 0:
            smooth = gaussian_filter(rng.standard_normal(shape), 3.0, mode="wrap")
            field = field * np.exp(np.sqrt(unrest[at]) * smooth / smooth.std())
        out[at] = field
    return out
