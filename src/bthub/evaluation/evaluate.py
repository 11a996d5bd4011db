"""`bthub evaluate`: measure a run on a split, and add the predictions and the metrics to its folder.

Nothing is fitted here: temperature, thresholds and smallest mask are what training saved. Images that the run was
trained or chosen on are refused.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from datasets import Dataset as Rows

from bthub.data.dataset import batches, facts_of, load_split
from bthub.data.facts import DEFAULT
from bthub.data.fingerprint import describe_rows, listed, name_of, typed
from bthub.errors import BthubError
from bthub.evaluation import by_source, plots
from bthub.evaluation.by_source import evaluate_sources
from bthub.evaluation.scoring import COUNTS, HD95, IDS, PROBABILITY, Predictions, figures_table, measure
from bthub.imaging.image_io import upright_rgb
from bthub.metrics.info import readable
from bthub.models.classifier import load_classifier
from bthub.models.localizer import load_localizer
from bthub.project import as_named, place_of
from bthub.runs.folder import (
    CLASSIFICATION,
    LOSING,
    LOSS_ALLOWED,
    METRICS,
    ONNX_METRICS,
    ONNX_MODEL,
    ONNX_QUANTIZED,
    PREDICTIONS,
    SPLIT,
    TRAINING,
    RunFolder,
    provenance,
    write_rows,
)
from bthub.runs.schema import DataSet, Measured, MeasuredBackend, MeasuredSources, Settings

GALLERY = 8
TORCH = "torch"
SAME_SLICES = 200
VERSIONS = ("bthub", "torch", "timm", "transformers", "scikit-learn")


def evaluate(
    run: str | Path,
    data: str | Path,
    split: str,
    *,
    protocol: str | None = None,
    batch_size: int = 16,
    device: str | None = None,
    backend: str = TORCH,
    stage: Any = None,
) -> Measured | MeasuredSources | MeasuredBackend:
    """Measure a run on a split.

    Writes `predictions/<protocol>-<split>.csv` and the entry `<protocol>/<split>` of `metrics.json`; other entries
    stay. The protocol of an image-folder set, which is split in one way only, is called `default`.

    Args:
        run: a local run folder.
        data: folder of `bthub data build`, or a Hub id.
        split: "validation", "test" or "benchmark"; "train" says how well the run remembers.
        protocol: "patient", "slice" or a fold; by default the one that the run was trained under.
        batch_size: images in a batch.
        device: of torch; by default the GPU where there is one.
        backend: what the network runs on. Of another than torch the figures go into `onnx/metrics.json`, beside what
            they lose against those in torch; nothing else is written.
        stage: the network on that backend, with the methods of `Classifier` or `Localizer`; None for torch.

    Returns:
        The entry that was written; see `measure` for its figures, and `_against_torch` for what a backend loses. Of a
        mixture of sources see `evaluate_sources`, which writes other files.

    Raises:
        BthubError: the run isn't a local run folder or lacks a value; the data have no such split, no images, other
            classes, no masks for a ResUNet; they hold images that the run was trained or chosen on; or the run has
            figures of another set's split of that name.
    """
    folder = RunFolder.local(run)
    own_protocol = folder.training.protocol
    protocol = protocol or own_protocol
    rows = load_split(data, split, protocol)
    if len(rows) == 0:
        raise BthubError(f"{data} has no images in split {split} of protocol {protocol}: choose another split")
    name, facts = name_of(data), facts_of(data)
    command = f"bthub evaluate {as_named(folder.path)} --data {typed(data)} --split {split}"
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    refuse_known_images(folder, rows, split)
    if facts.sources:
        return evaluate_sources(folder, rows, split, name=name, command=command, batch_size=batch_size, device=device)
    if protocol not in facts.protocols:
        protocol = DEFAULT
    elif protocol != own_protocol:
        command += f" --protocol {protocol}"
    dataset = {"name": name, **describe_rows(rows)}
    key = f"{protocol}/{split}"
    if there := _known(folder).get(key):
        _refuse_another_set(folder, key, there.dataset, dataset)
    if folder.task != CLASSIFICATION and not facts.masks:
        raise BthubError(f"{folder.id} outlines tumors, but the data set has no masks: evaluate it on the LGG data set")
    if folder.task == CLASSIFICATION:
        predictions, settings = _classify(folder, rows, batch_size, stage or load_classifier(folder, device))
        given = msgspec.to_builtins(settings)
    else:
        predictions, given = _localize(folder, rows, batch_size, stage or load_localizer(folder, device))
        settings = Settings()
    if backend != TORCH:
        command += f" --backend {backend}"
        entry = _against_torch(folder, key, rows, predictions, settings, backend, stage)
        entry |= {"dataset": dataset, **provenance(command)}
        return folder.record(ONNX_METRICS, entry, backend, key).onnx_metrics[backend][key]
    entry = {
        "task": folder.task,
        **given,
        **measure(predictions, settings),
        "dataset": dataset,
        "weights": folder.revision,
        **provenance(
            command, VERSIONS, device=torch.cuda.get_device_name(device) if device.startswith("cuda") else device
        ),
    }
    (folder.path / PREDICTIONS).mkdir(exist_ok=True)
    write_rows(folder.path / PREDICTIONS / f"{protocol}-{split}.csv", predictions)
    measured = folder.record(METRICS, entry, key).metrics[key]
    if facts.shown:
        _gallery(folder, key, rows, predictions, device)
    return measured


def _against_torch(
    folder: RunFolder, key: str, rows: Rows, predictions: Predictions, settings: Settings, backend: str, stage: Any
) -> dict:
    """What a backend's predictions are worth beside those in torch, of which the folder has the figures.

    Returns:
        `weights`, `file_sha256` of the network's file; `metrics` as `measure` gives them; `reference`: those in torch;
        `loss`: the most that one of LOSING lost, below 0 where all have won; and how near the answers are: of a
        classifier the `largest_difference` of a probability, of a ResUNet `agreement`, the mean Dice of its masks and
        torch's on the first SAME_SLICES slices, evenly spread, on which either has one.

    Raises:
        BthubError: the figures in torch aren't there, or are of other weights.
    """
    there = _known(folder).get(key)
    if there is None or there.weights != folder.revision:
        raise BthubError(
            f"{folder.path / METRICS} has no {key} of the weights {folder.revision} to compare {backend} "
            "with: first run the same command without --backend"
        )
    found, reference = measure(predictions, settings)["metrics"], there.metrics
    values = [(reference[name].value, found[name].value) for name in LOSING if name in reference]
    losses = [before - after for before, after in values if before is not None and after is not None]
    if not losses:
        raise BthubError(f"none of {', '.join(LOSING)} is defined on {key}: choose a split with tumor and without")
    name = ONNX_QUANTIZED if backend.endswith("int8") else ONNX_MODEL
    entry = {
        "weights": folder.revision,
        "file_sha256": folder.onnx.files[name].sha256,
        "samples": len(predictions),
        "metrics": found,
        "reference": {name: reference[name].value for name in reference},
        "loss": max(losses),
    }
    if folder.task == CLASSIFICATION:
        columns = [PROBABILITY + label for label in settings.labels]
        pairs = zip(predictions, folder.predictions(key), strict=True)
        differences = [abs(float(one[name]) - float(other[name])) for one, other in pairs for name in columns]
        return entry | {"largest_difference": max(differences)}
    chosen = np.linspace(0, len(rows) - 1, min(SAME_SLICES, len(rows))).round().astype(int).tolist()
    eager = load_localizer(folder)
    overlaps = []
    for images in batches(rows.select(chosen), 8, "against torch"):
        for one, other in zip(stage.masks(images), eager.masks(images), strict=True):
            if one.any() or other.any():
                overlaps.append(2 * (one & other).sum() / (one.sum() + other.sum()))
    agreement = float(np.mean(overlaps)) if overlaps else 1.0
    return entry | {"agreement": {"slices": len(chosen), "with_mask": len(overlaps), "dice": agreement}}


def backend_summary(entry: MeasuredBackend) -> str:
    """What an entry of `onnx/metrics.json` says, in lines."""
    lines = [f"{entry.samples} images ({entry.command})"]
    for name in LOSING:
        if name in entry.reference:
            after, before = entry.metrics[name].value, entry.reference[name]
            told = ("-" if value is None else f"{value:.4f}" for value in (after, before))
            lines.append(f"{readable(name):48}{', in torch '.join(told)}")
    if entry.largest_difference is not None:
        lines.append(f"probabilities within {entry.largest_difference:.2g} of torch")
    if near := entry.agreement:
        lines.append(f"Dice with torch's masks on {near.slices} slices: {near.dice:.4f}")
    fine = entry.loss <= LOSS_ALLOWED
    lines.append(f"loses {max(0.0, entry.loss):.4f}" + ("" if fine else f", more than {LOSS_ALLOWED}: it doesn't ship"))
    return "\n".join(lines)


def _known(folder: RunFolder) -> dict[str, Measured]:
    """The evaluations that the run has by now: a folder remembers what it has read, a copy of it doesn't."""
    return replace(folder).metrics if (folder.path / METRICS).exists() else {}


