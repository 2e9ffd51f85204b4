"""Run changedet and what people use today on the same scenes, and write ``docs/peers.md``.

    python docs/make_peers.py [--seeds 0,1,2] [--sensors submetre,planet,...] [--data DIR] [--cache DIR]
                              [--peers-python PYTHON] [--bfast-python PYTHON]

The peers are COLD (pyxccd), the monitors EWMA, CuSum and MoSum (nrt), BFAST Monitor (bfast) and what a
notebook would do. They are no dependencies of the project: the command makes two virtual environments in the
cache and installs them there (bfast needs an older NumPy), or takes the Pythons that are named. They see the
scenes as arrays, in a file of the cache. ``peers_inner.py`` is the peers' side, ``peers_objects.py`` makes
objects of breaks, ``peers_injected.py`` puts structures into real pixels; simulated scenes are those of
``make_accuracy.py``.

Every score is kept in the cache, of each scene and method by itself: changedet's own with a checksum of the
package, the others with one of what makes and scores the scenes and of the peer's own side. After a change
of the detector only its own line is measured again.
"""

import argparse
import contextlib
import inspect
import json
import os
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import geopandas as gpd
import make_accuracy as accuracy
import numpy as np
import peers_injected as injected
import peers_inner
from accuracy_scenes import SENSORS, WORKS, checksum, made
from peers_inner import JOBS
from peers_objects import JOINS, objects
from peers_page import NOTEBOOK, OURS, Scores, page
from real_pairs import Kept

import changedet as cd
from changedet.metrics import Options, evaluate

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("CHANGEDET_DATA", ROOT.parent / "shared" / "data"))
PAGE = Path(__file__).with_name("peers.md")
PACKAGES = {"peers": ("pyxccd", "nrt"), "bfast": ("bfast",)}
INSTALL = {
    "peers": (("pyxccd==1.1.0", "nrt==0.3.0"),),
    "bfast": (
        ("numpy==1.23.5", "pandas<2", "scipy<1.11", "scikit-learn<1.3", "matplotlib", "setuptools<70",
         "wheel", "pyopencl", "pocl-binary-distribution"),
        ("--no-build-isolation", "bfast==0.7"),
    ),
}  # fmt: skip
"""What is installed in each environment, step by step. bfast imports itself while it is built, and uses names
that NumPy 1.24 has dropped."""
LEAST_USABLE, BRIGHT = 0.05, 2.0
"""Share of a scene that must be usable, and brightness against the usual from which it is left out, where
scenes are prepared for the peers."""


# ------------------------------------------------------------------------------------------------ the cases


@dataclass(frozen=True)
class Scene:
    """A stack as every method gets it, and its truth; with all that ``baseline`` asks of a simulation."""

    image: np.ndarray
    mask: np.ndarray
    dates: np.ndarray
    bands: tuple[str, ...]
    transform: Any
    crs: Any
    gsd_m: float
    truth: gpd.GeoDataFrame
    stack: Any = None

    @property
    def settings(self) -> SimpleNamespace:
        """Return what stands among the settings of a simulation."""
        return SimpleNamespace(gsd_m=self.gsd_m)


@dataclass
class Case:
    """A stack to be measured; it is made when the first method asks for it.

    Parameters
    ----------
    group : kind of imagery
    which, works : seed or place; "built" or "quiet"
    make : makes it
    real : real pixels with structures put in
    """

    group: str
    which: int | str
    works: str
    make: Callable[[], Scene]
    real: bool = False

    @property
    def name(self) -> str:
        """Return a name for files."""
        return f"{self.group.replace(' ', '-')}-{self.which}-{self.works}"

    @cached_property
    def scene(self) -> Scene:
        """Return the stack."""
        return self.make()

    @cached_property
    def prepared(self) -> Scene:
        """Return it aligned and normalized, without scenes that show little or that snow made bright."""
        shown = ~self.scene.mask
        fine = np.flatnonzero(shown.mean(axis=(1, 2)) >= LEAST_USABLE * shown.any(axis=0).mean())
        moved = cd.align(self.scene.stack.isel(time=fine))
        level = moved.image.sel(band="green").median(("y", "x")).values
        usual = cd.normalize(moved.isel(time=np.flatnonzero(level <= BRIGHT * np.median(level))))
        return scene_of(usual, self.scene.truth)


def cases(args: argparse.Namespace) -> Iterator[Case]:
    """Yield all stacks."""
    for sensor, seed, works in product(args.sensors, args.seeds, WORKS):
        yield Case(sensor, seed, works, lambda a=(sensor, seed, works): simulated(*a, args.accuracy_cache))
    for group, places in injected.GROUPS.items() if args.data else ():
        for place in places:
            yield Case(group, place, "quiet", lambda p=place: real(args.data, p, None), True)
            for k in range(injected.COPIES):
                yield Case(group, f"{place}-{k}", "built", lambda p=place, k=k: real(args.data, p, k), True)


