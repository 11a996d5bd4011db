"""What tests of the practice share: pictures, models of known answers, and a browser without a screen."""

import io
import json
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import unescape

import numpy as np
import pytest
from light_stages import MODELS
from PIL import Image
from ports import free_port
from starlette.testclient import TestClient

from bthub.inference.pipeline import Pipeline

BOX = 400
"""Pixels of the bright box of `picture`."""


def picture(box: tuple[int, int, int, int] | None = (20, 24, 40, 44), side: int = 64, seed: int = 0) -> bytes:
    """A gray disk with noise, bright in the box: PNG."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] + 0.5
    pixels = np.where((x - side / 2) ** 2 + (y - side / 2) ** 2 < (side * 0.45) ** 2, 60, 0)
    pixels = np.where(pixels > 0, pixels + rng.integers(0, 20, pixels.shape), 0).astype(np.uint8)
    if box:
        pixels[box[1] : box[3], box[0] : box[2]] = 220
    return png(pixels)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


FACTS = {
    "detector": {"split": "patient/test", "samples": 10, "patients": 5, "data": "lgg", "figures": {}},
    "by_kind": {"flair_like": {"recall": 0.926, "specificity": 0.962}},
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


# What the pages do hardly depends on the database; what does is tested on both in test_faults, test_backup and others.
BOTH = pytest.mark.parametrize(
    "settings", ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True
)


class BrightPixels:
    def masks(self, images: Sequence[Image.Image], kinds: object = None) -> list[np.ndarray]:
        return [np.asarray(image.convert("L")) > 128 for image in images]


class DarkCorners:
    def inspect(self, images: Sequence[Image.Image]) -> list[tuple[bool, str | None]]:
        return [(bool(np.asarray(image)[0, 0].max() < 10), "flair_like") for image in images]


def stub() -> tuple[Pipeline, dict]:
    """What `bthub.practice.analysis.shipped` gives, with models of known answers."""
    pipe = Pipeline(
        Brightness(), BrightPixels(), threshold=0.5, models=MODELS, referral_band=(0.4, 0.6), input_check=DarkCorners()
    )
    return pipe, FACTS


@contextmanager
def served(settings) -> Iterator[str]:
    """A practice with the models of `stub` on a port of its own: its address."""
    import uvicorn

    from bthub.practice.web.app import create_app

    port = free_port()
    server = uvicorn.Server(uvicorn.Config(create_app(settings, stub), port=port, log_level="error", access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(timeout=30)


def seen_by(page: str) -> dict[str, str]:
    """The hidden fields of a page's forms but for the token."""
    return {name: unescape(v) for name, v in re.findall(r'type="hidden" name="((?!token)\w+)" value="([^"]*)"', page)}


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

    def seen(self, page: str) -> dict[str, str]:
        """What the form of a page says of what it was loaded with."""
        return seen_by(self.get(page).text)

    def form(self, page: str, action: str) -> dict[str, str]:
        """As `seen`, of the one form that a page sends to an address."""
        found = re.search(rf'action="{action}".*?</form>', self.get(page).text, re.DOTALL)
        assert found, action
        return seen_by(found[0])

    def write(self, page: str, **form):
        """Send a form whose page has the same address, such as a report, as it is now."""
        return self.post(page, **self.seen(page), **form)

    def register(self, name: str = "ada@example.org", password: str = "correct horse battery", **form):
        return self.post("/register", name=name, password=password, full_name=form.get("full_name", "Ada Lovelace"))

    def begin(self, name: str = "ada@example.org", **form) -> "Browser":
        """Register and answer the questions of first use."""
        assert self.register(name, **form).status_code == 200
        answer = self.post("/welcome", profession="radiologist", institution="General Hospital", consent="yes")
        assert answer.status_code == 200 and answer.url.path == "/", answer.text
        return self

    def slices(self, page: str) -> list[dict]:
        """What the viewer of a page is given."""
        found = re.search(r'<script type="application/json">(.*?)</script>', self.get(page).text, re.DOTALL)
        return json.loads(found[1])["slices"]

    def analyze(
        self, *pictures: bytes, pseudonym: str = "", examined_on: str = "", seconds: float = 120, **form
    ) -> str:
        """Upload, wait, and return the examination's id."""
        files = [("files", (f"slice_{i}.png", content, "image/png")) for i, content in enumerate(pictures, 1)]
        answer = self.post("/analyze", files=files, pseudonym=pseudonym, examined_on=examined_on, **form)
        assert answer.status_code == 200, answer.text
        found = re.search(r"/examinations/(\w+)", str(answer.url))
        id = found[1] if found else re.search(r"examination=(\w+)", str(answer.url))[1]
        return self.wait(id, seconds)

    def wait(self, id: str, seconds: float = 120) -> str:
        deadline = time.monotonic() + seconds
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
