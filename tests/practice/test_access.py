"""Nobody reaches another's case: every route that exists, walked by everyone who has no business there."""

import re
import secrets

import pytest
from fastapi.routing import APIRoute
from practice_help import BOTH, picture
from starlette.routing import Mount

from bthub.practice.web.guard import OPEN

# Routes that need no session; a new one must be added here by hand.
OPEN_ROUTES = {
    ("GET", "/sign-in"),
    ("POST", "/sign-in"),
    ("GET", "/register"),
    ("POST", "/register"),
    ("GET", "/recover"),
    ("POST", "/recover"),
    ("POST", "/language"),
    ("GET", "/health"),
    ("GET", "/favicon.ico"),
    ("GET", "/oauth/start"),
    ("GET", "/oauth/back"),
}
# Routes of the session itself: they name nothing that could be another's.
OWN_ROUTES = {
    "/",
    "/analyze",
    "/cases",
    "/welcome",
    "/account",
    "/account/password",
    "/account/delete",
    "/undo",
    "/sign-out",
    "/sign-out-everywhere",
    "/export.zip",
    "/export-dataset.zip",
}
SECRETS = ("Adas patient", "Adas note", "Adas impression", "ada@example.org", "Ada Lovelace")


def routes(app) -> list[tuple[str, str]]:
    found = []
    pending = list(app.routes)
    while pending:
        route = pending.pop()
        if isinstance(route, Mount):
            assert route.path == "/static"
            continue
        if not isinstance(route, APIRoute):
            # What FastAPI wraps included routers in; anything else is unknown and must not be passed over.
            pending += route.original_router.routes
            continue
        found += [(method, route.path) for method in route.methods - {"HEAD"}]
    return sorted(set(found))


@pytest.fixture
def filled(serve):
    """Ada's case with all there can be in it, and the id of each thing."""
    ada = serve().begin()
    case, examination = ada.case(picture(), picture(seed=2), pseudonym="Adas patient")
    ada.post(f"/cases/{case}/notes", text="Adas note")
    note = re.search(r'action="/notes/(\w+)"', ada.get(f"/cases/{case}").text)[1]
    report = ada.post(f"/examinations/{examination}/reports").url.path.rpartition("/")[2]
    ada.write(f"/reports/{report}", impression="Adas impression", findings="", action="sign")
    slice_ = re.search(r'"/slices/(\w+)/picture.png"', ada.get(f"/cases/{case}").text)[1]
    ids = {"cases": case, "examinations": examination, "notes": note, "reports": report, "slices": slice_}
    return serve, ada, ids


def walk(browser, ids: dict[str, str], *, token: str | None = None, cookie: str | None = None):
    """The answer to each route, its id put in."""
    for method, path in routes(browser.client.app):
        if token and path in SKIPPED:
            continue
        kind = path.split("/")[1]
        address = path.replace("{id}", ids.get(kind, ""))
        assert "{" not in address, f"{path}: the test knows no id for it"
        headers = {"cookie": f"bthub_session={cookie}"} if cookie else {}
        for accept in ("text/html", "application/json"):
            sent = {"headers": {**headers, "accept": accept}, "follow_redirects": False}
            if method == "POST":
                sent["headers"]["x-form-token"] = token or "0" * 64
                sent |= {"data": {"token": token or "0" * 64, "text": "x", "pseudonym": "x"}}
            yield method, path, browser.client.request(method, address, **sent)


def test_the_open_routes_are_those_that_are_meant(serve_sqlite):
    found = {(m, p) for m, p in routes(serve_sqlite().client.app) if OPEN.fullmatch(p)}
    assert found == {(m, p) for m, p in OPEN_ROUTES if (m, p) in set(routes(serve_sqlite().client.app))}


@BOTH
def test_without_a_session_there_is_only_the_sign_in(filled):
    serve, ada, ids = filled

    def refused_everywhere(cookie: str | None) -> None:
        walked = 0
        for method, path, answer in walk(serve(), ids, cookie=cookie):
            if (method, path) in OPEN_ROUTES:
                continue
            walked += 1
            to_sign_in = answer.status_code == 303 and answer.headers["location"] == "/sign-in"
            assert answer.status_code == 401 or to_sign_in, (method, path, answer.status_code)
            assert not any(words in answer.text for words in SECRETS)
            assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert walked > 60

    refused_everywhere(None)  # a stranger
    refused_everywhere(secrets.token_urlsafe(32))  # a forged cookie
    signed_out = ada.client.cookies["bthub_session"]
    assert serve().client.get("/cases", headers={"cookie": f"bthub_session={signed_out}"}).status_code == 200
    ada.post("/sign-out")
    refused_everywhere(signed_out)
    ada.post("/sign-in", name="ada@example.org", password="correct horse battery")
    locked = ada.client.cookies["bthub_session"]
    assert serve().client.get("/cases", headers={"cookie": f"bthub_session={locked}"}).status_code == 200
    ada.client.app.state.practice.accounts.lock("ada@example.org", True)
    refused_everywhere(locked)


