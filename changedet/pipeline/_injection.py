"""Structures put into the pixels of a stack: what is put, where, when, and how it looks on each date.

Both the quick figure of a run (:mod:`changedet.pipeline._quick`) and ``changedet sensitivity``, which runs
the whole pipeline again and again and therefore lies a shelf above, put structures in by what is here.

What is assumed: a flat top of one material with no shadow and no height; on each date it is as bright,
against its usual self, as the bright stable pixels of the land, so haze dims its contrast and snow covers it
as it covers them; its brightness differs by some per cent from date to date; pixels that are not usable stay
so; it is there whole from one date on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import xarray as xr

from changedet import detector
from changedet.grid import Window, grow
from changedet.pipeline._assemble import Detection, over
from changedet.pipeline._pixels import Pixels
from changedet.simulate import coverage, reflectance, structure_share
from changedet.steps import aggregate, mask
from changedet.steps._robust import middle

if TYPE_CHECKING:
    from shapely.geometry import Polygon

Array = npt.NDArray[Any]

ASPECT = {"block": 1.0, "pier": 2.5, "strip": 8.0}
"""Length over width of the shapes; a strip is a causeway or a deck."""

SIDES_PX = (0.7, 12.0)
"""Side of the smallest and the largest structure tried, px."""

SHADE = (0.85, 1.15)
"""Brightness of one structure against the material's table, least and most."""

WEATHER = 0.03
"""Spread of a structure's brightness from date to date: dust, wet, view."""

NEEDED = 3
"""Dates wanted from the beginning of a structure on: fewer can show nothing that stays."""

COUNTS = 0.25
"""A pixel covered by this much belongs to the footprint, or the one covered most where none is."""

_EDGE_PX = 2


@dataclass(frozen=True)
class Kind:
    """What is to be put in.

    Parameters
    ----------
    over : stratum
    side_m : square root of the area
    shape : one of :data:`ASPECT`
    material : of :data:`changedet.simulate.MATERIALS`
    onset : index of the first date with it
    """

    over: str
    side_m: float
    shape: str
    material: str
    onset: int


@dataclass(frozen=True)
class Trial:
    """One structure in its place.

    Parameters
    ----------
    kind : what it is
    outline : polygon in pixels (column, row) of the grid that the detector works on
    shade : brightness against the material's table
    weather : (time,) brightness of each date against the usual
    rows, columns : (pixel,) its footprint on that grid
    """

    kind: Kind
    outline: Polygon
    shade: float
    weather: Array
    rows: Array
    columns: Array

    @property
    def window(self) -> Window:
        """Smallest window that holds the footprint."""
        return (
            slice(int(self.rows.min()), int(self.rows.max()) + 1),
            slice(int(self.columns.min()), int(self.columns.max()) + 1),
        )


@dataclass(frozen=True)
class Light:
    """How materials look on the dates of a stack.

    Parameters
    ----------
    bands : names
    gain : (time, band) brightness of the bright stable pixels of the land against their usual self
    level : (band,) usual value of those pixels
    calibrated : values are reflectance, so the tables of materials hold as they are
    """

    bands: tuple[str, ...]
    gain: Array
    level: Array
    calibrated: bool

    def spectrum(self, material: str) -> Array:
        """Return a material's usual values, (band,).

        Where the values are not reflectance, or the wavelength of a band is not known, the scene's own bright
        stable pixels stand for concrete.
        """
        values = reflectance(material, self.bands)
        concrete = reflectance("concrete", ("blue", "green", "red"))
        visible = reflectance(material, ("blue", "green", "red"))
        likened = self.level * float(np.mean(visible / concrete))
        known = np.isfinite(values) & self.calibrated
        return np.where(known, values, likened).astype(np.float32)

    def of(self, trial: Trial) -> Array:
        """Return a structure's values on each date, (time, band)."""
        own = trial.shade * self.spectrum(trial.kind.material)
        return np.asarray(own * self.gain * trial.weather[:, None], np.float32)


