"""Scenes laid on one another: shifted copies, and a table and a figure that say how good each shift is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from changedet.errors import TooFewScenesError
from changedet.io.files import write_text
from changedet.io.products import find_scenes
from changedet.io.raster import write_cog
from changedet.io.stack import open_stack
from changedet.pipeline import _figures
from changedet.pipeline._tables import csv_text, number, wanted_outputs
from changedet.pipeline._work import Progress, quiet, staged
from changedet.pipeline.plan import Plan
from changedet.scenes import Scene
from changedet.steps.align import Registration, align, register, resample

if TYPE_CHECKING:
    import xarray as xr
    from shapely.geometry.base import BaseGeometry

TABLE, FIGURE = "shifts.csv", "shifts.png"
COLUMNS = ("id", "dy_px", "dx_px", "residual_px", "tie_points", "accepted", "why", "model")

LAZY_BYTES = 128_000_000
"""A stack that takes more memory is read block by block; the result is the same."""

SAMPLE_CHUNK_PX = 512
"""Side of the blocks of a stack of which only a sample is wanted: that of the files' own tiles."""

CHUNK_PX = 1024


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


@dataclass(frozen=True)
class Source:
    """Scenes that are to be worked on together, opened as often as needed.

    Parameters
    ----------
    scenes : records, each with a date
    dated : False where the dates were made up
    plan : settings
    aoi : lon/lat area to crop to
    """

    scenes: tuple[Scene, ...]
    dated: bool
    plan: Plan
    aoi: BaseGeometry | None

    @property
    def lazy(self) -> bool:
        """True where the stack is too large to be held."""
        rows, columns = self.scenes[0].grid.shape
        return 4 * rows * columns * sum(len(s.bands) for s in self.scenes) > LAZY_BYTES

    def open(self, chunk_px: int, scenes: Sequence[Scene] | None = None) -> xr.Dataset:
        """Open the scenes as a stack; in blocks where it is large."""
        read = self.plan.section("read")
        chunk = chunk_px if self.lazy else None
        given = list(self.scenes if scenes is None else scenes)
        return open_stack(given, aoi=self.aoi, bands=read["bands"], warp=read["warp"], chunk_px=chunk)


def find(scenes: Sequence[str | Path], plan: Plan, aoi: BaseGeometry | None) -> Source:
    """Find two or more scenes; of two images without dates the first one given is the first.

    Raises
    ------
    TooFewScenesError
        Fewer than two.
    """
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
    if len(found) == 2 and all(s.date is None for s in found):
        return Source(tuple(_ordered(found, scenes)), False, plan, aoi)
    return Source(tuple(found), True, plan, aoi)


def _ordered(pair: list[Scene], given: Sequence[str | Path]) -> list[Scene]:
    """Put two scenes without dates in the order in which they were given, a day apart."""

    def place(scene: Scene) -> int:
        path = Path(scene.path).resolve()
        known = [i for i, name in enumerate(given) if path.is_relative_to(Path(name).resolve())]
        return min(known, default=len(given))

    days = np.array(["1970-01-01", "1970-01-02"], "datetime64[ns]")
    return [replace(s, date=day) for s, day in zip(sorted(pair, key=place), days, strict=True)]


def reference_of(source: Source, name: str) -> str | xr.DataArray:
    """Return a reference by name, or the image where the name is that of a file."""
    known = {"median", "first", "last", *(s.id for s in source.scenes)}
    if name in known or not Path(name).exists():
        return name
    found = find_scenes([name], band_names=source.plan.section("read")["band_names"])
    scene = replace(found[0], date=np.datetime64("1970-01-01", "ns"))
    grid = source.scenes[0].grid
    if not source.plan.section("read")["warp"]:
        grid.require_same(scene.grid, name=scene.id, reference=source.scenes[0].id)
    image: xr.DataArray = source.open(SAMPLE_CHUNK_PX, [scene])["image"].isel(time=0, drop=True)
    return image


