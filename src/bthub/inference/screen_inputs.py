"""What `bthub screen` reads: folders, zips, DICOM trees and data sets, as one long list in an order that never changes.

The list is walked: of a million files no more than the names are held. Each entry is read later, by a worker.
"""

import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np

from bthub.errors import BthubError
from bthub.imaging import dicom
from bthub.imaging.checks import MAX_FILE_BYTES, printable
from bthub.imaging.folders import is_hidden, left_out, look_below
from bthub.imaging.image_io import SUFFIXES, name_of, read_image, read_picture_bytes
from bthub.imaging.intake import MAX_STUDY_BYTES
from bthub.imaging.zips import open_zip

DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})
_WANTED = f"expected pictures ({', '.join(sorted(SUFFIXES))}), DICOM files, zips or a built data set"
_OTHERS = "files of other kinds"
_LFS = b"version https://git-lfs"


@dataclass(frozen=True)
class Item:
    """One entry of the list.

    Attributes:
        key: names it, the same whenever the list is walked: a path, `archive.zip!/member`, or a row of a data set. It
            can be written as UTF-8, see `_key`.
        content: reads its bytes.
    """

    key: str
    content: Callable[[], bytes]

    def pictures(self) -> list[tuple[int, np.ndarray | BthubError]]:
        """Its pictures, uint8 RGB (H, W, 3), each with the number of its frame, from 0: one, or those of a DICOM file.

        In the place of a frame that can't be analyzed, such as a blank one, is why.

        Raises:
            BthubError: it can't be read.
        """
        name = printable(self.key)
        content = self.content()
        is_dicom = dicom.is_dicom(content[:132])
        most = MAX_STUDY_BYTES if is_dicom else MAX_FILE_BYTES
        if len(content) > most:
            raise BthubError(f"{name}: the file is too large, at most {most >> 20} MB are read")
        if is_dicom:
            return [
                (number, _frame(frame, f"{name}, frame {number + 1}")) for number, frame in _dicom_frames(content, name)
            ]
        image = read_picture_bytes(content, name)
        if np.ptp(image) <= 1:
            raise BthubError(f"{name}: the picture is blank, all its pixels have the same value")
        return [(0, image)]


def walk(inputs: list[str], say: Callable[[str], None] | None = None) -> Iterator[Item]:
    """The entries of all inputs, in the order of the inputs; of a folder the files by name, then its folders.

    Args:
        inputs: pictures, DICOM files, folders of them and of zips, zips, folders of `bthub data build`, Hub ids of data
            sets. Links are followed, each once. Hidden files, masks named as in the LGG set (`*_mask.tif`), overlays of
            `bthub predict` and files of other kinds are left out.
        say: is given, after the last entry of an input, a line that counts and names what was left out of it.

    Raises:
        BthubError: an input isn't there, or nothing in it can be read.
    """
    for name in inputs:
        if not name:  # as a path it would be the current folder
            raise BthubError(f"an input is empty, perhaps of a variable that isn't set, {_WANTED}")
        path = Path(name)
        found = False
        left: dict[str, list[str]] = {}
        if path.is_dir() and (path / "README.md").is_file() and any((path / "data").rglob("*.parquet")):
            entries = _built(path)
        elif path.is_dir():
            entries = _folder(path, left)
        elif path.is_file():
            entries = _zip(path, left) if zipfile.is_zipfile(path) else iter([_file(path)])
        elif re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) and not path.parent.is_dir():
            entries = _hub(name)
        else:
            raise BthubError(f"{printable(name)}: no such file or folder, {_WANTED}")
        for item in entries:
            found = True
            yield item
        note = left_out(left)
        if not found:
            raise BthubError(
                f"{printable(name)}: nothing in it can be read, {_WANTED}" + (f"; it has {note}" if note else "")
            )
        if note and say is not None:
            say(f"{printable(name)}: left out {note}")


def _unwanted(name: str) -> str:
    """Why a file is left out, by its name; "" where it isn't."""
    path = PurePosixPath(name)
    stem, suffix = path.stem.lower(), path.suffix.lower()
    if stem.endswith("_mask"):
        return "files named as masks"
    if stem.endswith("_overlay"):
        return "files named as overlays"
    known = suffix in SUFFIXES or suffix in DICOM_SUFFIXES or suffix == "" or suffix[1:].isdigit()
    return "" if known and path.name != "DICOMDIR" else _OTHERS


