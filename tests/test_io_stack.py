"""Scenes on one grid: values, masks, grids, windows."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
import xarray as xr
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyproj import Transformer

from changedet.blocks import map_tiles, windows
from changedet.errors import (
    AOIError,
    BandError,
    CRSError,
    DateError,
    GridError,
    InputError,
    TooFewScenesError,
    UnreadableError,
    VanishedInputError,
)
from changedet.grid import Grid, attach
from changedet.io.products import find_scenes
from changedet.io.raster import write_cog
from changedet.io.stack import StackReader, common_bands, open_stack, read_pair, scene_sha256, sha256
from changedet.scenes import Quality

UTM = Affine(10, 0, 500_000, 0, -10, 4_700_000)
BANDS = ("blue", "green", "red", "nir")


def write(path: Path, values: np.ndarray, *, bands: tuple[str, ...] = (), **profile: object) -> Path:
    """Write a plain GeoTIFF (band, y, x); ``transform`` and ``crs`` have defaults."""
    options: dict[str, object] = {"driver": "GTiff", "crs": "EPSG:32652", "transform": UTM, **profile}
    if options["crs"] is None:
        options.pop("transform")
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", count=count, height=height, width=width, dtype=values.dtype, **options
        ) as dataset:
            dataset.write(values)
            for i, name in enumerate(bands, 1):
                dataset.set_band_description(i, name)
    return path


def ramp(shape: tuple[int, int], count: int = 4, dtype: str = "float32") -> np.ndarray:
    """Numbers that interpolation keeps exactly: row + column / 1000 + band * 10."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return np.stack([rows + columns / 1000 + 10 * b for b in range(count)]).astype(dtype)


def noise(shape: tuple[int, int], count: int = 4, seed: int = 0) -> np.ndarray:
    """Stored reflectance times 10,000."""
    return np.random.default_rng(seed).integers(100, 9000, (count, *shape)).astype("uint16")


# ------------------------------------------------------------------------------------------------- values


def test_stack_of_plain_files(tmp_path: Path) -> None:
    later, earlier = noise((20, 30), seed=1), noise((20, 30), seed=2)
    write(tmp_path / "site B 20240301.tif", later, bands=BANDS)
    write(tmp_path / "möwe_20240101T021459.tif", earlier, bands=BANDS)
    stack = open_stack(tmp_path)
    assert dict(stack.sizes) == {"time": 2, "band": 4, "y": 20, "x": 30}
    assert stack["image"].dtype == np.float32
    assert stack["quality"].dtype == np.uint8
    assert (
        stack["time"].values.tolist()
        == np.array(["2024-01-01T02:14:59", "2024-03-01"], "datetime64[ns]").tolist()
    )
    assert stack["scene"].values.tolist() == ["möwe_20240101T021459", "site B 20240301"]
    assert stack["band"].values.tolist() == list(BANDS)
    assert Grid.of(stack).same_as(Grid.make("EPSG:32652", UTM, (20, 30)))
    np.testing.assert_allclose(stack["image"][0].values, earlier / 10_000, rtol=1e-6)
    assert not stack["quality"].any()


def test_nodata_infinities_and_saturation(tmp_path: Path) -> None:
    stored = noise((6, 6))
    stored[1, 0, 0] = 0
    stored[2, 1, 1] = 65535
    write(tmp_path / "a_20240101.tif", stored, bands=BANDS, nodata=0)
    floats = ramp((6, 6)) / 100
    floats[0, 0, 1], floats[1, 0, 2], floats[2, 0, 3] = -np.inf, np.inf, np.nan
    write(tmp_path / "b_20240102.tif", floats, bands=BANDS, nodata=-np.inf)
    stack = open_stack(tmp_path)
    image, quality = stack["image"].values, stack["quality"].values
    assert np.isnan(image[0, :, 0, 0]).all()
    assert quality[0, 0, 0] == Quality.NODATA
    assert quality[0, 1, 1] == Quality.SATURATED
    assert np.isnan(image[0, :, 1, 1]).all()
    assert (quality[1, 0, 1:4] == Quality.NODATA).all()
    assert np.isnan(image).any(axis=1).sum() == 5
    assert ((quality != 0) == np.isnan(image).all(axis=1)).all()


