"""ssim and ncc: against independent numbers, and what must hold for any image."""

from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from changedet.errors import SettingError
from changedet.grid import Grid, attach
from changedet.steps._structure import ncc, ssim

FOLDER = Path(__file__).parent / "reference"
PAIR = np.load(FOLDER / "bitemporal_difference.npz")
REFERENCE = np.load(FOLDER / "bitemporal_structure.npz")
METHODS = {"ssim": ssim, "ncc": ncc}


def plain(values):
    return xr.DataArray(values, dims=("band", "y", "x"))


def scene(seed=0, shape=(2, 26, 31)):
    return plain(np.random.default_rng(seed).uniform(0.05, 0.5, shape).astype(np.float32))


# --- against independent numbers ---------------------------------------------------------------------------


def test_ssim_against_independent_numbers():
    found = ssim(plain(PAIR["x"][:1]), plain(PAIR["y"][:1]), data_range=0.5)
    inside = (slice(5, -5), slice(5, -5))
    np.testing.assert_allclose(
        1 - found.values[inside], REFERENCE["ssim_b0_gauss"][inside], rtol=0, atol=1e-5
    )


def test_ncc_against_independent_numbers():
    found = ncc(plain(PAIR["x"][:1]), plain(PAIR["y"][:1]), window_px=5, noise=0).values
    expect = REFERENCE["ncc_b0_win5"]
    inside = np.isfinite(expect)
    assert inside.sum() == 60 * 60
    np.testing.assert_allclose(found[inside], expect[inside], rtol=0, atol=1e-5)


def test_masked_windows_against_a_loop():
    before, after = scene(1, (2, 14, 15)), scene(2, (2, 14, 15))
    rng = np.random.default_rng(3)
    before.values[0][rng.random((14, 15)) < 0.2] = np.nan
    after.values[1, 9:, 9:] = np.inf
    a, b = (v.values.astype(np.float64) for v in (before, after))
    valid = np.isfinite(a).all(axis=0) & np.isfinite(b).all(axis=0)
    y, x = np.indices(valid.shape)
    expect = np.full((2, *valid.shape), np.nan)
    for i, j in zip(*np.nonzero(valid), strict=True):
        far = np.maximum(abs(y - i), abs(x - j))
        gauss = np.exp(-((y - i) ** 2 + (x - j) ** 2) / (2 * 1.5**2)) * (far <= 5)
        for n, weight in enumerate((gauss, (far <= 2) * 1.0)):
            if (weight * valid).sum() < 0.5 * weight.sum():
                continue
            here = weight[valid] / weight[valid].sum()
            likeness = []
            for p, q in zip(a[:, valid], b[:, valid], strict=True):
                mp, mq = p @ here, q @ here
                vp, vq, c = ((p - mp) ** 2) @ here, ((q - mq) ** 2) @ here, ((p - mp) * (q - mq)) @ here
                c1, c2 = 0.005**2, 0.015**2
                full = (2 * mp * mq + c1) * (2 * c + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2))
                likeness.append(1 - full if n == 0 else c / np.sqrt(vp * vq))
            expect[n, i, j] = np.mean(likeness)
    assert 0 < np.isnan(expect[0])[valid].sum() < valid.sum() / 2
    np.testing.assert_allclose(ssim(before, after), expect[0], rtol=0, atol=2e-7)
    np.testing.assert_allclose(ncc(before, after), expect[1], rtol=0, atol=2e-7)


# --- properties --------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    values=arrays(np.float64, (2, 2, 6, 7), elements=st.floats(0, 1) | st.sampled_from([np.nan, np.inf])),
    method=st.sampled_from(["ssim", "ncc"]),
)
def test_bounds_symmetry_and_invalid_pixels(values, method):
    kept = values.copy()
    found = METHODS[method](plain(values[0]), plain(values[1])).values
    back = METHODS[method](plain(values[1]), plain(values[0])).values
    np.testing.assert_array_equal(found, back)
    np.testing.assert_array_equal(values, kept)
    usable = np.isfinite(values).all(axis=(0, 1))
    assert found.dtype == np.float32 and not np.isfinite(found[~usable]).any() and not np.isinf(found).any()
    low, high = {"ssim": (0, 2), "ncc": (-1, 1)}[method]
    inside = found[np.isfinite(found)]
    assert (inside >= low - 1e-6).all() and (inside <= high + 1e-6).all()
    if method == "ssim" and usable.all():
        assert np.isfinite(found).all()
    same = METHODS[method](plain(values[0]), plain(values[0])).values
    same = same[np.isfinite(same)]
    np.testing.assert_allclose(
        same, 0 if method == "ssim" else 1, rtol=0, atol=0 if method == "ssim" else 1e-6
    )


