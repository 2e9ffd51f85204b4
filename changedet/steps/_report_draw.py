"""The report's geometry: outlines in picture pixels, and charts as plain numbers for the templates.

Charts are laid out in percent of their width, so that one drawing serves a phone and a desk, with text at
its own size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from changedet.columns import KINDS
from changedet.grid import Grid
from changedet.steps._report_text import Row, day, instant, is_frozen, is_refused, known

if TYPE_CHECKING:
    import geopandas as gpd
    from shapely.geometry.base import BaseGeometry


@dataclass(frozen=True)
class Look:
    """How a kind is drawn.

    Parameters
    ----------
    color : ``#rrggbb`` of the Okabe–Ito palette, which people with color blindness tell apart
    dashed : True where the outline is dashed; kinds that share a color differ in this
    """

    color: str
    dashed: bool = False


LOOKS: dict[str, Look] = {
    "pier": Look("#D55E00"),
    "abutment": Look("#CC79A7"),
    "cofferdam": Look("#0072B2"),
    "platform": Look("#E69F00"),
    "causeway": Look("#F0E442"),
    "deck": Look("#009E73"),
    "pontoon": Look("#56B4E9"),
    "building": Look("#CC79A7", dashed=True),
    "earthworks": Look("#E69F00", dashed=True),
    "unknown": Look("#BBBBBB", dashed=True),
}


def look(kind: Any) -> Look:
    """Return how a kind is drawn; a kind we do not know looks like ``unknown``."""
    return LOOKS.get(str(kind), LOOKS["unknown"])


def kind_index(kind: Any) -> int:
    """Return the place of a kind in the table of kinds, for names in the page."""
    return KINDS.index(str(kind)) if str(kind) in KINDS else KINDS.index("unknown")


@dataclass(frozen=True)
class Sheet:
    """A picture of a grid, ``factor`` grid pixels a picture pixel.

    Parameters
    ----------
    grid : the grid
    factor : grid pixels a picture pixel
    width, height : picture pixels
    """

    grid: Grid
    factor: int
    width: int
    height: int

    def place(self, geometry: BaseGeometry) -> BaseGeometry:
        """Bring a geometry of the grid's CRS into picture pixels."""
        return to_pixels(geometry, self.grid, self.factor)

    @property
    def bar(self) -> dict[str, Any]:
        """A scale bar of a round length, about a quarter of the picture wide at most."""
        pixel = self.grid.gsd_m * self.factor
        length = round_below(pixel * self.width / 4)
        unit = "m" if self.grid.georeferenced else "px"
        text = f"{length / 1000:g} km" if unit == "m" and length >= 1000 else f"{length:g} {unit}"
        return {"percent": 100 * length / (pixel * self.width), "text": text}


def to_pixels(geometry: BaseGeometry, grid: Grid, factor: float = 1.0) -> BaseGeometry:
    """Bring a geometry of a grid's CRS into its pixel coordinates (0 = the outer edge), over ``factor``."""
    from shapely.affinity import affine_transform

    t = ~grid.transform
    moved = affine_transform(geometry, [t.a, t.b, t.d, t.e, t.c, t.f])
    return affine_transform(moved, [1 / factor, 0, 0, 1 / factor, 0, 0]) if factor != 1 else moved


def on_grid(frame: gpd.GeoDataFrame, grid: Grid) -> gpd.GeoDataFrame:
    """Bring a table of geometries into the grid's CRS, where both have one."""
    if frame is None or not len(frame) or frame.crs is None or grid.crs is None:
        return frame
    return frame if frame.crs == grid.geobox.crs.proj else frame.to_crs(grid.geobox.crs.proj)


def outlines(geometry: BaseGeometry | None) -> list[Any]:
    """List the simple parts of a geometry that have an outline to draw."""
    if geometry is None or geometry.is_empty:
        return []
    parts: list[Any] = list(getattr(geometry, "geoms", [geometry]))
    return [p for part in parts for p in (outlines(part) if hasattr(part, "geoms") else [part])]


