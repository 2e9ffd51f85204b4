"""Scores of maps and of probabilities; numpy only."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from changedet.errors import InputError, SettingError

Array = npt.NDArray[Any]


def pixel_scores(
    found: Array,
    truth: Array,
    valid: Array | None = None,
    *,
    score: Array | None = None,
    empty_f1: float = math.nan,
) -> dict[str, Any]:
    """Compare a map of change with the true one, pixel by pixel.

    Parameters
    ----------
    found, truth : (y, x) bool, True = changed
    valid : (y, x) bool, True = count this pixel; default all
    score : (y, x) float, larger = more surely changed, for AUC and AP; NaN = not ranked
    empty_f1 : F1 where nothing is true and nothing was found

    Returns
    -------
    dict
        ``n``, ``tp``, ``fp``, ``fn``, ``tn``, ``precision``, ``recall``, ``f1``, ``iou``, ``oa`` (overall
        agreement), ``kappa``, ``mcc``; with ``score`` also ``auc`` (ranks, ties averaged), ``ap`` (average
        precision; prefer it, change is rare) and ``n_ranked``. 0/0 is NaN.

    Raises
    ------
    InputError : shapes differ

    >>> truth = np.array([[1, 1, 0, 0]], dtype=bool)
    >>> pixel_scores(np.array([[1, 0, 1, 0]], dtype=bool), truth)["f1"]
    0.5
    """
    use = np.ones(np.shape(truth), dtype=bool) if valid is None else np.asarray(valid, dtype=bool)
    for name, one in (("found", found), ("valid", use), ("score", truth if score is None else score)):
        if np.shape(one) != np.shape(truth):
            raise InputError(f"{name} has shape {np.shape(one)}, truth {np.shape(truth)}; wanted one grid")
    is_found, is_true = np.asarray(found, dtype=bool)[use], np.asarray(truth, dtype=bool)[use]
    tp, n_found, n_true = (int(np.count_nonzero(one)) for one in (is_found & is_true, is_found, is_true))
    rates = confusion_scores(tp, n_found - tp, n_true - tp, is_true.size - n_found - n_true + tp, empty_f1)
    if score is None:
        return rates
    values = np.asarray(score)[use]
    ranked = ~np.isnan(values)
    values, is_true = values[ranked], is_true[ranked]
    curve = {"auc": auc(values, is_true), "ap": average_precision(values, is_true)}
    return {**rates, **curve, "n_ranked": int(ranked.sum())}


def confusion_scores(tp: int, fp: int, fn: int, tn: int, empty_f1: float = math.nan) -> dict[str, Any]:
    """Return every rate that the four counts give; 0/0 is NaN.

    >>> confusion_scores(6, 2, 1, 11)["iou"]
    0.6666666666666666
    """
    n = tp + fp + fn + tn
    agreed = ratio(tp + tn, n)
    by_chance = ratio((tp + fp) * (tp + fn) + (fn + tn) * (fp + tn), n * n)
    spread = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return {
        "n": n, "tp": tp, "fp": fp, "fn": fn, "tn": tn,
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
        "f1": ratio(2 * tp, 2 * tp + fp + fn) if tp + fp + fn else empty_f1,
        "iou": ratio(tp, tp + fp + fn),
        "oa": agreed,
        "kappa": ratio(agreed - by_chance, 1 - by_chance),
        "mcc": ratio(tp * tn - fp * fn, spread),
    }  # fmt: skip


def auc(score: Array, truth: Array) -> float:
    """Return the area under the ROC curve: the chance that a changed pixel outranks an unchanged one.

    Parameters
    ----------
    score : (n,) float, no NaN; a tie counts half
    truth : (n,) bool

    >>> auc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True]))
    0.875
    """
    n_true, n_false = int(np.count_nonzero(truth)), int(np.count_nonzero(~truth))
    _, level, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = np.cumsum(count) - (count - 1) / 2  # ranks from 1, ties share their mean
    total = float(np.sum(rank[level][truth], dtype=np.float64))
    return ratio(total - n_true * (n_true + 1) / 2, n_true * n_false)


def average_precision(score: Array, truth: Array) -> float:
    """Return the mean precision over the changed pixels, from the highest score down; ties come together.

    Parameters
    ----------
    score : (n,) float, no NaN
    truth : (n,) bool

    >>> average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]))
    0.8333333333333333
    """
    _, level = np.unique(-np.asarray(score, dtype=np.float64), return_inverse=True)
    size = int(level.max()) + 1 if level.size else 0
    hits = np.bincount(level, weights=np.asarray(truth, dtype=np.float64), minlength=size)
    below = np.cumsum(np.bincount(level, minlength=size))
    precision = np.cumsum(hits) / np.maximum(below, 1)
    return ratio(float(np.sum(hits * precision)), float(hits.sum()))


def calibration(confidence: Array, correct: Array, n_bins: int = 10) -> dict[str, Any]:
    """Compare stated confidence with the share that was right.

    Parameters
    ----------
    confidence : (n,) float, 0 to 1, NaN = not stated (left out, counted)
    correct : (n,) bool
    n_bins : number of equally wide bins

    Returns
    -------
    dict
        ``n``, ``n_without``, ``ece`` (expected calibration error: mean absolute difference of the two over
        the bins, weighted by their counts), ``brier`` (mean squared error), ``bins`` (``low``, ``high``,
        ``n``, ``confidence``, ``correct``; the last two NaN if empty). A bin holds its lower edge, the last
        both.

    Raises
    ------
    InputError : lengths differ, or a confidence lies outside 0 to 1
    SettingError : ``n_bins`` is less than 1
    """
    stated, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=bool)
    if stated.shape != right.shape or stated.ndim != 1:
        raise InputError(f"confidence has shape {stated.shape}, correct {right.shape}; wanted two equal rows")
    if n_bins < 1:
        raise SettingError(f"n_bins is {n_bins}; wanted at least 1")
    given = ~np.isnan(stated)
    stated, right = stated[given], right[given]
    if stated.size and not (stated.min() >= 0 and stated.max() <= 1):
        raise InputError(f"confidence runs from {stated.min()} to {stated.max()}; wanted 0 to 1")
    edges = np.arange(n_bins + 1) / n_bins  # linspace puts 0.3 a hair above 0.3
    place = np.clip(np.searchsorted(edges, stated, side="right") - 1, 0, n_bins - 1)
    counts, said, were = (np.bincount(place, w, n_bins) for w in (None, stated, right.astype(np.float64)))
    return {
        "n": int(stated.size),
        "n_without": int(np.count_nonzero(~given)),
        "ece": ratio(float(np.abs(said - were).sum()), stated.size),
        "brier": ratio(float(np.sum((stated - right) ** 2)), stated.size),
        "bins": [
            {"low": float(edges[k]), "high": float(edges[k + 1]), "n": int(counts[k]),
             "confidence": ratio(float(said[k]), counts[k]), "correct": ratio(float(were[k]), counts[k])}
            for k in range(n_bins)
        ],
    }  # fmt: skip


def ratio(part: float, whole: float) -> float:
    """Return part / whole, NaN for 0/0."""
    return float(part / whole) if whole else math.nan
