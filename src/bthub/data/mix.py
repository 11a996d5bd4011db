"""`bthub data mix`: several built sets -> one set labeled tumor or no tumor, with the source of each row.

A row keeps its split. Where a picture has a copy, or one that resembles it, in another split of any of the sets, one of
the two is left out, so that nothing held out is known from training. LGG keeps its patients (protocol `patient`), and
its benchmark patients stay out.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature

from bthub.data import card, image_folder, lgg
from bthub.data.build import CARD, ParquetFiles, content_digest, whole_or_nothing
from bthub.data.dataset import BuiltDataset
from bthub.data.facts import Facts, of_mixture, write
from bthub.data.fingerprint import name_of
from bthub.data.progress import progress_bar
from bthub.errors import BthubError
from bthub.imaging.labels import is_healthy

MIXED = ("train", "validation", "test")
FEATURES = Features(
    {
        "image": ImageFeature(),
        "mask": ImageFeature(),
        "box": image_folder.BOX,
        "label": ClassLabel(names=lgg.LABELS),
        "source": Value("string"),
        "class": Value("string"),
        "patient_id": Value("string"),
        "slice_index": Value("int32"),
        "file": Value("string"),
        "group": Value("int32"),
    }
)
"""Columns of a mixture: `mask` and `patient_id` where LGG gives them, `box` where a set has boxes, else null."""


PATIENTS, CONSECUTIVE, PICTURES = "patients", "consecutive slices", "pictures"
"""Kinds of sets: split by patient (LGG), by runs of numbers (with boxes), or picture by picture."""


@dataclass(frozen=True)
class Row:
    """What decides about a row: its source, its split there, its class there, its thumbnail, and its set's kind."""

    source: str
    split: str
    label: str
    thumbnail: np.ndarray
    kind: str = PICTURES


@dataclass(frozen=True)
class Mixture:
    """What became of the rows of all sets.

    Attributes:
        splits: of each row; None where it is left out.
        group: the same number for copies of one picture, across all sets.
        left_out: how many rows of each (source, split) are left out.
    """

    splits: list[str | None]
    group: list[int]
    left_out: Counter[tuple[str, str]]


