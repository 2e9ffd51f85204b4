"""The main job from files to files: what is written, what is promised of it, and what is refused."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from itertools import pairwise
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
import rasterio
import xarray as xr
from affine import Affine
from pyproj import Transformer
from rio_cogeo.cogeo import cog_validate
from shapely.geometry import LineString, box

from changedet import columns, detector
from changedet.demo import compare, write_scenes
from changedet.errors import (
    ControlFailedError,
    InputError,
    MissingInputError,
    OutputPathError,
    TooFewScenesError,
    UnreadableError,
)
from changedet.grid import Grid, attach
from changedet.io.raster import write_cog
from changedet.io.stack import StackReader, open_stack
from changedet.metrics import Options as Scoring
from changedet.metrics import evaluate
from changedet.pipeline import Plan
from changedet.pipeline.run import FILES, NOT_COMPUTED, Result, detect, redraw, run
from changedet.scenes import make_stack
from changedet.simulate import SceneSettings, simulate
from changedet.sites import Axis, Control, Site
from changedet.steps.extent import SMALL_PX

BANDS = ("blue", "green", "red", "nir")
UTM = Grid.make("EPSG:32652", Affine(3, 0, 600_000, 0, -3, 4_700_000), (96, 96))
PIXELS = Grid.make(None, Affine.identity(), (96, 96))
COLORS = np.array([(0.06, 0.07, 0.05, 0.02), (0.03, 0.06, 0.04, 0.35), (0.10, 0.12, 0.16, 0.22)])
CONCRETE = np.array((0.30, 0.32, 0.33, 0.34))[:, None, None]
PIER, SLAB = (slice(30, 33), slice(20, 23)), (slice(70, 75), slice(74, 80))
TIMES, BEGIN = 10, 5
DATES = np.datetime64("2024-01-10") + np.arange(TIMES) * np.timedelta64(33, "D")
QUICK = Plan().with_set(["detector.sample_px=3000"])
LIST = ("structures.geojson",)


def values(seed=0, objects=(PIER, SLAB), shape=(96, 96)):
    """Reflectance (time, band, y, x) of water, plants and soil; concrete in the objects from date 5 on."""
    rng = np.random.default_rng(seed)
    which = np.zeros(shape, int)
    which[:, shape[1] // 2 :] = 1
    which[shape[0] * 5 // 8 :, shape[1] * 5 // 8 :] = 2
    base = COLORS[which].transpose(2, 0, 1) * rng.normal(1, 0.05, (1, *shape))
    image = base * rng.normal(1, 0.03, (TIMES, 4, 1, 1)) * rng.normal(1, 0.02, (TIMES, 4, *shape))
    for window in objects:
        size = tuple(part.stop - part.start for part in window)
        fresh = CONCRETE * rng.normal(1, 0.02, (TIMES - BEGIN, 4, *size))
        image[(slice(BEGIN, None), slice(None), *window)] = fresh
    return image.astype(np.float32)


def stack_of(image, grid=UTM):
    return make_stack(image, grid, dates=DATES, bands=BANDS)


def write_files(folder, image, grid=UTM):
    """Write scenes as plain GeoTIFFs of scaled integers, dated by their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for one, date in zip(image, DATES, strict=True):
        stored = np.where(np.isfinite(one), np.round(one * 1e4), 0).astype(np.uint16)
        name = f"scene_{str(date).replace('-', '')}.tif"
        coords = {"band": np.array(BANDS, dtype=object)}
        write_cog(folder / name, attach(stored, grid, dims=("band", "y", "x"), coords=coords), nodata=0)
    return folder


def digest(folder):
    """Name → checksum of the files of a folder."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def record_of(out):
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads((out / "run.json").read_text(encoding="utf-8"), parse_constant=refuse)


def block(window, grid=UTM):
    """The outline of a window of pixels."""
    rows, cols = window
    (left, top), (right, bottom) = (grid.transform @ (c, r) for c, r in
                                    ((cols.start, rows.start), (cols.stop, rows.stop)))  # fmt: skip
    return box(left, bottom, right, top)


def day(index):
    return f"{DATES[index]}T00:00:00Z"


@pytest.fixture(scope="module")
def simulated():
    return simulate(SceneSettings(shape_px=(160, 160), n_dates=16, cloudiness=0.1, haze=0.1))


@pytest.fixture(scope="module")
def finished(simulated, tmp_path_factory):
    """Simulated scenes and the run of them: folder of the scenes, output folder, result, stages told."""
    root = tmp_path_factory.mktemp("job")
    write_scenes(simulated, root / "scenes")
    before = digest(root / "scenes")
    stages = []
    result = run([root / "scenes"], root / "out", QUICK, progress=lambda *told: stages.append(told))
    assert digest(root / "scenes") == before
    return root / "scenes", root / "out", result, stages


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Folder of ten hand-made scenes with two objects."""
    return write_files(tmp_path_factory.mktemp("small") / "scenes", values())


