"""How one image lies on another: masked correlation, then robust gradient least squares on windows.

The shift is the one to apply to the moving image. Everything is worked out per window of the reference, so
that one set of sums gives the shift of the whole, of any half of the windows (for the held-out test) and of
each window alone (the tie points).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from changedet.steps._bandpass import HALVE_ABOVE_PX, Features, features, halved, masked_ncc
from changedet.steps._resample import REACH_PX, erode, filter_axis, shift_plan

Array = npt.NDArray[Any]

_GRADIENT = np.array([-0.5, 0.0, 0.5])
_THIN_ABOVE_PX = 32  # windows this large use every other row: smoothing made neighbors alike
_SCALE_SAMPLE = 8_000
_LEAST_SHARE = 0.25  # of a window that must be valid
LEAST_NCC = 0.3  # of a window that may count as a tie point
LARGEST_SIGMA_PX = 0.25  # standard error of a tie point, each axis
LARGEST_RESIDUAL_PX = 1.0
_DARK = -0.5  # in units of the image's own spread
_SOFT = 3.6  # residuals of so many standard deviations count a quarter, larger ones hardly
CORRELATED = 3.0  # smoothing makes neighbors agree: so many pixels count as one
_STEPS, _CONVERGED_PX, _ON_THE_WAY_PX = 8, 0.004, 0.03
NEGLIGIBLE_PX = 0.1
LEAST_SCORE = 0.4  # correlation of held-out windows
SIGMAS = 2.0  # how sure the gain in similarity must be


@dataclass(frozen=True)
class ShiftEstimate:
    """A shift, and how good it is.

    Parameters
    ----------
    dy, dx : shift to apply to the moving image, pixels; zero where it was refused
    residual_px : root mean square distance of the tie points from the shift, pixels; NaN without any
    tie_points : windows that agree on the shift
    score_before, score_after : correlation with the reference on windows that had no part in the shift
    accepted : whether the shift can be trusted
    why : the reason, in words
    """

    dy: float = 0.0
    dx: float = 0.0
    residual_px: float = float("nan")
    tie_points: int = 0
    score_before: float = float("nan")
    score_after: float = float("nan")
    accepted: bool = False
    why: str = ""

    @property
    def size_px(self) -> float:
        """Length of the shift, pixels."""
        return float(np.hypot(self.dy, self.dx))


@dataclass(frozen=True)
class Template:
    """The reference, cut into windows.

    Parameters
    ----------
    coarse : the band-passed reference at half resolution (full on small images), for the first search
    coarse_halved : whether it is at half resolution
    parts : (band, window, 4, pixel) float32: 1, gradient along y, gradient along x, value
    inside : (window, pixel) bool, pixels to match
    corner : (window, 2) first row and column of each window
    side_px, step_px : side of a window, and distance of its rows
    reach_px : pixels around a window that a moving image may be asked for
    lattice : windows in the whole image
    bright_side : whether pixels darker than their surroundings are left out
    """

    coarse: Features
    coarse_halved: bool
    parts: Array
    inside: Array
    corner: Array
    side_px: int
    step_px: int
    reach_px: int
    lattice: int
    bright_side: bool


@dataclass(frozen=True)
class Patches:
    """A moving image, cut where a template has its windows, with ``reach_px`` around them.

    Parameters
    ----------
    coarse : the band-passed image at the template's coarse resolution
    values : (band, window, row, column) float32
    valid : (window, row, column) bool
    """

    coarse: Features
    values: Array
    valid: Array


def window_side(shape: tuple[int, ...], window_px: int) -> int:
    """Return the side of a tie-point window: smaller on small images, so that several fit."""
    return int(np.clip(min(shape[-2:]) // 8, 12, window_px))


def template(
    reference: Array,
    valid: Array,
    *,
    window_px: int = 64,
    max_shift_px: float = 4.0,
    like: Template | None = None,
    corner: Array | None = None,
    most: int = 24,
    thin: bool = True,
    bright_side: bool = True,
) -> Template:
    """Prepare a reference for :func:`match`.

    Parameters
    ----------
    reference : (band, y, x) array, NaN = not usable; left alone
    valid : (y, x) bool: stable land
    window_px : largest side of a window, pixels
    max_shift_px : longest shift that will be looked for, pixels
    like : template whose windows to use again, so that images cut for it fit
    corner : (window, 2) first row and column of windows to choose from; else those of a lattice
    most : windows to use, the best textured ones with enough valid pixels
    thin : use every other row of large windows
    bright_side : leave out what is darker than its surroundings: cast shadows move with the sun
    """
    seen = features(reference)
    ok = erode(np.asarray(valid, bool) & seen.valid, 1, edges=True)
    side = window_side(ok.shape, window_px)
    step = 2 if thin and side >= _THIN_ABOVE_PX else 1
    rows, columns = (np.arange(0, n - side // 2, side) for n in ok.shape)
    lattice = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
    lattice = lattice if corner is None else corner
    corner = lattice if like is None else like.corner
    inside = cut_windows(ok, corner, side, 0)[:, ::step]
    gradients = [filter_axis(seen.values, _GRADIENT, -1, axis) for axis in (-2, -1)]
    layers = [cut_windows(x, corner, side, 0)[:, :, ::step] for x in (*gradients, seen.values)]
    keep = _best_windows(layers[:2], inside, most) if like is None else np.arange(len(corner))
    parts = np.stack([np.ones_like(layers[0]), *layers], axis=2)[:, keep]
    flat = parts.reshape(*parts.shape[:3], parts.shape[3] * parts.shape[4])
    reach = int(np.ceil(max_shift_px)) + 1 + REACH_PX
    pixels = inside[keep].reshape(keep.size, flat.shape[-1]) & _sunlit(flat[:, :, 3], bright_side)
    half = min(ok.shape) >= HALVE_ABOVE_PX
    return Template(halved(seen, ok), half, flat, pixels, corner[keep], side, step, reach, len(lattice),
    bright_side)


def _best_windows(gradients: list[Array], inside: Array, most: int) -> npt.NDArray[np.int64]:
    """Numbers of the windows with enough valid pixels, at most so many: the best textured ones."""
    gy, gx = (g * inside for g in gradients)
    a, b, c = (np.einsum("bnyx,bnyx->n", p, q) for p, q in ((gy, gy), (gy, gx), (gx, gx)))
    weakest = (a + c) / 2 - np.sqrt(((a - c) / 2) ** 2 + b**2)
    enough = np.flatnonzero(inside.mean(axis=(1, 2)) >= _LEAST_SHARE)
    best = np.argsort(-weakest[enough], kind="stable")[:most]
    return np.sort(enough[best])


def cut_windows(image: Array, corner: Array, side: int, reach: int) -> Array:
    """Cut ``(..., y, x)`` into ``(..., window, row, column)``, zeros beyond the edge."""
    lead = [(0, 0)] * (image.ndim - 2)
    padded = np.pad(image, [*lead, (reach, reach + side), (reach, reach + side)])
    size = side + 2 * reach
    out = np.empty((*image.shape[:-2], len(corner), size, size), image.dtype)
    for k, (r, c) in enumerate(corner):
        out[..., k, :, :] = padded[..., r : r + size, c : c + size]
    return out


def cut(t: Template, moving: Array) -> Patches:
    """Band-pass a moving image and keep what a template needs of it.

    Parameters
    ----------
    t : the reference
    moving : (band, y, x) array on the same grid, NaN = not usable; left alone
    """
    seen = features(moving)
    values, valid = (cut_windows(x, t.corner, t.side_px, t.reach_px) for x in (seen.values, seen.valid))
    return Patches(halved(seen, seen.valid), values, valid)


def moved(t: Template, patches: Patches, shift: tuple[float, float]) -> tuple[Array, Array]:
    """Shift patches: values (band, window, pixel) and where they are valid (window, pixel)."""
    (ty, fy, cy), (tx, fx, cx) = (shift_plan(delta) for delta in shift)
    side, step, h = t.side_px, t.step_px, t.reach_px
    wide = slice(h + fx, h + fx + side + len(tx) - 1)
    out = []
    for band in patches.values:
        rows = _slide([band[:, h + fy + k : h + fy + k + side : step, wide] for k in range(len(ty))], ty)
        out.append(_slide([rows[..., k : k + side] for k in range(len(tx))], tx))
    ok = np.logical_and.reduce([patches.valid[:, h + k : h + k + side : step] for k in cy])
    ok = np.logical_and.reduce([ok[..., h + k : h + k + side] for k in cx])
    values = np.stack(out).reshape(len(out), len(ok), -1)
    return values, ok.reshape(len(ok), -1) & _sunlit(values, t.bright_side)


def _sunlit(values: Array, bright_side: bool) -> Array:
    """Pixels ``(window, pixel)`` of a band-passed image that are not shadow, band mean over (band, ...)."""
    if not bright_side:
        return np.ones(values.shape[1:], bool)
    return np.asarray(values.mean(axis=0) > _DARK)


def _slide(views: list[Array], taps: Array) -> Array:
    """Weighted sum of views of one shape."""
    out = views[0] * np.float32(taps[0])
    work = np.empty_like(out)
    for view, weight in zip(views[1:], taps[1:], strict=True):
        out += np.multiply(view, np.float32(weight), out=work)
    return out


def moments(t: Template, values: Array, ok: Array, lines: Array | None) -> tuple[Array, Array]:
    """Sums of products of (moving, 1, gy, gx, reference) per band and window, and the noise per band.

    Returns ``(band, window, 5, 5)`` float64 and ``(band,)``. With gain and offset per band, pixels count by
    the weight (1 + u^2)^-2 of what these leave over (Geman and McClure); without, all count alike.
    """
    inside = t.inside & ok
    count, windows = t.parts.shape[:2]
    sums, noise = np.zeros((count, windows, 5, 5)), np.ones(count)
    for b in range(count):
        rows = np.concatenate([values[b][:, None], t.parts[b]], axis=1)
        weight = inside.astype(np.float32)
        if lines is not None:
            gain, offset = lines[b].astype(np.float32)
            left = rows[:, 0] * gain
            left += offset - rows[:, 4]
            noise[b] = _scale(left, inside)
            left *= np.float32(1 / (_SOFT * noise[b]))
            weight /= np.square(1 + np.square(left, out=left), out=left)
        weighted = rows * weight[:, None]
        sums[b] = weighted @ rows.swapaxes(-1, -2)
    return sums, noise


def _scale(left: Array, inside: Array) -> float:
    """Robust spread of residuals, from a regular sample of some thousand."""
    every = max(left.size // _SCALE_SAMPLE, 1) | 1  # odd, so that all columns of the windows have their turn
    some = np.abs(left.ravel()[::every][inside.ravel()[::every]])
    return max(1.4826 * float(np.median(some)), 1e-6) if some.size else 1.0


def _free(sums: Array) -> Array:
    """Take gain and offset out of ``(..., 5, 5)`` sums: what is left of (gy, gx, reference), (..., 3, 3)."""
    ww, w1, n = sums[..., 0, 0], sums[..., 0, 1], sums[..., 1, 1]
    det = ww * n - w1**2
    safe = np.where(det > 1e-9 * np.maximum(ww * n, 1e-30), det, np.inf)
    cross = sums[..., :2, 2:]
    a, b = cross[..., 0, :], cross[..., 1, :]
    solved_a = (n[..., None] * a - w1[..., None] * b) / safe[..., None]
    solved_b = (ww[..., None] * b - w1[..., None] * a) / safe[..., None]
    taken = a[..., :, None] * solved_a[..., None, :] + b[..., :, None] * solved_b[..., None, :]
    return np.asarray(sums[..., 2:, 2:] - taken)


def solved(free: Array) -> tuple[Array, Array, Array]:
    """Solve ``(..., 3, 3)`` sums for the step and its standard error (..., 2), and what is left (...)."""
    a, b, c = free[..., 0, 0], free[..., 0, 1], free[..., 1, 1]
    det = a * c - b**2
    solid = (a > 0) & (c > 0) & (det > 1e-6 * np.maximum(a * c, 1e-30))
    safe = np.where(solid, det, np.nan)
    p, q = free[..., 0, 2], free[..., 1, 2]
    step = -np.stack([c * p - b * q, a * q - b * p], axis=-1) / safe[..., None]
    left = free[..., 2, 2] + step[..., 0] * p + step[..., 1] * q
    sigma = np.sqrt(np.maximum(np.stack([c, a], axis=-1), 0) / safe[..., None])
    return step, sigma, left


def _lines(sums: Array, step: Array) -> Array:
    """Gain and offset per band for a step, from sums over windows ``(band, 5, 5)``."""
    lines = np.zeros((sums.shape[0], 2))
    for b, s in enumerate(sums):
        right = s[:2, 4] + s[:2, 2:4] @ step
        lines[b] = np.linalg.solve(s[:2, :2] + 1e-9 * max(np.trace(s[:2, :2]), 1e-9) * np.eye(2), right)
    return lines


def correlation(sums: Array) -> Array:
    """Correlation of moving and reference per window, bands pooled, from (band, window, 5, 5) sums."""
    n = np.maximum(sums[..., 1, 1], 1e-9)
    cov = (sums[..., 0, 4] - sums[..., 0, 1] * sums[..., 1, 4] / n).sum(axis=0)
    var_m = (sums[..., 0, 0] - sums[..., 0, 1] ** 2 / n).sum(axis=0)
    var_r = (sums[..., 4, 4] - sums[..., 1, 4] ** 2 / n).sum(axis=0)
    return np.asarray(cov / np.sqrt(np.maximum(var_m * var_r, 1e-12)))


def needed_points(lattice: int, min_tie_points: int) -> int:
    """Tie points that a shift must rest on: fewer where the image holds few windows."""
    return min(min_tie_points, max(3, lattice // 3))


def match(
    t: Template,
    moving: Patches,
    *,
    max_shift_px: float = 4.0,
    min_tie_points: int = 8,
    start: ShiftEstimate | None = None,
    judge: bool = True,
) -> ShiftEstimate:
    """Find the shift of an image to a template, and decide whether to trust it.

    Parameters
    ----------
    t : the reference
    moving : the image, as :func:`cut` gives it
    max_shift_px : longest shift that is believed, pixels; no longer than the template was made for
    min_tie_points : windows that must agree on the shift
    start : accepted estimate to start from; without it whole pixels are searched first
    judge : test the shift on held-out windows; False where it is only a step on the way
    """
    needed = needed_points(t.lattice, min_tie_points)
    if len(t.corner) < needed:
        return ShiftEstimate(why=f"stable land fills {len(t.corner)} windows; wanted {needed}")
    first = (start.dy, start.dx) if start is not None else _first_shift(t, moving, max_shift_px)
    if first is None:
        return ShiftEstimate(why=f"no match within {max_shift_px:g} px (too little in common)")
    everywhere = np.ones(len(t.corner), bool)
    settled_px = _CONVERGED_PX if judge else _ON_THE_WAY_PX
    found = refine(t, moving, Found(first, None), everywhere, max_shift_px, settled_px)
    good, residual_px = _tie_points(found)
    if good.sum() < needed:
        return ShiftEstimate(
            tie_points=int(good.sum()), why=f"{good.sum()} good tie points; wanted {needed}{_measured(found)}"
        )
    if not judge:
        return ShiftEstimate(*found.shift, residual_px, int(good.sum()), accepted=True, why="not tested")
    found = refine(t, moving, found, good, max_shift_px)
    return _judge(t, moving, found, max_shift_px, needed)


@dataclass(frozen=True)
class Found:
    """Where the iteration stands: shift, gain and offset per band, and the sums there."""

    shift: tuple[float, float]
    lines: Array | None
    step: Array = field(default_factory=lambda: np.zeros(2))
    sums: Array = field(default_factory=lambda: np.zeros((0, 0, 5, 5)))
    noise: Array = field(default_factory=lambda: np.ones(0))


def _measured(found: Found) -> str:
    """Say what shift was refused."""
    return f" (measured {found.shift[0]:+.2f}, {found.shift[1]:+.2f} px)"


def _first_shift(t: Template, moving: Patches, max_shift_px: float) -> tuple[float, float] | None:
    """Where the masked correlation peaks, None at the rim of the search or where nothing overlaps."""
    a, b, unit = t.coarse, moving.coarse, 2 if t.coarse_halved else 1
    reach = int(np.ceil(max_shift_px / unit)) + 1
    score = masked_ncc(a.values, b.values, a.valid, b.valid, max_shift_px=reach)
    if not np.isfinite(score).any():
        return None
    i, j = (int(k) for k in np.unravel_index(np.nanargmax(score), score.shape))
    if max(abs(i - reach), abs(j - reach)) >= reach:
        return None
    dy = i - reach + _vertex(score[i - 1 : i + 2, j])
    dx = j - reach + _vertex(score[i, j - 1 : j + 2])
    return dy * unit, dx * unit


def _vertex(three: Array) -> float:
    """Where a parabola through three neighbors has its top, from the middle one."""
    bend = three[0] - 2 * three[1] + three[2]
    return float(np.clip((three[0] - three[2]) / (2 * bend), -0.5, 0.5)) if bend < 0 else 0.0


def pooled(sums: Array, noise: Array) -> Array:
    """Sums without gain and offset, bands added in units of their noise: (..., 3, 3)."""
    weight = 1 / np.square(noise)
    return np.asarray(np.einsum("b...,b->...", _free(sums), weight))


def refine(
    t: Template,
    moving: Patches,
    found: Found,
    windows: Array,
    max_shift_px: float,
    settled_px: float = _CONVERGED_PX,
) -> Found:
    """Gauss-Newton steps with redescending weights on some windows."""
    for _ in range(_STEPS):
        sums, noise = moments(t, *moved(t, moving, found.shift), found.lines)
        total = sums[:, windows].sum(axis=1)
        step, _, _ = solved(pooled(total, noise))
        step = np.clip(np.nan_to_num(step), -1, 1)
        weighted = found.lines is not None
        shift = np.clip(np.add(found.shift, step), -max_shift_px - 1, max_shift_px + 1)
        found = Found((float(shift[0]), float(shift[1])), _lines(total, step), step, sums, noise)
        if weighted and np.hypot(*step) < settled_px:
            break
    return found


def _tie_points(found: Found) -> tuple[npt.NDArray[np.bool_], float]:
    """Windows that fix a shift of their own and agree on it, and their root mean square distance from it."""
    free = pooled(found.sums, found.noise)
    step, sigma, left = solved(free)
    count = np.maximum(found.sums[..., 1, 1].sum(axis=0), 1)
    unit = np.sqrt(np.maximum(left, 0) / count * CORRELATED)
    off = step - found.step
    good = np.isfinite(off).all(axis=-1) & (correlation(found.sums) >= LEAST_NCC)
    good &= np.nan_to_num(sigma * unit[:, None], nan=np.inf).max(axis=-1) <= LARGEST_SIGMA_PX
    distance = np.hypot(*np.nan_to_num(off, nan=9.0).T)
    if good.any():
        limit = max(4 * float(np.median(distance[good])), 0.1)
        good &= distance <= min(limit, 1.5 * LARGEST_RESIDUAL_PX)
    residual = float(np.sqrt(np.square(distance[good]).mean())) if good.any() else float("nan")
    return good, residual


def _judge(t: Template, moving: Patches, found: Found, max_shift_px: float, needed: int) -> ShiftEstimate:
    """Accept a shift only if it raises the similarity of windows that had no part in it."""
    good, residual_px = _tie_points(found)
    before, after = _held_out(t, moving, found, good)
    gain = after - before
    error = float(gain.std(ddof=1)) / np.sqrt(gain.size) if gain.size > 1 else float("inf")
    was, now = (float(s.mean()) if s.size else float("nan") for s in (before, after))
    kept = ShiftEstimate(*found.shift, residual_px, int(good.sum()), was, now, True, "accepted")
    why = ""
    if good.sum() < needed:
        why = f"{good.sum()} good tie points; wanted {needed}"
    elif np.hypot(*found.step) > 10 * _CONVERGED_PX:
        why = "the fit did not settle"
    elif kept.size_px > max_shift_px:
        why = f"the shift is longer than {max_shift_px:g} px"
    elif residual_px > LARGEST_RESIDUAL_PX:
        why = f"tie points disagree by {residual_px:.2f} px"
    elif kept.size_px < NEGLIGIBLE_PX and now >= LEAST_SCORE:
        return replace(kept, why="already aligned")
    elif now < LEAST_SCORE:
        why = f"contrast is too different (correlation {now:.2f}; wanted {LEAST_SCORE:g})"
    elif not gain.mean() > SIGMAS * error:
        why = f"held-out similarity does not improve ({was:.3f} to {now:.3f})"
    if why:
        return replace(kept, dy=0.0, dx=0.0, accepted=False, why=why + _measured(found))
    return kept


def _held_out(t: Template, moving: Patches, found: Found, good: Array) -> tuple[Array, Array]:
    """Correlation of good windows before and after a shift that was fitted on the other half of them."""
    numbers = np.flatnonzero(good)
    before, after = np.zeros(numbers.size), np.zeros(numbers.size)
    unmoved, there = moved(t, moving, (0.0, 0.0))
    for half in (0, 1):
        fit, check = numbers[half::2], numbers[1 - half :: 2]
        step, _, _ = solved(pooled(found.sums[:, fit].sum(axis=1), found.noise))
        off = np.nan_to_num(step) - found.step
        there_again = (found.shift[0] + float(off[0]), found.shift[1] + float(off[1]))
        shifted, here = moved(t, moving, there_again)
        for values, scores in ((unmoved, before), (shifted, after)):
            sums, _ = moments(t, values, here & there, None)
            scores[1 - half :: 2] = correlation(sums)[check]
    return before, after
