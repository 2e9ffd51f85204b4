"""Candidates: pixels of the evidence image that may be one object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Candidate:
    """Pixels that may be one object.

    Parameters
    ----------
    rows, columns : (pixel,) of its footprint
    peak : highest ``z`` of its pixels
    delta : (band,) its step, ln units
    """

    rows: Array
    columns: Array
    peak: float
    delta: Array

    @property
    def window(self) -> tuple[slice, slice]:
        """Smallest window that holds the footprint."""
        return (
            slice(int(self.rows.min()), int(self.rows.max()) + 1),
            slice(int(self.columns.min()), int(self.columns.max()) + 1),
        )


@dataclass(frozen=True)
class Growth:
    """How candidates are cut from the evidence.

    Parameters
    ----------
    grow : ``z`` to which a candidate grows from its seed
    contrast : share of its area that a pixel of the footprint must be covered; the edge of an object lies at
        half under a point-spread function, a little less counts as objects are not even
    min_px : smaller footprints are dropped
    rounds : objects of different steps that one region may hold
    fringe : evidence that starts an object of its own within three pixels of a stronger one, as a share of
        that one's peak
    fragment : a piece beside a stronger object counts as one of its own from this share of that one's size
    """

    grow: float = 4.0
    contrast: float = 0.4
    min_px: int = 2
    rounds: int = 6
    fringe: float = 0.3
    fragment: float = 0.25


def candidates(z: Array, delta: Array, seed: Array, rules: Growth = Growth()) -> list[Candidate]:
    """Cut an evidence image into candidate objects.

    Parameters
    ----------
    z : (y, x) float32 evidence in units of its own null noise, NaN = no decision
    delta : (band, y, x) float32 best step of every pixel, ln units
    seed : (y, x) level above which a pixel starts a candidate
    rules : growth rules

    Returns
    -------
    list of Candidate, in raster order of their first pixel
    """
    from scipy import ndimage

    filled = np.nan_to_num(z, nan=-np.inf)
    hot = filled > seed
    grown, count = ndimage.label(filled > rules.grow, np.ones((3, 3)))
    keep = np.zeros(count + 1, bool)
    keep[np.unique(grown[hot])] = True
    keep[0] = False
    found = []
    for label, window in enumerate(ndimage.find_objects(np.where(keep[grown], grown, 0)), start=1):
        if window is not None:
            window = (window[0], window[1])
            region = grown[window] == label
            found += _footprints(
                filled[window], delta[(slice(None), *window)], hot[window], region, window, rules
            )
    return sorted(found, key=lambda c: (int(c.rows[0]), int(c.columns[0])))


def _footprints(
    z: Array, delta: Array, hot: Array, region: Array, window: tuple[slice, slice], rules: Growth
) -> list[Candidate]:
    """Cut a region in objects, strongest first: each is what shows at least a share of one common step."""
    from scipy import ndimage

    found: list[Candidate] = []
    rest, taken = region.copy(), np.zeros(region.shape, np.int32)
    peaks = np.zeros(region.shape, np.float32)
    for _ in range(rules.rounds):
        # close to a strong object its blur alone is evidence
        seeds = rest & hot & (z >= rules.fringe * ndimage.maximum_filter(peaks, 7))
        if not seeds.any():
            break
        share = coverage(delta, _common_step(z, delta, seeds))
        share /= _full(share[seeds])
        parts, _ = ndimage.label(rest & (share >= rules.contrast), np.ones((3, 3)))
        with_seed = np.setdiff1d(np.unique(parts[seeds]), [0])
        if with_seed.size == 0:
            break
        around = ndimage.maximum_filter(taken, 5)
        for i in with_seed:
            part = parts == i
            rows, columns = np.nonzero(part)
            if rows.size < rules.min_px or rows.size < rules.fragment * around[part].max():
                continue
            own = _common_step(z, delta, part & seeds)
            peak = float(z[part].max())
            found.append(Candidate(rows + window[0].start, columns + window[1].start, peak, own))
            taken[part], peaks[part] = rows.size, peak
        rest &= ~np.asarray(ndimage.binary_dilation(np.isin(parts, with_seed), np.ones((3, 3), bool)))
    return found


def coverage(delta: Array, step: Array) -> Array:
    """Return how much of each pixel an object covers, from its step in ln units and that of the object.

    Light mixes in reflectance, not in its logarithm: a pixel of water that concrete covers by a tenth is
    already half as bright again.

    Parameters
    ----------
    delta : (band, ...) steps, ln units
    step : (band,) step of a pixel that is covered wholly

    Returns
    -------
    (...) float, about 1 where covered wholly, 0 where not
    """
    part, whole = np.expm1(np.clip(delta, -5, 5)), np.expm1(step.astype(np.float64))
    return np.asarray(np.tensordot(whole, part, axes=(0, 0)) / max(float(whole @ whole), 1e-9))


def _full(share: Array, *, high: float = 0.9, core: float = 0.5) -> float:
    """Return the coverage of seeds that are covered wholly; those around an object only share its light."""
    top = float(np.quantile(share, high))
    return float(np.median(share[share >= core * top])) if top > 1e-6 else 1e-6


def _common_step(z: Array, delta: Array, seeds: Array) -> Array:
    """Return the median step of the stronger half of the seeds, (band,)."""
    top = seeds & (z >= np.quantile(z[seeds], 0.5))
    return np.asarray(np.median(delta[:, top], axis=1))