@pytest.fixture(scope="module")
def plain():
    """Result of the hand-made stack, in memory."""
    return detect(stack_of(values()), plan=QUICK)


# --------------------------------------------------------------------------------------------- what is found


def test_what_is_built_is_found_where_and_when_it_is(plain):
    found = plain.structures
    assert isinstance(plain, Result) and len(found) == 2
    for (_, row), window, over in zip(found.iterrows(), (PIER, SLAB), ("water", "land"), strict=True):
        assert row.geometry.symmetric_difference(block(window)).area < 0.1 * block(window).area
        assert (
            row["area_m2"] == pytest.approx(row.geometry.area) == pytest.approx(block(window).area, rel=0.1)
        )
        assert (row["last_absent"], row["first_seen"]) == (day(BEGIN - 1), day(BEGIN))
        assert (row["last_absent_scene"], row["first_seen_scene"]) == (day(4)[:10], day(5)[:10])
        assert row["status"] == "persistent" and row["over"] == over and row["last_seen"] == day(TIMES - 1)
        assert (row["n_before"], row["n_after"], row["n_after_unfrozen"], row["n_seen"]) == (5, 5, 5, 5)
    assert found["bank_m"][0] == pytest.approx((48 - 21) * 3, abs=3) and found["bank_m"][1] < 0
    assert found["length_m"][1] == pytest.approx(18) and found["width_m"][1] == pytest.approx(15)


def test_the_rasters_show_the_structures(plain):
    first = int(day(5)[:10].replace("-", ""))
    for name, numbers in {"labels": (1, 2), "first_seen": (first, first)}.items():
        image = getattr(plain, name)
        expected = np.zeros(UTM.shape, np.uint32)
        for number, shape in zip(numbers, plain.structures.geometry, strict=True):
            expected[UTM.rasterize([shape])] = number
        np.testing.assert_array_equal(image.values, expected)
        assert image.dtype == np.uint32 and Grid.of(image).same_as(UTM)
    peak = plain.statistic.values
    assert peak[PIER].min() > np.quantile(peak, 0.99) and plain.statistic.dtype == np.float32


def test_the_composites_are_before_and_after(plain):
    before, after = plain.composite_before, plain.composite_after
    np.testing.assert_allclose(
        after.values[(slice(None), *PIER)].mean(axis=(1, 2)), CONCRETE[:, 0, 0], rtol=0.1
    )
    np.testing.assert_allclose(before.values[(slice(None), *PIER)].mean(axis=(1, 2)), COLORS[0], rtol=0.1)
    assert list(before.band.values) == list(BANDS) and before.dtype == np.float32


def test_without_works_nothing_is_found():
    nothing = detect(stack_of(values(seed=3, objects=())), plan=QUICK)
    assert len(nothing.structures) == 0 and not nothing.labels.values.any()
    assert list(nothing.structures.columns[:-1]) == [c.name for c in columns.STRUCTURES]


def test_structures_smaller_than_asked_for_are_alarms():
    plan = QUICK.with_set(["run.min_area_m2=100"])
    found = detect(stack_of(values()), plan=plan)
    assert len(found.structures) == 1 and found.structures["area_m2"][0] > 100
    small = found.alarms[found.alarms["reason"] == "too-small"]
    assert len(small) == 1
    assert small.geometry.iloc[0].symmetric_difference(block(PIER)).area < 1e-6
    assert not found.labels.values[PIER].any() and found.labels.values[SLAB].any()


