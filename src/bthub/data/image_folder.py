"""Image-folder classification sets, whose classes are the names of the folders that the images lie in.

Either ``CLASS/image.jpg``, or ``train/CLASS/image.jpg`` and ``test/CLASS/image.jpg`` as the set's publisher
split it.
"""

import csv
import io
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType

import numpy as np
from datasets import ClassLabel, Features, List, Value
from datasets import Image as ImageFeature
from PIL import Image
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from sklearn.neighbors import radius_neighbors_graph

from bthub.data.archive import Source, pick_root
from bthub.data.splits import SEED, SPLITS
from bthub.errors import BthubError
from bthub.imaging.checks import without_warnings
from bthub.imaging.image_io import SUFFIXES, check_file

# Named, so that a file of another kind under one of these suffixes meets no other decoder.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF")
# What publishers call the folders of their own split.
_SHIPPED = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
_MAX_PIXELS = 64_000_000
BOXES = "boxes.csv"
"""Beside the class folders of a set with boxes: columns file, x0, y0, x1, y1, pixels from the top left corner."""
RUN_GAP = 20
"""Numbers left out on either side of a held-out run: more than a patient of the one set with boxes has slices."""
# What folders of masks are called: a set of pictures and masks has no classes.
_MASKS = frozenset({"mask", "masks", "groundtruth", "ground_truth", "gt", "annotation", "annotations", "segmentation"})
_IMAGES = frozenset({"image", "images", "img", "imgs", "picture", "pictures", "scan", "scans", "slice", "slices"})
_MASK_NAME = re.compile(r".*[_ -]mask(?:[_ -]?\d+)?", re.IGNORECASE)
# How often places are drawn for the runs of a class until they leave each other at least half of their pictures.
_DRAWS = 100
# Shares held out of what the publisher hasn't split.
HELD_OUT = {"validation": 0.15, "test": 0.15}
# Two files show the same picture if their thumbnails of this side correlate so well, be it of all that is in them or of
# the head alone. In the two sets that this was looked at on, copies are above one of these, saved again, resized or cut
# to another margin, and neighboring slices of one patient below both.
THUMBNAIL = 32
SAME = 0.995
SAME_HEAD = 0.98
# Two files may show the same picture, cut elsewhere or brightened, if all that is in them correlates so well; most such
# pairs don't. Between the two sets that this was looked at on, none of the pairs next below it did.
ALIKE = 0.8
# Pictures of a set of consecutive slices that correlate so well with one of another set, or whose heads do, may be
# neighbors of it in one patient: half of such neighbors do, and one in ten slices of other patients: a small loss.
NEIGHBOR = 0.93
NEIGHBOR_HEAD = 0.9
# The head is where a row and a column have more than such a share of pixels above such a share of the brightest ones.
_LIT = 0.02
_BRIGHT = 0.15


BOX = List(Value("float32"))
"""x0, y0, x1, y1 in pixels from the top left corner; null where a picture has none."""
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Picture:
    """One image of a set: its path in the source, its class, and the publisher's split, if it has one."""

    file: str
    label: str
    shipped: str | None


def features(classes: list[str], boxes: bool = False) -> Features:
    """The columns of an image-folder set, of one with boxes also `box`."""
    columns = {
        "image": ImageFeature(),
        "label": ClassLabel(names=classes),
        "file": Value("string"),
        "group": Value("int32"),
        "also_in": Value("string"),
    }
    return Features(columns | ({"box": BOX} if boxes else {}))


