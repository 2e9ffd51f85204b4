"""Co-registration: known shifts, masks that move, what is refused, and pixels that are left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from changedet.errors import ChangedetError, GridError, InputError, SettingError
from changedet.grid import Grid
from changedet.scenes import Quality, make_stack
from changedet.steps._register import cut, match, template
from changedet.steps.align import align, apply_shift, estimate_shift, masked_ncc, move_flags

COREG = np.load(Path(__file__).parent / "reference" / "coreg.npz")
KNOWN = [(k, *map(float, COREG["applied_shift"][k])) for k in range(5)]
PRECISION_PX = 0.02


def fourier_shift(image, shift):
    """Shift by a phase ramp: exact for what the pixels can hold, and not the code under test."""
    fy, fx = np.fft.fftfreq(image.shape[-2])[:, None], np.fft.fftfreq(image.shape[-1])
    ramp = np.exp(-2j * np.pi * (fy * shift[0] + fx * shift[1]))
    return np.fft.ifft2(np.fft.fft2(image) * ramp).real


def texture(rng, size, scales=(1.2, 3, 8)):
    """Field-like texture with unit spread at several scales, periodic."""
    parts = [ndimage.gaussian_filter(rng.standard_normal((size, size)), s, mode="wrap") for s in scales]
    return sum(p / p.std() for p in parts) / len(parts)


def land_stack(n=128, dates=8, *, jitter_px=0.8, noise=0.002, seed=0, water_rows=0, clouds=True):
    """Stack of land with jitter, gains, noise and clouds; returns it and the shifts that were applied."""
    rng = np.random.default_rng(seed)
    margin = 16
    size = n + 2 * margin
    levels = np.array([0.08, 0.09, 0.25])[:, None, None]
    truth = levels + 0.02 * np.array([texture(rng, size) for _ in range(3)])
    grid = Grid.make("EPSG:32652", Affine(3, 0, 5e5, 0, -3, 47e5), (n, n))
    images, shifts = [], rng.uniform(-jitter_px, jitter_px, (dates, 2))
    for shift in shifts:
        image = np.array([fourier_shift(b, shift) for b in truth])[:, margin:-margin, margin:-margin]
        image[:, :water_rows] = np.array([0.05, 0.04, 0.02])[:, None, None]
        image = image * rng.uniform(0.9, 1.1, (3, 1, 1)) + noise * rng.standard_normal(image.shape)
        if clouds:
            cover = ndimage.gaussian_filter(rng.standard_normal((n, n)), 15)
            image[:, cover > np.quantile(cover, 0.85)] = np.nan
        images.append(image)
    when = np.datetime64("2024-05-01") + 10 * np.arange(dates).astype("timedelta64[D]")
    stack = make_stack(
        np.array(images, np.float32), grid, dates=when, bands=("green", "red", "nir")
    )
    return stack, shifts


def errors_px(aligned, shifts):
    """Distance of the estimates from the truth, up to the reference's own position."""
    found = np.stack([aligned["shift_dy_px"].values, aligned["shift_dx_px"].values], axis=1) + shifts
    found = found[aligned["shift_accepted"].values]
    return np.hypot(*(found - np.median(found, axis=0)).T)


# estimate_shift on the reference vectors


@pytest.mark.parametrize(("k", "dy", "dx"), KNOWN)
@pytest.mark.parametrize("gain", [1.0, 1.1])
def test_known_shifts(k, dy, dx, gain):
    found = estimate_shift(COREG["reference"][None], gain * COREG[f"moving{k}"][None] + 0.01)
    assert found.accepted, found.why
    assert np.hypot(found.dy + dy, found.dx + dx) <= PRECISION_PX
    assert found.tie_points >= 8
    assert found.residual_px < 0.1


