"""Areas, holes, outlines and the head, against SciPy and scikit-image, which serving does without."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from skimage.filters import threshold_otsu
from skimage.measure import find_contours, label, regionprops

from bthub.imaging.head import _HEAD_SIDE, _NOISE_LEVELS, _blurred, _otsu, head_mask
from bthub.imaging.regions import fill_holes, label_regions, outline
from bthub.inference.result import measure


def reference_outline(region) -> list[list[float]]:
    filled = np.pad(ndimage.binary_fill_holes(region.image), 1)
    (polygon,) = find_contours(filled, 0.5, fully_connected="high")
    top, left = region.bbox[:2]
    return [[float(x) + left - 0.5, float(y) + top - 0.5] for y, x in polygon]


def masks(seed: int, height: int, width: int, share: float, smooth: bool) -> np.ndarray:
    noise = np.random.default_rng(seed).random((height, width))
    return (
        ndimage.gaussian_filter(noise, 2) > np.quantile(ndimage.gaussian_filter(noise, 2), share)
        if smooth
        else (noise < share)
    )


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    share=st.sampled_from([0.0, 0.1, 0.4, 0.5, 0.6, 0.9, 1.0]),
    smooth=st.booleans(),
)
def test_areas_holes_and_outlines(seed, height, width, share, smooth):
    mask = masks(seed, height, width, share, smooth)
    for diagonal in (False, True):
        found, count = label_regions(mask, diagonal=diagonal)
        expected, number = ndimage.label(mask, np.ones((3, 3)) if diagonal else None)
        assert count == number and np.array_equal(found, expected)
    assert np.array_equal(fill_holes(mask), ndimage.binary_fill_holes(mask))
    regions = sorted(regionprops(label(mask, connectivity=2)), key=lambda region: -region.area)
    assert measure(mask)["contour"] == [reference_outline(region) for region in regions]


def test_an_area_within_a_hole_has_its_own_outline():
    mask = np.zeros((9, 9), bool)
    mask[1:8, 1:8] = True
    mask[2:7, 2:7] = False
    mask[4, 4] = True
    labels, count = label_regions(mask, diagonal=True)
    assert count == 2
    assert sorted(map(tuple, outline(labels, 2, (4, 4, 5, 5))[:-1])) == [(4.0, 4.5), (4.5, 4.0), (4.5, 5.0), (5.0, 4.5)]


def test_thirty_thousand_areas_are_numbered():
    mask = np.zeros((512, 512), bool)
    mask[::3, ::3] = True
    assert label_regions(mask, diagonal=True)[1] == 171 * 171


def reference_head(image: np.ndarray) -> np.ndarray:
    small = Image.fromarray(image)
    small.thumbnail((_HEAD_SIDE, _HEAD_SIDE))
    pixels = np.asarray(small, dtype=np.float32)
    ring = max(1, min(pixels.shape[:2]) // 32)
    border = np.ones(pixels.shape[:2], bool)
    border[ring:-ring, ring:-ring] = False
    contrast = np.abs(pixels - np.median(pixels[border], axis=0)).max(axis=2)
    contrast = np.log(_NOISE_LEVELS + ndimage.gaussian_filter(contrast, max(small.size) / 256))
    regions, _ = ndimage.label(contrast > threshold_otsu(contrast))
    sizes = np.bincount(regions.ravel())
    sizes[0] = 0
    return ndimage.binary_fill_holes((regions == sizes.argmax()) & (regions > 0))


def test_the_head_of_real_slices(kaggle):
    for path in sorted(path for path in kaggle.rglob("*.tif") if not path.stem.endswith("_mask")):
        image = np.asarray(Image.open(path).convert("RGB"))
        for picture in (image, image[:, :180], np.repeat(np.repeat(image, 3, axis=0), 3, axis=1)):
            assert np.array_equal(head_mask(picture), reference_head(picture)), path


@pytest.mark.parametrize("shape", [(16, 16), (40, 200), (512, 300)])
def test_blur_and_threshold(shape):
    values = np.random.default_rng(0).gamma(2, 20, shape).astype(np.float32)
    sigma = max(shape) / 256
    assert np.array_equal(_blurred(values, sigma), ndimage.gaussian_filter(values, sigma))
    assert _otsu(values) == threshold_otsu(values)
