"""Where a classifier looks: Grad-CAM on its last convolutional stage, and how much of that lies on the tumor.

`bthub explain` measures it over the tumor slices of a split, and adds the figures to the run's folder.

Grad-CAM weighs the maps of a layer by how much each raises a class's logit (Selvaraju et al. 2017). It shows where
the evidence lay, coarsely (a 256-pixel slice has 8 x 8 cells in ResNet-18's last stage), and isn't an outline.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from bthub.errors import BthubError
from bthub.imaging.head import head_mask
from bthub.metrics.bootstrap import mean_and_median
from bthub.models.classifier import Classifier, load_classifier
from bthub.project import as_named
from bthub.runs.folder import CLASSIFICATION, GRADCAM, PREDICTIONS, RunFolder, provenance, write_rows
from bthub.runs.schema import GradCam

DETECTOR = {"no_tumor", "tumor"}
IDS = ("patient_id", "slice_index", "institution")


def explain(
    run: str | Path,
    data: str | Path,
    split: str,
    *,
    protocol: str | None = None,
    batch_size: int = 16,
    device: str | None = None,
) -> GradCam:
    """Measure how much of a detector's Grad-CAM of "tumor" lies inside the experts' outlines.

    Writes `predictions/<protocol>-<split>-gradcam.csv`, a row a tumor slice, and the entry `<protocol>/<split>` of
    `gradcam.json`; other entries stay.

    Args:
        run: a local run folder.
        data: the LGG set, a folder of `bthub data build` or a Hub id.
        split: "validation", "test" or "benchmark"; "train" tells of slices that the run was trained on.
        protocol: "patient", "slice" or a fold; by default the one that the run was trained under.
        batch_size: images in a batch.
        device: of torch; by default the GPU where there is one.

    Returns:
        The entry that was written: what `measure` gives, `layer`, and what it was measured with.

    Raises:
        BthubError: the run isn't a local folder of a detector; the data have no masks, no tumor in this split, or
            slices that the run was trained or chosen on.
    """
    # Here, because the dashboard draws maps and shouldn't wait for what reads data sets.
    from bthub.data.dataset import batches, facts_of, load_split
    from bthub.data.fingerprint import describe_rows, name_of, typed
    from bthub.evaluation.evaluate import refuse_known_images

    folder = RunFolder.local(run)
    if folder.task != CLASSIFICATION or set(folder.config["label_names"]) != DETECTOR:
        known = ", ".join(folder.config["label_names"]) if folder.task == CLASSIFICATION else "outlines"
        raise BthubError(
            f"{folder.id} predicts {known}: bthub explain measures detectors, which predict no_tumor "
            "or tumor on LGG slices"
        )
    own_protocol = folder.training.protocol
    protocol = protocol or own_protocol
    rows = load_split(data, split, protocol)
    if not facts_of(data).masks:
        raise BthubError(
            f"{data} has no outlines to compare a map with: give the LGG set, as bthub data build wrote it"
        )
    refuse_known_images(folder, rows, split)
    slices = rows.select([i for i, pixels in enumerate(rows["tumor_pixels"][:]) if pixels > 0])
    if len(slices) == 0:
        raise BthubError(f"{data} has no tumor in split {split} of protocol {protocol}: choose another split")

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    classifier = load_classifier(folder, device)
    pictures = (
        (image, heatmap)
        for images in batches(slices, batch_size, "explaining")
        for image, heatmap in zip(images, heatmaps(classifier, images), strict=True)
    )
    lines = [
        {**{name: str(row[name]) for name in IDS}, **_compared(image, heatmap, np.asarray(row["mask"]) > 0)}
        for row, (image, heatmap) in zip(slices.select_columns([*IDS, "mask"]), pictures, strict=True)
    ]
    name = name_of(data)
    command = f"bthub explain {as_named(folder.path)} --data {typed(data)} --split {split}"
    entry = {
        **measure(lines),
        "layer": _name_of(last_convolutional_stage(classifier.model), classifier.model),
        "dataset": {"name": name, **describe_rows(slices)},
        "weights": folder.revision,
        **provenance(command + (f" --protocol {protocol}" if protocol != own_protocol else "")),
    }
    (folder.path / PREDICTIONS).mkdir(exist_ok=True)
    write_rows(folder.path / PREDICTIONS / f"{protocol}-{split}-gradcam.csv", lines)
    key = f"{protocol}/{split}"
    return folder.record(GRADCAM, entry, key).gradcam[key]


def measure(lines: list[dict[str, str]]) -> dict:
    """The figures of the rows of a Grad-CAM file.

    Returns:
        `samples`, `groups` (tumor slices, patients), `empty_maps` (slices on which nothing spoke for a tumor: their
        pointing game is 0), `pointing_game` (`mean` and `median`, each with an interval that resamples patients; see
        the function of this name) and `chance` (mean share of the `picture` and of the `head` that the outline covers:
        what a map scores that is spread evenly over either).
    """
    patients = [line["patient_id"] for line in lines]
    return {
        "samples": len(lines),
        "groups": len(set(patients)),
        "empty_maps": sum(line["pointing_game"] == "" for line in lines),
        "pointing_game": mean_and_median(np.array([float(line["pointing_game"] or 0) for line in lines]), patients),
        "chance": {of: float(np.mean([float(line[share]) for line in lines])) for of, share in _CHANCE.items()},
    }


def summary(entry: GradCam) -> str:
    """An entry of `gradcam.json` in a line."""
    chance = entry.chance
    return (
        f"{entry.pointing_game.mean:.3f} of the heat lies on the tumor; by chance {chance.picture:.3f} of the picture, "
        f"{chance.head:.3f} of the head; {entry.samples} slices of {entry.groups} patients, "
        f"on {entry.empty_maps} there is no heat"
    )


_CHANCE = {"picture": "picture_share", "head": "head_share"}


def _compared(image: Image.Image, heatmap: np.ndarray, mask: np.ndarray) -> dict[str, str]:
    """The figures of a slice as a row of the file; `pointing_game` is empty where the map is."""
    found = pointing_game(heatmap, mask)
    return {
        "tumor_px": str(int(mask.sum())),
        "pointing_game": "" if found is None else repr(found),
        **{_CHANCE[of]: repr(share) for of, share in chance(image, mask).items()},
    }


def _name_of(layer: nn.Module, model: nn.Module) -> str:
    return next(name for name, module in model.named_modules() if module is layer)


def last_convolutional_stage(model: nn.Module) -> nn.Module:
    """The module whose output is the last feature map: as timm names it, else the last convolution.

    Raises:
        BthubError: the model has no convolution there, as a transformer hasn't.
    """
    stages = getattr(model, "feature_info", None)
    layer = model.get_submodule(stages[-1]["module"]) if stages else model
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    if not convolutions or (stages and len(convolutions) == 1):
        raise BthubError(f"{type(model).__name__} has no convolutional stage: Grad-CAM needs one")
    return layer if stages else convolutions[-1]


def heatmaps(classifier: Classifier, images: Sequence[Image.Image], label: str = "tumor") -> list[np.ndarray]:
    """Grad-CAM of one class for RGB images of any size. Meanwhile no other thread may use the classifier.

    Args:
        classifier: of `load_classifier`.
        images: the pictures.
        label: the class whose evidence is shown.

    Returns:
        One float32 array (H, W) an image, at the image's own size, from 0 to 1 at its strongest point; all 0 where
        nothing speaks for the class.

    Raises:
        BthubError: the classifier doesn't know the class, has no convolutional stage, or grad-cam isn't installed.
    """
    try:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError as error:
        raise BthubError("Grad-CAM needs the package grad-cam: pip install grad-cam") from error
    if label not in classifier.labels:
        raise BthubError(f"the classifier has the classes {', '.join(classifier.labels)}, but no {label!r}")
    target = ClassifierOutputTarget(classifier.labels.index(label))
    batch = torch.stack([classifier.transform(image) for image in images]).to(classifier.device)  # (N, 3, S, S)
    layer = last_convolutional_stage(classifier.model)
    with GradCAM(model=classifier.model, target_layers=[layer]) as cam:
        maps = cam(input_tensor=batch, targets=[target] * len(images))  # (N, S, S)
    classifier.model.zero_grad()
    return [_without_border(m, image) for m, image in zip(maps, images, strict=True)]


def pointing_game(heatmap: np.ndarray, mask: np.ndarray) -> float | None:
    """Share of a heat map's energy that lies inside a mask, 0 to 1.

    A map that looked nowhere in particular scores the mask's share of the picture.

    Args:
        heatmap: (H, W), not negative.
        mask: (H, W) bool, the tumor.

    Returns:
        None where the mask or the map is empty.
    """
    total = float(heatmap.sum())
    return float(heatmap[mask].sum() / total) if total > 0 and mask.any() else None


def chance(image: Image.Image, mask: np.ndarray) -> dict[str, float]:
    """The pointing game of heat that is spread evenly over the `picture`, or over the `head` alone, 0 to 1.

    Args:
        image: RGB.
        mask: (H, W) bool, the tumor.
    """
    share, head = float(mask.mean()), float(head_mask(np.asarray(image)).mean())
    # Where no head stands out, the whole picture is taken for it.
    return {"picture": share, "head": min(1.0, share / head) if head else share}


def _without_border(heatmap: np.ndarray, image: Image.Image) -> np.ndarray:
    """Undo the transform's letterbox: (S, S) of the padded square -> (H, W) of the picture."""
    side = max(image.size)
    square = Image.fromarray(heatmap.astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR)
    left, top = (side - image.width) // 2, (side - image.height) // 2
    found = np.asarray(square.crop((left, top, left + image.width, top + image.height)))
    return found / found.max() if found.max() > 0 else found
