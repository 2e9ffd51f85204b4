"""Shifts that differ from place to place, fitted to tie points and held against those left out."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from changedet.steps._align_ties import TiePoints
from changedet.steps._resample import bspline
from changedet.steps._resample_field import Field

Array = npt.NDArray[Any]
At = Callable[[Array], Array]
"""Places (n, 2) → shift (n, 2), pixels."""

Predict = Callable[[Array, Array], Array]
"""Rows and columns (…) → shift (…, 2), pixels."""

_FOLDS = 5
_NODES = 65
_BISQUARE = 4.685
_ROUNDS = 30
_NOISE_PX = 0.02  # tie points are never better than this
_INTERVALS = 8  # of the splines along the longer side: what bends within less is not followed
_RIM = 0.15  # how far beyond the tie points the splines are followed, of half the longer side
_STIFFNESS = (1e-3, 1e-2, 1e-1, 1.0)  # of the splines; what suits best is found by holding tie points out
_CAPPED = 0.9  # share of the tie points, the nearest ones, that the comparison looks at
_LEAST_GAIN = 0.05  # share by which the held-out residual must fall
_SIGMAS = 2.0
FEWEST = {"affine": 8, "local": 25}


@dataclass(frozen=True)
class Model:
    """A model of the shift, and how well held-out tie points agree with it.

    Parameters
    ----------
    name : ``translation``, ``affine`` or ``local``
    predict : the shift at any place
    held_out : (n, 2) shift at each tie point, from a fit in which it had no part
    good : (n,) bool, tie points near the model
    errors : (n,) distance of each tie point from ``held_out``, pixels
    """

    name: str
    predict: Predict
    held_out: Array
    good: npt.NDArray[np.bool_]
    errors: Array

    @property
    def residual_px(self) -> float:
        """Root mean square distance of the good tie points from the shift at them when held out."""
        return float(np.sqrt(np.square(self.errors[self.good]).mean())) if self.good.any() else float("nan")


def fit(name: str, ties: TiePoints, shape: tuple[int, int]) -> Model:
    """Fit a model robustly, and once more without each fifth of the tie points.

    Parameters
    ----------
    name : ``translation``, ``affine`` or ``local``
    ties : tie points
    shape : rows and columns of the raster
    """
    place = _unit(ties.row, ties.column, shape)
    held_out = np.empty_like(ties.shift)
    stiffness = _stiffness(place, ties.shift) if name == "local" else 0.0
    fold = np.arange(len(ties)) % _FOLDS
    for k in range(_FOLDS):
        rest = fold != k
        held_out[~rest] = _solved(name, place[rest], ties.shift[rest], stiffness)[0](place[~rest])
    whole, weight = _solved(name, place, ties.shift, stiffness)
    errors = np.hypot(*(ties.shift - held_out).T)

    def predict(row: Array, column: Array) -> Array:
        at = _unit(np.ravel(row), np.ravel(column), shape)
        return np.asarray(whole(at).reshape(*np.shape(row), 2))

    return Model(name, predict, held_out, weight > 0, errors)


def _unit(row: Array, column: Array, shape: tuple[int, int]) -> Array:
    """Places as numbers of about -1 to 1, (n, 2)."""
    half = max(shape) / 2
    return np.stack([(row - shape[0] / 2) / half, (column - shape[1] / 2) / half], axis=-1)


def _solved(name: str, place: Array, shift: Array, stiffness: float) -> tuple[At, Array]:
    """Fit with weights that fall with the distance; return the function of places and the last weights."""
    weight = np.ones(len(place))
    solve = _SOLVERS[name]
    found = _constant(place, shift, weight, stiffness)
    # the first rounds are of least absolute deviations, which far tie points hardly pull
    for turn in range(_ROUNDS):
        apart = np.hypot(*(shift - found(place)).T)
        spread = max(float(np.median(apart)) / 1.1774, _NOISE_PX)  # of each axis, for normal errors
        soft = turn < 5
        new = spread / np.maximum(apart, spread) if soft else _bisquare(apart / spread)
        if not soft and np.abs(new - weight).max() < 1e-4:
            break
        weight = new
        found = solve(place, shift, weight, stiffness)
    return found, weight


def _bisquare(away: Array) -> Array:
    """Weights that end at :data:`_BISQUARE` standard deviations."""
    return np.asarray(np.square(np.clip(1 - np.square(away / _BISQUARE), 0, None)))


def _constant(place: Array, shift: Array, weight: Array, _: float) -> At:
    """Weighted mean; of like weights the median."""
    if weight.min() == weight.max():
        level = np.median(shift, axis=0)
    else:
        level = weight @ shift / weight.sum()
    return lambda at: np.broadcast_to(level, (len(at), 2)).copy()


def _affine(place: Array, shift: Array, weight: Array, _: float) -> At:
    """Weighted least squares on 1, row, column."""
    root = np.sqrt(weight)[:, None]
    terms, *_rest = np.linalg.lstsq(_ramp(place) * root, shift * root, rcond=None)
    return lambda at: np.asarray(_ramp(at) @ terms)


def _ramp(place: Array) -> Array:
    """Terms of an affine function."""
    return np.column_stack([np.ones(len(place)), place])


def _smooth(place: Array, shift: Array, weight: Array, stiffness: float) -> At:
    """Penalized splines; far outside the rectangle of the tie points the shift stays as at its rim."""
    use = weight > 0
    low, high = place[use].min(axis=0) - _RIM, place[use].max(axis=0) + _RIM
    basis = _splines(place[use])
    inner = basis.T * weight[use]
    scale = stiffness * weight.sum() / _INTERVALS**2
    terms = np.linalg.solve(inner @ basis + scale * _penalty(), inner @ shift[use])
    return lambda at: np.asarray(_splines(np.clip(at, low, high)) @ terms)


def _splines(place: Array) -> Array:
    """Products of cubic B-splines along both axes, (n, terms)."""
    knots = np.arange(-1, _INTERVALS + 2)
    along = [bspline((p[:, None] + 1) / 2 * _INTERVALS - knots) for p in place.T]
    return np.asarray(np.einsum("ni,nj->nij", *along).reshape(len(place), -1))


@functools.cache
def _penalty() -> npt.NDArray[np.float64]:
    """Squared second differences along and across: none of a plane."""
    count = _INTERVALS + 3
    bend, same = np.diff(np.eye(count), 2, axis=0), np.eye(count)
    straight = bend.T @ bend
    return np.asarray(np.kron(straight, same) + np.kron(same, straight) + 1e-9 * np.eye(count**2))


_SOLVERS: dict[str, Callable[[Array, Array, Array, float], At]] = {
    "translation": _constant,
    "affine": _affine,
    "local": _smooth,
}


def _stiffness(place: Array, shift: Array) -> float:
    """Stiffness with which held-out tie points agree best."""
    fold = np.arange(len(place)) % _FOLDS
    scores = []
    for value in _STIFFNESS:
        apart = np.empty(len(place))
        for k in range(_FOLDS):
            out = fold == k
            found, _ = _solved("local", place[~out], shift[~out], value)
            apart[out] = np.hypot(*(shift[out] - found(place[out])).T)
        scores.append(float(np.sort(apart)[: int(_CAPPED * apart.size)].mean()))
    return _STIFFNESS[int(np.argmin(scores))]


def is_better(candidate: Model, than: Model, ties: TiePoints) -> bool:
    """Return True where held-out tie points are surely nearer to a model than to a simpler one."""
    if len(ties) < FEWEST.get(candidate.name, 0):
        return False
    old, new = np.square(than.errors), np.square(candidate.errors)
    limit = np.quantile(old, _CAPPED)
    better = np.minimum(old, limit) - np.minimum(new, limit)
    sure = better.mean() > _SIGMAS * better.std() / np.sqrt(better.size)
    least = (1 - _LEAST_GAIN) ** 2 * np.minimum(old, limit).mean()
    return bool(sure and np.minimum(new, limit).mean() < least)


def sampled_field(model: Model, shape: tuple[int, int]) -> Field:
    """Return a model on a lattice of nodes, between which it is interpolated."""
    nodes = [np.linspace(0, n - 1, min(_NODES, max(n, 2))) for n in shape]
    row, column = np.meshgrid(*nodes, indexing="ij")
    return Field(nodes[0], nodes[1], np.moveaxis(model.predict(row, column), -1, 0))
