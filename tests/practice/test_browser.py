"""The whole story in a browser: register, analyze, save, correct, note, follow up after a restart, report, delete.

BTHUB_AXE=axe.min.js pytest tests/practice/test_browser.py -k accessible -m slow
    checks each page with axe-core: `npm pack axe-core@4.11.0` has that file
"""

import io
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import highdicom
import nibabel
import numpy as np
import pytest
from PIL import Image
from practice_help import picture, served
from scans import PATIENT_ID, data, series

if TYPE_CHECKING:
    from playwright.sync_api import Route

pytestmark = pytest.mark.browser


def test_the_whole_story(browser, sqlite_settings, tmp_path):
    slices = [
        np.asarray(Image.open(io.BytesIO(picture((20, 24, 40, 44) if 2 <= i < 6 else None, seed=i)))) for i in range(8)
    ]
    array = np.stack([one[::-1].T for one in slices], axis=-1).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1.0, 1.0, 5.0, 1.0])), tmp_path / "scan.nii.gz")
    errors: list[str] = []
    context = browser.new_context(viewport={"width": 1280, "height": 900}, locale="en-US")
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)

    def analyze(day: str) -> None:
        page.goto(f"{base}/")
        page.set_input_files("#files", str(tmp_path / "scan.nii.gz"))
        page.wait_for_selector("#viewer[data-drawn]")
        page.fill("#pseudonym", "Study 7")
        page.fill("#examined_on", day)
        page.click("form[action$='/save'] button")
        page.wait_for_selector("#notes")
        page.wait_for_selector("#viewer[data-drawn]")

    with served(sqlite_settings) as base:
        page.goto(base)
        page.click("#or a")
        page.fill("#full_name", "Ada Lovelace")
        page.fill("#name", "ada@example.org")
        page.fill("#password", "correct horse battery")
        page.click("main button.first")
        page.wait_for_url("**/welcome")
        page.select_option("#profession", "radiologist")
        page.fill("#institution", "General Hospital")
        page.check("input[value=yes]")
        page.click("main button.first")
        page.wait_for_selector("#upload")
        analyze("2026-01-12")
        assert "8.0 ml" in page.inner_text("[data-live=numbers]")
        # The slider, the keys and the bars go to a slice.
        page.focus(".viewer-stage")
        first = page.inner_text("[data-place]")
        page.keyboard.press("ArrowRight")
        assert page.inner_text("[data-place]") != first
        page.locator(".bars .hit").nth(2).click()
        assert page.inner_text("[data-place]") == "Slice 3 of 8"
        page.wait_for_selector("#viewer[data-drawn='2']")
        # The brush adds, saved beside the model's outline.
        page.keyboard.press("c")
        page.locator(".viewer-stage").scroll_into_view_if_needed()
        box = page.locator(".viewer-stage canvas").bounding_box()
        x, y = box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.25
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 30, y + 10, steps=4)
        page.mouse.up()
        # While it is being saved, nothing is drawn and no other slice is shown: both would be lost.
        held: list[Route] = []
        page.route("**/correction", lambda route: held.append(route))
        page.click("[data-control=save]")
        page.wait_for_selector("[data-say]:text-is('Saving')")
        page.locator("#viewer [data-slider]").fill("5")
        page.mouse.move(x, y + box["height"] * 0.4)
        page.mouse.down()
        page.mouse.move(x + 60, y + box["height"] * 0.4, steps=4)
        page.mouse.up()
        held[0].continue_()
        page.wait_for_selector("[data-say]:text-is('Saved')")
        page.unroute("**/correction")
        page.wait_for_selector("[data-live=corrections] li")
        assert page.inner_text("[data-place]") == "Slice 3 of 8" and page.input_value("#viewer [data-slider]") == "2"
        shown, kept = page.evaluate(
            "() => { const { masks, slices } = viewers.get('viewer');"
            " return [masks.get(2).reduce((a, b) => a + b, 0), slices[2].area_px]; }"
        )
        assert shown == kept
        page.evaluate("() => { const one = viewers.get('viewer'); one.slices[2].uncertain = true; one.tell(); }")
        assert "Tumor suspected (uncertain)" in page.inner_text("[data-caption]")
        assert "corrected by hand" in page.inner_text("[data-caption]")
        ml = float(page.inner_text("[data-live=numbers] dd >> nth=1").split()[0])
        assert ml > 8.0
        page.fill("#text", "To be seen again in March.")
        page.click("text=Add the note")
        page.wait_for_selector("article.note")
    # The server was stopped; the session and the case are still there.
    with served(sqlite_settings) as base:
        analyze("2026-03-20")
        page.click("text=Follow-up")
        page.wait_for_selector("#viewer-2[data-drawn]")
        assert "8.0 ml" in page.inner_text("#change")
        page.locator("#viewer-1 [data-slider]").fill("5")
        page.wait_for_selector("#viewer-2[data-drawn='5']")  # the other follows
        page.click("text=Back to the case")
        page.click("text=Write a report")
        page.fill("#impression", "Lesion as before.")
        page.click("text=Sign and freeze")
        page.wait_for_selector(".digest")
        report = context.request.get(f"{page.url}/report.pdf")
        assert report.body()[:5] == b"%PDF-"
        page.goto(f"{base}/account")
        with page.expect_download() as download:
            page.click("text=Export all cases")
        assert download.value.suggested_filename == "cases.zip"
        page.fill("#sure-password", "correct horse battery")
        page.check("input[name=sure]")
        page.click("form[action='/account/delete'] button")
        page.wait_for_url("**/register")
    context.close()
    assert not errors, errors


