"""The detector: background, evidence, step, null, candidates, verdicts, in bounded windows.

Everything that looks at the whole scene is fitted once on a regular sample; windows are then worked on
alone, on a fixed grid of tiles, so the result does not depend on how the work is shared out.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import xarray as xr

from changedet import _detector_facts as facts
from changedet import _detector_radar as radar
from changedet._detector_rows import overlap, row_candidates
from changedet._detector_seeds import REFERENCE_ALPHA, Maps, by_chance, restless_level, seed_level
from changedet.blocks import Tile, map_tiles, windows
from changedet.grid import Grid, Window, grow
from changedet.scenes import CLOUDY, is_sar, years
from changedet.steps import background, breaks, bridge, mask, track
from changedet.steps import confidence as belief
from changedet.steps import extent as size
from changedet.steps._robust import rank

__all__ = [
    "REFERENCE_ALPHA",
    "Evidence",
    "Maps",
    "Model",
    "Object",
    "Options",
    "Reader",
    "at_alpha",
    "evidence",
    "fit",
    "in_null_units",
    "judge",
    "objects",
    "restless_level",
    "row_candidates",
    "scan",
    "seed_level",
    "steps",
    "tile_count",
]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Options:
    """Settings of the detector.

    Parameters
    ----------
    history_share : first part of the dates, which decides what is alike; should be free of what is sought
    prototypes : classes of pixels at most
    sample_px : pixels of the regular sample
    pool_m : standard deviation of the pooling of evidence: that of a blurred pier, a few metres wide, held to
        ``POOL_PX``: from a narrow point-spread function to a pixel, as shadows lie close to what is tall
    doubt_m : pixels this close to a masked cloud are doubtful, as masks miss the thin edge of clouds
    seed_z : evidence that starts a candidate at the reference false-alarm level, in units of the null's noise
    seed : of the clustering
    """

    history_share: float = 0.4
    prototypes: int = 384
    sample_px: int = 24_000
    pool_m: float = 2.2
    doubt_m: float = 15.0
    seed_z: float = 4.0
    seed: int = 0


TILE_PX = 128
POOL_PX = (0.4, 1.0)
LENGTHS = (0, 5)
"""Dates after a break that make its "after" side: all, or five, which finds what was removed again."""


@dataclass(frozen=True)
class Model:
    """What was fitted on the sample, enough to compute evidence anywhere."""

    setting: mask.Setting
    background: background.Background
    class_spread: Array
    whiten: Array
    tolerance_px: Array
    noise: breaks.Noise
    options: Options
    doubt_px: int
    pool_px: float
    gsd_m: float
    years: Array

    @functools.cached_property
    def brightness(self) -> Array:
        """Visible log brightness of the middle class on every date, (time,)."""
        return facts.middle_brightness(self.background.median, self.setting.bands)

    @property
    def halo_px(self) -> int:
        """Pixels beyond a window that its evidence depends on."""
        return int(np.ceil(2.5 * self.pool_px)) + max(self.doubt_px, 1)


def sample_positions(shape: tuple[int, int], count: int) -> tuple[Array, Array]:
    """Return rows and columns of a regular sample of about ``count`` pixels."""
    step = max(np.sqrt(shape[0] * shape[1] / count), 1.0)
    rows = np.unique(np.floor(np.arange(step / 2, shape[0], step)).astype(int).clip(0, shape[0] - 1))
    columns = np.unique(np.floor(np.arange(step / 2, shape[1], step)).astype(int).clip(0, shape[1] - 1))
    r, c = np.meshgrid(rows, columns, indexing="ij")
    return r.ravel(), c.ravel()


Fitted = Model | radar.Radar


def fit(stack: xr.Dataset, options: Options = Options(), noise: breaks.Noise = breaks.Noise()) -> Fitted:  # noqa: B008
    """Fit background, noise and null ingredients on a sample of the stack.

    Parameters
    ----------
    stack : see :mod:`changedet.scenes`
    options, noise : settings

    Raises
    ------
    DegenerateError
        Hardly any pixel has a usable history.
    """
    times = stack.sizes["time"]
    bands = tuple(map(str, stack.band.values))
    n_history = mask.history_length(times, share=options.history_share)
    if is_sar(stack):
        return radar.fit(stack, n_history=n_history, seed=options.seed)
    rows, columns = sample_positions((stack.sizes["y"], stack.sizes["x"]), options.sample_px)
    picked = {"y": xr.DataArray(rows, dims="pixel"), "x": xr.DataArray(columns, dims="pixel")}
    raw = stack.image.isel(picked).transpose("time", "band", "pixel").values
    line = [stack[name].values if name in stack.coords else None for name in ("gain", "offset")]
    where = mask.setting(mask.as_measured(raw, *line), bands, n_history=n_history)
    where = replace(where, gain=line[0], offset=line[1])
    sample = np.moveaxis(mask.log_image(raw), 2, 0)
    position = np.stack([rows, columns], axis=1)
    model = background.fit_background(
        sample, position, n_history=n_history, prototypes=options.prototypes, seed=options.seed
    )
    found = background.predict(model, sample[:, :n_history], position)
    residual = sample - found.mean
    stratum = where.stratum(raw[..., None])[:, 0]
    spread = class_spread(residual, stratum)
    sd = np.sqrt(np.fmax(found.spread, np.moveaxis(spread[:, :, stratum], 2, 0)) ** 2 + noise.floor**2)
    whiten = breaks.whitening((residual / sd).reshape(-1, residual.shape[-1]))
    gsd_m = float(np.min(stack.gsd_m.values)) if "gsd_m" in stack.coords else 10.0
    doubt_px = int(np.clip(round(options.doubt_m / gsd_m), 2, 10))
    pool_px = float(np.clip(options.pool_m / gsd_m, *POOL_PX))
    allowed = tolerance(stack, noise)
    scale = (doubt_px, pool_px, gsd_m)
    return Model(where, model, spread, whiten, allowed, noise, options, *scale, years(stack))


def tolerance(stack: xr.Dataset, noise: breaks.Noise) -> Array:
    """Return the misregistration to tolerate on each date, px: what was not resampled away counts."""
    base = np.full(stack.sizes["time"], noise.shift_px)
    if "shift_dy_px" not in stack.coords:
        return base
    left = np.hypot(stack.shift_dy_px.values, stack.shift_dx_px.values)
    left = np.where(stack.shift_applied.values, 0.0, np.nan_to_num(left, nan=0.3))
    return np.asarray(np.hypot(base, 0.5 * left))


def class_spread(residual: Array, stratum: Array, *, least: int = 20) -> Array:
    """Return the robust spread of each stratum on each date, (time, band, stratum), 0 where unknown.

    Parameters
    ----------
    residual : (pixel, time, band), NaN = not usable
    stratum : (pixel,)
    least : fewer usable pixels give no spread
    """
    out = np.zeros((*residual.shape[1:], len(mask.STRATA)), np.float32)
    for s in range(len(mask.STRATA)):
        own = residual[stratum == s]
        if own.shape[0] >= least:
            n = np.isfinite(own).sum(axis=0)
            own = np.sort(own, axis=0)
            low, high = (rank(own, n, q) for q in (0.16, 0.84))
            out[:, :, s] = np.where(n >= least, (high - low) / 2, 0)
    return out


@dataclass(frozen=True)
class Evidence:
    """Evidence of a window, before pooling.

    Parameters
    ----------
    residual, weight : (time, band, y, x) float32; weight 0 = not usable
    clipped : residual cut at a few standard deviations, so that no single date decides
    frozen, near_cloud : (time, y, x) bool: ice or snow; next to a masked cloud
    stratum : (y, x) int8
    slope : (band, y, x) gradient of the reference, ln units a pixel
    """

    residual: Array
    weight: Array
    clipped: Array
    frozen: Array
    near_cloud: Array
    stratum: Array
    slope: Array


def evidence(model: Model, image: Array, quality: Array, window: Window) -> Evidence:
    """Compute residuals and weights of a window.

    Parameters
    ----------
    model : fitted
    image : (time, band, y, x) values of the window
    quality : (time, y, x) flags of the window
    window : where it lies in the scene
    """
    times, bands, height, width = image.shape
    values = mask.log_image(image)
    n_history = model.background.n_history
    ordered = np.sort(values[:n_history], axis=0)
    slope = breaks.gradient(rank(ordered, np.isfinite(ordered).sum(axis=0), 0.5))
    r, c = np.mgrid[window]
    inner = values.reshape(times, bands, -1)
    found = background.predict(
        model.background,
        np.ascontiguousarray(np.moveaxis(inner[:n_history], 2, 0)),
        np.stack([r.ravel(), c.ravel()], axis=1),
    )
    residual = inner - found.mean.transpose(1, 2, 0)
    stratum = model.setting.stratum(image)
    flat = stratum.ravel()
    w = breaks.weights(
        residual,
        np.ascontiguousarray(found.spread.transpose(1, 2, 0)),
        model.class_spread[:, :, flat],
        slope.reshape(bands, -1),
        tolerance_px=model.tolerance_px,
        floor=model.noise.floor,
    )
    frozen = model.setting.frozen[:, flat].reshape(times, height, width)
    edge = near_cloud(np.where(np.isfinite(image[:, 0]), 0, quality), model.doubt_px)
    w *= np.where(frozen | edge, np.float32(model.noise.doubt_weight), np.float32(1)).reshape(times, 1, -1)
    limit = model.noise.clip / np.sqrt(np.maximum(w, 1e-12))
    residual = np.where(w > 0, residual, np.float32(0))
    clipped = np.clip(residual, -limit, limit)
    shape = (times, bands, height, width)
    return Evidence(
        residual.reshape(shape),
        w.reshape(shape),
        clipped.reshape(shape),
        frozen,
        edge,
        stratum,
        slope,
    )


def near_cloud(quality: Array, radius_px: int) -> Array:
    """Return ``(time, y, x)`` bool, True within a square of ``radius_px`` around a masked cloud."""
    from scipy.ndimage import maximum_filter1d

    cloudy = ((quality & int(CLOUDY)) > 0).astype(np.uint8)
    for axis in (1, 2):
        cloudy = maximum_filter1d(cloudy, 2 * radius_px + 1, axis=axis, mode="nearest")
    return cloudy > 0


def pool(found: Evidence, sigma_px: float) -> tuple[Array, Array]:
    """Pool residuals over neighbors by weight: a matched filter for what is as small as the blur."""
    from scipy.ndimage import gaussian_filter1d

    total, weight = found.clipped * found.weight, found.weight
    for axis in (2, 3):
        total = gaussian_filter1d(total, sigma_px, axis=axis, truncate=2.5, mode="constant")
        weight = gaussian_filter1d(weight, sigma_px, axis=axis, truncate=2.5, mode="constant")
    residual = np.divide(total, weight, out=np.zeros_like(total), where=weight > 1e-9)
    return residual, np.where(found.weight > 0, weight, 0)


_Rules = TypeVar("_Rules", track.Persistence, bridge.Rules)
Tick = Callable[[int], None]
Reader = Callable[[Window], tuple[Array, Array]]
"""Gives image and quality of a window."""


def read_window(stack: xr.Dataset, window: Window) -> tuple[Array, Array]:
    """Return image and quality of a window as NumPy arrays."""
    part = stack.isel(y=window[0], x=window[1])
    return np.asarray(part.image.values), np.asarray(part.quality.values)


def tile_count(stack: xr.Dataset) -> int:
    """Return how many windows :func:`scan` works on."""
    return -(-stack.sizes["y"] // TILE_PX) * -(-stack.sizes["x"] // TILE_PX)


def scan(stack: xr.Dataset, model: Fitted, *, threads: int = 1, tick: Tick | None = None) -> Maps:
    """Compute the step evidence of every pixel, tile by tile."""
    if isinstance(model, radar.Radar):
        return Maps(**radar.scan(stack, model, threads=threads, tick=tick))
    shape = (stack.sizes["y"], stack.sizes["x"])
    score = np.full(shape, np.nan, np.float32)
    index = np.full(shape, -1, np.int16)
    delta = np.zeros((stack.sizes["band"], *shape), np.float32)
    stratum = np.full(shape, 2, np.int8)

    def work(tile: Tile) -> None:
        found = evidence(model, *read_window(stack, tile.outer), tile.outer)
        step = steps(found, model, tile.trim)
        score[tile.inner], index[tile.inner] = step.score, step.index
        delta[(slice(None), *tile.inner)] = step.delta
        stratum[tile.inner] = found.stratum[tile.trim]

    map_tiles(work, list(windows(shape, TILE_PX, halo_px=model.halo_px)), threads=threads, tick=tick)
    nulls = tuple(breaks.null_scale(score[stratum == s]) for s in range(len(mask.STRATA)))
    return Maps(in_null_units(score, stratum, nulls), index, delta, stratum, nulls)


def steps(found: Evidence, model: Model, trim: Window) -> breaks.Step:
    """Return the best step of every pixel of a window without its halo, as (y, x) and (band, y, x)."""
    fields = (*pool(found, model.pool_px), found.residual, found.weight)
    inner = [a[(..., *trim)] for a in fields]
    times, bands, height, width = inner[0].shape
    pooled, pooled_weight, residual, weight = (a.reshape(times, bands, -1) for a in inner)
    step = breaks.best_step(pooled, pooled_weight, model.whiten, lengths=LENGTHS)
    step = breaks.measure(step, residual, weight)
    score, index, length = (a.reshape(height, width) for a in (step.score, step.index, step.length))
    return breaks.Step(score, index, length, step.delta.reshape(bands, height, width))


def in_null_units(score: Array, stratum: Array, nulls: tuple[breaks.NullScale | None, ...]) -> Array:
    """Return scores in units of their stratum's null noise, (y, x) float32, NaN where it has no null."""
    z = np.full(score.shape, np.nan, np.float32)
    for s, null in enumerate(nulls):
        if null is not None:
            z[stratum == s] = null.z(score[stratum == s])
    return z


