"""pca and pca-kmeans: against independent numbers, and what must hold for any image."""

from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from changedet.errors import DegenerateError, SettingError
from changedet.grid import Grid, attach
from changedet.steps._pca import _moments, filtered, pca, pca_kmeans, two_means
from changedet.steps._statistics import combined

FOLDER = Path(__file__).parent / "reference"
PAIR = np.load(FOLDER / "bitemporal_difference.npz")
REFERENCE = np.load(FOLDER / "bitemporal_structure.npz")


def plain(values):
    return xr.DataArray(values, dims=("band", "y", "x"))


def scene(seed=0, shape=(3, 30, 40)):
    return plain(np.random.default_rng(seed).normal(0.3, 0.05, shape).astype(np.float32))


# --- pca ---------------------------------------------------------------------------------------------------


def test_components_against_independent_numbers():
    found = pca(plain(PAIR["x"]), plain(PAIR["y"]))
    np.testing.assert_allclose(found.attrs["variance"], REFERENCE["pca_diff_var"], rtol=1e-5)
    scores = np.abs(found.components.values[:, ::3, ::3])
    np.testing.assert_allclose(scores, REFERENCE["pca_diff_absscores_every_third"], rtol=0, atol=1e-5)
    assert found.attrs["dof"] == 6 and found.attrs["number"] == 64 * 64
    assert list(found.components.band.values) == [f"pca{i}" for i in range(1, 7)]


def test_length_of_scores_is_that_of_the_centered_difference():
    before, after = scene(0), scene(1)
    found = pca(before, after)
    difference = after.values.astype(np.float64) - before.values
    centered = difference - difference.mean(axis=(1, 2), keepdims=True)
    squares = (found.components.values.astype(np.float64) ** 2).sum(axis=0)
    np.testing.assert_allclose(squares, (centered**2).sum(axis=0), rtol=1e-5, atol=1e-9)
    assert (found.components.mean(("y", "x")) < 1e-6).all()


@settings(max_examples=25, deadline=None)
@given(mix=arrays(np.float64, (3, 3), elements=st.floats(-0.2, 0.2)), offset=st.floats(-1, 1))
def test_whitened_length_is_blind_to_any_mixture_of_the_bands(mix, offset):
    before, after = (scene(seed).astype(np.float64) for seed in (2, 3))
    matrix = np.eye(3) + mix
    mixed = [plain(np.einsum("ij,jyx->iyx", matrix, v.values)) for v in (before, after)]
    expect = pca(before, after)
    found = pca(mixed[0], mixed[1] + offset)
    np.testing.assert_allclose(found.magnitude, expect.magnitude, rtol=1e-5)
    np.testing.assert_allclose(found.p_value, expect.p_value, rtol=1e-4)


def test_standardized_components_are_blind_to_the_scale_of_a_band():
    before, after = scene(4), scene(5)
    scale = xr.DataArray([1.0, 100.0, 0.01], dims="band")
    expect = pca(before, after, standardize=True)
    found = pca(before * scale, after * scale, standardize=True)
    np.testing.assert_allclose(found.components, expect.components, rtol=1e-4, atol=1e-5)
    assert sum(expect.attrs["variance"]) == pytest.approx(3)
    assert not np.allclose(pca(before * scale, after * scale).components, expect.components)


