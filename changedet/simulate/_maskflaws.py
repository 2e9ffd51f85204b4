"""How delivered masks go wrong beyond thin edges: in place, again and again, by a pixel, or altogether."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from changedet.simulate._fields import Array, fractal, stream
from changedet.simulate._settings import SceneSettings
from changedet.simulate._weather import Day

_BRIGHT = 0.17  # visible reflectance from which ground can pass for cloud: sand, concrete, pale roofs, ice
_TAKEN = 0.75  # share of scenes in which what is taken is taken


def mistrusted(settings: SceneSettings, shape: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Where bright ground is taken for cloud in most scenes, `(y, x)`; patches as large as a roof or a yard.

    None where the setting is 0.
    """
    if settings.mask_eaten <= 0:
        return None
    rng = stream(settings.seed, "mask-eaten")
    field = fractal(rng, shape, max(30 / settings.gsd_m, 1.5), 2.2)
    return np.asarray(field > np.quantile(field, 1 - settings.mask_eaten), dtype=bool)


def spoil(
    settings: SceneSettings,
    mask: NDArray[np.bool_],
    image: Array,
    sky: tuple[Array, Array],
    day: Day,
    suspects: NDArray[np.bool_] | None,
) -> NDArray[np.bool_]:
    """The mask that comes with the scene; nothing is flagged where none comes.

    Parameters
    ----------
    mask : what an ordinary mask flags
    image : (band, y, x) as delivered; its first bands are taken as the visible ones
    sky : opacity of cloud, light lost to its shadow
    suspects : as from `mistrusted`
    """
    if not day.has_mask:
        return np.zeros_like(mask)
    rng = stream(settings.seed, "mask-flaws", day.index)
    blind, opaque, dark = rng.random() < settings.thin_missed, rng.uniform(0.25, 0.6), rng.uniform(0.25, 0.5)
    if blind:
        mask = mask & ~((sky[0] < opaque) & (sky[1] < dark))
    taken = rng.random() < _TAKEN
    limit = _BRIGHT * float(rng.uniform(0.9, 1.15))
    if suspects is not None and taken:
        from scipy.ndimage import uniform_filter

        visible = uniform_filter(image[: min(3, image.shape[0])].mean(axis=0), 3)
        mask = mask | (suspects & (visible > limit))
    dy, dx = (round(float(v)) for v in rng.normal(0, settings.mask_shift_px, 2))
    return _shifted(mask, dy, dx)


def _shifted(mask: NDArray[np.bool_], dy: int, dx: int) -> NDArray[np.bool_]:
    """Mask moved by whole pixels; what comes in from outside is not flagged."""
    rows, cols = mask.shape
    out = np.zeros_like(mask)
    out[max(dy, 0) : rows + min(dy, 0), max(dx, 0) : cols + min(dx, 0)] = mask[
        max(-dy, 0) : rows + min(-dy, 0), max(-dx, 0) : cols + min(-dx, 0)
    ]
    return out


def eaten(
    mask: NDArray[np.bool_], clear: NDArray[np.bool_], delivered: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Pixels flagged on a third or more of the scenes with a mask although they were clear, `(y, x)`."""
    seen = clear[delivered]
    wrong = (mask[delivered] & seen).sum(axis=0)
    return np.asarray((wrong >= 3) & (wrong >= np.maximum(seen.sum(axis=0), 1) / 3), dtype=bool)