@pytest.mark.parametrize(("k", "dy", "dx"), KNOWN)
def test_a_moved_mask_does_not_move_the_estimate(k, dy, dx):
    moving, keep = COREG[f"moving{k}"], COREG["moving_mask"]
    found = [
        estimate_shift(COREG["reference"][None], np.where(np.roll(keep, step, (0, 1)), moving, np.nan)[None])
        for step in (0, 4)
    ]
    for one in found:
        assert one.accepted, one.why
        assert np.hypot(one.dy + dy, one.dx + dx) <= PRECISION_PX
    assert np.hypot(found[0].dy - found[1].dy, found[0].dx - found[1].dx) <= PRECISION_PX


def test_the_mask_of_the_reference_counts_too():
    valid = np.ones((96, 96), bool)
    valid[:30] = False
    spoilt = COREG["moving2"].copy()
    spoilt[:24] = np.roll(spoilt[:24], 7, axis=1)  # would pull the estimate if it were looked at
    found = estimate_shift(COREG["reference"][None], spoilt[None], valid)
    assert np.hypot(found.dy + 0.5, found.dx + 0.25) <= PRECISION_PX


@settings(max_examples=15, deadline=None)
@given(dy=st.floats(-2.8, 2.8), dx=st.floats(-2.8, 2.8), seed=st.integers(0, 5))
def test_estimate_of_a_shifted_copy_is_minus_the_shift(dy, dx, seed):
    image = texture(np.random.default_rng(seed), 120)[None].astype(np.float32)
    found = estimate_shift(image, apply_shift(image, (dy, dx)))
    assert found.accepted, found.why
    assert np.hypot(found.dy + dy, found.dx + dx) <= PRECISION_PX


def test_a_tenth_of_changed_pixels_does_not_move_the_estimate():
    rng = np.random.default_rng(3)
    image = texture(rng, 200)
    moved = fourier_shift(image, (0.6, -0.35)) + 0.05 * rng.standard_normal(image.shape)
    moved[40:100, 40:100] += 4  # a bright block with hard edges that the reference lacks
    moved[130:150, 20:100] = -3
    found = estimate_shift(image[None], moved[None])
    assert found.accepted, found.why
    assert np.hypot(found.dy + 0.6, found.dx - 0.35) <= PRECISION_PX


@pytest.mark.parametrize("seed", [0, 1])
def test_shadows_that_move_with_the_sun_pull_less(seed):
    """Things stay; the dark places beside them lie 2 px north in one image, 4 px in the other."""
    rng = np.random.default_rng(seed)
    ground = texture(rng, 240)
    things = ndimage.gaussian_filter((rng.random((240, 240)) < 0.01).astype(float), 1.2, mode="wrap")

    def scene(sun_px, shift):
        shaded = ground + 8 * things - 8.4 * np.roll(things, -sun_px, axis=0)
        return fourier_shift(shaded + 0.05 * rng.standard_normal(ground.shape), shift)[None]

    reference, moving = scene(2, (0, 0)), scene(4, (0.7, -0.4))
    found, whole = estimate_shift(reference, moving), match_with_shadows(reference, moving)
    assert found.accepted, found.why
    pull, pull_whole = (np.hypot(e.dy + 0.7, e.dx - 0.4) for e in (found, whole))
    assert pull < 0.75 * pull_whole < 0.25


def match_with_shadows(reference, moving):
    t = template(reference, np.ones(reference.shape[1:], bool), bright_side=False)
    return match(t, cut(t, moving))


@pytest.mark.parametrize("k", range(5))
def test_the_loop_closes(k):
    """There and back again: the two shifts cancel."""
    reference, moving = COREG["reference"][None], COREG[f"moving{k}"][None]
    there, back = estimate_shift(reference, moving), estimate_shift(moving, reference)
    assert np.hypot(there.dy + back.dy, there.dx + back.dx) <= PRECISION_PX


