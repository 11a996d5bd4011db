"""From a data set's rows to training batches: what is drawn in an epoch, and how a batch is augmented.

Pictures are read and letterboxed once. What is random is drawn for each sample from its own seed (`TrainingImages`);
`augment` then moves a whole batch, images and masks together, on whatever device it lies.
"""

import io
import math
import string
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset as Rows
from datasets import Image as ImageFeature
from PIL import Image, ImageDraw
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from bthub.data.lgg import LABELS
from bthub.data.progress import progress_bar
from bthub.data.views import FLAIR, View, show
from bthub.errors import BthubError
from bthub.imaging.image_io import upright_rgb
from bthub.imaging.kinds import has_color
from bthub.models.resunet import letterbox_box
from bthub.training.copy_paste import Tumor, cover_tumor, cut_tumor, ellipse_of, paste_tumor

UNKNOWN = 128
"""Value of a training mask where it isn't known whether there is tumor; 0 is none, 255 tumor."""
TUMOR = LABELS.index("tumor")
CORE = 0.8
"""Of a box without an outline, the inscribed ellipse shrunk by this is tumor, the rest of the box is UNKNOWN."""


@dataclass(frozen=True)
class Augmentation:
    """How far a training sample may be moved. Everything at 0 leaves it as it is.

    Attributes:
        flip: probability of a left-right flip.
        rotation: largest angle, degrees.
        translate: largest shift, share of the side.
        scale: largest change of size, share.
        shear: largest shear, degrees.
        intensity: largest change of gain and of gamma, share. Drawn for each channel by itself, since the sequences
            of a scan vary one by one; the three channels of a gray picture change together.
        missing_sequence: probability for pre- and for post-contrast to be replaced by FLAIR, as the data itself
            does where a sequence was not acquired. A gray upload then isn't new to the model.
        single_sequence: probabilities of {pre-contrast, FLAIR, post-contrast} of an LGG slice alone, in gray.
        resample: probability of fewer pixels, down to a third of the side.
        jpeg: probability of JPEG compression, quality 30 to 95.
        overlay: probability of burned-in text or a frame.
        paste_tumor: probability for a tumor-free picture to get the tumor of another, see `bthub.training.copy_paste`.
            Not for slices of a patient that the data name: the same scan is there with and without tumor.
        cover_tumor: probability for a picture with a tumor, and with a box or an outline, to have it covered.
            Not for slices of a patient either.
    """

    flip: float = 0.5
    rotation: float = 15
    translate: float = 0.06
    scale: float = 0.15
    shear: float = 5
    intensity: float = 0.25
    missing_sequence: float = 0.1
    single_sequence: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    resample: float = 0.0
    jpeg: float = 0.0
    overlay: float = 0.0
    paste_tumor: float = 0.0
    cover_tumor: float = 0.0


class Draw(NamedTuple):
    """One sample of an epoch: which row, the seed of its augmentation, and the side it is resized to."""

    index: int
    seed: int
    size: int


class EpochSampler(Sampler[Draw]):
    """What is drawn in an epoch, from the seed and the epoch's number alone.

    So an epoch is the same after a resume, with any number of worker or training processes.

    Args:
        strata: (N,) what each row belongs to, such as its class, or its source and class.
        seed: of the run.
        shares: share of each stratum in an epoch, summing to 1; None for the shares they have. Rows come again, with
            another augmentation, where a stratum has fewer of them than are drawn.
        length: draws in an epoch; None for N.
    """

    def __init__(
        self,
        strata: Sequence[Hashable],
        seed: int,
        shares: Mapping[Hashable, float] | None = None,
        length: int | None = None,
    ):
        members: dict[Hashable, list[int]] = {}
        for row, stratum in enumerate(strata):
            members.setdefault(stratum, []).append(row)
        self.members = {stratum: np.array(rows) for stratum, rows in members.items()}
        self.rows = len(strata)
        self.seed = seed
        self.shares = shares
        self.length = length or len(strata)
        self.epoch = 0
        self.size = 0

    # Not named set_epoch: Accelerate calls that itself, with a count that a resume starts over.
    def start_epoch(self, epoch: int, size: int) -> None:
        self.epoch, self.size = epoch, size

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Draw]:
        rng = np.random.default_rng((self.seed, self.epoch))
        if self.shares is None:
            rows = self._draw(rng, np.arange(self.rows), self.length)
        else:
            # Cumulated, so that what rounding gives and takes adds up to the length.
            ends = np.round(np.cumsum(list(self.shares.values())) * self.length).astype(int)
            counts = np.diff(ends, prepend=0)
            drawn = zip(self.shares, counts, strict=True)
            rows = np.concatenate([self._draw(rng, self.members[stratum], count) for stratum, count in drawn])
        seeds = rng.integers(2**63, size=len(rows))
        for index, seed in zip(rng.permutation(rows).tolist(), seeds.tolist(), strict=True):
            yield Draw(index, seed, self.size)

    @staticmethod
    def _draw(rng: np.random.Generator, rows: np.ndarray, count: int) -> np.ndarray:
        """`count` of the rows, each as often as any other, give or take one."""
        whole, rest = divmod(int(count), len(rows))
        return np.concatenate([np.tile(rows, whole), rng.choice(rows, rest, replace=False)])


