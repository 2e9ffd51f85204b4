"""Settings that belong to no single step: what to read, what to decide, what to write."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from changedet.errors import SettingError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30}


@dataclass(frozen=True)
class RunOptions:
    """What holds for a whole run.

    Parameters
    ----------
    seed : of every random choice
    alpha : false-alarm level of the whole result, 0 to 1
    min_area_m2 : smaller objects are dropped; none = from the pixel size
    """

    seed: int = 0
    alpha: float = 0.05
    min_area_m2: float | None = None

    def __post_init__(self) -> None:
        """Refuse what can be no level and no area."""
        if not 0 < self.alpha < 1:
            raise SettingError(f"alpha is {self.alpha}; wanted a rate between 0 and 1, such as 0.05")
        if self.min_area_m2 is not None and not self.min_area_m2 >= 0:
            raise SettingError(f"min_area_m2 is {self.min_area_m2}; wanted an area of 0 m² or more")
        if self.seed < 0:
            raise SettingError(f"seed is {self.seed}; wanted 0 or more")


@dataclass(frozen=True)
class ReadOptions:
    """How scenes are found and read.

    Parameters
    ----------
    since, until : first and last day, ISO 8601, inclusive; none = no limit
    bands : names of the bands to read; none = those that all scenes share
    band_names : names in file order, where files do not say
    date : where files do not say: a day, NAME=DATE, or a strptime pattern over the name
    warp : resample scenes that are on other grids onto the first scene's
    """

    since: str | None = None
    until: str | None = None
    bands: tuple[str, ...] | None = None
    band_names: tuple[str, ...] | None = None
    date: tuple[str, ...] | None = None
    warp: bool = False


@dataclass(frozen=True)
class WriteOptions:
    """How results are written.

    Parameters
    ----------
    compress : compression of the rasters
    """

    compress: Literal["none", "deflate", "zstd"] = "deflate"


@dataclass(frozen=True)
class ComputeOptions:
    """What the work may use; no result depends on it.

    Parameters
    ----------
    workers : threads; none = one a processor
    memory : bound of the working set, such as 2GB; none = a share of what is free
    """

    workers: int | None = None
    memory: str | None = None

    def __post_init__(self) -> None:
        """Refuse what can be no number of threads and no amount of memory."""
        if self.workers is not None and self.workers < 1:
            raise SettingError(f"workers is {self.workers}; wanted 1 or more")
        if self.memory is not None:
            memory_bytes(self.memory)


def memory_bytes(text: str) -> int:
    """Return an amount of memory in bytes.

    Raises
    ------
    SettingError
        The text is no amount.

    >>> memory_bytes("2GB"), memory_bytes("512 MiB")
    (2000000000, 536870912)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", text.upper())
    size = round(float(match[1]) * _UNITS[match[2]]) if match and match[2] in _UNITS else 0
    if size <= 0:
        raise SettingError(f"memory is {text!r}; wanted an amount such as 2GB or 512MB")
    return size


@dataclass(frozen=True)
class DiffOptions:
    """What ``diff`` computes.

    Parameters
    ----------
    method : of the difference, see ``changedet diff --help``
    threshold : a method, or the level itself
    align : lay the later image on the earlier one first; None: for ``auto`` where both are of light
    """

    method: str = "auto"
    align: bool | None = None
    threshold: str | float = "auto"


Material = Literal["concrete", "earth_fill", "steel", "painted_steel", "timber"]
"""What structures are made of, see :data:`changedet.simulate.MATERIALS`."""


@dataclass(frozen=True)
class SensitivityOptions:
    """How structures are put into the scenes to see which would have been found.

    Parameters
    ----------
    quick : let ``run`` put some in and state the smallest size that is found
    quick_count : structures that ``run`` puts in a stratum (water, shore, land), at most
    target : share of the structures of a size that must be found
    reference : material for which the smallest size is stated
    materials : others that ``sensitivity`` tries
    sides_m : square roots of the areas tried; none = from 0.7 to 12 pixels
    sizes : how many sizes, where sides_m is none
    dates : how many dates on which structures begin
    rounds : times that ``sensitivity`` runs the whole pipeline
    per_round : structures a round, at most
    density : share of the pixels that structures may cover in a round
    psf_fwhm_px : width of the blur beyond the pixel; none = typical of the pixel size
    """

    quick: bool = True
    quick_count: int = 32
    target: float = 0.9
    reference: Material = "concrete"
    materials: tuple[Material, ...] = ("earth_fill", "steel")
    sides_m: tuple[float, ...] | None = None
    sizes: int = 7
    dates: int = 3
    rounds: int = 20
    per_round: int = 40
    density: float = 0.005
    psf_fwhm_px: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        if not 0 < self.target < 1:
            raise SettingError(f"sensitivity.target is {self.target}; wanted a share, such as 0.9")
        if self.sides_m is not None and not all(s > 0 for s in self.sides_m):
            raise SettingError(f"sensitivity.sides_m is {self.sides_m}; wanted lengths in m above 0")
        if not 0 < self.density < 1:
            raise SettingError(f"sensitivity.density is {self.density}; wanted a share, such as 0.005")
        if self.psf_fwhm_px is not None and not 0 <= self.psf_fwhm_px <= 10:
            raise SettingError(f"sensitivity.psf_fwhm_px is {self.psf_fwhm_px}; wanted 0 to 10")
        for name in ("quick_count", "sizes", "dates", "rounds", "per_round"):
            if getattr(self, name) < 1:
                raise SettingError(f"sensitivity.{name} is {getattr(self, name)}; wanted 1 or more")
