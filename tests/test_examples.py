"""README's Python, the example script and the notebook run as they stand, with warnings as errors."""

import dataclasses
import importlib.util
import itertools
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path
from unittest.mock import Mock

import geopandas as gpd
import nbformat
import numpy as np
import pytest
import xarray as xr
from affine import Affine
from nbclient import NotebookClient
from scipy.ndimage import uniform_filter
from shapely import box

import changedet as cd
from changedet.demo import write_scenes
from changedet.simulate import SceneSettings, simulate

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def blocks(language):
    """Return the fenced blocks of a language in README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def clean_environment(tmp_path):
    """Return an environment in which Jupyter and matplotlib keep to a folder of their own."""
    names = ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR", "MPLCONFIGDIR")
    own = {name: str(tmp_path / name) for name in names}
    return {**os.environ, **own, "JUPYTER_PLATFORM_DIRS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def docs_script(name):
    """Return a script of docs/ as a module; its neighbors are found as when it is run."""
    if str(ROOT / "docs") not in sys.path:
        sys.path.insert(0, str(ROOT / "docs"))
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_readmes_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = SceneSettings.for_sensor(
        "planet", seed=1, shape_px=(128, 128), n_dates=12, river_width_m=(90.0, 150.0)
    )
    write_scenes(simulate(settings), tmp_path / "scenes")
    (code,) = blocks("python")
    names = {}
    exec(compile(code, "README.md", "exec"), names)  # trusted: our own page
    found = names["found"]
    assert len(found.structures) > 0 and "first_seen" in capsys.readouterr().out
    written = gpd.read_file(tmp_path / "results" / "structures.gpkg", layer="structures")
    assert len(written) == len(found.structures)
    assert names["labels"].max() == len(names["objects"]) > 0


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_scripts_run(script, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", script, tmp_path / "out"],
        cwd=tmp_path, env=clean_environment(tmp_path), capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0 and not done.stderr, done.stderr
    record = json.loads((tmp_path / "out" / "results" / "run.json").read_text(encoding="utf-8"))
    assert record["counts"]["structures"] > 0
    matched, true = re.search(r"(\d+) of (\d+) true structures found", done.stdout).groups()
    assert 0 < int(matched) <= int(true)
    assert list(tmp_path.glob("*.py")) == []


@pytest.mark.filterwarnings("ignore")  # Jupyter's own; the kernel's are errors, see the first cell
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_run(path, tmp_path, monkeypatch):
    for name, value in clean_environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("MPLBACKEND", raising=False)  # figures are shown by the notebook's own backend
    notebook = nbformat.read(path, as_version=4)
    strict = nbformat.v4.new_code_cell("import warnings\nwarnings.simplefilter('error')", id="strict")
    shutdown = nbformat.v4.new_code_cell("warnings.simplefilter('ignore')", id="shutdown")
    notebook.cells = [strict, *notebook.cells, shutdown]
    where = {"metadata": {"path": tmp_path}}
    NotebookClient(notebook, timeout=240, kernel_name="python3", resources=where).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    said = [output for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert not said, said
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert {"text/html", "image/png"} <= kinds


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_hold_no_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and not any(cell.outputs or cell.execution_count for cell in code)


def test_examples_use_public_names_only():
    for path in SCRIPTS + NOTEBOOKS:
        text = path.read_text(encoding="utf-8")
        private = re.findall(r"\bchangedet(?:\.\w+)*\._\w+|\bcd\._\w+", text)
        assert not private, f"{path.name}: {private}"
        for name in re.findall(r"\bcd\.(\w+)", text):
            assert name in cd.__all__, f"{path.name} uses cd.{name}"


def test_accuracy_is_measured_kept_and_shown(tmp_path, monkeypatch):
    script = docs_script("make_accuracy")
    small = {"shape_px": (120, 120), "n_dates": 10, "river_width_m": (90.0, 150.0)}
    scores = [script.scored("planet hard", 1, works, tmp_path, **small) for works in script.WORKS]
    built, quiet = scores
    assert built["ours"]["n_truth"] > 0 and 0 <= built["ours"]["f1"] <= 1
    assert built["ours"]["n_found"] == built["false"] and quiet["false"] >= 0
    ends = built["ends"]
    reasons = sum(ends[why] for why in ("consecutive", "end_unusable", "skipped", "open"))
    assert reasons == ends["n"] == built["ours"]["matched"]
    assert built["n_missed"] == built["ours"]["n_truth"] - built["ours"]["matched"] > 0
    assert quiet["n_false"] == quiet["false"] and quiet["n_missed"] == 0
    monkeypatch.setattr(script, "measure", None)  # a second time comes from the cache
    assert [script.scored("planet hard", 1, works, tmp_path, **small) for works in script.WORKS] == scores
    page = script.page([built, quiet | {"unresolved": 3}], tmp_path / "page-worst.png")
    assert f"| 1 | {built['ours']['f1']:.2f} |" in page and page.count("\n| planet hard |") == 2
    worst = max((c for c in built["mistakes"] if c["what"] == "missed"), key=lambda c: c["gravity"])
    assert f"| 1 | missed | planet 1 built | {worst['kind']} {worst['id']} |" in page
    assert worst["said"] in page and "page-worst.png" in page and "**3** (≤ 2)" in page
    assert (tmp_path / "page-worst.png").read_bytes()[1:4] == b"PNG"
    monkeypatch.setattr(script, "fingerprint", lambda: "other code")
    with pytest.raises(TypeError):
        script.scored("planet hard", 1, "built", tmp_path, **small)


def test_a_place_is_shown_once_among_the_gravest():
    script = docs_script("accuracy_worst")
    case = {
        "what": "false",
        "sensor": "planet hard",
        "seed": 1,
        "works": "built",
        "at_px": [9, 9],
        "gravity": 0.5,
    }
    twin = case | {"works": "quiet", "at_px": [11, 9], "gravity": 0.7}
    others = [case | {"seed": 2}, case | {"at_px": [10, 10], "gravity": 0.2}]
    missed = [case | {"what": "missed", "gravity": 0.1 * n} for n in range(9)]
    shown = script.gravest([{"mistakes": [case, twin]}, {"mistakes": others + missed}], 6)
    assert [c["gravity"] for c in shown] == pytest.approx([0.8, 0.7, 0.6, 0.5, 0.7, 0.5])
    assert twin in shown and case not in shown and others[0] in shown
    other = case | {"sensor": "sentinel-2 hard", "gravity": 0.1}
    shown = script.gravest([{"mistakes": [case, case | {"seed": 3}, other]}], 2)
    assert shown == [case, other]  # no misses; each kind of imagery has its turn


def test_ends_of_intervals_are_held_against_what_was_usable():
    script = docs_script("accuracy_cases")
    usable = np.ones((5, 4, 8), bool)
    usable[2, :, :4] = False  # hides the left object, and a third of the right one
    usable[2, :, 4] = False
    names = [f"2025010{t}T020000" for t in range(5)]
    scene = types.SimpleNamespace(
        usable=usable, given=np.ones_like(usable), names=names, transform=Affine(1, 0, 0, 0, -1, 4),
        about={"winter": np.array([False, False, True, False, False])},
    )  # fmt: skip
    truth = gpd.GeoDataFrame({"id": ["l", "r"]}, geometry=[box(0, 0, 3, 4), box(4, 0, 7, 4)])

    def counted(absent, first):
        found = truth.assign(
            id=["S1", "S2"], last_absent_scene=[names[t] if t >= 0 else None for t in absent],
            first_seen_scene=[names[t] for t in first],
        )  # fmt: skip
        ran = script.Ran(scene, 1.0, found, found, truth, truth, np.zeros((4, 8)), {"l": "S1", "r": "S2"})
        return {name: n for name, n in script.interval_ends(ran).items() if n}

    assert counted((1, 1), (3, 2)) == {"n": 2, "consecutive": 2, "by_mask": 1}
    assert counted((1, 1), (3, 3)) == {"n": 2, "consecutive": 1, "skipped": 1, "skipped_winter": 1}
    assert counted((2, 0), (3, 2)) == {"n": 2, "by_mask": 1, "end_unusable": 1, "skipped": 1}
    assert counted((-1, 1), (3, 2)) == {"n": 2, "consecutive": 1, "by_mask": 1, "open": 1}


def test_the_notebooks_way_finds_a_bright_block():
    script = docs_script("make_accuracy")
    settings = SceneSettings.for_sensor("planet", 0, shape_px=(128, 128), n_dates=9, build=False)
    calm = simulate(settings)
    image = np.full_like(calm.image, 0.1)
    image[-3:, :, 20:25, 30:34] = 0.5
    image[-3:, :, 60, 60] = 0.5  # too small
    mask = np.zeros_like(calm.mask)
    mask[-1, :, :] = True
    scene = type(calm)(**{**vars(calm), "image": image, "mask": mask})
    (block,) = script.baseline(scene).geometry
    assert block.area == pytest.approx(5 * 4 * 9)
    x, y = calm.transform @ (32, 22.5)
    assert block.centroid.coords[0] == pytest.approx((x, y))


def test_the_best_f1_is_that_of_the_best_threshold():
    script = docs_script("make_real")
    rng = np.random.default_rng(4)
    score, truth = rng.integers(0, 6, 60).astype(float), rng.random(60) < 0.3
    tried = []
    for level in np.unique(score):
        found = score >= level
        tried.append(2 * (found & truth).sum() / (found.sum() + truth.sum()))
    assert script.best_f1(score, truth) == pytest.approx(max(tried))


def test_every_ingredient_taken_away_changes_the_method():
    script = docs_script("real_ablation")
    rng = np.random.default_rng(5)
    ground = rng.normal(0.2, 0.05, (4, 64, 64)).astype(np.float32)
    before, after = ground + rng.normal(0, 0.01, (2, 4, 64, 64)).astype(np.float32)
    after[:, 20:24, 20:24] += np.float32(0.3)
    after[:, 40, 40] += np.float32(2)
    after *= np.float32(1.3)
    before[3], after[3] = (uniform_filter(image[3], 5) for image in (before, after))

    def magnitude(variant):
        with variant():
            return cd.difference(image_of(before), image_of(after), "auto").values

    whole = magnitude(script.VARIANTS["auto"])
    for name, variant in script.VARIANTS.items():
        if name != "auto" and not variant.settings:  # laying is done before the method
            assert not np.array_equal(magnitude(variant), whole, equal_nan=True), name
    assert np.array_equal(magnitude(script.VARIANTS["auto"]), whole, equal_nan=True)  # all is put back
    assert all(cd.Plan().with_values(variant.settings) for variant in script.VARIANTS.values())


def test_what_stands_in_for_an_ingredient_of_the_detector_is_used(tmp_path):
    script = docs_script("make_ablation")
    small = {"shape_px": (100, 100), "n_dates": 14, "river_width_m": (90.0, 150.0)}
    bench = script.Bench(script.made("planet hard", 1, "built", tmp_path, **small))
    whole = bench.scores(script.Variant())
    assert whole["n_found"] > 0 and 0 < whole["f1"] <= 1
    places = {place for variant in script.VARIANTS.values() for place in variant.parts}
    before = {place: getattr(*place) for place in places}
    for name, variant in script.VARIANTS.items():
        assert cd.Plan().with_values(variant.settings)
        calls = {place: Mock(side_effect=value) for place, value in variant.parts.items() if callable(value)}
        if calls:
            bench.found(dataclasses.replace(variant, parts=calls))
        assert all(stand_in.called for stand_in in calls.values()), name
        if variant.model is not None:
            assert not same(variant.model(bench.known["fit"]), bench.known["fit"]), name
    assert {place: getattr(*place) for place in places} == before  # all is put back


def same(one, other):
    """Return True where two records hold the same values, all the way down."""
    if dataclasses.is_dataclass(one):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one))
    return bool(np.array_equal(one, other, equal_nan=True)) if isinstance(one, np.ndarray) else one == other


def test_a_page_of_ablation_holds_each_variant_against_the_whole():
    script = docs_script("make_ablation")
    built, quiet = ("planet", 0, "built"), ("planet", 0, "quiet")
    jobs = (built, ("planet", 1, "built"), quiet)
    names = list(script.VARIANTS)[:3]

    def scores(*f1, false):
        made = [{"f1": f, "n_found": 9, "n_dated": 4, "covered": 3} for f in f1]
        return dict(zip(jobs, [*made, {"f1": None, "n_found": false}], strict=True))

    rows = (scores(0.8, 0.9, false=0), scores(0.6, 0.6, false=2), scores(0.8, 0.9, false=0))
    page = script.page(dict(zip(names, rows, strict=True)))
    assert f"| **{names[0]}** | 0.85 |  | – |  | 0.0 |" in page
    assert f"| {names[1]} | 0.60 | -0.25 ± 0.05 | – |  | 2.0 | +2.0 |" in page
    assert page.rstrip().endswith(f"No score of any scene was changed by: {names[2]}.")


def image_of(values):
    """Return an image with named bands on a grid of 10 m."""
    image = xr.DataArray(values, dims=("band", "y", "x"), coords={"band": ["blue", "green", "red", "nir"]})
    rows, columns = (np.arange(size) * 10.0 for size in values.shape[1:])
    return image.assign_coords(y=4_700_000 - rows, x=600_000 + columns)


def test_measurements_of_other_code_are_not_taken(tmp_path):
    script = docs_script("real_pairs")
    made = iter(range(9))
    values = [
        script.Kept(tmp_path, code).get("a pair", key, lambda: {"value": next(made)})["value"]
        for code, key in (("one", ["x"]), ("one", ["x"]), ("one", ["y"]), ("two", ["y"]))
    ]
    assert values == [0, 0, 1, 2]


def test_notes_on_real_imagery_have_cases():
    script = docs_script("make_real")
    notes = json.loads(script.NOTES.read_text(encoding="utf-8"))
    pairs = itertools.chain(script.OSCD, [script.TAIZHOU], script.SAR)
    assert {pair.name for pair in pairs} | {case.name for case in script.COAST} <= set(notes)
    stale = script.said({"result": "AUC 0.70", "words": "seen"}, "AUC 0.80")
    assert "AUC 0.70" in stale and "AUC 0.80" in stale and stale.endswith("seen")
    assert script.said({"result": "AUC 0.70", "words": "seen"}, "AUC 0.70") == "seen"
