"""Site dossiers: what is known about a place before any image is read.

A dossier is a folder of facts (``seeds/<site>/``, see ``seeds/README.md``), never code: where to look, what
must not change, what others reported. It may explain and rank findings; it never creates one.
Every geometry of a :class:`Site` is lon/lat on WGS 84 (RFC 7946); the methods project.
"""

from __future__ import annotations

import csv
import datetime as dt
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from shapely import LineString, MultiLineString, MultiPolygon, Polygon, union_all
from shapely.geometry.base import BaseGeometry

from changedet.columns import Kind, table
from changedet.errors import CRSError, SiteError, nearest

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

LONLAT = "OGC:CRS84"
Side = Literal["north", "south", "east", "west"]
Role = Literal["control", "expected"]
_PARTIAL = r"\d{4}(-\d{2}(-\d{2})?)?"
PartialDate = Annotated[str, Field(pattern=rf"^{_PARTIAL}(/{_PARTIAL})?$")]
Text = Annotated[str, Field(min_length=1)]
Meters = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Month = Annotated[int, Field(ge=1, le=12)]


def _lonlat(geometry: BaseGeometry) -> BaseGeometry:
    """Refuse what cannot be WGS 84 lon/lat, is empty, or folds over itself."""
    west, south, east, north = geometry.bounds
    if west < -180 or east > 180 or south < -90 or north > 90:
        raise ValueError(f"{east:g}, {north:g} is not lon/lat in degrees; write RFC 7946 GeoJSON")
    if geometry.is_empty or not geometry.is_valid:
        raise ValueError("an empty or self-crossing geometry; draw it anew")
    if any(part.bounds[2] - part.bounds[0] > 180 for part in getattr(geometry, "geoms", [geometry])):
        raise ValueError("wider than 180 degrees; cut it at the antimeridian (RFC 7946, section 3.1.9)")
    return geometry


Area = Annotated[Polygon | MultiPolygon, AfterValidator(_lonlat)]
Line = Annotated[LineString | MultiLineString, AfterValidator(_lonlat)]
Stretch = Annotated[LineString, AfterValidator(_lonlat)]


