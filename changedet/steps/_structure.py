"""Likeness of the structure of two dates in a small window: SSIM, and local correlation.

Both weight the valid pixels of the window alone (normalized convolution), so that a cloud's edge or the
image's edge is no structure.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from changedet.blocks import Windowed
from changedet.errors import SettingError

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

LUMINANCE, CONTRAST = 0.01, 0.03
"""K1 and K2 of Wang et al. 2004: constants, as shares of the data range, that steady flat windows."""

TRUNCATE = 3.5
"""Reach of the Gaussian window in standard deviations; 5 px at 1.5."""

LEAST_WEIGHT = 0.5
"""Share of the window's weight inside the image that must be on valid pixels."""

_QUIET = np.errstate(all="ignore")  # NaN and infinity are inputs here, and come out as NaN


# --- windows -----------------------------------------------------------------------------------------------


def _gaussian(sigma_px: float) -> Float64:
    """Return the weights of a Gaussian window along one axis; they add up to 1."""
    reach = _reach(sigma_px)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma_px) ** 2)
    return np.asarray(weights / weights.sum())


def _reach(sigma_px: float) -> int:
    """Return how far the Gaussian window reaches, px."""
    return int(TRUNCATE * sigma_px + 0.5)


def _smoothed(values: Array, weights: Float64) -> Float64:
    """Add up the window's weighted values; beyond the image nothing is added.

    Shifts are added one after the other, so that a pixel's sum does not depend on how the image is cut.
    """
    reach = len(weights) // 2
    for axis in (0, 1):
        source = np.moveaxis(values, axis, 0)
        total = np.zeros_like(source, np.float64)
        for weight, shift in zip(weights, range(-reach, reach + 1), strict=True):
            n = len(source) - abs(shift)
            if n > 0:
                here, there = max(-shift, 0), max(shift, 0)
                total[here : here + n] += weight * source[there : there + n]
        values = np.moveaxis(total, 0, axis)
    return values


