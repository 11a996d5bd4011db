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
import io
import json
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bthub.errors import report_errors
from bthub.network import app_host, app_port, check_network, spare_loopback

# ruff: noqa: E402
# Before Gradio is imported, which makes its clients then and there, with whatever proxies and certificates are set.
spare_loopback()
if problem := report_errors(check_network):
    sys.exit(problem)

import gradio as gr
from PIL import Image
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from bthub import BthubError, NotASliceError, Pipeline, Result, load_pipeline
from bthub.imaging.intake import MAX_STUDY_BYTES, Study, is_study, open_study
from bthub.imaging.kinds import TITLES
from bthub.imaging.volume import PLANES
from bthub.inference.result import DISCLAIMER, NO_TUMOR, TUMOR, UNCERTAIN
from bthub.inference.study import analyze_study
from bthub.project import hub_id
from parts import data_address, download_html, percent
from stack import SCRIPT, study_html

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
}

# Seconds: how often uploads and overlays are deleted, and from which age.
DELETE_EVERY, DELETE_AGE = 60, 600

# One picture at a time: the networks already spread it over the cores, and a large picture takes much memory.
CONCURRENCY = {"concurrency_limit": 1, "concurrency_id": "models"}
MAX_SLICES = 300
MAX_FILES = 1000
# A class of students at once, and another. Who waits is told the place and the expected wait, by Gradio; a file that
# waits for its turn isn't deleted before it.
WAITING_PLACES = 200

IN_BROWSER = f"https://huggingface.co/spaces/{hub_id('brain-tumor-in-your-browser')}"

SHOWN_SIDE = 1024  # pixels; pictures on the page are reduced to this, the downloads are not

