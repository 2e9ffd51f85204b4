"""Scenes and stacks: the records and the labelled arrays that flow through the steps.

A *stack* is an ``xarray.Dataset`` on one grid with

- ``image`` ``(time, band, y, x)`` float32, reflectance 0–1 or linear SAR power, NaN = not usable;
- ``quality`` ``(time, y, x)`` uint8 flags of :class:`Quality` that say why; a pixel that is finite although
  it is flagged was masked by mistake and given back at reading;
- coordinates ``time`` (datetime64[ns], UTC, increasing), ``band`` (str), ``y``, ``x``, ``spatial_ref``, and
  along ``time``: ``scene`` (id), ``sensor``, ``gsd_m``. Steps add their own coordinates along ``time``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntFlag
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from changedet.errors import InputError
from changedet.grid import Grid

if TYPE_CHECKING:
    import xarray as xr

Fit = Literal["fit", "limited", "refused"]


class Quality(IntFlag):
    """Why a pixel may not be used (0 = usable); WATER only informs."""

    NODATA = 1
    CLOUD = 2
    SHADOW = 4
    SNOW = 8
    ICE = 16
    SATURATED = 32
    WATER = 64
    MASKED = 128


UNUSABLE = Quality.NODATA | Quality.CLOUD | Quality.SHADOW | Quality.SATURATED | Quality.MASKED
"""Flags that turn a pixel into NaN at reading."""

CLOUDY = Quality.CLOUD | Quality.SHADOW | Quality.MASKED
"""Flags that a mask of clouds sets, and that may be wrong; fill and saturation are facts."""


@dataclass(frozen=True)
class Layer:
    """One raster of a scene: where the pixels of some bands are, and what stored values mean.

    The tuples run along ``bands``; an empty one means that the scene's own value holds for every band.

    Parameters
    ----------
    path : file as rasterio opens it
    indexes : 1-based band indexes in the file
    bands : band names, in the same order
    grid : grid of this file; None means the scene's
    dtype : dtype as stored
    nodata : stored values that mean no data, None where a band declares none
    scale, offset : reflectance (or power) = stored · scale + offset
    saturated : stored value that means saturated, None where there is none
    block : (rows, columns) of the file's own tiles or strips
    """

    path: str
    indexes: tuple[int, ...]
    bands: tuple[str, ...]
    grid: Grid | None = None
    dtype: str = "float32"
    nodata: tuple[float | None, ...] = ()
    scale: tuple[float, ...] = ()
    offset: tuple[float, ...] = ()
    saturated: float | None = None
    block: tuple[int, int] = (256, 256)

    def narrow(self, bands: tuple[str, ...]) -> Layer:
        """Return a copy with some of the bands, in the order given."""
        at = [self.bands.index(b) for b in bands]

        def pick(values: tuple[Any, ...]) -> tuple[Any, ...]:
            return tuple(values[i] for i in at) if values else ()

        return replace(
            self,
            indexes=pick(self.indexes),
            bands=pick(self.bands),
            nodata=pick(self.nodata),
            scale=pick(self.scale),
            offset=pick(self.offset),
        )


MaskKind = Literal["udm2", "udm", "nonzero", "qa_pixel", "bqa", "scl", "dataset"]
"""Convention of a mask, see :mod:`changedet.io._masks`."""


@dataclass(frozen=True)
class Mask:
    """One raster that says which pixels of a scene may be used.

    Parameters
    ----------
    path : file as rasterio opens it
    kind : convention of its values
    indexes : 1-based band indexes in the file
    grid : grid of this file; None means the scene's
    """

    path: str
    kind: MaskKind
    indexes: tuple[int, ...] = (1,)
    grid: Grid | None = None


@dataclass(frozen=True)
class Scene:
    """One acquisition: what was recognised, and why.

    Parameters
    ----------
    id : unique name in a stack (file stem, product id)
    path : file (the first one where several belong together)
    layers : rasters with the bands, finest first
    grid : grid of the pixels as stored (finest layer)
    date : acquisition time, UTC, None where unknown
    sensor : profile name of :mod:`changedet.sensors`, ``generic`` where not recognised
    scale, offset : reflectance (or power) = stored · scale + offset, where the layer says nothing else
    nodata : stored value that means no data, None where not declared
    decibel : stored values are dB (power = 10^(value / 10) after scale and offset)
    physical : values are reflectance or power; False for display values and digital numbers
    masks : rasters that say which pixels may be used
    group : scenes of one group may be compared (SAR: the same orbit, burst and pass; else the sensor)
    why : decision → reason, in words (date source, scale source, mask source, …)
    """

    id: str
    path: str
    layers: tuple[Layer, ...]
    grid: Grid
    date: np.datetime64 | None
    sensor: str = "generic"
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    decibel: bool = False
    physical: bool = True
    masks: tuple[Mask, ...] = ()
    group: str = ""
    why: dict[str, str] = field(default_factory=dict)
    sha256: str | None = None

    @property
    def bands(self) -> tuple[str, ...]:
        """Band names in reading order."""
        return tuple(b for layer in self.layers for b in layer.bands)

    @property
    def mask(self) -> str | None:
        """Path of the first mask, None without one."""
        return self.masks[0].path if self.masks else None

    @property
    def mask_kind(self) -> str | None:
        """Convention of the first mask, None without one."""
        return self.masks[0].kind if self.masks else None

    @property
    def files(self) -> tuple[str, ...]:
        """Every file the scene reads, without repeats, layers first."""
        return tuple(dict.fromkeys([x.path for x in self.layers] + [m.path for m in self.masks]))

    @property
    def is_sar(self) -> bool:
        """True where the bands are SAR polarisations."""
        return bool(self.bands) and set(self.bands) <= SAR_BANDS

    def patch(self, **changes: Any) -> Scene:
        """Return a copy with some fields changed."""
        return replace(self, **changes)


SAR_BANDS = frozenset({"vv", "vh", "hh", "hv"})


def is_sar(stack: xr.Dataset | xr.DataArray) -> bool:
    """Return True where every band of a stack is a SAR polarisation."""
    return bool(set(map(str, np.atleast_1d(stack.coords["band"].values))) <= SAR_BANDS)


def years(stack: xr.Dataset) -> npt.NDArray[np.float64]:
    """Return acquisition times in years from the first date, (time,) float64."""
    times = stack.time.values
    return np.asarray((times - times[0]) / np.timedelta64(1, "D") / 365.25, np.float64)


def make_stack(
    image: Any,
    grid: Grid,
    *,
    dates: npt.ArrayLike,
    bands: tuple[str, ...],
    quality: Any = None,
    scenes: tuple[str, ...] | None = None,
    sensors: tuple[str, ...] | None = None,
) -> xr.Dataset:
    """Label arrays as a stack.

    Parameters
    ----------
    image : (time, band, y, x) array, NaN = not usable; NumPy or dask, float32
    grid : grid of ``y`` and ``x``
    dates : (time,) datetime64, UTC
    bands : unique band names
    quality : (time, y, x) uint8 flags; 0 where the image is finite and NODATA elsewhere if not given
    scenes, sensors : ids and sensor names along time

    Raises
    ------
    InputError
        Shapes, dates or band names do not agree.
    """
    import xarray as xr

    times = np.asarray(dates, "datetime64[ns]")
    if image.ndim != 4 or image.shape[:2] != (times.size, len(bands)) or image.shape[2:] != grid.shape:
        raise InputError(
            f"image has shape {image.shape}; wanted (time, band, y, x) = "
            f"({times.size}, {len(bands)}, {grid.shape[0]}, {grid.shape[1]})"
        )
    if len(set(bands)) != len(bands):
        raise InputError(f"band names {bands} repeat; wanted unique names; rename them with --band-names")
    if quality is None:
        quality = np.where(np.isfinite(image).all(axis=1), 0, int(Quality.NODATA)).astype(np.uint8)
    names = scenes or tuple(str(np.datetime_as_string(t, unit="D")) for t in times)
    along = {
        "scene": ("time", np.array(names, dtype=object)),
        "sensor": ("time", np.array(sensors or ("generic",) * times.size, dtype=object)),
        "gsd_m": ("time", np.full(times.size, grid.gsd_m)),
    }
    coords = {"time": times, "band": np.array(bands, dtype=object), **along, **grid.coords()}
    return xr.Dataset(
        {
            "image": (("time", "band", "y", "x"), image),
            "quality": (("time", "y", "x"), quality),
        },
        coords=coords,
    )
