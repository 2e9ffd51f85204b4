"""How much memory a command may take, and what follows for threads and windows."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import xarray as xr

from changedet.pipeline._options import memory_bytes
from changedet.pipeline.plan import STEPS, Plan
from changedet.scenes import Scene

MEMORY_BYTES = 1_000_000_000
"""Bound of the working set where none is given; it limits the threads and what is kept of the files."""

OWN_BYTES = 500_000_000
"""What the program, its libraries and GDAL's cache take of that before they hold a pixel."""

WINDOW_PIXELS = 1 << 19
"""Pixels of a window in work."""

COPIES = 3
"""Copies of a window of both images that reading and differencing hold at one time."""

STACK_COPIES = 3.5
"""Copies of a whole stack that a run in memory holds at its peak."""

READ_COPIES = 3
"""Copies of a window through all dates that reading, moving and writing it hold at one time."""

LEAST_SHARE = 0.5
"""Share of the free memory that a run takes where no bound is given."""


def pair_bytes(scene: Scene | xr.DataArray, shape: tuple[int, int]) -> int:
    """Return what two float32 images of a shape take."""
    bands = len(scene.bands) if isinstance(scene, Scene) else scene.sizes.get("band", 1)
    return 2 * 4 * bands * shape[0] * shape[1]


def room(scene: Scene, plan: Plan, *, held: int = 0) -> int:
    """Return how many bytes of the files may be kept: for methods that look at the same windows again.

    Parameters
    ----------
    scene, plan : what is compared, and the settings
    held : layers that are held in memory
    """
    method = STEPS["difference"].methods.get(str(plan.section("diff")["method"]))
    if "components" not in getattr(method, "layers", ()):
        return 0
    rows, columns = scene.grid.shape
    layers = 4 * held * rows * columns
    return max(_memory(plan) - OWN_BYTES - layers - threads(scene, plan) * _window_bytes(scene), 0)


def _memory(plan: Plan) -> int:
    """Return the bound of the working set in bytes."""
    memory = plan.section("compute")["memory"]
    return MEMORY_BYTES if memory is None else memory_bytes(memory)


def _window_bytes(image: Scene | xr.DataArray) -> int:
    """Return what a window of both images in work takes."""
    return COPIES * pair_bytes(image, (1, WINDOW_PIXELS))


def workers(plan: Plan) -> int:
    """Return how many threads were asked for, else as many as there are processors."""
    return int(plan.section("compute")["workers"] or os.cpu_count() or 1)


def threads(image: Scene | xr.DataArray, plan: Plan) -> int:
    """Return how many windows may be in work at one time."""
    return max(min(workers(plan), _memory(plan) // 2 // _window_bytes(image)), 1)


def run_bytes(plan: Plan) -> int:
    """Return the bound of the working set of a run: what was asked for, else a share of what is free."""
    memory = plan.section("compute")["memory"]
    if memory is not None:
        return memory_bytes(memory)
    return max(int(LEAST_SHARE * free_bytes()), MEMORY_BYTES)


def free_bytes() -> int:
    """Return the memory that is free, or as much as ``diff`` takes where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))) << 10
    except (OSError, StopIteration, ValueError):
        return 4 * MEMORY_BYTES


def fits(stack: xr.Dataset, plan: Plan) -> bool:
    """Say whether a run may hold a stack in memory."""
    return bool(OWN_BYTES + STACK_COPIES * stack.image.size * 4 <= run_bytes(plan))


def window_pixels(scenes: int, bands: int, plan: Plan) -> int:
    """Return how many pixels of a stack, through all dates, may be read at one time by one thread."""
    room = max(run_bytes(plan) - OWN_BYTES, OWN_BYTES // 2) // 2
    return int(np.clip(room // (READ_COPIES * 4 * (bands + 1) * scenes), 1 << 14, 1 << 20))
