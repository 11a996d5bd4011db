"""The dashboard's parts that need no page: sentences, names, damage, what was prepared."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bthub.evaluation import pooling
from bthub.project import DEFAULTS, SHIPPED_RUNS, shipped_runs
from bthub.runs import records
from bthub.runs.folder import CALIBRATION, CONFIG, WEIGHTS, RunFolder, write_json

DASHBOARD = Path(__file__).parents[2] / "dashboard"


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The dashboard's own modules, importable as where streamlit runs it, and gone afterwards."""
    monkeypatch.syspath_prepend(DASHBOARD)
    yield
    for name in (path.stem for path in DASHBOARD.glob("*.py")):
        sys.modules.pop(name, None)


# -- pages and names


def test_every_page_is_a_step_with_one_question():
    import lesson

    assert sorted(step.file for step in lesson.STEPS) == sorted(
        path.stem for path in (DASHBOARD / "views").glob("*.py")
    )
    assert all(step.question.endswith("?") and step.question.count("?") == 1 for step in lesson.STEPS)
    page = (DASHBOARD.parent / "docs" / "teaching.md").read_text(encoding="utf-8")
    assert all(f"| {i}. {step.title} | {step.question} |" in page for i, step in enumerate(lesson.STEPS) if i)
    assert lesson.after("Start") == lesson.STEPS[1] and lesson.after(lesson.STEPS[-1].title) is None


@pytest.mark.parametrize(
    ("timm", "words"),
    [
        ("resnet18", "ResNet-18"),
        ("resnet50_mlp_head", "ResNet-50"),
        ("vgg16_mlp_head", "VGG16"),
        ("efficientnet_b0", "EfficientNet-B0"),
        ("tf_efficientnet_lite0", "EfficientNet-Lite0"),
        ("densenet121", "DenseNet-121"),
        ("convnext_tiny", "convnext_tiny"),
    ],
)
def test_networks_in_words(timm: str, words: str):
    import names

    assert names.architecture(timm) == words


def test_every_shipped_run_has_words_of_its_own():
    import names

    runs = [records.open_run(source) for source in shipped_runs()]
    words = names.of_runs(runs)
    assert len(set(words.values())) == len(runs) == len(words)
    assert words["efficientnet_b0-lgg"] == "EfficientNet-B0" and words["vgg16-lgg"] == "VGG16"


# -- sentences


def test_the_comparison_says_what_is_better_and_what_is_chance():
    import sentences

    row = {"model": "A", "recall": 0.946, "specificity": 0.987, "accuracy": 0.97}
    differences = [
        {"best": "A", "model": "B", "difference": 0.016, "low": 0.005, "high": 0.03, "apart": True},
        {"best": "A", "model": "C", "difference": 0.002, "low": -0.01, "high": 0.02, "apart": False},
    ]
    said = sentences.comparison([row, {**row, "model": "B"}, {**row, "model": "C"}], differences, [], False)
    assert said == (
        "**A** finds 94.6% of the tumor slices, with false alarms on 1.3% of the tumor-free ones; it is ahead of B "
        "by 0.016 AUC (0.005 to 0.030); its lead over C may be chance."
    )
    assert sentences.comparison([row], [], [], True) == "**A** classifies 97.0% of the pictures correctly."


def test_lists_of_words():
    import sentences

    assert sentences.listed(["a"]) == "a"
    assert sentences.listed(["a", "b", "c"]) == "a, b and c"
    assert sentences.listed(["a", "b", "c", "d", "e"], 3) == "a, b and 3 others"


def test_groups_say_where_a_gap_may_be_chance():
    import sentences

    small = {"model": "A", "group": "the tumor is small", "value": 0.7, "low": 0.6, "high": 0.8}
    large = {"model": "A", "group": "the tumor is large", "value": 1.0, "low": 0.9, "high": 1.0}
    assert "don't overlap" in sentences.groups([small, large], "recall")
    assert "may be chance" in sentences.groups([{**small, "high": 0.95}, large], "recall")
    assert "may be chance" in sentences.groups([{**small, "low": None, "high": None}, large], "recall")


# -- damage


def test_damage_does_what_it_says():
    from damage import KINDS, Damage, damaged

    rng = np.random.default_rng(1)
    image = Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8))
    assert Damage().none and np.array_equal(np.asarray(damaged(image, Damage())), np.asarray(image))
    before = np.asarray(image, float)
    assert np.asarray(damaged(image, Damage(brightness=0.5)), float).mean() == pytest.approx(before.mean() / 2, abs=1)
    assert damaged(image, Damage(crop=50)).size == (40, 30)
    noisy = np.asarray(damaged(image, Damage(noise=20)), float) - before
    assert 12 < noisy.std() < 21
    assert np.array_equal(np.asarray(damaged(image, Damage(rotation=180))), np.asarray(image)[::-1, ::-1])
    worse = [np.abs(np.asarray(damaged(image, Damage(quality=q)), float) - before).mean() for q in (90, 30, 5)]
    assert worse == sorted(worse) and worse[0] > 0
    for kind, (_, _, steps) in KINDS.items():
        assert Damage(**{kind: steps[0]}).none
        assert len({damaged(image, Damage(**{kind: step})).tobytes() for step in steps}) == len(steps)


# -- what was prepared