def test_decibel_becomes_power(tmp_path: Path) -> None:
    values = np.full((2, 5, 5), -13.0, "float32")
    values[1] = -20
    write(tmp_path / "S1A_20240101.tif", values, bands=("VV", "VH"))
    scene = find_scenes(tmp_path)[0]
    assert scene.decibel
    assert "dB" in scene.why["scale"]
    image = open_stack([scene])["image"].values
    np.testing.assert_allclose(image[0, 0], 10**-1.3, rtol=1e-6)
    np.testing.assert_allclose(image[0, 1], 0.01, rtol=1e-6)
    write(tmp_path / "S1A_20240101.tif", np.full((2, 5, 5), 0.05, "float32"), bands=("VV", "VH"))
    assert not find_scenes(tmp_path)[0].decibel


def test_scales_are_applied_per_scene_and_band(tmp_path: Path) -> None:
    stored = noise((5, 5))
    for name in ("a_20240101.tif", "b_20240102.tif"):
        write(tmp_path / name, stored, bands=BANDS)
    with rasterio.open(tmp_path / "b_20240102.tif", "r+") as dataset:
        dataset.scales = (2e-5, 1e-5, 1e-5, 1e-5)
        dataset.offsets = (-0.1, -0.2, 0.0, 0.0)
    image = open_stack(tmp_path)["image"].values
    np.testing.assert_allclose(image[0], stored * 1e-4, rtol=1e-6)
    np.testing.assert_allclose(image[1, 0], stored[0] * 2e-5 - 0.1, atol=1e-7)
    np.testing.assert_allclose(image[1, 1], stored[1] * 1e-5 - 0.2, atol=1e-7)


def test_sentinel2_baseline_offset(tmp_path: Path) -> None:
    stored = noise((40, 40)).clip(1100)
    names = ("B02", "B03", "B04", "B08")
    write(tmp_path / "S2A_MSIL2A_20240101T021459_N0510_R003_T52TFM.tif", stored, bands=names)
    write(tmp_path / "S2A_MSIL2A_20190101T021459_N0211_R003_T52TFM.tif", stored, bands=names)
    stack = open_stack(tmp_path)
    assert stack["sensor"].values.tolist() == ["sentinel-2"] * 2
    np.testing.assert_allclose(stack["image"][0].values, stored * 1e-4, rtol=1e-6)
    np.testing.assert_allclose(stack["image"][1].values, (stored - 1000.0) * 1e-4, atol=1e-6)
    low = (noise((40, 40)) / 9).astype("uint16")
    write(tmp_path / "S2A_MSIL2A_20240201T021459_N0510_R003_T52TFM.tif", low, bands=names)
    taken_off = find_scenes(tmp_path / "S2A_MSIL2A_20240201T021459_N0510_R003_T52TFM.tif")[0]
    assert taken_off.offset == 0
    assert "already taken off" in taken_off.why["scale"]


def test_assumed_scale_is_agreed_between_scenes(tmp_path: Path) -> None:
    for day, top in (("01", 1), ("02", 1), ("03", 6)):
        write(tmp_path / f"a_202401{day}.tif", noise((9, 9)) * np.uint16(top), bands=BANDS)
    scenes = find_scenes(tmp_path)
    assert [s.scale for s in scenes] == [1e-4] * 3
    assert "as the other scenes" in scenes[2].why["scale"]
    assert "assumed" in scenes[0].why["scale"]
    assert find_scenes(tmp_path / "a_20240103.tif")[0].scale == 1
    assert [float(i.max()) > 2 for i in open_stack(scenes)["image"]] == [False, False, True]
    before, after = read_pair(tmp_path / "a_20240101.tif", tmp_path / "a_20240103.tif")
    assert float(before.max()) < 2 < float(after.max()) < 7


def test_coarser_files_of_a_scene_are_interpolated(tmp_path: Path) -> None:
    coarse = Affine(20, 0, 500_000, 0, -20, 4_700_000)
    write(tmp_path / "T52TFM_20240101T021459_10m.tif", ramp((20, 30), 2), bands=("B02", "B08"))
    write(
        tmp_path / "T52TFM_20240101T021459_20m.tif",
        ramp((10, 15), 1) * 2 + 50,
        bands=("B11",),
        transform=coarse,
    )
    scene = find_scenes(tmp_path)[0]
    assert scene.bands == ("blue", "nir", "swir16")
    swir = open_stack([scene])["image"].sel(band="swir16").values[0]
    rows, columns = np.mgrid[:20, :30]
    exact = 2 * ((rows - 0.5) / 2 + (columns - 0.5) / 2 / 1000) + 50
    np.testing.assert_allclose(swir[1:-1, 1:-1], exact[1:-1, 1:-1], atol=1e-4)
    assert np.isfinite(swir).all()


