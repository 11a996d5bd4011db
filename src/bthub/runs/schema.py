"""What the JSON files of a run folder hold.

`RunFolder` reads each file once as one of these. A key that is missing, or of another type, is an error that names the
file and the place in it; keys that a later version adds are ignored.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bthub.data.facts import Facts
from bthub.errors import BthubError
from bthub.metrics.interval import Interval
from bthub.runs.names import renamed
from bthub.runs.operating_point import MaskPoint, OperatingPoint, mask_points, operating_points


class Split(msgspec.Struct, frozen=True):
    """The rows of one split that a training was given.

    Attributes:
        rows: how many.
        sha256: digest of what names them (patient and slice, or the file) and of their labels.
        patients: how many; None where the data set doesn't name them.
    """

    rows: int
    sha256: str
    patients: int | None = None


class TrainedOn(msgspec.Struct, frozen=True):
    """The data set of a training: its name, its `train` and `validation` splits, and what it is, if that was noted."""

    name: str
    splits: dict[str, Split] = {}
    facts: Facts | None = None


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
        initial_weights: what it started from; empty for random weights and for those that timm loads.
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
    initial_weights: list[InitialWeights] = []
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
    referral_band: tuple[float, float] | None = None
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
        referral_band: the verdict is uncertain from the first probability to below the second; None for never.
        referral_error: share of wrong verdicts outside of the band that it was chosen for.
        criterion: what the threshold is best in.
        expected_calibration_error: on validation, before and after the temperature.
        split: `validation`; samples: its images.
        kinds: of a detector of a mixture, what was fitted for each of `bthub.imaging.kinds.KINDS`.
    """

    threshold: float | None
    temperature: float = 1.0
    referral_band: tuple[float, float] | None = None
    referral_error: float | None = None
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


class Preprocessing(msgspec.Struct, frozen=True):
    """`pretrained_cfg` of a classifier's `config.json`: timm's words for what is done to a picture."""

    input_size: tuple[int, int, int]
    interpolation: str
    mean: list[float]
    std: list[float]
    crop_pct: float | None = None
    crop_mode: str | None = None


class ClassifierConfig(msgspec.Struct, frozen=True):
    """`config.json` of a classifier, as timm reads it; `auto_map` names remote code."""

    architecture: str
    label_names: list[str]
    pretrained_cfg: Preprocessing
    auto_map: dict[str, Any] | None = None


class LocalizerConfig(msgspec.Struct, frozen=True):
    """`config.json` of a ResUNet, as transformers reads it."""

    model_type: str
    backbone: str
    decoder_channels: list[int] = []
    auto_map: dict[str, Any] | None = None


class Size(msgspec.Struct, frozen=True):
    """Sides in pixels."""

    height: int
    width: int


class Preprocessor(msgspec.Struct, frozen=True):
    """`preprocessor_config.json`: what a ResUNet's image processor does; see `LocalizerCalibration`."""

    size: Size
    image_mean: list[float]
    image_std: list[float]
    resample: int | None = None
    min_area_share: float = 0.0


class DataSet(msgspec.Struct, frozen=True, omit_defaults=True):
    """The rows that something was measured on: as `Split`, with the data set's name."""

    name: str
    rows: int | None = None
    sha256: str | None = None
    patients: int | None = None


class Settings(msgspec.Struct, frozen=True):
    """What a classifier's predictions are measured with; a ResUNet's need none.

    Attributes:
        labels: the classes.
        temperature: that was folded into the weights.
        threshold: probability from which a picture is called tumor; None where predictions are argmax.
        referral_band: see `DetectorCalibration`.
    """

    labels: list[str] = []
    temperature: float = 1.0
    threshold: float | None = None
    referral_band: tuple[float, float] | None = None


class Part(msgspec.Struct, frozen=True):
    """The metrics of a part of a split: `samples` images of `groups` patients, or pictures with their copies."""

    samples: int
    groups: int
    metrics: dict[str, Interval]
    confusion_matrix: list[list[int]] = []


class SizePart(Part, kw_only=True, frozen=True):
    """The metrics of tumor slices by the tumor's area, pixels from and below; None for no end."""

    tumor_px: tuple[int, int | None]


class Measured(Settings, kw_only=True, frozen=True):
    """An entry of `metrics.json`; see `bthub.evaluation.scoring.measure`.

    Attributes:
        confusion_matrix, class_accuracy: of a classifier; rows are the reference.
        counts: of a ResUNet, slices and volumes of each kind.
        mask_threshold, min_area_share: of a ResUNet, see `LocalizerCalibration`.
        top_losses: the worst images, with their ids.
    """

    task: str
    samples: int
    groups: int
    metrics: dict[str, Interval]
    by_institution: dict[str, Part]
    by_tumor_size: dict[str, SizePart]
    dataset: DataSet
    weights: str
    command: str
    date: str
    by_seen: dict[str, Part] = {}
    confusion_matrix: list[list[int]] = []
    class_accuracy: dict[str, Interval] = {}
    referral: dict[str, Interval] | None = None
    argmax: dict[str, Interval] | None = None
    counts: dict[str, int] = {}
    mask_threshold: float | None = None
    min_area_share: float | None = None
    top_losses: list[dict[str, Any]] = []

    def __post_init__(self) -> None:
        if self.task == "image-classification":
            for field in ("labels", "confusion_matrix"):
                if not getattr(self, field):
                    raise ValueError(f"Object missing required field `{field}`")
            if lacking := [label for label in self.labels if label not in self.class_accuracy]:
                raise ValueError(f"Object `class_accuracy` missing required field `{lacking[0]}`")


