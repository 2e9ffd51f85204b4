"""Vectors in and out: areas of interest, GeoJSON for the web, GeoPackage for QGIS."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from changedet.errors import AOIError, CRSError, InputError, UnreadableError
from changedet.io._aoi import check_aoi
from changedet.io.files import atomic, strict, write_text
from changedet.io.safety import local_path

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd
    from shapely.geometry.base import BaseGeometry

__all__ = ["read_aoi", "read_vector", "write_geojson", "write_gpkg"]

DEGREE_DIGITS = 7
"""Decimals of longitude and latitude in GeoJSON: about a centimetre."""

_FIXED_TIME = "1970-01-01T00:00:00.000Z"
"""Time stamp inside GeoPackages, so that the same content is the same file."""


def read_vector(path: str | os.PathLike[str], *, layer: str | None = None) -> gpd.GeoDataFrame:
    """Read a vector file (GeoJSON, GeoPackage, Shapefile, KML …).

    Parameters
    ----------
    path : file
    layer : name of the layer, the first one if None

    Raises
    ------
    MissingInputError, UnsafePathError
        The file is not there, or is no local file.
    UnreadableError
        It is no vector file, or has no such layer or geometry.
    """
    import geopandas as gpd
    import pyogrio

    found = local_path(path)
    try:
        frame = pyogrio.read_dataframe(found, layer=layer)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, ValueError, OSError) as error:
        raise UnreadableError(
            f"{found} cannot be read as vectors: {str(error).splitlines()[0]}; wanted GeoJSON, GeoPackage, "
            "Shapefile or KML; check the file"
        ) from error
    if not isinstance(frame, gpd.GeoDataFrame):
        raise UnreadableError(f"{found} holds a table without geometries; wanted features; choose a layer")
    return frame


def read_table(path: str | os.PathLike[str], *, layer: str) -> pd.DataFrame:
    """Read a table without geometry from a GeoPackage.

    Parameters
    ----------
    path : GeoPackage
    layer : name of the table

    Raises
    ------
    UnreadableError
        There is no such file or table.
    """
    import pyogrio

    try:
        table: pd.DataFrame = pyogrio.read_dataframe(path, layer=layer, read_geometry=False)
        return table
    except (OSError, ValueError, RuntimeError) as error:
        raise UnreadableError(
            f"{path} has no readable table {layer!r} ({error}); wanted one of a run"
        ) from error


def read_aoi(path: str | os.PathLike[str]) -> BaseGeometry:
    """Read an area of interest as one lon/lat geometry.

    Raises
    ------
    AOIError
        It is empty or invalid, has no CRS, or crosses the antimeridian.
    MissingInputError, UnreadableError
        As :func:`read_vector`.
    """
    frame = read_vector(path)
    geometries = frame.geometry[~(frame.geometry.isna() | frame.geometry.is_empty)]
    if geometries.empty:
        raise AOIError(f"{os.fspath(path)} holds no area; wanted at least one polygon")
    if frame.crs is None:
        raise AOIError(f"{os.fspath(path)} has no CRS; wanted lon/lat or a named CRS; set it")
    area = geometries.to_crs("EPSG:4326")
    for geometry in area:
        check_aoi(geometry)
    merged: BaseGeometry = area.union_all()
    check_aoi(merged)
    return merged


# --------------------------------------------------------------------------------------------- GeoJSON


def write_geojson(path: str | os.PathLike[str], frame: gpd.GeoDataFrame) -> Path:
    """Write RFC 7946 GeoJSON: lon/lat to 7 decimals, counter-clockwise shells, no ``crs`` member.

    Polygons across the antimeridian are cut there. A column ``id`` becomes the Feature's id too; unknown
    values are null; dates are ISO 8601 text.

    Raises
    ------
    CRSError
        The features have no CRS, so they have no longitude and latitude.
    WriteError
        Writing failed; nothing is left behind.
    """
    if frame.crs is None and len(frame):
        raise CRSError("features without a CRS have no longitude and latitude; write a GeoPackage instead")
    degrees = frame.to_crs("EPSG:4326") if frame.crs is not None else frame
    columns = [c for c in degrees.columns if c != degrees.geometry.name]
    features = [
        json.dumps(_feature(n, row, geometry), ensure_ascii=False, allow_nan=False)
        for n, (row, geometry) in enumerate(
            zip(_records(degrees[columns]), degrees.geometry, strict=True), start=1
        )
    ]
    body = ",\n".join(features)
    return write_text(path, f'{{"type": "FeatureCollection", "features": [\n{body}\n]}}\n')


def _records(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield rows as plain values."""
    names = [str(c) for c in table.columns]
    for row in table.itertuples(index=False, name=None):
        yield {k: _plain(v) for k, v in zip(names, row, strict=True)}


