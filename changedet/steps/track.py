"""From evidence to objects in time: candidates, interval of appearance, status, or why not.

Objects are dated, never single pixels: the evidence of an object's core pixels is projected on its own step
and the
series is split in two levels. The interval is ``(last_absent, first_seen]`` between two dates on which most
of the object was usable.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Candidate:
    """Pixels that may be one object.

    Parameters
    ----------
    rows, columns : (pixel,) of its footprint
    peak : highest ``z`` of its pixels
    delta : (band,) its step, ln units
    """

    rows: Array
    columns: Array
    peak: float
    delta: Array

    @property
    def window(self) -> tuple[slice, slice]:
        """Smallest window that holds the footprint."""
        return (
            slice(int(self.rows.min()), int(self.rows.max()) + 1),
            slice(int(self.columns.min()), int(self.columns.max()) + 1),
        )


@dataclass(frozen=True)
class Growth:
    """How candidates are cut from the evidence.

    Parameters
    ----------
    grow : ``z`` to which a candidate grows from its seed
    contrast : share of the object's own step that a pixel of the footprint must show; half is where the edge
    of
        an object lies under a point-spread function
    min_px : smaller footprints are dropped
    rounds : objects of different steps that one region may hold
    fragment : a piece beside a stronger object counts as one of its own from this share of that one's size
    """

    grow: float = 4.0
    contrast: float = 0.5
    min_px: int = 2
    rounds: int = 6
    fragment: float = 0.25


def candidates(z: Array, delta: Array, seed: Array, rules: Growth = Growth()) -> list[Candidate]:
    """Cut an evidence image into candidate objects.

    Parameters
    ----------
    z : (y, x) float32 evidence in units of its own null noise, NaN = no decision
    delta : (band, y, x) float32 best step of every pixel, ln units
    seed : (y, x) level above which a pixel starts a candidate
    rules : growth rules

    Returns
    -------
    list of Candidate, in raster order of their first pixel
    """
    from scipy import ndimage

    filled = np.nan_to_num(z, nan=-np.inf)
    hot = filled > seed
    grown, count = ndimage.label(filled > rules.grow, np.ones((3, 3)))
    keep = np.zeros(count + 1, bool)
    keep[np.unique(grown[hot])] = True
    keep[0] = False
    found = []
    for label, window in enumerate(ndimage.find_objects(np.where(keep[grown], grown, 0)), start=1):
        if window is not None:
            window = (window[0], window[1])
            region = grown[window] == label
            found += _footprints(
                filled[window], delta[(slice(None), *window)], hot[window], region, window, rules
            )
    return sorted(found, key=lambda c: (int(c.rows[0]), int(c.columns[0])))


def _footprints(
    z: Array, delta: Array, hot: Array, region: Array, window: tuple[slice, slice], rules: Growth
) -> list[Candidate]:
    """Cut a region in objects, strongest first: each is what shows at least a share of one common step."""
    from scipy import ndimage

    found: list[Candidate] = []
    rest, taken = region.copy(), np.zeros(region.shape, np.int32)
    for _ in range(rules.rounds):
        seeds = rest & hot
        if not seeds.any():
            break
        step = _common_step(z, delta, seeds)
        share = np.einsum("b,byx->yx", step, delta) / max(float(step @ step), 1e-9)
        parts, _ = ndimage.label(rest & (share >= rules.contrast), np.ones((3, 3)))
        with_seed = np.setdiff1d(np.unique(parts[seeds]), [0])
        if with_seed.size == 0:
            break
        around = ndimage.maximum_filter(taken, 5)
        for i in with_seed:
            part = parts == i
            rows, columns = np.nonzero(part)
            if rows.size < rules.min_px or rows.size < rules.fragment * around[part].max():
                continue
            own = _common_step(z, delta, part & seeds)
            peak = float(z[part].max())
            found.append(Candidate(rows + window[0].start, columns + window[1].start, peak, own))
            taken[part] = rows.size
        rest &= ~np.asarray(ndimage.binary_dilation(np.isin(parts, with_seed), np.ones((3, 3), bool)))
    return found


def _common_step(z: Array, delta: Array, seeds: Array) -> Array:
    """Return the median step of the stronger half of the seeds, (band,)."""
    top = seeds & (z >= np.quantile(z[seeds], 0.5))
    return np.asarray(np.median(delta[:, top], axis=1))


@dataclass(frozen=True)
class Series:
    """An object over time.

    Parameters
    ----------
    value : (time,) projected evidence: about 0 before, 1 after the step; NaN where not usable
    noise : (time,) standard deviation of ``value``
    share : (time,) share of the object's pixels that were usable
    frozen : (time,) bool, ice or snow there
    near_cloud : (time,) bool, most of it lies next to a masked cloud
    """

    value: Array
    noise: Array
    share: Array
    frozen: Array
    near_cloud: Array

    @property
    def usable(self) -> Array:
        """``(time,)`` bool: most of the object's pixels were usable."""
        return np.asarray((self.share >= 0.5) & np.isfinite(self.value))


