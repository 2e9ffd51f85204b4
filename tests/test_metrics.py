"""Every score against a case counted by hand."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import LineString, Point, Polygon, box

from changedet.errors import CRSError, DateError, InputError, SettingError
from changedet.metrics import (
    Options,
    PixelMaps,
    area_scores,
    auc,
    average_precision,
    calibration,
    confusion_scores,
    date_scores,
    evaluate,
    match_objects,
    object_scores,
    pixel_scores,
    scot,
)
from changedet.metrics._objects import assign

UTM = "EPSG:32652"
X0, Y0 = 635_000, 4_697_000


def frame(*boxes, crs=UTM, **columns):
    """Boxes (x0, y0, x1, y1) in metres from a corner of the site; ids a, b, c … unless given."""
    columns.setdefault("id", [chr(97 + k) for k in range(len(boxes))])
    shapes = [box(X0 + x0, Y0 + y0, X0 + x1, Y0 + y1) for x0, y0, x1, y1 in boxes]
    return gpd.GeoDataFrame(columns, geometry=shapes, crs=crs)


def sq(x, y, side=10):
    return (x, y, x + side, y + side)


def scores(found, truth, **rule):
    return object_scores(match_objects(found, truth, **rule))


# ---- objects


def test_iou_by_hand_and_both_ends_of_the_limit():
    truth, found = frame(sq(0, 0)), frame((5, 0, 15, 10))  # shared 50, union 150
    (pair,) = match_objects(found, truth, iou=1 / 3).pairs
    assert pair.iou == pytest.approx(1 / 3)
    assert pair.distance_m == pytest.approx(5)
    assert pair.how == "iou"
    assert match_objects(found, truth, iou=0.34).pairs == ()


def test_rates_by_hand():
    truth = frame(sq(0, 0), sq(100, 0), sq(200, 0), sq(300, 0))
    found = frame(sq(0, 0), sq(101, 0), sq(500, 0), id=["x", "y", "z"])
    got = scores(found, truth)
    assert (got["n_found"], got["n_truth"], got["matched"]) == (3, 4, 2)
    assert (got["precision"], got["recall"], got["f1"]) == (2 / 3, 0.5, 4 / 7)
    assert got["missed"] == ["c", "d"]
    assert got["false"] == ["z"]
    assert got["false_near_truth"] == []
    assert [(pair["found"], pair["truth"]) for pair in got["pairs"]] == [("x", "a"), ("y", "b")]
    assert got["mean_iou"] == pytest.approx((1 + 90 / 110) / 2)


def test_one_to_one_takes_the_most_pairs_before_the_best_pair():
    # x lies on a (IoU 0.6) and on b (0.25); y only on a (0.3). The greedy x-a would leave b and y alone.
    truth = frame((0, 0, 10, 10), (10, 0, 20, 10))
    found = frame((2.5, 0, 14, 10), (0, 0, 3.2, 10), id=["x", "y"])
    got = scores(found, truth, iou=0.2)
    assert {(pair["found"], pair["truth"]) for pair in got["pairs"]} == {("x", "b"), ("y", "a")}


def test_the_best_pair_wins_where_only_one_can():
    truth = frame(sq(0, 0))
    found = frame((0, 0, 10, 9), (0, 0, 10, 5), id=["good", "worse"])
    got = scores(found, truth)
    assert got["pairs"][0]["found"] == "good"
    assert (got["false"], got["false_near_truth"]) == ([], ["worse"])
    assert (got["precision"], got["precision_far"]) == (0.5, 1.0)


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 4), st.floats(0, 1)),
        min_size=1,
        max_size=9,
        unique_by=lambda t: t[:2],
    )
)
@settings(max_examples=60, deadline=None)
def test_assign_is_one_to_one_and_as_good_as_trying_everything(edges):
    left, right, score = (np.array(column) for column in zip(*edges, strict=True))
    picked = assign(left.astype(np.intp), right.astype(np.intp), score.astype(float))
    assert len(set(left[picked])) == len(set(right[picked])) == len(picked)

    def best(k, used_left, used_right):
        if k == len(edges):
            return (0, 0.0)
        without = best(k + 1, used_left, used_right)
        if left[k] in used_left or right[k] in used_right:
            return without
        count, total = best(k + 1, used_left | {left[k]}, used_right | {right[k]})
        return max(without, (count + 1, total + score[k]))

    count, total = best(0, frozenset(), frozenset())
    assert len(picked) == count
    assert score[picked].sum() == pytest.approx(total)


@pytest.mark.parametrize("n_found, n_truth, precision, recall, f1", [
    (0, 2, math.nan, 0, 0), (2, 0, 0, math.nan, 0), (0, 0, math.nan, math.nan, math.nan),
])  # fmt: skip
def test_nothing_on_one_side_or_both(n_found, n_truth, precision, recall, f1):
    found, truth = (frame(*[sq(100 * k, 0) for k in range(n)]) for n in (n_found, n_truth))
    got = scores(found, truth, pixel_m=3)
    assert [got[name] for name in ("precision", "recall", "f1")] == pytest.approx(
        [precision, recall, f1], nan_ok=True
    )
    assert (len(got["false"]), len(got["missed"])) == (n_found, n_truth)
    areas = area_scores(match_objects(found, truth))
    assert (areas["false_m2"], areas["missed_m2"]) == (100 * n_found, 100 * n_truth)


def test_nothing_to_find_and_nothing_found_is_one_only_if_asked():
    matches = match_objects(frame(), frame())
    assert math.isnan(object_scores(matches)["f1"])
    assert object_scores(matches, empty_f1=1.0)["f1"] == 1.0
    assert object_scores(match_objects(frame(sq(0, 0)), frame()), empty_f1=1.0)["f1"] == 0.0


def test_empty_frames_may_lack_a_crs():
    empty = gpd.GeoDataFrame({"id": []}, geometry=[])
    assert scores(empty, frame(sq(0, 0)))["missed"] == ["a"]
    assert scores(frame(sq(0, 0)), empty)["false"] == ["a"]


def test_small_objects_match_by_nearness_and_both_numbers_are_given():
    truth, found = frame((0, 0, 3, 3)), frame((2.5, 2.5, 5.5, 5.5))  # one 3 m pixel, shifted: IoU 0.014
    assert scores(found, truth)["matched"] == 0
    got = scores(found, truth, pixel_m=3)
    assert got["matched"] == 1
    assert got["pairs"][0]["how"] == "near"
    assert got["pairs"][0]["distance_m"] == pytest.approx(2.5 * math.sqrt(2))
    assert got["pairs"][0]["iou"] == pytest.approx(0.25 / 17.75)
    assert got["iou_only"] == {"n_found": 1, "n_truth": 1, "matched": 0, "precision": 0, "recall": 0, "f1": 0}


@pytest.mark.parametrize("found, rule, matched", [
    ((5.9, 0, 8.9, 3), {"pixel_m": 3}, 1),  # 5.9 m: within two pixels
    ((6.1, 0, 9.1, 3), {"pixel_m": 3}, 0),  # 6.1 m: outside
    ((6.1, 0, 9.1, 3), {"pixel_m": 3, "tolerance_m": 7}, 1),
    ((2, 2, 8, 8), {"pixel_m": 3}, 1),  # four times the area
    ((2, 2, 8.2, 8.2), {"pixel_m": 3}, 0),  # more than that
    ((2, 2, 8.2, 8.2), {"pixel_m": 3, "area_ratio_max": 5}, 1),
    ((2, 2, 3, 3), {"pixel_m": 3}, 0),  # a ninth of the area
    ((5.9, 0, 8.9, 3), {"pixel_m": 3, "small_area_m2": 9}, 0),  # 9 m² is not below 9 m²
    ((5.9, 0, 8.9, 3), {"small_area_m2": 10, "tolerance_m": 6}, 1),
    ((5.9, 0, 8.9, 3), {"small_area_m2": 10}, 0),  # no tolerance, no rule
])  # fmt: skip
def test_limits_of_nearness(found, rule, matched):
    assert scores(frame(found), frame((0, 0, 3, 3)), **rule)["matched"] == matched


def test_large_objects_do_not_match_by_nearness():
    truth, found = frame(sq(0, 0, 15)), frame(sq(14, 0, 15))  # 25 px of 3 m: not below 25
    assert scores(found, truth, pixel_m=3, tolerance_m=20)["matched"] == 0
    assert scores(found, truth, pixel_m=3.1, tolerance_m=20)["matched"] == 1


def test_nearness_is_one_to_one_and_takes_the_nearest():
    truth = frame((0, 0, 3, 3), (12, 0, 15, 3))
    found = frame((4, 0, 7, 3), (9, 0, 12, 3), (3.5, 0, 6.5, 3), id=["x", "y", "z"])
    got = scores(found, truth, pixel_m=3)
    assert {(pair["found"], pair["truth"]) for pair in got["pairs"]} == {("z", "a"), ("y", "b")}
    assert got["false_near_truth"] == ["x"]


def test_near_and_far_false_objects():
    truth = frame(sq(0, 0, 30))
    found = frame(sq(0, 0, 30), (34, 0, 37, 3), (40, 0, 43, 3), id=["hit", "beside", "far"])
    got = scores(found, truth, pixel_m=3)  # near = within 6 m
    assert (got["false_near_truth"], got["false"]) == (["beside"], ["far"])
    got = scores(found, truth)  # near = touching
    assert (got["false_near_truth"], got["false"]) == ([], ["beside", "far"])


def test_touching_is_not_overlap_but_is_near():
    got = scores(frame(sq(10, 0)), frame(sq(0, 0)))
    assert (got["matched"], got["splits"], got["merges"]) == (0, [], [])
    assert got["false_near_truth"] == ["a"]


def test_split_and_merge():
    truth = frame((0, 0, 20, 10), (100, 0, 110, 10), (112, 0, 122, 10), id=["long", "left", "right"])
    found = frame((0, 0, 9, 10), (11, 0, 20, 10), (100, 0, 122, 10), id=["p", "q", "whole"])
    got = scores(found, truth)
    assert got["splits"] == [{"truth": "long", "found": ["p", "q"]}]
    assert got["merges"] == [{"found": "whole", "truth": ["left", "right"]}]
    assert got["matched"] == 2  # one of the halves, one of the pair
    assert len(got["false_near_truth"]) == 1


def test_a_brush_against_a_neighbour_is_no_merge():
    truth, found = frame(sq(0, 0), sq(10, 0)), frame((0, 0, 14, 10))
    assert scores(found, truth)["merges"] == []


def test_lonlat_and_other_zones_come_to_one_crs():
    truth = frame(sq(0, 0), sq(100, 0))
    for crs in (4326, "EPSG:32651", 3857):
        matches = match_objects(truth.to_crs(crs), truth)
        assert [pair.iou for pair in matches.pairs] == pytest.approx([1, 1], abs=1e-3)
        assert matches.truth.crs == truth.crs
    matches = match_objects(truth.to_crs(4326), truth.to_crs(4326))
    assert matches.truth.crs.to_epsg() == 32652
    assert matches.truth.area.sum() == pytest.approx(200, rel=1e-4)
    assert match_objects(truth, truth.to_crs(3857)).truth.area.sum() == pytest.approx(200, rel=1e-4)


def test_without_crs_on_both_sides_pixels_are_the_unit():
    assert scores(frame(sq(0, 0), crs=None), frame(sq(0, 0), crs=None))["matched"] == 1
    with pytest.raises(CRSError, match="give both a CRS"):
        match_objects(frame(sq(0, 0), crs=None), frame(sq(0, 0)))


def test_inputs_are_left_alone():
    found, truth = frame(sq(0, 0), id=[7]), frame(sq(0, 0)).to_crs(4326)
    kept = found.copy(), truth.copy()
    evaluate(found, truth, options=Options(pixel_m=3))
    for now, before in zip((found, truth), kept, strict=True):
        pd.testing.assert_frame_equal(pd.DataFrame(now), pd.DataFrame(before))


def test_ids_default_to_row_numbers_and_any_index_will_do():
    found, truth = frame(sq(0, 0), sq(50, 0)).drop(columns="id"), frame(sq(50, 0)).drop(columns="id")
    found.index = [9, 9]
    assert scores(found, truth)["pairs"][0]["found"] == "1"


def test_bowties_are_mended_and_what_has_no_area_is_refused():
    bowtie = Polygon([(X0, Y0), (X0 + 10, Y0 + 10), (X0 + 10, Y0), (X0, Y0 + 10)])
    found = gpd.GeoDataFrame(geometry=[bowtie], crs=UTM)
    assert match_objects(found, frame(sq(0, 0))).pairs[0].iou == pytest.approx(0.5)
    for bad in (Point(X0, Y0), LineString([(X0, Y0), (X0, Y0 + 5)]), None, Polygon()):
        with pytest.raises(InputError, match="truth: 1 rows have no area, the first is row 1"):
            match_objects(found, gpd.GeoDataFrame(geometry=[box(X0, Y0, X0 + 1, Y0 + 1), bad], crs=UTM))
    with pytest.raises(InputError, match="without geometry"):
        match_objects(pd.DataFrame({"id": [1]}), found)
    with pytest.raises(InputError, match="id 'a' more than once"):
        match_objects(found, frame(sq(0, 0), sq(50, 0), id=["a", "a"]))


@pytest.mark.parametrize("rule", [
    {"iou": 0}, {"iou": 1.1}, {"iou": math.nan}, {"area_ratio_max": 0.5}, {"pixel_m": -1},
    {"tolerance_m": math.inf},
])  # fmt: skip
def test_settings_out_of_range(rule):
    with pytest.raises(SettingError, match=next(iter(rule))):
        match_objects(frame(sq(0, 0)), frame(sq(0, 0)), **rule)


def test_area_scores_count_overlaps_within_a_frame_once():
    got = area_scores(match_objects(frame((0, 0, 10, 10), (5, 0, 15, 10)), frame((0, 0, 10, 20))))
    assert (got["true_m2"], got["false_m2"], got["missed_m2"]) == (100, 50, 100)
    assert (got["precision"], got["recall"], got["f1"], got["iou"]) == (100 / 150, 0.5, 200 / 350, 100 / 250)


def test_thousands_of_false_objects_are_no_burden():
    x, y = np.meshgrid(np.arange(0, 1500, 10), np.arange(0, 1500, 10))
    found = frame(*[sq(a, b, 8) for a, b in zip(x.ravel().tolist(), y.ravel().tolist(), strict=True)],
                  id=np.arange(x.size))  # fmt: skip
    got = scores(found, found.iloc[::100], pixel_m=3)
    assert (got["matched"], got["recall"]) == (225, 1)


# ---- dates


def dated(first="2025-05-15", absent="2025-05-01", confirmed="2025-06-14", truth_columns=None):
    found = frame(sq(0, 0), first_seen=[first], last_absent=[absent], confirmed=[confirmed])
    truth = frame(sq(0, 0), **(truth_columns or {"first_seen": ["2025-05-15"]}))
    return date_scores(match_objects(found, truth))


@pytest.mark.parametrize("true, covered", [
    ("2025-05-01", 0), ("2025-05-02", 1), ("2025-05-15", 1), ("2025-05-16", 0),
])  # fmt: skip
def test_the_interval_is_open_below_and_closed_above(true, covered):
    assert dated(truth_columns={"first_seen": [true]})["covered"] == covered


def test_width_error_and_latency_in_days():
    got = dated(truth_columns={"start": ["2025-05-10"]})
    assert (got["width_days"], got["error_days"], got["latency_days"]) == (14, 5, 35)
    assert (got["n"], got["n_dated"], got["n_confirmed"], got["share"]) == (1, 1, 1, 1.0)
    assert got["truth_column"] == "start"


def test_first_seen_goes_before_start_goes_before_date():
    columns = {"date": ["2025-05-02"], "start": ["2025-05-03"], "first_seen": ["2025-05-04"]}
    for name in ("first_seen", "start", "date"):
        assert dated(truth_columns=dict(columns))["truth_column"] == name
        columns.pop(name)
    assert dated(truth_columns={"first_seen": [None], "start": ["2025-05-04"]})["truth_column"] == "start"


def test_all_ways_to_write_a_day_agree():
    for first in ("2025-05-15T02:10:00Z", "2025-05-15 02:10", pd.Timestamp("2025-05-15T02:10", tz="UTC"),
                  np.datetime64("2025-05-15T02:10"), "2025-05-15T11:10:00+09:00"):  # fmt: skip
        assert dated(first=first)["covered"] == 1
    with pytest.raises(DateError, match="ISO 8601"):
        dated(first="in May")


def test_an_interval_that_is_not_stated_covers_nothing():
    got = dated(absent=None, confirmed=None)
    assert (got["n"], got["n_dated"], got["share"], got["uncovered"]) == (1, 0, 0.0, ["a"])
    assert math.isnan(got["width_days"]) and math.isnan(got["latency_days"])
    assert got["error_days"] == 0


def test_only_matched_pairs_with_a_true_date_count():
    found = frame(
        sq(0, 0), sq(50, 0), sq(90, 0), first_seen=["2025-05-15"] * 3, last_absent=["2025-05-01"] * 3
    )
    truth = frame(sq(0, 0), sq(50, 0), sq(200, 0), first_seen=["2025-05-10", None, "2025-05-10"])
    got = date_scores(match_objects(found, truth))
    assert (got["n"], got["covered"], got["n_confirmed"]) == (1, 1, 0)
    nothing = date_scores(match_objects(found, frame(sq(500, 0), first_seen=["2025-05-10"])))
    assert nothing["n"] == 0 and math.isnan(nothing["share"])


def test_dates_need_their_columns():
    with pytest.raises(InputError, match="dated by nothing"):
        date_scores(match_objects(frame(sq(0, 0)), frame(sq(0, 0))))


# ---- pixels

TRUTH = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]], dtype=bool)
FOUND = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]], dtype=bool)


def test_pixels_by_hand():
    got = pixel_scores(FOUND, TRUTH)  # tp 3, fp 2, fn 1, tn 10
    assert [got[name] for name in ("n", "tp", "fp", "fn", "tn")] == [16, 3, 2, 1, 10]
    assert [got[name] for name in ("precision", "recall", "f1", "iou", "oa")] == [
        0.6,
        0.75,
        6 / 9,
        0.5,
        13 / 16,
    ]
    chance = (5 * 4 + 11 * 12) / 256
    assert got["kappa"] == pytest.approx((13 / 16 - chance) / (1 - chance))
    assert got["mcc"] == pytest.approx((3 * 10 - 2 * 1) / math.sqrt(5 * 4 * 12 * 11))
    assert got["iou"] == pytest.approx(got["f1"] / (2 - got["f1"]))
    assert "auc" not in got


def test_only_valid_pixels_count_and_inputs_stay():
    valid = np.ones((4, 4), dtype=bool)
    valid[3, 3] = valid[1, 1] = False
    arrays = FOUND.copy(), TRUTH.copy(), valid
    for one in arrays:
        one.setflags(write=False)
    got = pixel_scores(*arrays)
    assert [got[name] for name in ("n", "tp", "fp", "fn", "tn")] == [14, 3, 1, 0, 10]


@pytest.mark.parametrize("found, truth, nan, f1", [
    (FOUND, TRUTH & False, {"recall", "mcc"}, 0),
    (FOUND & False, TRUTH, {"precision", "mcc"}, 0),
    (FOUND & False, TRUTH & False, {"precision", "recall", "iou", "kappa", "mcc", "f1"}, None),
    (FOUND | True, TRUTH | True, {"kappa", "mcc"}, 1),
])  # fmt: skip
def test_zero_by_zero_is_nan(found, truth, nan, f1):
    got = pixel_scores(found, truth)
    assert {name for name, value in got.items() if isinstance(value, float) and math.isnan(value)} == nan
    assert f1 is None or got["f1"] == f1
    assert got["n"] == 16


def test_empty_f1_only_if_asked():
    none = TRUTH & False
    assert pixel_scores(none, none, empty_f1=1.0)["f1"] == 1
    assert pixel_scores(FOUND, none, empty_f1=1.0)["f1"] == 0
    assert pixel_scores(none, none, none)["n"] == 0


def test_shapes_must_agree():
    with pytest.raises(InputError, match=r"found has shape \(4, 3\), truth \(4, 4\)"):
        pixel_scores(FOUND[:, :3], TRUTH)
    with pytest.raises(InputError, match="score has shape"):
        pixel_scores(FOUND, TRUTH, score=np.zeros(16))


def test_counts_of_large_maps_do_not_overflow():
    got = confusion_scores(10**9, 2 * 10**9, 3 * 10**9, 4 * 10**12)
    assert got["mcc"] == pytest.approx(confusion_scores(10**3, 2 * 10**3, 3 * 10**3, 4 * 10**6)["mcc"])


def test_auc_and_ap_by_hand():
    score, truth = np.array([0.9, 0.8, 0.8, 0.3, 0.1]), np.array([1, 1, 0, 1, 0], dtype=bool)
    # pairs won: 0.9 beats both (2), 0.8 ties one and beats one (1.5), 0.3 beats one (1): 4.5 of 6
    assert auc(score, truth) == pytest.approx(4.5 / 6)
    # at 0.9: 1/1 for one; at 0.8: 2/3 for one (the tie comes together); at 0.3: 3/4 for one
    assert average_precision(score, truth) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)


def test_a_score_that_says_nothing():
    flat, truth = np.zeros(10), np.arange(10) < 3
    assert auc(flat, truth) == 0.5
    assert average_precision(flat, truth) == pytest.approx(0.3)
    for one_sided in (truth & False, truth | True):
        assert math.isnan(auc(flat, one_sided))
    assert math.isnan(average_precision(flat, truth & False))
    assert math.isnan(average_precision(flat[:0], truth[:0]))


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
@settings(max_examples=50, deadline=None)
def test_auc_is_the_share_of_pairs_won_and_ignores_the_scale(pairs):
    score, truth = np.array([s for s, _ in pairs], float), np.array([t for _, t in pairs])
    won = [(a > b) + 0.5 * (a == b) for a in score[truth] for b in score[~truth]]
    wanted = np.mean(won) if won else math.nan
    assert auc(score, truth) == pytest.approx(wanted, nan_ok=True)
    assert auc(3 * score - 7, truth) == pytest.approx(wanted, nan_ok=True)
    assert average_precision(np.exp(score), truth) == pytest.approx(
        average_precision(score, truth), nan_ok=True
    )


def test_nan_scores_are_left_out_of_the_ranks_only():
    score = np.where(TRUTH, 0.9, 0.1)
    score[0, 0] = np.nan
    got = pixel_scores(FOUND, TRUTH, score=score)
    assert (got["n"], got["n_ranked"], got["auc"], got["ap"]) == (16, 15, 1.0, 1.0)


def test_numbers_of_independent_software():
    # scikit-learn 1.9.1 on 4096 pixels with this confusion (thresholds_metrics.json, as below)
    got = confusion_scores(69, 1099, 0, 2928)
    wanted = {
        "precision": 0.059075342465753425, "recall": 1.0, "f1": 0.11156022635408246,
        "iou": 0.059075342465753425,
        "kappa": 0.0823684433688413, "mcc": 0.20725157773521002, "oa": 0.731689453125,
    }  # fmt: skip
    assert {name: got[name] for name in wanted} == pytest.approx(wanted, abs=1e-12)


def test_reference_maps():
    root = Path(os.environ.get("CHANGEDET_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    path = root.parent / "reference" / "bitemporal.npz"
    if not path.exists():
        pytest.skip(f"no reference vectors at {path}")
    with np.load(path, allow_pickle=False) as data:
        magnitude, truth = data["cva_mag"], data["truth"]
    got = pixel_scores(magnitude > 0.06, truth, score=magnitude)
    wanted = json.loads((path.parent / "thresholds_metrics.json").read_text())["pixel_metrics"]
    assert [got[name] for name in ("tn", "fp", "fn", "tp")] == wanted["confusion_tn_fp_fn_tp"]
    assert (got["auc"], got["ap"]) == (wanted["roc_auc"], wanted["average_precision"])
    for name in ("precision", "recall", "f1", "iou", "kappa", "mcc", "oa"):
        assert got[name] == pytest.approx(wanted[name], abs=1e-9)


# ---- calibration


def test_calibration_by_hand():
    confidence = np.array([0.1, 0.1, 0.9, 0.9, 0.9, 1.0, np.nan])
    correct = np.array([0, 1, 1, 1, 0, 1, 1], dtype=bool)
    got = calibration(confidence, correct, n_bins=2)
    # low: says 0.1, right 0.5, two; high: says 0.925, right 0.75, four
    assert got["ece"] == pytest.approx((2 * 0.4 + 4 * 0.175) / 6)
    assert got["brier"] == pytest.approx((0.01 + 0.81 + 0.01 + 0.01 + 0.81 + 0) / 6)
    assert (got["n"], got["n_without"]) == (6, 1)
    assert [one["n"] for one in got["bins"]] == [2, 4]
    assert got["bins"][1] == {
        "low": 0.5,
        "high": 1.0,
        "n": 4,
        "confidence": pytest.approx(0.925),
        "correct": 0.75,
    }


def test_edges_of_the_bins():
    got = calibration(np.array([0.0, 0.1, 0.3, 0.7, 1.0]), np.ones(5, bool))
    assert [one["n"] for one in got["bins"]] == [1, 1, 0, 1, 0, 0, 0, 1, 0, 1]
    assert math.isnan(got["bins"][2]["correct"])


def test_calibrated_confidence_has_no_error_and_none_is_nan():
    assert calibration(np.full(4, 0.75), np.array([1, 1, 1, 0], bool))["ece"] == 0
    nothing = calibration(np.array([]), np.array([], bool))
    assert nothing["n"] == 0 and math.isnan(nothing["ece"]) and math.isnan(nothing["brier"])


def test_calibration_refuses_what_is_no_probability():
    with pytest.raises(InputError, match="wanted 0 to 1"):
        calibration(np.array([0.5, 1.5]), np.array([True, True]))
    with pytest.raises(InputError, match="equal rows"):
        calibration(np.array([0.5]), np.array([True, True]))
    with pytest.raises(SettingError, match="n_bins"):
        calibration(np.array([0.5]), np.array([True]), n_bins=0)


# ---- identities over time

DAYS = [f"2025-0{month}-01" for month in range(1, 5)]


def over_time(rows):
    """Rows (id, number of the date, x) to a table of 10 m boxes."""
    return frame(*[sq(x, 0) for _, _, x in rows], id=[name for name, _, _ in rows],
                 date=[DAYS[k] for _, k, _ in rows])  # fmt: skip


def steady(name, x, first=0, last=3):
    return [(name, k, x) for k in range(first, last + 1)]


def test_scot_of_a_perfect_track_is_one():
    rows = steady("a", 0) + steady("b", 100, first=2)
    got = scot(over_time([(f"f{n}", k, x) for n, k, x in rows]), over_time(rows))
    assert (got["scot"], got["tracking_f1"], got["change_f1"]) == (1, 1, 1)
    assert got["tracking"] == {"tp": 6, "fp": 0, "fn": 0}
    assert got["change"] == {"tp": 1, "fp": 0, "fn": 0}
    assert got["n_dates"] == 4


def test_an_identity_swap_is_two_mismatches_once():
    truth = steady("a", 0) + steady("b", 100)
    found = (
        steady("p", 0, last=1)
        + steady("q", 100, last=1)
        + steady("p", 100, first=2)
        + steady("q", 0, first=2)
    )
    got = scot(over_time(found), over_time(truth))
    assert got["mismatches"] == 2  # on the date of the swap; afterwards the new pairing persists
    assert got["tracking"] == {"tp": 6, "fp": 2, "fn": 2}
    assert got["tracking_f1"] == 0.75
    assert math.isnan(got["change_f1"])  # nothing new on either side
    assert math.isnan(got["scot"])


def test_a_new_name_for_an_old_object_is_a_mismatch_and_a_false_change():
    truth = steady("a", 0) + steady("b", 100, first=1)
    found = steady("p", 0, last=1) + steady("r", 0, first=2) + steady("q", 100, first=1)
    got = scot(over_time(found), over_time(truth))
    assert got["mismatches"] == 1
    assert got["tracking"] == {"tp": 6, "fp": 1, "fn": 1}
    assert got["change"] == {"tp": 1, "fp": 1, "fn": 0}  # r is new in name only
    track, change = 6 / 7, 2 / 3
    assert got["scot"] == pytest.approx(5 * change * track / (4 * change + track))
    assert scot(over_time(found), over_time(truth), beta=1)["scot"] == pytest.approx(
        2 * change * track / (change + track)
    )


def test_late_discovery_is_a_missed_and_a_false_change():
    truth = steady("a", 0) + steady("b", 100, first=1)
    found = steady("p", 0) + steady("q", 100, first=2)
    got = scot(over_time(found), over_time(truth))
    assert got["tracking"] == {"tp": 6, "fp": 0, "fn": 1}
    assert got["change"] == {"tp": 0, "fp": 1, "fn": 1}
    assert (got["change_f1"], got["scot"]) == (0, 0)


def test_what_stands_on_the_first_date_is_not_new_unless_the_dates_say_so():
    truth = steady("a", 0, first=1)
    found = steady("p", 0, first=1)
    assert math.isnan(scot(over_time(found), over_time(truth))["change_f1"])
    got = scot(over_time(found), over_time(truth), dates=DAYS)
    assert (got["scot"], got["change"]["tp"], got["n_dates"]) == (1, 1, 4)


def test_scot_with_one_side_empty_or_both():
    rows, none = over_time(steady("a", 0, first=1)), over_time([])
    for found, truth in ((none, rows), (rows, none)):
        got = scot(found, truth, dates=DAYS)
        assert (got["scot"], got["tracking_f1"], got["change_f1"]) == (0, 0, 0)
    got = scot(none, none, dates=DAYS)
    assert math.isnan(got["scot"]) and got["n_dates"] == 4


def test_objects_under_cloud_are_left_out_on_that_date():
    truth, found = over_time(steady("a", 0)), over_time([("p", 0, 0), ("p", 1, 0), ("p", 3, 0)])
    assert scot(found, truth)["tracking"]["fn"] == 1
    cloud = frame((-50, -50, 6, 50), id=["c"], date=[DAYS[2]])  # 60 % of the object
    assert scot(found, truth, ignore=cloud.to_crs(4326))["tracking"] == {"tp": 3, "fp": 0, "fn": 0}
    thin = frame((-50, -50, 5, 50), id=["c"], date=[DAYS[2]])  # half of it
    assert scot(found, truth, ignore=thin)["tracking"]["fn"] == 1


def test_scot_refuses_what_it_cannot_read():
    rows = over_time(steady("a", 0))
    with pytest.raises(InputError, match="'a' 2 times on 2025-01-01"):
        scot(over_time([("a", 0, 0), ("a", 0, 50)]), rows)
    with pytest.raises(InputError, match="truth has no column date"):
        scot(rows, rows.drop(columns="date"))
    for bad in ({"beta": 0}, {"iou": 0}):
        with pytest.raises(SettingError, match="wanted 0 < iou"):
            scot(rows, rows, **bad)


# ---- all of it


def example():
    found = frame(
        sq(0, 0), sq(100, 0), sq(300, 0), id=["s1", "s2", "s3"],
        status=["persistent", "growing", "unresolved"],
        first_seen=["2025-03-01", "2025-02-01", "2025-03-01"], last_absent=["2025-02-01", None, "2025-02-01"],
        confirmed=["2025-04-01", "2025-04-01", None], confidence=[0.9, 0.8, 0.4],
    )  # fmt: skip
    truth = frame(sq(0, 0), sq(100, 0), start=["2025-02-10", "2025-01-20"], removed=[None, "2025-04-01"])
    states = {
        "s1": "absent absent seen seen",
        "s2": "absent seen unseen seen",
        "s3": "absent absent seen unseen",
    }
    rows = [
        (name, day, one) for name, line in states.items() for day, one in zip(DAYS, line.split(), strict=True)
    ]
    return found, truth, pd.DataFrame(rows, columns=["id", "date", "seen"])


def test_evaluate_by_hand():
    found, truth, observations = example()
    got = evaluate(found, truth, observations=observations)
    assert set(got) == {"objects", "pixels", "dates", "scot", "calibration", "not_computed"}
    assert got["not_computed"] == {}
    assert (got["objects"]["precision"], got["objects"]["recall"]) == (2 / 3, 1)
    assert got["objects"]["false"] == ["s3"]
    assert got["objects"]["with_unresolved"]["precision"] == 2 / 3
    assert got["objects"]["without_unresolved"]["precision"] == 1
    assert got["dates"]["share"] == 0.5
    assert got["dates"]["latency_days"] == pytest.approx((50 + 71) / 2)
    assert got["pixels"]["basis"] == "polygon areas"
    assert got["pixels"]["precision"] == pytest.approx(2 / 3)
    assert got["calibration"]["ece"] == pytest.approx((0.1 + 0.2 + 0.4) / 3)
    # a stands from March, b in February and March (gone in April); s2 is held to stand in March though unseen
    assert got["scot"]["tracking"] == {"tp": 4, "fp": 2, "fn": 0}
    assert got["scot"]["change"] == {"tp": 2, "fp": 1, "fn": 0}


def test_evaluate_without_the_unresolved():
    found, truth, observations = example()
    got = evaluate(found, truth, observations=observations, options=Options(count_unresolved=False))
    assert got["objects"]["n_found"] == 2
    assert got["objects"]["with_unresolved"]["n_found"] == 3
    assert got["calibration"]["n"] == 2
    assert got["scot"]["change"]["fp"] == 0  # nor does it count as a track


def test_evaluate_is_json_and_says_what_it_could_not_compute():
    got = evaluate(frame(sq(0, 0)), frame(sq(500, 0)))
    assert got["dates"] is got["scot"] is got["calibration"] is None
    assert got["not_computed"] == {
        "dates": "found has no column first_seen or last_absent",
        "scot": "needs the run's observations (structure × date)",
        "calibration": "found states no confidence",
    }
    assert got["objects"]["mean_iou"] is None  # NaN in numbers, null in JSON
    assert json.loads(json.dumps(got, allow_nan=False)) == got


def test_evaluate_needs_true_dates_for_dates_and_tracks():
    found, truth, observations = example()
    got = evaluate(found, truth.drop(columns=["start"]), observations=observations)
    assert got["dates"] is got["scot"] is None
    assert "first_seen, start, date" in got["not_computed"]["scot"]
    with pytest.raises(InputError, match="observations has no column seen"):
        evaluate(found, truth, observations=observations.drop(columns="seen"))
    got = evaluate(found, truth, observations=observations.iloc[:0])
    assert got["not_computed"]["scot"] == "the run's observations are empty"


def test_true_outlines_by_date_go_before_the_final_outline():
    found, truth, observations = example()
    growing = over_time(
        steady("a", 0, first=2) + steady("b", 100, first=1, last=2) + steady("c", 700, first=0)
    )
    got = evaluate(found, truth, observations=observations, truth_by_date=growing)
    assert got["scot"]["tracking"]["fn"] == 4
    later = growing.assign(date=[f"{day}T02:11:00Z" for day in growing["date"]])
    twice = pd.concat([later, growing])
    assert evaluate(found, truth, observations=observations, truth_by_date=twice)["scot"] == got["scot"]


def test_a_day_on_which_one_scene_shows_it_is_a_day_on_which_it_was_seen():
    found, truth, observations = example()
    second = observations[observations["date"] == DAYS[2]].assign(seen="absent")
    both = pd.concat([observations, second])
    got = evaluate(found, truth, observations=both)["scot"]["tracking"]
    assert got == {
        "tp": 3,
        "fp": 2,
        "fn": 1,
    }  # s1 and s3 stay seen; s2, unseen in the one, is absent in the other


def test_evaluate_takes_maps():
    maps = PixelMaps(FOUND, TRUTH, score=np.where(TRUTH, 1.0, 0.0))
    got = evaluate(frame(sq(0, 0)), frame(sq(0, 0)), maps=maps)["pixels"]
    assert (got["basis"], got["tp"], got["auc"]) == ("pixels", 3, 1.0)


def test_evaluate_of_nothing_at_all():
    got = evaluate(frame(), frame(), options=Options(empty_f1=1.0, pixel_m=3))
    assert got["objects"]["f1"] == 1
    assert got["pixels"]["iou"] is None
