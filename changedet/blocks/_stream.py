"""Arrays that are made window by window, for work that reads files and writes files.

A :class:`Stream` knows its shape and how to make any window of itself; a kernel applied to streams is a
stream again. Nothing is computed before a window is asked for, and nothing is kept afterwards. Streams whose
windows are made together share what they have in common, so that a pixel is read once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from changedet.blocks._tiles import Array, Tile, map_strips, map_tiles, part, windows
from changedet.errors import GridError
from changedet.grid import Window, grow

Memo = dict[tuple[int, int, int, int, int], Any]
"""Windows already made, by stream and extent, while several streams make the same window."""


@dataclass(frozen=True, eq=False)
class Stream(NDArrayOperatorsMixin):
    """An array ``(…, y, x)`` that is made window by window; NumPy functions make all of it.

    Parameters
    ----------
    make : makes one window; what it needs of other streams comes through the memo
    shape, dtype : of the whole array
    tile : (rows, columns) in which work on all of it is best done
    threads : tiles in work at one time
    pick : makes a window of a choice along the leading axes, where that is less work than a choice from all
    """

    make: Callable[[Window, Memo], Array]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    tile: tuple[int, int]
    threads: int = 1
    pick: Callable[[tuple[Any, ...], Window], Array] | None = None

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape))

    @property
    def extent(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.shape[-2], self.shape[-1]

    def tiles(self) -> list[Tile]:
        """Return the tiles that cover the array, row by row."""
        return list(windows(self.extent, self.tile))

    def window(self, window: Window, memo: Memo | None = None) -> Array:
        """Return ``(…, y, x)`` of a window with explicit ends."""
        memo = {} if memo is None else memo
        rows, columns = window
        key = (id(self), rows.start, rows.stop, columns.start, columns.stop)
        if key not in memo:
            memo[key] = self.make(window, memo)
        return np.asarray(memo[key])

    def each(self, use: Callable[[Tile], Any]) -> list[Any]:
        """Run a function on every tile, some at a time; return what it gives in the order of the tiles."""
        return map_tiles(use, self.tiles(), threads=self.threads)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Make all of it."""
        return np.asarray(self._picked((slice(None), slice(None))), dtype)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **params: Any) -> Any:
        """Make all of it first."""
        return getattr(ufunc, method)(*map(_whole, inputs), **params)

    def __array_function__(
        self, function: Callable[..., Any], types: Any, args: Sequence[Any], params: Mapping[str, Any]
    ) -> Any:
        """Make all of it first."""
        return function(*_whole(args), **{k: _whole(v) for k, v in params.items()})

    def __getitem__(self, key: Any) -> Any:
        """Choose along the leading axes and stay a stream; any choice of rows and columns is made at once."""
        key = key if isinstance(key, tuple) else (key,)
        missing = (slice(None),) * (self.ndim - sum(k is not Ellipsis and k is not None for k in key))
        at = next((i for i, k in enumerate(key) if k is Ellipsis), len(key))
        key = key[:at] + missing + key[at + 1 :]
        if sum(isinstance(k, np.ndarray) for k in key) > 1:
            return self._points(key) if _of_points(key) else self._meshed(key)
        lead, space = tuple(_simple(k) for k in key[:-2]), key[-2:]
        chosen = self
        shape = np.empty(self.shape[:-2], np.bool_)[lead].shape
        if not _everything(lead):
            chosen = self._leading(lead, (*shape, *self.extent))
        return chosen if _everything(space) else chosen._picked(space)

    def transpose(self, *axes: Any) -> Array:
        """Make all of it and exchange axes."""
        return np.asarray(self).transpose(*axes)

    def astype(self, dtype: Any, **how: Any) -> Array:
        """Make all of it and cast it."""
        return np.asarray(self).astype(dtype, **how)

    def _meshed(self, key: tuple[Any, ...]) -> Array:
        """Make what an open mesh of positions chooses, which is how xarray asks for several axes at once."""
        if not all(isinstance(k, np.ndarray) for k in key):
            return np.asarray(np.asarray(self)[key])
        axes, shape = [np.ravel(k) for k in key], np.broadcast_shapes(*(k.shape for k in key))
        if np.prod(shape) != np.prod([axis.size for axis in axes]):  # single positions
            return np.asarray(np.asarray(self)[key])
        lead = np.ix_(*axes[:-2])
        chosen = self._leading(lead, (*(axis.size for axis in axes[:-2]), *self.extent))
        made = chosen._picked((axes[-2], axes[-1]))
        return np.asarray(made.reshape(shape))

    def _leading(self, lead: tuple[Any, ...], shape: tuple[int, ...]) -> Stream:
        """Return the stream of some of the leading axes."""
        pick = self.pick

        def make(window: Window, memo: Memo) -> Array:
            return np.asarray(self.window(window, memo)[lead] if pick is None else pick(lead, window))

        return replace(self, make=make, shape=shape, pick=None)

    def _points(self, key: tuple[Any, ...]) -> Array:
        """Make single pixels, which is how xarray asks for places, (…, place)."""
        rows, columns = (np.asarray(k) % n for k, n in zip(key[-2:], self.extent, strict=True))
        out = np.empty((*self.shape[:-2], rows.size), self.dtype)

        def fill(tile: Tile) -> None:
            inside = [(a >= s.start) & (a < s.stop) for a, s in zip((rows, columns), tile.inner, strict=True)]
            at = np.flatnonzero(inside[0] & inside[1])
            if at.size:
                made = self.window(tile.inner)
                out[..., at] = made[..., rows[at] - tile.inner[0].start, columns[at] - tile.inner[1].start]

        self.each(fill)
        return np.asarray(out[key[:-2]])

    def _picked(self, space: tuple[Any, Any]) -> Array:
        """Make some rows and columns; tiles without any are not made."""
        wanted = [np.arange(n)[k] for n, k in zip(self.extent, space, strict=True)]
        rows, columns = (np.atleast_1d(axis) for axis in wanted)
        out = np.empty((*self.shape[:-2], rows.size, columns.size), self.dtype)

        def fill(tile: Tile) -> None:
            inside = [
                np.flatnonzero((axis >= side.start) & (axis < side.stop))
                for axis, side in zip((rows, columns), tile.inner, strict=True)
            ]
            if all(at.size for at in inside):
                r, c = rows[inside[0]], columns[inside[1]]
                top, left = int(r.min()), int(c.min())
                made = self.window((slice(top, int(r.max()) + 1), slice(left, int(c.max()) + 1)))
                out[(..., *_span(*inside))] = made[(..., *_span(r - top, c - left))]

        self.each(fill)
        return out.reshape((*self.shape[:-2], *(n for axis in wanted for n in axis.shape)))