class Record(BaseModel):
    """Base of every entry of a dossier: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Bank(Record):
    """One bank of the river: an approximate guide, not the waterline.

    ``side`` is the compass side of the river it lies on; the line is right to ``uncertainty_m``.
    """

    id: Text
    name: Text
    side: Side
    uncertainty_m: Meters
    geometry: Line
    note: str = ""


class Axis(Record):
    """The line of a bridge, drawn from ``from_bank`` (chainage 0) to ``to_bank``.

    ``role`` is "control" (must not change) or "expected" (works are reported there).
    """

    id: Text
    name: Text
    role: Role
    from_bank: Text
    to_bank: Text
    uncertainty_m: Meters
    bearing_uncertainty_deg: Annotated[float, Field(ge=0, le=90)] = 0.0
    source: Text
    geometry: Stretch
    note: str = ""


class Control(Record):
    """A corridor of ``half_width_m`` around a control axis, in which nothing may appear."""

    axis: Text
    half_width_m: Meters
    why: Text


class Source(Record):
    """Where a fact comes from. ``date`` is ISO 8601, may stop at year or month, and may be a span ``a/b``."""

    id: Text
    title: Text
    date: PartialDate


class Fact(Record):
    """One published figure (``value``, ``unit``) or statement (``text``); the same ``about`` marks rivals."""

    about: Text
    value: Annotated[float, Field(allow_inf_nan=False)] | None = None
    unit: str = ""
    bound: Literal["", "about", "at least", "at most"] = ""
    text: str = ""
    source: Text
    date: PartialDate
    note: str = ""


class Event(Record):
    """One line of the timeline: reported between ``date`` and ``date_end`` (equal where the day is known).

    ``where`` is the id of a bank, "both" or "river".
    """

    date: dt.date
    date_end: dt.date
    what: Text
    where: Text
    basis: Literal["imagery", "sar", "official"]
    source: Text
    note: str = ""


class Expected(Record):
    """A structure others reported: absent on ``not_before`` (None: unknown), there by ``seen_by``.

    The polygon says where to look, to ``uncertainty_m``; ``length_m`` and ``width_m`` only where reported.
    """

    id: Text
    kind: Kind
    bank: str | None = None
    axis: str | None = None
    not_before: dt.date | None = None
    seen_by: dt.date
    gone_by: dt.date | None = None
    count: Annotated[int, Field(ge=1)] | None = None
    length_m: Meters | None = None
    width_m: Meters | None = None
    uncertainty_m: Meters
    source: Text
    geometry: Area
    note: str = ""


class Site(Record):
    """A place and what is known about it; geometries in lon/lat.

    Attributes
    ----------
    crs : the projected CRS, in metres, that the site's work is done in
    aoi : area of interest
    downstream_bearing_deg : the way the river flows, clockwise from true north
    frozen_months, turbid_months : months (1 to 12) in which ice, or sediment after rain, is usual
    facts : entries with the same ``about`` are rival figures; see :meth:`figures`
    """

    format: Literal[1]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    title: Text
    summary: Text
    crs: Text
    aoi: Area
    downstream_bearing_deg: Annotated[float, Field(ge=0, lt=360)] | None = None
    frozen_months: tuple[Month, ...] = ()
    turbid_months: tuple[Month, ...] = ()
    banks: tuple[Bank, ...] = ()
    axes: tuple[Axis, ...] = ()
    controls: tuple[Control, ...] = ()
    timeline: tuple[Event, ...] = ()
    expected: tuple[Expected, ...] = ()
    facts: tuple[Fact, ...] = ()
    sources: tuple[Source, ...] = ()

    def bank(self, bank_id: str) -> Bank:
        """Return the bank of that id. Raises :class:`SiteError` if there is none."""
        return _pick(self.banks, bank_id, f"{self.name}: no bank")

    def axis(self, axis_id: str) -> Axis:
        """Return the axis of that id. Raises :class:`SiteError` if there is none."""
        return _pick(self.axes, axis_id, f"{self.name}: no axis")

    def figures(self, about: str) -> tuple[Fact, ...]:
        """Return all facts about one thing, rivals side by side. Raises :class:`SiteError` if none is."""
        known = {fact.about for fact in self.facts}
        if about not in known:
            raise SiteError(f"{self.name}: no fact about {about!r}{_hint(about, known)}")
        return tuple(fact for fact in self.facts if fact.about == about)

    def aoi_in(self, crs: Any) -> Polygon | MultiPolygon:
        """Return the area of interest in ``crs`` (anything pyproj reads). Raises :class:`CRSError`."""
        return _project(self.aoi, crs)

    def control_geometry(self, crs: Any) -> Polygon | MultiPolygon | None:
        """Return the union of the control corridors in ``crs``, or None where the site names no control.

        Widths are laid out in metres in the site's own CRS, so ``crs`` may be geographic.
        """
        if not self.controls:
            return None
        lines = [(_project(self.axis(c.axis).geometry, self.crs), c.half_width_m) for c in self.controls]
        corridor: Any = union_all([line.buffer(width, cap_style="flat") for line, width in lines])
        projected: Polygon | MultiPolygon = _project(corridor, crs, start=self.crs)
        return projected

    def axes_frame(self, crs: Any) -> GeoDataFrame:
        """Return the axes in ``crs`` with the columns of the table ``axes``; ``axis`` is the id."""
        import geopandas as gpd

        lines = [_project(axis.geometry, crs) for axis in self.axes]
        lengths = [_project(axis.geometry, self.crs).length for axis in self.axes]
        rows = [
            {"axis": axis.id, "source": "site", "length_m": length, "uncertainty_m": axis.uncertainty_m}
            for axis, length in zip(self.axes, lengths, strict=True)
        ]
        return gpd.GeoDataFrame(table("axes", rows), geometry=lines, crs=crs)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for ``json.dumps``: dates as ISO text, geometries as GeoJSON, unknown null."""
        return {name: _plain(getattr(self, name)) for name in type(self).model_fields}


