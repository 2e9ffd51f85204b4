"""File names: which acquisition a file belongs to, and which part of it the file holds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from changedet.scenes import SAR_BANDS, MaskKind
from changedet.sensors import OPTICAL_BANDS

_RESOLUTION = re.compile(r"^\d{2,3}m$", re.IGNORECASE)
_BAND = re.compile(r"^b\d{1,2}a?$", re.IGNORECASE)
_RESOLUTION_FOLDER = re.compile(r"^R\d{2}m$", re.IGNORECASE)
_PLANET_ID = re.compile(r"^\d{8}_\d{6}_(?:\d{2}_)?[0-9a-f]{4}(?=_3[ab]_|_udm2|$)", re.IGNORECASE)
_TRAILING = frozenset({"cropped", "clip", "clipped", "cog"})
_MASKS: tuple[tuple[str, MaskKind], ...] = (
    ("dn_udm", "udm"),
    ("qa_pixel", "qa_pixel"),
    ("udm2", "udm2"),
    ("udm", "udm"),
    ("mask", "nonzero"),
    ("bqa", "bqa"),
    ("scl", "scl"),
)


@dataclass(frozen=True)
class Name:
    """What a file name says.

    Parameters
    ----------
    path : the file
    key : (folder, name) that the files of one acquisition share
    band : band or polarisation named at the end, None where there is none
    mask : convention of a mask named at the end, None for images
    """

    path: Path
    key: tuple[str, str]
    band: str | None = None
    mask: MaskKind | None = None

    @property
    def stem(self) -> str:
        """File name without its ending."""
        return stem_of(self.path)


def stem_of(path: Path) -> str:
    """Return a file name without its ending (only endings of rasters are taken off)."""
    known = path.suffix.lower() in RASTER_SUFFIXES
    return path.stem if known else path.name


RASTER_SUFFIXES = frozenset(
    {".tif", ".tiff", ".jp2", ".vrt", ".png", ".jpg", ".jpeg", ".bmp", ".img", ".dat", ".bin", ".bsq", ".raw"}
)
"""Endings that are taken off a name; others are part of it."""


def read_name(path: Path) -> Name:
    """Split a file name into the acquisition and the part.

    >>> read_name(Path("a/T52TFM_20240101T021459_B02_10m.tif")).key
    ('a', 'T52TFM_20240101T021459')
    >>> read_name(Path("a/LC08_L2SP_001_20201031_02_T2_SR_B2.TIF")).band
    'B2'
    >>> read_name(Path("a/scene_udm2.tif")).mask
    'udm2'
    """
    stem = stem_of(path)
    folder = path.parent
    while _RESOLUTION_FOLDER.match(folder.name):
        folder = folder.parent
    tokens, band, mask = _strip(re.split(r"([_\-. ])", stem))
    key = "".join(tokens).strip("_-. ")
    planet = _PLANET_ID.match(stem)
    if planet:
        key = planet[0]
    return Name(path, (str(folder), key or folder.name), band, mask)


def _strip(tokens: list[str]) -> tuple[list[str], str | None, MaskKind | None]:
    """Take band, resolution and mask off the end of a split name (separators are tokens too)."""
    band = mask = None
    while tokens:
        last = tokens[-1]
        if _RESOLUTION.match(last) or last.lower() in _TRAILING:
            tokens = tokens[:-2]
            continue
        kind, width = _mask_at_end(tokens)
        if mask is None and band is None and kind is not None:
            mask, tokens = kind, tokens[:-width]
            continue
        if band is None and _is_band(last):
            band, tokens = (last if mask is None else ""), tokens[:-2]
            if tokens and tokens[-1].upper() in ("SR", "TOA", "BOA"):
                tokens = tokens[:-2]
            continue
        break
    return tokens, band or None, mask


def _mask_at_end(tokens: list[str]) -> tuple[MaskKind | None, int]:
    """Return the mask convention that a split name ends in, and how many tokens it takes."""
    tail = "".join(tokens[-3:]).lower()
    for word, kind in _MASKS:
        parts = 2 * (word.count("_") + 1)
        if ("_" in word and tail == word) or tokens[-1].lower() == word:
            return kind, parts
    return None, 0


def _is_band(token: str) -> bool:
    """Return True where a token names one band or polarisation."""
    low = token.lower()
    return bool(_BAND.match(low)) or low in OPTICAL_BANDS or low in SAR_BANDS


def natural(text: str) -> tuple[object, ...]:
    """Return a key that sorts numbers inside names by value.

    >>> sorted(["B10", "B2"], key=natural)
    ['B2', 'B10']
    """
    return tuple((0, int(t), "") if t.isdigit() else (1, 0, t.lower()) for t in re.split(r"(\d+)", text))