def _key(name: str) -> str:
    """A name as the results have it: bytes of a file's name that aren't UTF-8 are written as escapes, like \\xe9."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _bytes(file: IO[bytes]) -> bytes:
    """What is in an open file, not much more than may be read of it."""
    content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES and dicom.is_dicom(content[:132]):
        content += file.read(MAX_STUDY_BYTES - MAX_FILE_BYTES)
    return content


def _file(path: Path) -> Item:
    def content() -> bytes:
        try:
            if not path.is_file():
                raise BthubError(f"{printable(path)}: no such file, or not a regular file")
            with open(path, "rb") as file:
                return _bytes(file)
        except OSError as error:
            raise BthubError(f"{printable(path)}: the file cannot be read ({error.strerror})") from error

    return Item(_key(str(path)), content)


def _folder(folder: Path, left: dict[str, list[str]]) -> Iterator[Item]:
    tree = look_below(str(folder), lambda file: Path(file).suffix != "" and not _unwanted(Path(file).name))
    for error in tree.unreadable:
        raise BthubError(f"{printable(error.filename)}: the folder cannot be read ({error.strerror})") from error
    left |= {"hidden": tree.hidden, "links to files already included": tree.repeated}

    def files_first(file: str) -> list[tuple[bool, str]]:
        *folders, name = Path(file).parts
        return [*((True, one) for one in folders), (False, name)]

    for file in sorted(tree.files, key=files_first):
        path = Path(file)
        if path.suffix.lower() == ".zip":
            yield from _zip(path, left)
        elif reason := _unwanted(path.name) or (_OTHERS if not path.suffix and not _is_dicom(path) else ""):
            left.setdefault(reason, []).append(file)
        else:
            yield _file(path)


def _is_dicom(path: Path) -> bool:
    """Of a file without a suffix, as DICOM trees have them."""
    try:
        with open(path, "rb") as file:
            return dicom.is_dicom(file.read(132))
    except OSError:
        return True  # reading it will say what is wrong


def _zip(path: Path, left: dict[str, list[str]]) -> Iterator[Item]:
    try:
        with open_zip(path) as archive:
            # By their places too: a name may be there twice.
            members = sorted((info.filename, at) for at, info in enumerate(archive.infolist()) if not info.is_dir())
    except (OSError, zipfile.BadZipFile) as error:
        cause = error  # kept: the name of an exception is gone after its block

        def broken() -> bytes:
            raise BthubError(f"{printable(path)}: the zip is damaged") from cause

        yield Item(_key(str(path)), broken)
        return
    for member, place in members:
        reason = "hidden" if any(map(is_hidden, PurePosixPath(member).parts)) else _unwanted(member)
        if reason:
            left.setdefault(reason, []).append(member)
        else:
            yield Item(_key(f"{path}!/{member}"), partial(_member, path, member, place))


@lru_cache(maxsize=4)
def _opened(path: Path, changed: int) -> zipfile.ZipFile:
    """A zip that is kept open, for all threads: opened for each member, one of n members would be listed n times."""
    return open_zip(path)


def _member(path: Path, member: str, place: int) -> bytes:
    name = printable(f"{path}!/{member}")
    try:
        archive = _opened(path, path.stat().st_mtime_ns)
        with archive.open(archive.infolist()[place]) as file:
            return _bytes(file)  # whatever the zip says of its size
    except RuntimeError as error:  # it is encrypted
        raise BthubError(f"{name}: cannot be unpacked ({error})") from error
    except Exception as error:  # zlib, lzma and bz2 each raise their own kind
        raise BthubError(f"{name}: cannot be unpacked, the zip is damaged") from error


def _built(folder: Path) -> Iterator[Item]:
    """The rows of a built data set, of all splits: each lies in one file."""
    files = sorted((folder / "data").rglob("*.parquet"))
    for file in files:  # all of them before the first is read: not after hours of work
        _opened_parquet(file).close()
    for file in files:
        with _opened_parquet(file) as table:
            names = [name for name in ("patient_id", "slice_index", "file") if name in table.schema_arrow.names]
            for group in range(table.num_row_groups):
                with _reading(file):
                    rows = table.read_row_group(group, columns=names).to_pylist() if names else ()
                for number in range(table.metadata.row_group(group).num_rows):
                    place = file.relative_to(folder / "data").as_posix(), group, number
                    named = (rows[number][name] for name in names) if names else place
                    key = _key(f"{folder}#{'/'.join(map(str, named))}")
                    yield Item(key, partial(_row, file, group, number, key))


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """What pyarrow can't read is one sentence."""
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, OSError) as error:
        pointer = False
        if isinstance(error, ArrowException):
            with open(file, "rb") as content:
                pointer = content.read(len(_LFS)) == _LFS
        raise BthubError(
            f"{printable(file)}: this is a pointer of Git LFS and not the file: fetch the files with `git lfs pull`"
            if pointer
            else f"{printable(file)}: cannot be read as Parquet ({printable(error)}): download or build the set again"
        ) from error


