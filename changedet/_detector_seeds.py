"""Evidence of a whole scene, and how much of it starts a candidate."""

from __future__ import annotations

import functools
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

    @functools.cached_property
    def patches(self) -> tuple[tuple[Array, Array], ...]:
        """Peak of every connected patch above ``PATCH_Z``, and the date of its step, for each stratum."""
        return tuple(_patches(self, s) for s in range(len(mask.STRATA)))


PATCH_Z = 3.0
"""Evidence above which connected pixels are a patch."""

FEW = 20
"""Fewer patches give no tail."""


@dataclass(frozen=True)
class _Tail:
    """How far patches reach: as many as ``number`` above ``PATCH_Z``, fewer by e for every ``fall`` more."""

    number: int
    fall: float

    @classmethod
    def of(cls, peak: Array) -> _Tail | None:
        """Fit it to the median of the peaks, which the few that were built do not move."""
        if peak.size < FEW:
            return None
        return cls(peak.size, max(float(np.median(peak) - PATCH_Z), 1e-3) / float(np.log(2)))

    def level(self, factor: float) -> float:
        """Return the evidence that ``1 / factor`` patches exceed by chance."""
        return PATCH_Z + self.fall * float(np.log(self.number * factor))

    def expected(self, peak: float) -> float:
        """Return how many patches reach as far by chance."""
        return self.number * float(np.exp((PATCH_Z - peak) / self.fall))


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


def restless_level(maps: Maps, factor: float = 1.0) -> Array:
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
    (y, x) float32, ``PATCH_Z`` where nothing is known
    """
    level = np.full(maps.z.shape, PATCH_Z, np.float32)
    for s, (peak, date) in enumerate(maps.patches):
        own = maps.stratum == s
        by_date = np.full(int(maps.index.max(initial=0)) + 1, PATCH_Z, np.float32)
        for k in np.unique(date):
            tail = _Tail.of(peak[date == k])
            if tail is not None:
                by_date[k] = tail.level(factor)
        level[own] = by_date[np.maximum(maps.index[own], 0)]
    return level


def _patches(maps: Maps, stratum: int) -> tuple[Array, Array]:
    """Return peak and date of every patch of a stratum."""
    from scipy import ndimage

    z = np.where(maps.stratum == stratum, np.nan_to_num(maps.z, nan=-np.inf), -np.inf)
    patches, count = ndimage.label(z > PATCH_Z, np.ones((3, 3)))
    if count == 0:
        return np.zeros(0, np.float32), np.zeros(0, np.int16)
    at = tuple(np.array(ndimage.maximum_position(z, patches, np.arange(1, count + 1))).T)
    return z[at], maps.index[at]


def by_chance(maps: Maps, stratum: int, date: int, peak: float) -> float:
    """Return how likely a scene without works has evidence as strong somewhere; NaN where nothing says so.

    As in :func:`restless_level`, by the tail of the scene's own patches: that of the whole stratum or that of
    the date of the step, whichever reaches further.

    Parameters
    ----------
    maps : evidence
    stratum, date, peak : of a candidate
    """
    peaks, dates = maps.patches[stratum]
    tails = [_Tail.of(peaks), _Tail.of(peaks[dates == date])]
    expected = [tail.expected(peak) for tail in tails if tail is not None]
    return float(-np.expm1(-max(expected))) if expected else float("nan")