def light(
    image: Pixels, bands: tuple[str, ...], model: detector.Model, *, sample_px: int = 8000, least: int = 10
) -> Light:
    """Measure how bright the dates of a stack are on what is bright and stable on land.

    Parameters
    ----------
    image : (time, band, y, x), into which structures are put
    bands : names
    model : fitted; tells water from land
    sample_px : pixels looked at
    least : fewer usable pixels on a date say nothing: gain 1
    """
    values = image.sample(sample_px)
    seen = np.isfinite(values).all(axis=1).mean(axis=0) >= 0.4
    dry = model.setting.stratum(values[..., None])[:, 0] == 2
    values = values[..., seen & dry] if (seen & dry).sum() > 5 * least else values[..., seen]
    usual = middle(values)
    bright = usual.mean(axis=0)
    scatter = middle(np.abs(values - usual)).mean(axis=0) / np.maximum(bright, 1e-6)
    stable = scatter <= np.median(scatter) if scatter.size else np.zeros(0, bool)
    top = stable & (bright >= (np.quantile(bright[stable], 0.7) if stable.any() else np.inf))
    if not top.any():
        flat = np.ones(values.shape[:2], np.float32)
        return Light(bands, flat, np.ones(len(bands), np.float32), True)
    ratio = values[..., top] / np.maximum(usual[:, top], 1e-6)
    enough = np.isfinite(ratio).sum(axis=2) >= min(least, int(top.sum()))
    gain = np.where(enough, np.clip(middle(ratio, axis=2), 0.3, 4), 1)
    level = np.median(usual[:, top], axis=1)
    return Light(bands, gain.astype(np.float32), level.astype(np.float32), bool(np.max(level) < 1.2))


def blur_px(gsd_m: float) -> float:
    """Return a typical width (FWHM) of the blur beyond the pixel itself, px.

    Imagery of 10 m and more comes from large telescopes, as sharp as its pixels; finer products are softer.
    """
    return 1.1 if gsd_m >= 8 else 1.5


def scene_shifts(ready: xr.Dataset, *, raw: bool) -> list[tuple[float, float]]:
    """Return by how much the content of each scene lies off the common place, (dy, dx) px.

    Parameters
    ----------
    ready : aligned stack, which says what was measured and what was done
    raw : for the scenes as they were read, not for the aligned ones
    """
    if "shift_dy_px" not in ready.coords:
        return [(0.0, 0.0)] * ready.sizes["time"]
    dy, dx = (-np.nan_to_num(ready[f"shift_{axis}_px"].values) for axis in ("dy", "dx"))
    keep = np.ones(dy.size, bool) if raw else ~ready.shift_applied.values.astype(bool)
    return [(round(float(y), 2), round(float(x), 2)) for y, x in zip(dy * keep, dx * keep, strict=True)]


@dataclass(frozen=True)
class Ground:
    """A finished detection as structures are put into it.

    Parameters
    ----------
    found : baseline
    native, blocks : image and quality as read, and as the detector looked at them
    look : how materials look on its dates
    shifts : (dy, dx) px by which the content of each of its scenes lies off
    psf_px : FWHM of the blur beyond the pixel, pixels as read
    gsd_m : pixel size of the grid that the detector works on
    """

    found: Detection
    native: tuple[Pixels, Pixels]
    blocks: tuple[Pixels, Pixels]
    look: Light
    shifts: tuple[tuple[float, float], ...]
    psf_px: float
    gsd_m: float

    @property
    def model(self) -> detector.Model:
        """Fitted model; that of light, as radar has no materials."""
        return cast(detector.Model, self.found.model)


