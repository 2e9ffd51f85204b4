"""What ``docs/make_peers.py`` makes of breaks of single pixels, and how it keeps scores."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from rasterio import Affine

DOCS = str(Path(__file__).parents[1] / "docs")
DATES = np.datetime64("2023-01-01") + 30 * np.arange(8)


def docs_module(name):
    """Return a module of docs/."""
    if DOCS not in sys.path:
        sys.path.insert(0, DOCS)
    return importlib.import_module(name)


def scene(shape=(12, 12)):
    """Return what objects are made with: eight dates, the fourth without a clear pixel."""
    mask = np.zeros((8, *shape), bool)
    mask[3] = True
    return SimpleNamespace(mask=mask, dates=DATES, transform=Affine(10, 0, 0, 0, -10, 0), crs="EPSG:32652")


def test_breaks_become_objects_with_the_dates_around_them():
    made = docs_module("peers_objects")
    breaks = np.full((12, 12), -1)
    breaks[2:4, 2:5] = 4
    breaks[8, 8] = 5  # too small
    breaks[9, 2], breaks[10, 3], breaks[9, 4], breaks[8, 3] = 4, 5, 6, 5  # joined by corners
    both = made.objects(breaks, scene(), "; by place and date")
    assert both.geometry.area.tolist() == [600.0, 400.0]
    assert both.last_absent.tolist() == [DATES[2], DATES[4]]  # nobody saw the fourth date
    assert both.first_seen.tolist() == [DATES[4], DATES[5]]
    assert both.geometry[0].bounds == (20.0, -40.0, 50.0, -20.0)


def test_neighbors_whose_breaks_are_far_apart_are_joined_by_place_only():
    made = docs_module("peers_objects")
    breaks = np.full((12, 12), -1)
    breaks[2:4, 2:4], breaks[2:4, 4:6] = 1, 6
    assert len(made.objects(breaks, scene(), "; by place and date")) == 2
    (one,) = made.objects(breaks, scene(), "; by place").geometry
    assert one.area == 800.0
    assert made.objects(np.full((12, 12), -1), scene(), "; by place").empty


def test_a_peer_that_dies_is_reported_and_started_again(tmp_path, monkeypatch):
    made = docs_module("make_peers")
    side = tmp_path / "peers_inner.py"
    lines = ("import sys", "for line in sys.stdin:", "    if 'die' in line: sys.exit(3)",
             "    print(line, end='', flush=True)")  # fmt: skip
    side.write_text("\n".join(lines))
    monkeypatch.setattr(made, "__file__", str(tmp_path / "make_peers.py"))
    peer = made.Peer(sys.executable)
    assert peer.ask(method="good") == {"method": "good"}
    assert "3" in peer.ask(method="die")["error"]
    assert peer.ask(method="good") == {"method": "good"}
    peer.close()


def test_the_page_shows_the_documented_and_the_best_other_setting():
    show = docs_module("peers_page")
    scores = {}
    base = {"false": 2, "seconds": 1.0, "pixels": 100, "n_found": 4, "n_truth": 4, "matched": 2,
            "n_dated": 2, "covered": 1, "width_days": 30}  # fmt: skip
    for works in show.WORKS:
        for method in (show.OURS, show.NOTEBOOK):
            scores["planet", method, "", works] = [base | {"f1": 0.9}]
        for method, settings in show.JOBS.items():
            for k, words in enumerate(settings):
                for n, how in enumerate(show.JOINS):
                    scores["planet", method, words + how, works] = [base | {"f1": 0.1 * k + 0.01 * n}]
    page = show.page(scores, "seeds 0.", {"bfast": "no NumPy"}, real=False)
    assert "| EWMA | as documented; by place and date | 0.01 |" in page
    assert "| EWMA | no season, limit 6, nothing dropped; by place and date | 0.31 |" in page
    assert "no season; by place" not in page.split("## planet")[1]
    assert "- bfast: no NumPy" in page and "not at hand" in page
    died = {**scores, ("planet", "COLD", "3 dates confirm; by place", "built"): [{"error": "it died"}]}
    died["planet", "COLD", "3 dates confirm; by place and date", "built"] = [{"error": "it died"}]
    assert "| did not run |" in show.page(died, "", {}, real=True)
