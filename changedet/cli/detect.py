"""``changedet run`` and what goes with it: ``demo``, ``report``, ``sensitivity``, ``update``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from changedet.cli import _options as option
from changedet.cli._console import bars, command_line, emit, say, table, warn
from changedet.errors import InputError

if TYPE_CHECKING:
    from changedet.findings import Findings

MOST_ROWS = 40
_EMITTED = ("counts", "min_detectable_m2", "warnings", "timings")
_SHOWN = ("id", "kind", "status", "last_absent", "first_seen", "area_m2", "over", "confidence")

Finished = Annotated[Path, typer.Argument(metavar="OUT", help="Folder of an earlier run.")]
DemoOut = Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Folder for the results.")]
Gsd = Annotated[float, typer.Option("--gsd-m", metavar="M", help="Pixel size of the simulated scenes.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Of the simulation.")]


def run(
    scenes: option.Scenes,
    out: option.Out,
    *,
    site: option.SiteName = None,
    aoi: option.Aoi = None,
    since: option.Since = None,
    until: option.Until = None,
    bands: option.Bands = None,
    band_names: option.BandNames = None,
    date: option.Date = None,
    warp: option.Warp = False,
    stac_search: option.StacSearch = None,
    collection: option.Collection = None,
    min_area: option.MinArea = None,
    alpha: option.Alpha = None,
    plan: option.PlanFile = None,
    set_: option.Set = None,
    workers: option.Workers = None,
    scheduler: option.Scheduler = None,
    memory: option.Memory = None,
    strict: option.Strict = False,
    outputs: option.Outputs = None,
    compress: option.Compress = None,
    overwrite: option.Overwrite = False,
    json: option.Json = False,
    quiet: option.Quiet = False,
    verbose: option.Verbose = 0,
) -> None:
    """Find, date and describe structures in a series of scenes.

    Writes structures.gpkg, structures.geojson, structures.kmz, report.html, rasters, run.json and plan.toml.
    Every setting of plan.toml can be given with --set, or all of them with --plan.
    """
    given = locals()
    option.refuse_unavailable(stac_search=stac_search, collection=collection, scheduler=scheduler)
    from changedet.pipeline import ReadOptions
    from changedet.pipeline.run import run as work

    chosen = option.make_plan(given)
    how: dict[str, Any] = {
        "overwrite": overwrite,
        "strict": strict,
        "read_options": chosen.record(ReadOptions),
    }
    where, names = option.site_of(site), option.names_of(outputs)
    how |= {"site": where, "aoi": option.area_of(where, aoi), "outputs": names and tuple(names)}
    how |= {"notes": {"command": command_line()}}
    with bars() as progress:
        findings = work(scenes, out, chosen, progress=progress, **how)
    _tell(findings, out)


def _tell(findings: Findings, out: Path) -> None:
    """Print what was found."""
    from changedet.steps.report import headline, limit

    record = findings.record
    warn(record.get("warnings", ()))
    skipped = [s for s in record.get("scenes", ()) if not s.get("used", True)]
    if skipped:
        say(table(("skipped scene", "why"), ((s["id"], s.get("why")) for s in skipped)))
    say(headline(findings))
    if len(findings.structures):
        say(limit(record))
    rows = findings.structures[[c for c in _SHOWN if c in findings.structures]]
    if len(rows):
        say(table(rows.columns, rows.head(MOST_ROWS).itertuples(index=False)))
    if len(rows) > MOST_ROWS:
        say(f"and {len(rows) - MOST_ROWS} more")
    say(f"results in {out}; open {out / 'report.html'}")
    emit({"out": str(out), **{k: record[k] for k in _EMITTED if k in record}})


def demo(
    out: DemoOut = Path("changedet-demo"),
    *,
    gsd_m: Gsd = 3.0,
    seed: Seed = None,
    json: option.Json = False,
    quiet: option.Quiet = False,
    verbose: option.Verbose = 0,
) -> None:
    """Simulate a crossing, run on it, compare with the truth.

    The scene is the Tumen crossing, made by the computer; no network is needed.
    """
    from changedet.demo import demo as work

    settings = {} if seed is None else {"seed": seed}
    with bars() as progress:
        result = work(out, gsd_m=gsd_m, progress=progress, **settings)
    if result.table:
        say(table(result.table[0].keys(), (row.values() for row in result.table)))
    objects = result.scores["objects"]
    false = objects["n_found"] - objects["matched"]
    say(f"{objects['matched']} of {objects['n_truth']} true structures found, {false} found that are none")
    say(f"open {result.report}")
    emit({"out": str(out), "report": str(result.report), "table": result.table, "scores": result.scores})


def report(
    out: Finished,
    *,
    json: option.Json = False,
    quiet: option.Quiet = False,
    verbose: option.Verbose = 0,
) -> None:
    """Draw the report of an earlier run again."""
    from changedet.pipeline.run import redraw

    page = redraw(out)
    say(f"wrote {page}")
    emit({"report": str(page)})


def sensitivity(
    scenes: option.Scenes,
    out: option.Out,
    *,
    site: option.SiteName = None,
    aoi: option.Aoi = None,
    since: option.Since = None,
    until: option.Until = None,
    bands: option.Bands = None,
    band_names: option.BandNames = None,
    date: option.Date = None,
    warp: option.Warp = False,
    min_area: option.MinArea = None,
    alpha: option.Alpha = None,
    plan: option.PlanFile = None,
    set_: option.Set = None,
    workers: option.Workers = None,
    memory: option.Memory = None,
    outputs: option.Outputs = None,
    compress: option.Compress = None,
    overwrite: option.Overwrite = False,
    json: option.Json = False,
    quiet: option.Quiet = False,
    verbose: option.Verbose = 0,
) -> None:
    """Say which sizes of structure would have been found, and where.

    Puts structures into the scenes and runs the main job on them, in rounds (--set sensitivity.rounds=20).
    Writes recovery.csv, min_detectable.tif, recovery.png, run.json and plan.toml.
    """
    given = locals()
    from changedet.sensitivity import measure

    chosen, where, names = option.make_plan(given), option.site_of(site), option.names_of(outputs)
    how: dict[str, Any] = {"site": where, "aoi": option.area_of(where, aoi), "overwrite": overwrite}
    how |= {"outputs": names and tuple(names), "notes": {"command": command_line()}}
    with bars() as progress:
        result = measure(scenes, out, chosen, progress=progress, **how)
    record = result.record
    warn(record["warnings"])
    said = record["sensitivity"]
    say(
        table(
            (
                "over",
                "material",
                f"{said['target']:.0%} from m²",
                "90 % interval",
                "half from m²",
                "found",
                "why not",
            ),
            _sizes(said),
        )
    )
    say(f"{said['structures']} structures put in, in {said['rounds']} rounds; results in {out}")
    emit({"out": str(out), **{k: record[k] for k in ("sensitivity", *_EMITTED) if k in record}})


def _sizes(said: dict[str, Any]) -> Iterator[tuple[object, ...]]:
    """Yield rows of the smallest sizes: place, material, size, interval, found, why not."""
    for place, own in said["strata"].items():
        for material, one in {said["material"]: own, **own["other_materials"]}.items():
            low, high = (("?" if v is None else f"{v:g}") for v in (one["low_m2"], one["high_m2"]))
            found = f"{one['recovered']} of {one['n']}"
            yield place, material, one["m2"], f"{low} to {high}", one["half_m2"], found, one.get("why")


def update(
    out: Finished,
    scenes: option.Scenes,
    *,
    quiet: option.Quiet = False,
    verbose: option.Verbose = 0,
) -> None:
    """Add new scenes to an earlier run (not available yet)."""
    raise InputError("update is not available yet in this version; run on all scenes instead: changedet run")
