"""The report's words: nulls, dates, numbers and the headline.

Values arrive from tables and from ``run.json``; nothing here marks anything up, so the templates can escape
every piece of text in one place.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from changedet.findings import Findings

Row = dict[str, Any]

PLACES = {"water": "in the water", "shore": "on the shore", "land": "on land"}
NO_VALUE = "not known"
NOT_COMPUTED = "not computed"
STANDING = ("persistent", "growing")
GONE = ("removed", "transient")
FROZEN_SHARE = 0.5
"""A scene whose frozen share is given as a number counts as frozen from here on."""

_NOUNS = {
    "earthworks": ("area of earthworks", "areas of earthworks"),
    "unknown": ("structure of unknown kind", "structures of unknown kind"),
}


def known(value: Any) -> bool:
    """Return True where a cell holds something: not None, NaN, NaT or an empty text."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return False
    if isinstance(value, str | Mapping | Sequence | np.ndarray):
        return True
    # NaN, NaT and pandas.NA are the values that do not equal themselves (NA refuses to say).
    try:
        return bool(value == value)
    except TypeError:
        return False


def rows_of(frame: pd.DataFrame | None) -> list[Row]:
    """Turn a table into records with text keys and None for every null."""
    if frame is None or not len(frame):
        return []
    records = frame.to_dict("records")
    return [{str(k): (v if known(v) else None) for k, v in record.items()} for record in records]


def instant(value: Any) -> np.datetime64 | None:
    """Read an ISO 8601 date or time (UTC) to milliseconds; None where there is none or it cannot be read."""
    if not known(value):
        return None
    text = re.match(r"\d{4}-\d{2}(-\d{2}([T ][\d:.]+)?)?", str(value).strip())
    if text is None:
        return None
    try:
        moment = np.datetime64(text[0]).astype("datetime64[ms]")
    except ValueError:
        return None
    return None if np.isnat(moment) else moment


def day(value: Any) -> str:
    """Return the date of a timestamp as ``yyyy-mm-dd``; a text that is no date stays as it is."""
    moment = instant(value)
    if moment is None:
        return str(value) if known(value) else NO_VALUE
    return str(np.datetime_as_string(moment, unit="D"))


def interval(row: Mapping[str, Any]) -> str:
    """Say when a structure appeared: after the last scene without it, by the first one with it."""
    absent, seen = row.get("last_absent"), row.get("first_seen")
    if not known(seen):
        return "at an unknown date"
    if not known(absent):
        return f"by {day(seen)} (no earlier usable date)"
    return f"after {day(absent)} and by {day(seen)}"


def number(value: Any, digits: int = 0, unit: str = "") -> str:
    """Write a number for people, thousands apart; ``not known`` where there is none."""
    if not known(value):
        return NO_VALUE
    if isinstance(value, str):
        return value
    text = f"{float(value):,.{digits}f}"
    return f"{text}\u00a0{unit}" if unit else text


def significant(value: float) -> str:
    """Write a number with three figures, large ones in full: 0.00123, 12.3, 12,345."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def words(value: Any) -> str:
    """Write any value of ``run.json`` on one line."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return "; ".join(f"{k}: {words(v)}" for k, v in value.items())
    if isinstance(value, list | tuple | set | np.ndarray):
        return ", ".join(words(v) for v in value)
    if not known(value):
        return "–"
    if isinstance(value, float | np.floating):
        return significant(float(value))
    return redact(str(value))


def redact(text: str) -> str:
    """Take passwords and signed queries out of addresses, which must not travel with a report."""
    text = re.sub(r"(\w+://)[^/\s@]*@", r"\1", text)
    return re.sub(r"(\w+://[^\s?#]*)[?#]\S*", r"\1?…", text)


def file_name(path: Any) -> str:
    """Return the last part of a path or address, without its query."""
    return re.split(r"[\\/]", re.sub(r"(://[^?#]*)[?#].*", r"\1", str(path)).rstrip("\\/"))[-1]