@dataclass(frozen=True)
class Object:
    """A candidate with its history and the verdict on it.

    Parameters
    ----------
    candidate, series, verdict : what it is, its history, what follows
    stratum : it lies in
    confidence : probability that it was built, NaN unknown
    known : the facts that it follows from, None where there are none
    by_row : looked for as others stand in a row
    p_value : probability of evidence as strong somewhere in a scene without works, NaN unknown
    extent : its size and middle, in pixels of the scene, where it fills no pixel; else None
    """

    candidate: track.Candidate
    series: track.Series
    verdict: track.Verdict
    stratum: str
    confidence: float = float("nan")
    known: belief.Facts | None = None
    by_row: bool = False
    p_value: float = float("nan")
    extent: size.Extent | None = None


def objects(
    stack: xr.Dataset,
    model: Fitted,
    maps: Maps,
    *,
    rules: track.Persistence = track.Persistence(),  # noqa: B008
    growth: track.Growth = track.Growth(),  # noqa: B008
    rows: bridge.Rules = bridge.Rules(),  # noqa: B008
    alpha: float = 0.05,
    tick: Tick | None = None,
) -> list[Object]:
    """Cut candidates from the evidence, date and judge each; then look where a row wants one more."""
    if isinstance(model, radar.Radar):
        chance = restless_level(maps, REFERENCE_ALPHA / alpha)
        known = (rules, growth, alpha)
        return [Object(**vars(o)) for o in radar.objects(stack, model, maps, chance, known, tick)]
    seed, read = seed_level(maps, model.options.seed_z, alpha), functools.partial(read_window, stack)
    rules, lenient = (
        at_alpha(rules, alpha),
        replace(rules, min_confidence=at_alpha(rows, alpha).min_confidence),
    )
    found = []
    for candidate in track.candidates(maps.z, maps.delta, seed, growth):
        found.append(judge(read, model, maps, candidate, rules))
        if tick is not None:
            tick(1)
    standing = [o.candidate for o in found if o.verdict.status is not None]
    for candidate in row_candidates(maps, standing, seed, (growth, rows), Grid.of(stack).gsd_m):
        more = judge(read, model, maps, candidate, lenient)
        if more.verdict.status is not None:
            found = [o for o in found if not overlap(o.candidate, candidate)]
            found.append(replace(more, by_row=True))

    def p_value(one: Object) -> float:
        return by_chance(maps, mask.STRATA.index(one.stratum), one.verdict.first, one.candidate.peak)

    return [replace(one, p_value=p_value(one)) for one in found]


