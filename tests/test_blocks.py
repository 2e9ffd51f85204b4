"""blocks: tiles, kernels on chunks, reductions, labels across chunks, lazy reading."""

import threading

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from changedet.blocks import (
    Pixelwise,
    Reduction,
    Windowed,
    _tiles,
    check_parameters,
    chunked_like,
    from_reader,
    is_lazy,
    label,
    map_tiles,
    parameters,
    sampled,
    windows,
)
from changedet.errors import GridError, InputError, SettingError, UnknownSettingError


def refuse(*_args, **_kwargs):
    raise RuntimeError("computed while building the graph")


def image(*shape, seed=0, **attrs):
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return xr.DataArray(values, dims=("band", "y", "x")[-len(shape) :], attrs=attrs)


def box_sum(first, *_others, radius_px: int = 1):
    """Sum over a window of the first band; NaN counts as 0; an exact local kernel (integers in float)."""
    padded = np.pad(np.nan_to_num(np.round(first[0] * 64)), radius_px)
    size = 2 * radius_px + 1
    return sum(
        padded[dy : dy + first.shape[1], dx : dx + first.shape[2]] for dy in range(size) for dx in range(size)
    ).astype(np.float32)


def subtract(before, after, *, factor: float = 1.0):
    return ((after[0] - before[0]) * np.float32(factor)).astype(np.float32)


# --- windows and map_tiles ---------------------------------------------------------------------------------


@given(rows=st.integers(1, 30), columns=st.integers(1, 30), size=st.integers(1, 40), halo=st.integers(0, 5))
def test_windows_cover_every_pixel_once_and_halo_stays_inside(rows, columns, size, halo):
    count = np.zeros((rows, columns), int)
    for tile in windows((rows, columns), size, halo_px=halo):
        count[tile.inner] += 1
        outer = np.arange(rows * columns).reshape(rows, columns)[tile.outer]
        inner = np.arange(rows * columns).reshape(rows, columns)[tile.inner]
        np.testing.assert_array_equal(outer[tile.trim], inner)
        assert (
            outer.shape[0] <= min(size, rows) + 2 * halo and outer.shape[1] <= min(size, columns) + 2 * halo
        )
    assert (count == 1).all()


@pytest.mark.parametrize(("size", "halo"), [(0, 0), ((4, 0), 0), (4, -1)])
def test_windows_refuse_nonsense_before_iterating(size, halo):
    with pytest.raises(SettingError, match="at least"):
        windows((8, 8), size, halo_px=halo)


@pytest.mark.parametrize("threads", [1, 3])
def test_map_tiles_keeps_order_and_ticks(threads):
    ticks = []
    tiles = windows((10, 10), 3)
    result = map_tiles(
        lambda t: t.inner[0].start * 10 + t.inner[1].start, tiles, threads=threads, tick=ticks.append
    )
    assert result == [r * 10 + c for r in (0, 3, 6, 9) for c in (0, 3, 6, 9)]
    assert ticks == [1] * 16


def test_map_tiles_begins_nothing_more_after_a_failure():
    begun, gate = [], threading.Event()

    def work(tile):
        begun.append(tile)
        if len(begun) == 1:
            raise OSError("disk")
        gate.wait(0.05)

    with pytest.raises(OSError, match="disk"):
        map_tiles(work, windows((100, 1), 1), threads=2)
    assert len(begun) < 20


# --- Pixelwise and Windowed --------------------------------------------------------------------------------


def test_strips_and_threads_equal_one_block(monkeypatch):
    before, after = image(2, 37, 11), image(2, 37, 11, seed=1)
    whole = [Pixelwise(subtract)(before, after), Windowed(box_sum, "radius_px")(before, radius_px=3)]
    monkeypatch.setattr(_tiles, "STRIP_BYTES", 1)
    for threads in (1, 2):
        cut = Pixelwise(subtract)(before, after, threads=threads)
        xr.testing.assert_identical(cut, whole[0])
        cut = Windowed(box_sum, "radius_px")(before, radius_px=3, threads=threads)
        xr.testing.assert_identical(cut, whole[1])
    np.testing.assert_array_equal(whole[0], after[0] - before[0])


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 13),
    columns=st.integers(1, 13),
    radius=st.integers(0, 5),
    chunk=st.tuples(st.integers(1, 13), st.integers(1, 13), st.integers(1, 2)),
)
def test_windowed_has_no_seams(rows, columns, radius, chunk):
    whole = image(2, rows, columns)
    chunks = {"y": min(chunk[0], rows), "x": min(chunk[1], columns), "band": chunk[2]}
    method = Windowed(box_sum, "radius_px")
    with dask.config.set(scheduler=refuse):
        lazy = method(whole.chunk(chunks), radius_px=radius)
    assert is_lazy(lazy) and lazy.dtype == np.float32
    xr.testing.assert_identical(lazy.compute(scheduler="sync"), method(whole, radius_px=radius))


