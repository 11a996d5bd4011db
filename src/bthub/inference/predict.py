"""`bthub predict`: files, folders and URLs in; one line each on standard output, and pictures in a folder."""

import json
import os
import re
import sys
from itertools import chain, count
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tqdm import tqdm

from bthub.errors import BthubError, NotASliceError
from bthub.imaging.checks import display_name, is_url, without_password
from bthub.imaging.folders import left_out, look_below
from bthub.imaging.image_io import SUFFIXES
from bthub.inference.pipeline import read_picture
from bthub.inference.result import DISCLAIMER, NO_TUMOR, Result
from bthub.progress import progress_bar

RESULTS = "results.jsonl"
_MANY = 8


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
) -> int:
    """Analyze pictures and print a line each, in order. A bad one gets a sentence on stderr, the others go on.

    Args:
        images: files, http(s) URLs, and folders, which are searched with all below them for pictures, linked ones
            once. Masks named as in the LGG set (`*_mask.tif`), overlays of an earlier run, hidden files and other
            kinds of files are left out, counted and named on stderr.
        as_json: print `Result.to_dict()` with the `file` as given, but for a password in a URL, one JSON object a line.
        out: folder for `<stem>_overlay.png`, `<stem>_mask.png` (where there is a mask) and `results.jsonl`, whose
            lines name those two instead of carrying the mask. Nothing in it is overwritten: an equal stem gets a
            number, and lines are added to the end.
        detector, localizer: run folder or Hub id of each stage.
        always_localize, spacing_mm, batch_size, check_input: as for `Pipeline`.

    Returns:
        Exit code: 0; 1 if some pictures could not be read or saved, or were refused by the input check; 2 if none could
        be read or all were refused.

    Raises:
        BthubError: a run that cannot be loaded, an argument out of range, or a folder that cannot be written.
    """
    files, failed = _expand(images)
    answered = 0
    with progress_bar(total=len(files), unit="slice", disable=len(files) < _MANY) as progress:
        # Nothing is loaded for files of which none can be read: the first that can be is found before.
        first = None
        while files and first is None:
            try:
                first = read_picture(files[0])
            except BthubError as error:
                _complain(error)
                failed += 1
                progress.update()
                files = files[1:]
        if first is None:
            return 2
        if out is not None:
            _make_folder(out)
        from transformers.utils import logging

        from bthub.inference.loading import load_pipeline

        logging.disable_progress_bar()  # of loading weights: standard error is for what concerns the pictures
        pipe = load_pipeline(detector, localizer, check_input=check_input)
        results = pipe.stream(
            chain([first], files[1:]),
            on_error="yield",
            always_localize=always_localize,
            batch_size=batch_size,
            spacing_mm=spacing_mm,
            check_input=check_input,
        )
        for file, result in zip(files, results, strict=True):
            progress.update()
            if isinstance(result, BthubError):
                hint = "; --no-input-check analyzes it all the same" if isinstance(result, NotASliceError) else ""
                _complain(BthubError(f"{result}{hint}"))
                failed += 1
                continue
            answered += 1
            line = (
                json.dumps({"file": without_password(file), **result.to_dict()}) if as_json else _describe(file, result)
            )
            try:
                tqdm.write(line, file=sys.stdout)
                sys.stdout.flush()
            except BrokenPipeError:
                # Whoever read this has seen enough, `bthub predict ... | head` for one. Python flushes standard
                # output once more at its exit, which must not fail again.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return 1
            try:
                if out is not None:
                    _save(out, file, result)
            except BthubError as error:  # the disk may be full for a large picture and not for the next
                _complain(error)
                failed += 1
    if not as_json and sys.stdout.isatty():  # what is piped on is for programs
        print(DISCLAIMER, file=sys.stderr)
    return 0 if not failed else 1 if answered else 2


def _complain(error: BthubError | str) -> None:
    tqdm.write(f"bthub: {error}", file=sys.stderr)


