"""The demo app: built and served in this process, asked by the stock gradio_client."""

import base64
import html
import io
import json
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import gradio as gr
import httpx
import numpy as np
import psutil
import pytest
import yaml
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from light_stages import DarkCorners, blob, make_pipeline
from packaging.requirements import Requirement
from PIL import Image
from ports import free_port
from scripts import script

import bthub
from bthub.data.splits import patient_split
from bthub.project import DEFAULTS, ORG, hub_id
from bthub.runs.operating_point import OperatingPoint

ROOT = Path(__file__).parents[2]
SPACE = ROOT / "space"
KEYS = {"label", "tumor_probability", "threshold", "area_px", "bbox", "mask_png_base64"}


class Recorder:
    """A pipeline that keeps the bytes of the last file it was given."""

    def __init__(self, pipe: bthub.Pipeline) -> None:
        self.pipe = pipe
        self.received = b""
        self.figures, self.sources = pipe.figures, pipe.sources

    def __call__(self, file: str, **options: bool) -> bthub.Result:
        self.received = Path(file).read_bytes()
        return self.pipe(file, **options)

    @property
    def input_check(self) -> DarkCorners | None:
        return self.pipe.input_check


@pytest.fixture(scope="module")
def app() -> ModuleType:
    return script("space/app.py")


