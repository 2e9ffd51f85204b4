"""What a stack looks like where nothing changes: a sample of it, its median, stable land, frozen dates.

Registration and normalization work on the same sample: the whole raster where it is small, else a lattice of
square tiles put side by side with gaps of NaN between them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from changedet.errors import SettingError, nearest
from changedet.grid import Grid
from changedet.scenes import Quality, is_sar
from changedet.steps._resample import erode, filter_axis

Array = npt.NDArray[Any]

SAMPLE_BYTES = 160 << 20
"""Largest sample of pixel values held in memory."""

_GAP_PX = 16  # NaN between tiles: wider than any shift that is searched
_TILES = 4  # along each side of a large raster
_PREFERRED = ("red", "green", "nir", "blue", "nir08", "swir16", "rededge3", "rededge1")
_VISIBLE = ("blue", "green", "red")
_MOST_BANDS = 4
_MOST_DATES = 11  # a median of more dates is hardly better and takes longer
_FROZEN_LN = 0.8  # brighter by 2.2 than the land's own median: ice, snow or haze
_FROZEN_SHARE = 0.3
_LEAST_USABLE = 0.5  # of the best date's usable share
_UNSTABLE = 3.0  # times the spread that noise and half a pixel of misregistration explain
_JITTER_PX = 0.5
_SHORE_PX = 2
_POWER_FLOOR = 1e-4


@dataclass(frozen=True)
class Sample:
    """Pixels of a stack, all dates.

    Parameters
    ----------
    images : (time, band, y, x) float32, NaN = not usable; logarithm of power for SAR
    bands : names of the bands
    flags : (time, y, x) uint8 of :class:`~changedet.scenes.Quality`
    sar : whether the bands are SAR polarizations
    rows, columns : tiles as slices of the raster, along each axis
    """

    images: Array
    bands: tuple[str, ...]
    flags: Array
    sar: bool
    rows: tuple[slice, ...]
    columns: tuple[slice, ...]

    def cut(self, image: xr.DataArray) -> Array:
        """Return the sampled pixels of another image ``(…, y, x)`` of the same bands and grid."""
        values = self.cut_plain(image)
        return log_power(values) if self.sar else values

    def cut_plain(self, image: xr.DataArray) -> Array:
        """Return the sampled pixels of any ``(…, y, x)`` array as they are; gaps are NaN (0 for integers)."""
        return _cut(image, self.rows, self.columns)

    @property
    def starts(self) -> tuple[list[int], list[int]]:
        """First row of every tile within the sample, and first column."""
        both = (self.rows, self.columns)
        at = [[i * (part[0].stop - part[0].start + _GAP_PX) for i in range(len(part))] for part in both]
        return at[0], at[1]

    def place(self, points: Array) -> tuple[Array, Array]:
        """Return rows and columns in the raster of points ``(n, 2)`` of the sample."""
        out = []
        for k, parts in enumerate((self.rows, self.columns)):
            pitch = parts[0].stop - parts[0].start + _GAP_PX
            tile = np.clip(points[:, k] // pitch, 0, len(parts) - 1).astype(int)
            out.append(points[:, k] - tile * pitch + np.array([p.start for p in parts])[tile])
        return out[0], out[1]

    def patch(self, **changes: Any) -> Sample:
        """Return a copy with some fields changed."""
        return replace(self, **changes)


def draw(
    stack: xr.Dataset, *, bands: tuple[str, ...], sample_px: int = 640, tile_px: int | None = None
) -> Sample:
    """Read a sample of a stack; a lazy stack is read only there.

    Parameters
    ----------
    stack : stack with ``image`` and perhaps ``quality``
    bands : bands to read
    sample_px : side of the largest sample, pixels; less where the stack has many dates
    tile_px : side of the tiles of a large raster; None takes a quarter of the sample's
    """
    image = stack["image"]
    if bands != tuple(map(str, image["band"].values)):
        image = image.sel(band=list(bands))
    afford = np.sqrt(SAMPLE_BYTES / (4 * max(image.sizes["time"] * len(bands), 1)))
    side = int(max(min(sample_px, afford), 64))
    rows, columns = tiles((image.sizes["y"], image.sizes["x"]), side, tile_px)
    wanted = {"image": image} | ({"quality": stack["quality"]} if "quality" in stack else {})
    # computed together, so that a lazy stack reads each of its blocks once
    there = xr.Dataset({k: _chosen(v, rows, columns) for k, v in wanted.items()}).compute()
    sar = is_sar(image)
    values = _arranged(there["image"], rows, columns)
    values = log_power(values) if sar else values
    if "quality" in there:
        flags = _arranged(there["quality"], rows, columns)
    else:
        flags = np.zeros((values.shape[0], *values.shape[2:]), np.uint8)
    return Sample(values, bands, flags, sar, rows, columns)


def draw_pair(before: xr.DataArray, after: xr.DataArray, *, sample_px: int = 640) -> Sample:
    """Read a sample of two images as two dates; lazy images are read only there.

    Parameters
    ----------
    before, after : (band, y, x) on one grid, NaN = not usable
    sample_px : side of the largest sample, pixels
    """
    names = tuple(map(str, before["band"].values)) if "band" in before.coords else ()
    bands = choose_bands(names)
    at = [names.index(b) for b in bands] or list(range(min(before.sizes["band"], _MOST_BANDS)))
    rows, columns = tiles((before.sizes["y"], before.sizes["x"]), sample_px)
    chosen = [_chosen(image.isel(band=at), rows, columns) for image in (before, after)]
    values = np.stack([_arranged(one, rows, columns) for one in chosen])
    sar = bool(names) and is_sar(before)
    flags = np.zeros((2, *values.shape[2:]), np.uint8)
    return Sample(log_power(values) if sar else values, bands, flags, sar, rows, columns)


def log_power(power: Array) -> Array:
    """Natural logarithm of SAR power, floored."""
    return np.asarray(np.log(np.maximum(power, np.float32(_POWER_FLOOR))))


def named_reference(stack: xr.Dataset, reference: str | xr.DataArray) -> int | xr.DataArray | None:
    """Return the number of the reference scene, the reference image, or None for the median.

    Raises
    ------
    SettingError
        No scene has that name.
    GridError
        The reference image is on another grid.
    """
    if isinstance(reference, xr.DataArray):
        Grid.of(reference).require_same(Grid.of(stack), name="the reference", reference="the stack")
        return reference
    ids = [str(s) for s in stack["scene"].values] if "scene" in stack.coords else []
    places = {"first": 0, "last": stack.sizes["time"] - 1, **{s: i for i, s in enumerate(ids)}}
    if reference == "median":
        return None
    if reference not in places:
        known = ["median", *places]
        raise SettingError(
            f"reference is {reference!r}{nearest(reference, known)} Wanted median, first, last or a scene id"
        )
    return places[reference]


def tiles(
    shape: tuple[int, int], side_px: int, tile_px: int | None = None
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Choose tiles that hold about ``side_px ** 2`` pixels: slices along rows and along columns.

    Parameters
    ----------
    shape : rows and columns of the raster
    side_px : side of a square of as many pixels
    tile_px : side of a tile; None takes a quarter of that

    >>> tiles((300, 400), 400)
    ((slice(0, 300, None),), (slice(0, 400, None),))
    >>> len(tiles((5000, 5000), 640)[0])
    4
    """
    rows, columns = shape
    if rows * columns <= side_px**2:
        return (slice(0, rows),), (slice(0, columns),)
    count = _TILES if tile_px is None else max(side_px // tile_px, 1)
    side = side_px // count if tile_px is None else tile_px
    down = int(np.clip(rows // side, 1, count**2))
    across = int(np.clip(columns // side, 1, count**2))
    across = min(across, count**2 // min(down, count))
    down = min(down, count**2 // across)
    return _spread(rows, side, down), _spread(columns, side, across)


def _spread(length: int, side: int, count: int) -> tuple[slice, ...]:
    """Place ``count`` slices evenly along an axis."""
    side = min(side, length)
    room = length - side
    starts = [room // 2] if count == 1 else np.linspace(0, room, count).astype(int).tolist()
    return tuple(slice(s, s + side) for s in starts)


def _cut(image: xr.DataArray, rows: tuple[slice, ...], columns: tuple[slice, ...]) -> Array:
    """Read tiles and put them side by side with gaps."""
    return _arranged(_chosen(image, rows, columns), rows, columns)


def _chosen(image: xr.DataArray, rows: tuple[slice, ...], columns: tuple[slice, ...]) -> xr.DataArray:
    """Return the rows and columns of the tiles; lazy where the image is."""
    lead = [str(d) for d in image.dims if d not in ("y", "x")]
    image = image.transpose(*lead, "y", "x")
    if len(rows) == len(columns) == 1:
        return image.isel(y=rows[0], x=columns[0])
    at = [np.concatenate([np.arange(s.start, s.stop) for s in part]) for part in (rows, columns)]
    return image.isel(y=at[0], x=at[1])


def _arranged(chosen: xr.DataArray, rows: tuple[slice, ...], columns: tuple[slice, ...]) -> Array:
    """Put tiles side by side with gaps."""
    values = np.asarray(chosen.values)
    if len(rows) == len(columns) == 1:
        return values
    (high, down), (wide, across) = [(s[0].stop - s[0].start, len(s)) for s in (rows, columns)]
    shape = ((high + _GAP_PX) * down - _GAP_PX, (wide + _GAP_PX) * across - _GAP_PX)
    empty = np.nan if values.dtype.kind == "f" else 0
    out = np.full((*values.shape[:-2], *shape), empty, values.dtype)
    for i in range(down):
        for j in range(across):
            r, c = i * (high + _GAP_PX), j * (wide + _GAP_PX)
            source = values[..., i * high : (i + 1) * high, j * wide : (j + 1) * wide]
            out[..., r : r + high, c : c + wide] = source
    return out


def choose_bands(names: tuple[str, ...], *, most: int = _MOST_BANDS) -> tuple[str, ...]:
    """Choose the bands that show the ground best: red, green, near infrared, blue before others."""
    best = ([b for b in _PREFERRED if b in names] or list(names))[:most]
    return tuple(b for b in names if b in best)


def median_spread(images: Array) -> tuple[Array, Array, npt.NDArray[np.int64]]:
    """Median, robust standard deviation and count along the first axis, skipping NaN.

    Parameters
    ----------
    images : (time, …) float32 array, NaN = not usable; left alone

    Returns
    -------
    median : (…) NaN without any value
    spread : (…) half the distance of the 16 % and the 84 % value; NaN below four values
    count : (…) values
    """
    ordered = np.sort(images, axis=0)  # NaN goes last
    count = np.isfinite(images).sum(axis=0)

    def at(index: Array) -> Array:
        return np.asarray(np.take_along_axis(ordered, np.maximum(index, 0)[None], axis=0)[0])

    median = (at((count - 1) // 2) + at(count // 2).astype(images.dtype)) / 2
    median = np.where(count > 0, median, np.float32(np.nan))
    low, high = np.rint(0.16 * (count - 1)).astype(int), np.rint(0.84 * (count - 1)).astype(int)
    spread = np.where(count >= 4, (at(high) - at(low)) / 2, np.float32(np.nan))
    return median, spread, count


def usable(sample: Sample) -> npt.NDArray[np.float64]:
    """Share of each date's pixels that are valid in every band, of those valid on any date."""
    ok = np.isfinite(sample.images).all(axis=1)
    ever = max(int(ok.any(axis=0).sum()), 1)
    return np.asarray(ok.sum(axis=(1, 2)) / ever)


def frozen(sample: Sample) -> npt.NDArray[np.bool_]:
    """Dates on which the land is far brighter than on its median date, or flagged as snow or ice: (time,)."""
    if sample.sar:
        return np.zeros(len(sample.images), bool)
    share = ((sample.flags & (Quality.SNOW | Quality.ICE)) > 0).mean(axis=(1, 2), dtype=np.float64)
    step = max(int(np.sqrt(sample.flags[0].size / 40_000)), 1)
    thin = sample.patch(images=sample.images[..., ::step, ::step], flags=sample.flags[..., ::step, ::step])
    seen = [i for i, b in enumerate(sample.bands) if b in _VISIBLE] or list(range(len(sample.bands)))
    bright = np.log(np.maximum(thin.images[:, seen].mean(axis=1), np.float32(0.005)))
    median, _, count = median_spread(bright)
    land = (count > 0) & ~water(thin)
    excess = np.array([_median(date[land] - median[land]) for date in bright])
    return np.asarray((excess > _FROZEN_LN) | (share > _FROZEN_SHARE))


def _median(values: Array) -> float:
    """Median of the finite values, 0 without any."""
    values = values[np.isfinite(values)]
    return float(np.median(values)) if values.size else 0.0


def water(sample: Sample, median: Array | None = None) -> npt.NDArray[np.bool_]:
    """Pixels that are water on the median date (NDWI > 0, or flagged so on most dates): (y, x)."""
    flagged = (sample.flags & Quality.WATER) > 0
    wet = np.asarray(flagged.mean(axis=0, dtype=np.float32) > 0.5)
    if {"green", "nir"} <= set(sample.bands):
        if median is None:
            step = max(len(sample.images) // _MOST_DATES, 1)
            median, _, _ = median_spread(sample.images[::step])
        green, nir = (median[sample.bands.index(b)] for b in ("green", "nir"))
        wet |= green > nir
    return np.asarray(wet)


def reference_dates(sample: Sample) -> npt.NDArray[np.int64]:
    """Choose dates for a reference: not frozen, the most usable ones, in order of time."""
    share, cold = usable(sample), frozen(sample)
    fit = share > 0
    if (fit & ~cold).any():
        fit &= ~cold
    fit &= share >= _LEAST_USABLE * max(float(share[fit].max(initial=0.0)), 1e-9)
    best = np.argsort(np.where(fit, -share, 1.0), kind="stable")[:_MOST_DATES]
    return np.sort(best[fit[best]])


def stable_land(
    sample: Sample, median: Array, spread: Array, *, shore_px: int = _SHORE_PX, allow_edges: bool = True
) -> npt.NDArray[np.bool_]:
    """Land whose values vary no more than noise explains: (y, x) bool.

    Parameters
    ----------
    sample : where the pixels come from
    median, spread : (band, y, x) over dates, as :func:`median_spread` gives them
    shore_px : distance to keep from water, pixels
    allow_edges : forgive variation next to edges of the median, which half a pixel of shift explains
    """
    dry = erode(~water(sample, median), shore_px) & np.isfinite(median).all(axis=0)
    unsteady = np.zeros(dry.shape, bool)
    for level, sd in zip(median, spread, strict=True):
        known = dry & np.isfinite(sd)
        if not known.any():
            continue
        expected = np.full(dry.shape, float(np.median(sd[known])) ** 2, np.float32)
        if allow_edges:
            expected += _JITTER_PX**2 * _slope(level)
        unsteady |= np.nan_to_num(sd) ** 2 > _UNSTABLE**2 * expected
    return np.asarray(dry & ~unsteady)


def _slope(level: Array) -> Array:
    """Squared gradient, per pixel; NaN taken for flat."""
    level = np.nan_to_num(level)
    return np.asarray(sum(np.square(filter_axis(level, np.array([-0.5, 0, 0.5]), -1, a)) for a in (-2, -1)))
