"""``changedet evaluate``: what was found against the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from changedet.cli import _options as option
from changedet.cli._console import emit, say, table

Found = Annotated[
    Path, typer.Argument(metavar="FOUND", help="GeoJSON, GeoPackage, or the folder of a run or diff.")
]
Truth = Annotated[Path, typer.Argument(metavar="TRUTH", help="The same, with what is truly there.")]
PixelM = Annotated[
    float | None,
    typer.Option(
        "--pixel-m",
        metavar="M",
        help="Pixel size; small objects then also match by nearness [from the run, where FOUND is one].",
    ),
]
Iou = Annotated[float, typer.Option("--iou", help="Smallest overlap that is a match.")]
Tolerance = Annotated[
    float | None,
    typer.Option("--tolerance-m", metavar="M", help="How near counts for small objects [two pixels]."),
]
SmallArea = Annotated[
    float | None, typer.Option("--small-area-m2", metavar="M2", help="What is small [25 pixels].")
]
AreaRatio = Annotated[
    float, typer.Option("--area-ratio-max", help="Largest ratio of areas of small objects that match.")
]
Decided = Annotated[bool, typer.Option("--decided", help="Leave out structures that are unresolved.")]


def evaluate(
    found: Found,
    truth: Truth,
    *,
    pixel_m: PixelM = None,
    iou: Iou = 0.25,
    tolerance_m: Tolerance = None,
    small_area_m2: SmallArea = None,
    area_ratio_max: AreaRatio = 4.0,
    decided: Decided = False,
    json: option.Json = False,
    quiet: option.Quiet = False,
    verbose: option.Verbose = 0,
) -> None:
    """Score what was found against the truth.

    Objects, pixels, dates, identities over time (SCOT) and calibration of confidence.
    """
    from changedet.metrics import Options
    from changedet.pipeline.evaluation import evaluate_files

    how = Options(
        iou=iou,
        pixel_m=pixel_m,
        small_area_m2=small_area_m2,
        tolerance_m=tolerance_m,
        area_ratio_max=area_ratio_max,
        count_unresolved=not decided,
    )
    scores = evaluate_files(found, truth, how)
    for part in ("objects", "pixels", "dates", "scot", "calibration"):
        if scores[part] is None:
            say(f"{part}: not computed: {scores['not_computed'].get(part, '')}")
        else:
            say(table((part, ""), _lines(scores[part])))
    emit(scores)


def _lines(scores: dict[str, Any]) -> list[tuple[str, object]]:
    """Return scores as lines: numbers as they are, names by their count and the first few."""
    out: list[tuple[str, object]] = []
    for name, value in scores.items():
        if isinstance(value, dict):
            out += [(f"{name}.{inner}", one) for inner, one in _lines(value)]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            out.append((name, len(value)))
        elif isinstance(value, list):
            shown = ", ".join(map(str, value[:6])) + (" …" if len(value) > 6 else "")
            out.append((name, f"{len(value)}: {shown}" if value else "0"))
        else:
            out.append((name, "undefined (0/0)" if value is None else value))
    return out
