"""The demo: one page around `bthub.load_pipeline`, and the same as the API endpoint `/analyze`.

Layout and wording only. The page builds its result as HTML with the pictures inside it, so nothing of a result is
written to disk; the API's overlay is, because the client downloads it as a file.

    python space/app.py                          http://127.0.0.1:7860
    PORT=8000 python space/app.py
    BTHUB_HOST=0.0.0.0 python space/app.py       for all who reach this machine, without signing in
    BTHUB_DETECTOR=runs/a BTHUB_LOCALIZER=runs/b python space/app.py
"""

import base64
import html
import inspect
import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bthub.data.network import app_host, app_port, check_network, spare_loopback
from bthub.errors import report_errors

# ruff: noqa: E402
# Before Gradio is imported, which makes its clients then and there, with whatever proxies and certificates are set.
spare_loopback()
if problem := report_errors(check_network):
    sys.exit(problem)


@contextmanager
def without_type_stubs() -> Iterator[None]:
    """While it is imported, Gradio writes type stubs for editors into its own folder, from each component's source.

    That takes a third of the time until the page answers. Components whose file isn't found are passed over.
    """
    getfile = inspect.getfile

    def no_file(thing: object) -> str:
        if isinstance(thing, type) and thing.__module__.startswith("gradio."):
            raise OSError
        return getfile(thing)

    inspect.getfile = no_file
    try:
        yield
    finally:
        inspect.getfile = getfile


with without_type_stubs():
    import gradio as gr
import numpy as np
from gradio_client import handle_file
from PIL import Image
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from bthub import BthubError, NotASliceError, Pipeline, Result, load_pipeline
from bthub.imaging.intake import MAX_STUDY_BYTES, Study, is_study, open_study
from bthub.imaging.kinds import OTHER_MRI, ROUGH, TITLES
from bthub.imaging.volume import PLANES
from bthub.inference.result import DISCLAIMER, NO_TUMOR, TUMOR, UNCERTAIN
from bthub.inference.study import analyze_study
from bthub.project import DATASET, DEFAULTS, hub_id
from parts import (
    LAYERS,
    area_in_words,
    data_address,
    download_html,
    in_words,
    layers_html,
    models_html,
    numbers_html,
    overlap,
    pane_html,
    percent,
    png,
    viewer_html,
)
from report import report_html
from stack import study_html

try:
    import spaces  # comes with ZeroGPU hardware, and with nothing else
except ModuleNotFoundError:
    pass
else:

    @spaces.GPU
    def on_gpu() -> None:
        """Nothing: such hardware starts no app without a function for its GPU, and the networks here need none."""


HERE = Path(__file__).parent
EXAMPLES = {
    "Large tumor": "TCGA_DU_5871_19941206_22.png",
    "Medium tumor": "TCGA_FG_6691_20020405_25.png",
    "Small tumor": "TCGA_CS_4942_19970222_10.png",
    "Faint tumor": "TCGA_HT_A61B_19991127_31.png",
    "No tumor, low slice": "TCGA_HT_7475_19970918_14.png",
    "No tumor, high slice": "TCGA_DU_8162_19961029_22.png",
    "Large, FLAIR alone": "gray/TCGA_DU_5871_19941206_22_flair.png",
    "Large, after contrast": "gray/TCGA_DU_5871_19941206_22_post_contrast.png",
    "Large, before contrast": "gray/TCGA_DU_5871_19941206_22_pre_contrast.png",
}
FIRST = "Large tumor"

# The kinds of pictures that can be brought, the sources of `sources.json` that show how good the models are at them,
# and the examples. An example of FLAIR alone may be in color too: where all three channels are FLAIR.
KINDS = (
    (
        "Three sequences in color",
        ("lgg, three sequences",),
        ("Large tumor", "Medium tumor", "Small tumor", "No tumor, low slice", "No tumor, high slice"),
    ),
    ("FLAIR in gray", ("lgg, FLAIR",), ("Large, FLAIR alone", "Faint tumor")),
    ("Contrast-enhanced, in gray", ("lgg, post-contrast", "t1"), ("Large, after contrast",)),
    ("Any other brain slice, in gray", ("lgg, pre-contrast", "4class", "253"), ("Large, before contrast",)),
)

# Seconds: how often uploads and overlays are deleted, and from which age.
DELETE_EVERY, DELETE_AGE = 60, 600

# One picture at a time: the networks already spread it over the cores, and a large picture takes much memory.
CONCURRENCY = {"concurrency_limit": 1, "concurrency_id": "models"}
MAX_SLICES = 300
MAX_FILES = 1000
# A class of students at once, and another. Who waits is told the place and the expected wait, by Gradio; a file that
# waits for its turn isn't deleted before it.
WAITING_PLACES = 200
FIRST_GUESS_SECONDS = 1.0

