"""Take each ingredient of the detector away in turn, and write ``docs/ablation.md``.

    python docs/make_ablation.py [--seeds 0,1,2] [--sensors "planet,sentinel-2 hard"] [--jobs 2] [--cache DIR]

Scenes are those of ``make_accuracy.py`` (share its cache: they are made once): three kinds of imagery,
ordinary and hard, with works and without. The detector runs in this process, on each scene once in whole and
once for every variant of ``ablation_variants.py``; stages that a variant does not touch are not done again.
Scores are kept in the cache with a checksum of the package and of the variants, so an interrupted
measurement goes on where it stopped. Half an hour with one job, half of that with two.
"""

import argparse
import functools
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any
from unittest.mock import patch

import geopandas as gpd
import numpy as np
import xarray as xr
from ablation_variants import VARIANTS, WHOLE, Variant
from accuracy_page import table
from accuracy_scenes import HARD, SENSORS, WORKS, Scene, checksum, made
from real_pairs import Kept

import changedet as cd
from changedet import metrics
from changedet.io.products import find_scenes
from changedet.io.stack import open_stack
from changedet.pipeline import _assemble

SEEDS = (0, 1, 2)
PAGE = Path(__file__).with_name("ablation.md")
MADE = "Made by `python docs/make_ablation.py`, which says how; not edited by hand."
ABOUT = """Each line is the detector with one ingredient taken away, everything else as it is; beside each
mean stands the difference from the whole detector, ± the standard error of that difference over the scenes.
F1 and dates are those of [accuracy.md](accuracy.md), on the scenes of fewer seeds; *false* are structures
reported in a scene in which nothing was built. An ingredient earned its place where its line has a lower F1,
fewer true dates or more false structures; where a line lies within its error, or above the whole, these
scenes do not show that it helps. Ingredients lean on one another: what one alone gives is not what it gives
with the others away, and weights and levels were set with all of them in place. The last line takes nothing
away and says how far chance moves the figures."""
HEAD = ("taken away", "F1, ordinary", "", "F1, hard", "", "false, quiet", "", "false, quiet hard", "",
        "dates", "")  # fmt: skip

Job = tuple[str, int, str]
Scores = dict[str, dict[Job, dict[str, Any]]]


def main() -> None:
    """Measure what is not in the cache yet, then write the page."""
    args = arguments()
    jobs = list(product(args.sensors, args.seeds, WORKS))
    work = functools.partial(measured, cache=args.cache, scenes=args.scenes)
    if args.jobs == 1:
        rows = [work(job) for job in jobs]
    else:
        with ProcessPoolExecutor(args.jobs) as pool:
            rows = list(pool.map(work, jobs))
    scores = {name: {job: row[name] for job, row in zip(jobs, rows, strict=True)} for name in VARIANTS}
    args.out.write_text(page(scores), encoding="utf-8")
    print(f"wrote {args.out}")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=lambda t: [int(s) for s in t.split(",")], default=list(SEEDS))
    parser.add_argument("--sensors", type=lambda t: t.split(","), default=list(SENSORS))
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="scenes worked on at a time")
    parser.add_argument("--cache", type=Path, default=Path(".cache/ablation"), help="folder for scores")
    parser.add_argument("--scenes", type=Path, default=Path(".cache/accuracy"), help="cache with the scenes")
    parser.add_argument("--out", type=Path, default=PAGE, help="page to write")
    return parser.parse_args()


def measured(job: Job, *, cache: Path, scenes: Path, **changes: object) -> dict[str, dict[str, Any]]:
    """Return the scores of every variant on a scene; ``changes`` replace settings of the simulation."""
    kept, bench = Kept(cache, fingerprint()), functools.cache(lambda: Bench(made(*job, scenes, **changes)))
    out, other = {}, repr(sorted(changes.items()))
    for number, (name, variant) in enumerate(VARIANTS.items()):
        label = "-".join(map(str, (*job, number)))
        kept_of = kept.get(label, [name, other], lambda v=variant: bench().scores(v))
        out[name] = {key: value for key, value in kept_of.items() if key != "key"}
    whole = out[WHOLE]
    print(f"{job[0]} seed {job[1]} {job[2]}: {whole['n_found']} found, F1 {whole['f1']}", flush=True)
    return out


@functools.cache
def fingerprint() -> str:
    """Return a checksum of the package's code and of the variants."""
    here = [Path(__file__), Path(__file__).with_name("ablation_variants.py")]
    return checksum(more=[path.read_text(encoding="utf-8") for path in here])


