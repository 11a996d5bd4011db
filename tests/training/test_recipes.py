"""Every experiment of experiments.yaml from end to end on a few slices, and the pieces that recipes are made of."""

import copy
import dataclasses
import hashlib
import json
import os
import pickle
import re
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import timm
import torch
import yaml
from accelerate.state import AcceleratorState, GradientState
from datasets import Dataset as Rows
from datasets import Image as ImageFeature
from fresh import Fresh
from PIL import Image
from records import complete_run
from safetensors.torch import load_file, save_file
from scripts import script
from torch import nn
from transformers import pipeline

from bthub import project
from bthub.cli import main
from bthub.data.build import build
from bthub.data.mix import mix
from bthub.errors import BthubError
from bthub.evaluation import plots
from bthub.models.classifier import create_classifier, fold_normalization, last_linear, load_classifier, save_classifier
from bthub.models.localizer import load_localizer
from bthub.models.resunet import ResUNetImageProcessor
from bthub.reports import publish
from bthub.runs.folder import (
    CARD,
    CONFIG,
    COST,
    GRADCAM,
    LR_FINDER,
    METRICS,
    WEIGHTS,
    RunFolder,
    write_json,
    write_rows,
)
from bthub.training import classifier, freezing, lr_finder, reproduce, resunet
from bthub.training.config import CONFIGS, EXPERIMENTS, parse_config, size_at
from bthub.training.initialization import initial_weights, load_encoder, load_matching, load_weights
from bthub.training.optimization import create_optimizer, create_schedule

ROWS = yaml.safe_load(EXPERIMENTS.read_text(encoding="utf-8"))
TRAIN = Path(__file__).parents[2] / "train"
PAPER_HEAD = {"head_widths": [128, 128, 64], "head_dropout": [0.5, 0.5, 0.0]}


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    ablations = script("train/ablations.py")
    return {"classifier": classifier, "resunet": resunet, "reproduce": reproduce, "ablations": ablations}


