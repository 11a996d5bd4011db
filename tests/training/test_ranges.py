"""Values that no training can have are told before anything is read or written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

from bthub import cli
from bthub.errors import BthubError
from bthub.models.resunet import ResUNetConfig, ResUNetForSemanticSegmentation
from bthub.training.ranges import check_forward, check_processes

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("network", ["resunet18-lgg", "resnet18-lgg"])
@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("batch_size=0", "batch_size is 0, expected 1 or more"),
        ("batch_size=-4", "batch_size is -4"),
        ("batch_size=99999999999999999999", "at most 65536"),
        ("workers=99999999999999999999", "at most 1024"),
        ("augmentation={1: 2, flip2: 3}", "unknown key 1, flip2"),
        ("source_shares={1: 2}", "expected {source: share}"),
        ("epochs=0", "epochs is 0, expected 1 or more"),
        ("image_sizes={0: 50}", "multiples of 32"),
        ("image_sizes={0: 0}", "from 32 to 4096"),
        ("image_sizes={1: 64}", "from epoch 0 on"),
        ("image_sizes={0: big}", "expected {epoch: side}"),
        ("learning_rate=0", "expected more than 0"),
        ("learning_rate=.nan", "learning_rate is nan"),
        ("learning_rate=-1e-3", "learning_rate is -0.001"),
        ("accumulation=0", "accumulation is 0"),
        ("workers=-1", "workers is -1"),
        ("seed=-1", "seed is -1"),
        ("gradient_clip=0", "gradient_clip is 0"),
        ("augmentation={flip: 2}", "flip is 2, expected 0 or more and at most 1"),
        ("mixed_precision=int4", "expected one of no, fp16, bf16"),
        ("protocol=random", "expected one of patient, slice"),
        ("epoch_samples=0", "epoch_samples is 0, expected 1 or more"),
        ("epoch_samples=-5", "epoch_samples is -5"),
        ("average_decay=2", "average_decay is 2"),
        ("average_decay=-1", "average_decay is -1"),
        ("average_decay=1", "average_decay is 1"),
        ("source_shares={lgg: 0}", "source_shares is {'lgg': 0}, expected {source: share} with numbers above 0"),
        ("source_shares={lgg: -1}", "source_shares is"),
        ("source_shares={lgg: a}", "source_shares is"),
        ("augmentation={single_sequence: [0.9, 0.9, 0]}", "three probabilities, at most 1 together"),
        ("augmentation={single_sequence: [1]}", "three probabilities"),
        ("augmentation={single_sequence: [0, -0.1, 0]}", "three probabilities"),
        ("augmentation={jpeg: 7}", "jpeg is 7, expected 0 or more and at most 1"),
        ("augmentation={overlay: -1}", "overlay is -1"),
        ("augmentation={resample: 2}", "resample is 2"),
        ("epochs={", "the value isn't YAML"),
    ],
)
def test_values_out_of_range(network, setting, expected, tmp_path, capsys):
    command = "resunet" if "resunet" in network else "classifier"
    output = tmp_path / "run"
    arguments = ["train", command, "--config", network, "--output", str(output), "--data", str(tmp_path / "nothing")]
    assert cli.main([*arguments, "--set", setting]) == 2
    out, err = capsys.readouterr()
    assert expected in err and err.startswith("bthub: ") and len(err.splitlines()) == 1 and out == ""
    assert not output.exists()


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("{widths: [0]}", "widths is [0], expected whole numbers above 0"),
        ("{widths: [a]}", "widths is ['a']"),
        ("{widths: [16], dropout: [2]}", "dropout is [2"),
        ("{widths: [16], dropout: [-0.1]}", "a fraction from 0 to below 1"),
        ("{widths: [16], dropout: [0.1, 0.1]}", "for each of [16]"),
    ],
)
def test_heads_out_of_range(head, expected, tmp_path, capsys):
    arguments = ["train", "classifier", "--config", "resnet18-lgg", "--output", str(tmp_path / "run")]
    assert cli.main([*arguments, "--set", f"head={head}"]) == 2
    err = capsys.readouterr().err
    assert expected in err and len(err.splitlines()) == 1 and not (tmp_path / "run").exists()


def test_a_batch_that_normalization_cannot_take():
    network = timm.create_model("resnet10t", num_classes=2)
    with pytest.raises(BthubError, match="batch normalization a single value"):
        check_forward(network, {0: 32}, 1)
    before, state = {key: value.clone() for key, value in network.state_dict().items()}, torch.get_rng_state()
    check_forward(network, {0: 32, 5: 64}, 2)
    check_forward(network, {0: 64}, 1)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    localizer = ResUNetForSemanticSegmentation(ResUNetConfig(backbone="resnet10t", decoder_channels=[8] * 5))
    check_forward(localizer, {0: 64}, 2)
    with pytest.raises(BthubError):
        check_forward(localizer, {0: 50}, 2)


def test_processes_that_do_not_know_of_each_other(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    check_processes(1, 5)
    check_processes(2, 16)
    with pytest.raises(BthubError, match="can't be divided among 2 processes"):
        check_processes(2, 5)
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_processes(2, 16)
    with pytest.raises(BthubError, match="ACCELERATE_USE_CPU=1"):
        check_processes(1, 16)


@pytest.mark.slow
def test_torchrun_on_a_cpu_is_a_sentence(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "ACCELERATE_USE_CPU"}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "train/resunet.py", "--config"]
        + ["resunet18-lgg", "--output", str(tmp_path / "run"), "--data", str(tmp_path), "--dry-run"],
        env={**environment, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=ROOT,
    )
    assert done.returncode != 0 and "ACCELERATE_USE_CPU=1" in done.stderr and not (tmp_path / "run").exists()