@pytest.fixture(scope="module")
def pipe() -> Recorder:
    """Calls every slice a tumor, and what is bright its outline."""
    pipe = make_pipeline()
    pipe.threshold, pipe.points = 0.001, {None: OperatingPoint(0.001)}
    return Recorder(pipe)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where Gradio keeps files while the module runs."""
    folder = tmp_path_factory.mktemp("gradio")
    patch = pytest.MonkeyPatch()
    patch.setenv("GRADIO_TEMP_DIR", str(folder))
    yield folder
    patch.undo()


@pytest.fixture(scope="module")
def served(app: ModuleType, pipe: Recorder, cache: Path) -> gr.Blocks:
    demo = app.build(pipe)
    app.launch(demo, free_port())
    yield demo
    demo.close(verbose=False)


@pytest.fixture(scope="module")
def client(served: gr.Blocks, tmp_path_factory: pytest.TempPathFactory) -> Client:
    return Client(served.local_url, verbose=False, download_files=tmp_path_factory.mktemp("downloads"))


def analyze(client: Client, file: Path) -> tuple[str, dict]:
    return client.predict(handle_file(file), api_name="/analyze")


def untimed(found: dict) -> dict:
    return {key: value for key, value in found.items() if key != "milliseconds"}


# -- the endpoint


def test_a_tumor_slice(client: Client, pipe: Recorder, kaggle: Path) -> None:
    file = kaggle / "TCGA_HT_8018_19970411" / "TCGA_HT_8018_19970411_9.tif"
    expected = pipe.pipe(file)

    answer = analyze(client, file)

    assert isinstance(answer, tuple)
    overlay, found = answer
    assert untimed(found) == untimed(expected.to_dict())
    assert found["label"] == "tumor" and found["bbox"] is not None and KEYS <= set(found)
    mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(found["mask_png_base64"]))))
    assert np.array_equal(mask > 0, expected.mask)
    assert np.array_equal(np.asarray(Image.open(overlay)), np.asarray(expected.overlay()))


def test_a_healthy_slice(client: Client, pipe: Recorder, kaggle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = kaggle / "TCGA_HT_7680_19970202" / "TCGA_HT_7680_19970202_4.tif"
    monkeypatch.setattr(pipe.pipe, "points", {None: OperatingPoint(1.0)})

    overlay, found = analyze(client, file)

    assert untimed(found) == untimed(pipe.pipe(file).to_dict())
    assert found["label"] == "no_tumor"
    assert (found["area_px"], found["bbox"], found["mask_png_base64"]) == (0, None, None)
    assert np.array_equal(np.asarray(Image.open(overlay)), np.asarray(Image.open(file)))


@pytest.mark.parametrize("name", ["slice.tif", "deep.png", "rotated.jpg"])
def test_the_file_arrives_untouched(client: Client, pipe: Recorder, kaggle: Path, tmp_path: Path, name: str) -> None:
    source = Image.open(kaggle / "TCGA_HT_8018_19970411" / "TCGA_HT_8018_19970411_9.tif")
    file = tmp_path / name
    if name == "deep.png":
        Image.fromarray(np.asarray(source.convert("L"), dtype=np.uint16) * 16).save(file)  # 0 to 4080
    elif name == "rotated.jpg":
        exif = Image.Exif()
        exif[274] = 6
        source.crop((0, 0, 200, 256)).save(file, exif=exif)
    else:
        source.save(file)

    _, found = analyze(client, file)

    assert pipe.received == file.read_bytes()
    assert untimed(found) == untimed(pipe.pipe(file).to_dict())
    assert (found["width"], found["height"]) == ((256, 200) if name == "rotated.jpg" else (256, 256))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("notes.txt", "notes.txt: this is not a picture"),
        ("blank.png", "blank.png: the picture is blank"),
        ("huge.png", "huge.png: the picture is too large, 9000 x 9000 pixels"),
        ("cut.png", "cut.png: the picture is truncated"),
    ],
)
def test_a_bad_file_is_answered_with_one_sentence(client: Client, tmp_path: Path, name: str, said: str) -> None:
    file = tmp_path / name
    if name == "notes.txt":
        file.write_text("not a picture")
    elif name == "cut.png":
        Image.effect_noise((256, 256), 50).save(file)
        file.write_bytes(file.read_bytes()[:20_000])
    else:
        Image.new("1", (9000, 9000) if name == "huge.png" else (64, 64)).save(file)

    with pytest.raises(AppError) as caught:
        analyze(client, file)

    assert str(caught.value).startswith(said)
    assert "Traceback" not in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_no_slice_is_refused(
    client: Client, pipe: Recorder, kaggle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipe.pipe, "input_check", DarkCorners())
    assert analyze(client, kaggle / "TCGA_HT_8018_19970411" / "TCGA_HT_8018_19970411_9.tif")[1]["label"] == "tumor"
    Image.effect_noise((64, 64), 50).point(lambda level: level // 2 + 100).save(tmp_path / "noise.png")
    with pytest.raises(AppError) as caught:
        analyze(client, tmp_path / "noise.png")
    # It takes no parameter that switches the check off, so none is spoken of.
    assert str(caught.value) == (
        "noise.png: this doesn't look like a slice of a brain MRI, the only kind of picture the models know"
    )


def test_a_refused_picture_is_analyzed_on_demand(
    app: ModuleType, pipe: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipe.pipe, "input_check", DarkCorners())
    functions = list(app.build(pipe).fns.values())
    events = {event.name: event for event in functions}
    large = next(event.fn for event in functions if getattr(event.fn, "args", ()) == ("Large tumor",))
    places = ["result", "upload", None, None, "anyway", "series", "plane"]
    assert [block.elem_id for block in events["show"].outputs] == places
    show, anyway = events["show"].fn, events["anyway"].fn
    noise, slice_ = tmp_path / "noise.png", tmp_path / "slice.png"
    Image.effect_noise((64, 64), 50).point(lambda level: level // 2 + 100).save(noise)
    slice_.write_bytes((SPACE / "examples" / app.EXAMPLES["Large tumor"]).read_bytes())

    page, upload, kept, unchecked, button, *_ = show([str(noise)])
    assert "noise.png: this doesn&#x27;t look like a slice" in page and app.ANYWAY in page
    assert (upload, kept, unchecked, button["visible"]) == (None, [str(noise)], False, True)

    page, _, kept, unchecked, button, *_ = anyway(kept)
    assert "Unchecked: tumor suspected" in page and html.escape(app.UNCHECKED, quote=False) in page
    assert (kept, unchecked, button["visible"]) == (None, True, False)

    for page, _, kept, unchecked, button, *_ in (show([str(slice_)]), large()):
        assert "Tumor suspected" in page and "Unchecked" not in page
        assert (kept, unchecked, button["visible"]) == (None, False, False)

    noise.unlink()
    assert app.GONE in anyway([str(noise)])[0] and app.GONE in anyway(None)[0]


def test_a_document_is_refused_without_a_button(app: ModuleType, pipe: Recorder, tmp_path: Path) -> None:
    (tmp_path / "letter.png").write_text("Dear colleague")
    (show,) = (event.fn for event in app.build(pipe).fns.values() if event.name == "show")
    page, _, kept, _, button, *_ = show([str(tmp_path / "letter.png")])
    assert "is not a picture" in page and app.ANYWAY not in page and not button["visible"] and kept is None


def test_no_file_is_answered_with_a_sentence(client: Client) -> None:
    with pytest.raises(AppError, match="send one image file"):
        client.predict(None, api_name="/analyze")


def test_only_the_two_endpoints_are_public(client: Client) -> None:
    endpoints = client.view_api(return_format="dict")
    assert list(endpoints["named_endpoints"]) == ["/analyze", "/analyze_scan"]
    assert endpoints["unnamed_endpoints"] == {}
    analyze = endpoints["named_endpoints"]["/analyze"]
    assert [p["parameter_name"] for p in analyze["parameters"]] == ["image"]
    assert [r["label"] for r in analyze["returns"]] == ["overlay", "result"]
    assert "Whether one slice of a brain MRI shows a tumor" in analyze["description"]
    for one in endpoints["named_endpoints"].values():
        (file,) = (p for p in one["parameters"] if p["component"] == "File")
        told = file["python_type"]["description"]
        assert "TIFF" in told and "FileData" not in told
        assert "examples/TCGA_DU_5871_19941206_22.png" in str(file["example_input"]) and "pdf" not in str(one)
    with pytest.raises(ValueError, match="show"):
        client.predict("x", api_name="/show")


def test_trained_models_know_the_examples(shipped_runs: tuple[Path, Path], app: ModuleType) -> None:
    pipe = bthub.load_pipeline(*shipped_runs)
    tumor = pipe(SPACE / "examples" / app.EXAMPLES["Large tumor"])
    assert tumor.label == "tumor" and 0.5 * 4506 < tumor.area_px < 1.5 * 4506
    assert pipe(SPACE / "examples" / app.EXAMPLES["No tumor, high slice"]).label == "no_tumor"


# -- private by default


def test_only_this_machine_is_served(served: gr.Blocks) -> None:
    sockets = psutil.Process().net_connections("inet")
    listening = [s.laddr for s in sockets if s.status == psutil.CONN_LISTEN and s.laddr.port == served.server_port]
    assert [address.ip for address in listening] == ["127.0.0.1"]


def test_a_space_is_served_to_everyone(app: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    given = {}

    class Blocks:
        def launch(self, **options) -> None:
            given.update(options)

    app.launch(Blocks(), 7860)
    assert given["server_name"] == "127.0.0.1"
    app.launch(Blocks(), 7860, "0.0.0.0")  # which main takes on a Space, where SPACE_ID is set
    assert (given["server_name"], given["server_port"]) == ("0.0.0.0", 7860)


def test_nothing_phones_home_or_is_remembered(served: gr.Blocks, client: Client, app: ModuleType) -> None:
    config = httpx.get(f"{served.local_url}config").json()
    assert config["analytics_enabled"] is False
    assert config["run_history"] is False
    assert config["max_file_size"] == app.MAX_STUDY_BYTES
    assert not served.share and served.state_holder.capacity <= 8
    assert config["stylesheets"] == []  # none from a font server
    assert httpx.get(f"{served.local_url}monitoring").status_code == 403
    assert httpx.get(f"{served.local_url}gradio_api/runs").status_code == 404
    link = httpx.get(f"{served.local_url}gradio_api/deep_link", params={"session_hash": client.session_hash})
    assert link.status_code == 404


def test_uploads_and_overlays_are_deleted(
    app: ModuleType, served: gr.Blocks, client: Client, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"deleted within {(app.DELETE_EVERY + app.DELETE_AGE) / 60:.0f} minutes (or" in " ".join(app.ABOUT.split())
    before = files_in(cache)
    file = tmp_path / "mine.png"
    Image.effect_noise((128, 96), 80).save(file)
    analyze(client, file)
    assert {path.name for path in files_in(cache) - before} == {"mine.png", "overlay.png"}
    app.sweep(cache)  # too young
    assert {path.name for path in files_in(cache) - before} == {"mine.png", "overlay.png"}

    monkeypatch.setattr(app, "DELETE_EVERY", 0.1)
    monkeypatch.setattr(app, "DELETE_AGE", 0)
    with app.swept(cache):
        wait_for(lambda: not any(path.is_file() for path in cache.rglob("*")))
    config = httpx.get(f"{served.local_url}config").json()
    icons = [c["props"].get("icon") for c in config["components"] if c["type"] == "button"]
    pictures = [icon["url"] for icon in icons if icon]
    assert [httpx.get(url).status_code for url in pictures] == [200] * len(app.EXAMPLES)


def test_deleting_goes_on_after_an_error(
    app: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that can't be deleted keeps no other, and a sweep that fails keeps no later one."""
    unlink, sweep, failed = Path.unlink, app.sweep, []

    def guarded(path: Path) -> None:
        if path.name == "kept.png":
            raise PermissionError(1, "Operation not permitted")
        unlink(path)

    def fails_once(folder: Path, spared: set[str]) -> None:
        if not failed:
            failed.append(folder)
            raise MemoryError("no memory left")
        sweep(folder, spared)

    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("kept.png", "a/one.png", "a/b/two.png", "zero.png"):
        (tmp_path / name).write_text("x")
    monkeypatch.setattr(Path, "unlink", guarded)
    monkeypatch.setattr(app, "sweep", fails_once)
    monkeypatch.setattr(app, "DELETE_EVERY", 0.05)
    monkeypatch.setattr(app, "DELETE_AGE", 0)
    with app.swept(tmp_path):
        wait_for(lambda: {path.name for path in files_in(tmp_path)} == {"kept.png"})
    said = capsys.readouterr().err
    assert "no memory left" in said and "could not be deleted: Operation not permitted" in said
    assert "kept.png" not in said and not any(thread.name == "sweep" for thread in threading.enumerate())


