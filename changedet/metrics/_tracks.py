"""Objects in time: whether the dates are right, and whether an object keeps its identity."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from changedet.errors import DateError, InputError, SettingError
from changedet.metrics._objects import Matches, assign, ids_of, iou_of, shared_area, to_common_crs
from changedet.metrics._scores import ratio

if TYPE_CHECKING:
    from geopandas import GeoDataFrame
    from pandas import DataFrame

Days = npt.NDArray[np.datetime64]
Bools = npt.NDArray[np.bool_]

#: Where a true object's date is looked for: the first of these that the table has.
TRUTH_DATES = ("first_seen", "start", "date")
#: Where a true object's end is looked for.
TRUTH_ENDS = ("removed", "gone", "end")


def truth_date_column(truth: DataFrame) -> str | None:
    """Return the column that dates a true object: ``first_seen``, else ``start``, else ``date``, or None.

    ``first_seen`` is the date of the first scene on which it exists, ``start`` the day it physically began.
    """
    return next((name for name in TRUTH_DATES if name in truth and truth[name].notna().any()), None)


def date_scores(matches: Matches) -> dict[str, Any]:
    """Judge the dates of matched objects, by whole UTC days.

    Parameters
    ----------
    matches : found needs ``first_seen`` and ``last_absent``, and may have ``confirmed``; truth needs one of
        :data:`TRUTH_DATES`

    Returns
    -------
    dict
        ``n`` matched pairs whose truth has a date, ``n_dated`` of them that state both ends of their
        interval, ``covered`` (last_absent < truth <= first_seen), ``share`` = covered / n (an interval that
        is not stated covers nothing), medians in days: ``width_days`` of the intervals, ``error_days``
        (first_seen − truth, positive = late), ``latency_days`` (confirmed − truth, over ``n_confirmed``);
        ``uncovered`` found ids and ``truth_column``. Medians of nothing are NaN.

    Raises
    ------
    InputError : a table has no such column
    """
    column = truth_date_column(matches.truth)
    lacking = [name for name in ("first_seen", "last_absent") if name not in matches.found]
    if column is None or lacking:
        seen = f"found lacks {lacking or 'nothing'}, truth is dated by {column or 'nothing'}"
        raise InputError(f"no dates to compare: {seen}; see the docstring for the columns wanted")
    pairs = np.array([(pair.found, pair.truth) for pair in matches.pairs], dtype=np.intp).reshape(-1, 2)
    true = days(matches.truth[column])[pairs[:, 1]]
    rows, true = pairs[~np.isnat(true), 0], true[~np.isnat(true)]
    first, absent = (days(matches.found[name])[rows] for name in ("first_seen", "last_absent"))
    covered = (absent < true) & (true <= first)  # a comparison with NaT is False
    width = _spans(first - absent)
    latency = (
        _spans(days(matches.found["confirmed"])[rows] - true) if "confirmed" in matches.found else width[:0]
    )
    return {
        "n": len(rows),
        "n_dated": len(width),
        "covered": int(covered.sum()),
        "share": float(covered.mean()) if len(rows) else math.nan,
        "width_days": _median(width),
        "error_days": _median(_spans(first - true)),
        "latency_days": _median(latency),
        "n_confirmed": len(latency),
        "uncovered": ids_of(matches.found, rows[~covered]),
        "truth_column": column,
    }


def days(values: Iterable[Any]) -> Days:
    """Read dates (ISO 8601 text, datetimes, dates; null is NaT) as whole UTC days.

    Raises
    ------
    DateError : a value is not a date
    """
    import pandas as pd

    try:
        parsed = pd.to_datetime(pd.Series(list(values), dtype=object), utc=True, format="ISO8601")
    except (ValueError, TypeError) as err:
        raise DateError(f"a date cannot be read: {err}; wanted ISO 8601, like 2025-10-14") from err
    return parsed.dt.tz_localize(None).to_numpy().astype("datetime64[D]")


def tracks(objects: GeoDataFrame, spans: dict[str, Bools], dates: Days) -> GeoDataFrame:
    """Lay objects out in time: one row an object and date on which it stands.

    Parameters
    ----------
    objects : polygons with ``id``
    spans : id → (dates,) bool, True = stands on that date
    dates : (dates,) days

    Returns
    -------
    GeoDataFrame with ``id``, ``date``, ``geometry``
    """
    import geopandas as gpd

    shape_of = dict(zip(objects["id"].astype(str), objects.geometry, strict=True))
    rows = [(name, day) for name, there in spans.items() for day in dates[there]]
    when = np.array([day for _, day in rows], dtype="datetime64[D]").astype("datetime64[ns]")
    shapes = [shape_of[name] for name, _ in rows]
    return gpd.GeoDataFrame(
        {"id": [name for name, _ in rows], "date": when}, geometry=shapes, crs=objects.crs
    )


def found_spans(observations: DataFrame, dates: Days) -> dict[str, Bools]:
    """Return for every structure the dates on which the run holds that it stood.

    That is every date on which it was seen, and those between on which nobody could see. Of two scenes on one
    date the one that shows it counts.
    """
    when, names = days(observations["date"]), observations["id"].astype(str).to_numpy()
    state = observations["seen"].to_numpy()
    spans: dict[str, Bools] = {}
    for name in np.unique(names):
        mine = names == name
        seen, denied = (np.isin(dates, when[mine & (state == word)]) for word in ("seen", "absent"))
        spans[str(name)] = seen | (_between(seen) & ~denied)
    return spans


def truth_spans(truth: DataFrame, dates: Days) -> dict[str, Bools]:
    """Return for every true object the dates from its own date on, up to the day it was removed.

    Raises
    ------
    InputError : the truth has no date column
    """
    column = truth_date_column(truth)
    if column is None:
        raise InputError(f"the truth has none of the columns {', '.join(TRUTH_DATES)}")
    end = next((name for name in TRUTH_ENDS if name in truth), None)
    begun, gone = days(truth[column]), days(truth[end] if end else [None] * len(truth))
    return {
        str(name): (dates >= first) & ~(dates >= last)
        for name, first, last in zip(truth["id"], begun, gone, strict=True)
    }


@dataclass
class _Tally:
    """Running counts of :func:`scot`, the ids met so far, and the latest partner of each."""

    matched: int = 0
    spare: int = 0
    missed: int = 0
    mismatches: int = 0
    new: dict[str, int] = field(default_factory=lambda: {"tp": 0, "fp": 0, "fn": 0})
    met: tuple[set[str], set[str]] = field(default_factory=lambda: (set(), set()))
    partners: tuple[dict[str, str], dict[str, str]] = field(default_factory=lambda: ({}, {}))

    def add(self, found: set[str], truth: set[str], pairs: list[tuple[str, str]]) -> None:
        """Count one date for the tracking term."""
        self.matched += len(pairs)
        self.spare += len(found) - len(pairs)
        self.missed += len(truth) - len(pairs)
        of_found, of_truth = self.partners
        for one, other in pairs:
            self.mismatches += of_found.get(one, other) != other or of_truth.get(other, one) != one
            of_found[one], of_truth[other] = other, one

    def add_new(self, found: set[str], truth: set[str], pairs: list[tuple[str, str]]) -> None:
        """Count one date for the change term: only ids not met before."""
        new_found, new_truth = found - self.met[0], truth - self.met[1]
        both = sum(one in new_found and other in new_truth for one, other in pairs)
        self.new["tp"] += both
        self.new["fp"] += len(new_found) - both
        self.new["fn"] += len(new_truth) - both

    def meet(self, found: set[str], truth: set[str]) -> None:
        """Remember the ids of one date."""
        self.met[0].update(found)
        self.met[1].update(truth)


def scot(
    found: GeoDataFrame,
    truth: GeoDataFrame,
    *,
    iou: float = 0.25,
    beta: float = 2.0,
    dates: Sequence[Any] | None = None,
    ignore: GeoDataFrame | None = None,
) -> dict[str, Any]:
    """SpaceNet change and object tracking score (Van Etten et al. 2021, arXiv:2102.04420).

    On every date objects are matched by IoU. A match is a mismatch if either side was last matched to another
    partner. The tracking term is F1 over all matches, mismatches counted as failures; the change term is F1
    over objects on the first date of their id, those of the first date of all left out.

    Parameters
    ----------
    found, truth : one row an object and date: ``id``, ``date``, polygon
    iou : smallest intersection over union of a match
    beta : weight of the tracking term
    dates : all dates that were looked at; what stands on the first is not new. Default: those in the two
        tables, which makes what appears first of all not new either: give them where the first dates are
        empty
    ignore : ``date``, polygon: objects more than half inside are left out on that date (clouds)

    Returns
    -------
    dict
        ``scot``, ``tracking_f1``, ``change_f1`` (NaN where there is nothing to count), ``tracking`` and
        ``change`` counts (``tp``, ``fp``, ``fn``), ``mismatches``, ``n_dates``, ``beta``

    Raises
    ------
    SettingError : ``iou`` or ``beta`` is out of range
    InputError : an id is twice on one date, or a column is missing
    """
    if not (0 < iou <= 1 and beta > 0):
        raise SettingError(f"iou is {iou}, beta {beta}; wanted 0 < iou <= 1 and beta > 0")
    _check_frame(found, "found")
    _check_frame(truth, "truth")
    found, truth = to_common_crs(_rowed(found), _rowed(truth))
    when = np.unique(days(dates if dates is not None else [*found["date"], *truth["date"]]))
    clouds = ignore if ignore is None or truth.crs is None else ignore.to_crs(truth.crs)
    tally = _Tally()
    for number, (left, right) in enumerate(_frames(found, truth, when, clouds)):
        objects = set(left["track"]), set(right["track"])
        pairs = _paired(left, right, iou)
        tally.add(*objects, pairs)
        if number:
            tally.add_new(*objects, pairs)
        tally.meet(*objects)
    return _scot_result(tally, len(when), beta)


def _scot_result(tally: _Tally, n_dates: int, beta: float) -> dict[str, Any]:
    """Return the terms and their weighted harmonic mean."""
    wrong = tally.mismatches
    tracking = {"tp": tally.matched - wrong, "fp": tally.spare + wrong, "fn": tally.missed + wrong}
    track_f1, change_f1 = (_f1(**counts) for counts in (tracking, tally.new))
    below = beta**2 * change_f1 + track_f1
    score = 0.0 if below == 0 else (1 + beta**2) * change_f1 * track_f1 / below
    return {
        "scot": score,
        "tracking_f1": track_f1,
        "change_f1": change_f1,
        "tracking": tracking,
        "change": tally.new,
        "mismatches": wrong,
        "n_dates": n_dates,
        "beta": beta,
    }


def _f1(tp: int, fp: int, fn: int) -> float:
    """Return F1, NaN for 0/0."""
    return ratio(2 * tp, 2 * tp + fp + fn)


def _check_frame(frame: GeoDataFrame, what: str) -> None:
    """Refuse a table that does not have one row an id and date."""
    lacking = [name for name in ("id", "date") if name not in frame]
    if lacking:
        raise InputError(f"{what} has no column {' or '.join(lacking)}; wanted id, date and polygon")
    counts = Counter(zip(frame["id"].astype(str), days(frame["date"]), strict=True))
    for (name, day), count in counts.items():
        if count > 1:
            raise InputError(f"{what} has {name!r} {count} times on {day}; wanted one row an id and date")


def _rowed(frame: GeoDataFrame) -> GeoDataFrame:
    """Return a copy whose ids are per row; those of the objects move to ``track``."""
    return frame.assign(track=frame["id"].astype(str), id=[str(row) for row in range(len(frame))])


def _frames(
    found: GeoDataFrame, truth: GeoDataFrame, when: Days, clouds: GeoDataFrame | None
) -> Iterator[tuple[GeoDataFrame, GeoDataFrame]]:
    """Give the two tables date by date, less what lies under cloud."""
    found_day, truth_day = days(found["date"]), days(truth["date"])
    cloud_day = None if clouds is None else days(clouds["date"])
    for day in when:
        left, right = found[found_day == day], truth[truth_day == day]
        if clouds is not None and (cloud_day == day).any():
            cover = clouds[cloud_day == day].union_all()
            left, right = (one[one.intersection(cover).area <= 0.5 * one.area] for one in (left, right))
        yield left, right


def _paired(left: GeoDataFrame, right: GeoDataFrame, iou: float) -> list[tuple[str, str]]:
    """Match the objects of one date; pairs of ids (found, truth)."""
    overlaps = shared_area(left.geometry.array, right.geometry.array)
    ious = iou_of(overlaps, left.area.to_numpy(), right.area.to_numpy())
    enough = np.flatnonzero(ious >= iou)
    picked = enough[assign(overlaps.found[enough], overlaps.truth[enough], ious[enough])]
    names = left["track"].to_numpy(), right["track"].to_numpy()
    return list(zip(names[0][overlaps.found[picked]], names[1][overlaps.truth[picked]], strict=True))


def _between(seen: Bools) -> Bools:
    """Return True from the first to the last True."""
    return np.logical_or.accumulate(seen) & np.logical_or.accumulate(seen[::-1])[::-1]


def _spans(spans: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return spans as days, those that are not stated left out."""
    return np.asarray(spans[~np.isnat(spans)], dtype=np.float64)


def _median(values: npt.NDArray[np.float64]) -> float:
    """Return the median, NaN of nothing."""
    return float(np.median(values)) if len(values) else math.nan
