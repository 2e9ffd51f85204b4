"""Change as a chi-square statistic: passes over two images until their weights settle, and the layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from changedet.blocks import Pixelwise, Reduction, computed
from changedet.errors import DegenerateError, SettingError
from changedet.steps._finite import finished
from changedet.steps._statistics import (
    Array,
    Axes,
    Float64,
    Moments,
    Recipe,
    axes_of,
    chi_square_sf,
    combined,
    moments,
    pieces,
)

LEAST_EFFECTIVE = 0.05
"""Share of the pixels below which the weights rest on too few, and the result before weighting is given."""


MOVED = 10
"""Change of a weight, in tolerances of the values, above which the weights have not settled."""


@dataclass(frozen=True)
class Fit:
    """Axes, and how they came about.

    Parameters
    ----------
    axes : see :class:`Axes`
    number, effective : valid pixels, and how many equally weighted ones the last pass rests on
    iterations : passes made
    converged : whether values and weights settled (True for a single pass)
    fallback : True where the weights collapsed and the first pass is given
    """

    axes: Axes
    number: float
    effective: float
    iterations: int = 1
    converged: bool = True
    fallback: bool = False


def fitted(before: xr.DataArray, after: xr.DataArray, recipe: Recipe, *, threads: int | None = None) -> Fit:
    """Find the axes of two images, pass by pass; between passes only the moments are kept.

    Parameters
    ----------
    before, after : (band, y, x) or (y, x), NaN = invalid; lazy images are computed once a pass
    recipe : see :class:`Recipe`
    threads : blocks of a lazy image in work at one time; None leaves it to dask

    Raises
    ------
    DegenerateError
        The pixels determine no axes.
    SettingError
        ``consistency`` is off with one or two components: the weights then always collapse.
    """
    found = _passed(before, after, threads)
    axes = axes_of(found, recipe, corrected=False)
    if recipe.max_iterations > 1 and not recipe.consistency and axes.dof < 3:
        raise SettingError(
            f"consistency=False with {axes.dof} bands that vary; wanted at least 3: without the correction "
            "the weights collapse onto ever fewer pixels; leave consistency on, or do not iterate"
        )
    fit = first = Fit(axes, found.number, found.effective, converged=recipe.max_iterations == 1)
    previous: Axes | None = None
    while fit.iterations < recipe.max_iterations and not fit.converged:
        chunk = partial(moments, weighting=fit.axes, previous=previous, moved=MOVED * recipe.tolerance)
        fit, previous = _iterated(fit, _passed(before, after, threads, chunk), recipe), fit.axes
        if fit.fallback:
            return replace(fit, axes=first.axes)
    return fit


def _passed(
    before: xr.DataArray,
    after: xr.DataArray,
    threads: int | None,
    chunk: Callable[..., Moments] = moments,
) -> Moments:
    """Return the moments of the whole image."""
    size = 2 * before.sizes.get("band", 1)
    total = Reduction(chunk, combined, Moments.packed, dims=(("moment", 4 + size + size * size),))
    made = xr.Dataset({"moments": total(before, after)})
    return Moments.unpacked(computed(made, threads)["moments"].values, size)


def _iterated(fit: Fit, found: Moments, recipe: Recipe) -> Fit:
    """Return the fit after one more pass."""
    passed = replace(fit, effective=found.effective, iterations=fit.iterations + 1)
    if found.effective < LEAST_EFFECTIVE * found.number:
        return replace(passed, fallback=True)
    try:
        axes = axes_of(found, recipe, corrected=recipe.consistency)
    except DegenerateError:  # the pixels of large weight are too alike
        return replace(passed, fallback=True)
    settled = (
        axes.dof == fit.axes.dof
        and bool(np.abs(axes.values - fit.axes.values).max() < recipe.tolerance)
        and found.shift < MOVED * recipe.tolerance
    )
    return replace(passed, axes=axes, converged=settled)


# ------------------------------------------------------------------------------------------------ layers


def layers(
    before: xr.DataArray, after: xr.DataArray, recipe: Recipe, *, threads: int | None = None
) -> xr.Dataset:
    """Return ``magnitude``, ``p_value`` and ``components`` of two images; lazy where an image is.

    The axes are found at once, in passes over the chunks; only the layers are lazy.
    """
    fit = fitted(before, after, recipe, threads=threads)
    axes, shared = fit.axes, threads or 1
    names = tuple(f"{recipe.component}{i + 1}" for i in range(axes.dof))
    kernel = partial(components_of, coefficients=axes.coefficients, center=axes.center)
    components = Pixelwise(kernel, bands=names)(before, after, threads=shared)
    result = xr.Dataset(
        {
            "magnitude": Pixelwise(partial(_length, variance=axes.variance))(components, threads=shared),
            "p_value": Pixelwise(partial(_p_value, variance=axes.variance))(components, threads=shared),
            "components": components,
        }
    )
    for name in result:
        result[name].encoding |= components.encoding
    result["p_value"].attrs["dof"] = axes.dof
    return result.assign_attrs(_facts(fit, recipe, _names(before)))


def _names(image: xr.DataArray) -> list[str]:
    """Return the names of the bands, their numbers where they have none."""
    if "band" in image.dims and "band" in image.coords:
        return [str(name) for name in image.coords["band"].values]
    return [str(i + 1) for i in range(image.sizes.get("band", 1))]


@np.errstate(all="ignore")
def components_of(before: Array, after: Array, *, coefficients: Float64, center: Float64) -> Array:
    """Return the components.

    Parameters
    ----------
    before, after : (band, y, x) array, NaN = invalid
    coefficients : (component, 2·band), of the bands before and then those after
    center : (2·band,) taken off the bands

    Returns
    -------
    (component, y, x) float32 array, NaN where a band of either is not finite
    """
    pair = [image.reshape(len(image), -1) for image in (before, after)]
    out = np.empty((len(coefficients), pair[0].shape[1]), np.float32)
    for cut in pieces(out.shape[1]):
        pixels = np.concatenate([x[:, cut] for x in pair], dtype=np.float64)
        pixels -= center[:, None]
        # Not a product of matrices: its order of additions depends on where in a block a pixel lies.
        out[:, cut] = np.einsum("cb,bn->cn", coefficients, pixels)
    return finished(out).reshape(-1, *before.shape[1:])


def _statistic(components: Array, variance: Float64) -> Float64:
    """Return Z; components are added in a loop."""
    total = np.zeros(components.shape[1:])
    for component, var in zip(components, variance, strict=True):
        square = component.astype(np.float64)
        square *= square
        square /= var
        total += square
    return total


def _length(components: Array, *, variance: Float64) -> Array:
    """Return √Z."""
    return np.sqrt(_statistic(components, variance)).astype(np.float32)


@np.errstate(under="ignore")
def _p_value(components: Array, *, variance: Float64) -> Array:
    """Return the p-value of no change; 0 where it is below what float32 holds."""
    return chi_square_sf(_statistic(components, variance), len(variance)).astype(np.float32)


def _facts(fit: Fit, recipe: Recipe, names: list[str]) -> dict[str, Any]:
    """Return what a reader of the layers wants to know, as plain values."""
    axes = fit.axes
    dropped = [name for name, kept in zip(names, axes.kept, strict=True) if not kept]
    facts = {
        recipe.values: axes.values.tolist(),
        "variance": axes.variance.tolist(),
        "dof": axes.dof,
        "number": int(fit.number),
        "effective_number": fit.effective,
        "iterations": fit.iterations,
        "converged": fit.converged,
        "fallback": fit.fallback,
        "ridge": axes.ridge,
        "dropped_bands": dropped,
    }
    return facts | {"warnings": _warnings(fit, dropped, int(axes.kept.sum()))}


def _warnings(fit: Fit, dropped: list[str], bands: int) -> list[str]:
    """Say in words what the numbers of a fit warn of."""
    out = []
    if dropped:
        out.append(f"bands without variation were left out: {', '.join(dropped)}")
    if fit.axes.ridge:
        out.append(
            f"bands nearly repeat one another: {fit.axes.ridge:g} of their variance was added, and "
            f"{fit.axes.dof} of {bands} components are left"
        )
    if fit.fallback:
        out.append(
            f"the weights collapsed onto {fit.effective:.0f} of {fit.number:.0f} pixels: the result without "
            "weights is given"
        )
    elif not fit.converged:
        out.append(f"the weights did not settle in {fit.iterations} iterations")
    return out
