"""`bthub predict`: files, folders, studies and URLs in; one line each on standard output, and pictures in a folder."""

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, groupby
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tqdm import tqdm

from bthub.data.progress import progress_bar, say
from bthub.errors import BthubError, NotASliceError
from bthub.imaging.checks import display_name, is_url, without_password
from bthub.imaging.folders import left_out, look_below
from bthub.imaging.image_io import SUFFIXES
from bthub.imaging.intake import Study, holds_dicom, is_study, natural, open_study
from bthub.inference.pipeline import Pipeline, ReadPicture, read_picture
from bthub.inference.result import DISCLAIMER, NO_TUMOR, Result
from bthub.inference.study import StudyResult, analyze_study, listed
from bthub.runs.folder import make_folder

RESULTS = "results.jsonl"
_MANY = 8
_VOLUMES = (".nii", ".nii.gz", ".zip")


@dataclass
class _Input:
    """A picture, or a study of many slices; `read` where it was read before its turn."""

    file: str
    is_study: bool = False
    read: ReadPicture | Study | None = field(default=None, repr=False)

    def open(self) -> None:
        self.read = self.study() if self.is_study else read_picture(self.file)

    def study(self) -> Study:
        # Pictures, volumes and zips in a folder of DICOM files are inputs of their own.
        return open_study(self.file, skip=_is_named)


def run(
    images: list[str],
    *,
    as_json: bool = False,
    out: Path | None = None,
    detector: str | None = None,
    localizer: str | None = None,
    always_localize: bool = False,
    spacing_mm: tuple[float, float] | None = None,
    batch_size: int = 8,
    check_input: bool = True,
    series: int | None = None,
    plane: str | None = None,
    clean: bool = True,
    backend: str | None = None,
) -> int:
    """Analyze pictures and studies and print a line each, in order. A bad one gets a sentence on stderr, others go on.

    Args:
        images: files, http(s) URLs, and folders, which are searched with all below them for pictures, volumes and
            zips, linked ones once. A folder with DICOM files is one study. Masks named as in the LGG set
            (`*_mask.tif`), overlays of an earlier run, hidden files and other kinds of files are left out, counted and
            named on stderr.
        as_json: print `to_dict()` of `Result` or `StudyResult` with the `file` as given, but for a password in a URL,
            one JSON object a line.
        out: folder for `<stem>_overlay.png`, `<stem>_mask.png` (where there is a mask) and `results.jsonl`, whose
            lines name those two instead of carrying the mask. Nothing in it is overwritten: an equal stem gets a
            number, and lines are added to the end. Of a study: the overlay of its largest slice, `<stem>_slices/` with
            a mask for each slice and an overlay where something is outlined, and `<stem>_mask.nii.gz` in the scan's
            own grid where it has one.
        detector, localizer: run folder or Hub id of each stage.
        always_localize, spacing_mm, batch_size, check_input: as for `Pipeline`.
        series: which series of a study, from 1; by default the one most like FLAIR, or of most slices.
        plane, clean: as for `bthub.inference.study.analyze_study`. Plain pictures have neither series nor planes: a
            line on stderr says that they are analyzed without.
        backend: as for `load_pipeline`.

    Returns:
        Exit code: 0; 1 if some pictures could not be read or saved, or were refused by the input check; 2 if none could
        be read or all were refused.

    Raises:
        BthubError: a run that cannot be loaded, an argument out of range, or a folder that cannot be written.
    """
    inputs, failed = _expand(images)
    answered = 0
    quiet = not sys.stderr.isatty() if any(one.is_study for one in inputs) else len(inputs) < _MANY
    with progress_bar(total=len(inputs), unit="slice", disable=quiet) as progress:
        # Nothing is loaded for files of which none can be read: the first that can be is found before.
        while inputs and inputs[0].read is None:
            try:
                inputs[0].open()
            except BthubError as error:
                say(error)
                failed += 1
                progress.update()
                inputs = inputs[1:]
        if not inputs:
            return 2
        if out is not None:
            make_folder(out)
        from bthub.inference.loading import load_pipeline

        pipe = load_pipeline(detector, localizer, check_input=check_input, backend=backend, say=say)
        options = {
            "always_localize": always_localize,
            "batch_size": batch_size,
            "spacing_mm": spacing_mm,
            "check_input": check_input,
        }
        plain = sum(not one.is_study for one in inputs)
        if plain and (series is not None or plane is not None):
            pictures = f"{plain} plain picture{'s' * (plain > 1)}"
            say(f"--series and --plane are for scans: {pictures} analyzed without them")
        chosen = {"scan": None if series is None else series - 1, "plane": plane, "clean": clean}
        for one, result in _answers(pipe, inputs, options, chosen, progress):
            if isinstance(result, BthubError):
                hint = "; --no-input-check analyzes it all the same" if isinstance(result, NotASliceError) else ""
                say(BthubError(f"{result}{hint}"))
                failed += 1
                one.read = None  # a study's files would stay in memory
                continue
            answered += 1
            if isinstance(result, StudyResult):
                for note in _notes(one, result):
                    say(f"{display_name(one.file)}: {note}")
                said = "" if as_json else _describe_study(one.file, result)
            else:
                said = "" if as_json else _describe(one.file, result)
            line = json.dumps({"file": without_password(one.file), **result.to_dict()}) if as_json else said
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()  # whoever reads this gets each line when it is there
            try:
                if out is not None and isinstance(result, StudyResult):
                    _save_study(out, one.file, result)
                elif out is not None and isinstance(result, Result):
                    _save(out, one.file, result)
            except BthubError as error:  # the disk may be full for a large picture and not for the next
                say(error)
                failed += 1
            one.read = None
    if not as_json and sys.stdout.isatty():  # what is piped on is for programs
        print(DISCLAIMER, file=sys.stderr)
    return 0 if not failed else 1 if answered else 2


