"""Nothing is lost: migrations with data in them, backups while others write, checks, encryption, killed servers."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from practice_help import picture
from sqlalchemy import inspect, select, text

from bthub.errors import BthubError
from bthub.practice import backup as backup_module
from bthub.practice import settings as settings_module
from bthub.practice.backup import backup, check, restore
from bthub.practice.commands import main
from bthub.practice.database import Database
from bthub.practice.files import FileStore, MissingFile
from bthub.practice.models import Account, Base, Case, Examination, Report, StoredFile


def rows(database: Database) -> dict[str, list]:
    with database.read() as session:
        return {table.name: sorted(map(str, session.execute(table.select()).all())) for table in backup_module.tables()}


@pytest.fixture
def database(settings):
    made = Database(settings.database_url)
    yield made
    made.close()


def test_the_migrations_make_the_tables_of_the_models(database):
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    database.migrate("base")  # a test's database has the tables
    database.migrate()
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_migrations_go_up_and_down_with_data_in_them(serve, settings, database):
    serve().begin().case()
    before = rows(database)
    assert before["account"] and before["slice"]
    revisions = database.heads()
    for revision in revisions[1:]:
        database.migrate(revision)
        database.migrate()
        assert rows(database) == before
    database.migrate("base")
    with database.engine.connect() as connection:
        assert set(inspect(connection).get_table_names()) <= {"alembic_version"}
    database.migrate()
    assert not any(rows(database).values())


def test_kept_files_stay_the_choice_of_their_examination(serve, database):
    """Before, it was the case's; of a case that keeps files, those examinations keep them that have any."""
    browser = serve().begin()
    ids = [browser.analyze(picture(seed=i)) for i in range(2)]
    for id, keep in zip(ids, ("yes", ""), strict=True):
        browser.post(f"/examinations/{id}/save", pseudonym="P", keep=keep)
    before = rows(database)
    database.migrate("0001")
    with database.engine.connect() as connection:
        assert all(connection.execute(text('SELECT keep_identifiers FROM "case"')).scalars())
        assert connection.execute(text("SELECT count(*) FROM slice")).scalar() == 2
    database.migrate()
    assert rows(database) == before
    with database.read() as session:
        assert {one.id: one.keep_identifiers for one in session.scalars(select(Examination))} == {
            ids[0]: True,
            ids[1]: False,
        }


def test_a_backup_of_an_earlier_revision_is_restored(serve_sqlite, sqlite_settings, tmp_path):
    serve_sqlite().begin().case()
    database = Database(sqlite_settings.database_url)
    backup(sqlite_settings, database, tmp_path / "now.zip")
    before = rows(database)
    database.close()
    with zipfile.ZipFile(tmp_path / "now.zip") as now, zipfile.ZipFile(tmp_path / "old.zip", "w") as old:
        for name in now.namelist():
            lines = now.read(name)
            if name == "backup.json":
                lines = json.dumps({**json.loads(lines), "revision": "0001"}).encode()
            elif name in ("tables/case.jsonl", "tables/examination.jsonl"):
                (row,) = map(json.loads, lines.splitlines())
                row = {key: value for key, value in row.items() if key not in ("keep_identifiers", "tries")}
                lines = json.dumps(row | ({"keep_identifiers": False} if "case." in name else {})).encode()
            old.writestr(name, lines)
    other = settings_module.load(tmp_path / "other", {})
    target = Database(other.database_url)
    target.migrate()
    restore(other, target, tmp_path / "old.zip")
    assert rows(target) == before
    target.close()


def test_a_database_of_a_later_version_is_left_alone(sqlite_settings):
    database = Database(sqlite_settings.database_url)
    database.migrate()
    with database.write() as session:
        session.execute(text("UPDATE alembic_version SET version_num = 'later'"))
    with pytest.raises(BthubError, match="later bthub"):
        database.migrate()