class _Weights:
    """Which pixels are valid in both dates, and how much of each window they are.

    Parameters
    ----------
    before, after : (band, y, x) array; a pixel counts where every band of both is finite
    weights : (2·reach + 1,) of the window along one axis
    """

    def __init__(self, before: Array, after: Array, weights: Float64) -> None:
        self.valid: Array = np.logical_and.reduce([np.isfinite(v) for v in (*before, *after)])
        self._weights = weights
        self._sum = _smoothed(self.valid, weights)
        rows, columns = (_smoothed(np.ones((n, 1)), weights) for n in self.valid.shape)
        # Smoothing along the axis of length 1 keeps the middle weight alone; it is divided out.
        inside = rows * columns.T / weights[len(weights) // 2] ** 2
        self.usable = self.valid & (self._sum >= LEAST_WEIGHT * inside)

    def mean(self, values: Array) -> Float64:
        """Return the weighted mean over the valid pixels of each window; values must be finite."""
        return _smoothed(values, self._weights) / self._sum

    def moments(self, before: Array, after: Array) -> Iterator[tuple[Float64, ...]]:
        """Yield band by band the means of both dates, their variances and their covariance."""
        for first, second in zip(before, after, strict=True):
            a, b = (np.where(self.valid, v, 0).astype(np.float64) for v in (first, second))
            mean_a, mean_b = self.mean(a), self.mean(b)
            yield (
                mean_a,
                mean_b,
                self.mean(a * a) - mean_a * mean_a,
                self.mean(b * b) - mean_b * mean_b,
                self.mean(a * b) - mean_a * mean_b,
            )

    def finished(self, result: Array) -> Float32:
        """Return float32 with NaN where the window is not usable or the result not finite."""
        out = result.astype(np.float32)
        return np.where(self.usable & np.isfinite(out), out, np.float32(np.nan))


# --- SSIM --------------------------------------------------------------------------------------------------


@_QUIET
def structural_change(
    before: Array, after: Array, *, data_range: float = 0.5, sigma_px: float = 1.5
) -> Float32:
    """One minus the structural similarity (Wang et al. 2004, doi:10.1109/TIP.2003.819861).

    The mean over the bands of what each of them says.

    Parameters
    ----------
    before, after : (band, y, x) array, NaN = invalid
    data_range : span of the values, in their unit: it says which contrast matters, and is never guessed
    sigma_px : standard deviation of the Gaussian window, px

    Returns
    -------
    (y, x) float32 array, 0 = alike to 2 = inverted; NaN where a band of either is not finite, or valid pixels
    hold less than half of the window's weight

    Raises
    ------
    SettingError
        ``data_range`` or ``sigma_px`` is not positive.
    """
    if not (0 < data_range < np.inf and 0 < sigma_px < np.inf):
        raise SettingError(f"data_range={data_range}, sigma_px={sigma_px}; wanted numbers above 0")
    c1, c2 = (LUMINANCE * data_range) ** 2, (CONTRAST * data_range) ** 2
    window = _Weights(before, after, _gaussian(sigma_px))
    total = np.zeros(before.shape[1:])
    for mean_a, mean_b, var_a, var_b, cov in window.moments(before, after):
        luminance = (2 * mean_a * mean_b + c1) / (mean_a * mean_a + mean_b * mean_b + c1)
        total += 1 - luminance * ((2 * cov + c2) / (var_a + var_b + c2))
    return window.finished(total / len(before))


def ssim(
    before: xr.DataArray,
    after: xr.DataArray,
    *,
    data_range: float = 0.5,
    sigma_px: float = 1.5,
    threads: int = 1,
) -> xr.DataArray:
    """One minus the structural similarity of two dates, mean over the bands.

    Parameters
    ----------
    before, after : (band, y, x) or (y, x), NaN = invalid
    data_range : span of the values, in their unit. 0.5 suits reflectance of land; 0.05 brings out structure
        on dark water, which is silent otherwise; 255 is for 8-bit pictures. It is never guessed from the data
    sigma_px : standard deviation of the Gaussian window, px; it reaches 3.5 times as far
    threads : threads for eager work

    Returns
    -------
    (y, x) float32, 0 = alike to 2 = inverted; NaN where a band of either is not finite, or where valid pixels
    hold less than half of the weight of the window's part inside the image

    Raises
    ------
    SettingError
        ``data_range`` or ``sigma_px`` is not positive.
    """
    kernel = partial(structural_change, data_range=data_range, sigma_px=sigma_px)
    reach = _reach(sigma_px) if 0 < sigma_px < np.inf else 0  # the kernel refuses the rest
    return Windowed(kernel, halo_px=reach)(before, after, threads=threads)


# --- local correlation -------------------------------------------------------------------------------------


@_QUIET
def local_correlation(before: Array, after: Array, *, window_px: int = 5, noise: float = 1e-4) -> Float32:
    """Correlation of two dates in a square window, mean over the bands that are not flat there.

    Parameters
    ----------
    before, after : (band, y, x) array, NaN = invalid
    window_px : side of the window, odd, px
    noise : standard deviation, in the unit of the values, up to which a window counts as flat

    Returns
    -------
    (y, x) float32 array, −1 to 1; NaN where a band of either is not finite, where valid pixels are less than
    half of the window, or where every band is flat at either date: a flat window has no correlation

    Raises
    ------
    SettingError
        ``window_px`` is even or below 3, or ``noise`` is negative.
    """
    if window_px < 3 or window_px % 2 == 0 or not noise >= 0:
        raise SettingError(
            f"window_px={window_px}, noise={noise}; wanted an odd window of at least 3 px and noise of at "
            "least 0"
        )
    window = _Weights(before, after, np.full(window_px, 1 / window_px))
    total, bands = np.zeros(before.shape[1:]), np.zeros(before.shape[1:])
    for mean_a, mean_b, var_a, var_b, cov in window.moments(before, after):
        # Beside a mean this large, float64 keeps no digits of the variance.
        floors = (np.maximum(noise**2, 1e-12 * mean * mean) for mean in (mean_a, mean_b))
        textured = np.logical_and(*(var > floor for var, floor in zip((var_a, var_b), floors, strict=True)))
        total += np.where(textured, np.clip(cov / np.sqrt(var_a * var_b), -1, 1), 0)
        bands += textured
    return window.finished(total / bands)


def ncc(
    before: xr.DataArray,
    after: xr.DataArray,
    *,
    window_px: int = 5,
    noise: float = 1e-4,
    threads: int = 1,
) -> xr.DataArray:
    """Local correlation of two dates: 1 = the same pattern, whatever its gain and offset.

    Parameters
    ----------
    before, after : (band, y, x) or (y, x), NaN = invalid
    window_px : side of the square window, odd, px
    noise : standard deviation, in the unit of the values, up to which a window counts as flat
    threads : threads for eager work

    Returns
    -------
    (y, x) float32, −1 to 1, mean over the bands that are not flat; NaN where none is left, as on calm water

    Raises
    ------
    SettingError
        ``window_px`` is even or below 3, or ``noise`` is negative.
    """
    kernel = partial(local_correlation, window_px=window_px, noise=noise)
    return Windowed(kernel, halo_px=max(window_px // 2, 0))(before, after, threads=threads)
