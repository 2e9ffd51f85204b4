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
    contrast : share of the object's own step that a pixel of the footprint must show; half is where the edge
    of
        an object lies under a point-spread function
    min_px : smaller footprints are dropped
    rounds : objects of different steps that one region may hold
    fragment : a piece beside a stronger object counts as one of its own from this share of that one's size
    """

    grow: float = 4.0
    contrast: float = 0.5
    min_px: int = 2
    rounds: int = 6
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
    for _ in range(rules.rounds):
        seeds = rest & hot
        if not seeds.any():
            break
        step = _common_step(z, delta, seeds)
        share = np.einsum("b,byx->yx", step, delta) / max(float(step @ step), 1e-9)
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
            taken[part] = rows.size
        rest &= ~np.asarray(ndimage.binary_dilation(np.isin(parts, with_seed), np.ones((3, 3), bool)))
    return found


def _common_step(z: Array, delta: Array, seeds: Array) -> Array:
    """Return the median step of the stronger half of the seeds, (band,)."""
    top = seeds & (z >= np.quantile(z[seeds], 0.5))
    return np.asarray(np.median(delta[:, top], axis=1))
