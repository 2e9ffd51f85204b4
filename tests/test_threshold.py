"""threshold: levels against independent numbers, their properties, and what is refused."""

import json
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.stats import chi2, false_discovery_control

from changedet.blocks import parameters
from changedet.errors import DegenerateError, SettingError, UnknownMethodError, UnknownSettingError
from changedet.steps._threshold import (
    center_and_scale,
    count,
    expected_above,
    fdr_bh,
    fdr_cut,
    kapur,
    kittler,
    otsu,
    robust,
    triangle,
)
from changedet.steps.threshold import METHODS, false_discovery, hysteresis, threshold

HERE = Path(__file__).parent / "reference"
EXPECTED = json.loads((HERE / "thresholds_metrics.json").read_text())
MAGNITUDE = np.load(HERE / "bitemporal_difference.npz")["cva_mag"]
STATISTIC = np.load(HERE / "irmad_chi2.npz")["canty_irmad_chi2"]
P_VALUES = chi2.sf(STATISTIC.astype(float), 6)


def picture(values, **attrs):
    return xr.DataArray(values, dims=("y", "x"), attrs=attrs)


def two_modes(seed=0, share=0.3, apart=8.0, size=(80, 90)):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 1, size) + apart * (rng.random(size) < share)


# --- against independent numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [otsu, kapur, kittler])
def test_reference_bins(kernel):
    counts, edges = np.histogram(MAGNITUDE.astype(float), 256)
    level, info = kernel(counts, edges)
    wanted = EXPECTED[f"loop_{kernel.__name__}_256"]
    assert level == pytest.approx(wanted["right_edge"], rel=1e-9)
    assert info["criterion"] == pytest.approx(wanted["criterion"], rel=1e-9)
    assert np.searchsorted(edges, level) - 1 == wanted["bin"]


def test_reference_triangle_is_the_upper_edge_of_the_bin_that_skimage_centers():
    counts, edges = np.histogram(MAGNITUDE.astype(float), 256)
    width = edges[1] - edges[0]
    assert triangle(counts, edges)[0] - width / 2 == pytest.approx(EXPECTED["skimage_triangle_256"], rel=1e-7)


def test_reference_through_the_door():
    level, info = threshold(picture(MAGNITUDE), "otsu", clip=0)
    assert level == pytest.approx(EXPECTED["sitk_otsu_256"], abs=1e-5)
    assert [info["low_edge"], info["high_edge"]] == pytest.approx(EXPECTED["histogram_range"], rel=1e-9)
    assert info["above"] == (level < MAGNITUDE).sum() and info["credible"]


@pytest.mark.parametrize(("dependent", "name"), [(False, "bh"), (True, "by")])
@pytest.mark.parametrize("alpha", [0.01, 0.05])
def test_reference_false_discovery(dependent, name, alpha):
    wanted = EXPECTED[f"statsmodels_fdr_{name}_{alpha}"]
    cut = fdr_bh(P_VALUES, alpha, dependent=dependent)
    assert cut == pytest.approx(wanted["largest_rejected_p"], rel=1e-9)
    assert (cut >= P_VALUES).sum() == wanted["n_reject"]
    cut, info = false_discovery(picture(P_VALUES), alpha, dependent=dependent)
    assert (cut > P_VALUES).sum() == info["rejected"] and info["number"] == P_VALUES.size
    assert 0.99 * wanted["n_reject"] <= info["rejected"] <= wanted["n_reject"]
    level, info = threshold(picture(STATISTIC, dof=6), "fdr", alpha=alpha, dependent=dependent)
    assert (level < STATISTIC).sum() == info["rejected"]
    assert 0.99 * wanted["n_reject"] <= info["rejected"] <= wanted["n_reject"]


def test_reference_hysteresis_and_chi_square():
    wanted = EXPECTED["skimage_hysteresis_0.1_0.2"]["n_true"]
    assert int(hysteresis(picture(MAGNITUDE), 0.1, 0.2, connectivity=4).sum()) == wanted
    for key, value in EXPECTED["chi2_isf"].items():
        alpha, dof = (float(part) for part in key.split("_"))
        level, info = threshold(picture(MAGNITUDE), "chi2", alpha=alpha, dof=dof)
        assert level == pytest.approx(value, rel=1e-9) and info["alpha"] == alpha


