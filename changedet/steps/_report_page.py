"""The report's page: everything the templates draw, as plain records; the templates escape all of it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from changedet.columns import KINDS
from changedet.grid import Grid
from changedet.steps import _report_draw as draw
from changedet.steps import _report_facts as facts
from changedet.steps import _report_image as image
from changedet.steps import _report_text as text
from changedet.steps._report_text import Row

if TYPE_CHECKING:
    import jinja2
    import markupsafe
    import xarray as xr
    from shapely.geometry.base import BaseGeometry

    from changedet.findings import Findings

MOST_ALARMS = 500
"""Alarms drawn and listed one by one; the strongest evidence first. The rest is counted."""
MOST_BARS = 300
"""Structures in the timeline; the most confident first."""
MOST_SERIES = 600
"""Structures whose every date is drawn and listed; the most confident first."""


@cache
def environment() -> jinja2.Environment:
    """Return the template environment: everything is escaped, an unknown name is an error."""
    from importlib.resources import files

    import jinja2

    root = files("changedet") / "render"
    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (root / name).read_text("utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["days"] = unbroken_days
    return made


def unbroken_days(words: str) -> markupsafe.Markup:
    """Escape a text and keep each date in it on one line."""
    import markupsafe

    kept = re.sub(r"\d{4}-\d\d-\d\d", r'<span class="day">\g<0></span>', str(markupsafe.escape(words)))
    return markupsafe.Markup(kept)


def asset(name: str) -> str:
    """Read a style sheet or a script of the page."""
    from importlib.resources import files

    return (files("changedet") / "render" / name).read_text("utf-8").strip()


def policy(style: str, script: str) -> str:
    """Return the content security policy: nothing is fetched, and only our own style and script run."""
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in (style, script)]
    return (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
        f"style-src 'sha256-{hashes[0]}'; script-src 'sha256-{hashes[1]}'"
    )


@dataclass(frozen=True)
class Source:
    """Findings as the page needs them: rows, geometries in the grid's CRS, the time axis.

    Parameters
    ----------
    findings : what was found
    grid : its grid
    rows : structures, in order (number = position + 1)
    geometries : their outlines, in the grid's CRS
    observed : observations by structure id
    scenes : records of the scenes
    calendar : time axis of all charts
    """

    findings: Findings
    grid: Grid
    rows: list[Row]
    geometries: list[BaseGeometry | None]
    observed: dict[str, list[Row]]
    scenes: list[Row]
    calendar: draw.Calendar

    @property
    def record(self) -> dict[str, Any]:
        """What becomes ``run.json``."""
        return self.findings.record

    @property
    def by_confidence(self) -> list[int]:
        """Structure numbers, the most confident first."""
        value = [float(r.get("confidence") or 0.0) for r in self.rows]
        return [int(i) + 1 for i in np.argsort(-np.array(value), kind="stable")]


def source_of(findings: Findings, stack: xr.Dataset | None = None) -> Source:
    """Gather what the page and the KMZ draw from."""
    grid = Grid.of(findings.labels)
    frame = draw.on_grid(findings.structures, grid)
    rows = text.rows_of(findings.structures.drop(columns="geometry", errors="ignore"))
    geometries = list(frame.geometry) if rows and "geometry" in frame.columns else [None] * len(rows)
    observed: dict[str, list[Row]] = {}
    for o in text.rows_of(findings.observations):
        observed.setdefault(str(o.get("id")), []).append(o)
    scenes = scenes_of(findings, stack)
    dates = [s.get("date") for s in scenes]
    dates += [r.get(c) for r in rows for c in ("last_absent", "first_seen", "last_seen", "confirmed")]
    dates += [o.get("date") for many in observed.values() for o in many]
    return Source(findings, grid, rows, geometries, observed, scenes, draw.Calendar.spanning(dates))


def scenes_of(findings: Findings, stack: xr.Dataset | None) -> list[Row]:
    """Return the scenes' records; where the run left none, what the stack or the observations tell."""
    recorded = findings.record.get("scenes")
    if recorded:
        return [dict(s) for s in recorded]
    if stack is not None:
        return [{"id": name, "date": date} for date, name in image.scene_names(stack)]
    seen = {(text.day(o.get("date")), str(o.get("scene"))) for o in text.rows_of(findings.observations)}
    return [{"id": name, "date": date} for date, name in sorted(seen)]


def cut_chips(source: Source, stack: xr.Dataset | None, most: int) -> dict[int, list[image.Chip]]:
    """Cut chips for the most confident structures, at most ``most`` in all."""
    if stack is None:
        return {}
    Grid.of(stack).require_same(source.grid, name="the stack", reference="the findings")
    positions = image.scene_positions(stack)
    windows, wanted, left = {}, {}, most
    for number in source.by_confidence:
        geometry = source.geometries[number - 1]
        if geometry is None or geometry.is_empty:
            continue
        row = source.rows[number - 1]
        roles = image.roles(row, source.observed.get(str(row.get("id")), []), positions)
        if len(roles) > left:
            break
        left -= len(roles)
        windows[number] = image.window_around(draw.to_pixels(geometry, source.grid), source.grid.shape)
        wanted[number] = roles
    return image.chips_of(stack, windows, wanted)


