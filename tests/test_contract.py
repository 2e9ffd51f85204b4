"""Every method of every table: lazy, equal on any chunking, one graph name, inputs untouched, labels kept."""

import copy
import re
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from changedet.blocks import parameters
from changedet.errors import DegenerateError
from changedet.grid import Grid, attach
from changedet.steps import difference as difference_step
from changedet.steps import threshold as threshold_step

GRID = Grid.make("EPSG:32652", Affine(10, 0, 500_000, 0, -10, 4_800_000), (6, 8))
PAIRS = arrays(np.float64, (2, 2, *GRID.shape), elements=st.floats(1e-3, 1e3) | st.just(np.nan))
CHUNKS = st.fixed_dictionaries({"y": st.integers(1, 6), "x": st.integers(1, 8), "band": st.integers(1, 2)})
LEARNED = ("pca-kmeans", "auto")
"""Methods that learn from the whole pair and have tests of their own: tiny images teach them nothing."""

PLAIN = [
    n for n, method in difference_step.METHODS.items() if method.layers == ("magnitude",) and n not in LEARNED
]
STATISTICAL = [
    name
    for name in difference_step.METHODS
    if name not in (*PLAIN, *LEARNED, "omnibus")  # powers are above 0: see its own tests
]
VARIANTS = [(name, {}) for name in PLAIN] + [
    ("cva", {"standardize": True}),
    ("rcva", {"radius_px": 2, "combine": "min"}),
]


def refuse(*_args, **_kwargs):
    raise RuntimeError("computed while building the graph")


def labelled(values):
    values.setflags(write=False)
    image = attach(values, GRID, dims=("band", "y", "x"), coords={"band": ["red", "nir"]})
    return image.assign_attrs(sensor="sentinel-2", note=["kept"])


@pytest.mark.parametrize(("method", "params"), VARIANTS)
@settings(max_examples=12, deadline=None)
@given(pair=PAIRS, chunks=CHUNKS)
def test_difference(method, params, pair, chunks):
    before, after = map(labelled, pair)
    inputs = copy.deepcopy((before, after))
    eager = difference_step.difference(before, after, method, **params)
    with dask.config.set(scheduler=refuse):
        lazy, again = (
            difference_step.difference(before.chunk(chunks), after.chunk(chunks), method, **params)
            for _ in range(2)
        )
    assert lazy.chunks is not None and lazy.data.name == again.data.name
    assert lazy.dtype == eager.dtype == np.float32
    xr.testing.assert_identical(lazy.compute(scheduler="sync"), eager)
    for image, kept in zip((before, after), inputs, strict=True):
        xr.testing.assert_identical(image, kept)
    assert Grid.of(lazy).difference_from(GRID) is None and set(lazy.coords) == {"y", "x", "spatial_ref"}
    assert eager.attrs["sensor"] == "sentinel-2" and eager.attrs["note"] == ["kept"]


