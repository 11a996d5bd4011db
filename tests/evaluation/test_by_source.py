"""Figures of a mixture's sources, against counts that can be checked by hand."""

import csv
import json
from pathlib import Path

import pytest

from bthub.errors import BthubError
from bthub.evaluation.source_metrics import at_own_kind, measure_detector, measure_kinds, measure_localizer
from bthub.evaluation.two_stage import two_stage_by_source
from bthub.imaging.kinds import FLAIR_LIKE, OTHER_MRI, THREE_SEQUENCES
from bthub.reports import by_source
from bthub.runs.folder import CALIBRATION, CONFIG, PREDICTIONS, SOURCES, RunFolder, write_json
from bthub.runs.operating_point import OperatingPoint

POINTS = {
    None: OperatingPoint(0.5),
    THREE_SEQUENCES: OperatingPoint(0.5, referral_band=(0.4, 0.6)),
    FLAIR_LIKE: OperatingPoint(0.25),
    # The logit is halved: 0.9 becomes 0.75, and 0.1 becomes 0.25.
    OTHER_MRI: OperatingPoint(0.8, temperature=2.0),
}


def detected(source: str, view: str, file: str, label: str, p: float, kind: str, refused: str = "0") -> dict[str, str]:
    shown = {"source": source, "view": view, "file": file, "group": file, "label": label}
    return shown | {"p_tumor": repr(p), "kind": kind, "refused": refused}


DETECTED = [
    detected("lgg", "three sequences", "a", "tumor", 0.9, THREE_SEQUENCES),
    detected("lgg", "three sequences", "b", "no_tumor", 0.45, THREE_SEQUENCES),
    detected("lgg", "FLAIR", "a", "tumor", 0.3, FLAIR_LIKE),
    detected("lgg", "FLAIR", "b", "no_tumor", 0.2, FLAIR_LIKE, refused="1"),
    detected("t1", "as it is", "c", "tumor", 0.9, OTHER_MRI),
    detected("t1", "as it is", "d", "no_tumor", 0.1, OTHER_MRI),
    detected("t1", "as it is", "e", "tumor", 0.97, OTHER_MRI),
    detected("t1", "as it is", "f", "tumor", 0.7, ""),
]


def masked(
    source: str, view: str, file: str, label: str, pixels: tuple[int, int, int], in_box: str = "", outlined: int = 1
) -> dict[str, str]:
    shown = {"source": source, "view": view, "file": file, "group": file, "label": label}
    counts = dict(zip(("tumor_px", "predicted_px", "intersection_px"), map(str, pixels), strict=True))
    return shown | counts | {"pixels": "1000", "in_box": in_box, "outlined": str(outlined)}


MASKED = [
    masked("lgg", "three sequences", "a", "tumor", (100, 100, 80)),
    masked("lgg", "three sequences", "b", "no_tumor", (0, 10, 0)),
    masked("lgg", "FLAIR", "a", "tumor", (100, 50, 50)),
    masked("lgg", "FLAIR", "b", "no_tumor", (0, 0, 0)),
    masked("t1", "as it is", "c", "tumor", (0, 40, 0), "1", outlined=0),
    masked("t1", "as it is", "d", "no_tumor", (0, 40, 0)),
    masked("t1", "as it is", "e", "tumor", (0, 40, 0), "0", outlined=0),
    masked("t1", "as it is", "f", "tumor", (0, 40, 0), "1", outlined=0),
]


def test_each_picture_is_judged_at_the_threshold_of_its_kind():
    found = measure_detector(DETECTED, POINTS)
    assert list(found) == ["lgg, three sequences", "lgg, FLAIR", "t1"]
    # 0.3 passes FLAIR's threshold of 0.25; of t1, 0.9 calibrated is 0.75 and misses 0.8, 0.7 of no kind passes 0.5.
    assert found["lgg, FLAIR"]["metrics"]["recall"].value == 1
    assert found["t1"]["metrics"]["recall"].value == pytest.approx(2 / 3)
    assert found["t1"]["metrics"]["specificity"].value == 1
    assert found["lgg, three sequences"]["uncertain"] == 0.5 and found["t1"]["uncertain"] == 0
    assert found["lgg, FLAIR"]["refused"] == 1 and found["t1"]["kinds"][OTHER_MRI] == 3


