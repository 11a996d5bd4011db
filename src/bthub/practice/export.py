"""Exports: a zip of one or all cases, readable without bthub, and a data set of corrected masks."""

import csv
import io
import json
import random
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from bthub.inference.result import NO_TUMOR, TUMOR
from bthub.practice import access
from bthub.practice.cases import decode, encode, full_disk, in_time, masks_that_count
from bthub.practice.database import Database
from bthub.practice.files import FileStore
from bthub.practice.models import (
    DONE,
    SIGNED,
    Account,
    Case,
    Correction,
    Examination,
    Note,
    NoteVersion,
    Report,
    Slice,
    Upload,
)
from bthub.practice.report import build, to_pdf
from bthub.practice.seg import dicom_seg
from bthub.practice.settings import Settings
from bthub.practice.study import laid_out, nifti_of
from bthub.practice.texts import Refusal

SEED, TRIES = 42, 500
READ_ME = """Cases exported from a bthub practice. Research software, not a medical device.

cases.csv      a row a slice: the patient's label, the day, what was found, the area that counts
LABEL/case.json                     all that is known of the case, notes with their history too
LABEL/DAY-EXAMINATION/NAME.png      the pictures
LABEL/DAY-EXAMINATION/NAME_mask.png        the mask that counts, white on black
LABEL/DAY-EXAMINATION/NAME_model_mask.png  the model's, where it was corrected by hand
LABEL/DAY-EXAMINATION/mask.nii.gz   of a scan: all masks in the scan's own grid
LABEL/reports/                      reports as PDF and JSON; signed ones as they were signed
"""
COLUMNS = (
    "patient_label",
    "examined_on",
    "examination",
    "slice",
    "file",
    "mask",
    "label",
    "tumor_probability",
    "threshold",
    "uncertain",
    "area_px",
    "area_mm2",
    "corrected_by_hand",
    "model_area_px",
)