def find_images(source: Source) -> list[Picture]:
    """All images of a source, sorted by path. Nothing is read yet.

    Raises:
        BthubError: there are none, they do not lie in class folders, there is one class only, or the
            publisher's splits have different classes.
    """
    roots: dict[str, list[Picture]] = defaultdict(list)
    masks = source.left_out.setdefault("files named as masks", [])
    others = source.left_out.setdefault("files not named as pictures", [])
    for name in source.names:
        path = PurePosixPath(name)
        if path.name.lower() == BOXES:
            continue
        if path.suffix.lower() not in SUFFIXES:
            others.append(name)
            continue
        if _MASK_NAME.fullmatch(path.stem):
            masks.append(name)
            continue
        label, above = path.parent.name, path.parent.parent
        if not label or label.lower() in _SHIPPED:
            raise BthubError(
                f"{source.where(name)}: an image outside of the class folders; put it in a folder named after its class"
            )
        shipped = _SHIPPED.get(above.name.lower())
        roots[str(above.parent if shipped else above)].append(Picture(name, label, shipped))
    if not roots:
        raise BthubError(
            f"{source.path}: no images found; give the folder or zip of the LGG MRI Segmentation set, "
            "or one folder of images per class"
        )
    root = pick_root(source, {root: [p.file for p in pictures] for root, pictures in roots.items()}, "classes")
    pictures = roots[root]

    by_split: dict[str | None, set[str]] = defaultdict(set)
    for picture in pictures:
        by_split[picture.shipped].add(picture.label)
    classes = set().union(*by_split.values())
    names = {name.lower() for name in classes}
    if names & _MASKS and (names & _IMAGES or len(names) == 2):
        raise BthubError(
            f"{source.where(root)}: {' and '.join(sorted(classes))} look like pictures and their masks, not like two"
            " classes; give folders that are named after classes, and if these are classes, rename them"
        )
    if None in by_split and len(by_split) > 1:
        stray = next(picture for picture in pictures if picture.shipped is None)
        raise BthubError(
            f"{source.where(stray.file)}: a class folder beside the set's train and test folders; "
            "move its images into these, or remove it"
        )
    for split, labels in by_split.items():
        if labels != classes:
            missing = ", ".join(sorted(classes - labels))
            raise BthubError(f"{source.where(root)}: no images of {missing} in {split}; restore that folder")
    if len(classes) < 2:
        raise BthubError(
            f"{source.where(root)}: only one class folder ({classes.pop()}) holds images; "
            "give the folder above all classes"
        )
    if "train" not in by_split or len(by_split) == 1:
        # Half a split is none: what there is gets split like a flat set.
        pictures = [Picture(p.file, p.label, None) for p in pictures]
    return pictures


def read_boxes(source: Source, pictures: list[Picture]) -> dict[str, Box]:
    """The box of each picture that has one, by the picture's path; empty where the set has no BOXES file.

    Raises:
        BthubError: a line isn't four numbers in the order x0 < x1, y0 < y1, or names no picture of the set.
    """
    files = {picture.file for picture in pictures}
    boxes: dict[str, Box] = {}
    for name in source.names:
        path = PurePosixPath(name)
        if path.name.lower() != BOXES:
            continue
        text = source.read(name).decode("utf-8-sig", errors="replace")
        for number, line in enumerate(csv.DictReader(io.StringIO(text)), start=2):
            where = f"{source.where(name)}: line {number}"
            try:
                x0, y0, x1, y1 = (float(line[key]) for key in ("x0", "y0", "x1", "y1"))
            except (KeyError, TypeError, ValueError) as error:
                raise BthubError(f"{where}: expected the columns file, x0, y0, x1, y1 with four numbers") from error
            file = str(path.parent / (line.get("file") or ""))
            if file not in files:
                raise BthubError(
                    f"{where}: {line.get('file')!r} is not an image of the set; correct or remove the line"
                )
            if not (0 <= x0 < x1 and 0 <= y0 < y1):
                raise BthubError(f"{where}: received {x0}, {y0}, {x1}, {y1}, expected 0 <= x0 < x1 and 0 <= y0 < y1")
            boxes[file] = (x0, y0, x1, y1)
    return boxes


def numbers_of(pictures: list[Picture], where: str) -> list[int]:
    """The number in each picture's file name, the last one.

    Raises:
        BthubError: a name has none.
    """
    numbers = []
    for picture in pictures:
        found = re.findall(r"\d+", PurePosixPath(picture.file).stem)
        if not found:
            raise BthubError(
                f"{where}: {picture.file} has no number in its name, but a set with {BOXES} is split by "
                "runs of numbers; rename it"
            )
        numbers.append(int(found[-1]))
    return numbers


def decode(data: bytes, where: str) -> Image.Image:
    """The decoded picture in an image file's bytes.

    Raises:
        BthubError: it is damaged, not an image, too large, or of a kind that `read_image` refuses.
    """
    try:
        # What Pillow opens isn't yet what is trained on: of a stack it gives the first slice and says nothing.
        check_file(data, where)
    except BthubError as error:
        raise BthubError(f"{error}; download it again or remove it") from error
    try:
        with without_warnings():  # of metadata: the pixels have been checked
            picture = Image.open(io.BytesIO(data), formats=_FORMATS)
            size = picture.size
            if size[0] * size[1] <= _MAX_PIXELS:
                picture.load()
                return picture
    except Exception as error:
        # Pillow raises anything from SyntaxError to struct.error on damaged files, so no narrower net holds.
        raise BthubError(
            f"{where}: a picture that training can't open ({error}); save it again as PNG or remove it"
        ) from error
    raise BthubError(f"{where}: {size[0]}x{size[1]} pixels is too large (at most {_MAX_PIXELS:,}); remove it")


