"""The model card: a pure function of the run folder's files. No number is typed in."""

import functools
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from bthub.data.facts import LGG, SOURCES, Facts, of_pictures
from bthub.data.splits import FOLD_PROTOCOLS
from bthub.errors import BthubError
from bthub.evaluation import plots, published, two_stage
from bthub.metrics.bootstrap import COVERAGE, FEWEST_GROUPS
from bthub.metrics.info import METRIC_TABLE, readable
from bthub.metrics.interval import Interval
from bthub.project import COMPARISON, DATASET, DEFAULTS, TWO_STAGE, as_named, hub_id, place_of
from bthub.reports import by_source
from bthub.runs.folder import (
    CALIBRATION,
    CARD,
    CLASSIFICATION,
    COST,
    FIGURES,
    GRADCAM,
    HISTORY,
    INPUT_CHECK,
    LOSING,
    LR_FINDER,
    METRICS,
    ONNX_MODEL,
    ONNX_QUANTIZED,
    SEGMENTATION,
    SPLIT,
    TRAINING,
    RunFolder,
    replacing,
    results_in,
)
from bthub.runs.records import data_facts, initial_weights
from bthub.runs.schema import Cost, DetectorCalibration, GradCam, LocalizerCalibration, Measured, Part
from bthub.training.config import CONFIGS

TAGS = ("medical", "mri", "brain-tumor", "bthub")
LGG_TAG = "lower-grade-glioma"
# Metrics of a run's headline; the card's metadata has them too.
HEADLINE = {
    CLASSIFICATION: ("roc_auc", "balanced_accuracy", "accuracy", "f1", "recall", "specificity"),
    SEGMENTATION: (
        "dice_volume_mean",
        "dice_pooled",
        "iou_volume_mean",
        "pixel_accuracy",
        "tumor_free_slices_with_mask",
    ),
}
# The same of detect-then-localize.
TWO_STAGE_HEADLINE = ("dice_volume_mean", "dice_tumor_slices", "iou_volume_mean", "tumor_free_slices_with_mask")
# What is told of tumor slices by the size of the tumor.
SIZE_METRICS = {CLASSIFICATION: ("recall",), SEGMENTATION: ("dice_tumor_slices", "tumor_slices_missed", "hd95_px")}
# Metrics of which a classifier without a threshold has the mean over its classes, one against the rest.
MACRO = ("precision", "recall", "specificity", "f1", "roc_auc", "average_precision")
# Splits on which nothing was trained, chosen or calibrated: only their figures become metadata, and only where none of
# their pictures has a copy in another split.
UNSEEN = ("test", "benchmark")


# What is told of an image-folder set beyond its facts, and of its limits, by its classes.
IMAGE_SETS = {
    ("glioma_tumor", "meningioma_tumor", "no_tumor", "pituitary_tumor"): (
        "brain MRI images of three kinds of tumor and of none, as published on Kaggle with a training and a test "
        "folder; validation is drawn from the former",
        "Only the pictures of its test folder without a near-duplicate elsewhere test a model. The proportions of the "
        "classes differ between those and the near-duplicates.",
    ),
    ("no", "yes"): (
        "253 brain MRI images with a tumor (`yes`) or without (`no`), as published on Kaggle, without a split",
        "The set is tiny: in a split of 50 images, each counts 2%. The epochs and rates of this project's own recipes "
        "were first tried on another split of the same pictures.",
    ),
}


class Result(NamedTuple):
    """An entry of `metrics.json`, and the protocol and split that are its key."""

    protocol: str
    split: str
    entry: Measured

    @property
    def key(self) -> str:
        return f"{self.protocol}/{self.split}"


def write(run: str | Path, copies: Path | None = None) -> Path:
    """Draw the figures of a local run folder and write its card.

    Args:
        run: the folder.
        copies: a folder for a copy of the card, `<name>.md`, that shows the same figures.

    Returns:
        The card's path.
    """
    folder = RunFolder.local(run, weights=False)
    plots.draw(folder)
    with replacing(folder.path / CARD) as file:
        file.write_text(render(folder.path), encoding="utf-8")
    if copies is not None:
        with results_in(copies), replacing(copies / f"{folder.id}.md") as file:
            file.write_text(copy_of(folder.path, copies), encoding="utf-8")
    return folder.path / CARD