class Slow:
    """A pipeline that holds each picture until it may go on, and reads its file only then."""

    input_check = None
    figures: ClassVar = {}
    sources: ClassVar = {}

    def __init__(self) -> None:
        self.go_on, self.began = threading.Event(), threading.Event()
        self.go_on.set()

    def hold(self) -> None:
        """From here on; the page's first result is made when it is built."""
        self.go_on.clear()
        self.began.clear()

    def __call__(self, file: str, **_: bool) -> bthub.Result:
        self.began.set()
        assert self.go_on.wait(300)
        return make_pipeline()(file)


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium here: apt-get install chromium")
@pytest.mark.parametrize("width", [390, pytest.param(1280, marks=pytest.mark.slow)])
def test_who_waits_sees_the_place_and_the_wait(app: ModuleType, cache: Path, tmp_path: Path, width: int) -> None:
    """Also where nothing has run since the start, and on a phone, where the result lies below the examples."""
    api = pytest.importorskip("playwright.sync_api")
    slow = Slow()
    demo = app.build(slow)
    slow.hold()
    app.launch(demo, free_port())
    try:
        file = tmp_path / "slice.png"
        Image.fromarray(blob(120, 100, (30, 40, 60, 80))).save(file)
        job = Client(demo.local_url, verbose=False).submit(handle_file(file), api_name="/analyze")
        assert slow.began.wait(60)
        with api.sync_playwright() as playwright:
            flags = ["--no-sandbox", "--disable-gpu"]
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
            page = browser.new_page(viewport={"width": width, "height": 800}, reduced_motion="reduce")
            page.goto(demo.local_url)
            page.locator("input[type=file]").first.set_input_files(file)
            tracker = page.locator("#result [data-said^='Place 1 of 1 in the queue, about ']")
            api.expect(tracker).to_have_count(1, timeout=60_000)
            page.wait_for_timeout(500)
            assert 0 < tracker.evaluate("element => element.getBoundingClientRect().top + 200") < 800
            slow.go_on.set()
            api.expect(page.locator("#verdict")).to_be_in_viewport(timeout=60_000)
            browser.close()
        assert job.result(timeout=60)[1]["label"] == "tumor"
    finally:
        slow.go_on.set()
        demo.close(verbose=False)


