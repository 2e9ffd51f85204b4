"""Pixels of a scene: stored values become reflectance or power, fill and masks become NaN and flags.

Nothing later in the package knows of nodata, scales or mask conventions.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from changedet.grid import Grid, Window
from changedet.io import _warp
from changedet.io._masks import decode
from changedet.io.raster import OpenFiles, read_window
from changedet.scenes import UNUSABLE, Layer, Mask, Quality, Scene

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.uint8]
_OUTSIDE = 255


class Kept:
    """Files left open, and stored values of windows that were read already as long as there is room.

    For work in many windows and several passes. Values are kept as the file has them, which takes less memory
    than reflectance does.

    Parameters
    ----------
    room : bytes; what does not fit is read again each time
    """

    def __init__(self, room: int = 0) -> None:
        self._room = room
        self._files = OpenFiles()
        self._values: dict[tuple[Any, ...], npt.NDArray[Any]] = {}
        self._lock = Lock()

    def read(self, layer: Layer | Mask, window: Window) -> npt.NDArray[Any]:
        """Return the stored values of a window; nobody may change them."""
        key = (layer.path, layer.indexes, *((part.start, part.stop) for part in window))
        found = self._values.get(key)
        if found is None:
            found = read_window(layer, window, files=self._files)
            with self._lock:
                if key not in self._values and found.nbytes <= self._room:
                    self._values[key] = found
                    self._room -= found.nbytes
        return found

    def clear(self) -> None:
        """Forget everything, keep nothing more, and close the files; no thread may be reading."""
        with self._lock:
            self._values.clear()
            self._room = 0
            self._files.close()


@dataclass(frozen=True)
class SceneReader:
    """Reads windows of one scene on one grid.

    Parameters
    ----------
    scene : what to read
    bands : names, in the order wanted
    grid : grid of the windows; where it is not the scene's, pixels are resampled once, from the files
    kept : where stored values are kept for another pass
    """

    scene: Scene
    bands: tuple[str, ...]
    grid: Grid
    kept: Kept | None = None

    def __call__(self, window: Window) -> tuple[Floats, Flags]:
        """Return a window as (band, y, x) float32 with NaN, and (y, x) uint8 flags.

        A pixel that is unusable in one band is NaN in all of them, and its flags say why.
        """
        shape = tuple(s.stop - s.start for s in window)
        image = np.empty((len(self.bands), *shape), np.float32)
        return image, self.into(image, window)

    def into(
        self,
        image: Floats,
        window: Window,
        *,
        masked: Flags | None = None,
        trusted: npt.NDArray[np.bool_] | None = None,
    ) -> Flags:
        """Read a window into ``image`` (band, y, x) and return its flags (y, x).

        Parameters
        ----------
        image : filled
        window : of the grid
        masked : flags of the masks where they are known already
        trusted : (y, x) bool, pixels that stay usable whatever the masks say of clouds
        """
        flags = np.zeros(image.shape[1:], np.uint8)
        for layer in self.scene.layers:
            wanted = tuple(b for b in self.bands if b in layer.bands)
            at = [self.bands.index(b) for b in wanted]
            if wanted and at == list(range(at[0], at[0] + len(at))):
                flags |= self._layer(layer.narrow(wanted), window, image[at[0] : at[0] + len(at)])
            elif wanted:
                values = np.empty((len(at), *image.shape[1:]), np.float32)
                flags |= self._layer(layer.narrow(wanted), window, values)
                image[at] = values
        if masked is None and not self.scene.masks and not flags.any():
            return flags
        own = self.masked(window) if masked is None else masked
        believed = own if trusted is None else np.where(trusted, np.uint8(0), own)
        bad = (flags | believed) & np.uint8(UNUSABLE) != 0
        if bad.any():
            image[:, bad] = np.nan
        return flags | own

    def masked(self, window: Window) -> Flags:
        """Return the flags (y, x) that the scene's masks set in a window."""
        flags = np.zeros(tuple(part.stop - part.start for part in window), np.uint8)
        for mask in self.scene.masks:
            flags |= self._mask(mask, window)
        return flags

    def _stored(self, layer: Layer | Mask, window: Window) -> npt.NDArray[Any]:
        """Return the stored values of a window of one file."""
        return read_window(layer, window) if self.kept is None else self.kept.read(layer, window)

    @property
    def _warped(self) -> bool:
        """True where the windows are not on the scene's own grid."""
        return not self.scene.grid.same_as(self.grid)

    def _layer(self, layer: Layer, window: Window, out: Floats) -> Flags:
        """Read one file on the grid of the windows into ``out``; return its flags."""
        source = layer.grid or self.scene.grid
        if source.same_as(self.grid):
            return physical(self._stored(layer, window), layer, self.scene, out=out)

        def read(part: Window) -> tuple[Floats, Flags]:
            stored = read_window(layer, part)
            values = np.empty(stored.shape, np.float32)
            return values, physical(stored, layer, self.scene, out=values)

        kernel = _warp.choose(source, self.grid) if self._warped else _coarse_kernel(source, self.grid)
        values, why = _warp.resample(
            read, source, self.grid, _grown(window), kernel=kernel, bands=len(layer.bands)
        )
        out[:] = values[:, 1:-1, 1:-1]
        flags = _inside(why, self._warped)[1:-1, 1:-1]
        lost = np.isnan(out).any(axis=0) & (flags & np.uint8(UNUSABLE) == 0)
        return np.where(lost, flags | np.uint8(Quality.NODATA), flags).astype(np.uint8)

    def _mask(self, mask: Mask, window: Window) -> Flags:
        """Read one mask on the grid of the windows, nearest pixel; spread by a pixel where it is warped."""
        source = mask.grid or self.scene.grid
        if source.same_as(self.grid):
            return decode(mask.kind, self._stored(mask, window))

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


