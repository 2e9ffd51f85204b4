"""Sensor profiles: one record each. Adding a sensor is one record here and one fixture in the tests.

Band names are the STAC common names; a file's own names are mapped by :data:`ALIASES` of the profile.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

OPTICAL_BANDS = (
    "coastal blue green red rededge1 rededge2 rededge3 nir nir08 nir09 cirrus swir16 swir22 pan".split()
)


@dataclass(frozen=True)
class Rule:
    """Stored value → reflectance for files whose name matches.

    Parameters
    ----------
    pattern : regular expression on the file or folder name (case-insensitive)
    scale, offset : reflectance = stored · scale + offset
    words : what the rule knows, for the report
    """

    pattern: str
    scale: float
    offset: float
    words: str


@dataclass(frozen=True)
class Sensor:
    """What is known of a sensor's files.

    Parameters
    ----------
    name : the contract's name
    pattern : regular expression on the file or folder name (case-insensitive)
    bands : name in files (lower case) → common name
    order : common names by band count, for files that name nothing
    rules : stored value → reflectance, the first that matches the name; none means digital numbers
    nodata : stored value of fill in integer files that declare none
    skipped : regular expression on file stems that are no image bands (auxiliary, thermal, quick looks)
    gsd_m : nominal ground sample distance
    """

    name: str
    pattern: str
    bands: dict[str, str] = field(default_factory=dict)
    order: dict[int, tuple[str, ...]] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    nodata: float | None = None
    skipped: str = r"$^"
    gsd_m: float = 10.0

    def matches(self, name: str) -> bool:
        """Return True where a file or folder name looks like this sensor's."""
        return re.search(self.pattern, name, re.IGNORECASE) is not None

    def skips(self, stem: str) -> bool:
        """Return True where a file of this sensor is no image band."""
        return re.search(self.skipped, stem, re.IGNORECASE) is not None

    def rule(self, name: str) -> Rule | None:
        """Return the first rule that a name (``folder/stem``) matches, None where there is none."""
        for rule in self.rules:
            if re.search(rule.pattern, name, re.IGNORECASE):
                return rule
        return None


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


_S2_RULES = (
    Rule(
        r"_N0[4-9]\d\d(_|$)|_N[1-9]\d{3}(_|$)",
        1e-4,
        -0.1,
        "Sentinel-2 processing baseline 04.00 or later in the name: 1e-4 and an offset of -1000",
    ),
    Rule(r"", 1e-4, 0.0, "Sentinel-2 quantification 10000, no offset known"),
)
_LANDSAT_L2 = Rule(r"_SR_B\d|_L2S[PR]_", 2.75e-5, -0.2, "Landsat Collection 2 surface reflectance")
_OLI_RULES = (
    _LANDSAT_L2,
    Rule(
        r"L[CO]0[89]_L1\w\w_|LC8\d{13}",
        2e-5,
        -0.1,
        "Landsat 8/9 Level 1 reflectance at the top of the atmosphere, not corrected for the sun's height",
    ),
)
_LANDSAT_SKIPPED = (
    r"_ST_\w+$|_QA_RADSAT$|_SR_QA_AEROSOL$|_SR_CLOUD_QA$|_SR_ATMOS_OPACITY$|_(SAA|SZA|VAA|VZA)$"
)
_OLI_SKIPPED = _LANDSAT_SKIPPED + r"|_B1[01]$"
_TM_SKIPPED = _LANDSAT_SKIPPED + r"|_B6(_VCID_[12])?$"
_S2_SKIPPED = r"(^|_)(TCI|AOT|WVP|PVI|CLD|SNW|CLDPRB|SNWPRB)(_\d\dm)?$|MSK_\w+"
_S1_SKIPPED = r"inciden(t|ce)|shadow|layover|(^|[_\W])(area|lia|inc)(_|$)"
_PLANET_RULES = (
    Rule(r"_SR(_|$)", 1e-4, 0.0, "PlanetScope surface reflectance (1e-4)"),
    Rule(r"^(?!.*AnalyticMS)(?!.*Visual)", 1e-4, 0.0, "PlanetScope reflectance taken as 1e-4 (assumed)"),
)


def _landsat(number: int, letters: str, *, oli: bool) -> Sensor:
    """Build the profile of one Landsat."""
    return Sensor(
        f"landsat-{number}",
        rf"(^|[_\W])L[{letters}]0{number}([_\W]|$)|(^|[_\W])L[{letters}]{number}\d{{13}}"
        rf"|(^|[_\W])L{number}([_\W]|$)|LANDSAT_?-?{number}",
        _OLI if oli else _TM,
        rules=_OLI_RULES if oli else (_LANDSAT_L2,),
        nodata=0,
        skipped=_OLI_SKIPPED if oli else _TM_SKIPPED,
        gsd_m=30,
    )