@pytest.mark.parametrize("method", STATISTICAL)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 99), y=st.integers(3, 12), x=st.integers(3, 16))
def test_statistical_difference(method, seed, y, x):
    """Numbers about the whole image are found at once and merged, so chunks may differ in the last digits."""
    rng = np.random.default_rng(seed)
    grid = Grid.make(GRID.crs, GRID.transform, (12, 16))
    pair = rng.normal(size=(2, 2, *grid.shape)) + rng.normal(size=(2, *grid.shape))
    pair[0, 1, :2, :3] = np.nan
    pair.setflags(write=False)
    before, after = (
        attach(v, grid, dims=("band", "y", "x"), coords={"band": ["red", "nir"]}).assign_attrs(sensor="s2")
        for v in pair
    )
    inputs = copy.deepcopy((before, after))
    eager = difference_step.difference(before, after, method)
    with dask.config.set(scheduler="sync"):
        lazy, again = (
            difference_step.difference(before.chunk(y=y, x=x), after.chunk(y=y, x=x), method)
            for _ in range(2)
        )
    assert tuple(eager) == tuple(lazy) == difference_step.METHODS[method].layers
    for name in eager:
        assert lazy[name].chunks is not None and lazy[name].data.name == again[name].data.name
        assert lazy[name].dtype == eager[name].dtype == np.float32
        np.testing.assert_allclose(lazy[name].compute(scheduler="sync"), eager[name], rtol=1e-5, atol=1e-6)
        assert Grid.of(lazy[name]).difference_from(grid) is None and eager[name].attrs["sensor"] == "s2"
        assert set(lazy[name].coords) - {"band"} == {"y", "x", "spatial_ref"}
        assert eager[name].attrs["units"] == "1"
        assert np.isnan(eager[name].values).sum() == 6 * eager[name].sizes.get("band", 1)
    assert eager.magnitude.attrs["method"] == method and eager.magnitude.attrs["signed"] is False
    for image, kept in zip((before, after), inputs, strict=True):
        xr.testing.assert_identical(image, kept)


@pytest.mark.parametrize("method", difference_step.METHODS)
def test_every_tuning_value_of_difference_has_a_plain_default(method):
    for name, default in parameters(difference_step.METHODS[method]).items():
        assert default is None or isinstance(default, bool | int | float | str), name


VALUES = arrays(np.float64, GRID.shape, elements=st.floats(-1e3, 1e3) | st.just(np.nan))


def repeated(values):
    """Return an image with enough pixels and two values that differ, whatever was drawn."""
    tiled = np.tile(values, (2, 2))
    tiled[:4, :8], tiled[4:8, :8] = 0.5, 2.5
    tiled.setflags(write=False)
    grid = Grid.make(GRID.crs, GRID.transform, tiled.shape)
    return attach(tiled, grid).assign_attrs(signed=True)


@pytest.mark.parametrize("method", threshold_step.METHODS)
@settings(max_examples=6, deadline=None)
@given(values=VALUES, y=st.integers(3, 12), x=st.integers(3, 16))
def test_threshold(method, values, y, x):
    image = repeated(values)
    kept = image.copy(deep=True)
    try:
        eager = threshold_step.METHODS[method](image)
    except DegenerateError:
        return
    with dask.config.set(scheduler=refuse):
        lazy, again = (threshold_step.METHODS[method](image.chunk(y=y, x=x)) for _ in range(2))
    assert lazy.chunks is not None and lazy.data.name == again.data.name
    with dask.config.set(scheduler="sync"):
        xr.testing.assert_identical(lazy.compute(), eager)
        level, info = threshold_step.threshold(image.chunk(y=y, x=x), method)
    assert level == float(eager) == threshold_step.threshold(image, method)[0]
    assert info == threshold_step.threshold(image, method)[1]
    xr.testing.assert_identical(image, kept)


@settings(max_examples=6, deadline=None)
@given(values=VALUES, y=st.integers(3, 12), x=st.integers(3, 16))
def test_hysteresis(values, y, x):
    image = repeated(values)
    eager = threshold_step.hysteresis(image, 1, 100)
    with dask.config.set(scheduler=refuse):
        lazy, again = (threshold_step.hysteresis(image.chunk(y=y, x=x), 1, 100) for _ in range(2))
    assert lazy.chunks is not None and lazy.data.name == again.data.name
    xr.testing.assert_identical(lazy.compute(scheduler="sync"), eager)
    assert Grid.of(lazy).difference_from(Grid.of(image)) is None


def test_every_table_of_methods_is_tested_here():
    steps = Path(difference_step.__file__).parent
    tables = {
        p.stem for p in steps.glob("*.py") if re.search(r"^METHODS\b", p.read_text("utf-8"), re.MULTILINE)
    }
    assert tables == {"difference", "threshold"}, (
        "test the new table's methods in this file, then name it here"
    )
