"""Configuration of the two-stage repo: which models are its stages. This file travels to the Hub as remote code."""

from transformers import PreTrainedConfig


class DetectAndLocalizeConfig(PreTrainedConfig):
    """Names the two stages.

    Args:
        detector: `id` (Hub repo, or a folder) and `revision` of the classifier.
        localizer: the same of the ResUNet.
    """

    model_type = "detect-and-localize"

    def __init__(
        self, detector: dict[str, str | None] | None = None, localizer: dict[str, str | None] | None = None, **kwargs
    ):
        self.detector = detector
        self.localizer = localizer
        super().__init__(**kwargs)