# --- by hand and by brute force ----------------------------------------------------------------------------


def test_bins_hold_their_upper_edge_and_outliers_count_in_the_outer_bins():
    block = np.array([-9, 0, 1, 1.001, 2, 4, 9, np.nan, np.inf])
    np.testing.assert_array_equal(count(block, bounds=np.array([0.0, 4.0]), bins=4), [3, 2, 0, 2])


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.integers(0, 30), min_size=4, max_size=24).filter(lambda c: sum(map(bool, c)) > 1))
def test_otsu_and_kapur_find_the_best_of_all_cuts(counts):
    counts, edges = np.array(counts, float), np.linspace(0, 3, len(counts) + 1)
    center, p = (edges[:-1] + edges[1:]) / 2, counts / counts.sum()

    def between(t):
        w = p[: t + 1].sum(), p[t + 1 :].sum()
        m = p[: t + 1] @ center[: t + 1] / w[0], p[t + 1 :] @ center[t + 1 :] / w[1]
        return w[0] * w[1] * (m[1] - m[0]) ** 2

    def entropy(t):
        halves = (half / half.sum() for half in (p[: t + 1], p[t + 1 :]))
        return sum(-(h[h > 0] * np.log(h[h > 0])).sum() for h in halves)

    cuts = [t for t in range(len(p) - 1) if counts[: t + 1].any() and counts[t + 1 :].any()]
    for kernel, score in ((otsu, between), (kapur, entropy)):
        level, info = kernel(counts, edges)
        chosen = round(level / edges[1]) - 1
        assert info["criterion"] == pytest.approx(max(map(score, cuts)), abs=1e-9)
        assert score(chosen) == pytest.approx(info["criterion"], abs=1e-9)


def test_triangle_follows_the_longer_tail():
    counts = np.array([0, 1, 10, 8, 6, 4, 2, 1, 1, 1, 1, 0])
    level, _ = triangle(counts, np.arange(13.0))
    assert level == 7
    mirrored, _ = triangle(counts[::-1], np.arange(13.0))
    assert mirrored == 6


def test_robust_is_median_and_deviation_to_a_bin():
    values = np.random.default_rng(2).normal(3, 0.5, (200, 200))
    values[:10] = 50
    level, info = threshold(picture(values), "robust", k=3)
    scale = 1.4826 * np.median(np.abs(values - np.median(values)))
    width = (info["high_edge"] - info["low_edge"]) / info["bins"]
    assert info["median"] == pytest.approx(np.median(values), abs=width)
    assert info["scale"] == pytest.approx(scale, abs=2 * width)
    assert level == info["median"] + 3 * info["scale"]
    level, info = threshold(picture(values), "hysteresis", k=5, k_low=2)
    assert info["low"] == pytest.approx(level - 3 * info["scale"])


@pytest.mark.parametrize("values", [[0, 0, 0, 1, 1, 5], [2, 2, 2, 2, 9, 9], [1, 2, 3, 4, 5, 6]])
def test_center_and_scale_of_few_values(values):
    edges = np.linspace(-0.005, 9.995, 1001)
    counts = np.histogram(values, edges)[0]
    median, scale = center_and_scale(counts, edges)
    low, high = np.quantile(values, 0.5, method="lower"), np.quantile(values, 0.5, method="higher")
    assert low - 0.01 <= median <= high + 0.01
    mad = np.abs(np.array(values) - median)
    assert (mad <= scale / 1.4826 + 0.01).sum() >= 3


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 999), size=st.integers(1, 200), alpha=st.floats(0.001, 0.5), by=st.booleans())
def test_false_discovery_against_scipy(seed, size, alpha, by):
    rng = np.random.default_rng(seed)
    p = np.where(rng.random(size) < 0.3, rng.random(size) * 1e-3, rng.random(size))
    adjusted = false_discovery_control(p, method="by" if by else "bh")
    cut = fdr_bh(np.append(p, np.nan), alpha, dependent=by)
    np.testing.assert_array_equal(p <= cut, adjusted <= alpha)
    edges = 10.0 ** -np.linspace(0, 12, 4001)
    counts = count(-np.log10(p), bounds=np.array([0.0, 12.0]), bins=4000)
    rejected = counts[fdr_cut(counts, edges, alpha, dependent=by) :].sum()
    assert rejected <= (p <= cut).sum()
    # conservative by one bin: what is rejected at a rate lower by two bins is rejected here too
    lower = fdr_bh(p, alpha * (edges[1] / edges[0]) ** 2, dependent=by)
    assert rejected >= (p <= lower).sum()