HEADER = f"""
<header>
  <p class="brand"><svg viewBox="0 0 32 32" aria-hidden="true"><path d="M16 3C9 3 5 8.5 5 16s4 13 11 13 11-5.5
  11-13S23 3 16 3z"/><path d="M16 5v22"/><circle cx="11.5" cy="12.5" r="3.5"/></svg>bthub</p>
  <h1>Brain tumor on an MRI slice</h1>
  <p class="lead">Give it a slice of a brain MRI, or a whole scan. It tells whether it sees a tumor, how probable that
  is, where it lies and how large it is.</p>
  <p class="notice">{DISCLAIMER}</p>
</header>
"""

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
  <p>Two neural networks. The first gives the probability of a tumor; it was trained on FLAIR, T1 with and without
  contrast, and gliomas, meningiomas and pituitary tumors. Where the probability reaches the threshold, the second
  outlines the tumor; it was trained on lower-grade gliomas in color only, so on gray pictures its outline is a rough
  guess. Both are less reliable on other scanners and other tumors.</p></section>
  <section><h2>Your picture or scan</h2>
  <p>Names and other identifying tags in DICOM and NIfTI files are dropped at once.
  It is analyzed on the computer that serves this page, deleted within {(DELETE_EVERY + DELETE_AGE) // 60} minutes,
  or once its turn has come where many wait, and used for nothing else. There is no tracking and no history.
  <a href="{IN_BROWSER}">Another page</a> analyzes a
  picture on your own machine, without an upload.</p></section>
  <section><h2>The examples</h2>
  <p>Slices that the models were not trained on, from The Cancer Imaging Archive, collection TCGA-LGG, prepared by
  Buda, Saha and Mazurowski (2019), <a href="https://creativecommons.org/licenses/by-nc-sa/4.0/">CC BY-NC-SA 4.0</a>.
  Code: Apache-2.0.</p></section>
</footer>
"""

ANYWAY = "Analyze whatever it shows"
REFUSAL = f"To analyze it all the same, tick “{ANYWAY}” and upload it again."
UNCHECKED = "This picture was not checked: if it isn't a slice of a brain MRI, the verdict means nothing."
GONE = "The upload was deleted in the meantime: upload it again."
AS_SCANNED = "As scanned"
FAILURE = "Something failed on the server, whose log says what. Try again, or try another picture."

# Tells screen readers the new verdict; where the result is below the input, brings it into view.
SHOW_RESULT = """() => {
  const verdict = document.getElementById("verdict");
  verdict?.focus({preventScroll: true});
  if (innerWidth < 640) verdict?.closest(".result").scrollIntoView({behavior: "smooth"});
}"""


def build(pipe: Pipeline) -> gr.Blocks:
    """The page and its endpoint.

    Args:
        pipe: the loaded models.
    """

    hidden = gr.update(visible=False)

    def show(files: list[str] | str | None, anyway: bool) -> tuple[str, None, bool, dict | None, dict, dict]:
        # The upload field is emptied, ready for the next picture, and the box unticked: it was ticked for this one.
        files = [files] if isinstance(files, str) else list(files or [])
        if not files:
            return EMPTY, None, False, None, hidden, hidden
        if len(files) > 1 or is_study(files[0]):
            page, study = scan(files, anyway, None, None)
            kept = None if study is None else {"files": files, "anyway": anyway}
            return page, None, False, kept, *choices(study)
        return answer(files[0], anyway), None, False, None, hidden, hidden

    def answer(file: str, anyway: bool) -> str:
        try:
            result = pipe(file, check_input=not anyway)
            return result_html(result, Path(file).name, checked=not anyway, figures=pipe.figures)
        except NotASliceError as error:
            return error_html(sentence(error, file), REFUSAL)
        except BthubError as error:
            return error_html(sentence(error, file))

    def scan(files: list[str], anyway: bool, series: int | None, plane: str | None) -> tuple[str, Study | None]:
        """The page of one scan of a study, and the study where it could be opened."""
        study = None
        try:
            study = open_study(given(files))
            result = analyze_study(pipe, study, scan=series, plane=plane, check_input=not anyway, max_slices=MAX_SLICES)
            return study_html(result, called(files), checked=not anyway, unchecked=UNCHECKED), study
        except NotASliceError as error:
            return error_html(sentence(error, files[0]), REFUSAL, what="scan"), study
        except BthubError as error:
            return error_html(sentence(error, files[0]), what="scan"), study

    def again(kept: dict | None, series: int | None, plane: str) -> str:
        """Another series or plane of the study that is on the page."""
        if kept is None or not all(os.path.exists(file) for file in kept["files"]):
            return error_html(GONE, what="scan")
        return scan(kept["files"], kept["anyway"], series, None if plane == AS_SCANNED else plane.lower())[0]

    def analyze(image: str | None) -> tuple[Image.Image, dict]:
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
        return result.overlay(), result.to_dict()

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
        gr.HTML(HEADER)
        with gr.Row(elem_id="desk"):
            with gr.Column(scale=4, min_width=300, elem_id="input"):
                gr.HTML(
                    "<h2>Your slice or scan</h2><p>A slice as PNG, TIFF or JPEG. A scan as DICOM files, NIfTI, a TIFF"
                    f" of several pages, or a zip of a study, up to {MAX_STUDY_BYTES >> 20} MB.</p>"
                )
                upload = gr.File(
                    label="Slice or scan", show_label=False, height=170, file_count="multiple", elem_id="upload"
                )
                anyway = gr.Checkbox(
                    label=ANYWAY,
                    info="For the next picture only. Others are refused if they don't look like a slice of a brain"
                    " MRI.",
                    visible=pipe.input_check is not None,
                    elem_id="anyway",
                )
                gr.HTML("<h2>Or an example</h2><p>The names come from outlines that experts drew.</p>")
                with gr.Row(elem_id="examples"):
                    buttons = [
                        gr.Button(name, icon=HERE / "examples" / file, size="sm", min_width=90)
                        for name, file in EXAMPLES.items()
                    ]
            with gr.Column(scale=8, min_width=300):
                kept = gr.State(None, time_to_live=DELETE_AGE)
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
                result = gr.HTML(EMPTY, elem_id="result")
        gr.HTML(ABOUT)

        page = {
            "outputs": [result, upload, anyway, kept, series, plane],
            "show_progress_on": result,
            "api_visibility": "private",
            **CONCURRENCY,
        }
        events = [upload.upload(show, [upload, anyway], **page)]
        for button, file in zip(buttons, EXAMPLES.values(), strict=True):
            events.append(button.click(partial(show, str(HERE / "examples" / file)), anyway, **page))
        for choice in (series, plane):
            events.append(choice.input(again, [kept, series, plane], **page | {"outputs": [result]}))
        for event in events:
            event.success(None, js=SHOW_RESULT, api_visibility="private")
            failed = event.failure(lambda: error_html(FAILURE), outputs=result, queue=False, api_visibility="private")
            failed.then(None, js=SHOW_RESULT, api_visibility="private")

        demo.load(None, js=SCRIPT, api_visibility="private")

        # The endpoints have no place on the page: they hang on no trigger.
        overlay = gr.Image(label="overlay", format="png", visible=False)
        found = gr.JSON(label="result", visible=False)
        gr.on([], analyze, gr.File(label="image", visible=False), [overlay, found], api_name="analyze", **CONCURRENCY)
        gr.on(
            [],
            analyze_scan,
            [
                gr.File(label="files", file_count="multiple", visible=False),
                gr.Number(label="series", value=None, visible=False),
                gr.Dropdown(list(PLANES), label="plane", value=None, visible=False),
            ],
            gr.JSON(label="result", visible=False),
            api_name="analyze_scan",
            **CONCURRENCY,
        )
    return demo.queue(max_size=WAITING_PLACES)


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
    return str(error).replace(f"{Path(file).parent}{os.sep}", "")


def given(files: list[str]) -> str | list[str]:
    """One upload as its path, several as a list."""
    if len(files) > MAX_FILES:
        raise BthubError(f"{len(files):,} files are more than are read here, at most {MAX_FILES:,}; zip one series")
    return files[0] if len(files) == 1 else files


def called(files: list[str]) -> str:
    """What the page calls an upload."""
    return Path(files[0]).name if len(files) == 1 else f"{len(files)} files"


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


def error_html(text: str, mend: str = "", what: str = "picture") -> str:
    return f"""
<section class="result error" role="alert" aria-labelledby="verdict">
  <h2 id="verdict" tabindex="-1">This {what} could not be analyzed</h2>
  <p>{html.escape(f"{text}. {mend}" if mend else text)}</p>
</section>
"""


def result_html(
    result: Result, name: str, *, checked: bool = True, figures: Mapping[str, Mapping[str, float]] | None = None
) -> str:
    """The result of one slice as the page shows it.

    Args:
        result: what the pipeline found.
        name: the file's name.
        checked: False where the input check was switched off, which is then said.
        figures: `Pipeline.figures`.
    """
    tumor = result.label == TUMOR
    probability, threshold = percent(result.tumor_probability), percent(result.threshold)
    state = {TUMOR: "tumor", NO_TUMOR: "clear", UNCERTAIN: "unsure"}[result.verdict]
    if result.uncertain:
        verdict = "Uncertain"
        remark = (
            "A tumor is more likely than not." if tumor else "No tumor is more likely."
        ) + " A person should look: this close to the threshold the model errs too often."
    elif not tumor:
        verdict = "No tumor found"
        remark = (
            "This is not an all-clear: it is one slice, the models know a few kinds of tumor, and they miss some."
            " A tumor may be on another slice."
        )
    elif result.bbox is None:
        verdict = "Tumor suspected"
        remark = "The outline stayed empty: what was seen is too small or too faint to mark."
    else:
        verdict = "Tumor suspected"
        remark = "The marked area is an estimate by a model, not a diagnosis."

    unchecked = ""
    if not checked:
        # Whatever the model says of a picture that may show anything, it isn't good news.
        unchecked, state = f'<p class="notice">{UNCHECKED}</p>', "tumor" if state == "tumor" else "unsure"

    views, numbers = {}, {}
    if result.bbox is not None:
        x0, y0, x1, y1 = result.bbox
        views["Overlay"] = (result.overlay(), "The slice with the suspected tumor tinted red, its box yellow")
        numbers["Tumor area"] = f"{result.area_px:,} pixels"
        if result.brain_share is not None:
            numbers["Share of the head"] = (
                f"{percent(result.brain_share)} <small>skull and skin included, an estimate</small>"
            )
        numbers["Box"] = f"{x1 - x0} × {y1 - y0} pixels <small>x {x0} to {x1}, y {y0} to {y1}</small>"
    views["Scan"] = (Image.fromarray(result.image), "The slice as it was read")
    if result.mask is not None:
        views["Mask"] = (Image.fromarray(result.mask), "The suspected tumor in white on black")
    numbers["Picture"] = f"{result.width:,} × {result.height:,} pixels"
    stages = ", ".join(f"{stage} {ms:.0f}" for stage, ms in result.milliseconds.items() if stage != "total" and ms)
    numbers["Time"] = f"{result.milliseconds['total']:.0f} ms <small>{stages}</small>"
    numbers["Models"] = "".join(
        f"<div>{html.escape(model['id'])} <small>{html.escape(model['revision'])}</small></div>"
        for model in result.models.values()
    )

    explained = f"From {threshold} up, the verdict is “tumor suspected”."
    if result.review_band is not None:
        low, high = (percent(end) for end in result.review_band)
        explained += f" Between {low} and {high}, the shaded part, it is “uncertain”."
    stem = Path(name).stem
    as_json = json.dumps(result.to_dict()).encode()
    downloads = download_html(f"{stem}.json", "application/json", as_json, "Result (JSON)")
    if result.mask is not None:
        downloads = download_html(f"{stem}_mask.png", "image/png", result.mask_png(), "Mask (PNG)") + downloads

    return f"""
<section class="result {state}" aria-labelledby="verdict">
  <div class="verdict">
    <p class="name">{html.escape(name)}</p>
    <h2 id="verdict" tabindex="-1">{verdict}</h2>
    {unchecked}
    <p class="probability"><strong>{probability}</strong> probability of a tumor on this slice</p>
    {meter_html(result.tumor_probability, result.threshold, result.review_band)}
    <p class="explain">{explained}</p>
    <p class="remark">{remark}</p>
    {kind_html(result.input_kind, figures)}
  </div>
  <div class="findings">
    {views_html(views)}
    <div class="numbers">
      <dl>{"".join(f"<div><dt>{term}</dt><dd>{value}</dd></div>" for term, value in numbers.items())}</dl>
      <p class="downloads">{downloads}</p>
    </div>
  </div>
  <p class="disclaimer">{DISCLAIMER}</p>
</section>
"""


def kind_html(kind: str | None, figures: Mapping[str, Mapping[str, float]] | None) -> str:
    """What the picture was taken for, and how good the detector is at that kind."""
    if kind is None:
        return ""
    good = ""
    if figures and kind in figures:
        found, flagged = (round(100 * share) for share in (figures[kind]["recall"], 1 - figures[kind]["specificity"]))
        good = (
            f" On pictures of this kind that it never saw, it finds {found} of 100 with a tumor and raises a false"
            f" alarm on {flagged} of 100 without."
        )
    return f'<p class="kind">Taken for: {TITLES[kind]}.{good}</p>'


def meter_html(probability: float, threshold: float, band: tuple[float, float] | None = None) -> str:
    """A bar from 0 to 100 % filled up to the probability, with a mark at the threshold and the review band shaded."""
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


def views_html(views: dict[str, tuple[Image.Image, str]]) -> str:
    """Pictures of which one is shown, the first until another is chosen.

    Args:
        views: name -> picture and its description for those who cannot see it.
    """
    chosen = "".join(
        f'<input type="radio" name="view" id="view-{name.lower()}"{" checked" * (i == 0)}>'
        f'<label for="view-{name.lower()}">{name}</label>'
        for i, name in enumerate(views)
    )
    pictures = "".join(
        f'<img class="{name.lower()}" src="{png(picture)}" alt="{text}">' for name, (picture, text) in views.items()
    )
    return f'<div class="views"><div class="chooser" role="radiogroup" aria-label="View">{chosen}</div>{pictures}</div>'


def png(picture: Image.Image) -> str:
    """The picture, reduced to SHOWN_SIDE, as a data address."""
    picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return data_address("image/png", buffer.getvalue())


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