class Exports:
    """Zips, made while they are sent: no more than one picture is in memory."""

    def __init__(self, database: Database, files: FileStore, settings: Settings) -> None:
        self._database = database
        self._files = files
        self._tmp = settings.folder / "tmp"
        self._tmp.mkdir(exist_ok=True, mode=0o700)

    def cases(self, account: Account, case_id: str | None = None) -> Iterator[bytes]:
        """A zip of one case, or of all.

        Raises:
            NotFound: the case isn't the account's; at once.
        """
        with self._database.read() as session:
            if case_id is not None:
                ids = [access.get(session, Case, account.id, case_id).id]
            else:
                ids = list(
                    session.scalars(access.own(Case, account.id).with_only_columns(Case.id).order_by(Case.folded))
                )
        return _zipped(lambda archive: self._cases(archive, account, ids))

    def _cases(self, archive: zipfile.ZipFile, account: Account, ids: list[str]) -> Iterator[None]:
        archive.writestr("READ-ME.txt", READ_ME)
        table = io.StringIO()
        rows = csv.DictWriter(table, COLUMNS)
        rows.writeheader()
        used: set[str] = set()
        for id in ids:
            with self._database.read() as session:
                case = session.scalar(access.own(Case, account.id).where(Case.id == id))
                if case is None:
                    continue  # deleted meanwhile
                kept = _read(session, account, case)
            # Sent without a transaction: whoever takes hours to download would keep a connection from the others.
            yield from self._case(archive, account, kept, unique(safe(case.pseudonym), used), rows)
        archive.writestr("cases.csv", table.getvalue())
        yield

    def _case(
        self, archive: zipfile.ZipFile, account: Account, kept: "_Kept", folder: str, rows: Any
    ) -> Iterator[None]:
        case = kept.case
        told: dict[str, Any] = {
            "patient_label": case.pseudonym,
            "created_at": case.created_at.isoformat(),
            "examinations": [],
            "notes": kept.notes,
        }
        used: set[str] = set()
        counting = kept.counting
        for examination, slices in kept.examinations:
            day = examination.examined_on.isoformat() if examination.examined_on else "undated"
            place = f"{folder}/{unique(f'{day}-{safe(examination.title)}', used)}"
            names: set[str] = set()
            entries = []
            for found in slices:
                stem = _stem(found, names)
                picture = mask = None
                if found.picture:
                    picture = f"{place}/{stem}.png"
                    archive.writestr(picture, self._files.read(found.picture))
                address, by_hand = counting[found.id]
                if address:
                    mask = f"{place}/{stem}_mask.png"
                    archive.writestr(mask, self._files.read(address))
                if by_hand and found.mask:
                    archive.writestr(f"{place}/{stem}_model_mask.png", self._files.read(found.mask))
                entry = {
                    "patient_label": case.pseudonym,
                    "examined_on": examination.examined_on and examination.examined_on.isoformat(),
                    "examination": examination.title,
                    "slice": found.position + 1,
                    "file": picture,
                    "mask": mask,
                    "label": found.label,
                    "tumor_probability": found.probability,
                    "threshold": (found.result or {}).get("threshold"),
                    "uncertain": found.uncertain,
                    "area_px": found.area_px,
                    "area_mm2": found.area_mm2,
                    "corrected_by_hand": by_hand,
                    "model_area_px": (found.result or {}).get("area_px"),
                }
                rows.writerow({name: cell(value) for name, value in entry.items()})
                entries.append(
                    {
                        **entry,
                        "problem": found.problem,
                        "result": found.result,
                        "corrections": kept.corrections.get(found.id, []),
                    }
                )
                yield
            if (lies := examination.geometry) and lies.get("grid") and len(slices) == lies["shape"][0]:
                archive.writestr(f"{place}/mask.nii.gz", nifti_of(lies, self._joined(lies, slices, counting)))
            told["examinations"].append(
                {
                    "title": examination.title,
                    "examined_on": examination.examined_on and examination.examined_on.isoformat(),
                    "kind": examination.kind,
                    "label": examination.label,
                    "tumor_probability": examination.probability,
                    "threshold": examination.threshold,
                    "uncertain": examination.uncertain,
                    "checked": examination.check_input,
                    "corrected_by_hand": examination.corrected,
                    "remarks": examination.remarks or [],
                    "area_px": examination.area_px,
                    "area_mm2": examination.area_mm2,
                    "volume_ml": examination.volume_ml,
                    "spacing_mm": examination.spacing_mm,
                    "facts": examination.facts,
                    "slices": entries,
                }
            )
        for number, report in enumerate(kept.reports, 1):
            name = f"{folder}/reports/{number}-{report.state}"
            if report.state == SIGNED and report.frozen and report.pdf:
                archive.writestr(f"{name}.json", report.frozen)
                archive.writestr(f"{name}.pdf", self._files.read(report.pdf))
            else:
                with self._database.read() as session:
                    draft = session.scalar(access.own(Report, account.id).where(Report.id == report.id))
                    if draft is None:
                        continue  # deleted meanwhile
                    content, picture_bytes = build(session, self._files, account, draft)
                archive.writestr(f"{name}.json", json.dumps(content, ensure_ascii=False, indent=1))
                archive.writestr(f"{name}.pdf", to_pdf(content, picture_bytes, report.language))
            yield
        archive.writestr(f"{folder}/case.json", json.dumps(told, ensure_ascii=False, indent=1))
        yield

    def masks(self, account: Account, examination_id: str) -> Iterator[bytes]:
        """A zip of an examination's pictures and the masks that count, as PNG.

        Raises:
            NotFound: it isn't the account's; at once.
        """
        with self._database.read() as session:
            access.get(session, Examination, account.id, examination_id)
            slices = session.scalars(
                select(Slice)
                .where(Slice.examination_id == examination_id, Slice.picture.is_not(None))
                .order_by(Slice.position)
            ).all()
            counting = masks_that_count(session, slices)

        def fill(archive: zipfile.ZipFile) -> Iterator[None]:
            names: set[str] = set()
            for found in slices:
                stem = _stem(found, names)
                if found.picture:
                    archive.writestr(f"{stem}.png", self._files.read(found.picture))
                if address := counting[found.id][0]:
                    archive.writestr(f"{stem}_mask.png", self._files.read(address))
                yield

        return _zipped(fill)

    def nifti(self, account: Account, examination_id: str) -> bytes:
        """The masks that count as a .nii.gz in the scan's own grid.

        Raises:
            NotFound: it isn't the account's.
            Refusal: it isn't a scan whose grid is known.
        """
        with self._database.read() as session:
            examination = access.get(session, Examination, account.id, examination_id)
            slices, counting = self._stack(session, examination)
        place = examination.geometry
        if not place or not place.get("grid") or len(slices) != place["shape"][0]:
            raise Refusal(
                "This file gives no position or orientation for its slices, so no NIfTI mask can be written. "
                "Download the masks as PNG instead.",
                409,
            )
        return nifti_of(place, self._joined(place, slices, counting))

    def seg(self, account: Account, examination_id: str) -> bytes:
        """The masks that count as a DICOM SEG, with the patient's identifiers from the upload.

        Raises:
            NotFound: it isn't the account's.
            Refusal: it isn't a DICOM scan, its files are gone, or they lack what a SEG must refer to.
        """
        with self._database.read() as session:
            examination = access.get(session, Examination, account.id, examination_id)
            slices, counting = self._stack(session, examination)
            uploads = session.scalars(
                select(Upload).where(Upload.examination_id == examination_id).order_by(Upload.position)
            ).all()
            authors = session.scalars(
                select(Correction.author)
                .join(Slice, Correction.slice_id == Slice.id)
                .where(Slice.examination_id == examination_id, Correction.mask.is_not(None))
                .order_by(Correction.number.desc())
            ).all()
        place = examination.geometry
        if not place or place.get("kind") != "DICOM" or len(slices) != place["shape"][0]:
            raise Refusal("A DICOM SEG can only be made of a DICOM scan.", 409)
        if not uploads:
            raise Refusal(
                "A DICOM SEG needs the uploaded files, which have been deleted. To make one later, choose to keep the "
                "files when you save.",
                409,
            )
        by_hand = any(hand for _, hand in counting.values())
        with full_disk(), tempfile.TemporaryDirectory(dir=self._tmp, prefix="seg-") as folder:
            return dicom_seg(
                laid_out(uploads, Path(folder), self._files.read),
                place["scan"],
                self._joined(place, slices, counting),
                models=(examination.facts or {}).get("models", {}),
                corrected_by=authors[0] if by_hand and authors else None,
                key=examination_id,
            )

    def _stack(
        self, session: Session, examination: Examination
    ) -> tuple[Sequence[Slice], dict[str, tuple[str | None, bool]]]:
        slices = session.scalars(
            select(Slice).where(Slice.examination_id == examination.id).order_by(Slice.position)
        ).all()
        return slices, masks_that_count(session, slices)

    def _joined(
        self, place: dict[str, Any], slices: Sequence[Slice], counting: dict[str, tuple[str | None, bool]]
    ) -> np.ndarray:
        """The masks that count, bool (n, h, w)."""
        masks = np.zeros(place["shape"], bool)
        for found in slices:
            if address := counting[found.id][0]:
                masks[found.position] = decode(self._files.read(address))
        return masks

    def dataset(self, account: Account) -> Iterator[bytes]:
        """A zip that `bthub data build` reads: corrected slices, in folders by split and class, and their masks.

        The class is what the person's mask says. All slices of a case are in one split. The masks are in masks.zip
        beside them, which the builder passes over.

        Raises:
            Refusal: there are too few corrected slices for three splits; at once.
        """
        with self._database.read() as session:
            hand = select(Correction.slice_id).where(Correction.mask.is_not(None))
            slices = session.execute(
                access.own(Slice, account.id)
                .where(Slice.id.in_(hand), Slice.picture.is_not(None), Examination.case_id.is_not(None))
                .add_columns(Examination.case_id)
                .order_by(Case.created_at, Slice.examination_id, Slice.position)
            ).all()
            counting = masks_that_count(session, [found for found, _ in slices])
        chosen = [(found, case_id) for found, case_id in slices if counting[found.id][1]]
        splits = draw_splits([(case_id, class_of(found)) for found, case_id in chosen])
        if splits is None:
            raise Refusal(
                "A data set is split by patient: correct slices of more patients, "
                "so that at least three have slices with a tumor and slices without.",
                409,
            )
        return _zipped(lambda archive: self._dataset(archive, chosen, splits, counting))

    def _dataset(
        self,
        archive: zipfile.ZipFile,
        slices: list[tuple[Slice, str]],
        splits: dict[str, str],
        counting: dict[str, tuple[str | None, bool]],
    ) -> Iterator[None]:
        masks = io.BytesIO()
        table = io.StringIO()
        rows = csv.writer(table)
        rows.writerow(["file", "mask", "label", "tumor_pixels", "patient"])
        groups: dict[str, str] = {}
        with zipfile.ZipFile(masks, "w") as inner:
            for number, (found, case_id) in enumerate(slices, 1):
                # Numbers, not labels: what is given away for training names no patient.
                group = groups.setdefault(case_id, f"{len(groups) + 1:05d}")
                name = f"{group}_{number:06d}"
                label = class_of(found)
                address = counting[found.id][0]
                assert found.picture is not None and address is not None
                mask = decode(self._files.read(address))
                file = f"{splits[case_id]}/{label}/{name}.png"
                archive.writestr(file, self._files.read(found.picture))
                inner.writestr(f"{name}_mask.png", encode(mask))
                rows.writerow([file, f"{name}_mask.png", label, int(mask.sum()), group])
                yield
        archive.writestr("masks.zip", masks.getvalue())
        archive.writestr("slices.csv", table.getvalue())
        yield