class SourcePart(msgspec.Struct, frozen=True):
    """The metrics of one source and view, or of one kind of input.

    Attributes:
        samples, tumor: pictures, and those with a tumor.
        metrics: those that are defined.
        groups: patients, or pictures with their copies.
        refused: pictures that the input check refuses; None where there was no check.
        uncertain: share of pictures in the referral band; None where that wasn't measured.
    """

    samples: int
    tumor: int
    metrics: dict[str, Interval]
    groups: int | None = None
    refused: int | None = None
    uncertain: float | None = None


class MeasuredSources(msgspec.Struct, frozen=True):
    """An entry of `sources.json`: a split of a mixture, `by_source` and view, and of a detector `by_kind` of input."""

    task: str
    by_source: dict[str, SourcePart]
    dataset: DataSet
    weights: str
    command: str
    by_kind: dict[str, SourcePart] = {}


class MeanMedian(msgspec.Struct, frozen=True):
    """Over images, with intervals."""

    mean: Interval
    median: Interval


class Chance(msgspec.Struct, frozen=True):
    """What heat would score that is spread evenly over the picture, or over the head."""

    picture: float
    head: float


class GradCam(msgspec.Struct, frozen=True):
    """An entry of `gradcam.json`; see `bthub.evaluation.gradcam.measure`."""

    samples: int
    groups: int
    empty_maps: int
    pointing_game: MeanMedian
    chance: Chance
    layer: str
    dataset: DataSet
    weights: str
    command: str


class OnnxFile(msgspec.Struct, frozen=True):
    """A file that `bthub export` wrote, held against the network: of `unit` the largest and the mean difference."""

    sha256: str
    bytes: int
    multiply_adds: int
    unit: str
    largest_difference: float
    mean_difference: float


class Ranges(msgspec.Struct, frozen=True):
    """The pictures that the value ranges for the 8-bit conversion were measured on."""

    dataset: str
    split: str
    rows: int


class Export(msgspec.Struct, frozen=True):
    """`onnx/export.json`; without files where the run has none."""

    weights: str = ""
    files: dict[str, OnnxFile] = {}
    calibration: Ranges | None = None
    command: str = ""


class MaskAgreement(msgspec.Struct, frozen=True):
    """Mean Dice of two backends' masks over `slices`, of which `with_mask` have one in either."""

    slices: int
    with_mask: int
    dice: float


class MeasuredBackend(msgspec.Struct, frozen=True):
    """An entry of `onnx/metrics.json`; see `bthub.evaluation.evaluate`."""

    weights: str
    file_sha256: str
    samples: int
    metrics: dict[str, Interval]
    reference: dict[str, float | None]
    loss: float
    command: str
    largest_difference: float | None = None
    agreement: MaskAgreement | None = None


class Refused(msgspec.Struct, frozen=True):
    """Pictures that the input check refuses, of `samples`."""

    samples: int
    refused: int


class RefusedSlices(Refused, frozen=True):
    """The same of the slices of a split, in color or one sequence in gray."""

    dataset: str
    split: str
    colors: str


class Looked(msgspec.Struct, frozen=True):
    """A split that an input check was fitted on."""

    dataset: str
    split: str


class InputCheck(msgspec.Struct, frozen=True):
    """`input_check.json`; see `bthub.training.ood_check`, which writes what was measured last."""

    architecture: str
    image_size: int
    threshold: float
    references: int = 0
    kinds: list[str] = []
    criterion: str = ""
    data: list[Looked] = []
    slices: list[RefusedSlices] = []
    outside: dict[str, dict[str, Refused]] = {}
    outside_accepted: list[str] = []


Content = TypeVar("Content")


def read(path: Path, run: str, kind: type[Content]) -> Content:
    """A file of a run folder as one of the classes above, or as a mapping to one.

    Args:
        path: the file.
        run: name of the run, for the message.
        kind: the class.

    Raises:
        BthubError: the file isn't JSON, or isn't laid out like that.
    """
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise BthubError(f"{path} isn't valid JSON ({error}): restore it or train again") from error
    try:
        return msgspec.convert(renamed(content), kind)
    except msgspec.ValidationError as error:
        raise BthubError(
            f"{run}: {path.name} isn't in the format of this version ({_in_full(str(error), content)}): "
            "write it again with this version, or leave the run out"
        ) from error


_KINDS = {"null": type(None), "bool": bool, "int": int, "float": float, "str": str, "array": list, "object": dict}


def _in_full(error: str, content: Any) -> str:
    """An error of msgspec with the names of the keys, which it leaves out where they aren't a class's own."""
    said, _, place = error.partition(" - at `$")
    missing, got = re.search(r"missing required field `(.+)`", said), re.search(r"got `(\w+)`", said)

    def wrong(value: Any) -> bool:
        if missing:
            return isinstance(value, dict) and missing[1] not in value
        return got is None or type(value) is _KINDS.get(got[1])

    found = _find(content, place.rstrip("`"), wrong)
    return f"{said} at `{found}`" if found else said


def _find(content: Any, place: str, wrong: Callable[[Any], bool]) -> str | None:
    """The first place of this form, `.key[...][0]`, whose value is wrong: keys in a row; None where there is none."""
    step = re.match(r"\.(\w+)|\[(\d+|\.\.\.)\]", place)
    if step is None:
        return "" if wrong(content) else None
    keys = list(content) if step[2] == "..." and isinstance(content, dict) else [step[1] or step[2]]
    if step[2] == "..." and isinstance(content, list):
        keys = [str(i) for i in range(len(content))]
    for key in keys:
        inner = content[int(key)] if isinstance(content, list) else content.get(key)
        if (rest := _find(inner, place[step.end() :], wrong)) is not None:
            return f"{key}.{rest}" if rest else key
    return None
