"""The figures of a model card, drawn from the files of a run folder; the gallery also from the slices themselves.

figures/
    lr_finder.webp                   the learning-rate finder's losses, if it was asked, and what it suggested
    history.webp                     losses and the chosen metric, epoch by epoch
    <protocol>-<split>.webp          curves, calibration, confusion matrix; of a ResUNet Dice by patient and by size
    <protocol>-<split>-gallery.webp  slices from the best to the worst, `bthub evaluate` draws it
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from sklearn.calibration import calibration_curve
from sklearn.metrics import precision_recall_curve, roc_curve

from bthub.evaluation.per_image import dice_by_patient
from bthub.metrics.classification import positive_class
from bthub.runs.folder import CLASSIFICATION, FIGURES, HISTORY, LR_FINDER, RunFolder

DPI = 100
_BLUE, _ORANGE, _GRAY = "#0072b2", "#d55e00", "#888888"  # told apart with any color vision


def name_of(key: str) -> str:
    """`patient/test` -> `patient-test`, as its files are called."""
    return key.replace("/", "-")


def draw(run: RunFolder) -> None:
    """Draw `history.webp`, that of the learning-rate finder, and the figures of every split that was evaluated."""
    draw_history(run)
    if (run.path / LR_FINDER).is_file():
        draw_lr_finder(run)
    for key in run.metrics:
        draw_results(run, key)


def drawn(run: RunFolder) -> bool:
    """Whether all that `draw` draws is there: a clone lacks the figures of most runs, `bthub evaluate` draws a part."""
    names = ["history", *(["lr_finder"] if (run.path / LR_FINDER).is_file() else []), *map(name_of, run.metrics)]
    return all((run.path / FIGURES / f"{name}.webp").is_file() for name in names)


def draw_history(run: RunFolder) -> None:
    """Training and validation loss, and the validation metrics, by epoch."""
    rows = run.rows(HISTORY)
    epochs = [int(row["epoch"]) + 1 for row in rows]  # a reader counts from 1
    figure = Figure(figsize=(10, 3.5), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    losses.plot(epochs, _column(rows, "train_loss"), color=_BLUE, label="training")
    losses.plot(epochs, _column(rows, "validation_loss"), color=_ORANGE, label="validation")
    losses.set(xlabel="epoch", ylabel="loss", title="Loss")
    measured = [name for name in rows[0] if name.startswith("validation_") and name != "validation_loss"]
    for name in measured:
        label = name.removeprefix("validation_").replace("_", " ")
        scores.plot(epochs, _column(rows, name), label=label)
    scores.set(xlabel="epoch", ylim=(0, 1), title="On validation")
    best = run.training.best.epoch + 1
    for axes in (losses, scores):
        axes.axvline(best, color=_GRAY, linestyle=":", label="kept epoch")
        axes.legend()
    _save(figure, run, "history")


def draw_lr_finder(run: RunFolder) -> None:
    """Loss by learning rate in the range test before training, and the rate that was taken from it."""
    rows = run.rows(LR_FINDER)
    rates = _column(rows, "learning_rate")
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(rates, _column(rows, "loss"), color=_GRAY, linewidth=1, alpha=0.6, label="loss of the batch")
    axes.plot(rates, _column(rows, "smoothed_loss"), color=_BLUE, label="smoothed")
    taken = run.training.highest_learning_rate
    axes.axvline(taken, color=_ORANGE, linestyle=":", label=f"valley: {taken:.1e}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss", title="Learning-rate finder")
    axes.legend()
    _save(figure, run, "lr_finder")


def draw_results(run: RunFolder, key: str) -> None:
    """The figures of one evaluated split, from its predictions and metrics.

    Args:
        key: `<protocol>/<split>`, as in `metrics.json`.
    """
    figure = Figure(figsize=(10, 8) if run.task == CLASSIFICATION else (10, 4), layout="constrained")
    if run.task == CLASSIFICATION:
        _draw_classifier(figure, run, key)
    else:
        _draw_localizer(figure, run, key)
    _save(figure, run, name_of(key))


def _draw_classifier(figure: Figure, run: RunFolder, key: str) -> None:
    rows, entry = run.predictions(key), run.metrics[key]
    unit = "slices" if "patient_id" in rows[0] else "images"
    roc, precision_recall, reliability, confusion = figure.subplots(2, 2).ravel()
    for label in entry.labels:
        # Two classes have one curve, that of the tumor.
        if len(entry.labels) == 2 and label != entry.labels[positive_class(entry.labels)]:
            continue
        truth = np.array([row["label"] == label for row in rows])
        score = np.array(_column(rows, f"p_{label}"))
        false_positive, true_positive, _ = roc_curve(truth, score)
        roc.plot(false_positive, true_positive, label=label)
        precision, recall, _ = precision_recall_curve(truth, score)
        precision_recall.plot(recall, precision, label=label)
        share, mean = calibration_curve(truth, score, n_bins=10)
        reliability.plot(mean, share, marker="o", label=label)
    for axes in (roc, reliability):
        axes.plot([0, 1], [0, 1], color=_GRAY, linestyle=":")
    roc.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC")
    precision_recall.set(xlabel="recall", ylabel="precision", title="Precision and recall")
    reliability.set(xlabel="mean probability", ylabel=f"share of {unit}", title="Reliability, 10 bins")
    for axes in (roc, precision_recall, reliability):
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        axes.legend()
    matrix = np.array(entry.confusion_matrix)
    confusion.imshow(matrix / matrix.sum(axis=1, keepdims=True), cmap="Blues", vmin=0, vmax=1)
    for (i, j), count in np.ndenumerate(matrix):
        dark = count > matrix[i].sum() / 2
        confusion.text(j, i, count, ha="center", va="center", color="white" if dark else "black", fontsize=14)
    ticks = range(len(entry.labels))
    if len(ticks) == 2:
        confusion.set_xticks(ticks, entry.labels)
        confusion.set_yticks(ticks, entry.labels, rotation=90, va="center")
    else:
        lines = [label.replace("_", "\n") for label in entry.labels]
        confusion.set_xticks(ticks, lines)
        confusion.set_yticks(ticks, lines)
    confusion.set(xlabel="predicted", ylabel="reference", title="Confusion matrix")


def _draw_localizer(figure: Figure, run: RunFolder, key: str) -> None:
    rows = run.predictions(key)
    volumes, sizes = figure.subplots(1, 2)
    tumor, found, both = (np.array(_column(rows, name)) for name in ("tumor_px", "predicted_px", "intersection_px"))
    patients = dice_by_patient(rows)
    volumes.barh(range(len(patients)), [one["dice"] for one in patients], color=_BLUE)
    volumes.set_yticks(range(len(patients)), [one["patient_id"] for one in patients], fontsize=7)
    volumes.set(xlim=(0, 1), xlabel="Dice of the volume", title="Dice by patient")
    ill = tumor > 0
    sizes.scatter(tumor[ill], 2 * both[ill] / (tumor[ill] + found[ill]), s=10, alpha=0.6, color=_ORANGE)
    sizes.set(xscale="log", ylim=(0, 1), xlabel="tumor pixels of the slice", ylabel="Dice", title="Dice by tumor size")


def draw_gallery(run: RunFolder, key: str, pictures: Sequence[Image.Image], titles: Sequence[str], **outlines) -> None:
    """Slices side by side.

    Args:
        key: `<protocol>/<split>`.
        pictures: RGB.
        titles: one a picture.
        outlines: `reference` and `found`, each a list of bool masks (H, W) to draw the outlines of.
    """
    columns = 4
    lines = -(-len(pictures) // columns)
    figure = Figure(figsize=(10, 2.9 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for i, (axes, picture, title) in enumerate(zip(panels, pictures, titles, strict=False)):
        axes.imshow(picture)
        axes.set_title(title, fontsize=8)
        for name, color in (("reference", "white"), ("found", "#ffd500")):
            mask = outlines[name][i] if name in outlines else None
            if mask is not None and mask.any():
                axes.contour(mask, [0.5], colors=color, linewidths=1)
    _save(figure, run, f"{name_of(key)}-gallery")


def _column(rows: list[dict[str, str]], name: str) -> list[float]:
    return [float(row[name]) for row in rows]


def _save(figure: Figure, run: RunFolder, name: str) -> Path:
    for axes in figure.axes:
        _plain(axes)
    path = run.path / FIGURES / f"{name}.webp"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=DPI, pil_kwargs={"quality": 90, "method": 6})
    return path


def _plain(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
