"""The result of a whole stack as the page shows it: a slider through the slices, and the areas along them."""

import html
import io
import json
import re

import numpy as np
from PIL import Image

from bthub.imaging.kinds import OTHER_MRI, ROUGH
from bthub.inference.result import DISCLAIMER, NO_TUMOR, TUMOR, UNCERTAIN
from bthub.inference.study import EMPTY, StudyResult, listed
from parts import (
    LAYERS,
    area_in_words,
    data_address,
    download_html,
    layers_html,
    models_html,
    numbers_html,
    pane_html,
    percent,
    png,
    viewer_html,
)
from report import report_html

SHOWN_SIDE = 512  # pixels; slices on the page are reduced to this, the downloads are not

# What lies at the left, the right and the top of a slice, and at the first and the last slice.
SIDES = {
    "axial": ("R", "L", "A", "lowest", "highest"),
    "coronal": ("R", "L", "S", "front", "back"),
    "sagittal": ("A", "P", "S", "left", "right"),
}


def study_html(result: StudyResult, name: str, *, checked: bool = True, unchecked: str = "") -> str:
    """The result of a stack as the page shows it.

    Args:
        result: what was found.
        name: what was uploaded.
        checked: False where the input check was switched off, which is then said.
        unchecked: how.
    """
    state = {TUMOR: "tumor", NO_TUMOR: "clear", UNCERTAIN: "unsure"}[result.verdict]
    count = len(result.results)
    slices = f"{count} slice{'s' * (count > 1)}"
    if result.tumor_slices:
        found = f"Outlined on <strong>{len(result.tumor_slices)} of {slices}</strong>: {listed(result.tumor_slices)}"
    else:
        highest = f"highest probability {percent(result.tumor_probability)} on slice {result.largest + 1}"
        found = f"Nothing outlined on {slices}; {highest}"
    if result.uncertain:
        verdict = "Uncertain"
        if result.label == TUMOR:
            remark = "On every outlined slice the probability is close to the threshold. A specialist should look."
        else:
            remark = (
                "Nothing is outlined in the whole scan, but on at least one slice the model saw a tumor or was unsure."
                " A specialist should look."
            )
    elif result.label == TUMOR:
        verdict = "Tumor suspected"
        remark = "The marked areas are an estimate by a model, not a diagnosis."
    else:
        verdict = "No tumor found"
        remark = (
            "This is not an all-clear: the models know only a few kinds of tumor, analyze each slice by itself, and"
            " miss some tumors."
        )
    notice = ""
    if not checked:
        # Whatever the model says of pictures that may show anything, it isn't good news.
        verdict = f"Unchecked: {verdict[0].lower()}{verdict[1:]}"
        notice, state = f'<p class="notice">{unchecked}</p>', "tumor" if state == "tumor" else "unsure"
    if result.tumor_slices and any(one is not None and one.input_kind == OTHER_MRI for one in result.results):
        remark += f" {ROUGH}"
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in result.notes)
    size = _size(result)
    report = report_html(
        name,
        verdict,
        [re.sub("<[^>]*>", "", found), remark, *([] if checked else [unchecked]), *result.notes],
        size,
        [(f"Slice {index + 1}", _overlay(result, index)) for index in _largest_three(result)],
        result.models,
    )
    return f"""
<section class="result {state}" aria-labelledby="verdict">
  <div class="verdict">
    <p class="name">{html.escape(name)}</p>
    <h2 id="verdict" tabindex="-1">{verdict}</h2>
    {notice}
    <p class="probability">{found}</p>
    <p class="remark">{remark}</p>
  </div>
  {_viewer(result)}
  <div class="findings">
    {numbers_html(size)}
    <p class="downloads">{_downloads(result, name, report)}</p>
    <details><summary>Details</summary>{numbers_html(_details(result))}</details>
  </div>
  {f'<ul class="notes">{notes}</ul>' if notes else ""}
  <p class="disclaimer">{DISCLAIMER}</p>
</section>
"""


def _largest_three(result: StudyResult) -> list[int]:
    """For the report: the slices with the largest areas, or the one that is shown first."""
    ranked = sorted(result.tumor_slices, key=lambda index: -result.areas_px[index])[:3]
    return sorted(ranked) or [result.largest]


def _overlay(result: StudyResult, index: int) -> Image.Image:
    one = result.results[index]
    return Image.fromarray(np.ascontiguousarray(result.volume.slices[index])) if one is None else one.overlay()


def _size(result: StudyResult) -> dict[str, str]:
    """What a person asks first: how large."""
    if not result.tumor_slices:
        return {}
    where, size = f"slice {result.largest + 1}", {}
    if result.volume_ml is not None:
        size["Tumor volume"] = f"{result.volume_ml:,.1f} ml"
    if result.areas_mm2 is None:
        size["Largest area"] = f"{result.areas_px[result.largest]:,} pixels <small>on {where}</small>"
    else:
        size["Largest area"] = f"{area_in_words(result.areas_mm2[result.largest])} <small>on {where}</small>"
    return size


