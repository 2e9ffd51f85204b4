"""Tiles, strips and labels on plain arrays: the part of :mod:`changedet.blocks` that knows no dask."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from changedet.errors import SettingError
from changedet.grid import Window

Array = npt.NDArray[Any]

STRIP_BYTES = 1 << 20
"""Input bytes of one strip of eager work: with the kernel's temporaries it stays in the level-2 cache."""


LABEL_PX = 1 << 22
"""Pixels of a strip of a large mask that are labelled at one time."""


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

    Returns
    -------
    iterator of Tile

    Raises
    ------
    SettingError
        The size is below 1 or the halo below 0.
    """
    height, width = (size_px, size_px) if isinstance(size_px, int) else size_px
    if height < 1 or width < 1 or halo_px < 0:
        raise SettingError(
            f"tiles of {height} × {width} px with a halo of {halo_px} px; wanted sides of at least 1 px and "
            "a halo of at least 0; give a larger size"
        )
    return _cut(shape, (height, width), halo_px)


def _cut(shape: tuple[int, int], size: tuple[int, int], halo_px: int) -> Iterator[Tile]:
    """Yield the tiles of checked sizes."""
    (rows, columns), (height, width) = shape, size
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
    tiles: Iterable[Tile],
    *,
    threads: int = 1,
    tick: Callable[[int], None] | None = None,
) -> list[Any]:
    """Run ``work`` on every tile and return the results in the order of the tiles.

    The first failure (or Ctrl-C) is raised as soon as the tiles in work are done; the rest are not begun.

    Parameters
    ----------
    work : function of one tile
    tiles : what to work on
    threads : threads to share the work (NumPy releases the GIL in its loops)
    tick : called with 1 after each tile
    """
    tiles = list(tiles)
    if threads <= 1 or len(tiles) < 2:
        return list(_ticked(map(work, tiles), tick))
    pool = ThreadPoolExecutor(min(threads, len(tiles)))
    try:
        return list(_ticked(pool.map(work, tiles), tick))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _ticked(results: Iterable[Any], tick: Callable[[int], None] | None) -> Iterator[Any]:
    """Pass results on, calling ``tick`` after each."""
    for result in results:
        if tick is not None:
            tick(1)
        yield result


def three_d(array: Any) -> Any:
    """Give ``(y, x)`` a band axis and ``(band,)`` two spatial axes of length 1."""
    if array.ndim == 1:
        return array[:, None, None]
    return array if array.ndim == 3 else array[None]


def strips(arrays: list[Any], halo_px: int = 0) -> list[Tile]:
    """Cut the full width into strips of rows whose inputs fit the cache."""
    shape = spatial(arrays)
    row_bytes = sum(a[..., :1, :].size * max(a.dtype.itemsize, 4) for a in arrays)
    height = max(STRIP_BYTES // max(row_bytes, 1), 4 * halo_px, 1)
    return list(windows(shape, (height, max(shape[1], 1)), halo_px=halo_px))


def spatial(arrays: list[Any]) -> tuple[int, int]:
    """Return the spatial shape that arrays of ``(band, y, x)`` and ``(band, 1, 1)`` share."""
    return max(a.shape[-2] for a in arrays), max(a.shape[-1] for a in arrays)


def part(array: Any, window: Window, shape: tuple[int, int]) -> Any:
    """Cut a window, or pass on an array without spatial extent."""
    return array[(..., *window)] if array.shape[-2:] == shape else array


def map_strips(
    run: Callable[..., Array],
    halo_px: int,
    threads: int,
    arrays: list[Array],
    lead: tuple[int, ...] = (),
) -> Array:
    """Run a kernel strip by strip; ``lead`` are the leading axes of its result."""
    shape = spatial(arrays)
    out = np.empty((*lead, *shape), np.float32)

    def work(tile: Tile) -> None:
        out[(..., *tile.inner)] = run(*(part(a, tile.outer, shape) for a in arrays))[(..., *tile.trim)]

    map_tiles(work, strips(arrays, halo_px), threads=threads)
    return out


def at_least(chunks: tuple[int, ...], size: int) -> tuple[int, ...]:
    """Merge neighboring chunks until each holds at least ``size`` pixels (a halo spans one neighbor only)."""
    merged = [0]
    for n in chunks:
        if merged[-1] >= max(size, 1):
            merged.append(0)
        merged[-1] += n
    if len(merged) > 1 and merged[-1] < size:
        merged[-2:] = [merged[-2] + merged[-1]]
    return tuple(merged)


def tree(states: list[Any], combine: Callable[[Any, Any], Any]) -> Any:
    """Combine states pairwise, neighbors first, in an order that depends on their number alone."""
    while len(states) > 1:
        pairs = [combine(a, b) for a, b in zip(states[::2], states[1::2], strict=False)]
        states = pairs + states[len(pairs) * 2 :]
    return states[0]


def label_array(
    mask: Array, connectivity: int, seeds: Array | None = None
) -> tuple[npt.NDArray[np.int32], int]:
    """Number the connected parts of a mask in raster order of their first pixels.

    Parameters
    ----------
    mask : (y, x) bool array
    connectivity : 4 or 8
    seeds : (y, x) bool array; parts without a seed are dropped; None keeps all

    Returns
    -------
    (y, x) int32 labels, 0 = background, and their number
    """
    from scipy import ndimage

    labels = np.empty(mask.shape, np.int32)
    number = int(ndimage.label(mask, np.ones((3, 3)) if connectivity == 8 else None, output=labels))
    if seeds is None or number == 0:
        return labels, number
    keep = np.zeros(number + 1, bool)
    keep[labels[seeds]] = True
    keep[0] = False
    return renumber(labels, keep)


def renumber(labels: npt.NDArray[np.int32], keep: Array) -> tuple[npt.NDArray[np.int32], int]:
    """Keep some labels and number them from 1 in their order; works in place, in pieces that fit the cache.

    Parameters
    ----------
    labels : (y, x) int32 array, changed
    keep : (n + 1,) bool array; the first, the background's, must be False
    """
    table = np.where(keep, np.cumsum(keep), 0).astype(np.int32)
    flat = labels.reshape(-1)
    for start in range(0, flat.size, STRIP_BYTES // 4):
        piece = flat[start : start + STRIP_BYTES // 4]
        piece[:] = table[piece]
    return labels, int(table.max(initial=0))


@dataclass(frozen=True)
class LabelSummary:
    """What the merging of block labels needs to know of one block.

    Parameters
    ----------
    first : (n, 2) rows and columns, in the whole image, of the first pixel of each label
    seeded : (n,) True where the label holds a seed
    top, bottom, left, right : labels along the block's sides
    """

    first: Array
    seeded: Array
    top: Array
    bottom: Array
    left: Array
    right: Array


def summarize_labels(labels: Array, seeds: Array | None, corner: tuple[int, int]) -> LabelSummary:
    """Summarise a block of labels whose first pixel is at ``corner`` (row, column) of the image."""
    flat = labels.ravel()
    found = np.flatnonzero(flat)
    values, at = np.unique(flat[found], return_index=True)
    position = np.stack(np.unravel_index(found[at], labels.shape), axis=1) + np.asarray(corner)
    seeded = np.full(values.size, seeds is None)
    if seeds is not None:
        inside = labels[seeds]
        seeded[inside[inside > 0] - 1] = True
    sides = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
    return LabelSummary(position, seeded, *(np.array(side) for side in sides))


def merge_labels(summaries: list[list[LabelSummary]], connectivity: int) -> list[list[Array]]:
    """Join the labels of all blocks across their borders.

    Parameters
    ----------
    summaries : one a block, as the blocks lie
    connectivity : 4 or 8

    Returns
    -------
    per block an int32 table: block label → label in the image, in raster order of first pixels
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    counts = np.array([[len(s.first) for s in row] for row in summaries])
    base = np.cumsum(counts.ravel()).reshape(counts.shape) - counts
    pairs = np.concatenate(list(_border_pairs(summaries, base, connectivity)))
    total = int(counts.sum())
    links = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(total, total))
    number, component = connected_components(links, directed=False) if total else (0, np.empty(0, int))
    first, seeded = (
        np.concatenate([getattr(s, name) for row in summaries for s in row]) for name in ("first", "seeded")
    )
    order = np.lexsort((first[:, 1], first[:, 0]))
    leader = np.full(number, total)
    np.minimum.at(leader, component[order], np.arange(total))
    keep = np.zeros(number, bool)
    keep[component[seeded]] = True
    rank = np.zeros(number, np.int32)
    kept = np.flatnonzero(keep)
    rank[kept[np.argsort(leader[kept])]] = np.arange(1, kept.size + 1)
    table = rank[component] if total else np.empty(0, np.int32)
    return [
        [np.concatenate([np.zeros(1, np.int32), table[b : b + n]]) for b, n in zip(*row, strict=True)]
        for row in zip(base, counts, strict=True)
    ]


