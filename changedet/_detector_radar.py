"""The detector on SAR: speckle has a known distribution, so objects are tested, not scored.

Every date is divided by the level of its own water and of its own steady land; looks and their correlation
are counted in the stack; what neighbors share beyond speckle (wind, moisture) adds to the variance of its
date. Places are proposed by the omnibus test of slightly averaged pixels, objects are decided by the test of
their mean, and how often speckle alone proposes such an object is found by simulating it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from changedet.blocks import Tile, map_tiles, windows
from changedet.grid import Window
from changedet.scenes import years
from changedet.steps import backscatter, breaks, mask, powerstep, speckle, track

Array = npt.NDArray[Any]

TILE_PX = 256
WATER, SHORE, LAND = backscatter.WATER, backscatter.SHORE, backscatter.LAND
GROUND_DB = 3.0
"""What soil and plants alone may change on land, mean of the bands."""

LEVEL_SWING = 0.1  # share of the shore that must change sides for the level of water to explain anything

SEED, EDGE, BULK = 0.999, 0.98, 0.9
"""Shares of pixels of speckle alone below the evidence that starts a candidate, to which it grows, and at
which scores are compared where what was built may be among them."""

LEAST_DECOYS = 6
"""Fewer objects that got darker do not tell how far chance reaches."""

NULL_PX = 128
NULLS = 4
"""Side and number of the scenes of speckle alone that are simulated for every stratum."""


@dataclass(frozen=True)
class Surface:
    """What a stratum's power does without change.

    Parameters
    ----------
    looks : (time, band) equivalent number of looks of a pixel
    unrest : (time, band) variance of log power that neighbors share
    tail : how often speckle alone makes an object
    null : of the scores of single places
    seed, edge : ``z`` that starts a candidate, and to which it grows
    bulk, darker : scores below which nine in ten places lie, and nearly all that got darker
    """

    looks: Array
    unrest: Array
    tail: speckle.Tail
    null: breaks.NullScale
    seed: float
    edge: float
    bulk: float
    darker: float


@dataclass(frozen=True)
class Radar:
    """What was fitted on the whole stack.

    Parameters
    ----------
    setting : what the dates are like
    stratum : (y, x) int8 water, shore, land
    wet : (y, x) bool, nearer to water than to land: whose level counts
    land_level : (time, band) ln units over the usual level
    water_level : (time, band, row, column) the same of cells of water
    rho : correlation of speckle by lag
    surfaces : of water, shore and land; None where there is none
    """

    setting: mask.Setting
    stratum: Array
    wet: Array
    land_level: Array
    water_level: Array
    rho: Array
    surfaces: tuple[Surface | None, ...]
    halo_px: int = 1

    def power(self, image: Array, window: Window) -> Array:
        """Return power of a window relative to the level of its surface on that date, (time, band, y, x)."""
        level: Array = np.broadcast_to(self.land_level[..., None, None], image.shape)
        wet = self.wet[window]
        if wet.any():
            level = np.where(wet, backscatter.cells_at(self.water_level, window), level)
        return np.asarray(backscatter.usable(image) * np.exp(-level), np.float32)

    def looks(self, stratum: Array, factor: float) -> Array:
        """Return the looks of a mean with so much of the variance of a pixel, (time, band, ...)."""
        own = [
            1 / (factor / s.looks + s.unrest) if s is not None else np.ones_like(self.land_level)
            for s in self.surfaces
        ]
        return np.moveaxis(np.stack(own), 0, -1)[..., stratum].astype(np.float32)


# --- fitting -----------------------------------------------------------------------------------------------


def fit(stack: xr.Dataset, *, n_history: int, seed: int = 0) -> Radar:
    """Fit levels, looks and the null on the stack, read date by date.

    Parameters
    ----------
    stack : see :mod:`changedet.scenes`, power
    n_history : first dates, which decide water and land
    seed : of the simulated null
    """
    bands = tuple(map(str, stack.band.values))
    usual, history, chance = backscatter.usual_power(stack, n_history)
    wet, stratum = backscatter.surfaces_of(history, chance, bands)
    land_level, water_level = backscatter.levels(stack, usual, wet)
    base = Radar(
        _setting(stack, n_history, wet, stratum),
        stratum,
        wet,
        land_level,
        water_level,
        np.ones((1, 1)),
        (None, None, None),
    )
    rho, looks, unrest = _noise(stack, base, usual)
    rng = np.random.default_rng(seed)
    made: list[Surface | None] = [None, None, None]
    for s in (WATER, LAND):
        if np.isfinite(looks[s]).all():
            made[s] = _surface(rng, looks[s], unrest[s], rho)
    made = [s if s is not None else (made[LAND] or made[WATER]) for s in made]
    return replace(base, rho=rho, surfaces=tuple(made))


def _setting(stack: xr.Dataset, n_history: int, wet: Array, stratum: Array) -> mask.Setting:
    """Describe the dates: nothing is frozen; the level of water is how much of the shore it covers."""
    times = stack.sizes["time"]
    frozen = np.zeros((times, 3), bool)
    covered = backscatter.shore_wet(stack, wet, stratum)
    level = mask.water_level(covered, np.full(covered.shape[1], SHORE), frozen)
    known = level[np.isfinite(level)]
    if known.size == 0 or np.ptp(known) < LEVEL_SWING:
        level = np.full(times, np.nan)
    valid = np.isfinite(stack.image).all("band").mean(("y", "x")).values.astype(np.float64)
    return mask.Setting(
        tuple(map(str, stack.band.values)),
        float("nan"),
        np.arange(times) < n_history,
        frozen,
        level,
        np.full(times, float(wet.mean())),
        valid,
    )


def _noise(stack: xr.Dataset, model: Radar, usual: Array) -> tuple[Array, Array, Array]:
    """Count looks and what neighbors share, per stratum (water, shore, land), date and band.

    Returns
    -------
    rho : correlation of speckle by lag
    looks, unrest : (3, time, band); NaN in strata with too few pixels
    """
    times, bands = stack.sizes["time"], stack.sizes["band"]
    window = (slice(0, model.wet.shape[0]), slice(0, model.wet.shape[1]))
    blocks: dict[int, list[Array]] = {WATER: [], LAND: []}
    spread = np.full((3, times, bands), np.nan)
    lags = []
    for t in range(times):
        part = replace(model, land_level=model.land_level[[t]], water_level=model.water_level[[t]])
        image = stack.image.isel(time=[t]).transpose("time", "band", "y", "x").values
        power = part.power(image, window)[0]
        residual = np.log(power) - usual
        fine = speckle.less_surroundings(residual)
        lags.append(speckle.correlation(fine))
        averaged = np.log(speckle.multilook(power / np.exp(usual))[0])
        for s, found in blocks.items():
            own = model.stratum == s
            found.append(speckle.block_variances(np.where(own, fine, np.nan)))
            spread[s, t] = [speckle.iqr(a[own]) for a in averaged]
    rho = speckle.settled(np.mean(lags, axis=0), bands * times * model.wet.size)
    looks, unrest = np.full_like(spread, np.nan), np.zeros_like(spread)
    for s, found in blocks.items():
        looks[s] = speckle.looks_by_date(np.stack(found), rho, times)
        if np.isfinite(looks[s]).all():
            unrest[s] = speckle.unrest(spread[s], looks[s] / speckle.smoothing_factor(rho), times)
    return rho, looks, unrest


def _surface(rng: np.random.Generator, looks: Array, unrest: Array, rho: Array) -> Surface:
    """Simulate a stratum without change: how its places score, and how often they make an object."""
    shape = (NULL_PX, NULL_PX)
    factor = speckle.smoothing_factor(rho)
    averaged = (1 / (factor / looks + unrest)).astype(np.float32)
    fields = [speckle.speckle_field(rng, looks, unrest, rho, shape) for _ in range(NULLS)]
    splits = [place_scores(field, averaged[..., None]) for field in fields]
    signed = np.concatenate([s.score for s in splits])
    score = np.abs(signed)
    null = breaks.null_scale(score)
    if null is None:
        null = breaks.NullScale(2.0, 1.0, 1.0, 0)
    seed, edge = (float((np.nanquantile(score, q) - null.location) / null.spread) for q in (SEED, EDGE))
    found = []
    for field, split in zip(fields, splits, strict=True):
        z = null.z(np.abs(split.score)).reshape(shape)
        delta = split.delta.reshape(-1, *shape)
        for one in track.candidates(z, delta, np.full(shape, seed, np.float32), track.Growth(grow=edge)):
            share = speckle.mean_factor(one.rows, one.columns, rho)
            own = 1 / (share / looks + unrest)
            found.append(powerstep.mean_of(field[:, :, one.rows, one.columns], own).statistic)
    tail = speckle.tail_of(np.array(found), NULLS * NULL_PX**2)
    bulk, darker = float(np.nanquantile(score, BULK)), float(np.quantile(-signed[signed < 0], EDGE))
    return Surface(looks, unrest, tail, null, seed, edge, bulk, darker)


# --- places ------------------------------------------------------------------------------------------------


def place_scores(power: Array, looks: Array) -> powerstep.Split:
    """Score the averaged surroundings of every pixel.

    Parameters
    ----------
    power : (time, band, y, x)
    looks : (time, band, pixel or 1) of the averages

    Returns
    -------
    Split of (y · x) places; ``delta`` is that of the pixel itself, so that outlines stay sharp
    """
    averaged, support = speckle.multilook(power)
    flat = averaged.reshape(*averaged.shape[:2], -1)
    looks = looks * support.reshape(flat.shape)
    split = powerstep.best_split(powerstep.clipped(flat, looks), looks)
    return replace(split, delta=powerstep.measure(split, power.reshape(flat.shape), looks))


def scan(
    stack: xr.Dataset, model: Radar, *, threads: int = 1, tick: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Score every place, tile by tile.

    Returns
    -------
    dict, fields of :class:`changedet.detector.Maps`; the nulls are those of speckle alone, widened by as much
    as the stack's own scores are
    """
    shape = (stack.sizes["y"], stack.sizes["x"])
    score, index = np.full(shape, np.nan, np.float32), np.full(shape, -1, np.int16)
    delta = np.zeros((stack.sizes["band"], *shape), np.float32)
    factor = speckle.smoothing_factor(model.rho)

    def work(tile: Tile) -> None:
        image = stack.image.isel(y=tile.outer[0], x=tile.outer[1])
        power = model.power(image.transpose("time", "band", "y", "x").values, tile.outer)
        split = place_scores(power, model.looks(model.stratum[tile.outer].ravel(), factor))
        size = power.shape[2:]
        score[tile.inner] = split.score.reshape(size)[tile.trim]
        index[tile.inner] = split.index.reshape(size)[tile.trim]
        delta[(slice(None), *tile.inner)] = split.delta.reshape(-1, *size)[(slice(None), *tile.trim)]

    map_tiles(work, list(windows(shape, TILE_PX, halo_px=model.halo_px)), threads=threads, tick=tick)
    z = np.full(shape, np.nan, np.float32)
    nulls: list[breaks.NullScale | None] = []
    for s, surface in enumerate(model.surfaces):
        own = model.stratum == s
        null = None if surface is None else _widened(surface, score[own])
        if null is not None:
            z[own] = null.z(np.abs(score[own]))
        nulls.append(null)
    return {"z": z, "index": index, "delta": delta, "stratum": model.stratum, "nulls": tuple(nulls)}


