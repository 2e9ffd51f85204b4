"""A river that works: bars form, wander and go, banks retreat and grow, from day to day of the stack."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from changedet.simulate._fields import Array, fractal, smoothstep, stream
from changedet.simulate._settings import SceneSettings
from changedet.simulate._terrain import MARGIN, Terrain, bank_rise
from changedet.simulate._weather import Day

_DAY = np.timedelta64(1, "D")
_GROWN_M = 0.5  # elevation up to which a growing bank silts up, m above the mean level
_SEEN_M = 0.3  # a bar counts as there when it stands this much above (or below) the old bed


@dataclass(frozen=True)
class Bar:
    """A mound (or a scour hole, `height_m` < 0) of the bed; days count from the first scene."""

    across_m: float
    along_m: float
    long_m: float
    wide_m: float
    height_m: float
    speed_m_d: float  # downstream
    birth_d: float
    death_d: float
    pace_d: float  # how long forming and going take

    def stands(self, day: float) -> float:
        """Share of its height on a day."""
        rise = np.clip((day - self.birth_d) / self.pace_d, 0, 1)
        fall = np.clip((self.death_d - day) / self.pace_d, 0, 1)
        return float(min(rise, fall))

    def middle_m(self, day: float) -> float:
        """Place along the flow on a day."""
        return self.along_m + self.speed_m_d * (day - self.birth_d)


@dataclass(frozen=True)
class Motion:
    """What the river does to its bed in a stack."""

    first: np.datetime64
    bars: tuple[Bar, ...]
    retreat_m: Array | None  # of the bank in a year, positive: the river widens

    def on(self, ground: Terrain, day: Day) -> Terrain:
        """The ground as it lies on a day."""
        bed = self.bed(ground, day.date)
        dy, dx = np.gradient(bed)
        slope = np.hypot(dx, dy).astype(np.float32) + np.float32(1e-3)
        height = np.where(bed > np.float32(0.5), ground.height_m, np.float32(0))
        return replace(ground, bed_m=bed, slope_m=slope, height_m=height)

    def bed(self, ground: Terrain, date: np.datetime64) -> Array:
        """Elevation of the bed on a date, m above the mean water level."""
        bed, day = ground.bed_m, float((date - self.first) / _DAY)
        if self.retreat_m is not None:
            rise = bank_rise(ground.bank_m + self.retreat_m * np.float32(worked_years(self.first, date)))
            new = ground.channel_m * (1 - rise) + ground.top_m * rise
            # what a bank loses stands high; what it gains is laid down low and wet, as point bars are
            bed = np.where(new > bed, np.minimum(new, np.maximum(bed, np.float32(_GROWN_M))), new)
        standing = [bar for bar in self.bars if bar.stands(day) > 0]
        if standing:
            total = sum(_mound(ground, bar, day) for bar in standing)
            bed = bed + total * smoothstep(ground.bank_m, -2.0, 9.0)
        return np.asarray(bed, dtype=np.float32)


def worked_years(first: np.datetime64, date: np.datetime64) -> float:
    """Years of bank work between two dates: most of a year's is done by the floods of July and August."""

    def done(moment: np.datetime64) -> float:
        year = moment.astype("datetime64[Y]")
        share = float((moment - year) / _DAY) / 365.25
        flood = float(smoothstep(np.array([share], dtype=np.float32), 0.50, 0.68)[0])
        return int(year.astype(int)) + 0.3 * share + 0.7 * flood

    return done(date) - done(first)


def motion(settings: SceneSettings, ground: Terrain, weather: tuple[Day, ...]) -> Motion | None:
    """Draw what moves; None where the settings leave it out."""
    if settings.bars <= 0 and settings.bank_erosion_m <= 0:
        return None
    span = float((weather[-1].date - weather[0].date) / _DAY)
    rng = stream(settings.seed, "bars")
    bars = [_bar(settings, ground, rng, span) for _ in range(int(rng.poisson(settings.bars)))]
    retreat = None
    if settings.bank_erosion_m > 0:
        field = fractal(stream(settings.seed, "erosion"), ground.shape, 220 / settings.gsd_m, 3.0)
        # half of the bank holds; where it moves, it moves by about the setting
        moving = np.sign(field) * np.maximum(np.abs(field) - np.float32(0.7), 0)
        retreat = np.asarray(moving * np.float32(2 * settings.bank_erosion_m), dtype=np.float32)
    return Motion(weather[0].date, tuple(bar for bar in bars if bar is not None), retreat)


