"""Recognising scenes: grouping, dates, band names, errors, and what `info` says."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine

from changedet.errors import (
    AOIError,
    BandError,
    CRSError,
    DateError,
    GridError,
    InputError,
    MissingInputError,
    UnreadableError,
    UnsafePathError,
)
from changedet.io._dates import find_date, in_name, parse_given, to_date
from changedet.io._names import read_name
from changedet.io.files import strict
from changedet.io.products import find_scenes, info, require_dates, scene_info, select
from changedet.io.stack import open_stack

UTM = Affine(10, 0, 500_000, 0, -10, 4_700_000)
KEYS = (
    "id path sensor date datetime bands crs transform shape gsd_m scale offset nodata mask usable water "
    "shift_px fit why"
).split()


def write(
    path: Path, values: np.ndarray | None = None, *, bands: tuple[str, ...] = (), **more: object
) -> Path:
    """Write a plain GeoTIFF (band, y, x); by default one band of 4 × 4 pixels. ``tags`` are tags."""
    values = np.full((max(len(bands), 1), 4, 4), 500, "uint16") if values is None else values
    tags = more.pop("tags", {})
    options: dict[str, object] = {"driver": "GTiff", "crs": "EPSG:32652", "transform": UTM, **more}
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", count=count, height=height, width=width, dtype=values.dtype, **options
        ) as dataset:
            dataset.write(values)
            dataset.update_tags(**tags)  # type: ignore[arg-type]
            for i, name in enumerate(bands, 1):
                dataset.set_band_description(i, name)
    return path


# ------------------------------------------------------------------------------------------------- inputs


def test_files_folders_and_globs_are_the_same(tmp_path: Path) -> None:
    for n in (1, 2, 10):
        write(tmp_path / "in" / f"s{n}_2024010{n % 9}.tif")
    write(tmp_path / "in" / ".hidden_20240101.tif")
    (tmp_path / "in" / "notes.txt").write_text("x")
    everything = [s.id for s in find_scenes(tmp_path)]
    assert everything == ["s1_20240101", "s10_20240101", "s2_20240102"]
    assert [s.id for s in find_scenes(str(tmp_path / "in" / "*.tif"))] == everything
    assert [s.id for s in find_scenes(str(tmp_path / "**" / "s*.tif"))] == everything
    files = sorted((tmp_path / "in").glob("s*.tif"))
    assert [s.id for s in find_scenes([*files, tmp_path, str(files[0])])] == everything


def test_a_name_with_pattern_characters_is_a_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a[1]_20240101.tif")
    assert find_scenes(path)[0].path == str(path)


def test_missing_empty_and_unsafe_inputs(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="does not exist"):
        find_scenes(tmp_path / "no.tif")
    with pytest.raises(MissingInputError, match="matches no file"):
        find_scenes(str(tmp_path / "*.tif"))
    with pytest.raises(MissingInputError, match="holds no raster"):
        find_scenes(tmp_path)
    with pytest.raises(MissingInputError, match="no input"):
        find_scenes([])
    with pytest.raises(UnsafePathError):
        find_scenes("/vsicurl/http://example.org/a_20240101.tif")
    (tmp_path / "text_20240101.tif").write_text("hello")
    with pytest.raises(UnreadableError, match="text_20240101"):
        find_scenes(tmp_path)


def test_links_to_one_file_count_once(tmp_path: Path) -> None:
    path = write(tmp_path / "a_20240101.tif")
    os.symlink(path, tmp_path / "b_20240101.tif")
    assert len(find_scenes(tmp_path)) == 1


# ------------------------------------------------------------------------------------------------- grouping


def test_polarisations_resolutions_and_bands_are_put_together(tmp_path: Path) -> None:
    opera = "OPERA_L2_RTC-S1_T137-292318-IW2_20211119T015855Z_20250830T120336Z_S1A_30_v1.0"
    for pol in ("VV", "VH"):
        write(tmp_path / "s1" / f"{opera}_{pol}.tif", np.full((1, 4, 4), 0.1, "float32"))
    for n in (2, 3, 10, 12):
        write(tmp_path / "s2" / f"T52TFM_20240101T021459_B{n:02d}.tif")
    write(tmp_path / "s2" / "T52TFM_20240101T021459_TCI_10m.tif")
    for band in ("B02", "B8A", "SCL"):
        write(tmp_path / "cog" / "S2B_52TFM_20240103_0_L2A" / f"{band}.tif")
    write(tmp_path / "named" / "site_20240105_red.tif")
    write(tmp_path / "named" / "site_20240105_nir.tif")
    by_id = {s.id: s for s in find_scenes(tmp_path)}
    assert set(by_id) == {opera, "T52TFM_20240101T021459", "S2B_52TFM_20240103_0_L2A", "site_20240105"}
    assert by_id[opera].bands == ("vh", "vv")
    assert by_id[opera].group == "sentinel-1 T137-292318-IW2"
    assert by_id["T52TFM_20240101T021459"].bands == ("blue", "green", "cirrus", "swir22")
    assert by_id["T52TFM_20240101T021459"].why["left_out"] == "T52TFM_20240101T021459_TCI_10m.tif"
    assert by_id["S2B_52TFM_20240103_0_L2A"].bands == ("blue", "nir08")
    assert by_id["S2B_52TFM_20240103_0_L2A"].mask_kind == "scl"
    assert by_id["site_20240105"].bands == ("nir", "red")


def test_finest_file_wins_where_resolutions_repeat_a_band(tmp_path: Path) -> None:
    coarse = Affine(20, 0, 500_000, 0, -20, 4_700_000)
    write(tmp_path / "T52TFM_20240101T021459_B02_10m.tif", np.full((1, 4, 4), 500, "uint16"))
    write(
        tmp_path / "T52TFM_20240101T021459_B02_20m.tif", np.full((1, 2, 2), 900, "uint16"), transform=coarse
    )
    write(
        tmp_path / "T52TFM_20240101T021459_B11_20m.tif", np.full((1, 2, 2), 900, "uint16"), transform=coarse
    )
    (scene,) = find_scenes(tmp_path)
    assert scene.bands == ("blue", "swir16")
    assert scene.grid.shape == (4, 4)
    np.testing.assert_allclose(open_stack([scene])["image"][0, :, 2, 2], [0.05, 0.09])
    write(tmp_path / "T52TFM_20240101T021459_B2.tif")
    with pytest.raises(BandError, match="both hold band 'blue'"):
        find_scenes(tmp_path)


def test_multi_band_files_that_end_in_a_color_are_scenes_of_their_own(tmp_path: Path) -> None:
    for color in ("red", "blue"):
        write(tmp_path / f"site_20240101_{color}.tif", bands=("green", "nir"))
    assert [s.id for s in find_scenes(tmp_path)] == ["site_20240101_blue", "site_20240101_red"]


def test_planet_names(tmp_path: Path) -> None:
    stem = "20240101_021459_12_24b5"
    write(tmp_path / f"{stem}_3B_AnalyticMS_SR_8b_clip.tif", np.full((8, 4, 4), 500, "uint16"))
    udm = np.ones((8, 4, 4), "uint8")
    udm[1:] = 0
    write(tmp_path / f"{stem}_3B_udm2_clip.tif", udm)
    write(tmp_path / f"{stem}_3B_Visual.tif", np.ones((3, 4, 4), "uint8"))
    (scene,) = find_scenes(tmp_path)
    assert scene.sensor == "planetscope"
    assert scene.date == np.datetime64("2024-01-01T02:14:59")
    assert scene.bands[1] == "blue"
    assert scene.bands[7] == "nir"
    assert scene.mask_kind == "udm2"
    assert scene.scale == 1e-4
    assert not open_stack([scene])["quality"].any()


def test_files_of_a_scene_must_fit_together(tmp_path: Path) -> None:
    write(tmp_path / "T52TFM_20240101T021459_B02.tif")
    write(tmp_path / "T52TFM_20240101T021459_B03.tif", transform=UTM @ Affine.translation(0.5, 0))
    with pytest.raises(GridError, match=r"B03.tif belongs to .*B02.tif but is on another grid"):
        find_scenes(tmp_path)
    write(tmp_path / "T52TFM_20240101T021459_B03.tif", crs="EPSG:32651")
    with pytest.raises(CRSError, match="EPSG:32651 against EPSG:32652"):
        find_scenes(tmp_path)


def test_half_pixel_mask_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a_20240101.tif")
    write(tmp_path / "a_20240101_mask.tif", transform=UTM @ Affine.translation(0.5, 0.5))
    with pytest.raises(GridError, match=r"a_20240101_mask\.tif belongs to"):
        find_scenes(tmp_path)


def test_sidecars_of_files_named_one_by_one(tmp_path: Path) -> None:
    image = write(tmp_path / "a_20240101.tif")
    mask = write(tmp_path / "a_20240101_mask.tif", np.ones((1, 4, 4), "uint8"))
    assert find_scenes(image)[0].mask == str(mask)
    assert find_scenes([mask, image])[0].mask == str(mask)
    assert len(find_scenes([mask, image])) == 1
    assert find_scenes(mask)[0].id == "a_20240101_mask"


def test_ids_that_repeat_get_their_folders(tmp_path: Path) -> None:
    write(tmp_path / "one" / "ms" / "a_20240101.tif")
    write(tmp_path / "two" / "ms" / "a_20240101.tif")
    assert [s.id for s in find_scenes(tmp_path)] == ["one/ms/a_20240101", "two/ms/a_20240101"]


# ------------------------------------------------------------------------------------------------- dates


@pytest.mark.parametrize(
    ("name", "date"),
    [
        ("t1_20160120_10m", "2016-01-20"),
        ("2019-01-06-23-42-47_L8_SAWTELL_ms", "2019-01-06T23:42:47"),
        ("OPERA_L2_RTC-S1_T137-292318-IW1_20211119T015854Z_20250830T120333Z_S1A", "2021-11-19T01:58:54"),
        ("LC08_L1TP_013032_20180131_20180207_01_T1_B2", "2018-01-31"),
        ("LC80130322018031LGN00_B2", "2018-01-31"),
        ("S2A_MSIL2A_20221005T115411_N0400_R023_T29UNU_20221005T164454", "2022-10-05T11:54:11"),
        ("20170831_172754_101c_3B_AnalyticMS", "2017-08-31T17:27:54"),
        ("site 2024_02_29 noon", "2024-02-29"),
        ("20240230_20240301", "2024-03-01"),
        ("frame_19001231", None),
        ("123456789012", None),
        ("1985", None),
    ],
)
def test_dates_in_names(name: str, date: str | None) -> None:
    assert in_name(name) == (None if date is None else np.datetime64(date))


def test_where_a_date_comes_from(tmp_path: Path) -> None:
    def found(name: str, **tags: str) -> tuple[str | None, str]:
        date, why = find_date(tmp_path / name, tags)
        return (None if date is None else str(date)[:19]), why

    assert found("a.tif", ACQUISITION_DATE="20160120")[0] == "2016-01-20T00:00:00"
    assert found("a_20200101.tif", ACQUISITIONDATETIME="2024-05-06T07:08:09Z") == (
        "2024-05-06T07:08:09", "tag ACQUISITIONDATETIME"
    )  # fmt: skip
    assert found("a.tif", ACQUISITIONDATETIME="2024-05-06T07:08:09+09:00")[0] == "2024-05-05T22:08:09"
    assert (
        found("a.tif", DATE_ACQUIRED="2024-05-06", SCENE_CENTER_TIME='"02:03:04.5Z"')[0]
        == "2024-05-06T02:03:04"
    )
    assert found("a.tif", TIFFTAG_DATETIME="2017:08:31 17:27:54")[0] == "2017-08-31T17:27:54"
    # a file is made after the picture was taken
    date, why = found("a_20170830.tif", TIFFTAG_DATETIME="2024:01:01 00:00:00")
    assert date == "2017-08-30T00:00:00"
    assert "when the file was made" in why
    assert found("a_20170831.tif", TIFFTAG_DATETIME="2017:08:31 17:27:54")[0] == "2017-08-31T17:27:54"
    assert find_date(Path("2024-01-02/B02.tif"), {})[1] == "folder name"
    assert found("a.tif", TIFFTAG_DATETIME="1970:01:01 00:00:00")[0] is None
    assert found("plain.tif")[1].startswith("plain.tif has no acquisition date")


def test_a_bare_year_needs_a_word(tmp_path: Path) -> None:
    for year in (1985, 1990):
        write(tmp_path / f"{year}.tif")
    scenes = find_scenes(tmp_path)
    assert [s.date for s in scenes] == [None, None]
    with pytest.raises(DateError, match=r"1985.tif names a year only.*--date 1985.tif=1985-07-01"):
        require_dates(scenes)
    given = find_scenes(tmp_path, date=["1985.tif=1985-07-01", "1990=1990-08-02"])
    assert [str(s.date)[:10] for s in given] == ["1985-07-01", "1990-08-02"]
    assert given[0].why["date"] == "given with --date"
    assert [str(s.date)[:10] for s in find_scenes(tmp_path, date="%Y")] == ["1985-01-01", "1990-01-01"]


def test_given_dates(tmp_path: Path) -> None:
    path = write(tmp_path / "site_01-02-2024.tif")
    assert str(find_scenes(path, date="2024-05-01T06:00")[0].date)[:16] == "2024-05-01T06:00"
    assert str(find_scenes(path, date="%d-%m-%Y")[0].date)[:10] == "2024-02-01"
    assert str(find_scenes(path, date={"site_01-02-2024.tif": "2024-02-03"})[0].date)[:10] == "2024-02-03"
    assert str(find_scenes(path, date=" site_01-02-2024 = 2024-02-03 ")[0].date)[:10] == "2024-02-03"
    with pytest.raises(DateError, match=r"not among the inputs; did you mean 'site_01-02-2024'"):
        find_scenes(path, date="site_01-02-2025=2024-05-01")
    with pytest.raises(DateError, match="is no date"):
        find_scenes(path, date="yesterday")
    with pytest.raises(DateError, match="does not hold a date"):
        find_scenes(path, date="%Y%m%d")
    with pytest.raises(DateError, match="1972"):
        find_scenes(path, date="1900-01-01")
    assert parse_given(None) is None
    assert to_date("2024") is None


def test_bounds_and_areas_leave_scenes_out(tmp_path: Path) -> None:
    write(tmp_path / "a_20240101.tif")
    write(tmp_path / "b_20240201.tif", transform=Affine(10, 0, 600_000, 0, -10, 4_700_000))
    assert [s.id for s in find_scenes(tmp_path, since="2024-01-15")] == ["b_20240201"]
    here = shapely.box(128.999, 42.45, 129.001, 42.46)
    assert [s.id for s in find_scenes(tmp_path, aoi=here)] == ["a_20240101"]
    with pytest.raises(AOIError, match="antimeridian"):
        find_scenes(tmp_path, aoi=shapely.box(-179, 0, 179, 1))


# ------------------------------------------------------------------------------------------------- bands


def test_band_names_come_from_the_file_the_sensor_or_the_user(tmp_path: Path) -> None:
    four = np.full((4, 4, 4), 500, "uint16")
    write(tmp_path / "a_20240101.tif", four, bands=("Blue", "GREEN", "red", "thermal X"))
    write(tmp_path / "b_20240102.tif", four)
    write(
        tmp_path / "c_20240103.tif",
        four,
        tags={"SENSOR": "Sentinel-2 MSI L1C"},
        bands=("B02", "B03", "B04", "B8A"),
    )
    a, b, c = find_scenes(tmp_path)
    assert a.bands == ("blue", "green", "red", "thermal X")
    assert b.bands == ("band1", "band2", "band3", "band4")
    assert "numbered" in b.why["bands"]
    assert c.sensor == "sentinel-2"
    assert c.bands == ("blue", "green", "red", "nir08")
    given = find_scenes(tmp_path, band_names="nir, red, green, blue")
    assert {s.bands for s in given} == {("nir", "red", "green", "blue")}
    numbered = [f"band{i}" for i in (1, 2, 3, 4)]
    chosen = find_scenes(tmp_path, bands=["band4", "band1"], band_names=numbered)
    assert chosen[0].bands == ("band4", "band1")
    with pytest.raises(BandError, match=r"has 4 bands.*gives 2"):
        find_scenes(tmp_path, band_names="nir,red")
    with pytest.raises(BandError, match="unique"):
        find_scenes(tmp_path, band_names="nir,nir,red,green")
    with pytest.raises(BandError, match="did you mean 'green'"):
        select(a, ["gren"])


def test_repeated_descriptions_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a_20240101.tif", bands=("red", "red"))
    with pytest.raises(BandError, match="unique names"):
        find_scenes(tmp_path)


def test_wavelengths_name_envi_bands(tmp_path: Path) -> None:
    path = tmp_path / "scene"
    write(path, np.full((3, 4, 4), 9, "uint8"), driver="ENVI", bands=("one", "two", "three"))
    header = path.with_suffix(".hdr")
    header.write_text(header.read_text() + "wavelength units = Nanometers\nwavelength = { 482, 560, 830 }\n")
    (scene,) = find_scenes(header)
    assert scene.bands == ("blue", "green", "nir")
    assert find_scenes(tmp_path)[0].path == str(path)


@pytest.mark.parametrize(
    ("dtype", "top", "bands", "scale", "words"),
    [
        ("uint16", 9000, ("red", "nir"), 1e-4, "assumed"),
        ("uint16", 60000, ("red", "nir"), 1.0, "as they are"),
        ("uint16", 9000, ("a", "b"), 1.0, "as they are"),
        ("uint8", 200, ("red", "nir"), 1 / 255, "not reflectance"),
        ("float32", 0.4, ("red", "nir"), 1.0, "float"),
    ],
)
def test_scales_of_unknown_sensors_say_what_was_assumed(
    tmp_path: Path, dtype: str, top: float, bands: tuple[str, ...], scale: float, words: str
) -> None:
    values = np.linspace(0, top, 2 * 40 * 40).reshape(2, 40, 40).astype(dtype)
    write(tmp_path / "a_20240101.tif", values, bands=bands)
    (scene,) = find_scenes(tmp_path)
    assert scene.scale == pytest.approx(scale)
    assert words in scene.why["scale"]


def test_quantification_tags(tmp_path: Path) -> None:
    tags = {"BOA_QUANTIFICATION_VALUE": "10000", "BOA_ADD_OFFSET": "-1000"}
    write(tmp_path / "a_20240101.tif", bands=("red",), tags=tags)
    (scene,) = find_scenes(tmp_path)
    assert (scene.scale, scene.offset) == pytest.approx((1e-4, -0.1))


def test_raw_planet_radiance_is_not_called_reflectance(tmp_path: Path) -> None:
    write(tmp_path / "20170831_172754_101c_3B_AnalyticMS.tif", np.full((4, 4, 4), 500, "uint16"))
    (scene,) = find_scenes(tmp_path)
    assert scene.scale == 1
    assert "not reflectance" in scene.why["scale"]


# ------------------------------------------------------------------------------------------------- info


def test_info_has_the_keys_of_the_contract_and_is_strict_json(tmp_path: Path) -> None:
    values = np.full((4, 10, 10), 1000, "uint16")
    values[1, :, :3] = 3000
    values[:, :4] = 0
    write(tmp_path / "a_20240101.tif", values, bands=("blue", "green", "red", "nir"), nodata=0)
    write(tmp_path / "b_20240202T030405.tif", np.full((1, 4, 4), 0.5, "float32"), nodata=-np.inf)
    out = info(tmp_path)
    assert list(out) == ["scenes", "grids", "groups"]
    assert json.loads(json.dumps(out, allow_nan=False)) == strict(out)
    one, two = out["scenes"]
    assert list(one) == KEYS
    assert one["usable"] == 0.6
    assert one["water"] == 0.3
    assert one["fit"] == "fit"
    assert one["date"] == "2024-01-01"
    assert one["datetime"] == "2024-01-01T00:00:00Z"
    assert one["transform"] == [10, 0, 500_000, 0, -10, 4_700_000]
    assert one["shape"] == [10, 10]
    assert one["gsd_m"] == 10
    assert one["shift_px"] is None
    assert two["nodata"] == "-inf"
    assert two["water"] is None
    assert [g["scenes"] for g in out["grids"]] == [["a_20240101"], ["b_20240202T030405"]]
    assert out["groups"] == [{"group": "generic", "scenes": ["a_20240101", "b_20240202T030405"]}]


def test_fitness_follows_the_usable_share(tmp_path: Path) -> None:
    write(tmp_path / "a_20240101.tif", np.full((1, 100, 10), 500, "uint16"))
    for rows, fit in ((0, "fit"), (60, "limited"), (97, "refused"), (100, "refused")):
        mask = np.zeros((1, 100, 10), "uint8")
        mask[:, :rows] = 1
        write(tmp_path / "a_20240101_mask.tif", mask)
        described = scene_info(find_scenes(tmp_path)[0])
        assert described["fit"] == fit
        assert described["usable"] == round(1 - rows / 100, 2)
        assert "usable" in described["why"]["fit"]


def test_undated_scenes_are_described(tmp_path: Path) -> None:
    write(tmp_path / "plain.tif")
    one = info(tmp_path)["scenes"][0]
    assert one["date"] is None
    assert "no acquisition date" in one["why"]["date"]


def test_numbers_that_are_no_measurements(tmp_path: Path) -> None:
    write(tmp_path / "a_20240101.tif", np.ones((1, 4, 4), "complex64"))
    with pytest.raises(InputError, match="complex"):
        find_scenes(tmp_path)


def test_names_are_split() -> None:
    assert read_name(Path("d/a_20m_mask.tif")).key == ("d", "a")
    assert read_name(Path("x/R60m/T29UNU_20221005T115411_SCL_60m.jp2")).key == ("x", "T29UNU_20221005T115411")
    assert read_name(Path("x/LC08_L1TP_013032_20180131_BQA.TIF")).mask == "bqa"
    assert read_name(Path("x/20170831_172754_101c_3B_AnalyticMS_DN_udm.tif")).key == (
        "x",
        "20170831_172754_101c",
    )
