"""What happens to it: a clock that jumps, a database that goes and comes back, a disk that fills, files that vanish."""

import errno
import re
import threading
import time
from datetime import datetime, timedelta

import numpy as np
import pytest
from practice_help import picture, png
from sqlalchemy import create_engine, make_url, text

from bthub.errors import BthubError, report_errors
from bthub.practice import models
from bthub.practice.backup import check
from bthub.practice.commands import main
from bthub.practice.files import Remote


@pytest.fixture
def clock(monkeypatch):
    """Sets the server's clock off by some time."""
    off = [timedelta(0)]

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + off[0]

    monkeypatch.setattr(models, "datetime", Clock)

    def jump(**by: float) -> None:
        off[0] = timedelta(**by)

    return jump


def sign_in(browser) -> None:
    answer = browser.post("/sign-in", name="ada@example.org", password="correct horse battery")
    assert answer.status_code == 200 and answer.url.path == "/"


def test_a_clock_that_jumps_loses_nothing_and_locks_nobody_out(serve, settings, clock):
    browser = serve().begin()
    case, examination = browser.case()
    browser.post(f"/cases/{case}/notes", text="before the jump")
    note = re.search(r'action="/notes/(\w+)"', browser.get(f"/cases/{case}").text)[1]
    browser.post("/sign-in", name="ada@example.org", password="wrong")
    clock(days=400)  # sessions are over, which is a sign-in and no loss
    assert browser.get(f"/cases/{case}").url.path == "/sign-in"
    for _ in range(3):
        browser.post("/sign-in", name="ada@example.org", password="wrong again")
    sign_in(browser)
    browser.post(f"/cases/{case}/notes", text="in the future")
    seen = browser.form(f"/cases/{case}", f"/notes/{note}")
    browser.post(f"/notes/{note}", **seen, text="changed in the future")
    clock(days=-400)  # earlier than the account
    sign_in(browser)
    seen = browser.form(f"/cases/{case}", f"/notes/{note}")
    browser.post(f"/notes/{note}", **seen, text="changed in the past")
    report = browser.post(f"/examinations/{examination}/reports").url.path
    browser.write(report, findings="", impression="Signed in the past.", action="sign")
    page = browser.get(f"/cases/{case}").text
    for words in ("changed in the past", "changed in the future", "before the jump", "in the future"):
        assert words in page
    # History is in the order in which things happened, not in that of the clock.
    assert page.index("changed in the past") < page.index("changed in the future") < page.index("before the jump")
    practice = browser.client.app.state.practice
    practice.accounts.sweep()
    assert browser.get(f"/cases/{case}").status_code == 200
    practice.files.sweep()
    assert check(settings, practice.database).problems == []


def test_undo_brings_back_what_was_deleted_last_whatever_the_clock_says(serve, clock):
    browser = serve().begin()
    case, _ = browser.case()
    for words in ("first", "second"):
        browser.post(f"/cases/{case}/notes", text=words)
    # The latest note stands first.
    second, first = re.findall(r'action="/notes/(\w+)"', browser.get(f"/cases/{case}").text)
    clock(hours=1)
    browser.post(f"/notes/{first}/delete")
    clock(hours=-1)
    browser.post(f"/notes/{second}/delete")
    assert ">second<" in browser.post("/undo").text
    assert ">first<" in browser.post("/undo").text


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:p@ssSECRET@127.0.0.1:1/db",
        "postgresql://user:p@ss:SECRET@127.0.0.1:1/db",
        "postgresql://user:p/ss:SECRET@127.0.0.1:1/db",
        "postgresql://user:SECRET@127.0.0.1:99999/db",
        "postgresql://user:SECRET@127.0.0.1:1/db",
        "postgresql://user:SECRET@[::1/db",
        "postgresql://user:SECRET@é..x/db",
        "postgresql://user@127.0.0.1:1/db?connect_timeout=SECRET",
        "postgresql://user@127.0.0.1:1/db?sslmode=SECRET",
        "postgresql:/user:SECRET@127.0.0.1",
        "SECRET",
    ],
)
def test_a_wrong_database_url_is_a_sentence_without_any_of_it(url, sqlite_settings, monkeypatch, capsys):
    monkeypatch.setenv("DATABASE_URL", url)
    assert report_errors(lambda: main(["--folder", str(sqlite_settings.folder), "accounts"])) == 2
    told = capsys.readouterr()
    assert not told.out and told.err.count("\n") == 1 and "DATABASE_URL" in told.err and "%40" in told.err
    for part in ("SECRET", "ss@", "127.0.0.1", "99999", "x/db"):
        assert part not in told.err


