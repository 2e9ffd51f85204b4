"""The expected value of every pixel at every date, and its noise.

Pixels whose history is alike are *analogues*: whatever a scene does to their class (gain, haze, season,
turbidity, water level) it does to all of them, so the median of a pixel's analogues on the same date is its
expected value without any model of those causes. Analogues are gathered into a few hundred prototypes; a
pixel is
a sparse mixture of its nearest ones. Everything that needs the whole scene is fitted once on a regular sample
(:func:`fit_background`), so that a window predicted alone equals the same window predicted with its
neighbors.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from changedet.errors import DegenerateError
from changedet.steps._kmeans import cluster, split
from changedet.steps._robust import nan_median, rank

Array = npt.NDArray[Any]

REACH2 = 9.0
"""Squared distances up to this multiple of a class's own (and the pixel's) are still of its kind."""


@dataclass(frozen=True)
class Factors:
    """A low-rank description of pixel histories that tolerates gaps.

    Parameters
    ----------
    center, scale : (feature,) float64 robust location and spread of each history value
    loadings : (feature, rank) float64
    ridge : noise variance of one standardized observation, against which ``spread`` is held
    spread : (rank,) standard deviation of the factors over the sample
    """

    center: Array
    scale: Array
    loadings: Array
    ridge: float
    spread: Array


def fit_factors(history: Array, *, rank: int = 8, iterations: int = 12, ridge: float = 0.3) -> Factors:
    """Fit a masked low-rank model to sampled histories.

    Parameters
    ----------
    history : (pixel, feature) float array, NaN = gap
    rank : number of factors
    iterations : fill-in rounds of the singular value decomposition
    ridge : noise variance of one standardized observation

    Returns
    -------
    Factors

    Raises
    ------
    DegenerateError
        Fewer than 64 pixels have any history.
    """
    seen = np.isfinite(history)
    keep = seen.mean(axis=1) > 0.3
    if keep.sum() < 64:
        raise DegenerateError(
            f"only {int(keep.sum())} sampled pixels have a usable history; wanted 64 or more; "
            "give more scenes without cloud, or a larger area"
        )
    x = history[keep].astype(np.float64)
    center = nan_median(x)
    center = np.where(np.isfinite(center), center, 0.0)
    scale = 1.4826 * nan_median(np.abs(x - center))
    scale = np.where(np.isfinite(scale) & (scale > 1e-3), scale, 1e-3)
    z = np.clip((x - center) / scale, -4, 4)
    known = np.isfinite(z)
    q = min(rank, z.shape[1], z.shape[0] - 1)
    filled = np.where(known, z, 0.0)
    for _ in range(iterations if not known.all() else 1):
        loadings = _leading(filled, q)
        low = (filled @ loadings) @ loadings.T
        filled = np.where(known, z, low)
    loadings = _leading(filled, q)
    scores = filled @ loadings
    return Factors(center, scale, loadings, ridge, scores.std(axis=0) + 1e-6)


def _leading(matrix: Array, rank: int) -> Array:
    """Return the leading right singular vectors, (feature, rank), with a fixed sign."""
    _, vectors = np.linalg.eigh(matrix.T @ matrix)
    leading = vectors[:, ::-1][:, :rank]
    return np.asarray(leading * np.sign(leading[np.abs(leading).argmax(axis=0), np.arange(rank)]))


def scores(factors: Factors, history: Array) -> Array:
    """Return the factors of pixels from whatever of their history is usable.

    Parameters
    ----------
    factors : fitted model
    history : (pixel, feature) float32, NaN = gap

    Returns
    -------
    (pixel, rank) float32; NaN where nothing of the history is usable

    Notes
    -----
    Pixels with the same gaps share one ridge solution, so the cost is one matrix product a pattern. The prior
    is that of the sample: a factor that hardly varies must not take up what a gap leaves open.
    """
    z = np.clip((history - factors.center) / factors.scale, -4, 4).astype(np.float32)
    known = np.isfinite(z)
    _, first, pattern = np.unique(_keys(known), axis=0, return_index=True, return_inverse=True)
    result = np.full((z.shape[0], factors.loadings.shape[1]), np.nan, np.float32)
    order = np.argsort(pattern.ravel(), kind="stable")
    starts = np.searchsorted(pattern.ravel()[order], np.arange(first.size + 1))
    for i, row in enumerate(first):
        use = known[row]
        if not use.any():
            continue
        v = factors.loadings[use]
        prior = np.diag(factors.ridge / factors.spread**2)
        solve = np.linalg.solve(v.T @ v + prior, v.T).T.astype(np.float32)
        members = order[starts[i] : starts[i + 1]]
        result[members] = z[np.ix_(members, np.flatnonzero(use))] @ solve
    return result


def _keys(known: Array) -> Array:
    """Return what tells patterns of gaps apart: a number a row where 64 bits do, else bytes."""
    packed = np.packbits(known, axis=1)
    if packed.shape[1] > 8:
        return packed
    wide = np.zeros((packed.shape[0], 8), np.uint8)
    wide[:, : packed.shape[1]] = packed
    return wide.view(np.uint64)[:, 0]


@dataclass(frozen=True)
class Background:
    """Prototypes of a scene: what a class of pixels looks like on every date.

    Parameters
    ----------
    factors : history model
    centers : (prototype, rank + 2) float32, factors and position, in units where distance means unlikeness
    median : (prototype, time, band) float32, NaN where too few members were usable on that date
    spread : (prototype, time, band) float32, robust standard deviation of the members
    radius2 : (prototype,) float32, mean squared distance of the members from their center
    position_weight : factor from pixel position to the last two coordinates of ``centers``
    n_history : dates that count as history
    """

    factors: Factors
    centers: Array
    median: Array
    spread: Array
    radius2: Array
    position_weight: float
    n_history: int

    @functools.cached_property
    def base(self) -> Array:
        """Median of the prototypes, (time, band) float32: kept apart, it keeps squares small."""
        return np.nan_to_num(nan_median(self.median), nan=0.0).astype(np.float32)

    @functools.cached_property
    def table(self) -> Array:
        """What is mixed of each prototype: means over the base, squares, whether known, flat float32."""
        count, _, bands = self.median.shape
        known = np.repeat(np.isfinite(self.median).all(axis=2, keepdims=True), bands, axis=2)
        mean = np.where(known, self.median - self.base, 0)
        square = np.where(known, mean**2 + self.spread**2, 0)
        parts = (mean.reshape(count, -1), square.reshape(count, -1), known[:, :, 0])
        return np.concatenate(parts, axis=1).astype(np.float32)


def fit_background(
    values: Array,
    position: Array,
    *,
    n_history: int,
    prototypes: int = 384,
    position_share: float = 0.5,
    seed: int = 0,
) -> Background:
    """Fit the prototypes of a scene to sampled pixels.

    Parameters
    ----------
    values : (pixel, time, band) float32 log values of the sample, NaN = not usable
    position : (pixel, 2) row and column of the sample
    n_history : first dates that decide which pixels are alike
    prototypes : how many prototypes at most; each needs about 30 sampled members
    position_share : weight of the position, as a share of one factor's spread across the whole scene
    seed : of the start of the clustering

    Returns
    -------
    Background
    """
    n = values.shape[0]
    history = values[:, :n_history].reshape(n, -1)
    factors = fit_factors(history)
    found = scores(factors, history)
    weight = position_share / max(float(np.ptp(position, axis=0).max()), 1.0) * float(factors.spread[0])
    points = np.concatenate([found, position.astype(np.float32) * np.float32(weight)], axis=1)
    usable = np.isfinite(points).all(axis=1)
    points, members = points[usable], values[usable]
    count = int(np.clip(points.shape[0] // 30, 1, prototypes))
    centers, labels = cluster(points, count, np.random.default_rng(seed))
    median, spread = _member_statistics(members, labels, centers.shape[0])
    apart = np.square(points - centers[labels]).sum(axis=1)
    radius2 = np.bincount(labels, apart, minlength=centers.shape[0]) / np.bincount(
        labels, minlength=centers.shape[0]
    ).clip(1)
    return Background(factors, centers, median, spread, radius2.astype(np.float32), weight, n_history)


def _member_statistics(values: Array, labels: Array, count: int, *, least: int = 6) -> tuple[Array, Array]:
    """Return median and robust spread of the members of each prototype on each date and band."""
    order = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[order], np.arange(count + 1))
    shape = (count, *values.shape[1:])
    median, spread = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    for i in range(count):
        own = np.sort(values[order[bounds[i] : bounds[i + 1]]], axis=0)  # NaN last
        n = np.isfinite(own).sum(axis=0)
        if own.shape[0] == 0:
            continue
        low, mid, high = (rank(own, n, q) for q in (0.16, 0.5, 0.84))
        enough = n >= least
        median[i] = np.where(enough, mid, np.nan)
        spread[i] = np.where(enough, (high - low) / 2, np.nan)
    return median, spread


@dataclass(frozen=True)
class Prediction:
    """Expected values of pixels and their spread.

    Parameters
    ----------
    mean, spread : (pixel, time, band) float32, NaN where there is no analogue
    unlike : (pixel,) float32, distance to the nearest prototype in units of the prototypes' own spacing
    """

    mean: Array
    spread: Array
    unlike: Array


def predict(model: Background, history: Array, position: Array, *, nearest: int = 8) -> Prediction:
    """Predict pixels on every date from their nearest prototypes.

    Parameters
    ----------
    model : fitted background
    history : (pixel, n_history, band) float32 log values, NaN = not usable
    position : (pixel, 2) row and column
    nearest : prototypes mixed for a pixel

    Returns
    -------
    Prediction
    """
    n = history.shape[0]
    found = scores(model.factors, history.reshape(n, -1))
    points = np.concatenate([found, position.astype(np.float32) * np.float32(model.position_weight)], axis=1)
    lost = ~np.isfinite(points).all(axis=1)
    index, weight, distance = _mixture(np.where(lost[:, None], 0, points), model, nearest)
    mean, spread = _mix(model, index, weight)
    mean[lost] = np.nan
    return Prediction(mean, spread, np.where(lost, np.nan, distance).astype(np.float32))


def _mixture(points: Array, model: Background, nearest: int) -> tuple[Array, Array, Array]:
    """Return indexes and weights of the nearest centers, and the distance to the first.

    A center that lies further off than the pixel's own class reaches has no say, however few are nearer.
    """
    centers = model.centers
    k = min(nearest, centers.shape[0])
    square = np.einsum("ij,ij->i", centers, centers)
    index = np.empty((points.shape[0], k), np.int32)
    d2 = np.empty((points.shape[0], k), np.float32)
    row = 0
    for part in split(points, 4096):
        table = square - 2 * (part @ centers.T)
        picked = _smallest(table, k)
        # anew from the differences: the table has lost the digits of small distances
        near = np.square(part[:, None] - centers[picked]).sum(axis=2)
        index[row : row + len(part)], d2[row : row + len(part)] = picked, near
        row += len(part)
    first = d2.argmin(axis=1)[:, None]
    closest = np.take_along_axis(d2, first, axis=1)
    own = model.radius2[np.take_along_axis(index, first, axis=1)]
    weight = 1 / (d2 + 0.5 * closest + 1e-3)
    weight = np.where(d2 <= REACH2 * (closest + own), weight, 0)
    weight /= weight.sum(axis=1, keepdims=True)
    return index, weight, np.sqrt(closest[:, 0])


def _smallest(table: Array, k: int) -> Array:
    """Return the columns of the ``k`` smallest values of each row; the table is used up.

    A few runs of ``argmin`` take a third of the time of a partition.
    """
    rows = np.arange(table.shape[0])
    out = np.empty((rows.size, k), np.int32)
    for i in range(k):
        out[:, i] = table.argmin(axis=1)
        table[rows, out[:, i]] = np.inf
    return out


def _mix(model: Background, index: Array, weight: Array) -> tuple[Array, Array]:
    """Mix prototype medians; the spread holds theirs and their disagreement (law of total variance)."""
    from scipy.sparse import csr_array

    n, k = index.shape
    count, times, bands = model.median.shape
    mixer = csr_array(
        (weight.ravel().astype(np.float32), index.ravel(), np.arange(0, n * k + 1, k)), shape=(n, count)
    )
    mixed = mixer @ model.table
    size = times * bands
    share = np.repeat(mixed[:, 2 * size :], bands, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        first = np.where(share > 0.25, mixed[:, :size] / share, np.nan)
        variance = mixed[:, size : 2 * size] / share - first**2
    shape = (n, times, bands)
    spread = np.sqrt(np.maximum(variance, 0)).reshape(shape)
    return first.reshape(shape) + model.base, spread
