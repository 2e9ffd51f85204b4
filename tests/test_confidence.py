"""How likely it is that a candidate was built."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from changedet.metrics import calibration
from changedet.steps import confidence
from changedet.steps.confidence import Facts

SAMPLE = Path(__file__).parent / "reference" / "candidates.json"
PIER = Facts(
    peak=20, unexplained=0.02, shared=0.0, contrast=12, visible=0.8, infrared=1.5, brilliance=0.6, edge=0.1,
    pixels=9, gsd_m=3, over="water",
)  # fmt: skip


def of(**changes):
    return float(confidence.confidence([dataclasses.replace(PIER, **changes)])[0])


def test_what_is_strong_and_clear_is_believed_and_what_is_neither_is_not():
    assert of() > 0.95
    assert of(peak=5, unexplained=0.7, shared=0.8, contrast=1.5, brilliance=-0.2, infrared=0.2) < 0.05


def test_more_evidence_is_never_believed_less():
    values = [of(peak=p) for p in np.geomspace(2, 60, 40)]
    assert (np.diff(values) >= -1e-12).all()


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"shared": 0.0}, {"shared": 0.9}),
        ({"contrast": 10.0}, {"contrast": 1.0}),
        ({"unexplained": 0.1}, {"unexplained": 0.9}),
        ({"edge": 0.1}, {"edge": 2.0}),
        ({"brilliance": 0.5}, {"brilliance": -0.5}),
    ],
)
@pytest.mark.parametrize("over", confidence.OVER)
def test_each_fact_speaks_for_what_it_is_said_to(better, worse, over):
    assert of(peak=7, over=over, **better) > of(peak=7, over=over, **worse)


def test_what_is_unknown_counts_as_on_average():
    entry = confidence.weights()["columns"]["contrast"]
    assert of(contrast=float("nan")) == pytest.approx(of(contrast=float(np.exp(entry["mean"]))))


known = st.floats(-1e6, 1e6) | st.just(float("nan"))


@given(st.lists(known, min_size=8, max_size=8), st.integers(1, 10**6), st.sampled_from(confidence.OVER))
def test_it_is_a_probability_whatever_is_known(values, pixels, over):
    fact = Facts(*values, pixels=pixels, gsd_m=3.0, over=over)
    (found,) = confidence.confidence([fact])
    assert 0 <= found <= 1


def test_many_are_judged_as_one_by_one():
    facts = [PIER, dataclasses.replace(PIER, over="land"), dataclasses.replace(PIER, peak=4)]
    assert_allclose(confidence.confidence(facts), [confidence.confidence([f])[0] for f in facts])
    assert confidence.confidence([]).shape == (0,)


def test_it_is_calibrated_on_candidates_that_it_was_not_fitted_to():
    """Facts and truth of candidates of seeds 0 to 4, by ``docs/make_confidence.py``; the fit used others."""
    rows = json.loads(SAMPLE.read_text(encoding="utf-8"))
    names = [f.name for f in dataclasses.fields(Facts)]
    facts = [Facts(**{n: np.nan if row[n] is None else row[n] for n in names}) for row in rows]
    true = np.array([row["true"] for row in rows])
    assert true.sum() >= 300
    found = calibration(confidence.confidence(facts), true)
    assert found["ece"] <= 0.1
    for one in found["bins"]:
        chance = 2 * (0.25 / max(one["n"], 1)) ** 0.5
        assert not abs(one["confidence"] - one["correct"]) > 0.1 + chance


def test_the_surroundings_share_a_step_or_not():
    t, rng = np.arange(12), np.random.default_rng(0)
    before, after = t < 6, t >= 6
    step = after.astype(float)[:, None]
    own = step + rng.normal(0, 0.05, (12, 4))
    alone = rng.normal(0, 0.05, (12, 20))
    shared, contrast = confidence.beside(own, alone, before, after)
    assert abs(shared) < 0.1 and contrast > 8
    shared, contrast = confidence.beside(own, step + alone, before, after)
    assert abs(shared - 1) < 0.1 and abs(contrast) < 1
    kept = own.copy()
    own[7] = np.nan
    assert confidence.beside(own, alone, before, after)[1] > 8
    assert_array_equal(np.delete(own, 7, axis=0), np.delete(kept, 7, axis=0))


def test_too_few_dates_say_nothing():
    nothing = np.full((4, 3), np.nan)
    assert np.isnan(confidence.beside(nothing, nothing, np.arange(4) < 2, np.arange(4) >= 2)).all()
