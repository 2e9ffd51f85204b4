"""Footprints into pixels: coverage fractions, blur and sub-pixel shift, mixing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from changedet.errors import SettingError

if TYPE_CHECKING:
    from affine import Affine

Array = NDArray[np.float32]
Window = tuple[slice, slice]
_FWHM = 2.3548200450309493  # of a Gaussian, in sigmas


def coverage(geometry: Any, transform: Affine, shape: tuple[int, int], oversample: int = 8) -> Array:
    """Share of every pixel that a footprint covers.

    Each pixel is cut into `oversample` lines along x, on which the covered length is exact; across them an
    edge is placed to 1/(2 * oversample) px or better.

    Parameters
    ----------
    geometry : shapely geometry (areas; lines and points cover nothing), in the units of `transform`
    transform : pixel (column, row) to map, any affine
    shape : (rows, columns)
    oversample : lines a pixel

    Returns
    -------
    (y, x) float32 array, 0 to 1

    Raises
    ------
    SettingError
        `oversample` is less than 1.
    """
    if oversample < 1:
        raise SettingError(f"oversample is {oversample!r}; wanted a whole number of 1 or more")
    out = np.zeros(shape, dtype=np.float32)
    found = window_coverage(geometry, transform, shape, oversample)
    if found is not None:
        out[found[0]] = found[1]
    return out


def window_coverage(
    geometry: Any, transform: Affine, shape: tuple[int, int], oversample: int = 8
) -> tuple[Window, Array] | None:
    """As `coverage`, only the part of the grid that the footprint can touch; None where it touches none."""
    import shapely

    if geometry is None or geometry.area == 0:
        return None
    inverse = ~transform
    pixels = shapely.transform(geometry, lambda p: np.column_stack(_apply(inverse, p[:, 0], p[:, 1])))
    x0, y0, x1, y1 = pixels.bounds
    cols = slice(max(int(np.floor(x0)), 0), min(int(np.ceil(x1)), shape[1]))
    rows = slice(max(int(np.floor(y0)), 0), min(int(np.ceil(y1)), shape[0]))
    if cols.start >= cols.stop or rows.start >= rows.stop:
        return None
    return (rows, cols), _fill(_edges(pixels), rows, cols, oversample)


def _apply(transform: Affine, x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    return transform.a * x + transform.b * y + transform.c, transform.d * x + transform.e * y + transform.f


def _edges(pixels: Any) -> NDArray[np.float64]:
    """`(n, 4)` x0, y0, x1, y1 of every polygon's edges, the inside on the left of each."""
    import shapely
    from shapely.geometry.polygon import orient

    found = []
    for part in shapely.get_parts(pixels):
        if part.geom_type == "Polygon":
            rings = (orient(part).exterior, *orient(part).interiors)
            found += [shapely.get_coordinates(ring) for ring in rings]
        elif shapely.get_dimensions(part) > 1:
            found.append(_edges(part))
    joined = [ring if ring.shape[1] == 4 else np.hstack([ring[:-1], ring[1:]]) for ring in found]
    return np.concatenate(joined).astype(np.float64)


