"""Pages about accounts: registration, sign-in, first use, settings."""

from typing import Annotated

from fastapi import APIRouter, Depends, Form
from starlette.responses import Response

from bthub.practice.accounts import SESSION, invite_only, profile_mark
from bthub.practice.models import LANGUAGES
from bthub.practice.texts import Refusal, sentence
from bthub.practice.web.context import Visit, checked_visit, visit_of
from bthub.practice.web.guard import LANGUAGE_COOKIE, SESSION_COOKIE
from bthub.practice.web.lanes import lane

router = APIRouter()
Seen = Annotated[Visit, Depends(visit_of)]
Checked = Annotated[Visit, Depends(checked_visit)]
Field = Annotated[str, Form()]


@router.get("/sign-in")
def sign_in_page(visit: Seen, name: str = "") -> Response:
    if visit.signed_in:
        return visit.to("/")
    return visit.page("sign-in.html", name=name, problem=None)


@router.post("/sign-in")
@lane("passwords")
def sign_in(visit: Checked, name: Field = "", password: Field = "") -> Response:
    try:
        _, token = visit.practice.accounts.sign_in(name, password, visit.address)
    except Refusal as error:
        return visit.page("sign-in.html", error.status, name=name, problem=sentence(error, visit.language))
    return signed_in(visit, token)


def signed_in(visit: Visit, token: str) -> Response:
    answer = visit.to("/")
    visit.set_cookie(answer, SESSION_COOKIE, token, int(SESSION.total_seconds()))
    return answer


@router.get("/register")
def register_page(visit: Seen) -> Response:
    if visit.signed_in:
        return visit.to("/")
    return _register(visit)


def _register(visit: Visit, status: int = 200, problem: str | None = None, **given: str) -> Response:
    with visit.practice.database.read() as session:
        invited = invite_only(session)
    return visit.page("register.html", status, given=given, invited=invited, problem=problem)


@router.post("/register")
@lane("passwords")
def register(
    visit: Checked, name: Field = "", password: Field = "", full_name: Field = "", invitation: Field = ""
) -> Response:
    accounts = visit.practice.accounts
    try:
        account = accounts.register(name, password, full_name, visit.address, invitation)
    except Refusal as error:
        problem = sentence(error, visit.language)
        return _register(visit, error.status, problem, name=name, full_name=full_name, invitation=invitation)
    accounts.set_language(account.id, visit.language)
    return signed_in(visit, accounts.open_session(account.id))


@router.get("/recover")
def recover_page(visit: Seen) -> Response:
    return visit.page("recover.html", name="", problem=None)


@router.post("/recover")
@lane("passwords")
def recover(visit: Checked, name: Field = "", code: Field = "", password: Field = "") -> Response:
    try:
        visit.practice.accounts.recover(name, code, password, visit.address)
    except Refusal as error:
        return visit.page("recover.html", error.status, name=name, problem=sentence(error, visit.language))
    return visit.page(
        "sign-in.html", name=name, problem=None, told_before=visit.t("Your new password is set: sign in.")
    )


@router.post("/sign-out")
def sign_out(visit: Checked) -> Response:
    visit.practice.accounts.sign_out(visit.account.id, visit.session_id)
    visit.practice.accounts.sweep()  # what this session deleted is gone now
    return _out(visit)


@router.post("/sign-out-everywhere")
def sign_out_everywhere(visit: Checked) -> Response:
    visit.practice.accounts.sign_out(visit.account.id)
    visit.practice.accounts.sweep()
    return _out(visit)


def _out(visit: Visit) -> Response:
    answer = visit.to("/sign-in")
    visit.clear_session(answer)
    return answer


@router.post("/language")
def language(visit: Checked, language: Field = "", back: Field = "/") -> Response:
    # Only a path of ours: an address of another site would take who trusts this one there.
    answer = visit.to(back if back.startswith("/") and not back.startswith(("//", "/\\")) else "/")
    if language in LANGUAGES:
        visit.set_cookie(answer, LANGUAGE_COOKIE, language, 365 * 86_400)
        if visit.signed_in:
            visit.practice.accounts.set_language(visit.account.id, language)
    return answer


@router.get("/welcome")
def welcome_page(visit: Seen) -> Response:
    account = visit.account
    if account.complete:
        return visit.to("/")
    return _welcome(visit)


def _welcome(visit: Visit, status: int = 200, problem: str | None = None, **given: str) -> Response:
    return visit.page("welcome.html", status, given=given, problem=problem, seen=profile_mark(visit.account))


@router.post("/welcome")
def welcome(
    visit: Checked, profession: Field = "", institution: Field = "", consent: Field = "", seen: Field = ""
) -> Response:
    try:
        visit.practice.accounts.complete(visit.account.id, profession, institution, consent, seen=seen)
    except Refusal as error:
        given = {"profession": profession, "institution": institution, "consent": consent}
        return _welcome(visit, error.status, sentence(error, visit.language), **given)
    return visit.to("/")


@router.get("/account")
def account_page(visit: Seen) -> Response:
    return _account(visit)


def _account(
    visit: Visit, status: int = 200, problem: str | None = None, saved: str | None = None, **given: str
) -> Response:
    """The account's page.

    Args:
        visit: who asks.
        status: of the answer.
        problem, saved: why a form wasn't taken, or what came of it.
        given: what was sent and not saved, in the place of what is saved.
    """
    account = visit.account
    answers = {
        "full_name": account.full_name,
        "profession": account.profession or "",
        "institution": account.institution or "",
        "consent": "yes" if account.consent else "no",
    }
    seen = profile_mark(account)
    return visit.page("account.html", status, problem=problem, saved=saved, given=answers | given, seen=seen)


@router.post("/account")
def profile(
    visit: Checked,
    full_name: Field = "",
    profession: Field = "",
    institution: Field = "",
    consent: Field = "",
    seen: Field = "",
) -> Response:
    try:
        visit.practice.accounts.complete(visit.account.id, profession, institution, consent, full_name, seen=seen)
    except Refusal as error:
        given = {"full_name": full_name, "profession": profession, "institution": institution, "consent": consent}
        return _account(visit, error.status, sentence(error, visit.language), **given)
    return visit.to("/account")


@router.post("/account/password")
@lane("passwords")
def password(visit: Checked, old: Field = "", new: Field = "") -> Response:
    try:
        visit.practice.accounts.change_password(visit.account, old, new, visit.address, visit.session_id)
    except Refusal as error:
        return _account(visit, error.status, sentence(error, visit.language))
    return _account(visit, saved=visit.t("Your password is changed; all other sessions have ended."))


@router.post("/account/delete")
@lane("passwords")
def delete(visit: Checked, password: Field = "", sure: Field = "") -> Response:
    try:
        if sure != "yes":
            raise Refusal("Tick the box if you are sure: nothing can be restored.")
        visit.practice.accounts.delete(visit.account, password)
    except Refusal as error:
        text = sentence(error, visit.language)
        if not visit.account.complete:
            return visit.page("error.html", error.status, text=text)
        return _account(visit, error.status, text)
    answer = visit.to("/register")
    visit.clear_session(answer)
    return answer
