"""Between ground and file: haze, cloud and its shadow, the sensor, and a mask that errs both ways."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from changedet.simulate._camera import coarse, respond
from changedet.simulate._fields import Array, Bank, fractal, stream
from changedet.simulate._settings import SceneSettings
from changedet.simulate._spectra import spectrum
from changedet.simulate._weather import Day

CLOUD_LIMIT, SHADOW_LIMIT = (
    0.08,
    0.15,
)  # opacity, share of light lost: beyond either a pixel is truly unusable


def clouds(settings: SceneSettings, shape: tuple[int, int], day: Day) -> tuple[Array, Array]:
    """Opacity of cloud and light that its shadow takes, both 0 to 1, `(y, x)` float32.

    The shadow is the cloud moved away from the sun by height / tan(elevation); the field is
    periodic, so clouds outside the scene throw shadows into it.
    """
    if day.cloud < 0.01:
        return np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
    rng = stream(settings.seed, "cloud", day.index)
    extent_m = min(shape) * settings.gsd_m
    scale = float(rng.uniform(250, 900))
    field = fractal(rng, shape, min(scale, 0.45 * extent_m) / settings.gsd_m, 2.6)
    excess = np.maximum(field - np.float32(np.quantile(field[::4, ::4], 1 - day.cloud)), 0)
    opacity = 1 - np.exp(-excess * np.float32(rng.uniform(1.2, 5)))
    height = float(rng.uniform(700, 2600))
    reach = height / np.tan(np.deg2rad(day.sun_elevation_deg)) / settings.gsd_m
    azimuth = np.deg2rad(day.sun_azimuth_deg)
    move = (round(reach * np.cos(azimuth)), round(-reach * np.sin(azimuth)))
    shadow = np.float32(0.75) * np.roll(opacity, move, (0, 1)) * (1 - opacity)
    return opacity.astype(np.float32), shadow.astype(np.float32)


def veil(settings: SceneSettings, image: Array, bank: Bank, day: Day, sky: tuple[Array, Array]) -> Array:
    """Ground `(band, y, x)` as seen through shadow, haze and cloud."""
    rng = stream(settings.seed, "veil", day.index)
    opacity, shadow = sky
    lost = 1 - spectrum("skylight", settings.bands)
    out = image * (1 - lost[:, None, None] * shadow)
    if day.haze > 0:
        amount = np.float32(day.haze) * np.clip(1 + np.float32(0.3) * bank.draw(rng, "broad"), 0, 3)
        out += (spectrum("haze", settings.bands)[:, None, None] - out) * amount
    lit = (
        np.float32(1)
        + np.float32(0.08) * bank.draw(rng, "patch")
        + np.float32(0.25) * (opacity - np.float32(0.5))
    )
    return np.asarray(
        out + (spectrum("cloud", settings.bands)[:, None, None] * lit - out) * opacity, dtype=np.float32
    )


def record(settings: SceneSettings, image: Array, day: Day) -> Array:
    """Reflectance as delivered: gain and offset error, shot and read noise, steps of 1e-4 in uint16."""
    rng = stream(settings.seed, "sensor", day.index)
    gain, offset = (np.array(v, dtype=np.float32)[:, None, None] for v in (day.gain, day.offset))
    if day.second:
        out = coarse(settings, respond(settings, image) * gain + offset, rng)
    else:
        out = image * gain + offset
        spread = np.sqrt(settings.read_noise**2 + settings.shot_noise * np.maximum(out, 0))
        out += spread.astype(np.float32) * rng.standard_normal(out.shape, dtype=np.float32)
    return np.asarray(np.clip(np.round(out * 1e4), 1, 65535) / np.float32(1e4), dtype=np.float32)


def clear_truth(opacity: Array, shadow: Array) -> NDArray[np.bool_]:
    """Where neither cloud nor its shadow spoils a pixel."""
    return np.asarray((opacity < CLOUD_LIMIT) & (shadow < SHADOW_LIMIT), dtype=bool)


def delivered_mask(
    settings: SceneSettings, image: Array, sky: tuple[Array, Array], clear: NDArray[np.bool_], day: Day
) -> NDArray[np.bool_]:
    """True = flagged: the thickest cloud and shadow, less the thin edges, plus the brightest clear ground.

    The shares missed and flagged by mistake vary from scene to scene about the settings' means.
    """
    from scipy.ndimage import gaussian_filter

    rng = stream(settings.seed, "mask", day.index)
    noise = fractal(rng, (clear.shape[0], clear.shape[1]), 6, 2.4)
    flagged = np.zeros(clear.shape, dtype=bool)
    if not clear.all():
        score = sky[0] + np.float32(0.7) * sky[1] + np.float32(0.05) * noise
        missed = min(settings.mask_omission * float(rng.uniform(0.3, 1.7)), 1.0)
        flagged |= ~clear & (score >= np.quantile(score[~clear], missed)) & (missed < 1)
    share = min(
        settings.mask_commission * float(rng.gamma(1.0)) * (3 if day.snow > 0.2 or day.ice > 0.3 else 1), 0.9
    )
    if share > 0 and clear.any():
        visible = gaussian_filter(image[: min(3, image.shape[0])].mean(axis=0), 1.0) * (
            1 + np.float32(0.12) * noise
        )
        flagged |= clear & (visible > np.quantile(visible[clear], 1 - share))
    return flagged
