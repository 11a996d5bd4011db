"""The slices that a page can show, and pictures made of them."""

import csv
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import prepared
import streamlit as st
from PIL import Image
from scipy.ndimage import binary_dilation

import frame
from bthub.errors import BthubError
from bthub.imaging.image_io import upright_rgb
from bthub.imaging.labels import is_healthy
from bthub.runs.records import Evaluation, image_key

SHIPPED = Path(__file__).parent / "slices"
TRUE, DRAWN = (0, 229, 255), (255, 77, 64)
"""Colors of outlines on a scan: what experts drew, what a model drew."""

Key = tuple[str, ...]


@dataclass(frozen=True)
class ShippedSlices:
    """The slices in `slices/`: some of the test split of protocol `patient`."""

    all_there = False

    @cached_property
    def keys(self) -> dict[Key, int]:
        """Each slice with the area of its tumor in pixels."""
        with (SHIPPED / "slices.csv").open(newline="", encoding="utf-8") as file:
            return {image_key(row): int(row["tumor_px"]) for row in csv.DictReader(file)}

    def image(self, key: Key) -> Image.Image:
        with Image.open(SHIPPED / f"{'_'.join(key)}.png") as image:
            return image.convert("RGB")

    def mask(self, key: Key) -> np.ndarray | None:
        """What experts outlined: (H, W) bool."""
        with Image.open(SHIPPED / f"{'_'.join(key)}_mask.png") as image:
            return np.asarray(image.convert("L")) > 0


@dataclass(frozen=True)
class PreviewSlices:
    """All slices of the test split of protocol `patient`, as `prepare.py` made them: to look at, not to measure on.

    Attributes:
        all_there: whether they are all that the split in view has.
    """

    all_there: bool

    @cached_property
    def keys(self) -> dict[Key, int]:
        """Each slice with the area of its tumor in pixels."""
        return {key: found["tumor_px"] for key, found in prepared.slices().items()}

    def image(self, key: Key) -> Image.Image:
        return prepared.picture(key)

    def mask(self, key: Key) -> np.ndarray | None:
        """What experts outlined: (H, W) bool."""
        return prepared.mask(key)


class BuiltSlices:
    """A split of a data set of `bthub data build`."""

    all_there = True

    def __init__(self, data: str, split: str, protocol: str) -> None:
        # `datasets` takes seconds to import, and most pages need none.
        from bthub.data.dataset import load_split

        self._rows = load_split(data, split, protocol if protocol != "default" else "patient")
        columns = self._rows.column_names
        ids = ("patient_id", "slice_index") if "patient_id" in columns else ("file",)
        # An image-folder set has no masks, so no areas: 1 stands for some tumor.
        labels = self._rows.features["label"]
        areas = (
            self._rows["tumor_pixels"]
            if "tumor_pixels" in columns
            else [int(not is_healthy(labels.int2str(label))) for label in self._rows["label"]]
        )
        found = [tuple(map(str, values)) for values in zip(*(self._rows[name][:] for name in ids), strict=True)]
        self._index = {key: i for i, key in enumerate(found)}
        self.keys: dict[Key, int] = dict(zip(found, areas, strict=True))

    def image(self, key: Key) -> Image.Image:
        return upright_rgb(self._rows[self._index[key]]["image"])

    def mask(self, key: Key) -> np.ndarray | None:
        row = self._rows[self._index[key]]
        return np.asarray(row["mask"]) > 0 if "mask" in row else None


class NoSlices:
    """Nothing: of an image-folder set no image comes with the dashboard."""

    all_there = False
    keys: dict[Key, int] = {}


Slices = ShippedSlices | PreviewSlices | BuiltSlices | NoSlices


def slices(evaluation: Evaluation) -> Slices:
    """The slices at hand: a split of the data set in BTHUB_DATA if that is the evaluation's, else those that ship with
    the dashboard; none of image folders do. A data set that can't be read gets a message on the page.
    """
    data = os.environ.get("BTHUB_DATA")
    has_patients = evaluation.protocol != "default"
    try:
        # There is one set with patients, whatever its folder is called; those of image folders go by their name.
        if data and _has_protocols(data) == has_patients and (has_patients or Path(data).name == evaluation.data):
            return _built(data, evaluation.split, evaluation.protocol)
    except BthubError as error:
        frame.say([f"BTHUB_DATA: {error}"])
    return _shipped() if has_patients else NoSlices()


def previews(evaluation: Evaluation) -> Slices:
    """The slices to look at: those of BTHUB_DATA as in `slices`, else small pictures of all test slices."""
    found = slices(evaluation)
    return _previews(evaluation.key == "patient/test") if isinstance(found, ShippedSlices) else found


@st.cache_resource(show_spinner=False)
def _previews(all_there: bool) -> PreviewSlices:
    return PreviewSlices(all_there)


@st.cache_resource(show_spinner=False)
def _shipped() -> ShippedSlices:
    return ShippedSlices()


@st.cache_resource(show_spinner=False)
def _has_protocols(data: str) -> bool:
    from bthub.data.dataset import facts_of

    return facts_of(data).split_in_several_ways


@st.cache_resource(show_spinner="Reading the data set")
def _built(data: str, split: str, protocol: str) -> BuiltSlices:
    return BuiltSlices(data, split, protocol)


def label(key: Key) -> str:
    """How a slice is called on a page."""
    return f"{key[0]}, slice {key[1]}" if len(key) == 2 else key[0]


def outlined(image: Image.Image, masks: dict[tuple[int, int, int], np.ndarray | None], scale: int = 2) -> Image.Image:
    """A scan with outlines in color, enlarged so that lines are finer than its pixels."""
    pixels = np.asarray(image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC)).copy()
    for color, mask in masks.items():
        if mask is not None and mask.any():
            large = np.kron(mask, np.ones((scale, scale), bool))
            pixels[binary_dilation(large, iterations=scale) & ~large] = color
    return Image.fromarray(pixels)
