"""What comes and stays a while without being built: moored barges, ice left on the banks, driftwood."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from changedet.simulate._events import blob
from changedet.simulate._fields import stream
from changedet.simulate._settings import SceneSettings
from changedet.simulate._terrain import MARGIN, Terrain
from changedet.simulate._traffic import Passing, slab
from changedet.simulate._weather import Day

_CLEAR_OF_AXIS_M = 25.0  # barges keep off the line of the crossing


def lingering(settings: SceneSettings, ground: Terrain, weather: tuple[Day, ...]) -> tuple[Passing, ...]:
    """All of them; each row of the result lies in one place."""
    return (*_moored(settings, ground, weather), *_debris(settings, ground, weather))


def _moored(settings: SceneSettings, ground: Terrain, weather: tuple[Day, ...]) -> list[Passing]:
    """Barges and dredgers that lie for two to four scenes; a dredger is warped some metres between them."""
    rng = stream(settings.seed, "moored")
    found: list[Passing] = []
    free = [day.index for day in weather[:-1] if day.ice < 0.3]
    for _ in range(int(rng.poisson(settings.moored)) if free else 0):
        first, stay = int(rng.choice(free)), int(rng.integers(1, 4))
        long, wide = float(rng.uniform(25, 60)), float(rng.uniform(8, 14))
        place = _mooring(rng, ground, weather[first], min(0.15 * ground.crossing.width_m, 45.0))
        dredger, turn = bool(rng.random() < 0.3), float(rng.normal(0, 8))
        material = str(rng.choice(["steel", "painted_steel", "timber"]))
        days = _while(weather[first : first + stay + 1])
        if place is None:
            continue
        heading = ground.crossing.bearing_deg + 90 + turn
        last = days[-1].index
        if not dredger:
            found.append(Passing("barge", slab(place, long, wide, heading), first, last, material, 2.5))
            continue
        for k in range(first, last + 1):
            drift = (place[0] + float(rng.normal(0, 9)), place[1] + float(rng.normal(0, 9)))
            shape = slab(drift, long, wide, heading + float(rng.normal(0, 6)))
            found.append(Passing("dredger", shape, k, k, "steel", 4.0))
    return found


def _while(days: tuple[Day, ...]) -> tuple[Day, ...]:
    """The scenes of a stay: within four months, until the river freezes."""
    kept = 0
    for day in days:
        if day.ice >= 0.3 or (day.date - days[0].date) / np.timedelta64(1, "D") > 120:
            break
        kept += 1
    return days[:kept]


def _mooring(
    rng: np.random.Generator, ground: Terrain, day: Day, off_bank_m: float
) -> tuple[float, float] | None:
    """A place in water near a bank, off the line of the crossing and the rail bridge; None if none is."""
    from shapely import Point

    near = (ground.bank_m > 6) & (ground.bank_m < off_bank_m + 12)
    deep = (day.level_m - ground.bed_m > 0.8) & (np.abs(ground.along_m) > _CLEAR_OF_AXIS_M)
    for _ in range(20):
        place = _one_of(rng, ground, near & deep)
        if place is not None and ground.rail.distance(Point(place)) > 45:
            return place
    return None


def _one_of(
    rng: np.random.Generator, ground: Terrain, where: NDArray[np.bool_]
) -> tuple[float, float] | None:
    """Middle of a random pixel of a mask, inside the delivered grid; None where the mask is empty."""
    edge = MARGIN + 4
    rows, cols = np.nonzero(where[edge:-edge, edge:-edge])
    if not rows.size:
        return None
    k, t = int(rng.integers(rows.size)), ground.transform
    return t.c + (int(cols[k]) + edge + 0.5) * t.a, t.f + (int(rows[k]) + edge + 0.5) * t.e


def _debris(settings: SceneSettings, ground: Terrain, weather: tuple[Day, ...]) -> list[Passing]:
    """Ice pushed onto the banks at breakup, for a scene or two; driftwood of the floods, until the next."""
    rng = stream(settings.seed, "debris")
    spring = [day for day in weather if 70 < day.doy < 130 and day.ice < 0.4]
    autumn = [day for day in weather if 190 < day.doy < 330]
    found = []
    for _ in range(int(rng.poisson(settings.debris))):
        days = spring if rng.random() < 0.4 else autumn
        if not days:
            continue
        day = days[int(rng.integers(len(days)))]
        above = ground.bed_m - np.float32(day.level_m)
        place = _one_of(rng, ground, (above > 0.1) & (above < 1.4) & (ground.bank_m > -14))
        if place is None:
            continue
        if days is spring:
            heap, last = blob(rng, place, float(rng.uniform(4, 18))), _last_within(weather, day, 25)
            found.append(Passing("ice-jam", heap, day.index, last, "ice_white", 0.8, 0.9))
        else:
            long, wide = float(rng.uniform(5, 16)), float(rng.uniform(1.5, 5))
            until = next((d.index for d in weather if d.year > day.year and d.doy > 195), len(weather))
            heap = slab(place, long, wide, float(rng.uniform(0, 180)))
            found.append(Passing("driftwood", heap, day.index, until - 1, "timber", 0.5, 0.85))
    return found


def _last_within(weather: tuple[Day, ...], day: Day, days: float) -> int:
    """Index of the last scene within some days of one."""
    return max(d.index for d in weather if (d.date - day.date) / np.timedelta64(1, "D") < days)
