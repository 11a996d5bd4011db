"""Reading what `build` wrote, from its folder or from the Hub."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import (
    ClassLabel,
    Dataset,
    Features,
    concatenate_datasets,
    get_dataset_config_names,
    get_dataset_split_names,
    load_dataset,
)
from datasets.exceptions import DatasetsError
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HTTPError  # type: ignore[attr-defined]
from PIL.Image import Image

from bthub.data.facts import DEFAULT, FACTS, Facts, derived, read
from bthub.data.network import check_hub, hub_trouble
from bthub.data.progress import progress_bar
from bthub.data.splits import FOLD_PROTOCOLS, PROTOCOLS, fold_split
from bthub.errors import BthubError
from bthub.imaging.image_io import upright_rgb


class BuiltDataset:
    """A data set as `build` writes it.

    Args:
        dataset: the built folder, or the id of its repository on the Hub.
        revision: commit, branch or tag on the Hub.

    Raises:
        BthubError: there is no such data set, or the folder was not written by `build`.
    """

    def __init__(self, dataset: str | Path, revision: str | None = None) -> None:
        self.name = str(dataset)
        path = Path(dataset)
        if not self.name:
            raise BthubError("the data set has no name; give a folder that `bthub data build` wrote or a Hub id")
        if path.exists():
            if not (path / "README.md").is_file() or not any((path / "data").rglob("*.parquet")):
                raise BthubError(
                    f"{dataset}: not a built data set (no README.md with data/*.parquet); "
                    f"write one with `bthub data build {dataset} OUT` and give OUT"
                )
            revision = None
        elif path.parts[:1] == ("data",):  # where this project keeps them: not to be looked up on the Hub
            raise BthubError(f"{dataset} isn't there: write it with `bthub data build DOWNLOAD {dataset}`")
        elif not re.fullmatch(r"\w[\w.-]*/[\w.-]+", self.name):
            raise BthubError(f"{dataset}: no such folder; give a folder that `bthub data build` wrote or a Hub id")
        self.remote = not path.exists()
        if self.remote:
            check_hub()
        self.revision = revision
        with self._reading():
            self.configs = get_dataset_config_names(self.name, revision=revision)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if self.remote and _of_network(error):
                raise BthubError(
                    f"{self.name} isn't a folder here, and it can't be downloaded from the Hub: {hub_trouble(error)}"
                ) from error
            if not isinstance(error, (DatasetsError, OSError, ValueError)):
                raise
            if (full := _full_disk(error)) is not None:
                raise BthubError(
                    f"{self.name}: no space is left for its copy in the cache ({full.strerror}); free some, or name "
                    "another folder with HF_DATASETS_CACHE"
                ) from error
            reason = str(error).partition("\n")[0]
            raise BthubError(
                f"{self.name}: cannot be read as a data set ({reason}); build or download it again, "
                "and if it is a Hub id check its spelling and the network"
            ) from error

    @cached_property
    def facts(self) -> Facts:
        """What the set is: its `dataset.json`, or what its columns tell of one that was built before there was that."""
        folder = Path(self.name)
        if self.remote:
            try:
                return read(Path(hf_hub_download(self.name, FACTS, repo_type="dataset", revision=self.revision)))
            except (EntryNotFoundError, OSError):
                return derived(self.name, (), self.configs)
        if (folder / FACTS).is_file():
            return read(folder / FACTS)
        first = next((folder / "data").rglob("*.parquet"))
        with self._reading():
            features = Features.from_arrow_schema(pq.read_schema(first))
        self._check(features)
        return derived(folder.resolve().name, features, self.configs, features["label"].names)

    def config(self, protocol: str) -> str:
        """The configuration that holds a protocol."""
        known = PROTOCOLS + FOLD_PROTOCOLS
        if protocol not in known:
            raise BthubError(f"unknown protocol {protocol!r}; choose one of {', '.join(known)}")
        # A fold's splits are made of those of protocol patient: on the Hub there is no configuration for it.
        config = "patient" if protocol in FOLD_PROTOCOLS else protocol
        config = config if protocol in self.facts.protocols else DEFAULT
        if config not in self.configs:
            raise BthubError(
                f"{self.name}: no configuration {config!r}, only {', '.join(self.configs)}; "
                "write the data set with `bthub data build`"
            )
        return config

    def splits(self, protocol: str = "patient") -> list[str]:
        """The names of the splits that are there."""
        config = self.config(protocol)
        with self._reading():
            return get_dataset_split_names(self.name, config, revision=self.revision)

    def load(self, split: str, protocol: str = "patient") -> Dataset:
        """See `bthub.data.dataset.load_split`."""
        config, splits = self.config(protocol), self.splits(protocol)
        if split not in splits:
            raise BthubError(f"{self.name}: no split {split!r}; choose one of {', '.join(splits)}")
        with self._reading():
            if protocol not in self.facts.protocols or protocol in PROTOCOLS:
                rows = load_dataset(self.name, config, split=split, revision=self.revision)
            else:
                every = [load_dataset(self.name, config, split=name, revision=self.revision) for name in splits]
                rows = concatenate_datasets(every)
            self._check(rows.features, *(("patient_id", "slice_index") if protocol in self.facts.protocols else ()))
            if protocol not in self.facts.protocols:
                return rows
            # A split may lie in several files, each sorted by itself.
            keys = list(zip(rows["patient_id"], rows["slice_index"], strict=True))
            order = sorted(range(len(keys)), key=keys.__getitem__)
        if protocol in FOLD_PROTOCOLS:
            order = [i for i in order if fold_split(keys[i][0], protocol) == split]
        return rows.select(order)

    def _check(self, features: Features, *more: str) -> None:
        """Refuse rows that aren't pictures with a class, or lack one of more columns."""
        needed = ("image", "label", *more)
        if not {*needed} <= features.keys() or not isinstance(features["label"], ClassLabel):
            raise BthubError(
                f"{self.name}: its rows aren't pictures with a class, they have the columns {', '.join(features)}; "
                f"expected {', '.join(needed)} as `bthub data build` writes them"
            )

    def columns(self, split: str, columns: list[str], protocol: str = "patient") -> Iterator[dict[str, Any]]:
        """Some columns of a split, streamed: the others are not read (from the Hub: not downloaded)."""
        with self._reading():  # a column that isn't there is missed by the first row
            yield from load_dataset(
                self.name,
                self.config(protocol),
                split=split,
                revision=self.revision,
                streaming=True,
                columns=columns,
            )


