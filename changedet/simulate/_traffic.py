"""What is real but no structure: vessels, things on the ice, heaps and vehicles of the works, harvests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from changedet.simulate._fields import stream
from changedet.simulate._settings import SceneSettings
from changedet.simulate._surface import FILM_DAYS, filmed, season
from changedet.simulate._terrain import FIELD, MARGIN, Terrain
from changedet.simulate._weather import Day
from changedet.simulate._works import Structure


@dataclass(frozen=True)
class Passing:
    """Something seen on scenes `first` to `last` (indices); no `material`: the ground's picture has it."""

    kind: str
    geometry: Any
    first: int
    last: int
    material: str | None
    height_m: float = 0.0
    strength: float = 1.0


def traffic(
    settings: SceneSettings, ground: Terrain, weather: tuple[Day, ...], works: tuple[Structure, ...]
) -> tuple[Passing, ...]:
    """All of them, in no order that matters."""
    found: list[Passing] = []
    for day in weather:
        found += _vessels(settings, ground, day, len(weather))
        found += _on_ice(settings, ground, day)
        found += _heaps(settings, ground, day, works, len(weather))
    return (*found, *_harvests(settings, ground, weather))


def _wet_place(
    rng: np.random.Generator, ground: Terrain, day: Day, margin_m: float
) -> tuple[float, float] | None:
    """A random place in water, `(x, y)`; None if a few tries find none."""
    for _ in range(20):
        row, col = (int(rng.integers(MARGIN, n - MARGIN)) for n in ground.shape)
        if ground.bank_m[row, col] > margin_m and day.level_m - ground.bed_m[row, col] > 0.8:
            t = ground.transform
            return t.c + (col + float(rng.random())) * t.a, t.f + (row + float(rng.random())) * t.e
    return None


def _vessels(settings: SceneSettings, ground: Terrain, day: Day, n_dates: int) -> list[Passing]:
    """Boats and barges heading along the river; about one in six is moored for two or three scenes."""
    rng = stream(settings.seed, "vessels", day.index)
    if day.ice > 0.2:
        return []
    found = []
    for _ in range(int(rng.poisson(settings.boats))):
        place = _wet_place(rng, ground, day, 12)
        long = float(rng.uniform(5, 14) if rng.random() < 0.55 else rng.uniform(18, 55))
        if place is None:
            continue
        heading = ground.crossing.bearing_deg + 90 + float(rng.normal(0, 12))
        stay = int(rng.integers(1, 3)) if rng.random() < 0.16 else 0
        hull = slab(place, long, max(2.0, 0.22 * long), heading)
        material = str(rng.choice(["painted_steel", "steel", "timber"]))
        last = min(day.index + stay, n_dates - 1)
        found.append(Passing("vessel", hull, day.index, last, material, 1.5, float(rng.uniform(0.8, 1.0))))
        if not stay and rng.random() < 0.6:
            wake = _wake(place, heading, min(3.0 * long, 70.0))
            found.append(
                Passing("wake", wake, day.index, day.index, "snow_old", 0.0, float(rng.uniform(0.02, 0.12)))
            )
    return found


def _on_ice(settings: SceneSettings, ground: Terrain, day: Day) -> list[Passing]:
    """Sheds, timber and tracks on a frozen river, of one scene."""
    from shapely import LineString

    rng = stream(settings.seed, "on-ice", day.index)
    if not day.frozen:
        return []
    found = []
    for _ in range(int(rng.poisson(2.5))):
        place = _wet_place(rng, ground, day, 5)
        if place is not None:
            size = rng.uniform(3, 16, 2)
            kind = str(rng.choice(["painted_steel", "timber", "soil", "snow_fresh"]))
            found.append(
                Passing(
                    "ice-object",
                    slab(place, size[0], size[1], float(rng.uniform(0, 180))),
                    day.index,
                    day.index,
                    kind,
                    1.0,
                )
            )
    for _ in range(int(rng.poisson(0.8))):
        a, b = (_wet_place(rng, ground, day, 0) for _ in range(2))
        if a is not None and b is not None:
            line = LineString([a, b]).buffer(1.5)
            found.append(
                Passing(
                    "ice-track", line, day.index, day.index, "ice_clear", 0.0, float(rng.uniform(0.3, 0.8))
                )
            )
    return found


