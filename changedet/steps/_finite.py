"""What every difference ends with: float32, and NaN for what is no number."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def finished(result: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return float32 with NaN for what is not finite: an infinite input is no measurement.

    Parameters
    ----------
    result : float array; one that is float32 already is changed in place

    >>> finished(np.array([1.0, np.inf]))
    array([ 1., nan], dtype=float32)
    """
    with np.errstate(all="ignore"):
        out = np.asarray(result, np.float32)
    out[~np.isfinite(out)] = np.nan
    return out
