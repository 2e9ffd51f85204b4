"""Objects against objects: who is who, one to one, and what is left over."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from changedet.errors import CRSError, InputError, SettingError
from changedet.metrics._scores import ratio

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

Ints = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]

#: Below this size IoU jumps with half a pixel of shift, so nearness counts as well.
SMALL_PX = 25
#: How far, in pixels, the centroid of a small object may lie off, unless ``tolerance_m`` says otherwise.
TOLERANCE_PX = 2.0


@dataclass(frozen=True)
class Pair:
    """A found object (row ``found``) that is a true one (row ``truth``).

    ``how`` is "iou" (they overlap enough) or "near" (a small object, close by and of like size).
    """

    found: int
    truth: int
    iou: float
    distance_m: float
    how: Literal["iou", "near"]


@dataclass(frozen=True)
class Overlaps:
    """Every found × true pair that shares area: rows ``found``, ``truth`` and the shared ``area_m2``."""

    found: Ints
    truth: Ints
    area_m2: Floats


@dataclass(frozen=True)
class Matches:
    """The outcome of :func:`match_objects`.

    Parameters
    ----------
    found, truth : both frames in one projected CRS, rows as given, with a column ``id`` of text
    pairs : one-to-one
    overlaps : all pairs that share area, matched or not
    tolerance_m : how near counted as near, 0 = only what touches
    """

    found: GeoDataFrame
    truth: GeoDataFrame
    pairs: tuple[Pair, ...]
    overlaps: Overlaps
    tolerance_m: float


def match_objects(
    found: GeoDataFrame,
    truth: GeoDataFrame,
    *,
    iou: float = 0.25,
    pixel_m: float | None = None,
    small_area_m2: float | None = None,
    tolerance_m: float | None = None,
    area_ratio_max: float = 4.0,
) -> Matches:
    """Match found objects with true ones, one to one.

    First the largest number of pairs with enough overlap, and of those the set with the largest total IoU
    (Hungarian). Then, if ``pixel_m`` or ``tolerance_m`` is given, true objects that are small and still alone
    may take a found object that is near and of like size: IoU of a few pixels jumps with half a pixel.

    Parameters
    ----------
    found, truth : polygons, with a column ``id`` if there is one; with a CRS, or both without (unit: pixels)
    iou : smallest intersection over union that is a match, 0 (exclusive) to 1
    pixel_m : pixel size of the images; sets the defaults of the next two
    small_area_m2 : a true object below this is small; default 25 pixels, without ``pixel_m`` any size
    tolerance_m : largest distance of centroids for a small object; default two pixels, without ``pixel_m`` 0,
        which turns the rule for small objects off
    area_ratio_max : largest ratio of the two areas for a small object, at least 1

    Returns
    -------
    Matches
        In the CRS of ``truth`` if that is projected in true metres, else in the UTM zone of the objects.

    Raises
    ------
    SettingError : a value is out of range
    CRSError : only one frame has a CRS
    InputError : a geometry is missing or has no area, or two rows have one id
    """
    sizes = {"pixel_m": pixel_m, "small_area_m2": small_area_m2, "tolerance_m": tolerance_m}
    _check_settings(iou, sizes, area_ratio_max)
    found, truth = to_common_crs(found, truth)
    overlaps = shared_area(found.geometry.array, truth.geometry.array)
    pairs = _by_overlap(found, truth, overlaps, iou)
    reach_m = tolerance_m if tolerance_m is not None else TOLERANCE_PX * (pixel_m or 0.0)
    small_m2 = SMALL_PX * pixel_m**2 if pixel_m else math.inf
    small_m2 = small_m2 if small_area_m2 is None else small_area_m2
    if reach_m > 0:
        free = _left_over(found, [p.found for p in pairs]), _left_over(truth, [p.truth for p in pairs])
        small = free[1][truth.area.to_numpy()[free[1]] < small_m2]
        pairs += _by_nearness(found, truth, (free[0], small), (reach_m, area_ratio_max))
    return Matches(found, truth, tuple(sorted(pairs, key=lambda p: p.truth)), overlaps, reach_m)


def object_scores(matches: Matches, *, empty_f1: float = math.nan) -> dict[str, Any]:
    """Count what was found, missed and made up.

    Parameters
    ----------
    matches : from :func:`match_objects`
    empty_f1 : F1 where there was nothing to find and nothing was found

    Returns
    -------
    dict
        ``n_found``, ``n_truth``, ``matched`` (counts), ``precision`` = matched / found, ``recall`` = matched
        / truth, ``f1``, ``iou_only`` (the same without the rule for small objects), ``mean_iou`` of the
        matched, ``pairs``; ids ``missed``, ``false`` (unmatched and not near any true object),
        ``false_near_truth`` (unmatched, but touching one or within the tolerance: fragments and outgrowths),
        ``precision_far`` (only ``false`` held against it); ``splits`` (a true object that holds most of
        several found ones) and ``merges`` (a found object that holds most of several true ones). 0/0 is NaN.
    """
    found, truth, pairs = matches.found, matches.truth, matches.pairs
    false, near = _false(matches)
    by_iou = [pair for pair in pairs if pair.how == "iou"]
    return {
        **_rates(len(pairs), len(found), len(truth), empty_f1),
        "iou_only": _rates(len(by_iou), len(found), len(truth), empty_f1),
        "mean_iou": float(np.mean([p.iou for p in pairs])) if pairs else math.nan,
        "precision_far": ratio(len(pairs), len(pairs) + len(false)),
        "pairs": [
            {"found": found["id"].iloc[p.found], "truth": truth["id"].iloc[p.truth], "iou": p.iou,
             "distance_m": p.distance_m, "how": p.how}
            for p in pairs
        ],
        "missed": ids_of(truth, _left_over(truth, [p.truth for p in pairs])),
        "false": ids_of(found, false),
        "false_near_truth": ids_of(found, near),
        "splits": _held(matches, "truth"),
        "merges": _held(matches, "found"),
    }  # fmt: skip


def area_scores(matches: Matches) -> dict[str, float]:
    """Precision, recall, F1 and IoU of the areas, overlaps within a frame counted once; 0/0 is NaN."""
    from shapely import area, intersection, union_all

    found, truth = (union_all(frame.geometry.array) for frame in (matches.found, matches.truth))
    shapes = intersection(found, truth), found, truth
    both, all_found, all_truth = (float(area(one)) for one in shapes)
    return {
        "true_m2": both,
        "false_m2": all_found - both,
        "missed_m2": all_truth - both,
        "precision": ratio(both, all_found),
        "recall": ratio(both, all_truth),
        "f1": ratio(2 * both, all_found + all_truth),
        "iou": ratio(both, all_found + all_truth - both),
    }


def to_common_crs(found: GeoDataFrame, truth: GeoDataFrame) -> tuple[GeoDataFrame, GeoDataFrame]:
    """Return copies in one CRS with true metres, valid, ``id`` as text; see :func:`match_objects`."""
    found, truth = _tidy(found, "found"), _tidy(truth, "truth")
    if (found.crs is None) != (truth.crs is None):
        if len(found) and len(truth):
            seen = f"found has CRS {found.crs}, truth has {truth.crs}"
            raise CRSError(f"{seen}; give both a CRS, or neither to work in pixels")
        crs = found.crs or truth.crs
        found, truth = found.set_crs(crs), truth.set_crs(crs)
    if truth.crs is None:
        return found, truth
    crs = _metric_crs(truth if len(truth) else found)
    return found.to_crs(crs), truth.to_crs(crs)


def shared_area(found: Any, truth: Any) -> Overlaps:
    """Return every pair of found and true geometries that share area (touching does not)."""
    from shapely import STRtree, area, intersection

    left, right = STRtree(truth).query(found, predicate="intersects")
    shared = area(intersection(np.asarray(found)[left], np.asarray(truth)[right]))
    real = shared > 0
    return Overlaps(left[real], right[real], shared[real])


def iou_of(overlaps: Overlaps, found_m2: Floats, truth_m2: Floats) -> Floats:
    """Return intersection over union of every overlapping pair."""
    union = found_m2[overlaps.found] + truth_m2[overlaps.truth] - overlaps.area_m2
    return np.asarray(overlaps.area_m2 / union, dtype=np.float64)


def assign(left: Ints, right: Ints, score: Floats) -> Ints:
    """Choose a one-to-one subset of candidate pairs: as many as possible, then the highest total score.

    Parameters
    ----------
    left, right : (n,) the two ends of every candidate pair; no pair twice
    score : (n,) 0 to 1

    Returns
    -------
    (m,) positions of the chosen pairs
    """
    from scipy.optimize import linear_sum_assignment

    chosen: list[Ints] = [np.empty(0, dtype=np.intp)]
    for part in _components(left, right):
        rows, row = np.unique(left[part], return_inverse=True)
        columns, column = np.unique(right[part], return_inverse=True)
        number = np.full((len(rows), len(columns)), -1, dtype=np.intp)
        number[row, column] = part
        gain = np.zeros(number.shape)
        gain[row, column] = min(number.shape) + 1.0 + score[part]  # one pair more outweighs any score
        picked = number[linear_sum_assignment(gain, maximize=True)]
        chosen.append(picked[picked >= 0])
    return np.concatenate(chosen)


def ids_of(frame: GeoDataFrame, rows: Iterable[int]) -> list[str]:
    """Return the ids of some rows."""
    return [str(one) for one in frame["id"].iloc[list(rows)]]


def _components(left: Ints, right: Ints) -> list[Ints]:
    """Split candidate pairs into groups that share no object, so that each is a small problem."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    if not len(left):
        return []
    n_left, size = int(left.max()) + 1, int(left.max() + right.max()) + 2
    graph = coo_matrix((np.ones(len(left)), (left, right + n_left)), shape=(size, size))
    label = connected_components(graph, directed=False)[1][left]
    order = np.argsort(label, kind="stable")
    return list(np.split(order, np.flatnonzero(np.diff(label[order])) + 1))


