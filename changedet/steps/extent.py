"""How large a thing is that fills no pixel: from the light that it adds, not from the pixels it touches.

The blur of a sensor spreads a pier of half a pixel over four. Its light is not lost: the sum of what it adds
over the pixels, over what a pixel that it filled would add, is its area in pixels. A pixel that it filled is
nowhere to be seen, so what is built is taken to reflect ``BUILT``, or more where a pixel shows more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

BUILT = 0.25
"""Visible reflectance of concrete, fill and weathered metal: 0.15 to 0.35 in libraries of spectra."""

SMALL_PX = 20
"""Footprints of more pixels have an inside, and their outline says more than their light."""


POINT_PX = (4.5, 5.5)
"""Over how many pixels of its brightest one the light of a point spreads, at most: the four around a corner,
and a tail. What spreads further fills a pixel."""

MOST_PX = 6
"""Pixels that the footprint of a point has at most: two by three."""

CLEAR = 0.5
"""Share of the light that must be left when what is darker counts against it, or it is noise."""


@dataclass(frozen=True)
class Extent:
    """Size and place of what fills no pixel.

    Parameters
    ----------
    area_px : area in pixels
    row, column : its middle, in pixels of the light given, 0 = middle of the first pixel
    """

    area_px: float
    row: float
    column: float


def extent(
    added: Array, behind: Array, footprint: Array, *, built: float = BUILT, small_px: int = SMALL_PX
) -> Extent | None:
    """Measure a small bright object by the light that it adds.

    Parameters
    ----------
    added : (y, x) reflectance after minus before of the footprint and at least a pixel around it, NaN unknown
    behind : (y, x) reflectance without it
    footprint : (y, x) bool, its pixels
    built : reflectance of what is built
    small_px : larger footprints have an outline

    Returns
    -------
    Extent, None where the footprint has an inside, or the object is not brighter than what was there

    >>> blurred = np.array([[0.00, 0.02, 0.00], [0.02, 0.08, 0.02], [0.00, 0.02, 0.00]])
    >>> found = extent(blurred, np.full((3, 3), 0.05), blurred > 0.01)
    >>> round(found.area_px, 2), found.row, found.column
    (0.8, 1.0, 1.0)
    """
    from scipy.ndimage import binary_dilation, binary_erosion

    count = int(footprint.sum())
    if count > small_px or binary_erosion(footprint, np.ones((3, 3), bool)).any():
        return None
    near = binary_dilation(footprint, np.ones((3, 3), bool)) & np.isfinite(added)
    known = footprint & near
    light = np.where(near, np.maximum(added, 0), 0.0)
    total = float(light.sum())
    if not known.any() or float(light[known].max()) <= 0 or float(added[near].sum()) < CLEAR * total:
        return None
    filled = _filled(float(light[known].max()), total, count, built - float(np.nanmedian(behind[known])))
    rows, columns = np.nonzero(near)
    weight = light[near] / total
    return Extent(min(total / filled, float(count)), float(rows @ weight), float(columns @ weight))


def _filled(most: float, total: float, count: int, wanted: float) -> float:
    """Return the light of a pixel that the object fills: the brightest, or as built where none is filled.

    Parameters
    ----------
    most, total : light of the brightest pixel, and of all
    count : pixels of the footprint
    wanted : what a pixel filled with something built would add
    """
    if count > MOST_PX:
        return most
    begin, end = POINT_PX
    blurred = float(np.clip((end - total / most) / (end - begin), 0, 1))
    return blurred * max(most, wanted) + (1 - blurred) * most
