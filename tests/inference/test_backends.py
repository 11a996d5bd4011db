"""Backends: the same answers as torch, the fastest taken and remembered, and nothing heavy imported."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from light_stages import blob
from msgspec.structs import replace
from PIL import Image

from bthub.data.dataset import load_split
from bthub.errors import BthubError
from bthub.evaluation.evaluate import backend_summary, evaluate
from bthub.imaging.image_io import upright_rgb
from bthub.inference import backends
from bthub.inference.backends import stages
from bthub.inference.loading import load_pipeline
from bthub.models.classifier import eval_transform, preprocessing
from bthub.models.export import export, summary
from bthub.models.input_check import letterbox
from bthub.models.localizer import Localizer
from bthub.models.resunet import ResUNetImageProcessor
from bthub.runs.folder import ONNX_METRICS, ONNX_MODEL, ONNX_QUANTIZED, ONNX_RECORD, RunFolder, write_json
from bthub.runs.operating_point import MaskPoint

EXAMPLES = sorted((Path(__file__).parents[2] / "space" / "examples").glob("*.png"))
HEAVY = {"torch", "timm", "transformers", "datasets", "scipy", "sklearn", "skimage", "matplotlib", "monai", "onnx"}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv(backends.CACHE, str(tmp_path / "cache"))
    monkeypatch.delenv(backends.CHOICE)


# -- preprocessing


def test_preprocessing_is_that_of_torch_to_the_last_digit():
    rng = np.random.default_rng(0)
    transform = eval_transform(preprocessing(256))
    processor = ResUNetImageProcessor(size={"height": 256, "width": 256})
    sizes = [(256, 256), (255, 257), (16, 500), (700, 33), (129, 128), (512, 512), *rng.integers(16, 600, (30, 2))]
    for height, width in sizes:
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        assert np.array_equal(stages.detector_pixels(image, 256), transform(image).numpy())
        expected = processor([image], return_tensors="pt")["pixel_values"][0].numpy()
        assert np.array_equal(stages.localizer_pixels(image, 256), expected)
        assert np.array_equal(stages.check_pixels(image, 128), letterbox(image, 128).numpy())


@pytest.mark.parametrize("size", [(64, 64), (40, 64), (300, 200), (17, 250)])
def test_masks_are_stretched_as_in_torch(size):
    import torch
    from transformers.modeling_outputs import SemanticSegmenterOutput

    height, width = size
    logits = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(height)) * 2
    logits = torch.nn.functional.avg_pool2d(logits, 5, 1, 2) * 3
    processor = ResUNetImageProcessor(size={"height": 64, "width": 64}, min_area_share=0.001)
    outputs = SemanticSegmenterOutput(logits=logits)
    expected = processor.post_process_semantic_segmentation(outputs, [size])[0].numpy() > 0
    localizer = stages.LightLocalizer(lambda pixels: logits.numpy(), 64, 0.001)
    (found,) = localizer.masks([Image.new("RGB", (width, height))])
    assert found.shape == size and (found != expected).mean() <= 2e-4


def test_a_kind_may_have_a_mask_of_its_own():
    """In numpy as in torch: another threshold, another smallest area, for pictures of that kind alone."""
    import torch
    from transformers.modeling_outputs import SemanticSegmenterOutput

    logits = torch.full((1, 1, 64, 64), -3.0)
    logits[..., 10:14, 20:24] = -1.0  # a probability of 0.27
    logits[..., 40:42, 20:22] = 2.0  # 4 pixels of 4096
    points = {"other_mri": MaskPoint(0.2, 0.0)}
    light = stages.LightLocalizer(lambda pixels: np.repeat(logits.numpy(), len(pixels), 0), 64, 0.002, points)
    pictures = [Image.new("RGB", (64, 64))] * 3
    kinds = ["other_mri", "flair_like", None]
    assert [int(mask.sum()) for mask in light.masks(pictures, kinds)] == [20, 0, 0]
    assert not any(mask.any() for mask in light.masks(pictures))
    processor = ResUNetImageProcessor(size={"height": 64, "width": 64}, min_area_share=0.002)
    answer = SemanticSegmenterOutput(logits=logits.repeat(3, 1, 1, 1))
    eager = Localizer(lambda pixels: answer, processor, "cpu", points)
    for one, other in zip(eager.masks(pictures, kinds), light.masks(pictures, kinds), strict=True):
        assert np.array_equal(one, other)


# -- the exported pair


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
@pytest.mark.parametrize("pair", ["exported_runs", pytest.param("exported_pair", marks=pytest.mark.slow)])
def test_single_precision_gives_what_torch_gives(request, pair, tiny_lgg, backend):
    if backend == "openvino":
        pytest.importorskip("openvino")
    run_ = [RunFolder.open(run) for run in request.getfixturevalue(pair)]
    images = [Image.open(path).convert("RGB") for path in EXAMPLES]
    images += [upright_rgb(image) for image in load_split(tiny_lgg, "test")["image"]]
    images += [images[0].resize((411, 300)), images[1].crop((50, 0, 206, 256))]
    eager, light = (
        backends.open_stage(run_[0], name, "cpu" if name == "torch" else None) for name in ("torch", backend)
    )
    assert np.abs(eager.predict(images) - light.predict(images)).max() < 1e-3
    eager, light = (
        backends.open_stage(run_[1], name, "cpu" if name == "torch" else None) for name in ("torch", backend)
    )
    masks = eager.masks(images)
    assert any(mask.any() for mask in masks)
    for one, other in zip(masks, light.masks(images), strict=True):
        assert not one.any() and not other.any() or 2 * (one & other).sum() / (one.sum() + other.sum()) >= 0.999


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_the_input_check_says_what_it_says_in_torch(shipped_runs, tiny_lgg, backend):
    if backend == "openvino":
        pytest.importorskip("openvino")
    images = [Image.open(path).convert("RGB") for path in EXAMPLES]
    images += [upright_rgb(image) for image in load_split(tiny_lgg, "test")["image"]]
    images += [
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 70, 3), np.uint8)),
        Image.new("RGB", (64, 64)),
    ]
    run = RunFolder.open(shipped_runs[0])
    eager, light = (backends.open_check(run, name, "cpu" if name == "torch" else None) for name in ("torch", backend))
    assert eager.inspect(images) == light.inspect(images)


def test_eight_bits_stay_near(shipped_runs):
    pipes = {name: load_pipeline(*shipped_runs, backend=name) for name in ("torch", "int8")}
    for path in EXAMPLES:
        one, other = (pipe(path, always_localize=True, check_input=False) for pipe in pipes.values())
        assert one.tumor_probability == pytest.approx(other.tumor_probability, abs=0.1)
        if one.mask.sum() > 200:
            assert 2 * (one.mask & other.mask).sum() / (one.mask.sum() + other.mask.sum()) > 0.95
    assert {model["backend"] for model in other.models.values()} == {"int8"}


def test_the_record_of_an_export(exported_runs):
    for path in exported_runs:
        run = RunFolder.open(path)
        assert run.onnx.weights == run.revision and run.onnx.calibration.split == "train"
        facts = run.onnx.files
        assert facts[ONNX_MODEL].largest_difference < 1e-3
        assert facts[ONNX_QUANTIZED].bytes < facts[ONNX_MODEL].bytes < 1.2 * (path / "model.safetensors").stat().st_size
        for file in (path / "onnx").glob("*.onnx"):  # no traces of the machine that made it
            content = file.read_bytes()
            assert b"site-packages" not in content and str(Path(__file__).parents[2]).encode() not in content, file
        assert "billion multiply-adds" in summary(run.onnx)
        assert not list(path.glob(".unfinished-*"))


def test_an_export_refuses(exported_runs, tiny_lgg, tmp_path):
    copy = Path(shutil.copytree(exported_runs[0], tmp_path / "copy"))
    with pytest.raises(BthubError, match="1 or more"):
        export(copy, tiny_lgg, pictures=0)
    split = (copy / "split.csv").read_text().replace(",train", ",test")
    (copy / "split.csv").write_text(split)
    with pytest.raises(BthubError, match="has no picture that"):
        export(copy, tiny_lgg)
    assert (copy / ONNX_RECORD).is_file()  # what was there is left


def test_what_a_backend_loses_is_measured(exported_runs, tiny_lgg, tmp_path):
    for path, figure in zip(exported_runs, ("ROC AUC", "Dice"), strict=True):
        copy = Path(shutil.copytree(path, tmp_path / path.name))
        stage = backends.open_stage(RunFolder.open(copy), "int8")
        (copy / "metrics.json").write_text("{}")
        with pytest.raises(BthubError, match="without --backend"):
            evaluate(copy, tiny_lgg, "test", backend="int8", stage=stage)
        before = evaluate(copy, tiny_lgg, "test", device="cpu")
        entry = evaluate(copy, tiny_lgg, "test", backend="int8", stage=stage)
        run = RunFolder.open(copy)
        assert run.onnx_metrics == {"int8": {"patient/test": entry}}
        assert run.metrics["patient/test"] == before  # the figures in torch are left
        assert figure in backend_summary(entry) and entry.command.endswith("--backend int8")
        assert run.quantized_ships() == (entry.loss <= 0.005)
        entry = replace(entry, loss=0.006)
        write_json(copy / ONNX_METRICS, {"int8": {"patient/test": entry}})
        assert not RunFolder.open(copy).quantized_ships()
        assert "it doesn't ship" in backend_summary(entry)
        entry = replace(entry, loss=0.0, file_sha256="that of another")
        write_json(copy / ONNX_METRICS, {"int8": {"patient/test": entry}})
        assert not RunFolder.open(copy).quantized_ships()


# -- which is taken


def test_the_fastest_is_taken_and_remembered(exported_runs, monkeypatch):
    said = []
    times = {"onnx": 5.0, "openvino": 7.0}
    timed = []
    monkeypatch.setattr(backends, "open_stage", lambda run, name, device=None, threads=None: name)
    monkeypatch.setattr(backends, "milliseconds", lambda stage, side: timed.append(stage) or times[stage])
    run = RunFolder.open(exported_runs[0])
    assert backends.choose(run, "auto", None, said.append) == "onnx"
    assert "using onnx" in said[0] and "openvino 7 ms" in said[0]
    assert backends.choose(run, "auto", None, said.append) == "onnx" and len(said) == 1
    # The eight-bit one wasn't measured, so it isn't taken; torch would have to be imported.
    assert set(timed) == set(times) and len(timed) == len(set(timed))
    backends.cache_file().write_text("{ cut short")
    assert backends.choose(run, "auto", None, said.append) == "onnx" and len(said) == 2
    assert backends.choose(run, "torch", None, said.append) == "torch"
    assert backends.choose(run, "auto", "cuda:0", said.append) == "torch"
    monkeypatch.setenv(backends.CACHE, "/proc/nowhere")
    assert backends.choose(run, "auto", None, said.append) == "onnx"
    assert "can't be saved" in said[-1]


def test_files_of_other_weights_are_not_taken(exported_runs, tmp_path):
    copy = Path(shutil.copytree(exported_runs[1], tmp_path / "copy"))
    record = json.loads((copy / ONNX_RECORD).read_text())
    write_json(copy / ONNX_RECORD, record | {"weights": "sha256:another"})
    assert backends.candidates(RunFolder.open(copy)) == ["torch"]
    with pytest.raises(BthubError, match="bthub export"):
        backends.open_stage(RunFolder.open(copy), "onnx")
    (copy / ONNX_MODEL).unlink()
    with pytest.raises(BthubError, match="has no onnx/model.onnx"):
        backends.open_stage(RunFolder.open(copy), "onnx")


def test_damaged_and_unknown(exported_runs, tmp_path, monkeypatch):
    copy = Path(shutil.copytree(exported_runs[0], tmp_path / "copy"))
    (copy / ONNX_MODEL).write_bytes(b"no network")
    with pytest.raises(BthubError, match="cannot be loaded"):
        load_pipeline(copy, exported_runs[1], backend="onnx")
    with pytest.raises(BthubError, match="no backend 'abacus'"):
        load_pipeline(*exported_runs, backend="abacus")
    monkeypatch.setenv(backends.CHOICE, "abacus")
    with pytest.raises(BthubError, match="no backend 'abacus'"):
        load_pipeline(*exported_runs)
    with pytest.raises(BthubError, match="swap"):
        load_pipeline(exported_runs[1], exported_runs[0], backend="onnx")


# -- what is loaded


def test_serving_loads_nothing_heavy(exported_runs, tmp_path):
    """A picture analyzed in a fresh process where none of HEAVY can be imported."""
    code = f"""
