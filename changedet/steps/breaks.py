"""Evidence of a step per pixel: residuals, their noise, and the best of all candidate breaks.

A new structure is a step in the residual against the background that stays. The statistic weighs every date
by how
well it can be predicted there, tries every break in one pass of running sums, and leaves its own scale to an
empirical null (:func:`null_scale`), because nominal p-values are wrong by orders of magnitude in river
scenes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Noise:
    """What the noise of a residual is made of, in ln units.

    Parameters
    ----------
    floor : sensor and texture noise that is always there
    shift_px : tolerance to misregistration, times the local gradient
    clip : a single date counts at most this many standard deviations
    doubt_weight : share of its weight that a date keeps where it is frozen or next to a masked cloud
    """

    floor: float = 0.05
    shift_px: float = 0.12
    clip: float = 5.0
    doubt_weight: float = 0.6


def gradient(image: Array) -> Array:
    """Return the gradient magnitude of a log image per pixel, (band, y, x) float32, 0 where unknown."""
    filled = np.where(np.isfinite(image), image, np.nan)
    dy = np.gradient(filled, axis=-2) if image.shape[-2] > 1 else np.zeros_like(filled)
    dx = np.gradient(filled, axis=-1) if image.shape[-1] > 1 else np.zeros_like(filled)
    return np.nan_to_num(np.hypot(dy, dx), nan=0.0).astype(np.float32)


def weights(
    residual: Array, spread: Array, class_spread: Array, slope: Array, *, tolerance_px: Array, floor: float
) -> Array:
    """Return 1/variance of residuals; 0 where there is no residual.

    Parameters
    ----------
    residual : (time, band, pixel) float32, NaN = not usable
    spread : (time, band, pixel) disagreement of the pixel's analogues
    class_spread : (time, band, pixel or 1) spread of the whole stratum on that date
    slope : (band, pixel) gradient of the reference, ln units a pixel
    tolerance_px : (time,) misregistration to tolerate
    floor : noise that is always there, ln units

    Returns
    -------
    (time, band, pixel) float32
    """
    variance = np.fmax(spread, class_spread).astype(np.float32, copy=False)
    variance *= variance
    slope2 = np.square(slope, dtype=np.float32)
    for one, allowed in zip(variance, np.square(tolerance_px).astype(np.float32), strict=True):
        one += allowed * slope2
    variance += np.float32(floor) ** 2
    out = np.reciprocal(variance, out=variance)
    out[~(np.isfinite(residual) & np.isfinite(out))] = 0
    return np.asarray(out)


@dataclass(frozen=True)
class Step:
    """The best step of every pixel.

    Parameters
    ----------
    score : (pixel,) float32, length of the whitened weighted step; NaN where no break could be tested
    index : (pixel,) int16, first date after the break; −1 where none
    length : (pixel,) int16, dates after the break that were used (all to the end, or a window)
    delta : (band, pixel) float32, after − before, ln units
    """

    score: Array
    index: Array
    length: Array
    delta: Array


def best_step(
    residual: Array,
    weight: Array,
    whiten: Array,
    *,
    min_side: int = 3,
    lengths: tuple[int, ...] = (0,),
) -> Step:
    """Find the strongest step of each pixel over all breaks.

    Parameters
    ----------
    residual : (time, band, pixel) float32; ignored where the weight is 0
    weight : (time, band, pixel) float32, 1/variance, 0 = not usable
    whiten : (band, band) matrix that whitens standardized residuals
    min_side : usable dates wanted on both sides of a break
    lengths : dates after the break that make the "after" side; 0 = all of them. A window finds what was
    removed

    Returns
    -------
    Step

    Notes
    -----
    O(time) per pixel and length: only running sums are kept. Source: weighted two-sample step test with all
    breaks tried, as in sup-F tests (Andrews 1993, doi:10.2307/2951764); its null scale is taken from the
    scene.
    """
    w = weight
    some = w > 0
    wr = np.where(some, residual, np.float32(0))
    wr *= w
    cw, cr, cn = _prefix(w), _prefix(wr), _prefix(np.asarray(some.all(axis=1), np.int16))
    return _search(cw, cr, cn, whiten.astype(np.float32), min_side, lengths)


def _prefix(values: Array) -> Array:
    """Return sums before each date, (time + 1, …), in the dtype of the values."""
    out = np.zeros((values.shape[0] + 1, *values.shape[1:]), values.dtype)
    for k, one in enumerate(values):  # a cumulative sum along the first axis strides through memory
        np.add(out[k], one, out=out[k + 1])
    return out


def _search(cw: Array, cr: Array, cn: Array, whiten: Array, min_side: int, lengths: tuple[int, ...]) -> Step:
    """Try every break and every length; keep the best of each pixel."""
    times, bands, n = cw.shape[0] - 1, cw.shape[1], cw.shape[2]
    score2 = np.full(n, -1, np.float32)
    index, length = np.full(n, -1, np.int16), np.zeros(n, np.int16)
    delta = np.zeros((bands, n), np.float32)
    for k in range(min_side, times - min_side + 1):
        before_ok = cn[k] >= min_side
        pre_w = np.maximum(cw[k], 1e-9)
        pre = cr[k] / pre_w
        for span in lengths:
            end = times if span == 0 else min(k + span, times)
            if span and end == times and 0 in lengths:
                continue  # the window reaches the end: the full length already covers it
            post_w = np.maximum(cw[end] - cw[k], 1e-9)
            d = (cr[end] - cr[k]) / post_w - pre
            q = whiten @ (d / np.sqrt(1 / pre_w + 1 / post_w))
            s2 = np.einsum("bn,bn->n", q, q)
            better = before_ok & (cn[end] - cn[k] >= min_side) & (s2 > score2)
            score2 = np.where(better, s2, score2)
            index[better], length[better] = k, end - k
            delta[:, better] = d[:, better]
    tested = score2 >= 0
    score = np.where(tested, np.sqrt(np.maximum(score2, 0)), np.nan).astype(np.float32)
    return Step(score, index, length, delta)


def measure(step: Step, residual: Array, weight: Array) -> Step:
    """Measure steps anew on other residuals, at the dates already found.

    Parameters
    ----------
    step : from clipped or pooled residuals, whose own step is too small where one is clear
    residual, weight : (time, band, pixel) float32, weight 0 = not usable

    Returns
    -------
    Step, with the weighted means of these residuals in ``delta``
    """
    t = np.arange(residual.shape[0], dtype=np.int16)[:, None]
    after = (t >= step.index) & (t < step.index + step.length)
    before = t < step.index
    wr = residual * weight
    means = [
        np.einsum("tn,tbn->bn", side, wr) / np.maximum(np.einsum("tn,tbn->bn", side, weight), 1e-9)
        for side in (before.astype(np.float32), after.astype(np.float32))
    ]
    return replace(step, delta=np.where(step.index >= 0, means[1] - means[0], 0).astype(np.float32))


def whitening(standardized: Array, *, limit: float = 4.0) -> Array:
    """Return the matrix that whitens standardized residuals over bands.

    Parameters
    ----------
    standardized : (sample, band) residuals over their standard deviation, NaN ignored
    limit : values are clipped there, so that what is looked for does not widen the noise

    Returns
    -------
    (band, band) float64; rows with too few samples fall back to the identity
    """
    bands = standardized.shape[1]
    rows = standardized[np.isfinite(standardized).all(axis=1)]
    if rows.shape[0] < 50 * bands:
        return np.eye(bands)
    z = np.clip(rows.astype(np.float64), -limit, limit)
    cov = np.cov(z, rowvar=False).reshape(bands, bands)
    values, vectors = np.linalg.eigh(cov)
    values = np.maximum(values, 1e-3 * values.max())
    return np.asarray((vectors / np.sqrt(values)).T)


@dataclass(frozen=True)
class NullScale:
    """Null distribution of the score in one stratum: location, spread and tail.

    Parameters
    ----------
    location, spread : median and robust standard deviation of the scores
    tail : ``z`` by which the upper tail falls to 1/e
    n : pixels it was taken from
    """

    location: float
    spread: float
    tail: float
    n: int

    def z(self, score: Array) -> Array:
        """Return scores in robust standard deviations above the null's median."""
        return np.asarray((score - self.location) / self.spread, np.float32)

    def moved(self, level: float, factor: float) -> float:
        """Return the ``z`` that ``factor`` times fewer null pixels exceed than exceed ``level``."""
        return float(level + self.tail * np.log(factor))


def null_scale(score: Array, *, low: float = 0.95, high: float = 0.995) -> NullScale | None:
    """Fit the null of the score to the bulk of a stratum's pixels.

    Parameters
    ----------
    score : scores of all pixels of the stratum, NaN ignored; what was built must be a small share of them
    low, high : quantiles between which the exponential tail is fitted

    Returns
    -------
    NullScale, or None with fewer than 100 pixels
    """
    values = score[np.isfinite(score)].astype(np.float64)
    if values.size < 100:
        return None
    location = float(np.median(values))
    spread = max(float(1.4826 * np.median(np.abs(values - location))), 1e-6)
    first, second = (float(np.quantile(values, q) - location) / spread for q in (low, high))
    tail = max((second - first) / np.log((1 - low) / (1 - high)), 0.2)
    return NullScale(location, spread, float(tail), values.size)