def _plain(value: Any) -> Any:
    """Return a value of a table as JSON can hold it."""
    import pandas as pd

    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, pd.Timestamp | np.datetime64):
        return None if pd.isna(value) else _iso(pd.Timestamp(value))
    if value is None or (not isinstance(value, list | tuple | dict | np.ndarray) and pd.isna(value)):
        return None
    return strict(value.item() if isinstance(value, np.generic) else value)


def _iso(moment: pd.Timestamp) -> str:
    """Return ISO 8601 UTC text; a bare day where there is no time of day."""
    if moment.tzinfo is not None:
        moment = moment.tz_convert("UTC").tz_localize(None)
    if moment == moment.normalize():
        return moment.strftime("%Y-%m-%d")
    return moment.isoformat(timespec="seconds") + "Z"


def _feature(number: int, properties: dict[str, Any], geometry: BaseGeometry | None) -> dict[str, Any]:
    """Return one Feature."""
    name = properties.get("id")
    return {
        "type": "Feature",
        "id": number if name is None else name,
        "geometry": _geometry(geometry),
        "properties": properties,
    }


def _geometry(geometry: BaseGeometry | None) -> dict[str, Any] | None:
    """Return a lon/lat geometry as RFC 7946 has it."""
    import shapely
    from shapely.geometry import mapping

    if geometry is None or geometry.is_empty:
        return None
    whole = shapely.force_2d(_cut_antimeridian(geometry))
    if not whole.is_valid:
        whole = shapely.make_valid(whole)
    rounded = shapely.set_precision(whole, 10.0**-DEGREE_DIGITS)
    if rounded.is_empty:
        rounded = shapely.set_precision(whole, 10.0**-DEGREE_DIGITS, mode="pointwise")
    plain: dict[str, Any] = dict(mapping(_right_handed(rounded)))
    if "coordinates" in plain:
        plain["coordinates"] = _rounded(plain["coordinates"])
    return plain


def _right_handed(geometry: Any) -> Any:
    """Turn shells counter-clockwise and holes clockwise."""
    import shapely
    from shapely.geometry.polygon import orient

    if geometry.geom_type == "Polygon":
        return orient(geometry, 1.0)
    if geometry.geom_type == "MultiPolygon":
        return shapely.MultiPolygon([orient(p, 1.0) for p in geometry.geoms])
    return geometry


def _rounded(coordinates: Any) -> Any:
    """Round nested coordinates (the grid of ``set_precision`` is binary)."""
    if isinstance(coordinates, float | int):
        return round(float(coordinates), DEGREE_DIGITS) + 0.0
    return [_rounded(c) for c in coordinates]


def _cut_antimeridian(geometry: BaseGeometry) -> BaseGeometry:
    """Cut a geometry whose longitudes jump from 180 to -180 degrees into its two parts."""
    import shapely

    left, low, right, high = geometry.bounds
    if right - left <= 180 or "Polygon" not in geometry.geom_type:
        return geometry
    east = shapely.transform(geometry, lambda p: np.column_stack([p[:, 0] % 360, p[:, 1]]))
    one = shapely.intersection(east, shapely.box(0, low, 180, high))
    two = shapely.intersection(east, shapely.box(180, low, 360, high))
    back = shapely.transform(two, lambda p: np.column_stack([p[:, 0] - 360, p[:, 1]]))
    return shapely.MultiPolygon([*_polygons(one), *_polygons(back)])


def _polygons(geometry: BaseGeometry) -> list[Any]:
    """Return the polygons of a geometry."""
    parts = getattr(geometry, "geoms", [geometry])
    return [p for p in parts if p.geom_type == "Polygon" and not p.is_empty]


# --------------------------------------------------------------------------------------------- GeoPackage


