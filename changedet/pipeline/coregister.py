"""Scenes laid on one another: shifted copies, and a table that says how good each shift is."""

from __future__ import annotations

import csv
import io as text_io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from changedet.errors import TooFewScenesError
from changedet.io.files import write_text
from changedet.io.products import find_scenes
from changedet.io.raster import write_cog
from changedet.io.stack import open_stack
from changedet.pipeline._work import Progress, quiet, staged
from changedet.pipeline.plan import Plan
from changedet.steps.align import align

if TYPE_CHECKING:
    import xarray as xr
    from shapely.geometry.base import BaseGeometry

TABLE = "shifts.csv"
COLUMNS = ("id", "dy_px", "dx_px", "residual_px", "tie_points", "accepted", "why")


@dataclass(frozen=True)
class Shifts:
    """What ``align`` found and wrote.

    Parameters
    ----------
    rows : one record a scene, keys :data:`COLUMNS`
    files : what was written
    """

    rows: list[dict[str, Any]]
    files: tuple[Path, ...]


def coregister(
    scenes: Sequence[str | Path],
    out: str | Path,
    plan: Plan | None = None,
    *,
    aoi: BaseGeometry | None = None,
    overwrite: bool = False,
    progress: Progress = quiet,
) -> Shifts:
    """Lay scenes on one reference and write them.

    Parameters
    ----------
    scenes : files, folders, globs
    out : folder for ``<id>_aligned.tif`` (reflectance or power, NaN = not usable) and ``shifts.csv``
    plan : settings; sections ``read``, ``align``, ``write``
    aoi : lon/lat area to crop to
    overwrite : replace earlier results in ``out``
    progress : called as the work goes on

    Raises
    ------
    InputError and its kin
        The scenes do not fit together, or the folder cannot take the results.
    """
    plan = plan or Plan()
    read = plan.section("read")
    found = find_scenes(
        list(scenes),
        date=read["date"],
        band_names=read["band_names"],
        since=read["since"],
        until=read["until"],
    )
    if len(found) < 2:
        raise TooFewScenesError(
            f"{len(found)} scene{'s' * (len(found) != 1)} given; wanted two or more to lay on one another"
        )
    names = {s.id: f"{s.id.replace('/', '_')}_aligned.tif" for s in found}
    with staged(Path(out), marker=TABLE, names=tuple(names.values()), overwrite=overwrite) as stage:
        progress("read", 0, 1)
        stack = open_stack(found, aoi=aoi, bands=read["bands"], warp=read["warp"])
        progress("read", 1, 1)
        progress("align", 0, 1)
        moved = align(stack, **plan.keywords(align))
        progress("align", 1, 1)
        for done in range(moved.sizes["time"]):
            one = moved.isel(time=done)
            _write(stage / names[str(one.scene.item())], one, plan.section("write")["compress"])
            progress("write", done + 1, moved.sizes["time"])
        rows = _rows(moved)
        write_text(stage / TABLE, _csv(rows))
    return Shifts(rows, tuple(Path(out) / name for name in (*names.values(), TABLE)))


def _write(path: Path, scene: xr.Dataset, compress: Any) -> None:
    """Write one scene with its date, so that it can be read again."""
    tags = {
        "ACQUISITIONDATETIME": f"{np.datetime_as_string(scene.time.values, unit='s')}Z",
        "SHIFT_APPLIED_DY_DX_PX": f"{_applied(scene, 'dy')} {_applied(scene, 'dx')}",
    }
    write_cog(path, scene["image"].transpose("band", "y", "x"), compress=compress, tags=tags)


def _applied(scene: xr.Dataset, axis: str) -> str:
    """Return the shift of one axis that was applied."""
    return f"{float(scene[f'shift_{axis}_px']) if bool(scene.shift_applied) else 0.0:.4f}"


def _rows(moved: xr.Dataset) -> list[dict[str, Any]]:
    """Return one record a scene."""
    out = []
    for t in range(moved.sizes["time"]):
        one = moved.isel(time=t)
        residual = float(one.shift_residual_px)
        values = (
            str(one.scene.item()),
            round(float(one.shift_dy_px), 4),
            round(float(one.shift_dx_px), 4),
            round(residual, 4) if np.isfinite(residual) else None,
            int(one.shift_tie_points),
            bool(one.shift_accepted),
            str(one.shift_why.item()),
        )
        out.append(dict(zip(COLUMNS, values, strict=True)))
    return out


def _csv(rows: list[dict[str, Any]]) -> str:
    """Return the table as CSV text; unknown values are empty, truth values lower case."""
    file = text_io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: str(v).lower() if isinstance(v, bool) else v for k, v in row.items()})
    return file.getvalue()