def test_too_much_is_refused_before_it_is_sent(browser, sqlite_settings):
    with served(replace(sqlite_settings, max_upload_bytes=3 << 20)) as base:
        context = browser.new_context(locale="de-DE")
        page = context.new_page()
        page.set_default_timeout(60_000)
        begin(page, base)
        sent: list[str] = []
        # The browser may ask for the icon at any time.
        page.on("request", lambda request: "/static/" in request.url or sent.append(request.url))
        large = [{"name": f"{i}.png", "mimeType": "image/png", "buffer": b"x" * (2 << 20)} for i in range(2)]
        page.set_input_files("#files", large)
        page.wait_for_selector("[data-line]:has-text('Höchstens 3 MB')")
        page.evaluate("document.getElementById('upload').dataset.most = 2")
        page.set_input_files("#files", [{"name": "a.png", "mimeType": "image/png", "buffer": b"x"}] * 3)
        page.wait_for_selector("[data-line]:has-text('zu viele Dateien')")
        assert not sent
        # The form works again.
        page.set_input_files("#files", [{"name": "a.png", "mimeType": "image/png", "buffer": picture()}])
        page.wait_for_selector("#viewer[data-drawn]")
        context.close()


@pytest.mark.parametrize(
    ("scheme", "width"),
    [
        ("light", 390),
        pytest.param("light", 1280, marks=pytest.mark.slow),
        pytest.param("dark", 390, marks=pytest.mark.slow),
        pytest.param("dark", 1280, marks=pytest.mark.slow),
    ],
)
def test_no_page_scrolls_sideways(browser, sqlite_settings, width, scheme):
    with served(sqlite_settings) as base:
        context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, locale="de-DE")
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(f"{base}/register")
        page.fill("#full_name", "Dr. Maximiliane Freifrau von Langenscheidt-Hohenstein")
        page.fill("#name", "ada@example.org")
        page.fill("#password", "correct horse battery")
        page.click("main button.first")
        page.wait_for_url("**/welcome")
        page.select_option("#profession", "radiologist")
        page.fill("#institution", "Klinik")
        page.check("input[value=no]")
        page.click("main button.first")
        page.wait_for_selector("#upload")
        page.set_input_files("#files", [{"name": "x" * 90 + ".png", "mimeType": "image/png", "buffer": picture()}])
        page.wait_for_selector("#viewer[data-drawn]")
        pages = [page.url]
        page.fill("#pseudonym", "L" * 60)
        page.click("form[action$='/save'] button")
        page.wait_for_selector("#notes")
        pages.append(page.url)
        for address in [*pages, base, f"{base}/cases", f"{base}/account", f"{base}/nowhere"]:
            page.goto(address)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), address
            assert page.evaluate("document.documentElement.lang") == "de"
        context.close()


def begin(page, base: str) -> None:
    """Register and answer the questions of first use."""
    page.goto(f"{base}/register")
    page.fill("#full_name", "Ada Lovelace")
    page.fill("#name", "ada@example.org")
    page.fill("#password", "correct horse battery")
    page.click("main button.first")
    page.wait_for_url("**/welcome")
    page.select_option("#profession", "radiologist")
    page.fill("#institution", "General Hospital")
    page.check("input[value=yes]")
    page.click("main button.first")
    page.wait_for_selector("#upload")


