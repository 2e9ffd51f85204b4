"""What a structure is, from its size, shape, setting and history.

The rules are few and readable; each number has a physical reason. Probabilities come with a later version,
so a kind is the likeliest name and ``unknown`` where the rules say nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from changedet.columns import Kind


@dataclass(frozen=True)
class Shape:
    """What the rules look at.

    Parameters
    ----------
    area_m2, length_m, width_m : size of the footprint
    over : water, shore or land
    bank_m : distance to the nearest bank, positive over water, None unknown
    status : of the structure
    brighter : mean change of the visible log reflectance; positive = brighter after
    """

    area_m2: float
    length_m: float
    width_m: float
    over: str
    bank_m: float | None
    status: str
    brighter: float


@dataclass(frozen=True)
class Rules:
    """Sizes that tell kinds apart.

    Parameters
    ----------
    pier_m2 : a pier with its cap is 3–6 m wide; blurred by a 3 m pixel it covers up to this much
    cofferdam_m2 : a cofferdam round one pier is 10–25 m wide
    slender : length over width from which on a thing is a line
    line_m : shortest causeway or deck
    deck_m : widest deck with two lanes and railings, blurred
    near_bank_m : an abutment stands where the bank begins
    """

    pier_m2: float = 180.0
    cofferdam_m2: float = 600.0
    slender: float = 2.5
    line_m: float = 30.0
    deck_m: float = 14.0
    near_bank_m: float = 40.0


def classify(shape: Shape, rules: Rules = Rules()) -> Kind:
    """Name the kind of a structure.

    Parameters
    ----------
    shape : its size, shape, setting and history
    rules : sizes that tell kinds apart

    >>> classify(Shape(70, 10, 8, "water", 40, "persistent", 0.5))
    'pier'
    """
    slender = shape.length_m >= rules.slender * max(shape.width_m, 0.1)
    if slender and shape.length_m >= rules.line_m and shape.over != "land":
        return _line(shape, rules)
    if shape.over == "land":
        return _on_land(shape, rules)
    if shape.status in ("removed", "transient") and shape.area_m2 > rules.pier_m2:
        return "pontoon"
    if shape.area_m2 <= rules.pier_m2:
        return "pier"
    return "cofferdam" if shape.area_m2 <= rules.cofferdam_m2 else "platform"


def _line(shape: Shape, rules: Rules) -> Kind:
    """Name a long thing over water or shore."""
    if shape.status in ("removed", "transient"):
        return "pontoon"
    return "deck" if shape.width_m <= rules.deck_m and shape.status != "growing" else "causeway"


def _on_land(shape: Shape, rules: Rules) -> Kind:
    """Name a thing on land."""
    if shape.area_m2 <= rules.pier_m2:
        return "pier"
    if shape.area_m2 <= rules.cofferdam_m2:
        near = shape.bank_m is not None and abs(shape.bank_m) <= rules.near_bank_m
        return "abutment" if near else "building"
    return "earthworks" if shape.brighter > 0 else "unknown"
