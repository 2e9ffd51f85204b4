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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from changedet._blocks import (
    Array,
    Tile,
    at_least,
    label_array,
    map_strips,
    map_tiles,
    merge_labels,
    part,
    renumber,
    spatial,
    strips,
    summarize_labels,
    three_d,
    tree,
    windows,
)
from changedet.errors import GridError, InputError, SettingError, UnknownSettingError
from changedet.grid import Window

__all__ = [
    "Pixelwise",
    "Reduction",
    "Tile",
    "Windowed",
    "check_parameters",
    "chunked_like",
    "from_reader",
    "is_lazy",
    "label",
    "map_tiles",
    "parameters",
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
    """

    kernel: Callable[..., Array]
    unit: str = "1"

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
    """

    kernel: Callable[..., Array]
    halo_px: int | str
    unit: str = "1"

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
    result: xr.DataArray = xr.apply_ufunc(
        partial(_map_arrays, partial(method.kernel, **params), halo_px, threads),
        *images,
        input_core_dims=core,
        output_core_dims=[["y", "x"]],
        dask="allowed",
        join="exact",
        keep_attrs="drop_conflicts",
    )
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


def _map_arrays(run: Callable[..., Array], halo_px: int, threads: int, *arrays: Any) -> Any:
    """Run a kernel on arrays, eagerly in strips or as a dask graph."""
    shaped = [three_d(a) for a in arrays]
    if any(not isinstance(a, np.ndarray) for a in shaped):
        return _map_lazy(run, halo_px, shaped)
    return map_strips(run, halo_px, threads, shaped)


def _map_lazy(run: Callable[..., Array], halo_px: int, arrays: list[Any]) -> Any:
    """Build the dask graph of a kernel, with overlapping blocks where it has a halo."""
    import dask.array as da

    shape = spatial(arrays)
    chunks = next(a for a in arrays if hasattr(a, "dask") and a.shape[-2:] == shape).chunks[-2:]
    ys, xs = (at_least(c, halo_px) for c in chunks)
    depth = {0: 0, 1: halo_px if len(ys) > 1 else 0, 2: halo_px if len(xs) > 1 else 0}
    blocks = []
    for array in map(da.asarray, arrays):
        if array.shape[-2:] == shape:
            array = array.rechunk({0: -1, 1: ys, 2: xs})
            array = da.overlap.overlap(array, depth, boundary="none") if halo_px else array
        blocks.append(array.rechunk({0: -1}))
    return da.map_blocks(
        partial(_lazy_block, run, halo_px, (depth[1], depth[2]), (len(ys), len(xs))),
        *blocks,
        drop_axis=0,
        chunks=(ys, xs),
        dtype=np.float32,
        meta=np.empty((0, 0), np.float32),
    )


def _lazy_block(
    run: Callable[..., Array],
    halo_px: int,
    depth: tuple[int, int],
    count: tuple[int, int],
    *blocks: Array,
    block_id: tuple[int, int] = (0, 0),
) -> Array:
    """Run a kernel on one haloed block and trim the sides that have a halo."""
    result = map_strips(run, halo_px, 1, list(blocks))
    trim = tuple(
        slice(d if i > 0 else 0, size - d if i < n - 1 else size)
        for i, n, d, size in zip(block_id, count, depth, result.shape, strict=True)
    )
    return result[trim]


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

    def _total(self, arrays: list[Array], params: dict[str, Any]) -> Any:
        """Reduce strip by strip."""
        shape = spatial(arrays)
        chunk = partial(self.chunk, **params)
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


def label(
    mask: xr.DataArray, connectivity: int = 8, *, seeds: xr.DataArray | None = None
) -> tuple[xr.DataArray, Any]:
    """Number the connected parts of a mask, across chunks, in raster order of their first pixels.

    Parameters
    ----------
    mask : (y, x) bool, True inside
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
    marks = None if seeds is None else chunked_like(seeds.transpose("y", "x"), mask).data
    if not is_lazy(mask):
        labels, number = label_array(mask.values, connectivity, None if marks is None else np.asarray(marks))
        return mask.copy(data=labels), number
    labels, number = _label_lazy(mask.data, marks, connectivity)
    return mask.copy(data=labels), xr.DataArray(number)


def _label_lazy(mask: Any, seeds: Any, connectivity: int) -> tuple[Any, Any]:
    """Label block by block, join the blocks across their borders, renumber."""
    import dask
    import dask.array as da

    pure = partial(dask.delayed, pure=True)
    blocks = da.map_blocks(_label_block, mask, connectivity, dtype=np.int32).to_delayed(optimize_graph=False)
    marks = np.full(blocks.shape, None) if seeds is None else seeds.to_delayed(optimize_graph=False)
    ys, xs = (np.concatenate([[0], np.cumsum(c)[:-1]]).tolist() for c in mask.chunks)
    count_i, count_j = map(range, blocks.shape)
    tables = pure(merge_labels)(
        [
            [pure(summarize_labels)(blocks[i, j], marks[i, j], (ys[i], xs[j])) for j in count_j]
            for i in count_i
        ],
        connectivity,
    )

    def renumbered(i: int, j: int) -> Any:
        shape = (mask.chunks[0][i], mask.chunks[1][j])
        return da.from_delayed(pure(_relabel)(blocks[i, j], tables, i, j), shape, dtype=np.int32)

    number = da.from_delayed(pure(_number)(tables), (), dtype=np.int64)
    return da.block([[renumbered(i, j) for j in count_j] for i in count_i]), number


def _label_block(mask: Array, connectivity: int) -> Array:
    """Label one block by itself."""
    return label_array(mask, connectivity)[0]


def _relabel(labels: Array, tables: list[list[Array]], i: int, j: int) -> Array:
    """Look up the image's label of every pixel of block ``(i, j)``."""
    return np.asarray(tables[i][j][labels])


def _number(tables: list[list[Array]]) -> Array:
    """Return the number of labels in the image."""
    return np.asarray(max(int(t.max()) for row in tables for t in row), np.int64)
