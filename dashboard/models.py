"""Models at work, for the pages that need them: torch is imported by the first of these calls, and only then."""

import threading

import numpy as np
import streamlit as st
from PIL import Image

import frame
from bthub.runs.folder import WEIGHTS, RunFolder


def ready(runs: dict[str, RunFolder]) -> dict[str, RunFolder]:
    """The runs whose weights are there; a message for the others, whose figures alone came with the clone."""
    lacking = [name for name, run in runs.items() if not (run.path / WEIGHTS).is_file()]
    if lacking:
        have, they, them = ("has", "it", "it") if len(lacking) == 1 else ("have", "they", "each of them")
        said = f"{have} no {WEIGHTS} here, so {they} can't look at a slice: make reproduce RUN=NAME trains {them} again"
        frame.say([f"{', '.join(lacking)} {said}"])
    return {name: run for name, run in runs.items() if name not in lacking}


def look(run: RunFolder, image: Image.Image, key: tuple[str, ...]) -> tuple[np.ndarray, str, float]:
    """Grad-CAM (H, W) of a classifier for one slice, the class that it is of, and that class's probability."""
    return _look(run, image, str(run.path), frame.files_of(run.path), key)


def draw(run: RunFolder, image: Image.Image, key: tuple[str, ...]) -> np.ndarray:
    """What a ResUNet outlines on one slice: (H, W) bool."""
    return _draw(run, image, str(run.path), frame.files_of(run.path), key)


@st.cache_resource(show_spinner=False, max_entries=2000)
def _look(
    _run: RunFolder, _image: Image.Image, path: str, files: tuple, key: tuple[str, ...]
) -> tuple[np.ndarray, str, float]:
    from bthub.evaluation.gradcam import heatmaps

    classifier, one_at_a_time = _classifier(_run, path, files)
    # Grad-CAM hooks into the model, which all sessions share: a second slice would end up in the first one's map.
    with one_at_a_time:
        probabilities = dict(zip(classifier.labels, map(float, classifier.predict([_image])[0]), strict=True))
        # For a model of several tumor types: the evidence for what it calls.
        label = "tumor" if "tumor" in probabilities else max(probabilities, key=probabilities.get)
        return heatmaps(classifier, [_image], label)[0], label, probabilities[label]


@st.cache_resource(show_spinner=False, max_entries=2000)
def _draw(_run: RunFolder, _image: Image.Image, path: str, files: tuple, key: tuple[str, ...]) -> np.ndarray:
    return _localizer(_run, path, files).masks([_image])[0]


# A model takes tens to hundreds of megabytes: a few stay loaded.
@st.cache_resource(show_spinner="Loading a classifier", max_entries=12)
def _classifier(_run: RunFolder, path: str, files: tuple):
    from bthub.models.classifier import load_classifier

    return load_classifier(_run), threading.Lock()


@st.cache_resource(show_spinner="Loading a localizer", max_entries=4)
def _localizer(_run: RunFolder, path: str, files: tuple):
    from bthub.models.localizer import load_localizer

    return load_localizer(_run)
