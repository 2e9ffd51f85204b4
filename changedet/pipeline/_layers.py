"""The layers of two images' comparison: made window by window, and written as they are made."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from changedet.blocks import Stream, each_window, is_lazy
from changedet.errors import InputError
from changedet.grid import Grid, Window
from changedet.io.raster import Compress, Profile, cog_writer

STRIP_PX = 512
"""Rows of what is written at one time of a layer in memory."""

CATEGORIES = {0: "unchanged", 1: "changed", 255: "nodata"}


def make_layers(
    layers: xr.Dataset, hold: Collection[str], *, threads: int = 1, rasters: Rasters | None = None
) -> tuple[dict[str, xr.DataArray], int]:
    """Make layers, each window of all of them at once; return them, and the number of usable pixels.

    Parameters
    ----------
    layers : as the method gives them
    hold : names of those to keep in memory, which others are not
    threads : blocks of dask images in work at one time; streams know theirs
    rasters : where layers are written as they are made

    Raises
    ------
    InputError
        No pixel is usable.
    """
    images = {str(name): layers[name] for name in layers}
    arrays = {
        name: np.empty(image.shape, np.float32)
        for name, image in images.items()
        if name in hold and (is_lazy(image) or isinstance(image.data, Stream))
    }
    wanted = {"magnitude", *arrays, *(rasters.stems if rasters else ())}
    usable = 0

    def take(window: Window, values: dict[str, npt.NDArray[Any]]) -> None:
        nonlocal usable
        usable += int(np.count_nonzero(np.isfinite(values["magnitude"])))
        for name, array in arrays.items():
            array[(..., *window)] = values[name]
        for name, put in files.items():
            put(window, values[name].astype(np.float32, copy=False))

    with ExitStack() as opened:
        files = rasters.opened(images, opened) if rasters else {}
        each_window({k: images[k] for k in images if k in wanted}, take, threads=threads)
        if not usable:
            raise InputError(
                "no pixel is usable in both images; wanted areas that overlap and are not masked; check "
                "nodata and masks with `changedet info`"
            )
    return images | {name: images[name].copy(data=array) for name, array in arrays.items()}, usable


@dataclass(frozen=True)
class Rasters:
    """The layers to write: the folder, the files' names, and their compression."""

    folder: Path
    names: tuple[str, ...]
    compress: Compress

    @property
    def stems(self) -> tuple[str, ...]:
        """Names of the layers."""
        return tuple(name.removesuffix(".tif") for name in self.names)

    def opened(
        self, images: dict[str, xr.DataArray], stack: ExitStack
    ) -> dict[str, Callable[[Window, npt.NDArray[Any]], None]]:
        """Open the files; return for each layer what puts a window into it."""
        grid, out = Grid.of(images["magnitude"]), {}
        for name, stem in zip(self.names, self.stems, strict=True):
            image = images[stem]
            bands = image["band"].values if "band" in image.dims else [image.name or ""]
            profile = Profile(
                "float32",
                tuple(map(str, bands)),
                self.compress,
                tags=_tags(images["magnitude"]),
            )
            out[stem] = stack.enter_context(cog_writer(self.folder / name, grid, profile))
        return out


def write_change(path: Path, labels: xr.DataArray, magnitude: xr.DataArray, compress: Compress) -> None:
    """Write where objects are, strip by strip: labels and magnitude fill the memory already."""
    profile = Profile("uint8", ("change",), compress, 255, CATEGORIES)
    with cog_writer(path, Grid.of(magnitude), profile) as put:
        for top in range(0, labels.shape[0], STRIP_PX):
            rows = slice(top, min(top + STRIP_PX, labels.shape[0]))
            put((rows, slice(0, labels.shape[1])), marks(labels.values[rows], magnitude.values[rows]))


def marks(labels: npt.NDArray[Any], magnitude: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return uint8: 1 where an object is, 0 elsewhere, 255 where nothing can be said."""
    out = (labels > 0).view(np.uint8)
    out[~np.isfinite(magnitude)] = 255
    return out


def _tags(magnitude: xr.DataArray) -> dict[str, str]:
    """Return what a reader of the raster wants to know."""
    words = {"METHOD": magnitude.attrs.get("method"), "UNITS": magnitude.attrs.get("units")}
    if magnitude.attrs.get("signed"):
        words["SIGN"] = "positive = brighter after"
    return {k: str(v) for k, v in words.items() if v is not None}
