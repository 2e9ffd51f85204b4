"""Two images: difference, threshold, objects, files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from changedet.blocks import is_lazy
from changedet.errors import CRSError, DegenerateError, InputError, nearest
from changedet.grid import Grid
from changedet.io.files import write_json
from changedet.io.products import find_scenes
from changedet.io.stack import Kept, Streaming, read_pair, scene_sha256
from changedet.io.vector import write_geojson, write_gpkg
from changedet.pipeline._layers import Rasters, make_layers, marks, write_change
from changedet.pipeline._memory import WINDOW_PIXELS, pair_bytes, room, threads
from changedet.pipeline._work import Clock, Progress, grid_record, peak_memory_mb, quiet, staged
from changedet.pipeline.plan import STEPS, Plan
from changedet.scenes import Scene
from changedet.steps import align, difference, segment, threshold

if TYPE_CHECKING:
    import geopandas as gpd
    from shapely.geometry.base import BaseGeometry

FILES = (
    "magnitude.tif",
    "p_value.tif",
    "components.tif",
    "change.tif",
    "objects.geojson",
    "objects.gpkg",
)
"""What ``diff`` may write, ``run.json`` aside."""

LAZY_BYTES = 128_000_000
"""A pair that takes more memory is read and differenced block by block; the result is the same."""

MIN_OBJECT_PX = 3.5
"""Smallest object in pixels where no area is given: three are as likely a misplaced edge as a thing, and the
half allows for degrees, whose pixels are not all alike."""

COLUMNS = {"label": "id", "mean": "magnitude_mean", "max": "magnitude_max"}
"""Columns of the objects that have another name in the files."""


@dataclass(frozen=True)
class Comparison:
    """What a comparison of two images found.

    Parameters
    ----------
    layers : ``magnitude`` (y, x) float32, NaN = not usable in both; ``p_value`` and ``components`` where the
        method has them. Of a large pair ``diff`` keeps none that it does not need: they are made again from
        the files when their values are asked for
    compared : pixels usable in both
    threshold : level above which a pixel has changed, None where the numbers give none
    info : how the level was found, and ``why`` where there is none
    labels : (y, x) uint32, number of the object, 0 = none
    objects : one row an object
    min_area_m2 : smaller ones were dropped
    facts : what the method says about itself: how it converged, which bands it left out
    """

    layers: dict[str, xr.DataArray]
    compared: int
    threshold: float | None = None
    info: dict[str, Any] = field(default_factory=dict)
    labels: xr.DataArray | None = None
    objects: gpd.GeoDataFrame | None = None
    min_area_m2: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def magnitude(self) -> xr.DataArray:
        """How much each pixel changed."""
        return self.layers["magnitude"]

    @property
    def change(self) -> xr.DataArray:
        """(y, x) uint8: 1 where an object is, 0 elsewhere, 255 where nothing can be said."""
        if self.labels is None:
            raise InputError("no objects were looked for; ask for change.tif or for objects")
        values = marks(self.labels.values, self.magnitude.values)
        return self.labels.copy(data=values).rename("change").drop_attrs(deep=False)


@dataclass(frozen=True)
class DiffResult:
    """What ``diff`` found and wrote.

    Parameters
    ----------
    comparison : see :class:`Comparison`
    record : content of ``run.json``
    files : what was written
    """

    comparison: Comparison
    record: dict[str, Any]
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Task:
    """What is asked of ``diff`` besides the settings.

    Parameters
    ----------
    aoi : lon/lat area to crop to
    outputs : write only these of :data:`FILES`; ``run.json`` is always written
    overwrite : replace the results of an earlier run
    command : how this was asked for, for ``run.json``
    """

    aoi: BaseGeometry | None = None
    outputs: Sequence[str] | None = None
    overwrite: bool = False
    command: str = "changedet diff"


def diff(
    before: str | Path | Sequence[str | Path],
    after: str | Path | Sequence[str | Path],
    out: str | Path,
    plan: Plan | None = None,
    *,
    task: Task | None = None,
    progress: Progress = quiet,
) -> DiffResult:
    """Compare two images and write what changed.

    Parameters
    ----------
    before, after : each one scene: a file, its files, a product folder
    out : folder for the results
    plan : settings; sections ``diff``, ``difference``, ``threshold``, ``segment``, ``read``, ``write``
    task : area, files wanted, whether to overwrite
    progress : called as the work goes on

    Returns
    -------
    DiffResult

    Raises
    ------
    InputError and its kin
        The images, the settings or the folder cannot be used; nothing is written.
    WorkError and its kin
        The work failed on the way; nothing half-written is left.
    """
    plan, task, clock = plan or Plan(), task or Task(), Clock()
    wanted = _wanted(task.outputs)
    with staged(Path(out), names=FILES, overwrite=task.overwrite) as stage:
        with clock("recognise"):
            scenes = _pair(before, after, plan)
        _refuse_outputs(scenes, task.outputs)
        objects = _needs_objects(wanted)
        kept = Kept(room(scenes[0], plan, held=int(objects)))
        with clock("read"):
            images = _images(scenes, plan, task.aoi, kept)
        work = _Work(plan, clock, progress)
        with work.stage("difference"):
            layers = _difference(*images, plan)
            _refuse_missing(layers, task.outputs)
            names = tuple(n for n in wanted if n.removesuffix(".tif") in layers)
            rasters = Rasters(stage, names, plan.section("write")["compress"])
            made, compared = make_layers(layers, ("magnitude",) if objects else (), rasters=rasters)
            kept.clear()
        found = _found(made, compared, layers.attrs, work, objects=objects)
        with clock("write"):
            files = [*_write(stage, found, wanted, work), "run.json"]
        with clock("checksums"):
            sums = [scene_sha256(scene) for scene in scenes]
        record = {"command": task.command, "files": files, **_record(found, scenes, plan)}
        for entry, checksum in zip(record["scenes"], sums, strict=True):
            entry["sha256"] = checksum
        record |= {"timings": clock.timings, "peak_memory_mb": peak_memory_mb()}
        write_json(stage / "run.json", record)
    return DiffResult(found, record, tuple(Path(out) / name for name in files))


def compare(
    before: xr.DataArray,
    after: xr.DataArray,
    plan: Plan | None = None,
    *,
    objects: bool = True,
    clock: Clock | None = None,
    progress: Progress = quiet,
) -> Comparison:
    """Compare two images on one grid.

    Parameters
    ----------
    before, after : (band, y, x) float32, NaN = not usable; lazy images are worked on block by block
    plan : settings
    objects : also find the threshold and the objects
    clock, progress : told as the work goes on

    Raises
    ------
    InputError
        No pixel is usable in both images.
    GridError, BandError, SettingError
        The images do not fit together, or a setting cannot be used.
    """
    work = _Work(plan or Plan(), clock or Clock(), progress)
    with work.stage("difference"):
        layers = _difference(before, after, work.plan)
        made, compared = make_layers(
            layers, [str(name) for name in layers], threads=threads(before, work.plan)
        )
    return _found(made, compared, layers.attrs, work, objects=objects)


@dataclass(frozen=True)
class _Work:
    """The settings, and who is told how the work goes on."""

    plan: Plan
    clock: Clock
    progress: Progress

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure one stage and report its begin and end."""
        self.progress(name, 0, 1)
        with self.clock(name):
            yield
        self.progress(name, 1, 1)


