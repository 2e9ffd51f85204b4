"""The command line as a whole: how it talks, how it fails, and with which exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from typer.testing import CliRunner

import changedet
from changedet.cli import _console, app
from changedet.errors import ChangedetError, LockedError, WriteError
from changedet.grid import Grid, attach
from changedet.io.raster import write_cog

GRID = Grid.make("EPSG:32652", Affine(10, 0, 600_000, 0, -10, 4_700_000), (64, 80))
COMMANDS = "run demo report sensitivity update diff info align normalize evaluate site".split()


def scene(path, grid=GRID, *, seed=0, change=False):
    """Write four bands of noise, with a bright block on request."""
    rng = np.random.default_rng(seed)
    image = (0.2 + 0.01 * rng.standard_normal((4, *grid.shape))).astype(np.float32)
    if change:
        image[:, 20:30, 30:40] += 0.3
    coords = {"band": np.array(["blue", "green", "red", "nir"], dtype=object)}
    return str(write_cog(path, attach(image, grid, dims=("band", "y", "x"), coords=coords)))


@pytest.fixture
def pair(tmp_path):
    return [scene(tmp_path / "a_20240101.tif"), scene(tmp_path / "b_20240601.tif", seed=1, change=True)]


def call(*args):
    return CliRunner().invoke(app, [str(a) for a in args])


def process(*args, **keywords):
    """Run the command line as users do."""
    command = [sys.executable, "-m", "changedet", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **keywords)


def refused(result, *words, status=2):
    """One line that says what is wrong, nothing else, and the exit status."""
    assert result.exit_code == status, (result.output, result.stderr)
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("changedet: "), result.stderr
    for word in words:
        assert word in lines[0], lines[0]
    assert "Traceback" not in result.stderr


# ------------------------------------------------------------------------------------------------ help


def test_help_names_every_command():
    result = call("--help")
    assert result.exit_code == 0
    for name in COMMANDS:
        assert f"\n  {name} " in result.stdout
    assert call().stdout == call("-h").stdout == result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name):
    result = call(name, "--help")
    assert result.exit_code == 0 and "Usage" in result.stdout and "--verbose" in result.stdout


def test_run_has_the_contracts_options():
    text = call("run", "--help").stdout
    for option in (
        "--site --aoi --since --until --bands --min-area --alpha --stac-search --collection --plan --set "
        "--workers --scheduler --memory --warp --date --band-names --outputs --compress --overwrite --strict "
        "--quiet --verbose --json --out -o -q -v"
    ).split():
        assert option in text, option


def test_version():
    result = call("--version")
    assert result.exit_code == 0 and result.stdout == f"changedet {changedet.__version__}\n"


# ------------------------------------------------------------------------------------------------ usage


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("nonsense",), "No such command"),
        (("diff", "only-one.tif"), "Missing argument 'AFTER'"),
        (("diff", "a.tif", "b.tif"), "Missing option"),
        (("diff", "a.tif", "b.tif", "-o", "x", "--colour"), "No such option"),
        (("diff", "a.tif", "b.tif", "-o", "x", "--compress", "lzw"), "lzw"),
        (("diff", "a.tif", "b.tif", "-o", "x", "--min-area", "big"), "--min-area"),
        (("info",), "Missing argument"),
    ],
)
def test_usage_errors(args, word):
    result = call(*args)
    refused(result, word, "--help")


# ------------------------------------------------------------------------------------------------ bad input


def test_missing_file(pair, tmp_path):
    refused(
        call("diff", pair[0], tmp_path / "none.tif", "-o", tmp_path / "out"), "none.tif", "does not exist"
    )
    refused(call("info", tmp_path / "none.tif"), "does not exist")
    refused(call("run", pair[0], tmp_path / "none.tif", "-o", tmp_path / "out"), "none.tif", "does not exist")
    refused(call("report", tmp_path), "holds no finished run")
    assert not (tmp_path / "out").exists()


def test_text_file_named_tif(pair, tmp_path):
    (tmp_path / "text.tif").write_text("hello, I am no raster\n" * 40)
    refused(
        call("diff", pair[0], tmp_path / "text.tif", "-o", tmp_path / "out"), "text.tif", "cannot be read"
    )
    refused(call("info", tmp_path / "text.tif"), "text.tif", "cannot be read")
    refused(call("run", pair[0], tmp_path / "text.tif", "-o", tmp_path / "out"), "cannot be read")
    assert not (tmp_path / "out").exists()


def test_truncated_file(pair, tmp_path):
    cut = tmp_path / "cut.tif"
    cut.write_bytes(Path(pair[1]).read_bytes()[:-20_000])
    refused(call("diff", pair[0], cut, "-o", tmp_path / "out"), "cut.tif")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("grid", "word"),
    [
        (Grid.make(GRID.crs, GRID.transform @ Affine.translation(0.5, 0.5), GRID.shape), "0.500"),
        (Grid.make(GRID.crs, GRID.transform, (60, 80)), "shape"),
        (Grid.make(GRID.crs, GRID.transform @ Affine.scale(2), GRID.shape), "pixel size"),
        (Grid.make("EPSG:32651", GRID.transform, GRID.shape), "EPSG:32651"),
    ],
)
def test_other_grids(grid, word, pair, tmp_path):
    other = scene(tmp_path / "c_20240901.tif", grid)
    refused(call("diff", pair[0], other, "-o", tmp_path / "out"), word, "--warp")
    for command in ("align", "run"):
        refused(call(command, pair[0], other, "-o", tmp_path / "out"), word, "--warp")
    assert not (tmp_path / "out").exists()


def test_no_date(pair, tmp_path):
    undated = scene(tmp_path / "undated.tif")
    for command in ("align", "run"):
        refused(call(command, pair[0], undated, "-o", tmp_path / "out"), "undated.tif", "--date")
    assert not (tmp_path / "out").exists()


def test_the_same_date_twice(pair, tmp_path):
    twin = scene(tmp_path / "twin_20240101.tif")
    for command in ("align", "run"):
        refused(call(command, *pair, twin, "-o", tmp_path / "out"), "20240101", "2024-01-01")
    assert not (tmp_path / "out").exists()


def test_one_scene(pair, tmp_path):
    refused(call("align", pair[0], "-o", tmp_path / "out"), "1 scene given", "two or more")
    refused(call("run", pair[0], "-o", tmp_path / "out"), "1 scene")
    refused(call("run", *pair, "-o", tmp_path / "out"), "2 of 2 scenes are usable")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("setting", "word"),
    [
        ("track.min_afer=4", "did you mean 'track.min_after'?"),
        ("nonsense=1", "unknown setting 'nonsense'"),
        ("track.min_after=many", "a whole number"),
        ("track.min_after", "step.option=value"),
    ],
)
def test_unknown_settings(setting, word, pair, tmp_path):
    for command in ("diff", "run"):
        refused(call(command, *pair, "-o", tmp_path / "out", "--set", setting), word)
    assert not (tmp_path / "out").exists()


def test_a_plan_that_is_none(pair, tmp_path):
    refused(call("diff", *pair, "-o", tmp_path / "out", "--plan", tmp_path / "no.toml"), "does not exist")
    (tmp_path / "plan.toml").write_text("[track]\nmin_afer = 3\n")
    refused(call("diff", *pair, "-o", tmp_path / "out", "--plan", tmp_path / "plan.toml"), "min_after")


def test_an_output_that_is_a_file(pair, tmp_path):
    (tmp_path / "out").write_text("mine")
    for command in ("diff", "align", "run"):
        refused(call(command, *pair, "-o", tmp_path / "out"), "is a file")
        refused(call(command, *pair, "-o", tmp_path / "out" / "deep"), "is a file")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_finished_folder(pair, tmp_path):
    assert call("diff", *pair, "-o", tmp_path / "out", "-q").exit_code == 0
    refused(call("diff", *pair, "-o", tmp_path / "out"), "--overwrite")
    assert call("diff", *pair, "-o", tmp_path / "out", "-q", "--overwrite").exit_code == 0


def test_an_area_elsewhere(pair, tmp_path):
    box = {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]]}
    (tmp_path / "aoi.geojson").write_text(json.dumps(box))
    refused(
        call("diff", *pair, "-o", tmp_path / "out", "--aoi", tmp_path / "aoi.geojson"), "does not overlap"
    )
    refused(call("diff", *pair, "-o", tmp_path / "out", "--site", "tumn"), "did you mean 'tumen'?")
    refused(call("diff", *pair, "-o", tmp_path / "out", "--site", "tumen"), "does not overlap")
    assert not (tmp_path / "out").exists()


def test_addresses_and_virtual_paths_are_refused(pair, tmp_path):
    for path in ("/vsicurl/http://127.0.0.1:9/x.tif", "http://127.0.0.1:9/x.tif"):
        refused(call("diff", pair[0], path, "-o", tmp_path / "out"), "is not a local file")


def test_what_is_not_there_yet_says_so(pair, tmp_path):
    refused(call("update", tmp_path, pair[0]), "not available yet")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--stac-search", "--collection", "--scheduler"])
def test_options_that_are_not_there_yet_say_so(option, pair, tmp_path):
    refused(call("run", *pair, "-o", tmp_path / "out", option, "x"), option, "not available yet")


# ------------------------------------------------------------------------------------------------ failing


@pytest.mark.parametrize(
    ("error", "status", "word"),
    [
        (WriteError("disk full"), 1, "disk full"),
        (LockedError("another run"), 1, "another run"),
        (ChangedetError("odd\nrequest"), 2, "odd request"),
        (MemoryError(), 1, "out of memory"),
        (OSError(28, "No space left on device"), 1, "No space left"),
        (ZeroDivisionError("by zero"), 1, "fault of changedet"),
    ],
)
def test_errors_become_one_line_and_a_status(error, status, word, monkeypatch):
    def fail(*_args, **_keywords):
        raise error

    monkeypatch.setattr("changedet.sites.list_sites", fail)
    refused(call("site"), word, status=status)
    loud = call("site", "-vv")
    assert loud.exit_code == status and "Traceback" in loud.stderr and type(error).__name__ in loud.stderr
    assert "Traceback" not in call("site", "-v").stderr


def test_an_interrupt_is_130(monkeypatch):
    def stop():
        raise KeyboardInterrupt

    monkeypatch.setattr("changedet.sites.list_sites", stop)
    result = call("site")
    assert result.exit_code == 130 and "interrupted" in result.stderr and "Traceback" not in result.stderr


def hear_interrupts():
    """Let a child end on an interrupt whoever started the tests."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_a_real_interrupt_leaves_nothing(pair, tmp_path):
    slow = (
        "import sys, time, changedet.pipeline.bitemporal as b\n"
        "def wait(*a, **k):\n    print('waiting', flush=True)\n    time.sleep(30)\n"
        "b._difference = wait\n"
        "from changedet.cli import main\nmain()\n"
    )
    out = tmp_path / "out"
    command = [sys.executable, "-c", slow, "diff", *pair, "-o", str(out)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # a shell starts background jobs deaf to interrupts, and its children inherit that
    with subprocess.Popen(command, **pipes, preexec_fn=hear_interrupts) as run:
        assert run.stdout is not None and run.stdout.readline() == "waiting\n"
        assert out.exists()
        time.sleep(0.1)
        run.send_signal(signal.SIGINT)
        _, stderr = run.communicate(timeout=20)
    assert run.returncode == 130
    assert "interrupted" in stderr and "Traceback" not in stderr
    assert not out.exists()


def test_control_characters_do_not_reach_the_terminal(tmp_path):
    result = call("info", tmp_path / "a\x1b[31mred\n.tif")
    refused(result, "?[31mred")


# ------------------------------------------------------------------------------------------------ talking


def test_json_is_one_line_and_people_read_stderr(pair, tmp_path):
    result = call("diff", *pair, "-o", tmp_path / "out", "--json")
    assert result.exit_code == 0 and result.stdout.count("\n") == 1
    told = json.loads(result.stdout)
    assert told["counts"]["objects"] == 1 and told["method"] == "auto"
    assert {Path(f).name for f in told["files"]} == {p.name for p in (tmp_path / "out").iterdir()}
    assert "1 objects of at least" in result.stderr


def test_people_read_stdout_without_json(pair, tmp_path):
    result = call("diff", *pair, "-o", tmp_path / "out")
    assert "1 objects of at least" in result.stdout and "magnitude.tif" in result.stdout
    assert "warning: a_20240101: no mask found" in result.stderr


def test_quiet_says_nothing(pair, tmp_path):
    result = call("diff", *pair, "-o", tmp_path / "out", "-q")
    assert (result.stdout, result.stderr) == ("", "")
    result = call("diff", *pair, "-o", tmp_path / "two", "-q", "--json")
    assert json.loads(result.stdout)["counts"]["objects"] == 1 and result.stderr == ""


def test_verbose_says_the_stages(pair, tmp_path):
    result = call("diff", *pair, "-o", tmp_path / "out", "-v")
    stages = [line for line in result.stderr.splitlines() if line.endswith(" …")]
    assert stages == ["difference …", "threshold …", "segment …", "write …"]


def test_bars_are_drawn_on_a_terminal(monkeypatch):
    class Terminal:
        encoding = "utf-8"

        def __init__(self):
            self.text = ""

        def write(self, text):
            self.text += text
            return len(text)

        def flush(self):
            pass

        def isatty(self):
            return True

    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    with _console.bars() as progress:
        progress("read", 0, 4)
        progress("read", 3, 4)
    assert "read" in screen.text and "3/4" in screen.text


def test_talk_does_not_leak_into_the_next_command(pair, tmp_path):
    call("diff", *pair, "-o", tmp_path / "out", "-q", "--json")
    assert "Tumen" in call("site").stdout


# ------------------------------------------------------------------------------------------------ processes


def test_as_a_process(pair, tmp_path):
    done = process("diff", *pair, "-o", tmp_path / "out", "--json")
    assert done.returncode == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["command"].startswith("changedet diff ") and pair[0] in record["command"]
    again = process("diff", *pair, "-o", tmp_path / "out")
    assert again.returncode == 2
    assert again.stdout == "" and again.stderr.count("\n") == 1 and again.stderr.startswith("changedet: ")


def test_a_terminal_that_knows_ascii_only():
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = process("site", "tumen", env=environment)
    assert done.returncode == 0 and done.stderr == "" and "Timeline" in done.stdout
    told = process("site", "tumen", "--json", env=environment)
    assert json.loads(told.stdout) == changedet.load_site("tumen").to_dict()


def test_a_closed_pipe_is_no_fault():
    command = f"{sys.executable} -m changedet site tumen | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stderr == "" and done.stdout.strip()


def best_of(code, tries=5):
    """Shortest wall time of a fresh process, s: what the code costs; the rest is the machine."""
    times = []
    for _ in range(tries):
        start = time.perf_counter()
        subprocess.run([sys.executable, *code], check=True, capture_output=True, env=os.environ)
        times.append(time.perf_counter() - start)
    return min(times)


def test_help_is_fast():
    assert best_of(["-m", "changedet", "--help"]) < 0.6


def test_importing_costs_little():
    plain = best_of(["-c", "import numpy"])
    assert best_of(["-c", "import numpy, changedet"]) - plain < 0.3


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['changedet', '--help']\n"
        "from changedet.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'xarray', 'pandas', 'rasterio', 'geopandas', 'dask', 'scipy', 'pydantic'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
