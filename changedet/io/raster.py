"""Single rasters: headers, windows of pixels, and Cloud-optimised GeoTIFFs.

Everything is opened through :func:`opened`: a short list of drivers, no folder listing, no network, and no
virtual raster that points elsewhere.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from changedet.errors import CRSError, GridError, InputError, UnreadableError, VanishedInputError, WriteError
from changedet.grid import Grid, Window
from changedet.io.files import atomic
from changedet.io.safety import local_path

if TYPE_CHECKING:
    import os

    import xarray as xr

__all__ = ["DRIVERS", "Header", "atomic", "gdal_env", "opened", "read_header", "read_window", "write_cog"]

DRIVERS = ("GTiff", "VRT", "ENVI", "JP2OpenJPEG", "PNG", "JPEG", "BMP")
"""Formats that are read, whatever else the GDAL build knows."""

Compress = Literal["none", "deflate", "zstd"]
_QUIET = threading.Lock()


def gdal_env() -> Any:
    """Return a context with the GDAL settings that every read and write of the package uses."""
    import rasterio

    return rasterio.Env(
        GDAL_DISABLE_READDIR_ON_OPEN="TRUE",
        GDAL_VRT_ENABLE_PYTHON="NO",
        GDAL_HTTP_TIMEOUT="1",
        CPL_VSIL_CURL_ALLOWED_EXTENSIONS="{noext}",
        GDAL_TIFF_INTERNAL_MASK="YES",
        GDAL_CACHEMAX=64,
    )


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Open a raster for reading; what goes wrong while it is open becomes an error of ours.

    Raises
    ------
    MissingInputError, UnsafePathError
        The path is not there, or may not be opened.
    UnreadableError
        The file is not a raster of a known format, or its pixels cannot be decoded.
    VanishedInputError
        The file went away while it was read.
    """
    import rasterio
    from rasterio.errors import RasterioError

    found = local_path(path)
    if found.is_dir():
        raise UnreadableError(f"{found} is a folder; wanted a raster file; give the files in it")
    try:
        with gdal_env(), _open_quietly(str(found), rasterio) as dataset:
            yield dataset
    except (RasterioError, _cpl_error()) as error:
        if not found.exists():
            raise VanishedInputError(
                f"{found} went away while it was read; put it back, run again"
            ) from error
        raise UnreadableError(
            f"{found} cannot be read: {_first_line(error)}; wanted a complete raster ({', '.join(DRIVERS)}); "
            "copy or download it again"
        ) from error


def _open_quietly(path: str, rasterio: Any) -> Any:
    """Open a dataset without the warning that a plain picture has no georeference.

    The lock keeps threads from restoring one another's warning filters.
    """
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        return rasterio.DatasetReader(path, driver=list(DRIVERS))


def _cpl_error() -> type[Exception]:
    """Return the root of GDAL's own errors."""
    from rasterio._err import CPLE_BaseError

    kind: type[Exception] = CPLE_BaseError
    return kind


