"""Data sets: from a download to Parquet (`build`), what is in it (`info`), its splits (`splits`)."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bthub.errors import BthubError

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image

__all__ = ["batches", "load_split"]


def load_split(dataset: str | Path, split: str, protocol: str = "patient", revision: str | None = None) -> "Dataset":
    """One split of a data set that `bthub data build` wrote.

    Args:
        dataset: the built folder, or the id of its repository on the Hub.
        split: "train", "validation", "test", or for LGG "benchmark".
        protocol: "patient", "slice", or "fold-1" to "fold-5", how LGG's slices are split. Image-folder sets are split
            in one way and take no notice of it.
        revision: commit, branch or tag of the Hub repository; a folder has none.

    Returns:
        The rows, for LGG in the order of patient_id and slice_index. `image` decodes to a PIL image, LGG's `mask`
        to one of mode L with 0 and 255.

    Raises:
        BthubError: there is no such data set, protocol or split, or its files are damaged.
    """
    # Imported here because `datasets` takes a second, and `bthub --help` should not.
    from bthub.data.built import BuiltDataset

    return BuiltDataset(dataset, revision).load(split, protocol)


def batches(rows: "Dataset", size: int, doing: str) -> Iterator[list["Image"]]:
    """The pictures of some rows in RGB, `size` of them at a time, under a progress bar.

    Args:
        rows: of `load_split`.
        size: pictures in a batch, 1 or more.
        doing: what the bar says.

    Raises:
        BthubError: such a size can't be.
    """
    from tqdm import tqdm

    from bthub.data.images import upright_rgb

    if size < 1:
        raise BthubError(f"expected a batch size of 1 or more, received {size}")
    images = rows.select_columns(["image"])
    with tqdm(total=len(images), desc=doing, unit="image") as progress:
        for start in range(0, len(images), size):
            batch = [upright_rgb(image) for image in images[start : start + size]["image"]]
            yield batch
            progress.update(len(batch))