def _heaps(
    settings: SceneSettings, ground: Terrain, day: Day, works: tuple[Structure, ...], n_dates: int
) -> list[Passing]:
    """Stockpiles and machines about the works once they have begun, each for a scene or two."""
    rng = stream(settings.seed, "heaps", day.index)
    begun = [item for item in works if item.start <= day.date]
    found = []
    for _ in range(int(rng.poisson(settings.stockpiles)) if begun else 0):
        near = begun[int(rng.integers(len(begun)))]
        across = near.across_m + float(rng.uniform(-70, 70))
        along = near.along_m + float(rng.choice([-1, 1]) * rng.uniform(35, 90))
        long, wide, turn = (float(v) for v in rng.uniform((4, 4, 0), (14, 14, 90)))
        shape = ground.box(across, along, long, wide, turn)
        clash = any(
            shape.intersects(ground.box(w.across_m, w.along_m, w.long_m, w.wide_m, w.turn_deg)) for w in works
        )
        spot = ground.sample(ground.bed_m, np.array([ground.point(across, along)]))[0]
        if clash or spot < day.level_m + 0.3:
            continue
        last = min(day.index + int(rng.random() < 0.35), n_dates - 1)
        material = str(rng.choice(["earth_fill", "gravel", "painted_steel"]))
        found.append(Passing("stockpile", shape, day.index, last, material, 3.0))
    return found


def _harvests(settings: SceneSettings, ground: Terrain, weather: tuple[Day, ...]) -> list[Passing]:
    """Fields whose crop went between two scenes of a year, and plots under film; the picture shows them."""
    visible = np.bincount(
        ground.label[MARGIN:-MARGIN, MARGIN:-MARGIN].ravel(), minlength=FIELD + len(ground.parcels)
    )
    found = []
    for parcel in ground.parcels:
        if visible[parcel.label] * settings.gsd_m**2 < max(0.3 * parcel.box.area, 4 * settings.gsd_m**2):
            continue
        for year in sorted({day.year for day in weather}):
            sown, sow, harvest = season(settings, parcel, year)
            after = [d.index for d in weather if d.year == year and d.doy > harvest]
            if sown and after and after[0] > 0 and weather[after[0] - 1].year == year:
                found.append(Passing("harvest", parcel.box, after[0], after[-1], None))
            under = [d.index for d in weather if d.year == year and sow - 8 < d.doy < sow + FILM_DAYS]
            if sown and under and filmed(settings, parcel, year):
                found.append(Passing("film", parcel.box, under[0], under[-1], None))
    return found


def slab(place: tuple[float, float], long_m: float, wide_m: float, heading_deg: float) -> Any:
    from shapely import box
    from shapely.affinity import rotate

    x, y = place
    flat = box(x - wide_m / 2, y - long_m / 2, x + wide_m / 2, y + long_m / 2)
    return rotate(flat, -heading_deg, origin=(x, y))


def _wake(place: tuple[float, float], heading_deg: float, long_m: float) -> Any:
    """Narrow triangle astern, its tip at the hull."""
    from shapely import Polygon

    b = np.deg2rad(heading_deg)
    x, y = _behind(place, heading_deg, long_m)
    side = 0.09 * long_m
    left, right = ((x + k * side * float(np.cos(b)), y - k * side * float(np.sin(b))) for k in (-1, 1))
    return Polygon([place, left, right])


def _behind(place: tuple[float, float], heading_deg: float, distance_m: float) -> tuple[float, float]:
    b = np.deg2rad(heading_deg)
    return place[0] - distance_m * float(np.sin(b)), place[1] - distance_m * float(np.cos(b))
