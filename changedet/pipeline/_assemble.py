"""From judged objects to the tables and rasters of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from changedet import detector
from changedet.blocks import windows
from changedet.columns import table
from changedet.findings import Findings
from changedet.grid import Grid, attach
from changedet.scenes import years
from changedet.steps import aggregate, classify, mask
from changedet.steps._robust import middle
from changedet.steps.segment import measure_polygons

Array = npt.NDArray[Any]

MIN_AREA_M2 = 9.0
"""Smallest structure reported where no area is given: a pier of 3 × 3 m."""

MIN_PX = 2
VISIBLE = ("blue", "green", "red")


@dataclass(frozen=True)
class Detection:
    """What the detector returned, with the stack it looked at.

    Parameters
    ----------
    native : the stack as read, aligned and normalized
    stack : the same, averaged over blocks of ``size`` × ``size`` pixels: what the detector looked at
    """

    native: xr.Dataset
    stack: xr.Dataset
    size: int
    model: detector.Fitted
    maps: detector.Maps
    objects: list[detector.Object]

    @property
    def grid(self) -> Grid:
        """Grid that the detector worked on."""
        return Grid.of(self.stack)

    def fine(self, values: Array, name: str, *, fill: float = 0) -> xr.DataArray:
        """Return an image of the detector on the grid of the stack as read."""
        grid = Grid.of(self.native)
        return attach(aggregate.expand(values, self.size, grid.shape, fill=fill), grid, name=name)


def least_area_m2(gsd_m: float, asked: float | None) -> float:
    """Return the area under which a structure is an alarm: what was asked for, else by the pixel size."""
    least = max(MIN_AREA_M2, MIN_PX * gsd_m**2) if asked is None else asked
    return least * (1 - 1e-6)


def findings(found: Detection, *, min_area_m2: float | None, axes: Any, record: dict[str, Any]) -> Findings:
    """Build the tables and rasters of a run.

    Parameters
    ----------
    found : what the detector returned
    min_area_m2 : smaller structures become alarms (too small); from the pixel size where None
    axes : axes of the site on the grid's CRS, or None
    record : what is known for ``run.json`` so far
    """
    import geopandas as gpd

    least = least_area_m2(found.grid.gsd_m, min_area_m2)
    table_all = _measured(found, least, of_pixels=min_area_m2 is None)
    kept = table_all[table_all["status"].notna()].reset_index(drop=True)
    structures = _structures(found, kept)
    labels, first = _rasters(found, kept)
    alarms = _alarms(found, table_all[table_all["status"].isna()].reset_index(drop=True))
    before, after = composites(found)
    empty = gpd.GeoDataFrame(
        table("axes", []), geometry=gpd.GeoSeries([], crs=found.grid.crs), crs=found.grid.crs
    )
    return Findings(
        structures=structures,
        observations=_observations(found, kept),
        alarms=alarms,
        axes=empty if axes is None else axes,
        progress=table("progress", []),
        statistic=found.fine(found.maps.z, "statistic", fill=np.nan).assign_attrs(
            units="1", long_name="evidence of a step, in units of the noise of its own surroundings"
        ),
        first_seen=found.fine(first, "first_seen"),
        labels=found.fine(labels, "labels"),
        composite_before=before,
        composite_after=after,
        record=record,
    )


def _measured(found: Detection, min_area_m2: float, *, of_pixels: bool) -> Any:
    """Return one row an object with its outline, its measures and its verdict; too small ones are alarms.

    Where nobody asked for an area, the least one is about evidence: that of the pixels touched.
    """
    import geopandas as gpd

    labels = np.zeros(found.grid.shape, np.int32)
    for number, one in enumerate(found.objects, start=1):
        labels[one.candidate.rows, one.candidate.columns] = number
    outlines = found.grid.polygons(labels)
    frame = gpd.GeoDataFrame(
        {"number": outlines["label"].to_numpy() - 1},
        geometry=outlines.geometry.to_numpy(),
        crs=found.grid.crs,
    )
    objects = [found.objects[i] for i in frame["number"]]
    touched = measure_polygons(frame.geometry, found.grid.crs)["area_m2"]
    frame["geometry"] = [
        _of_light(outline, one, found.grid) for outline, one in zip(frame.geometry, objects, strict=True)
    ]
    frame = frame.join(measure_polygons(frame.geometry, found.grid.crs))
    small = np.asarray(touched if of_pixels else frame["area_m2"]) < min_area_m2
    status = [None if s else o.verdict.status for o, s in zip(objects, small, strict=True)]
    reason = [
        "too-small" if s and o.verdict.status else o.verdict.reason
        for o, s in zip(objects, small, strict=True)
    ]
    frame["status"], frame["reason"] = pd.Series(status, dtype=object), pd.Series(reason, dtype=object)
    return frame


def _of_light(outline: Any, one: detector.Object, grid: Grid) -> Any:
    """Return an outline shrunk to the area that the object's light amounts to, about its middle."""
    from shapely.affinity import affine_transform

    if one.extent is None:
        return outline
    factor = float(np.sqrt(min(one.extent.area_px / one.candidate.rows.size, 1.0)))
    x, y = grid.transform @ (one.extent.column + 0.5, one.extent.row + 0.5)
    middle = outline.centroid
    matrix = [factor, 0, 0, factor, x - factor * middle.x, y - factor * middle.y]
    return affine_transform(outline, matrix)