def test_half_metre_scenes_are_worked_on_in_blocks_and_reported_on_their_own_grid():
    fine = Grid.make("EPSG:32652", Affine(0.6, 0, 600_000, 0, -0.6, 4_700_000), (192, 192))
    window = (slice(60, 72), slice(40, 52))  # 7.2 m
    found = detect(stack_of(values(objects=(window,), shape=fine.shape), fine), plan=QUICK)
    assert Grid.of(found.labels).same_as(fine) and Grid.of(found.composite_after).same_as(fine)
    (row,) = found.structures.itertuples()
    assert row.geometry.symmetric_difference(block(window, fine)).area < 0.4 * block(window, fine).area
    assert (row.last_absent, row.first_seen) == (day(4), day(5))


def test_most_of_what_is_found_in_a_simulated_scene_is_true(simulated, finished):
    _, _, result, _ = finished
    scores = evaluate(
        result.structures, simulated.truth, observations=result.observations, options=Scoring(pixel_m=3.0)
    )
    assert scores["objects"]["matched"] >= 3
    assert scores["objects"]["precision"] > 0.5
    table = compare(result, simulated.truth, 3.0)
    assert len([r for r in table if r["true"] != "nothing"]) == len(simulated.truth)
    assert len([r for r in table if r["found"] != "missed"]) == len(result.structures)


# --------------------------------------------------------------------------------------------- cutting work


def same_findings(one, other):
    pd.testing.assert_frame_equal(
        pd.DataFrame(one.structures.drop(columns="geometry")),
        pd.DataFrame(other.structures.drop(columns="geometry")),
        rtol=1e-3,
    )
    np.testing.assert_array_equal(one.labels.values, other.labels.values)
    np.testing.assert_allclose(one.statistic.values, other.statistic.values, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("chunk_px", [24, 40])
def test_a_run_in_chunks_equals_a_run_in_one(plain, chunk_px, monkeypatch):
    monkeypatch.setattr(detector, "TILE_PX", chunk_px)
    chunked = stack_of(values()).chunk({"time": 4, "y": chunk_px, "x": chunk_px})
    same_findings(plain, detect(chunked, plan=QUICK))
    assert len(plain.structures) == 2


@pytest.fixture(scope="module")
def lazily(small):
    """Result of the same files opened lazily, and how often windows of them were read."""
    read, windows = StackReader.read, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StackReader, "read", lambda self, window: windows.append(window) or read(self, window))
        stack = open_stack([small], chunk_px=96)
        assert stack.image.chunks is not None and not windows
        return detect(stack, plan=QUICK), len(windows)


def test_files_opened_lazily_give_the_same(small, lazily):
    same_findings(detect(open_stack([small]), plan=QUICK), lazily[0])


def test_files_opened_lazily_are_not_read_once_more_for_every_date(lazily):
    result, reads = lazily
    candidates = len(result.structures) + len(result.alarms)
    assert 1 <= reads <= 13 + candidates  # each looks at its own window


def test_threads_do_not_matter(plain, monkeypatch):
    monkeypatch.setattr(detector, "TILE_PX", 40)
    same_findings(plain, detect(stack_of(values()), plan=QUICK.with_set(["compute.workers=3"])))


def test_a_stack_is_left_alone():
    stack = stack_of(values())
    stack.image.values[2, :, :10] = np.nan
    kept = stack.copy(deep=True)
    stack.image.values.setflags(write=False)
    detect(stack, plan=QUICK)
    xr.testing.assert_identical(stack, kept)


# --------------------------------------------------------------------------------------------- files


def test_the_contracts_files_are_written(finished):
    _, out, result, _ = finished
    wanted = {
        "structures.geojson", "structures.gpkg", "structures.kmz", "statistic.tif", "first_seen.tif",
        "labels.tif", "composite_before.tif", "composite_after.tif", "report.html", "run.json", "plan.toml",
    }  # fmt: skip
    assert {p.name for p in out.iterdir()} == wanted == {*FILES, "run.json"}
    assert set(result.record["files"]) == wanted


