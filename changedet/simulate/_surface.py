"""The ground on one date, without works or clouds: land in its season, water at its level, snow and ice."""

from __future__ import annotations

from typing import Any

import numpy as np

from changedet.simulate._bars import outline
from changedet.simulate._events import Event, alter
from changedet.simulate._fields import Array, Bank, fractal, smoothstep, stream
from changedet.simulate._grain import Grain
from changedet.simulate._seasons import greenness
from changedet.simulate._settings import SceneSettings
from changedet.simulate._spectra import spectrum
from changedet.simulate._terrain import (
    FIELD,
    FOREST,
    GRASS,
    GRAVEL,
    REED,
    ROAD,
    ROOF,
    ROOF_BLUE,
    SAND,
    Parcel,
    Terrain,
    shaded,
)  # fmt: skip
from changedet.simulate._weather import Day

FILM_DAYS = 90.0  # from sowing until the plastic film comes off a plot

# Season of wild plants at 42 N on the coast (typical): day of year of half green-up and half senescence.
_GREEN_UP, _SENESCENCE = {GRASS: 122, REED: 136, FOREST: 129}, {GRASS: 283, REED: 268, FOREST: 285}


def surface(
    settings: SceneSettings, ground: Terrain, bank: Bank, day: Day, events: tuple[Event, ...] = ()
) -> tuple[Array, Array, float]:
    """Reflectance of the ground as it lies on a day; `events` are what changes on land.

    Returns
    -------
    (band, y, x) float32 reflectance; (y, x) float32 share of water or ice in each pixel; snow share of land
    """
    rng = stream(settings.seed, "surface", day.index)
    depth = np.float32(day.level_m) - ground.bed_m
    water = np.clip(depth / ground.slope_m + np.float32(0.5), 0, 1)
    land, snow = _land(settings, ground, bank, day, rng, events)
    wet = _water(settings, bank, day, np.maximum(depth, 0), ground, rng)
    out = land + (wet - land) * water
    return out, water, float((snow * (1 - water)).mean() / max(float((1 - water).mean()), 1e-6))


def _land(
    settings: SceneSettings, ground: Terrain, bank: Bank, day: Day, rng: np.random.Generator,
    events: tuple[Event, ...],
) -> tuple[Array, Array]:  # fmt: skip
    """Reflectance of dry land with snow on it, and the snow's share."""
    grain = ground.grain
    reach = 7.0 if grain is None else 14.0
    early, late = (_labels(settings, ground, day, lag) for lag in (-reach, reach))
    if grain is None:
        mix = np.clip(np.float32(0.5) + np.float32(0.35) * ground.texture / 0.1, 0, 1)
    else:
        mix = np.float32(0.5) + np.float32(0.5) * grain.season
    out = np.stack(
        [
            e[ground.label] + (f[ground.label] - e[ground.label]) * mix
            for e, f in zip(early, late, strict=True)
        ]
    )
    if grain is not None:
        _mingle(settings, ground, grain, day, out)
    bare = np.isin(ground.label, (SAND, GRAVEL)) | (ground.label >= FIELD)
    freeboard = np.maximum(ground.bed_m - np.float32(day.level_m), 0)
    damp = np.float32(0.45) * np.exp(-freeboard / np.float32(0.22)) * (ground.label < FIELD)
    damp += np.float32(0.35 * day.wetness) * bare
    if grain is not None:
        damp = np.maximum(damp * (1 + np.float32(0.5 * min(grain.strength, 1)) * grain.drainage), 0)
    _disturb(settings, ground, day, out)
    change = np.float32(0.03) * bank.draw(rng, "patch") + np.float32(0.02) * bank.draw(rng, "fine")
    out *= (1 + ground.texture + change) * (1 - np.minimum(damp, np.float32(0.6)))
    road = spectrum("gravel", settings.bands) if settings.seed % 3 else spectrum("asphalt", settings.bands)
    out += (road[:, None, None] - out) * ground.road
    alter(settings, events, day, out)
    snow = _snow_cover(ground, bank, day, rng)
    white = _snow_spectrum(settings, day)
    bright = 1 + np.float32(0.06) * bank.draw(rng, "patch")
    out += (white[:, None, None] * bright - out) * snow
    dark = shaded(ground.height_m, day.sun_elevation_deg, day.sun_azimuth_deg, settings.gsd_m)
    lost = (1 - spectrum("skylight", settings.bands))[:, None, None] * np.float32(0.85)
    return _leaning(settings, ground, day, out * (1 - lost * dark)), snow