def _first_line(error: BaseException) -> str:
    """Return the first line of the deepest cause, which is where GDAL says what it met."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


@dataclass(frozen=True)
class Header:
    """What a raster file says of itself, pixels aside.

    Parameters
    ----------
    path, driver : file and format
    grid : CRS, transform, shape
    dtypes, nodata, names, scales, offsets, roles, wavelengths_um : along the bands
    tags : tags of the file (upper-case keys)
    masked : has a mask or an alpha band of its own
    block : (rows, columns) of its tiles or strips
    """

    path: str
    driver: str
    grid: Grid
    dtypes: tuple[str, ...]
    nodata: tuple[float | None, ...]
    names: tuple[str, ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    roles: tuple[str, ...]
    wavelengths_um: tuple[float | None, ...]
    tags: dict[str, str]
    masked: bool
    block: tuple[int, int]

    @property
    def count(self) -> int:
        """Number of bands."""
        return len(self.dtypes)


def read_header(path: str | os.PathLike[str]) -> Header:
    """Read the header of a raster and refuse what cannot be an image.

    Raises
    ------
    UnreadableError
        Not a raster, truncated, or without bands.
    InputError
        Complex numbers or a color table.
    GridError, CRSError
        Ground control points only, or a CRS without a transform.
    """
    with opened(path) as dataset:
        _refuse_odd(dataset)
        _refuse_truncated(dataset)
        tags = {**dataset.tags(ns="IMAGERY"), **dataset.tags()}
        band_tags = [dataset.tags(i) for i in dataset.indexes]
        flags = [f.name for per_band in dataset.mask_flag_enums for f in per_band]
        return Header(
            path=str(path),
            driver=dataset.driver,
            grid=_grid_of(dataset),
            dtypes=tuple(dataset.dtypes),
            nodata=tuple(dataset.nodatavals),
            names=tuple(d or "" for d in dataset.descriptions),
            scales=tuple(map(float, dataset.scales)),
            offsets=tuple(map(float, dataset.offsets)),
            roles=tuple(c.name for c in dataset.colorinterp),
            wavelengths_um=tuple(_wavelength(t) for t in band_tags),
            tags={k.upper(): v for k, v in tags.items()},
            masked="per_dataset" in flags or "alpha" in flags,
            block=(int(dataset.block_shapes[0][0]), int(dataset.block_shapes[0][1])),
        )


def _grid_of(dataset: Any) -> Grid:
    """Return the grid of a dataset; half a reference is refused."""
    from affine import Affine

    plain = dataset.transform == Affine.identity()
    if plain and (dataset.gcps[0] or dataset.rpcs):
        raise GridError(
            f"{dataset.name} has ground control points or RPCs but no map grid; wanted a geocoded raster; "
            "geocode it first (gdalwarp, SNAP, or an RTC product)"
        )
    if plain and dataset.crs:
        raise CRSError(f"{dataset.name} names a CRS but no transform; wanted both; georeference it again")
    code = dataset.crs.to_epsg() if dataset.crs else None
    return Grid.make(f"EPSG:{code}" if code else dataset.crs or None, dataset.transform, dataset.shape)


def _refuse_odd(dataset: Any) -> None:
    """Refuse rasters whose numbers are not measurements."""
    if dataset.count == 0:
        raise UnreadableError(f"{dataset.name} has no bands of its own; give the subdatasets as files")
    if any("complex" in d for d in dataset.dtypes):
        raise InputError(
            f"{dataset.name} holds complex numbers; wanted intensities (power); detect the amplitude first"
        )
    if any(c.name == "palette" for c in dataset.colorinterp) and not _gray_ramp(dataset):
        raise InputError(
            f"{dataset.name} holds a color table, so its numbers are codes; wanted measured values; "
            "give the original raster"
        )


def _gray_ramp(dataset: Any) -> bool:
    """Return True where the color table only says that n is gray level n (as 8-bit BMP pictures do)."""
    table = dataset.colormap(1)
    return all(color[:3] == (value,) * 3 for value, color in table.items())


def _refuse_truncated(dataset: Any) -> None:
    """Refuse a GeoTIFF whose last tile lies beyond the end of the file (without decoding anything)."""
    if dataset.driver != "GTiff":
        return
    size = Path(dataset.name).stat().st_size
    rows, columns = dataset.block_shapes[0]
    last = f"{(dataset.width - 1) // columns}_{(dataset.height - 1) // rows}"
    for index in {1, dataset.count}:
        start = dataset.get_tag_item(f"BLOCK_OFFSET_{last}", "TIFF", bidx=index)
        length = dataset.get_tag_item(f"BLOCK_SIZE_{last}", "TIFF", bidx=index)
        if start and length and int(start) + int(length) > size:
            raise UnreadableError(
                f"{dataset.name} is cut short: {size} bytes, but its pixels reach byte "
                f"{int(start) + int(length)}; wanted the whole file; copy or download it again"
            )


def _wavelength(tags: dict[str, str]) -> float | None:
    """Return a band's center wavelength in micrometres where its tags give one."""
    lower = {k.lower(): v for k, v in tags.items()}
    try:
        value = float(lower["wavelength"])
    except (KeyError, ValueError):
        return None
    unit = lower.get("wavelength_units", "").lower()
    return value / 1000 if unit.startswith("nano") or value > 100 else value


def read_window(
    layer: Any,
    window: Window | None = None,
    *,
    indexes: tuple[int, ...] | None = None,
    out_shape: tuple[int, int] | None = None,
) -> npt.NDArray[Any]:
    """Read stored values of a window.

    Parameters
    ----------
    layer : Layer or Mask (``path`` and ``indexes``)
    window : (rows, columns) slices; None reads everything
    indexes : 1-based band indexes, those of the layer if None; index 0 is the file's own mask
    out_shape : (rows, columns) of a decimated read (nearest pixel)

    Returns
    -------
    (band, y, x) array in the dtype as stored

    Raises
    ------
    UnreadableError, VanishedInputError
        The pixels cannot be read.
    """
    from rasterio.windows import Window as RasterioWindow

    wanted = layer.indexes if indexes is None else indexes
    with opened(layer.path) as dataset:
        part = None if window is None else RasterioWindow.from_slices(*window)
        if tuple(wanted) == (0,):
            return np.asarray(dataset.dataset_mask(window=part, out_shape=out_shape))[None]
        shape = None if out_shape is None else (len(wanted), *out_shape)
        return np.asarray(dataset.read(list(wanted), window=part, out_shape=shape))


