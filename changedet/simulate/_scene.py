"""Render a stack from its causes and keep its truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from changedet.simulate import _traffic, _truth, _weather
from changedet.simulate._compose import Painter, paint
from changedet.simulate._fields import Array, Bank, stream
from changedet.simulate._render import blur_and_shift
from changedet.simulate._settings import SceneSettings
from changedet.simulate._sky import clear_truth, clouds, delivered_mask, record, veil
from changedet.simulate._surface import surface
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
    distractors : kind (vessel, wake, ice-object, ice-track, stockpile, harvest, film), first_date, last_date,
        geometry
    control : the rail bridge, which never changes
    axis : line of the new bridge, from land to land
    scenes : one row a scene; shift_dy_px and shift_dx_px are to be *applied* to it to bring it onto the grid
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

    def dataset(self) -> xr.Dataset:
        """Stack as the pipeline takes it: `image`, NaN where flagged; `quality` uint8, 2 where flagged."""
        import xarray as xr

        t, (_, _, rows, cols) = self.transform, self.image.shape
        coords = {
            "time": self.dates,
            "band": list(self.settings.bands),
            "y": t.f + (np.arange(rows) + 0.5) * t.e,
            "x": t.c + (np.arange(cols) + 0.5) * t.a,
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
    bank = _bank(settings, ground)
    shots = [_shoot(settings, ground, bank, day, works, passing) for day in weather]
    clear = np.stack([shot.clear for shot in shots])
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
        mask=np.stack([shot.mask for shot in shots]),
        clear=clear, water=standing.water, dates=dates, transform=transform, crs=settings.crs, truth=truth,
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


def _shoot(
    settings: SceneSettings,
    ground: Terrain,
    bank: Bank,
    day: Day,
    works: tuple[Structure, ...],
    passing: tuple[_traffic.Passing, ...],
) -> _Shot:
    """One scene, from ground to file."""
    canvas, water, snow = surface(settings, ground, bank, day)
    contrast = paint(Painter(settings, ground, day, canvas, water), works, passing)
    sky = clouds(settings, ground.shape, day)
    layers = np.concatenate([veil(settings, canvas, bank, day, sky), np.stack(sky)])
    seen = blur_and_shift(layers, settings.psf_fwhm_px, day.shift_px)[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
    image = record(settings, seen[:-2], day)
    clear = clear_truth(seen[-2], seen[-1])
    mask = delivered_mask(settings, image, (seen[-2], seen[-1]), clear, day)
    return _Shot(image, mask, clear, water[MARGIN:-MARGIN, MARGIN:-MARGIN].copy(), contrast, snow)


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
