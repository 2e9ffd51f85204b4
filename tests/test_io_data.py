"""Real files: what is recognised in them, and the numbers that come out."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio

from changedet.errors import CRSError, DateError, GridError, InputError, UnsafePathError
from changedet.io.products import find_scenes, info, scene_info
from changedet.io.stack import open_stack, read_pair
from changedet.scenes import Quality

DATA = Path(os.environ.get("CHANGEDET_DATA", Path(__file__).parents[2] / "shared" / "data"))
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no imagery in {DATA} (set CHANGEDET_DATA)")

S2_BANDS = {
    "coastal", "blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08", "nir09", "cirrus",
    "swir16", "swir22",
}  # fmt: skip
L8_NAMES = "blue,green,red,nir08,swir16,qa"


def stored(path: Path, *indexes: int) -> np.ndarray:
    """Pixels as rasterio reads them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path) as dataset:
            return dataset.read(list(indexes) or None)


@pytest.mark.parametrize("site", ["aguasclaras", "nantes", "rennes"])
def test_oscd_pairs_have_thirteen_bands(site: str) -> None:
    folder = DATA / "oscd" / site
    stack = open_stack(str(folder / "t?_*m.tif"))
    assert set(stack["band"].values) == S2_BANDS
    assert stack.sizes["time"] == 2
    first = sorted(folder.glob("t1_*_10m.tif"))[0]
    ten = stack["image"][0].sel(band=["blue", "green", "red", "nir"]).values
    usable = np.isfinite(ten).all(axis=0)
    np.testing.assert_allclose(ten[:, usable], stored(first)[:, usable] * 1e-4, rtol=1e-5)
    assert str(stack["time"].values[0])[:10].replace("-", "") == first.name.split("_")[1]
    assert float(np.isfinite(stack["image"]).mean()) > 0.99


@pytest.mark.parametrize("site", ["abudhabi", "hongkong"])
def test_oscd_pairs_on_other_grids_need_a_warp(site: str) -> None:
    files = str(DATA / "oscd" / site / "t?_*_10m.tif")
    with pytest.raises(GridError, match="warp"):
        open_stack(files)
    stack = open_stack(files, warp=True)
    assert stack.sizes["band"] == 4
    after = stack["image"][1].values
    assert float(np.isfinite(after).all(axis=0).mean()) > 0.99
    # the resampled picture keeps the mean of the original
    second = sorted(Path(files).parent.glob("t2_*_10m.tif"))[0]
    np.testing.assert_allclose(
        np.nanmean(after, axis=(1, 2)), stored(second).mean(axis=(1, 2)) * 1e-4, rtol=3e-3
    )


def test_oscd_folder_names_the_file_without_a_date() -> None:
    with pytest.raises(DateError, match=r"gt\.tif"):
        open_stack(DATA / "oscd" / "rennes")


def test_oscd_pair_for_a_difference() -> None:
    folder = DATA / "oscd" / "rennes"
    before, after = read_pair(str(folder / "t1_*.tif"), str(folder / "t2_*.tif"))
    assert before.dims == ("band", "y", "x")
    assert set(before["band"].values) == S2_BANDS
    assert before.shape == after.shape


@pytest.mark.parametrize(("site", "dates"), [("NEWCASTLE", 10), ("SAWTELL", 19), ("Mayreau", 10)])
def test_l8_coast(site: str, dates: int) -> None:
    folder = DATA / "stacks" / "l8_coast" / site / "L8" / "ms"
    scenes = find_scenes(folder, band_names=L8_NAMES)
    assert {s.sensor for s in scenes} == {"landsat-8"}
    assert {s.mask_kind for s in scenes} == {"bqa"}
    stack = open_stack(scenes)
    assert dict(stack.sizes)["time"] == dates
    assert stack["band"].values.tolist() == L8_NAMES.split(",")[:5]
    names = sorted(folder.glob("*.tif"))
    for i, path in enumerate(names):
        raw = stored(path, 1, 2, 3, 4, 5)
        quality = stack["quality"].values[i]
        np.testing.assert_array_equal(quality & Quality.NODATA != 0, np.isneginf(raw).any(axis=0))
        bit4 = stored(path, 6)[0].astype(int) >> 4 & 1 != 0
        assert (quality[bit4] & Quality.CLOUD != 0).all()
        usable = np.isfinite(stack["image"].values[i]).all(axis=0)
        np.testing.assert_array_equal(stack["image"].values[i][:, usable], raw[:, usable])


def test_s1rtc_groups_bursts_and_polarisations() -> None:
    folder = DATA / "stacks" / "s1rtc_california"
    scenes = find_scenes([folder / "292318-IW1", folder / "292318-IW2"])
    assert len(scenes) == 42
    assert {s.group for s in scenes} == {"sentinel-1 T137-292318-IW1", "sentinel-1 T137-292318-IW2"}
    assert {s.bands for s in scenes} == {("vh", "vv")}
    assert not any(s.decibel for s in scenes)
    with pytest.raises(InputError, match="2 geometries"):
        open_stack(scenes)
    stack = open_stack([s for s in scenes if s.group.endswith("IW2")])
    assert stack.sizes["time"] == 21
    assert str(stack["time"].values[-1])[:19] == "2025-01-02T01:58:58"
    # the README gives -30.6 to -15.8 dB for the date medians of VV
    medians = 10 * np.log10(stack["image"].sel(band="vv").median(("y", "x")).values)
    np.testing.assert_allclose([medians.min(), medians.max()], [-30.6, -15.8], atol=0.051)


