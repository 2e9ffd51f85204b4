"""Simulated scenes: truth that is in the pixels, nuisances that are there, rendering that keeps its sums."""

from dataclasses import replace

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import box
from shapely.affinity import rotate

from changedet.errors import ChangedetError, SettingError
from changedet.simulate import SceneSettings, coverage, render_structure, simulate

GRID = Affine(2.0, 0.0, 500.0, 0.0, -2.0, 900.0)

SMALL = SceneSettings.for_sensor("planet", 3, shape_px=(200, 200), n_dates=12)
QUIET_SKY = {"cloudiness": 0.0, "haze": 0.0, "jitter_px": 0.0, "calibration_error": 0.0, "read_noise": 0.0,
             "shot_noise": 0.0, "winter": 0.0, "boats": 0.0, "stockpiles": 0.0}  # fmt: skip
NOISELESS = replace(SMALL, **QUIET_SKY)


@pytest.fixture(scope="module")
def scene():
    return simulate(SMALL)


@pytest.fixture(scope="module")
def noiseless():
    """The same crossing with and without its works, nothing else between the two."""
    return simulate(NOISELESS), simulate(replace(NOISELESS, build=False))


def test_same_settings_give_the_same_scene_to_the_bit(scene):
    again = simulate(SMALL)
    assert np.array_equal(scene.image, again.image)
    assert np.array_equal(scene.mask, again.mask)
    assert scene.truth.equals(again.truth) and scene.scenes.equals(again.scenes)


def test_what_comes_out_has_the_promised_form(scene):
    data = scene.dataset()
    assert scene.image.shape == (12, 4, 200, 200) and scene.image.dtype == np.float32
    assert np.isfinite(scene.image).all() and (scene.image > 0).all()
    np.testing.assert_allclose(scene.image * 1e4, np.round(scene.image * 1e4), atol=0.02)
    assert scene.dates.dtype == "datetime64[ns]" and (np.diff(scene.dates) > np.timedelta64(3, "D")).all()
    assert data.image.dims == ("time", "band", "y", "x") and list(data.band.values) == list(SMALL.bands)
    assert np.array_equal(np.isnan(data.image.values[:, 0]), scene.mask)
    assert np.array_equal(data.quality.values == 2, scene.mask) and data.quality.dtype == np.uint8
    assert (float(data.x[0]), float(data.y[0])) == (scene.transform.c + 1.5, scene.transform.f - 1.5)
    assert 0.0 <= scene.water.min() and scene.water.max() <= 1.0


@pytest.mark.parametrize("sensor", ["submetre", "planet", "sentinel-2"])
def test_truth_is_large_enough_dated_and_apart(sensor):
    shape = {"submetre": (400, 400)}.get(sensor, (240, 240))
    sim = simulate(SceneSettings.for_sensor(sensor, 4, shape_px=shape, n_dates=8))
    truth, gsd = sim.truth, sim.settings.gsd_m
    assert 3 <= len(truth) <= 30
    assert (truth.area_m2 >= 0.3 * gsd**2).all()
    assert (truth.start <= truth.first_seen).all() and (truth.last_absent < truth.start).all()
    assert (truth.first_clear_seen.dropna() >= truth.first_seen[truth.first_clear_seen.notna()]).all()
    assert set(truth.over) <= {"water", "shore", "land"}
    assert set(truth.status) <= {"persistent", "growing", "removed"}
    assert ((truth.status == "removed") == truth.removed.notna()).all()
    assert (truth.start > sim.dates[0]).all() and (truth.first_seen <= sim.dates[-3]).all()
    shapes = list(truth.geometry)
    assert all(not a.intersects(b) for i, a in enumerate(shapes) for b in shapes[:i])
    assert not truth.intersects(sim.control.geometry.iloc[0]).any()


