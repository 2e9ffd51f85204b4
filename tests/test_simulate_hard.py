"""Hard mode: every ingredient is there, alone does only its own work, and leaves ordinary scenes alone."""

from dataclasses import replace

import numpy as np
import pytest

from changedet.demo import write_scenes
from changedet.errors import ChangedetError
from changedet.io.products import find_scenes
from changedet.simulate import SceneSettings, coverage, simulate
from changedet.simulate._camera import response
from changedet.simulate._spectra import spectrum

PLAIN = SceneSettings.for_sensor("planet", 3, shape_px=(160, 160), n_dates=10)
CALM = replace(
    PLAIN, cloudiness=0.0, haze=0.0, jitter_px=0.0, calibration_error=0.0, read_noise=0.0, shot_noise=0.0,
    winter=0.0, boats=0.0, stockpiles=0.0, build=False,
)  # fmt: skip
HARD = SceneSettings.for_sensor("planet", 3, hard=True, shape_px=(160, 160))
DAY = np.timedelta64(1, "D")

# Of the scene PLAIN, as it was before hard mode came.
ORDINARY = {
    "sum": 2160608674,
    "pixel": [
        [1011, 1204, 1334, 909],
        [972, 1265, 1411, 836],
        [786, 860, 710, 525],
        [4076, 4306, 3858, 2737],
        [754, 994, 817, 626],
        [5575, 5587, 5461, 4414],
        [6093, 6206, 6118, 5893],
        [993, 1260, 1417, 879],
        [3868, 4042, 3807, 2741],
        [456, 668, 545, 292],
    ],
    "flagged": 62689,
    "dates": ["2023-04-17T02:08", "2023-08-04T02:00", "2023-10-14T02:03"],
    "kinds": {"pier": 3, "abutment": 2, "causeway": 1, "cofferdam": 1},
    "area_m2": 2053.9306,
    "distractors": 52,
}


@pytest.fixture(scope="module")
def calm():
    return simulate(CALM)


@pytest.fixture(scope="module")
def hard():
    return simulate(HARD)


def inside(sim, shapes, reach_m=0.0):
    """Share of each pixel that shapes (grown by `reach_m`) cover."""
    import shapely

    shape = shapely.union_all([one.buffer(reach_m) for one in shapes])
    return coverage(shape, sim.transform, sim.image.shape[2:])


def test_an_ordinary_scene_is_what_it_was_before_there_was_a_hard_mode():
    sim = simulate(PLAIN)
    stored = np.round(sim.image * 1e4).astype(np.int64)
    # to the last count; the slack is for the rounding of another processor's Fourier transform
    assert abs(int(stored.sum()) - ORDINARY["sum"]) <= 50
    np.testing.assert_allclose(stored[:, :, 40, 75], ORDINARY["pixel"], atol=1)
    assert int(sim.mask.sum()) == pytest.approx(ORDINARY["flagged"], abs=5)
    assert [str(d)[:16] for d in sim.dates[:3]] == ORDINARY["dates"]
    assert sim.truth.kind.value_counts().to_dict() == ORDINARY["kinds"]
    assert float(sim.truth.area_m2.sum()) == pytest.approx(ORDINARY["area_m2"], abs=0.01)
    assert len(sim.distractors) == ORDINARY["distractors"]


def test_equal_settings_give_equal_hard_scenes_to_the_bit(hard):
    again = simulate(HARD)
    assert np.array_equal(hard.image, again.image) and np.array_equal(hard.mask, again.mask)
    assert hard.truth.equals(again.truth) and hard.distractors.equals(again.distractors)


def test_the_preset_turns_everything_on_and_takes_changes():
    for name in ("submetre", "planet", "sentinel-2"):
        one = SceneSettings.for_sensor(name, 1, hard=True)
        plain = SceneSettings.for_sensor(name, 1)
        for knob in ("individuality", "land_events", "land_works", "dem_error_m", "warp_px", "psf_spread",
                     "hour_spread_h", "second_sensor", "bars", "bank_erosion_m", "moored", "river_works",
                     "debris", "thin_missed", "mask_eaten", "mask_shift_px", "mask_missing",
                     "clustering"):  # fmt: skip
            assert getattr(one, knob) > 0 == getattr(plain, knob), knob
        assert 12 <= one.n_dates <= 18
    assert SceneSettings.for_sensor("planet", 1, hard=True, bars=0.0, n_dates=9).n_dates == 9