def project(
    residual: Array, weight: Array, delta: Array, whiten: Array, frozen: Array, near_cloud: Array
) -> Series:
    """Project an object's residuals on its step.

    Parameters
    ----------
    residual, weight : (time, band, pixel) of the object's core
    delta : (band,) step, ln units
    whiten : (band, band)
    frozen, near_cloud : (time,) bool
    """
    used: Array = np.asarray((weight > 0).all(axis=1))
    sd = 1 / np.sqrt(
        np.maximum(np.where(used[:, None], weight, 0).sum(axis=(0, 2)) / max(used.sum(), 1), 1e-9)
    )
    direction = (whiten.T @ whiten) @ (delta / sd) / sd
    unit = float(direction @ delta)
    direction = direction / (unit if abs(unit) > 1e-12 else 1.0)
    value = np.where(used, np.einsum("b,tbn->tn", direction, np.where(used[:, None], residual, 0)), np.nan)
    variance = np.einsum("b,tbn->tn", direction**2, 1 / np.maximum(weight, 1e-9))
    share = used.mean(axis=1)
    middle = np.full(value.shape[0], np.nan)
    some = used.any(axis=1)
    middle[some] = np.nanmedian(value[some], axis=1)
    independent = np.maximum(used.sum(axis=1) / 4, 1)  # neighbors share a point-spread function
    noise = np.full(value.shape[0], np.inf)
    noise[some] = np.sqrt(np.nanmedian(np.where(used, variance, np.nan)[some], axis=1) / independent[some])
    return Series(middle, noise, share, frozen, near_cloud)


@dataclass(frozen=True)
class Split:
    """A two-level split of a series.

    Parameters
    ----------
    index : position in the list of used dates of the first date after the split
    low, high : levels before and after
    sse : weighted sum of squares that is left
    sse0 : the same without a split
    """

    index: int
    low: float
    high: float
    sse: float
    sse0: float


def split_levels(value: Array, weight: Array, *, min_side: int = 2) -> Split | None:
    """Split a series in two levels, minimizing the weighted squared deviation.

    Parameters
    ----------
    value, weight : (n,) finite values and weights > 0
    min_side : dates wanted on each side

    Returns
    -------
    Split, or None with too few dates

    >>> split_levels(np.array([0.0, 0, 0, 1, 1]), np.ones(5)).index
    3
    """
    n = value.size
    if n < 2 * min_side:
        return None
    w, wy, wyy = np.cumsum(weight), np.cumsum(weight * value), np.cumsum(weight * value * value)
    k = np.arange(min_side, n - min_side + 1)
    left = wyy[k - 1] - wy[k - 1] ** 2 / w[k - 1]
    rest_w, rest_y = w[-1] - w[k - 1], wy[-1] - wy[k - 1]
    right = (wyy[-1] - wyy[k - 1]) - rest_y**2 / rest_w
    best = int(np.argmin(left + right))
    i = int(k[best])
    return Split(
        i,
        float(wy[i - 1] / w[i - 1]),
        float(rest_y[best] / rest_w[best]),
        float(max(left[best] + right[best], 0)),
        float(wyy[-1] - wy[-1] ** 2 / w[-1]),
    )


@dataclass(frozen=True)
class Stay:
    """The stretch of dates on which a series is high.

    Parameters
    ----------
    first, end : positions in the list of used dates: high on ``first … end − 1``
    low, high : levels outside and inside
    sse : weighted sum of squares that is left
    sd : weighted standard deviation within the two levels
    """

    first: int
    end: int
    low: float
    high: float
    sse: float
    sd: float