def test_seeds_differ_widely():
    sims = [
        simulate(SceneSettings.for_sensor("sentinel-2", s, shape_px=(140, 140), n_dates=4)) for s in range(5)
    ]
    bearings = [np.rad2deg(np.arctan2(*np.subtract(s.axis.coords[1], s.axis.coords[0]))) for s in sims]
    assert np.ptp(bearings) > 40
    assert len({len(s.truth) for s in sims}) > 1
    wet = [float(s.water.mean()) for s in sims]
    assert max(wet) > 1.3 * min(wet)
    firsts = [s.image[0, 0].ravel() for s in sims]
    assert max(abs(np.corrcoef(a, b)[0, 1]) for i, a in enumerate(firsts) for b in firsts[:i]) < 0.9


def test_structures_are_in_the_pixels_when_they_stand_and_not_before(noiseless):
    built, bare = noiseless
    added = np.abs(built.image - bare.image).mean(axis=1)
    assert len(built.truth) >= 5
    for row in built.truth.itertuples():
        inside = coverage(row.geometry, built.transform, built.image.shape[2:]) > 0.6
        stands = (built.dates >= row.first_seen) & (built.dates <= row.last_seen)
        assert inside.any() and stands.any()
        before = added[built.dates < row.first_seen][:, inside]
        after = added[stands][:, inside].mean(axis=1)
        assert before.size == 0 or np.median(before) < 1e-3, row.kind
        assert np.median(after) > 0.02, row.kind


def test_nothing_but_works_and_their_shadows_differs_from_the_bare_scene(noiseless):
    built, bare = noiseless
    reach = built.truth.buffer(60).union_all()
    far = coverage(reach, built.transform, built.image.shape[2:]) == 0
    assert far.mean() > 0.1
    assert np.abs(built.image - bare.image).max(axis=1)[:, far].max() < 1e-3


def test_a_growing_causeway_grows_from_its_bank():
    sim = simulate(replace(SceneSettings(shape_px=(300, 300), n_dates=10), cloudiness=0.0))
    causeway = sim.truth[sim.truth.kind == "causeway"].iloc[0]
    shapes = sim.truth_by_date[sim.truth_by_date.id == causeway.id].sort_values("date").geometry
    areas = shapes.area.to_numpy()
    assert areas[-1] > 1.5 * areas[0] and (np.diff(areas) >= -1e-6).all()
    first, last = shapes.iloc[0], shapes.iloc[-1]
    assert first.difference(last).area < 1e-6 * first.area
    assert causeway.area_m2 == pytest.approx(areas[-1])


def test_quiet_scene_has_no_truth_and_the_same_ground(noiseless):
    built, bare = noiseless
    assert len(bare.truth) == 0 and len(bare.truth_by_date) == 0
    assert list(bare.truth.columns) == list(built.truth.columns)
    assert bare.truth.crs == built.truth.crs
    assert np.array_equal(bare.dates, built.dates) and np.array_equal(bare.water, built.water)


def test_recorded_shift_brings_a_scene_onto_the_grid():
    from scipy.ndimage import shift as moved

    calm = replace(NOISELESS, n_dates=6, build=False)
    still, jittered = simulate(calm), simulate(replace(calm, jitter_px=0.6))
    for k, row in enumerate(jittered.scenes.itertuples()):
        apply = (row.shift_dy_px, row.shift_dx_px)
        raw = jittered.image[k, 0]
        inner = (slice(8, -8), slice(8, -8))
        error = {
            s: np.abs(moved(raw, (s * apply[0], s * apply[1]), order=5) - still.image[k, 0])[inner].mean()
            for s in (-1, 0, 1)
        }
        assert error[1] < 0.25 * min(error[0], error[-1])


def test_shift_can_be_measured_by_correlation():
    from skimage.registration import phase_cross_correlation

    calm = replace(NOISELESS, n_dates=4, build=False)
    still, jittered = simulate(calm), simulate(replace(calm, jitter_px=0.5, read_noise=0.002))
    for k, row in enumerate(jittered.scenes.itertuples()):
        found = phase_cross_correlation(
            still.image[k, 0], jittered.image[k, 0], upsample_factor=50, normalization=None
        )[0]
        np.testing.assert_allclose(found, (row.shift_dy_px, row.shift_dx_px), atol=0.12)