# ------------------------------------------------------------------------------------------------- masks


def test_sidecar_masks(tmp_path: Path) -> None:
    for n in range(1, 5):
        write(tmp_path / f"s_2024010{n}.tif", noise((4, 4), seed=n), bands=BANDS)
    udm2 = np.zeros((8, 4, 4), "uint8")
    udm2[0] = 1
    udm2[0, 0, :3] = 0
    udm2[1, 0, 0], udm2[2, 0, 1], udm2[5, 0, 2] = 1, 1, 1
    write(tmp_path / "s_20240101_udm2.tif", udm2)
    single = np.zeros((1, 4, 4), "uint8")
    single[0, 3, 3] = 7
    write(tmp_path / "s_20240102_udm2.tif", single)
    write(tmp_path / "s_20240103_mask.tif", single)
    stack = open_stack(tmp_path)
    assert stack.sizes["time"] == 4
    quality = stack["quality"].values
    masked = int(Quality.MASKED)
    assert quality[0, 0].tolist() == [
        masked | Quality.SNOW,
        masked | Quality.SHADOW,
        masked | Quality.CLOUD,
        0,
    ]
    assert quality[1, 3, 3] == quality[2, 3, 3] == masked
    assert (quality != 0).sum(axis=(1, 2)).tolist() == [3, 1, 1, 0]
    assert (np.isnan(stack["image"]).any("band").values == (quality != 0)).all()
    why = [s.why["mask"] for s in find_scenes(tmp_path)]
    assert "band 1 = clear" in why[0]
    assert "non-zero" in why[1]
    assert why[3] == "no mask found: nodata only"


def test_landsat_collection_2_mask_and_scale(tmp_path: Path) -> None:
    folder = tmp_path / "LC08_L2SP_115031_20240101_20240110_02_T1"
    stored = noise((4, 5), 1)
    for band in ("SR_B2", "SR_B3"):
        write(folder / f"{folder.name}_{band}.TIF", stored, nodata=0)
    write(folder / f"{folder.name}_ST_B10.TIF", stored, nodata=0)
    write(folder / f"{folder.name}_QA_RADSAT.TIF", stored)
    qa = np.full((1, 4, 5), 21824, "uint16")
    qa[0, 0] = [1, 22280, 23888, 30048, 21952]  # fill, cloud, shadow, snow, water
    write(folder / f"{folder.name}_QA_PIXEL.TIF", qa, nodata=1)
    (scene,) = find_scenes(tmp_path)
    assert scene.sensor == "landsat-8"
    assert scene.bands == ("blue", "green")
    assert "ST_B10" in scene.why["left_out"]
    assert "QA_RADSAT" in scene.why["left_out"]
    stack = open_stack([scene])
    flags = [Quality.NODATA, Quality.CLOUD, Quality.SHADOW, Quality.SNOW, Quality.WATER]
    assert stack["quality"].values[0, 0].tolist() == flags
    assert np.isnan(stack["image"].values[0, 0, 0]).tolist() == [True, True, True, False, False]
    np.testing.assert_allclose(stack["image"].values[0, 0, 1:], stored[0, 1:] * 2.75e-5 - 0.2, atol=1e-6)


def test_landsat_collection_1_qa_inside_the_file(tmp_path: Path) -> None:
    stored = np.full((3, 2, 4), 0.1, "float32")
    stored[2] = [[2720, 2800, 2976, 6816], [2720, 3744, 2724, 1]]
    write(tmp_path / "2024-01-02-03-04-05_L8_site.tif", stored)
    (scene,) = find_scenes(tmp_path, band_names="green,nir08,qa")
    assert scene.bands == ("green", "nir08")
    assert scene.mask_kind == "bqa"
    quality = open_stack([scene])["quality"].values[0]
    cloud, shadow = Quality.CLOUD, Quality.SHADOW
    assert quality.tolist() == [
        [0, cloud, shadow, cloud],
        [0, Quality.SNOW, Quality.SATURATED, Quality.NODATA],
    ]
    renamed = tmp_path / "plain_20240101.tif"
    (tmp_path / "2024-01-02-03-04-05_L8_site.tif").rename(renamed)
    with pytest.raises(BandError, match="convention is unknown"):
        find_scenes(tmp_path, band_names="green,nir08,qa")


