"""Moving an image by a shift that differs from pixel to pixel, once, in two passes of one-dimensional taps.

The taps are those of :func:`~changedet.steps._resample.apply_shift`, at fractions of a 1024th of a pixel.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from changedet.grid import Window
from changedet.steps._resample import CORE_PX, REACH_PX, cubic_taps

Array = npt.NDArray[Any]

_FRACTIONS = 1024
_TAPS = range(1 - REACH_PX, REACH_PX + 1)
_CORE = range(1 - CORE_PX, CORE_PX + 1)


@dataclass(frozen=True)
class Field:
    """A shift that differs from place to place, linear between nodes.

    Parameters
    ----------
    rows, columns : (m,) and (n,) places of the nodes, pixels of the raster, ascending
    shift : (2, m, n) dy and dx to apply to the moving image there, pixels
    """

    rows: Array
    columns: Array
    shift: Array

    @property
    def largest_px(self) -> float:
        """Longest shift anywhere, pixels."""
        return float(np.hypot(*self.shift).max())

    @property
    def reach_px(self) -> int:
        """Longest shift along an axis, in whole pixels."""
        return int(np.ceil(np.abs(self.shift).max()))

    @property
    def mean(self) -> tuple[float, float]:
        """Mean dy and dx."""
        return float(self.shift[0].mean()), float(self.shift[1].mean())

    def component(self, axis: int, window: Window) -> npt.NDArray[np.float32]:
        """Return dy (axis 0) or dx (axis 1) at the pixels of a window of the raster, (y, x)."""
        rows, columns = (np.arange(part.start, part.stop, dtype=np.float64) for part in window)
        i, down = _between(self.rows, rows)
        j, across = _between(self.columns, columns)
        values = self.shift[axis]
        lines = values[i] * (1 - down[:, None]) + values[i + 1] * down[:, None]
        return np.asarray(lines[:, j] * (1 - across) + lines[:, j + 1] * across, np.float32)

    def at(self, row: Array, column: Array) -> npt.NDArray[np.float64]:
        """Return dy and dx at places (n,) of the raster, (n, 2)."""
        i, down = _between(self.rows, row)
        j, across = _between(self.columns, column)
        parts = [
            (self.shift[:, i, j] * (1 - down) + self.shift[:, i + 1, j] * down) * (1 - across),
            (self.shift[:, i, j + 1] * (1 - down) + self.shift[:, i + 1, j + 1] * down) * across,
        ]
        return np.asarray((parts[0] + parts[1]).T)


def _between(nodes: Array, at: Array) -> tuple[Array, Array]:
    """Number of the node before each place, and how far on the way to the next it is."""
    i = np.clip(np.searchsorted(nodes, at, side="right") - 1, 0, len(nodes) - 2)
    return i, (at - nodes[i]) / (nodes[i + 1] - nodes[i])


@functools.cache
def _table() -> npt.NDArray[np.float32]:
    """Taps by fraction, (tap, fraction)."""
    made = np.array([cubic_taps(k / _FRACTIONS) for k in range(_FRACTIONS)])
    made[0] = (np.array(_TAPS) == 0).astype(float)
    return np.ascontiguousarray(made.T, np.float32)


@dataclass(frozen=True)
class _Pass:
    """Where the pixels of one pass come from.

    Parameters
    ----------
    axis : 0 along y, 1 along x
    first : (y, x) flat index, in the padded image, of the pixel at or before the place
    fraction : (y, x) how far beyond it, in units of :data:`_FRACTIONS`
    stride : distance of neighbors along the axis in the flat image
    reach : pixels that are added at both ends of the axis
    """

    axis: int
    first: Array
    fraction: Array
    stride: int
    reach: int

    def padded(self, image: Array) -> Array:
        """Return an image, flat, with zeros at both ends of the axis."""
        pad = [(0, 0), (0, 0)]
        pad[self.axis] = (self.reach, self.reach)
        return np.pad(image, pad).ravel()


def _plan(delta: Array, axis: int) -> _Pass:
    """Plan a pass that moves every pixel by its own ``delta`` (y, x) along an axis."""
    steps = np.rint(delta * np.float32(-_FRACTIONS)).astype(np.intp)
    whole, fraction = steps // _FRACTIONS, steps % _FRACTIONS
    height, width = delta.shape
    reach = int(np.abs(whole).max(initial=0)) + REACH_PX + 1
    rows, columns = np.arange(height)[:, None], np.arange(width)
    if axis == 0:
        return _Pass(0, (rows + reach + whole) * width + columns, fraction, width, reach)
    return _Pass(1, rows * (width + 2 * reach) + columns + reach + whole, fraction, 1, reach)


def _filtered(plan: _Pass, values: Array) -> Array:
    """Interpolate (y, x) float32."""
    return _summed(plan.padded(values), plan.first, plan.fraction, plan.stride)


def _summed(source: Array, first: Array, fraction: Array, stride: int) -> Array:
    """Weighted sums of neighbors in a flat image."""
    out, product, weight = (np.zeros(first.shape, np.float32) for _ in range(3))
    at = first + _TAPS.start * stride
    for taps in _table():  # indices are within bounds: "clip" only spares the check
        taps.take(fraction, out=weight, mode="clip")
        source.take(at, out=product, mode="clip")
        product *= weight
        out += product
        at += stride
    return out


def _all_of(plan: _Pass, valid: Array, reach: range) -> npt.NDArray[np.bool_]:
    """True where all pixels of a reach are valid; at whole pixels, the one."""
    missing = ~valid
    source = plan.padded(missing).reshape(
        -1, plan.stride if plan.axis == 0 else valid.shape[1] + 2 * plan.reach
    )
    # beyond the edge all is missing
    if plan.axis == 0:
        source[: plan.reach] = source[-plan.reach :] = True
    else:
        source[:, : plan.reach] = source[:, -plan.reach :] = True
    run = np.cumsum(source, axis=plan.axis, dtype=np.int32).ravel()
    between = plan.fraction > 0
    low = plan.first + np.where(between, reach.start - 1, -1) * plan.stride
    high = plan.first + np.where(between, reach.stop - 1, 0) * plan.stride
    return np.asarray(run.take(low, mode="clip") == run.take(high, mode="clip"))


def _present(down: _Pass, across: _Pass, finite: Array, at: Array) -> Array:
    """Sum of the weights of valid pixels, at some pixels (n,) given by their flat indices."""
    source = down.padded(finite.astype(np.float32))
    width = finite.shape[1]
    fraction, first = across.fraction.ravel()[at], across.first.ravel()[at]
    total = np.zeros(at.shape, np.float32)
    for row, k in enumerate(_TAPS):
        line, column = np.divmod(first + k, width + 2 * across.reach)
        column -= across.reach
        there = line * width + np.clip(column, 0, width - 1)
        part = _summed(source, down.first.ravel()[there], down.fraction.ravel()[there], down.stride)
        total += _table()[row].take(fraction) * np.where(
            (column >= 0) & (column < width), part, np.float32(0)
        )
    return total


def _passes(dy: Array, dx: Array) -> tuple[_Pass, _Pass]:
    """Plan the pass along y, then that along x: the first must know where the second will fetch from."""
    height, width = dx.shape
    column = np.clip(np.arange(width) + np.rint(dx).astype(np.int64), 0, width - 1)
    return _plan(dy[np.arange(height)[:, None], column], 0), _plan(dx, 1)


def apply_field(image: Array, dy: Array, dx: Array) -> npt.NDArray[np.float32]:
    """Move every pixel of an image by its own part of a pixel.

    Parameters
    ----------
    image : (y, x) array, NaN = not usable; left alone
    dy, dx : (y, x) shift, pixels, smooth; the result at a pixel is the image at that pixel less its shift

    Returns
    -------
    (y, x) float32, NaN where the kernel meets invalid pixels or the edge, see
    :func:`~changedet.steps._resample.apply_shift`
    """
    finite = np.isfinite(image)
    filled = np.where(finite, image, np.float32(0)).astype(np.float32, copy=False)
    down, across = _passes(dy, dx)
    out = _filtered(across, _filtered(down, filled))
    usable = _all_of(across, _all_of(down, finite, _CORE), _CORE)
    whole = _all_of(across, _all_of(down, finite, _TAPS), _TAPS)
    some = np.flatnonzero(usable & ~whole)
    out.ravel()[some] /= _present(down, across, finite, some)  # missing pixels leave theirs to the others
    out[~usable] = np.nan
    return out


def field_valid(valid: Array, dy: Array, dx: Array) -> npt.NDArray[np.bool_]:
    """Move a mask as :func:`apply_field` does: True where all pixels that carry the value are valid."""
    down, across = _passes(dy, dx)
    return _all_of(across, _all_of(down, np.asarray(valid, bool), _CORE), _CORE)


def field_nearest(values: Array, dy: Array, dx: Array) -> Array:
    """Move (y, x) values to the nearest pixel; zero comes in from beyond the edge."""
    down, across = _passes(np.rint(dy), np.rint(dx))
    moved = down.padded(values).take(down.first)
    return np.asarray(across.padded(moved).take(across.first))
