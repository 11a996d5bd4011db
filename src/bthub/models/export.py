"""`bthub export`: a run's networks as ONNX files, so that serving needs no PyTorch.

    onnx/model.onnx              the network: pixel_values (N, 3, S, S), 0-1 -> logits
    onnx/model_quantized.onnx    the same in 8-bit integers
    onnx/input_check.onnx        of a detector with an input check: pixel_values -> distance (N,), kind (N,)
    onnx/export.json             what they were made from, and how far they are from the network itself

Weights are kept in the half precision that the run stores them in and turned into single when a file is loaded: nothing
is lost, and the file is half as large. The range of what flows through the eight-bit network is taken from pictures of
the training split. An input check is small, and near its threshold eight bits would change what it refuses: it stays in
single precision.
"""

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset as Rows
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.flop_counter import FlopCounterMode

from bthub.data.dataset import load_split
from bthub.data.fingerprint import describe_rows, id_columns, identified, listed, name_of
from bthub.data.network import send_no_telemetry
from bthub.errors import BthubError
from bthub.imaging.image_io import upright_rgb
from bthub.models.classifier import load_classifier
from bthub.models.input_check import InputCheck, letterbox, load_input_check
from bthub.models.localizer import load_localizer
from bthub.runs.folder import (
    CLASSIFICATION,
    INPUT_CHECK,
    INPUT_CHECK_WEIGHTS,
    ONNX,
    ONNX_INPUT_CHECK,
    ONNX_METRICS,
    ONNX_MODEL,
    ONNX_QUANTIZED,
    ONNX_RECORD,
    SPLIT,
    RunFolder,
    provenance,
    write_json,
)
from bthub.runs.schema import Export

