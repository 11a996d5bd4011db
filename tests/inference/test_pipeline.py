"""bthub.inference: the gate, the geometry, what is measured, batches, and what a result says."""

import base64
import io
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from light_stages import MODELS, blob
from PIL import Image
from scipy import ndimage
from stages import make_pipeline

import bthub
from bthub.errors import BthubError
from bthub.imaging.head import head_mask
from bthub.inference.loading import load_pipeline
from bthub.inference.result import Result, measure
from bthub.inference.study import analyze_study
from bthub.runs.folder import CALIBRATION, CONFIG, write_json

DARK = blob(200, 200, (0, 0, 0, 0)) // 4  # below the gate of the test stages


@pytest.fixture(scope="module")
def pipe():
    return make_pipeline()


@pytest.fixture(scope="module")
def tiny_pipe(tiny_runs):
    return load_pipeline(*tiny_runs, device="cpu")


def decode_mask(data: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data["mask_png_base64"]))))


# -- the gate


def test_the_mask_stage_runs_only_when_the_gate_says_tumor():
    pipe = make_pipeline()
    calls = pipe.localizer.model.batches

    seen = pipe(blob(200, 200, (60, 70, 110, 120)))
    assert seen.label == "tumor" and seen.tumor_probability >= seen.threshold == 0.5
    assert seen.mask.any() and len(calls) == 1

    unseen = pipe(DARK)
    assert unseen.label == "no_tumor" and unseen.tumor_probability < unseen.threshold
    assert unseen.mask is None and unseen.bbox is None and unseen.centroid is None and unseen.contour == []
    assert unseen.area_px == 0 and unseen.head_fraction is None and unseen.milliseconds["localize"] == 0
    assert len(calls) == 1


def test_always_localize_keeps_the_gates_label():
    pipe = make_pipeline(threshold=1.0)
    image = blob(200, 200, (60, 70, 110, 120))
    assert pipe(image).mask is None
    result = pipe(image, always_localize=True)
    assert result.label == "no_tumor"
    assert result.bbox == [60, 70, 110, 120] and result.area_px == 2500


def test_a_tumor_without_an_area_stays_a_tumor(pipe):
    image = blob(200, 200, (0, 0, 0, 0)) * 1.7  # bright enough for the gate, no pixel above one half
    result = pipe(image.astype(np.uint8))
    assert result.label == "tumor"
    assert result.mask.shape == (200, 200) and not result.mask.any()
    assert (result.area_px, result.bbox, result.centroid, result.contour) == (0, None, None, [])
    assert result.head_fraction == 0
    assert not decode_mask(result.to_dict()).any()


def test_a_mask_below_the_smallest_area_is_dropped():
    image = blob(200, 200, (60, 70, 70, 80))  # 100 of 40000 pixels
    assert make_pipeline(min_area_share=0.0024)(image, always_localize=True).area_px == 100
    assert make_pipeline(min_area_share=0.0026)(image, always_localize=True).bbox is None


def test_the_threshold_itself_says_tumor():
    image = blob(200, 200, (60, 70, 110, 120))
    probability = make_pipeline()(image).tumor_probability
    assert make_pipeline(threshold=probability)(image).label == "tumor"
    assert make_pipeline(threshold=np.nextafter(probability, 1))(image).label == "no_tumor"


# -- the referral band


def test_a_probability_in_the_referral_band_is_uncertain():
    image = blob(200, 200, (60, 70, 110, 120))
    p = make_pipeline()(image).tumor_probability
    after = float(np.nextafter(p, 2))
    for band, uncertain in (
        (None, False),
        ((p, p), False),
        ((p, after), True),
        ((0.0, p), False),
        ((0.1, 1.0), True),
        ((after, 1.0), False),
    ):
        result = make_pipeline(referral_band=band)(image)
        assert (result.uncertain, result.referral_band) == (uncertain, band)
        data = result.to_dict()
        assert data["uncertain"] is uncertain
        assert data["referral_band"] == (band and pytest.approx(list(band), abs=1e-6))
        # By their names of before, until version 0.3.
        assert (data["review_band"], data["brain_share"]) == (data["referral_band"], data["head_fraction"])
        assert (result.review_band, result.brain_share) == (result.referral_band, result.head_fraction)
        assert json.loads(json.dumps(data)) == data
        assert result.label == "tumor"  # the threshold decides as before


