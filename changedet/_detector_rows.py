"""Where a row of structures asks for one more."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from changedet.steps import bridge, track

Array = npt.NDArray[Any]


def row_candidates(
    maps: Any,
    found: list[track.Candidate],
    seed: Array,
    settings: tuple[track.Growth, bridge.Rules],
    gsd_m: float,
) -> list[track.Candidate]:
    """Return weaker candidates on the lines on which structures stand in a row.

    A place on such a line is one of a few hundred, not of all pixels of the scene, so less evidence makes a
    chance find there as rare.

    Parameters
    ----------
    maps : evidence of the scene: ``z``, ``delta``
    found : structures found without rows
    seed : (y, x) evidence that starts a candidate elsewhere
    settings : of growth and of rows
    gsd_m : pixel size
    """
    growth, rules = settings
    tolerance_px, gap_px, longest_px = rules.pixels(gsd_m)

    def member(candidate: track.Candidate) -> bool:
        return bool(max(np.ptp(candidate.rows), np.ptp(candidate.columns)) + 1 <= longest_px)

    def place(candidate: track.Candidate) -> Array:
        return np.array([candidate.rows.mean(), candidate.columns.mean()])

    standing = [c for c in found if member(c)]
    lines = bridge.find_rows(
        np.array([place(c) for c in standing]).reshape(-1, 2),
        tolerance_px=tolerance_px,
        gap_px=gap_px,
        least=rules.least,
    )
    if not lines:
        return []
    z = maps.z.copy()
    for known in found:
        z[_around(known, z.shape)] = np.nan
    wanted = bridge.corridor(lines, z.shape, tolerance_px=tolerance_px, gap_px=gap_px)
    level = np.where(wanted, seed * np.float32(rules.seed_share), np.float32(np.inf))
    return [
        c
        for c in track.candidates(z, maps.delta, level, growth)
        if member(c) and any(line.aside(*place(c)) <= tolerance_px for line in lines)
    ]


def overlap(one: track.Candidate, other: track.Candidate) -> bool:
    """Return True where two footprints share a pixel."""
    pixels = set(zip(one.rows.tolist(), one.columns.tolist(), strict=True))
    return not pixels.isdisjoint(zip(other.rows.tolist(), other.columns.tolist(), strict=True))


def _around(candidate: track.Candidate, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Return rows and columns of a footprint and of the pixels beside it, with repeats."""
    dy, dx = (step.reshape(-1, 1) for step in np.mgrid[-1:2, -1:2])
    rows = np.clip(candidate.rows + dy, 0, shape[0] - 1)
    return rows, np.clip(candidate.columns + dx, 0, shape[1] - 1)
