"""Bring the scenes of a stack to one radiometry: a line per scene and band, from pixels that do not change.

A line is written subject → reference: ``reference = gain * subject + offset``. It is used only if it brings
pixels closer to the reference that had no part in fitting it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from changedet.errors import DegenerateError, InputError, SettingError
from changedet.steps._lines import Line, orthogonal_line, robust_line, theil_sen
from changedet.steps._resample import erode, filter_axis
from changedet.steps._stable import (
    Sample,
    draw,
    frozen,
    median_spread,
    named_reference,
    reference_dates,
    water,
)

__all__ = [
    "Line",
    "apply_line",
    "no_change_pixels",
    "normalize",
    "orthogonal_line",
    "relative_line",
    "robust_line",
    "theil_sen",
]

Array = npt.NDArray[Any]

_LEAST_GAIN, _LARGEST_GAIN = 0.5, 2.0
_LEAST_R2 = 0.5
_TRIM = 0.9  # share of the held-out pixels, the nearest ones, that the test looks at
_ALIKE = 0.02  # a line that lowers the held-out error by less is not worth applying
_SIGMAS = 2.0
_BINS, _PER_BIN, _STEADY = 10, 500, 0.25
_SHORE_PX = 2
_AROUND_PX = 5
_GRADIENT = np.array([-0.5, 0.0, 0.5])
_FLATTEST = 0.8  # share of the land, by gradient, that is not an edge


def relative_line(
    subject: Array,
    reference: Array,
    valid: Array | None = None,
    *,
    weights: Array | None = None,
    min_pixels: int = 200,
) -> Line:
    """Line from a subject to a reference, with its guards.

    A gain outside 0.5 to 2 or a squared correlation below 0.5 leaves only an offset. The line is fitted on
    every other pixel and must bring those between them closer to the reference; then it is fitted on all.

    Parameters
    ----------
    subject, reference : arrays of one shape, NaN = not usable; left alone
    valid : bool array of that shape, True = a pixel that did not change; everywhere if not given
    weights : array of that shape, not negative: how sure that is
    min_pixels : fewest pixels that a line may rest on

    Returns
    -------
    Line : gain 1 and offset 0 where it was refused or nothing is to be gained

    Raises
    ------
    InputError
        Shapes do not agree.
    """
    if subject.shape != reference.shape or (valid is not None and valid.shape != subject.shape):
        raise InputError(
            f"subject {subject.shape}, reference {reference.shape} and valid "
            f"{None if valid is None else valid.shape} differ; wanted one shape"
        )
    use = np.isfinite(subject) & np.isfinite(reference)
    use &= True if valid is None else valid
    use &= True if weights is None else weights > 0
    x, y = subject[use].astype(np.float64), reference[use].astype(np.float64)
    w = np.ones(x.size) if weights is None else np.asarray(weights[use], np.float64)
    if x.size < min_pixels:
        return Line(n=x.size, why=f"{x.size} no-change pixels; wanted {min_pixels}")
    line, why = _guarded(x, y, w)
    trial, _ = _guarded(x[::2], y[::2], w[::2])
    return _tested(replace(line, n=x.size, why=why), trial, x[1::2], y[1::2])


def _guarded(x: Array, y: Array, w: Array) -> tuple[Line, str]:
    """Robust line, or an offset alone where gain or correlation make no sense; and the reason."""
    try:
        line = robust_line(x, y, w)
    except DegenerateError:
        line = Line(n=x.size, r2=0.0)
    if line.r2 >= _LEAST_R2 and _LEAST_GAIN <= line.gain <= _LARGEST_GAIN:
        return line, "accepted"
    why = f"offset only (gain {line.gain:.2f}, squared correlation {line.r2:.2f})"
    apart = y - x
    error = 1.4826 * float(np.median(np.abs(apart - np.median(apart)))) * 1.2533 / np.sqrt(x.size)
    return Line(1.0, float(np.median(apart)), x.size, line.r2, gain_error=0.0, offset_error=error), why


def _tested(line: Line, trial: Line, x: Array, y: Array) -> Line:
    """Keep a line only if the one fitted on the other half brings ``x`` closer to ``y``."""
    before, after = np.square(y - x), np.square(y - trial.gain * x - trial.offset)
    rmse = [float(np.sqrt(np.sort(d)[: int(np.ceil(_TRIM * d.size))].mean())) for d in (before, after)]
    limit = np.quantile(before, _TRIM)
    better = np.minimum(before, limit) - np.minimum(after, limit)
    sure = better.mean() > _SIGMAS * better.std() / np.sqrt(better.size)
    line = replace(line, rmse_before=rmse[0], rmse_after=rmse[1], accepted=True)
    if sure and rmse[1] < (1 - _ALIKE) * rmse[0]:
        return line
    same = replace(line, gain=1.0, offset=0.0, rmse_after=rmse[0])
    if line.r2 >= _LEAST_R2:
        return replace(same, why="already alike")
    why = f"held-out pixels come no closer (squared correlation {line.r2:.2f})"
    return replace(same, accepted=False, why=why)


def apply_line(image: Array, gain: Array, offset: Array) -> npt.NDArray[np.float32]:
    """Return ``gain * image + offset`` as float32; arrays must broadcast; NaN stays NaN."""
    out = np.multiply(image, np.asarray(gain, np.float32), dtype=np.float32)
    out += np.asarray(offset, np.float32)
    return np.asarray(out)


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


def normalize(
    stack: xr.Dataset,
    *,
    reference: str | xr.DataArray = "median",
    weights: xr.DataArray | None = None,
    min_pixels: int = 200,
    sample_px: int = 640,
) -> xr.Dataset:
    """Bring every scene to the radiometry of one reference.

    Lines are fitted on pixels that are steady over the stack: not water, not edges, equally many of ten
    classes of brightness, of at most ``sample_px`` squared pixels. A scene is changed only if all its
    bands can be; frozen scenes are left alone. SAR power is only multiplied, by the
    median ratio of local means.

    Parameters
    ----------
    stack : stack of scenes on one grid; left alone
    reference : ``median``, ``first``, ``last``, the id of a scene, or an image ``(band, y, x)`` on the grid
    weights : ``(y, x)`` or ``(time, y, x)``: how sure it is that a pixel did not change (from IR-MAD, say);
        takes the place of the choice by steadiness
    min_pixels : fewest no-change pixels that a line may rest on
    sample_px : side of the largest sample, pixels

    Returns
    -------
    xr.Dataset with ``gain`` and ``offset`` along time and band, and ``normalize_rmse_before``,
    ``normalize_rmse_after``, ``normalize_accepted`` and ``normalize_why`` along time; lazy where the input
    is. The errors are those of held-out pixels, all bands pooled (natural logarithm of power for SAR).

    Raises
    ------
    SettingError
        ``reference`` names no scene, or ``min_pixels`` is too small.
    GridError
        The reference image is on another grid.
    """
    if min_pixels < 8:
        raise SettingError(f"min_pixels is {min_pixels}; wanted 8 or more")
    fixed = named_reference(stack, reference)
    sample = draw(stack, bands=tuple(map(str, stack["band"].values)), sample_px=sample_px)
    return _labelled(stack, _all_lines(sample, fixed, weights, min_pixels), sample.sar)


def _all_lines(
    sample: Sample, fixed: int | xr.DataArray | None, weights: xr.DataArray | None, min_pixels: int
) -> list[list[Line]]:
    """Lines of every date and band."""
    dates = reference_dates(sample)
    bands = len(sample.bands)
    if sample.sar:  # the median of single looks leans on their skewed speckle, that of averages does not
        sample = sample.patch(images=_surroundings(sample.images))
    if dates.size == 0:
        return [[Line(why="no usable pixel")] * bands] * len(sample.images)
    median, spread, _ = median_spread(_surroundings(_leveled(sample.images[dates])))
    pure = _weights(sample, weights, median, spread)
    target = _target(sample, dates, fixed)
    cold = frozen(sample)
    lines = []
    for i, image in enumerate(sample.images):
        if isinstance(fixed, int) and i == fixed:
            lines.append([Line(accepted=True, why="the reference")] * bands)
        elif cold[i]:
            lines.append([Line(why="frozen or hazy")] * bands)
        else:
            lines.append(_scene_lines(image, target, pure[i % len(pure)], sample.sar, min_pixels))
    return lines


def _leveled(images: Array) -> Array:
    """Take each date's distance from the median date away, band by band, so that offsets are no unrest."""
    flat = images.reshape(*images.shape[:2], -1)
    some = flat[..., :: max(flat.shape[-1] // 20_000, 1)]
    apart, _, _ = median_spread(np.moveaxis(some - median_spread(some)[0], -1, 0))
    return np.asarray(images - np.nan_to_num(apart)[..., None, None])


def _surroundings(images: Array) -> Array:
    """Mean of the valid pixels of 5 x 5 around each pixel, without itself.

    Pixels are chosen by what their surroundings do: chosen by their own values they would be picked by their
    noise, and pull the lines flat.
    """
    from scipy.ndimage import uniform_filter

    size = (1,) * (images.ndim - 2) + (_AROUND_PX, _AROUND_PX)
    ok = np.isfinite(images)
    filled = np.where(ok, images, np.float32(0))
    total = uniform_filter(filled, size, mode="constant") * _AROUND_PX**2 - filled
    count = uniform_filter(ok.astype(np.float32), size, mode="constant") * _AROUND_PX**2 - ok
    return np.asarray(np.where(ok & (count > 0.5), total / np.maximum(count, 1), np.float32(np.nan)))


def _weights(sample: Sample, weights: xr.DataArray | None, median: Array, spread: Array) -> Array:
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


def _target(sample: Sample, dates: Array, fixed: int | xr.DataArray | None) -> Array:
    """Reference image of the sample."""
    if isinstance(fixed, int):
        return np.asarray(sample.images[fixed])
    if fixed is not None:
        return sample.cut(fixed.sel(band=list(sample.bands)).transpose("band", "y", "x"))
    return median_spread(sample.images[dates])[0]


def _scene_lines(image: Array, target: Array, weights: Array, sar: bool, min_pixels: int) -> list[Line]:
    """Lines of one scene; all identity where one band is refused, so that bands keep their ratios."""
    valid = np.asarray(np.isfinite(image).all(axis=0))
    fit = _ratio if sar else relative_line
    lines = [
        fit(b, t, valid, weights=weights, min_pixels=min_pixels) for b, t in zip(image, target, strict=True)
    ]
    if all(line.accepted for line in lines):
        return lines
    return [replace(line, gain=1.0, offset=0.0, rmse_after=line.rmse_before) for line in lines]


def _ratio(
    subject: Array, reference: Array, valid: Array, *, weights: Array, min_pixels: int
) -> Line:
    """Factor between two SAR images given as logarithms of power; its logarithm is the offset."""
    use = np.isfinite(subject) & np.isfinite(reference) & valid & (weights > 0)
    x, y = subject[use].astype(np.float64), reference[use].astype(np.float64)
    if x.size < min_pixels:
        return Line(n=x.size, why=f"{x.size} no-change pixels; wanted {min_pixels}")
    offset, trial = float(np.median(y - x)), float(np.median(y[::2] - x[::2]))
    if abs(offset) > np.log(_LARGEST_GAIN):
        return Line(n=x.size, why=f"power differs by {np.exp(-offset):.2g} times")
    # the correlation of speckle says nothing about a factor: it does not guard here
    return _tested(Line(1.0, offset, x.size, 1.0, why="accepted"), Line(1.0, trial), x[1::2], y[1::2])


def _labelled(stack: xr.Dataset, lines: list[list[Line]], sar: bool) -> xr.Dataset:
    """Apply lines and write them along time and band."""
    gain = np.array([[line.gain for line in scene] for scene in lines])
    offset = np.array([[line.offset for line in scene] for scene in lines])
    if sar:
        gain, offset = np.exp(offset), np.zeros_like(offset)
    labels = {
        "gain": (("time", "band"), gain),
        "offset": (("time", "band"), offset),
        "normalize_rmse_before": ("time", _pooled([[x.rmse_before for x in scene] for scene in lines])),
        "normalize_rmse_after": ("time", _pooled([[x.rmse_after for x in scene] for scene in lines])),
        "normalize_accepted": ("time", np.array([all(x.accepted for x in scene) for scene in lines])),
        "normalize_why": ("time", np.array([_words(scene, stack) for scene in lines], dtype=object)),
    }
    if (gain == 1).all() and (offset == 0).all():
        return stack.assign_coords(labels)
    image = stack["image"]
    lined = xr.apply_ufunc(
        apply_line,
        image,
        xr.DataArray(gain.astype(np.float32), dims=("time", "band")),
        xr.DataArray(offset.astype(np.float32), dims=("time", "band")),
        dask="parallelized",
        output_dtypes=[np.float32],
        keep_attrs=True,
    )
    return stack.assign(image=image.copy(data=lined.transpose(*image.dims).data)).assign_coords(labels)


def _pooled(errors: list[list[float]]) -> Array:
    """Root mean square over bands, NaN where one is missing."""
    return np.asarray(np.sqrt(np.square(np.array(errors, np.float64)).mean(axis=1)))


def _words(lines: list[Line], stack: xr.Dataset) -> str:
    """Say once what all bands share, else band by band; refusals alone where there are any."""
    bands = [str(b) for b in stack["band"].values]
    if len({x.why for x in lines}) == 1:
        return lines[0].why
    told = [(b, x.why) for b, x in zip(bands, lines, strict=True) if not x.accepted]
    told = told or [(b, x.why) for b, x in zip(bands, lines, strict=True)]
    return "; ".join(f"{b}: {why}" for b, why in told)
