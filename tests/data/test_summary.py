"""`bthub data info`: the counts it prints are those of the files."""

import errno
import shutil
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Features
from datasets import Image as ImageFeature
from datasets.exceptions import DatasetGenerationError
from PIL import Image

from bthub.data.build import build
from bthub.data.dataset import load_split
from bthub.data.facts import LGG, write
from bthub.data.mix import mix
from bthub.data.splits import patient_split, slice_split
from bthub.data.summary import Table, describe
from bthub.errors import BthubError


def rows_of(text: str, title: str) -> list[list[str]]:
    """The cells of the table under a title, without its header."""
    lines = text.split(f"{title}\n")[1].split("\n\n")[0].splitlines()
    return [line.split() for line in lines[1:]]


def test_lgg_counts_are_those_of_the_tree(kaggle, tiny_lgg):
    text = describe(str(tiny_lgg))
    slices = []
    for path in kaggle.glob("*/*_mask.tif"):
        patient, index = path.stem.removesuffix("_mask").rsplit("_", 1)
        slices.append((patient, int(index), bool(np.array(Image.open(path)).any())))
    tumor = sum(has for *_, has in slices)
    assert f"{tiny_lgg}: LGG MRI Segmentation" in text
    assert f"4 of 110 patients, 20 of 3,929 slices, {tumor} of 1,373 tumor slices" in text

    for protocol in ("patient", "slice"):
        expected = []
        for split in ("train", "validation", "test"):
            members = [
                s for s in slices if (patient_split(s[0]) if protocol == "patient" else slice_split(*s[:2])) == split
            ]
            for institution in [*sorted({s[0][5:7] for s in members}), "all"]:
                chosen = [s for s in members if institution in (s[0][5:7], "all")]
                expected.append([split, institution, *counts(chosen)])
        expected.append(["all", "all", *counts(slices)])
        assert rows_of(text, f"protocol {protocol}") == expected


def counts(slices: list[tuple[str, int, bool]]) -> list[str]:
    tumor = sum(has for *_, has in slices)
    return [str(len({s[0] for s in slices})), str(len(slices)), str(tumor), f"{tumor / len(slices):.1%}"]


def test_image_set_counts_and_duplicates_are_those_of_the_files(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 5)):
        for label in ("healthy", "ill"):
            folder = tmp_path / "set" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)).save(folder / f"{i}.png")
    # All of train's healthy images but one, so that wherever validation is drawn, both have some of them.
    for i in range(19):
        for copy in ("a", "b"):
            shutil.copy(tmp_path / f"set/train/healthy/{i}.png", tmp_path / f"set/test/healthy/{i}{copy}.png")
    build(tmp_path / "set", tmp_path / "out")
    text = describe(str(tmp_path / "out"))
    assert rows_of(text, "images") == [
        ["train", "17", "17", "34"],
        ["validation", "3", "3", "6"],
        ["test", "43", "5", "48"],
        ["all", "63", "25", "88"],
    ]
    assert "38 of 88 images repeat another one." in text
    shared = Counter()
    for line in text.splitlines():
        if "of 48 images of test are also in" in line:
            shared[line.split()[-1]] = int(line.split()[0])
    assert shared["train."] in (32, 34) and shared["train."] + shared["validation."] == 38
    assert "0 of 6 images of validation are also in train." in text
    # The card was written from the same counts.
    card = (tmp_path / "out" / "README.md").read_text()
    assert all(line in card for line in text.splitlines() if " images of " in line or "repeat another" in line)


def test_what_is_not_a_built_data_set_is_refused(tmp_path, kaggle):
    with pytest.raises(BthubError, match=f"{kaggle}: not a built data set.*bthub data build"):
        describe(str(kaggle))
    with pytest.raises(BthubError, match="missing: no such folder"):
        describe(str(tmp_path / "missing"))


def test_rows_without_a_class_are_refused(tmp_path):
    for name, columns in (
        ("text", {"text": ["a"]}),
        ("unlabeled", {"image": [b"x"], "file": ["a"]}),
        ("plain", {"image": [b"x"], "label": ["tumor"]}),
    ):
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "README.md").write_text("# A set")
        pq.write_table(pa.table(columns), tmp_path / name / "data" / "train.parquet")
        for asked in (describe, lambda dataset: load_split(dataset, "train")):
            with pytest.raises(
                BthubError, match=f"{name}: its rows aren't pictures with a class, .* {list(columns)[-1]};"
            ):
                asked(str(tmp_path / name))
    with pytest.raises(BthubError, match="its rows aren't pictures with a class"):
        mix([tmp_path / "unlabeled", tmp_path / "plain"], tmp_path / "out")


def test_rows_that_are_not_those_of_lgg_are_refused(tmp_path):
    """Though `dataset.json` says so."""
    (tmp_path / "data").mkdir()
    files = "  data_files: data/train.parquet\n"
    card = f"---\nconfigs:\n- config_name: patient\n{files}- config_name: slice\n{files}---\n"
    (tmp_path / "README.md").write_text(card)
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["no_tumor", "tumor"])})
    rows = pa.table({"image": [{"bytes": b"x", "path": None}], "label": [0]}, features.arrow_schema)
    pq.write_table(rows, tmp_path / "data" / "train.parquet")
    write(tmp_path, LGG)
    with pytest.raises(BthubError, match="cannot be read as a data set .*patient_id"):
        describe(str(tmp_path))
    with pytest.raises(BthubError, match="expected image, label, patient_id, slice_index as"):
        load_split(tmp_path, "train")


def test_tables_align_and_escape():
    table = Table("title", ["name", "count"], [["a|b", "1,000"], ["c", "7"]])
    assert table.text() == "title\nname  count\na|b   1,000\nc         7"
    assert table.markdown() == "| name | count |\n| --- | ---: |\n| a\\|b | 1,000 |\n| c | 7 |"


def test_describe_reads_no_pixels_of_lgg(tiny_lgg, monkeypatch):
    # Its counts need no images: from the Hub they should not be downloaded.
    from bthub.data.dataset import BuiltDataset

    seen = []
    columns = BuiltDataset.columns
    monkeypatch.setattr(BuiltDataset, "columns", lambda *args: seen.append(args[2]) or columns(*args))
    monkeypatch.setattr(BuiltDataset, "load", lambda *args: pytest.fail("loaded whole rows"))
    describe(str(tiny_lgg))
    assert seen and all("image" not in names and "mask" not in names for names in seen)


def test_a_full_disk_is_not_a_damaged_data_set(monkeypatch, tmp_path):
    def full(*_, **__):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise DatasetGenerationError("An error occurred while generating the dataset") from error

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.parquet").write_bytes(b"")
    (tmp_path / "README.md").write_text("")
    monkeypatch.setattr("bthub.data.dataset.get_dataset_config_names", full)
    with pytest.raises(BthubError, match="no space is left for its copy in the cache"):
        describe(str(tmp_path))
