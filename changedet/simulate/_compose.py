"""Lay works, vessels and the rail bridge on the ground of one date, with their shadows, lean and snow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from changedet.simulate._fields import Array, stream
from changedet.simulate._render import window_coverage
from changedet.simulate._settings import SceneSettings
from changedet.simulate._spectra import spectrum
from changedet.simulate._terrain import Terrain
from changedet.simulate._traffic import Passing
from changedet.simulate._weather import Day
from changedet.simulate._works import Structure


@dataclass(frozen=True)
class Painter:
    """Draws on one date's canvas `(band, y, x)`, in place."""

    settings: SceneSettings
    ground: Terrain
    day: Day
    canvas: Array
    water: Array

    def flat(self, geometry: Any, values: Array, strength: float = 1.0, afloat: bool = False) -> float:
        """Lay a material on a footprint, `afloat` only on the water in it.

        Returns the mean absolute contrast with what lay there (reflectance).
        """
        found = window_coverage(geometry, self.ground.transform, self.ground.shape)
        if found is None:
            return 0.0
        (rows, cols), share = found
        share = share * self.water[rows, cols] if afloat else share
        under = self.canvas[:, rows, cols]
        grain = 1 + np.float32(0.7) * self.ground.texture[rows, cols]
        added = values[:, None, None] * grain - under
        contrast = float((np.abs(added).mean(axis=0) * share).sum() / max(float(share.sum()), 1e-6))
        under += added * (share * np.float32(strength))
        return contrast

    def shade(self, geometry: Any, strength: float = 0.85) -> None:
        """Take the direct light from a place; skylight stays."""
        found = window_coverage(geometry, self.ground.transform, self.ground.shape, 4)
        if found is None:
            return
        (rows, cols), share = found
        lost = (1 - spectrum("skylight", self.settings.bands)) * np.float32(strength)
        self.canvas[:, rows, cols] *= 1 - lost[:, None, None] * share

    def block(self, geometry: Any, values: Array, height_m: float, strength: float = 1.0) -> float:
        """A solid of some height: shadow, then sides and top leaning away from the sensor."""
        if height_m > 0.2:
            self.shade(_swept(geometry, *self.shadow_offset(height_m)))
        contrast = self.flat(geometry, values, strength)
        lean = self.lean(height_m)
        if np.hypot(*lean) > 0.15 * self.settings.gsd_m:
            self.flat(_swept(geometry, *lean), values * np.float32(0.72), strength)
            self.flat(_moved(geometry, *lean), values, strength)
        return contrast

    def raised(self, geometry: Any, values: Array, height_m: float) -> float:
        """A deck with air beneath: its shadow lies apart from it."""
        self.shade(_moved(geometry, *self.shadow_offset(height_m)))
        return self.flat(_moved(geometry, *self.lean(height_m)), values)

    def shadow_offset(self, height_m: float) -> tuple[float, float]:
        """(east, north) m from a top to its shadow."""
        reach = height_m / np.tan(np.deg2rad(self.day.sun_elevation_deg))
        return _polar(-reach, self.day.sun_azimuth_deg)

    def lean(self, height_m: float) -> tuple[float, float]:
        """(east, north) m by which a top appears off its foot."""
        return _polar(
            -height_m * float(np.tan(np.deg2rad(self.day.view_zenith_deg))), self.day.view_azimuth_deg
        )

    def weathered(self, material: str, brightness: float, rng: np.random.Generator) -> Array:
        """Spectrum of a material on this date: dust, wet, some of the snow."""
        values = spectrum(material, self.settings.bands) * np.float32(brightness * rng.normal(1, 0.03))
        values = values * np.float32(1 - 0.15 * self.day.wetness)
        snow = np.float32(self.day.snow * rng.uniform(0.1, 0.6))
        return np.asarray(
            values + (spectrum("snow_old", self.settings.bands) - values) * snow, dtype=np.float32
        )


def paint(painter: Painter, works: tuple[Structure, ...], passing: tuple[Passing, ...]) -> dict[int, float]:
    """Draw everything of one date; returns the contrast (reflectance) of each standing structure, by id."""
    day, contrast = painter.day, {}
    rng = stream(painter.settings.seed, "paint", day.index)
    _rail(painter, rng)
    for item in passing:
        if item.material is not None and item.first <= day.index <= item.last:
            values = painter.weathered(
                item.material, 1.0, stream(painter.settings.seed, "passing", day.index)
            )
            if item.kind == "wake":
                painter.flat(item.geometry, values, item.strength, afloat=True)
            else:
                painter.block(item.geometry, values, item.height_m, item.strength)
    for work in sorted(works, key=lambda w: w.height_m):
        shape = work.footprint(painter.ground, day.date)
        if shape is None:
            continue
        mood = stream(painter.settings.seed, "work", day.index * 1000 + work.id)
        age = float((day.date - work.start) / np.timedelta64(120, "D"))
        height = work.height_m * min(1.0, 0.25 + age)
        contrast[work.id] = painter.block(
            shape, painter.weathered(work.material, work.brightness, mood), height
        )
    return contrast


def _rail(painter: Painter, rng: np.random.Generator) -> None:
    """The old rail bridge: masonry piers, a rusty truss 12 m above the water."""
    for pier in painter.ground.rail_piers:
        painter.block(pier, painter.weathered("concrete", 0.75, rng), 10.0)
    painter.raised(painter.ground.rail, painter.weathered("steel", 1.15, rng), 12.0)


def _polar(distance: float, azimuth_deg: float) -> tuple[float, float]:
    a = np.deg2rad(azimuth_deg)
    return distance * float(np.sin(a)), distance * float(np.cos(a))


def _moved(geometry: Any, east_m: float, north_m: float) -> Any:
    from shapely.affinity import translate

    return translate(geometry, east_m, north_m)


def _swept(geometry: Any, east_m: float, north_m: float) -> Any:
    """Hull of a convex footprint and the same footprint moved."""
    from shapely import union_all

    return union_all([geometry, _moved(geometry, east_m, north_m)]).convex_hull
