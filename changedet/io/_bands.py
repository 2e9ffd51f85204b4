"""Names of bands: what the user says, what the file says, what the sensor's order says, in that sequence."""

from __future__ import annotations

from collections.abc import Sequence

from changedet.errors import BandError
from changedet.io.raster import Header
from changedet.scenes import SAR_BANDS
from changedet.sensors import OPTICAL_BANDS, Sensor, common_name, wavelength_name

Named = tuple[tuple[str, ...], str]
"""Band names in file order (an alpha band is called ``alpha``), and where they come from, in words."""


def split_names(names: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Read ``--band-names``: comma-separated text or a sequence.

    Raises
    ------
    BandError
        A name is empty or repeats.
    """
    if names is None:
        return None
    parts = tuple(n.strip() for n in (names.split(",") if isinstance(names, str) else names))
    if not all(parts) or len(set(parts)) != len(parts):
        raise BandError(f"band names {parts} are empty or repeat; wanted unique names, one a band")
    return parts


def name_bands(header: Header, sensor: Sensor, hint: str | None = None) -> Named:
    """Name the bands of one file.

    Parameters
    ----------
    header : what the file says
    sensor : profile that maps the file's own names
    hint : band that the file name ends in, used where the file has one band
    """
    image = [i for i, role in enumerate(header.roles) if role != "alpha"]
    if hint is not None and len(image) == 1:
        names, words = [common_name(hint, sensor)], "file name"
    elif all(header.names[i] for i in image):
        names, words = _described(header, sensor, image)
    else:
        names, words = _unnamed(header, sensor, image)
    out = ["alpha"] * header.count
    for i, name in zip(image, names, strict=True):
        out[i] = name
    return tuple(out), words


def _described(header: Header, sensor: Sensor, image: list[int]) -> tuple[list[str], str]:
    """Names from the descriptions; from the wavelengths where the descriptions say nothing known."""
    names = [common_name(header.names[i], sensor) for i in image]
    if not any(known(n) for n in names):
        waves = [wavelength_name(header.wavelengths_um[i] or 0) for i in image]
        if all(waves) and len(set(waves)) == len(waves):
            return [str(w) for w in waves], "wavelengths in the file"
    return names, "band descriptions"


def _unnamed(header: Header, sensor: Sensor, image: list[int]) -> tuple[list[str], str]:
    """Names from the sensor's usual order, or from the colors of an 8-bit picture, or numbers."""
    order = sensor.order.get(len(image))
    if order is not None:
        return list(order), f"usual order of {sensor.name} with {len(image)} bands"
    roles = [header.roles[i] for i in image]
    if header.dtypes[0] == "uint8" and roles[:3] in (["red", "green", "blue"], ["blue", "green", "red"]):
        rest = [f"band{n}" for n in range(4, len(image) + 1)]
        return roles[:3] + rest, "color interpretation of an 8-bit picture"
    return [f"band{n}" for n in range(1, len(image) + 1)], "no names in the file: numbered (see --band-names)"


def known(name: str) -> bool:
    """Return True for a common name."""
    return name in OPTICAL_BANDS or name in SAR_BANDS