def find_stay(value: Array, weight: Array, *, min_dates: int = 2, penalty: float = 1.4) -> Stay | None:
    """Find the stretch that minimizes the weighted squared deviation from two levels.

    Parameters
    ----------
    value, weight : (n,) finite values and weights > 0, in order of time
    min_dates : dates wanted inside, and before
    penalty : a stretch that ends before the last date must beat one that does not by this factor

    Returns
    -------
    Stay, or None with too few dates

    >>> stay = find_stay(np.array([0.0, 0, 0, 1, 1, 1]), np.ones(6))
    >>> stay.first, stay.end
    (3, 6)
    """
    n = value.size
    if n < 2 * min_dates:
        return None
    sums = [np.concatenate([[0.0], np.cumsum(x)]) for x in (weight, weight * value, weight * value * value)]
    i, j = np.triu_indices(n + 1, k=min_dates)
    keep = i >= min_dates
    i, j = i[keep], j[keep]
    inside = [s[j] - s[i] for s in sums]
    outside = [s[-1] - part for s, part in zip(sums, inside, strict=True)]
    sse = sum(p[2] - p[1] ** 2 / p[0] for p in (inside, outside))
    cost = np.maximum(sse, 1e-6 * sums[2][-1]) * np.where(j < n, penalty, 1.0)
    best = int(np.argmin(cost))
    left = float(max(sse[best], 0.0))
    return Stay(
        int(i[best]),
        int(j[best]),
        float(outside[1][best] / outside[0][best]),
        float(inside[1][best] / inside[0][best]),
        left,
        float(np.sqrt(left / sums[0][-1] * n / max(n - 2, 1))),
    )


@dataclass(frozen=True)
class Causes:
    """What else might explain an object.

    Parameters
    ----------
    level : (time,) water level, NaN unknown
    years : (time,) time in years
    frozen : (time,) bool, ice or snow in the object's stratum
    over : stratum the object lies in: water, shore or land
    edge_step : what a shift of one pixel would change here, ln units
    step : length of the object's step, ln units
    """

    level: Array
    years: Array
    frozen: Array
    over: str
    edge_step: float = 0.0
    step: float = np.inf


@dataclass(frozen=True)
class Verdict:
    """What the series of an object says.

    Parameters
    ----------
    status : of a structure, or None where it is an alarm
    reason : of an alarm, or None
    first, last_absent, confirmed, last : indexes of dates (first_seen, …); −1 unknown
    seen : (time,) bool, usable dates on which it was there
    snr : step over the scatter while it is absent
    """

    status: str | None
    reason: str | None
    first: int
    last_absent: int
    confirmed: int
    last: int
    seen: Array
    snr: float


@dataclass(frozen=True)
class Persistence:
    """Rules of persistence.

    Parameters
    ----------
    present : share of the full step above which an object counts as there (its contrast changes with season)
    present_sd : the same, in units of the scatter while it is absent
    max_noise : a date with more noise than this share of the step says nothing
    after : weighted share of the later dates on which it must be there
    before : weighted share of the earlier dates on which it may seem to be there
    min_after : open dates on which it must be seen before it is no longer unresolved
    min_stay : dates a thing that is gone again must have stayed to be a structure
    min_snr : least step over the scatter while it is absent
    """

    present: float = 0.3
    present_sd: float = 2.0
    max_noise: float = 0.4
    after: float = 0.7
    before: float = 0.25
    min_after: int = 3
    min_stay: int = 4
    min_snr: float = 4.0


def judge(series: Series, causes: Causes, rules: Persistence = Persistence()) -> Verdict:
    """Date an object and say whether it is a structure.

    Parameters
    ----------
    series : projected evidence
    causes : what else might explain it
    rules : persistence rules

    Notes
    -----
    The contrast of an object changes with the season, so its presence is judged against the scatter while it
    is absent, not against its mean height. A date says "there", "absent" or nothing (ice, a cloud's edge that
    looks like the object, too noisy, in between); the interval lies between dates that speak.
    """
    open_dates = series.usable & ~series.frozen
    dates = np.flatnonzero(open_dates if open_dates.sum() >= 5 else series.usable)
    value, noise = series.value[dates], series.noise[dates]
    stay = find_stay(value, 1 / (noise**2 + 0.1**2))
    if stay is None:
        nothing = np.zeros(series.value.size, bool)
        return Verdict(None, "not-persistent", -1, -1, -1, -1, nothing, 0.0)
    run = _presence(dates, value, noise, series.near_cloud[dates], stay, rules)
    seen = np.zeros(series.value.size, bool)
    times = dates[run.first : run.end][run.state[run.first : run.end] > 0]
    seen[times] = True
    status, reason = _status(series, causes, rules, run)
    absent = dates[: run.first][run.state[: run.first] < 0]
    clear = times[~series.near_cloud[times]]
    first = int(clear[0]) if clear.size else int(dates[run.first])
    before = absent[absent < first]
    confirmed = int(times[rules.min_after - 1]) if status and times.size >= rules.min_after else -1
    return Verdict(
        status,
        reason,
        first,
        int(before[-1]) if before.size else -1,
        max(confirmed, first) if confirmed >= 0 else -1,
        int(times[-1]) if times.size else -1,
        seen,
        run.snr,
    )


