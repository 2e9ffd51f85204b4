"""How work meets chunks: pixelwise, windowed with a halo, reductions, and labels across chunks.

Kernels know nothing of chunks or dask; this module is the only one that does. NumPy in, NumPy out; dask in,
dask out, with graph names that depend on the input alone. Eager work is cut into strips of rows too, so that
the working set fits the cache and threads can share it.

Results are the same to the bit on any chunking where the kernel allows it: it must compute a pixel from its
own neighborhood alone (no running sums along a line) and add bands in a loop, because NumPy's own sum over
an axis changes its order of additions with the shape of the block.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from changedet.blocks._dask import label_lazy, map_lazy
from changedet.blocks._stream import Memo, Stream, held, map_stream, read_stream, read_together
from changedet.blocks._tiles import (
    Array,
    Tile,
    label_array,
    label_strips,
    map_strips,
    map_tiles,
    part,
    renumber,
    spatial,
    strips,
    three_d,
    tree,
    windows,
)
from changedet.errors import GridError, InputError, SettingError, UnknownSettingError
from changedet.grid import Window

__all__ = [
    "Memo",
    "Pixelwise",
    "Reduction",
    "Stream",
    "Tile",
    "Windowed",
    "check_parameters",
    "chunked_like",
    "computed",
    "each_window",
    "from_reader",
    "in_memory",
    "is_lazy",
    "label",
    "map_tiles",
    "parameters",
    "read_stream",
    "read_together",
    "renumber",
    "sampled",
    "windows",
]

SAMPLE_PX = 1_000_000
"""Pixels from which robust quantiles are estimated."""

STORAGE_ATTRS = ("scale_factor", "add_offset", "_FillValue", "missing_value", "nodata", "valid_range")
"""Attributes that say how an input was stored; a computed result must not inherit them."""


def is_lazy(image: xr.DataArray) -> bool:
    """Return True where the data are a dask array."""
    return image.chunks is not None


def chunked_like(image: xr.DataArray, template: xr.DataArray) -> xr.DataArray:
    """Return the image as it is for an eager template, and as dask with its spatial chunks for a lazy one."""
    if not is_lazy(template):
        return image
    return image.chunk({d: template.chunksizes[d] for d in ("y", "x") if d in template.chunksizes})


def sampled(image: xr.DataArray, pixels: int = SAMPLE_PX) -> xr.DataArray:
    """Take every n-th row and column so that about ``pixels`` remain; the same for any chunking."""
    step = max(int(np.sqrt(image.sizes["y"] * image.sizes["x"] / pixels)), 1)
    return image.isel(y=slice(None, None, step), x=slice(None, None, step))


def from_reader(
    read: Callable[[Window], Array], shape: tuple[int, ...], *, dtype: Any, chunk_px: int, token: str
) -> Any:
    """Return a dask array that reads spatial windows when they are needed.

    Parameters
    ----------
    read : returns ``(..., y, x)`` of a window of the last two axes; work is sent as windows, not as arrays
    shape : shape of the whole array; the leading axes are never cut
    dtype : dtype of the result; what ``read`` returns is cast to it
    chunk_px : side of a chunk
    token : name that depends on what is read alone; shape, dtype and chunks are added to it here

    Raises
    ------
    GridError
        On computing: a window that was read has another shape than asked for.
    """
    import dask.array as da
    from dask.base import tokenize

    lead = shape[:-2]
    chunks = tuple((n,) for n in lead) + da.core.normalize_chunks(
        (chunk_px, chunk_px), shape=shape[-2:], dtype=dtype
    )
    return da.map_blocks(
        partial(_read_block, read, lead, np.dtype(dtype)),
        chunks=chunks,
        dtype=dtype,
        name=f"read-{tokenize(token, shape, np.dtype(dtype).str, chunks)}",
        meta=np.empty((0,) * len(shape), dtype),
    )


def _read_block(
    read: Callable[[Window], Array], lead: tuple[int, ...], dtype: npt.DTypeLike, block_info: Any = None
) -> Array:
    """Read the window that a dask block stands for."""
    (r0, r1), (c0, c1) = block_info[None]["array-location"][-2:]
    block = np.asarray(read((slice(r0, r1), slice(c0, c1))), dtype)
    wanted = (*lead, r1 - r0, c1 - c0)
    if block.shape != wanted:
        raise GridError(
            f"rows {r0}–{r1}, columns {c0}–{c1} were read as {block.shape}; wanted {wanted}; "
            "check that every layer of the scene has the same size"
        )
    return block


def parameters(method: Any) -> dict[str, Any]:
    """Return the tuning values of a method and their defaults, read from its kernel's signature.

    Parameters
    ----------
    method : Pixelwise, Windowed, Reduction, or a plain function whose tuning values are keyword-only
    """
    kernel = getattr(method, "kernel", None) or getattr(method, "chunk", None) or method
    signature = inspect.signature(kernel)
    return {
        name: p.default
        for name, p in signature.parameters.items()
        if p.kind is p.KEYWORD_ONLY and p.default is not p.empty and name != "threads"
    }


def check_parameters(method: Any, given: Mapping[str, Any]) -> None:
    """Refuse tuning values that the method does not declare.

    Raises
    ------
    UnknownSettingError
        The message names the nearest one that exists.
    """
    known = {*parameters(method), "threads"}
    for name in given:
        if name not in known:
            raise UnknownSettingError(name, known)


@dataclass(frozen=True)
class Pixelwise:
    """Each output pixel needs the same pixel of every input.

    Called as ``method(before, after, **params)`` on DataArrays ``(band, y, x)`` (band optional); returns a
    DataArray ``(y, x)`` float32, lazy where an input is, with the coordinates of the grid, the attributes on
    which the inputs agree, and ``units``. ``threads=n`` shares eager work.

    Parameters
    ----------
    kernel : ``(before, after, **params)`` of ``(band, y, x)`` arrays → ``(y, x)`` float32
    unit : unit of the result
    bands : names of the result's bands where the kernel gives ``(band, y, x)``
    """

    kernel: Callable[..., Array]
    unit: str = "1"
    bands: tuple[str, ...] = ()

    def __call__(self, *images: xr.DataArray, threads: int = 1, **params: Any) -> xr.DataArray:
        """Run the kernel on labelled images."""
        return _run(self, images, 0, threads, params)


@dataclass(frozen=True)
class Windowed:
    """Each output pixel needs the pixels within ``halo_px`` of every input; called as :class:`Pixelwise`.

    Where the image ends the kernel sees its end; it never sees the end of a chunk.

    Parameters
    ----------
    kernel : ``(before, after, **params)`` of ``(band, y, x)`` arrays → ``(y, x)`` float32
    halo_px : reach of the kernel, or the name of the tuning value that holds it
    unit : unit of the result
    bands : names along ``band`` of a result ``(band, y, x)``; none where it is ``(y, x)``
    """

    kernel: Callable[..., Array]
    halo_px: int | str
    unit: str = "1"
    bands: tuple[str, ...] = ()

    def __call__(self, *images: xr.DataArray, threads: int = 1, **params: Any) -> xr.DataArray:
        """Run the kernel on labelled images."""
        halo = self.halo_px
        if isinstance(halo, str):
            halo = int({**parameters(self.kernel), **params}[halo])
        return _run(self, images, halo, threads, params)


def _run(
    method: Pixelwise | Windowed,
    images: tuple[xr.DataArray, ...],
    halo_px: int,
    threads: int,
    params: dict[str, Any],
) -> xr.DataArray:
    """Run a pixelwise or windowed kernel and label the result."""
    check_parameters(method, params)
    core = _aligned(images)
    bands = getattr(method, "bands", ())
    lead = (len(bands),) if bands else ()
    result: xr.DataArray = xr.apply_ufunc(
        partial(_map_arrays, partial(method.kernel, **params), halo_px, threads, lead),
        *images,
        input_core_dims=core,
        output_core_dims=[["component", "y", "x"] if bands else ["y", "x"]],
        dask="allowed",
        join="exact",
        keep_attrs="drop_conflicts",
    )
    if bands:
        result = result.rename(component="band").assign_coords(band=np.array(bands, dtype=object))
    mapping = images[0].encoding.get("grid_mapping")
    if mapping is not None:
        result.encoding["grid_mapping"] = mapping
    result.attrs = {k: v for k, v in result.attrs.items() if k not in STORAGE_ATTRS} | {"units": method.unit}
    return result


def _aligned(images: tuple[xr.DataArray, ...]) -> list[list[str]]:
    """Return each image's dimensions in order; refuse unknown ones and images that do not align exactly."""
    for image in images:
        extra = set(map(str, image.dims)) - {"band", "y", "x"}
        if extra:
            raise InputError(
                f"image has dimensions {image.dims}; wanted (band, y, x) or (y, x); "
                f"select one {sorted(extra)[0]} first"
            )
    try:
        xr.align(*images, join="exact", copy=False)
    except ValueError as err:
        raise GridError(
            f"images do not align: {err}; wanted the same coordinates; warp or select them first"
        ) from err
    return [[d for d in ("band", "y", "x") if d in image.dims] for image in images]


