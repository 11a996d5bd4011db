"""What `training.json`, `calibration.json` and `cost.json` of a run folder hold.

`RunFolder` reads each file once as one of these. A key that is missing, or of another type, is an error that names the
file and the place in it; keys that a later version adds are ignored.
"""

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bthub.errors import BthubError
from bthub.runs.operating_point import MaskPoint, OperatingPoint, mask_points, operating_points


class Split(msgspec.Struct, frozen=True):
    """The rows of one split that a training was given.

    Attributes:
        rows: how many.
        sha256: digest of their images, masks and labels.
        patients: how many; None where the data set doesn't name them.
    """

    rows: int
    sha256: str
    patients: int | None = None


class TrainedOn(msgspec.Struct, frozen=True):
    """The data set of a training: its name, and its `train` and `validation` splits."""

    name: str
    splits: dict[str, Split] = {}


class Best(msgspec.Struct, frozen=True):
    """The epoch whose weights were kept, counted from zero, its validation metric, and how many epochs there were."""

    epoch: int
    validation_metric: float
    epochs_trained: int


class Recipe(msgspec.Struct, frozen=True):
    """The recipe that a run follows, and the recipe's values of the keys that the run changed."""

    file: str
    changed: dict[str, Any] = {}


class InitialWeights(msgspec.Struct, frozen=True):
    """Weights that a training started from.

    Attributes:
        source: name of the run or the file.
        weights: `sha256:` and the first 12 digits of their digest; None in runs of old versions.
        lgg: whether they derive from LGG MRI Segmentation, whose license they then carry on.
    """

    source: str
    weights: str | None
    lgg: bool


class Training(msgspec.Struct, frozen=True):
    """`training.json`: what a run was given, and what it did.

    Attributes:
        protocol: how its data were split.
        config: every value of its configuration, by key.
        dataset: what it was trained and validated on.
        best: the epoch that was kept.
        recipe: what it follows; None where it follows none.
        first_weights: what it started from; empty for random weights and for those that timm loads.
        learning_rate: the highest; None where the configuration's was taken as it is.
        trainable_parameters: how many numbers were learned; None where all were.
        processes: that trained together.
        environment: versions of the libraries, `device` and `threads`.
    """

    protocol: str
    config: dict[str, Any]
    dataset: TrainedOn
    best: Best
    recipe: Recipe | None = None
    first_weights: list[InitialWeights] = []
    learning_rate: float | None = None
    trainable_parameters: int | None = None
    processes: int = 1
    environment: dict[str, Any] = {}

    @property
    def highest_learning_rate(self) -> float:
        """The learning-rate finder's, where it chose one; else the configuration's."""
        return float(self.config["learning_rate"] if self.learning_rate is None else self.learning_rate)


class KindCalibration(msgspec.Struct, frozen=True):
    """What was fitted for one kind of input. `temperature` comes on top of the one in the weights."""

    temperature: float
    threshold: float
    review_band: tuple[float, float] | None = None
    samples: int | None = None


class BeforeAfter(msgspec.Struct, frozen=True):
    """A figure before and after calibration."""

    before: float
    after: float


class DetectorCalibration(msgspec.Struct, frozen=True):
    """`calibration.json` of a classifier: what was fitted on validation.

    Attributes:
        temperature: of the probabilities, folded into the last layer.
        threshold: probability from which a picture is called tumor, 0-1; None where classes are others.
        review_band: the verdict is uncertain from the first probability to below the second; None for never.
        review_error: share of wrong verdicts outside of the band that it was chosen for.
        criterion: what the threshold is best in.
        expected_calibration_error: on validation, before and after the temperature.
        split: `validation`; samples: its images.
        kinds: of a detector of a mixture, what was fitted for each of `bthub.imaging.kinds.KINDS`.
    """

    threshold: float | None
    temperature: float = 1.0
    review_band: tuple[float, float] | None = None
    review_error: float | None = None
    criterion: str | None = None
    expected_calibration_error: BeforeAfter | None = None
    split: str = "validation"
    samples: int | None = None
    kinds: dict[str, KindCalibration] = {}

    @property
    def points(self) -> dict[str | None, OperatingPoint]:
        """What the probability means for each kind of input; under None where the kind isn't known."""
        return operating_points(msgspec.to_builtins(self))


class KindMasks(msgspec.Struct, frozen=True):
    """What was chosen for one kind of input that only has boxes.

    Attributes:
        threshold: probability of the saved weights above which a pixel is tumor.
        min_area_share: share of its image below which a mask counts as nothing found.
        center_in_box: share of boxes that the center of the mask lies in, with these two.
        box_iou: mean IoU of the mask's bounding box and the box.
        samples: boxes.
    """

    threshold: float
    min_area_share: float
    center_in_box: float | None = None
    box_iou: float | None = None
    samples: int | None = None


class LocalizerCalibration(msgspec.Struct, frozen=True):
    """`calibration.json` of a localizer: what was chosen on validation.

    Attributes:
        mask_threshold: probability from which a pixel is tumor, folded into the head's bias so that one half decides.
        min_area_share: share of its image below which a mask counts as nothing found.
        criterion: what the two are best in; `validation_dice` what they reach.
        sweep: what each candidate reaches.
        split: `validation`; samples: its images.
        kinds: of a localizer of a mixture, what was chosen for some of `bthub.imaging.kinds.KINDS`.
    """

    mask_threshold: float
    min_area_share: float
    criterion: str | None = None
    validation_dice: float | None = None
    sweep: list[dict[str, float]] = []
    split: str = "validation"
    samples: int | None = None
    kinds: dict[str, KindMasks] = {}

    @property
    def points(self) -> dict[str, MaskPoint]:
        """What is a mask for the kinds of input that have points of their own."""
        return mask_points(msgspec.to_builtins(self))


class Cost(msgspec.Struct, frozen=True):
    """`cost.json`: what one image costs, and how large the saved weights are.

    Attributes:
        parameters: learned numbers.
        image_size: side of the input, pixels.
        multiply_adds: of convolutions and matrix products.
        latency_ms, latency_p95_ms: median and 95th percentile, milliseconds.
        threads: of the processor that were used, of `machine_cpus`.
        weights: revision of the weights that were measured.
        dtypes: types that the weights are stored in.
        file_bytes: size of their file.
    """

    parameters: int
    image_size: int
    multiply_adds: int
    latency_ms: float
    weights: str
    dtypes: list[str]
    file_bytes: int
    latency_p95_ms: float | None = None
    threads: int | None = None
    machine_cpus: int | None = None


Record = TypeVar("Record", bound=msgspec.Struct)


def read(path: Path, run: str, kind: type[Record]) -> Record:
    """A file of a run folder as one of the classes above.

    Args:
        path: the file.
        run: name of the run, for the message.
        kind: the class.

    Raises:
        BthubError: the file isn't JSON, or isn't laid out like that.
    """
    content = path.read_bytes()
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError as error:
        raise BthubError(
            f"{run}: {path.name} isn't laid out as this version writes it ({error}): "
            "write it again with this version, or leave the run out"
        ) from error
    except msgspec.DecodeError as error:
        raise BthubError(f"{path} isn't valid JSON ({error}): restore it or train again") from error