def copy_of(run: Path, folder: Path) -> str:
    """The card of a run as it stands in another folder.

    It shows the figures of the default pair, which a clone has; other runs' figures are drawn where they are needed.
    """
    if run.resolve().name not in DEFAULTS.values():
        return render(run, figures=False)
    place = Path(os.path.relpath(run, folder)).as_posix()
    return render(run).replace(f"]({FIGURES}/", f"]({place}/{FIGURES}/")


def render(run: str | Path, org: str | None = None, *, figures: bool = True) -> str:
    """The model card of a run: README.md with its metadata.

    Args:
        run: a local run folder.
        org: the organization whose repos the card names; by default the project's.
        figures: show those that the folder has.

    Raises:
        BthubError: a file or a value is missing, or the metrics or the cost were measured with other weights.
    """
    folder = RunFolder.local(run, weights=False)
    name = folder.id
    config = folder.detector_config if folder.task == CLASSIFICATION else folder.localizer_config
    training = folder.training
    start, base = _start(folder)
    # The runs of the comparison ship without weights; who publishes one has trained it.
    weights = org is not None or folder.path.resolve().parent.name != COMPARISON
    facts = data_facts(folder)
    lgg = facts.patients
    # The weights carry on the license of LGG, whatever data they are trained on.
    derived = any(origin.lgg for origin in training.initial_weights)
    # An image-folder set is split in one way, whatever protocol the recipe names.
    protocol = training.protocol if lgg else "default"
    results = _results(folder)
    body = (
        _environment()
        .get_template("model_card.md.j2")
        .render(
            name=name,
            repo_id=hub_id(name, org),
            place=as_named(folder.path),
            weights=weights,
            source=hub_id(name, org) if weights else as_named(folder.path),
            first=_first(_configuration(folder)),
            dataset_id=hub_id(DATASET, org),
            article="An" if folder.config.get("architecture", "")[:1] in ("a", "e", "i", "o", "u") else "A",
            task=folder.task,
            revision=folder.revision,
            config=config,
            remote_code=config.auto_map is not None,
            lgg=lgg,
            default=name in DEFAULTS.values(),
            unit="slice" if lgg else "image",
            images=None if lgg else _image_set(folder.detector_config.label_names, facts, training.dataset.name),
            start=start,
            base=base,
            base_is_lgg=derived,
            recipe=_recipe(folder),
            preprocessor=folder.preprocessor if folder.task == SEGMENTATION else None,
            training=training,
            protocol=protocol,
            folds=FOLD_PROTOCOLS,
            configuration=list(_flat(_configuration(folder))),
            calibration=_calibration(folder, lgg),
            review=_review(folder),
            input_check=_input_check(folder),
            cost=_cost(folder),
            onnx=_onnx(folder),
            splits=_splits(folder, protocol, results),
            sources=[
                (split, by_source.table(entry.task, entry.by_source), by_source.command(folder, split))
                for split, entry in folder.sources.items()
            ],
            mixed=_mixed(folder, facts) if facts.sources else [],
            best_epoch=_best_epoch(folder, training.best.epoch),
            results=[_result(result, folder, figures) for result in results],
            history=_figure(folder, "history") if figures else None,
            lr_finder=_figure(folder, "lr_finder") if figures else None,
            found_rate=(folder.path / LR_FINDER).is_file(),
            headline={metric: readable(metric) for metric in HEADLINE[folder.task]},
            coverage=f"{100 * COVERAGE:.0f}%",
            fewest_groups=FEWEST_GROUPS,
        )
    )
    metadata = _metadata(folder, name, results, base, facts, derived, org)
    return f"---\n{metadata.to_yaml()}\n---\n\n{body}"


