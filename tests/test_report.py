"""The report: complete, escaped, accessible, offline; KMZ and QGIS styles hold what the table holds."""

from __future__ import annotations

import io
import re
import zipfile
from collections import Counter
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree as ET

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from affine import Affine
from shapely.geometry import LineString, MultiPolygon, Polygon, box

from changedet import columns
from changedet.errors import CRSError, GridError, InputError
from changedet.findings import Findings
from changedet.grid import Grid, attach
from changedet.scenes import make_stack
from changedet.steps import _report_draw as draw
from changedet.steps import _report_image as image
from changedet.steps import _report_text as text
from changedet.steps import report

KML = "{http://www.opengis.net/kml/2.2}"
EVIL = '<script>alert(1)</script>"\'&'
SHAPE = (90, 120)
DATES = np.datetime64("2025-01-06") + 15 * np.arange(12)
RECTANGLES = (  # kind, over, status, rows, columns, first, gone
    ("pier", "water", "persistent", (40, 44), (58, 62), 5, None),
    ("pier", "water", "persistent", (40, 44), (66, 70), 6, None),
    ("platform", "shore", "removed", (20, 30), (30, 45), 2, 6),
    ("causeway", "water", "growing", (52, 56), (44, 72), 7, None),
    ("unknown", "land", "unresolved", (70, 76), (100, 108), 10, None),
)


def scene_ids(n: int = len(DATES)) -> tuple[str, ...]:
    return tuple(f"S2_{str(d).replace('-', '')}" for d in DATES[:n])