def test_nothing_to_reject():
    p = np.full((10, 10), 0.9)
    assert fdr_bh(p) == -1 and not (p <= fdr_bh(p)).any()
    assert false_discovery(picture(p)) == (0.0, {"number": 100, "rejected": 0})
    assert threshold(picture(p, dof=2), "fdr")[0] == np.inf


# --- properties --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 99), gain=st.floats(0.01, 100), offset=st.floats(-50, 50))
def test_affine_equivariance(method, seed, gain, offset):
    values = two_modes(seed)
    level, info = threshold(picture(values), method)
    moved, _ = threshold(picture(values * gain + offset), method)
    width = (info["high_edge"] - info["low_edge"]) / info["bins"]
    assert moved == pytest.approx(level * gain + offset, abs=2.01 * width * gain)


@pytest.mark.parametrize("method", METHODS)
def test_order_and_nan_do_not_matter(method):
    values = two_modes()
    level, info = threshold(picture(values), method)
    shuffled = np.random.default_rng(1).permutation(values.ravel()).reshape(values.shape)
    assert threshold(picture(shuffled), method) == (level, info)
    holes = np.full((160, 90), np.nan)
    holes[::2] = values
    holes[1, 1], holes[3, 3] = np.inf, -np.inf
    assert threshold(picture(holes), method)[0] == level


@pytest.mark.parametrize("method", ["otsu", "kapur", "kittler", "triangle"])
def test_two_modes_are_parted(method):
    level, info = threshold(picture(two_modes(apart=12)), method)
    assert 1.5 < level < 10.5  # Kapur stays near the first mode
    assert info["credible"] or method == "kapur"


def test_one_outlier_does_not_move_otsu():
    values = two_modes()
    clean, _ = threshold(picture(values))
    values[0, 0] = 1e5
    assert threshold(picture(values))[0] == pytest.approx(clean, abs=0.1)


def test_signed_images_are_taken_by_their_size():
    values = two_modes(apart=12)
    values *= np.random.default_rng(1).choice([-1, 1], values.shape)
    level, _ = threshold(picture(values, signed=True))
    assert level == threshold(picture(np.abs(values)))[0] != threshold(picture(values))[0]
    assert threshold(picture(values, signed=False)) == threshold(picture(values))


@pytest.mark.parametrize("draw", ["rayleigh", "normal", "half", "chi4"])
@pytest.mark.parametrize("method", METHODS)
def test_a_level_without_change_is_not_credible(draw, method):
    rng = np.random.default_rng(4)
    noise = {
        "rayleigh": rng.rayleigh(0.02, (300, 300)),
        "normal": rng.normal(0, 1, (300, 300)),
        "half": np.abs(rng.normal(0, 1, (300, 300))),
        "chi4": np.sqrt(rng.chisquare(4, (300, 300))),
    }[draw]
    level, info = threshold(picture(noise), method)
    assert not info["credible"]
    noise[10:30, 10:30] = noise.max() * 3
    level, info = threshold(picture(noise), "robust")
    assert info["credible"] and info["above"] == (noise > level).sum() >= 400


def test_expected_number_above_a_level():
    values = np.random.default_rng(0).rayleigh(1, 100_000)
    counts, edges = np.histogram(values, 1000)
    for level in (0.5, 2.0, 3.0):
        assert expected_above(counts, edges, level) == pytest.approx(1e5 * np.exp(-(level**2) / 2), rel=0.1)


