"""The report for Google Earth: outlines with time spans, and a balloon with facts and chips for each."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from changedet.columns import KINDS
from changedet.errors import CRSError
from changedet.steps import _report_draw as draw
from changedet.steps import _report_facts as facts
from changedet.steps import _report_image as image
from changedet.steps import _report_page as page
from changedet.steps import _report_text as text
from changedet.steps._report_text import Row

if TYPE_CHECKING:
    import xarray as xr
    from shapely.geometry.base import BaseGeometry

    from changedet.findings import Findings

NAMESPACE = "http://www.opengis.net/kml/2.2"
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The one time stamp of every file in the archive, so that the same findings give the same bytes."""


def kmz(findings: Findings, stack: xr.Dataset | None, max_chips: int) -> bytes:
    """Draw the archive: ``doc.kml`` first, then the chips it shows."""
    source = page.source_of(findings, stack)
    if not source.grid.georeferenced:
        raise CRSError(
            "the findings are on a grid without CRS; wanted a map position, which a KMZ file cannot do "
            "without; leave structures.kmz out (--outputs) or give scenes that are georeferenced"
        )
    if stack is None:
        chips = composite_chips(source, max_chips)
    else:
        chips = page.cut_chips(source, stack, max_chips)
    files = {
        f"files/s{number}_{i}{chip.picture.suffix}": chip.picture.data
        for number, many in chips.items()
        for i, chip in enumerate(many)
    }
    return _archive({"doc.kml": document(source, chips), **files})


