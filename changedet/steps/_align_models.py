"""Choose between one shift for a whole image and shifts that differ from place to place."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from changedet.steps._align_field import FEWEST, Model, fit, is_better, sampled_field
from changedet.steps._align_ties import NO_TIES, TiePoints, one_window
from changedet.steps._register import (
    LARGEST_RESIDUAL_PX,
    LEAST_SCORE,
    SIGMAS,
    Patches,
    ShiftEstimate,
    Template,
    correlation,
    moments,
    moved,
)
from changedet.steps._resample_field import Field

Array = npt.NDArray[Any]

LADDERS = {"translation": (), "affine": ("affine",), "local": ("local",), "auto": ("affine", "local")}
"""Models that are tried in place of one shift, in order; each must beat what was best so far."""

_LEAST_BEND_PX = 0.05  # models that depart less from one shift are not worth their name


@dataclass(frozen=True)
class Registration:
    """How a scene lies on the reference.

    Parameters
    ----------
    shift : one shift for the whole scene; where ``field`` is given, its mean and how well it fits
    model : ``translation``, ``affine`` or ``local``
    field : shift at every place, None for one shift
    ties : single windows and where they lie, where they were looked for
    """

    shift: ShiftEstimate
    model: str = "translation"
    field: Field | None = None
    ties: TiePoints = dataclasses.field(default=NO_TIES, compare=False)

    @property
    def largest_px(self) -> float:
        """Longest shift anywhere, pixels."""
        return self.shift.size_px if self.field is None else self.field.largest_px

    def at(self, row: Array, column: Array) -> Array:
        """Return the shift at places of the raster, (n, 2)."""
        if self.field is None:
            return np.tile([self.shift.dy, self.shift.dx], (len(row), 1))
        return self.field.at(row, column)


def modeled(
    base: ShiftEstimate,
    ties: TiePoints,
    matched: tuple[Template, Patches],
    *,
    name: str,
    shape: tuple[int, int],
    max_shift_px: float,
) -> Registration:
    """Take the simplest model that held-out tie points do not refute.

    Parameters
    ----------
    base : the shift of the whole image, accepted or not
    ties : tie points
    matched : the template and the patches that they were found with
    name : key of :data:`LADDERS`
    shape : rows and columns of the raster
    max_shift_px : longest shift that is believed anywhere
    """
    plain = Registration(base, ties=ties)
    tried = [one for one in LADDERS[name] if len(ties) >= FEWEST[one]]
    if not tried:
        return _refused(plain, f"{len(ties)} tie points are too few for more") if LADDERS[name] else plain
    simple = best = fit("translation", ties, shape)
    said = []
    for one in tried:
        model = fit(one, ties, shape)
        said.append(f"{one} {model.residual_px:.3f}")
        if is_better(model, best, ties):
            best = model
    words = f"held-out residual of {', '.join(said)}, translation {simple.residual_px:.3f} px"
    if best is simple:
        return _refused(plain, words)
    return _judged(plain, best, matched, words, (shape, max_shift_px))


def _refused(plain: Registration, words: str) -> Registration:
    """Return one shift, and why nothing else."""
    return replace(plain, shift=replace(plain.shift, why=f"{plain.shift.why}; one shift: {words}"))


def _judged(
    plain: Registration,
    model: Model,
    matched: tuple[Template, Patches],
    words: str,
    limits: tuple[tuple[int, int], float],
) -> Registration:
    """Accept a model only if windows that had no part in it look more alike than before."""
    shape, max_shift_px = limits
    made, base = sampled_field(model, shape), plain.shift
    bend = made.shift - np.array(made.mean)[:, None, None]
    if np.sqrt(np.square(bend).sum(axis=0).mean()) < _LEAST_BEND_PX:
        return _refused(plain, f"the shift differs too little from place to place ({words})")
    if made.largest_px > max_shift_px:
        far = f"{model.name} reaches {made.largest_px:.2f} px; at most {max_shift_px:g} is believed"
        return _refused(plain, far)
    if not model.residual_px <= LARGEST_RESIDUAL_PX:
        return _refused(plain, f"tie points disagree by {model.residual_px:.2f} px ({words})")
    zero, one = np.zeros_like(model.held_out), np.tile([base.dy, base.dx], (len(plain.ties), 1))
    tried = (_scores(plain.ties, matched, at) for at in (zero, one, model.held_out))
    before, shifted, after = (scores[model.good] for scores in tried)
    gain = after - before
    error = float(gain.std(ddof=1)) / np.sqrt(gain.size)
    told = f"held-out similarity {before.mean():.3f} to {after.mean():.3f}"
    sure = gain.mean() > SIGMAS * error and after.mean() >= shifted.mean()
    if after.mean() < LEAST_SCORE or not sure:
        return _refused(plain, f"{told} under {model.name}, {shifted.mean():.3f} under one shift")
    good = int(model.good.sum())
    dy, dx = made.mean
    found = ShiftEstimate(
        dy, dx, model.residual_px, good, float(before.mean()), float(after.mean()), True,
        f"accepted: {model.name} ({words})",
    )  # fmt: skip
    return replace(plain, shift=found, model=model.name, field=made)


def _scores(ties: TiePoints, matched: tuple[Template, Patches], shifts: Array) -> Array:
    """Correlation with the reference of every tie point's window under a shift of its own, (n,)."""
    out = np.zeros(len(ties))
    for i, (k, shift) in enumerate(zip(ties.window, shifts, strict=True)):
        t, patch = one_window(*matched, int(k))
        reach = t.reach_px - 5  # what the taps leave
        dy, dx = np.clip(shift, -reach, reach)
        sums, _ = moments(t, *moved(t, patch, (float(dy), float(dx))), None)
        out[i] = correlation(sums)[0]
    return out