PICTURES = 128
"""Of the training split, that the ranges are taken from."""
OPSET = 20
TOLERANCE = 1e-3
"""Of probabilities, by which the single-precision file may differ from the network in torch."""
PIXELS, LOGITS, DISTANCE, KIND = "pixel_values", "logits", "distance", "kind"
VERSIONS = ("bthub", "torch", "timm", "transformers", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class _Network:
    """A network to export: float (N, 3, S, S) -> a tensor; what makes a picture its input; and its files."""

    module: nn.Module
    prepare: Callable[[Image.Image], Tensor]
    size: int
    output: str
    file: str
    quantized: str | None = None


class _Localize(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model(pixel_values).logits


class _Classify(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model(pixel_values)


class _Distance(nn.Module):
    """An input check whole: (N, 3, S, S) -> distance (N,) to the k-th nearest reference, and what tells gray kinds.

    The second output (N,) is positive for the first of its kinds; 0 where it doesn't tell kinds apart.
    """

    def __init__(self, check: InputCheck) -> None:
        super().__init__()
        self.network = check.network
        self.neighbors = check.neighbors
        self.register_buffer("references", check.references)
        width = check.references.shape[1]
        self.register_buffer("weight", torch.zeros(width) if check.kind_weight is None else check.kind_weight)
        self.register_buffer("bias", torch.zeros(1) if check.kind_bias is None else check.kind_bias)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        features = normalize(self.network(pixel_values))  # (N, F)
        squared = (
            features.square().sum(1, keepdim=True) - 2 * features @ self.references.T + self.references.square().sum(1)
        )  # (N, R)
        nearest = torch.topk(squared, self.neighbors, dim=1, largest=False).values[:, -1]
        return nearest.clamp(min=0).sqrt(), features @ self.weight + self.bias


def export(run: str | Path, data: str | Path | None = None, *, pictures: int = PICTURES) -> Export:
    """Write the ONNX files of a run into its folder.

    Args:
        run: a local run folder.
        data: the set that it was trained on: folder of `bthub data build`, or a Hub id; by default the folder below
            `data` that has the set's name.
        pictures: of its training split, for the ranges of the eight-bit network.

    Returns:
        What was written to `onnx/export.json`.

    Raises:
        BthubError: the run isn't a local folder; it wasn't trained on any of the pictures; or a file doesn't
            give what the network gives, in which case none is written.
    """
    folder = RunFolder.local(run)
    if pictures < 1:
        raise BthubError(f"{pictures} pictures were asked for, expected 1 or more")
    data = data or Path("data") / folder.training.dataset.name
    rows = load_split(data, "train", folder.training.protocol)
    chosen = _spread(_trained_on(folder, rows, data), pictures)
    images = [upright_rgb(image) for image in chosen["image"]]
    record = {
        "weights": folder.revision,
        "opset": OPSET,
        "calibration": {"dataset": name_of(data), "split": "train", **describe_rows(chosen)},
        "files": {},
    }
    with tempfile.TemporaryDirectory(dir=folder.path, prefix=".unfinished-") as name:
        for network in _networks(folder):
            record["files"] |= _export(network, images, Path(name), folder.id)
        record |= provenance(f"bthub export {folder.id} --data {name_of(data)}", VERSIONS)
        (folder.path / ONNX).mkdir(exist_ok=True)
        # Of files that were there before; the record goes first and comes last, so that it never names others.
        for old in (ONNX_RECORD, ONNX_METRICS, ONNX_INPUT_CHECK, ONNX_QUANTIZED):
            (folder.path / old).unlink(missing_ok=True)
        for file in record["files"]:
            (Path(name) / file).replace(folder.path / file)
        write_json(folder.path / ONNX_RECORD, record)
    return replace(folder).onnx


def summary(record: Export) -> str:
    """A line a file of `onnx/export.json`."""
    return "\n".join(
        f"{file}: {facts.bytes / 1e6:.1f} MB, {facts.multiply_adds / 1e9:.2f} billion multiply-adds, "
        f"{facts.unit} within {facts.largest_difference:.2g} of torch on {record.calibration.rows} "
        f"training pictures ({facts.mean_difference:.2g} on average)"
        for file, facts in record.files.items()
    )


def _networks(folder: RunFolder) -> Iterator[_Network]:
    if folder.task != CLASSIFICATION:
        localizer = load_localizer(folder)
        size = localizer.processor.size["height"]
        yield _Network(
            _Localize(localizer.model),
            lambda image: localizer.processor([image], return_tensors="pt")[PIXELS][0],
            size,
            LOGITS,
            ONNX_MODEL,
            ONNX_QUANTIZED,
        )
        return
    classifier = load_classifier(folder)
    size = folder.config["pretrained_cfg"]["input_size"][-1]
    yield _Network(_Classify(classifier.model), classifier.transform, size, LOGITS, ONNX_MODEL, ONNX_QUANTIZED)
    settings, weights = folder.path / INPUT_CHECK, folder.path / INPUT_CHECK_WEIGHTS
    if settings.is_file() or weights.is_file():
        check = load_input_check(settings, weights)
        yield _Network(
            _Distance(check),
            lambda image: letterbox(image, check.size),
            check.size,
            DISTANCE,
            ONNX_INPUT_CHECK,
        )


def _trained_on(folder: RunFolder, rows: Rows, data: str | Path) -> Rows:
    """The pictures that the run was trained on: the ranges may not be taken from what it is measured on."""
    known = listed(rows, folder.rows(SPLIT), "train")
    names = id_columns(rows.column_names)
    chosen = [i for i, line in enumerate(identified(rows)) if tuple(line[name] for name in names) in known]
    if not chosen:
        raise BthubError(
            f"the training split of {data} has no picture that {folder.id} was trained on: name the set that it was "
            "trained on with --data"
        )
    return rows.select(chosen)


def _spread(rows: Rows, count: int) -> Rows:
    """Evenly over the rows, and as many of each label as there are; all where they are few."""
    labels = np.array(rows["label"][:])
    kinds = np.unique(labels)
    taken: list[int] = []
    for kind in kinds:
        own = np.flatnonzero(labels == kind)
        share = min(len(own), -(-count // len(kinds)))
        taken += own[np.linspace(0, len(own) - 1, share).round().astype(int)].tolist()
    return rows.select(sorted(taken))


def _export(network: _Network, images: Sequence[Image.Image], out: Path, name: str) -> dict[str, dict]:
    """Write the files of a network below `out`, held against the network itself; name -> what is known of it."""
    pixels = [network.prepare(image)[None].numpy() for image in images]  # (1, 3, S, S) each
    with torch.inference_mode():
        expected = [_first(network.module(torch.from_numpy(one))).numpy() for one in pixels]
        with FlopCounterMode(display=False) as counter:
            network.module(torch.from_numpy(pixels[0]))
    (out / ONNX).mkdir(exist_ok=True)
    _write_single(network, out / network.file)
    found = {network.file: _compared(out / network.file, pixels, expected, network.output)}
    if found[network.file]["largest_difference"] > TOLERANCE:
        raise BthubError(
            f"{name}: {network.file} differs from the network by {found[network.file]['largest_difference']:.2g}, "
            f"at most {TOLERANCE} is allowed; nothing was written"
        )
    if network.quantized:
        _write_quantized(out / network.file, out / network.quantized, pixels)
        found[network.quantized] = _compared(out / network.quantized, pixels, expected, network.output)
    return {file: facts | {"multiply_adds": counter.get_total_flops() // 2} for file, facts in found.items()}


def _first(outputs: Tensor | tuple[Tensor, ...]) -> Tensor:
    return outputs if isinstance(outputs, Tensor) else outputs[0]


def _write_single(network: _Network, file: Path) -> None:
    import onnx
    from onnxscript import optimizer

    program = torch.onnx.export(
        network.module.eval(),
        (torch.rand(2, 3, network.size, network.size),),
        dynamo=True,
        input_names=[PIXELS],
        output_names=[network.output, *([KIND] if network.output == DISTANCE else [])],
        dynamic_shapes={PIXELS: {0: torch.export.Dim("batch")}},
        opset_version=OPSET,
        # Its own rewriting would fold batch normalization into the convolutions, whose weights then aren't the run's
        # any more; onnxruntime does that when it loads the file.
        optimize=False,
        verbose=False,
    )
    optimizer.fold_constants(program.model)
    optimizer.remove_unused_nodes(program.model)
    model = program.model_proto
    _drop_traces(model)
    _keep_half(model)
    onnx.checker.check_model(model)
    onnx.save(model, file)


def _drop_traces(model) -> None:
    """Drop what the exporter notes of where each node came from: stack traces, with the paths of this machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        del part.metadata_props[:]
        part.doc_string = ""


def _keep_half(model) -> None:
    """Keep the weights of an ONNX model that half precision holds exactly in half precision, cast when it is loaded."""
    from onnx import TensorProto, helper, numpy_helper

    kept, casts = [], []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        half = values.astype(np.float16) if values.dtype == np.float32 and values.size > 64 else None
        if half is None or not np.array_equal(half.astype(np.float32), values):
            kept.append(tensor)
            continue
        kept.append(numpy_helper.from_array(half, f"{tensor.name}.half"))
        casts.append(helper.make_node("Cast", [f"{tensor.name}.half"], [tensor.name], to=TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.initializer.extend(kept)
    model.graph.node.extend(casts + nodes)


def _write_quantized(single: Path, file: Path, pixels: Sequence[np.ndarray]) -> None:
    import onnx

    send_no_telemetry()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Pictures(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = iter(pixels)

        def get_next(self) -> dict[str, np.ndarray] | None:
            one = next(self.rest, None)
            return None if one is None else {PIXELS: one}

    with tempfile.TemporaryDirectory() as name:
        folded = Path(name) / "folded.onnx"
        # The shapes are known: what sympy would infer isn't needed, and it isn't installed everywhere.
        quant_pre_process(single, folded, skip_symbolic_shape=True)
        nodes = onnx.load(folded).graph.node
        # The last layer is cheap, and what it rounds can't be mended any more: it stays in single precision.
        head = [node.name for node in nodes if node.output[0] == LOGITS]
        quantize_static(
            folded,
            file,
            Pictures(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            # Seven bits of weights: on processors with AVX2 and without VNNI eight overflow now and then.
            reduce_range=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QUInt8,
            nodes_to_exclude=head,
        )


def _compared(file: Path, pixels: Sequence[np.ndarray], expected: Sequence[np.ndarray], output: str) -> dict:
    """Size, digest and distance from the network of a file: of probabilities, or of distances of an input check."""
    send_no_telemetry()
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    found = [session.run([output], {PIXELS: one})[0] for one in pixels]
    differences = [np.abs(_scaled(f, output) - _scaled(e, output)) for f, e in zip(found, expected, strict=True)]
    content = file.read_bytes()
    return {
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "unit": "distances" if output == DISTANCE else "probabilities",
        "largest_difference": float(max(d.max() for d in differences)),
        "mean_difference": float(np.mean([d.mean() for d in differences])),
    }


def _scaled(values: np.ndarray, output: str) -> np.ndarray:
    """Probabilities of logits (N, classes) or (N, 1, S, S); distances as they are."""
    if output == DISTANCE:
        return values
    logits = torch.from_numpy(values.astype(np.float64))
    return (logits.softmax(dim=1) if values.ndim == 2 else logits.sigmoid()).numpy()
