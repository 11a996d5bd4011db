"""What routes share: who asks, in which language, forms that are really ours, and pages."""

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.responses import Response

from bthub.inference.result import DISCLAIMER
from bthub.practice import report as report_words
from bthub.practice import texts
from bthub.practice.accounts import Accounts
from bthub.practice.analysis import Engine
from bthub.practice.cases import MAX_FILES, TOO_MANY, Cases
from bthub.practice.database import Database
from bthub.practice.export import Exports
from bthub.practice.files import FileStore
from bthub.practice.models import LANGUAGES, PROFESSIONS, Account, SignIn
from bthub.practice.report import Reports
from bthub.practice.settings import Settings
from bthub.practice.texts import Refusal
from bthub.practice.web.guard import FORM_COOKIE, LANGUAGE_COOKIE, SESSION_COOKIE

HERE = Path(__file__).parent
_FORGED = "This form has expired or didn't come from this site: go back, reload the page and send it again."


@dataclass(frozen=True)
class Practice:
    """The parts that routes work with."""

    settings: Settings
    database: Database
    files: FileStore
    accounts: Accounts
    cases: Cases
    reports: Reports
    exports: Exports
    engine: Engine


class Visit:
    """A request, with who makes it and in which language."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.practice: Practice = request.app.state.practice
        self.session: SignIn | None = request.state.session
        self._account: Account | None = request.state.account
        cookies = request.state.cookies
        chosen = cookies.get(LANGUAGE_COOKIE)
        self.language = (
            self._account.language
            if self._account is not None
            else chosen
            if chosen in LANGUAGES
            else texts.choose(request.headers.get("accept-language"))
        )

    @property
    def account(self) -> Account:
        """Who is signed in; `Guard` lets nobody else to the routes that ask."""
        if self._account is None:
            raise Refusal("Sign in first.", 401)
        return self._account

    @property
    def signed_in(self) -> bool:
        return self._account is not None

    @property
    def session_id(self) -> str:
        if self.session is None:
            raise Refusal("Sign in first.", 401)
        return self.session.id

    @property
    def address(self) -> str:
        """Where the request comes from."""
        if self.practice.settings.proxy and (passed := self.request.headers.get("x-forwarded-for")):
            return passed.rpartition(",")[2].strip()
        return self.request.client.host if self.request.client else ""

    def t(self, text: str, **values: object) -> str:
        return texts.translate(text, self.language, **values)

    # -- forms

    @property
    def form_key(self) -> str:
        """What this visitor's forms are bound to: the session, or before sign-in a random cookie."""
        if self.session is not None:
            return self.session.id
        if not hasattr(self.request.state, "form_cookie"):
            kept = self.request.state.cookies.get(FORM_COOKIE, "")
            self.request.state.form_cookie = kept if len(kept) >= 32 else secrets.token_urlsafe(32)
        return str(self.request.state.form_cookie)

    @property
    def token(self) -> str:
        """Goes into each form; only this visitor's pages have it."""
        key = self.practice.settings.secret.encode()
        return hmac.new(key, b"form\0" + self.form_key.encode(), hashlib.sha256).hexdigest()

    def check_form(self, token: str) -> None:
        """
        Raises:
            Refusal: the form doesn't come from a page of ours.
        """
        site = self.request.headers.get("sec-fetch-site", "same-origin")
        if site not in ("same-origin", "none") or not hmac.compare_digest(token.encode(), self.token.encode()):
            raise Refusal(_FORGED, 403)

    # -- answers

    def page(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """A page from a template."""
        language = self.language
        html = TEMPLATES.get_template(template).render(
            visit=self,
            account=self._account,
            language=language,
            languages=texts.NAMES,
            t=partial(texts.translate, language=language),
            m=partial(texts.markup, language=language),
            told=partial(texts.foreign, language=language),
            number=lambda value, digits=0: texts.number(value, language, digits),
            percent=lambda share: texts.percent(share, language),
            day=lambda value: report_words.day_text(_iso(value), language),
            when=lambda value: report_words.when(value, language),
            area=lambda pixels, mm2: report_words.area_text(pixels, mm2, language),
            token=self.token,
            undo=self.practice.cases.deleted(self._account.id, self.session_id) if self._account else 0,
            disclaimer=DISCLAIMER,
            professions=PROFESSIONS,
            max_files=MAX_FILES,
            **values,
        )
        answer = HTMLResponse(html, status)
        if self.session is None:
            self.set_cookie(answer, FORM_COOKIE, self.form_key, seconds=86_400)
        return answer

    def to(self, address: str) -> RedirectResponse:
        """On to another page of ours."""
        return RedirectResponse(address, 303)

    def set_cookie(self, answer: Response, name: str, value: str, seconds: int) -> None:
        settings = self.practice.settings
        answer.set_cookie(
            name,
            value,
            max_age=seconds,
            httponly=True,
            secure=settings.secure,
            # In the frame of a Space's page every request is another site's.
            samesite="none" if settings.space else "lax",
        )

    def clear_session(self, answer: Response) -> None:
        answer.delete_cookie(SESSION_COOKIE)


def _iso(value: date | datetime | str | None) -> str | None:
    return value if isinstance(value, str) or value is None else value.isoformat()


async def checked_visit(request: Request) -> Visit:
    """For routes that change something: the visit, after the form was checked."""
    visit = Visit(request)
    token = request.headers.get("x-form-token", "")
    if not token:
        sent = (await form_of(request)).get("token")
        token = sent if isinstance(sent, str) else ""
    visit.check_form(token)
    return visit


async def form_of(request: Request) -> FormData:
    """What a form sent, with files too.

    Raises:
        Refusal: it has more files than an examination may.
        HTTPException: it is no form.
    """
    try:
        return await request.form(max_files=MAX_FILES + 1, max_fields=200)
    except HTTPException as error:
        if error.detail.startswith("Too many files"):  # Starlette's words for it, who stops reading there
            raise Refusal(TOO_MANY, most=MAX_FILES) from error
        raise


async def script_visit(request: Request) -> Visit:
    """As `checked_visit` for what a script of ours sends: the token is in a header, the body isn't read."""
    visit = Visit(request)
    visit.check_form(request.headers.get("x-form-token", ""))
    return visit


async def visit_of(request: Request) -> Visit:
    return Visit(request)


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


TEMPLATES = _environment()
Route = Callable[..., Any]