@pytest.mark.parametrize(
    "change",
    [
        {"bars": -1.0},
        {"clustering": 1.5},
        {"second_gsd_ratio": 0.5},
        {"sensors": ("a",)},
        {"sensors": (1, 2)},
    ],
)
def test_hard_settings_that_cannot_be_rendered_are_refused(change):
    with pytest.raises(ChangedetError, match="wanted"):
        SceneSettings(**change)


def test_without_works_the_rest_is_the_same():
    settings = replace(HARD, stockpiles=0.0, seed=5)
    built, bare = simulate(settings), simulate(replace(settings, build=False))
    assert len(built.truth) >= 5 and len(bare.truth) == 0
    assert np.array_equal(built.water, bare.water) and np.array_equal(built.clear, bare.clear)
    far = inside(built, built.truth_by_date.geometry, 60) == 0
    assert far.mean() > 0.1
    assert np.abs(built.image - bare.image).max(axis=1)[:, far].max() < 2e-3
    kinds = [k for k in bare.distractors.kind.unique() if k != "masked"]
    for kind in kinds:
        ours, theirs = (s.distractors[s.distractors.kind == kind].reset_index() for s in (built, bare))
        assert ours.geometry.equals(theirs.geometry), kind


def test_no_pixel_has_a_near_twin(calm):
    grainy = simulate(replace(CALM, individuality=1.0))

    def twins(sim):
        """Median distance of history to the nearest other pixel of land; how ill 24 such predict the rest."""
        from scipy.spatial import cKDTree

        land = sim.water.max(axis=0) == 0
        series = np.log(sim.image[:, :, land] + 0.02).transpose(2, 0, 1)
        some = series[np.random.default_rng(0).permutation(len(series))[:2500]]
        history = some[:, :4].reshape(2500, -1)
        distance, near = cKDTree(history).query(history, k=25)
        error = some[:, 4:] - np.median(some[near[:, 1:], 4:], axis=1)
        return float(np.median(distance[:, 1])), float(np.median(np.abs(error)))

    (plain, plain_error), (own, own_error) = twins(calm), twins(grainy)
    assert own > 1.4 * plain and own_error > 1.3 * plain_error
    broad = [s.image[0, 2] / s.image[0, 2].mean() for s in (calm, grainy)]
    assert broad[1].std() < 3 * broad[0].std()  # still a landscape, no noise


def test_pixels_drift_on_their_own():
    grainy = simulate(replace(CALM, individuality=1.0, n_dates=20))
    bare = grainy.water.max(axis=0) == 0
    level = np.log(grainy.image[:, 2][:, bare])
    level -= np.median(level, axis=1, keepdims=True)
    doy = np.array([(d - d.astype("datetime64[Y]")) / DAY for d in grainy.dates])
    years = (grainy.dates - grainy.dates[0]) / DAY / 365
    apart = [
        (years[j] - years[i], float(np.std(level[j] - level[i])))
        for i in range(20) for j in range(i) if abs(doy[i] - doy[j]) < 15
    ]  # fmt: skip
    assert apart and min(sd for _, sd in apart) > 0.02


def test_land_changes_where_it_is_listed_and_nowhere_else(calm):
    sim = simulate(replace(CALM, land_events=25.0))
    names = {"plowed", "clearing", "burn", "part-harvest", "pond", "roadworks", "repainted"}
    listed = sim.distractors[sim.distractors.kind.isin(names)]
    assert len(listed) >= 10 and listed.kind.nunique() >= 4 and len(sim.truth) == 0
    moved = np.abs(sim.image - calm.image).max(axis=1)
    assert moved[:, inside(sim, listed.geometry, 35) == 0].max() < 2e-3
    shown = 0
    for row in listed.itertuples():
        core = inside(sim, [row.geometry]) > 0.9
        on = (sim.dates >= row.first_date) & (sim.dates <= row.last_date)
        shown += bool(core.any() and moved[on][:, core].mean() > 0.01)
    assert shown >= 0.5 * len(listed)


def test_geometry_differs_from_scene_to_scene(calm):
    from skimage.registration import phase_cross_correlation

    settings = replace(CALM, warp_px=0.6, dem_error_m=6.0, view_zenith_deg=15.0)
    bent, flat = simulate(settings), simulate(replace(settings, warp_px=0.0, dem_error_m=0.0))

    def spread(one, other):
        """Largest difference between the shifts of four corners, px, per scene."""
        out = []
        for k in range(len(one.dates)):
            corners = [
                phase_cross_correlation(other[k, 0][w], one.image[k, 0][w], upsample_factor=20,
                                        normalization=None)[0]
                for w in ((slice(0, 80), slice(0, 80)), (slice(0, 80), slice(80, 160)),
                          (slice(80, 160), slice(0, 80)), (slice(80, 160), slice(80, 160)))
            ]  # fmt: skip
            out.append(np.ptp(corners, axis=0).max())
        return np.array(out)

    assert np.median(spread(bent, flat.image)) > 0.3
    assert np.array_equal(bent.water, flat.water)  # the truth stays on the ground