def write_cog(
    path: str | os.PathLike[str],
    image: xr.DataArray,
    *,
    compress: Compress = "deflate",
    nodata: float | None = None,
    category_names: dict[int, str] | None = None,
    tags: dict[str, str] | None = None,
) -> Path:
    """Write a Cloud-optimised GeoTIFF, atomically.

    Parameters
    ----------
    path : file to write
    image : (y, x) or (band, y, x), float32, uint8, uint16 or uint32; its CRS may be missing. Band names come
        from the ``band`` coordinate, else from the array's name. A lazy image is computed block by block
    compress : ``none``, ``deflate`` or ``zstd``
    nodata : value that means no data (NaN for floats if None)
    category_names : value → word, kept as tags ``CATEGORY_<value>``; overviews then take the nearest pixel
    tags : further tags of the file

    Raises
    ------
    WriteError
        Writing failed; nothing is left behind under the final name.
    InputError
        The dtype or the dimensions cannot be written.
    """
    bands = _as_bands(image)
    floats = np.issubdtype(bands.dtype, np.floating)
    fill = np.nan if nodata is None and floats else nodata
    options = _cog_options(compress, smooth=bool(floats) and not category_names)
    words = {f"CATEGORY_{k}": v for k, v in (category_names or {}).items()}
    with atomic(path) as part:
        _write(part, bands, fill, options, {**words, **(tags or {})})
    return Path(path)


def _as_bands(image: xr.DataArray) -> xr.DataArray:
    """Return an image as (band, y, x) in a dtype that the format holds."""
    if image.ndim not in (2, 3) or image.dims[-2:] != ("y", "x"):
        raise InputError(f"image has dimensions {image.dims}; wanted (y, x) or (band, y, x)")
    if image.dtype == np.float64:
        image = image.astype(np.float32)
    if image.dtype == bool:
        image = image.astype(np.uint8)
    if image.dtype.name not in ("float32", "uint8", "uint16", "uint32", "int16", "int32"):
        raise InputError(f"image is {image.dtype}; wanted float32, uint8, uint16 or uint32; cast it first")
    return image if image.ndim == 3 else image.expand_dims("band")


def _cog_options(compress: str, *, smooth: bool) -> dict[str, Any]:
    """Return creation options of the COG driver."""
    if compress not in ("none", "deflate", "zstd"):
        raise InputError(f"unknown compression {compress!r}; wanted none, deflate or zstd")
    options = {"compress": compress.upper(), "overview_resampling": "average" if smooth else "nearest"}
    if compress != "none":
        options["predictor"] = "YES"
    return {**options, "bigtiff": "IF_SAFER"}


def _band_names(bands: xr.DataArray, count: int) -> list[str]:
    """Return descriptions of the bands."""
    if "band" in bands.coords:
        return [str(b) for b in np.atleast_1d(bands["band"].values)]
    return [str(bands.name)] * count if bands.name is not None else [""] * count


def _write(
    part: Path, bands: xr.DataArray, fill: float | None, options: dict[str, Any], tags: dict[str, str]
) -> None:
    """Write one file; GDAL's failures become a WriteError."""
    import rasterio
    from rasterio.errors import RasterioError

    grid = Grid.of(bands)
    profile = {
        "driver": "COG",
        "width": grid.shape[1],
        "height": grid.shape[0],
        "count": bands.shape[0],
        "dtype": bands.dtype.name,
        "crs": grid.crs,
        "nodata": fill,
        **options,
    }
    if grid.georeferenced or not grid.transform.is_identity:
        profile["transform"] = grid.transform
    try:
        with gdal_env(), warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            with rasterio.open(part, "w", **profile) as dataset:
                _fill(dataset, bands)
                for i, name in enumerate(_band_names(bands, bands.shape[0]), 1):
                    dataset.set_band_description(i, name)
                dataset.update_tags(**tags)
    except (RasterioError, _cpl_error()) as error:
        raise WriteError(
            f"a raster could not be written in {part.parent}: {_first_line(error)}; free space or choose "
            "another output folder"
        ) from error
    if not part.exists():
        raise WriteError(f"a raster could not be written in {part.parent}; choose another output folder")


def _fill(dataset: Any, bands: xr.DataArray, *, rows_px: int = 1024) -> None:
    """Write the pixels, in strips of rows where the image is lazy."""
    from rasterio.windows import Window as RasterioWindow

    if bands.chunks is None:
        dataset.write(bands.values)
        return
    height, width = bands.shape[-2:]
    for row in range(0, height, rows_px):
        stop = min(row + rows_px, height)
        strip = bands.isel(y=slice(row, stop)).compute().values
        dataset.write(strip, window=RasterioWindow(0, row, width, stop - row))
