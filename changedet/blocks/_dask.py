"""Kernels and labels on dask arrays: the graphs behind :mod:`changedet.blocks`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from changedet.blocks._tiles import (
    Array,
    at_least,
    label_array,
    map_strips,
    merge_labels,
    spatial,
    summarize_labels,
)


def map_lazy(run: Callable[..., Array], halo_px: int, arrays: list[Any], lead: tuple[int, ...]) -> Any:
    """Build the dask graph of a kernel, with overlapping blocks where it has a halo."""
    import dask.array as da

    shape = spatial(arrays)
    chunks = next(a for a in arrays if hasattr(a, "dask") and a.shape[-2:] == shape).chunks[-2:]
    ys, xs = (at_least(c, halo_px) for c in chunks)
    depth = {0: 0, 1: halo_px if len(ys) > 1 else 0, 2: halo_px if len(xs) > 1 else 0}
    blocks = []
    for array in map(da.asarray, arrays):
        if array.shape[-2:] == shape:
            array = array.rechunk({0: -1, 1: ys, 2: xs})
            array = da.overlap.overlap(array, depth, boundary="none") if halo_px else array
        blocks.append(array.rechunk({0: -1}))
    return da.map_blocks(
        partial(_lazy_block, run, halo_px, (depth[1], depth[2]), (len(ys), len(xs)), lead),
        *blocks,
        drop_axis=() if lead else 0,
        chunks=(*((n,) for n in lead), ys, xs),
        dtype=np.float32,
        meta=np.empty((0,) * (len(lead) + 2), np.float32),
    )


def _lazy_block(
    run: Callable[..., Array],
    halo_px: int,
    depth: tuple[int, int],
    count: tuple[int, int],
    lead: tuple[int, ...],
    *blocks: Array,
    block_id: tuple[int, ...] = (0, 0),
) -> Array:
    """Run a kernel on one haloed block and trim the sides that have a halo."""
    result = map_strips(run, halo_px, 1, list(blocks), lead)
    trim = tuple(
        slice(d if i > 0 else 0, size - d if i < n - 1 else size)
        for i, n, d, size in zip(block_id[-2:], count, depth, result.shape[-2:], strict=True)
    )
    return np.asarray(result[..., trim[0], trim[1]])


def label_lazy(mask: Any, seeds: Any, connectivity: int) -> tuple[Any, Any]:
    """Label block by block, join the blocks across their borders, renumber."""
    import dask
    import dask.array as da

    pure = partial(dask.delayed, pure=True)
    blocks = da.map_blocks(_label_block, mask, connectivity, dtype=np.int32).to_delayed(optimize_graph=False)
    marks = np.full(blocks.shape, None) if seeds is None else seeds.to_delayed(optimize_graph=False)
    ys, xs = (np.concatenate([[0], np.cumsum(c)[:-1]]).tolist() for c in mask.chunks)
    count_i, count_j = map(range, blocks.shape)
    tables = pure(merge_labels)(
        [
            [pure(summarize_labels)(blocks[i, j], marks[i, j], (ys[i], xs[j])) for j in count_j]
            for i in count_i
        ],
        connectivity,
    )

    def renumbered(i: int, j: int) -> Any:
        shape = (mask.chunks[0][i], mask.chunks[1][j])
        return da.from_delayed(pure(_relabel)(blocks[i, j], tables, i, j), shape, dtype=np.int32)

    number = da.from_delayed(pure(_number)(tables), (), dtype=np.int64)
    return da.block([[renumbered(i, j) for j in count_j] for i in count_i]), number


def _label_block(mask: Array, connectivity: int) -> Array:
    """Label one block by itself."""
    return label_array(mask, connectivity)[0]


def _relabel(labels: Array, tables: list[list[Array]], i: int, j: int) -> Array:
    """Look up the image's label of every pixel of block ``(i, j)``."""
    return np.asarray(tables[i][j][labels])


def _number(tables: list[list[Array]]) -> Array:
    """Return the number of labels in the image."""
    return np.asarray(max(int(t.max()) for row in tables for t in row), np.int64)