def test_geojson_is_rfc_7946(finished):
    _, out, result, _ = finished
    data = json.loads((out / "structures.geojson").read_text(encoding="utf-8"))
    assert data["type"] == "FeatureCollection" and "crs" not in data
    assert len(data["features"]) == len(result.structures) > 0
    lonlat = result.structures.to_crs("EPSG:4326")
    for feature, shape in zip(data["features"], lonlat.geometry, strict=True):
        assert feature["type"] == "Feature" and feature["id"] == feature["properties"]["id"]
        assert list(feature["properties"]) == [c.name for c in columns.STRUCTURES]
        geometry = feature["geometry"]
        parts = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
        for shell, *holes in parts:
            for ring, sign in ((shell, 1), *((hole, -1) for hole in holes)):
                assert ring[0] == ring[-1] and len(ring) >= 4
                assert sign * sum((b[0] - a[0]) * (b[1] + a[1]) for a, b in pairwise(ring)) < 0
                assert all(len(point) == 2 for point in ring)
        back = gpd.GeoSeries.from_wkt([shape.wkt])[0]
        read = gpd.read_file(json.dumps(data)).geometry[data["features"].index(feature)]
        assert read.symmetric_difference(back).area < 0.01 * back.area


def test_the_geopackage_reads_back_in_the_native_crs(finished):
    _, out, result, _ = finished
    path = out / "structures.gpkg"
    layers = set(pyogrio.list_layers(path)[:, 0])
    assert layers == {"structures", "observations", "alarms", "axes", "progress", "layer_styles"}
    for name in ("structures", "alarms"):
        frame, expected = gpd.read_file(path, layer=name), getattr(result, name)
        assert frame.crs.to_epsg() == 32652
        assert list(frame.columns) == [c.name for c in columns.TABLES[name]] + ["geometry"]
        assert len(frame) == len(expected) and (frame["id"] == expected["id"]).all()
        assert frame.geometry.geom_equals(expected.geometry).all()
    table = pyogrio.read_dataframe(path, layer="observations", read_geometry=False)
    assert list(table.columns) == [c.name for c in columns.OBSERVATIONS]
    assert len(table) == len(result.observations)
    styled = pyogrio.read_dataframe(path, layer="layer_styles", read_geometry=False)
    assert {"structures", "alarms"} <= set(styled["f_table_name"])


@pytest.mark.parametrize(
    ("name", "dtype", "count"),
    [
        ("statistic", "float32", 1),
        ("first_seen", "uint32", 1),
        ("labels", "uint32", 1),
        ("composite_before", "float32", 4),
        ("composite_after", "float32", 4),
    ],
)
def test_rasters_are_cogs_on_the_grid_of_the_scenes(finished, simulated, name, dtype, count):
    _, out, result, _ = finished
    path = out / f"{name}.tif"
    valid, errors, _ = cog_validate(path)
    assert valid, errors
    with rasterio.open(path) as dataset:
        assert set(dataset.dtypes) == {dtype} and dataset.count == count
        assert np.isnan(dataset.nodata) if dtype == "float32" else dataset.nodata == 0
        assert dataset.crs.to_epsg() == 32652 and dataset.shape == (160, 160)
        assert dataset.transform.almost_equals(simulated.transform)
        if count == 4:
            assert dataset.descriptions == BANDS
        np.testing.assert_array_equal(np.squeeze(dataset.read()), getattr(result, name).values)


def test_labels_and_dates_agree_with_the_table(finished):
    _, out, result, _ = finished
    with rasterio.open(out / "labels.tif") as one, rasterio.open(out / "first_seen.tif") as two:
        labels, first = one.read(1), two.read(1)
    assert set(np.unique(labels)) == set(range(len(result.structures) + 1))
    for number, row in enumerate(result.structures.itertuples(), start=1):
        inside = labels == number
        # labels are the pixels touched; what fills none of them is smaller, by its light
        assert row.area_m2 <= inside.sum() * 9 * (1 + 1e-6)
        if inside.sum() > SMALL_PX:
            assert inside.sum() * 9 == pytest.approx(row.area_m2)
        assert set(first[inside]) == {int(row.first_seen[:10].replace("-", ""))}
        assert row.geometry.area == pytest.approx(row.area_m2)
    assert not first[labels == 0].any()


