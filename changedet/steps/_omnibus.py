"""Test of equal SAR intensity: two dates, and step by step over many.

Under no change, looks-averaged intensity (linear power) is gamma distributed with the number of looks as its
shape, and the likelihood ratio of "all dates alike" has a known distribution with no scale in it. Channels
are taken as independent: their logarithms of the ratio add up.
Conradsen et al. 2003, doi:10.1109/TGRS.2002.808066; Conradsen et al. 2016, doi:10.1109/TGRS.2015.2510160.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from changedet.blocks import Pixelwise, Reduction, Windowed, is_lazy
from changedet.errors import DegenerateError, InputError, SettingError
from changedet.steps._finite import finished

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]

WINDOW_PX = 8
"""Side of the windows in which looks are counted: enough pixels for a variance, few enough to be alike."""

UNIFORM = 4.0
"""Largest ratio of variance between a window's quarters to variance inside them that counts as uniform.

Without texture one window in a hundred exceeds it; correlated speckle moves the quarters apart too, so that a
stricter bound would keep the smoothest windows only and count too many looks."""

_QUIET = np.errstate(all="ignore")  # NaN, zero and infinity are inputs here, and come out as NaN


# --- two dates ---------------------------------------------------------------------------------------------


@_QUIET
def omnibus_magnitude(before: Array, after: Array, enl: Array) -> Float32:
    """Square root of the test statistic ``−2ρ·ln Q`` of two dates.

    Parameters
    ----------
    before, after : (band, y, x) array, linear power, NaN, 0 or less = invalid
    enl : (band, 1, 1) array, equivalent number of looks, the same in every band

    Returns
    -------
    (y, x) float32 array, ≥ 0, NaN where a band of either is invalid

    >>> omnibus_magnitude(np.full((1, 1, 1), 0.1), np.full((1, 1, 1), 0.4), np.full((1, 1, 1), 5.0)).round(3)
    array([[2.059]], dtype=float32)
    """
    looks = float(enl.flat[0])
    total = np.zeros(before.shape[1:])
    for a, b in zip(before, after, strict=True):
        x, y = _power(a), _power(b)
        # ln(4xy / (x + y)²) without the loss of digits where the dates are nearly alike
        total += np.log1p(-(((y - x) / (y + x)) ** 2))
    z = -2 * _rho_all(2.0, looks) * looks * total
    return finished(np.sqrt(np.maximum(z, 0)))


@_QUIET
def omnibus_p_value(magnitude: Array, enl: Array) -> Float32:
    """Probability of at least this magnitude if nothing changed between two dates.

    Parameters
    ----------
    magnitude : (1, y, x) array from :func:`omnibus_magnitude`
    enl : (band, 1, 1) array, as there; its length says how many channels were tested

    Returns
    -------
    (y, x) float32 array, 0 to 1, NaN where the magnitude is
    """
    z = magnitude[0].astype(np.float64) ** 2
    return finished(_p_all(z, 2.0, float(enl.flat[0]), len(enl)))


def omnibus(
    before: xr.DataArray, after: xr.DataArray, *, enl: float | None = None, threads: int = 1
) -> xr.Dataset:
    """Test pixel by pixel whether two dates have the same backscatter in every channel.

    Parameters
    ----------
    before, after : (band, y, x) linear power, not dB, NaN, 0 or less = invalid
    enl : equivalent number of looks, at least 1; None estimates it from uniform windows of both dates
    threads : threads for eager work

    Returns
    -------
    Dataset of ``magnitude`` (y, x) float32, √(−2ρ·ln Q), ≥ 0, and ``p_value`` (y, x) float32 of no change

    Raises
    ------
    SettingError
        ``enl`` is below 1.
    DegenerateError
        The looks could not be estimated (for lazy input: when computing).

    Notes
    -----
    Neighbors are alike in speckle and in change: an object is more significant than its pixels, and many
    pixels below 0.01 are expected in any image. Filtering or resampling changes the number of looks.
    """
    looks = _looks((before, after), enl, threads)
    bands = before.sizes.get("band", 1)
    coords = {"band": before.coords["band"]} if "band" in before.dims and "band" in before.coords else {}
    spread = xr.DataArray(np.ones(bands), dims="band", coords=coords) * looks
    magnitude = _MAGNITUDE(before, after, spread, threads=threads)
    p_value = _P_VALUE(_bare(magnitude), spread.drop_vars("band", errors="ignore"), threads=threads)
    p_value.encoding, p_value.attrs = dict(magnitude.encoding), {**magnitude.attrs, "units": "1"}
    return xr.Dataset({"magnitude": magnitude, "p_value": p_value})


_MAGNITUDE = Pixelwise(omnibus_magnitude)
_P_VALUE = Pixelwise(omnibus_p_value)


def _bare(image: xr.DataArray) -> xr.DataArray:
    """Return an image without a leftover band coordinate, which would not align with a band axis."""
    return image.drop_vars("band", errors="ignore")


# --- the number of looks -----------------------------------------------------------------------------------


@_QUIET
def speckle_variance(image: Array) -> Float32:
    """Squared coefficient of variation of the window below and right of each pixel, where it is uniform.

    Parameters
    ----------
    image : (band, y, x) array, linear power, NaN, 0 or less = invalid

    Returns
    -------
    (y, x) float32 array, mean over the bands; NaN where the window leaves the image, holds an invalid pixel,
    or is not uniform in every band
    """
    total = np.zeros(image.shape[1:])
    half, pixels = WINDOW_PX // 2, WINDOW_PX**2
    for band in image:
        power = _power(band)
        mean, square = (_doubled(_doubled(v, 1), half // 2) / half**2 for v in (power, power * power))
        inside = _doubled(square - mean * mean, half) / 4
        center = _doubled(mean, half) / 4
        between = np.maximum(_doubled(mean * mean, half) / 4 - center * center, 0)
        ratio = (between * pixels / 3) / (inside * pixels / (pixels - 4))
        variance = (inside + between) * pixels / (pixels - 1)
        total += np.where((ratio <= UNIFORM) & (variance > 0), variance / center**2, np.nan)
    return finished(total / len(image))


def _doubled(values: Array, step: int) -> Array:
    """Add the values ``step`` below, right, and both; NaN where that leaves the image."""
    down = np.full_like(values, np.nan)
    down[:-step] = values[:-step] + values[step:]
    out = np.full_like(values, np.nan)
    out[:, :-step] = down[:, :-step] + down[:, step:]
    return out


def _finite(*maps: Array) -> Array:
    """Return the finite values of all maps in one line."""
    joined = np.concatenate([m.ravel() for m in maps])
    return np.asarray(joined[np.isfinite(joined)])


def _side_by_side(a: Array, b: Array) -> Array:
    """Join two lines of values."""
    return np.concatenate([a, b])


def looks_of(variances: Array) -> float:
    """Number of looks from the squared coefficients of variation of uniform windows.

    Parameters
    ----------
    variances : (n,) array, finite

    Returns
    -------
    float, the inverse of their median, freed of the skewness of a variance of few pixels

    Raises
    ------
    DegenerateError
        No window, or less than one look.
    """
    if not variances.size:
        raise DegenerateError(
            f"no uniform window of {WINDOW_PX} × {WINDOW_PX} valid pixels to count looks in; wanted at least "
            "one; give the equivalent number of looks as enl (Sentinel-1 GRD: about 4.4)"
        )
    raw = 1 / float(np.median(variances))
    # A variance of n gamma values is about chi-square with n/(1 + 1/L) degrees; its median is below its mean.
    freedom = WINDOW_PX**2 / (1 + 1 / raw)
    looks = raw * (1 - 2 / (9 * freedom)) ** 3
    if looks < 0.8:  # one look, with texture and by chance, may come out a little lower
        raise DegenerateError(
            f"uniform windows have {looks:.2f} looks; wanted at least 1, as intensity has; check that the "
            "values are linear power, or give enl"
        )
    return max(looks, 1.0)


_SPECKLE = Windowed(speckle_variance, halo_px=WINDOW_PX)
_LOOKS = Reduction(_finite, _side_by_side, looks_of)


def equivalent_looks(*images: xr.DataArray, threads: int = 1) -> xr.DataArray:
    """Estimate the equivalent number of looks: the median over uniform windows of mean²/variance.

    Parameters
    ----------
    images : (band, y, x) each, on one grid, linear power, NaN, 0 or less = invalid
    threads : threads for eager work

    Returns
    -------
    DataArray without dimensions, float64; lazy where an image is

    Raises
    ------
    DegenerateError
        No uniform window of valid pixels, or less than one look (for lazy input: when computing).
    """
    corners = {d: slice(None, None, WINDOW_PX) for d in ("y", "x")}
    return _LOOKS(*(_bare(_SPECKLE(image, threads=threads)).isel(corners) for image in images))


def _looks(images: tuple[xr.DataArray, ...], enl: float | None, threads: int = 1) -> xr.DataArray:
    """Return the looks given, checked, or an estimate."""
    if enl is None:
        return equivalent_looks(*images, threads=threads)
    if not 1 <= enl < np.inf:
        raise SettingError(f"enl={enl}; wanted at least 1 look; leave it out to have it estimated")
    return xr.DataArray(float(enl))


# --- many dates --------------------------------------------------------------------------------------------


@dataclass
class _Scan:
    """What one pass over the dates from a start finds, per pixel ``(n,)``.

    ``first``: date of the first significant interval, 0 without one; ``since``: the valid date before it;
    ``rise``: +1 brighter in every channel, −1 darker in every one, else 0.
    """

    ln_q: Array
    p_value: Array
    n_valid: Array
    first: Array
    since: Array
    rise: Array


def interval_test(total: Array, current: Array, n_before: Array, enl: float) -> tuple[Array, Array]:
    """Test whether a date continues the dates before it (Conradsen's R).

    Parameters
    ----------
    total : (band, n) array, sum of the intensity over the dates before
    current : (band, n) array, intensity of the date
    n_before : (n,) array, how many dates ``total`` holds
    enl : equivalent number of looks

    Returns
    -------
    ln_r : (n,) float64 array, ≤ 0; summed over the dates it is ln Q of all of them
    p_value : (n,) float64 array
    """
    j = n_before + 1.0
    ln_r = np.zeros(total.shape[1:])
    for s, c in zip(total, current, strict=True):
        ln_r += n_before * np.log(s * j / ((s + c) * n_before)) + np.log(c * j / (s + c))
    ln_r *= enl
    rho = 1 - (1 + 1 / (j * n_before)) / (6 * enl)
    omega = -len(total) / 4 * (1 - 1 / rho) ** 2
    return ln_r, _tail(-2 * rho * ln_r, omega, np.float64(len(total)))


@_QUIET
def _scan(image: Array, valid: Array, at: Array, enl: float, alpha: float) -> _Scan:
    """Follow the pixels ``at`` from the first date of ``image`` (time, band, n) on; only sums are kept."""
    total = image[0][:, at].astype(np.float64)
    n, last = np.ones(at.size), np.zeros(at.size, np.int16)
    ln_q = np.zeros(at.size)
    first, since, rise = (np.zeros(at.size, np.int16) for _ in range(3))
    for t in range(1, len(image)):
        here = valid[t, at]
        current = np.where(here, image[t][:, at], 1).astype(np.float64)
        ln_r, p_value = interval_test(total, current, n, enl)
        hit = here & (first == 0) & (p_value <= alpha)
        up: Array = np.sign(current - total / n)
        first[hit], since[hit] = t, last[hit]
        rise[hit] = np.where((up == up[:1]).all(axis=0), up[0], 0)[hit]
        ln_q += np.where(here, ln_r, 0)
        total += np.where(here, current, 0)
        n += here
        last[here] = t
    p_all = np.where(n > 1, _p_all(-2 * _rho_all(n, enl) * ln_q, n, enl, image.shape[1]), np.nan)
    return _Scan(ln_q, p_all, n, first, since, rise)


NAMES = {
    "ln_q": np.float64,
    "p_value": np.float32,
    "n_valid": np.int16,
    "n_changes": np.int16,
    "first_change": np.int16,
    "first_change_since": np.int16,
    "first_change_sign": np.int16,
    "last_change": np.int16,
}
"""Results of :func:`sequential_changes` in their order, and their types."""


def sequential_changes(image: Array, enl: Any, *, alpha: float) -> tuple[Array, ...]:
    """Find the dates at which intensity changed; see :func:`sequential_omnibus`.

    Parameters
    ----------
    image : (time, band, y, x) array, linear power, NaN, 0 or less = invalid
    enl : equivalent number of looks, one number
    alpha : significance demanded of an interval and of all dates from the start

    Returns
    -------
    (y, x) arrays as in :data:`NAMES`
    """
    dates, bands, *shape = image.shape
    image = image.reshape(dates, bands, -1)
    # NaN compares false with everything, infinity must be asked for.
    valid = np.asarray(((image > 0) & (image < np.inf)).all(axis=1))
    out = {name: np.zeros(image.shape[2], dtype) for name, dtype in NAMES.items()}
    out["ln_q"][:], out["p_value"][:], out["n_valid"][:] = np.nan, np.nan, valid.sum(axis=0)
    start = np.where(valid.any(axis=0), valid.argmax(axis=0), dates)
    for date in range(dates - 1):
        at = np.flatnonzero(start == date)
        if not at.size:
            continue
        found = _scan(image[date:], valid[date:], at, float(enl), alpha)
        new = (out["n_changes"][at] == 0) & (found.n_valid > 1)
        out["ln_q"][at[new]], out["p_value"][at[new]] = found.ln_q[new], found.p_value[new]
        changed = (found.p_value <= alpha) & (found.first > 0)
        _note(out, at, changed, found, date)
        start[at] = np.where(changed, date + found.first, dates)
    return tuple(out[name].reshape(shape) for name in NAMES)


def _note(out: dict[str, Array], at: Array, changed: Array, found: _Scan, date: int) -> None:
    """Write the changes of one pass into the results."""
    first = changed & (out["n_changes"][at] == 0)
    out["first_change"][at[first]] = date + found.first[first]
    out["first_change_since"][at[first]] = date + found.since[first]
    out["first_change_sign"][at[first]] = found.rise[first]
    out["last_change"][at[changed]] = date + found.first[changed]
    out["n_changes"][at[changed]] += 1


def sequential_omnibus(image: xr.DataArray, *, enl: float | None = None, alpha: float = 1e-3) -> xr.Dataset:
    """Find when SAR intensity changed, by testing each date against those since the last change.

    A change is the first date that differs from those before it, where all dates since the start differ too;
    the search then starts again at that date. Dates that are invalid in a pixel do not count in that pixel.

    Parameters
    ----------
    image : (time, band, y, x) linear power, not dB, NaN, 0 or less = invalid; one orbit only
    enl : equivalent number of looks, at least 1; None estimates it from uniform windows of all dates
    alpha : significance, between 0 and 1

    Returns
    -------
    Dataset (y, x), lazy where the image is: ``ln_q`` float64 and ``p_value`` float32 of "no change at any
    date", NaN with fewer than two valid dates; int16 ``n_valid`` dates, ``n_changes``, and as 0-based indexes
    along time, 0 = none, ``first_change`` and ``last_change``; ``first_change_since``, the last valid date
    before the first change; ``first_change_sign``, +1 brighter in every channel, −1 darker in every one

    Raises
    ------
    InputError
        The dimensions are others.
    SettingError
        ``enl`` is below 1, or ``alpha`` is no probability.
    DegenerateError
        The looks could not be estimated (for lazy input: when computing).

    Notes
    -----
    With few looks one date is weak evidence, and a change is often found later than it happened. Take the
    date as the end of an interval, or average over an object first.
    """
    if set(image.dims) != {"time", "band", "y", "x"}:
        raise InputError(f"image has dimensions {image.dims}; wanted (time, band, y, x)")
    if not 0 < alpha < 1:
        raise SettingError(f"alpha={alpha}; wanted a probability between 0 and 1")
    looks = _looks(tuple(image.isel(time=t, drop=True) for t in range(image.sizes["time"])), enl)
    if is_lazy(image):
        image = image.chunk(time=-1, band=-1)
    found = xr.apply_ufunc(
        _last_axes_first,
        image,
        looks,
        input_core_dims=[["time", "band"], []],
        output_core_dims=[[]] * len(NAMES),
        kwargs={"alpha": alpha},
        dask="parallelized",
        output_dtypes=list(NAMES.values()),
    )
    result = xr.Dataset(dict(zip(NAMES, found, strict=True)))
    return result.transpose("y", "x").assign_attrs(method="sequential omnibus", alpha=alpha)


def _last_axes_first(image: Array, enl: Any, *, alpha: float) -> tuple[Array, ...]:
    """Run :func:`sequential_changes` on ``(y, x, time, band)``."""
    return sequential_changes(np.moveaxis(image, (2, 3), (0, 1)), np.asarray(enl).item(), alpha=alpha)


# --- distributions -----------------------------------------------------------------------------------------


def _rho_all(n: Any, enl: float) -> Any:
    """Factor that makes the statistic of n dates nearly chi-square."""
    return 1 - (n - 1 / n) / (6 * (n - 1) * enl)


def _p_all(z: Array, n: Any, enl: float, channels: int) -> Array:
    """Probability of at least ``z`` = −2ρ·ln Q of n dates without change."""
    freedom = channels * (n - 1)
    return _tail(z, -freedom / 4 * (1 - 1 / _rho_all(n, enl)) ** 2, freedom)


def _tail(z: Array, omega: Any, freedom: Any) -> Array:
    """Upper tail of the chi-square distribution with its second-order correction."""
    from scipy.special import chdtrc

    z = np.where(z < 0, 0, z)  # rounding
    tail = (1 - omega) * chdtrc(freedom, z) + omega * chdtrc(freedom + 4, z)
    return np.asarray(np.clip(tail, 0, 1))


def _power(band: Array) -> Array:
    """Return float64 power with NaN for what is no measurement of it."""
    power = np.asarray(band, np.float64)
    return np.where((power > 0) & (power < np.inf), power, np.nan)