def ground(found: Detection, psf_fwhm_px: float | None = None) -> Ground:
    """Make ready to put structures into the scenes of a detection.

    Parameters
    ----------
    found : baseline, of light
    psf_fwhm_px : blur beyond the pixel, None = typical
    """
    gsd_m = float(found.grid.gsd_m)
    psf_px = blur_px(gsd_m / found.size) if psf_fwhm_px is None else psf_fwhm_px
    native = (Pixels(found.native.image), Pixels(found.native.quality))
    blocks = native if found.size == 1 else (Pixels(found.stack.image), Pixels(found.stack.quality))
    look = light(native[0], tuple(map(str, found.native.band.values)), cast(detector.Model, found.model))
    return Ground(found, native, blocks, look, tuple(scene_shifts(found.native, raw=False)), psf_px, gsd_m)


# ------------------------------------------------------------------------------------------------ where


def sides_m(gsd_m: float, count: int) -> tuple[float, ...]:
    """Return sides of structures, evenly spaced in size: from below a pixel to a dozen."""
    return tuple(float(f"{side * gsd_m:.3g}") for side in np.geomspace(*SIDES_PX, count))


def onsets(at: Ground) -> tuple[int, int]:
    """Return the first and the last date on which a structure may begin: after the history, seen thrice."""
    first = int(at.model.background.n_history)
    return first, max(len(at.shifts) - NEEDED, first)


def free(found: Detection, gap_px: int) -> Array:
    """Return where structures may be put, (y, x) bool: evidence exists and nothing was found nearby."""
    from scipy.ndimage import maximum_filter

    taken = np.zeros(found.maps.z.shape, np.uint8)
    for one in found.objects:
        if one.verdict.status is not None:
            taken[one.candidate.rows, one.candidate.columns] = 1
    room = np.isfinite(found.maps.z) & (maximum_filter(taken, 2 * gap_px + 1) == 0)
    room[:_EDGE_PX], room[:, :_EDGE_PX] = False, False
    room[-_EDGE_PX:], room[:, -_EDGE_PX:] = False, False
    return np.asarray(room)


def gap_px(model: detector.Model) -> int:
    """Return how far apart structures must lie so that the evidence of one does not see the other."""
    return int(model.halo_px) + 8


def place(
    kinds: Iterable[Kind], room: Array, at: Ground, rng: np.random.Generator, *, tries: int = 25
) -> Iterator[Trial]:
    """Put structures at random places of their strata, apart from each other; some may find no place.

    Parameters
    ----------
    kinds : what is to be put
    room : (y, x) bool, where there is room; taken up as structures are placed
    at : baseline, which knows the strata
    rng : random numbers
    tries : places tried for each
    """
    for kind in kinds:
        spots = np.flatnonzero(room & (at.found.maps.stratum == mask.STRATA.index(kind.over)))
        for spot in rng.choice(spots, min(tries, spots.size), replace=False) if spots.size else ():
            middle = np.array(np.unravel_index(int(spot), room.shape)) + rng.random(2)
            trial = make_trial(kind, at, (float(middle[0]), float(middle[1])), rng)
            if _fits(trial, room, at.found):
                room[grow(trial.window, gap_px(at.model), room.shape)] = False
                yield trial
                break


def make_trial(kind: Kind, at: Ground, middle: tuple[float, float], rng: np.random.Generator) -> Trial:
    """Return a structure about a place (row, column) of the detector's grid, turned at random."""
    outline = rectangle(middle, kind.side_m / at.gsd_m, ASPECT[kind.shape], float(rng.uniform(0, 180)))
    left, top, right, bottom = outline.bounds
    corner = (int(np.floor(top)), int(np.floor(left)))
    around = (
        slice(corner[0], int(np.ceil(bottom)) + 1),
        slice(corner[1], int(np.ceil(right)) + 1),
    )
    size = tuple(s.stop - s.start for s in around)
    share = coverage(_moved(outline, around, 1), _identity(), (size[0], size[1]), 4)
    rows, columns = np.nonzero(share >= min(COUNTS, float(share.max()) or 1.0))
    rows, columns = rows + corner[0], columns + corner[1]
    weather = rng.normal(1, WEATHER, len(at.shifts))
    return Trial(kind, outline, float(rng.uniform(*SHADE)), weather, rows, columns)


