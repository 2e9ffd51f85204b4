"""The report's tables: rows of text from records, with what to sort them by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from changedet.columns import STRUCTURES
from changedet.steps import _report_text as text
from changedet.steps._report_draw import kind_index, look
from changedet.steps._report_text import NOT_COMPUTED, Row, day, known, number, words

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

    from changedet.findings import Findings
    from changedet.grid import Grid

_MEANING = {column.name: column.meaning for column in STRUCTURES}


def name_of(row: Mapping[str, Any]) -> str:
    """Call a structure by its kind and place: pier in the water."""
    return f"{text.noun(row.get('kind'))} {text.place(row.get('over'))}".strip()


def fate(row: Mapping[str, Any]) -> str:
    """Say what became of a structure."""
    status, last = str(row.get("status")), row.get("last_seen")
    until = f"last seen {day(last)}" if known(last) else "date last seen not known"
    if status in text.STANDING:
        return f"still standing ({status}), {until}"
    if status in text.GONE:
        return f"gone ({status}), {until}"
    if status == "unresolved":
        return f"too few usable dates since to decide (unresolved), {until}"
    return until


def summary(row: Mapping[str, Any]) -> str:
    """Describe a structure in two sentences."""
    seen, after = row.get("n_seen"), row.get("n_after")
    if not known(seen):
        often = ""
    elif known(after):
        often = f" Seen on {number(seen)} of {number(after)} usable dates from the first one on."
    else:
        often = f" Seen on {number(seen)} usable dates."
    return f"Appeared {text.interval(row)}; {fate(row)}.{often}"


def banners(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List what a reader must know first: failed controls, simulated imagery, warnings."""
    result: list[dict[str, Any]] = []
    failed = [t for t in record.get("self_tests") or [] if not t.get("passed", False)]
    if failed:
        items = [f"{t.get('name', 'unnamed test')}: {words(t.get('detail'))}" for t in failed]
        head = f"{len(failed)} self-test{'s' if len(failed) > 1 else ''} failed: read with caution"
        result.append({"level": "bad", "title": head, "entries": items})
    if record.get("simulated"):
        said = (
            "Simulated imagery: nothing on this page was observed; "
            "it shows what the method finds where the truth is known."
        )
        result.append({"level": "note", "title": said, "entries": []})
    warnings = [words(w) for w in record.get("warnings") or []]
    if warnings:
        head = f"{len(warnings)} warning{'s' if len(warnings) > 1 else ''} from this run"
        result.append({"level": "note", "title": head, "entries": warnings})
    return result


def key_figures(
    record: Mapping[str, Any], rows: Sequence[Row], scenes: Sequence[Row], findings: Findings
) -> list[dict[str, str]]:
    """Choose the figures shown large at the top."""
    used = [s for s in scenes if not text.is_refused(s)]
    dates = sorted(day(s.get("date")) for s in used if known(s.get("date")))
    standing = sum(r.get("status") in text.STANDING for r in rows)
    figures = [
        {"label": "structures", "value": str(len(rows)), "note": f"{standing} still standing"},
        {
            "label": "usable scenes",
            "value": f"{len(used)} of {len(scenes)}",
            "note": f"{dates[0]} to {dates[-1]}" if dates else "dates not known",
        },
        {
            "label": "alarms rejected",
            "value": f"{len(findings.alarms):,}",
            "note": _commonest(findings.alarms),
        },
        _smallest(record),
    ]
    return figures + _gap_left(findings)


def _commonest(alarms: Any) -> str:
    """Name the commonest reason for which alarms were rejected."""
    counts = Counter(a.get("reason") for a in text.rows_of(alarms))
    if not counts:
        return "none to reject"
    reason, many = counts.most_common(1)[0]
    return f"most often {reason or 'without a reason'} ({many})"


def _smallest(record: Mapping[str, Any]) -> dict[str, str]:
    """Give the minimum detectable size, or say that it was not computed."""
    size = record.get("min_detectable_m2")
    if isinstance(size, Mapping):
        sizes = [float(v) for v in size.values() if known(v)]
        size = max(sizes) if sizes else None
    value = f"{text.significant(float(str(size)))}\u00a0m²" if known(size) else NOT_COMPUTED
    return {"label": "smallest detectable", "value": value, "note": "smaller ones may be missed"}


def _gap_left(findings: Findings) -> list[dict[str, str]]:
    """Give the gap left on each axis with progress, at its latest date."""
    latest: dict[str, Row] = {}
    for row in sorted(text.rows_of(findings.progress), key=lambda r: str(r.get("date"))):
        if known(row.get("gap_m")):
            latest[str(row.get("axis"))] = row
    return [
        {
            "label": f"gap left, axis {axis}",
            "value": "joined" if float(r["gap_m"]) <= 0 else number(r["gap_m"], 0, "m"),
            "note": f"on {day(r.get('date'))}",
        }
        for axis, r in latest.items()
    ]


