"""Peak memory of ``diff``: what is large is worked on window by window, whatever the method."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from affine import Affine

SIDE = 2600
WHOLE_MB = 2 * 4 * 4 * SIDE**2 / 2**20  # both images as float32

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are read from /proc")


def write(path, side, seed):
    rng = np.random.default_rng(seed)
    profile = {
        "driver": "GTiff", "width": side, "height": side, "count": 4, "dtype": "uint16", "tiled": True,
        "crs": "EPSG:32652", "transform": Affine(10, 0, 500_000, 0, -10, 4_700_000), "blockxsize": 512,
        "blockysize": 512,
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as dataset:
        for band in range(1, 5):
            dataset.write((2000 + 60 * rng.standard_normal((side, side), np.float32)).astype(np.uint16), band)
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("memory")
    for side in (64, SIDE):
        for seed, name in enumerate(("before", "after")):
            write(path / f"{name}_{side}.tif", side, seed)
    return path


def peak_mb(folder, side, method, outputs):
    files = [str(folder / f"{name}_{side}.tif") for name in ("before", "after")]
    options = ["--method", method, "--outputs", outputs, "--compress", "none", "--memory", "500MB"]
    command = [sys.executable, "-m", "changedet", "diff", *files, "-o", str(folder / "out"), *options]
    command += ["--workers", "1", "-q", "--overwrite"]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120)
    return json.loads((folder / "out" / "run.json").read_text())["peak_memory_mb"]


@pytest.fixture(scope="module")
def small_mb(folder):
    """What the program takes itself."""
    peak = peak_mb(folder, 64, "cva", "change.tif")
    assert 50 < peak < 400
    return peak


# GDAL's cache and a few windows, for mad what is kept of the files, for objects one layer and its labels
@linux
@pytest.mark.parametrize(
    ("method", "outputs", "most"),
    [("cva", "magnitude.tif", 0.7), ("mad", "components.tif", 1.3), ("cva", "change.tif", 0.9)],
)
def test_a_large_pair_takes_no_more_than_a_few_windows(folder, small_mb, method, outputs, most):
    assert peak_mb(folder, SIDE, method, outputs) - small_mb < most * WHOLE_MB