def mix(sets: Sequence[Path], out: Path, test_only: Sequence[Path] = ()) -> Mixture:
    """Write the mixture of some built sets. The same sets give the same bytes.

    Args:
        sets: folders of `bthub data build`, two or more with those of `test_only`.
        out: the folder to write, missing or empty.
        test_only: of further sets all pictures become test, so that a run on the mixture has seen nothing from there.

    Raises:
        BthubError: `out` isn't empty, a set isn't there, two have one name, or one has a single class.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BthubError(f"{out}: already exists and is not empty; remove it or give another output folder")
    built = {name_of(path): BuiltDataset(path) for path in (*sets, *test_only)}
    if len(built) < 2 or len(built) < len(sets) + len(test_only):
        raise BthubError(
            f"expected two or more sets with different names, received {', '.join(map(str, (*sets, *test_only)))}"
        )
    tested = {name_of(path) for path in test_only}
    parts = [(name, split, rows) for name, each in built.items() for split, rows in _splits(each)]
    looked_at = []
    for name, split, rows in parts:
        classes, kind = rows.features["label"].names, _kind(built[name].facts)
        pictures = zip(rows["image"], rows["label"][:], strict=True)
        for image, label in progress_bar(pictures, f"Comparing {name} {split}", len(rows), unit="image"):
            assigned = "test" if name in tested else split
            looked_at.append(Row(name, assigned, classes[label], image_folder.thumbnail(image), kind))
    mixture = arrange(looked_at)

    with whole_or_nothing(out) as folder:
        counted: Counter[tuple[str, str, str]] = Counter()
        decided = zip(looked_at, mixture.splits, mixture.group, strict=True)
        with ParquetFiles(folder, FEATURES) as parquet:
            for row in progress_bar(_raw(parts), "Writing", len(looked_at), unit="image"):
                about, split, group = next(decided)
                if split is None:
                    continue
                label = lgg.LABELS[0] if is_healthy(about.label) else lgg.LABELS[1]
                row |= {"label": lgg.LABELS.index(label), "class": about.label, "source": about.source}
                parquet.add(f"data/{split}.parquet", {**row, "group": group})
                counted[about.source, split, label] += 1
        name = out.resolve().name
        text = card.mixture_card(name, counted, mixture.left_out, sorted(tested), content_digest(folder))
        (folder / CARD).write_text(text, encoding="utf-8")
        write(folder, of_mixture(name, [each.facts for each in built.values()], sources=(*built,)))
    return mixture


def arrange(rows: Sequence[Row]) -> Mixture:
    """Which rows stay in their split, so that nothing held out is known from training.

    Where a row of train is related to a held-out row, one of them is left out; likewise where a row of validation is
    related to one of test. Within a set the earlier split loses the row; across sets the larger set does, because it
    costs less there; so a publisher's test may lose the pictures that are known from elsewhere.

    Related are copies. Of two image-folder sets also pictures that resemble each other, as cut or brightened copies do
    (`ALIKE`), or as neighboring slices do where one of the sets has consecutive slices (`NEIGHBOR`). LGG's patients
    are in no other set here, so of them only copies count.

    Args:
        rows: of all sets.
    """
    group = np.array(image_folder.same_pictures([row.thumbnail for row in rows]))
    thumbnails = np.stack([row.thumbnail for row in rows])
    source, split = (np.array([getattr(row, name) for row in rows]) for name in ("source", "split"))
    kinds = {row.source: row.kind for row in rows}
    size = {name: int((source == name).sum()) for name in kinds}
    kept = np.ones(len(rows), dtype=bool)
    # Sets in the order of their size: what a small one keeps is settled before a larger one is asked.
    for first in sorted(kinds, key=lambda name: (size[name], name)):
        for second in sorted(kinds, key=lambda name: (size[name], name)):
            if (size[first], first) > (size[second], second):
                continue
            for early, late in (("train", ("validation", "test")), ("validation", ("test",))):
                # Of one set the earlier split loses, else the second set, in either direction.
                for losing, keeping in ((np.array([early]), late), (np.array(late), (early,))):
                    if first == second and losing[0] != early:
                        continue
                    own = np.flatnonzero(kept & (source == second) & np.isin(split, losing))
                    others = np.flatnonzero(kept & (source == first) & np.isin(split, keeping))
                    related = np.isin(group[own], group[others])
                    if first != second and PATIENTS not in (kinds[first], kinds[second]):
                        limits = (
                            (image_folder.NEIGHBOR, image_folder.NEIGHBOR_HEAD)
                            if CONSECUTIVE in (kinds[first], kinds[second])
                            else ()
                        )
                        related |= np.array(
                            image_folder.resemble(thumbnails[own], thumbnails[others], *limits), dtype=bool
                        )
                    kept[own[related]] = False
    left_out = Counter((rows[i].source, rows[i].split) for i in np.flatnonzero(~kept))
    splits = [row.split if keep else None for row, keep in zip(rows, kept.tolist(), strict=True)]
    return Mixture(splits, group.tolist(), left_out)


def _kind(facts: Facts) -> str:
    if facts.patients:
        return PATIENTS
    return CONSECUTIVE if facts.boxes else PICTURES


def _splits(built: BuiltDataset) -> Iterator[tuple[str, Dataset]]:
    """Train, validation and test of a set, those of LGG by patient."""
    there = built.splits()
    for split in MIXED:
        if split in there:
            rows = built.load(split)
            names = rows.features["label"].names
            if len(names) < 2 or not any(map(is_healthy, names)):
                raise BthubError(
                    f"{built.name} has the classes {', '.join(names)}, expected one without tumor "
                    "(such as no_tumor, no or healthy) and one or more with"
                )
            yield split, rows


def _raw(parts: Sequence[tuple[str, str, Dataset]]) -> Iterator[dict]:
    """The rows of all parts with the files as they were built, undecoded."""
    for _, _, rows in parts:
        files = [name for name in ("image", "mask") if name in rows.column_names]
        for name in files:
            rows = rows.cast_column(name, ImageFeature(decode=False))
        for row in rows:
            if "patient_id" in row:
                row["file"] = f"{row['patient_id']}/{row['slice_index']}"
            yield {name: row.get(name) for name in ("image", "mask", "box", "patient_id", "slice_index", "file")}