@settings(max_examples=20, deadline=None)
@given(gain=st.floats(0.2, 5), offset=st.floats(-1, 1))
def test_correlation_is_blind_to_gain_and_offset(gain, offset):
    before, after = scene(4).astype(np.float64), scene(5).astype(np.float64)
    np.testing.assert_allclose(ncc(before, after * gain + offset), ncc(before, after), rtol=0, atol=1e-6)
    np.testing.assert_allclose(ncc(before, -after), -ncc(before, after), rtol=0, atol=1e-6)


def test_a_flat_window_has_no_correlation_and_a_flat_band_is_left_out():
    before, after = scene(6), scene(7)
    calm = before.copy(deep=True)
    calm.values[:, 10:20, 10:20] = 0.03
    found = ncc(calm, after).values
    assert np.isnan(found[12:18, 12:18]).all() and np.isfinite(found).sum() == found.size - 36
    one = before.copy(deep=True)
    one.values[1] = 0.03
    np.testing.assert_array_equal(ncc(one, after), ncc(before[:1], after[:1]))


def test_structure_on_dark_water_needs_a_range_of_its_own():
    before = plain(np.full((1, 21, 21), 0.03)) + 0.002 * scene(8, (1, 21, 21))
    after = before.copy(deep=True)
    after.values[0, 10, 10] += 0.02
    loud, quiet = (float(ssim(before, after, data_range=r)[10, 10]) for r in (0.05, 1.0))
    assert loud > 0.5 > 0.05 > quiet


def test_ssim_sees_structure_where_brightness_alone_changed_little():
    before = scene(9)
    found_gain = ssim(before, before * np.float32(1.1))
    found_shuffled = ssim(before, before[:, ::-1, ::-1])
    assert float(found_shuffled.mean()) > 10 * float(found_gain.mean())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("chunks", [{"y": 7, "x": 12}, {"y": 3, "x": 2}, {"band": 1, "y": 26, "x": 9}])
def test_chunks_change_nothing(method, chunks):
    before, after = scene(10), scene(11)
    before.values[0, 5:9, 6], after.values[1, 20, 9] = np.nan, np.inf
    run = METHODS[method]
    with dask.config.set(scheduler="sync"):
        lazy = run(before.chunk(chunks), after)
        assert lazy.chunks is not None
        np.testing.assert_array_equal(lazy.compute(), run(before, after))
    np.testing.assert_array_equal(run(before, after, threads=3), run(before, after))


def test_results_do_not_depend_on_strips():
    before, after = scene(12, (2, 700, 900)), scene(13, (2, 700, 900))
    for run in METHODS.values():
        window = {"y": slice(300, 400), "x": slice(300, 400)}
        part = run(before.isel(window), after.isel(window)).values[8:-8, 8:-8]
        np.testing.assert_array_equal(run(before, after).isel(window).values[8:-8, 8:-8], part)


def test_results_keep_the_grid_and_take_no_band_axis():
    grid = Grid.make("EPSG:32652", Affine(10, 0, 500_000, 0, -10, 4_800_000), (16, 24))
    images = [attach(scene(s, (2, 16, 24)).values, grid, dims=("band", "y", "x")) for s in (14, 15)]
    for run in METHODS.values():
        found = run(*images)
        assert Grid.of(found).same_as(grid) and found.dims == ("y", "x") and found.attrs["units"] == "1"
        flat = run(*(image.isel(band=0) for image in images))
        np.testing.assert_array_equal(flat, run(*(image[:1] for image in images)))


def test_what_is_refused():
    for params in ({"data_range": 0}, {"sigma_px": -1}, {"data_range": np.nan}, {"sigma_px": np.inf}):
        with pytest.raises(SettingError, match="above 0"):
            ssim(scene(), scene(), **params)
    for params in ({"window_px": 4}, {"window_px": 1}, {"noise": -1}):
        with pytest.raises(SettingError, match="odd"):
            ncc(scene(), scene(), **params)
