"""What water and land send back to a SAR, date by date.

Wind roughens open water: its power differs by 10 dB and more between dates, over kilometers alike. Land
differs by moisture and by the gain of the product. Both are taken out before any test.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from changedet.steps._robust import nan_median

Array = npt.NDArray[Any]

CELL_PX = 16
"""Side of the cells in which the level of water is taken."""

LEAST_PX = 100
"""Fewer pixels of water are none: a dark field, a shadow."""

FLOOR = 1e-5
"""Smallest power trusted, linear: below the noise of any sensor."""

WATER, SHORE, LAND = range(3)


def usable(image: Array) -> Array:
    """Return power with a floor; what is not positive is no measurement."""
    with np.errstate(invalid="ignore"):
        return np.where(image > 0, np.maximum(image, np.float32(FLOOR)), np.nan).astype(np.float32)


def cells_at(level: Array, window: tuple[slice, slice]) -> Array:
    """Interpolate the level of cells to the pixels of a window, (..., y, x)."""
    parts = []
    for axis, side in zip((-2, -1), window, strict=True):
        at = (np.arange(side.start, side.stop) + 0.5) / CELL_PX - 0.5
        last = level.shape[axis] - 1
        at = np.clip(at, 0, last)
        low = np.minimum(at.astype(int), max(last - 1, 0))
        parts.append((low, np.minimum(low + 1, last), (at - low).astype(np.float32)))
    (r0, r1, fr), (c0, c1, fc) = parts
    top = level[..., r0, :] * (1 - fr)[:, None] + level[..., r1, :] * fr[:, None]
    return np.asarray(top[..., c0] * (1 - fc) + top[..., c1] * fc)


def log_power(stack: xr.Dataset, t: int) -> Array:
    """Return log power of a date, (band, y, x)."""
    return np.asarray(np.log(usable(stack.image.isel(time=t).transpose("band", "y", "x").values)))


def usual_power(stack: xr.Dataset, n_history: int) -> tuple[Array, Array, Array]:
    """Return the mean log power over all dates, over the history, and the part of the latter that is chance.

    Half of the difference between the means of every other date of the history varies as the mean of all of
    them does, without what is fixed on the ground. All three are (band, y, x).
    """
    shape = (stack.sizes["band"], stack.sizes["y"], stack.sizes["x"])
    total, count = np.zeros((2, *shape)), np.zeros((2, *shape), np.int32)
    early = halves = np.zeros(shape)
    for t in range(stack.sizes["time"]):
        value = log_power(stack, t)
        known = np.isfinite(value)
        total[t % 2] += np.where(known, value, 0)
        count[t % 2] += known
        if t + 1 == n_history:
            even, odd = np.where(count > 0, total / np.maximum(count, 1), np.nan)
            early, halves = _mean(total, count), (even - odd) / 2
    mean = _mean(total, count)
    return mean, np.where(np.isfinite(early), early, mean), halves


def _mean(total: Array, count: Array) -> Array:
    """Return the mean of two sums, NaN where nothing was added."""
    n = count.sum(axis=0)
    return np.where(n > 0, total.sum(axis=0) / np.maximum(n, 1), np.nan)


def surfaces_of(
    history: Array,
    chance: Array,
    bands: tuple[str, ...],
    *,
    apart_db: float = 5.0,
    even_db: float = 1.2,
    side: int = 7,
    shore_px: int = 2,
) -> tuple[Array, Array]:
    """Tell water from land by the mean power of the history: water is dark, and alike everywhere.

    Parameters
    ----------
    history : (band, y, x) mean log power
    chance : (band, y, x) what varies as its speckle does, and by nothing else
    bands : names; cross-polarized power is used where there is some, as wind hardly changes it
    apart_db : water and land differ by more than this, else the scene is one of both
    even_db : water differs less than this from place to place, speckle apart; dry plains differ more
    side : of the median that removes what is small in the water
    shore_px : pixels this close to the line between both are shore

    Returns
    -------
    wet : (y, x) bool
    stratum : (y, x) int8

    Notes
    -----
    Dark is what lies below about −15 dB in VV or HH, −20 dB in VH or HV, the customary levels.
    """
    from scipy import ndimage

    wet = _even_dark(history, chance, bands, (apart_db, even_db), side)
    edge = ndimage.maximum_filter(wet, 2 * shore_px + 1) & ~ndimage.minimum_filter(wet, 2 * shore_px + 1)
    return wet, np.where(edge, SHORE, np.where(wet, WATER, LAND)).astype(np.int8)


def water_band(bands: tuple[str, ...]) -> tuple[int, float]:
    """Return the band that tells water from land best, and the level below which water lies, dB."""
    cross = [i for i, b in enumerate(bands) if b in ("vh", "hv")]
    return (cross[0], -20.0) if cross else (0, -15.0)


def _even_dark(
    history: Array, chance: Array, bands: tuple[str, ...], limits_db: tuple[float, float], side: int
) -> Array:
    """Return where a scene is dark and even, (y, x) bool: all of it, a part cut off by level, or nothing."""
    from scipy import ndimage
    from skimage.filters import threshold_otsu

    band, limit = water_band(bands)
    apart_db, even_db = limits_db
    value = history[band] * (10 / np.log(10))
    known: Array = np.asarray(np.isfinite(value))
    if not known.any():
        return known
    smooth = ndimage.median_filter(np.where(known, value, np.median(value[known])), side, mode="nearest")
    part = known
    for _ in range(4):  # the darkest part may hold bare hills beside a corner of sea: cut again
        if np.median(smooth[part]) < limit and roughness_db(history, chance, part) < even_db:
            return np.asarray(part)
        if np.ptp(smooth[part]) == 0:
            break
        dark = part & (smooth <= threshold_otsu(smooth[part]))
        rest = known & ~dark
        if dark.sum() < LEAST_PX or np.median(smooth[rest]) - np.median(smooth[dark]) < apart_db:
            break
        part = dark
    return np.zeros_like(known)


def shore_wet(stack: xr.Dataset, wet: Array, stratum: Array, *, apart_db: float = 3.0) -> Array:
    """Tell for every date which pixels of the shore are under water, (time, pixel) 1, 0, NaN unknown.

    Parameters
    ----------
    stack, wet, stratum : see :func:`surfaces_of`
    apart_db : dates on which wind makes water as bright as land, to this, say nothing
    """
    from scipy.ndimage import uniform_filter

    band, _ = water_band(tuple(map(str, stack.band.values)))
    shore = stratum == SHORE
    out = np.full((stack.sizes["time"], int(shore.sum())), np.nan, np.float32)
    for t in range(len(out) if shore.any() else 0):
        value = log_power(stack, t)[band]
        levels = [
            float(np.median(v)) if (v := value[part & np.isfinite(value)]).size else np.nan
            for part in (wet & ~shore, ~wet & ~shore)
        ]
        if levels[1] - levels[0] > apart_db * np.log(10) / 10:
            known = np.isfinite(value)
            near = uniform_filter(np.where(known, value, np.mean(levels)), 3)[shore]
            out[t] = np.where(known[shore], near < np.mean(levels), np.nan)
    return out


def roughness_db(history: Array, chance: Array, part: Array) -> float:
    """Return by how much a part of the scene differs from place to place, speckle apart, dB.

    Parameters
    ----------
    history, chance : see :func:`surfaces_of`
    part : (y, x) bool
    """
    spread = []
    for image in (history, chance):
        values = image.mean(axis=0)[part]
        values = values[np.isfinite(values)]
        if values.size < 30:
            return 0.0
        spread.append(float(np.subtract(*np.quantile(values, [0.75, 0.25]))) / 1.349)
    return float(np.sqrt(max(spread[0] ** 2 - spread[1] ** 2, 0)) * 10 / np.log(10))


def levels(stack: xr.Dataset, usual: Array, wet: Array, *, least: int = 30) -> tuple[Array, Array]:
    """Return the level of land of every date, and of cells of water, over their usual ones.

    Parameters
    ----------
    stack, usual, wet : see :func:`usual_power`, :func:`surfaces_of`
    least : pixels of water a cell must have; others take the median of the scene
    """
    times, bands = stack.sizes["time"], stack.sizes["band"]
    cells = tuple(-(-s // CELL_PX) for s in wet.shape)
    land, water = np.zeros((times, bands)), np.zeros((times, bands, *cells))
    for t in range(times):
        rise = log_power(stack, t) - usual
        for b in range(bands):
            dry = rise[b][~wet & np.isfinite(rise[b])]
            land[t, b] = steady_level(dry)
            if wet.any():
                water[t, b] = cell_medians(np.where(wet, rise[b], np.nan), cells, least)
    return land.astype(np.float32), water.astype(np.float32)


def steady_level(rise: Array) -> float:
    """Return the middle of the narrowest half of the rises: of the land that changed least between dates."""
    if rise.size < 30:
        return 0.0
    ordered = np.sort(rise)
    half = ordered.size // 2
    width = ordered[half:] - ordered[: ordered.size - half]
    narrow = np.flatnonzero(width <= 1.02 * width.min())
    start = int(narrow.mean())
    return float(np.median(ordered[start : start + half]))


def cell_medians(rise: Array, cells: tuple[int, int], least: int) -> Array:
    """Return medians over cells of water and their eight neighbors, (row, column)."""
    padded: Array = np.full((cells[0] * CELL_PX, cells[1] * CELL_PX), np.nan)
    padded[: rise.shape[0], : rise.shape[1]] = rise
    parts = padded.reshape(cells[0], CELL_PX, cells[1], CELL_PX).transpose(1, 3, 0, 2).reshape(-1, *cells)
    count = np.isfinite(parts).sum(axis=0)
    middle = np.where(count >= least, nan_median(parts), np.nan)
    whole = float(np.nanmedian(rise)) if np.isfinite(rise).any() else 0.0
    around = np.pad(middle, 1, constant_values=np.nan)
    near = np.stack([around[i : i + cells[0], j : j + cells[1]] for i in range(3) for j in range(3)])
    smooth = nan_median(near)
    return np.where(np.isfinite(smooth), smooth, whole)
