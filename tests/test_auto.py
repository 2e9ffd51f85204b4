"""The method auto: what it chooses, and that what is everywhere is no change."""

import numpy as np
import pytest
import xarray as xr
from affine import Affine
from numpy.testing import assert_allclose, assert_array_equal
from scipy.ndimage import gaussian_filter, zoom

from changedet.errors import DegenerateError
from changedet.grid import Grid, attach
from changedet.metrics import auc
from changedet.steps import _auto
from changedet.steps.threshold import threshold

BANDS = ("blue", "green", "red", "nir")
COLORS = np.array([(0.05, 0.06, 0.04, 0.02), (0.03, 0.05, 0.03, 0.35), (0.10, 0.13, 0.17, 0.24)])
NEXT = np.array([(0.07, 0.07, 0.05, 0.03), (0.09, 0.12, 0.15, 0.14), (0.09, 0.12, 0.15, 0.22)])
ROOF = np.array((0.2, 0.2, 0.2, 0.2))
SIZE = 120


def labelled(values, gsd_m=10.0, bands=BANDS):
    grid = Grid.make("EPSG:32652", Affine(gsd_m, 0, 600_000, 0, -gsd_m, 4_700_000), values.shape[-2:])
    names = {"band": np.array(bands, dtype=object)}
    return attach(values.astype(np.float32), grid, dims=("band", "y", "x"), coords=names)


def pair(seed=0, built=True, gain=1.0):
    """Water, plants and soil in two seasons; a few roofs after, if built."""
    rng = np.random.default_rng(seed)
    which = np.digitize(gaussian_filter(rng.standard_normal((SIZE, SIZE)), 8), [-0.02, 0.02])
    truth = np.zeros((SIZE, SIZE), bool)
    for r, c in ((20, 30), (60, 80), (95, 15)):
        truth[r : r + 6, c : c + 7] = True
    images = []
    for colors in (COLORS, NEXT):
        base = colors[which].transpose(2, 0, 1)
        images.append(base * rng.normal(1, 0.06, base.shape) + rng.normal(0, 0.003, base.shape))
    if built:
        images[1][:, truth] = ROOF[:, None] * rng.normal(1, 0.03, (4, truth.sum()))
    return labelled(images[0]), labelled(images[1] * gain), truth


def test_what_is_built_stands_out_of_a_season():
    before, after, truth = pair()
    found = _auto.auto(before, after)
    assert found.shape == (SIZE, SIZE) and found.dtype == np.float32
    assert auc(found.values.ravel(), truth.ravel()) > 0.97
    plain = np.sqrt(((after - before) ** 2).sum("band")).values
    season = np.abs(NEXT - COLORS).sum(axis=1).argmax()  # plants wither: a change vector sees nothing else
    assert season == 1 and auc(plain.ravel(), truth.ravel()) < auc(found.values.ravel(), truth.ravel())
    level = np.median(found.values) + found.attrs["suggested_k"] * 1.4826 * np.median(
        np.abs(found.values - np.median(found.values))
    )
    marked = found.values > level
    assert (marked & truth).sum() > 0.8 * truth.sum() and (marked & ~truth).mean() < 0.05


def test_the_light_of_a_scene_does_not_matter():
    one, other = (_auto.auto(*pair(gain=gain)[:2]).values for gain in (1.0, 0.8))
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.95


def test_chunks_and_threads_do_not_matter():
    before, after, _ = pair()
    whole = _auto.auto(before, after)
    lazy = _auto.auto(before.chunk({"y": 50, "x": 37}), after.chunk({"y": 50, "x": 37}))
    assert lazy.chunks is not None
    assert_allclose(lazy.values, whole.values, rtol=1e-4)
    assert_allclose(_auto.auto(before, after, threads=2).values, whole.values, rtol=1e-4)


def test_gaps_stay_gaps_and_inputs_are_left_alone():
    before, after, _ = pair()
    before.values[2, 40:50, 40:50] = np.nan
    after.values[0, 0, 0] = np.inf
    kept = before.copy(deep=True), after.copy(deep=True)
    found = _auto.auto(before, after).values
    gone = np.zeros(found.shape, bool)
    gone[40:50, 40:50] = gone[0, 0] = True
    assert_array_equal(np.isnan(found), gone)
    xr.testing.assert_identical(before, kept[0])
    xr.testing.assert_identical(after, kept[1])


def test_bands_of_the_air_are_left_out():
    before, after, _ = pair()
    air = np.random.default_rng(1).random((1, SIZE, SIZE))
    names = (*BANDS, "cirrus")
    more = [labelled(np.concatenate([i.values, k * air]), bands=names) for i, k in ((before, 1), (after, 5))]
    assert_allclose(_auto.auto(*more).values, _auto.auto(before, after).values, rtol=1e-5)


def radar(seed=0, looks=4):
    rng = np.random.default_rng(seed)
    truth = np.zeros((SIZE, SIZE), bool)
    truth[50:70, 40:65] = True
    power = 0.05 * np.exp(gaussian_filter(rng.standard_normal((SIZE, SIZE)), 6) * 4)
    before, after = (power * rng.gamma(looks, 1 / looks, power.shape) for _ in range(2))
    after[truth] *= 6
    return before, after, truth