def pages_with_all(page, base: str) -> dict[str, str]:
    """Two examinations of one case, a note and two reports; returns each kind of page with its address."""
    begin(page, base)
    files = [{"name": f"{i}.png", "mimeType": "image/png", "buffer": picture(seed=i)} for i in range(3)]
    for day in ("2026-01-12", "2026-03-20"):
        page.goto(base)
        page.set_input_files("#files", files)
        page.wait_for_selector("#viewer[data-drawn]")
        page.fill("#pseudonym", "Study 7")
        page.fill("#examined_on", day)
        page.click("form[action$='/save'] button")
        page.wait_for_selector("#notes")
    page.fill("#text", "To be seen again in March.")
    page.click("text=Add the note")
    page.wait_for_selector("article.note")
    case = page.url.partition("#")[0]
    page.click("text=Write a report")
    page.wait_for_selector("#impression")
    draft = page.url
    page.goto(case)
    page.click("text=Write a report")
    page.fill("#impression", "Lesion as before.")
    page.click("text=Sign and freeze")
    page.wait_for_selector(".digest")
    signed = page.url
    page.goto(base)
    noise = io.BytesIO()
    Image.fromarray(np.full((64, 64), 200, np.uint8)).save(noise, "PNG")
    page.set_input_files("#files", [{"name": "n.png", "mimeType": "image/png", "buffer": noise.getvalue()}])
    page.wait_for_selector(".problem")
    failed = page.url
    page.goto(base)
    page.set_input_files("#files", files)
    page.wait_for_selector("#viewer[data-drawn]")
    return {
        "home": base,
        "history": f"{base}/cases",
        "case": case,
        "follow-up": re.sub(r"\?.*", "/follow-up", case),
        "draft": draft,
        "report": signed,
        "failed": failed,
        "not saved": page.url,
        "account": f"{base}/account",
        "nowhere": f"{base}/nowhere",
    }


def tab_to(page, selector: str) -> None:
    """Press Tab until the focus is on an element, as somebody without a mouse does."""
    for _ in range(80):
        if page.evaluate("wanted => document.activeElement.matches(wanted)", selector):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab never comes to {selector}")


@pytest.mark.slow
def test_a_folder_of_dicom_by_keyboard_alone(browser, sqlite_settings, tmp_path):
    """From sign-in to the signed report, and back what was deleted, without a mouse."""
    study = tmp_path / "study" / "series 4"
    study.mkdir(parents=True)
    boxes = {1: (20, 24, 40, 44), 2: (18, 20, 44, 30)}
    stack = np.stack([np.asarray(Image.open(io.BytesIO(picture(boxes.get(i), seed=i)))) for i in range(5)])
    for i, file in enumerate(series(stack, FrameOfReferenceUID="1.2.826.0.1.3680043.8.498.1")):
        (study / f"IM{i:04d}").write_bytes(data(file))
    with served(sqlite_settings) as base:
        context = browser.new_context(viewport={"width": 1280, "height": 900}, locale="en-US")
        page = context.new_page()
        page.set_default_timeout(60_000)
        begin(page, base)
        press, write = page.keyboard.press, page.keyboard.type
        tab_to(page, "form[action='/sign-out'] button")
        press("Enter")
        page.wait_for_url("**/sign-in")
        page.wait_for_selector("#name:focus")
        write("ada@example.org")
        press("Tab")
        write("correct horse battery")
        press("Enter")
        page.wait_for_selector("#upload")
        # The first verdict: the button, and the folder in the dialog.
        tab_to(page, "#folder")
        with page.expect_file_chooser() as dialog:
            press("Enter")
        dialog.value.set_files(tmp_path / "study")
        page.wait_for_selector("#viewer[data-drawn]")
        assert "Tumor suspected" in page.inner_text("#verdict")
        assert page.inner_text("[data-place]").endswith("of 5")
        tab_to(page, ".viewer-stage")
        press("Home")
        press("ArrowRight")
        assert page.inner_text("[data-place]") == "Slice 2 of 5"
        page.wait_for_selector("#viewer[data-drawn='1']")
        press("c")
        press("Shift+ArrowDown")
        press("z")
        press("Shift+ArrowDown")
        press("s")
        page.wait_for_selector("[data-say]:text-is('Saved')")
        page.wait_for_selector("[data-caption]:has-text('corrected by hand')")
        tab_to(page, "a[href$='/mask.dcm']")
        with page.expect_download() as download:
            press("Enter")
        assert highdicom.seg.segread(download.value.path()).PatientID == PATIENT_ID
        page.reload()
        page.wait_for_selector("#viewer[data-drawn]")
        tab_to(page, "#pseudonym")
        write("Study 7")
        press("Enter")
        page.wait_for_selector("#notes")
        case = page.url.partition("?")[0]
        tab_to(page, "#text")
        write("To be seen again.")
        press("Tab")
        press("Enter")
        page.wait_for_selector("article.note")
        tab_to(page, "form[action$='/reports'] button")
        press("Enter")
        page.wait_for_selector("#impression")
        tab_to(page, "#impression")
        write("Lesion as before.")
        tab_to(page, "button[value=sign]")
        press("Enter")
        page.wait_for_selector(".digest")
        page.goto(case)
        tab_to(page, "details.card > summary")
        press("Enter")
        tab_to(page, "form[action$='/delete']:not([action^='/notes']) button")
        press("Enter")
        page.wait_for_url("**/cases")
        assert "Study 7" not in page.inner_text("main")
        tab_to(page, "form[action='/undo'] button")
        press("Enter")
        page.wait_for_url(case)
        assert "To be seen again." in page.inner_text("#notes")
        context.close()


