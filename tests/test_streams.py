"""Streams: arrays made window by window give what whole arrays give, once, and share what they share."""

import threading
from collections import Counter

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st

from changedet.blocks import (
    Pixelwise,
    Reduction,
    Stream,
    Windowed,
    _tiles,
    each_window,
    in_memory,
    label,
    read_stream,
    sampled,
)
from changedet.errors import GridError, UnreadableError
from changedet.grid import Grid, attach
from changedet.io import _overviews
from changedet.io._read import Kept
from changedet.io.raster import write_cog
from changedet.io.stack import Streaming, read_pair
from changedet.steps import segment as segment_step
from changedet.steps.difference import METHODS, difference

GRID = Grid.make("EPSG:32652", Affine(10, 0, 500_000, 0, -10, 4_800_000), (70, 90))
BANDS = ("blue", "green", "red", "nir")


def as_stream(image, tile=(16, 24), threads=1, seen=None):
    """Give an image as a stream that notes which windows are read."""
    values = image.values

    def read(window):
        if seen is not None:
            seen[tuple((side.start, side.stop) for side in window)] += 1
        return values[(..., *window)].copy()

    stream = read_stream(read, values.shape, dtype=values.dtype, tile=tile, threads=threads)
    return image.copy(data=stream)


def drawn(seed=0, bands=BANDS, grid=GRID):
    rng = np.random.default_rng(seed)
    values = (0.2 + 0.02 * rng.standard_normal((len(bands), *grid.shape))).astype(np.float32)
    values[:, 5:9, 30:60] = np.nan
    coords = {"band": np.array(bands, dtype=object)}
    return attach(values, grid, dims=("band", "y", "x"), coords=coords)


def pair(bands=BANDS):
    before, after = drawn(0, bands), drawn(1, bands)
    after.values[:, 20:34, 40:60] += 0.2
    return before, after


def total(*arrays):
    return np.sum([a.sum(axis=0) for a in arrays], axis=0).astype(np.float32)


def box(first, *, radius_px=1):
    padded = np.pad(first[0], radius_px)
    rows, columns = first.shape[1:]
    n = 2 * radius_px + 1
    return sum(padded[i : i + rows, j : j + columns] for i in range(n) for j in range(n)).astype(np.float32)


# --- arrays ------------------------------------------------------------------------------------------------

index = st.sampled_from([
    slice(None), slice(3, 50), slice(60, 5, -7), slice(None, None, 9), slice(None, None, 31), 17, [3, 44, 40],
])  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(rows=index, columns=index, bands=st.sampled_from([slice(None), [2, 0], [0, 1, 2, 3], 1, slice(1, 3)]))
def test_any_choice_is_that_of_the_array(rows, columns, bands):
    image = drawn()
    found = as_stream(image).isel(band=bands, y=rows, x=columns)
    wanted = image.isel(band=bands, y=rows, x=columns)
    xr.testing.assert_identical(found.copy(data=np.asarray(found.data)), wanted)


def test_choosing_bands_reads_nothing_and_choosing_pixels_reads_their_tiles_alone():
    seen = Counter()
    stream = as_stream(drawn(), seen=seen)
    assert isinstance(stream.isel(band=[3, 1]).data, Stream) and isinstance(stream.isel(band=0).data, Stream)
    assert not seen
    stream.isel(y=slice(0, 4), x=slice(0, 4)).values  # noqa: B018
    assert dict(seen) == {((0, 4), (0, 4)): 1}
    assert sampled(stream, 100).shape == (4, 10, 13)


def test_numpy_sees_the_whole_array():
    image = drawn(bands=("red",))
    stream = as_stream(image)
    np.testing.assert_array_equal(np.asarray(stream), image)
    np.testing.assert_array_equal((stream + 1).values, image + 1)
    np.testing.assert_array_equal(np.concatenate([stream.data, stream.data]), np.concatenate([image, image]))
    assert not isinstance(abs(stream).data, Stream) and stream.data.size == image.size


def test_kernels_stay_streams_without_seams():
    image, other = drawn(), drawn(1)
    for threads in (1, 3):
        lazy, more = as_stream(image, threads=threads), as_stream(other, tile=(70, 90))
        for method in (Pixelwise(total), Windowed(box, "radius_px")):
            found = method(lazy, more) if method.kernel is total else method(lazy, radius_px=3)
            assert isinstance(found.data, Stream)
            wanted = method(image, other) if method.kernel is total else method(image, radius_px=3)
            xr.testing.assert_identical(found.copy(data=np.asarray(found.data)), wanted)


def test_kernels_may_give_several_bands():
    def both(a, b):
        return np.stack([a[0], b[0] - a[0]])

    method = Pixelwise(both, bands=("first", "change"))
    wanted = method(*pair())
    assert wanted.dims == ("band", "y", "x") and list(wanted.band.values) == ["first", "change"]
    np.testing.assert_array_equal(wanted.sel(band="change"), (pair()[1] - pair()[0])[0])
    streamed = method(*map(as_stream, pair()))
    chunked = method(*(image.chunk(y=30, x=40) for image in pair()))
    for found in (streamed.copy(data=np.asarray(streamed.data)), chunked.compute()):
        xr.testing.assert_identical(found, wanted)