@dataclass(frozen=True)
class _Kept:
    """A case as the database has it at one moment; its files are read when they are sent."""

    case: Case
    notes: list[dict[str, Any]]
    examinations: list[tuple[Examination, Sequence[Slice]]]
    counting: dict[str, tuple[str | None, bool]]
    corrections: dict[str, list[dict[str, Any]]]
    reports: Sequence[Report]


def _read(session: Session, account: Account, case: Case) -> _Kept:
    done = access.own(Examination, account.id).where(Examination.case_id == case.id, Examination.state == DONE)
    examinations = sorted(session.scalars(done), key=in_time)
    with_slices = [
        (one, session.scalars(select(Slice).where(Slice.examination_id == one.id).order_by(Slice.position)).all())
        for one in examinations
    ]
    return _Kept(
        case,
        _notes(session, case.id),
        with_slices,
        masks_that_count(session, [found for _, slices in with_slices for found in slices]),
        _corrections(session, [one.id for one in examinations]),
        session.scalars(access.own(Report, account.id).where(Report.case_id == case.id).order_by(Report.number)).all(),
    )


def class_of(found: Slice) -> str:
    """The class of a slice by the mask that counts."""
    return TUMOR if found.area_px else NO_TUMOR


def draw_splits(slices: list[tuple[str, str]]) -> dict[str, str] | None:
    """The split of each case, about 70 / 15 / 15, both classes in each; None where that can't be.

    Args:
        slices: case and class of each.
    """
    classes: dict[str, set[str]] = {}
    for case_id, label in slices:
        classes.setdefault(case_id, set()).add(label)
    cases = sorted(classes)
    held_out = max(1, round(0.15 * len(cases)))
    rng = random.Random(SEED)
    for _ in range(TRIES):
        rng.shuffle(cases)
        splits = {
            case_id: "validation" if i < held_out else "test" if i < 2 * held_out else "train"
            for i, case_id in enumerate(cases)
        }
        there = {(splits[case_id], label) for case_id, labels in classes.items() for label in labels}
        if len(there) == 6:
            return splits
    return None