def _widened(surface: Surface, score: Array) -> breaks.NullScale:
    """Return the null of speckle alone, scaled to the scores of a stratum."""
    factor = _inflation(score, surface)
    return replace(surface.null, location=surface.null.location * factor, spread=surface.null.spread * factor)


def _inflation(score: Array, surface: Surface, *, least: int = 400) -> float:
    """Return by how much the scores of a stratum exceed those of speckle, at least 1.

    At the edge of the tail, only steps to the dark tell: what is built is brighter. In bulk, both do.

    Parameters
    ----------
    score : (pixel,) signed
    surface : what speckle alone does
    least : fewer pixels tell nothing
    """
    score = score[np.isfinite(score)]
    if score.size < least:
        return 1.0
    darker = -score[score < 0]
    tails = [float(np.quantile(np.abs(score), BULK)) / surface.bulk]
    if darker.size >= least:
        tails.append(float(np.quantile(darker, EDGE)) / surface.darker)
    return max(*tails, 1.0)


# --- objects -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """A candidate with its history and the verdict on it: fields of :class:`changedet.detector.Object`."""

    candidate: track.Candidate
    series: track.Series
    verdict: track.Verdict
    stratum: str


def objects(
    stack: xr.Dataset,
    model: Radar,
    maps: Any,
    chance: Array,
    settings: tuple[track.Persistence, track.Growth, float],
    tick: Callable[[int], None] | None = None,
) -> list[Found]:
    """Cut candidates from the evidence, test each as one object, date and judge what is left.

    Parameters
    ----------
    stack, model : fitted
    maps : of :func:`scan`
    chance : (y, x) evidence that patches of the same date and surface reach by chance
    settings : rules of persistence, rules of growth, and alpha: objects of speckle alone to be expected in
        the scene
    tick : called for every candidate

    Returns
    -------
    list of Found; what speckle alone explains is left out, what else is no structure is an alarm
    """
    rules, growth, alpha = settings
    # what is built reflects alike in every season: half of its step parts "there" from "absent" best
    rules = replace(rules, present=max(rules.present, 0.5))
    seed, edge = np.full(maps.z.shape, np.inf, np.float32), np.inf
    for s, surface in enumerate(model.surfaces):
        if surface is not None:
            seed[model.stratum == s] = surface.seed
            edge = min(edge, surface.edge)
    tested = []
    for candidate in track.candidates(maps.z, maps.delta, seed, replace(growth, grow=edge)):
        one = _tested(stack, model, maps, candidate)
        if one is not None and one.alone <= alpha:
            tested.append(one)
        if tick is not None:
            tick(1)
    judged = [(one, *_judged(stack, model, one, rules)) for one in tested]
    pixels = int(np.isfinite(maps.z).sum())
    stays = [one for one, _, verdict in judged if verdict.status is not None]
    tails = [_decoys([one for one in stays if one.surface == s], pixels) for s in (WATER, SHORE, LAND)]
    found = []
    for one, series, verdict in judged:
        tail, at = tails[one.surface], (one.candidate.rows, one.candidate.columns)
        by_chance = one.restless > alpha or one.candidate.peak <= chance[at].max()
        if tail is not None:
            by_chance = by_chance or tail.expected(one.mean.statistic, pixels) > alpha
        reason = _other_reason(one, verdict, by_chance, model)
        if verdict.status is not None and reason is not None:
            verdict = replace(verdict, status=None, reason=reason, confirmed=-1)
        own = replace(one.candidate, delta=one.mean.split.delta[:, 0])
        found.append(Found(own, series, verdict, mask.STRATA[one.surface]))
    return found


