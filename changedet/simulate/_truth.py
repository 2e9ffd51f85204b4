"""Tables of what really stood, passed by, or never changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from changedet.simulate._fields import Array
from changedet.simulate._render import window_coverage
from changedet.simulate._settings import SceneSettings
from changedet.simulate._terrain import Terrain
from changedet.simulate._traffic import Passing
from changedet.simulate._works import Structure

if TYPE_CHECKING:
    from affine import Affine
    from geopandas import GeoDataFrame
    from shapely import LineString

_NEVER = np.datetime64("NaT", "ns")
_COLUMNS = (
    "id", "kind", "material", "height_m", "start", "first_seen", "last_absent", "first_clear_seen", "removed",
    "last_seen", "area_m2", "status", "over", "contrast", "geometry",
)  # fmt: skip


@dataclass(frozen=True)
class Standing:
    """The works of a rendered stack and what the scenes let one see of them."""

    ground: Terrain
    transform: Affine  # of the delivered grid
    works: tuple[Structure, ...]
    dates: NDArray[np.datetime64]
    clear: NDArray[np.bool_]  # (time, y, x)
    water: Array  # (time, y, x)


def tables(
    settings: SceneSettings, standing: Standing, contrast: list[dict[int, float]]
) -> tuple[GeoDataFrame, GeoDataFrame]:
    """Structures, and structure x date; a structure that stands on no scene is in neither."""
    from geopandas import GeoDataFrame

    rows: list[dict[str, Any]] = []
    by_date: list[dict[str, Any]] = []
    for work in standing.works:
        prints = {k: work.footprint(standing.ground, date) for k, date in enumerate(standing.dates)}
        prints = {k: shape for k, shape in prints.items() if shape is not None}
        if not prints:
            continue
        by_date += [
            {"id": work.id, "date": standing.dates[k], "geometry": shape} for k, shape in prints.items()
        ]
        seen = [dark[work.id] for dark in contrast if work.id in dark]
        rows.append(_row(standing, work, prints) | {"contrast": float(np.median(seen)) if seen else np.nan})
    return (
        GeoDataFrame(rows, columns=list(_COLUMNS), geometry="geometry", crs=settings.crs),
        GeoDataFrame(by_date, columns=["id", "date", "geometry"], geometry="geometry", crs=settings.crs),
    )


def _row(standing: Standing, work: Structure, prints: dict[int, Any]) -> dict[str, Any]:
    """What is known of one structure."""
    dates, first, last = standing.dates, min(prints), max(prints)
    largest = max(prints.values(), key=lambda shape: float(shape.area))
    growing = work.grown is not None and bool(work.grown > dates[-1])
    removed = work.removed if work.removed is not None and bool(work.removed <= dates[-1]) else None
    clear = [k for k, shape in prints.items() if _mean(standing, standing.clear[k], shape) >= 0.5]
    return {
        "id": work.id, "kind": work.kind, "material": work.material, "height_m": work.height_m,
        "start": work.start, "first_seen": dates[first], "last_absent": dates[first - 1] if first else _NEVER,
        "first_clear_seen": dates[clear[0]] if clear else _NEVER,
        "removed": _NEVER if removed is None else removed,
        "last_seen": dates[last], "area_m2": float(largest.area), "geometry": largest,
        "status": "removed" if removed is not None else "growing" if growing else "persistent",
        "over": _over(standing, largest),
    }  # fmt: skip


def _over(standing: Standing, shape: Any) -> str:
    """Water: wet through nearly all scenes; land: dry through nearly all; else shore."""
    wet = float(np.mean([_mean(standing, layer, shape) for layer in standing.water]))
    return "water" if wet >= 0.8 else "land" if wet <= 0.1 else "shore"


def _mean(standing: Standing, layer: NDArray[Any], shape: Any) -> float:
    """Mean of a `(y, x)` layer over a footprint."""
    found = window_coverage(shape, standing.transform, (layer.shape[0], layer.shape[1]))
    if found is None:
        return 0.0
    return float((found[1] * layer[found[0]]).sum() / max(float(found[1].sum()), 1e-9))


def distractors(
    settings: SceneSettings, passing: tuple[Passing, ...], dates: NDArray[np.datetime64]
) -> GeoDataFrame:
    """What passed by, with its first and last scene date."""
    from geopandas import GeoDataFrame

    rows = [
        {"kind": p.kind, "first_date": dates[p.first], "last_date": dates[p.last], "geometry": p.geometry}
        for p in passing
    ]
    columns = ["kind", "first_date", "last_date", "geometry"]
    return GeoDataFrame(rows, columns=columns, geometry="geometry", crs=settings.crs)


def control(settings: SceneSettings, ground: Terrain) -> GeoDataFrame:
    """The rail bridge: deck and piers in one footprint."""
    from geopandas import GeoDataFrame
    from shapely import union_all

    shape = union_all([ground.rail, *ground.rail_piers])
    return GeoDataFrame({"name": ["rail bridge"], "geometry": [shape]}, geometry="geometry", crs=settings.crs)


def axis(ground: Terrain) -> LineString:
    """Line of the new bridge through the middle of the crossing."""
    from shapely import LineString

    reach = ground.crossing.width_m / 2 + min(300.0, 0.25 * min(ground.shape) * ground.transform.a)
    return LineString([ground.point(-reach, 0.0), ground.point(reach, 0.0)])