@pytest.fixture(autouse=True)
def fresh_accelerator(monkeypatch):
    """Accelerate keeps one state a process; here each run of a script in this process begins with its own."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(scope="module")
def data(tiny_lgg, tmp_path_factory) -> dict[str, Path]:
    """The data sets that experiments.yaml names, tiny: real slices, and image folders of noise."""
    folder = tmp_path_factory.mktemp("folders")
    rng = np.random.default_rng(0)
    layouts = {
        "4class": [
            f"{split}/{name}" for split in ("Training", "Testing") for name in ("glioma", "meningioma", "none", "p")
        ],
        "253": ["no", "yes"],
    }
    for name, classes in layouts.items():
        for label in classes:
            (folder / name / label).mkdir(parents=True)
            for i in range(8):
                noise = rng.integers(0, 256, (24, 32), dtype=np.uint8)
                Image.fromarray(noise).save(folder / name / label / f"{i}.png")
        build(folder / name, folder / f"{name}-built")
    built = {name: folder / f"{name}-built" for name in layouts}
    mix([tiny_lgg, built["253"]], folder / "mix")
    return {
        "lgg": tiny_lgg,
        "4class-unlike-253": built["4class"],
        "mix": folder / "mix",
        "mix-without-253": folder / "mix",
    } | built


# One row for each way to train, with a small network where there is one: a mixture, dense layers over a frozen encoder,
# SGD. The others differ in the network or in a few values.
EACH_WAY = {
    "lite0-mri",
    "resunet18-mri",
    "resnet-efficientnet-efficientnet_b0",
    "vgg-densenet-resnet-simple_cnn",
}
assert EACH_WAY <= ROWS.keys()


@pytest.mark.parametrize(
    "name", [name if name in EACH_WAY else pytest.param(name, marks=pytest.mark.slow) for name in ROWS]
)
def test_every_row_runs_from_end_to_end(name, scripts, data, tmp_path):
    row, output = ROWS[name], tmp_path / name
    arguments = scripts["reproduce"].training_arguments(row, str(data[row["data"]]), output)
    if row.get("set", {}).get("protocol", "").startswith("fold"):
        arguments += ["--set", "protocol=patient"]  # four patients are too few for the validation of every fold
    scripts[row["script"]].main([*arguments, "--dry-run"])
    folder = RunFolder.open(output)
    picture = Image.new("RGB", (40, 30), "gray")
    if row["script"] == "classifier":
        classifier = load_classifier(folder)
        assert classifier.predict([picture]).shape == (1, len(classifier.labels))
    else:
        assert load_localizer(folder).predict([picture])[0].shape == (30, 40)
    assert (output / LR_FINDER).exists() == bool(folder.training.config.get("lr_finder"))
    assert folder.training.best.epochs_trained == 1 + bool(folder.training.config.get("freeze_epochs"))
    shutil.rmtree(output)  # VGG16 and its checkpoint take a gigabyte


@pytest.mark.parametrize("name", ROWS)
def test_what_a_row_changes_arrives_as_it_is_written(name, scripts, tmp_path):
    row = ROWS[name]
    script = scripts[row["script"]]
    config, _ = parse_config(script.Config, "x", scripts["reproduce"].training_arguments(row, "data", tmp_path))
    for key, value in row.get("set", {}).items():
        given = getattr(config, key)
        if dataclasses.is_dataclass(given):  # what a row doesn't name stays as it is by default
            assert dataclasses.asdict(given) == dataclasses.asdict(type(given)()) | value
        else:
            assert given == value
    side = size_at(config.image_sizes, config.epochs)
    assert side == max(config.image_sizes.values()) and side % 32 == 0


def test_each_try_changes_a_recipe_and_is_tried_once(scripts, monkeypatch, tmp_path):
    ablations = scripts["ablations"]
    tries = ablations.rows(yaml.safe_load((TRAIN / "ablations.yaml").read_text()))
    for row in tries:
        arguments = scripts["reproduce"].training_arguments(row, "data", tmp_path)
        config, _ = parse_config(scripts[row["script"]].Config, "x", arguments)
        assert config.protocol == "patient" and all(getattr(config, key) is not None for key in ("epochs", "seed"))

    trained = []

    def train(row, data, output, changes, *flags):
        """Leaves what a training leaves, with a better figure each time."""
        trained.append(row["tried"])
        output.mkdir(parents=True)
        best = {"epoch": 3, "validation_metric": 0.5 + len(trained) / 100, "epochs_trained": 4}
        write_json(output / "training.json", {"best": best, "dataset": {"splits": {"validation": {"rows": 9}}}})

    monkeypatch.setattr(ablations.reproduce, "train", train)
    results = tmp_path / "results"
    command = ["ablations.py", "--work", str(tmp_path / "work"), "--results", str(results)]
    monkeypatch.setattr(sys, "argv", command)
    ablations.main()
    assert trained == [row["tried"] for row in tries]
    lines = ablations.read(results / "ablations.csv")
    assert [line["tried"] for line in lines] == trained and not list((tmp_path / "work").iterdir())
    assert [float(line["validation"]) for line in lines] == [0.5 + i / 100 for i in range(1, len(tries) + 1)]
    table = (results / "ablations.md").read_text()
    assert "| the recipe | 0.510 |  |" in table and "| another seed | 0.520 | +0.010 |" in table
    ablations.main()
    assert len(trained) == len(tries)
    # A try whose settings are others now is made again, and stands where it stood.
    lines[1]["settings"] = "{}"
    write_rows(results / "ablations.csv", lines)
    ablations.main()
    assert trained[len(tries) :] == ["another seed"]
    assert [line["tried"] for line in ablations.read(results / "ablations.csv")] == [row["tried"] for row in tries]


def test_the_table_of_what_was_tried_is_of_the_plan_as_it_is(scripts):
    ablations, results = scripts["ablations"], TRAIN.parent / "results"
    lines = ablations.read(results / "ablations.csv")
    plan = map(ablations.settings_of, ablations.rows(yaml.safe_load((TRAIN / "ablations.yaml").read_text())))
    assert set(map(ablations.settings_of, lines)) <= set(plan)
    assert (results / "ablations.md").read_text() == ablations.markdown(lines)


def test_a_reproduced_row_is_trained_by_its_script(scripts, data, monkeypatch, tmp_path):
    """`make reproduce` starts the script and then what measures; what the script is given, it understands."""
    commands = []
    monkeypatch.setattr(scripts["reproduce"], "run", lambda *command: commands.append(command))
    monkeypatch.setattr(scripts["reproduce"], "measure", lambda *arguments: commands.append(arguments))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    output = tmp_path / "run"
    monkeypatch.setattr(
        sys, "argv", ["reproduce.py", "resnet50-lgg-scratch", "--output", str(output), "--set", "seed=1"]
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BthubError, match="data/lgg isn't there"):
        scripts["reproduce"].main()
    monkeypatch.setattr(scripts["reproduce"], "BuiltDataset", lambda data: commands.append(data))
    scripts["reproduce"].main()
    looked_for, training, measuring = commands
    assert looked_for == "data/lgg"
    # All six, not the one that accelerate gives by default.
    launched = ("-m", "accelerate.commands.launch", "--num_cpu_threads_per_process", "6")
    assert training[:6] == (*launched, "--module", "bthub.training.classifier") and "--resume" in training
    config, args = parse_config(scripts["classifier"].Config, "x", training[6:])
    assert (config.architecture, config.encoder_from, config.seed) == ("resnet50", None, 1)
    assert args.output == output and measuring == (ROWS["resnet50-lgg-scratch"], "data/lgg", output)
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "nothing"])
    with pytest.raises(BthubError, match="no experiment 'nothing'"):
        scripts["reproduce"].main()


def test_a_trained_row_is_not_trained_again(scripts, monkeypatch, tmp_path, capsys):
    def train(*_):
        raise AssertionError("there are weights")

    monkeypatch.setattr(scripts["reproduce"], "train", train)
    monkeypatch.setattr(scripts["reproduce"], "measure", lambda *_: None)
    (tmp_path / WEIGHTS).touch()
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "simple_cnn-lgg", "--output", str(tmp_path)])
    scripts["reproduce"].main()
    assert "already trained; running the missing evaluations" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--set", "seed=1"])
    with pytest.raises(BthubError, match="which --set can't change"):
        scripts["reproduce"].main()


@pytest.fixture
def again(scripts, monkeypatch, tmp_path) -> Callable[[str, Path, Path], list[list[str]]]:
    """Starts a row whose training is done, and gives the commands that it ran."""
    reproduce, commands = scripts["reproduce"], []

    def run(*arguments: str) -> None:
        commands.append([arguments[2], *(a for a in arguments if a in ("test", "validation", "--copies"))])
        assert arguments[:2] == ("-m", "bthub.cli") and main(list(arguments[2:])) == 0

    def again(row: str, data: Path, output: Path) -> list[list[str]]:
        commands.clear()
        monkeypatch.setattr(sys, "argv", ["reproduce.py", row, "--data", str(data), "--output", str(output)])
        reproduce.main()
        return commands

    monkeypatch.setattr(reproduce, "run", run)
    monkeypatch.setattr(project, "SHIPPED_RUNS", tmp_path / "runs")
    monkeypatch.setattr(reproduce, "CARDS", tmp_path / "model_cards")
    (tmp_path / "model_cards").mkdir()
    (tmp_path / "runs").mkdir()
    return again


@pytest.mark.slow
def test_a_trained_row_is_measured_once(again, tiny_runs, tiny_lgg, tmp_path):
    """Evaluation on both splits, cost, Grad-CAM and card; started again, only what isn't there."""
    output = complete_run(tiny_runs[0], tmp_path / "runs" / "tiny", tiny_lgg)
    (output / COST).unlink()
    # An untrained model's maps may be empty; with these weights, whatever it sees speaks for a tumor.
    weights = load_file(output / WEIGHTS)
    weights["fc.weight"] = torch.stack([-weights["fc.weight"][0].abs(), weights["fc.weight"][0].abs()])
    save_file(weights, output / WEIGHTS, metadata={"format": "pt"})

    everything = [["evaluate", "test"], ["evaluate", "validation"], ["cost"], ["explain", "test"], ["card", "--copies"]]
    assert again("resnet18-lgg", tiny_lgg, output) == everything
    assert again("resnet18-lgg", tiny_lgg, output) == []
    assert (tmp_path / "model_cards" / "tiny.md").is_file() and "Grad-CAM" in (output / CARD).read_text()
    (output / GRADCAM).unlink()
    assert again("resnet18-lgg", tiny_lgg, output) == [["explain", "test"], ["card", "--copies"]]
    content = json.loads((output / METRICS).read_text())
    write_json(output / METRICS, content | {"patient/validation": content["patient/validation"] | {"weights": "old"}})
    assert again("resnet18-lgg", tiny_lgg, output) == [["evaluate", "validation"], ["card", "--copies"]]
    # Trained again where a clone has the measurements of other weights: each is made again.
    save_file({**weights, "fc.bias": weights["fc.bias"] + 0.5}, output / WEIGHTS, metadata={"format": "pt"})
    assert again("resnet18-lgg", tiny_lgg, output) == everything
    assert again("resnet18-lgg", tiny_lgg, output) == []