def test_a_classifier_of_other_classes_is_no_detector(tiny_runs, tmp_path):
    other = shutil.copytree(tiny_runs[0], tmp_path / "other")
    config = json.loads((other / CONFIG).read_text())
    write_json(other / CONFIG, config | {"label_names": ["no", "yes"]})
    write_json(other / CALIBRATION, {"threshold": None})
    with pytest.raises(BthubError, match="has the labels no, yes; a detector needs the label"):
        load_pipeline(other, tiny_runs[1], device="cpu")


def test_the_referral_band_comes_from_the_detectors_run(tiny_runs, tmp_path):
    assert load_pipeline(*tiny_runs, device="cpu").referral_band is None  # saved before there was one
    detector = shutil.copytree(tiny_runs[0], tmp_path / "detector")
    write_json(detector / CALIBRATION, {"threshold": 0.5, "referral_band": [0.0, 1.0]})
    result = load_pipeline(detector, tiny_runs[1], device="cpu")(DARK)
    assert result.uncertain and result.referral_band == (0.0, 1.0)
    write_json(detector / CALIBRATION, {"threshold": 0.5, "referral_band": None})
    assert not load_pipeline(detector, tiny_runs[1], device="cpu")(DARK).uncertain


# -- the geometry


@pytest.mark.parametrize(
    ("height", "width"),
    [(256, 256), (255, 255), (257, 129), (129, 257), (640, 480), (513, 1024), (97, 61), (61, 97), (301, 40)],
)
def test_the_letterbox_is_inverted_exactly(pipe, height, width):
    box = (round(width * 0.2), round(height * 0.55), round(width * 0.6), round(height * 0.8))
    result = pipe(blob(height, width, box), always_localize=True)
    assert (result.height, result.width) == (height, width) and result.mask.shape == (height, width)
    np.testing.assert_allclose(result.bbox, box, atol=1)
    coarseness = max(1, max(height, width) / 256)  # of the letterbox
    center = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]
    np.testing.assert_allclose(result.centroid, center, atol=0.5 * coarseness)
    area = (box[2] - box[0]) * (box[3] - box[1])
    perimeter = 2 * (box[2] - box[0] + box[3] - box[1])
    assert abs(result.area_px - area) <= perimeter  # a pixel all around
    if max(height, width) == 256:
        assert result.bbox == list(box) and result.area_px == area


