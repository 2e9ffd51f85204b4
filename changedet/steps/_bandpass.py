"""Band-passed images, and their masked correlation at whole-pixel shifts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from changedet.steps._resample import erode, filter_axis

Array = npt.NDArray[Any]

COARSE_PX = 3.0
"""Standard deviation of the Gaussian whose result is taken away: haze, season and slopes are wider.

At 6 px the surroundings of bright changes and of half-masked clouds (three times as far) spoilt more than the
wider texture gave.
"""

_SMOOTH = np.array([0.25, 0.5, 0.25])  # standard deviation 0.71 px: what interpolation would damage goes

HALVE_ABOVE_PX = 200
"""Images this large are searched at half resolution first."""

_BULK_PX, _CLEAR_PX = 2, 5  # a mask 5 px wide or wider is a cloud, whose glow reaches farther
_LEAST_OVERLAP = 0.3  # of the reference's valid pixels, at any shift that is tried


@dataclass(frozen=True)
class Features:
    """A band-passed image.

    Parameters
    ----------
    values : (band, y, x) float32, zero mean, unit spread, 0 where not valid
    valid : (y, x) bool
    """

    values: Array
    valid: Array


def features(image: Array) -> Features:
    """Band-pass an image (0.7 to 3 px), looking at its valid pixels only.

    Parameters
    ----------
    image : (band, y, x) array, left alone; NaN = not usable
    """
    ok = _away_from_masks(np.asarray(np.isfinite(image).all(axis=0)))
    count = max(int(ok.sum()), 1)
    flat = np.where(ok, image, 0).astype(np.float32)
    level = (flat.sum(axis=(1, 2), dtype=np.float64) / count).astype(np.float32)
    flat -= level[:, None, None] * ok
    flat -= _local_mean(flat, ok)
    flat *= ok
    for axis in (-2, -1):
        flat = filter_axis(flat, _SMOOTH, -1, axis)
    ok = erode(ok, 1, edges=True)
    power = np.einsum("byx,byx->b", flat, flat, dtype=np.float64) / count
    scale = np.where(power > 0, 1 / np.sqrt(np.maximum(power, 1e-30)), 0).astype(np.float32)
    flat *= scale[:, None, None] * ok
    return Features(flat, ok)


def _away_from_masks(ok: Array) -> npt.NDArray[np.bool_]:
    """Keep clear of clouds, which shine beyond their masks; single missing pixels cost only themselves."""
    bulk = erode(~ok, _BULK_PX)
    return np.asarray(ok & erode(~bulk, _BULK_PX + _CLEAR_PX))


def _local_mean(flat: Array, ok: Array) -> Array:
    """Gaussian mean of the valid pixels (normalized convolution by Fourier transform)."""
    from scipy import fft

    margin = int(3 * COARSE_PX)
    shape = [fft.next_fast_len(n + margin, real=True) for n in ok.shape]
    fy, fx = np.fft.fftfreq(shape[0]), np.fft.rfftfreq(shape[1])
    decay = -2 * (np.pi * COARSE_PX) ** 2
    gauss = (np.exp(decay * fy**2)[:, None] * np.exp(decay * fx**2)).astype(np.float32)
    layers = np.concatenate([flat, ok[None].astype(np.float32)])
    smooth = fft.irfft2(fft.rfft2(layers, s=shape) * gauss, s=shape)[:, : ok.shape[0], : ok.shape[1]]
    return np.asarray(smooth[:-1] / np.maximum(smooth[-1], 1e-3))


def halved(seen: Features, valid: Array) -> Features:
    """Halve the resolution, except of small images (see :data:`HALVE_ABOVE_PX`).

    Parameters
    ----------
    seen : band-passed image
    valid : (y, x) bool, True = use it
    """
    ok = seen.valid & valid
    if min(ok.shape) < HALVE_ABOVE_PX:
        return Features(np.where(ok, seen.values, np.float32(0)), ok)
    rows, columns = (n // 2 * 2 for n in ok.shape)
    part = [(slice(i, rows, 2), slice(j, columns, 2)) for i in (0, 1) for j in (0, 1)]
    whole = np.logical_and.reduce([ok[p] for p in part])
    mean = sum(seen.values[(slice(None), *p)] for p in part) * np.float32(0.25)
    return Features(np.where(whole, mean, np.float32(0)), whole)


def masked_ncc(
    reference: Array, moving: Array, reference_valid: Array, moving_valid: Array, *, max_shift_px: int = 4
) -> npt.NDArray[np.float64]:
    """Correlation of two masked images at whole-pixel shifts (Padfield's masked form), bands pooled.

    Parameters
    ----------
    reference, moving : (band, y, x) float arrays, finite
    reference_valid, moving_valid : (y, x) bool, True = use it
    max_shift_px : largest shift along each axis, pixels

    Returns
    -------
    (2 max_shift_px + 1, same) float64: row ``i``, column ``j`` is the correlation after ``moving`` was
    shifted by ``(i - max_shift_px, j - max_shift_px)``; NaN where too few pixels overlap
    """
    from scipy import fft

    shape = [fft.next_fast_len(n + max_shift_px, real=True) for n in reference_valid.shape]

    def forward(image: Array) -> Array:
        return np.asarray(fft.rfft2(np.asarray(image, np.float32), s=shape))

    def correlate(a: Array, b: Array) -> Array:
        full = fft.irfft2(a * np.conj(b), s=shape)
        lags = np.arange(-max_shift_px, max_shift_px + 1)
        return np.asarray(full[..., lags[:, None], lags], np.float64)

    r, m = np.where(reference_valid, reference, 0), np.where(moving_valid, moving, 0)
    fr, fm, fv, fn = forward(r), forward(m), forward(reference_valid), forward(moving_valid)
    n = np.maximum(correlate(fv, fn), 1)
    sum_r, sum_m = correlate(fr, fn), correlate(fv, fm)
    cross = correlate((fr * np.conj(fm)).sum(axis=0), np.ones(1)) - (sum_r * sum_m).sum(axis=0) / n
    var_r = correlate(forward(np.square(r).sum(axis=0)), fn) - np.square(sum_r).sum(axis=0) / n
    var_m = correlate(fv, forward(np.square(m).sum(axis=0))) - np.square(sum_m).sum(axis=0) / n
    floor = 1e-5 * n
    score = cross / np.sqrt(np.maximum(var_r, floor) * np.maximum(var_m, floor))
    return np.where(n >= _LEAST_OVERLAP * max(reference_valid.sum(), 1), np.clip(score, -1, 1), np.nan)
