"""Digests of the rows that a model was given, to tell whether two runs used the same data."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from datasets import Dataset
from datasets import Image as ImageFeature

ID_COLUMNS = ("patient_id", "slice_index", "file")
DIGEST = "sha256"
"""Column of a run's `split.csv` for image-folder sets, whose files' names say nothing outside of the set."""


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
    facts = {
        "rows": len(rows),
        "sha256": hashlib.sha256(json.dumps(sorted(columns, key=_with_gaps)).encode()).hexdigest(),
    }
    return facts | ({"patients": len(set(rows["patient_id"]) - {None})} if "patient_id" in names else {})


def _with_gaps(values: tuple) -> tuple:
    """A key that sorts rows some of whose values are None: these come first."""
    return tuple((value is not None, 0 if value is None else value) for value in values)


def id_columns(columns: Iterable[str]) -> list[str]:
    """Those of some columns that name a row: patient and slice, or the file."""
    return [name for name in ID_COLUMNS if name in columns]


def identified(rows: Dataset) -> list[dict[str, str]]:
    """What names each row: patient and slice; or the file in its set, and the first 16 digits of its SHA-256."""
    names = id_columns(rows.column_names)
    values = zip(*(rows[name][:] for name in names), strict=True)
    lines = [{n: "" if v is None else str(v) for n, v in zip(names, row, strict=True)} for row in values]
    if "file" in names:
        encoded = rows.select_columns(["image"]).cast_column("image", ImageFeature(decode=False))
        for line, row in zip(lines, encoded, strict=True):
            line[DIGEST] = hashlib.sha256(row["image"]["bytes"]).hexdigest()[:16]
    return lines


def listed(rows: Dataset, split_file: list[dict[str, str]], split: str) -> set[tuple[str, ...]]:
    """The names of the rows that a run's `split.csv` has under a split.

    Images of patients are the same if patient and slice are, others if their files are, whatever they are called.
    """
    names = id_columns(rows.column_names)
    if not split_file:
        return set()
    under = {_key(line) for line in split_file if line["split"] == split}
    return {tuple(line[name] for name in names) for line in identified(rows) if _key(line) in under}


def _key(line: dict[str, str]) -> tuple[str, ...]:
    """What is the same for the same picture in any set: patient and slice, or the digest of the file."""
    if line.get("patient_id"):
        return line["patient_id"], line["slice_index"]
    return (line.get(DIGEST) or line["file"],)


def name_of(data: str | Path) -> str:
    """What a data set is called in a run's files: the name of its folder, wherever that lies, or its Hub id."""
    return Path(data).name if Path(data).exists() else str(data)


def typed(data: str | Path) -> str:
    """How a command at the root of a clone names a data set: `data/NAME`, or its Hub id."""
    return f"data/{Path(data).name}" if Path(data).exists() else str(data)