def _details(result: StudyResult) -> dict[str, str]:
    volume, numbers = result.volume, {}
    height, width = volume.slices.shape[1:3]
    slices = f"{len(volume)} slice{'s' * (len(volume) > 1)} of {width} × {height}"
    numbers["Scan"] = f"{slices} <small>{html.escape(result.scan)}</small>"
    if volume.pixel_mm is not None:
        row, column = volume.pixel_mm
        pixel = f"{column:.3g} × {row:.3g} mm"
        between = "distance unknown" if volume.slice_mm is None else f"{volume.slice_mm:.3g} mm from slice to slice"
        numbers["Pixel"] = f"{pixel} <small>{between}</small>"
    done = [one for one in result.results if one is not None]
    seconds = sum(one.milliseconds["total"] for one in done) / 1000
    numbers["Time"] = f"{seconds:.1f} s <small>{1000 * seconds / len(done):.0f} ms a slice</small>"
    numbers["Models"] = models_html(result.models)
    return numbers


def _area(result: StudyResult, index: int) -> str:
    if result.areas_mm2 is None:
        return f"{result.areas_px[index]:,} pixels"
    return f"{result.areas_mm2[index] / 100:,.2f}\u00a0cm²"


def _downloads(result: StudyResult, name: str, report: str) -> str:
    stem = name.partition(".")[0] or "study"
    links = [download_html(f"{stem}_report.html", "text/html", report.encode(), "Report (one page)")]
    overlay = png(_overlay(result, result.largest))
    links.append(download_html(f"{stem}_overlay.png", "image/png", overlay, f"Slice {result.largest + 1} (PNG)"))
    if result.volume.grid is not None:
        links.append(download_html(f"{stem}_mask.nii.gz", "application/gzip", result.mask_nifti(), "Masks (NIfTI)"))
    links.append(download_html(f"{stem}_masks.zip", "application/zip", result.mask_png_zip(), "Masks (PNG)"))
    said = json.dumps(result.to_dict()).encode()
    return "".join([*links, download_html(f"{stem}.json", "application/json", said, "Result (JSON)")])


def _viewer(result: StudyResult) -> str:
    count, shown = len(result.results), result.largest
    figures = "".join(_figure(result, index, index != shown) for index in range(count))
    caption = _caption(result, shown)
    slider = (
        f'<input type="range" class="slice" min="1" max="{count}" value="{shown + 1}" aria-label="Slice"'
        f' aria-valuetext="{caption}">'
        if count > 1
        else '<input type="range" class="slice" min="1" max="1" value="1" aria-label="Slice" hidden>'
    )
    layers = [name for name in LAYERS if name != "experts"] if result.tumor_slices else []
    below = f"""
  <output aria-live="polite">{caption}</output>
  {slider}
  {_chart(result) if count > 1 else ""}
"""
    return viewer_html(figures, layers, below)


def _caption(result: StudyResult, index: int) -> str:
    parts = [f"Slice {index + 1} of {len(result.results)}"]
    one = result.results[index]
    if one is None:
        parts.append(
            "empty" if result.skipped[index] == EMPTY else "not analyzed: it doesn't look like a slice of a brain"
        )
    else:
        parts.append(f"tumor {percent(one.tumor_probability)}{' (uncertain)' if one.uncertain else ''}")
        if result.areas_px[index]:
            parts.append(_area(result, index))
        elif index in result.removed:
            parts.append("isolated area removed")
    return html.escape(" · ".join(parts))


def _figure(result: StudyResult, index: int, hidden: bool) -> str:
    height, width = result.volume.slices.shape[1:3]
    picture = Image.fromarray(np.ascontiguousarray(result.volume.slices[index]))
    picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, format="WEBP", quality=88, method=2)
    left, right, top, *_ = SIDES.get(result.volume.plane or "", ("", "", "", "", ""))
    marks = "".join(
        f'<span class="mark {side}" aria-hidden="true">{letter}</span>'
        for side, letter in (("left", left), ("right", right), ("top", top))
        if letter
    )
    one = result.results[index]
    layers = "" if one is None else layers_html(one.mask, one.contour, one.bbox, (width, height), most=SHOWN_SIDE)
    return pane_html(
        data_address("image/webp", buffer.getvalue()),
        f"Slice {index + 1}",
        layers,
        width / height,
        marks,
        f'{" hidden" * hidden} data-caption="{_caption(result, index)}"',
    )


def _chart(result: StudyResult) -> str:
    """Bars of the tumor's area along the stack."""
    most = max(result.areas_px)
    first, last = SIDES.get(result.volume.plane or "", ("", "", "", "first", "last"))[3:]
    said = (
        f"Tumor area of each slice, the largest {_area(result, result.largest)} on slice {result.largest + 1}"
        if most
        else "No area is outlined on any slice"
    )
    top = f"up to {_area(result, result.largest)}" if most else ""
    bars = "".join(
        f'<rect x="{index}.1" width="0.8" y="{100 - height:.1f}" height="{height:.1f}"'
        f' class="{"here" if index == result.largest else ""}{" none" if not area else ""}"/>'
        for index, area in enumerate(result.areas_px)
        for height in [max(3.0, 100 * area / most if most else 0.0)]
    )
    return f"""
<div class="chart" role="img" aria-label="{said}">
  <p class="scale" aria-hidden="true"><span>Area on each slice</span><span>{top}</span></p>
  <svg class="bars" viewBox="0 0 {len(result.areas_px)} 100" preserveAspectRatio="none">{bars}</svg>
  <p class="scale" aria-hidden="true"><span>1, {first}</span><span>{len(result.areas_px)}, {last}</span></p>
</div>
"""