def flatten(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """List nested settings as ``step.option`` and value."""
    flat: list[tuple[str, str]] = []
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat += flatten(value, f"{name}.")
        else:
            flat.append((name, words(value)))
    return flat


def is_refused(scene: Mapping[str, Any]) -> bool:
    """Return True where a scene's record says that it was not used."""
    return known(scene.get("used")) and not bool(scene["used"])


def is_frozen(scene: Mapping[str, Any]) -> bool:
    """Return True where a scene's record says it shows ice or snow (a flag, or a share of the area)."""
    value: Any = scene.get("frozen")
    if not known(value) or isinstance(value, str):
        return str(value).lower() in ("yes", "true", "frozen")
    return bool(float(value) >= FROZEN_SHARE)


def noun(kind: Any, count: int = 1) -> str:
    """Name a kind in the singular or plural."""
    one, many = _NOUNS.get(str(kind), (str(kind), f"{kind}s")) if known(kind) else _NOUNS["unknown"]
    return one if count == 1 else many


def place(over: Any) -> str:
    """Say where a structure stands; empty where that is not known."""
    return PLACES.get(str(over), f"over {over}") if known(over) else ""


def title_of(site: Any) -> str:
    """Return the title of a site-like object (or of a plain text); empty without one."""
    title = site if isinstance(site, str) else getattr(site, "title", None)
    return str(title) if known(title) else ""


def figure_text(sentence: str, width: int = 90) -> str:
    """Break a sentence into lines for a figure, where a bare dollar would start mathematics."""
    from textwrap import wrap

    return "\n".join(wrap(sentence.replace("$", r"\$"), width))


def listing(parts: Sequence[str]) -> str:
    """Join parts as people do: a, b and c."""
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def headline(findings: Findings, site: Any = None) -> str:
    """Say in one or two sentences what was found, or what "nothing" means.

    Parameters
    ----------
    findings : what a run found
    site : object with a ``title``, or None

    Returns
    -------
    str, plain text: counts by kind and surroundings, then by status, dates as intervals
    """
    rows = rows_of(findings.structures)
    where = f" at {title_of(site)}" if title_of(site) else ""
    prefix = "Simulated imagery: " if findings.record.get("simulated") else ""
    if not rows:
        return f"{prefix}{_nothing(findings.record, where)}"
    return f"{prefix}{_what(rows, where)} {_state(rows)}"


def _what(rows: list[Row], where: str) -> str:
    """Count structures by surroundings and kind, and give the interval that holds them all."""
    count = len(rows)
    overs = Counter(row.get("over") for row in rows)
    order = sorted(overs, key=lambda over: (not known(over), -overs[over]))
    parts = [_kinds([r for r in rows if r.get("over") == over], over) for over in order]
    subject = f"{count} structure{'s were' if count > 1 else ' was'} found{where}: {listing(parts)}"
    if count == 1:
        return f"{subject}, which appeared {interval(rows[0])}."
    return f"{subject}. They appeared {_span(rows)};"


def _kinds(rows: list[Row], over: Any) -> str:
    """Count the structures of one surroundings by kind: 5 in the water (4 piers, 1 deck)."""
    kinds = Counter(row.get("kind") or "unknown" for row in rows)
    counted = [f"{many} {noun(kind, many)}" for kind, many in kinds.most_common()]
    where = place(over) or "where the surroundings are not known"
    if len(counted) == 1:
        return f"{counted[0]} {where}"
    return f"{len(rows)} {where} ({', '.join(counted)})"


def _span(rows: list[Row]) -> str:
    """Give the interval within which every structure appeared."""
    absent = [instant(row.get("last_absent")) for row in rows]
    seen = [m for row in rows if (m := instant(row.get("first_seen"))) is not None]
    if not seen:
        return "at unknown dates"
    end = day(max(seen))
    starts = [m for m in absent if m is not None]
    if len(starts) < len(rows):
        return f"by {end}, some of them before the first usable date"
    return f"after {day(min(starts))} and by {end}"


def _state(rows: list[Row]) -> str:
    """Count structures by what became of them."""
    counts = Counter(row.get("status") for row in rows)
    parts = [
        _group(counts, STANDING, ("still stands", "still stand"), len(rows)),
        _group(counts, GONE, ("is gone", "are gone"), len(rows)),
        _group(counts, ("unresolved",), ("cannot be decided yet", "cannot be decided yet"), len(rows)),
    ]
    other = [s for s in counts if s not in (*STANDING, *GONE, "unresolved")]
    for status in other:
        verb = "is" if counts[status] == 1 else "are"
        parts.append(f"{counts[status]} {verb} {status or 'without status'}")
    text = listing([p for p in parts if p])
    return f"{text[:1].upper()}{text[1:]}." if len(rows) == 1 else f"{text}."


def _group(counts: Counter[Any], statuses: Iterable[str], verbs: tuple[str, str], total: int) -> str:
    """Say how many structures have one of some statuses, naming the statuses."""
    present = [s for s in statuses if counts[s]]
    many = sum(counts[s] for s in present)
    if not many:
        return ""
    named = ", ".join(s if len(present) == 1 else f"{counts[s]} {s}" for s in present)
    subject = "it" if total == 1 else f"all {many}" if many == total else str(many)
    return f"{subject} {verbs[0] if many == 1 else verbs[1]} ({named})"


def _nothing(record: Mapping[str, Any], where: str) -> str:
    """Say that nothing was found, and what could have been missed."""
    scenes = [s for s in record.get("scenes") or [] if not is_refused(s)]
    dates = [m for s in scenes if (m := instant(s.get("date"))) is not None]
    span = f" in {len(scenes)} usable scenes" if scenes else ""
    if dates:
        span += f" from {day(min(dates))} to {day(max(dates))}"
    return f"No structure was found{where}{span}. {limit(record)}"


def limit(record: Mapping[str, Any]) -> str:
    """State the minimum detectable size, or that it was not computed."""
    size = record.get("min_detectable_m2")
    if isinstance(size, Mapping):
        parts = [f"{significant(float(v))} m² {place(k)}".strip() for k, v in size.items() if known(v)]
        if parts:
            return _found_share(record, listing(parts))
    elif known(size):
        return f"Structures smaller than {significant(float(str(size)))} m² could have been missed."
    why = (record.get("not_computed") or {}).get("min_detectable_m2")
    return "The minimum detectable size was not computed" + (f": {why}." if why else ".")


def _found_share(record: Mapping[str, Any], sizes: str) -> str:
    """Say what share of structures of some sizes would have been found, where that was tried."""
    tried = record.get("sensitivity")
    if not isinstance(tried, Mapping):
        return f"Structures smaller than {sizes} could have been missed."
    target, material = float(tried["target"]), str(tried["material"]).replace("_", " ")
    tenths = round(target * 10, 6)
    share = f"{tenths:.0f} in 10" if tenths == int(tenths) else f"{target:.1%}"
    strata = tried.get("strata") or {}
    unknown = [p for p, one in strata.items() if not known(one.get("m2"))]
    rest = f" How large they must be {listing([place(p) for p in unknown])} is not known." if unknown else ""
    spans = [f"{_span_m2(one)} {place(p)}" for p, one in strata.items() if known(one.get("m2"))]
    rough = f" The quick estimate is rough: {listing(spans)}." if tried.get("method") == "quick" else ""
    return (
        f"By structures of {material} put into the scenes, {share} of {sizes} would have been found; smaller "
        f"ones could have been missed.{rough}{rest}"
    )


def _span_m2(one: Mapping[str, Any]) -> str:
    """Give the interval of a size in words."""
    low = significant(float(one["low_m2"]))
    if not known(one.get("high_m2")):
        return f"{low} m² or more"
    return f"{low} to {significant(float(one['high_m2']))} m²"
