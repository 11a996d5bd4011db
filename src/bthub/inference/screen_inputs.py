"""What `bthub screen` reads: folders, zips, DICOM trees and data sets, as one long list in an order that never changes.

The list is walked, not held: a million files take no more memory than ten. Each entry is read later, by a worker.
"""

import os
import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from bthub.errors import BthubError
from bthub.imaging import dicom
from bthub.imaging.checks import MAX_FILE_BYTES, printable
from bthub.imaging.image_io import SUFFIXES, read_image, read_picture_bytes

DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})
_WANTED = f"expected pictures ({', '.join(sorted(SUFFIXES))}), DICOM files, zips or a built data set"


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


def walk(inputs: list[str]) -> Iterator[Item]:
    """The entries of all inputs, in the order of the inputs; of a folder the files by name, then its folders.

    Args:
        inputs: pictures, DICOM files, folders of them and of zips, zips, folders of `bthub data build`, Hub ids of data
            sets. Hidden files and masks named as in the LGG set (`*_mask.tif`) are left out.

    Raises:
        BthubError: an input isn't there, or nothing in it can be read.
    """
    for name in inputs:
        path = Path(name)
        found = False
        if path.is_dir() and (path / "README.md").is_file() and any((path / "data").rglob("*.parquet")):
            entries = _built(path)
        elif path.is_dir():
            entries = _folder(path)
        elif path.is_file():
            entries = _zip(path) if zipfile.is_zipfile(path) else iter([_file(path)])
        elif re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) and not path.parent.is_dir():
            entries = _hub(name)
        else:
            raise BthubError(f"{printable(name)}: no such file or folder, {_WANTED}")
        for item in entries:
            found = True
            yield item
        if not found:
            raise BthubError(f"{printable(name)}: nothing in it can be read, {_WANTED}")


def _wanted(name: str) -> bool:
    path = Path(name)
    suffix = path.suffix.lower()
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    if hidden or path.stem.endswith("_mask") or path.name == "DICOMDIR":
        return False
    return suffix in SUFFIXES or suffix in DICOM_SUFFIXES or suffix == "" or suffix[1:].isdigit()


def _file(path: Path) -> Item:
    def content() -> bytes:
        try:
            if not path.is_file():
                raise BthubError(f"{printable(path)}: no such file, or none that is regular")
            with open(path, "rb") as file:
                return file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise BthubError(f"{printable(path)}: the file cannot be read ({error.strerror})") from error

    return Item(str(path), content)


def _folder(folder: Path) -> Iterator[Item]:
    def unreadable(error: OSError) -> None:
        raise BthubError(f"{printable(error.filename)}: the folder cannot be read ({error.strerror})") from error

    for parent, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(parent, name)
            if name.lower().endswith(".zip") and not name.startswith("."):
                yield from _zip(path)
            elif _wanted(name) and (path.suffix or _is_dicom(path)):
                yield _file(path)


def _is_dicom(path: Path) -> bool:
    """Of a file without a suffix, as DICOM trees have them."""
    try:
        with open(path, "rb") as file:
            return dicom.is_dicom(file.read(132))
    except OSError:
        return True  # reading it will say what is wrong


def _zip(path: Path) -> Iterator[Item]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = sorted(info.filename for info in archive.infolist() if not info.is_dir())
    except (OSError, zipfile.BadZipFile) as error:
        reason = error  # kept: the name of an exception is gone after its block

        def broken() -> bytes:
            raise BthubError(f"{printable(path)}: the zip is damaged") from reason

        yield Item(str(path), broken)
        return
    for member in members:
        if _wanted(member):
            yield Item(f"{path}!/{member}", partial(_member, path, member))


@lru_cache(maxsize=4)
def _opened(path: Path, changed: int) -> zipfile.ZipFile:
    """A zip that is kept open, for all threads: opened for each member, one of n members would be listed n times."""
    return zipfile.ZipFile(path)


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
