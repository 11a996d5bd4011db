"""Train a run of the comparison again, measure it and write its card.

    bthub reproduce resnet50-lgg-scratch      # into runs/resnet50-lgg-scratch
    bthub reproduce vgg16-lgg-scratch --set pretrained=true --output runs/vgg16-lgg-imagenet
    bthub reproduce --list

Started again after an interruption it goes on from the last checkpoint, and does of what follows what isn't there yet.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

from bthub.data.dataset import BuiltDataset
from bthub.errors import BthubError, named_path, report_errors
from bthub.project import SHIPPED_RUNS, place_of, shipped_runs
from bthub.runs.folder import CARD, COST, GRADCAM, INPUT_CHECK, METRICS, SOURCES, WEIGHTS, RunFolder
from bthub.training.config import EXPERIMENTS

CARDS = SHIPPED_RUNS.parent / "model_cards"


MIX, LGG = "mix", "data/lgg"
CHECK_WEIGHTS = "data/imagenet-tf_efficientnet_lite0.safetensors"  # of `bthub imagenet-weights`


def rows() -> dict[str, dict]:
    """Every row: `script`, `config`, `data`, and perhaps `set`, what changes in the configuration."""
    return yaml.safe_load(EXPERIMENTS.read_text(encoding="utf-8"))


def training_arguments(row: dict, data: str, output: Path) -> list[str]:
    """What the row's script is given."""
    arguments = ["--config", row["config"], "--data", data, "--output", str(output)]
    for key, value in row.get("set", {}).items():
        # On one line; YAML ends a lone value with a line of dots. JSON would make image_sizes' numbers strings.
        text = yaml.safe_dump(value, default_flow_style=True, width=sys.maxsize).removesuffix("...\n").strip()
        arguments += ["--set", f"{key}={text}"]
    return arguments


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    parser = argparse.ArgumentParser(prog, description=__doc__.split("\n")[0])
    parser.add_argument("row", nargs="?", help="name of the experiment; --list prints the names")
    parser.add_argument("--list", action="store_true", help="print the names of the experiments")
    parser.add_argument("--data", help="data set; default: the experiment's own, in data/")
    parser.add_argument("--output", type=named_path, help="run folder; default: runs/NAME")
    parser.add_argument(
        "--dry-run", action="store_true", help="smoke test: two steps on a few tiny images; keeps nothing"
    )
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change values of the configuration"
    )
    args = parser.parse_args(arguments)
    if args.list or args.row is None:
        print("\n".join(rows()))
        return
    if args.row not in rows():
        raise BthubError(f"no experiment {args.row!r} in {EXPERIMENTS}: --list prints them")
    row = rows()[args.row]
    data, output = args.data or f"data/{row['data']}", args.output or _default_output(args.row)
    if args.dry_run:
        with tempfile.TemporaryDirectory() as folder:
            train(row, data, Path(folder) / args.row, args.set, "--dry-run")
        return
    if not (output / WEIGHTS).exists():
        train(row, data, output, args.set, "--resume")
    elif args.set:
        raise BthubError(
            f"{output} holds a trained run, which --set can't change: train into another folder with --output"
        )
    else:
        print(
            f"{output} is already trained; running the missing evaluations. To train again, name "
            "another folder with --output",
            flush=True,
        )
    measure(row, data, output)


def _default_output(name: str) -> Path:
    """Where the clone has the run; in `runs/` of the working folder outside of one."""
    place = place_of(name)
    return Path(os.path.relpath(place)) if place.is_dir() else Path("runs") / name


def train(row: dict, data: str, output: Path, changes: list[str], *flags: str) -> None:
    """Run the row's script."""
    import torch

    BuiltDataset(data)  # what isn't there is told before accelerate is, which adds a traceback
    arguments = training_arguments(row, data, output) + [part for change in changes for part in ("--set", change)]
    # Left to itself, accelerate gives each process one thread, on a machine without a GPU too.
    threads = max(1, torch.get_num_threads() // max(1, torch.cuda.device_count()))
    launch = ("-m", "accelerate.commands.launch", "--num_cpu_threads_per_process", str(threads))
    run(*launch, "--module", f"bthub.training.{row['script']}", *arguments, *flags)


def measure(row: dict, data: str, output: Path) -> None:
    """Evaluate a trained run, count and time it, look where it looks, and write its card: what isn't done yet."""
    mixed = row["data"].startswith(MIX)
    if mixed and row["script"] == "classifier" and not (output / INPUT_CHECK).is_file():
        # By which a gray picture gets the threshold of its kind.
        bthub("ood-check", "--data", data, "--run", str(output), "--weights", CHECK_WEIGHTS)
    # The thresholds that the dashboard moves are chosen on validation.
    for split in ("test", "validation"):
        if mixed and not measured(output, SOURCES, split):
            bthub("evaluate", str(output), "--data", data, "--split", split)
        if not measured(output, METRICS, split):
            # What is trained on a mixture is compared with the others on LGG.
            bthub("evaluate", str(output), "--data", LGG if mixed else data, "--split", split)
    # The folder may be a clone's, with the measurements of weights that aren't in it.
    folder = RunFolder.open(output)
    if not (output / COST).is_file() or folder.cost.weights != folder.revision:
        bthub("cost", str(output))
    if (row["script"], row["data"]) == ("classifier", "lgg") and not measured(output, GRADCAM, "test"):
        bthub("explain", str(output), "--data", data, "--split", "test")
    shipped = output.resolve() in [run.resolve() for run in shipped_runs()]
    cards = [output / CARD, *([CARDS / f"{output.resolve().name}.md"] if shipped else [])]
    told = [output / name for name in (METRICS, COST, GRADCAM) if (output / name).is_file()]
    newest = max(file.stat().st_mtime_ns for file in told)
    if any(not card.is_file() or card.stat().st_mtime_ns < newest for card in cards):
        bthub("card", str(output), *(["--copies", str(CARDS)] if shipped else []))


def measured(output: Path, name: str, split: str) -> bool:
    """Whether `metrics.json`, `sources.json` or `gradcam.json` has figures of a split, of these weights."""
    if not (output / name).is_file():
        return False
    entries = json.loads((output / name).read_text(encoding="utf-8"))
    weights = RunFolder.open(output).revision
    return any(key.rpartition("/")[2] == split and entry["weights"] == weights for key, entry in entries.items())


def bthub(*arguments: str) -> None:
    """Run a command of bthub."""
    run("-m", "bthub.cli", *arguments)


def run(*arguments: str) -> None:
    """Run a Python command; its exit code is ours if it fails."""
    done = subprocess.run([sys.executable, *arguments])
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    sys.exit(report_errors(main))
