"""bthub detects and outlines brain tumors on MRI slices, with calibrated probabilities.

Research software, not a medical device.
"""

from importlib import import_module

__version__ = "0.1.0"

# Public names are imported when they are first used: torch takes seconds, `bthub --help` must not.
_HOME = {
    "BthubError": "bthub.errors",
    "NotASliceError": "bthub.errors",
    "Pipeline": "bthub.inference.pipeline",
    "Result": "bthub.inference.result",
    "StudyResult": "bthub.inference.study",
    "analyze_study": "bthub.inference.study",
    "open_study": "bthub.imaging.intake",
    "load_pipeline": "bthub.inference.loading",
}
__all__ = list(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