@pytest.mark.parametrize("url", ["nope://user:SECRET@host/x", "ftp://user:p@ss:SECRET@host:SECRET/x"])
def test_a_wrong_file_url_is_a_sentence_without_any_of_it(url):
    with pytest.raises(BthubError, match="expected an fsspec URL") as raised:
        Remote(url)
    assert "SECRET" not in str(raised.value) and raised.value.__cause__ is None


@pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
def test_a_database_that_goes_and_comes_back(serve, settings):
    browser = serve().begin()
    case, _ = browser.case()
    browser.post(f"/cases/{case}/notes", text="kept")
    token = browser.token("/cases")
    name = make_url(settings.database_url).database
    admin = create_engine(
        settings.database_url.replace(f"/{name}?", "/postgres?"), isolation_level="AUTOCOMMIT", pool_pre_ping=True
    )
    with admin.connect() as connection:
        connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
        connection.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"))
    try:
        for path in ("/", "/cases", f"/cases/{case}"):
            answer = browser.get(path)
            assert answer.status_code == 503 and "Nothing that was saved is lost" in answer.text
        answer = browser.client.post(f"/cases/{case}/notes", data={"token": token, "text": "lost?"})
        assert answer.status_code == 503
        assert browser.get("/health").status_code == 200
        time.sleep(0.3)  # the analysis thread meets it too
    finally:
        with admin.connect() as connection:
            connection.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
        admin.dispose()
    # Back: the same session, the same case, and new uploads are analyzed without a restart.
    page = browser.get(f"/cases/{case}").text
    assert "kept" in page and "lost?" not in page
    other, _ = browser.case(picture(seed=5), pseudonym="after")
    assert "Tumor suspected" in browser.get(f"/cases/{other}").text
    practice = browser.client.app.state.practice
    practice.files.sweep()
    assert check(settings, practice.database).problems == []


def test_a_disk_that_fills_at_every_step(serve_sqlite, sqlite_settings, monkeypatch):
    browser = serve_sqlite().begin()
    case, examination = browser.case()
    practice = browser.client.app.state.practice
    report = browser.post(f"/examinations/{examination}/reports").url.path
    slice_ = browser.slices(f"/cases/{case}")[0]
    place, write = practice.files.place, practice.files.place.write

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(place, "write", full)
    mask = png(np.full((64, 64), 255, np.uint8))
    headers = {"x-form-token": browser.token("/cases"), "accept": "application/json"}
    answer = browser.client.post(f"/slices/{slice_['id']}/correction", content=mask, headers=headers)
    assert answer.status_code == 507 and "disk is full" in answer.json()["error"]
    answer = browser.write(report, findings="x", impression="Not yet signed.", action="sign")
    assert answer.status_code == 507 and "disk is full" in answer.text
    # What needs no file goes on.
    assert "a note" in browser.post(f"/cases/{case}/notes", text="a note").text
    # It fills between the upload and the analysis: the examination says so.
    monkeypatch.setattr(place, "write", write)
    ready = threading.Event()

    def filling(address, content):
        if threading.current_thread().name == "analysis":
            ready.set()
            full()
        write(address, content)

    monkeypatch.setattr(place, "write", filling)
    id = browser.analyze(picture(seed=9))
    page = browser.get(f"/examinations/{id}").text
    assert ready.is_set() and "disk is full" in page and "Try again" in page and "without the check" not in page
    monkeypatch.undo()
    # Room again: everything can be done that could not be done before.
    browser.post(f"/examinations/{id}/again")
    browser.wait(id)
    page = browser.get(f"/examinations/{id}").text
    assert "Tumor suspected" in page and "were not checked" not in page
    assert browser.client.post(f"/slices/{slice_['id']}/correction", content=mask, headers=headers).status_code == 200
    answer = browser.write(report, findings="x", impression="Not yet signed.", action="sign")
    assert answer.status_code == 200 and "sha256" in answer.text
    practice.files.sweep()
    assert check(sqlite_settings, practice.database).problems == []


def test_a_file_that_vanishes_is_a_sentence_and_the_rest_goes_on(serve_sqlite):
    browser = serve_sqlite().begin()
    case, examination = browser.case(picture(), picture(seed=1))
    first, second = browser.slices(f"/cases/{case}")
    folder = browser.client.app.state.practice.files.place.path
    kept = browser.get(second["picture"]).content
    for path in folder.rglob("*"):
        if path.is_file() and path.read_bytes().endswith(browser.get(first["picture"]).content):
            path.unlink()
            break
    answer = browser.get(first["picture"], headers={"accept": "text/html"})
    assert answer.status_code == 500 and "stored file is missing" in answer.text and str(folder) not in answer.text
    assert browser.get(second["picture"]).content == kept
    for path in (f"/cases/{case}", "/cases", "/"):
        assert browser.get(path).status_code == 200
