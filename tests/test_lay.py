"""Two images laid on one another."""

import dask
import numpy as np
import pytest
import xarray as xr
from affine import Affine
from scipy.ndimage import fourier_shift as turned
from scipy.ndimage import gaussian_filter

from changedet.errors import SettingError
from changedet.grid import Grid, attach
from changedet.steps.align import lay


def images(shift=(0.0, 0.0), size=240, seed=0, bands=("blue", "green", "red", "nir")):
    """Ground with detail, seen twice: the second time moved, in other light and with its own noise."""
    rng = np.random.default_rng(seed)
    detail = [0.15 * gaussian_filter(rng.standard_normal((size, size)), 1.5) for _ in bands]
    ground = [0.1 + 0.2 * (name == "nir") + part for name, part in zip(bands, detail, strict=True)]
    moved = [np.fft.ifft2(turned(np.fft.fft2(g), shift)).real * 1.1 + 0.01 for g in ground]
    grid = Grid.make("EPSG:32652", Affine(10, 0, 600_000, 0, -10, 4_700_000), (size, size))
    names = {"band": np.array(bands, dtype=object)}
    noisy = [(np.stack(g) + 0.002 * rng.standard_normal((len(bands), size, size))) for g in (ground, moved)]
    return [attach(n.astype(np.float32), grid, dims=("band", "y", "x"), coords=names) for n in noisy]


def test_the_later_image_is_laid_on_the_earlier():
    before, after = images((0.9, -0.6))
    after = after.assign_attrs(sensor="planetscope")
    kept = after.copy(deep=True)
    moved, found = lay(before, after)
    assert found.accepted and np.hypot(found.dy + 0.9, found.dx - 0.6) < 0.03
    inner = (slice(None), slice(12, -12), slice(12, -12))
    left = np.std((moved.values - 0.01) / 1.1 - before.values, axis=(1, 2), where=np.isfinite(moved.values))
    assert (left < 0.5 * np.std((after.values - 0.01) / 1.1 - before.values, axis=(1, 2))).all()
    assert np.isfinite(moved.values[inner]).all() and moved.attrs == after.attrs
    assert moved.dims == after.dims and moved.coords.identical(after.coords)
    xr.testing.assert_identical(after, kept)


def test_a_short_shift_is_told_but_not_applied():
    before, after = images((0.15, 0.1))
    moved, found = lay(before, after)
    assert moved is after and found.accepted and found.size_px == pytest.approx(0.18, abs=0.03)
    assert lay(before, after, apply_above_px=0.1)[0] is not after
    with pytest.raises(SettingError, match="apply_above_px"):
        lay(before, after, apply_above_px=-1)


def test_chunks_do_not_matter():
    before, after = images((0.9, -0.6))
    whole, found = lay(before, after)
    with dask.config.set(scheduler="sync"):
        lazy, same = lay(before.chunk(y=70, x=90), after.chunk(y=70, x=90))
        assert lazy.chunks is not None and same == found
        np.testing.assert_allclose(lazy.values, whole.values, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_matched_stays():
    before, after = images()
    flat = after.copy(data=np.random.default_rng(5).normal(0.05, 0.002, after.shape).astype(np.float32))
    moved, found = lay(before, flat)
    assert moved is flat and not found.accepted and found.why
    gone = after.copy(data=np.full(after.shape, np.nan, np.float32))
    assert lay(before, gone)[1].why == "no usable pixel"
