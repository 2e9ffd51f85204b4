"""Lay all scenes of a stack on one reference: shifts found on stable land, checked on held-out windows.

Resampling blurs objects of a few pixels and mixes their noise, so a shift is always recorded but applied only
where it is long enough to matter (``apply_above_px``).

What the estimate cannot know: cast shadows and leaning crowns move with the sun and the view. Their pull is
lessened by leaving out what is darker than its surroundings, and scenes whose pattern has too little in
common with the reference (low winter sun, snow) are refused; what is left grows with the height of things in
pixels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from changedet.errors import InputError, SettingError
from changedet.steps._align_models import LADDERS, Registration, modeled
from changedet.steps._align_move import halo_px, move_flags, moved_image, shifted
from changedet.steps._align_ties import TiePoints, corners, tie_points
from changedet.steps._bandpass import masked_ncc
from changedet.steps._register import Patches, ShiftEstimate, Template, cut, match, template, window_side
from changedet.steps._resample import apply_shift
from changedet.steps._resample_field import Field
from changedet.steps._stable import (
    Sample,
    choose_bands,
    draw,
    draw_pair,
    median_spread,
    named_reference,
    reference_dates,
    stable_land,
    usable,
)

__all__ = [
    "Field",
    "Registration",
    "ShiftEstimate",
    "TiePoints",
    "align",
    "apply_shift",
    "estimate_shift",
    "lay",
    "masked_ncc",
    "move_flags",
    "reach_px",
    "register",
    "resample",
    "seen_from",
]

Array = npt.NDArray[Any]

ModelName = Literal["translation", "affine", "local", "auto"]

_FEWEST_FOR_MEDIAN = 4
_TIE_TILE_PX = 128  # of a large raster, where shifts may differ from place to place: two windows aside
_TIE_SAMPLE_PX = 1280
_MOST_TIES, _SHOWN_TIES = 256, 64
_THE_REFERENCE = "the reference"
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


def align(
    stack: xr.Dataset,
    *,
    reference: str | xr.DataArray = "median",
    model: ModelName = "translation",
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
    model : ``translation``: one shift a scene; ``affine`` or ``local`` (smooth): shifts that differ from
        place to place, taken only where held-out tie points are surely nearer to them; ``auto``: the simplest
        of the three that holds
    apply_above_px : shortest shift that is applied, pixels; shorter ones are recorded only
    max_shift_px : longest shift that is believed, pixels
    sample_px : side of the largest sample, pixels; twice that for other models than translation

    Returns
    -------
    xr.Dataset with ``shift_dy_px``, ``shift_dx_px`` (shift to apply, its mean where it differs from place to
    place; zero where refused), ``shift_residual_px``, ``shift_tie_points``, ``shift_model``,
    ``shift_accepted``, ``shift_applied`` and ``shift_why`` along time. Pixels are lazy where the input's are,
    and the input's own where nothing is applied.

    Raises
    ------
    SettingError
        ``reference`` names no scene, or a tuning value is out of range.
    GridError
        The reference image is on another grid.
    """
    _require_above(apply_above_px)
    found = register(stack, reference=reference, model=model, max_shift_px=max_shift_px, sample_px=sample_px)
    return resample(stack, found, apply_above_px=apply_above_px)


def lay(
    before: xr.DataArray,
    after: xr.DataArray,
    *,
    apply_above_px: float = 0.3,
    max_shift_px: float = 4.0,
    sample_px: int = 640,
    threads: int = 1,
) -> tuple[xr.DataArray, ShiftEstimate]:
    """Lay the second of two images on the first, where that is sure and long enough to matter.

    Parameters
    ----------
    before, after : (band, y, x) on one grid, the same bands, NaN = not usable
    apply_above_px : shortest shift that is applied, pixels: below, the blur of moving costs more
    max_shift_px, sample_px : see :func:`align`
    threads : threads for eager work

    Returns
    -------
    after : (band, y, x), moved; the input itself where nothing is applied; lazy where it is
    found : the shift, and why it was not accepted where it was not
    """
    _require_above(apply_above_px)
    sample = draw_pair(before, after, sample_px=sample_px)
    dates = np.array([0, 1])
    if (usable(sample) == 0).any():
        return after, ShiftEstimate(why="no usable pixel")
    found = _first_pass(sample, dates, 0, max_shift_px, judge=True)[0][1]
    if not found.accepted or found.size_px < max(apply_above_px, 1e-3):
        return after, found
    return moved_image(after, (found.dy, found.dx), threads=threads), found


def register(
    stack: xr.Dataset,
    *,
    reference: str | xr.DataArray = "median",
    model: ModelName = "translation",
    max_shift_px: float = 4.0,
    sample_px: int = 640,
    ties: bool = False,
) -> list[Registration]:
    """Find how every scene lies on one reference; :func:`resample` then moves them.

    Parameters
    ----------
    stack, reference, model, max_shift_px, sample_px : see :func:`align`
    ties : look for tie points also where one shift is all that is asked for

    Returns
    -------
    list of Registration, one a scene, in order of time

    Raises
    ------
    SettingError, GridError
        See :func:`align`.
    """
    if not 0 < max_shift_px <= 8 or model not in LADDERS:
        raise SettingError(
            f"max_shift_px {max_shift_px}, model {model!r}; wanted 0 < max_shift_px <= 8 and one of "
            f"{', '.join(LADDERS)}"
        )
    names = tuple(map(str, stack["band"].values))
    fixed = named_reference(stack, reference)
    if isinstance(fixed, xr.DataArray):
        names = tuple(b for b in names if b in set(map(str, fixed["band"].values)))
    bands = choose_bands(names)
    if model == "translation":
        sample = draw(stack, bands=bands, sample_px=sample_px)
    else:
        sample = draw(stack, bands=bands, sample_px=2 * sample_px, tile_px=_TIE_TILE_PX)
    dates = reference_dates(sample)
    if dates.size == 0:
        return [Registration(ShiftEstimate(why="no usable pixel"))] * len(sample.images)
    if fixed is None and dates.size < _FEWEST_FOR_MEDIAN:
        fixed = int(dates[0])
    found, image, land = _two_passes(sample, dates, fixed, max_shift_px)
    if model == "translation" and not ties:
        return [Registration(one) for one in found]
    shape = (stack.sizes["y"], stack.sizes["x"])
    asked = {"name": model, "shape": shape, "max_shift_px": max_shift_px}
    return _with_ties(sample, found, (image, land), asked)