def _refuse_another_set(folder: RunFolder, key: str, known: DataSet, dataset: dict) -> None:
    """Figures are kept by protocol and split: those of one data set don't take the place of another's."""
    if known.name != dataset["name"] and known.sha256 != dataset["sha256"]:
        raise BthubError(
            f"{folder.path / METRICS} has {key} of {known.name}, which the results of {dataset['name']} would "
            "replace: evaluate a copy of the run folder"
        )


def summary(entry: Measured | MeasuredSources | MeasuredBackend) -> str:
    """The main results of an entry of `metrics.json`, `sources.json` or `onnx/metrics.json` as a short table."""
    if isinstance(entry, MeasuredSources):
        return by_source.summary(entry)
    if isinstance(entry, MeasuredBackend):
        return backend_summary(entry)
    patients = f" of {entry.groups} patients" if entry.dataset.patients is not None else ""
    lines = [f"{entry.samples} images{patients} ({entry.command})", *figures_table(entry.metrics)]
    if entry.confusion_matrix:
        lines.append("confusion matrix, rows are the reference")
        width = max(len(label) for label in entry.labels) + 2
        lines.append(" " * width + "".join(f"{label:>{width}}" for label in entry.labels))
        for label, row in zip(entry.labels, entry.confusion_matrix, strict=True):
            lines.append(f"{label:{width}}" + "".join(f"{count:>{width}}" for count in row))
    lines += [f"{readable(name):48}{count}" for name, count in entry.counts.items()]
    return "\n".join(lines)