class Visitors:
    """Open pages of the app, one for each session: they upload a picture, join the queue and listen to it."""

    def __init__(self, demo: gr.Blocks) -> None:
        self.number = next(event._id for event in demo.fns.values() if event.name == "analyze")
        self.place = f"{demo.local_url}gradio_api/"
        picture = io.BytesIO()
        Image.fromarray(blob(120, 100, (30, 40, 60, 80))).save(picture, format="PNG")
        self.picture = picture.getvalue()
        self.http = httpx.Client(timeout=300, limits=httpx.Limits(max_connections=None))

    def join(self, session: str) -> None:
        content = self.picture + session.encode()  # what follows a PNG's end is not read: a file for each session
        (path,) = self.http.post(f"{self.place}upload", files={"files": ("s.png", content)}).json()
        data = [{"path": path, "meta": {"_type": "gradio.FileData"}}]
        body = {"data": data, "fn_index": self.number, "session_hash": session}
        self.http.post(f"{self.place}queue/join", json=body).raise_for_status()

    @contextmanager
    def listening(self, session: str) -> Iterator[Iterator[dict]]:
        """The messages that the session gets, until the `with` block ends and the connection with it."""
        with self.http.stream("GET", f"{self.place}queue/data", params={"session_hash": session}) as answer:
            yield (json.loads(line.removeprefix("data:")) for line in answer.iter_lines() if line)

    def visit(self, session: str) -> list[dict]:
        """All that a session hears from joining to its result."""
        self.join(session)
        with self.listening(session) as messages:
            return list(messages)