class SiteSummary(Record):
    """One line of the list of dossiers."""

    name: str
    title: str
    path: Path
    axes: int
    events: int
    expected: int


_Entry = TypeVar("_Entry", Bank, Axis)
_Shape = TypeVar("_Shape", bound=BaseGeometry)
_Model = TypeVar("_Model", bound=Record)
_LISTS: dict[str, type[Record]] = {
    "banks": Bank, "axes": Axis, "controls": Control, "facts": Fact, "sources": Source,
}  # fmt: skip
_FROM_FILES = {"aoi", "timeline", "expected"}


def seeds_root() -> Path:
    """Return the folder of the dossiers: the packaged one, else the checkout's. Raises :class:`SiteError`."""
    here = Path(__file__).resolve().parent
    for folder in (here / "_seeds", here.parent / "seeds"):
        if folder.is_dir():
            return folder
    raise SiteError("this installation has no dossiers; give the path of a site.toml instead of a name")


def list_sites() -> tuple[SiteSummary, ...]:
    """Return a summary of every dossier that comes with changedet, by name. Raises :class:`SiteError`."""
    return tuple(_summary(toml) for toml in _dossiers().values())


def load_site(name_or_path: str | Path) -> Site:
    """Read one dossier.

    Parameters
    ----------
    name_or_path : the name of a dossier in ``seeds/``, or the path of a ``site.toml`` or of its folder

    Raises
    ------
    SiteError : unknown, incomplete or malformed; says which file and key, and what was wanted
    """
    return _read(_find(name_or_path))


def _summary(toml: Path) -> SiteSummary:
    """Read a dossier for its headline."""
    site = _read(toml)
    counts = {"axes": len(site.axes), "events": len(site.timeline), "expected": len(site.expected)}
    return SiteSummary(name=site.name, title=site.title, path=toml.parent, **counts)


def _dossiers() -> dict[str, Path]:
    """Return the name of every dossier that comes with changedet, and its ``site.toml``."""
    return {toml.parent.name: toml for toml in sorted(seeds_root().glob("*/site.toml"))}


def _find(name_or_path: str | Path) -> Path:
    """Return the ``site.toml`` meant: a bare word is a name first, then a path."""
    path, text = Path(name_or_path), str(name_or_path)
    bare = isinstance(name_or_path, str) and path.name == text and path.suffix != ".toml"
    known = _dossiers() if bare else {}
    if text in known:
        return known[text]
    toml = path / "site.toml" if path.is_dir() else path
    if toml.is_file():
        return toml
    if bare:
        raise SiteError(f"no site {text!r}{_hint(text, known)}; or give the path of a site.toml")
    raise SiteError(f"no dossier at {toml}; wanted a site.toml, or a folder that holds one")


def _read(toml: Path) -> Site:
    """Read every file of a dossier; check each entry against its record, then all together."""
    folder = toml.parent
    try:
        raw = tomllib.loads(_text(toml))
    except tomllib.TOMLDecodeError as err:
        raise SiteError(f"{toml}: not TOML: {err}") from err
    _known_keys(raw, [name for name in Site.model_fields if name not in _FROM_FILES], str(toml))
    whole = {**raw, **{name: _entries(toml, name, raw.get(name, [])) for name in _LISTS}}
    whole["aoi"] = union_all([feature["geometry"] for feature in _features(folder / "aoi.geojson")])
    whole["timeline"] = _timeline(folder / "timeline.csv")
    whole["expected"] = _expected(folder / "expected.geojson")
    site = _record(Site, whole, str(toml))
    _check_references(site, str(toml))
    _check_values(site, str(toml))
    return site


