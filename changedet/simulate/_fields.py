"""Random numbers by purpose, and smooth random fields."""

from __future__ import annotations

from zlib import crc32

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def stream(seed: int, purpose: str, index: int = 0) -> np.random.Generator:
    """Generator of one purpose: what one cause draws never moves the numbers of another."""
    return np.random.default_rng([seed & 0xFFFFFFFF, crc32(purpose.encode()), index])


def fractal(
    rng: np.random.Generator,
    shape: tuple[int, int],
    scale_px: float,
    slope: float = 2.0,
    stretch: float = 1.0,
) -> Array:
    """Periodic Gaussian field, mean 0, sd 1, float32 `(y, x)`.

    Amplitude is flat below the frequency `1 / scale_px` and falls as `frequency**-slope` beyond.
    """
    import scipy.fft

    fy = np.fft.fftfreq(shape[0])[:, None].astype(np.float32)
    fx = np.fft.rfftfreq(shape[1])[None, :].astype(np.float32)
    gain = (1 + (fy**2 + fx**2) * np.float32(scale_px) ** 2) ** np.float32(-slope / 2)
    gain[0, 0] = 0
    white = rng.standard_normal(shape, dtype=np.float32)
    field = scipy.fft.irfft2(scipy.fft.rfft2(white) * gain, s=shape)
    return np.asarray(field / (field.std() + 1e-12), dtype=np.float32)


class Bank:
    """A few fields made once; every draw is one of them, rolled and mirrored, so that dates do not repeat."""

    def __init__(self, rng: np.random.Generator, shape: tuple[int, int], scales_px: dict[str, float]) -> None:
        self.fields = {
            name: [fractal(rng, shape, px, 2.6) for _ in range(2)] for name, px in scales_px.items()
        }

    def draw(self, rng: np.random.Generator, name: str) -> Array:
        """Field of the named scale, float32 `(y, x)`, mean 0, sd 1."""
        field = self.fields[name][int(rng.integers(2))]
        rolled = np.roll(
            field, (int(rng.integers(field.shape[0])), int(rng.integers(field.shape[1]))), (0, 1)
        )
        flip_y, flip_x = (1 - 2 * int(k) for k in rng.integers(0, 2, 2))
        return rolled[::flip_y, ::flip_x] * np.float32(1 - 2 * int(rng.integers(2)))


def smoothstep(x: Array, low: float, high: float) -> Array:
    """0 below `low`, 1 above `high`, smooth between, float32."""
    t = np.clip((x - np.float32(low)) / np.float32(high - low), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), dtype=np.float32)
