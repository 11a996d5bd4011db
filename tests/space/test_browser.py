"""The demo as a person meets it: `space/app.py` in its own process, the page in headless Chromium.

BTHUB_SCREENSHOT=docs/screenshot.webp pytest tests/space/test_browser.py -k screenshot    takes the README's picture
BTHUB_AXE=axe.min.js pytest tests/space -k accessible -m slow
    checks this page and the static one with axe-core: `npm pack axe-core@4.11.0` has that file
"""

import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from ports import free_port

from bthub.project import DEFAULTS, SHIPPED_RUNS
from bthub.runs.folder import CONFIG

APP = Path(__file__).parents[2] / "space" / "app.py"
SLOW_MACHINE = 300  # seconds until the models must be loaded
ANALYZED = 60_000  # milliseconds until a result must be on the page
UPLOAD = "#upload button"

pytestmark = pytest.mark.browser


@contextmanager
def serve(folder: Path, runs: tuple[Path, Path] | None) -> Iterator[str]:
    """Run the app as `make demo` does, on the backend that every installation has; yields its address.

    Args:
        folder: an empty one, for the app's temporary files.
        runs: detector and localizer; None for those that come with the clone.
    """
    port = free_port()
    environment = os.environ | {"PORT": str(port), "TMPDIR": str(folder)}
    environment["BTHUB_BACKEND"] = "torch" if runs else "int8"
    if runs:
        environment |= {"BTHUB_DETECTOR": str(runs[0]), "BTHUB_LOCALIZER": str(runs[1])}
    log = folder.parent / f"{folder.name}.log"
    with log.open("w") as output:
        process = subprocess.Popen([sys.executable, APP], env=environment, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + SLOW_MACHINE
        while "bthub: ready" not in log.read_text():
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def address(scratch: Path, tiny_runs: tuple[Path, Path]) -> Iterator[str]:
    """The app with the trained models where they are, else with models that call everything a tumor."""
    trained = all((SHIPPED_RUNS / name / CONFIG).is_file() for name in DEFAULTS.values())
    with serve(scratch, None if trained else tiny_runs) as url:
        yield url
        assert files_in(scratch)
    # Folders that other libraries make when they are imported may stay.
    assert files_in(scratch) == []


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page, opened. It must ask no other server for anything, and no script may fail."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, locale="en-US")
    page = context.new_page()
    elsewhere, failures = [], []
    page.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) else elsewhere.append(r.url))
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.goto(address)
    expect(page.locator(UPLOAD)).to_be_visible(timeout=ANALYZED)
    yield page
    context.close()
    assert elsewhere == []
    assert failures == []


def shown_picture(page: Page) -> tuple[int, int]:
    """Natural width and height of the one picture of the result that is visible, once it is decoded."""
    picture = page.locator("#result .window img.scan:visible")
    expect(picture).to_have_count(1)
    return tuple(picture.evaluate("async i => { await i.decode(); return [i.naturalWidth, i.naturalHeight] }"))


def test_upload_a_kaggle_tiff(page: Page, kaggle: Path) -> None:
    expect(page.get_by_text("not a medical device").first).to_be_visible()
    page.set_input_files("#upload input[type=file]", kaggle / "TCGA_HT_8018_19970411" / "TCGA_HT_8018_19970411_9.tif")

    verdict = page.get_by_role("heading", name="Tumor suspected")
    expect(verdict).to_be_visible(timeout=ANALYZED)
    expect(verdict).to_be_focused()
    result = page.locator("#result")
    expect(result).to_contain_text("TCGA_HT_8018_19970411_9.tif")
    expect(result).to_contain_text("256 × 256 pixels")
    expect(result).to_contain_text("not a medical device")
    expect(page.get_by_role("meter", name="Probability of a tumor")).to_be_visible()
    expect(page.locator("#result .layer.fill")).to_be_visible()
    assert shown_picture(page) == (256, 256)
    # The upload field waits for the next slice.
    expect(page.locator(UPLOAD)).to_contain_text("Drop a slice or a scan here")

    # What lies over the picture can be hidden, and stays so for the next result.
    page.get_by_label("Fill", exact=True).uncheck()
    expect(page.locator("#result .layer.fill")).to_be_hidden()
    expect(page.locator("#result .layer.outline")).to_be_visible()
    page.get_by_label("Box", exact=True).check()
    expect(page.locator("#result .layer.box")).to_be_visible()
    page.get_by_label("Fill", exact=True).check()
    page.get_by_label("Opacity").fill("80")
    expect(page.locator("#result .layer.fill")).to_have_css("opacity", "0.8")
    with page.expect_download() as download:
        page.get_by_role("link", name="Mask (PNG)").click()
    assert download.value.suggested_filename == "TCGA_HT_8018_19970411_9_mask.png"
    with Image.open(download.value.path()) as mask:
        assert mask.size == (256, 256) and set(np.unique(mask)) == {0, 255}
    with page.expect_download() as download:
        page.get_by_role("link", name="Report (one page)").click()
    assert download.value.suggested_filename == "TCGA_HT_8018_19970411_9_report.html"
    assert "not a medical device" in Path(download.value.path()).read_text(encoding="utf-8")


