"""The database: SQLite in the data folder, or PostgreSQL; reading and writing transactions; migrations."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from bthub.errors import BthubError

MIGRATIONS = Path(__file__).with_name("migrations")
BUSY_SECONDS = 60
FILE_LOCK = 7_861_001
"""Of PostgreSQL: shared by those who add files, held alone by who removes them. SQLite has one writer anyway."""

_ENCODED = "in a password @ : / ? # and % must be percent-encoded (%40 %3A %2F %3F %23 %25)"
_REASONS = (
    ("password authentication failed", "it refuses the user or the password"),
    ("does not exist", "it has no such database or user"),
    ("resolve host", "there is no such host"),
    ("refused", "nothing answers at the host and port"),
    ("No such file", "nothing answers at the host and port"),
    ("timeout expired", "it doesn't answer in time"),
    ("timed out", "it doesn't answer in time"),
)
"""What a driver's message has in it, and what is said of it."""


class Turns:
    """A lock that is given in the order in which it was asked for.

    SQLite lets those who wait for its one writer look again and again: by chance one waits for many others, and after
    BUSY_SECONDS in vain.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._owner: int | None = None

    @contextmanager
    def take(self) -> Iterator[None]:
        """
        Raises:
            RuntimeError: this thread has the turn already, and would wait for itself.
        """
        me = threading.get_ident()
        with self._mutex:
            if self._owner == me:
                raise RuntimeError("a writing transaction inside another")
            mine = None
            if self._owner is None:
                self._owner = me
            else:
                mine = threading.Lock()
                mine.acquire()
                self._waiting.append(mine)
        if mine is not None:
            mine.acquire()  # released by the one before
            self._owner = me
        try:
            yield
        finally:
            with self._mutex:
                if self._waiting:
                    self._owner = -1  # on its way to the next
                    self._waiting.popleft().release()
                else:
                    self._owner = None


class Database:
    """Sessions on one database. A writer of SQLite takes its turn when it begins: one that first reads and then
    writes would else fail where another wrote in between."""

    def __init__(self, url: str) -> None:
        """
        Args:
            url: of SQLAlchemy.

        Raises:
            BthubError: the URL can't be used.
        """
        options: dict[str, Any] = {}
        if url.startswith("sqlite"):
            options = {"connect_args": {"timeout": BUSY_SECONDS, "check_same_thread": False}}
        try:
            # Values never enter messages: they are pseudonyms and notes. Threads of the server: 40, and its lanes.
            self.engine = create_engine(
                url, hide_parameters=True, pool_pre_ping=True, pool_size=20, max_overflow=60, **options
            )
        except ModuleNotFoundError as error:
            raise BthubError(
                f"DATABASE_URL names a database that needs the package {error.name}: give sqlite:///FILE or "
                'postgresql://..., and install what that needs with pip install "bthub[practice]"'
            ) from error
        except (SQLAlchemyError, ValueError):
            # Without its cause, which quotes the URL with what it took for a port: often a part of the password.
            raise BthubError(
                "DATABASE_URL can't be read, expected sqlite:///FILE or postgresql://USER:PASSWORD@HOST:PORT/NAME; "
                + _ENCODED
            ) from None
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        # Of this process; with others, such as the administrator's commands, SQLite's own lock decides.
        self._turns = Turns() if self.is_sqlite else None
        if self.is_sqlite:
            event.listen(self.engine, "connect", _prepare_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that sees one state of the database and changes nothing."""
        isolation = "SERIALIZABLE" if self.is_sqlite else "REPEATABLE READ"
        with self.engine.connect() as connection:
            if not self.is_sqlite:
                connection = connection.execution_options(isolation_level=isolation)
            with Session(connection, expire_on_commit=False, autoflush=False) as session:
                yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that is committed when the block ends, and leaves nothing when it ends badly."""
        # Whoever waits for SQLite's one writer holds no connection meanwhile.
        with self._turns.take() if self._turns else nullcontext(), self.engine.connect() as connection:
            connection = connection.execution_options(bthub_write=True)
            with Session(connection, expire_on_commit=False) as session, session.begin():
                yield session

    def lock_files(self, session: Session, *, alone: bool) -> None:
        """Wait until nobody removes files, or, alone, until nobody adds any; until the transaction ends."""
        if not self.is_sqlite:
            name = "pg_advisory_xact_lock" if alone else "pg_advisory_xact_lock_shared"
            session.execute(text(f"SELECT {name}({FILE_LOCK})"))

    def migrate(self, revision: str = "head") -> None:
        """Bring the tables to a revision; down too, where it is older.

        Raises:
            BthubError: the database can't be reached, or is of a later bthub.
        """
        config = self._config()
        try:
            with self._reached() as connection:
                connection = connection.execution_options(bthub_write=True)
                config.attributes["connection"] = connection
                current = MigrationContext.configure(connection).get_current_revision()
                known = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
                if current is not None and current not in known:
                    raise BthubError("the database was written by a later bthub: update bthub, its data is untouched")
                back = revision == "base" or (revision in known and current in known[: known.index(revision)])
                (command.downgrade if back else command.upgrade)(config, revision)
                connection.commit()
        except OperationalError as error:
            raise BthubError(self._unreachable(error)) from None

    def _reached(self) -> Connection:
        """The first connection, which shows whether the URL is right.

        Raises:
            BthubError: it isn't, or the database is away.
        """
        try:
            return self.engine.connect()
        except Exception as error:  # a wrong URL makes a driver raise nearly anything
            raise BthubError(self._unreachable(error)) from None

    def _unreachable(self, error: Exception) -> str:
        """Why there is no connection, in words of ours: a driver's own quote the URL, and with it the password."""
        text = str(error)
        if self.is_sqlite:  # no password; the driver's words name no file either
            return "the database can't be reached: " + str(getattr(error, "orig", error)).partition("\n")[0]
        reason = next((words for sign, words in _REASONS if sign in text), "the connection failed")
        return f"the database can't be reached: {reason}; check DATABASE_URL: {_ENCODED}"

    def revision(self) -> str | None:
        """The revision of the tables; None before the first."""
        with self.engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()

    def heads(self) -> list[str]:
        """The revisions of this bthub, newest first."""
        return [script.revision for script in ScriptDirectory.from_config(self._config()).walk_revisions()]

    def close(self) -> None:
        self.engine.dispose()

    @staticmethod
    def _config() -> Config:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        return config


def _prepare_sqlite(connection: Any, _: Any) -> None:
    # Transactions begin where SQLAlchemy says, not where the driver guesses; see _begin_sqlite.
    connection.isolation_level = None
    for attempt in range(5):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            break
        except Exception:  # another process turns the same new file to WAL at this moment
            if attempt == 4:
                raise
            time.sleep(0.2)
    connection.execute("PRAGMA foreign_keys=ON")
    # A confirmed save outlasts a power cut.
    connection.execute("PRAGMA synchronous=FULL")


def _begin_sqlite(connection: Connection) -> None:
    write = connection.get_execution_options().get("bthub_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