def cell(shown: str, key: Any = None) -> dict[str, str]:
    """Return a table cell: its text, and what to sort by where that is not the text."""
    return {"text": shown, "key": "" if not known(key) else f"{key}"}


def table_row(n: int, row: Row) -> dict[str, Any]:
    """Return one line of the table of structures."""
    return {
        "number": n,
        "id": row.get("id") or text.NO_VALUE,
        "kind": row.get("kind") or "unknown",
        "look": look(row.get("kind")),
        "index": kind_index(row.get("kind")),
        "over": row.get("over") or text.NO_VALUE,
        "status": row.get("status") or text.NO_VALUE,
        "after": day(row.get("last_absent")) if known(row.get("last_absent")) else "–",
        "by": day(row.get("first_seen")),
        "last": day(row.get("last_seen")),
        "area": cell(number(row.get("area_m2"), 0, "m²"), row.get("area_m2")),
        "confidence": cell(number(row.get("confidence"), 2), row.get("confidence")),
    }


def positions(geometries: Sequence[BaseGeometry | None], grid: Grid) -> list[str]:
    """Give the middle of every outline as latitude and longitude; empty without a CRS."""
    if not grid.georeferenced or not geometries:
        return [""] * len(geometries)
    from pyproj import Transformer

    change = Transformer.from_crs(grid.geobox.crs.proj, 4326, always_xy=True)
    result = []
    for geometry in geometries:
        if geometry is None or geometry.is_empty:
            result.append("")
            continue
        middle = geometry.centroid
        lon, lat = change.transform(middle.x, middle.y)
        north, east = "N" if lat >= 0 else "S", "E" if lon >= 0 else "W"
        result.append(f"{abs(lat):.5f}° {north}, {abs(lon):.5f}° {east}")
    return result


def facts_of(
    row: Row, record: Mapping[str, Any], scenes: Mapping[str, int], where: str
) -> list[dict[str, Any]]:
    """List the facts of a structure: label, value, meaning, and the scene to link to."""
    reasons = record.get("not_computed") or {}

    def fact(label: str, column: str, shown: str, scene: Any = None) -> dict[str, Any]:
        value = shown
        if not known(row.get(column)):
            why = reasons.get(column)
            value = f"{NOT_COMPUTED}: {words(why)}" if column in reasons else text.NO_VALUE
        link = {"id": str(scene), "number": scenes.get(str(scene))} if known(scene) else None
        return {"label": label, "value": value, "meaning": _MEANING.get(column, ""), "scene": link}

    listed = [
        fact("last absent", "last_absent", day(row.get("last_absent")), row.get("last_absent_scene")),
        fact("first seen", "first_seen", day(row.get("first_seen")), row.get("first_seen_scene")),
        fact("confirmed", "confirmed", day(row.get("confirmed"))),
        fact("last seen", "last_seen", day(row.get("last_seen"))),
        fact("area", "area_m2", number(row.get("area_m2"), 0, "m²")),
        fact("length × width", "length_m", _size(row)),
        fact("bearing", "bearing_deg", f"{number(row.get('bearing_deg'))}°"),
        fact("distance to the bank", "bank_m", _bank(row)),
        fact("confidence", "confidence", number(row.get("confidence"), 2)),
        fact("kind", "kind", _kind(row)),
        fact("p-value", "p_value", words(row.get("p_value"))),
        fact("signal to noise", "snr", number(row.get("snr"), 1)),
        fact("usable dates before", "n_before", number(row.get("n_before"))),
        fact("usable dates from then on", "n_after", number(row.get("n_after"))),
        fact("of them without ice or snow", "n_after_unfrozen", number(row.get("n_after_unfrozen"))),
        fact("dates seen", "n_seen", number(row.get("n_seen"))),
        fact("smallest detectable here", "min_detectable_m2", number(row.get("min_detectable_m2"), 0, "m²")),
    ]
    if where:
        middle = {"label": "position", "value": where, "meaning": "middle of the outline", "scene": None}
        listed.insert(4, middle)
    return listed + _membership(row)


def _size(row: Row) -> str:
    """Give length and width."""
    return f"{number(row.get('length_m'))} × {number(row.get('width_m'))}\u00a0m"


def _bank(row: Row) -> str:
    """Give the distance to the bank, with its side in words."""
    if not known(row.get("bank_m")):
        return ""
    distance = float(row["bank_m"])
    return f"{number(abs(distance), 0, 'm')} {'out over the water' if distance > 0 else 'inland'}"


