"""Tumors moved between training pictures: what changes, where, and that the label goes with it."""

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features
from datasets import Image as Picture

from bthub.data.dataset import load_split
from bthub.data.lgg import LABELS
from bthub.errors import BthubError
from bthub.training.copy_paste import HEAD, cover_tumor, cut_tumor, ellipse_of, paste_tumor
from bthub.training.samples import Augmentation, Draw, TrainingImages

SIDE = 128
STILL = dict(flip=0, rotation=0, translate=0, scale=0, shear=0, intensity=0, missing_sequence=0)


def disk(y: float, x: float, height: float, width: float) -> np.ndarray:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return ((rows - y) / height) ** 2 + ((columns - x) / width) ** 2 <= 1


def head(channels: int = 1, seed: int = 0) -> np.ndarray:
    """A noisy gray ellipse on black: uint8 (C, 128, 128)."""
    noise = np.random.default_rng(seed).integers(80, 100, (channels, SIDE, SIDE))
    return (noise * disk(64, 64, 56, 44)).astype(np.uint8)


def with_tumor(channels: int = 1, x: float = 45) -> tuple[np.ndarray, np.ndarray]:
    mask = disk(50, x, 10, 8)
    pixels = head(channels)
    pixels[:, mask] = 200
    return pixels, mask


@pytest.mark.parametrize(("channels", "donor_channels"), [(1, 1), (1, 3), (3, 3)])
def test_a_pasted_tumor_lies_in_the_head_and_nothing_else_changes(channels, donor_channels):
    tumor = cut_tumor(*with_tumor(donor_channels))
    healthy = head(channels, seed=1)
    places = set()
    for seed in range(20):
        pasted, mask = paste_tumor(np.random.default_rng(seed), healthy, [tumor])
        assert pasted.shape == healthy.shape and pasted.dtype == np.uint8
        assert 0.2 * tumor.mask.sum() < mask.sum() < 3 * tumor.mask.sum()
        changed = (pasted != healthy).any(axis=0)
        # Only the tumor and the soft edge around it.
        assert changed[mask].mean() > 0.9 and changed[~mask].sum() < 3 * mask.sum()
        assert (healthy.max(axis=0)[mask] > HEAD).mean() > 0.85
        inside, outside = pasted[:, mask].mean(), healthy[:, disk(64, 64, 56, 44)].mean()
        assert abs(inside - outside) > 12
        places.add((np.argmax(mask.any(axis=1)), np.argmax(mask.any(axis=0))))
    assert len(places) > 10
    again = paste_tumor(np.random.default_rng(3), healthy, [tumor])
    assert np.array_equal(again[0], paste_tumor(np.random.default_rng(3), healthy, [tumor])[0])


def test_where_nothing_can_be_pasted():
    rng = np.random.default_rng(0)
    gray = cut_tumor(*with_tumor(1))
    assert paste_tumor(rng, head(3), [gray]) is None  # a gray tumor doesn't say what it looks like in color
    assert paste_tumor(rng, np.zeros((1, SIDE, SIDE), np.uint8), [gray]) is None
    like_its_surroundings = cut_tumor(head(1), disk(50, 45, 10, 8))
    assert paste_tumor(rng, head(1), [like_its_surroundings]) is None  # nobody would see it
    pixels, _ = with_tumor()
    assert cut_tumor(pixels, disk(50, 45, 3, 3)) is None  # too small
    assert cut_tumor(np.zeros_like(pixels), disk(50, 45, 10, 8)) is None  # nothing around it


def test_a_covered_tumor_is_what_lies_on_the_other_side():
    for channels in (1, 3):
        pixels, mask = with_tumor(channels)
        covered = cover_tumor(pixels, mask)
        assert covered.max() < 110 and (covered[:, mask] > 70).all()
        far = ~disk(50, 45, 22, 20)
        assert np.array_equal(covered[:, far], pixels[:, far])


