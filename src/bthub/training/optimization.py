"""Optimizers and learning-rate schedules, by the names that a configuration gives them."""

from collections.abc import Iterable

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR
from transformers import get_constant_schedule, get_cosine_schedule_with_warmup

from bthub.errors import BthubError


def create_optimizer(
    name: str, parameters: Iterable[torch.nn.Parameter], learning_rate: float, weight_decay: float
) -> Optimizer:
    """`adamw`, or `sgd` with a momentum of 0.9."""
    if name == "adamw":
        return torch.optim.AdamW(parameters, learning_rate, weight_decay=weight_decay, fused=True)
    if name == "sgd":
        return torch.optim.SGD(parameters, learning_rate, momentum=0.9, weight_decay=weight_decay)
    raise BthubError(f"optimizer {name!r}: expected adamw or sgd")


def create_schedule(name: str, optimizer: Optimizer, warmup_steps: int, steps: int) -> LRScheduler:
    """How the learning rate moves over `steps` optimizer steps, relative to the optimizer's own.

    `cosine`: up in a line for `warmup_steps`, then down to zero along a cosine. `constant`: not at all.
    `one_cycle`: as fastai does it, up from a 25th for a quarter of the steps, then down to almost nothing, and the
    momentum the other way round (Smith 2018).
    """
    if name == "cosine":
        return get_cosine_schedule_with_warmup(optimizer, warmup_steps, steps)
    if name == "constant":
        return get_constant_schedule(optimizer)
    if name == "one_cycle":
        highest = [group["lr"] for group in optimizer.param_groups]
        # One to spare: the schedule is stepped once more after the last step.
        return OneCycleLR(optimizer, highest, steps + 1, pct_start=0.25, final_div_factor=1e5)
    raise BthubError(f"schedule {name!r}: expected cosine, constant or one_cycle")