def test_fifty_at_once_are_served_and_their_uploads_outlive_the_wait(
    app: ModuleType, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert app.WAITING_PLACES >= 100
    monkeypatch.setattr(app, "DELETE_AGE", 0)
    slow = Slow()
    demo = app.build(slow)
    slow.hold()
    app.launch(demo, free_port())
    visitors = Visitors(demo)
    try:
        with ThreadPoolExecutor(50) as pool:
            jobs = [pool.submit(visitors.visit, f"visitor {number}") for number in range(50)]
            try:
                assert slow.began.wait(60)
                wait_for(lambda: len(demo._queue) == 49)
                waiting = app.waiting_files(demo)
                assert len(waiting) == 50 and all(Path(path).is_file() for path in waiting)
                (cache / "old.png").write_bytes(b"x")
                app.sweep(cache, app.waiting_files(demo))  # all are old enough now
                assert all(Path(path).is_file() for path in waiting) and not (cache / "old.png").exists()
            finally:
                slow.go_on.set()
            heard = [job.result(timeout=300) for job in jobs]
        results = [messages[-2] for messages in heard]
        assert [messages[-1]["msg"] for messages in heard] == ["close_stream"] * 50
        assert [result["msg"] for result in results] == ["process_completed"] * 50
        assert [result["output"]["data"][1]["label"] for result in results] == ["tumor"] * 50
        ranks = [message["rank"] for messages in heard for message in messages if message["msg"] == "estimation"]
        assert max(ranks) == 48 and min(ranks) == 0  # of 49 who wait; each heard a place
        wait_for(lambda: not app.waiting_files(demo))
    finally:
        visitors.http.close()
        demo.close(verbose=False)


def test_who_leaves_frees_the_place(app: ModuleType, cache: Path) -> None:
    """A client that is killed, in the queue or at work, keeps nobody waiting."""
    slow = Slow()
    demo = app.build(slow)
    slow.hold()
    app.launch(demo, free_port())
    visitors = Visitors(demo)
    try:
        visitors.join("first")
        with visitors.listening("first") as working:
            assert slow.began.wait(60)
            visitors.join("second")
            with visitors.listening("second"):
                visitors.join("third")
                with visitors.listening("third"):
                    wait_for(lambda: len(demo._queue) == 2)
                wait_for(lambda: len(demo._queue) == 1)  # the connection of the third is gone
            slow.go_on.set()
            assert "process_completed" in [message["msg"] for message in working]
        wait_for(lambda: len(demo._queue) == 0 and not app.waiting_files(demo))
    finally:
        slow.go_on.set()
        visitors.http.close()
        demo.close(verbose=False)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def files_in(folder: Path) -> set[Path]:
    # gr.File leaves an empty file with a random name for each call: no content, so not counted.
    return {path for path in folder.rglob("*") if path.is_file() and path.stat().st_size}


def test_zero_gpu_hardware_finds_its_function_and_no_visitor_pays_for_it(
    pipe: Recorder, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where `spaces` is, as it is on that hardware; elsewhere it isn't asked for."""
    given: list[Callable] = []
    calls: list[str] = []

    def gpu(function: Callable) -> Callable:
        given.append(function)
        return lambda *_: calls.append(function.__name__)

    spaces = ModuleType("spaces")
    spaces.GPU = gpu
    monkeypatch.setitem(sys.modules, "spaces", spaces)
    on_zero_gpu = script("space/app.py")
    assert len(given) == 1
    demo = on_zero_gpu.build(pipe)
    on_zero_gpu.launch(demo, free_port())
    try:
        client = Client(demo.local_url, verbose=False, download_files=tmp_path)
        file = SPACE / "examples" / on_zero_gpu.EXAMPLES["Large tumor"]
        assert client.predict(handle_file(file), api_name="/analyze")[1]["label"] in ("tumor", "no_tumor")
    finally:
        demo.close(verbose=False)
    assert calls == []

    monkeypatch.setitem(sys.modules, "spaces", None)
    assert not hasattr(script("space/app.py"), "on_gpu") and len(given) == 1


# -- the page


def test_the_page_of_a_tumor(app: ModuleType, pipe: Recorder, kaggle: Path) -> None:
    result = pipe.pipe(kaggle / "TCGA_HT_8018_19970411" / "TCGA_HT_8018_19970411_9.tif")
    page = app.result_html(result, "<b>mine<b>.tif")
    assert "Tumor suspected" in page and "No tumor found" not in page
    assert "&lt;b&gt;mine&lt;b&gt;.tif" in page and "<b>mine" not in page
    for said in (app.percent(result.tumor_probability), f"threshold {app.percent(result.threshold)}"):
        assert said in page
    x0, y0, x1, y1 = result.bbox
    for said in (f"{result.area_px:,} pixels", f"{x1 - x0} × {y1 - y0} pixels", "256 × 256 pixels", "bright-pixels"):
        assert said in page
    assert f"<dt>Fraction of the head</dt><dd>{app.percent(result.head_fraction)} " in page
    assert '<img class="scan"' in page and '<img class="layer fill"' in page
    assert re.findall(r'data-layer="(\w+)"', page) == ["fill", "outline", "box"]
    saved = dict(re.findall(r'download="_b_mine_b_([^"]+)" href="data:[^,]+,([^"]+)"', page))
    assert list(saved) == ["_report.html", "_overlay.png", "_mask.png", ".json"]
    with Image.open(io.BytesIO(base64.b64decode(saved["_overlay.png"]))) as overlay:
        assert np.array_equal(np.asarray(overlay), np.asarray(result.overlay()))
    report = base64.b64decode(saved["_report.html"]).decode()
    for said in (
        "Tumor suspected",
        app.DISCLAIMER,
        "&lt;b&gt;mine",
        f"{result.area_px:,} pixels",
        result.models["detector"]["id"],
    ):
        assert said in report
    assert report.count("<img") == 2 and "://" not in report
    assert app.DISCLAIMER in page


def test_the_page_of_an_uncertain_slice(app: ModuleType, pipe: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    file = SPACE / "examples" / app.EXAMPLES["Faint tumor"]
    assert "A specialist should look" not in app.result_html(pipe.pipe(file), "mine.png")
    band = OperatingPoint(pipe.pipe.threshold, referral_band=(0.0004, 1.0))
    monkeypatch.setattr(pipe.pipe, "points", {None: band})
    page = app.result_html(pipe.pipe(file), "mine.png")
    assert ">Uncertain</h2>" in page and "A specialist should look" in page and 'class="result unsure"' in page
    assert "In the hatched part, from under 1% to 100%, the result is “uncertain” instead." in page
    assert "Tumor suspected" not in page and "No tumor found" not in page


def test_the_page_names_the_kind_and_how_good_the_model_is_at_it(app: ModuleType, pipe: Recorder) -> None:
    result = replace(pipe.pipe(SPACE / "examples" / app.EXAMPLES["Faint tumor"]), input_kind="flair_like")
    figures = {"flair_like": {"recall": 0.951, "specificity": 0.988}}
    page = app.result_html(result, "mine.png", figures=figures)
    assert "Read as: a FLAIR slice in gray." in page
    assert "finds 95 of 100 with a tumor and raises a false alarm on 1 of 100 without" in page
    assert "of 100" not in app.result_html(result, "mine.png")
    assert "Read as" not in app.result_html(replace(result, input_kind=None), "mine.png", figures=figures)


def test_an_unchecked_picture_never_gets_a_green_verdict(app: ModuleType, pipe: Recorder) -> None:
    result = replace(pipe.pipe(SPACE / "examples" / app.EXAMPLES["Faint tumor"]), label="no_tumor", uncertain=False)
    assert 'class="result clear"' in app.result_html(result, "mine.png")
    page = app.result_html(result, "mine.png", checked=False)
    assert 'class="result unsure"' in page and "Unchecked: no tumor found" in page and "Read as" not in page


def test_the_experts_outline_and_how_well_the_model_agrees(app: ModuleType, pipe: Recorder) -> None:
    file = SPACE / "examples" / app.EXAMPLES["Large tumor"]
    experts, result = app.outlined(file), pipe.pipe(file)
    assert experts.sum() == 4506
    half = experts & (np.cumsum(experts, axis=None).reshape(experts.shape) <= 2253)
    page = app.result_html(replace(result, mask=half), file.name, example="Large tumor", experts=experts)
    assert "Example: Large tumor" in page and "Dice 0.67" in page and 'data-layer="experts"' in page
    assert 'class="layer experts"' in page
    missed = replace(result, mask=None, bbox=None, contour=[], area_px=0)
    assert "outlined 4,506 pixels; the model outlined nothing" in app.result_html(missed, "a.png", experts=experts)
    seen = app.result_html(result, "a.png", experts=np.zeros_like(experts))
    assert "outlined nothing here, but the model did" in seen
    assert "Experts" not in app.result_html(result, "a.png")


def test_every_kind_has_an_example_and_its_figures(app: ModuleType, shipped_runs: tuple[Path, Path]) -> None:
    assert sorted(name for _, _, names in app.KINDS for name in names) == sorted(app.EXAMPLES)
    test = json.loads((shipped_runs[0] / "sources.json").read_text())["test"]["by_source"]
    figures = {
        name: {"recall": one["metrics"]["recall"]["value"], "specificity": one["metrics"]["specificity"]["value"]}
        | {"groups": one["groups"], "uncertain": one["uncertain"]}
        for name, one in test.items()
    }
    pipe = bthub.load_pipeline(*shipped_runs, backend="int8")
    assert pipe.sources == figures
    header = app.header_html(pipe.sources)
    color = figures["lgg, three sequences"]
    assert f"it finds {100 * color['recall']:.0f} of 100 tumor slices" in header
    assert f"a false alarm on {100 - 100 * color['specificity']:.0f} of 100 tumor-free ones" in header
    assert f"{100 * color['uncertain']:.0f} of 100 slices “uncertain”" in header
    contrast = sorted(100 * figures[name]["recall"] for name in ("lgg, post-contrast", "t1"))
    assert f"finds {contrast[0]:.0f} to {contrast[1]:.0f} of 100" in app.how_well(
        pipe.sources, ("lgg, post-contrast", "t1")
    )
    for address in app.LINKS.values():
        assert f'href="{address}"' in header
    # Nothing is said where nothing was measured.
    assert "of 100" not in app.header_html({}) + app.how_well({}, ("t1",))


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.9, "most"), (0.5, "about half"), (0.36, "about a third"), (0.18, "about a sixth"), (0.1, "about a tenth")]
    + [(0.05, "about 5%"), (0.004, "under 1%")],
)
def test_a_share_in_words(app: ModuleType, share: float, text: str) -> None:
    assert app.in_words(share) == text


