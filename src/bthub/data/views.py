"""Views of an LGG slice: its three sequences together in color, or one of them alone in gray."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from bthub.data.progress import progress_bar
from bthub.imaging.image_io import upright_rgb
from bthub.imaging.kinds import FLAIR_LIKE, OTHER_MRI
from bthub.imaging.kinds import THREE_SEQUENCES as THREE_SEQUENCES_KIND

if TYPE_CHECKING:
    from datasets import Dataset

FLAIR = 1
"""Channel of an LGG slice; 0 is pre-contrast, 2 post-contrast."""
AS_IT_IS = "as it is"
THREE_SEQUENCES = "three sequences"
FLAIR_ALONE = "FLAIR"
SEQUENCES = {"pre-contrast": 0, FLAIR_ALONE: FLAIR, "post-contrast": 2}
"""The view that shows one sequence alone, and its channel."""
LGG_VIEWS = (THREE_SEQUENCES, *SEQUENCES)
LGG = "lgg"
INSTITUTIONS = {
    "CS": "Thomas Jefferson University",
    "DU": "Henry Ford Hospital",
    "EZ": "University of North Carolina",
    "FG": "Case Western",
    "HT": "Case Western, St. Joseph's",
}
"""Hospitals of the LGG set, by the code in a patient's name."""


class View(NamedTuple):
    """One way to show one row: which row, the name of its source, and the view's name."""

    row: int
    source: str
    name: str

    @property
    def key(self) -> str:
        """What figures of this source and view are called."""
        return self.source if self.name == AS_IT_IS else f"{self.source}, {self.name}"

    @property
    def kind(self) -> str:
        """The kind of input that it is, one of `bthub.imaging.kinds.KINDS`; pictures of other sets are other MRI."""
        return {THREE_SEQUENCES: THREE_SEQUENCES_KIND, FLAIR_ALONE: FLAIR_LIKE}.get(self.name, OTHER_MRI)


def views(rows: "Dataset", of_lgg: Sequence[str] = LGG_VIEWS) -> list[View]:
    """All views of some rows: an LGG slice in each of `of_lgg`, any other picture as it is.

    Args:
        rows: of LGG, of an image-folder set, or of a mixture.
        of_lgg: some of LGG_VIEWS.
    """
    count, columns = len(rows), rows.column_names
    patients = rows["patient_id"][:] if "patient_id" in columns else [None] * count
    sources = rows["source"][:] if "source" in columns else [LGG if patient else "" for patient in patients]
    return [
        View(row, source, name)
        for row, (patient, source) in enumerate(zip(patients, sources, strict=True))
        for name in (of_lgg if patient else (AS_IT_IS,))
    ]


def show(image: Image.Image, view: str) -> Image.Image:
    """An RGB image as a view shows it, in RGB."""
    return image.getchannel(SEQUENCES[view]).convert("RGB") if view in SEQUENCES else image


def view_batches(
    rows: "Dataset", shown: Sequence[View], size: int, doing: str
) -> Iterator[list[tuple[View, Image.Image]]]:
    """Views and their RGB pictures, `size` at a time, under a progress bar; a row is decoded once for all its views.

    Args:
        rows: of `load_split`.
        shown: of `views`.
        size: pictures in a batch.
        doing: what the bar says.
    """
    batch: list[tuple[View, Image.Image]] = []
    last, image = -1, Image.new("RGB", (1, 1))
    for view in progress_bar(shown, desc=doing, unit="image"):
        if view.row != last:
            last, image = view.row, upright_rgb(rows[view.row]["image"])
        batch.append((view, show(image, view.name)))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
