"""What changes with the date for a whole scene: sun, water level, turbidity, snow, ice, cloud, pointing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from changedet.simulate._fields import stream
from changedet.simulate._settings import SceneSettings

# Rounded climate of the lower Tumen (typical values): frost from late November to late March, river ice of
# 40-70 cm from December to March, little snow, most rain from June to September, floods in July and August.
_ICE_FREEZE_DOY, _ICE_BREAK_DOY = 338, 82
_DAY = np.timedelta64(1, "D")


@dataclass(frozen=True)
class Day:
    """Conditions of one scene. Shares are 0 to 1, angles degrees, level m above the mean, turbidity mg/l."""

    index: int
    date: np.datetime64
    year: int
    doy: float
    sun_elevation_deg: float
    sun_azimuth_deg: float
    view_zenith_deg: float
    view_azimuth_deg: float
    level_m: float
    turbidity: float
    wetness: float
    snow: float
    snow_age: float
    ice: float
    broken_ice: float
    cloud: float
    haze: float
    glint: float
    shift_px: tuple[float, float]  # displacement of the content (down, right)
    gain: tuple[float, ...]
    offset: tuple[float, ...]
    psf_fwhm_px: float = 0.0
    second: bool = False  # taken by the second sensor
    has_mask: bool = True

    @property
    def frozen(self) -> bool:
        """Half of the river or more is under ice."""
        return self.ice >= 0.5


def days(settings: SceneSettings) -> tuple[Day, ...]:
    """Every scene's conditions, in order of date."""
    return tuple(_day(settings, index, date) for index, date in enumerate(scene_dates(settings)))


def scene_dates(settings: SceneSettings) -> NDArray[np.datetime64]:
    """Uneven acquisition times, UTC, about 02:00 (mid-morning at the site); fewer in the cloudy months.

    Neighbours are at least a third of the mean gap apart.
    """
    if settings.clustering > 0:
        return _clustered(settings)
    rng = stream(settings.seed, "dates")
    start, end = np.datetime64(settings.start, "D"), np.datetime64(settings.end, "D")
    span = float((end - start) / _DAY)
    gaps = np.clip(rng.lognormal(-0.2, 0.7, settings.n_dates), 0.35, 4)
    offset = np.floor((np.cumsum(gaps) - gaps[0] * rng.uniform(0.3, 1)) / gaps.sum() * span)
    minutes = rng.integers(100, 150, settings.n_dates).astype("timedelta64[m]")
    moments = (start.astype("datetime64[ns]") + offset.astype("timedelta64[D]") + minutes).astype(
        "datetime64[ns]"
    )
    return np.asarray(moments)


