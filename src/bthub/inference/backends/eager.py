"""The stages in PyTorch, as they were trained: the reference for the other backends."""

from bthub.errors import BthubError
from bthub.inference.pipeline import Detector, InputCheck, Localizer
from bthub.runs.folder import INPUT_CHECK, INPUT_CHECK_WEIGHTS, RunFolder


def detector(run: RunFolder, device: str) -> Detector:
    """The classifier of a run; see `bthub.models.classifier.load_classifier`."""
    from bthub.models.classifier import load_classifier

    return load_classifier(run, device)


def localizer(run: RunFolder, device: str) -> Localizer:
    """The ResUNet of a run; see `bthub.models.localizer.load_localizer`."""
    from transformers.utils import logging

    from bthub.models.localizer import load_localizer

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # of loading weights, which takes no time
    try:
        return load_localizer(run, device)
    finally:
        if shown:
            logging.enable_progress_bar()


def input_check(run: RunFolder, device: str) -> InputCheck | None:
    """The input check of a detector's run; None where it has none."""
    from bthub.models.input_check import load_input_check

    settings, weights = (run.path / name for name in (INPUT_CHECK, INPUT_CHECK_WEIGHTS))
    return load_input_check(settings, weights, device) if settings.is_file() or weights.is_file() else None


def check_installed() -> None:
    """
    Raises:
        BthubError: what the networks need isn't installed.
    """
    try:
        import bthub.models.classifier
        import bthub.models.localizer  # noqa: F401
    except ModuleNotFoundError as error:
        raise BthubError(
            f'the networks need {error.name}, which isn\'t installed: pip install "bthub[torch]"'
        ) from error


def choose_device(device: str | None) -> str:
    """The device that is asked for, or the GPU where there is one.

    Raises:
        BthubError: it isn't there.
    """
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise BthubError(f"the device {device!r} is not available here, try cpu") from error
    return device