def test_without_an_input_check_nothing_is_said_of_refusals():
    found = measure_detector([line | {"refused": "", "kind": ""} for line in DETECTED], POINTS)
    assert [one["refused"] for one in found.values()] == [None, None, None]
    assert found["lgg, FLAIR"]["metrics"]["recall"].value == 0  # 0.3 at the threshold of no kind


def test_auc_is_of_one_source_and_the_calibrated_probability():
    found = measure_detector(DETECTED, POINTS)
    assert {key: one["metrics"]["roc_auc"].value for key, one in found.items()} == {
        "lgg, three sequences": 1.0,
        "lgg, FLAIR": 1.0,
        "t1": 1.0,
    }
    # Of four pictures: 0.75, 0.25, sqrt(0.97/0.03)/(1 + ...) and 0.7, each in a bin of its own.
    odds = (0.97 / 0.03) ** 0.5
    ece = ((1 - 0.75) + 0.25 + (1 - odds / (1 + odds)) + (1 - 0.7)) / 4
    assert found["t1"]["metrics"]["ece"].value == pytest.approx(ece, abs=1e-6)


def test_kinds_have_no_figure_across_sources():
    found = measure_kinds(DETECTED, POINTS)
    assert set(found) == {THREE_SEQUENCES, FLAIR_LIKE, OTHER_MRI}
    assert all(set(one["metrics"]) == {"recall", "specificity"} for one in found.values())
    assert found[OTHER_MRI]["samples"] == 3 and found[OTHER_MRI]["metrics"]["recall"].value == 0.5


def test_masks_are_measured_by_outline_or_by_box():
    found = measure_localizer(MASKED)
    three, flair, boxes = (found[key]["metrics"] for key in ("lgg, three sequences", "lgg, FLAIR", "t1"))
    assert three["dice_tumor_slices"].value == pytest.approx(0.8)
    assert three["tumor_free_slices_with_mask"].value == 1
    assert flair["dice_tumor_slices"].value == pytest.approx(100 / 150)
    assert boxes["center_in_box"].value == pytest.approx(2 / 3)
    # Nobody outlined these tumors, so there is no Dice; the healthy picture still counts.
    assert set(boxes) == {"center_in_box", "tumor_free_slices_with_mask", "tumor_free_mask_px"}
    assert (boxes["tumor_free_slices_with_mask"].value, boxes["tumor_free_mask_px"].value) == (1, 40)


def with_kind(line: dict[str, str], kind: str, predicted: int, in_box: str) -> dict[str, str]:
    """The line of a localizer that has a point of its own for a kind."""
    return line | {f"{kind} predicted_px": str(predicted), f"{kind} intersection_px": "0", f"{kind} in_box": in_box}


def test_a_mask_is_that_of_the_kind_that_the_picture_is():
    gray = with_kind(masked("t1", "as it is", "c", "tumor", (0, 0, 0), "0", outlined=0), OTHER_MRI, 30, "1")
    color = with_kind(masked("lgg", "three sequences", "a", "tumor", (9, 9, 9)), OTHER_MRI, 30, "")
    assert (at_own_kind(gray)["predicted_px"], at_own_kind(gray)["in_box"]) == ("30", "1")
    assert at_own_kind(color)["predicted_px"] == "9"
    assert at_own_kind(MASKED[4]) == MASKED[4]  # a localizer without points of its own


def mixture_run(path: Path, config: dict, calibration: dict, rows: list[dict[str, str]]) -> RunFolder:
    (path / PREDICTIONS).mkdir(parents=True)
    write_json(path / CONFIG, config)
    write_json(path / CALIBRATION, calibration)
    with (path / PREDICTIONS / "mix-test.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    entry = {
        "task": "image-classification" if "architecture" in config else "image-segmentation",
        "by_source": measure_localizer(rows) if "in_box" in rows[0] else measure_detector(rows, POINTS),
        "dataset": {"name": "mix"},
        "weights": path.name,
        "command": "bthub evaluate",
    }
    write_json(path / SOURCES, {"test": entry})
    return RunFolder(path, path.name, path.name)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[RunFolder, RunFolder]:
    kinds = {
        FLAIR_LIKE: {"temperature": 1.0, "threshold": 0.5, "referral_band": None},
        OTHER_MRI: {"temperature": 2.0, "threshold": 0.8, "referral_band": None},
    }
    detector = {"threshold": 0.5, "temperature": 1.0, "referral_band": None, "kinds": kinds}
    resunet = {"model_type": "resunet", "backbone": "resnet18"}
    return (
        mixture_run(tmp_path / "gate", {"architecture": "resnet18"}, detector, DETECTED),
        mixture_run(tmp_path / "masks", resunet, {"mask_threshold": 0.5}, MASKED),
    )


