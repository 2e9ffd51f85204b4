"""Lay all scenes of a stack on one reference: shifts found on stable land, checked on held-out windows.

Resampling blurs objects of a few pixels and mixes their noise, so a shift is always recorded but applied only
where it is long enough to matter (``apply_above_px``).

What the estimate cannot know: cast shadows and leaning crowns move with the sun and the view. Their pull is
lessened by leaving out what is darker than its surroundings, and scenes whose pattern has too little in
common with the reference (low winter sun, snow) are refused; what is left grows with the height of things in
pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from changedet.blocks import Windowed
from changedet.errors import InputError, SettingError
from changedet.scenes import UNUSABLE, Quality
from changedet.steps._bandpass import masked_ncc
from changedet.steps._register import Patches, ShiftEstimate, Template, cut, match, template
from changedet.steps._resample import CORE_PX, REACH_PX, apply_shift, move, move_valid
from changedet.steps._stable import (
    Sample,
    choose_bands,
    draw,
    median_spread,
    named_reference,
    reference_dates,
    stable_land,
    usable,
)

__all__ = ["ShiftEstimate", "align", "apply_shift", "estimate_shift", "masked_ncc", "move_flags"]

Array = npt.NDArray[Any]

_FEWEST_FOR_MEDIAN = 4
_RESAMPLE_ABOVE_PX = 0.05  # for the reference alone: below, its scenes are taken as they are


def estimate_shift(
    reference: Array,
    moving: Array,
    valid: Array | None = None,
    *,
    max_shift_px: float = 4.0,
    window_px: int = 64,
    min_tie_points: int = 8,
) -> ShiftEstimate:
    """Estimate the shift that lays ``moving`` on ``reference``, and whether to trust it.

    Whole pixels come from masked correlation, the rest from robust least squares on band-passed bands, gain
    and offset free per band. Half of the windows decide on a shift that was fitted on the other half.

    Parameters
    ----------
    reference, moving : (band, y, x) arrays, NaN = not usable; left alone
    valid : (y, x) bool, True where the reference may be matched (stable land); everywhere if not given
    max_shift_px : longest shift that is believed, pixels
    window_px : side of a tie-point window, pixels (smaller on images below 320 px)
    min_tie_points : windows that must agree (a third of the windows where there are fewer than 24)

    Returns
    -------
    ShiftEstimate : zero shift and the reason where it was refused

    Raises
    ------
    InputError
        Shapes do not agree.
    SettingError
        A tuning value is out of range.

    Notes
    -----
    The masked correlation follows Padfield 2012, doi:10.1109/TIP.2011.2181402.
    """
    if reference.ndim != 3 or reference.shape != moving.shape:
        raise InputError(
            f"reference is {reference.shape}, moving {moving.shape}; wanted (band, y, x) of one shape"
        )
    if not 0 < max_shift_px <= 64 or window_px < 12 or min_tie_points < 2:
        raise SettingError(
            f"max_shift_px {max_shift_px}, window_px {window_px}, min_tie_points {min_tie_points}; "
            "wanted 0 < max_shift_px <= 64, window_px >= 12, min_tie_points >= 2"
        )
    where = np.ones(reference.shape[1:], bool) if valid is None else valid
    t = template(reference, where, window_px=window_px, max_shift_px=max_shift_px)
    return match(t, cut(t, moving), max_shift_px=max_shift_px, min_tie_points=min_tie_points)


def move_flags(flags: Array, image: Array, shift: tuple[float, float]) -> npt.NDArray[np.uint8]:
    """Move quality flags as :func:`apply_shift` moves the image.

    Parameters
    ----------
    flags : (y, x) uint8 of :class:`~changedet.scenes.Quality`; left alone
    image : (band, y, x) array that the flags belong to, NaN = not usable
    shift : (dy, dx), pixels

    Returns
    -------
    (y, x) uint8: nearest flags; where the kernel met invalid pixels, the reasons these have; NODATA where
    it met the edge
    """
    moved = _near_flags(flags, shift, 0)
    kept = move_valid(np.asarray(np.isfinite(image).all(axis=0)), shift)
    lost = ~kept & ((moved & UNUSABLE) == 0)
    around = _near_flags(flags, shift, CORE_PX) & np.uint8(UNUSABLE)
    reason = np.where(around > 0, around, np.uint8(Quality.NODATA))
    return np.where(lost, moved | reason, moved).astype(np.uint8)


def _near_flags(flags: Array, shift: tuple[float, float], radius_px: int) -> npt.NDArray[np.uint8]:
    """Move flags to the nearest pixel, then spread each over a square."""
    from scipy.ndimage import maximum_filter

    out = np.zeros(flags.shape, np.uint8)
    for bit in (q for q in Quality if (flags & q).any()):
        layer = move(((flags & bit) > 0).astype(np.float32), shift, order=0) > 0
        layer = maximum_filter(layer, 2 * radius_px + 1, mode="constant") if radius_px else layer
        out |= np.where(layer, np.uint8(bit), np.uint8(0))
    return out


def align(
    stack: xr.Dataset,
    *,
    reference: str | xr.DataArray = "median",
    apply_above_px: float = 0.5,
    max_shift_px: float = 4.0,
    sample_px: int = 640,
) -> xr.Dataset:
    """Find every scene's shift to one reference, and apply those that are long enough to matter.

    Shifts are estimated on stable land (not water, not changing) of at most ``sample_px`` squared pixels and
    four bands: the whole raster where it is small, else 16 tiles spread over it. The reference is the median
    of the most usable unfrozen dates, made after a first pass laid them on one of them, in their median
    position; below four such dates it is the most usable one.

    Parameters
    ----------
    stack : stack of scenes on one grid; left alone
    reference : ``median``, ``first``, ``last``, the id of a scene, or an image ``(band, y, x)`` on the grid
    apply_above_px : shortest shift that is applied, pixels; shorter ones are recorded only
    max_shift_px : longest shift that is believed, pixels
    sample_px : side of the largest sample, pixels

    Returns
    -------
    xr.Dataset with ``shift_dy_px``, ``shift_dx_px`` (shift to apply; zero where refused),
    ``shift_residual_px``, ``shift_tie_points``, ``shift_accepted``, ``shift_applied`` and ``shift_why`` along
    time. Pixels are lazy where the input's are, and the input's own where nothing is applied.

    Raises
    ------
    SettingError
        ``reference`` names no scene, or a tuning value is out of range.
    GridError
        The reference image is on another grid.
    """
    if not apply_above_px >= 0 or not 0 < max_shift_px <= 8:
        raise SettingError(
            f"apply_above_px {apply_above_px}, max_shift_px {max_shift_px}; "
            "wanted apply_above_px >= 0 and 0 < max_shift_px <= 8"
        )
    estimates = _estimate(stack, reference, max_shift_px, sample_px)
    applied = [e.accepted and e.size_px >= max(apply_above_px, 1e-3) for e in estimates]
    return _labelled(_shifted(stack, estimates, applied), estimates, applied)


def _estimate(
    stack: xr.Dataset, reference: str | xr.DataArray, max_shift_px: float, sample_px: int
) -> list[ShiftEstimate]:
    """Two passes over a sample of the stack."""
    names = tuple(map(str, stack["band"].values))
    fixed = named_reference(stack, reference)
    if isinstance(fixed, xr.DataArray):
        names = tuple(b for b in names if b in set(map(str, fixed["band"].values)))
    sample = draw(stack, bands=choose_bands(names), sample_px=sample_px)
    dates = reference_dates(sample)
    if dates.size == 0:
        return [ShiftEstimate(why="no usable pixel")] * len(sample.images)
    if fixed is None and dates.size < _FEWEST_FOR_MEDIAN:
        fixed = int(dates[0])
    return _two_passes(sample, dates, fixed, max_shift_px)


def _two_passes(
    sample: Sample, dates: Array, fixed: int | xr.DataArray | None, max_shift_px: float
) -> list[ShiftEstimate]:
    """Match all dates with the reference; where that is the median, first with one sharp scene."""
    if fixed is not None:
        return _first_pass(sample, dates, fixed, max_shift_px, judge=True)[0]
    found, patches, t = _first_pass(sample, dates, _pivot(sample, dates), max_shift_px)
    if 2 * sum(found[i].accepted for i in dates) < dates.size:  # an odd scene to begin with
        found, patches, t = _first_pass(sample, dates, None, max_shift_px)
    found = _centered(found, dates)
    image, land = _reference(sample, dates, None, found)
    t = template(image, land, max_shift_px=max_shift_px, like=t, bright_side=not sample.sar)
    starts = [e if e.accepted else None for e in found]
    return [match(t, p, max_shift_px=max_shift_px, start=s) for p, s in zip(patches, starts, strict=True)]


def _first_pass(
    sample: Sample,
    dates: Array,
    reference: int | xr.DataArray | None,
    max_shift_px: float,
    *,
    judge: bool = False,
) -> tuple[list[ShiftEstimate], list[Patches], Template]:
    """Match all dates with a scene, an image or the median of the stack as it is."""
    image, land = _reference(sample, dates, reference, [])
    t = template(image, land, max_shift_px=max_shift_px, bright_side=not sample.sar)
    patches = [cut(t, image) for image in sample.images]
    found = [match(t, p, max_shift_px=max_shift_px, judge=judge) for p in patches]
    if isinstance(reference, int):
        found[reference] = ShiftEstimate(accepted=True, why="the reference")
    return found, patches, t


def _pivot(sample: Sample, dates: Array) -> int:
    """Sharp image to begin with: the most usable date, of equals the one nearest the middle.

    A median of scenes that do not lie on one another yet is blurred, and draws each of them to itself.
    """
    share = usable(sample)[dates]
    middle = np.abs(np.arange(dates.size) - (dates.size - 1) / 2)
    return int(dates[np.lexsort((middle, -np.round(share, 2)))[0]])


def _centered(found: list[ShiftEstimate], dates: Array) -> list[ShiftEstimate]:
    """Move the frame of all shifts to the median position of the reference dates."""
    shifts = np.array([(found[i].dy, found[i].dx) for i in dates if found[i].accepted])
    dy, dx = np.median(shifts, axis=0) if shifts.size else (0.0, 0.0)
    return [replace(e, dy=e.dy - dy, dx=e.dx - dx) if e.accepted else e for e in found]


def _reference(
    sample: Sample, dates: Array, fixed: int | xr.DataArray | None, shifts: list[ShiftEstimate]
) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Make the reference image and the land to match it on."""
    if any(shifts[i].accepted for i in dates if shifts):
        dates = np.array([i for i in dates if shifts[i].accepted])
    chosen = sample.images[dates]
    for k, i in enumerate(dates):
        if shifts and shifts[i].size_px > _RESAMPLE_ABOVE_PX:
            chosen[k] = apply_shift(sample.images[i], (shifts[i].dy, shifts[i].dx))
    median, spread, _ = median_spread(chosen)
    land = stable_land(sample, median, spread)
    if isinstance(fixed, int):
        median = sample.images[fixed]
    elif fixed is not None:
        median = sample.cut(fixed.sel(band=list(sample.bands)))
    return median, land


