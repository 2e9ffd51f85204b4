"""Rows: what stands on one line at modest gaps, as piers, abutments and cofferdams of a crossing do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Rules:
    """How rows are found, and what a place in a row is worth.

    Parameters
    ----------
    tolerance_m : how far from the line a member may lie, never less than a pixel
    gap_m : longest gap between members: that of a river that is not bridged yet
    least : objects that make a row
    member_m : longest side of a member, never less than four pixels: piers, abutments, cofferdams
    seed_share : evidence that starts a candidate in a row, as a share of what it takes elsewhere
    min_confidence : least probability that it was built, from its own evidence, where a row asks for one more
    """

    tolerance_m: float = 5.0
    gap_m: float = 700.0
    least: int = 4
    member_m: float = 30.0
    seed_share: float = 0.65
    min_confidence: float = 0.2

    def pixels(self, gsd_m: float) -> tuple[float, float, float]:
        """Return tolerance, gap and longest side in pixels."""
        return max(self.tolerance_m / gsd_m, 1.0), self.gap_m / gsd_m, max(self.member_m / gsd_m, 4.0)


@dataclass(frozen=True)
class Row:
    """Objects on one line.

    Parameters
    ----------
    members : (n,) indexes of the objects, in order along the line
    middle : (2,) a point of the line: row, column, pixels
    direction : (2,) unit vector along it
    begin, end : where the outermost members lie along it, pixels from the middle
    """

    members: Array
    middle: Array
    direction: Array
    begin: float
    end: float

    def along(self, y: Array, x: Array) -> Array:
        """Return where rows and columns, which broadcast, lie along the line, pixels from its middle."""
        return np.asarray((y - self.middle[0]) * self.direction[0] + (x - self.middle[1]) * self.direction[1])

    def aside(self, y: Array, x: Array) -> Array:
        """Return how far rows and columns, which broadcast, lie from the line, pixels, ≥ 0."""
        across = (x - self.middle[1]) * self.direction[0] - (y - self.middle[0]) * self.direction[1]
        return np.asarray(np.abs(across))


def find_rows(points: Array, *, tolerance_px: float, gap_px: float, least: int = 3) -> list[Row]:
    """Find lines on which objects stand in a row, the longest first; an object is in one row.

    Parameters
    ----------
    points : (n, 2) row and column of the objects, pixels
    tolerance_px : how far from the line a member may lie
    gap_px : longest gap between neighbors
    least : fewest members

    Returns
    -------
    list of Row; empty where no line holds ``least`` objects

    >>> found = find_rows(np.array([[0.0, 0], [0, 9], [0, 20], [7, 9]]), tolerance_px=1, gap_px=15)
    >>> [row.members.tolist() for row in found]
    [[0, 1, 2]]
    """
    rows: list[Row] = []
    left = np.arange(len(points))
    while left.size >= least:
        best = _longest(points[left], tolerance_px, gap_px)
        if best is None or best.members.size < least:
            break
        rows.append(_numbered(best, left))
        left = np.setdiff1d(left, rows[-1].members)
    return rows


def _numbered(row: Row, numbers: Array) -> Row:
    """Return a row whose members carry other numbers."""
    return Row(numbers[row.members], row.middle, row.direction, row.begin, row.end)


def _longest(points: Array, tolerance_px: float, gap_px: float) -> Row | None:
    """Return the line through two of the points that holds the most, the closest of equals."""
    best, score = None, (0, 0.0)
    for i in range(len(points)):
        for j in range(i + 1, len(points)):
            row = _through(points, i, j, tolerance_px, gap_px)
            if row is not None:
                found = (row.members.size, -float(row.aside(*points[row.members].T).sum()))
                if found > score:
                    best, score = row, found
    return best


def _through(points: Array, i: int, j: int, tolerance_px: float, gap_px: float) -> Row | None:
    """Return the row on the line of two points, without what lies beyond a long gap."""
    apart = points[j] - points[i]
    length = float(np.hypot(*apart))
    if not 2 * tolerance_px < length <= gap_px:
        return None
    line = Row(np.array([i, j]), points[i], apart / length, 0.0, length)
    near = np.flatnonzero(line.aside(*points.T) <= tolerance_px)
    near = near[np.argsort(line.along(*points[near].T), kind="stable")]
    cuts = np.flatnonzero(np.diff(line.along(*points[near].T)) > gap_px) + 1
    part = next(run for run in np.split(near, cuts) if i in run)
    middle = points[part].mean(axis=0)
    direction = np.linalg.svd(points[part] - middle, full_matrices=False)[2][0]
    row = Row(part, middle, direction, 0.0, 0.0)
    at = row.along(*points[part].T)
    order = np.argsort(at, kind="stable")
    return Row(part[order], middle, direction, float(at.min()), float(at.max()))


def corridor(rows: list[Row], shape: tuple[int, int], *, tolerance_px: float, gap_px: float) -> Array:
    """Mark the pixels where another member of a row would be: on the line, up to a gap beyond its ends.

    Parameters
    ----------
    rows : see :func:`find_rows`
    shape : rows and columns of the scene
    tolerance_px, gap_px : see :func:`find_rows`

    Returns
    -------
    (y, x) bool
    """
    out = np.zeros(shape, bool)
    y, x = np.ogrid[: shape[0], : shape[1]]
    for row in rows:
        at = row.along(y, x)
        near = row.aside(y, x) <= tolerance_px + 1e-6
        out |= near & (at > row.begin - gap_px) & (at < row.end + gap_px)
    return out
