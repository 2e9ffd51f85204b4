"""What each ingredient of ``auto`` gives: measured again with that ingredient alone taken away.

The ingredients are constants and functions of ``changedet.steps._auto``; a variant replaces one of them for
as long as it is measured. See ``make_real.py``.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any
from unittest.mock import patch

import numpy as np
from real_pairs import OSCD, TAIZHOU, Kept, Pair, scores, table

import changedet as cd
from changedet.steps import _auto
from changedet.steps._lines import Line


@dataclass(frozen=True)
class Variant:
    """The method with something taken away.

    Parameters
    ----------
    settings : of the plan
    parts : name in ``_auto`` → what stands there instead
    model : what becomes of the model learned from the pair
    of_model : name in ``PairModel`` → what stands there instead
    """

    settings: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)
    model: Callable[[_auto.PairModel], _auto.PairModel] | None = None
    of_model: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Put the variant in place of the method while inside."""
        fit, change = _auto.fit_pair, self.model
        parts = dict(self.parts)
        if change is not None:
            parts["fit_pair"] = lambda *args, **params: change(fit(*args, **params))
        with ExitStack() as stack:
            for name, value in parts.items():
                stack.enter_context(patch.object(_auto, name, value))
            for name, value in self.of_model.items():
                stack.enter_context(patch.object(_auto.PairModel, name, value))
            yield


def one_way(model: _auto.PairModel, before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return surprise and change vector, the surprise by what the first date's classes became only."""
    b = after * model.gain + model.offset
    vector = np.sqrt(np.square((b - before - model.shift) / model.scale).sum(axis=1))
    return model.forward.surprise(before, b) / model.typical[0], vector / model.typical[1]


def unbounded(parts: Callable = _auto.PairModel.parts) -> Callable:
    """Return ``parts`` with a surprise that no longer falls where the pixel stayed as it was.

    ``magnitude`` multiplies the surprise by the change vector where that is below 1; here it is divided by
    the same beforehand.
    """

    def divided(model: _auto.PairModel, before: np.ndarray, after: np.ndarray) -> tuple:
        surprise, vector = parts(model, before, after)
        return surprise / np.clip(vector, 1e-6, 1), vector

    return divided


def started(other: int, fit: Callable = _auto.fit_pair) -> Callable:
    """Return ``fit_pair`` with another start of the grouping, which should not matter."""
    return lambda *args, seed, **params: fit(*args, seed=other, **params)


VARIANTS = {
    "auto": Variant(),
    "the later image is not laid on the earlier": Variant({"diff.align": False}),
    "all bands, not the sharp ones only": Variant(parts={"sharp_bands": lambda before, after, used: used}),
    "no line between the radiometries": Variant(parts={"robust_line": lambda x, y: Line()}),
    "no course of classes: change vector only": Variant(model=lambda m: replace(m, vector_weight=1e9)),
    "no change vector: course of classes only": Variant(model=lambda m: replace(m, vector_weight=0.0)),
    "course of classes forward only": Variant(of_model={"parts": one_way}),
    "no slope within classes": Variant(parts={"_slope": lambda seen, other: np.zeros(seen.shape[1])}),
    "what stayed may be a surprise": Variant(of_model={"parts": unbounded()}),
    "no averaging, each pixel for itself": Variant(parts={"averaged": lambda magnitude, sigma_px: magnitude}),
    "no bound on single pixels (and no edge rule)": Variant(parts={"MOST": np.inf}),
    "no edge rule": Variant(parts={"EDGE_PX": 0}),
    "no own value beside what is strong": Variant(
        parts={"averaged": lambda m, s, whole=_auto.averaged: whole(m, s, share=0.0)}
    ),
    "nothing small and strong stands alone": Variant(parts={"ALONE": np.inf}),
    "*nothing; another start of the grouping*": Variant(parts={"fit_pair": started(1)}),
    "*nothing; a third start*": Variant(parts={"fit_pair": started(2)}),
}
SHOWN = ("auc", "best_f1", "f1")
HEAD = ("taken away", "AUC", "", "best F1", "", "F1 as it comes", "", "Taizhou κ", "")
ABOUT = """Each line is `auto` with one ingredient taken away: means over the eight OSCD pairs, κ as it comes
on Taizhou, and beside each the difference from the whole method; what is negative was gained by the
ingredient. The last lines take nothing away and say how far the start of the grouping moves the figures.
Eight pairs are few: differences under 0.01 may be chance, and an ingredient whose line lies about zero, or
above it, is not shown to help by these pairs. Taizhou has one pixel size for all bands, and its two dates lie
on one another, so that some lines change nothing there."""


def ablation(data: Path, kept: Kept) -> list[str]:
    """Return the section on the ingredients."""
    rows = {name: {} for name in VARIANTS}
    for pair in (*OSCD, TAIZHOU):
        for name, one in measured(data, pair, kept).items():
            rows[name][pair.name] = one
    means = {
        name: (*(mean(one[p.name][s] for p in OSCD) for s in SHOWN), one[TAIZHOU.name]["kappa"])
        for name, one in rows.items()
    }
    return ["## What each ingredient of auto gives", ABOUT, table(HEAD, [row(n, means) for n in means])]


def measured(data: Path, pair: Pair, kept: Kept) -> dict[str, dict]:
    """Return the scores of every variant on a pair."""
    images: list = []
    out = {}
    for number, (name, variant) in enumerate(VARIANTS.items()):

        def make(variant: Variant = variant) -> dict:
            if not images:
                images.extend(cd.read_pair(*_files(data, pair), warp="--warp" in pair.options))
            plan = cd.Plan().with_values(variant.settings)
            with variant():
                found = cd.compare(*images, plan)
            return scores(data, pair, np.abs(found.magnitude.values), found.change.values == 1)

        out[name] = kept.get(f"without-{number}-{pair.name}", name, make)
        print(f"{pair.name}, {name}: AUC {out[name]['auc']:.3f}, F1 {out[name]['f1']:.3f}", flush=True)
    return out


def _files(data: Path, pair: Pair) -> tuple[str, str]:
    """Return the paths or globs of a pair."""
    return str(data / pair.before), str(data / pair.after)


def row(name: str, means: dict[str, tuple[float, ...]]) -> tuple[str, ...]:
    """Return a line of the table: each mean, and its difference from that of the whole method."""
    out = [f"**{name}**" if name == "auto" else name]
    for value, whole in zip(means[name], means["auto"], strict=True):
        out += [f"{value:.3f}", "" if name == "auto" else f"{value - whole:+.3f}"]
    return tuple(out)
