"""Choose pixels that did not change: steady over many dates, or alike on two by IR-MAD."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from changedet.steps._mad import irmad
from changedet.steps._resample import erode, filter_axis
from changedet.steps._stable import Sample, median_spread, water

Array = npt.NDArray[Any]
NoChangeName = Literal["stability", "irmad", "auto"]

NO_CHANGE = ("stability", "irmad", "auto")
FEWEST_FOR_STABILITY = 4
"""Dates below which no spread over time is known."""

_SURE = 0.95  # p-value of no change: about 5 % of what did not change
_BINS, _PER_BIN, _STEADY = 10, 500, 0.25
_SHORE_PX = 2
_AROUND_PX = 5
_GRADIENT = np.array([-0.5, 0.0, 0.5])
_FLATTEST = 0.8  # share of the land, by gradient, that is not an edge


def no_change_pixels(
    median: Array,
    spread: Array,
    valid: Array,
    *,
    bins: int = _BINS,
    per_bin: int = _PER_BIN,
    share: float = _STEADY,
) -> npt.NDArray[np.bool_]:
    """Choose steady pixels, as many dark as bright ones.

    Parameters
    ----------
    median, spread : (band, y, x) float arrays: level over time and robust standard deviation
    valid : (y, x) bool, True where a pixel may be chosen (dry, not an edge)
    bins : classes of brightness of equal width, 1 % to 99 % of the valid pixels
    per_bin : most pixels of one class, evenly spread over its steady ones
    share : of a class that counts as steady

    Returns
    -------
    (y, x) bool
    """
    chosen = np.zeros(valid.shape, bool)
    known = valid & np.isfinite(median).all(axis=0)
    if not known.any():
        return chosen
    unrest = _unrest(spread[:, known])
    bright = median[:, known].mean(axis=0)
    low, high = np.quantile(bright, (0.01, 0.99))
    part = np.clip(((bright - low) / max(high - low, 1e-12) * bins).astype(int), 0, bins - 1)
    take = np.zeros(bright.size, bool)
    for k in range(bins):
        members = np.flatnonzero(part == k)
        if members.size:
            steady = members[unrest[members] <= np.quantile(unrest[members], share)]
            take[steady[:: max(-(-steady.size // per_bin), 1)]] = True
    chosen[known] = take
    return chosen


def _unrest(spread: Array) -> Array:
    """Spread over time of each pixel ``(band, n)``, bands added in units of their own usual spread: (n,)."""
    finite = np.isfinite(spread)
    if not finite.all(axis=0).any():  # too few dates to tell
        return np.zeros(spread.shape[1])
    usual = [max(float(np.median(s[f])), 1e-12) for s, f in zip(spread, finite, strict=True)]
    whole = np.where(finite, spread, np.inf) / np.array(usual)[:, None]
    return np.asarray(whole.sum(axis=0))


def leveled(images: Array) -> Array:
    """Take each date's distance from the median date away, band by band, so that offsets are no unrest."""
    flat = images.reshape(*images.shape[:2], -1)
    some = flat[..., :: max(flat.shape[-1] // 20_000, 1)]
    apart, _, _ = median_spread(np.moveaxis(some - median_spread(some)[0], -1, 0))
    return np.asarray(images - np.nan_to_num(apart)[..., None, None])


def surroundings(images: Array) -> Array:
    """Mean of the valid pixels of 5 x 5 around each pixel, without itself.

    Pixels are chosen by what their surroundings do: chosen by their own values they would be picked by their
    noise, and pull the lines flat.
    """
    if images.ndim > 2:  # one at a time: what is made on the way fits the cache
        return np.stack([surroundings(one) for one in images])
    from scipy.ndimage import uniform_filter

    size = (_AROUND_PX, _AROUND_PX)
    ok = np.isfinite(images)
    filled = np.where(ok, images, np.float32(0))
    total = uniform_filter(filled, size, mode="constant") * _AROUND_PX**2 - filled
    count = uniform_filter(ok.astype(np.float32), size, mode="constant") * _AROUND_PX**2 - ok
    return np.asarray(np.where(ok & (count > 0.5), total / np.maximum(count, 1), np.float32(np.nan)))


def steady_weights(sample: Sample, weights: xr.DataArray | None, median: Array, spread: Array) -> Array:
    """No-change weights (1 or time, y, x), zero where a pixel is not to be used."""
    dry = erode(~water(sample, median), 0 if sample.sar else _SHORE_PX)
    if weights is not None:
        given = sample.cut_plain(weights)
        given = given[None] if given.ndim == 2 else given
        return np.asarray(np.where(dry & (given > 0), given, 0))
    steep = np.zeros(dry.shape, np.float32)
    for level in np.nan_to_num(median):
        steep += sum(np.square(filter_axis(level, _GRADIENT, -1, axis)) for axis in (0, 1))
    known = np.asarray(dry & np.isfinite(median).all(axis=0))
    edge = np.quantile(steep[known], _FLATTEST) if known.any() else 0.0
    return no_change_pixels(median, spread, known & (steep <= edge))[None].astype(np.float32)


def alike_weights(sample: Sample, image: Array, target: Array) -> Array:
    """No-change weights (y, x) of two images: 1 where IR-MAD's p-value of no change is above 0.95 on land.

    The statistic looks at the surroundings of each pixel, so that its own noise does not decide.

    Parameters
    ----------
    sample : where the images come from
    image, target : (band, y, x)

    Raises
    ------
    DegenerateError
        The land determines no axes: too few pixels, or bands that repeat one another.
    """
    with np.errstate(invalid="ignore"):
        both = (image + target) / 2
    wet = water(sample, both)
    dry = erode(~wet, 0 if sample.sar else _SHORE_PX) & np.isfinite(both).all(axis=0)
    pair = (image, target) if sample.sar else (surroundings(image), surroundings(target))
    before, after = (
        xr.DataArray(np.where(dry, a, np.float32(np.nan)), dims=("band", "y", "x")) for a in pair
    )
    p_value = irmad(before, after)["p_value"].values
    return np.asarray(np.nan_to_num(p_value) > _SURE, np.float32)