def _by_overlap(found: GeoDataFrame, truth: GeoDataFrame, overlaps: Overlaps, iou: float) -> list[Pair]:
    """Match by intersection over union."""
    ious = iou_of(overlaps, found.area.to_numpy(), truth.area.to_numpy())
    enough = np.flatnonzero(ious >= iou)
    picked = enough[assign(overlaps.found[enough], overlaps.truth[enough], ious[enough])]
    left, right = overlaps.found[picked], overlaps.truth[picked]
    away = _distance(found, truth, left, right)
    rows = zip(left, right, ious[picked], away, strict=True)
    return [Pair(int(f), int(t), float(one), float(d), "iou") for f, t, one, d in rows]


def _by_nearness(
    found: GeoDataFrame, truth: GeoDataFrame, free: tuple[Ints, Ints], limits: tuple[float, float]
) -> list[Pair]:
    """Match what is still free by the distance of centroids, sizes being alike."""
    from shapely import STRtree, area, centroid, intersection

    reach_m, ratio_max = limits
    left, right = STRtree(centroid(truth.geometry.array[free[1]])).query(
        centroid(found.geometry.array[free[0]]), predicate="dwithin", distance=reach_m
    )
    left, right = free[0][left], free[1][right]
    sizes, true_sizes = found.area.to_numpy()[left], truth.area.to_numpy()[right]
    alike = np.maximum(sizes / true_sizes, true_sizes / sizes) <= ratio_max
    left, right, sizes, true_sizes = left[alike], right[alike], sizes[alike], true_sizes[alike]
    away = _distance(found, truth, left, right)
    shared = area(intersection(found.geometry.array[left], truth.geometry.array[right]))
    ious = shared / (sizes + true_sizes - shared)
    return [
        Pair(int(left[k]), int(right[k]), float(ious[k]), float(away[k]), "near")
        for k in assign(left, right, 1 - away / reach_m)
    ]


