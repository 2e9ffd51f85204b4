"""The report's pictures: which bands to show, a stretch shared by both sides, PNG or JPEG bytes, chips.

Pixels that may not be used are hatched, never painted as if they had a value.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from changedet.grid import Window
from changedet.scenes import SAR_BANDS
from changedet.steps._report_text import day, known

if TYPE_CHECKING:
    import xarray as xr
    from shapely.geometry.base import BaseGeometry

Floats = npt.NDArray[np.float32]

PICTURE_PX = 1600
"""Longest side of an overview picture."""
CHIP_PX = 144
"""Longest side of a chip."""
LOSSLESS_OVERVIEW_PX = 120_000
"""An overview of no more pixels than this keeps every value."""
FLOOR_POWER = 1e-4
"""Smallest SAR power shown, linear (−40 dB)."""


@dataclass(frozen=True)
class Picture:
    """An encoded picture.

    Parameters
    ----------
    data : file content
    mime : ``image/png`` or ``image/jpeg``
    width, height : pixels
    """

    data: bytes
    mime: str
    width: int
    height: int

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return f"data:{self.mime};base64,{base64.b64encode(self.data).decode('ascii')}"

    @property
    def suffix(self) -> str:
        """File name suffix."""
        return ".png" if self.mime == "image/png" else ".jpg"


@dataclass(frozen=True)
class Chip:
    """A small picture of one structure on one date.

    Parameters
    ----------
    role : what the date stands for, in words
    date, scene : of the acquisition
    picture : the pixels
    window : rows and columns of the grid that it shows
    scale : grid pixels a picture pixel
    """

    role: str
    date: str
    scene: str
    picture: Picture
    window: Window
    scale: int


def display_bands(bands: Sequence[str]) -> tuple[str, ...]:
    """Choose what to show: true color, else the first three bands, else one; one polarisation for SAR."""
    names = [str(b) for b in bands]
    if set(names) <= SAR_BANDS:
        return next((b,) for b in ("vv", "hh", "vh", "hv") if b in names)
    if {"red", "green", "blue"} <= set(names):
        return ("red", "green", "blue")
    return tuple(names[:3]) if len(names) >= 3 else (names[0],)


def describe_bands(bands: Sequence[str]) -> str:
    """Say which bands a picture shows."""
    if set(bands) <= SAR_BANDS:
        return f"SAR backscatter, {bands[0].upper()}, in dB"
    if tuple(bands) == ("red", "green", "blue"):
        return "true color"
    if len(bands) == 3:
        return f"bands {bands[0]}, {bands[1]} and {bands[2]} as red, green and blue"
    return f"band {bands[0]}"


def displayed(values: npt.NDArray[Any], *, sar: bool) -> Floats:
    """Return values on the scale they are shown in: decibels for SAR power, unchanged otherwise."""
    image = np.asarray(values, np.float32)
    if not sar:
        return image
    return np.asarray(10 * np.log10(np.maximum(image, FLOOR_POWER)), np.float32)


def shrink(band: npt.NDArray[Any], factor: int) -> Floats:
    """Average blocks of ``factor`` × ``factor`` pixels, ignoring NaN; the last blocks may be incomplete."""
    image = np.asarray(band, np.float32)
    if factor == 1:
        return image
    rows, columns = (-(-n // factor) * factor for n in image.shape)
    padded = np.full((rows, columns), np.nan, np.float32)
    padded[: image.shape[0], : image.shape[1]] = image
    blocks = padded.reshape(rows // factor, factor, columns // factor, factor)
    count = np.isfinite(blocks).sum(axis=(1, 3))
    total = np.nansum(blocks, axis=(1, 3), dtype=np.float64)
    mean = np.full(count.shape, np.nan, np.float32)
    np.divide(total, count, out=mean, where=count > 0, casting="unsafe")
    return mean


def factor_for(shape: Sequence[int], longest_px: int) -> int:
    """Return the whole number of pixels to average so that no side exceeds ``longest_px``."""
    return max(1, -(-max(shape) // longest_px))


def load(image: xr.DataArray, bands: Sequence[str], factor: int) -> Floats:
    """Read some bands of ``(band, y, x)``, one at a time, shrunk; lazy images are computed here."""
    if "band" not in image.dims:
        return shrink(image.values, factor)[np.newaxis]
    sar = set(bands) <= SAR_BANDS
    return np.stack([displayed(shrink(image.sel(band=b).values, factor), sar=sar) for b in bands])


def limits(images: Sequence[Floats], *, low: float = 2.0, high: float = 98.0) -> npt.NDArray[np.float64]:
    """Return ``(band, 2)`` display limits: percentiles over all images together, so they compare."""
    result = np.zeros((images[0].shape[0], 2))
    result[:, 1] = 1.0
    for b in range(result.shape[0]):
        values = np.concatenate([i[b].ravel() for i in images])
        values = values[np.isfinite(values)]
        # Half a million samples place a percentile well within one display level.
        values = values[:: max(1, values.size // 500_000)]
        if values.size:
            result[b] = np.percentile(values, [low, high])
    return result


def paint(image: Floats, stretch: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Turn ``(band, y, x)`` into ``(y, x, 3)`` display values; unusable pixels are hatched gray."""
    low, span = stretch[:, :1, None], (stretch[:, 1:] - stretch[:, :1])[..., None]
    flat = span <= 0
    scaled = np.where(flat, 0.5, (image - low) / np.where(flat, 1.0, span))
    usable = np.isfinite(image).all(axis=0)
    levels = np.where(usable, np.clip(np.nan_to_num(scaled), 0, 1) * 255, 0).round().astype(np.uint8)
    color = np.repeat(levels, 3, axis=0) if levels.shape[0] < 3 else levels[:3]
    y, x = np.indices(usable.shape)
    hatch = np.where((x + y) % 6 < 2, 150, 222).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(np.where(usable, color[:3], hatch), 0, -1))


