"""What a simulated scene is made of: every knob, its default, its limits."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from changedet.errors import SettingError, UnknownSettingError
from changedet.simulate._spectra import BANDS

Sensor = Literal["submetre", "planet", "sentinel-2"]
Layout = Literal["tumen", "random"]

# Ground sample distance, grid, blur, noise and pointing of three kinds of imagery. The blur is the Gaussian
# beyond the detector's own square pixel. Typical values: Sentinel-2's 10 m bands have a modulation transfer
# of 0.15-0.30 at the Nyquist frequency, which with the pixel's 0.64 leaves a Gaussian of about 1.1 px FWHM;
# PlanetScope is softer than its 3 m product pixel; resampled half-metre imagery lies between. Noise is
# sqrt(read^2 + shot * rho) in reflectance: about 0.0016 at rho = 0.1 for Sentinel-2 (signal to noise beyond
# 60 there), twice to three times that for small satellites. Pointing (one sigma an axis): Sentinel-2's
# multi-temporal geolocation is about 5 m; PlanetScope and half-metre ortho scenes disagree by half a pixel to
# several pixels before co-registration, of which this keeps the sub-pixel part.
_PRESETS: dict[str, dict[str, Any]] = {
    "submetre": {"gsd_m": 0.6, "shape_px": (720, 720), "n_dates": 16, "psf_fwhm_px": 1.4,
                 "read_noise": 0.002, "shot_noise": 4e-5, "jitter_px": 0.5,
                 "river_width_m": (90.0, 170.0), "view_zenith_deg": 22.0},
    "planet": {"gsd_m": 3.0, "shape_px": (400, 400), "n_dates": 24, "psf_fwhm_px": 1.5,
               "read_noise": 0.0025, "shot_noise": 6e-5, "jitter_px": 0.35, "view_zenith_deg": 5.0},
    "sentinel-2": {"gsd_m": 10.0, "shape_px": (300, 300), "n_dates": 30, "psf_fwhm_px": 1.1,
                   "read_noise": 0.001, "shot_noise": 1.5e-5, "jitter_px": 0.25, "view_zenith_deg": 8.0},
}  # fmt: skip

# name: (smallest, largest) value allowed
_LIMITS: dict[str, tuple[float, float]] = {
    "gsd_m": (0.1, 60.0),
    "n_dates": (2, 500),
    "cloudiness": (0.0, 0.9),
    "haze": (0.0, 1.0),
    "mask_omission": (0.0, 1.0),
    "mask_commission": (0.0, 0.5),
    "jitter_px": (0.0, 5.0),
    "psf_fwhm_px": (0.0, 10.0),
    "read_noise": (0.0, 0.2),
    "shot_noise": (0.0, 0.01),
    "calibration_error": (0.0, 0.5),
    "view_zenith_deg": (0.0, 45.0),
    "level_scale": (0.0, 5.0),
    "winter": (0.0, 2.0),
    "boats": (0.0, 100.0),
    "stockpiles": (0.0, 50.0),
}


@dataclass(frozen=True)
class SceneSettings:
    """Every choice behind a simulated stack.

    Parameters
    ----------
    gsd_m : pixel size, m
    shape_px : (rows, columns)
    n_dates : number of scenes
    start, end : first and last day the scenes may lie on, ISO 8601; the dates between are uneven
    seed : the whole scene follows from it
    build : False leaves the construction out and everything else, to the last random number, as it was
    crs : projected CRS in metres, north up
    center_lonlat : degrees; the middle of the crossing
    bands : STAC common names, any of `changedet.simulate.BANDS`
    layout : "tumen" is the crossing of the Tumen site page (what `changedet demo` shows); "random" draws the
        bearing, width, spacing and programme from the seed
    river_width_m : (narrowest, widest) bank-to-bank width of the random layout, at most half of the scene
    cloudiness : mean share of cloud a scene; haze : share of scenes that are hazy
    mask_omission : mean share of the truly unusable pixels that the delivered mask misses (thin edges first)
    mask_commission : mean share of the clear pixels that it flags (bright ones first)
    jitter_px : pointing error, one sigma an axis
    psf_fwhm_px : FWHM of the Gaussian blur beyond the detector's square pixel
    read_noise, shot_noise : sd of a pixel is sqrt(read_noise**2 + shot_noise * reflectance)
    calibration_error : sd of the gain of a scene (a band's own part is half of it); offsets are a tenth
    view_zenith_deg : largest view angle; tall structures lean away from nadir
    level_scale : multiplies the water level's seasonal swing and floods (1: about -0.7 to +2 m)
    winter : multiplies snow depth and ice cover (0: none)
    boats : mean number of vessels a date without ice
    stockpiles : mean number of heaps and machines a date near the works

    Raises
    ------
    SettingError
        A value is of the wrong kind or outside its limits.
    """

    gsd_m: float = 3.0
    shape_px: tuple[int, int] = (400, 400)
    n_dates: int = 24
    start: str = "2023-04-01"
    end: str = "2026-06-30"
    seed: int = 0
    build: bool = True
    crs: str = "EPSG:32652"
    center_lonlat: tuple[float, float] = (130.642, 42.412)
    bands: tuple[str, ...] = ("blue", "green", "red", "nir")
    layout: Layout = "tumen"
    river_width_m: tuple[float, float] = (150.0, 600.0)
    cloudiness: float = 0.18
    haze: float = 0.3
    mask_omission: float = 0.15
    mask_commission: float = 0.01
    jitter_px: float = 0.35
    psf_fwhm_px: float = 1.5
    read_noise: float = 0.0025
    shot_noise: float = 6e-5
    calibration_error: float = 0.03
    view_zenith_deg: float = 5.0
    level_scale: float = 1.0
    winter: float = 1.0
    boats: float = 2.0
    stockpiles: float = 1.5

    def __post_init__(self) -> None:
        """Refuse what cannot be rendered."""
        for name, (low, high) in _LIMITS.items():
            _within(name, getattr(self, name), low, high)
        _check_shape(self)
        _check_bands(self.bands)
        _check_dates(self)
        if self.layout not in ("tumen", "random"):
            raise SettingError(f"layout is {self.layout!r}; wanted 'tumen' or 'random'")

    @classmethod
    def for_sensor(cls, name: Sensor, seed: int, **changes: Any) -> SceneSettings:
        """Settings of a kind of imagery, with a layout drawn from `seed`.

        Parameters
        ----------
        name : "submetre" (0.6 m), "planet" (3 m) or "sentinel-2" (10 m)
        seed : of layout, weather and noise
        changes : any field, to replace the preset's value

        Raises
        ------
        UnknownSettingError
            The sensor, or a field named in `changes`, does not exist.
        """
        if name not in _PRESETS:
            raise UnknownSettingError(str(name), _PRESETS)
        known = [field.name for field in fields(cls)]
        for key in changes:
            if key not in known:
                raise UnknownSettingError(key, known)
        return replace(cls(seed=seed, layout="random"), **{**_PRESETS[name], **changes})


def _within(name: str, value: Any, low: float, high: float) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
        raise SettingError(f"{name} is {value!r}; wanted a number from {low:g} to {high:g}")


def _check_shape(settings: SceneSettings) -> None:
    shape = settings.shape_px
    if len(shape) != 2 or any(int(n) != n or not 32 <= n <= 4096 for n in shape):
        raise SettingError(
            f"shape_px is {shape!r}; wanted (rows, columns), each a whole number from 32 to 4096"
        )
    extent_m = min(shape) * settings.gsd_m
    if extent_m < 200:
        raise SettingError(
            f"the scene is {extent_m:g} m across; wanted 200 m or more: enlarge shape_px or gsd_m"
        )
    low, high = settings.river_width_m
    if not 20 <= low <= high:
        raise SettingError(
            f"river_width_m is {settings.river_width_m!r}; wanted (low, high), 20 <= low <= high"
        )


def _check_bands(bands: tuple[str, ...]) -> None:
    for band in bands:
        if band not in BANDS:
            raise UnknownSettingError(band, BANDS)
    if not bands or len(set(bands)) != len(bands):
        raise SettingError(f"bands is {bands!r}; wanted at least one name, each once")


def _check_dates(settings: SceneSettings) -> None:
    import numpy as np

    try:
        span = np.datetime64(settings.end, "D") - np.datetime64(settings.start, "D")
    except ValueError as err:
        raise SettingError(
            f"start/end are {settings.start!r}/{settings.end!r}; wanted ISO 8601 days"
        ) from err
    if span / np.timedelta64(1, "D") < 3 * settings.n_dates:
        raise SettingError(
            f"{settings.n_dates} scenes three days apart do not fit from {settings.start} to {settings.end}; "
            "wanted a longer span or fewer scenes"
        )
