"""Tie points: where single windows of an image lie on a reference, each found by itself.

Whole pixels come from masked correlation of the window, the rest from the same robust least squares as the
shift of the whole image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from changedet.steps._bandpass import masked_ncc
from changedet.steps._register import (
    CORRELATED,
    LARGEST_SIGMA_PX,
    LEAST_NCC,
    Found,
    Patches,
    Template,
    correlation,
    pooled,
    refine,
    solved,
)
from changedet.steps._stable import Sample

Array = npt.NDArray[Any]

_SETTLED_PX = 0.05
_FAR_PX = 1.5  # least squares that leave the peak of the correlation this far found something else
_BLURRED = 3.0  # times the common standard error: such a window changed, or has little to hold on to
_NEAR_PX, _RIVAL = 2, 0.9  # another peak as high as this share of the first makes a match ambiguous


@dataclass(frozen=True)
class TiePoints:
    """Where windows lie.

    Parameters
    ----------
    window : (n,) numbers of the template's windows
    row, column : (n,) their middle in the raster, pixels
    shift : (n, 2) dy and dx to apply to the moving image there, pixels
    sigma : (n,) standard error of the shift, the larger of both axes, pixels
    """

    window: Array
    row: Array
    column: Array
    shift: Array
    sigma: Array

    def __len__(self) -> int:
        """Number of tie points."""
        return len(self.window)


NO_TIES = TiePoints(np.zeros(0, int), np.zeros(0), np.zeros(0), np.zeros((0, 2)), np.zeros(0))


def corners(sample: Sample, side_px: int) -> npt.NDArray[np.int64]:
    """First row and column of windows that lie evenly in every tile of a sample, (window, 2)."""
    axes = []
    for parts, starts in ((sample.rows, sample.starts[0]), (sample.columns, sample.starts[1])):
        length = parts[0].stop - parts[0].start
        count = max(length // side_px, 1)
        inner = np.rint(np.linspace(0, max(length - side_px, 0), count) if count > 1 else [0]).astype(int)
        axes.append((np.asarray(starts)[:, None] + inner).ravel())
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)


def one_window(t: Template, patches: Patches, k: int) -> tuple[Template, Patches]:
    """Return a template of one window alone, and the patch for it."""
    at = slice(k, k + 1)
    alone = replace(t, parts=t.parts[:, at], inside=t.inside[at], corner=t.corner[at])
    return alone, replace(patches, values=patches.values[:, at], valid=patches.valid[at])


def tie_points(t: Template, patches: Patches, sample: Sample, *, max_shift_px: float) -> TiePoints:
    """Match every window of a template by itself; what does not match is left out.

    Parameters
    ----------
    t : the reference
    patches : the moving image, as :func:`~changedet.steps._register.cut` gives it
    sample : where the windows lie in the raster
    max_shift_px : longest shift along an axis that is looked for
    """
    kept, shifts, sigmas = [], [], []
    for k in range(len(t.corner)):
        found = _match_one(*one_window(t, patches, k), max_shift_px)
        if found is not None:
            kept.append(k)
            shifts.append(found[0])
            sigmas.append(found[1])
    if not kept:
        return NO_TIES
    row, column = sample.place(t.corner[kept] + (t.side_px - 1) / 2)
    sigma = np.array(sigmas)
    clear = sigma <= _BLURRED * np.median(sigma)
    every = (np.array(kept), row, column, np.array(shifts), sigma)
    return TiePoints(*(part[clear] for part in every))


def _match_one(t: Template, patch: Patches, max_shift_px: float) -> tuple[tuple[float, float], float] | None:
    """Shift and standard error of one window; None where nothing can be said."""
    start = _peak(t, patch, int(np.ceil(max_shift_px)))
    if start is None:
        return None
    found = refine(t, patch, Found(start, None), np.ones(1, bool), max_shift_px, _SETTLED_PX / 4)
    free = pooled(found.sums, found.noise)
    _, sigma, left = solved(free)
    count = max(float(found.sums[..., 1, 1].sum()), 1.0)
    unit = np.sqrt(max(float(left[0]), 0) / count * CORRELATED)
    error = float(np.nan_to_num(sigma, nan=np.inf).max()) * unit
    apart = np.hypot(found.shift[0] - start[0], found.shift[1] - start[1])
    settled = np.hypot(*found.step) < _SETTLED_PX and apart < _FAR_PX
    if settled and error <= LARGEST_SIGMA_PX and float(correlation(found.sums)[0]) >= LEAST_NCC:
        return found.shift, error
    return None


def _peak(t: Template, patch: Patches, reach_px: int) -> tuple[float, float] | None:
    """Whole-pixel shift of the best correlation; None at the rim of the search or beside a rival."""
    side, rim = t.side_px, t.reach_px - reach_px
    around = [(reach_px, reach_px)] * 2
    inside = np.pad(t.inside.reshape(side, side), around)
    reference = np.pad(t.parts[:, 0, 3].reshape(-1, side, side), [(0, 0), *around])
    inner = slice(rim, rim + side + 2 * reach_px)
    seen, valid = patch.values[:, 0, inner, inner], patch.valid[0, inner, inner]
    score = masked_ncc(reference, seen, inside, valid, max_shift_px=reach_px)
    if not np.isfinite(score).any():
        return None
    i, j = (int(n) for n in np.unravel_index(np.nanargmax(score), score.shape))
    if min(i, j) == 0 or max(i, j) == 2 * reach_px or score[i, j] < LEAST_NCC:
        return None
    far = score.copy()
    far[max(i - _NEAR_PX, 0) : i + _NEAR_PX + 1, max(j - _NEAR_PX, 0) : j + _NEAR_PX + 1] = np.nan
    if np.isfinite(far).any() and np.nanmax(far) > _RIVAL * score[i, j]:
        return None
    return float(i - reach_px), float(j - reach_px)