def render_two_stage(detector: RunFolder, localizer: RunFolder, commits: dict[str, str], org: str | None = None) -> str:
    """The card of the repo that names a detector and a localizer.

    Its metadata has what the detector reaches, and what both stages reach together: the numbers of `bthub two-stage`.

    Args:
        detector, localizer: the runs, evaluated on test.
        commits: of `detector` and `localizer` on the Hub.
        org: the organization that all three belong to; by default the project's.

    Raises:
        BthubError: one of them has no results on test, or they were evaluated on different images.
    """
    protocol = detector.training.protocol
    stages, entries = [], {}
    for name, run in (("detector", detector), ("localizer", localizer)):
        result = next((r for r in _results(run) if r.key == f"{protocol}/test"), None)
        if result is None:
            raise BthubError(f"{run.id} has no results on test: run bthub evaluate {run.path} --data ... --split test")
        entries[name] = result.entry
        stages.append(
            {
                "name": name,
                "repo_id": hub_id(run.id, org),
                "commit": commits[name],
                "metrics": [(readable(metric), result.entry.metrics[metric]) for metric in HEADLINE[run.task]],
            }
        )
    together = two_stage.two_stage(detector, localizer)
    body = (
        _environment()
        .get_template("two_stage_card.md.j2")
        .render(
            name=TWO_STAGE,
            repo_id=hub_id(TWO_STAGE, org),
            protocol=protocol,
            stages=stages,
            together=[(readable(metric), together["metrics"][metric]) for metric in TWO_STAGE_HEADLINE],
            samples=together["samples"],
            groups=together["groups"],
            threshold=detector.detector_calibration.threshold,
            kinds=detector.detector_calibration.kinds,
            review=_review(detector),
            input_check=_input_check(detector),
            coverage=f"{100 * COVERAGE:.0f}%",
        )
    )
    metadata = ModelCardData(
        license=LGG.license,
        library_name="transformers",
        pipeline_tag=SEGMENTATION,
        tags=["detect-and-localize", CLASSIFICATION, *TAGS, LGG_TAG],
        datasets=[hub_id(DATASET, org)],
        base_model=[stage["repo_id"] for stage in stages],
        metrics=_hub_metrics((*HEADLINE[CLASSIFICATION], *TWO_STAGE_HEADLINE)),
        model_name=TWO_STAGE,
        eval_results=[
            *_evaluations(CLASSIFICATION, _headline(entries["detector"]), f"{protocol}/test", hub_id(DATASET, org)),
            *_evaluations(
                SEGMENTATION,
                {readable(metric): (metric, together["metrics"][metric]) for metric in TWO_STAGE_HEADLINE},
                f"{protocol}/test",
                hub_id(DATASET, org),
            ),
        ],
    )
    return f"---\n{metadata.to_yaml()}\n---\n\n{body}"


def _hub_metrics(metrics: tuple[str, ...]) -> list[str]:
    """The Hub's names of metrics, each once."""
    return list(dict.fromkeys(METRIC_TABLE[metric].hub_id or metric for metric in metrics))


def _headline(entry: Measured) -> dict[str, tuple[str, Interval]]:
    """The metrics of a run's headline, by their names in the card."""
    return {_name(metric, entry): (metric, entry.metrics[metric]) for metric in HEADLINE[entry.task]}


def _evaluations(
    task: str,
    metrics: dict[str, tuple[str, Interval]],
    key: str,
    dataset_type: str,
    dataset_name: str = LGG.title,
) -> list[EvalResult]:
    """The metrics of an entry, for `model-index`; those that aren't defined there are left out."""
    protocol, _, split = key.partition("/")
    return [
        EvalResult(
            task_type=task,
            dataset_type=dataset_type,
            dataset_name=dataset_name,
            dataset_config=protocol,
            dataset_split=split,
            metric_type=METRIC_TABLE[metric].hub_id or metric,
            metric_name=name,
            metric_value=round(found.value, 4),
        )
        for name, (metric, found) in metrics.items()
        if found.value is not None
    ]


def _review(folder: RunFolder) -> dict | None:
    """The referral band, if the run has one."""
    if folder.task != CLASSIFICATION or (band := folder.detector_calibration.referral_band) is None:
        return None
    return {"low": band[0], "high": band[1], "error": folder.detector_calibration.referral_error}


