"""Both training scripts on a few real slices: resume, several processes, the folder they leave."""

import copy
import dataclasses
import io
import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from datasets import ClassLabel, Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from bthub.data.build import build
from bthub.data.dataset import batches, load_split
from bthub.errors import BthubError
from bthub.imaging.image_io import read_image
from bthub.models.classifier import create_classifier, load_classifier, save_classifier
from bthub.runs.folder import CHECKPOINT, HISTORY, LOGS, TRAINING, WEIGHTS, RunFolder
from bthub.training import classifier, loop, losses, resunet
from bthub.training.checkpoint import BEST, LAST, Progress, best_model, save_checkpoint
from bthub.training.config import build_config, parse_config
from bthub.training.loop import steps_of
from bthub.training.samples import (
    UNKNOWN,
    Augmentation,
    Draw,
    EpochSampler,
    EvaluationImages,
    TrainingImages,
    rows_of_sources,
    sampler_of,
    training_mask,
)

REPOSITORY = Path(__file__).parents[2]
CLASSIFIER = {"architecture": "simple_cnn", "epochs": 5, "image_sizes": {0: 32, 3: 64}, "batch_size": 4, "workers": 0}
# Resumed in the frozen phase: the learning-rate finder isn't asked again, and the body is unfrozen when its time comes.
FROZEN = CLASSIFIER | {"freeze_epochs": 2, "trainable_layers": 2, "drop_rate": 0.5}
FROZEN |= {"optimizer": "sgd", "schedule": "one_cycle", "lr_finder": "valley", "lr_finder_steps": 20}
RESUNET = {
    "backbone": "resnet10t",
    "decoder_channels": [16, 16, 8, 8, 8],
    "epochs": 5,
    "image_sizes": {0: 32, 3: 64},
    "batch_size": 4,
    "workers": 0,
}


@dataclasses.dataclass
class Tiny:
    """A configuration with a field of each kind."""

    learning_rate: float = 0.1
    mixed_precision: str = "no"
    encoder: str = "any"
    epochs: int = 1
    flag: bool = False
    clip: float | None = 1.0
    sizes: dict[int, int] = dataclasses.field(default_factory=dict)


def command(script: str, config: dict, data: Path, output: Path, *more: str) -> list[str]:
    file = output.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(config))
    return [f"train/{script}.py", "--config", str(file), "--data", str(data), "--output", str(output), *more]