def rows_of_sources(rows: Rows, source_shares: Mapping[str, float] | None) -> Rows:
    """The rows of the sources that `source_shares` names; all where it is None or empty.

    Raises:
        BthubError: a source isn't there.
    """
    if not source_shares:
        return rows
    sources = rows["source"][:] if "source" in rows.column_names else []
    if unknown := set(source_shares) - set(sources):
        raise BthubError(
            f"source_shares names {', '.join(sorted(unknown))}, the data have "
            f"{', '.join(sorted(set(sources))) or 'no sources: give a mixture of `bthub data mix`'}"
        )
    return rows.select([index for index, source in enumerate(sources) if source in source_shares])


def sampler_of(
    rows: Rows,
    seed: int,
    source_shares: Mapping[str, float] | None = None,
    positive_share: float | None = None,
    length: int | None = None,
) -> EpochSampler:
    """What draws the rows of a training split.

    Args:
        rows: of `load_split`.
        seed: of the run.
        source_shares: of a mixture, the share of each source in an epoch, in any unit. Tumor and no tumor are drawn by
            `positive_share` within each source that has both, None for half.
        positive_share: share of tumor rows (label 1) in an epoch; None for the share they have.
        length: draws in an epoch; None for as many as there are rows.
    """
    labels = rows["label"][:]
    if not source_shares:
        shares = None if positive_share is None else {0: 1 - positive_share, 1: positive_share}
        return EpochSampler(labels, seed, shares, length)
    strata = list(zip(rows["source"][:], labels, strict=True))
    total, tumor = sum(source_shares.values()), 0.5 if positive_share is None else positive_share
    shares = {}
    for source, share in source_shares.items():
        # A source of one class, as one without outlines is to a localizer, gives only that.
        parts = {label: part for label, part in ((0, 1 - tumor), (1, tumor)) if (source, label) in set(strata)}
        shares |= {(source, label): share / total * part / sum(parts.values()) for label, part in parts.items()}
    return EpochSampler(strata, seed, shares, length)