def test_mask_errs_both_ways_and_can_be_made_right():
    cloudy = replace(SMALL, cloudiness=0.3, mask_omission=0.2, mask_commission=0.02)
    sim = simulate(cloudy)
    missed, eaten = (~sim.mask & ~sim.clear).mean(), (sim.mask & sim.clear).mean()
    assert 0.02 < missed / (~sim.clear).mean() < 0.6
    assert 0.002 < eaten < 0.15
    right = simulate(replace(cloudy, mask_omission=0.0, mask_commission=0.0))
    assert np.array_equal(right.mask, ~right.clear)


def test_bright_clear_ground_is_what_the_mask_eats(scene):
    eaten = scene.mask & scene.clear
    assert eaten.any()
    k = int(eaten.sum(axis=(1, 2)).argmax())
    bright = scene.image[k, :3].mean(axis=0)
    assert bright[eaten[k]].mean() > bright[scene.clear[k] & ~eaten[k]].mean() * 1.3


def test_bars_fall_dry_and_the_shoreline_moves():
    swing = simulate(replace(NOISELESS, level_scale=1.0))
    still = simulate(replace(NOISELESS, level_scale=0.0))
    wet = swing.water.mean(axis=(1, 2))
    level = swing.scenes.level_m.to_numpy()
    assert np.ptp(level) > 0.5 and np.ptp(wet) > 0.02
    assert np.corrcoef(np.argsort(np.argsort(wet)), np.argsort(np.argsort(level)))[0, 1] > 0.99
    assert np.ptp(still.water.mean(axis=(1, 2))) < 1e-6


def test_winter_freezes_and_whitens():
    sim = simulate(replace(SMALL, n_dates=16, shape_px=(120, 120), cloudiness=0.0, haze=0.0))
    frozen = sim.scenes.frozen.to_numpy()
    months = sim.dates.astype("datetime64[M]").astype(int) % 12 + 1
    assert frozen.any() and set(months[frozen]) <= {12, 1, 2, 3}
    river = sim.water.min(axis=0) > 0.99
    brightness = sim.image[:, 2][:, river].mean(axis=1)
    assert brightness[frozen].min() > np.median(brightness[~frozen])
    assert not simulate(replace(SMALL, winter=0.0, n_dates=8, shape_px=(80, 80))).scenes.frozen.any()


def test_the_control_does_not_change(scene):
    assert len(scene.control) == 1 and scene.control.geometry.iloc[0].area > 300
    assert not set(scene.distractors.kind) & set(scene.truth.kind)


def test_coverage_of_a_known_rectangle_is_exact():
    shape = box(503.0, 893.5, 510.5, 897.0)  # columns 1.5 to 5.25, rows 1.5 to 3.25
    expected = np.outer([0, 0.5, 1, 0.25, 0, 0], [0, 0.5, 1, 1, 1, 0.25, 0]).astype(np.float32)
    got = coverage(shape, GRID, (6, 7))
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, expected)


def test_coverage_outside_the_grid_and_of_nothing():
    from shapely import LineString, Polygon

    assert not coverage(box(0, 0, 10, 10), GRID, (5, 5)).any()
    assert not coverage(Polygon(), GRID, (5, 5)).any()
    assert not coverage(LineString([(501, 899), (505, 895)]), GRID, (5, 5)).any()
    assert coverage(box(0, 0, 2000, 2000), GRID, (5, 5)).min() == 1
    with pytest.raises(SettingError, match="oversample"):
        coverage(box(0, 0, 1, 1), GRID, (5, 5), oversample=0)


@settings(max_examples=25, deadline=None)
@given(
    turn=st.floats(0, 90),
    x=st.floats(515, 520),
    y=st.floats(880, 885),
    long=st.floats(1, 14),
    wide=st.floats(1, 6),
)
def test_coverage_keeps_the_area(turn, x, y, long, wide):
    shape = rotate(box(x, y, x + long, y + wide), turn)
    total = float(coverage(shape, GRID, (20, 30)).sum()) * 4
    assert total == pytest.approx(shape.area, abs=shape.length * GRID.a / 16 + 1e-6)