def test_both_stages_draw_only_where_the_detector_calls_tumor(pair):
    found = two_stage_by_source(*pair)["by_source"]
    three, flair, boxes = (found[key]["metrics"] for key in ("lgg, three sequences", "lgg, FLAIR", "t1"))
    assert three["dice_tumor_slices"].value == pytest.approx(0.8)
    assert three["tumor_free_slices_with_mask"].value == 0  # 0.45 stays below the threshold
    assert flair["dice_tumor_slices"].value == 0  # 0.3 is missed, and a miss counts 0
    # c is missed at its kind's threshold, e is off its box, f is called at the threshold of no kind.
    assert boxes["center_in_box"].value == pytest.approx(1 / 3)
    assert boxes["tumor_free_slices_with_mask"].value == 0


def test_both_stages_take_the_mask_of_the_kind_that_was_seen(pair, tmp_path):
    """e is seen as other MRI, f as no kind: only e's mask is that of the kind."""
    rows = [with_kind(line, OTHER_MRI, 50, "1" if line["in_box"] == "0" else "0") for line in MASKED]
    masks = mixture_run(tmp_path / "kinds", {"model_type": "resunet", "backbone": "resnet18"}, {}, rows)
    found = two_stage_by_source(pair[0], masks)["by_source"]
    assert found["t1"]["metrics"]["center_in_box"].value == pytest.approx(2 / 3)
    assert found["lgg, three sequences"]["metrics"]["dice_tumor_slices"].value == pytest.approx(0.8)


def test_both_stages_must_belong_together(pair, tmp_path):
    with pytest.raises(BthubError, match="give the detector first"):
        two_stage_by_source(*reversed(pair))
    with pytest.raises(BthubError, match="has no figures of split validation"):
        two_stage_by_source(*pair, split="validation")
    with pytest.raises(BthubError, match="these weights"):
        two_stage_by_source(RunFolder(pair[0].path, "gate", "other weights"), pair[1])
    other = [row | {"file": "elsewhere"} for row in MASKED]
    elsewhere = mixture_run(tmp_path / "elsewhere", {"model_type": "resunet"}, {"mask_threshold": 0.5}, other)
    with pytest.raises(BthubError, match="different images"):
        two_stage_by_source(pair[0], elsewhere)


def test_the_page_has_each_run_and_both_stages(pair):
    page = by_source.page(pair, "test")
    assert page == by_source.page(list(reversed(pair)), "test")
    assert page is not None
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        "## gate (mix)",
        "## masks (mix)",
        "## gate, then masks",
    ]
    assert by_source.page(pair, "validation") is None


def test_a_page_without_any_auc_has_no_finding(pair):
    """As of a mixture whose sources have one class each."""
    entry = json.loads((pair[0].path / SOURCES).read_text())
    for part in entry["test"]["by_source"].values():
        del part["metrics"]["roc_auc"]
    write_json(pair[0].path / SOURCES, entry)
    page = by_source.page([RunFolder(pair[0].path, "gate", "gate")], "test")
    assert "## gate (mix)" in page and "is best on" not in page


def test_two_runs_measured_on_different_pictures_are_not_joined(pair):
    entry = json.loads((pair[1].path / SOURCES).read_text())
    entry["test"]["dataset"] |= {"name": "other-mix", "sha256": "0" * 64}
    write_json(pair[1].path / SOURCES, entry)
    page = by_source.page([pair[0], RunFolder(pair[1].path, "masks", "masks")], "test")
    assert "## masks (other-mix)" in page and "then" not in page
