"""What the camera adds in hard mode: bent geometry, relief seen from the side, a second, coarser sensor."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from changedet.simulate._fields import Array, Bank, stream
from changedet.simulate._settings import SceneSettings
from changedet.simulate._spectra import BANDS
from changedet.simulate._terrain import Terrain
from changedet.simulate._weather import Day


def distort(settings: SceneSettings, ground: Terrain, bank: Bank, layers: Array, day: Day) -> Array:
    """Move the content of `(layer, y, x)` by what a scene's geometry still has wrong.

    An affine part and a smooth one of the scene's own, together of `warp_px` rms, and the height model's
    error times the tangent of the view angle, away from nadir.
    """
    if settings.warp_px <= 0 and ground.dem_error_m is None:
        return layers
    from scipy.ndimage import map_coordinates

    rows, cols = ground.shape
    move = _bend(settings, bank, day, ground.shape)
    if ground.dem_error_m is not None:
        reach = -np.tan(np.deg2rad(day.view_zenith_deg)) / settings.gsd_m
        azimuth = np.deg2rad(day.view_azimuth_deg)
        move[0] -= np.float32(reach * np.cos(azimuth)) * ground.dem_error_m
        move[1] += np.float32(reach * np.sin(azimuth)) * ground.dem_error_m
    at = np.indices((rows, cols), dtype=np.float32) - move
    n = len(settings.bands)
    out = np.empty_like(layers)
    for k, layer in enumerate(layers):
        map_coordinates(layer, at, output=out[k], order=2 if k < n else 1, mode="nearest")
    return out


def _bend(settings: SceneSettings, bank: Bank, day: Day, shape: tuple[int, int]) -> Array:
    """Displacement `(2, y, x)` px of a scene's own, mean 0, `warp_px` rms over the two axes together."""
    rng = stream(settings.seed, "warp", day.index)
    y = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :]
    affine = rng.normal(0, 0.75, (2, 2)).astype(np.float32)
    field = np.stack([a * y + b * x + np.float32(0.7) * bank.draw(rng, "broad") for a, b in affine])
    field -= field.mean(axis=(1, 2), keepdims=True)
    rms = float(np.sqrt((field**2).sum(axis=0).mean()))
    return np.asarray(field * np.float32(settings.warp_px / max(rms, 1e-6)), dtype=np.float32)


def response(settings: SceneSettings) -> tuple[Array, Array]:
    """Band responses of the second sensor against the first: matrix `(band, band)`, offset `(band,)`.

    A band takes up to an eighth of its neighbor in wavelength, so what it reads depends on the material (as
    wider and shifted bands do); gains of its calibration differ by some per cent.
    """
    rng = stream(settings.seed, "second-sensor")
    order = np.argsort([BANDS.index(band) for band in settings.bands])
    n = len(order)
    matrix = np.eye(n, dtype=np.float32)
    for place, band in enumerate(order):
        side = place + (1 if place == 0 else -1 if place == n - 1 else int(rng.choice([-1, 1])))
        leak = float(rng.uniform(0.02, 0.13)) if n > 1 else 0.0
        matrix[band, band] -= leak
        matrix[band, order[side] if n > 1 else band] += leak
    gain = 1 + rng.normal(0, 0.04, n)
    return (matrix * gain[:, None]).astype(np.float32), rng.normal(0, 0.004, n).astype(np.float32)


def respond(settings: SceneSettings, image: Array) -> Array:
    """Reflectance `(band, y, x)` in the bands of the second sensor."""
    matrix, offset = response(settings)
    return np.asarray(np.tensordot(matrix, image, axes=(1, 0)) + offset[:, None, None], dtype=np.float32)


def coarse(settings: SceneSettings, image: Array, rng: np.random.Generator) -> Array:
    """Image as larger pixels detect it, with their noise, brought back onto the grid by cubic convolution."""
    ratio = float(settings.second_gsd_ratio)
    (down_y, up_y), (down_x, up_x) = (
        _resampling(size, ratio, float(rng.uniform(0, ratio))) for size in image.shape[-2:]
    )
    seen = down_y @ image @ down_x.T
    spread = np.sqrt((1.3 * settings.read_noise) ** 2 + settings.shot_noise * np.maximum(seen, 0))
    seen += spread.astype(np.float32) * rng.standard_normal(seen.shape, dtype=np.float32)
    return np.asarray(up_y @ seen @ up_x.T, dtype=np.float32)


def _resampling(size: int, ratio: float, phase: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Matrices of a line of pixels: to the mean over coarse ones, and back by cubic convolution."""
    count = int(np.ceil((size + phase) / ratio)) + 1
    edges = np.arange(count + 1) * ratio - phase
    left = np.maximum(edges[:-1, None], np.arange(size)[None, :])
    right = np.minimum(edges[1:, None], np.arange(size)[None, :] + 1)
    down = np.maximum(right - left, 0)
    held = down.sum(axis=1) > 0
    down = down[held] / down[held].sum(axis=1, keepdims=True)
    place = (np.arange(size) + 0.5 + phase) / ratio - 0.5
    first = np.floor(place).astype(int)
    up = np.zeros((size, down.shape[0]))
    for tap in (-1, 0, 1, 2):
        d = np.abs(place - first - tap)
        near = 1.5 * d**3 - 2.5 * d**2 + 1
        far = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
        column = np.clip(first + tap, 0, down.shape[0] - 1)
        np.add.at(up, (np.arange(size), column), np.where(d <= 1, near, np.where(d < 2, far, 0)))
    return down.astype(np.float32), up.astype(np.float32)