def test_s1rtc_png_is_mostly_outside_the_burst() -> None:
    stack = open_stack(DATA / "stacks" / "s1rtc_png")
    assert stack.sizes["time"] == 10
    assert stack["band"].values.tolist() == ["vh"]
    assert float(np.isfinite(stack["image"]).mean()) == pytest.approx(0.35, abs=0.01)


def test_pucallpa_has_years_only() -> None:
    folder = DATA / "stacks" / "landsat_pucallpa"
    with pytest.raises(DateError, match=r"1985\.tif names a year only"):
        open_stack(folder)
    stack = open_stack(folder, date="%Y", band_names="swir16,nir,red,green")
    assert stack.sizes["time"] == 8
    assert 0 <= float(stack["image"].min()) < float(stack["image"].max()) == 1


def test_taizhou_is_envi_with_wavelengths() -> None:
    folder = DATA / "taizhou"
    before, after = read_pair(folder / "2000TM", folder / "2003TM.HDR")
    assert before["band"].values.tolist() == ["blue", "green", "red", "nir", "swir16", "swir22"]
    np.testing.assert_allclose(before.values, stored(folder / "2000TM") / 255, rtol=1e-6)
    assert before.shape == after.shape == (6, 400, 400)
    # digital numbers: an index of two bands says nothing of water
    assert scene_info(find_scenes(folder / "2000TM")[0])["water"] is None


@pytest.mark.parametrize("site", ["bern", "ottawa", "sanfrancisco"])
def test_plain_pictures(site: str) -> None:
    folder = DATA / "sar" / site
    before, after = read_pair(folder / "before.tif", folder / "after.tif")
    assert before["band"].values.tolist() == ["band1"]
    assert np.isfinite(before).all()
    assert "spatial_ref" not in after.coords
    np.testing.assert_allclose(after.values, stored(folder / "after.tif") / 255, rtol=1e-6)


def test_landsat_collection_2_folder() -> None:
    (scene,) = find_scenes(DATA / "ingest" / "landsat_c2l2_cog")
    assert scene.id == "LC08_L2SP_001062_20201031_20201106_02_T2"
    assert scene.bands == ("coastal", "blue", "green", "red", "nir08", "swir16", "swir22")
    assert (scene.scale, scene.offset) == (2.75e-5, -0.2)
    assert scene.mask_kind == "qa_pixel"
    assert str(scene.date)[:10] == "2020-10-31"
    assert scene_info(scene)["fit"] in ("limited", "refused")


def test_landsat_collection_1_series() -> None:
    scenes = find_scenes(DATA / "ingest" / "landsat_c1l1_series")
    assert len(scenes) == 19
    assert {s.bands for s in scenes} == {
        ("coastal", "blue", "green", "red", "nir08", "swir16", "swir22", "cirrus", "pan")
    }
    assert {s.mask_kind for s in scenes} == {"bqa"}
    assert [str(scenes[i].date)[:10] for i in (0, -1)] == ["2018-01-06", "2018-12-17"]
    # two rows of one pass on 28 April: the names give the day only
    with pytest.raises(DateError, match="20180428"):
        open_stack(scenes)
    with pytest.raises(GridError):
        open_stack([s for s in scenes if "_014032_" not in s.id])
    same_path = [s for s in scenes if "_013032_" in s.id]
    # even the scenes of one path and row are cut at other pixels
    with pytest.raises(GridError, match="px"):
        open_stack(same_path)
    stack = open_stack(same_path, warp=True)
    assert stack.sizes["time"] == len(same_path) == 8
    assert float(np.isfinite(stack["image"][-1]).all("band").mean()) > 0.1
    assert len(info(scenes)["grids"]) > 1


def test_sentinel2_safe_by_its_file_names() -> None:
    (scene,) = find_scenes(DATA / "ingest" / "s2_safe_l2a_raster")
    assert scene.sensor == "sentinel-2"
    assert set(scene.bands) == {"green", "nir08"}
    assert scene.mask_kind == "scl"
    assert (scene.scale, scene.offset) == (1e-4, -0.1)
    described = scene_info(scene)
    assert described["usable"] == pytest.approx(0.6 * 0.4, abs=0.05)


def test_sentinel2_cog_folder() -> None:
    scenes = find_scenes(DATA / "ingest" / "s2_cog")
    assert [s.id for s in scenes] == ["S2A_29RKH_20200219_0_L2A"]
    assert set(scenes[0].bands) == {"coastal", "green", "rededge1", "swir16"}
    assert scenes[0].mask_kind == "scl"
    assert str(scenes[0].date)[:10] == "2020-02-19"


def test_planet_with_the_first_kind_of_udm() -> None:
    folder = DATA / "ingest" / "planetscope"
    (scene,) = find_scenes(str(folder / "2017*.tif"))
    assert scene.bands == ("blue", "green", "red", "nir")
    assert scene.mask_kind == "udm"
    assert str(scene.date)[:19] == "2017-08-31T17:27:54"
    udm = stored(folder / "20170831_172754_101c_3B_AnalyticMS_DN_udm.tif")[0]
    quality = open_stack(scene)["quality"].values[0]
    np.testing.assert_array_equal(quality & Quality.CLOUD != 0, udm & 2 != 0)


def test_products_that_cannot_be_used_yet_are_refused_in_words() -> None:
    with pytest.raises(GridError, match="ground control points"):
        find_scenes(DATA / "ingest" / "s1_grd_aws")
    with pytest.raises(UnsafePathError, match="vsis3"):
        find_scenes(DATA / "ingest" / "s1_rtc_vrt")
    with pytest.raises(CRSError, match="belongs to"):
        find_scenes(DATA / "ingest" / "s2_aws_jp2")
