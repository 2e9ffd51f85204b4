"""``changedet align`` on two images: without dates, with a model, with a reference, and with few files."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import rasterio
from affine import Affine
from scipy import ndimage
from typer.testing import CliRunner

from changedet.cli import app
from changedet.grid import Grid, attach
from changedet.io.raster import write_cog
from changedet.pipeline import coregister

SHAPE = (200, 220)
BANDS = ("blue", "green", "red")


def call(*args, status=0):
    result = CliRunner().invoke(app, [str(a) for a in args])
    assert result.exit_code == status, result.stderr
    return result


def write(path, image, crs="EPSG:32652"):
    grid = Grid.make(crs, Affine(3, 0, 5e5, 0, -3, 47e5), image.shape[-2:])
    coords = {"band": np.array(BANDS, dtype=object)}
    return write_cog(path, attach(image.astype(np.float32), grid, dims=("band", "y", "x"), coords=coords))


@pytest.fixture
def pair(tmp_path):
    """Two images without dates; the name of the first one comes last. The second must move by (0.6, -1.2)."""
    rng = np.random.default_rng(1)
    parts = [ndimage.gaussian_filter(rng.standard_normal(SHAPE), s) for s in (1.2, 3, 9)]
    base = sum(p / p.std() for p in parts)
    image = 0.12 + 0.02 * np.stack([base, base[::-1], base[:, ::-1]])
    moved = np.stack([ndimage.shift(b, (-0.6, 1.2), order=5, mode="reflect") for b in image])
    folder = tmp_path / "pair"
    first = write(folder / "one_before.tif", image + 0.002 * rng.standard_normal(image.shape))
    second = write(folder / "after.tif", 1.05 * moved + 0.01 + 0.002 * rng.standard_normal(image.shape))
    return first, second


def table(folder):
    with (folder / "shifts.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_two_images_need_no_dates_and_keep_their_order(pair, tmp_path):
    call("align", *pair, "-o", tmp_path / "out", "-q")
    rows = table(tmp_path / "out")
    assert [r["id"] for r in rows] == ["one_before", "after"]
    assert rows[0]["why"] == "the reference" and rows[0]["residual_px"] == ""
    assert abs(float(rows[1]["dy_px"]) - 0.6) < 0.02 and abs(float(rows[1]["dx_px"]) + 1.2) < 0.02
    assert rows[1]["model"] == "translation"
    names = {"one_before_aligned.tif", "after_aligned.tif", "shifts.csv", "shifts.png"}
    assert {p.name for p in (tmp_path / "out").iterdir()} == names
    with rasterio.open(tmp_path / "out" / "after_aligned.tif") as dataset:
        assert "ACQUISITIONDATETIME" not in dataset.tags()
        dy, dx = map(float, dataset.tags()["SHIFT_APPLIED_DY_DX_PX"].split())
        assert abs(dy - 0.6) < 0.02 and abs(dx + 1.2) < 0.02
    assert (tmp_path / "out" / "shifts.png").read_bytes().startswith(b"\x89PNG")


def test_a_reference_by_name_and_by_file(pair, tmp_path):
    call("align", *pair, "-o", tmp_path / "a", "--reference", "after", "--outputs", "shifts.csv", "-q")
    rows = table(tmp_path / "a")
    assert rows[1]["why"] == "the reference" and abs(float(rows[0]["dy_px"]) + 0.6) < 0.02
    call("align", *pair, "-o", tmp_path / "b", "--set", f"align.reference={pair[1]}", "-q")
    rows = table(tmp_path / "b")
    assert rows[1]["why"] == "already aligned" and abs(float(rows[0]["dx_px"]) - 1.2) < 0.02
    result = call("align", *pair, "-o", tmp_path / "c", "--reference", "afterr", status=2)
    assert "did you mean 'after'" in result.stderr


def test_only_the_files_asked_for(pair, tmp_path):
    told = json.loads(call("align", *pair, "-o", tmp_path / "a", "--outputs", "shifts.csv", "--json").stdout)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["shifts.csv"]
    assert told["shifts"][1]["model"] == "translation" and len(told["files"]) == 1
    call("align", *pair, "-o", tmp_path / "b", "--outputs", "after_aligned.tif", "-q")
    assert {p.name for p in (tmp_path / "b").iterdir()} == {"after_aligned.tif", "shifts.csv"}
    result = call("align", *pair, "-o", tmp_path / "c", "--outputs", "shift.csv", status=2)
    assert "did you mean 'shifts.csv'" in result.stderr and not (tmp_path / "c").exists()


def test_models_are_named_in_the_table(pair, tmp_path):
    call("align", *pair, "-o", tmp_path / "a", "--model", "auto", "-q")
    rows = table(tmp_path / "a")
    assert rows[1]["model"] == "translation" and "held-out residual of affine" in rows[1]["why"]
    result = call("align", *pair, "-o", tmp_path / "b", "--model", "bent", status=2)
    assert "translation, affine, local, auto" in result.stderr


def test_blocks_give_the_same(pair, tmp_path, monkeypatch):
    call("align", *pair, "-o", tmp_path / "whole", "-q")
    monkeypatch.setattr(coregister, "LAZY_BYTES", 1)
    monkeypatch.setattr(coregister, "CHUNK_PX", 64)
    monkeypatch.setattr(coregister, "SAMPLE_CHUNK_PX", 96)
    call("align", *pair, "-o", tmp_path / "blocks", "-q")
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "blocks" / path.name).read_bytes(), path.name


def test_images_without_georeference(pair, tmp_path):
    plain = []
    for path in pair:
        with rasterio.open(path) as dataset:
            plain.append(write(tmp_path / "bare" / path.name, dataset.read(), crs=None))
    call("align", *plain, "-o", tmp_path / "out", "-q")
    assert abs(float(table(tmp_path / "out")[1]["dy_px"]) - 0.6) < 0.02
