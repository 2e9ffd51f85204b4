"""Run the public commands on real imagery and write ``docs/real.md``.

    python docs/make_real.py [--data DIR] [--out FILE] [--cache DIR]

``changedet diff`` works on eight Sentinel-2 pairs with urban change (OSCD), a Landsat pair (Taizhou) and
three SAR pairs, all with published truth; ``changedet run`` on Landsat and Sentinel-1 series of places where
nothing was built. Options are given only where the files lack something. ``auto`` is measured again with each
of its ingredients taken away. The imagery is not part of the project; the README beside it says where each
set comes from.

Measurements are kept in the cache with a checksum of the package, so an interrupted run goes on where it
stopped, and none of older code is mixed in.
"""

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import pandas as pd
import pyogrio
from real_ablation import ablation
from real_pairs import (
    CHI_SQUARE,
    FIGURES,
    LEVELS,
    OPTICAL,
    OSCD,
    RADAR,
    SAR,
    TAIZHOU,
    Kept,
    best_f1,
    command,
    fingerprint,
    scored,
    table,
)

import changedet as cd

__all__ = ["OSCD", "SAR", "TAIZHOU", "best_f1", "main", "said"]

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
class Series:
    """Scenes of a place where nothing was built."""

    name: str
    scenes: str
    options: tuple[str, ...] = ()


COAST = [
    Series(name, f"stacks/l8_coast/{name}/L8/ms", ("--band-names", "blue,green,red,nir08,swir16,qa"))
    for name in ("NEWCASTLE", "SAWTELL", "Mayreau")
]


