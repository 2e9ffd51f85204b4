"""Fit the weights of ``confidence`` on simulated scenes, and measure how well it is calibrated on others.

    python docs/make_confidence.py [--cache DIR] [--quick]

Scenes of three sensor classes, ordinary and hard, with works and without, give candidates with their facts
and whether a true structure stands there. A logistic regression with a ridge is fitted to those of some
seeds and written to ``changedet/steps/confidence.json``; those of other seeds, which it never saw, give the
table of ``docs/confidence.md`` and the sample of ``tests/reference/candidates.json``. Takes about half an
hour on two cores; facts of a scene are kept in the cache.
"""

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
PAGE = Path(__file__).with_name("confidence.md")
SAMPLE = ROOT / "tests" / "reference" / "candidates.json"
WEIGHTS = ROOT / "changedet" / "steps" / "confidence.json"
SENSORS = ("planet", "sentinel-2", "submetre")
FITTED, JUDGED = range(20, 26), range(5)
RIDGE = 3.0
"""Penalty on the squared weights of standardized columns."""
BINS = np.array([0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])


def main() -> None:
    """Fit, write the weights, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cache", type=Path, help="folder that keeps the facts of scenes")
    parser.add_argument("--quick", action="store_true", help="one seed each, to try the script")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        cache = args.cache or Path(name)
        cache.mkdir(parents=True, exist_ok=True)
        fitted, judged = (FITTED[:1], JUDGED[:1]) if args.quick else (FITTED, JUDGED)
        rows = gathered(jobs(fitted), cache)
        weights = fit(rows)
        if not args.quick:
            WEIGHTS.write_text(json.dumps(weights, indent=1) + "\n", encoding="utf-8")
        others = gathered(jobs(judged), cache)
        page = written(weights, others, len(rows))
        if args.quick:
            print(page)
        else:
            PAGE.write_text(page, encoding="utf-8")
            kept = ",\n".join(json.dumps({k: _plain(v) for k, v in row.items()}) for row in others)
            SAMPLE.write_text(f"[{kept}]\n", encoding="utf-8")


def _plain(value: object) -> object:
    """Return a value as the sample of the tests holds it: four digits, null for NaN."""
    if not isinstance(value, float):
        return value
    return None if np.isnan(value) else float(f"{value:.4g}")


def jobs(seeds: Iterable[int]) -> list[tuple[str, int, bool, bool]]:
    """Return sensor, seed, works, hard of every scene."""
    return [(s, k, b, h) for k in seeds for s in SENSORS for h in (False, True) for b in (True, False)]


def gathered(scenes: list[tuple[str, int, bool, bool]], cache: Path) -> list[dict]:
    """Return the candidates of all scenes, two scenes at a time."""
    with ProcessPoolExecutor(2) as pool:
        found = list(pool.map(candidates, scenes, [cache] * len(scenes)))
    return [row for scene in found for row in scene]


def candidates(scene: tuple[str, int, bool, bool], cache: Path) -> list[dict]:
    """Return facts and truth of the candidates of a scene that nothing excludes."""
    sensor, seed, works, hard = scene
    kept = cache / f"{sensor}-{seed}-{'built' if works else 'quiet'}{'-hard' if hard else ''}.json"
    if not kept.exists():
        kept.write_text(json.dumps(_candidates(scene)), encoding="utf-8")
    return json.loads(kept.read_text(encoding="utf-8"))


def _candidates(scene: tuple[str, int, bool, bool]) -> list[dict]:
    """Simulate a scene, run the detector on it and compare with the truth."""
    from changedet.demo import write_scenes
    from changedet.grid import Grid
    from changedet.io.products import find_scenes
    from changedet.io.stack import open_stack
    from changedet.pipeline._work import Clock, quiet
    from changedet.pipeline.plan import Plan
    from changedet.pipeline.run import prepare, search, usable_scenes
    from changedet.simulate import SceneSettings, simulate

    sensor, seed, works, hard = scene
    made = simulate(SceneSettings.for_sensor(sensor, seed, build=works, hard=hard))
    with tempfile.TemporaryDirectory() as folder:
        write_scenes(made, Path(folder))
        usable, _ = usable_scenes(open_stack(find_scenes([folder])).load())
    plan, clock = Plan(), Clock()
    found = search(prepare(usable, plan, clock, quiet), plan, clock, quiet)
    grid = Grid.of(found.stack)
    place = np.zeros(grid.shape, int)
    for number, outline in enumerate(made.truth.geometry, start=1):
        place[grid.rasterize([outline], all_touched=True)] = number
    size = np.bincount(place.ravel(), minlength=len(made.truth) + 1)
    rows = []
    for one in found.objects:
        if one.known is None or (one.verdict.status or one.verdict.standing) is None:
            continue
        pixels = (one.candidate.rows, one.candidate.columns)
        shared = np.bincount(place[pixels], minlength=size.size)
        shared[0] = 0
        best = int(shared.argmax())
        overlap = shared[best] / (size[best] + pixels[0].size - shared[best]) if shared[best] else 0.0
        inside = place[round(pixels[0].mean()), round(pixels[1].mean())] > 0
        true = bool(overlap >= 0.1 or (shared[best] and inside))
        rows.append({"true": true, "hard": hard, "sensor": sensor, **dataclasses.asdict(one.known)})
    return rows


def facts_of(rows: list[dict]) -> list:
    """Return the facts of candidates."""
    from changedet.steps.confidence import Facts

    names = [f.name for f in dataclasses.fields(Facts)]
    return [Facts(**{n: row[n] for n in names}) for row in rows]


def truth_of(rows: list[dict]) -> np.ndarray:
    """Return which candidates are true."""
    return np.array([row["true"] for row in rows])


def fit(rows: list[dict]) -> dict:
    """Fit a logistic regression with a ridge by Newton's method; unknown values count as the mean."""
    from changedet.steps.confidence import columns

    found, true = columns(facts_of(rows)), truth_of(rows)
    names = list(found)
    x = np.stack([found[n] for n in names], axis=1)
    mean = np.nanmean(x, axis=0)
    x = np.where(np.isfinite(x), x, mean)
    scale = x.std(axis=0) + 1e-9
    z = np.column_stack([np.ones(len(x)), (x - mean) / scale])
    penalty = np.diag([0.0, *[RIDGE] * len(names)])
    beta = np.zeros(z.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-z @ beta))
        step = np.linalg.solve((z.T * (p * (1 - p))) @ z + penalty, z.T @ (true - p) - penalty @ beta)
        beta += step
        if np.abs(step).max() < 1e-9:
            break
    weight = beta[1:] / scale
    columns = {
        n: {"weight": round(float(w), 4), "mean": round(float(m), 4)}
        for n, w, m in zip(names, weight, mean, strict=True)
    }
    return {"intercept": round(float(beta[0] - weight @ mean), 4), "columns": columns}


