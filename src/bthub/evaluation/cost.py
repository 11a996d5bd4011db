"""What a run costs: parameters, size of its weights, multiply-adds and time for one slice.

None of it depends on what the weights are, so a run whose weights aren't here is measured too: times compare only where
they were taken on one machine, one after the other.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bthub.errors import BthubError
from bthub.models.classifier import untrained
from bthub.models.resunet import ResUNetConfig, ResUNetForSemanticSegmentation, ResUNetImageProcessor
from bthub.runs.folder import CLASSIFICATION, COST, WEIGHTS, RunFolder, write_json

THREADS = 2
WARM_UP, REPEATS = 3, 20
ROUNDS = 3


def write_fastest(paths: Sequence[str | Path]) -> dict[str, dict]:
    """`write` for several runs, ROUNDS times in turn, and keep the fastest time of each.

    A host that is busy for a while slows a round, and without turns it would slow some of the runs and not the others.
    """
    fastest: dict[str, dict] = {}
    for path in [*paths] * ROUNDS:
        found = write(path)
        best = min(fastest.get(str(path), found), found, key=lambda one: one["latency_ms"])
        fastest[str(path)] = best
        write_json(RunFolder.local(path, weights=False).path / COST, best)
    return fastest


def write(path: str | Path) -> dict:
    """Write `cost.json` into a local run folder: what `cost` gives, plus revision, dtypes and size of saved weights.

    The time is that of an otherwise idle machine.
    """
    run = RunFolder.local(path, weights=False)
    weights = run.path / WEIGHTS
    if weights.exists():
        saved = {"weights": run.revision, "dtypes": dtypes(weights), "file_bytes": weights.stat().st_size}
    elif (run.path / COST).exists() and run.revision:
        saved = {key: getattr(run.cost, key) for key in ("weights", "dtypes", "file_bytes")}
    else:
        raise BthubError(f"{path} has neither {WEIGHTS} nor a {COST} that records them: train it again")
    found = cost(run) | saved
    write_json(run.path / COST, found)
    return found


def dtypes(weights: Path) -> list[str]:
    """The types that a file of weights stores its numbers in, `F16`; not that of batch normalization's counters."""
    with safe_open(weights, "pt") as file:
        found = {file.get_slice(name).get_dtype() for name in file.keys()}
    return sorted(found - {"I64"})


def cost(run: RunFolder) -> dict:
    """Count and time a run's network on the CPU, for one slice at the input size it was saved with.

    Returns:
        `parameters` (learned numbers), `image_size` (side of the input), `multiply_adds` (of convolutions and matrix
        products), `latency_ms` and `latency_p95_ms` (median and 95th percentile of REPEATS passes in single precision,
        without the preprocessing), `threads`, `machine_cpus`.
    """
    if run.task == CLASSIFICATION:
        model, size = untrained(run), run.config["pretrained_cfg"]["input_size"][-1]
    else:
        model = ResUNetForSemanticSegmentation(ResUNetConfig.from_pretrained(run.path))
        size = ResUNetImageProcessor.from_pretrained(run.path).size["height"]
    model.float().eval()
    pixels = torch.zeros(1, 3, size, size)
    milliseconds = _time(model, pixels)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(pixels)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "image_size": size,
        # a multiply-add is two floating-point operations
        "multiply_adds": counter.get_total_flops() // 2,
        "latency_ms": round(milliseconds.quantile(0.5).item(), 2),
        "latency_p95_ms": round(milliseconds.quantile(0.95).item(), 2),
        "threads": THREADS,
        "machine_cpus": os.cpu_count(),
    }


@torch.inference_mode()
def _time(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Milliseconds of each of REPEATS passes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        taken = []
        for _ in range(WARM_UP + REPEATS):
            start = time.perf_counter()
            model(pixels)
            taken.append(1000 * (time.perf_counter() - start))
    finally:
        torch.set_num_threads(threads)
    return torch.tensor(taken[WARM_UP:])