def _map_arrays(
    run: Callable[..., Array], halo_px: int, threads: int, lead: tuple[int, ...], *arrays: Any
) -> Any:
    """Run a kernel on arrays, eagerly in strips, as a stream, or as a dask graph."""
    shaped = [three_d(a) for a in arrays]
    if any(hasattr(a, "dask") for a in shaped):
        return map_lazy(run, halo_px, shaped, lead)
    if any(isinstance(a, Stream) for a in shaped):
        return map_stream(run, halo_px, shaped, lead)
    return map_strips(run, halo_px, threads, shaped, lead)


@dataclass(frozen=True)
class Reduction:
    """A statistic of a whole image, said once: chunk(block), combine(a, b), finalise(total).

    Called on DataArrays it returns a DataArray, lazy where an image is. States are combined in a fixed tree,
    so the result does not depend on timing; it does not depend on the chunks either where ``combine`` is
    exact (counts, extrema, samples that are sorted in the end).

    Parameters
    ----------
    chunk : ``(*blocks, **params)`` of ``(band, y, x)`` arrays → state of one block
    combine : merges two states; associative
    finalise : total state → array
    dims : dimensions of the result: a name where the size is the images' own, else (name, size)
    """

    chunk: Callable[..., Any]
    combine: Callable[[Any, Any], Any]
    finalise: Callable[[Any], Any]
    dims: tuple[str | tuple[str, int], ...] = ()

    def __call__(self, *images: xr.DataArray, **params: Any) -> xr.DataArray:
        """Reduce labelled images; a tuning value may be another reduction's (lazy) result."""
        core = _aligned(images)
        arrays = [three_d(i.transpose(*c).data) for i, c in zip(images, core, strict=True)]
        values = {k: v.data if isinstance(v, xr.DataArray) else v for k, v in params.items()}
        dims = dict((d, images[0].sizes[d]) if isinstance(d, str) else d for d in self.dims)
        coords = {d: images[0].coords[d] for d in dims if d in images[0].coords}
        if any(hasattr(a, "dask") for a in arrays):
            data = self._lazy(arrays, values, tuple(int(n) for n in dims.values()))
        else:
            data = _array(self.finalise, self._total(arrays, values))
        return xr.DataArray(data, dims=list(dims), coords=coords)

    def _total(self, arrays: list[Any], params: dict[str, Any]) -> Any:
        """Reduce strip by strip, a stream tile by tile."""
        shape = spatial(arrays)
        chunk = partial(self.chunk, **params)
        first = next((a for a in arrays if isinstance(a, Stream)), None)
        if first is not None:
            whole = [a if isinstance(a, Stream) or a.shape[-2:] != shape else held(a, first) for a in arrays]

            def reduced(tile: Tile) -> Any:
                memo: dict[Any, Array] = {}
                return chunk(*(a.window(tile.inner, memo) if isinstance(a, Stream) else a for a in whole))

            return tree(first.each(reduced), self.combine)
        states = [chunk(*(part(a, t.outer, shape) for a in arrays)) for t in strips(arrays)]
        return tree(states or [chunk(*arrays)], self.combine)

    def _lazy(self, arrays: list[Any], params: dict[str, Any], shape: tuple[int, ...]) -> Any:
        """Build the graph of the same reduction."""
        import dask
        import dask.array as da

        first = next(a for a in arrays if hasattr(a, "dask"))
        ys, xs = first.chunks[-2:]
        blocks = [
            da.asarray(a).rechunk({0: -1, 1: ys, 2: xs}).to_delayed(optimize_graph=False).ravel()
            for a in arrays
        ]
        chunk, combine, finalise = (
            dask.delayed(f, pure=True) for f in (self.chunk, self.combine, partial(_array, self.finalise))
        )
        total = tree([chunk(*b, **params) for b in zip(*blocks, strict=True)], combine)
        return da.from_delayed(finalise(total), shape=shape, dtype=np.float64)


