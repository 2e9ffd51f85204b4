"""The main job: scenes in, dated structures out.

``detect`` works on a stack in memory; ``run`` finds and reads the scenes, calls it and writes every file.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from changedet import detector
from changedet.errors import ControlFailedError, InputError, TooFewScenesError
from changedet.findings import Findings
from changedet.grid import Grid
from changedet.io.files import write_json, write_text
from changedet.io.products import between, find_scenes
from changedet.io.stack import Streaming, common_bands, open_stack, scene_sha256
from changedet.pipeline import _assemble, _quick
from changedet.pipeline._facts import counts, identity, nulls, scene_facts, self_tests
from changedet.pipeline._files import FILES, redraw, write
from changedet.pipeline._memory import fits, window_pixels, workers
from changedet.pipeline._options import ReadOptions, SensitivityOptions
from changedet.pipeline._windowed import Scratchpad, is_streamed, scratchpad
from changedet.pipeline._work import Clock, Progress, grid_record, peak_memory_mb, quiet, staged
from changedet.pipeline.plan import Plan
from changedet.scenes import UNUSABLE, Scene, is_sar
from changedet.steps import aggregate, align, breaks, bridge, normalize, report, track

__all__ = ["FILES", "Result", "detect", "redraw", "run", "scene_facts"]

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

    from changedet.sites import Site

MIN_SCENES = 7
"""Four dates of history and three after: fewer cannot show that something came and stayed."""

LEAST_USABLE = 0.02
"""A scene with a smaller usable share says nothing."""

NOT_COMPUTED = {
    "kind_p": "probabilities of kinds are not available in this version",
    "axis": "assignment to bridge axes is not available in this version",
    "chainage_m": "assignment to bridge axes is not available in this version",
    "row": "rows of piers are not available in this version",
    "row_index": "rows of piers are not available in this version",
    "progress": "progress along an axis is not available in this version",
    "state.zarr": "update is not available in this version",
}

NOT_OF_RADAR = {
    "confidence": "calibration of confidence is not available for SAR in this version",
    "p_value": "p-values are not available for SAR in this version; each structure passed --alpha",
}


@dataclass(frozen=True)
class Result(Findings):
    """Findings as notebooks see them: tables, rasters, a plot, files."""

    stack: xr.Dataset | None = None

    def plot(self, ax: Any = None) -> Any:
        """Draw the structures over the composite after; returns a matplotlib Figure."""
        return report.plot_findings(self, ax)

    def to_files(
        self, folder: str | Path, *, outputs: Sequence[str] | None = None, overwrite: bool = False
    ) -> tuple[Path, ...]:
        """Write the files of a run to a folder.

        Parameters
        ----------
        folder : made where it is missing
        outputs : only these of the contract's files; ``run.json`` is always written
        overwrite : replace the results of an earlier run

        Raises
        ------
        OutputPathError, WriteError
            The folder cannot take the results.
        """
        with staged(Path(folder), names=FILES, overwrite=overwrite) as stage:
            names = write(stage, self, self.stack, outputs, "deflate", None)
            write_json(stage / "run.json", {**self.record, "files": [*names, "run.json"]})
        return tuple(Path(folder) / name for name in (*names, "run.json"))

    def _repr_html_(self) -> str:
        """Return a short table for notebooks."""
        return report.notebook_html(self)


def detect(
    stack: xr.Dataset, site: Site | str | None = None, plan: Plan | None = None, *, progress: Progress = quiet
) -> Result:
    """Find, date and describe new structures in a stack.

    Parameters
    ----------
    stack : ``image`` (time, band, y, x) and ``quality``, see :mod:`changedet.scenes`
    site : dossier, or its name; it may explain findings, it never creates one
    plan : settings
    progress : called as ``progress(stage, done, total)``

    Returns
    -------
    Result

    Raises
    ------
    TooFewScenesError
        Fewer than seven scenes are usable.
    DegenerateError
        Hardly any pixel has a usable history.
    """
    if isinstance(site, str):
        from changedet.sites import load_site

        site = load_site(site)
    return _detect(stack, site, plan or Plan(), Clock(), progress)


def _detect(
    stack: xr.Dataset,
    site: Site | None,
    plan: Plan,
    clock: Clock,
    progress: Progress,
    pad: Scratchpad | None = None,
) -> Result:
    """Do the work of :func:`detect`, with the time of each stage taken; on a scratchpad what is large."""
    with clock("read"):
        usable, refused = usable_scenes(stack, pad)
    ready = prepare(usable, plan, clock, progress, pad)
    objects = search(ready, plan, clock, progress, pad)
    with clock("sensitivity"):
        smallest = _smallest(objects, plan, progress)
    with clock("describe"):
        axes = None if site is None or not objects.grid.georeferenced else site.axes_frame(objects.grid.crs)
        record = {
            "scenes": [*scene_facts(objects), *refused],
            "grid": grid_record(Grid.of(objects.native)),
            "null": nulls(objects.maps),
            "not_computed": {
                **NOT_COMPUTED,
                **(NOT_OF_RADAR if is_sar(ready) else {}),
                **smallest.pop("not_computed", {}),
            },
            **smallest,
        }
        found = _assemble.findings(objects, min_area_m2=plan.min_area_m2, axes=axes, record=record)
        sizes = smallest.get("min_detectable_m2", {})
        found.structures["min_detectable_m2"] = found.structures["over"].map(sizes).astype("float64")
        record |= {"self_tests": self_tests(found, site), "counts": counts(found, objects)}
    fields = {name: getattr(found, name) for name in Findings.__dataclass_fields__}
    return Result(**fields, stack=ready)


def prepare(
    usable: xr.Dataset, plan: Plan, clock: Clock, progress: Progress, pad: Scratchpad | None = None
) -> xr.Dataset:
    """Align and normalize usable scenes."""
    progress("align", 0, 1)
    if pad is not None:
        return pad.prepared(usable, plan, clock)
    with clock("align"):
        moved = align.align(usable, **plan.keywords(align.align))
    progress("align", 1, 1)
    with clock("normalize"):
        return normalize.normalize(moved, **plan.keywords(normalize.normalize))


def _smallest(found: _assemble.Detection, plan: Plan, progress: Progress) -> dict[str, Any]:
    """Return what ``run.json`` says of the smallest size that would have been found, or why nothing."""
    why = ""
    if not plan.record(SensitivityOptions).quick:
        why = "switched off by sensitivity.quick"
    elif not isinstance(found.model, detector.Model):
        why = "structures are put into scenes of light only in this version"
    if why:
        return {"not_computed": {"min_detectable_m2": why}}
    tried = _quick.estimate(found, plan, progress=progress)
    sizes = _quick.known_sizes(tried)
    if len(sizes) < len(tried["strata"]) or not sizes:
        reasons = (f"{place}: {one['why']}" for place, one in tried["strata"].items() if place not in sizes)
        why = "; ".join(reasons) or "there is no place to put structures in"
    out = {"sensitivity": tried, "min_detectable_m2": sizes}
    return out | ({"not_computed": {"min_detectable_m2": why}} if why else {})


def search(
    native: xr.Dataset, plan: Plan, clock: Clock, progress: Progress, pad: Scratchpad | None = None
) -> _assemble.Detection:
    """Run the detector."""
    options = plan.record(detector.Options)
    size = aggregate.block_size(Grid.of(native).gsd_m, **plan.keywords(aggregate.block_size))
    with clock("background"):
        stack = aggregate.aggregate(native, size) if pad is None else pad.aggregated(native, size)
        model = detector.fit(stack, options, plan.record(breaks.Noise))
    with clock("evidence"):
        count = detector.tile_count(stack)
        maps = detector.scan(stack, model, threads=workers(plan), tick=_ticker("evidence", count, progress))
    with clock("objects"):
        found = detector.objects(
            stack,
            model,
            maps,
            rules=plan.record(track.Persistence),
            growth=plan.record(track.Growth),
            rows=plan.record(bridge.Rules),
            alpha=plan.alpha,
            tick=_ticker("objects", None, progress),
        )
    return _assemble.Detection(native, stack, size, model, maps, found)


def _ticker(stage: str, total: int | None, progress: Progress) -> Any:
    """Return a function that counts ticks for the progress call."""
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        progress(stage, done, total if total is not None else done)

    return tick


def usable_scenes(
    stack: xr.Dataset, pad: Scratchpad | None = None
) -> tuple[xr.Dataset, list[dict[str, Any]]]:
    """Leave out scenes that say nothing; return the rest and a record of those left out.

    Raises
    ------
    TooFewScenesError
        Fewer than seven are left.
    """
    if pad is None:
        share, repaired = _shares(stack)
    else:
        stack, share, repaired = pad.read_once(stack)
    stack = stack.assign_coords(mask_repaired=("time", repaired))
    fine = share >= LEAST_USABLE
    refused = [
        {
            **identity(stack, int(t)),
            "usable": round(float(share[t]), 4),
            "used": False,
            "why": f"only {share[t]:.1%} of the area is usable",
        }
        for t in np.flatnonzero(~fine)
    ]
    if fine.sum() < MIN_SCENES:
        raise TooFewScenesError(
            f"{fine.sum()} of {fine.size} scenes are usable; wanted {MIN_SCENES}: "
            "four before and three after what is looked for; give more, or use `changedet diff` for two"
        )
    return stack.isel(time=np.flatnonzero(fine)), refused


def _shares(stack: xr.Dataset) -> tuple[Any, Any]:
    """Return the share of pixels usable in every band, and of those given back from a mask, of each date."""
    valid = np.isfinite(stack.image).all("band")
    flagged = (stack.quality & np.uint8(UNUSABLE)) > 0
    both = xr.Dataset({"usable": valid, "repaired": valid & flagged}).mean(("y", "x")).compute()
    return both.usable.values.astype(np.float64), both.repaired.values.astype(np.float64)


# ------------------------------------------------------------------------------------------------ files


def run(
    inputs: Sequence[str | Path],
    out: str | Path,
    plan: Plan | None = None,
    *,
    site: Site | None = None,
    aoi: BaseGeometry | None = None,
    overwrite: bool = False,
    strict: bool = False,
    outputs: tuple[str, ...] | None = None,
    read_options: ReadOptions | None = None,
    progress: Progress | None = None,
    notes: dict[str, Any] | None = None,
) -> Result:
    """Do the main job: find the scenes, detect, write every file.

    Parameters
    ----------
    inputs : files, folders, globs
    out : folder for the results
    plan : settings
    site, aoi : dossier; area of interest in lon/lat (the site's where not given)
    overwrite : replace the results of an earlier run
    strict : a failed control is an error
    outputs : only these of :data:`FILES`
    read_options : how to read; the plan's where not given
    progress : called as the work goes on
    notes : more entries for ``run.json``, such as ``simulated``

    Raises
    ------
    InputError and its kin
        The request cannot be met; nothing is written.
    WorkError and its kin
        The work failed on the way; nothing half-written is left.
    """
    plan, tell, clock = plan or Plan(), progress or quiet, Clock()
    how = read_options or plan.record(ReadOptions)
    _known_outputs(outputs)
    area = aoi if aoi is not None or site is None else site.aoi
    with staged(Path(out), names=FILES, overwrite=overwrite) as stage:
        scenes, others, stack = opened(inputs, how, area, clock, tell, plan)
        with scratchpad(stage, 1, tell) if is_streamed(stack) else nullcontext() as pad:
            found = _detect(stack, site, plan, clock, tell, pad)
            with clock("checksums"):
                add_files(found.record, scenes, others)
            found.record.update(head(plan, clock), warnings=[], **(notes or {}))
            _refuse_failed(found.record, strict)
            _finish(stage, found, outputs, plan, site, clock)
        tell("write", 1, 1)
    return found if pad is None else replace(found, stack=pad.lasting)


def _finish(stage: Path, found: Result, outputs: Any, plan: Plan, site: Site | None, clock: Clock) -> None:
    """Write the files; ``run.json`` last."""
    with clock("write"):
        names = write(stage, found, found.stack, outputs, plan.section("write")["compress"], site)
    if outputs is None or "plan.toml" in outputs:
        write_text(stage / "plan.toml", plan.to_toml())
        names.append("plan.toml")
    write_record(stage, found.record, names, clock)


def write_record(stage: Path, record: dict[str, Any], names: Sequence[str], clock: Clock) -> None:
    """Write ``run.json``, the last of the files."""
    record.update(files=[*names, "run.json"], timings=clock.timings, peak_memory_mb=peak_memory_mb())
    write_json(stage / "run.json", record)


def head(plan: Plan, clock: Clock, command: str = "changedet run") -> dict[str, Any]:
    """Return the entries of ``run.json`` that do not depend on what was found."""
    from changedet import __version__

    return {
        "version": __version__,
        "command": command,
        "plan": plan.to_dict(),
        "timings": clock.timings,
        "peak_memory_mb": peak_memory_mb(),
    }


def _known_outputs(outputs: tuple[str, ...] | None) -> None:
    """Refuse names of files that a run does not write."""
    unknown = sorted(set(outputs or ()) - {*FILES, "run.json"})
    if unknown:
        raise InputError(f"run writes no {', '.join(unknown)}; it writes {', '.join((*FILES, 'run.json'))}")


def opened(
    inputs: Sequence[str | Path],
    how: ReadOptions,
    area: BaseGeometry | None,
    clock: Clock,
    tell: Progress,
    plan: Plan | None = None,
) -> tuple[list[Scene], list[dict[str, Any]], xr.Dataset]:
    """Find the scenes and read them; return also a record of those of other groups.

    With a plan, a stack that is larger than its memory allows is not read but made of streams.
    """
    with clock("recognise"):
        scenes, others = scenes_of(inputs, how)
    tell("read", 0, 1)
    with clock("read"):
        asked: dict[str, Any] = {"aoi": area, "bands": how.bands, "warp": how.warp}
        if plan is not None:
            pixels = window_pixels(len(scenes), len(common_bands(scenes, how.bands)), plan)
            stack = open_stack(scenes, streaming=Streaming(pixels), **asked)
            if not fits(stack, plan):
                return scenes, others, stack
        stack = open_stack(scenes, **asked)
    tell("read", 1, 1)
    return scenes, others, stack


def scenes_of(inputs: Sequence[str | Path], how: ReadOptions) -> tuple[list[Scene], list[dict[str, Any]]]:
    """Find the scenes; of SAR groups (orbits, bursts) only the largest is used, as they must not be mixed."""
    scenes = find_scenes(list(inputs), date=how.date, band_names=how.band_names)
    scenes = between(scenes, how.since, how.until) if how.since or how.until else scenes
    if len(scenes) < 2:
        raise TooFewScenesError(
            f"{len(scenes)} scene found; wanted {MIN_SCENES} or more; give a folder of dated GeoTIFFs"
        )
    groups = sorted({s.group for s in scenes if s.is_sar})
    if len(groups) < 2:
        return scenes, []
    size = {g: sum(s.group == g for s in scenes) for g in groups}
    chosen = max(groups, key=lambda g: size[g])
    why = (
        f"of the group {{}}, which must not be mixed with {chosen} ({size[chosen]} scenes); run it on its own"
    )
    others = [
        {
            "id": s.id,
            "path": s.path,
            "date": None if s.date is None else str(s.date),
            "grid": grid_record(s.grid),
            "used": False,
            "why": why.format(s.group),
        }
        for s in scenes
        if s.group != chosen
    ]
    return [s for s in scenes if s.group == chosen], others


def add_files(record: dict[str, Any], scenes: list[Scene], others: list[dict[str, Any]]) -> None:
    """Add path and checksum to every scene of the record, and the scenes that were left aside."""
    by_id = {s.id: s for s in scenes}
    for entry in record["scenes"]:
        scene = by_id.get(entry["id"])
        if scene is not None:
            entry |= {
                "path": scene.path,
                "grid": grid_record(scene.grid),
                "sha256": scene_sha256(scene),
                "mask": scene.mask,
                "decisions": scene.why,
            }
    record["scenes"] = sorted(record["scenes"], key=lambda e: str(e["date"])) + others


def _refuse_failed(record: dict[str, Any], strict: bool) -> None:
    """Raise where a control failed and that was asked to be an error; warn otherwise."""
    failed = [t for t in record["self_tests"] if not t["passed"]]
    if failed and strict:
        raise ControlFailedError(
            f"{failed[0]['name']}: {failed[0]['detail']}; wanted none; leave out --strict to go on"
        )
    record["warnings"] += [f"{t['name']} failed: {t['detail']}" for t in failed]
