"""A run while it trains: its configuration, its progress, its checkpoints and what it leaves behind."""

import argparse
import dataclasses
import hashlib
import math
import platform
import re
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from datasets import Dataset as Rows
from safetensors.torch import load, load_file, save_file
from torch import nn
from torch.utils.data import DataLoader

from bthub.data.identity import describe_rows, identified, listed, name_of
from bthub.errors import BthubError
from bthub.models.classifier import create_classifier
from bthub.run_folder import CHECKPOINT, HISTORY, SPLIT, TRAINING, WEIGHTS, RunFolder, write_json, write_rows

BEST = "best.safetensors"
LAST = "last"
DRY_ROWS = 8


def parse_config(
    kind: type, description: str, arguments: Sequence[str] | None = None
) -> tuple[Any, argparse.Namespace]:
    """The configuration of a script: its dataclass's defaults, then the YAML file, then `--set key=value`.

    Args:
        kind: the dataclass.
        description: one line for `--help`.
        arguments: None for those of the command line.

    Returns:
        An instance of `kind`, and the other arguments: `data`, `output`, `resume`, `dry_run`, and `recipe`: the `file`
        of the configuration, and what it says of each value that was `changed`.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--config", type=Path, required=True, help="YAML file, see train/configs")
    parser.add_argument("--data", default="data/lgg", help="folder of `bthub data build`, or a Hub id")
    parser.add_argument("--output", type=Path, required=True, help="the run folder to write")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint, if there is one")
    parser.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change a value")
    parser.add_argument(
        "--dry-run", action="store_true", help="two steps on a few tiny images from random weights: does it run at all?"
    )
    args = parser.parse_args(arguments)
    try:
        written = yaml.load(args.config.read_text(), _Yaml) or {}
    except (OSError, yaml.YAMLError) as error:
        raise BthubError(f"can't read the configuration {args.config}: {error}") from error
    values = dict(written)
    for setting in args.set:
        key, equals, value = setting.partition("=")
        if not equals:
            raise BthubError(f"--set {setting}: expected KEY=VALUE")
        values[key] = yaml.load(value, _Yaml)
    config = build_config(kind, values, str(args.config))
    args.recipe = recipe(args.config, build_config(kind, written, str(args.config)), config)
    return (shrink(config) if args.dry_run else config), args


def recipe(file: Path, written: Any, config: Any) -> dict:
    """Which configuration file a run follows, and the file's values where the run has others.

    Args:
        file: of the configuration; below a folder `configs` it is named from there.
        written: the configuration that the file makes by itself.
        config: the one that the run has.
    """
    parts = file.parts
    name = Path(*parts[parts.index("configs") + 1 :]) if "configs" in parts else Path(file.name)
    there, here = dataclasses.asdict(written), dataclasses.asdict(config)
    # How many processes read the images changes nothing.
    changed = {key: value for key, value in there.items() if key != "workers" and value != here[key]}
    return {"file": name.as_posix(), "changed": changed}


class _Yaml(yaml.SafeLoader):
    """YAML 1.2, as people write it: 1e-4 is a number and no is a word. PyYAML's 1.1 has a word and False."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in known if not tag.endswith((":bool", ":float"))]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Yaml.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(true|false)$", re.IGNORECASE), list("tTfF"))
_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?$|[-+]?\.inf$|\.nan$", re.IGNORECASE),
    list("-+.0123456789"),
)


def shrink(config: Any) -> Any:
    """The same recipe for a dry run: tiny, brief, and from random weights, because others may not be there yet."""
    freezes = getattr(config, "freeze_epochs", 0) > 0
    tiny = {
        "pretrained": False,
        "encoder_from": None,
        "weights_from": None,
        # Both phases of a recipe that freezes are gone through.
        "epochs": 2 if freezes else 1,
        "freeze_epochs": int(freezes),
        "lr_finder_steps": 10,
        "image_sizes": {0: 64},
        "batch_size": DRY_ROWS // 2,
        "accumulation": 1,
        "workers": 0,
    }
    fields = {field.name for field in dataclasses.fields(config)}
    return dataclasses.replace(config, **{key: value for key, value in tiny.items() if key in fields})


