"""Valid ranges of a configuration's values, checked before anything is read or written."""

import copy
import dataclasses
import math
import os
from typing import TYPE_CHECKING, Any

from bthub.data.splits import FOLD_PROTOCOLS, PROTOCOLS
from bthub.errors import BthubError

if TYPE_CHECKING:
    from torch import nn

# Smallest and largest value of a key; None: no end. Of the smallest, whether it is itself allowed.
_RANGES: dict[str, tuple[float, bool, float | None]] = {
    "epochs": (1, True, 100_000),
    "patience": (1, True, 100_000),
    "batch_size": (1, True, 65_536),
    "accumulation": (1, True, 65_536),
    "freeze_epochs": (0, True, 100_000),
    "trainable_layers": (0, True, 100_000),
    "learning_rate": (0, False, 1000),
    "lr_finder_steps": (10, True, 100_000),
    "weight_decay": (0, True, 1000),
    "warmup_epochs": (0, True, 100_000),
    "gradient_clip": (0, False, None),
    "positive_share": (0, False, 1),
    "drop_rate": (0, True, 0.999),
    "label_smoothing": (0, True, 0.999),
    "seed": (0, True, 2**32 - 1),
    "workers": (0, True, 1024),
    "flip": (0, True, 1),
    "rotation": (0, True, 180),
    "translate": (0, True, 1),
    "scale": (0, True, 0.999),
    "shear": (0, True, 89),
    "intensity": (0, True, 0.999),
    "missing_sequence": (0, True, 1),
    "resample": (0, True, 1),
    "jpeg": (0, True, 1),
    "overlay": (0, True, 1),
    "paste_tumor": (0, True, 1),
    "cover_tumor": (0, True, 1),
    "epoch_samples": (1, True, 2**31),
    "average_decay": (0, True, 0.99999),
}
_WORDS = {
    "protocol": (*PROTOCOLS, *FOLD_PROTOCOLS),
    "optimizer": ("adamw", "sgd"),
    "schedule": ("cosine", "constant", "one_cycle"),
    "mixed_precision": ("no", "fp16", "bf16"),
}
_SIDES = (32, 4096)


def check_ranges(config: Any, name: str) -> None:
    """Refuse values that no training can have.

    Args:
        config: a script's configuration, a dataclass, with others in it.
        name: what messages call it.

    Raises:
        BthubError: the first such value, what is expected, and the key to set.
    """
    for field in dataclasses.fields(config):
        key, value = field.name, getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            check_ranges(value, f"{name}: {key}")
        elif key == "image_sizes":
            _check_sizes(value, name)
        elif key == "decoder_channels":
            _check_channels(value, name)
        elif key == "source_shares":
            if not all(
                isinstance(source, str) and _is_number(share) and 0 < share < math.inf
                for source, share in value.items()
            ):
                raise BthubError(f"{name}: source_shares is {value}, expected {{source: share}} with numbers above 0")
        elif key == "single_sequence":
            if len(value) != 3 or not all(_is_number(p) and p >= 0 for p in value) or not sum(value) <= 1 + 1e-9:
                raise BthubError(
                    f"{name}: single_sequence is {value}, expected three probabilities, at most 1 together"
                )
        elif key in _WORDS and value not in _WORDS[key]:
            raise BthubError(f"{name}: {key} is {value!r}, expected one of {', '.join(_WORDS[key])}")
        elif key in _RANGES and value is not None:
            low, included, high = _RANGES[key]
            if not math.isfinite(value) or value < low or (value == low and not included) or value > (high or math.inf):
                least = f"{low:g} or more" if included else f"more than {low:g}"
                most = f" and at most {high:g}" if high is not None else ""
                raise BthubError(f"{name}: {key} is {value!r}, expected {least}{most}")
    if hasattr(config, "widths") and hasattr(config, "dropout"):
        widths, dropout = config.widths or [], config.dropout
        if not all(isinstance(width, int) and not isinstance(width, bool) and width > 0 for width in widths):
            raise BthubError(f"{name}: widths is {widths!r}, expected whole numbers above 0")
        if len(dropout) not in (0, len(widths)) or not all(_is_number(p) and 0 <= p < 1 for p in dropout):
            raise BthubError(
                f"{name}: dropout is {dropout!r}, expected a fraction from 0 to below 1 for each of {config.widths!r}"
            )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_sizes(sizes: dict, name: str) -> None:
    if 0 not in sizes:
        raise BthubError(f"{name}: image_sizes is {sizes}, expected one from epoch 0 on, as in {{0: 128, 10: 192}}")
    for epoch, side in sizes.items():
        whole = all(isinstance(value, int) and not isinstance(value, bool) for value in (epoch, side))
        if not whole or epoch < 0 or not _SIDES[0] <= side <= _SIDES[1] or side % 32:
            raise BthubError(
                f"{name}: image_sizes is {sizes}, expected {{epoch: side}} with sides from {_SIDES[0]} to {_SIDES[1]} "
                "that are multiples of 32, as the networks halve them five times"
            )


def _check_channels(channels: list, name: str) -> None:
    if len(channels) != 5 or not all(isinstance(width, int) and width > 0 for width in channels):
        raise BthubError(f"{name}: decoder_channels is {channels!r}, expected five whole numbers above 0")


def check_processes(processes: int, batch_size: int) -> None:
    """Refuse processes that don't know of each other, and batches that can't be divided among those that do.

    Args:
        processes: how many Accelerate sees.
        batch_size: images of a batch, over all of them together.
    """
    started = os.environ.get("WORLD_SIZE", "1")
    if started.isdecimal() and int(started) > processes:
        raise BthubError(
            f"{started} processes were started, and each of them sees {processes}: on a CPU set ACCELERATE_USE_CPU=1, "
            "or start with `accelerate launch --cpu --num_processes ...`"
        )
    if batch_size % processes:
        raise BthubError(
            f"a batch of {batch_size} can't be divided among {processes} processes: set batch_size to a multiple"
        )


def check_forward(model: "nn.Module", sizes: dict[int, int], batch: int) -> None:
    """Run one training batch of zeros through a copy of a network: does it take what it will be given?

    Args:
        model: takes pixels (B, 3, S, S) as its first argument.
        sizes: {first epoch: side}.
        batch: images that a process sees at once.

    Raises:
        BthubError: the batch is too small for its batch normalization, or the picture for its layers.
    """
    import torch  # not above: whoever reads a configuration needn't have it

    trial = copy.deepcopy(model).train()
    with torch.random.fork_rng(), torch.no_grad():
        for side in sorted(set(sizes.values())):
            try:
                trial(torch.zeros(min(batch, 2), 3, side, side))
            except ValueError as error:
                if "more than 1 value per channel" not in str(error):
                    raise BthubError(f"image_sizes of {side} don't fit this network: {error}") from error
                raise BthubError(
                    f"one image of {side} pixels at a time leaves batch normalization a single value: --set batch_size "
                    "to 2 or more for each process, or larger image_sizes"
                ) from error
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                raise BthubError(f"image_sizes of {side} don't fit this network ({reason}): set larger ones") from error
