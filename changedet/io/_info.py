"""What was recognised, as plain values for ``info --json`` and ``run.json``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from changedet.io._masks import decode
from changedet.io._read import physical
from changedet.io.raster import read_window
from changedet.scenes import UNUSABLE, Fit, Scene

Floats = npt.NDArray[np.float32]


def scene_info(
    scene: Scene, *, side_px: int = 512, usable_fit: float = 0.5, usable_limited: float = 0.05
) -> dict[str, Any]:
    """Describe one scene; pixels are read decimated.

    Parameters
    ----------
    scene : what to describe
    side_px : rows and columns read at most
    usable_fit : usable share from which on a scene is ``fit``
    usable_limited : usable share from which on it is ``limited``; below it is ``refused``

    Returns
    -------
    dict with the keys of ``info --json``; ``shift_px`` is null until the stack is aligned, ``water`` is null
    without green and near infrared in reflectance

    Raises
    ------
    UnreadableError, VanishedInputError
        The pixels cannot be read.
    """
    image, flags = _decimated(scene, side_px)
    usable = float(np.mean(flags & np.uint8(UNUSABLE) == 0))
    fit, words = _fitness(usable, usable_fit, usable_limited)
    date = None if scene.date is None else str(np.datetime64(str(scene.date), "s"))
    return {
        "id": scene.id,
        "path": scene.path,
        "sensor": scene.sensor,
        "date": None if date is None else date[:10],
        "datetime": None if date is None else date + "Z",
        "bands": list(scene.bands),
        "crs": scene.grid.crs,
        "transform": [float(v) for v in scene.grid.transform[:6]],
        "shape": list(scene.grid.shape),
        "gsd_m": round(scene.grid.gsd_m, 4),
        "scale": scene.scale,
        "offset": scene.offset,
        "nodata": _json_number(scene.nodata),
        "mask": scene.mask,
        "usable": round(usable, 4),
        "water": _water_share(scene, image, flags),
        "shift_px": None,
        "fit": fit,
        "why": {**scene.why, "fit": words},
    }


def _decimated(scene: Scene, side_px: int) -> tuple[dict[str, Floats], npt.NDArray[np.uint8]]:
    """Read every band and mask of a scene at no more than a number of rows and columns (nearest pixel)."""
    rows, columns = (min(n, side_px) for n in scene.grid.shape)
    flags = np.zeros((rows, columns), np.uint8)
    image: dict[str, Floats] = {}
    for layer in scene.layers:
        stored = read_window(layer, out_shape=(rows, columns))
        values = np.empty(stored.shape, np.float32)
        flags |= physical(stored, layer, scene, out=values)
        image.update(zip(layer.bands, values, strict=True))
    for mask in scene.masks:
        flags |= decode(mask.kind, read_window(mask, out_shape=(rows, columns)))
    return image, flags


def _fitness(usable: float, usable_fit: float, usable_limited: float) -> tuple[Fit, str]:
    """Say whether enough of a scene can be used."""
    share = f"{usable:.0%} of the pixels are usable"
    if usable >= usable_fit:
        return "fit", share
    if usable >= usable_limited:
        return "limited", f"{share}, less than {usable_fit:.0%}"
    return "refused", f"{share}, less than {usable_limited:.0%}: nothing can be said of this scene"


def _water_share(scene: Scene, image: dict[str, Floats], flags: npt.NDArray[np.uint8]) -> float | None:
    """Return the share of usable pixels whose NDWI is positive (McFeeters 1996)."""
    infrared = next((b for b in ("nir", "nir08") if b in image), None)
    good = flags & np.uint8(UNUSABLE) == 0
    if "green" not in image or infrared is None or not scene.physical or not good.any():
        return None
    green, nir = image["green"][good], image[infrared][good]
    return round(float(np.mean(green > nir)), 4)


def _json_number(value: float | None) -> float | str | None:
    """Return a number as JSON can hold it: NaN and infinities as words."""
    if value is None or math.isfinite(value):
        return value
    return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")


def grids_of(scenes: list[Scene]) -> list[dict[str, Any]]:
    """Return the distinct grids and the ids of the scenes on each."""
    out: list[tuple[Scene, list[str]]] = []
    for scene in scenes:
        for first, ids in out:
            if first.grid.same_as(scene.grid):
                ids.append(scene.id)
                break
        else:
            out.append((scene, [scene.id]))
    return [
        {
            "crs": first.grid.crs,
            "transform": [float(v) for v in first.grid.transform[:6]],
            "shape": list(first.grid.shape),
            "gsd_m": round(first.grid.gsd_m, 4),
            "scenes": ids,
        }
        for first, ids in out
    ]


def groups_of(scenes: list[Scene]) -> list[dict[str, Any]]:
    """Return the groups of scenes that may be compared."""
    groups: dict[str, list[str]] = {}
    for scene in scenes:
        groups.setdefault(scene.group, []).append(scene.id)
    return [{"group": name, "scenes": ids} for name, ids in groups.items()]
