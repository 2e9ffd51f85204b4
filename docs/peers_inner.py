"""The peers' side of ``make_peers.py``: breaks of each pixel by COLD, by nrt's monitors and by BFAST Monitor.

It runs in the Python of the peers, which has NumPy and the peer, and not changedet. A request is a line of
JSON on standard input (``scene``, ``out``, ``method``, ``setting``), the answer a line on standard output:
``seconds`` and ``note``. The scene is an .npz with ``image`` (time, band, y, x) in reflectance, NaN where not
usable, ``dates`` and ``bands``; the result is an .npy, (y, x): index of the date of the break, -1 without.
"""

import contextlib
import datetime as dt
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

PREPARED: dict[str, Any] = {"prepared": True}
SHORT = PREPARED | {"history": 1 / 3, "trend": False, "harmonic_order": 1}
FLAT = SHORT | {"harmonic_order": 0}
MEAN = FLAT | {"fit": "OLS"}
WIDE = MEAN | {"h": 0.5}
JOBS: dict[str, dict[str, dict[str, Any]]] = {
    "COLD": {"as documented": {}, "3 dates confirm": {**PREPARED, "conse": 3}},
    "EWMA": {
        "as documented": {},
        "one harmonic": SHORT,
        "no season": FLAT,
        "no season, limit 6, nothing dropped": {**FLAT, "sensitivity": 6, "threshold_outlier": 1e6},
    },
    "CuSum": {
        "as documented": {},
        "one harmonic": SHORT,
        "no season": MEAN,
        "no season, level 0.001": {**MEAN, "sensitivity": 0.001},
    },
    "MoSum": {
        "as documented": {},
        "one harmonic": SHORT,
        "no season": WIDE,
        "no season, level 0.001": {**WIDE, "sensitivity": 0.001},
    },
    "BFAST Monitor": {
        "as documented": {},
        "no trend, level 0.001": {**PREPARED, "trend": False, "level": 0.001},
    },
}
"""Method → words of a setting → what differs from the peer's own defaults. ``history`` is the share of the
dates that monitors take as history: a half where not given, as fewer cannot carry their default model.
``prepared``: see ``make_peers.py``. ``fit`` is how the model is fitted: CuSum and MoSum look for a stable
part of the history, and die on a mere mean."""

CLEAR = 24
"""Clear dates of a pixel below which COLD fits its short model only, in which there are no breaks."""


def main() -> None:
    """Answer requests until there are none; what a peer prints, in C too, goes to the other stream."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(answer(**request)), file=answers, flush=True)


def answer(scene: str, out: str, method: str, setting: dict[str, Any]) -> dict[str, Any]:
    """Do one request; return seconds of the work itself, or why there is no result."""
    with np.load(scene, allow_pickle=False) as held:
        image, dates, bands = held["image"], held["dates"].astype("datetime64[D]"), [*map(str, held["bands"])]
    work = WORK.get(method, monitor)
    kept = {**setting, "history": setting.get("history", 0.5)}
    try:
        if work is not cold:  # compile beforehand, on as many dates
            with contextlib.suppress(Exception):
                work(method, image[..., :48, :48], dates, bands, **kept)
        begin = time.perf_counter()
        found, extra, note = work(method, image, dates, bands, **kept)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    seconds = time.perf_counter() - begin + extra
    np.save(out, found.astype(np.int16))
    return {"seconds": seconds, "note": note}


def light(image: np.ndarray, bands: list[str]) -> np.ndarray:
    """Return the mean of the visible bands, × 10000: the one series that a monitor of one series gets."""
    return image[:, [bands.index(name) for name in ("blue", "green", "red")]].mean(axis=1) * 1e4


def cold(
    _: str, image: np.ndarray, dates: np.ndarray, bands: list[str], history: float, **setting: Any
) -> tuple[np.ndarray, float, str]:
    """Return the first confirmed break of COLD.

    Pixels with fewer than :data:`CLEAR` clear dates get only a short model, and the peer's code for any set
    of bands dies on them. A hundred of them are given to its code for Landsat bands, for their time and to
    see that there is no break; the others are left out, their time added.
    """
    from pyxccd import cold_detect, cold_detect_flex

    ordinal = (dates - np.datetime64("0001-01-01")).astype(np.int64) + 1
    first = ordinal[round(len(dates) / 3)]
    clear = np.isfinite(image).all(axis=1)
    series = np.ascontiguousarray(np.moveaxis(np.nan_to_num(image * 1e4), (0, 1), (2, 3)).astype(np.int64))
    quality = np.ascontiguousarray(np.moveaxis(np.where(clear, 0, 4), 0, 2))
    many = clear.sum(axis=0) >= max(CLEAR, 0.25 * len(dates))
    nir = bands.index("nir")
    found = np.full(many.shape, -1)
    for y, x in np.argwhere(many):
        parts = _parts(cold_detect_flex, ordinal, series[y, x], quality[y, x], 20, tmask_b1_index=2,
                       tmask_b2_index=nir + 1, **setting)  # fmt: skip
        breaks = [p["t_break"] for p in parts if p["change_prob"] == 100 and p["t_break"] >= first]
        if breaks:
            found[y, x] = np.searchsorted(ordinal, min(breaks))
    few = np.argwhere(~many)
    extra, sample = 0.0, few[:: max(len(few) // 100, 1)]
    begin = time.perf_counter()
    for y, x in sample:
        seven = [series[y, x, :, b].copy() for b in (0, 1, 2, nir, nir, nir)]
        parts = _parts(cold_detect, ordinal, *seven, np.full(len(dates), 2000), quality[y, x], **setting)
        if any(p["t_break"] >= first and p["change_prob"] == 100 for p in parts):
            raise RuntimeError("COLD found a break in a pixel with few clear dates; such are left out here")
    if len(sample):
        extra = (time.perf_counter() - begin) * (len(few) / len(sample) - 1)
    note = f"{len(few) / many.size:.0%} of the pixels have fewer than {CLEAR} clear dates" if len(few) else ""
    return found, extra, note


def _parts(detect: Callable[..., Any], *given: Any, **setting: Any) -> Any:
    """Return the parts of a pixel's series; none where COLD raises for want of clear dates."""
    try:
        return detect(*given, **setting)
    except Exception as error:
        if "no change records" in str(error):
            return ()
        raise


