"""A whole stack through the pipeline: a result for each slice, and for the stack as a whole.

Each slice is analyzed on its own, as a lone picture is. Then the masks are looked at together: areas that don't
continue on a neighboring slice are removed (`bthub.imaging.cleaning`), and areas and volume are summed where the file
carries a spacing.
"""

import dataclasses
import io
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bthub.errors import BthubError, NotASliceError
from bthub.imaging.cleaning import clean_stack
from bthub.imaging.intake import Study, open_study
from bthub.imaging.nifti import mask_nifti
from bthub.imaging.volume import Volume, is_blank
from bthub.inference.pipeline import Pipeline, ReadPicture, check_spacing
from bthub.inference.result import DISCLAIMER, NO_TUMOR, TUMOR, UNCERTAIN, Result, measure

EMPTY, REFUSED = "empty", "not a slice of a brain"
_NEEDED = 0.5  # share of a stack's pictures that must look like slices of a brain


@dataclass(frozen=True, eq=False)
class StudyResult:
    """What was found in a stack of slices.

    Attributes:
        name: what the file is called.
        label: `tumor` where an outline is left after cleaning, or where the detector says tumor on at least two
            neighboring slices, outlined or not; else `no_tumor`. Of a single slice, its own label.
        uncertain: whether a person should look: nothing was found, but on some slice the detector was uncertain or
            said tumor; or all slices with tumor are uncertain.
        results: one for each slice in the order of the stack, with the cleaned mask and what is measured on it; None
            for a slice that wasn't analyzed.
        skipped: why not, by the slice's index: `EMPTY` or `REFUSED`.
        masks: bool (n, h, w), cleaned.
        areas_px: tumor pixels of each slice, after cleaning.
        areas_mm2: the same in square millimeters; None without spacing.
        largest: index of the slice with the largest area; without any, of the most probable one.
        volume_ml: None where the distance between slices isn't known.
        removed: slices from which cleaning removed something.
        volume: the stack that was analyzed.
        scan: what was chosen of the study, as its label says it.
        notes: what the person should know, a sentence each.
        models: `detector` and `localizer`, each with its `id` and `revision`.
    """

    name: str
    label: str
    uncertain: bool
    results: list[Result | None] = field(repr=False)
    skipped: dict[int, str] = field(repr=False)
    masks: np.ndarray = field(repr=False)
    areas_px: list[int]
    areas_mm2: list[float] | None
    largest: int
    volume_ml: float | None
    removed: list[int]
    volume: Volume = field(repr=False)
    scan: str
    notes: tuple[str, ...]
    models: dict[str, dict[str, str]]

    @property
    def verdict(self) -> str:
        """`tumor`, `no_tumor` or `uncertain`: `label`, but where a person should look."""
        return UNCERTAIN if self.uncertain else self.label

    @property
    def tumor_slices(self) -> list[int]:
        """Indices of the slices with an outline."""
        return [index for index, area in enumerate(self.areas_px) if area]

    @property
    def tumor_probability(self) -> float:
        """The highest of all slices, 0-1: no probability for the stack, because of many slices one is soon high."""
        return max(result.tumor_probability for result in self.results if result is not None)

    def to_dict(self) -> dict[str, Any]:
        """JSON types only. A slice's `mask_png_base64` is as in `Result`; slices that weren't analyzed say why."""
        return {
            "verdict": self.verdict,
            "label": self.label,
            "uncertain": self.uncertain,
            "scan": self.scan,
            "kind": self.volume.kind,
            "plane": self.volume.plane,
            "slices": len(self.results),
            "pixel_mm": self.volume.pixel_mm and [round(side, 4) for side in self.volume.pixel_mm],
            "slice_mm": self.volume.slice_mm and round(self.volume.slice_mm, 4),
            "largest_slice": self.largest + 1,
            "tumor_slices": [index + 1 for index in self.tumor_slices],
            "removed_slices": [index + 1 for index in self.removed],
            "areas_px": self.areas_px,
            "areas_mm2": self.areas_mm2 and [round(area, 2) for area in self.areas_mm2],
            "volume_ml": None if self.volume_ml is None else round(self.volume_ml, 3),
            "max_tumor_probability": round(self.tumor_probability, 6),
            "results": [
                {"slice": index + 1, **({"skipped": self.skipped[index]} if result is None else _lean(result))}
                for index, result in enumerate(self.results)
            ],
            "notes": list(self.notes),
            "models": self.models,
            "disclaimer": DISCLAIMER,
        }

    def mask_nifti(self) -> bytes:
        """The cleaned masks as a .nii.gz in the scan's own grid: uint8, 0 and 1.

        Raises:
            BthubError: the file gives no position or orientation for its slices.
        """
        return mask_nifti(self.volume, self.masks)

    def mask_pngs(self) -> Iterator[tuple[str, bytes]]:
        """File names and gray PNGs (0 and 255) of all slices, black where nothing was found."""
        from PIL import Image

        for index, mask in enumerate(self.masks):
            buffer = io.BytesIO()
            Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, format="PNG")
            yield f"slice_{index + 1:04d}_mask.png", buffer.getvalue()

    def mask_png_zip(self) -> bytes:
        """The PNGs of `mask_pngs` in a zip."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in self.mask_pngs():
                archive.writestr(zipfile.ZipInfo(name), content)  # of no date, so that equal masks are equal files
        return buffer.getvalue()


def _lean(result: Result) -> dict[str, Any]:
    """A slice's dictionary without what all slices share."""
    shared = ("models", "disclaimer")
    return {key: value for key, value in result.to_dict().items() if key not in shared}


