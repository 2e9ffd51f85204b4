"""Shifts that differ from place to place: what is recovered, what is refused, and pixels moved once."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from changedet.errors import SettingError
from changedet.grid import Grid
from changedet.scenes import Quality, make_stack
from changedet.steps._resample_field import Field, apply_field
from changedet.steps.align import align, apply_shift, register, resample

SIDE = 384
TIE_PX = 0.1


def ground(rng, n):
    """A landscape at twice the resolution: texture at several scales, and parcels with sharp edges."""
    size = 2 * n

    def smooth(sigma):
        made = ndimage.gaussian_filter(rng.standard_normal((size, size)), sigma, mode="wrap")
        return made / made.std()

    texture = 0.6 * smooth(2) + 0.8 * smooth(6) + smooth(20)
    parcels = np.digitize(smooth(25), np.linspace(-1.5, 1.5, 9))
    return [
        ndimage.gaussian_filter(0.1 + 0.012 * texture + 0.011 * ((parcels * (b + 1) + b) % 10), 1)
        for b in range(3)
    ]


def truth_of(kind, amplitude=1.0):
    """(dy, dx) to apply, as a function of places from 0 to 1."""

    def at(y, x):
        if kind == "none":
            return 0 * y, 0 * x
        if kind == "shift":
            return 0 * y + 0.4, 0 * x - 0.3
        if kind == "affine":
            return 0.3 + amplitude * (0.6 * (x - 0.5) - 0.4 * (y - 0.5)), amplitude * (0.7 * (y - 0.5)) - 0.2
        bend = np.sin(2 * np.pi * x + 0.4) * np.cos(np.pi * y)
        return 0.2 + 0.5 * amplitude * bend, 0.5 * amplitude * np.sin(np.pi * x + 0.3) - 0.3

    return at


def pair(kind, seed=0, n=SIDE, *, noise=0.003, changed=0.1):
    """Stack of a reference and a moving scene, and the shift that lays the second on the first, (2, n, n).

    The moving scene is drawn from the finer landscape by splines of the fifth order, then averaged; it has
    another gain, noise, and changed blocks.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0 : 2 * n, 0 : 2 * n].astype(float)
    at, y, x = truth_of(kind), rows, columns
    for _ in range(5):  # where the content of each moving pixel lies in the reference
        dy, dx = at(y / (2 * n), x / (2 * n))
        y, x = rows + 2 * dy, columns + 2 * dx
    blocks = ndimage.zoom(rng.random((n // 16, n // 16)), 16, order=0) < changed

    def seen(fine):
        return fine.reshape(n, 2, n, 2).mean(axis=(1, 3))

    reference, moving = [], []
    for band in ground(rng, n):
        other = seen(ndimage.map_coordinates(band, [y, x], order=5, mode="reflect"))
        other = 1.08 * np.where(blocks, other + 0.08 + 0.02 * rng.standard_normal((n, n)), other) + 0.01
        reference.append(seen(band) + noise * rng.standard_normal((n, n)))
        moving.append(other + noise * rng.standard_normal((n, n)))
    half = (np.mgrid[0:n, 0:n] + 0.5) / n
    return stacked(reference, moving), np.stack(at(*half))


def stacked(*images):
    images = np.array(images, np.float32)
    grid = Grid.make("EPSG:32652", Affine(3, 0, 5e5, 0, -3, 47e5), images.shape[-2:])
    when = np.datetime64("2024-05-01") + 10 * np.arange(len(images)).astype("timedelta64[D]")
    return make_stack(images, grid, dates=when, bands=("blue", "green", "red")[: images.shape[1]])


PAIRS = {kind: pair(kind) for kind in ("none", "shift", "affine", "local")}


FOUND = {kind: register(stack, reference="first", model="auto") for kind, (stack, _) in PAIRS.items()}
BENT = FOUND["local"]


def errors_px(found, truth):
    """Distance of a registration from the truth on a lattice that leaves a rim out."""
    rows, columns = (a.ravel() for a in np.mgrid[16 : SIDE - 16 : 8, 16 : SIDE - 16 : 8])
    there = found.at(rows.astype(float), columns.astype(float))
    return np.hypot(*(there - truth[:, rows, columns].T).T)


# what is recovered


@pytest.mark.parametrize(
    ("kind", "model", "wanted"),
    [
        ("affine", "affine", "affine"),
        ("affine", "auto", "affine"),
        ("local", "local", "local"),
        ("local", "auto", "local"),
    ],
)
def test_known_distortions_are_recovered(kind, model, wanted):
    """Noise, another gain, a tenth of changed pixels."""
    stack, truth = PAIRS[kind]
    one, found = FOUND[kind] if model == "auto" else register(stack, reference="first", model=model)
    assert one.shift.why == "the reference"
    assert found.shift.accepted and found.model == wanted, found.shift.why
    assert np.quantile(errors_px(found, truth), 0.95) <= TIE_PX
    assert found.shift.residual_px < 0.1
    dy, dx = found.shift.dy, found.shift.dx
    assert np.hypot(dy - truth[0].mean(), dx - truth[1].mean()) < 0.05
    at = np.rint(found.ties.row).astype(int), np.rint(found.ties.column).astype(int)
    off = np.hypot(*(found.ties.shift - truth[:, at[0], at[1]].T).T)
    assert np.quantile(off, 0.95) <= TIE_PX


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(["affine", "local"]))
def test_any_landscape_will_do(seed, kind):
    stack, truth = pair(kind, seed, changed=0.1)
    found = register(stack, reference="first", model="auto")[1]
    assert found.model == kind, found.shift.why
    assert np.quantile(errors_px(found, truth), 0.95) <= TIE_PX


@pytest.mark.parametrize("kind", ["none", "shift"])
@pytest.mark.parametrize("model", ["affine", "local", "auto"])
def test_one_shift_is_not_made_worse(kind, model):
    stack, truth = PAIRS[kind]
    plain = register(stack, reference="first")[1]
    found = FOUND[kind][1] if model == "auto" else register(stack, reference="first", model=model)[1]
    assert found.model == "translation" and found.field is None
    assert (found.shift.dy, found.shift.dx) == (plain.shift.dy, plain.shift.dx)
    assert "held-out residual" in found.shift.why and found.shift.why.startswith(plain.shift.why)
    assert errors_px(found, truth).max() < 0.02


def test_models_beat_one_shift_where_it_differs():
    for kind in ("affine", "local"):
        stack, truth = PAIRS[kind]
        plain, bent = register(stack, reference="first"), FOUND[kind]
        straight, curved = (np.median(errors_px(found[1], truth)) for found in (plain, bent))
        assert curved < 0.25 * straight
        moved = [resample(stack, found, apply_above_px=0.1)["image"].values for found in (plain, bent)]
        assert np.nanmedian(np.abs(moved[1][1] - moved[1][0])) < np.nanmedian(
            np.abs(moved[0][1] - moved[0][0])
        )


@pytest.mark.parametrize("model", ["affine", "local", "auto"])
def test_flat_water_and_noise_are_refused(model):
    rng = np.random.default_rng(0)
    flat = np.broadcast_to(np.array([0.06, 0.05, 0.03])[:, None, None], (3, 200, 200))
    for images in (
        (flat + 0.002 * rng.standard_normal(flat.shape), flat + 0.002 * rng.standard_normal(flat.shape)),
        (flat, flat),
    ):
        out = align(stacked(*images), reference="first", model=model)
        assert not out["shift_accepted"].values[1] and not out["shift_applied"].values[1]
        np.testing.assert_array_equal(out["image"].values[1], np.float32(images[1]))


def test_what_reaches_too_far_is_refused():
    stack, _ = PAIRS["affine"]
    found = register(stack, reference="first", model="affine", max_shift_px=0.45)[1]
    assert found.field is None or found.field.largest_px <= 0.45


def test_large_rasters_are_sampled_in_tiles():
    stack, truth = PAIRS["affine"]
    found = register(stack, reference="first", model="affine", sample_px=144)[1]
    assert found.model == "affine", found.shift.why
    assert len(found.ties) <= 4 * 9  # nine tiles hold four windows each
    assert np.quantile(errors_px(found, truth), 0.95) <= 2 * TIE_PX


def test_a_stack_with_one_bent_scene():
    """The median is the reference; the straight scenes stay straight."""
    stack, truth = PAIRS["affine"]
    rng = np.random.default_rng(3)
    still = stack["image"].values[0]
    images = [still + 0.003 * rng.standard_normal(still.shape) for _ in range(4)]
    out = align(stacked(*images[:2], stack["image"].values[1], *images[2:]), model="affine")
    assert list(out["shift_model"].values) == ["translation"] * 2 + ["affine"] + ["translation"] * 2
    assert abs(float(out["shift_dy_px"][2]) - truth[0].mean()) < 0.05


def test_tie_points_of_one_shift_can_be_asked_for():
    stack, truth = PAIRS["shift"]
    plain, asked = register(stack, reference="first"), register(stack, reference="first", ties=True)
    assert [r.shift for r in plain] == [r.shift for r in asked]
    assert len(plain[1].ties) == 0 and len(asked[1].ties) >= 20
    apart = np.hypot(*(asked[1].ties.shift - truth[:, 0, 0]).T)
    assert np.quantile(apart, 0.9) <= TIE_PX


def test_settings_are_checked():
    stack, _ = PAIRS["none"]
    for wrong in ({"model": "projective"}, {"max_shift_px": 9}):
        with pytest.raises(SettingError, match="wanted"):
            register(stack, **wrong)
    with pytest.raises(SettingError, match="apply_above_px"):
        resample(stack, register(stack), apply_above_px=-1)


# pixels


def field_of(shape, bend, level=(0.3, -0.6)):
    """A smooth field on 9 nodes."""
    rows, columns = (np.linspace(0, n - 1, 9) for n in shape)
    y, x = np.meshgrid(rows / shape[0], columns / shape[1], indexing="ij")
    return Field(rows, columns, np.stack([level[0] + bend * np.sin(3 * x), level[1] + bend * np.cos(3 * y)]))


def whole(field, shape):
    window = (slice(0, shape[0]), slice(0, shape[1]))
    return field.component(0, window), field.component(1, window)


@settings(max_examples=20, deadline=None)
@given(dy=st.floats(-2.5, 2.5), dx=st.floats(-2.5, 2.5), holes=st.booleans())
def test_a_field_that_is_one_shift_moves_as_the_shift(dy, dx, holes):
    rng = np.random.default_rng(0)
    image = ndimage.gaussian_filter(rng.standard_normal((40, 44)), 1.5).astype(np.float32)
    dy, dx = (round(v * 1024) / 1024 for v in (dy, dx))
    if holes:
        image[rng.random(image.shape) < 0.02] = np.nan
    field = field_of(image.shape, 0.0, (dy, dx))
    ours, wanted = apply_field(image, *whole(field, image.shape)), apply_shift(image, (dy, dx))
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(wanted))
    np.testing.assert_allclose(ours, wanted, atol=2e-6)


def test_a_bent_field_moves_as_splines_do():
    image = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((120, 130)), 2).astype(
        np.float32
    )
    dy, dx = whole(field_of(image.shape, 1.2), image.shape)
    rows, columns = np.mgrid[0:120, 0:130]
    wanted = ndimage.map_coordinates(image.astype(float), [rows - dy, columns - dx], order=3, mode="mirror")
    inner = (slice(8, -8), slice(8, -8))
    assert np.abs(apply_field(image, dy, dx) - wanted)[inner].max() < 0.03 * image.std()