def _entries(toml: Path, name: str, raw: Any) -> tuple[Record, ...]:
    """Read the entries ``[[name]]`` of a ``site.toml``; banks and axes get their lines from GeoJSON."""
    if not isinstance(raw, list) or not all(isinstance(one, dict) for one in raw):
        raise SiteError(f"{toml}: wanted one or more [[{name}]] tables, not {raw!r}")
    if "geometry" in _LISTS[name].model_fields and raw:
        path = toml.with_name(f"{name}.geojson")
        shapes = {str(feature.get("id", "")): feature for feature in _features(path)}
        raw = [_shaped(entry, shapes, path) for entry in raw]
    return tuple(_record(_LISTS[name], one, f"{toml} [[{name}]] {n}") for n, one in enumerate(raw, 1))


def _text(path: Path) -> str:
    """Read a text file of a dossier."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as err:
        raise SiteError(f"{path}: cannot be read ({err}); a dossier needs it, see seeds/README.md") from err


def _features(path: Path) -> list[dict[str, Any]]:
    """Read GeoJSON features as their properties, with ``geometry`` a shapely geometry."""
    from shapely.errors import ShapelyError
    from shapely.geometry import shape

    try:
        found = json.loads(_text(path))["features"]
        return [{**(one["properties"] or {}), "geometry": shape(one["geometry"])} for one in found]
    except (ValueError, KeyError, TypeError, AttributeError, ShapelyError) as err:
        problem = f"{type(err).__name__}: {err}"
        raise SiteError(f"{path}: not a FeatureCollection of properties and geometry ({problem})") from err


def _shaped(entry: Mapping[str, Any], shapes: Mapping[str, Mapping[str, Any]], path: Path) -> dict[str, Any]:
    """Give an entry the geometry of the feature with its id; what both files say must agree."""
    name = str(entry.get("id", ""))
    if name not in shapes:
        raise SiteError(f"{path}: no feature with id {name!r}{_hint(name, shapes)}")
    for key, value in shapes[name].items():
        if key in entry and entry[key] != value:
            raise SiteError(f"{path}: {key} of {name!r} is {value!r}, but site.toml says {entry[key]!r}")
    return {**entry, **shapes[name]}


def _timeline(path: Path) -> tuple[Event, ...]:
    """Read the timeline, oldest first; a dossier may have none."""
    if not path.exists():
        return ()
    rows = csv.DictReader(_text(path).splitlines())
    events = [_record(Event, _row(row), f"{path} line {rows.line_num}") for row in rows]
    return tuple(sorted(events, key=lambda event: (event.date, event.date_end)))


def _row(row: Mapping[str | None, Any]) -> dict[str, Any]:
    """Leave out empty cells; cells beyond the header become an unknown key."""
    return {key or "(beyond the header)": value for key, value in row.items() if value not in ("", None)}


def _expected(path: Path) -> tuple[Expected, ...]:
    """Read the expected structures; a dossier may have none."""
    if not path.exists():
        return ()
    return tuple(_record(Expected, raw, f"{path} feature {n}") for n, raw in enumerate(_features(path), 1))


def _record(kind: type[_Model], raw: Mapping[str, Any], where: str) -> _Model:
    """Build a record, or say what was seen and wanted, and where."""
    _known_keys(raw, kind.model_fields, where)
    try:
        return kind.model_validate(dict(raw))
    except ValidationError as err:
        raise SiteError(f"{where}: {'; '.join(_problem(one) for one in err.errors()[:3])}") from err


def _known_keys(raw: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Refuse keys that the record does not have, naming the nearest that it has."""
    for key in raw:
        if key not in known:
            raise SiteError(f"{where}: unknown key {key!r}{_hint(key, known)}")


def _problem(error: Mapping[str, Any]) -> str:
    """Say one validation problem in a few words."""
    key = ".".join(str(part) for part in error["loc"][:1])
    if error["type"] == "missing":
        return f"{key} is missing"
    return f"{key} = {str(error['input'])[:80]!r}: {error['msg']}"