def test_scene_classes_on_a_coarser_grid(tmp_path: Path) -> None:
    write(tmp_path / "T52TFM_20240101T021459_B02_10m.tif", noise((8, 8), 1))
    classes = np.array([[[4, 8, 3, 6], [0, 11, 10, 1], [5, 5, 5, 5], [4, 4, 4, 4]]], "uint8")
    write(
        tmp_path / "T52TFM_20240101T021459_SCL_20m.tif",
        classes,
        transform=Affine(20, 0, 500_000, 0, -20, 4_700_000),
    )
    quality = open_stack(tmp_path)["quality"].values[0]
    expected = [
        [0, Quality.CLOUD, Quality.SHADOW, Quality.WATER],
        [Quality.NODATA, Quality.SNOW, Quality.CLOUD, Quality.SATURATED],
        [0] * 4,
        [0] * 4,
    ]
    assert (quality == np.kron(np.array(expected), np.ones((2, 2), int))).all()


def test_alpha_and_internal_masks_are_nodata(tmp_path: Path) -> None:
    rgba = np.full((4, 3, 3), 100, "uint8")
    rgba[3] = 255
    rgba[3, 0, 0] = 0
    write(tmp_path / "a_20240101.tif", rgba, photometric="RGB", alpha="yes")
    path = write(tmp_path / "b_20240102.tif", rgba[:3], photometric="RGB")
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(rgba[3])
    stack = open_stack(tmp_path)
    assert stack["band"].values.tolist() == ["red", "green", "blue"]
    assert (stack["quality"].values[:, 0, 0] == Quality.NODATA).all()
    assert (stack["quality"].values != 0).sum() == 2
    np.testing.assert_allclose(stack["image"].values[:, :, 1, 1], 100 / 255, rtol=1e-6)


# ------------------------------------------------------------------------------------------------- grids


def pair(tmp_path: Path, **profile: object) -> Path:
    """A scene on the usual grid, and one that differs."""
    write(tmp_path / "a_20240101.tif", ramp((40, 50)) / 100, bands=BANDS)
    write(tmp_path / "b_20240201.tif", ramp((40, 50)) / 100, bands=BANDS, **profile)
    return tmp_path


def test_half_a_pixel_is_refused_and_warped_right(tmp_path: Path) -> None:
    pair(tmp_path, transform=UTM @ Affine.translation(0.5, -0.5))
    with pytest.raises(GridError, match=r"b_20240201 is not on the grid of a_20240101.*0\.500") as caught:
        open_stack(tmp_path)
    assert "warp" in str(caught.value)
    stack = open_stack(tmp_path, warp=True)
    image = stack["image"].values
    # the second file's pixel (r, c) lies at (r - 0.5, c + 0.5) of the first grid
    rows, columns = np.mgrid[:40, :50]
    exact = ((rows + 0.5) + (columns - 0.5) / 1000) / 100
    inner = (slice(2, -2), slice(2, -2))
    np.testing.assert_allclose(image[1, 0][inner], exact[inner], atol=1e-5)
    assert np.isnan(image[1, 0, -1]).all()
    assert Grid.of(stack).same_as(Grid.make("EPSG:32652", UTM, (40, 50)))


def test_a_hundredth_of_a_pixel_is_the_same_grid(tmp_path: Path) -> None:
    pair(tmp_path, transform=UTM @ Affine.translation(0.005, 0))
    assert open_stack(tmp_path).sizes["time"] == 2


def test_other_crs_is_refused_naming_both_and_warped(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:400, :400]
    degrees = Affine(1e-4, 0, 128.98, 0, -1e-4, 42.47)
    x, _ = Transformer.from_crs(4326, 32652, always_xy=True).transform(
        *(degrees @ (columns + 0.5, rows + 0.5))
    )
    write(tmp_path / "a_20240101.tif", ramp((40, 50), 1) / 100)
    write(
        tmp_path / "b_20240201.tif",
        np.stack([(x - 5e5) / 1e4]).astype("float32"),
        crs="EPSG:4326",
        transform=degrees,
    )
    with pytest.raises(CRSError, match=r"EPSG:4326 against EPSG:32652"):
        open_stack(tmp_path)
    image = open_stack(tmp_path, warp=True)["image"].values
    centers = 10 * (np.arange(50) + 0.5)
    np.testing.assert_allclose(image[1, 0], np.tile(centers / 1e4, (40, 1)), atol=2e-6)


