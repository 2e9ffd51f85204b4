"""A large array on the disk between the steps of one run: written in windows, read in windows.

It is no format: nobody reads it but the run that made it, which deletes it. Pixels are stored as they are, in
tiles that hold all dates and bands of their place, so that a small window through all dates lies close
together. Files are read, not mapped: what was read does not count as the process's memory any longer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from changedet.blocks import Stream, read_stream
from changedet.errors import WriteError
from changedet.grid import Window

Array = npt.NDArray[Any]

TILE_PX = 128
"""Side of a tile."""


class Scratch:
    """An array ``(…, y, x)`` in a file.

    Parameters
    ----------
    path : of the file, made anew
    shape, dtype : of the whole array

    Raises
    ------
    WriteError
        The file cannot be made.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self.path, self.shape, self.dtype = path, shape, np.dtype(dtype)
        self._plane = self.dtype.itemsize * TILE_PX**2
        self._planes = int(np.prod(shape[:-2]))
        with self._failures():
            path.write_bytes(b"")

    def put(self, window: Window, values: Array) -> None:
        """Write a window that begins where tiles begin and ends where they, or the array, end.

        Parameters
        ----------
        window : rows and columns
        values : (…, y, x)

        Raises
        ------
        WriteError
            The disk is full, or the file is gone.
        """
        flat = values.reshape(self._planes, *values.shape[-2:])
        with self._failures(), open(self.path, "r+b", buffering=0) as file:
            for i, j in _tiles(window):
                top, left = (k * TILE_PX - w.start for k, w in zip((i, j), window, strict=True))
                part = flat[:, top : top + TILE_PX, left : left + TILE_PX]
                tile = np.zeros((self._planes, TILE_PX, TILE_PX), self.dtype)
                tile[:, : part.shape[1], : part.shape[2]] = part
                file.seek(self._place(i, j))
                rest = _bytes_of(tile)
                while rest:  # a disk that fills up takes a part before it refuses
                    rest = rest[file.write(rest) :]

    def read(self, window: Window, lead: tuple[Any, ...] = ()) -> Array:
        """Return ``(…, y, x)`` of a window; ``lead`` chooses along the leading axes."""
        planes = np.arange(self._planes).reshape(self.shape[:-2])[lead]
        size = tuple(part.stop - part.start for part in window)
        out = np.empty((planes.size, *size), self.dtype)
        with self._failures(), open(self.path, "rb", buffering=0) as file:
            for i, j in _tiles(window):
                (to_rows, rows), (to_columns, columns) = _common(window[0], i), _common(window[1], j)
                strip = np.empty((rows.stop - rows.start, TILE_PX), self.dtype)
                into_strip = _bytes_of(strip)
                start = self._place(i, j) + rows.start * TILE_PX * self.dtype.itemsize
                for into, plane in zip(out, planes.flat, strict=True):
                    file.seek(start + int(plane) * self._plane)
                    if file.readinto(into_strip) != len(into_strip):
                        raise OSError("it is cut short")
                    into[to_rows, to_columns] = strip[:, columns]
        return out.reshape(*planes.shape, *size)

    def stream(self, tile: tuple[int, int], threads: int = 1) -> Stream:
        """Return the array as a stream with these tiles."""

        def picked(lead: tuple[Any, ...], window: Window) -> Array:
            return self.read(window, lead)

        return read_stream(self.read, self.shape, dtype=self.dtype, tile=tile, threads=threads, pick=picked)

    def _place(self, i: int, j: int) -> int:
        """Return where in the file a tile begins."""
        across = -(-self.shape[-1] // TILE_PX)
        return (i * across + j) * self._planes * self._plane

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn what the system refuses into an error of ours."""
        try:
            yield
        except OSError as error:
            raise WriteError(
                f"{self.path.parent}: what lies on the disk between the steps cannot be kept there: "
                f"{error.strerror or error}; wanted room for the pixels of all scenes; free space, choose "
                "another output folder, or allow more with --memory"
            ) from error


def _bytes_of(array: Any) -> memoryview:
    """Return the memory of an array."""
    return memoryview(array).cast("B")


def _tiles(window: Window) -> Iterator[tuple[int, int]]:
    """Yield the numbers of the tiles that a window touches."""
    yield from product(*(range(part.start // TILE_PX, -(-part.stop // TILE_PX)) for part in window))


def _common(wanted: slice, k: int) -> tuple[slice, slice]:
    """Return what the ``k``-th tile gives of a wanted range: as seen from the range, and from the tile."""
    low = k * TILE_PX
    first, last = max(wanted.start, low), min(wanted.stop, low + TILE_PX)
    return slice(first - wanted.start, last - wanted.start), slice(first - low, last - low)
