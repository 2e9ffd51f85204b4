"""Masks that eat what is bright and stays: a check over dates that gives such pixels back.

Clouds move on. A small patch that is masked again and again at one place, while all around it is clear, is a
roof, a quay or a fresh causeway that a mask takes for cloud. Left masked, a bright new structure could never
be seen.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from changedet.scenes import CLOUDY, Quality

Array = npt.NDArray[Any]

REACH_M = 60.0
"""Half the side of the square that must be clear: wider than a causeway or a work platform."""

MIN_SCENES = 5


def reach_px(gsd_m: float) -> int:
    """Return half the side of the square that must be clear, in pixels."""
    return int(np.clip(round(REACH_M / gsd_m), 3, 100))


def lonely(flags: Array, radius_px: int, *, most: float = 0.35) -> npt.NDArray[np.bool_]:
    """Find masked pixels whose surroundings are mostly clear.

    Parameters
    ----------
    flags : (y, x) uint8 of :class:`~changedet.scenes.Quality`, of one date
    radius_px : half the side of the square around a pixel
    most : share of the square that may be masked

    Returns
    -------
    (y, x) bool
    """
    from scipy.ndimage import uniform_filter

    masked = np.asarray((flags & np.uint8(CLOUDY)) != 0)
    if not masked.any():
        return masked
    share = uniform_filter(masked.astype(np.float32), 2 * radius_px + 1, mode="nearest")
    return np.asarray(masked & (share < most) & ((flags & np.uint8(Quality.NODATA)) == 0))


def eaten(
    flags: Array, radius_px: int, *, min_dates: int = 3, min_share: float = 0.3
) -> npt.NDArray[np.bool_]:
    """Find pixels that are masked because they are bright, not because they are under a cloud.

    Parameters
    ----------
    flags : (time, y, x) uint8 of :class:`~changedet.scenes.Quality`; left alone
    radius_px : see :func:`lonely`
    min_dates : dates on which a pixel must be masked while its surroundings are clear
    min_share : of the dates on which that is so, or it is not masked, since the first such date

    Returns
    -------
    (time, y, x) bool, True where the mask is not to be believed

    Examples
    --------
    >>> flags = np.zeros((6, 31, 31), np.uint8)
    >>> flags[2:, 15, 15] = Quality.MASKED  # one place, again and again
    >>> flags[4, 20:, :] = Quality.MASKED  # a cloud
    >>> eaten(flags, 8)[:, 15, 15].tolist(), bool(eaten(flags, 8)[4, 25, 5])
    ([False, False, True, True, True, True], False)
    """
    wrong = np.stack([lonely(one, radius_px) for one in flags])
    count = wrong.sum(axis=0)
    if not (count >= min_dates).any():
        return np.zeros_like(wrong)
    seen = wrong | ((flags & np.uint8(CLOUDY | Quality.NODATA)) == 0)
    since = np.maximum.accumulate(wrong, axis=0)
    share = count / np.maximum((seen & since).sum(axis=0), 1)
    return np.asarray(wrong & (count >= min_dates) & (share >= min_share))
