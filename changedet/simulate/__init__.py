"""Scenes with an exact answer: a river crossing rendered from causes, and structures put into given pixels.

`simulate` makes a stack of an optical sensor over a river crossing under construction, with every structure,
its dates, and every nuisance on record; `coverage`, `structure_share` and `render_structure` put a
footprint into the pixels of any image. `SceneSettings.for_sensor(sensor, seed, hard=True)` breaks what an
ordinary scene flatters: pixels without twins, land, bars and banks that change by themselves, bent geometry,
a second sensor, traffic that stays, masks wrong both ways, few and clustered dates; each has its own
setting.

Left out, on purpose: illumination by slope, directional reflectance, adjacency, SAR, misregistration between
bands, clouds' own parallax, and anything the works do to the river bed or its flow.
"""

from __future__ import annotations

from changedet.simulate._render import coverage, render_structure, structure_share
from changedet.simulate._scene import Simulation, simulate
from changedet.simulate._settings import SceneSettings
from changedet.simulate._spectra import BANDS, MATERIALS, reflectance, spectrum

__all__ = [
    "BANDS",
    "MATERIALS",
    "SceneSettings",
    "Simulation",
    "coverage",
    "reflectance",
    "render_structure",
    "simulate",
    "spectrum",
    "structure_share",
]
