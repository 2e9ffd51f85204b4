"""Moving an image by a part of a pixel, without touching what is not valid."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from changedet.errors import SettingError

Array = npt.NDArray[Any]

REACH_PX = 4
"""Farthest pixel that the cubic kernel looks at."""

CORE_PX = 2
"""Pixels nearer than this carry nearly all of the cubic kernel: none of them may be invalid."""

_POLE = np.sqrt(3.0) - 2.0
_WHOLE_PX = 1e-6


def cubic_taps(fraction: float) -> npt.NDArray[np.float64]:
    """Weights of the cardinal cubic spline for a position between two pixels.

    Parameters
    ----------
    fraction : position beyond the pixel at or before it, 0 <= fraction < 1

    Returns
    -------
    (8,) weights for the pixels -3 ... 4 from there; they sum to 1

    >>> cubic_taps(0.5).round(3).tolist()
    [-0.009, 0.034, -0.128, 0.603, 0.603, -0.128, 0.034, -0.009]
    """
    taps = _cardinal(np.arange(-3, 5) - fraction)
    return np.asarray(taps / taps.sum(), np.float64)


def _cardinal(position: Array) -> Array:
    """Interpolating cubic spline that is 1 at 0 and 0 at the other whole numbers."""
    knots = np.arange(-24, 25)
    coefficients = -6 * _POLE / (1 - _POLE**2) * _POLE ** np.abs(knots)
    return np.asarray(bspline(position[:, None] - knots) @ coefficients)


def bspline(x: Array) -> Array:
    """Cubic B-spline."""
    a = np.abs(x)
    near, far = 2 / 3 - a**2 + a**3 / 2, np.clip(2 - a, 0, None) ** 3 / 6
    return np.asarray(np.where(a < 1, near, far))


def filter_axis(image: Array, taps: Array, first: int, axis: int) -> Array:
    """Return ``sum_k taps[k] * image[i + first + k]`` along an axis; zero beyond the edge.

    Parameters
    ----------
    image : array, left alone
    taps : (k,) weights
    first : offset of the first weight, pixels
    axis : axis to filter along
    """
    out = np.zeros_like(image)
    work = np.empty_like(image)
    for k, weight in enumerate(taps):
        if weight == 0:
            continue
        here, there = _overlap(image.ndim, axis, image.shape[axis], first + k)
        product = np.multiply(image[there], image.dtype.type(weight), out=work[here])
        out[here] += product
    return out


def _overlap(ndim: int, axis: int, n: int, offset: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Slices of the output and of the input that lie ``offset`` pixels further on."""
    size = max(n - abs(offset), 0)
    start = min(max(-offset, 0), n)
    here, there = [slice(None)] * ndim, [slice(None)] * ndim
    here[axis] = slice(start, start + size)
    there[axis] = slice(min(start + offset, n) if size else 0, (start + offset + size) if size else 0)
    return tuple(here), tuple(there)


def look_along(valid: Array, offset: int, axis: int) -> Array:
    """Return ``valid[i + offset]`` along an axis, False beyond the edge."""
    out = np.zeros_like(valid)
    here, there = _overlap(valid.ndim, axis, valid.shape[axis], offset)
    out[here] = valid[there]
    return out


def erode(valid: Array, radius_px: int, *, edges: bool = False) -> npt.NDArray[np.bool_]:
    """Keep only pixels with no invalid pixel in the square of ``2 radius_px + 1`` around them.

    Parameters
    ----------
    valid : (..., y, x) bool, True = use it
    radius_px : pixels to take off
    edges : True takes the image's edge for invalid too
    """
    out = np.asarray(valid, bool)
    for axis in (-2, -1):
        parts = [look_along(out if edges else ~out, k, axis) for k in range(-radius_px, radius_px + 1)]
        out = reduce(np.logical_and, parts) if edges else ~reduce(np.logical_or, parts)
    return out


def shift_plan(delta: float, order: int = 3) -> tuple[Array, int, range]:
    """Weights, offset of the first one, and offsets that must be valid, for a move along one axis.

    Parameters
    ----------
    delta : move, pixels; a result at ``i`` is ``sum_k weights[k] * input[i + offset + k]``
    order : 3 cubic, 1 linear, 0 nearest
    """
    if order not in (0, 1, 3):
        raise SettingError(f"order is {order}; wanted 0 (nearest), 1 (linear) or 3 (cubic)")
    if order == 0:
        delta = float(np.floor(delta + 0.5))
    whole = int(np.floor(-delta + _WHOLE_PX))
    fraction = -delta - whole
    if fraction < _WHOLE_PX:
        return np.ones(1), whole, range(whole, whole + 1)
    if order == 1:
        return np.array([1 - fraction, fraction]), whole, range(whole, whole + 2)
    return cubic_taps(fraction), whole - 3, range(whole - 1, whole + 3)


def move(image: Array, shift: tuple[float, float], *, order: int = 3) -> Array:
    """Move an array that holds no NaN by ``shift`` pixels; zero comes in from beyond the edge."""
    out = image
    for axis, delta in zip((-2, -1), shift, strict=True):
        taps, first, _ = shift_plan(delta, order)
        out = filter_axis(out, taps, first, axis)
    return out


def move_valid(valid: Array, shift: tuple[float, float], *, order: int = 3) -> npt.NDArray[np.bool_]:
    """Move a mask: True where all pixels that carry the interpolated value are valid."""
    out = np.asarray(valid, bool)
    for axis, delta in zip((-2, -1), shift, strict=True):
        _, _, core = shift_plan(delta, order)
        out = reduce(np.logical_and, [look_along(out, k, axis) for k in core])
    return out


def apply_shift(image: Array, shift: tuple[float, float], *, order: int = 3) -> npt.NDArray[np.float32]:
    """Move an image by a part of a pixel.

    The kernel is the cardinal cubic spline, cut at 4 px. A result is valid where every pixel closer than
    2 px along either axis is; the weights of invalid pixels farther out (under 4 % each) are shared among
    the others (normalized convolution), so that what lies under a mask never shows.

    Parameters
    ----------
    image : (..., y, x) array, NaN = not usable; left alone
    shift : (dy, dx), pixels; positive moves the content to larger row and column numbers
    order : 3 cubic, 1 linear, 0 nearest

    Returns
    -------
    (..., y, x) float32 array, NaN where the kernel meets invalid pixels or the edge

    Raises
    ------
    SettingError
        ``order`` is none of these, or ``shift`` is not finite.

    >>> apply_shift(np.arange(4.0).reshape(1, 4), (0, 1))
    array([[nan,  0.,  1.,  2.]], dtype=float32)
    """
    if not np.isfinite(shift).all():
        raise SettingError(f"shift is {shift}; wanted two finite numbers of pixels (dy, dx)")
    source = np.asarray(image, np.float32)
    finite = np.isfinite(source)
    filled = np.where(finite, source, np.float32(0))
    shared = finite.reshape(-1, *finite.shape[-2:])
    if (shared == shared[:1]).all():  # one mask for all bands: work it out once
        finite = shared[0]
    present = move(finite.astype(np.float32), shift, order=order)
    usable = move_valid(finite, shift, order=order)
    out = move(filled, shift, order=order)
    np.divide(out, present, out=out, where=np.broadcast_to(usable, out.shape))
    return np.where(usable, out, np.float32(np.nan))