@pytest.mark.parametrize("name", ["vv", "1"])
def test_speckle_is_known_by_name_and_by_look(name):
    before, after, truth = radar()
    found = _auto.auto(*(labelled(i[None], bands=(name,)) for i in (before, after)))
    assert found.attrs["signed"] is True and found.attrs["units"] == "dB"
    assert "ratio" in found.attrs["chosen"] and ("speckled" in found.attrs["why"]) == (name == "1")
    assert auc(found.values.ravel(), truth.ravel()) > 0.99
    assert np.median(found.values[truth]) == pytest.approx(10 * np.log10(6), abs=1)  # brighter after


def test_one_smooth_band_is_no_radar():
    before, after, truth = pair()
    found = _auto.auto(before.isel(band=[1]), after.isel(band=[1]))
    assert "signed" not in found.attrs and auc(found.values.ravel(), truth.ravel()) > 0.9


def test_too_few_pixels_are_refused():
    before, after, _ = pair()
    small = {"y": slice(0, 10), "x": slice(0, 10)}
    with pytest.raises(DegenerateError, match="100 sampled pixels"):
        _auto.auto(before.isel(small), after.isel(small))


def test_what_is_strong_is_not_drawn_over_its_surroundings():
    rng = np.random.default_rng(0)
    magnitude = np.abs(rng.normal(1, 0.25, (60, 60))).astype(np.float32)
    magnitude[20:28, 30:37] = 20
    found = _auto.averaged(magnitude, 2.0)
    wide = _auto.smoothed(magnitude, 2.0)
    assert (found <= wide).all()
    assert 56 <= (found > 2).sum() < 0.6 * (wide > 2).sum()
    flat = np.full((40, 40), 1.5, np.float32)
    assert_allclose(_auto.averaged(flat, 2.0), 1.5, rtol=1e-5)  # what is as strong as its surroundings stands


def test_outlines_of_strong_changes_are_tight_and_small_ones_are_kept():
    rng = np.random.default_rng(1)
    magnitude = np.abs(rng.normal(1, 0.45, (120, 160))).astype(np.float32)
    truth = np.zeros(magnitude.shape, bool)
    for r, c, h, w in ((20, 30, 6, 8), (80, 100, 10, 5), (50, 50, 2, 2), (50, 100, 1, 3), (100, 30, 3, 2)):
        truth[r : r + h, c : c + w] = True
    magnitude[truth] = 20
    found = _auto.averaged(magnitude, 2.5) > _auto.LEAST
    assert found[truth].mean() > 0.95 and found.sum() < 1.3 * truth.sum()


def test_a_few_odd_pixels_are_no_wide_change():
    magnitude = np.ones((80, 80), np.float32)
    magnitude[40, 40] = 1000
    assert (_auto.averaged(magnitude, 2.5) > _auto.LEAST).sum() <= 21  # its own blur, not the support's


def blurred_twice(values):
    """Pixels twice as large, interpolated back to the grid."""
    coarse = values.reshape(SIZE // 2, 2, SIZE // 2, 2).mean(axis=(1, 3))
    return zoom(coarse, 2, order=1, mode="nearest", grid_mode=True)


def test_bands_from_larger_pixels_are_known_by_their_look():
    before, after, _ = pair()
    sharp = _auto.sharpness(before.values)
    blurred = _auto.sharpness(np.stack([blurred_twice(band) for band in before.values]))
    assert (blurred < 0.6 * sharp).all()
    extra = [np.stack([blurred_twice(i.values[k]) for k in (0, 3)]) for i in (before, after)]
    names = (*BANDS, "rededge1", "swir16")
    both = zip((before, after), extra, strict=True)
    more = [labelled(np.concatenate([image.values, two]), bands=names) for image, two in both]
    assert list(_auto.sharp_bands(*more, np.arange(6))) == [0, 1, 2, 3]
    assert_allclose(_auto.auto(*more).values, _auto.auto(before, after).values, rtol=1e-5)
    few = [image.isel(band=[0, 1, 4, 5]) for image in more]
    assert list(_auto.sharp_bands(*few, np.arange(4))) == [0, 1, 2, 3]  # two sharp ones are not enough


def test_what_is_like_nothing_else_is_no_change():
    rng = np.random.default_rng(3)
    ground = gaussian_filter(rng.standard_normal((4, SIZE, SIZE)), (0, 2, 2))  # no two pixels alike
    before, after = (labelled(0.2 + 0.3 * ground + rng.normal(0, 0.001, ground.shape)) for _ in range(2))
    found = _auto.auto(before, after)
    assert (found.values > found.attrs["suggested_least"]).mean() < 0.001


def test_sharpness_of_noise_a_ramp_and_nothing():
    noise = np.random.default_rng(0).standard_normal((1, 300, 300))
    assert _auto.sharpness(noise) == pytest.approx(0.75, abs=0.02)
    assert _auto.sharpness(np.add.outer(np.arange(50.0), np.arange(50.0))[None]) == pytest.approx(0)
    assert np.isnan(_auto.sharpness(np.ones((1, 20, 20)))).all()
    gaps = noise.copy()
    gaps[0, :100, :100] = np.nan
    assert _auto.sharpness(gaps) == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_marked_where_nothing_was_built(seed):
    before, after, _ = pair(seed, built=False)
    found = _auto.auto(before, after)
    level, _ = threshold(found, "robust", k=found.attrs["suggested_k"], least=found.attrs["suggested_least"])
    assert level >= _auto.LEAST and (found.values > level).mean() < 0.02
