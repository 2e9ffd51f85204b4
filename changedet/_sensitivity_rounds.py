"""The rounds of ``changedet sensitivity``: structures into scenes as read, the whole job, what it found."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from changedet import detector
from changedet.blocks import windows
from changedet.errors import InputError
from changedet.grid import grow
from changedet.pipeline import Plan, SensitivityOptions
from changedet.pipeline import _injection as injection
from changedet.pipeline._pixels import Pixels
from changedet.pipeline._quick import LEAST_PX
from changedet.pipeline._recovery import UNSEEN, Outcome
from changedet.pipeline._work import Progress
from changedet.pipeline.run import detect
from changedet.steps import mask
from changedet.steps._robust import middle

if TYPE_CHECKING:
    from changedet.sites import Site

Array = npt.NDArray[Any]

ALONE = 4.0
"""A single structure in a round may cover this many times the density; larger ones are not tried."""

NULL_SHIFT = 0.05
"""Structures that move the null by more than this share of its spread have disturbed what they measure."""


class Rounds:
    """Rounds of putting structures in and running the whole job.

    Parameters
    ----------
    at : baseline
    usable : scenes as read, those that say nothing left out
    plan : settings
    site : dossier or None
    """

    def __init__(self, at: injection.Ground, usable: xr.Dataset, plan: Plan, site: Site | None) -> None:
        self.at, self.usable, self.site, self.plan = at, usable, site, plan
        self.options = plan.record(SensitivityOptions)
        self.quiet_plan = plan.with_values({"sensitivity.quick": False})
        self.rng = np.random.default_rng([plan.seed, 2])
        evident = np.isfinite(at.found.maps.z)
        self.pixels = int(evident.sum())
        count = [int((evident & (at.found.maps.stratum == s)).sum()) for s in range(len(mask.STRATA))]
        self.strata = tuple(n for n, k in zip(mask.STRATA, count, strict=True) if k >= LEAST_PX)
        given = self.options.sides_m or injection.sides_m(at.gsd_m, self.options.sizes)
        self.sides = tuple(s for s in given if self._px(s) <= ALONE * self.options.density * self.pixels)
        self.too_large = tuple(s for s in given if s not in self.sides)
        self.look = injection.light(Pixels(usable.image), at.look.bands, at.model)
        self.shifts = tuple(injection.scene_shifts(at.found.native, raw=True))
        self.owned = self._owned()
        self.clear = relative(clarity(at, self.options.reference), at.found.maps.stratum)
        self.done, self.most, self.moved = 0, 0.0, 0.0
        if not self.sides or not self.strata:
            raise InputError(
                f"the scenes have {self.pixels} pixels with evidence: too few to put a structure into; "
                "wanted more scenes, a larger area, or smaller structures (sensitivity.sides_m)"
            )

    def _px(self, side_m: float) -> float:
        """Return the pixels that a structure covers."""
        return (side_m / self.at.gsd_m) ** 2

    def _owned(self) -> Array:
        """Return the pixels of the baseline's own structures, (y, x) bool on the detector's grid."""
        own = np.zeros(self.at.found.maps.z.shape, bool)
        for one in self.at.found.objects:
            if one.verdict.status is not None:
                own[one.candidate.rows, one.candidate.columns] = True
        return own

    def run(self, progress: Progress) -> list[Outcome]:
        """Do all rounds."""
        outcomes: list[Outcome] = []
        waiting: deque[injection.Kind] = deque()
        endless = self._kinds()
        for number in range(self.options.rounds):
            progress("rounds", number, self.options.rounds)
            while len(waiting) < 3 * self.options.per_round:
                waiting.append(next(endless))
            trials = self._place(waiting)
            if trials:
                outcomes += self._round(trials)
                self.done += 1
        progress("rounds", self.options.rounds, self.options.rounds)
        return outcomes

    def _kinds(self) -> Iterator[injection.Kind]:
        """Yield what is to be put in: every combination once in random order, then again, without end."""
        options = self.options
        first, last = injection.onsets(self.at)
        middles = (np.arange(options.dates) + 0.5) / options.dates  # each stands for its part of the series
        dates = sorted({round(k) for k in first + middles * (last - first)})
        others = [m for m in dict.fromkeys(options.materials) if m != options.reference]
        materials = [options.reference] * max(len(others), 1) + others  # half of them are of the reference
        every = list(product(self.strata, self.sides, materials, dates))
        while True:
            for i in self.rng.permutation(len(every)):
                over, side, material, onset = every[i]
                yield injection.Kind(over, side, self._shape(side), material, onset)

    def _shape(self, side_m: float) -> str:
        """Return a shape at random; no strips that are thinner than a third of a pixel, or huge."""
        px = np.sqrt(self._px(side_m))
        shapes = ["block", "pier"] + (["strip"] if 1 <= px <= 6 else [])
        return str(self.rng.choice(shapes))

    def _place(self, waiting: deque[injection.Kind]) -> list[injection.Trial]:
        """Take from what waits what finds room within the density; the rest waits for the next round."""
        room = injection.free(self.at.found, injection.gap_px(self.at.model))
        budget, used = self.options.density * self.pixels, 0.0
        trials: list[injection.Trial] = []
        for _ in range(len(waiting)):
            kind = waiting.popleft()
            size = self._px(kind.side_m)
            if len(trials) < self.options.per_round and (used + size <= budget or not trials):
                placed = next(injection.place([kind], room, self.at, self.rng), None)
                if placed is None:
                    continue  # no room in that stratum: another of its kind comes later
                trials.append(placed)
                used += size
            else:
                waiting.append(kind)
        self.most = max(self.most, used / max(self.pixels, 1))
        return trials

    def _round(self, trials: list[injection.Trial]) -> list[Outcome]:
        """Put structures in, run the job, and say which it found."""
        image = np.array(self.usable.image.values)
        scale = self.at.found.size
        reach = int(np.ceil(3 * self.at.psf_px + np.abs(self.shifts).max())) + 3
        for trial in trials:
            fine = injection.fine_window(trial.window, scale)
            window = grow(fine, reach, (image.shape[2], image.shape[3]))
            view = image[(..., *window)]
            view[:] = injection.inject(
                view, [trial], window, self.look, shifts=self.shifts, psf_px=self.at.psf_px, scale=scale
            )
        changed = self.usable.assign(image=self.usable.image.copy(data=image))
        result = detect(changed, self.site, self.quiet_plan)
        self._check(result.record["null"])
        labels = np.asarray(result.labels.values)
        outcomes = [self._outcome(trial, labels, result.structures) for trial in trials]
        return [
            o if o.recovered else self._missed(o, t, result.alarms)
            for o, t in zip(outcomes, trials, strict=True)
        ]

    def _check(self, nulls: dict[str, Any]) -> None:
        """Note by how much the null has moved, in units of its spread."""
        for name, before in zip(mask.STRATA, self.at.found.maps.nulls, strict=True):
            after = nulls.get(name)
            if before is not None and after is not None:
                moved = max(abs(after[k] - getattr(before, k)) for k in ("location", "spread"))
                self.moved = max(self.moved, float(moved / before.spread))

    def _outcome(self, trial: injection.Trial, labels: Array, structures: Any) -> Outcome:
        """Say what became of a structure."""
        scale, clear = self.at.found.size, float(np.mean(self.clear[trial.rows, trial.columns]))
        numbers = labels[::scale, ::scale][: self.owned.shape[0], : self.owned.shape[1]]
        touched = numbers[trial.rows, trial.columns]
        touched = touched[touched > 0]
        mine = [n for n in np.unique(touched) if not (self.owned & (numbers == n)).any()]
        if not mine:
            return Outcome(trial.kind, False, clarity=clear)
        best = max(mine, key=lambda n: int((touched == n).sum()))
        row = structures.iloc[int(best) - 1]
        first, absent = (_moment(row[c]) for c in ("first_seen", "last_absent"))
        times, onset = self.usable.time.values, trial.kind.onset
        hit = first >= times[onset] and (np.isnat(absent) or absent < times[onset])
        days = None if np.isnat(absent) else float((first - absent) / np.timedelta64(1, "D"))
        return Outcome(trial.kind, True, row["status"], bool(hit), days, clear)

    def _missed(self, outcome: Outcome, trial: injection.Trial, alarms: Any) -> Outcome:
        """Add why a structure was missed: the reason of the largest alarm there."""
        import shapely

        to_map = self.at.found.grid.transform
        shape = shapely.transform(trial.outline, lambda p: np.column_stack(to_map @ (p[:, 0], p[:, 1])))
        there = alarms[alarms.intersects(shape)]
        why = UNSEEN if there.empty else str(there.loc[there["area_m2"].idxmax(), "reason"])
        return replace(outcome, missed=why)

    def said(self) -> dict[str, Any]:
        """Return what ``run.json`` says of the rounds."""
        return {
            "rounds": self.done,
            "density": round(self.most, 5),
            "null_moved": round(self.moved, 4),
            "too_large_m": list(self.too_large),
        }

    def warnings(self) -> list[str]:
        """Return what to know before trusting the result."""
        said = []
        if self.too_large:
            sides = ", ".join(f"{s:g}" for s in self.too_large)
            said.append(
                f"structures with sides of {sides} m were not tried: one would cover more than "
                f"{ALONE * self.options.density:.1%} of the {self.pixels} pixels with evidence"
            )
        if self.moved > NULL_SHIFT:
            said.append(
                f"the structures put in moved the null of the scene by up to {self.moved:.2f} of its spread: "
                "the rates may be too low; lower sensitivity.density, or give a larger area"
            )
        if not self.look.calibrated:
            said.append("the values are not reflectance: bright stable ground stands for concrete")
        return said


def _moment(text: Any) -> np.datetime64:
    """Return a date of a table; NaT where there is none."""
    return np.datetime64("NaT") if text is None or text != text else np.datetime64(str(text).rstrip("Z"))


def clarity(at: injection.Ground, material: str) -> Array:
    """Return how clearly a pixel of a material would stand out, (y, x): its step over the step's own error.

    The step is that from the pixel's usual values to the material's; the error is that of the detector's own
    weights, half of the dates on which structures may begin lying before and half after.

    Parameters
    ----------
    at : baseline
    material : of the structure
    """
    found, model = at.found, at.model
    target = mask.log_image(at.look.spectrum(material))
    first, last = injection.onsets(at)
    k = (first + last + 1) // 2
    out = np.full(found.maps.z.shape, np.nan, np.float32)
    for tile in windows(found.maps.z.shape, detector.TILE_PX, halo_px=model.halo_px):
        image, quality = detector.read_window(found.stack, tile.outer)
        weight = detector.evidence(model, image, quality, tile.outer).weight[(..., *tile.trim)]
        usual = middle(mask.log_image(image[(..., *tile.trim)]))
        error = np.sqrt(sum(1 / np.maximum(part.sum(axis=0), 1e-9) for part in (weight[:k], weight[k:])))
        step = np.einsum("cb,byx->cyx", model.whiten, (target[:, None, None] - usual) / error)
        out[tile.inner] = np.sqrt((step**2).sum(axis=0))
    return np.where(np.isfinite(found.maps.z), out, np.nan)


def relative(clear: Array, stratum: Array, *, most: float = 4.0) -> Array:
    """Return clarity against the usual of each stratum, (y, x), held to a range; 1 where it is not known.

    Parameters
    ----------
    clear : see :func:`clarity`
    stratum : (y, x) index
    most : farthest from the usual, as a factor
    """
    out = np.ones(clear.shape)
    for s in range(len(mask.STRATA)):
        own = (stratum == s) & np.isfinite(clear) & (clear > 0)
        if own.any():
            out[own] = np.clip(clear[own] / np.median(clear[own]), 1 / most, most)
    return out
