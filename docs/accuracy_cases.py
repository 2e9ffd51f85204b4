"""What a run says of single objects of a simulated scene: ends of intervals, and each mistake with its facts.

Everything that is held against the run comes from the simulation: which pixels were given (not flagged by
the delivered mask) and truly free of cloud and its shadow, what was built, and what passed by or changed
without being built. See ``make_accuracy.py``.
"""

import base64
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
from accuracy_scenes import Scene, median
from rasterio.windows import Window
from shapely import MultiPolygon, Polygon, make_valid

from changedet.detector import Options
from changedet.simulate import coverage

MOST = 0.5
"""A date is usable for an object where more than this share of it is."""

KEPT = 10
"""Mistakes of each kind that a scene keeps with chips: as many as the page shows in all."""

CHIP_PX = (9, 40)
"""Least and largest half side of a chip."""

CHIP_DATES = 5


@dataclass(frozen=True)
class Ran:
    """A run on a scene.

    Parameters
    ----------
    scene : its folder
    gsd_m : pixel size
    structures, alarms, truth, others : polygons on the run's CRS; ``others``: what is no structure
    evidence : (y, x) of the run, NaN = no decision
    pairs : id of a true object → id of the structure that counts for it
    ious : the same → their overlap
    label : sensor, seed and works, for a case
    """

    scene: Scene
    gsd_m: float
    structures: gpd.GeoDataFrame
    alarms: gpd.GeoDataFrame
    truth: gpd.GeoDataFrame
    others: gpd.GeoDataFrame
    evidence: np.ndarray
    pairs: dict[str, str] = field(default_factory=dict)
    label: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, scene: Scene, results: Path, gsd_m: float, pairs: list[dict], label: dict) -> "Ran":
        """Read the files of a run, and the truth of its scene."""
        tables = results / "structures.gpkg"
        found, alarms = (gpd.read_file(tables, layer=name) for name in ("structures", "alarms"))
        with rasterio.open(results / "statistic.tif") as file:
            evidence = file.read(1)
        truth, others = (
            _repaired(gpd.read_file(path).to_crs(found.crs))
            for path in (scene.truth, scene.folder / "distractors.gpkg")
        )
        if not len(truth):  # a file without rows has no columns
            truth = truth.reindex(columns=["id", "kind", "geometry"])
        partner = {str(pair["truth"]): str(pair["found"]) for pair in pairs}
        truth["id"], found["id"] = truth["id"].astype(str), found["id"].astype(str)
        return cls(scene, gsd_m, found, alarms, truth, others, evidence, partner, label)

    def cover(self, geometry: Any) -> np.ndarray:
        """Return the share of each pixel that a footprint covers, (y, x)."""
        return coverage(geometry, self.scene.transform, self.scene.usable.shape[1:])

    def structure(self, name: str) -> Any:
        """Return a structure by its id."""
        return next(one for one in self.structures.itertuples() if one.id == name)