def simulated(sensor: str, seed: int, works: str, cache: Path) -> Scene:
    """Read a stack of ``make_accuracy`` from its files, with the masks as they were delivered."""
    on_disk = made(sensor, seed, works, cache)
    return scene_of(cd.open_stack([on_disk.files], repair_masks=False), gpd.read_file(on_disk.truth))


def real(data: Path, place: str, seed: int | None) -> Scene:
    """Read real scenes, and put structures in where a seed is given."""
    stack, truth = injected.read(data, place), gpd.GeoDataFrame({"id": []}, geometry=[])
    if seed is not None:
        stack, truth = injected.built(stack, place, seed)
    return scene_of(stack, truth)


def scene_of(stack: Any, truth: gpd.GeoDataFrame) -> Scene:
    """Return a stack as arrays."""
    grid, image, bands = cd.Grid.of(stack), stack.image.values, tuple(map(str, stack.band.values))
    lost = ~np.isfinite(image).all(axis=1)
    return Scene(image, lost, stack.time.values, bands, grid.transform, grid.crs, grid.gsd_m, truth, stack)


# ------------------------------------------------------------------------------------------------ the methods


@dataclass
class Peer:
    """A process of the peers' Python; it is started when it is asked, and again where it died."""

    python: str | None
    why: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen | None = None

    def ask(self, **request: Any) -> dict:
        """Return the answer to a request."""
        if self.process is None:
            line = [str(self.python), str(Path(__file__).with_name("peers_inner.py"))]
            quiet = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            self.process = subprocess.Popen(line, text=True, **quiet)
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        return {"error": f"its process ended with code {self.close()}"}

    def close(self) -> int | None:
        """End the process; return its code, None where there is no process."""
        if self.process is None:
            return None
        with self.process as ended, contextlib.suppress(BrokenPipeError):
            ended.stdin.close()
        self.process = None
        return ended.returncode


def environment(kind: str, given: str | None, cache: Path) -> Peer:
    """Return a Python that has the peers: the one given, or one made in the cache."""
    python = given
    if python is None:
        home = (cache / f"python-{kind}").absolute()
        python = str(home / "bin" / "python")
        done = home / "installed"
        if not done.is_file():
            venv.create(home, with_pip=True, clear=True)
            for step in INSTALL[kind]:
                line = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *step]
                tried = subprocess.run(line, capture_output=True, text=True, check=False)
                if tried.returncode:
                    last = [w for w in tried.stderr.splitlines() if "rror" in w][-1:]
                    return Peer(None, f"pip install {' '.join(step)}: {' '.join(last)}")
            done.touch()
    ask = "import sys; from importlib.metadata import version as v; print(*map(v, sys.argv[1:]))"
    told = subprocess.run([python, "-c", ask, *PACKAGES[kind]], capture_output=True, text=True, check=False)
    if told.returncode:
        return Peer(None, f"not installed: {told.stderr.splitlines()[-1]}")
    return Peer(python, versions=dict(zip(PACKAGES[kind], told.stdout.split(), strict=True)))


def preparing() -> list[str]:
    """Return the files of the package that align and normalize."""
    steps = (Path(cd.__file__).parent / "steps").glob("*.py")
    return [f"steps/{path.name}" for path in steps if path.stem.strip("_").startswith(("align", "normalize"))]


def source(name: str) -> str:
    """Return the code of a file beside this one."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


class Methods:
    """Every method, its scores and where they are kept."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        at, package = args.cache / "scores", ("simulate", "metrics", "demo.py", "pipeline/_injection.py")
        self.injecting = source("peers_injected.py")
        self.ours = Kept(at, checksum(more=[self.injecting]))
        self.plain = Kept(at, checksum(*package, more=[self.injecting, source("accuracy_scenes.py")]))
        self.peers = Kept(at, checksum(*package, more=[source("peers_objects.py")]))
        given = {"peers": args.peers_python, "bfast": args.bfast_python}
        self.process = {kind: environment(kind, given[kind], args.cache) for kind in PACKAGES}

    def each(self, case: Case) -> Iterator[tuple[str, str, dict]]:
        """Yield method, setting and scores of a case."""
        yield OURS, "", self.own(case)
        yield NOTEBOOK, "", self.plain.get(f"{case.name}-{NOTEBOOK}", [], lambda: notebook(case.scene))
        for file in self.args.cache.glob("scene-*.npz"):
            file.unlink()  # of another case
        for method, settings in JOBS.items():
            for words, setting in settings.items():
                one = self.peer(case, method, setting)
                for how in JOINS:
                    yield method, f"{words}{how}", one | one.get("joined", {}).get(how, {})

    def own(self, case: Case) -> dict:
        """Return changedet's scores: by ``run`` on files, as ``make_accuracy`` keeps them, or on arrays."""
        if case.real:
            return self.ours.get(f"{case.name}-{OURS}", [], lambda: detected(case.scene))
        one = accuracy.scored(case.group, case.which, case.works, self.args.accuracy_cache)
        pixels = int(np.prod(one["shape_px"]))
        return {"false": one["false"], "seconds": one["seconds"], "pixels": pixels, **one.get("ours", {})}

    def code(self, case: Case, method: str, setting: dict) -> str:
        """Return a checksum of the code on which only some of the peers' scores depend."""
        work = peers_inner.WORK.get(method, peers_inner.monitor)
        texts = [inspect.getsource(one) for one in (work, peers_inner.light)]
        if case.real:
            texts.append(self.injecting)
        return checksum(*(preparing() if setting.get("prepared") else ["none"]), more=texts)

    def peer(self, case: Case, method: str, setting: dict) -> dict:
        """Return a peer's scores."""
        process = self.process["bfast" if method.startswith("BFAST") else "peers"]
        if process.python is None:
            return {"error": process.why}
        key = [setting, process.versions, self.code(case, method, setting)]
        words = "-".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in setting.items())
        name = f"{case.name}-{method}-{words or 'defaults'}"

        def make() -> dict:
            how = "prepared" if setting.get("prepared") else "scene"
            one, file = getattr(case, how), (self.args.cache / f"scene-{how}.npz").absolute()
            if not file.is_file():
                image = np.where(one.mask[:, None], np.float32(np.nan), one.image).astype(np.float32)
                np.savez(file, image=image, dates=one.dates, bands=np.array(one.bands))
            out = file.with_name("breaks.npy")
            given = {k: v for k, v in setting.items() if k != "prepared"}
            told = process.ask(scene=str(file), out=str(out), method=method, setting=given)
            if "error" in told:
                return told
            found = np.load(out)
            return told | {"joined": {how: scored(one, objects(found, one, how)) for how in JOINS}}

        return self.peers.get(name, key, make)