def test_a_constant_stays_constant_beside_holes():
    image = np.full((50, 60), 0.3, np.float32)
    image[np.random.default_rng(0).random(image.shape) < 0.03] = np.nan
    kept = image.copy()
    image.setflags(write=False)
    moved = apply_field(image, *whole(field_of(image.shape, 0.8), image.shape))
    np.testing.assert_allclose(moved[np.isfinite(moved)], 0.3, atol=2e-6)
    assert 0.3 < np.isfinite(moved).mean() < 0.9
    np.testing.assert_array_equal(image, kept)


@pytest.mark.parametrize(("y", "x"), [(50, 70), (384, 41), (128, 128)])
def test_chunked_equals_unchunked(y, x):
    stack, _ = PAIRS["local"]
    stack = stack.copy(deep=True)
    stack["image"].values[1, :, 100:130, 200:260] = np.nan
    stack["quality"].values[1, 100:130, 200:260] = Quality.CLOUD
    found = BENT
    eager = resample(stack, found)
    lazy = resample(stack.chunk(y=y, x=x), found)
    assert eager["shift_applied"].values[1] and eager["shift_model"].values[1] == "local"
    assert lazy["image"].chunks is not None and lazy["quality"].chunks is not None
    xr.testing.assert_identical(lazy.compute(scheduler="sync"), eager)
    lost = np.isnan(eager["image"].values[1]).any(axis=0)
    assert (eager["quality"].values[1][lost] > 0).all()
    assert (eager["quality"].values[1] & Quality.CLOUD).sum() >= 30 * 60
    again = resample(stack.chunk(y=y, x=x), found)
    assert lazy["image"].data.name == again["image"].data.name


def test_lazy_registration_is_the_same():
    stack, _ = PAIRS["local"]
    found = register(stack.chunk(y=100, x=90), reference="first", model="auto")
    assert [one.shift for one in found] == [one.shift for one in BENT]
    np.testing.assert_array_equal(found[1].field.shift, BENT[1].field.shift)
