"""Render a stack from its causes and keep its truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from changedet.simulate import _traffic, _truth, _weather
from changedet.simulate._bars import Motion, motion, outline, traces
from changedet.simulate._camera import distort
from changedet.simulate._compose import Painter, paint
from changedet.simulate._events import Event, events, felled
from changedet.simulate._fields import Array, Bank, stream
from changedet.simulate._lingering import lingering
from changedet.simulate._maskflaws import eaten, mistrusted, spoil
from changedet.simulate._render import blur_and_shift
from changedet.simulate._settings import SceneSettings
from changedet.simulate._sky import clear_truth, clouds, delivered_mask, record, veil
from changedet.simulate._surface import slow_changes, surface
from changedet.simulate._terrain import MARGIN, Terrain, terrain
from changedet.simulate._weather import Day
from changedet.simulate._works import Structure, programme

if TYPE_CHECKING:
    import xarray as xr
    from affine import Affine
    from geopandas import GeoDataFrame
    from pandas import DataFrame
    from shapely import LineString

MASKED = np.uint8(2)  # quality flag of what the delivered mask names


@dataclass(frozen=True)
class Simulation:
    """A simulated stack with its truth.

    Attributes
    ----------
    settings : what it was made from
    image : (time, band, y, x) float32, reflectance as delivered: clouds in it, steps of 1e-4, never NaN
    mask : (time, y, x) bool, True = flagged unusable by the delivered mask, which errs both ways
    clear : (time, y, x) bool, True = neither cloud nor its shadow, the truth
    water : (time, y, x) float32, true share of each pixel under water or ice (ground position)
    dates : (time,) datetime64[ns], UTC
    transform, crs : of the delivered grid
    truth : one row a structure, geometry = largest footprint (ground position, native CRS). Columns: id,
        kind, material, height_m, start (when it physically began), first_seen (first scene in which it
        stands, cloud or not), last_absent (the scene before; NaT if none), first_clear_seen (first scene with
        at least half of its footprint truly clear; NaT if none), removed (NaT if not), last_seen (last scene
        in which it stands), area_m2, status (persistent, growing, removed), over (water, shore, land),
        contrast (median absolute reflectance difference from the ground it covers, over bands and snow-free
        scenes)
    truth_by_date : id, date, geometry: the footprint on each scene on which it stands
    distractors : kind, first_date, last_date, geometry of what is no structure. Kinds: vessel, wake,
        ice-object, ice-track, stockpile, harvest, film; in hard mode also barge, dredger, ice-jam, driftwood,
        bar, scour, bar-plants, burnt-grass, mown-grass,
        bank-erosion, bank-growth, plowed, clearing, burn, part-harvest, pond, roadworks,
        repainted, and masked (where the mask took clear ground for cloud on a third of the scenes or more)
    control : the rail bridge, which never changes
    axis : line of the new bridge, from land to land
    scenes : one row a scene; shift_dy_px and shift_dx_px are to be *applied* to it to bring it onto the grid;
        sensor and gsd_m say what took it, has_mask whether a mask came with it (if not, none is flagged)
    """

    settings: SceneSettings
    image: Array
    mask: NDArray[np.bool_]
    clear: NDArray[np.bool_]
    water: Array
    dates: NDArray[np.datetime64]
    transform: Affine
    crs: str
    truth: GeoDataFrame
    truth_by_date: GeoDataFrame
    distractors: GeoDataFrame
    control: GeoDataFrame
    axis: LineString
    scenes: DataFrame

    def scene_names(self) -> NDArray[np.object_]:
        """Id of every scene: its moment, as files of it are named."""
        stems = [np.datetime_as_string(d, unit="s").replace("-", "").replace(":", "") for d in self.dates]
        return np.array(stems, dtype=object)

    def dataset(self) -> xr.Dataset:
        """Stack as the pipeline takes it: `image`, NaN where flagged; `quality` uint8, 2 where flagged.

        Along time: `scene`, `sensor` and `gsd_m` (of the delivered grid), as ingest has them.
        """
        import xarray as xr

        t, (_, _, rows, cols) = self.transform, self.image.shape
        coords = {
            "time": self.dates,
            "band": list(self.settings.bands),
            "y": t.f + (np.arange(rows) + 0.5) * t.e,
            "x": t.c + (np.arange(cols) + 0.5) * t.a,
            "scene": ("time", self.scene_names()),
            "sensor": ("time", self.scenes.sensor.to_numpy(dtype=object)),
            "gsd_m": ("time", np.full(len(self.dates), self.settings.gsd_m)),
        }
        image = np.where(self.mask[:, None], np.float32(np.nan), self.image)
        return xr.Dataset(
            {
                "image": (("time", "band", "y", "x"), image),
                "quality": (("time", "y", "x"), np.where(self.mask, MASKED, np.uint8(0))),
            },
            coords=coords,
            attrs={"crs": self.crs, "transform": tuple(t)[:6]},
        )


def simulate(settings: SceneSettings | None = None) -> Simulation:
    """Render a river crossing from causes: terrain, level, season, ice, cloud, sensor, and the works on it.

    Parameters
    ----------
    settings : the scene to make; None is the default Tumen scene. Equal settings, equal scenes, to the bit.

    Returns
    -------
    Simulation
    """
    settings = settings or SceneSettings()
    ground, weather = terrain(settings), _weather.days(settings)
    dates = np.array([day.date for day in weather], dtype="datetime64[ns]")
    good = np.array([not day.frozen and day.snow < 0.3 and day.cloud < 0.4 for day in weather])
    works = programme(settings, ground, dates, good)
    passing = _traffic.traffic(settings, ground, weather, works)
    passing += lingering(settings, ground, weather)
    stage = _Stage(
        settings, ground, _bank(settings, ground), works, passing, motion(settings, ground, weather),
        events(settings, ground, weather), mistrusted(settings, settings.shape_px),
    )  # fmt: skip
    shots = [_shoot(stage, day) for day in weather]
    clear = np.stack([shot.clear for shot in shots])
    mask = np.stack([shot.mask for shot in shots])
    passing += _changes(stage, weather, mask, clear)
    transform = _inner(ground.transform, MARGIN)
    standing = _truth.Standing(
        ground, transform, works, dates, clear, np.stack([shot.water for shot in shots])
    )
    contrast = [
        {} if day.frozen or day.snow > 0.15 else shot.contrast
        for day, shot in zip(weather, shots, strict=True)
    ]
    truth, by_date = _truth.tables(settings, standing, contrast)
    return Simulation(
        settings=settings, image=np.stack([shot.image for shot in shots]),
        mask=mask, clear=clear, water=standing.water, dates=dates, transform=transform, crs=settings.crs,
        truth=truth,
        truth_by_date=by_date, distractors=_truth.distractors(settings, passing, dates),
        control=_truth.control(settings, ground), axis=_truth.axis(ground),
        scenes=_weather.table(settings, weather, (1 - clear.mean(axis=(1, 2)), [s.snow for s in shots])),
    )  # fmt: skip


@dataclass(frozen=True)
class _Shot:
    image: Array
    mask: NDArray[np.bool_]
    clear: NDArray[np.bool_]
    water: Array
    contrast: dict[int, float]
    snow: float


@dataclass(frozen=True)
class _Stage:
    """All that a scene is rendered from, but its day."""

    settings: SceneSettings
    ground: Terrain
    bank: Bank
    works: tuple[Structure, ...]
    passing: tuple[_traffic.Passing, ...]
    moving: Motion | None
    events: tuple[Event, ...]
    suspects: NDArray[np.bool_] | None


def _shoot(stage: _Stage, day: Day) -> _Shot:
    """One scene, from ground to file."""
    settings, bank = stage.settings, stage.bank
    ground = stage.ground if stage.moving is None else stage.moving.on(stage.ground, day)
    ground = felled(ground, stage.events, day)
    canvas, water, snow = surface(settings, ground, bank, day, stage.events)
    contrast = paint(Painter(settings, ground, day, canvas, water), stage.works, stage.passing)
    sky = clouds(settings, ground.shape, day)
    layers = np.concatenate([veil(settings, canvas, bank, day, sky), np.stack(sky)])
    layers = blur_and_shift(layers, day.psf_fwhm_px, day.shift_px)
    seen = distort(settings, ground, bank, layers, day)[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
    image = record(settings, seen[:-2], day)
    clear = clear_truth(seen[-2], seen[-1])
    mask = delivered_mask(settings, image, (seen[-2], seen[-1]), clear, day)
    mask = spoil(settings, mask, image, (seen[-2], seen[-1]), day, stage.suspects)
    return _Shot(image, mask, clear, water[MARGIN:-MARGIN, MARGIN:-MARGIN].copy(), contrast, snow)


def _changes(
    stage: _Stage, weather: tuple[Day, ...], mask: NDArray[np.bool_], clear: NDArray[np.bool_]
) -> tuple[_traffic.Passing, ...]:
    """What changed without being built and is in the picture already: rows for the table of distractors."""
    dates = np.array([day.date for day in weather], dtype="datetime64[ns]")
    rows = traces(stage.settings, stage.ground, stage.moving, dates)
    if stage.settings.land_events > 0:
        rows += slow_changes(stage.settings, stage.ground, weather)
    for event in stage.events:
        there = [day.index for day in weather if event.on(day.date)]
        rows.append((event.kind, event.geometry, there[0], there[-1]))
    if stage.suspects is not None:
        bad = eaten(mask, clear, np.array([day.has_mask for day in weather]))
        shape = outline(stage.ground, np.pad(bad, MARGIN))
        if not shape.is_empty:
            rows.append(("masked", shape, 0, len(weather) - 1))
    return tuple(_traffic.Passing(*row, None) for row in rows)


def _bank(settings: SceneSettings, ground: Terrain) -> Bank:
    """Textures of changing things: broad (wind, mud), patch (snow, ice), fine."""
    px = settings.gsd_m
    scales = {"broad": 260 / px, "patch": 45 / px, "fine": max(5 / px, 0.7)}
    return Bank(stream(settings.seed, "bank"), ground.shape, scales)


def _inner(transform: Affine, margin_px: int) -> Affine:
    """Transform of the grid without its margin."""
    from affine import Affine

    t = transform
    return Affine(t.a, t.b, t.c + margin_px * t.a, t.d, t.e, t.f + margin_px * t.e)