import sys
for name in {sorted(HEAVY)}: sys.modules[name] = None
from bthub.cli import main
code = main(["predict", {str(EXAMPLES[1])!r}, "--json", "--out", {str(tmp_path / "out")!r}, "--detector",
             {str(exported_runs[0])!r}, "--localizer", {str(exported_runs[1])!r}])
loaded = {{name for name in {sorted(HEAVY)} if sys.modules.get(name) is not None}}
assert not loaded, loaded
sys.exit(code)
"""
    environment = {**os.environ, backends.CACHE: str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["label"] in ("tumor", "no_tumor") and found["models"]["detector"]["backend"] in ("onnx", "openvino")
    assert (tmp_path / "out" / "results.jsonl").is_file()


def test_a_run_without_onnx_files_asks_for_torch(tiny_runs, tmp_path):
    code = f"""
import sys
sys.modules["torch"] = None
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torch" else find(name, *rest)
import bthub
try: bthub.load_pipeline({str(tiny_runs[0])!r}, {str(tiny_runs[1])!r})
except bthub.BthubError as error: print(error)
"""
    environment = {key: value for key, value in os.environ.items() if key != backends.CHOICE}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert "bthub export" in done.stdout and "bthub[torch]" in done.stdout, done.stderr


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_several_threads_get_their_own_answers(exported_runs, backend):
    from concurrent.futures import ThreadPoolExecutor

    if backend == "openvino":
        pytest.importorskip("openvino")
    pipe = load_pipeline(*exported_runs, backend=backend, threads=1)
    expected = [pipe(path, check_input=False).tumor_probability for path in EXAMPLES]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda path: pipe(path, check_input=False).tumor_probability, EXAMPLES * 3))
    assert found == pytest.approx(expected * 3, abs=1e-5)
    assert pipe(blob(64, 64, (5, 5, 20, 20)), check_input=False).width == 64