SENSORS: tuple[Sensor, ...] = (
    Sensor(
        "sentinel-2",
        r"(^|[_\W])S2[ABCD]?([_\W]|$)|MSIL[12]|sentinel-?2|(^|[_\W])T\d{2}[A-Z]{3}_\d{8}T",
        _S2,
        rules=_S2_RULES,
        nodata=0,
        skipped=_S2_SKIPPED,
        gsd_m=10,
    ),
    Sensor(
        "sentinel-1",
        r"(^|[_\W])S1[ABCD]?([_\W]|$)|RTC-S1|sentinel-?1",
        _SAR,
        rules=(Rule(r"", 1.0, 0.0, "backscatter as stored"),),
        skipped=_S1_SKIPPED,
        gsd_m=10,
    ),
    _landsat(9, "CO", oli=True),
    _landsat(8, "CO", oli=True),
    _landsat(7, "E", oli=False),
    _landsat(5, "T", oli=False),
    Sensor(
        "planetscope",
        r"\d{8}_\d{6}_(\d{2}_)?[0-9a-f]{4}([_\W]|$)|PSScene|AnalyticMS",
        order=_PLANET,
        rules=_PLANET_RULES,
        nodata=0,
        skipped=r"_Visual(_|$)",
        gsd_m=3,
    ),
    Sensor("cbers", r"CBERS", {"b1": "blue", "b2": "green", "b3": "red", "b4": "nir"}, nodata=0, gsd_m=20),
)
GENERIC = Sensor("generic", r"$^")


def recognise(*names: str) -> Sensor:
    """Return the first profile that matches one of the names (file, parent folder), else ``generic``."""
    for name in names:
        for sensor in SENSORS:
            if sensor.matches(name):
                return sensor
    return GENERIC


def by_name(name: str) -> Sensor:
    """Return the profile with a contract name (``generic`` where there is none)."""
    return next((s for s in SENSORS if s.name == name), GENERIC)


def group_of(name: str, tags: Mapping[str, str], sensor: Sensor) -> str:
    """Return the name of the group whose scenes may be compared.

    Optical scenes are grouped by sensor. SAR scenes see other sides of things from other orbits, so they
    are grouped by burst, or by relative orbit and pass, where the name or the tags say so.

    >>> group_of("OPERA_L2_RTC-S1_T137-292318-IW1_20211119T015854Z_S1A", {}, recognise("S1A"))
    'sentinel-1 T137-292318-IW1'
    """
    if sensor.name != "sentinel-1":
        return sensor.name
    burst = re.search(r"T\d{3}-\d{6}-IW\d", name, re.IGNORECASE)
    if burst:
        return f"{sensor.name} {burst[0].upper()}"
    orbit = re.search(r"(S1[AB])_\w\w_\w{4}_\w{4}_\d{8}T\d{6}_\d{8}T\d{6}_(\d{6})_", name, re.IGNORECASE)
    words = [sensor.name]
    if orbit:
        # cycle of 175 orbits; the offsets are those of the two satellites' first cycles
        relative = (int(orbit[2]) - (73 if orbit[1].upper() == "S1A" else 27)) % 175 + 1
        words.append(f"orbit {relative}")
    said = re.search(
        r"(?:^|[_\W])(ASC|DESC?)(?:ENDING)?(?:[_\W]|$)",
        f"{name} {tags.get('ORBIT_DIRECTION', '')}",
        re.IGNORECASE,
    )
    if said:
        words.append("ascending" if said[1].upper().startswith("ASC") else "descending")
    return " ".join(words)


def common_name(text: str, sensor: Sensor = GENERIC) -> str:
    """Return the common name of a band description; what is not known is kept as it is.

    >>> common_name("B08", recognise("S2A_MSIL2A_20240101"))
    'nir'
    >>> common_name("NIR")
    'nir'
    >>> common_name("Gamma0_VV")
    'vv'
    """
    kept = text.strip()
    key = kept.lower()
    if key in sensor.bands:
        return sensor.bands[key]
    if key in OPTICAL_BANDS or key in _SAR:
        return key
    if key in _SYNONYMS:
        return _SYNONYMS[key]
    number = re.search(r"(?:^|[^a-z])(?:b|band)[ _]?0*(\d{1,2}a?)(?:[^a-z0-9]|$)", key)
    if number and f"b{number[1]}" in sensor.bands:
        return sensor.bands[f"b{number[1]}"]
    polarisation = re.search(r"(?:^|[^a-z])(vv|vh|hh|hv)(?:[^a-z]|$)", key)
    return polarisation[1] if polarisation else kept


def wavelength_name(micrometres: float) -> str | None:
    """Return the common name that a center wavelength falls under, None outside all.

    >>> wavelength_name(0.4825)
    'blue'
    """
    for low, high, name in _WAVELENGTHS_UM:
        if low <= micrometres < high:
            return name
    return None


_WAVELENGTHS_UM = (
    (0.40, 0.45, "coastal"), (0.45, 0.51, "blue"), (0.51, 0.60, "green"), (0.61, 0.69, "red"),
    (0.69, 0.72, "rededge1"), (0.72, 0.76, "rededge2"), (0.76, 0.80, "rededge3"), (0.80, 0.90, "nir"),
    (0.93, 0.96, "nir09"), (1.35, 1.40, "cirrus"), (1.55, 1.75, "swir16"), (2.05, 2.45, "swir22"),
)  # fmt: skip


_SYNONYMS = {
    "b": "blue", "g": "green", "r": "red", "n": "nir", "near infrared": "nir", "near-infrared": "nir",
    "swir1": "swir16", "swir2": "swir22", "panchromatic": "pan", "red edge": "rededge1",
    "rededge": "rededge1",    "coastal blue": "coastal", "coastal aerosol": "coastal",
}  # fmt: skip