def test_other_arrays_are_refused_and_inputs_are_left_alone():
    reference, moving = COREG["reference"][None].copy(), COREG["moving3"][None].copy()
    reference.setflags(write=False)
    moving.setflags(write=False)
    assert estimate_shift(reference, moving) == estimate_shift(reference, moving)
    with pytest.raises(InputError, match="one shape"):
        estimate_shift(reference, moving[:, :50])
    with pytest.raises(SettingError, match="max_shift_px"):
        estimate_shift(reference, moving, max_shift_px=0)


@pytest.mark.parametrize(
    "moving",
    [
        np.random.default_rng(1).standard_normal((1, 96, 96)),
        np.zeros((1, 96, 96)),
        np.full((1, 96, 96), np.nan),
        -COREG["reference"][None],
        np.roll(COREG["reference"], 9, axis=1)[None],
        ndimage.gaussian_filter(np.random.default_rng(2).standard_normal((1, 96, 96)), (0, 3, 3)),
    ],
    ids=["noise", "flat", "nan", "inverted contrast", "beyond the search", "another place"],
)
def test_what_does_not_match_is_refused_with_a_reason(moving):
    found = estimate_shift(COREG["reference"][None], moving)
    assert not found.accepted
    assert (found.dy, found.dx) == (0, 0)
    assert found.why


def test_too_few_tie_points_mean_no_shift():
    valid = np.zeros((96, 96), bool)
    valid[30:50, 30:50] = True
    found = estimate_shift(COREG["reference"][None], COREG["moving2"][None], valid)
    assert not found.accepted
    assert "wanted 8" in found.why


def test_masked_correlation_equals_the_plain_loop():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 2, 20, 24))
    va, vb = rng.random((2, 20, 24)) > 0.2
    found = masked_ncc(a, b, va, vb, max_shift_px=3)
    for dy, dx in [(0, 0), (2, -3), (-1, 1)]:
        ys, xs = np.mgrid[max(dy, 0) : 20 + min(dy, 0), max(dx, 0) : 24 + min(dx, 0)]
        both = va[ys, xs] & vb[ys - dy, xs - dx]
        pa = np.array([band[ys, xs][both] for band in a])
        pb = np.array([band[ys - dy, xs - dx][both] for band in b])
        pa, pb = pa - pa.mean(1, keepdims=True), pb - pb.mean(1, keepdims=True)
        wanted = (pa * pb).sum() / np.sqrt((pa**2).sum() * (pb**2).sum())
        assert found[3 + dy, 3 + dx] == pytest.approx(wanted, abs=1e-5)


def test_masked_correlation_peaks_where_scikit_image_finds_it():
    """``masked`` of the reference vectors: whole pixels, masked area set to 9."""
    keep = COREG["moving_mask"]
    for k, wanted in ((0, (0, 0)), (1, (-3, 2)), (3, (1, -3)), (4, (0, 0))):
        moving = np.where(keep, COREG[f"moving{k}"], 9)
        score = masked_ncc(COREG["reference"][None], moving[None], np.ones_like(keep), keep)
        assert tuple(np.array(np.unravel_index(np.nanargmax(score), score.shape)) - 4) == wanted


# apply_shift


@settings(max_examples=25, deadline=None)
@given(dy=st.floats(-2.5, 2.5), dx=st.floats(-2.5, 2.5))
def test_there_and_back(dy, dx):
    image = texture(np.random.default_rng(0), 80, scales=(1.5, 4))[None].astype(np.float32)
    back = apply_shift(apply_shift(image, (dy, dx)), (-dy, -dx))
    inner = (0, slice(10, -10), slice(10, -10))
    assert np.abs(back[inner] - image[inner]).max() < 0.02 * image.std() * 4
    assert np.abs(back[inner] - image[inner]).std() < 0.01 * image.std()


def test_matches_a_phase_ramp():
    image = texture(np.random.default_rng(0), 96, scales=(1.5, 4))
    exact, ours = fourier_shift(image, (0.4, -1.3)), apply_shift(image, (0.4, -1.3))
    assert np.abs(ours - exact)[8:-8, 8:-8].std() < 0.005 * image.std()