def _mingle(settings: SceneSettings, ground: Terrain, grain: Grain, day: Day, land: Array) -> None:
    """Give every pixel its share of other covers, its own spectrum, its drift, and plants on old sand."""
    bands, label = settings.bands, ground.label
    made = np.isin(label, (ROAD, ROOF, ROOF_BLUE))
    green = np.float32(greenness(day.doy, _GREEN_UP[GRASS], _SENESCENCE[GRASS]))
    wood = np.float32(greenness(day.doy, _GREEN_UP[FOREST], _SENESCENCE[FOREST]))
    others = (
        blend("grass_dry", "grass_green", float(green), bands),
        blend("forest_bare", "forest_green", float(wood), bands),
        spectrum("soil", bands),
    )
    years = _years(settings, day)
    span = float((np.datetime64(settings.end) - np.datetime64(settings.start)) / np.timedelta64(365, "D"))
    closed = (label >= FIELD) | (label == FOREST)
    room = np.where(made, np.float32(0.25), np.where(closed, np.float32(0.6), np.float32(1)))
    # what grows where changes with the years: a third of a share in a year, sd
    room *= np.clip(1 + np.float32(5) * grain.drift(years, span, other=True), 0.1, 2)
    for values, share in zip(others, grain.companions, strict=True):
        land += (values[:, None, None] - land) * np.clip(share * room, 0, 0.8)
    land += (others[0][:, None, None] - land) * _settled(ground, grain, years)
    sand = np.isin(label, (SAND, GRAVEL))
    pace = np.where(sand | (label >= FIELD), np.float32(1), np.where(made, np.float32(0.3), np.float32(0.7)))
    land *= grain.colors(bands) * (1 + pace * np.clip(grain.drift(years, span), -0.6, 0.6))


def _disturb(settings: SceneSettings, ground: Terrain, day: Day, land: Array) -> None:
    """Burn grass and reeds in patches in early spring, mow them in late summer; in place, anew each year."""
    for name, strength in _disturbed(day.doy).items():
        if strength <= 0:
            continue
        patch = _patches(settings, ground, name, day.year)
        share = patch * np.float32(strength) * np.isin(ground.label, (GRASS, REED))
        after = (
            spectrum("stubble", settings.bands) if name == "mow" else spectrum("soil", settings.bands) * 0.4
        )
        land += (after.astype(np.float32)[:, None, None] - land) * share * np.float32(0.8)


def _disturbed(doy: float) -> dict[str, float]:
    """How much of the burning and the mowing of a year shows on a day, 0 to 1."""
    burnt = np.clip((doy - 70) / 30, 0, 1) * np.clip((150 - doy) / 20, 0, 1)
    mown = np.clip((doy - 215) / 25, 0, 1) * np.clip((330 - doy) / 20, 0, 1)
    return {"burn": float(burnt), "mow": float(mown)}


def _patches(settings: SceneSettings, ground: Terrain, name: str, year: int) -> Array:
    """Where grass is burnt or mown in a year, `(y, x)`, 0 to 1."""
    rng = stream(settings.seed, name, year)
    patch = fractal(rng, ground.shape, float(rng.uniform(25, 90)) / settings.gsd_m, 2.4)
    return smoothstep(patch, 1.0, 1.2)