def _kind(row: Row) -> str:
    """Give the kind with its probability."""
    shown = str(row.get("kind") or "unknown")
    return f"{shown} (p = {number(row['kind_p'], 2)})" if known(row.get("kind_p")) else shown


def _membership(row: Row) -> list[dict[str, Any]]:
    """Give the axis and the row of piers, where a structure belongs to any."""
    listed = []
    if known(row.get("axis")):
        along = f", {number(row['chainage_m'], 0, 'm')} along it" if known(row.get("chainage_m")) else ""
        listed.append(("axis", f"{row['axis']}{along}", "axis"))
    if known(row.get("row")):
        index = f", number {number(row['row_index'])}" if known(row.get("row_index")) else ""
        listed.append(("row of piers", f"{row['row']}{index}", "row"))
    return [{"label": a, "value": b, "meaning": _MEANING[c], "scene": None} for a, b, c in listed]


def observation_row(o: Row) -> dict[str, str]:
    """Return one line of a structure's observations."""
    return {
        "date": day(o.get("date")),
        "scene": str(o.get("scene") or text.NO_VALUE),
        "seen": str(o.get("seen") or text.NO_VALUE),
        "statistic": number(o.get("statistic"), 2) if known(o.get("statistic")) else "–",
        "area": number(o.get("area_m2"), 0, "m²") if known(o.get("area_m2")) else "–",
    }


def progress_row(row: Row) -> dict[str, str]:
    """Return the latest progress from one bank."""
    lower, upper = row.get("reach_lower_m"), row.get("reach_upper_m")
    bounds = f" ({number(lower)}–{number(upper)})" if known(lower) and known(upper) else ""
    return {
        "axis": str(row.get("axis") or text.NO_VALUE),
        "bank": str(row.get("bank") or text.NO_VALUE),
        "date": day(row.get("date")),
        "scene": str(row.get("scene") or text.NO_VALUE),
        "reach": f"{number(row.get('reach_m'), 0, 'm')}{bounds}",
        "water": number(row.get("piers_water")),
        "land": number(row.get("piers_land")),
        "deck": number(row.get("deck_m"), 0, "m"),
        "gap": number(row.get("gap_m"), 0, "m"),
    }