class TrainingImages(Dataset):
    """Rows of a built data set, letterboxed once into memory (0.2 MB a color picture of 256 x 256).

    A loader gets batches for `augment`. `images[Draw(index, seed, size)]` is one sample after it: `pixel_values`
    (3, size, size) float 0-1, `labels`, the class index, and with masks `mask` (1, size, size) float: 1 tumor, 0 none,
    -1 unknown.

    Args:
        rows: of `load_split`.
        augmentation: how far samples are moved.
        show_progress: a bar while pictures are read.
        canvas: side in pixels that pictures are kept at, at least the largest side that is drawn.
        masks: whether masks are wanted; without an outline a healthy row has an empty one, and a row with a box one
            made of it.
    """

    def __init__(
        self,
        rows: Rows,
        augmentation: Augmentation,
        show_progress: bool = True,
        canvas: int = 256,
        masks: bool = False,
    ):
        self.labels = rows["label"][:]
        self.augmentation = augmentation
        self.canvas = canvas
        self.images: list[np.ndarray] = []  # uint8 (3, S, S), gray ones (1, S, S)
        self.masks: list[np.ndarray] | None = [] if masks else None  # uint8 (S, S): 0, 255 or UNKNOWN
        patients = rows["patient_id"][:] if "patient_id" in rows.column_names else [None] * len(rows)
        self.lone = [patient is None for patient in patients]
        self.tumors: list[Tumor] = []  # to be pasted
        self.coverable: dict[int, np.ndarray] = {}  # bool (S, S): where the tumor is, or may be
        exchanges = augmentation.paste_tumor > 0 or augmentation.cover_tumor > 0
        names = rows.features["label"].names
        if exchanges and names != LABELS:
            raise BthubError(
                f"paste_tumor and cover_tumor need the labels {', '.join(LABELS)}, these rows have {', '.join(names)}: "
                "set both to 0"
            )
        wanted = ("image", "mask", "box") if masks or exchanges else ("image",)
        columns = [name for name in wanted if name in rows.column_names]
        encoded = rows.select_columns(columns)
        for name in columns:
            if name != "box":
                encoded = encoded.cast_column(name, ImageFeature(decode=False))
        pictures = progress_bar(encoded, desc="reading pictures", unit="row", disable=not show_progress)
        for index, row in enumerate(pictures):
            image = upright_rgb(Image.open(io.BytesIO(row["image"]["bytes"])))
            self.images.append(letterboxed(image, canvas))
            if len(columns) == 1:
                continue
            outline = row.get("mask") and Image.open(io.BytesIO(row["mask"]["bytes"])).convert("L")
            mask = training_mask(image.size, outline, row.get("box"), canvas)
            if self.masks is not None:
                self.masks.append(mask)
            if exchanges and mask.any():
                within = mask > 0
                if self.lone[index]:
                    self.coverable[index] = within
                tumor = cut_tumor(self.images[-1], within if outline is not None else ellipse_of(within))
                if tumor is not None:
                    self.tumors.append(tumor)
        if augmentation.paste_tumor > 0 and not self.tumors:
            raise BthubError("paste_tumor needs training rows with a mask or a box, these have none: set it to 0")

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Draw) -> dict[str, Tensor | int]:
        batch = augment(self.__getitems__([draw]))
        return {name: values[0] if name != "labels" else int(values[0]) for name, values in batch.items()}

    def __getitems__(self, draws: Sequence[Draw]) -> dict[str, Tensor]:
        """A batch for `augment`: uint8 pictures (B, 3, S, S) and masks (B, 1, S, S), and how each is to be moved."""
        samples = [self._sample(draw) for draw in draws]
        batch = {name: torch.from_numpy(np.stack([sample[name] for sample in samples])) for name in samples[0]}
        # Every picture has a side of its own to be resized to, which is the same in a batch.
        batch["size"] = torch.tensor([draw.size for draw in draws])
        return batch

    def _sample(self, draw: Draw) -> dict[str, np.ndarray]:
        rng, a = np.random.default_rng(draw.seed), self.augmentation
        pixels, label, mask = self._exchanged(draw)
        if len(pixels) == 3:
            alone = rng.choice(4, p=[*a.single_sequence, 1 - sum(a.single_sequence)])
            missing = rng.random(2) < a.missing_sequence
            if alone < 3:
                pixels = pixels[alone : alone + 1]
            elif missing.any():
                pixels = pixels[[FLAIR if missing[0] else 0, FLAIR, FLAIR if missing[1] else 2]]
        pixels = worsened(rng, pixels, a)
        channels = len(pixels)
        gain, gamma = 1 + a.intensity * rng.uniform(-1, 1, (2, channels))
        sample = {
            "pixel_values": np.broadcast_to(pixels, (3, *pixels.shape[1:])),
            "labels": np.int64(label),
            "theta": random_affine(rng, a).astype(np.float32),  # (2, 3)
            "gain": np.broadcast_to(gain, 3).astype(np.float32),
            "gamma": np.broadcast_to(gamma, 3).astype(np.float32),
        }
        if mask is not None:
            sample["mask"] = mask[None]
        return sample

    def _exchanged(self, draw: Draw) -> tuple[np.ndarray, int, np.ndarray | None]:
        """Picture, label and mask of a row, perhaps with a tumor more or less than it had."""
        a, index = self.augmentation, draw.index
        pixels, label = self.images[index], self.labels[index]
        mask = None if self.masks is None else self.masks[index]
        chance = a.cover_tumor if label == TUMOR else a.paste_tumor
        rng = np.random.default_rng((draw.seed, 1))  # of its own, so that the other draws stay what they are without it
        if not (chance > 0 and self.lone[index] and rng.random() < chance):
            return pixels, label, mask
        if label != TUMOR:
            if (found := paste_tumor(rng, pixels, self.tumors)) is not None:
                pixels, label = found[0], TUMOR
                mask = None if mask is None else np.where(found[1], 255, 0).astype(np.uint8)
        elif index in self.coverable and (covered := cover_tumor(pixels, self.coverable[index])) is not None:
            pixels, label = covered, 1 - TUMOR
            mask = None if mask is None else np.zeros_like(mask)
        return pixels, label, mask