def few(rows: Rows) -> Rows:
    """What a dry run sees of a split: DRY_ROWS of its rows, as many of each class as there are."""
    labels = np.array(rows["label"][:])
    # The first of each class, then the second of each, and so on.
    rank = [int((labels[:i] == label).sum()) for i, label in enumerate(labels)]
    return rows.select(sorted(np.argsort(rank, kind="stable")[:DRY_ROWS].tolist()))


def build_config(kind: type, values: dict, name: str) -> Any:
    """Fill a dataclass (and the dataclasses in it) from a mapping; an unknown key or kind of value is an error."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = set(values) - set(fields)
    if unknown:
        raise BthubError(f"{name}: unknown key {', '.join(sorted(unknown))}; expected some of {', '.join(fields)}")
    for key, value in values.items():
        expected = dict if dataclasses.is_dataclass(fields[key].type) else fields[key].type
        if not _is_a(expected, value):
            raise BthubError(f"{name}: {key} is {value!r}, expected {getattr(expected, '__name__', expected)}")
    filled = {
        key: build_config(fields[key].type, value, f"{name}: {key}")
        if dataclasses.is_dataclass(fields[key].type)
        else value
        for key, value in values.items()
    }
    return kind(**filled)


def _is_a(kind: Any, value: Any) -> bool:
    """Whether a value from YAML fits the type of a field."""
    if isinstance(kind, UnionType):
        return any(_is_a(each, value) for each in get_args(kind))
    if isinstance(value, bool):
        return kind is bool
    # A whole number is a number; what is in a list or a mapping shows when it is used.
    return isinstance(value, (int, float) if kind is float else get_origin(kind) or kind)


def size_at(sizes: dict[int, int], epoch: int) -> int:
    """The image size of an epoch, from {first epoch: size}; the last one is the size that is saved and used."""
    if 0 not in sizes:
        raise BthubError(f"image_sizes {sizes}: expected one from epoch 0 on, as in {{0: 128, 10: 192}}")
    return sizes[max(first for first in sizes if first <= epoch)]


@dataclasses.dataclass
class Progress:
    """How far a run has come; saved with each checkpoint.

    Attributes:
        config: of the run, as a mapping: a checkpoint goes on with the configuration it was begun with, or not at all.
        epoch: the next one to train.
        best: best validation metric so far, `best_loss` the validation loss beside it, `best_epoch` where that was.
        history: one row an epoch.
    """

    config: dict
    epoch: int = 0
    best: float = float("-inf")
    best_loss: float = float("inf")
    best_epoch: int = -1
    history: list[dict] = dataclasses.field(default_factory=list)

    def state_dict(self) -> dict:
        return dataclasses.asdict(self)

    def load_state_dict(self, state: dict) -> None:
        then, now = state["config"], self.config
        # How many processes read the images changes nothing.
        changed = sorted(key for key in (then.keys() | now.keys()) - {"workers"} if then.get(key) != now.get(key))
        if changed:
            told = ", ".join(f"{key} {then.get(key)!r}, now {now.get(key)!r}" for key in changed)
            raise BthubError(f"the checkpoint was begun with {told}: resume with what it had, or give another --output")
        for key, value in state.items():
            setattr(self, key, value)

    def record(self, row: dict, metric: float) -> bool:
        """Add an epoch's row; True when its metric is the best so far, or as good with a lower validation loss."""
        self.history.append({"epoch": self.epoch, **row})
        improved = (metric, -row["validation_loss"]) > (self.best, -self.best_loss)
        if improved:
            self.best, self.best_loss, self.best_epoch = metric, row["validation_loss"], self.epoch
        self.epoch += 1
        return improved

    def out_of_patience(self, patience: int) -> bool:
        return self.epoch - 1 - self.best_epoch >= patience


