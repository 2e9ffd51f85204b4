"""What was found against the truth, from files."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from changedet import metrics
from changedet.errors import MissingInputError, UnreadableError
from changedet.grid import Grid
from changedet.io.raster import read_header, read_window
from changedet.io.safety import local_path
from changedet.io.vector import read_table, read_vector
from changedet.scenes import Layer

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd

TABLES = ("structures", "objects")
"""Layers that hold objects: of ``run``, of ``diff``."""

MAPS = {"structures": ("labels.tif", "statistic.tif"), "objects": ("change.tif", "magnitude.tif")}
"""Rasters of a folder: where something was found, and how strong the evidence is."""


@dataclass(frozen=True)
class Source:
    """Objects, and what came with them.

    Parameters
    ----------
    frame : polygons
    observations : structure × date, None where there is none
    pixel_m : pixel size of the images, None where unknown
    found, evidence : rasters of a folder, None where it is no folder or has none
    """

    frame: gpd.GeoDataFrame
    observations: pd.DataFrame | None = None
    pixel_m: float | None = None
    found: Path | None = None
    evidence: Path | None = None


def evaluate_files(
    found: str | Path, truth: str | Path, options: metrics.Options | None = None
) -> dict[str, Any]:
    """Hold what was found against the truth.

    Parameters
    ----------
    found, truth : GeoJSON, GeoPackage or another vector file, or the folder of a run or a diff
    options : how to count; its ``pixel_m`` is that of the folder ``found`` where it is not given

    Returns
    -------
    dict, see :func:`changedet.metrics.evaluate`. Scores by pixel use the rasters of ``found`` where it is a
    folder that has them

    Raises
    ------
    MissingInputError, UnreadableError, CRSError, InputError, SettingError
        A file is not there or cannot be read, or the two do not fit together.
    """
    how = options or metrics.Options()
    ours, true = load(found), load(truth)
    if how.pixel_m is None and ours.pixel_m is not None:
        how = replace(how, pixel_m=ours.pixel_m)
    return metrics.evaluate(
        ours.frame, true.frame, observations=ours.observations, maps=_maps(ours, true.frame), options=how
    )


def load(path: str | Path) -> Source:
    """Read objects from a file or from the folder of a run or diff.

    Raises
    ------
    MissingInputError, UnreadableError
        It is not there, cannot be read, or holds no objects.
    """
    place = local_path(path)
    if not place.is_dir():
        return Source(*_tables(place))
    for name in TABLES:
        file = place / f"{name}.gpkg"
        if file.is_file():
            rasters = [r if r.is_file() else None for r in (place / n for n in MAPS[name])]
            return Source(*_tables(file), _pixel_m(place / "run.json"), *rasters)
    wanted = " or ".join(f"{n}.gpkg" for n in TABLES)
    raise MissingInputError(f"{place} holds no {wanted}; wanted the folder of a run or diff, or a file")


def _tables(path: Path) -> tuple[gpd.GeoDataFrame, pd.DataFrame | None]:
    """Read objects, and the observations beside them."""
    import pyogrio

    names: list[str] = []
    if path.suffix.lower() == ".gpkg":
        try:
            names = [str(n) for n in pyogrio.list_layers(path)[:, 0]]
        except pyogrio.errors.DataSourceError as error:
            raise UnreadableError(f"{path} is no GeoPackage: {error}; check the file") from error
    layer = next((n for n in TABLES if n in names), None)
    observations = None
    if "observations" in names:
        observations = read_table(path, layer="observations")
    return read_vector(path, layer=layer), observations


def _pixel_m(record: Path) -> float | None:
    """Return the pixel size that a run's record gives."""
    try:
        return float(json.loads(record.read_text(encoding="utf-8"))["grid"]["gsd_m"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _maps(ours: Source, truth: gpd.GeoDataFrame) -> metrics.PixelMaps | None:
    """Return the rasters of a run, and the truth drawn on their grid."""
    if ours.found is None:
        return None
    grid = read_header(ours.found).grid
    marks = _band(ours.found)
    evidence = None if ours.evidence is None else _band(ours.evidence).astype(np.float64)
    valid = marks != 255 if ours.found.name == "change.tif" else None
    if evidence is not None:
        valid = np.isfinite(evidence) if valid is None else valid & np.isfinite(evidence)
        evidence = np.abs(evidence)  # a signed difference is as strong either way
    drawn = grid.rasterize(_on(truth, grid).geometry)
    return metrics.PixelMaps((marks > 0) & (marks != 255 if valid is None else valid), drawn, valid, evidence)


def _band(path: Path) -> Any:
    """Read the first band of a raster."""
    return read_window(Layer(str(path), (1,), ("1",)))[0]


def _on(frame: gpd.GeoDataFrame, grid: Grid) -> gpd.GeoDataFrame:
    """Return objects in the CRS of a grid."""
    return frame if grid.crs is None or frame.crs is None else frame.to_crs(grid.crs)
