"""How work meets chunks: pixelwise, windowed with a halo, and reductions.

Kernels know nothing of chunks or dask; this module is the only one that does. NumPy in, NumPy out; dask in,
dask out, with graph names that depend on the input alone. Eager work is cut into windows too, so that the
working set fits the cache and threads can share it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from changedet.grid import Window

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Tile:
    """A window to compute and the larger window to read for it.

    Parameters
    ----------
    inner : window of the result
    outer : the same window with its halo, cut at the image's edge
    """

    inner: Window
    outer: Window

    @property
    def trim(self) -> Window:
        """Slices that cut the halo off a result computed on ``outer``."""
        (ir, ic), (outer_r, outer_c) = self.inner, self.outer
        return (
            slice(ir.start - outer_r.start, ir.stop - outer_r.start),
            slice(ic.start - outer_c.start, ic.stop - outer_c.start),
        )


def windows(shape: tuple[int, int], size_px: int | tuple[int, int], *, halo_px: int = 0) -> Iterator[Tile]:
    """Cut an image into tiles, row by row.

    Parameters
    ----------
    shape : (rows, columns)
    size_px : side of a tile, or (rows, columns) of it
    halo_px : pixels to read beyond each side

    Yields
    ------
    Tile
    """
    height, width = (size_px, size_px) if isinstance(size_px, int) else size_px
    rows, columns = shape
    for r in range(0, rows, height):
        for c in range(0, columns, width):
            r1, c1 = min(r + height, rows), min(c + width, columns)
            outer = (
                slice(max(r - halo_px, 0), min(r1 + halo_px, rows)),
                slice(max(c - halo_px, 0), min(c1 + halo_px, columns)),
            )
            yield Tile((slice(r, r1), slice(c, c1)), outer)


def map_tiles(
    work: Callable[[Tile], Any],
    tiles: list[Tile],
    *,
    threads: int = 1,
    tick: Callable[[int], None] | None = None,
) -> list[Any]:
    """Run ``work`` on every tile and return the results in the order of the tiles.

    Parameters
    ----------
    work : function of one tile
    tiles : what to work on
    threads : threads to share the work (NumPy releases the GIL in its loops)
    tick : called with 1 after each tile
    """
    results = []
    if threads <= 1:
        for tile in tiles:
            results.append(work(tile))
            if tick is not None:
                tick(1)
        return results
    with ThreadPoolExecutor(threads) as pool:
        for result in pool.map(work, tiles):
            results.append(result)
            if tick is not None:
                tick(1)
    return results


def is_lazy(image: xr.DataArray) -> bool:
    """Return True where the data are a dask array."""
    return image.chunks is not None


def from_reader(
    read: Callable[[Window], Array], shape: tuple[int, ...], *, dtype: Any, chunk_px: int, token: str
) -> Any:
    """Return a dask array that reads spatial windows when they are needed.

    Parameters
    ----------
    read : returns ``(..., y, x)`` of a window of the last two axes; work is sent as windows, not as arrays
    shape : shape of the whole array; the leading axes are never cut
    dtype : dtype of the result
    chunk_px : side of a chunk
    token : name that depends on the inputs alone
    """
    import dask.array as da

    lead = shape[:-2]
    chunks = tuple((n,) for n in lead) + da.core.normalize_chunks(
        (chunk_px, chunk_px), shape=shape[-2:], dtype=dtype
    )
    return da.map_blocks(
        partial(_read_block, read),
        chunks=chunks,
        dtype=dtype,
        name=f"read-{token}",
        meta=np.empty((0,) * len(shape), dtype),
    )


def _read_block(read: Callable[[Window], Array], block_info: Any = None) -> Array:
    """Read the window that a dask block stands for."""
    (r0, r1), (c0, c1) = block_info[None]["array-location"][-2:]
    return read((slice(r0, r1), slice(c0, c1)))


@dataclass(frozen=True)
class Pixelwise:
    """Each output pixel needs the same pixel of every input.

    Parameters
    ----------
    kernel : ``(before, after, **params)`` of ``(band, y, x)`` arrays → ``(y, x)`` float32
    unit : unit of the result
    """

    kernel: Callable[..., Array]
    unit: str = "1"
    halo_px: int = 0


@dataclass(frozen=True)
class Reduction:
    """A statistic of a whole image, said once: chunk(block), combine(a, b), finalise(total).

    Parameters
    ----------
    chunk : state of one block
    combine : merges two states; associative
    finalise : result of the total state
    """

    chunk: Callable[..., Any]
    combine: Callable[[Any, Any], Any]
    finalise: Callable[[Any], Any]