def test_an_area_in_words(app: ModuleType) -> None:
    assert app.area_in_words(2279) == "22.8\u00a0cm² <small>as large as a disk 5.4 cm across</small>"
    assert app.area_in_words(28) == "0.3\u00a0cm² <small>as large as a disk 6 mm across</small>"


def test_a_quotation_mark_in_a_name(app: ModuleType) -> None:
    assert app.called(["uploads/slice %22left%22.png"]) == 'slice "left".png'
    error = bthub.BthubError("uploads/a%22.png: the picture is blank")
    assert app.sentence(error, "uploads/a%22.png") == 'a".png: the picture is blank'


def test_the_page_without_a_tumor(app: ModuleType, pipe: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe.pipe, "points", {None: OperatingPoint(1.0)})
    page = app.result_html(pipe.pipe(SPACE / "examples" / app.EXAMPLES["No tumor, high slice"]), "mine.png")
    assert "No tumor found" in page and "not an all-clear" in page and "Tumor suspected" not in page
    assert '<img class="scan"' in page and "data-layer" not in page and "_mask.png" not in page
    assert app.DISCLAIMER in page


def test_the_page_of_a_tumor_that_was_not_outlined(app: ModuleType, pipe: Recorder, kaggle: Path) -> None:
    result = pipe.pipe(kaggle / "TCGA_HT_8018_19970411" / "TCGA_HT_8018_19970411_9.tif")
    page = app.result_html(
        replace(result, mask=np.zeros_like(result.mask), bbox=None, contour=[], area_px=0), "mine.tif"
    )
    assert "Tumor suspected" in page and "Nothing was outlined" in page and "data-layer" not in page


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.973821, "97%"), (0.00004, "under 1%"), (0.99996, "over 99%"), (0.0, "0%"), (1.0, "100%")],
)
def test_percent(app: ModuleType, share: float, text: str) -> None:
    assert app.percent(share) == text