def _shifted(stack: xr.Dataset, estimates: list[ShiftEstimate], applied: list[bool]) -> xr.Dataset:
    """Return the stack with some scenes moved, lazy where it is; the same pixels where none is."""
    if not any(applied):
        return stack
    image = stack["image"].transpose("time", "band", "y", "x")
    moved = stack.assign(image=image.copy(data=_stacked(_moved_scene, [image], estimates, applied)))
    if "quality" not in stack:
        return moved
    flags = stack["quality"].transpose("time", "y", "x")
    data = _stacked(_moved_quality, [flags, image], estimates, applied)
    return moved.assign(quality=flags.copy(data=data))


def _stacked(
    work: Callable[..., xr.DataArray],
    images: list[xr.DataArray],
    estimates: list[ShiftEstimate],
    applied: list[bool],
) -> Any:
    """Put the dates of the first image together again, some of them worked on."""
    dates = []
    for i, (estimate, use) in enumerate(zip(estimates, applied, strict=True)):
        scenes = [image.isel(time=i, drop=True) for image in images]
        reach = int(np.ceil(max(abs(estimate.dy), abs(estimate.dx)))) + REACH_PX + CORE_PX
        shift = {"dy": estimate.dy, "dx": estimate.dx, "halo_px": reach}
        dates.append(work(*scenes, shift) if use else scenes[0])
    return _concat(dates, "time").data


