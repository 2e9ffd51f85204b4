"""Outlines of label images, for many small objects: only their own pixels are looked at, all at once.

A part is a set of pixels of one label that hold together by their sides. Its pixels' open sides, taken
clockwise as seen on the screen, are linked to rings: one outer ring, and one around each hole. Where two
pixels of a part meet at a corner only, the ring crosses over to the other pixel; so rings may touch, but
never cross or run into themselves, and every polygon is valid.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from affine import Affine

Array = npt.NDArray[Any]

# Sides of a pixel in the order of a clockwise walk: top (eastward), right, bottom, left. For each: the pixel
# ahead, the pixel ahead to the left, and the side of that pixel on which the walk goes on.
_AHEAD = ((0, 1), (1, 0), (0, -1), (-1, 0))
_LEFT = ((-1, 1), (1, 1), (1, -1), (-1, -1))
_LEFT_SIDE = (3, 0, 1, 2)
# Offset of a side's first corner from the pixel's upper left corner.
_CORNER = np.array([(0, 0), (0, 1), (1, 1), (1, 0)])


def outlines(labels: Array, at: Array, transform: Affine) -> Array:
    """Return the outline of every label.

    Parameters
    ----------
    labels : (y, x) integer array, labels 1 … n, 0 = background
    at : flat positions of all labelled pixels, rising
    transform : from (column, row) of pixel corners to coordinates

    Returns
    -------
    (n,) object array of polygons, multipolygons where a label hangs together by corners only
    """
    import shapely

    if not at.size:
        return np.empty(0, object)
    ids = labels.ravel()[at]
    part = _parts(ids, at, labels.shape[1])
    following, side, pixel = _links(part, at, labels.shape)
    order, ring = _rings(following)
    side, pixel = side[order], pixel[order]
    corner = np.flatnonzero(_turns(side, ring))
    row, column = (v[corner] for v in _corners(at, labels.shape[1], pixel, side))
    ring, owner = _renumbered(ring[corner]), part[pixel[corner]]
    xy = np.stack(transform @ (column.astype(np.float64), row.astype(np.float64)), axis=1)
    starts = np.flatnonzero(np.diff(ring, prepend=-1))
    hole = _signed_area(row, column, ring, starts) < 0
    of_part = owner[starts]
    first = np.lexsort((hole, of_part))  # a part's outer ring before its holes
    rings: Array = np.asarray(shapely.linearrings(xy, indices=ring))[first]
    polygons: Array = np.asarray(shapely.polygons(rings, indices=of_part[first] - 1))
    label_of = np.empty(len(polygons), np.int64)
    label_of[part - 1] = ids
    return _joined(polygons, label_of - 1)


def _parts(ids: Array, at: Array, width: int) -> Array:
    """Number the parts from 1 and return that of every labelled pixel."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = at.size
    right = np.flatnonzero((np.diff(at) == 1) & (at[1:] % width > 0) & (ids[1:] == ids[:-1]))
    below = np.minimum(np.searchsorted(at, at + width), n - 1)
    down = np.flatnonzero((at[below] == at + width) & (ids[below] == ids))
    one, other = np.concatenate([right, down]), np.concatenate([right + 1, below[down]])
    links = coo_array((np.ones(one.size, np.int8), (one, other)), shape=(n, n))
    return np.asarray(connected_components(links, directed=False)[1] + 1)


