"""Steps of an epoch."""

import math

from torch.utils.data import DataLoader

from bthub.errors import BthubError


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