def test_a_backup_taken_while_others_write_restores_whole(serve, settings, database, tmp_path):
    browser = serve().begin()
    case, examination = browser.case()
    report = browser.post(f"/examinations/{examination}/reports").url.path
    browser.write(report, findings="", impression="As before.", action="sign")
    over = threading.Event()

    def write(number: int) -> None:
        other = serve().begin(f"w{number}@example.org")
        while not over.is_set():
            other.case(picture(seed=number), pseudonym=f"P-{number}")
            other.post(f"/cases/{case}/notes", text="x")

    writers = [threading.Thread(target=write, args=(i,)) for i in range(2)]
    for writer in writers:
        writer.start()
    try:
        files = [tmp_path / f"{i}.backup" for i in range(3)]
        for file in files:
            backup(settings, database, file)
    finally:
        over.set()
        for writer in writers:
            writer.join()
    with pytest.raises(BthubError, match="already exists"):
        backup(settings, database, files[0])
    for i, file in enumerate(files):
        new = settings_module.load(tmp_path / f"restored-{i}", {})
        target = Database(new.database_url)
        target.migrate()
        restore(new, target, file)
        new = settings_module.load(tmp_path / f"restored-{i}", {})  # its secret came with the backup
        found = check(new, target)
        assert found.problems == [] and found.reports == 1
        with target.read() as session:
            assert session.scalar(select(Account.full_name).where(Account.name == "ada@example.org")) == "Ada Lovelace"
        target.close()
        assert file.stat().st_mode & 0o077 == 0
    new = settings_module.load(tmp_path / "restored-0", {})
    target = Database(new.database_url)
    with pytest.raises(BthubError, match="not empty"):
        restore(new, target, files[0])
    target.close()


def test_a_backup_goes_from_sqlite_to_postgresql(serve_sqlite, sqlite_settings, postgres, tmp_path):
    serve_sqlite().begin().case()
    old = Database(sqlite_settings.database_url)
    backup(sqlite_settings, old, tmp_path / "b.zip")
    from sqlalchemy import create_engine

    engine = create_engine(postgres, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE moved_{os.getpid()}"))
    engine.dispose()
    new = replace(
        settings_module.load(tmp_path / "new", {}),
        database_url=postgres.replace("/postgres?", f"/moved_{os.getpid()}?"),
    )
    target = Database(new.database_url)
    target.migrate()
    restore(new, target, tmp_path / "b.zip")
    assert rows(old) == rows(target)
    # Numbers go on where they were.
    with target.write() as session:
        from bthub.practice.accounts import audit

        audit(session, None, "after")
    old.close()
    target.close()


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x05\x06" + b"\0" * 18])
def test_what_is_no_backup_is_refused(sqlite_settings, tmp_path, content):
    database = Database(sqlite_settings.database_url)
    database.migrate()
    (tmp_path / "b").write_bytes(content)
    with pytest.raises(BthubError, match="not a backup"):
        restore(sqlite_settings, database, tmp_path / "b")


def test_the_check_finds_what_is_wrong(serve_sqlite, sqlite_settings, capsys):
    browser = serve_sqlite().begin()
    case, examination = browser.case()
    report = browser.post(f"/examinations/{examination}/reports").url.path
    browser.write(report, findings="", impression="As before.", action="sign")
    database = Database(sqlite_settings.database_url)
    FileStore(sqlite_settings, database).sweep()
    assert check(sqlite_settings, database).problems == []
    with database.read() as session:
        addresses = list(session.scalars(select(StoredFile.address)))
    folder = sqlite_settings.folder / "files"
    gone, changed = (folder / one[:2] / one for one in addresses[:2])
    kept = gone.read_bytes()
    gone.unlink()
    changed.write_bytes(changed.read_bytes()[:-1] + b"?")
    with database.write() as session:
        signed = session.scalar(select(Report))
        signed.frozen = signed.frozen.replace("As before.", "All well.")
    problems = check(sqlite_settings, database).problems
    assert len(problems) == 3
    assert any("missing" in one for one in problems) and any("something else" in one for one in problems)
    assert any("changed after it was signed" in one for one in problems)
    assert "As before" not in str(problems)
    # What is gone is a sentence on the page, and the rest still works.
    for path in (f"/cases/{case}", "/cases", "/"):
        assert browser.get(path).status_code == 200
    gone.write_bytes(kept)
    database.close()


def test_files_are_encrypted_where_there_is_a_key(sqlite_settings):
    sealed = replace(sqlite_settings, key=b"k" * 32)
    database = Database(sealed.database_url)
    database.migrate()
    store = FileStore(sealed, database)
    address = store.stage("a", b"a picture of a head")
    stored = store.place.read(address)
    assert b"picture" not in stored and store.read(address) == b"a picture of a head"
    for other in (replace(sealed, key=b"x" * 32), replace(sealed, key=None)):
        with pytest.raises(MissingFile, match="key"):
            FileStore(other, database).read(address)
    # One file's bytes under another's name are not taken for it.
    elsewhere = store.stage("a", b"another")
    store.place.write(address, store.place.read(elsewhere))
    with pytest.raises(MissingFile, match="damaged"):
        store.read(address)
    database.close()


def test_equal_files_of_two_accounts_share_no_address(sqlite_settings):
    database = Database(sqlite_settings.database_url)
    store = FileStore(sqlite_settings, database)
    assert store.address("a", b"x") != store.address("b", b"x")


@pytest.mark.parametrize("key", ["short", "g" * 64, "0" * 63])
def test_a_wrong_key_is_a_sentence(tmp_path, key):
    with pytest.raises(BthubError, match="64 hexadecimal"):
        settings_module.load(tmp_path, {"BTHUB_PRACTICE_KEY": key})


def test_a_full_disk_is_a_sentence_and_nothing_is_half_saved(serve_sqlite, sqlite_settings, monkeypatch):
    import errno

    browser = serve_sqlite().begin()
    case, _ = browser.case()
    store = browser.client.app.state.practice.files

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.place, "write", full)
    answer = browser.post("/analyze", files=[("files", ("a.png", picture(seed=7), "image/png"))])
    assert answer.status_code == 507 and "disk is full" in answer.text
    monkeypatch.undo()
    assert browser.get(f"/cases/{case}").status_code == 200
    database = Database(sqlite_settings.database_url)
    assert check(sqlite_settings, database).problems == []
    database.close()


