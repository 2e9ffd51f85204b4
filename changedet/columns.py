"""The words and columns of every table that changedet writes.

A column that has been released keeps its meaning. Unknown values are null, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

Kind = Literal[
    "pier",
    "abutment",
    "cofferdam",
    "platform",
    "causeway",
    "deck",
    "pontoon",
    "building",
    "earthworks",
    "unknown",
]
Status = Literal["persistent", "growing", "transient", "removed", "unresolved"]
Over = Literal["water", "shore", "land"]
Reason = Literal[
    "water-level",
    "ice",
    "snow",
    "turbidity",
    "glint",
    "cloud",
    "shadow",
    "vessel",
    "phenology",
    "misregistration",
    "nodata-edge",
    "too-small",
    "not-persistent",
]
Seen = Literal["seen", "absent", "unseen"]

KINDS: tuple[str, ...] = get_args(Kind)
STATUSES: tuple[str, ...] = get_args(Status)
REASONS: tuple[str, ...] = get_args(Reason)


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Parameters
    ----------
    name : column name as written
    dtype : ``"str"``, ``"float"``, ``"int"`` or ``"date"`` (ISO 8601 UTC text); all are nullable
    unit : unit in words, empty where there is none
    meaning : one sentence for people
    """

    name: str
    dtype: Literal["str", "float", "int", "date"]
    unit: str
    meaning: str


def _columns(*rows: tuple[str, Literal["str", "float", "int", "date"], str, str]) -> tuple[Column, ...]:
    """Build columns from short rows."""
    return tuple(Column(*row) for row in rows)


STRUCTURES = _columns(
    ("id", "str", "", "stable name of the structure"),
    ("kind", "str", "", "what it is: " + ", ".join(KINDS)),
    ("kind_p", "float", "", "probability of the kind, 0 to 1"),
    ("status", "str", "", "persistent, growing, transient, removed or unresolved"),
    ("first_seen", "date", "", "date of the first scene that shows it"),
    ("first_seen_scene", "str", "", "id of that scene"),
    ("last_absent", "date", "", "date of the last usable scene before first_seen"),
    ("last_absent_scene", "str", "", "id of that scene"),
    ("confirmed", "date", "", "date on which the evidence passed the persistence test"),
    ("last_seen", "date", "", "date of the last scene that shows it"),
    ("area_m2", "float", "m²", "area of the footprint (geodesic on geographic grids)"),
    ("length_m", "float", "m", "longer side of the smallest rotated rectangle"),
    ("width_m", "float", "m", "shorter side of that rectangle"),
    ("bearing_deg", "float", "degree", "direction of the longer side, 0 to 180 clockwise from true north"),
    ("over", "str", "", "water, shore or land"),
    ("bank_m", "float", "m", "distance to the nearest bank, positive over water"),
    ("axis", "str", "", "name of the bridge axis it belongs to"),
    ("chainage_m", "float", "m", "position along that axis"),
    ("row", "str", "", "row of piers it belongs to"),
    ("row_index", "int", "", "its number in the row"),
    ("confidence", "float", "", "calibrated probability that it is a structure, 0 to 1"),
    ("p_value", "float", "", "probability of evidence this strong where nothing was built"),
    ("snr", "float", "", "step of the object in units of its own noise"),
    ("n_before", "int", "", "usable dates before first_seen"),
    ("n_after", "int", "", "usable dates from first_seen on"),
    ("n_after_unfrozen", "int", "", "those of them without ice or snow"),
    ("n_seen", "int", "", "usable dates on which it was seen"),
    ("min_detectable_m2", "float", "m²", "smallest structure that would have been found here"),
)

OBSERVATIONS = _columns(
    ("id", "str", "", "structure"),
    ("scene", "str", "", "scene id"),
    ("date", "date", "", "date of the scene"),
    ("seen", "str", "", "seen, absent or unseen (not usable there)"),
    ("statistic", "float", "", "projected step evidence of the object on that date; 1 = its full step"),
    ("area_m2", "float", "m²", "area over which it was seen on that date"),
)

ALARMS = _columns(
    ("id", "str", "", "stable name of the alarm"),
    ("reason", "str", "", "why it was rejected: " + ", ".join(REASONS)),
    ("first_seen", "date", "", "date of the first scene that shows it"),
    ("last_absent", "date", "", "date of the last usable scene before"),
    ("area_m2", "float", "m²", "area of the footprint"),
    ("over", "str", "", "water, shore or land"),
    ("p_value", "float", "", "probability of evidence this strong where nothing was built"),
    ("snr", "float", "", "step of the object in units of its own noise"),
    ("n_seen", "int", "", "usable dates on which it was seen"),
)

AXES = _columns(
    ("axis", "str", "", "name of the axis"),
    ("source", "str", "", "site (given by the dossier) or found"),
    ("length_m", "float", "m", "length"),
    ("uncertainty_m", "float", "m", "lateral uncertainty"),
)

PROGRESS = _columns(
    ("axis", "str", "", "bridge axis"),
    ("bank", "str", "", "bank"),
    ("date", "date", "", "date of the scene"),
    ("scene", "str", "", "scene id"),
    ("reach_m", "float", "m", "from the mean shoreline along the axis to the outermost connected structure"),
    ("piers_water", "int", "", "piers standing in water"),
    ("piers_land", "int", "", "piers standing on land"),
    ("deck_m", "float", "m", "length of deck"),
    ("gap_m", "float", "m", "gap between the two reaches, decks counted; 0 = joined"),
    ("reach_lower_m", "float", "m", "lower bound of the reach"),
    ("reach_upper_m", "float", "m", "upper bound of the reach"),
)

TABLES: dict[str, tuple[Column, ...]] = {
    "structures": STRUCTURES,
    "observations": OBSERVATIONS,
    "alarms": ALARMS,
    "axes": AXES,
    "progress": PROGRESS,
}

_PANDAS = {"str": "object", "date": "object", "float": "float64", "int": "Int64"}


def table(name: str, rows: list[dict[str, Any]]) -> Any:
    """Build a pandas DataFrame with exactly the columns of a table, in order, unknown values null.

    Parameters
    ----------
    name : one of :data:`TABLES`
    rows : records; a missing key is null

    Returns
    -------
    pandas.DataFrame

    Raises
    ------
    KeyError
        A record has a key that is not a column of the table.
    """
    import pandas as pd

    columns = TABLES[name]
    extra = {key for row in rows for key in row} - {c.name for c in columns} - {"geometry"}
    if extra:
        raise KeyError(f"{name} has no column {sorted(extra)}")
    frame = pd.DataFrame(index=range(len(rows)))
    for column in columns:
        values = [row.get(column.name) for row in rows]
        frame[column.name] = pd.Series(values, dtype=_PANDAS[column.dtype], index=frame.index)
    return frame
