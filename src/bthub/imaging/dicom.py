"""DICOM files: MR slices in, single or multi-frame, grouped into series and put in order.

Who the patient is never comes in: of a file only the tags in `_HEADER` are parsed, an allow-list of sizes, spacing,
orientation, window and times. The series' description is free text, so of it only words of a fixed list are kept. The
identifiers of study and series serve to group files and are then dropped. No message quotes a file's values, and none
is chained to what a decoder said, which might.

Gray levels: the modality's rescaling or table for each slice, then one window for the whole series, then MONOCHROME1
inverted. Scanners often write another window for each slice; a series shown through them would flicker, so the median
of their ends is taken. A series without a window is shown from its 0.1th to its 99.9th percentile, as is one whose
window is far wider than its values, or beside them: it would be a gray area.
"""

import dataclasses
import hashlib
import io
import math
import re
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bthub.errors import BthubError
from bthub.imaging.checks import without_warnings
from bthub.imaging.volume import (
    PLANES,
    Volume,
    check_stack,
    cut_volume,
    is_8_bit,
    is_mask,
    percentile_window,
    to_levels,
)

if TYPE_CHECKING:
    from pydicom import Dataset

SUFFIXES = (".dcm", ".dicom", ".ima")

_HEADER = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber", "InstanceNumber"),
    *("Modality", "SeriesDescription", "RepetitionTime", "EchoTime", "InversionTime"),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue"),
    *("PixelSpacing", "SpacingBetweenSlices", "ImageOrientationPatient", "ImagePositionPatient"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
_PIXELS = ("PixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths")
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_STORAGE = "1.2.840.10008.5.1.4.1.1."
# What isn't a scan, by the beginning of its class.
_NO_SCAN = {
    "1.2.840.10008.1.3.10": "a DICOMDIR, a table of contents without pictures",
    _STORAGE + "88.": "a structured report",
    _STORAGE + "11.": "a presentation state",
    _STORAGE + "66": "a segmentation, a mask and not a scan",
    _STORAGE + "104.": "a document",
    _STORAGE + "481.": "a plan or dose of radiotherapy",
    _STORAGE + "9.": "a waveform",
    _STORAGE + "4.2": "a spectrum",
    _STORAGE + "30": "a parametric map",
    _STORAGE + "6.": "an ultrasound picture",
    _STORAGE + "3.": "an ultrasound picture",
}
_OTHER_MODALITIES = {
    "CT": "a CT scan",
    "US": "an ultrasound picture",
    "IVUS": "an ultrasound picture",
    "PT": "a PET scan",
    "NM": "a nuclear medicine scan",
    "MG": "a mammogram",
    **dict.fromkeys(("CR", "DX", "XA", "RF", "RG"), "an X-ray picture"),
    **dict.fromkeys(("ES", "GM", "SM", "XC", "OP", "OPT"), "a photograph"),
    "SEG": "a segmentation, a mask and not a scan",
    "SR": "a structured report",
    "PR": "a presentation state",
    "KO": "a list of pictures",
    "DOC": "a document",
}
_WANTED = "expected slices of an MR scan"
# The words of a series' description that are kept: sequences, planes and contrast, never a name.
_WORDS = re.compile(
    r"(?<![a-z])(flair|t1|t2|t2\*|pd|dwi|adc|swi|dti|gre|mprage|space|tirm|stir|tse|fse|se|ax|axial|tra|sag|sagittal|cor"
    r"|coronal|post|pre|gd|ce|contrast|3d|2d)(?![a-z0-9])"
)
_FLAIR_TI, _FLAIR_TE = 1600, 70  # milliseconds, from which water is dark and tissue T2-weighted
_SAME_PLACE = 0.02  # mm
_UNEVEN = 0.02  # of the distance between slices
# Of the gray levels, what a scan fills at least, without its extremes, through a window that is used. The values of
# MR scans have no unit, and some files have the window of all 16 bits.
_FILLED = 0.4
# Of the pixels that such a window doesn't show in black, how many it shows in white at most.
_WHITE = 0.5


@dataclass(frozen=True)
class Frame:
    """What is kept of one picture of a DICOM file.

    Attributes:
        file: which of the study's files, from 0.
        index: which of the file's frames, from 0.
        number: the picture's number in its series.
        shape: rows and columns.
        pixel_mm: height and width of a pixel, None if unknown.
        slice_mm: from slice to slice, where the file says so.
        orientation: directions of a row and of a column, six numbers in the patient's coordinates, or None.
        position: of the first pixel, three numbers, or None.
        times: repetition, echo and inversion time in milliseconds, None where unknown.
    """

    file: int
    index: int
    number: int
    shape: tuple[int, int]
    pixel_mm: tuple[float, float] | None
    slice_mm: float | None
    orientation: tuple[float, ...] | None
    position: tuple[float, ...] | None
    times: tuple[float | None, float | None, float | None]
    words: tuple[str, ...]
    series_number: int | None
    study: str = field(repr=False)
    series: str = field(repr=False)
    instance: str = field(repr=False)

    @property
    def picture(self) -> tuple[object, ...]:
        """What two copies of a picture have in common, and no two pictures.

        The instance's identifier isn't enough: some anonymizers write the same one into all files.
        """
        return self.instance, self.index, self.number, self.position, self.times, self.series

    @property
    def normal(self) -> np.ndarray | None:
        """The direction across the slice, as rows and columns turn."""
        if self.orientation is None or self.position is None:
            return None
        return np.cross(self.orientation[:3], self.orientation[3:])

    @property
    def depth(self) -> float:
        """Where the slice lies along its normal, in millimeters."""
        normal = self.normal
        assert normal is not None and self.position is not None
        return float(normal @ np.array(self.position))


class NoScanError(BthubError):
    """A DICOM file that is none of a scan's slices: a report, a table of contents, another kind of scan."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(f"{name}: this is {what}, {_WANTED}")
        self.what = what


def is_dicom(head: bytes) -> bool:
    """Whether a file's first bytes are those of a DICOM file, with or without its preamble."""
    if head[128:132] == b"DICM":
        return True
    # Without one, the first element is of group 2 or 8, and its length is that of a short value.
    if len(head) < 8 or head[:2] not in (b"\x02\0", b"\x08\0") or head[3] != 0:
        return False
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    length = struct.unpack_from("<H" if explicit else "<I", head, 6 if explicit else 4)[0]
    return length <= 1024


# -- headers


def read_frames(content: bytes, name: str, file: int = 0) -> list[Frame]:
    """The frames of one file, without their pixels.

    Args:
        content: the file's bytes.
        name: what messages call it.
        file: its number in the study.

    Raises:
        NoScanError: it is DICOM, but nothing of an MR scan.
        BthubError: it is damaged, or too large.
    """
    with _guarded(name):
        header = _parsed(content, name, pixels=False)
        kind = str(header.get("SOPClassUID") or header.file_meta.get("MediaStorageSOPClassUID") or "")
        what = next((what for start, what in _NO_SCAN.items() if kind.startswith(start)), None)
        modality = str(header.get("Modality") or "").strip().upper()
        if what := what or _OTHER_MODALITIES.get(modality):
            raise NoScanError(name, what)
        if "Rows" not in header or "Columns" not in header:
            raise NoScanError(name, "a DICOM file without a picture")
        if modality not in ("MR", "OT", "SC", ""):
            raise NoScanError(name, "a DICOM file of another kind")
        photometric = str(header.get("PhotometricInterpretation", "")).strip()
        if header.get("SamplesPerPixel", 1) != 1 or not photometric.startswith("MONOCHROME"):
            raise NoScanError(name, "a picture in color")
        frames = int(header.get("NumberOfFrames") or 1)
        rows, columns = int(header.Rows), int(header.Columns)
        check_stack(frames, rows, columns, name)
        found = [_frame(header, file, index) for index in range(frames)]
        # Without an identifier, or with nothing beside it, only the same bytes are a copy.
        if any(not frame.instance or (not frame.number and frame.position is None) for frame in found):
            same = hashlib.sha256(content).hexdigest()
            found = [dataclasses.replace(frame, instance=same) for frame in found]
        return found
    raise AssertionError  # _guarded lets nothing pass


def _parsed(content: bytes, name: str, *, pixels: bool) -> "Dataset":
    import pydicom

    if _DEFLATED in content:  # pydicom inflates without a limit
        raise BthubError(f"{name}: this is a deflated DICOM file, save it uncompressed or as JPEG 2000")
    if not is_dicom(content[:256]):
        raise BthubError(f"{name}: this isn't a DICOM file, although its name says so")
    return pydicom.dcmread(
        io.BytesIO(content),
        force=content[128:132] != b"DICM",
        stop_before_pixels=not pixels,
        specific_tags=[*_HEADER, *_PIXELS] if pixels else [*_HEADER],
    )


class _guarded:
    """Whatever goes wrong in the block is one sentence that quotes nothing of the file; no warning leaves it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._quiet = without_warnings()  # pydicom's quote values

    def __enter__(self) -> None:
        self._quiet.__enter__()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        self._quiet.__exit__(None, None, None)
        if isinstance(error, Exception) and not isinstance(error, BthubError):
            raise BthubError(f"{self._name}: the DICOM file is truncated or damaged") from None


def _frame(header: "Dataset", file: int, index: int) -> Frame:
    def value(keyword: str, *groups: str) -> Any:
        """A value of the frame: its own, else one of all frames, else the file's."""
        for found in (*_functional(header, index, groups), header):
            if found.get(keyword) is not None:
                return found.get(keyword)
        return None

    orientation = _numbers(value("ImageOrientationPatient", "PlaneOrientationSequence"), 6)
    position = _numbers(value("ImagePositionPatient", "PlanePositionSequence"), 3)
    own = header.get("PerFrameFunctionalGroupsSequence")
    if int(header.get("NumberOfFrames") or 1) > 1 and not (own and own[index].get("PlanePositionSequence")):
        position = None  # the one that the file has isn't that of each frame
    if orientation is not None:
        row, column = np.array(orientation[:3]), np.array(orientation[3:])
        lengths = np.linalg.norm(row), np.linalg.norm(column)
        if not np.allclose(lengths, 1, atol=0.01) or abs(row @ column) > 0.01:
            orientation = None
    pixel = _numbers(value("PixelSpacing", "PixelMeasuresSequence"), 2)
    gap = _numbers(value("SpacingBetweenSlices", "PixelMeasuresSequence"), 1)
    timing = "MRTimingAndRelatedParametersSequence"
    times = (
        _numbers(value("RepetitionTime", timing), 1),
        _numbers(value("EffectiveEchoTime", "MREchoSequence") or value("EchoTime"), 1),
        _numbers(value("InversionTimes", "MRModifierSequence") or value("InversionTime"), 1),
    )
    number, series_number = (_numbers(header.get(key), 1) for key in ("InstanceNumber", "SeriesNumber"))
    description = str(header.get("SeriesDescription") or "").lower().replace("_", " ")
    return Frame(
        file,
        index,
        int(number[0]) if number else 0,
        (int(header.Rows), int(header.Columns)),
        (pixel[0], pixel[1]) if pixel and all(0 < side <= 100 for side in pixel) else None,
        abs(gap[0]) if gap and 0 < abs(gap[0]) <= 100 else None,
        orientation,
        position if orientation else None,
        tuple(time[0] if time else None for time in times),  # type: ignore[arg-type]
        tuple(dict.fromkeys(_WORDS.findall(description))),
        int(series_number[0]) if series_number else None,
        str(header.get("StudyInstanceUID") or ""),
        str(header.get("SeriesInstanceUID") or ""),
        str(header.get("SOPInstanceUID") or ""),
    )


def _functional(header: "Dataset", index: int, groups: Sequence[str]) -> Iterator["Dataset"]:
    """The items of the functional groups of an enhanced file: the frame's own first, then those of all frames."""
    frames = header.get("PerFrameFunctionalGroupsSequence")
    for item in ([frames[index]] if frames else []) + list(header.get("SharedFunctionalGroupsSequence") or [])[:1]:
        for group in groups:
            yield from list(item.get(group) or [])[:1]


def _numbers(value: Any, count: int) -> tuple[float, ...] | None:
    """`count` finite numbers from a tag's value, or None."""
    if value is None or value == "":
        return None
    try:
        values = [float(v) for v in ([value] if isinstance(value, (str, int, float)) else value)]
    except (TypeError, ValueError):
        return None
    return tuple(values[:count]) if len(values) >= count and all(map(math.isfinite, values[:count])) else None


# -- series


@dataclass(frozen=True)
class DicomSeries:
    """Slices that belong together, in the order of the stack."""

    frames: tuple[Frame, ...]

    @property
    def label(self) -> str:
        """What tells it from the study's others, without a word of free text."""
        first = self.frames[0]
        rows, columns = first.shape
        plane = plane_of(first)
        words = " ".join(word.upper() for word in first.words)
        times = "/".join(f"{time:,.0f}" if time is not None else "-" for time in first.times)
        parts = [
            f"series {first.series_number}" if first.series_number is not None else "",
            words,
            plane or "",
            f"{len(self.frames)} slice{'s' * (len(self.frames) > 1)} of {columns} x {rows}",
            f"TR/TE/TI {times} ms" if any(first.times) else "",
        ]
        return ", ".join(part for part in parts if part)

    @property
    def flair_like(self) -> bool:
        """Whether its times or its description are those of a FLAIR sequence, which shows gliomas best."""
        _, echo, inversion = self.frames[0].times
        by_times = echo is not None and inversion is not None and echo >= _FLAIR_TE and inversion >= _FLAIR_TI
        return by_times or "flair" in self.frames[0].words


def plane_of(frame: Frame) -> str | None:
    """The plane that a slice lies in, or the nearest."""
    return None if frame.normal is None else PLANES[int(np.argmax(np.abs(frame.normal)))]


def group(frames: Sequence[Frame]) -> list[DicomSeries]:
    """Sort a study's frames into stacks.

    Frames of one SeriesInstanceUID, size and orientation make a stack, in the order of their place along the normal of
    the slices. Where places repeat, as with several echoes or points in time, each round is a stack of its own. Frames
    without a place go by their number. A file that is there twice counts once.
    """
    bins: dict[tuple[object, ...], list[Frame]] = defaultdict(list)
    for frame in {frame.picture: frame for frame in frames}.values():
        facing = None if frame.normal is None else tuple(round(v, 2) + 0.0 for v in frame.orientation or ())
        bins[frame.series, frame.shape, facing].append(frame)
    series = []
    for members in bins.values():
        members.sort(key=lambda frame: (frame.times[1] or 0, frame.number, frame.file, frame.index))
        if members[0].normal is None:
            series.append(DicomSeries(tuple(sorted(members, key=lambda f: (f.number, f.file, f.index)))))
            continue
        members.sort(key=lambda frame: frame.depth)  # stable: at one place they stay in the order above
        rounds: list[list[Frame]] = []
        at, here = -math.inf, 0
        for frame in members:
            here = here + 1 if frame.depth - at <= _SAME_PLACE else 0
            at = frame.depth
            if here == len(rounds):
                rounds.append([])
            rounds[here].append(frame)
        series += [DicomSeries(tuple(one)) for one in rounds]
    return sorted(series, key=lambda one: (one.frames[0].series_number or 0, one.frames[0].number))


# -- pixels


def read_series(series: DicomSeries, content: Callable[[int], bytes], name: str, plane: str | None = None) -> Volume:
    """Decode a series.

    Args:
        series: of `group`.
        content: gives the bytes of a file by its number.
        name: what messages call the study.
        plane: as for `bthub.imaging.volume.cut_volume`; by default the one that was scanned.

    Raises:
        BthubError: truncated, damaged, blank, a mask, or compressed in a way that isn't read.
    """
    frames = series.frames
    rows, columns = frames[0].shape
    check_stack(len(frames), rows, columns, name)
    order: dict[int, list[int]] = defaultdict(list)  # file -> places in the stack
    for place, frame in enumerate(frames):
        order[frame.file].append(place)
    decoded: list[_Decoded | None] = [None] * len(frames)
    for file, places in order.items():
        one_file = name if len(order) == 1 else f"{name}, file {file + 1}"
        with _guarded(one_file):
            dataset = _parsed(content(file), one_file, pixels=True)
            wanted = [frames[place].index for place in places]
            for place, one in zip(places, _decoded(dataset, wanted, one_file), strict=True):
                if one.samples.shape != (rows, columns):
                    raise ValueError("not of the size that its header says")
                decoded[place] = one
    slices = [one for one in decoded if one is not None]
    assert len(slices) == len(frames)
    levels, notes = _levels(slices, name)
    return _placed(levels, frames, name, plane, notes)


@dataclass(frozen=True)
class _Decoded:
    samples: np.ndarray  # (rows, columns), the modality's rescaling or table applied
    padding: np.ndarray | None  # bool, what isn't picture
    window: tuple[float, float, str] | None  # center, width, function
    inverted: bool


def _decoded(dataset: "Dataset", frames: list[int], name: str) -> Iterator[_Decoded]:
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.processing import apply_modality_lut, apply_voi

    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if syntax is None:  # without a header of the file's own
        from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

        syntax = ImplicitVRLittleEndian if dataset.original_encoding[0] else ExplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = syntax
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise BthubError(
            f"{name}: its pictures use a compression that can't be read here; save them uncompressed"
        ) from None
    if not decoder.is_available:
        raise BthubError(
            f'{name}: pictures with {syntax.name} need decoders that aren\'t installed: pip install "bthub[dicom]"'
        )
    if "PixelData" not in dataset:
        raise BthubError(f"{name}: the DICOM file holds no gray picture")
    _check_pixels(dataset, syntax, name)
    inverted = str(dataset.PhotometricInterpretation).strip() == "MONOCHROME1"
    padding_value = dataset.get("PixelPaddingValue")
    many = int(dataset.get("NumberOfFrames") or 1) > 1
    # GDCM's OpenJPEG writes on standard error what it finds wrong, past Python: it isn't asked where another reads
    # JPEG 2000.
    plugin = "pylibjpeg" if "pylibjpeg" in decoder.available_plugins else ""
    options: Any = {"raw": True, "decoding_plugin": plugin}
    arrays = decoder.iter_array(dataset, indices=frames, **options) if many else [decoder.as_array(dataset, **options)]
    for index, (raw, _) in zip(frames, arrays, strict=True):
        padding = None if padding_value is None else raw == padding_value
        if dataset.get("ModalityLUTSequence"):
            samples = apply_modality_lut(raw, dataset)
        else:
            slope, intercept = _rescale(dataset, index)
            samples = raw if (slope, intercept) == (1, 0) else raw * np.float32(slope) + np.float32(intercept)
        window = _window(dataset, index)
        if window is None and dataset.get("VOILUTSequence"):
            bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
            samples = apply_voi(np.rint(samples).astype(np.int32), dataset)
            window = ((2.0**bits - 1) / 2, 2.0**bits - 1, "LINEAR_EXACT")
        # A copy: what decoders give may not be writable, and holds all frames.
        yield _Decoded(np.array(samples), padding if padding is not None and padding.any() else None, window, inverted)


def _rescale(dataset: "Dataset", index: int) -> tuple[float, float]:
    for item in (*_functional(dataset, index, ["PixelValueTransformationSequence"]), dataset):
        slope, intercept = _numbers(item.get("RescaleSlope"), 1), _numbers(item.get("RescaleIntercept"), 1)
        if slope and slope[0] != 0:
            return slope[0], intercept[0] if intercept else 0.0
    return 1.0, 0.0


def _window(dataset: "Dataset", index: int) -> tuple[float, float, str] | None:
    """Center, width and function of the first window that can be used."""
    for item in (*_functional(dataset, index, ["FrameVOILUTSequence"]), dataset):
        center, width = _numbers(item.get("WindowCenter"), 1), _numbers(item.get("WindowWidth"), 1)
        if center and width and width[0] >= 1:
            return center[0], width[0], str(item.get("VOILUTFunction") or "LINEAR").strip()
    return None


def _check_pixels(dataset: "Dataset", syntax: Any, name: str) -> None:
    """Raise BthubError at samples in the upper bits and more pictures than the header says, ValueError at compressed
    ones of another size.

    The decoders believe the compressed data, which may unpack to gigabytes.
    """
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    pixel_bytes = rows * columns * (int(dataset.BitsAllocated) // 8)
    frames = int(dataset.get("NumberOfFrames") or 1)
    if int(dataset.get("HighBit", dataset.BitsStored - 1)) != int(dataset.BitsStored) - 1:
        raise BthubError(
            f"{name}: its samples lie in the upper bits, as in files of old devices; convert it with a DICOM tool"
        )
    if not syntax.is_encapsulated:
        # pydicom sees to it that there are not fewer.
        if pixel_bytes and len(dataset.PixelData) >= (frames + 1) * pixel_bytes:
            raise BthubError(f"{name}: the DICOM file holds more pictures than its header says")
        return
    from pydicom.encaps import generate_frames

    for count, frame in enumerate(generate_frames(dataset.PixelData, number_of_frames=frames)):
        if count >= frames:
            raise BthubError(f"{name}: the DICOM file holds more pictures than its header says")
        if len(frame) > 2 * pixel_bytes + 2**16:
            raise ValueError("compressed to more than its size")
        if syntax.name == "RLE Lossless":
            if _rle_size(frame) > pixel_bytes + 2**12:
                raise ValueError("unpacks to more than its size")
        elif _codestream_shape(frame) != (rows, columns):
            raise ValueError("not of the size that its header says")


def _codestream_shape(frame: bytes) -> tuple[int, int] | None:
    """Rows and columns that a JPEG, JPEG-LS or JPEG 2000 picture says it has."""
    start = frame.find(b"\xff\x4f\xff\x51", 0, 256)
    if start >= 0:
        width, height, left, top = struct.unpack_from(">IIII", frame, start + 8)
        return height - top, width - left
    at = 2
    while at + 9 <= len(frame):
        if frame[at] != 0xFF:
            return None
        marker = frame[at + 1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            height, width = struct.unpack_from(">HH", frame, at + 5)
            return height, width
        at += 2 + struct.unpack_from(">H", frame, at + 2)[0]
    return None


def _rle_size(frame: bytes) -> int:
    """Bytes that a frame with run lengths unpacks to."""
    count, *offsets = struct.unpack_from("<16L", frame)
    if not 1 <= count <= 15:
        raise ValueError("no run lengths")
    total = 0
    for start, end in zip(offsets[:count], [*offsets[1:count], len(frame)], strict=True):
        at = start
        while at < end - 1:
            head = frame[at]
            if head > 128:
                total += 257 - head
                at += 2
            elif head < 128:
                total += head + 1
                at += head + 2
            else:
                at += 1
    return total


def _levels(slices: list[_Decoded], name: str) -> tuple[np.ndarray, list[str]]:
    """uint8 (n, rows, columns) through one window, and notes."""
    array = np.stack([one.samples for one in slices])
    inverted = np.array([one.inverted for one in slices])  # (n,), usually all alike
    if any(one.padding is not None for one in slices):
        padding = np.stack(
            [np.zeros(one.samples.shape, bool) if one.padding is None else one.padding for one in slices]
        )
        if not padding.all():
            picture = array[~padding]
            darkest = np.where(inverted, picture.max(), picture.min()).astype(array.dtype)
            array = np.where(padding, darkest[:, None, None], array)
    if not np.isfinite(array).all():
        raise BthubError(f"{name}: the scan holds NaN or infinite values")
    if is_mask(array):
        raise BthubError(f"{name}: this is a mask and not a scan, it holds the same few values over whole areas")
    notes: list[str] = []
    windows = [one.window for one in slices if one.window is not None]
    levels = _windowed(array, windows) if windows else None
    if levels is None:
        low, high = (0.0, 255.0) if is_8_bit(array) else percentile_window(array)
        levels = to_levels(array, low, high)
        if windows:
            notes.append("The file's window hardly shows its values, so brightness is set from the values instead.")
    levels[inverted] = 255 - levels[inverted]
    if levels.min() == levels.max():
        raise BthubError(f"{name}: the scan is blank, all its pixels have the same value")
    return levels, notes


def _windowed(array: np.ndarray, windows: list[tuple[float, float, str]]) -> np.ndarray | None:
    """The array through the median of the slices' windows; None where that leaves nothing to see."""
    center, width = (float(np.median([window[part] for window in windows])) for part in (0, 1))
    function = windows[0][2]
    if function == "SIGMOID":
        scaled = 1 / (1 + np.exp(np.clip(-4 * (array - np.float32(center)) / np.float32(width), -80, 80)))
        levels = to_levels(scaled, 0, 1)
    elif function == "LINEAR_EXACT":
        levels = to_levels(array, center - width / 2, center + width / 2)
    else:
        levels = to_levels(array, center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2)
    low, high = percentile_window(levels)
    lit, white = (levels > 0).mean(), (levels == 255).mean()
    if lit - white <= 0.01 or white > _WHITE * lit:
        return None
    # A window of 8 bits is a picture's own range, however dark it is.
    return levels if width <= 256 or high - low >= _FILLED * 255 else None


def _placed(levels: np.ndarray, frames: Sequence[Frame], name: str, plane: str | None, notes: list[str]) -> Volume:
    """Slices (n, rows, columns) as a volume, in the grid that converters from DICOM to NIfTI make of them."""
    first = frames[0]
    if first.pixel_mm is None:
        notes.append("The file doesn't say how large a pixel is, so sizes are in pixels.")
    affine = _affine(frames)
    even, slice_mm = True, first.slice_mm
    if first.normal is not None:
        if len(frames) > 1:
            gaps = np.diff([frame.depth for frame in frames])
            slice_mm = float(np.median(gaps))
            even = bool(np.abs(gaps - slice_mm).max() <= _UNEVEN * slice_mm + _SAME_PLACE)
    else:
        even = False
        notes.append("The files don't give the positions of the slices, so the slices are sorted by their numbers.")
    if not even and first.normal is not None:
        notes.append("Slices are missing or not evenly spaced, so no volume is given.")
    if plane not in (None, plane_of(first)) and not (even and slice_mm is not None):
        raise BthubError(f"{name}: its slices aren't known to be evenly spaced, so it can't be cut across them")
    volume = cut_volume(
        levels.transpose(2, 1, 0),
        affine,
        (0, 0) if first.normal is None else (1, 1),
        name=name,
        kind="DICOM",
        plane=plane,
        stack_axis=2,
        spacing_known=first.pixel_mm is not None,
        notes=notes,
    )
    if even and slice_mm is not None:
        return volume
    return dataclasses.replace(volume, slice_mm=None, grid=volume.grid if even else None)


def _affine(frames: Sequence[Frame]) -> np.ndarray:
    """From (column, row, slice, 1) to millimeters as NIfTI has them, as if the slices were evenly spaced."""
    first, last = frames[0], frames[-1]
    height, width = first.pixel_mm or (1.0, 1.0)
    affine = np.diag((-width, -height, first.slice_mm or 1.0, 1.0))
    if first.orientation is not None and first.position is not None:
        row, column = np.array(first.orientation[:3]), np.array(first.orientation[3:])
        start = np.array(first.position)
        step = np.cross(row, column) * (first.slice_mm or 1.0)
        if len(frames) > 1:
            step = (np.array(last.position) - start) / (len(frames) - 1)
        affine[:3] = np.stack([row * width, column * height, step, start], axis=1)
        affine[:2] *= -1  # DICOM's x and y grow to the left and to the back
    return affine


def to_frames(series: DicomSeries, masks: np.ndarray, name: str) -> np.ndarray:
    """Masks of a volume's slices, as its files' own pixels.

    Args:
        series: of `group`, read in the plane that was scanned.
        masks: bool (n, h, w), one a slice of the volume.
        name: what messages call the study.

    Returns:
        bool (n, rows, columns), in the order of `series.frames`; also where the slices aren't evenly spaced.

    Raises:
        BthubError: the files don't give the positions of the slices, or these aren't their masks.
    """
    first, (rows, columns) = series.frames[0], series.frames[0].shape
    if first.normal is None:
        raise BthubError(f"{name}: the files don't give the positions of the slices, so no mask can refer to them")
    empty = np.zeros((columns, rows, len(series.frames)), np.uint8)
    volume = cut_volume(empty, _affine(series.frames), (1, 1), name=name, kind="DICOM", stack_axis=2)
    if masks.shape != volume.slices.shape[:3]:
        raise BthubError(f"{name}: isn't the scan that the masks were drawn on")
    return volume.to_grid(masks).transpose(2, 1, 0).astype(bool)
