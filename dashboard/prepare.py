"""Make what the dashboard shows of the test slices beforehand, so that no page waits for a model.

    make dashboard-pictures        (python dashboard/prepare.py data/lgg)

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
import prepared
from datasets import Dataset
from PIL import Image

from bthub.data.dataset import load_split
from bthub.evaluation import per_image
from bthub.evaluation.gradcam import chance, heatmaps, pointing_game
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
    if not prepared.LIST.is_file():
        write_slices(rows)
    prepared.FOLDER.mkdir(exist_ok=True)
    found = {"colors": inferno(), "runs": {}}
    known = {run.id: run for run in (RunFolder.open(path) for path in sorted(SHIPPED_RUNS.glob("*/")) if whole(path))}
    for name, run in known.items():
        if kept := prepared.of(run):
            found["runs"][name] = kept
            continue
        print(f"{name} looks", file=sys.stderr)
        (prepared.FOLDER / name).mkdir(exist_ok=True)
        found["runs"][name] = look(run) if run.task == CLASSIFICATION else outline(run, rows)
        # After each run: what was looked at once needn't be again.
        prepared.INDEX.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for old in prepared.FOLDER.glob("*/"):
        if old.name not in known:
            shutil.rmtree(old)
    prepared.INDEX.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def whole(path: Path) -> bool:
    return (path / WEIGHTS).is_file()


def write_slices(rows: Dataset) -> None:
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
            "pointing_game": pointing_game(heat, mask),
            "chance": chance(image, mask)["head"] if mask.any() else None,
        }
    file = prepared.FOLDER / records.name(run) / prepared.HEAT
    prepared.sheet(maps).save(file, quality=QUALITY["heat"], method=6)
    return {"weights": run.revision, "slices": said}


def outline(run: RunFolder, rows: Dataset) -> dict:
    """The outlines of a localizer on every slice of the split.

    It draws only where its own predictions say that it drew something.
    """
    localizer = load_localizer(run)
    drew = {
        records.image_key(line)
        for line in per_image.masks(run, next(e for e in records.evaluations(run) if e.key == "patient/test"))
        if line["predicted_px"]
    }
    keys = list(zip(rows["patient_id"], map(str, rows["slice_index"]), strict=True))
    places = [i for i, key in enumerate(keys) if key in drew]
    found: dict[int, np.ndarray] = {}
    for start in range(0, len(places), BATCH):
        some = places[start : start + BATCH]
        masks = localizer.masks([rows[i]["image"].convert("RGB") for i in some])
        found |= dict(zip(some, masks, strict=True))
    of_patient: dict[str, list[np.ndarray]] = {}
    nothing = np.zeros((prepared.SIDE, prepared.SIDE), bool)
    for i, (patient, _) in enumerate(keys):
        of_patient.setdefault(patient, []).append(found.get(i, nothing))
    for patient, masks in of_patient.items():
        save_masks(masks, prepared.FOLDER / run.id / f"{patient}.webp")
    return {"weights": run.revision, "outlines": len(rows)}


def inferno() -> str:
    """The colors of a heat map, 256 times red, green and blue, in hexadecimal digits."""
    import cv2

    ramp = cv2.applyColorMap(np.arange(256, dtype=np.uint8), cv2.COLORMAP_INFERNO)
    return np.ascontiguousarray(ramp.reshape(256, 3)[:, ::-1]).tobytes().hex()


if __name__ == "__main__":
    main(sys.argv[1])
