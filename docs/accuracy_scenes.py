"""Simulated scenes on disk, made once, with what a measurement needs beside them.

A scene's folder holds ``scenes`` (files as an analyst has them, and the truth), ``distractors.gpkg``,
``notebook.gpkg`` (what a notebook finds there, which does not depend on the detector) and ``about.npz``
(which pixels were clear in truth, and which were flagged). It is made anew when the code that makes it, or a
setting of the scene, has changed. See ``make_accuracy.py``.
"""

import functools
import hashlib
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
from affine import Affine
from rasterio.features import shapes
from shapely.geometry import shape
from skimage.filters import threshold_otsu

import changedet as cd
from changedet.demo import write_scenes
from changedet.simulate import SceneSettings, Simulation, simulate

HARD = " hard"
SENSORS = tuple(f"{s}{how}" for how in ("", HARD) for s in ("submetre", "planet", "sentinel-2"))
WORKS = ("built", "quiet")
BASELINE_PX = 4
WINTER = 0.3
"""Share of the scene under ice, or of its ground under snow, from which a date is one of winter."""


@dataclass(frozen=True)
class Scene:
    """A scene on disk; its folder is laid out as the module says."""

    folder: Path

    @property
    def files(self) -> Path:
        """Folder of the images."""
        return self.folder / "scenes"

    @property
    def truth(self) -> Path:
        """What was built."""
        return self.files / "truth.geojson"

    @property
    def notebook(self) -> Path:
        """What a notebook finds."""
        return self.folder / "notebook.gpkg"

    @functools.cached_property
    def about(self) -> dict[str, np.ndarray]:
        """Arrays of ``about.npz``."""
        with np.load(self.folder / "about.npz") as held:
            return dict(held)

    @property
    def names(self) -> list[str]:
        """Ids of the scenes, in order of time."""
        return [str(name) for name in self.about["names"]]

    @property
    def transform(self) -> Affine:
        """Pixel to map."""
        return Affine(*self.about["transform"])

    @property
    def given(self) -> np.ndarray:
        """Pixels that no delivered mask flags, (time, y, x) bool."""
        return ~self._bits("mask")

    @functools.cached_property
    def usable(self) -> np.ndarray:
        """Pixels that were given and are truly free of cloud and its shadow, (time, y, x) bool."""
        return self.given & self._bits("clear")

    def _bits(self, name: str) -> np.ndarray:
        """Unpack an array of bits."""
        shape_ = tuple(self.about["shape"])
        return np.unpackbits(self.about[name], count=int(np.prod(shape_))).reshape(shape_).astype(bool)


def settings_of(sensor: str, seed: int, works: str, **changes: object) -> SceneSettings:
    """Return the settings of a scene; ``changes`` replace some of them."""
    name, hard = sensor.removesuffix(HARD), sensor.endswith(HARD)
    return SceneSettings.for_sensor(name, seed, build=works == "built", hard=hard, **changes)


def made(sensor: str, seed: int, works: str, cache: Path, **changes: object) -> Scene:
    """Return a scene, from the cache where the same code has made it; scenes of older code are removed."""
    settings = settings_of(sensor, seed, works, **changes)
    key = checksum("simulate", "demo.py", "io/raster.py", more=[repr(asdict(settings)), _source()])
    name = f"{sensor}-{seed}-{works}".replace(" ", "-")
    folder = cache / "scenes" / f"{name}-{key}"
    if folder.is_dir():
        return Scene(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for old in folder.parent.glob(f"{name}-{'[0-9a-f]' * len(key)}"):
        shutil.rmtree(old)
    part = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=folder.parent))
    try:
        written(simulate(settings), part)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return Scene(folder)


def written(simulation: Simulation, folder: Path) -> None:
    """Write a scene's folder."""
    write_scenes(simulation, folder / "scenes")
    simulation.distractors.astype({"first_date": str, "last_date": str}).to_file(folder / "distractors.gpkg")
    baseline(simulation).to_file(folder / "notebook.gpkg", layer="objects")
    days = simulation.scenes
    frozen = days.frozen | (days.ice_share > WINTER) | (days.snow_share > WINTER)
    np.savez_compressed(
        folder / "about.npz",
        names=np.array([str(name) for name in simulation.scene_names()]),
        bands=np.array(simulation.settings.bands),
        transform=np.array(tuple(simulation.transform)[:6]),
        shape=np.array(simulation.clear.shape),
        clear=np.packbits(simulation.clear),
        mask=np.packbits(simulation.mask),
        winter=frozen.to_numpy(dtype=bool),
    )


def checksum(*places: str, more: list[str] | None = None) -> str:
    """Return a checksum of parts of the package's code (of all of it where none is named), and of texts."""
    digest = hashlib.sha256()
    root = Path(cd.__file__).parent
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if not places or any(name == place or name.startswith(f"{place}/") for place in places):
            digest.update(name.encode() + path.read_bytes())
    for text in more or []:
        digest.update(text.encode())
    return digest.hexdigest()[:12]


def _source() -> str:
    """Return the code of this file."""
    return Path(__file__).read_text(encoding="utf-8")


def baseline(simulation: Simulation) -> gpd.GeoDataFrame:
    """Find changed areas as a notebook does: two medians, change vector, Otsu, polygons."""
    image = np.where(simulation.mask[:, None], np.nan, simulation.image)
    third = max(len(image) // 3, 1)
    before, after = median(image[:third]), median(image[-third:])
    magnitude = np.sqrt(((after - before) ** 2).sum(axis=0)).astype(np.float32)
    known = np.isfinite(magnitude)
    changed = known & (np.nan_to_num(magnitude) > threshold_otsu(magnitude[known]))
    found = shapes(changed.astype(np.uint8), mask=changed, connectivity=8, transform=simulation.transform)
    outlines = [shape(geometry) for geometry, _ in found]
    least = BASELINE_PX * simulation.settings.gsd_m**2 * (1 - 1e-6)
    kept = [outline for outline in outlines if outline.area >= least]
    return gpd.GeoDataFrame({"id": range(1, len(kept) + 1)}, geometry=kept, crs=simulation.crs)


def median(image: np.ndarray) -> np.ndarray:
    """Return the median over dates of what is usable, (band, y, x), NaN where nothing is."""
    ordered = np.sort(image, axis=0)  # NaN last
    count = np.isfinite(ordered).sum(axis=0)
    low, high = ((np.maximum(count, 1) - 1) // 2, np.maximum(count, 1) // 2)
    pair = [np.take_along_axis(ordered, at[None], axis=0)[0] for at in (low, high)]
    return np.where(count > 0, (pair[0] + pair[1]) / 2, np.nan)