def test_whole_pixels_are_copied_exactly():
    image = np.random.default_rng(0).random((2, 9, 11)).astype(np.float32)
    moved = apply_shift(image, (2, -1))
    np.testing.assert_array_equal(moved[:, 2:, :-1], image[:, :-2, 1:])
    assert np.isnan(moved[:, :2]).all() and np.isnan(moved[:, :, -1]).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), dy=st.floats(-2, 2), dx=st.floats(-2, 2), order=st.sampled_from([0, 1, 3]))
def test_invalid_pixels_never_show(seed, dy, dx, order):
    rng = np.random.default_rng(seed)
    image = rng.random((2, 30, 30)).astype(np.float32)
    hole = rng.random((30, 30)) < 0.03
    image[:, hole] = np.nan
    moved = apply_shift(image, (dy, dx), order=order)
    assert moved.dtype == np.float32
    # a constant stays that constant everywhere it is valid, whatever is missing
    flat = apply_shift(np.where(hole, np.nan, 0.3)[None], (dy, dx), order=order)
    np.testing.assert_allclose(flat[np.isfinite(flat)], 0.3, atol=2e-6)
    np.testing.assert_array_equal(np.isfinite(flat[0]), np.isfinite(moved[0]))


def test_validity_shrinks_by_the_reach_of_the_kernel():
    image = np.ones((1, 21, 21))
    image[0, 10, 10] = np.nan
    moved = apply_shift(image, (0.5, 0.5))[0]
    rows, columns = np.nonzero(np.isnan(moved[4:-4, 4:-4]))
    assert (rows.min() + 4, rows.max() + 4, columns.min() + 4, columns.max() + 4) == (9, 12, 9, 12)


def test_bands_keep_their_own_masks():
    image = np.random.default_rng(0).random((2, 20, 20))
    image[0, 5, 5] = np.nan
    moved = apply_shift(image, (0.3, 0.3))
    np.testing.assert_array_equal(moved[1], apply_shift(image[1:], (0.3, 0.3))[0])
    assert np.isnan(moved[0]).sum() > np.isnan(moved[1]).sum()


def test_shift_and_order_are_checked():
    with pytest.raises(SettingError, match="finite"):
        apply_shift(np.ones((4, 4)), (np.nan, 0))
    with pytest.raises(SettingError, match="order is 2"):
        apply_shift(np.ones((4, 4)), (0.5, 0), order=2)


def test_flags_move_with_their_pixels_and_name_what_was_lost():
    image = np.ones((1, 20, 20), np.float32)
    flags = np.zeros((20, 20), np.uint8)
    flags[8:12, 8:12], flags[:, 15:] = Quality.CLOUD, Quality.WATER
    image[0, 8:12, 8:12] = np.nan
    moved, flags_moved = apply_shift(image, (0.5, 1)), move_flags(flags, image, (0.5, 1))
    lost = np.isnan(moved[0])
    assert (flags_moved[lost] & ~np.uint8(Quality.WATER)).all()
    assert not (flags_moved[~lost] & Quality.CLOUD).any()
    assert flags_moved[6, 10] == 0 and flags_moved[7, 10] == Quality.CLOUD
    assert flags_moved[0, 3] == Quality.NODATA
    assert flags_moved[10, 16] == Quality.WATER and flags_moved[10, 15] == 0


# align


def test_a_stack_comes_to_lie_on_one_reference():
    stack, shifts = land_stack()
    aligned = align(stack)
    assert aligned["shift_accepted"].all(), list(aligned["shift_why"].values)
    assert errors_px(aligned, shifts).max() < 0.03
    applied = aligned["shift_applied"].values
    size = np.hypot(aligned["shift_dy_px"], aligned["shift_dx_px"])
    np.testing.assert_array_equal(applied, size >= 0.5)
    assert applied.any() and not applied.all()
    again = align(align(stack, apply_above_px=0.05))
    assert np.hypot(again["shift_dy_px"], again["shift_dx_px"]).max() < 0.05


