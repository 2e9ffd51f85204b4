"""How likely it is that a candidate was built.

Few facts weigh: how strong the evidence is, how much of the series one step leaves unexplained, whether the
surroundings took the same step on the same dates, which way brightness went over water, shore and land, how
bright the place has become beside the rest of the scene, how steep an edge it lies on, how large it is in
pixels. All of them are ratios, or in units of the stack's own noise. Their weights are those of a logistic
regression on simulated scenes of three sensor classes, ordinary and hard, with works and without
(``docs/make_confidence.py``, which also says how well the result is calibrated on scenes not used for it).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt

from changedet.steps._robust import nan_median

Array = npt.NDArray[Any]

OVER = ("water", "shore", "land")
FLOOR = 0.05
"""Scatter of a series of ln units that is always there."""


@dataclass(frozen=True)
class Facts:
    """What is known of a candidate; NaN = unknown.

    Parameters
    ----------
    peak : strongest evidence, in units of the noise of its surroundings
    unexplained : share of the variation of its series that one step leaves
    shared : share of its step that its surroundings took too
    contrast : step of its difference from its surroundings, over the scatter of that difference
    visible : largest step of a visible band, ln units
    infrared : step of the near infrared, ln units
    brilliance : visible brightness while it stands, over that of the scene's middle class, ln units
    edge : what a shift of one pixel would change here, over the step
    pixels : of its footprint
    gsd_m : pixel size
    over : water, shore or land
    """

    peak: float
    unexplained: float
    shared: float
    contrast: float
    visible: float
    infrared: float
    brilliance: float
    edge: float
    pixels: int
    gsd_m: float
    over: str


def columns(facts: Sequence[Facts]) -> dict[str, Array]:
    """Return what is weighed, one array a name, one value a candidate; NaN = unknown.

    Logarithms have bends where more of the same says less: evidence of 6 (what noise reaches) and 15.
    """

    def raw(name: str, low: float, high: float) -> Array:
        return np.clip(np.array([getattr(f, name) for f in facts], np.float64), low, high)

    over = np.array([f.over for f in facts], dtype=object)
    strength = np.log(raw("peak", 2, 60))
    pixels = np.log(raw("pixels", 1, 1e5))
    out = {
        "strength": strength,
        "strength from 6": np.maximum(strength - np.log(6), 0),
        "strength from 15": np.maximum(strength - np.log(15), 0),
        "unexplained": np.log(raw("unexplained", 0.005, 1)),
        "unexplained from 0.2": np.maximum(np.log(raw("unexplained", 0.005, 1) / 0.2), 0),
        "shared": raw("shared", -0.2, 1),
        "contrast": np.log(raw("contrast", 0.3, 50)),
        "edge": raw("edge", 0, 4),
        "pixels": pixels,
        "pixels from 6": np.maximum(pixels - np.log(6), 0),
        "pixels from 40": np.maximum(pixels - np.log(40), 0),
        "pixel size": np.log(raw("gsd_m", 0.3, 30)),
    }
    for name, low, high in (("visible", -1, 2), ("infrared", -2, 2), ("brilliance", -1.5, 2)):
        value = raw(name, low, high)
        out |= {f"{name} over {one}": np.where(over == one, value, 0) for one in OVER}
    return out | {f"over {one}": (over == one).astype(np.float64) for one in OVER[:2]}


@functools.cache
def weights() -> dict[str, Any]:
    """Return the weights: ``intercept``, and of each column its ``weight`` and its ``mean`` where unknown."""
    text = resources.files("changedet.steps").joinpath("confidence.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def confidence(facts: Sequence[Facts], known: Mapping[str, Any] | None = None) -> Array:
    """Return the probability that candidates were built, (n,) float64 in 0 to 1.

    Parameters
    ----------
    facts : of each; what is unknown of a candidate counts as it does on average
    known : other weights than those of :func:`weights`, in the same form
    """
    known = weights() if known is None else known
    total = np.full(len(facts), float(known["intercept"]))
    for name, value in columns(facts).items():
        entry = known["columns"][name]
        total += entry["weight"] * np.where(np.isfinite(value), value, entry["mean"])
    return np.asarray(1 / (1 + np.exp(-total)))


def stricter(least: float, factor: float) -> float:
    """Return the least confidence where the odds must be ``factor`` times as high.

    >>> round(stricter(0.5, 3), 2), stricter(0.4, 1)
    (0.75, 0.4)
    """
    if least <= 0 or least >= 1 or factor == 1:
        return least
    odds = factor * least / (1 - least)
    return odds / (1 + odds)


def beside(value: Array, around: Array, before: Array, after: Array) -> tuple[float, float]:
    """Compare the series of an object with that of its surroundings.

    Parameters
    ----------
    value, around : (time, pixel) projected residuals of its pixels, and of pixels around it; NaN = not usable
    before, after : (time,) bool, dates without it and with it

    Returns
    -------
    shared, contrast : see :class:`Facts`; NaN where too little is known
    """
    own, ring = nan_median(value.T), nan_median(around.T)
    both = np.isfinite(own) & np.isfinite(ring)
    low, high = before & both, after & both
    if low.sum() < 2 or high.sum() < 2:
        return float("nan"), float("nan")
    step, theirs = (float(s[high].mean() - s[low].mean()) for s in (own, ring))
    apart = own - ring
    scatter2 = sum(_scatter(apart[side]) ** 2 for side in (low, high))
    rise = float(np.median(apart[high]) - np.median(apart[low]))
    return theirs / step if step else float("nan"), rise / float(np.sqrt(scatter2 + FLOOR**2))


def _scatter(values: Array) -> float:
    """Return the robust standard deviation."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))
