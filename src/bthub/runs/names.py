"""Old names in a run folder's files: still read for one version, and rewritten by `bthub migrate`."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bthub.errors import BthubError

RENAMED = {
    "healthy_slices_with_mask": "tumor_free_slices_with_mask",
    "healthy_mask_px": "tumor_free_mask_px",
    "healthy_slices": "tumor_free_slices",
    "marked_healthy_slices": "marked_tumor_free_slices",
    "first_weights": "initial_weights",
    "likelier_class": "argmax",
    "review_band": "referral_band",
    "review_error": "referral_error",
    "review": "referral",
    "to_review": "referred",
    "missed": "false_negative_rate",
    "false_alarms": "false_positive_rate",
}
"""Old keys and columns, and the new ones. Understood until version 0.3."""
OF_HEAT = {"agreement": "pointing_game"}
"""Of Grad-CAM alone: what a backend's masks have is an agreement still."""
MIGRATED = ("*.json", "onnx/*.json", "history.csv", "predictions/*.csv")
_OF_VALIDATION = "validation_"


def renamed(content: Any) -> Any:
    """The content of a JSON file under today's names."""
    if isinstance(content, dict):
        names = RENAMED | (OF_HEAT if "empty_maps" in content else {})
        return {names.get(key, key): renamed(value) for key, value in content.items()}
    return [renamed(value) for value in content] if isinstance(content, list) else content


def renamed_columns(columns: Iterable[str]) -> list[str]:
    """The columns of a CSV file under today's names; those of `history.csv` name the split before the metric."""

    def new(name: str) -> str:
        metric = name.removeprefix(_OF_VALIDATION)
        return name.removesuffix(metric) + (RENAMED | OF_HEAT).get(metric, metric)

    return [new(name) for name in columns]


def migrate(run: Path) -> list[str]:
    """Rewrite the files of a run folder that have old names.

    Args:
        run: the folder.

    Returns:
        The names of those that were rewritten.

    Raises:
        BthubError: it isn't a run folder, or a file in it isn't JSON or UTF-8.
    """
    from bthub.runs.folder import RunFolder  # here: it reads by this module's names

    run = RunFolder.local(run, weights=False).path
    changed = []
    for file in sorted(file for pattern in MIGRATED for file in run.glob(pattern)):
        try:
            old = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise BthubError(f"{file} isn't UTF-8 ({error}): restore it or train again") from error
        if file.suffix == ".csv":
            head, end, rest = old.partition("\n")
            new = ",".join(renamed_columns(head.split(","))) + end + rest
        else:
            try:
                content = json.loads(old)
            except ValueError as error:
                raise BthubError(f"{file} isn't valid JSON ({error}): restore it or train again") from error
            new = old if renamed(content) == content else json.dumps(renamed(content), indent=2, ensure_ascii=False)
            new = new.rstrip("\n") + "\n" if new != old else old
        if new != old:
            temporary = file.with_name(file.name + ".tmp")
            temporary.write_text(new, encoding="utf-8", errors="backslashreplace")
            temporary.replace(file)
            changed.append(file.relative_to(run).as_posix())
    return changed
