"""Mask conventions: what the values of a sidecar or a QA band say of a pixel, as :class:`Quality` flags."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from changedet.scenes import MaskKind, Quality

Flags = npt.NDArray[np.uint8]

MASK_BANDS: dict[str, MaskKind] = {
    "qa_pixel": "qa_pixel",
    "bqa": "bqa",
    "scl": "scl",
    "udm2": "nonzero",
    "mask": "nonzero",
}
"""Band names that are masks, not image bands (``qa`` is a Landsat kind, see :func:`landsat_kind`)."""

WORDS: dict[str, str] = {
    "udm2": "Planet UDM2 (band 1 = clear)",
    "udm": "Planet UDM bits",
    "nonzero": "non-zero = unusable",
    "qa_pixel": "Landsat Collection 2 QA_PIXEL bits",
    "bqa": "Landsat Collection 1 BQA bits",
    "scl": "Sentinel-2 scene classes",
    "dataset": "the file's own mask or alpha band",
}

_SCL = {
    0: Quality.NODATA,
    1: Quality.SATURATED,
    3: Quality.SHADOW,
    6: Quality.WATER,
    8: Quality.CLOUD,
    9: Quality.CLOUD,
    10: Quality.CLOUD,
    11: Quality.SNOW,
}


def decode(kind: MaskKind, stored: npt.NDArray[Any]) -> Flags:
    """Turn stored mask values into quality flags.

    Parameters
    ----------
    kind : convention
    stored : (band, y, x) array as read

    Returns
    -------
    (y, x) uint8 array of :class:`Quality` flags, 0 = usable
    """
    return _DECODERS[kind](_integers(stored))


def _integers(stored: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return mask values as integers (QA bands are sometimes stored as floats; what is not finite is 0)."""
    if np.issubdtype(stored.dtype, np.floating):
        stored = np.where(np.isfinite(stored), stored, 0)
    return stored.astype(np.int64)


def _flag(out: Flags, where: npt.NDArray[np.bool_], quality: Quality) -> None:
    """Set a flag in the result being built."""
    out[where] |= np.uint8(quality)


def _nonzero(stored: npt.NDArray[np.int64]) -> Flags:
    """Any non-zero value makes a pixel unusable."""
    return np.where((stored != 0).any(axis=0), np.uint8(Quality.MASKED), np.uint8(0))


def _udm2(stored: npt.NDArray[np.int64]) -> Flags:
    """Planet UDM2: 1 clear, 2 snow, 3 shadow, 4 light haze, 5 heavy haze, 6 cloud, 7 confidence, 8 UDM bits.

    What is not clear is unusable; the other bands only say why.
    """
    if stored.shape[0] < 8:
        return _nonzero(stored)
    out = np.zeros(stored.shape[1:], np.uint8)
    _flag(out, stored[1] != 0, Quality.SNOW)
    _flag(out, stored[2] != 0, Quality.SHADOW)
    _flag(out, (stored[4] != 0) | (stored[5] != 0), Quality.CLOUD)
    _flag(out, stored[7] & 1 != 0, Quality.NODATA)
    _flag(out, stored[0] == 0, Quality.MASKED)
    return out


def _udm(stored: npt.NDArray[np.int64]) -> Flags:
    """First Planet UDM: bit 0 blank, bit 1 cloud, higher bits missing or suspect data in a band."""
    out = np.zeros(stored.shape[1:], np.uint8)
    _flag(out, stored[0] & 1 != 0, Quality.NODATA)
    _flag(out, stored[0] & 2 != 0, Quality.CLOUD)
    _flag(out, stored[0] & ~3 != 0, Quality.MASKED)
    return out


def _qa_pixel(stored: npt.NDArray[np.int64]) -> Flags:
    """Landsat Collection 2: bits 0 fill, 1 dilated cloud, 2 cirrus, 3 cloud, 4 shadow, 5 snow, 7 water."""
    bits = stored[0]
    out = np.zeros(bits.shape, np.uint8)
    _flag(out, bits & 1 != 0, Quality.NODATA)
    _flag(out, bits & 0b1110 != 0, Quality.CLOUD)
    _flag(out, bits >> 4 & 1 != 0, Quality.SHADOW)
    _flag(out, bits >> 5 & 1 != 0, Quality.SNOW)
    _flag(out, bits >> 7 & 1 != 0, Quality.WATER)
    return out


def _bqa(stored: npt.NDArray[np.int64]) -> Flags:
    """Landsat Collection 1: bits 0 fill, 2-3 saturated bands, 4 cloud, 7-8 shadow, 9-10 snow, 11-12 cirrus.

    The two-bit confidences count where they are high (3).
    """
    bits = stored[0]
    out = np.zeros(bits.shape, np.uint8)
    _flag(out, bits & 1 != 0, Quality.NODATA)
    _flag(out, bits >> 2 & 3 != 0, Quality.SATURATED)
    _flag(out, (bits >> 4 & 1 != 0) | (bits >> 11 & 3 == 3), Quality.CLOUD)
    _flag(out, bits >> 7 & 3 == 3, Quality.SHADOW)
    _flag(out, bits >> 9 & 3 == 3, Quality.SNOW)
    return out


def _scl(stored: npt.NDArray[np.int64]) -> Flags:
    """Sentinel-2 scene classes (class 2, dark areas, stays usable: water and wet soil fall under it)."""
    table: Flags = np.zeros(256, np.uint8)
    for value, quality in _SCL.items():
        table[value] = quality
    return np.asarray(table[np.clip(stored[0], 0, 255)], np.uint8)


def _dataset(stored: npt.NDArray[np.int64]) -> Flags:
    """GDAL mask: 0 is no data."""
    return np.where(stored[0] == 0, np.uint8(Quality.NODATA), np.uint8(0))


_DECODERS = {
    "nonzero": _nonzero,
    "udm2": _udm2,
    "udm": _udm,
    "qa_pixel": _qa_pixel,
    "bqa": _bqa,
    "scl": _scl,
    "dataset": _dataset,
}


def landsat_kind(stored: npt.NDArray[Any], *, oli: bool) -> MaskKind:
    """Tell Collection 2 QA_PIXEL from Collection 1 BQA by the bits that only one of them uses.

    Every real pixel of Collection 2 has cirrus confidence in bits 14-15 (OLI) or snow confidence in bits
    12-13 (TM, ETM+); Collection 1 ends at bit 12 (OLI) or 10.
    """
    floor = 1 << 13 if oli else 1 << 12
    return "qa_pixel" if int(_integers(stored).max(initial=0)) >= floor else "bqa"