def _full_disk(error: BaseException | None) -> OSError | None:
    """What says in a chain of errors that the disk, or a quota, is full; None where nothing does."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return error
        error = error.__cause__ or error.__context__
    return None


def _of_network(error: Exception) -> bool:
    """Whether it says that nothing was reached, rather than that there is no such data set."""
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    return offline or isinstance(error, (HTTPError, ConnectionError, TimeoutError)) or "Couldn't reach" in str(error)


def load_split(dataset: str | Path, split: str, protocol: str = "patient", revision: str | None = None) -> Dataset:
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
    return BuiltDataset(dataset, revision).load(split, protocol)


def facts_of(dataset: str | Path) -> Facts:
    """What a data set is; it raises as `load_split`."""
    return BuiltDataset(dataset).facts


def batches(rows: Dataset, size: int, doing: str) -> Iterator[list[Image]]:
    """The pictures of some rows in RGB, `size` of them at a time, under a progress bar.

    Args:
        rows: of `load_split`.
        size: pictures in a batch, 1 or more.
        doing: what the bar says.

    Raises:
        BthubError: such a size can't be.
    """
    if not isinstance(size, int) or size < 1:
        raise BthubError(f"expected a batch size of 1 or more, received {size!r}")
    images = rows.select_columns(["image"])
    with progress_bar(total=len(images), desc=doing, unit="image") as progress:
        for start in range(0, len(images), size):
            batch = [upright_rgb(image) for image in images[start : start + size]["image"]]
            yield batch
            progress.update(len(batch))
