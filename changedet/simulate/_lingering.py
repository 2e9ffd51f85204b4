"""What comes and stays a while without being built: moored barges, ice left on the banks, driftwood."""

from __future__ import annotations

import numpy as np

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
    for _ in range(int(rng.poisson(settings.moored))):
        first, stay = int(rng.integers(0, max(len(weather) - 1, 1))), int(rng.integers(1, 4))
        long, wide = float(rng.uniform(25, 60)), float(rng.uniform(8, 14))
        place = _mooring(rng, ground, weather[first], min(0.15 * ground.crossing.width_m, 45.0))
        dredger, turn = bool(rng.random() < 0.3), float(rng.normal(0, 8))
        material = str(rng.choice(["steel", "painted_steel", "timber"]))
        days = _while(weather[first : first + stay + 1])
        if place is None or not days:
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
    """A place in water near a bank, off the line of the crossing and the rail bridge."""
    from shapely import Point

    t = ground.transform
    for _ in range(60):
        row, col = (int(rng.integers(MARGIN + 6, n - MARGIN - 6)) for n in ground.shape)
        near = 6 < ground.bank_m[row, col] < off_bank_m + 12
        deep = day.level_m - ground.bed_m[row, col] > 0.8
        x, y = t.c + (col + 0.5) * t.a, t.f + (row + 0.5) * t.e
        clear = abs(ground.along_m[row, col]) > _CLEAR_OF_AXIS_M and ground.rail.distance(Point(x, y)) > 45
        if near and deep and clear:
            return x, y
    return None


def _debris(settings: SceneSettings, ground: Terrain, weather: tuple[Day, ...]) -> list[Passing]:
    """Ice pushed onto the banks at breakup, for a scene or two; driftwood of the floods, until the next."""
    rng = stream(settings.seed, "debris")
    found = []
    for _ in range(int(rng.poisson(settings.debris))):
        ice, first = bool(rng.random() < 0.4), int(rng.integers(0, len(weather)))
        day = weather[first]
        row, col = _shore(rng, ground, day.level_m)
        place = (ground.transform.c + (col + 0.5) * ground.transform.a,
                 ground.transform.f + (row + 0.5) * ground.transform.e)  # fmt: skip
        if ice and 70 < day.doy < 130 and day.ice < 0.4:
            size = float(rng.uniform(4, 18))
            last = max(d.index for d in weather if (d.date - day.date) / np.timedelta64(1, "D") < 25)
            found.append(Passing("ice-jam", blob(rng, place, size), first, last, "ice_white", 0.8, 0.9))
        elif not ice and 190 < day.doy < 330:
            long, wide = float(rng.uniform(5, 16)), float(rng.uniform(1.5, 5))
            until = next((d.index for d in weather if d.year > day.year and d.doy > 195), len(weather))
            heap = slab(place, long, wide, float(rng.uniform(0, 180)))
            found.append(Passing("driftwood", heap, first, until - 1, "timber", 0.5, 0.85))
    return found


def _shore(rng: np.random.Generator, ground: Terrain, level_m: float) -> tuple[int, int]:
    """A pixel just above the water, or any if a few tries find none."""
    row = col = MARGIN
    for _ in range(80):
        row, col = (int(rng.integers(MARGIN, n - MARGIN)) for n in ground.shape)
        if level_m + 0.1 < ground.bed_m[row, col] < level_m + 1.4 and ground.bank_m[row, col] > -14:
            break
    return row, col
