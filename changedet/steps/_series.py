"""The series of an object: its pixels projected on its step, and what of it came first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from changedet.steps._robust import nan_median

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Series:
    """An object over time.

    Parameters
    ----------
    value : (time,) projected evidence: about 0 before, 1 after the step; NaN where not usable
    noise : (time,) standard deviation of ``value``
    share : (time,) share of the object's pixels that were usable
    frozen : (time,) bool, ice or snow there
    near_cloud : (time,) bool, most of it lies next to a masked cloud
    """

    value: Array
    noise: Array
    share: Array
    frozen: Array
    near_cloud: Array

    @property
    def usable(self) -> Array:
        """``(time,)`` bool: most of the object's pixels were usable."""
        return np.asarray((self.share >= 0.5) & np.isfinite(self.value))


def pixel_values(residual: Array, weight: Array, delta: Array, whiten: Array) -> tuple[Array, Array]:
    """Project the residuals of pixels on a step.

    Parameters
    ----------
    residual, weight : (time, band, pixel)
    delta : (band,) step, ln units
    whiten : (band, band)

    Returns
    -------
    value, variance : (time, pixel), about 0 before and 1 after the step; NaN where not usable
    """
    used: Array = np.asarray((weight > 0).all(axis=1))
    total = np.where(used[:, None], weight, 0).sum(axis=(0, 2))
    sd = 1 / np.sqrt(np.maximum(total / max(int(used.sum()), 1), 1e-9))
    direction = (whiten.T @ whiten) @ (delta / sd) / sd
    unit = float(direction @ delta)
    direction = direction / (unit if abs(unit) > 1e-12 else 1.0)
    value = np.einsum("b,tbn->tn", direction, np.where(used[:, None], residual, 0))
    variance = np.einsum("b,tbn->tn", direction**2, 1 / np.maximum(weight, 1e-9))
    return np.where(used, value, np.nan), np.where(used, variance, np.nan)


def project(value: Array, variance: Array, frozen: Array, near_cloud: Array) -> Series:
    """Pool the projected residuals of an object's pixels.

    Parameters
    ----------
    value, variance : (time, pixel), see :func:`pixel_values`
    frozen, near_cloud : (time,) bool
    """
    used = np.isfinite(value)
    some = used.any(axis=1)
    middle, noise = np.full(value.shape[0], np.nan), np.full(value.shape[0], np.inf)
    middle[some] = nan_median(value[some].T)
    independent = np.maximum(used.sum(axis=1) / 4, 1)  # neighbors share a point-spread function
    noise[some] = np.sqrt(nan_median(variance[some].T) / independent[some])
    return Series(middle, noise, used.mean(axis=1), frozen, near_cloud)


def pixel_begins(value: Array, doubt: Array) -> Array:
    """Return the date from which each pixel shows the object, by the fewest mistakes before and after.

    Parameters
    ----------
    value : (time, pixel) projected residuals, NaN = not usable
    doubt : (time,) bool, dates that say nothing

    Returns
    -------
    (pixel,) int, index of the first date; the number of dates where it never shows

    >>> pixel_begins(np.array([[0.0], [0.1], [0.9], [1.1]]), np.zeros(4, bool))
    array([2])
    """
    vote = np.where(doubt[:, None], 0, np.clip(2 * np.nan_to_num(value, nan=0.5) - 1, -1, 1))
    before = np.concatenate([np.zeros((1, value.shape[1])), np.cumsum(vote, axis=0)])
    return np.asarray(np.argmin(before, axis=0))


def first_part(
    begin: Array, rows: Array, columns: Array, *, share: float = 0.05, min_px: int = 4, later: float = 0.2
) -> Array | None:
    """Return the pixels of an object that changed first, if the rest followed later.

    Parameters
    ----------
    begin : (pixel,) first date of each pixel, see :func:`pixel_begins`
    rows, columns : (pixel,) where they are: a beginning is one piece, scattered early pixels are noise
    share : part of the object that counts as its beginning
    min_px : smallest beginning
    later : share of the pixels that must follow by more than a date

    Returns
    -------
    (pixel,) bool, or None where the object came at once or is too small to tell
    """
    from scipy import ndimage

    count = max(int(np.ceil(share * begin.size)), min_px)
    if begin.size < 4 * min_px:
        return None
    image = np.full((int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1), np.iinfo(np.int64).max)
    at = (rows - rows.min(), columns - columns.min())
    image[at] = begin
    for date in np.unique(begin):
        parts, number = ndimage.label(image <= date, np.ones((3, 3)))
        size = np.bincount(parts.ravel(), minlength=number + 1)
        size[0] = 0
        if size.max(initial=0) >= count:
            early = np.asarray(parts[at] == int(size.argmax()))
            return early if (begin > date + 1).mean() > later else None
    return None