def _of_points(key: tuple[Any, ...]) -> bool:
    """Return True for a choice of single pixels, whole along the leading axes or cut by slices."""
    rows, columns = key[-2:]
    lead = all(isinstance(k, slice) for k in key[:-2])
    return lead and all(isinstance(k, np.ndarray) and k.ndim == 1 for k in (rows, columns))


def _simple(key: Any) -> Any:
    """Return a choice of rising neighbors as a slice, which takes no copy."""
    if isinstance(key, np.ndarray) and key.ndim == 1 and key.size and (np.diff(key) == 1).all():
        return slice(int(key[0]), int(key[-1]) + 1)
    return key


def _everything(space: tuple[Any, ...]) -> bool:
    """Return True where a choice leaves nothing out."""
    return all(isinstance(k, slice) and k == slice(None) for k in space)


def _span(*axes: Array) -> tuple[Any, ...]:
    """Return rising, evenly spaced positions as slices (a view), others as an open mesh."""
    steps = [int(at[1] - at[0]) if at.size > 1 else 1 for at in axes]
    if all(s > 0 and (np.diff(at) == s).all() for at, s in zip(axes, steps, strict=True)):
        return tuple(slice(int(at[0]), int(at[-1]) + 1, s) for at, s in zip(axes, steps, strict=True))
    return np.ix_(*axes)


