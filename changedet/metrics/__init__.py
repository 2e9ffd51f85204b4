"""How good is it: objects, pixels, dates, identities and confidence against truth.

Everything is a pure function of tables and arrays; files are read elsewhere. 0/0 is NaN, its counts beside
it. ``evaluate`` is what the command of that name prints.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from changedet.errors import InputError
from changedet.metrics._objects import Matches, Pair, area_scores, match_objects, object_scores
from changedet.metrics._scores import auc, average_precision, calibration, confusion_scores, pixel_scores
from changedet.metrics._tracks import (
    date_scores,
    days,
    found_spans,
    scot,
    tracks,
    truth_date_column,
    truth_spans,
)

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from pandas import DataFrame

__all__ = [
    "Matches",
    "Options",
    "Pair",
    "PixelMaps",
    "area_scores",
    "auc",
    "average_precision",
    "calibration",
    "confusion_scores",
    "date_scores",
    "evaluate",
    "match_objects",
    "object_scores",
    "pixel_scores",
    "scot",
]


@dataclass(frozen=True)
class PixelMaps:
    """Maps on one grid, for scores by pixel.

    Parameters
    ----------
    found, truth : (y, x) bool, True = changed
    valid : (y, x) bool, True = count it; None: all
    score : (y, x) float evidence for AUC and AP, NaN = not ranked; None: neither is computed
    """

    found: npt.NDArray[Any]
    truth: npt.NDArray[Any]
    valid: npt.NDArray[Any] | None = None
    score: npt.NDArray[Any] | None = None


@dataclass(frozen=True)
class Options:
    """How :func:`evaluate` counts.

    Parameters
    ----------
    iou, pixel_m, small_area_m2, tolerance_m, area_ratio_max : see :func:`match_objects`
    count_unresolved : whether found structures of status "unresolved" count; both numbers are always given
    empty_f1 : F1 where there was nothing to find and nothing was found
    n_bins : bins of the calibration table
    """

    iou: float = 0.25
    pixel_m: float | None = None
    small_area_m2: float | None = None
    tolerance_m: float | None = None
    area_ratio_max: float = 4.0
    count_unresolved: bool = True
    empty_f1: float = math.nan
    n_bins: int = 10


def evaluate(
    found: GeoDataFrame,
    truth: GeoDataFrame,
    *,
    observations: DataFrame | None = None,
    truth_by_date: GeoDataFrame | None = None,
    maps: PixelMaps | None = None,
    options: Options | None = None,
) -> dict[str, Any]:
    """Hold what a run found against the truth.

    Parameters
    ----------
    found : structures of a run; needs polygons, uses ``id``, ``status``, the dates and ``confidence``
    truth : true structures as they are to be counted; polygons, uses ``id`` and one of the dates
        ``first_seen``, ``start``, ``date`` (in this order), and ``removed``
    observations : the run's table of structure × date (``id``, ``date``, ``seen``), for SCOT
    truth_by_date : true outlines by date (``id``, ``date``, polygon); default: the outline of ``truth`` from
        its date on, until ``removed``
    maps : rasters of the same comparison; without them ``pixels`` holds the scores of the polygons' areas
    options : how to count

    Returns
    -------
    dict
        ``objects``, ``pixels``, ``dates``, ``scot``, ``calibration`` as their functions give them, ready for
        JSON (NaN becomes None); None where the inputs lack what is needed, the reason then in
        ``not_computed``

    Raises
    ------
    CRSError, InputError, SettingError : see :func:`match_objects`
    """
    how = options or Options()
    decided = _resolved(found)
    with_all = _match(found, truth, how)
    resolved = with_all if len(decided) == len(found) else _match(decided, truth, how)
    counted = with_all if how.count_unresolved else resolved
    objects = object_scores(counted, empty_f1=how.empty_f1)
    for name, matches in (("with_unresolved", with_all), ("without_unresolved", resolved)):
        objects[name] = _headline(object_scores(matches, empty_f1=how.empty_f1))
    answers = {
        "pixels": _pixels(maps, counted, how),
        "dates": _dates(counted),
        "scot": _scot(counted, observations, truth_by_date, how),
        "calibration": _calibration(counted, how),
    }
    reasons = {name: answer for name, answer in answers.items() if isinstance(answer, str)}
    parts = {name: None if name in reasons else answer for name, answer in answers.items()}
    plain: dict[str, Any] = _plain({"objects": objects, **parts, "not_computed": reasons})
    return plain


def _match(found: GeoDataFrame, truth: GeoDataFrame, how: Options) -> Matches:
    """Match as the options say."""
    sizes = {name: getattr(how, name) for name in ("pixel_m", "small_area_m2", "tolerance_m")}
    return match_objects(found, truth, iou=how.iou, area_ratio_max=how.area_ratio_max, **sizes)


def _resolved(found: GeoDataFrame) -> GeoDataFrame:
    """Leave out what the run itself could not decide yet."""
    return found[found["status"] != "unresolved"] if "status" in found else found


def _headline(scores: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers of the objects' scores, without the lists."""
    return {name: scores[name] for name in ("n_found", "n_truth", "matched", "precision", "recall", "f1")}


def _pixels(maps: PixelMaps | None, matches: Matches, how: Options) -> dict[str, Any]:
    """Score the rasters, or for want of them the areas of the polygons."""
    if maps is None:
        return {"basis": "polygon areas", **area_scores(matches)}
    scores = pixel_scores(maps.found, maps.truth, maps.valid, score=maps.score, empty_f1=how.empty_f1)
    return {"basis": "pixels", **scores}


def _dates(matches: Matches) -> dict[str, Any] | str:
    """Score the dates, or say why not."""
    lacking = [name for name in ("first_seen", "last_absent") if name not in matches.found]
    if lacking:
        return f"found has no column {' or '.join(lacking)}"
    if truth_date_column(matches.truth) is None:
        return "truth has no dates: none of the columns first_seen, start, date"
    return date_scores(matches)


def _calibration(matches: Matches, how: Options) -> dict[str, Any] | str:
    """Score the confidence of the found, or say why not."""
    if "confidence" not in matches.found or not matches.found["confidence"].notna().any():
        return "found states no confidence"
    correct = np.zeros(len(matches.found), dtype=bool)
    correct[[pair.found for pair in matches.pairs]] = True
    return calibration(matches.found["confidence"].to_numpy(dtype=np.float64), correct, how.n_bins)


def _scot(
    matches: Matches, observations: DataFrame | None, truth_by_date: GeoDataFrame | None, how: Options
) -> dict[str, Any] | str:
    """Score identities over time, or say why not."""
    if observations is None:
        return "needs the run's observations (structure × date)"
    lacking = [name for name in ("id", "date", "seen") if name not in observations]
    if lacking:
        raise InputError(f"observations has no column {' or '.join(lacking)}")
    if truth_by_date is None and truth_date_column(matches.truth) is None:
        return "truth has no dates: none of the columns first_seen, start, date"
    when = np.unique(days(observations["date"]))
    if not len(when):
        return "the run's observations are empty"
    counted = observations[observations["id"].astype(str).isin(matches.found["id"])]
    claimed = tracks(matches.found, found_spans(counted, when), when)
    true = truth_by_date
    if true is None:
        true = tracks(matches.truth, truth_spans(matches.truth, when), when)
    true = true.assign(date=days(true["date"]).astype("datetime64[ns]")).drop_duplicates(["id", "date"])
    return scot(claimed, true[np.isin(days(true["date"]), when)], iou=how.iou, dates=list(when))


def _plain(value: Any) -> Any:
    """Turn NaN into None and numpy numbers into Python's, all the way down."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value
