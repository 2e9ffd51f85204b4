"""The construction programme: what stands where, of what, from when to when."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from changedet.simulate._fields import stream
from changedet.simulate._settings import SceneSettings
from changedet.simulate._terrain import FOREST, MARGIN, ROOF, ROOF_BLUE, Terrain

Dates = NDArray[np.datetime64]
_LEAST_PX = 0.3  # smallest footprint, in pixels of the sensor, that counts as visible in principle


@dataclass(frozen=True)
class Structure:
    """One structure. The rectangle lies `(across_m, along_m)` from the middle of the crossing."""

    id: int
    kind: str
    material: str
    height_m: float
    across_m: float
    along_m: float
    long_m: float
    wide_m: float
    turn_deg: float
    start: np.datetime64
    removed: np.datetime64 | None
    grown: np.datetime64 | None  # when a growing one reaches its full length
    direction: int  # a growing one's, along the axis
    brightness: float

    def stands(self, date: np.datetime64) -> bool:
        """Whether it exists on a date."""
        return bool(self.start <= date) and (self.removed is None or bool(date < self.removed))

    def footprint(self, ground: Terrain, date: np.datetime64) -> Any:
        """Polygon on a date (map coordinates), None where it does not stand."""
        if not self.stands(date):
            return None
        share = 1.0
        if self.grown is not None:
            share = float(np.clip(0.12 + 0.88 * ((date - self.start) / (self.grown - self.start)), 0, 1))
        long_m = self.long_m * share
        across = self.across_m - self.direction * (self.long_m - long_m) / 2
        return ground.box(across, self.along_m, long_m, self.wide_m, self.turn_deg)


@dataclass(frozen=True)
class _Spec:
    """A structure before it has dates: place, size, and its time as a share of the stack."""

    kind: str
    material: str
    height_m: float
    place: tuple[float, float]
    size: tuple[float, float]
    when: float
    lasts: float | None = None
    grows: float | None = None
    direction: int = 1
    turn_deg: float = 0.0
    tow: int = 0  # the two places of one pontoon share a number; the second is taken when the first is left


def programme(
    settings: SceneSettings, ground: Terrain, dates: Dates, good: NDArray[np.bool_]
) -> tuple[Structure, ...]:
    """Every structure of a scene, in order of start; empty where nothing is built.

    The programme is paced so that most structures are followed by four `good` scenes (open water, little
    cloud); about one in ten comes so late that only three scenes of any kind follow.
    """
    if not settings.build:
        return ()
    rng = stream(settings.seed, "works")
    banks = bank_positions(ground)
    specs = (
        _tumen(settings, ground, banks)
        if settings.layout == "tumen"
        else _random(settings, ground, banks, rng)
    )
    more = [*_on_land(settings, ground), *_in_river(settings, ground, banks)]
    specs = specs + [spec for spec in more if _off_rail(ground, spec)]
    few = settings.clustering > 0
    paced = _paced(rng, sorted(specs, key=lambda spec: spec.when), good, floor=0.35 if few else 0.4)
    chosen = _fit(settings, ground, paced)
    least = 4.3 if few else 2.2
    works = [_dated(rng, dates, number, spec, least) for number, spec in enumerate(chosen, 1)]
    return _towed(dates, chosen, works)


def _towed(dates: Dates, specs: list[_Spec], works: list[Structure]) -> tuple[Structure, ...]:
    """Give the second place of a pontoon the time after the first; none if that is never left in time."""
    left: dict[int, tuple[float, float]] = {}
    out = []
    for spec, work in zip(specs, works, strict=True):
        if spec.tow in left:
            until, stay = left[spec.tow]
            if until + 2.2 > dates.size - 1:
                continue
            begin, gone = until + 0.05, until + 0.05 + stay
            removed = _moment(dates, gone) if gone < dates.size - 1 else None
            work = replace(work, start=_moment(dates, begin), removed=removed)
        elif spec.tow and work.removed is None:
            left[spec.tow] = (float(dates.size), 0.0)
        elif spec.tow:
            ends = [_position(dates, moment) for moment in (work.start, work.removed)]
            left[spec.tow] = (ends[1], ends[1] - ends[0])
        out.append(work)
    return tuple(out)


def _position(dates: Dates, moment: Any) -> float:
    """Fractional place of a moment in the stack."""
    k = int(np.clip(np.searchsorted(dates, moment, side="right") - 1, 0, dates.size - 2))
    return k + float((moment - dates[k]) / (dates[k + 1] - dates[k]))


def _paced(
    rng: np.random.Generator, specs: list[_Spec], good: NDArray[np.bool_], floor: float
) -> list[_Spec]:
    """Squeeze the later starts so that the last is in time, and let a few be late after all."""
    last, fourth = good.size - 1, np.nonzero(good)[0][-4:]
    limit = min((float(fourth[0]) if fourth.size == 4 else last / 2) - 0.4, last - 2.4) / last
    latest = max(spec.when for spec in specs)
    squeeze = min((max(limit, floor + 0.1) - floor) / max(latest - floor, 1e-6), 1.0)
    out = []
    for spec in specs:
        when = floor + (spec.when - floor) * squeeze if spec.when > floor else spec.when
        late = spec.lasts is None and spec.when > 0.6 and rng.random() < 0.1
        when = float(rng.uniform(max(limit, floor), 0.98)) if late else when
        out.append(replace(spec, when=when))
    return sorted(out, key=lambda spec: spec.when)


def bank_positions(ground: Terrain) -> tuple[float, float]:
    """Where the axis meets the two banks at mean water level, m from the middle."""
    half = ground.crossing.width_m * 0.75
    across = np.linspace(-half, half, 601)
    points = np.array([ground.point(float(t), 0.0) for t in across])
    wet = across[ground.sample(ground.bed_m, points) < 0]
    if wet.size < 2:
        return -ground.crossing.width_m / 2, ground.crossing.width_m / 2
    return float(wet[0]), float(wet[-1])


def _sizes(gsd: float, rng: np.random.Generator | None = None) -> dict[str, tuple[float, float]]:
    """Sizes of what is built, m along the axis and the flow; a coarse pixel gets pile caps and islands."""
    base = {
        "pier": (4.0, 10.0) if gsd < 1.5 else (6.0, 12.0) if gsd < 5 else (11.0, 16.0),
        "abutment": (9.0, 14.0) if gsd < 1.5 else (14.0, 18.0) if gsd < 5 else (20.0, 24.0),
        "cofferdam": (10.0, 14.0) if gsd < 1.5 else (15.0, 18.0) if gsd < 5 else (20.0, 24.0),
        "causeway": (0.0, 8.0) if gsd < 1.5 else (0.0, 13.0) if gsd < 5 else (0.0, 22.0),
        "platform": (18.0, 14.0) if gsd < 1.5 else (34.0, 22.0) if gsd < 5 else (48.0, 30.0),
        "pontoon": (30.0, 8.0) if gsd < 1.5 else (60.0, 10.0) if gsd < 5 else (90.0, 18.0),
        "earthworks": (25.0, 20.0) if gsd < 1.5 else (60.0, 45.0) if gsd < 5 else (90.0, 70.0),
    }
    if rng is None:
        return base
    return {
        kind: (a * float(rng.uniform(0.85, 1.2)), b * float(rng.uniform(0.85, 1.2)))
        for kind, (a, b) in base.items()
    }


def _tumen(settings: SceneSettings, ground: Terrain, banks: tuple[float, float]) -> list[_Spec]:
    """The Tumen programme, after the published timeline (shares of a stack of April 2023 to June 2026)."""
    size, step = _sizes(settings.gsd_m), ground.crossing.spacing_m
    west, east = banks
    specs = [
        _Spec("pier", "concrete", 9, (west - 12 - k * step, 0), size["pier"], 0.68 + 0.022 * k)
        for k in range(6)
    ]
    specs += [
        _Spec("pier", "concrete", 9, (east + 12 + k * step, 0), size["pier"], 0.74 + 0.03 * k)
        for k in range(3)
    ]
    specs += [
        _Spec(
            "pontoon",
            "painted_steel",
            2,
            (east - 40, 34),
            (164 if settings.gsd_m > 1.5 else 40, 12),
            0.57,
            lasts=0.14,
        ),
        _Spec("earthworks", "earth_fill", 0, (west - 6.5 * step, 80), size["earthworks"], 0.58, turn_deg=8),
        _Spec("abutment", "earth_fill", 4, (west - 12 - 6 * step, 0), size["abutment"], 0.62),
        _Spec("abutment", "earth_fill", 4, (east + 12 + 3 * step, 0), size["abutment"], 0.64),
        _Spec("causeway", "earth_fill", 2.5, (west + 67, 22), (165, size["causeway"][1]), 0.66, grows=0.16),
        _Spec("platform", "timber", 3, (west + 20, -32), size["platform"], 0.70, lasts=0.2),
        _Spec("cofferdam", "steel", 2.5, (west - 12 + 2 * step, 0), size["cofferdam"], 0.79),
        _Spec("cofferdam", "steel", 2.5, (west - 12 + 3 * step, 0), size["cofferdam"], 0.83),
        _Spec("pier", "concrete", 10, (east + 12 - step, 0), size["pier"], 0.80),
        _Spec("pier", "concrete", 10, (east + 12 - 2 * step, 0), size["pier"], 0.85),
        _Spec("pier", "concrete", 10, (west - 12 + 4 * step, 0), size["pier"], 0.87),
    ]
    return specs


def _random(
    settings: SceneSettings, ground: Terrain, banks: tuple[float, float], rng: np.random.Generator
) -> list[_Spec]:
    """A programme drawn from the seed: two banks, piers in a row on one chainage grid, works beside it."""
    step = ground.crossing.spacing_m
    phase = float(rng.uniform(0, step))
    grid = (phase + step * np.arange(-40, 41)).astype(np.float64)
    specs: list[_Spec] = []
    for side, bank in zip((-1, 1), banks, strict=True):
        specs += _bank_works(settings, rng, grid, (bank, side), banks[1] - banks[0])
    early = rng.permutation(len(specs))[:2]
    return [
        _Spec(**{**spec.__dict__, "when": float(rng.uniform(0.12, 0.35))}) if number in early else spec
        for number, spec in enumerate(specs)
    ]


def _bank_works(
    settings: SceneSettings,
    rng: np.random.Generator,
    grid: NDArray[np.float64],
    bank: tuple[float, int],
    width_m: float,
) -> list[_Spec]:
    """Works of one bank (`side` -1 or 1): abutment and piers along the axis, then what lies beside them."""
    edge, side = bank
    size, begin = _sizes(settings.gsd_m, rng), float(rng.uniform(0.40, 0.72))
    outward = grid[grid * side > edge * side + 5][::side]
    inward = grid[(grid * side < edge * side - 8) & (np.abs(grid - edge) < 0.45 * width_m)][::-side]
    land, water = outward[: int(rng.integers(1, 5))], inward[: int(rng.integers(1, 5))]
    pace = float(rng.uniform(0.025, 0.07))
    specs = [
        _Spec(
            "abutment",
            str(rng.choice(["earth_fill", "concrete"])),
            4.0,
            (outward[len(land)], 0.0),
            size["abutment"],
            begin,
        )
    ]
    for k, place in enumerate(land):
        specs.append(
            _Spec(
                "pier",
                "concrete",
                float(rng.uniform(4, 12)),
                (place, 0.0),
                size["pier"],
                begin + pace * (k + 1),
            )
        )
    for k, place in enumerate(water):
        kind = "cofferdam" if rng.random() < 0.4 else "pier"
        tall, material = (2.5, "steel") if kind == "cofferdam" else (float(rng.uniform(4, 12)), "concrete")
        specs.append(
            _Spec(kind, material, tall, (place, 0.0), size[kind], begin + 0.08 + 1.3 * pace * (k + 1))
        )
    return specs + _beside(rng, size, (edge, side), begin, width_m)


def _beside(
    rng: np.random.Generator,
    size: dict[str, tuple[float, float]],
    bank: tuple[float, int],
    begin: float,
    width_m: float,
) -> list[_Spec]:
    """Causeway, platform, pontoon and yard of one bank, off the axis line, each there or not."""
    (edge, side), flow = bank, float(rng.choice([-1, 1]))
    specs = []
    if rng.random() < 0.65:
        wide, long = size["causeway"][1], float(min(rng.uniform(80, 200), 0.45 * width_m))
        off = flow * (size["pier"][1] / 2 + wide / 2 + float(rng.uniform(5, 14)))
        place, grow = (edge - side * (long / 2 - 8), off), float(rng.uniform(0.1, 0.35))
        causeway = _Spec("causeway", "earth_fill", 2.5, place, (long, wide), begin + 0.05, grows=grow)
        specs.append(replace(causeway, direction=-side))
    if rng.random() < 0.6:
        specs.append(_platform(rng, size, bank, -flow))
    if rng.random() < 0.4:
        specs.append(_pontoon(rng, size, bank, -flow))
    if rng.random() < 0.6:
        long, wide = size["earthworks"]
        place = (edge + side * (30 + long / 2), -flow * (size["pier"][1] / 2 + 26 + wide / 2))
        yard = _Spec("earthworks", "earth_fill", 0.0, place, (long, wide), begin - 0.03)
        specs.append(replace(yard, turn_deg=float(rng.uniform(-15, 15))))
    return specs


def _on_land(settings: SceneSettings, ground: Terrain) -> list[_Spec]:
    """Sheds, greenhouses, yards and heaps that somebody sets up on land, away from the crossing or not."""
    if settings.land_works <= 0:
        return []
    rng = stream(settings.seed, "land-works")
    long_m = (8.0, 18.0) if settings.gsd_m < 1.5 else (18.0, 40.0) if settings.gsd_m < 5 else (40.0, 90.0)
    specs: list[_Spec] = []
    for _ in range(int(rng.poisson(settings.land_works))):
        building, long = bool(rng.random() < 0.65), float(rng.uniform(*long_m))
        wide, turn = long * float(rng.uniform(0.4, 0.8)), float(rng.uniform(0, 90))
        roofs, fills = ["roof_tile", "roof_blue", "painted_steel", "film"], ["earth_fill", "gravel"]
        material, tall = str(rng.choice(roofs if building else fills)), float(rng.uniform(3, 6))
        when, lasts = float(rng.uniform(0.2, 0.85)), float(rng.uniform(0.2, 0.4))
        place = _dry_place(rng, ground, long)
        if place is None:
            continue
        kind, lasting = "building" if building else "earthworks", building or rng.random() < 0.6
        spec = _Spec(kind, material, tall if building else 1.5, place, (long, wide), when)
        specs.append(replace(spec, turn_deg=turn, lasts=None if lasting else lasts))
    return specs


def _off_rail(ground: Terrain, spec: _Spec) -> bool:
    """Whether a place leaves the old bridge alone."""
    shape = ground.box(*spec.place, *spec.size, spec.turn_deg)
    return bool(min(shape.distance(part) for part in (ground.rail, *ground.rail_piers)) > 15)


def _dry_place(rng: np.random.Generator, ground: Terrain, clear_m: float) -> tuple[float, float] | None:
    """Open land away from bank, wood and roofs, `(across, along)`; None if a few tries find none."""
    for _ in range(60):
        row, col = (int(rng.integers(MARGIN + 8, n - MARGIN - 8)) for n in ground.shape)
        open_land = ground.label[row, col] not in (FOREST, ROOF, ROOF_BLUE) and ground.road[row, col] < 0.1
        if open_land and ground.bank_m[row, col] < -clear_m and ground.bed_m[row, col] > 1.3:
            return float(ground.across_m[row, col]), float(ground.along_m[row, col])
    return None


def _in_river(settings: SceneSettings, ground: Terrain, banks: tuple[float, float]) -> list[_Spec]:
    """Weirs of stakes and stone, and pontoons that lie in one place and are then towed to another."""
    if settings.river_works <= 0:
        return []
    rng, gsd, width = stream(settings.seed, "river-works"), settings.gsd_m, banks[1] - banks[0]
    reach = 0.5 * min(ground.shape) * gsd
    specs: list[_Spec] = []
    for number in range(1, int(rng.poisson(settings.river_works)) + 1):
        side, along = int(rng.integers(2)), float(rng.choice([-1, 1]) * rng.uniform(70, 0.8 * reach))
        edge, inward = banks[side], (1, -1)[side]
        when, weir = float(rng.uniform(0.25, 0.7)), bool(rng.random() < 0.5)
        long, lasts = float(rng.uniform(0.12, 0.3)) * width, float(rng.uniform(0.3, 0.45))
        far = float(rng.choice([-1, 1]) * rng.uniform(60, 140))
        if weir:
            place, wide = (edge + inward * (long / 2 + 6), along), max(3.0, 1.3 * gsd)
            spec = _Spec("unknown", "timber", 0.8, place, (long, wide), when, lasts)
            specs.append(replace(spec, turn_deg=float(rng.uniform(-25, 25))))
            continue
        size = _sizes(gsd)["pontoon"]
        place = (edge + inward * (size[0] / 2 + 15), along)
        first = _Spec("pontoon", "painted_steel", 1.5, place, size, when, 0.2, tow=number)
        specs += [first, replace(first, place=(place[0], along + far), when=when + 1e-6)]
    return specs


def _platform(
    rng: np.random.Generator, size: dict[str, tuple[float, float]], bank: tuple[float, int], flow: float
) -> _Spec:
    """Working platform at the bank; more often than not it is taken down again."""
    (edge, side), (long, wide) = bank, size["platform"]
    place = (edge - side * 0.45 * long, flow * (size["pier"][1] / 2 + 6 + wide / 2))
    lasts = float(rng.uniform(0.12, 0.25)) if rng.random() < 0.6 else None
    material = str(rng.choice(["timber", "painted_steel"]))
    return _Spec("platform", material, 3.0, place, (long, wide), float(rng.uniform(0.4, 0.8)), lasts)


def _pontoon(
    rng: np.random.Generator, size: dict[str, tuple[float, float]], bank: tuple[float, int], flow: float
) -> _Spec:
    """Floating platform off the bank, beyond the place of the fixed one; always temporary."""
    (edge, side), (long, wide) = bank, size["pontoon"]
    place = (edge - side * (long / 2 + 12), flow * (size["pier"][1] / 2 + 24 + size["platform"][1]))
    when, lasts = float(rng.uniform(0.4, 0.75)), float(rng.uniform(0.12, 0.2))
    return _Spec("pontoon", "painted_steel", 1.5, place, (long, wide), when, lasts)


def _fit(settings: SceneSettings, ground: Terrain, specs: list[_Spec]) -> list[_Spec]:
    """Keep what lies inside the scene, is large enough to be seen, and overlaps nothing kept before."""
    from shapely import box

    t, (rows, cols), edge = ground.transform, ground.shape, MARGIN + 4
    scene = box(t.c + edge * t.a, t.f + (rows - edge) * t.e, t.c + (cols - edge) * t.a, t.f + edge * t.e)
    kept: list[tuple[_Spec, Any]] = []
    for spec in specs:
        shape = ground.box(*spec.place, *spec.size, spec.turn_deg)
        clash = any(shape.distance(other) < settings.gsd_m for _, other in kept)
        if shape.within(scene) and not clash and shape.area >= _LEAST_PX * settings.gsd_m**2:
            kept.append((spec, shape))
    return [spec for spec, _ in kept]


def _dated(rng: np.random.Generator, dates: Dates, number: int, spec: _Spec, least: float) -> Structure:
    """Give a structure its dates: none on the first scene, three scenes or more, days unrelated to scenes.

    One that is removed stays for `least` gaps between scenes.
    """
    last = dates.size - 1
    limit = max(last - 2.4, 0.5)
    when = max(spec.when * last, 0.3)
    if when > limit:  # too late to be on three scenes: some time shortly before
        when = max(limit - 0.5 * (when - limit) - 0.3 * float(rng.random()), 0.3)
    start, removed, grown = _moment(dates, when), None, None
    if spec.lasts is not None and when + least < last:
        removed = _moment(dates, min(when + max(spec.lasts * last, least), last - 0.2))
    if spec.grows is not None:
        grown = _moment(dates, when + max(spec.grows * last, 2.0))
    return Structure(
        id=number, kind=spec.kind, material=spec.material, height_m=spec.height_m, across_m=spec.place[0],
        along_m=spec.place[1], long_m=spec.size[0], wide_m=spec.size[1], turn_deg=spec.turn_deg, start=start,
        removed=removed, grown=grown, direction=spec.direction, brightness=float(rng.uniform(0.8, 1.2)),
    )  # fmt: skip


def _moment(dates: Dates, position: float) -> np.datetime64:
    """Date at a fractional place in the stack; beyond its end, at the pace of the last gap."""
    k = min(int(position), dates.size - 2)
    gap = dates[k + 1] - dates[k]
    return np.datetime64(dates[k] + (gap * (position - k)).astype(gap.dtype), "ns")
