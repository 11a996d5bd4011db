"""Every file of the intake's corpus, and those made to do harm, through the practice: read, or one sentence."""

import html
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from practice_help import Browser, stub
from practice_hostile import HOSTILE, SCRIPT, Hostile
from starlette.testclient import TestClient

sys.path.insert(0, str(Path(__file__).parents[1] / "corpus"))  # the tests are imported by file

from cases import CASES, Case  # noqa: E402

from bthub.imaging.intake import is_study  # noqa: E402
from bthub.practice import settings as settings_module
from bthub.practice.analysis import FAILURE
from bthub.practice.backup import check
from bthub.practice.web.app import create_app

PAGES = re.compile(r"<script>alert|<img src=x|<svg onload|\x1b|\x00")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One practice for all of them: what one leaves behind, the next meets."""
    settings = settings_module.load(tmp_path_factory.mktemp("hostile") / "practice", {})
    app = create_app(settings, stub)
    with TestClient(app):
        browser = Browser(TestClient(app, raise_server_exceptions=False)).begin()
        browser.kept_token = browser.token("/cases")
        yield browser
        practice = app.state.practice
        # At the end nothing lies about, and nothing was written beside the data.
        assert not list((settings.folder / "tmp").iterdir())
        assert {path.name for path in settings.folder.parent.iterdir()} == {"practice"}
        practice.files.sweep()
        assert check(settings, practice.database).problems == []


def uploaded(browser: Browser, name: str, content: bytes) -> tuple[str, dict, str]:
    """The id, the state and the page of an upload, after everything that must hold for any was checked."""
    answer = browser.client.post(
        "/analyze",
        data={"token": browser.kept_token},
        files=[("files", (name, content, "application/octet-stream"))],
        headers={"accept": "application/json"},
    )
    assert answer.status_code == 201, answer.text
    id = browser.wait(answer.json()["id"])
    answer = browser.get(f"/examinations/{id}")
    page = html.unescape(answer.text)
    assert answer.status_code == 200 and "set-cookie" not in answer.headers
    assert not PAGES.search(answer.text.replace('<script type="application/json">', ""))
    assert FAILURE not in page and "Traceback" not in page and "/tmp" not in page and "practice/" not in page
    return id, browser.get(f"/examinations/{id}/status").json(), page


def served_pictures(browser: Browser, id: str) -> list[bytes]:
    found = []
    for entry in browser.slices(f"/examinations/{id}"):
        for address in filter(None, (entry["picture"], entry["mask"])):
            answer = browser.get(address)
            assert (
                answer.headers["content-type"] == "image/png" and answer.headers["x-content-type-options"] == "nosniff"
            )
            found.append(answer.content)
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_intakes_corpus(browser, case: Case, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(case.content)
    _, status, page = uploaded(browser, case.name, case.content)
    if is_study(file):
        # What Python's `predict` refuses as a picture may be read here as a stack; else the sentence names the file.
        assert status["state"] == "done" or ("could not be analyzed" in page and case.name in page)
    elif case.says:
        assert status["state"] == "failed" and case.says in page
    else:
        # Read; the check of these models takes what is bright in its corner for no slice.
        assert status["state"] == "done" or "look like a slice" in page


@pytest.mark.parametrize("file", HOSTILE, ids=lambda file: file.what)
def test_what_is_made_to_do_harm(browser, file: Hostile):
    id, status, page = uploaded(browser, file.name, file.content)
    if file.says:
        assert status["state"] == "failed" and file.says in page
        return
    assert status["state"] == "done"
    pictures = served_pictures(browser, id)
    assert pictures
    for content in pictures:
        # What is served was drawn anew from the pixels, and ends where a PNG ends.
        assert content.startswith(b"\x89PNG") and content.endswith(b"IEND\xaeB`\x82")
        assert b"EVIL" not in content and SCRIPT.encode() not in content


def test_there_are_as_many_as_are_promised():
    assert sum(bool(case.says) for case in CASES) >= 60 and len(HOSTILE) >= 30
    assert len({file.what for file in HOSTILE}) == len(HOSTILE)