def test_a_small_change_on_a_still_background_is_found():
    values = np.zeros((200, 200))
    values[50:53, 50:53] = 1
    for method in ("otsu", "robust", "triangle"):
        level, info = threshold(picture(values), method)
        assert 0 <= level < 1 and info["above"] == 9, method


# --- numbers, names and refusals ---------------------------------------------------------------------------


@pytest.mark.parametrize(("given_", "number"), [(0.25, 0.25), (3, 3.0), ("0.25", 0.25), ("-1e-3", -0.001)])
def test_a_number_is_the_level(given_, number):
    assert threshold(picture(np.zeros((1, 1))), given_) == (number, {"method": "number", "threshold": number})


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.full((40, 40), 0.3), "same"),
        (np.full((40, 40), np.nan), "0 finite"),
        (
            np.where(np.arange(1600).reshape(40, 40) < 63, np.arange(1600.0).reshape(40, 40), np.nan),
            "63 finite",
        ),
    ],
)
def test_degenerate_images_are_refused(method, values, words):
    with pytest.raises(DegenerateError, match=words):
        threshold(picture(values), method)
    lazy = METHODS[method](picture(values).chunk(y=7))
    with pytest.raises(DegenerateError, match=words):
        lazy.compute(scheduler="sync")


def test_kittler_says_when_there_are_not_two_classes():
    with pytest.raises(DegenerateError, match="robust"):
        kittler(np.array([10, 0, 0, 10]), np.arange(5.0))


def test_a_quiet_part_makes_no_change_incredible():
    rng = np.random.default_rng(0)
    quiet, lively = np.abs(rng.normal(0, 0.2, 40_000)), np.abs(rng.normal(0, 3, 20_000))
    changed = np.abs(rng.normal(14, 2, 4_000))
    image = picture(np.concatenate([quiet, lively, changed]).reshape(200, 320))
    assert threshold(image, "otsu")[1]["credible"]
    noise = picture(np.abs(rng.normal(0, 1, (200, 320))))
    assert not threshold(noise, "otsu")[1]["credible"]


def test_unknown_names_and_values_are_answered():
    image = picture(two_modes())
    with pytest.raises(UnknownMethodError, match="did you mean 'otsu'"):
        threshold(image, "otsuu")
    with pytest.raises(UnknownSettingError, match="k"):
        threshold(image, "robust", sigma=3)
    for method, params in [
        ("otsu", {"bins": 1}),
        ("otsu", {"clip": 0.5}),
        ("hysteresis", {"k": 2.0}),
        ("chi2", {"dof": 2, "alpha": 2}),
        ("chi2", {}),
        ("fdr", {"dof": -1}),
        (float("nan"), {}),
    ]:
        with pytest.raises(SettingError, match="wanted"):
            threshold(image, method, **params)
    with pytest.raises(SettingError, match="below"):
        hysteresis(image, 3, 2)
    assert threshold(image, "auto")[1]["method"] == "robust"
    assert parameters(METHODS["robust"]) == {"k": 4.0, "least": None} and parameters(METHODS["otsu"]) == {}
    assert robust(*np.histogram(two_modes(), 256), k=1)[0] < robust(*np.histogram(two_modes(), 256))[0]


# --- hysteresis --------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), connectivity=st.sampled_from([4, 8]), y=st.integers(1, 12))
def test_hysteresis_keeps_parts_with_a_seed(seed, connectivity, y):
    values = np.random.default_rng(seed).normal(size=(12, 15))
    values[3, 3] = np.nan
    image = picture(values, signed=True).chunk(y=y, x=4)
    with dask.config.set(scheduler="sync"):
        found = hysteresis(image, 0.5, 1.5, connectivity)
        assert found.chunks is not None and found.dtype == bool
        found = found.values
    structure = np.ones((3, 3)) if connectivity == 8 else None
    labels, _ = ndimage.label(np.abs(values) > 0.5, structure)
    wanted = np.isin(labels, np.setdiff1d(labels[np.abs(values) > 1.5], [0]))
    np.testing.assert_array_equal(found, wanted)
