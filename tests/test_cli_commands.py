"""The commands one by one, and the names that the package gives."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
from affine import Affine
from shapely.geometry import box
from typer.testing import CliRunner

import changedet as cd
from changedet.cli import app
from changedet.errors import MissingInputError
from changedet.grid import Grid, attach
from changedet.io.raster import read_window, write_cog
from changedet.io.vector import write_geojson, write_gpkg
from changedet.pipeline.evaluation import evaluate_files, load
from changedet.scenes import Layer

DATA = Path(os.environ.get("CHANGEDET_DATA", Path(__file__).parents[2] / "shared" / "data"))
GRID = Grid.make("EPSG:32652", Affine(10, 0, 600_000, 0, -10, 4_700_000), (160, 160))
BANDS = ("blue", "green", "red", "nir")


def call(*args):
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == 0, result.stderr
    return result


def ground(shape, rng):
    """A landscape with texture at several scales, (band, y, x)."""
    from scipy.ndimage import gaussian_filter

    base = sum(s * gaussian_filter(rng.standard_normal(shape), s) for s in (1.2, 3, 9))
    level, swing = np.array([[0.08, 0.1, 0.12, 0.3], [0.015, 0.02, 0.03, 0.06]])[:, :, None, None]
    return (level + swing * np.clip(base / base.std(), -3, 3)).astype(np.float32)


def write(path, image, grid=GRID):
    coords = {"band": np.array(BANDS, dtype=object)}
    return str(write_cog(path, attach(image, grid, dims=("band", "y", "x"), coords=coords)))


@pytest.fixture
def series(tmp_path):
    """Four scenes of one landscape; the third lies a pixel and a half off."""
    from scipy.ndimage import shift

    rng = np.random.default_rng(3)
    base = ground(GRID.shape, rng)
    folder = tmp_path / "scenes"
    for month, off in ((1, 0), (2, 0), (3, 1.5), (4, 0)):
        image = np.stack([shift(b, (off, -off), order=3, mode="reflect") for b in base])
        image = (image + 0.002 * rng.standard_normal(image.shape)).astype(np.float32)
        write(folder / f"s_20240{month}15.tif", image)
    return folder


# ------------------------------------------------------------------------------------------------ info


def test_info_json_has_the_contracts_keys(series):
    told = json.loads(call("info", series, "--json").stdout)
    assert set(told) == {"scenes", "grids", "groups"}
    wanted = {
        "id", "path", "sensor", "date", "datetime", "bands", "crs", "transform", "shape", "gsd_m", "scale",
        "offset", "nodata", "mask", "usable", "water", "shift_px", "fit", "why",
    }  # fmt: skip
    assert all(set(s) == wanted for s in told["scenes"])
    assert [s["date"] for s in told["scenes"]] == ["2024-01-15", "2024-02-15", "2024-03-15", "2024-04-15"]
    assert len(told["grids"]) == 1


def test_info_is_a_table_for_people(series):
    result = call("info", series)
    assert "s_20240315" in result.stdout and "blue green red nir" in result.stdout
    assert "4 scenes, 1 grid, 1 group" in result.stdout
    assert "bands: band descriptions" in call("info", series, "-v").stdout


def test_info_takes_dates_and_names(tmp_path):
    image = np.full((4, 32, 32), 0.2, np.float32)
    small = Grid.make(GRID.crs, GRID.transform, (32, 32))
    path = write_cog(tmp_path / "plain.tif", attach(image, small, dims=("band", "y", "x")))
    told = json.loads(
        call("info", path, "--date", "2024-05-06", "--band-names", "red, green,blue,nir", "--json").stdout
    )
    assert told["scenes"][0]["date"] == "2024-05-06"
    assert told["scenes"][0]["bands"] == ["red", "green", "blue", "nir"]


# ------------------------------------------------------------------------------------------------ align


def test_align_writes_scenes_and_shifts(series, tmp_path):
    out = tmp_path / "out"
    told = json.loads(call("align", series, "-o", out, "--json").stdout)
    with (out / "shifts.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "dy_px", "dx_px", "residual_px", "tie_points", "accepted", "why", "model"]
    assert [r["id"] for r in rows] == [f"s_20240{m}15" for m in (1, 2, 3, 4)]
    off = rows[2]
    assert off["accepted"] == "true"
    assert abs(float(off["dy_px"]) + 1.5) < 0.05 and abs(float(off["dx_px"]) - 1.5) < 0.05
    assert [s["id"] for s in told["shifts"]] == [r["id"] for r in rows]
    names = {f"s_20240{m}15_aligned.tif" for m in (1, 2, 3, 4)} | {"shifts.csv", "shifts.png"}
    assert {p.name for p in out.iterdir()} == names
    with rasterio.open(series / "s_20240115.tif") as a, rasterio.open(out / "s_20240315_aligned.tif") as b:
        left = (b.read() - a.read())[:, 20:-20, 20:-20]
        assert b.descriptions == BANDS and b.crs == a.crs and b.transform == a.transform
    with rasterio.open(series / "s_20240115.tif") as a, rasterio.open(series / "s_20240315.tif") as b:
        before = (b.read() - a.read())[:, 20:-20, 20:-20]
    assert left.std() < 0.3 * before.std()


def test_aligned_scenes_can_be_read_again_with_their_dates(series, tmp_path):
    call("align", series, "-o", tmp_path / "out", "-q")
    told = json.loads(call("info", tmp_path / "out", "--json").stdout)
    assert [s["date"] for s in told["scenes"]] == ["2024-01-15", "2024-02-15", "2024-03-15", "2024-04-15"]
    assert [s["bands"] for s in told["scenes"]] == [list(BANDS)] * 4
    assert [s["scale"] for s in told["scenes"]] == [1.0] * 4


def test_align_leaves_short_shifts_alone_on_request(series, tmp_path):
    call("align", series, "-o", tmp_path / "out", "--apply-above", "3", "-q")
    with (
        rasterio.open(series / "s_20240315.tif") as a,
        rasterio.open(tmp_path / "out" / "s_20240315_aligned.tif") as b,
    ):
        np.testing.assert_array_equal(a.read(), b.read())


def test_align_takes_a_reference_and_a_span(series, tmp_path):
    told = json.loads(
        call("align", series, "-o", tmp_path / "out", "--reference", "s_20240315", "--since", "2024-02-01",
             "--json").stdout
    )  # fmt: skip
    by_id = {s["id"]: s for s in told["shifts"]}
    assert list(by_id) == ["s_20240215", "s_20240315", "s_20240415"]
    assert by_id["s_20240315"]["dy_px"] == 0 and abs(by_id["s_20240215"]["dy_px"] - 1.5) < 0.05


def test_align_refuses_a_finished_folder_and_never_its_inputs(series, tmp_path):
    inputs = {p.name: p.read_bytes() for p in series.iterdir()}
    call("align", series, "-o", series, "-q")
    result = CliRunner().invoke(app, ["align", str(series), "-o", str(series)])
    assert result.exit_code == 2 and "--overwrite" in result.stderr
    for name, content in inputs.items():
        assert (series / name).read_bytes() == content


# ------------------------------------------------------------------------------------------------ diff


def test_diff_options_reach_the_plan(series, tmp_path):
    one, two = series / "s_20240115.tif", series / "s_20240315.tif"
    call("diff", one, two, "-o", tmp_path / "out", "--method", "rcva", "--threshold", "0.05",
         "--min-area", 900, "--bands", "red,nir", "--set", "difference.radius_px=2",
         "--compress", "none", "--outputs", "magnitude,change.tif", "--alpha", 0.2, "-q")  # fmt: skip
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    plan = record["plan"]
    assert plan["diff"] == {"method": "rcva", "threshold": 0.05, "align": None}
    assert plan["difference"]["rcva"]["radius_px"] == 2 and plan["read"]["bands"] == ["red", "nir"]
    assert plan["run"] == {"seed": 0, "alpha": 0.2, "min_area_m2": 900.0}
    assert plan["threshold"]["fdr"]["alpha"] == 0.2
    assert record["files"] == ["magnitude.tif", "change.tif", "run.json"]
    with rasterio.open(tmp_path / "out" / "magnitude.tif") as dataset:
        assert dataset.compression is None


def test_diff_feeds_on_an_earlier_run(series, tmp_path):
    one, two = series / "s_20240115.tif", series / "s_20240315.tif"
    call("diff", one, two, "-o", tmp_path / "a", "--method", "absdiff", "--threshold", "otsu", "-q")
    call("diff", one, two, "-o", tmp_path / "b", "--plan", tmp_path / "a" / "run.json", "-q")
    for name in ("magnitude.tif", "change.tif", "objects.gpkg", "objects.geojson"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_diff_crops_to_an_area(series, tmp_path):
    area = gpd.GeoDataFrame(geometry=[box(600_200, 4_699_000, 600_700, 4_699_600)], crs=GRID.crs)
    write_geojson(tmp_path / "aoi.geojson", area)
    call("diff", series / "s_20240115.tif", series / "s_20240315.tif", "-o", tmp_path / "out", "--aoi",
         tmp_path / "aoi.geojson", "-q")  # fmt: skip
    with rasterio.open(tmp_path / "out" / "magnitude.tif") as dataset:
        rows, columns = dataset.shape
        assert 60 <= rows <= 62 and 50 <= columns <= 52


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no shared data at {DATA}")
def test_diff_of_real_pairs(tmp_path):
    call("diff", DATA / "taizhou" / "2000TM", DATA / "taizhou" / "2003TM", "-o", tmp_path / "optical", "-q")
    objects = gpd.read_file(tmp_path / "optical" / "objects.gpkg")
    assert len(objects) > 10 and objects.crs.to_epsg() == 32651
    bern = DATA / "sar" / "bern"
    call("diff", bern / "before.tif", bern / "after.tif", "-o", tmp_path / "sar", "-q")
    assert not (tmp_path / "sar" / "objects.geojson").exists()
    layers = [Layer(str(path), (1,), ("1",)) for path in (bern / "gt.tif", tmp_path / "sar" / "change.tif")]
    truth, found = (read_window(layer)[0] > 0 for layer in layers)
    assert (found & truth).sum() / found.sum() > 0.5


# ------------------------------------------------------------------------------------------------ evaluate


def boxes(*corners, size=60, crs="EPSG:32652", **columns):
    """Squares with their lower left corners (m from the grid's)."""
    shapes = [box(600_000 + x, 4_698_400 + y, 600_000 + x + size, 4_698_400 + y + size) for x, y in corners]
    return gpd.GeoDataFrame(
        {"id": [f"o{i}" for i in range(len(shapes))], **columns}, geometry=shapes, crs=crs
    )


@pytest.fixture
def files(tmp_path):
    """Two of three true squares found, one false."""
    write_gpkg(tmp_path / "truth.gpkg", {"truth": boxes((100, 100), (400, 400), (800, 800))})
    write_geojson(tmp_path / "found.geojson", boxes((100, 100), (410, 400), (1200, 300)))
    return tmp_path / "found.geojson", tmp_path / "truth.gpkg"


def test_evaluate_counts_objects_by_hand(files):
    told = json.loads(call("evaluate", *files, "--json").stdout)
    assert set(told) == {"objects", "pixels", "dates", "scot", "calibration", "not_computed"}
    objects = told["objects"]
    assert (objects["n_found"], objects["n_truth"], objects["matched"]) == (3, 3, 2)
    assert objects["precision"] == objects["recall"] == pytest.approx(2 / 3)
    assert told["dates"] is None and "first_seen" in told["not_computed"]["dates"]


def test_evaluate_is_a_table_for_people(files):
    text = call("evaluate", *files).stdout
    assert "precision" in text and "0.6667" in text and "dates: not computed" in text


def test_evaluate_options_count(files, tmp_path):
    strict = json.loads(call("evaluate", *files, "--iou", "0.9", "--json").stdout)
    assert strict["objects"]["matched"] == 1
    write_geojson(tmp_path / "near.geojson", boxes((100, 100), (400, 400), (870, 800)))
    alone = json.loads(call("evaluate", tmp_path / "near.geojson", files[1], "--json").stdout)
    near = json.loads(call("evaluate", tmp_path / "near.geojson", files[1], "--pixel-m", 40, "--json").stdout)
    assert (alone["objects"]["matched"], near["objects"]["matched"]) == (2, 3)


def run_folder(folder, found, *, pixel_m=10.0):
    """A folder as a run leaves it."""
    dates = ("2024-01-15", "2024-03-15", "2024-06-15")
    found = found.assign(
        first_seen=dates[1], last_absent=dates[0], confirmed=dates[2], status="persistent", confidence=0.9
    )
    seen = [
        {"id": i, "date": d, "seen": "seen" if d > dates[0] else "absent"} for i in found.id for d in dates
    ]
    write_gpkg(folder / "structures.gpkg", {"structures": found, "observations": pd.DataFrame(seen)})
    labels = GRID.rasterize(found.geometry).astype(np.uint32)
    evidence = (labels * 9 + np.random.default_rng(0).random(labels.shape)).astype(np.float32)
    evidence[:4] = np.nan
    write_cog(folder / "labels.tif", attach(labels, GRID, name="labels"), nodata=0)
    write_cog(folder / "statistic.tif", attach(evidence, GRID, name="statistic"))
    (folder / "run.json").write_text(json.dumps({"grid": {"gsd_m": pixel_m}}))
    return folder


def test_evaluate_takes_the_folder_of_a_run(tmp_path):
    run_folder(tmp_path / "run", boxes((100, 100), (400, 400), (1200, 300)))
    truth = boxes((100, 100), (400, 400), (800, 800)).assign(first_seen="2024-03-01")
    write_gpkg(tmp_path / "truth.gpkg", {"structures": truth})
    told = json.loads(call("evaluate", tmp_path / "run", tmp_path / "truth.gpkg", "--json").stdout)
    assert told["not_computed"] == {}
    assert told["pixels"]["basis"] == "pixels"
    assert told["pixels"]["precision"] == pytest.approx(2 / 3) == told["pixels"]["recall"]
    assert told["dates"] and told["scot"] and told["calibration"]
    assert load(tmp_path / "run").pixel_m == 10.0
    assert evaluate_files(tmp_path / "run", tmp_path / "run")["objects"]["f1"] == 1.0


def test_evaluate_takes_the_folder_of_a_diff(tmp_path):
    rng = np.random.default_rng(0)
    image = (0.2 + 0.01 * rng.standard_normal((4, *GRID.shape))).astype(np.float32)
    after = image + 0.01 * rng.standard_normal(image.shape).astype(np.float32)
    truth = boxes((100, 100), (400, 400))
    after[:, GRID.rasterize(truth.geometry)] += 0.3
    pair = write(tmp_path / "a.tif", image), write(tmp_path / "b.tif", after)
    call("diff", *pair, "-o", tmp_path / "out", "-q", "--method", "cva")
    write_geojson(tmp_path / "truth.geojson", truth)
    scores = evaluate_files(tmp_path / "out", tmp_path / "truth.geojson")
    assert scores["objects"]["f1"] == 1.0 and scores["pixels"]["f1"] == 1.0 and scores["pixels"]["auc"] == 1.0


def test_evaluate_refuses_what_is_no_result(tmp_path, files):
    for args, word in (
        ((tmp_path / "none.geojson", files[1]), "does not exist"),
        ((tmp_path, files[1]), "structures.gpkg or objects.gpkg"),
        ((files[0], files[0].parent / "text.gpkg"), "text.gpkg"),
    ):
        (tmp_path / "text.gpkg").write_text("no database")
        result = CliRunner().invoke(app, ["evaluate", *map(str, args)])
        assert result.exit_code == 2 and word in result.stderr and result.stderr.count("\n") == 1
    with pytest.raises(MissingInputError):
        load(tmp_path / "none")


# ------------------------------------------------------------------------------------------------ site


def test_site_lists_and_shows():
    assert "tumen" in call("site").stdout
    listed = json.loads(call("site", "--json").stdout)
    assert [s["name"] for s in listed] == ["tumen"]
    text = call("site", "tumen").stdout
    assert "EPSG:32652" in text and "Timeline" in text and "Expected structures" in text
    shown = json.loads(call("site", "tumen", "--json").stdout)
    assert shown == cd.load_site("tumen").to_dict()
    assert json.loads(call("site", listed[0]["path"], "--json").stdout) == shown


# ------------------------------------------------------------------------------------------------ package


def test_the_package_gives_the_contracts_names():
    for name in ("open_stack", "align", "normalize", "difference", "threshold", "segment", "load_site"):
        assert callable(getattr(cd, name)) and name in dir(cd)
    assert issubclass(cd.ChangedetError, Exception) and cd.metrics.evaluate is cd.evaluate
    assert cd.simulate.SceneSettings().gsd_m == 3.0
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = cd.nonsense


def test_names_come_when_they_are_used():
    code = (
        "import sys, changedet as cd\n"
        "assert not {'numpy', 'xarray', 'rasterio'} & set(sys.modules)\n"
        "cd.difference\n"
        "assert 'xarray' in sys.modules and 'rasterio' not in sys.modules\n"
        "assert set(cd.__all__) <= set(dir(cd))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