@settings(max_examples=25, deadline=None)
@given(dy=st.floats(-1, 1), dx=st.floats(-1, 1), fwhm=st.floats(0, 3))
def test_rendering_keeps_the_sum_and_the_place(dy, dx, fwhm):
    image = np.full((2, 31, 33), 0.1, dtype=np.float32)
    cover = np.zeros((31, 33), dtype=np.float32)
    cover[14:17, 15:18] = [[0.2, 0.5, 0.2], [0.6, 1, 0.6], [0.2, 0.5, 0.2]]
    image.setflags(write=False)
    cover.setflags(write=False)
    out = render_structure(image, cover, np.array([0.3, 0.05]), fwhm, (dy, dx))
    added = (out - image).astype(np.float64)
    np.testing.assert_allclose(added.sum(axis=(1, 2)), cover.sum() * np.array([0.2, -0.05]), rtol=1e-3)
    if fwhm > 1:
        rows, cols = np.mgrid[:31, :33]
        place = [(added[0] * axis).sum() / added[0].sum() for axis in (rows, cols)]
        np.testing.assert_allclose(place, (15 + dy, 16 + dx), atol=0.02)


def test_rendering_full_cover_without_blur_is_the_material_and_nan_stays():
    image = np.full((1, 9, 9), 0.2, dtype=np.float32)
    image[0, 0, 0] = np.nan
    cover = np.ones((9, 9), dtype=np.float32)
    cover[0, 0] = 0.5
    out = render_structure(image, cover, np.array([0.4]), 0.0)
    assert np.isnan(out[0, 0, 0])
    np.testing.assert_allclose(out[0, 1:], 0.4, rtol=1e-5)
    np.testing.assert_array_equal(
        render_structure(image, np.zeros((9, 9), np.float32), np.array([0.4]), 1.0), image
    )


def test_rendering_at_the_edge_loses_only_what_falls_outside():
    image = np.zeros((1, 12, 12), dtype=np.float32)
    cover = np.zeros((12, 12), dtype=np.float32)
    cover[0, 5] = 1.0
    out = render_structure(image, cover, np.array([1.0]), 1.5)
    assert 0.5 < out.sum() < 0.9


def test_rendering_refuses_shapes_that_do_not_fit():
    with pytest.raises(SettingError, match="do not fit"):
        render_structure(np.zeros((2, 5, 5), np.float32), np.zeros((5, 4), np.float32), np.zeros(2), 1.0)


@pytest.mark.parametrize(
    "change",
    [
        {"gsd_m": -1}, {"n_dates": 1}, {"cloudiness": 2.0}, {"bands": ()}, {"bands": ("red", "red")},
        {"bands": ("ultraviolet",)}, {"start": "soon"}, {"end": "2023-04-20"}, {"layout": "moon"},
        {"shape_px": (10, 400)}, {"river_width_m": (300.0, 100.0)}, {"jitter_px": "half"},
    ],
)  # fmt: skip
def test_settings_that_cannot_be_rendered_are_refused(change):
    with pytest.raises(ChangedetError, match=r"wanted|unknown setting"):
        SceneSettings(**change)


def test_sensor_presets_are_named_and_nearest_name_is_offered():
    assert SceneSettings.for_sensor("sentinel-2", 1).gsd_m == 10
    assert SceneSettings.for_sensor("planet", 1, n_dates=9).n_dates == 9
    with pytest.raises(SettingError, match="planet"):
        SceneSettings.for_sensor("plannet", 1)
    with pytest.raises(SettingError, match="cloudiness"):
        SceneSettings.for_sensor("planet", 1, cloudines=0.1)


def test_other_bands_can_be_asked_for():
    sim = simulate(
        replace(SMALL, bands=("nir", "swir16", "green"), n_dates=3, shape_px=(80, 80), cloudiness=0.0)
    )
    assert sim.image.shape == (3, 3, 80, 80)
    assert list(sim.scenes.filter(like="gain_")) == ["gain_nir", "gain_swir16", "gain_green"]
