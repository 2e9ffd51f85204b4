"""Scenes on one grid: the stack that every step works on, and the pair of images for ``diff``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from changedet.blocks import from_reader, read_stream, read_together
from changedet.errors import BandError, CRSError, DateError, InputError, TooFewScenesError
from changedet.grid import Grid, Window, attach, grow
from changedet.io import _repair
from changedet.io._aoi import aoi_window
from changedet.io._collect import Inputs
from changedet.io._read import Kept, SceneReader
from changedet.io._scale import agree
from changedet.io.files import sha256
from changedet.io.products import Day, as_scenes, between, by_date, find_scenes, require_dates, select
from changedet.scenes import Scene, make_stack

if TYPE_CHECKING:
    import xarray as xr
    from shapely.geometry.base import BaseGeometry

__all__ = ["Kept", "Streaming", "common_bands", "open_stack", "read_pair", "scene_sha256", "sha256"]

Dates = str | Iterable[str] | Mapping[str, str] | None
Names = str | Sequence[str] | None


def open_stack(
    scenes: Inputs | Sequence[Scene],
    *,
    aoi: BaseGeometry | None = None,
    aoi_crs: Any = "EPSG:4326",
    since: Day = None,
    until: Day = None,
    bands: Names = None,
    warp: bool = False,
    date: Dates = None,
    band_names: Names = None,
    repair_masks: bool = True,
    chunk_px: int | None = None,
    streaming: Streaming | None = None,
) -> xr.Dataset:
    """Open scenes as a stack, in order of time.

    Parameters
    ----------
    scenes : paths (files, folders, globs), or records of :func:`~changedet.io.products.find_scenes`
    aoi : area to crop to at reading, in ``aoi_crs`` (lon/lat)
    since, until : first and last day, inclusive
    bands : names; by default those that all scenes share, in the order of the first scene
    warp : resample scenes that are on other grids onto that of the first scene in time
    date, band_names : where files do not say, see :func:`~changedet.io.products.find_scenes`
    repair_masks : give back pixels that masks take for cloud on date after date while all around is clear;
        with five masked scenes or more. They keep their flags: finite though flagged means given back
    chunk_px : side of the chunks of a lazy (dask) stack; None reads everything now
    streaming : read windows when they are asked for, without dask (see :class:`changedet.blocks.Stream`)

    Returns
    -------
    Dataset with ``image`` (time, band, y, x) float32 and ``quality`` (time, y, x) uint8, see
    :mod:`changedet.scenes`

    Raises
    ------
    DateError, BandError, GridError, CRSError, AOIError, TooFewScenesError, InputError
        The scenes do not fit together or the request does not fit the scenes.
    """
    found = as_scenes(scenes, date=date, band_names=band_names)
    if since is not None or until is not None:
        found = between(found, since, until)
    if not found:
        raise TooFewScenesError("no scene is left; wanted at least one; widen --since, --until or the area")
    require_dates(found)
    found = sorted(found, key=by_date)
    _require_one_geometry(found)
    _require_distinct(found)
    names = common_bands(found, bands)
    grid = found[0].grid
    if not warp:
        _require_same_grid(found, grid)
    window = aoi_window(aoi, grid, crs=aoi_crs) if aoi is not None else _whole(grid)
    return _stack(StackReader(tuple(found), names, grid, window, repair_masks), chunk_px, streaming)


def _whole(grid: Grid) -> Window:
    """Return the window that is the whole grid."""
    return slice(0, grid.shape[0]), slice(0, grid.shape[1])


def _require_distinct(scenes: list[Scene]) -> None:
    """Refuse two scenes of one moment, whatever their groups: a stack has one image a time."""
    for a, b in pairwise(scenes):
        if a.date == b.date:
            raise DateError(
                f"{a.path} and {b.path} are both of {str(a.date)[:19]}; wanted one scene a date in a stack; "
                "open them apart"
            )


def _require_one_geometry(scenes: list[Scene]) -> None:
    """Refuse SAR scenes of several orbits, bursts or passes in one stack."""
    groups = sorted({s.group for s in scenes if s.is_sar and s.group})
    if len(groups) > 1:
        raise InputError(
            f"SAR scenes of {len(groups)} geometries ({', '.join(groups)}); wanted one orbit, burst and "
            "pass: others see other sides of things; open them apart"
        )


def _require_same_grid(scenes: list[Scene], grid: Grid) -> None:
    """Refuse scenes that are not on the grid of the first."""
    for scene in scenes[1:]:
        grid.require_same(scene.grid, name=scene.id, reference=scenes[0].id)


def common_bands(scenes: Sequence[Scene], bands: Names = None) -> tuple[str, ...]:
    """Return the bands to read: those asked for, else those that all scenes share (order of the first).

    Raises
    ------
    BandError
        A band asked for is not in every scene, or no band is in all of them.
    """
    if bands is not None:
        wanted = tuple(b.strip() for b in (bands.split(",") if isinstance(bands, str) else bands))
        if not wanted or len(set(wanted)) != len(wanted):
            raise BandError(f"bands {wanted} are empty or repeat; wanted each band once")
        for scene in scenes:
            select(scene, wanted)
        return wanted
    shared = tuple(b for b in scenes[0].bands if all(b in s.bands for s in scenes))
    if not shared:
        words = "; ".join(f"{s.id}: {', '.join(s.bands)}" for s in scenes[:4])
        raise BandError(f"the scenes share no band ({words}); name bands alike with --band-names")
    return shared


@dataclass(frozen=True)
class StackReader:
    """Reads windows of a whole stack.

    Parameters
    ----------
    scenes : in order of time
    bands : names
    grid : grid of the first scene
    window : part of it that is the stack
    repair_masks : give back pixels that masks take for cloud because they are bright, see
        :mod:`changedet.io._repair`
    kept : keeps stored values for another pass
    """

    scenes: tuple[Scene, ...]
    bands: tuple[str, ...]
    grid: Grid
    window: Window
    repair_masks: bool = False
    kept: Kept | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the stack."""
        rows, columns = self.window
        return rows.stop - rows.start, columns.stop - columns.start

    def read(self, window: Window) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """Return (time, band, y, x) float32 and (time, y, x) uint8 of a window of the stack."""
        rows, columns = self._on_grid(window)
        size = (rows.stop - rows.start, columns.stop - columns.start)
        image = np.empty((len(self.scenes), len(self.bands), *size), np.float32)
        quality = np.empty((len(self.scenes), *size), np.uint8)
        masked, trusted = self._masks((rows, columns))
        for i, scene in enumerate(self.scenes):
            known = {} if masked is None else {"masked": masked[i], "trusted": trusted[i]}
            quality[i] = SceneReader(scene, self.bands, self.grid).into(image[i], (rows, columns), **known)
        return image, quality

    def image(self, window: Window) -> npt.NDArray[np.float32]:
        """Return (band, y, x) float32 of a window of the only scene."""
        reader = SceneReader(self.scenes[0], self.bands, self.grid, self.kept)
        return reader(self._on_grid(window))[0]

    def _on_grid(self, window: Window) -> Window:
        """Return a window of the stack as one of the grid."""
        rows, columns = (
            slice(part.start + own.start, part.stop + own.start)
            for part, own in zip(window, self.window, strict=True)
        )
        return rows, columns

    def _masks(self, window: Window) -> tuple[Any, Any]:
        """Return the flags of all masks in a window, and where they are not to be believed.

        Masks are read in a larger window, so that the answer does not depend on where windows end.
        """
        if not self.repair_masks or sum(bool(s.masks) for s in self.scenes) < _repair.MIN_SCENES:
            return None, None
        reach = _repair.reach_px(self.grid.gsd_m)
        outer = grow(window, reach, self.grid.shape)
        flags = np.stack([SceneReader(s, self.bands, self.grid).masked(outer) for s in self.scenes])
        inner = tuple(slice(w.start - o.start, w.stop - o.start) for w, o in zip(window, outer, strict=True))
        at = (slice(None), *inner)
        return flags[at], _repair.eaten(flags, reach)[at]

    def __call__(self, window: Window) -> npt.NDArray[np.float32]:
        """Return image and quality as one (time, band + 1, y, x) array, so that each window is read once."""
        image, quality = self.read(window)
        return np.concatenate([image, quality[:, None].astype(np.float32)], axis=1)

    @property
    def token(self) -> str:
        """Name that depends on what is read alone: paths, sizes and times of the files, and the records."""
        digest = hashlib.sha256()
        for scene in self.scenes:
            for path in scene.files:
                status = os.stat(path)
                digest.update(f"{path}|{status.st_size}|{status.st_mtime_ns}|".encode())
            digest.update(repr((scene.layers, scene.masks, scene.decibel)).encode())
        digest.update(repr((self.bands, self.grid, self.window, self.repair_masks)).encode())
        return digest.hexdigest()[:24]


