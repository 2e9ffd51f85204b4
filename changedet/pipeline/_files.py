"""The files of a run: written from findings, and read back to draw the report again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from changedet.errors import UnreadableError
from changedet.findings import Findings
from changedet.grid import Grid, attach
from changedet.io.files import atomic, write_text
from changedet.io.raster import read_header, read_window, write_cog
from changedet.io.vector import read_table, read_vector, write_geojson, write_gpkg
from changedet.scenes import Layer
from changedet.steps import report

if TYPE_CHECKING:
    from changedet.sites import Site

FILES = (
    "structures.geojson",
    "structures.gpkg",
    "structures.kmz",
    "statistic.tif",
    "first_seen.tif",
    "labels.tif",
    "composite_before.tif",
    "composite_after.tif",
    "report.html",
    "plan.toml",
)
"""What ``run`` may write, ``run.json`` aside."""


def write(
    stage: Path, found: Findings, stack: xr.Dataset | None, outputs: Any, compress: Any, site: Site | None
) -> list[str]:
    """Write the files wanted and return their names; lon/lat formats need a CRS."""
    georeferenced = Grid.of(found.statistic).georeferenced
    wanted = [n for n in FILES if (outputs is None or n in outputs) and n != "plan.toml"]
    if not georeferenced:
        wanted = [n for n in wanted if n not in ("structures.geojson", "structures.kmz")]
    for name in wanted:
        _write_one(stage / name, found, stack, compress, site)
    return wanted


def _write_one(
    path: Path, found: Findings, stack: xr.Dataset | None, compress: Any, site: Site | None
) -> None:
    """Write one file."""
    if path.suffix == ".tif":
        image = getattr(found, path.stem)
        write_cog(path, image, compress=compress, nodata=np.nan if image.dtype.kind == "f" else 0)
    elif path.name == "structures.geojson":
        write_geojson(path, found.structures)
    elif path.name == "structures.gpkg":
        layers = {name: getattr(found, name) for name in (*_LAYERS, *_TABLES)}
        write_gpkg(path, layers, report.layer_styles())
    elif path.name == "structures.kmz":
        with atomic(path) as part:
            part.write_bytes(report.report_kmz(found, stack))
    else:
        write_text(path, report.report_html(found, stack, site=site))


def redraw(out: str | Path) -> Path:
    """Draw the report of an earlier run again, from its files; scenes are not read, so there are no chips.

    Parameters
    ----------
    out : folder of the run

    Raises
    ------
    UnreadableError
        The folder holds no finished run.
    """
    folder = Path(out)
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnreadableError(
            f"{folder} holds no finished run ({error}); wanted the folder of `changedet run`"
        ) from error
    tables = folder / "structures.gpkg"
    layers: dict[str, Any] = {name: read_vector(tables, layer=name) for name in _LAYERS}
    layers |= {name: read_table(tables, layer=name) for name in _TABLES}
    rasters: dict[str, Any] = {name: _raster(folder / f"{name}.tif") for name in _RASTERS}
    page = report.report_html(Findings(**layers, **rasters, record=record), None)
    return write_text(folder / "report.html", page)


_LAYERS = ("structures", "alarms", "axes")
_TABLES = ("observations", "progress")
_RASTERS = ("statistic", "first_seen", "labels", "composite_before", "composite_after")


def _raster(path: Path) -> xr.DataArray:
    """Read a raster of a run as it was written."""
    header = read_header(path)
    count = header.count
    layer = Layer(str(path), tuple(range(1, count + 1)), tuple(f"band{i}" for i in range(1, count + 1)))
    values = read_window(layer)
    if path.stem.startswith("composite"):
        names = [d or f"band{i}" for i, d in enumerate(header.names, start=1)]
        return attach(
            values, header.grid, dims=("band", "y", "x"), coords={"band": np.array(names, dtype=object)}
        )
    return attach(values[0], header.grid, name=path.stem)
