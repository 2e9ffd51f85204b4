"""Vectors: RFC 7946 GeoJSON, GeoPackages for QGIS, areas of interest."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
from shapely.affinity import translate
from shapely.geometry import shape

from changedet.errors import AOIError, CRSError, InputError, MissingInputError, UnreadableError, WriteError
from changedet.io.vector import read_aoi, read_vector, write_geojson, write_gpkg


def frame(crs: str | None = "EPSG:32652") -> gpd.GeoDataFrame:
    """Three features of different kinds, with unknown values; one shell is clockwise, with a hole."""
    shapes = [
        shapely.box(0, 0, 10, 10),
        shapely.Polygon([(0, 0), (0, 10), (10, 10), (10, 0)], [[(2, 2), (4, 2), (4, 4)]]),
        shapely.MultiPolygon([shapely.box(0, 0, 1, 1), shapely.box(5, 5, 6, 6)]),
    ]
    table = {
        "id": ["a", "b", None],
        "x": [1.0, np.nan, np.inf],
        "seen": pd.to_datetime(["2024-01-01", "2024-02-03T04:05:06", None], format="ISO8601"),
        "n": pd.array([1, None, 3], dtype="Int64"),
        "kind": ["Brücke", None, 'say "pier"'],
    }
    moved = [translate(s, 500_000, 4_700_000) for s in shapes]
    return gpd.GeoDataFrame(table, geometry=moved, crs=crs)


def test_geojson_is_rfc_7946(tmp_path: Path) -> None:
    text = write_geojson(tmp_path / "s.geojson", frame()).read_text("utf-8")
    out = json.loads(text, parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))
    assert out["type"] == "FeatureCollection"
    assert "crs" not in out
    assert len(out["features"]) == 3
    for feature in out["features"]:
        geometry = shape(feature["geometry"])
        assert geometry.is_valid
        for polygon in getattr(geometry, "geoms", [geometry]):
            assert polygon.exterior.is_ccw
            assert not any(hole.is_ccw for hole in polygon.interiors)
        for x, y in shapely.get_coordinates(geometry):
            assert 128.9 < x < 129.1
            assert 42.4 < y < 42.5
            assert round(x, 7) == x
            assert round(y, 7) == y


def test_geojson_properties(tmp_path: Path) -> None:
    out = json.loads(write_geojson(tmp_path / "s.geojson", frame()).read_text("utf-8"))
    rows = [f["properties"] for f in out["features"]]
    assert [f["id"] for f in out["features"]] == ["a", "b", 3]
    assert [r["x"] for r in rows] == [1.0, None, None]
    assert [r["seen"] for r in rows] == ["2024-01-01", "2024-02-03T04:05:06Z", None]
    assert [r["n"] for r in rows] == [1, None, 3]
    assert [r["kind"] for r in rows] == ["Brücke", None, 'say "pier"']


def test_geojson_matches_geopandas_to_a_centimetre(tmp_path: Path) -> None:
    write_geojson(tmp_path / "s.geojson", frame())
    back = gpd.read_file(tmp_path / "s.geojson").to_crs("EPSG:32652")
    assert np.abs(back.area - frame().area).max() < 0.3
    assert back.geometry.distance(frame().geometry).max() == 0


def test_geojson_empty_and_missing_geometry(tmp_path: Path) -> None:
    empty = write_geojson(tmp_path / "none.geojson", frame().iloc[:0])
    assert json.loads(empty.read_text()) == {"type": "FeatureCollection", "features": []}
    one = frame().iloc[:1].set_geometry([None], crs="EPSG:32652")
    (feature,) = json.loads(write_geojson(tmp_path / "n.geojson", one).read_text())["features"]
    assert feature["geometry"] is None


def test_geojson_cuts_at_the_antimeridian(tmp_path: Path) -> None:
    around = shapely.Polygon([(179.5, -17), (-179.5, -17), (-179.5, -16), (179.5, -16)])
    write_geojson(tmp_path / "fiji.geojson", gpd.GeoDataFrame(geometry=[around], crs="EPSG:4326"))
    back = gpd.read_file(tmp_path / "fiji.geojson").geometry[0]
    assert back.geom_type == "MultiPolygon"
    assert back.area == pytest.approx(1.0)
    assert sorted(round(v, 6) for p in back.geoms for v in p.bounds[::2]) == [-180, -179.5, 179.5, 180]


def test_geojson_of_an_invalid_outline_is_valid(tmp_path: Path) -> None:
    bow = shapely.Polygon([(0, 0), (1, 1), (1, 0), (0, 1)])
    path = write_geojson(tmp_path / "bow.geojson", gpd.GeoDataFrame(geometry=[bow], crs="EPSG:4326"))
    assert gpd.read_file(path).geometry.is_valid.all()


def test_geojson_needs_a_crs(tmp_path: Path) -> None:
    with pytest.raises(CRSError, match="GeoPackage"):
        write_geojson(tmp_path / "s.geojson", frame(None))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("crs", ["EPSG:32652", None])
def test_gpkg_layers_tables_styles(tmp_path: Path, crs: str | None) -> None:
    table = pd.DataFrame({"id": ["a", "a"], "seen": ["seen", "absent"], "area_m2": [1.5, np.nan]})
    path = write_gpkg(
        tmp_path / "out.gpkg",
        {"structures": frame(crs), "observations": table, "alarms": frame(crs).iloc[:0]},
        {"structures": "<qgis/>"},
    )
    kinds = dict(pyogrio.list_layers(path))
    assert set(kinds) == {"structures", "observations", "alarms", "layer_styles"}
    assert kinds["observations"] is None
    back = gpd.read_file(path, layer="structures")
    assert back.geometry.area.tolist() == frame().geometry.area.tolist()
    assert back["x"].isna().tolist() == [False, True, True]
    assert list(gpd.read_file(path, layer="alarms").columns) == list(frame().columns)
    if crs is not None:
        assert back.crs == crs
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
        srs = dict(database.execute("select table_name, srs_id from gpkg_contents").fetchall())
        style = database.execute("select f_table_name, styleQML, useAsDefault from layer_styles").fetchall()
    assert srs["structures"] == (32652 if crs else -1)
    assert style == [("structures", "<qgis/>", 1)]


def test_gpkg_same_content_same_bytes(tmp_path: Path) -> None:
    layers = {"structures": frame(), "observations": pd.DataFrame({"id": ["a"]})}
    one = write_gpkg(tmp_path / "one.gpkg", layers, {"structures": "<qgis/>"}).read_bytes()
    assert write_gpkg(tmp_path / "two.gpkg", layers, {"structures": "<qgis/>"}).read_bytes() == one


def test_gpkg_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "out.gpkg").write_bytes(b"old")
    with pytest.raises(AttributeError):
        write_gpkg(tmp_path / "out.gpkg", {"structures": frame(), "bad": "no frame"})
    assert [p.name for p in tmp_path.iterdir()] == ["out.gpkg"]
    assert (tmp_path / "out.gpkg").read_bytes() == b"old"
    with pytest.raises(InputError, match="style"):
        write_gpkg(tmp_path / "x.gpkg", {"a": frame()}, {"b": "<qgis/>"})


def test_gpkg_on_a_full_disk_is_a_write_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise pyogrio.errors.DataSourceError("disk is full")

    monkeypatch.setattr(pyogrio, "write_dataframe", full)
    with pytest.raises(WriteError, match="disk is full") as caught:
        write_gpkg(tmp_path / "out.gpkg", {"a": frame()})
    assert caught.value.exit_status == 1
    assert not list(tmp_path.iterdir())


def test_read_aoi_is_lon_lat(tmp_path: Path) -> None:
    frame().to_file(tmp_path / "aoi.gpkg")
    aoi = read_aoi(tmp_path / "aoi.gpkg")
    assert aoi.geom_type in ("Polygon", "MultiPolygon")
    assert aoi.bounds == pytest.approx((129.0, 42.452331, 129.0001216, 42.452421), abs=1e-6)


def features(*geometries: dict[str, object] | None) -> str:
    """GeoJSON text of some geometries."""
    parts = [{"type": "Feature", "properties": {}, "geometry": g} for g in geometries]
    return json.dumps({"type": "FeatureCollection", "features": parts})


def polygon(*corners: tuple[float, float]) -> dict[str, object]:
    """GeoJSON polygon."""
    return {"type": "Polygon", "coordinates": [[*corners, corners[0]]]}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (features(None), "no area"),
        (features(polygon((0, 0), (1, 1), (1, 0), (0, 1))), "invalid"),
        (features(polygon((179, 0), (181, 0), (181, 1))), "antimeridian"),
        (features(polygon((-179, 0), (179, 0), (179, 1))), "antimeridian"),
        (features(polygon((0, 0), (1, 0), (1, 91))), "latitude"),
    ],
)
def test_read_aoi_refuses(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "aoi.geojson").write_text(text)
    with pytest.raises(AOIError, match=words):
        read_aoi(tmp_path / "aoi.geojson")


def test_read_vector_errors(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError):
        read_vector(tmp_path / "no.gpkg")
    (tmp_path / "text.geojson").write_text("hello")
    with pytest.raises(UnreadableError, match="vectors"):
        read_vector(tmp_path / "text.geojson")
    write_gpkg(tmp_path / "t.gpkg", {"t": pd.DataFrame({"a": [1]})})
    with pytest.raises(UnreadableError, match="without geometries"):
        read_vector(tmp_path / "t.gpkg")
    with pytest.raises(UnreadableError):
        read_vector(tmp_path / "t.gpkg", layer="other")
