"""Two stages with known answers in numpy alone, for tests in processes that must start fast."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from bthub.inference.pipeline import Pipeline

MODELS = {"detector": {"id": "brightness", "revision": "1"}, "localizer": {"id": "bright-pixels", "revision": "2"}}


class Brightness:
    """Tumor is likelier the brighter the picture."""

    tumor_index = 1

    def predict(self, images: Sequence[Image.Image]) -> np.ndarray:
        logits = 40 * (np.array([np.asarray(image).mean() / 255 for image in images]) - 0.1)
        tumor = 1 / (1 + np.exp(-logits))
        return np.stack([1 - tumor, tumor], axis=1)


class BrightPixels:
    """Bright pixels are tumor."""

    def masks(self, images: Sequence[Image.Image], kinds: object = None) -> list[np.ndarray]:
        return [np.asarray(image)[..., 0] > 127 for image in images]


class DarkCorners:
    """An input check: the corners of a slice are dark."""

    def inspect(self, images: Sequence[Image.Image]) -> list[tuple[bool, str | None]]:
        return [(max(image.getpixel((0, 0))) < 10, None) for image in images]


def make_pipeline(input_check: DarkCorners | None = None) -> Pipeline:
    return Pipeline(Brightness(), BrightPixels(), threshold=0.5, models=MODELS, input_check=input_check)


def blob(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """A gray head-like ellipse with a bright rectangle at box (x0, y0, x1, y1): uint8 (height, width, 3).

    One half lies midway between the two, so that resampling leaves the edge in its place.
    """
    y, x = np.mgrid[:height, :width] + 0.5
    inside = ((x / width - 0.5) / 0.48) ** 2 + ((y / height - 0.5) / 0.48) ** 2 < 1
    image = np.where(inside, 35, 0).astype(np.uint8)
    x0, y0, x1, y1 = box
    image[y0:y1, x0:x1] = 220
    return np.repeat(image[..., None], 3, axis=2)