def test_every_structure_tells_one_story(finished):
    _, _, result, _ = finished
    record = result.record
    dates = [s["date"] for s in record["scenes"] if s["used"]]
    scene_of = {s["date"]: s["id"] for s in record["scenes"]}
    found, seen = result.structures, result.observations
    assert found["id"].is_unique and set(found["kind"]) <= set(columns.KINDS)
    assert set(found["status"]) <= set(columns.STATUSES)
    assert set(result.alarms["reason"]) <= set(columns.REASONS)
    assert len(seen) == len(found) * len(dates)
    for row in found.itertuples():
        assert {row.first_seen, row.last_absent, row.last_seen} <= set(dates)
        assert row.last_absent < row.first_seen <= row.last_seen
        assert (scene_of[row.first_seen], scene_of[row.last_absent]) == (
            row.first_seen_scene, row.last_absent_scene)  # fmt: skip
        assert row.confirmed is None or pd.isna(row.confirmed) or row.first_seen <= row.confirmed in dates
        assert 0 < row.width_m <= row.length_m and 0 <= row.bearing_deg < 180
        own = seen[seen["id"] == row.id].set_index("date")
        assert list(own.index) == dates and set(own["seen"]) <= {"seen", "absent", "unseen"}
        assert own["seen"][row.first_seen] == "seen" == own["seen"][row.last_seen]
        assert own["seen"][row.last_absent] == "absent"
        assert (own["seen"] == "seen").sum() == row.n_seen
        assert (own["seen"] != "unseen").sum() == row.n_before + row.n_after
        assert row.n_after_unfrozen <= row.n_after
        assert own["area_m2"].notna().eq(own["seen"] == "seen").all()
        assert own["statistic"].isna().eq(own["seen"] == "unseen").all()


def test_run_json_says_what_was_done(finished):
    _, out, result, _ = finished
    record = record_of(out)
    assert set(record) >= {
        "version", "command", "plan", "scenes", "grid", "timings", "peak_memory_mb", "self_tests", "counts",
        "warnings", "not_computed",
    }  # fmt: skip
    assert record["plan"] == QUICK.to_dict()
    assert record["counts"]["structures"] == len(result.structures)
    assert record["counts"]["alarms"] == len(result.alarms)
    by_status = {k: v for k, v in record["counts"].items() if k.startswith("status ")}
    assert sum(by_status.values()) == len(result.structures)
    assert record["grid"]["crs"] == "EPSG:32652" and record["grid"]["shape"] == [160, 160]
    assert record["grid"]["gsd_m"] == pytest.approx(3)
    assert all(t >= 0 for t in record["timings"].values()) and {"read", "write"} <= set(record["timings"])
    assert record["peak_memory_mb"] > 50


def test_run_json_names_every_scene(finished):
    scenes, out, _, _ = finished
    entries = record_of(out)["scenes"]
    files = sorted(p for p in scenes.glob("*.tif") if not p.stem.endswith("_mask"))
    assert [e["id"] for e in entries] == [p.stem for p in files]
    assert [e["date"] for e in entries] == sorted(e["date"] for e in entries)
    for entry in entries:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", entry["date"])
        assert re.fullmatch(r"[0-9a-f]{64}", entry["sha256"])
        assert Path(entry["path"]).name == f"{entry['id']}.tif"
        assert entry["mask"].endswith("_mask.tif")
        assert isinstance(entry["used"], bool) and entry["why"] and 0 <= entry["usable"] <= 1
        assert len(entry["shift_px"]) == 2 and len(entry["gain"]) == 4
    assert any(e["used"] for e in entries)


def test_run_json_names_the_grid_of_every_scene(finished):
    _, out, _, _ = finished
    assert all("grid" in entry for entry in record_of(out)["scenes"])


def test_columns_that_are_not_computed_are_null_and_the_others_are_not(finished):
    _, out, result, _ = finished
    found = result.structures
    names = {c.name for c in columns.STRUCTURES}
    told = record_of(out)["not_computed"]
    assert NOT_COMPUTED.items() <= told.items() and set(told) - set(NOT_COMPUTED) <= {"min_detectable_m2"}
    assert all(isinstance(why, str) and why for why in told.values())
    sizes = record_of(out)["min_detectable_m2"]
    assert found["min_detectable_m2"].equals(found["over"].map(sizes).astype(float)) and sizes
    for name in names & set(NOT_COMPUTED):
        assert found[name].isna().all(), name
    for name in names - set(told) - {"confirmed", "min_detectable_m2"}:
        assert found[name].notna().all(), name


