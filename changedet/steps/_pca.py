"""Principal components of the difference of two dates, and its length in units of their spread."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from changedet.blocks import Pixelwise, Reduction
from changedet.errors import DegenerateError

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

SILENT = 1e-10
"""Share of the largest variance below which a component is float32 rounding, and is left out."""

PIECE_PX = 1 << 16
"""Pixels in work at one time, so that their float64 copies stay in the cache."""

_QUIET = np.errstate(all="ignore")  # NaN and infinity are inputs here, and come out as NaN


# --- moments -----------------------------------------------------------------------------------------------


class _Moments(NamedTuple):
    """Number, mean ``(p,)`` and centered products ``(p, p)`` of pixels; they merge."""

    n: int
    mean: Float64
    products: Float64


@_QUIET
def _moments(*images: Array) -> _Moments:
    """Return the moments of one image, or of the difference of two, over the pixels finite in every band."""
    bands, rows, columns = images[-1].shape
    height = max(PIECE_PX // max(columns, 1), 1)
    total = _Moments(0, np.zeros(bands), np.zeros((bands, bands)))
    for r in range(0, rows, height):
        values = images[-1][:, r : r + height].astype(np.float64)
        if len(images) > 1:
            values -= images[0][:, r : r + height]
        pixels = values.reshape(bands, -1)
        pixels = pixels[:, np.isfinite(pixels).all(axis=0)]
        if pixels.shape[1]:
            mean = pixels.mean(axis=1)
            pixels = pixels - mean[:, None]
            total = _merged(total, _Moments(pixels.shape[1], mean, pixels @ pixels.T))
    return total


def _merged(a: _Moments, b: _Moments) -> _Moments:
    """Merge two moments; that of no pixels changes nothing."""
    if not a.n or not b.n:
        return a if a.n else b
    n, apart = a.n + b.n, b.mean - a.mean
    products = a.products + b.products + np.outer(apart, apart) * (a.n * b.n / n)
    return _Moments(n, a.mean + apart * (b.n / n), products)


def _packed(found: _Moments) -> Float64:
    """Return moments as one array ``(1 + p + p²,)``."""
    return np.concatenate([[found.n], found.mean, found.products.ravel()])


@dataclass(frozen=True)
class _Axes:
    """Principal components: ``mean (p,)``, ``variance (k,)`` descending, ``weights (k, p)``, from ``n``."""

    n: int
    mean: Float64
    variance: Float64
    weights: Float64


def _principal(images: tuple[xr.DataArray, ...], least: int, standardize: bool = False) -> _Axes:
    """Find the components of one image ``(band, y, x)``, or of the difference of two, over all pixels.

    Components without variance are left out. A component goes along with the bands rather than against them.
    """
    size = images[0].sizes["band"]
    total = Reduction(_moments, _merged, _packed, dims=(("moment", 1 + size + size * size),))
    packed = total(*images).values
    n, mean, products = int(packed[0]), packed[1 : 1 + size], packed[1 + size :].reshape(size, size)
    if n < least:
        raise DegenerateError(
            f"{n} valid samples for principal components of {size} values; wanted at least {least}; "
            "use larger images, fewer bands, or a method that fits nothing (cva)"
        )
    covariance = products / (n - 1)
    sd = np.sqrt(covariance.diagonal())
    scale = np.where(sd**2 > SILENT * sd.max() ** 2, sd, np.inf) if standardize else np.ones(size)
    variance, vectors = np.linalg.eigh(covariance / np.outer(scale, scale))
    variance, weights = variance[::-1], vectors.T[::-1] / scale
    # Where the dates differ by a constant alone, what remains is the rounding of float32.
    least_variance = np.inf if sd.max() <= 1e-6 * np.abs(mean).max() else SILENT * variance[0]
    kept = variance > least_variance
    side = weights.sum(axis=1)
    strongest = weights[np.arange(size), np.abs(weights).argmax(axis=1)]
    sign = np.where(np.where(np.abs(side) > 1e-6 * np.abs(strongest), side, strongest) < 0, -1.0, 1.0)
    return _Axes(n, mean, variance[kept], (weights * sign[:, None])[kept])


# --- over the bands ----------------------------------------------------------------------------------------


@_QUIET
def component(before: Array, after: Array, *, weights: Float64, mean: Float64) -> Float32:
    """One principal component of the difference.

    Parameters
    ----------
    before, after : (band, y, x) array, NaN = invalid
    weights, mean : (band,) float64, loadings, and the mean difference, which is taken off

    Returns
    -------
    (y, x) float32 array, after − before, NaN where a band of either is not finite
    """
    total = np.zeros(before.shape[1:])
    for a, b, weight, middle in zip(before, after, weights, mean, strict=True):
        total += weight * (b.astype(np.float64) - a - middle)
    return _finished(total)


def _statistic(scores: tuple[Array, ...], variance: Float64) -> Float64:
    """Return the sum of squared scores over their variances."""
    total = np.zeros(scores[0].shape[1:])
    for score, var in zip(scores, variance, strict=True):
        total += score[0].astype(np.float64) ** 2 / var
    return total


def _length(*scores: Array, variance: Float64) -> Float32:
    """Return the whitened length."""
    return _finished(np.sqrt(_statistic(scores, variance)))


def _p_value(*scores: Array, variance: Float64) -> Float32:
    """Return the upper tail of the chi-square distribution, 0 where it is below what float32 holds."""
    from scipy.special import chdtrc

    with np.errstate(under="ignore"):
        return _finished(chdtrc(len(variance), _statistic(scores, variance)))


def pca(
    before: xr.DataArray, after: xr.DataArray, *, standardize: bool = False, threads: int = 1
) -> xr.Dataset:
    """Principal components of the difference, and its length in units of their standard deviations.

    The mean difference is taken off, and every component counts alike however little of the difference it
    holds: what stands out is change unlike the scene's common change.

    Parameters
    ----------
    before, after : (band, y, x) or (y, x), NaN = invalid; a pixel counts where every band of both is finite
    standardize : take components of the correlation of the bands instead of their covariance
    threads : threads for eager work

    Returns
    -------
    Dataset ``(y, x)`` of ``magnitude`` float32, ≥ 0; ``p_value`` float32 of no change, from the chi-square
    distribution; ``components`` (band, y, x) float32 named pca1, pca2, …, after − before, variance
    descending (divisor n − 1), in the unit of the bands (without unit if standardized). The components are
    found at once; layers are lazy where an image is. Attributes say ``variance``, ``dof`` and ``number``.

    Raises
    ------
    DegenerateError
        Fewer than ten valid pixels a band.

    Notes
    -----
    The variances are those of all pixels, changed ones included: where much changed, magnitudes are too
    small and p-values too large. Components without variance are left out, so that equal images give 0.
    """
    before, after = (_with_bands(image) for image in (before, after))
    axes = _principal((before, after), 10 * before.sizes["band"], standardize)
    if not axes.variance.size:  # nothing differs anywhere: one silent component, of any variance
        axes = _Axes(axes.n, axes.mean, np.ones(1), np.zeros((1, len(axes.mean))))
    scores = [
        Pixelwise(partial(component, weights=row, mean=axes.mean))(before, after, threads=threads)
        for row in axes.weights
    ]
    stacked = xr.concat(
        scores, "band", coords="minimal", compat="override", join="override", combine_attrs="override"
    )
    names = np.array([f"pca{i + 1}" for i in range(len(scores))], dtype=object)
    result = xr.Dataset(
        {
            "magnitude": Pixelwise(partial(_length, variance=axes.variance))(*scores, threads=threads),
            "p_value": Pixelwise(partial(_p_value, variance=axes.variance))(*scores, threads=threads),
            "components": stacked.assign_coords(band=names),
        }
    )
    for name in result:
        result[name].encoding |= scores[0].encoding
    facts = {"variance": axes.variance.tolist(), "dof": len(scores), "number": axes.n}
    return result.assign_attrs(facts)


def _with_bands(image: xr.DataArray) -> xr.DataArray:
    """Give an image without bands one, without a name."""
    if "band" in image.dims:
        return image
    return image.drop_vars("band", errors="ignore").expand_dims("band")


def _finished(result: Array) -> Float32:
    """Return float32 with NaN for what is not finite."""
    with np.errstate(all="ignore"):
        out = np.asarray(result, np.float32)
    return np.where(np.isfinite(out), out, np.float32(np.nan))
