"""Sensor profiles: recognition, band names, rules."""

from __future__ import annotations

import re

import pytest

from changedet.sensors import (
    GENERIC,
    OPTICAL_BANDS,
    SENSORS,
    by_name,
    common_name,
    group_of,
    recognise,
    wavelength_name,
)


@pytest.mark.parametrize(
    ("name", "sensor"),
    [
        ("S2A_MSIL2A_20221005T115411_N0400_R023_T29UNU_20221005T164454.SAFE", "sentinel-2"),
        ("T52TFM_20240101T021459_B02", "sentinel-2"),
        ("S2B_31NBJ_20190524_0_L2A", "sentinel-2"),
        ("Sentinel-2 MSI L1C", "sentinel-2"),
        ("OPERA_L2_RTC-S1_T137-292318-IW1_20211119T015854Z_S1A_30_v1.0", "sentinel-1"),
        ("S1A_IW_GRDH_1SDV_20180716T004042_20180716T004107_022812_02792A_FD5B", "sentinel-1"),
        ("LC08_L2SP_001062_20201031_20201106_02_T2", "landsat-8"),
        ("LC09_L1TP_001062_20221031_20221106_02_T1", "landsat-9"),
        ("LE07_L1TP_001062_20021031_20021106_01_T1", "landsat-7"),
        ("LT05_L1TP_001062_19901031_19901106_01_T1", "landsat-5"),
        ("LC80130322018031LGN00", "landsat-8"),
        ("2019-01-06-23-42-47_L8_SAWTELL_ms", "landsat-8"),
        ("LANDSAT_8", "landsat-8"),
        ("20170831_172754_101c_3B_AnalyticMS", "planetscope"),
        ("20240101_021459_12_24b5_3B_AnalyticMS_SR_8b", "planetscope"),
        ("CBERS_4_MUX_20200101_154_126_L4", "cbers"),
        ("t1_20160120_10m", "generic"),
        ("before", "generic"),
        ("L2A_scene", "generic"),
        ("class2_S20", "generic"),
    ],
)
def test_recognise(name: str, sensor: str) -> None:
    assert recognise(name).name == sensor
    assert recognise("plain", name).name == sensor


def test_profiles_use_common_names_once() -> None:
    for sensor in SENSORS:
        assert by_name(sensor.name) is sensor
        assert set(sensor.bands.values()) <= {*OPTICAL_BANDS, "vv", "vh", "hh", "hv"}
        for count, names in sensor.order.items():
            assert len(names) == len(set(names)) == count
        re.compile(sensor.skipped)
    assert by_name("unheard of") is GENERIC


@pytest.mark.parametrize(
    ("text", "sensor", "name"),
    [
        ("B08", "sentinel-2", "nir"), ("B8A", "sentinel-2", "nir08"), ("b8", "sentinel-2", "nir"),
        ("B04 (665 nm)", "sentinel-2", "red"), ("Band 12", "sentinel-2", "swir22"),
        ("band_2", "sentinel-2", "blue"),
        ("SR_B5", "landsat-8", "nir08"), ("B5", "landsat-5", "swir16"), ("B7", "landsat-7", "swir22"),
        ("Gamma0_VV", "generic", "vv"), ("S1-SIGMA0-VH", "generic", "vh"), ("VV", "generic", "vv"),
        ("NIR", "generic", "nir"), ("Near Infrared", "generic", "nir"), ("swir1", "generic", "swir16"),
        ("B08", "generic", "B08"), ("NDVI", "generic", "NDVI"), (" my band ", "generic", "my band"),
        ("nirvana", "generic", "nirvana"),
    ],
)  # fmt: skip
def test_common_names(text: str, sensor: str, name: str) -> None:
    assert common_name(text, by_name(sensor)) == name


