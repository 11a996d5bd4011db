"""Pictures for the tests of the practice."""

import io

import numpy as np
from PIL import Image

BOX = 400
"""Pixels of the bright box of `picture`."""


def picture(box: tuple[int, int, int, int] | None = (20, 24, 40, 44), side: int = 64, seed: int = 0) -> bytes:
    """A gray disk with noise, bright in the box: PNG."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] + 0.5
    pixels = np.where((x - side / 2) ** 2 + (y - side / 2) ** 2 < (side * 0.45) ** 2, 60, 0)
    pixels = np.where(pixels > 0, pixels + rng.integers(0, 20, pixels.shape), 0).astype(np.uint8)
    if box:
        pixels[box[1] : box[3], box[0] : box[2]] = 220
    return png(pixels)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
