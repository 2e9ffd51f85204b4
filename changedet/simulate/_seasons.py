"""The season of plants."""

from __future__ import annotations

import numpy as np


def greenness(doy: float, green_up: float, senescence: float, pace_d: float = 9.0) -> float:
    """Double logistic of the season, 0 to 1."""
    up, down = np.clip([(doy - green_up) / pace_d, (doy - senescence) / (1.4 * pace_d)], -40, 40)
    return max(float(1 / (1 + np.exp(-up)) - 1 / (1 + np.exp(-down))), 0.0)