def monitor(
    method: str, image: np.ndarray, dates: np.ndarray, bands: list[str], history: float, **setting: Any
) -> tuple[np.ndarray, float, str]:
    """Return the break of one of nrt's monitors: fitted to the history, then given date by date."""
    import warnings

    import xarray as xr
    from nrt.monitor.cusum import CuSum
    from nrt.monitor.ewma import EWMA
    from nrt.monitor.mosum import MoSum

    values, count = light(image, bands).astype(np.float64), round(len(dates) * history)
    how = {"method": setting.pop("fit")} if "fit" in setting else {}
    cube = xr.DataArray(
        values, dims=("time", "y", "x"), coords={
            "time": dates.astype("datetime64[ns]"), "y": np.arange(values.shape[1])[::-1] * 1.0,
            "x": np.arange(values.shape[2]) * 1.0,
        },
    )  # fmt: skip
    found = np.full(values.shape[1:], -1)
    one = {"EWMA": EWMA, "CuSum": CuSum, "MoSum": MoSum}[method](**setting)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            one.fit(cube[:count], **how)
        except ValueError as error:
            if "sufficient" not in str(error):
                raise
            return found, 0.0, f"the history of {count} dates is too short for its model"
        for t in range(count, len(dates)):
            before = one.mask == 3
            one.monitor(values[t], dates[t].astype("datetime64[s]").astype(dt.datetime))
            found[(one.mask == 3) & ~before] = t
    return found, 0.0, ""


def bfast(
    _: str, image: np.ndarray, dates: np.ndarray, bands: list[str], history: float, **setting: Any
) -> tuple[np.ndarray, float, str]:
    """Return the break of BFAST Monitor, OpenCL on the processor; it takes whole numbers, 0 = not usable."""
    from bfast import BFASTMonitor

    values = np.nan_to_num(np.clip(light(image, bands), 1, 32767), nan=0).astype(np.int16)
    when = [d.astype("datetime64[s]").astype(dt.datetime) for d in dates]
    count = round(len(dates) * history)
    # two scenes of a day have one place in its calendar; the first stays
    kept = np.flatnonzero(np.r_[True, np.diff(dates) > np.timedelta64(0, "D")])
    one = BFASTMonitor(when[count], backend="opencl", find_magnitudes=False, **setting)
    one.fit(values[kept], [when[k] for k in kept], nan_value=0)
    begin = int(np.flatnonzero(kept >= count)[0])
    found = np.where(one.breaks >= 0, kept[np.clip(begin + one.breaks, 0, len(kept) - 1)], -1)
    short = float((one.breaks == -2).mean())
    return found, 0.0, f"{short:.0%} of the pixels have too few dates for its model" if short > 0.005 else ""


WORK = {"COLD": cold, "BFAST Monitor": bfast}
"""Method → what does it; the others are nrt's."""


if __name__ == "__main__":
    main()
