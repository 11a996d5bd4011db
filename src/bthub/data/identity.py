"""Which rows a model was given: a digest that tells whether two runs saw the same ones."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from datasets import Dataset

ID_COLUMNS = ("patient_id", "slice_index", "file")


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


def id_columns(columns: Iterable[str]) -> list[str]:
    """Those of some columns that name a row: patient and slice, or the file."""
    return [name for name in ID_COLUMNS if name in columns]


def row_ids(rows: Dataset) -> list[tuple]:
    """Each row's name, a value per column of `id_columns`."""
    return list(zip(*(rows[name][:] for name in id_columns(rows.column_names)), strict=True))


def listed(rows: Dataset, split_file: list[dict[str, str]], split: str) -> set[tuple[str, ...]]:
    """The names of the rows that a run's `split.csv` has under a split; none where it is of another kind of set."""
    if not split_file or id_columns(split_file[0]) != id_columns(rows.column_names):
        return set()
    names = id_columns(split_file[0])
    under = {tuple(line[name] for name in names) for line in split_file if line["split"] == split}
    return under & {tuple(map(str, row)) for row in row_ids(rows)}


def name_of(data: str | Path) -> str:
    """What a data set is called in a run's files: the name of its folder, wherever that lies, or its Hub id."""
    return Path(data).name if Path(data).exists() else str(data)
