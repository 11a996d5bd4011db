"""Smith's learning-rate range test (2017) and fastai's "valley" suggestion.

Own code: torch-lr-finder suggests the steepest slope, fastai and Lightning bring training loops of their own.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence

from torch import Tensor
from torch.optim import Optimizer

from bthub.data.progress import progress_bar
from bthub.errors import BthubError

SMOOTHING = 0.98
LOWEST, HIGHEST = 1e-7, 10  # learning rates of the first and the last step
DIVERGED = 4  # times the lowest smoothed loss


def range_test(
    loss_of: Callable[[dict], Tensor], optimizer: Optimizer, batches: Iterable[dict], steps: int = 100
) -> list[dict[str, float]]:
    """Train with a learning rate that grows from step to step, until the loss explodes.

    It spoils the weights: give a copy of the model.

    Args:
        loss_of: the loss of a batch, with the model's graph behind it.
        optimizer: of that model.
        batches: of the training split; begun again when there are too few.
        steps: at most; the rate grows by the same factor at each.

    Returns:
        One row a step: `learning_rate`, `loss`, and the `smoothed_loss`, a running mean.
    """
    rows, mean = [], 0.0
    again = itertools.chain.from_iterable(itertools.repeat(batches))
    for step, batch in enumerate(
        progress_bar(itertools.islice(again, steps), desc="learning-rate finder", total=steps)
    ):
        rate = LOWEST * (HIGHEST / LOWEST) ** (step / (steps - 1))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss.item()
        smoothed = mean / (1 - SMOOTHING ** (step + 1))
        if not math.isfinite(smoothed) or rows and smoothed > DIVERGED * min(row["smoothed_loss"] for row in rows):
            break
        rows.append({"learning_rate": rate, "loss": loss.item(), "smoothed_loss": smoothed})
    return rows


def suggest(rows: Sequence[dict]) -> float:
    """The valley of a range test, without its first tenth and its last five steps, as in fastai."""
    kept = rows[len(rows) // 10 : -5]
    if not kept:
        raise BthubError(
            f"the learning-rate finder's loss exploded after {len(rows)} steps: set learning_rate yourself"
        )
    return kept[valley([float(row["smoothed_loss"]) for row in kept])]["learning_rate"]


def valley(losses: Sequence[float]) -> int:
    """The middle of the longest fall: of the longest run of ever lower losses, gaps allowed, the half-way step."""
    lengths = [1] * len(losses)
    for i, j in itertools.combinations(range(len(losses)), 2):
        if losses[j] < losses[i]:
            lengths[j] = max(lengths[j], lengths[i] + 1)
    length = max(lengths)
    # As fastai counts: back from the run's end as if it had no gaps, then a third and half a third forward again.
    return max(lengths.index(length) - length + length // 3 + length // 6, 0)
