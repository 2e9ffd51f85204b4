"""Run the public commands on real imagery and write ``docs/real.md``.

    python docs/make_real.py [--data DIR] [--out FILE]

``changedet diff`` works on eight Sentinel-2 pairs with urban change (OSCD), a Landsat pair (Taizhou) and
three SAR pairs, all with published truth; ``changedet run`` on Landsat and Sentinel-1 series of places where
nothing was built. Options are given only where the files lack something. The imagery is not part of the
project; the README beside it says where each set comes from.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

import numpy as np
import pandas as pd
import pyogrio
import rasterio

import changedet as cd
from changedet.metrics import pixel_scores

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("CHANGEDET_DATA", ROOT.parent / "shared" / "data"))
PAGE = Path(__file__).with_name("real.md")
NOTES = Path(__file__).with_name("real-notes.json")
"""What a person saw in each result: case → the result it speaks of, and words. The only part that is written
by hand; where the result has changed since, the page says so."""

MADE = """Made by `python docs/make_real.py`. The figures are not edited by hand; what was wrong in each case
was looked up by a person and stands in `docs/real-notes.json`."""

Notes = dict[str, dict[str, str]]


@dataclass(frozen=True)
class Pair:
    """Two images and their truth: files below the data folder, and options that the files make necessary.

    ``unchanged`` marks what is known not to have changed, where the truth is sampled.
    """

    name: str
    before: str
    after: str
    truth: str
    options: tuple[str, ...] = ()
    unchanged: str | None = None


@dataclass(frozen=True)
class Series:
    """Scenes of a place where nothing was built."""

    name: str
    scenes: str
    options: tuple[str, ...] = ()


OTHER_GRID = ("abudhabi", "hongkong")
"""Pairs whose second date lies on another grid."""

OSCD = [
    Pair(
        name,
        *(f"oscd/{name}/{file}" for file in ("t1_*.tif", "t2_*.tif", "gt.tif")),
        ("--warp",) if name in OTHER_GRID else (),
    )
    for name in ("abudhabi", "aguasclaras", "beihai", "cupertino", "hongkong", "mumbai", "nantes", "rennes")
]
TAIZHOU = Pair(
    "taizhou", *(f"taizhou/{file}" for file in ("2000TM", "2003TM", "change.bmp")),
    unchanged="taizhou/unchanged.bmp",
)  # fmt: skip
SAR = [
    Pair(name, *(f"sar/{name}/{file}.tif" for file in ("before", "after", "gt")), ("--method", "logratio"))
    for name in ("bern", "ottawa", "sanfrancisco")
]
COAST = [
    Series(name, f"stacks/l8_coast/{name}/L8/ms", ("--band-names", "blue,green,red,nir08,swir16,qa"))
    for name in ("NEWCASTLE", "SAWTELL", "Mayreau")
]
METHODS = {
    "auto": ("--method", "auto"),
    "cva": (),
    "cva, bands scaled": ("--set", "difference.cva.standardize=true"),
    "rcva": ("--method", "rcva"),
}


def main() -> None:
    """Do everything and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the imagery")
    parser.add_argument("--out", type=Path, default=PAGE, help="page to write")
    args = parser.parse_args()
    if not args.data.is_dir():
        sys.exit(f"no imagery in {args.data}; wanted the folder of the data README; give --data")
    notes = json.loads(NOTES.read_text(encoding="utf-8"))
    bursts = sorted(p.name for p in (args.data / "stacks" / "s1rtc_california").iterdir() if p.is_dir())
    radar = [Series(name, f"stacks/s1rtc_california/{name}") for name in bursts]
    parts = [
        "# Real imagery",
        f"{MADE} changedet {cd.__version__}.",
        *pairs(args.data, notes),
        *series(args.data, COAST, "Landsat 8, coasts (`run`)", LANDSAT, notes),
        *series(args.data, radar, "Sentinel-1 RTC, California (`run`)", RADAR, notes),
    ]
    args.out.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(f"wrote {args.out}")


