"""No pixel like another: shares of other covers, own spectrum, own season, own drift in time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from changedet.simulate._fields import Array, fractal, stream
from changedet.simulate._settings import SceneSettings

# Relative change of the bands blue to shortwave infrared by an individual's three traits: brighter, redder
# (iron, dryness), leafier (pigment down, near infrared up); sd of each at `individuality` 1. Typical of the
# spread within one cover (a tenth in brightness, some per cent in color).
_TRAITS: tuple[tuple[float, dict[str, float]], ...] = (
    (0.10, dict.fromkeys(("blue", "green", "red", "rededge1", "nir", "swir16", "swir22"), 1.0)),
    (0.05, {"blue": -1.2, "green": -0.3, "red": 1.0, "rededge1": 0.8, "nir": 0.3, "swir16": 0.8,
            "swir22": 0.8}),
    (0.04, {"blue": -0.8, "green": 0.2, "red": -1.2, "rededge1": 0.3, "nir": 1.2, "swir16": -0.3,
            "swir22": -0.8}),
)  # fmt: skip
_SEASON_D = 8.0  # sd of a plant's own season, days
_DRIFT = 0.07  # sd of bare ground's brightness after a year, relative
_WAVES = 4  # terms of the random walk in time


@dataclass(frozen=True)
class Grain:
    """Fields of individuals on the padded grid, `(y, x)` float32, mean 0 and sd 1 where nothing else is said.

    Attributes
    ----------
    season : -1 to 1, late to early
    companions : shares of grass, bushes and bare soil mixed into any ground, 0 to 0.4
    traits : of brightness, redness, leafiness
    waves : spatial patterns of the random walk in time
    drainage : how much rain a place keeps
    pioneers : where plants settle first on bare sand
    eddies : where the river carries more mud, smooth
    strength : the setting
    """

    season: Array
    companions: tuple[Array, ...]
    traits: tuple[Array, ...]
    waves: tuple[Array, ...]
    drainage: Array
    pioneers: Array
    eddies: Array
    strength: float

    def colors(self, bands: tuple[str, ...]) -> Array:
        """Factor `(band, y, x)` of every pixel's own spectrum."""
        total = np.zeros((len(bands), *self.season.shape), dtype=np.float32)
        for field, (sd, by_band) in zip(self.traits, _TRAITS, strict=True):
            for at, band in enumerate(bands):
                total[at] += np.float32(sd * self.strength * by_band[band]) * field
        return np.exp(total)

    def drift(self, years: float, span_years: float, other: bool = False) -> Array:
        """Relative change after some years, a random walk of its own in every pixel (Karhunen-Loeve).

        `other` gives a second walk, of what covers the ground and not of its brightness.
        """
        tau = np.clip(years / max(span_years, 1e-6), 0, 1)
        total = np.zeros(self.season.shape, dtype=np.float32)
        for number, field in enumerate(self.waves[::-1] if other else self.waves):
            rate = (number + 0.5) * np.pi
            weight = np.sqrt(2 * span_years) * np.sin(rate * tau) / rate
            total += np.float32(weight * _DRIFT * self.strength) * field
        return total


def grain(settings: SceneSettings, shape: tuple[int, int]) -> Grain | None:
    """Draw the individuals of a scene; None where the setting is 0."""
    if settings.individuality <= 0:
        return None
    px, strength = settings.gsd_m, settings.individuality

    def one(purpose: str, scale_m: float, white: float, index: int = 0) -> Array:
        """A field of broad spectrum (amplitude as 1/frequency) with a white part, sd 1.

        A larger pixel holds more individuals, so the white part shrinks.
        """
        white *= min(1.0, float((2 / px) ** 0.35))
        rng = stream(settings.seed, f"grain-{purpose}", index)
        smooth = fractal(rng, shape, max(scale_m / px, 2.0), 1.0)
        own = rng.standard_normal(shape, dtype=np.float32)
        return np.asarray(np.sqrt(1 - white**2) * smooth + white * own, dtype=np.float32)

    shares = (0.13, 0.08, 0.12)
    return Grain(
        season=np.tanh(np.float32(_SEASON_D / 14 * strength) * one("season", 500, 0.6)),
        companions=tuple(
            np.clip(np.float32(s) * (1 + one("share", 350, 0.6, k)) * np.float32(min(strength, 1.5)), 0, 0.4)
            for k, s in enumerate(shares)
        ),
        traits=tuple(one("trait", 400, 0.65, k) for k in range(len(_TRAITS))),
        waves=tuple(one("wave", 350, 0.55, k) for k in range(_WAVES)),
        drainage=one("drainage", 300, 0.4), pioneers=one("pioneers", 40, 0.3),
        eddies=fractal(stream(settings.seed, "grain-eddies"), shape, max(250 / px, 4.0), 2.6),
        strength=float(strength),
    )  # fmt: skip
