"""Every dossier in seeds/ is sound, and a bad one says what is wrong with it."""

from __future__ import annotations

import csv
import json
import shutil
import tomllib
from pathlib import Path

import jsonschema
import pytest
from pydantic import ValidationError
from pyproj import CRS, Geod
from shapely import Point, box
from shapely.geometry import shape

from changedet.columns import AXES
from changedet.errors import CRSError, SiteError
from changedet.sites import (
    Axis,
    Bank,
    Control,
    Expected,
    Fact,
    Site,
    Source,
    list_sites,
    load_site,
    seeds_root,
)

SEEDS = Path(__file__).resolve().parents[1] / "seeds"
NAMES = sorted(path.parent.name for path in SEEDS.glob("*/site.toml"))
SCHEMA = json.loads((SEEDS / "site.schema.json").read_text(encoding="utf-8"))
GEOD = Geod(ellps="WGS84")


def tumen() -> Site:
    return load_site("tumen")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a good dossier, to be spoilt."""
    return Path(shutil.copytree(SEEDS / "tumen", tmp_path / "mine"))


def spoil(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


# ---- every dossier


def test_there_are_dossiers_and_the_list_has_them_all():
    assert NAMES
    assert [one.name for one in list_sites()] == NAMES
    assert seeds_root().name in ("seeds", "_seeds")


@pytest.mark.parametrize("name", NAMES)
def test_dossier_loads_and_is_named_as_its_folder(name):
    site = load_site(name)
    assert site.name == name
    assert load_site(SEEDS / name) == load_site(SEEDS / name / "site.toml") == site
    summary = next(one for one in list_sites() if one.name == name)
    assert (summary.title, summary.axes, summary.events, summary.expected) == (
        site.title, len(site.axes), len(site.timeline), len(site.expected),
    )  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_dossier_validates_against_the_schema(name):
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(tomllib.loads((SEEDS / name / "site.toml").read_text(encoding="utf-8")), SCHEMA)
    for path in (SEEDS / name).glob("*.geojson"):
        part = {"$ref": f"#/$defs/{path.name}", "$defs": SCHEMA["$defs"]}
        jsonschema.validate(json.loads(path.read_text(encoding="utf-8")), part)


@pytest.mark.parametrize("name", NAMES)
def test_polygons_run_counterclockwise_and_lie_by_the_area(name):
    site = load_site(name)
    for path in (SEEDS / name).glob("*.geojson"):
        for feature in json.loads(path.read_text(encoding="utf-8"))["features"]:
            geometry = shape(feature["geometry"])
            if geometry.geom_type == "Polygon":
                assert geometry.exterior.is_ccw, (path.name, feature["properties"])
    lines = [axis.geometry for axis in site.axes]
    assert all(site.aoi.contains(one) for one in [*lines, *(one.geometry for one in site.expected)])


@pytest.mark.parametrize("name", NAMES)
def test_axes_run_between_the_banks_they_name(name):
    site = load_site(name)
    for axis in site.axes:
        start, end = Point(axis.geometry.coords[0]), Point(axis.geometry.coords[-1])
        near, far = site.bank(axis.from_bank).geometry, site.bank(axis.to_bank).geometry
        assert start.distance(near) < start.distance(far)
        assert end.distance(far) < end.distance(near)


@pytest.mark.parametrize("kind, key", [
    (Bank, "banks"), (Axis, "axes"), (Control, "controls"), (Source, "sources"), (Fact, "facts"),
])  # fmt: skip
def test_schema_names_the_keys_the_loader_knows(kind, key):
    assert set(SCHEMA["properties"][key]["items"]["properties"]) == set(kind.model_fields) - {"geometry"}


def test_schema_of_the_whole_and_of_expected_agree_with_the_loader():
    assert set(SCHEMA["properties"]) == set(Site.model_fields) - {"aoi", "timeline", "expected"}
    feature = SCHEMA["$defs"]["expected.geojson"]["properties"]["features"]["items"]["properties"]
    assert set(feature["properties"]["properties"]) == set(Expected.model_fields) - {"geometry"}


# ---- the Tumen


def middle(axis: Axis) -> tuple[float, float]:
    (lon0, lat0), (lon1, lat1) = axis.geometry.coords
    return (lon0 + lon1) / 2, (lat0 + lat1) / 2


def test_rail_bridge_is_where_and_as_long_as_published():
    rail = tumen().axis("rail")
    assert rail.role == "control"
    assert GEOD.geometry_length(rail.geometry) == pytest.approx(623, abs=1)
    lon, lat = middle(rail)
    assert GEOD.inv(lon, lat, 130 + 38 / 60 + 28 / 3600, 42 + 24 / 60 + 55 / 3600)[2] < 2


def test_road_axis_is_400_to_500_m_downstream_toward_the_sea():
    rail, road = tumen().axis("rail"), tumen().axis("road")
    assert road.role == "expected"
    azimuth, _, distance = GEOD.inv(*middle(rail), *middle(road))
    assert 400 <= distance <= 500
    assert 90 < azimuth < 180  # the sea lies to the south-east
    assert azimuth == pytest.approx(tumen().downstream_bearing_deg, abs=1)
    assert GEOD.inv(*middle(road), 130.642, 42.412)[2] <= road.uncertainty_m
    longest = max(fact.value for fact in tumen().figures("road bridge length"))
    assert GEOD.geometry_length(road.geometry) == pytest.approx(longest, abs=2)


def test_banks_are_on_their_sides_and_the_river_about_1_km_wide_at_the_road():
    site = tumen()
    west, east = site.bank("north-korea"), site.bank("russia")
    assert (west.side, east.side) == ("west", "east")
    assert west.geometry.centroid.x < east.geometry.centroid.x
    line = site.axis("road").geometry
    crossings = [line.intersection(bank.geometry) for bank in (west, east)]
    width = GEOD.inv(crossings[0].x, crossings[0].y, crossings[1].x, crossings[1].y)[2]
    assert width == pytest.approx(1000, abs=20)


def test_control_corridor_holds_the_rail_bridge_and_stays_clear_of_the_road():
    site = tumen()
    corridor = site.control_geometry("EPSG:32652")
    assert corridor.area == pytest.approx(2 * 60 * 623, rel=0.01)
    lonlat = site.control_geometry(4326)
    assert lonlat.contains(site.axis("rail").geometry.interpolate(0.5, normalized=True))
    assert not lonlat.intersects(site.axis("road").geometry)
    assert not any(lonlat.intersects(one.geometry) for one in site.expected)


def test_rival_figures_stay_side_by_side():
    figures = tumen().figures("road bridge length")
    assert {(fact.value, fact.bound) for fact in figures} == {(1005, ""), (850, ""), (1300, "at least")}
    assert len({fact.source for fact in figures}) == 3
    parts = ("Russian part", "North Korean part")
    assert sum(tumen().figures(f"road bridge length, {part}")[0].value for part in parts) == 1005


def test_two_reports_of_the_north_korean_reach_are_both_kept():
    reach = {one.id: one for one in tumen().expected if one.kind == "causeway" and one.bank == "north-korea"}
    assert {one.length_m for one in reach.values()} == {150, 500}
    for one in reach.values():  # they begin at the bank and end in the river
        ends = tumen().bank("north-korea").geometry
        assert one.geometry.buffer(1e-5).intersects(ends)


def test_the_early_pontoon_is_gone_before_the_bridge_begins():
    pontoon = next(one for one in tumen().expected if one.kind == "pontoon")
    start = next(event.date for event in tumen().timeline if "Ground-breaking" in event.what)
    assert pontoon.seen_by < pontoon.gone_by < start


def test_timeline_is_in_order_and_complete():
    rows = list(csv.DictReader((SEEDS / "tumen" / "timeline.csv").read_text(encoding="utf-8").splitlines()))
    events = tumen().timeline
    assert len(events) == len(rows)
    assert [event.date for event in events] == sorted(event.date for event in events)
    assert {event.where for event in events} == {"north-korea", "russia", "both", "river"}


# ---- what a Site can do


def test_aoi_in_a_projected_crs_has_the_geodesic_size():
    site = tumen()
    geodesic = abs(GEOD.geometry_area_perimeter(site.aoi)[0])
    assert site.aoi_in("EPSG:32652").area == pytest.approx(geodesic, rel=2e-3)  # UTM scale at 1.6 degrees off
    assert site.aoi_in(4326).equals_exact(site.aoi, 1e-9)


def test_control_geometry_is_none_without_controls():
    assert tumen().model_copy(update={"controls": ()}).control_geometry(32652) is None


@pytest.mark.parametrize("crs", ["EPSG:32652", 4326])
def test_axes_frame_is_the_table_of_axes(crs):
    frame = tumen().axes_frame(crs)
    assert frame.crs == CRS(crs)
    assert list(frame.columns) == [column.name for column in AXES] + ["geometry"]
    assert list(frame["axis"]) == ["rail", "road"]
    assert frame["length_m"].to_list() == pytest.approx([623, 1300], rel=1e-3)
    assert frame.geometry.to_crs(4326).iloc[0].equals_exact(tumen().axis("rail").geometry, 1e-9)


def test_a_crs_that_cannot_be_used_is_named():
    for use in (tumen().aoi_in, tumen().control_geometry, tumen().axes_frame):
        with pytest.raises(CRSError, match="EPSG:0"):
            use("EPSG:0")


def test_to_dict_is_plain_json_and_loses_nothing():
    site = tumen()
    plain = json.loads(json.dumps(site.to_dict(), allow_nan=False))
    assert plain == site.to_dict()
    assert plain["timeline"][0]["date"] == "2025-02-01"
    assert shape(plain["axes"][0]["geometry"]).equals(site.axis("rail").geometry)
    assert plain["expected"][0]["width_m"] is None
    assert set(plain) == set(Site.model_fields)


def test_records_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        tumen().title = "another"
    with pytest.raises(ValidationError, match="frozen"):
        tumen().axes[0].role = "expected"


# ---- bad dossiers


def test_unknown_name_gets_the_nearest_and_the_list():
    with pytest.raises(SiteError, match=r"no site 'tumne'; did you mean 'tumen'\? \(known: .*tumen"):
        load_site("tumne")
    with pytest.raises(LookupError):
        load_site("nowhere")


def test_unknown_lookups_get_the_nearest():
    with pytest.raises(SiteError, match="did you mean 'rail'"):
        tumen().axis("raill")
    with pytest.raises(SiteError, match="did you mean 'russia'"):
        tumen().bank("rusia")
    with pytest.raises(SiteError, match="did you mean 'road bridge length'"):
        tumen().figures("road bridge lenght")


def test_a_path_that_holds_no_dossier_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "site.toml", str(tmp_path / "nothing")):
        with pytest.raises(SiteError, match=r"wanted a site\.toml"):
            load_site(path)


def test_a_bare_word_is_a_name_before_it_is_a_path(tmp_path, monkeypatch):
    shutil.copytree(SEEDS / "tumen", tmp_path / "tumen")
    shutil.copytree(SEEDS / "tumen", tmp_path / "other")
    for name in ("tumen", "other"):
        spoil(tmp_path / name / "site.toml", 'title = "Tumen', 'title = "Copied')
    monkeypatch.chdir(tmp_path)
    assert load_site("tumen").title.startswith("Tumen")
    assert load_site("other").title.startswith("Copied")


def test_a_dossier_needs_little(tmp_path):
    (tmp_path / "site.toml").write_text(
        'format = 1\nname = "small"\ntitle = "A"\nsummary = "B"\ncrs = "EPSG:32652"\n', encoding="utf-8"
    )
    ring = [[130, 42], [130.1, 42], [130.1, 42.1], [130, 42]]
    feature = {"type": "Feature", "properties": None, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    (tmp_path / "aoi.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    site = load_site(tmp_path)
    assert site.banks == site.axes == site.timeline == site.expected == ()
    assert site.aoi.area == pytest.approx(0.005)


@pytest.mark.parametrize("file, old, new, message", [
    ("site.toml", "summary =", "sumary =", "unknown key 'sumary'; did you mean 'summary'"),
    ("site.toml", "half_width_m", "halfwidth_m", "unknown key 'halfwidth_m'; did you mean 'half_width_m'"),
    ("site.toml", "format = 1", "format = 2", "format = '2': Input should be 1"),
    ("site.toml", 'side = "west"', 'side = "left"', r"\[\[banks\]\] 1: side = 'left'"),
    ("site.toml", 'id = "rail"', 'id = "rial"', "no feature with id 'rial'; did you mean 'rail'"),
    ("site.toml", 'axis = "rail"', 'axis = "raill"', "no axis 'raill'; did you mean 'rail'"),
    ("site.toml", 'to_bank = "russia"', 'to_bank = "rusia"', "no bank 'rusia'; did you mean 'russia'"),
    ("site.toml", 'source = "tass"', 'source = "tas"', "no source 'tas'; did you mean 'tass'"),
    ("site.toml", 'id = "tass"', 'id = "order-2025"', "two entries have the id 'order-2025'"),
    ("site.toml", "uncertainty_m = 120", "uncertainty_m = 12", "of 'rail' is 120, but site.toml"),
    ("site.toml", 'crs = "EPSG:32652"', 'crs = "EPSG:4326"', "not projected in metres"),
    ("site.toml", 'crs = "EPSG:32652"', 'crs = "EPSG:2263"', "not projected in metres"),
    ("site.toml", "value = 850\n", "", "wanted either a value or a text"),
    ("site.toml", "value = 850\n", 'value = "long"\n', r"\[\[facts\]\] 2: value = 'long'"),
    ("site.toml", 'date = "2024/2025"', 'date = "lately"', "date = 'lately'"),
    ("site.toml", "[[banks]]", "[banks]", "not TOML"),
    ("site.toml", "frozen_months = [12", "frozen_months = [13", "frozen_months = '13'"),
    ("aoi.geojson", '"features"', '"feature"', "not a FeatureCollection"),
    ("aoi.geojson", "[130.662, 42.4]", "[6636, 4697]", "6636, 4697 is not lon/lat"),
    ("aoi.geojson", "[130.662, 42.4], [130.662, 42.426]", "[130.662, 42.426], [130.662, 42.4]", "self-cro"),
    ("axes.geojson", "LineString", "MultiPoint", "instance of LineString"),
    ("timeline.csv", "2025-03-14,2025-03-14", "2025-03-14,2025-03-01", "dates run backward"),
    ("timeline.csv", "2025-03-14,2025-03-14", "March,2025-03-14", "timeline.csv line 4: date = 'March'"),
    ("timeline.csv", "2025-05-15,", "2025-05-15,extra,2025-05-15,", "beyond the header"),
    ("timeline.csv", "both,sar", "bith,sar", "no bank 'bith'; did you mean 'both'"),
    ("timeline.csv", "date,date_end", "date,dateend", "unknown key 'dateend'; did you mean 'date_end'"),
    ("expected.geojson", '"kind": "pontoon"', '"kind": "raft"', "feature 1: kind = 'raft'"),
    ("expected.geojson", '"gone_by": "2025-03-21"', '"gone_by": "2025-01-21"', "dates run backward"),
])  # fmt: skip
def test_a_fault_is_named_with_its_file(folder, file, old, new, message):
    spoil(folder / file, old, new)
    with pytest.raises(SiteError, match=message) as caught:
        load_site(folder)
    assert str(folder) in str(caught.value)
    assert caught.value.exit_status == 2


def test_a_list_must_be_a_list_of_tables(folder):
    text = (folder / "site.toml").read_text(encoding="utf-8")
    (folder / "site.toml").write_text(text.split("[[banks]]")[0] + "banks = [1, 2]\n", encoding="utf-8")
    with pytest.raises(SiteError, match=r"wanted one or more \[\[banks\]\] tables, not \[1, 2\]"):
        load_site(folder)


@pytest.mark.parametrize("file", ["aoi.geojson", "banks.geojson", "axes.geojson"])
def test_a_missing_or_binary_file_is_named(folder, file):
    (folder / file).write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(SiteError, match=file):
        load_site(folder)
    (folder / file).unlink()
    with pytest.raises(SiteError, match=file):
        load_site(folder)


def test_an_axis_outside_the_area_is_named(folder):
    path = folder / "axes.geojson"
    whole = json.loads(path.read_text(encoding="utf-8"))
    whole["features"][1]["geometry"]["coordinates"] = [[130.1, 42.1], [130.2, 42.1]]
    path.write_text(json.dumps(whole), encoding="utf-8")
    with pytest.raises(SiteError, match=r"axis 'road' lies outside aoi.geojson"):
        load_site(folder)


def crossing(folder: Path, *boxes: tuple[float, float, float, float]) -> Site:
    """Give a dossier without lines an area made of boxes."""
    text = (folder / "site.toml").read_text(encoding="utf-8")
    head = text.split("[[banks]]")[0].replace("EPSG:32652", "EPSG:32660")
    (folder / "site.toml").write_text(head, encoding="utf-8")
    for name in ("timeline.csv", "expected.geojson"):
        (folder / name).unlink()
    parts = [json.loads(json.dumps(box(*one).__geo_interface__)) for one in boxes]
    features = [{"type": "Feature", "properties": {}, "geometry": part} for part in parts]
    (folder / "aoi.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return load_site(folder)


def test_an_area_across_the_antimeridian_is_cut_in_two(folder):
    site = crossing(folder, (179.99, 65, 180, 65.01), (-180, 65, -179.99, 65.01))
    geodesic = abs(GEOD.geometry_area_perimeter(box(179.99, 65, 180.01, 65.01))[0])
    assert site.aoi_in("EPSG:32660").area == pytest.approx(geodesic, rel=2e-3)
    assert site.aoi_in("EPSG:32660").convex_hull.area == pytest.approx(geodesic, rel=5e-3)  # one piece again


def test_an_area_wound_around_the_globe_is_refused(folder):
    with pytest.raises(SiteError, match="cut it at the antimeridian"):
        crossing(folder, (-179.99, 65, 179.99, 65.01))


def test_no_dossiers_at_all_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr("changedet.sites.__file__", str(tmp_path / "changedet" / "sites.py"))
    with pytest.raises(SiteError, match="no dossiers"):
        list_sites()


def test_the_packaged_folder_comes_first(monkeypatch, tmp_path):
    for path in (tmp_path / "changedet" / "_seeds", tmp_path / "seeds"):
        path.mkdir(parents=True)
    monkeypatch.setattr("changedet.sites.__file__", str(tmp_path / "changedet" / "sites.py"))
    assert seeds_root() == tmp_path / "changedet" / "_seeds"
    (tmp_path / "changedet" / "_seeds").rmdir()
    assert seeds_root() == tmp_path / "seeds"
