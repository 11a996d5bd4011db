"""The two stages, loaded from the repos that the configuration names. This file travels to the Hub as remote code."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSemanticSegmentation,
    PreTrainedModel,
)
from transformers.utils import cached_file

from bthub.inference.hub_repo.configuration_detect_and_localize import DetectAndLocalizeConfig
from bthub.models.input_check import load_input_check
from bthub.runs.operating_point import MaskPoint, mask_points, operating_points

# What a caller may say about where files come from, handed on to the stages.
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token")


class DetectAndLocalizeModel(PreTrainedModel):
    """A classifier that tells tumor from no tumor, and a ResUNet that outlines it. It has no weights of its own.

    Attributes:
        detector, localizer: the models, each with its image processor in `detector_processor`, `localizer_processor`.
        threshold: probability of tumor from which the detector says tumor, from its `calibration.json`.
        referral_band: probabilities at which a person should look, from the same file, or None.
        points: both by kind of input, from the same file.
        mask_points: what is a mask, by kind of input, from the localizer's `calibration.json`.
        input_check: refuses what isn't a slice of a brain MRI; None where the detector's repo has none.
    """

    config_class = DetectAndLocalizeConfig
    main_input_name = "pixel_values"

    def __init__(self, config: DetectAndLocalizeConfig, **hub):
        super().__init__(config)
        # Whoever let this repo's code run trusts the revisions of the stages that it names.
        detector = {**hub, "revision": config.detector["revision"], "trust_remote_code": True}
        localizer = {**hub, "revision": config.localizer["revision"], "trust_remote_code": True}
        names = config.detector["id"], config.localizer["id"]
        self.detector = AutoModelForImageClassification.from_pretrained(names[0], **detector)
        self.localizer = AutoModelForSemanticSegmentation.from_pretrained(names[1], **localizer)
        self.detector_processor = AutoImageProcessor.from_pretrained(names[0], **detector)
        self.localizer_processor = AutoImageProcessor.from_pretrained(names[1], **localizer)
        fitted = []
        for stage in (config.detector, config.localizer):
            file = cached_file(stage["id"], "calibration.json", revision=stage["revision"], **hub)
            fitted.append(json.loads(Path(file).read_text(encoding="utf-8")))
        self.points, self.mask_points = operating_points(fitted[0]), mask_points(fitted[1])
        self.threshold, self.referral_band = self.points[None].threshold, self.points[None].referral_band
        found = [
            cached_file(
                names[0], name, revision=config.detector["revision"], _raise_exceptions_for_missing_entries=False, **hub
            )
            for name in ("input_check.json", "input_check.safetensors")
        ]
        self.input_check = load_input_check(*(Path(file or "nowhere") for file in found)) if any(found) else None

    @classmethod
    def from_pretrained(cls, name, *args, config: DetectAndLocalizeConfig | None = None, **kwargs):
        """Load the stages; `name` is the two-stage repo, of which only the configuration is read."""
        hub = {key: kwargs[key] for key in _HUB_OPTIONS if kwargs.get(key) is not None}
        if config is None:
            revision = kwargs.get("revision")
            config = DetectAndLocalizeConfig.from_pretrained(
                name, **hub, **({"revision": revision} if revision else {})
            )
        return cls(config, **hub).eval()


class DetectorStage:
    """The first stage, as `bthub.inference.pipeline.Pipeline` asks for it."""

    def __init__(self, model: DetectAndLocalizeModel):
        self.model = model
        self.tumor_index = model.detector.config.label2id["tumor"]

    @torch.inference_mode()
    def predict(self, images: Sequence[Image.Image]) -> np.ndarray:
        pixels = self.model.detector_processor(list(images), return_tensors="pt")["pixel_values"]  # (N, 3, S, S)
        return self.model.detector(pixels.to(self.model.device)).logits.float().softmax(dim=1).cpu().numpy()


class LocalizerStage:
    """The second stage, as `bthub.inference.pipeline.Pipeline` asks for it."""

    def __init__(self, model: DetectAndLocalizeModel):
        self.model = model

    @torch.inference_mode()
    def masks(self, images: Sequence[Image.Image], kinds: Sequence[str | None] | None = None) -> list[np.ndarray]:
        processor = self.model.localizer_processor
        pixels = processor(list(images), return_tensors="pt")["pixel_values"]  # (N, 3, S, S)
        outputs = self.model.localizer(pixels.to(self.model.device))
        sizes = [(image.height, image.width) for image in images]
        usual = MaskPoint(min_area_share=processor.min_area_share)
        points = [self.model.mask_points.get(kind or "", usual) for kind in kinds or [None] * len(sizes)]
        return [
            point.mask(probability.cpu().numpy())
            for probability, point in zip(processor.post_process_probability(outputs, sizes), points, strict=True)
        ]
