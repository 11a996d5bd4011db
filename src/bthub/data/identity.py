"""Which rows a model was given: a digest that tells whether two runs saw the same ones."""

import hashlib
import json
from pathlib import Path

from datasets import Dataset


def describe_rows(rows: Dataset) -> dict[str, int | str]:
    """How many rows, of how many patients, and a digest of their ids and labels.

    Args:
        rows: of `load_split`.

    Returns:
        `rows`, `sha256` (over the sorted ids and labels, so it doesn't depend on their order or on the pixels'
        encoding) and, where rows have one, the number of `patients`.
    """
    names = [n for n in ("patient_id", "slice_index", "file", "label") if n in rows.column_names]
    columns = zip(*(rows[name][:] for name in names), strict=True)
    facts = {"rows": len(rows), "sha256": hashlib.sha256(json.dumps(sorted(columns)).encode()).hexdigest()}
    return facts | ({"patients": len(set(rows["patient_id"]))} if "patient_id" in names else {})


def name_of(data: str | Path) -> str:
    """What a data set is called in a run's files: the name of its folder, wherever that lies, or its Hub id."""
    return Path(data).name if Path(data).exists() else str(data)