HUB = "https://huggingface.co"
IN_BROWSER = f"{HUB}/spaces/{hub_id('brain-tumor-in-your-browser')}"
CODE = f"{HUB}/spaces/{hub_id('brain-tumor-mri')}"
LINKS = {
    "Detector": f"{HUB}/{hub_id(DEFAULTS['detector'])}",
    "Localizer": f"{HUB}/{hub_id(DEFAULTS['localizer'])}",
    "Data": f"{HUB}/datasets/{hub_id(DATASET)}",
    "Code": f"{CODE}/tree/main",
    "Dashboard": f"{HUB}/spaces/{hub_id('brain-tumor-dashboard')}",
    "In your browser, no upload": IN_BROWSER,
}
SAMPLE = f"{CODE}/resolve/main/examples/{EXAMPLES[FIRST]}"

SHOWN_SIDE = 1024  # pixels; pictures on the page are reduced to this
OVERLAY_SIDE = 2048  # pixels; the overlay to download is reduced to this, the mask is not

EMPTY = """
<section class="empty" aria-label="Result">
  <svg viewBox="0 0 120 120" aria-hidden="true">
  <path d="M60 14c-25 0-40 19-40 45s15 47 40 47 40-21 40-47-15-45-40-45z"/>
  <path d="M60 16v88M44 34c8 6 8 14 0 20s-8 14 0 20M76 34c-8 6-8 14 0 20s8 14 0 20"/></svg>
  <p><strong>No slice yet.</strong><br>Upload one, or a scan, or pick an example: the result appears here.</p>
</section>
"""

ABOUT = f"""
<footer class="about">
  <section><h2>What it is</h2>
  <p>Two neural networks. The first, the detector, gives the probability of a tumor. It was trained on FLAIR and T1
  slices, with and without contrast; their tumors are gliomas, meningiomas and pituitary tumors. If the probability
  reaches the threshold, the second, the localizer, outlines the tumor. It learned from experts' outlines of lower-grade
  gliomas and from boxes around other tumors: its outlines are good in color and on gray FLAIR, and a rough guess on
  other gray pictures. Both are less reliable on other scanners and other tumors.</p></section>
  <section><h2>Your picture or scan</h2>
  <p>It is analyzed on the computer that serves this page, deleted within {(DELETE_EVERY + DELETE_AGE) // 60} minutes
  (or, if many are waiting, after it has been analyzed) and used for nothing else. Names and other identifying
  tags inside DICOM and NIfTI files are not kept. The name of the file is shown: choose one that identifies nobody.
  There is no tracking and no history.
  <a href="{IN_BROWSER}">Another page</a>
  analyzes a picture in your own browser, without an upload.</p></section>
  <section><h2>The examples</h2>
  <p>Slices that the models were not trained on, from The Cancer Imaging Archive, collection TCGA-LGG, prepared by
  Buda, Saha and Mazurowski (2019), <a href="https://creativecommons.org/licenses/by-nc-sa/4.0/">CC BY-NC-SA 4.0</a>.
  In color, red is the sequence before contrast, green is FLAIR and blue is after contrast. Tumors like these are bright
  on FLAIR only, so they look green. The gray examples show a single sequence of the same slice.
  Code: Apache-2.0.</p></section>
</footer>
"""

ANYWAY = "Analyze anyway"
REFUSAL = f"If you are sure that it is a slice of a brain MRI, press “{ANYWAY}”."
UNCHECKED = "This doesn't look like a slice of a brain MRI. If it isn't one, the result means nothing."
GONE = "The upload was deleted in the meantime: upload it again."
AS_SCANNED = "As scanned"
FAILURE = (
    "Something went wrong on the server. Try again, or try another picture. If it keeps failing, tell whoever runs this"
    " server: its log has the reason."
)

SCRIPT = (HERE / "viewer.js").read_text(encoding="utf-8")

# Tells screen readers the new verdict, and brings the result into view where its picture isn't.
SHOW_RESULT = """() => {
  const verdict = document.getElementById("verdict");
  if (!verdict) return;
  verdict.focus({preventScroll: true});
  const card = verdict.closest(".result"), seen = card.querySelector(".window") ?? verdict;
  const top = card.getBoundingClientRect().top, bottom = seen.getBoundingClientRect().bottom;
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (top < 0 || bottom > innerHeight) {
    scrollTo({top: scrollY + top - 12, behavior: calm ? "auto" : "smooth"});
  }
}"""


def described(file: gr.File, text: str) -> gr.File:
    """A file field as the page about the API shows it: with words of its own, and a slice as its sample, not a PDF.

    Not a class of its own: Gradio would write a stub of it beside this file.
    """
    several = file.file_count == "multiple"
    sample, info = handle_file(SAMPLE), {**file.api_info(), "additional_description": text}
    vars(file).update(
        api_info=lambda: info,
        example_payload=lambda: [sample] if several else sample,
        example_value=lambda: [SAMPLE] if several else SAMPLE,
    )
    return file


