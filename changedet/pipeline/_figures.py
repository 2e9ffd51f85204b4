"""Figures of what ``align`` and ``normalize`` found, small enough to be looked at beside the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from changedet.io.files import atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from changedet.pipeline._recovery import Curve
    from changedet.steps.align import Registration
    from changedet.steps.normalize import Normalization

MOST_MAPS = 6
MOST_PANELS = 8
_BAND_COLORS = {
    "coastal": "#4b3f9f", "blue": "#2b6cb0", "green": "#2f855a", "red": "#c53030", "rededge1": "#b83280",
    "rededge2": "#97266d", "rededge3": "#702459", "nir": "#6b46c1", "nir08": "#6b46c1", "swir16": "#b7791f",
    "swir22": "#7b341e", "vv": "#2b6cb0", "vh": "#c05621",
}  # fmt: skip
_OTHER = "#4a5568"


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, atomically; the same figure gives the same bytes."""
    with atomic(path) as part:
        figure.savefig(part, dpi=110, metadata={"Software": None})
    return path


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    """Return a figure of its own, whatever backend the caller uses, and its axes (rows, columns)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


# ------------------------------------------------------------------------------------------------ shifts


def shifts_figure(
    rows: Sequence[Mapping[str, Any]], found: Sequence[Registration], shape: tuple[int, int]
) -> Figure:
    """Draw the shift of every scene, and the tie points of some.

    Parameters
    ----------
    rows : of ``shifts.csv``
    found : one a scene
    shape : rows and columns of the raster
    """
    ties = [i for i, one in enumerate(found) if len(one.ties)]
    shown = sorted(sorted(ties, key=lambda i: -_bend(found[i]))[:MOST_MAPS])
    columns = min(max(len(shown), 1), 3)
    lines = -(-len(shown) // columns)
    figure, axes = _figure(1 + lines, columns, (3.6 * columns + 1.6, 3.0 + 3.4 * lines))
    grid = axes[0, 0].get_gridspec()
    for one in axes[0]:
        one.remove()
    _shifts(figure.add_subplot(grid[0, :]), rows)
    for place, i in zip(axes[1:].flat, shown, strict=False):
        _tie_map(place, str(rows[i]["id"]), found[i], shape)
    for place in list(axes[1:].flat)[len(shown) :]:
        place.set_axis_off()
    return figure  # type: ignore[no-any-return]


def _bend(one: Registration) -> float:
    """How much the tie points of a scene want more than one shift."""
    return float(np.hypot(*(one.ties.shift - np.median(one.ties.shift, axis=0)).T).mean())


def _shifts(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw dy and dx of every scene with their residual; refused ones are hollow."""
    at = np.arange(len(rows))
    ok = np.array([bool(r["accepted"]) for r in rows])
    residual = np.array([np.nan if r["residual_px"] is None else r["residual_px"] for r in rows], float)
    for key, color, label, nudge in (("dy_px", "#c53030", "dy", -0.08), ("dx_px", "#2b6cb0", "dx", 0.08)):
        value = np.array([r[key] for r in rows], float)
        bars = np.where(ok, np.nan_to_num(residual), 0)
        axes.errorbar(at + nudge, value, yerr=bars, color=color, linestyle="none", marker="", capsize=2)
        axes.plot(at[ok] + nudge, value[ok], "o", color=color, label=label)
        axes.plot(at[~ok] + nudge, value[~ok], "o", color=color, markerfacecolor="none")
    if not ok.all():
        axes.plot([], [], "o", color="gray", markerfacecolor="none", label="refused")
    axes.axhline(0, color="gray", linewidth=0.8)
    every = max(len(rows) // 12, 1)
    names = [str(r["id"])[:24] for r in rows]
    turned = {"rotation": 30, "ha": "right"} if len(rows) > 4 else {}
    axes.set_xticks(at[::every], names[::every], **turned)
    axes.set(ylabel="shift to apply (px)", xlim=(-0.5, len(rows) - 0.5))
    axes.set_title("Shift of each scene, bars: residual of its tie points", fontsize="medium", loc="left")
    axes.legend(loc="best", frameon=False, ncols=3, fontsize="small")


def _tie_map(axes: Any, name: str, one: Registration, shape: tuple[int, int]) -> None:
    """Draw the tie points of a scene less its mean shift, and their distance from the model."""
    mean = np.array([one.shift.dy, one.shift.dx])
    if not one.shift.accepted:
        mean = np.median(one.ties.shift, axis=0)
    dy, dx = (one.ties.shift - mean).T
    off = np.hypot(*(one.ties.shift - (one.at(one.ties.row, one.ties.column) if one.field else mean)).T)
    longest = max(float(np.quantile(np.hypot(dy, dx), 0.9)), 0.02)
    reach = max(shape) / 8
    drawn = axes.quiver(
        one.ties.column, one.ties.row, dx, dy, off, angles="xy", scale_units="xy", scale=longest / reach,
        cmap="viridis_r", clim=(0, max(2 * float(np.median(off)), 0.05)), width=0.006,
    )  # fmt: skip
    axes.plot(one.ties.column, one.ties.row, ".", color="black", markersize=1.5)
    small = {"size": "small"}
    axes.quiverkey(drawn, 0.86, 1.03, longest, f"{longest:.2g} px", labelpos="E", fontproperties=small)
    axes.set(xlim=(0, shape[1]), ylim=(shape[0], 0), aspect="equal")
    axes.tick_params(labelsize="small")
    words = f"{name[:24]}: {one.model}\n{len(one.ties)} tie points less the mean"
    axes.set_title(words, fontsize="small", loc="left")
    axes.figure.colorbar(drawn, ax=axes, shrink=0.8, label="off the model (px)")


# ------------------------------------------------------------------------------------------------ gains


def gains_figure(rows: Sequence[Mapping[str, Any]], found: Sequence[Normalization]) -> Figure:
    """Draw the pixels and the line of every band of the scene that moved most; of many scenes, all gains too.

    Parameters
    ----------
    rows : of ``gains.csv``, scene by scene
    found : one a scene
    """
    bands = len(found[0].lines)
    scenes = [list(rows[i * bands : (i + 1) * bands]) for i in range(len(found))]
    shown = [i for i, one in enumerate(found) if one.points and one.points[0].shape[1]]
    most = max(shown, key=lambda i: _change(scenes[i]), default=None)
    count = min(bands, MOST_PANELS) if most is not None else 0
    columns = min(max(count, 1), 4)
    series = (len(found) > 2 and not any(one.curves for one in found)) or most is None
    lines = -(-count // columns)
    size = (2.9 * columns + (2.6 if columns == 1 else 0.6), (5.2 if series else 0.4) + 3.1 * lines)
    figure, axes = _figure(2 * series + lines, columns, size)
    if series:
        grid = axes[0, 0].get_gridspec()
        for one in axes[:2].flat:
            one.remove()
        gain = figure.add_subplot(grid[0, :])
        _over_scenes(gain, scenes, "gain", 1)
        _over_scenes(figure.add_subplot(grid[1, :], sharex=gain), scenes, "offset", 0)
    places = list(axes[2 * series :].flat)
    for k, place in enumerate(places):
        if most is None or k >= count:
            place.set_axis_off()
        else:
            _scatter(place, scenes[most][k], found[most], k)
    if most is not None:
        places[0].set_ylabel("reference")
        figure.suptitle(f"{scenes[most][0]['id']}: no-change pixels", fontsize="medium", x=0.02, ha="left")
    return figure  # type: ignore[no-any-return]


def _change(rows: Sequence[Mapping[str, Any]]) -> float:
    """How far the bands of a scene are moved."""
    gains = [abs(r["gain"] - 1) if r["gain"] is not None else 1.0 for r in rows]
    return float(max(gains) + max(abs(r["offset"] or 0.0) for r in rows))


def _color(band: str) -> str:
    """Color of a band."""
    return _BAND_COLORS.get(band, _OTHER)


def _over_scenes(axes: Any, scenes: Sequence[Sequence[Mapping[str, Any]]], key: str, rest: float) -> None:
    """Draw gains or offsets of every band over the scenes; refused scenes are hollow."""
    at = np.arange(len(scenes))
    ok = np.array([bool(rows[0]["accepted"]) for rows in scenes])
    for k, first in enumerate(scenes[0]):
        value = np.array([np.nan if rows[k][key] is None else rows[k][key] for rows in scenes], float)
        color = _color(str(first["band"]))
        axes.plot(at, np.where(ok, value, np.nan), "o-", color=color, markersize=4, label=first["band"])
        axes.plot(at[~ok], value[~ok], "o", color=color, markersize=4, markerfacecolor="none")
    axes.axhline(rest, color="gray", linewidth=0.8)
    every = max(len(scenes) // 12, 1)
    names = [str(rows[0]["id"])[:24] for rows in scenes]
    if key == "offset":
        axes.set_xticks(at[::every], names[::every], rotation=30, ha="right", fontsize="small")
    else:
        axes.set_title("Lines of all scenes; hollow: left as they are", fontsize="medium", loc="left")
        axes.tick_params(labelbottom=False)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize="small")
    axes.set_ylabel(key)


def _scatter(axes: Any, row: Mapping[str, Any], one: Normalization, k: int) -> None:
    """Draw the pixels of one band, the line they gave, and the line of no change."""
    x, y = one.points[k]
    low, high = np.quantile(np.concatenate([x, y]), (0.002, 0.998))
    rim = 0.05 * max(high - low, 1e-9)
    ends = np.array([low - rim, high + rim])
    axes.plot(x, y, ".", color=_color(str(row["band"])), markersize=2.5, alpha=0.5)
    axes.plot(ends, ends, color="gray", linewidth=0.8, linestyle="--")
    line = one.lines[k]
    if one.curves:
        at = np.linspace(ends[0], ends[1], 200)
        axes.plot(at, one.curves[k](at), color="black", linewidth=1.2)
    elif one.accepted:
        axes.plot(ends, line.gain * ends + line.offset, color="black", linewidth=1.2)
    axes.set(xlim=ends, ylim=ends, aspect="equal", xlabel="scene")
    axes.tick_params(labelsize="x-small")
    if one.curves:
        words = "histogram matched"
    elif one.accepted:
        words = f"gain {row['gain']:.3f}, offset {row['offset']:+.4f}"
    else:
        words = "left as it is"
    axes.set_title(f"{row['band']}: {words}\n{row['n']} pixels", fontsize="small", loc="left")


# ------------------------------------------------------------------------------------------------ recovery


def recovery_figure(said: Mapping[str, Any], curves: Mapping[str, Curve | None]) -> Figure:
    """Draw the share of structures found against their size, a panel a stratum.

    Parameters
    ----------
    said : entry ``sensitivity`` of ``run.json``
    curves : fitted curve of each stratum, None where too few structures say anything
    """
    strata = said["strata"]
    figure, axes = _figure(1, max(len(strata), 1), (3.6 * max(len(strata), 1), 3.4))
    for at, (name, own) in zip(axes[0], strata.items(), strict=False):
        _recovery(at, name, own, said, curves.get(name))
    axes[0][0].set_ylabel("share found")
    drawn: Figure = figure
    material = str(said["material"]).replace("_", " ")
    drawn.suptitle(
        f"{said['structures']} structures put into the scenes; points: {material}, 95 %", fontsize=9
    )
    return drawn


def _recovery(
    axes: Any, name: str, own: Mapping[str, Any], said: Mapping[str, Any], curve: Curve | None
) -> None:
    """Draw one stratum: rates with intervals, the curve, other materials, the smallest size."""
    rows = own["by_size"]
    if rows:
        size, rate = (
            np.array(v, float)
            for v in zip(*((r["size_m2"], r["recovered"] / r["n"]) for r in rows), strict=True)
        )
        ends = np.array([(r["rate_low"], r["rate_high"]) for r in rows]).T
        bars = np.maximum([rate - ends[0], ends[1] - rate], 0)
        axes.errorbar(
            size, rate, bars, fmt="o", color="#1a365d", markersize=4, capsize=2, label=said["material"]
        )
        if curve is not None:
            at = np.geomspace(size.min(), size.max(), 100)
            axes.plot(at, curve.rate(at), color="#1a365d", linewidth=1)
    for (material, other), style in zip(
        own.get("other_materials", {}).items(), (":", "--", "-."), strict=False
    ):
        line = [(r["size_m2"], r["recovered"] / r["n"]) for r in other["by_size"]]
        if line:
            axes.plot(
                *zip(*line, strict=True), style, color=_OTHER, linewidth=1, label=material.replace("_", " ")
            )
    axes.axhline(said["target"], color="gray", linewidth=0.6)
    found = own["m2"]
    if found is not None:
        axes.axvline(found, color="#c53030", linewidth=0.8)
    words = (
        f"{said['target']:.0%} from {found:g} m²"
        if found is not None
        else f"{said['target']:.0%} not reached"
    )
    axes.set_title(f"{name}: {words}", fontsize="medium", loc="left")
    axes.set(xscale="log", ylim=(-0.03, 1.03), xlabel="area, m²")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="x-small", frameon=False, loc="lower right")
