"""The tables. Everything that belongs to a person belongs to an account and is deleted with it.

Ids are random, so that none can be guessed from another. Times are UTC. The order of what happened is that of `number`,
which a clock that jumps doesn't change.
"""

import secrets
from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Date, DateTime, ForeignKey, Index, Integer, String, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

PROFESSIONS = ("radiologist", "surgeon", "oncologist", "lab researcher", "student", "other")
LANGUAGES = ("en", "de")

QUEUED, RUNNING, DONE, FAILED = "queued", "running", "done", "failed"
DRAFT, SIGNED = "draft", "signed"
PICTURES, VOLUME = "pictures", "volume"


def now() -> datetime:
    return datetime.now(UTC)


def new_id() -> str:
    """128 random bits."""
    return secrets.token_hex(16)


class UtcTime(TypeDecorator[datetime]):
    """Aware UTC times, also where the database keeps none."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value and value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value and (value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC))


class Base(DeclarativeBase):
    type_annotation_map = {datetime: UtcTime, dict[str, Any]: JSON, list[Any]: JSON}


ACCOUNT = "account.id"


def _owner() -> Any:
    return mapped_column(ForeignKey(ACCOUNT, ondelete="CASCADE"), index=True)


class Account(Base):
    __tablename__ = "account"

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(String(200), unique=True)  # folded; what is typed at sign-in
    full_name: Mapped[str] = mapped_column(String(200))
    password: Mapped[str | None] = mapped_column(String(300))  # argon2; None for who comes by OAuth
    oauth: Mapped[str | None] = mapped_column(String(200), unique=True)
    language: Mapped[str] = mapped_column(String(8), default="en")
    profession: Mapped[str | None] = mapped_column(String(40))
    institution: Mapped[str | None] = mapped_column(String(200))
    consent: Mapped[bool | None]  # to research use; None until asked
    consent_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    locked_at: Mapped[datetime | None]
    recovery: Mapped[str | None] = mapped_column(String(64))  # digest of the one-time code
    recovery_until: Mapped[datetime | None]

    @property
    def complete(self) -> bool:
        """Whether the questions of first use are answered: until then nothing is saved."""
        return self.profession is not None and self.institution is not None and self.consent is not None


class SignIn(Base):
    """A session. The cookie holds a random id, this row its digest."""

    __tablename__ = "sign_in"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    account_id: Mapped[str] = _owner()
    created_at: Mapped[datetime] = mapped_column(default=now)
    seen_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime]


class Attempt(Base):
    """A failed sign-in, or a registration, by the digest of the account's name or the address that it came from."""

    __tablename__ = "attempt"
    __table_args__ = (Index("ix_attempt_key_at", "key", "at"),)

    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    key: Mapped[str] = mapped_column(String(80))
    at: Mapped[datetime] = mapped_column(default=now)


class Invitation(Base):
    __tablename__ = "invitation"

    code: Mapped[str] = mapped_column(String(64), primary_key=True)  # digest
    created_at: Mapped[datetime] = mapped_column(default=now)
    used_at: Mapped[datetime | None]


class Option(Base):
    """What an administrator has switched, such as invite-only."""

    __tablename__ = "option"

    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    value: Mapped[str] = mapped_column(String(200))


class Audit(Base):
    """Who did what, when. Ids alone, no names, pseudonyms or texts; stays when the account goes."""

    __tablename__ = "audit"

    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    at: Mapped[datetime] = mapped_column(default=now)
    account_id: Mapped[str | None] = mapped_column(String(32), index=True)
    action: Mapped[str] = mapped_column(String(40))
    subject: Mapped[str | None] = mapped_column(String(64))


class StoredFile(Base):
    """A file's row; its bytes are in the file store under `address`."""

    __tablename__ = "stored_file"

    address: Mapped[str] = mapped_column(String(64), primary_key=True)
    # Outlasts the account, so that the sweep knows which bytes to remove.
    account_id: Mapped[str] = mapped_column(String(32), index=True)
    size: Mapped[int] = mapped_column(BigInteger)  # of the content, before encryption
    kind: Mapped[str] = mapped_column(String(60))
    created_at: Mapped[datetime] = mapped_column(default=now)


