"""What kind of picture one is, by its pixels."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from bthub.imaging.image_io import read_image
from bthub.imaging.kinds import has_color, is_drawing

EXAMPLES = sorted((Path(__file__).parents[2] / "space" / "examples").glob("*.png"))


def ellipse(*levels: int) -> Image.Image:
    """Ellipses inside one another, black around them."""
    image = Image.new("L", (256, 240))
    for i, level in enumerate(levels):
        ImageDraw.Draw(image).ellipse((40 + 20 * i, 20 + 20 * i, 200 - 20 * i, 180 - 20 * i), fill=level)
    return image


def as_jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return Image.open(buffer)


@pytest.mark.parametrize(
    "image",
    [
        ellipse(255),
        ellipse(90),
        ellipse(85, 170, 255),
        Image.merge("RGB", [ellipse(255), ellipse(0, 200), ellipse(40)]),
    ],
    ids=["mask", "dark mask", "labels", "colors"],
)
def test_a_mask_is_a_drawing(image):
    pixels = np.asarray(image.convert("RGB"))
    assert all(is_drawing(other) for other in (pixels, 255 - pixels, np.kron(pixels, np.ones((4, 4, 1), np.uint8))))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_slice_is_none(path):
    pixels = read_image(path)
    gray = pixels[..., 1]
    pages = [np.pad(gray, ((side, side), (side, 4 * side)), constant_values=255) for side in (20, 64, 128)]
    repeated = np.kron(gray, np.ones((4, 4), np.uint8))
    dim = gray // 60  # five levels that are nearly black
    assert not is_drawing(pixels)
    for other in (gray, *pages, repeated, dim, gray // 8 * 8, 255 - gray):
        assert not is_drawing(np.stack([other] * 3, axis=2))


TINTS = {"warm": (255, 225, 160), "cold": (215, 232, 255), "orange": (255, 180, 90), "green": (120, 255, 120)}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_tint_is_no_color(path):
    image = Image.open(path).convert("RGB")
    assert has_color(image) == (image.getchannel(0).tobytes() != image.getchannel(1).tobytes())
    gray = np.asarray(image.getchannel(1), float)[..., None]
    for name, tint in TINTS.items():
        toned = Image.fromarray((gray * tint / 255).round().astype(np.uint8))
        assert not has_color(toned), name
        # Compression adds some color where the tint is strong.
        assert name in ("orange", "green") or not has_color(as_jpeg(toned).convert("RGB")), name
