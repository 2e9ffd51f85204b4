"""``changedet info``, ``align`` and ``normalize``: what the scenes are, how they lie, and in what light."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from changedet.cli import _options as option
from changedet.cli._console import bars, command_line, emit, say, table

Reference = Annotated[
    str | None,
    typer.Option(
        "--reference",
        metavar="median|first|last|ID|FILE",
        help="What to bring the scenes to [median of the stack; below four dates the most usable one].",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="translation|affine|local|auto",
        help="One shift a scene, or shifts that differ from place to place where held-out tie points ask for "
        "them [translation].",
    ),
]
Outputs = Annotated[
    list[str] | None,
    typer.Option(
        "--outputs",
        metavar="NAME,NAME",
        help="Only these files; `scenes` stands for all scenes. The table is always written. Repeatable.",
    ),
]
ApplyAbove = Annotated[
    float,
    typer.Option(
        "--apply-above",
        metavar="PX",
        help="Shortest shift that is applied; resampling for less blurs more than it mends.",
    ),
]


Method = Annotated[
    str | None,
    typer.Option(
        "--method",
        metavar="orthogonal|theil-sen|histogram",
        help="Line between two noisy sides, median of slopes, or the reference's histogram, which is for "
        "display only: it takes water level and snow for light [orthogonal].",
    ),
]
NoChange = Annotated[
    str | None,
    typer.Option(
        "--no-change",
        metavar="auto|stability|irmad",
        help="Pixels that count: steady over the dates, or alike in scene and reference by IR-MAD; auto "
        "takes the second, except for SAR of four dates or more [auto].",
    ),
]


def info(
    scenes: option.Scenes,
    *,
    band_names: option.BandNames = None,
    date: option.Date = None,
    json: option.Json = False,
    quiet: option.Quiet = False,
    verbose: option.Verbose = 0,
) -> None:
    """Show what was recognised in scenes, and why (-v).

    Sensor, date, bands, grid, mask, usable share, fitness.
    """
    from changedet.io.products import find_scenes
    from changedet.io.products import info as describe

    names = option.names_of(band_names)
    with bars() as progress:
        found = find_scenes(scenes, date=date or None, band_names=names)
        done = iter(range(1, len(found) + 1))
        described = describe(found, tick=lambda _: progress("describe", next(done), len(found)))
    say(_scenes_table(described["scenes"]))
    say(_grids_line(described))
    for one in described["scenes"] if verbose else ():
        say(f"{one['id']}: " + "; ".join(f"{k}: {v}" for k, v in one["why"].items()))
    emit(described)


def _scenes_table(scenes: list[dict[str, Any]]) -> Any:
    """Return the table of scenes."""
    columns = (
        "id",
        "sensor",
        "date",
        "bands",
        "rows×columns",
        "gsd m",
        "crs",
        "mask",
        "usable",
        "water",
        "fit",
    )
    rows = (
        (
            s["id"],
            s["sensor"],
            s["date"] or "unknown",
            " ".join(s["bands"]),
            "×".join(map(str, s["shape"])),
            s["gsd_m"] if s["crs"] else None,
            _short(s["crs"]),
            "yes" if s["mask"] else "no",
            _share(s["usable"]),
            _share(s["water"]),
            s["fit"],
        )
        for s in scenes
    )
    return table(columns, rows)


def _short(crs: str | None) -> str:
    """Return a CRS in one cell."""
    if crs is None:
        return "none"
    return crs if len(crs) < 20 else "custom"


def _share(value: float | None) -> str | None:
    """Return a share as per cent."""
    return None if value is None else f"{value:.0%}"


def _grids_line(described: dict[str, Any]) -> str:
    """Say how many grids and groups there are."""
    count, grids, groups = (len(described[k]) for k in ("scenes", "grids", "groups"))
    words = f"{count} scenes, {grids} grid{'s' * (grids != 1)}, {groups} group{'s' * (groups != 1)}"
    if groups > 1:
        words += "; scenes of different groups are not compared"
    return words + ("; --warp brings the grids together" if grids > groups else "")


def align(
    scenes: option.Scenes,
    out: option.Out,
    *,
    reference: Reference = None,
    model: Model = None,
    apply_above: ApplyAbove = 0.1,
    site: option.SiteName = None,
    aoi: option.Aoi = None,
    since: option.Since = None,
    until: option.Until = None,
    bands: option.Bands = None,
    band_names: option.BandNames = None,
    date: option.Date = None,
    warp: option.Warp = False,
    plan: option.PlanFile = None,
    set_: option.Set = None,
    outputs: Outputs = None,
    compress: option.Compress = None,
    overwrite: option.Overwrite = False,
    json: option.Json = False,
    quiet: option.Quiet = False,
    verbose: option.Verbose = 0,
) -> None:
    """Co-register scenes, with quality figures.

    Writes the shifted scenes (<id>_aligned.tif), shifts.csv and shifts.png. Two images need no dates; the
    first one given is the reference then.

    A shift is (dy, dx) in pixels, to be applied to the scene. One that does not improve the likeness of
    windows held out of its estimate is refused, and the scene is left as it is. With --outputs shifts.csv
    only a sample of the pixels is read.
    """
    given = locals()
    from changedet.pipeline.coregister import coregister

    chosen = option.make_plan(given)
    changes: dict[str, Any] = {"align.apply_above_px": apply_above}
    changes |= {"align.reference": reference} if reference is not None else {}
    changes |= {"align.model": model} if model is not None else {}
    with bars() as progress:
        found = coregister(
            scenes,
            out,
            chosen.with_values(changes),
            aoi=option.area_of(site, aoi),
            outputs=option.names_of(outputs),
            overwrite=overwrite,
            progress=progress,
        )
    say(table(found.rows[0].keys(), (row.values() for row in found.rows)))
    say(f"wrote {len(found.files)} files in {out}")
    emit({"command": command_line(), "shifts": found.rows, "files": found.files})


def normalize(
    scenes: option.Scenes,
    out: option.Out,
    *,
    reference: Reference = None,
    method: Method = None,
    no_change: NoChange = None,
    site: option.SiteName = None,
    aoi: option.Aoi = None,
    since: option.Since = None,
    until: option.Until = None,
    bands: option.Bands = None,
    band_names: option.BandNames = None,
    date: option.Date = None,
    warp: option.Warp = False,
    plan: option.PlanFile = None,
    set_: option.Set = None,
    outputs: Outputs = None,
    compress: option.Compress = None,
    overwrite: option.Overwrite = False,
    json: option.Json = False,
    quiet: option.Quiet = False,
    verbose: option.Verbose = 0,
) -> None:
    """Bring scenes to the radiometry of one reference, from pixels that did not change.

    Writes the normalized scenes (<id>_normalized.tif), gains.csv and gains.png. Align the scenes first. Two
    images need no dates; the first one given is the reference then.

    reference = gain * scene + offset, band by band. A line that does not bring held-out pixels closer to the
    reference is refused, and the scene is left as it is. SAR power is only multiplied.
    """
    given = locals()
    from changedet.pipeline.radiometry import radiometry

    chosen = option.make_plan(given | {"method": None})
    changes: dict[str, Any] = {}
    said = plan is not None or any("normalize.no_change" in text for text in set_ or ())
    if no_change is not None or not said:
        changes["normalize.no_change"] = no_change or "auto"
    changes |= {"normalize.reference": reference} if reference is not None else {}
    changes |= {"normalize.method": method} if method is not None else {}
    with bars() as progress:
        found = radiometry(
            scenes,
            out,
            chosen.with_values(changes),
            aoi=option.area_of(site, aoi),
            outputs=option.names_of(outputs),
            overwrite=overwrite,
            progress=progress,
        )
    say(table(found.rows[0].keys(), (row.values() for row in found.rows)))
    say(f"wrote {len(found.files)} files in {out}")
    emit({"command": command_line(), "gains": found.rows, "files": found.files})
