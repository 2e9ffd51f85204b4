"""Evidence of a whole scene, and how much of it starts a candidate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from changedet.steps import breaks, mask

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Maps:
    """Evidence of the whole scene.

    Parameters
    ----------
    z : (y, x) float32, step evidence in units of its stratum's null noise, NaN = no decision
    index : (y, x) int16, first date after the best break, −1 none
    delta : (band, y, x) float32 step, ln units
    stratum : (y, x) int8
    nulls : null of each stratum, None where it has too few pixels
    """

    z: Array
    index: Array
    delta: Array
    stratum: Array
    nulls: tuple[breaks.NullScale | None, ...]


REFERENCE_ALPHA = 0.05


def seed_level(maps: Maps, seed_z: float, alpha: float) -> Array:
    """Return the evidence at which a pixel starts a candidate, (y, x) float32.

    A false-alarm level ten times stricter than the reference asks for as much more evidence as the tail of
    the scene's own null takes to become ten times rarer.
    """
    level = np.full(maps.z.shape, np.inf, np.float32)
    for s, null in enumerate(maps.nulls):
        if null is not None:
            level[maps.stratum == s] = max(null.moved(seed_z, REFERENCE_ALPHA / alpha), 3.0)
    return np.maximum(level, restless_level(maps, REFERENCE_ALPHA / alpha))


def restless_level(maps: Maps, factor: float = 1.0, *, base: float = 3.0, few: int = 20) -> Array:
    """Return the evidence that one patch in a stratum reaches by chance on the date its step is at.

    When fields ripen or snow melts, hundreds of patches take a step on the same date. That date's own patches
    say how far their tail reaches: an exponential fitted to the median of their peaks, which the few that
    were built do not move.

    Parameters
    ----------
    maps : evidence
    factor : how many times rarer than one patch a scene
    base : evidence above which connected pixels are a patch
    few : dates with fewer patches say nothing

    Returns
    -------
    (y, x) float32, ``base`` where nothing is known
    """
    level = np.full(maps.z.shape, base, np.float32)
    for s in range(len(mask.STRATA)):
        own = maps.stratum == s
        peak, date = _patches(maps, s, base)
        by_date = np.full(int(maps.index.max(initial=0)) + 1, base, np.float32)
        for k in np.unique(date):
            excess = peak[date == k] - base
            if excess.size >= few:
                by_date[k] = base + np.median(excess) / np.log(2) * np.log(excess.size * factor)
        level[own] = by_date[np.maximum(maps.index[own], 0)]
    return level


def _patches(maps: Maps, stratum: int, base: float) -> tuple[Array, Array]:
    """Return the peak of every connected patch of a stratum above a level, and the date of its step."""
    from scipy import ndimage

    z = np.where(maps.stratum == stratum, np.nan_to_num(maps.z, nan=-np.inf), -np.inf)
    patches, count = ndimage.label(z > base, np.ones((3, 3)))
    if count == 0:
        return np.zeros(0, np.float32), np.zeros(0, np.int16)
    at = tuple(np.array(ndimage.maximum_position(z, patches, np.arange(1, count + 1))).T)
    return z[at], maps.index[at]


def by_chance(maps: Maps, *, base: float = 3.0, few: int = 20) -> Callable[[int, int, float], float]:
    """Return a function that says how likely a scene without works has evidence as strong somewhere.

    As in :func:`restless_level`, the tail of the scene's own patches is an exponential fitted to the median
    of their peaks; that of the whole stratum or of the date of the step, whichever reaches further.

    Parameters
    ----------
    maps : evidence
    base : evidence above which connected pixels are a patch
    few : fewer patches give no tail

    Returns
    -------
    ``p_value(stratum, date, peak)``, NaN where there is no tail
    """
    known = [_patches(maps, s, base) for s in range(len(mask.STRATA))]

    def expected(excess: Array, peak: float) -> float:
        if excess.size < few:
            return float("nan")
        return float(excess.size * np.exp(-np.log(2) * (peak - base) / max(np.median(excess), 1e-3)))

    def p_value(stratum: int, date: int, peak: float) -> float:
        peaks, dates = known[stratum]
        both = [expected(peaks - base, peak), expected(peaks[dates == date] - base, peak)]
        return float("nan") if np.isnan(both).all() else float(-np.expm1(-np.nanmax(both)))

    return p_value