def test_labels_attrs_and_grid_mapping_are_kept():
    before = image(2, 4, 5, source="s2", date="2024-01-01", scale_factor=0.0001, units="reflectance")
    before = before.assign_coords(
        y=np.arange(4.0),
        x=np.arange(5.0),
        band=["red", "nir"],
        spatial_ref=0,
        time=np.datetime64("2024-01-01"),
    )
    before.encoding["grid_mapping"] = "spatial_ref"
    after = before.assign_coords(time=np.datetime64("2024-02-01")).assign_attrs(date="2024-02-01")
    result = Pixelwise(subtract, unit="dB")(before, after)
    assert result.dims == ("y", "x") and set(result.coords) == {"y", "x", "spatial_ref"}
    assert result.attrs == {"source": "s2", "units": "dB"}
    assert result.encoding["grid_mapping"] == "spatial_ref"
    assert before.attrs["scale_factor"] == 0.0001


def test_dimension_order_and_missing_band_do_not_matter():
    one = image(1, 4, 5)
    flat = one.isel(band=0)
    result = Pixelwise(subtract)(one.transpose("x", "band", "y"), one * 2)
    np.testing.assert_array_equal(result, Pixelwise(subtract)(flat, flat * 2))


def test_eager_and_lazy_inputs_mix():
    before, after = image(2, 6, 6), image(2, 6, 6, seed=2)
    mixed = Pixelwise(subtract)(before, after.chunk(y=2))
    assert mixed.chunks == ((2, 2, 2), (6,))
    xr.testing.assert_identical(mixed.compute(), Pixelwise(subtract)(before, after))


def test_misaligned_images_and_extra_dimensions_are_refused():
    before = image(1, 4, 5).assign_coords(x=np.arange(5.0))
    with pytest.raises(GridError, match="do not align"):
        Pixelwise(subtract)(before, before.assign_coords(x=np.arange(5.0) + 0.5))
    with pytest.raises(GridError, match="do not align"):
        Pixelwise(subtract)(image(1, 4, 5), image(1, 4, 6))
    with pytest.raises(InputError, match="time"):
        Pixelwise(subtract)(before.expand_dims("time"), before)


def test_parameters_are_read_from_the_signature_and_checked():
    assert parameters(Pixelwise(subtract)) == {"factor": 1.0}
    assert parameters(Windowed(box_sum, "radius_px")) == {"radius_px": 1}
    assert parameters(Reduction(lambda block, *, bins=4: block, np.add, np.asarray)) == {"bins": 4}
    assert parameters(lambda before, *, threads=1, k=2: None) == {"k": 2}
    with pytest.raises(UnknownSettingError, match="factor"):
        check_parameters(Pixelwise(subtract), {"facto": 2})
    with pytest.raises(UnknownSettingError, match="did you mean 'factor'"):
        Pixelwise(subtract)(image(1, 2, 2), image(1, 2, 2), factr=2.0)


def test_chunked_like_follows_the_template():
    template = image(4, 6)
    assert not is_lazy(chunked_like(template, template))
    assert chunked_like(template, template.chunk(y=2)).chunks == ((2, 2), (6,))


def test_large_images_are_sampled_regularly():
    large = xr.DataArray(np.arange(100.0).reshape(10, 10), dims=("y", "x"))
    assert sampled(large, 25).shape == (5, 5) and sampled(large, 100).shape == (10, 10)


# --- Reduction ---------------------------------------------------------------------------------------------


def count(block, *, edges=(-1.0, 0.0, 1.0)):
    return np.histogram(block[np.isfinite(block)], np.asarray(edges))[0]


@settings(max_examples=40, deadline=None)
@given(y=st.integers(1, 9), x=st.integers(1, 7))
def test_counts_do_not_depend_on_chunks(y, x):
    whole = image(2, 9, 7)
    counts = Reduction(count, np.add, np.asarray, dims=(("bin", 2),))
    with dask.config.set(scheduler=refuse):
        lazy, again = (counts(whole.chunk(y=y, x=x)) for _ in range(2))
    assert lazy.shape == (2,) and lazy.data.name == again.data.name
    np.testing.assert_array_equal(lazy.compute(), counts(whole))
    assert counts(whole).dtype == np.float64


def test_reduction_in_strips_and_with_a_lazy_tuning_value(monkeypatch):
    monkeypatch.setattr(_tiles, "STRIP_BYTES", 1)
    whole = image(2, 9, 7)
    largest = Reduction(np.max, np.maximum, np.asarray)
    above = Reduction(share_above, np.add, np.asarray)
    np.testing.assert_array_equal(largest(whole), whole.max())
    with dask.config.set(scheduler=refuse):
        lazy = above(whole.chunk(y=2), level=largest(whole.chunk(x=3)))
    assert float(lazy) == float(above(whole, level=largest(whole))) == 1


