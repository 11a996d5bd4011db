"""`dataset.json`: what a built data set is, so that nothing has to be guessed from its name or its columns."""

from collections.abc import Collection
from pathlib import Path

import msgspec

from bthub.data.splits import FOLD_PROTOCOLS, PROTOCOLS
from bthub.errors import BthubError

FACTS = "dataset.json"
PATIENT, PICTURE = "patient", "picture"
"""What a set is grouped by: its patients, or pictures with their near-duplicates."""
DEFAULT = "default"
"""The protocol of a set that is split in one way."""


class Facts(msgspec.Struct, frozen=True):
    """What a data set is.

    Attributes:
        name, title: of the set: a short one, and the one that its publisher gives it.
        license: whose terms the weights carry that are trained on it; None where it is unknown.
        link: where it is published.
        grouped_by: PATIENT or PICTURE.
        masks, boxes: whether some of its pictures have them.
        shown: whether its pictures may be shown and published.
        protocols: the ways that it is split.
        sources: of a mixture, its sets.
    """

    name: str
    title: str
    license: str | None = None
    link: str | None = None
    grouped_by: str = PICTURE
    masks: bool = False
    boxes: bool = False
    shown: bool = False
    protocols: tuple[str, ...] = (DEFAULT,)
    sources: tuple[str, ...] = ()

    @property
    def patients(self) -> bool:
        """Whether its rows, of a mixture some of them, name their patient."""
        return self.grouped_by == PATIENT

    @property
    def split_in_several_ways(self) -> bool:
        """Whether it has protocols to choose from."""
        return DEFAULT not in self.protocols


LGG = Facts(
    name="lgg-mri-segmentation",
    title="LGG MRI Segmentation",
    license="cc-by-nc-sa-4.0",
    link="https://www.kaggle.com/datasets/mateuszbuda/lgg-mri-segmentation",
    grouped_by=PATIENT,
    masks=True,
    shown=True,
    protocols=(*PROTOCOLS, *FOLD_PROTOCOLS),
)
# By their classes: what a built set is called is up to who built it.
PUBLISHED = {
    ("glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor"): (
        "Brain Tumor Classification (MRI)",
        "https://www.kaggle.com/datasets/sartajbhuvaji/brain-tumor-classification-mri",
    ),
    ("no", "yes"): (
        "Brain MRI Images for Brain Tumor Detection",
        "https://www.kaggle.com/datasets/navoneel/brain-mri-images-for-brain-tumor-detection",
    ),
}


# What the sets of the shipped models are, by the names that docs/data.md gives to the built sets: titles and links.
SOURCES: dict[str, tuple[tuple[str, str | None], ...]] = {
    "lgg": ((LGG.title, LGG.link),),
    "4class": (PUBLISHED["glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor"],),
    "253": (PUBLISHED["no", "yes"],),
    "t1": (
        ("Jun Cheng's brain tumor dataset", "https://doi.org/10.6084/m9.figshare.1512427"),
        ("healthy pictures of Br35H", "https://www.kaggle.com/datasets/ahmedhamada0/brain-tumor-detection"),
    ),
}


def of_pictures(name: str, labels: Collection[str], boxes: bool = False) -> Facts:
    """The facts of an image-folder set: the terms of none are known."""
    title, link = (name, None) if boxes else PUBLISHED.get(tuple(sorted(labels)), (name, None))
    return Facts(name, title, link=link, boxes=boxes)


def of_mixture(name: str, sets: Collection[Facts], sources: tuple[str, ...]) -> Facts:
    """The facts of a mixture: it is as bound as the most bound of its sets, and none of its pictures is shown."""
    return Facts(
        name,
        name,
        license=next((one.license for one in sets if one.license), None),
        grouped_by=PATIENT if any(one.patients for one in sets) else PICTURE,
        masks=any(one.masks for one in sets),
        boxes=any(one.boxes for one in sets),
        sources=sources,
    )


def write(folder: Path, facts: Facts) -> None:
    """Write `dataset.json`."""
    (folder / FACTS).write_bytes(encoded(facts))


def encoded(facts: Facts) -> bytes:
    """The content of `dataset.json`."""
    return msgspec.json.format(msgspec.json.encode(facts), indent=2) + b"\n"


def read(file: Path) -> Facts:
    """Read `dataset.json`.

    Raises:
        BthubError: it isn't as `bthub data build` writes it.
    """
    try:
        return msgspec.json.decode(file.read_bytes(), type=Facts)
    except msgspec.MsgspecError as error:
        raise BthubError(f"{file} isn't in the format of this version ({error}): build the set again") from error


def derived(name: str, columns: Collection[str], configs: Collection[str] = (), labels: Collection[str] = ()) -> Facts:
    """The facts of a set that was built, or trained on, before they were written. Understood until version 0.3.

    Args:
        name: of the set.
        columns: of its rows.
        configs: its protocols.
        labels: its classes.
    """
    if "file" in columns and "patient_id" in columns:
        return of_mixture(name, [LGG], sources=(name,))
    if "patient_id" in columns or set(PROTOCOLS) <= set(configs):
        return LGG
    return of_pictures(name, labels, boxes="box" in columns)
