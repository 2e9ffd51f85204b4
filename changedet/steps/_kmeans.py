"""Groups of like points: k-means whose start leaves no class without a center."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def cluster(points: Array, count: int, rng: np.random.Generator, *, rounds: int = 12) -> tuple[Array, Array]:
    """Group points by Lloyd's k-means; empty groups are dropped.

    Parameters
    ----------
    points : (n, dimension) float32
    count : groups at most
    rng : source of the start
    rounds : of moving the centers

    Returns
    -------
    centers (group, dimension) float32, and the group of every point (n,) int
    """
    centers = _start(points, count, rng)
    labels = nearest(points, centers)
    for _ in range(rounds):
        size = np.bincount(labels, minlength=centers.shape[0])
        total = np.stack(
            [
                np.bincount(labels, weights=points[:, j], minlength=centers.shape[0])
                for j in range(points.shape[1])
            ],
            axis=1,
        )
        centers = (total[size > 0] / size[size > 0, None]).astype(np.float32)
        labels = nearest(points, centers)
    return centers, labels


def _start(points: Array, count: int, rng: np.random.Generator) -> Array:
    """Choose points far from one another, so that no class is left without a center (k-means++).

    Arthur & Vassilvitskii 2007. Distances are cut at a multiple of their median: single odd pixels are no
    class.
    """
    chosen = np.empty((count, points.shape[1]), np.float32)
    chosen[0] = points[rng.integers(points.shape[0])]
    far = np.full(points.shape[0], np.inf)
    for i in range(1, count):
        far = np.minimum(far, np.square(points - chosen[i - 1]).sum(axis=1))
        chance = np.cumsum(np.minimum(far, 16 * np.median(far) + 1e-12))
        chosen[i] = points[np.searchsorted(chance, rng.random() * chance[-1])]
    return chosen


def nearest(points: Array, centers: Array) -> Array:
    """Return the index of the nearest center of every point."""
    half = 0.5 * np.einsum("ij,ij->i", centers, centers)
    return np.concatenate([(half - part @ centers.T).argmin(axis=1) for part in split(points)])


def split(points: Array, rows: int = 16384) -> list[Array]:
    """Cut rows into pieces whose distance table fits the cache."""
    return [points[i : i + rows] for i in range(0, points.shape[0], rows)]