def at_alpha(rules: _Rules, alpha: float) -> _Rules:
    """Return rules that ask for odds as much higher as the false-alarm level is stricter."""
    return replace(rules, min_confidence=belief.stricter(rules.min_confidence, REFERENCE_ALPHA / alpha))


def judge(
    read: Reader, model: Model, maps: Maps, candidate: track.Candidate, rules: track.Persistence
) -> Object:
    """Date and judge one candidate from the evidence of its own window."""
    outer = grow(candidate.window, max(model.halo_px, int(np.ceil(facts.RING_PX[1]))), maps.z.shape)
    image, quality = read(outer)
    own = evidence(model, image, quality, outer)
    stratum = mask.STRATA[np.bincount(maps.stratum[candidate.rows, candidate.columns], minlength=3).argmax()]

    rows, columns = candidate.rows - outer[0].start, candidate.columns - outer[1].start
    at = (slice(None), rows, columns)
    residual, weight = (a[(slice(None), *at)] for a in (own.residual, own.weight))
    value, variance = track.pixel_values(residual, weight, candidate.delta, model.whiten)
    frozen, edge = own.frozen[at], own.near_cloud[at]

    def series(pick: Array) -> track.Series:
        doubts = (a[:, pick].mean(axis=1) > 0.5 for a in (frozen, edge))
        return track.project(value[:, pick], variance[:, pick], *doubts)

    causes = track.Causes(
        level=model.setting.level,
        years=model.years,
        frozen=model.setting.frozen[:, mask.STRATA.index(stratum)],
        over=stratum,
        edge_step=float(np.median(np.linalg.norm(own.slope[at], axis=0))),
        step=float(np.linalg.norm(candidate.delta)),
        plants=track.only_plants(candidate.delta, model.setting.bands),
        darker=_darker(candidate.delta, stratum, model.setting.bands),
        cleared=stratum == "land" and track.plants_gone(candidate.delta, model.setting.bands),
    )
    whole = series(np.ones(candidate.rows.size, bool))
    verdict = track.judge(whole, causes, rules)
    early = track.first_part(track.pixel_begins(value, whole.frozen), candidate.rows, candidate.columns)
    if verdict.status in ("persistent", "unresolved", None) and early is not None:
        part = track.judge(series(early), causes, rules)
        verdict = track.grown(verdict, part)
    place = facts.Place(candidate, rows, columns, image, value, own.residual, own.weight, own.stratum)
    known = facts.gather(place, whole, verdict, causes, model)
    chance = float(belief.confidence([known])[0])
    settled = track.settled(verdict, chance, causes, rules)
    small = facts.extent_of(place, verdict.seen, outer, model.setting.bands)
    return Object(candidate, whole, settled, stratum, chance, known, extent=small)


def _darker(delta: Array, stratum: str, bands: tuple[str, ...]) -> bool:
    """Say whether a step is to the dark; on land, what is built is brighter in some visible band."""
    return track.all_darker(delta) or (stratum == "land" and track.not_brighter(delta, bands))
