"""Backup, restore and check. A backup is a zip of the tables as JSON lines and of the stored files as they lie.

It doesn't depend on the database's kind: one of SQLite restores into PostgreSQL. Files stay encrypted in it; the key
isn't in it, the installation's secret is, because the files' addresses come from it.
"""

import base64
import json
import os
import secrets
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Date, DateTime, MetaData, Table, TableClause, column, func, select, text
from sqlalchemy import table as clause
from sqlalchemy.orm import Session

from bthub.errors import BthubError
from bthub.practice.database import Database
from bthub.practice.files import FileStore, MissingFile
from bthub.practice.locks import Locks
from bthub.practice.models import SIGNED, Base, Report, StoredFile, UtcTime, now
from bthub.practice.report import DIGEST, canonical, digest
from bthub.practice.settings import Settings

FORMAT = "bthub-practice-1"
# Whoever restores signs in anew; failed attempts are forgotten.
LEFT_OUT = {"sign_in", "attempt"}
BATCH = 500


def tables() -> list[Table]:
    """Those of a backup, each after the ones that it refers to."""
    return [table for table in Base.metadata.sorted_tables if table.name not in LEFT_OUT]


def backup(settings: Settings, database: Database, target: Path) -> tuple[int, int]:
    """Write all that is stored into one file, while others go on writing; returns how many rows and files.

    Args:
        settings, database: of the practice.
        target: the file, written whole or not at all.

    Raises:
        BthubError: it already exists or can't be written, or a stored file is missing.
    """
    if target.exists():
        raise BthubError(f"{target}: already exists; remove it or name another file")
    store = FileStore(settings, database)
    partial = target.with_name(f".{target.name}.partial-{secrets.token_hex(4)}")
    rows = files = 0
    try:
        # The lock first: what the database shows from here on keeps its files until the end.
        with Locks(settings.folder).backup(), database.read() as session:
            handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            with open(handle, "w+b") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                head = {
                    "format": FORMAT,
                    "revision": database.revision(),
                    "created_at": now().isoformat(),
                    "secret": settings.secret,
                    "encrypted": settings.key is not None,
                }
                archive.writestr("backup.json", json.dumps(head))
                for table in tables():
                    with archive.open(f"tables/{table.name}.jsonl", "w", force_zip64=True) as lines:
                        for row in session.execute(select(table).order_by(*table.primary_key.columns)).mappings():
                            lines.write((json.dumps({k: _to_json(v) for k, v in row.items()}) + "\n").encode())
                            rows += 1
                for address in session.scalars(select(StoredFile.address).order_by(StoredFile.address)):
                    try:
                        content = store.place.read(address)
                    except OSError as error:
                        raise BthubError(f"the stored file {address} is missing: bthub practice check") from error
                    archive.writestr(zipfile.ZipInfo(f"files/{address}"), content)
                    files += 1
            with partial.open("rb") as written:
                os.fsync(written.fileno())
            partial.rename(target)
    except OSError as error:
        raise BthubError(
            f"{target}: cannot be written ({error.strerror}); free some space or name another file"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return rows, files


def restore(settings: Settings, database: Database, source: Path) -> tuple[int, int]:
    """Bring a backup into an empty practice; returns how many rows and files.

    Raises:
        BthubError: the practice isn't empty, or the file is not a backup, is damaged or of a later bthub.
    """
    with database.read() as session:
        for table in tables():
            if session.scalar(select(func.count()).select_from(table)):
                raise BthubError(f"{settings.folder}: is not empty; restore into a new data folder or database")
    store = FileStore(settings, database)
    rows = files = 0
    try:
        with Locks(settings.folder).serving(), zipfile.ZipFile(source) as archive:
            head = json.loads(archive.read("backup.json"))
            if not isinstance(head, dict) or head.get("format") != FORMAT:
                raise BthubError(f"{source}: is not a backup of a practice")
            if head["revision"] not in database.heads():
                raise BthubError(f"{source}: was written by a later bthub: update bthub, then restore")
            if damaged := archive.testzip():
                raise BthubError(f"{source}: {damaged} in it is damaged")
            # To the tables as they were, and from there to today's with the rows in them.
            database.migrate(head["revision"])
            names = archive.namelist()
            for name in names:
                folder, _, address = name.partition("/")
                if folder == "files" and len(address) == 64 and address.isalnum():
                    store.place.write(address, archive.read(name))
                    files += 1
            with database.write() as session:
                present = set(_tables_there(session, database))
                for table in tables():
                    if table.name not in present or f"tables/{table.name}.jsonl" not in names:
                        continue
                    rows += _fill(session, _as_it_is(session, table), archive)
                _set_counters(session, database)
            _replace_secret(settings.folder / "secret", head["secret"])
            database.migrate()
    except (zipfile.BadZipFile, KeyError, ValueError, RecursionError) as error:
        raise BthubError(f"{source}: is not a backup of a practice, or is damaged") from error
    except OSError as error:
        raise BthubError(f"{source}: cannot be restored ({error.strerror or error})") from error
    return rows, files


def _tables_there(session: Session, database: Database) -> list[str]:
    from sqlalchemy import inspect

    return inspect(session.connection()).get_table_names()


def _as_it_is(session: Session, table: Table) -> TableClause:
    """A table with the columns that it has in the database, which may be those of an earlier revision."""
    there = Table(table.name, MetaData(), autoload_with=session.connection(), resolve_fks=False)
    types = {one.name: one.type for one in there.columns} | {one.name: one.type for one in table.columns}
    return clause(table.name, *(column(one.name, types[one.name]) for one in there.columns))


def _fill(session: Session, table: TableClause, archive: zipfile.ZipFile) -> int:
    rows = 0
    batch: list[dict[str, Any]] = []
    with archive.open(f"tables/{table.name}.jsonl") as lines:
        for line in lines:
            batch.append({name: _from_json(table, name, value) for name, value in json.loads(line).items()})
            if len(batch) == BATCH:
                session.execute(table.insert(), batch)
                rows, batch = rows + len(batch), []
    if batch:
        session.execute(table.insert(), batch)
    return rows + len(batch)


def _set_counters(session: Session, database: Database) -> None:
    """PostgreSQL counts on from its own numbers, not from those that were put in."""
    if database.is_sqlite:
        return
    for table in tables():
        if "number" in table.columns:
            session.execute(
                text(
                    f"SELECT setval(pg_get_serial_sequence('{table.name}', 'number'), "
                    f"(SELECT coalesce(max(number), 0) + 1 FROM {table.name}), false)"
                )
            )


def _replace_secret(path: Path, secret: str) -> None:
    fresh = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(secret)
    fresh.rename(path)


def _to_json(value: Any) -> Any:
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _from_json(table: TableClause, name: str, value: Any) -> Any:
    kind = table.columns[name].type if name in table.columns else None
    if value is None or kind is None:
        return value
    if isinstance(kind, (UtcTime, DateTime)):
        return datetime.fromisoformat(value)
    return date.fromisoformat(value) if isinstance(kind, Date) else value


@dataclass
class Checked:
    """What `check` found."""

    rows: int = 0
    files: int = 0
    reports: int = 0
    problems: list[str] = field(default_factory=list)


def check(settings: Settings, database: Database) -> Checked:
    """Hold rows against files and signed reports against their digests. Changes nothing.

    Files without a row are no problem where a server runs: it may be about to commit the row. Ids alone are named.
    """
    found = Checked()
    store = FileStore(settings, database)
    with Locks(settings.folder).backup():
        before = set(store.place.addresses())
        with database.read() as session:
            found.problems += _sound(session, database)
            known = {
                address: account
                for address, account in session.execute(select(StoredFile.address, StoredFile.account_id))
            }
            found.rows = len(known)
            for address, account_id in known.items():
                try:
                    content = store.read(address)
                except MissingFile as error:
                    found.problems.append(f"file {address}: {error}")
                    continue
                if not store.matches(address, account_id, content):
                    found.problems.append(f"file {address}: holds something else than it did when it was stored")
            for report in session.scalars(select(Report).where(Report.state == SIGNED)):
                found.reports += 1
                found.problems += _frozen(report)
        found.files = len(before)
        orphans = before - set(known)
    if orphans and not _served(settings):
        found.problems += [
            f"file {address}: has no row; the server removes it at its next start" for address in sorted(orphans)
        ]
    return found


def _served(settings: Settings) -> bool:
    try:
        with Locks(settings.folder).serving():
            return False
    except BthubError:
        return True


def _sound(session: Session, database: Database) -> Iterator[str]:
    if not database.is_sqlite:
        return
    for (line,) in session.execute(text("PRAGMA integrity_check")):
        if line != "ok":
            yield f"database: {line}"
    for row in session.execute(text("PRAGMA foreign_key_check")):
        yield f"database: a row of {row[0]} refers to one of {row[2]} that isn't there"


def _frozen(report: Report) -> Iterator[str]:
    try:
        content = json.loads(report.frozen or "")
        sound = digest(content) == report.digest == content[DIGEST] and canonical(content) == report.frozen
    except (ValueError, KeyError, TypeError, RecursionError):
        sound = False
    if not sound:
        yield f"report {report.id}: was changed after it was signed"
