"""Fit how one band of a scene goes over into the reference, and test it on pixels that had no part in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from changedet.errors import DegenerateError, InputError, SettingError
from changedet.steps._lines import Line, robust_line, theil_sen_line

Array = npt.NDArray[Any]
MethodName = Literal["orthogonal", "theil-sen", "histogram"]

FITS = {"orthogonal": robust_line, "theil-sen": theil_sen_line}
"""Lines through pixels that may hold outliers: subject, reference, weights → Line."""

_LEAST_GAIN, _LARGEST_GAIN = 0.5, 2.0
_LEAST_R2 = 0.5
_TRIM = 0.9  # share of the held-out pixels, the nearest ones, that the test looks at
_ALIKE = 0.02  # a line that lowers the held-out error by less is not worth applying
_SIGMAS = 2.0
_QUANTILES = np.linspace(0, 1, 129)


def relative_line(
    subject: Array,
    reference: Array,
    valid: Array | None = None,
    *,
    weights: Array | None = None,
    min_pixels: int = 200,
    method: str = "orthogonal",
) -> Line:
    """Line from a subject to a reference, with its guards.

    A gain outside 0.5 to 2 or a squared correlation below 0.5 leaves only an offset. The line is fitted on
    every other pixel and must bring those between them closer to the reference; then it is fitted on all.

    Parameters
    ----------
    subject, reference : arrays of one shape, NaN = not usable; left alone
    valid : bool array of that shape, True = a pixel that did not change; everywhere if not given
    weights : array of that shape, not negative: how sure that is
    min_pixels : fewest pixels that a line may rest on
    method : ``orthogonal`` (robust, both sides noisy) or ``theil-sen`` (median of slopes)

    Returns
    -------
    Line : gain 1 and offset 0 where it was refused or nothing is to be gained

    Raises
    ------
    InputError
        Shapes do not agree.
    SettingError
        There is no such method.
    """
    if method not in FITS:
        raise SettingError(f"method is {method!r}; wanted one of {', '.join(FITS)}")
    if subject.shape != reference.shape or (valid is not None and valid.shape != subject.shape):
        raise InputError(
            f"subject {subject.shape}, reference {reference.shape} and valid "
            f"{None if valid is None else valid.shape} differ; wanted one shape"
        )
    use = np.isfinite(subject) & np.isfinite(reference)
    use &= True if valid is None else valid
    use &= True if weights is None else weights > 0
    x, y = subject[use].astype(np.float64), reference[use].astype(np.float64)
    w = np.ones(x.size) if weights is None else np.asarray(weights[use], np.float64)
    if x.size < min_pixels:
        return Line(n=x.size, why=f"{x.size} no-change pixels; wanted {min_pixels}")
    line, why = _guarded(x, y, w, method)
    trial, _ = _guarded(x[::2], y[::2], w[::2], method)
    return _tested(replace(line, n=x.size, why=why), trial, x[1::2], y[1::2])


def _guarded(x: Array, y: Array, w: Array, method: str) -> tuple[Line, str]:
    """Robust line, or an offset alone where gain or correlation make no sense; and the reason."""
    try:
        line = FITS[method](x, y, w)
    except DegenerateError:
        line = Line(n=x.size, r2=0.0)
    if line.r2 >= _LEAST_R2 and _LEAST_GAIN <= line.gain <= _LARGEST_GAIN:
        return line, "accepted"
    why = f"offset only (gain {line.gain:.2f}, squared correlation {line.r2:.2f})"
    apart = y - x
    error = 1.4826 * float(np.median(np.abs(apart - np.median(apart)))) * 1.2533 / np.sqrt(x.size)
    return Line(1.0, float(np.median(apart)), x.size, line.r2, gain_error=0.0, offset_error=error), why


def _tested(line: Line, trial: Line, x: Array, y: Array) -> Line:
    """Keep a line only if the one fitted on the other half brings ``x`` closer to ``y``."""
    before, after = np.square(y - x), np.square(y - trial.gain * x - trial.offset)
    rmse = [_trimmed(d) for d in (before, after)]
    limit = np.quantile(before, _TRIM)
    better = np.minimum(before, limit) - np.minimum(after, limit)
    sure = better.mean() > _SIGMAS * better.std() / np.sqrt(better.size)
    line = replace(line, rmse_before=rmse[0], rmse_after=rmse[1], accepted=True)
    if sure and rmse[1] < (1 - _ALIKE) * rmse[0]:
        return line
    same = replace(line, gain=1.0, offset=0.0, rmse_after=rmse[0])
    if line.r2 >= _LEAST_R2:
        return replace(same, why="already alike")
    why = f"held-out pixels come no closer (squared correlation {line.r2:.2f})"
    return replace(same, accepted=False, why=why)


def ratio(
    subject: Array, reference: Array, valid: Array, *, weights: Array, min_pixels: int, method: str = ""
) -> Line:
    """Factor between two SAR images given as logarithms of power; its logarithm is the offset."""
    use = np.isfinite(subject) & np.isfinite(reference) & valid & (weights > 0)
    x, y = subject[use].astype(np.float64), reference[use].astype(np.float64)
    if x.size < min_pixels:
        return Line(n=x.size, why=f"{x.size} no-change pixels; wanted {min_pixels}")
    offset, trial = float(np.median(y - x)), float(np.median(y[::2] - x[::2]))
    if abs(offset) > np.log(_LARGEST_GAIN):
        return Line(n=x.size, why=f"power differs by {np.exp(-offset):.2g} times")
    # the correlation of speckle says nothing about a factor: it does not guard here
    return _tested(Line(1.0, offset, x.size, 1.0, why="accepted"), Line(1.0, trial), x[1::2], y[1::2])


@dataclass(frozen=True)
class Curve:
    """Quantiles of a subject and of the reference, one a place.

    Parameters
    ----------
    x, y : (k,) ascending
    """

    x: Array
    y: Array

    def __call__(self, values: Array) -> Array:
        """Map values; beyond both ends they keep their distance from the end."""
        made = np.interp(values, self.x, self.y)
        made += np.minimum(values - self.x[0], 0) + np.maximum(values - self.x[-1], 0)
        return np.asarray(made)


def matched_histogram(
    subject: Array, reference: Array, valid: Array, *, weights: Array, min_pixels: int
) -> tuple[Line, Curve | None]:
    """Curve that gives a subject the histogram of the reference, over all pixels that both have.

    It carries over how much of what there is (water level, snow, what was built) as if it were light:
    for looking at, not for measuring. The errors are those of the no-change pixels all the same.

    Parameters
    ----------
    subject, reference : arrays of one shape, NaN = not usable
    valid : bool array of that shape
    weights : above 0 where a pixel did not change
    min_pixels : fewest pixels
    """
    both = np.isfinite(subject) & np.isfinite(reference) & valid
    nothing = Line(gain=float("nan"), offset=float("nan"), n=int(both.sum()))
    if nothing.n < min_pixels:
        return replace(nothing, gain=1.0, offset=0.0, why=f"{nothing.n} pixels; wanted {min_pixels}"), None
    x, y = (np.quantile(a[both].astype(np.float64), _QUANTILES) for a in (subject, reference))
    x = np.maximum.accumulate(x + np.arange(x.size) * 1e-12)
    curve = Curve(x, y)
    use = both & (weights > 0)
    steady, there = subject[use].astype(np.float64), reference[use].astype(np.float64)
    before, after = (_trimmed(np.square(there - a)) for a in (steady, curve(steady)))
    why = "histogram matched: for display only"
    if steady.size and after > before:
        why += "; no-change pixels came no closer"
    return replace(nothing, rmse_before=before, rmse_after=after, accepted=True, why=why), curve


def _trimmed(square: Array) -> float:
    """Root mean of the smallest squares."""
    if not square.size:
        return float("nan")
    return float(np.sqrt(np.sort(square)[: int(np.ceil(_TRIM * square.size))].mean()))
