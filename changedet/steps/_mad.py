"""Multivariate alteration detection: differences of canonical variates, in one pass or reweighted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import xarray as xr

from changedet.steps._statistics import Directions, Float64, Recipe, factored
from changedet.steps._statistics_layers import layers

LARGEST_CORRELATION = 1 - 1e-9
"""Identical images correlate fully; their differences then are zero, and so must be their statistic."""


def canonical(correlation: Float64) -> Directions:
    """Canonical variates of two dates.

    The two inverse Cholesky factors around the cross-correlation, and their singular values: the same numbers
    as the eigenproblem ``Σ12 Σ22⁻¹ Σ21 f = ρ² Σ11 f``, with all digits of a small ρ and alike for both dates.

    Parameters
    ----------
    correlation : (2·band, 2·band), before and then after

    Returns
    -------
    Directions: ρ descending (the last components hold most change); every variate has variance 1 and goes
    along with the bands of both dates rather than against them; variance of their difference 2·(1 − ρ).
    Directions in which bands only repeat one another are left out.

    Raises
    ------
    DegenerateError
        The bands determine no axes.
    """
    from scipy.linalg import solve_triangular

    p = len(correlation) // 2
    r11, r12, r22 = correlation[:p, :p], correlation[:p, p:], correlation[p:, p:]
    (lower1, ridge1), (lower2, ridge2) = factored(r11), factored(r22)
    cross = solve_triangular(lower2, solve_triangular(lower1, r12, lower=True).T, lower=True).T
    left, rho, right = np.linalg.svd(cross)
    f = solve_triangular(lower1, left, lower=True, trans="T").T
    g = solve_triangular(lower2, right.T, lower=True, trans="T").T
    # A ridge gives variance to directions that have none: they say nothing and must not count.
    real = np.minimum(np.einsum("ij,jk,ik->i", f, r11, f), np.einsum("ij,jk,ik->i", g, r22, g)) > 0.5
    # Both dates decide the sign, so that exchanging them changes the sign of the components and nothing else.
    sign = np.where((f @ r11 + g @ r22).sum(axis=1) < 0, -1.0, 1.0)[real, None]
    rho = np.clip(rho[real], 0, LARGEST_CORRELATION)
    return Directions(f[real] * sign, g[real] * sign, rho, 2 * (1 - rho), max(ridge1, ridge2))


_MAD = Recipe(canonical, "mad", "canonical_correlation", ddof=1)


def mad(before: xr.DataArray, after: xr.DataArray, *, threads: int | None = None) -> xr.Dataset:
    """Multivariate alteration detection (Nielsen, Conradsen & Simpson 1998).

    Blind to any linear change of the bands, such as another calibration or haze. Components are written
    after − before, canonical correlation descending: the first ones hold what stayed most alike.

    Parameters
    ----------
    before, after : (band, y, x) or (y, x), NaN = invalid; a pixel counts where every band of both is finite
    threads : threads; None means 1 for eager images, dask's own number for lazy ones

    Returns
    -------
    Dataset of float32: ``magnitude`` (y, x), √Z, where Z is chi-square with ``dof`` degrees of freedom where
    nothing changed; ``p_value`` (y, x) of no change; ``components`` (band, y, x). Its attributes hold the
    canonical correlations, the variance of each component, the number of pixels, the ridge, the bands that
    were dropped as constant, and ``warnings``

    Raises
    ------
    DegenerateError
        Fewer than 20 usable pixels a band, or bands that determine nothing.
    """
    return layers(before, after, _MAD, threads=threads)


def irmad(
    before: xr.DataArray,
    after: xr.DataArray,
    *,
    consistency: bool = True,
    max_iterations: int = 100,
    tolerance: float = 1e-4,
    threads: int | None = None,
) -> xr.Dataset:
    """Iteratively reweighted MAD (Nielsen 2007): the pixels that did not change say what no change is.

    Parameters
    ----------
    before, after : as in :func:`mad`
    consistency : correct the variance that weighting makes too small; False gives the published algorithm,
        whose p-values are far too small, and needs at least 3 bands
    max_iterations : most passes over the images; 1 gives :func:`mad`
    tolerance : change of a canonical correlation at which to stop; ten times that for the weights
    threads : as in :func:`mad`

    Returns
    -------
    Dataset as :func:`mad` gives it; its attributes also hold ``iterations``, ``converged``,
    ``effective_number`` of pixels, and ``fallback``: True where it fell below 5 % of the pixels, as where one
    even surface fills the image; the result then is that of :func:`mad`

    Raises
    ------
    DegenerateError
        As :func:`mad`.
    SettingError
        ``consistency`` is off with fewer than 3 bands, or a number cannot be used.
    """
    recipe = replace(_MAD, consistency=consistency, max_iterations=max_iterations, tolerance=tolerance)
    return layers(before, after, recipe, threads=threads)
