"""Uploaded files -> the series of pictures in them. What the files are is `bthub.imaging`'s affair."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from bthub.errors import BthubError
from bthub.inference.pipeline import ReadPicture, read_picture

PICTURES, VOLUME = "pictures", "volume"


@dataclass
class Series:
    """Pictures that belong together.

    Attributes:
        title: what lists call it; None: as the upload is called.
        kind: PICTURES or VOLUME.
        total: how many pictures.
        pictures: each with its name, or why it can't be read.
        spacing_mm: between slices (None for pictures), rows and columns; None where it isn't known.
        geometry: what places a mask in the scan's own grid; None for pictures.
        examined_on: the day of the scan, where the files tell it.
    """

    title: str | None
    kind: str
    total: int
    pictures: Iterator[tuple[str, ReadPicture | BthubError]]
    spacing_mm: tuple[float | None, float, float] | None = None
    geometry: dict[str, Any] | None = None
    examined_on: date | None = None


def series_of(files: Sequence[tuple[str, Path]]) -> list[Series]:
    """What uploaded files hold.

    Args:
        files: the name that the browser gave, and where the content lies.

    Raises:
        BthubError: nothing in them can be read.
    """
    return [Series(None, PICTURES, len(files), _pictures(files))]


def _pictures(files: Sequence[tuple[str, Path]]) -> Iterator[tuple[str, ReadPicture | BthubError]]:
    for name, path in files:
        try:
            yield name, read_picture(path)._replace(name=name)
        except BthubError as error:
            yield name, BthubError(str(error).replace(str(path), name))