def test_short_shifts_are_recorded_and_pixels_left_alone():
    stack, shifts = land_stack(jitter_px=0.25, seed=1)
    aligned = align(stack)
    assert errors_px(aligned, shifts).max() < 0.03
    assert not aligned["shift_applied"].any()
    assert aligned["image"].values is stack["image"].values
    moved = align(stack, apply_above_px=0.1)
    assert moved["shift_applied"].any()


def test_the_input_is_left_alone_and_the_grid_survives():
    stack, _ = land_stack()
    stack["image"].attrs["note"] = "kept"
    before = stack.copy(deep=True)
    stack["image"].values.setflags(write=False)
    aligned = align(stack)
    xr.testing.assert_identical(stack, before)
    assert Grid.of(aligned).same_as(Grid.of(stack))
    assert aligned["image"].dtype == np.float32 and aligned["quality"].dtype == np.uint8
    assert aligned["image"].dims == ("time", "band", "y", "x")
    assert aligned["image"].attrs == {"note": "kept"}
    lost = np.isnan(aligned["image"].values).any(axis=1)
    assert (aligned["quality"].values[lost] & Quality.NODATA).all()
    xr.testing.assert_identical(aligned, align(stack))


def test_lazy_stacks_stay_lazy_and_give_the_same():
    stack, _ = land_stack()
    lazy = stack.chunk(y=50, x=70)
    aligned = align(lazy)
    assert aligned["image"].chunks is not None and aligned["quality"].chunks is not None
    assert aligned["shift_applied"].any()
    xr.testing.assert_identical(aligned.compute(), align(stack))
    assert aligned["image"].data.name == align(lazy)["image"].data.name
    kept = align(lazy, apply_above_px=9)
    assert kept["image"].chunks is not None
    assert kept["image"].data.name == lazy["image"].data.name


def test_large_rasters_are_sampled_in_tiles():
    stack, shifts = land_stack(n=420, dates=5, clouds=False, seed=2)
    aligned = align(stack, sample_px=320)
    assert aligned["shift_accepted"].all(), list(aligned["shift_why"].values)
    assert errors_px(aligned, shifts).max() < 0.05


@pytest.mark.parametrize("reference", ["first", "2024-05-21", "last"])
def test_a_scene_can_be_the_reference(reference):
    stack, shifts = land_stack()
    aligned = align(stack, reference=reference)
    at = {"first": 0, "2024-05-21": 2, "last": 7}[reference]
    wanted = shifts[at] - shifts
    found = np.stack([aligned["shift_dy_px"].values, aligned["shift_dx_px"].values], axis=1)
    assert np.abs(found - wanted)[aligned["shift_accepted"].values].max() < 0.03
    assert aligned["shift_why"].values[at] == "the reference"


def test_an_image_can_be_the_reference():
    stack, shifts = land_stack()
    aligned = align(stack, reference=stack["image"].isel(time=3, drop=True))
    found = np.stack([aligned["shift_dy_px"].values, aligned["shift_dx_px"].values], axis=1)
    assert np.abs(found - (shifts[3] - shifts)).max() < 0.03
    with pytest.raises(GridError, match="the reference is not on the grid"):
        align(stack, reference=stack["image"].isel(time=3, x=slice(5, None), drop=True))


def test_unknown_references_and_settings_are_refused():
    stack, _ = land_stack(dates=2, n=64)
    with pytest.raises(SettingError, match="did you mean 'median'"):
        align(stack, reference="medain")
    for wrong in ({"max_shift_px": 20.0}, {"apply_above_px": -1.0}):
        with pytest.raises(ChangedetError, match=next(iter(wrong))):
            align(stack, **wrong)


