"""`bthub data build`: a downloaded data set -> a Parquet folder that `datasets.load_dataset` reads."""

import hashlib
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Features

from bthub.data import card, facts, image_folder, lgg, summary
from bthub.data.archive import Source
from bthub.data.dataset import BuiltDataset
from bthub.data.fingerprint import name_of
from bthub.data.progress import progress_bar
from bthub.data.splits import patient_split, slice_split
from bthub.errors import BthubError

CARD = "README.md"
_ROWS_PER_GROUP = 100


def build(
    source: Path, out: Path, validation: float | None = None, test: float | None = None, unlike: Path | None = None
) -> None:
    """Reads a data set as downloaded, checks every file and writes it as Parquet with a dataset card.

    The same source gives the same bytes. Whatever stops it, `out` is either complete or as it was before.

    Args:
        source: the folder or zip of the LGG MRI Segmentation set, or of an image-folder classification set.
        out: the folder to write, missing or empty.
        validation, test: shares held out of an image-folder set where it has no split of its own, of test perhaps 0;
            None for `image_folder.HELD_OUT`. LGG's splits are committed.
        unlike: a built image-folder set. Pictures that resemble one of its pictures are left out, so that a run on it
            may start from the weights of a run on this one.

    Raises:
        BthubError: `out` is not empty, a share can't be held out, or the source fails a check (the message names the
            file and the mend).
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BthubError(f"{out}: already exists and is not empty; remove it or give another output folder")
    asked = {split: share for split, share in (("validation", validation), ("test", test)) if share is not None}
    held_out = image_folder.HELD_OUT | asked
    # Asked in this way, NaN is refused: it is in no range.
    if not (held_out["validation"] > 0 and held_out["test"] >= 0 and sum(held_out.values()) < 1):
        raise BthubError(
            f"can't hold out {held_out}: expected fractions, above 0 for validation, that leave something for train"
        )
    with Source(source) as files:
        if lgg.is_lgg(files):
            if asked or unlike:
                raise BthubError(
                    f"{source}: LGG MRI Segmentation has committed splits: leave out --validation, --test and "
                    "--exclude-similar-to"
                )
            slices = lgg.find_slices(files)
            splits = _lgg_splits(files, slices)
            files.say_what_is_left_out()
            with whole_or_nothing(out) as folder:
                _build_lgg(files, slices, splits, folder)
        else:
            pictures = image_folder.find_images(files)
            files.say_what_is_left_out()
            with whole_or_nothing(out) as folder:
                _build_folders(files, pictures, folder, held_out, unlike)


@contextmanager
def whole_or_nothing(out: Path) -> Iterator[Path]:
    """A folder beside `out` that becomes `out` when the block ends, and is removed if it ends badly."""
    # Resolved, so that a link to another disk gets its sibling there, where renaming is atomic.
    target = out.resolve()
    missing = [parent for parent in target.parents if not parent.exists()]
    folder = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        folder.mkdir(parents=True)
        yield folder
        if target.exists():
            target.rmdir()
        folder.rename(target)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in missing:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        if isinstance(error, OSError):
            raise BthubError(
                f"{out}: cannot be written ({error.strerror or error}); free some space or give another path"
            ) from error
        raise


class ParquetFiles:
    """Parquet files of one schema, written row by row; at most one row group per file is in memory."""

    def __init__(self, folder: Path, features: Features) -> None:
        self.folder = folder
        # This schema carries the features as metadata, so that Image and ClassLabel survive without a card.
        self.schema = features.arrow_schema
        self.rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.writers: dict[str, pq.ParquetWriter] = {}

    def __enter__(self) -> "ParquetFiles":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                for name in self.rows:
                    self._flush(name)
        finally:
            for writer in self.writers.values():
                writer.close()

    def add(self, name: str, row: dict[str, Any]) -> None:
        self.rows[name].append(row)
        if len(self.rows[name]) == _ROWS_PER_GROUP:
            self._flush(name)

    def _flush(self, name: str) -> None:
        rows = self.rows[name]
        if not rows:
            return
        if name not in self.writers:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            # As `Dataset.push_to_hub` writes: chunks that the Hub deduplicates, pages that viewers can seek.
            self.writers[name] = pq.ParquetWriter(
                path, self.schema, use_content_defined_chunking=True, write_page_index=True
            )
        self.writers[name].write_table(pa.Table.from_pylist(rows, schema=self.schema))
        rows.clear()


def content_digest(folder: Path) -> str:
    """Digest of all data files, with their places."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.parquet")):
        with path.open("rb") as file:
            place = path.relative_to(folder).as_posix()
            digest.update(f"{place} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def _lgg_splits(files: Source, slices: list[lgg.Slice]) -> list[tuple[str, str]]:
    """The split of each slice under both protocols, in the order of PROTOCOLS."""
    splits = []
    for entry in slices:
        try:
            splits.append((patient_split(entry.patient_id), slice_split(entry.patient_id, entry.index)))
        except BthubError as error:
            raise BthubError(f"{files.where(entry.image)}: {error}") from error
    return splits


def _build_lgg(files: Source, slices: list[lgg.Slice], splits: list[tuple[str, str]], folder: Path) -> None:
    counted: list[summary.SliceFacts] = []
    sizes: set[tuple[int, int]] = set()
    digests: set[bytes] = set()
    copied = {patient: dict.fromkeys(lgg.FILLED, True) for patient in {entry.patient_id for entry in slices}}
    progress = progress_bar(zip(slices, splits, strict=True), "Reading and checking", len(slices), unit="slice")
    with ParquetFiles(folder, lgg.FEATURES) as parquet:
        for entry, (by_patient, by_slice) in progress:
            read = lgg.read_slice(files, entry)
            row = read.row
            parquet.add(f"data/patient-{by_patient}/slice-{by_slice}.parquet", row)
            counted.append(
                summary.SliceFacts(row["patient_id"], row["institution"], row["tumor_pixels"], (by_patient, by_slice))
            )
            sizes.add(read.size)
            digests.add(hashlib.sha256(row["image"]["bytes"]).digest())
            for channel, filled in read.filled.items():
                copied[row["patient_id"]][channel] &= filled
    patients = {channel: sum(filled[channel] for filled in copied.values()) for channel in lgg.FILLED}
    text = card.lgg_card(counted, sizes, patients, repeats=len(slices) - len(digests), content=content_digest(folder))
    (folder / CARD).write_text(text, encoding="utf-8")
    facts.write(folder, facts.LGG)


def _build_folders(
    files: Source, pictures: list[image_folder.Picture], folder: Path, held_out: dict[str, float], unlike: Path | None
) -> None:
    boxes = image_folder.read_boxes(files, pictures)
    # Read first: it may not be there.
    others = _thumbnails(unlike) if unlike else []
    thumbnails = []
    for picture in progress_bar(pictures, "Checking", unit="image"):
        decoded = image_folder.decode(files.read(picture.file), files.where(picture.file))
        thumbnails.append(image_folder.thumbnail(decoded))
    kept = [i for i, alike in enumerate(image_folder.resemble(thumbnails, others)) if not alike]
    left_out = len(pictures) - len(kept)
    pictures, thumbnails = [pictures[i] for i in kept], [thumbnails[i] for i in kept]
    if not pictures:
        raise BthubError(
            f"{files.path}: all pictures have a near-duplicate in {unlike}: give another set, or "
            "leave out --exclude-similar-to"
        )
    groups = image_folder.same_pictures(thumbnails)
    in_gaps = 0
    if boxes:
        numbers = image_folder.numbers_of(pictures, str(files.path))
        drawn = image_folder.draw_runs([p.label for p in pictures], numbers, groups, held_out)
        kept = [i for i, split in enumerate(drawn) if split is not None]
        in_gaps = len(pictures) - len(kept)
        pictures, groups = [pictures[i] for i in kept], [groups[i] for i in kept]
        splits = [split for split in drawn if split is not None]
    else:
        splits = image_folder.draw_splits(pictures, groups, held_out)
    elsewhere = image_folder.also_in(splits, groups)
    classes = sorted({picture.label for picture in pictures})
    counted = []
    with ParquetFiles(folder, image_folder.features(classes, boxes=bool(boxes))) as parquet:
        columns = zip(pictures, splits, groups, elsewhere, strict=True)
        for picture, split, group, also_in in progress_bar(columns, "Writing", len(pictures), unit="image"):
            data = {"bytes": files.read(picture.file), "path": PurePosixPath(picture.file).name}
            row = {"image": data, "label": classes.index(picture.label), "file": picture.file}
            row |= {"group": group, "also_in": also_in}
            if boxes:
                row["box"] = boxes.get(picture.file)
            parquet.add(f"data/{split}.parquet", row)
            counted.append(summary.PictureFacts(split, picture.label, group))
    text = card.folders_card(
        files.title,
        counted,
        shipped=pictures[0].shipped is not None,
        held_out=held_out,
        content=content_digest(folder),
        unlike=name_of(unlike) if unlike else None,
        left_out=left_out,
        boxes=sum(picture.file in boxes for picture in pictures),
        in_gaps=in_gaps,
    )
    (folder / CARD).write_text(text, encoding="utf-8")
    facts.write(folder, facts.of_pictures(files.title, classes, boxes=bool(boxes)))


def _thumbnails(data: Path) -> list[np.ndarray]:
    """Of every picture of a built image-folder set."""
    built = BuiltDataset(data)
    if built.facts.split_in_several_ways:
        raise BthubError(f"{data}: this has LGG slices; --exclude-similar-to takes an image-folder set")
    return [image_folder.thumbnail(image) for split in built.splits() for image in built.load(split)["image"]]
