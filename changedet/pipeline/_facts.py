"""What ``run.json`` says of the scenes, of chance, and of what was found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from changedet import detector
from changedet.findings import Findings
from changedet.grid import Grid
from changedet.pipeline._assemble import Detection
from changedet.steps import mask

if TYPE_CHECKING:
    from changedet.sites import Site


def identity(stack: xr.Dataset, t: int) -> dict[str, Any]:
    """Return what names a scene of a stack."""
    return {
        "id": str(stack.scene.values[t]),
        "date": f"{np.datetime_as_string(stack.time.values[t], unit='s')}Z",
        "sensor": str(stack.sensor.values[t]),
    }


def scene_facts(found: Detection) -> list[dict[str, Any]]:
    """Return what is known of each scene that was used."""
    stack, setting = found.stack, found.model.setting
    facts = []
    for t in range(stack.sizes["time"]):
        water, frozen = float(setting.water_share[t]), bool(setting.frozen[t].any())
        facts.append(
            {
                **identity(stack, t),
                "usable": round(float(setting.usable[t]), 4),
                "mask_repaired": round(float(stack.mask_repaired.values[t]), 5),
                "water": None if np.isnan(water) else round(water, 4),
                "frozen": frozen,
                "shift_px": [round(float(stack[f"shift_{axis}_px"].values[t]), 3) for axis in ("dy", "dx")],
                "shift_applied": bool(stack.shift_applied.values[t]),
                "gain": [round(float(g), 4) for g in np.atleast_1d(stack.gain.values[t])],
                "used": True,
                "why": "ice, snow or haze: little weight" if frozen else "fit",
            }
        )
    return facts


def nulls(maps: detector.Maps) -> dict[str, Any]:
    """Return the null of each stratum: what evidence is where nothing was built."""
    known = zip(mask.STRATA, maps.nulls, strict=True)
    return {name: {k: round(float(v), 4) for k, v in vars(null).items()} for name, null in known if null}


def counts(found: Findings, objects: Detection) -> dict[str, int]:
    """Return how many of everything there are."""
    out = {
        "scenes": objects.stack.sizes["time"],
        "structures": len(found.structures),
        "alarms": len(found.alarms),
        "looked for in rows": sum(o.by_row for o in objects.objects),
    }
    status = found.structures["status"].value_counts()
    return out | {f"status {k}": int(v) for k, v in status.items()}


def self_tests(found: Findings, site: Site | None) -> list[dict[str, Any]]:
    """Check that the control target of the site shows no change."""
    grid = Grid.of(found.statistic)
    if site is None or not grid.georeferenced:
        return []
    corridor = site.control_geometry(grid.crs)
    if corridor is None or not grid.rasterize([corridor]).any():
        return [
            {
                "name": "control",
                "passed": True,
                "detail": "the control target lies outside the scenes: not tested",
            }
        ]
    hit = found.structures[found.structures.intersects(corridor)]
    words = ", ".join(hit["id"]) if len(hit) else "no structure"
    return [
        {
            "name": "control",
            "passed": len(hit) == 0,
            "detail": f"in the corridor of the control target: {words}",
        }
    ]
