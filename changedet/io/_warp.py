"""Resampling of one grid's pixels at another grid's, NaN-safe, the same for any window.

Positions come from absolute pixel numbers, so that a window holds exactly what the same window of the whole
would hold. Two grids of one CRS and orientation are resampled axis by axis; else every pixel has its own
position.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from changedet.grid import TOLERANCE_PX, Grid, Window

Kernel = Literal["bilinear", "cubic", "average"]
Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.uint8]
Read = Callable[[Window], tuple[Floats, Flags]]
"""Reads a window of the source: (band, y, x) float32 with NaN, and (y, x) uint8 flags."""

COARSENING = 1.5
"""From this ratio of pixel sizes on, source pixels are averaged; below it a cubic kernel is used."""

_LATTICE_PX = 16
_SUPPORT = {"bilinear": 1, "cubic": 2, "average": 0}


@dataclass(frozen=True)
class Positions:
    """Source positions of target pixels, in source pixels (0 = center of the first).

    Parameters
    ----------
    rows, columns : float64, ``(h, 1)`` and ``(1, w)`` where the axes are separate, else both ``(h, w)``
    step : source pixels a target pixel is wide (row, column)
    """

    rows: npt.NDArray[np.float64]
    columns: npt.NDArray[np.float64]
    step: tuple[float, float]

    @property
    def separate(self) -> bool:
        """True where rows do not depend on columns, nor columns on rows."""
        return bool(self.rows.shape[1] == 1 and self.columns.shape[0] == 1)


def positions(source: Grid, target: Grid, window: Window) -> Positions:
    """Return where the pixels of a target window lie in the source (the window may reach over the edge)."""
    rows = np.arange(window[0].start, window[0].stop, dtype=np.float64)[:, None] + 0.5
    columns = np.arange(window[1].start, window[1].stop, dtype=np.float64)[None, :] + 0.5
    if source.geobox.crs != target.geobox.crs:
        return _across_crs(source, target, window)
    m = ~source.transform @ target.transform
    step = (float(np.hypot(m.d, m.e)), float(np.hypot(m.a, m.b)))
    if abs(m.b) + abs(m.d) < 1e-9:
        return Positions(m.e * rows + m.f - 0.5, m.a * columns + m.c - 0.5, step)
    shape = (rows.size, columns.size)
    return Positions(
        np.broadcast_to(m.d * columns + m.e * rows + m.f - 0.5, shape),
        np.broadcast_to(m.a * columns + m.b * rows + m.c - 0.5, shape),
        step,
    )


def _across_crs(source: Grid, target: Grid, window: Window) -> Positions:
    """Positions through a coordinate transformation, exact on a lattice and bilinear between its nodes."""
    from pyproj import Transformer

    transformer = Transformer.from_crs(target.crs, source.crs, always_xy=True)
    rows, fr = _nodes(window[0])
    columns, fc = _nodes(window[1])
    x, y = target.transform @ (columns[None, :] + 0 * rows[:, None], rows[:, None] + 0 * columns[None, :])
    sx, sy = transformer.transform(x, y)
    c, r = ~source.transform @ (np.asarray(sx), np.asarray(sy))
    step = (_spacing(r, c, axis=0), _spacing(r, c, axis=1))
    return Positions(_between(r, fr, fc) - 0.5, _between(c, fr, fc) - 0.5, step)


def _nodes(part: slice) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return lattice nodes that hold a range of pixels, and the pixel centers in lattice units."""
    first = part.start // _LATTICE_PX
    last = -(-part.stop // _LATTICE_PX)
    nodes = np.arange(first, last + 1, dtype=np.float64) * _LATTICE_PX
    centers = (np.arange(part.start, part.stop) + 0.5) / _LATTICE_PX - first
    return nodes, centers


def _between(
    values: npt.NDArray[np.float64], rows: npt.NDArray[np.float64], columns: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Interpolate a lattice bilinearly at fractional rows and columns."""
    r, c = rows.astype(int), columns.astype(int)
    fr, fc = (rows - r)[:, None], (columns - c)[None, :]
    top = values[r][:, c] * (1 - fc) + values[r][:, c + 1] * fc
    low = values[r + 1][:, c] * (1 - fc) + values[r + 1][:, c + 1] * fc
    return np.asarray(top * (1 - fr) + low * fr, np.float64)


def _spacing(rows: npt.NDArray[np.float64], columns: npt.NDArray[np.float64], *, axis: int) -> float:
    """Return source pixels per target pixel along one axis of a lattice."""
    length = np.hypot(np.diff(rows, axis=axis), np.diff(columns, axis=axis))
    return float(np.nanmedian(length)) / _LATTICE_PX if length.size else 1.0


def choose(source: Grid, target: Grid) -> Kernel:
    """Return ``average`` where the target is coarser by :data:`COARSENING`, else ``cubic``."""
    rows, columns = target.shape
    middle = (slice(rows // 2, rows // 2 + 1), slice(columns // 2, columns // 2 + 1))
    return "average" if max(positions(source, target, middle).step) >= COARSENING else "cubic"


def resample(
    read: Read, source: Grid, target: Grid, window: Window, *, kernel: Kernel, bands: int
) -> tuple[Floats, Flags]:
    """Resample the source onto a window of the target.

    Parameters
    ----------
    read : reads a window of the source
    source, target : grids
    window : rows and columns of the target
    kernel : ``bilinear``, ``cubic`` (Catmull-Rom) or ``average``
    bands : number of bands that ``read`` returns

    Returns
    -------
    (band, y, x) float32, NaN outside the source, where the nearest source pixel is NaN, and where less than
    half of the kernel's weight falls on finite pixels; and (y, x) uint8 flags of the nearest source pixel,
    255 outside the source
    """
    where = positions(source, target, window)
    height, width = (s.stop - s.start for s in window)
    span = _source_window(where, source.shape, kernel)
    if span is None:
        return np.full((bands, height, width), np.nan, np.float32), np.full((height, width), 255, np.uint8)
    values, flags = read(span)
    nearest, inside = _nearest(where, source.shape, span)
    out = _interpolate(values, where, span, kernel)
    near_values = values[:, nearest[0], nearest[1]]
    out[~(np.isfinite(near_values) & inside)] = np.nan
    near_flags = np.where(inside, flags[nearest], np.uint8(255))
    return out, near_flags.astype(np.uint8)


def _source_window(where: Positions, shape: tuple[int, int], kernel: Kernel) -> Window | None:
    """Return the source window that a kernel needs, None where it lies outside the source."""
    parts = []
    for values, step, size in zip((where.rows, where.columns), where.step, shape, strict=True):
        if not np.isfinite(values).any():
            return None
        margin = _SUPPORT[kernel] + (step if kernel == "average" else 0) + 1
        start = max(int(np.floor(np.nanmin(values) - margin)), 0)
        stop = min(int(np.ceil(np.nanmax(values) + margin)) + 1, size)
        if start >= stop:
            return None
        parts.append(slice(start, stop))
    return parts[0], parts[1]


def _nearest(
    where: Positions, shape: tuple[int, int], span: Window
) -> tuple[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]], npt.NDArray[np.bool_]]:
    """Return indexes (in the span) of the nearest source pixels, and where the position is inside."""
    out, inside = [], np.ones((1, 1), bool)
    for values, size, part in zip((where.rows, where.columns), shape, span, strict=True):
        # a center on the very edge is half outside: it counts as outside, whatever the rounding
        good = (values >= -0.5 + TOLERANCE_PX) & (values <= size - 0.5 - TOLERANCE_PX)
        safe = np.where(good, values, part.start)
        index = np.clip(np.floor(safe + 0.5), part.start, part.stop - 1) - part.start
        out.append(index.astype(np.intp))
        inside = inside & good
    rows, columns = np.broadcast_arrays(*out)
    return (rows, columns), np.broadcast_to(inside, rows.shape)


def _interpolate(values: Floats, where: Positions, span: Window, kernel: Kernel) -> Floats:
    """Weighted mean of the finite source pixels under the kernel; NaN below half of its weight."""
    good = np.isfinite(values)
    filled = np.where(good, values, np.float32(0))
    weight = good.astype(np.float32)
    passes = _two_pass if where.separate else _gather
    total, share = (passes(x, where, span, kernel) for x in (filled, weight))
    with np.errstate(divide="ignore", invalid="ignore"):
        out = total / share
    out[share < 0.5] = np.nan
    return np.asarray(out, np.float32)


def _taps(
    at: npt.NDArray[np.float64], step: float, span: slice, kernel: Kernel
) -> list[tuple[npt.NDArray[np.intp], Floats]]:
    """Return (index in the span, weight) of every tap; a tap outside the source weighs nothing."""
    if kernel == "average":
        taps = _overlaps(at, step)
    else:
        base = np.floor(at)
        offsets = (0, 1) if kernel == "bilinear" else (-1, 0, 1, 2)
        weigh = _linear if kernel == "bilinear" else _catmull_rom
        taps = [(base + k, weigh(np.abs(at - base - k))) for k in offsets]
    out = []
    for index, weight in taps:
        inside = (index >= span.start) & (index < span.stop)
        safe = np.where(inside, index - span.start, 0).astype(np.intp)
        out.append((safe, np.where(inside, weight, 0).astype(np.float32)))
    return out


def _overlaps(at: npt.NDArray[np.float64], step: float) -> list[tuple[Any, Any]]:
    """Taps of an area average: the share of the target pixel that each source pixel covers."""
    low, high = at + 0.5 - step / 2, at + 0.5 + step / 2
    first = np.floor(low + 1e-9)
    count = int(np.ceil(step)) + 1
    taps = []
    for k in range(count):
        edge = first + k
        covered = np.clip(np.minimum(high, edge + 1) - np.maximum(low, edge), 0, None) / step
        taps.append((edge, covered))
    return taps


def _linear(distance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Bilinear weight."""
    return np.clip(1 - distance, 0, None)


def _catmull_rom(distance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Cubic convolution with a = -1/2 (Keys 1981, doi:10.1109/TASSP.1981.1163711)."""
    d = distance
    near = (1.5 * d - 2.5) * d * d + 1
    far = ((-0.5 * d + 2.5) * d - 4) * d + 2
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def _two_pass(values: Floats, where: Positions, span: Window, kernel: Kernel) -> Floats:
    """Filter along columns, then along rows."""
    across = np.zeros((*values.shape[:2], where.columns.shape[1]), np.float32)
    for index, weight in _taps(where.columns[0], where.step[1], span[1], kernel):
        across += weight * values[:, :, index]
    out = np.zeros((values.shape[0], where.rows.shape[0], across.shape[2]), np.float32)
    for index, weight in _taps(where.rows[:, 0], where.step[0], span[0], kernel):
        out += weight[:, None] * across[:, index, :]
    return out


def _gather(values: Floats, where: Positions, span: Window, kernel: Kernel) -> Floats:
    """Filter at free positions: the product of both axes' taps."""
    finite = np.isfinite(where.rows) & np.isfinite(where.columns)
    rows, columns = (np.where(finite, x, -9.0) for x in (where.rows, where.columns))
    out = np.zeros((values.shape[0], *rows.shape), np.float32)
    across = _taps(columns, where.step[1], span[1], kernel)
    for row, row_weight in _taps(rows, where.step[0], span[0], kernel):
        for column, weight in across:
            out += (row_weight * weight) * values[:, row, column]
    return out


def dilate(flags: Flags) -> Flags:
    """Spread flags by one pixel in all eight directions."""
    padded = np.pad(flags, 1)
    height, width = flags.shape
    out = np.zeros_like(flags)
    for r in range(3):
        for c in range(3):
            out |= padded[r : r + height, c : c + width]
    return out
