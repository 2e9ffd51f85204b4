"""The page of ``make_peers.py``."""

from statistics import mean

from accuracy_page import days, ratio, share, table
from accuracy_scenes import WORKS
from peers_inner import JOBS
from peers_objects import JOINS, LEAST_PX

OURS, NOTEBOOK = "changedet", "notebook"
Scores = dict[tuple[str, str, str, str], list[dict]]
MADE = "Made by `python docs/make_peers.py`, which says how; not edited by hand."
ABOUT = f"""All methods get the same stacks. Simulated ones come from `changedet.simulate`, one in which a
crossing is built and the same without works, as in [accuracy.md](accuracy.md). In the real ones, single dates
of Sentinel-2 (hills in Romania) and Landsat 8 (coasts) with clouds masked as their own masks say, structures
of 2 to 6 pixels' side were put (`docs/peers_injected.py`); *quiet* are the same scenes without them, where
nothing is known to have been built, though forest was cut in Romania.

- **changedet** does the whole job: on simulated scenes `changedet run` on files, alignment, report and all;
  on real ones `changedet.detect`. Everything by default.
- **notebook**: medians of the first and the last third of the dates, change vector, Otsu; it gives no dates.
- **COLD** (pyxccd) gets all bands; **EWMA**, **CuSum**, **MoSum** (nrt) and **BFAST Monitor** (bfast, OpenCL
  on the processor) work on one series, here the mean of the visible bands. The monitors learn from the first
  half of the dates (a third cannot carry the harmonics and the trend of their defaults), with *one harmonic*
  and *no season*, both without a trend, from the first third.
- Breaks become objects: pixels with a confirmed break that lies after the history (for COLD: after the first
  third of the dates), joined with the 8 neighbors *by place*, or *by place and date* with those whose breaks
  are a date apart at most (by place alone most of a scene can become one object); {LEAST_PX} pixels or more.
  The interval goes from the last date before the first quartile of the pixels' break dates on which half the
  object was usable, to their third quartile.
- Peers appear as documented, on the scenes as delivered, and with the best of some other obvious settings:
  COLD confirming on 3 dates, not 6; monitors with a plainer model, and with a stricter level besides; all of
  these on scenes *prepared* for them: aligned and normalized by changedet's own steps, and without those that
  are twice as bright as usual (snow, haze). Which, and how objects are joined, is chosen in hindsight, by
  the truth, which flatters the peer; changedet has one setting. BFAST cannot do with fewer than three
  harmonics on OpenCL, and takes a millisecond a pixel without.
- *F1* is the mean over scenes, *precision* and *recall* count all objects, all as in accuracy.md. *Dates*:
  share of matched objects whose date lies in the interval. A monitor dates when it is sure, not when the
  change began. *False, quiet*: objects a scene in which nothing was built.
- *s* is seconds a scene. Those of the peers are their work alone, arrays in memory, compiled beforehand;
  those of changedet's `run` include starting, reading, aligning and writing. COLD's of pixels with too few
  clear dates is that of a hundred of them, times their number.

What to keep in mind: the peers were made for dense series and large changes, forest above all, and these
series have 7 to 30 dates but in Romania. The simulated scenes are ours. In them the ground moves by half a
pixel, water rises and falls, ice and snow come; a method that looks at one pixel at a time is not told."""


def page(scores: Scores, head: str, missing: dict[str, str], *, real: bool) -> str:
    """Return the page.

    Parameters
    ----------
    scores : by group, method, setting and works
    head : what was measured
    missing : peers that are not installed, and why
    real : the real stacks were at hand
    """
    groups = list(dict.fromkeys(group for group, *_ in scores))
    parts = [
        "# Beside others",
        f"{MADE} {head}",
        ABOUT,
        *(["Not installed:", "\n".join(f"- {k}: {why}" for k, why in missing.items())] if missing else []),
        *([] if real else ["The real stacks were not at hand."]),
        "## F1, each peer with its best setting",
        overview(scores, groups),
        "## False objects a scene where nothing was built, same settings",
        overview(scores, groups, false=True),
    ]
    for group in groups:
        parts += [f"## {group}", detail(scores, group), *notes(scores, group)]
    return "\n\n".join(parts) + "\n"


