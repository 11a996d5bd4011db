"""`bthub bench`: how long each stage takes on this machine, for one slice and in batches."""

import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import cast

import numpy as np

from bthub.errors import BthubError, check_count
from bthub.imaging.image_io import SUFFIXES
from bthub.inference.loading import load_pipeline
from bthub.inference.pipeline import Pipeline
from bthub.inference.result import Result

THREADS = 2
BATCH_SIZES = (1, 8, 16)
STAGES = ("read", "check", "detect", "localize", "measure", "total")

_CLONE = Path(__file__).parents[3]
_WARM_UP = 3


def run(
    image: Path | None = None, repeats: int = 50, pipeline: Pipeline | None = None, backend: str | None = None
) -> str:
    """Time the pipeline on one slice file, on the CPU with two threads, the localizer always on.

    Args:
        image: the slice; by default the first example that comes with the clone.
        repeats: calls that are timed, after a warm-up; as many pictures, rounded up to whole batches, for each
            batch size.
        pipeline: by default the project's own.
        backend: as for `load_pipeline`.

    Returns:
        A text table: median and 95th percentile in milliseconds of each stage, and pictures per second.

    Raises:
        BthubError: no slice to time, one that cannot be read, or no models.
    """
    check_count("number of repeats", repeats)
    image = _sample() if image is None else image
    pipe = load_pipeline(device="cpu", backend=backend, threads=THREADS) if pipeline is None else pipeline
    with _torch_threads():
        for _ in range(_WARM_UP):
            result = _answer(pipe, image)
        timings = [_answer(pipe, image).milliseconds for _ in range(repeats)]
        rates = {size: _pictures_per_second(pipe, image, size, repeats) for size in BATCH_SIZES}

    lines = [
        f"{image.name}, {result.width} x {result.height} pixels, {repeats} calls, localizer always on",
        f"{_versions()}, {THREADS} threads, {platform.machine()}, Python {platform.python_version()}",
        *(
            f"{stage}: {model['id']} at {model['revision']}" + (f" on {model['backend']}" if "backend" in model else "")
            for stage, model in result.models.items()
        ),
        "",
        f"{'stage':<10}{'median ms':>12}{'p95 ms':>12}",
    ]
    for stage in STAGES:
        values = [timing[stage] for timing in timings]
        lines.append(f"{stage:<10}{np.median(values):>12.1f}{np.percentile(values, 95):>12.1f}")
    lines += ["", f"{'batch':<10}{'images/s':>12}"]
    lines += [f"{size:<10}{rate:>12.1f}" for size, rate in rates.items()]
    return "\n".join(lines)


@contextmanager
def _torch_threads() -> Iterator[None]:
    """THREADS for torch too, which has one number for all networks, where it is loaded."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _versions() -> str:
    loaded = [name for name in ("onnxruntime", "openvino", "torch") if name in sys.modules]
    return ", ".join(f"{name} {version(name)}" for name in loaded)


def _answer(pipe: Pipeline, image: Path) -> Result:
    return cast(Result, pipe(image, always_localize=True))


def _pictures_per_second(pipe: Pipeline, image: Path, batch_size: int, repeats: int) -> float:
    batches = -(-repeats // batch_size)
    pipe([image] * batch_size, always_localize=True, batch_size=batch_size)
    start = time.perf_counter()
    pipe([image] * (batches * batch_size), always_localize=True, batch_size=batch_size)
    return batches * batch_size / (time.perf_counter() - start)


def _sample() -> Path:
    for folder in (_CLONE / "space" / "examples", _CLONE / "tests" / "data"):
        slices = sorted(
            path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and not path.stem.endswith("_mask")
        )
        if slices:
            return slices[0]
    raise BthubError("no slice to time: name one with --image")