def encode(
    pixels: npt.NDArray[np.uint8], *, lossless_px: int = 64 * 64, most_bytes: int = 2_000_000
) -> Picture:
    """Compress ``(y, x, 3)`` pixels.

    Parameters
    ----------
    pixels : display values
    lossless_px : pictures of no more pixels than this are PNG and keep every value; larger ones are JPEG
    most_bytes : the quality of a JPEG is lowered until it takes no more than this (the last step may)
    """
    from PIL import Image

    height, width = pixels.shape[:2]
    picture = Image.fromarray(pixels)
    if height * width <= lossless_px:
        gray = bool((pixels == pixels[..., :1]).all())
        data = _saved(picture.convert("L") if gray else picture, "PNG", optimize=True)
        return Picture(data, "image/png", width, height)
    for quality in (86, 74, 60, 45, 30):
        # No "optimize": Pillow then sizes its buffer too small for noisy pictures, and fails.
        data = _saved(picture, "JPEG", quality=quality, subsampling=0)
        if len(data) <= most_bytes:
            break
    return Picture(data, "image/jpeg", width, height)


def _saved(picture: Any, form: str, **options: Any) -> bytes:
    """Return the bytes of a picture in a format."""
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


@dataclass(frozen=True)
class Overview:
    """The before and after pictures on one stretch.

    Parameters
    ----------
    before, after : pictures
    factor : grid pixels a picture pixel
    bands : what they show, in words
    """

    before: Picture
    after: Picture
    factor: int
    bands: str


def overview(before: xr.DataArray, after: xr.DataArray) -> Overview:
    """Draw both composites with one stretch, at most :data:`PICTURE_PX` wide."""
    bands = display_bands([str(b) for b in np.atleast_1d(before.coords["band"].values)])
    factor = factor_for((before.sizes["y"], before.sizes["x"]), PICTURE_PX)
    images = [load(image, bands, factor) for image in (before, after)]
    stretch = limits(images)
    pictures = [encode(paint(i, stretch), lossless_px=LOSSLESS_OVERVIEW_PX) for i in images]
    return Overview(pictures[0], pictures[1], factor, describe_bands(bands))


@dataclass(frozen=True)
class Painted:
    """Display values of one picture.

    Parameters
    ----------
    pixels : (y, x, 3) uint8
    factor : grid pixels a picture pixel
    """

    pixels: npt.NDArray[np.uint8]
    factor: int


def overview_pixels(composite: xr.DataArray) -> Painted:
    """Paint one composite with its own stretch."""
    bands = display_bands([str(b) for b in np.atleast_1d(composite.coords["band"].values)])
    factor = factor_for((composite.sizes["y"], composite.sizes["x"]), PICTURE_PX)
    shown = load(composite, bands, factor)
    return Painted(paint(shown, limits([shown])), factor)


def undecided_picture(
    statistic: xr.DataArray, *, longest_px: int = 480, least: float = 0.002
) -> tuple[Picture | None, float]:
    """Draw where no decision was possible (hatched), and return its share of the area.

    None where there is too little of it to draw.
    """
    blind = ~np.isfinite(np.asarray(statistic.values))
    share = float(blind.mean()) if blind.size else 0.0
    if share < least:
        return None, share
    factor = factor_for(blind.shape, longest_px)
    part = shrink(blind.astype(np.float32), factor)
    tone = np.where(part > 0.5, np.float32(np.nan), np.float32(1))[np.newaxis]
    picture = encode(paint(tone, np.array([[0.0, 1.05]])), lossless_px=longest_px**2)
    return picture, share


