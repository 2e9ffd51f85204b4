"""The report of a run: one offline page, a KMZ for Google Earth, QGIS styles, a figure, words.

Nothing here writes a file; every function returns text, bytes or a figure. All text that comes from files is
escaped where it is drawn (the templates in ``changedet/render`` escape everything).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from changedet.columns import KINDS
from changedet.grid import Grid
from changedet.steps import _report_draw as draw
from changedet.steps import _report_facts as facts
from changedet.steps import _report_image as image
from changedet.steps import _report_kml as kml
from changedet.steps import _report_page as page
from changedet.steps import _report_text as text
from changedet.steps._report_text import headline, limit

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from changedet.findings import Findings

__all__ = ["headline", "layer_styles", "limit", "notebook_html", "plot_findings", "report_html", "report_kmz"]

STYLED_LAYERS = ("structures", "alarms", "axes")
"""Layers of ``structures.gpkg`` that carry a QGIS style."""


def report_html(
    findings: Findings, stack: xr.Dataset | None, *, site: Any = None, max_chips: int = 200
) -> str:
    """Draw the report as one self-contained page that loads nothing from anywhere.

    Parameters
    ----------
    findings : what a run found; every key of ``findings.record`` may be missing
    stack : the scenes ``(time, band, y, x)`` on the findings' grid, for the chips; None draws none
    site : object with a ``title``, or None
    max_chips : most chips in all; the most confident structures get theirs first

    Returns
    -------
    str, HTML; the same findings give the same text

    Raises
    ------
    GridError
        The stack is not on the findings' grid.
    """
    return page.page(findings, stack, site, max_chips)


def report_kmz(findings: Findings, stack: xr.Dataset | None, *, max_chips: int = 200) -> bytes:
    """Draw the structures for Google Earth (KML 2.2 in a zip, lon/lat).

    Each outline has a time span from ``first_seen``, to ``last_seen`` where the structure is gone, and a
    balloon with its facts and chips.

    Parameters
    ----------
    findings : what a run found, on a georeferenced grid
    stack : the scenes, for the chips; None takes chips from the composites
    max_chips : most chips in all

    Returns
    -------
    bytes of a KMZ file

    Raises
    ------
    CRSError
        The findings have no CRS.
    """
    return kml.kmz(findings, stack, max_chips)


def layer_styles() -> dict[str, str]:
    """Return the QGIS styles (QML) of the layers ``structures``, ``alarms`` and ``axes`` of the GeoPackage.

    Structures are colored by ``kind``; those with status ``unresolved`` have a dashed outline and a hatch.
    """
    looks = [(kind, draw.LOOKS[kind]) for kind in KINDS]
    return {
        name: page.environment().get_template(f"{name}.qml.j2").render(looks=looks) for name in STYLED_LAYERS
    }


def notebook_html(findings: Findings, *, most: int = 20) -> str:
    """Draw a short table for a notebook: the headline and the ``most`` most confident structures."""
    rows = text.rows_of(findings.structures)
    order = sorted(range(len(rows)), key=lambda i: -float(rows[i].get("confidence") or 0.0))[:most]
    return page.environment().get_template("notebook.html.j2").render(
        headline=headline(findings),
        banners=facts.banners(findings.record),
        rows=[facts.table_row(i + 1, rows[i]) for i in order],
        left_out=len(rows) - len(order),
        alarms=len(findings.alarms),
    )


def plot_findings(findings: Findings, ax: Axes | None = None) -> Figure:
    """Draw the composite after with the outlines colored by kind.

    Parameters
    ----------
    findings : what a run found
    ax : axes to draw on; None makes a figure of its own, closed so that a notebook shows it once

    Returns
    -------
    matplotlib.figure.Figure; keep it with ``figure.savefig``
    """
    import matplotlib.pyplot as plt

    own = ax is None
    axes: Any = ax if ax is not None else plt.subplots(figsize=(8, 8), layout="constrained")[1]
    grid = Grid.of(findings.labels)
    view = image.overview_pixels(findings.composite_after)
    rows, columns = grid.shape
    axes.imshow(view.pixels, extent=(0, columns, rows, 0), interpolation="nearest")
    frame = draw.on_grid(findings.structures, grid)
    records = text.rows_of(findings.structures.drop(columns="geometry", errors="ignore"))
    for row, geometry in zip(records, frame.geometry if records else [], strict=True):
        _plot_outline(axes, row, draw.to_pixels(geometry, grid))
    axes.set(xlim=(0, columns), ylim=(rows, 0), xlabel="column (px)", ylabel="row (px)")
    axes.set_title(text.figure_text(headline(findings)), fontsize="medium", loc="left")
    _plot_legend(axes, page.legend(records))
    figure: Figure = axes.figure
    if own:
        plt.close(figure)
    return figure


def _plot_outline(axes: Any, row: text.Row, geometry: Any) -> None:
    """Draw one outline with a dark casing, so that it shows on any ground."""
    looks = draw.look(row.get("kind"))
    style = ":" if row.get("status") == "unresolved" else "--" if looks.dashed else "-"
    for part in draw.outlines(geometry):
        ring = part.exterior if part.geom_type == "Polygon" else part
        x, y = ring.xy
        axes.plot(x, y, color="black", alpha=0.6, linewidth=3.2)
        axes.plot(x, y, color=looks.color, linestyle=style, linewidth=1.6)


def _plot_legend(axes: Any, entries: list[dict[str, Any]]) -> None:
    """Draw the legend of kinds."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D(
            [],
            [],
            color=e["look"].color,
            linestyle="--" if e["look"].dashed else "-",
            label=text.figure_text(f"{e['kind']} ({e['count']})"),
        )
        for e in entries
    ]
    if handles:
        axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(0, -0.08), ncols=4, frameon=False)