def _fill(edges: NDArray[np.float64], rows: slice, cols: slice, oversample: int) -> Array:
    """Coverage of a window: along each sub-row an edge adds or takes away all that lies to its right."""
    height, width = rows.stop - rows.start, cols.stop - cols.start
    x0, y0, x1, y1 = edges.T
    y = rows.start + (np.arange(height * oversample) + 0.5) / oversample
    line, edge = np.nonzero((y[:, None] >= np.minimum(y0, y1)) & (y[:, None] < np.maximum(y0, y1)))
    slope = (x1[edge] - x0[edge]) / (y1[edge] - y0[edge])
    x = np.clip(x0[edge] + (y[line] - y0[edge]) * slope - cols.start, 0, width)
    sign = np.where(y1[edge] < y0[edge], 1.0, -1.0) / oversample
    col = np.floor(x).astype(np.int64)
    spot = (line // oversample) * (width + 2) + col
    size = height * (width + 2)
    own, rest = sign * (col + 1 - x), sign * (x - col)
    steps = np.bincount(spot, own, size) + np.bincount(spot + 1, rest, size)
    total = np.cumsum(steps.reshape(height, width + 2)[:, :width], axis=1)
    return np.clip(total, 0, 1).astype(np.float32)


def blur_and_shift(layers: Array, psf_fwhm_px: float, shift_px: tuple[float, float]) -> Array:
    """Blur `(..., y, x)` by a Gaussian and move its content by `(dy, dx)` px, in one Fourier product.

    The picture is taken as periodic: give it a margin. Sums are kept exactly.
    """
    import scipy.fft

    rows, cols = layers.shape[-2:]
    fy, fx = np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(cols)[None, :]
    sigma = psf_fwhm_px / _FWHM
    gain = np.exp(-2 * (np.pi * sigma) ** 2 * (fy**2 + fx**2))
    phase = np.exp(-2j * np.pi * (fy * shift_px[0] + fx * shift_px[1]))
    out = scipy.fft.irfft2(scipy.fft.rfft2(layers) * (gain * phase).astype(np.complex64), s=(rows, cols))
    return np.asarray(out, dtype=np.float32)


def render_structure(
    image: Array,
    coverage: Array,
    spectrum: Array,
    psf_fwhm_px: float,
    shift_px: tuple[float, float] = (0.0, 0.0),
) -> Array:
    """Put a material into pixels that are already there, through the sensor's blur.

    Parameters
    ----------
    image : (band, y, x) float array, reflectance, NaN = not usable (stays NaN)
    coverage : (y, x) share of each pixel covered, 0 to 1, as from `coverage`
    spectrum : (band,) reflectance of the material
    psf_fwhm_px : FWHM of the Gaussian blur beyond the pixel itself
    shift_px : (dy, dx) by which this scene's content lies off the grid of `coverage` (positive: down, right)

    Returns
    -------
    (band, y, x) float32 array, new. Over a uniform background the sum of what was added equals coverage times
    contrast, as long as the footprint lies a few pixels inside the image.

    Raises
    ------
    SettingError
        The shapes do not fit one another.
    """
    values = np.asarray(spectrum, dtype=np.float32)
    if image.ndim != 3 or coverage.shape != image.shape[1:] or values.shape != image.shape[:1]:
        raise SettingError(
            f"image {image.shape}, coverage {coverage.shape} and spectrum {values.shape} do not fit: "
            "wanted (band, y, x), (y, x) and (band,)"
        )
    share = structure_share(coverage, psf_fwhm_px, shift_px)
    return np.asarray(image + share * (values[:, None, None] - image), dtype=np.float32)


def structure_share(coverage: Array, psf_fwhm_px: float, shift_px: tuple[float, float] = (0.0, 0.0)) -> Array:
    """Share that a footprint has of what every pixel sees, through the sensor's blur.

    Parameters
    ----------
    coverage, psf_fwhm_px, shift_px : as of `render_structure`

    Returns
    -------
    (y, x) float32 array, 0 far from the footprint; its sum is that of `coverage`
    """
    out = np.zeros(coverage.shape, dtype=np.float32)
    where = _support(coverage, int(np.ceil(4 * psf_fwhm_px / _FWHM + max(map(abs, shift_px)) + 3)))
    if where is None:
        return out
    (rows, cols), padded = where
    share = blur_and_shift(padded, psf_fwhm_px, shift_px)
    height, width = coverage.shape
    inside = (
        slice(max(rows.start, 0), min(rows.stop, height)),
        slice(max(cols.start, 0), min(cols.stop, width)),
    )
    share = share[inside[0].start - rows.start :, inside[1].start - cols.start :]
    out[inside] = share[: inside[0].stop - inside[0].start, : inside[1].stop - inside[1].start]
    return out


def _support(coverage: Array, margin: int) -> tuple[Window, Array] | None:
    """Window (it may reach outside the grid) around what is covered, with its zero-padded coverage."""
    rows, cols = np.nonzero(coverage.any(axis=1))[0], np.nonzero(coverage.any(axis=0))[0]
    if not rows.size:
        return None
    core = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(cols[0]), int(cols[-1]) + 1))
    padded = np.pad(np.asarray(coverage[core], dtype=np.float32), margin)
    outer = tuple(slice(s.start - margin, s.stop + margin) for s in core)
    return (outer[0], outer[1]), padded
