"""The facts about a candidate that say how likely it was built, from the evidence of its window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from changedet.grid import Window, grow
from changedet.steps import confidence, extent, mask, track
from changedet.steps._robust import middle, nan_median

Array = npt.NDArray[Any]

RING_PX = (1.5, 4.5)
"""Distances from a footprint between which its surroundings lie: beyond its blur, and still like it."""

LEAST_RING = 8
"""With fewer pixels of its own stratum around it, those of any stratum are its surroundings."""


@dataclass(frozen=True)
class Place:
    """A candidate in the window that was read around it.

    Parameters
    ----------
    candidate : what is looked at
    rows, columns : (pixel,) its footprint within the window
    image : (time, band, y, x) of the window
    value : (time, pixel) its residuals projected on its step
    residual, weight : (time, band, y, x) evidence of the window
    stratum : (y, x) of the window
    """

    candidate: track.Candidate
    rows: Array
    columns: Array
    image: Array
    value: Array
    residual: Array
    weight: Array
    stratum: Array


def middle_brightness(median: Array, bands: tuple[str, ...]) -> Array:
    """Return the visible log brightness of the middle class of a scene on every date, (time,).

    Parameters
    ----------
    median : (prototype, time, band) log values, NaN = unknown
    bands : names of the bands
    """
    return middle(mask.visible_brightness(median[..., None, None], bands)[..., 0, 0])


def gather(
    place: Place, series: track.Series, verdict: track.Verdict, causes: track.Causes, scene: Any
) -> confidence.Facts:
    """Gather the facts about a candidate.

    Parameters
    ----------
    place : where it is, and the evidence there
    series, verdict, causes : its history and what follows from it
    scene : the detector's model
    """
    candidate, bands = place.candidate, scene.setting.bands
    ring = _around(place)
    beyond = (place.residual[:, :, ring], place.weight[:, :, ring])
    around, _ = track.pixel_values(*beyond, candidate.delta, scene.whiten)
    before, after = _sides(series, verdict, causes)
    shared, contrast = confidence.beside(place.value, around, before, after)
    return confidence.Facts(
        peak=candidate.peak,
        unexplained=verdict.unexplained,
        shared=shared,
        contrast=contrast,
        visible=_largest(candidate.delta, bands, ("blue", "green", "red")),
        infrared=_largest(candidate.delta, bands, ("nir", "nir08")),
        brilliance=_brilliance(place.image[:, :, place.rows, place.columns], after, bands, scene.brightness),
        edge=causes.edge_step / max(causes.step, 0.02),
        pixels=int(place.rows.size),
        gsd_m=scene.gsd_m,
        over=causes.over,
    )


def extent_of(place: Place, seen: Array, outer: Window, bands: tuple[str, ...]) -> extent.Extent | None:
    """Measure what fills no pixel by its light on the dates that show it, in pixels of the scene.

    Parameters
    ----------
    place : where it is, and the evidence there
    seen : (time,) bool, dates that show it
    outer : the window that was read
    bands : names of the bands
    """
    window = grow(
        (slice(place.rows.min(), place.rows.max() + 1), slice(place.columns.min(), place.columns.max() + 1)),
        2,
        place.stratum.shape,
    )
    if not seen.any() or place.rows.size > extent.SMALL_PX:
        return None
    picked = (seen, slice(None), *window)
    values = mask.log_image(place.image[picked])
    values = np.where(place.weight[picked] > 0, values, np.nan)
    main = np.bincount(place.stratum[place.rows, place.columns], minlength=3).argmax()
    names = bands if main > 0 else ()  # over water all bands brighten; on land plants give way
    there, behind = (mask.visible(v, names) for v in (values, values - place.residual[picked]))
    footprint = np.zeros(place.stratum.shape, bool)
    footprint[place.rows, place.columns] = True
    found = extent.extent(nan_median(there - behind), nan_median(behind), footprint[window])
    if found is None:
        return None
    corner = [window[axis].start + outer[axis].start for axis in (0, 1)]
    return extent.Extent(found.area_px, found.row + corner[0], found.column + corner[1])


def _sides(series: track.Series, verdict: track.Verdict, causes: track.Causes) -> tuple[Array, Array]:
    """Return the open dates before and while it is there, (time,) bool."""
    t = np.arange(series.value.size)
    open_dates = np.isfinite(series.value) & ~causes.frozen
    last = verdict.last if verdict.last >= verdict.first else t.size
    return open_dates & (t < verdict.first), open_dates & (t >= verdict.first) & (t <= last)


def _around(place: Place) -> Array:
    """Return (y, x) bool, the surroundings of a footprint: of its own stratum where there are enough."""
    from scipy.ndimage import distance_transform_edt

    outside = np.ones(place.stratum.shape, bool)
    outside[place.rows, place.columns] = False
    distance = distance_transform_edt(outside)
    ring = (distance > RING_PX[0]) & (distance <= RING_PX[1])
    main = np.bincount(place.stratum[place.rows, place.columns], minlength=3).argmax()
    own = ring & (place.stratum == main)
    return np.asarray(own if own.sum() >= LEAST_RING else ring)


def _largest(delta: Array, bands: tuple[str, ...], names: tuple[str, ...]) -> float:
    """Return the largest step of some bands, NaN where none of them is there."""
    found = [float(d) for d, band in zip(delta, bands, strict=True) if band in names]
    return max(found) if found else float("nan")


def _brilliance(image: Array, after: Array, bands: tuple[str, ...], brightness: Array) -> float:
    """Return visible log brightness over that of the scene's middle class, median of some dates."""
    light = mask.visible_brightness(mask.log_image(image[after])[..., None], bands)[..., 0]
    known = np.isfinite(light).any(axis=1)
    if not known.any():
        return float("nan")
    apart = np.nanmedian(light[known], axis=1) - brightness[after][known]
    return float(np.nanmedian(apart)) if np.isfinite(apart).any() else float("nan")