def test_error_rate_without_change_and_exchange_of_dates():
    before, after = scene(6, (4, 500, 500)), scene(7, (4, 500, 500))
    found, back = pca(before, after), pca(after, before)
    for alpha in (0.01, 0.001):
        assert float((found.p_value < alpha).mean()) == pytest.approx(alpha, rel=0.15)
    np.testing.assert_allclose(back.magnitude, found.magnitude, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(back.components, -found.components, rtol=1e-4, atol=1e-6)


def test_brighter_everywhere_is_a_positive_first_component():
    before = scene(8)
    after = before.copy(deep=True)
    after[:, :5] += 0.2
    assert (pca(before, after).components[0, :5] > 0).all()


def test_equal_images_and_silent_bands():
    before, after = scene(9), scene(10)
    same = pca(before, before)
    assert (same.magnitude == 0).all() and (same.p_value == 1).all() and (same.components == 0).all()
    assert (pca(before, before + np.float32(0.25)).magnitude == 0).all()
    after[2] = before[2]
    for standardize in (False, True):
        silent = pca(before, after, standardize=standardize)
        two = pca(before[:2], after[:2], standardize=standardize)
        assert silent.attrs["dof"] == 2
        np.testing.assert_allclose(silent.magnitude, two.magnitude, rtol=1e-5)


def test_invalid_pixels_are_left_out_and_stay_out():
    before, after = scene(11), scene(12)
    spoiled = [image.copy(deep=True) for image in (before, after)]
    spoiled[0].values[1, :4], spoiled[1].values[0, 7, 7], spoiled[1].values[2, 8, 8] = np.nan, np.inf, -np.inf
    kept = [image.copy(deep=True) for image in spoiled]
    found = pca(*spoiled)
    usable = np.isfinite([*spoiled]).all(axis=(0, 1))
    for layer in (found.magnitude, found.p_value, *found.components):
        assert layer.dtype == np.float32
        np.testing.assert_array_equal(np.isfinite(layer), usable)
    for image, same in zip(spoiled, kept, strict=True):
        xr.testing.assert_identical(image, same)
    np.testing.assert_allclose(pca(before[:, 9:], after[:, 9:]).magnitude, found.magnitude[9:], rtol=0.2)


@pytest.mark.parametrize("chunks", [{"y": 7, "x": 11}, {"y": 30, "x": 3}, {"band": 1}])
def test_chunks_change_nothing(chunks):
    before, after = scene(13), scene(14)
    before.values[0, 3, :9] = np.nan
    expect = pca(before, after)
    with dask.config.set(scheduler="sync"):
        found = pca(before.chunk(chunks), after)
        assert all(v.chunks is not None for v in found.values())
        xr.testing.assert_allclose(found.compute(), expect, rtol=1e-5, atol=1e-7)
    assert pca(before, after, threads=3).identical(expect)


@settings(max_examples=40, deadline=None)
@given(
    values=arrays(np.float64, (2, 9, 5), elements=st.floats(-5, 5) | st.sampled_from([np.nan, np.inf])),
    cuts=st.lists(st.integers(0, 9), max_size=4),
)
def test_moments_merge(values, cuts):
    whole = _moments(values)
    parts = [_moments(part) for part in np.split(values, sorted(cuts), axis=1)]
    total = parts[0]
    for part in parts[1:]:
        total = combined(total, part)
    assert total.number == whole.number == np.isfinite(values).all(axis=0).sum()
    np.testing.assert_allclose(total.mean, whole.mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(total.products, whole.products, rtol=1e-12, atol=1e-10)


def test_results_keep_the_grid_and_take_no_band_axis():
    grid = Grid.make("EPSG:32652", Affine(10, 0, 500_000, 0, -10, 4_800_000), (16, 24))
    images = [
        attach(
            scene(seed, (2, 16, 24)).values, grid, dims=("band", "y", "x"), coords={"band": ["red", "nir"]}
        )
        for seed in (15, 16)
    ]
    found = pca(*images)
    for layer in found.values():
        assert Grid.of(layer).same_as(grid)
    flat = pca(*(image.isel(band=0) for image in images))
    assert flat.magnitude.dims == ("y", "x") and flat.components.shape == (1, 16, 24)
    np.testing.assert_array_equal(flat.magnitude, pca(*(image[:1] for image in images)).magnitude)


def test_too_few_pixels_are_refused():
    with pytest.raises(DegenerateError, match=r"24 valid samples.*at least 30"):
        pca(scene(0, (3, 4, 6)), scene(1, (3, 4, 6)))


# --- pca-kmeans --------------------------------------------------------------------------------------------


def changed_pair(seed=0, shape=(2, 80, 90), size=6, amplitude=0.3):
    rng = np.random.default_rng(seed)
    before, after = (rng.normal(0.3, 0.02, shape).astype(np.float32) for _ in range(2))
    truth = np.zeros(shape[1:], bool)
    for y, x in ((10, 12), (40, 61), (70, 30)):
        truth[y : y + size, x : x + size] = True
    after[:, truth] += np.float32(amplitude)
    return plain(before), plain(after), truth


def test_clusters_against_independent_numbers():
    found = pca_kmeans(plain(PAIR["x"][:1]), plain(PAIR["y"][:1]))
    # One band of this pair does not separate, so the split is pressed below 1: x/(1 + x), halfway at 1/2.
    assert found.attrs["gated"] and found.attrs["separation"] < 3
    assert ((found.values > 0.5) == REFERENCE["celik_h4_s3"]).mean() > 0.99
    eager = pca_kmeans(plain(PAIR["x"][:1]), plain(PAIR["y"][:1]), least_separation=1)
    assert ((eager.values > 1) == REFERENCE["celik_h4_s3"]).mean() > 0.99


def test_eigenvalues_of_blocks_against_independent_numbers():
    difference = np.abs(PAIR["y"][0] - PAIR["x"][0]).astype(np.float64)
    blocks = difference.reshape(16, 4, 16, 4).transpose(1, 3, 0, 2).reshape(16, 16, 16)
    zeros = plain(np.zeros_like(blocks))
    variance = pca(zeros, plain(blocks)).attrs["variance"]
    np.testing.assert_allclose(variance[:3], REFERENCE["celik_eigvals"], rtol=1e-4)


@pytest.mark.parametrize(("bands", "size", "amplitude"), [(1, 6, 0.3), (3, 4, 0.2), (6, 6, 0.12)])
def test_rare_change_is_found_and_little_else(bands, size, amplitude):
    before, after, truth = changed_pair(1, (bands, 200, 210), size, amplitude)
    found = pca_kmeans(before, after)
    change = found.values > found.attrs["suggested_threshold"]
    assert not found.attrs["gated"] and found.attrs["separation"] > 4
    assert change[truth].mean() > 0.75
    rim = np.zeros_like(truth)
    for dy, dx in np.ndindex(5, 5):
        rim |= np.roll(truth, (dy - 2, dx - 2), (0, 1))
    assert not change[~rim].any()


@pytest.mark.parametrize("bands", [1, 4])
@pytest.mark.parametrize("smooth_px", [1, 3, 5])
def test_noise_is_not_called_change(bands, smooth_px):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        before, after = rng.normal(0, 1, (2, bands, 160, 160))
        for image in (before, after):
            image[:] = sum(np.roll(image, k, axis) for k in range(smooth_px) for axis in (1, 2))
        found = pca_kmeans(plain(before), plain(after))
        assert found.attrs["gated"] and float(found.max()) <= 1 and found.attrs["suggested_threshold"] == 1
    assert (found > 0.5).any()  # k-means itself would have split it


def test_exchange_gain_and_equal_images():
    before, after, _ = changed_pair(2)
    found = pca_kmeans(before, after)
    np.testing.assert_array_equal(found, pca_kmeans(after, before))
    np.testing.assert_allclose(pca_kmeans(before * 8, after * 8), found, rtol=1e-4, atol=1e-5)
    same = pca_kmeans(before, before)
    assert (same == 0).all() and same.attrs["gated"] and same.attrs["changed_share"] == 0


def test_invalid_pixels_do_not_spread():
    before, after, _ = changed_pair(3)
    expect = pca_kmeans(before, after)
    before.values[0, 30:36, :20], after.values[1, 50, 50] = np.nan, np.inf
    kept = before.copy(deep=True)
    found = pca_kmeans(before, after)
    usable = np.isfinite([before, after]).all(axis=(0, 1))
    np.testing.assert_array_equal(np.isfinite(found), usable)
    np.testing.assert_array_equal(before, kept)
    assert ((found.values > 1) == (expect.values > 1))[usable].mean() > 0.999


@pytest.mark.parametrize("chunks", [{"y": 7, "x": 31}, {"y": 80, "x": 3}, {"band": 1, "y": 33, "x": 90}])
def test_chunks_change_no_cluster(chunks):
    before, after, _ = changed_pair(4)
    before.values[0, 3, :9] = np.nan
    expect = pca_kmeans(before, after)
    with dask.config.set(scheduler="sync"):
        found = pca_kmeans(before.chunk(chunks), after)
        assert found.chunks is not None and found.attrs["gated"] is False
        np.testing.assert_allclose(found.compute(), expect, rtol=1e-4, atol=1e-5)
    assert expect.dtype == np.float32 and pca_kmeans(before, after, threads=3).identical(expect)


def test_filter_against_a_loop():
    rng = np.random.default_rng(5)
    image, weights, mean = rng.random((5, 6)), rng.random((4, 4)), rng.random((4, 4))
    padded = np.pad(image, (1, 2), mode="symmetric")
    expect = [[((padded[y : y + 4, x : x + 4] - mean) * weights).sum() for x in range(6)] for y in range(5)]
    np.testing.assert_allclose(filtered(image, weights=weights, mean=mean), expect, rtol=1e-12)
    image[2, 2] = np.nan
    assert np.isfinite(filtered(image, weights=weights, mean=mean)).all()


def test_two_means_by_hand():
    feature = np.array([0.0, 1, 2, 100, 102])
    low, high, separation, share = two_means(np.stack([feature, feature]))
    assert (low, high, share) == (1, 101, 0.4) and separation == pytest.approx(100 / np.sqrt(2 / 3))
    assert (two_means(np.ones((2, 5))) == 0).all() and (two_means(np.empty((3, 0))) == 0).all()


def test_settings_of_clusters_are_checked():
    before, after, _ = changed_pair()
    for params in ({"block_px": 1}, {"components": 0}, {"components": 17}):
        with pytest.raises(SettingError, match="at least 2 px"):
            pca_kmeans(before, after, **params)
    with pytest.raises(DegenerateError, match="valid samples"):
        pca_kmeans(before[:, :12, :12], after[:, :12, :12])
    for params in ({"block_px": 2, "components": 4}, {"block_px": 3}, {"block_px": 5, "components": 1}):
        assert not pca_kmeans(before, after, **params).attrs["gated"]
