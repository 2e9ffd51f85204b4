"""Bring the scenes of a stack to one radiometry: a line per scene and band, from pixels that do not change.

A line is written subject → reference: ``reference = gain * subject + offset``. It is used only if it brings
pixels closer to the reference that had no part in fitting it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from changedet.errors import DegenerateError, SettingError
from changedet.scenes import is_sar
from changedet.steps._lines import Line, orthogonal_line, robust_line, theil_sen
from changedet.steps._normalize_fit import FITS, Curve, MethodName, matched_histogram, ratio, relative_line
from changedet.steps._normalize_pixels import (
    FEWEST_FOR_STABILITY,
    NO_CHANGE,
    NoChangeName,
    alike_weights,
    leveled,
    no_change_pixels,
    steady_weights,
    surroundings,
)
from changedet.steps._stable import (
    Sample,
    draw,
    frozen,
    log_power,
    median_spread,
    named_reference,
    reference_dates,
)

__all__ = [
    "Line",
    "Normalization",
    "apply_line",
    "apply_lines",
    "find_lines",
    "no_change_pixels",
    "normalize",
    "orthogonal_line",
    "relative_line",
    "robust_line",
    "theil_sen",
]

Array = npt.NDArray[Any]

_METHODS = (*FITS, "histogram")
_SHOWN = 600
THE_REFERENCE = "the reference"


@dataclass(frozen=True)
class Normalization:
    """How one scene goes over into the reference.

    Parameters
    ----------
    lines : one a band
    curves : one a band where histograms were matched; they take the place of the lines
    points : per band, (2, n) subject and reference of some no-change pixels, for a figure
    no_change : how the pixels were chosen
    """

    lines: tuple[Line, ...]
    curves: tuple[Curve, ...] = ()
    points: tuple[Array, ...] = dataclasses.field(default=(), compare=False)
    no_change: str = ""

    @property
    def accepted(self) -> bool:
        """True where every band is."""
        return all(line.accepted for line in self.lines)


@dataclass(frozen=True)
class _Asked:
    """What :func:`find_lines` is asked for."""

    method: str
    no_change: str
    min_pixels: int


def apply_line(image: Array, gain: Array, offset: Array) -> npt.NDArray[np.float32]:
    """Return ``gain * image + offset`` as float32; arrays must broadcast; NaN stays NaN."""
    out = np.multiply(image, np.asarray(gain, np.float32), dtype=np.float32)
    out += np.asarray(offset, np.float32)
    return np.asarray(out)


def normalize(
    stack: xr.Dataset,
    *,
    reference: str | xr.DataArray = "median",
    method: MethodName = "orthogonal",
    no_change: NoChangeName = "stability",
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
    method : ``orthogonal``: robust line, both sides noisy; ``theil-sen``: median of slopes, flatter where the
        subject is noisy; ``histogram``: the reference's histogram, for display only, since it takes water
        level, snow and buildings for light
    no_change : which pixels count: ``stability`` over the dates of the stack; ``irmad``: p-value of no change
        between scene and reference above 0.95, which two dates suffice for; ``auto``: the second, except for
        SAR of four dates or more
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
    found = find_lines(
        stack, reference=reference, method=method, no_change=no_change, weights=weights,
        min_pixels=min_pixels, sample_px=sample_px,
    )  # fmt: skip
    return apply_lines(stack, found)


def find_lines(
    stack: xr.Dataset,
    *,
    reference: str | xr.DataArray = "median",
    method: MethodName = "orthogonal",
    no_change: NoChangeName = "stability",
    weights: xr.DataArray | None = None,
    min_pixels: int = 200,
    sample_px: int = 640,
) -> list[Normalization]:
    """Find how every scene goes over into the reference; :func:`apply_lines` then does it.

    Parameters
    ----------
    stack, reference, method, no_change, weights, min_pixels, sample_px : see :func:`normalize`

    Returns
    -------
    list of Normalization, one a scene, in order of time

    Raises
    ------
    SettingError, GridError
        See :func:`normalize`.
    """
    if min_pixels < 8:
        raise SettingError(f"min_pixels is {min_pixels}; wanted 8 or more")
    if method not in _METHODS or no_change not in NO_CHANGE:
        raise SettingError(
            f"method {method!r}, no_change {no_change!r}; wanted one of {', '.join(_METHODS)}, and one of "
            f"{', '.join(NO_CHANGE)}"
        )
    fixed = named_reference(stack, reference)
    sample = draw(stack, bands=tuple(map(str, stack["band"].values)), sample_px=sample_px)
    dates = reference_dates(sample)
    if no_change == "auto":
        no_change = "stability" if sample.sar and dates.size >= FEWEST_FOR_STABILITY else "irmad"
    if no_change == "irmad" and fixed is None and 0 < dates.size < FEWEST_FOR_STABILITY:
        fixed = int(dates[0])
    return _all_lines(sample, dates, fixed, weights, _Asked(method, no_change, min_pixels))


def _all_lines(
    sample: Sample,
    dates: Array,
    fixed: int | xr.DataArray | None,
    weights: xr.DataArray | None,
    asked: _Asked,
) -> list[Normalization]:
    """Lines of every date and band."""
    bands = len(sample.bands)
    if sample.sar:  # the median of single looks leans on their skewed speckle, that of averages does not
        sample = sample.patch(images=surroundings(sample.images))
    if dates.size == 0:
        return [Normalization((Line(why="no usable pixel"),) * bands)] * len(sample.images)
    by_pair = weights is None and asked.no_change == "irmad"
    median, spread, _ = median_spread(surroundings(leveled(sample.images[dates])))
    pure = np.zeros((1, 1, 1)) if by_pair else steady_weights(sample, weights, median, spread)
    target = _target(sample, dates, fixed)
    cold = frozen(sample)
    found = []
    for i, image in enumerate(sample.images):
        if isinstance(fixed, int) and i == fixed:
            found.append(Normalization((Line(accepted=True, why=THE_REFERENCE),) * bands))
        elif cold[i]:
            found.append(Normalization((Line(why="frozen or hazy"),) * bands))
        else:
            chosen = _alike(sample, image, target) if by_pair else pure[i % len(pure)]
            if isinstance(chosen, str):
                found.append(Normalization((Line(why=chosen),) * bands, no_change=asked.no_change))
            else:
                found.append(_one_scene(image, target, chosen, sample.sar, asked))
    return found


def _alike(sample: Sample, image: Array, target: Array) -> Array | str:
    """No-change weights by IR-MAD, or why there are none."""
    try:
        return alike_weights(sample, image, target)
    except DegenerateError as error:
        return f"no pixels by IR-MAD: {error}"


def _target(sample: Sample, dates: Array, fixed: int | xr.DataArray | None) -> Array:
    """Reference image of the sample."""
    if isinstance(fixed, int):
        return np.asarray(sample.images[fixed])
    if fixed is not None:
        return sample.cut(fixed.sel(band=list(sample.bands)).transpose("band", "y", "x"))
    return median_spread(sample.images[dates])[0]


def _one_scene(image: Array, target: Array, weights: Array, sar: bool, asked: _Asked) -> Normalization:
    """Lines of one scene; all identity where one band is refused, so that bands keep their ratios."""
    valid = np.asarray(np.isfinite(image).all(axis=0))
    every = list(zip(image, target, strict=True))
    curves: tuple[Curve, ...] = ()
    if asked.method == "histogram":
        made = [
            matched_histogram(b, t, valid, weights=weights, min_pixels=asked.min_pixels) for b, t in every
        ]
        lines, curves = [line for line, _ in made], tuple(curve for _, curve in made if curve is not None)
    else:
        fit = ratio if sar else relative_line
        lines = [
            fit(b, t, valid, weights=weights, min_pixels=asked.min_pixels, method=asked.method)
            for b, t in every
        ]
    if not all(line.accepted for line in lines):
        lines = [replace(line, gain=1.0, offset=0.0, rmse_after=line.rmse_before) for line in lines]
        curves = ()
    return Normalization(tuple(lines), curves, _points(every, valid & (weights > 0)), asked.no_change)


def _points(every: list[tuple[Array, Array]], use: Array) -> tuple[Array, ...]:
    """Some no-change pixels of each band, evenly taken."""
    use = use & np.logical_and.reduce([np.isfinite(t) for _, t in every])
    step = max(int(use.sum()) // _SHOWN, 1)
    return tuple(np.stack([b[use][::step], t[use][::step]]) for b, t in every)


def apply_lines(stack: xr.Dataset, found: list[Normalization]) -> xr.Dataset:
    """Change scenes as :func:`find_lines` found.

    Parameters
    ----------
    stack : the stack that the lines were found on; left alone
    found : one a scene

    Returns
    -------
    xr.Dataset, see :func:`normalize`
    """
    sar = is_sar(stack["image"])
    lines = [list(one.lines) for one in found]
    made = _labelled(stack, lines, sar)
    if not any(one.curves for one in found):
        return made
    scenes = []
    image = stack["image"].transpose("time", "band", "y", "x")
    for i, one in enumerate(found):
        scene = image.isel(time=i)
        kernel = partial(_curved, curves=one.curves, sar=sar)
        scenes.append(
            xr.apply_ufunc(kernel, scene, dask="parallelized", output_dtypes=[np.float32])
            if one.curves
            else scene
        )
    whole = xr.concat(scenes, "time", coords="minimal", compat="override", combine_attrs="drop")
    data = whole.transpose(*stack["image"].dims).data
    return made.assign(image=stack["image"].copy(data=data))


def _curved(image: Array, *, curves: tuple[Curve, ...], sar: bool) -> npt.NDArray[np.float32]:
    """Map (band, y, x) pixels band by band."""
    out = np.empty(image.shape, np.float32)
    for band, curve, into in zip(image, curves, out, strict=True):
        into[:] = np.exp(curve(log_power(band))) if sar else curve(band)
        into[~np.isfinite(band)] = np.nan
    return out


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
    if not np.isfinite(gain).all() or ((gain == 1).all() and (offset == 0).all()):
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