def build(pipe: Pipeline) -> gr.Blocks:
    """The page and its endpoint.

    Args:
        pipe: the loaded models.
    """

    nothing = (None, False, gr.update(visible=False))
    no_choice = (gr.update(visible=False), gr.update(visible=False))

    def show(files: list[str] | str | None, checked: bool = True) -> tuple:
        """What follows an upload: its result, the upload field emptied, and what is kept of it."""
        files = [files] if isinstance(files, str) else list(files or [])
        if not files:
            return EMPTY, None, *nothing, *no_choice
        if len(files) > 1 or is_study(files[0]):
            page, study, refused = scan(files, checked, None, None)
            choice = choices(study)
        else:
            (page, refused), study, choice = answer(files[0], checked), None, no_choice
        kept = files if refused or study is not None else None
        return page, None, kept, not checked, gr.update(visible=refused), *choice

    def anyway(files: list[str] | None) -> tuple:
        """The upload that was refused, analyzed all the same."""
        if not files or not all(os.path.exists(file) for file in files):
            return error_html(GONE), None, *nothing, *no_choice
        return show(files, checked=False)

    def example(name: str) -> tuple:
        return example_html(name), None, *nothing, *no_choice

    def example_html(name: str) -> str:
        file = HERE / "examples" / EXAMPLES[name]
        try:
            return result_html(pipe(str(file)), file.name, figures=pipe.figures, example=name, experts=outlined(file))
        except BthubError as error:
            return error_html(sentence(error, str(file)))

    def first_html() -> str:
        """What the page opens with; other models may refuse the example."""
        page = example_html(FIRST)
        return EMPTY if 'class="result error"' in page else page

    def answer(file: str, checked: bool) -> tuple[str, bool]:
        """The page of one picture, and whether it was refused as no slice of a brain."""
        try:
            result = pipe(file, check_input=checked)
            return result_html(result, called([file]), checked=checked, figures=pipe.figures), False
        except NotASliceError as error:
            return error_html(sentence(error, file), REFUSAL), True
        except BthubError as error:
            return error_html(sentence(error, file)), False

    def scan(files: list[str], checked: bool, series: int | None, plane: str | None) -> tuple[str, Study | None, bool]:
        """The page of one scan of a study, the study where it could be opened, and whether it was refused."""
        study = None
        try:
            study = open_study(given(files))
            result = analyze_study(pipe, study, scan=series, plane=plane, check_input=checked, max_slices=MAX_SLICES)
            return study_html(result, called(files), checked=checked, unchecked=UNCHECKED), study, False
        except NotASliceError as error:
            return error_html(sentence(error, files[0]), REFUSAL, what="scan"), study, True
        except BthubError as error:
            return error_html(sentence(error, files[0]), what="scan"), study, False

    def again(files: list[str] | None, unchecked: bool, series: int | None, plane: str) -> tuple[str, dict]:
        """Another series or plane of the study that is on the page."""
        if not files or not all(os.path.exists(file) for file in files):
            return error_html(GONE, what="scan"), gr.update(visible=False)
        page, _, refused = scan(files, not unchecked, series, None if plane == AS_SCANNED else plane.lower())
        return page, gr.update(visible=refused)

    def analyze(image: str | None) -> tuple[str, dict]:
        """Whether one slice of a brain MRI shows a tumor, and where. Research software, not a medical device.

        Args:
            image: a PNG, TIFF, JPEG, BMP, WebP or GIF file of one slice, up to 64 MB.

        Returns:
            The slice with the tumor marked, and what was found: label, tumor_probability, threshold, area_px,
            bbox ([x0, y0, x1, y1] in pixels, or null), mask_png_base64 (or null), and more.
        """
        if image is None:
            raise gr.Error("No picture came with the request: send one image file.", print_exception=False)
        try:
            result = pipe(image)
        except BthubError as error:
            raise gr.Error(sentence(error, image), print_exception=False) from error
        # A file of its own: Gradio would write equal pictures to one path, over what another client is downloading.
        folder = Path(tempfile.mkdtemp(dir=overlay.GRADIO_CACHE))
        result.overlay().save(folder / "overlay.png")
        return str(folder / "overlay.png"), result.to_dict()

    def analyze_scan(files: list[str] | None, series: float | None, plane: str | None) -> dict:
        """What a whole brain MRI scan shows, slice by slice. Research software, not a medical device.

        Args:
            files: DICOM files of one study, or one NIfTI file, TIFF of several pages, or zip of a study.
            series: which series of the study, from 1; null for the likeliest.
            plane: axial, coronal or sagittal; null for the one that was scanned.

        Returns:
            What was found: label, volume_ml, largest_slice, tumor_slices, areas_px and areas_mm2 along the stack, a
            result for each slice, and mask_nifti_base64, the masks as a .nii.gz in the scan's own grid (or null).
        """
        if not files:
            raise gr.Error("No file came with the request: send the files of one scan.", print_exception=False)
        try:
            study = open_study(given(files))
            number = None if series is None else int(series) - 1
            result = analyze_study(pipe, study, scan=number, plane=plane, max_slices=MAX_SLICES)
            masks = None if result.volume.grid is None else base64.b64encode(result.mask_nifti()).decode("ascii")
        except BthubError as error:
            raise gr.Error(sentence(error, files[0]), print_exception=False) from error
        return {**result.to_dict(), "mask_nifti_base64": masks}

    # Served from where they are: copies would be deleted with the uploads.
    gr.set_static_paths([HERE / "examples"])
    with gr.Blocks(
        title="Brain tumor on an MRI slice",
        analytics_enabled=False,
        fill_width=True,
    ) as demo:
        gr.HTML(header_html(pipe.sources))
        with gr.Row(elem_id="desk"):
            with gr.Column(scale=4, min_width=300, elem_id="input"):
                gr.HTML(
                    f"<h2>Your slice or scan</h2><p>{BRING}</p><p>PNG, TIFF or JPEG; a scan as DICOM"
                    f" files, NIfTI, a TIFF of several pages, or a zip, up to {MAX_STUDY_BYTES >> 20} MB.</p>"
                )
                upload = gr.File(
                    label="Slice or scan", show_label=False, height=124, file_count="multiple", elem_id="upload"
                )
                gr.HTML("<h2>Or an example of each kind</h2><p>Each name says what experts found on that slice.</p>")
                buttons = {}
                with gr.Column(elem_id="examples"):
                    for title, sources, names in KINDS:
                        with gr.Row(elem_classes="wide" if len(names) > 2 else "narrow"):
                            gr.HTML(f"<h3>{title}</h3>{how_well(pipe.sources, sources)}")
                            for name in names:
                                icon = HERE / "examples" / EXAMPLES[name]
                                buttons[name] = gr.Button(name, icon=icon, size="sm", min_width=60)
            with gr.Column(scale=9, min_width=300):
                with gr.Row(elem_id="choice"):
                    series = gr.Dropdown(
                        label="Series", visible=False, interactive=True, scale=3, min_width=280, elem_id="series"
                    )
                    plane = gr.Dropdown(
                        [AS_SCANNED, *(name.capitalize() for name in reversed(PLANES))],
                        label="Plane",
                        visible=False,
                        interactive=True,
                        scale=1,
                        min_width=140,
                        elem_id="plane",
                    )
                gr.HTML('<p id="waiting" role="status"></p>', elem_id="status")
                result = gr.HTML(first_html(), elem_id="result")
                force = gr.Button(ANYWAY, visible=False, elem_id="anyway")
        gr.HTML(ABOUT)

        # What the page keeps of an upload lies with the visitor, not on the server: its address there, and whether it
        # was to be analyzed unchecked. Gradio takes back only addresses of uploads.
        kept = gr.File(visible=False, file_count="multiple", label="kept")
        unchecked = gr.Checkbox(visible=False, label="unchecked")

        page = {
            "outputs": [result, upload, kept, unchecked, force, series, plane],
            "show_progress_on": result,
            "api_visibility": "private",
            **CONCURRENCY,
        }
        events = [upload.upload(show, upload, **page), force.click(anyway, kept, **page)]
        for name, button in buttons.items():
            events.append(button.click(partial(example, name), **page))
        for choice in (series, plane):
            chosen = page | {"outputs": [result, force]}
            events.append(choice.input(again, [kept, unchecked, series, plane], **chosen))
        for event in events:
            event.success(None, js=SHOW_RESULT, api_visibility="private")
            failed = event.failure(lambda: error_html(FAILURE), outputs=result, queue=False, api_visibility="private")
            failed.then(None, js=SHOW_RESULT, api_visibility="private")

        demo.load(None, js=SCRIPT, api_visibility="private")

        # The endpoints have no place on the page: they hang on no trigger.
        overlay = gr.Image(label="overlay", format="png", visible=False)
        found = gr.JSON(label="result", visible=False)
        image = described(
            gr.File(label="image", visible=False), "One slice as PNG, TIFF, JPEG, BMP, WebP or GIF, up to 64 MB."
        )
        files = described(
            gr.File(label="files", file_count="multiple", visible=False),
            "DICOM files of one study, or one NIfTI file, TIFF of several pages, or zip of a study.",
        )
        gr.on(
            [],
            analyze,
            image,
            [overlay, found],
            api_name="analyze",
            **CONCURRENCY,
        )
        gr.on(
            [],
            analyze_scan,
            [
                files,
                gr.Number(label="series", value=None, visible=False),
                gr.Dropdown(list(PLANES), label="plane", value=None, visible=False),
            ],
            gr.JSON(label="result", visible=False),
            api_name="analyze_scan",
            **CONCURRENCY,
        )
    demo.queue(max_size=WAITING_PLACES)
    # Gradio tells no wait while one in the queue waits for what has never run: a first guess for each.
    for function in demo.fns.values():
        if function.concurrency_id == CONCURRENCY["concurrency_id"]:
            demo._queue.process_time_per_fn[function].add(FIRST_GUESS_SECONDS)
    return demo


