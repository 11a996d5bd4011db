"""Locks: one server per data folder, and no purge of files during a backup."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bthub.errors import BthubError


class Locks:
    """Locks on files of the data folder. They end with the process that holds them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Held by the server.

        Raises:
            BthubError: another one holds it.
        """
        with self._lock("server.lock", fcntl.LOCK_EX) as held:
            if not held:
                raise BthubError(f"{self._folder}: another bthub practice serves this folder: stop it first")
            yield

    @contextmanager
    def backup(self) -> Iterator[None]:
        """Held while a backup reads files; waits for a purge at work."""
        with self._lock("files.lock", fcntl.LOCK_SH, wait=True):
            yield

    @contextmanager
    def purging(self) -> Iterator[bool]:
        """Held while files are removed; False where a backup is at work."""
        with self._lock("files.lock", fcntl.LOCK_EX) as held:
            yield held

    @contextmanager
    def _lock(self, name: str, kind: int, wait: bool = False) -> Iterator[bool]:
        handle = os.open(self._folder / name, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(handle, kind if wait else kind | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(handle)