def coregister(
    scenes: Sequence[str | Path],
    out: str | Path,
    plan: Plan | None = None,
    *,
    aoi: BaseGeometry | None = None,
    outputs: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Progress = quiet,
) -> Shifts:
    """Lay scenes on one reference and write them.

    Parameters
    ----------
    scenes : files, folders, globs
    out : folder for ``<id>_aligned.tif`` (reflectance or power, NaN = not usable), ``shifts.csv`` and
        ``shifts.png``
    plan : settings; sections ``read``, ``align``, ``write``
    aoi : lon/lat area to crop to
    outputs : write only these: file names, or ``scenes`` for all scenes; ``shifts.csv`` is always written
    overwrite : replace earlier results in ``out``
    progress : called as the work goes on

    Raises
    ------
    InputError and its kin
        The scenes do not fit together, or the folder cannot take the results.
    """
    plan = plan or Plan()
    source = find(scenes, plan, aoi)
    names = {s.id: f"{s.id.replace('/', '_')}_aligned.tif" for s in source.scenes}
    wanted = wanted_outputs(outputs, tuple(names.values()), (TABLE, FIGURE))
    every = (*names.values(), FIGURE)
    with staged(Path(out), marker=TABLE, names=every, overwrite=overwrite) as stage:
        progress("read", 0, 1)
        stack = source.open(SAMPLE_CHUNK_PX)
        progress("read", 1, 1)
        found = _registered(source, stack, FIGURE in wanted, progress)
        rows = _rows(stack, found)
        files = [name for name in names.values() if name in wanted]
        if files:
            whole = source.open(CHUNK_PX) if source.lazy else stack
            moved = resample(whole, found, apply_above_px=plan.keywords(align)["apply_above_px"])
            tags = [_tags(moved.isel(time=t)) for t in range(moved.sizes["time"])]
            chosen = {k: v for k, v in names.items() if v in wanted}
            write_scenes(stage, moved, chosen, tags, source, progress)
        if FIGURE in wanted:
            shape = (stack.sizes["y"], stack.sizes["x"])
            _figures.save(_figures.shifts_figure(rows, found, shape), stage / FIGURE)
            files.append(FIGURE)
        write_text(stage / TABLE, csv_text(COLUMNS, rows))
    return Shifts(rows, tuple(Path(out) / name for name in (*files, TABLE)))


def _registered(source: Source, stack: xr.Dataset, ties: bool, progress: Progress) -> list[Registration]:
    """Find how the scenes lie."""
    asked = {k: v for k, v in source.plan.keywords(align).items() if k != "apply_above_px"}
    progress("align", 0, 1)
    asked["reference"] = reference_of(source, asked["reference"])
    found = register(stack, ties=ties, **asked)
    progress("align", 1, 1)
    return found


def _tags(scene: xr.Dataset) -> dict[str, str]:
    """Return what was done to a scene."""
    applied = bool(scene.shift_applied)
    dy, dx = (float(scene[f"shift_{axis}_px"]) if applied else 0.0 for axis in ("dy", "dx"))
    tags = {"SHIFT_APPLIED_DY_DX_PX": f"{dy:.4f} {dx:.4f}"}
    if applied and scene.shift_model.item() != "translation":
        tags["SHIFT_MODEL"] = str(scene.shift_model.item())
    return tags


def write_scenes(
    stage: Path,
    made: xr.Dataset,
    names: dict[str, str],
    tags: Sequence[dict[str, str]],
    source: Source,
    progress: Progress,
) -> None:
    """Write scenes as COGs with their dates, so that they can be read again.

    Parameters
    ----------
    stage : folder
    made : stack to write
    names : file of each scene that is asked for, by its id
    tags : of each scene of the stack: what was done to it
    source : where the scenes come from
    progress : called as the work goes on
    """
    compress = source.plan.section("write")["compress"]
    done = 0
    for t, known in enumerate(tags):
        scene = made.isel(time=t)
        name = names.get(str(scene.scene.item()))
        if name is None:
            continue
        date = f"{np.datetime_as_string(scene.time.values, unit='s')}Z"
        dated = {"ACQUISITIONDATETIME": date} if source.dated else {}
        image = scene["image"].transpose("band", "y", "x")
        write_cog(stage / name, image, compress=compress, tags=known | dated)
        done += 1
        progress("write", done, len(names))


def _rows(stack: xr.Dataset, found: list[Registration]) -> list[dict[str, Any]]:
    """Return one record a scene."""
    out = []
    for scene, one in zip(stack["scene"].values, found, strict=True):
        values = (
            str(scene),
            round(one.shift.dy, 4),
            round(one.shift.dx, 4),
            number(one.shift.residual_px),
            one.shift.tie_points,
            one.shift.accepted,
            one.shift.why,
            one.model,
        )
        out.append(dict(zip(COLUMNS, values, strict=True)))
    return out
