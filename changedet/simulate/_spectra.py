"""Reflectance of the materials in a scene, by band.

Surface reflectance, typical values in line with published libraries and reviews (USGS Spectral Library,
ECOSTRESS library; Warren 1982 for snow; Nechad et al. 2010 for the saturating rise of turbid water). They are
rounded, written from general knowledge and not measured at the site; each scene varies them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

BANDS = ("blue", "green", "red", "rededge1", "nir", "swir16", "swir22")

_TABLE: dict[str, tuple[float, ...]] = {
    # name               blue   green  red    re1    nir    swir16 swir22
    "grass_green":      (0.040, 0.080, 0.050, 0.120, 0.400, 0.240, 0.120),
    "grass_dry":        (0.075, 0.110, 0.145, 0.185, 0.250, 0.330, 0.240),
    "reed_green":       (0.035, 0.065, 0.045, 0.105, 0.340, 0.200, 0.100),
    "reed_dry":         (0.085, 0.120, 0.160, 0.195, 0.255, 0.300, 0.200),
    "forest_green":     (0.022, 0.046, 0.028, 0.075, 0.380, 0.170, 0.075),
    "forest_bare":      (0.045, 0.058, 0.070, 0.095, 0.155, 0.200, 0.140),
    "crop_green":       (0.032, 0.075, 0.038, 0.110, 0.470, 0.230, 0.105),
    "stubble":          (0.105, 0.145, 0.195, 0.235, 0.300, 0.390, 0.310),
    "soil":             (0.075, 0.105, 0.140, 0.170, 0.210, 0.290, 0.260),
    "sand":             (0.160, 0.210, 0.255, 0.285, 0.315, 0.400, 0.370),
    "gravel":           (0.125, 0.150, 0.175, 0.190, 0.210, 0.250, 0.230),
    "asphalt":          (0.080, 0.090, 0.100, 0.110, 0.130, 0.170, 0.160),
    "roof_tile":        (0.090, 0.115, 0.165, 0.190, 0.220, 0.270, 0.250),
    "roof_blue":        (0.210, 0.190, 0.135, 0.140, 0.200, 0.220, 0.200),
    "concrete":         (0.240, 0.280, 0.310, 0.330, 0.350, 0.400, 0.370),
    "earth_fill":       (0.150, 0.195, 0.245, 0.280, 0.315, 0.390, 0.360),
    "film": (0.230, 0.250, 0.265, 0.275, 0.300, 0.300, 0.260),
    "steel":            (0.085, 0.095, 0.135, 0.160, 0.195, 0.260, 0.250),
    "painted_steel":    (0.200, 0.215, 0.215, 0.215, 0.220, 0.230, 0.220),
    "timber":           (0.120, 0.150, 0.190, 0.220, 0.270, 0.330, 0.260),
    "snow_fresh":       (0.900, 0.900, 0.890, 0.870, 0.800, 0.120, 0.080),
    "snow_old":         (0.600, 0.600, 0.580, 0.560, 0.470, 0.090, 0.060),
    "ice_clear":        (0.130, 0.150, 0.145, 0.130, 0.085, 0.020, 0.015),
    "ice_white":        (0.480, 0.490, 0.470, 0.440, 0.340, 0.060, 0.040),
    "water_clear":      (0.032, 0.040, 0.028, 0.020, 0.010, 0.004, 0.003),
    "sediment":         (0.080, 0.130, 0.170, 0.165, 0.120, 0.012, 0.006),
    "cloud":            (0.640, 0.640, 0.640, 0.640, 0.640, 0.450, 0.320),
    "haze":             (0.220, 0.180, 0.150, 0.140, 0.120, 0.060, 0.040),
    # diffuse attenuation of water, 1/m: pure river water, and per 100 mg/l of sediment (typical values)
    "attenuation":      (0.450, 0.300, 0.500, 0.800, 3.500, 60.00, 90.00),
    "attenuation_100":  (3.500, 3.000, 2.800, 2.700, 2.500, 2.500, 2.500),
    # share of the light that reaches a shaded surface (skylight); it is blue
    "skylight":         (0.420, 0.330, 0.270, 0.240, 0.200, 0.130, 0.100),
}  # fmt: skip

CENTER_NM = {
    "coastal": 443, "blue": 490, "green": 560, "red": 665, "rededge1": 705, "rededge2": 740, "rededge3": 783,
    "nir": 842, "nir08": 865, "nir09": 945, "swir16": 1610, "swir22": 2200,
}  # fmt: skip
"""Middle of a band of each common name, nm (typical); `pan` is the mean of the visible ones."""

MATERIALS = ("concrete", "earth_fill", "steel", "painted_steel", "timber")


def spectrum(name: str, bands: tuple[str, ...]) -> Array:
    """`(band,)` float32 values of a material, in the order of `bands`."""
    return np.array([_TABLE[name][BANDS.index(band)] for band in bands], dtype=np.float32)


def reflectance(name: str, bands: tuple[str, ...]) -> Array:
    """`(band,)` float32 reflectance of a material in bands of any name, between those known by wavelength.

    NaN where the wavelength of a band is not known by its name.
    """
    known = [CENTER_NM[band] for band in BANDS]
    values = {b: float(np.interp(nm, known, _TABLE[name])) for b, nm in CENTER_NM.items()}
    values["pan"] = float(np.mean([values[b] for b in ("blue", "green", "red")]))
    return np.array([values.get(band, np.nan) for band in bands], dtype=np.float32)