def launch(demo: gr.Blocks, port: int, host: str = "127.0.0.1") -> None:
    """Start to serve the page; returns at once.

    Args:
        demo: what `build` made.
        port: TCP port.
        host: the address to listen on; by default this machine's own, which no other reaches.

    Raises:
        BthubError: the port is taken.
    """
    system_fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    try:
        demo.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            theme=gr.themes.Default(primary_hue="sky", neutral_hue="slate", **system_fonts),
            css_paths=HERE / "style.css",
            favicon_path=HERE / "favicon.svg",
            i18n=gr.I18n(
                en={
                    "upload_text.drop_file": "Drop a slice or a scan here",
                    "upload_text.click_to_upload": "Choose files",
                }
            ),
            footer_links=["api"],
            max_file_size=MAX_STUDY_BYTES,
            share=False,
            run_history=False,
            enable_monitoring=False,
            mcp_server=False,
            pwa=False,
            ssr_mode=False,
            # Gradio keeps the last outputs of this many sessions in memory, 10000 unless told, ...
            state_session_capacity=8,
            # ... and writes them to disk where a session asks for a link to its page: not here.
            app_kwargs={"routes": [Route("/gradio_api/deep_link", lambda _: PlainTextResponse("Not found", 404))]},
        )
    except OSError as error:
        raise BthubError(f"port {port} is not free: stop what uses it, or choose another with PORT=") from error