def _notes(session: Session, case_id: str) -> list[dict[str, Any]]:
    notes = session.scalars(
        select(Note).where(Note.case_id == case_id, Note.deleted_at.is_(None)).order_by(Note.number)
    ).all()
    return [
        {
            "at": note.changed_at.isoformat(),
            "author": note.author,
            "text": note.text,
            "before": [
                {"at": version.at.isoformat(), "author": version.author, "text": version.text}
                for version in session.scalars(
                    select(NoteVersion).where(NoteVersion.note_id == note.id).order_by(NoteVersion.number)
                )
            ],
        }
        for note in notes
    ]


def _corrections(session: Session, examination_ids: list[str]) -> dict[str, list[dict[str, Any]]]:
    """The corrections of each slice that has any."""
    found: dict[str, list[dict[str, Any]]] = {}
    for id in examination_ids:
        for one in session.scalars(
            select(Correction).join(Slice).where(Slice.examination_id == id).order_by(Correction.number)
        ):
            found.setdefault(one.slice_id, []).append(
                {
                    "at": one.at.isoformat(),
                    "author": one.author,
                    "area_px": one.area_px,
                    "back_to_model": one.mask is None,
                }
            )
    return found


class _Sink(io.RawIOBase):
    """What a zip is written to, and taken from piece by piece."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        self.pieces.append(bytes(piece))
        return len(piece)

    def take(self) -> bytes:
        taken = b"".join(self.pieces)
        self.pieces.clear()
        return taken


def _zipped(fill: Callable[[zipfile.ZipFile], Iterator[None]]) -> Iterator[bytes]:
    sink = _Sink()
    # Pictures are compressed already; texts are small.
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_STORED) as archive:
        for _ in fill(archive):
            if piece := sink.take():
                yield piece
    yield sink.take()


def safe(text: str) -> str:
    """A text as a file's name on any system."""
    name = re.sub(r"[^\w.-]+", "_", text).strip("._ ")[:60]
    return (
        name if name and not re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?", name) else f"_{name or 'file'}"
    )


def unique(name: str, used: set[str], endings: Sequence[str] = ("",)) -> str:
    """The name, with a number where it is taken with any of the endings; compared as systems do that don't know case.

    Args:
        name: without the endings.
        used: what is taken; those that are chosen here are added.
        endings: with which the name will be used.
    """
    chosen, number = name, 2
    while not used.isdisjoint(chosen.casefold() + ending for ending in endings):
        chosen, number = f"{name}_{number}", number + 1
    used.update(chosen.casefold() + ending for ending in endings)
    return chosen


def _stem(found: Slice, used: set[str]) -> str:
    """What the files of a slice are called, each with its ending: a picture may be called as another's mask."""
    return unique(safe(found.name.rpartition(".")[0] or found.name), used, ("", "_mask", "_model_mask"))


def cell(value: object) -> object:
    """A value in a table; what a spreadsheet would take for a formula is told from one by a quote in front."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t\r" else value