def test_the_disclaimer_is_on_the_empty_page(served: gr.Blocks, app: ModuleType) -> None:
    config = httpx.get(f"{served.local_url}config").json()
    assert any(app.DISCLAIMER in str(c["props"].get("value")) for c in config["components"] if c["type"] == "html")


# -- starting it


@pytest.mark.parametrize("port", ["web", "0", "70000"])
def test_a_wrong_port_is_refused(
    app: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], port: str
) -> None:
    monkeypatch.setenv("PORT", port)
    assert app.main() == 2
    assert capsys.readouterr().err == f"bthub: PORT must be a number from 1 to 65535, not {port!r}\n"


@pytest.mark.parametrize("problem", ["port", "model"])
def test_what_stops_it_is_one_sentence(
    app: ModuleType,
    served: gr.Blocks,
    tiny_runs: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    problem: str,
) -> None:
    monkeypatch.setenv("PORT", str(served.server_port))
    monkeypatch.setenv("BTHUB_DETECTOR", str(tiny_runs[0] if problem == "port" else tmp_path))
    monkeypatch.setenv("BTHUB_LOCALIZER", str(tiny_runs[1]))
    monkeypatch.setattr(app.signal, "signal", lambda *_: None)
    monkeypatch.setattr(app.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))  # main() sets it: here, until the test is over

    assert app.main() == 2

    said = capsys.readouterr().err.splitlines()[-1]  # above it may be the progress bar of loading the weights
    assert said.startswith("bthub: ")
    assert (f"port {served.server_port} is not free" if problem == "port" else "has no config.json") in said
    assert list(tmp_path.iterdir()) == []


