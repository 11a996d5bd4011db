"""What is fitted on validation beside the model."""

import json

import pytest
from stages import Brightness

from bthub.data.dataset import load_split
from bthub.models.classifier import Classifier, eval_transform, preprocessing
from bthub.training.calibration import REVIEW_ERROR, calibrate_classifier


@pytest.mark.parametrize("labels", [["no_tumor", "tumor"], ["no", "yes"]])
def test_training_fits_a_band_for_a_detector_alone(tiny_lgg, labels):
    classifier = Classifier(Brightness(), eval_transform(preprocessing(64)), labels, "cpu")
    fitted = calibrate_classifier(classifier, load_split(tiny_lgg, "validation"))
    if labels == ["no", "yes"]:
        assert (fitted["threshold"], fitted["review_band"], fitted["review_error"]) == (None, None, None)
    else:
        low, high = fitted["review_band"]
        assert 0 <= low <= fitted["threshold"] <= high and fitted["review_error"] == REVIEW_ERROR
    assert json.loads(json.dumps(fitted, allow_nan=False)) == fitted
