"""Models at work, for the pages that need them.

What `prepare.py` has seen is read; for anything else torch is imported by the first of these calls, and only then.
"""

import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import prepared
import streamlit as st
from PIL import Image
from prepared import Look

import frame
from bthub.errors import BthubError
from bthub.runs import records
from bthub.runs.folder import WEIGHTS, RunFolder

Made = TypeVar("Made")


def ready(runs: dict[str, RunFolder]) -> dict[str, RunFolder]:
    """The runs whose weights are there; a message for the others, whose figures alone came with the clone."""
    lacking = [name for name, run in runs.items() if not (run.path / WEIGHTS).is_file()]
    if lacking:
        have, they = ("has", "it") if len(lacking) == 1 else ("have", "they")
        again = ", ".join(f"make reproduce RUN={records.name(runs[name])}" for name in lacking)
        said = f"{have} no {WEIGHTS} here, so {they} can't look at a slice. To train again: {again}"
        frame.say([f"{', '.join(lacking)} {said}"])
    return {name: run for name, run in runs.items() if name not in lacking}


def each(
    runs: dict[str, RunFolder], work: Callable[[str, RunFolder], Made], known: Callable[[RunFolder], bool]
) -> Iterator[tuple[str, Made]]:
    """`work` of each run by name; a bar says how far it is, unless everything is known. A run that can't is named.

    Args:
        runs: by name.
        work: of a name and a run.
        known: whether a run needs no work, because somebody looked before.
    """
    slow = [name for name, run in runs.items() if not known(run)]
    bar = st.progress(0.0, "Loading the models") if slow else None
    problems = []
    for name, run in runs.items():
        if bar and name in slow:
            bar.progress(slow.index(name) / len(slow), f"{name}: analyzing the picture")
        try:
            yield name, work(name, run)
        except BthubError as error:
            problems.append(f"{name}: {error}")
    if bar:
        bar.empty()
    frame.say(problems)


def look(run: RunFolder, image: Image.Image, mask: np.ndarray | None, key: tuple[str, ...]) -> Look:
    """What a classifier says of a slice, and where it looks.

    Args:
        run: the classifier's.
        image: RGB.
        mask: (H, W) bool, what experts outlined; None where nobody did.
        key: names the slice. The same key must mean the same picture.
    """
    files = frame.files_of(run.path)
    return prepared.look(run, key) or _look(run, image, mask, str(run.path), files, key, mask is not None)


def draw(run: RunFolder, image: Image.Image, key: tuple[str, ...]) -> np.ndarray:
    """What a ResUNet outlines on one slice: (H, W) bool."""
    found = prepared.outline(run, key)
    return found if found is not None else _draw(run, image, str(run.path), frame.files_of(run.path), key)


@st.cache_resource(show_spinner=False, max_entries=500)
def _look(
    _run: RunFolder,
    _image: Image.Image,
    _mask: np.ndarray | None,
    path: str,
    files: tuple,
    key: tuple[str, ...],
    known: bool,
) -> Look:
    from bthub.evaluation.gradcam import chance, heatmaps, pointing_game

    classifier, one_at_a_time = _classifier(_run, path, files)
    # Grad-CAM hooks into the model, which all sessions share: a second slice would end up in the first one's map.
    with one_at_a_time:
        probabilities = dict(zip(classifier.labels, map(float, classifier.predict([_image])[0]), strict=True))
        # For a model of several tumor types: the evidence for what it calls.
        label = "tumor" if "tumor" in probabilities else max(probabilities, key=probabilities.get)
        heat = heatmaps(classifier, [_image], label)[0]
    return Look(
        heat,
        label,
        probabilities[label],
        pointing_game(heat, _mask) if known else None,
        chance(_image, _mask)["head"] if known and _mask.any() else None,
    )


def probabilities(run: RunFolder, images: list[Image.Image]) -> np.ndarray:
    """(N,) calibrated probability of tumor of N RGB images."""
    classifier, one_at_a_time = _classifier(run, str(run.path), frame.files_of(run.path))
    with one_at_a_time:
        return classifier.predict(images)[:, classifier.tumor_index]


@st.cache_resource(show_spinner=False, max_entries=500)
def _draw(_run: RunFolder, _image: Image.Image, path: str, files: tuple, key: tuple[str, ...]) -> np.ndarray:
    return _localizer(_run, path, files).masks([_image])[0]


# A model takes tens to hundreds of megabytes: a few stay loaded.
@st.cache_resource(show_spinner=False, max_entries=12)
def _classifier(_run: RunFolder, path: str, files: tuple):
    from bthub.models.classifier import load_classifier

    return load_classifier(_run), threading.Lock()


@st.cache_resource(show_spinner=False, max_entries=4)
def _localizer(_run: RunFolder, path: str, files: tuple):
    from bthub.models.localizer import load_localizer

    return load_localizer(_run)