def _answers(
    pipe: Pipeline, inputs: Sequence[_Input], options: dict[str, Any], chosen: dict[str, Any], progress: Any
) -> Iterator[tuple[_Input, Result | StudyResult | BthubError]]:
    """Each input with its answer; pictures that follow each other go through in batches."""
    for are_studies, members in groupby(inputs, key=lambda one: one.is_study):
        group = list(members)
        if not are_studies:
            pictures = (one.read if isinstance(one.read, ReadPicture) else one.file for one in group)
            for one, answer in zip(group, pipe.stream(pictures, on_error="yield", **options), strict=True):
                progress.update()
                yield one, answer
            continue
        for one in group:
            told = _Told(progress)
            found: StudyResult | BthubError
            try:
                study = one.read if isinstance(one.read, Study) else one.study()
                one.read = study
                found = analyze_study(pipe, study, progress=told, **options, **chosen)
            except BthubError as error:
                found = error
            if not told.slices:
                progress.update()
            yield one, found


class _Told:
    """Moves a bar that counted a study as one on by its slices."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self.slices = 0

    def __call__(self, done: int, slices: int) -> None:
        if not self.slices:
            self.slices = slices
            self._bar.total += slices - 1
        self._bar.update()


def _expand(images: list[str]) -> tuple[list[_Input], int]:
    """Folders to the pictures and studies in them; also the number of folders that gave none or couldn't be read."""
    inputs, failed = [], 0
    for image in images:
        if not image:  # as a path it would be the current folder
            say("a picture has no name, perhaps of a variable that isn't set: give a file, a folder or a URL")
            failed += 1
        elif is_url(image):
            inputs.append(_Input(image))
        elif not os.path.isdir(image):
            inputs.append(_Input(image, is_study(image)))
        else:
            found, unreadable = _inside(image)
            inputs += found
            failed += unreadable
    return inputs, failed