def slow_changes(
    settings: SceneSettings, ground: Terrain, weather: tuple[Day, ...]
) -> list[tuple[str, Any, int, int]]:
    """Kind, outline, first and last scene of burnt and mown grass and of plants that settle on sand."""
    found: list[tuple[str, Any, int, int]] = []
    grassy = np.isin(ground.label, (GRASS, REED))
    for year in sorted({day.year for day in weather}):
        for name, kind in (("burn", "burnt-grass"), ("mow", "mown-grass")):
            on = [d.index for d in weather if d.year == year and _disturbed(d.doy)[name] > 0.1]
            if on:
                shape = outline(ground, grassy & (_patches(settings, ground, name, year) > 0.2))
                found.append((kind, shape, on[0], on[-1]))
    if ground.grain is not None:
        ends = [_settled(ground, ground.grain, _years(settings, weather[k])) for k in (0, -1)]
        found.append(("bar-plants", outline(ground, ends[1] - ends[0] > 0.2), 0, len(weather) - 1))
    return [row for row in found if not row[1].is_empty]


def _years(settings: SceneSettings, day: Day) -> float:
    """Years from the first possible day of the stack."""
    return float((day.date - np.datetime64(settings.start)) / np.timedelta64(365, "D"))


def _settled(ground: Terrain, grain: Grain, years: float) -> Array:
    """Share of dry sand and gravel that plants have taken after some years, `(y, x)`."""
    share = smoothstep(grain.pioneers + np.float32(0.45 * years), 1.3, 2.0)
    share *= smoothstep(ground.bed_m, 0.25, 0.9) * np.float32(0.85 * min(grain.strength, 1))
    return np.asarray(share * np.isin(ground.label, (SAND, GRAVEL)), dtype=np.float32)


def _leaning(settings: SceneSettings, ground: Terrain, day: Day, land: Array) -> Array:
    """Crowns and roofs leaned away from nadir, where that is a pixel or more."""
    reach = np.tan(np.deg2rad(day.view_zenith_deg)) / settings.gsd_m
    azimuth = np.deg2rad(day.view_azimuth_deg)
    out = land
    for low, high in ((0.5, 5.5), (5.5, 8.0), (8.0, 99.0)):
        stands = (ground.height_m > low) & (ground.height_m <= high)
        rise = float(ground.height_m[stands].mean()) * reach if stands.any() else 0.0
        move = (round(rise * np.cos(azimuth)), round(-rise * np.sin(azimuth)))
        if any(move):
            out = np.where(np.roll(stands, move, (0, 1)), np.roll(land, move, (1, 2)), out)
    return out


def _labels(settings: SceneSettings, ground: Terrain, day: Day, lag_d: float) -> Array:
    """`(band, label)` reflectance of every cover and field on a day of its season."""
    bands, doy = settings.bands, day.doy + lag_d
    size = max(int(ground.label.max()), FIELD + len(ground.parcels)) + 1
    table = np.zeros((size, len(bands)), dtype=np.float32)
    plants = {GRASS: "grass", REED: "reed", FOREST: "forest"}
    for label, name in plants.items():
        green = greenness(doy, _GREEN_UP[label], _SENESCENCE[label])
        dry = spectrum(f"{name}_bare" if name == "forest" else f"{name}_dry", bands)
        table[label] = dry + (spectrum(f"{name}_green", bands) - dry) * np.float32(green)
    table[SAND], table[GRAVEL] = spectrum("sand", bands), spectrum("gravel", bands)
    table[SAND] += (spectrum("grass_green", bands) - table[SAND]) * np.float32(
        0.25 * greenness(doy, 165, 270)
    )
    table[ROAD], table[ROOF], table[ROOF_BLUE] = (
        spectrum(n, bands) for n in ("asphalt", "roof_tile", "roof_blue")
    )
    for parcel in ground.parcels:
        table[parcel.label] = _field(settings, parcel, day.year, doy)
    return np.ascontiguousarray(table.T)


