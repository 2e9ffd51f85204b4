"""Area of what fills no pixel, from its light."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from changedet.steps.extent import extent

SUB = 20


def _seen(side_px: float, reflectance: float, at: tuple[float, float], behind: float = 0.05) -> np.ndarray:
    """Return what a square adds to an image of 11 × 11 pixels through a blur of 0.5 px."""
    fine = np.zeros((11 * SUB, 11 * SUB))
    top, left = (round((5.5 + a - side_px / 2) * SUB) for a in at)
    width = round(side_px * SUB)
    fine[top : top + width, left : left + width] = reflectance - behind
    return gaussian_filter(fine, 0.5 * SUB).reshape(11, SUB, 11, SUB).mean(axis=(1, 3))


@pytest.mark.parametrize("at", [(0.0, 0.0), (0.5, 0.5), (0.25, -0.4)])
@pytest.mark.parametrize(("area", "within"), [(0.4, 0.25), (0.8, 0.25), (1.5, 0.4)])
def test_area_and_place_of_what_is_smaller_than_its_pixels(
    area: float, within: float, at: tuple[float, float]
) -> None:
    added = _seen(area**0.5, 0.25, at)
    found = extent(added, np.full(added.shape, 0.05), added > 0.4 * added.max())
    assert found is not None
    assert found.area_px == pytest.approx(area, rel=within)
    assert (found.row, found.column) == pytest.approx((5 + at[0], 5 + at[1]), abs=0.15)


def test_what_is_darker_than_concrete_is_too_small_by_a_bounded_factor() -> None:
    added = _seen(1.0, 0.15, (0.0, 0.0))
    found = extent(added, np.full(added.shape, 0.05), added > 0.4 * added.max())
    assert found is not None
    assert 0.4 <= found.area_px <= 1.0


def test_what_fills_a_pixel_keeps_its_own_brightness() -> None:
    added = _seen(3.0, 0.15, (0.0, 0.0))
    found = extent(added, np.full(added.shape, 0.05), (added > 0.7 * added.max()))
    assert found is None or found.area_px >= 5


def test_nothing_is_said_of_large_or_darker_things_and_of_noise() -> None:
    added = _seen(6.0, 0.3, (0.0, 0.0))
    behind = np.full(added.shape, 0.05)
    assert extent(added, behind, added > 0.4 * added.max()) is None
    small = _seen(1.0, 0.3, (0.0, 0.0))
    footprint = small > 0.4 * small.max()
    assert extent(-small, behind, footprint) is None
    assert extent(np.where(np.indices(small.shape).sum(axis=0) % 2, 0.01, -0.01), behind, footprint) is None
    assert extent(np.full(small.shape, np.nan), behind, footprint) is None


def test_gaps_and_the_input_stay_as_they_are() -> None:
    added = _seen(0.9, 0.25, (0.0, 0.0))
    added[0, 0] = np.nan
    before = added.copy()
    extent(added, np.full(added.shape, 0.05), np.nan_to_num(added) > 0.4 * np.nanmax(added))
    np.testing.assert_array_equal(added, before)