def analyze_study(
    pipe: Pipeline,
    source: str | Path | Study,
    *,
    scan: int | None = None,
    plane: str | None = None,
    always_localize: bool = False,
    batch_size: int = 8,
    spacing_mm: tuple[float, float] | None = None,
    check_input: bool = True,
    clean: bool = True,
    max_slices: int | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> StudyResult:
    """Analyze one scan of a study.

    Args:
        pipe: from `load_pipeline`.
        source: a DICOM or NIfTI file, a multi-page TIFF, a zip or folder of one study, or the result of `open_study`.
        scan: index of the scan within the study; None for `Study.default`.
        plane: `axial`, `coronal` or `sagittal`; by default the plane it was scanned in.
        always_localize, batch_size: as for `Pipeline`.
        spacing_mm: height and width of a pixel, used if the file doesn't give them.
        check_input: skip slices that don't look like a slice of a brain, and refuse the scan if most are like that.
        clean: remove isolated areas.
        max_slices: refuse longer stacks; by default the reader's own limit.
        progress: called after each slice with the number of slices done and their total.

    Raises:
        BthubError: the source can't be read, or an argument is out of range.
        NotASliceError: most of the slices don't look like slices of a brain MRI.
    """
    check_spacing(spacing_mm)
    study = source if isinstance(source, Study) else open_study(source)
    chosen = study.default if scan is None else scan
    volume = study.read(chosen, plane)
    notes = [*study.notes, *volume.notes]
    if max_slices is not None and len(volume) > max_slices:
        raise BthubError(
            f"{study.name}: {len(volume)} slices are too many for this server, which takes at most "
            f"{max_slices}; use bthub predict on your own computer"
        )
    if volume.pixel_mm is None and spacing_mm is not None:
        volume = dataclasses.replace(volume, pixel_mm=(float(spacing_mm[0]), float(spacing_mm[1])))
    results, skipped = _each_slice(
        pipe, volume, study.name, check_input, progress, always_localize=always_localize, batch_size=batch_size
    )
    return _summed(study, chosen, volume, results, skipped, clean, notes, pipe)


def _each_slice(
    pipe: Pipeline,
    volume: Volume,
    name: str,
    check_input: bool,
    progress: Callable[[int, int], object] | None,
    **options: Any,
) -> tuple[list[Result | None], dict[int, str]]:
    results: list[Result | None] = [None] * len(volume)
    skipped = {index: EMPTY for index in range(len(volume)) if is_blank(volume.slices[index])}
    shown = [index for index in range(len(volume)) if index not in skipped]
    if not shown:
        raise BthubError(f"{name}: all of its slices are blank")
    pictures = (ReadPicture(f"{name}, slice {index + 1}", volume.picture(index), 0.0) for index in shown)
    answers = pipe.stream(pictures, on_error="yield", spacing_mm=volume.pixel_mm, check_input=check_input, **options)
    for done, (index, answer) in enumerate(zip(shown, answers, strict=True), 1):
        if isinstance(answer, NotASliceError):
            skipped[index] = REFUSED
        elif isinstance(answer, BthubError):
            raise answer
        else:
            results[index] = answer
        if progress is not None:
            progress(done, len(shown))
    if sum(result is not None for result in results) < _NEEDED * len(shown):
        what = "its picture doesn't" if len(shown) == 1 else "most of its slices don't"
        raise NotASliceError(
            f"{name}: {what} look like a slice of a brain MRI, the only kind of picture the models know"
        )
    return results, skipped


def _summed(
    study: Study,
    chosen: int,
    volume: Volume,
    results: list[Result | None],
    skipped: dict[int, str],
    clean: bool,
    notes: list[str],
    pipe: Pipeline,
) -> StudyResult:
    drawn = np.zeros(volume.slices.shape[:3], bool)
    for index, result in enumerate(results):
        if result is not None and result.mask is not None:
            drawn[index] = result.mask
    masks = clean_stack(drawn) if clean else drawn
    removed = [index for index in range(len(volume)) if (masks[index] != drawn[index]).any()]
    for index in removed:
        result = results[index]
        assert result is not None
        results[index] = _with_mask(result, masks[index])
    areas = [int(mask.sum()) for mask in masks]
    pixel = None if volume.pixel_mm is None else volume.pixel_mm[0] * volume.pixel_mm[1]
    probabilities = [-1.0 if result is None else result.tumor_probability for result in results]
    label, uncertain = _verdict(results, areas)
    if removed:
        slices = f"slice{'s' * (len(removed) > 1)} {listed(removed)}"
        notes.append(f"Small areas that don't continue on a neighboring slice were removed: {slices}.")
    if refused := [index for index, why in skipped.items() if why == REFUSED]:
        slices = f"slice{'s' * (len(refused) > 1)} {listed(sorted(refused))}"
        notes.append(f"Not analyzed, because not recognized as a brain MRI: {slices}.")
    return StudyResult(
        study.name,
        label,
        uncertain,
        results,
        skipped,
        masks,
        areas,
        None if pixel is None else [area * pixel for area in areas],
        int(np.argmax(areas)) if any(areas) else int(np.argmax(probabilities)),
        None if pixel is None or volume.slice_mm is None else sum(areas) * pixel * volume.slice_mm / 1000,
        removed,
        volume,
        study.scans[chosen].label,
        tuple(notes),
        pipe.models,
    )


def _with_mask(result: Result, mask: np.ndarray) -> Result:
    measured = measure(mask)
    kept = measured["area_px"] / result.area_px
    return dataclasses.replace(
        result,
        mask=mask,
        head_fraction=None if result.head_fraction is None else result.head_fraction * kept,
        area_mm2=None if result.area_mm2 is None else result.area_mm2 * kept,
        **measured,
    )


def _verdict(results: Sequence[Result | None], areas: Sequence[int]) -> tuple[str, bool]:
    called = [result is not None and result.label == TUMOR for result in results]
    unsure = [result is not None and result.uncertain for result in results]
    in_a_row = any(first and second for first, second in zip(called, called[1:], strict=False))
    positive = [index for index, (hit, area) in enumerate(zip(called, areas, strict=True)) if hit and area]
    if not positive and (in_a_row or len(results) == 1):
        positive = [index for index, hit in enumerate(called) if hit]
    if positive:
        return TUMOR, all(unsure[index] for index in positive)
    return NO_TUMOR, any(unsure) or any(called)


def listed(indices: Sequence[int]) -> str:
    """Indices as `3, 5 to 8`, counted from 1."""
    ranges: list[list[int]] = []
    for index in indices:
        if ranges and index == ranges[-1][1] + 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    parts = [f"{first + 1}" if first == last else f"{first + 1} to {last + 1}" for first, last in ranges]
    return ", ".join(parts)
