"""Measure the main job on simulated scenes with the public commands, and write ``docs/accuracy.md``.

    python docs/make_accuracy.py [--seeds 0,1,…,9] [--sensors "submetre,planet,sentinel-2 hard"] [--cache DIR]

For each kind of imagery and each seed two stacks are simulated: one in which a crossing is built, and the
same ground, weather and sensor without the works. ``changedet run`` works on the files and ``changedet
evaluate`` scores the result. Beside it stands what a notebook would do: median of the first and of the last
third of the dates, change vector, Otsu, polygons of four pixels or more.

Scores are kept in the cache with a checksum of the package, so an interrupted measurement goes on where it
stopped, and no score of older code is mixed in. Scenes are kept there too (about 3 GB for all of them), and
made anew only where the simulation has changed. All of it takes three quarters of an hour.

``accuracy_scenes.py`` makes the scenes, ``accuracy_cases.py`` looks at single objects, ``accuracy_worst.py``
shows the gravest mistakes, ``accuracy_page.py`` writes the page.
"""

import argparse
import functools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import accuracy_cases as cases
import pyogrio
from accuracy_page import page
from accuracy_scenes import HARD, SENSORS, WORKS, baseline, checksum, made, settings_of

__all__ = ["WORKS", "baseline", "fingerprint", "main", "measure", "page", "scored"]

SEEDS = tuple(range(10))
PAGE = Path(__file__).with_name("accuracy.md")


def main() -> None:
    """Score what is not in the cache yet, then write the page and its picture."""
    args = arguments()
    scores = []
    for sensor in args.sensors:
        for seed in args.seeds:
            for works in WORKS:
                one = scored(sensor, seed, works, args.cache)
                print(f"{sensor} seed {seed} {works}: {brief(one)}", flush=True)
                scores.append(one)
    args.out.write_text(page(scores, args.out.with_name(f"{args.out.stem}-worst.png")), encoding="utf-8")
    print(f"wrote {args.out}")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=lambda t: [int(s) for s in t.split(",")], default=list(SEEDS))
    parser.add_argument("--sensors", type=lambda t: t.split(","), default=list(SENSORS))
    parser.add_argument("--cache", type=Path, default=Path(".cache/accuracy"), help="folder for scores")
    parser.add_argument("--out", type=Path, default=PAGE, help="page to write, a picture beside it")
    return parser.parse_args()


def scored(sensor: str, seed: int, works: str, cache: Path, **changes: object) -> dict:
    """Return the scores of one stack, from the cache where the same code has made them.

    ``changes`` replace settings of the simulation, for a quick look.
    """
    file = cache / f"{sensor}-{seed}-{works}.json"
    key = {"code": fingerprint(), "facts": measuring(), "changes": repr(sorted(changes.items()))}
    if file.is_file():
        known = json.loads(file.read_text(encoding="utf-8"))
        if known["key"] == key:
            return known
    out = {"key": key, **measure(sensor, seed, works, cache, **changes)}
    cache.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(out, indent=1), encoding="utf-8")
    return out


@functools.cache
def fingerprint() -> str:
    """Return a checksum of the package's code, as it is when first asked for."""
    return checksum()


@functools.cache
def measuring() -> str:
    """Return a checksum of what measures, this file and its helpers but those for the page."""
    here = [Path(__file__), Path(cases.__file__), Path(__file__).with_name("accuracy_scenes.py")]
    return checksum("none of the package", more=[path.read_text(encoding="utf-8") for path in here])


def measure(sensor: str, seed: int, works: str, cache: Path, **changes: object) -> dict:
    """Simulate one stack, run the commands on it, and return their scores."""
    settings = settings_of(sensor, seed, works, **changes)
    scene = made(sensor, seed, works, cache, **changes)
    label = {"sensor": sensor, "seed": seed, "works": works}
    with tempfile.TemporaryDirectory(prefix="changedet-accuracy-") as folder:
        results = Path(folder) / "results"
        begin = time.perf_counter()
        run = command("run", scene.files, "-o", results)
        seconds = time.perf_counter() - begin
        out = {
            **label, "gsd_m": settings.gsd_m, "shape_px": list(settings.shape_px),
            "n_dates": settings.n_dates, "seconds": round(seconds, 1), "false": run["counts"]["structures"],
            "baseline_false": pyogrio.read_info(scene.notebook)["features"],
        }  # fmt: skip
        pairs: list[dict] = []
        if works == "built":
            ours = command("evaluate", results, scene.truth)
            theirs = command("evaluate", scene.notebook, scene.truth, "--pixel-m", settings.gsd_m)
            out |= {"ours": headline(ours), "baseline": headline(theirs)}
            pairs = ours["objects"]["pairs"]
        return out | facts(cases.Ran.read(scene, results, settings.gsd_m, pairs, label))


def facts(ran: cases.Ran) -> dict:
    """Return what single objects say: ends of intervals, what is unresolved, and mistakes in hard scenes."""
    out = {"ends": cases.interval_ends(ran), **cases.unresolved(ran)}
    if not ran.label["sensor"].endswith(HARD):
        return out
    counts = {
        "n_missed": len(ran.truth) - len(ran.pairs),
        "n_false": len(ran.structures) - len(ran.pairs),
    }
    return out | counts | {"mistakes": cases.mistakes(ran)}


def command(*words: object) -> dict:
    """Run a command of changedet and return the line it has for programs."""
    line = [sys.executable, "-m", "changedet", *map(str, words), "--json", "-q"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"changedet {' '.join(map(str, words))}\n{done.stderr}")
    return json.loads(done.stdout)


def headline(scores: dict) -> dict:
    """Return the numbers of ``evaluate`` that the page shows."""
    names = ("n_found", "n_truth", "matched", "precision", "recall", "f1", "precision_far")
    kept = {name: scores["objects"][name] for name in names}
    kept["f1"] = kept["f1"] or 0.0
    kept["decided"] = scores["objects"]["without_unresolved"]
    if scores["dates"] is not None:
        kept |= {name: scores["dates"][name] for name in ("n_dated", "covered", "width_days")}
    return kept


def brief(one: dict) -> str:
    """Say the scores of one stack in a line."""
    if one["works"] == "quiet":
        return (
            f"{one['false']} false ({one['unresolved']} unresolved; notebook {one['baseline_false']}), "
            f"{one['seconds']} s"
        )
    ours, ends = one["ours"], one["ends"]
    return (
        f"F1 {ours['f1']:.2f} ({ours['matched']} of {ours['n_truth']}, {ours['n_found']} found), dates "
        f"{ours['covered']}/{ours['n_dated']}, ends {ends['consecutive']}/{ends['n']}, unresolved "
        f"{one['unresolved_true']}, notebook F1 {one['baseline']['f1']:.2f}, {one['seconds']} s"
    )


if __name__ == "__main__":
    main()
