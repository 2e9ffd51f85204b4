"""Scenes brought to one radiometry: normalized copies, with a table and a figure of the lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from changedet.io.files import write_text
from changedet.pipeline import _figures
from changedet.pipeline._tables import csv_text, number, wanted_outputs
from changedet.pipeline._work import Progress, quiet, staged
from changedet.pipeline.coregister import CHUNK_PX, SAMPLE_CHUNK_PX, Source, find, reference_of, write_scenes
from changedet.pipeline.plan import Plan
from changedet.steps.normalize import Normalization, apply_lines, find_lines, normalize

if TYPE_CHECKING:
    import xarray as xr
    from shapely.geometry.base import BaseGeometry

TABLE, FIGURE = "gains.csv", "gains.png"
COLUMNS = ("id", "band", "gain", "offset", "r2", "n", "rmse_before", "rmse_after", "accepted", "why")


@dataclass(frozen=True)
class Gains:
    """What ``normalize`` found and wrote.

    Parameters
    ----------
    rows : one record a scene and band, keys :data:`COLUMNS`
    files : what was written
    """

    rows: list[dict[str, Any]]
    files: tuple[Path, ...]


def radiometry(
    scenes: Sequence[str | Path],
    out: str | Path,
    plan: Plan | None = None,
    *,
    aoi: BaseGeometry | None = None,
    outputs: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Progress = quiet,
) -> Gains:
    """Bring scenes to the radiometry of one reference and write them.

    Parameters
    ----------
    scenes : files, folders, globs; already aligned
    out : folder for ``<id>_normalized.tif`` (reflectance or power, NaN = not usable), ``gains.csv`` and
        ``gains.png``
    plan : settings; sections ``read``, ``normalize``, ``write``
    aoi : lon/lat area to crop to
    outputs : write only these: file names, or ``scenes`` for all scenes; ``gains.csv`` is always written
    overwrite : replace earlier results in ``out``
    progress : called as the work goes on

    Raises
    ------
    InputError and its kin
        The scenes do not fit together, or the folder cannot take the results.
    """
    plan = plan or Plan()
    source = find(scenes, plan, aoi)
    names = {s.id: f"{s.id.replace('/', '_')}_normalized.tif" for s in source.scenes}
    wanted = wanted_outputs(outputs, tuple(names.values()), (TABLE, FIGURE))
    with staged(Path(out), marker=TABLE, names=(*names.values(), FIGURE), overwrite=overwrite) as stage:
        progress("read", 0, 1)
        stack = source.open(SAMPLE_CHUNK_PX)
        progress("read", 1, 1)
        found = _lines(source, stack, progress)
        rows = _rows(stack, found)
        files = [name for name in names.values() if name in wanted]
        if files:
            whole = source.open(CHUNK_PX) if source.lazy else stack
            made = apply_lines(whole, found)
            tags = [_tags(made.isel(time=t), one) for t, one in enumerate(found)]
            chosen = {k: v for k, v in names.items() if v in wanted}
            write_scenes(stage, made, chosen, tags, source, progress)
        if FIGURE in wanted:
            _figures.save(_figures.gains_figure(rows, found), stage / FIGURE)
            files.append(FIGURE)
        write_text(stage / TABLE, csv_text(COLUMNS, rows))
    return Gains(rows, tuple(Path(out) / name for name in (*files, TABLE)))


def _lines(source: Source, stack: xr.Dataset, progress: Progress) -> list[Normalization]:
    """Find the lines."""
    asked = dict(source.plan.keywords(normalize))
    progress("normalize", 0, 1)
    asked["reference"] = reference_of(source, asked["reference"])
    found = find_lines(stack, **asked)
    progress("normalize", 1, 1)
    return found


def _tags(scene: xr.Dataset, one: Normalization) -> dict[str, str]:
    """Return what was done to a scene."""
    if one.curves:
        return {"NORMALIZED": "histogram"}
    return {
        "GAIN": " ".join(f"{v:.6g}" for v in scene.gain.values),
        "OFFSET": " ".join(f"{v:.6g}" for v in scene.offset.values),
    }


def _rows(stack: xr.Dataset, found: list[Normalization]) -> list[dict[str, Any]]:
    """Return one record a scene and band."""
    out = []
    made = apply_lines(stack.isel(y=slice(0, 1), x=slice(0, 1)), found)
    bands = [str(b) for b in stack["band"].values]
    for t, (scene, one) in enumerate(zip(stack["scene"].values, found, strict=True)):
        for b, (band, line) in enumerate(zip(bands, one.lines, strict=True)):
            why = line.why
            if line.accepted and not one.accepted:
                why = "left as it is: another band was refused"
            values = (
                str(scene),
                band,
                number(made["gain"].values[t, b], 6),
                number(made["offset"].values[t, b], 6),
                number(line.r2),
                line.n,
                number(line.rmse_before, 6),
                number(line.rmse_after, 6),
                one.accepted,
                why,
            )
            out.append(dict(zip(COLUMNS, values, strict=True)))
    return out