@pytest.mark.slow
def test_rows_elsewhere_and_of_other_tasks_are_measured(again, tiny_runs, tiny_lgg, data, tmp_path):
    elsewhere = complete_run(tiny_runs[1], tmp_path / "tiny-localizer", tiny_lgg)
    assert again("resunet18-lgg", tiny_lgg, elsewhere) == [["evaluate", "test"], ["evaluate", "validation"], ["card"]]
    (tmp_path / "source").mkdir()
    save_classifier(tmp_path / "source", create_classifier("resnet10t", 2), "resnet10t", ["no", "yes"], 64, 1.0)
    pictures = complete_run(tmp_path / "source", tmp_path / "pictures", data["253"])
    assert again("resnet34-253", data["253"], pictures) == [["evaluate", "test"], ["evaluate", "validation"], ["card"]]


def test_no_configuration_is_left_out():
    configs = {path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml")}
    assert configs == {row["config"] for row in ROWS.values()}


# -- dense layers


def test_the_head_of_the_paper_has_the_weights_of_the_paper():
    model = create_classifier("resnet50", 4, **PAPER_HEAD)
    freezing.train_last(model, 0)
    assert freezing.trainable_parameters(model) == 287_300
    drops = [module.p for module in model.get_classifier().modules() if isinstance(module, nn.Dropout)]
    assert drops == [0.5, 0.5, 0.0] and last_linear(model).out_features == 4


@pytest.mark.parametrize(
    "architecture",
    ["resnet18", "efficientnet_b0", *(pytest.param(name, marks=pytest.mark.slow) for name in ("densenet121", "vgg16"))],
)
def test_dense_layers_load_with_the_stock_clients(architecture, tmp_path):
    torch.manual_seed(0)
    model = create_classifier(architecture, 3, head_widths=[32, 16], head_dropout=[0.5, 0.5]).eval()
    nn.init.normal_(last_linear(model).bias)
    save_classifier(tmp_path, model, architecture, ["a", "b", "c"], 64, temperature=2.0)
    classifier = load_classifier(RunFolder.open(tmp_path))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    pixels = classifier.transform(noise)[None]
    with torch.inference_mode():
        expected = (model(pixels) / 2).softmax(1).numpy()[0]
    assert np.ptp(expected) > 0.05
    np.testing.assert_allclose(classifier.predict([noise])[0], expected, atol=5e-3)
    stock = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    with torch.inference_mode():
        np.testing.assert_allclose(stock(pixels).softmax(1).numpy()[0], classifier.predict([noise])[0], atol=1e-6)
    # bthub is imported, so the model's code is here: none of the folder's needs to be trusted.
    answers = {a["label"]: a["score"] for a in pipeline("image-classification", model=str(tmp_path))(noise)}
    np.testing.assert_allclose([answers[label] for label in "abc"], classifier.predict([noise])[0], atol=1e-5)


def test_dense_layers_load_without_bthub(fresh: Fresh, tmp_path):
    """In a process that can't import bthub, with the code that lies beside the weights."""
    torch.manual_seed(0)
    save_classifier(tmp_path, create_classifier("resnet18", 2, head_widths=[8]), "resnet18", ["no", "yes"], 64, 1.0)
    code = (
        "import sys; sys.modules['bthub'] = None\n"
        "from PIL import Image\nfrom transformers import pipeline\n"
        f"pipe = pipeline('image-classification', model={str(tmp_path)!r}, trust_remote_code=True)\n"
        "print('answer', {a['label']: a['score'] for a in pipe(Image.new('RGB', (50, 60), 'gray'))}['yes'])"
    )
    done = fresh.run(code, folder=tmp_path, environment=os.environ)
    assert done.returncode == 0, done.stderr[-2000:]
    expected = load_classifier(RunFolder.open(tmp_path)).predict([Image.new("RGB", (50, 60), "gray")])[0, 1]
    assert float(done.stdout.split()[-1]) == pytest.approx(expected, abs=1e-5)


def test_dense_layers_need_a_known_backbone():
    with pytest.raises(BthubError, match="head_widths doesn't work with 'resnet10t'"):
        create_classifier("resnet10t", 2, head_widths=[8])
    with pytest.raises(ValueError, match="1 dropout rates for 2 dense layers"):
        create_classifier("resnet18", 2, head_widths=[8, 8], head_dropout=[0.5])


@pytest.mark.parametrize("architecture", ["resnet18", "efficientnet_b0", "densenet121", "vgg16"])
def test_pretrained_weights_get_the_pixels_that_they_expect(architecture):
    """With the normalization folded in, plain pixels give what normalized ones gave before."""
    torch.manual_seed(0)
    model = timm.create_model(architecture, num_classes=2).eval()
    cfg = timm.models.get_pretrained_cfg(architecture)
    first = model.get_submodule(cfg.first_conv)
    before, after = copy.deepcopy(model), model
    fold_normalization(after, cfg)
    # A picture with a border of the mean color, which normalized is the zero that convolutions pad with; and without
    # padding at the first layer in the folded model, whose zero is black.
    mean, std = (torch.tensor(value).reshape(1, 3, 1, 1) for value in (cfg.mean, cfg.std))
    pixels = torch.rand(2, 3, 64, 64)
    padded = mean.expand(2, 3, 64 + 8, 64 + 8).clone()
    padded[..., 4:-4, 4:-4] = pixels
    assert sum(first.padding) > 0
    with torch.inference_mode():
        inner = slice(4, -4)
        ours = features_after(after, first, padded)[..., inner, inner]
        theirs = features_after(before, before.get_submodule(cfg.first_conv), (padded - mean) / std)[..., inner, inner]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def features_after(model: nn.Module, first: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """What the first convolution gives, with the normalization that follows it, if there is one."""
    if first.bias is not None:
        return first(pixels)
    norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    return norm(first(pixels))


# -- freezing


def one_step(model: nn.Module) -> set[str]:
    """Train one step; the names of what has changed, running statistics too."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    freezing.train_mode(model)
    optimizer = create_optimizer("adamw", model.parameters(), 0.01, weight_decay=0.1)
    model(torch.rand(4, 3, 64, 64)).square().sum().backward()
    optimizer.step()
    return {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}


def test_frozen_layers_stay_and_others_learn():
    torch.manual_seed(0)
    model = create_classifier("resnet18", 2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # timm starts some at 0, and nothing before these would learn in one step
    everything = set(model.state_dict())
    freezing.train_last(model, 0)
    assert one_step(model) == {"fc.weight", "fc.bias"}
    # The last three layers of the body: two batch normalizations, the convolution between them.
    freezing.train_last(model, 3)
    changed = one_step(model)
    assert {key.rpartition(".")[0] for key in changed} == {"fc", "layer4.1.bn1", "layer4.1.conv2", "layer4.1.bn2"}
    assert "layer4.1.bn2.running_mean" in changed
    freezing.train_last(model, None)
    assert one_step(model) == everything
    assert not any(module.training for module in model.eval().modules())


def test_the_last_thirty_layers_of_keras_are_eighteen_of_ours():
    model = create_classifier("resnet50", 2)
    freezing.train_last(model, 18)
    learning = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    stage = {key for key, _ in model.named_parameters() if key.startswith("layer4.")}
    left = {"layer4.0.conv1.weight", "layer4.0.bn1.weight", "layer4.0.bn1.bias"}
    assert learning == stage - left | {"fc.weight", "fc.bias"}


# -- optimizers, schedules


def test_schedules():
    def rates(name: str) -> list[float]:
        optimizer = create_optimizer("sgd", [nn.Parameter(torch.zeros(1))], 0.1, 0.0)
        schedule = create_schedule(name, optimizer, 2, 8)
        found = []
        for _ in range(8):
            found.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return found

    assert rates("constant") == [0.1] * 8
    assert np.argmax(rates("cosine")) == 2 and rates("cosine")[0] == 0
    one = rates("one_cycle")
    assert one[0] == pytest.approx(0.1 / 25) and max(one) == pytest.approx(0.1, rel=0.05) and one[-1] < 0.02
    for create, message in (
        (lambda: rates("x"), "schedule 'x'"),
        (lambda: create_optimizer("x", [], 1, 0), "optimizer"),
    ):
        with pytest.raises(BthubError, match=message):
            create()


# -- learning-rate finder


def test_the_suggestion_is_on_the_falling_slope():
    torch.manual_seed(0)
    x = torch.rand(256, 8)
    y = (x.sum(1) > 4).long()
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
    batches = [{"x": x[i : i + 32], "y": y[i : i + 32]} for i in range(0, 256, 32)]
    rows = lr_finder.range_test(
        lambda batch: nn.functional.cross_entropy(model(batch["x"]), batch["y"]),
        create_optimizer("adamw", model.parameters(), 1.0, 0.0),
        batches,
    )
    rate = lr_finder.suggest(rows)
    losses = {row["learning_rate"]: row["smoothed_loss"] for row in rows}
    lowest = min(losses, key=losses.get)
    assert 1e-4 < rate < lowest
    near = [losses[r] for r in sorted(losses) if rate / 2 < r < rate * 2]
    assert near == sorted(near, reverse=True)
    assert max(losses.values()) <= lr_finder.DIVERGED * min(losses.values()) * 1.5


def test_valley_by_hand():
    assert lr_finder.valley([5, 5, 5, 4, 3, 2, 1, 0, 3, 6]) == 4  # a fall of six ends at 7: back 6, then 2 and 1 on
    assert lr_finder.valley([1, 2, 3]) == 0
    with pytest.raises(BthubError, match="exploded after 4 steps"):
        lr_finder.suggest([{"learning_rate": 1.0, "smoothed_loss": 1.0}] * 4)


# -- initial weights


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("loss=dice", "loss 'dice': expected dice_bce, focal_tversky, bce"),
        ("backbone=resnet19", "no ResUNet can be made of backbone 'resnet19'"),
        ("image_sizes={5: 64}", "expected one from epoch 0 on"),
    ],
)
def test_what_no_resunet_can_be_trained_with_is_told_before_the_pictures_are_read(
    setting, words, tiny_lgg, tmp_path, scripts, monkeypatch
):
    monkeypatch.setattr(scripts["resunet"], "TrainingImages", None)
    config = tmp_path / "config.yaml"
    config.write_text("{}")
    arguments = ["--config", str(config), "--data", str(tiny_lgg), "--output", str(tmp_path / "run"), "--set", setting]
    with pytest.raises(BthubError, match=re.escape(words)):
        scripts["resunet"].main(arguments)


def test_what_a_loader_takes_along_can_be_sent_to_its_processes(scripts):
    """Where processes are spawned, not forked, all of it is pickled."""
    script = scripts["resunet"]
    mask = Image.new("L", (48, 40), 255)
    of_image = partial(script.pixel_values, ResUNetImageProcessor(size={"height": 64, "width": 64}))
    for function, picture in ((of_image, mask.convert("RGB")), (partial(script.letterbox_mask, size=64), mask)):
        assert torch.equal(pickle.loads(pickle.dumps(function))(picture), function(picture))


VALIDATION = Rows.from_dict({"patient_id": ["P1", "P1"], "slice_index": [3, 4]})


def test_initial_weights(tmp_path):
    torch.manual_seed(0)
    model, source = (create_classifier("resnet18", classes, head_widths=[8]) for classes in (2, 4))
    save_file(source.state_dict(), tmp_path / "imagenet.safetensors")
    origin = load_weights(model, str(tmp_path / "imagenet.safetensors"), VALIDATION)
    digest = hashlib.sha256((tmp_path / "imagenet.safetensors").read_bytes()).hexdigest()
    assert origin == {"source": "imagenet.safetensors", "weights": f"sha256:{digest[:12]}", "lgg": False}
    assert torch.equal(model.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
    assert model.fc.fc.out_features == 2
    with pytest.raises(BthubError, match="isn't there"):
        initial_weights(str(tmp_path / "missing.safetensors"), VALIDATION)
    with pytest.raises(BthubError, match="is it the same architecture"):
        load_matching(create_classifier("resnet34", 2), source.state_dict(), "x")


@pytest.mark.parametrize("architecture", ["resnet18", "efficientnet_b0", "densenet121"])
def test_the_encoder_of_a_resunet_starts_a_classifier(architecture, tmp_path):
    torch.manual_seed(0)
    encoder = timm.create_model(architecture, features_only=True)
    save_file({f"encoder.{key}": value for key, value in encoder.state_dict().items()}, tmp_path / WEIGHTS)
    write_json(tmp_path / CONFIG, {"model_type": "resunet"})
    training = {
        "protocol": "patient",
        "config": {},
        "dataset": {"name": "lgg"},
        "best": {"epoch": 0, "validation_metric": 0.5, "epochs_trained": 1},
    }
    write_json(tmp_path / "training.json", training)
    rows = [{"patient_id": "P1", "slice_index": i, "split": split} for i, split in [(2, "train"), (3, "validation")]]
    write_rows(tmp_path / "split.csv", rows)
    model = create_classifier(architecture, 2)
    assert load_encoder(model, str(tmp_path), VALIDATION)["lgg"]
    first = timm.models.get_pretrained_cfg(architecture).first_conv
    source = dict(encoder.named_parameters())
    weight = source.get(f"{first}.weight", source.get(f"{first.replace('.', '_')}.weight"))
    assert torch.equal(model.get_submodule(first).weight, weight)
    # Another data set has none of its images.
    pictures = Rows.from_dict({"file": ["no/0001.jpg"], "image": [{"path": None, "bytes": b"one"}]})
    pictures = pictures.cast_column("image", ImageFeature(decode=False))
    load_encoder(model, str(tmp_path), pictures)
    # What starts from LGG's weights and learns other pictures still carries LGG's license on; what doesn't, doesn't.
    child = shutil.copytree(tmp_path, tmp_path / "child")
    write_rows(child / "split.csv", [{"file": "yes/0001.jpg", "sha256": "0" * 16, "split": "train"}])
    for lgg in (True, False):
        origins = [{"source": "x", "weights": None, "lgg": lgg}]
        write_json(child / "training.json", training | {"initial_weights": origins})
        assert load_encoder(model, str(child), pictures)["lgg"] is lgg
    write_rows(tmp_path / "split.csv", rows + [{"patient_id": "P1", "slice_index": 4, "split": "train"}])
    for start in (tmp_path, tmp_path / WEIGHTS):
        with pytest.raises(BthubError, match="trained on 1 of the 2 images that this run is validated on"):
            load_encoder(model, str(start), VALIDATION)


def test_frozen_weights_of_a_run_are_those_it_started_from(scripts, tiny_lgg, tmp_path):
    """The script, not only its parts: a body frozen throughout is the same in the saved run."""
    torch.manual_seed(0)
    source = create_classifier("resnet18", 2)
    save_file(source.state_dict(), tmp_path / "start.safetensors")
    config = {
        "architecture": "resnet18",
        "weights_from": str(tmp_path / "start.safetensors"),
        "trainable_layers": 0,
        "epochs": 2,
        "image_sizes": {0: 32},
        "batch_size": 4,
        "workers": 0,
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    output = tmp_path / "run"
    scripts["classifier"].main(
        ["--config", str(tmp_path / "config.yaml"), "--data", str(tiny_lgg), "--output", str(output)]
    )
    saved = load_file(output / WEIGHTS)
    for key, value in source.state_dict().items():
        same = torch.equal(saved[key], value.half() if value.is_floating_point() else value)
        assert same != key.startswith("fc."), key
    training = RunFolder.open(output).training
    assert training.trainable_parameters == 512 * 2 + 2
    assert [origin.source for origin in training.initial_weights] == ["start.safetensors"]


def test_the_finder_is_asked_once(scripts, tiny_lgg, tmp_path):
    """A run that was killed after the finder goes on as if it had not been: same rate, same dropout, same weights."""
    config = {
        "architecture": "resnet18",
        "head": {"widths": [16], "dropout": [0.5]},
        "freeze_epochs": 1,
        "trainable_layers": 4,
        "epochs": 2,
        "image_sizes": {0: 32},
        "batch_size": 4,
        "schedule": "one_cycle",
        "lr_finder": "valley",
        "lr_finder_steps": 20,
        "workers": 0,
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    killed.mkdir()
    arguments = ["--config", str(tmp_path / "config.yaml"), "--data", str(tiny_lgg)]
    scripts["classifier"].main([*arguments, "--output", str(whole)])
    shutil.copy(whole / LR_FINDER, killed)
    stamp = (killed / LR_FINDER).stat().st_mtime_ns
    AcceleratorState._reset_state(reset_partial_state=True)
    scripts["classifier"].main([*arguments, "--output", str(killed), "--resume"])
    assert (killed / LR_FINDER).stat().st_mtime_ns == stamp
    expected, resumed = load_file(whole / WEIGHTS), load_file(killed / WEIGHTS)
    for key in expected:
        assert torch.equal(expected[key], resumed[key]), key
    record = RunFolder.open(whole).training
    rows = [{key: float(value) for key, value in row.items()} for row in RunFolder.open(whole).rows(LR_FINDER)]
    assert record.learning_rate == lr_finder.suggest(rows) != record.config["learning_rate"]
    plots.draw_lr_finder(RunFolder.open(whole))
    assert (whole / "figures" / "lr_finder.webp").is_file()
    assert LR_FINDER in publish.RUN_FILES


def test_a_share_of_tumors_needs_two_classes(scripts, data, tmp_path):
    arguments = scripts["reproduce"].training_arguments(ROWS["lite0-4class"], str(data["4class"]), tmp_path / "run")
    with pytest.raises(BthubError, match="positive_share is for two classes, these data have glioma, meningioma, none"):
        scripts["classifier"].main([*arguments, "--dry-run", "--set", "positive_share=0.35"])
