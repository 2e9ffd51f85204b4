"""From what the user gives (files, folders, globs) to :class:`~changedet.scenes.Scene` records.

Files of one acquisition are put together by their names, sidecar masks are found beside them, and every
decision is kept in ``Scene.why``. No pixel is read, except small samples where only the values can tell.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from changedet.errors import BandError, DateError, InputError, nearest
from changedet.io import _scale
from changedet.io._aoi import touches
from changedet.io._bands import split_names
from changedet.io._collect import Inputs, collect
from changedet.io._dates import parse_given, to_date
from changedet.io._info import grids_of, groups_of, scene_info
from changedet.io._names import natural
from changedet.io._scenes import Asked, build_scenes, names_of
from changedet.scenes import Scene

if TYPE_CHECKING:
    from shapely.geometry.base import BaseGeometry

__all__ = [
    "as_scenes",
    "between",
    "by_date",
    "find_scenes",
    "info",
    "require_dates",
    "scene_info",
    "select",
]

Day = str | np.datetime64 | None


def find_scenes(
    inputs: Inputs,
    *,
    date: str | Iterable[str] | Mapping[str, str] | None = None,
    band_names: str | Sequence[str] | None = None,
    bands: Sequence[str] | None = None,
    aoi: BaseGeometry | None = None,
    since: Day = None,
    until: Day = None,
) -> list[Scene]:
    """Recognise the scenes in files, folders (searched with their subfolders) and globs.

    Parameters
    ----------
    inputs : one path or several
    date : where files do not say: ``DATE``, ``NAME=DATE``, or a ``strptime`` pattern over the name
    band_names : names of the bands in file order, where files do not say
    bands : keep only these bands, in this order
    aoi : lon/lat geometry; scenes that do not touch it are left out
    since, until : first and last day, inclusive

    Returns
    -------
    list of Scene, by date (undated ones last), then by id

    Raises
    ------
    MissingInputError, UnreadableError, UnsafePathError
        An input is not there, is no raster, or may not be opened.
    BandError, DateError, GridError, CRSError, InputError
        Names, dates or grids inside one scene clash, or a file holds no measurements.
    """
    asked = Asked(parse_given(date), split_names(band_names))
    groups = collect(inputs)
    if isinstance(asked.date, Mapping):
        known = {n for key, group in groups.items() for n in names_of(key[1], group.images)}
        _require_known(asked.date, known)
    scenes = [s for key, group in groups.items() for s in build_scenes(key, group, asked)]
    scenes = _scale.agree(_unique_ids(scenes))
    if bands is not None:
        scenes = [select(s, bands) for s in scenes]
    if since is not None or until is not None:
        scenes = between(scenes, since, until)
    if aoi is not None:
        scenes = [s for s in scenes if touches(s.grid, aoi)]
    return sorted(scenes, key=by_date)


def _require_known(dates: Mapping[str, str], known: set[str]) -> None:
    """Refuse a date for a file that is not there: it is a slip that would go unnoticed."""
    for name in dates:
        if name != "*" and name not in known:
            raise DateError(
                f"--date speaks of {name!r}, which is not among the inputs{nearest(name, known) or '.'} "
                "Wanted NAME=YYYY-MM-DD with the name of a file or scene"
            )


def by_date(scene: Scene) -> tuple[bool, int, tuple[object, ...]]:
    """Order by date, undated last, then by id."""
    if scene.date is None:
        return True, 0, natural(scene.id)
    return False, int(np.datetime64(str(scene.date), "ns").astype(np.int64)), natural(scene.id)


def _unique_ids(scenes: list[Scene]) -> list[Scene]:
    """Put folder names before ids that repeat, as many as it takes."""
    out = scenes
    for depth in range(1, 8):
        often = Counter(s.id for s in out)
        if max(often.values(), default=0) <= 1:
            return out
        out = [
            s if often[s.id] == 1 else s.patch(id=_longer_id(old, depth))
            for s, old in zip(out, scenes, strict=True)
        ]
    twice = [k for k, n in Counter(s.id for s in out).items() if n > 1]
    raise InputError(
        f"scenes share the id {', '.join(twice)}; wanted different names; rename one of the files"
    )


def _longer_id(scene: Scene, depth: int) -> str:
    """Return an id with the names of the folders above the file."""
    folders = Path(scene.path).absolute().parent.parts[-depth:]
    return "/".join((*(f.strip("/") for f in folders), scene.id))


def select(scene: Scene, bands: Sequence[str]) -> Scene:
    """Return a scene with some of its bands.

    Raises
    ------
    BandError
        The scene has no such band.
    """
    for band in bands:
        if band not in scene.bands:
            raise BandError(
                f"{scene.id} has no band {band!r}{nearest(band, scene.bands) or '.'} It has: "
                f"{', '.join(scene.bands)}; choose with --bands, or name bands with --band-names"
            )
    kept = [(x, tuple(b for b in bands if b in x.bands)) for x in scene.layers]
    return scene.patch(layers=tuple(x.narrow(names) for x, names in kept if names))


def between(scenes: list[Scene], since: Day, until: Day) -> list[Scene]:
    """Keep the scenes from one day to another, inclusive.

    Raises
    ------
    DateError
        A bound is no date, or a scene has none.
    """
    first, last = _day(since, "--since"), _day(until, "--until")
    if last is not None and last == last.astype("datetime64[D]"):
        last += np.timedelta64(86_400_000_000_000 - 1, "ns")
    if first is not None and last is not None and first > last:
        raise DateError(f"--since {since} is after --until {until}; wanted the earlier day first")
    require_dates(scenes)
    return [
        s
        for s in scenes
        if s.date is not None and (first is None or s.date >= first) and (last is None or s.date <= last)
    ]


def _day(value: Day, option: str) -> np.datetime64 | None:
    """Read a bound of time."""
    if value is None:
        return None
    moment = to_date(str(value)[:26])
    if moment is None:
        raise DateError(f"{option} {str(value)!r} is no date; wanted YYYY-MM-DD")
    return moment


def require_dates(scenes: list[Scene]) -> None:
    """Refuse scenes without a date, and two scenes of one moment.

    Raises
    ------
    DateError
        Naming the scenes.
    """
    for scene in scenes:
        if scene.date is None:
            raise DateError(scene.why.get("date", f"{scene.id} has no date; give one with --date"))
    seen: dict[tuple[Any, str], Scene] = {}
    for scene in scenes:
        other = seen.setdefault((scene.date, scene.group), scene)
        if other is not scene:
            raise DateError(
                f"{other.path} and {scene.path} are both of {str(scene.date)[:19]}; wanted one scene a date; "
                "leave one out, or say the times with --date NAME=YYYY-MM-DDTHH:MM:SS"
            )


def info(
    inputs: Inputs | Sequence[Scene],
    *,
    date: str | Iterable[str] | Mapping[str, str] | None = None,
    band_names: str | Sequence[str] | None = None,
    tick: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Describe scenes as ``info --json`` does.

    Parameters
    ----------
    inputs : paths, or records of :func:`find_scenes`
    date, band_names : where files do not say
    tick : called with 1 after each scene

    Returns
    -------
    dict with ``scenes`` (see :func:`scene_info`), ``grids`` and ``groups``

    Raises
    ------
    ChangedetError
        As :func:`find_scenes`.
    """
    scenes = as_scenes(inputs, date=date, band_names=band_names)
    described = []
    for scene in scenes:
        described.append(scene_info(scene))
        if tick is not None:
            tick(1)
    return {"scenes": described, "grids": grids_of(scenes), "groups": groups_of(scenes)}


def as_scenes(
    inputs: Any,
    *,
    date: str | Iterable[str] | Mapping[str, str] | None = None,
    band_names: str | Sequence[str] | None = None,
) -> list[Scene]:
    """Return records as they are, and recognise paths.

    Raises
    ------
    InputError
        Paths and records are mixed.
    """
    items = [inputs] if isinstance(inputs, str | os.PathLike | Scene) else list(inputs)
    records = [s for s in items if isinstance(s, Scene)]
    paths = [s for s in items if not isinstance(s, Scene)]
    if records and paths:
        raise InputError("scenes mix paths and records; wanted one or the other")
    return records or find_scenes(paths, date=date, band_names=band_names)