def _inside(folder: str) -> tuple[list[_Input], int]:
    """What is below a folder, and how often it, or a folder below, failed to be read or to have any."""
    tree = look_below(folder, _is_named)
    for problem in tree.unreadable:
        say(f"{display_name(str(problem.filename))}: the folder cannot be read ({problem.strerror})")
    found: list[str] = []
    masks: list[str] = []
    overlays: list[str] = []
    others: list[str] = []
    for path in tree.files:
        name = Path(path)
        stem = re.sub(r"\.nii\.gz$", "", name.name, flags=re.I) if path.lower().endswith(_VOLUMES) else name.stem
        kind = stem.lower().rpartition("_")[2] if "_" in stem else ""
        if not _is_named(path):
            others.append(path)
        elif kind in ("mask", "overlay"):
            (masks if kind == "mask" else overlays).append(path)
        else:
            found.append(path)
    others = [path for path in others if os.path.basename(path) != RESULTS]
    series = [_Input(folder, True)] if holds_dicom(others) else []
    if series:
        others = tree.hidden = tree.repeated = []  # the study itself says what it leaves out
    note = left_out(
        {
            "files named as masks": masks,
            "files named as overlays": overlays,
            "hidden": tree.hidden,
            "links to files already included": tree.repeated,
            "files of other kinds": others,
        }
    )
    nothing = not found and not series and not tree.unreadable
    if nothing:
        kinds = ", ".join([*sorted(SUFFIXES), *_VOLUMES, "DICOM"])
        say(
            f"{display_name(folder)}: no pictures in this folder, expected {kinds}"
            + (f"; it has {note}" if note else "")
        )
    elif note:
        say(f"{display_name(folder)}: left out {note}")
    pictures = [_Input(path, path.lower().endswith(_VOLUMES) or is_study(path)) for path in sorted(found, key=natural)]
    return series + pictures, len(tree.unreadable) + nothing


def _is_named(path: str) -> bool:
    """Whether a file's name says that it is a picture or a volume."""
    return Path(path).suffix.lower() in SUFFIXES or path.lower().endswith(_VOLUMES)


def _describe(file: str, result: Result) -> str:
    parts = [
        display_name(file),
        "no tumor" if result.label == NO_TUMOR else "tumor",
        f"p={_probability(result.tumor_probability)} (threshold {result.threshold:.3g})",
    ]
    if result.uncertain and result.referral_band is not None:
        low, high = result.referral_band
        parts.append(f"uncertain from {low:.3g} to {high:.3g}, a person should look")
    if result.bbox is not None:
        size = f"area {result.area_px:,} px"
        if result.area_mm2 is not None:
            size += f" = {result.area_mm2:,.1f} mm\u00b2"
        if result.head_fraction is not None:
            size += f" ({result.head_fraction:.1%} of the head)"
        x0, y0, x1, y1 = result.bbox
        parts += [size, f"box {x0},{y0}-{x1},{y1}"]
    elif result.mask is not None:
        parts.append("no area outlined" + ("" if result.label == NO_TUMOR else ": it is too small or too faint"))
    return "  ".join(parts)


def _describe_study(file: str, result: StudyResult) -> str:
    parts = [display_name(file), "no tumor" if result.label == NO_TUMOR else "tumor"]
    if result.uncertain:
        parts.append("uncertain, a person should look")
    if result.volume_ml is not None and result.tumor_slices:
        parts.append(f"volume {result.volume_ml:,.1f} ml")
    slices = f"{len(result.results)} slice{'s' * (len(result.results) > 1)}"
    if result.tumor_slices:
        area = f"{result.areas_px[result.largest]:,} px"
        if result.areas_mm2 is not None:
            area += f" = {result.areas_mm2[result.largest] / 100:,.1f} cm\u00b2"
        parts.append(f"outlined on {len(result.tumor_slices)} of {slices}: {listed(result.tumor_slices)}")
        parts.append(f"largest on slice {result.largest + 1}: {area}")
    else:
        parts.append(f"nothing outlined on {slices}")
        highest = f"highest p={_probability(result.tumor_probability)} on slice {result.largest + 1}"
        parts.append(f"{highest} (threshold {_threshold(result):.3g})")
    return "  ".join(parts)


