"""The smallest structure that a run would have found, from a few dozen put into its own pixels.

Structures are put into patches, and the patches go through the run's own fitted model, evidence, candidates
and verdicts. What is not done again is what a few structures do not move: the fit of the background, the null
and the rows of piers. ``changedet sensitivity`` does all of it again and is the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from changedet import detector
from changedet.grid import Window, grow
from changedet.pipeline import _injection as injection
from changedet.pipeline._assemble import Detection, least_area_m2
from changedet.pipeline._options import SensitivityOptions
from changedet.pipeline._pixels import Pixels, overlap
from changedet.pipeline._recovery import UNSEEN, Outcome, fit_curve, reasons, select, smallest, wilson
from changedet.pipeline._work import Progress, quiet
from changedet.pipeline.plan import Plan
from changedet.steps import mask, track

Array = npt.NDArray[Any]

SHAPES = ("block", "pier")
BATCHES = 3
"""Times that the maps are cut into candidates anew; each takes as many structures as find room."""

INNER_PX = 4
"""Pixels about a footprint whose evidence is computed anew."""

LEAST_PX = 60
"""A stratum with fewer pixels with evidence is left out."""


def estimate(found: Detection, plan: Plan, *, progress: Progress = quiet) -> dict[str, Any]:
    """Return what ``run.json`` says of the smallest detectable size.

    Parameters
    ----------
    found : what the detector returned
    plan : settings
    progress : called as structures are tried

    Returns
    -------
    dict with ``target``, ``material``, ``strata`` (name → size, interval, rates by size, or why not)
    """
    options = plan.record(SensitivityOptions)
    outcomes = try_all(found, plan, progress=progress)
    strata: dict[str, Any] = {}
    for name in mask.STRATA:
        area, hit = select(outcomes, over=name)
        if area.size or (found.maps.stratum == mask.STRATA.index(name)).any():
            size, _ = smallest(area, hit, options.target)
            own = [o for o in outcomes if o.kind.over == name]
            strata[name] = {**size.record(), "missed": reasons(own), "by_size": by_size(area, hit)}
    return {
        "method": "quick",
        "target": options.target,
        "material": options.reference,
        "structures": len(outcomes),
        "strata": strata,
    }


def by_size(area: Array, hit: Array) -> list[dict[str, Any]]:
    """Return structures tried and found of each size, with the rate's 95 % interval."""
    rows = []
    for size in np.unique(area):
        own = hit[area == size]
        low, high = wilson(int(own.sum()), own.size)
        row = {"size_m2": float(f"{size:.4g}"), "n": int(own.size), "recovered": int(own.sum())}
        rows.append(row | {"rate_low": round(low, 3), "rate_high": round(high, 3)})
    return rows


def known_sizes(record: dict[str, Any]) -> dict[str, float]:
    """Return the sizes that are known, by stratum."""
    return {k: v["m2"] for k, v in record["strata"].items() if v["m2"] is not None}