def written(weights: dict, rows: list[dict], fitted: int) -> str:
    """Return the page."""
    from changedet.steps.confidence import confidence

    p, true = confidence(facts_of(rows), weights), truth_of(rows)
    groups = {"all": np.ones(len(rows), bool)}
    groups |= {f"{s}, {w}": np.array([r["sensor"] == s and r["hard"] == h for r in rows])
               for s in SENSORS for w, h in (("ordinary", False), ("hard", True))}  # fmt: skip
    head = " | ".join(f"{a:g} to {b:g}" for a, b in pairwise(BINS))
    lines = [
        "# Confidence",
        "Made by `python docs/make_confidence.py`, which says how; not edited by hand. Weights were fitted "
        f"on {fitted} candidates of seeds {FITTED[0]} to {FITTED[-1]}; what follows are {len(rows)} "
        f"candidates of seeds {JUDGED[0]} to {JUDGED[-1]}, which the fit never saw. In a cell: how many "
        "candidates were given a confidence in that range, and the share of them that were true. ECE: "
        "expected calibration error, the mean distance of stated confidence from that share.",
        f"| scenes | {head} | ECE |\n|{' --- |' * (len(BINS) + 1)}",
    ]
    for name, own in groups.items():
        cells, error = reliability(p[own], true[own])
        lines[-1] += f"\n| {name} | {' | '.join(cells)} | {error:.3f} |"
    lines.append("Weights, each times its column (see `changedet/steps/confidence.py`):")
    listed = [f"| {n} | {c['weight']:+.3f} |" for n, c in weights["columns"].items()]
    lines.append("\n".join(["| column | weight |", "| --- | --- |", *listed]))
    return "\n\n".join(lines) + "\n"


def reliability(p: np.ndarray, true: np.ndarray) -> tuple[list[str], float]:
    """Return the cells of a row, and the expected calibration error over ten bins."""
    from changedet.metrics import calibration

    cells = []
    for low, high in pairwise(BINS):
        own = (p >= low) & ((p < high) | (high == 1))
        cells.append(f"{own.sum()}: {true[own].mean():.2f}" if own.any() else "0")
    return cells, float(calibration(p, true)["ece"])


if __name__ == "__main__":
    main()
