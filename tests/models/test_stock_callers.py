"""The ResUNet's processor, called as transformers' own processors are."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SegformerImageProcessor

from bthub.models.resunet import ResUNetImageProcessor


@pytest.fixture(scope="module")
def processor():
    return ResUNetImageProcessor(size={"height": 64, "width": 64})


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (96, 48, 3)).astype(np.uint8)


LOGITS = torch.full((2, 1, 64, 64), -4.0)
LOGITS[:, :, 20:40, 24:36] = 4


def test_without_sizes_the_maps_have_the_models_grid(processor):
    maps = processor.post_process_semantic_segmentation(SimpleNamespace(logits=LOGITS))
    assert [tuple(m.shape) for m in maps] == [(64, 64)] * 2 and maps[0].dtype == torch.long
    assert torch.equal(maps[0], (LOGITS[0, 0] > 0).long())
    theirs = SegformerImageProcessor().post_process_semantic_segmentation(SimpleNamespace(logits=LOGITS))
    assert [m.shape for m in maps] == [m.shape for m in theirs]


@pytest.mark.parametrize("kind", [torch.tensor, np.array, list, tuple])
def test_sizes_of_any_kind(kind, processor):
    sizes = [(96, 48), (50, 70)]
    expected = processor.post_process_semantic_segmentation(SimpleNamespace(logits=LOGITS), sizes)
    for method in ("post_process_semantic_segmentation", "post_process_probability"):
        maps = getattr(processor, method)(SimpleNamespace(logits=LOGITS), target_sizes=kind(sizes))
        assert [tuple(m.shape) for m in maps] == sizes
    found = processor.post_process_semantic_segmentation(SimpleNamespace(logits=LOGITS), target_sizes=kind(sizes))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True)) and found[0].any()
    segments = processor.post_process_panoptic_segmentation(SimpleNamespace(logits=LOGITS), target_sizes=kind(sizes))
    assert [tuple(one["segmentation"].shape) for one in segments] == sizes and segments[0]["segments_info"]


@pytest.mark.parametrize(
    "sizes",
    [
        [(96, 48)],
        [(96, 48)] * 3,
        [(96, 48), (0, 4)],
        [(96, 48, 3)] * 2,
        (100, 90),
        torch.tensor([96, 48]),
        [None, (10, 10)],
        64,
        ["ab", "cd"],
    ],
)
def test_sizes_that_do_not_fit(sizes, processor):
    with pytest.raises(ValueError, match="target size"):
        processor.post_process_semantic_segmentation(SimpleNamespace(logits=LOGITS), target_sizes=sizes)


def test_floats_that_are_scaled_already(processor, picture):
    expected = processor(picture, return_tensors="pt")["pixel_values"]
    floats = (picture / 255).astype(np.float32)
    found = processor(floats, do_rescale=False, return_tensors="pt")["pixel_values"]
    assert found.shape == expected.shape and (found - expected).abs().max() < 1.1 / 255  # bytes are rounded, twice
    with pytest.raises(ValueError, match="do_rescale=False"):
        processor(floats, return_tensors="pt")
    levels = processor(picture.astype(np.float32), return_tensors="pt")["pixel_values"]
    assert (levels - expected).abs().max() < 1.1 / 255


def test_without_resizing_images_stay_as_they_are(processor, picture):
    found = processor(picture[:64, :32], do_resize=False, return_tensors="pt")["pixel_values"]
    assert found.shape == (1, 3, 64, 32)
    np.testing.assert_allclose(found[0].permute(1, 2, 0), picture[:64, :32] / 255, atol=1e-6)
    with pytest.raises(ValueError, match="multiples of 32"):
        processor(picture[:50], do_resize=False, return_tensors="pt")
    with pytest.raises(ValueError, match="several sizes"):
        processor([picture, picture[:64, :32]], do_resize=False, return_tensors="pt")
    logits = torch.randn(1, 1, 64, 32)
    (kept,) = processor.post_process_probability(SimpleNamespace(logits=logits), [(64, 32)])
    assert torch.equal(kept, logits[0, 0].sigmoid())
    (larger,) = processor.post_process_probability(SimpleNamespace(logits=logits), [(128, 64)])
    assert tuple(larger.shape) == (128, 64)


def test_other_switches(processor, picture):
    plain = ResUNetImageProcessor(size={"height": 64, "width": 64}, image_mean=[0.5] * 3, image_std=[0.25] * 3)
    on, off = (plain(picture, do_normalize=value, return_tensors="pt")["pixel_values"] for value in (True, False))
    torch.testing.assert_close(on, (off - 0.5) / 0.25)
    raw = processor(picture, do_rescale=False, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(raw / 255, processor(picture, return_tensors="pt")["pixel_values"])
    twice = processor(picture, rescale_factor=2 / 255, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(twice, raw * 2 / 255)
    gray = processor(picture[..., :1], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(gray, processor(Image.fromarray(picture[..., 0]), return_tensors="pt")["pixel_values"])
    with pytest.raises(ValueError, match="square"):
        processor(picture, size={"height": 64, "width": 32}, return_tensors="pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda picture: picture > 90, "are bool"),
        (lambda picture: picture / 127.5 - 1, "floats of -1 to 1: pass do_rescale=False"),
        (lambda picture: picture.astype(np.float32) - 128, "hold -128 to 127, expected levels of 0-255"),
        (lambda picture: np.where(picture > 250, np.nan, picture), "NaN"),
        (lambda picture: picture.astype(np.uint16) * 257, "hold 0 to 65535, expected levels of 0-255"),
    ],
)
def test_numbers_that_are_no_levels(change, message, processor, picture):
    with pytest.raises(ValueError, match=message):
        processor(change(picture), return_tensors="pt")


def test_the_usual_factor_of_sixteen_bits(processor, picture):
    found = processor(picture.astype(np.uint16) * 257, rescale_factor=1 / 65535, return_tensors="pt")["pixel_values"]
    assert (found - processor(picture, return_tensors="pt")["pixel_values"]).abs().max() < 1.1 / 255


@pytest.mark.parametrize("size", [{"shortest_edge": 64}, {"height": 50, "width": 50}])
def test_sizes_that_the_network_cannot_take(size, processor, picture):
    with pytest.raises(ValueError, match="expected height and width, the same multiple of 32"):
        processor(picture, size=size, return_tensors="pt")


def test_outputs_that_require_gradients(processor):
    outputs = SimpleNamespace(logits=LOGITS.clone().requires_grad_())
    maps = processor.post_process_semantic_segmentation(outputs, [(96, 48)] * 2)
    assert maps[0].any() and processor.post_process_panoptic_segmentation(outputs)[0]["segments_info"]