def test_all_slices_of_the_test_split_are_there():
    import prepared

    from pictures import ShippedSlices

    known = prepared.slices()
    rows = RunFolder.open(SHIPPED_RUNS / "resnet18-lgg", weights=False).predictions("patient/test")
    assert {records.image_key(row): int(row["tumor_px"]) for row in rows} == {
        key: found["tumor_px"] for key, found in known.items()
    }
    shipped = ShippedSlices()
    for key in list(shipped.keys)[::6]:
        assert np.array_equal(prepared.mask(key), shipped.mask(key))
        away = np.asarray(prepared.picture(key), float) - np.asarray(shipped.image(key), float)
        assert np.abs(away).mean() < 6
    size = sum(file.stat().st_size for folder in (prepared.PREVIEWS, prepared.FOLDER) for file in folder.rglob("*.*"))
    assert size < 3e6


def test_pictures_of_a_sheet_are_cut_where_they_were_put():
    import prepared

    pictures = [Image.new("L", (prepared.SIDE, prepared.SIDE), i) for i in range(prepared.COLUMNS + 2)]
    whole = prepared.sheet(pictures)
    assert whole.size == (prepared.COLUMNS * prepared.SIDE, 2 * prepared.SIDE)
    for i in (0, prepared.COLUMNS - 1, prepared.COLUMNS + 1):
        assert np.asarray(prepared.cut(whole, i)).tolist()[0][0] == i


def test_what_other_weights_saw_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import prepared

    name, known = next((name, run) for name, run in prepared.index()["runs"].items() if "slices" in run)
    key = tuple(next(iter(known["slices"])).rsplit("_", 1))
    run = RunFolder(tmp_path, name, known["weights"])
    look = prepared.look(run, key)
    assert look is not None and look.heatmap.shape == (prepared.SIDE, prepared.SIDE) and 0 <= look.heatmap.max() <= 1
    assert prepared.look(RunFolder(tmp_path, name, "sha256:0"), key) is None
    # A run from the Hub has a commit for its revision: its weights are looked at.
    write_json(tmp_path / CONFIG, {"model_type": "resunet"})
    (tmp_path / WEIGHTS).write_bytes(b"other")
    assert prepared.look(RunFolder(tmp_path, name, "0" * 40), key) is None


@pytest.mark.artifacts
def test_what_is_prepared_is_of_the_weights_that_ship():
    import prepared

    for path in sorted(SHIPPED_RUNS.glob("*/")):
        if (path / WEIGHTS).is_file():
            run = RunFolder.open(path)
            assert prepared.of(run) is not None, f"{path.name} was trained again: make dashboard-pictures"


# -- sources


def test_a_guess_that_knows_the_source_has_an_auc(tmp_path: Path):
    (tmp_path / "predictions").mkdir()
    (tmp_path / CALIBRATION).write_text('{"threshold": 0.5}')
    # One source of tumors, one of healthy pictures; the detector knows the source and nothing else.
    lines = [("a", i, "tumor", 0.9) for i in range(8)] + [("a", i, "no_tumor", 0.9) for i in range(8, 10)]
    lines += [("b", i, "no_tumor", 0.1) for i in range(8)] + [("b", i, "tumor", 0.1) for i in range(8, 10)]
    text = "source,view,file,group,label,refused,kind,p_tumor\n" + "\n".join(
        f"{source},{view},{source}/{i},{i},{label},0,other_mri,{p}"
        for source, i, label, p in lines
        for view in ("as it is", "again")
    )
    (tmp_path / "predictions" / "mix-test.csv").write_text(text)
    run = RunFolder(tmp_path, "known", "")
    rows = pooling.once(pooling.predicted(run))
    assert len(rows) == 20
    found = pooling.pooled(run, rows)
    assert found.auc == pytest.approx(0.8) and found.knows == pytest.approx(0.8)
    assert [(row["source"], row["images"], row["tumor"]) for row in found.rows] == [("a", 10, 8), ("b", 10, 2)]
    crossed = {(row["tumor_from"], row["healthy_from"]): row["value"] for row in pooling.crossed(rows)}
    assert crossed == {("a", "a"): 0.5, ("a", "b"): 1.0, ("b", "a"): 0.0, ("b", "b"): 0.5}


def test_a_run_without_a_mixture_says_how_to_measure_it(tmp_path: Path):
    from bthub.errors import BthubError

    with pytest.raises(BthubError, match="bthub evaluate .* --data data/mix --split test"):
        pooling.predicted(RunFolder(tmp_path, "none", ""))


def test_the_shipped_figures_within_sources_are_those_of_its_file():
    run = RunFolder.open(SHIPPED_RUNS / DEFAULTS["detector"], weights=False)
    expected = json.loads((run.path / "sources.json").read_text())["test"]["by_source"]
    rows = {row["source"]: row["value"] for row in pooling.within(run)}
    assert rows == {source: part["metrics"]["roc_auc"]["value"] for source, part in expected.items()}
    # The AUC within a source that is shown once is the diagonal of the table across sources.
    crossed = pooling.crossed(pooling.once(pooling.predicted(run)))
    diagonal = {row["tumor_from"]: row["value"] for row in crossed if row["tumor_from"] == row["healthy_from"]}
    assert diagonal["4class"] == pytest.approx(rows["4class"], abs=1e-6)
