"""What is fitted on validation beside the model."""

import math

import msgspec
import numpy as np
import pytest
from datasets import Dataset as Rows
from datasets import Image as ImageFeature
from PIL import Image
from stages import Brightness

from bthub.data.dataset import load_split
from bthub.models.classifier import Classifier, eval_transform, preprocessing
from bthub.runs.folder import write_json
from bthub.runs.schema import DetectorCalibration, LocalizerCalibration
from bthub.training.calibration import REFERRAL_ERROR, _choose_for_boxes, calibrate_classifier


@pytest.mark.parametrize("labels", [["no_tumor", "tumor"], ["no", "yes"]])
def test_training_fits_a_band_for_a_detector_alone(tiny_lgg, tmp_path, labels):
    classifier = Classifier(Brightness(), eval_transform(preprocessing(64)), labels, "cpu")
    fitted = calibrate_classifier(classifier, load_split(tiny_lgg, "validation"))
    if labels == ["no", "yes"]:
        assert (fitted.threshold, fitted.referral_band, fitted.referral_error) == (None, None, None)
    else:
        low, high = fitted.referral_band
        assert 0 <= low <= fitted.threshold <= high and fitted.referral_error == REFERRAL_ERROR
    write_json(tmp_path / "calibration.json", fitted)
    assert msgspec.json.decode((tmp_path / "calibration.json").read_bytes(), type=DetectorCalibration) == fitted


class Levels:
    """A localizer whose probability is the picture's brightness."""

    def predict(self, images):
        return [np.asarray(image.convert("L"), np.float32) / 255 for image in images]


def test_what_is_a_mask_in_other_mri_is_chosen_on_boxes():
    """Of a faint tumor beside a fainter spot: the threshold is between the two, and comes on top of the folded one."""
    pictures = []
    for shift in range(3):
        levels = np.zeros((100, 100), np.uint8)
        levels[10 + shift : 20 + shift, 60:70] = 60  # the tumor, 0.24
        levels[70:95, 5:30] = 30  # 0.12
        pictures.append(Image.fromarray(levels))
    boxes = [[60.0, 10.0 + shift, 70.0, 20.0 + shift] for shift in range(3)]
    rows = Rows.from_dict({"image": pictures, "box": boxes, "patient_id": [None] * 3, "source": ["t1"] * 3})
    found = _choose_for_boxes(Levels(), rows.cast_column("image", ImageFeature()), folded=0.5, share=0.001)["other_mri"]
    assert 0.12 < found.threshold < 0.24 and found.samples == 3
    assert (found.center_in_box, found.box_iou, found.min_area_share) == (1.0, 1.0, 0.001)
    shifted = _choose_for_boxes(Levels(), rows.cast_column("image", ImageFeature()), folded=0.8, share=0.0)["other_mri"]
    plain, saved = (math.log(one.threshold / (1 - one.threshold)) for one in (found, shifted))
    assert saved == pytest.approx(plain - math.log(4))
    points = LocalizerCalibration(0.8, 0.0, kinds={"other_mri": shifted}).points
    assert points["other_mri"].threshold == shifted.threshold
    assert _choose_for_boxes(Levels(), rows.remove_columns("box"), folded=0.5, share=0.0) == {}
