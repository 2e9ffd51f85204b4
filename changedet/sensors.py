"""Sensor profiles: one record each. Adding a sensor is one record here and one fixture in the tests.

Band names are the STAC common names; a file's own names are mapped by :data:`ALIASES` of the profile.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

OPTICAL_BANDS = (
    "coastal blue green red rededge1 rededge2 rededge3 nir nir08 nir09 cirrus swir16 swir22 pan".split()
)


@dataclass(frozen=True)
class Sensor:
    """What is known of a sensor's files.

    Parameters
    ----------
    name : the contract's name
    pattern : regular expression on the file or folder name (case-insensitive)
    bands : name in files (lower case) → common name
    order : common names by band count, for files that name nothing
    scale, offset : stored value → reflectance (or linear power), where the file does not say
    gsd_m : nominal ground sample distance
    """

    name: str
    pattern: str
    bands: dict[str, str] = field(default_factory=dict)
    order: dict[int, tuple[str, ...]] = field(default_factory=dict)
    scale: float | None = None
    offset: float = 0.0
    gsd_m: float = 10.0

    def matches(self, name: str) -> bool:
        """Return True where a file or folder name looks like this sensor's."""
        return re.search(self.pattern, name, re.IGNORECASE) is not None


_S2 = {
    "b1": "coastal", "b2": "blue", "b3": "green", "b4": "red", "b5": "rededge1", "b6": "rededge2",
    "b7": "rededge3", "b8": "nir", "b8a": "nir08", "b9": "nir09", "b10": "cirrus", "b11": "swir16",
    "b12": "swir22",
}  # fmt: skip
_S2 |= {f"b0{k[1:]}": v for k, v in _S2.items() if len(k) == 2 or k == "b8a"}
_OLI = {
    "b1": "coastal", "b2": "blue", "b3": "green", "b4": "red", "b5": "nir08", "b6": "swir16",
    "b7": "swir22", "b8": "pan", "b9": "cirrus",
}  # fmt: skip
_TM = {"b1": "blue", "b2": "green", "b3": "red", "b4": "nir08", "b5": "swir16", "b7": "swir22", "b8": "pan"}
_SAR = {p: p for p in ("vv", "vh", "hh", "hv")}
_PLANET = {
    4: ("blue", "green", "red", "nir"),
    8: ("coastal", "blue", "green1", "green", "yellow", "red", "rededge1", "nir"),
}

SENSORS: tuple[Sensor, ...] = (
    Sensor(
        "sentinel-2",
        r"(^|[_\W])S2[ABC]([_\W]|$)|MSIL[12]|sentinel-?2|T\d{2}[A-Z]{3}_\d{8}T",
        _S2,
        {},
        1e-4,
        0,
        10,
    ),
    Sensor("sentinel-1", r"(^|[_\W])S1[ABC]([_\W]|$)|RTC-S1|sentinel-?1", _SAR, {}, 1.0, 0, 10),
    Sensor("landsat-9", r"(^|[_\W])L[CO]09([_\W]|$)|(^|[_\W])L9([_\W]|$)", _OLI, {}, None, 0, 30),
    Sensor("landsat-8", r"(^|[_\W])L[CO]08([_\W]|$)|(^|[_\W])L8([_\W]|$)", _OLI, {}, None, 0, 30),
    Sensor("landsat-7", r"(^|[_\W])LE07([_\W]|$)|(^|[_\W])L7([_\W]|$)", _TM, {}, None, 0, 30),
    Sensor("landsat-5", r"(^|[_\W])LT05([_\W]|$)|(^|[_\W])L5([_\W]|$)", _TM, {}, None, 0, 30),
    Sensor(
        "planetscope",
        r"\d{8}_\d{6}_(\d{2}_)?[0-9a-f]{4}([_\W]|$)|PSScene|AnalyticMS",
        {},
        _PLANET,
        1e-4,
        0,
        3,
    ),
    Sensor("cbers", r"CBERS", {"b1": "blue", "b2": "green", "b3": "red", "b4": "nir"}, {}, None, 0, 20),
)
GENERIC = Sensor("generic", r"$^")


def recognise(*names: str) -> Sensor:
    """Return the first profile that matches one of the names (file, parent folder), else ``generic``."""
    for name in names:
        for sensor in SENSORS:
            if sensor.matches(name):
                return sensor
    return GENERIC


def common_name(text: str, sensor: Sensor = GENERIC) -> str:
    """Return the common name of a band description; what is not known is kept as it is.

    >>> common_name("B08", recognise("S2A_MSIL2A_20240101"))
    'nir'
    >>> common_name("NIR")
    'nir'
    """
    key = text.strip().lower()
    if key in sensor.bands:
        return sensor.bands[key]
    return key if key in OPTICAL_BANDS or key in _SAR else _SYNONYMS.get(key, text.strip())


_SYNONYMS = {
    "b": "blue", "g": "green", "r": "red", "n": "nir", "near infrared": "nir", "near-infrared": "nir",
    "swir1": "swir16", "swir2": "swir22", "panchromatic": "pan", "red edge": "rededge1",
    "rededge": "rededge1",    "coastal blue": "coastal", "coastal aerosol": "coastal",
}  # fmt: skip
