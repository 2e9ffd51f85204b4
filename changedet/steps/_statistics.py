"""Change as a chi-square statistic: mergeable moments of two images, and the axes that come of them.

MAD and SFA share one shape. The moments of both dates' bands give axes: linear combinations of the bands
whose variance without change is known. The squares over these variances add up to Z, chi-square distributed
where nothing changed. The iterated methods weight each pixel by its p-value of no change and begin again.

Weights that favor small Z make the weighted variance too small, also where nothing changed, and that
compounds. Z is therefore multiplied by :func:`consistency_factor` after every weighted pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from changedet.errors import DegenerateError, SettingError

Array = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]

CONSTANT = 1e-12
"""A band whose variance is below this share of the largest one of its date is constant."""

LARGEST_CONDITION = 1e10
RIDGES = (0.0, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4)
"""Shares of the mean variance added where bands nearly repeat one another; the first that helps is taken."""

PIXELS_PER_BAND = 10
"""Valid pixels wanted for each band of each date."""

# Products of what is worked on at once: temporaries stay in the cache, and linear algebra stays below the
# size at which its library starts threads of its own, which would compete with those that share the blocks.
PIECE_PRODUCTS = 1 << 18
PIECE_PX = 16384


# ------------------------------------------------------------------------------------------------ moments


@dataclass(frozen=True)
class Moments:
    """Weighted moments of both dates' bands, of one block or of many.

    Parameters
    ----------
    number : valid pixels
    weight, weight2 : Σw and Σw²
    shift : largest change of a pixel's weight since the pass before
    mean : (2·band,) weighted means, the bands before and then those after
    products : (2·band, 2·band) Σ w (x − mean)(x − mean)ᵀ
    """

    number: float
    weight: float
    weight2: float
    shift: float
    mean: Float64
    products: Float64

    @classmethod
    def none(cls, variates: int) -> Moments:
        """Return the moments of no pixels, which change nothing that they are merged with."""
        return cls(0.0, 0.0, 0.0, 0.0, np.zeros(variates), np.zeros((variates, variates)))

    @property
    def effective(self) -> float:
        """Number of equally weighted pixels that would say as much."""
        return self.weight**2 / self.weight2 if self.weight2 > 0 else 0.0

    @property
    def variance(self) -> Float64:
        """(2·band,) population variances."""
        return np.diag(self.products) / self.weight

    def packed(self) -> Float64:
        """Return all of it as one vector."""
        head = [self.number, self.weight, self.weight2, self.shift]
        return np.concatenate([head, self.mean, self.products.ravel()])

    @classmethod
    def unpacked(cls, vector: Float64, size: int) -> Moments:
        """Return what :meth:`packed` made of ``size`` variates."""
        head, mean, products = np.split(vector, [4, 4 + size])
        number, weight, weight2, shift = head.tolist()
        return cls(number, weight, weight2, shift, mean, products.reshape(size, size))


def combined(a: Moments, b: Moments) -> Moments:
    """Merge the moments of two sets of pixels (Chan, Golub & LeVeque 1983); an empty one changes nothing."""
    weight = a.weight + b.weight
    share = b.weight / weight if weight > 0 else 0.0
    apart = b.mean - a.mean
    return Moments(
        a.number + b.number,
        weight,
        a.weight2 + b.weight2,
        max(a.shift, b.shift),
        a.mean + apart * share,
        a.products + b.products + np.outer(apart, apart) * (a.weight * share),
    )


def moments(
    before: Array,
    after: Array,
    *,
    weighting: Axes | None = None,
    previous: Axes | None = None,
    moved: float = np.inf,
) -> Moments:
    """Weighted moments of one block of both dates, in float64.

    Parameters
    ----------
    before, after : (band, y, x) array; a pixel that is not finite in every band of both is left out
    weighting : axes whose p-value of no change weights the pixels; None weights all alike
    previous : axes of the pass before, to tell how far the weights moved
    moved : a weight that moved as far ends the search for one that moved farther
    """
    pair = [x.reshape(len(x), -1) for x in (before, after)]
    bands, total = len(before), Moments.none(2 * len(before))
    # Threads that ask the system for memory at every step wait for one another.
    buffers = [np.empty((2 * bands, PIECE_PX)) for _ in range(2)]
    for cut in pieces(pair[0].shape[1]):
        pixels, scratch = (buffer[:, : cut.stop - cut.start] for buffer in buffers)
        for i, image in enumerate(pair):
            pixels[i * bands : (i + 1) * bands] = image[:, cut]
        weigh = Weighing(weighting, previous, total.shift < moved)
        total = combined(total, moments_of(pixels, weigh, scratch=scratch))
    return total


def pieces(pixels: int) -> Iterator[slice]:
    """Yield slices of pixels that are worked on at once, with ends that are explicit."""
    return (slice(i, min(i + PIECE_PX, pixels)) for i in range(0, pixels, PIECE_PX))


class Weighing(NamedTuple):
    """How pixels are weighted.

    Parameters
    ----------
    axes : whose p-value of no change is the weight; None weights all alike
    previous : axes of the pass before, None where that weighted all alike
    compare : tell how far the weights moved since; else 0
    """

    axes: Axes | None = None
    previous: Axes | None = None
    compare: bool = True


def moments_of(pixels: Float64, weigh: Weighing | None = None, *, scratch: Float64 | None = None) -> Moments:
    """Weighted moments of pixels, about a center that is close to their mean.

    Parameters
    ----------
    pixels : (variate, n), changed; a pixel that is not finite in every variate is left out
    weigh : see :class:`Weighing`; None weights all alike
    scratch : (variate, n), changed; memory to work in
    """
    usable = np.isfinite(pixels).all(axis=0)
    if not usable.all():
        pixels = pixels[:, usable]
    number = pixels.shape[1]
    if not number:
        return Moments.none(len(pixels))
    weigh = weigh or Weighing()
    center = pixels.mean(axis=1) if weigh.axes is None else weigh.axes.center
    pixels -= center[:, None]
    weighted = np.empty_like(pixels) if scratch is None else scratch[:, :number]
    if weigh.axes is None:
        weight = weight2 = float(number)
        weighted[:], shift = pixels, 0.0
    else:
        weights = weigh.axes.no_change(pixels)
        weight, weight2 = float(weights.sum()), float(np.einsum("i,i", weights, weights))
        np.multiply(pixels, weights, out=weighted)
    apart = weighted.sum(axis=1) / weight if weight > 0 else np.zeros(len(pixels))
    products = _products(weighted, pixels) - np.outer(apart, apart) * weight
    if weigh.axes is not None:
        shift = _moved(pixels, center, weights, weigh.previous) if weigh.compare else 0.0
    return Moments(float(number), weight, weight2, shift, center + apart, products)


def _products(a: Float64, b: Float64) -> Float64:
    """Return ``a·bᵀ``, so many pixels at a time as linear algebra works on without threads of its own.

    Two arrays, also where their values are the same: NumPy takes another routine for one, which is slower
    and always uses threads. So do products of vectors, which are taken by sums instead.
    """
    step = max(PIECE_PRODUCTS // len(a) ** 2, 1)
    total = a[:, :step] @ b[:, :step].T
    for i in range(step, a.shape[1], step):
        total += a[:, i : i + step] @ b[:, i : i + step].T
    return total


def _moved(centered: Float64, center: Float64, weights: Float64, previous: Axes | None) -> float:
    """Return the largest change of a weight since the pass before, which may have weighted all alike."""
    if previous is None:
        return float(1 - weights.min())
    centered += (center - previous.center)[:, None]
    return float(np.abs(weights - previous.no_change(centered)).max())


# ------------------------------------------------------------------------------------------------ chi-square


def consistency_factor(dof: int) -> float:
    """Share of a chi-square variance that is left when pixels are weighted by their p-values.

    ``E[min(X, X′)] / dof`` of two independent chi-square numbers.

    >>> [round(consistency_factor(p), 4) for p in (1, 2, 6)]
    [0.3634, 0.5, 0.6875]
    """
    ratio = math.lgamma(dof / 2 + 0.5) - math.lgamma(dof / 2 + 1)
    return 1 - math.exp(ratio) / math.sqrt(math.pi)


def chi_square_sf(statistic: Array, dof: int) -> Float64:
    """Probability that a chi-square number is larger; a finite sum, ten times faster than the general one.

    Parameters
    ----------
    statistic : array ≥ 0
    dof : degrees of freedom, ≥ 1

    >>> chi_square_sf(np.array([0.0, 16.811894]), 6).round(6)
    array([1.  , 0.01])
    """
    from scipy.special import erfc

    half = np.minimum(np.asarray(statistic, np.float64) / 2, 1e4)  # far beyond what is not 0
    decay = np.exp(-half)
    if dof % 2:
        total, term, order = erfc(np.sqrt(half)), decay * np.sqrt(half) / math.gamma(1.5), 1.5
    else:
        total, term, order = decay, decay * half, 2.0
    for _ in range((dof - 1) // 2):
        total = total + term
        term = term * half / order
        order += 1
    return np.asarray(total)


# ------------------------------------------------------------------------------------------------ axes


@dataclass(frozen=True)
class Directions:
    """What a method makes of the correlations of the bands.

    Parameters
    ----------
    before, after : (component, band) coefficients of the standardized bands of each date
    values : (component,) what orders the components
    variance : (component,) variance of ``after − before`` combinations where nothing changed
    ridge : share of the mean variance that was added
    """

    before: Float64
    after: Float64
    values: Float64
    variance: Float64
    ridge: float


Solve = Callable[[Float64], Directions]
"""Correlation matrix (2·band, 2·band), before and then after → :class:`Directions`."""


@dataclass(frozen=True)
class Recipe:
    """A method: its axes, its words, and how it iterates.

    Parameters
    ----------
    solve : correlations → directions
    component : name of a component, to which its number is added
    values : name of what orders the components
    ddof : variances are sums over Σw − ddof: 1 takes weights for counts of pixels, 0 pixels for all there are
    consistency : correct the scale of weighted passes
    max_iterations : passes; 1 weights all pixels alike
    tolerance : largest change of a value when it has settled; ten times that for a weight
    """

    solve: Solve
    component: str
    values: str
    ddof: int = 0
    consistency: bool = True
    max_iterations: int = 1
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        """Refuse what cannot be used."""
        if self.max_iterations < 1 or not self.tolerance > 0:
            raise SettingError(
                f"max_iterations={self.max_iterations}, tolerance={self.tolerance}; wanted at least 1 "
                "iteration and a tolerance above 0"
            )


@dataclass(frozen=True)
class Axes:
    """Components as combinations of the bands as they are.

    Parameters
    ----------
    coefficients : (component, 2·band), zero for a band that was dropped
    center : (2·band,) subtracted from the bands
    values : (component,) see :class:`Directions`
    variance : (component,) without change, corrected for the weights
    ridge : see :class:`Directions`
    kept : (band,) bool, False for constant bands
    """

    coefficients: Float64
    center: Float64
    values: Float64
    variance: Float64
    ridge: float
    kept: npt.NDArray[np.bool_]

    @property
    def dof(self) -> int:
        """Degrees of freedom of the statistic."""
        return len(self.variance)

    def no_change(self, centered: Float64) -> Float64:
        """Return the p-values of no change of ``(2·band, n)`` pixels, less the center."""
        scaled = self.coefficients / np.sqrt(self.variance)[:, None]
        components = np.empty((len(scaled), centered.shape[1]))
        step = max(PIECE_PRODUCTS // scaled.size, 1)
        for i in range(0, centered.shape[1], step):
            np.matmul(scaled, centered[:, i : i + step], out=components[:, i : i + step])
        return chi_square_sf(np.einsum("ij,ij->j", components, components), self.dof)


def axes_of(found: Moments, recipe: Recipe, *, corrected: bool) -> Axes:
    """Standardize the bands, leave the constant ones out, and find the axes.

    Raises
    ------
    DegenerateError
        Too few pixels, no band that varies, or bands that repeat one another.
    """
    bands = len(found.mean) // 2
    kept = _varying(found, bands)
    varying = int(kept.sum())
    number, wanted = min(found.number, found.effective, found.weight), PIXELS_PER_BAND * 2 * max(varying, 1)
    if number < wanted:
        raise DegenerateError(
            f"{number:.0f} pixels are usable in every band of both images; wanted at least {wanted} for "
            f"{varying} bands; check the masks and the overlap, take fewer bands, or use another method"
        )
    if not varying:
        raise DegenerateError(
            f"each of the {bands} bands is constant in one of the images; wanted bands that vary; check that "
            "the files hold measurements"
        )
    both = np.tile(kept, 2)
    covariance = found.products[np.ix_(both, both)] / (found.weight - recipe.ddof)
    deviation = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(deviation, deviation)
    directions = recipe.solve((correlation + correlation.T) / 2)
    coefficients = np.zeros((len(directions.values), 2 * bands))
    coefficients[:, both] = np.hstack([-directions.before, directions.after]) / deviation
    factor = consistency_factor(len(directions.values)) if corrected else 1.0
    return Axes(
        coefficients, found.mean, directions.values, directions.variance / factor, directions.ridge, kept
    )


def _varying(found: Moments, bands: int) -> npt.NDArray[np.bool_]:
    """Return which bands vary on both dates."""
    if not found.weight > 0:
        return np.zeros(bands, bool)
    variance, mean = found.variance.reshape(2, bands), found.mean.reshape(2, bands)
    # The mean of equal numbers is rounded: a band that varies less than that is constant too.
    least = np.maximum(CONSTANT * variance.max(axis=1, keepdims=True), (CONSTANT * mean) ** 2)
    return np.asarray((variance > least).all(axis=0))


def factored(matrix: Float64) -> tuple[Float64, float]:
    """Cholesky factor of a covariance matrix, with the smallest of :data:`RIDGES` that makes it regular.

    Parameters
    ----------
    matrix : (n, n) symmetric, not negative; bands scaled to like variances

    Returns
    -------
    lower : (n, n) triangular
    ridge : share of the mean variance added to the diagonal

    Raises
    ------
    DegenerateError
        No ridge helps.
    """
    size = len(matrix)
    for ridge in RIDGES:
        raised = matrix + ridge * np.trace(matrix) / size * np.eye(size)
        spectrum = np.linalg.eigvalsh(raised)
        if spectrum[0] * LARGEST_CONDITION > spectrum[-1] > 0:
            return np.linalg.cholesky(raised), ridge
    raise DegenerateError(
        f"the bands determine no axes: their covariance has eigenvalues from {spectrum[0]:.3g} to "
        f"{spectrum[-1]:.3g}; wanted bands that do not repeat one another; choose some with --bands"
    )


def symmetric_definite(a: Float64, b: Float64) -> tuple[Float64, Float64, float]:
    """Solve ``a·v = λ·b·v`` by the Cholesky factor of ``b``.

    Parameters
    ----------
    a : (n, n) symmetric
    b : (n, n) symmetric and positive definite, else a ridge is added

    Returns
    -------
    values : (n,) ascending
    vectors : (n, n), one a column, ``vᵀ·b·v = 1`` (with the ridge)
    ridge : see :func:`factored`
    """
    from scipy.linalg import solve_triangular

    lower, ridge = factored(b)
    half = solve_triangular(lower, a, lower=True)
    whitened = solve_triangular(lower, half.T, lower=True)
    values, turned = np.linalg.eigh((whitened + whitened.T) / 2)
    return values, solve_triangular(lower, turned, lower=True, trans="T"), ridge
