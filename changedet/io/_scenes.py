"""From the files of one acquisition to its :class:`~changedet.scenes.Scene` record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from changedet.errors import BandError, CRSError, GridError
from changedet.grid import Grid
from changedet.io import _scale
from changedet.io._bands import name_bands
from changedet.io._collect import Group, Key, sensor_of_name
from changedet.io._dates import find_date
from changedet.io._masks import MASK_BANDS, WORDS, landsat_kind
from changedet.io._names import Name, natural
from changedet.io.raster import Header, read_header
from changedet.scenes import Layer, Mask, Scene
from changedet.sensors import GENERIC, Sensor, common_name, group_of

_SENSOR_TAGS = ("SENSOR", "SPACECRAFT_ID", "SPACECRAFT_NAME", "MISSION_ID", "PLATFORM", "PRODUCT_URI")
_SAME_SIZE = 1.05
"""Pixel sizes that differ by less than this ratio are meant to be the same."""


@dataclass(frozen=True)
class Asked:
    """What the user said about every scene.

    Parameters
    ----------
    date : see :func:`changedet.io._dates.parse_given`
    band_names : names in file order
    """

    date: Mapping[str, str] | str | None = None
    band_names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class _Part:
    """One image file of an acquisition, understood."""

    name: Name
    layer: Layer
    masks: tuple[Mask, ...]
    why_bands: str
    scale: _scale.Scale


def build_scenes(key: Key, group: Group, asked: Asked) -> list[Scene]:
    """Make the record of one acquisition; of several, where files with many bands share a name by chance.

    Parameters
    ----------
    key : (folder, name) that the files share
    group : the files
    asked : what the user said

    Raises
    ------
    BandError, GridError, CRSError
        Band names repeat, or the files of the scene do not fit together.
    UnreadableError, InputError
        A file is no image.
    """
    files = [(n, read_header(n.path)) for n in sorted(group.images, key=lambda n: natural(n.path.name))]
    # a name that ends in a band says what a single-band file holds; with more bands it is part of the name
    apart = [f for f in files if len(files) > 1 and f[0].band is not None and f[1].count > 1]
    together = [f for f in files if f not in apart]
    out = [_build(key, together, group, asked)] if together else []
    for name, header in apart:
        masks = [m for m in group.masks if m.stem.startswith(name.stem)]
        out.append(_build(key, [(name, header)], Group(masks=masks), asked))
    return out


def _build(key: Key, files: list[tuple[Name, Header]], group: Group, asked: Asked) -> Scene:
    """Make one record."""
    files = sorted(files, key=lambda f: f[1].grid.gsd_m)
    tags = {k: v for _, header in reversed(files) for k, v in header.tags.items()}
    first = files[0][0]
    sensor = sensor_of_name(first.path, " ".join(tags[k] for k in _SENSOR_TAGS if k in tags))
    files.sort(key=lambda f: _is_pan(f[0], f[1], sensor))
    first = files[0][0]
    given = _given_names(files, asked.band_names)
    parts = _distinct([_part(n, h, sensor, g) for (n, h), g in zip(files, given, strict=True)])
    masks = [m for p in parts for m in p.masks] + _finest([_sidecar(n) for n in group.masks])
    date, why_date = find_date(first.path, tags, asked.date, names=names_of(key[1], [n for n, _ in files]))
    layers = tuple(p.layer for p in parts)
    scene = Scene(
        id=first.stem if len(files) == 1 else key[1],
        path=str(first.path),
        layers=layers,
        grid=_grid(layers, masks),
        date=date,
        sensor=sensor.name,
        scale=layers[0].scale[0],
        offset=layers[0].offset[0],
        nodata=layers[0].nodata[0],
        decibel=_scale.is_decibel(layers[0]),
        physical=all(p.scale.physical for p in parts),
        masks=tuple(masks),
        group=group_of(first.stem, tags, sensor),
        why={"sensor": _why_sensor(sensor), "date": why_date},
    )
    return scene.patch(why={**scene.why, **_why(scene, parts, group)})


def names_of(key: str, files: list[Name]) -> list[str]:
    """Return every name under which a user may speak of a scene."""
    return [key, *(text for n in files for text in (str(n.path), n.path.name, n.path.stem))]


def _is_pan(name: Name, header: Header, sensor: Sensor) -> bool:
    """Return True for a panchromatic file: finer than the bands with colors, whose grid the scene keeps."""
    return header.count == 1 and common_name(name.band or header.names[0], sensor) == "pan"


def _why_sensor(sensor: Sensor) -> str:
    """Say how the sensor was recognised."""
    return "not recognised by name or tags" if sensor is GENERIC else f"{sensor.name} by name or tags"


def _why(scene: Scene, parts: list[_Part], group: Group) -> dict[str, str]:
    """Say where bands, scale, nodata and masks come from."""
    scales = "; ".join(dict.fromkeys(p.scale.why for p in parts))
    if scene.decibel:
        scales += "; SAR in dB (most values are negative), turned into linear power"
    masks = "; ".join(f"{Path(m.path).name}: {WORDS[m.kind]}" for m in scene.masks)
    out = {
        "bands": "; ".join(dict.fromkeys(p.why_bands for p in parts)),
        "scale": scales,
        "mask": masks or "no mask found: nodata only",
        "saturation": _why_saturation(scene),
    }
    if any(p.scale.assumed for p in parts):
        out["assumed"] = "scale"
    if len(parts) > 1:
        out["files"] = f"{len(parts)} files of one acquisition"
    if len({round(x.grid.gsd_m, 3) for x in scene.layers if x.grid is not None}) > 1:
        out["files"] += "; coarser ones are interpolated (bilinear) onto the grid, finer ones averaged"
    if group.skipped:
        out["left_out"] = ", ".join(sorted(group.skipped))
    return out


def _why_saturation(scene: Scene) -> str:
    """Say what counts as saturated."""
    levels = sorted({x.saturated for x in scene.layers if x.saturated is not None})
    if levels:
        return f"stored value {', '.join(f'{v:g}' for v in levels)}"
    if scene.layers[0].dtype == "uint8":
        return "none: the top of an 8-bit picture is its brightest display value, and kept"
    return "none known for this dtype"


def _given_names(
    files: list[tuple[Name, Header]], names: tuple[str, ...] | None
) -> list[tuple[str, ...] | None]:
    """Share the names that the user gave among the files of a scene."""
    if names is None:
        return [None] * len(files)
    counts = [sum(role != "alpha" for role in header.roles) for _, header in files]
    if sum(counts) != len(names):
        raise BandError(
            f"{files[0][0].path.name} has {sum(counts)} bands in {len(files)} file(s), --band-names gives "
            f"{len(names)} ({', '.join(names)}); wanted one name a band"
        )
    cuts = np.cumsum([0, *counts])
    return [names[a:b] for a, b in pairwise(cuts)]


def _part(name: Name, header: Header, sensor: Sensor, given: tuple[str, ...] | None) -> _Part:
    """Understand one image file."""
    bands, words = name_bands(header, sensor, name.band)
    if given is not None:
        named = iter(given)
        bands = tuple("alpha" if role == "alpha" else next(named) for role in header.roles)
        words = "given with --band-names"
    masks, taken = _masks_inside(name, header, sensor, bands)
    image = [i for i in range(header.count) if i not in taken and bands[i] != "alpha"]
    chosen = [bands[i] for i in image]
    if not chosen or len(set(chosen)) != len(chosen):
        raise BandError(
            f"{name.path.name} has bands {', '.join(bands)}; wanted unique names and at least one image "
            "band; name them with --band-names"
        )
    layer = _layer(header, sensor, image, chosen)
    scale = _scale.from_file(header)
    if scale is None:
        product = next((p for p in name.path.parents if p.name.upper().endswith(".SAFE")), name.path.parent)
        scale = _scale.find_scale(layer, sensor, f"{product.name}/{name.stem}")
        per_band = [(scale.scale, scale.offset)] * len(image)
    elif any(s != 1 for s in header.scales) or any(o != 0 for o in header.offsets):
        per_band = [(header.scales[i], header.offsets[i]) for i in image]
    else:
        per_band = [(scale.scale, scale.offset)] * len(image)
    scales, offsets = zip(*per_band, strict=True)
    return _Part(name, replace(layer, scale=tuple(scales), offset=tuple(offsets)), masks, words, scale)


def _layer(header: Header, sensor: Sensor, image: list[int], bands: list[str]) -> Layer:
    """Make the layer of one file, its scale aside."""
    dtype = header.dtypes[image[0]]
    integer = not dtype.startswith("float")
    fills = [header.nodata[i] for i in image]
    if integer:
        fills = [sensor.nodata if f is None else f for f in fills]
    return Layer(
        path=header.path,
        indexes=tuple(i + 1 for i in image),
        bands=tuple(bands),
        grid=header.grid,
        dtype=dtype,
        nodata=tuple(fills),
        saturated=_saturated(dtype, sensor, fills),
        block=header.block,
    )


def _saturated(dtype: str, sensor: Sensor, fills: list[float | None]) -> float | None:
    """Return the stored value that means saturated: the top of the integer type.

    An 8-bit picture of an unknown sensor is stretched for display: its top is a bright place, not a failure.
    """
    if dtype.startswith("float") or (dtype == "uint8" and sensor is GENERIC):
        return None
    top = float(np.iinfo(dtype).max)
    return None if top in fills else top


def _masks_inside(
    name: Name, header: Header, sensor: Sensor, bands: tuple[str, ...]
) -> tuple[tuple[Mask, ...], set[int]]:
    """Return the masks that a file holds itself, and the bands (from 0) that are no image."""
    masks, taken = [], set()
    for i, band in enumerate(bands):
        low = band.lower()
        if low in MASK_BANDS:
            masks.append(Mask(header.path, MASK_BANDS[low], (i + 1,), header.grid))
            taken.add(i)
        elif low == "qa" and sensor.name.startswith("landsat"):
            probe = Layer(header.path, (i + 1,), (band,), header.grid, header.dtypes[i])
            oli = sensor.name in ("landsat-8", "landsat-9")
            masks.append(
                Mask(header.path, landsat_kind(_scale.sample(probe), oli=oli), (i + 1,), header.grid)
            )
            taken.add(i)
        elif low == "qa":
            raise BandError(
                f"{name.path.name} has a band 'qa' but its sensor is not recognised, so its convention is "
                "unknown; wanted bqa, qa_pixel, scl or mask; say which with --band-names"
            )
    if header.masked:
        masks.append(Mask(header.path, "dataset", (0,), header.grid))
    return tuple(masks), taken


def _sidecar(name: Name) -> Mask:
    """Understand one mask file."""
    header = read_header(name.path)
    kind = name.mask or "nonzero"
    if kind == "udm2" and header.count >= 8:
        return Mask(header.path, "udm2", tuple(range(1, 9)), header.grid)
    return Mask(header.path, "nonzero" if kind == "udm2" else kind, (1,), header.grid)


def _finest(masks: list[Mask]) -> list[Mask]:
    """Keep the finest mask of each convention."""
    best: dict[str, Mask] = {}
    for mask in masks:
        held = best.get(mask.kind)
        if held is None or _gsd(mask) < _gsd(held):
            best[mask.kind] = mask
    return list(best.values())


def _gsd(mask: Mask) -> float:
    """Return the ground sample distance of a mask."""
    return mask.grid.gsd_m if mask.grid is not None else np.inf


def _distinct(parts: list[_Part]) -> list[_Part]:
    """Keep the finest of bands that several files hold; two of one pixel size are refused."""
    seen: dict[str, _Part] = {}
    out = []
    for part in parts:
        kept = []
        for band in part.layer.bands:
            other = seen.setdefault(band, part)
            if other is part:
                kept.append(band)
            elif _ratio(part.layer, other.layer) < _SAME_SIZE:
                raise BandError(
                    f"{part.name.path.name} and {other.name.path.name} both hold band {band!r} of one "
                    "acquisition; wanted each band once; give one of the files"
                )
        if kept:
            out.append(replace(part, layer=part.layer.narrow(tuple(kept))))
    return out


def _ratio(layer: Layer | Mask, finest: Layer | Mask) -> float:
    """Return how many times coarser a file is than another."""
    if layer.grid is None or finest.grid is None:
        return 1.0
    ratio = layer.grid.gsd_m / finest.grid.gsd_m
    return max(ratio, 1 / ratio)


def _grid(layers: tuple[Layer, ...], masks: list[Mask]) -> Grid:
    """Return the grid of the finest file; files that do not fit on it are refused."""
    finest = layers[0]
    if finest.grid is None:
        raise GridError(f"{finest.path} has no grid")
    others: list[Layer | Mask] = [*layers[1:], *masks]
    for other in others:
        words = other.grid.difference_from(finest.grid) if other.grid is not None else None
        if words is None:
            continue
        if words.startswith("CRS"):
            raise CRSError(
                f"{other.path} belongs to {finest.path} but differs: {words}; wanted one CRS in a scene; "
                "give the files apart, or reproject one"
            )
        if _ratio(other, finest) < _SAME_SIZE or not finest.grid.georeferenced:
            raise GridError(
                f"{other.path} belongs to {finest.path} but is on another grid: {words}; wanted the same "
                "grid, or a coarser one of the same area; resample it first"
            )
    return finest.grid