@dataclass(frozen=True)
class _Tested:
    """A candidate, the test of its mean, the surface it lies on, and how much wider scores are there.

    ``alone``, ``restless``: objects as strong expected of speckle alone, and with scores as wide as there.
    """

    candidate: track.Candidate
    mean: powerstep.Mean
    surface: int
    widened: float
    alone: float
    restless: float


def _tested(stack: xr.Dataset, model: Radar, maps: Any, candidate: track.Candidate) -> _Tested | None:
    """Test the mean of a candidate; None where nothing is known of its surface."""
    at = (candidate.rows, candidate.columns)
    s = int(np.bincount(model.stratum[at], minlength=3).argmax())
    surface, null = model.surfaces[s], maps.nulls[s]
    if surface is None or null is None:
        return None
    looks = 1 / (speckle.mean_factor(*at, model.rho) / surface.looks + surface.unrest)
    mean = powerstep.mean_of(_pixels(stack, model, candidate), looks)
    widened = (null.spread / surface.null.spread) ** 2
    pixels = int(np.isfinite(maps.z).sum())
    alone, restless = (surface.tail.expected(mean.statistic / w, pixels) for w in (1.0, widened))
    return _Tested(candidate, mean, s, widened, alone, restless)


def _decoys(tested: list[_Tested], pixels: int) -> speckle.Tail | None:
    """Return how often what got darker and stays, which nothing built does, reaches a statistic."""
    dark = np.array([t.mean.statistic for t in tested if t.mean.split.delta.mean() <= 0])
    return speckle.robust_tail(dark, pixels) if dark.size >= LEAST_DECOYS else None