def test_by_keyboard_alone(page: Page, kaggle: Path) -> None:
    # Set at the beginning: Chromium takes a moment to hand its dialog over.
    file = kaggle / "TCGA_HT_8018_19970411" / "TCGA_HT_8018_19970411_10.tif"
    page.on("filechooser", lambda dialog: dialog.set_files(file))
    example = page.get_by_role("button", name="Medium tumor")
    for _ in range(30):
        page.keyboard.press("Tab")
        if example.evaluate("e => e === document.activeElement"):
            break
    page.keyboard.press("Enter")
    expect(page.locator("#result")).to_contain_text("TCGA_FG_6691_20020405_25.png", timeout=ANALYZED)
    expect(page.get_by_role("heading", name="Tumor suspected")).to_be_focused(timeout=ANALYZED)
    assert shown_picture(page) == (256, 256)

    page.keyboard.press("Tab")  # from the verdict to the picture
    picture = page.locator("#result .pane")
    width = picture.bounding_box()["width"]
    page.keyboard.press("+")
    assert picture.bounding_box()["width"] == pytest.approx(1.5 * width, rel=0.01)
    left = picture.bounding_box()["x"]
    page.keyboard.press("ArrowRight")
    assert picture.bounding_box()["x"] < left - 20
    page.keyboard.press("0")
    assert picture.bounding_box()["width"] == pytest.approx(width, rel=0.01)

    page.locator(UPLOAD).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#result")).to_contain_text("TCGA_HT_8018_19970411_10.tif", timeout=ANALYZED)


def test_what_is_no_picture_is_answered_with_one_sentence(page: Page) -> None:
    data = page.evaluate_handle(
        "() => { const d = new DataTransfer(); d.items.add(new File(['no picture'], 'notes.txt')); return d }"
    )
    page.dispatch_event(UPLOAD, "drop", {"dataTransfer": data})

    alert = page.get_by_role("alert").filter(has_text="could not be analyzed")
    expect(alert).to_be_visible(timeout=ANALYZED)
    expect(alert.locator("p")).to_have_text(
        "notes.txt: this is not a picture that can be read; expected PNG, TIFF, JPEG, BMP, WebP or GIF"
    )
    expect(page.locator("#result")).not_to_contain_text("Tumor suspected")
    expect(page.locator("body")).not_to_contain_text("Traceback")


def test_a_photograph_is_refused_unless_it_is_asked_for(page: Page, tmp_path: Path, shipped_runs) -> None:
    photograph = tmp_path / 'my "cat".png'
    shutil.copy(Path(skimage.__file__).parent / "data" / "chelsea.png", photograph)
    button = page.get_by_role("button", name="Analyze anyway")
    expect(button).to_be_hidden()
    page.set_input_files("#upload input[type=file]", photograph)

    alert = page.get_by_role("alert").filter(has_text="could not be analyzed")
    expect(alert).to_be_visible(timeout=ANALYZED)
    expect(alert).to_contain_text('my "cat".png: this doesn\'t look like a slice of a brain MRI')
    expect(button).to_be_in_viewport()

    button.click()
    expect(page.get_by_role("heading", name="Unchecked: ")).to_be_visible(timeout=ANALYZED)
    expect(page.locator("#result")).to_contain_text('my "cat".png')
    expect(page.locator("#result .result.clear")).to_have_count(0)
    expect(page.get_by_text("the result means nothing")).to_be_visible()
    expect(button).to_be_hidden()

    page.set_input_files("#upload input[type=file]", photograph)
    expect(alert).to_be_visible(timeout=ANALYZED)
    page.get_by_role("button", name="Medium tumor").click()
    expect(page.locator("#result")).to_contain_text("TCGA_FG_6691_20020405_25.png", timeout=ANALYZED)
    expect(page.get_by_text("Unchecked")).to_have_count(0)
    expect(button).to_be_hidden()