def test_blur_and_hour_differ_from_scene_to_scene():
    sim = simulate(replace(CALM, psf_spread=0.2, clustering=0.5, hour_spread_h=1.5))
    assert 0.1 < sim.scenes.psf_fwhm_px.std() / sim.scenes.psf_fwhm_px.mean() < 0.4
    hours = (sim.dates - sim.dates.astype("datetime64[D]")) / np.timedelta64(1, "h")
    assert np.ptp(hours) > 1.0
    assert simulate(CALM).scenes.psf_fwhm_px.nunique() == 1


def test_a_second_sensor_sees_coarser_and_other_colors(calm):
    settings = replace(CALM, second_sensor=0.5, second_gsd_ratio=2.5, sensors=("planetscope", "cbers"))
    sim = simulate(settings)
    second = (sim.scenes.sensor == "cbers").to_numpy()
    assert 2 <= second.sum() <= 8 and set(sim.scenes.sensor) == {"planetscope", "cbers"}
    assert (sim.scenes.gsd_m[second] == 7.5).all() and (sim.scenes.gsd_m[~second] == 3.0).all()
    assert list(sim.dataset().sensor.values) == list(sim.scenes.sensor)
    assert np.array_equal(sim.image[~second], calm.image[~second])
    detail = [np.abs(np.diff(s.image[second, 3], axis=2)).mean() for s in (sim, calm)]
    assert detail[0] < 0.75 * detail[1]
    matrix, offset = response(settings)
    ratio = {
        name: (matrix @ spectrum(name, settings.bands) + offset) / spectrum(name, settings.bands)
        for name in ("crop_green", "sand")
    }
    assert np.abs(ratio["crop_green"] - ratio["sand"]).max() > 0.05  # no gain and offset take it away
    assert np.abs(ratio["sand"] - 1).max() < 0.3


def test_bars_and_banks_move_where_they_are_listed():
    still = replace(CALM, level_scale=0.0, n_dates=14)
    before, sim = simulate(still), simulate(replace(still, bars=10.0, bank_erosion_m=6.0))
    assert np.ptp(before.water, axis=0).max() < 1e-6
    moved = np.ptp(sim.water, axis=0) > 0.5
    assert 0.005 < moved.mean() < 0.3
    listed = sim.distractors
    assert {"bar", "bank-erosion", "bank-growth"} <= set(listed.kind)
    assert (inside(sim, listed.geometry, 6)[moved] > 0).mean() > 0.9
    bars = listed[listed.kind == "bar"]
    assert (bars.last_date > bars.first_date).any() and not (bars.first_date == sim.dates[0]).all()


def test_barges_stay_two_to_four_scenes_and_leave(calm):
    sim = simulate(replace(CALM, moored=12.0, debris=30.0))
    barges = sim.distractors[sim.distractors.kind == "barge"]
    assert len(barges) >= 4
    index = {d: k for k, d in enumerate(sim.dates)}
    stays = [index[b] - index[a] + 1 for a, b in zip(barges.first_date, barges.last_date, strict=True)]
    assert max(stays) >= 2 and max(stays) <= 4
    moved = np.abs(sim.image - calm.image).max(axis=1)
    for row in barges.itertuples():
        core = inside(sim, [row.geometry]) > 0.9
        there = moved[index[row.first_date] : index[row.last_date] + 1][:, core]
        assert there.size == 0 or there.mean() > 0.02
    assert "driftwood" in set(sim.distractors.kind)
    assert moved[:, inside(sim, sim.distractors.geometry, 20) == 0].max() < 2e-3


