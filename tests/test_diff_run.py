"""Two images through the pipeline: what is written, when nothing is, and that large images give the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import rasterio
import xarray as xr
from affine import Affine
from rio_cogeo.cogeo import cog_validate
from scipy.ndimage import binary_dilation, gaussian_filter
from scipy.stats import chi2

from changedet.blocks import Stream
from changedet.errors import (
    BandError,
    CRSError,
    GridError,
    InputError,
    LockedError,
    OutputPathError,
    SettingError,
    UnknownMethodError,
    WriteError,
)
from changedet.grid import Grid, attach
from changedet.io.files import sha256
from changedet.io.raster import write_cog
from changedet.io.stack import Streaming
from changedet.pipeline import Plan, bitemporal
from changedet.pipeline.bitemporal import FILES, Task, compare, diff
from changedet.steps.difference import METHODS

UTM = Grid.make("EPSG:32652", Affine(10, 0, 600_000, 0, -10, 4_700_000), (120, 160))
DEGREES = Grid.make("EPSG:4326", Affine(1e-4, 0, 130.5, 0, -1e-4, 42.5), (120, 160))
PIXELS = Grid.make(None, Affine.identity(), (120, 160))
BANDS = ("blue", "green", "red", "nir")
BLOCKS = ((20, 30, 6, 8), (80, 100, 10, 5))  # row, column, height, width


def scene(path, grid=UTM, *, seed=0, blocks=(), bands=BANDS, step=0.3, gap=None):
    """Write a noisy image, brighter inside the blocks, without data in the gap."""
    rng = np.random.default_rng(seed)
    image = (0.2 + 0.01 * rng.standard_normal((len(bands), *grid.shape))).astype(np.float32)
    for r, c, h, w in blocks:
        image[:, r : r + h, c : c + w] += step
    if gap is not None:
        image[:, gap[0], gap[1]] = np.nan
    coords = {"band": np.array(bands, dtype=object)}
    return str(write_cog(path, attach(image, grid, dims=("band", "y", "x"), coords=coords)))


CVA = Plan().with_values({"diff.method": "cva"})
"""A method whose numbers are known to the digit."""


@pytest.fixture
def pair(tmp_path):
    return scene(tmp_path / "a_20240101.tif"), scene(tmp_path / "b_20240601.tif", seed=1, blocks=BLOCKS)


def band(path):
    with rasterio.open(path) as dataset:
        return dataset.read(1)


def everything(folder):
    return sorted(p.name for p in Path(folder).iterdir())


def test_what_diff_writes(pair, tmp_path):
    out = tmp_path / "out"
    result = diff(*pair, out, CVA)
    assert everything(out) == sorted([
        "change.tif", "magnitude.tif", "objects.geojson", "objects.gpkg", "run.json",
    ])  # fmt: skip
    with rasterio.open(pair[0]) as a, rasterio.open(pair[1]) as b:
        wanted = np.linalg.norm(b.read().astype(np.float64) - a.read().astype(np.float64), axis=0)
    np.testing.assert_allclose(band(out / "magnitude.tif"), wanted, rtol=1e-5)
    with rasterio.open(out / "magnitude.tif") as dataset:
        assert dataset.dtypes == ("float32",) and np.isnan(dataset.nodata)
        assert dataset.tags()["METHOD"] == "cva"
        assert dataset.crs.to_epsg() == 32652 and dataset.transform == UTM.transform
    truth = np.zeros(UTM.shape, np.uint8)
    for r, c, h, w in BLOCKS:
        truth[r : r + h, c : c + w] = 1
    np.testing.assert_array_equal(band(out / "change.tif"), truth)
    with rasterio.open(out / "change.tif") as dataset:
        assert dataset.dtypes == ("uint8",) and dataset.nodata == 255
        assert dataset.crs.to_epsg() == 32652 and dataset.transform == UTM.transform
        assert {k: v for k, v in dataset.tags().items() if k.startswith("CATEGORY_")} == {
            "CATEGORY_0": "unchanged", "CATEGORY_1": "changed", "CATEGORY_255": "nodata",
        }  # fmt: skip
    for name in ("magnitude.tif", "change.tif"):
        assert cog_validate(out / name, quiet=True)[0]
    objects = gpd.read_file(out / "objects.gpkg")
    assert objects.crs.to_epsg() == 32652
    np.testing.assert_allclose(objects.area_m2, [4800.0, 5000.0])
    np.testing.assert_allclose(objects.geometry.area, [4800.0, 5000.0])
    assert list(objects.id) == [1, 2]
    assert result.comparison.objects is not None and len(result.comparison.objects) == 2


def test_geojson_is_lon_lat(pair, tmp_path):
    diff(*pair, tmp_path / "out")
    text = json.loads((tmp_path / "out" / "objects.geojson").read_text())
    assert "crs" not in text and len(text["features"]) == 2
    lon, lat = text["features"][0]["geometry"]["coordinates"][0][0]
    assert 130 < lon < 132 and 42 < lat < 43


def test_run_json_holds_what_the_contract_lists(pair, tmp_path):
    diff(*pair, tmp_path / "out", CVA, task=Task(command="changedet diff a b"))
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    wanted = {
        "version", "command", "plan", "scenes", "grid", "timings", "peak_memory_mb", "self_tests", "counts",
        "warnings", "files", "threshold", "not_computed",
    }  # fmt: skip
    assert wanted <= set(record)
    assert record["command"] == "changedet diff a b"
    assert [s["id"] for s in record["scenes"]] == ["a_20240101", "b_20240601"]
    assert [s["date"] for s in record["scenes"]] == ["2024-01-01", "2024-06-01"]
    assert [s["sha256"] for s in record["scenes"]] == [sha256(p) for p in pair]
    assert all(s["used"] and s["why"] for s in record["scenes"])
    assert record["grid"]["shape"] == [120, 160] and record["grid"]["gsd_m"] == 10
    assert record["counts"] == {"pixels": 19200, "compared": 19200, "changed": 98, "objects": 2}
    assert set(record["not_computed"]) == {"p_value", "components"}
    assert record["threshold"]["method"] == "robust" and record["threshold"]["credible"] is True
    assert set(record["files"]) == set(everything(tmp_path / "out"))


def test_its_plan_fed_back_gives_the_same(pair, tmp_path):
    plan = Plan().with_set(["diff.threshold=otsu", "difference.cva.standardize=true", "run.min_area_m2=4900"])
    first = diff(*pair, tmp_path / "one", plan)
    again = Plan.from_toml(tmp_path / "one" / "run.json")
    assert again == plan
    second = diff(*pair, tmp_path / "two", again)
    assert first.record["counts"] == second.record["counts"] and first.record["counts"]["objects"] == 1
    for name in FILES:
        one, two = tmp_path / "one" / name, tmp_path / "two" / name
        assert one.exists() == two.exists()
        assert not one.exists() or one.read_bytes() == two.read_bytes(), name


AROUND = ("ssim", "pca-kmeans", "auto")
"""Methods that look at the surroundings: what they mark reaches beyond what changed."""


@pytest.mark.parametrize("method", AROUND)
def test_methods_that_look_around_find_the_blocks(method, pair, tmp_path):
    diff(*pair, tmp_path / "out", Plan().with_values({"diff.method": method}))
    wanted = np.zeros(UTM.shape, bool)
    for r, c, h, w in BLOCKS:
        wanted[r : r + h, c : c + w] = True
    found = band(tmp_path / "out" / "change.tif") == 1
    assert (found & wanted).sum() > 0.9 * wanted.sum()
    near = binary_dilation(wanted, iterations=8)
    assert (found & ~near).mean() < 0.002


@pytest.mark.parametrize("method", [n for n in METHODS if n not in AROUND])
def test_every_method_finds_the_blocks(method, pair, tmp_path):
    if method == "sam":
        pair = (pair[0], scene(tmp_path / "tilted.tif", seed=2))
        with rasterio.open(pair[1], "r+", IGNORE_COG_LAYOUT_BREAK="YES") as dataset:
            nir = dataset.read(4)
            for r, c, h, w in BLOCKS:
                nir[r : r + h, c : c + w] += 0.3
            dataset.write(nir, 4)
    result = diff(*pair, tmp_path / "out", Plan().with_values({"diff.method": method}))
    wanted = np.zeros(UTM.shape, bool)
    for r, c, h, w in BLOCKS:
        wanted[r : r + h, c : c + w] = True
    found = band(tmp_path / "out" / "change.tif") == 1
    assert (found & wanted).sum() / (found | wanted).sum() > 0.9
    assert result.record["counts"]["objects"] == 2


@pytest.mark.parametrize("method", ["cva", "rcva", "logratio"])
def test_large_images_are_read_in_blocks_with_the_same_result(method, pair, tmp_path, monkeypatch):
    pair = (scene(tmp_path / "gap.tif", gap=(slice(0, 40), slice(0, 30))), pair[1])
    plan = Plan().with_values({"diff.method": method})
    whole = diff(*pair, tmp_path / "whole", plan)
    monkeypatch.setattr(bitemporal, "LAZY_BYTES", 0)
    monkeypatch.setattr(Streaming, "tile", lambda self, block, shape: (48, 56))
    images = bitemporal._images(bitemporal._pair(*pair, plan), plan, None)
    assert isinstance(images[0].data, Stream) and len(images[0].data.tiles()) > 1
    blocks = diff(*pair, tmp_path / "blocks", plan)
    assert whole.record["threshold"] == blocks.record["threshold"]
    for name in ("magnitude.tif", "change.tif", "objects.geojson", "objects.gpkg"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "blocks" / name).read_bytes(), name


def test_nodata_is_neither_changed_nor_unchanged(tmp_path):
    gap = (slice(0, 10), slice(0, 20))
    pair = scene(tmp_path / "a.tif", gap=gap), scene(tmp_path / "b.tif", seed=1, blocks=BLOCKS)
    result = diff(*pair, tmp_path / "out")
    change, magnitude = band(tmp_path / "out" / "change.tif"), band(tmp_path / "out" / "magnitude.tif")
    np.testing.assert_array_equal(change == 255, np.isnan(magnitude))
    assert (change == 255).sum() == 200 and result.record["counts"]["compared"] == 19000


def test_without_georeference_work_is_in_pixels(tmp_path):
    pair = scene(tmp_path / "a.tif", PIXELS), scene(tmp_path / "b.tif", PIXELS, seed=1, blocks=BLOCKS)
    diff(*pair, tmp_path / "out", CVA)
    assert everything(tmp_path / "out") == ["change.tif", "magnitude.tif", "objects.gpkg", "run.json"]
    objects = pyogrio.read_dataframe(tmp_path / "out" / "objects.gpkg")
    assert objects.crs is None or "undefined" in objects.crs.to_wkt().lower()
    assert list(objects.area_m2) == [48.0, 50.0]
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["grid"]["crs"] is None
    with pytest.raises(CRSError, match=r"objects\.gpkg"):
        diff(*pair, tmp_path / "other", task=Task(outputs=("objects.geojson",)))


def test_areas_on_degrees_are_geodesic(tmp_path):
    pair = scene(tmp_path / "a.tif", DEGREES), scene(tmp_path / "b.tif", DEGREES, seed=1, blocks=BLOCKS)
    result = diff(*pair, tmp_path / "out")
    objects = result.comparison.objects
    wanted = gpd.GeoSeries(objects.geometry.values, crs=4326).to_crs(32652).area  # scale 0.9997 there
    np.testing.assert_allclose(objects.area_m2, wanted, rtol=2e-3)


@pytest.mark.parametrize(("asked", "applied"), [(None, True), (True, True), (False, None)])
def test_the_later_image_is_laid_on_the_earlier(asked, applied, tmp_path):
    rng = np.random.default_rng(0)
    fine = gaussian_filter(rng.standard_normal((4, 2 * 130, 2 * 170)), (0, 3, 3))
    paths = []
    for name, by in (("a.tif", 0), ("b.tif", 1)):  # half a pixel along both axes
        part = fine[:, by : by + 240, by : by + 320].reshape(4, 120, 2, 160, 2).mean(axis=(2, 4))
        land = np.array([0.1, 0.1, 0.1, 0.3])[:, None, None]
        values = (land + 0.3 * part + 0.001 * rng.standard_normal(part.shape)).astype(np.float32)
        coords = {"band": np.array(BANDS, dtype=object)}
        write_cog(tmp_path / name, attach(values, UTM, dims=("band", "y", "x"), coords=coords))
        paths.append(tmp_path / name)
    method = "cva" if asked else "auto"
    plan = Plan().with_values({"diff.method": method, "diff.align": asked})
    record = diff(*paths, tmp_path / "out", plan).record
    assert record["shift"].get("applied") is applied
    if applied:
        assert np.hypot(record["shift"]["dy_px"] - 0.5, record["shift"]["dx_px"] - 0.5) < 0.05
    assert record["counts"]["objects"] == 0 or not applied


def test_sar_is_compared_by_signed_ratio(tmp_path):
    pair = (
        scene(tmp_path / "a.tif", bands=("vv", "vh"), blocks=BLOCKS[:1]),
        scene(tmp_path / "b.tif", bands=("vv", "vh"), seed=1, blocks=BLOCKS[1:]),
    )
    result = diff(*pair, tmp_path / "out")
    assert result.record["method"] == "auto" and result.record["units"] == "dB"
    assert "log ratio" in result.record["chosen"]["chosen"] and "SAR" in result.record["chosen"]["why"]
    magnitude = band(tmp_path / "out" / "magnitude.tif")
    assert magnitude[22, 32] < -2 and magnitude[82, 102] > 2
    assert result.record["counts"]["objects"] == 2


# ------------------------------------------------------------------------------------------------ thresholds


def test_a_pair_without_change_has_no_threshold(tmp_path):
    a = scene(tmp_path / "a.tif")
    result = diff(a, a, tmp_path / "out")
    assert result.record["threshold"]["why"].startswith("no threshold: all 19200 values are 0")
    assert any("nothing is marked as changed" in w for w in result.record["warnings"])
    assert not band(tmp_path / "out" / "change.tif").any()
    assert len(gpd.read_file(tmp_path / "out" / "objects.gpkg")) == 0
    assert json.loads((tmp_path / "out" / "objects.geojson").read_text())["features"] == []


def test_noise_alone_is_not_credible(tmp_path):
    pair = scene(tmp_path / "a.tif"), scene(tmp_path / "b.tif", seed=1)
    result = diff(*pair, tmp_path / "out", Plan().with_values({"diff.threshold": "otsu"}))
    assert any("may be noise" in w for w in result.record["warnings"])


@pytest.mark.parametrize("bands", [BANDS, ("vv", "vh")])
def test_auto_marks_nothing_where_nothing_changed(bands, tmp_path):
    pair = [scene(tmp_path / f"{seed}.tif", bands=bands, seed=seed) for seed in (0, 1)]
    result = diff(*pair, tmp_path / "out")
    assert result.record["counts"]["changed"] == 0 == result.record["counts"]["objects"]
    assert (result.record["threshold"]["threshold"] is None) == (bands != BANDS)


@pytest.mark.parametrize("name", ["otsu", "triangle", "robust", "hysteresis", 0.3])
def test_thresholds(name, pair, tmp_path):
    result = diff(*pair, tmp_path / "out", Plan().with_values({"diff.threshold": name}))
    assert result.record["threshold"]["threshold"] == result.comparison.threshold
    assert {1} <= set(np.unique(band(tmp_path / "out" / "change.tif")))
    if name == "hysteresis":
        assert result.record["threshold"]["low"] < result.comparison.threshold
    if name == 0.3:
        assert result.comparison.threshold == 0.3


def test_settings_reach_the_steps(pair, tmp_path):
    found = [
        diff(*pair, tmp_path / str(k), CVA.with_set([f"threshold.robust.k={k}"])).comparison.threshold
        for k in (3, 6)
    ]
    assert found[0] < found[1]
    small = diff(*pair, tmp_path / "area", CVA.with_set(["run.min_area_m2=4900"]))
    assert [round(a) for a in small.comparison.objects.area_m2] == [5000]


def test_methods_that_give_more_are_written_whole(pair, tmp_path, monkeypatch):
    real = bitemporal.difference.difference

    def rich(before, after, *args, **params):
        magnitude = real(before, after, *args, **params)
        parts = (after - before).astype("float32").assign_coords(band=["c1", "c2", "c3", "c4"])
        return xr.Dataset({"magnitude": magnitude, "p_value": 1 / (1 + magnitude), "components": parts})

    monkeypatch.setattr(bitemporal.difference, "difference", rich)
    result = diff(*pair, tmp_path / "out")
    assert {"p_value.tif", "components.tif"} <= set(everything(tmp_path / "out"))
    with rasterio.open(tmp_path / "out" / "components.tif") as dataset:
        assert dataset.descriptions == ("c1", "c2", "c3", "c4")
    assert result.record["not_computed"] == {}


@pytest.mark.parametrize("method", ["mad", "irmad", "sfa", "isfa"])
def test_statistical_methods_write_p_values_and_components(method, pair, tmp_path, monkeypatch):
    pair = (scene(tmp_path / "gap.tif", gap=(slice(0, 40), slice(0, 30))), pair[1])
    plan = Plan().with_values({"diff.method": method, "diff.threshold": "fdr"})
    if method in ("irmad", "isfa"):
        plan = plan.with_set([f"difference.{method}.max_iterations=8"])
    whole = diff(*pair, tmp_path / "out", plan)
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["not_computed"] == {} and set(record["files"]) == set(everything(tmp_path / "out"))
    assert record["statistics"]["dof"] == 4 and record["statistics"]["ridge"] == 0
    settled = record["statistics"]["converged"] is True
    assert settled != any("did not settle" in words for words in record["warnings"])
    with rasterio.open(tmp_path / "out" / "components.tif") as dataset:
        assert dataset.descriptions == tuple(f"{method.lstrip('ir')}{i}" for i in (1, 2, 3, 4))
        assert np.isnan(dataset.read()[:, :40, :30]).all()
    magnitude, p_value = (band(tmp_path / "out" / f"{n}.tif") for n in ("magnitude", "p_value"))
    inside = np.isfinite(p_value)
    np.testing.assert_allclose(
        p_value[inside], chi2.sf(magnitude[inside].astype(float) ** 2, 4), rtol=1e-3, atol=1e-30
    )
    # the level of the false discovery rate is one of p-values, given as a magnitude
    level = whole.comparison.threshold
    assert (inside & (magnitude > level)).sum() == record["threshold"]["rejected"] > 90
    monkeypatch.setattr(bitemporal, "LAZY_BYTES", 0)
    monkeypatch.setattr(Streaming, "tile", lambda self, block, shape: (48, 56))
    blocks = diff(*pair, tmp_path / "blocks", plan)
    assert blocks.record["counts"] == whole.record["counts"]
    for name in ("magnitude", "p_value", "components"):
        np.testing.assert_allclose(
            band(tmp_path / "blocks" / f"{name}.tif"),
            band(tmp_path / "out" / f"{name}.tif"),
            rtol=1e-5,
            atol=1e-6,
        )


def test_what_a_method_warns_of_is_recorded(pair, tmp_path):
    flat = scene(tmp_path / "flat.tif")
    with rasterio.open(flat, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as dataset:
        dataset.write(np.full(UTM.shape, 0.2, np.float32), 2)
    result = diff(flat, pair[1], tmp_path / "out", Plan().with_values({"diff.method": "mad"}))
    assert any("left out: green" in w for w in result.record["warnings"])
    assert result.record["statistics"]["dropped_bands"] == ["green"]


# ------------------------------------------------------------------------------------------------ refusals


def refused(error, words, *args, out, **keywords):
    with pytest.raises(error, match=words) as caught:
        diff(*args, out, **keywords)
    assert not out.exists()
    return caught.value


def test_grids_that_differ_are_refused_or_warped(pair, tmp_path):
    moved = Grid.make(UTM.crs, UTM.transform @ Affine.translation(0.5, 0.5), UTM.shape)
    half = scene(tmp_path / "half.tif", moved, seed=1, blocks=BLOCKS)
    error = refused(GridError, r"\+?-?0\.500.*--warp", pair[0], half, out=tmp_path / "out")
    assert error.exit_status == 2
    other = Grid.make("EPSG:32651", UTM.transform, UTM.shape)
    refused(CRSError, "EPSG:32652.*EPSG:32651|EPSG:32651.*EPSG:32652", pair[0],
            scene(tmp_path / "crs.tif", other), out=tmp_path / "out")  # fmt: skip
    smaller = Grid.make(UTM.crs, UTM.transform, (100, 160))
    refused(GridError, r"shape", pair[0], scene(tmp_path / "small.tif", smaller), out=tmp_path / "out")
    warped = diff(pair[0], half, tmp_path / "out", Plan().with_values({"read.warp": True}))
    assert (
        warped.record["counts"]["objects"] >= 2 and band(tmp_path / "out" / "change.tif").shape == UTM.shape
    )


def test_one_georeference_is_refused(pair, tmp_path):
    bare = scene(tmp_path / "bare.tif", PIXELS)
    refused(CRSError, "has no CRS", pair[0], bare, out=tmp_path / "out")


def test_bands_that_differ(pair, tmp_path):
    other = scene(tmp_path / "other.tif", bands=("swir16", "swir22"))
    refused(BandError, "no band", pair[0], other, out=tmp_path / "out")
    plan = Plan().with_values({"read.bands": ("nr",)})
    refused(BandError, "did you mean 'nir'", *pair, plan=plan, out=tmp_path / "out")


def test_nothing_usable_in_common(tmp_path):
    pair = (
        scene(tmp_path / "a.tif", gap=(slice(0, 60), slice(None))),
        scene(tmp_path / "b.tif", gap=(slice(60, None), slice(None))),
    )
    refused(InputError, "no pixel is usable in both", *pair, out=tmp_path / "out")


def test_more_than_one_scene_a_side(pair, tmp_path):
    refused(InputError, "BEFORE holds 2 scenes", tmp_path, pair[1], out=tmp_path / "out")


def test_unknown_methods(pair, tmp_path):
    for key in ("diff.method", "diff.threshold"):
        plan = Plan().with_values({key: "otsuu"})
        refused(UnknownMethodError, "otsuu", *pair, plan=plan, out=tmp_path / "out")
    plan = Plan().with_values({"diff.threshold": "chi2"})
    refused(SettingError, "degrees of freedom", *pair, plan=plan, out=tmp_path / "out")


def test_outputs_by_name(pair, tmp_path):
    diff(*pair, tmp_path / "one", task=Task(outputs=("magnitude",)))
    assert everything(tmp_path / "one") == ["magnitude.tif", "run.json"]
    diff(*pair, tmp_path / "two", task=Task(outputs=("change.tif", "objects.gpkg")))
    assert everything(tmp_path / "two") == ["change.tif", "objects.gpkg", "run.json"]
    refused(InputError, r"did you mean 'magnitude\.tif'", *pair, out=tmp_path / "x",
            task=Task(outputs=("magnitud.tif",)))  # fmt: skip
    refused(InputError, "auto has no p_value", *pair, out=tmp_path / "x", task=Task(outputs=("p_value.tif",)))


# ------------------------------------------------------------------------------------------------ the folder


def test_a_finished_folder_is_refused_and_replaced_on_request(pair, tmp_path):
    out = tmp_path / "out"
    diff(*pair, out)
    (out / "notes.txt").write_text("mine")
    before = (out / "magnitude.tif").read_bytes()
    with pytest.raises(OutputPathError, match="--overwrite"):
        diff(*pair, out)
    assert (out / "magnitude.tif").read_bytes() == before
    task = Task(outputs=("change.tif",), overwrite=True)
    diff(*pair, out, task=task)
    assert everything(out) == ["change.tif", "notes.txt", "run.json"]
    assert (out / "notes.txt").read_text() == "mine"


def test_files_of_others_are_not_taken_for_ours(pair, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "change.tif").write_text("somebody's")
    with pytest.raises(OutputPathError, match=r"holds change\.tif already"):
        diff(*pair, out)
    record = {"files": ["../keep.txt", "keep.txt", "change.tif"]}
    (out / "run.json").write_text(json.dumps(record))
    (out / "keep.txt").write_text("keep")
    (tmp_path / "keep.txt").write_text("keep")
    diff(*pair, out, task=Task(outputs=("magnitude.tif",), overwrite=True))
    assert everything(out) == ["keep.txt", "magnitude.tif", "run.json"]
    assert (tmp_path / "keep.txt").exists()


def test_a_file_in_the_way(pair, tmp_path):
    (tmp_path / "out").write_text("a file")
    for out in (tmp_path / "out", tmp_path / "out" / "below"):
        with pytest.raises(OutputPathError, match="is a file"):
            diff(*pair, out)
    assert (tmp_path / "out").read_text() == "a file"


@pytest.mark.parametrize("fails", ["write_gpkg", "write_json"])
def test_a_failure_on_the_way_leaves_nothing(fails, pair, tmp_path, monkeypatch):
    def full(*_args, **_keywords):
        raise WriteError("no space left")

    real = getattr(bitemporal, fails)
    monkeypatch.setattr(bitemporal, fails, full)
    with pytest.raises(WriteError) as caught:
        diff(*pair, tmp_path / "deep" / "out")
    assert caught.value.exit_status == 1
    assert not (tmp_path / "deep").exists()
    monkeypatch.setattr(bitemporal, fails, real)
    out = tmp_path / "out"
    diff(*pair, out)
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    monkeypatch.setattr(bitemporal, fails, full)
    with pytest.raises(WriteError):
        diff(*pair, out, Plan().with_values({"diff.method": "absdiff"}), task=Task(overwrite=True))
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before


def test_a_folder_that_another_run_holds(pair, tmp_path):
    fcntl = pytest.importorskip("fcntl", reason="locks of this kind do not exist here")
    out = tmp_path / "out"
    out.mkdir()
    with (out / ".changedet.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(LockedError, match="another run") as caught:
            diff(*pair, out)
    assert caught.value.exit_status == 1
    diff(*pair, out)
    assert not [n for n in everything(out) if n.startswith(".")]


def test_what_a_killed_run_left_is_cleared(pair, tmp_path):
    out = tmp_path / "out"
    (out / ".changedet-dead").mkdir(parents=True)
    (out / ".changedet-dead" / "magnitude.tif").write_text("half")
    diff(*pair, out)
    assert not [n for n in everything(out) if n.startswith(".")]


def test_a_read_only_place(pair, tmp_path):
    code = "import sys; from changedet.cli import main; sys.argv[1:] = sys.argv[1:]; main()"
    command = [sys.executable, "-c", code, "diff", *pair, "-o", "/proc/nowhere/out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "cannot be written" in done.stderr


# ------------------------------------------------------------------------------------------------ progress


def test_progress_counts_up_to_the_end(pair, tmp_path):
    seen = []
    diff(*pair, tmp_path / "out", progress=lambda *step: seen.append(step))
    stages = list(dict.fromkeys(s for s, _, _ in seen))
    assert stages == ["difference", "threshold", "segment", "write"]
    for stage in stages:
        steps = [(d, t) for s, d, t in seen if s == stage]
        assert steps == sorted(steps) and steps[0][0] == 0 and steps[-1][0] == steps[-1][1]


def test_compare_takes_arrays(pair):
    images = bitemporal._images(bitemporal._pair(*pair, Plan()), Plan(), None)
    kept = [i.copy(deep=True) for i in images]
    found = compare(*images)
    assert len(found.objects) == 2 and found.change.dtype == np.uint8
    for image, copy in zip(images, kept, strict=True):
        xr.testing.assert_identical(image, copy)
    with pytest.raises(InputError, match="no objects were looked for"):
        _ = compare(*images, objects=False).change
