"""The progress of a run, and the checkpoints that it resumes from."""

import dataclasses
import shutil
from pathlib import Path

from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn

from bthub.errors import BthubError
from bthub.runs.folder import CHECKPOINT, HISTORY, write_rows

BEST = "best.safetensors"


LAST = "last"


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
            raise BthubError(
                f"the checkpoint was started with {told}: resume with the same values, or give another --output"
            )
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


def best_model(accelerator: Accelerator, model: nn.Module, output: Path) -> nn.Module:
    """The best epoch's network as everyone will load it: rounded to half precision, run in single.

    What is chosen on validation after training is chosen with this one, not with mixed precision's outputs.
    """
    best = accelerator.unwrap_model(model, keep_fp32_wrapper=False).to("cpu")
    best.load_state_dict(load_file(output / CHECKPOINT / LAST / BEST))
    return best.half().float().eval()


def write_history(output: Path, history: list[dict]) -> None:
    write_rows(output / HISTORY, history)