def _array(finalise: Callable[[Any], Any], total: Any) -> Array:
    """Finalise a state as a float64 array."""
    return np.asarray(finalise(total), np.float64)


def in_memory(image: xr.DataArray) -> xr.DataArray:
    """Make a stream once and keep it, for several looks at it; what follows from it is still streamed."""
    if not isinstance(image.data, Stream):
        return image
    return image.copy(data=held(np.asarray(image.data), image.data))


def each_window(
    images: Mapping[str, xr.DataArray], use: Callable[[Window, dict[str, Array]], None], *, threads: int = 1
) -> None:
    """Make images of one extent window by window, each window of all of them at once, and hand them on.

    Streams are made tile by tile, lazy images by rows of their chunks, images in memory are handed on whole.

    Parameters
    ----------
    images : name → (…, y, x), on one grid
    use : called with a window and the arrays of all images in it, never twice at a time, in any order
    threads : chunks of lazy images in work at one time, where there is no cluster

    Raises
    ------
    whatever a reader, a kernel or ``use`` raises
    """
    first = next(iter(images.values()))
    rows, columns = first.sizes["y"], first.sizes["x"]
    streams = {k: v.data for k, v in images.items() if isinstance(v.data, Stream)}
    if not streams:
        for window in _rows_of_chunks(images, rows, columns):
            use(window, _computed({k: v.isel(y=window[0]) for k, v in images.items()}, threads))
        return
    lock = Lock()

    def work(tile: Tile) -> None:
        memo: dict[Any, Array] = {}
        made = {
            k: v.data.window(tile.inner, memo) if k in streams else v.data[(..., *tile.inner)]
            for k, v in images.items()
        }
        with lock:
            use(tile.inner, made)

    next(iter(streams.values())).each(work)


