"""Radiometric normalization: lines against other software, their guards, and stacks that come out alike."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from changedet.errors import DegenerateError, GridError, InputError, SettingError
from changedet.grid import Grid
from changedet.scenes import Quality, make_stack
from changedet.steps.normalize import (
    apply_line,
    no_change_pixels,
    normalize,
    orthogonal_line,
    relative_line,
    robust_line,
    theil_sen,
)

REFERENCE = json.loads((Path(__file__).parent / "reference" / "regression.json").read_text())
X, Y, WANTED = np.array(REFERENCE["x"]), np.array(REFERENCE["y"]), REFERENCE["expected"]


def pair(rng, n=3000, *, gain=1.15, offset=-0.02, noise=0.004, changed=0.0):
    """Subject and reference with equal noise on both, and a share of pixels that changed."""
    truth = rng.uniform(0.05, 0.4, n)
    subject = truth + noise * rng.standard_normal(n)
    reference = gain * truth + offset + noise * rng.standard_normal(n)
    odd = rng.random(n) < changed
    reference[odd] += rng.uniform(0.05, 0.3, odd.sum())
    return subject, reference


def gain_stack(n=96, dates=8, *, seed=0, noise=0.002, frozen=(), bands=("green", "red", "nir")):
    """Stack of unchanging land under gains and offsets; returns it with them."""
    rng = np.random.default_rng(seed)
    count = len(bands)
    parts = ndimage.gaussian_filter(rng.standard_normal((count, n, n)), (0, 4, 4))
    truth = np.linspace(0.1, 0.3, count)[:, None, None] * (1 + 0.25 * parts / parts.std())
    gains, offsets = rng.uniform(0.8, 1.25, (dates, count)), rng.uniform(-0.02, 0.02, (dates, count))
    gains[dates // 2], offsets[dates // 2] = 1, 0
    images = truth * gains[..., None, None] + offsets[..., None, None]
    images = images + noise * rng.standard_normal(images.shape)
    for i in frozen:
        images[i] = 0.7 + 0.05 * rng.standard_normal((count, n, n))
    grid = Grid.make("EPSG:32652", Affine(3, 0, 5e5, 0, -3, 47e5), (n, n))
    when = np.datetime64("2024-05-01") + 10 * np.arange(dates).astype("timedelta64[D]")
    return make_stack(images.astype(np.float32), grid, dates=when, bands=bands), gains, offsets


def distances(stack):
    """Root mean square distance of each scene from the median scene."""
    pixels = stack["image"].values.astype(np.float64)
    return np.sqrt(np.nanmean((pixels - np.nanmedian(pixels, axis=0)) ** 2, axis=(1, 2, 3)))


# lines


def test_theil_sen_equals_scipy():
    np.testing.assert_allclose(theil_sen(X, Y), WANTED["scipy_theilslopes"], atol=1e-6)


def test_orthogonal_line_equals_scipy_odr():
    np.testing.assert_allclose(orthogonal_line(X[30:], Y[30:]), WANTED["scipy_odr_inliers_only"], atol=1e-6)


def test_robust_line_finds_the_inliers():
    line = robust_line(X, Y)
    slope, intercept = WANTED["scipy_odr_inliers_only"]
    assert abs(line.gain - slope) < line.gain_error
    assert abs(line.offset - intercept) < line.offset_error
    assert abs(WANTED["ols"][0] - slope) > 5 * line.gain_error  # which least squares does not


def test_theil_sen_of_many_points_uses_a_regular_sample():
    x, y = pair(np.random.default_rng(0), 20_000, noise=0.001)
    np.testing.assert_allclose(theil_sen(x, y), (1.15, -0.02), atol=0.005)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), gain=st.floats(0.4, 2.5), offset=st.floats(-0.2, 0.2))
def test_swapping_the_dates_gives_the_inverse_line(seed, gain, offset):
    x, y = pair(np.random.default_rng(seed), 400, gain=gain, offset=offset, changed=0.05)
    for line in (orthogonal_line, lambda a, b: (robust_line(a, b).gain, robust_line(a, b).offset)):
        (slope, intercept), (back, back_intercept) = line(x, y), line(y, x)
        assert slope * back == pytest.approx(1, rel=1e-8)
        assert back_intercept == pytest.approx(-intercept / slope, abs=1e-8)


def test_weights_stand_for_repetition():
    x, y = pair(np.random.default_rng(0), 50)
    w = np.arange(50) % 3
    np.testing.assert_allclose(orthogonal_line(x, y, w), orthogonal_line(np.repeat(x, w), np.repeat(y, w)))


def test_falling_lines_are_found_too():
    x, y = pair(np.random.default_rng(0), 2000)
    assert robust_line(x, -y).gain == pytest.approx(-robust_line(x, y).gain, rel=1e-9)


@pytest.mark.parametrize("x", [np.zeros(5), np.ones(1), np.array([])])
def test_lines_that_nothing_fixes_are_refused(x):
    with pytest.raises(DegenerateError):
        orthogonal_line(x, np.arange(float(x.size)))
    with pytest.raises(DegenerateError):
        robust_line(x, np.arange(float(x.size)))
    with pytest.raises(DegenerateError):
        theil_sen(x, np.arange(float(x.size)))


# relative_line


@pytest.mark.parametrize("seed", range(6))
def test_an_injected_line_is_recovered_with_a_tenth_of_changed_pixels(seed):
    subject, reference = pair(np.random.default_rng(seed), changed=0.1)
    line = relative_line(subject, reference)
    assert line.accepted, line.why
    assert abs(line.gain - 1.15) < 3 * line.gain_error
    assert abs(line.offset + 0.02) < 3 * line.offset_error
    assert line.gain_error < 0.005 and line.offset_error < 0.001
    assert line.rmse_after < 0.5 * line.rmse_before


def test_standard_errors_are_those_of_repetition():
    lines = [robust_line(*pair(np.random.default_rng(s), 500)) for s in range(200)]
    for name in ("gain", "offset"):
        spread = np.std([getattr(line, name) for line in lines])
        claimed = np.mean([getattr(line, f"{name}_error") for line in lines])
        assert claimed == pytest.approx(spread, rel=0.2)


def test_nothing_to_do_is_the_identity():
    subject, reference = pair(np.random.default_rng(0), gain=1, offset=0)
    line = relative_line(subject, reference)
    assert (line.gain, line.offset, line.accepted, line.why) == (1, 0, True, "already alike")
    line = relative_line(subject, subject)
    assert (line.gain, line.offset, line.accepted) == (1, 0, True)


def test_guards():
    rng = np.random.default_rng(0)
    subject, reference = pair(rng, 500)
    few = relative_line(subject[:150], reference[:150])
    assert (few.accepted, few.gain, few.offset, few.n) == (False, 1, 0, 150)
    assert "wanted 200" in few.why
    assert relative_line(subject[:150], reference[:150], min_pixels=100).accepted
    steep = relative_line(subject, 3 * subject + 0.1)
    assert steep.accepted and steep.gain == 1 and steep.offset == pytest.approx(np.median(2 * subject + 0.1))
    assert steep.why.startswith("offset only (gain 3.00")
    noise = relative_line(rng.random(500), rng.random(500))
    assert (noise.accepted, noise.gain, noise.offset) == (False, 1, 0)
    flat = relative_line(np.full(500, 0.1), np.full(500, 0.2))
    assert flat.accepted and (flat.gain, flat.offset) == (1, pytest.approx(0.1))


def test_only_valid_pixels_count():
    subject, reference = pair(np.random.default_rng(0), 1200)
    spoilt, holes = reference.copy(), subject.copy()
    spoilt[:400] = 5
    holes[400:500] = np.nan
    valid = np.arange(1200) >= 400
    found = relative_line(holes, spoilt, valid)
    assert found == relative_line(subject[500:], reference[500:])
    assert found == relative_line(holes, spoilt, weights=valid.astype(float))
    with pytest.raises(InputError, match="one shape"):
        relative_line(subject, reference[:5])


# the choice of pixels


def test_steady_pixels_of_all_brightness_are_chosen():
    rng = np.random.default_rng(0)
    median = np.concatenate([np.full(9000, 0.1), np.full(1000, 0.4)]).reshape(1, 100, 100)
    median = median + 0.001 * rng.standard_normal(median.shape)
    spread = np.where(rng.random(median.shape) < 0.5, 0.002, 0.05)
    chosen = no_change_pixels(median, spread, np.ones((100, 100), bool), per_bin=300)
    assert 200 <= chosen[:90].sum() <= 300 and 200 <= chosen[90:].sum() <= 300
    assert (spread[0][chosen] == 0.002).all()
    assert not no_change_pixels(median, spread, np.zeros((100, 100), bool)).any()


# normalize


def test_scenes_come_out_alike():
    stack, gains, _ = gain_stack()
    out = normalize(stack)
    assert out["normalize_accepted"].all(), list(out["normalize_why"].values)
    assert distances(out).max() < 0.0035 < distances(stack).max() / 3
    assert (out["normalize_rmse_after"] <= out["normalize_rmse_before"]).all()
    # every scene went through gain and offset onto one frame: their products agree
    frame = out["gain"].values * gains
    assert (frame.std(axis=0) / frame.mean(axis=0)).max() < 0.02
    np.testing.assert_allclose(
        out["image"].values[3],
        stack["image"].values[3] * out["gain"].values[3][:, None, None]
        + out["offset"].values[3][:, None, None],
        atol=1e-6,
    )


def test_a_tenth_of_changed_pixels_does_not_matter():
    stack, gains, offsets = gain_stack(seed=1)
    built = stack.copy(deep=True)
    built["image"].values[5:, :, :30, :30] = 0.5
    out = normalize(built, reference="2024-06-10")  # the scene with gain 1 and offset 0
    assert out["normalize_accepted"].all(), list(out["normalize_why"].values)
    np.testing.assert_allclose(out["gain"] * gains, 1, atol=0.02)
    np.testing.assert_allclose(out["offset"] + out["gain"] * offsets, 0, atol=0.004)


def test_nothing_to_do_leaves_the_pixels():
    stack, _, _ = gain_stack(dates=6)
    same = stack.assign(image=stack["image"].isel(time=[3] * 6).assign_coords(time=stack["time"]))
    out = normalize(same)
    assert out["normalize_accepted"].all()
    assert (out["gain"] == 1).all() and (out["offset"] == 0).all()
    assert out["image"].values is same["image"].values


def test_input_grid_and_gaps_survive():
    stack, _, _ = gain_stack()
    rng = np.random.default_rng(0)
    stack["image"].values[:, :, rng.random((96, 96)) < 0.1] = np.nan
    stack["image"].values[2, :, 40:] = np.nan
    stack["image"].attrs["note"] = "kept"
    before = stack.copy(deep=True)
    stack["image"].values.setflags(write=False)
    out = normalize(stack)
    xr.testing.assert_identical(stack, before)
    np.testing.assert_array_equal(np.isnan(out["image"]), np.isnan(stack["image"]))
    assert Grid.of(out).same_as(Grid.of(stack))
    assert out["image"].dtype == np.float32 and out["image"].attrs == {"note": "kept"}
    assert out["image"].dims == stack["image"].dims
    assert set(stack.coords) < set(out.coords)
    xr.testing.assert_identical(out["quality"].variable, stack["quality"].variable)
    xr.testing.assert_identical(out, normalize(stack))


def test_lazy_input_stays_lazy_and_gives_the_same():
    stack, _, _ = gain_stack()
    out = normalize(stack.chunk(y=50, x=40))
    assert out["image"].chunks is not None
    xr.testing.assert_identical(out.compute(), normalize(stack))


def test_frozen_and_empty_scenes_are_left_alone():
    stack, _, _ = gain_stack(frozen=(1,))
    stack["image"].values[4] = np.nan
    stack["quality"].values[6] = Quality.SNOW
    out = normalize(stack)
    accepted = out["normalize_accepted"].values
    assert list(accepted) == [True, False, True, True, False, True, False, True]
    assert (out["gain"].values[~accepted] == 1).all() and (out["offset"].values[~accepted] == 0).all()
    np.testing.assert_array_equal(out["image"].values[~accepted], stack["image"].values[~accepted])
    assert list(out["normalize_why"].values[[1, 6]]) == ["frozen or hazy"] * 2
    assert "no-change pixels" in out["normalize_why"].values[4]


def test_a_scene_is_changed_as_a_whole_or_not_at_all():
    stack, _, _ = gain_stack()
    stack["image"].values[2, 1] = np.random.default_rng(0).random((96, 96)) * 0.4
    out = normalize(stack)
    assert not out["normalize_accepted"].values[2]
    assert out["normalize_why"].values[2].startswith("red: ")
    np.testing.assert_array_equal(out["image"].values[2], stack["image"].values[2])


def test_water_has_no_say():
    stack, gains, _ = gain_stack(seed=2)
    rng = np.random.default_rng(0)
    pixels = stack["image"].values
    pixels[:, :, :48] = np.array([0.08, 0.06, 0.03])[:, None, None] * rng.uniform(0.7, 1.5, (8, 1, 1, 1))
    out = normalize(stack, reference="2024-06-10")
    assert out["normalize_accepted"].all(), list(out["normalize_why"].values)
    np.testing.assert_allclose(out["gain"] * gains, 1, atol=0.02)


def test_given_weights_take_the_place_of_the_choice():
    stack, gains, _ = gain_stack(seed=3)
    stack["image"].values[:, :, :, 48:] *= np.linspace(0.6, 1.4, 8)[:, None, None, None].astype(np.float32)
    left = xr.zeros_like(stack["image"].isel(time=0, band=0, drop=True))
    left[:, :48] = 0.9
    out = normalize(stack, reference="2024-06-10", weights=left)
    np.testing.assert_allclose(out["gain"] * gains, 1, atol=0.02)
    by_time = left.expand_dims(time=stack["time"])
    xr.testing.assert_identical(normalize(stack, reference="2024-06-10", weights=by_time), out)


def test_an_image_can_be_the_reference():
    stack, gains, _ = gain_stack()
    image = stack["image"].isel(time=4, drop=True)
    out = normalize(stack, reference=image)
    np.testing.assert_allclose(out["gain"] * gains, 1, atol=0.02)
    with pytest.raises(GridError):
        normalize(stack, reference=image.isel(y=slice(3, None)))
    with pytest.raises(SettingError, match="scene id"):
        normalize(stack, reference="2030-01-01")
    with pytest.raises(SettingError, match="min_pixels"):
        normalize(stack, min_pixels=1)


@pytest.mark.parametrize("dates", [1, 2])
def test_few_dates(dates):
    stack, _, _ = gain_stack(dates=dates)
    out = normalize(stack)
    assert out["normalize_accepted"].all(), list(out["normalize_why"].values)


def test_sar_is_only_multiplied():
    rng = np.random.default_rng(0)
    power = 0.05 * np.exp(ndimage.gaussian_filter(rng.standard_normal((96, 96)), 4) * 4)
    factors = rng.uniform(0.7, 1.4, (8, 2))
    images = factors[..., None, None] * power * rng.gamma(5, 1 / 5, (8, 2, 96, 96))
    grid = Grid.make("EPSG:32652", Affine(10, 0, 5e5, 0, -10, 47e5), (96, 96))
    when = np.datetime64("2024-05-01") + 12 * np.arange(8).astype("timedelta64[D]")
    out = normalize(make_stack(images.astype(np.float32), grid, dates=when, bands=("vv", "vh")))
    assert (out["offset"] == 0).all() and (out["gain"] > 0).all()
    used = out["normalize_accepted"].values
    assert used.all(), list(out["normalize_why"].values)
    frame = (out["gain"].values * factors) / np.median(out["gain"].values * factors, axis=0)
    assert np.abs(frame - 1).max() < 0.04
    assert (np.isfinite(out["image"]) & (out["image"] > 0)).all()


def test_apply_line_keeps_gaps_and_input():
    image = np.array([[0.1, np.nan]], np.float32)
    image.setflags(write=False)
    np.testing.assert_array_equal(
        apply_line(image, np.float64(2), np.float64(0.5)), [[np.float32(0.7), np.nan]]
    )