def refuse_known_images(folder: RunFolder, rows: Rows, split: str) -> None:
    """Raise where rows of a split were seen in training; for a test, also where the run was chosen on them.

    The same holds for the runs whose weights it started from, where their folders are at hand.
    """
    _refuse_known_to(folder, folder, rows, split)
    for ancestor in ancestors(folder):
        if ancestor.split_file.is_file():
            _refuse_known_to(folder, ancestor, rows, split)


def ancestors(folder: RunFolder) -> Iterator[RunFolder]:
    """The runs that a run's initial weights are from, and theirs, beside its folder or in the clone."""
    for origin in folder.training.initial_weights:
        for place in (folder.path.parent / origin.source, place_of(origin.source)):
            if place.resolve() != folder.path.resolve() and (place / TRAINING).is_file():
                found = RunFolder.open(place, weights=False)
                yield found
                yield from ancestors(found)
                break


def _refuse_known_to(folder: RunFolder, known_to: RunFolder, rows: Rows, split: str) -> None:
    forbidden = {"train": (), "validation": ("train",)}.get(split, ("train", "validation"))
    seen = known_to.rows(SPLIT)
    if not seen:
        raise BthubError(
            f"{known_to.path / SPLIT} lists no images, so what the run was trained on isn't known: restore it"
        )
    for name in forbidden:
        if known := listed(rows, seen, name):
            purpose = "trained" if name == "train" else "chosen and calibrated"
            who = folder.id if known_to is folder else f"{known_to.id}, whose weights {folder.id} started from,"
            raise BthubError(
                f"{who} was {purpose} on {len(known)} of the {len(rows)} images of split {split} "
                f"(the first is {' '.join(min(known))}, see {SPLIT}): its results there would be too good; "
                "evaluate under the protocol that it was trained under"
            )


