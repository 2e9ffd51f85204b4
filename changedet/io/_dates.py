"""When a scene was acquired: from what the user says, from tags, from names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from changedet.errors import DateError

FIRST_YEAR, LAST_YEAR = 1972, 2100
"""Years between which an acquisition date is believed."""

_ACQUIRED = (
    "ACQUISITIONDATETIME",
    "ACQUISITION_DATETIME",
    "ACQUISITION_DATE",
    "ACQUISITIONDATE",
    "DATATAKE_1_DATATAKE_SENSING_START",
    "SENSING_TIME",
    "DATE_ACQUIRED",
    "DATETIME",
    "DATE",
    "PRODUCT_START_TIME",
)
_PATTERNS = (
    # 20240101T021459, 20240101_021459, 20240101021459
    r"(?<!\d)(?P<Y>\d{4})(?P<m>\d\d)(?P<d>\d\d)[T_\-]?(?P<H>\d\d)(?P<M>\d\d)(?P<S>\d\d)(?!\d)",
    # 2024-01-01-02-14-59, 2024-01-01T02:14:59, 2024_01_01
    r"(?<!\d)(?P<Y>\d{4})(?P<s>[-_.:])(?P<m>\d\d)(?P=s)(?P<d>\d\d)"
    r"(?:[T_\- ](?P<H>\d\d)[-:_h](?P<M>\d\d)[-:_m](?P<S>\d\d))?(?!\d)",
    # 20240101
    r"(?<!\d)(?P<Y>\d{4})(?P<m>\d\d)(?P<d>\d\d)(?!\d)",
)
_LANDSAT_ID = re.compile(r"L[A-Z]\d\d{6}(?P<Y>\d{4})(?P<j>\d{3})[A-Z]{3}\d\d", re.IGNORECASE)

Dated = tuple[np.datetime64 | None, str]
"""A date (None where unknown) and where it comes from, in words."""


def to_date(text: str) -> np.datetime64 | None:
    """Read an ISO 8601, TIFF or compact date; None where it is none.

    >>> str(to_date("2017:08:31 17:27:54"))
    '2017-08-31T17:27:54.000000000'
    """
    cleaned = text.strip()
    tiff = re.fullmatch(r"(\d{4}):(\d\d):(\d\d)(.*)", cleaned)
    if tiff:
        cleaned = f"{tiff[1]}-{tiff[2]}-{tiff[3]}{tiff[4]}"
    if re.fullmatch(r"\d{4}(-\d\d)?", cleaned):
        return None
    try:
        moment = datetime.fromisoformat(cleaned)
    except ValueError:
        return None
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    return _believed(moment)


def _believed(moment: datetime) -> np.datetime64 | None:
    """Return a moment whose year can be an acquisition's."""
    if not FIRST_YEAR <= moment.year <= LAST_YEAR:
        return None
    return np.datetime64(moment, "ns")


def in_name(text: str) -> np.datetime64 | None:
    """Return the first date of a name: sensors write the acquisition before the processing.

    >>> str(in_name("LC08_L1TP_013032_20180131_20180207_01_T1"))[:10]
    '2018-01-31'
    """
    landsat = _LANDSAT_ID.search(text)
    if landsat:
        try:
            return _believed(datetime.strptime(landsat["Y"] + landsat["j"], "%Y%j"))
        except ValueError:
            return None
    found: list[tuple[int, int, np.datetime64]] = []
    for rank, pattern in enumerate(_PATTERNS):
        for match in re.finditer(pattern, text):
            moment = _moment(match.groupdict())
            if moment is not None:
                found.append((match.start(), rank, moment))
    return min(found)[2] if found else None


def _moment(parts: Mapping[str, str | None]) -> np.datetime64 | None:
    """Build a moment from the parts of a match; None where they are no date."""
    numbers = [int(parts.get(k) or 0) for k in ("Y", "m", "d", "H", "M", "S")]
    try:
        return _believed(datetime(*numbers))  # type: ignore[arg-type]
    except ValueError:
        return None


