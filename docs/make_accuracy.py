"""Measure the main job on simulated scenes with the public commands, and write ``docs/accuracy.md``.

    python docs/make_accuracy.py [--seeds 0,1,2,3,4] [--sensors submetre,planet,sentinel-2] [--cache DIR]

For each kind of imagery and each seed two stacks are simulated: one in which a crossing is built, and the
same ground, weather and sensor without the works. ``changedet run`` works on the files and ``changedet
evaluate`` scores the result. Beside it stands what a notebook would do: median of the first and of the last
third of the dates, change vector, Otsu, polygons of four pixels or more.

Scores are kept in the cache with a checksum of the package, so an interrupted measurement goes on where it
stopped, and no score of older code is mixed in.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean

import geopandas as gpd
import numpy as np
from rasterio.features import shapes
from shapely.geometry import shape
from skimage.filters import threshold_otsu

import changedet as cd
from changedet.demo import write_scenes
from changedet.simulate import SceneSettings, Simulation, simulate

HARD = " hard"
SENSORS = tuple(f"{s}{how}" for how in ("", HARD) for s in ("submetre", "planet", "sentinel-2"))
SEEDS = (0, 1, 2, 3, 4)
WORKS = ("built", "quiet")
PAGE = Path(__file__).with_name("accuracy.md")
BASELINE_PX = 4
MADE = "Made by `python docs/make_accuracy.py`, which says how; not edited by hand."
ABOUT = f"""The scenes come from `changedet.simulate`: river crossings rendered from causes, varied from seed
to seed. They are not real imagery; [real.md](real.md) has what happened on that: series of places where
nothing was built, and twelve real pairs with truth, on which every method of `diff` stands beside published
figures and each ingredient of `auto` was taken away in turn.

- *F1* counts objects, one to one, by an overlap of at least a quarter; small objects also by position.
  *Decided* leaves out what the run itself calls unresolved.
- *Dates*: share of matched objects whose true date lies in `(last_absent, first_seen]`.
- *False, quiet*: structures reported in a stack in which nothing was built.
- In brackets: what is aimed at.
- *Hard* scenes break what the ordinary ones flatter: no pixel like another, land that changes for its own
  reasons, banks and bars that move, traffic that stays, geometry that differs, masks wrong in both
  directions, few and uneven dates.