class Bench:
    """A scene in memory, and what the stages of the whole detector made of it."""

    def __init__(self, scene: Scene) -> None:
        self.stack: xr.Dataset = open_stack(find_scenes([scene.files])).load()
        self.truth = gpd.read_file(scene.truth)
        self.known: dict[str, Any] = {}

    def found(self, variant: Variant) -> Any:
        """Return what the detector finds without an ingredient."""
        if variant != Variant() and not self.known:
            self.found(Variant())
        plan = cd.Plan().with_values({"sensitivity.quick": False, **variant.settings})
        # composites are for the eye only, and take as long as the objects
        with patch.object(_assemble, "composites", lambda _: (None, None)), variant(self.known):
            return cd.detect(self.stack, plan=plan)

    def scores(self, variant: Variant) -> dict[str, Any]:
        """Return the scores of a variant."""
        found = self.found(variant)
        unresolved = int((found.structures["status"] == "unresolved").sum())
        out = {"n_found": len(found.structures), "unresolved": unresolved, "alarms": len(found.alarms)}
        if not len(self.truth):
            return out | {"f1": None}
        gsd_m = float(np.min(self.stack.gsd_m.values))
        scores = metrics.evaluate(found.structures, self.truth, options=metrics.Options(pixel_m=gsd_m))
        objects, dates = scores["objects"], scores["dates"] or {"n": 0, "covered": 0}
        out |= {name: objects[name] for name in ("n_truth", "matched")}
        return out | {"f1": objects["f1"] or 0.0, "n_dated": dates["n"], "covered": dates["covered"]}


# ------------------------------------------------------------------------------------------------ page


def page(scores: Scores) -> str:
    """Return the page."""
    jobs = list(scores[WHOLE])
    seeds = ", ".join(map(str, sorted({seed for _, seed, _ in jobs})))
    sensors = ", ".join(dict.fromkeys(sensor for sensor, _, _ in jobs))
    parts = [
        "# What each ingredient of the detector gives",
        f"{MADE} changedet {cd.__version__}, code {fingerprint()}, seeds {seeds}; {sensors}.",
        ABOUT,
        table(HEAD, [row(name, scores) for name in scores]),
        *idle(scores),
    ]
    return "\n\n".join(parts) + "\n"


def row(name: str, scores: Scores) -> tuple[str, ...]:
    """Return a line of the table: each mean, and its difference from that of the whole detector."""
    out = [f"**{name}**" if name == WHOLE else name]
    for hard in (False, True):
        out += column(name, scores, of(scores, "built", hard), lambda one: one["f1"], ".2f")
    for hard in (False, True):
        out += column(name, scores, of(scores, "quiet", hard), lambda one: one["n_found"], ".1f")
    built = [*of(scores, "built", False), *of(scores, "built", True)]
    out += column(name, scores, [job for job in built if scores[name][job]["n_dated"]], covered, ".0%")
    return tuple(out)


def covered(one: dict[str, Any]) -> float:
    """Return the share of the matched objects of a scene whose true date lies within the interval."""
    return one["covered"] / one["n_dated"] if one["n_dated"] else 0.0


def of(scores: Scores, works: str, hard: bool) -> list[Job]:
    """Return the scenes of one kind."""
    return [job for job in scores[WHOLE] if job[2] == works and job[0].endswith(HARD) == hard]


def column(
    name: str, scores: Scores, jobs: Iterable[Job], value: Callable[[dict], float], how: str
) -> tuple[str, str]:
    """Return the mean over scenes, and the difference from the whole detector with its standard error."""
    ours = [value(scores[name][job]) for job in jobs]
    if not ours:
        return "–", ""
    if name == WHOLE:
        return f"{mean(ours):{how}}", ""
    apart = [one - value(scores[WHOLE][job]) for one, job in zip(ours, jobs, strict=True)]
    error = f" ± {stdev(apart) / len(apart) ** 0.5:{how}}" if len(apart) > 1 else ""
    return f"{mean(ours):{how}}", f"{mean(apart):+{how}}{error}"


def idle(scores: Scores) -> list[str]:
    """Say which variants changed nothing at all: what they take away does nothing here, or is not there."""
    names = [name for name in scores if name != WHOLE and scores[name] == scores[WHOLE]]
    if not names:
        return []
    return [f"No score of any scene was changed by: {'; '.join(names)}."]


if __name__ == "__main__":
    main()
