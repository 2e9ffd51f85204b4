"""The real pairs with truth: where they lie, and how a result on one is scored. See ``make_real.py``."""

import hashlib
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import xarray as xr

import changedet as cd
from changedet.metrics import pixel_scores


@dataclass(frozen=True)
class Pair:
    """Two images and their truth: files below the data folder, and options that the files make necessary.

    ``unchanged`` marks what is known not to have changed, where the truth is sampled.
    """

    name: str
    before: str
    after: str
    truth: str
    options: tuple[str, ...] = ()
    unchanged: str | None = None


OTHER_GRID = ("abudhabi", "hongkong")
"""Pairs whose second date lies on another grid."""

OSCD = [
    Pair(
        name,
        *(f"oscd/{name}/{file}" for file in ("t1_*.tif", "t2_*.tif", "gt.tif")),
        ("--warp",) if name in OTHER_GRID else (),
    )
    for name in ("abudhabi", "aguasclaras", "beihai", "cupertino", "hongkong", "mumbai", "nantes", "rennes")
]
TAIZHOU = Pair(
    "taizhou", *(f"taizhou/{file}" for file in ("2000TM", "2003TM", "change.bmp")),
    unchanged="taizhou/unchanged.bmp",
)  # fmt: skip
SAR = [
    Pair(name, *(f"sar/{name}/{file}.tif" for file in ("before", "after", "gt")))
    for name in ("bern", "ottawa", "sanfrancisco")
]
PLAIN = {
    name: ("--method", name)
    for name in ("absdiff", "cva", "rcva", "sam", "logratio", "ratio", "pca", "pca-kmeans", "ssim", "mad",
                 "irmad", "sfa", "isfa")
}  # fmt: skip
OPTICAL = {
    "auto": (),
    **PLAIN,
    "cva, bands scaled": ("--method", "cva", "--set", "difference.cva.standardize=true"),
    "cva, bands scaled, aligned": (
        "--method", "cva", "--set", "difference.cva.standardize=true", "--set", "diff.align=true"
    ),
    "irmad, aligned": ("--method", "irmad", "--set", "diff.align=true"),
}  # fmt: skip
RADAR = {
    "auto": (),
    **{
        name: ("--method", name) for name in ("logratio", "ratio", "absdiff", "omnibus", "ssim", "pca-kmeans")
    },
}
CHI_SQUARE = ("mad", "irmad", "irmad, aligned", "sfa", "isfa")
"""Methods whose squared magnitude is a chi-square statistic where nothing changed."""

LEVELS: dict[str, dict[str, Any]] = {
    "robust": {},
    "otsu": {},
    **{f"chi2 {alpha:g}": {"alpha": alpha} for alpha in (1e-2, 1e-4, 1e-8)},
    **{f"fdr {alpha:g}": {"alpha": alpha} for alpha in (0.05, 1e-2, 1e-3, 1e-4, 1e-8)},
}
FIGURES = ("auc", "best_f1", "f1_otsu", "f1", "kappa")


def fingerprint() -> str:
    """Return a checksum of the package's code."""
    digest = hashlib.sha256()
    root = Path(cd.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


@dataclass(frozen=True)
class Kept:
    """Measurements on disk, so that an interrupted one goes on; those of other code are not taken."""

    folder: Path
    code: str

    def get(self, name: str, key: object, make: Callable[[], dict]) -> dict:
        """Return a measurement, from disk where the same code has made it for the same ``key``."""
        file = self.folder / f"{name.replace(' ', '-').replace(',', '')}.json"
        key = [self.code, json.loads(json.dumps(key))]
        if file.is_file():
            known = json.loads(file.read_text(encoding="utf-8"))
            if known["key"] == key:
                return known
        made = {"key": key, **make()}
        self.folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(made), encoding="utf-8")
        return made


def command(*words: object) -> dict:
    """Run a command of changedet and return the line it has for programs; its refusal where it refuses."""
    line = [sys.executable, "-m", "changedet", *map(str, words), "--json", "-q"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode == 2:
        return {"refused": done.stderr.strip()}
    if done.returncode:
        sys.exit(f"changedet {' '.join(map(str, words))}\n{done.stderr}")
    return json.loads(done.stdout)


def scored(data: Path, pair: Pair, options: tuple[str, ...]) -> dict:
    """Run ``diff`` on a pair and return its scores by pixel."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        told = command("diff", data / pair.before, data / pair.after, "-o", out, *pair.options, *options)
        if "refused" in told:
            return {"name": pair.name, "refused": told["refused"]}
        record = json.loads((out / "run.json").read_text(encoding="utf-8"))
        magnitude, found = np.abs(band(out / "magnitude.tif")), band(out / "change.tif") == 1
    shift = record["shift"]
    moved = float(np.hypot(shift["dy_px"], shift["dx_px"])) if shift.get("applied") else 0.0
    return {
        "name": pair.name,
        **scores(data, pair, magnitude, found),
        "level": told["threshold"].get("threshold"),
        "objects": told["counts"]["objects"],
        "moved_px": moved,
        "f1_at": at_levels(data, pair, magnitude, record["statistics"].get("dof")),
    }


def scores(data: Path, pair: Pair, magnitude: np.ndarray, found: np.ndarray) -> dict:
    """Return the scores of a magnitude and of what was marked."""
    truth, valid = truth_of(data, pair, magnitude)
    level, _ = cd.threshold(image_of(magnitude), "otsu")
    ours = pixel_scores(found, truth, valid, score=magnitude, empty_f1=0.0)
    return {
        "auc": ours["auc"],
        "best_f1": best_f1(magnitude[valid], truth[valid]),
        "f1_otsu": pixel_scores(magnitude > level, truth, valid)["f1"],
        "kappa_otsu": pixel_scores(magnitude > level, truth, valid)["kappa"],
        **{name: ours[name] for name in ("f1", "kappa", "precision", "recall")},
        "share": float(truth[valid].mean()),
    }


def at_levels(data: Path, pair: Pair, magnitude: np.ndarray, dof: float | None) -> dict[str, float]:
    """Return F1 at several levels, no object dropped, where the magnitude is the root of a chi-square."""
    if dof is None:
        return {}
    truth, valid = truth_of(data, pair, magnitude)
    out = {}
    for name, params in LEVELS.items():
        method = name.split()[0]
        square = method in ("chi2", "fdr")
        image = image_of(magnitude**2 if square else magnitude).assign_attrs(dof=dof)
        level, _ = cd.threshold(image, method, **params)
        marked = magnitude > (np.sqrt(level) if square else level)
        out[name] = pixel_scores(marked, truth, valid)["f1"]
    return out


def truth_of(data: Path, pair: Pair, magnitude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what changed, and the pixels at which that is known and comparable."""
    truth = band(data / pair.truth) > 0
    valid = np.isfinite(magnitude)
    if pair.unchanged is not None:
        valid &= truth | (band(data / pair.unchanged) > 0)
    return truth, valid


def image_of(values: np.ndarray) -> xr.DataArray:
    """Return a plane as the library takes it."""
    return xr.DataArray(values, dims=("y", "x"))


def band(path: Path) -> np.ndarray:
    """Read the first band of a raster."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path) as dataset:
            return dataset.read(1)


def best_f1(score: np.ndarray, truth: np.ndarray) -> float:
    """Return the highest F1 that any threshold gives."""
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(truth[order])
    f1 = 2 * hits / (np.arange(1, truth.size + 1) + truth.sum())
    last = np.append(np.diff(score[order]) != 0, True)  # ties are taken together
    return float(f1[last].max())


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows))