def _threshold(result: StudyResult) -> float:
    return next(one.threshold for one in result.results if one is not None)


def _notes(one: _Input, result: StudyResult) -> list[str]:
    """What is to be said of a study beside its line: which series it was, and the rest."""
    assert isinstance(one.read, Study)
    labels = [scan.label for scan in one.read.scans]
    if len(labels) == 1:
        return list(result.notes)
    chosen = labels.index(result.scan) + 1
    others = "; ".join(f"--series {number}: {label}" for number, label in enumerate(labels, 1) if number != chosen)
    return [f"analyzed series {chosen} of {len(labels)}: {result.scan}. Others: {others}.", *result.notes]


def _probability(value: float) -> str:
    """Three digits; no model can promise 0 or 1."""
    return "<0.001" if value < 0.0005 else ">0.999" if value >= 0.9995 else f"{value:.3f}"


def _free(out: Path, file: str, endings: Sequence[str]) -> str:
    """A name for what belongs to a file, of which nothing with these endings is in the folder yet."""
    path = unquote(urlsplit(file).path) if is_url(file) else os.path.abspath(file)
    stem = re.sub(r"\.(nii\.gz|\w+)$", "", Path(path).name, flags=re.I)
    # File systems count bytes, and a CJK character has three.
    stem = re.sub(r"[^\w.-]", "_", stem).encode()[:100].decode(errors="ignore") or "image"
    for number in count(1):
        name = stem if number == 1 else f"{stem}-{number}"
        if not any((out / f"{name}{ending}").exists() for ending in endings):
            return name
    raise AssertionError


def _save_study(out: Path, file: str, result: StudyResult) -> None:
    line = {"file": without_password(file), **result.to_dict(), "overlay": None, "mask": None}
    try:
        name = _free(out, file, ("_overlay.png", "_slices", "_mask.nii.gz"))
        folder, nifti = out / f"{name}_slices", out / f"{name}_mask.nii.gz"
        folder.mkdir()
        for mask, content in result.mask_pngs():
            (folder / mask).write_bytes(content)
        for row, one in zip(line["results"], result.results, strict=True):
            if one is None:
                continue
            del row["mask_png_base64"]
            row["mask"], row["overlay"] = f"{folder.name}/slice_{row['slice']:04d}_mask.png", None
            if one.bbox is not None:
                row["overlay"] = f"{folder.name}/slice_{row['slice']:04d}_overlay.png"
                one.overlay().save(out / row["overlay"])
        largest = result.results[result.largest]
        if largest is not None:
            line["overlay"] = f"{name}_overlay.png"
            largest.overlay().save(out / line["overlay"])
        if result.volume.grid is not None:
            line["mask"] = nifti.name
            nifti.write_bytes(result.mask_nifti())
        with (out / RESULTS).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")
    except OSError as error:
        raise BthubError(f"{display_name(file)}: the results can't be written to {out} ({error.strerror})") from error


def _save(out: Path, file: str, result: Result) -> None:
    line = {"file": without_password(file), **result.to_dict(), "overlay": None, "mask": None}
    del line["mask_png_base64"]
    try:
        name = _free(out, file, ("_overlay.png", "_mask.png"))
        overlay, mask = out / f"{name}_overlay.png", out / f"{name}_mask.png"
        line["overlay"] = overlay.name
        result.overlay().save(overlay)
        if result.mask is not None:
            mask.write_bytes(result.mask_png())
            line["mask"] = mask.name
        with open(out / RESULTS, "a", encoding="utf-8") as results:
            results.write(json.dumps(line) + "\n")
    except OSError as error:
        raise BthubError(f"{display_name(file)}: the results can't be written to {out} ({error.strerror})") from error