def share_above(block, *, level=0.0):
    return int((block >= level).sum())


def test_reduction_keeps_band_names():
    whole = image(2, 4, 5).assign_coords(band=["red", "nir"])
    sums = Reduction(lambda b: b.astype(np.float64).sum(axis=(1, 2)), np.add, np.asarray, dims=("band",))
    for result in (sums(whole), sums(whole.chunk(y=2)).compute()):
        assert list(result.band.values) == ["red", "nir"]
        np.testing.assert_allclose(result, whole.sum(("y", "x")), rtol=1e-6)


# --- label -------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    shape=st.tuples(st.integers(1, 17), st.integers(1, 17)),
    chunk=st.tuples(st.integers(1, 17), st.integers(1, 17)),
    density=st.floats(0, 1),
    connectivity=st.sampled_from([4, 8]),
)
def test_labels_are_global_and_in_raster_order(seed, shape, chunk, density, connectivity):
    mask = xr.DataArray(np.random.default_rng(seed).random(shape) < density, dims=("y", "x"))
    labels, number = label(mask, connectivity)
    structure = np.ones((3, 3)) if connectivity == 8 else None
    expected, n = ndimage.label(mask.values, structure)
    assert number == n and labels.dtype == np.int32
    values, first = np.unique(labels.values[mask.values], return_index=True)
    np.testing.assert_array_equal(values, np.arange(1, n + 1))
    assert (np.diff(first) > 0).all()
    np.testing.assert_array_equal(labels, expected)
    with dask.config.set(scheduler=refuse):
        lazy, lazy_number = label(
            mask.chunk(y=min(chunk[0], shape[0]), x=min(chunk[1], shape[1])), connectivity
        )
    assert is_lazy(lazy) and lazy.dtype == np.int32
    np.testing.assert_array_equal(lazy.compute(scheduler="sync"), labels)
    assert int(lazy_number) == n


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    chunk=st.tuples(st.integers(1, 12), st.integers(1, 9)),
    density=st.floats(0, 0.1),
    connectivity=st.sampled_from([4, 8]),
)
def test_parts_without_a_seed_are_dropped(seed, chunk, density, connectivity):
    rng = np.random.default_rng(seed)
    mask, seeds = (xr.DataArray(rng.random((12, 9)) < share, dims=("y", "x")) for share in (0.4, density))
    labels, number = label(mask, connectivity, seeds=seeds)
    every, _ = label(mask, connectivity)
    marked = np.setdiff1d(every.values[seeds.values], [0])
    np.testing.assert_array_equal(labels > 0, np.isin(every, marked))
    assert number == marked.size and set(np.unique(labels)) - {0} == set(range(1, number + 1))
    with dask.config.set(scheduler=refuse):
        lazy, lazy_number = label(mask.chunk(y=chunk[0], x=chunk[1]), connectivity, seeds=seeds)
    np.testing.assert_array_equal(lazy.compute(scheduler="sync"), labels)
    assert int(lazy_number) == number


def test_label_of_chunks_has_one_name_and_refuses_other_connectivity():
    mask = image(8, 8) > 0
    names = {label(mask.chunk(y=3), 8)[0].data.name for _ in range(2)}
    assert len(names) == 1
    with pytest.raises(SettingError, match="4"):
        label(mask, 6)


# --- from_reader -------------------------------------------------------------------------------------------


def test_reader_is_called_with_windows_only_when_needed():
    source = np.arange(2 * 10 * 7, dtype=np.uint16).reshape(2, 10, 7)
    calls = []

    def read(window):
        calls.append(window)
        return source[(slice(None), *window)]

    lazy = from_reader(read, source.shape, dtype=np.float32, chunk_px=4, token="a")
    assert not calls and lazy.dtype == np.float32 and lazy.chunks == ((2,), (4, 4, 2), (4, 3))
    part = lazy[:, 4:8, :4].compute(scheduler="sync")
    assert len(calls) == 1 and part.dtype == np.float32
    np.testing.assert_array_equal(lazy.compute(scheduler="sync"), source)


def test_reader_names_tell_chunkings_and_types_apart():
    def name(**changes):
        options = {"dtype": np.float32, "chunk_px": 4, "token": "a"} | changes
        return from_reader(lambda w: None, (1, 8, 8), **options).name

    assert name() == name()
    assert len({name(), name(chunk_px=8), name(token="b"), name(dtype=np.uint8)}) == 4


def test_a_reader_that_returns_another_shape_is_named():
    lazy = from_reader(lambda w: np.zeros((1, 2, 2)), (1, 8, 8), dtype=np.float32, chunk_px=4, token="a")
    with pytest.raises(GridError, match="same size"):
        lazy.compute(scheduler="sync")
