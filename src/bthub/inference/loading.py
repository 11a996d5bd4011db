"""The two stages, loaded from their run folders.

import bthub

pipe = bthub.load_pipeline()
print(pipe("slice.png").to_dict())
"""

from pathlib import Path

from bthub.errors import BthubError
from bthub.inference.pipeline import Pipeline
from bthub.project import default_run
from bthub.runs.folder import CALIBRATION, INPUT_CHECK, INPUT_CHECK_WEIGHTS, RunFolder


def load_pipeline(
    detector: str | Path | RunFolder | None = None,
    localizer: str | Path | RunFolder | None = None,
    *,
    revision: str | None = None,
    device: str | None = None,
    check_input: bool = True,
) -> Pipeline:
    """Load the two stages.

    Args:
        detector, localizer: run folder or Hub id of each; by default the project's own, from the clone's `runs/`
            or from the Hub.
        revision: branch, tag or commit on the Hub, the same for both.
        device: a torch device such as `cpu` or `cuda:1`; by default the GPU if there is one.
        check_input: refuse pictures that don't look like a slice of a brain MRI, where the detector's run has an
            input check.

    Raises:
        BthubError: a run is missing, incomplete, damaged or of the other kind, or the device is not there.
    """
    # Here and not above: importing bthub must not wait for torch, timm and transformers.
    try:
        from bthub.models.classifier import load_classifier
        from bthub.models.input_check import load_input_check
        from bthub.models.localizer import load_localizer
    except ModuleNotFoundError as error:
        raise BthubError(
            f'the networks need {error.name}, which isn\'t installed: pip install "bthub[torch]"'
        ) from error

    device = _device(device)
    detector_run = RunFolder.open(default_run("detector") if detector is None else detector, revision)
    localizer_run = RunFolder.open(default_run("localizer") if localizer is None else localizer, revision)
    classifier = load_classifier(detector_run, device)
    _ = classifier.tumor_index  # one that knows other classes is told so before it lacks a threshold
    threshold = detector_run.calibration.get("threshold")
    if not isinstance(threshold, (int, float)):
        raise BthubError(f"{detector_run.id}: {CALIBRATION} has no threshold, train the run to its end")
    band = detector_run.calibration.get("review_band")
    settings, weights = (detector_run.path / name for name in (INPUT_CHECK, INPUT_CHECK_WEIGHTS))
    return Pipeline(
        classifier,
        load_localizer(localizer_run, device),
        threshold=float(threshold),
        review_band=band and tuple(band),
        input_check=load_input_check(settings, weights, device)
        if check_input and (settings.is_file() or weights.is_file())
        else None,
        models={
            "detector": {"id": detector_run.id, "revision": detector_run.revision},
            "localizer": {"id": localizer_run.id, "revision": localizer_run.revision},
        },
    )


def _device(device: str | None) -> str:
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BthubError(f"the device {device!r} is not available here, try cpu") from error
    return device
