"""The detector with one ingredient taken away, by a setting where there is one, else by what stands in.

A variant says from which stage on the work has to be done anew; what comes before is that of the whole
detector. See ``make_ablation.py``.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import numpy as np

from changedet import _detector_seeds, detector
from changedet.pipeline import run
from changedet.steps import background, track
from changedet.steps._robust import nan_median

STAGES = {"prepare": run, "fit": detector, "scan": detector}
"""Stages in order, each a function of a module; ``objects`` comes last and is never kept."""

WHOLE = "the whole detector"


@dataclass(frozen=True)
class Variant:
    """The detector with something taken away.

    Parameters
    ----------
    since : first stage that differs: prepare, fit, scan or objects
    settings : of the plan
    parts : (module, name) → what stands there instead
    model : what becomes of the fitted model
    """

    since: str = "prepare"
    settings: dict[str, Any] = field(default_factory=dict)
    parts: dict[tuple[Any, str], Any] = field(default_factory=dict)
    model: Callable[[Any], Any] | None = None

    @contextmanager
    def __call__(self, known: dict[str, Any]) -> Iterator[None]:
        """Put the variant in place of the detector while inside.

        Parameters
        ----------
        known : results of the stages of the whole detector; filled where this variant is that
        """
        with ExitStack() as stack:
            for name, module in self.stages():
                if self == Variant():
                    stands_in = remembering(getattr(module, name), known, name)
                else:
                    changed = self.model if name == "fit" and self.model is not None else _same
                    stands_in = functools.partial(_given, changed(known[name]))
                stack.enter_context(patch.object(module, name, stands_in))
            for (module, name), value in self.parts.items():
                stack.enter_context(patch.object(module, name, value))
            yield

    def stages(self) -> list[tuple[str, Any]]:
        """Return the stages to put something in for: those before ``since``, all for the whole detector."""
        names = list(STAGES)
        if self == Variant():
            return list(STAGES.items())
        before = names[: names.index(self.since)] if self.since in names else names
        return [(name, STAGES[name]) for name in before]


def remembering(function: Callable, known: dict[str, Any], name: str) -> Callable:
    """Return a function that also keeps what it returns."""

    def call(*args: Any, **params: Any) -> Any:
        known[name] = function(*args, **params)
        return known[name]

    return call


def _same(value: Any) -> Any:
    """Return a value as it is."""
    return value


def _given(value: Any, *_: Any, **__: Any) -> Any:
    """Return a value, whatever is asked."""
    return value


# ---------------------------------------------------------------------------------------- what stands in


def own_median(
    model: background.Background, history: np.ndarray, position: np.ndarray, **_: Any
) -> background.Prediction:
    """Return each pixel's own median over its history and its spread there, the same on every date."""
    times = model.median.shape[1]
    middle = nan_median(np.moveaxis(history, 1, 0))
    spread = 1.4826 * nan_median(np.abs(np.moveaxis(history, 1, 0) - middle))
    mean, sd = (
        np.ascontiguousarray(np.repeat(a[:, None], times, axis=1), dtype=np.float32) for a in (middle, spread)
    )
    return background.Prediction(mean, sd, np.zeros(len(history), np.float32))


def one_variance(model: detector.Model) -> detector.Model:
    """Return a model in which all dates and strata share the variance of the middle one, band by band."""
    known = np.where(model.class_spread > 0, model.class_spread, np.nan)
    middle = nan_median(np.moveaxis(known, 1, 2).reshape(-1, known.shape[1]))
    spread = np.broadcast_to(middle[None, :, None], known.shape).astype(np.float32)
    ground = model.background
    over_dates = nan_median(np.moveaxis(ground.spread, 1, 0))[:, None]
    own = np.broadcast_to(over_dates, ground.spread.shape).astype(np.float32)
    own = np.where(np.isfinite(ground.spread), own, np.nan)
    return replace(model, class_spread=spread, background=replace(ground, spread=own))


def of_setting(**values: Callable[[Any], Any]) -> Callable[[detector.Model], detector.Model]:
    """Return a change of what a model knows of its dates."""

    def changed(model: detector.Model) -> detector.Model:
        new = {name: make(getattr(model.setting, name)) for name, make in values.items()}
        return replace(model, setting=replace(model.setting, **new))

    return changed


def unpooled(found: detector.Evidence, sigma_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Return residuals and weights as they are, each pixel for itself."""
    return found.clipped, found.weight


def _calm(maps: Any, factor: float = 1.0) -> np.ndarray:
    """Return the least level of evidence everywhere, whatever a date's own patches reach."""
    return np.full(maps.z.shape, _detector_seeds.PATCH_Z, np.float32)


VARIANTS = {
    WHOLE: Variant(),
    "scenes are not laid on one another, their shifts only tolerated": Variant(
        "prepare", {"align.apply_above_px": 1e6}
    ),
    "no normalization": Variant("prepare", {"normalize.min_pixels": 10**9}),
    "each pixel's own median, no analogues": Variant("fit", parts={(background, "predict"): own_median}),
    "one variance for all dates and strata": Variant("scan", model=one_variance),
    "no tolerance to what is left of shifts": Variant(
        "scan", model=lambda m: replace(m, tolerance_px=np.zeros_like(m.tolerance_px))
    ),
    "bands are not whitened": Variant("scan", model=lambda m: replace(m, whiten=np.eye(len(m.whiten)))),
    "no limit to what a single date counts": Variant(
        "scan", model=lambda m: replace(m, noise=replace(m.noise, clip=1e6))
    ),
    "ice, snow and haze are not recognised": Variant("scan", model=of_setting(frozen=np.zeros_like)),
    "no doubt beside clouds": Variant(
        "scan", parts={(detector, "near_cloud"): lambda quality, radius_px: np.zeros(quality.shape, bool)}
    ),
    "no pooling over the point-spread function": Variant("scan", parts={(detector, "pool"): unpooled}),
    'no short "after": all later dates only': Variant("scan", parts={(detector, "LENGTHS"): (0,)}),
    "a date's own restless patches ask for no more": Variant(
        "objects", parts={(_detector_seeds, "restless_level"): _calm}
    ),
    "objects are not cut by their common step": Variant("objects", {"track.contrast": -1e6}),
    "the water's level is not known": Variant(
        "objects", model=of_setting(level=lambda level: np.full_like(level, np.nan))
    ),
    "no persistence: once seen is enough": Variant(
        "objects", {"track.after": 0.0, "track.before": 1.0, "track.min_after": 1, "track.min_stay": 1}
    ),
    "no least step over the scatter": Variant("objects", {"track.min_snr": 0.0, "track.min_t": 0.0}),
    "no other cause is weighed against a step": Variant(
        "objects", parts={(track, "_other_cause"): lambda *_: None}
    ),
    "no first part of what grows": Variant("objects", parts={(track, "first_part"): lambda *_, **__: None}),
    "no confidence: the series alone decides": Variant(
        "objects", parts={(track, "settled"): lambda verdict, *_: verdict}
    ),
    "no rows": Variant("objects", {"bridge.least": 10**6}),
    "*nothing; another start of the grouping*": Variant("fit", {"run.seed": 1}),
}