def _judged(
    stack: xr.Dataset, model: Radar, one: _Tested, rules: track.Persistence
) -> tuple[track.Series, track.Verdict]:
    """Date a candidate and say whether it stays, whichever way it changed."""
    series = _series(one.mean, one.widened)
    verdict = track.judge(series, _causes(stack, model, one.mean, one.surface), rules)
    return series, _dated(verdict, one.mean)


def _pixels(stack: xr.Dataset, model: Radar, candidate: track.Candidate) -> Array:
    """Return the leveled power of a candidate's pixels, (time, band, pixel)."""
    window = candidate.window
    image = stack.image.isel(y=window[0], x=window[1]).transpose("time", "band", "y", "x").values
    power = model.power(image, window)
    return np.asarray(power[:, :, candidate.rows - window[0].start, candidate.columns - window[1].start])


def _series(mean: powerstep.Mean, widened: float) -> track.Series:
    """Project an object's mean series on its own step: about 0 before, 1 after."""
    delta, first = mean.split.delta[:, 0].astype(np.float64), int(mean.split.index[0])
    weight = delta * np.nanmean(mean.looks, axis=0)
    weight = weight / max(float(weight @ delta), 1e-9)
    early, w = mean.power[:first], mean.looks[:first]
    known = np.isfinite(early)
    before = np.where(known, early * w, 0).sum(axis=0) / np.maximum(np.where(known, w, 0).sum(axis=0), 1e-9)
    value = np.log(np.maximum(mean.power, 1e-9) / np.maximum(before, 1e-9)) @ weight
    noise = np.sqrt((weight**2 * widened / mean.looks).sum(axis=1))
    nothing = np.zeros(value.size, bool)
    return track.Series(value, noise, mean.share, nothing, nothing)