def _stack(reader: StackReader, chunk_px: int | None, streaming: Streaming | None) -> xr.Dataset:
    """Make the stack of a reader, now or lazily."""
    image: Any
    quality: Any
    if streaming is not None:
        tile = streaming.tile(reader.scenes[0].layers[0].block, reader.shape)
        dates, bands = len(reader.scenes), len(reader.bands)
        like = [((dates, bands, *reader.shape), np.float32), ((dates, *reader.shape), np.uint8)]
        image, quality = read_together(reader.read, like, {"tile": tile, "threads": streaming.threads})
    elif chunk_px is None:
        image, quality = reader.read((slice(0, reader.shape[0]), slice(0, reader.shape[1])))
    else:
        shape = (len(reader.scenes), len(reader.bands) + 1, *reader.shape)
        both = from_reader(reader, shape, dtype=np.float32, chunk_px=chunk_px, token=reader.token)
        image, quality = both[:, :-1], both[:, -1].astype(np.uint8)
    scenes = reader.scenes
    stack = make_stack(
        image,
        reader.grid.crop(reader.window),
        dates=np.array([s.date for s in scenes], "datetime64[ns]"),
        bands=reader.bands,
        quality=quality,
        scenes=tuple(s.id for s in scenes),
        sensors=tuple(s.sensor for s in scenes),
    )
    return stack.assign_coords(gsd_m=("time", np.array([s.grid.gsd_m for s in scenes])))


