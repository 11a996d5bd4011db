"""What a network runs on.

    torch            the network as it was trained: the reference
    onnx             its ONNX file in single precision, on onnxruntime
    int8             its ONNX file in 8-bit integers, on onnxruntime
    openvino         its ONNX file on OpenVINO
    openvino-int8    likewise in 8-bit integers
    auto             of those that run ONNX files the one that was fastest on this machine

Each stage has its own: where the eight-bit localizer loses too much, the eight-bit detector may still be taken. `auto`
times, once a machine, what is installed and what the run has files for, and remembers it in a file. It takes torch only
for a run without such files: importing it costs seconds and a gigabyte, which no picture gives back.
"""

import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bthub.errors import BthubError
from bthub.inference.backends import eager, graphs
from bthub.inference.pipeline import Detector, InputCheck, Localizer
from bthub.runs.folder import CLASSIFICATION, ONNX_MODEL, WEIGHTS, RunFolder

AUTO, TORCH, ONNX, INT8 = "auto", "torch", "onnx", "int8"
# Name -> runtime, and whether the network is the eight-bit one. Torch comes last: importing it takes seconds.
GRAPHS = {
    ONNX: ("onnxruntime", False),
    INT8: ("onnxruntime", True),
    "openvino": ("openvino", False),
    "openvino-int8": ("openvino", True),
}
BACKENDS = (*GRAPHS, TORCH)
CHOICE = "BTHUB_BACKEND"
"""Environment variable that names a backend where none is asked for."""
CACHE = "BTHUB_CACHE"
"""Environment variable that names the folder to remember in."""
_TORCH_PACKAGES = ("torch", "timm", "transformers")
_WARM_UP, _REPEATS = 2, 5


def check_name(backend: str) -> str:
    """
    Raises:
        BthubError: there is no such backend.
    """
    if backend != AUTO and backend not in BACKENDS:
        raise BthubError(f"there is no backend {backend!r}, expected one of {', '.join((AUTO, *BACKENDS))}")
    return backend


def torch_installed() -> bool:
    """Whether the networks can be run in torch. Nothing is imported."""
    return all(find_spec(name) is not None for name in _TORCH_PACKAGES)


def open_stage(
    run: RunFolder, backend: str, device: str | None = None, threads: int | None = None
) -> Detector | Localizer:
    """The network of a run, on a backend by name.

    Raises:
        BthubError: it isn't installed, or the run lacks the file.
    """
    is_detector = run.task == CLASSIFICATION
    if backend == TORCH:
        eager.check_installed()
        where = eager.choose_device(device)
        return eager.detector(run, where) if is_detector else eager.localizer(run, where)
    runtime, quantized = GRAPHS[check_name(backend)]
    return (graphs.detector if is_detector else graphs.localizer)(run, runtime, quantized, threads)


def open_check(
    run: RunFolder, backend: str, device: str | None = None, threads: int | None = None
) -> InputCheck | None:
    """The input check of a detector's run, on a backend by name; None where it has none."""
    if backend == TORCH:
        return eager.input_check(run, eager.choose_device(device))
    return graphs.input_check(run, GRAPHS[backend][0], threads)


def choose(run: RunFolder, backend: str, device: str | None, say: Callable[[str], None]) -> str:
    """The backend for a run's network: the one that is asked for, or for `auto` the fastest here but torch.

    Args:
        run: it.
        backend: one of BACKENDS, or "auto".
        device: of torch, which is then taken.
        say: is told what was timed and taken.

    Raises:
        BthubError: nothing that is installed can run it.
    """
    if backend != AUTO:
        return backend
    if device not in (None, "cpu"):
        return TORCH
    able = candidates(run)
    if not able:
        raise BthubError(
            f"{run.id} has no {ONNX_MODEL} of its weights, and PyTorch isn't installed: where it is, run "
            f'bthub export {run.path}, or pip install "bthub[torch]"'
        )
    if len(able) == 1:
        return able[0]
    key = _key(run, able)
    known = _remembered().get(key, {})
    if known.get("taken") in able:
        return known["taken"]
    taken = {name: milliseconds(open_stage(run, name, device), _side(run)) for name in able}
    fastest = min(taken, key=taken.__getitem__)
    times = ", ".join(f"{name} {value:.0f} ms" for name, value in sorted(taken.items(), key=lambda item: item[1]))
    say(f"{run.id}: using {fastest}, the fastest backend on this machine ({times})")
    _remember(key, {"taken": fastest, "milliseconds": {name: round(value, 2) for name, value in taken.items()}}, say)
    return fastest


def candidates(run: RunFolder) -> list[str]:
    """The backends that `auto` chooses from: installed, with the run's files, and none that loses too much.

    Torch is among them only where there is no other.
    """
    able = []
    for name, (runtime, quantized) in GRAPHS.items():
        if find_spec(runtime) is None or (quantized and not run.quantized_ships()):
            continue
        try:
            graphs.file_of(run, quantized)
        except BthubError:  # it has none, or that of other weights
            continue
        able.append(name)
    if not able and torch_installed() and (run.path / WEIGHTS).is_file():
        able.append(TORCH)
    return able


def milliseconds(stage: Any, side: int) -> float:
    """Median time of a stage for one picture."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8))
    call = stage.predict if hasattr(stage, "tumor_index") else stage.masks
    taken = []
    for _ in range(_WARM_UP + _REPEATS):
        start = time.perf_counter()
        call([picture])
        taken.append(1000 * (time.perf_counter() - start))
    return float(np.median(taken[_WARM_UP:]))


def _side(run: RunFolder) -> int:
    if run.task == CLASSIFICATION:
        return run.detector_config.pretrained_cfg.input_size[-1]
    return run.preprocessor.size.height


# -- what is remembered


def cache_file() -> Path:
    """Where the times are remembered."""
    folder = os.environ.get(CACHE)
    if folder is None:
        folder = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "bthub")
    return Path(folder) / "backends.json"


def _key(run: RunFolder, able: list[str]) -> str:
    """A machine, what is installed on it, and a kind of network: other weights of the same kind take as long."""
    packages = sorted({GRAPHS[name][0] if name in GRAPHS else TORCH for name in able})
    network = run.config.get("architecture") or f"resunet {run.config.get('backbone')}"
    return " | ".join(
        [
            f"{_processor()}, {graphs.threads()} threads",
            *(f"{name} {_version(name)}" for name in packages),
            f"{network} {_side(run)}",
            " ".join(able),
        ]
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            facts = dict(line.split(":", 1) for line in file.read().split("\n\n")[0].splitlines() if ":" in line)
        named = {key.strip(): value.strip() for key, value in facts.items()}
        return " ".join(named[key] for key in ("model name", "cpu family", "model") if key in named)
    except OSError:
        return platform.processor() or platform.machine()


def _remembered() -> dict[str, Any]:
    try:
        found = json.loads(cache_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):  # nothing there, or cut short: it is timed again
        return {}
    return found if isinstance(found, dict) else {}


def _remember(key: str, value: dict[str, Any], say: Callable[[str], None]) -> None:
    file = cache_file()
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps({**_remembered(), key: value}, indent=2) + "\n", encoding="utf-8")
        temporary.replace(file)
    except OSError as error:
        say(
            f"the choice can't be saved in {file} ({error.strerror}): set {CACHE} to another folder, "
            f"or {CHOICE} to a backend"
        )
