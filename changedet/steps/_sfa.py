"""Slow feature analysis: the combinations of bands that vary least between two dates show change best."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import xarray as xr

from changedet.steps._statistics import Directions, Float64, Recipe, symmetric_definite
from changedet.steps._statistics_layers import layers

LEAST_VARIANCE = 1e-9
"""Identical images do not vary at all; their differences are zero, and so must be their statistic."""


def slow_features(correlation: Float64) -> Directions:
    """Slow features of two dates whose bands are standardized each by itself.

    ``A·w = λ·B·w`` with A the second moments of the difference and B the mean covariance of the dates.

    Parameters
    ----------
    correlation : (2·band, 2·band), before and then after

    Returns
    -------
    Directions: λ ascending, 0 to 4 (the first components hold least change), which is also the variance;
    features go along with the bands rather than against them. Directions in which bands only repeat one
    another are left out.

    Raises
    ------
    DegenerateError
        The bands determine no axes.
    """
    p = len(correlation) // 2
    r11, r12, r22 = correlation[:p, :p], correlation[:p, p:], correlation[p:, p:]
    within = (r11 + r22) / 2
    values, vectors, ridge = symmetric_definite(r11 + r22 - r12 - r12.T, within)
    w = vectors.T
    # A ridge gives variance to directions that have none: they say nothing and must not count.
    real = np.einsum("ij,jk,ik->i", w, within, w) > 0.5
    sign = np.where((w @ within).sum(axis=1) < 0, -1.0, 1.0)[real, None]
    variance = np.clip(values[real], LEAST_VARIANCE, None)
    return Directions(w[real] * sign, w[real] * sign, values[real], variance, ridge)


_SFA = Recipe(slow_features, "sfa", "slow_feature_variance")


def sfa(before: xr.DataArray, after: xr.DataArray, *, threads: int | None = None) -> xr.Dataset:
    """Slow feature analysis (Wu, Du & Zhang 2014, doi:10.1109/TGRS.2013.2266673).

    Blind to another gain and offset of each band. Components are written after − before, their variance
    ascending: the first ones are the slowest.

    Parameters
    ----------
    before, after : (band, y, x) or (y, x), NaN = invalid; a pixel counts where every band of both is finite
    threads : threads; None means 1 for eager images, dask's own number for lazy ones

    Returns
    -------
    Dataset of float32: ``magnitude`` (y, x), √Z, where Z is chi-square with ``dof`` degrees of freedom where
    nothing changed; ``p_value`` (y, x) of no change; ``components`` (band, y, x). Its attributes hold the
    variance of each component, the number of pixels, the ridge, the bands that were dropped as constant, and
    ``warnings``

    Raises
    ------
    DegenerateError
        Fewer than 20 usable pixels a band, or bands that determine nothing.
    """
    return layers(before, after, _SFA, threads=threads)


def isfa(
    before: xr.DataArray,
    after: xr.DataArray,
    *,
    consistency: bool = True,
    max_iterations: int = 100,
    tolerance: float = 1e-4,
    threads: int | None = None,
) -> xr.Dataset:
    """Iteratively reweighted slow feature analysis: weights in the standardization and in the moments.

    Parameters
    ----------
    before, after : as in :func:`sfa`
    consistency : correct the variance that weighting makes too small; False gives the published algorithm,
        whose p-values are far too small, and needs at least 3 bands
    max_iterations : most passes over the images; 1 gives :func:`sfa`
    tolerance : change of a variance at which to stop; ten times that for the weights
    threads : as in :func:`sfa`

    Returns
    -------
    Dataset as :func:`sfa` gives it; its attributes also hold ``iterations``, ``converged``,
    ``effective_number`` of pixels, and ``fallback``: True where it fell below 5 % of the pixels; the result
    then is that of :func:`sfa`

    Raises
    ------
    DegenerateError
        As :func:`sfa`.
    SettingError
        ``consistency`` is off with fewer than 3 bands, or a number cannot be used.
    """
    recipe = replace(_SFA, consistency=consistency, max_iterations=max_iterations, tolerance=tolerance)
    return layers(before, after, recipe, threads=threads)
