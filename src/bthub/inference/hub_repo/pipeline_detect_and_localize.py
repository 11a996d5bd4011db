"""`pipeline(model="ORG/detect-and-localize", trust_remote_code=True)`. This file travels to the Hub as remote code."""

from collections.abc import Iterable, Iterator

from transformers import Pipeline

from bthub.inference.hub_repo.modeling_detect_and_localize import DetectorStage, LocalizerStage
from bthub.inference.pipeline import Picture
from bthub.inference.pipeline import Pipeline as TwoStages
from bthub.inference.result import Result


class DetectAndLocalizePipeline(Pipeline):
    """Analyze brain MRI slices: the same results as `bthub.load_pipeline`, in one line of transformers."""

    _load_tokenizer = _load_feature_extractor = _load_image_processor = _load_video_processor = False
    _load_processor = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        stages = {name: dict(getattr(self.model.config, name)) for name in ("detector", "localizer")}
        self.stages = TwoStages(
            DetectorStage(self.model),
            LocalizerStage(self.model),
            threshold=self.model.threshold,
            models=stages,
            referral_band=self.model.referral_band,
            points=self.model.points,
            input_check=self.model.input_check,
        )

    def __call__(
        self, inputs: Picture | Iterable[Picture], num_workers: None = None, **options
    ) -> Result | list[Result] | Iterator[Result]:
        """Analyze one picture or many.

        Args:
            inputs: a path, URL, PIL image or array; a list of them; or any other iterable.
            options: `always_localize`, `batch_size`, `spacing_mm` and `check_input`, see
                `bthub.inference.pipeline.Pipeline`.
        """
        options.setdefault("batch_size", self._batch_size or 1)
        return self.stages(inputs, **options)

    # The base class asks for these four; the stages do their work in one call.

    def _sanitize_parameters(self, **options):
        return {}, options, {}

    def preprocess(self, picture: Picture) -> dict:
        return {"picture": picture}

    def _forward(self, inputs: dict, **options) -> Result:
        return self.stages(inputs["picture"], **options)

    def postprocess(self, result: Result) -> Result:
        return result
