"""Land that changes for its own reasons: plowed, felled, burnt, ponded, paved anew; nothing was built."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from changedet.simulate._bars import outline
from changedet.simulate._fields import Array, stream
from changedet.simulate._render import Window, window_coverage
from changedet.simulate._seasons import greenness
from changedet.simulate._settings import SceneSettings
from changedet.simulate._spectra import spectrum
from changedet.simulate._terrain import FIELD, FOREST, GRASS, MARGIN, REED, ROOF, ROOF_BLUE, Terrain
from changedet.simulate._weather import Day

_DAY = np.timedelta64(1, "D")


@dataclass(frozen=True)
class Event:
    """One change of land.

    Attributes
    ----------
    kind : plowed, clearing, burn, part-harvest, pond, roadworks, repainted
    geometry : outline, map coordinates
    start, end : when it came; when it is over (None: it stays)
    window, share : the same, in pixels of the padded grid, less what it spares (roads, water, other cover)
    tint : brightness of its own
    material : of roofs and roads
    fade_d : days in which a burn heals to a third
    """

    kind: str
    geometry: Any
    start: np.datetime64
    end: np.datetime64 | None
    window: Window
    share: Array
    tint: float
    material: str = "soil"
    fade_d: float = 1e6

    def on(self, date: np.datetime64) -> bool:
        """Whether it shows on a date."""
        return bool(self.start <= date) and (self.end is None or bool(date < self.end))


def alter(settings: SceneSettings, events: tuple[Event, ...], day: Day, land: Array) -> None:
    """Paint what has changed by a day onto the land `(band, y, x)`, in place."""
    for event in events:
        if event.on(day.date):
            rows, cols = event.window
            under = land[:, rows, cols]
            values, strength = _look(settings, event, day)
            under += (values[:, None, None] - under) * (event.share * np.float32(strength))


def felled(ground: Terrain, events: tuple[Event, ...], day: Day) -> Terrain:
    """The ground without the trees that are gone by a day."""
    gone = [e for e in events if e.kind == "clearing" and e.on(day.date)]
    if not gone:
        return ground
    height = ground.height_m.copy()
    for event in gone:
        height[event.window][event.share > 0.5] = 0
    return replace(ground, height_m=height)


def _look(settings: SceneSettings, event: Event, day: Day) -> tuple[Array, float]:
    """Reflectance of a change on a day, and how much of it still shows."""
    bands, tint = settings.bands, np.float32(event.tint)
    age = float((day.date - event.start) / _DAY)
    wet = np.float32(1 - 0.3 * day.wetness)
    soil: Array = spectrum("soil", bands) * tint * wet
    if event.kind == "plowed":
        crop = spectrum("crop_green", bands)
        grown = np.float32(0.85 * greenness(day.doy, 168, 262))
        return np.asarray(soil + (crop - soil) * grown, dtype=np.float32), 1.0
    if event.kind == "clearing":
        regrown = np.float32(min(0.25 * age / 365, 0.8) * greenness(day.doy, 122, 283))
        grass = spectrum("grass_green", bands)
        return np.asarray(soil + (grass - soil) * regrown, dtype=np.float32), 0.9
    if event.kind == "burn":
        return spectrum("soil", bands) * np.float32(0.35 * event.tint), float(np.exp(-age / event.fade_d))
    if event.kind == "pond":
        return spectrum("water_clear", bands) * np.float32(1.8) + spectrum(
            "sediment", bands
        ) * tint * 0.2, 0.9
    return spectrum(event.material, bands) * tint * wet, 0.95


def events(settings: SceneSettings, ground: Terrain, weather: tuple[Day, ...]) -> tuple[Event, ...]:
    """Draw the changes of a stack; those that no scene shows are left out."""
    rng = stream(settings.seed, "land-events")
    count = int(rng.poisson(settings.land_events)) if settings.land_events > 0 else 0
    names = list(_MAKERS)
    odds = np.array([0.2, 0.2, 0.15, 0.12, 0.1, 0.13, 0.1])
    found = []
    for _ in range(count):
        name = names[int(rng.choice(len(names), p=odds / odds.sum()))]
        event = _MAKERS[name](settings, ground, rng, _moment(rng, weather, _SEASONS[name]))
        if event is not None and any(event.on(day.date) for day in weather):
            found.append(event)
    return tuple(found)


def _moment(rng: np.random.Generator, weather: tuple[Day, ...], season: tuple[int, int]) -> np.datetime64:
    """A day of the kind's season in one of the stack's years."""
    year = int(rng.integers(weather[0].year, weather[-1].year + 1))
    return _after(np.datetime64(f"{year}-01-01", "ns"), float(rng.integers(*season)))


def _after(start: np.datetime64, days: float) -> np.datetime64:
    return start + np.timedelta64(int(days) * 86_400_000_000_000, "ns")


def _pixel(rng: np.random.Generator, allowed: NDArray[np.bool_]) -> tuple[int, int] | None:
    """A random place where `allowed`, inside the delivered grid; None if a few tries find none."""
    for _ in range(60):
        row, col = (int(rng.integers(MARGIN, n - MARGIN)) for n in allowed.shape)
        if allowed[row, col]:
            return row, col
    return None


def _map(ground: Terrain, row: int, col: int) -> tuple[float, float]:
    t = ground.transform
    return t.c + (col + 0.5) * t.a, t.f + (row + 0.5) * t.e


def blob(rng: np.random.Generator, place: tuple[float, float], radius_m: float) -> Any:
    """Irregular outline of about a radius."""
    from shapely import Polygon
    from shapely.affinity import rotate

    angle = np.linspace(0, 2 * np.pi, 18, endpoint=False)
    wave = sum(rng.normal(0, 0.22 / k) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in (1, 2, 3, 4))
    r, flat = radius_m * np.clip(1 + wave, 0.4, 1.8), float(rng.uniform(0.5, 1.0))
    points = np.column_stack([place[0] + r * np.cos(angle), place[1] + flat * r * np.sin(angle)])
    return rotate(Polygon(points).buffer(0), float(rng.uniform(0, 180)), origin=place)


def _event(
    ground: Terrain, kind: str, geometry: Any, when: tuple[np.datetime64, np.datetime64 | None],
    allowed: NDArray[np.bool_] | Array, **more: Any,
) -> Event | None:  # fmt: skip
    """Cut an outline into pixels, `allowed` of them (or shares)."""
    found = window_coverage(geometry, ground.transform, ground.shape, 4)
    if found is None:
        return None
    (rows, cols), share = found
    share = share * np.asarray(allowed[rows, cols], dtype=np.float32)
    return None if share.max() < 0.05 else Event(kind, geometry, *when, (rows, cols), share, **more)


def _covers(ground: Terrain, *labels: int) -> NDArray[np.bool_]:
    fields = ground.label >= FIELD if FIELD in labels else False
    return np.asarray((np.isin(ground.label, labels) | fields) & (ground.bed_m > 1.3) & (ground.road < 0.3))


def _plowed(
    settings: SceneSettings, ground: Terrain, rng: np.random.Generator, start: np.datetime64
) -> Event | None:
    """Grassland or fallow turned into a field for good."""
    from shapely import box
    from shapely.affinity import rotate

    allowed = _covers(ground, GRASS, REED, FIELD)
    spot = _pixel(rng, allowed & (ground.label < FIELD))
    if spot is None:
        return None
    size = min(max(min(ground.shape) * settings.gsd_m / 900, 0.3), 1.5)
    long, wide = float(rng.uniform(50, 150)) * size, float(rng.uniform(30, 90)) * size
    x, y = _map(ground, *spot)
    flat = box(x - long / 2, y - wide / 2, x + long / 2, y + wide / 2)
    shape = rotate(flat, float(rng.uniform(0, 180)), origin=(x, y))
    return _event(ground, "plowed", shape, (start, None), allowed, tint=float(rng.uniform(0.7, 1.3)))


def _patch(
    kind: str, labels: tuple[int, ...], radius_m: tuple[float, float], days: tuple[float, float] | None
) -> Callable[[SceneSettings, Terrain, np.random.Generator, np.datetime64], Event | None]:
    """Make a maker of blobs on some covers, lasting some days or for good."""

    def make(
        settings: SceneSettings, ground: Terrain, rng: np.random.Generator, start: np.datetime64
    ) -> Event | None:
        allowed = _covers(ground, *labels)
        spot = _pixel(rng, allowed)
        if spot is None:
            return None
        largest = 0.08 * min(ground.shape) * settings.gsd_m
        shape = blob(rng, _map(ground, *spot), min(float(rng.uniform(*radius_m)), largest))
        end = None if days is None else _after(start, rng.uniform(*days))
        fade = float(rng.uniform(50, 150)) if kind == "burn" else 1e6
        tint = float(rng.uniform(0.75, 1.25))
        return _event(ground, kind, shape, (start, end), allowed, tint=tint, fade_d=fade)

    return make


def _part_harvest(
    settings: SceneSettings, ground: Terrain, rng: np.random.Generator, start: np.datetime64
) -> Event | None:
    """Half of a field taken in weeks before the rest."""
    import shapely

    spot = _pixel(rng, _covers(ground, FIELD))
    if spot is None or int(ground.label[spot]) - FIELD >= len(ground.parcels):
        return None
    label = int(ground.label[spot])
    corners = shapely.get_coordinates(ground.parcels[label - FIELD].box)[:4]
    cut = float(rng.uniform(0.25, 0.75))
    a, b, c, d = corners
    half = shapely.Polygon([a, a + cut * (b - a), d + cut * (c - d), d])
    end = _after(start, rng.uniform(20, 45))
    allowed = ground.label == label
    tint = float(rng.uniform(0.9, 1.1))
    return _event(ground, "part-harvest", half, (start, end), allowed, tint=tint, material="stubble")


def _roadworks(
    settings: SceneSettings, ground: Terrain, rng: np.random.Generator, start: np.datetime64
) -> Event | None:
    """A stretch of road under a new surface; now and then only for the time of the works."""
    from shapely import box

    spot = _pixel(rng, ground.road > 0.25)
    if spot is None:
        return None
    x, y = _map(ground, *spot)
    reach = float(rng.uniform(30, 110))
    rows, cols = np.indices(ground.shape, sparse=True)
    far = np.hypot(rows - spot[0], cols - spot[1]) * settings.gsd_m
    shape = outline(ground, (ground.road > 0.15) & (far < reach)).intersection(
        box(x - reach, y - reach, x + reach, y + reach)
    )
    end = _after(start, rng.uniform(60, 200)) if rng.random() < 0.3 else None
    material = str(rng.choice(["asphalt", "gravel", "earth_fill"]))
    tint = float(rng.uniform(0.55, 1.1))
    return _event(ground, "roadworks", shape, (start, end), ground.road, tint=tint, material=material)


def _repainted(
    settings: SceneSettings, ground: Terrain, rng: np.random.Generator, start: np.datetime64
) -> Event | None:
    """A roof of another color."""
    from scipy.ndimage import label

    roofs = np.isin(ground.label, (ROOF, ROOF_BLUE))
    numbers, count = label(roofs)
    if not count:
        return None
    chosen = numbers == int(rng.integers(1, count + 1))
    material = str(rng.choice(["roof_tile", "roof_blue", "painted_steel", "steel"]))
    tint = float(rng.uniform(0.8, 1.2))
    return _event(
        ground, "repainted", outline(ground, chosen), (start, None), chosen, tint=tint, material=material
    )


_MAKERS: dict[str, Callable[[SceneSettings, Terrain, np.random.Generator, np.datetime64], Event | None]] = {
    "plowed": _plowed,
    "clearing": _patch("clearing", (FOREST,), (10.0, 45.0), None),
    "burn": _patch("burn", (GRASS, REED, FOREST), (15.0, 70.0), None),
    "part-harvest": _part_harvest,
    "pond": _patch("pond", (GRASS, REED, FIELD), (6.0, 30.0), (12.0, 60.0)),
    "roadworks": _roadworks,
    "repainted": _repainted,
}
# days of the year, first and last
_SEASONS = {
    "plowed": (95, 310), "clearing": (1, 365), "burn": (70, 135), "part-harvest": (240, 268),
    "pond": (180, 260), "roadworks": (110, 310), "repainted": (110, 310),
}  # fmt: skip
