"""A run whose stack is larger than the memory allowed: in windows, with the same result."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
from affine import Affine

from changedet.errors import WriteError
from changedet.grid import Grid, attach
from changedet.io.raster import write_cog
from changedet.io.scratch import TILE_PX, Scratch
from changedet.io.stack import Streaming, open_stack
from changedet.pipeline import Plan, _windowed
from changedet.pipeline._memory import fits, window_pixels
from changedet.pipeline.run import run

BANDS = ("blue", "green", "red", "nir")
SHAPE = (150, 290)
RASTERS = ("statistic", "first_seen", "labels", "composite_before", "composite_after")
COLORS = np.array([(0.06, 0.07, 0.05, 0.02), (0.03, 0.06, 0.04, 0.35), (0.10, 0.12, 0.16, 0.22)])
DATES = np.datetime64("2024-01-10") + np.arange(10) * np.timedelta64(33, "D")
IN_MEMORY = Plan().with_set(["detector.sample_px=2000", "sensitivity.quick_count=3"])
IN_WINDOWS = IN_MEMORY.with_set(["compute.memory=1MB"])


def write_scenes(folder, gsd_m=3.0):
    """Write scenes with ground of its own, a pier, a scene that lies a pixel off, and one without use."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(1)
    which = np.clip((gaussian_filter(rng.standard_normal((SHAPE[0] + 2, SHAPE[1] + 2)), 6) * 14 + 1), 0, 2)
    which = which.astype(int)
    which[:, : SHAPE[1] // 3] = 0
    base = COLORS[which].transpose(2, 0, 1) * rng.normal(1, 0.1, (4, *which.shape))
    for t, date in enumerate(DATES):
        off = int(t == 3)
        image = base[:, off : off + SHAPE[0], off : off + SHAPE[1]] * rng.normal(1, 0.04, (4, 1, 1))
        image = image * rng.normal(1, 0.02, image.shape)
        if t >= 5:
            image[:, 120:136, 40:46] = 0.32
        if t == 6:
            image[:, :145] = 0  # nearly all of it is no data
            image[:, :, :288] = 0
        stored = np.round(image * 1e4).astype(np.uint16)
        grid = Grid.make("EPSG:32652", Affine(gsd_m, 0, 600_000, 0, -gsd_m, 4_700_000), SHAPE)
        coords = {"band": np.array(BANDS, dtype=object)}
        path = folder / f"scene_{str(date).replace('-', '')}.tif"
        write_cog(path, attach(stored, grid, dims=("band", "y", "x"), coords=coords), nodata=0)
    return folder


@pytest.fixture(scope="module", params=[3.0, 0.6], ids=["as read", "averaged"])
def both(request, tmp_path_factory):
    """The same run in memory and in windows: folder and result of each."""
    folder = tmp_path_factory.mktemp("windowed")
    (folder / "scenes").mkdir()
    write_scenes(folder / "scenes", request.param)
    seen = []

    def progress(stage, done, total):
        seen.append(stage)

    changes = {"sensitivity.quick": request.param == 3.0}
    whole = run([folder / "scenes"], folder / "whole", IN_MEMORY.with_values(changes))
    parts = run([folder / "scenes"], folder / "parts", IN_WINDOWS.with_values(changes), progress=progress)
    assert "ready" in seen  # it was worked on in windows
    return folder, whole, parts


def test_a_run_in_windows_gives_the_same_files(both):
    folder, whole, _ = both
    for name in RASTERS:
        one, other = (rasterio.open(folder / d / f"{name}.tif").read() for d in ("whole", "parts"))
        np.testing.assert_array_equal(one, other)
    one, other = ((folder / d / "structures.geojson").read_text() for d in ("whole", "parts"))
    assert one == other
    assert len(whole.structures) > 0


def test_a_run_in_windows_records_the_same(both):
    folder, _, _ = both
    one, other = (json.loads((folder / d / "run.json").read_text()) for d in ("whole", "parts"))
    assert one.keys() == other.keys()
    for key in one.keys() - {"plan", "timings", "peak_memory_mb"}:
        assert one[key] == other[key], key
    assert any(not s["used"] for s in one["scenes"])
    assert any(s.get("shift_applied") for s in one["scenes"])
    assert any(s.get("gain", [1])[0] != 1 for s in one["scenes"])


def test_nothing_is_left_on_the_disk_and_the_stack_can_still_be_looked_at(both):
    folder, whole, parts = both
    assert sorted(p.name for p in (folder / "parts").iterdir()) == sorted(
        p.name for p in (folder / "whole").iterdir()
    )
    for name in ("image", "quality"):
        np.testing.assert_array_equal(np.asarray(parts.stack[name].data), whole.stack[name].values)
    assert set(parts.stack.coords) == set(whole.stack.coords)


def test_a_run_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def refused(self, window, values):
        raise WriteError("disk full")

    monkeypatch.setattr(Scratch, "put", refused)
    write_scenes(tmp_path)
    with pytest.raises(WriteError, match="disk full"):
        run([tmp_path], tmp_path / "out", IN_WINDOWS)
    assert not (tmp_path / "out").exists()


def test_a_stack_is_in_memory_only_where_it_fits(tmp_path):
    write_scenes(tmp_path)
    stack = open_stack([tmp_path], streaming=Streaming(1 << 14))
    assert _windowed.is_streamed(stack)
    assert fits(stack, IN_MEMORY)
    assert not fits(stack, IN_WINDOWS)


def test_windows_are_smaller_with_more_dates_and_less_memory():
    roomy, tight = (Plan().with_set([f"compute.memory={m}"]) for m in ("4GB", "1GB"))
    assert window_pixels(100, 4, tight) < window_pixels(20, 4, tight) < window_pixels(20, 4, roomy)


def test_streams_of_a_stack_are_what_is_read_at_once(tmp_path):
    write_scenes(tmp_path)
    whole, lazy = open_stack([tmp_path]), open_stack([tmp_path], streaming=Streaming(1 << 14))
    for name in ("image", "quality"):
        np.testing.assert_array_equal(np.asarray(lazy[name].data), whole[name].values)


# ------------------------------------------------------------------------------------ the scratch file


@pytest.fixture
def kept(tmp_path):
    """Random values in a scratch file, written in windows of two tiles."""
    shape = (3, 2, 2 * TILE_PX + 40, TILE_PX + 7)
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    values[0, :, ::7] = np.nan
    file = Scratch(tmp_path / "values", shape, np.float32)
    for top in (2 * TILE_PX, 0):
        window = (slice(top, min(top + 2 * TILE_PX, shape[2])), slice(0, shape[3]))
        file.put(window, values[(..., *window)])
    return file, values


@pytest.mark.parametrize(
    "window",
    [
        (slice(0, 2 * TILE_PX + 40), slice(0, TILE_PX + 7)),
        (slice(3, 9), slice(TILE_PX - 2, TILE_PX + 2)),
        (slice(TILE_PX, 2 * TILE_PX), slice(0, TILE_PX)),
        (slice(2 * TILE_PX + 39, 2 * TILE_PX + 40), slice(TILE_PX + 6, TILE_PX + 7)),
    ],
)
def test_any_window_of_a_scratch_file_can_be_read(kept, window):
    file, values = kept
    np.testing.assert_array_equal(file.read(window), values[(..., *window)])
    lead = (np.array([2, 0]), slice(1, 2))
    np.testing.assert_array_equal(file.read(window, lead), values[lead][(..., *window)])


def test_a_scratch_file_as_a_stream_gives_dates_and_places(kept):
    import xarray as xr

    file, values = kept
    dims = ("time", "band", "y", "x")
    lazy, whole = xr.DataArray(file.stream((100, 90)), dims=dims), xr.DataArray(values, dims=dims)
    at = {"y": xr.DataArray([5, 280, 130], dims="place"), "x": xr.DataArray([134, 0, 77], dims="place")}
    choices = [
        at,
        {"time": 1},
        {"time": [2, 0], "y": slice(9, 20)},
        {"band": 1, "y": [4, 200], "x": [0, 130]},
    ]
    for chosen in choices:
        np.testing.assert_array_equal(lazy.isel(chosen).values, whole.isel(chosen).values)


def test_a_scratch_file_that_is_cut_short_or_gone_is_an_error_of_ours(kept):
    file, _ = kept
    window = (slice(0, 4), slice(0, 4))
    file.path.write_bytes(b"short")
    with pytest.raises(WriteError, match="cut short"):
        file.read(window)
    file.path.unlink()
    with pytest.raises(WriteError, match="free space"):
        file.read(window)
    with pytest.raises(WriteError):
        file.put((slice(0, TILE_PX), slice(0, TILE_PX)), np.zeros((3, 2, TILE_PX, TILE_PX), np.float32))