# Every shift from the first paint on, but for those that follow a key or a click at once.
SHIFTS = """() => new Promise((done) => {
    let sum = 0;
    const moved = [];
    new PerformanceObserver((list) => {
        for (const entry of list.getEntries()) {
            if (entry.hadRecentInput) continue;
            sum += entry.value;
            for (const one of entry.sources) moved.push(one.node?.outerHTML?.slice(0, 80));
        }
    }).observe({ type: "layout-shift", buffered: true });
    setTimeout(() => done([sum, moved]), 400);
})"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_moves_under_the_pointer(browser, sqlite_settings, width):
    with served(sqlite_settings) as base:
        context = browser.new_context(viewport={"width": width, "height": 800}, locale="en-US")
        page = context.new_page()
        page.set_default_timeout(60_000)
        pages = pages_with_all(page, base)
        # The observer sees a shift where there is one.
        page.goto(pages["account"])
        page.evaluate("document.querySelector('main').style.paddingTop = '300px'")
        assert page.evaluate(SHIFTS)[0] > 0.1
        for name in ("home", "history", "case", "follow-up", "draft", "report"):
            page.goto(pages[name])
            if name in ("case", "follow-up"):
                page.wait_for_selector("[data-drawn]")
            shift, moved = page.evaluate(SHIFTS)
            assert shift < 0.1, (name, shift, moved)
        # Nor while slices are turned: captions differ in length, what lies below them stays.
        page.goto(pages["case"])
        page.wait_for_selector("#viewer[data-drawn]")
        page.locator("[data-slider]").evaluate("e => { e.value = 0; e.dispatchEvent(new Event('input')); }")
        page.wait_for_selector("#viewer[data-drawn='0']")
        shift, moved = page.evaluate(SHIFTS)
        assert shift < 0.1, (shift, moved)
        context.close()


@pytest.mark.slow
@pytest.mark.skipif("BTHUB_AXE" not in os.environ, reason="BTHUB_AXE names no axe.min.js")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_accessible(browser, sqlite_settings, width, scheme):
    script = Path(os.environ["BTHUB_AXE"]).read_text(encoding="utf-8")
    found = []

    def look(page, name: str) -> None:
        # As a script of the browser's: the pages' own policy lets none in.
        page.evaluate(script)
        for violation in page.evaluate("axe.run().then(found => found.violations)"):
            if violation["impact"] in ("serious", "critical"):
                found.append((name, violation["id"], [node["html"][:160] for node in violation["nodes"][:2]]))

    with served(sqlite_settings) as base:
        options = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme, "locale": "en-US"}
        context = browser.new_context(**options)
        page = context.new_page()
        page.set_default_timeout(60_000)
        for name in ("register", "sign-in", "recover"):
            page.goto(f"{base}/{name}")
            look(page, name)
        pages = pages_with_all(page, base)
        for name, address in pages.items():
            page.goto(address)
            if page.locator(".viewer").count():
                page.wait_for_selector("[data-drawn]")
            look(page, name)
        page.goto(pages["case"])
        for closed in page.locator("summary").all():
            closed.click()
        page.focus(".viewer-stage")
        page.keyboard.press("c")
        look(page, "correction")
        context.close()
    assert not found, "\n".join(map(str, found))
