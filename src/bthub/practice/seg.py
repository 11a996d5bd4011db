"""Masks as a DICOM SEG, by highdicom: beside the scan in any archive, with the patient's own identifiers.

It can be made only where the uploaded files are at hand: a SEG names the patient, the study and the slices that it was
drawn on, and none of that is kept with a case unless its owner chose it.
"""

import hashlib
import io
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bthub.imaging.dicom import Frame, to_frames
from bthub.practice.study import study_of
from bthub.practice.texts import Refusal

if TYPE_CHECKING:
    from pydicom import Dataset

DESCRIPTION = "Tumor outline by a model: research, not for diagnosis"
"""At most 64 characters, as DICOM has them."""
# What a SEG must say of the patient and the study, and may leave empty; many files lack some of it.
_MAY_BE_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
_UNREADABLE = "No DICOM SEG can be made of this scan: its files lack the references that one needs."


def dicom_seg(
    files: Sequence[tuple[str, Path]],
    scan: int,
    masks: np.ndarray,
    *,
    models: dict[str, Any],
    corrected_by: str | None,
    key: str,
) -> bytes:
    """Masks of an examination as a DICOM SEG file.

    Args:
        files: the upload as it came: names, and where the files lie.
        scan: which of the study's scans the masks are of.
        masks: bool (n, h, w), one a slice, upright as they are shown.
        models: `id` and `revision` of the `localizer`.
        corrected_by: who corrected outlines by hand; None where all are the model's.
        key: of the examination: the same masks give the same identifiers, and other masks others.

    Returns:
        A binary segmentation with one segment. Slices without an outline have no frame, as readers expect.

    Raises:
        Refusal: the upload isn't DICOM, nothing is outlined, or the files lack what a SEG must refer to.
        BthubError: the files can't be read any more.
    """
    found = study_of(files)
    chosen = found.scans[scan] if found is not None and 0 <= scan < len(found.scans) else None
    if found is None or chosen is None or chosen.series is None or chosen.content is None:
        raise Refusal("A DICOM SEG can only be made of a DICOM scan.", 409)
    if not masks.any():
        raise Refusal("Nothing is outlined in this examination: there is no mask to write.", 409)
    frames = to_frames(chosen.series, masks, found.name)
    places = [(frame.file, frame.index) for frame in chosen.series.frames]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's quote values, which may be a patient's
        try:
            contents = {file: chosen.content(file) for file in dict.fromkeys(file for file, _ in places)}
            sources, pixels = _sources(contents, places, frames, _distance(chosen.series.frames))
            return _written(sources, pixels, models, corrected_by, key)
        except (ValueError, AttributeError, KeyError, TypeError) as error:
            # What highdicom raises where a header lacks something; its messages may quote the header.
            raise Refusal(_UNREADABLE, 409) from error


def _distance(frames: Sequence[Frame]) -> float | None:
    """From slice to slice, in millimeters."""
    if len(frames) < 2:
        return frames[0].slice_mm
    return float(np.median(np.diff([frame.depth for frame in frames])))


def _sources(
    contents: dict[int, bytes], places: Sequence[tuple[int, int]], frames: np.ndarray, distance: float | None
) -> tuple[list["Dataset"], np.ndarray]:
    """The headers of the scan's files, and a mask (bool, rows x columns) of each of their frames."""
    import pydicom

    headers = {}
    for file, content in contents.items():
        header = pydicom.dcmread(io.BytesIO(content), force=content[128:132] != b"DICM", stop_before_pixels=True)
        if not header.get("FrameOfReferenceUID"):
            raise Refusal(
                "The scan's files name no frame of reference (FrameOfReferenceUID), which a DICOM SEG must refer to; "
                "download the mask as NIfTI instead.",
                409,
            )
        for keyword in _MAY_BE_EMPTY:
            if keyword not in header:
                setattr(header, keyword, None if keyword.endswith(("Date", "Time")) else "")
        # What says how thick slices are, which readers need; where it is missing they are taken to touch.
        groups = (*(header.get("SharedFunctionalGroupsSequence") or ()),)
        groups += (*(header.get("PerFrameFunctionalGroupsSequence") or ()),)
        for measures in (header, *(one for group in groups for one in group.get("PixelMeasuresSequence") or ())):
            if measures.get("SliceThickness") is None and distance is not None:
                measures.SliceThickness = round(distance, 6)
        headers[file] = header
    if not any(int(header.get("NumberOfFrames") or 1) > 1 for header in headers.values()):
        return [headers[file] for file, _ in places], frames
    if len(headers) > 1:
        raise Refusal("No DICOM SEG can be made of a scan that lies in several files of several frames each.", 409)
    (header,) = headers.values()
    # A mask for every frame of the file, also for those of another stack in it, whose masks stay empty.
    pixels = np.zeros((int(header.NumberOfFrames), *frames.shape[1:]), bool)
    pixels[[index for _, index in places]] = frames
    return [header], pixels


def _written(
    sources: list["Dataset"], pixels: np.ndarray, models: dict[str, Any], corrected_by: str | None, key: str
) -> bytes:
    try:
        import highdicom
    except ImportError as error:
        raise Refusal("This server can't write DICOM SEG: it lacks the package highdicom.", 501) from error
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    model = models.get("localizer", {})
    name, revision = str(model.get("id", "unknown"))[:64], str(model.get("revision", "unknown"))[:64]
    kinds = highdicom.seg.SegmentAlgorithmTypeValues
    segment = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label="Tumor",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Neoplasm,
        algorithm_type=kinds.SEMIAUTOMATIC if corrected_by else kinds.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=name, version=revision, family=codes.DCM.ArtificialIntelligence
        ),
        tracking_uid=generate_uid(entropy_srcs=[key, "tracking"]),
        tracking_id="Tumor",
        anatomic_regions=[codes.SCT.Brain],
    )
    source = sources[0]
    drawn = hashlib.sha256(pixels.tobytes()).hexdigest()
    seg = highdicom.seg.Segmentation(
        source_images=sources,
        pixel_array=pixels.astype(np.uint8),
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        series_instance_uid=generate_uid(entropy_srcs=[key, str(source.SeriesInstanceUID)]),
        # Past the scanner's own numbers.
        series_number=int(source.get("SeriesNumber") or 0) + 1000,
        sop_instance_uid=generate_uid(entropy_srcs=[key, drawn, str(corrected_by)]),
        instance_number=1,
        manufacturer="bthub",
        manufacturer_model_name=name,
        software_versions=version("bthub"),
        device_serial_number="none",
        content_label="TUMOR",
        content_description=DESCRIPTION,
        content_creator_name=_person(corrected_by) if corrected_by else None,
        series_description=DESCRIPTION,
    )
    buffer = io.BytesIO()
    seg.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _person(name: str) -> str:
    """A name as DICOM writes it; the whole as one part, since only the person knows which is the family's."""
    return "".join(" " if letter in "\\^=" else letter for letter in name)[:64].strip()
