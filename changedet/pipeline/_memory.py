"""How much memory the comparison of two images may take, and what follows for threads and windows."""

from __future__ import annotations

import os

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
