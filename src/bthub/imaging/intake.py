"""What a user provides (a file, a zip or a folder) -> what it is, the scans in it, and one of them as a volume.

Nothing is unpacked to disk, nothing is kept, and every limit holds before anything is decoded: bytes, number of files,
real size against compressed size, pixels. A file is taken for what its bytes say; a name that promises another thing
is an error. Names of files inside a zip or a folder, which may be a patient's, are read for their order and for words
like "flair" and never shown.
"""

import io
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Protocol

from bthub.errors import BthubError
from bthub.imaging import dicom, image_io, nifti, pages
from bthub.imaging.folders import is_hidden, look_below
from bthub.imaging.image_io import display_name
from bthub.imaging.volume import Volume
from bthub.imaging.zips import open_zip

MAX_STUDY_BYTES = 256 * 2**20
MAX_UNPACKED_BYTES = 2**30
MAX_FILES = 10_000
MAX_RATIO = 100  # of real to compressed bytes, from _SMALL on
_SMALL = 16 * 2**20
_HEAD = 4096
EXPECTED = "DICOM, NIfTI (.nii, .nii.gz), a TIFF of several pages, or a zip or folder of one study"
SUFFIXES = (*dicom.SUFFIXES, *nifti.SUFFIXES, ".zip")
"""Of files that are read here and not as pictures; a TIFF of several pages is too."""