def detected(scene: Scene) -> dict:
    """Run the main job on a stack in memory."""
    begin = time.perf_counter()
    try:
        found = cd.detect(scene.stack).structures
    except cd.ChangedetError as error:
        return {"error": f"refused: {error}"}
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, **scored(scene, found)}


def notebook(scene: Scene) -> dict:
    """Do what a notebook does; its objects are dated by nothing."""
    begin = time.perf_counter()
    found = accuracy.baseline(scene)
    return {"seconds": time.perf_counter() - begin, **scored(scene, found)}


def scored(scene: Scene, found: gpd.GeoDataFrame) -> dict:
    """Score objects."""
    out = {"false": len(found), "pixels": int(np.prod(scene.image.shape[-2:]))}
    if len(scene.truth):
        out |= accuracy.headline(evaluate(found, scene.truth, options=Options(pixel_m=scene.gsd_m)))
    return out


# ------------------------------------------------------------------------------------------------ the command


def main() -> None:
    """Score what is not in the cache yet, then write the page."""
    args = arguments()
    if args.data is not None and not (args.data / "stacks").is_dir():
        print(f"no stacks in {args.data}: real pixels are left out; give --data", file=sys.stderr)
        args.data = None
    args.cache.mkdir(parents=True, exist_ok=True)
    how = Methods(args)
    scores: Scores = {}
    for case in cases(args):
        for method, words, one in how.each(case):
            scores.setdefault((case.group, method, words, case.works), []).append(one)
            print(f"{case.name}, {method}, {words}: {brief(one)}", flush=True)
    for one in how.process.values():
        one.close()
    missing = {kind: one.why for kind, one in how.process.items() if one.python is None}
    text = page(scores, said(args, how), missing, real=args.data is not None)
    args.out.write_text(text, encoding="utf-8")
    print(f"wrote {args.out}")


def said(args: argparse.Namespace, how: Methods) -> str:
    """Return what was measured: versions and seeds."""
    versions = [f"{k} {v}" for one in how.process.values() for k, v in one.versions.items()]
    seeds = ", ".join(map(str, args.seeds))
    return f"changedet {cd.__version__}, code {accuracy.fingerprint()}; {', '.join(versions)}; seeds {seeds}."


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    numbers = {"type": lambda t: [int(s) for s in t.split(",")]}
    parser.add_argument("--seeds", **numbers, default=[0, 1, 2])
    parser.add_argument("--sensors", type=lambda t: t.split(","), default=list(SENSORS))
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the real imagery")
    parser.add_argument("--cache", type=Path, default=Path(".cache/peers"), help="folder for scores, Pythons")
    parser.add_argument("--accuracy-cache", type=Path, default=Path(".cache/accuracy"),
                        help="folder of make_accuracy's scores, where changedet's own are kept")  # fmt: skip
    parser.add_argument("--peers-python", help="a Python that has pyxccd and nrt")
    parser.add_argument("--bfast-python", help="a Python that has bfast")
    parser.add_argument("--out", type=Path, default=PAGE, help="page to write")
    return parser.parse_args()


def brief(one: dict) -> str:
    """Say scores in a line."""
    if "error" in one:
        return one["error"]
    parts = [f"F1 {one['f1']:.2f}"] if "f1" in one else []
    parts += [f"{one['false']} found", f"{one['seconds']:.1f} s", one.get("note", "")]
    return ", ".join(part for part in parts if part)


if __name__ == "__main__":
    main()