def _opened_parquet(file: Path) -> Any:
    """A file of a data set, to be closed.

    Raises:
        BthubError: it isn't Parquet, or has no pictures.
    """
    from pyarrow import parquet, types

    with _reading(file):
        table = parquet.ParquetFile(file)
    columns = {field.name: field.type for field in table.schema_arrow}
    kind = columns.get("image")
    encoded = kind if kind is None or not types.is_struct(kind) else {one.name: one.type for one in kind}.get("bytes")
    if encoded is None or not (types.is_binary(encoded) or types.is_large_binary(encoded)):
        table.close()
        raise BthubError(
            f"{printable(file)}: no data set of pictures, its columns are {printable(', '.join(columns))}; expected a "
            "column image with the bytes of picture files, as `bthub data build` writes it"
        )
    return table


def _row(file: Path, group: int, number: int, key: str) -> bytes:
    with _reading(file):
        value = _images(file, group)[number].as_py()
    return _encoded(value, key)


def _encoded(value: Any, key: str) -> bytes:
    """The bytes of the picture in a row.

    Raises:
        BthubError: it has none.
    """
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise BthubError(f"{printable(key)}: the row has no picture, expected the bytes of a file in its column image")
    return content


@lru_cache(maxsize=4)
def _images(file: Path, group: int) -> Any:
    """The encoded images of a row group, some megabytes; kept, because its rows come one after the other."""
    with _opened_parquet(file) as table:
        return table.read_row_group(group, columns=["image"])["image"]


def _hub(name: str) -> Iterator[Item]:
    """The rows of a data set on the Hub, streamed."""
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise BthubError(f'{name}: to stream a data set install datasets: pip install "bthub[train]"') from error
    try:
        config = datasets.get_dataset_config_names(name)[0]
        for split, rows in datasets.load_dataset(name, config, streaming=True).items():
            columns = rows.column_names
            if columns is not None and "image" not in columns:
                raise BthubError(
                    f"{name}: no data set of pictures, its columns are {', '.join(columns)}; expected image"
                )
            for number, row in enumerate(rows.cast_column("image", datasets.Image(decode=False))):
                key = f"{name}#{split}/{number}"
                yield Item(key, partial(_encoded, row.get("image"), key))
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise BthubError(f"{name}: neither a file or folder here nor a data set on the Hub ({error})") from error


def _frame(pixels: np.ndarray, name: str) -> np.ndarray | BthubError:
    """A frame, uint8 (H, W), as a picture, or why it isn't analyzed."""
    try:
        return read_image(pixels)
    except BthubError as error:
        return BthubError(str(error).replace(name_of(pixels), name, 1))


def _dicom_frames(content: bytes, name: str) -> list[tuple[int, np.ndarray]]:
    """The frames of a DICOM file in its own order, from 0: uint8 (H, W), in the window that it names."""
    found = []
    for series in dicom.group(dicom.read_frames(content, name)):
        volume = dicom.read_series(series, lambda _: content, name)
        frames = series.frames
        if frames[0].normal is not None:
            # By their positions: the slices of an upright volume may run the other way.
            first = np.zeros(volume.slices.shape[:3], bool)
            first[0] = True
            if not dicom.to_frames(series, first, name)[0].any():
                frames = frames[::-1]
        found += [(frame.index, pixels) for frame, pixels in zip(frames, volume.slices, strict=True)]
    return sorted(found, key=lambda one: one[0])
