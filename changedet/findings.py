"""What a run found: one frozen record that the tracker fills and the report and the writers read."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import geopandas as gpd
    import pandas as pd
    import xarray as xr


@dataclass(frozen=True)
class Findings:
    """Structures, alarms and the rasters they were drawn from, on the grid of the stack.

    Parameters
    ----------
    structures : one row a structure, columns of :data:`changedet.columns.STRUCTURES` and ``geometry``
    observations : one row a structure and date, columns of :data:`changedet.columns.OBSERVATIONS`
    alarms : rejected candidates, columns of :data:`changedet.columns.ALARMS` and ``geometry``
    axes, progress : columns of :data:`changedet.columns.AXES` (with geometry) and ``PROGRESS``
    statistic : (y, x) float32, evidence of a step in units of its own null noise, NaN = no decision
    first_seen : (y, x) uint32, yyyymmdd, 0 = none
    labels : (y, x) uint32, number of the structure (row order of ``structures``, from 1), 0 = none
    composite_before, composite_after : (band, y, x) float32
    record : what becomes ``run.json`` (version, plan, scenes, counts, warnings, …)
    """

    structures: gpd.GeoDataFrame
    observations: pd.DataFrame
    alarms: gpd.GeoDataFrame
    axes: gpd.GeoDataFrame
    progress: pd.DataFrame
    statistic: xr.DataArray
    first_seen: xr.DataArray
    labels: xr.DataArray
    composite_before: xr.DataArray
    composite_after: xr.DataArray
    record: dict[str, Any] = field(default_factory=dict)

    def patch(self, **changes: Any) -> Findings:
        """Return a copy with some fields changed."""
        return replace(self, **changes)
