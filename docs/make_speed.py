"""Time changedet and what people use today on one large pair, and write ``docs/speed.md``.

    python docs/make_speed.py [--repeat 3] [--side 5000] [--only WORDS] [--peers-python PYTHON] [--data DIR]

A pair of 5000 × 5000 × 4 uint16 rasters is made (tiled DEFLATE, UTM 52N). Every line of the table is whole
processes, run one after the other, round after round: processor time (user and system) and peak resident
memory as the system counts them, medians over the rounds. Peers that are not installed are left out: Orfeo
ToolBox (``apt install otb-bin``) is looked for on the PATH, AROSICS in the Python that ``--peers-python``
names.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = Path(__file__).with_name("speed.md")
MADE = "Made by `python docs/make_speed.py`, which says how; not edited by hand."
BANDS = ("blue", "green", "red", "nir")
SHIFT = (0.4, -0.3)
"""Shift (dy, dx) in pixels that lays the second ground image on the first."""
NOISE_SHARE = 0.0128
ITERATIONS = 4
PARTS = {"before": "before.tif", "after": "after.tif"}
GROUND = ("ground_20240101.tif", "ground_20240601.tif")
ABOUT = """Processor time is user and system time of whole processes, imports included, unless a line says
*alone*: there it is the work itself, its input in memory. Memory is the peak resident set of the process.
The floor reads and decodes both images once with rasterio, its import included. Outputs are written in all
lines but the floor. Bytecode is compiled beforehand, as installing does."""


# ------------------------------------------------------------------------------------------------ what is run


@dataclass(frozen=True)
class Line:
    """One line of the table.

    Parameters
    ----------
    work, who : what is done, and by whom
    command : makes the command line from the folder of the images; None where the peer is not installed
    limits : (words, other line's key, factor of its processor time); what must hold
    memory : limit in MB that must hold, or the key of a line that must not be passed
    key : by which other lines refer to this one
    inner : the command prints a JSON line; its ``cpu``, where it has one, is the processor time
    """

    work: str
    who: str
    command: Callable[[Path], list[str]] | None
    key: str = ""
    limits: tuple[tuple[str, str, float], ...] = ()
    memory: float | str | None = None
    inner: bool = False


@dataclass
class Measured:
    """What was measured of one line, round by round."""

    cpu: list[float] = field(default_factory=list)
    memory_mb: list[float] = field(default_factory=list)
    told: dict = field(default_factory=dict)


def diff(out: str, *options: str) -> Callable[[Path], list[str]]:
    """Return the command of changedet for the pair."""
    words = ["--overwrite", "-q", *options]
    return lambda at: [
        sys.executable, "-m", "changedet", "diff", str(at / PARTS["before"]), str(at / PARTS["after"]),
        "-o", str(at / out), *words,
    ]  # fmt: skip


def own(name: str, python: str = sys.executable) -> Callable[[Path], list[str]]:
    """Return the command of a function of this file."""
    return lambda at: [python, __file__, "--inner", name, "--data", str(at)]


def otb(name: str, *options: str) -> Callable[[Path], list[str]] | None:
    """Return the command of an application of Orfeo ToolBox, None where it is not installed."""
    found = shutil.which(f"otbcli_{name}")
    if found is None:
        return None
    pairs = {"{before}": PARTS["before"], "{after}": PARTS["after"]}

    def command(at: Path) -> list[str]:
        return [found, *(str(at / pairs[o]) if o in pairs else o.replace("{out}", str(at)) for o in options)]

    return command


BAND_MATH = "sqrt(" + "+".join(f"(im2b{i}-im1b{i})^2" for i in (1, 2, 3, 4)) + ")"
PLAIN = ("--compress", "none")


def lines(peers_python: str | None) -> list[Line]:
    """Return the lines of the table: of each work the peer first, then changedet with its limits."""
    said = {"max_iterations": ITERATIONS, "tolerance": 1e-12}
    passes = [w for name, value in said.items() for w in ("--set", f"difference.irmad.{name}={value}")]
    magnitude, cva, pair = ("--outputs", "magnitude.tif"), ("--method", "cva"), ("{before}", "{after}")
    arosics = peers_python is not None and _has(peers_python, "arosics")
    return [
        Line("read and decode both images", "rasterio", own("floor"), "floor"),
        Line(
            "CVA magnitude, uncompressed", "Orfeo ToolBox BandMath",
            otb("BandMath", "-il", *pair, "-exp", BAND_MATH, "-out", "{out}/otb_cva.tif", "float"),
            "bandmath",
        ),
        Line(
            "CVA magnitude, uncompressed", "changedet",
            diff("cva", *cva, *magnitude, *PLAIN), "cva",
            (("of the floor", "floor", 2.0), ("of BandMath", "bandmath", 0.6)), 500,
        ),
        Line("CVA magnitude, DEFLATE", "notebook, whole arrays", own("notebook_cva"), "notebook_cva"),
        Line(
            "CVA magnitude, DEFLATE", "changedet",
            diff("deflate", *cva, *magnitude),
            "deflate", (("of the notebook", "notebook_cva", 0.7),), 500,
        ),
        Line(
            "MAD components, uncompressed", "Orfeo ToolBox",
            otb("MultivariateAlterationDetector", "-in1", pair[0], "-in2", pair[1],
                "-out", "{out}/otb_mad.tif", "float"),
            "otb_mad",
        ),
        Line(
            "MAD components, uncompressed", "changedet",
            diff("mad", "--method", "mad", "--outputs", "components.tif", *PLAIN), "mad",
            (("of Orfeo ToolBox", "otb_mad", 0.6),), 1000,
        ),
        Line("IR-MAD, one reweighted pass", "notebook, NumPy", own("notebook_irmad"), "notebook_irmad",
             inner=True),
        Line(
            f"IR-MAD, {ITERATIONS} passes, magnitude", "changedet",
            diff("irmad", "--method", "irmad", *magnitude, *PLAIN, *passes),
            "irmad", (), 1000,
        ),
        Line(
            "MAD, one pass, magnitude", "changedet",
            diff("one", "--method", "mad", *magnitude, *PLAIN), "one", (), 1000,
        ),
        Line("IR-MAD with all outputs", "changedet", diff("all", "--method", "irmad"), "all", (), 1000),
        Line("label + sizes of a noisy mask, alone", "SciPy label + bincount", own("scipy_label"),
             "scipy_label", inner=True),
        Line("label + sizes of a noisy mask, alone", "changedet", own("label"), "label",
             (("of SciPy", "scipy_label", 1.3),), inner=True),
        Line("vectors of it, alone", "rasterio shapes", own("shapes"), "shapes", inner=True),
        Line("vectors of it, from 4 pixels, alone", "changedet segment", own("segment"), "segment",
             (("of shapes", "shapes", 0.5),), inner=True),
        Line("global shift (0.4, −0.3) px", "AROSICS",
             own("arosics", peers_python or "") if arosics else None,
             "arosics", inner=True),
        Line("global shift (0.4, −0.3) px", "changedet", own("shift"), "shift",
             (("of AROSICS", "arosics", 1.0),), "arosics", inner=True),
        Line("local tie points, each", "AROSICS",
             own("arosics_local", peers_python or "") if arosics else None, "arosics_local", inner=True),
        Line("local tie points, each", "changedet", own("ties"), "ties",
             (("of AROSICS", "arosics_local", 0.1),), inner=True),
    ]  # fmt: skip


def _has(python: str, module: str) -> bool:
    """Return True where another Python has a module."""
    command = [python, "-c", f"import {module}"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


# ---------------------------------------------------------------------------------------------- measuring


def main() -> None:
    """Measure and write the page, or run one function of this file."""
    args = arguments()
    if args.inner:
        if args.inner == "images":
            make_images(args.data, args.side)
        else:
            print(json.dumps(INNER[args.inner](args.data) or {}))
        return
    with tempfile.TemporaryDirectory() as name:
        at = args.data or Path(name)
        # in a process of its own: what this one holds would be counted as its children's
        again = [sys.executable, __file__, "--inner", "images", "--data", str(at), "--side", str(args.side)]
        subprocess.run(again, check=True)
        table = [line for line in lines(args.peers_python) if args.only in f"{line.work} {line.key}"]
        found = measured(table, at, args.repeat)
        sizes = [(at / part).stat().st_size / 1e6 for part in PARTS.values()]
        args.out.write_text(page(table, found, args, sizes), encoding="utf-8")
    print(f"wrote {args.out}")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3, help="rounds, of which medians are taken")
    parser.add_argument("--side", type=int, default=5000, help="rows and columns of the images")
    parser.add_argument("--only", default="", help="lines whose work holds these words")
    parser.add_argument("--peers-python", help="a Python that has AROSICS")
    parser.add_argument("--data", type=Path, help="folder to keep the images in")
    parser.add_argument("--out", type=Path, default=PAGE, help="page to write")
    parser.add_argument("--inner", help=argparse.SUPPRESS)
    return parser.parse_args()


def measured(table: list[Line], at: Path, rounds: int) -> dict[str, Measured]:
    """Run every line once for nothing, then round by round.

    changedet's functions get the environment that its command line sets for itself.
    """
    from changedet.cli import ENVIRONMENT

    found = {line.key: Measured() for line in table if line.command is not None}
    for turn in range(rounds + 1):
        for line in table:
            if line.command is None:
                continue
            own = "changedet" in line.who
            done = run(line.command(at), at, inner=line.inner, more=ENVIRONMENT if own else {})
            if done is None and own:
                sys.exit(1)
            if done is None:  # a peer that cannot run here is left out
                continue
            cpu, memory, told = done
            print(f"{line.key}: {cpu:.2f} s, {memory:.0f} MB", flush=True)
            if turn or rounds == 0:
                found[line.key].cpu.append(cpu)
                found[line.key].memory_mb.append(memory)
            found[line.key].told = told
    for key in ("cva", "mad", "irmad", "one", "all"):
        if key in found:
            found[key].told = json.loads((at / key / "run.json").read_text(encoding="utf-8"))
    return found


def run(
    command: list[str], at: Path, *, inner: bool, more: dict[str, str]
) -> tuple[float, float, dict] | None:
    """Run a command; return processor time in s, peak memory in MB, what it printed; None where it failed."""
    skipped = ("PYTHONDONTWRITEBYTECODE", "OMP_NUM_THREADS")
    environment = {k: v for k, v in os.environ.items() if k not in skipped}
    environment |= {"PYTHONPYCACHEPREFIX": str(at / "bytecode"), "PYTHONPATH": str(ROOT), **more}
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen(command, stdout=said, stderr=said, env=environment, cwd=at)
        _, status, usage = os.wait4(child.pid, 0)
        said.seek(0)
        text = said.read()
    if os.waitstatus_to_exitcode(status):
        print(f"{' '.join(command)}\n{text}", file=sys.stderr)
        return None
    told = json.loads(text.splitlines()[-1]) if inner else {"said": text}
    scale = 1e6 if sys.platform == "darwin" else 1e3 / 1.024  # KiB to MB
    cpu = told.get("cpu", usage.ru_utime + usage.ru_stime)
    return cpu, usage.ru_maxrss / scale, told


# ------------------------------------------------------------------------------------------------ the page


def page(table: list[Line], found: dict[str, Measured], args: argparse.Namespace, sizes: list[float]) -> str:
    """Return the page."""
    import changedet

    cpu = {key: statistics.median(one.cpu) for key, one in found.items() if one.cpu}
    memory = {key: statistics.median(one.memory_mb) for key, one in found.items() if one.cpu}
    rows = [("work", "who", "cpu s", "MB", "must", "measured"), ("---",) * 6]
    for line in table:
        if line.key not in cpu:
            why = "not installed" if line.command is None else "did not run"
            rows.append((line.work, line.who, why, "", "", ""))
            continue
        must, got = judged(line, cpu, memory)
        rows.append((line.work, line.who, f"{cpu[line.key]:.3g}", f"{memory[line.key]:.0f}", must, got))
    if {"irmad", "one", "floor"} <= set(cpu):
        each = (cpu["irmad"] - cpu["one"]) / (found["irmad"].told["statistics"]["iterations"] - 1)
        rows.append((
            "IR-MAD, one reweighted pass (difference of the lines above)", "changedet", f"{each:.3g}", "",
            *verdict([("of the floor", each / cpu["floor"], 2.0)], []),
        ))  # fmt: skip
    text = [
        "# Speed",
        f"{MADE} changedet {changedet.__version__}; {args.side} × {args.side} × 4 uint16, tiled DEFLATE, "
        f"{sizes[0]:.0f} and {sizes[1]:.0f} MB; medians of {args.repeat}; {os.cpu_count()} processors, "
        f"{platform.machine()}, Python {platform.python_version()}.",
        ABOUT,
        "\n".join(f"| {' | '.join(row)} |" for row in rows),
        *checks(found),
    ]
    return "\n\n".join(text) + "\n"


def judged(line: Line, cpu: dict[str, float], memory: dict[str, float]) -> tuple[str, str]:
    """Return what a line must reach and what it reached, as text."""
    times = [(words, cpu[line.key] / cpu[other], most) for words, other, most in line.limits if other in cpu]
    limit = memory.get(line.memory) if isinstance(line.memory, str) else line.memory
    return verdict(times, [] if limit is None else [(memory[line.key], limit)])


def verdict(times: list[tuple[str, float, float]], memories: list[tuple[float, float]]) -> tuple[str, str]:
    """Return limits and figures as text; what does not hold is bold."""
    must = [f"≤ {most:g} {words}" for words, _, most in times]
    must += [f"≤ {limit:.0f} MB" for _, limit in memories]
    got = [_marked(f"{ratio:.2f}", ratio <= most) for _, ratio, most in times]
    got += [_marked(f"{value:.0f} MB", value <= limit) for value, limit in memories]
    return "; ".join(must), "; ".join(got)


def _marked(text: str, holds: bool) -> str:
    """Return a figure, bold where it does not hold."""
    return text if holds else f"**{text}**"


def checks(found: dict[str, Measured]) -> list[str]:
    """Return what was compared besides time."""
    out = []
    found = {key: one for key, one in found.items() if one.cpu}
    if {"otb_mad", "mad"} <= set(found):
        said = found["otb_mad"].told["said"].partition("Rho:")[2].splitlines()[0]
        theirs = sorted(map(float, said.split()))
        ours = sorted(found["mad"].told["statistics"]["canonical_correlation"])
        apart = max(abs(a - b) for a, b in zip(theirs, ours, strict=True))
        verb = _marked("agree", apart <= 1e-5)
        out.append(f"- Canonical correlations of MAD {verb} with Orfeo's to {apart:.1g} (must: 1e-5).")
    for key, words in {"label": "in the noisy mask", "segment": "of 4 pixels or more in it"}.items():
        if key in found:
            out.append(f"- {found[key].told['objects']} objects {words}.")
    for key, who in {"shift": "changedet", "arosics": "AROSICS"}.items():
        if key in found:
            error = found[key].told["error_px"]
            figure = _marked(f"{error:.4f}", error <= 0.02)
            out.append(f"- Error of the global shift, {who}: {figure} px (must: 0.02).")
    for key, who in {"ties": "changedet", "arosics_local": "AROSICS"}.items():
        if key in found:
            told = found[key].told
            p95 = _marked(f"{told['p95_px']:.3f}", told["p95_px"] <= 0.1)
            out.append(f"- {who}: {told['number']} tie points, 95 % within {p95} px (must: 0.1).")
    return ["\n".join(out)] if out else []


# ------------------------------------------------------------------------------------------------ the images


def make_images(at: Path, side: int) -> None:
    """Make the pair, the ground images of a known shift and the mask, where they are not there yet."""
    import numpy as np

    at.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    stamp = at / "images.json"
    wanted = {"side": side, "version": 1}
    if stamp.exists() and json.loads(stamp.read_text(encoding="utf-8")) == wanted:
        return
    shape = (side, side)
    base = 200 * smooth(rng, side, 100)
    before, after = [], []
    for k in range(len(BANDS)):
        ground = 1500 + 300 * k + base + 100 * smooth(rng, side, 60)
        now = 1.02 * ground + 10 + 20 * smooth(rng, side, 200)
        for dates, image in ((before, ground), (after, now)):
            noisy = image + rng.normal(0, 60, shape).astype(np.float32)
            dates.append(np.clip(noisy, 1, 65535).astype(np.uint16))
    write(at / PARTS["before"], np.stack(before))
    write(at / PARTS["after"], np.stack(after))
    for name, image in zip(GROUND, shifted_ground(rng, side), strict=True):
        write(at / name, image[None])
    np.save(at / "mask.npy", rng.random(shape) < NOISE_SHARE)
    stamp.write_text(json.dumps(wanted), encoding="utf-8")


def smooth(rng, side: int, cell: int):
    """Return a field of unit variance that varies over ``cell`` pixels, (side, side) float32."""
    import numpy as np

    knots = np.arange(-1, side // cell + 3) * cell
    rows = np.stack([np.interp(np.arange(side), knots, unit) for unit in np.eye(knots.size)], axis=1)
    rows = rows.astype(np.float32)
    return rows @ rng.standard_normal((knots.size, knots.size)).astype(np.float32) @ rows.T


def shifted_ground(rng, side: int):
    """Return two images of one textured ground; the second has to be moved by :data:`SHIFT` to fit."""
    import numpy as np

    fy, fx = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    blur = np.exp(-2 * (np.pi * 1.2) ** 2 * (fy**2 + fx**2))
    ground = np.fft.rfft2(rng.standard_normal((side, side))) * blur
    ramp = np.exp(2j * np.pi * (fy * SHIFT[0] + fx * SHIFT[1]))
    images = [np.fft.irfft2(spectrum, (side, side)) for spectrum in (ground, ground * ramp)]
    scale = 300 / images[0].std()
    return [
        np.clip(2000 + scale * image + rng.normal(0, 30, image.shape), 1, 65535).astype(np.uint16)
        for image in images
    ]


def write(path: Path, values) -> None:
    """Write a tiled DEFLATE raster."""
    import rasterio
    from affine import Affine

    count, rows, columns = values.shape
    profile = {
        "driver": "GTiff", "width": columns, "height": rows, "count": count, "dtype": "uint16", "tiled": True,
        "crs": "EPSG:32652", "transform": Affine(10, 0, 500_000, 0, -10, 4_700_000), "compress": "deflate",
        "predictor": 2, "blockxsize": 512, "blockysize": 512,
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write(values)
        for i, name in enumerate(BANDS[:count] if count > 1 else ("red",), 1):
            dataset.set_band_description(i, name)


# ------------------------------------------------------------------------------------------------ inner work


def cpu_s() -> float:
    """Return the processor time of this process."""
    times = os.times()
    return times.user + times.system


def floor(at: Path) -> None:
    """Read and decode both images."""
    import rasterio

    for name in PARTS.values():
        with rasterio.open(at / name) as dataset:
            dataset.read()


def notebook_cva(at: Path) -> None:
    """Compare the images as a notebook does: whole arrays, then a compressed raster."""
    import numpy as np
    import rasterio

    with rasterio.open(at / PARTS["before"]) as dataset:
        before = dataset.read().astype(np.float32)
        profile = dataset.profile
    with rasterio.open(at / PARTS["after"]) as dataset:
        after = dataset.read().astype(np.float32)
    magnitude = np.sqrt(((after - before) ** 2).sum(axis=0))
    profile |= {"count": 1, "dtype": "float32", "nodata": np.nan, "predictor": 3}
    with rasterio.open(at / "notebook.tif", "w", **profile) as dataset:
        dataset.write(magnitude, 1)


def notebook_irmad(at: Path) -> dict:
    """Run reweighted passes over whole arrays."""
    import numpy as np
    import rasterio
    from scipy.linalg import eigh
    from scipy.stats import chi2

    pair = []
    for name in PARTS.values():
        with rasterio.open(at / name) as dataset:
            pair.append(dataset.read().astype(np.float64).reshape(len(BANDS), -1))
    pixels, p = np.concatenate(pair), len(BANDS)
    weights = np.ones(pixels.shape[1])
    start, passes = 0.0, 2
    for turn in range(passes + 1):
        if turn == 1:
            start = cpu_s()
        covariance = np.cov(pixels, aweights=weights)
        mean = np.average(pixels, axis=1, weights=weights)
        c11, c12, c22 = covariance[:p, :p], covariance[:p, p:], covariance[p:, p:]
        square, a = eigh(c12 @ np.linalg.solve(c22, c12.T), c11)
        rho = np.sqrt(np.clip(square, 0, 1 - 1e-9))
        b = np.linalg.solve(c22, c12.T @ a) / rho
        apart = a.T @ (pixels[:p] - mean[:p, None]) - b.T @ (pixels[p:] - mean[p:, None])
        statistic = (apart**2 / (2 * (1 - rho))[:, None]).sum(axis=0)
        weights = chi2.sf(statistic, p)
    return {"cpu": (cpu_s() - start) / passes, "rho": rho.tolist()}


def scipy_label(at: Path) -> dict:
    """Label the mask and count pixels with SciPy and NumPy."""
    import numpy as np
    from scipy import ndimage

    mask = np.load(at / "mask.npy")
    start = cpu_s()
    labels, number = ndimage.label(mask, np.ones((3, 3)))
    np.bincount(labels.ravel())
    return {"cpu": cpu_s() - start, "objects": number}


def label(at: Path) -> dict:
    """Label the mask and count pixels as ``segment`` does."""
    import numpy as np
    import scipy.ndimage  # noqa: F401
    import xarray as xr

    from changedet.blocks import label as labelled

    mask = xr.DataArray(np.load(at / "mask.npy"), dims=("y", "x"))
    start = cpu_s()
    found, number = labelled(mask)
    labels = found.values
    np.bincount(labels.ravel()[np.flatnonzero(labels)], minlength=number + 1)
    return {"cpu": cpu_s() - start, "objects": number}


def shapes(at: Path) -> dict:
    """Outline every object with GDAL."""
    import numpy as np
    from rasterio.features import shapes as outlined

    mask = np.load(at / "mask.npy")
    start = cpu_s()
    number = sum(1 for _ in outlined(mask.astype(np.uint8), mask=mask, connectivity=8))
    return {"cpu": cpu_s() - start, "objects": number}


def segment(at: Path) -> dict:
    """Outline and measure the objects of four pixels or more."""
    import numpy as np
    from affine import Affine

    from changedet.grid import Grid, attach
    from changedet.steps.segment import segment as segmented

    mask = np.load(at / "mask.npy")
    grid = Grid.make("EPSG:32652", Affine(10, 0, 500_000, 0, -10, 4_700_000), mask.shape)
    image = attach(mask.astype(np.float32), grid)
    segmented(image[:64, :64], low=0.5, min_area_m2=400)  # imports what it needs
    start = cpu_s()
    _, table = segmented(image, low=0.5, min_area_m2=400)
    return {"cpu": cpu_s() - start, "objects": len(table)}


def shift(at: Path) -> dict:
    """Find the shift of the ground images."""
    found = registered(at)
    return {"error_px": float(((found.shift.dy - SHIFT[0]) ** 2 + (found.shift.dx - SHIFT[1]) ** 2) ** 0.5)}


def ties(at: Path) -> dict:
    """Find tie points in the ground images; their time is that beyond finding the shift, no field fitted."""
    import numpy as np

    found = registered(at, ties=True).ties  # what is loaded on first use is not counted, as for the others
    spent = []
    for _ in range(5):
        start = cpu_s()
        registered(at)
        middle = cpu_s()
        registered(at, ties=True)
        spent.append((cpu_s() - middle) - (middle - start))
    errors = np.hypot(*(found.shift - SHIFT).T)
    cpu = float(np.median(spent)) / len(found)
    return {"cpu": cpu, "number": len(found), "p95_px": float(np.quantile(errors, 0.95))}


def registered(at: Path, *, ties: bool = False):
    """Register the second ground image on the first."""
    from changedet.io.stack import open_stack
    from changedet.steps.align import register

    stack = open_stack([at / name for name in GROUND], chunk_px=1024)
    first = str(stack["scene"].values[0])
    return register(stack, reference=first, ties=ties)[1]


def arosics(at: Path) -> dict:
    """Find the shift with AROSICS."""
    from arosics import COREG

    found = COREG(*(str(at / name) for name in GROUND), ws=(256, 256), max_shift=5, q=True)
    found.calculate_spatial_shifts()
    dx, dy = found.coreg_info["corrected_shifts_px"]["x"], found.coreg_info["corrected_shifts_px"]["y"]
    return {"error_px": float(((dy - SHIFT[0]) ** 2 + (dx - SHIFT[1]) ** 2) ** 0.5)}


def arosics_local(at: Path) -> dict:
    """Find tie points with AROSICS, in windows of its own choice (256 × 256 pixels)."""
    import numpy as np
    from arosics import COREG_LOCAL

    start = cpu_s()
    found = COREG_LOCAL(*(str(at / name) for name in GROUND), grid_res=200, max_shift=5,
                        CPUs=1, q=True, progress=False)  # fmt: skip
    table = found.CoRegPoints_table
    table = table[table["X_SHIFT_PX"] != -9999]
    errors = np.hypot(table["Y_SHIFT_PX"] - SHIFT[0], table["X_SHIFT_PX"] - SHIFT[1])
    number = len(table)
    return {"cpu": (cpu_s() - start) / number, "number": number, "p95_px": float(np.quantile(errors, 0.95))}


INNER = {
    f.__name__: f
    for f in (
        floor, notebook_cva, notebook_irmad, scipy_label, label, shapes, segment, shift, ties, arosics,
        arosics_local,
    )
}  # fmt: skip


if __name__ == "__main__":
    main()