def ground(bands: tuple[str, ...], shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A river between two banks, smooth and a little noisy."""
    y, x = np.mgrid[: shape[0], : shape[1]] / max(shape)
    land = (np.abs(x - 0.5 - 0.08 * np.sin(5 * y)) > 0.14) * 1.0
    field = 0.02 * np.sin(23 * x + 11 * y) * np.cos(31 * y) + 0.01 * np.sin(90 * x * y)
    level = {"red": 0.11, "green": 0.12, "blue": 0.09}
    return np.stack([
        0.05 + land * (level.get(b, 0.12) + field) + 0.004 * rng.standard_normal(shape) for b in bands
    ]).astype(np.float32)


def make_scenes(bands, grid, rects, rng, *, sar=False):
    """Scenes of the river with the structures while they stood, one cloudy corner."""
    base = ground(bands, grid.shape, rng)
    stack = np.repeat(base[None], len(DATES), axis=0)
    stack += 0.004 * rng.standard_normal(stack.shape).astype(np.float32)
    for _, _, _, rows, cols, first, gone in rects:
        stack[first:gone, :, slice(*rows), slice(*cols)] += 0.22
    stack[4, :, :50, :60] = np.nan
    if sar:
        stack = np.maximum(stack, 1e-3)
    return make_stack(stack, grid, dates=DATES, bands=bands, scenes=scene_ids())


def structure_rows(rects, grid):
    rows = []
    for i, (kind, over, status, r, c, first, gone) in enumerate(rects):
        last = (gone or len(DATES)) - 1
        rows.append({
            "id": f"{kind}-{i}", "kind": kind, "kind_p": 0.8, "status": status, "over": over,
            "first_seen": str(DATES[first]), "first_seen_scene": scene_ids()[first],
            "last_absent": str(DATES[first - 1]), "last_absent_scene": scene_ids()[first - 1],
            "confirmed": str(DATES[min(first + 1, len(DATES) - 1)]), "last_seen": str(DATES[last]),
            "area_m2": 100.0 * (r[1] - r[0]) * (c[1] - c[0]), "length_m": 10.0 * (c[1] - c[0]),
            "width_m": 10.0 * (r[1] - r[0]), "bearing_deg": 90.0, "confidence": 0.95 - 0.05 * i,
            "p_value": 1e-9, "snr": 18.0, "n_before": first, "n_after": len(DATES) - first,
            "n_seen": last - first + 1,
            "axis": "road" if kind == "pier" else None,
            "chainage_m": 120.5 + 67 * i if kind == "pier" else None,
        })  # fmt: skip
    frame = columns.table("structures", rows)
    shapes = [outline(grid, r, c) for *_, r, c, _, _ in rects]
    return gpd.GeoDataFrame(frame, geometry=shapes, crs=grid.crs)


def outline(grid, rows, cols):
    shape = box(cols[0], rows[0], cols[1], rows[1])
    return Polygon([grid.transform @ p for p in shape.exterior.coords])


def observation_rows(rects):
    rows = []
    for i, (kind, _, _, _, _, first, gone) in enumerate(rects):
        for t, date in enumerate(DATES):
            there = first <= t < (gone or 99)
            seen = "unseen" if t == 4 else "seen" if there else "absent"
            rows.append({
                "id": f"{kind}-{i}", "scene": scene_ids()[t], "date": str(date), "seen": seen,
                "statistic": None if t == 4 else 0.05 * (t % 3) + there,
                "area_m2": 400.0 if there else None,
            })  # fmt: skip
    return columns.table("observations", rows)


def record(**changes):
    scenes = [
        {
            "id": s, "path": f"/data/{s}.tif", "date": str(d), "sha256": f"{i:064x}", "sensor": "sentinel-2",
            "usable": 0.9, "water": 0.3, "frozen": i < 2, "shift_px": [0.12, -0.3], "gain": [1.01, 0.98],
            "used": i != 3, "why": "usable share 0.04 under 0.2" if i == 3 else "",
        }
        for i, (s, d) in enumerate(zip(scene_ids(), DATES, strict=True))
    ]  # fmt: skip
    whole = {
        "version": "0.1.0", "command": "changedet run scenes -o out", "scenes": scenes,
        "plan": {"align": {"max_shift_px": 2.0}, "segment": {"min_area_m2": 200}},
        "timings": {"read": 1.5, "breaks": 3.25}, "peak_memory_mb": 512.4, "min_detectable_m2": 350.0,
        "self_tests": [{"name": "rail bridge", "passed": True, "detail": "no change"}],
        "counts": {"structures": 5}, "warnings": [], "not_computed": {"bank_m": "no water mask"},
        "false_alarms": {"expected": 0.3}, "simulated": False,
    }  # fmt: skip
    return whole | changes


def fake(rects=RECTANGLES, *, bands=("blue", "green", "red", "nir"), crs="EPSG:32652", sar=False, **changes):
    """Findings and scenes as a run would leave them; no test may write into them."""
    findings, stack = whole_run(rects, bands, crs, sar)
    return findings.patch(**changes), stack


@cache
def whole_run(rects, bands, crs, sar):
    rng = np.random.default_rng(7)
    transform = Affine(10, 0, 634000, 0, -10, 4697000) if crs else Affine.identity()
    grid = Grid.make(crs, transform, SHAPE)
    stack = make_scenes(bands, grid, rects, rng, sar=sar)
    labels = np.zeros(SHAPE, np.uint32)
    for i, (*_, r, c, _, _) in enumerate(rects, start=1):
        labels[slice(*r), slice(*c)] = i
    statistic = np.where(labels > 0, 20, 0).astype(np.float32)
    statistic[:6, :6] = np.nan
    alarm_rows = [
        {"id": f"alarm-{i}", "reason": columns.REASONS[i % 4], "area_m2": 300.0, "first_seen": str(DATES[3]),
         "over": "water", "p_value": 10.0 ** -(2 + i), "snr": 4.0 + i, "n_seen": 1}
        for i in range(6)
    ]  # fmt: skip
    alarms = gpd.GeoDataFrame(
        columns.table("alarms", alarm_rows),
        geometry=[outline(grid, (5 + 8 * i, 9 + 8 * i), (80, 86)) for i in range(6)],
        crs=grid.crs,
    )
    ends = [grid.transform @ p for p in ((35, 42), (85, 42))]
    axes = gpd.GeoDataFrame(
        columns.table("axes", [{"axis": "road", "source": "site", "length_m": 500.0}]),
        geometry=[LineString(ends)],
        crs=grid.crs,
    )
    progress = columns.table("progress", [
        {"axis": "road", "bank": bank, "date": str(d), "scene": s, "reach_m": 10.0 * t + k * 5,
         "piers_water": t // 4, "piers_land": 2, "deck_m": 0.0, "gap_m": 400.0 - 15 * t,
         "reach_lower_m": 10.0 * t, "reach_upper_m": 12.0 * t}
        for k, bank in enumerate(("Russian bank", "North Korean bank"))
        for t, (d, s) in enumerate(zip(DATES, scene_ids(), strict=True))
    ])  # fmt: skip
    image_of = stack["image"]
    findings = Findings(
        structures=structure_rows(rects, grid),
        observations=observation_rows(rects),
        alarms=alarms,
        axes=axes,
        progress=progress,
        statistic=attach(statistic, grid),
        first_seen=attach(np.where(labels > 0, 20250301, 0).astype(np.uint32), grid),
        labels=attach(labels, grid),
        composite_before=image_of.isel(time=0, drop=True),
        composite_after=image_of.isel(time=-1, drop=True),
        record=record(),
    )
    return findings, stack


class Page(HTMLParser):
    """A strict reading of a page: elements, ids, images, text, and whether every tag is closed."""

    VOID = frozenset({"meta", "img", "input", "br", "link"})

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.drawings: list[dict[str, str | None]] = []
        self.open: list[str] = []
        self.data: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute of <{tag}> is given twice: {names}"
        self.elements.append((tag, dict(attrs)))
        if tag == "svg" and "svg" not in self.open:
            self.drawings.append(dict(attrs))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes <{self.open[-1:]}>"
        self.open.pop()

    def handle_data(self, data):
        self.data.append(data)

    def find(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def ids(self):
        return [a["id"] for _, a in self.elements if "id" in a]

    @property
    def text(self):
        return " ".join("".join(self.data).split())


def page_of(*args, site=None, **kwargs) -> tuple[str, Page]:
    findings, stack = fake(*args, **kwargs)
    html = report.report_html(findings, stack, site=site)
    return html, Page(html)


class Site:
    title = "the Tumen crossing"


@pytest.fixture(scope="module")
def whole():
    return page_of(site=Site())


def test_page_is_well_formed_and_accessible(whole):
    html, page = whole
    assert html.startswith("<!DOCTYPE html>")
    assert [n for n, c in Counter(page.ids).items() if c > 1] == []
    images = page.find("img")
    assert len(images) >= 2 + 3 * len(RECTANGLES)
    assert all(a.get("alt") for a in images)
    targets = {a["href"][1:] for a in page.find("a") + page.find("use")}
    assert targets and targets <= set(page.ids)
    labelled = {a["aria-labelledby"] for _, a in page.elements if "aria-labelledby" in a}
    assert labelled <= set(page.ids)
    assert len(page.drawings) > 10
    assert all("aria-hidden" in a or (a.get("role") and a.get("aria-label")) for a in page.drawings)
    assert page.find("html")[0]["lang"] == "en"
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and all(b <= a + 1 for a, b in pairwise(levels))


def test_page_loads_nothing(whole):
    html, page = whole
    policy = next(a["content"] for a in page.find("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy and "img-src data:" in policy and "unsafe" not in policy
    for _, attributes in page.elements:
        assert not [n for n in attributes if n.startswith("on") or n == "style"]
        for name in ("src", "href", "data", "poster", "srcset", "action", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:image/"))
        for value in attributes.values():
            assert not re.search(r"url\((?!#)", value or "")
    assert not re.search(r"https?://|@import|url\((?!#)", html)
    assert page.find("link") == page.find("iframe") == page.find("object") == []


def test_policy_names_exactly_the_script_and_the_style_of_the_page(whole):
    import base64
    import hashlib

    html, page = whole
    policy = next(a["content"] for a in page.find("meta") if a.get("http-equiv") == "Content-Security-Policy")
    for tag in ("script", "style"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.S)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_page_tells_what_the_findings_hold(whole):
    _, page = whole
    for said in (
        "Structures found at the Tumen crossing",
        "pier in the water",
        "after 2025-03-07 and by 2025-03-22",
        "S2_20250322",
        "usable share 0.04 under 0.2",
        "Structures smaller than 350 m² could have been missed.",
        "not computed: no water mask",
        "align.max_shift_px",
        f"{5:064x}",
        "6 candidates looked like change and were rejected",
        "0.3 % of the area had too few usable dates",
        "rail bridge",
        "512 MB",
    ):
        assert said.replace("\u00a0", " ") in page.text.replace("\u00a0", " "), said


def test_headline_counts_equal_the_table():
    findings, _ = fake()
    said = report.headline(findings, Site())
    frame = findings.structures
    assert said.startswith(f"{len(frame)} structures were found at the Tumen crossing")
    for (_, kind), many in Counter(zip(frame["over"], frame["kind"], strict=True)).items():
        assert re.search(rf"\b{many} {re.escape(text.noun(kind, many))}", said)
    for over, many in Counter(frame["over"]).items():
        assert f"{many} {text.PLACES[over]} (" in said or many == 1
    counted = [int(n) for n in re.findall(r"(\d+) (?:still stand|is gone|cannot be decided)", said)]
    assert sum(counted) == len(frame)
    assert f"after {frame['last_absent'].min()} and by {frame['first_seen'].max()}" in said
    assert 1 <= said.count(". ") + 1 <= 2


def test_headline_splits_a_kind_by_where_it_stands():
    rects = (RECTANGLES[0], ("pier", "land", "persistent", (5, 9), (5, 9), 3, None), RECTANGLES[1])
    findings, _ = fake(rects)
    assert "3 structures were found: 2 piers in the water and 1 pier on land." in report.headline(findings)


def test_headline_of_one_structure():
    findings, _ = fake(RECTANGLES[:1])
    assert report.headline(findings) == (
        "1 structure was found: 1 pier in the water, which appeared after 2025-03-07 and by 2025-03-22. "
        "It still stands (persistent)."
    )


def test_headline_says_when_the_beginning_is_not_known():
    findings, _ = fake()
    frame = findings.structures.copy()
    frame.loc[0, "last_absent"] = None
    assert "some of them before the first usable date" in report.headline(findings.patch(structures=frame))


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (350.0, "Structures smaller than 350 m² could have been missed."),
        ({"water": 120.0, "land": 900.0}, "smaller than 120 m² in the water and 900 m² on land could"),
        (None, "The minimum detectable size was not computed: no injection run."),
    ],
)
def test_nothing_found_states_the_minimum_detectable_size(size, said):
    why = {"min_detectable_m2": "no injection run"}
    findings, stack = fake((), record=record(min_detectable_m2=size, not_computed=why))
    assert said in report.headline(findings)
    assert report.headline(findings).startswith("No structure was found in 11 usable scenes from 2025-01-06")
    assert said in Page(report.report_html(findings, stack)).text


@pytest.mark.parametrize("where", ["scene", "band", "kind", "title", "record"])
def test_text_from_files_is_escaped(where):
    findings, stack = fake()
    site = None
    if where == "scene":
        names = np.array([EVIL, *scene_ids()[1:]], dtype=object)
        stack = stack.assign_coords(scene=("time", names))
        scenes = record()["scenes"]
        scenes[0] |= {"id": EVIL, "path": f"/x/{EVIL}", "why": {EVIL: EVIL}, "sensor": EVIL}
        frame = findings.structures.assign(last_absent_scene=EVIL, id=[EVIL, "b", "c", "d", "e"])
        findings = findings.patch(record=record(scenes=scenes), structures=frame)
    elif where == "band":
        names = np.array([EVIL, "b2", "b3", "b4"], dtype=object)
        stack = stack.assign_coords(band=names)
        findings = findings.patch(
            composite_before=findings.composite_before.assign_coords(band=names),
            composite_after=findings.composite_after.assign_coords(band=names),
        )
    elif where == "kind":
        frame = findings.structures.assign(kind=EVIL, status=EVIL, over=EVIL, first_seen=EVIL)
        findings = findings.patch(
            structures=frame,
            alarms=findings.alarms.assign(reason=EVIL, over=EVIL, id=EVIL),
            axes=findings.axes.assign(axis=EVIL),
            progress=findings.progress.assign(axis=EVIL, bank=EVIL, scene=EVIL),
            observations=findings.observations.assign(seen=EVIL, scene=EVIL),
        )
    elif where == "title":
        site = type("S", (), {"title": EVIL})()
    else:
        everything = {k: EVIL for k in ("version", "command", "grid")}
        dicts = {k: {EVIL: EVIL} for k in ("plan", "timings", "counts", "not_computed", "false_alarms")}
        tests = [{"name": EVIL, "passed": False, "detail": EVIL}]
        findings = findings.patch(record=record(**everything, **dicts, self_tests=tests, warnings=[EVIL]))
    for html in (report.report_html(findings, stack, site=site), report.notebook_html(findings)):
        page = Page(html)
        assert "<script>alert" not in html
        assert len(page.find("script")) <= 1
        assert not [n for _, a in page.elements for n in a if n.startswith("on")]
    if where != "title":
        doc = zipfile.ZipFile(io.BytesIO(report.report_kmz(findings, stack))).read("doc.kml").decode()
        assert "<script" not in doc
        for description in ET.fromstring(doc).iter(f"{KML}description"):
            balloon = Page(description.text)
            assert balloon.find("script") == [] and "<script" not in description.text


def test_addresses_lose_passwords_and_signatures(whole):
    scenes = record()["scenes"]
    scenes[0]["path"] = "https://user:secret@host/x/scene.tif?sig=token"
    command = "changedet run https://user:secret@host/a.json?sig=token -o out"
    findings, _ = fake(record=record(scenes=scenes, command=command))
    html = report.report_html(findings, None)
    assert "secret" not in html and "token" not in html
    assert "scene.tif" in html and "https://host/a.json" in html


def test_failed_controls_and_simulated_imagery_come_first():
    tests = [
        {"name": "noise", "passed": True, "detail": ""},
        {"name": "rail bridge", "passed": False, "detail": "a step of 4.2"},
    ]
    findings, stack = fake(record=record(self_tests=tests, simulated=True, warnings=["no cloud mask"]))
    said = Page(report.report_html(findings, stack)).text
    order = ["1 self-test failed", "rail bridge: a step of 4.2", "5 structures were found", "usable scenes"]
    places = [said.index(part) for part in order]
    assert places == sorted(places)
    assert "Simulated imagery" in said and "no cloud mask" in said
    assert report.headline(findings).startswith("Simulated imagery: ")


def test_chips_show_the_dates_of_the_interval_and_the_latest(whole):
    _, page = whole
    alts = [a["alt"] for a in page.find("img")]
    first = [a for a in alts if a.startswith("pier in the water")][:3]
    assert [re.search(r"on (\S+) \((.*)\)", a).groups() for a in first] == [
        ("2025-03-07", "last without it"),
        ("2025-03-22", "first with it"),
        (str(DATES[-1]), "latest usable"),
    ]
    assert sum(a.startswith("platform") for a in alts) == 4  # gone: the last date with it is shown too


def test_chips_are_at_most_max_chips_and_go_to_the_most_confident():
    findings, stack = fake()
    page = Page(report.report_html(findings, stack, max_chips=6))
    alts = [a["alt"] for a in page.find("img") if "composite" not in a["alt"].lower()]
    assert len([a for a in alts if a.startswith("pier")]) == 6 and not [a for a in alts if "causeway" in a]
    assert "Chips are shown for 2 of 5 structures" in page.text


def test_without_the_scenes_there_are_no_chips():
    findings, _ = fake()
    page = Page(report.report_html(findings, None))
    assert "drawn without the scenes" in page.text
    assert not [a for a in page.find("img") if a["alt"].startswith("pier")]


def test_every_key_of_the_record_may_be_missing():
    findings, stack = fake(record={})
    page = Page(report.report_html(findings, stack))
    assert page.text.count("not computed") >= 6
    assert "The minimum detectable size was not computed." in page.text


def test_every_column_may_be_null():
    findings, stack = fake()
    frame = findings.structures.copy()
    for name in [c.name for c in columns.STRUCTURES]:
        frame[name] = pd.Series([None] * len(frame), dtype=frame[name].dtype)
    bare = findings.patch(
        structures=frame,
        observations=columns.table("observations", []),
        progress=columns.table("progress", []),
        alarms=findings.alarms.iloc[:0],
        axes=findings.axes.iloc[:0],
    )
    page = Page(report.report_html(bare, stack))
    assert "5 structures of unknown kind" in page.text and "not known" in page.text
    assert "nan" not in re.findall(r"[a-z]+", page.text.lower())
    assert len(ET.fromstring(kml_of(bare, stack)).findall(f".//{KML}Placemark")) == 5


def test_zero_structures():
    findings, stack = fake(())
    page = Page(report.report_html(findings, stack))
    assert "No structure was found" in page.text
    assert not [i for i in page.ids if re.fullmatch(r"s\d+", i)]
    assert ET.fromstring(kml_of(findings, stack)).findall(f".//{KML}Placemark") == []
    assert "No structure" in report.notebook_html(findings)


@pytest.mark.parametrize(("bands", "said"), [
    (("vv", "vh"), "SAR backscatter, VV, in dB"),
    (("pan",), "band pan"),
    (("b1", "b2", "b3", "b4"), "bands b1, b2 and b3 as red, green and blue"),
    (("nir", "blue", "green", "red"), "true color"),
])  # fmt: skip
def test_bands_shown(bands, said):
    findings, stack = fake(bands=bands, sar="vv" in bands)
    page = Page(report.report_html(findings, stack))
    assert said in page.text
    assert len(page.find("img")) > 10


def test_lazy_scenes_give_the_same_page():
    findings, stack = fake()
    lazy = stack.chunk({"time": 1, "band": -1, "y": 32, "x": 50})
    assert report.report_html(findings, lazy) == report.report_html(findings, stack)


def test_inputs_are_left_alone_and_the_page_repeats():
    findings, stack = fake()
    kept = stack.copy(deep=True), findings.structures.copy(), findings.composite_after.copy(deep=True)
    first = report.report_html(findings, stack)
    assert report.report_html(findings, stack) == first
    assert stack.identical(kept[0]) and findings.composite_after.identical(kept[2])
    pd.testing.assert_frame_equal(pd.DataFrame(findings.structures), pd.DataFrame(kept[1]))
    assert report.report_kmz(findings, stack) == report.report_kmz(findings, stack)


def test_stack_on_another_grid_is_refused():
    findings, stack = fake()
    with pytest.raises(GridError, match="the stack is not on the grid of the findings"):
        report.report_html(findings, stack.isel(x=slice(1, None)))


def test_a_grid_without_crs_has_a_page_but_no_kmz():
    findings, stack = fake(crs=None)
    assert "pixels without a map position" in Page(report.report_html(findings, stack)).text
    with pytest.raises(CRSError, match="without CRS; wanted a map position") as caught:
        report.report_kmz(findings, stack)
    assert isinstance(caught.value, InputError)


def test_timeline_bars_lie_where_the_dates_are():
    findings, stack = fake()
    dates = draw.Calendar.spanning([str(DATES[0]), str(DATES[-1])])
    bar = draw.bar_of(text.rows_of(findings.structures)[0], dates)
    for key, t in (("from", 4), ("first", 5), ("last", 11)):
        assert bar[key] == pytest.approx(100 * (1 + 40 * t / 11) / 42, abs=0.1)
    html = report.report_html(findings, stack)
    lanes = Page(html).text
    assert "appeared after 2025-03-07 and by 2025-03-22; still standing (persistent), last seen" in html
    assert "refused scene" in lanes and html.count('class="tick-refused"') == 2  # the scene and the legend


@pytest.mark.parametrize(("first", "last", "step"), [
    ("2025-01-03", "2025-02-10", "days"),
    ("2025-01-03", "2025-12-10", "2025-03"),
    ("1985-06-01", "2024-06-01", "1990"),
])  # fmt: skip
def test_ticks_are_few_round_and_in_order(first, last, step):
    ticks = draw.Calendar.spanning([first, last]).ticks()
    places = [t["at"] for t in ticks]
    assert 2 <= len(ticks) <= 10 and places == sorted(places)
    assert step == "days" or step in [t["text"] for t in ticks]


def test_labels_never_cover_one_another():
    rng = np.random.default_rng(3)
    corners = rng.uniform(0, 380, (60, 2))
    shapes = [(i, box(x, y, x + 6, y + 6)) for i, (x, y) in enumerate(corners, start=1)]
    labels = draw.label_places(shapes, 400, 400, font=12.5)
    assert len(labels) > 40
    for zoom in (1, 2, 4):
        boxes = [draw._label_box(one, 12.5 / zoom) for one in labels if one["zoom"] <= zoom]
        assert not any(draw._overlap(a, b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_both_sides_share_one_stretch_and_unusable_pixels_are_hatched():
    dark, bright = np.full((1, 40, 40), 0.1, np.float32), np.full((1, 40, 40), 0.3, np.float32)
    stretch = image.limits([dark, bright])
    a, b = image.paint(dark, stretch), image.paint(bright, stretch)
    assert (a == 0).all() and (b == 255).all()
    dark[0, :10] = np.nan
    hatched = image.paint(dark, stretch)
    assert set(np.unique(hatched[:10])) == {150, 222} and (hatched[10:] == 0).all()


def test_shrink_averages_what_is_usable():
    band = np.array([[1, 3, np.nan], [5, 7, np.nan], [9, np.nan, 2]], np.float32)
    np.testing.assert_array_equal(image.shrink(band, 2), np.array([[4, np.nan], [9, 2]], np.float32))


def test_sar_is_shown_in_decibels():
    shown = image.displayed(np.array([1.0, 0.1, 0.0, np.nan]), sar=True)
    np.testing.assert_allclose(shown, [0, -10, -40, np.nan])


def test_large_composites_are_capped():
    wide = np.random.default_rng(0).random((3, 40, 4001), np.float32)
    grid = Grid.make("EPSG:32652", Affine(10, 0, 0, 0, -10, 0), wide.shape[1:])
    composite = attach(wide, grid, dims=("band", "y", "x"), coords={"band": ["red", "green", "blue"]})
    view = image.overview(composite, composite)
    assert view.factor == 3 and view.before.width == 1334 <= image.PICTURE_PX


def test_a_picture_of_noise_is_kept_small():
    noise = np.random.default_rng(0).integers(0, 256, (1600, 1600, 3), np.uint8)
    picture = image.encode(noise)
    assert picture.mime == "image/jpeg" and len(picture.data) <= 2_000_000
    small = image.encode(noise[:64, :64])
    assert small.mime == "image/png" and small.uri.startswith("data:image/png;base64,")


def test_outlines_follow_the_grid():
    grid = Grid.make("EPSG:32652", Affine(10, 0, 600000, 0, -10, 4700000), (50, 80))
    place = draw.to_pixels(outline(grid, (10, 14), (20, 30)), grid)
    assert place.bounds == pytest.approx((20, 10, 30, 14))
    assert draw.svg_path(place).count("L") == 3 and draw.svg_path(place).endswith("Z")
    holed = Polygon([(0, 0), (9, 0), (9, 9), (0, 9)], [[(3, 3), (6, 3), (6, 6)]])
    assert draw.svg_path(MultiPolygon([holed, box(20, 20, 25, 25)])).count("M") == 3
    assert draw.north_deg(grid) == pytest.approx(0)
    turned = Grid.make("EPSG:32652", Affine(0, 10, 0, 10, 0, 0), (5, 5))
    assert draw.north_deg(turned) == pytest.approx(90)


def kml_of(findings, stack) -> bytes:
    archive = zipfile.ZipFile(io.BytesIO(report.report_kmz(findings, stack)))
    assert archive.testzip() is None and archive.namelist()[0] == "doc.kml"
    return archive.read("doc.kml")


def test_kmz_spans_positions_and_chips():
    findings, stack = fake()
    data = report.report_kmz(findings, stack)
    archive = zipfile.ZipFile(io.BytesIO(data))
    root = ET.fromstring(archive.read("doc.kml"))
    assert root.tag == f"{KML}kml"
    marks = root.findall(f".//{KML}Placemark")
    frame = findings.structures.to_crs(4326)
    assert len(marks) == len(frame)
    shown = set()
    for mark, (_, row) in zip(marks, frame.iterrows(), strict=True):
        assert mark.findtext(f"{KML}TimeSpan/{KML}begin") == row["first_seen"]
        gone = row["status"] in ("removed", "transient")
        assert mark.findtext(f"{KML}TimeSpan/{KML}end") == (row["last_seen"] if gone else None)
        ring = mark.findtext(f".//{KML}outerBoundaryIs/{KML}LinearRing/{KML}coordinates").split()
        points = [tuple(map(float, p.split(","))) for p in ring]
        assert points[0] == points[-1]
        drawn = Polygon(points)
        assert drawn.exterior.is_ccw and drawn.symmetric_difference(row.geometry).area < 1e-9
        assert mark.findtext(f"{KML}styleUrl") == f"#kind-{row['kind']}"
        description = mark.findtext(f"{KML}description")
        assert text.interval(row) in description
        shown |= set(re.findall(r'src="([^"]+)"', description))
    files = {n for n in archive.namelist() if n.startswith("files/")}
    assert files == shown and len(files) >= 15
    styles = {s.get("id") for s in root.findall(f".//{KML}Style")}
    assert styles == {f"kind-{k}" for k in columns.KINDS}


def test_kmz_without_the_scenes_shows_the_composites():
    findings, _ = fake()
    archive = zipfile.ZipFile(io.BytesIO(report.report_kmz(findings, None)))
    assert sum(n.startswith("files/") for n in archive.namelist()) == 2 * len(RECTANGLES)
    assert b"composite" in archive.read("doc.kml")


def test_kmz_writes_holes_several_parts_and_drops_what_xml_cannot_hold():
    findings, stack = fake()
    grid = Grid.of(findings.labels)
    parts = MultiPolygon([
        outline(grid, (10, 30), (10, 30)) - outline(grid, (15, 20), (15, 20)),
        outline(grid, (40, 44), (10, 14)),
    ])  # fmt: skip
    frame = findings.structures.copy()
    frame.loc[0, "geometry"] = parts
    frame.loc[0, "id"] = "bad\x00\x0bid"
    root = ET.fromstring(kml_of(findings.patch(structures=frame), stack))
    mark = root.find(f".//{KML}Placemark")
    assert len(mark.findall(f"{KML}MultiGeometry/{KML}Polygon")) == 2
    assert len(mark.findall(f".//{KML}innerBoundaryIs")) == 1


def test_styles_name_every_kind():
    styles = report.layer_styles()
    assert set(styles) == {"structures", "alarms", "axes"}
    trees = {name: ET.fromstring(xml) for name, xml in styles.items()}
    renderer = trees["structures"].find("renderer-v2")
    assert renderer.get("attr") == "kind"
    categories = renderer.findall("categories/category")
    assert [c.get("value") for c in categories] == [*columns.KINDS, ""]
    symbols = {s.get("name"): s for s in renderer.findall("symbols/symbol")}
    assert {c.get("symbol") for c in categories} == set(symbols)
    for symbol in symbols.values():
        conditions = [o.get("value") for o in symbol.iter("Option") if o.get("name") == "expression"]
        assert len(conditions) == 2 and all("unresolved" in c for c in conditions)
        assert "LinePatternFill" in [layer.get("class") for layer in symbol.findall("layer")]


def test_looks_are_told_apart():
    assert set(draw.LOOKS) == set(columns.KINDS)
    assert len(set(draw.LOOKS.values())) == len(columns.KINDS)


def test_figure_shows_outlines_and_legend():
    import matplotlib

    matplotlib.use("Agg")
    findings, _ = fake()
    figure = report.plot_findings(findings)
    (axes,) = figure.axes
    assert len(axes.lines) == 2 * len(RECTANGLES) and len(axes.images) == 1
    labels = [t.get_text() for t in axes.get_legend().get_texts()]
    assert labels == ["pier (2)", "platform (1)", "causeway (1)", "unknown (1)"]
    figure.savefig(io.BytesIO(), format="png", dpi=50)
    priced = findings.patch(structures=findings.structures.assign(kind=r"$x^$"))
    report.plot_findings(priced).savefig(io.BytesIO(), format="png", dpi=50)
    empty, _ = fake(())
    other = matplotlib.figure.Figure()
    assert report.plot_findings(empty, other.subplots()) is other


def test_notebook_table_is_short():
    findings, _ = fake()
    many = findings.patch(structures=pd.concat([findings.structures] * 6, ignore_index=True))
    page = Page(report.notebook_html(many))
    assert len(page.find("tr")) == 21 and "and 10 more" in page.text


def test_page_of_many_structures_and_dates_stays_small():
    rng = np.random.default_rng(1)
    kinds = columns.KINDS
    rects = tuple(
        (kinds[i % 10], "water", "persistent", (r, r + 3), (c, c + 3), 3 + i % 6, None)
        for i, (r, c) in enumerate(zip(rng.integers(0, 86, 120), rng.integers(0, 116, 120), strict=True))
    )
    findings, stack = fake(rects)
    html = report.report_html(findings, stack)
    assert len(html) < 4e6
    Page(html)
