"""Pixels of a scene: stored values become reflectance or power, fill and masks become NaN and flags.

Nothing later in the package knows of nodata, scales or mask conventions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from changedet.grid import Grid, Window
from changedet.io import _warp
from changedet.io._masks import decode
from changedet.io.raster import read_window
from changedet.scenes import UNUSABLE, Layer, Mask, Quality, Scene

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.uint8]
_OUTSIDE = 255


@dataclass(frozen=True)
class SceneReader:
    """Reads windows of one scene on one grid.

    Parameters
    ----------
    scene : what to read
    bands : names, in the order wanted
    grid : grid of the windows; where it is not the scene's, pixels are resampled once, from the files
    """

    scene: Scene
    bands: tuple[str, ...]
    grid: Grid

    def __call__(self, window: Window) -> tuple[Floats, Flags]:
        """Return a window as (band, y, x) float32 with NaN, and (y, x) uint8 flags.

        A pixel that is unusable in one band is NaN in all of them, and its flags say why.
        """
        shape = tuple(s.stop - s.start for s in window)
        image = np.empty((len(self.bands), *shape), np.float32)
        flags = np.zeros(shape, np.uint8)
        for layer in self.scene.layers:
            wanted = tuple(b for b in self.bands if b in layer.bands)
            if wanted:
                values, why = self._layer(layer.narrow(wanted), window)
                image[[self.bands.index(b) for b in wanted]] = values
                flags |= why
        for mask in self.scene.masks:
            flags |= self._mask(mask, window)
        missing = np.isnan(image).any(axis=0)
        flags[missing & (flags & np.uint8(UNUSABLE) == 0)] |= np.uint8(Quality.NODATA)
        image[:, flags & np.uint8(UNUSABLE) != 0] = np.nan
        return image, flags

    @property
    def _warped(self) -> bool:
        """True where the windows are not on the scene's own grid."""
        return not self.scene.grid.same_as(self.grid)

    def _layer(self, layer: Layer, window: Window) -> tuple[Floats, Flags]:
        """Read one file on the grid of the windows."""
        source = layer.grid or self.scene.grid

        def read(part: Window) -> tuple[Floats, Flags]:
            return physical(read_window(layer, part), layer, self.scene)

        if source.same_as(self.grid):
            return read(window)
        kernel = _warp.choose(source, self.grid) if self._warped else _coarse_kernel(source, self.grid)
        outer = _grown(window)
        values, why = _warp.resample(read, source, self.grid, outer, kernel=kernel, bands=len(layer.bands))
        inner = (slice(1, -1), slice(1, -1))
        return values[:, 1:-1, 1:-1], _inside(why, self._warped)[inner]

    def _mask(self, mask: Mask, window: Window) -> Flags:
        """Read one mask on the grid of the windows, nearest pixel; spread by a pixel where it is warped."""
        source = mask.grid or self.scene.grid
        if source.same_as(self.grid):
            return decode(mask.kind, read_window(mask, window))

        def read(part: Window) -> tuple[Floats, Flags]:
            flags = decode(mask.kind, read_window(mask, part))
            return np.zeros((0, *flags.shape), np.float32), flags

        _, flags = _warp.resample(read, source, self.grid, _grown(window), kernel="bilinear", bands=0)
        return _inside(flags, self._warped)[1:-1, 1:-1]


def _coarse_kernel(source: Grid, target: Grid) -> _warp.Kernel:
    """Return the kernel for a file of a scene that is coarser (bilinear) or finer (average) than its grid."""
    return "average" if _warp.choose(source, target) == "average" else "bilinear"


def _grown(window: Window) -> Window:
    """Return a window with one more pixel on every side (it may reach over the grid's edge)."""
    rows, columns = window
    return slice(rows.start - 1, rows.stop + 1), slice(columns.start - 1, columns.stop + 1)


def _inside(flags: Flags, spread: bool) -> Flags:
    """Turn what lies outside the source into NODATA, and spread the flags inside by a pixel where asked."""
    outside = flags == _OUTSIDE
    out = np.where(outside, np.uint8(0), flags)
    if spread:
        out = _warp.dilate(out)
    return np.where(outside, out | np.uint8(Quality.NODATA), out).astype(np.uint8)


def physical(stored: npt.NDArray[Any], layer: Layer, scene: Scene) -> tuple[Floats, Flags]:
    """Turn stored values into reflectance or linear power.

    Parameters
    ----------
    stored : (band, y, x) as read
    layer : its nodata, scale, offset and saturation
    scene : values where the layer has none; whether the values are dB

    Returns
    -------
    (band, y, x) float32, NaN where a value is fill, saturated or not finite; (y, x) uint8 flags, set where
    that is so in any band
    """
    count = stored.shape[0]
    scales = np.array(layer.scale or (scene.scale,) * count, np.float32)[:, None, None]
    offsets = np.array(layer.offset or (scene.offset,) * count, np.float32)[:, None, None]
    out = stored.astype(np.float32)
    flags = np.zeros(stored.shape[1:], np.uint8)
    for band, fill in enumerate(layer.nodata or (scene.nodata,) * count):
        bad = _is_fill(stored[band], fill)
        if bad is not None and bad.any():
            flags[bad] |= np.uint8(Quality.NODATA)
            out[band][bad] = np.nan
    if layer.saturated is not None and stored.size and stored.max() >= layer.saturated:
        full = (stored == layer.saturated) & np.isfinite(out)
        flags[full.any(axis=0)] |= np.uint8(Quality.SATURATED)
        out[full] = np.nan
    if (scales != 1).any():
        out *= scales
    if (offsets != 0).any():
        out += offsets
    if scene.decibel:
        out = np.power(np.float32(10), out / np.float32(10))
    return out, flags


def _is_fill(stored: npt.NDArray[Any], fill: float | None) -> npt.NDArray[np.bool_] | None:
    """Return where one band is no data; None where that cannot be."""
    if np.issubdtype(stored.dtype, np.floating):
        bad = ~np.isfinite(stored)
        if fill is not None and np.isfinite(fill):
            bad |= stored == stored.dtype.type(fill)
        return np.asarray(bad, bool)
    if fill is None or not float(fill).is_integer():
        return None
    limits = np.iinfo(stored.dtype)
    if not limits.min <= fill <= limits.max:
        return None
    return np.asarray(stored == stored.dtype.type(fill), bool)
