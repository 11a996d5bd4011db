"""Make what the dashboard shows of the test slices beforehand, so that no page waits for a model.

    python dashboard/prepare.py data/lgg        (make dashboard-pictures)

Every slice of the test split of protocol `patient` becomes a small WebP; the classifiers whose weights are in `runs/`
look at the slices in `slices/`, and the localizers outline every slice. `prepared.py` reads it. What is already there
for the very weights that a run has is kept.
"""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import prepared
from bthub.data.dataset import load_split
from bthub.evaluation.gradcam import agreement, chance, heatmaps
from bthub.models.classifier import load_classifier
from bthub.models.localizer import load_localizer
from bthub.project import SHIPPED_RUNS
from bthub.runs import records
from bthub.runs.folder import CLASSIFICATION, WEIGHTS, RunFolder

SHIPPED = prepared.HERE / "slices"
QUALITY = {"picture": 52, "heat": 70}
BATCH = 8


def main(data: str) -> None:
    rows = load_split(data, "test")
    order = sorted(range(len(rows)), key=lambda i: (rows["patient_id"][i], int(rows["slice_index"][i])))
    rows = rows.select(order)
    write_slices(rows)
    prepared.FOLDER.mkdir(exist_ok=True)
    found = {"colors": inferno(), "runs": {}}
    known = {run.name: run for run in (RunFolder.open(path) for path in sorted(SHIPPED_RUNS.glob("*/")) if whole(path))}
    for name, run in known.items():
        if kept := prepared.of(run):
            found["runs"][name] = kept
            continue
        print(f"{name} looks", file=sys.stderr)
        (prepared.FOLDER / name).mkdir(exist_ok=True)
        found["runs"][name] = look(run) if run.task == CLASSIFICATION else outline(run, rows)
    for old in prepared.FOLDER.glob("*/"):
        if old.name not in known:
            shutil.rmtree(old)
    prepared.INDEX.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def whole(path: Path) -> bool:
    return (path / WEIGHTS).is_file()


def write_slices(rows) -> None:
    """`slices/all.csv` and `slices/all/`: every slice of the split."""
    prepared.PREVIEWS.mkdir(exist_ok=True)
    with prepared.LIST.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["patient_id", "slice_index", "institution", "tumor_px"])
        columns = ("patient_id", "slice_index", "institution", "tumor_pixels")
        writer.writerows(zip(*(rows[column] for column in columns), strict=True))
    prepared.slices.cache_clear()
    of_patient: dict[str, list[int]] = {}
    for i, patient in enumerate(rows["patient_id"]):
        of_patient.setdefault(patient, []).append(i)
    for patient, places in of_patient.items():
        some = [rows[i] for i in places]
        pictures = prepared.sheet([row["image"].convert("RGB") for row in some])
        pictures.save(prepared.PREVIEWS / f"{patient}.webp", quality=QUALITY["picture"], method=6)
        save_masks([np.asarray(row["mask"]) > 0 for row in some], prepared.PREVIEWS / f"{patient}_mask.webp")


def save_masks(masks: list[np.ndarray], file: Path) -> None:
    whole = prepared.sheet([Image.fromarray(mask.astype(np.uint8) * 255) for mask in masks])
    whole.save(file, lossless=True, quality=100, method=6)


def look(run: RunFolder) -> dict:
    """The heat maps of a classifier for the slices in `slices/`, and what it says of them."""
    classifier = load_classifier(run)
    with (SHIPPED / "slices.csv").open(newline="", encoding="utf-8") as file:
        stems = ["_".join(records.image_key(row)) for row in csv.DictReader(file)]
    maps, said = [], {}
    for place, stem in enumerate(stems):
        with Image.open(SHIPPED / f"{stem}.png") as picture:
            image = picture.convert("RGB")
        with Image.open(SHIPPED / f"{stem}_mask.png") as picture:
            mask = np.asarray(picture.convert("L")) > 0
        [heat] = heatmaps(classifier, [image])
        maps.append(Image.fromarray((heat * 255).round().astype(np.uint8)))
        said[stem] = {
            "place": place,
            "label": "tumor",
            "probability": float(classifier.predict([image])[0][classifier.tumor_index]),
            "agreement": agreement(heat, mask),
            "chance": chance(image, mask)["head"] if mask.any() else None,
        }
    file = prepared.FOLDER / records.name(run) / prepared.HEAT
    prepared.sheet(maps).save(file, quality=QUALITY["heat"], method=6)
    return {"weights": run.revision, "slices": said}


def outline(run: RunFolder, rows) -> dict:
    """The outlines of a localizer on every slice of the split."""
    localizer = load_localizer(run)
    masks: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        drawn = localizer.masks([image.convert("RGB") for image in part["image"]])
        for patient, mask in zip(part["patient_id"], drawn, strict=True):
            masks.setdefault(patient, []).append(mask)
    for patient, own in masks.items():
        save_masks(own, prepared.FOLDER / records.name(run) / f"{patient}.webp")
    return {"weights": run.revision, "outlines": len(rows)}


def inferno() -> str:
    """The colors of a heat map, 256 times red, green and blue, in hexadecimal digits."""
    import cv2

    ramp = cv2.applyColorMap(np.arange(256, dtype=np.uint8), cv2.COLORMAP_INFERNO)
    return np.ascontiguousarray(ramp[:, 0, ::-1]).tobytes().hex()


if __name__ == "__main__":
    main(sys.argv[1])