def _found(
    layers: dict[str, xr.DataArray], compared: int, attrs: dict[Any, Any], work: _Work, *, objects: bool
) -> Comparison:
    """Find the threshold and the objects where they are wanted."""
    facts = {str(key): value for key, value in attrs.items()}
    if not objects:
        return Comparison(layers, compared, facts=facts)
    plan, magnitude = work.plan, layers["magnitude"]
    with work.stage("threshold"):
        level, info = _level(magnitude, facts.get("dof"), plan)
    area = plan.min_area_m2
    if area is None:
        area = MIN_OBJECT_PX * Grid.of(magnitude).gsd_m ** 2
    with work.stage("segment"):
        labels, table = segment.segment(
            magnitude,
            low=np.inf if level is None else float(info.get("low", level)),
            high=level if "low" in info else None,
            min_area_m2=area,
            **plan.keywords(segment.segment),
        )
    return Comparison(layers, compared, level, info, labels, table.rename(columns=COLUMNS), area, facts)


# ------------------------------------------------------------------------------------------------ steps


def _pair(before: Any, after: Any, plan: Plan) -> list[Scene]:
    """Return the two records."""
    read = plan.section("read")
    out = []
    for side, given in (("BEFORE", before), ("AFTER", after)):
        found = find_scenes(given, band_names=read["band_names"], date=read["date"])
        if len(found) != 1:
            names = ", ".join(s.id for s in found[:6]) or "none"
            raise InputError(f"{side} holds {len(found)} scenes ({names}); wanted one; give its files")
        out.append(found[0])
    return out


