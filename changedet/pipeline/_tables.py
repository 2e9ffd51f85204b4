"""Small tables as CSV text, and the files that a command is asked to write."""

from __future__ import annotations

import csv
import io as text_io
from collections.abc import Sequence
from typing import Any

import numpy as np

from changedet.errors import InputError, nearest

SCENES = "scenes"
"""Word that stands for the files of all scenes."""


def number(value: float, digits: int = 4) -> float | None:
    """Return a number rounded; None where there is none."""
    return round(float(value), digits) if np.isfinite(value) else None


def csv_text(columns: Sequence[str], rows: list[dict[str, Any]]) -> str:
    """Return a table as CSV text; unknown values are empty, truth values lower case."""
    file = text_io.StringIO()
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: str(v).lower() if isinstance(v, bool) else v for k, v in row.items()})
    return file.getvalue()


def wanted_outputs(
    asked: Sequence[str] | None, scenes: Sequence[str], others: Sequence[str]
) -> frozenset[str]:
    """Return the names of the files to write.

    Parameters
    ----------
    asked : file names, or ``scenes`` for those of all scenes; None = everything
    scenes, others : names that can be written

    Raises
    ------
    InputError
        A name is none of these.
    """
    if asked is None:
        return frozenset((*scenes, *others))
    out: set[str] = set()
    for name in asked:
        known = (SCENES, *others, *scenes)
        if name not in known:
            words = f"--outputs {name!r}{nearest(name, known)} Wanted some of {', '.join(known[:6])}"
            raise InputError(words)
        out.update(scenes if name == SCENES else (name,))
    return frozenset(out)
