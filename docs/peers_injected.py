"""Structures in real pixels for ``make_peers.py``: where they lie, how they look, and the truth of it.

They are rendered as ``changedet sensitivity`` renders its own: flat tops of one material, mixed into the
pixels by how much of each they cover, brighter and darker with the light of each date. Places and dates are
drawn here, without asking the detector, so that a stack stays the same when the detector changes. Scenes
are taken as they lie: what is left of their misregistration is not known, and none is put on the structures.
"""

from __future__ import annotations

import datetime as dt
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
import xarray as xr
from shapely import transform

import changedet as cd
from changedet.pipeline import _injection as injection
from changedet.pipeline._pixels import Pixels
from changedet.scenes import make_stack
from changedet.steps import mask

COAST = ("NEWCASTLE", "SAWTELL", "Mayreau")
PLACES = ("s2_romania", *COAST)
GROUPS = {"s2_romania": ("s2_romania",), "l8_coast": COAST}
COUNT = {"s2_romania": 10, **dict.fromkeys(COAST, 4)}
"""Structures in a stack: about three per cent of its pixels at most."""
COPIES = 2
SIDES_PX = (2.0, 6.0)
MATERIALS = ("concrete", "concrete", "earth_fill", "steel")
GAP_PX, EDGE_PX, TRIES = 8, 3, 400
LEAST_SEEN = 0.4
"""Share of the dates on which a place must be usable."""
LEAST_USABLE = 0.05
"""Share of a scene, its empty frame left out, that must be usable for it to be taken."""


def read(data: Path, place: str) -> xr.Dataset:
    """Read the scenes of a place, those left out of which little is usable."""
    if place in COAST:
        names = ("blue", "green", "red", "nir", "swir16", "qa")
        stack = cd.open_stack([data / "stacks/l8_coast" / place / "L8/ms"], band_names=names)
        stack = stack.sel(band=["blue", "green", "red", "nir"])
    else:
        stack = romania(data / "stacks/s2_romania/s2_romania_north_10m.nc")
    # the frame of a slanted image is empty on every date, and counts for nothing
    seen = np.isfinite(stack.image.values).all(axis=1)
    share = seen.sum(axis=(1, 2)) / seen.any(axis=0).sum()
    return stack.isel(time=np.flatnonzero(share >= LEAST_USABLE))


def romania(file: Path) -> xr.Dataset:
    """Read the Sentinel-2 cube, which has no georeference as GDAL sees it."""
    layers = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        for name in ("B2", "B3", "B4", "B8", "SCL"):
            with rasterio.open(f"netcdf:{file}:{name}") as source:
                layers[name] = source.read()
                days = [int(d) for d in source.tags()["NETCDF_DIM_time_VALUES"].strip("{}").split(",")]
    clear = np.isin(layers.pop("SCL"), (2, 4, 5, 6, 7, 11))
    image = np.stack(list(layers.values()), axis=1).astype(np.float32) / 1e4
    image[~np.broadcast_to(clear[:, None], image.shape)] = np.nan
    dates = [np.datetime64(dt.date(2015, 8, 1)) + np.timedelta64(d, "D") for d in days]
    grid = cd.Grid.make("EPSG:3035", rasterio.Affine(10, 0, 5e6, 0, -10, 2.5e6), image.shape[-2:])
    return make_stack(image, grid, dates=np.array(dates), bands=("blue", "green", "red", "nir"),
                      sensors=("sentinel-2",) * len(dates))  # fmt: skip


def built(stack: xr.Dataset, place: str, seed: int) -> tuple[xr.Dataset, gpd.GeoDataFrame]:
    """Return a stack with structures in it, and where and from when on they are there."""
    image, bands = np.array(stack.image.values), tuple(map(str, stack.band.values))
    pixels, history = Pixels(stack.image), mask.history_length(stack.sizes["time"])
    setting = mask.setting(pixels.sample(8000), bands, n_history=history)
    look = injection.light(pixels, bands, SimpleNamespace(setting=setting))
    grid = cd.Grid.of(stack)
    strata = setting.stratum(image)
    rng = np.random.default_rng([seed, PLACES.index(place)])
    trials = list(drawn(image, grid.gsd_m, (history, strata), COUNT[place], rng))
    rows, columns = image.shape[2:]
    image = injection.inject(
        image, trials, (slice(0, rows), slice(0, columns)), look,
        shifts=((0.0, 0.0),) * len(image), psf_px=injection.blur_px(grid.gsd_m),
    )  # fmt: skip
    truth = gpd.GeoDataFrame(
        {
            "id": [str(k + 1) for k in range(len(trials))],
            "first_seen": [stack.time.values[one.kind.onset] for one in trials],
            "over": [one.kind.over for one in trials],
        },
        geometry=[to_map(one.outline, grid.transform) for one in trials],
        crs=grid.crs,
    )
    return stack.assign(image=stack.image.copy(data=image)), truth


def drawn(
    image: np.ndarray, gsd_m: float, ground: tuple[int, np.ndarray], count: int, rng: np.random.Generator
) -> Iterator[injection.Trial]:
    """Draw structures at random places that are often usable, apart from one another."""
    history, strata = ground
    room = np.isfinite(image).all(axis=1).mean(axis=0) >= LEAST_SEEN
    at: Any = SimpleNamespace(gsd_m=gsd_m, shifts=((0.0, 0.0),) * len(image))
    for _ in range(TRIES):
        middle = rng.uniform(EDGE_PX, np.array(room.shape) - EDGE_PX)
        side = float(np.exp(rng.uniform(*np.log(SIDES_PX)))) * gsd_m
        over = mask.STRATA[int(strata[int(middle[0]), int(middle[1])])]
        onset = int(rng.integers(history, len(image) - injection.NEEDED + 1))
        form, material = str(rng.choice(["block", "pier"])), str(rng.choice(MATERIALS))
        kind = injection.Kind(over, side, form, material, onset)
        one = injection.make_trial(kind, at, (float(middle[0]), float(middle[1])), rng)
        left, top, right, bottom = one.outline.bounds
        inside = min(left, top) >= EDGE_PX and right <= room.shape[1] - EDGE_PX
        if inside and bottom <= room.shape[0] - EDGE_PX and room[one.rows, one.columns].all():
            rows, columns = (slice(max(s.start - GAP_PX, 0), s.stop + GAP_PX) for s in one.window)
            room[rows, columns] = False
            yield one
            count -= 1
        if count == 0:
            return


def to_map(outline: Any, affine: Any) -> Any:
    """Return a polygon of (column, row) in map coordinates."""
    return transform(outline, lambda p: np.column_stack(affine @ (p[:, 0], p[:, 1])))
