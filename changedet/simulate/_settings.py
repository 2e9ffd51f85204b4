"""What a simulated scene is made of: every knob, its default, its limits."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from changedet.errors import SettingError, UnknownSettingError
from changedet.simulate._fields import stream
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

# Hard mode, common part. Values are typical, argued from how such things are, none fitted to a detector:
# pixels of one cover differ by a tenth in brightness and a week in season, and bare ground drifts; some dozen
# changes of land a stack that nobody built, and a few sheds, greenhouses and heaps that somebody did; global
# height models err by about 4 m; block-adjusted scenes keep a quarter of a pixel of bending; focus and
# atmosphere widen the blur by a sixth; orbits drift and satellites differ by an hour; sandy lowland rivers
# move their bars by tens of metres and their banks by some metres a year; cloud masks miss thin cloud in a
# third of the scenes, take a quarter of the bright ground for cloud again and again, lie up to a pixel or two
# off, and now and then are missing.
_HARD: dict[str, Any] = {
    "individuality": 1.0, "land_events": 12.0, "land_works": 3.0, "dem_error_m": 4.0, "warp_px": 0.25,
    "psf_spread": 0.16, "hour_spread_h": 1.0, "second_sensor": 0.3, "second_gsd_ratio": 2.0, "bars": 4.0,
    "bank_erosion_m": 3.0, "moored": 4.0, "river_works": 2.0, "debris": 8.0, "thin_missed": 0.35,
    "mask_eaten": 0.25, "mask_shift_px": 1.0, "mask_missing": 0.15, "clustering": 0.8,
}  # fmt: skip
# By sensor: half-metre imagery looks far to the side and is usually corrected with a better height model;
# the second sensor is one that people do add (8 m and 20 m multispectral, resampled onto the finer grid).
_HARD_BY: dict[str, dict[str, Any]] = {
    "submetre": {"view_zenith_deg": 28.0, "jitter_px": 0.7, "dem_error_m": 1.5},
    "planet": {"view_zenith_deg": 10.0, "jitter_px": 0.45, "second_gsd_ratio": 2.67,
               "sensors": ("planetscope", "cbers")},
    "sentinel-2": {"view_zenith_deg": 11.0, "jitter_px": 0.3, "warp_px": 0.15, "land_events": 25.0,
                   "land_works": 4.0, "bars": 6.0, "sensors": ("sentinel-2", "cbers")},
}  # fmt: skip
_HARD_ENDS = ("2026-02-20", "2026-02-10", "2026-01-25", "2026-06-30", "2025-10-20")  # mostly in winter
_HARD_DATES = (12, 18)  # fewest and most scenes

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
    "individuality": (0.0, 2.0),
    "land_events": (0.0, 200.0),
    "land_works": (0.0, 50.0),
    "dem_error_m": (0.0, 30.0),
    "warp_px": (0.0, 5.0),
    "psf_spread": (0.0, 0.6),
    "hour_spread_h": (0.0, 3.0),
    "second_sensor": (0.0, 1.0),
    "second_gsd_ratio": (1.0, 5.0),
    "bars": (0.0, 30.0),
    "bank_erosion_m": (0.0, 30.0),
    "moored": (0.0, 50.0),
    "river_works": (0.0, 20.0),
    "debris": (0.0, 100.0),
    "thin_missed": (0.0, 1.0),
    "mask_eaten": (0.0, 1.0),
    "mask_shift_px": (0.0, 10.0),
    "mask_missing": (0.0, 1.0),
    "clustering": (0.0, 1.0),
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

    The rest breaks what an ordinary scene flatters; 0 leaves each out, `for_sensor(..., hard=True)` turns all
    of it on.

    individuality : no pixel like another: spectra that mix covers in their own shares, own season (sd about a
        week), own drift in time; 1 is typical, sd of a tenth in brightness
    land_events : mean number, a stack, of changes of land that nobody built: plowing of grass, clearings,
        burns, part-harvests, ponds, roadworks, roofs painted anew
    land_works : mean number of buildings, greenhouses, yards and heaps that come on land and stay (in the
        truth: building, earthworks); none where `build` is False
    dem_error_m : sd of the error of the height model the scenes were corrected with; seen from the side it
        becomes a displacement that changes with the view
    warp_px : rms displacement left in a scene by its own affine and local distortion
    psf_spread : sd of the blur's width from scene to scene, relative
    hour_spread_h : half range of the time of day about mid-morning; sun and shadows follow
    second_sensor : share of scenes of another sensor, with other band responses, noise and pixel
    second_gsd_ratio : its pixel size over `gsd_m`; its scenes come resampled onto the grid
    sensors : names of the two, as ingest gives them
    bars : mean number of sand bars that form, move or go within the stack
    bank_erosion_m : typical retreat (or growth) in a year, m, of the half of the banks that moves
    moored : mean number of barges and dredgers that lie for two to four scenes
    river_works : mean number of weirs, and of pontoons that are towed on after some scenes (in the truth:
        unknown, pontoon); none where `build` is False
    debris : mean number, a stack, of ice jams left on the banks and of heaps of driftwood
    thin_missed : share of scenes whose mask misses thin cloud and shadow altogether
    mask_eaten : share of bright ground that the mask takes for cloud in most scenes
    mask_shift_px : sd, an axis, of the mask's displacement against its scene
    mask_missing : share of scenes without a mask
    clustering : 0 spreads the dates over the years, 1 gathers them in a few seasons with months between

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
    individuality: float = 0.0
    land_events: float = 0.0
    land_works: float = 0.0
    dem_error_m: float = 0.0
    warp_px: float = 0.0
    psf_spread: float = 0.0
    hour_spread_h: float = 0.0
    second_sensor: float = 0.0
    second_gsd_ratio: float = 2.0
    sensors: tuple[str, str] = ("generic", "generic")
    bars: float = 0.0
    bank_erosion_m: float = 0.0
    moored: float = 0.0
    river_works: float = 0.0
    debris: float = 0.0
    thin_missed: float = 0.0
    mask_eaten: float = 0.0
    mask_shift_px: float = 0.0
    mask_missing: float = 0.0
    clustering: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be rendered."""
        for name, (low, high) in _LIMITS.items():
            _within(name, getattr(self, name), low, high)
        _check_shape(self)
        _check_bands(self.bands)
        _check_dates(self)
        if self.layout not in ("tumen", "random"):
            raise SettingError(f"layout is {self.layout!r}; wanted 'tumen' or 'random'")
        if len(self.sensors) != 2 or not all(isinstance(name, str) and name for name in self.sensors):
            raise SettingError(f"sensors is {self.sensors!r}; wanted two names")

    @classmethod
    def for_sensor(cls, name: Sensor, seed: int, *, hard: bool = False, **changes: Any) -> SceneSettings:
        """Settings of a kind of imagery, with a layout drawn from `seed`.

        Parameters
        ----------
        name : "submetre" (0.6 m), "planet" (3 m) or "sentinel-2" (10 m)
        seed : of layout, weather and noise
        hard : break what an ordinary scene flatters; 12 to 18 scenes, most often ending in winter
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
        preset = {**_PRESETS[name], **(_hardened(name, seed) if hard else {}), **changes}
        return replace(cls(seed=seed, layout="random"), **preset)


def _hardened(name: str, seed: int) -> dict[str, Any]:
    """What hard mode changes in the preset of a sensor; scenes and last day follow from the seed."""
    rng = stream(seed, "hard")
    few = int(rng.integers(_HARD_DATES[0], _HARD_DATES[1] + 1))
    return {**_HARD, **_HARD_BY[name], "n_dates": few, "end": str(rng.choice(_HARD_ENDS))}


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
