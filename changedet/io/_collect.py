"""From paths to groups of files, one group an acquisition; nothing is opened here but folders."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from changedet.errors import MissingInputError
from changedet.io._names import Name, natural, read_name
from changedet.io.safety import local_path, refuse_virtual
from changedet.sensors import Sensor, recognise

Inputs = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
"""One path or several: files, folders, globs."""

Key = tuple[str, str]

_SEARCHED = (".jp2", ".tif", ".tiff", ".vrt")
"""Endings that a search of a folder takes for rasters (and ENVI files, which have a ``.hdr`` beside them)."""


@dataclass
class Group:
    """Files of one acquisition.

    Parameters
    ----------
    images, masks : names of the files
    skipped : files that belong to it but hold no image band
    """

    images: list[Name] = field(default_factory=list)
    masks: list[Name] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def collect(inputs: Inputs) -> dict[Key, Group]:
    """Return the groups of files that the inputs stand for, in the order given.

    Raises
    ------
    MissingInputError, UnsafePathError
        An input is not there, matches nothing, or may not be opened.
    """
    files = _files(inputs)
    groups: dict[Key, Group] = {}
    masks: dict[Key, list[Name]] = {}
    skipped: list[tuple[Name, bool]] = []
    for path, named in files.items():
        name = read_name(path)
        if sensor_of_name(path).skips(name.stem):
            skipped.append((name, named))
        elif name.mask is not None:
            masks.setdefault(name.key, []).append(name)
        else:
            groups.setdefault(name.key, Group()).images.append(name)
    for key, found in masks.items():
        group = groups.setdefault(key, Group())
        # a mask that was named itself, without an image to go with it, is meant as an image
        alone = not group.images and all(files[n.path] for n in found)
        (group.images if alone else group.masks).extend(found)
    groups = {key: group for key, group in groups.items() if group.images}
    _place_skipped(groups, skipped)
    _add_sidecars(groups)
    return groups


def _place_skipped(groups: dict[Key, Group], skipped: list[tuple[Name, bool]]) -> None:
    """Say which scene leaves out which file; a file that was named itself and has no scene is an image."""
    scenes = list(groups.items())
    for name, named in skipped:
        owners = [g for (folder, stem), g in scenes if folder == name.key[0] and name.stem.startswith(stem)]
        for group in owners:
            group.skipped.append(name.path.name)
        if named and not owners:
            groups.setdefault(name.key, Group()).images.append(name)


def sensor_of_name(path: Path, said: str = "") -> Sensor:
    """Recognise the sensor from the file name, what tags say, the product folder, the folder."""
    safe = next((p.name for p in path.parents if p.name.upper().endswith(".SAFE")), "")
    return recognise(read_name(path).stem, said, safe, path.absolute().parent.name)


def _files(inputs: Inputs) -> dict[Path, bool]:
    """Return files in the order given, each once; True where the user named the file itself."""
    out: dict[Path, bool] = {}
    first: dict[Path, Path] = {}
    for one in [inputs] if isinstance(inputs, str | os.PathLike) else list(inputs):
        for path in _expand(os.fspath(one)):
            folder = path.is_dir()
            for file in _search(path) if folder else [path]:
                known = first.setdefault(file.resolve(), file)
                out[known] = out.get(known, False) or not folder
    if not out:
        raise MissingInputError("no input was given; wanted files, folders or patterns of scenes")
    return out


def _expand(text: str) -> list[Path]:
    """Return the paths that one input stands for."""
    refuse_virtual(text)
    if not os.path.lexists(text) and glob.has_magic(text):
        found = sorted(glob.glob(text, recursive=True), key=natural)
        if not found:
            raise MissingInputError(f"{text} matches no file; wanted scenes; check the pattern")
        return list(dict.fromkeys(_pixels_of(local_path(f)) for f in found))
    return [_pixels_of(local_path(text))]


def _pixels_of(path: Path) -> Path:
    """Return the pixel file where an ENVI header was given."""
    if path.suffix.lower() != ".hdr":
        return path
    for candidate in (path.with_suffix(""), *(path.with_suffix(s) for s in (".img", ".dat", ".bin", ".bsq"))):
        if candidate.is_file():
            return candidate
    return path


def _search(folder: Path) -> list[Path]:
    """Return the rasters under a folder (hidden files and folders are passed over)."""
    found = []
    for root, folders, files in os.walk(folder):
        folders[:] = sorted((f for f in folders if not f.startswith(".")), key=natural)
        headers = {Path(f).stem.lower() for f in files if f.lower().endswith(".hdr")}
        for file in sorted(files, key=natural):
            low = file.lower()
            envi = not low.endswith(".hdr") and (low in headers or Path(low).stem in headers)
            if not file.startswith(".") and (low.endswith(_SEARCHED) or envi):
                found.append(local_path(Path(root) / file))
    if not found:
        raise MissingInputError(
            f"{folder} holds no raster ({', '.join(_SEARCHED)} or ENVI); wanted scenes; give another folder"
        )
    return found


def _add_sidecars(groups: dict[Key, Group]) -> None:
    """Find masks that lie beside the images but were not given."""
    listed: dict[Path, list[Name]] = {}
    for key, group in groups.items():
        known = {n.path.resolve() for n in group.masks + group.images}
        for folder in dict.fromkeys(n.path.parent for n in group.images):
            if folder not in listed:
                names = (read_name(p) for p in sorted(folder.iterdir()) if p.name.lower().endswith(_SEARCHED))
                listed[folder] = [n for n in names if n.mask is not None]
            for name in listed[folder]:
                if name.key == key and name.path.resolve() not in known:
                    group.masks.append(replace(name, path=local_path(name.path)))
