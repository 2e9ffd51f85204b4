"""The demonstration: simulated scenes of the Tumen crossing, the main job on them, and found against true."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from changedet.columns import STATUSES
from changedet.grid import Grid, attach
from changedet.io.raster import write_cog
from changedet.io.vector import write_geojson
from changedet.metrics import Options as Scoring
from changedet.metrics import evaluate, match_objects
from changedet.pipeline._work import Progress, quiet
from changedet.pipeline.plan import Plan
from changedet.pipeline.run import run

if TYPE_CHECKING:
    from changedet.findings import Findings
    from changedet.simulate import Simulation

SCENES = "scenes"
RESULTS = "results"


@dataclass(frozen=True)
class DemoResult:
    """What the demonstration shows.

    Parameters
    ----------
    table : one row a true structure, and one a found one that is not true
    report : page of the run
    scores : as ``changedet evaluate`` gives them
    """

    table: list[dict[str, Any]]
    report: Path
    scores: dict[str, Any]


def demo(out: Path, *, gsd_m: float = 3.0, seed: int | None = None, progress: Progress = quiet) -> DemoResult:
    """Simulate the Tumen crossing, run the main job on it, and hold what was found against the truth.

    Parameters
    ----------
    out : folder; ``scenes`` and ``results`` are written in it
    gsd_m : pixel size of the simulated scenes
    seed : of the simulation; the default scene where not given
    progress : called as the work goes on

    Raises
    ------
    OutputPathError, WriteError
        The folder cannot take the results.
    """
    from changedet.simulate import SceneSettings, simulate

    folder = Path(out)
    settings = SceneSettings(gsd_m=gsd_m, layout="tumen")
    if seed is not None:
        settings = SceneSettings(gsd_m=gsd_m, layout="random", seed=seed)
    progress("simulate", 0, 1)
    simulation = simulate(settings)
    progress("simulate", 1, 1)
    write_scenes(simulation, folder / SCENES, progress=progress)
    found = run(
        [folder / SCENES],
        folder / RESULTS,
        Plan(),
        overwrite=True,
        progress=progress,
        notes={"simulated": True, "command": "changedet demo"},
    )
    truth = simulation.truth
    scores = evaluate(
        found.structures, truth, observations=found.observations, options=Scoring(pixel_m=gsd_m)
    )
    return DemoResult(compare(found, truth, gsd_m), folder / RESULTS / "report.html", scores)


def write_scenes(simulation: Simulation, folder: Path, *, progress: Progress = quiet) -> list[Path]:
    """Write simulated scenes as an analyst would have them: uint16 GeoTIFFs, a mask beside each, the truth.

    A scene that comes without a mask gets no mask file. Where the sensor is a known one, a tag names it.

    Parameters
    ----------
    simulation : scenes and truth
    folder : made where it is missing
    progress : called as the work goes on

    Returns
    -------
    list of Path, one a scene
    """
    folder.mkdir(parents=True, exist_ok=True)
    grid = Grid.make(simulation.crs, simulation.transform, simulation.image.shape[-2:])
    bands = np.array(simulation.settings.bands, dtype=object)
    paths = []
    names, about = simulation.scene_names(), simulation.scenes
    for t, (stem, moment) in enumerate(zip(names, simulation.dates, strict=True)):
        # 0 is nodata in such products, so the darkest value is 1
        stored = np.clip(np.round(simulation.image[t] * 1e4), 1, 65534).astype(np.uint16)
        image = attach(stored, grid, dims=("band", "y", "x"), coords={"band": bands})
        path = folder / f"{stem}.tif"
        acquired = f"{np.datetime_as_string(moment, unit='s')}Z"
        tags = {"ACQUISITIONDATETIME": acquired, **_sensor_tags(str(about.sensor.iloc[t]))}
        write_cog(path, image, nodata=0, tags=tags)
        if about.has_mask.iloc[t]:
            mask = attach(simulation.mask[t].astype(np.uint8), grid)
            write_cog(folder / f"{stem}_mask.tif", mask, nodata=None)
        paths.append(path)
        progress("write scenes", t + 1, len(simulation.dates))
    write_geojson(folder / "truth.geojson", simulation.truth)
    return paths


def _sensor_tags(sensor: str) -> dict[str, str]:
    """Return tags by which ingest knows a sensor and what its stored values mean; none for a generic one."""
    if sensor == "generic":
        return {}
    said = {"planetscope": "PSScene"}.get(sensor, sensor)
    return {"SENSOR": said, "QUANTIFICATION_VALUE": "10000"}


def compare(found: Findings, truth: Any, gsd_m: float) -> list[dict[str, Any]]:
    """Return rows of true against found structures.

    Parameters
    ----------
    found : findings of the run
    truth : GeoDataFrame with ``id``, ``kind``, ``first_seen``
    gsd_m : pixel size
    """
    matches = match_objects(found.structures, truth, pixel_m=gsd_m)
    partner = {pair.truth: pair.found for pair in matches.pairs}
    rows = []
    for j, true in enumerate(truth.itertuples()):
        row: dict[str, Any] = {"true": true.kind, "appeared": str(true.first_seen)[:10]}
        ours = found.structures.iloc[partner[j]] if j in partner else None
        rows.append(row | _ours(ours))
    for i, ours in found.structures.iterrows():
        if i not in partner.values():
            rows.append({"true": "nothing", "appeared": ""} | _ours(ours))
    order = {name: i for i, name in enumerate(STATUSES)}
    return sorted(rows, key=lambda r: (r["true"] == "nothing", r["appeared"], order.get(r["status"], 9)))


def _ours(row: Any) -> dict[str, Any]:
    """Return the columns of a found structure, or of a missed one."""
    if row is None:
        return {"found": "missed", "kind": "", "status": "", "interval": "", "area_m2": None}
    after, until = (str(row[c])[:10] if row[c] else "?" for c in ("last_absent", "first_seen"))
    area = None if row["area_m2"] is None else round(float(row["area_m2"]))
    words = {name: row[name] for name in ("kind", "status")}
    return {"found": row["id"], **words, "interval": f"{after} … {until}", "area_m2": area}