def _expand(images: list[str]) -> tuple[list[str], int]:
    """Folders to the pictures in them; also the number of folders that gave none or couldn't be read."""
    files, failed = [], 0
    for image in images:
        if is_url(image) or not os.path.isdir(image):
            files.append(image)
            continue
        found, unreadable = _pictures(image)
        files += found
        failed += unreadable
    return files, failed


def _pictures(folder: str) -> tuple[list[str], int]:
    """The pictures below a folder, and how often it, or a folder below, failed to be read or to have any."""
    tree = look_below(folder)
    for problem in tree.unreadable:
        _complain(f"{display_name(str(problem.filename))}: the folder cannot be read ({problem.strerror})")
    found: list[str] = []
    masks: list[str] = []
    overlays: list[str] = []
    others: list[str] = []
    for path in tree.files:
        name = Path(path)
        kind = name.stem.lower().rpartition("_")[2] if "_" in name.stem else ""
        if name.suffix.lower() not in SUFFIXES:
            others.append(path)
        elif kind in ("mask", "overlay"):
            (masks if kind == "mask" else overlays).append(path)
        else:
            found.append(path)
    others = [path for path in others if os.path.basename(path) != RESULTS]
    note = left_out(
        {
            "masks by name": masks,
            "overlays by name": overlays,
            "hidden": tree.hidden,
            "links to what is found anyway": tree.repeated,
            "files of other kinds": others,
        }
    )
    if not found and not tree.unreadable:
        kinds = ", ".join(sorted(SUFFIXES))
        _complain(
            f"{display_name(folder)}: no pictures in this folder, expected {kinds}"
            + (f"; it has {note}" if note else "")
        )
    elif note:
        _complain(f"{display_name(folder)}: left out {note}")
    # Slice 2 before slice 10.
    in_order = sorted(found, key=lambda path: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", path)])
    return in_order, len(tree.unreadable) + (not found and not tree.unreadable)


def _describe(file: str, result: Result) -> str:
    parts = [
        display_name(file),
        "no tumor" if result.label == NO_TUMOR else "tumor",
        f"p={_probability(result.tumor_probability)} (threshold {result.threshold:.3g})",
    ]
    if result.uncertain and result.review_band is not None:
        low, high = result.review_band
        parts.append(f"uncertain from {low:.3g} to {high:.3g}, a person should look")
    if result.bbox is not None:
        size = f"area {result.area_px:,} px"
        if result.area_mm2 is not None:
            size += f" = {result.area_mm2:,.1f} mm\u00b2"
        if result.brain_share is not None:
            size += f" ({result.brain_share:.1%} of the head)"
        x0, y0, x1, y1 = result.bbox
        parts += [size, f"box {x0},{y0}-{x1},{y1}"]
    elif result.mask is not None:
        parts.append("no area outlined")
    return "  ".join(parts)


def _probability(value: float) -> str:
    """Three digits; no model can promise 0 or 1."""
    return "<0.001" if value < 0.0005 else ">0.999" if value >= 0.9995 else f"{value:.3f}"


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BthubError(f"{out}: the output folder cannot be made ({error.strerror})") from error


def _save(out: Path, file: str, result: Result) -> None:
    path = unquote(urlsplit(file).path) if is_url(file) else file
    # File systems count bytes, and a CJK character has three.
    stem = re.sub(r"[^\w.-]", "_", Path(path).stem).encode()[:100].decode(errors="ignore") or "image"
    line = {"file": without_password(file), **result.to_dict(), "overlay": None, "mask": None}
    del line["mask_png_base64"]
    try:
        for number in count(1):
            name = stem if number == 1 else f"{stem}-{number}"
            overlay, mask = out / f"{name}_overlay.png", out / f"{name}_mask.png"
            if not overlay.exists() and not mask.exists():
                break
        line["overlay"] = overlay.name
        result.overlay().save(overlay)
        if result.mask is not None:
            mask.write_bytes(result.mask_png())
            line["mask"] = mask.name
        with open(out / RESULTS, "a", encoding="utf-8") as results:
            results.write(json.dumps(line) + "\n")
    except OSError as error:
        raise BthubError(f"{display_name(file)}: the results can't be written to {out} ({error.strerror})") from error