def _archive(files: Mapping[str, bytes]) -> bytes:
    """Pack files into a zip with fixed time stamps."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name, _EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED if name.endswith(".kml") else zipfile.ZIP_STORED
            info.external_attr = 0o644 << 16
            archive.writestr(info, data)
    return buffer.getvalue()


def composite_chips(source: page.Source, most: int) -> dict[int, list[image.Chip]]:
    """Cut before and after chips out of the composites, for when the scenes are not at hand."""
    import numpy as np

    found = source.findings
    before, after = found.composite_before, found.composite_after
    bands = image.display_bands([str(b) for b in np.atleast_1d(before.coords["band"].values)])
    chips: dict[int, list[image.Chip]] = {}
    for number in source.by_confidence[: most // 2]:
        geometry = source.geometries[number - 1]
        if geometry is None or geometry.is_empty:
            continue
        rows, columns = image.window_around(draw.to_pixels(geometry, source.grid), source.grid.shape)
        factor = image.factor_for((rows.stop - rows.start, columns.stop - columns.start), image.CHIP_PX)
        cut = [image.load(c.isel(y=rows, x=columns), bands, factor) for c in (before, after)]
        stretch = image.limits(cut)
        chips[number] = [
            image.Chip(role, date, "", image.encode(image.paint(c, stretch)), (rows, columns), factor)
            for role, date, c in zip(("composite", "composite"), ("before", "after"), cut, strict=True)
        ]
    return chips


def document(source: page.Source, chips: Mapping[int, Sequence[image.Chip]]) -> bytes:
    """Write ``doc.kml``."""
    root = ET.Element("kml", xmlns=NAMESPACE)
    doc = ET.SubElement(root, "Document")
    _add(doc, "name", "Structures found")
    _add(doc, "description", escape(text.headline(source.findings)))
    for kind in KINDS:
        _style(doc, kind)
    frame = source.findings.structures
    lonlat: list[BaseGeometry | None] = list(frame.to_crs(4326).geometry) if source.rows else []
    for number, row in enumerate(source.rows, start=1):
        _placemark(doc, number, row, lonlat[number - 1], balloon(source, number, chips.get(number, [])))
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True))


def _add(parent: ET.Element, tag: str, content: str) -> ET.Element:
    """Append an element with text, without the characters that XML 1.0 cannot hold."""
    element = ET.SubElement(parent, tag)
    element.text = re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", content)
    return element


def _style(doc: ET.Element, kind: str) -> None:
    """Write the style of a kind; KML colors are aabbggrr."""
    color = draw.look(kind).color.lstrip("#").lower()
    reverse = color[4:6] + color[2:4] + color[0:2]
    style = ET.SubElement(doc, "Style", id=f"kind-{kind}")
    line = ET.SubElement(style, "LineStyle")
    _add(line, "color", f"ff{reverse}")
    _add(line, "width", "2.5")
    poly = ET.SubElement(style, "PolyStyle")
    _add(poly, "color", f"33{reverse}")
    balloon_style = ET.SubElement(style, "BalloonStyle")
    _add(balloon_style, "text", "$[description]")


def _placemark(
    doc: ET.Element, number: int, row: Row, geometry: BaseGeometry | None, description: str
) -> None:
    """Write one structure: name, balloon, time span, data, outline, in the order the schema wants."""
    mark = ET.SubElement(doc, "Placemark", id=f"s{number}")
    _add(mark, "name", f"{number} {facts.name_of(row)}")
    _add(mark, "description", description)
    begin, end = row.get("first_seen"), row.get("last_seen")
    gone = row.get("status") in text.GONE and text.known(end)
    if text.known(begin) or gone:
        span = ET.SubElement(mark, "TimeSpan")
        if text.known(begin):
            _add(span, "begin", str(begin))
        if gone:
            _add(span, "end", str(end))
    kind = row.get("kind") if row.get("kind") in KINDS else "unknown"
    _add(mark, "styleUrl", f"#kind-{kind}")
    data = ET.SubElement(mark, "ExtendedData")
    for name in ("id", "kind", "status", "last_absent", "first_seen", "last_seen", "confidence"):
        if text.known(row.get(name)):
            entry = ET.SubElement(data, "Data", name=name)
            _add(entry, "value", str(row[name]))
    _geometry(mark, draw.outlines(geometry))


def _geometry(parent: ET.Element, parts: Sequence[Any]) -> None:
    """Write polygons, lines and points; several of them as a MultiGeometry."""
    from shapely.geometry.polygon import orient

    into = ET.SubElement(parent, "MultiGeometry") if len(parts) > 1 else parent
    for part in parts:
        if part.geom_type != "Polygon":
            tag = "Point" if part.geom_type == "Point" else "LineString"
            _coordinates(ET.SubElement(into, tag), part)
            continue
        # Counter-clockwise outside, clockwise inside, or Google Earth lights the wrong side.
        turned = orient(part, 1.0)
        polygon = ET.SubElement(into, "Polygon")
        for tag, rings in (("outerBoundaryIs", [turned.exterior]), ("innerBoundaryIs", turned.interiors)):
            for ring in rings:
                _coordinates(ET.SubElement(ET.SubElement(polygon, tag), "LinearRing"), ring)


def _coordinates(parent: ET.Element, line: Any) -> None:
    """Write coordinates as ``lon,lat``; 7 decimals are a centimetre."""
    _add(parent, "coordinates", " ".join(f"{x:.7f},{y:.7f}" for x, y, *_ in line.coords))


def balloon(source: page.Source, number: int, chips: Sequence[image.Chip]) -> str:
    """Draw the balloon of a structure: summary, chips, facts."""
    row = source.rows[number - 1]
    name = f"{number} {facts.name_of(row)}"
    shown: list[dict[str, Any]] = [
        {
            "file": f"files/s{number}_{i}{chip.picture.suffix}",
            "alt": f"{chip.role} {chip.date}",
            "date": chip.date,
            "role": chip.role,
            "width": 180,
        }
        for i, chip in enumerate(chips)
    ]
    where = facts.positions(source.geometries[number - 1 : number], source.grid)[0]
    return page.environment().get_template("balloon.html.j2").render(
        name=name,
        summary=facts.summary(row),
        chips=shown,
        facts=facts.facts_of(row, source.record, {}, where),
    )