def main() -> None:
    """Do everything and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the imagery")
    parser.add_argument("--out", type=Path, default=PAGE, help="page to write")
    parser.add_argument("--cache", type=Path, default=Path(".cache/real"), help="folder for measurements")
    args = parser.parse_args()
    if not args.data.is_dir():
        sys.exit(f"no imagery in {args.data}; wanted the folder of the data README; give --data")
    notes = json.loads(NOTES.read_text(encoding="utf-8"))
    kept = Kept(args.cache, fingerprint())
    bursts = sorted(p.name for p in (args.data / "stacks" / "s1rtc_california").iterdir() if p.is_dir())
    bursts = [Series(name, f"stacks/s1rtc_california/{name}") for name in bursts]
    parts = [
        "# Real imagery",
        f"{MADE} changedet {cd.__version__}, code {kept.code}.",
        *pairs(args.data, notes, kept),
        *ablation(args.data, kept),
        *series(args.data, COAST, "Landsat 8, coasts (`run`)", ON_COASTS, notes, kept),
        *series(args.data, bursts, "Sentinel-1 RTC, California (`run`)", ON_BURSTS, notes, kept),
    ]
    args.out.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(f"wrote {args.out}")
    if fingerprint() != kept.code:
        print("the package has changed meanwhile; run this again", file=sys.stderr)


# ------------------------------------------------------------------------------------------------ pairs

OSCD_ABOUT = """Eight pairs, thirteen bands, the 10 m grid of the first date, scored by pixel. The truth is
urban change and leaves out what is not (fields, water, haze). `changedet diff BEFORE AFTER` without further
options is `auto`: it lays the later image on the earlier one (*moved*, in pixels; 0 where that is not sure or
too short to matter), learns what each kind of ground became, and sets its own level. The other methods
compare what they are given, unless `diff.align=true` is set. *As it comes* is the method's default threshold,
objects under 3.5 pixels dropped; *best F1* is that of the best of all thresholds, which nobody knows
beforehand. Settings are the same for all pairs; but `auto` was made with these eight at hand, so expect
somewhat less of it elsewhere."""
PUBLISHED = (
    ("PCA difference", "0.839", "0.308"),
    ("CVA", "0.772", "0.287"),
    ("IR-MAD", "0.847", "0.285"),
    ("Celik (PCA and k-means)", "0.687", "0.238"),
    ("rank fusion of several", "0.871", "0.326"),
)
PUBLISHED_ABOUT = """Published by others (ashbeka/subspace-change-detection): **means over all 24 pairs of the
set**. Ours are over the eight pairs that are here, so the two tables are not to be compared figure by figure:
the eight may be easier or harder than the rest."""
LEVELS_ABOUT = """F1 at several thresholds, mean over the eight pairs, no object dropped, dates as they come.
*robust* is what these methods get by default; *fdr* and *chi2* use their p-values, with the rate given."""
OTHER_ABOUT = """taizhou: six bands, scored where the truth was sampled. SAR: amplitudes in 8 bits without
georeference. Published for Taizhou, on the same samples: CVA κ 0.90, IR-MAD κ 0.93; for the SAR pairs: log
ratio with the best of all thresholds, F1 0.85 (bern), 0.93 (ottawa), 0.82 (sanfrancisco)."""
AUTO_HEAD = ("pair", "F1 as it comes", "precision", "recall", "best F1", "AUC", "κ as it comes", "changed",
             "objects", "moved")  # fmt: skip
MEAN_HEAD = ("method", "AUC", "best F1", "F1 at Otsu", "F1 as it comes", "κ as it comes")


def pairs(data: Path, notes: Notes, kept: Kept) -> list[str]:
    """Return the sections on two images."""
    found = {name: measured(data, OSCD, name, options, kept) for name, options in OPTICAL.items()}
    order = sorted(found, key=lambda name: -average(found[name], "auc"))
    worst = sorted(found["auto"], key=lambda one: one["f1"])
    return [
        "## Sentinel-2 pairs, OSCD (`diff`)",
        OSCD_ABOUT,
        "### auto, worst first",
        table(AUTO_HEAD, [*map(auto_row, worst), mean_of_auto(worst)]),
        "What was wrong:",
        listed(notes, {one["name"]: f"F1 {one['f1']:.2f}" for one in worst}),
        "### All methods",
        "Means over the eight pairs, best AUC first.",
        table(MEAN_HEAD, [mean_row(name, found[name]) for name in order]),
        PUBLISHED_ABOUT,
        table(("method, 24 pairs", "AUC", "best F1"), list(PUBLISHED)),
        *each_pair(found, order),
        "### Thresholds of the statistical methods",
        LEVELS_ABOUT,
        table(("method", *LEVELS), [level_row(name, found[name]) for name in CHI_SQUARE]),
        *others(data, notes, kept),
    ]


def others(data: Path, notes: Notes, kept: Kept) -> list[str]:
    """Return the sections on Landsat and SAR."""
    landsat = {name: measured(data, [TAIZHOU], name, options, kept)[0] for name, options in OPTICAL.items()}
    sar = {name: measured(data, SAR, name, options, kept) for name, options in RADAR.items()}
    ours = sorted([landsat["auto"], *sar["auto"]], key=lambda one: one["f1"])
    by_kappa = sorted(landsat, key=lambda name: -landsat[name]["kappa"])
    by_f1 = sorted(sar, key=lambda name: -average(sar[name], "f1"))
    return [
        "## Landsat and SAR pairs (`diff`)",
        OTHER_ABOUT,
        "### auto, worst of Landsat and SAR first",
        table(AUTO_HEAD, [auto_row(one) for one in ours]),
        "What was wrong:",
        listed(notes, {one["name"]: f"F1 {one['f1']:.2f}" for one in ours}),
        "### Taizhou, all methods",
        table(
            ("method", "AUC", "best F1", "κ at Otsu", "κ as it comes"),
            [(name, *three(landsat[name], ("auc", "best_f1", "kappa_otsu", "kappa"))) for name in by_kappa],
        ),
        "### SAR, all methods",
        table(
            ("method", *(f"{pair.name}, {what}" for what in ("best F1", "F1 as it comes") for pair in SAR),
             "mean F1 as it comes"),
            [
                (name, *(f"{one[what]:.3f}" for what in ("best_f1", "f1") for one in sar[name]),
                 f"{average(sar[name], 'f1'):.3f}")
                for name in by_f1
            ],
        ),
    ]  # fmt: skip


def measured(data: Path, cases: list, method: str, options: tuple[str, ...], kept: Kept) -> list[dict]:
    """Return the scores of a method on some pairs."""
    out = []
    for pair in cases:
        key = [*pair.options, *options]
        one = kept.get(f"{pair.name}-{method}", key, lambda pair=pair: scored(data, pair, options))
        if "refused" in one:
            sys.exit(f"{pair.name}, {method}: {one['refused']}")
        print(f"{pair.name}, {method}: AUC {one['auc']:.3f}, F1 {one['f1']:.3f}", flush=True)
        out.append(one)
    return out


def average(found: Iterable[dict], name: str) -> float:
    """Return the mean of a figure over pairs."""
    return mean(one[name] for one in found)


def three(one: dict, names: Iterable[str]) -> list[str]:
    """Return some figures with three digits; a dash where there is none."""
    return [f"{one[name]:.3f}" if one[name] == one[name] else "–" for name in names]


def auto_row(one: dict) -> tuple[str, ...]:
    """Return the line of a pair."""
    figures = three(one, ("f1", "precision", "recall", "best_f1", "auc", "kappa"))
    return one["name"], *figures, f"{one['share']:.1%}", str(one["objects"]), f"{one['moved_px']:.1f}"


def mean_of_auto(found: list[dict]) -> tuple[str, ...]:
    """Return the last line of the pairs; what is undefined where nothing is marked is left out."""
    means = (f"{average(found, name):.3f}" for name in ("best_f1", "auc", "kappa"))
    return "**mean**", f"{average(found, 'f1'):.3f}", "", "", *means, "", "", ""


def mean_row(name: str, found: list[dict]) -> tuple[str, ...]:
    """Return the means of a method."""
    return f"**{name}**" if name == "auto" else name, *(f"{average(found, figure):.3f}" for figure in FIGURES)


def each_pair(found: dict[str, list[dict]], order: list[str]) -> list[str]:
    """Return what every method does on every pair."""
    out = []
    for title, figure in (("AUC", "auc"), ("best F1", "best_f1"), ("F1 as it comes", "f1")):
        head = ("method", *(pair.name for pair in OSCD))
        rows = [(name, *(f"{one[figure]:.2f}" for one in found[name])) for name in order]
        out += [f"### Every pair, {title}", table(head, rows)]
    return out


def level_row(name: str, found: list[dict]) -> tuple[str, ...]:
    """Return the mean F1 of a method at every threshold."""
    return name, *(f"{mean(one['f1_at'][level] for one in found):.3f}" for level in LEVELS)


# ------------------------------------------------------------------------------------------------ series

ON_COASTS = (
    "Crops of 1.5 to 2.6 km, six months, surf and tide. Nothing was built, so every structure is a mistake. "
    "The bands have no names in the files (`--band-names`)."
)
ON_BURSTS = (
    "Bursts of 3 × 3 km, VV and VH, 21 dates from 2021 to 2025. Nothing is known to have been built, so "
    "every structure counts as a mistake here; 292324-IW2 has a dark patch on the last date."
)
SERIES_HEAD = ("site", "scenes used", "left out", "structures", "of them", "alarms", "s")


def series(
    data: Path, cases: list[Series], title: str, about: str, notes: Notes, kept: Kept
) -> tuple[str, ...]:
    """Return the section on one kind of series."""
    rows = [
        tuple(kept.get(case.name, case.options, lambda case=case: {"row": counted(data, case)})["row"])
        for case in cases
    ]
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


if __name__ == "__main__":
    main()
