"""What may be used: water, frozen ground, and whether a scene is fit for the job."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

STRATA = ("water", "shore", "land")
LOG_OFFSET = 0.02
"""Added to reflectance before the logarithm: about the reflectance of dark water, so that ln stays calm."""


def log_image(image: Array, *, sar: bool = False, floor: float = 1e-4) -> Array:
    """Return the natural logarithm of an image, variance-stabilized.

    Parameters
    ----------
    image : float array, reflectance 0–1 or linear power, NaN = not usable
    sar : power instead of reflectance; values under ``floor`` are raised to it
    floor : smallest power trusted, linear

    Returns
    -------
    float32 array of the same shape

    >>> float(log_image(np.float32(0.98))).__round__(3)
    0.0
    """
    values = np.asarray(image, np.float32)
    shifted = np.maximum(values, floor) if sar else np.maximum(values, 0) + np.float32(LOG_OFFSET)
    return np.asarray(np.log(shifted), np.float32)


def as_measured(image: Array, gain: Array | None, offset: Array | None) -> Array:
    """Undo normalization: water, ice and snow are told from reflectance itself.

    A line fitted on the plants of the land turns their season into gain and offset, which make water dark or
    bright where it has not changed at all.

    Parameters
    ----------
    image : (time, band, ...) float array, ``gain · measured + offset``
    gain, offset : (time, band); None where nothing was applied
    """
    if gain is None or offset is None:
        return image
    shape = (*gain.shape, *(1,) * (image.ndim - 2))
    return np.asarray((image - offset.reshape(shape)) / gain.reshape(shape), np.float32)


def water_index(image: Array, bands: tuple[str, ...]) -> Array | None:
    """Return NDWI ``(green − nir) / (green + nir)``, or None where the bands are missing.

    Parameters
    ----------
    image : (..., band, y, x) float array, reflectance
    bands : names of the bands

    Returns
    -------
    (..., y, x) float32, NaN where not usable (McFeeters 1996, doi:10.1080/01431169608948714)
    """
    nir = next((b for b in ("nir", "nir08", "swir16") if b in bands), None)
    if "green" not in bands or nir is None:
        return None
    green = np.maximum(image[..., bands.index("green"), :, :], 0)
    infrared = np.maximum(image[..., bands.index(nir), :, :], 0)
    return np.asarray((green - infrared) / (green + infrared + np.float32(1e-3)), np.float32)


def water_level_cut(ndwi: Array, *, low: float = -0.15, high: float = 0.25) -> float:
    """Return the NDWI above which a pixel is water: Otsu's level of the stack, held to a sane range.

    Parameters
    ----------
    ndwi : float array of any shape, NaN ignored
    low, high : range to which the level is held; turbid water lies near 0, clear water above 0.3
    """
    from skimage.filters import threshold_otsu

    values = ndwi[np.isfinite(ndwi)]
    if values.size < 64 or np.ptp(values) == 0:
        return 0.0
    cut = threshold_otsu(np.clip(values, -0.8, 0.8), nbins=160)
    return float(np.clip(cut, low, high))


def visible_brightness(log_values: Array, bands: tuple[str, ...]) -> Array:
    """Return the mean log reflectance of the visible bands (of all if there is none), ``(..., y, x)``."""
    visible = [i for i, b in enumerate(bands) if b in ("blue", "green", "red")]
    return np.asarray(log_values[..., visible or slice(None), :, :].mean(axis=-3), np.float32)


def visible(log_values: Array, bands: tuple[str, ...]) -> Array:
    """Return the mean reflectance of the visible bands (of all if there is none), ``(..., y, x)``."""
    picked = [i for i, b in enumerate(bands) if b in ("blue", "green", "red")]
    return np.asarray(np.exp(log_values[..., picked or slice(None), :, :]).mean(axis=-3) - LOG_OFFSET)


@dataclass(frozen=True)
class Setting:
    """What the dates of a stack are like, from a regular sample; water and land follow from it per pixel.

    Parameters
    ----------
    bands : band names of the stack
    cut : NDWI above which a pixel is water; NaN where there is no index (SAR, missing bands)
    open_history : (time,) bool, history dates without ice or snow: they decide water and land
    frozen : (time, stratum) bool: ice, snow or dense haze
    level : (time,) water level in units of "share of the shore under water", NaN where unknown or frozen
    water_share, usable : (time,) share of usable pixels that are water; share of usable pixels
    gain, offset : (time, band) line that normalization applied; None where it applied none
    """

    bands: tuple[str, ...]
    cut: float
    open_history: Array
    frozen: Array
    level: Array
    water_share: Array
    usable: Array
    gain: Array | None = None
    offset: Array | None = None

    def wet(self, image: Array) -> Array:
        """Return 1 water, 0 not, NaN unknown, (time, ...), of (time, band, ...) normalized reflectance."""
        ndwi = water_index(as_measured(image, self.gain, self.offset), self.bands)
        if ndwi is None or not np.isfinite(self.cut):
            return np.full((image.shape[0], *image.shape[2:]), np.nan, np.float32)
        return np.where(np.isfinite(ndwi), ndwi > self.cut, np.nan).astype(np.float32)

    def stratum(self, image: Array) -> Array:
        """Return water, shore or land (index into :data:`STRATA`) of pixels from their open history."""
        early = self.open_history
        gain, offset = (None if one is None else one[: early.size][early] for one in (self.gain, self.offset))
        return strata(wet_share(replace(self, gain=gain, offset=offset).wet(image[: early.size][early])))


def wet_share(wet: Array) -> Array:
    """Return the share of known dates on which pixels were wet; NaN where never known."""
    known = np.isfinite(wet).sum(axis=0)
    return np.where(known > 0, np.nansum(wet, axis=0) / np.maximum(known, 1), np.nan).astype(np.float32)


def strata(share: Array, *, wet: float = 0.85, dry: float = 0.15) -> Array:
    """Split pixels into water, shore and land by how often they were wet; unknown counts as land."""
    known = np.nan_to_num(share, nan=0.0)
    return np.where(known >= wet, 0, np.where(known > dry, 1, 2)).astype(np.int8)


def frozen_dates(brightness: Array, stratum: Array, *, jump: float = 0.8, min_pixels: int = 30) -> Array:
    """Find dates on which a stratum is far brighter than usual (ice, snow, dense haze).

    Parameters
    ----------
    brightness : (time, pixel) visible log brightness, NaN = not usable
    stratum : (pixel,) index into :data:`STRATA`
    jump : rise over the stratum's own median over time, in ln units (0.8 = a factor 2.2)
    min_pixels : fewer usable pixels of a stratum on a date give no verdict (not frozen)

    Returns
    -------
    (time, 3) bool
    """
    frozen = np.zeros((brightness.shape[0], len(STRATA)), bool)
    for s in range(len(STRATA)):
        values = brightness[:, stratum == s]
        enough = np.isfinite(values).sum(axis=1) >= min_pixels
        if not enough.any():
            continue
        level = np.full(brightness.shape[0], np.nan)
        level[enough] = np.nanmedian(values[enough], axis=1)
        frozen[:, s] = level > np.nanmedian(level) + jump
    return frozen


def water_level(wet: Array, stratum: Array, frozen: Array, *, min_pixels: int = 20) -> Array:
    """Rank dates by water level: how much more of the shore is wet than on average.

    Parameters
    ----------
    wet : (time, pixel) 1 water, 0 not, NaN unknown
    stratum : (pixel,)
    frozen : (time, stratum) bool

    Returns
    -------
    (time,) float64, mean anomaly of "wet" over the shore's known pixels, so that a cloud over a low bar does
    not read as low water; NaN where the shore is frozen or hardly seen
    """
    shore = wet[:, stratum == 1]
    level = np.full(wet.shape[0], np.nan)
    if shore.shape[1] < min_pixels:
        return level
    known = np.isfinite(shore)
    mean = np.nansum(shore, axis=0) / np.maximum(known.sum(axis=0), 1)
    count = known.sum(axis=1)
    anomaly = np.where(known, shore - mean, 0).sum(axis=1) / np.maximum(count, 1)
    fine = (count >= max(min_pixels, 0.1 * shore.shape[1])) & ~frozen[:, :2].any(axis=1)
    return np.where(fine, anomaly, np.nan)


def history_length(n_dates: int, *, share: float = 1 / 3, least: int = 4) -> int:
    """Return how many of the first dates count as history (free of what is looked for)."""
    return int(min(max(round(n_dates * share), least), max(n_dates - 3, 1)))


def setting(sample: Array, bands: tuple[str, ...], *, n_history: int, sar: bool = False) -> Setting:
    """Describe the dates of a stack from a regular sample of its pixels.

    Parameters
    ----------
    sample : (time, band, pixel) reflectance or power, NaN = not usable
    bands : band names
    n_history : first dates that decide water and land
    sar : power instead of reflectance: no water index, nothing frozen

    Returns
    -------
    Setting
    """
    times = sample.shape[0]
    valid = np.isfinite(sample).all(axis=1)
    usable = valid.mean(axis=1)
    image = sample[..., None]  # kernels take (..., band, y, x)
    ndwi = None if sar else water_index(image, bands)
    history = np.arange(times) < n_history
    cut = water_level_cut(ndwi) if ndwi is not None else float("nan")
    base = Setting(
        bands,
        cut,
        history,
        np.zeros((times, 3), bool),
        np.full(times, np.nan),
        np.full(times, np.nan),
        usable,
    )
    if sar:
        return base
    light = visible_brightness(log_image(image), bands)[..., 0]
    frozen = frozen_dates(light, base.stratum(image)[:, 0])
    open_history = history & ~frozen.any(axis=1)
    if open_history.sum() >= 2 and ndwi is not None:
        # ice and snow look like water in NDWI: decide level and strata again from open dates
        cut = water_level_cut(ndwi[~frozen.any(axis=1)])
        base = replace(base, open_history=open_history, cut=cut)
        frozen = frozen_dates(light, base.stratum(image)[:, 0])
    stratum = base.stratum(image)[:, 0]
    wet = base.wet(image)[..., 0]
    known = np.isfinite(wet).sum(axis=1)
    share = np.where(known > 0, np.nansum(wet, axis=1) / np.maximum(known, 1), np.nan)
    return replace(base, frozen=frozen, level=water_level(wet, stratum, frozen), water_share=share)