def svg_path(geometry: BaseGeometry | None, *, tolerance: float = 0.2, decimals: int = 1) -> str:
    """Write a geometry in pixels as the ``d`` of an SVG path (rings closed, lines open)."""
    commands = []
    for part in outlines(geometry):
        if part.geom_type == "Point":
            continue
        plain = part.simplify(tolerance) or part
        rings = [plain.exterior, *plain.interiors] if plain.geom_type == "Polygon" else [plain]
        for ring in rings:
            points = [f"{round(x, decimals):g} {round(y, decimals):g}" for x, y, *_ in ring.coords]
            closed = plain.geom_type == "Polygon"
            commands.append(f"M{'L'.join(points[:-1] if closed else points)}{'Z' if closed else ''}")
    return "".join(commands)


def round_below(length: float) -> float:
    """Return the largest of 1, 2 or 5 times a power of ten that is not above ``length``."""
    power = 10.0 ** np.floor(np.log10(max(length, 1e-12)))
    return float(max(m * power for m in (1, 2, 5) if m * power <= length * (1 + 1e-9)))


def north_deg(grid: Grid) -> float | None:
    """Return where north is in the picture, degrees clockwise from up; None without CRS."""
    if not grid.georeferenced:
        return None
    t = ~grid.transform
    # A step to the north moves (t.b, t.e) in (column, row); rows grow downwards.
    return float(np.degrees(np.arctan2(t.b, -t.e))) % 360


LETTER = 0.62
"""Width of a digit over its height."""
GAP = 0.25
"""Distance of a label from its outline, over its height."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def label_places(
    shapes: Sequence[tuple[int, BaseGeometry]], width: int, height: int, *, font: float
) -> list[dict[str, Any]]:
    """Place numbers beside outlines so that none covers another, at the first zoom where there is room.

    Other outlines are kept clear as well, where that is possible.

    Parameters
    ----------
    shapes : (number, geometry in picture pixels)
    width, height : of the picture, pixels
    font : text height at zoom 1, picture pixels

    Returns
    -------
    one record a label that fits somewhere: number, zoom, x, y in pixels, dx, dy in text heights, and anchor
    and baseline as SVG has them
    """
    labels: list[dict[str, Any]] = []
    waiting: list[tuple[int, Box]] = [(n, g.bounds) for n, g in shapes if not g.is_empty]
    obstacles = [bounds for _, bounds in waiting]
    for zoom, around in ((1, obstacles), (2, obstacles), (4, obstacles), (4, [])):
        size = font / zoom
        taken = around + [_label_box(label, size) for label in labels]
        left_over = []
        for number, bounds in waiting:
            label = _free_spot({"number": number, "zoom": zoom}, bounds, size, (width, height), taken)
            if label is None:
                left_over.append((number, bounds))
                continue
            labels.append(label)
            taken.append(_label_box(label, size))
        waiting = left_over
    return labels


def _label_box(label: Mapping[str, Any], size: float) -> Box:
    """Return the box of a label's text at a text height."""
    wide = LETTER * size * len(str(label["number"]))
    left = label["x"] + size * label["dx"] - {"start": 0.0, "middle": wide / 2, "end": wide}[label["anchor"]]
    above = {"hanging": 0.0, "central": 0.5, "auto": 0.8}[label["baseline"]]
    top = label["y"] + size * (label["dy"] - above)
    return left, top, left + wide, top + size


COLUMNS = ((2, "start", GAP), (0, "end", -GAP), (1, "middle", 0.0))
"""Where a label stands across: at the right edge, the left edge, the middle; its anchor and offset."""
LINES = ((1, "central", 0.0), (0, "auto", -GAP), (2, "hanging", GAP))
"""And down: in the middle, at the top edge, at the bottom edge."""
SPOTS = ((0, 0), (1, 0), (2, 1), (2, 2), (0, 1), (0, 2), (1, 1), (1, 2))
"""The eight spots around an outline in order of preference, as (column, line)."""