def _date(found: Detection, index: int) -> str | None:
    """Return the date of a scene as ISO 8601 UTC, None where unknown."""
    return None if index < 0 else f"{np.datetime_as_string(found.stack.time.values[index], unit='s')}Z"


def _scene(found: Detection, index: int) -> str | None:
    """Return the id of a scene, None where unknown."""
    return None if index < 0 else str(found.stack.scene.values[index])


def over(stratum: Array, rows: Array, columns: Array, *, most: float = 0.6) -> str:
    """Say whether pixels lie over water, shore or land."""
    share = np.bincount(stratum[rows, columns], minlength=3) / max(rows.size, 1)
    top = int(share.argmax())
    return mask.STRATA[top] if share[top] >= most else "shore"


def bank_distance_m(found: Detection) -> Array | None:
    """Return the distance to the nearest bank, (y, x) m, positive over water; None without water or land."""
    from scipy.ndimage import distance_transform_edt

    water = found.maps.stratum == 0
    if not water.any() or water.all():
        return None
    gsd = found.grid.gsd_m
    inside, outside = distance_transform_edt(water), distance_transform_edt(~water)
    return np.where(water, inside - 0.5, 0.5 - outside) * gsd


def _structures(found: Detection, kept: Any) -> Any:
    """Return the table of structures."""
    import geopandas as gpd

    bank = bank_distance_m(found)
    rows = [_structure(found, row, number, bank) for number, row in enumerate(kept.itertuples(), start=1)]
    frame = table("structures", rows)
    return gpd.GeoDataFrame(frame, geometry=list(kept.geometry), crs=found.grid.crs)


def _structure(found: Detection, row: Any, number: int, bank: Array | None) -> dict[str, Any]:
    """Return one row of the table of structures."""
    one = found.objects[row.number]
    pixels = (one.candidate.rows, one.candidate.columns)
    verdict, series = one.verdict, one.series
    setting = over(found.maps.stratum, *pixels)
    near = None if bank is None else float(np.median(bank[pixels]))
    from_first = np.arange(series.value.size) >= verdict.first
    bands = [i for i, b in enumerate(found.stack.band.values) if b in VISIBLE]
    brighter = float(one.candidate.delta[bands].mean() if bands else one.candidate.delta.mean())
    shape = classify.Shape(row.area_m2, row.length_m, row.width_m, setting, near, row.status, brighter)
    return {
        "id": f"S{number:03d}",
        "kind": classify.classify(shape),
        "status": row.status,
        "first_seen": _date(found, verdict.first),
        "first_seen_scene": _scene(found, verdict.first),
        "last_absent": _date(found, verdict.last_absent),
        "last_absent_scene": _scene(found, verdict.last_absent),
        "confirmed": _date(found, verdict.confirmed),
        "last_seen": _date(found, verdict.last),
        "area_m2": row.area_m2,
        "length_m": row.length_m,
        "width_m": row.width_m,
        "bearing_deg": row.bearing_deg,
        "over": setting,
        "bank_m": near,
        "confidence": None if np.isnan(one.confidence) else one.confidence,
        "p_value": None if np.isnan(one.p_value) else one.p_value,
        "snr": verdict.snr,
        "n_before": int((series.usable & ~from_first).sum()),
        "n_after": int((series.usable & from_first).sum()),
        "n_after_unfrozen": int((series.usable & from_first & ~series.frozen).sum()),
        "n_seen": int(verdict.seen.sum()),
    }