def test_one_server_a_folder(serve_sqlite, sqlite_settings):
    from starlette.testclient import TestClient

    from bthub.practice.web.app import create_app

    with (
        pytest.raises(BthubError, match="another bthub practice"),
        TestClient(create_app(sqlite_settings, lambda: 1 / 0)),
    ):
        pass


def test_the_administrators_commands(serve_sqlite, sqlite_settings, capsys, tmp_path):
    serve_sqlite().begin()

    def run(*words: str) -> str:
        assert main(["--folder", str(sqlite_settings.folder), *words]) in (None, 0)
        return capsys.readouterr().out

    assert "ada@example.org" in run("accounts") and "radiologist" in run("accounts")
    assert "locked" in run("lock", "ada@example.org") and "locked" in run("accounts")
    run("unlock", "ADA@example.org")
    assert len(run("recover", "ada@example.org").strip()) == 23
    assert "on" in run("invite-only", "on") and len(run("invite").strip()) == 23
    audit = run("audit", "--last", "50")
    for action in ("register", "sign in", "lock", "unlock", "recovery code", "invite-only on"):
        assert action in audit
    assert "rows" in run("backup", str(tmp_path / "b.zip")) and "no problems" in run("check")
    run("remove", "ada@example.org")
    assert run("accounts") == ""
    with pytest.raises(BthubError, match="no account named"):
        main(["--folder", str(sqlite_settings.folder), "lock", "nobody@example.org"])


