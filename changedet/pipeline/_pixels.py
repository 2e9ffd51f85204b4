"""Windows of pixels, again and again, from a stack that may not be held in memory."""

from __future__ import annotations

from collections import OrderedDict
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from changedet.grid import Window

Array = npt.NDArray[Any]

TILE_PX = 256
KEPT_BYTES = 200_000_000


class Pixels:
    """Reads windows of an image; of one that is not in memory it keeps the tiles it has read lately.

    Parameters
    ----------
    values : (…, y, x)
    tile_px : side of the tiles
    kept_bytes : bound of what is kept
    """

    def __init__(self, values: xr.DataArray, *, tile_px: int = TILE_PX, kept_bytes: int = KEPT_BYTES) -> None:
        self.values, self.tile_px = values, tile_px
        self.lazy = values.chunks is not None
        each = values.dtype.itemsize * int(np.prod(values.shape[:-2])) * tile_px**2
        self.most = max(kept_bytes // max(each, 1), 4)
        self.kept: OrderedDict[tuple[int, int], Array] = OrderedDict()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole image."""
        return tuple(self.values.shape)

    def read(self, window: Window) -> Array:
        """Return a window (…, y, x); it may be the image's own memory."""
        if not self.lazy:  # a third of the time of ``isel``
            return np.asarray(self.values.variable[(..., *window)].values)
        size = tuple(s.stop - s.start for s in window)
        out = np.empty((*self.shape[:-2], *size), self.values.dtype)
        for i, j in product(
            *(range(s.start // self.tile_px, (s.stop - 1) // self.tile_px + 1) for s in window)
        ):
            tile = self._tile(i, j)
            rows = overlap(window[0], i * self.tile_px, tile.shape[-2])
            columns = overlap(window[1], j * self.tile_px, tile.shape[-1])
            out[..., rows[0], columns[0]] = tile[..., rows[1], columns[1]]
        return out

    def _tile(self, i: int, j: int) -> Array:
        """Return a tile, read where it is not kept."""
        if (i, j) in self.kept:
            self.kept.move_to_end((i, j))
            return self.kept[i, j]
        rows, columns = (slice(k * self.tile_px, (k + 1) * self.tile_px) for k in (i, j))
        tile = np.asarray(self.values.variable[..., rows, columns].values)
        self.kept[i, j] = tile
        if len(self.kept) > self.most:
            self.kept.popitem(last=False)
        return tile

    def sample(self, count: int, *, tiles: int = 3) -> Array:
        """Return about ``count`` pixels, (…, pixel), regularly from up to ``tiles``² tiles spread evenly."""
        parts = []
        picks = [np.unique(np.linspace(0, (n - 1) // self.tile_px, tiles).round()) for n in self.shape[-2:]]
        step = max(int(np.sqrt(len(picks[0]) * len(picks[1]) * self.tile_px**2 / count)), 1)
        step = min(step, max(int(np.sqrt(self.shape[-2] * self.shape[-1] / count)), 1))
        for i in picks[0].astype(int):
            for j in picks[1].astype(int):
                ends = (
                    slice(k * self.tile_px, min((k + 1) * self.tile_px, n))
                    for k, n in zip((i, j), self.shape[-2:], strict=True)
                )
                part = self.read((next(ends), next(ends)))[..., ::step, ::step]
                parts.append(part.reshape(*part.shape[:-2], -1))
        return np.concatenate(parts, axis=-1)


def overlap(wanted: slice, low: int, size: int) -> tuple[slice, slice]:
    """Return the part of a wanted range that a tile covers: as seen from the range, and from the tile."""
    first, last = max(wanted.start, low), min(wanted.stop, low + size)
    return slice(first - wanted.start, last - wanted.start), slice(first - low, last - low)
