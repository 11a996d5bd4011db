"""What every request passes first: its host, its size, whose session it has; and what every answer bears.

No route decides by itself whether it is open: OPEN lists those that are, and all others need a session.
"""

import re
from html import escape
from http.cookies import CookieError, SimpleCookie

from anyio import to_thread
from sqlalchemy.exc import SQLAlchemyError
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bthub.practice.accounts import Accounts
from bthub.practice.log import log_failure
from bthub.practice.models import LANGUAGES
from bthub.practice.settings import MAX_FORM_BYTES, Settings
from bthub.practice.texts import Refusal, choose, translate

SESSION_COOKIE, FORM_COOKIE, LANGUAGE_COOKIE = "bthub_session", "bthub_form", "bthub_language"
OPEN = re.compile(r"/(sign-in|register|recover|language|health|favicon\.ico|oauth/(start|back)|static/[\w.-]+)")
"""Paths that need no session."""
FIRST_USE = re.compile(r"/(welcome|sign-out|sign-out-everywhere|language|account/delete|static/[\w.-]+|health)")
"""Paths for an account that hasn't answered the questions of first use."""
UPLOAD = re.compile(r"/analyze")
MASK = re.compile(r"/slices/\w+/correction")
MAX_MASK_BYTES = 8 << 20

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'{oauth}; base-uri 'none'; frame-ancestors {frame}"
)


class Guard:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, accounts: Accounts, settings: Settings) -> None:
        self._app, self._accounts, self._settings = app, accounts, settings
        frame = "'self' https://huggingface.co" if settings.space else "'none'"
        policy = CONTENT_POLICY.format(frame=frame, oauth=" https://huggingface.co" if settings.space else "")
        self._headers = {
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "same-origin",
            "Permissions-Policy": "camera=(), microphone=(), geolocation=(), interest-cohort=()",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        if not settings.space:
            self._headers["X-Frame-Options"] = "DENY"
        if settings.secure:
            self._headers["Strict-Transport-Security"] = "max-age=31536000"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            # There are no websockets here.
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        path: str = scope["path"]
        cacheable = path.startswith("/static/")

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer = MutableHeaders(scope=message)
                for name, value in self._headers.items():
                    answer[name] = value
                answer["Cache-Control"] = answer.get("Cache-Control") or (
                    "public, max-age=3600" if cacheable else "no-store"
                )
            await send(message)

        refusal = await self._enter(scope, headers, path)
        if refusal is not None:
            await refusal(scope, receive, send_with_headers)
            return
        limit = self._limit(path)
        length = headers.get("content-length", "0")
        if not (length.isdecimal() and len(length) < 20) or int(length) > limit:
            await plain(headers, TOO_LARGE, 413, limit=limit >> 20)(scope, receive, send_with_headers)
            return
        await self._app(scope, _counted(receive, limit), send_with_headers)

    async def _enter(self, scope: Scope, headers: Headers, path: str) -> Response | None:
        """Look who it is; a response where the request goes no further."""
        host = headers.get("host", "")
        name = re.sub(r":\d+$", "", host).lower()
        if name not in self._settings.hosts:
            # Another site's name that leads here would share its cookies and scripts with these pages.
            return plain(
                headers,
                "This server does not answer under that name. The administrator adds names in BTHUB_PRACTICE_HOSTS.",
                421,
            )
        state = scope.setdefault("state", {})
        state["account"], state["session"] = None, None
        cookies = read_cookies(headers.get("cookie", ""))
        state["cookies"] = cookies
        if path.startswith("/static/"):
            return None
        if token := cookies.get(SESSION_COOKIE):
            try:
                found = await to_thread.run_sync(self._accounts.session_of, token)
            except SQLAlchemyError as error:
                log_failure(error)
                if path != "/health":
                    return database_away(headers)
                found = None
            if found is not None:
                state["account"], state["session"] = found
        account = state["account"]
        if account is None:
            if OPEN.fullmatch(path):
                return None
            wants_page = scope["method"] in ("GET", "HEAD") and "text/html" in headers.get("accept", "")
            if wants_page:
                return RedirectResponse("/sign-in", 303)
            return plain(headers, "Sign in first.", 401)
        if not account.complete and not FIRST_USE.fullmatch(path) and not OPEN.fullmatch(path):
            return RedirectResponse("/welcome", 303)
        return None

    def _limit(self, path: str) -> int:
        if UPLOAD.fullmatch(path):
            return self._settings.max_upload_bytes
        return MAX_MASK_BYTES if MASK.fullmatch(path) else MAX_FORM_BYTES


TOO_LARGE = "The request is too large: at most {limit} MB are taken."
AWAY = "The database can't be reached at the moment. Nothing that was saved is lost: try again in a minute."


def database_away(headers: Headers) -> Response:
    """What is said while the database is away: without it there is no account, and no page of ours."""
    return plain(headers, AWAY, 503)


def plain(headers: Headers, text: str, status: int, **values: object) -> Response:
    """A sentence before it is known who asks, in a language that the browser takes."""
    language = choose(headers.get("accept-language"))
    chosen = read_cookies(headers.get("cookie", "")).get(LANGUAGE_COOKIE)
    language = chosen if chosen in LANGUAGES else language
    text = translate(text, language, **values)
    if "text/html" not in headers.get("accept", ""):
        return JSONResponse({"error": text}, status)
    page = (
        f'<!doctype html><html lang="{language}"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>bthub</title>'
        f"<p>{escape(text)}</html>"
    )
    return Response(page, status, media_type="text/html")


def read_cookies(header: str) -> dict[str, str]:
    """The cookies of a header; none of a broken one."""
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(header).items()}
    except CookieError:
        return {}


def _counted(receive: Receive, limit: int) -> Receive:
    """The same body, refused when it turns out longer than it may be."""
    taken = 0

    async def counting() -> Message:
        nonlocal taken
        message = await receive()
        if message["type"] == "http.request":
            taken += len(message.get("body", b""))
            if taken > limit:
                raise Refusal(TOO_LARGE, 413, limit=limit >> 20)
        return message

    return counting