@pytest.fixture(autouse=True)
def fresh_accelerator(monkeypatch):
    """Accelerate keeps one state a process; here each training in this process begins with its own."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    yield
    forget_accelerator()


def forget_accelerator() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def train(arguments: list[str]) -> None:
    """Train in this process: a new one takes longer to import torch than to train on a few slices."""
    script, *rest = arguments
    {"train/classifier.py": classifier, "train/resunet.py": resunet}[script].main(rest)
    forget_accelerator()


def killed(arguments: list[str], output: Path) -> None:
    """A process of its own, killed as soon as there is a checkpoint."""
    process = subprocess.Popen([sys.executable, *arguments], cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (output / CHECKPOINT / LAST).exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"


def interrupted(arguments: list[str], output: Path) -> None:
    """In this process, stopped right after its first checkpoint: that spares an import of torch."""

    class Stopped(BaseException):
        pass

    def save_and_stop(*args: object) -> None:
        save_checkpoint(*args)
        raise Stopped

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(loop, "save_checkpoint", save_and_stop)
        train(arguments)
    forget_accelerator()


@pytest.mark.parametrize(
    ("script", "config", "stop"),
    [
        ("classifier", FROZEN, interrupted),
        # The loop is the same.
        pytest.param("classifier", CLASSIFIER, killed, marks=pytest.mark.slow),
        pytest.param("resunet", RESUNET, killed, marks=pytest.mark.slow),
    ],
)
def test_stopped_and_resumed_equals_uninterrupted(script, config, stop, tiny_lgg, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(command(script, config, tiny_lgg, whole))
    stop(command(script, config, tiny_lgg, cut), cut)
    assert (cut / CHECKPOINT / LAST).exists() and not (cut / WEIGHTS).exists()
    train(command(script, config, tiny_lgg, cut, "--resume"))

    expected, resumed = load_file(whole / WEIGHTS), load_file(cut / WEIGHTS)
    assert expected.keys() == resumed.keys()
    for key in expected:
        assert torch.equal(expected[key], resumed[key]), key
    assert (whole / HISTORY).read_text() == (cut / HISTORY).read_text()
    rows = RunFolder.open(cut).rows(HISTORY)
    assert [row["image_size"] for row in rows] == ["32"] * 3 + ["64"] * 2
    assert len({row["train_loss"] for row in rows}) == 5
    # The loss curves are in the tracker too, and the run says what it ran on.
    assert list((whole / LOGS).rglob("events.out.tfevents*"))
    record = json.loads((whole / TRAINING).read_text())
    assert record["dataset"]["splits"]["train"]["rows"] == len(load_split(tiny_lgg, "train"))
    assert record["best"]["epochs_trained"] == 5


@pytest.mark.slow  # two processes import torch at once
def test_two_processes_take_the_same_steps_as_one(tiny_lgg, tmp_path):
    # Class weights are normalized over each process's part of a batch, as torch does it: without them all is equal.
    config = CLASSIFIER | {"epochs": 2, "image_sizes": {0: 32}, "class_weights": False}
    one, two = tmp_path / "one", tmp_path / "two"
    train(command("classifier", config, tiny_lgg, one))
    # `accelerate launch` starts several processes on GPUs; on CPUs it needs MPI, and torchrun does without.
    launched = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    launched += command("classifier", config, tiny_lgg, two)
    done = subprocess.run(launched, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((two / TRAINING).read_text())["processes"] == 2
    curves = [[float(row["train_loss"]) for row in RunFolder.open(folder).rows(HISTORY)] for folder in (one, two)]
    assert len(curves[1]) == 2
    assert curves[1] == pytest.approx(curves[0], abs=1e-4)
    expected, shared = load_file(one / WEIGHTS), load_file(two / WEIGHTS)
    # The last layer is left out: it carries the temperature, which five validation slices don't pin down.
    for key in expected.keys() - {"fc.weight", "fc.bias"}:
        torch.testing.assert_close(expected[key].float(), shared[key].float(), rtol=0, atol=2e-3)


class Slower:
    """The main process beside another, which writes its part of a checkpoint as late as it may: while it is awaited."""

    is_main_process = True

    def save_state(self, folder: str) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True)

    def wait_for_everyone(self) -> None:
        if self.folder.exists():
            (self.folder / "random_states_1.pkl").touch()

    def unwrap_model(self, model: torch.nn.Module) -> torch.nn.Module:
        return model


def test_a_checkpoint_is_put_in_place_when_every_process_has_written_its_part(tmp_path):
    progress = Progress({})
    progress.record({"validation_loss": 1.0}, 0.5)
    save_checkpoint(Slower(), tmp_path, progress, torch.nn.Linear(1, 1), improved=True)
    assert (tmp_path / CHECKPOINT / "last" / "random_states_1.pkl").exists()


def test_a_finished_run_is_not_overwritten(tiny_lgg, tiny_runs, tmp_path):
    arguments = command("classifier", CLASSIFIER, tiny_lgg, tmp_path / "x")
    arguments[arguments.index("--output") + 1] = str(tiny_runs[0])
    with pytest.raises(BthubError, match="holds a finished run"):
        train(arguments)


def test_an_unknown_key_is_named():
    with pytest.raises(BthubError, match="here: unknown key learning_rat; expected some of learning_rate,"):
        build_config(Tiny, {"learning_rat": 1}, "here")


@pytest.mark.parametrize(
    "setting, key, value",
    [
        ("learning_rate=1e-4", "learning_rate", 1e-4),
        ("learning_rate=.5", "learning_rate", 0.5),
        ("learning_rate=1", "learning_rate", 1),
        ("mixed_precision=no", "mixed_precision", "no"),
        ("flag=true", "flag", True),
        ("encoder=falsely", "encoder", "falsely"),
        ("clip=null", "clip", None),
        ("sizes={0: 64, 3: 128}", "sizes", {0: 64, 3: 128}),
    ],
)
def test_values_are_read_as_people_write_them(setting, key, value, tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    arguments = ["--config", str(tmp_path / "empty.yaml"), "--output", str(tmp_path / "out"), "--set", setting]
    config, args = parse_config(Tiny, "x", arguments)
    assert getattr(config, key) == value
    assert args.recipe["file"] == "empty.yaml" and set(args.recipe["changed"]) <= {key}


def test_a_run_says_what_it_changes_of_its_recipe(tmp_path):
    file = tmp_path / "configs" / "papers" / "one.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("epochs: 30\nlearning_rate: 0.01\n")
    arguments = ["--config", str(file), "--output", "x", "--set", "epochs=3", "learning_rate=0.01", "sizes={0: 96}"]
    config, args = parse_config(Tiny, "x", arguments)
    assert config.epochs == 3
    # What the file says, or what holds where it says nothing; a value that is the same isn't a change.
    assert args.recipe == {"file": "papers/one.yaml", "changed": {"epochs": 30, "sizes": Tiny().sizes}}


@pytest.mark.parametrize(
    "key, value, expected",
    [
        ("learning_rate", "fast", "float"),
        ("mixed_precision", False, "str"),
        ("epochs", 2.5, "int"),
        ("epochs", True, "int"),
        ("clip", "none", "float | None"),
        ("sizes", 64, "dict"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(key, value, expected):
    with pytest.raises(BthubError, match=re.escape(f"x: {key} is {value!r}, expected {expected}")):
        build_config(Tiny, {key: value}, "x")


def test_an_epoch_has_its_last_step_and_at_least_one():
    def batches(images: int) -> DataLoader:
        return DataLoader(range(images), 8, drop_last=True)

    assert [steps_of(batches(168), accumulation) for accumulation in (1, 8, 21, 30)] == [21, 3, 1, 1]
    with pytest.raises(BthubError, match="7 training images don't fill a batch of 8"):
        steps_of(batches(7), 1)


def test_nested_configuration_becomes_its_dataclass():
    @dataclasses.dataclass
    class Config:
        augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)

    with pytest.raises(BthubError, match="x: augmentation is None, expected dict"):
        build_config(Config, {"augmentation": None}, "x")
    config = build_config(Config, {"augmentation": {"rotation": 3}}, "x")
    assert config.augmentation == Augmentation(rotation=3)
    with pytest.raises(BthubError, match="x: augmentation: unknown key rotations"):
        build_config(Config, {"augmentation": {"rotations": 3}}, "x")


def test_early_stopping_counts_epochs_since_the_best():
    progress = Progress({})
    assert progress.record({"validation_loss": 1.0}, 0.5) and not progress.out_of_patience(2)
    assert not progress.record({"validation_loss": 0.9}, 0.4) and not progress.out_of_patience(2)
    assert not progress.record({"validation_loss": 1.0}, 0.5) and progress.out_of_patience(2)
    assert (progress.best, progress.best_epoch) == (0.5, 0)


def test_of_epochs_with_one_metric_the_lowest_loss_is_the_best():
    """A detector that never calls a tumor at one half has F1 0 in every epoch, and learns all the same."""
    progress = Progress({})
    assert [progress.record({"validation_loss": loss}, 0.0) for loss in (0.7, 0.6, 0.65)] == [True, True, False]
    assert progress.best_epoch == 1


def test_a_run_is_not_resumed_with_another_configuration(tiny_lgg, tmp_path):
    config = CLASSIFIER | {"epochs": 1, "image_sizes": {0: 32}}
    train(command("classifier", config, tiny_lgg, tmp_path / "x"))
    (tmp_path / "x" / WEIGHTS).unlink()  # as if it had been killed after its last epoch
    changed = command("classifier", config | {"learning_rate": 0.5}, tiny_lgg, tmp_path / "x", "--resume")
    with pytest.raises(BthubError, match=r"learning_rate 0\.001, now 0\.5"):
        train(changed)
    forget_accelerator()
    train(command("classifier", config | {"workers": 1}, tiny_lgg, tmp_path / "x", "--resume"))
    assert (tmp_path / "x" / WEIGHTS).exists()


def test_what_is_calibrated_is_what_is_saved(tmp_path):
    """Temperature and thresholds are fitted to half-precision weights run in single, not to mixed precision."""
    torch.manual_seed(0)
    plain, pixels = create_classifier("simple_cnn", 2).eval(), torch.rand(2, 3, 32, 32)
    (tmp_path / CHECKPOINT / LAST).mkdir(parents=True)
    save_file(plain.state_dict(), tmp_path / CHECKPOINT / LAST / BEST)
    save_classifier(tmp_path, plain, "simple_cnn", ["no_tumor", "tumor"], 32, temperature=1)
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        accelerator = Accelerator(mixed_precision="bf16", cpu=True)
        trained = accelerator.prepare(copy.deepcopy(plain))
        with torch.inference_mode():
            mixed = trained(pixels).float()
            best = best_model(accelerator, trained, tmp_path)(pixels)
            saved = load_classifier(RunFolder.open(tmp_path)).model(pixels)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert torch.equal(best, saved) and not torch.equal(best, mixed)


def test_epochs_differ_and_repeat():
    sampler = EpochSampler([1] * 3 + [0] * 9, seed=1, shares={0: 0.5, 1: 0.5})
    epochs = []
    for epoch in (0, 1, 0):
        sampler.start_epoch(epoch, 64)
        epochs.append(list(sampler))
    assert epochs[0] == epochs[2] != epochs[1]
    for draws in epochs:
        tumor = [draw.index for draw in draws if draw.index < 3]
        assert len(draws) == 12 and sorted(tumor) == [0, 0, 1, 1, 2, 2]
        assert len({draw.index for draw in draws if draw.index >= 3}) == 6
    plain = EpochSampler([1, 0, 0], seed=1)
    plain.start_epoch(0, 64)
    assert sorted(draw.index for draw in plain) == [0, 1, 2]


def test_training_and_evaluation_see_what_prediction_sees(tmp_path):
    """Pictures of 16 bits, with alpha and lying on their side."""
    rng = np.random.default_rng(0)
    for label in ("no", "yes"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for i in range(4):
            gray, color = rng.integers(0, 4000, (30, 40), np.uint16), rng.integers(0, 256, (30, 40, 4), np.uint8)
            Image.fromarray(gray).save(tmp_path / f"pictures/{label}/deep-{i}.png")
            Image.fromarray(color).save(tmp_path / f"pictures/{label}/alpha-{i}.png")
            exif = Image.Exif()
            exif[0x0112] = 6
            Image.fromarray(color[..., 3]).save(tmp_path / f"pictures/{label}/turned-{i}.jpg", exif=exif)
    build(tmp_path / "pictures", tmp_path / "built")
    rows = load_split(tmp_path / "built", "train")
    given = [read_image(tmp_path / "pictures" / name) for name in rows["file"]]
    trained = TrainingImages(rows, Augmentation(), show_progress=False, canvas=40).images
    evaluated = EvaluationImages(rows, lambda image: torch.from_numpy(np.array(image)).movedim(2, 0))
    [batch] = batches(rows, len(rows), "")
    assert len({name.split("/")[-1][:4] for name in rows["file"]}) == 3
    for i, expected in enumerate(given):
        height, width = expected.shape[:2]  # centered in the square, gray ones with one channel
        top, left = (40 - height) // 2, (40 - width) // 2
        inner = trained[i][:, top : top + height, left : left + width].transpose(1, 2, 0)
        assert np.array_equal(np.broadcast_to(inner, expected.shape), expected)
        assert trained[i].sum() == inner.sum()
        assert np.array_equal(evaluated[i]["pixel_values"].movedim(0, 2), expected)
        assert np.array_equal(np.asarray(batch[i]), expected)


def test_image_and_mask_move_together(tiny_lgg):
    """The mask painted into the image and the mask beside it are still the same area after augmentation."""
    rows = load_split(tiny_lgg, "train")
    still = Augmentation(intensity=0, missing_sequence=0)
    images = TrainingImages(rows, still, show_progress=False, masks=True)
    index = images.labels.index(1)
    images.images[index] = np.stack([images.masks[index]] * 3)
    for seed in range(5):
        item = images[Draw(index, seed, 128)]
        painted, mask = item["pixel_values"][0] > 0.5, item["mask"][0] > 0.5
        overlap = 2 * (painted & mask).sum() / (painted.sum() + mask.sum())
        assert overlap > 0.93, seed  # bilinear and nearest differ along the edge only
        assert item["pixel_values"].shape == (3, 128, 128) and item["mask"].shape == (1, 128, 128)
    first, again, other = (images[Draw(index, seed, 128)]["mask"] for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_missing_sequence_is_replaced_by_flair(tiny_lgg):
    rows = load_split(tiny_lgg, "train")
    fixed = dict(flip=0, rotation=0, translate=0, scale=0, shear=0, intensity=0)
    all_missing = TrainingImages(rows, Augmentation(**fixed, missing_sequence=1), show_progress=False)
    pixels = all_missing[Draw(0, 0, 256)]["pixel_values"]
    flair = torch.from_numpy(all_missing.images[0][1] / np.float32(255))
    for channel in pixels:
        torch.testing.assert_close(channel, flair)


def test_one_sequence_alone_is_gray(tiny_lgg):
    """Each as often as it should be, and its three channels change together."""
    rows = load_split(tiny_lgg, "train")
    images = TrainingImages(rows, Augmentation(single_sequence=[0.0, 1.0, 0.0]), show_progress=False)
    for seed in range(4):
        red, green, blue = images[Draw(0, seed, 128)]["pixel_values"]
        assert torch.equal(red, green) and torch.equal(green, blue) and red.max() > 0
    fixed = dict(flip=0, rotation=0, translate=0, scale=0, shear=0, intensity=0, missing_sequence=0)
    alone = TrainingImages(rows, Augmentation(**fixed, single_sequence=[0.25, 0.25, 0.25]), show_progress=False)
    shown = [alone[Draw(0, seed, 256)]["pixel_values"] for seed in range(60)]
    sequences = torch.from_numpy(alone.images[0] / np.float32(255))
    gray = [sequence.expand(3, -1, -1) for sequence in sequences]
    counts = [sum(torch.allclose(one, each, atol=1e-3) for one in shown) for each in gray]
    assert all(5 <= count <= 27 for count in counts)
    assert sum(torch.allclose(one, sequences, atol=1e-3) for one in shown) == 60 - sum(counts)


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 60}), ("WEBP", {"quality": 80})])
def test_a_gray_picture_that_was_compressed_stays_gray(kaggle, kind, options):
    """Saved in color, its channels differ by a little; they change together all the same."""
    path = next(iter(sorted(kaggle.glob("*/*_11.tif"))))
    gray = Image.open(path).getchannel(1)
    # A trace of color, as a compressor that works on blocks of color leaves.
    pixels = np.stack([np.asarray(gray).astype(int) + shift for shift in (0, 1, 2)], axis=-1).clip(0, 255)
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, kind, **options)
    read = np.asarray(Image.open(buffer).convert("RGB"))
    assert (read[..., 0] != read[..., 2]).any()
    rows = Dataset.from_dict(
        {"image": [{"bytes": buffer.getvalue(), "path": None}], "label": [0]},
        features=Features({"image": ImageFeature(), "label": ClassLabel(names=["no_tumor", "tumor"])}),
    )
    images = TrainingImages(rows, Augmentation(), show_progress=False)
    assert images.images[0].shape == (1, 256, 256)
    assert np.abs(images.images[0][0].astype(int) - read.mean(axis=-1)).max() <= 2
    for seed in range(3):
        red, green, blue = images[Draw(0, seed, 128)]["pixel_values"]
        assert torch.equal(red, green) and torch.equal(green, blue)


def test_passing_a_picture_on_worsens_it_a_little(tiny_lgg):
    """JPEG, fewer pixels and burned-in text: gray stays gray, the mask stays, and a seed gives the same again."""
    rows = load_split(tiny_lgg, "train")
    fixed = dict(flip=0, rotation=0, translate=0, scale=0, shear=0, intensity=0, missing_sequence=0)
    plain = TrainingImages(rows, Augmentation(**fixed), show_progress=False, masks=True)
    index = plain.labels.index(1)
    for change in ("jpeg", "resample", "overlay"):
        worse = TrainingImages(
            rows, Augmentation(**fixed, single_sequence=[0, 1.0, 0], **{change: 1.0}), show_progress=False, masks=True
        )
        one, again, other = (worse[Draw(index, seed, 256)]["pixel_values"] for seed in (0, 0, 1))
        assert torch.equal(one, again) and not torch.equal(one, other), change
        assert torch.equal(one[0], one[1]) and torch.equal(one[1], one[2]), change
        original = torch.from_numpy(plain.images[index][1] / np.float32(255))
        assert 0 < (one[0] - original).abs().mean() < 0.05, change
        assert torch.equal(worse[Draw(index, 0, 256)]["mask"], plain[Draw(index, 0, 256)]["mask"]), change


def test_a_box_is_tumor_inside_and_unknown_at_its_corners():
    mask = training_mask((200, 100), None, (40, 20, 120, 80), 100)  # half the size, centered below a margin of 25
    assert mask[25 + 25, 40] == 255  # the center
    assert mask[25 + 11, 21] == mask[25 + 39, 59] == UNKNOWN
    assert mask[25 + 5, 40] == mask[25 + 25, 70] == 0
    assert not training_mask((200, 100), None, None, 100).any()
    known = losses.known_loss
    target = torch.tensor([[[[1.0, 0.0, -1.0]]]])
    for loss in losses.LOSSES.values():
        logits = torch.tensor([[[[9.0, -9.0, 9.0]]]], requires_grad=True)
        known(loss, logits, target).backward()
        assert logits.grad[0, 0, 0, 2] == 0
        assert known(loss, logits, target) < known(loss, -logits, target)


def test_sources_are_balanced_in_what_is_drawn():
    rows = Dataset.from_dict(
        {"label": [0] * 8 + [1] * 2 + [0] * 2 + [1] * 6 + [0] * 2, "source": ["a"] * 10 + ["b"] * 8 + ["c"] * 2}
    )
    sampler = sampler_of(rows, 1, {"a": 2, "b": 1, "c": 1}, length=80)
    sampler.start_epoch(0, 64)
    drawn = Counter((rows[d.index]["source"], rows[d.index]["label"]) for d in sampler)
    assert drawn == {("a", 0): 20, ("a", 1): 20, ("b", 0): 10, ("b", 1): 10, ("c", 0): 20}
    fewer = sampler_of(rows, 1, {"a": 2, "b": 1, "c": 1}, 0.25, length=80)
    fewer.start_epoch(0, 64)
    assert Counter((rows[d.index]["source"], rows[d.index]["label"]) for d in fewer) == {
        ("a", 0): 30, ("a", 1): 10, ("b", 0): 15, ("b", 1): 5, ("c", 0): 20,
    }  # fmt: skip
    assert set(rows_of_sources(rows, {"a": 1, "c": 1})["source"]) == {"a", "c"}
    assert rows_of_sources(rows, None) is rows
    with pytest.raises(BthubError, match="the data have a, b, c"):
        rows_of_sources(rows, {"d": 1})
    with pytest.raises(BthubError, match="bthub data mix"):
        rows_of_sources(rows.remove_columns(["source"]), {"a": 1})


@pytest.mark.parametrize("name", losses.LOSSES)
def test_losses(name):
    loss = losses.LOSSES[name]
    mask = torch.zeros(2, 1, 8, 8)
    mask[0, 0, 2:5, 2:5] = 1
    good, bad = 20 * (2 * mask - 1), -20 * (2 * mask - 1)
    assert loss(good, mask) < 0.01 < 0.5 < loss(bad, mask)
    # Defined on empty masks, with a slope that points away from false tumor.
    empty = torch.zeros_like(mask)
    quiet, noisy = torch.full_like(mask, -8.0), torch.full_like(mask, 1.0).requires_grad_()
    assert loss(quiet, empty) < loss(noisy, empty)
    loss(noisy, empty).backward()
    assert torch.isfinite(noisy.grad).all() and (noisy.grad > 0).all()
    perfect = good.clone().requires_grad_()
    loss(perfect, mask).backward()
    assert torch.isfinite(perfect.grad).all()


def test_focal_tversky_by_hand():
    logits = torch.tensor([20.0, 20.0, -20.0, -20.0]).reshape(1, 1, 2, 2)
    mask = torch.tensor([1.0, 0.0, 1.0, 1.0]).reshape(1, 1, 2, 2)  # one hit, one false, two missed
    index = (1 + 1) / (1 + 0.7 * 2 + 0.3 * 1 + 1)
    torch.testing.assert_close(losses.focal_tversky_loss(logits, mask), torch.tensor((1 - index) ** 0.75))
    torch.testing.assert_close(losses.dice_loss(logits, mask), torch.tensor(1 - 2 / (1 + 0.5 * 2 + 0.5 + 1)))


def test_class_weights_are_balanced():
    weights = losses.balanced_class_weights(torch.tensor([0, 0, 0, 1]), 2)
    torch.testing.assert_close(weights, torch.tensor([4 / 6, 2.0]))