def settings_of(scores: Scores, group: str) -> dict[str, list[str]]:
    """Return the settings of each method that are shown: as documented, and the best of the others."""
    out: dict[str, list[str]] = {OURS: [""], NOTEBOOK: [""]}
    for method, settings in JOBS.items():
        first, *others = ([f"{words}{how}" for how in JOINS] for words in settings)
        out[method] = [
            max(some, key=lambda words, method=method: merit(scores, group, method, words))
            for some in (first, [words for both in others for words in both])
        ]
    return out


def merit(scores: Scores, group: str, method: str, words: str) -> tuple[float, float]:
    """Return by which settings are ordered: F1, then few false objects."""
    built, quiet = (good(scores.get((group, method, words, works), [])) for works in WORKS)
    return (mean(o["f1"] for o in built) if built else -1.0, -sum(o["false"] for o in quiet))


def good(some: list[dict]) -> list[dict]:
    """Leave out what did not run."""
    return [one for one in some if "error" not in one]


def overview(scores: Scores, groups: list[str], *, false: bool = False) -> str:
    """Return one figure of every method in every group."""
    rows = []
    for method in (OURS, NOTEBOOK, *JOBS):
        row = [f"**{method}**" if method == OURS else method]
        for group in groups:
            words = max(settings_of(scores, group)[method], key=lambda w: merit(scores, group, method, w))
            some = good(scores[group, method, words, "quiet" if false else "built"])
            figure = ("false", 1) if false else ("f1", 2)
            row.append(mean_text(some, *figure) if some else "–")
        rows.append(tuple(row))
    return table(("", *groups), rows)


def mean_text(some: list[dict], name: str, digits: int) -> str:
    """Return a mean as text."""
    return f"{mean(one[name] for one in some):.{digits}f}"


def detail(scores: Scores, group: str) -> str:
    """Return the table of a group."""
    head = ("method", "setting", "F1", "precision", "recall", "true", "found", "dates", "interval, days",
            "false, quiet", "s", "µs a pixel")  # fmt: skip
    rows = []
    for method, settings in settings_of(scores, group).items():
        for words in settings:
            built, quiet = (good(scores[group, method, words, works]) for works in WORKS)
            if not built or not quiet:
                rows.append((method, words, "did not run", *("",) * 9))
                continue
            matched, truths, found = (sum(o[k] for o in built) for k in ("matched", "n_truth", "n_found"))
            dated = [o for o in built if o.get("n_dated")]
            both = built + quiet
            rows.append((
                method, words, mean_text(built, "f1", 2), ratio(matched, found), ratio(matched, truths),
                str(truths), str(found),
                share(sum(o["covered"] for o in dated), sum(o["n_dated"] for o in dated)),
                days([o["width_days"] for o in dated]),
                mean_text(quiet, "false", 1), mean_text(both, "seconds", 1),
                f"{1e6 * sum(o['seconds'] for o in both) / sum(o['pixels'] for o in both):.1f}",
            ))  # fmt: skip
    return table(head, rows)


def notes(scores: Scores, group: str) -> list[str]:
    """Return what the methods said of themselves, and why some did not run."""
    said: dict[str, None] = {}
    for method, settings in settings_of(scores, group).items():
        for words in settings:
            some = [o for works in WORKS for o in scores[group, method, words, works]]
            told = [o.get("error") or o.get("note") for o in some]
            told = [t for t in dict.fromkeys(told) if t]
            if told:
                more = f", and {len(told) - 1} more alike" if len(told) > 1 else ""
                said[f"- {method}{', ' + words if words else ''}: {told[0]}{more}"] = None
    return ["\n".join(said)] if said else []
