"""A picture made worse, step by step: what a scanner, a phone or a messenger may do to it."""

import io
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance


class Damage(NamedTuple):
    """How a picture is changed; the defaults leave it as it is.

    Attributes:
        brightness: factor on all pixels, above 0.
        noise: standard deviation of what is added to each pixel, in gray levels of 255.
        rotation: degrees, against the clock; what was outside becomes black.
        crop: percent of the width and height that is cut off, half on either side.
        quality: of JPEG, 1 to 95; 100 for no JPEG.
    """

    brightness: float = 1.0
    noise: int = 0
    rotation: int = 0
    crop: int = 0
    quality: int = 100

    @property
    def none(self) -> bool:
        """Whether the picture stays as it is."""
        return self == Damage()


class Kind(NamedTuple):
    """One kind of damage.

    Attributes:
        title: in words.
        unit: of its strength, on an axis.
        steps: from none to strong.
    """

    title: str
    unit: str
    steps: tuple[float, ...]


KINDS = {
    "brightness": Kind("Darker", "brightness, factor", (1.0, 0.8, 0.6, 0.45, 0.3, 0.2)),
    "noise": Kind("Noise", "noise, gray levels", (0, 8, 16, 24, 36, 50)),
    "rotation": Kind("Rotation", "rotation, degrees", (0, 10, 25, 45, 90, 180)),
    "crop": Kind("Crop", "cut off, percent", (0, 10, 20, 30, 40, 50)),
    "quality": Kind("JPEG", "JPEG quality, 100 for none", (100, 60, 30, 15, 8, 3)),
}
"""The kinds, by the field of `Damage`."""


def damaged(image: Image.Image, damage: Damage) -> Image.Image:
    """The picture after all damage: turned, cut, brightened, noisy, saved as JPEG, in that order.

    Args:
        image: RGB of any size.
        damage: what is done. The same damage of the same picture gives the same pixels.

    Returns:
        RGB; smaller than `image` if it was cropped.
    """
    found = image.convert("RGB")
    if damage.rotation:
        found = found.rotate(damage.rotation, Image.Resampling.BICUBIC)
    if damage.crop:
        dx, dy = (round(side * damage.crop / 200) for side in found.size)
        found = found.crop((dx, dy, found.width - dx, found.height - dy))
    if damage.brightness != 1:
        found = ImageEnhance.Brightness(found).enhance(damage.brightness)
    if damage.noise:
        pixels = np.asarray(found, np.float32)
        grains = np.random.default_rng(0).normal(0, damage.noise, pixels.shape[:2])
        found = Image.fromarray(np.clip(pixels + grains[..., None], 0, 255).astype(np.uint8))
    if damage.quality < 100:
        file = io.BytesIO()
        found.save(file, "JPEG", quality=int(damage.quality))
        with Image.open(file) as saved:
            found = saved.convert("RGB")
    return found
