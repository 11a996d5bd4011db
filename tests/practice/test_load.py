"""Who waits keeps nobody else from working: turns of writers, and threads for slow work."""

import json
import threading
import time
from dataclasses import replace

import httpx
import pytest
from practice_help import Browser, picture, served
from scripts import script
from sqlalchemy import select

from bthub.practice import files as files_module
from bthub.practice.accounts import audit
from bthub.practice.analysis import Engine
from bthub.practice.database import Database, Turns
from bthub.practice.files import FileStore
from bthub.practice.models import Account
from bthub.practice.quality import facts
from bthub.project import DEFAULTS, SHIPPED_RUNS, default_run
from bthub.runs.folder import RunFolder


def test_turns_are_given_in_the_order_of_asking():
    turns, order = Turns(), []

    def work(number: int) -> None:
        with turns.take():
            order.append(number)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(20)]
    with turns.take():
        for number, thread in enumerate(threads):
            thread.start()
            while len(turns._waiting) <= number:
                time.sleep(0.001)
        assert order == []
    for thread in threads:
        thread.join(timeout=10)
    assert order == list(range(20))
    with turns.take(), pytest.raises(RuntimeError, match="inside another"), turns.take():
        pass
    with turns.take():
        pass


def test_many_writers_at_once_all_come_through(settings):
    """More of them than connections, each with work while it holds the lock."""
    database = Database(settings.database_url)
    database.migrate()
    failed: list[Exception] = []

    def write() -> None:
        try:
            for _ in range(3):
                with database.write() as session:
                    audit(session, None, "x")
                    session.flush()
                    time.sleep(0.002)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=write) for _ in range(80)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not failed and not any(thread.is_alive() for thread in threads)
    database.close()


def test_pages_are_served_while_sixty_wait_for_the_models(sqlite_settings, monkeypatch):
    over, waiting = threading.Event(), []

    def heat(self: Engine, picture: bytes, seconds: float = 60) -> bytes:
        waiting.append(1)
        assert over.wait(60)
        return picture

    monkeypatch.setattr(Engine, "heat", heat)
    with served(sqlite_settings) as base:
        client = httpx.Client(base_url=base, follow_redirects=True, timeout=20)
        browser = Browser(client).begin()
        case, _ = browser.case()
        address = browser.slices(f"/cases/{case}")[0]["heat"]
        answers: list[int] = []

        def look() -> None:
            with httpx.Client(base_url=base, timeout=60, cookies=client.cookies) as other:
                answers.append(other.get(address).status_code)

        threads = [threading.Thread(target=look) for _ in range(60)]
        for thread in threads:
            thread.start()
        try:
            deadline = time.monotonic() + 30
            while len(waiting) < 8:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            time.sleep(0.5)  # the others are there too
            for path in ("/", "/cases", f"/cases/{case}"):
                assert client.get(path).status_code == 200
            assert browser.post(f"/cases/{case}/notes", text="seen").status_code == 200
            assert not answers
        finally:
            over.set()
            for thread in threads:
                thread.join(timeout=60)
        assert answers == [200] * 60
        client.close()


def test_a_download_that_stands_still_holds_no_connection(serve_sqlite):
    """Else one account keeps all others from the database, with as many downloads as there are connections."""
    browser = serve_sqlite().begin()
    case, examination = browser.case(*(picture(seed=i) for i in range(3)))
    browser.post(f"/examinations/{examination}/reports")
    practice = browser.client.app.state.practice
    with practice.database.read() as session:
        account = session.scalar(select(Account))
    for pieces in (practice.exports.cases(account, case), practice.exports.masks(account, examination)):
        count = 0
        for piece in pieces:
            count += bool(piece)
            assert practice.database.engine.pool.checkedout() == 0
        assert count >= 3


def test_a_sweep_leaves_what_is_about_to_be_saved(settings):
    """A person uploads again what is in place and used by nothing any more, and waits for a turn to write."""
    database = Database(settings.database_url)
    database.migrate()
    files = FileStore(settings, database)
    with database.write() as session:
        session.add(Account(id="a" * 32, name="ada", full_name="Ada"))
    content = b"a picture"

    def save() -> str:
        """As an upload does it, with a sweep between its two steps."""
        address = files.stage("a" * 32, content)
        files.sweep()
        with database.write() as session:
            files.attach(session, "a" * 32, address, len(content), "image/png")
        return address

    address = save()
    assert save() == address and files.read(address) == content
    # A transaction that fails lets go of it too, and so does a disk that is full.
    files.stage("a" * 32, content)
    with pytest.raises(ZeroDivisionError), database.write() as session:
        files.attach(session, "a" * 32, address, len(content), "image/png")
        _ = 1 / 0
    assert files.sweep() == 1 and not files.place.has(address)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.place, "write", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            files.stage("a" * 32, content)
    assert not files._staged
    # So does one that would have made the first row, and what nobody attaches within the hour is forgotten.
    address = files.stage("a" * 32, b"another")
    with pytest.raises(ZeroDivisionError), database.write() as session:
        files.attach(session, "a" * 32, address, 7, "image/png")
        _ = 1 / 0
    assert files.place.has(address) and files.sweep() == 1 and not files.place.has(address)
    files.stage("a" * 32, b"another")
    assert files.sweep() == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files_module, "FORGOTTEN", 0.0)
        assert files.sweep() == 1 and not files.place.has(address)
    database.close()


def test_what_is_told_of_the_projects_own_runs():
    if not all((SHIPPED_RUNS / name / "config.json").is_file() for name in DEFAULTS.values()):
        pytest.skip("the runs aren't there: fetch the whole repository")
    runs = [RunFolder.open(default_run(stage), weights=False) for stage in ("detector", "localizer")]
    told = facts(*runs)
    for stage, run in zip(("detector", "localizer"), runs, strict=True):
        entry = run.metrics[told[stage]["split"]]
        assert told[stage]["patients"] == entry.groups
        for name, figure in told[stage]["figures"].items():
            assert figure == entry.metrics[name].as_row() and figure["low"] <= figure["value"] <= figure["high"]
        assert told[stage]["split"] == f"{run.training.protocol}/test"
    assert facts(*(replace(run, revision="sha256:000000000000") for run in runs)) == {}
    volumes = told["area_error"]["volumes"]
    assert volumes["patients"] == told["localizer"]["patients"] and volumes["factor"] > 1


def test_the_page_tells_the_figures_that_were_measured():
    load = script("benchmarks/practice_load.py")
    page, report = (path.read_text(encoding="utf-8") for path in (load.PAGE, load.FIGURES))
    assert page == load.filled(page, json.loads(report)), "run python benchmarks/practice_load.py --page"
    assert json.loads(report)["error_count"] == 0 and json.loads(report)["missing"] == []
