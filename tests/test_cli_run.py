"""``changedet run`` on small simulated scenes, through the command line, from files to files."""

from __future__ import annotations

import json

import geopandas as gpd
import pytest
from typer.testing import CliRunner

from changedet.cli import app
from changedet.demo import write_scenes
from changedet.io.products import find_scenes
from changedet.pipeline import Plan
from changedet.simulate import SceneSettings, simulate


def call(*args):
    return CliRunner().invoke(app, [str(a) for a in args])


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Fourteen calm scenes, 128 pixels square, with the truth beside them."""
    folder = tmp_path_factory.mktemp("scenes")
    settings = SceneSettings(shape_px=(128, 128), n_dates=14, cloudiness=0.05, haze=0.0, winter=0.0)
    write_scenes(simulate(settings), folder)
    return folder


@pytest.fixture(scope="module")
def finished(scenes, tmp_path_factory):
    """The folder of a run and what the command said."""
    out = tmp_path_factory.mktemp("run") / "out"
    result = call("run", scenes, "-o", out, "--json", "--set", "track.min_after=2")
    assert result.exit_code == 0, result.stderr
    return out, result


def test_run_writes_the_contracts_files(finished):
    out, _ = finished
    wanted = {
        "structures.geojson", "structures.gpkg", "structures.kmz", "statistic.tif", "first_seen.tif",
        "labels.tif", "composite_before.tif", "composite_after.tif", "report.html", "run.json", "plan.toml",
    }  # fmt: skip
    there = {p.name for p in out.iterdir()}
    assert wanted <= there and not [name for name in there if name.startswith(".")]
    assert set(json.loads((out / "run.json").read_text())["files"]) == there


def test_run_tells_machines_and_people(finished, scenes):
    out, result = finished
    told = json.loads(result.stdout)
    structures = gpd.read_file(out / "structures.gpkg", layer="structures")
    assert told["counts"]["structures"] == len(structures) > 0
    assert str(out) in result.stderr
    record = json.loads((out / "run.json").read_text())
    assert record["command"].startswith("changedet run ") and str(scenes) in record["command"]
    assert {s["id"] for s in record["scenes"]} == {s.id for s in find_scenes(scenes)}


def test_its_plan_fed_back_gives_the_same(finished, scenes, tmp_path):
    out, _ = finished
    plan = Plan.from_toml(out / "plan.toml")
    assert plan == Plan.from_toml(out / "run.json") == Plan().with_set(["track.min_after=2"])
    result = call("run", scenes, "-o", tmp_path / "again", "--plan", out / "plan.toml", "-q")
    assert result.exit_code == 0, result.stderr
    for name in ("structures.gpkg", "structures.geojson", "statistic.tif", "labels.tif", "plan.toml"):
        assert (out / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_a_finished_run_is_refused(finished, scenes):
    out, _ = finished
    before = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    result = call("run", scenes, "-o", out)
    assert result.exit_code == 2 and "--overwrite" in result.stderr
    assert {p.name: p.stat().st_mtime_ns for p in out.iterdir()} == before


def test_evaluate_scores_the_run(finished, scenes):
    out, _ = finished
    scores = json.loads(call("evaluate", out, scenes / "truth.geojson", "--json").stdout)
    assert scores["objects"]["matched"] > 0 and scores["objects"]["precision"] > 0.3
    # piers are few pixels and their shadows and dust many: better than chance is what pixels can promise
    assert scores["pixels"]["basis"] == "pixels" and scores["pixels"]["auc"] > 0.7
    assert scores["dates"] is not None and scores["scot"] is not None


def test_few_scenes_are_refused(scenes, tmp_path):
    few = sorted(p for p in scenes.glob("*.tif") if "mask" not in p.name)[:3]
    result = call("run", *few, "-o", tmp_path / "out")
    assert result.exit_code == 2 and "3 of 3 scenes are usable" in result.stderr
    assert not (tmp_path / "out").exists()