def _clustered(settings: SceneSettings) -> NDArray[np.datetime64]:
    """Dates in a few open-water seasons with months between, and some at the very end of the span.

    Scenes are five days or more apart; `clustering` draws each from its even place towards its cluster.
    """
    rng = stream(settings.seed, "clustered-dates")
    start, end = np.datetime64(settings.start, "D"), np.datetime64(settings.end, "D")
    span, n = int((end - start) / _DAY), settings.n_dates
    doy = np.array([_calendar(start + np.timedelta64(d, "D"))[1] for d in range(span + 1)])
    open_days = np.nonzero((doy > 95) & (doy < 325))[0]
    parts = np.array_split(open_days if open_days.size > n else np.arange(span + 1), max(n // 3, 2))
    middles = np.array([float(rng.choice(part)) for part in parts])  # one in each part of the span
    last = max(n // 6, 1)
    near = np.sort(middles[rng.permutation(n - last) % middles.size]) + rng.normal(0, 22, n - last)
    gathered = np.sort(np.concatenate([near, span - rng.uniform(0, 45, last)]))
    even = (np.arange(n) + rng.uniform(0.1, 0.9, n)) / n * span
    days = np.clip(even + settings.clustering * (gathered - even), 0, span).round()
    apart = float(min(5, span // n))
    for k in range(1, n):
        days[k] = max(days[k], days[k - 1] + apart)
    days[-1] = min(days[-1], span)
    for k in range(n - 2, -1, -1):
        days[k] = min(days[k], days[k + 1] - apart)
    minutes = rng.uniform(100, 150, n) + 60 * settings.hour_spread_h * rng.uniform(-1, 1, n)
    moments = start.astype("datetime64[m]") + (days * 1440 + minutes).astype("timedelta64[m]")
    return np.asarray(moments.astype("datetime64[ns]"))


def _day(settings: SceneSettings, index: int, date: np.datetime64) -> Day:
    rng = stream(settings.seed, "day", index)
    year, doy = _calendar(date)
    elevation, azimuth = sun(date, settings.center_lonlat)
    level, wetness, turbidity = _river(settings, date)
    snow, age = _snow(settings, date, rng)
    ice, broken = _ice(settings, year, doy)
    gain, offset = _calibration(settings, rng)
    view = float(rng.uniform(0, settings.view_zenith_deg))
    return Day(
        index=index, date=date, year=year, doy=doy, sun_elevation_deg=elevation, sun_azimuth_deg=azimuth,
        view_zenith_deg=view, view_azimuth_deg=float(rng.choice([98.0, 278.0]) + rng.normal(0, 6)),
        level_m=level, turbidity=turbidity * float(rng.lognormal(0, 0.25)), wetness=wetness,
        snow=snow, snow_age=age, ice=ice, broken_ice=broken,
        cloud=_cloud_share(settings, rng),
        haze=float(rng.uniform(0.05, 0.28) * (rng.random() < settings.haze)),
        glint=float(rng.gamma(1.2, 0.012) * max(0.0, np.sin(np.deg2rad(elevation))) ** 2),
        shift_px=tuple(float(v) for v in rng.normal(0, 1, 2) * settings.jitter_px),  # type: ignore[arg-type]
        gain=gain, offset=offset, **_camera(settings, index),
    )  # fmt: skip


def _camera(settings: SceneSettings, index: int) -> dict[str, Any]:
    """Which sensor took the scene, its blur, and whether a mask came with it."""
    rng = stream(settings.seed, "camera", index)
    wide = 1 + settings.psf_spread * float(np.clip(rng.normal(), -2, 2.5))
    second, masked = rng.random() < settings.second_sensor, rng.random() >= settings.mask_missing
    return {"psf_fwhm_px": settings.psf_fwhm_px * max(wide, 0.3), "second": second, "has_mask": masked}


def _calendar(date: np.datetime64) -> tuple[int, float]:
    year = date.astype("datetime64[Y]")
    return int(year.astype(int)) + 1970, float((date - year) / _DAY) + 1


def sun(date: np.datetime64, lonlat: tuple[float, float]) -> tuple[float, float]:
    """Elevation and azimuth of the sun, degrees (Cooper's declination; no equation of time: under 0.3 h)."""
    _, doy = _calendar(date)
    hour_utc = (doy % 1) * 24
    declination = np.deg2rad(23.45 * np.sin(2 * np.pi * (284 + doy) / 365))
    hour_angle = np.deg2rad(15 * (hour_utc + lonlat[0] / 15 - 12))
    lat = np.deg2rad(lonlat[1])
    sin_e = np.sin(lat) * np.sin(declination) + np.cos(lat) * np.cos(declination) * np.cos(hour_angle)
    east = -np.cos(declination) * np.sin(hour_angle)
    north = np.cos(lat) * np.sin(declination) - np.sin(lat) * np.cos(declination) * np.cos(hour_angle)
    elevation = float(np.rad2deg(np.arcsin(np.clip(sin_e, -1, 1))))
    return max(elevation, 5.0), float(np.rad2deg(np.arctan2(east, north)) % 360)


def _storms(settings: SceneSettings, year: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Day of year and rise (m) of a year's floods: mostly July and August."""
    rng = stream(settings.seed, "storms", year)
    n = int(rng.poisson(5)) + 1
    return np.clip(rng.normal(212, 26, n), 100, 320), rng.gamma(2.0, 0.45, n)


def _river(settings: SceneSettings, date: np.datetime64) -> tuple[float, float, float]:
    """Level (m about the mean), soil wetness (0-1), turbidity (mg/l)."""
    year, doy = _calendar(date)
    season = -0.45 + 0.75 * np.exp(-(((doy - 215) / 42) ** 2)) + 0.5 * np.exp(-(((doy - 102) / 20) ** 2))
    when, rise = _storms(settings, year)
    age = doy - when
    flood = float(np.sum(np.where(age >= 0, rise * np.exp(-np.maximum(age, 0) / 12), 0)))
    muddy = float(np.sum(np.where(age >= 0, rise * np.exp(-np.maximum(age, 0) / 14), 0)))
    rng = stream(settings.seed, "river", int(date.astype("datetime64[D]").astype(int)))
    level = (season + flood + float(rng.normal(0, 0.2))) * settings.level_scale
    melt = 40 * np.exp(-(((doy - 100) / 18) ** 2))
    return (
        float(min(level, 2.1)),
        float(np.clip(0.25 + 0.5 * flood + rng.normal(0, 0.2), 0, 1)),
        12 + melt + 220 * muddy,
    )


def _snow(settings: SceneSettings, date: np.datetime64, rng: np.random.Generator) -> tuple[float, float]:
    """Share of open ground under snow, and its age (0 fresh, 1 old): it falls, thaws, falls again."""
    _, doy = _calendar(date)
    winter = doy if doy < 150 else doy - 365
    cold = float(np.exp(-(((winter - 12) / 48) ** 2)))
    if cold < 0.08:
        return 0.0, 1.0
    share = float(rng.beta(0.9, 0.9)) * min(1.0, 1.3 * cold) * settings.winter
    return min(share, 1.0), float(rng.uniform(0, 1))


def _ice(settings: SceneSettings, year: int, doy: float) -> tuple[float, float]:
    """Share of the river under ice, and how broken it is (0 sheet, 1 floes)."""
    rng = stream(settings.seed, "ice", year + (doy > 200))
    freeze = _ICE_FREEZE_DOY + float(rng.normal(0, 7)) - 365
    breakup = _ICE_BREAK_DOY + float(rng.normal(0, 7))
    winter = doy if doy < 200 else doy - 365
    grow = np.clip((winter - freeze + 10) / 25, 0, 1)
    melt = np.clip((breakup + 12 - winter) / 25, 0, 1)
    share = float(min(grow, melt)) * min(settings.winter, 1.0)
    broken = float(max(1 - grow, 1 - melt))
    return min(share, 0.98), broken if share > 0 else 0.0


def _cloud_share(settings: SceneSettings, rng: np.random.Generator) -> float:
    """Cloud share of a scene: many clear, a few half hidden, their mean the setting."""
    mean = settings.cloudiness
    draw = float(rng.beta(0.45, 0.45 * (1 - mean) / mean)) if mean > 0 else 0.0
    return min(draw, 0.92)


def _calibration(
    settings: SceneSettings, rng: np.random.Generator
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    size, n = settings.calibration_error, len(settings.bands)
    gain = (1 + rng.normal(0, size)) * (1 + rng.normal(0, size / 2, n))
    offset = rng.normal(0, size / 10, n)
    return tuple(float(g) for g in np.clip(gain, 0.5, 1.5)), tuple(float(o) for o in offset)


def table(settings: SceneSettings, weather: tuple[Day, ...], shares: tuple[NDArray[Any], list[float]]) -> Any:
    """One row a scene (pandas), as in `Simulation.scenes`; `shares` are those of cloud and of snow."""
    import pandas as pd

    rows = []
    for day in weather:
        gains = dict(zip((f"gain_{b}" for b in settings.bands), day.gain, strict=True))
        offsets = dict(zip((f"offset_{b}" for b in settings.bands), day.offset, strict=True))
        rows.append({
            "date": day.date, "shift_dy_px": -day.shift_px[0], "shift_dx_px": -day.shift_px[1],
            **gains, **offsets,
            "level_m": day.level_m, "frozen": day.frozen, "ice_share": day.ice,
            "snow_share": shares[1][day.index], "cloud_share": float(shares[0][day.index]),
            "haze": day.haze, "sun_elevation_deg": day.sun_elevation_deg,
            "sun_azimuth_deg": day.sun_azimuth_deg,
            "view_zenith_deg": day.view_zenith_deg, "turbidity": day.turbidity,
            "sensor": settings.sensors[day.second],
            "gsd_m": settings.gsd_m * (settings.second_gsd_ratio if day.second else 1.0),
            "psf_fwhm_px": day.psf_fwhm_px, "has_mask": day.has_mask,
        })  # fmt: skip
    return pd.DataFrame(rows)
