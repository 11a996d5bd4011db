"""The stages on a run's ONNX files, with onnxruntime or OpenVINO."""

import os
import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bthub.data.network import send_no_telemetry
from bthub.errors import BthubError
from bthub.inference.backends.stages import LightDetector, LightInputCheck, LightLocalizer
from bthub.runs.folder import (
    CALIBRATION,
    CLASSIFICATION,
    INPUT_CHECK,
    ONNX_INPUT_CHECK,
    ONNX_MODEL,
    ONNX_QUANTIZED,
    ONNX_RECORD,
    SEGMENTATION,
    RunFolder,
)
from bthub.runs.schema import Preprocessing, Preprocessor, Size

PIXELS = "pixel_values"


def threads() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def file_of(run: RunFolder, quantized: bool) -> Path:
    """The run's network as an ONNX file.

    Raises:
        BthubError: it has none, or one that was made from other weights.
    """
    name = ONNX_QUANTIZED if quantized else ONNX_MODEL
    file = run.path / name
    if not file.is_file() or not run.onnx.files:
        raise BthubError(f"{run.id} has no {name}: write it with bthub export {run.path}")
    if not run.same_weights(run.onnx.weights):
        raise BthubError(
            f"{run.path / ONNX_RECORD} is of the weights {run.onnx.weights}, the folder has {run.revision}: "
            f"run bthub export {run.path} again"
        )
    return file


def detector(run: RunFolder, runtime: str, quantized: bool, count: int | None = None) -> LightDetector:
    """The classifier of a run.

    Raises:
        BthubError: it isn't a classifier, or one whose preprocessing only torch does; as `file_of`.
    """
    run.require(CLASSIFICATION)
    config, settings = run.detector_config, run.detector_config.pretrained_cfg
    usual = Preprocessing(settings.input_size, "bilinear", [0.0] * 3, [1.0] * 3, crop_pct=1.0, crop_mode="border")
    if settings != usual:
        raise BthubError(f"{run.id} has its own preprocessing, which needs PyTorch: use the backend torch")
    network = open_network(file_of(run, quantized), runtime, count)
    return LightDetector(network, config.label_names, settings.input_size[-1])


def localizer(run: RunFolder, runtime: str, quantized: bool, count: int | None = None) -> LightLocalizer:
    """The ResUNet of a run.

    Raises:
        BthubError: it isn't a localizer, or one whose preprocessing only torch does; as `file_of`.
    """
    run.require(SEGMENTATION)
    settings = run.preprocessor
    size = settings.size
    if settings != Preprocessor(Size(size.width, size.width), [0.0] * 3, [1.0] * 3, 2, settings.min_area_share):
        raise BthubError(f"{run.id} has its own preprocessing, which needs PyTorch: use the backend torch")
    network = open_network(file_of(run, quantized), runtime, count)
    points = run.localizer_calibration.points if (run.path / CALIBRATION).is_file() else {}
    return LightLocalizer(network, size.height, settings.min_area_share, points)


def input_check(run: RunFolder, runtime: str, count: int | None = None) -> LightInputCheck | None:
    """The input check of a detector's run; None where it has none.

    Raises:
        BthubError: its settings are there and its network isn't, or they are damaged.
    """
    if not (run.path / INPUT_CHECK).is_file():
        return None
    if not (run.path / ONNX_INPUT_CHECK).is_file():
        raise BthubError(f"{run.id} has {INPUT_CHECK} and no {ONNX_INPUT_CHECK}: write it with bthub export {run.path}")
    settings = run.input_check
    network = open_network(run.path / ONNX_INPUT_CHECK, runtime, count, outputs=2)
    return LightInputCheck(network, settings.image_size, settings.threshold, tuple(settings.kinds))


def open_network(file: Path, runtime: str, count: int | None = None, outputs: int = 1) -> Any:
    """A network from an ONNX file; safe to call from several threads.

    Args:
        file: takes `pixel_values` (N, 3, S, S).
        runtime: "onnxruntime" or "openvino".
        count: of threads; by default one a processor.
        outputs: how many the file gives.

    Returns:
        A `Network`; of several outputs a function that gives a tuple of them.

    Raises:
        BthubError: the file is damaged, or the runtime isn't installed.
    """
    send_no_telemetry()
    try:
        run = (_openvino if runtime == "openvino" else _onnxruntime)(file, count or threads())
    except ModuleNotFoundError as error:
        extra = "bthub[openvino]" if runtime == "openvino" else "bthub"
        raise BthubError(f'{runtime} isn\'t installed: pip install "{extra}"') from error
    return (lambda pixels: run(pixels)[0]) if outputs == 1 else lambda pixels: tuple(run(pixels)[:outputs])


Outputs = Callable[[np.ndarray], list[np.ndarray]]


def _onnxruntime(file: Path, count: int) -> Outputs:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = count
    options.log_severity_level = 3
    # Threads that wait in a loop take the cores from the next stage's.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds have no common base
        raise _damaged(file, error) from error

    def run(pixels: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(output) for output in session.run(None, {PIXELS: pixels})]

    return run


def _openvino(file: Path, count: int) -> Outputs:
    import openvino

    # Fewer threads a picture than there are processors: so many pictures at the same time.
    streams = max(1, threads() // count)
    core = openvino.Core()
    try:
        model = core.read_model(file)
        compiled = core.compile_model(
            model,
            "CPU",
            {"NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": count * streams, "INFERENCE_PRECISION_HINT": "f32"},
        )
    except RuntimeError as error:
        raise _damaged(file, error) from error
    free: queue.SimpleQueue[Any] = queue.SimpleQueue()  # a request holds one picture at a time
    for _ in range(streams):
        free.put(compiled.create_infer_request())

    def run(pixels: np.ndarray) -> list[np.ndarray]:
        request = free.get()
        try:
            return [np.array(output) for output in request.infer({PIXELS: pixels}).values()]
        finally:
            free.put(request)

    return run


def _damaged(file: Path, error: Exception) -> BthubError:
    reason = str(error).strip().partition("\n")[0][:200]
    return BthubError(f"{file} cannot be loaded ({reason}): restore it, or write it again with bthub export")