def _images(
    scenes: list[Scene], plan: Plan, aoi: BaseGeometry | None, kept: Kept | None = None
) -> tuple[xr.DataArray, xr.DataArray]:
    """Read the pair, window by window where it is large."""
    large = pair_bytes(scenes[0], scenes[0].grid.shape) > LAZY_BYTES
    return read_pair(
        scenes[0],
        scenes[1],
        aoi=aoi,
        bands=plan.section("read")["bands"],
        warp=plan.section("read")["warp"],
        streaming=Streaming(WINDOW_PIXELS, threads(scenes[0], plan), kept) if large else None,
    )


def _difference(before: xr.DataArray, after: xr.DataArray, plan: Plan) -> xr.Dataset:
    """Run the method; its layers are made when they are asked for where the images are."""
    name = plan.section("diff")["method"]
    known = name in STEPS["difference"].methods  # else the step says what it knows
    params = plan.section(f"difference.{name}") if known else {}
    workers = threads(before, plan) if is_lazy(before) else plan.section("compute")["workers"]
    more = {"threads": workers} if workers else {}
    asked = plan.section("diff")["align"]
    found: dict[str, Any] = {}
    if asked or (asked is None and name == "auto" and difference.radar(before) is None):
        after, found = _laid(before, after, more)
    made = difference.difference(before, after, name, **params, **more)
    made = made if isinstance(made, xr.Dataset) else xr.Dataset({"magnitude": made})
    return made.assign_attrs(shift=found)


def _laid(
    before: xr.DataArray, after: xr.DataArray, more: dict[str, int]
) -> tuple[xr.DataArray, dict[str, Any]]:
    """Lay the later image on the earlier one; return it and what was found."""
    after = difference.matched(before, after)
    if "band" not in before.dims:
        return after, {}
    moved, shift = align.lay(before, after, **more)
    return moved, {
        "dy_px": round(shift.dy, 3),
        "dx_px": round(shift.dx, 3),
        "applied": moved is not after,
        "tie_points": shift.tie_points,
        "why": shift.why,
    }


def _suggested(magnitude: xr.DataArray, plan: Plan) -> dict[str, Any]:
    """Return what the method thinks of its own level, but for what the user set."""
    own, default = (p.section("threshold.robust") for p in (plan, Plan()))
    said = {name: magnitude.attrs.get(f"suggested_{name}") for name in ("k", "least")}
    return {n: value for n, value in said.items() if value is not None and own[n] == default[n]}


def _level(magnitude: xr.DataArray, dof: float | None, plan: Plan) -> tuple[float | None, dict[str, Any]]:
    """Find the threshold; numbers that determine none mean that nothing changed.

    Magnitudes with degrees of freedom are roots of a chi-square statistic, to which chi2 and fdr apply.
    """
    method = plan.section("diff")["threshold"]
    chosen, asked = method == "auto", {}
    if chosen:  # a method may know what level suits it
        method = magnitude.attrs.get("suggested_threshold", "robust")
        asked = _suggested(magnitude, plan)
    params: dict[str, Any] = {}
    if method in STEPS["threshold"].methods:
        params = {**plan.section(f"threshold.{method}"), **asked}
        if method in threshold.METHODS:
            params = {**plan.keywords(threshold.threshold), **params}
    squared = dof is not None and method in threshold.STATISTICS
    try:
        image = (magnitude**2).assign_attrs(dof=dof) if squared else magnitude
        level, info = threshold.threshold(image, method, **params)
        if squared:
            level = float(np.sqrt(level))
            info["threshold"] = level
    except DegenerateError as error:
        return None, {"method": str(method), "threshold": None, "why": f"no threshold: {error}"}
    # Otsu always parts a pair in two; the other levels lie where noise seldom comes
    if chosen and method == "otsu" and info.get("credible") is False:
        return None, info | {"threshold": None, "why": "no more pixels stand out than by chance"}
    return level, info


# ------------------------------------------------------------------------------------------------ outputs


