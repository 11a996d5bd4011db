"""The application: its parts put together, its routes, and what becomes of errors."""

import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bthub.errors import BthubError
from bthub.inference.pipeline import Pipeline
from bthub.practice.accounts import Accounts
from bthub.practice.analysis import FAILURE, Engine, shipped
from bthub.practice.cases import Cases
from bthub.practice.database import Database
from bthub.practice.export import Exports
from bthub.practice.files import FileStore
from bthub.practice.locks import Locks
from bthub.practice.log import log_failure
from bthub.practice.report import Reports
from bthub.practice.settings import Settings
from bthub.practice.texts import Refusal, sentence
from bthub.practice.web import account_routes, case_routes, oauth_routes, report_routes
from bthub.practice.web.context import HERE, Practice, Visit
from bthub.practice.web.guard import Guard, database_away

SWEEP_EVERY = 300.0


def create_app(
    settings: Settings,
    load: Callable[[], tuple[Pipeline, dict[str, Any]]] = shipped,
    *,
    sweep_every: float = SWEEP_EVERY,
) -> FastAPI:
    """The practice as an ASGI application. Tables are made and brought up to date here.

    Args:
        settings: of `bthub.practice.settings.load`.
        load: gives the pipeline and what is known of it; called once, in the thread that uses it.
        sweep_every: seconds between two sweeps of what is over.

    Raises:
        BthubError: the database can't be reached or is of a later bthub, or another server has this data folder.
    """
    database = Database(settings.database_url)
    database.migrate()
    files = FileStore(settings, database)
    accounts = Accounts(database, settings)
    engine = Engine(database, files, settings, load)
    practice = Practice(
        settings,
        database,
        files,
        accounts,
        Cases(database, files),
        Reports(database, files),
        Exports(database, files, settings),
        engine,
    )
    locks = Locks(settings.folder)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with locks.serving():
            # What a killed server left: half-written files, and files whose rows were never committed.
            with locks.purging() as may:
                if may:
                    files.sweep(orphans=True)
            engine.start()
            over = threading.Event()
            sweeper = threading.Thread(target=_sweep, args=(practice, locks, over, sweep_every), daemon=True)
            sweeper.start()
            try:
                yield
            finally:
                over.set()
                engine.stop()
                sweeper.join(timeout=30)
                database.close()

    # No generated pages on the routes: they would be open to everyone, and load scripts from elsewhere.
    app = FastAPI(title="bthub practice", lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
    app.state.practice = practice
    for routes in (account_routes, case_routes, report_routes, oauth_routes):
        app.include_router(routes.router)
    app.mount("/static", StaticFiles(directory=HERE / "static"))

    @app.get("/health")
    def health() -> JSONResponse:
        """Whether it runs; nothing of what is in it."""
        return JSONResponse({"status": "ok", "models": engine.state})

    @app.get("/favicon.ico")
    def favicon() -> FileResponse:
        return FileResponse(HERE / "static" / "favicon.svg", media_type="image/svg+xml")

    _answer_errors(app)
    app.add_middleware(Failures)
    app.add_middleware(Guard, accounts=accounts, settings=settings)
    return app


def _sweep(practice: Practice, locks: Locks, over: threading.Event, every: float) -> None:
    while not over.wait(every):
        try:
            practice.accounts.sweep()
            with locks.purging() as may:  # not while a backup reads
                if may:
                    practice.files.sweep()
        except Exception as error:
            log_failure(error)  # the next sweep tries again


def _answer_errors(app: FastAPI) -> None:
    """An error is a sentence on a page, or in JSON for scripts; what it was about never enters the log."""

    def answer(request: Request, text: str, status: int) -> Response:
        if "text/html" not in request.headers.get("accept", ""):
            return JSONResponse({"error": text}, status)
        return Visit(request).page("error.html", status, text=text)

    @app.exception_handler(BthubError)
    def refused(request: Request, error: BthubError) -> Response:
        status = error.status if isinstance(error, Refusal) else 500
        return answer(request, sentence(error, Visit(request).language), status)

    @app.exception_handler(HTTPException)
    def not_found(request: Request, error: HTTPException) -> Response:
        text = {
            404: "There is no such page, or it isn't yours.",
            405: "There is no such page, or it isn't yours.",
        }.get(error.status_code, "The request can't be understood.")
        return answer(request, Visit(request).t(text), 404 if error.status_code == 405 else error.status_code)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        return answer(request, Visit(request).t("The request can't be understood."), 400)

    @app.exception_handler(SQLAlchemyError)
    def database(request: Request, error: SQLAlchemyError) -> Response:
        print(f"bthub: the database failed: {type(error).__name__}", file=sys.stderr, flush=True)
        return database_away(request.headers)


class Failures:
    """What nobody expected becomes a sentence too. Inside of `Guard`, so that the answer bears its headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def noting(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception as error:
            if scope["type"] != "http":
                raise
            log_failure(error)
            if started:
                raise ConnectionAbortedError from None  # what was sent can't be taken back
            request = Request(scope, receive)
            answer: Response = JSONResponse({"error": FAILURE}, 500)
            if "text/html" in request.headers.get("accept", ""):
                visit = Visit(request)
                answer = await run_in_threadpool(visit.page, "error.html", 500, text=visit.t(FAILURE))
            await answer(scope, receive, send)