def save_checkpoint(accelerator: Accelerator, output: Path, progress: Progress, model: nn.Module, improved: bool):
    """Save everything that the next epoch depends on, so that a kill at any moment loses one epoch at most."""
    folder = output / CHECKPOINT
    fresh = folder / "next"
    accelerator.save_state(str(fresh))
    accelerator.wait_for_everyone()  # every process writes its random state there: none may come after the rename
    if accelerator.is_main_process:
        if improved:
            state = accelerator.unwrap_model(model).state_dict()
            save_file({k: v.contiguous() for k, v in state.items()}, fresh / BEST)
        elif (folder / LAST / BEST).exists():
            shutil.copyfile(folder / LAST / BEST, fresh / BEST)
        write_history(output, progress.history)
        # The old checkpoint leaves its place only when the new one is complete.
        old = folder / "old"
        shutil.rmtree(old, ignore_errors=True)
        if (folder / LAST).exists():
            (folder / LAST).rename(old)
        fresh.rename(folder / LAST)
        shutil.rmtree(old, ignore_errors=True)
    accelerator.wait_for_everyone()


def load_checkpoint(accelerator: Accelerator, output: Path) -> bool:
    """Go back to the last complete checkpoint, if there is one."""
    folder = output / CHECKPOINT
    # Killed between the two renames: the old checkpoint is complete, the new one too, and neither is in place.
    if accelerator.is_main_process and not (folder / LAST).exists() and (folder / "old").exists():
        (folder / "old").rename(folder / LAST)
    if accelerator.is_main_process:
        shutil.rmtree(folder / "next", ignore_errors=True)
    accelerator.wait_for_everyone()
    if not (folder / LAST).exists():
        return False
    accelerator.load_state(str(folder / LAST))
    return True


def steps_of(batches: DataLoader, accumulation: int) -> int:
    """Optimizer steps of an epoch: the last of them may be of fewer batches, Accelerate makes it nevertheless.

    Raises:
        BthubError: there isn't one whole batch, so that nothing would be learned.
    """
    if len(batches) == 0:
        raise BthubError(
            f"{len(batches.sampler)} training images don't fill a batch of {batches.batch_size}: "
            "--set batch_size to no more than there are"
        )
    return math.ceil(len(batches) / accumulation)


def load_imagenet(model: nn.Module, architecture: str) -> None:
    """Start an encoder from the ImageNet weights that timm names for an architecture (needs the Hub)."""
    load_matching(model, create_classifier(architecture, 2, pretrained=True).state_dict(), f"ImageNet's {architecture}")


def load_weights(model: nn.Module, source: str, validation: Rows) -> dict:
    """Start from all weights of a run, or of a `.safetensors` file with timm's names; returns where they are from."""
    state, origin = initial_weights(source, validation)
    load_matching(model, state, source)
    return origin


def load_encoder(model: nn.Module, source: str, validation: Rows) -> dict:
    """Start from the encoder of a ResUNet run, or from such a file; returns where the weights are from."""
    state, origin = initial_weights(source, validation)
    encoder = {key.removeprefix("encoder."): v for key, v in state.items() if key.startswith("encoder.")}
    load_matching(model, encoder or state, f"the encoder of {source}")
    return origin


