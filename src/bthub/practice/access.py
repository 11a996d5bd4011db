"""The one place that decides what an account may see.

Everything that a page, an address of a file or a form names comes from here. What isn't the account's own doesn't
exist: the answer is the same as for an id that nobody has.
"""

from typing import Any, TypeVar

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from bthub.practice.models import Base, Case, Correction, Examination, Note, NoteVersion, Report, Slice, Upload
from bthub.practice.texts import Refusal

Thing = TypeVar("Thing", bound=Base)


class NotFound(Refusal):
    def __init__(self) -> None:
        super().__init__("There is no such page, or it isn't yours.", 404)


def own(thing: type[Thing], account_id: str, *, deleted: bool = False) -> Select[tuple[Thing]]:
    """The rows of a table that an account may see.

    Args:
        thing: which table.
        account_id: whose.
        deleted: also what was deleted and can still be undone.
    """
    owner, joins = _WAYS[thing]
    query: Select[Any] = select(thing)
    for table, condition in joins:
        query = query.outerjoin(table, condition)
    query = query.where(owner.account_id == account_id)
    if not deleted:
        for table in (thing, *(table for table, _ in joins)):
            if hasattr(table, "deleted_at"):
                query = query.where(table.deleted_at.is_(None))
    return query


def get(session: Session, thing: type[Thing], account_id: str, id: str) -> Thing:
    """One row by its id.

    Raises:
        NotFound: there is none that the account may see.
    """
    if not (isinstance(id, str) and len(id) == 32 and id.isalnum()):
        raise NotFound
    found = session.scalar(own(thing, account_id).where(thing.id == id))  # type: ignore[attr-defined]
    if found is None:
        raise NotFound
    return found


# From each table to the one that names the account: what is joined, and on what. The case of an examination is joined
# too, because what is in a deleted case is as gone as the case; an examination that isn't saved yet has none.
_OF_EXAMINATION = (Case, Examination.case_id == Case.id)
_WAYS: dict[type[Base], tuple[Any, tuple[tuple[Any, Any], ...]]] = {
    Case: (Case, ()),
    Examination: (Examination, (_OF_EXAMINATION,)),
    Upload: (Examination, ((Examination, Upload.examination_id == Examination.id), _OF_EXAMINATION)),
    Slice: (Examination, ((Examination, Slice.examination_id == Examination.id), _OF_EXAMINATION)),
    Correction: (
        Examination,
        (
            (Slice, Correction.slice_id == Slice.id),
            (Examination, Slice.examination_id == Examination.id),
            _OF_EXAMINATION,
        ),
    ),
    Note: (Case, ((Case, Note.case_id == Case.id),)),
    NoteVersion: (Case, ((Note, NoteVersion.note_id == Note.id), (Case, Note.case_id == Case.id))),
    Report: (
        Case,
        ((Case, Report.case_id == Case.id), (Examination, Report.examination_id == Examination.id)),
    ),
}
