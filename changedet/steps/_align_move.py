"""Scenes and their flags moved, by one shift or by a field of shifts; lazy where they are."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from changedet.blocks import Windowed, from_reader, is_lazy
from changedet.scenes import UNUSABLE, Quality
from changedet.steps._align_models import Registration
from changedet.steps._resample import CORE_PX, REACH_PX, apply_shift, move, move_valid
from changedet.steps._resample_field import Field, apply_field, field_nearest, field_valid

Array = npt.NDArray[Any]


def move_flags(flags: Array, image: Array, shift: tuple[float, float]) -> npt.NDArray[np.uint8]:
    """Move quality flags as :func:`apply_shift` moves the image.

    Parameters
    ----------
    flags : (y, x) uint8 of :class:`~changedet.scenes.Quality`; left alone
    image : (band, y, x) array that the flags belong to, NaN = not usable
    shift : (dy, dx), pixels

    Returns
    -------
    (y, x) uint8: nearest flags; where the kernel met invalid pixels, the reasons these have; NODATA where
    it met the edge
    """
    nearest = move(np.asarray(flags, np.float32), shift, order=0).astype(np.uint8)
    return _with_reasons(nearest, move_valid(np.asarray(np.isfinite(image).all(axis=0)), shift))


def _with_reasons(moved: Array, kept: Array) -> npt.NDArray[np.uint8]:
    """Give pixels that were lost in moving the reasons that lie around them, else NODATA."""
    lost = ~kept & ((moved & UNUSABLE) == 0)
    around = _spread(moved, CORE_PX) & np.uint8(UNUSABLE)
    reason = np.where(around > 0, around, np.uint8(Quality.NODATA))
    return np.where(lost, moved | reason, moved).astype(np.uint8)


def _spread(flags: Array, radius_px: int) -> npt.NDArray[np.uint8]:
    """Spread each flag over a square."""
    from scipy.ndimage import maximum_filter

    out = np.zeros(flags.shape, np.uint8)
    for bit in (q for q in Quality if (flags & q).any()):
        layer = maximum_filter((flags & bit) > 0, 2 * radius_px + 1, mode="constant")
        out |= np.where(layer, np.uint8(bit), np.uint8(0))
    return out


def shifted(stack: xr.Dataset, found: list[Registration], applied: list[bool]) -> xr.Dataset:
    """Return the stack with some scenes moved, lazy where it is; the same pixels where none is."""
    if not any(applied):
        return stack
    image = stack["image"].transpose("time", "band", "y", "x")
    moved = stack.assign(image=image.copy(data=_stacked(_moved_scene, [image], found, applied)))
    if "quality" not in stack:
        return moved
    flags = stack["quality"].transpose("time", "y", "x")
    data = _stacked(_moved_quality, [flags, image], found, applied)
    return moved.assign(quality=flags.copy(data=data))


def _stacked(
    work: Callable[..., xr.DataArray],
    images: list[xr.DataArray],
    found: list[Registration],
    applied: list[bool],
) -> Any:
    """Put the dates of the first image together again, some of them worked on."""
    dates = []
    for i, (one, use) in enumerate(zip(found, applied, strict=True)):
        scenes = [image.isel(time=i, drop=True) for image in images]
        dates.append(work(*scenes, one) if use else scenes[0])
    return _concat(dates, "time").data


def _concat(parts: list[xr.DataArray], dim: str) -> xr.DataArray:
    """Stack arrays of one grid along a new dimension."""
    return xr.concat(parts, dim, coords="minimal", compat="override", join="override", combine_attrs="drop")


def _moved_scene(image: xr.DataArray, found: Registration) -> xr.DataArray:
    """Move every band of a scene."""
    bands = [image.isel(band=b, drop=True) for b in range(image.sizes["band"])]
    if found.field is None:
        return _concat([_MOVE_BAND(band, **_of_shift(found)) for band in bands], "band")
    where = _components(found.field, bands[0])
    return _concat([_WARP_BAND(band, *where, halo_px=halo_px(found)) for band in bands], "band")


def moved_image(image: xr.DataArray, shift: tuple[float, float], *, threads: int = 1) -> xr.DataArray:
    """Move an image (band, y, x) by one shift ``(dy, dx)``, pixels; lazy where it is."""
    names = image["band"].values if "band" in image.coords else range(image.sizes["band"])
    reach = int(np.ceil(max(map(abs, shift)))) + REACH_PX + CORE_PX
    move_all = Windowed(partial(_image_kernel, shift=shift), reach, bands=tuple(map(str, names)))
    moved = move_all(image, threads=threads).assign_coords(image.coords)
    moved.attrs = dict(image.attrs)
    return moved


def _image_kernel(image: Array, *, shift: tuple[float, float]) -> Array:
    """Move all bands; a pixel that is not usable in one of them is left as it is, by band."""
    return apply_shift(image, shift)


def _moved_quality(flags: xr.DataArray, image: xr.DataArray, found: Registration) -> xr.DataArray:
    """Move the flags of a scene."""
    if found.field is None:
        return _MOVE_FLAGS(flags, image, **_of_shift(found)).astype(np.uint8)
    where = _components(found.field, flags)
    return _WARP_FLAGS(flags, image, *where, halo_px=halo_px(found)).astype(np.uint8)


def halo_px(found: Registration) -> int:
    """Return how far around a pixel its new value comes from; by a field, both passes look around."""
    if found.field is not None:
        return 2 * found.field.reach_px + REACH_PX + CORE_PX
    return int(np.ceil(max(abs(found.shift.dy), abs(found.shift.dx)))) + REACH_PX + CORE_PX


def _of_shift(found: Registration) -> dict[str, Any]:
    """Tuning values of the kernels that move by one shift."""
    return {"dy": found.shift.dy, "dx": found.shift.dx, "halo_px": halo_px(found)}


def _components(field: Field, like: xr.DataArray) -> list[xr.DataArray]:
    """Return dy and dx at every pixel of a (y, x) image, lazy where it is."""
    shape = (like.sizes["y"], like.sizes["x"])
    coords = {d: like[d] for d in ("y", "x") if d in like.coords}
    out = []
    for axis in (0, 1):
        data: Any
        if is_lazy(like):
            digest = hashlib.sha256(repr((axis, shape)).encode())
            for part in (field.rows, field.columns, field.shift):
                digest.update(np.ascontiguousarray(part).tobytes())
            data = from_reader(
                partial(field.component, axis),
                shape,
                dtype=np.float32,
                chunk_px=max(max(c) for c in like.chunksizes.values()),
                token=digest.hexdigest()[:24],
            )
        else:
            data = field.component(axis, (slice(0, shape[0]), slice(0, shape[1])))
        out.append(xr.DataArray(data, dims=("y", "x"), coords=coords))
    return out


def _band_kernel(image: Array, *, dy: float = 0.0, dx: float = 0.0, halo_px: int = 8) -> Array:
    """Move the one band of ``(1, y, x)``."""
    return np.asarray(apply_shift(image, (dy, dx))[0])


def _flags_kernel(flags: Array, image: Array, *, dy: float = 0.0, dx: float = 0.0, halo_px: int = 8) -> Array:
    """Move the flags ``(1, y, x)`` of an image ``(band, y, x)``; float32, as blocks are."""
    return move_flags(flags[0], image, (dy, dx)).astype(np.float32)


def _warp_band_kernel(image: Array, dy: Array, dx: Array, *, halo_px: int = 8) -> Array:
    """Move the one band of ``(1, y, x)`` by a field."""
    return np.asarray(apply_field(image[0], dy[0], dx[0]))


def _warp_flags_kernel(flags: Array, image: Array, dy: Array, dx: Array, *, halo_px: int = 8) -> Array:
    """Move the flags ``(1, y, x)`` of an image ``(band, y, x)`` by a field; float32, as blocks are."""
    nearest = field_nearest(np.asarray(flags[0], np.uint8), dy[0], dx[0])
    kept = field_valid(np.asarray(np.isfinite(image).all(axis=0)), dy[0], dx[0])
    return _with_reasons(nearest, kept).astype(np.float32)


_MOVE_BAND = Windowed(_band_kernel, "halo_px")
_MOVE_FLAGS = Windowed(_flags_kernel, "halo_px")
_WARP_BAND = Windowed(_warp_band_kernel, "halo_px")
_WARP_FLAGS = Windowed(_warp_flags_kernel, "halo_px")
