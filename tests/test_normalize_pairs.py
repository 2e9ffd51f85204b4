"""Normalization of two dates, other methods than the robust line, and ``changedet normalize``."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine
from scipy import ndimage
from typer.testing import CliRunner

from changedet.cli import app
from changedet.errors import DegenerateError, SettingError
from changedet.grid import Grid, attach
from changedet.io.raster import write_cog
from changedet.pipeline import coregister
from changedet.scenes import make_stack
from changedet.steps._lines import theil_sen_line
from changedet.steps.normalize import apply_lines, find_lines, normalize, relative_line

GAINS, OFFSETS = np.array([1.15, 0.9, 1.05]), np.array([-0.02, 0.01, 0.015])
BANDS = ("green", "red", "nir")
GRID = Grid.make("EPSG:32652", Affine(3, 0, 5e5, 0, -3, 47e5), (160, 160))
COLUMNS = ["id", "band", "gain", "offset", "r2", "n", "rmse_before", "rmse_after", "accepted", "why"]


def two_dates(seed=0, *, noise=0.003, changed=0.1, dates=2):
    """Land in two lights, the second changed in a tenth of its blocks; the last date is the second again."""
    rng, n = np.random.default_rng(seed), GRID.shape[0]
    parts = [ndimage.gaussian_filter(rng.standard_normal((3, n, n)), (0, s, s)) for s in (1.5, 6)]
    mixed = np.einsum(
        "ij,jyx->iyx", [[1, 0.5, 0.1], [0.4, 1, 0.2], [0.1, 0.3, 1]], sum(p / p.std() for p in parts)
    )
    land = np.array([0.1, 0.14, 0.28])[:, None, None] + np.array([0.01, 0.015, 0.025])[:, None, None] * mixed
    blocks = ndimage.zoom(rng.random((n // 10, n // 10)), 10, order=0) < changed
    images = [land + noise * rng.standard_normal(land.shape)]
    for _ in range(dates - 1):
        after = GAINS[:, None, None] * land + OFFSETS[:, None, None]
        after[:, blocks] += rng.uniform(0.05, 0.2, (3, 1))
        images.append(after + noise * rng.standard_normal(land.shape))
    when = np.datetime64("2024-05-01") + 10 * np.arange(dates).astype("timedelta64[D]")
    return make_stack(np.array(images, np.float32), GRID, dates=when, bands=BANDS)


@pytest.mark.parametrize("seed", range(5))
def test_an_injected_line_is_recovered_on_two_dates(seed):
    """A tenth of the pixels changed; within three standard errors."""
    one, reference = find_lines(two_dates(seed), reference="last", no_change="irmad")
    assert reference.lines[0].why == "the reference" and one.no_change == "irmad"
    assert one.accepted
    for line, gain, offset in zip(one.lines, GAINS, OFFSETS, strict=True):
        assert abs(line.gain - gain) < 3 * line.gain_error
        assert abs(line.offset - offset) < 3 * line.offset_error
        assert line.n >= 200 and line.gain_error < 0.02
        assert line.rmse_after < 0.9 * line.rmse_before


def test_exchanging_the_dates_gives_the_inverse_line():
    stack = two_dates()
    there = find_lines(stack, reference="last", no_change="irmad")[0]
    back = find_lines(stack, reference="first", no_change="irmad")[1]
    for a, b in zip(there.lines, back.lines, strict=True):
        assert a.gain * b.gain == pytest.approx(1, rel=1e-4)
        assert b.offset == pytest.approx(-a.offset / a.gain, abs=1e-5)
        assert a.n == b.n


def test_two_dates_take_one_of_them_for_reference_and_irmad():
    out = normalize(two_dates(), no_change="auto")
    assert list(out["normalize_why"].values) == ["the reference", "accepted"]
    np.testing.assert_allclose(out["gain"].values[1] * GAINS, 1, atol=0.02)
    apart = np.diff(out["image"].values, axis=0)[0]
    assert np.abs(np.median(apart, axis=(1, 2))).max() < 0.001


def test_many_dates_by_irmad():
    out = normalize(two_dates(dates=5), reference="first", no_change="irmad")
    assert out["normalize_accepted"].all()
    np.testing.assert_allclose(out["gain"].values[1:] * GAINS, 1, atol=0.02)


def test_lazy_pairs_stay_lazy_and_give_the_same():
    stack = two_dates()
    for method in ("orthogonal", "histogram"):
        eager = normalize(stack, method=method, no_change="irmad")
        lazy = normalize(stack.chunk(y=50, x=64), method=method, no_change="irmad")
        assert lazy["image"].chunks is not None
        xr.testing.assert_identical(lazy.compute(), eager)


def test_water_has_no_say_in_irmad():
    stack = two_dates(3)
    rng = np.random.default_rng(0)
    waves = ndimage.gaussian_filter(rng.standard_normal((2, 3, 80, 160)), (0, 0, 2, 2))
    stack["image"].values[:, :, :80] = np.array([0.08, 0.06, 0.03])[:, None, None] + 0.05 * waves
    stack["image"].values[1, :, :80] *= 1.6
    one = find_lines(stack, reference="last", no_change="irmad")[0]
    assert one.accepted
    np.testing.assert_allclose([line.gain for line in one.lines], GAINS, rtol=0.03)


def test_nothing_to_learn_from_is_said():
    stack = two_dates()
    empty = stack.copy(deep=True)
    empty["image"].values[1, :, 4:] = np.nan
    blank = stack.copy(deep=True)
    blank["image"].values[1] = np.nan
    for poor, words in ((empty, "no-change pixels; wanted 200"), (blank, "no pixels by IR-MAD: 0 pixels")):
        out = normalize(poor, reference="first", no_change="irmad")
        assert not out["normalize_accepted"].values[1]
        assert words in out["normalize_why"].values[1]
        np.testing.assert_array_equal(out["image"].values, poor["image"].values)


def test_theil_sen_is_robust_but_flatter():
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.05, 0.4, 3000)
    x, y = truth + 0.01 * rng.standard_normal(3000), 1.2 * truth - 0.02 + 0.01 * rng.standard_normal(3000)
    y[:300] += 0.2
    flat, straight = (relative_line(x, y, method=m) for m in ("theil-sen", "orthogonal"))
    assert flat.accepted and 1.1 < flat.gain < straight.gain
    assert abs(straight.gain - 1.2) < 3 * straight.gain_error
    clean = theil_sen_line(truth, 1.2 * truth - 0.02)
    assert clean.gain == pytest.approx(1.2) and clean.offset == pytest.approx(-0.02)
    with pytest.raises(DegenerateError):
        theil_sen_line(np.ones(9), np.arange(9.0))


def test_theil_sen_errors_are_those_of_repetition():
    lines = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        x = rng.uniform(0, 1, 400)
        lines.append(theil_sen_line(x, 1.1 * x + 0.05 * rng.standard_normal(400)))
    for name in ("gain", "offset"):
        spread = np.std([getattr(line, name) for line in lines])
        assert np.mean([getattr(line, f"{name}_error") for line in lines]) == pytest.approx(spread, rel=0.4)


def test_histograms_become_alike_and_no_line_is_claimed():
    stack = two_dates(changed=0.0)
    out = normalize(stack, reference="first", method="histogram", no_change="irmad")
    assert np.isnan(out["gain"].values[1]).all() and (out["gain"].values[0] == 1).all()
    assert "for display only" in out["normalize_why"].values[1]
    for b in range(3):
        ours, wanted = (np.quantile(out["image"].values[t, b], np.linspace(0.01, 0.99, 50)) for t in (1, 0))
        np.testing.assert_allclose(ours, wanted, atol=1e-3)
    far = stack.copy(deep=True)
    found = find_lines(stack, reference="first", method="histogram", no_change="irmad")
    far["image"].values[1, 0, 0, 0] = 5.0
    top = float(apply_lines(far, found)["image"].values[1, 0, 0, 0])
    assert 4.5 < top < 5.5  # what is brighter than all stays brighter than all


def test_settings_are_checked():
    stack = two_dates()
    for wrong in ({"method": "median"}, {"no_change": "guess"}, {"min_pixels": 2}):
        with pytest.raises(SettingError, match="wanted"):
            normalize(stack, **wrong)
    with pytest.raises(SettingError, match="orthogonal, theil-sen"):
        relative_line(np.ones(9), np.ones(9), method="ols")


# the command


def call(*args, status=0):
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == status, result.stderr
    return result


@pytest.fixture
def pair(tmp_path):
    images = two_dates(1)["image"].values
    coords = {"band": np.array(BANDS, dtype=object)}
    return [
        write_cog(tmp_path / "pair" / name, attach(image, GRID, dims=("band", "y", "x"), coords=coords))
        for name, image in zip(("one_before.tif", "after.tif"), images, strict=True)
    ]


def table(folder):
    with (folder / "gains.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_command_writes_scenes_table_and_figure(pair, tmp_path):
    out = tmp_path / "out"
    told = json.loads(call("normalize", *pair, "-o", out, "--json").stdout)
    rows = table(out)
    assert list(rows[0]) == COLUMNS and len(rows) == 6 == len(told["gains"])
    assert [r["id"] for r in rows] == ["one_before"] * 3 + ["after"] * 3
    assert [r["band"] for r in rows[:3]] == list(BANDS)
    assert rows[0]["why"] == "the reference" and rows[0]["rmse_before"] == ""
    np.testing.assert_allclose(
        [float(r["gain"]) * g for r, g in zip(rows[3:], GAINS, strict=True)], 1, atol=0.03
    )
    assert all(float(r["rmse_after"]) < float(r["rmse_before"]) for r in rows[3:])
    names = {"one_before_normalized.tif", "after_normalized.tif", "gains.csv", "gains.png"}
    assert {p.name for p in out.iterdir()} == names
    assert (out / "gains.png").read_bytes().startswith(b"\x89PNG")
    with rasterio.open(pair[1]) as a, rasterio.open(out / "after_normalized.tif") as b:
        gain, offset = (np.array([float(r[k]) for r in rows[3:]])[:, None, None] for k in ("gain", "offset"))
        np.testing.assert_allclose(b.read(), a.read() * gain + offset, atol=1e-5)
        assert b.descriptions == BANDS and b.crs == a.crs
        assert len(b.tags()["GAIN"].split()) == 3
    call("normalize", *pair, "-o", out, status=2)


def test_options_of_the_command(pair, tmp_path):
    call("normalize", *pair, "-o", tmp_path / "a", "--reference", "after", "--outputs", "gains.csv", "-q")
    rows = table(tmp_path / "a")
    assert rows[3]["why"] == "the reference" and abs(float(rows[0]["gain"]) / GAINS[0] - 1) < 0.03
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["gains.csv"]
    call("normalize", *pair, "-o", tmp_path / "b", "--method", "histogram", "-q")
    assert table(tmp_path / "b")[3]["gain"] == "" and "display only" in table(tmp_path / "b")[3]["why"]
    refused = call("normalize", *pair, "-o", tmp_path / "c", "--method", "ols", status=2)
    assert "orthogonal, theil-sen, histogram" in refused.stderr
    refused = call("normalize", *pair, "-o", tmp_path / "c", "--no-change", "luck", status=2)
    assert "stability, irmad, auto" in refused.stderr and not (tmp_path / "c").exists()
    call("normalize", *pair, "-o", tmp_path / "d", "--set", "normalize.no_change=stability", "-q")


def test_blocks_give_the_same(pair, tmp_path, monkeypatch):
    call("normalize", *pair, "-o", tmp_path / "whole", "-q")
    monkeypatch.setattr(coregister, "LAZY_BYTES", 1)
    call("normalize", *pair, "-o", tmp_path / "blocks", "-q")
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "blocks" / path.name).read_bytes(), path.name


def test_a_series_has_a_figure_of_all_gains(tmp_path):
    stack = two_dates(2, dates=4)
    coords = {"band": np.array(BANDS, dtype=object)}
    for day, image in zip((1, 2, 3, 4), stack["image"].values, strict=True):
        image = image.copy() if day < 4 else image * np.nan
        scene = attach(image, GRID, dims=("band", "y", "x"), coords=coords)
        write_cog(tmp_path / "series" / f"s_2024050{day}.tif", scene)
    call("normalize", tmp_path / "series", "-o", tmp_path / "out", "-q")
    rows = table(tmp_path / "out")
    assert [r["accepted"] for r in rows[::3]] == ["true"] * 3 + ["false"]
    assert (tmp_path / "out" / "gains.png").stat().st_size > 10_000