def try_all(found: Detection, plan: Plan, *, progress: Progress = quiet) -> list[Outcome]:
    """Put structures in, in two stages, and see which are found.

    The first stage spreads over all sizes. In the second, each structure has the size that one curve says is
    needed, drawn from those that fit the first stage: most fall where the answer is still open.
    """
    options = plan.record(SensitivityOptions)
    bench = Bench(injection.ground(found, options.psf_fwhm_px), plan)
    sides = options.sides_m or injection.sides_m(bench.at.gsd_m, options.sizes)
    rng = np.random.default_rng([plan.seed, 1])
    names = [n for s, n in enumerate(mask.STRATA) if _pixels(found, s) >= LEAST_PX]
    each = max(options.quick_count // 2, 1)
    total, outcomes = 2 * each * len(names), list[Outcome]()
    for stage in range(2):
        wanted = {n: [sides[k % len(sides)] for k in range(each)] for n in names}
        if stage:
            wanted = {n: _open_sizes(outcomes, n, sides, (options.target, each), rng) for n in names}
        waiting = kinds(bench.at, wanted, options.reference, rng)
        for _ in range(BATCHES):
            room = injection.free(found, injection.gap_px(bench.at.model))
            trials = list(injection.place(waiting, room, bench.at, rng))
            if not trials:
                break
            placed = {id(trial.kind) for trial in trials}
            waiting = [kind for kind in waiting if id(kind) not in placed]
            outcomes += bench.outcomes(trials)
            progress("sensitivity", len(outcomes), total)
    progress("sensitivity", total, total)
    return outcomes


def _pixels(found: Detection, stratum: int) -> int:
    """Return how many pixels of a stratum have evidence."""
    return int((np.isfinite(found.maps.z) & (found.maps.stratum == stratum)).sum())


def _open_sizes(
    outcomes: Sequence[Outcome],
    name: str,
    sides: Sequence[float],
    wanted: tuple[float, int],
    rng: np.random.Generator,
) -> list[float]:
    """Return sides that are worth trying next: those that curves which fit so far say are needed."""
    target, count = wanted
    area, hit = select(outcomes, over=name)
    if not area.size:
        return []
    curve = fit_curve(area, hit)
    needed = np.array([curve.size_m2(target, q) for q in rng.random(count)])
    near = np.abs(np.log(np.minimum(needed, 1e12))[:, None] / 2 - np.log(sides)[None, :]).argmin(axis=1)
    return [sides[i] for i in near]


def kinds(
    at: injection.Ground, wanted: dict[str, list[float]], material: str, rng: np.random.Generator
) -> list[injection.Kind]:
    """Return what is to be put in, in random order.

    Parameters
    ----------
    at : baseline
    wanted : sides of structures by stratum
    material : of all of them
    rng : random numbers
    """
    first, last = injection.onsets(at)
    listed = [
        injection.Kind(name, side, SHAPES[k % len(SHAPES)], material, int(rng.integers(first, last + 1)))
        for name, sides in wanted.items()
        for k, side in enumerate(rng.permutation(sides).tolist())
    ]
    return [listed[i] for i in rng.permutation(len(listed))]


@dataclass(frozen=True)
class Overlay:
    """Reads a stack some windows of which hold other pixels.

    Parameters
    ----------
    base : image and quality of the stack
    patches : window, image and quality
    """

    base: tuple[Pixels, Pixels]
    patches: tuple[tuple[Window, Array, Array], ...]

    def __call__(self, view: Window) -> tuple[Array, Array]:
        """Return image and quality of a window with what lies over it."""
        image, quality = (np.array(values.read(view)) for values in self.base)
        for window, *values in self.patches:
            there, here = _common(window, view)
            if there is not None:
                for under, own in zip((image, quality), values, strict=True):
                    under[(..., *there)] = own[(..., *here)]
        return image, quality


def _common(patch: Window, view: Window) -> tuple[Window | None, Window]:
    """Return where a patch lies in a view, and what part of the patch that is; None where it does not."""
    rows, columns = (overlap(v, p.start, p.stop - p.start) for p, v in zip(patch, view, strict=True))
    apart = any(there.start >= there.stop for there, _ in (rows, columns))
    return None if apart else (rows[0], columns[0]), (rows[1], columns[1])


@dataclass(frozen=True)
class Bench:
    """Where structures are tried.

    Parameters
    ----------
    at : finished detection
    plan : settings
    """

    at: injection.Ground
    plan: Plan

    def outcomes(self, trials: Sequence[injection.Trial]) -> list[Outcome]:
        """Put structures in together and say which are found."""
        maps, model = self.at.found.maps, self.at.model
        z, index, delta = maps.z.copy(), maps.index.copy(), maps.delta.copy()
        patches = []
        for trial in trials:
            inner = grow(trial.window, INNER_PX, z.shape)
            outer = grow(inner, model.halo_px, z.shape)
            pixels = injection.injected_window(self.at, [trial], outer)
            patches.append((outer, *pixels))
            evidence = detector.evidence(model, *pixels, outer)
            trim = _common(inner, outer)[0] or outer
            step = detector.steps(evidence, model, trim)
            z[inner] = detector.in_null_units(step.score, maps.stratum[inner], maps.nulls)
            index[inner], delta[(slice(None), *inner)] = step.index, step.delta
        changed = detector.Maps(z, index, delta, maps.stratum, maps.nulls)
        return self._judged(trials, changed, Overlay(self.at.blocks, tuple(patches)))

    def _judged(
        self, trials: Sequence[injection.Trial], maps: detector.Maps, read: detector.Reader
    ) -> list[Outcome]:
        """Cut candidates from evidence and judge those at the structures."""
        seed = detector.seed_level(maps, self.at.model.options.seed_z, self.plan.alpha)
        rules = detector.at_alpha(self.plan.record(track.Persistence), self.plan.alpha)
        least = least_area_m2(self.at.gsd_m, self.plan.min_area_m2)
        owner = np.full(maps.z.shape, -1)
        for number, trial in enumerate(trials):
            owner[trial.rows, trial.columns] = number
        best, missed = dict[int, detector.Object](), dict[int, str | None]()
        for candidate in track.candidates(maps.z, maps.delta, seed, self.plan.record(track.Growth)):
            touched = np.unique(owner[candidate.rows, candidate.columns])
            touched = touched[touched >= 0]
            if not touched.size:
                continue
            if candidate.rows.size * self.at.gsd_m**2 < least:
                missed |= {int(number): "too-small" for number in touched}
                continue
            one = detector.judge(read, self.at.model, maps, candidate, rules)
            if one.verdict.status is not None:
                for number in touched:
                    if int(number) not in best or candidate.peak > best[int(number)].candidate.peak:
                        best[int(number)] = one
            else:
                missed |= {int(number): one.verdict.reason for number in touched}
        return [self._outcome(trial, best.get(n), missed.get(n)) for n, trial in enumerate(trials)]

    def _outcome(self, trial: injection.Trial, one: detector.Object | None, missed: str | None) -> Outcome:
        """Say what became of a structure."""
        if one is None:
            return Outcome(trial.kind, False, missed=missed or UNSEEN)
        times = self.at.found.stack.time.values
        first, absent = one.verdict.first, one.verdict.last_absent
        hit = absent < trial.kind.onset <= first
        days = float((times[first] - times[absent]) / np.timedelta64(1, "D")) if absent >= 0 else None
        return Outcome(trial.kind, True, one.verdict.status, bool(hit), days)
