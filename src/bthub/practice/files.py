"""Stored files, by the digest of their content, encrypted where there is a key.

A file is in its place whole or not at all. Its address is keyed by account, so that nobody learns from an address
whether somebody else has the same file.
"""

import hashlib
import hmac
import os
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import event, select
from sqlalchemy.orm import Session

from bthub.errors import BthubError
from bthub.practice.database import Database
from bthub.practice.models import StoredFile
from bthub.practice.settings import Settings

_PLAIN, _SEALED = b"bthub0\n", b"bthub1\n"
_NONCE = 12
FORGOTTEN = 3600.0
"""Seconds after which a staged file is taken for one that will never be attached."""


class MissingFile(BthubError):
    """A stored file is gone or damaged."""


class Place(Protocol):
    """Where bytes lie."""

    def read(self, address: str) -> bytes: ...

    def write(self, address: str, content: bytes) -> None: ...

    def has(self, address: str) -> bool: ...

    def remove(self, address: str) -> None: ...

    def addresses(self) -> Iterator[str]: ...


class Folder:
    """A folder of this machine, two levels deep."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True, mode=0o700)

    def _of(self, address: str) -> Path:
        return self.path / address[:2] / address

    def read(self, address: str) -> bytes:
        return self._of(address).read_bytes()

    def write(self, address: str, content: bytes) -> None:
        target = self._of(address)
        target.parent.mkdir(exist_ok=True, mode=0o700)
        partial = target.with_name(f".{address}-{secrets.token_hex(4)}")
        try:
            with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the name too
        finally:
            os.close(folder)

    def has(self, address: str) -> bool:
        return self._of(address).is_file()

    def remove(self, address: str) -> None:
        self._of(address).unlink(missing_ok=True)

    def addresses(self) -> Iterator[str]:
        for folder in sorted(self.path.iterdir()):
            if folder.is_dir():
                yield from (path.name for path in sorted(folder.iterdir()) if not path.name.startswith("."))

    def clear_partial(self) -> int:
        """Remove what a killed process had half written; only while no other one runs."""
        partial = list(self.path.glob("*/.*"))
        for path in partial:
            path.unlink(missing_ok=True)
        return len(partial)


class Remote:
    """A folder at an fsspec URL."""

    def __init__(self, url: str) -> None:
        try:
            from fsspec.core import url_to_fs

            self.system, self.root = url_to_fs(url)
        except ImportError as error:  # names the package that such a place needs
            raise BthubError(f"BTHUB_PRACTICE_FILES: {error}") from error
        except ValueError:
            # Without its cause, which may quote the URL, and with it a password.
            raise BthubError(
                "BTHUB_PRACTICE_FILES can't be read, expected an fsspec URL such as s3://BUCKET/FOLDER; in a password "
                "@ : / ? # and % must be percent-encoded"
            ) from None
        self.system.makedirs(self.root, exist_ok=True)

    def _of(self, address: str) -> str:
        return f"{self.root.rstrip('/')}/{address[:2]}/{address}"

    def read(self, address: str) -> bytes:
        content: bytes = self.system.cat_file(self._of(address))
        return content

    def write(self, address: str, content: bytes) -> None:
        self.system.makedirs(self._of(address).rpartition("/")[0], exist_ok=True)
        self.system.pipe_file(self._of(address), content)

    def has(self, address: str) -> bool:
        return bool(self.system.exists(self._of(address)))

    def remove(self, address: str) -> None:
        if self.has(address):
            self.system.rm_file(self._of(address))

    def addresses(self) -> Iterator[str]:
        for path in sorted(self.system.find(self.root)):
            yield str(path).rpartition("/")[2]


class FileStore:
    """The files of the practice."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self.place: Place = Remote(settings.files_url) if settings.files_url else Folder(settings.folder / "files")
        self._secret = settings.secret.encode()
        self._key = settings.key
        self._database = database
        self._mutex = threading.Lock()
        # When each file was staged that no transaction has attached yet: until then a sweep leaves it.
        self._staged: dict[str, list[float]] = {}
        # What was staged and no longer is: the next sweep removes those for which no row was committed.
        self._ended: set[str] = set()

    def stage(self, account_id: str, content: bytes) -> str:
        """Put a file's bytes in place, before a transaction, and return the address.

        Sweeps leave it until the transaction of its `attach` has ended, or for FORGOTTEN where there is none.
        """
        address = self.address(account_id, content)
        with self._mutex:
            self._staged.setdefault(address, []).append(time.monotonic())
        try:
            if not self.place.has(address):
                self.place.write(address, self.seal(address, content))
        except BaseException:
            self._release(address)
            raise
        return address

    def _release(self, address: str) -> None:
        with self._mutex:
            stamps = self._staged.get(address, [])
            if stamps:
                stamps.pop(0)
            if not stamps:
                self._staged.pop(address, None)
                self._ended.add(address)

    def _is_staged(self, address: str) -> bool:
        since = time.monotonic() - FORGOTTEN
        return any(stamp > since for stamp in self._staged.get(address, ()))

    def attach(self, session: Session, account_id: str, address: str, size: int, kind: str) -> str:
        """Make the row of a staged file in the caller's transaction; returns the address.

        Raises:
            MissingFile: the bytes were removed in between, which a second try mends.
        """
        for end in ("after_commit", "after_rollback"):
            event.listen(session, end, lambda _: self._release(address))
        self._database.lock_files(session, alone=False)
        if not self.place.has(address):
            raise MissingFile("a stored file was removed while it was saved: try again")
        if session.get(StoredFile, address) is None:
            session.add(StoredFile(address=address, account_id=account_id, size=size, kind=kind))
            session.flush()
        return address

    def address(self, account_id: str, content: bytes) -> str:
        """Where a content of an account lies."""
        return hmac.new(self._secret, account_id.encode() + b"\0" + content, hashlib.sha256).hexdigest()

    def read(self, address: str) -> bytes:
        """A file's content.

        Raises:
            MissingFile: it isn't there, is damaged, or was encrypted with another key.
        """
        try:
            stored = self.place.read(address)
        except OSError as error:
            raise MissingFile("a stored file is missing: bthub practice check tells which") from error
        return self.unseal(address, stored)

    def seal(self, address: str, content: bytes) -> bytes:
        """What is written for a content: encrypted and bound to its address where there is a key."""
        if self._key is None:
            return _PLAIN + content
        nonce = secrets.token_bytes(_NONCE)
        return _SEALED + nonce + self._cipher().encrypt(nonce, content, address.encode())

    def unseal(self, address: str, stored: bytes) -> bytes:
        """The content of what `seal` gave.

        Raises:
            MissingFile: damaged, or encrypted with another key.
        """
        if stored.startswith(_PLAIN):
            return stored[len(_PLAIN) :]
        if not stored.startswith(_SEALED):
            raise MissingFile("a stored file is damaged: bthub practice check tells which")
        if self._key is None:
            raise MissingFile("the stored files are encrypted: start with their key in BTHUB_PRACTICE_KEY")
        from cryptography.exceptions import InvalidTag

        body = stored[len(_SEALED) :]
        try:
            content: bytes = self._cipher().decrypt(body[:_NONCE], body[_NONCE:], address.encode())
        except InvalidTag as error:
            raise MissingFile("a stored file is damaged, or was encrypted with another key") from error
        return content

    def matches(self, address: str, account_id: str, content: bytes) -> bool:
        """Whether a content is what its address says."""
        return hmac.compare_digest(self.address(account_id, content), address)

    def _cipher(self) -> Any:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        assert self._key is not None
        return AESGCM(self._key)

    def sweep(self, *, orphans: bool = False) -> int:
        """Remove what nothing refers to; returns how many files.

        Args:
            orphans: also files without a row, which a killed process leaves. Only while no other one runs.
        """
        since = time.monotonic() - FORGOTTEN
        with self._mutex:
            for address in [one for one, stamps in self._staged.items() if max(stamps) <= since]:
                del self._staged[address]
                self._ended.add(address)
            ended, self._ended = self._ended, set()
        try:
            return self._sweep(ended, orphans=orphans)
        except BaseException:
            with self._mutex:
                self._ended |= ended  # for the next sweep
            raise

    def _sweep(self, ended: set[str], *, orphans: bool) -> int:
        with self._database.write() as session:
            # Alone: who adds a file has made its row and its use visible before, or comes after.
            self._database.lock_files(session, alone=True)
            columns = _references()
            unused = select(StoredFile.address)
            for column in columns:
                unused = unused.where(~select(column).where(column == StoredFile.address).exists())
            with self._mutex:
                gone = [address for address in session.scalars(unused) if not self._is_staged(address)]
            for start in range(0, len(gone), 500):
                session.execute(StoredFile.__table__.delete().where(StoredFile.address.in_(gone[start : start + 500])))  # type: ignore[attr-defined]
        if orphans:
            if isinstance(self.place, Folder):
                self.place.clear_partial()
            gone = list(self.place.addresses())
        return self._remove_without_row(sorted({*gone, *ended}))

    def _remove_without_row(self, addresses: list[str]) -> int:
        removed = 0
        for start in range(0, len(addresses), 500):
            part = addresses[start : start + 500]
            with self._database.write() as session:
                self._database.lock_files(session, alone=True)
                kept = set(session.scalars(select(StoredFile.address).where(StoredFile.address.in_(part))))
                for address in part:
                    # Who stages it meanwhile finds it gone, and writes it anew.
                    with self._mutex:
                        if address not in kept and not self._is_staged(address) and self.place.has(address):
                            self.place.remove(address)
                            removed += 1
        return removed


def _references() -> list[Any]:
    """Every column that names a stored file, read from the tables, so that none is forgotten."""
    from bthub.practice.models import Base

    return [
        column
        for table in Base.metadata.sorted_tables
        for column in table.columns
        if any(key.target_fullname == "stored_file.address" for key in column.foreign_keys)
    ]
