"""The page of the accuracy on simulated scenes, from its scores. See ``make_accuracy.py``."""

from pathlib import Path
from statistics import mean

import accuracy_worst
from accuracy_scenes import BASELINE_PX, HARD

import changedet as cd

MADE = "Made by `python docs/make_accuracy.py`, which says how; not edited by hand."
ABOUT = f"""The scenes come from `changedet.simulate`: river crossings rendered from causes, varied from seed
to seed. They are not real imagery; [real.md](real.md) has what happened on that: series of places where
nothing was built, and twelve real pairs with truth, on which every method of `diff` stands beside published
figures and each ingredient of `auto` was taken away in turn.

- *F1* counts objects, one to one, by an overlap of at least a quarter; small objects also by position.
  *Decided* leaves out what the run itself calls unresolved.
- *Dates*: share of matched objects whose true date lies in `(last_absent, first_seen]`.
- *False, quiet*: structures reported in a stack in which nothing was built, a scene.
- In brackets: what is aimed at; in bold: what does not reach it.
- *Hard* scenes break what the ordinary ones flatter: no pixel like another, land that changes for its own
  reasons, banks and bars that move, traffic that stays, geometry that differs, masks wrong in both
  directions, few and uneven dates.
- *Notebook*: median of the first third of the dates against that of the last third, change vector, Otsu,
  polygons of at least {BASELINE_PX} pixels."""
ENDS = """An interval ends well where both `last_absent` and `first_seen` are dates on which more than half of
the true footprint was usable, with no such date between them. Usable is what the simulation knows to be so:
not flagged by the delivered mask, and truly free of cloud and its shadow; *by masks* takes the delivered
masks at their word, thin cloud that they miss included. Ice and snow hide nothing here: a frozen date between
the ends counts against the run, and how many intervals fail by such dates alone is said. *Unresolved, true*
is the share of all true objects that only an unresolved structure matches; *unresolved, quiet* the most of
them in any one scene in which nothing was built."""
WANTED = {"submetre": 0.85, "planet": 0.92, "sentinel-2": 0.92}
"""Mean F1 that is aimed at on ordinary scenes, and other aims: (ordinary, hard)."""
WANTED_HARD, COVER, FALSE = 0.8, 0.95, (0.1, 0.25)
CONSECUTIVE, UNRESOLVED, UNRESOLVED_QUIET = 0.9, 0.15, 2