def _observations(found: Detection, kept: Any) -> Any:
    """Return the table of structures × dates."""
    rows = []
    for number, row in enumerate(kept.itertuples(), start=1):
        one = found.objects[row.number]
        for t, value in enumerate(one.series.value):
            usable = bool(one.series.usable[t])
            seen = bool(one.verdict.seen[t])
            rows.append(
                {
                    "id": f"S{number:03d}",
                    "scene": _scene(found, t),
                    "date": _date(found, t),
                    "seen": "seen" if seen else "absent" if usable else "unseen",
                    "statistic": float(value) if usable else None,
                    "area_m2": float(row.area_m2 * one.series.share[t]) if seen else None,
                }
            )
    return table("observations", rows)


def _alarms(found: Detection, dropped: Any) -> Any:
    """Return the table of alarms."""
    import geopandas as gpd

    rows = []
    for number, row in enumerate(dropped.itertuples(), start=1):
        one = found.objects[row.number]
        rows.append(
            {
                "id": f"A{number:03d}",
                "reason": row.reason,
                "first_seen": _date(found, one.verdict.first),
                "last_absent": _date(found, one.verdict.last_absent),
                "area_m2": row.area_m2,
                "over": over(found.maps.stratum, one.candidate.rows, one.candidate.columns),
                "snr": one.verdict.snr,
                "p_value": None if np.isnan(one.p_value) else one.p_value,
                "n_seen": int(one.verdict.seen.sum()),
            }
        )
    return gpd.GeoDataFrame(table("alarms", rows), geometry=list(dropped.geometry), crs=found.grid.crs)


def _rasters(found: Detection, kept: Any) -> tuple[Array, Array]:
    """Return labels and first dates (yyyymmdd) of the structures, (y, x) uint32."""
    labels, first = np.zeros(found.grid.shape, np.uint32), np.zeros(found.grid.shape, np.uint32)
    for number, row in enumerate(kept.itertuples(), start=1):
        one = found.objects[row.number]
        pixels = (one.candidate.rows, one.candidate.columns)
        labels[pixels] = number
        day = np.datetime_as_string(found.stack.time.values[one.verdict.first], unit="D")
        first[pixels] = int(day.replace("-", ""))
    return labels, first


def composite_dates(found: Detection, *, most: int = 5) -> tuple[Array, Array]:
    """Choose dates for the composites: the last open ones after, early ones of the same season before."""
    open_dates = (found.model.setting.usable > 0.3) & ~found.model.setting.frozen.any(axis=1)
    dates = np.flatnonzero(open_dates) if open_dates.sum() >= 4 else np.arange(open_dates.size)
    after = dates[-min(most, max(dates.size // 2, 1)) :]
    early = dates[dates < after[0]][: max(dates.size // 2, 1)]
    season = years(found.stack) % 1.0
    apart = np.abs(season[early][:, None] - season[after][None, :])
    apart = np.minimum(apart, 1 - apart).min(axis=1)
    before = np.sort(early[np.argsort(apart, kind="stable")[:most]]) if early.size else after
    return before, after


def composites(found: Detection) -> tuple[xr.DataArray, xr.DataArray]:
    """Return season-matched cloud-free composites (medians over time) before and after, (band, y, x)."""
    result, grid = [], Grid.of(found.native)
    for dates in composite_dates(found):
        out = np.full((found.native.sizes["band"], *grid.shape), np.nan, np.float32)
        for tile in windows(grid.shape, detector.TILE_PX):
            rows, columns = tile.inner
            values = found.native.image.isel(time=dates, y=rows, x=columns).values
            out[:, rows, columns] = middle(values)
        names = found.native.band.values
        coords = {"band": names}
        result.append(attach(out, grid, dims=("band", "y", "x"), coords=coords, name="composite"))
    return result[0], result[1]