def test_the_first_800_pixels(browser: Browser, address: str) -> None:
    """The page opens with an example's result; verdict and whole picture are seen, and the page lies in the middle."""
    for width, height in ((1280, 800), (1920, 1080)):
        context = browser.new_context(viewport={"width": width, "height": height}, locale="en-US")
        page = context.new_page()
        page.goto(address)
        expect(page.locator("#result")).to_contain_text("Example: Large tumor")
        assert page.locator("#result .window").bounding_box()["height"] > 300
        bottom = page.evaluate("document.querySelector('#result .window').getBoundingClientRect().bottom")
        assert bottom < 800
        expect(page.locator("#verdict")).to_be_in_viewport()
        box = page.locator("main").bounding_box()
        assert box["x"] == pytest.approx(
            page.evaluate("document.documentElement.clientWidth") - box["x"] - box["width"], abs=2
        )
        context.close()


@pytest.mark.parametrize("width", [390, pytest.param(1280, marks=pytest.mark.slow)])
def test_an_example_brings_its_result_into_view(browser: Browser, address: str, width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 800}, reduced_motion="reduce", locale="en-US")
    page = context.new_page()
    page.goto(address)
    page.get_by_role("button", name="Large, before contrast").click()
    expect(page.locator("#result")).to_contain_text("pre_contrast.png", timeout=ANALYZED)
    expect(page.locator("#verdict")).to_be_in_viewport(ratio=1)
    if width >= 900:
        expect(page.locator("#result .window")).to_be_in_viewport(ratio=0.99)
    context.close()


def test_on_a_phone_in_the_dark(browser: Browser, address: str) -> None:
    context = browser.new_context(
        viewport={"width": 360, "height": 740}, color_scheme="dark", has_touch=True, is_mobile=True, locale="en-US"
    )
    page = context.new_page()
    page.goto(address)
    # Nothing can be dropped there.
    expect(page.locator("#upload [data-testid=upload-text]")).to_have_css("font-size", "0px")
    page.get_by_role("button", name="Medium tumor").tap()
    expect(page.locator("#result")).to_contain_text("TCGA_FG_6691_20020405_25.png", timeout=ANALYZED)
    expect(page.get_by_role("heading", name="Tumor suspected")).to_be_in_viewport(timeout=ANALYZED)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    text, behind = page.evaluate(
        "() => [document.querySelector('#result dd'), document.body]"
        ".map((e, i) => getComputedStyle(e)[i ? 'backgroundColor' : 'color'])"
    )
    assert brightness(behind) < 60 < 180 < brightness(text)
    context.close()


def brightness(color: str) -> float:
    """Mean of red, green and blue of a CSS `rgb(r, g, b)`, 0-255."""
    return sum(float(part) for part in color.partition("(")[2].rstrip(")").split(",")[:3]) / 3


@pytest.mark.slow
@pytest.mark.skipif("BTHUB_AXE" not in os.environ, reason="BTHUB_AXE names no axe.min.js")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_accessible(browser: Browser, address: str, scheme: str, tmp_path: Path) -> None:
    """As it opens, with another result, and after a refusal."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme=scheme, locale="en-US")
    page = context.new_page()
    page.goto(address)
    expect(page.locator("#result")).to_contain_text("Example: Large tumor")
    found = serious(page)
    page.get_by_role("button", name="No tumor, low slice").click()
    expect(page.locator("#result")).to_contain_text("Example: No tumor, low slice", timeout=ANALYZED)
    found |= serious(page)
    (notes := tmp_path / "notes.png").write_bytes(b"no picture")
    page.set_input_files("#upload input[type=file]", notes)
    expect(page.get_by_role("alert").filter(has_text="could not be analyzed")).to_be_visible(timeout=ANALYZED)
    found |= serious(page)
    context.close()
    assert not found, "\n".join(sorted(found))


def serious(page: Page) -> set[str]:
    """What axe-core finds on a page that hinders people much: the rule, and where."""
    page.evaluate(Path(os.environ["BTHUB_AXE"]).read_text())
    return {
        f"{violation['id']}: {node['html'][:160]}"
        for violation in page.evaluate("axe.run().then(found => found.violations)")
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"][:3]
    }


def test_screenshot(browser: Browser, tmp_path: Path, shipped_runs: tuple[Path, Path]) -> None:
    target = os.environ.get("BTHUB_SCREENSHOT")
    if target is None:
        pytest.skip("BTHUB_SCREENSHOT names the file to write, as docs/screenshot.webp")
    folder = tmp_path / "served"
    folder.mkdir()
    with serve(folder, shipped_runs) as url:
        page = browser.new_page(viewport={"width": 1280, "height": 1100}, locale="en-US")
        page.goto(url)
        expect(page.get_by_role("heading", name="Tumor suspected")).to_be_visible(timeout=ANALYZED)
        page.mouse.move(0, 0)
        page.evaluate("document.activeElement.blur()")
        shown_picture(page)
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        with Image.open(io.BytesIO(page.screenshot())) as picture:
            picture.convert("RGB").save(target, quality=90, method=6)
