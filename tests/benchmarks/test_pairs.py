"""Time the parts of ``diff`` on small images; CHANGEDET_BENCHMARK_ROUNDS=20 gives figures to compare.

By default every part runs once, so that the ordinary tests stay fast. The speed that is promised is measured
on a large pair by ``docs/make_speed.py``.
"""

import os

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine

from changedet.blocks import label
from changedet.grid import Grid, attach
from changedet.io.raster import write_cog
from changedet.io.stack import Streaming, read_pair
from changedet.pipeline import Plan
from changedet.pipeline.bitemporal import Task, diff
from changedet.steps._mad import _MAD
from changedet.steps._statistics import axes_of, moments
from changedet.steps.difference import difference
from changedet.steps.segment import segment
from changedet.steps.threshold import threshold

ROUNDS = int(os.environ.get("CHANGEDET_BENCHMARK_ROUNDS", "1"))
GRID = Grid.make("EPSG:32652", Affine(10, 0, 500_000, 0, -10, 4_700_000), (400, 400))
BANDS = ("blue", "green", "red", "nir")


@pytest.fixture
def timed(benchmark):
    """Run a function a few times and return what it gives."""

    def run(function, *args, **params):
        return benchmark.pedantic(function, args, params, rounds=ROUNDS, warmup_rounds=int(ROUNDS > 1))

    return run


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(0)
    ground = 0.2 + 0.05 * rng.standard_normal((4, *GRID.shape))
    coords = {"band": np.array(BANDS, dtype=object)}
    dates = [(ground + 0.01 * rng.standard_normal(ground.shape)).astype(np.float32) for _ in range(2)]
    dates[1][:, 100:130, 200:260] += 0.3
    return [attach(values, GRID, dims=("band", "y", "x"), coords=coords) for values in dates]


@pytest.fixture(scope="module")
def files(pair, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return [write_cog(folder / f"{name}.tif", image) for name, image in zip("ab", pair, strict=True)]


@pytest.fixture(scope="module")
def mask():
    values = np.random.default_rng(1).random(GRID.shape) < 0.013
    return xr.DataArray(values, dims=("y", "x"))


def test_read_floor(timed, files):
    def read():
        for path in files:
            with rasterio.open(path) as dataset:
                dataset.read()

    timed(read)


def test_read_streamed(timed, files):
    def read():
        return [np.asarray(image.data) for image in read_pair(*files, streaming=Streaming())]

    assert timed(read)[0].shape == (4, *GRID.shape)


@pytest.mark.parametrize("method", ["absdiff", "cva", "logratio", "rcva", "pca", "mad", "sfa", "ssim"])
def test_difference(timed, pair, method):
    found = timed(difference, *pair, method)
    assert np.isfinite(found["magnitude"] if isinstance(found, xr.Dataset) else found).all()


def test_a_reweighted_pass(timed, pair):
    before, after = (image.values for image in pair)
    axes = axes_of(moments(before, after), _MAD, corrected=False)
    found = timed(moments, before, after, weighting=axes, previous=axes, moved=1e-3)
    assert found.number == before[0].size


def test_threshold(timed, pair):
    assert timed(threshold, difference(*pair, "cva"), "robust")[0] > 0


def test_label(timed, mask):
    assert timed(label, mask)[1] > 1000


def test_segment(timed, mask):
    image = attach(mask.values.astype(np.float32), GRID)
    assert timed(segment, image, low=0.5, min_area_m2=200)[0].any()


@pytest.mark.parametrize("compress", ["none", "deflate"])
def test_write(timed, pair, tmp_path, compress):
    assert timed(write_cog, tmp_path / "out.tif", pair[0], compress=compress).exists()


@pytest.mark.parametrize("method", ["cva", "irmad"])
def test_diff(timed, files, tmp_path, method):
    plan = Plan().with_values({"diff.method": method})
    result = timed(diff, *files, tmp_path, plan, task=Task(overwrite=True))
    assert result.record["counts"]["objects"] >= 1
