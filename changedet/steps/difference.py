"""Differences of two images: a table of methods and one labelled function.

A positive difference means brighter after. Every method returns an image named ``magnitude``: unsigned (how
much changed) or signed (attribute ``signed``), whose absolute value then is how much changed. The statistical
methods return a Dataset that also holds the p-values of no change and the components.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from changedet.blocks import Pixelwise, Reduction, Windowed, check_parameters, sampled
from changedet.errors import BandError, DegenerateError, GridError, UnknownMethodError
from changedet.grid import Grid
from changedet.scenes import is_sar
from changedet.sensors import OPTICAL_BANDS
from changedet.steps._auto import auto, radar
from changedet.steps._difference import (
    Array,
    absolute_difference,
    change_vector,
    log_ratio,
    normalized_ratio,
    robust_change_vector,
    spectral_angle,
)
from changedet.steps._mad import irmad, mad
from changedet.steps._omnibus import omnibus
from changedet.steps._pca import pca, pca_kmeans
from changedet.steps._sfa import isfa, sfa
from changedet.steps._structure import ssim

__all__ = ["METHODS", "Method", "cva", "difference", "logratio", "matched", "radar", "robust_scale"]

OPTICAL_OFFSET = 0.02
"""Reflectance added before a logarithm: about that of water, where the plain ratio is mostly noise."""

_CHANGE_VECTOR = Pixelwise(change_vector)


def _valid_differences(before: Array, after: Array) -> Array:
    """Return after − before ``(band, n)``, float64, of the pixels that are finite in every band."""
    difference = after.astype(np.float64) - before.astype(np.float64)
    return difference[:, np.isfinite(difference).all(axis=0)]


def _side_by_side(a: Array, b: Array) -> Array:
    """Join two sets of pixels."""
    return np.concatenate([a, b], axis=1)


def robust_scale(differences: Array) -> Array:
    """Robust standard deviation of each band: the interquartile range of a normal distribution scaled to 1.

    Parameters
    ----------
    differences : (band, n) float array, finite

    Returns
    -------
    (band,) float64 array; the plain standard deviation where half of the values are one value, infinity
    below a millionth of the largest (a constant band's rounding noise tells nothing, and dividing by
    infinity silences it), NaN without values

    >>> robust_scale(np.array([[0.0, 1.0, 2.0, 3.0, 4.0], [7.0, 7.0, 7.0, 7.0, 7.0]])).round(3)
    array([1.483,   inf])
    """
    if not differences.size:
        return np.full(len(differences), np.nan)
    low, high = np.quantile(differences, [0.25, 0.75], axis=1)
    scale = (high - low) / 1.3489795
    scale = np.where(scale > 0, scale, differences.std(axis=1))
    return np.where(scale > 1e-6 * scale.max(), scale, np.inf)


_SCALE = Reduction(_valid_differences, _side_by_side, robust_scale, dims=("band",))


def cva(
    before: xr.DataArray, after: xr.DataArray, *, standardize: bool = False, threads: int = 1
) -> xr.DataArray:
    """Change vector analysis: the Euclidean length of the difference over the bands.

    Parameters
    ----------
    before, after : (band, y, x), NaN = invalid
    standardize : divide each band's difference by its robust standard deviation first, so that a band that
        varies much everywhere (near infrared over vegetation) does not rule; the result then has no unit
    threads : threads for eager work

    Returns
    -------
    (y, x) float32, ≥ 0
    """
    if not standardize:
        return _CHANGE_VECTOR(before, after, threads=threads)
    scale = _SCALE(sampled(before), sampled(after))
    return _CHANGE_VECTOR(before, after, scale, threads=threads)


_LOG_RATIO = Pixelwise(log_ratio, unit="dB")


def logratio(
    before: xr.DataArray,
    after: xr.DataArray,
    *,
    floor: float = 1e-4,
    offset: float | None = None,
    threads: int = 1,
) -> xr.DataArray:
    """Mean over the bands of ``10·log10((after + offset) / (before + offset))``.

    Parameters
    ----------
    before, after : (band, y, x) linear power or reflectance, NaN = invalid
    floor : smallest value trusted; smaller ones are raised to it
    offset : added to both; None means 0.02 where every band is an optical one, else 0
    threads : threads for eager work

    Returns
    -------
    (y, x) float32, dB, positive = brighter after
    """
    if offset is None:
        names = _band_names(before)
        offset = OPTICAL_OFFSET if names and set(names) <= set(OPTICAL_BANDS) else 0.0
    return _LOG_RATIO(before, after, floor=floor, offset=offset, threads=threads)


@dataclass(frozen=True)
class Method:
    """One line of the table: what to call, and whether the result has a sign.

    Parameters
    ----------
    run : ``(before, after, **params)`` of aligned DataArrays → ``(y, x)`` DataArray, or Dataset of ``layers``
    signed : True where negative values mean darker after
    layers : what the method gives
    """

    run: Callable[..., xr.DataArray | xr.Dataset]
    signed: bool = False
    layers: tuple[str, ...] = ("magnitude",)

    @property
    def kernel(self) -> Callable[..., Any]:
        """Whose signature declares the tuning values."""
        return getattr(self.run, "kernel", self.run)

    def __call__(self, before: xr.DataArray, after: xr.DataArray, **params: Any) -> xr.DataArray | xr.Dataset:
        """Run the method on images that are on one grid and have the same bands."""
        check_parameters(self, params)
        return self.run(before, after, **params)


def _auto(before: xr.DataArray, after: xr.DataArray, *, threads: int = 1) -> xr.DataArray:
    """See :func:`changedet.steps._auto.auto`; a pair too small to learn from is compared plainly.

    Parameters
    ----------
    before, after : (band, y, x), NaN = invalid
    threads : threads for eager work
    """
    try:
        return auto(before, after, threads=threads)
    except DegenerateError as error:
        name = _plain(before)
        plain: xr.DataArray = METHODS[name](before, after, threads=threads)  # type: ignore[assignment]
        return plain.assign_attrs(chosen=name, why=str(error).partition(";")[0])


def _plain(image: xr.DataArray) -> str:
    """Return the plain method for a kind of image: logratio for SAR, cva for several bands, else absdiff."""
    names = _band_names(image)
    if names and is_sar(image):
        return "logratio"
    return "cva" if image.sizes.get("band", 1) > 1 else "absdiff"


_LAYERS = ("magnitude", "p_value", "components")

METHODS: Mapping[str, Method] = {
    "absdiff": Method(Pixelwise(absolute_difference)),
    "cva": Method(cva),
    "logratio": Method(logratio, signed=True),
    "ratio": Method(Pixelwise(normalized_ratio), signed=True),
    "rcva": Method(Windowed(robust_change_vector, halo_px="radius_px")),
    "sam": Method(Pixelwise(spectral_angle, unit="rad")),
    "mad": Method(mad, layers=_LAYERS),
    "irmad": Method(irmad, layers=_LAYERS),
    "sfa": Method(sfa, layers=_LAYERS),
    "isfa": Method(isfa, layers=_LAYERS),
    "pca": Method(pca, layers=_LAYERS),
    "pca-kmeans": Method(pca_kmeans),
    "ssim": Method(ssim),
    "omnibus": Method(omnibus, layers=_LAYERS[:2]),
    "auto": Method(_auto),
}


def difference(
    before: xr.DataArray, after: xr.DataArray, method: str = "cva", **params: Any
) -> xr.DataArray | xr.Dataset:
    """How much, and where the method has a sign which way, each pixel changed; lazy if an input is.

    mad, irmad, sfa and isfa need numbers about the whole image: they compute these at once, in passes over
    the chunks of a lazy image, and leave the layers lazy.

    Parameters
    ----------
    before, after : (band, y, x) or (y, x), on one grid, the same bands; NaN = invalid
    method : one of :data:`METHODS`
    params : tuning values of the method, and ``threads`` for eager work

    Returns
    -------
    DataArray ``(y, x)`` float32 named ``magnitude``, NaN where either image is not usable in every band,
    with attributes ``method``, ``signed`` and ``units``; of mad, irmad, sfa and isfa a Dataset with
    ``magnitude`` (√Z), ``p_value`` (y, x) of no change and ``components`` (band, y, x), see
    :func:`changedet.steps._mad.mad`

    Raises
    ------
    UnknownMethodError
        No method of that name.
    UnknownSettingError
        The method has no such tuning value.
    GridError, CRSError
        The images are not on one grid.
    BandError
        The images do not have the same bands.
    DegenerateError
        mad, irmad, sfa, isfa: too few usable pixels, or bands that determine nothing.
    """
    if method not in METHODS:
        raise UnknownMethodError("difference", method, list(METHODS))
    chosen = METHODS[method]
    result = chosen(before, matched(before, after), **params)
    if isinstance(result, xr.Dataset):
        result["magnitude"].attrs |= {"method": method, "signed": chosen.signed}
        return result
    signed = bool(result.attrs.get("signed", chosen.signed))
    return result.rename("magnitude").assign_attrs(method=method, signed=signed)


def matched(before: xr.DataArray, after: xr.DataArray) -> xr.DataArray:
    """Return ``after`` with the bands of ``before`` in their order and its very coordinates.

    Raises
    ------
    GridError, CRSError
        The grids differ by more than :data:`changedet.grid.TOLERANCE_PX`.
    BandError
        The band names differ, or only one of the two has bands.
    """
    for name, image in (("before", before), ("after", after)):
        if not {"y", "x"} <= set(image.dims):
            raise GridError(f"{name} has dimensions {image.dims}; wanted (band, y, x) or (y, x)")
    Grid.of(before).require_same(Grid.of(after))
    after = _same_bands(before, after)
    return after.assign_coords({d: before.coords[d] for d in ("y", "x") if d in before.coords})


def _same_bands(before: xr.DataArray, after: xr.DataArray) -> xr.DataArray:
    """Select the bands of ``before`` by name."""
    ours, theirs = _band_names(before), _band_names(after)
    sizes = [image.sizes.get("band") for image in (before, after)]
    if sorted(ours) != sorted(theirs) or sizes[0] != sizes[1] or len(set(ours)) < len(ours):
        raise BandError(
            f"before has bands {ours or sizes[0]}, after {theirs or sizes[1]}; wanted the same unique names; "
            "choose common bands with --bands, or name them with --band-names"
        )
    if not ours:
        return after
    return after.isel(band=[theirs.index(name) for name in ours]).assign_coords(band=before.coords["band"])


def _band_names(image: xr.DataArray) -> list[str]:
    """Return the names along ``band``, an empty list where there are none."""
    if "band" not in image.dims or "band" not in image.coords:
        return []
    return [str(name) for name in image.coords["band"].values]
