"""From a data set's rows to training tensors: joint augmentation of image and mask, and what is drawn in an epoch."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import torch
from datasets import Dataset as Rows
from datasets import Image as ImageFeature
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchvision import tv_tensors
from torchvision.transforms import v2

from bthub.imaging.image_io import upright_rgb
from bthub.progress import progress_bar

FLAIR = 1  # channels of an LGG slice: pre-contrast, FLAIR, post-contrast


@dataclass(frozen=True)
class Augmentation:
    """How far a training sample may be moved. Everything at 0 leaves it as it is.

    Attributes:
        flip: probability of a left-right flip.
        rotation: largest angle, degrees.
        translate: largest shift, share of the side.
        scale: largest change of size, share.
        shear: largest shear, degrees.
        intensity: largest change of gain and of gamma, share, drawn for each channel by itself, since the sequences
            of a scan vary one by one.
        missing_sequence: probability for pre- and for post-contrast to be replaced by FLAIR, as the data itself
            does where a sequence was not acquired. A gray upload then isn't new to the model.
    """

    flip: float = 0.5
    rotation: float = 15
    translate: float = 0.06
    scale: float = 0.15
    shear: float = 5
    intensity: float = 0.25
    missing_sequence: float = 0.1


class RandomIntensity(v2.Transform):
    """Multiply each channel by a gain and raise it to a gamma; float images with values 0-1."""

    _transformed_types = (tv_tensors.Image,)

    def __init__(self, strength: float):
        super().__init__()
        self.strength = strength

    def make_params(self, flat_inputs: list) -> dict[str, Tensor]:
        draw = 1 + self.strength * (2 * torch.rand(2, 3, 1, 1) - 1)
        return {"gain": draw[0], "gamma": draw[1]}

    def transform(self, inpt: Tensor, params: dict[str, Tensor]) -> Tensor:
        return tv_tensors.wrap((inpt * params["gain"]).clamp(0, 1) ** params["gamma"], like=inpt)


class MissingSequence(v2.Transform):
    """Replace pre-contrast, post-contrast or both by FLAIR, each with probability `p`."""

    _transformed_types = (tv_tensors.Image,)

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def make_params(self, flat_inputs: list) -> dict[str, list[int]]:
        missing = torch.rand(2) < self.p
        return {"source": [FLAIR if missing[0] else 0, FLAIR, FLAIR if missing[1] else 2]}

    def transform(self, inpt: Tensor, params: dict[str, list[int]]) -> Tensor:
        return tv_tensors.wrap(inpt[params["source"]], like=inpt)


@cache
def training_transform(size: int, augmentation: Augmentation) -> v2.Transform:
    """Letterbox to `size` and augment an image together with its mask; the image becomes float, values 0-1."""
    a = augmentation
    return v2.Compose(
        [
            v2.Resize(None, max_size=size, antialias=True),  # the longest side
            v2.CenterCrop(size),  # pads the shorter one with black
            v2.RandomHorizontalFlip(a.flip),
            v2.RandomAffine(
                degrees=a.rotation,
                translate=(a.translate, a.translate),
                scale=(1 - a.scale, 1 + a.scale),
                shear=a.shear,
                interpolation=v2.InterpolationMode.BILINEAR,
            ),
            MissingSequence(a.missing_sequence),
            v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
            RandomIntensity(a.intensity),
        ]
    )


class Draw(NamedTuple):
    """One sample of an epoch: which row, the seed of its augmentation, and the side it is resized to."""

    index: int
    seed: int
    size: int


class EpochSampler(Sampler[Draw]):
    """What is drawn in an epoch, from the seed and the epoch's number alone.

    So an epoch is the same after a resume, with any number of worker or training processes.

    Args:
        positive: (N,) True where there is a tumor.
        seed: of the run.
        positive_share: share of tumor rows in an epoch, None for the share they have. Rows beyond those there are
            come again, with another augmentation.
    """

    def __init__(self, positive: Sequence[bool], seed: int, positive_share: float | None = None):
        self.positive = np.asarray(positive, dtype=bool)
        self.seed = seed
        self.positive_share = positive_share
        self.epoch = 0
        self.size = 0

    # Not named set_epoch: Accelerate calls that itself, with a count that a resume starts over.
    def start_epoch(self, epoch: int, size: int) -> None:
        self.epoch, self.size = epoch, size

    def __len__(self) -> int:
        return len(self.positive)

    def __iter__(self) -> Iterator[Draw]:
        rng = np.random.default_rng((self.seed, self.epoch))
        rows = np.arange(len(self))
        if self.positive_share is not None:
            wanted = round(self.positive_share * len(self))
            rows = np.concatenate(
                [
                    self._draw(rng, np.flatnonzero(self.positive), wanted),
                    self._draw(rng, np.flatnonzero(~self.positive), len(self) - wanted),
                ]
            )
        seeds = rng.integers(2**63, size=len(rows))
        for index, seed in zip(rng.permutation(rows).tolist(), seeds.tolist(), strict=True):
            yield Draw(index, seed, self.size)

    @staticmethod
    def _draw(rng: np.random.Generator, rows: np.ndarray, count: int) -> np.ndarray:
        """`count` of the rows, each as often as any other, give or take one."""
        whole, rest = divmod(count, len(rows))
        return np.concatenate([np.tile(rows, whole), rng.choice(rows, rest, replace=False)])


class TrainingImages(Dataset):
    """Rows of a built data set as augmented tensors, read once into memory (0.2 MB a slice of 256 x 256).

    `images[Draw(index, seed, size)]` gives `pixel_values` (3, size, size) float 0-1, `labels`, the class index, and
    for a set with masks `mask` (1, size, size) float, 0 or 1.
    """

    def __init__(self, rows: Rows, augmentation: Augmentation, show_progress: bool = True):
        self.labels = rows["label"][:]
        self.augmentation = augmentation
        self.images = _pixels(rows, "image", upright_rgb, show_progress)
        self.masks = None
        if "mask" in rows.column_names:
            self.masks = _pixels(rows, "mask", partial(Image.Image.convert, mode="L"), show_progress)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Draw) -> dict[str, Tensor | int]:
        transform = training_transform(draw.size, self.augmentation)
        sample = [tv_tensors.Image(self.images[draw.index])]
        if self.masks is not None:
            sample.append(tv_tensors.Mask(self.masks[draw.index]))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(draw.seed)
            sample = transform(sample)
        item = {"pixel_values": sample[0].as_subclass(Tensor), "labels": self.labels[draw.index]}
        if self.masks is not None:
            item["mask"] = (sample[1].as_subclass(Tensor) > 127).float()
        return item


def _pixels(
    rows: Rows, column: str, convert: Callable[[Image.Image], Image.Image], show_progress: bool
) -> list[Tensor]:
    """All pictures of a column as uint8 (C, H, W) tensors."""
    encoded = rows.select_columns([column]).cast_column(column, ImageFeature(decode=False))
    pictures = []
    for row in progress_bar(encoded, desc=f"reading {column}s", unit="row", disable=not show_progress):
        pixels = np.array(convert(Image.open(io.BytesIO(row[column]["bytes"]))))
        pictures.append(torch.from_numpy(np.atleast_3d(pixels).transpose(2, 0, 1).copy()))
    return pictures


class EvaluationImages(Dataset):
    """Rows of a built data set as a model will see them later: no augmentation, the saved preprocessing.

    Args:
        rows: of `load_split`.
        preprocess: RGB image -> float (3, S, S).
        preprocess_mask: for a set with masks, mask image (mode L) -> float (1, S, S), 0 or 1.
    """

    def __init__(
        self,
        rows: Rows,
        preprocess: Callable[[Image.Image], Tensor],
        preprocess_mask: Callable[[Image.Image], Tensor] | None = None,
    ):
        self.rows, self.preprocess, self.preprocess_mask = rows, preprocess, preprocess_mask

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        row = self.rows[index]
        item = {"pixel_values": self.preprocess(upright_rgb(row["image"])), "labels": row["label"]}
        if self.preprocess_mask is not None:
            item["mask"] = self.preprocess_mask(row["mask"])
        return item