def _bar(settings: SceneSettings, ground: Terrain, rng: np.random.Generator, span_d: float) -> Bar | None:
    """One bar in the channel, off the line of the crossing; a third of them are scour of what lies dry."""
    width, hole = ground.crossing.width_m, bool(rng.random() < 0.3)
    long, wide = float(rng.uniform(0.12, 0.5)) * width, float(rng.uniform(0.05, 0.14)) * width
    target = float(rng.uniform(-0.2, 1.1))
    birth, life = float(rng.uniform(-0.2, 0.9)) * span_d, float(rng.lognormal(5.7, 0.9))
    speed, pace = float(rng.gamma(1.5, 0.04)), float(rng.uniform(8, 60))
    for _ in range(30):
        row, col = (int(rng.integers(MARGIN, n - MARGIN)) for n in ground.shape)
        bed, along = float(ground.bed_m[row, col]), float(ground.along_m[row, col])
        fits = bed > 0.1 if hole else bed < -0.4
        if fits and ground.bank_m[row, col] > 0.5 * wide and abs(along) > min(60.0, 0.12 * width + 20):
            height = -float(rng.uniform(0.8, 1.8)) if hole else min(target - bed, 4.5)
            across = float(ground.across_m[row, col])
            return Bar(across, along, long, wide, height, speed, birth, birth + life, min(pace, life / 2))
    return None


def _mound(ground: Terrain, bar: Bar, day: float) -> Array:
    """Height `(y, x)` that a bar adds on a day."""
    u = (ground.along_m - np.float32(bar.middle_m(day))) / np.float32(bar.long_m / 2)
    v = (ground.across_m - np.float32(bar.across_m)) / np.float32(bar.wide_m / 2)
    return np.asarray(np.float32(bar.height_m * bar.stands(day)) * np.exp(-(u**2) - v**2), dtype=np.float32)


def traces(
    settings: SceneSettings, ground: Terrain, moving: Motion | None, dates: NDArray[np.datetime64]
) -> list[tuple[str, Any, int, int]]:
    """Kind, outline, first and last scene of what the river made or took."""
    if moving is None:
        return []
    found: list[tuple[str, Any, int, int]] = []
    days = (dates - moving.first) / _DAY
    for bar in moving.bars:
        there = [k for k, day in enumerate(days) if abs(bar.height_m) * bar.stands(float(day)) > _SEEN_M]
        if there:
            ends = [_ellipse(ground, bar, float(days[k])) for k in (there[0], there[-1])]
            shape = ends[0].union(ends[1]).convex_hull
            found.append(("bar" if bar.height_m > 0 else "scour", shape, there[0], there[-1]))
    if moving.retreat_m is not None:
        steady = replace(moving, bars=())
        step = steady.bed(ground, dates[-1]) - steady.bed(ground, dates[0])
        for kind, mask in (("bank-erosion", step < -0.4), ("bank-growth", step > 0.4)):
            shape = outline(ground, mask)
            if not shape.is_empty:
                found.append((kind, shape, 0, len(dates) - 1))
    return found


def _ellipse(ground: Terrain, bar: Bar, day: float) -> Any:
    """Outline of a bar where it still has a seventh of its height."""
    angle = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    from shapely import Polygon

    along = bar.middle_m(day) + 0.7 * bar.long_m * np.cos(angle)
    across = bar.across_m + 0.7 * bar.wide_m * np.sin(angle)
    return Polygon([ground.point(float(a), float(u)) for a, u in zip(across, along, strict=True)])


def outline(ground: Terrain, mask: NDArray[np.bool_]) -> Any:
    """Union of the pixels of a mask on the padded grid, as polygons of the map."""
    import shapely

    padded = np.zeros((mask.shape[0], mask.shape[1] + 2), dtype=np.int8)
    padded[:, 1:-1] = mask
    step = np.diff(padded, axis=1)
    rows, starts = np.nonzero(step > 0)
    _, stops = np.nonzero(step < 0)
    t = ground.transform
    boxes = shapely.box(t.c + starts * t.a, t.f + (rows + 1) * t.e, t.c + stops * t.a, t.f + rows * t.e)
    return shapely.union_all(boxes)
