"""Kinds by size, shape, setting and history: plain cases, and what any shape must obey."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from changedet.columns import KINDS, STATUSES
from changedet.steps.classify import Rules, Shape, classify

PIER = Shape(70, 10, 8, "water", 40, "persistent", 0.5)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "pier"),
        ({"over": "shore"}, "pier"),
        ({"over": "land", "bank_m": -60}, "pier"),
        ({"status": "removed"}, "pier"),  # a test pile, pulled
        ({"area_m2": 400, "length_m": 22, "width_m": 20}, "cofferdam"),
        ({"area_m2": 2500, "length_m": 55, "width_m": 45}, "platform"),
        ({"area_m2": 2500, "length_m": 55, "width_m": 45, "status": "removed"}, "pontoon"),
        ({"area_m2": 6000, "length_m": 300, "width_m": 20}, "causeway"),
        ({"area_m2": 6000, "length_m": 300, "width_m": 20, "status": "growing"}, "causeway"),
        ({"area_m2": 3000, "length_m": 300, "width_m": 10}, "deck"),
        ({"area_m2": 3000, "length_m": 300, "width_m": 10, "status": "growing"}, "causeway"),
        ({"area_m2": 3000, "length_m": 300, "width_m": 10, "status": "removed"}, "pontoon"),
        ({"area_m2": 400, "length_m": 22, "width_m": 20, "over": "land", "bank_m": -10}, "abutment"),
        ({"area_m2": 400, "length_m": 22, "width_m": 20, "over": "land", "bank_m": -300}, "building"),
        ({"area_m2": 400, "length_m": 22, "width_m": 20, "over": "land", "bank_m": None}, "building"),
        ({"area_m2": 9000, "length_m": 150, "width_m": 60, "over": "land", "bank_m": -80}, "earthworks"),
        ({"area_m2": 9000, "length_m": 150, "width_m": 60, "over": "land", "brighter": -0.3}, "unknown"),
    ],
)
def test_plain_cases(changes, kind):
    assert classify(replace(PIER, **changes)) == kind


SHAPES = st.builds(
    Shape,
    area_m2=st.floats(1, 1e5),
    length_m=st.floats(1, 2000),
    width_m=st.floats(0, 300),
    over=st.sampled_from(["water", "shore", "land"]),
    bank_m=st.none() | st.floats(-500, 500),
    status=st.sampled_from(STATUSES),
    brighter=st.floats(-2, 2),
)


@given(SHAPES)
def test_every_shape_has_a_kind_that_fits_its_setting(shape):
    kind = classify(shape)
    assert kind in KINDS
    if shape.over == "land":
        assert kind not in ("pontoon", "causeway", "deck", "cofferdam", "platform")
    else:
        assert kind not in ("abutment", "building", "earthworks")
    if shape.status not in ("removed", "transient"):
        assert kind != "pontoon"
    if kind in ("deck", "causeway"):
        assert shape.length_m > shape.width_m


@given(SHAPES, st.floats(-500, 500))
def test_over_water_the_bank_and_the_brightness_decide_nothing(shape, bank_m):
    water = replace(shape, over="water")
    assert classify(water) == classify(replace(water, bank_m=bank_m, brighter=-shape.brighter))


def test_the_rules_may_be_changed():
    wide = replace(PIER, area_m2=400, length_m=22, width_m=20)
    assert classify(wide, Rules(pier_m2=500)) == "pier"
    assert classify(wide, Rules(cofferdam_m2=300)) == "platform"