def initial_weights(source: str, validation: Rows) -> tuple[dict[str, torch.Tensor], dict]:
    """The weights of a run, or of a `.safetensors` file with timm's names.

    Args:
        source: run folder, local or on the Hub, or the file.
        validation: the rows that the new run is validated on.

    Returns:
        The weights, and where they are from: `source`, the run or the file; `weights`, the first 12 digits of their
        digest; `lgg`, whether they are derived from LGG, whose licence they then carry on.

    Raises:
        BthubError: the file isn't there, or the run was trained on some of these rows, as it is under another protocol.
    """
    path = Path(source)
    if path.suffix == ".safetensors" and not path.is_file():
        raise BthubError(f"{source} isn't there: train/imagenet.py makes such files from installed packages")
    name, lgg = path.name, False
    if path.suffix != ".safetensors" or (path.parent / TRAINING).is_file():
        folder = RunFolder.open(path.parent if path.suffix == ".safetensors" else source)
        seen = listed(validation, folder.rows(SPLIT), "train")
        if seen:
            raise BthubError(
                f"{source} was trained on {len(seen)} of the {len(validation)} images that this run is validated on, "
                f"under the protocol {folder.training['protocol']!r}: start from a run under this one's"
            )
        path, name = folder.path / WEIGHTS, folder.id
        origins = folder.training.get("first_weights", [])
        lgg = "patient_id" in folder.rows(SPLIT)[0] or any(origin["lgg"] for origin in origins)
    content = path.read_bytes()
    origin = {"source": name, "weights": f"sha256:{hashlib.sha256(content).hexdigest()[:12]}", "lgg": lgg}
    return {key: value.float() for key, value in load(content).items()}, origin


def load_matching(model: nn.Module, source: dict[str, torch.Tensor], name: str) -> None:
    """Copy all weights that the source has in the same shape: it may have more layers than the model, or another head.

    Raises:
        BthubError: more than a tenth of the model's weights below its head aren't among them.
    """
    own = model.state_dict()
    # timm's encoders of some networks join nested names: features.conv0 is features_conv0 there.
    names = {key.replace(".", "_"): key for key in own}
    source = {names.get(key.replace(".", "_"), key): value for key, value in source.items()}
    copied = {key: v for key, v in source.items() if key in own and v.shape == own[key].shape}
    head = head_keys(model)
    lacking = own.keys() - copied.keys() - head
    if 10 * len(lacking) > len(own.keys() - head):
        raise BthubError(
            f"{name} lack {len(lacking)} of the model's weights, {min(lacking)} first: is it the same architecture?"
        )
    model.load_state_dict(copied, strict=False)


def head_keys(model: nn.Module) -> set[str]:
    """Names of the weights of a classifier's head; none for an encoder."""
    if not hasattr(model, "get_classifier"):
        return set()
    head = model.get_classifier()
    prefix = next(name for name, module in model.named_modules() if module is head)
    return {f"{prefix}.{key}" for key in head.state_dict()}


def best_model(accelerator: Accelerator, model: nn.Module, output: Path) -> nn.Module:
    """The best epoch's network as everyone will load it: rounded to half precision, run in single.

    What is chosen on validation after training is chosen with this one, not with mixed precision's outputs.
    """
    best = accelerator.unwrap_model(model, keep_fp32_wrapper=False).to("cpu")
    best.load_state_dict(load_file(output / CHECKPOINT / LAST / BEST))
    return best.half().float().eval()


def write_history(output: Path, history: list[dict]) -> None:
    write_rows(output / HISTORY, history)


def write_records(
    output: Path,
    config: Any,
    data: str,
    protocol: str,
    splits: dict[str, Rows],
    progress: Progress,
    first_weights: list[dict],
    **facts,
) -> None:
    """Write `training.json` and `split.csv`: what this run was given and started from, and what it ran on."""
    lines = [line | {"split": name} for name, rows in splits.items() for line in identified(rows)]
    write_rows(output / SPLIT, lines)
    record = {
        "config": dataclasses.asdict(config),
        "protocol": protocol,
        "dataset": {
            "name": name_of(data),
            "splits": {name: describe_rows(rows) for name, rows in splits.items()},
        },
        "first_weights": first_weights,
        "best": {
            "epoch": progress.best_epoch,
            "validation_metric": progress.best,
            "epochs_trained": progress.epoch,
        },
        **facts,
        "environment": environment(),
    }
    write_json(output / TRAINING, record)


def environment() -> dict[str, str | int]:
    """Versions and processor: what a retraining needs to know."""
    packages = ("torch", "torchvision", "timm", "transformers", "accelerate", "datasets")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "device": device,
        "threads": torch.get_num_threads(),
    }
