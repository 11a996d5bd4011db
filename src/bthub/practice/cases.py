"""Cases, examinations, notes and corrections: how they are saved, found, changed, deleted and brought back."""

import errno
import hashlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from PIL import Image
from sqlalchemy import ColumnElement, delete, func, or_, select
from sqlalchemy.orm import Session

from bthub.inference.result import NO_TUMOR, TUMOR, measure
from bthub.practice import access
from bthub.practice.accounts import audit, check_length, clean, clean_text, fold
from bthub.practice.database import Database
from bthub.practice.files import FileStore
from bthub.practice.models import (
    DONE,
    FAILED,
    QUEUED,
    SIGNED,
    VOLUME,
    Account,
    Audit,
    Case,
    Correction,
    Examination,
    Note,
    NoteVersion,
    Report,
    Slice,
    Upload,
    now,
)
from bthub.practice.texts import Refusal

PAGE = 25
MAX_FILES = 2000
OVERTAKEN = (
    "This was changed in another window after you opened it here, and nothing was saved: go back, reload the page and "
    "change it there."
)
TOO_MANY = "These are too many files for one examination: at most {most}."
LONGEST_NOTE = 20_000
LONGEST_LABEL = 80
LONGEST_FILE_NAME = 120
SORTS = {
    "changed": Case.changed_at,
    "date": Case.examined_on,
    "label": Case.folded,
    "area": Case.area_px,
    "probability": Case.probability,
}
FILTERS: dict[str, ColumnElement[bool]] = {
    "tumor": (Case.label == TUMOR) & Case.uncertain.is_(False),
    "no_tumor": (Case.label == "no_tumor") & Case.uncertain.is_(False),
    "uncertain": Case.uncertain.is_(True),
    "corrected": Case.corrected.is_(True),
    "reported": Case.reports > 0,
    "unreported": Case.reports == 0,
}


@dataclass(frozen=True)
class Search:
    """What the history is asked for."""

    words: str = ""
    kind: str = ""
    since: date | None = None
    until: date | None = None
    sort: str = "changed"
    ascending: bool = False
    page: int = 1


@dataclass(frozen=True)
class Found:
    """A page of the history."""

    cases: Sequence[Case]
    total: int
    page: int
    pages: int