def page(findings: Findings, stack: xr.Dataset | None, site: Any, max_chips: int) -> str:
    """Draw the whole page."""
    source = source_of(findings, stack)
    style, script = asset("report.css"), asset("report.js")
    chips = cut_chips(source, stack, max_chips)
    title = text.title_of(site)
    context = {
        "title": f"Structures found at {title}" if title else "Structures found",
        "headline": text.headline(findings, site),
        "policy": policy(style, script),
        "style": style,
        "script": script,
        "banners": facts.banners(source.record),
        "keys": facts.key_figures(source.record, source.rows, source.scenes, findings),
        "legend": legend(source.rows),
        "map": map_of(source),
        "timeline": timeline(source),
        "progress": progress(source),
        "table": [facts.table_row(n, r) for n, r in enumerate(source.rows, start=1)],
        "dossiers": dossiers(source, chips),
        "chips_note": chips_note(source, chips, stack),
        "scenes": facts.scene_rows(source.scenes),
        "alarms": facts.alarm_table(findings.alarms, MOST_ALARMS),
        "limits": limits(source),
        "tests": facts.self_tests(source.record),
        "provenance": facts.provenance(source.record),
        "looks": [{"index": i, "kind": k, "look": draw.LOOKS[k]} for i, k in enumerate(KINDS)],
    }
    return environment().get_template("report.html.j2").render(context)