def _free_spot(
    label: Mapping[str, Any], bounds: Box, size: float, limit: tuple[int, int], taken: Sequence[Box]
) -> dict[str, Any] | None:
    """Return a label at the first of eight spots around a box where it fits; None where it does not."""
    left, top, right, bottom = (round(b, 1) for b in bounds)
    across, down = (left, (left + right) / 2, right), (top, (top + bottom) / 2, bottom)
    for c, r in SPOTS:
        (at_x, anchor, dx), (at_y, baseline, dy) = COLUMNS[c], LINES[r]
        place = {"x": across[at_x], "y": down[at_y], "dx": dx, "dy": dy}
        placed = {**label, **place, "anchor": anchor, "baseline": baseline}
        box = _label_box(placed, size)
        inside = box[0] >= 0 and box[1] >= 0 and box[2] <= limit[0] and box[3] <= limit[1]
        if inside and not any(_overlap(box, other) for other in taken):
            return placed
    return None


def _overlap(a: Box, b: Box) -> bool:
    """Return True where two boxes (left, top, right, bottom) share area."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


@dataclass(frozen=True)
class Calendar:
    """The time axis that all charts share.

    Parameters
    ----------
    start, end : first and last instant drawn, milliseconds
    """

    start: np.datetime64
    end: np.datetime64

    @classmethod
    def spanning(cls, values: Iterable[Any]) -> Calendar:
        """Span all dates that can be read, with a little room on both sides."""
        moments = [m for v in values if (m := instant(v)) is not None]
        if not moments:
            moments = [np.datetime64("2000-01-01", "ms")]
        least = np.timedelta64(20, "D").astype("timedelta64[ms]")
        room = max((max(moments) - min(moments)) // 40, least // 20)
        start, end = min(moments) - room, max(moments) + room
        return cls(start, max(end, start + least))

    def percent(self, value: Any) -> float | None:
        """Return where a date lies, in percent of the width; None where it has none."""
        moment = instant(value)
        if moment is None:
            return None
        share = (moment - self.start) / (self.end - self.start)
        return round(100 * min(max(float(share), 0.0), 1.0), 2)

    def ticks(self, most: int = 7) -> list[dict[str, Any]]:
        """Return round dates: first days of years, quarters or months, or else every few days."""
        for months in (1, 2, 3, 6, 12, 24, 60, 120, 240):
            ticks = self._months(months)
            if len(ticks) <= most:
                break
        return ticks if len(ticks) > 1 else self._days(most)

    def _months(self, step: int) -> list[dict[str, Any]]:
        """Return the first day of every ``step``-th month, January among them."""
        months = np.arange(
            self.start.astype("datetime64[M]"), self.end.astype("datetime64[M]") + 1, dtype="datetime64[M]"
        )
        kept = [m for m in months if m.astype(int) % step == 0 and self.start <= m <= self.end]
        return [{"at": self.percent(f"{m}-01"), "text": str(m) if step < 12 else str(m)[:4]} for m in kept]

    def _days(self, most: int) -> list[dict[str, Any]]:
        """Return evenly spaced days, for spans of a few weeks."""
        days = np.arange(self.start.astype("datetime64[D]") + 1, self.end.astype("datetime64[D]") + 1)
        kept = days[:: max(1, -(-len(days) // most))]
        return [{"at": self.percent(str(d)), "text": str(d)} for d in kept]


def scene_ticks(scenes: Sequence[Row], calendar: Calendar) -> list[dict[str, Any]]:
    """Return one mark a scene for the time axis: usable, frozen or refused."""
    marks = []
    for number, scene in enumerate(scenes, start=1):
        at = calendar.percent(scene.get("date"))
        if at is None:
            continue
        state = "refused" if is_refused(scene) else "frozen" if is_frozen(scene) else "used"
        marks.append({"at": at, "state": state, "number": number, "date": day(scene.get("date"))})
    return marks


def bar_of(row: Row, calendar: Calendar) -> dict[str, Any]:
    """Lay out the life of a structure: the interval in which it appeared, then while it was seen."""
    first = calendar.percent(row.get("first_seen"))
    absent = calendar.percent(row.get("last_absent"))
    last = calendar.percent(row.get("last_seen"))
    last = first if last is None or (first is not None and last < first) else last
    return {
        "from": 0.0 if absent is None else absent,
        "open": absent is None,
        "first": first,
        "last": last,
        "confirmed": calendar.percent(row.get("confirmed")),
        "gone": row.get("status") in ("removed", "transient"),
        "unresolved": row.get("status") == "unresolved",
    }


@dataclass(frozen=True)
class Scale:
    """A vertical axis in percent from the top.

    Parameters
    ----------
    low, high : values at the bottom and at the top
    """

    low: float
    high: float

    @classmethod
    def holding(cls, values: Iterable[float | None], *always: float) -> Scale:
        """Span some values and the ones that must always be there, with a margin."""
        numbers = [float(v) for v in values if v is not None and np.isfinite(v)] + list(always)
        low, high = min(numbers), max(numbers)
        margin = 0.12 * ((high - low) or 1.0)
        return cls(low - margin, high + margin)

    def percent(self, value: float) -> float:
        """Return where a value lies, in percent from the top."""
        return round(100 * (self.high - float(value)) / (self.high - self.low), 2)

    def ticks(self, most: int = 4) -> list[dict[str, Any]]:
        """Return round values within the axis."""
        step = round_below((self.high - self.low) / most * 2)
        first = int(np.ceil(self.low / step))
        last = int(np.floor(self.high / step))
        return [{"at": self.percent(i * step), "text": f"{i * step:,g}"} for i in range(first, last + 1)]


def series_of(observed: Sequence[Row], row: Row, calendar: Calendar) -> dict[str, Any]:
    """Lay out the statistic of one structure over time.

    Returns
    -------
    points (x, y, seen), segments between usable dates in order, the interval of appearance, guides at 0 and 1
    """
    scale = Scale.holding((o.get("statistic") for o in observed), 0.0, 1.0)
    points = []
    for o in sorted(observed, key=lambda o: str(o.get("date"))):
        x, drawn = calendar.percent(o.get("date")), known(o.get("statistic"))
        if x is None:
            continue
        y = scale.percent(o["statistic"] if drawn else 0.0)
        points.append({"x": x, "y": y, "seen": str(o.get("seen")), "drawn": drawn})
    usable = [p for p in points if p["seen"] != "unseen" and p["drawn"]]
    return {
        "points": points,
        "segments": list(pairwise(usable)),
        "bar": bar_of(row, calendar),
        "zero": scale.percent(0.0),
        "one": scale.percent(1.0),
    }


BOUNDS = ("reach_lower_m", "reach_upper_m")


def progress_of(rows: Sequence[Row], calendar: Calendar) -> list[dict[str, Any]]:
    """Lay out the reach from each bank over time, one chart an axis."""
    charts = []
    for axis in dict.fromkeys(str(r.get("axis")) for r in rows):
        mine = [r for r in rows if str(r.get("axis")) == axis]
        scale = Scale.holding((r.get(c) for r in mine for c in ("reach_m", *BOUNDS)), 0.0)
        banks = dict.fromkeys(str(r.get("bank")) for r in mine)
        lines = [
            _bank_line([r for r in mine if str(r.get("bank")) == bank], bank, scale, calendar)
            for bank in banks
        ]
        charts.append({"axis": axis, "lines": lines, "ticks": scale.ticks()})
    return charts


def _bank_line(rows: Sequence[Row], bank: str, scale: Scale, calendar: Calendar) -> dict[str, Any]:
    """Lay out the reach from one bank: points with their bounds."""
    points = []
    for r in sorted(rows, key=lambda r: str(r.get("date"))):
        x = calendar.percent(r.get("date"))
        if x is None or not known(r.get("reach_m")):
            continue
        low, high = (scale.percent(r[c]) if known(r.get(c)) else None for c in BOUNDS)
        points.append({"x": x, "y": scale.percent(r["reach_m"]), "low": low, "high": high})
    return {"bank": bank, "points": points, "segments": list(pairwise(points))}