def test_reductions_of_streams():
    count = Reduction(lambda a, b: np.asarray(np.isfinite(a + b).sum()), np.add, np.asarray)
    image = drawn()
    plain = xr.DataArray(np.ones(GRID.shape, np.float32), dims=("y", "x"))
    assert count(as_stream(image), image) == count(image, image)
    assert count(image, as_stream(plain)) == count(image, plain)


def test_what_is_made_together_is_read_once():
    seen = Counter()
    stream = as_stream(drawn(), seen=seen)
    doubled = Pixelwise(lambda a: 2 * a[0])(stream)
    twice = Pixelwise(lambda a: 2 * a[0])(doubled)
    out = {name: np.zeros(GRID.shape, np.float32) for name in ("doubled", "twice", "plain")}

    def use(window, arrays):
        for name, values in arrays.items():
            out[name][window] = values

    plain = Pixelwise(total)(drawn())
    each_window({"doubled": doubled, "twice": twice, "plain": plain}, use)
    assert set(seen.values()) == {1} and len(seen) == 5 * 4
    np.testing.assert_array_equal(out["twice"], 2 * out["doubled"])
    np.testing.assert_array_equal(out["plain"], plain)


@pytest.mark.parametrize("kind", ["eager", "dask", "stream"])
def test_windows_of_any_kind_cover_the_image_once(kind):
    image = drawn()
    given = {"eager": image, "dask": image.chunk(y=30, x=40), "stream": as_stream(image, threads=3)}[kind]
    covered, busy = np.zeros(GRID.shape, int), threading.Lock()

    def use(window, arrays):
        assert busy.acquire(blocking=False), "used twice at a time"
        covered[window] += 1
        np.testing.assert_array_equal(arrays["image"], image[(slice(None), *window)])
        busy.release()

    each_window({"image": given}, use, threads=2)
    assert (covered == 1).all()


def test_an_image_kept_in_memory_is_made_once_and_still_streamed():
    seen = Counter()
    kept = in_memory(as_stream(drawn(), seen=seen))
    assert isinstance(kept.data, Stream) and set(seen.values()) == {1}
    Pixelwise(total)(kept).values  # noqa: B018
    assert set(seen.values()) == {1}
    assert in_memory(drawn()).identical(drawn())


def test_a_reader_that_returns_another_shape_is_named():
    stream = read_stream(lambda window: np.zeros((3, 3)), (8, 8), dtype=np.float32, tile=(4, 4))
    with pytest.raises(GridError, match=r"rows 0–4, columns 0–4 were read as \(3, 3\)"):
        np.asarray(stream)


# --- methods -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_the_same_of_streams(method):
    images = pair(("vv", "vh")) if method == "omnibus" else pair()
    wanted = difference(*images, method)
    found = difference(*(as_stream(image, tile=(32, 32), threads=2) for image in images), method)
    if isinstance(wanted, xr.DataArray):
        wanted, found = xr.Dataset({"magnitude": wanted}), xr.Dataset({"magnitude": found})
    assert list(found) == list(wanted) and all(isinstance(found[name].data, Stream) for name in found)
    for name in wanted:
        assert found[name].attrs == wanted[name].attrs or method in ("auto", "pca-kmeans")
        np.testing.assert_allclose(found[name].values, wanted[name].values, rtol=1e-5, atol=1e-6)


