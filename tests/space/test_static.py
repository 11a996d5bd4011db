"""The static page in Chromium: the same verdicts as Python's, kept for later visits, nothing sent away."""

import base64
import functools
import http.server
import io
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scripts import script

from bthub import load_pipeline
from bthub.inference.backends.stages import check_pixels, detector_pixels
from bthub.runs.folder import RunFolder

pytestmark = pytest.mark.browser
SPACE = Path(__file__).parents[2] / "space"


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder, and remembers what was asked for."""

    def __init__(self, folder: Path) -> None:
        requests = self.requests = []

        class Handler(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def parse_request(self):
                fine = super().parse_request()
                requests.append((self.command, self.path))
                return fine

        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        threading.Thread(target=self.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def site(browser, shipped_runs, tmp_path_factory):
    if not all(RunFolder.open(run).quantized_ships() for run in shipped_runs):
        pytest.skip("the pair has no eight-bit networks that ship: make onnx")
    out = tmp_path_factory.mktemp("site") / "page"
    size = script("space/browser/build.py").build(out, *map(str, shipped_runs), "https://app.example")
    return out, size


@pytest.fixture(scope="module")
def server(site):
    with Server(site[0]) as server:
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def context(browser):
    context = browser.new_context()
    context.set_default_timeout(240_000)
    return context


@pytest.fixture(scope="module")
def page(context, server):
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{server.server_port}/")
    page.evaluate("window.bthub.ready.then(() => 0)")
    return page


# Arrays go both ways as Base64: Playwright takes seconds for a list of a hundred thousand numbers.
BASE64 = """
  const decoded = text => Uint8Array.from(atob(text), character => character.charCodeAt(0));
  const encoded = array => {
    const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    let text = "";
    for (const byte of bytes) text += String.fromCharCode(byte);
    return btoa(text);
  };
"""
ANALYZE = f"""async ([content, check]) => {{{BASE64}
  const {{ image, mask, ...rest }} = await window.bthub.analyze(decoded(content).buffer, check);
  return {{ ...rest, mask: mask && encoded(Uint8Array.from(mask)) }};
}}"""
PIXELS = f"""async ([name, content, width, height, size]) => {{{BASE64}
  const stages = await import("./stages.js");
  return encoded(Float32Array.from(stages[name]({{ data: decoded(content), width, height }}, size)));
}}"""


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def analyze(page, content: bytes, check: bool = True) -> dict:
    """What the page finds; `mask` is bool (H, W), or None."""
    found = page.evaluate(ANALYZE, [encoded(content), check])
    if found["mask"] is not None:
        mask = np.frombuffer(base64.b64decode(found["mask"]), np.uint8).astype(bool)
        found["mask"] = mask.reshape(found["height"], found["width"])
    return found


def pictures(kaggle: Path) -> dict[str, bytes]:
    """The examples, and a slice in other sizes and kinds of PNG."""
    found = {path.name: path.read_bytes() for path in sorted((SPACE / "examples").glob("*.png"))}
    image = Image.open(SPACE / "examples" / "TCGA_DU_5871_19941206_22.png").convert("RGB")
    gray = np.asarray(image.getchannel(1))
    variants = {
        "large": image.resize((700, 611)),
        "narrow": image.crop((40, 0, 216, 256)),
        "gray": Image.fromarray(gray),
        "deep": Image.fromarray(gray.astype(np.uint16) * 16 + 7),
        "palette": image.quantize(64),
        "alpha": Image.merge("RGBA", [*image.split(), Image.fromarray(np.full((256, 256), 200, np.uint8))]),
        "bit": Image.fromarray(gray > 90),
    }
    for name, variant in variants.items():
        buffer = io.BytesIO()
        variant.save(buffer, format="PNG")
        found[name] = buffer.getvalue()
    return found


def test_the_verdicts_are_those_of_python(page, shipped_runs, kaggle, tmp_path):
    pipe = load_pipeline(*shipped_runs, backend="int8")
    for name, content in pictures(kaggle).items():
        path = tmp_path / f"{Path(name).stem}.png"
        path.write_bytes(content)
        expected = pipe(path, check_input=False)
        found = analyze(page, content, check=False)
        assert found["tumor_probability"] == pytest.approx(expected.tumor_probability, abs=0.01), name
        for key in ("verdict", "label", "input_kind", "width", "height", "threshold"):
            assert found[key] == getattr(expected, key), (name, key)
        if expected.mask is not None:
            mask = found["mask"]
            both = mask.sum() + expected.mask.sum()
            assert both == 0 or 2 * (mask & expected.mask).sum() / both >= 0.99, name
            assert found["area_px"] == mask.sum()
            assert found["bbox"] is None or np.abs(np.subtract(found["bbox"], expected.bbox)).max() <= 1


def test_the_pixels_are_those_of_pillow(page, server):
    """What the networks see, digit for digit: the arithmetic of Pillow's reduction in another language."""
    rng = np.random.default_rng(0)
    for width, height in ((256, 256), (300, 177), (90, 311)):
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        for name, reference, size in (("detectorPixels", detector_pixels, 256), ("checkPixels", check_pixels, 128)):
            found = base64.b64decode(page.evaluate(PIXELS, [name, encoded(image.tobytes()), width, height, size]))
            expected = reference(Image.fromarray(image), size)
            pixels = np.frombuffer(found, np.float32).reshape(expected.shape)
            assert np.array_equal(pixels, expected), (name, width, height)


