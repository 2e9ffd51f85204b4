"""The steps in order, the plan that holds every setting, and the work of the commands.

``plan`` holds the settings, ``bitemporal`` compares two images, ``run`` is the main job.
"""

from __future__ import annotations

from changedet.pipeline._options import (
    ComputeOptions,
    DiffOptions,
    ReadOptions,
    RunOptions,
    SensitivityOptions,
    WriteOptions,
)
from changedet.pipeline.plan import STEPS, Plan

__all__ = [
    "STEPS",
    "ComputeOptions",
    "DiffOptions",
    "Plan",
    "ReadOptions",
    "RunOptions",
    "SensitivityOptions",
    "WriteOptions",
]
