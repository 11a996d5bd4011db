"""Write `slices/`: the test slices that the dashboard shows where no data set is at hand.

    python dashboard/choose_slices.py data/lgg

Twenty-four slices of the test split of protocol `patient`, ten tumor-free and fourteen with a tumor, chosen by rule:
the four slices that the default detector got most wrong, and the two tumors of 500 pixels or more that the default
localizer outlined worst; the rest at random (seed 42), one of each patient in turn, tumor-free and tumor by turns.
"""

import csv
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from bthub.data.dataset import load_split
from bthub.evaluation import per_image
from bthub.project import DEFAULTS, SHIPPED_RUNS
from bthub.runs import records
from bthub.runs.folder import RunFolder

HERE = Path(__file__).parent / "slices"
HEALTHY, TUMOR = 10, 14
SEED = 42

Key = tuple[str, str]


def main(data: str) -> None:
    rows = load_split(data, "test")
    keys = list(zip(rows["patient_id"], map(str, rows["slice_index"]), strict=True))
    tumor_px = dict(zip(keys, rows["tumor_pixels"], strict=True))
    chosen = choose(tumor_px)
    with (HERE / "slices.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["patient_id", "slice_index", "institution", "tumor_px", "chosen"])
        for key in sorted(chosen):
            row = rows[keys.index(key)]
            stem = "_".join(key)
            row["image"].convert("RGB").save(HERE / f"{stem}.png", optimize=True)
            row["mask"].convert("1").save(HERE / f"{stem}_mask.png", optimize=True)
            writer.writerow([*key, row["institution"], tumor_px[key], chosen[key]])


def choose(tumor_px: dict[Key, int]) -> dict[Key, str]:
    """The slices, each with the reason why it was chosen."""
    detector, localizer = (RunFolder.open(SHIPPED_RUNS / DEFAULTS[stage]) for stage in ("detector", "localizer"))
    evaluation = next(e for e in records.evaluations(detector) if e.key == "patient/test")
    losses = per_image.top_losses(per_image.scores(detector, evaluation))
    chosen = {records.image_key(line): "most wrong" for line in losses[:4]}
    large = [line for line in per_image.masks(localizer, evaluation) if line["tumor_px"] >= 500]
    chosen |= {records.image_key(line): "worst mask" for line in sorted(large, key=lambda line: line["dice"])[:2]}

    queues = {kind: by_patient_in_turn([k for k, px in tumor_px.items() if (px > 0) == kind]) for kind in (True, False)}
    for kind, count in ((True, TUMOR), (False, HEALTHY)):
        while sum((tumor_px[key] > 0) == kind for key in chosen) < count:
            chosen.setdefault(next(queues[kind]), "random")
    return chosen


def by_patient_in_turn(keys: list[Key]) -> Iterator[Key]:
    """One random slice of each patient, then a second one of each, and so on; the patients in random order."""
    rng = random.Random(SEED)
    slices: dict[str, list[Key]] = {}
    for key in sorted(keys):
        slices.setdefault(key[0], []).append(key)
    patients = rng.sample(sorted(slices), len(slices))
    for own in slices.values():
        rng.shuffle(own)
    while any(slices.values()):
        yield from (slices[patient].pop() for patient in patients if slices[patient])


if __name__ == "__main__":
    main(sys.argv[1])
