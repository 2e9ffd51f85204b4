"""Structures put into scenes: the pixels they give, what is found of them, and what that says of sizes."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine
from rio_cogeo.cogeo import cog_validate
from typer.testing import CliRunner

from changedet import detector
from changedet.cli import app
from changedet.errors import InputError, SettingError, TooFewScenesError
from changedet.grid import Grid, attach
from changedet.io.raster import write_cog
from changedet.pipeline import Plan
from changedet.pipeline import _injection as injection
from changedet.pipeline import _quick as quick
from changedet.pipeline._pixels import Pixels
from changedet.pipeline._recovery import (
    CSV,
    Outcome,
    cells,
    exponent,
    fit_curve,
    smallest,
    wilson,
)
from changedet.pipeline._work import Clock
from changedet.pipeline._work import quiet as hushed
from changedet.pipeline.run import detect, prepare, search
from changedet.scenes import make_stack
from changedet.sensitivity import FILES, sensitivity
from changedet.simulate import BANDS as SPECTRAL
from changedet.simulate import MATERIALS, coverage, reflectance, render_structure, spectrum, structure_share
from changedet.steps.report import limit

BANDS = ("blue", "green", "red", "nir")
GRID = Grid.make("EPSG:32652", Affine(10, 0, 600_000, 0, -10, 4_700_000), (100, 100))
TIMES = 10
DATES = np.datetime64("2024-01-10") + np.arange(TIMES) * np.timedelta64(33, "D")
COLORS = np.array([(0.06, 0.07, 0.05, 0.02), (0.10, 0.12, 0.16, 0.22)])
BUILT = (slice(20, 26), slice(20, 26))
SET = ["detector.sample_px=3000", "sensitivity.psf_fwhm_px=1"]
PLAN = Plan().with_set(SET)


def values(seed=0, built=True):
    """Reflectance of water beside soil with a few bright roofs; a square of concrete from date 5 on."""
    rng = np.random.default_rng(seed)
    which = np.zeros(GRID.shape, int)
    which[:, 50:] = 1
    base = COLORS[which].transpose(2, 0, 1) * rng.normal(1, 0.06, (1, *GRID.shape))
    base[:, 60:66, 80:90] = 0.3
    image = base * rng.normal(1, 0.03, (TIMES, 4, 1, 1)) * rng.normal(1, 0.03, (TIMES, 4, *GRID.shape))
    if built:
        image[(slice(5, None), slice(None), *BUILT)] = 0.31
    return image.astype(np.float32)


def stack_of(image, bands=BANDS):
    return make_stack(image, GRID, dates=DATES[: len(image)], bands=bands)


def found_in(stack, plan=PLAN):
    return search(prepare(stack, plan, Clock(), hushed), plan, Clock(), hushed)


@pytest.fixture(scope="module")
def ground():
    """A finished detection with one structure of its own."""
    return injection.ground(found_in(stack_of(values())), 1.0)


def trial_of(ground, *, side=40.0, middle=(60.0, 20.0), onset=6, material="concrete"):
    kind = injection.Kind("water", side, "block", material, onset)
    return injection.make_trial(kind, ground, middle, np.random.default_rng(0))


# ------------------------------------------------------------------------------------------------ pixels


def test_pixels_are_mixed_by_how_much_is_covered():
    image = np.full((3, 2, 9, 9), 0.1, np.float32)
    image[2, :, 4, 4] = np.nan
    kind = injection.Kind("land", 15.0, "block", "concrete", 1)
    outline = injection.rectangle((4.5, 4.75), 1.5, 1.0, 0.0)  # x 4.0 to 5.5, y 3.75 to 5.25
    look = injection.Light(("blue", "red"), np.ones((3, 2), np.float32), np.ones(2, np.float32), True)
    trial = injection.Trial(kind, outline, 1.0, np.ones(3), np.array([4]), np.array([4]))
    whole = (slice(0, 9), slice(0, 9))
    out = injection.inject(image, [trial], whole, look, shifts=[(0.0, 0.0)] * 3, psf_px=0.0)
    concrete = spectrum("concrete", ("blue", "red"))
    share = np.zeros((9, 9))
    share[3:6, 4:6] = np.outer((0.25, 1, 0.25), (1, 0.5))
    expected = 0.1 + share * (concrete[:, None, None] - 0.1)
    np.testing.assert_allclose(out[1], expected, atol=1e-6)
    np.testing.assert_array_equal(out[0], image[0])
    assert np.isnan(out[2, :, 4, 4]).all() and np.isfinite(out[2]).sum() == 2 * 80
    assert image[1].max() == np.float32(0.1)


def test_a_scene_that_lies_off_gets_the_structure_off():
    image = np.full((2, 1, 21, 21), 0.1, np.float32)
    kind = injection.Kind("land", 20.0, "block", "concrete", 0)
    outline = injection.rectangle((10.5, 10.5), 3.0, 1.0, 0.0)
    look = injection.Light(("red",), np.ones((2, 1), np.float32), np.ones(1, np.float32), True)
    trial = injection.Trial(kind, outline, 1.0, np.ones(2), np.array([10]), np.array([10]))
    whole = (slice(0, 21), slice(0, 21))
    out = injection.inject(image, [trial], whole, look, shifts=[(0.0, 0.0), (2.0, -3.0)], psf_px=1.2)
    np.testing.assert_allclose(np.roll(out[0, 0], (2, -3), (0, 1)), out[1, 0], atol=5e-4)
    assert (out - image).sum() == pytest.approx(2 * 9 * (spectrum("concrete", ("red",))[0] - 0.1), rel=1e-3)


def test_a_share_of_blurred_pixels_renders_what_the_simulator_renders():
    cover = coverage(injection.rectangle((8.3, 7.1), 3.0, 2.5, 33), Affine.identity(), (16, 16))
    image = np.random.default_rng(1).uniform(0, 0.4, (2, 16, 16)).astype(np.float32)
    material = np.array([0.3, 0.5], np.float32)
    share = structure_share(cover, 1.3, (0.2, -0.4))
    rendered = render_structure(image, cover, material, 1.3, (0.2, -0.4))
    np.testing.assert_allclose(rendered, image * (1 - share) + material[:, None, None] * share, atol=1e-6)
    assert share.sum() == pytest.approx(cover.sum(), rel=1e-3)


def test_materials_are_known_by_wavelength():
    for name in MATERIALS:
        np.testing.assert_allclose(reflectance(name, SPECTRAL), spectrum(name, SPECTRAL))
    red, edge, infrared = reflectance("concrete", ("rededge1", "rededge2", "nir"))
    assert red < edge < infrared
    assert np.isnan(reflectance("concrete", ("b7", "vv"))).all()


def test_dates_of_haze_make_materials_as_they_make_bright_ground():
    image = values(built=False)
    image[3] *= 0.5
    model = found_in(stack_of(values(built=False))).model
    look = injection.light(Pixels(stack_of(image).image), BANDS, model)
    assert look.calibrated and look.gain.shape == (TIMES, 4)
    assert np.median(look.gain[3]) == pytest.approx(0.5, abs=0.05)
    assert np.median(look.gain) == pytest.approx(1, abs=0.05)
    odd = injection.light(Pixels(stack_of(image * 100).image), BANDS, model)
    assert not odd.calibrated
    np.testing.assert_allclose(odd.spectrum("concrete"), odd.level, rtol=1e-6)
    assert (odd.spectrum("steel") < 0.6 * odd.level).all()


def test_tiles_of_what_is_not_in_memory_give_the_same_windows():
    image = xr.DataArray(np.arange(2 * 70 * 90.0).reshape(2, 70, 90), dims=("t", "y", "x"))
    lazy = Pixels(image.chunk({"y": 30}), tile_px=32, kept_bytes=1)
    for window in (
        (slice(0, 70), slice(0, 90)),
        (slice(30, 66), slice(60, 90)),
        (slice(5, 6), slice(31, 33)),
    ):
        np.testing.assert_array_equal(lazy.read(window), image.values[(..., *window)])
    assert len(lazy.kept) <= 4
    np.testing.assert_array_equal(lazy.sample(500), Pixels(image, tile_px=32).sample(500))


# ------------------------------------------------------------------------------------------------ places


def own_pixels(one):
    out = np.zeros(GRID.shape, bool)
    out[one.candidate.rows, one.candidate.columns] = True
    return out


def test_structures_keep_apart_from_each_other_and_from_what_was_found(ground):
    found = ground.found
    (own,) = [o for o in found.objects if o.verdict.status is not None]
    assert {20, 25} <= set(own.candidate.rows.tolist())
    wanted = [injection.Kind(over, 30.0, "pier", "concrete", 5) for over in ("water", "land") * 30]
    gap = injection.gap_px(ground.model)
    room = injection.free(found, gap)
    trials = list(injection.place(wanted, room, ground, np.random.default_rng(0)))
    assert len(trials) > 10 and {t.kind.over for t in trials} == {"water", "land"}
    pixels = [np.stack([t.rows, t.columns], axis=1) for t in trials] + [np.argwhere(own_pixels(own))]
    for i, a in enumerate(pixels):
        for b in pixels[:i]:
            assert np.abs(a[:, None] - b[None]).max(axis=2).min() > gap
    for t in trials:
        stratum = found.maps.stratum[t.rows, t.columns]
        assert (stratum == (0 if t.kind.over == "water" else 2)).mean() >= 0.6


def test_patches_see_what_the_whole_job_sees(ground):
    """The quick way gives the evidence that the detector's own maps have when the structure is there."""
    trial, found = trial_of(ground), ground.found
    whole = (slice(0, 100), slice(0, 100))
    pixels, _ = injection.injected_window(ground, [trial], whole)
    changed = found.stack.assign(image=found.stack.image.copy(data=pixels))
    maps = detector.scan(changed, ground.model)
    (outcome,) = quick.Bench(ground, PLAN).outcomes([trial])
    assert outcome.recovered and outcome.status == "persistent" and outcome.date_hit
    near = (
        slice(trial.rows.min(), trial.rows.max() + 1),
        slice(trial.columns.min(), trial.columns.max() + 1),
    )
    outer = (slice(40, 80), slice(0, 40))
    patch = injection.injected_window(ground, [trial], outer)
    evidence = detector.evidence(ground.model, *patch, outer)
    trim = tuple(slice(s.start - o.start, s.stop - o.start) for s, o in zip(near, outer, strict=True))
    step = detector.steps(evidence, ground.model, trim)
    z = detector.in_null_units(step.score, found.maps.stratum[near], maps.nulls)
    np.testing.assert_allclose(z, maps.z[near], rtol=1e-4)


