"""Kernels of :mod:`changedet.steps.difference`: arrays in, arrays out, no chunks.

Bands are added in a loop: the order of additions is then the same in every block, so that results are equal
to the bit on any chunking, and no temporary is larger than one band.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from changedet.errors import SettingError
from changedet.steps._finite import finished

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]

_QUIET = np.errstate(all="ignore")  # NaN and infinity are inputs here, and come out as NaN


@_QUIET
def absolute_difference(before: Array, after: Array) -> Float32:
    """Mean over the bands of the absolute difference.

    Parameters
    ----------
    before, after : (band, y, x) array, NaN = invalid

    Returns
    -------
    (y, x) float32 array, ≥ 0, unit of the input, NaN where a band of either is not finite

    >>> absolute_difference(np.array([[[0.1]], [[0.5]]]), np.array([[[0.3]], [[0.4]]]))
    array([[0.15]], dtype=float32)
    """
    return finished(_total(np.abs(d, out=d) for d in _differences(before, after)) / len(before))


@_QUIET
def change_vector(before: Array, after: Array, scale: Array | None = None) -> Float32:
    """Length of the change vector over the bands (Malila 1980; Bovolo & Bruzzone 2007).

    Parameters
    ----------
    before, after : (band, y, x) array, NaN = invalid
    scale : (band, 1, 1) array or None; each band's difference is divided by it

    Returns
    -------
    (y, x) float32 array, ≥ 0, NaN where a band of either is not finite

    >>> change_vector(np.zeros((2, 1, 1)), np.array([[[3.0]], [[-4.0]]]))
    array([[5.]], dtype=float32)
    """
    return _length(_differences(before, after), scale)


@_QUIET
def spectral_angle(before: Array, after: Array) -> Float32:
    """Angle between the spectra of both dates; blind to a change of brightness alone.

    Uses ``2·atan2(|â−b̂|, |â+b̂|)``, which keeps small angles where the arc cosine loses them.

    Parameters
    ----------
    before, after : (band, y, x) array, NaN = invalid

    Returns
    -------
    (y, x) float32 array, rad, 0 to π, NaN where a band of either is not finite or a spectrum is 0

    >>> spectral_angle(np.array([[[1.0]], [[0.0]]]), np.array([[[1.0]], [[1.0]]]))
    array([[0.7853982]], dtype=float32)
    """
    pairs = list(_pairs(before, after, np.float64))
    norm_a, norm_b = (np.sqrt(_total(pair[i] * pair[i] for pair in pairs)) for i in (0, 1))
    apart = _total((a / norm_a - b / norm_b) ** 2 for a, b in pairs)
    along = _total((a / norm_a + b / norm_b) ** 2 for a, b in pairs)
    return finished(2 * np.arctan2(np.sqrt(apart), np.sqrt(along)))


@_QUIET
def normalized_ratio(before: Array, after: Array, *, floor: float = 1e-4) -> Float32:
    """Mean over the bands of ``(after − before) / (after + before)``.

    Parameters
    ----------
    before, after : (band, y, x) array, NaN = invalid; values below 0 count as 0
    floor : smallest denominator, unit of the input, so that dark pixels do not blow up

    Returns
    -------
    (y, x) float32 array, −1 to 1, positive = brighter after, NaN where a band of either is not finite

    Raises
    ------
    SettingError
        ``floor`` is not positive.

    >>> normalized_ratio(np.array([[[0.1]]]), np.array([[[0.3]]]))
    array([[0.5]], dtype=float32)
    """
    _require_positive("floor", floor)

    def ratio(pair: tuple[Array, Array]) -> Array:
        a, b = (_at_least(band, 0) for band in pair)
        return np.asarray((b - a) / np.maximum(b + a, floor))

    return finished(_total(map(ratio, _pairs(before, after))) / len(before))


@_QUIET
def log_ratio(before: Array, after: Array, *, floor: float = 1e-4, offset: float = 0.0) -> Float32:
    """Mean over the bands of the logarithm of the ratio (Rignot & van Zyl 1993, doi:10.1109/36.239913).

    Parameters
    ----------
    before, after : (band, y, x) array, linear power or reflectance, NaN = invalid
    floor : smallest value trusted, linear; smaller ones are raised to it
    offset : added to both dates before the floor; steadies dark reflectance, 0 for power

    Returns
    -------
    (y, x) float32 array, dB, positive = brighter after, NaN where a band of either is not finite

    Raises
    ------
    SettingError
        ``floor`` is not positive.

    >>> log_ratio(np.array([[[0.01, 0.1]]]), np.array([[[0.1, 0.1]]]))
    array([[10.,  0.]], dtype=float32)
    """
    _require_positive("floor", floor)

    def decibel(pair: tuple[Array, Array]) -> Array:
        a, b = (_at_least(band + offset, floor) for band in pair)
        # The logarithms are taken apart, so that exchanging the dates changes the sign and nothing else.
        return np.asarray(np.log(b) - np.log(a))

    return finished(
        _total(map(decibel, _pairs(before, after, np.float64))) * (10 / np.log(10) / len(before))
    )


@_QUIET
def robust_change_vector(before: Array, after: Array, *, radius_px: int = 1, combine: str = "max") -> Float32:
    """Change vector that forgives a shift between the dates (Thonfeld et al. 2016).

    Per band, the smallest absolute difference to any pixel of the other date within the window, both ways.

    Parameters
    ----------
    before, after : (band, y, x) array, NaN = invalid
    radius_px : largest shift forgiven, px; 0 gives :func:`change_vector`
    combine : ``"max"`` of the two ways keeps objects narrower than the window; ``"min"`` forgives more, and
        an object narrower than 2·radius + 1 px vanishes

    Returns
    -------
    (y, x) float32 array, ≥ 0, never above :func:`change_vector`, NaN where a band of either is not finite

    Raises
    ------
    SettingError
        ``radius_px`` is below 0, or ``combine`` is neither of the two.
    """
    if combine not in ("max", "min") or radius_px < 0:
        raise SettingError(
            f"rcva: radius_px={radius_px}, combine={combine!r}; wanted a radius of at least 0 px and "
            "combine 'max' or 'min'"
        )
    join: Callable[..., Array] = np.maximum if combine == "max" else np.minimum
    shifts = [(y, x) for y in range(-radius_px, radius_px + 1) for x in range(-radius_px, radius_px + 1)]
    bands = list(_pairs(before, after))
    # A pixel that is invalid in any band is no candidate: its other bands would be of a cloud.
    bad = [np.logical_or.reduce([~np.isfinite(pair[i]) for pair in bands]) for i in (0, 1)]
    nearest = (join(_nearest(a, b, bad[1], shifts), _nearest(b, a, bad[0], shifts)) for a, b in bands)
    result = _length(nearest, None)
    result[bad[0] | bad[1]] = np.nan
    return result


def _nearest(image: Array, other: Array, bad: Array, shifts: list[tuple[int, int]]) -> Array:
    """Return the smallest |other(q) − image(x)| over the window; a shift at a time, no window axis."""
    other = np.where(bad, np.inf, other)
    best = np.full(image.shape, np.inf, image.dtype)
    rows, columns = image.shape
    for dy, dx in shifts:
        if abs(dy) < rows and abs(dx) < columns:
            here = (slice(max(-dy, 0), rows - max(dy, 0)), slice(max(-dx, 0), columns - max(dx, 0)))
            there = (slice(max(dy, 0), rows - max(-dy, 0)), slice(max(dx, 0), columns - max(-dx, 0)))
            np.fmin(best[here], np.abs(other[there] - image[here]), out=best[here])
    return best


def _pairs(before: Array, after: Array, least: npt.DTypeLike = np.float32) -> Iterator[tuple[Array, Array]]:
    """Yield both dates band by band in the working type: float32, or float64 where that would lose digits."""
    dtype = np.result_type(before, after, least)
    for a, b in zip(before, after, strict=True):
        yield np.ascontiguousarray(a, dtype), np.ascontiguousarray(b, dtype)


def _differences(before: Array, after: Array) -> Iterator[Array]:
    """Yield after − before band by band, as new arrays."""
    return (b - a for a, b in _pairs(before, after))


def _at_least(band: Array, floor: float) -> Array:
    """Raise small values to a floor; −infinity is not small but no measurement."""
    return np.where(np.isneginf(band), np.nan, np.maximum(band, floor))


def _total(bands: Iterator[Array]) -> Array:
    """Add bands in their order, into the first; they must be new arrays."""
    total = next(bands)
    for band in bands:
        total += band
    return total


def _length(bands: Iterator[Array], scale: Array | None) -> Float32:
    """Return the Euclidean length over bands, which must be new arrays."""

    def squared(numbered: tuple[int, Array]) -> Array:
        i, band = numbered
        if scale is not None:
            band /= scale[i].astype(band.dtype)
        return np.multiply(band, band, out=band)

    total = _total(map(squared, enumerate(bands)))
    return finished(np.sqrt(total, out=total))


def _require_positive(name: str, value: float) -> None:
    """Refuse a tuning value that must be above 0."""
    if not value > 0:
        raise SettingError(f"{name}={value}; wanted a number above 0")