class Cases:
    """What an account does with its cases."""

    def __init__(self, database: Database, files: FileStore) -> None:
        self._database = database
        self._files = files

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        with full_disk(), self._database.write() as session:
            yield session

    # -- examinations

    def upload(
        self,
        account: Account,
        files: Iterable[tuple[str, bytes]],
        *,
        pseudonym: str = "",
        examined_on: date | None = None,
        check_input: bool = True,
    ) -> str:
        """Keep files to be analyzed, as an examination that isn't saved yet; returns its id.

        Args:
            account: whose.
            files: names and contents, taken one after the other.
            pseudonym: the case to save it in at once; none by default.
            examined_on: the scan date, where it is known.
            check_input: refuse what doesn't look like a slice.

        Raises:
            Refusal: no file, too many, no room, the first-use questions are open.
        """
        if not account.complete:
            raise Refusal("First answer the questions about you: until then nothing is saved.", 403)
        check_day(examined_on)
        if pseudonym.strip():
            _label(pseudonym)  # refused before any file is kept
        staged = []
        with full_disk():
            for name, content in files:
                if not name and not content:
                    continue
                if len(staged) == MAX_FILES:
                    raise Refusal(TOO_MANY, most=MAX_FILES)
                staged.append((file_name(name), self._files.stage(account.id, content), len(content)))
        if not staged:
            raise Refusal("No file came with the request: choose one or more.")
        title = staged[0][0] if len(staged) == 1 else f"{staged[0][0]} + {len(staged) - 1}"
        staged.sort(key=lambda one: natural(one[0]))
        with self._writing() as session:
            case = self._case(session, account.id, pseudonym) if pseudonym.strip() else None
            examination = Examination(
                account_id=account.id,
                case_id=case.id if case else None,
                title=title[:200],
                examined_on=examined_on,
                check_input=check_input,
                total=len(staged),
            )
            session.add(examination)
            session.flush()
            for position, (name, address, size) in enumerate(staged):
                self._files.attach(session, account.id, address, size, "application/octet-stream")
                session.add(Upload(examination_id=examination.id, position=position, name=name, file=address))
            if case is not None:
                session.flush()
                refresh(session, case.id)
            audit(session, account.id, "upload", examination.id)
        return examination.id

    def again(
        self,
        account_id: str,
        examination_id: str,
        scan: int | None = None,
        *,
        unchecked: bool = False,
        sure: bool = False,
    ) -> None:
        """Analyze an examination once more: as before, whatever it shows, or another scan of its study.

        Args:
            account_id: whose.
            examination_id: which.
            scan: which of the scans; None: the same.
            unchecked: also what doesn't look like a slice.
            sure: delete the outlines that were corrected by hand, which belong to slices that are made anew.

        Raises:
            NotFound: it isn't the account's.
            Refusal: it is at work, its files are gone, or it has corrections and nobody said that they may go.
        """
        with self._writing() as session:
            examination = access.get(session, Examination, account_id, examination_id)
            if examination.state not in (DONE, FAILED):
                raise Refusal("It is being analyzed: wait until it is done.", 409)
            if not session.scalar(select(func.count()).where(Upload.examination_id == examination_id)):
                raise Refusal("The uploaded files are gone: upload them again.", 409)
            if not sure and has_corrections(session, examination_id):
                raise Refusal(
                    "Outlines of this examination were corrected by hand, and another analysis deletes them: go back, "
                    "reload the page and tick the box there if you want that.",
                    409,
                )
            if scan is not None:
                known = scans_of(examination)
                if not 0 <= scan < len(known):
                    raise access.NotFound
                # With the names of all: should this one fail, another can be chosen.
                examination.geometry = {"scan": scan, "scans": known}
            session.execute(delete(Slice).where(Slice.examination_id == examination_id))
            examination.state, examination.problem, examination.done = QUEUED, None, 0
            examination.remarks = None
            if unchecked:
                examination.check_input = False
            summarize(session, examination)
            if examination.case_id:
                session.flush()
                refresh(session, examination.case_id)

    def save(self, account: Account, examination_id: str, pseudonym: str, examined_on: date | None, keep: bool) -> str:
        """Save an examination in the case of a label, made where there is none; returns the case's id.

        Args:
            account: whose.
            examination_id: which.
            pseudonym: the patient's label.
            examined_on: the scan date.
            keep: keep the files as they came, with what identifies the patient in them, after saving too.

        Raises:
            NotFound: it isn't the account's.
            Refusal: the label is empty or too long, it is saved in another case, the first-use questions are open.
        """
        if not account.complete:
            raise Refusal("First answer the questions about you: until then nothing is saved.", 403)
        check_day(examined_on)
        with self._writing() as session:
            examination = access.get(session, Examination, account.id, examination_id)
            case = self._case(session, account.id, pseudonym)
            if examination.case_id not in (None, case.id):
                there = session.get_one(Case, examination.case_id).pseudonym
                raise Refusal("This examination is saved already, in the case {label}.", 409, label=there)
            # Saved once more, from another window, it keeps what was chosen first.
            examination.keep_identifiers = keep or (examination.case_id is not None and examination.keep_identifiers)
            examination.case_id = case.id
            examination.examined_on = examined_on or examination.examined_on
            session.flush()
            drop_uploads(session, examination, chosen=True)
            refresh(session, case.id)
            audit(session, account.id, "save", examination.id)
        return case.id

    def delete_originals(self, account_id: str, examination_id: str) -> None:
        """Delete an examination's files as they came, with what identifies the patient in them, for good.

        Raises:
            NotFound: it isn't the account's.
            Refusal: it is at work.
        """
        with self._writing() as session:
            examination = access.get(session, Examination, account_id, examination_id)
            if examination.state not in (DONE, FAILED):
                raise Refusal("It is being analyzed: wait until it is done.", 409)
            examination.keep_identifiers = False
            session.execute(delete(Upload).where(Upload.examination_id == examination_id))
            audit(session, account_id, "delete originals", examination_id)

    def _case(self, session: Session, account_id: str, pseudonym: str) -> Case:
        label, folded = _label(pseudonym)
        case = session.scalar(access.own(Case, account_id).where(Case.folded == folded).limit(1))
        if case is None:
            case = Case(account_id=account_id, pseudonym=label, folded=folded)
            session.add(case)
            session.flush()
        return case

    def set_day(self, account_id: str, examination_id: str, examined_on: date | None, before: date | None) -> None:
        """Change the scan date.

        Args:
            account_id: whose.
            examination_id: which.
            examined_on: the new one; None where it isn't known.
            before: the one that is changed.

        Raises:
            NotFound: it isn't the account's.
            Refusal: it is no date of a scan, or the date is another by now.
        """
        check_day(examined_on)
        with self._writing() as session:
            examination = access.get(session, Examination, account_id, examination_id)
            session.refresh(examination, with_for_update=True)
            if examination.examined_on not in (before, examined_on):
                raise Refusal(OVERTAKEN, 409)
            examination.examined_on = examined_on
            if examination.case_id:
                session.flush()
                refresh(session, examination.case_id)

    def rename(self, account_id: str, case_id: str, pseudonym: str, before: str) -> None:
        """Give a case another label.

        Args:
            account_id: whose.
            case_id: which.
            pseudonym: the new label.
            before: the one that is changed.

        Raises:
            NotFound: it isn't the account's.
            Refusal: the label is empty, too long or another case's, or the case has another by now.
        """
        label, folded = _label(pseudonym)
        with self._writing() as session:
            case = access.get(session, Case, account_id, case_id)
            session.refresh(case, with_for_update=True)
            if case.pseudonym not in (before, label):
                raise Refusal(OVERTAKEN, 409)
            other = session.scalar(access.own(Case, account_id).where(Case.folded == folded, Case.id != case_id))
            if other is not None:
                raise Refusal("Another case already has this label: choose a different label.", 409)
            case.pseudonym, case.folded, case.changed_at = label, folded, now()

    # -- masks by hand

    def correct(self, account: Account, slice_id: str, png: bytes | None, before: str | None = None) -> int:
        """Keep a mask drawn by hand beside the model's, or go back to the model's; returns the area that counts now.

        Args:
            account: whose.
            slice_id: which slice.
            png: the mask, gray or RGBA of the slice's size, marked where above half; None: back to the model's.
            before: address of the mask that was changed into it, "" where there was none; None: whatever there is, for
                programs that have read none. Earlier corrections are kept in any case.

        Raises:
            NotFound: it isn't the account's.
            Refusal: it isn't a PNG of the slice's size, or another mask counts by now.
        """
        with self._database.read() as session:
            found = access.get(session, Slice, account.id, slice_id)
        if found.picture is None or found.result is None:
            raise Refusal("This file could not be read: there is nothing to correct.", 409)
        size = (found.result["width"], found.result["height"])
        mask = None if png is None else decode_mask(png, size)
        content = None if mask is None else encode(mask)
        address = None
        if content is not None:
            with full_disk():  # before the transaction: meanwhile others may write
                address = self._files.stage(account.id, content)
        with self._writing() as session:
            found = access.get(session, Slice, account.id, slice_id)
            session.refresh(found, with_for_update=True)
            if before is not None and (masks_that_count(session, [found])[slice_id][0] or "") != before:
                raise Refusal(
                    "This outline was changed in another window after you opened it here: yours wasn't saved. Save "
                    "again to replace the other one, or cancel to see it.",
                    409,
                )
            examination = access.get(session, Examination, account.id, found.examination_id)
            if content is not None and address is not None:
                self._files.attach(session, account.id, address, len(content), "image/png")
            area = int(np.count_nonzero(mask)) if mask is not None else int((found.result or {}).get("area_px") or 0)
            session.add(
                Correction(
                    slice_id=slice_id, author=account.full_name, mask=address, area_px=None if mask is None else area
                )
            )
            found.area_px = area
            spacing = examination.spacing_mm
            found.area_mm2 = None if not spacing else area * spacing[1] * spacing[2]
            session.flush()
            summarize(session, examination)
            if examination.case_id:
                refresh(session, examination.case_id)
            audit(session, account.id, "correct" if png else "revert", slice_id)
        return area

    # -- notes

    def add_note(self, account: Account, case_id: str, text: str) -> str:
        """
        Raises:
            NotFound: the case isn't the account's.
            Refusal: there is no text.
        """
        text = _note(text)
        with self._writing() as session:
            access.get(session, Case, account.id, case_id)
            note = Note(case_id=case_id, author=account.full_name, text=text, folded=fold(text))
            session.add(note)
            session.flush()
            refresh(session, case_id)
            audit(session, account.id, "add note", note.id)
        return note.id

    def edit_note(self, account: Account, note_id: str, text: str, seen: str) -> str:
        """Change a note, and keep what it said before; returns the id of its case.

        Args:
            account: whose.
            note_id: which.
            text: the new text.
            seen: `note_mark` of the text that was changed into it.

        Raises:
            NotFound: it isn't the account's.
            Refusal: there is no text, or the note says something else by now.
        """
        text = _note(text)
        with self._writing() as session:
            note = access.get(session, Note, account.id, note_id)
            session.refresh(note, with_for_update=True)
            if note.text != text and note_mark(note) != seen:
                raise Refusal(
                    "This note was changed in another window after you opened it here: your text wasn't saved. It is "
                    "still in the form: compare the two, then save again to replace what is saved.",
                    409,
                )
            if note.text != text:
                session.add(NoteVersion(note_id=note.id, at=note.changed_at, author=note.author, text=note.text))
                note.text, note.folded, note.changed_at, note.author = text, fold(text), now(), account.full_name
                session.flush()
                refresh(session, note.case_id)
                audit(session, account.id, "edit note", note.id)
        return note.case_id

    # -- deleting

    def delete(
        self,
        account_id: str,
        thing: type[Case] | type[Examination] | type[Note] | type[Report],
        id: str,
        session_id: str,
    ) -> str | None:
        """Delete something until the session ends, or for good then; returns the id of the case that it was in.

        Raises:
            NotFound: it isn't the account's.
        """
        with self._writing() as session:
            found = access.get(session, thing, account_id, id)
            found.deleted_at, found.deleted_in = now(), session_id
            session.flush()
            case_id = None if isinstance(found, Case) else found.case_id
            if case_id:
                refresh(session, case_id)
            audit(session, account_id, f"delete {thing.__tablename__}", id)
        return case_id

    def undo(self, account_id: str, session_id: str) -> str | None:
        """Bring back what this session deleted last; returns the id of its case, or None where nothing is left.

        Raises:
            Refusal: a case of the same label is there now.
        """
        with self._writing() as session:
            gone: dict[str, Any] = {
                found.id: found
                for thing in (Case, Examination, Note, Report)
                for found in session.scalars(
                    access.own(thing, account_id, deleted=True).where(thing.deleted_in == session_id)
                )
            }
            if not gone:
                return None
            # What was deleted last by the order of the audit trail: the clock may have jumped in between.
            deletions = session.scalars(
                select(Audit.subject)
                .where(Audit.account_id == account_id, Audit.action.startswith("delete "))
                .order_by(Audit.number.desc())
            )
            latest = gone[next(subject for subject in deletions if subject in gone)]
            if isinstance(latest, Case) and session.scalar(
                access.own(Case, account_id).where(Case.folded == latest.folded).limit(1)
            ):
                raise Refusal("Another case has this label now: rename it, then undo.", 409)
            latest.deleted_at = latest.deleted_in = None
            session.flush()
            case_id: str | None = latest.id if isinstance(latest, Case) else latest.case_id
            if case_id:
                refresh(session, case_id)
            audit(session, account_id, f"undo delete {latest.__tablename__}", latest.id)
            return case_id or latest.id

    def deleted(self, account_id: str, session_id: str) -> int:
        """How many deletions this session can undo."""
        with self._database.read() as session:
            return sum(
                session.scalar(
                    select(func.count()).select_from(
                        access.own(thing, account_id, deleted=True).where(thing.deleted_in == session_id).subquery()
                    )
                )
                or 0
                for thing in (Case, Examination, Note, Report)
            )

    # -- finding

    def search(self, account_id: str, search: Search) -> Found:
        """A page of the history."""
        query = access.own(Case, account_id)
        for word in fold(search.words).split()[:8]:
            pattern = f"%{word.replace('!', '!!').replace('%', '!%').replace('_', '!_')}%"
            noted = select(Note.case_id).where(Note.deleted_at.is_(None), Note.folded.like(pattern, escape="!"))
            query = query.where(or_(Case.folded.like(pattern, escape="!"), Case.id.in_(noted)))
        if search.kind in FILTERS:
            query = query.where(FILTERS[search.kind])
        if search.since:
            query = query.where(Case.examined_on >= search.since)
        if search.until:
            query = query.where(Case.examined_on <= search.until)
        column: Any = SORTS.get(search.sort, Case.changed_at)
        order = column.asc().nulls_last() if search.ascending else column.desc().nulls_last()
        with self._database.read() as session:
            total = session.scalar(select(func.count()).select_from(query.with_only_columns(Case.id).subquery())) or 0
            pages = max(1, -(-total // PAGE))
            page = min(max(1, search.page), pages)
            cases = session.scalars(query.order_by(order, Case.id).limit(PAGE).offset((page - 1) * PAGE)).all()
        return Found(cases, total, page, pages)


# -- what is derived


def refresh(session: Session, case_id: str) -> None:
    """Bring what lists show of a case up to date with what is in it."""
    case = session.get(Case, case_id)
    if case is None:
        return
    there = (Examination.case_id == case_id, Examination.deleted_at.is_(None))
    done = session.scalars(select(Examination).where(*there, Examination.state == DONE)).all()
    latest = max(done, key=in_time, default=None)
    case.examinations = session.scalar(select(func.count()).select_from(Examination).where(*there)) or 0
    case.examined_on = session.scalar(select(func.max(Examination.examined_on)).where(*there))
    case.corrected = bool(session.scalar(select(func.count()).where(*there, Examination.corrected.is_(True))))
    case.label = latest.label if latest else None
    case.uncertain = latest.uncertain if latest else False
    case.probability = latest.probability if latest else None
    case.area_px = latest.area_px if latest else None
    case.notes = session.scalar(select(func.count()).where(Note.case_id == case_id, Note.deleted_at.is_(None))) or 0
    case.reports = (
        session.scalar(
            select(func.count()).where(Report.case_id == case_id, Report.deleted_at.is_(None), Report.state == SIGNED)
        )
        or 0
    )
    case.changed_at = now()


def note_mark(note: Note) -> str:
    """What a note says, as a digest: a form bears that of the text that it was loaded with."""
    return hashlib.sha256(note.text.encode()).hexdigest()


def day_of(examination: Examination) -> date:
    """When an examination was made, as far as it is known: its scan date, else the day of its upload."""
    return examination.examined_on or examination.created_at.date()


def in_time(examination: Examination) -> tuple[date, datetime]:
    """For sorting examinations in time."""
    return day_of(examination), examination.created_at


def summarize(session: Session, examination: Examination) -> None:
    """Bring an examination's figures up to date with its slices."""
    slices = session.scalars(
        select(Slice).where(Slice.examination_id == examination.id, Slice.result.is_not(None)).order_by(Slice.position)
    ).all()
    examination.corrected = any(by_hand for _, by_hand in masks_that_count(session, slices).values())
    if not slices:
        examination.label = examination.probability = examination.threshold = None
        examination.area_px = examination.area_mm2 = examination.volume_ml = None
        examination.uncertain = False
        return
    if examination.kind != VOLUME:  # of a stack `analyze_study` says it, from neighboring slices
        tumor = [found for found in slices if found.label == TUMOR]
        examination.label = TUMOR if tumor else NO_TUMOR
        examination.uncertain = (
            all(found.uncertain for found in tumor) if tumor else any(found.uncertain for found in slices)
        )
    deciding = _deciding(examination, slices)
    # A corrected slice without the model's verdict may have the largest area.
    largest = max(slices, key=lambda found: found.area_px or 0)
    examination.probability = deciding.probability
    examination.threshold = (deciding.result or {}).get("threshold")
    examination.area_px = largest.area_px
    examination.area_mm2 = largest.area_mm2
    spacing = examination.spacing_mm
    if examination.kind == VOLUME and spacing and spacing[0]:
        voxel = spacing[0] * spacing[1] * spacing[2]
        examination.volume_ml = sum(found.area_px or 0 for found in slices) * voxel / 1000


def _deciding(examination: Examination, slices: Sequence[Slice]) -> Slice:
    """The slice on which an examination's verdict rests: the most probable one of those that speak for it.

    Not simply the most probable one of all: thresholds depend on the kind of picture, so that a lower probability may
    be a tumor where a higher one is none.
    """
    if examination.label == TUMOR:
        called = [found for found in slices if found.label == TUMOR]
        # Of a stack those count whose outline is left after cleaning, as in `bthub.inference.study`.
        outlined = [found for found in called if (found.result or {}).get("area_px")]
        chosen = outlined if outlined and examination.kind == VOLUME else called
        chosen = [found for found in chosen if found.uncertain == examination.uncertain] or chosen
    elif examination.uncertain:
        chosen = [found for found in slices if found.uncertain or found.label == TUMOR]
    else:
        chosen = list(slices)
    return max(chosen or slices, key=lambda found: found.probability or 0)


def masks_that_count(session: Session, slices: Sequence[Slice]) -> dict[str, tuple[str | None, bool]]:
    """Of each slice the address of the mask that counts, and whether it was drawn by hand."""
    ids = [found.id for found in slices]
    latest: dict[str, Correction] = {}
    for start in range(0, len(ids), 500):
        for correction in session.scalars(
            select(Correction).where(Correction.slice_id.in_(ids[start : start + 500])).order_by(Correction.number)
        ):
            latest[correction.slice_id] = correction
    return {
        found.id: (hand.mask, True)
        if (hand := latest.get(found.id)) is not None and hand.mask is not None
        else (found.mask, False)
        for found in slices
    }


def has_corrections(session: Session, examination_id: str) -> bool:
    """Whether anything was drawn by hand in an examination, even where the model's outlines count again."""
    drawn = select(Correction.number).join(Slice, Correction.slice_id == Slice.id)
    return session.scalar(drawn.where(Slice.examination_id == examination_id).limit(1)) is not None


def scans_of(examination: Examination) -> list[str]:
    """The names of the scans in an examination's study, of which one was analyzed; empty for pictures."""
    return list((examination.geometry or {}).get("scans", []))


def drop_uploads(session: Session, examination: Examination, *, chosen: bool = False) -> None:
    """Forget the files of an examination as they came, unless the person keeps them or may still need them.

    Needed are those of a result that isn't saved, of a failure that another try may mend, and of a study of several
    scans until somebody has seen which of them was analyzed. `Accounts.sweep` forgets these a day after the upload.

    Args:
        session: of the caller's transaction.
        examination: which.
        chosen: the person has seen the result, and saves it.
    """
    if examination.keep_identifiers or examination.state not in (DONE, FAILED):
        return
    several = len(scans_of(examination)) > 1
    if examination.state == FAILED:
        needed = several or bool((examination.facts or {}).get("mend"))
    else:
        needed = examination.case_id is None or (several and not chosen)
    if not needed:
        session.execute(delete(Upload).where(Upload.examination_id == examination.id))


# -- small things


@contextmanager
def full_disk() -> Iterator[None]:
    """A full disk is a sentence, and nothing is half saved."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Refusal("The server's disk is full: nothing was saved. Tell the administrator.", 507) from error
        raise


def check_day(day: date | None) -> None:
    # A day more than here in UTC: where the day begins earlier, today may be tomorrow.
    if day is not None and not date(1900, 1, 1) <= day <= now().date() + timedelta(days=1):
        raise Refusal("The scan date must be between 1900 and today.")


def read_day(text: str) -> date | None:
    """A day as a form sends it; None where it is empty.

    Raises:
        Refusal: it is no day.
    """
    if not text.strip():
        return None
    try:
        return date.fromisoformat(text.strip())
    except ValueError as error:
        raise Refusal("The scan date must be a date such as 2026-11-28.") from error


def file_name(name: str) -> str:
    """The last part of what a browser calls a file, fit to be shown and stored.

    Of a long one the beginning and the end, which has the slice's number and tells readers what kind of file it is.
    """
    name = clean(PurePosixPath(name.replace("\\", "/")).name)
    return (name if len(name) <= LONGEST_FILE_NAME else f"{name[:59]}…{name[-60:]}") or "file"


def natural(name: str) -> list[tuple[int, int, str]]:
    """For sorting as people count: slice 2 before slice 10."""
    return [
        (0, int(part), "") if part.isdecimal() else (1, 0, part)
        for part in re.findall(r"\d{1,18}|\D+", name.casefold())
    ]


def _label(text: str) -> tuple[str, str]:
    """A patient's label as it is stored and as it is compared.

    Raises:
        Refusal: it is empty or too long.
    """
    label = clean(text)
    folded = fold(label)
    if not folded:
        raise Refusal("Give the patient a label, such as a study number; never a real name.")
    # Folding makes some letters several, such as ß.
    longer = max(label, folded, key=len)
    check_length("The patient label has {length} characters: shorten it to at most {most}.", longer, LONGEST_LABEL)
    return label, folded


def _note(text: str) -> str:
    text = clean_text(text)
    if not text:
        raise Refusal("The note is empty: write something, or leave the page.")
    check_length("The note has {length} characters: shorten it to at most {most}.", text, LONGEST_NOTE)
    return text


def encode(pixels: np.ndarray) -> bytes:
    """PNG of a mask (bool, H x W) or a picture (uint8, H x W x 3), gray where its channels agree."""
    if pixels.dtype == bool:
        image = Image.fromarray(pixels.astype(np.uint8) * 255)
    elif pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        image = Image.fromarray(np.ascontiguousarray(pixels[..., 0]))
    else:
        image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def decode(png: bytes) -> np.ndarray:
    """A stored mask as bool (H, W)."""
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        return np.asarray(image.convert("L")) >= 128


def decode_mask(png: bytes, size: tuple[int, int]) -> np.ndarray:
    """A mask that came from outside, as bool (H, W).

    Raises:
        Refusal: it isn't a PNG of this width and height.
    """
    wrong = Refusal("The mask must be a PNG of {width} x {height} pixels.", width=size[0], height=size[1])
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            if image.size != size:
                raise wrong
            if image.mode.startswith("I"):  # 16 bit: to 8 it would be cut off, not scaled
                return np.asarray(image) >= 1 << 15
            rgba = np.asarray(image.convert("RGBA"), np.float32)
            # What is transparent marks nothing: a program may leave any color there.
            return np.asarray(image.convert("L")) * (rgba[..., 3] / 255) >= 128
    except Refusal:
        raise
    except Exception as error:  # a broken file makes a decoder raise nearly anything
        raise wrong from error


def measured(mask: np.ndarray) -> dict[str, Any]:
    """Contours, box, center and area of a mask, in JSON types."""
    found = measure(mask)
    found["contour"] = [[[round(v, 2) for v in point] for point in polygon] for polygon in found["contour"]]
    return found