def command(*words: object) -> dict:
    """Run a command of changedet and return the line it has for programs; its refusal where it refuses."""
    line = [sys.executable, "-m", "changedet", *map(str, words), "--json", "-q"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode == 2:
        return {"refused": done.stderr.strip()}
    if done.returncode:
        sys.exit(f"changedet {' '.join(map(str, words))}\n{done.stderr}")
    return json.loads(done.stdout)


# ------------------------------------------------------------------------------------------------ pairs


def pairs(data: Path, notes: Notes) -> list[str]:
    """Return the sections on two images."""
    out: list[str] = []
    seen: dict[str, str] = {}  # of the first method
    for method, options in METHODS.items():
        rows = [scored(data, pair, options) for pair in OSCD]
        seen = {row[0]: f"AUC {row[1]:.2f}" for row in rows} if method == "cva" else seen
        rows.append(("**mean**", *(mean(row[i] for row in rows) for i in range(1, 7)), ""))
        out += [f"### {method}", table(PAIR_HEAD, [pair_row(row) for row in rows])]
    singles = [scored(data, pair, ()) for pair in (TAIZHOU, *SAR)]
    by_auto = [scored(data, replace(pair, options=()), METHODS["auto"]) for pair in (TAIZHOU, *SAR)]
    also = {row[0]: f"AUC {row[1]:.2f}" for row in singles}
    return [
        "## Sentinel-2 pairs, OSCD (`diff`)",
        OSCD_ABOUT,
        *out,
        "What was wrong with cva:",
        listed(notes, seen),
        "## Landsat and SAR pairs (`diff`)",
        "taizhou: six bands, `cva`, scored where the truth was sampled. SAR: amplitudes in 8 bits without "
        "georeference, `logratio`.",
        "### auto",
        table(PAIR_HEAD, [pair_row(row) for row in by_auto]),
        "### cva, logratio",
        table(PAIR_HEAD, [pair_row(row) for row in singles]),
        "What was wrong with the plain methods:",
        listed(notes, also),
    ]


OSCD_ABOUT = """Thirteen bands on the 10 m grid of the first date, scored by pixel. The truth is urban change
and leaves out what is not (fields, water, haze). The plain methods compare what they are given; `auto` learns
what each kind of ground became. No method aligns the two dates. *As it comes* and *objects* are at the
default threshold of the method, objects under 3.5 pixels dropped; *best F1* is that of the best of all
thresholds, which nobody knows beforehand."""
PAIR_HEAD = ("pair", "AUC", "best F1", "F1 at Otsu", "F1 as it comes", "κ as it comes", "changed", "objects")


def scored(data: Path, pair: Pair, options: tuple[str, ...]) -> tuple:
    """Run ``diff`` with Otsu's level and as it comes; return the scores by pixel."""
    with tempfile.TemporaryDirectory() as name:
        otsu, plain = Path(name) / "otsu", Path(name) / "plain"
        files = (data / pair.before, data / pair.after)
        command("diff", *files, "-o", otsu, *pair.options, *options, "--threshold", "otsu", "--min-area", 0)
        told = command("diff", *files, "-o", plain, *pair.options, *options)
        magnitude, (level, default) = np.abs(band(otsu / "magnitude.tif")), map(change, (otsu, plain))
    truth = band(data / pair.truth) > 0
    valid = np.isfinite(magnitude)
    if pair.unchanged is not None:
        valid &= truth | (band(data / pair.unchanged) > 0)
    at_otsu = pixel_scores(level, truth, valid, score=magnitude)
    as_it_comes = pixel_scores(default, truth, valid)
    share = float(truth[valid].mean())
    best = best_f1(magnitude[valid], truth[valid])
    print(f"{pair.name}: AUC {at_otsu['auc']:.3f}, F1 at Otsu {at_otsu['f1']:.3f}", flush=True)
    figures = (at_otsu["auc"], best, at_otsu["f1"], as_it_comes["f1"], as_it_comes["kappa"], share)
    return pair.name, *figures, told["counts"]["objects"]


def band(path: Path) -> np.ndarray:
    """Read the first band of a raster."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path) as dataset:
            return dataset.read(1)


def change(folder: Path) -> np.ndarray:
    """Return where a result says that something changed."""
    return band(folder / "change.tif") == 1


def best_f1(score: np.ndarray, truth: np.ndarray) -> float:
    """Return the highest F1 that any threshold gives."""
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(truth[order])
    f1 = 2 * hits / (np.arange(1, truth.size + 1) + truth.sum())
    last = np.append(np.diff(score[order]) != 0, True)  # ties are taken together
    return float(f1[last].max())


def pair_row(row: tuple) -> tuple[str, ...]:
    """Return a row of a table of pairs as text."""
    name, *figures, share, objects = row
    return name, *(f"{figure:.3f}" for figure in figures), f"{share:.1%}", str(objects)


# ------------------------------------------------------------------------------------------------ series

LANDSAT = (
    "Crops of 1.5 to 2.6 km, six months, surf and tide. Nothing was built, so every structure is a mistake. "
    "The bands have no names in the files (`--band-names`)."
)
RADAR = (
    "Bursts of 3 × 3 km, VV and VH, 21 dates from 2021 to 2025. Nothing is known to have been built, so "
    "every structure counts as a mistake here; 292324-IW2 has a dark patch on the last date."
)
SERIES_HEAD = ("site", "scenes used", "left out", "structures", "of them", "alarms", "s")


def series(
    data: Path, cases: list[Series], title: str, about: str, notes: Notes
) -> tuple[str, ...]:
    """Return the section on one kind of series."""
    rows = [counted(data, case) for case in cases]
    seen = {row[0]: f"{row[3]} structures" for row in rows}
    return f"## {title}", about, table(SERIES_HEAD, rows), "What was wrong:", listed(notes, seen)


def counted(data: Path, case: Series) -> tuple[str, ...]:
    """Run the main job and count what it reports."""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "out"
        told = command("run", data / case.scenes, "-o", out, *case.options)
        if "refused" in told:
            print(f"{case.name}: refused", flush=True)
            return case.name, "refused: " + told["refused"], "", "", "", "", ""
        record = json.loads((out / "run.json").read_text(encoding="utf-8"))
        structures, alarms = (
            pd.DataFrame(pyogrio.read_dataframe(out / "structures.gpkg", layer=layer))
            for layer in ("structures", "alarms")
        )
    used = sum(scene["used"] for scene in record["scenes"])
    print(f"{case.name}: {len(structures)} structures, {len(alarms)} alarms", flush=True)
    return (
        case.name,
        str(used),
        str(len(record["scenes"]) - used),
        str(len(structures)),
        counts(structures["status"] + " " + structures["kind"]),
        f"{len(alarms)}: {counts(alarms['reason'])}" if len(alarms) else "0",
        f"{sum(record['timings'].values()):.0f}",
    )


def counts(values: pd.Series) -> str:
    """Return how often each value occurs, most frequent first."""
    return ", ".join(f"{number} {name}" for name, number in Counter(values).most_common())


# ------------------------------------------------------------------------------------------------ page


def listed(notes: Notes, seen: dict[str, str]) -> str:
    """Return the notes on some cases as a list; ``seen`` has each case's present result."""
    return "\n".join(f"- {name}: {said(notes.get(name), result)}" for name, result in seen.items())


def said(note: dict[str, str] | None, result: str) -> str:
    """Return a note, with a warning where it speaks of another result."""
    if note is None:
        return "not looked at yet"
    if note["result"] == result:
        return note["words"]
    return f"(written when the result was {note['result']}, now {result}) {note['words']}"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows))


if __name__ == "__main__":
    main()