- *Notebook*: median of the first third of the dates against that of the last third, change vector, Otsu,
  polygons of at least {BASELINE_PX} pixels."""
WANTED = {"submetre": 0.85, "planet": 0.92, "sentinel-2": 0.92}
"""Mean F1 that is aimed at on ordinary scenes, and other aims: (ordinary, hard)."""
WANTED_HARD, COVER, FALSE = 0.8, 0.95, (0.1, 0.25)


def main() -> None:
    """Score what is not in the cache yet, then write the page."""
    args = arguments()
    scores = []
    for sensor in args.sensors:
        for seed in args.seeds:
            for works in WORKS:
                one = scored(sensor, seed, works, args.cache)
                print(f"{sensor} seed {seed} {works}: {brief(one)}", flush=True)
                scores.append(one)
    args.out.write_text(page(scores), encoding="utf-8")
    print(f"wrote {args.out}")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=lambda t: [int(s) for s in t.split(",")], default=list(SEEDS))
    parser.add_argument("--sensors", type=lambda t: t.split(","), default=list(SENSORS))
    parser.add_argument("--cache", type=Path, default=Path(".cache/accuracy"), help="folder for scores")
    parser.add_argument("--out", type=Path, default=PAGE, help="page to write")
    return parser.parse_args()


def scored(sensor: str, seed: int, works: str, cache: Path, **changes: object) -> dict:
    """Return the scores of one stack, from the cache where the same code has made them.

    ``changes`` replace settings of the simulation, for a quick look.
    """
    file = cache / f"{sensor}-{seed}-{works}.json"
    key = {"code": fingerprint(), "changes": repr(sorted(changes.items()))}
    if file.is_file():
        known = json.loads(file.read_text(encoding="utf-8"))
        if known["key"] == key:
            return known
    made = {"key": key, **measure(sensor, seed, works, **changes)}
    cache.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(made, indent=1), encoding="utf-8")
    return made


def fingerprint() -> str:
    """Return a checksum of the package's code."""
    digest = hashlib.sha256()
    root = Path(cd.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def measure(sensor: str, seed: int, works: str, **changes: object) -> dict:
    """Simulate one stack, run the commands on it, and return their scores."""
    name, hard = sensor.removesuffix(HARD), sensor.endswith(HARD)
    settings = SceneSettings.for_sensor(name, seed, build=works == "built", hard=hard, **changes)
    simulation = simulate(settings)
    folder = Path(tempfile.mkdtemp(prefix="changedet-accuracy-"))
    try:
        scenes, results = folder / "scenes", folder / "results"
        write_scenes(simulation, scenes)
        begin = time.perf_counter()
        run = command("run", scenes, "-o", results)
        seconds = time.perf_counter() - begin
        objects = baseline(simulation)
        made = {
            "sensor": sensor, "seed": seed, "works": works, "gsd_m": settings.gsd_m,
            "shape_px": list(settings.shape_px), "n_dates": settings.n_dates, "seconds": round(seconds, 1),
            "false": run["counts"]["structures"], "baseline_false": len(objects),
        }  # fmt: skip
        if works == "quiet":
            return made
        truth = scenes / "truth.geojson"
        ours = command("evaluate", results, truth)
        objects.to_file(folder / "baseline.gpkg", layer="objects")
        theirs = command("evaluate", folder / "baseline.gpkg", truth, "--pixel-m", settings.gsd_m)
        return made | {"ours": headline(ours), "baseline": headline(theirs)}
    finally:
        shutil.rmtree(folder)


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


def baseline(simulation: Simulation) -> gpd.GeoDataFrame:
    """Find changed areas as a notebook does: two medians, change vector, Otsu, polygons."""
    image = np.where(simulation.mask[:, None], np.nan, simulation.image)
    third = max(len(image) // 3, 1)
    before, after = median(image[:third]), median(image[-third:])
    magnitude = np.sqrt(((after - before) ** 2).sum(axis=0)).astype(np.float32)
    known = np.isfinite(magnitude)
    changed = known & (np.nan_to_num(magnitude) > threshold_otsu(magnitude[known]))
    found = shapes(changed.astype(np.uint8), mask=changed, connectivity=8, transform=simulation.transform)
    outlines = [shape(geometry) for geometry, _ in found]
    least = BASELINE_PX * simulation.settings.gsd_m**2 * (1 - 1e-6)
    kept = [outline for outline in outlines if outline.area >= least]
    return gpd.GeoDataFrame({"id": range(1, len(kept) + 1)}, geometry=kept, crs=simulation.crs)


def median(image: np.ndarray) -> np.ndarray:
    """Return the median over dates of what is usable, (band, y, x), NaN where nothing is."""
    ordered = np.sort(image, axis=0)  # NaN last
    count = np.isfinite(ordered).sum(axis=0)
    low, high = ((np.maximum(count, 1) - 1) // 2, np.maximum(count, 1) // 2)
    pair = [np.take_along_axis(ordered, at[None], axis=0)[0] for at in (low, high)]
    return np.where(count > 0, (pair[0] + pair[1]) / 2, np.nan)


def brief(one: dict) -> str:
    """Say the scores of one stack in a line."""
    if one["works"] == "quiet":
        return f"{one['false']} false (notebook {one['baseline_false']}), {one['seconds']} s"
    ours = one["ours"]
    return (
        f"F1 {ours['f1']:.2f} ({ours['matched']} of {ours['n_truth']}, {ours['n_found']} found), dates "
        f"{ours['covered']}/{ours['n_dated']}, notebook F1 {one['baseline']['f1']:.2f}, {one['seconds']} s"
    )


# ------------------------------------------------------------------------------------------------ page


def page(scores: list[dict]) -> str:
    """Return the page."""
    sensors = list(dict.fromkeys(one["sensor"] for one in scores))
    seeds = sorted({one["seed"] for one in scores})
    parts = [
        "# Accuracy on simulated scenes",
        f"{MADE} changedet {cd.__version__}, code {scores[0]['key']['code']}, seeds "
        f"{', '.join(map(str, seeds))}.",
        ABOUT,
        summary(scores, sensors),
        "## By seed",
        *(detail(scores, sensor) for sensor in sensors),
    ]
    return "\n\n".join(parts) + "\n"


def of(scores: list[dict], sensor: str, works: str) -> list[dict]:
    """Return the scores of one kind of imagery."""
    return [one for one in scores if one["sensor"] == sensor and one["works"] == works]


def summary(scores: list[dict], sensors: list[str]) -> str:
    """Return the table of means."""
    head = ("imagery", "pixel m", "dates × rows × columns", "F1", "F1, decided", "precision", "recall",
            "dates", "interval, days", "false, quiet", "notebook F1", "notebook false", "s")  # fmt: skip
    rows = []
    for sensor in sensors:
        hard = sensor.endswith(HARD)
        aim = WANTED_HARD if hard else WANTED[sensor]
        built, quiet = of(scores, sensor, "built"), of(scores, sensor, "quiet")
        ours = [one["ours"] for one in built]
        rows.append((
            sensor, f"{built[0]['gsd_m']:g}",
            " × ".join(map(str, (built[0]["n_dates"], *built[0]["shape_px"]))),
            f"{mean(o['f1'] for o in ours):.2f} (≥ {aim})",
            f"{mean(o['decided']['f1'] or 0 for o in ours):.2f}",
            ratio(sum(o["matched"] for o in ours), sum(o["n_found"] for o in ours)),
            ratio(sum(o["matched"] for o in ours), sum(o["n_truth"] for o in ours)),
            f"{share(sum(o['covered'] for o in ours), sum(o['n_dated'] for o in ours))} (≥ {COVER:.0%})",
            days([o["width_days"] for o in ours]),
            f"{mean(one['false'] for one in quiet):.1f} (≤ {FALSE[hard]})",
            f"{mean(one['baseline']['f1'] for one in built):.2f}",
            f"{mean(one['baseline_false'] for one in quiet):.0f}",
            f"{mean(one['seconds'] for one in built + quiet):.0f}",
        ))  # fmt: skip
    return table(head, rows)


def detail(scores: list[dict], sensor: str) -> str:
    """Return the table of the seeds of one kind of imagery."""
    head = ("seed", "F1", "true", "found", "matched", "dates", "false, quiet", "notebook F1")
    quiet = {one["seed"]: one["false"] for one in of(scores, sensor, "quiet")}
    rows = [
        (
            str(one["seed"]), f"{one['ours']['f1']:.2f}", str(one["ours"]["n_truth"]),
            str(one["ours"]["n_found"]), str(one["ours"]["matched"]),
            f"{one['ours']['covered']} of {one['ours']['n_dated']}", str(quiet[one["seed"]]),
            f"{one['baseline']['f1']:.2f}",
        )
        for one in of(scores, sensor, "built")
    ]  # fmt: skip
    return f"### {sensor}\n\n{table(head, rows)}"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows))


def ratio(part: int, whole: int) -> str:
    """Return a ratio, a dash where there is none."""
    return f"{part / whole:.2f}" if whole else "–"


def share(part: int, whole: int) -> str:
    """Return a share as per cent with its counts, a dash where there is none."""
    return f"{part / whole:.0%} ({part} of {whole})" if whole else "–"


def days(widths: list[float | None]) -> str:
    """Return the mean of the seeds' median widths, a dash where there is none."""
    known = [width for width in widths if width is not None]
    return f"{mean(known):.0f}" if known else "–"


if __name__ == "__main__":
    main()
