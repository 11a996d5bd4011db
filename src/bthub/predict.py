"""`bthub predict`: files, folders and URLs in; one line each on standard output, and pictures in a folder."""

import json
import os
import re
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, count
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
from tqdm import tqdm

from bthub.data.images import SUFFIXES, display_name, is_url, read_image
from bthub.errors import BthubError
from bthub.result import NO_TUMOR, Result

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
) -> int:
    """Analyze pictures and print a line each, in order. A bad one gets a sentence on stderr, the others go on.

    Args:
        images: files, http(s) URLs, and folders, which are searched with all below them for pictures; masks named
            as in the LGG set (`*_mask.tif`) and hidden files are left out.
        as_json: print `Result.to_dict()` with the `file` as given, one JSON object a line.
        out: folder for `<stem>_overlay.png`, `<stem>_mask.png` (where there is a mask) and `results.jsonl`, whose
            lines name those two instead of carrying the mask. Nothing in it is overwritten: an equal stem gets a
            number, and lines are added to the end.
        detector, localizer: run folder or Hub id of each stage.
        always_localize, spacing_mm, batch_size: as for `Pipeline`.

    Returns:
        Exit code: 0; 1 if some pictures could not be read; 2 if none could.

    Raises:
        BthubError: a run that cannot be loaded, an argument out of range, or a folder that cannot be written.
    """
    files, failed = _expand(images)
    taken: deque[tuple[str, float]] = deque()  # names and reading times of what the pipeline has yet to answer

    def readable() -> Iterator[np.ndarray]:
        nonlocal failed
        for file in files:
            start = time.perf_counter()
            try:
                image = read_image(file)
            except BthubError as error:
                _complain(error)
                failed += 1
                progress.update()
                continue
            taken.append((file, (time.perf_counter() - start) * 1000))
            yield image

    with tqdm(total=len(files), unit="slice", disable=len(files) < _MANY) as progress:
        pictures = readable()
        first = next(pictures, None)
        if first is None:  # said before waiting for torch and the models
            return 2
        if out is not None:
            _make_folder(out)
        from transformers.utils import logging

        from bthub.pipeline import load_pipeline

        logging.disable_progress_bar()  # of loading weights: standard error is for what concerns the pictures
        pipe = load_pipeline(detector, localizer)
        results = pipe(
            chain([first], pictures),
            always_localize=always_localize,
            batch_size=batch_size,
            spacing_mm=spacing_mm,
        )
        for result in results:
            file, read_ms = taken.popleft()
            result = _with_read_time(result, read_ms)
            line = json.dumps({"file": file, **result.to_dict()}) if as_json else _describe(file, result)
            try:
                tqdm.write(line, file=sys.stdout)
                sys.stdout.flush()
            except BrokenPipeError:
                # Whoever read this has seen enough, `bthub predict ... | head` for one. Python flushes standard
                # output once more at its exit, which must not fail again.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return 1
            if out is not None:
                _save(out, file, result)
            progress.update()
    return 1 if failed else 0


def _with_read_time(result: Result, read_ms: float) -> Result:
    """The pipeline is given arrays; what it took to make them from files is known here."""
    times = {**result.milliseconds, "read": read_ms}
    del times["total"]
    return replace(result, milliseconds={**times, "total": sum(times.values())})


def _complain(error: BthubError) -> None:
    tqdm.write(f"bthub: {error}", file=sys.stderr)


def _expand(images: list[str]) -> tuple[list[str], int]:
    """Folders to the pictures in them; also the number of folders that gave none."""
    files, failed = [], 0
    for image in images:
        if is_url(image) or not os.path.isdir(image):
            files.append(image)
            continue
        try:
            files += _pictures(image)
        except BthubError as error:
            _complain(error)
            failed += 1
    return files, failed


def _pictures(folder: str) -> list[str]:
    def unreadable(error: OSError) -> None:
        raise BthubError(f"{display_name(error.filename)}: the folder cannot be read ({error.strerror})") from error

    found = [
        os.path.join(parent, name)
        for parent, _, names in os.walk(folder, onerror=unreadable)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".") and not Path(name).stem.endswith("_mask")
    ]
    if not found:
        raise BthubError(f"{display_name(folder)}: no pictures in this folder, expected {', '.join(sorted(SUFFIXES))}")
    # Slice 2 before slice 10.
    return sorted(found, key=lambda path: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", path)])


def _describe(file: str, result: Result) -> str:
    parts = [
        display_name(file),
        "no tumor" if result.label == NO_TUMOR else "tumor",
        f"p={result.tumor_probability:.3f} (threshold {result.threshold:.3g})",
    ]
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


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BthubError(f"{out}: the output folder cannot be made ({error.strerror})") from error


def _save(out: Path, file: str, result: Result) -> None:
    path = unquote(urlsplit(file).path) if is_url(file) else file
    stem = re.sub(r"[^\w.-]", "_", Path(path).stem)[:100] or "image"
    for number in count(1):
        name = stem if number == 1 else f"{stem}-{number}"
        overlay, mask = out / f"{name}_overlay.png", out / f"{name}_mask.png"
        if not overlay.exists() and not mask.exists():
            break
    line = {"file": file, **result.to_dict(), "overlay": overlay.name, "mask": None}
    del line["mask_png_base64"]
    try:
        result.overlay().save(overlay)
        if result.mask is not None:
            mask.write_bytes(result.mask_png())
            line["mask"] = mask.name
        with open(out / RESULTS, "a", encoding="utf-8") as results:
            results.write(json.dumps(line) + "\n")
    except OSError as error:
        raise BthubError(f"{out}: the results cannot be written ({error.strerror})") from error
