"""Principal components of the difference of two dates, over bands and over small blocks.

Over the bands they make a length of the difference in units of its spread. Over blocks of a difference image
they make filters that see the neighborhood, and two clusters of the filtered image are changed and unchanged
(Celik 2009, doi:10.1109/LGRS.2009.2025059).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from changedet.blocks import Pixelwise, Reduction, Windowed, in_memory, is_lazy, sampled
from changedet.errors import DegenerateError, SettingError
from changedet.steps._finite import finished
from changedet.steps._statistics import Moments, chi_square_sf, combined, moments_of, pieces

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

SILENT = 1e-10
"""Share of the largest variance below which a component is float32 rounding, and is left out."""

STARTS = ((0.1, 0.9), (0.5, 0.99), (0.5, 0.999), (0.5, 1.0))
"""Pairs of quantiles of the first component from which k-means starts, as change may be rare; the tightest
clusters count."""

MAX_ITERATIONS = 100
"""Rounds of k-means; two clusters settle in a few tens."""

SETTLED = 1e-5
"""Share of the pixels that may still change sides when clusters count as settled; none of up to 100 000."""

_QUIET = np.errstate(all="ignore")  # NaN and infinity are inputs here, and come out as NaN


# --- moments -----------------------------------------------------------------------------------------------


@_QUIET
def _moments(*images: Array) -> Moments:
    """Return the moments of one image, or of the difference of two, over the pixels finite in every band."""
    flat = [image.reshape(len(image), -1) for image in images]
    total = Moments.none(len(flat[-1]))
    for cut in pieces(flat[-1].shape[1]):
        pixels = flat[-1][:, cut].astype(np.float64)
        if len(flat) > 1:
            pixels -= flat[0][:, cut]
        total = combined(total, moments_of(pixels))
    return total


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
    total = Reduction(_moments, combined, Moments.packed, dims=(("moment", 4 + size + size * size),))
    found = Moments.unpacked(total(*images).values, size)
    n, mean, products = int(found.number), found.mean, found.products
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
def components_of(before: Array, after: Array, *, weights: Float64, mean: Float64) -> Float32:
    """Principal components of the difference.

    Parameters
    ----------
    before, after : (band, y, x) array, NaN = invalid
    weights : (component, band) float64, loadings
    mean : (band,) float64, the mean difference, which is taken off

    Returns
    -------
    (component, y, x) float32 array, after − before, NaN where a band of either is not finite
    """
    a, b = (image.reshape(len(image), -1) for image in (before, after))
    out = np.empty((len(weights), a.shape[1]), np.float32)
    for cut in pieces(a.shape[1]):
        pixels = b[:, cut].astype(np.float64)
        pixels -= a[:, cut]
        pixels -= mean[:, None]
        # Not a product of matrices: its order of additions depends on where in a block a pixel lies.
        out[:, cut] = np.einsum("cb,bn->cn", weights, pixels)
    return finished(out).reshape(-1, *before.shape[1:])


def _statistic(scores: Array, variance: Float64) -> Float64:
    """Return the sum of squared scores over their variances; they are added in a loop."""
    total = np.zeros(scores.shape[1:])
    for score, var in zip(scores, variance, strict=True):
        square = score.astype(np.float64)
        square *= square
        square /= var
        total += square
    return total


def _length(scores: Array, *, variance: Float64) -> Float32:
    """Return the whitened length."""
    return finished(np.sqrt(_statistic(scores, variance)))


def _p_value(scores: Array, *, variance: Float64) -> Float32:
    """Return the upper tail of the chi-square distribution, 0 where it is below what float32 holds."""
    with np.errstate(under="ignore"):
        return finished(chi_square_sf(_statistic(scores, variance), len(variance)))


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
    names = tuple(f"pca{i + 1}" for i in range(len(axes.weights)))
    kernel = partial(components_of, weights=axes.weights, mean=axes.mean)
    scores = Pixelwise(kernel, bands=names)(before, after, threads=threads)
    result = xr.Dataset(
        {
            "magnitude": Pixelwise(partial(_length, variance=axes.variance))(scores, threads=threads),
            "p_value": Pixelwise(partial(_p_value, variance=axes.variance))(scores, threads=threads),
            "components": scores,
        }
    )
    for name in result:
        result[name].encoding |= scores.encoding
    facts = {"variance": axes.variance.tolist(), "dof": len(names), "number": axes.n}
    return result.assign_attrs(facts)


# --- over small blocks -------------------------------------------------------------------------------------


@_QUIET
def _difference_length(before: Array, after: Array) -> Float32:
    """Return the length of the difference over the bands; one band: its absolute value."""
    total = np.zeros(before.shape[1:])
    for a, b in zip(before, after, strict=True):
        total += (b.astype(np.float64) - a) ** 2
    return finished(np.sqrt(total))


def _blocks(image: xr.DataArray, side_px: int) -> xr.DataArray:
    """Return the blocks of an image: ``(side², y, x)``, a pixel of every block a band; an odd rim is cut."""
    if is_lazy(image):
        whole = {d: -(-max(image.chunksizes[d]) // side_px) * side_px for d in ("y", "x")}
        image = image.chunk(whole)
    image = image.drop_vars(list(image.coords))
    ends = {d: image.sizes[d] // side_px * side_px for d in ("y", "x")}
    phases = [
        image.isel(y=slice(i, ends["y"], side_px), x=slice(j, ends["x"], side_px))
        for i in range(side_px)
        for j in range(side_px)
    ]
    return xr.concat(phases, "band")


def filtered(image: Array, *, weights: Float64, mean: Float64) -> Float64:
    """Correlate an image with one filter; the window begins ``(side − 1) // 2`` px above and left.

    Parameters
    ----------
    image : (y, x) array, NaN = invalid, which counts as average; beyond its end the image is mirrored
    weights, mean : (side, side) float64, the filter, and what is taken off each pixel of the window first

    Returns
    -------
    (y, x) float64 array
    """
    side = len(weights)
    up = (side - 1) // 2
    filled = np.where(np.isfinite(image), image, mean.mean()).astype(np.float64)
    padded = np.pad(filled, (up, side - 1 - up), mode="symmetric")
    rows, columns = image.shape
    total = np.full(image.shape, -float((weights * mean).sum()))
    for i, j in np.ndindex(side, side):
        total += weights[i, j] * padded[i : i + rows, j : j + columns]
    return total


def _feature(image: Array, *, weights: Float64, mean: Float64) -> Float32:
    """Return a filtered image, NaN where the image is."""
    return np.where(np.isfinite(image[0]), filtered(image[0], weights=weights, mean=mean), np.nan).astype(
        np.float32
    )


def _scaled(image: Array, *, weights: Float64, mean: Float64, start: float, gated: bool) -> Float32:
    """Return how far a pixel is along the way between the clusters: 1 halfway, NaN where the image is."""
    along = np.maximum(filtered(image[0], weights=weights, mean=mean) - start, 0)
    if gated:
        along = along / (1 + along)
    return finished(np.where(np.isfinite(image[0]), along, np.nan))


def _columns(*images: Array) -> Float64:
    """Return the pixels that are finite in every image, ``(image, n)``."""
    pixels = np.concatenate([image.reshape(1, -1) for image in images]).astype(np.float64)
    return pixels[:, np.isfinite(pixels).all(axis=0)]


def _side_by_side(a: Array, b: Array) -> Array:
    """Join two sets of pixels."""
    return np.concatenate([a, b], axis=1)


def two_means(pixels: Float64, *, least_separation: float = 3.5) -> Float64:
    """Split pixels into two clusters by k-means, from fixed starts.

    Of the splits whose clusters stand apart, the tightest counts; where none does, the tightest of all.
    Without the first rule a rare change is passed over for a cut through the middle of the many.

    Parameters
    ----------
    pixels : (k + 1, n) float64, k features and last the difference, which only names the clusters
    least_separation : see :func:`pca_kmeans`

    Returns
    -------
    (2·k + 2,) float64: center of the cluster with the smaller mean difference, center of the other,
    separation of these means in standard deviations of the first, share of the second; all 0 where the
    pixels cannot be split
    """
    features, difference = pixels[:-1], pixels[-1]
    best = np.zeros(2 * len(features) + 2)
    least = (True, np.inf)
    for quantiles in STARTS if features.size else ():
        found = _lloyd(features, features[0] > np.quantile(features[0], quantiles).mean())
        if found is None:
            continue
        high, spread = found
        split = _described(features, difference, high)
        rank = (not split[-2] > least_separation, spread)
        if rank < least:
            best, least = split, rank
    return best


def _described(features: Float64, difference: Float64, high: Array) -> Float64:
    """Return two clusters as :func:`two_means` does."""
    if difference[high].mean() < difference[~high].mean():
        high = ~high
    apart, sd = difference[high].mean() - difference[~high].mean(), difference[~high].std()
    centers = [features[:, part].mean(axis=1) for part in (~high, high)]
    separation = apart / max(sd, 1e-9 * apart) if apart > 0 else 0.0  # finite also without any noise
    return np.concatenate([*centers, [separation, high.mean()]])


def _lloyd(features: Float64, high: Array) -> tuple[Array, float] | None:
    """Move two clusters until they settle; return the second one's pixels and the squared distances' sum."""
    total, size = features.sum(axis=1), high.size
    for _ in range(MAX_ITERATIONS):
        n = int(high.sum())
        if not 0 < n < size:
            return None
        above = features @ high.astype(np.float64)
        a, b = (total - above) / (size - n), above / n
        nearer = (b - a) @ features > (b - a) @ (a + b) / 2
        settled, high = np.count_nonzero(nearer != high) <= SETTLED * size, nearer
        if settled:
            break
    if not 0 < high.sum() < size:
        return None
    parts = (features[:, part] for part in (~high, high))
    return high, sum(float(part.var(axis=1).sum() * part.shape[1]) for part in parts)


def pca_kmeans(
    before: xr.DataArray,
    after: xr.DataArray,
    *,
    block_px: int = 4,
    components: int = 3,
    least_separation: float = 3.5,
    threads: int = 1,
) -> xr.DataArray:
    """Two clusters of the neighborhoods of the difference (Celik 2009, doi:10.1109/LGRS.2009.2025059).

    The difference's length is cut into blocks, whose principal components serve as filters at every pixel;
    k-means splits the filtered pixels in two, and the cluster with the larger mean difference is change.

    Parameters
    ----------
    before, after : (band, y, x) or (y, x), NaN = invalid; a pixel counts where every band of both is finite
    block_px : side of a block, and of the neighborhood, px; objects much smaller are lost
    components : how many filters, at most block_px²
    least_separation : distance of the clusters' mean differences, in standard deviations of the unchanged
        one, that it takes to believe the split. k-means cuts any image in two: through white noise at 1 or
        less, through one band's noise that is smooth over a block at 3.4
    threads : threads for eager work

    Returns
    -------
    (y, x) float32, ≥ 0: how far the pixel is from the center of the unchanged cluster towards the other,
    1 = halfway. Attributes: ``suggested_threshold`` 1, above which are the method's own changed pixels;
    ``separation`` of the clusters' mean differences in standard deviations of the unchanged one; ``gated``,
    true where that is not above ``least_separation``: values x are then pressed together to x/(1 + x), below
    1. Filters and clusters are found at once, the result is lazy where an image is

    Raises
    ------
    SettingError
        ``block_px`` is below 2, or ``components`` not between 1 and block_px².
    DegenerateError
        Fewer valid blocks than pixels in a block.
    """
    if block_px < 2 or not 1 <= components <= block_px**2:
        raise SettingError(
            f"block_px={block_px}, components={components}; wanted blocks of at least 2 px, and from 1 to "
            "block_px² components"
        )
    made = Pixelwise(_difference_length)(before, after, threads=threads)
    lengths = in_memory(made.drop_vars("band", errors="ignore"))
    axes = _principal((_blocks(lengths, block_px),), block_px**2)
    shape = (-1, block_px, block_px)
    filters, mean = axes.weights[:components].reshape(shape), axes.mean.reshape(shape)[0]
    features = [
        Windowed(partial(_feature, weights=weights, mean=mean), block_px)(lengths, threads=threads)
        for weights in filters
    ]
    cut = partial(two_means, least_separation=least_separation)
    split = Reduction(_columns, _side_by_side, cut, dims=(("value", 2 * len(filters) + 2),))
    found = split(*(sampled(image) for image in (*features, lengths))).values
    gated = not found[-2] > least_separation
    result = _towards(lengths, (filters, mean), found, gated, threads)
    facts = {"separation": float(found[-2]), "changed_share": float(found[-1]), "gated": gated}
    return result.assign_attrs(suggested_threshold=1.0, **facts)


def _towards(
    lengths: xr.DataArray, axes: tuple[Float64, Float64], found: Float64, gated: bool, threads: int
) -> xr.DataArray:
    """Project the neighborhoods on the line between the clusters' centers: one filter says it all."""
    filters, mean = axes
    low, high = found[:-2].reshape(2, -1)
    apart = float((high - low) @ (high - low))
    along = 2 * (high - low) / apart if apart > 0 else np.zeros_like(low)
    weights = np.tensordot(along, filters, 1) if len(filters) else np.zeros_like(mean)
    kernel = partial(_scaled, weights=weights, mean=mean, start=float(along @ low), gated=gated)
    return Windowed(kernel, len(mean))(lengths, threads=threads)


def _with_bands(image: xr.DataArray) -> xr.DataArray:
    """Give an image without bands one, without a name."""
    if "band" in image.dims:
        return image
    return image.drop_vars("band", errors="ignore").expand_dims("band")