@BOTH
def test_another_account_sees_what_nobody_has(filled):
    serve, ada, ids = filled
    eve = serve().begin("eve@example.org", full_name="Eve")
    token = eve.token("/cases")
    guessed = {kind: secrets.token_hex(16) for kind in ids}
    others = {(method, path): answer for method, path, answer in walk(eve, ids, token=token) if path not in SKIPPED}
    nobodys = {
        (method, path): answer for method, path, answer in walk(eve, guessed, token=token) if path not in SKIPPED
    }
    walked = 0
    for key, answer in others.items():
        method, path = key
        assert not any(words in answer.text for words in SECRETS), key
        if "{id}" not in path:
            continue
        walked += 1
        assert answer.status_code == 404, (key, answer.status_code)
        # Not even that it exists: the same answer as for an id that nobody has.
        kind = path.split("/")[1]
        theirs, none = (one.text.replace(id, "") for one, id in ((answer, ids[kind]), (nobodys[key], guessed[kind])))
        assert (answer.status_code, theirs) == (nobodys[key].status_code, none), key
    assert walked >= 29
    # And nothing has changed.
    page = ada.get(f"/cases/{ids['cases']}").text
    assert "Adas note" in page and "Adas patient" in page and "can be restored" not in page


SKIPPED = {"/sign-out", "/sign-out-everywhere", "/account/delete", "/account/password"}


def test_every_route_is_known(serve_sqlite):
    """A new route without an id must be thought about."""
    for method, path in routes(serve_sqlite().client.app):
        assert "{id}" in path or path in OWN_ROUTES or (method, path) in OPEN_ROUTES, (method, path)


@pytest.mark.parametrize("id", ["", "x", "..", "0" * 31, "0" * 33, "' or 1=1 --", "0" * 31 + "%00", "é" * 32])
def test_odd_ids(serve_sqlite, id):
    browser = serve_sqlite().begin()
    for path in ("/cases/{}", "/examinations/{}", "/slices/{}/picture.png", "/reports/{}"):
        assert browser.get(path.format(id)).status_code in (404, 200 if id in ("", "..") else 404)


def test_what_is_deleted_is_gone_with_all_that_is_in_it(filled):
    _, ada, ids = filled
    ada.post(f"/cases/{ids['cases']}/delete")
    for path in (
        f"/examinations/{ids['examinations']}",
        f"/slices/{ids['slices']}/picture.png",
        f"/reports/{ids['reports']}",
        f"/reports/{ids['reports']}/report.pdf",
        f"/cases/{ids['cases']}/export.zip",
    ):
        assert ada.get(path).status_code == 404, path


@BOTH
def test_answers_bear_the_headers_and_stay_out_of_caches(filled):
    _, ada, ids = filled
    for path in ("/", "/cases", f"/slices/{ids['slices']}/picture.png", "/nowhere", "/health"):
        headers = ada.get(path).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert "no-store" in headers["cache-control"] or "private" in headers["cache-control"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
    cookie = ada.client.get("/sign-in").headers.get("set-cookie", "")
    assert "bthub_session" not in cookie
    signed_in = (
        ada.post("/sign-out"),
        ada.client.post(
            "/sign-in",
            data={"token": ada.token(), "name": "ada@example.org", "password": "correct horse battery"},
            follow_redirects=False,
        ),
    )
    cookie = signed_in[1].headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=lax" in cookie


def test_other_names_of_the_host_are_refused(serve_sqlite):
    browser = serve_sqlite()
    assert browser.get("/sign-in", headers={"host": "evil.example"}).status_code == 421
    assert browser.get("/sign-in", headers={"host": "127.0.0.1:9999"}).status_code == 200


def test_bodies_are_limited_before_they_are_read(serve_sqlite):
    browser = serve_sqlite().begin()
    answer = browser.client.post("/account", content=b"x", headers={"content-length": str(1 << 40)})
    assert answer.status_code == 413 and "at most 1 MB" in answer.text
    # Without a length: cut off while it comes in.
    answer = browser.client.post(
        "/account",
        content=(b"x" * 65536 for _ in range(64)),
        headers={"content-type": "application/x-www-form-urlencoded"},
    )
    assert answer.status_code in (400, 413)
    stranger = serve_sqlite()
    assert stranger.client.post("/analyze", files={"files": b"x" * 1000}).status_code == 401


def test_nothing_of_a_person_is_in_the_log(filled, capfd):
    _, ada, ids = filled
    practice = ada.client.app.state.practice
    ada.get("/cases", params={"q": "Adas patient"})
    # A failure in the middle of a page about a case.
    broken = practice.cases.search

    def failing(*_):
        raise RuntimeError(SECRETS[0])

    practice.cases.search = failing
    answer = ada.get("/cases")
    practice.cases.search = broken
    assert answer.status_code == 500 and "Something went wrong" in answer.text
    told = "".join(capfd.readouterr())
    assert "RuntimeError" in told and not any(words in told for words in SECRETS)


def test_a_database_that_is_away_is_a_sentence_and_comes_back(serve_sqlite, monkeypatch):
    from sqlalchemy.exc import OperationalError

    browser = serve_sqlite().begin()
    case, _ = browser.case()
    practice = browser.client.app.state.practice

    def away(*_):
        raise OperationalError("SELECT", {}, Exception("gone"))

    for part in ("session_of", "search"):
        owner = practice.accounts if part == "session_of" else practice.cases
        monkeypatch.setattr(owner, part, away)
        answer = browser.get("/cases", headers={"accept-language": "de"})
        assert answer.status_code == 503 and "nicht verloren" in answer.text
        monkeypatch.undo()
    assert browser.get(f"/cases/{case}").status_code == 200