def test_the_plan_comes_back(finished):
    _, out, _, _ = finished
    assert Plan.from_toml(out / "plan.toml") == QUICK == Plan.from_toml(out / "run.json")


def test_the_report_needs_no_network(finished):
    _, out, result, _ = finished
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.lstrip().lower().startswith("<!doctype html")
    assert not re.findall(r"<(?:script|img|link|iframe)[^>]+(?:src|href)=[\"']?(?:https?:)?//", page)
    assert all(name in page for name in result.structures["id"])


def test_the_kmz_holds_every_structure(finished):
    _, out, result, _ = finished
    with zipfile.ZipFile(out / "structures.kmz") as archive:
        assert archive.testzip() is None and "doc.kml" in archive.namelist()
        words = archive.read("doc.kml").decode("utf-8")
    assert all(name in words for name in result.structures["id"])


def test_progress_is_told(finished):
    *_, stages = finished
    assert {"read", "align", "evidence", "objects", "write"} <= {stage for stage, _, _ in stages}
    assert all(0 <= done <= total for _, done, total in stages)
    last = {stage: (done, total) for stage, done, total in stages}
    assert all(done == total for done, total in last.values())


def test_the_report_of_a_run_may_be_drawn_again(finished, tmp_path):
    _, out, result, _ = finished
    page = (out / "report.html").read_bytes()
    before = digest(out)
    try:
        (out / "report.html").unlink()
        assert redraw(out) == out / "report.html"
        after = digest(out)
        assert {k: v for k, v in after.items() if k != "report.html"} == {
            k: v for k, v in before.items() if k != "report.html"
        }
        again = (out / "report.html").read_text(encoding="utf-8")
        assert all(name in again for name in result.structures["id"])
    finally:
        (out / "report.html").write_bytes(page)