@pytest.mark.parametrize(
    ("micrometres", "name"),
    [(0.443, "coastal"), (0.49, "blue"), (0.56, "green"), (0.665, "red"), (0.842, "nir"), (1.61, "swir16"),
     (2.2, "swir22"), (1.0, None), (10.9, None), (0, None)],
)  # fmt: skip
def test_wavelengths(micrometres: float, name: str | None) -> None:
    assert wavelength_name(micrometres) == name


@pytest.mark.parametrize(
    ("sensor", "name", "scale", "offset"),
    [
        ("sentinel-2", "S2A_MSIL2A_20240101T021459_N0510_R003_T52TFM", 1e-4, -0.1),
        ("sentinel-2", "S2A_MSIL2A_20220201T021459_N0400_R003_T52TFM.SAFE/T52TFM_B02", 1e-4, -0.1),
        ("sentinel-2", "S2A_MSIL2A_20200101T021459_N0213_R003_T52TFM", 1e-4, 0.0),
        ("sentinel-2", "T52TFM_20240101T021459_B02", 1e-4, 0.0),
        ("landsat-8", "LC08_L2SP_001062_20201031_20201106_02_T2_SR_B2", 2.75e-5, -0.2),
        ("landsat-8", "LC08_L1TP_013032_20180131_B2", 2e-5, -0.1),
        ("landsat-5", "LT05_L2SP_001062_19901031_02_T1_SR_B2", 2.75e-5, -0.2),
        ("planetscope", "planetscope/20240101_021459_12_24b5_3B_AnalyticMS_SR", 1e-4, 0.0),
    ],
)
def test_rules(sensor: str, name: str, scale: float, offset: float) -> None:
    rule = by_name(sensor).rule(name)
    assert rule is not None
    assert (rule.scale, rule.offset) == (scale, offset)
    assert rule.words


def test_digital_numbers_have_no_rule() -> None:
    assert by_name("landsat-5").rule("LT05_L1TP_001062_19901031_19901106_01_T1_B2") is None
    assert by_name("planetscope").rule("order/20240101_021459_12_24b5_3B_AnalyticMS") is None
    assert GENERIC.rule("anything") is None


def test_auxiliary_files_are_no_bands() -> None:
    skipped = {
        "landsat-8": ("x_ST_B10", "x_QA_RADSAT", "x_SR_QA_AEROSOL", "x_B10", "x_B11"),
        "landsat-7": ("x_B6_VCID_1", "x_ST_QA"),
        "sentinel-2": ("T_TCI_10m", "T_AOT_20m", "T_WVP_10m", "T_PVI", "MSK_CLDPRB_20m"),
        "sentinel-1": ("local_incident_angle", "x_layover_shadow"),
        "planetscope": ("x_3b_Visual",),
    }
    kept = {
        "landsat-8": ("x_SR_B1", "x_B9", "x_QA_PIXEL"),
        "landsat-7": ("x_B1", "x_B7"),
        "sentinel-2": ("T_B10", "T_SCL_20m"),
        "sentinel-1": ("x_VV", "x_mask"),
        "planetscope": ("x_3B_AnalyticMS",),
    }
    for sensor, stems in skipped.items():
        assert all(by_name(sensor).skips(s) for s in stems), sensor
    for sensor, stems in kept.items():
        assert not any(by_name(sensor).skips(s) for s in stems), sensor


def test_groups() -> None:
    s1 = by_name("sentinel-1")
    grd = "S1A_IW_GRDH_1SDV_20180716T004042_20180716T004107_022812_02792A_FD5B"
    assert group_of(grd, {}, s1) == "sentinel-1 orbit 165"
    assert group_of("S1A_20200103_17RMJ_ASC", {}, s1) == "sentinel-1 ascending"
    assert group_of("S1B_x", {"ORBIT_DIRECTION": "descending"}, s1) == "sentinel-1 descending"
    assert group_of("OPERA_T009-019294-IW2", {}, s1) == "sentinel-1 T009-019294-IW2"
    assert group_of("anything", {}, by_name("landsat-8")) == "landsat-8"