def test_what_is_refused(page):
    for content, words in (
        (b"", "empty"),
        (b"no picture at all", "isn't a picture"),
        (b"II*\0" + bytes(100), "TIFF"),
        ((SPACE / "examples" / "TCGA_DU_5871_19941206_22.png").read_bytes()[:9000], "truncated"),
        (png(np.full((64, 64), 80, np.uint8)), "blank"),
        (png(np.random.default_rng(0).integers(0, 255, (8, 64), np.uint8)), "too small"),
        (png(np.pad(np.full((20, 30), 255, np.uint8), 60)), "doesn't look like a slice"),
    ):
        message = page.evaluate(
            "bytes => window.bthub.analyze(Uint8Array.from(bytes).buffer).then(() => '', error => error.message)",
            list(content),
        )
        assert words in message


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def test_a_person_chooses_an_example(page):
    page.get_by_role("button", name="Large tumor").click()
    page.get_by_role("heading", name="Tumor suspected").wait_for()
    assert page.locator("#result canvas").is_visible() and "not a medical device" in page.inner_text("#result")
    assert page.get_by_role("link", name="The app on a server").get_attribute("href") == "https://app.example"


def test_an_example_that_cannot_be_loaded_is_a_sentence(browser, server):
    context = browser.new_context(service_workers="block")
    page = context.new_page()
    lost = lambda route: route.abort() if route.request.resource_type == "fetch" else route.continue_()  # noqa: E731
    page.route("**/examples/*.png", lost)
    page.goto(f"http://127.0.0.1:{server.server_port}/")
    page.get_by_role("button", name="Large tumor").click()
    page.get_by_text("The example could not be loaded").wait_for()
    context.close()


def test_small_enough_and_nothing_leaves(site, server, page):
    out, size = site
    said = int(page.inner_text("#size"))
    loaded = sum(path.stat().st_size for path in out.rglob("*") if path.suffix in (".onnx", ".wasm"))
    assert abs(said - size / 1e6) < 1 and loaded < size
    assert {method for method, _ in server.requests} == {"GET"}
    models = [path for _, path in server.requests if path.endswith(".onnx")]
    assert len(models) == len(set(models))  # each once: not again for the visits to come
    # The browser itself keeps the page from sending anything elsewhere.
    blocked = page.evaluate("fetch('http://127.0.0.1:9/', {mode: 'no-cors'}).then(() => 'sent', () => 'blocked')")
    assert blocked == "blocked"
    assert "connect-src 'self'" in page.content()


def test_it_works_without_a_network(context, server, page):
    address = page.url
    content = (SPACE / "examples" / "TCGA_HT_7475_19970918_14.png").read_bytes()
    expected = analyze(page, content)
    context.set_offline(True)
    try:
        asked = len(server.requests)
        again = context.new_page()
        again.goto(address)
        again.evaluate("window.bthub.ready.then(() => 0)")
        assert analyze(again, content)["tumor_probability"] == pytest.approx(expected["tumor_probability"], abs=1e-6)
        # The browser itself may look for a newer keeper; Playwright's offline mode doesn't hold for that.
        assert {path for _, path in server.requests[asked:]} <= {"/offline.js"}
    finally:
        context.set_offline(False)


@pytest.mark.slow
def test_single_precision_gives_pythons_verdicts_too(context, exported_pair, tmp_path):
    """A pair whose eight-bit networks weren't measured goes into the page as it is; and again without a server."""
    script("space/browser/build.py").build(tmp_path / "page", *map(str, exported_pair), "https://app.example")
    pipe = load_pipeline(*exported_pair, backend="onnx")
    examples = sorted((SPACE / "examples").glob("*.png"))
    with Server(tmp_path / "page") as server:
        address = f"http://127.0.0.1:{server.server_port}/"
        page = context.new_page()
        page.goto(address)
        page.evaluate("window.bthub.ready.then(() => 0)")
        masks = 0
        for path in examples:
            expected, found = pipe(path), analyze(page, path.read_bytes())
            assert found["tumor_probability"] == pytest.approx(expected.tumor_probability, abs=0.01), path.name
            assert (found["verdict"], found["label"]) == (expected.verdict, expected.label), path.name
            if expected.mask is not None and expected.mask.any():
                both = found["mask"].sum() + expected.mask.sum()
                assert 2 * (found["mask"] & expected.mask).sum() / both >= 0.99, path.name
                masks += 1
        assert masks >= 3
        server.shutdown()
        server.server_close()  # there is nothing any more that could answer
        again = context.new_page()
        again.goto(address)
        again.evaluate("window.bthub.ready.then(() => 0)")
        assert analyze(again, examples[0].read_bytes())["label"] == pipe(examples[0]).label


def test_another_archive_is_refused(tmp_path, monkeypatch):
    build = script("space/browser/build.py")
    (tmp_path / f"onnxruntime-web-{build.ORT_VERSION}.tgz").write_bytes(b"something else")
    with pytest.raises(Exception, match="digest"):
        build.fetch_runtime(tmp_path / "ort", tmp_path)
    assert not (tmp_path / "ort").exists()


def test_what_ships_is_under_60_megabytes(site):
    assert site[1] < 60e6
