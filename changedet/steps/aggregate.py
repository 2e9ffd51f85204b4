"""Half-metre imagery is worked on at the size of what is looked for: pixels are averaged in whole blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from affine import Affine

from changedet.grid import Grid
from changedet.scenes import make_stack

Array = npt.NDArray[Any]


def block_size(gsd_m: float, *, work_gsd_m: float = 1.2) -> int:
    """Return how many pixels a block is wide: as many as fit into the pixel size to work at, at least one.

    Parameters
    ----------
    gsd_m : pixel size
    work_gsd_m : the smallest structure that is looked for is about 3 m wide; smaller pixels than this add
    noise,
        parallax and shadow, not evidence

    >>> block_size(0.6), block_size(3.0)
    (2, 1)
    """
    return max(int(work_gsd_m / gsd_m + 1e-6), 1)


def aggregate(stack: xr.Dataset, size: int) -> xr.Dataset:
    """Average a stack over blocks of ``size`` × ``size`` pixels; what fills no block is left out.

    Parameters
    ----------
    stack : ``image`` (time, band, y, x) and ``quality``
    size : pixels along a side of a block; 1 returns the stack itself

    Returns
    -------
    Dataset on the coarser grid, NaN where less than half of a block is usable; flags are joined; coordinates
    along time are kept
    """
    if size == 1:
        return stack
    times, bands, rows, columns = stack.image.shape
    height, width = rows // size, columns // size
    image = np.full((times, bands, height, width), np.nan, np.float32)
    quality = np.zeros((times, height, width), np.uint8)
    for t in range(times):  # a date at a time bounds the memory
        blocks = stack.image[t].values[:, : height * size, : width * size]
        blocks = blocks.reshape(bands, height, size, width, size)
        known = np.isfinite(blocks)
        count = known.sum(axis=(2, 4))
        total = np.where(known, blocks, 0).sum(axis=(2, 4), dtype=np.float64)
        image[t] = np.where(count >= size * size / 2, total / np.maximum(count, 1), np.nan)
        flags = stack.quality[t].values[: height * size, : width * size].reshape(height, size, width, size)
        flags = np.where(known[0] | ~np.isfinite(image[t, 0])[:, None, :, None], flags, 0)
        quality[t] = np.bitwise_or.reduce(np.bitwise_or.reduce(flags, axis=3), axis=1)
    return labelled(stack, size, image, quality)


def labelled(stack: xr.Dataset, size: int, image: Any, quality: Any) -> xr.Dataset:
    """Give averages their grid, and the coordinates that a stack has along time.

    Parameters
    ----------
    stack, size : what was averaged, over blocks of how many pixels along a side
    image, quality : (time, band, y, x) and (time, y, x)
    """
    fine = Grid.of(stack)
    shape = (stack.sizes["y"] // size, stack.sizes["x"] // size)
    grid = Grid.make(fine.crs, fine.transform @ Affine.scale(size), shape)
    names = tuple(map(str, stack.band.values))
    out = make_stack(image, grid, dates=stack.time.values, bands=names, quality=quality)
    along = {
        k: v for k, v in stack.coords.items() if v.dims and v.dims[0] == "time" and k not in ("time", "gsd_m")
    }
    return out.assign_coords(along)


def expand(values: Array, size: int, shape: tuple[int, int], *, fill: float = 0) -> Array:
    """Bring an image (…, y, x) of blocks back to pixels of an image of ``shape``; the rest is ``fill``."""
    if size == 1:
        return values
    full = np.full((*values.shape[:-2], *shape), fill, values.dtype)
    grown = values.repeat(size, axis=-2).repeat(size, axis=-1)
    full[..., : grown.shape[-2], : grown.shape[-1]] = grown
    return full