def _gallery(folder: RunFolder, key: str, rows: Rows, predictions: Predictions, device: str) -> None:
    """Draw GALLERY slices, evenly spaced from the one that the run does best to the one that it does worst."""
    if folder.task == CLASSIFICATION:
        # Sorted by the probability that the run gave to what is true.
        scores = [float(row[PROBABILITY + row["label"]]) for row in predictions]
        titles = [f"{row['label']}, given {score:.2f}" for row, score in zip(predictions, scores, strict=True)]
    else:
        counts = [[int(row[name]) for name in COUNTS] for row in predictions]
        # Of slices without tumor and without mask there is nothing to see.
        scores = [2 * both / (tumor + found) if tumor + found else np.nan for tumor, found, both, _ in counts]
        titles = [f"Dice {score:.2f}" for score in scores]
    order = [i for i in np.argsort(-np.array(scores), kind="stable") if not np.isnan(scores[i])]
    chosen = [int(order[i]) for i in np.linspace(0, len(order) - 1, min(GALLERY, len(order))).round().astype(int)]
    if not chosen:
        return
    pictures = [upright_rgb(rows[i]["image"]) for i in chosen]
    outlines = {}
    if folder.task != CLASSIFICATION:
        outlines["reference"] = [np.asarray(rows[i]["mask"]) > 0 for i in chosen]
        outlines["found"] = load_localizer(folder, device).masks(pictures)
    plots.draw_gallery(folder, key, pictures, [titles[i] for i in chosen], **outlines)


def _classify(folder: RunFolder, rows: Rows, batch_size: int, classifier: Any) -> tuple[Predictions, Settings]:
    """Predictions of a classifier, and the settings they are measured with."""
    names = rows.features["label"].names
    if names != classifier.labels:
        raise BthubError(
            f"{folder.id} has the classes {', '.join(classifier.labels)}, but the data set has {', '.join(names)}: "
            "evaluate it on a data set with its own classes"
        )
    fitted = folder.detector_calibration
    settings = Settings(classifier.labels, fitted.temperature, fitted.threshold, fitted.referral_band)
    sizes = rows["tumor_pixels"][:] if "tumor_pixels" in rows.column_names else None
    probabilities = (p for images in batches(rows, batch_size, "evaluating") for p in classifier.predict(images))
    predictions = [
        {
            **ids,
            **({} if sizes is None else {"tumor_px": str(sizes[i])}),
            "label": names[label],
            # digits enough to read the very same number back
            **{PROBABILITY + name: repr(float(value)) for name, value in zip(names, p, strict=True)},
        }
        for i, (ids, label, p) in enumerate(zip(_ids(rows), rows["label"][:], probabilities, strict=True))
    ]
    return predictions, settings


def _localize(folder: RunFolder, rows: Rows, batch_size: int, localizer: Any) -> tuple[Predictions, dict]:
    """Predictions of a ResUNet without a detector before it, and the settings they are made with."""
    masks = (mask for images in batches(rows, batch_size, "evaluating") for mask in localizer.masks(images))
    predictions = []
    for ids, row, found in zip(_ids(rows), rows.select_columns(["mask"]), masks, strict=True):
        reference = np.asarray(row["mask"]) > 0  # (H, W)
        counts = (reference.sum(), found.sum(), (reference & found).sum(), reference.size)
        distance = repr(_hd95(reference, found)) if reference.any() and found.any() else ""
        counted = {name: str(int(n)) for name, n in zip(COUNTS, counts, strict=True)}
        predictions.append({**ids, **counted, HD95: distance})
    calibration = folder.localizer_calibration
    return predictions, {
        "mask_threshold": calibration.mask_threshold,
        "min_area_share": calibration.min_area_share,
    }


def _hd95(reference: np.ndarray, found: np.ndarray) -> float:
    """95th-percentile Hausdorff distance of two masks (H, W) that are not empty, in pixels."""
    # Imported here because it takes a second and only a ResUNet needs it.
    from monai.metrics import compute_hausdorff_distance

    pair = (torch.from_numpy(mask)[None, None] for mask in (found, reference))  # (1, 1, H, W)
    return compute_hausdorff_distance(*pair, include_background=True, percentile=95).item()


def _ids(rows: Rows) -> Iterator[dict[str, str]]:
    names = [name for name in IDS if name in rows.column_names]
    for values in zip(*(rows[name][:] for name in names), strict=True):
        yield {name: str(value) for name, value in zip(names, values, strict=True)}
