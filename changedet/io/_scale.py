"""What stored values mean: the file's own scale, the sensor's rule, or an assumption that is said."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from changedet.io._bands import known
from changedet.io.raster import Header, OpenFiles, read_window
from changedet.scenes import SAR_BANDS, Layer, Scene
from changedet.sensors import Sensor

REFLECTANCE_LIMIT = 20_000
"""Stored values up to here can be reflectance times 10,000 (bright cloud reaches 1.6 to 2)."""


@dataclass(frozen=True)
class Scale:
    """Stored value → physical value, and why.

    Parameters
    ----------
    scale, offset : physical = stored · scale + offset
    why : in words
    assumed : rests on the values of the scene alone, so a stack must agree on it
    physical : the result is reflectance or power; False for display values and digital numbers
    """

    scale: float
    offset: float
    why: str
    assumed: bool = False
    physical: bool = True


def sample(layer: Layer, *, side_px: int = 128) -> npt.NDArray[Any]:
    """Read a few small windows of a file, spread over it, as ``(band, pixel)`` stored values.

    The whole file is read, decimated, where the windows hold nothing but fill.
    """
    rows, columns = layer.grid.shape if layer.grid is not None else (side_px, side_px)
    parts = []
    with closing(OpenFiles()) as files:  # kept open, a tile is decoded once
        for fy, fx in ((0.5, 0.5), (0.2, 0.2), (0.2, 0.8), (0.8, 0.2), (0.8, 0.8)):
            r = int(np.clip(fy * rows - side_px / 2, 0, max(rows - side_px, 0)))
            c = int(np.clip(fx * columns - side_px / 2, 0, max(columns - side_px, 0)))
            r, c = (_in_one_tile(at, side_px, tile) for at, tile in zip((r, c), layer.block, strict=True))
            window = (slice(r, min(r + side_px, rows)), slice(c, min(c + side_px, columns)))
            parts.append(read_window(layer, window, files=files).reshape(len(layer.indexes), -1))
            if rows <= side_px and columns <= side_px:
                break
    stored = np.concatenate(parts, axis=1)
    if valid(stored, layer).any():
        return stored
    shape = (min(rows, 4 * side_px), min(columns, 4 * side_px))
    return read_window(layer, out_shape=shape).reshape(len(layer.indexes), -1)


def _in_one_tile(start: int, size: int, tile: int) -> int:
    """Move a range back to where it ends with the file's tile, so that no second tile is decoded for it."""
    end = (start // tile + 1) * tile
    return end - size if size <= tile and start + size > end else start


def valid(stored: npt.NDArray[Any], layer: Layer) -> npt.NDArray[np.bool_]:
    """Return True where a sampled value is finite and no fill."""
    good = np.isfinite(stored) if np.issubdtype(stored.dtype, np.floating) else np.ones(stored.shape, bool)
    for band, fill in enumerate(layer.nodata):
        if fill is not None and np.isfinite(fill):
            good[band] &= stored[band] != fill
    return good


def from_file(header: Header) -> Scale | None:
    """Return the scale that a file declares: GDAL's scale and offset, or a quantification tag."""
    if any(s != 1 for s in header.scales) or any(o != 0 for o in header.offsets):
        return Scale(header.scales[0], header.offsets[0], "scale and offset in the file")
    for key in ("QUANTIFICATION_VALUE", "BOA_QUANTIFICATION_VALUE", "QUANTIFICATION"):
        try:
            number = float(header.tags[key])
        except (KeyError, ValueError):
            continue
        if number > 0:
            offset = _number(header.tags, "BOA_ADD_OFFSET") or _number(header.tags, "RADIO_ADD_OFFSET")
            return Scale(1 / number, offset / number, f"tag {key}")
    return None


def _number(tags: dict[str, str], key: str) -> float:
    """Return a tag as a number, 0 where it is none."""
    try:
        return float(tags[key])
    except (KeyError, ValueError):
        return 0.0


def find_scale(layer: Layer, sensor: Sensor, name: str) -> Scale:
    """Return what the stored values of a file mean where the file itself does not say.

    Parameters
    ----------
    layer : the file
    sensor : recognised profile
    name : ``folder/stem`` of the file, for the sensor's rules
    """
    if layer.dtype.startswith("float"):
        return Scale(1.0, 0.0, "float values taken as they are")
    rule = sensor.rule(name)
    if rule is not None:
        return _checked(Scale(rule.scale, rule.offset, rule.words), layer)
    if sensor.name != "generic":
        return Scale(
            1.0,
            0.0,
            f"{sensor.name} digital numbers, not reflectance (no rule for this product)",
            physical=False,
        )
    return _generic(layer)


def _generic(layer: Layer) -> Scale:
    """Assume what can be assumed of integers from an unknown sensor."""
    if layer.dtype == "uint8":
        return Scale(1 / 255, 0.0, "8-bit display values divided by 255, not reflectance", physical=False)
    if not all(known(b) and b not in SAR_BANDS for b in layer.bands):
        return Scale(
            1.0, 0.0, "stored values taken as they are (no scale in the file, sensor unknown)", physical=False
        )
    stored = sample(layer)
    good = stored[valid(stored, layer)]
    high = float(np.percentile(good, 99.9)) if good.size else 0.0
    if high <= REFLECTANCE_LIMIT:
        words = f"assumed reflectance times 10,000 (99.9 % of the values are below {high:.0f})"
        return Scale(1e-4, 0.0, words, assumed=True)
    words = f"stored values taken as they are (values reach {high:.0f}, no reflectance times 10,000)"
    return Scale(1.0, 0.0, words, assumed=True, physical=False)


def _checked(scale: Scale, layer: Layer, *, share: float = 0.02) -> Scale:
    """Check an offset of baseline 04.00 against the values: with it, hardly any can be below 1000.

    Catalogs exist that took the offset off and left the name as it was.
    """
    floor = -scale.offset / scale.scale
    if floor != 1000:
        return scale
    stored = sample(layer)
    good = stored[valid(stored, layer)]
    below = float(np.mean(good < 0.9 * floor)) if good.size else 0.0
    if below <= share:
        return scale
    return Scale(
        scale.scale,
        0.0,
        f"{scale.why}; but {below:.0%} of the values are below {0.9 * floor:.0f}, so the offset was already "
        "taken off: not applied again",
    )


def is_decibel(layer: Layer) -> bool:
    """Return True for SAR backscatter in dB: power is never negative, and backscatter in dB mostly is."""
    if not set(layer.bands) <= SAR_BANDS or layer.dtype.startswith("uint"):
        return False
    stored = sample(layer)
    good = stored[valid(stored, layer)]
    return bool(good.size) and float(np.median(good)) < 0


def agree(scenes: list[Scene]) -> list[Scene]:
    """Give scenes of one kind one assumed scale: the one that most of them were given.

    A cloudy scene may reach values that reflectance does not; on its own it would be read unscaled.
    """
    kinds: dict[tuple[object, ...], list[Scene]] = {}
    for scene in scenes:
        if "assumed" in scene.why:
            kinds.setdefault((scene.sensor, scene.layers[0].dtype, scene.bands), []).append(scene)
    chosen: dict[tuple[object, ...], float] = {}
    for kind, members in kinds.items():
        scaled = sum(s.scale != 1 for s in members)
        chosen[kind] = 1e-4 if 2 * scaled >= len(members) else 1.0
    return [_with_scale(s, chosen) for s in scenes]


def _with_scale(scene: Scene, chosen: dict[tuple[object, ...], float]) -> Scene:
    """Return a scene with the scale that its kind agreed on."""
    kind = (scene.sensor, scene.layers[0].dtype, scene.bands)
    if "assumed" not in scene.why or scene.scale == chosen[kind]:
        return scene
    words = f"{scene.why['scale']}; read times {chosen[kind]:g} as the other scenes of its kind"
    why = {**scene.why, "scale": words}
    layers = tuple(replace(x, scale=(chosen[kind],) * len(x.bands)) for x in scene.layers)
    return replace(scene, scale=chosen[kind], layers=layers, physical=chosen[kind] != 1, why=why)