def waiting_files(demo: gr.Blocks) -> set[str]:
    """The paths of the files that wait in the queue of an app, or are at work."""
    queue = demo._queue
    jobs = [event for job in list(queue.active_jobs) for event in job or ()]
    for waiting in list(queue.event_queue_per_concurrency_id.values()):
        jobs += list(waiting.queue)
    found: set[str] = set()

    def collect(value: object) -> None:
        if isinstance(value, dict):
            if isinstance(path := value.get("path"), str):
                found.add(os.path.realpath(path))
            value = list(value.values())
        if isinstance(value, list):
            for item in value:
                collect(item)

    for job in jobs:
        collect(list(job.data.data) if job.data is not None else [])
    return found


@contextmanager
def swept(folder: Path, spared: Callable[[], set[str]] = set) -> Iterator[None]:
    """Delete, every DELETE_EVERY seconds, what in a folder is older than DELETE_AGE, for as long as the block runs.

    Args:
        folder: where.
        spared: gives the real paths of files that are still to be read, however old.

    Gradio's own `delete_cache` ends at its first error, until the server is started again.
    """
    over = threading.Event()

    def work() -> None:
        while not over.wait(DELETE_EVERY):
            try:
                sweep(folder, spared())
            except Exception:
                traceback.print_exc()  # the next sweep tries again

    thread = threading.Thread(target=work, name="sweep", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def sweep(folder: Path, spared: Set[str] = frozenset()) -> None:
    """Delete the files in a folder, at any depth, that were written or moved there over DELETE_AGE seconds ago.

    Args:
        folder: where.
        spared: real paths of files that stay.
    """
    for parent, _, names in os.walk(folder):
        for name in names:
            file = Path(parent, name)
            try:
                if os.path.realpath(file) in spared:
                    continue
                if time.time() - file.lstat().st_ctime > DELETE_AGE:
                    file.unlink()
            except FileNotFoundError:
                pass
            except OSError as error:
                # Without the file's name, which may be a patient's.
                print(f"bthub: a file in {parent} could not be deleted: {error.strerror}", file=sys.stderr, flush=True)


def sentence(error: BthubError, file: str) -> str:
    """The error's text with the file's name only: its folder here is nothing to the user."""
    return str(error).replace(f"{Path(file).parent}{os.sep}", "").replace(Path(file).name, called([file]))


def given(files: list[str]) -> str | list[str]:
    """One upload as its path, several as a list."""
    if len(files) > MAX_FILES:
        raise BthubError(
            f"{len(files):,} files are too many: at most {MAX_FILES:,} can be sent at once. Send one series as a zip"
        )
    return files[0] if len(files) == 1 else files


def called(files: list[str]) -> str:
    """What the page calls an upload. Browsers send a quotation mark in a name as %22."""
    return Path(files[0]).name.replace("%22", '"') if len(files) == 1 else f"{len(files)} files"


def choices(study: Study | None) -> tuple[dict, dict]:
    """What can be chosen of a study: one of several series, and the plane where its voxels lie in space."""
    if study is None:
        return gr.update(visible=False), gr.update(visible=False)
    series = [(scan.label, index) for index, scan in enumerate(study.scans)]
    spatial = any(scan.kind in ("DICOM", "NIfTI") and scan.slices != 1 for scan in study.scans)
    return (
        gr.update(choices=series, value=study.default, visible=len(series) > 1),
        gr.update(value=AS_SCANNED, visible=spatial),
    )


def outlined(file: Path) -> np.ndarray:
    """What experts outlined on an example, bool (H, W)."""
    patient_and_slice = re.match(r"TCGA_\w\w_\w{4}_\d{8}_\d+", file.name)
    assert patient_and_slice is not None
    mask = HERE / "examples" / "outlines" / f"{patient_and_slice[0]}.png"
    with Image.open(file) as picture:
        size = picture.size
    return np.asarray(Image.open(mask)) > 0 if mask.is_file() else np.zeros(size[::-1], bool)


def _of_hundred(found: Sequence[float]) -> str:
    """Shares as "84 to 99", of 100 each; one where they round to the same."""
    low, high = round(100 * min(found)), round(100 * max(found))
    return f"{low}" if low == high else f"{low} to {high}"


Sources = Mapping[str, Mapping[str, float]]


def how_well(sources: Sources, names: Sequence[str]) -> str:
    """How good the models are at pictures of these sources; nothing where that wasn't measured."""
    known = [sources[name] for name in names if name in sources]
    if not known:
        return ""
    found, flagged = _of_hundred([one["recall"] for one in known]), [1 - one["specificity"] for one in known]
    alarms = f"raises a false alarm on {_of_hundred(flagged)} of 100 tumor-free ones"
    return f"<p>The detector finds {found} of 100 tumor slices and {alarms}.</p>"


# Which picture to bring, in one sentence; how well each kind does stands beside its examples.
BRING = (
    "Use a color picture that combines three sequences (pre-contrast, FLAIR, post-contrast), a gray FLAIR slice, a gray"
    " contrast-enhanced slice, or any other gray brain MRI slice."
)


def header_html(sources: Sources) -> str:
    """The page's name, what it does, how good it is and where to read on."""
    links = "".join(f'<a href="{address}">{name}</a>' for name, address in LINKS.items())
    figures = ""
    if measured := sources.get(KINDS[0][1][0]):
        flagged = round(100 * (1 - measured["specificity"]))
        figures = (
            f" On {measured['groups']:.0f} patients it never saw, it finds {100 * measured['recall']:.0f} of 100 tumor"
            f" slices and raises a false alarm on {flagged} of 100 tumor-free ones."
        )
        if "uncertain" in measured:
            figures += (
                f" It calls {100 * measured['uncertain']:.0f} of 100 slices “uncertain”, because their probability is"
                " near the threshold. The figures above still count these as tumor or no tumor."
            )
    return f"""
<header>
  <div class="top"><p class="brand"><svg viewBox="0 0 32 32" aria-hidden="true"><path d="M16 3C9 3 5 8.5 5 16s4 13 11
  13 11-5.5 11-13S23 3 16 3z"/><path d="M16 5v22"/><circle cx="11.5" cy="12.5" r="3.5"/></svg>bthub</p>
  <nav aria-label="More">{links}</nav></div>
  <h1>Brain tumor on an MRI slice</h1>
  <p class="lead">Upload a slice of a brain MRI, or a whole scan. The app detects and outlines brain tumors, and
  gives the probability of a tumor and its size.{figures}</p>
  <p class="notice">{DISCLAIMER}</p>
</header>
"""


def error_html(text: str, mend: str = "", what: str = "picture") -> str:
    return f"""
<section class="result error" role="alert" aria-labelledby="verdict">
  <h2 id="verdict" tabindex="-1">This {what} could not be analyzed</h2>
  <p>{html.escape(f"{text}. {mend}" if mend else text)}</p>
</section>
"""


def result_html(
    result: Result,
    name: str,
    *,
    checked: bool = True,
    figures: Mapping[str, Mapping[str, float]] | None = None,
    example: str = "",
    experts: np.ndarray | None = None,
) -> str:
    """The result of one slice as the page shows it.

    Args:
        result: what the pipeline found.
        name: the file's name.
        checked: False where the input check was switched off, which is then said.
        figures: `Pipeline.figures`.
        example: what the page calls it, where it is an example.
        experts: what experts outlined, bool (H, W), all False where they saw nothing; None where that isn't known.
    """
    tumor = result.label == TUMOR
    probability, threshold = percent(result.tumor_probability), percent(result.threshold)
    state = {TUMOR: "tumor", NO_TUMOR: "clear", UNCERTAIN: "unsure"}[result.verdict]
    if result.uncertain:
        verdict = "Uncertain"
        remark = (
            "The result leans toward a tumor" if tumor else "The result leans toward no tumor"
        ) + ". The probability is so close to the threshold that the model is often wrong. A specialist should look."
    elif not tumor:
        verdict = "No tumor found"
        remark = (
            "This is not an all-clear: only one slice was analyzed, the models know only a few kinds of tumor, and they"
            " miss some tumors. A tumor may be on another slice."
        )
    elif result.bbox is None:
        verdict = "Tumor suspected"
        remark = "Nothing was outlined: the suspected tumor is too small or too faint to mark."
    else:
        verdict = "Tumor suspected"
        remark = "The marked area is an estimate by a model, not a diagnosis."
    if result.bbox is not None and result.input_kind == OTHER_MRI:
        remark += f" {ROUGH}"

    unchecked = ""
    if not checked:
        # Whatever the model says of a picture that may show anything, it isn't good news.
        verdict = f"Unchecked: {verdict[0].lower()}{verdict[1:]}"
        unchecked, state = f'<p class="notice">{UNCHECKED}</p>', "tumor" if state == "tumor" else "unsure"

    size, details = {}, {}
    if result.bbox is not None:
        x0, y0, x1, y1 = result.bbox
        area = f"{result.area_px:,} pixels"
        share = result.head_fraction
        if result.area_mm2 is not None:
            size["Size"] = area_in_words(result.area_mm2)
        elif share is not None:
            size["Size"] = f"{in_words(share)} of the head <small>on this slice, skull and skin included</small>"
        else:
            size["Size"] = area
        details["Tumor area"] = area
        if share is not None:
            details["Fraction of the head"] = f"{percent(share)} <small>an estimate</small>"
        details["Box"] = f"{x1 - x0} × {y1 - y0} pixels <small>x {x0} to {x1}, y {y0} to {y1}</small>"
    if experts is not None:
        size["Experts"] = experts_html(result, experts)
    details["Picture"] = f"{result.width:,} × {result.height:,} pixels"
    stages = ", ".join(f"{stage} {ms:.0f}" for stage, ms in result.milliseconds.items() if stage != "total" and ms)
    details["Time"] = f"{result.milliseconds['total']:.0f} ms <small>{stages}</small>"
    details["Models"] = models_html(result.models)

    explained = [f"A tumor is suspected if the probability is {threshold} or more (the threshold)."]
    shown_band = explained.copy()
    if result.referral_band is not None:
        low, high = (percent(end) for end in result.referral_band)
        explained.append(f"From {low} to {high} the result is “uncertain” instead.")
        shown_band.append(f"In the hatched part, from {low} to {high}, the result is “uncertain” instead.")
    kind = kind_html(result.input_kind, figures) if checked else ""
    overlay = result.overlay()
    stem = re.sub(r"[^\w.-]+", "_", Path(name).stem)
    said = [
        f"{probability} probability of a tumor on this slice.",
        *explained,
        remark,
        re.sub("<[^>]*>", "", kind),
    ]
    report = report_html(
        name,
        verdict,
        said if checked else [UNCHECKED, *said],
        size | {term: details[term] for term in ("Tumor area", "Box", "Picture") if term in details},
        [
            ("The slice as it was read", Image.fromarray(result.image)),
            *([("Suspected tumor in red, its box in yellow", overlay)] if result.bbox is not None else []),
        ],
        result.models,
    )
    downloads = download_html(f"{stem}_report.html", "text/html", report.encode(), "Report (one page)")
    if result.bbox is not None:
        downloads += download_html(f"{stem}_overlay.png", "image/png", png(overlay, OVERLAY_SIDE), "Overlay (PNG)")
    if result.mask is not None:
        downloads += download_html(f"{stem}_mask.png", "image/png", result.mask_png(), "Mask (PNG)")
    as_json = json.dumps(result.to_dict()).encode()
    downloads += download_html(f"{stem}.json", "application/json", as_json, "Result (JSON)")

    shown = f"Example: {html.escape(example)} <small>{html.escape(name)}</small>" if example else html.escape(name)
    return f"""
<section class="result {state}" aria-labelledby="verdict">
  <div class="verdict">
    <p class="name">{shown}</p>
    <h2 id="verdict" tabindex="-1">{verdict}</h2>
    {unchecked}
    <p class="probability"><strong>{probability}</strong> probability of a tumor on this slice</p>
    {meter_html(result.tumor_probability, result.threshold, result.referral_band)}
    <p class="explain">{" ".join(shown_band)}</p>
    <p class="remark">{remark}</p>
  </div>
  {picture_html(result, experts)}
  <div class="findings">
    {numbers_html(size) if size else ""}
    {kind}
    <p class="downloads">{downloads}</p>
    <details><summary>Details</summary>{numbers_html(details)}</details>
  </div>
  <p class="disclaimer">{DISCLAIMER}</p>
</section>
"""


def experts_html(result: Result, experts: np.ndarray) -> str:
    """How the model's outline of an example goes with the experts'."""
    if not experts.any():
        return "outlined nothing here" + (", but the model did" if result.bbox is not None else "")
    if result.bbox is None or result.mask is None:
        return f"outlined {int(experts.sum()):,} pixels; the model outlined nothing"
    agreed = overlap(result.mask, experts)
    return f"Dice {agreed:.2f} <small>between the model's outline and theirs (1 = identical, 0 = no overlap)</small>"


def picture_html(result: Result, experts: np.ndarray | None) -> str:
    """The slice with what was found on it."""
    size = (result.width, result.height)
    found = (("fill", "outline", "box") if result.bbox is not None else ()) + (
        ("experts",) if experts is not None and experts.any() else ()
    )
    layers = layers_html(result.mask, result.contour, result.bbox, size, experts, SHOWN_SIDE)
    address = data_address("image/png", png(Image.fromarray(result.image), SHOWN_SIDE))
    said = "The slice with the suspected tumor marked" if result.bbox is not None else "The slice as it was read"
    return viewer_html(
        pane_html(address, said, layers, result.width / result.height), [x for x in LAYERS if x in found]
    )


def kind_html(kind: str | None, figures: Mapping[str, Mapping[str, float]] | None) -> str:
    """What the picture was taken for, and how good the detector is at that kind."""
    if kind is None:
        return ""
    good = ""
    if figures and kind in figures:
        found, flagged = (round(100 * share) for share in (figures[kind]["recall"], 1 - figures[kind]["specificity"]))
        good = (
            f" On test pictures that were read as this kind, the detector finds {found} of 100 with a tumor and raises"
            f" a false alarm on {flagged} of 100 without one. They come from all data sets: the page can’t know which"
            " of them your picture resembles."
        )
    return f'<p class="kind">Read as: {TITLES[kind]}.{good}</p>'


def meter_html(probability: float, threshold: float, band: tuple[float, float] | None = None) -> str:
    """A bar from 0 to 100% filled up to the probability, with a mark at the threshold and the referral band shaded."""
    low, high = band or (threshold, threshold)
    mark = f"threshold {percent(threshold)}"
    return f"""
<div class="meter" role="meter" aria-label="Probability of a tumor" aria-valuemin="0" aria-valuemax="1"
  aria-valuenow="{probability:.4f}" aria-valuetext="{percent(probability)}, {mark}"
  style="--p: {probability:.4f}; --t: {threshold:.4f}; --low: {low:.4f}; --high: {min(1.0, high):.4f}">
  <div class="track"><div class="fill"></div><div class="band"></div></div>
  <div class="mark"></div>
  <div class="scale" aria-hidden="true"><span>0%</span><span class="at">{mark}</span><span>100%</span></div>
</div>
"""


def main() -> int:
    try:
        if "SPACE_ID" in os.environ:
            os.environ.setdefault("BTHUB_HOST", "0.0.0.0")
        port, host = app_port(7860), app_host()
    except BthubError as error:
        print(f"bthub: {error}", file=sys.stderr)
        return 2
    # When the system stops it, it leaves through the `with` below, as on Ctrl-C.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    apps: list[gr.Blocks] = []
    with (
        tempfile.TemporaryDirectory(prefix="bthub-") as folder,
        swept(Path(folder), lambda: set().union(*map(waiting_files, apps))),
    ):
        # All that Gradio writes, half-finished uploads too, goes with this folder, which no other user can read.
        tempfile.tempdir = os.environ["GRADIO_TEMP_DIR"] = os.path.realpath(folder)
        try:
            print("bthub: loading the models", flush=True)
            models = (os.environ.get("BTHUB_DETECTOR"), os.environ.get("BTHUB_LOCALIZER"))
            demo = build(load_pipeline(*models, say=lambda line: print(f"bthub: {line}", flush=True)))
            apps.append(demo)
            launch(demo, port, host)
        except BthubError as error:
            print(f"bthub: {error}", file=sys.stderr)
            return 2
        try:
            print(f"bthub: ready on {demo.local_url} (Ctrl-C stops it)", flush=True)
            demo.block_thread()
        finally:
            demo.close(verbose=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