def window_around(geometry: BaseGeometry, shape: tuple[int, int], *, least_px: int = 24) -> Window:
    """Return a square window around a geometry in pixel coordinates, cut at the image's edge."""
    left, top, right, bottom = geometry.bounds
    half = max(least_px / 2, 0.9 * max(right - left, bottom - top))
    middle_y, middle_x = (top + bottom) / 2, (left + right) / 2
    rows, columns = shape
    r0, r1 = (int(np.clip(round(middle_y + s * half), 0, rows)) for s in (-1, 1))
    c0, c1 = (int(np.clip(round(middle_x + s * half), 0, columns)) for s in (-1, 1))
    return slice(r0, max(r1, r0 + 1)), slice(c0, max(c1, c0 + 1))


def roles(
    row: Mapping[str, Any], observed: Sequence[Mapping[str, Any]], scenes: Mapping[str, int]
) -> dict[int, str]:
    """Choose the dates to show of one structure: position along time → role, in order of time.

    Parameters
    ----------
    row : the structure
    observed : its observations
    scenes : position along time by scene id and by date
    """
    usable = [o for o in observed if o.get("seen") != "unseen"] or list(observed)
    order = sorted((str(o.get("date")), o) for o in usable) if usable else []
    latest = order[-1][1] if order else {}
    wanted = [
        ("last without it", row.get("last_absent_scene"), row.get("last_absent")),
        ("first with it", row.get("first_seen_scene"), row.get("first_seen")),
        ("latest usable", latest.get("scene"), latest.get("date")),
    ]
    if row.get("status") in ("removed", "transient"):
        wanted.insert(2, ("last with it", None, row.get("last_seen")))
    if not order and scenes:
        newest = max(scenes, key=lambda name: scenes[name])
        wanted[-1] = ("latest", newest, newest)
    found: dict[int, str] = {}
    for role, scene, date in wanted:
        at = scenes.get(str(scene), scenes.get(day(date))) if known(scene) or known(date) else None
        if at is not None:
            found[at] = f"{found[at]}, {role}" if at in found else role
    return dict(sorted(found.items()))


def scene_positions(stack: xr.Dataset) -> dict[str, int]:
    """Return the position along time of every scene id, and of every date (its first scene)."""
    positions: dict[str, int] = {}
    dates = [day(t) for t in stack["time"].values]
    for i in reversed(range(len(dates))):
        positions[dates[i]] = i
    if "scene" in stack.coords:
        positions |= {str(s): i for i, s in enumerate(np.atleast_1d(stack["scene"].values))}
    return positions


def scene_names(stack: xr.Dataset) -> list[tuple[str, str]]:
    """Return (date, scene id) of every scene of a stack."""
    dates = [day(t) for t in stack["time"].values]
    if "scene" not in stack.coords:
        return [(d, d) for d in dates]
    return [(d, str(s)) for d, s in zip(dates, np.atleast_1d(stack["scene"].values), strict=True)]


def chips_of(
    stack: xr.Dataset, windows: Mapping[int, Window], wanted: Mapping[int, Mapping[int, str]]
) -> dict[int, list[Chip]]:
    """Cut chips out of a stack, scene by scene, so that each is read once and never kept whole.

    Parameters
    ----------
    stack : scenes
    windows : structure number → window
    wanted : structure number → {position along time: role}

    Returns
    -------
    structure number → chips in order of time, on one stretch a structure
    """
    bands = display_bands([str(b) for b in np.atleast_1d(stack["band"].values)])
    cut: dict[int, dict[int, Floats]] = {number: {} for number in wanted}
    factors = {n: factor_for([s.stop - s.start for s in windows[n]], CHIP_PX) for n in wanted}
    for at in sorted({t for times in wanted.values() for t in times}):
        numbers = [n for n, times in wanted.items() if at in times]
        scene = stack["image"].isel(time=at).sel(band=list(bands))
        for number, values in _cut(scene, {n: windows[n] for n in numbers}).items():
            sar = set(bands) <= SAR_BANDS
            cut[number][at] = np.stack([displayed(shrink(b, factors[number]), sar=sar) for b in values])
    names = scene_names(stack)
    chips: dict[int, list[Chip]] = {}
    for number, images in cut.items():
        stretch = limits(list(images.values())) if images else np.zeros((1, 2))
        chips[number] = [
            Chip(
                wanted[number][at],
                *names[at],
                encode(paint(image, stretch)),
                windows[number],
                factors[number],
            )
            for at, image in sorted(images.items())
        ]
    return chips


def _cut(scene: xr.DataArray, windows: Mapping[int, Window]) -> dict[int, Floats]:
    """Read several windows of one scene ``(band, y, x)`` in one go."""
    import xarray as xr

    parts = {}
    for number, (rows, columns) in windows.items():
        part = scene.isel(y=rows, x=columns).drop_vars(list(scene.coords))
        parts[f"w{number}"] = part.rename({d: f"{d}{number}" for d in part.dims})
    read = xr.Dataset(parts).compute()
    # Copies: a slice of a chunk would keep the whole chunk alive.
    return {number: np.array(read[f"w{number}"].values, np.float32) for number in windows}