def _links(part: Array, at: Array, shape: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """Link every open side to the one that follows on its ring.

    Returns
    -------
    following : (n,) number of the next side
    side, pixel : (n,) which side of which labelled pixel
    """
    column = at % shape[1]
    # Where the pixels above and below are, or would be, among the labelled ones.
    beside = {step: np.searchsorted(at, at + step * shape[1]) for step in (-1, 1)} | {0: np.arange(at.size)}

    def neighbor(which: Array, step: tuple[int, int]) -> tuple[Array, Array]:
        """Return the neighbors' numbers among the labelled pixels, and whether they are of the same part."""
        position = at[which] + step[0] * shape[1] + step[1]
        number = beside[step[0]][which] + min(step[1], 0)
        if step[1] > 0:
            number += at[np.minimum(number, at.size - 1)] == position - 1
        number = np.clip(number, 0, at.size - 1)
        inside = (column[which] + step[1] >= 0) & (column[which] + step[1] < shape[1])
        return number, inside & (at[number] == position) & (part[number] == part[which])

    everyone = np.arange(at.size)
    outward = ((-1, 0), (0, 1), (1, 0), (0, -1))
    pixels = [np.flatnonzero(~neighbor(everyone, step)[1]) for step in outward]
    number = np.full((4, at.size), -1)
    base = np.cumsum([0, *(p.size for p in pixels)])
    for s, p in enumerate(pixels):
        number[s, p] = np.arange(base[s], base[s + 1])
    following = np.empty(base[4], np.int64)
    for s, p in enumerate(pixels):
        ahead, straight = neighbor(p, _AHEAD[s])
        left, crosses = neighbor(p, _LEFT[s])
        turned = np.where(straight, number[s, ahead], number[(s + 1) % 4, p])
        following[base[s] : base[s + 1]] = np.where(crosses, number[_LEFT_SIDE[s], left], turned)
    return following, np.repeat(np.arange(4), np.diff(base)), np.concatenate(pixels)


def _rings(following: Array) -> tuple[Array, Array]:
    """Sort sides along their rings, ring after ring; return the order and the ring of each in it."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components, depth_first_order

    n = following.size
    graph = csr_array((np.ones(n, np.int8), following, np.arange(n + 1)), shape=(n, n))
    _, ring = connected_components(graph, connection="weak")
    heads = np.unique(ring, return_index=True)[1]
    before = np.empty(n, np.int64)
    before[following] = np.arange(n)
    # One long walk: the end of each ring goes on at the head of the next.
    chain = following.copy()
    chain[before[heads[:-1]]] = heads[1:]
    chain[before[heads[-1]]] = before[heads[-1]]
    graph = csr_array((np.ones(n, np.int8), chain, np.arange(n + 1)), shape=(n, n))
    order = depth_first_order(graph, heads[0], return_predecessors=False)
    return order, ring[order]


def _turns(side: Array, ring: Array) -> Array:
    """Return True where a ring changes its direction: the corners of the outline."""
    starts = np.flatnonzero(np.diff(ring, prepend=-1))
    ends = np.append(starts[1:], ring.size) - 1
    earlier = np.roll(side, 1)
    earlier[starts] = side[ends]
    return np.asarray(side != earlier)


def _corners(at: Array, width: int, pixel: Array, side: Array) -> tuple[Array, Array]:
    """Return row and column of the corner where each side begins."""
    row, column = np.divmod(at[pixel], width)
    return row + _CORNER[side, 0], column + _CORNER[side, 1]


def _renumbered(ring: Array) -> Array:
    """Number rings from 0 in their order of appearance."""
    return np.cumsum(np.diff(ring, prepend=ring[0]) != 0)


def _signed_area(row: Array, column: Array, ring: Array, starts: Array) -> Array:
    """Return twice the area of every ring, positive where it runs clockwise on the screen."""
    following = np.arange(1, ring.size + 1)
    following[np.append(starts[1:], ring.size) - 1] = starts
    return np.add.reduceat(column * row[following] - column[following] * row, starts)


def _joined(polygons: Array, owner: Array) -> Array:
    """Join the parts of each label (numbered from 0)."""
    import shapely

    count = np.bincount(owner)
    out = np.empty(count.size, object)
    single = count[owner] == 1
    out[owner[single]] = polygons[single]
    if not single.all():
        several = np.flatnonzero(~single)
        several = several[np.argsort(owner[several], kind="stable")]
        labels, index = np.unique(owner[several], return_inverse=True)
        out[labels] = shapely.multipolygons(polygons[several], indices=index)
    return out