def test_masks_are_wrong_both_ways_and_some_are_missing():
    cloudy = replace(PLAIN, cloudiness=0.3, mask_omission=0.05, mask_commission=0.0, seed=8, n_dates=14)
    plain = simulate(cloudy)

    def rates(sim):
        given = sim.scenes.has_mask.to_numpy()
        mask, clear = sim.mask[given], sim.clear[given]
        return (~mask & ~clear).sum() / (~clear).sum(), (mask & clear).sum() / clear.sum()

    missed, taken = rates(plain)
    assert missed < 0.12 and taken == 0
    thin = simulate(replace(cloudy, thin_missed=1.0))
    assert rates(thin)[0] > 2 * missed and rates(thin)[1] == 0
    eaten = simulate(replace(cloudy, mask_eaten=0.3))
    assert 0.005 < rates(eaten)[1] < 0.3
    wrong = (eaten.mask & eaten.clear).sum(axis=0)
    where = inside(eaten, eaten.distractors[eaten.distractors.kind == "masked"].geometry) > 0.5
    assert where.any() and wrong[where].min() >= 3  # in the same place again and again
    bright = eaten.image[:, :3].mean(axis=1)
    assert np.median(bright[eaten.mask & eaten.clear]) > 1.3 * np.median(bright[eaten.clear])
    moved = simulate(replace(cloudy, mask_shift_px=2.0))
    assert rates(moved)[0] > missed and rates(moved)[1] > 0
    some = simulate(replace(cloudy, mask_missing=0.4))
    none = ~some.scenes.has_mask.to_numpy()
    assert none.any() and not none.all() and not some.mask[none].any()
    for sim in (thin, eaten, moved, some):
        assert np.array_equal(sim.image, plain.image) and np.array_equal(sim.clear, plain.clear)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_dates_are_few_and_uneven_with_months_between(seed):
    settings = SceneSettings.for_sensor("sentinel-2", seed, hard=True, shape_px=(40, 40))
    dates = simulate(settings).dates
    gaps = np.diff(dates) / DAY
    assert 12 <= len(dates) <= 18 and gaps.min() > 4
    assert gaps.max() > 90 and gaps.max() > 3 * np.median(gaps)
    end = np.datetime64(settings.end)
    assert dates[-1] <= end + 2 * DAY and (end - dates[-1]) / DAY < 60


def test_truth_of_a_hard_scene_is_exact_and_listed_apart(hard):
    sim = simulate(replace(HARD, land_works=12.0, river_works=6.0, shape_px=(260, 260)))
    truth = sim.truth
    assert {"building", "pontoon", "unknown"} <= set(truth.kind)
    assert (truth.last_absent < truth.start).all() and (truth.start <= truth.first_seen).all()
    assert (truth.first_seen <= sim.dates[-3]).all() and (
        (truth.status == "removed") == truth.removed.notna()
    ).all()
    shapes = list(truth.geometry)
    assert all(not a.intersects(b) for i, a in enumerate(shapes) for b in shapes[:i])
    assert not truth.intersects(sim.control.geometry.iloc[0]).any()
    assert (truth[truth.kind == "building"].over == "land").all()
    assert not set(truth.kind) & set(sim.distractors.kind)
    bare = simulate(replace(HARD, land_works=12.0, river_works=6.0, shape_px=(260, 260), build=False))
    added = np.abs(sim.image - bare.image).mean(axis=1)
    seen = 0
    for row in truth.itertuples():
        core = inside(sim, [row.geometry]) > 0.6
        before, after = added[sim.dates < row.first_seen][:, core], added[sim.dates == row.last_seen][:, core]
        assert not core.any() or np.median(before) < 5e-3, row.kind
        seen += bool(core.any() and np.median(after) > 0.01)
    assert seen >= 0.7 * len(truth)


def test_a_pontoon_is_towed_when_it_is_towed():
    sim = simulate(replace(CALM, build=True, river_works=9.0, n_dates=16, shape_px=(200, 200)))
    pontoons = sim.truth[sim.truth.kind == "pontoon"]
    size = pontoons.area_m2.round(0).mode()[0]
    pontoons = pontoons[pontoons.area_m2.round(0) == size].sort_values("start")
    follows = [
        any(0 < (b.start - a.removed) / DAY < 40 for a in pontoons.itertuples() if a.status == "removed")
        for b in pontoons.itertuples()
    ]
    assert any(follows)


def test_files_of_a_hard_scene_are_recognised(hard, tmp_path):
    paths = write_scenes(hard, tmp_path)
    given = [p.with_name(f"{p.stem}_mask.tif").is_file() for p in paths]
    assert given == list(hard.scenes.has_mask) and not all(given)
    scenes = find_scenes([tmp_path])
    assert [s.sensor for s in scenes] == list(hard.scenes.sensor)
    assert {s.sensor for s in scenes} == {"planetscope", "cbers"}
    assert [s.id for s in scenes] == list(hard.scene_names())
    assert all(s.scale == pytest.approx(1e-4) and s.physical for s in scenes)