def legend(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """List the kinds that occur, with their counts and looks."""
    counts = Counter(row.get("kind") or "unknown" for row in rows)
    order = [*KINDS, *(k for k in counts if k not in KINDS)]
    return [
        {"kind": k, "count": counts[k], "look": draw.look(k), "index": draw.kind_index(k)}
        for k in order
        if counts[k]
    ]


def map_of(source: Source) -> dict[str, Any]:
    """Lay out the overview: both pictures, outlines, alarms, axes and labels in picture pixels."""
    found = source.findings
    view = image.overview(found.composite_before, found.composite_after)
    sheet = draw.Sheet(source.grid, view.factor, view.before.width, view.before.height)
    placed = [None if g is None else sheet.place(g) for g in source.geometries]
    shapes = [(n, g) for n, g in enumerate(placed, start=1) if g is not None]
    # Sized for a phone, where the picture is 360 px wide: numbers that are apart there are apart anywhere.
    font = max(sheet.width, 1) / 32
    return {
        "view": view,
        "sheet": sheet,
        "font": font,
        "grid": describe_grid(source.grid),
        "north": draw.north_deg(source.grid),
        "outlines": [outline(n, source.rows[n - 1], g) for n, g in shapes],
        "labels": draw.label_places(shapes, sheet.width, sheet.height, font=font),
        "alarms": alarm_outlines(source, sheet),
        "axes": axis_lines(source, sheet),
        "pixelated": max(sheet.width, sheet.height) < 700,
    }


def outline(number: int, row: Row, geometry: BaseGeometry) -> dict[str, Any]:
    """Describe one outline of the map."""
    name = f"{number}: {facts.name_of(row)}"
    return {
        "number": number,
        "d": draw.svg_path(geometry),
        "look": draw.look(row.get("kind")),
        "unresolved": row.get("status") == "unresolved",
        "title": f"{name}, {row.get('status') or 'status not known'}; appeared {text.interval(row)}",
    }


def alarm_outlines(source: Source, sheet: draw.Sheet) -> list[dict[str, str]]:
    """Describe the outlines of rejected candidates."""
    alarms = draw.on_grid(facts.strongest(source.findings.alarms, MOST_ALARMS), source.grid)
    if alarms is None or not len(alarms) or "geometry" not in alarms.columns:
        return []
    pairs = zip(alarms.geometry, alarms["reason"], strict=True)
    placed = [(sheet.place(g), r) for g, r in pairs if g is not None]
    return [{"d": draw.svg_path(g), "title": f"rejected: {r}"} for g, r in placed]


def axis_lines(source: Source, sheet: draw.Sheet) -> list[dict[str, str]]:
    """Describe the bridge axes."""
    axes = draw.on_grid(source.findings.axes, source.grid)
    if axes is None or not len(axes) or "geometry" not in axes.columns:
        return []
    pairs = zip(axes.geometry, axes["axis"], strict=True)
    return [{"d": draw.svg_path(sheet.place(g)), "title": f"axis {a}"} for g, a in pairs if g is not None]


def describe_grid(grid: Grid) -> str:
    """Say on which grid the pictures are."""
    rows, columns = grid.shape
    if not grid.georeferenced:
        return f"{columns} × {rows} pixels without a map position"
    crs = str(grid.crs)
    name = crs if len(crs) < 40 else "a CRS without an EPSG code"
    return f"{columns} × {rows} pixels of {text.significant(grid.gsd_m)} m, {name}"


def timeline(source: Source) -> dict[str, Any]:
    """Lay out one bar a structure, in order of appearance."""
    shown = sorted(
        source.by_confidence[:MOST_BARS], key=lambda n: (text.day(source.rows[n - 1].get("first_seen")), n)
    )
    bars = []
    for number in shown:
        row = source.rows[number - 1]
        bar = draw.bar_of(row, source.calendar)
        words = f"{facts.name_of(row)} {number}: appeared {text.interval(row)}; {facts.fate(row)}"
        bars.append({
            "number": number,
            "name": facts.name_of(row),
            "status": row.get("status") or text.NO_VALUE,
            "bar": bar,
            "words": words,
            "index": draw.kind_index(row.get("kind")),
            "look": draw.look(row.get("kind")),
        })
    return {
        "bars": bars,
        "left_out": len(source.rows) - len(bars),
        "ticks": source.calendar.ticks(),
        "scenes": draw.scene_ticks(source.scenes, source.calendar),
    }


def progress(source: Source) -> dict[str, Any]:
    """Lay out the progress along each axis: charts, and the latest figures as a table."""
    rows = text.rows_of(source.findings.progress)
    latest: dict[tuple[str, str], Row] = {}
    for row in sorted(rows, key=lambda r: str(r.get("date"))):
        latest[str(row.get("axis")), str(row.get("bank"))] = row
    return {
        "charts": draw.progress_of(rows, source.calendar),
        "latest": [facts.progress_row(r) for r in latest.values()],
        "ticks": source.calendar.ticks(),
    }


def dossiers(source: Source, chips: Mapping[int, list[image.Chip]]) -> list[dict[str, Any]]:
    """Describe every structure in full."""
    numbers = {str(s.get("id")): i for i, s in enumerate(source.scenes, start=1)}
    detailed = set(source.by_confidence[:MOST_SERIES])
    where = facts.positions(source.geometries, source.grid)
    result = []
    for number, row in enumerate(source.rows, start=1):
        observed = source.observed.get(str(row.get("id")), []) if number in detailed else []
        observed = sorted(observed, key=lambda o: str(o.get("date")))
        geometry = source.geometries[number - 1]
        result.append({
            "number": number,
            "id": row.get("id") or text.NO_VALUE,
            "name": facts.name_of(row),
            "look": draw.look(row.get("kind")),
            "index": draw.kind_index(row.get("kind")),
            "status": row.get("status") or text.NO_VALUE,
            "summary": facts.summary(row),
            "facts": facts.facts_of(row, source.record, numbers, where[number - 1]),
            "chips": [chip_figure(c, row, geometry, source.grid) for c in chips.get(number, [])],
            "series": draw.series_of(observed, row, source.calendar) if observed else None,
            "observed": [facts.observation_row(o) for o in observed],
            "confidence": row.get("confidence"),
        })
    return result


def chip_figure(chip: image.Chip, row: Row, geometry: BaseGeometry | None, grid: Grid) -> dict[str, Any]:
    """Describe one chip with the outline on it."""
    from shapely.affinity import affine_transform

    rows, columns = chip.window
    d = ""
    if geometry is not None:
        k = 1 / chip.scale
        # A little outside, so that the line does not hide what it shows.
        around = draw.to_pixels(geometry, grid).buffer(0.6, join_style="mitre")
        moved = affine_transform(around, [k, 0, 0, k, -columns.start * k, -rows.start * k])
        d = draw.svg_path(moved, tolerance=0.02, decimals=2)
    across = (columns.stop - columns.start) * grid.gsd_m
    unit = "m" if grid.georeferenced else "px"
    return {
        "chip": chip,
        "d": d,
        "across": f"{across:,.0f}\u00a0{unit}",
        "alt": f"{facts.name_of(row)} on {chip.date} ({chip.role}), scene {chip.scene}",
    }


def chips_note(source: Source, chips: Mapping[int, list[image.Chip]], stack: xr.Dataset | None) -> str:
    """Say why some or all structures have no chips; empty where all have."""
    if not source.rows:
        return ""
    if stack is None:
        return "This report was drawn without the scenes, so there are no chips."
    if len(chips) < len(source.rows):
        return f"Chips are shown for {len(chips)} of {len(source.rows)} structures, the most confident first."
    return ""


def limits(source: Source) -> dict[str, Any]:
    """Describe what could not have been seen."""
    picture, share = image.undecided_picture(source.findings.statistic)
    return {
        "size": text.limit(source.record),
        "range": facts.detectable_range(source.rows),
        "picture": picture,
        "share": share,
        "gaps": facts.gaps(source.scenes),
        "false_alarms": facts.pairs(source.record.get("false_alarms")),
        "not_computed": facts.pairs(source.record.get("not_computed")),
    }