def test_what_has_no_contrast_is_not_found(ground):
    water = np.nanmedian(ground.found.native.image.values[..., :50], axis=(2, 3))
    usual = np.median(water, axis=0)
    dull = injection.Light(BANDS, (water / usual).astype(np.float32), usual, True)
    object.__setattr__(dull, "spectrum", lambda material: usual)
    rng = np.random.default_rng(3)
    kinds = [injection.Kind("water", 40.0, "block", "concrete", 5)] * 20
    room = injection.free(ground.found, injection.gap_px(ground.model))
    trials = list(injection.place(kinds, room, ground, rng))
    plain = [t.__class__(t.kind, t.outline, 1.0, np.ones(TIMES), t.rows, t.columns) for t in trials]
    same = ground.__class__(**{**vars(ground), "look": dull})
    assert len(plain) >= 6
    assert not any(o.recovered for o in quick.Bench(same, PLAN).outcomes(plain))
    assert all(o.recovered for o in quick.Bench(ground, PLAN).outcomes(trials))


# ------------------------------------------------------------------------------------------------ curves


def test_wilson_interval():
    low, high = wilson(0, 10)
    assert low == 0 and high == pytest.approx(0.2775, abs=1e-3)
    assert wilson(0, 0) == (0, 1)


def outcomes_of(middle, slope, n=200, seed=0, ceiling=1.0):
    rng = np.random.default_rng(seed)
    area = np.repeat(np.geomspace(10, 10_000, 7), n // 7)
    rate = ceiling / (1 + np.exp(-slope * (np.log(area) - np.log(middle))))
    return area, rng.random(area.size) < rate


def test_the_smallest_size_is_that_of_the_curve_the_outcomes_came_from():
    covered = 0
    for seed in range(20):
        size, _ = smallest(*outcomes_of(200, 2.0, seed=seed), 0.9)
        truth = 200 * np.exp(np.log(9) / 2)
        assert size.m2 == pytest.approx(truth, rel=0.6)
        covered += size.low_m2 <= truth and (size.high_m2 is None or truth <= size.high_m2)
    assert covered >= 16
    curve = fit_curve(*outcomes_of(200, 2.0))
    assert (np.diff(curve.rate(np.geomspace(10, 10_000, 30))) >= 0).all()


def test_a_size_that_is_never_reached_is_not_made_up():
    size, _ = smallest(*outcomes_of(200, 2.0, ceiling=0.7), 0.9)
    assert size.m2 is None and "whatever the size" in size.why and "10000 m²" in size.why
    few, curve = smallest(np.array([10.0, 20.0]), np.array([True, True]), 0.9)
    assert few.m2 is None and curve is None and "only 2" in few.why
    everything, _ = smallest(np.repeat([10.0, 100.0], 30), np.ones(60, bool), 0.9)
    assert everything.m2 == 10


def test_the_exponent_says_how_size_follows_clarity():
    rng = np.random.default_rng(5)
    area = np.repeat(np.geomspace(0.1, 10, 7), 60)
    clarity = np.exp(rng.normal(0, 0.7, area.size))
    for truth in (0.0, 1.0):
        rate = 1 / (1 + np.exp(-3 * (np.log(area) + truth * np.log(clarity))))
        assert exponent(area, rng.random(area.size) < rate, clarity) == pytest.approx(truth, abs=0.3)


def test_cells_hold_every_structure_once():
    one = injection.Kind("water", 20.0, "block", "concrete", 5)
    other = injection.Kind("land", 20.0, "block", "concrete", 5)
    outcomes = [
        Outcome(one, True, "persistent", True, 33.0),
        Outcome(one, False, missed="phenology"),
        Outcome(other, False),
    ]
    land, water = cells(outcomes, DATES, [f"s{i}" for i in range(TIMES)])
    assert tuple(water) == CSV
    assert (water["n"], water["recovered"], water["rate"], water["date_hit"]) == (2, 1, 0.5, 1.0)
    assert (water["size_m2"], water["n_after"], water["scene"], water["unresolved"]) == (400, 5, "s5", 0)
    assert water["missed"] == "phenology 1" and land["missed"] == "no evidence 1"
    assert land["n"] == 1 and land["date_hit"] is None


# ------------------------------------------------------------------------------------------------ the job


def test_a_run_states_the_smallest_size():
    plan = PLAN.with_set(["sensitivity.sides_m=[1,6,20,60]"])
    result = detect(stack_of(values()), plan=plan)
    sizes, said = result.record["min_detectable_m2"], result.record["sensitivity"]
    assert said["target"] == 0.9 and said["material"] == "concrete" and set(sizes) == {"water", "land"}
    assert all(1 < size < 3600 for size in sizes.values())
    (row,) = result.structures.itertuples()
    assert row.over == "water" and row.min_detectable_m2 == sizes["water"]
    assert detect(stack_of(values()), plan=plan).record["sensitivity"] == said
    for name in sizes:
        share = [r["recovered"] / r["n"] for r in said["strata"][name]["by_size"]]
        assert share[0] < 0.5 and share[-1] == 1
    assert said["strata"].get("shore", {"m2": None})["m2"] is None


def test_the_words_of_a_run_say_how_sure_the_size_is():
    strata = {
        "water": {"m2": 40.0, "low_m2": 20.0, "high_m2": 90.0},
        "shore": {"m2": None, "low_m2": None, "high_m2": None},
        "land": {"m2": 90.0, "low_m2": 60.0, "high_m2": None},
    }
    tried = {"method": "quick", "target": 0.9, "material": "earth_fill", "strata": strata}
    said = limit({"min_detectable_m2": {"water": 40.0, "land": 90.0}, "sensitivity": tried})
    assert said == (
        "By structures of earth fill put into the scenes, 9 in 10 of 40 m² in the water and 90 m² on land "
        "would have been found; smaller ones could have been missed. The quick estimate is rough: 20 to "
        "90 m² in the water and 60 m² or more on land. How large they must be on the shore is not known."
    )


def test_a_run_leaves_it_out_where_that_is_asked():
    record = detect(stack_of(values()), plan=PLAN.with_set(["sensitivity.quick=false"])).record
    assert "sensitivity" not in record and "min_detectable_m2" not in record
    assert "sensitivity.quick" in record["not_computed"]["min_detectable_m2"]


ROUNDS = PLAN.with_set(["sensitivity.rounds=4", "sensitivity.density=0.05", "sensitivity.sides_m=[2,12,60]"])


def test_the_quick_version_asks_for_the_odds_that_a_run_does(ground, monkeypatch):
    asked, judge = [], detector.judge

    def noted(read, model, maps, candidate, rules):
        asked.append(rules.min_confidence)
        return judge(read, model, maps, candidate, rules)

    monkeypatch.setattr(detector, "judge", noted)
    for alpha in (0.05, 0.5):
        quick.Bench(ground, PLAN.with_set([f"run.alpha={alpha}"])).outcomes([trial_of(ground)])
    usual, loose = asked[0], asked[-1]
    assert usual == PLAN.section("track")["min_confidence"]
    assert loose / (1 - loose) == pytest.approx(usual / (1 - usual) / 10)


@pytest.fixture(scope="module")
def tried():
    return sensitivity(stack_of(values()), ROUNDS)


def test_recovery_rises_with_size_and_contrast(tried):
    rate = {}
    for side in (2.0, 12.0, 60.0):
        own = [o.recovered for o in tried.outcomes if o.kind.side_m == side and o.kind.material != "steel"]
        rate[side] = np.mean(own)
    assert rate[2] < 0.2 < rate[60] and rate[2] <= rate[12] <= rate[60]
    land = [o for o in tried.outcomes if o.kind.over == "land" and o.kind.side_m == 60]
    by = {m: np.mean([o.recovered for o in land if o.kind.material == m]) for m in ("concrete", "steel")}
    assert by["concrete"] > by["steel"]
    assert np.mean([o.date_hit for o in tried.outcomes if o.recovered]) > 0.9


def test_the_same_seed_gives_the_same(tried):
    again = sensitivity(stack_of(values()), ROUNDS.with_set(["sensitivity.rounds=1"]))
    assert again.outcomes == tried.outcomes[: len(again.outcomes)] and again.outcomes
    other = sensitivity(stack_of(values()), ROUNDS.with_set(["sensitivity.rounds=1", "run.seed=7"]))
    assert other.outcomes != again.outcomes


def test_the_map_is_on_the_grid_of_the_stack(tried):
    image = tried.min_detectable
    assert Grid.of(image).same_as(GRID) and image.dtype == np.float32
    known = image.values[np.isfinite(image.values)]
    assert known.size and (known >= 4).all() and (known <= 3600).all()
    assert np.isnan(image.values[:, 50:]).all() == (tried.sizes["land"].m2 is None)


def test_a_structure_that_was_there_before_does_not_count(ground, monkeypatch):
    """Where nothing is put in, nothing is recovered, although the job reports its own structure."""
    monkeypatch.setattr(injection, "inject", lambda image, *args, **kwargs: np.array(image))
    result = sensitivity(stack_of(values()), ROUNDS.with_set(["sensitivity.rounds=2"]))
    assert len(result.outcomes) > 4 and not any(o.recovered for o in result.outcomes)


def test_what_cannot_be_done_is_said():
    with pytest.raises(TooFewScenesError, match="wanted 7"):
        sensitivity(stack_of(values()[:5]), PLAN)
    power = make_stack(values()[:, :2], GRID, dates=DATES, bands=("vv", "vh"))
    with pytest.raises(InputError, match="radar"):
        sensitivity(power, PLAN)
    with pytest.raises(SettingError, match="target"):
        Plan().with_set(["sensitivity.target=1.5"])
    with pytest.raises(InputError, match="sides_m"):
        sensitivity(stack_of(values()), PLAN.with_set(["sensitivity.sides_m=[900]"]))


def test_the_command_writes_the_contracts_files(tmp_path):
    for one, date in zip(values(), DATES, strict=True):
        coords = {"band": np.array(BANDS, dtype=object)}
        stored = np.round(one * 1e4).astype(np.uint16)
        name = f"scene_{str(date).replace('-', '')}.tif"
        write_cog(
            tmp_path / "in" / name, attach(stored, GRID, dims=("band", "y", "x"), coords=coords), nodata=0
        )
    out = tmp_path / "out"
    args = ["sensitivity", str(tmp_path / "in"), "-o", str(out), "--json"]
    for text in (*SET, "sensitivity.rounds=2", "sensitivity.sides_m=[20,60]"):
        args += ["--set", text]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout.splitlines()[-1])["sensitivity"]
    record = json.loads((out / "run.json").read_text())
    assert {p.name for p in out.iterdir()} == {*FILES, "run.json"} == set(record["files"])
    assert record["sensitivity"] == said and record["command"].startswith("changedet sensitivity")
    assert {
        "version",
        "plan",
        "scenes",
        "grid",
        "timings",
        "peak_memory_mb",
        "warnings",
        "not_computed",
    } <= set(record)
    assert all(s["sha256"] for s in record["scenes"])
    with (out / "recovery.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == CSV and sum(int(r["n"]) for r in rows) == said["structures"] > 0
    assert cog_validate(out / "min_detectable.tif")[0]
    with rasterio.open(out / "min_detectable.tif") as image:
        assert image.dtypes == ("float32",) and np.isnan(image.nodata) and image.shape == GRID.shape
    again = CliRunner().invoke(app, args)
    assert again.exit_code == 2 and "--overwrite" in again.output
    wrong = CliRunner().invoke(app, [*args[:4], "--set", "sensitivity.sizess=3"])
    assert wrong.exit_code == 2 and "sizes" in wrong.output