def thumbnail(picture: Image.Image) -> np.ndarray:
    """What is compared of a picture: (2, THUMBNAIL * THUMBNAIL), of all that is in it, and of the head alone.

    Gray values of mean 0 and length 1, all 0 if it is blank. The same picture in another size, format, color mode or
    brightness has nearly the same ones, and with another margin nearly the same second.
    """
    # Pillow clips pictures of more than 8 bits when it converts them to gray.
    deep = picture.mode.startswith(("I", "F"))
    gray = np.asarray(picture, np.float32) if deep else np.asarray(picture.convert("L"), np.float32)
    return np.stack([_small(gray), _small(_head(gray))])


def _head(gray: np.ndarray) -> np.ndarray:
    """A picture (H, W) without its dark margin; all of it where nothing is left."""
    bright = gray > _BRIGHT * np.percentile(gray, 99)
    rows, columns = (np.flatnonzero(bright.mean(axis=axis) > _LIT) for axis in (1, 0))
    if len(rows) == 0 or len(columns) == 0:
        return gray
    return gray[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _small(gray: np.ndarray) -> np.ndarray:
    """(THUMBNAIL * THUMBNAIL,) of mean 0 and length 1."""
    values = np.asarray(Image.fromarray(gray).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)).ravel()
    values = values - values.mean()
    length = np.linalg.norm(values)
    # Rounding leaves a little of a blank picture.
    return values / length if length > 1e-3 else np.zeros_like(values)


def same_pictures(thumbnails: Sequence[np.ndarray]) -> list[int]:
    """A number for each thumbnail, the same for those that correlate by SAME, their heads by SAME_HEAD, or more.

    Directly or by way of others. Numbers are given in order of appearance.
    """
    whole, head = np.stack(thumbnails, axis=1)
    _, group = connected_components(_near(whole, SAME) + _near(head, SAME_HEAD), directed=False)
    _, first = np.unique(group, return_index=True)
    rank = {group[i]: number for number, i in enumerate(sorted(first))}
    return [rank[g] for g in group]


def _near(vectors: np.ndarray, correlation: float) -> csr_array:
    """Which pairs of (N, D) vectors of length 1 correlate so well: (N, N)."""
    # The squared distance of such a pair is twice what the correlation lacks of 1.
    return radius_neighbors_graph(vectors, np.sqrt(2 * (1 - correlation)), include_self=True)


def resemble(
    thumbnails: Sequence[np.ndarray], others: Sequence[np.ndarray], whole: float = ALIKE, head: float = SAME_HEAD
) -> list[bool]:
    """For each thumbnail, whether it, or its head, correlates so well or better with any of the others."""
    if not len(thumbnails) or not len(others):
        return [False] * len(thumbnails)
    alike = np.einsum("ikd,jkd->kij", np.stack(thumbnails), np.stack(others), optimize=True)
    return ((alike[0] >= whole) | (alike[1] >= head)).any(axis=1).tolist()