def _calibration(folder: RunFolder, lgg: bool) -> DetectorCalibration | LocalizerCalibration:
    """What was fitted, with all that the card tells of it."""
    found = folder.detector_calibration if folder.task == CLASSIFICATION else folder.localizer_calibration
    told = {"samples", "expected_calibration_error" if isinstance(found, DetectorCalibration) else "criterion"}
    told |= {"threshold"} if lgg and isinstance(found, DetectorCalibration) else set()
    if lacking := sorted(key for key in told if getattr(found, key) is None):
        raise BthubError(f"{folder.path / CALIBRATION}: there is no {lacking[0]}, and the card needs it")
    return found


def _configuration(folder: RunFolder) -> dict[str, Any]:
    config = folder.training.config
    if config.get("pretrained") is None:
        raise BthubError(f"{folder.path / TRAINING}: there is no config.pretrained, and the card needs it")
    return config


def _flat(content: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and plain values of everything in it."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "none" if value is None else value


def _input_check(folder: RunFolder) -> dict | None:
    """What was measured of the run's input check, if it has one."""
    if not (folder.path / INPUT_CHECK).is_file():
        return None
    measured = folder.input_check
    if lacking := [key for key in ("criterion", "data", "slices", "outside") if not getattr(measured, key)]:
        raise BthubError(f"{folder.path / INPUT_CHECK}: there is no {lacking[0]}, and the card needs it")
    kinds: dict[str, dict[str, list[int]]] = {}  # kind -> half -> refused, samples
    for half, found in measured.outside.items():
        for kind, count in found.items():
            kinds.setdefault(kind, {})[half] = [count.refused, count.samples]
    return {"found": measured, "kinds": kinds}


def _start(folder: RunFolder) -> tuple[str, str | None]:
    """The initial weights in words, and the name of the run that they are from, if they are a run's."""
    training = folder.training
    kind, source = initial_weights(_configuration(folder))
    if source is None:
        return "ImageNet, from timm" if kind == "ImageNet" else kind, None
    if kind == "ImageNet":
        return f"ImageNet, `{source}`, made by `bthub imagenet-weights`", None
    words = f"the encoder of `{source}`" if kind == "encoder" else f"`{source}`"
    digests = [first.weights for first in training.initial_weights if first.weights]
    words += f", weights `{digests[-1]}`" if digests else ""
    return words, None if source.endswith(".safetensors") else source


def _first(config: dict[str, Any]) -> str | None:
    """What a clone has to make before it can train a run; None for nothing."""
    source = config.get("encoder_from") or config.get("weights_from")
    if source is None:
        return None
    if source.endswith(".safetensors"):
        return f"make `{source}` with `bthub imagenet-weights`"
    name = Path(source).name
    return f"train `{name}` in the same way" if place_of(name).parent.name == COMPARISON else None


def _mixed(folder: RunFolder, facts: Facts) -> list[tuple[str, str]]:
    """The sets of a mixture that a run was trained on, and what they are."""
    names = _configuration(folder).get("source_shares") or facts.sources
    return [
        (name, " and ".join(f"[{title}]({link})" for title, link in SOURCES.get(name, ())) or name) for name in names
    ]


def _recipe(folder: RunFolder) -> dict:
    """The configuration file that a run follows, the paper that it is from, and what the run changes."""

    def words(value: Any) -> Any:
        found = dict(_flat({"": value}))
        return ", ".join(f"{key[1:]}: {part}" for key, part in found.items()) if isinstance(value, dict) else found[""]

    recipe = folder.training.recipe
    if recipe is None:
        raise BthubError(f"{folder.path / TRAINING}: there is no recipe, and the card needs it")
    file, config = recipe.file, _configuration(folder)
    paper = published.recipe_of(f"{PurePosixPath(file).stem}-") if file.startswith("papers/") else None
    return {
        # One of bthub's own is named by where it is; a user's by its name.
        "place": f"src/bthub/training/configs/{file}" if (CONFIGS / file).is_file() else file,
        "paper": paper and published.reported()[paper]["title"],
        "changed": [(key, words(there), words(config[key])) for key, there in recipe.changed.items()],
        "imagenet": recipe.changed.get("pretrained", False),
    }


def _image_set(labels: list[str], facts: Facts, name: str) -> dict[str, str | None]:
    """What is known of the image-folder set that has these classes."""
    what, limit = IMAGE_SETS.get(
        tuple(sorted(labels)), (f"a set of images in a folder a class: {', '.join(labels)}", "")
    )
    return {"title": facts.title if facts.link else name, "url": facts.link, "what": what, "limit": limit}


def _metadata(
    folder: RunFolder,
    name: str,
    results: list[Result],
    base: str | None,
    facts: Facts,
    derived: bool,
    org: str | None,
) -> ModelCardData:
    """The card's YAML, with the figures on unseen splits as `model-index`."""
    # What isn't on the Hub is called by the name of the loader that reads it.
    loader = hub_id(DATASET, org) if facts.patients else "imagefolder"
    evaluations = [
        found
        for result in results
        if result.split in UNSEEN and "seen" not in result.entry.by_seen
        for title in [
            (LGG if facts.patients else of_pictures(result.entry.dataset.name, folder.config["label_names"])).title
        ]
        for found in _evaluations(folder.task, _headline(result.entry), result.key, loader, title)
    ]
    network = folder.config["architecture" if folder.task == CLASSIFICATION else "model_type"]
    return ModelCardData(
        # Of the image-folder sets the terms aren't known; those of the initial weights are passed on.
        license=facts.license or (LGG.license if derived else "unknown"),
        library_name="timm" if folder.task == CLASSIFICATION else "transformers",
        pipeline_tag=folder.task,
        tags=[folder.task, network, *TAGS, *([LGG_TAG] if facts.patients else [])],
        datasets=[hub_id(DATASET, org)] if facts.patients else None,
        base_model=base and hub_id(base, org),
        metrics=_hub_metrics(HEADLINE[folder.task]),
        model_name=name,
        # an empty list would become a model-index without results, which the Hub refuses
        eval_results=evaluations or None,
    )


def _results(folder: RunFolder) -> list[Result]:
    """The entries of `metrics.json`, unseen splits first."""
    results = []
    for key, entry in folder.metrics.items():
        folder.check_weights(f"{METRICS} of {key}", entry.weights, entry.command)
        if lacking := [metric for metric in HEADLINE[folder.task] if metric not in entry.metrics]:
            raise BthubError(f"{folder.path / METRICS}: there is no {key}.metrics.{lacking[0]}, and the card needs it")
        protocol, _, split = key.partition("/")
        results.append(Result(protocol, split, entry))
    rank = {split: i for i, split in enumerate((*UNSEEN, "validation", "train"))}
    return sorted(results, key=lambda result: (result.protocol, rank.get(result.split, len(rank))))


def _name(metric: str, entry: Measured) -> str:
    """A metric's name in a card."""
    macro = metric in MACRO and entry.task == CLASSIFICATION and entry.threshold is None
    return f"{readable(metric)}, macro average" if macro else readable(metric)


def _onnx(folder: RunFolder) -> dict | None:
    """The ONNX files and what they reach; None where the run has none of its weights."""
    files = folder.onnx.files
    if not files or not folder.same_weights(folder.onnx.weights):
        return None
    ships = folder.quantized_ships()
    measured = [
        {
            "file": ONNX_QUANTIZED if backend.endswith("int8") else ONNX_MODEL,
            "backend": backend,
            "key": key,
            "figures": [
                (readable(name), entry.metrics[name].value, entry.reference[name])
                for name in LOSING
                if entry.reference.get(name) is not None and entry.metrics[name].value is not None
            ],
            "difference": entry.largest_difference,
            "agreement": entry.agreement,
        }
        for backend, entries in folder.onnx_metrics.items()
        for key, entry in entries.items()
    ]
    # A clone holds no network in single precision: `bthub export` writes it.
    there = {file: facts for file, facts in files.items() if (folder.path / file).is_file()}
    kept = {file: facts for file, facts in there.items() if file != ONNX_QUANTIZED or ships}
    return {"files": kept, "ships": ships, "measured": measured, "calibration": folder.onnx.calibration}


def _cost(folder: RunFolder) -> Cost:
    """What the run costs, measured with the weights that are here."""
    folder.check_weights(COST, folder.cost.weights, f"bthub cost {folder.path}")
    return folder.cost


def _figure(folder: RunFolder, name: str) -> str | None:
    """Path in the repo of a figure, if it is there: a clone has those of the default pair alone."""
    path = f"{FIGURES}/{name}.webp"
    return path if (folder.path / path).is_file() else None


def _result(result: Result, folder: RunFolder, figures: bool) -> dict[str, Any]:
    """An entry as the template shows it: itself, and what is beside it."""
    task, name, entry = folder.task, plots.name_of(result.key), result.entry
    auc = entry.metrics["roc_auc"] if task == CLASSIFICATION else None

    def parts(found: dict[str, Any], metrics: tuple[str, ...]) -> list[tuple[str, Part, list[Interval]]]:
        return [(name, part, [part.metrics[metric] for metric in metrics]) for name, part in found.items()]

    return {
        "entry": entry,
        "protocol": result.protocol,
        "split": result.split,
        "figure": _figure(folder, name) if figures else None,
        # where no slice has anything to outline there is no gallery
        "gallery": _figure(folder, f"{name}-gallery") if figures else None,
        "metrics": [(_name(metric, entry), found) for metric, found in entry.metrics.items()],
        "gradcam": _gradcam(folder, result.key),
        "guess": auc is not None and auc.low is not None and auc.low <= 0.5,
        "counts": [(readable(name), count) for name, count in entry.counts.items()],
        "size_metrics": [readable(metric) for metric in SIZE_METRICS[task]],
        "sizes": parts(entry.by_tumor_size, SIZE_METRICS[task]),
        "institutions": parts(entry.by_institution, HEADLINE[task]),
        "seen": parts(entry.by_seen, HEADLINE[task]),
    }


def _range(ends: tuple[int, int | None]) -> str:
    least, below = ends
    return f"{least:,} and more" if below is None else f"{least:,} to {below - 1:,}"


def _gradcam(folder: RunFolder, key: str) -> GradCam | None:
    """What `bthub explain` measured on a split, if it did."""
    if (found := folder.gradcam.get(key)) is not None:
        folder.check_weights(f"{GRADCAM} of {key}", found.weights, found.command)
    return found


def _splits(folder: RunFolder, protocol: str, results: list[Result]) -> list[dict]:
    """Images of each split, and patients where they are named: what the run was given, and measured on beyond that."""
    rows = _rows(folder, SPLIT)
    images = Counter(row["split"] for row in rows)
    patients = Counter(split for split, _ in {(row["split"], row.get("patient_id")) for row in rows})
    chosen = "choosing the epoch, calibration"
    uses = {"train": "training", "validation": f"{chosen}, thresholds" if "patient_id" in rows[0] else chosen}
    splits = [
        {"name": name, "patients": patients[name], "images": images[name], "use": uses[name], "own": True}
        for name in images
    ]
    return splits + [
        {
            "name": result.split,
            "patients": result.entry.groups,
            "images": result.entry.samples,
            "use": "the results below",
            "own": False,
        }
        for result in results
        if result.protocol == protocol and result.split in UNSEEN
    ]


def _best_epoch(folder: RunFolder, epoch: int) -> dict[str, float]:
    for row in _rows(folder, HISTORY):
        if row["epoch"] == str(epoch):
            return {readable(key): float(value) for key, value in row.items()}
    raise BthubError(f"{folder.path / HISTORY} has no epoch {epoch}, which {TRAINING} names as the best")


def _rows(folder: RunFolder, name: str) -> list[dict[str, str]]:
    rows = folder.rows(name)
    if not rows:
        raise BthubError(f"{folder.path / name} is empty, but the card needs it: train the run again")
    return rows


@functools.cache  # compiling a template takes longer than filling it in
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("bthub.reports"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "figure": lambda number: f"{number:.4g}",
        "value": lambda found: f"{Interval(found.value, None, None)}" or "not defined",
        "bounds": lambda found: found.bounds() or "not defined",
        "full": lambda found: f"{found}" or "not defined",
        "pixels": _range,
    }
    return environment
