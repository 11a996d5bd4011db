"""A practice with models of known answers, on SQLite and on PostgreSQL."""

import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

pytest.importorskip("sqlalchemy", reason="the practice's packages are an extra")

from argon2 import PasswordHasher
from practice_help import Browser, stub
from sqlalchemy import create_engine, text

from bthub.practice import accounts
from bthub.practice import settings as settings_module
from bthub.practice.database import Database
from bthub.practice.settings import Settings


@pytest.fixture(scope="session", autouse=True)
def cheap_passwords() -> Iterator[None]:
    """The same hashes with the least work: nearly every test registers somebody."""
    patch = pytest.MonkeyPatch()
    patch.setattr(accounts, "_HASHER", PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a server of its own, or of the one that BTHUB_TEST_DATABASE_URL names; databases are made in it."""
    if given := os.environ.get("BTHUB_TEST_DATABASE_URL"):
        yield given
        return
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(p) for p in [shutil.which("initdb")] if p]
    if not found:
        pytest.skip("PostgreSQL isn't installed: apt-get install postgresql, or set BTHUB_TEST_DATABASE_URL")
    programs = found[-1].parent
    # A folder that the server's own user can enter, which pytest's aren't for others than root.
    with tempfile.TemporaryDirectory(prefix="bthub-pg-") as place:
        as_user: list[str] = []
        if os.geteuid() == 0:  # the server refuses to run as root
            shutil.chown(place, "postgres")
            os.chmod(place, 0o700)
            as_user = ["runuser", "-u", "postgres", "--"]
        run = {"check": True, "capture_output": True, "cwd": "/"}
        subprocess.run(
            [*as_user, programs / "initdb", "-D", f"{place}/data", "-A", "trust", "-U", "bthub", "-N"], **run
        )
        options = f"-k {place} -c listen_addresses= -c fsync=off -c max_connections=200"
        pg_ctl = [*as_user, programs / "pg_ctl", "-D", f"{place}/data", "-w", "-l", f"{place}/log"]
        # Stops the server when this process is gone, however it went: then nobody holds the other end of its input.
        stop = shlex.join(map(str, [*pg_ctl, "-m", "immediate", "stop"]))
        watch = subprocess.Popen(
            ["sh", "-c", f"read _; {stop}; rm -rf {shlex.quote(place)}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        try:
            subprocess.run([*pg_ctl, "-o", options, "start"], check=True, stdout=subprocess.DEVNULL, cwd="/")
            yield f"postgresql://bthub@/postgres?host={place}"
        finally:
            assert watch.stdin is not None
            watch.stdin.close()
            watch.wait(timeout=60)
            os.makedirs(place, exist_ok=True)  # for who made it to remove


@pytest.fixture(scope="session")
def empty_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with the tables, to be copied: making them takes longer than most tests."""
    made = settings_module.load(tmp_path_factory.mktemp("empty"), {})
    database = Database(made.database_url)
    database.migrate()
    database.close()
    return Path(database.engine.url.database)


@pytest.fixture(scope="session")
def empty_postgres(postgres: str) -> str:
    """The name of such a database on the server."""
    name = f"empty{os.getpid()}"
    engine = create_engine(postgres, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    database = Database(re.sub(r"/postgres\?", f"/{name}?", postgres))
    database.migrate()
    database.close()
    return name


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """A data folder of its own, with a database of its own."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_settings")
        return
    made = settings_module.load(tmp_path / "practice", {})
    server, empty = (request.getfixturevalue(fixture) for fixture in ("postgres", "empty_postgres"))
    name = f"t{os.getpid()}_{time.monotonic_ns()}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {empty}"))
    yield replace(made, database_url=re.sub(r"/postgres\?", f"/{name}?", server))
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


@pytest.fixture
def sqlite_settings(empty_sqlite: Path, tmp_path: Path) -> Settings:
    made = settings_module.load(tmp_path / "practice", {})
    shutil.copy(empty_sqlite, made.folder / empty_sqlite.name)
    return made


@pytest.fixture
def serve(settings: Settings) -> Iterator[Callable[..., Browser]]:
    """Makes browsers on one running practice."""
    yield from _serve(settings)


@pytest.fixture
def serve_sqlite(sqlite_settings: Settings) -> Iterator[Callable[..., Browser]]:
    yield from _serve(sqlite_settings)


def _serve(settings: Settings) -> Iterator[Callable[..., Browser]]:
    from bthub.practice.web.app import create_app

    app = create_app(settings, stub)
    with TestClient(app):
        yield lambda: Browser(TestClient(app, raise_server_exceptions=False))