def label_strips(
    strip: Callable[[Window], tuple[Array, Array | None]], shape: tuple[int, int], connectivity: int
) -> tuple[npt.NDArray[np.int32], int]:
    """Label a mask that is made strip by strip, as :func:`label_array` labels a whole one.

    Parameters
    ----------
    strip : window of the full width → mask and seeds (None keeps all parts) in it, bool
    shape : rows and columns
    connectivity : 4 or 8

    Returns
    -------
    (y, x) int32 labels, 0 = background, and their number
    """
    labels = np.empty(shape, np.int32)
    height = max(LABEL_PX // max(shape[1], 1), 1)
    rows = [tile.inner[0] for tile in windows(shape, (height, max(shape[1], 1)))]
    summaries = []
    for part_rows in rows:
        mask, seeds = strip((part_rows, slice(0, shape[1])))
        labels[part_rows], _ = label_array(mask, connectivity)
        summaries.append([summarize_labels(labels[part_rows], seeds, (part_rows.start, 0))])
    tables = merge_labels(summaries, connectivity) if summaries else []
    for part_rows, (table,) in zip(rows, tables, strict=True):
        for row in labels[part_rows]:
            row[:] = table[row]
    return labels, max((int(table.max(initial=0)) for (table,) in tables), default=0)


def _border_pairs(summaries: list[list[LabelSummary]], base: Array, connectivity: int) -> Iterator[Array]:
    """Yield ``(n, 2)`` pairs of provisional labels that touch across the borders between blocks."""
    yield np.empty((0, 2), np.int64)

    def line(side: str, where: list[tuple[int, int]]) -> Array:
        sides = [(getattr(summaries[i][j], side).astype(np.int64), base[i, j]) for i, j in where]
        return np.concatenate([np.where(s > 0, s + b, 0) for s, b in sides])

    rows, columns = base.shape
    for i in range(rows - 1):
        upper = line("bottom", [(i, j) for j in range(columns)])
        yield _touching(upper, line("top", [(i + 1, j) for j in range(columns)]), connectivity)
    for j in range(columns - 1):
        west = line("right", [(i, j) for i in range(rows)])
        yield _touching(west, line("left", [(i, j + 1) for i in range(rows)]), connectivity)


def _touching(a: Array, b: Array, connectivity: int) -> Array:
    """Return the pairs (from 0) of labels on two neighboring lines that touch."""
    pairs = [(a, b)] if connectivity == 4 else [(a, b), (a[1:], b[:-1]), (a[:-1], b[1:])]
    u, v = (np.concatenate(side) for side in zip(*pairs, strict=True))
    both = (u > 0) & (v > 0)
    return np.unique(np.stack([u[both], v[both]], axis=1), axis=0) - 1