def _distance(found: GeoDataFrame, truth: GeoDataFrame, left: Ints, right: Ints) -> Floats:
    """Return the distance of centroids of pairs."""
    from shapely import centroid, distance

    ends = centroid(found.geometry.array[left]), centroid(truth.geometry.array[right])
    return np.asarray(distance(*ends), dtype=np.float64)


def _left_over(frame: GeoDataFrame, rows: list[int]) -> Ints:
    """Return the rows that are not in ``rows``."""
    return np.setdiff1d(np.arange(len(frame)), np.asarray(rows, dtype=np.intp))


def _false(matches: Matches) -> tuple[Ints, Ints]:
    """Split unmatched found objects into those far from every true object and those near one."""
    from shapely import STRtree

    alone = _left_over(matches.found, [pair.found for pair in matches.pairs])
    tree, shapes = STRtree(matches.truth.geometry.array), matches.found.geometry.array[alone]
    near = alone[np.unique(tree.query(shapes, predicate="dwithin", distance=matches.tolerance_m)[0])]
    return np.setdiff1d(alone, near), near


def _held(matches: Matches, holder: Literal["found", "truth"]) -> list[dict[str, Any]]:
    """Return the objects of one frame that hold at least half the area of two or more of the other."""
    held: Literal["found", "truth"] = "truth" if holder == "found" else "found"
    frames = {"found": matches.found, "truth": matches.truth}
    outer, inner = getattr(matches.overlaps, holder), getattr(matches.overlaps, held)
    most = matches.overlaps.area_m2 >= 0.5 * frames[held].area.to_numpy()[inner]
    rows, counts = np.unique(outer[most], return_counts=True)
    return [
        {holder: ids_of(frames[holder], [row])[0], held: ids_of(frames[held], inner[most & (outer == row)])}
        for row in rows[counts > 1]
    ]


