"""Which structures would have been found: put into the user's own scenes, looked for by the same pipeline.

Each round puts a few structures into the pixels as they were read (see
:mod:`changedet.pipeline._injection` for what is assumed), spaced so that they do not disturb one another and
so few that the null of the scene stays as it is, and runs the whole main job on the result. A structure
counts as recovered where the job reports one that overlaps it and that the job without injection had not.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from changedet._sensitivity_rounds import Rounds
from changedet.errors import InputError
from changedet.grid import Grid
from changedet.io.files import write_text
from changedet.io.raster import write_cog
from changedet.pipeline import Plan, ReadOptions, SensitivityOptions
from changedet.pipeline import _injection as injection
from changedet.pipeline._assemble import Detection
from changedet.pipeline._figures import recovery_figure, save
from changedet.pipeline._quick import by_size
from changedet.pipeline._recovery import CSV, Curve, Outcome, Size, cells, exponent, reasons, select, smallest
from changedet.pipeline._tables import csv_text, wanted_outputs
from changedet.pipeline._work import Clock, Progress, grid_record, quiet, staged
from changedet.pipeline.run import (
    add_files,
    head,
    opened,
    prepare,
    scene_facts,
    search,
    usable_scenes,
    write_record,
)
from changedet.scenes import is_sar
from changedet.steps import mask

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

    from changedet.sites import Site

__all__ = ["FILES", "Sensitivity", "measure", "sensitivity"]

Array = npt.NDArray[Any]

TABLE, MAP, FIGURE = "recovery.csv", "min_detectable.tif", "recovery.png"
FILES = (TABLE, MAP, FIGURE, "plan.toml")
"""What ``sensitivity`` writes, ``run.json`` aside."""


@dataclass(frozen=True)
class Sensitivity:
    """What structures would have been found.

    Parameters
    ----------
    outcomes : every structure that was put in
    table : rows of ``recovery.csv``
    sizes, curves : by stratum, of the reference material: smallest size, recovery against size
    min_detectable : (y, x) float32, m²; NaN where nothing can be said
    record : what becomes ``run.json``
    """

    outcomes: tuple[Outcome, ...]
    table: list[dict[str, Any]]
    sizes: dict[str, Size]
    curves: dict[str, Curve | None]
    min_detectable: xr.DataArray
    record: dict[str, Any] = field(default_factory=dict)


def sensitivity(
    stack: xr.Dataset, plan: Plan | None = None, *, site: Site | None = None, progress: Progress = quiet
) -> Sensitivity:
    """Put structures into a stack and look for them.

    Parameters
    ----------
    stack : ``image`` (time, band, y, x) and ``quality``, see :mod:`changedet.scenes`; of light
    plan : settings; section ``sensitivity``
    site : dossier, as for ``run``
    progress : called as the rounds go on

    Raises
    ------
    InputError
        The stack is of radar, or has no place for a structure.
    TooFewScenesError
        Fewer than seven scenes are usable.
    """
    return _sensitivity(stack, plan or Plan(), site, Clock(), progress)


def _sensitivity(
    stack: xr.Dataset, plan: Plan, site: Site | None, clock: Clock, progress: Progress
) -> Sensitivity:
    """Do the work of :func:`sensitivity`, with the time of each stage taken."""
    if is_sar(stack):
        raise InputError(
            "these are scenes of radar; structures can be put into scenes of light only in this version; "
            "give optical scenes"
        )
    usable, refused = usable_scenes(stack)
    ready = prepare(usable, plan, clock, progress)
    found = search(ready, plan, clock, progress)
    options = plan.record(SensitivityOptions)
    with clock("clarity"):
        rounds = Rounds(injection.ground(found, options.psf_fwhm_px), usable, plan, site)
    with clock("rounds"):
        outcomes = rounds.run(progress)
    sizes, curves = {}, {}
    for name in rounds.strata:
        sizes[name], curves[name] = smallest(*_of(outcomes, name, options.reference), options.target)
    power = _exponent(outcomes, sizes, options.reference)
    record = {
        "scenes": [*scene_facts(found), *refused],
        "grid": grid_record(Grid.of(usable)),
        "min_detectable_m2": {k: v.m2 for k, v in sizes.items() if v.m2 is not None},
        "sensitivity": {
            **_said(outcomes, sizes, options, found.stack.sizes["time"]),
            "clarity_exponent": power,
            **rounds.said(),
        },
        "not_computed": {f"min_detectable_m2 {k}": v.why for k, v in sizes.items() if v.m2 is None},
        "warnings": rounds.warnings(),
        "counts": {"scenes": found.stack.sizes["time"], "structures put in": len(outcomes)}
        | {"recovered": sum(o.recovered for o in outcomes), "rounds": rounds.done},
    }
    table = cells(outcomes, found.stack.time.values, [str(s) for s in found.stack.scene.values])
    image = _map(found, sizes, rounds.clear**-power, (min(rounds.sides) ** 2, max(rounds.sides) ** 2))
    return Sensitivity(tuple(outcomes), table, sizes, curves, image, record)


def _of(outcomes: Sequence[Outcome], over: str, material: str) -> tuple[Array, Array]:
    """Return areas and outcomes of one material in one stratum."""
    return select(outcomes, over=over, material=material)


def _by_dates(outcomes: Sequence[Outcome], over: str, material: str, dates: int) -> list[dict[str, int]]:
    """Return structures tried and found by how many dates there were from their beginning on."""
    own = [o for o in outcomes if (o.kind.over, o.kind.material) == (over, material)]
    return [
        {
            "n_after": dates - onset,
            "n": sum(o.kind.onset == onset for o in own),
            "recovered": sum(o.kind.onset == onset and o.recovered for o in own),
        }
        for onset in sorted({o.kind.onset for o in own})
    ]


def _said(
    outcomes: Sequence[Outcome], sizes: dict[str, Size], options: SensitivityOptions, dates: int
) -> dict[str, Any]:
    """Return what ``run.json`` says of the sizes."""
    others = [m for m in dict.fromkeys(options.materials) if m != options.reference]
    strata = {
        name: {
            **size.record(),
            "missed": reasons(
                [o for o in outcomes if (o.kind.over, o.kind.material) == (name, options.reference)]
            ),
            "by_size": by_size(*_of(outcomes, name, options.reference)),
            "by_dates_after": _by_dates(outcomes, name, options.reference, dates),
            "other_materials": {
                m: smallest(*_of(outcomes, name, m), options.target)[0].record()
                | {"by_size": by_size(*_of(outcomes, name, m))}
                for m in others
            },
        }
        for name, size in sizes.items()
    }
    hits = [o for o in outcomes if o.recovered]
    return {
        "method": "full",
        "target": options.target,
        "material": options.reference,
        "structures": len(outcomes),
        "date_hit": round(sum(bool(o.date_hit) for o in hits) / len(hits), 4) if hits else None,
        "strata": strata,
    }


def _exponent(
    outcomes: Sequence[Outcome], sizes: dict[str, Size], material: str, *, least: int = 40
) -> float:
    """Return how the size needed follows the clarity of a place, from all strata whose size is known."""
    known = {name: size.m2 for name, size in sizes.items() if size.m2 is not None}
    own = [o for o in outcomes if o.kind.material == material and o.kind.over in known]
    if len(own) < least:
        return 0.0
    area = np.array([o.kind.side_m**2 / known[o.kind.over] for o in own])
    return exponent(area, np.array([o.recovered for o in own]), np.array([o.clarity for o in own]))


def _map(found: Detection, sizes: dict[str, Size], factor: Array, tried: tuple[float, float]) -> xr.DataArray:
    """Return the smallest detectable area of each pixel, m²; NaN where nothing can be said.

    Parameters
    ----------
    found : baseline
    sizes : by stratum
    factor : (y, x) size needed there against the usual of the stratum
    tried : smallest and largest area that was tried; beyond the largest nothing can be said
    """
    out = np.full(found.maps.z.shape, np.nan, np.float32)
    for s, name in enumerate(mask.STRATA):
        m2 = sizes[name].m2 if name in sizes else None
        own = (found.maps.stratum == s) & np.isfinite(found.maps.z)
        if m2 is not None:
            area = np.maximum(m2 * factor, tried[0])
            out[own] = np.where(area <= tried[1], area, np.nan)[own]
    image = found.fine(out, "min_detectable", fill=np.nan)
    return image.assign_attrs(units="m2", long_name="smallest structure that would have been found")


# ------------------------------------------------------------------------------------------------ files


def measure(
    inputs: Sequence[str | Path],
    out: str | Path,
    plan: Plan | None = None,
    *,
    site: Site | None = None,
    aoi: BaseGeometry | None = None,
    overwrite: bool = False,
    outputs: tuple[str, ...] | None = None,
    progress: Progress | None = None,
    notes: dict[str, Any] | None = None,
) -> Sensitivity:
    """Find the scenes, put structures in, look for them, write every file.

    Parameters
    ----------
    inputs : files, folders, globs
    out : folder for the results
    plan : settings
    site, aoi : dossier; area of interest in lon/lat (the site's where not given)
    overwrite : replace the results of an earlier run
    outputs : only these of :data:`FILES`; ``run.json`` is always written
    progress : called as the work goes on
    notes : more entries for ``run.json``

    Raises
    ------
    InputError and its kin
        The request cannot be met; nothing is written.
    WorkError and its kin
        The work failed on the way; nothing half-written is left.
    """
    plan, tell, clock = plan or Plan(), progress or quiet, Clock()
    wanted, how = wanted_outputs(outputs, (), (*FILES, "run.json")), plan.record(ReadOptions)
    area = aoi if aoi is not None or site is None else site.aoi
    with staged(Path(out), names=FILES, overwrite=overwrite) as stage:
        scenes, others, stack = opened(inputs, how, area, clock, tell)
        result = _sensitivity(stack, plan, site, clock, tell)
        with clock("checksums"):
            add_files(result.record, scenes, others)
        result.record.update(head(plan, clock, "changedet sensitivity"), **(notes or {}))
        with clock("write"):
            names = _write(stage, result, plan, wanted)
        write_record(stage, result.record, names, clock)
        tell("write", 1, 1)
    return result


def _write(stage: Path, result: Sensitivity, plan: Plan, wanted: Collection[str]) -> list[str]:
    """Write the files wanted and return their names."""
    if TABLE in wanted:
        rows = [
            {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in result.table
        ]
        write_text(stage / TABLE, csv_text(CSV, rows))
    if MAP in wanted:
        write_cog(
            stage / MAP, result.min_detectable, compress=plan.section("write")["compress"], nodata=np.nan
        )
    if FIGURE in wanted:
        save(recovery_figure(result.record["sensitivity"], result.curves), stage / FIGURE)
    if "plan.toml" in wanted:
        write_text(stage / "plan.toml", plan.to_toml())
    return [name for name in FILES if name in wanted]