def test_water_does_not_take_part():
    """The water moves its own way; only the land below it says where the scene lies."""
    stack, shifts = land_stack(n=160, clouds=False, seed=4)
    waves = np.random.default_rng(0).standard_normal((8, 1, 200, 200))
    waves = 0.02 * ndimage.gaussian_filter(waves, (0, 0, 2, 2))[..., 20:180, 20:180] * 20
    pixels = stack["image"].values
    pixels[:, :, :60] = (np.array([0.08, 0.06, 0.03])[:, None, None] + 0.3 * waves)[:, :, :60]
    aligned = align(stack)
    assert aligned["shift_accepted"].all(), list(aligned["shift_why"].values)
    assert errors_px(aligned, shifts).max() < 0.03


def test_snow_is_refused_rather_than_damaged():
    stack, shifts = land_stack(n=160, clouds=False, seed=5)
    rng = np.random.default_rng(9)
    stack["image"].values[2] = 0.7 + 0.05 * texture(rng, 160)
    aligned = align(stack)
    accepted = aligned["shift_accepted"].values
    assert not accepted[2] and accepted[[0, 1, 3, 4, 5, 6, 7]].all()
    np.testing.assert_array_equal(aligned["image"].values[2], stack["image"].values[2])
    assert errors_px(aligned, shifts).max() < 0.03


def test_poor_stacks_come_back_as_they_are():
    full, _ = land_stack(n=64, dates=5, seed=6)
    nothing = full.assign(image=full["image"] * np.nan)
    wet = full.assign(image=full["image"] * 0 + xr.DataArray([0.06, 0.05, 0.02], dims="band"))
    wet["image"] = wet["image"].transpose("time", "band", "y", "x").astype(np.float32)
    sparse = full.copy(deep=True)
    sparse["image"].values[1, :, 6:] = np.nan
    for stack in (nothing, wet):
        aligned = align(stack)
        assert not aligned["shift_accepted"].any() and not aligned["shift_applied"].any()
        assert all(aligned["shift_why"].values)
        xr.testing.assert_identical(aligned["image"].drop_vars(SHIFT_COORDS), stack["image"])
    aligned = align(sparse)
    assert not aligned["shift_accepted"].values[1]
    assert aligned["shift_accepted"].values[[0, 2, 3, 4]].all()


SHIFT_COORDS = [
    "shift_dy_px", "shift_dx_px", "shift_residual_px", "shift_tie_points", "shift_model",
    "shift_accepted", "shift_applied", "shift_why",
]  # fmt: skip


@pytest.mark.parametrize("dates", [1, 2, 3])
def test_few_dates_and_small_rasters(dates):
    stack, shifts = land_stack(n=50, dates=dates, seed=7, clouds=False)
    aligned = align(stack)
    assert aligned["shift_accepted"].all(), list(aligned["shift_why"].values)
    assert errors_px(aligned, shifts).max() < 0.05


def test_sar_is_matched_in_logarithms():
    rng = np.random.default_rng(0)
    truth = np.exp(0.8 * texture(rng, 192, scales=(2, 5)))
    shifts = rng.uniform(-1, 1, (8, 2))
    power = np.array([0.05 * np.maximum(fourier_shift(truth, s), 0.05)[16:-16, 16:-16] for s in shifts])
    speckled = power[:, None] * rng.gamma(10, 1 / 10, (8, 2, 160, 160))
    grid = Grid.make("EPSG:32652", Affine(10, 0, 5e5, 0, -10, 47e5), (160, 160))
    when = np.datetime64("2024-05-01") + 12 * np.arange(8).astype("timedelta64[D]")
    stack = make_stack(speckled.astype(np.float32), grid, dates=when, bands=("vv", "vh"))
    aligned = align(stack)
    assert aligned["shift_accepted"].all(), list(aligned["shift_why"].values)
    assert errors_px(aligned, shifts).max() < 0.15