def test_flipped_and_rotated_grids(tmp_path: Path) -> None:
    flipped = Affine(10, 0, 500_000, 0, 10, 4_699_600)
    pair(tmp_path, transform=flipped)
    with pytest.raises(GridError):
        open_stack(tmp_path)
    image = open_stack(tmp_path, warp=True)["image"].values
    np.testing.assert_allclose(image[1], image[0, :, ::-1], atol=1e-5)
    turned = Affine.rotation(20) @ UTM
    for name in ("a_20240101.tif", "b_20240201.tif"):
        write(tmp_path / name, ramp((40, 50)) / 100, bands=BANDS, transform=turned)
    stack = open_stack(tmp_path)
    np.testing.assert_allclose(stack["image"].values[0], ramp((40, 50)) / 100)
    assert Grid.of(stack).same_as(Grid.make("EPSG:32652", turned, (40, 50)))
    write(tmp_path / "b_20240201.tif", ramp((40, 50)) / 100, bands=BANDS)
    with pytest.raises(GridError):
        open_stack(tmp_path)


def test_finer_scene_is_averaged_onto_a_coarser_grid(tmp_path: Path) -> None:
    write(tmp_path / "a_20240101.tif", ramp((10, 12), 1))
    fine = Affine(2.5, 0, 500_000, 0, -2.5, 4_700_000)
    values = np.random.default_rng(3).random((1, 40, 48)).astype("float32")
    values[0, :4, :4] = np.nan
    values[0, 4, 4] = np.nan
    write(tmp_path / "b_20240201.tif", values, transform=fine)
    image = open_stack(tmp_path, warp=True)["image"].values[1, 0]
    blocks = values[0].reshape(10, 4, 12, 4).swapaxes(1, 2).reshape(10, 12, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        means = np.nanmean(blocks, axis=2)
    ok = np.isfinite(image)
    np.testing.assert_allclose(image[ok], means[ok], rtol=1e-5)
    assert not ok[0, 0]
    assert ok[2:, 2:].all()


def test_warped_masks_are_nearest_and_spread(tmp_path: Path) -> None:
    pair(tmp_path, transform=UTM @ Affine.translation(0.3, 0.3))
    mask = np.zeros((1, 40, 50), "uint8")
    mask[0, 20, 20] = 1
    write(tmp_path / "b_20240201_mask.tif", mask, transform=UTM @ Affine.translation(0.3, 0.3))
    stack = open_stack(tmp_path, warp=True)
    rows, columns = np.nonzero(stack["quality"].values[1] & Quality.MASKED)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (19, 21, 19, 21)
    assert np.isnan(stack["image"].values[1, :, 19:22, 19:22]).all()


# ------------------------------------------------------------------------------------------------- windows


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes with masks, two resolutions, other grids, another CRS."""
    folder = tmp_path_factory.mktemp("mixed")
    shape = (61, 47)
    stored = noise(shape)
    stored[:, 10:14, 20:30] = 0
    write(folder / "a_20240101.tif", stored, bands=BANDS, nodata=0)
    write(folder / "b_20240102.tif", noise(shape), bands=BANDS, transform=UTM @ Affine.translation(0.4, 0.3))
    write(
        folder / "b_20240102_mask.tif",
        (noise(shape, 1) > 8000).astype("uint8"),
        transform=UTM @ Affine.translation(0.4, 0.3),
    )
    write(
        folder / "c_20240103.tif",
        noise((99, 99)),
        bands=BANDS,
        transform=Affine(6, 0, 499_990, 0, -6, 4_700_010),
    )
    write(
        folder / "d_20240104.tif",
        noise((90, 90)),
        bands=BANDS,
        crs="EPSG:4326",
        transform=Affine(1.2e-4, 0, 128.999, 0, -1e-4, 42.453),
    )
    write(folder / "e_20240105.tif", noise(shape), bands=BANDS, transform=Affine.rotation(1, (0, 0)) @ UTM)
    return folder


@pytest.fixture(scope="module")
def eager(mixed: Path) -> xr.Dataset:
    """The mixed stack, read at once."""
    return open_stack(mixed, warp=True)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chunk=st.integers(5, 70))
def test_lazy_equals_eager_to_the_bit(mixed: Path, eager: xr.Dataset, chunk: int) -> None:
    lazy = open_stack(mixed, warp=True, chunk_px=chunk)
    assert lazy["image"].chunks is not None
    assert lazy["quality"].chunks is not None
    xr.testing.assert_identical(lazy.compute(), eager)


def test_lazy_stack_reads_nothing_until_asked(tmp_path: Path) -> None:
    path = write(tmp_path / "a_20240101.tif", ramp((64, 64)), bands=BANDS)
    lazy = open_stack(path, chunk_px=32)
    again = open_stack(path, chunk_px=32)
    assert lazy["image"].data.name == again["image"].data.name
    np.testing.assert_array_equal(lazy["image"][0, 1, 40:, 40:].values, ramp((64, 64))[1, 40:, 40:])
    path.unlink()
    with pytest.raises(VanishedInputError):
        lazy["image"].compute()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_crop_is_the_window_of_the_whole(mixed: Path, eager: xr.Dataset, data: st.DataObject) -> None:
    r0, c0 = data.draw(st.integers(0, 59)), data.draw(st.integers(0, 45))
    r1, c1 = data.draw(st.integers(r0 + 1, 61)), data.draw(st.integers(c0 + 1, 47))
    left, top = UTM @ (c0 + 0.2, r0 + 0.2)
    right, low = UTM @ (c1 - 0.2, r1 - 0.2)
    part = open_stack(mixed, warp=True, aoi=shapely.box(left, low, right, top), aoi_crs="EPSG:32652")
    window = (slice(r0, r1), slice(c0, c1))
    expected = eager.isel(y=window[0], x=window[1])
    xr.testing.assert_equal(part.drop_vars("spatial_ref"), expected.drop_vars("spatial_ref"))
    assert Grid.of(part).same_as(Grid.of(eager).crop(window))


def test_aoi_in_lon_lat(tmp_path: Path) -> None:
    write(tmp_path / "a_20240101.tif", ramp((40, 50)) / 100, bands=BANDS)
    lon, lat = Transformer.from_crs(32652, 4326, always_xy=True).transform(500_205, 4_699_795)
    part = open_stack(tmp_path, aoi=shapely.Point(lon, lat).buffer(1e-6))
    assert part.sizes["y"] == part.sizes["x"] == 1
    np.testing.assert_allclose(part["image"].values.ravel(), ramp((40, 50))[:, 20, 20] / 100)
    with pytest.raises(AOIError, match="does not overlap"):
        open_stack(tmp_path, aoi=shapely.box(10, 10, 11, 11))
    with pytest.raises(AOIError, match="antimeridian"):
        open_stack(tmp_path, aoi=shapely.box(-179, 10, 179, 11))
    with pytest.raises(AOIError, match="empty"):
        open_stack(tmp_path, aoi=shapely.Polygon())
    bare = write(tmp_path / "bare_20240101.tif", ramp((4, 4)), crs=None)
    with pytest.raises(AOIError, match="no CRS"):
        open_stack(bare, aoi=shapely.box(0, 0, 1, 1))


# ------------------------------------------------------------------------------------------------- choices


def test_bands_are_shared_or_chosen(tmp_path: Path) -> None:
    write(tmp_path / "a_20240101.tif", noise((4, 4), 3), bands=("nir", "red", "green"))
    write(tmp_path / "b_20240102.tif", noise((4, 4), 3), bands=("green", "blue", "nir"))
    assert open_stack(tmp_path)["band"].values.tolist() == ["nir", "green"]
    assert open_stack(tmp_path, bands="green")["band"].values.tolist() == ["green"]
    chosen = open_stack(tmp_path, bands=["green", "nir"])
    plain = open_stack(tmp_path)
    np.testing.assert_array_equal(chosen["image"].sel(band="nir"), plain["image"].sel(band="nir"))
    with pytest.raises(BandError, match="a_20240101 has no band 'blue'"):
        open_stack(tmp_path, bands=["blue"])
    with pytest.raises(BandError, match="did you mean 'green'"):
        open_stack(tmp_path, bands=["gren"])
    with pytest.raises(BandError, match="share no band"):
        write(tmp_path / "c_20240103.tif", noise((4, 4), 1), bands=("swir16",))
        open_stack(tmp_path)
    with pytest.raises(BandError, match="repeat"):
        common_bands(find_scenes(tmp_path), "green,green")


def test_dates_bound_the_stack(tmp_path: Path) -> None:
    for day in ("20240101", "20240102T235959", "20240103"):
        write(tmp_path / f"a_{day}.tif", noise((4, 4)), bands=BANDS)
    assert open_stack(tmp_path, until="2024-01-02").sizes["time"] == 2
    assert open_stack(tmp_path, since="2024-01-02", until="2024-01-02").sizes["time"] == 1
    with pytest.raises(TooFewScenesError):
        open_stack(tmp_path, since="2025-01-01")
    with pytest.raises(DateError, match="after"):
        open_stack(tmp_path, since="2025-01-01", until="2024-01-01")
    with pytest.raises(DateError, match="no date"):
        open_stack(tmp_path, since="soon")


def test_no_date_and_the_same_date_twice(tmp_path: Path) -> None:
    write(tmp_path / "plain.tif", noise((4, 4)), bands=BANDS)
    with pytest.raises(DateError, match=r"plain\.tif has no acquisition date"):
        open_stack(tmp_path)
    assert open_stack(tmp_path, date="2024-05-01")["time"].values[0] == np.datetime64("2024-05-01")
    write(tmp_path / "a_20240101.tif", noise((4, 4)), bands=BANDS)
    write(tmp_path / "b_20240101.tif", noise((4, 4)), bands=BANDS)
    with pytest.raises(DateError, match=r"a_20240101.tif and .*b_20240101.tif are both of 2024-01-01"):
        open_stack(tmp_path, date="plain.tif=2023-01-01")
    times = ["a_20240101.tif=2024-01-01T01:00:00", "plain.tif=2023-01-01"]
    assert open_stack(tmp_path, date=times).sizes["time"] == 3


def test_readers_travel_to_other_processes_and_threads(tmp_path: Path) -> None:
    for n in range(1, 4):
        write(tmp_path / f"a_2024010{n}.tif", noise((90, 70), seed=n), bands=BANDS, nodata=0)
    scenes = find_scenes(tmp_path)
    whole = (slice(0, 90), slice(0, 70))
    reader = pickle.loads(pickle.dumps(StackReader(tuple(scenes), BANDS, scenes[0].grid, whole)))
    tiles = list(windows((90, 70), 16))
    one, two = (map_tiles(lambda t: reader.read(t.inner), tiles, threads=n) for n in (1, 4))
    for (a, qa), (b, qb) in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(qa, qb)


def test_fill_of_float64_does_not_warn(tmp_path: Path) -> None:
    values = np.full((1, 4, 4), 0.25)
    values[0, 0, 0] = -1.7976931348623157e308
    write(tmp_path / "a_20240101.tif", values, nodata=-1.7976931348623157e308)
    write(tmp_path / "c_20240103.tif", values.clip(-9999).astype("float32"), nodata=-9999)
    stack = open_stack(tmp_path)
    assert np.isnan(stack["image"].values[:, 0, 0, 0]).all()
    assert (stack["image"].values[:, 0, 1:] == 0.25).all()


def test_sar_geometries_are_not_mixed(tmp_path: Path) -> None:
    for burst, time in (("292318-IW1", "015854"), ("292318-IW2", "015855")):
        stem = f"OPERA_L2_RTC-S1_T137-{burst}_20211119T{time}Z_20250830T120333Z_S1A_30_v1.0"
        for pol in ("VV", "VH"):
            write(tmp_path / f"{stem}_{pol}.tif", np.full((1, 4, 4), 0.1, "float32"))
    with pytest.raises(InputError, match="2 geometries"):
        open_stack(tmp_path)
    scenes = find_scenes(tmp_path)
    assert [s.group for s in scenes] == ["sentinel-1 T137-292318-IW1", "sentinel-1 T137-292318-IW2"]
    assert open_stack(scenes[:1])["band"].values.tolist() == ["vh", "vv"]


def test_records_and_paths_are_not_mixed(tmp_path: Path) -> None:
    path = write(tmp_path / "a_20240101.tif", noise((4, 4)), bands=BANDS)
    (scene,) = find_scenes(path)
    xr.testing.assert_identical(open_stack(scene), open_stack(path))
    with pytest.raises(InputError, match="mix"):
        open_stack([scene, path])  # type: ignore[list-item]


def test_truncated_in_a_stack(tmp_path: Path) -> None:
    path = write(tmp_path / "a_20240101.tif", noise((300, 300)), bands=BANDS, compress="deflate")
    path.write_bytes(path.read_bytes()[:-40_000])
    with pytest.raises(UnreadableError, match=r"a_20240101\.tif"):
        open_stack(tmp_path)


# ------------------------------------------------------------------------------------------------- pairs


def test_pair_of_plain_pictures(tmp_path: Path) -> None:
    values = np.arange(48, dtype="uint8").reshape(1, 6, 8) * 5
    for name in ("before.png", "after.png"):
        write(tmp_path / name, values, driver="PNG", crs=None)
    before, after = read_pair(tmp_path / "before.png", tmp_path / "after.png")
    assert before.dims == ("band", "y", "x")
    assert "spatial_ref" not in before.coords
    np.testing.assert_allclose(after.values, values / 255, rtol=1e-6)
    write(tmp_path / "small.png", values[:, :4], driver="PNG", crs=None)
    for warp in (False, True):
        with pytest.raises(GridError, match="shape"):
            read_pair(tmp_path / "before.png", tmp_path / "small.png", warp=warp)
    write(tmp_path / "map.tif", values)
    with pytest.raises(CRSError, match=r"before.png has no CRS but .*map.tif has"):
        read_pair(tmp_path / "before.png", tmp_path / "map.tif")
    with pytest.raises(CRSError, match=r"before.png has no CRS but .*map.tif has"):
        read_pair(tmp_path / "map.tif", tmp_path / "before.png", warp=True)


def test_pair_is_lazy_where_asked_and_needs_no_dates(tmp_path: Path) -> None:
    write(tmp_path / "before.tif", ramp((40, 50)), bands=BANDS)
    write(tmp_path / "after.tif", ramp((40, 50)) + 1, bands=BANDS)
    now = read_pair(tmp_path / "before.tif", tmp_path / "after.tif", bands="nir,blue")
    lazy = read_pair(tmp_path / "before.tif", tmp_path / "after.tif", bands="nir,blue", chunk_px=16)
    for a, b in zip(now, lazy, strict=True):
        assert b.chunks is not None
        xr.testing.assert_identical(a, b.compute())
    assert now[0]["band"].values.tolist() == ["nir", "blue"]
    np.testing.assert_allclose((now[1] - now[0]).values, 1, rtol=1e-5)


def test_pair_wants_one_scene_a_side(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", ramp((4, 4)), bands=BANDS)
    write(tmp_path / "b.tif", ramp((4, 4)), bands=BANDS)
    with pytest.raises(InputError, match="BEFORE holds 2 scenes"):
        read_pair(tmp_path, tmp_path / "b.tif")


def test_checksums(tmp_path: Path) -> None:
    path = write(tmp_path / "a_20240101.tif", noise((4, 4)), bands=BANDS)
    (alone,) = find_scenes(path)
    assert scene_sha256(alone) == sha256(path)
    write(tmp_path / "a_20240101_mask.tif", np.zeros((1, 4, 4), "uint8"))
    (masked,) = find_scenes(path)
    assert scene_sha256(masked) != sha256(path)
    assert len(scene_sha256(masked)) == 64


# --------------------------------------------------------------------------------------------- mask repair


def masked_scenes(folder, size=60, dates=8):
    """Scenes of 3 m: a bright roof that the mask takes for cloud from date 3 on, and a cloud on date 5."""
    grid = Grid.make("EPSG:32652", Affine(3, 0, 600_000, 0, -3, 4_700_000), (size, size))
    for t in range(dates):
        image = np.full((1, size, size), 2000 + t, np.uint16)
        mask = np.zeros((size, size), np.uint8)
        if t >= 3:
            mask[28:32, 28:33] = 1
        if t == 5:
            mask[45:] = 1
        stem = f"2024{t + 1:02d}10"
        bands = {"band": np.array(["green"], dtype=object)}
        write_cog(folder / f"{stem}.tif", attach(image, grid, dims=("band", "y", "x"), coords=bands))
        write_cog(folder / f"{stem}_mask.tif", attach(mask, grid), nodata=None)
    return folder


def test_a_mask_that_eats_a_roof_is_not_believed_and_says_so(tmp_path):
    folder = masked_scenes(tmp_path)
    roof = (slice(28, 32), slice(28, 33))
    stack = open_stack([folder])
    known = np.isfinite(stack.image.values[:, 0])
    assert known[(slice(None), *roof)].all()
    assert not known[5, 45:].any()  # a cloud stays one
    assert (stack.quality.values[(slice(3, None), *roof)] == Quality.MASKED).all()
    plain = np.isfinite(open_stack([folder], repair_masks=False).image.values[:, 0])
    assert not plain[(slice(3, None), *roof)].any() and not plain[5, 45:].any()


@pytest.mark.parametrize("chunk_px", [16, 29])
def test_masks_are_repaired_alike_in_chunks(tmp_path, chunk_px):
    folder = masked_scenes(tmp_path)
    xr.testing.assert_identical(open_stack([folder], chunk_px=chunk_px).compute(), open_stack([folder]))
