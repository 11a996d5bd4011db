"""bthub.data.facts: what a data set is stands in its `dataset.json`, and is told of older ones from their columns."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bthub.data import facts
from bthub.data.build import build
from bthub.data.dataset import BuiltDataset, facts_of, load_split
from bthub.data.mix import mix
from bthub.errors import BthubError


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory, tiny_lgg: Path) -> dict[str, Path]:
    """LGG, pictures of two classes, and a mixture of both."""
    root = tmp_path_factory.mktemp("facts")
    rng = np.random.default_rng(0)
    for label in ("no", "yes"):
        (root / "source" / label).mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 255, (40, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "source" / label / f"{i}.png")
    build(root / "source", root / "pictures")
    mix([tiny_lgg, root / "pictures"], root / "mixed")
    return {"lgg": tiny_lgg, "pictures": root / "pictures", "mixed": root / "mixed"}


def test_a_built_set_says_what_it_is(sets: dict[str, Path]):
    assert facts_of(sets["lgg"]) == facts.LGG and facts.LGG.shown and facts.LGG.split_in_several_ways
    pictures = json.loads((sets["pictures"] / facts.FACTS).read_text())
    assert pictures == {
        "name": "source",
        "title": "Brain MRI Images for Brain Tumor Detection",
        "license": None,
        "link": "https://www.kaggle.com/datasets/navoneel/brain-mri-images-for-brain-tumor-detection",
        "grouped_by": "picture",
        "masks": False,
        "boxes": False,
        "shown": False,
        "protocols": ["default"],
        "sources": [],
    }
    mixed = facts_of(sets["mixed"])
    assert mixed.sources == ("lgg", "pictures") and mixed.protocols == ("default",)
    assert mixed.license == facts.LGG.license and mixed.patients and mixed.masks and not mixed.shown


@pytest.mark.parametrize("name", ["lgg", "pictures", "mixed"])
def test_a_set_without_the_file_is_understood(sets: dict[str, Path], tmp_path: Path, name: str):
    older = Path(shutil.copytree(sets[name], tmp_path / "older"))
    (older / facts.FACTS).unlink()
    known, told = facts_of(sets[name]), facts_of(older)
    for fact in ("license", "grouped_by", "masks", "boxes", "shown", "protocols", "link"):
        assert getattr(told, fact) == getattr(known, fact), fact
    assert bool(told.sources) == bool(known.sources)
    assert load_split(older, "test")["label"][:] == load_split(sets[name], "test")["label"][:]


def test_a_damaged_file_is_named(sets: dict[str, Path], tmp_path: Path):
    copy = Path(shutil.copytree(sets["pictures"], tmp_path / "copy"))
    (copy / facts.FACTS).write_text('{"name": "x", "title": 1}')
    with pytest.raises(BthubError, match=r"dataset.json isn't in the format .*Expected `str`, got `int`.*title"):
        _ = BuiltDataset(copy).facts