def _with_ties(
    sample: Sample, found: list[ShiftEstimate], reference: tuple[Array, Array], asked: dict[str, Any]
) -> list[Registration]:
    """Match windows one by one, and see whether they want more than one shift."""
    side = window_side(reference[0].shape, _TIE_TILE_PX // 2)
    reach = float(asked["max_shift_px"])
    t = template(
        *reference,
        max_shift_px=reach,
        corner=corners(sample, side),
        most=_MOST_TIES if LADDERS[asked["name"]] else _SHOWN_TIES,
        thin=False,
        bright_side=not sample.sar,
    )
    out = []
    for one, image in zip(found, sample.images, strict=True):
        if one.why == _THE_REFERENCE:
            out.append(Registration(one))
            continue
        patches = cut(t, image)
        ties = tie_points(t, patches, sample, max_shift_px=reach)
        out.append(modeled(one, ties, (t, patches), **asked))
    return out


def resample(stack: xr.Dataset, found: list[Registration], *, apply_above_px: float = 0.5) -> xr.Dataset:
    """Move scenes as :func:`register` found, once, each from its own pixels.

    Parameters
    ----------
    stack : the stack that was registered; left alone
    found : one a scene
    apply_above_px : shortest shift that is applied, pixels

    Returns
    -------
    xr.Dataset, see :func:`align`
    """
    _require_above(apply_above_px)
    applied = _applied(found, apply_above_px)
    return _labelled(shifted(stack, found, applied), found, applied)


def reach_px(found: list[Registration], *, apply_above_px: float = 0.5) -> int:
    """Return how far around a window :func:`resample` looks: 0 where no scene is moved."""
    applied = _applied(found, apply_above_px)
    return max((halo_px(one) for one, use in zip(found, applied, strict=True) if use), default=0)


def seen_from(found: list[Registration], row: int, column: int) -> list[Registration]:
    """Return how scenes lie as a window of the raster that begins at a place sees it."""

    def moved(field: Field | None) -> Field | None:
        return field and replace(field, rows=field.rows - row, columns=field.columns - column)

    return [replace(one, field=moved(one.field)) for one in found]


def _applied(found: list[Registration], apply_above_px: float) -> list[bool]:
    """Say which shifts are long enough to be applied."""
    return [one.shift.accepted and one.largest_px >= max(apply_above_px, 1e-3) for one in found]


def _require_above(apply_above_px: float) -> None:
    """Refuse what is no length."""
    if not apply_above_px >= 0:
        raise SettingError(f"apply_above_px is {apply_above_px}; wanted 0 or more")


def _two_passes(
    sample: Sample, dates: Array, fixed: int | xr.DataArray | None, max_shift_px: float
) -> tuple[list[ShiftEstimate], Array, Array]:
    """Match all dates with the reference; where that is the median, first with one sharp scene.

    Returns the shifts, the reference image, and the land to match it on.
    """
    if fixed is not None:
        found = _first_pass(sample, dates, fixed, max_shift_px, judge=True)[0]
        return found, *_reference(sample, dates, fixed, [])
    found, patches, t = _first_pass(sample, dates, _pivot(sample, dates), max_shift_px)
    if 2 * sum(found[i].accepted for i in dates) < dates.size:  # an odd scene to begin with
        found, patches, t = _first_pass(sample, dates, None, max_shift_px)
    found = _centered(found, dates)
    image, land = _reference(sample, dates, None, found)
    t = template(image, land, max_shift_px=max_shift_px, like=t, bright_side=not sample.sar)
    starts = [e if e.accepted else None for e in found]
    found = [match(t, p, max_shift_px=max_shift_px, start=s) for p, s in zip(patches, starts, strict=True)]
    return found, image, land


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
        found[reference] = ShiftEstimate(accepted=True, why=_THE_REFERENCE)
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


def _labelled(stack: xr.Dataset, found: list[Registration], applied: list[bool]) -> xr.Dataset:
    """Write the shifts along time."""
    px = {"units": "px"}
    shifts = [one.shift for one in found]
    return stack.assign_coords(
        shift_dy_px=("time", np.array([e.dy for e in shifts]), px),
        shift_dx_px=("time", np.array([e.dx for e in shifts]), px),
        shift_residual_px=("time", np.array([e.residual_px for e in shifts]), px),
        shift_tie_points=("time", np.array([e.tie_points for e in shifts], np.int64)),
        shift_model=("time", np.array([one.model for one in found], dtype=object)),
        shift_accepted=("time", np.array([e.accepted for e in shifts], bool)),
        shift_applied=("time", np.array(applied, bool)),
        shift_why=("time", np.array([e.why for e in shifts], dtype=object)),
    )
