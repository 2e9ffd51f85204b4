"""A run in windows: what is larger than the memory allowed lies on the disk between its steps.

Pixels are read and decoded once, window by window, into a scratch file; statistics of whole scenes are
counted on the way, registration and normalization look at samples. What these make of the pixels is written
once more, and everything after that reads windows. Every window is computed by the same functions as a whole
stack is, so the result is the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from changedet.blocks import Memo, Stream, Tile, map_tiles, read_together, windows
from changedet.errors import WriteError
from changedet.grid import Window, grow
from changedet.io.scratch import TILE_PX, Scratch
from changedet.pipeline._work import Clock, Progress
from changedet.pipeline.plan import Plan
from changedet.scenes import UNUSABLE
from changedet.steps import aggregate, align, normalize

Array = npt.NDArray[Any]
Pair = tuple[Array, Array]
"""Image (time, band, y, x) and quality (time, y, x) of a window."""

PIXELS = ("image", "quality")


class Scratchpad:
    """Where the pixels of a run lie between its steps.

    Parameters
    ----------
    folder : of the files
    threads : windows in work at one time
    progress : called as windows are done
    """

    def __init__(self, folder: Path, threads: int, progress: Progress) -> None:
        self.folder, self.threads, self.progress = folder, threads, progress
        self.lasting: xr.Dataset | None = None
        """The aligned and normalized stack, made from the input's own files when it is asked for."""
        self._source: xr.Dataset | None = None
        self._files: dict[str, Scratch] = {}

    def read_once(self, stack: xr.Dataset) -> tuple[xr.Dataset, Array, Array]:
        """Read the files of a stack into the scratch file.

        Returns
        -------
        stack : as kept here
        usable, repaired : (time,) share of pixels usable in every band, and of those given back from a mask
        """
        usable, repaired, one_by_one = *np.zeros((2, stack.sizes["time"]), np.int64), Lock()

        def read(window: Window) -> Pair:
            image, quality = pair_of(stack, window)
            valid = np.isfinite(image).all(axis=1)
            counts = valid.sum(axis=(1, 2)), (valid & ((quality & np.uint8(UNUSABLE)) > 0)).sum(axis=(1, 2))
            with one_by_one:
                usable[:] += counts[0]
                repaired[:] += counts[1]
            return image, quality

        self._source, pixels = stack, stack.sizes["y"] * stack.sizes["x"]
        return self._keep(stack, "read", read), usable / pixels, repaired / pixels

    def prepared(self, usable: xr.Dataset, plan: Plan, clock: Clock) -> xr.Dataset:
        """Align and normalize usable scenes of the stack that was read."""
        with clock("align"):
            options = plan.keywords(align.align)
            above = {"apply_above_px": options.pop("apply_above_px")}
            moved = Moved(usable, align.register(usable, **options), above)
        with clock("normalize"):
            lines = normalize.find_lines(moved.stack(), **plan.keywords(normalize.normalize))
            done = Lined(moved, lines)
            if self._source is not None:
                at = np.isin(self._source.time.values, usable.time.values)
                source = self._source.isel(time=np.flatnonzero(at)).assign_coords(usable.coords)
                self.lasting = Lined(Moved(source, moved.found, above), lines).stack()
            return self._keep(done.labeled(), "ready", done.pair, drop="read")

    def aggregated(self, native: xr.Dataset, size: int) -> xr.Dataset:
        """Average a stack over blocks of ``size`` × ``size`` pixels."""
        if size == 1:
            return native

        def read(window: Window) -> Pair:
            rows, columns = (slice(part.start * size, part.stop * size) for part in window)
            made = aggregate.aggregate(_part(native, (rows, columns)), size)
            return made.image.values, made.quality.values

        tile = native.image.data.tile
        like = [
            ((*native[k].shape[:-2], native.sizes["y"] // size, native.sizes["x"] // size), native[k].dtype)
            for k in PIXELS
        ]
        how = {"tile": (tile[0] // size, tile[1] // size), "threads": self.threads}
        hollow = aggregate.labelled(native, size, *read_together(read, like, how))
        return self._keep(hollow, "blocks", read)

    def _keep(
        self, stack: xr.Dataset, name: str, make: Callable[[Window], Pair], *, drop: str = ""
    ) -> xr.Dataset:
        """Make a stack window by window and keep its pixels; those called ``drop`` are needed no longer."""
        for key in PIXELS:
            path = self.folder / f"{name}-{key}"
            self._files[f"{name}-{key}"] = Scratch(path, stack[key].shape, stack[key].dtype)
        files = [self._files[f"{name}-{key}"] for key in PIXELS]

        def work(one: Tile) -> None:
            for file, values in zip(files, make(one.inner), strict=True):
                file.put(one.inner, values)

        rows, columns = (-(-side // TILE_PX) * TILE_PX for side in stack.image.data.tile)
        todo, done = list(windows((stack.sizes["y"], stack.sizes["x"]), (rows, columns))), 0

        def tick(count: int) -> None:
            nonlocal done
            done += count
            self.progress(name, done, len(todo))

        map_tiles(work, todo, threads=self.threads, tick=tick)
        for key in PIXELS if drop else ():
            self._files.pop(f"{drop}-{key}").path.unlink()
        streams = [file.stream((rows, columns), self.threads) for file in files]
        return stack.assign({k: stack[k].copy(data=s) for k, s in zip(PIXELS, streams, strict=True)})


@contextmanager
def scratchpad(folder: Path, threads: int, progress: Progress) -> Iterator[Scratchpad]:
    """Give room on the disk inside a folder; it is given back whatever happens."""
    try:
        held = tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True)
    except OSError as error:
        raise WriteError(f"{folder} cannot be written: {error.strerror}; choose another folder") from error
    with held as name:
        yield Scratchpad(Path(name), threads, progress)


def is_streamed(stack: xr.Dataset) -> bool:
    """Return True where the pixels of a stack are read when they are asked for."""
    return isinstance(stack.image.data, Stream)


@dataclass(frozen=True)
class Moved:
    """A stack of streams whose scenes are moved, window by window.

    Parameters
    ----------
    usable : the stack
    found : how its scenes lie
    above : which shifts are applied
    """

    usable: xr.Dataset
    found: list[align.Registration]
    above: dict[str, Any]

    def part(self, window: Window) -> xr.Dataset:
        """Return a window in memory, moved."""
        shape = (self.usable.sizes["y"], self.usable.sizes["x"])
        outer = grow(window, align.reach_px(self.found, **self.above), shape)
        seen = align.seen_from(self.found, outer[0].start, outer[1].start)
        moved = align.resample(_part(self.usable, outer), seen, **self.above)
        inner = [slice(w.start - o.start, w.stop - o.start) for w, o in zip(window, outer, strict=True)]
        return moved.isel(y=inner[0], x=inner[1])

    def stack(self) -> xr.Dataset:
        """Return the moved stack, of streams."""
        return _streamed(self.usable, self.part)


@dataclass(frozen=True)
class Lined:
    """A stack of streams whose scenes are moved and brought to one radiometry, window by window."""

    moved: Moved
    lines: list[normalize.Normalization]

    def part(self, window: Window) -> xr.Dataset:
        """Return a window in memory."""
        return normalize.apply_lines(self.moved.part(window), self.lines)

    def pair(self, window: Window) -> Pair:
        """Return image and quality of a window."""
        made = self.part(window)
        return made.image.values, made.quality.values

    def labeled(self) -> xr.Dataset:
        """Return the stack as it is before, with all coordinates that it has after."""
        corner = self.part((slice(0, 1), slice(0, 1)))
        return self.moved.usable.assign_coords({k: v for k, v in corner.coords.items() if "time" in v.dims})

    def stack(self) -> xr.Dataset:
        """Return the stack, of streams."""
        return _streamed(self.labeled(), self.part)


def _streamed(like: xr.Dataset, part: Callable[[Window], xr.Dataset]) -> xr.Dataset:
    """Return a stack of streams that are made of windows in memory."""

    def read(window: Window) -> Pair:
        made = part(window)
        return made.image.values, made.quality.values

    how = {"tile": like.image.data.tile, "threads": like.image.data.threads}
    streams = read_together(read, [(like[k].shape, like[k].dtype) for k in PIXELS], how)
    return like.assign({k: like[k].copy(data=s) for k, s in zip(PIXELS, streams, strict=True)})


def pair_of(stack: xr.Dataset, window: Window) -> Pair:
    """Make image and quality of a window of a stack of streams together."""
    memo: Memo = {}
    image, quality = (stack[key].data.window(window, memo) for key in PIXELS)
    return image, quality


def _part(stack: xr.Dataset, window: Window) -> xr.Dataset:
    """Return a window of a stack of streams in memory."""
    bare = stack.drop_vars(PIXELS).isel(y=window[0], x=window[1])
    pixels = pair_of(stack, window)
    return bare.assign({k: (stack[k].dims, values) for k, values in zip(PIXELS, pixels, strict=True)})