@dataclass(frozen=True)
class _Run:
    """States of the used dates (1 there, −1 absent, 0 unclear), and the stretch that fits them."""

    dates: Array
    weight: Array
    state: Array
    first: int
    end: int
    height: float
    snr: float


def _presence(
    dates: Array, value: Array, noise: Array, near_cloud: Array, stay: Stay, rules: Persistence
) -> _Run:
    """Say on which dates an object is there, and find the stretch with the fewest mistakes."""
    first, end = stay.first, stay.end
    weight = 1 / (noise**2 + 0.1**2)
    for _ in range(3):
        outside = np.ones(value.size, bool)
        outside[first:end] = False
        low = float(np.median(value[outside])) if outside.any() else stay.low
        height = float(np.median(value[~outside])) - low
        scatter = _scatter(value[outside] - low, noise[outside])
        state = _states(value - low, noise, height, scatter, rules)
        # the thin edge of a cloud can look like a bright object: it may support, it may not decide
        first, end = _best_stretch(state, weight * np.where(near_cloud & (state > 0), 0.3, 1.0))
    return _Run(dates, weight, state, first, end, height, height / scatter)


def _states(value: Array, noise: Array, height: float, scatter: float, rules: Persistence) -> Array:
    """Return 1 (there), −1 (absent) or 0 (unclear) for every date."""
    there = max(rules.present * height, rules.present_sd * scatter)
    absent = max(0.6 * rules.present * height, 0.6 * rules.present_sd * scatter)
    clear = noise <= rules.max_noise * max(height, 1e-6)
    return np.where(~clear, 0, np.where(value > there, 1, np.where(value < absent, -1, 0))).astype(np.int8)


def _best_stretch(state: Array, weight: Array) -> tuple[int, int]:
    """Return the stretch of dates with the fewest weighted mistakes; it begins with a date that shows it.

    A stretch that ends before the last date costs one mean weight: what stands is expected to stay.
    """
    n = state.size
    gain = np.concatenate([[0.0], np.cumsum(weight * state)])
    i, j = np.triu_indices(n + 1, k=1)
    keep = i >= 1
    i, j = i[keep], j[keep]
    score = gain[j] - gain[i] - np.where(j < n, weight.mean(), 0.0)
    best = int(np.argmax(score))
    first, end = int(i[best]), int(j[best])
    while first < end - 1 and state[first] <= 0:
        first += 1
    return first, end


def _scatter(deviation: Array, noise: Array) -> float:
    """Return the robust scatter of a series while the object is absent; never far under its noise."""
    expected = float(np.median(noise)) if noise.size else 0.05
    found = 1.4826 * float(np.median(np.abs(deviation))) if deviation.size else 0.0
    return max(found, 0.7 * expected, 0.03)


def _status(series: Series, causes: Causes, rules: Persistence, run: _Run) -> tuple[str | None, str | None]:
    """Return status, or the reason of an alarm."""
    inside, early = slice(run.first, run.end), slice(0, run.first)
    before = _share(run.state[early], run.weight[early])
    after = _share(run.state[inside], run.weight[inside])
    seen = run.dates[inside][run.state[inside] > 0]
    absent = int((run.state[early] < 0).sum())
    if (
        run.height <= 0
        or absent < 2
        or before > rules.before
        or after < rules.after
        or run.snr < rules.min_snr
    ):
        return None, _not_persistent(series, causes, run, seen)
    other = _other_cause(series, causes, run)
    if other is not None:
        return None, other
    open_seen = int((~series.frozen[seen] & ~series.near_cloud[seen]).sum())
    if (run.state[run.end :] < 0).sum() >= 2:
        if seen.size < rules.min_stay or open_seen < 2:
            return None, _not_persistent(series, causes, run, seen)
        return ("removed" if seen.size >= rules.min_stay + 2 else "transient"), None
    if seen.size >= rules.min_after and open_seen >= rules.min_after - 1:
        return "persistent", None
    if seen.size >= 2 and open_seen >= 1:
        return "unresolved", None
    return None, _not_persistent(series, causes, run, seen)