def letterboxed(image: Image.Image, size: int) -> np.ndarray:
    """An RGB image in a black square: uint8 (3, size, size), or (1, size, size) where it has no colors.

    The channels of a gray picture that was compressed differ by a level or two.
    """
    top, left, height, width = letterbox_box(image.height, image.width, size)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(resized if has_color(image) else resized.convert("L")).reshape(height, width, -1)
    canvas = np.zeros((pixels.shape[2], size, size), dtype=np.uint8)
    canvas[:, top : top + height, left : left + width] = pixels.transpose(2, 0, 1)
    return canvas


def training_mask(
    shape: tuple[int, int], outline: Image.Image | None, box: Sequence[float] | None, size: int
) -> np.ndarray:
    """What is known about the tumor of a picture, in its letterbox: uint8 (size, size), 0, 255 or UNKNOWN.

    Args:
        shape: width and height of the picture.
        outline: its mask (mode L), if there is one.
        box: else x0, y0, x1, y1 around the tumor, in pixels of the picture, if there is one.
        size: side of the letterbox.
    """
    width, height = shape
    top, left, inner_height, inner_width = letterbox_box(height, width, size)
    if outline is not None:
        canvas = np.zeros((size, size), dtype=np.uint8)
        inner = np.asarray(outline.resize((inner_width, inner_height), Image.Resampling.NEAREST)) > 127
        canvas[top : top + inner_height, left : left + inner_width] = 255 * inner
        return canvas
    drawn = Image.new("L", (size, size))
    if box is not None:
        x0, x1 = (left + x * inner_width / width for x in (box[0], box[2]))
        y0, y1 = (top + y * inner_height / height for y in (box[1], box[3]))
        draw = ImageDraw.Draw(drawn)
        draw.rectangle((x0, y0, x1, y1), fill=UNKNOWN)
        x_margin, y_margin = (1 - CORE) / 2 * (x1 - x0), (1 - CORE) / 2 * (y1 - y0)
        draw.ellipse((x0 + x_margin, y0 + y_margin, x1 - x_margin, y1 - y_margin), fill=255)
    return np.array(drawn)


def random_affine(rng: np.random.Generator, a: Augmentation) -> np.ndarray:
    """Where each place of the result comes from: (2, 3), for `affine_grid` of a square picture."""
    angle, shear = np.deg2rad(rng.uniform(-1, 1, 2) * (a.rotation, a.shear))
    scale = 1 + a.scale * rng.uniform(-1, 1)
    shift = 2 * a.translate * rng.uniform(-1, 1, 2)  # the grid goes from -1 to 1
    mirror = -1.0 if rng.random() < a.flip else 1.0
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    linear = turn @ np.array([[1, math.tan(shear)], [0, 1]]) @ np.diag([mirror, 1.0]) / scale
    return np.concatenate([linear, shift[:, None]], axis=1)