FILE = "stored_file.address"


class Deletable:
    """Deleted rows stay hidden until the session that deleted them ends, so that it can undo."""

    deleted_at: Mapped[datetime | None]
    deleted_in: Mapped[str | None] = mapped_column(String(64), index=True)


class Case(Deletable, Base):
    """A patient's label and all that is kept under it.

    What lists show, sort and filter is copied here from the examinations, by `cases.refresh`.
    """

    __tablename__ = "case"
    __table_args__ = (
        Index("ix_case_changed", "account_id", "deleted_at", "changed_at"),
        Index("ix_case_examined", "account_id", "deleted_at", "examined_on"),
        Index("ix_case_pseudonym", "account_id", "deleted_at", "folded"),
        Index("ix_case_area", "account_id", "deleted_at", "area_px"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    account_id: Mapped[str] = _owner()
    pseudonym: Mapped[str] = mapped_column(String(80))
    folded: Mapped[str] = mapped_column(String(80))
    created_at: Mapped[datetime] = mapped_column(default=now)
    changed_at: Mapped[datetime] = mapped_column(default=now)
    examined_on: Mapped[date | None] = mapped_column(Date)
    examinations: Mapped[int] = mapped_column(default=0)
    label: Mapped[str | None] = mapped_column(String(20))  # of the latest examination
    uncertain: Mapped[bool] = mapped_column(default=False)
    corrected: Mapped[bool] = mapped_column(default=False)
    probability: Mapped[float | None]
    area_px: Mapped[int | None]
    notes: Mapped[int] = mapped_column(default=0)
    reports: Mapped[int] = mapped_column(default=0)


class Examination(Deletable, Base):
    """One upload of one patient and date: a picture, several, or a volume. Without a case it is not saved yet."""

    __tablename__ = "examination"
    __table_args__ = (Index("ix_examination_case", "case_id", "deleted_at"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    account_id: Mapped[str] = _owner()
    case_id: Mapped[str | None] = mapped_column(ForeignKey("case.id", ondelete="CASCADE"))
    state: Mapped[str] = mapped_column(String(10), default=QUEUED, index=True)
    title: Mapped[str] = mapped_column(String(200))
    examined_on: Mapped[date | None] = mapped_column(Date)
    created_at: Mapped[datetime] = mapped_column(default=now)
    kind: Mapped[str] = mapped_column(String(20), default=PICTURES)  # or VOLUME
    check_input: Mapped[bool] = mapped_column(default=True)
    keep_identifiers: Mapped[bool] = mapped_column(default=False)  # the uploads stay once it is saved
    tries: Mapped[int] = mapped_column(default=0)  # analyses begun since one ended
    done: Mapped[int] = mapped_column(default=0)
    total: Mapped[int] = mapped_column(default=0)
    problem: Mapped[str | None] = mapped_column(Text)
    label: Mapped[str | None] = mapped_column(String(20))
    probability: Mapped[float | None]
    threshold: Mapped[float | None]
    uncertain: Mapped[bool] = mapped_column(default=False)
    area_px: Mapped[int | None]  # of the slice with most
    area_mm2: Mapped[float | None]
    volume_ml: Mapped[float | None]
    corrected: Mapped[bool] = mapped_column(default=False)
    spacing_mm: Mapped[list[Any] | None]  # between slices, rows, columns; the first None for pictures
    geometry: Mapped[dict[str, Any] | None]  # what places a mask in the scan's own grid
    remarks: Mapped[list[Any] | None]  # what the person should know of a stack, a sentence each
    facts: Mapped[dict[str, Any] | None]  # models, and how good they were measured to be; what mends a failure


class Upload(Base):
    """A file as it came. Gone once its examination is saved, unless the person keeps it: `cases.drop_uploads`."""

    __tablename__ = "upload"

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    examination_id: Mapped[str] = mapped_column(ForeignKey("examination.id", ondelete="CASCADE"), index=True)
    position: Mapped[int]
    name: Mapped[str] = mapped_column(String(200))
    file: Mapped[str] = mapped_column(ForeignKey(FILE), index=True)


class Slice(Base):
    """A picture and what was found in it; `problem` where it could not be analyzed."""

    __tablename__ = "slice"
    __table_args__ = (Index("ix_slice_place", "examination_id", "position", unique=True),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    examination_id: Mapped[str] = mapped_column(ForeignKey("examination.id", ondelete="CASCADE"))
    position: Mapped[int]
    name: Mapped[str] = mapped_column(String(200))
    problem: Mapped[str | None] = mapped_column(Text)
    picture: Mapped[str | None] = mapped_column(ForeignKey(FILE), index=True)
    mask: Mapped[str | None] = mapped_column(ForeignKey(FILE), index=True)
    heat: Mapped[str | None] = mapped_column(ForeignKey(FILE), index=True)
    label: Mapped[str | None] = mapped_column(String(20))
    probability: Mapped[float | None]
    uncertain: Mapped[bool] = mapped_column(default=False)
    area_px: Mapped[int | None]  # of the mask that counts: the corrected one where there is one
    area_mm2: Mapped[float | None]
    result: Mapped[dict[str, Any] | None]  # the model's, without the mask


class Correction(Base):
    """A mask drawn by hand over the model's. The latest counts; earlier ones are its history."""

    __tablename__ = "correction"

    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(32), unique=True, default=new_id)
    slice_id: Mapped[str] = mapped_column(ForeignKey("slice.id", ondelete="CASCADE"), index=True)
    at: Mapped[datetime] = mapped_column(default=now)
    author: Mapped[str] = mapped_column(String(200))
    mask: Mapped[str | None] = mapped_column(ForeignKey(FILE), index=True)  # None: back to the model's
    area_px: Mapped[int | None]


class Note(Deletable, Base):
    __tablename__ = "note"

    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(32), unique=True, default=new_id)
    case_id: Mapped[str] = mapped_column(ForeignKey("case.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = mapped_column(default=now)
    changed_at: Mapped[datetime] = mapped_column(default=now)
    author: Mapped[str] = mapped_column(String(200))
    text: Mapped[str] = mapped_column(Text)
    folded: Mapped[str] = mapped_column(Text)


class NoteVersion(Base):
    """What a note said before."""

    __tablename__ = "note_version"

    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    note_id: Mapped[str] = mapped_column(ForeignKey("note.id", ondelete="CASCADE"), index=True)
    at: Mapped[datetime]
    author: Mapped[str] = mapped_column(String(200))
    text: Mapped[str] = mapped_column(Text)


class Report(Deletable, Base):
    __tablename__ = "report"

    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    id: Mapped[str] = mapped_column(String(32), unique=True, default=new_id)
    case_id: Mapped[str] = mapped_column(ForeignKey("case.id", ondelete="CASCADE"), index=True)
    examination_id: Mapped[str] = mapped_column(ForeignKey("examination.id", ondelete="CASCADE"), index=True)
    state: Mapped[str] = mapped_column(String(10), default=DRAFT)
    language: Mapped[str] = mapped_column(String(8), default="en")
    created_at: Mapped[datetime] = mapped_column(default=now)
    changed_at: Mapped[datetime] = mapped_column(default=now)
    findings: Mapped[str] = mapped_column(Text, default="")
    impression: Mapped[str] = mapped_column(Text, default="")
    signed_at: Mapped[datetime | None]
    frozen: Mapped[str | None] = mapped_column(Text)  # canonical JSON, as it was signed
    digest: Mapped[str | None] = mapped_column(String(64))
    picture: Mapped[str | None] = mapped_column(ForeignKey(FILE), index=True)  # as it was signed
    pdf: Mapped[str | None] = mapped_column(ForeignKey(FILE), index=True)
