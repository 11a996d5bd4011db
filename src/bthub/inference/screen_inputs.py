"""What `bthub screen` reads: folders, zips, DICOM trees and data sets, as one long list in an order that never changes.

The list is walked: of a million files no more than the names are held. Each entry is read later, by a worker.
"""

import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from bthub.errors import BthubError
from bthub.imaging import dicom
from bthub.imaging.checks import MAX_FILE_BYTES, printable
from bthub.imaging.folders import is_hidden, left_out, look_below
from bthub.imaging.image_io import SUFFIXES, read_image, read_picture_bytes
from bthub.imaging.zips import open_zip

DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})
_WANTED = f"expected pictures ({', '.join(sorted(SUFFIXES))}), DICOM files, zips or a built data set"
_OTHERS = "files of other kinds"


@dataclass(frozen=True)
class Item:
    """One entry of the list.

    Attributes:
        key: names it, the same whenever the list is walked: a path, `archive.zip!/member`, or a row of a data set.
        content: reads its bytes.
    """

    key: str
    content: Callable[[], bytes]

    def pictures(self) -> list[np.ndarray]:
        """Its pictures, uint8 RGB (H, W, 3): one, or the frames of a DICOM file.

        Raises:
            BthubError: it can't be read.
        """
        name = printable(self.key)
        content = self.content()
        if len(content) > MAX_FILE_BYTES:
            raise BthubError(f"{name}: the file is too large, at most {MAX_FILE_BYTES >> 20} MB are read")
        if dicom.is_dicom(content[:132]):
            return [read_image(frame) for frame in _dicom_frames(content, name)]
        image = read_picture_bytes(content, name)
        if np.ptp(image) <= 1:
            raise BthubError(f"{name}: the picture is blank, all its pixels have the same value")
        return [image]


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


def _file(path: Path) -> Item:
    def content() -> bytes:
        try:
            if not path.is_file():
                raise BthubError(f"{printable(path)}: no such file, or not a regular file")
            with open(path, "rb") as file:
                return file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise BthubError(f"{printable(path)}: the file cannot be read ({error.strerror})") from error

    return Item(str(path), content)


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
            members = sorted(info.filename for info in archive.infolist() if not info.is_dir())
    except (OSError, zipfile.BadZipFile) as error:
        cause = error  # kept: the name of an exception is gone after its block

        def broken() -> bytes:
            raise BthubError(f"{printable(path)}: the zip is damaged") from cause

        yield Item(str(path), broken)
        return
    for member in members:
        reason = "hidden" if any(map(is_hidden, PurePosixPath(member).parts)) else _unwanted(member)
        if reason:
            left.setdefault(reason, []).append(member)
        else:
            yield Item(f"{path}!/{member}", partial(_member, path, member))


@lru_cache(maxsize=4)
def _opened(path: Path, changed: int) -> zipfile.ZipFile:
    """A zip that is kept open, for all threads: opened for each member, one of n members would be listed n times."""
    return open_zip(path)


def _member(path: Path, member: str) -> bytes:
    name = printable(f"{path}!/{member}")
    try:
        archive = _opened(path, path.stat().st_mtime_ns)
        with archive.open(member) as file:
            return file.read(MAX_FILE_BYTES + 1)  # whatever the zip says of its size
    except RuntimeError as error:  # it is encrypted
        raise BthubError(f"{name}: cannot be unpacked ({error})") from error
    except Exception as error:  # zlib, lzma and bz2 each raise their own kind
        raise BthubError(f"{name}: cannot be unpacked, the zip is damaged") from error


def _built(folder: Path) -> Iterator[Item]:
    """The rows of a built data set, of all splits: each lies in one file."""
    import pyarrow.parquet as parquet

    for file in sorted((folder / "data").rglob("*.parquet")):
        table = parquet.ParquetFile(file)
        names = [name for name in ("patient_id", "slice_index", "file") if name in table.schema_arrow.names]
        for group in range(table.num_row_groups):
            for number, row in enumerate(table.read_row_group(group, columns=names).to_pylist()):
                key = f"{folder}#{'/'.join(str(row[name]) for name in names)}"
                yield Item(key, partial(_row, file, group, number))


def _row(file: Path, group: int, number: int) -> bytes:
    return bytes(_images(file, group)[number].as_py()["bytes"])


@lru_cache(maxsize=4)
def _images(file: Path, group: int) -> Any:
    """The encoded images of a row group, some megabytes; kept, because its rows come one after the other."""
    import pyarrow.parquet as parquet

    return parquet.ParquetFile(file).read_row_group(group, columns=["image"])["image"]


def _hub(name: str) -> Iterator[Item]:
    """The rows of a data set on the Hub, streamed."""
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise BthubError(f'{name}: to stream a data set install datasets: pip install "bthub[train]"') from error
    try:
        config = datasets.get_dataset_config_names(name)[0]
        for split, rows in datasets.load_dataset(name, config, streaming=True).items():
            for number, row in enumerate(rows.cast_column("image", datasets.Image(decode=False))):
                yield Item(f"{name}#{split}/{number}", partial(bytes, row["image"]["bytes"]))
    except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
        raise BthubError(f"{name}: neither a file or folder here nor a data set on the Hub ({error})") from error


def _dicom_frames(content: bytes, name: str) -> list[np.ndarray]:
    """The frames of a DICOM file, uint8 (H, W), in the window that it names."""
    series = dicom.group(dicom.read_frames(content, name))
    return [frame for one in series for frame in dicom.read_series(one, lambda _: content, name).slices]
