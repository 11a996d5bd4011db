"""What kind of picture one is, by its pixels."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from bthub.imaging.image_io import read_image
from bthub.imaging.kinds import is_drawing

EXAMPLES = sorted((Path(__file__).parents[2] / "space" / "examples").glob("*.png"))


def ellipse(*levels: int) -> Image.Image:
    """Ellipses inside one another, black around them."""
    image = Image.new("L", (256, 240))
    for i, level in enumerate(levels):
        ImageDraw.Draw(image).ellipse((80 + 8 * i, 60 + 8 * i, 150 - 8 * i, 140 - 8 * i), fill=level)
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
        ellipse(255).filter(ImageFilter.GaussianBlur(1)),
        as_jpeg(ellipse(255)),
        Image.merge("RGB", [ellipse(255), ellipse(0, 200), ellipse(40)]),
    ],
    ids=["mask", "dark mask", "labels", "smooth edges", "JPEG", "colors"],
)
def test_a_mask_is_a_drawing(image):
    pixels = np.asarray(image.convert("RGB"))
    assert is_drawing(pixels)
    assert is_drawing(pixels[::2, ::2])


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_slice_is_none(path):
    pixels = read_image(path)
    gray = pixels[..., 1]
    page = np.pad(gray, ((20, 20), (200, 20)), constant_values=255)  # a slice on a white page
    dim = gray // 60  # five levels that are nearly black
    coarse = gray // 8 * 8
    inverted = 255 - gray
    for other in (pixels, *(np.stack([one] * 3, axis=2) for one in (gray, page, dim, coarse, inverted))):
        assert not is_drawing(other)