def write_gpkg(
    path: str | os.PathLike[str],
    layers: Mapping[str, gpd.GeoDataFrame | pd.DataFrame],
    styles: Mapping[str, str] | None = None,
) -> Path:
    """Write a GeoPackage in the native CRS, atomically; the same content gives the same bytes.

    Parameters
    ----------
    path : file to write
    layers : name → features (their CRS may be missing), or a table without geometries
    styles : name of a layer → QML; kept in ``layer_styles`` as defaults, so that QGIS opens them colored

    Raises
    ------
    InputError
        No layers, or a style for a layer that is not there.
    WriteError
        Writing failed; nothing is left behind.
    """
    styles = dict(styles or {})
    unknown = set(styles) - set(layers)
    if unknown or not layers:
        raise InputError(
            f"styles for {sorted(unknown)}, layers {sorted(layers)}; wanted a layer for every style"
        )
    with atomic(path) as part, _fixed_time(), warnings.catch_warnings():
        # a missing CRS is allowed here, and said in the documentation of the file
        warnings.filterwarnings("ignore", message=".*'crs' was not provided.*")
        for name, frame in layers.items():
            _write_layer(part, name, frame)
        if styles:
            _write_layer(part, "layer_styles", _style_table(layers, styles), {"FID": "id"})
        _settle(part)
    return Path(path)


@contextmanager
def _fixed_time() -> Iterator[None]:
    """Keep the time of writing out of the file."""
    import pyogrio

    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": _FIXED_TIME})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": before})


def _write_layer(
    path: Path,
    name: str,
    frame: gpd.GeoDataFrame | pd.DataFrame,
    layer_options: Mapping[str, str] | None = None,
) -> None:
    """Add one layer."""
    import geopandas as gpd
    import pyogrio

    options: dict[str, Any] = {"layer": name, "driver": "GPKG", "append": path.exists()}
    creation = dict(layer_options or {})
    if isinstance(frame, gpd.GeoDataFrame):
        kinds = set(frame.geometry.dropna().geom_type)
        options["geometry_type"] = _common_type(kinds)
        options["promote_to_multi"] = len(kinds) > 1 and options["geometry_type"].startswith("Multi")
        if frame.crs is None:
            creation["SRID"] = "-1"
    if creation:
        options["layer_options"] = creation
    pyogrio.write_dataframe(_writable(frame), path, **options)


def _common_type(kinds: set[str]) -> str:
    """Return the geometry type of a layer."""
    if len(kinds) == 1:
        return kinds.pop()
    for single in ("Polygon", "LineString", "Point"):
        if kinds and kinds <= {single, f"Multi{single}"}:
            return f"Multi{single}"
    return "Unknown"


def _writable(frame: Any) -> Any:
    """Return a frame whose columns GDAL can write: null for what is not finite, text for what is nested."""
    out = frame.reset_index(drop=True)
    for column in out.columns:
        if out[column].dtype.kind == "f":
            out[column] = out[column].where(np.isfinite(out[column]))
        elif out[column].dtype == object:
            nested = out[column].map(lambda v: isinstance(v, list | dict | tuple))
            if nested.any():
                out[column] = out[column].map(lambda v: json.dumps(strict(v)) if v is not None else None)
    return out


def _style_table(layers: Mapping[str, Any], styles: Mapping[str, str]) -> pd.DataFrame:
    """Return the table in which QGIS looks for default styles."""
    import geopandas as gpd
    import pandas as pd

    rows = [
        {
            "f_table_catalog": "",
            "f_table_schema": "",
            "f_table_name": name,
            "f_geometry_column": "geom" if isinstance(layers[name], gpd.GeoDataFrame) else "",
            "styleName": name,
            "styleQML": qml,
            "styleSLD": "",
            "useAsDefault": True,
            "description": f"default style of {name}",
            "owner": "",
            "ui": None,
            "update_time": pd.Timestamp(_FIXED_TIME),
        }
        for name, qml in styles.items()
    ]
    return pd.DataFrame(rows)


def _settle(path: Path) -> None:
    """Rewrite the file in one pass, so that its pages do not depend on how it grew."""
    import sqlite3

    with sqlite3.connect(path) as database:
        database.execute("VACUUM")
    database.close()