# -- what goes to the Hub with it


def test_the_examples(app: ModuleType) -> None:
    folder = SPACE / "examples"
    pictures = [*folder.glob("*.png"), *folder.glob("gray/*.png")]
    assert set(app.EXAMPLES.values()) == {file.relative_to(folder).as_posix() for file in pictures}
    attribution = (folder / "README.md").read_text()
    assert "CC BY-NC-SA 4.0" in attribution
    institutions = set()
    for file in folder.glob("*.png"):
        patient = file.stem.rpartition("_")[0]
        assert patient_split(patient) == "test"
        assert file.name in attribution
        with Image.open(file) as image:
            assert (image.mode, image.size) == ("RGB", (256, 256))
        institutions.add(patient.split("_")[1])
    assert len(institutions) >= 4
    for file in folder.glob("gray/*.png"):
        color = folder / f"{'_'.join(file.stem.split('_')[:5])}.png"
        channel = ("pre_contrast", "flair", "post_contrast").index("_".join(file.stem.split("_")[5:]))
        assert np.array_equal(np.asarray(Image.open(file)), np.asarray(Image.open(color))[..., channel])
        assert file.name in attribution
    said = dict(re.findall(r"^\| (TCGA\w+)\.png .*\| ([\d,]+|none)(?: px)? \|$", attribution, re.MULTILINE))
    for file in folder.glob("*.png"):
        assert f"{app.outlined(file).sum():,}".replace("0", "none", said[file.stem] == "none") == said[file.stem]


def test_the_space_card_and_its_requirements() -> None:
    card = yaml.safe_load(re.match(r"---\n(.*?)---\n", (SPACE / "README.md").read_text(), re.DOTALL)[1])
    assert card["sdk"] == "gradio" and card["sdk_version"] == gr.__version__
    assert (SPACE / card["app_file"]).is_file()
    assert len(card["short_description"]) <= 60
    if ORG == "bthub":
        assert card["models"] == [hub_id(DEFAULTS[stage]) for stage in ("detector", "localizer")]

    lock = dict(
        line.strip().split("==") for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line
    )
    for line in (SPACE / "requirements.txt").read_text().splitlines():
        if not line.startswith("#"):
            requirement = Requirement(line)
            assert str(requirement.specifier) == f"=={lock[requirement.name.replace('_', '-')]}"