def season(settings: SceneSettings, parcel: Parcel, year: int) -> tuple[bool, float, float]:
    """Whether a field is sown in a year, and the days of year of sowing and harvest."""
    rng = stream(settings.seed, "season", parcel.label * 10000 + year)
    sown = parcel.crop and rng.random() < 0.92
    return sown, parcel.sow_doy + float(rng.normal(0, 6)), parcel.harvest_doy + float(rng.normal(0, 7))


def filmed(settings: SceneSettings, parcel: Parcel, year: int) -> bool:
    """Whether a plot lies under plastic film in the early summer of a year, as garden plots often do."""
    return parcel.film and stream(settings.seed, "film", parcel.label * 10000 + year).random() < 0.5


def _field(settings: SceneSettings, parcel: Parcel, year: int, doy: float) -> Array:
    """Reflectance of one field: fallow, flooded paddy, film, plowed soil, stubble, crop."""
    bands = settings.bands
    soil = spectrum("soil", bands) * np.float32(parcel.soil)
    sown, sow, harvest = season(settings, parcel, year)
    if not sown:
        return blend("grass_dry", "grass_green", greenness(doy, 118, 285, 12) * 0.8 * parcel.vigor, bands)
    if parcel.paddy and sow - 5 < doy < sow + 25:
        return np.asarray(spectrum("water_clear", bands) * np.float32(1.6) + np.float32(0.15) * soil)
    if filmed(settings, parcel, year) and sow - 8 < doy < sow + FILM_DAYS:
        return np.asarray(soil + (spectrum("film", bands) - soil) * np.float32(0.75))
    if sow - 20 < doy < sow + 10 or doy > harvest + parcel.plow_lag_d:
        return soil
    if doy <= sow - 20:
        return soil if parcel.plow_lag_d < 30 else np.asarray(spectrum("stubble", bands) * np.float32(0.9))
    if doy > harvest:
        return spectrum("stubble", bands)
    plant = blend("crop_green", "stubble", 0.75 * min(max((doy - harvest + 30) / 30, 0.0), 1.0), bands)
    growth = np.float32(greenness(doy, sow + 38, 400, 8) * parcel.vigor)
    return np.asarray(soil + (plant - soil) * growth, dtype=np.float32)


def blend(first: str, second: str, share: float, bands: tuple[str, ...]) -> Array:
    """Spectrum of a mixture, `share` of it the second material."""
    a, b = spectrum(first, bands), spectrum(second, bands)
    return np.asarray(a + (b - a) * np.float32(share), dtype=np.float32)


def _snow_cover(ground: Terrain, bank: Bank, day: Day, rng: np.random.Generator) -> Array:
    """Patchy share of snow: less under reeds, trees and on roads, none that thawed."""
    if day.snow <= 0.02:
        return np.zeros(ground.shape, dtype=np.float32)
    hold = np.array([1.0, 0.75, 0.45, 0.95, 0.9, 0.5, 0.8, 0.8, 1.0], dtype=np.float32)
    factor = hold[np.minimum(ground.label, FIELD)] * (1 - np.float32(0.55) * ground.road)
    drift = (
        bank.draw(rng, "broad")
        + np.float32(0.45) * bank.draw(rng, "patch")
        + np.float32(0.2) * bank.draw(rng, "fine")
    )
    field = (
        drift / np.float32(1.15)
        + np.float32(1.5) * (factor - np.float32(0.8))
        + np.float32(2) * ground.texture
    )
    edge = float(np.quantile(field[::3, ::3], np.clip(1 - day.snow, 0, 1)))
    soft = 0.35 + 0.9 * float(rng.random())
    return smoothstep(field, edge - soft, edge + soft) * factor


def _snow_spectrum(settings: SceneSettings, day: Day) -> Array:
    return blend("snow_fresh", "snow_old", day.snow_age, settings.bands)