def _wanted(outputs: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the files to write."""
    if outputs is None:
        return FILES
    known = {**{n: n for n in (*FILES, "run.json")}, **{n.removesuffix(".tif"): n for n in FILES}}
    for name in outputs:
        if name not in known:
            raise InputError(
                f"--outputs {name!r}{nearest(name, known)} Wanted some of {', '.join(FILES)}, run.json"
            )
    return tuple(n for n in FILES if n in {known[o] for o in outputs})


def _needs_objects(wanted: tuple[str, ...]) -> bool:
    """Return True where a file depends on the threshold."""
    return bool(set(wanted) - {"magnitude.tif", "p_value.tif", "components.tif"})


def _refuse_outputs(scenes: list[Scene], outputs: Sequence[str] | None) -> None:
    """Refuse GeoJSON of images without a CRS where it was asked for by name."""
    if outputs is not None and "objects.geojson" in outputs and not scenes[0].grid.georeferenced:
        raise CRSError(
            "the images have no CRS, so objects have no longitude and latitude; wanted objects.gpkg, or "
            "georeferenced images"
        )


def _refuse_missing(layers: xr.Dataset, outputs: Sequence[str] | None) -> None:
    """Refuse layers that the method does not have where they were asked for by name."""
    for name in outputs or ():
        stem = name.removesuffix(".tif")
        if stem in ("p_value", "components") and stem not in layers:
            raise InputError(
                f"the method {layers['magnitude'].attrs.get('method')} has no {stem}; wanted one that has; "
                "choose another --method, or leave it out of --outputs"
            )


def _write(stage: Path, found: Comparison, wanted: tuple[str, ...], work: _Work) -> list[str]:
    """Write the files that are not there yet and return the names of all."""
    names = []
    for done, name in enumerate(wanted):
        work.progress("write", done, len(wanted))
        if (stage / name).exists() or _write_one(stage / name, found, work.plan):
            names.append(name)
    work.progress("write", len(wanted), len(wanted))
    return names


def _write_one(path: Path, found: Comparison, plan: Plan) -> bool:
    """Write one file where there is something to write."""
    if path.suffix == ".gpkg":
        write_gpkg(path, {"objects": found.objects})
    elif path.suffix == ".geojson":
        if found.objects is None or found.objects.crs is None:
            return False
        write_geojson(path, found.objects)
    elif path.stem == "change" and found.labels is not None:
        write_change(path, found.labels, found.magnitude, plan.section("write")["compress"])
    else:
        return False
    return True


# ------------------------------------------------------------------------------------------------ record


def _record(found: Comparison, scenes: list[Scene], plan: Plan) -> dict[str, Any]:
    """Return what becomes ``run.json``."""
    from changedet import __version__

    magnitude = found.magnitude
    counts: dict[str, Any] = {"pixels": magnitude.size, "compared": found.compared}
    if found.labels is not None and found.objects is not None:
        changed = int(np.count_nonzero(found.labels.values))
        counts |= {"changed": changed, "objects": len(found.objects)}
    absent = f"the method {magnitude.attrs['method']} does not give it"
    return {
        "version": __version__,
        "plan": plan.to_dict(),
        "scenes": [_scene_record(s) for s in scenes],
        "grid": grid_record(Grid.of(magnitude)),
        "method": magnitude.attrs["method"],
        "chosen": {k: magnitude.attrs[k] for k in ("chosen", "why", "gain") if k in magnitude.attrs},
        "units": magnitude.attrs.get("units"),
        "shift": found.facts.get("shift", {}),
        "statistics": {k: v for k, v in found.facts.items() if k != "shift"},
        "threshold": found.info,
        "min_area_m2": found.min_area_m2,
        "self_tests": [],
        "counts": counts,
        "warnings": _warnings(found, scenes),
        "not_computed": {n: absent for n in ("p_value", "components") if n not in found.layers},
    }


def _scene_record(scene: Scene) -> dict[str, Any]:
    """Describe one input."""
    return {
        "id": scene.id,
        "path": scene.path,
        "sensor": scene.sensor,
        "date": None if scene.date is None else str(scene.date)[:10],
        "bands": list(scene.bands),
        "grid": grid_record(scene.grid),
        "mask": scene.mask,
        "used": True,
        "why": scene.why,
    }


def _warnings(found: Comparison, scenes: list[Scene]) -> list[str]:
    """Say what a reader must know before trusting the result."""
    out = [str(words) for words in found.facts.get("warnings", ())]
    if found.threshold is None and "why" in found.info:
        out.append(f"{found.info['why']}: nothing is marked as changed")
    elif found.info.get("credible") is False:
        out.append(
            f"about as many pixels lie above the threshold ({found.info['above']}) as would without change "
            f"({found.info['expected_above']:.0f}): the objects may be noise"
        )
    for scene in scenes:
        if not scene.masks:
            out.append(f"{scene.id}: {scene.why.get('mask', 'no mask found')}")
        if "scale_assumed" in scene.why:
            out.append(f"{scene.id}: {scene.why['scale']}")
    return out