# --- labels ------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 99),
    shape=st.tuples(st.integers(0, 30), st.integers(0, 12)),
    pixels=st.integers(1, 60),
    density=st.floats(0, 1),
    connectivity=st.sampled_from([4, 8]),
    seeded=st.booleans(),
)
def test_labels_in_strips_are_those_of_the_whole(seed, shape, pixels, density, connectivity, seeded):
    rng = np.random.default_rng(seed)
    mask, marks = rng.random(shape) < density, rng.random(shape) < 0.1
    dims = {"dims": ("y", "x")}
    seeds = xr.DataArray(marks & mask, **dims) if seeded else None
    wanted, number = label(xr.DataArray(mask, **dims), connectivity, seeds=seeds)
    streamed = as_stream(xr.DataArray(mask, **dims), tile=(4, 5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_tiles, "LABEL_PX", pixels)
        found, count = label(streamed, connectivity, seeds=seeds)
    assert count == number and found.dtype == np.int32
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("signed", [False, True])
def test_objects_of_a_large_image_are_the_same(monkeypatch, signed):
    rng = np.random.default_rng(3)
    image = attach(rng.normal(size=GRID.shape).astype(np.float32), GRID).assign_attrs(signed=signed)
    image[10:12, 5:9], image[0, 0] = np.nan, np.inf
    options = {"low": 0.8, "high": 2.0, "min_area_m2": 350, "fill_holes_m2": 150}
    labels, table = segment_step.segment(image, **options)
    assert len(table) > 10
    monkeypatch.setattr(segment_step, "WHOLE_PX", 0)
    monkeypatch.setattr(segment_step, "STRIP_PX", 7)
    monkeypatch.setattr(_tiles, "LABEL_PX", 900)
    for holes in (options["fill_holes_m2"], 0):
        options["fill_holes_m2"] = holes
        again, also = segment_step.segment(image, **options)
        if holes:
            xr.testing.assert_identical(again, labels)
            assert also.drop(columns="geometry").equals(table.drop(columns="geometry"))
        else:
            monkeypatch.undo()
            xr.testing.assert_identical(again, segment_step.segment(image, **options)[0])


# --- files -------------------------------------------------------------------------------------------------


def test_a_streamed_pair_is_the_pair(tmp_path):
    for name, image in zip(("a.tif", "b.tif"), pair(), strict=True):
        write_cog(tmp_path / name, image)
    files = tmp_path / "a.tif", tmp_path / "b.tif"
    whole = read_pair(*files, bands="nir,blue")
    kept = Kept(1 << 20)
    streamed = read_pair(*files, bands="nir,blue", streaming=Streaming(1 << 10, 2, kept))
    for _ in range(2):
        for one, other in zip(streamed, whole, strict=True):
            assert isinstance(one.data, Stream)
            xr.testing.assert_identical(one.copy(data=np.asarray(one.data)), other)
    kept.clear()
    assert np.array_equal(np.asarray(streamed[0].data), whole[0].values, equal_nan=True)
    kept.clear()


def test_what_is_kept_is_not_read_again_as_far_as_there_is_room(tmp_path, monkeypatch):
    from changedet.io import _read

    write_cog(tmp_path / "a.tif", drawn())
    reads = []
    real = _read.read_window
    monkeypatch.setattr(_read, "read_window", lambda *a, **k: reads.append(1) or real(*a, **k))
    monkeypatch.setattr(Streaming, "tile", lambda self, block, shape: (35, 90))
    for room, again in ((1 << 20, 0), (35 * 90 * 4 * 4, 1), (0, 2)):
        image = read_pair(tmp_path / "a.tif", tmp_path / "a.tif", streaming=Streaming(kept=Kept(room)))[0]
        reads.clear()
        first = np.asarray(image.data)
        assert len(reads) == 2
        np.testing.assert_array_equal(np.asarray(image.data), first)
        assert len(reads) == 2 + again


def test_a_file_that_breaks_while_it_stays_open_is_named(tmp_path):
    path = write_cog(tmp_path / "a.tif", drawn(), compress="deflate")
    image = read_pair(path, path, streaming=Streaming(kept=Kept()))[0]
    np.asarray(image.data)
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(UnreadableError, match=r"a\.tif"):
        np.asarray(read_pair(path, path, streaming=Streaming(kept=Kept()))[0].data)


@pytest.mark.parametrize(
    ("block", "shape", "wanted"),
    [
        ((512, 512), (5000, 5000), (512, 1024)),
        ((1, 5000), (5000, 5000), (104, 5000)),
        ((1024, 1024), (900, 700), (900, 700)),
        ((256, 256), (5000, 5000), (512, 768)),
        ((5000, 5000), (5000, 5000), (5000, 5000)),
    ],
)
def test_windows_end_where_tiles_of_the_file_do(block, shape, wanted):
    assert Streaming().tile(block, shape) == wanted


# --- overviews ---------------------------------------------------------------------------------------------


def test_overviews_average_the_valid_pixels():
    values = np.array([[[1, 3, np.nan], [5, 7, np.nan], [2, np.nan, 4]]], np.float32)
    np.testing.assert_array_equal(_overviews.averaged(values), [[[4, np.nan], [2, 4]]])
    assert _overviews.averaged(values).dtype == np.float32


def test_overviews_are_halves_however_the_file_was_put_together(tmp_path, monkeypatch):
    grid = Grid.make("EPSG:32652", Affine(10, 0, 500_000, 0, -10, 4_800_000), (1301, 1100))
    rng = np.random.default_rng(0)
    values = rng.normal(size=grid.shape).astype(np.float32)
    values[100:400, 3:77] = np.nan
    image = attach(values, grid)
    write_cog(tmp_path / "whole.tif", image)
    write_cog(tmp_path / "chunks.tif", image.chunk(y=600, x=500))
    assert (tmp_path / "whole.tif").read_bytes() == (tmp_path / "chunks.tif").read_bytes()
    with rasterio.open(tmp_path / "whole.tif") as dataset:
        assert dataset.overviews(1) == [2, 4]
        half = dataset.read(1, out_shape=(651, 550))
        quarter = dataset.read(1, out_shape=(326, 275))
    np.testing.assert_allclose(half, _overviews.averaged(values[None])[0], rtol=1e-6)
    np.testing.assert_array_equal(quarter, _overviews.averaged(half[None])[0])
    classes = (values > 0).astype(np.uint8)
    write_cog(tmp_path / "classes.tif", attach(classes, grid), nodata=255, category_names={0: "no", 1: "yes"})
    with rasterio.open(tmp_path / "classes.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(1, out_shape=(651, 550)), classes[::2, ::2])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["chunks.tif", "classes.tif", "whole.tif"]