def _rates(matched: int, n_found: int, n_truth: int, empty_f1: float) -> dict[str, float]:
    """Return counts and rates."""
    f1 = ratio(2 * matched, n_found + n_truth) if n_found + n_truth else empty_f1
    counts = {"n_found": n_found, "n_truth": n_truth, "matched": matched}
    return {**counts, "precision": ratio(matched, n_found), "recall": ratio(matched, n_truth), "f1": f1}


def _check_settings(iou: float, sizes: dict[str, float | None], ratio_max: float) -> None:
    """Refuse values that cannot be meant."""
    if not 0 < iou <= 1:
        raise SettingError(f"iou is {iou}; wanted more than 0, at most 1")
    if not ratio_max >= 1:
        raise SettingError(f"area_ratio_max is {ratio_max}; wanted at least 1")
    for name, value in sizes.items():
        if value is not None and not (value >= 0 and math.isfinite(value)):
            raise SettingError(f"{name} is {value}; wanted a size, at least 0")


def _tidy(frame: GeoDataFrame, what: str) -> GeoDataFrame:
    """Return a copy with valid polygons and unique ids of text."""
    import geopandas as gpd
    from shapely import area, is_valid, make_valid

    if not hasattr(frame, "geometry"):
        raise InputError(f"{what} is a table without geometry; wanted polygons")
    frame = frame.reset_index(drop=True)
    shapes = np.asarray(frame.geometry.array)
    shapes = np.where(is_valid(shapes), shapes, make_valid(shapes))
    bad = np.flatnonzero(~(area(shapes) > 0))
    if len(bad):
        raise InputError(f"{what}: {len(bad)} rows have no area, the first is row {bad[0]}; wanted polygons")
    frame = frame.set_geometry(gpd.GeoSeries(shapes, crs=frame.crs))
    frame["id"] = frame["id"].astype(str) if "id" in frame else frame.index.astype(str)
    if not frame["id"].is_unique:
        twice = frame["id"][frame["id"].duplicated()].iloc[0]
        raise InputError(f"{what} has the id {twice!r} more than once; wanted one row an object")
    return frame


def _metric_crs(frame: GeoDataFrame) -> Any:
    """Return the frame's CRS if its metres are true, else its UTM zone."""
    crs = frame.crs
    if crs.is_projected and crs.axis_info[0].unit_name == "metre" and crs.to_epsg() != 3857:
        return crs
    return frame.estimate_utm_crs() if len(frame) else crs