def _causes(stack: xr.Dataset, model: Radar, mean: powerstep.Mean, s: int) -> track.Causes:
    """Return what else might explain an object."""
    return track.Causes(
        level=model.setting.level,
        years=years(stack),
        frozen=model.setting.frozen[:, s],
        over=mask.STRATA[s],
        step=float(np.linalg.norm(mean.split.delta)),
    )


def _dated(verdict: track.Verdict, mean: powerstep.Mean) -> track.Verdict:
    """Date an object by all splits of its mean that are about as likely as the best one."""
    if verdict.status is None or verdict.first < 0:
        return verdict
    end = verdict.last + 1
    interval = powerstep.split_interval(mean.power, mean.looks, end)
    if interval is None or abs(interval[1] - verdict.first) > 2:
        return verdict
    earlier = np.flatnonzero(np.isfinite(mean.power[: interval[0]]).all(axis=1))
    if earlier.size == 0:
        return verdict
    seen = verdict.seen.copy()
    seen[: interval[1]] = False
    seen[interval[1]] = True
    before = int(earlier[-2]) if earlier.size > 1 else -1
    return replace(
        verdict,
        first=interval[1],
        last_absent=int(earlier[-1]),
        seen=seen,
        confirmed=max(verdict.confirmed, interval[1]) if verdict.confirmed >= 0 else -1,
        absent_before=before,
    )


def _other_reason(one: _Tested, verdict: track.Verdict, by_chance: bool, model: Radar) -> str | None:
    """Return why a step that stays is no structure; None where it may be one.

    What is built returns more power than what was there: walls and piers reflect twice, toward the sensor.
    Power that falls and stays low is calm or flooded ground, cut plants, smoothed soil, a radar shadow; and
    wet or rougher soil and growing plants return up to twice the power, for years where use has changed.
    """
    s = one.surface
    surface = {WATER: "glint", SHORE: "water-level", LAND: "phenology"}[s]
    rise_db = float(one.mean.split.delta.mean()) * (10 / np.log(10))
    if rise_db <= 0:
        return "water-level" if s == LAND and rise_db < -GROUND_DB and model.wet.any() else surface
    if verdict.seen.sum() < 3:  # two dates in a row may be two ships, or one that waits
        return "not-persistent" if s == LAND else "vessel"
    return surface if by_chance or (s == LAND and rise_db < GROUND_DB) else None