def test_tumors_that_cannot_be_covered():
    assert cover_tumor(*with_tumor(x=64)) is None  # across the middle: the other side is tumor, too
    pixels, _ = with_tumor()
    assert cover_tumor(pixels, disk(50, 40, 30, 30)) is None  # too large
    assert cover_tumor(pixels, np.zeros((SIDE, SIDE), bool)) is None
    assert cover_tumor(np.zeros_like(pixels), disk(50, 45, 10, 8)) is None
    pixels, mask = with_tumor()
    assert cover_tumor(pixels, mask) is not None
    pixels[:, 64:, 64:] = 0  # no longer the same on both sides, as a face and the back of a head
    assert cover_tumor(pixels, mask) is None


def test_the_ellipse_of_a_box():
    box = np.zeros((SIDE, SIDE), bool)
    box[20:60, 30:50] = True
    ellipse = ellipse_of(box)
    assert np.allclose(ellipse.sum() / box.sum(), np.pi / 4, atol=0.02)
    assert ellipse[40, 30] and ellipse[20, 40] and not ellipse[20, 30] and not ellipse[~box].any()


@pytest.fixture(scope="module")
def lone() -> Dataset:
    """Pictures that don't name a patient: four without tumor, four with one and its outline."""
    heads = [head(seed=seed)[0] for seed in range(4)]
    tumors = [with_tumor(x=x) for x in (40, 42, 84, 86)]
    return Dataset.from_dict(
        {
            "image": heads + [pixels[0] for pixels, _ in tumors],
            "mask": [None] * 4 + [mask.astype(np.uint8) * 255 for _, mask in tumors],
            "label": [0] * 4 + [1] * 4,
        },
        features=Features({"image": Picture(), "mask": Picture(), "label": ClassLabel(names=LABELS)}),
    )


def test_labels_and_masks_go_with_the_tumor(lone):
    every = Augmentation(**STILL, paste_tumor=1, cover_tumor=1)
    images = TrainingImages(lone, every, show_progress=False, canvas=SIDE, masks=True)
    plain = TrainingImages(lone, Augmentation(**STILL), show_progress=False, canvas=SIDE, masks=True)
    changed = {0: 0, 1: 0}
    for index, label in enumerate(plain.labels):
        draw = Draw(index, 5, SIDE)
        item, before = images[draw], plain[draw]
        if item["labels"] == label:  # no place was found
            assert torch.equal(item["pixel_values"], before["pixel_values"])
            assert torch.equal(item["mask"], before["mask"])
        else:
            changed[label] += 1
            assert not torch.equal(item["pixel_values"], before["pixel_values"])
            assert bool(item["mask"].any()) == (label == 0)
        assert torch.equal(item["pixel_values"], images[draw]["pixel_values"])
        assert images.labels[index] == label  # the row itself stays what it is
    assert changed == {0: 4, 1: 4}
    without_masks = TrainingImages(lone, every, show_progress=False)
    assert [without_masks[Draw(i, 5, SIDE)]["labels"] for i in range(8)] == [1] * 4 + [0] * 4
    half = TrainingImages(lone, Augmentation(**STILL, paste_tumor=0.5), show_progress=False)
    labels = [[half[Draw(i, seed, SIDE)]["labels"] for seed in range(40)] for i in range(8)]
    assert 50 < np.sum(labels[:4]) < 110 and np.all(np.array(labels[4:]) == 1)


def test_slices_of_a_patient_keep_their_label(tiny_lgg):
    rows = load_split(tiny_lgg, "train")
    images = TrainingImages(rows, Augmentation(**STILL, paste_tumor=1, cover_tumor=1), show_progress=False)
    assert images.tumors
    assert [images[Draw(i, 0, 64)]["labels"] for i in range(len(rows))] == rows["label"][:]


def test_data_that_have_no_tumor_to_paste(lone):
    boxless = lone.remove_columns("mask")
    with pytest.raises(BthubError, match="paste_tumor needs training rows with a mask or a box"):
        TrainingImages(boxless, Augmentation(paste_tumor=0.5), show_progress=False)
    TrainingImages(boxless, Augmentation(cover_tumor=0.5), show_progress=False)
    others = lone.cast_column("label", ClassLabel(names=["glioma", "meningioma"]))
    with pytest.raises(BthubError, match=f"need the labels {', '.join(LABELS)}, these rows have glioma, meningioma"):
        TrainingImages(others, Augmentation(cover_tumor=0.5), show_progress=False)