def page(scores: list[dict], picture: Path | None = None) -> str:
    """Return the page; the picture of the gravest mistakes is drawn where a place for it is given."""
    sensors = list(dict.fromkeys(one["sensor"] for one in scores))
    seeds = sorted({one["seed"] for one in scores})
    parts = [
        "# Accuracy on simulated scenes",
        f"{MADE} changedet {cd.__version__}, code {scores[0]['key']['code']}, seeds "
        f"{', '.join(map(str, seeds))}.",
        ABOUT,
        summary(scores, sensors),
        "## Ends of intervals, and what is left unresolved",
        ENDS,
        ends(scores, sensors),
        *([] if picture is None else accuracy_worst.section(scores, picture)),
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
        false, f1 = mean(one["false"] for one in quiet), mean(o["f1"] for o in ours)
        rows.append((
            sensor, f"{built[0]['gsd_m']:g}", size(built),
            against(f"{f1:.2f}", f"≥ {aim}", f1 >= aim),
            f"{mean(o['decided']['f1'] or 0 for o in ours):.2f}",
            ratio(sum(o["matched"] for o in ours), sum(o["n_found"] for o in ours)),
            ratio(sum(o["matched"] for o in ours), sum(o["n_truth"] for o in ours)),
            share(sum(o["covered"] for o in ours), sum(o["n_dated"] for o in ours), at_least=COVER),
            days([o["width_days"] for o in ours]),
            against(f"{false:.1f}", f"≤ {FALSE[hard]}", false <= FALSE[hard]),
            f"{mean(one['baseline']['f1'] for one in built):.2f}",
            f"{mean(one['baseline_false'] for one in quiet):.0f}",
            f"{mean(one['seconds'] for one in built + quiet):.0f}",
        ))  # fmt: skip
    return f"{table(head, rows)}\n\n{quiet_in_all(scores)}"


def size(built: list[dict]) -> str:
    """Return dates × rows × columns of scenes; hard ones differ in their number of dates."""
    counts = sorted({one["n_dates"] for one in built})
    dates = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return " × ".join((dates, *map(str, built[0]["shape_px"])))


def quiet_in_all(scores: list[dict]) -> str:
    """Say how many false structures a quiet scene has over all kinds of imagery."""
    words = []
    for hard, name in enumerate(("ordinary", "hard")):
        quiet = [s for s in scores if s["works"] == "quiet" and s["sensor"].endswith(HARD) == bool(hard)]
        if quiet:
            false = mean(one["false"] for one in quiet)
            how = against(f"{false:.2f}", f"≤ {FALSE[hard]}", false <= FALSE[hard])
            words.append(f"{how} over {len(quiet)} {name} scenes")
    return f"False structures a quiet scene: {', '.join(words)}."


def ends(scores: list[dict], sensors: list[str]) -> str:
    """Return the table of the ends of intervals and of what is left unresolved."""
    head = ("imagery", "ends well", "by masks", "an end not usable", "usable date between", "frozen only",
            "an end not stated", "unresolved, true", "unresolved, quiet")  # fmt: skip
    rows = []
    for sensor in sensors:
        built, quiet = of(scores, sensor, "built"), of(scores, sensor, "quiet")
        sums = {name: sum(one["ends"][name] for one in built) for name in built[0]["ends"]}
        true = sum(one["ours"]["n_truth"] for one in built)
        most = max((one["unresolved"] for one in quiet), default=0)
        rows.append((
            sensor,
            share(sums["consecutive"], sums["n"], at_least=CONSECUTIVE),
            share(sums["by_mask"], sums["n"]),
            *(str(sums[name]) for name in ("end_unusable", "skipped", "skipped_winter", "open")),
            share(sum(one["unresolved_true"] for one in built), true, at_most=UNRESOLVED),
            against(str(most), f"≤ {UNRESOLVED_QUIET}", most <= UNRESOLVED_QUIET),
        ))  # fmt: skip
    return table(head, rows)


def detail(scores: list[dict], sensor: str) -> str:
    """Return the table of the seeds of one kind of imagery."""
    head = ("seed", "F1", "true", "found", "matched", "dates", "end well", "unresolved, true", "false, quiet",
            "unresolved, quiet", "notebook F1")  # fmt: skip
    quiet = {one["seed"]: one for one in of(scores, sensor, "quiet")}
    rows = [
        (
            str(one["seed"]), f"{one['ours']['f1']:.2f}", str(one["ours"]["n_truth"]),
            str(one["ours"]["n_found"]), str(one["ours"]["matched"]),
            f"{one['ours']['covered']} of {one['ours']['n_dated']}",
            f"{one['ends']['consecutive']} of {one['ends']['n']}", str(one["unresolved_true"]),
            str(quiet[one["seed"]]["false"]), str(quiet[one["seed"]]["unresolved"]),
            f"{one['baseline']['f1']:.2f}",
        )
        for one in of(scores, sensor, "built")
    ]  # fmt: skip
    return f"### {sensor}\n\n{table(head, rows)}"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows))


def against(value: str, aim: str, reached: bool) -> str:
    """Return a value with its aim in brackets, in bold where the aim is not reached."""
    return f"{value} ({aim})" if reached else f"**{value}** ({aim})"


def ratio(part: int, whole: int) -> str:
    """Return a ratio, a dash where there is none."""
    return f"{part / whole:.2f}" if whole else "–"


def share(part: int, whole: int, *, at_least: float | None = None, at_most: float | None = None) -> str:
    """Return a share as per cent with its counts and what is aimed at, a dash where there is none."""
    if not whole:
        return "–"
    value = f"{part / whole:.0%} ({part} of {whole})"
    if at_least is not None:
        return against(value, f"≥ {at_least:.0%}", part / whole >= at_least)
    return value if at_most is None else against(value, f"≤ {at_most:.0%}", part / whole <= at_most)


def days(widths: list[float | None]) -> str:
    """Return the mean of the seeds' median widths, a dash where there is none."""
    known = [width for width in widths if width is not None]
    return f"{mean(known):.0f}" if known else "–"