def _concat(parts: list[xr.DataArray], dim: str) -> xr.DataArray:
    """Stack arrays of one grid along a new dimension."""
    return xr.concat(parts, dim, coords="minimal", compat="override", join="override", combine_attrs="drop")


def _moved_scene(image: xr.DataArray, shift: dict[str, Any]) -> xr.DataArray:
    """Move every band of a scene."""
    bands = range(image.sizes["band"])
    return _concat([_MOVE_BAND(image.isel(band=b, drop=True), **shift) for b in bands], "band")


def _moved_quality(flags: xr.DataArray, image: xr.DataArray, shift: dict[str, Any]) -> xr.DataArray:
    """Move the flags of a scene."""
    return _MOVE_FLAGS(flags, image, **shift).astype(np.uint8)


def _band_kernel(image: Array, *, dy: float = 0.0, dx: float = 0.0, halo_px: int = 8) -> Array:
    """Move the one band of ``(1, y, x)``."""
    return np.asarray(apply_shift(image, (dy, dx))[0])


def _flags_kernel(flags: Array, image: Array, *, dy: float = 0.0, dx: float = 0.0, halo_px: int = 8) -> Array:
    """Move the flags ``(1, y, x)`` of an image ``(band, y, x)``; float32, as blocks are."""
    return move_flags(flags[0], image, (dy, dx)).astype(np.float32)


_MOVE_BAND = Windowed(_band_kernel, "halo_px")
_MOVE_FLAGS = Windowed(_flags_kernel, "halo_px")


def _labelled(stack: xr.Dataset, estimates: list[ShiftEstimate], applied: list[bool]) -> xr.Dataset:
    """Write the shifts along time."""
    px = {"units": "px"}
    return stack.assign_coords(
        shift_dy_px=("time", np.array([e.dy for e in estimates]), px),
        shift_dx_px=("time", np.array([e.dx for e in estimates]), px),
        shift_residual_px=("time", np.array([e.residual_px for e in estimates]), px),
        shift_tie_points=("time", np.array([e.tie_points for e in estimates], np.int64)),
        shift_accepted=("time", np.array([e.accepted for e in estimates], bool)),
        shift_applied=("time", np.array(applied, bool)),
        shift_why=("time", np.array([e.why for e in estimates], dtype=object)),
    )