@dataclass(frozen=True)
class Streaming:
    """How a pair is read window by window, each time that a window is asked for.

    Parameters
    ----------
    pixels : about that many make a window; windows end where tiles of the file do
    threads : windows in work at one time
    kept : keeps what was read for another pass
    """

    pixels: int = 1 << 19
    threads: int = 1
    kept: Kept | None = None

    def tile(self, block: tuple[int, int], shape: tuple[int, int]) -> tuple[int, int]:
        """Return (rows, columns) of a window of a file with ``block`` (rows, columns) in a tile."""
        side = int(np.sqrt(self.pixels))
        columns = min(-(-side // block[1]) * block[1], shape[1])
        rows = max(self.pixels // columns // block[0], 1) * block[0]
        return min(rows, shape[0]), columns


def read_pair(
    before: Inputs | Scene,
    after: Inputs | Scene,
    *,
    aoi: BaseGeometry | None = None,
    bands: Names = None,
    warp: bool = False,
    band_names: Names = None,
    chunk_px: int | None = None,
    streaming: Streaming | None = None,
) -> tuple[xr.DataArray, xr.DataArray]:
    """Read two images of one place for a difference; dates are not needed.

    Parameters
    ----------
    before, after : each a scene: a path, several paths or a glob that make one scene, or a record
    aoi : lon/lat area to crop to
    bands, band_names, warp, chunk_px : as in :func:`open_stack`; the grid is that of ``before``
    streaming : read windows when they are asked for, without dask (see :class:`changedet.blocks.Stream`)

    Returns
    -------
    (before, after), each (band, y, x) float32, NaN = not usable, with ``spatial_ref`` where georeferenced

    Raises
    ------
    GridError, CRSError, BandError, InputError
        The two do not fit together.
    """
    pair = _pair(before, after, band_names)
    _require_both_georeferenced(*pair)
    _require_one_geometry(pair)
    names = common_bands(pair, bands)
    grid = pair[0].grid
    if not warp:
        grid.require_same(pair[1].grid, name=pair[1].id, reference=pair[0].id)
    elif not grid.georeferenced:
        grid.require_same(pair[1].grid, name=pair[1].id, reference=pair[0].id)
    window = aoi_window(aoi, grid) if aoi is not None else _whole(grid)
    kept = None if streaming is None else streaming.kept
    readers = [StackReader((s,), names, grid, window, kept=kept) for s in pair]
    one, two = (_image(reader, chunk_px, streaming) for reader in readers)
    return one, two


def _pair(before: Inputs | Scene, after: Inputs | Scene, band_names: Names) -> list[Scene]:
    """Return the two records; assumed scales are agreed between them."""
    out = []
    for side, given in (("BEFORE", before), ("AFTER", after)):
        found = [given] if isinstance(given, Scene) else find_scenes(given, band_names=band_names)
        if len(found) != 1:
            names = ", ".join(s.id for s in found[:6])
            raise InputError(f"{side} holds {len(found)} scenes ({names}); wanted one; give its files")
        out.append(found[0])
    return agree(out)


def _require_both_georeferenced(before: Scene, after: Scene) -> None:
    """Refuse a pair of which only one is georeferenced."""
    if before.grid.georeferenced != after.grid.georeferenced:
        bare, other = (before, after) if after.grid.georeferenced else (after, before)
        raise CRSError(
            f"{bare.path} has no CRS but {other.path} has ({other.grid.crs}); wanted both georeferenced, or "
            "neither; georeference the first"
        )


def _image(reader: StackReader, chunk_px: int | None, streaming: Streaming | None = None) -> xr.DataArray:
    """Return the only scene of a reader as (band, y, x)."""
    scene, shape = reader.scenes[0], (len(reader.bands), *reader.shape)
    data: Any
    if streaming is not None:
        tile = streaming.tile(scene.layers[0].block, reader.shape)
        data = read_stream(reader.image, shape, dtype=np.float32, tile=tile, threads=streaming.threads)
    elif chunk_px is None:
        data = reader.image((slice(0, reader.shape[0]), slice(0, reader.shape[1])))
    else:
        data = from_reader(reader.image, shape, dtype=np.float32, chunk_px=chunk_px, token=reader.token)
    image = attach(
        data,
        reader.grid.crop(reader.window),
        dims=("band", "y", "x"),
        coords={"band": np.array(reader.bands, dtype=object)},
        name="image",
    )
    date = None if scene.date is None else str(scene.date)[:19]
    return image.assign_attrs(scene=scene.id, sensor=scene.sensor, date=date)


def scene_sha256(scene: Scene) -> str:
    """Return one checksum for all the files of a scene (that of the file itself where there is one)."""
    sums = [sha256(path) for path in scene.files]
    if len(sums) == 1:
        return sums[0]
    return hashlib.sha256("\n".join(sorted(sums)).encode()).hexdigest()
