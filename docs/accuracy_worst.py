"""The ten gravest mistakes in hard scenes: a table of facts and a picture. See ``make_accuracy.py``."""

import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from accuracy_cases import chips_of

SHOWN = 10
MOST_BYTES = 300_000
ABOUT = f"""The {SHOWN} gravest mistakes in hard scenes, half of them misses and half false where there are
as many, the gravest of each kind of imagery before the second of any: of the misses the plainest objects
(contrast times the root of the pixels and of the usable dates on the rarer side), of the false the surest,
each place once. *Contrast* is a difference of reflectance: of a missed object its own, known from the
simulation; of a false structure what changed there. *Dates*: usable ones (given and truly clear over most of
it) without it, and with it, of which in ice or snow. The last column holds facts that the command gathers,
not a judgment of why.

![Before and after of each, outline of the true object or of the false one](PICTURE)"""


TWIN_PX = 5
"""False structures this close in the built and the quiet scene of a seed are one mistake."""


def gravest(scores: list[dict], count: int = SHOWN) -> list[dict[str, Any]]:
    """Return the gravest mistakes: half of them misses, half false, as far as there are as many."""
    every = [case for one in scores for case in one.get("mistakes", ())]
    every = sorted(every, key=lambda case: -case["gravity"])
    kinds = {
        what: by_turns(distinct([case for case in every if case["what"] == what]))
        for what in ("missed", "false")
    }
    half = {what: count // 2 for what in kinds}
    for what, other in (("missed", "false"), ("false", "missed")):
        half[what] += max(count // 2 - len(kinds[other]), 0)
    return [case for what, cases in kinds.items() for case in cases[: half[what]]]


def distinct(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return cases without those that repeat one of the other scene of the same ground."""
    kept: list[dict[str, Any]] = []
    for case in cases:
        twins = (c for c in kept if (c["sensor"], c["seed"]) == (case["sensor"], case["seed"]))
        others = (c["at_px"] for c in twins if c["works"] != case["works"])
        if all(np.hypot(*np.subtract(at, case["at_px"])) > TWIN_PX for at in others):
            kept.append(case)
    return kept


def by_turns(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return cases, the gravest of each kind of imagery first, then the second of each, and so on.

    Small pixels are many, so that contrast times their root cannot be compared between kinds of imagery.
    """
    seen: Counter[str] = Counter()
    placed = []
    for case in cases:
        placed.append((seen[case["sensor"]], case))
        seen[case["sensor"]] += 1
    return [case for _, case in sorted(placed, key=lambda pair: pair[0])]


def section(scores: list[dict], picture: Path) -> list[str]:
    """Return the section on the gravest mistakes, and draw their picture; nothing where there are none."""
    cases = gravest(scores)
    if not cases:
        return []
    picture.write_bytes(drawn(cases))
    head = ("", "what", "scene", "kind", "over", "pixels", "contrast", "dates", "what is known")
    rows = [(str(number), *row(case)) for number, case in enumerate(cases, start=1)]
    lines = [f"| {' | '.join(line)} |" for line in (head, ("---",) * len(head), *rows)]
    counts = {
        what: sum(one[f"n_{what}"] for one in scores if "mistakes" in one) for what in ("missed", "false")
    }
    total = f"In all {counts['missed']} true objects were missed, {counts['false']} structures were false."
    about = f"{ABOUT.replace('PICTURE', picture.name)}\n\n{total}"
    return ["## The gravest mistakes in hard scenes", about, "\n".join(lines)]


def row(case: dict[str, Any]) -> tuple[str, ...]:
    """Return a line of the table, without its number."""
    return (
        case["what"],
        place(case),
        f"{case['kind']} {case['id']}",
        case["over"],
        f"{case['px']:.1f}",
        "–" if case["contrast"] is None or np.isnan(case["contrast"]) else f"{case['contrast']:.3f}",
        f"{case['before']}, {case['after']}" + (f" ({case['winter']} winter)" if case["winter"] else ""),
        case["said"],
    )


def place(case: dict[str, Any]) -> str:
    """Say which scene a mistake is in."""
    return f"{case['sensor'].removesuffix(' hard')} {case['seed']} {case['works']}"


def drawn(cases: list[dict[str, Any]]) -> bytes:
    """Draw before and after of each case, two cases a row; the bytes of a PNG."""
    from matplotlib.figure import Figure
    from PIL import Image

    rows = -(-len(cases) // 2)
    figure = Figure(figsize=(8.4, 2.25 * rows), dpi=80)
    axes = figure.subplots(rows, 4, squeeze=False)
    for ax in axes.ravel():
        ax.set_axis_off()
    for number, case in enumerate(cases):
        for half, (image, when) in enumerate(zip(chips_of(case), ("before", "after"), strict=True)):
            ax = axes[number // 2, 2 * (number % 2) + half]
            ax.imshow(image, extent=(0, image.shape[1], image.shape[0], 0), interpolation="nearest")
            for ring in case["outline"]:
                ax.plot(*zip(*ring, strict=True), color="yellow", linewidth=0.9)
            ax.set_xlim(0, image.shape[1])
            ax.set_ylim(image.shape[0], 0)
            words = f"{number + 1} {case['what']}" if half == 0 else place(case)
            ax.set_title(f"{words}: {when}", fontsize=7)
    figure.tight_layout(pad=0.4)
    whole = io.BytesIO()
    figure.savefig(whole, format="png")
    for colors in (256, 64, 16):
        small = io.BytesIO()
        Image.open(whole).convert("RGB").quantize(colors).save(small, format="png", optimize=True)
        if small.tell() <= MOST_BYTES:
            break
    return small.getvalue()