def physical(stored: npt.NDArray[Any], layer: Layer, scene: Scene, *, out: Floats) -> Flags:
    """Turn stored values into reflectance or linear power.

    Parameters
    ----------
    stored : (band, y, x) as read
    layer : its nodata, scale, offset and saturation
    scene : values where the layer has none; whether the values are dB
    out : (band, y, x) float32, filled with the result; NaN where a value is fill, saturated or not finite

    Returns
    -------
    (y, x) uint8 flags, set where a value of any band is fill, saturated or not finite
    """
    count = stored.shape[0]
    scales, offsets = layer.scale or (scene.scale,) * count, layer.offset or (scene.offset,) * count
    fills = layer.nodata or (scene.nodata,) * count
    flags = np.zeros(stored.shape[1:], np.uint8)
    # fill of float64 files may not fit into float32
    with np.errstate(over="ignore", invalid="ignore"):
        for band, values in enumerate(stored):
            np.copyto(out[band], values, casting="unsafe")
            if scales[band] != 1:
                out[band] *= np.float32(scales[band])
            if offsets[band] != 0:
                out[band] += np.float32(offsets[band])
            for bad, flag in (
                (_is_fill(values, fills[band]), Quality.NODATA),
                (_is_value(values, layer.saturated), Quality.SATURATED),
            ):
                if bad is not None:
                    out[band][bad] = np.nan
                    flags[bad] |= np.uint8(flag)
        if scene.decibel:
            np.power(np.float32(10), out / np.float32(10), out=out)
    return flags


def _is_fill(stored: npt.NDArray[Any], fill: float | None) -> npt.NDArray[np.bool_] | None:
    """Return where one band is no data; None where nowhere."""
    if not np.issubdtype(stored.dtype, np.floating):
        return _is_value(stored, fill)
    bad = ~np.isfinite(stored)
    if fill is not None and np.isfinite(fill):
        bad |= stored == stored.dtype.type(fill)
    return bad if bad.any() else None


def _is_value(stored: npt.NDArray[Any], value: float | None) -> npt.NDArray[np.bool_] | None:
    """Return where integers have a value; None where nowhere (looking at the extremes first: it is rare)."""
    if value is None or stored.size == 0 or not float(value).is_integer():
        return None
    if not int(stored.min()) <= value <= int(stored.max()):
        return None
    return np.asarray(stored == stored.dtype.type(value), bool)