def find_date(
    path: Path,
    tags: Mapping[str, str],
    given: Mapping[str, str] | str | None = None,
    *,
    names: Iterable[str] = (),
) -> Dated:
    """Return the acquisition date of a file and its source in words.

    What the user gives wins; then tags that name the acquisition; then the earlier of the file's own
    time stamp and the date in its name, because a file is made after the picture was taken; then the folder.

    Parameters
    ----------
    path : the file
    tags : its tags, keys in upper case
    given : name → date text, or a ``strptime`` pattern over the name (see :func:`parse_given`)
    names : further names under which a date may be given (the scene's id, its other files)

    Raises
    ------
    DateError
        A given date cannot be read.
    """
    said = _given(path, given, [str(path), path.name, path.stem, *names, "*"])
    if said is not None:
        return said, "given with --date"
    tagged = _tagged(tags)
    if tagged is not None:
        return tagged
    stamp = to_date(tags.get("TIFFTAG_DATETIME", ""))
    named = in_name(path.name)
    if stamp is not None and named is not None:
        return _earlier(stamp, named)
    if stamp is not None:
        return stamp, "tag TIFFTAG_DATETIME"
    if named is not None:
        return named, "file name"
    foldered = in_name(path.parent.name)
    if foldered is not None:
        return foldered, "folder name"
    return None, _why_not(path)


def _tagged(tags: Mapping[str, str]) -> Dated | None:
    """Return the date of the first tag that names an acquisition."""
    for key in _ACQUIRED:
        text = tags.get(key, "")
        if key == "DATE_ACQUIRED" and text and "SCENE_CENTER_TIME" in tags:
            text = f"{text}T{tags['SCENE_CENTER_TIME'].strip(chr(34))[:8]}"
        moment = to_date(text)
        if moment is not None:
            return moment, f"tag {key}"
    return None


def _earlier(stamp: np.datetime64, named: np.datetime64) -> Dated:
    """Choose between a file's time stamp and the date in its name."""
    if stamp.astype("datetime64[D]") == named.astype("datetime64[D]"):
        only_day = named == named.astype("datetime64[D]")
        return (stamp, "tag TIFFTAG_DATETIME, as in the name") if only_day else (named, "file name")
    day_s, day_n = str(stamp)[:10], str(named)[:10]
    if named < stamp:
        return named, f"file name (the later tag TIFFTAG_DATETIME {day_s} is when the file was made)"
    return stamp, f"tag TIFFTAG_DATETIME (the name says {day_n}, which is later)"


def _why_not(path: Path) -> str:
    """Say why no date was found."""
    if re.fullmatch(r"\D*(19|20)\d\d\D*", path.stem):
        return (
            f"{path.name} names a year only, not a day; say which, for example --date {path.name}="
            f"{(re.search(r'(19|20)[0-9][0-9]', path.stem) or ['2020'])[0]}-07-01, or --date %Y for 1 January"
        )
    return (
        f"{path.name} has no acquisition date in its tags or its name; give one with "
        f"--date {path.name}=YYYY-MM-DD"
    )


def parse_given(date: str | Iterable[str] | Mapping[str, str] | None) -> Mapping[str, str] | str | None:
    """Read ``--date``: ``DATE``, ``NAME=DATE`` (as often as needed), or a pattern with ``%``.

    Returns
    -------
    mapping of names (``*`` for every file) to dates, a ``strptime`` pattern, or None

    Raises
    ------
    DateError
        The text is none of these.
    """
    if date is None or isinstance(date, Mapping):
        return date
    texts = [date] if isinstance(date, str) else list(date)
    if len(texts) == 1 and "%" in texts[0] and "=" not in texts[0]:
        return texts[0]
    pairs = [t.rpartition("=") for t in texts]
    return {name.strip() or "*": text.strip() for name, _, text in pairs}


def _given(path: Path, given: Mapping[str, str] | str | None, names: list[str]) -> np.datetime64 | None:
    """Return the date that the user gave for a file."""
    if given is None:
        return None
    if isinstance(given, str):
        return _by_pattern(path, given)
    for name in names:
        if name in given:
            moment = to_date(given[name])
            if moment is None:
                raise DateError(
                    f"--date {given[name]!r} for {path.name} is no date; wanted YYYY-MM-DD, between "
                    f"{FIRST_YEAR} and {LAST_YEAR}"
                )
            return moment
    return None


def _by_pattern(path: Path, pattern: str) -> np.datetime64 | None:
    """Read a date from a name with a ``strptime`` pattern, anywhere in it."""
    for start in range(len(path.stem)):
        for stop in range(len(path.stem), start, -1):
            try:
                moment = datetime.strptime(path.stem[start:stop], pattern)
            except ValueError:
                continue
            believed = _believed(moment)
            if believed is not None:
                return believed
    raise DateError(
        f"{path.name} does not hold a date as --date {pattern!r} says; wanted a strptime pattern that fits "
        f"the name, or --date {path.name}=YYYY-MM-DD"
    )
