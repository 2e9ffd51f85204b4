"""Water, ice, water level: small arrays whose answer is counted by hand."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from changedet.columns import Over
from changedet.steps import mask

BANDS = ("blue", "green", "red", "nir")
WATER = (0.06, 0.07, 0.05, 0.02)
SAND = (0.15, 0.18, 0.22, 0.28)
PLANTS = (0.03, 0.06, 0.04, 0.35)
ICE = (0.55, 0.55, 0.52, 0.45)
NAN = float("nan")


def test_strata_are_the_words_of_the_table():
    assert get_args(Over) == mask.STRATA


# --------------------------------------------------------------------------------------------- logarithm


@given(arrays(np.float32, (2, 3, 4), elements=st.floats(-0.5, 2, width=32) | st.just(NAN)))
def test_the_logarithm_keeps_order_and_gaps(image):
    kept = image.copy()
    found = mask.log_image(image)
    assert found.dtype == np.float32 and found.shape == image.shape
    np.testing.assert_array_equal(np.isnan(found), np.isnan(image))
    np.testing.assert_array_equal(image, kept)
    known = np.isfinite(image)
    assert np.isfinite(found[known]).all()
    order = np.argsort(image[known], kind="stable")
    assert (np.diff(found[known][order]) >= 0).all()


def test_the_logarithm_of_power_keeps_ratios_and_raises_what_is_too_small():
    power = np.array([0.01, 0.02, 0.04, 0.0, -1.0], np.float32)
    found = mask.log_image(power, sar=True)
    np.testing.assert_allclose(np.diff(found[:3]), np.log(2), rtol=1e-5)
    np.testing.assert_array_equal(found[3:], np.float32(np.log(1e-4)))


# --------------------------------------------------------------------------------------------- water index


def index_of(*colors, bands=BANDS):
    image = np.array(colors, np.float32).T[:, :, None]
    return mask.water_index(image, bands)[:, 0]


def test_the_water_index_by_hand():
    np.testing.assert_allclose(index_of(WATER), (0.07 - 0.02) / (0.09 + 1e-3), rtol=1e-5)
    water, sand, plants = index_of(WATER, SAND, PLANTS)
    assert water > 0.3 > 0 > sand > plants > -1


def test_the_index_is_unknown_where_a_band_is_and_stays_within_one():
    image = np.random.default_rng(0).uniform(-0.1, 1, (3, 4, 5, 6)).astype(np.float32)
    image[1, 1, 2, 2], image[2, 3, 0, 0] = NAN, NAN
    found = mask.water_index(image, BANDS)
    assert found.shape == (3, 5, 6) and found.dtype == np.float32
    assert np.argwhere(np.isnan(found)).tolist() == [[1, 2, 2], [2, 0, 0]]
    assert np.nanmax(np.abs(found)) <= 1


@pytest.mark.parametrize("bands", [("red", "nir"), ("green", "red"), ("vv", "vh")])
def test_no_index_without_its_bands(bands):
    assert mask.water_index(np.ones((2, 2, 2), np.float32), bands) is None


def test_another_infrared_band_will_do():
    for name in ("nir08", "swir16"):
        assert index_of((0.07, 0.02), bands=("green", name)) == index_of((0.07, 0.02), bands=("green", "nir"))


def test_the_level_of_water_lies_between_water_and_land():
    rng = np.random.default_rng(0)
    ndwi = np.r_[rng.normal(0.35, 0.05, 500), rng.normal(-0.6, 0.1, 2000), [NAN] * 50]
    cut = mask.water_level_cut(ndwi)
    assert -0.3 < cut < 0.3
    assert mask.water_level_cut(ndwi[::-1]) == cut
    for other in (rng.normal(-0.7, 0.02, 500), rng.normal(0.7, 0.02, 500)):  # no water, nothing but water
        assert -0.15 <= mask.water_level_cut(other) <= 0.25
    assert mask.water_level_cut(np.full(500, NAN)) == 0 == mask.water_level_cut(np.full(500, 0.5))


# --------------------------------------------------------------------------------------------- strata


def test_the_share_of_wet_dates_counts_known_dates_alone():
    wet = np.array([[1, 0, NAN, NAN], [1, 1, 1, NAN], [1, 0, 1, NAN], [1, 1, NAN, NAN]], np.float32)
    np.testing.assert_array_equal(mask.wet_share(wet), np.array([1, 0.5, 1, NAN], np.float32))


def test_strata_by_hand():
    share = np.array([1.0, 0.9, 0.5, 0.2, 0.05, 0.0, NAN])
    np.testing.assert_array_equal(mask.strata(share), [0, 0, 1, 1, 2, 2, 2])


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_wetter_pixel_is_never_farther_from_water(a, b):
    low, high = mask.strata(np.array([min(a, b), max(a, b)]))
    assert low >= high


# --------------------------------------------------------------------------------------------- frozen


def brightness(times=8, pixels=300, seed=0):
    rng = np.random.default_rng(seed)
    stratum = np.repeat([0, 1, 2], pixels // 3)
    level = np.array([-3.0, -2.2, -1.8])[stratum]
    return (level + 0.1 * rng.standard_normal((times, pixels))), stratum


def test_a_date_is_frozen_in_the_stratum_that_is_far_brighter():
    values, stratum = brightness()
    values[3, stratum == 0] += 1.5
    values[5] += 1.5
    values[6] += 0.3  # a hazy date is not frozen
    found = mask.frozen_dates(values, stratum)
    expected = np.zeros((8, 3), bool)
    expected[3, 0], expected[5] = True, True
    np.testing.assert_array_equal(found, expected)


def test_a_few_bright_pixels_freeze_nothing():
    values, stratum = brightness()
    values[4, :40] += 3  # boats and foam on less than half of the water
    assert not mask.frozen_dates(values, stratum).any()


def test_no_verdict_from_few_pixels():
    values, stratum = brightness()
    values[2] += 2
    values[2, np.flatnonzero(stratum == 1)[:80]] = NAN
    assert mask.frozen_dates(values, stratum)[2].tolist() == [True, False, True]


def test_clouds_and_the_unit_of_brightness_do_not_freeze():
    values, stratum = brightness()
    values[3, stratum == 0] += 1.5
    gaps = np.where(np.random.default_rng(1).random(values.shape) < 0.4, NAN, values)
    expected = mask.frozen_dates(values, stratum)
    np.testing.assert_array_equal(mask.frozen_dates(gaps, stratum), expected)
    np.testing.assert_array_equal(mask.frozen_dates(values + 7, stratum), expected)


# --------------------------------------------------------------------------------------------- water level


def bar(levels, pixels=200):
    """Wet (time, pixel) of a sloping shore: a pixel is wet where the level reaches it; and its stratum."""
    height = np.linspace(0, 1, pixels)
    wet = (np.asarray(levels)[:, None] > height[None]).astype(np.float32)
    return wet, np.ones(pixels, int)


def open_water(times):
    return np.zeros((times, 3), bool)


def test_the_water_level_ranks_the_dates():
    levels = np.array([0.2, 0.9, 0.5, 0.3, 0.8, 0.1])
    wet, stratum = bar(levels)
    found = mask.water_level(wet, stratum, open_water(6))
    np.testing.assert_array_equal(np.argsort(found), np.argsort(levels))
    np.testing.assert_allclose(found - found.mean(), levels - levels.mean(), atol=0.01)


@pytest.mark.parametrize("hidden", [slice(0, 80), slice(120, 200)])
def test_a_cloud_over_a_part_of_the_shore_is_no_other_level(hidden):
    levels = np.array([0.4, 0.6, 0.5, 0.45, 0.55, 0.5])
    wet, stratum = bar(levels)
    clear = mask.water_level(wet, stratum, open_water(6))
    wet[2, hidden] = NAN  # the low part, which is always wet, or the high part, which is always dry
    clouded = mask.water_level(wet, stratum, open_water(6))
    assert abs(clouded[2] - clear[2]) < 0.06
    share = np.nanmean(wet, axis=1)
    assert abs(share[2] - 0.5) > 0.15  # which a plain share of wet pixels would get wrong
    others = [0, 1, 3, 4, 5]
    np.testing.assert_array_equal(np.argsort(clouded[others]), np.argsort(levels[others]))


def test_the_level_is_unknown_where_the_shore_is_frozen_or_hidden():
    wet, stratum = bar([0.4, 0.6, 0.5, 0.3, 0.7, 0.5])
    frozen = open_water(6)
    frozen[1, 0], frozen[2, 1], frozen[3, 2] = True, True, True  # snow on land alone hides no level
    wet[4] = NAN
    found = mask.water_level(wet, stratum, frozen)
    np.testing.assert_array_equal(np.isnan(found), [False, True, True, False, True, False])


def test_no_level_without_a_shore():
    wet, _ = bar([0.4, 0.6, 0.5])
    assert np.isnan(mask.water_level(wet, np.full(200, 2), open_water(3))).all()


# --------------------------------------------------------------------------------------------- history


@given(st.integers(2, 400), st.floats(0.05, 0.9))
def test_the_history_is_a_share_that_leaves_dates_after(n, share):
    found = mask.history_length(n, share=share)
    assert 1 <= found < n
    assert n < 7 or (found >= 4 and n - found >= 3)
    assert mask.history_length(n + 1, share=share) >= found
    if n >= 20 and 0.3 <= share <= 0.7:
        assert found == pytest.approx(share * n, abs=1)


# --------------------------------------------------------------------------------------------- setting

DATES = 9
COLORS = {"water": WATER, "sand": SAND, "plants": PLANTS}


def sample(seed=0, ice=(), snow=(), haze=()):
    """A river: 150 pixels water, 100 of a bar that is wet on every other date, 250 of plants."""
    rng = np.random.default_rng(seed)
    image = np.empty((DATES, 4, 500), np.float32)
    for t in range(DATES):
        colors = [WATER] * 150 + [WATER if t % 2 else SAND] * 100 + [PLANTS] * 250
        image[t] = np.array(colors).T * rng.normal(1, 0.05, (4, 500)) + (0.03 if t in haze else 0)
    for dates, pixels in ((ice, slice(0, 250)), (snow, slice(250, 500))):
        for t in dates:
            image[t, :, pixels] = np.array(ICE)[:, None] * rng.normal(1, 0.05, image[t, :, pixels].shape)
    return image


STRATA = np.repeat([0, 1, 2], [150, 100, 250])


def described(image, **more):
    return mask.setting(image, BANDS, **({"n_history": 5} | more))


def test_what_the_dates_of_a_river_are_like():
    found = described(sample())
    assert not found.frozen.any() and found.open_history.tolist() == [True] * 5 + [False] * 4
    np.testing.assert_array_equal(found.stratum(sample()[..., None])[:, 0], STRATA)
    np.testing.assert_allclose(found.usable, 1)
    np.testing.assert_allclose(found.water_share, [0.3, 0.5] * 4 + [0.3], atol=0.01)
    assert (found.level[1::2] > 0).all() and (found.level[::2] < 0).all()


def test_ice_is_not_water_and_decides_nothing():
    image = sample(ice=[2, 7], snow=[7])
    found = described(image)
    np.testing.assert_array_equal(found.frozen.any(axis=1), np.isin(np.arange(DATES), [2, 7]))
    assert found.frozen[7].all() and not found.frozen[2, 2]
    assert found.open_history.tolist() == [True, True, False, True, True] + [False] * 4
    np.testing.assert_array_equal(found.stratum(image[..., None])[:, 0], STRATA)
    np.testing.assert_array_equal(np.isnan(found.level), np.isin(np.arange(DATES), [2, 7]))


def test_what_is_hidden_is_not_counted():
    image = sample()
    image[3, :, ::2] = NAN
    image[4, 2, :50] = NAN  # one band is enough
    image[6] = NAN
    found = described(image)
    np.testing.assert_allclose(found.usable, [1, 1, 1, 0.5, 0.9, 1, 0, 1, 1])
    assert np.isnan(found.water_share[6]) and np.isnan(found.level[6]) and not found.frozen[6].any()
    np.testing.assert_array_equal(found.stratum(image[..., None])[:, 0], STRATA)


def test_water_after_the_history_does_not_make_a_pixel_water():
    image = sample()
    image[5:, :, 300:350] = np.array(WATER)[:, None]
    found = described(image)
    np.testing.assert_array_equal(found.stratum(image[..., None])[:, 0], STRATA)
    wet = found.wet(image[..., None])
    assert wet.shape == (DATES, 500, 1) and (wet[5:, 300:350] == 1).all() and (wet[:5, 300:350] == 0).all()


@pytest.mark.parametrize("bands", [("vv", "vh"), ("red", "nir")])
def test_without_an_index_everything_is_land(bands):
    image = np.random.default_rng(0).uniform(0.05, 0.3, (DATES, 2, 400)).astype(np.float32)
    found = mask.setting(image, bands, n_history=5, sar=bands[0] == "vv")
    assert np.isnan(found.cut) and np.isnan(found.level).all()
    assert (found.stratum(image[..., None]) == 2).all()
    assert np.isnan(found.wet(image[..., None])).all()
    assert np.isnan(found.water_share).all() and not found.frozen.any()


def test_the_sample_is_left_alone():
    image = sample(ice=[2])
    image[3, :, ::2] = NAN
    kept = image.copy()
    image.setflags(write=False)
    described(image)
    np.testing.assert_array_equal(image, kept)
