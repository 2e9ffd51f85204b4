"""The method ``auto``: what to compare with what, decided by the pair itself.

Optical pairs: a pixel has changed where it became other than what pixels that looked like it became. Season,
haze and light move whole classes of ground alike, so the class's own course is what is expected; it is
learned both ways, and joined with the plain change vector in units of each band's noise. Bands that were
resampled from coarser pixels are left out where enough sharp ones remain: they draw edges where none are.
Radar pairs: the logarithm of the ratio of intensities, after averaging speckle. Both are then averaged over
what a change covers at least, because single pixels are noise; what is far above noise stands without.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from changedet.blocks import Windowed, sampled
from changedet.errors import DegenerateError
from changedet.grid import Grid
from changedet.scenes import is_sar
from changedet.steps._kmeans import cluster, nearest, split
from changedet.steps._lines import robust_line

Array = npt.NDArray[Any]

SAMPLE_PX = 40_000
LEAST_PX = 600
"""Pixels usable on both dates without which no class of ground can be learned."""

AIR_BANDS = ("coastal", "nir09", "cirrus")
"""Bands that see the air more than the ground; left out where others are there."""

SUPPORT_M = 25.0
"""Standard deviation of the averaging: changes of ground are some tens of metres wide."""

SUPPORT_PX = (1.0, 2.5)
OWN_PX = 0.7
MOST = 6.0
"""What one pixel counts at most in an average, times the unchanged: a few strong ones are no wide change."""

EDGE_PX = 2
"""Reach of the blur of an edge, in which a certain change lends its strength to pixels beside it."""

ALONE = 3.0
"""Share of an average over its own blur at which a small strong change stands without its surroundings."""

LEAST = 1.5
"""Averaged magnitude below which nothing changed, the unchanged being about 1."""

SHARP = 0.6
"""Share of the sharpness of the sharpest bands below which a band was resampled from larger pixels."""

LEAST_SHARP = 3
"""Sharp bands without which blurred ones are needed too."""
RADAR_PX = 1.0
SPECKLED = 0.15
"""Local standard deviation over mean above which an image is speckled: optical ground is far smoother."""


# ------------------------------------------------------------------------------------------------ optical


@dataclass(frozen=True)
class Course:
    """What classes of pixels of one date became on the other.

    Parameters
    ----------
    center, scale : (band,) location and spread of the first date
    axes : (band, rank) leading directions of the standardized bands
    centers : (class, rank) float32
    own, median : (class, band) medians of the first date and of the other
    slope : (band,) how much of a pixel's distance from its class is there on the other date too
    spread : (class, band) of the other date about that
    floor : (band,) spread below which no class is believed to be
    """

    center: Array
    scale: Array
    axes: Array
    centers: Array
    own: Array
    median: Array
    slope: Array
    spread: Array
    floor: Array

    def surprise(self, seen: Array, other: Array, *, mixed: int = 4) -> Array:
        """Return how far pixels are from what their like became, in units of its spread, (n,) float32.

        Parameters
        ----------
        seen, other : (n, band) values of the date that tells the class, and of the other one
        mixed : nearest classes that are mixed
        """
        k = min(mixed, self.centers.shape[0])
        square = np.einsum("ij,ij->i", self.centers, self.centers)
        beside = self.beside(3 * k)
        start = self.median - self.slope * self.own  # of the line that a class follows
        square_start = self.spread**2 + start**2
        parts = []
        for rows, target in zip(split(seen), split(other), strict=True):
            points = self.points(rows)
            table = points @ (-2 * self.centers.T)
            table += square
            index = beside[table.argmin(axis=1)]
            near = np.take_along_axis(table, index, axis=1)
            chosen = np.argpartition(near, k - 1, axis=1)[:, :k]
            index = np.take_along_axis(index, chosen, axis=1)
            own = np.einsum("ij,ij->i", points, points)[:, None]
            weight = 1 / (np.maximum(np.take_along_axis(near, chosen, axis=1) + own, 0) + np.float32(0.1))
            weight /= weight.sum(axis=1, keepdims=True)
            mean = np.einsum("nk,nkb->nb", weight, start[index])
            square_mean = np.einsum("nk,nkb->nb", weight, square_start[index])
            variance = np.maximum(square_mean - mean**2, 0) + self.floor**2
            expected = mean + self.slope * rows
            parts.append(np.sqrt((np.square(target - expected) / variance).sum(axis=1)))
        return np.concatenate(parts).astype(np.float32)

    def beside(self, count: int) -> Array:
        """Return the classes nearest to each class, itself first, (class, count) int.

        The nearest classes of a pixel are among those nearest to its nearest one, but for rare ties.
        """
        apart = np.square(self.centers[:, None] - self.centers[None]).sum(axis=2)
        return np.argsort(apart, axis=1, kind="stable")[:, :count]

    def points(self, values: Array) -> Array:
        """Return pixels (n, band) in the space of the classes, (n, rank) float32."""
        z = np.clip((values - self.center) / self.scale, -6, 6)
        return np.asarray(z @ self.axes, np.float32)


def learn(seen: Array, other: Array, *, classes: int, rank: int = 6, seed: int = 0) -> Course:
    """Learn what classes of pixels became.

    Parameters
    ----------
    seen, other : (n, band) float64, finite: the date that tells the class, and the other one
    classes : groups at most
    rank : directions kept
    seed : of the start of the grouping
    """
    low, middle, high = np.quantile(seen, [0.25, 0.5, 0.75], axis=0)
    scale = np.maximum((high - low) / 1.349, 1e-6 * max(float(np.abs(middle).max()), 1e-6))
    z = np.clip((seen - middle) / scale, -6, 6)
    _, vectors = np.linalg.eigh(np.atleast_2d(np.cov(z, rowvar=False)))
    axes = vectors[:, ::-1][:, :rank]
    points = np.asarray(z @ axes, np.float32)
    count = int(np.clip(seen.shape[0] // 100, 2, classes))
    centers, labels = cluster(points, count, np.random.default_rng(seed))
    kept = np.flatnonzero(np.bincount(labels, minlength=centers.shape[0]) >= 10)
    centers = centers[kept]
    labels = nearest(points, centers)
    groups = [labels == i for i in range(kept.size)]
    own, median = (np.array([np.median(v[group], axis=0) for group in groups]) for v in (seen, other))
    slope = _slope(seen - own[labels], other - median[labels])
    residual = other - median[labels] - slope * (seen - own[labels])
    spread = np.array([_half_width(residual[group]) for group in groups])
    floor = np.maximum(0.5 * _half_width(residual), 1e-9)
    return Course(middle, scale, axes, centers, own, median, slope, spread, floor)


def _half_width(values: Array) -> Array:
    """Return half of the width that holds two thirds of the values (n, band): a robust deviation."""
    low, high = np.quantile(values, [0.16, 0.84], axis=0)
    return np.asarray((high - low) / 2)


def _slope(seen: Array, other: Array) -> Array:
    """Return how much of the distances from the class on one date is there on the other, (band,), 0 to 1."""
    x, y = (np.clip(v, -3 * _half_width(v), 3 * _half_width(v)) for v in (seen, other))
    square = np.maximum((x * x).sum(axis=0), 1e-30)
    return np.asarray(np.clip((x * y).sum(axis=0) / square, 0, 1))


@dataclass(frozen=True)
class PairModel:
    """What was learned from a sample of a pair.

    Parameters
    ----------
    bands : indexes of the bands used
    gain, offset : (band,) that bring the second date to the radiometry of the first
    forward, backward : what the first date's classes became, and what the second's were
    shift, scale : (band,) median and robust standard deviation of the difference
    typical : medians of surprise and of the change vector, which make the two comparable
    vector_weight : weight of the change vector beside the surprise
    """

    bands: Array
    gain: Array
    offset: Array
    forward: Course
    backward: Course
    shift: Array
    scale: Array
    typical: tuple[float, float] = (1.0, 1.0)
    vector_weight: float = 0.5

    def parts(self, before: Array, after: Array) -> tuple[Array, Array]:
        """Return surprise and change vector of pixels (n, band), each (n,)."""
        b = after * self.gain + self.offset
        both = self.forward.surprise(before, b) + self.backward.surprise(b, before)
        vector = np.sqrt(np.square((b - before - self.shift) / self.scale).sum(axis=1))
        return both / self.typical[0], vector / self.typical[1]

    def magnitude(self, before: Array, after: Array) -> npt.NDArray[np.float32]:
        """Return how much pixels changed, (y, x) float32, about 1 where nothing did, of (band, y, x)."""
        a, b = before[self.bands], after[self.bands]
        valid = np.isfinite(a).all(axis=0) & np.isfinite(b).all(axis=0)
        out = np.full(valid.shape, np.nan, np.float32)
        if valid.any():
            surprise, vector = self.parts(a[:, valid].T, b[:, valid].T)
            # what stayed as it was has not changed, though its like did
            surprise *= np.minimum(vector, 1)
            out[valid] = (surprise + self.vector_weight * vector) / (1 + self.vector_weight)
        return out


def fit_pair(before: Array, after: Array, bands: Array, *, classes: int = 200, seed: int = 0) -> PairModel:
    """Learn a pair from sampled pixels.

    Parameters
    ----------
    before, after : (n, band) float64, finite, of the bands used
    bands : their indexes in the images
    classes, seed : see :func:`learn`

    Raises
    ------
    DegenerateError
        Too few pixels, or a date that is one constant.
    """
    if before.shape[0] < LEAST_PX:
        raise DegenerateError(
            f"{before.shape[0]} sampled pixels are usable on both dates; wanted {LEAST_PX} for auto; choose "
            "another --method, or a larger area"
        )
    lines = [robust_line(after[:, j], before[:, j]) for j in range(before.shape[1])]
    sane = [0.5 <= line.gain <= 2 and np.isfinite(line.offset) for line in lines]
    gain = np.array([line.gain if ok else 1.0 for line, ok in zip(lines, sane, strict=True)])
    offset = np.array([line.offset if ok else 0.0 for line, ok in zip(lines, sane, strict=True)])
    b = after * gain + offset
    difference = b - before
    low, middle, high = np.quantile(difference, [0.25, 0.5, 0.75], axis=0)
    scale = np.maximum((high - low) / 1.349, 1e-9)
    forward = learn(before, b, classes=classes, seed=seed)
    backward = learn(b, before, classes=classes, seed=seed)
    model = PairModel(bands, gain, offset, forward, backward, middle, scale)
    typical = [max(float(np.median(part)), 1e-9) for part in model.parts(before, after)]
    return replace(model, typical=(typical[0], typical[1]))


def smoothed(image: Array, sigma_px: float) -> npt.NDArray[np.float32]:
    """Average over a Gaussian, gaps left out; gaps stay gaps."""
    from scipy.ndimage import gaussian_filter

    known = np.isfinite(image)
    total = gaussian_filter(np.where(known, image, 0).astype(np.float32), sigma_px, truncate=3.0)
    weight = gaussian_filter(known.astype(np.float32), sigma_px, truncate=3.0)
    return np.where(known, total / np.maximum(weight, 1e-6), np.nan).astype(np.float32)


def _optical_kernel(before: Array, after: Array, *, model: PairModel, sigma_px: float) -> Array:
    """Magnitude of a block."""
    return averaged(model.magnitude(before, after), sigma_px)


def averaged(magnitude: Array, sigma_px: float, *, share: float = 0.3) -> npt.NDArray[np.float32]:
    """Average a magnitude without drawing what is strong over what lies beside it.

    Close to something far stronger, an average is the neighbor's; there a pixel's own value bounds it, and
    beside what changed for certain a pixel that shows nothing itself is not marked. What is small and stands
    far above the noise counts by its own value, which a wide average would drown.

    Parameters
    ----------
    magnitude : (y, x) float32, about 1 where nothing changed, NaN = not usable
    sigma_px : standard deviation of the averaging
    share : of the strongest average within two standard deviations below which a pixel speaks for itself
    """
    bounded = np.minimum(magnitude, np.float32(MOST))
    wide, narrow = smoothed(bounded, sigma_px), smoothed(bounded, OWN_PX)
    beside = wide - 1 < share * (_top(wide, int(np.ceil(2 * sigma_px))) - 1)
    joined = np.where(beside, np.minimum(wide, narrow), wide)
    joined = np.maximum(joined, smoothed(magnitude, OWN_PX) / np.float32(ALONE))
    edge = (magnitude < LEAST) & (_top(bounded, EDGE_PX) >= MOST)
    return np.asarray(np.where(edge, np.minimum(joined, np.float32(LEAST)), joined), np.float32)


def _top(image: Array, radius_px: int) -> Array:
    """Return the largest value within a square about each pixel, gaps left out."""
    from scipy.ndimage import maximum_filter

    return np.asarray(maximum_filter(np.nan_to_num(image, nan=0.0), 2 * radius_px + 1))


def sharpness(image: Array) -> npt.NDArray[np.float64]:
    """Return how sharp each band is: what neighbors differ by, over what pixels two apart differ by.

    0 for a smooth ramp, below 0.08 for what was interpolated from pixels twice as large, 0.1 to 0.3 for a
    band in its own pixels, 0.75 for white noise; NaN for a constant.

    Parameters
    ----------
    image : (band, ..., y, x), NaN = not usable
    """
    image = np.where(np.isfinite(image), image, np.nan)

    def power(step: int) -> Array:
        ways = (
            image[..., step:, :] - image[..., :-step, :],
            image[..., :, step:] - image[..., :, :-step],
        )
        total = np.zeros(len(image))
        for d in ways:
            known = np.isfinite(d)
            square = np.square(np.where(known, d, 0), dtype=np.float64)
            axes = tuple(range(1, d.ndim))
            total += square.sum(axis=axes) / np.maximum(known.sum(axis=axes), 1)
        return total

    far = power(2)
    share = np.divide(power(1), far, out=np.full(len(image), np.nan), where=far > 0)
    return np.asarray(share - 0.25)


def sharp_bands(before: xr.DataArray, after: xr.DataArray, used: Array) -> Array:
    """Return those of the bands ``used`` that are in their own pixels on both dates; all where few are."""
    if used.size <= LEAST_SHARP:
        return used
    found = [sharpness(_windows(image)[used]) for image in (before, after)]
    if not np.isfinite(found).all():
        return used
    enough = [each >= SHARP * np.sort(each)[-LEAST_SHARP] for each in found]
    kept = used[enough[0] & enough[1]]
    return kept if kept.size >= LEAST_SHARP else used


def _windows(image: xr.DataArray, *, side_px: int = 256) -> Array:
    """Return pixels from the four quarters of an image, (band, window, y, x), NaN = not usable."""
    rows, columns = image.sizes["y"], image.sizes["x"]
    side = min(side_px, rows // 2, columns // 2)
    parts = []
    for row in (rows // 4, rows - rows // 4):
        for column in (columns // 4, columns - columns // 4):
            y, x = max(row - side // 2, 0), max(column - side // 2, 0)
            y, x = min(y, rows - side), min(x, columns - side)
            parts.append(image.isel(y=slice(y, y + side), x=slice(x, x + side)).values)
    return np.stack(parts, axis=-3)


def _optical(before: xr.DataArray, after: xr.DataArray, *, seed: int, threads: int) -> xr.DataArray:
    """Compare two optical images."""
    names = [str(b) for b in before.coords["band"].values] if "band" in before.coords else []
    used = np.array([i for i, name in enumerate(names) if name not in AIR_BANDS], int)
    if not names or not used.size:
        used = np.arange(before.sizes.get("band", 1))
    used = sharp_bands(before, after, used)
    a, b = (_pixels(image)[:, used] for image in (before, after))
    valid = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
    model = fit_pair(a[valid], b[valid], used, seed=seed)
    sigma_px = float(np.clip(SUPPORT_M / Grid.of(before).gsd_m, *SUPPORT_PX))
    kernel = partial(_optical_kernel, model=model, sigma_px=sigma_px)
    words = ", ".join(names[i] for i in used) if names else f"{used.size} bands"
    made = Windowed(kernel, int(np.ceil(5 * sigma_px)) + 2)(before, after, threads=threads)
    return made.assign_attrs(
        chosen="analogues and change vector",
        why=f"optical, {words}: each pixel against what its like became, both ways, and the change "
        f"vector in units of each band's noise, averaged over {sigma_px:.3g} px",
        gain=[round(float(g), 4) for g in model.gain],
        suggested_threshold="robust",
        suggested_k=3.0,
        suggested_least=LEAST,
    )


def _pixels(image: xr.DataArray) -> Array:
    """Return a regular sample of pixels, (n, band) float64."""
    part = sampled(image, SAMPLE_PX)
    part = part if "band" in part.dims else part.expand_dims("band")
    values = part.transpose("y", "x", "band").values.astype(np.float64)
    return np.asarray(values.reshape(-1, values.shape[-1]))


# ------------------------------------------------------------------------------------------------ radar


def speckle(image: Array) -> float:
    """Return the typical standard deviation over mean in small windows of an image (y, x); NaN without any.

    Speckle multiplies, so its share of the mean is the same everywhere and large; ground seen by light is
    smooth over a few pixels.
    """
    from scipy.ndimage import uniform_filter

    values = np.where(np.isfinite(image), image, 0).astype(np.float64)
    mean = uniform_filter(values, 5)
    sd = np.sqrt(np.maximum(uniform_filter(values**2, 5) - mean**2, 0))
    bright = mean > max(float(np.quantile(mean, 0.3)), 1e-12)
    return float(np.median(sd[bright] / mean[bright])) if bright.any() else float("nan")


def _radar_kernel(before: Array, after: Array, *, floor: Array, sigma_px: float) -> Array:
    """Mean over channels of the log ratio, dB, of intensities whose speckle was averaged before and after."""
    total = np.zeros(before.shape[1:], np.float32)
    for a, b, low in zip(before, after, floor, strict=True):
        pair = [np.log(np.maximum(smoothed(band, sigma_px), 0) + np.float32(low)) for band in (a, b)]
        total += pair[1] - pair[0]
    return smoothed(total * np.float32(10 / np.log(10) / len(before)), sigma_px)


def _radar(before: xr.DataArray, after: xr.DataArray, *, threads: int, why: str) -> xr.DataArray:
    """Compare two radar images."""
    values = np.concatenate([_pixels(before), _pixels(after)])
    floor = np.array([_smallest(band) for band in values.T])
    kernel = partial(_radar_kernel, floor=floor, sigma_px=RADAR_PX)
    made = Windowed(kernel, 2 * int(np.ceil(3 * RADAR_PX)) + 1, unit="dB")(before, after, threads=threads)
    return made.assign_attrs(
        chosen="log ratio of averaged intensities",
        why=f"{why}: speckle averaged over {RADAR_PX:g} px before and after the ratio",
        suggested_threshold="otsu",
        signed=True,
    )


def _smallest(values: Array) -> float:
    """Return a small intensity that is added to both dates: nothing below it is measured."""
    positive = values[np.isfinite(values) & (values > 0)]
    return float(np.quantile(positive, 0.001)) if positive.size else 1.0


def radar(image: xr.DataArray) -> str | None:
    """Return why an image is taken for radar intensities, None where it is of light.

    Parameters
    ----------
    image : (band, y, x) or (y, x), NaN = invalid
    """
    if "band" in image.dims and "band" in image.coords and is_sar(image):
        return "SAR by its band names"
    if image.sizes.get("band", 1) == 1:
        corner = image.isel(y=slice(0, 1000), x=slice(0, 1000)).values
        found = speckle(corner.reshape(corner.shape[-2:]))
        if found > SPECKLED:
            return f"one band, speckled ({found:.2f} of the mean)"
    return None


def auto(before: xr.DataArray, after: xr.DataArray, *, seed: int = 0, threads: int = 1) -> xr.DataArray:
    """Look at the pair, choose and combine.

    Parameters
    ----------
    before, after : (band, y, x) or (y, x), NaN = invalid
    seed : of the grouping of pixels
    threads : threads for eager work

    Returns
    -------
    (y, x) float32 with attributes ``chosen``, ``why``, ``suggested_threshold`` and, for radar, ``signed``;
    optical: about 1 where nothing changed; radar: dB, positive = brighter after

    Raises
    ------
    DegenerateError
        Too few pixels are usable on both dates.
    """
    why = radar(before)
    if why is not None:
        return _radar(before, after, threads=threads, why=why)
    return _optical(before, after, seed=seed, threads=threads)
