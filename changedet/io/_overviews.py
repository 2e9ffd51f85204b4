"""Overviews of a raster that is not yet a Cloud-optimised GeoTIFF: halves, quarters and so on, in one pass.

GDAL's own take four times the processor time. They lie beside the file as its external overviews, where the
COG driver finds them.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from changedet.grid import Window

Array = npt.NDArray[Any]

SMALLEST_PX = 512
"""Sides of the smallest overview, as the COG driver has it."""

STRIP_PX = 1024
"""Rows read at one time, at least; always a multiple of the largest factor, so that strips do not show."""


def factors(shape: tuple[int, int]) -> list[int]:
    """Return the factors by which the overviews of an image are smaller.

    >>> factors((5000, 1200)), factors((512, 512))
    ([2, 4, 8, 16], [])
    """
    out = [1]
    while max(shape) > SMALLEST_PX * out[-1]:
        out.append(2 * out[-1])
    return out[1:]


def build(path: Path, options: dict[str, Any], *, smooth: bool) -> None:
    """Write the overviews of a finished plain raster.

    Parameters
    ----------
    path : the raster; the overviews get its name and one ``.ovr`` more each
    options : those with which the raster was made
    smooth : average the valid pixels; else take one of them
    """
    import rasterio

    known = {k: v for k, v in options.items() if k not in ("crs", "transform")}
    with ExitStack() as stack:
        source = stack.enter_context(rasterio.open(path))
        wanted = factors(source.shape)
        targets = []
        for level, factor in enumerate(wanted, 1):
            rows, columns = (-(-n // factor) for n in source.shape)
            name = path.with_name(path.name + ".ovr" * level)
            made = rasterio.open(name, "w", **{**known, "width": columns, "height": rows})
            targets.append(stack.enter_context(made))
        height = max(STRIP_PX, *wanted, 1)
        for top in range(0, source.height if wanted else 0, height):
            bottom = min(top + height, source.height)
            values = source.read(window=_window((slice(top, bottom), slice(0, source.width))))
            for factor, target in zip(wanted, targets, strict=True):
                values = averaged(values) if smooth else np.ascontiguousarray(values[:, ::2, ::2])
                rows = slice(top // factor, top // factor + values.shape[1])
                target.write(values, window=_window((rows, slice(0, target.width))))


def averaged(values: Array) -> Array:
    """Average squares of 2 × 2 pixels, those that are NaN aside.

    Parameters
    ----------
    values : (band, y, x) float array; where a side is odd, the last pixels stand alone

    Returns
    -------
    (band, ⌈y/2⌉, ⌈x/2⌉) array of the same dtype, NaN where no pixel of the square is valid
    """
    _, rows, columns = values.shape
    if rows % 2 or columns % 2:
        padding = ((0, 0), (0, rows % 2), (0, columns % 2))
        values = np.pad(values, padding, constant_values=np.nan)
    quarters = [values[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
    total = (quarters[0] + quarters[1]) + (quarters[2] + quarters[3])
    total *= total.dtype.type(0.25)
    gaps = np.isnan(total)
    if gaps.any():
        parts = np.stack([quarter[gaps] for quarter in quarters])
        known = ~np.isnan(parts)
        number = known.sum(axis=0)
        parts[~known] = 0
        total[gaps] = np.where(number > 0, parts.sum(axis=0) / np.maximum(number, 1), np.nan)
    return np.asarray(total)


def _window(window: Window) -> Any:
    """Return a window as rasterio has it."""
    from rasterio.windows import Window as RasterioWindow

    return RasterioWindow.from_slices(*window)
