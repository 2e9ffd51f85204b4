"""Rows of piers: found where they are, not where they are not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from changedet.steps.bridge import Rules, corridor, find_rows

PIXELS = {"tolerance_px": 1.0, "gap_px": 40.0}


def on_a_line(angle, count=6, spacing=15.0, start=(100.0, 120.0)):
    step = spacing * np.array([np.sin(angle), np.cos(angle)])
    return np.array(start) + np.arange(count)[:, None] * step


@settings(deadline=None, max_examples=40)
@given(angle=st.floats(0, np.pi), seed=st.integers(0, 99))
def test_a_row_is_found_at_any_bearing(angle, seed):
    rng = np.random.default_rng(seed)
    points = on_a_line(angle) + rng.normal(0, 0.2, (6, 2))
    aside = np.array([[40.0, 300.0], [400.0, 20.0]])
    (row,) = find_rows(np.concatenate([aside, points]), **PIXELS, least=4)
    assert sorted(row.members) == [2, 3, 4, 5, 6, 7]
    assert (np.diff(row.along(*np.concatenate([aside, points])[row.members].T)) > 0).all()
    assert abs(abs(row.direction @ [np.sin(angle), np.cos(angle)]) - 1) < 1e-3
    assert row.end - row.begin == pytest.approx(75, abs=2)


def test_a_long_gap_parts_a_row():
    far = (100 + 200 * np.sin(0.3), 120 + 200 * np.cos(0.3))
    points = np.concatenate([on_a_line(0.3), on_a_line(0.3, start=far)])
    found = find_rows(points, **PIXELS, least=4)
    assert sorted(sorted(row.members.tolist()) for row in found) == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]


def test_few_or_scattered_objects_make_no_row():
    assert find_rows(np.empty((0, 2)), **PIXELS) == []
    assert find_rows(on_a_line(1.0, count=3), **PIXELS, least=4) == []
    corners = np.array([[0.0, 0], [0, 30], [30, 0], [31, 33], [14, 19]])
    assert find_rows(corners, **PIXELS, least=4) == []
    same = np.zeros((5, 2))  # no direction in one place
    assert find_rows(same, **PIXELS, least=4) == []


def test_the_corridor_is_the_line_and_a_gap_beyond_its_ends():
    points = on_a_line(0.0, start=(50.0, 60.0))  # along a row of pixels, columns 60 to 135
    inside = corridor(find_rows(points, **PIXELS, least=4), (100, 300), **PIXELS)
    rows, columns = np.nonzero(inside)
    assert set(rows) == {49, 50, 51} and columns.min() == 21 and columns.max() == 174
    assert not corridor([], (10, 10), **PIXELS).any()


def test_rules_are_in_metres_but_never_below_a_pixel():
    assert Rules().pixels(10.0) == (1.0, 70.0, 4.0)
    tolerance, _, longest = Rules().pixels(1.0)
    assert (tolerance, longest) == (5.0, 30.0)