def draw_splits(
    pictures: list[Picture], group: list[int], held_out: Mapping[str, float] = MappingProxyType(HELD_OUT)
) -> list[str]:
    """The split of each picture, the publisher's or drawn with seed 42.

    A flat set is split 70 / 15 / 15, the publisher's train 85 / 15 into train and validation if there is no
    validation, stratified by class. Copies of one picture stay together in what is drawn; the publisher's test is left
    as it is.

    Args:
        pictures: of a set.
        group: of each picture, from `same_pictures`.
        held_out: shares of `validation` and `test`; a split whose share is 0 isn't drawn.

    Raises:
        BthubError: a class has too few different images to be split.
    """
    splits = [picture.shipped for picture in pictures]
    if "validation" in splits:
        return splits
    draw = [split for split, share in held_out.items() if share > 0 and split not in splits]
    groups: dict[int, list[int]] = defaultdict(list)
    for i, shipped in enumerate(splits):
        if shipped in (None, "train"):
            groups[group[i]].append(i)
    by_class: dict[str, list[list[int]]] = defaultdict(list)
    for copies in groups.values():
        by_class[pictures[copies[0]].label].append(copies)

    rng = np.random.default_rng(SEED)
    for label, members in sorted(by_class.items()):
        if len(members) <= len(draw):
            raise BthubError(
                f"class {label!r} has only {len(members)} different images, too few to split into train and "
                f"{' and '.join(draw)}; add images or remove the class"
            )
        order = [members[i] for i in rng.permutation(len(members))]
        for served, split in enumerate(draw):
            target = max(1, round(held_out[split] * sum(map(len, members))))
            # However unequal the groups are, one is left for each split that comes after, train included.
            kept, taken = len(draw) - served, 0
            while len(order) > kept and taken < target:
                copies = order.pop()
                taken += len(copies)
                for i in copies:
                    splits[i] = split
        for copies in order:
            for i in copies:
                splits[i] = "train"
    return splits


def draw_runs(
    labels: Sequence[str], numbers: Sequence[int], group: Sequence[int], held_out: Mapping[str, float]
) -> list[str | None]:
    """The split of each picture of a set whose numbers run patient by patient, by runs of numbers within each class.

    Each held-out split gets one run of neighboring numbers of each class, at a place drawn with seed 42. Pictures less
    than RUN_GAP numbers away from a held-out run are in no split, because they may show the patient that is in it, and
    neither are copies of a picture with a lower number, which would otherwise join the runs.

    Args:
        labels, numbers: of each picture.
        group: the same for copies of one picture, from `same_pictures`.
        held_out: shares of `validation` and `test`.

    Returns:
        `train`, `validation`, `test`, or None for what is left out.

    Raises:
        BthubError: a class has too few pictures.
    """
    splits: list[str | None] = [None] * len(labels)
    rng = np.random.default_rng(SEED)
    seen: set[int] = set()
    firsts: dict[str, list[int]] = defaultdict(list)
    for i in sorted(range(len(labels)), key=lambda i: (labels[i], numbers[i])):
        if group[i] not in seen:
            seen.add(group[i])
            firsts[labels[i]].append(i)
    wanted = [split for split, share in held_out.items() if share > 0]
    for label, members in sorted(firsts.items()):
        places = np.array([numbers[i] for i in members])
        sizes = [max(1, round(held_out[split] * len(members))) for split in wanted]
        free = len(members) - sum(sizes)
        if free <= len(wanted):
            raise BthubError(
                f"class {label!r} has only {len(members)} different images, too few to split into runs of numbers for "
                f"train and {' and '.join(wanted)}; add images or remove the class"
            )
        for _ in range(_DRAWS):
            # Where the runs begin: so many pictures of train stand before each of them.
            before = np.sort(rng.integers(0, free + 1, size=len(wanted)))
            order = rng.permutation(len(wanted))
            start, runs = 0, []
            for place, which in zip(np.diff(before, prepend=0), order, strict=True):
                start += int(place)
                runs.append((wanted[which], start, start + sizes[which]))
                start += sizes[which]
            taken = np.array([None] * len(members), dtype=object)
            for split, first, end in runs:
                taken[first:end] = split
            for split, first, end in runs:
                near = (places > places[first] - RUN_GAP) & (places < places[end - 1] + RUN_GAP)
                # Of two runs that are neighbors, each loses what is near the other.
                taken[near & (taken != split)] = "gap"
            left = {split: int((taken == split).sum()) for split in wanted}
            if all(2 * left[split] > size for split, size in zip(wanted, sizes, strict=True)) and None in taken:
                break
        else:
            raise BthubError(f"class {label!r} has too few images for runs with gaps of {RUN_GAP} numbers; add images")
        for i, split in zip(members, taken, strict=True):
            splits[i] = "train" if split is None else None if split == "gap" else split
    return splits


def also_in(splits: list[str], group: list[int]) -> list[str]:
    """For each picture the first of the splits before its own, in the order of SPLITS, that has a copy of it; or ""."""
    homes: dict[int, set[str]] = defaultdict(set)
    for split, number in zip(splits, group, strict=True):
        homes[number].add(split)
    return [
        next((name for name in SPLITS[: SPLITS.index(split)] if name in homes[number]), "")
        for split, number in zip(splits, group, strict=True)
    ]
