"""``run``, ``demo`` and ``report``: what options become, what people are told. The work itself is faked."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
from affine import Affine
from shapely.geometry import box
from typer.testing import CliRunner

from changedet import columns
from changedet.cli import app
from changedet.errors import ControlFailedError, TooFewScenesError
from changedet.findings import Findings
from changedet.grid import Grid, attach
from changedet.io.vector import write_geojson
from changedet.pipeline import Plan, ReadOptions

GRID = Grid.make("EPSG:32652", Affine(10, 0, 600_000, 0, -10, 4_700_000), (8, 8))


def findings():
    """One structure, one skipped scene."""
    row = {
        "id": "pier-1",
        "kind": "pier",
        "status": "persistent",
        "first_seen": "2024-06-01",
        "area_m2": 400.0,
    }
    row |= {"last_absent": "2024-03-01", "over": "water", "confidence": 0.9}
    empty = gpd.GeoDataFrame(columns.table("alarms", []), geometry=[], crs=GRID.crs)
    image = attach(np.zeros(GRID.shape, np.float32), GRID)
    bands = attach(
        np.zeros((1, *GRID.shape), np.float32), GRID, dims=("band", "y", "x"), coords={"band": ["red"]}
    )
    return Findings(
        structures=gpd.GeoDataFrame(
            columns.table("structures", [row]), geometry=[box(0, 0, 1, 1)], crs=GRID.crs
        ),
        observations=columns.table("observations", []),
        alarms=empty,
        axes=gpd.GeoDataFrame(columns.table("axes", []), geometry=[], crs=GRID.crs),
        progress=columns.table("progress", []),
        statistic=image,
        first_seen=image.astype(np.uint32),
        labels=image.astype(np.uint32),
        composite_before=bands,
        composite_after=bands,
        record={
            "counts": {"structures": 1},
            "warnings": ["no mask for 2 scenes"],
            "timings": {"read": 1.0},
            "scenes": [{"id": "s1", "used": True}, {"id": "s2", "used": False, "why": "all cloud"}],
        },
    )


@pytest.fixture
def work(monkeypatch):
    """Stand in for the main job; keeps what it was called with."""
    module = types.ModuleType("changedet.pipeline.run")
    module.calls = []

    def run(inputs, out, plan, *, progress=None, **keywords):
        module.calls.append((inputs, out, plan, keywords))
        progress("read", 1, 1)
        return findings()

    def redraw(out):
        return out / "report.html"

    module.run, module.redraw = run, redraw
    monkeypatch.setitem(sys.modules, "changedet.pipeline.run", module)
    return module


def call(*args, status=0):
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == status, result.stderr
    return result


def test_run_hands_over_its_options(work, tmp_path):
    area = gpd.GeoDataFrame(geometry=[box(130, 42, 131, 43)], crs=4326)
    write_geojson(tmp_path / "aoi.geojson", area)
    call("run", "a", "b", "-o", tmp_path / "out", "--site", "tumen", "--aoi", tmp_path / "aoi.geojson",
         "--since", "2024-01-01", "--until", "2024-12-31", "--bands", "red,nir", "--band-names", "red,nir",
         "--date", "a=2024-01-01", "--date", "b=2024-02-01", "--warp", "--min-area", 80, "--alpha", 0.01,
         "--workers", 2, "--memory", "1GB", "--compress", "zstd", "--outputs", "report.html,run.json",
         "--set", "track.min_after=5", "--overwrite", "--strict")  # fmt: skip
    inputs, out, plan, keywords = work.calls[0]
    assert inputs == ["a", "b"] and out == tmp_path / "out"
    assert keywords["site"].name == "tumen" and keywords["aoi"].equals(box(130, 42, 131, 43))
    assert keywords["overwrite"] is True and keywords["strict"] is True
    assert keywords["outputs"] == ("report.html", "run.json")
    assert keywords["notes"]["command"].startswith("changedet run a b -o ")
    read = ReadOptions(
        since="2024-01-01",
        until="2024-12-31",
        bands=("red", "nir"),
        band_names=("red", "nir"),
        date=("a=2024-01-01", "b=2024-02-01"),
        warp=True,
    )
    assert keywords["read_options"] == plan.record(ReadOptions) == read
    assert (plan.min_area_m2, plan.alpha) == (80.0, 0.01)
    assert plan.section("compute") == {"workers": 2, "memory": "1GB"}
    assert plan.section("write") == {"compress": "zstd"}
    assert plan.section("track")["min_after"] == 5


def test_run_without_options_runs_the_defaults(work, tmp_path):
    call("run", "a", "-o", tmp_path / "out")
    _, _, plan, keywords = work.calls[0]
    assert plan == Plan()
    assert keywords["site"] is None and keywords["aoi"] is None and keywords["outputs"] is None
    assert keywords["overwrite"] is False and keywords["strict"] is False


def test_the_site_gives_the_area_and_options_win_over_the_plan(work, tmp_path):
    plan = Plan().with_set(["run.alpha=0.2", "track.min_after=6", "read.warp=true"])
    (tmp_path / "plan.toml").write_text(plan.to_toml(), encoding="utf-8")
    call("run", "a", "-o", tmp_path / "out", "--plan", tmp_path / "plan.toml", "--alpha", 0.1,
         "--site", "tumen", "--set", "track.min_after=7")  # fmt: skip
    _, _, used, keywords = work.calls[0]
    assert keywords["aoi"].equals(keywords["site"].aoi)
    assert (used.alpha, used.section("track")["min_after"], used.section("read")["warp"]) == (0.1, 7, True)


def test_run_tells_what_was_found(work, tmp_path):
    result = call("run", "a", "-o", tmp_path / "out")
    assert "pier-1" in result.stdout and "2024-06-01" in result.stdout and "all cloud" in result.stdout
    assert "report.html" in result.stdout
    assert result.stderr == "warning: no mask for 2 scenes\n"
    told = json.loads(call("run", "a", "-o", tmp_path / "out", "--json").stdout)
    assert told == {
        "out": str(tmp_path / "out"),
        "counts": {"structures": 1},
        "warnings": ["no mask for 2 scenes"],
        "timings": {"read": 1.0},
    }


@pytest.mark.parametrize(
    ("error", "status"), [(TooFewScenesError("one scene"), 2), (ControlFailedError("moved"), 1)]
)
def test_errors_of_the_work_have_their_status(error, status, work, tmp_path):
    def fail(*_args, **_keywords):
        raise error

    work.run = fail
    result = call("run", "a", "-o", tmp_path / "out", status=status)
    assert result.stderr == f"changedet: {error}\n" and result.stdout == ""


def test_report(work, tmp_path):
    assert json.loads(call("report", tmp_path, "--json").stdout) == {"report": str(tmp_path / "report.html")}


def test_demo(monkeypatch, tmp_path):
    module = types.ModuleType("changedet.demo")
    calls = []

    def demo(out, *, gsd_m=3.0, seed=11, progress=None):
        calls.append((out, gsd_m, seed))
        rows = [{"structure": "pier-1", "found": "yes"}]
        scores = {"objects": {"matched": 1, "n_truth": 3, "n_found": 2}}
        return types.SimpleNamespace(table=rows, report=Path(out) / "report.html", scores=scores)

    module.demo = demo
    monkeypatch.setitem(sys.modules, "changedet.demo", module)
    result = call("demo", "-o", tmp_path / "d")
    assert "pier-1" in result.stdout and "report.html" in result.stdout
    assert "1 of 3 true structures found, 1 found that are none" in result.stdout
    told = json.loads(call("demo", "--gsd-m", 10, "--seed", 4, "--json").stdout)
    assert told["table"] == [{"structure": "pier-1", "found": "yes"}]
    assert calls == [(tmp_path / "d", 3.0, 11), (Path("changedet-demo"), 10.0, 4)]