def _repaired(frame: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Return a table with valid polygons."""
    return frame.set_geometry([make_valid(one) for one in frame.geometry], crs=frame.crs)


def dates_on_which(layer: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """Return on which dates most of a footprint is in a (time, y, x) layer, (time,) bool."""
    rows, columns = np.nonzero(cover)
    share = cover[rows, columns]
    total = float(share.sum())
    return (layer[:, rows, columns] @ share) > MOST * total if total > 0 else np.zeros(len(layer), bool)


# ------------------------------------------------------------------------------------------- intervals


def interval_ends(ran: Ran) -> dict[str, int]:
    """Count the matched objects whose interval ends on consecutive usable dates, and why others do not.

    Both ends must be dates on which most of the true footprint was usable, with no such date between them.
    ``consecutive`` holds by what was given and truly clear, ``by_mask`` by the delivered masks alone.
    """
    out = dict.fromkeys(
        ("n", "consecutive", "by_mask", "open", "end_unusable", "skipped", "skipped_winter"), 0
    )
    for true in ran.truth.itertuples():
        if true.id not in ran.pairs:
            continue
        out["n"] += 1
        ends = _ends(ran, ran.structure(ran.pairs[true.id]))
        if ends is None:
            out["open"] += 1
            continue
        cover = ran.cover(true.geometry)
        usable = dates_on_which(ran.scene.usable, cover)
        out["by_mask"] += _consecutive(dates_on_which(ran.scene.given, cover), *ends)
        if _consecutive(usable, *ends):
            out["consecutive"] += 1
        elif not usable[list(ends)].all():
            out["end_unusable"] += 1
        else:
            between = np.flatnonzero(usable[ends[0] + 1 : ends[1]]) + ends[0] + 1
            out["skipped"] += 1
            out["skipped_winter"] += bool(ran.scene.about["winter"][between].all())
    return out


def _ends(ran: Ran, one: Any) -> tuple[int, int] | None:
    """Return the dates between which a structure appeared, None where an end is open."""
    names = ran.scene.names
    ends = (one.last_absent_scene, one.first_seen_scene)
    return (names.index(ends[0]), names.index(ends[1])) if all(end in names for end in ends) else None


def _consecutive(usable: np.ndarray, absent: int, first: int) -> bool:
    """Say whether both ends are usable and no date between them is."""
    return bool(usable[absent] and usable[first] and not usable[absent + 1 : first].any())


def unresolved(ran: Ran) -> dict[str, int]:
    """Count the structures that the run leaves unresolved, and the true objects that such a one matches."""
    names = set(ran.structures["id"][ran.structures["status"] == "unresolved"])
    return {"unresolved": len(names), "unresolved_true": len(names & set(ran.pairs.values()))}


# -------------------------------------------------------------------------------------------- mistakes


def mistakes(ran: Ran) -> list[dict[str, Any]]:
    """Return the gravest misses and the gravest false structures of a scene, with facts and chips.

    A miss is the graver the plainer the object: contrast times the root of its pixels and of the usable dates
    on its rarer side. A false structure is the graver the surer the run was.
    """
    matched = set(ran.pairs.values())
    missed = [missed_case(ran, true) for true in ran.truth.itertuples() if true.id not in ran.pairs]
    false = [false_case(ran, one) for one in ran.structures.itertuples() if one.id not in matched]
    out = []
    for cases in (missed, false):
        gravest = sorted(cases, key=lambda case: -case["gravity"])[:KEPT]
        out += [with_chips(ran, case) for case in gravest]
    return out


def missed_case(ran: Ran, true: Any) -> dict[str, Any]:
    """Return the facts about a true object that nothing counts for."""
    cover = ran.cover(true.geometry)
    usable = dates_on_which(ran.scene.usable, cover)
    first, last = (_index(ran, true, name) for name in ("first_seen", "last_seen"))
    before, after = usable.copy(), usable.copy()
    before[first:], after[:first], after[last + 1 :] = False, False, False
    pixels = float(true.geometry.area) / ran.gsd_m**2
    contrast = 0.0 if true.contrast is None or np.isnan(true.contrast) else float(true.contrast)
    sides = [int(before.sum()), int(after.sum())]
    plain = contrast * np.sqrt(pixels * min(sides))
    return {
        **ran.label, "what": "missed", "id": true.id, "kind": true.kind, "over": true.over, "px": pixels,
        "contrast": contrast, "before": sides[0], "after": sides[1], "said": said_there(ran, true, cover),
        "gravity": float(plain), "_geometry": true.geometry, "_dates": (before, after),
    }  # fmt: skip


def _index(ran: Ran, true: Any, name: str) -> int:
    """Return the position of the scene of a true date."""
    day = np.datetime64(str(getattr(true, name)).replace("Z", "")[:19], "s")
    moments = np.array([np.datetime64(_moment(one), "s") for one in ran.scene.names])
    return int(np.abs(moments - day).argmin())


def _moment(name: str) -> str:
    """Return the moment that the id of a scene stands for, ISO 8601."""
    return f"{name[:4]}-{name[4:6]}-{name[6:8]}T{name[9:11]}:{name[11:13]}:{name[13:15]}"


def said_there(ran: Ran, true: Any, cover: np.ndarray) -> str:
    """Say what the run made of the place of a true object that it missed."""
    one, shared = _most(ran.structures, true.geometry)
    if one is not None:
        other = next((t for t, f in ran.pairs.items() if f == one.id), None)
        if other is not None:
            kind = ran.truth.set_index("id")["kind"][other]
            return f"joined: {shared:.0%} of it lies in {one.id}, which counts for {other} ({kind})"
        union = true.geometry.union(one.geometry).area
        iou = true.geometry.intersection(one.geometry).area / union
        return f"found as {one.id} ({one.status}), but the outlines overlap by {iou:.2f} only"
    alarm, shared = _most(ran.alarms, true.geometry)
    if alarm is not None:
        seen = 0 if alarm.n_seen is None else int(alarm.n_seen)
        return f"alarm over {shared:.0%} of it: {alarm.reason}; seen on {seen} dates, snr {alarm.snr:.1f}"
    own = ran.evidence[: cover.shape[0], : cover.shape[1]][cover > 0]
    if not np.isfinite(own).any():
        return "not tested: too few usable dates on one side"
    strongest = float(np.nanmax(own))
    words = "no evidence" if strongest <= Options().seed_z else "evidence, but no object cut from it"
    return f"{words}: {strongest:.1f} times the noise at most"


def _most(frame: gpd.GeoDataFrame, geometry: Any) -> tuple[Any, float]:
    """Return the row that shares most with a footprint, and the share of the footprint; None for none."""
    shared = frame.geometry.intersection(geometry).area.to_numpy() if len(frame) else np.zeros(0)
    if not shared.any():
        return None, 0.0
    best = int(shared.argmax())
    return next(frame.iloc[[best]].itertuples()), float(shared[best] / geometry.area)


def false_case(ran: Ran, one: Any) -> dict[str, Any]:
    """Return the facts about a structure that counts for no true object."""
    cover = ran.cover(one.geometry)
    usable = dates_on_which(ran.scene.usable, cover)
    first = ran.scene.names.index(one.first_seen_scene)
    late = np.arange(usable.size) >= first
    sure = float(one.confidence) if one.confidence is not None else float("nan")
    dates = (usable & ~late, usable & late)
    return {
        **ran.label, "what": "false", "id": one.id, "kind": one.kind, "over": one.over,
        "px": float(one.geometry.area) / ran.gsd_m**2, "contrast": None, "before": int(dates[0].sum()),
        "after": int(dates[1].sum()), "gravity": 0.0 if np.isnan(sure) else sure,
        "said": f"{one.status}, confidence {sure:.2f}; truly there: {truly_there(ran, one)}",
        "_geometry": one.geometry, "_dates": dates,
    }  # fmt: skip


def truly_there(ran: Ran, one: Any) -> str:
    """Say what the simulation has where the run holds that something was built."""
    near = ran.truth[ran.truth.geometry.distance(one.geometry) <= 2 * ran.gsd_m]
    if len(near):
        true = next(near.iloc[[int(near.geometry.distance(one.geometry).argmin())]].itertuples())
        how = "part of, or beside," if true.id in ran.pairs else "a miss,"
        by = f", for which {ran.pairs[true.id]} counts" if true.id in ran.pairs else ""
        return f"{how} {true.id} ({true.kind}){by}"
    other, shared = _most(ran.others, one.geometry)
    if other is None:
        return "nothing that the simulation lists"
    since, until = (str(date)[:10] for date in (other.first_date, other.last_date))
    return f"{other.kind} over {shared:.0%} of it, {since} to {until}"


# ----------------------------------------------------------------------------------------------- chips


def with_chips(ran: Ran, case: dict[str, Any]) -> dict[str, Any]:
    """Return a case with its two chips and its outline, without what no file can hold."""
    geometry, dates = case["_geometry"], case["_dates"]
    kept = {name: value for name, value in case.items() if not name.startswith("_")}
    kept["at_px"] = [round(v, 1) for v in ~ran.scene.transform @ (geometry.centroid.x, geometry.centroid.y)]
    kept["winter"] = int((dates[1] & ran.scene.about["winter"]).sum())
    window = _window(ran, geometry)
    before, after = (_composite(ran, np.flatnonzero(side), window, late=side is dates[0]) for side in dates)
    inside = ran.cover(geometry)[window.toslices()] > MOST
    if kept["contrast"] is None and inside.any():
        kept["contrast"] = float(np.nanmean(np.abs(after - before)[:, inside]))
    both = np.stack([before, after])[:, [2, 1, 0]]  # blue, green, red as red, green, blue
    low, high = np.nanpercentile(both, (1, 99)) if np.isfinite(both).any() else (0.0, 1.0)
    shown = np.clip((np.nan_to_num(both, nan=low) - low) / max(high - low, 1e-3), 0, 1)
    pixels = np.round(255 * shown).astype(np.uint8).transpose(0, 2, 3, 1)
    kept["chips"] = base64.b64encode(zlib.compress(pixels.tobytes())).decode()
    kept["chips_shape"] = list(pixels.shape)
    kept["outline"] = _outline(ran, geometry, window)
    return kept


def chips_of(case: dict[str, Any]) -> np.ndarray:
    """Return the chips of a case, (2, y, x, 3) uint8: before and after."""
    pixels = zlib.decompress(base64.b64decode(case["chips"]))
    return np.frombuffer(pixels, np.uint8).reshape(case["chips_shape"])


def _window(ran: Ran, geometry: Any) -> Window:
    """Return the window of a chip: the footprint with some ground around it, within limits."""
    left, bottom, right, top = geometry.bounds
    column, row = ~ran.scene.transform @ ((left + right) / 2, (bottom + top) / 2)
    half = int(np.clip(0.5 * max(right - left, top - bottom) / ran.gsd_m + 8, *CHIP_PX))
    rows, columns = ran.scene.usable.shape[1:]
    top, left = (
        int(np.clip(at - half, 0, max(size - 2 * half, 0))) for at, size in ((row, rows), (column, columns))
    )
    return Window(left, top, min(2 * half, columns), min(2 * half, rows))


def _composite(ran: Ran, dates: np.ndarray, window: Window, *, late: bool) -> np.ndarray:
    """Return the median of the nearest usable dates of one side, (band, y, x) reflectance."""
    picked = dates[-CHIP_DATES:] if late else dates[:CHIP_DATES]
    images = []
    for t in picked:
        with rasterio.open(ran.scene.files / f"{ran.scene.names[t]}.tif") as file:
            image = file.read(window=window).astype(np.float32) / 1e4
        images.append(np.where(ran.scene.usable[t][window.toslices()], image, np.nan))
    size = (len(ran.scene.about["bands"]), window.height, window.width)
    return median(np.stack(images)) if images else np.full(size, np.nan, np.float32)


def _outline(ran: Ran, geometry: Any, window: Window) -> list[list[list[float]]]:
    """Return the rings of a footprint in pixels of the chip, (x, y) with 0 at the corner."""
    parts = geometry.geoms if isinstance(geometry, MultiPolygon) else [geometry]
    rings = []
    for part in parts:
        if isinstance(part, Polygon):
            across = [~ran.scene.transform @ point[:2] for point in part.exterior.coords]
            rings.append([[round(x - window.col_off, 2), round(y - window.row_off, 2)] for x, y in across])
    return rings