@pytest.mark.parametrize("content", [None, "{", '"words"'])
def test_no_report_of_what_is_no_run(tmp_path, content):
    if content is not None:
        (tmp_path / "run.json").write_text(content, encoding="utf-8")
    with pytest.raises((UnreadableError, MissingInputError), match=re.escape(str(tmp_path))):
        redraw(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_result_in_memory_writes_the_same_files(plain, tmp_path):
    paths = plain.to_files(tmp_path / "all", outputs=("structures.geojson", "labels.tif"))
    assert sorted(p.name for p in paths) == ["labels.tif", "run.json", "structures.geojson"]
    assert {p.name for p in (tmp_path / "all").iterdir()} == {p.name for p in paths}
    assert set(record_of(tmp_path / "all")["files"]) == {p.name for p in paths}
    with pytest.raises(OutputPathError):
        plain.to_files(tmp_path / "all", outputs=LIST)
    plain.to_files(tmp_path / "all", outputs=LIST, overwrite=True)
    assert {p.name for p in (tmp_path / "all").iterdir()} == {"run.json", "structures.geojson"}


def test_notebooks_show_a_result(plain):
    words = plain._repr_html_()
    assert "<" in words and all(name in words for name in plain.structures["id"])


# --------------------------------------------------------------------------------------------- folders


def test_overwrite_replaces_our_files_and_touches_no_other(small, tmp_path):
    out = tmp_path / "out"
    first = run([small], out, QUICK, outputs=(*LIST, "labels.tif"))
    assert {p.name for p in out.iterdir()} == {"structures.geojson", "labels.tif", "run.json"}
    (out / "notes.txt").write_text("mine", encoding="utf-8")
    before = digest(out)
    with pytest.raises(OutputPathError, match="overwrite"):
        run([small], out, QUICK, outputs=LIST)
    assert digest(out) == before
    second = run([small], out, QUICK.with_set(["run.min_area_m2=100"]), outputs=LIST, overwrite=True)
    assert {p.name for p in out.iterdir()} == {"structures.geojson", "run.json", "notes.txt"}
    assert (out / "notes.txt").read_text(encoding="utf-8") == "mine"
    assert len(first.structures) == 2 and len(second.structures) == 1
    assert len(json.loads((out / "structures.geojson").read_text())["features"]) == 1
    assert record_of(out)["plan"]["run"]["min_area_m2"] == 100


def test_the_plan_of_a_run_gives_the_same_run(small, tmp_path):
    one = run([small], tmp_path / "one", QUICK, outputs=(*LIST, "plan.toml", "labels.tif"))
    again = Plan.from_toml(tmp_path / "one" / "plan.toml")
    other = run([small], tmp_path / "two", again, outputs=(*LIST, "plan.toml", "labels.tif"))
    same_findings(one, other)
    for name in (*LIST, "plan.toml", "labels.tif"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_names_that_are_no_outputs_are_refused(small, tmp_path):
    with pytest.raises(InputError, match=r"structures\.shp"):
        run([small], tmp_path / "out", QUICK, outputs=("structures.shp",))
    assert not (tmp_path / "out").exists()


def test_a_request_that_fails_leaves_nothing_behind(small, tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(OutputPathError, match="file"):
        run([small], tmp_path / "file", QUICK)
    for inputs in ([tmp_path / "nowhere"], [sorted(small.iterdir())[0]]):
        with pytest.raises(InputError):
            run(inputs, tmp_path / "new" / "out", QUICK)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


@pytest.mark.parametrize("count", [1, 3, 6])
def test_too_few_scenes_are_refused(small, tmp_path, count):
    with pytest.raises(TooFewScenesError, match=str(count)):
        run(sorted(small.iterdir())[:count], tmp_path / "out", QUICK)
    assert not (tmp_path / "out").exists()


def test_scenes_under_cloud_are_listed_as_refused(tmp_path):
    image = values()
    image[7] = np.nan
    image[8, :, 1:] = np.nan  # one row of 96 is left
    scenes = write_files(tmp_path / "scenes", image)
    found = run([scenes], tmp_path / "out", QUICK, outputs=LIST)
    entries = record_of(tmp_path / "out")["scenes"]
    assert len(entries) == TIMES and [e["date"] for e in entries] == [day(t) for t in range(TIMES)]
    assert [e["used"] for e in entries] == [t not in (7, 8) for t in range(TIMES)]
    assert all("usable" in entries[t]["why"] and len(entries[t]["sha256"]) == 64 for t in (7, 8))
    assert found.record["counts"]["scenes"] == TIMES - 2
    assert (found.structures["first_seen"] == day(BEGIN)).all() and len(found.structures) == 2


def test_hidden_scenes_do_not_count_as_scenes(tmp_path):
    image = values()
    image[[0, 3, 6, 8]] = np.nan
    with pytest.raises(TooFewScenesError, match="6 of 10"):
        detect(stack_of(image), plan=QUICK)


def test_pictures_without_a_crs_are_worked_on_in_pixels(tmp_path):
    scenes = write_files(tmp_path / "scenes", values(), PIXELS)
    found = run([scenes], tmp_path / "out", QUICK)
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {*FILES, "run.json"} - {"structures.geojson", "structures.kmz"}
    assert set(record_of(tmp_path / "out")["files"]) == names
    frame = gpd.read_file(tmp_path / "out" / "structures.gpkg", layer="structures")
    assert frame.crs is None or "undefined" in frame.crs.to_wkt().lower()
    assert frame["area_m2"].tolist() == found.structures["area_m2"].tolist()
    assert frame["area_m2"].tolist() == pytest.approx([9, 30], rel=0.1)  # pixels
    assert found.structures.crs is None
    assert record_of(tmp_path / "out")["grid"]["crs"] is None


# --------------------------------------------------------------------------------------------- radar


def test_orbits_of_radar_scenes_are_not_mixed(tmp_path):
    rng = np.random.default_rng(0)
    scenes = tmp_path / "scenes"
    scenes.mkdir()

    def radar(date, orbit, bright):
        power = 0.02 * rng.gamma(8, 1 / 8, (2, 64, 64))
        power[:, 20:23, 30:33] *= 30 if bright else 1
        stamp = str(date).replace("-", "")
        name = f"S1A_IW_GRDH_1SDV_{stamp}T092000_{stamp}T092025_{orbit:06d}_0642A1_ABCD.tif"
        image = attach(
            power.astype(np.float32),
            Grid.make(UTM.crs, Affine(10, 0, 600_000, 0, -10, 4_700_000), (64, 64)),
            dims=("band", "y", "x"),
            coords={"band": np.array(["vv", "vh"], dtype=object)},
        )
        write_cog(scenes / name, image, nodata=np.nan)

    for i in range(8):
        radar(np.datetime64("2024-01-05") + 12 * i, 52_000 + 175 * i, i >= 4)
    for i in range(3):
        radar(np.datetime64("2024-01-09") + 12 * i, 52_060 + 175 * i, True)
    found = run([scenes], tmp_path / "out", Plan().with_set(["detector.sample_px=2000"]), outputs=LIST)
    entries = record_of(tmp_path / "out")["scenes"]
    assert len(entries) == 11 and [e["used"] for e in entries].count(True) == 8
    others = [e for e in entries if not e["used"]]
    assert all("must not be mixed" in e["why"] and "orbit" in e["why"] for e in others)
    (row,) = found.structures.itertuples()
    assert (row.last_absent[:10], row.first_seen[:10]) == ("2024-02-10", "2024-02-22")


# --------------------------------------------------------------------------------------------- sites


def site_with(window, half_width_m=15.0):
    """A dossier with one control axis through a window of pixels."""
    middle = block(window).centroid
    to_degrees = Transformer.from_crs(UTM.crs, "EPSG:4326", always_xy=True)
    line = LineString([to_degrees.transform(middle.x + d, middle.y) for d in (-60, 60)])
    west, south, east, north = UTM.bounds
    corners = [
        to_degrees.transform(x, y) for x, y in ((west, south), (east, south), (east, north), (west, north))
    ]
    area = gpd.GeoSeries([box(*np.min(corners, axis=0), *np.max(corners, axis=0))])[0].buffer(1e-4)
    axis = Axis(
        id="old", name="old bridge", role="control", from_bank="west", to_bank="east", uncertainty_m=5,
        source="made", geometry=line,
    )  # fmt: skip
    control = Control(axis="old", half_width_m=half_width_m, why="stands since long")
    return Site(
        format=1, name="made-up", title="Made up", summary="A place for tests.", crs=UTM.crs, aoi=area,
        axes=(axis,), controls=(control,),
    )  # fmt: skip


QUIET = (slice(10, 13), slice(20, 23))


def test_a_control_that_holds_passes_and_the_site_creates_nothing(small, plain, tmp_path):
    found = run([small], tmp_path / "out", QUICK, site=site_with(QUIET), strict=True, outputs=LIST)
    (test,) = record_of(tmp_path / "out")["self_tests"]
    assert test["name"] == "control" and test["passed"] is True
    assert record_of(tmp_path / "out")["warnings"] == []
    assert found.axes["axis"].tolist() == ["old"] and found.axes.crs.to_epsg() == 32652
    np.testing.assert_array_equal(found.labels.values, plain.labels.values)


def test_a_control_that_changed_is_a_warning_and_strictly_an_error(small, tmp_path):
    site = site_with(PIER)
    found = run([small], tmp_path / "out", QUICK, site=site, outputs=LIST)
    (test,) = found.record["self_tests"]
    assert test["passed"] is False and found.structures["id"][0] in test["detail"]
    assert len(found.record["warnings"]) == 1 and "control" in found.record["warnings"][0]
    assert len(found.structures) == 2  # it is still reported
    with pytest.raises(ControlFailedError, match=found.structures["id"][0]):
        run([small], tmp_path / "strict", QUICK, site=site, outputs=LIST, strict=True)
    assert not (tmp_path / "strict").exists()


def test_a_control_outside_the_scenes_is_said_to_be_untested():
    outside = (slice(10, 13), slice(5000, 5003))
    found = detect(stack_of(values()), site_with(outside), QUICK)
    (test,) = found.record["self_tests"]
    assert test["passed"] and "not tested" in test["detail"]


def test_an_area_of_interest_crops_at_reading(small, tmp_path):
    west, south, east, north = block((slice(16, 64), slice(4, 60))).bounds
    to_degrees = Transformer.from_crs(UTM.crs, "EPSG:4326", always_xy=True)
    corners = np.array([to_degrees.transform(x, y) for x, y in ((west, south), (east, north))])
    found = run([small], tmp_path / "out", QUICK, aoi=box(*corners[0], *corners[1]), outputs=LIST)
    rows, cols = record_of(tmp_path / "out")["grid"]["shape"]
    assert 44 <= rows <= 52 and 52 <= cols <= 60
    (row,) = found.structures.itertuples()
    assert row.geometry.symmetric_difference(block(PIER)).area < 1e-3