def scene_rows(scenes: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the table of scenes, with fitness and why a scene was refused."""
    return [_scene_row(n, s) for n, s in enumerate(scenes, start=1)]


def _scene_row(n: int, scene: Row) -> dict[str, Any]:
    """Return one line of the table of scenes."""
    refused = text.is_refused(scene)
    said = "refused" if refused else "used" if known(scene.get("used")) else NOT_COMPUTED
    fitness = scene.get("fit") or said
    if refused and scene.get("fit") not in (None, "refused"):
        fitness = f"{scene['fit']}, not used"
    return {
        "number": n,
        "id": str(scene.get("id") or text.NO_VALUE),
        "file": text.file_name(scene["path"]) if known(scene.get("path")) else "",
        "date": day(scene.get("date")),
        "sensor": str(scene.get("sensor") or NOT_COMPUTED),
        "usable": _share(scene.get("usable")),
        "water": _share(scene.get("water")),
        "frozen": _frozen(scene),
        "shift": _shift(scene.get("shift_px")),
        "gain": words(scene["gain"]) if known(scene.get("gain")) else NOT_COMPUTED,
        "fitness": str(fitness),
        "refused": refused or scene.get("fit") == "refused",
        "why": words(scene["why"]) if known(scene.get("why")) else "",
        "sha256": str(scene["sha256"]) if known(scene.get("sha256")) else "",
    }


def _share(value: Any) -> dict[str, str]:
    """Write a share of 0–1 in percent."""
    if not known(value):
        return cell(NOT_COMPUTED)
    return cell(f"{100 * float(value):.0f}\u00a0%", float(value))


def _frozen(scene: Row) -> str:
    """Say whether a scene shows ice or snow."""
    value = scene.get("frozen")
    if not known(value):
        return NOT_COMPUTED
    said = "yes" if text.is_frozen(scene) else "no"
    share = isinstance(value, float) and not isinstance(value, bool)
    return f"{said} ({100 * scene['frozen']:.0f}\u00a0%)" if share else said


def _shift(value: Any) -> dict[str, str]:
    """Write a (dy, dx) shift with signs; sorted by its length."""
    if not known(value):
        return cell(NOT_COMPUTED)
    try:
        dy, dx = (round(float(v), 2) + 0.0 for v in value)
    except (TypeError, ValueError):
        return cell(words(value))
    return cell(f"{dy:+.2f}, {dx:+.2f}", float(np.hypot(dy, dx)))


def strongest(alarms: Any, most: int) -> Any:
    """Return the alarms with the strongest evidence first, at most ``most``."""
    if alarms is None or not len(alarms):
        return alarms
    by = "p_value" if "p_value" in alarms.columns else alarms.columns[0]
    return alarms.sort_values(by, kind="stable").head(most)


def alarm_table(alarms: Any, most: int) -> dict[str, Any]:
    """Return the rejected candidates: counts by reason, and the strongest one by one."""
    counts = Counter(a.get("reason") or text.NO_VALUE for a in text.rows_of(alarms))
    listed = text.rows_of(strongest(alarms, most))
    return {
        "counts": counts.most_common(),
        "total": sum(counts.values()),
        "left_out": sum(counts.values()) - len(listed),
        "rows": [
            {
                "id": str(a.get("id") or text.NO_VALUE),
                "reason": str(a.get("reason") or text.NO_VALUE),
                "after": day(a.get("last_absent")) if known(a.get("last_absent")) else "–",
                "by": day(a.get("first_seen")),
                "area": cell(number(a.get("area_m2"), 0, "m²"), a.get("area_m2")),
                "over": str(a.get("over") or text.NO_VALUE),
                "p_value": cell(words(a.get("p_value")), a.get("p_value")),
                "snr": cell(number(a.get("snr"), 1), a.get("snr")),
                "n_seen": cell(number(a.get("n_seen")), a.get("n_seen")),
            }
            for a in listed
        ],
    }


def detectable_range(rows: Sequence[Row]) -> str:
    """Say which minimum sizes hold where structures were found."""
    sizes = [float(r["min_detectable_m2"]) for r in rows if known(r.get("min_detectable_m2"))]
    if not sizes:
        return ""
    low, high = text.significant(min(sizes)), text.significant(max(sizes))
    span = f"{low} m²" if low == high else f"{low} to {high} m²"
    return f"At the structures found, the smallest detectable size is {span}."


def gaps(scenes: Sequence[Row]) -> list[str]:
    """Say when nothing could have been seen: refused and frozen scenes, the longest time without one."""
    used = [s for s in scenes if not text.is_refused(s)]
    lines = []
    if len(used) < len(scenes):
        refused = len(scenes) - len(used)
        lines.append(f"{refused} of {len(scenes)} scenes were refused; the table of scenes says why.")
    frozen = sum(text.is_frozen(s) for s in used)
    if frozen:
        lines.append(f"{frozen} usable scenes show ice or snow, where change is weak evidence.")
    moments = sorted(m for s in used if (m := text.instant(s.get("date"))) is not None)
    if len(moments) > 1:
        waits = np.diff(np.array(moments)).astype("timedelta64[D]").astype(int)
        at = int(np.argmax(waits))
        lines.append(
            f"The longest time between usable scenes is {waits[at]} days, {day(moments[at])} to "
            f"{day(moments[at + 1])}: what came and went within it left no trace here."
        )
    return lines


def pairs(value: Any) -> list[tuple[str, str]]:
    """List a record's keys and values as text."""
    return [(str(k), words(v)) for k, v in value.items()] if isinstance(value, Mapping) else []


def self_tests(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """List the self-tests of the run, failed ones first."""
    tests = [
        {
            "name": str(t.get("name") or "unnamed test"),
            "passed": bool(t.get("passed", False)),
            "detail": words(t.get("detail")),
        }
        for t in record.get("self_tests") or []
    ]
    return sorted(tests, key=lambda t: bool(t["passed"]))


def provenance(record: Mapping[str, Any]) -> dict[str, Any]:
    """Describe how the results were made."""
    plan = record.get("plan")
    memory = record.get("peak_memory_mb")
    command = record.get("command")
    if isinstance(command, list | tuple):
        command = " ".join(str(part) for part in command)
    return {
        "version": words(record["version"]) if known(record.get("version")) else NOT_COMPUTED,
        "command": words(command) if known(command) else NOT_COMPUTED,
        "grid": words(record["grid"]) if known(record.get("grid")) else NOT_COMPUTED,
        "memory": f"{number(memory)}\u00a0MB" if known(memory) else NOT_COMPUTED,
        "plan": text.flatten(plan) if isinstance(plan, Mapping) else [],
        "timings": [(k, _seconds(v)) for k, v in (record.get("timings") or {}).items()],
        "counts": pairs(record.get("counts")),
    }


def _seconds(value: Any) -> str:
    """Write a time in seconds."""
    return f"{float(value):,.2f}\u00a0s" if isinstance(value, int | float) else words(value)