def _check_references(site: Site, where: str) -> None:
    """Every id that an entry names must exist, once."""
    banks, axes, sources = ([one.id for one in entries] for entries in (site.banks, site.axes, site.sources))
    for ids in (banks, axes, sources, [one.id for one in site.expected]):
        for twice in {name for name in ids if ids.count(name) > 1}:
            raise SiteError(f"{where}: two entries have the id {twice!r}; give each its own")
    cites: list[Axis | Fact | Event | Expected] = [*site.axes, *site.facts, *site.timeline, *site.expected]
    named: list[tuple[str, list[str | None], list[str]]] = [
        ("source", [one.source for one in cites], sources),
        ("bank", [bank for axis in site.axes for bank in (axis.from_bank, axis.to_bank)], banks),
        ("bank", [one.bank for one in site.expected], banks),
        ("bank", [one.where for one in site.timeline], [*banks, "both", "river"]),
        ("axis", [*(one.axis for one in site.controls), *(one.axis for one in site.expected)], axes),
    ]
    for what, names, known in named:
        for name in names:
            if name is not None and name not in known:
                raise SiteError(f"{where}: no {what} {name!r}{_hint(name, known)}")


def _check_values(site: Site, where: str) -> None:
    """The CRS must be projected in metres, axes cross the area, dates run forward, facts say one thing."""
    from pyproj import CRS

    _project(site.aoi, site.crs)  # a CRS that cannot be used is named by our own error
    if {axis.unit_name for axis in CRS(site.crs).axis_info} != {"metre"}:
        raise SiteError(f"{where}: crs {site.crs} is not projected in metres; wanted one like EPSG:32652")
    for axis in site.axes:
        if not axis.geometry.intersects(site.aoi):
            raise SiteError(f"{where}: axis {axis.id!r} lies outside aoi.geojson; is it lon before lat?")
    spans = [(event.what, [event.date, event.date_end]) for event in site.timeline]
    spans += [(one.id, [d for d in (one.not_before, one.seen_by, one.gone_by) if d]) for one in site.expected]
    for what, days in spans:
        if days != sorted(days):
            raise SiteError(f"{where}: {what!r}: dates run backward: {', '.join(map(str, days))}")
    for fact in site.facts:
        if (fact.value is None) == (fact.text == ""):
            raise SiteError(f"{where}: fact about {fact.about!r}: wanted either a value or a text")


def _pick(entries: tuple[_Entry, ...], name: str, problem: str) -> _Entry:
    """Return the entry of that id, or fail with the nearest."""
    for entry in entries:
        if entry.id == name:
            return entry
    raise SiteError(f"{problem} {name!r}{_hint(name, [entry.id for entry in entries])}")


def _hint(name: str, known: Iterable[str]) -> str:
    """Return the nearest known name and the list of them, to follow a name that is not known."""
    names = sorted(known)
    return f"{nearest(name, names)} (known: {', '.join(names) or 'none'})"


def _project(geometry: _Shape, crs: Any, start: Any = LONLAT) -> _Shape:
    """Move a geometry from ``start`` to ``crs``; x before y on both sides."""
    from pyproj import Transformer
    from pyproj.exceptions import ProjError
    from shapely import transform

    try:
        mover = Transformer.from_crs(start, crs, always_xy=True)
        return transform(geometry, lambda xy: np.column_stack(mover.transform(*xy.T, errcheck=True)))
    except ProjError as err:
        raise CRSError(f"{crs!r} cannot be used as a CRS here ({err}); wanted one like 'EPSG:32652'") from err


def _plain(value: Any) -> Any:
    """Turn records, dates and geometries into plain JSON values."""
    if isinstance(value, BaseModel):
        return {name: _plain(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, BaseGeometry):
        from shapely import to_geojson

        return json.loads(to_geojson(value))
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value.isoformat() if isinstance(value, dt.date) else value
