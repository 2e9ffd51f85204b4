"""changedet: new structures in satellite image time series.

``import changedet as cd`` costs little: what is named here is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from changedet.errors import ChangedetError

if TYPE_CHECKING:
    from changedet.findings import Findings
    from changedet.grid import Grid
    from changedet.io.products import find_scenes, info
    from changedet.io.stack import open_stack, read_pair
    from changedet.metrics import evaluate
    from changedet.pipeline.bitemporal import compare, diff
    from changedet.pipeline.plan import Plan
    from changedet.pipeline.run import detect
    from changedet.scenes import make_stack
    from changedet.sites import Site, list_sites, load_site
    from changedet.steps.align import align
    from changedet.steps.difference import difference
    from changedet.steps.normalize import normalize
    from changedet.steps.segment import segment
    from changedet.steps.threshold import threshold

__version__ = "0.1.0"

_HOMES = {
    "Findings": "findings",
    "Grid": "grid",
    "Plan": "pipeline.plan",
    "Site": "sites",
    "align": "steps.align",
    "compare": "pipeline.bitemporal",
    "detect": "pipeline.run",
    "diff": "pipeline.bitemporal",
    "difference": "steps.difference",
    "evaluate": "metrics",
    "find_scenes": "io.products",
    "info": "io.products",
    "list_sites": "sites",
    "load_site": "sites",
    "make_stack": "scenes",
    "normalize": "steps.normalize",
    "open_stack": "io.stack",
    "read_pair": "io.stack",
    "segment": "steps.segment",
    "threshold": "steps.threshold",
}
_MODULES = ("errors", "grid", "io", "metrics", "pipeline", "scenes", "simulate", "sites", "steps")

__all__ = [
    "ChangedetError",
    "Findings",
    "Grid",
    "Plan",
    "Site",
    "__version__",
    "align",
    "compare",
    "detect",
    "diff",
    "difference",
    "evaluate",
    "find_scenes",
    "info",
    "list_sites",
    "load_site",
    "make_stack",
    "normalize",
    "open_stack",
    "read_pair",
    "segment",
    "threshold",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for (PEP 562)."""
    if name in _HOMES:
        found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    elif name in _MODULES:
        found = import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """List what can be asked for."""
    return sorted({*__all__, *_MODULES})