def water_spectrum(settings: SceneSettings, turbidity: Array, depth_m: Array, bottom: Array) -> Array:
    """Reflectance of water `(band, y, x)`: a volume that saturates with sediment, the bed seen through it.

    The volume term rises and saturates as in Nechad et al. (2010), the bed is seen through twice the depth,
    exp(-2 K d). Coefficients are typical values.
    """
    t = np.maximum(turbidity, 0) / np.float32(100)
    clear, mud = spectrum("water_clear", settings.bands), spectrum("sediment", settings.bands)
    k0, k1 = spectrum("attenuation", settings.bands), spectrum("attenuation_100", settings.bands)
    volume = clear[:, None, None] + mud[:, None, None] * (t / (np.float32(0.8) + t))
    seen = np.exp(-2 * (k0[:, None, None] + k1[:, None, None] * t) * np.minimum(depth_m, 20))
    return np.asarray(volume + (bottom - volume) * seen, dtype=np.float32)


def _water(
    settings: SceneSettings, bank: Bank, day: Day, depth_m: Array, ground: Terrain, rng: np.random.Generator
) -> Array:
    """Reflectance of the river, its patches of mud and glint, and the ice on it."""
    plume = np.exp(np.float32(0.35) * bank.draw(rng, "broad") + np.float32(0.15) * bank.draw(rng, "patch"))
    bed = spectrum("sand", settings.bands)[:, None, None] * np.float32(0.55) * (1 + ground.texture)
    if ground.grain is not None:
        plume *= np.exp(np.float32(0.3 * min(ground.grain.strength, 1)) * ground.grain.eddies)
    out = water_spectrum(settings, np.float32(day.turbidity) * plume, depth_m, bed)
    wind = np.maximum(
        1 + np.float32(0.8) * bank.draw(rng, "broad") + np.float32(0.35) * bank.draw(rng, "patch"), 0
    )
    out += np.float32(day.glint) * wind * (1 + np.float32(0.12) * bank.draw(rng, "fine"))
    return out if day.ice <= 0 else _freeze(settings, bank, day, out, ground, rng)


def _freeze(
    settings: SceneSettings, bank: Bank, day: Day, water: Array, ground: Terrain, rng: np.random.Generator
) -> Array:
    """Ice from the banks inward: clear and white ice, wind-blown snow, ridges of broken frames, leads."""
    broad, patch, fine = (bank.draw(rng, name) for name in ("broad", "patch", "fine"))
    still = np.float32(1.1) * np.exp(-np.maximum(ground.bank_m, 0) / np.float32(45)) - np.float32(0.45)
    broken = np.float32(day.broken_ice)
    field = still + (1 - broken) * broad + broken * patch + np.float32(0.25) * fine
    level = np.quantile(field[ground.bank_m > 0], 1 - day.ice) if (ground.bank_m > 0).any() else 0.0
    cover = smoothstep(field, float(level) - 0.12, float(level) + 0.12)
    frames = np.exp(-((patch + np.float32(0.4) * fine) ** 2) / np.float32(0.012)) * (
        0.4 + np.float32(0.6) * broken
    )
    white = np.clip(smoothstep(broad + np.float32(0.5) * patch, -0.9, 0.7) * np.float32(0.8) + frames, 0, 1)
    clear, rough = spectrum("ice_clear", settings.bands), spectrum("ice_white", settings.bands)
    sheet = clear[:, None, None] + (rough - clear)[:, None, None] * white
    blown = smoothstep(patch + np.float32(0.5) * fine, 1.2 - 2.4 * day.snow, 2.2 - 2.4 * day.snow)
    sheet = sheet + (_snow_spectrum(settings, day)[:, None, None] - sheet) * blown * np.float32(
        0.9 * min(1.0, 2 * day.snow)
    )
    return np.asarray(water + (sheet * (1 + np.float32(0.04) * fine) - water) * cover, dtype=np.float32)
