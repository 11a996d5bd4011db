"""Sign-in with a Hugging Face account, against a provider of the test's own."""

import threading
import time
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest
import uvicorn
from practice_help import Browser, stub
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from bthub.practice import settings as settings_module
from bthub.practice.settings import OAuth
from bthub.practice.web.app import create_app


@pytest.fixture
def provider():
    """Gives one token for the code `good`, and says who it is."""
    asked = {}

    async def token(request):
        form = dict(await request.form())
        asked.update(form)
        if form.get("code") != "good":
            return JSONResponse({"error": "invalid_grant"}, 400)
        return JSONResponse({"access_token": "t", "token_type": "Bearer"})

    async def who(request):
        assert request.headers["authorization"] == "Bearer t"
        return JSONResponse({"sub": "abc123", "preferred_username": "ada", "name": "Ada Lovelace"})

    app = Starlette(routes=[Route("/oauth/token", token, methods=["POST"]), Route("/oauth/userinfo", who)])
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}", asked
    server.should_exit = True
    thread.join(timeout=10)


def test_there_and_back(sqlite_settings, provider):
    address, asked = provider
    oauth = OAuth(address, "id", "secret", "openid profile", "testserver")
    app = create_app(replace(sqlite_settings, oauth=oauth, space=True), stub)
    with TestClient(app):
        browser = Browser(TestClient(app, base_url="https://testserver"))
        assert "Sign in with Hugging Face" in browser.get("/sign-in").text
        sent = browser.get("/oauth/start", follow_redirects=False)
        query = {key: value[0] for key, value in parse_qs(urlsplit(sent.headers["location"]).query).items()}
        assert query["code_challenge_method"] == "S256" and query["redirect_uri"] == "https://testserver/oauth/back"
        # Somebody else's answer, and a code that isn't good.
        assert browser.get("/oauth/back", params={"code": "good", "state": "forged"}).status_code == 403
        assert browser.get("/oauth/back", params={"code": "bad", "state": query["state"]}).status_code == 502
        answer = browser.get("/oauth/back", params={"code": "good", "state": query["state"]})
        assert answer.url.path == "/welcome" and asked["code_verifier"]
        browser.post("/welcome", profession="student", institution="x", consent="no")
        page = browser.get("/account").text
        assert "Ada Lovelace" in page and 'action="/account/password"' not in page
        assert "frame-ancestors 'self' https://huggingface.co" in browser.get("/").headers["content-security-policy"]
        # The second time it is the same account.
        other = Browser(TestClient(app, base_url="https://testserver"))
        state = parse_qs(urlsplit(other.get("/oauth/start", follow_redirects=False).headers["location"]).query)[
            "state"
        ][0]
        assert other.get("/oauth/back", params={"code": "good", "state": state}).url.path == "/"


def test_elsewhere_there_is_none(serve_sqlite, tmp_path):
    browser = serve_sqlite()
    assert "Hugging Face" not in browser.get("/sign-in").text
    assert browser.get("/oauth/start").status_code == 404
    given = {"OAUTH_CLIENT_ID": "a", "OAUTH_CLIENT_SECRET": "b", "SPACE_HOST": "h"}
    assert settings_module.load(tmp_path / "a", given).oauth is None
    assert settings_module.load(tmp_path / "b", {**given, "SPACE_ID": "x/y"}).oauth is not None
