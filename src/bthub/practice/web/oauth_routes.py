"""Sign-in with a Hugging Face account: on a Space only, where the Hub gives the application its id and secret."""

import hashlib
import hmac
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from bthub.practice.access import NotFound
from bthub.practice.settings import OAuth
from bthub.practice.texts import Refusal
from bthub.practice.web.account_routes import signed_in
from bthub.practice.web.context import Visit, visit_of
from bthub.practice.web.guard import FORM_COOKIE

router = APIRouter()
Seen = Annotated[Visit, Depends(visit_of)]
FAILED = "The sign-in with Hugging Face didn't work: try again."


def _client(visit: Visit) -> tuple[OAuth, Any]:
    settings = visit.practice.settings.oauth
    if settings is None:
        raise NotFound
    from authlib.integrations.httpx_client import AsyncOAuth2Client

    return settings, AsyncOAuth2Client(
        settings.client_id,
        settings.client_secret,
        scope=settings.scopes,
        redirect_uri=f"https://{settings.host}/oauth/back",
        code_challenge_method="S256",
        timeout=20,
    )


def _verifier(visit: Visit) -> str:
    """Of PKCE: bound to this browser, and kept nowhere."""
    return hmac.new(
        visit.practice.settings.secret.encode(), b"pkce\0" + visit.token.encode(), hashlib.sha256
    ).hexdigest()


@router.get("/oauth/start")
async def start(visit: Seen) -> Response:
    settings, client = _client(visit)
    address, _ = client.create_authorization_url(
        f"{settings.provider}/oauth/authorize", state=visit.token, code_verifier=_verifier(visit)
    )
    answer = RedirectResponse(address, 303)
    visit.set_cookie(answer, FORM_COOKIE, visit.form_key, seconds=86_400)
    return answer


@router.get("/oauth/back")
async def back(visit: Seen, code: str = "", state: str = "") -> Response:
    settings, client = _client(visit)
    # The browser that comes back is the one that went.
    if not code or not hmac.compare_digest(state.encode(), visit.token.encode()):
        raise Refusal(FAILED, 403)
    try:
        async with client:
            await client.fetch_token(f"{settings.provider}/oauth/token", code=code, code_verifier=_verifier(visit))
            found = (await client.get(f"{settings.provider}/oauth/userinfo")).raise_for_status().json()
    except Exception as error:  # authlib, httpx and JSON each raise their own
        raise Refusal(FAILED, 502) from error
    subject = found.get("sub")
    if not isinstance(subject, str) or not subject:
        raise Refusal(FAILED, 502)
    name = str(found.get("preferred_username") or subject)
    accounts = visit.practice.accounts
    account = await run_in_threadpool(accounts.by_oauth, subject, name, str(found.get("name") or name))
    return signed_in(visit, await run_in_threadpool(accounts.open_session, account.id))