def test_a_signed_report_is_checked_by_a_command(serve_sqlite, tmp_path, capsys):
    browser = serve_sqlite().begin()
    _, examination = browser.case()
    report = browser.post(f"/examinations/{examination}/reports").url.path
    assert browser.write(report, findings="x", impression="", action="sign").status_code == 409
    draft = tmp_path / "draft.json"
    draft.write_bytes(browser.get(f"{report}/report.json").content)
    with pytest.raises(BthubError, match="not a signed report"):
        main(["verify", str(draft)])
    browser.write(report, findings="Häufig <b>", impression="As before.", action="sign")
    file = tmp_path / "report.json"
    file.write_bytes(browser.get(f"{report}/report.json").content)
    main(["verify", str(file)])
    assert json.loads(file.read_text())["sha256"] in capsys.readouterr().out
    # Frozen: neither the form nor a changed note or mask gets into it.
    assert browser.write(report, findings="changed", impression="changed").status_code == 409
    once = browser.get(f"{report}/report.pdf").content
    assert once == browser.get(f"{report}/report.pdf").content and once[:5] == b"%PDF-"
    for old, new in (("As before.", "All well."), ('"label":"tumor"', '"label":"no_tumor"')):
        changed = tmp_path / "changed.json"
        changed.write_text(file.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
        with pytest.raises(BthubError, match="was changed"):
            main(["verify", str(changed)])


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"format":"bthub-report-1","sha256":"x","notes":' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"format":"bthub-report-1","sha256":"x","notes":"\\ud800"}',
        '{"format":"bthub-report-1","sha256":"x","notes":' + "9" * 5000 + "}",
        "[]",
        "",
    ],
    ids=["list", "object", "report", "surrogate", "number", "no object", "empty"],
)
def test_verify_of_what_is_no_report_is_a_sentence(content, tmp_path):
    file = tmp_path / "report.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(BthubError, match="expected"):
        main(["verify", str(file)])
    archive = tmp_path / "backup.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr("backup.json", content)
    made = settings_module.load(tmp_path / "new", {})
    database = Database(made.database_url)
    database.migrate()
    with pytest.raises(BthubError, match="not a backup of a practice"):
        restore(made, database, archive)
    database.close()


KILLED = Path(__file__).with_name("killed.py")


@pytest.mark.parametrize("rounds", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_a_killed_server_loses_nothing_that_was_confirmed(sqlite_settings, tmp_path, rounds):
    """A process that uploads, saves, notes, corrects, reports and backs up, killed at random points."""
    import random

    confirmed = tmp_path / "confirmed"
    confirmed.touch()
    rng = random.Random(0)
    process = subprocess.Popen(
        [sys.executable, KILLED, sqlite_settings.folder, confirmed],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        for round_ in range(rounds):
            print(round_, file=process.stdin, flush=True)
            child = int(process.stdout.readline())
            # Anywhere: while it starts, or some way into a step. Counted in steps, since machines differ in speed.
            for _ in range(rng.randrange(0, 14)):
                assert process.stdout.readline() in ("ready\n", "step\n")
            time.sleep(rng.expovariate(1 / 0.05))
            os.kill(child, signal.SIGKILL)
            while (line := process.stdout.readline()) in ("ready\n", "step\n"):
                pass
            assert line == "over\n"
    finally:
        process.stdin.close()
        process.wait(timeout=60)
    database = Database(sqlite_settings.database_url)
    FileStore(sqlite_settings, database).sweep(orphans=True)  # as the next start does
    assert check(sqlite_settings, database).problems == []
    with database.read() as session:
        there = set(session.scalars(select(Case.pseudonym)))
    told = set(confirmed.read_text().split())
    assert len(told) >= rounds / 2 and told <= there
    # Every backup that was finished restores, whatever was killed around it.
    finished = sorted(path for path in tmp_path.glob("confirmed-*.zip"))
    for number, file in enumerate(finished[:: max(1, len(finished) // 3)]):
        other = settings_module.load(tmp_path / f"restored-{number}", {})
        target = Database(other.database_url)
        target.migrate()
        restore(other, target, file)
        assert check(settings_module.load(other.folder, {}), target).problems == []
        target.close()
    database.close()
