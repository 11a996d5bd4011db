"""Uploaded files -> pictures or a stack. `bthub.imaging` recognizes the files.

A stack's place in its scan is kept as JSON, so that a mask that was corrected a year later still fits the scan.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bthub.errors import BthubError
from bthub.imaging.intake import Study, holds_dicom, is_study, open_study
from bthub.imaging.nifti import mask_nifti
from bthub.imaging.volume import Grid, Volume
from bthub.inference.pipeline import ReadPicture, read_picture
from bthub.practice.models import Upload


def study_of(files: Sequence[tuple[str, Path]]) -> Study | None:
    """The study that uploaded files are; None where they are pictures.

    Args:
        files: the name that the browser gave, and where the content lies.

    Raises:
        BthubError: they are a study that can't be read, or several.
    """
    paths = [path for _, path in files]
    if len(paths) == 1:
        return open_study(paths[0]) if is_study(paths[0]) else None
    if holds_dicom([str(path) for path in paths]):
        return open_study(paths)
    if any(is_study(path) for path in paths):
        raise BthubError("several studies came at once: upload one NIfTI, zip or stack at a time")
    return None


def laid_out(uploads: Sequence[Upload], folder: Path, read: Callable[[str], bytes]) -> list[tuple[str, Path]]:
    """Put stored uploads where readers find them.

    Args:
        uploads: in their order.
        folder: for this alone; whoever made it removes it.
        read: gives a stored file's bytes by its address.

    Returns:
        The name that the browser gave, and where the content lies.
    """
    files = []
    for upload in uploads:
        # The number in front keeps files of one name apart; the end tells readers what it is.
        path = folder / f"{upload.position:05d}-{_safe(upload.name)}"
        path.write_bytes(read(upload.file))
        files.append((upload.name, path))
    return files


def _safe(name: str) -> str:
    """A file's name without anything a path could mean; its suffix stays."""
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in name)[-80:].lstrip(".") or "file"


def pictures_of(files: Sequence[tuple[str, Path]]) -> Iterator[tuple[str, ReadPicture | BthubError]]:
    """Each picture with its name, or why it can't be read."""
    for name, path in files:
        try:
            yield name, read_picture(path)._replace(name=name)
        except BthubError as error:
            yield name, BthubError(renamed(str(error), path, name))


def renamed(text: str, path: Path, name: str) -> str:
    """A message with the name that the browser gave in the place of the file's here."""
    return text.replace(str(path), name).replace(path.name, name).replace(f"{path.parent}", "")


def geometry(volume: Volume, scans: Sequence[str], scan: int) -> dict[str, Any]:
    """What places a mask of this stack in its scan, and which scan of the study it is, in JSON types."""
    grid = volume.grid
    return {
        "kind": volume.kind,
        "plane": volume.plane,
        "shape": [int(side) for side in volume.slices.shape[:3]],
        "scans": list(scans),
        "scan": scan,
        "grid": grid
        and {
            "shape": [int(side) for side in grid.shape],
            "affine": [[float(value) for value in row] for row in grid.affine],
            "codes": [int(code) for code in grid.codes],
            "axes": [int(axis) for axis in grid.axes],
            "flips": [bool(flip) for flip in grid.flips],
        },
    }


def nifti_of(geometry: dict[str, Any], masks: np.ndarray) -> bytes:
    """Masks as a .nii.gz in the scan's own grid.

    Args:
        geometry: of the function of this name.
        masks: bool (n, h, w), one a slice.

    Raises:
        BthubError: the scan gave no position or orientation for its slices.
    """
    known = geometry.get("grid")
    grid = known and Grid(
        tuple(known["shape"]),
        np.array(known["affine"]),
        tuple(known["codes"]),
        tuple(known["axes"]),
        tuple(known["flips"]),
    )
    # The pixels aren't kept as an array: what is asked of the stack is its shape.
    empty = np.broadcast_to(np.uint8(0), geometry["shape"])
    return mask_nifti(Volume(empty, geometry["kind"], geometry["plane"], grid=grid), masks)