@pytest.mark.parametrize(("height", "width"), [(513, 800), (90, 121)])
def test_the_inverse_has_no_bias(pipe, height, width):
    """Single edges snap to the letterbox's pixels; on average over places nothing may be shifted."""
    size = min(height, width) // 4
    boxes = [(width // 3 + i, height // 3 + i, width // 3 + i + size, height // 3 + i + size) for i in range(12)]
    results = pipe([blob(height, width, box) for box in boxes], always_localize=True)
    errors = [
        np.subtract(result.centroid, [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
        for result, box in zip(results, boxes, strict=True)
    ]
    assert np.abs(np.mean(errors, axis=0)).max() < 0.25


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(40, 400),
    width=st.integers(40, 400),
    x=st.floats(0, 0.7),
    y=st.floats(0, 0.7),
)
def test_the_letterbox_is_inverted_at_any_size(height, width, x, y):
    x0, y0 = int(x * width), int(y * height)
    box = (x0, y0, x0 + max(12, width // 4), y0 + max(12, height // 4))
    box = (box[0], box[1], min(box[2], width), min(box[3], height))
    result = make_pipeline()(blob(height, width, box), always_localize=True)
    # Where the letterbox is coarser than the picture, a pixel of it is the limit.
    np.testing.assert_allclose(result.bbox, box, atol=max(1, max(height, width) / 256))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_mask_has_the_size_and_place_of_the_upright_picture(pipe, orientation, tmp_path):
    upright = Image.fromarray(blob(300, 180, (30, 200, 90, 260)))
    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    image = upright.transpose(stored[orientation]) if orientation in stored else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    image.save(path, exif=exif)
    result = pipe(path, always_localize=True)
    assert (result.width, result.height) == (180, 300) and result.mask.shape == (300, 180)
    np.testing.assert_allclose(result.bbox, (30, 200, 90, 260), atol=1)
    assert result.overlay().size == (180, 300)


# -- measuring


def test_measure_two_areas_and_a_hole():
    mask = np.zeros((50, 60), bool)
    mask[10:30, 20:40] = True
    mask[15:20, 25:30] = False  # a hole counts as outside, but has no contour
    mask[40:44, 50:60] = True  # at the edge of the picture
    found = measure(mask)
    assert found["area_px"] == 20 * 20 - 25 + 40
    assert found["bbox"] == [20, 10, 60, 44]
    rows, columns = np.nonzero(mask)
    np.testing.assert_allclose(found["centroid"], [columns.mean() + 0.5, rows.mean() + 0.5])
    large, small = (np.array(polygon) for polygon in found["contour"])
    assert [*large.min(axis=0), *large.max(axis=0)] == [20, 10, 40, 30]
    assert [*small.min(axis=0), *small.max(axis=0)] == [50, 40, 60, 44]
    assert (large[0] == large[-1]).all()


@settings(max_examples=60, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_each_connected_area_has_one_outline(mask):
    found = measure(mask)
    _, count = ndimage.label(mask, np.ones((3, 3)))
    assert len(found["contour"]) == count
    assert found["area_px"] == mask.sum()
    if count:
        points = np.concatenate([np.array(polygon) for polygon in found["contour"]])
        assert [*points.min(axis=0), *points.max(axis=0)] == found["bbox"]


def test_area_in_square_millimetres(pipe):
    image = blob(256, 256, (100, 100, 140, 130))
    assert pipe(image).area_mm2 is None
    assert pipe(image, spacing_mm=(0.5, 0.75)).area_mm2 == pytest.approx(40 * 30 * 0.375)
    assert pipe(DARK, spacing_mm=(0.5, 0.75)).area_mm2 == 0


def test_the_share_of_the_brain(pipe):
    result = pipe(blob(256, 256, (100, 100, 140, 130)))
    assert result.head_fraction == pytest.approx(1200 / (np.pi * (0.48 * 256) ** 2), rel=0.05)


def test_the_head_of_real_slices(kaggle):
    """One connected area without holes, that covers what is bright and leaves the corners out."""
    for path in sorted(kaggle.rglob("*[0-9].tif")):
        image = np.array(Image.open(path))
        head = head_mask(image)
        assert head.shape == image.shape[:2]
        assert ndimage.label(head)[1] == 1 and ndimage.label(~np.pad(head, 1))[1] == 1
        assert 0.1 < head.mean() < 0.8
        bright = image.max(axis=2) > np.percentile(image.max(axis=2), 90)
        assert (bright & head).sum() > 0.95 * bright.sum()
        tumor = np.array(Image.open(path.with_name(path.stem + "_mask.tif"))) > 0
        assert (tumor & head).sum() >= 0.99 * tumor.sum()


def test_the_head_does_not_depend_on_the_color_of_the_background():
    image = blob(256, 256, (100, 100, 140, 130))
    tinted = np.where(image == 0, np.array([100, 0, 0], np.uint8), image)
    assert (head_mask(tinted) != head_mask(image)).mean() < 0.01
    assert not head_mask(np.full((64, 64, 3), 9, np.uint8)).any()


# -- inputs and batches


def test_every_kind_of_input_gives_the_same(pipe, tmp_path):
    image = blob(256, 200, (50, 60, 90, 110))
    path = tmp_path / "slice.png"
    Image.fromarray(image).save(path)
    for source in (path, str(path), Image.open(path), image):
        result = pipe(source)
        assert isinstance(result, Result) and result.bbox == [50, 60, 90, 110]


def test_a_list_gives_a_list_in_order(pipe):
    images = [blob(180, 256, (20 + 10 * i, 30, 60 + 10 * i, 70)) for i in range(5)]
    for inputs in (images, tuple(images)):
        results = pipe(inputs, batch_size=2, always_localize=True)
        assert isinstance(results, list)
        assert [r.bbox for r in results] == [[20 + 10 * i, 30, 60 + 10 * i, 70] for i in range(5)]
    assert pipe([]) == []


def test_batches_have_the_size_asked_for():
    pipe = make_pipeline()
    bright = blob(100, 100, (20, 20, 70, 70))
    pipe([bright, DARK, bright, DARK, DARK, bright, DARK], batch_size=3)
    assert pipe.detector.model.batches == [3, 3, 1]
    assert pipe.localizer.model.batches == [2, 1]  # only what the gate let through


def test_an_iterator_is_consumed_batch_by_batch(pipe):
    taken = []

    def source():
        for i in range(10):
            taken.append(i)
            yield DARK

    results = pipe(source(), batch_size=3)
    assert taken == []
    next(results)
    assert taken == [0, 1, 2]
    next(results), next(results)
    assert taken == [0, 1, 2]
    next(results)
    assert taken == [0, 1, 2, 3, 4, 5]
    assert len(list(results)) == 6 and len(taken) == 10


def test_huge_pictures_are_batched_by_their_pixels(monkeypatch):
    pipe = make_pipeline()
    monkeypatch.setattr("bthub.inference.pipeline.MAX_PIXELS", 40000)  # of DARK, 200 x 200
    pipe([DARK] * 3, batch_size=8)
    assert pipe.detector.model.batches == [1, 1, 1]


def test_a_batch_gives_what_single_calls_give(tiny_pipe, kaggle):
    paths = sorted(kaggle.rglob("*[0-9].tif"))[:6]
    images = [*paths, blob(300, 200, (30, 30, 80, 90)), Image.open(paths[0]).resize((311, 127))]
    single = [tiny_pipe(image) for image in images]
    together = tiny_pipe(images, batch_size=8)
    for one, other in zip(single, together, strict=True):
        assert one.tumor_probability == pytest.approx(other.tumor_probability, abs=1e-5)
        assert (one.mask != other.mask).mean() < 1e-3
        assert one.mask.shape == (one.height, one.width)


def test_threads_get_what_one_thread_gets(tiny_pipe, kaggle):
    paths = sorted(kaggle.rglob("*[0-9].tif"))[:8]
    expected = [tiny_pipe(path).to_dict() for path in paths]
    with ThreadPoolExecutor(4) as pool:
        found = [result.to_dict() for result in pool.map(tiny_pipe, paths)]
    for one, other in zip(expected, found, strict=True):
        del one["milliseconds"], other["milliseconds"]
        assert one == other


# -- the result


def test_to_dict_is_json(tiny_pipe, pipe, kaggle):
    path = next(iter(sorted(kaggle.rglob("*[0-9].tif"))))
    for result in (tiny_pipe(path, spacing_mm=(0.9, 0.9)), pipe(DARK), pipe(blob(99, 64, (10, 10, 40, 40)))):
        data = result.to_dict()
        assert json.loads(json.dumps(data, allow_nan=False)) == data
        assert data["label"] in ("tumor", "no_tumor") and "not a medical device" in data["disclaimer"]
        assert 0 <= data["tumor_probability"] <= 1
        assert set(data["milliseconds"]) == {"read", "check", "detect", "localize", "measure", "total"}
        stages = {k: v for k, v in data["milliseconds"].items() if k != "total"}
        assert data["milliseconds"]["total"] == pytest.approx(sum(stages.values()), abs=0.01)
        assert stages["read"] > 0 and stages["detect"] > 0
        if result.mask is None:
            assert data["mask_png_base64"] is None
        else:
            mask = decode_mask(data)
            assert mask.dtype == np.uint8 and set(np.unique(mask)) <= {0, 255}
            np.testing.assert_array_equal(mask > 0, result.mask)
            assert data["area_px"] == result.mask.sum()


def test_models_and_revisions_are_named(tiny_pipe, pipe):
    assert pipe(DARK).models == MODELS
    for stage in tiny_pipe(DARK).models.values():
        assert stage["id"] and stage["revision"].startswith("sha256:")


def test_overlay(pipe):
    image = blob(256, 200, (50, 60, 90, 110))
    result = pipe(image, always_localize=True)
    overlay = np.asarray(result.overlay())
    assert overlay.shape == image.shape and result.overlay().mode == "RGB"
    np.testing.assert_array_equal(overlay[:55], image[:55])  # untouched outside
    red, green, blue = overlay[85, 70].astype(int)
    assert red > green + 50 and red > blue + 50
    assert (overlay[60, 50:90] == (255, 215, 0)).all() and (overlay[109, 50:90] == (255, 215, 0)).all()
    np.testing.assert_array_equal(result.image, image)  # and the input itself is left alone

    plain = pipe(DARK)
    np.testing.assert_array_equal(np.asarray(plain.overlay()), plain.image)


def test_the_contour_is_drawn_on_the_boundary_of_the_mask():
    y, x = np.mgrid[:200, :200]
    mask = (x - 90) ** 2 + (y - 110) ** 2 < 40**2
    base = make_pipeline()(blob(200, 200, (60, 70, 110, 120)))
    result = replace(base, mask=mask, image=np.full((200, 200, 3), 50, np.uint8), **measure(mask))
    drawn = (np.asarray(result.overlay()) == (255, 0, 0)).all(axis=2)
    edge = ndimage.binary_dilation(mask) & ~ndimage.binary_erosion(mask, iterations=2)
    assert drawn.sum() > 150 and not (drawn & ~edge).any()


# -- refusals


def test_arguments_out_of_range_are_refused(pipe):
    for options in (
        {"batch_size": 0},
        {"spacing_mm": (1.0, 0.0)},
        {"spacing_mm": (1.0, float("nan"))},
        {"spacing_mm": (1.0,)},
        {"batch_size": "8"},
        {"batch_size": None},
        {"batch_size": 2.5},
        {"spacing_mm": 1.0},
        {"spacing_mm": ("a", "b")},
        {"spacing_mm": "11"},
    ):
        (value,) = options.values()
        with pytest.raises(BthubError, match=f"must be .*, not {re.escape(repr(value))}$"):
            pipe(DARK, **options)
    with pytest.raises(BthubError, match="spacing must be"):
        analyze_study(pipe, "never opened", spacing_mm=("a", "b"))
    for threads in (0, -1, "2", 1.5):
        with pytest.raises(BthubError, match="number of threads must be"):
            load_pipeline("never opened", "neither", threads=threads)
    for run in ("", 5):
        with pytest.raises(BthubError, match=f"the run is {run!r}, expected a run folder or a Hub id"):
            load_pipeline(detector=run)
    pipe(DARK, batch_size=np.int64(2), spacing_mm=np.array([1, 0.5], np.float32))


def test_inputs_that_are_no_pictures_are_refused(pipe, tmp_path):
    for source in (None, 3, b"bytes", tmp_path / "missing.png", [DARK, None], {"image": DARK}, torch.rand(3, 8, 8)):
        with pytest.raises(BthubError):
            pipe(source)


def test_missing_and_swapped_runs_are_refused(tiny_runs, tmp_path):
    detector, localizer = tiny_runs
    with pytest.raises(BthubError):
        load_pipeline(tmp_path / "nothing", localizer)
    with pytest.raises(BthubError, match="swap detector and localizer"):
        load_pipeline(localizer, detector)
    with pytest.raises(BthubError, match="device"):
        load_pipeline(detector, localizer, device="abacus")
    with pytest.raises(BthubError, match="device"):
        load_pipeline(detector, localizer, device="cuda:99")
    with pytest.raises(BthubError, match="revision"):
        load_pipeline(detector, localizer, revision="v1")


def test_public_names():
    assert bthub.load_pipeline is load_pipeline and bthub.Result is Result


# -- the runs that ship


def test_shipped_runs_on_real_slices(shipped_runs, kaggle):
    pipe = load_pipeline(device="cpu")
    paths = sorted((kaggle / "TCGA_HT_8018_19970411").glob("*[0-9].tif"))  # a patient of the test split
    truth = [np.array(Image.open(p.with_name(p.stem + "_mask.tif"))) > 0 for p in paths]
    results = pipe(paths, always_localize=True)
    for result, mask in zip(results, truth, strict=True):
        assert (result.label == "tumor") == mask.any()
    found, reference = np.stack([r.mask for r in results]), np.stack(truth)
    dice = 2 * (found & reference).sum() / (found.sum() + reference.sum())
    assert dice > 0.6, dice


def test_shipped_runs_see_the_same_picture_in_another_container(shipped_runs, kaggle, tmp_path):
    pipe = load_pipeline(device="cpu")
    path = kaggle / "TCGA_HT_8018_19970411" / "TCGA_HT_8018_19970411_11.tif"
    image = Image.open(path).convert("RGB")
    reference = pipe(path, always_localize=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    image.save(tmp_path / "slice.jpg", quality=95)
    deep = np.asarray(image).astype(np.float64) / 255 * 4000
    for source, tolerance in (
        (tmp_path / "turned.png", 1e-4),
        (tmp_path / "slice.jpg", 0.1),
        (deep.astype(np.uint16), 0.1),
    ):
        result = pipe(source, always_localize=True)
        assert result.tumor_probability == pytest.approx(reference.tumor_probability, abs=tolerance)
        # A faint tumor: its outline moves with the gray levels, which 16 bits and JPEG change a little.
        both = 2 * (result.mask & reference.mask).sum() / (result.area_px + reference.area_px)
        assert both > 0.8


def test_a_stream_gives_an_error_in_its_place_and_goes_on(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    pipe, bright = make_pipeline(), blob(100, 100, (20, 20, 60, 60))
    answers = list(pipe.stream([DARK, tmp_path / "bad.png", bright], on_error="yield", batch_size=2))
    assert [type(answer) for answer in answers] == [Result, BthubError, Result]
    assert "bad.png" in str(answers[1]) and answers[2].label == "tumor"
    with pytest.raises(BthubError, match="bad.png"):
        list(pipe.stream([DARK, tmp_path / "bad.png", bright]))
    with pytest.raises(BthubError, match="'raise' or 'yield'"):
        pipe.stream([DARK], on_error="skip")