def worsened(rng: np.random.Generator, pixels: np.ndarray, a: Augmentation) -> np.ndarray:
    """A picture uint8 (C, S, S) as it may look after it was passed on: burned-in text or a frame, small, JPEG."""
    overlay, resample, jpeg = rng.random(3) < (a.overlay, a.resample, a.jpeg)
    if not (overlay or resample or jpeg):
        return pixels
    side = pixels.shape[-1]
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    if overlay:
        draw, bright = ImageDraw.Draw(picture), int(rng.integers(120, 256))
        fill = bright if picture.mode == "L" else (bright,) * 3
        if rng.random() < 0.3:
            draw.rectangle((0, 0, side - 1, side - 1), outline=fill, width=int(rng.integers(1, 1 + side // 24)))
        for _ in range(int(rng.integers(1, 5))):
            text = "".join(rng.choice(list(string.ascii_uppercase + string.digits + " .:/"), int(rng.integers(1, 14))))
            edge = 0.02 + 0.16 * rng.random(2) + 0.7 * (rng.random(2) < 0.5)
            draw.text(
                (edge[0] * side * 0.8, edge[1] * side), text, fill=fill, font_size=float(rng.uniform(0.03, 0.07) * side)
            )
    if resample:
        small = int(side * rng.uniform(1 / 3, 1))
        picture = picture.resize((small, small), Image.Resampling.BOX)
    if jpeg:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=int(rng.integers(30, 96)))
        picture = Image.open(file)
    if picture.width != side:
        picture = picture.resize((side, side), Image.Resampling.BILINEAR)
    return np.atleast_3d(np.asarray(picture)).transpose(2, 0, 1)


def augment(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Move a batch of `TrainingImages` as was drawn for each of its samples, on the device that it lies on.

    Args:
        batch: `pixel_values` uint8 (B, 3, S, S), `theta` (B, 2, 3), `gain` and `gamma` (B, 3), `size` (B,), perhaps
            `mask` uint8 (B, 1, S, S), and `labels` (B,).

    Returns:
        `pixel_values` float (B, 3, size, size), 0-1; `labels`; with masks `mask` float (B, 1, size, size): 1 tumor,
        0 none, -1 unknown.
    """
    size = int(batch["size"][0])
    pixels = batch["pixel_values"].float() / 255
    if pixels.shape[-1] != size:
        pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True, align_corners=False)
    grid = F.affine_grid(batch["theta"], [len(pixels), 1, size, size], align_corners=False)
    pixels = F.grid_sample(pixels, grid, align_corners=False)
    gain, gamma = batch["gain"][..., None, None], batch["gamma"][..., None, None]  # (B, 3, 1, 1)
    moved = {"pixel_values": (pixels * gain).clamp(0, 1) ** gamma, "labels": batch["labels"]}
    if "mask" in batch:
        mask = F.grid_sample(batch["mask"].float(), grid, mode="nearest", align_corners=False).round()
        moved["mask"] = torch.where(mask == UNKNOWN, -1.0, (mask > UNKNOWN).float())
    return moved


class EvaluationImages(Dataset):
    """Rows of a built data set as a model will see them later: no augmentation, the saved preprocessing.

    Args:
        rows: of `load_split`.
        preprocess: RGB image -> float (3, S, S).
        preprocess_mask: mask image (mode L) -> float (1, S, S), 0 or 1; None where no masks are wanted. A row without
            an outline has an empty mask.
        views: which rows in which view; None for all as they are.
    """

    def __init__(
        self,
        rows: Rows,
        preprocess: Callable[[Image.Image], Tensor],
        preprocess_mask: Callable[[Image.Image], Tensor] | None = None,
        views: Sequence[View] | None = None,
    ):
        self.rows, self.preprocess, self.preprocess_mask, self.views = rows, preprocess, preprocess_mask, views

    def __len__(self) -> int:
        return len(self.rows if self.views is None else self.views)

    def __getitem__(self, index: int) -> dict[str, Tensor | int]:
        view = None if self.views is None else self.views[index]
        row = self.rows[index if view is None else view.row]
        image = upright_rgb(row["image"])
        item = {
            "pixel_values": self.preprocess(image if view is None else show(image, view.name)),
            "labels": row["label"],
        }
        if self.preprocess_mask is not None:
            outline = row["mask"]
            item["mask"] = self.preprocess_mask(Image.new("L", image.size) if outline is None else outline)
        return item