def _rows_of_chunks(images: Mapping[str, xr.DataArray], rows: int, columns: int) -> Iterator[Window]:
    """Yield windows of the full width that end where the chunks of the first lazy image end."""
    chunks = next((v.chunksizes["y"] for v in images.values() if is_lazy(v)), (rows,))
    start = 0
    for height in chunks:
        yield slice(start, start + height), slice(0, columns)
        start += height


def _computed(images: dict[str, xr.DataArray], threads: int) -> dict[str, Array]:
    """Compute lazy images together."""
    made = xr.Dataset({k: v.variable for k, v in images.items()})
    return {str(k): v.values for k, v in computed(made, threads).items()}


def computed(made: xr.Dataset, threads: int | None) -> xr.Dataset:
    """Compute lazy images together, with some threads where there is no cluster."""
    lazy = [image for image in made.values() if is_lazy(image)]
    if not lazy:
        return made
    if threads is None or "distributed" in sys.modules:  # a cluster has workers of its own
        return made.compute()
    # asked for a scheduler by name or for none, dask imports all of distributed to look for a cluster
    return made.compute(scheduler=lazy[0].data.__dask_scheduler__, num_workers=threads)


def label(
    mask: xr.DataArray, connectivity: int = 8, *, seeds: xr.DataArray | None = None
) -> tuple[xr.DataArray, Any]:
    """Number the connected parts of a mask, across chunks, in raster order of their first pixels.

    Parameters
    ----------
    mask : (y, x) bool, True inside; a stream is labelled strip by strip
    connectivity : 4 (sides) or 8 (sides and corners)
    seeds : (y, x) bool; parts that hold no seed are dropped; None keeps all

    Returns
    -------
    labels : (y, x) int32, 0 = background; lazy where the mask is
    number : how many parts there are; a lazy 0-d DataArray where the mask is lazy

    Raises
    ------
    SettingError
        The connectivity is neither 4 nor 8.
    """
    if connectivity not in (4, 8):
        raise SettingError(f"connectivity {connectivity}; wanted 4 (sides) or 8 (sides and corners)")
    mask = mask.transpose("y", "x")
    if isinstance(mask.data, Stream):
        return _label_stream(mask, seeds, connectivity)
    marks = None if seeds is None else chunked_like(seeds.transpose("y", "x"), mask).data
    if not is_lazy(mask):
        labels, number = label_array(mask.values, connectivity, None if marks is None else np.asarray(marks))
        return mask.copy(data=labels), number
    labels, number = label_lazy(mask.data, marks, connectivity)
    return mask.copy(data=labels), xr.DataArray(number)


def _label_stream(
    mask: xr.DataArray, seeds: xr.DataArray | None, connectivity: int
) -> tuple[xr.DataArray, int]:
    """Label a stream, which is never made whole."""

    def strip(window: Window) -> tuple[Array, Array | None]:
        marks = None if seeds is None else np.asarray(seeds.data[window])
        return np.asarray(mask.data[window]), marks

    labels, number = label_strips(strip, mask.data.extent, connectivity)
    return mask.copy(data=labels), number