_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_ARCHIVES = {
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!": "RAR",
    b"\xfd7zXZ": "xz",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_MASK_NAME = re.compile(r"(^|[^a-z])(seg|mask|label|labels|segmentation)([^a-z]|$)", re.I)
_NAME_WORDS = re.compile(r"(?<![a-z0-9])(flair|t1ce|t1c|t1gd|t1n|t1w|t1|t2f|t2w|t2|pd|dwi|adc|swi)(?![a-z0-9])")


@dataclass(frozen=True)
class Scan:
    """One stack of a study, to choose from.

    Attributes:
        label: what tells it from the others; no free text of any file.
        kind: `DICOM`, `NIfTI`, `TIFF` or `pictures`.
        likely: whether it looks like the sequence that shows gliomas best.
        slices: how many, None where only reading tells.
        series, content: of DICOM, which file and frame each slice is, and the bytes of a file by its number; what
            refers to the scan's slices needs both. None for other kinds.
    """

    label: str
    kind: str
    likely: bool
    slices: int | None
    read: Callable[[str | None], Volume] = field(repr=False)
    series: dicom.DicomSeries | None = field(default=None, repr=False)
    content: Callable[[int], bytes] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Study:
    """What was found in a file, zip or folder.

    Attributes:
        name: what messages call it.
        scans: at least one.
        notes: what the person should know, a sentence each.
    """

    name: str
    scans: tuple[Scan, ...]
    notes: tuple[str, ...] = ()

    @property
    def default(self) -> int:
        """The scan that is taken unless another is chosen: one like FLAIR before others, then the most slices."""
        order = range(len(self.scans))
        return min(order, key=lambda i: (not self.scans[i].likely, -(self.scans[i].slices or 0), i))

    def read(self, scan: int | None = None, plane: str | None = None) -> Volume:
        """Decode one scan.

        Args:
            scan: its index in `scans`; None for `default`.
            plane: `axial`, `coronal` or `sagittal`; by default the one that was scanned.

        Raises:
            BthubError: there is no such scan or plane, or it can't be decoded.
        """
        if scan is None:
            scan = self.default
        if not 0 <= scan < len(self.scans):
            raise BthubError(
                f"{self.name}: there is no scan {scan + 1}, "
                + (f"choose from 1 to {len(self.scans)}" if len(self.scans) > 1 else "it holds one")
            )
        return self.scans[scan].read(plane)


def is_study(source: str | Path) -> bool:
    """Whether a file is read here, by its bytes or by the promise of its name, and not as a picture.

    False for what can't be read at all: reading it as a picture gives the sentence.
    """
    path = str(source)
    if path.lower().endswith(SUFFIXES):
        return True
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as file:
            head = file.read(_HEAD)
            if pages.is_tiff(head) and os.fstat(file.fileno()).st_size <= image_io.MAX_FILE_BYTES:
                return pages.is_tiff_stack(head + file.read())
    except (OSError, ValueError):
        return False
    return _kind(head, path) not in ("", "tiff", "picture")


def holds_dicom(paths: Sequence[str]) -> bool:
    """Whether one of some files is DICOM; those that can't be read are passed over."""
    for path in paths:
        try:
            if stat.S_ISREG(os.stat(path).st_mode):
                with open(path, "rb") as file:
                    if _kind(file.read(_HEAD), path) == "dicom":
                        return True
        except OSError:
            continue
    return False


def open_study(source: str | Path | Sequence[str | Path], *, skip: Callable[[str], bool] | None = None) -> Study:
    """Find the scans in a file, a zip, a folder, or several files.

    Args:
        source: a DICOM or NIfTI file, a TIFF, any other picture (a stack of one), or a zip or folder of one study.
        skip: of a folder, which paths aren't part of the study.

    Raises:
        BthubError: missing, empty, too large, truncated, damaged, or without a scan: one sentence.
    """
    if not isinstance(source, (str, Path)):
        paths = [str(path) for path in source]
        name = f"the {len(paths):,} files"
        return _collected(_Several(paths, name), name)
    name = display_name(str(source))
    path = Path(source)
    with _reading(name):
        is_folder = path.is_dir()
    if is_folder:
        return _collected(_Folder(path, name, skip), name)
    content = read_bytes(path, name)
    kind = _kind(content[:_HEAD], str(source))
    if kind == "zip":
        return _collected(_Zip(content, name), name)
    if kind.startswith("archive"):
        raise BthubError(f"{name}: this is a {kind.split()[1]} archive, which isn't read; pack the study as a zip")
    scans, notes = _scans(_One(content, str(source)), name)
    return Study(name, tuple(scans), tuple(notes))


def _kind(head: bytes, name: str) -> str:
    """What a file is by its first bytes: `zip`, `archive ...`, `dicom`, `nifti`, `tiff`, `picture` or "" for others."""
    if head.startswith(_ZIP):
        return "zip"
    if archive := next((kind for magic, kind in _ARCHIVES.items() if head.startswith(magic)), None):
        return f"archive {archive}"
    if head[257:262] == b"ustar" and head[128:132] != b"DICM":
        return "archive tar"
    if pages.is_tiff(head):
        return "tiff"
    if any(magic.match(head) for magic in image_io.MAGICS):
        return "picture"
    if head[128:132] == b"DICM":
        return "dicom"
    if nifti.is_nifti(head):
        return "nifti"
    return "dicom" if dicom.is_dicom(head) else ""


# -- where files come from


class _Files(Protocol):
    """Files in the order of their names."""

    @property
    def names(self) -> Sequence[str]:
        """For their order and their suffix; never to be shown."""

    @property
    def left_out(self) -> Mapping[str, int]:
        """What else is there, and how many of it."""

    def read(self, index: int) -> bytes:
        """All bytes of a file."""

    def head(self, index: int) -> bytes:
        """The first bytes of a file."""


class _One:
    left_out: Mapping[str, int] = {}

    def __init__(self, content: bytes, name: str) -> None:
        self._content = content
        self.names = [name]

    def read(self, index: int) -> bytes:
        return self._content

    def head(self, index: int) -> bytes:
        return self._content[:_HEAD]


class _Folder:
    """The regular files below a folder, also below linked ones, hidden ones left out."""

    def __init__(self, folder: Path, name: str, skip: Callable[[str], bool] | None = None) -> None:
        self._name = name
        with _reading(name):
            tree = look_below(str(folder))
            if tree.unreadable:
                raise tree.unreadable[0]
            files = [file for file in tree.files if skip is None or not skip(file)]
            there = [file for file in files if os.path.exists(file) or not os.path.islink(file)]
            found = [file for file in there if stat.S_ISREG(os.stat(file).st_mode)]
        self.left_out = {
            "hidden": len(tree.hidden),
            "a link to a file already included": len(tree.repeated),
            "a link that leads nowhere": len(files) - len(there),
            "no regular file": len(there) - len(found),
        }
        if len(found) > MAX_FILES:
            raise BthubError(f"{name}: the folder holds more than {MAX_FILES:,} files, give the folder of one study")
        if not found:
            others = _counted(Counter(self.left_out))
            but = f" but for {others}" if others else ""
            raise BthubError(f"{name}: the folder is empty{but}, expected {EXPECTED}")
        self.names = sorted(found, key=natural)

    def read(self, index: int) -> bytes:
        return read_bytes(Path(self.names[index]), f"{self._name}, file {index + 1} of {len(self.names)}")

    def head(self, index: int) -> bytes:
        with _reading(f"{self._name}, file {index + 1} of {len(self.names)}"), open(self.names[index], "rb") as file:
            return file.read(_HEAD)


class _Several(_Folder):
    """Files that were handed over one by one."""

    def __init__(self, paths: list[str], name: str) -> None:
        self._name = name
        self.left_out = {}
        if not paths:
            raise BthubError("no files were given")
        if len(paths) > MAX_FILES:
            raise BthubError(f"{name}: more than {MAX_FILES:,} are too many, give one study")
        # By their own names: each may lie in a folder of its own.
        self.names = sorted(paths, key=lambda path: natural(os.path.basename(path)))


class _Zip:
    """The files in a zip, none of which is ever written to disk."""

    def __init__(self, content: bytes, name: str) -> None:
        self._name = name
        with self._unzipping():
            self._zip = open_zip(io.BytesIO(content))
            entries = self._zip.infolist()
        if len(entries) > MAX_FILES:
            raise BthubError(f"{name}: the zip holds more than {MAX_FILES:,} files; pack a single study")
        for entry in entries:
            parts = PurePosixPath(entry.filename.replace("\\", "/")).parts
            is_link = stat.S_ISLNK(entry.external_attr >> 16)
            if (
                ".." in parts
                or entry.filename.startswith(("/", "\\"))
                or re.match("[A-Za-z]:", entry.filename)
                or is_link
            ):
                raise BthubError(f"{name}: a path in the zip leads out of it, so nothing of it is read; pack it again")
        there = [entry for entry in entries if not entry.is_dir()]
        files = [entry for entry in there if not any(map(is_hidden, entry.filename.split("/")))]
        self.left_out = {"hidden": len(there) - len(files)}
        if not files:
            raise BthubError(f"{name}: the zip is empty, expected {EXPECTED}")
        if any(entry.flag_bits & 1 for entry in files):
            raise BthubError(f"{name}: the zip is locked with a password, pack it without one")
        real, packed = sum(entry.file_size for entry in files), sum(entry.compress_size for entry in files)
        if real > MAX_UNPACKED_BYTES or real > max(_SMALL, MAX_RATIO * packed):
            raise BthubError(
                f"{name}: the zip unpacks from {packed / 2**20:,.1f} MB to {real / 2**20:,.0f} MB, which is too much;"
                f" at most {MAX_UNPACKED_BYTES >> 20:,} MB and {MAX_RATIO} times its size are read"
            )
        self._entries = sorted(files, key=lambda entry: natural(entry.filename))
        self.names = [entry.filename for entry in self._entries]

    def read(self, index: int) -> bytes:
        with self._unzipping(), self._zip.open(self._entries[index]) as file:
            return file.read()  # never more than the size that was counted

    def head(self, index: int) -> bytes:
        with self._unzipping(), self._zip.open(self._entries[index]) as file:
            return file.read(_HEAD)

    @contextmanager
    def _unzipping(self) -> Iterator[None]:
        try:
            yield
        except BthubError:
            raise
        except Exception:
            # zipfile, zlib, lzma and struct each raise their own kind, some with the name of a file in the zip.
            raise BthubError(f"{self._name}: the zip is truncated or damaged") from None


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """An operating system's error is one sentence, without the path, which may name a patient."""
    try:
        yield
    except FileNotFoundError:
        raise BthubError(f"{name}: no such file") from None
    except PermissionError:
        raise BthubError(f"{name}: permission to read it is denied") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "the path is not valid"
        raise BthubError(f"{name}: cannot be read ({reason})") from None


def read_bytes(path: Path, name: str) -> bytes:
    """All bytes of a regular file of at most MAX_STUDY_BYTES.

    Raises:
        BthubError: missing, empty, too large, or no regular file.
    """
    with _reading(name):
        info = path.stat()
        if not stat.S_ISREG(info.st_mode):  # a pipe or a device may never end
            raise BthubError(f"{name}: this is not a regular file, expected {EXPECTED}")
        if info.st_size > MAX_STUDY_BYTES:
            raise BthubError(f"{name}: the file is too large, at most {MAX_STUDY_BYTES >> 20} MB are read")
        with path.open("rb") as file:
            content = file.read(MAX_STUDY_BYTES)
    if not content:
        raise BthubError(f"{name}: the file is empty (0 bytes)")
    return content


def natural(path: str) -> list[int | str]:
    """A key that puts slice 2 before slice 10; numbers have 18 digits at most, as Python converts no endless ones."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d{1,18})", path)]


# -- what they hold


def _collected(files: "_Files", name: str) -> Study:
    scans, notes = _scans(files, name)
    return Study(name, tuple(scans), tuple(notes))


def _scans(files: "_Files", name: str) -> tuple[list[Scan], list[str]]:
    """The scans in some files, and notes on what was left out."""
    alone = len(files.names) == 1
    frames: list[dicom.Frame] = []
    volumes: list[int] = []
    stacks: list[int] = []
    pictures: list[int] = []
    left_out: Counter[str] = +Counter(files.left_out)
    for index, file in enumerate(files.names):
        called = name if alone else f"{name}, file {index + 1} of {len(files.names)}"
        head = files.head(index)
        kind = _kind(head, file)
        _check_promise(file, kind, called)
        if kind == "zip" or kind.startswith("archive"):
            what = "another zip" if kind == "zip" else f"a {kind.split()[1]} archive"
            raise BthubError(f"{name}: this holds {what}, which isn't opened; unpack it and give the study by itself")
        if kind == "dicom":
            try:
                frames += dicom.read_frames(files.read(index), called, index)
            except dicom.NoScanError as error:
                if alone:
                    raise
                left_out[error.what] += 1
        elif kind == "nifti":
            volumes.append(index)
        elif kind == "tiff" and pages.is_tiff_stack(files.read(index)):
            stacks.append(index)
        elif kind in ("tiff", "picture"):
            pictures.append(index)
        else:
            left_out["no file that can be read"] += 1
    masks = [index for index in volumes if _MASK_NAME.search(_stem(files.names[index]))]
    if len(volumes) > len(masks):
        volumes = [index for index in volumes if index not in masks]
        left_out["a file named as a mask"] += len(masks)
    scans = [
        *_dicom_scans(frames, files, name),
        *_volume_scans(volumes, files, name),
        *_stack_scans(stacks, files, name),
    ]
    outlines = [index for index in pictures if _stem(files.names[index]).endswith("_mask")]
    overlays = [index for index in pictures if _stem(files.names[index]).endswith("_overlay")]
    if scans:
        left_out["a single picture"] += len(pictures)
    else:
        shown = [index for index in pictures if index not in {*outlines, *overlays}]
        left_out["a file named as a mask"] += len(outlines)
        left_out["a file named as an overlay"] += len(overlays)
        scans = [_picture_scan(shown, files, name)] if shown else []
    if not scans:
        raise BthubError(_nothing(name, left_out, alone))
    return scans, [f"Left out: {_counted(left_out)}."] if left_out.total() else []


def _check_promise(file: str, kind: str, called: str) -> None:
    """Refuse a file whose name promises what its bytes don't hold."""
    lower = file.lower()
    promised = (
        "dicom"
        if lower.endswith(dicom.SUFFIXES)
        else "nifti"
        if lower.endswith(nifti.SUFFIXES)
        else "zip"
        if lower.endswith(".zip")
        else "picture"
        if lower.endswith(tuple(image_io.SUFFIXES)) and kind in ("dicom", "nifti", "zip")
        else kind
    )
    if promised != kind:
        said = {"dicom": "a DICOM file", "nifti": "a NIfTI file", "zip": "a zip", "picture": "a picture"}[promised]
        raise BthubError(
            f"{called}: this isn't {said}, although its name says so; it may be damaged or have the wrong suffix"
        )


def _nothing(name: str, left_out: Counter[str], alone: bool) -> str:
    what = +left_out
    others = what.pop("no file that can be read", 0)
    if what:
        return f"{name}: this holds no scan, but {_counted(what)}; expected slices of an MR scan"
    held = "isn't a file that can be read" if alone else f"none of its {others:,} files can be read"
    return f"{name}: {held}, expected {EXPECTED}"


def _counted(what: Counter[str]) -> str:
    """`2 files: a structured report; 1 file: a document`."""
    return "; ".join(f"{count:,} file{'s' * (count > 1)}: {text}" for text, count in what.items() if count)


def _stem(file: str) -> str:
    return re.sub(r"\.(nii\.gz|nii|\w+)$", "", PurePosixPath(file.replace(os.sep, "/")).name, flags=re.I).lower()


def _dicom_scans(frames: Sequence[dicom.Frame], files: "_Files", name: str) -> list[Scan]:
    studies = {frame.study for frame in frames} - {""}  # a file that doesn't say it is taken as one of the others'
    if len(studies) > 1:
        raise BthubError(f"{name}: this holds {len(studies)} studies, give one at a time")

    def reader(one: dicom.DicomSeries) -> Callable[[str | None], Volume]:
        return lambda plane: dicom.read_series(one, files.read, name, plane)

    return [
        Scan(f"DICOM, {one.label}", "DICOM", one.flair_like, len(one.frames), reader(one), one, files.read)
        for one in dicom.group(frames)
    ]


def _volume_scans(volumes: Sequence[int], files: "_Files", name: str) -> list[Scan]:
    def reader(index: int) -> Callable[[str | None], Volume]:
        return lambda plane: nifti.read_nifti(files.read(index), name, plane)

    return [_named("NIfTI", number, len(volumes), files.names[i], reader(i)) for number, i in enumerate(volumes, 1)]


def _stack_scans(stacks: Sequence[int], files: "_Files", name: str) -> list[Scan]:
    def reader(index: int) -> Callable[[str | None], Volume]:
        def read(plane: str | None) -> Volume:
            _unplaned(plane, name)
            return pages.read_tiff(files.read(index), name)

        return read

    return [_named("TIFF", number, len(stacks), files.names[i], reader(i)) for number, i in enumerate(stacks, 1)]


def _named(kind: str, number: int, of: int, file: str, read: Callable[[str | None], Volume]) -> Scan:
    words = list(dict.fromkeys(_NAME_WORDS.findall(_stem(file).replace("_", " "))))
    label = ", ".join([kind, *([f"file {number} of {of}"] if of > 1 else []), *(word.upper() for word in words)])
    return Scan(label, kind, bool({"flair", "t2f"} & set(words)), None, read)


def _picture_scan(pictures: Sequence[int], files: "_Files", name: str) -> Scan:
    def read(plane: str | None) -> Volume:
        _unplaned(plane, name)
        return pages.read_pictures([files.read(index) for index in pictures], name)

    return Scan(f"{len(pictures)} pictures in the order of their names", "pictures", False, len(pictures), read)


def _unplaned(plane: str | None, name: str) -> None:
    if plane is not None:
        raise BthubError(
            f"{name}: pictures don't say how the head is oriented, so no plane can be chosen; leave out the plane"
        )