def _whole(value: Any) -> Any:
    """Replace streams by arrays, in lists and tuples too."""
    if isinstance(value, Stream):
        return np.asarray(value)
    return type(value)(map(_whole, value)) if isinstance(value, (list, tuple)) else value


def read_stream(
    read: Callable[[Window], Array],
    shape: tuple[int, ...],
    *,
    dtype: Any,
    tile: tuple[int, int],
    threads: int = 1,
    pick: Callable[[tuple[Any, ...], Window], Array] | None = None,
) -> Stream:
    """Return a stream of what a function reads.

    Parameters
    ----------
    read : returns ``(…, y, x)`` of a window of the last two axes; called from several threads at a time
    shape, dtype : of the whole
    tile : (rows, columns) of a window to work on
    threads : windows in work at one time
    pick : see :class:`Stream`
    """
    return Stream(partial(_read, read, shape[:-2]), shape, np.dtype(dtype), tile, threads, pick)


def read_together(
    read: Callable[[Window], tuple[Array, ...]],
    like: Sequence[tuple[tuple[int, ...], Any]],
    how: dict[str, Any],
) -> list[Stream]:
    """Return streams that are read together: of those that make the same window, each reads it for all.

    Parameters
    ----------
    read : returns a window of each of them, ``(…, y, x)``
    like : shape and dtype of each of them
    how : ``tile`` and ``threads``, see :class:`Stream`
    """

    def made(which: int, window: Window, memo: Memo) -> Array:
        ends = (window[0].start, window[0].stop, window[1].start, window[1].stop)
        key = (id(read), *ends)  # of the tuple; streams have ids of their own
        if key not in memo:
            memo[key] = read(window)
        return np.asarray(memo[key][which])

    return [Stream(partial(made, i), shape, np.dtype(kind), **how) for i, (shape, kind) in enumerate(like)]


def _read(read: Callable[[Window], Array], lead: tuple[int, ...], window: Window, memo: Memo) -> Array:
    """Read a window and look at its shape."""
    block = read(window)
    wanted = (*lead, *(side.stop - side.start for side in window))
    if block.shape != wanted:
        raise GridError(
            f"rows {window[0].start}–{window[0].stop}, columns {window[1].start}–{window[1].stop} were read "
            f"as {block.shape}; wanted {wanted}; check that every layer of the scene has the same size"
        )
    return block


def held(array: Array, like: Stream) -> Stream:
    """Return a stream of an array in memory, with the tiles and threads of another."""
    return Stream(lambda window, _: array[(..., *window)], array.shape, array.dtype, like.tile, like.threads)


def map_stream(
    run: Callable[..., Array], halo_px: int, arrays: Sequence[Any], lead: tuple[int, ...]
) -> Stream:
    """Return the stream of a kernel's result.

    Parameters
    ----------
    run : kernel of ``(band, y, x)`` arrays, result ``(*lead, y, x)`` float32
    halo_px : reach of the kernel
    arrays : ``(band, y, x)`` streams or arrays on one extent, or ``(band, 1, 1)`` arrays
    lead : leading axes of the result
    """
    first = next(a for a in arrays if isinstance(a, Stream))
    shape = first.extent

    def make(window: Window, memo: Memo) -> Array:
        outer = grow(window, halo_px, shape)
        blocks = [a.window(outer, memo) if isinstance(a, Stream) else part(a, outer, shape) for a in arrays]
        trim = tuple(slice(w.start - o.start, w.stop - o.start) for w, o in zip(window, outer, strict=True))
        return np.asarray(map_strips(run, halo_px, 1, blocks, lead)[..., trim[0], trim[1]])

    threads = max(a.threads for a in arrays if isinstance(a, Stream))
    return Stream(make, (*lead, *shape), np.dtype(np.float32), first.tile, threads)
