"""Rank statistics that know gaps and never warn."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def rank(ordered: Array, n: Array, share: float) -> Array:
    """Return a quantile of values sorted along axis 0 of which the first ``n`` are finite.

    Parameters
    ----------
    ordered : (value, ...) sorted, NaN last
    n : (...) how many are finite
    share : of the quantile, 0 to 1
    """
    index = np.clip(np.round(share * (n - 1)), 0, ordered.shape[0] - 1).astype(np.intp)
    return np.asarray(np.take_along_axis(ordered, index[None], axis=0)[0])


def middle(values: Array, axis: int = 0) -> Array:
    """Return the lower median of the finite values, NaN where there is none: a value that was there."""
    ordered = np.sort(values, axis=axis)
    n = np.isfinite(ordered).sum(axis=axis, keepdims=True)
    place = np.maximum((n - 1) // 2, 0)
    return np.asarray(np.take_along_axis(ordered, place, axis=axis).squeeze(axis))


def nan_median(values: Array) -> Array:
    """Return the median along axis 0 of the finite values, NaN where there is none.

    >>> nan_median(np.array([[1.0, np.nan], [3.0, np.nan], [2.0, np.nan]]))
    array([ 2., nan])
    """
    ordered = np.sort(values, axis=0)
    n = np.isfinite(ordered).sum(axis=0)
    low, high = np.maximum((n - 1) // 2, 0), n // 2
    high = np.minimum(high, np.maximum(n - 1, 0))
    pair = [np.take_along_axis(ordered, i[None].astype(np.intp), axis=0)[0] for i in (low, high)]
    return np.asarray((pair[0] + pair[1]) / 2)
