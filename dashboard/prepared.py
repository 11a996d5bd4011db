"""What `prepare.py` made beforehand: every test slice as a small picture, and what the shipped models see on them.

    slices/all.csv, slices/all/      all slices of the test split, by patient: pictures and experts' outlines, WebP
    prepared/index.json              the models, by the weights that looked, and what they said
    prepared/RUN/                    heat maps of the slices in `slices/`, or outlines of all slices

Several pictures of one size lie in one file, row by row.
"""

import csv
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from bthub.runs import records
from bthub.runs.folder import WEIGHTS, RunFolder

HERE = Path(__file__).parent
PREVIEWS = HERE / "slices" / "all"
LIST = HERE / "slices" / "all.csv"
FOLDER = HERE / "prepared"
INDEX = FOLDER / "index.json"
SIDE, COLUMNS = 256, 8
HEAT = "heat.webp"

Key = tuple[str, ...]


class Look(NamedTuple):
    """What a classifier says of a slice, and where it looks.

    Attributes:
        heatmap: (H, W) float32, 0 to 1.
        label: the class that the map is of.
        probability: of that class, 0 to 1.
        pointing_game: share of the heat inside the experts' outline; None without an outline or heat.
        chance: what heat would score that is spread evenly over the head; None without an outline.
    """

    heatmap: np.ndarray
    label: str
    probability: float
    pointing_game: float | None
    chance: float | None


def sheet(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of SIDE by SIDE pixels in one."""
    rows = -(-len(pictures) // COLUMNS)
    whole = Image.new(pictures[0].mode, (COLUMNS * SIDE, rows * SIDE))
    for i, picture in enumerate(pictures):
        whole.paste(picture, _corner(i))
    return whole


def cut(whole: Image.Image, i: int) -> Image.Image:
    """The i-th picture of a sheet."""
    left, top = _corner(i)
    return whole.crop((left, top, left + SIDE, top + SIDE))


def _corner(i: int) -> tuple[int, int]:
    return i % COLUMNS * SIDE, i // COLUMNS * SIDE


@cache
def slices() -> dict[Key, dict[str, Any]]:
    """All slices of the test split of protocol `patient`: `institution`, `tumor_px` and the `place` on the sheet."""
    found: dict[Key, dict[str, Any]] = {}
    places: dict[str, int] = {}
    with LIST.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            place = places.setdefault(row["patient_id"], 0)
            places[row["patient_id"]] += 1
            found[records.image_key(row)] = {
                "institution": row["institution"],
                "tumor_px": int(row["tumor_px"]),
                "place": place,
            }
    return found


@cache
def index() -> dict[str, Any]:
    """`runs`, by name, and `colors` of a heat map; nothing where `prepare.py` hasn't run."""
    return json.loads(INDEX.read_text(encoding="utf-8")) if INDEX.is_file() else {"runs": {}, "colors": ""}


def of(run: RunFolder) -> dict[str, Any] | None:
    """What is known of a run: None unless the very weights that it has now looked at the slices."""
    found = index()["runs"].get(records.name(run))
    return found if found and found["weights"] == _weights(run) else None


@cache
def _weights(run: RunFolder) -> str:
    """A run's weights by their digest, also of a run from the Hub, whose revision is a commit."""
    return RunFolder.open(run.path).revision if (run.path / WEIGHTS).is_file() else run.revision


def look(run: RunFolder, key: Key) -> Look | None:
    """What a classifier was seen to do with a slice; None where nobody looked."""
    known = (of(run) or {}).get("slices", {})
    said = known.get("_".join(key))
    if said is None:
        return None
    heat = cut(_sheet(FOLDER / records.name(run) / HEAT), said["place"])
    return Look(
        np.asarray(heat.convert("L"), np.float32) / 255,
        said["label"],
        said["probability"],
        said["pointing_game"],
        said["chance"],
    )


def outline(run: RunFolder, key: Key) -> np.ndarray | None:
    """What a ResUNet was seen to outline on a slice, (H, W) bool; None where nobody looked."""
    if (of(run) or {}).get("outlines") is None or key not in slices():
        return None
    return _mask(FOLDER / records.name(run) / f"{key[0]}.webp", slices()[key]["place"])


def picture(key: Key) -> Image.Image:
    """A slice of the test split, as WebP keeps it."""
    return cut(_sheet(PREVIEWS / f"{key[0]}.webp"), slices()[key]["place"]).convert("RGB")


def mask(key: Key) -> np.ndarray:
    """What experts outlined on it: (H, W) bool."""
    return _mask(PREVIEWS / f"{key[0]}_mask.webp", slices()[key]["place"])


def _mask(file: Path, place: int) -> np.ndarray:
    return np.asarray(cut(_sheet(file), place).convert("L")) > 127


@cache
def _sheet(file: Path) -> Image.Image:
    with Image.open(file) as whole:
        whole.load()
        return whole.copy()


@cache
def colors() -> np.ndarray:
    """(256, 3) uint8: the colors of a heat map, dark to bright."""
    return np.frombuffer(bytes.fromhex(index()["colors"]), np.uint8).reshape(256, 3)


def heated(image: Image.Image, heatmap: np.ndarray) -> Image.Image:
    """The picture with a heat map over it: dark where nothing was seen, bright yellow at the strongest point.

    Args:
        image: RGB.
        heatmap: (H, W), 0 to 1, of the picture's size.
    """
    heat = colors()[np.clip(heatmap * 255, 0, 255).astype(np.uint8)].astype(np.float32)
    mixed = 0.45 * heat + 0.55 * np.asarray(image.convert("RGB"), np.float32)
    return Image.fromarray((mixed * (255 / max(float(mixed.max()), 1.0))).astype(np.uint8))