def _not_persistent(series: Series, causes: Causes, run: _Run, seen: Array) -> str:
    """Name the likeliest cause of something that does not stay."""
    if seen.size and causes.frozen[seen].mean() > 0.5:
        return "snow" if causes.over == "land" else "ice"
    if seen.size and series.near_cloud[seen].all():
        return "cloud"
    if causes.over == "water" and run.end < run.dates.size and seen.size <= 3:
        return "vessel"
    return "not-persistent"


def _other_cause(series: Series, causes: Causes, run: _Run) -> str | None:
    """Return a cause that explains the series at least as well as a step in time does."""
    value = series.value[run.dates]
    known = np.isfinite(causes.level[run.dates])
    if causes.over != "land" and known.sum() >= 6:
        if explained_by(-causes.level[run.dates][known], value[known], run.weight[known]):
            return "water-level"
    if causes.over != "water" and seasonal(causes.years[run.dates], value, run.weight):
        return "phenology"
    if 0.5 * causes.edge_step > causes.step:
        return "misregistration"
    return None


def _share(state: Array, weight: Array) -> float:
    """Return the weighted share of "there" among the dates that speak, 0 without any."""
    total = float(weight[state != 0].sum())
    return float(weight[state > 0].sum() / total) if total > 0 else 0.0


def explained_by(order: Array, value: Array, weight: Array, *, margin: float = 1.0) -> bool:
    """Return True where sorting by another cause (water level) splits a series at least as well as time does.

    Parameters
    ----------
    order : (n,) the other cause; its order is what counts
    value, weight : (n,) series and weights, in order of time
    margin : the other cause explains it if its residual is at most this many times that of the step in time

    Returns
    -------
    bool; False with fewer than 5 dates
    """
    if value.size < 5 or not np.isfinite(order).all():
        return False
    in_time = split_levels(value, weight, min_side=1)
    by = np.argsort(order, kind="stable")
    in_order = split_levels(value[by], weight[by], min_side=1)
    if in_time is None or in_order is None:
        return False
    return in_order.sse <= margin * in_time.sse and in_order.sse < 0.5 * in_order.sse0


def seasonal(years: Array, value: Array, weight: Array) -> bool:
    """Return True where a yearly cycle explains a series better than one step does.

    Parameters
    ----------
    years : (n,) time in years
    value, weight : (n,) series and weights
    """
    if value.size < 8 or np.ptp(years) < 1.2:
        return False
    step = split_levels(value, weight, min_side=1)
    design = np.stack([np.ones_like(years), np.cos(2 * np.pi * years), np.sin(2 * np.pi * years)], axis=1)
    root = np.sqrt(weight)
    beta, *_ = np.linalg.lstsq(design * root[:, None], value * root, rcond=None)
    left = float((weight * (value - design @ beta) ** 2).sum())
    return step is not None and left < step.sse


def first_part(index: Array, *, share: float = 0.15, min_px: int = 4) -> Array | None:
    """Return the pixels of an object that changed first, if the rest followed later.

    Parameters
    ----------
    index : (pixel,) first date after each pixel's own best break
    share : part of the object that counts as its beginning
    min_px : smallest beginning

    Returns
    -------
    (pixel,) bool, or None where the object came at once or is too small to tell
    """
    count = max(int(np.ceil(share * index.size)), min_px)
    if index.size < 4 * min_px:
        return None
    begin = int(np.sort(index)[count - 1])
    early = index <= begin
    return np.asarray(early) if (index > begin + 1).mean() > 0.2 else None


def grown(whole: Verdict, part: Verdict) -> Verdict:
    """Join the verdicts on an object and on its first part: it grows if that part stands too."""
    if part.status not in ("persistent", "unresolved") or part.first >= whole.first > 0:
        return whole
    status = "growing" if part.status == "persistent" else part.status
    return replace(
        part,
        status=status,
        last=max(part.last, whole.last),
        seen=part.seen | whole.seen,
        snr=max(whole.snr, part.snr),
    )
