"""A practice with models of known answers, on SQLite and on PostgreSQL."""

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

pytest.importorskip("sqlalchemy", reason="the practice's packages are an extra")

from practice_help import picture
from sqlalchemy import create_engine, text

from bthub.inference.pipeline import Pipeline
from bthub.practice import settings as settings_module
from bthub.practice.settings import Settings

MODELS = {"detector": {"id": "brightness", "revision": "1"}, "localizer": {"id": "bright-pixels", "revision": "2"}}
FACTS = {
    "detector": {"split": "patient/test", "samples": 10, "patients": 5, "data": "lgg", "figures": {}},
    "area_error": {
        "slices": {"all": {"factor": 1.5, "patients": 9, "missed": 0.0}},
        "volumes": {"factor": 1.25, "patients": 9, "missed": 0.0},
    },
}


class Brightness:
    """A detector: any pixel above one half is a tumor."""

    tumor_index = 1

    def predict(self, images: Sequence[Image.Image]) -> np.ndarray:
        tumor = np.array([0.9 if np.asarray(image).max() > 128 else 0.1 for image in images])
        return np.stack([1 - tumor, tumor], axis=1)


class BrightPixels:
    def masks(self, images: Sequence[Image.Image]) -> list[np.ndarray]:
        return [np.asarray(image.convert("L")) > 128 for image in images]


class DarkCorners:
    def accepts(self, images: Sequence[Image.Image]) -> list[bool]:
        return [np.asarray(image)[0, 0].max() < 10 for image in images]


def stub() -> tuple[Pipeline, dict]:
    """What `bthub.practice.analysis.shipped` gives, with models of known answers."""
    pipe = Pipeline(
        Brightness(), BrightPixels(), threshold=0.5, models=MODELS, review_band=(0.4, 0.6), input_check=DarkCorners()
    )
    return pipe, FACTS


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a server of its own, or of the one that BTHUB_TEST_DATABASE_URL names; databases are made in it."""
    if given := os.environ.get("BTHUB_TEST_DATABASE_URL"):
        yield given
        return
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(p) for p in [shutil.which("initdb")] if p]
    if not found:
        pytest.skip("PostgreSQL isn't installed: apt-get install postgresql, or set BTHUB_TEST_DATABASE_URL")
    programs = found[-1].parent
    # A folder that the server's own user can enter, which pytest's aren't for others than root.
    with tempfile.TemporaryDirectory(prefix="bthub-pg-") as place:
        as_user: list[str] = []
        if os.geteuid() == 0:  # the server refuses to run as root
            shutil.chown(place, "postgres")
            os.chmod(place, 0o700)
            as_user = ["runuser", "-u", "postgres", "--"]
        run = {"check": True, "capture_output": True, "cwd": "/"}
        subprocess.run(
            [*as_user, programs / "initdb", "-D", f"{place}/data", "-A", "trust", "-U", "bthub", "-N"], **run
        )
        options = f"-k {place} -c listen_addresses= -c fsync=off -c max_connections=200"
        pg_ctl = [*as_user, programs / "pg_ctl", "-D", f"{place}/data", "-w", "-l", f"{place}/log"]
        subprocess.run([*pg_ctl, "-o", options, "start"], check=True, stdout=subprocess.DEVNULL, cwd="/")
        try:
            yield f"postgresql://bthub@/postgres?host={place}"
        finally:
            subprocess.run([*pg_ctl, "-m", "immediate", "stop"], **run)


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """A data folder of its own, with a database of its own."""
    made = settings_module.load(tmp_path / "practice", {})
    if request.param == "sqlite":
        yield made
        return
    server = request.getfixturevalue("postgres")
    name = f"t{os.getpid()}_{time.monotonic_ns()}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield replace(made, database_url=re.sub(r"/postgres\?", f"/{name}?", server))
    with engine.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    engine.dispose()


@pytest.fixture
def sqlite_settings(tmp_path: Path) -> Settings:
    return settings_module.load(tmp_path / "practice", {})


class Browser:
    """Drives the pages as a browser does: cookies, forms, redirects."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        client.headers["accept"] = "text/html"

    def token(self, page: str = "/sign-in") -> str:
        answer = self.client.get(page)
        found = re.search(r'name="token" value="(\w+)"', answer.text)
        assert found, answer.text[:500]
        return found[1]

    def get(self, path: str, **more):
        return self.client.get(path, **more)

    def post(self, path: str, *, files=None, **form):
        return self.client.post(path, data={"token": self.token(), **form}, files=files)

    def register(self, name: str = "ada@example.org", password: str = "correct horse battery", **form):
        return self.post("/register", name=name, password=password, full_name=form.get("full_name", "Ada Lovelace"))

    def begin(self, name: str = "ada@example.org", **form) -> "Browser":
        """Register and answer the questions of first use."""
        assert self.register(name, **form).status_code == 200
        answer = self.post("/welcome", profession="radiologist", institution="General Hospital", consent="yes")
        assert answer.status_code == 200 and answer.url.path == "/", answer.text
        return self

    def analyze(self, *pictures: bytes, pseudonym: str = "", examined_on: str = "", **form) -> str:
        """Upload, wait, and return the examination's id."""
        files = [("files", (f"slice_{i}.png", content, "image/png")) for i, content in enumerate(pictures, 1)]
        answer = self.post("/analyze", files=files, pseudonym=pseudonym, examined_on=examined_on, **form)
        assert answer.status_code == 200, answer.text
        found = re.search(r"/examinations/(\w+)", str(answer.url))
        id = found[1] if found else re.search(r"examination=(\w+)", str(answer.url))[1]
        return self.wait(id)

    def wait(self, id: str) -> str:
        deadline = time.monotonic() + 60
        while self.get(f"/examinations/{id}/status").json()["state"] not in ("done", "failed"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return id

    def case(self, *pictures: bytes, pseudonym: str = "P-001", examined_on: str = "2026-03-01") -> tuple[str, str]:
        """Analyze and save; returns the ids of the case and of the examination."""
        id = self.analyze(*(pictures or (picture(),)))
        answer = self.post(f"/examinations/{id}/save", pseudonym=pseudonym, examined_on=examined_on)
        assert answer.status_code == 200, answer.text
        return answer.url.path.rpartition("/")[2], id


@pytest.fixture
def serve(settings: Settings) -> Iterator[Callable[..., Browser]]:
    """Makes browsers on one running practice."""
    yield from _serve(settings)


@pytest.fixture
def serve_sqlite(sqlite_settings: Settings) -> Iterator[Callable[..., Browser]]:
    yield from _serve(sqlite_settings)


def _serve(settings: Settings) -> Iterator[Callable[..., Browser]]:
    from bthub.practice.web.app import create_app

    app = create_app(settings, stub)
    with TestClient(app):
        yield lambda: Browser(TestClient(app, raise_server_exceptions=False))