def _fits(trial: Trial, room: Array, found: Detection) -> bool:
    """Say whether a structure lies in free room, inside the scene, and mostly over its stratum."""
    from shapely import box

    inside = box(_EDGE_PX, _EDGE_PX, room.shape[1] - _EDGE_PX, room.shape[0] - _EDGE_PX)
    if not trial.rows.size or not inside.contains(trial.outline) or not room[trial.rows, trial.columns].all():
        return False
    return over(found.maps.stratum, trial.rows, trial.columns) == trial.kind.over


def rectangle(middle: tuple[float, float], side: float, aspect: float, angle_deg: float) -> Polygon:
    """Return a turned rectangle of area ``side``² about a place (row, column), as polygon (column, row)."""
    from shapely.affinity import rotate
    from shapely.geometry import box

    row, column = middle
    long, wide = side * np.sqrt(aspect) / 2, side / np.sqrt(aspect) / 2
    flat = box(column - long, row - wide, column + long, row + wide)
    turned: Polygon = rotate(flat, angle_deg)
    return turned


def _identity() -> Any:
    """Return the transform of pixel coordinates."""
    from affine import Affine

    return Affine.identity()


# ------------------------------------------------------------------------------------------------ pixels


def inject(
    image: Array,
    trials: Sequence[Trial],
    window: Window,
    look: Light,
    *,
    shifts: Sequence[tuple[float, float]],
    psf_px: float,
    scale: int = 1,
) -> Array:
    """Return pixels with structures in them, mixed by how much of each pixel they cover.

    Parameters
    ----------
    image : (time, band, y, x) float32 of the window, NaN = not usable; left as it is
    trials : structures; what of them lies outside the window is left out
    window : where the image lies in its grid
    look : how materials look on each date
    shifts : (dy, dx) px of each date, see :func:`scene_shifts`
    psf_px : FWHM of the blur beyond the pixel
    scale : pixels of the image along a pixel of the grid of the outlines
    """
    out = np.array(image, np.float32)
    for trial in trials:
        outline = _moved(trial.outline, window, scale)
        cover = coverage(outline, _identity(), (image.shape[2], image.shape[3]))
        values = look.of(trial)
        for shift in sorted(set(shifts)):
            dates = [t for t, own in enumerate(shifts) if own == shift and t >= trial.kind.onset]
            if dates:
                share = structure_share(cover, psf_px, shift)
                out[dates] += share * (values[dates][:, :, None, None] - out[dates])
    return out


def _moved(outline: Polygon, window: Window, scale: int) -> Any:
    """Return an outline in pixels of a window of a finer grid."""
    from shapely import transform

    corner = np.array([window[1].start, window[0].start])
    return transform(outline, lambda points: points * scale - corner)


def fine_window(window: Window, scale: int) -> Window:
    """Return the window of the finer grid under a window of blocks."""
    rows, columns = (slice(s.start * scale, s.stop * scale) for s in window)
    return rows, columns


def injected_window(at: Ground, trials: Sequence[Trial], window: Window) -> tuple[Array, Array]:
    """Return image and quality of a window of the detector's grid, structures being in the pixels as read.

    Parameters
    ----------
    at : baseline
    trials : structures
    window : on the detector's grid
    """
    native, scale = at.found.native, at.found.size
    fine = fine_window(window, scale)
    pixels, quality = (values.read(fine) for values in at.native)
    mixed = inject(pixels, trials, fine, at.look, shifts=at.shifts, psf_px=at.psf_px, scale=scale)
    if scale == 1:
        return mixed, quality
    patch = native.isel(y=fine[0], x=fine[1])
    held = {"image": patch.image.copy(data=mixed), "quality": patch.quality.copy(data=quality)}
    blocks = aggregate.aggregate(patch.assign(held), scale)
    return np.asarray(blocks.image.values), np.asarray(blocks.quality.values)
