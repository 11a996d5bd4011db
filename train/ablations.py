"""Ablations: train the variants in ablations.yaml with the same small budget each; tabulate their validation results.

    python train/ablations.py            # only variants that aren't in the table yet

results/
    ablations.csv       a line per variant
    ablations.md        the same as a page

The test split is not read. An interrupted variant resumes from its last checkpoint.
"""

import argparse
import csv
import json
import shutil
import sys
from pathlib import Path

import yaml

from bthub.errors import report_errors
from bthub.runs.folder import TRAINING, results_in, write_rows
from bthub.training import reproduce

PLAN = Path(__file__).parent / "ablations.yaml"
METRIC = {"resunet": "Dice per patient, mean", "classifier": "F1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="data/lgg")
    parser.add_argument("--work", type=Path, default=Path("outputs/ablations"), help="folder for the training runs")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder for the table")
    args = parser.parse_args()
    tries = rows(yaml.safe_load(PLAN.read_text(encoding="utf-8")))
    known = [line for line in read(args.results / "ablations.csv") if settings_of(line) in map(settings_of, tries)]
    for row in tries:
        if settings_of(row) in map(settings_of, known):
            continue
        output = args.work / f"{row['part']}-{row['tried'].replace(' ', '-')}"
        reproduce.train(row, args.data, output, [], "--resume")
        known.append(line(row, json.loads((output / TRAINING).read_text(encoding="utf-8"))))
        order = {settings_of(one): number for number, one in enumerate(tries)}
        known.sort(key=lambda one: order[settings_of(one)])
        with results_in(args.results):
            write_rows(args.results / "ablations.csv", known)
            (args.results / "ablations.md").write_text(markdown(known), encoding="utf-8")
        shutil.rmtree(output)


def rows(plan: dict) -> list[dict]:
    """The variants as rows of `reproduce`, with the `part` and the name (`tried`) of each."""
    return [
        {
            "part": part,
            "tried": name,
            "script": of["script"],
            "config": of["config"],
            "set": {**of["budget"], **change},
        }
        for part, of in plan.items()
        for name, change in of["tries"].items()
    ]


def settings_of(row: dict) -> tuple[str, ...]:
    """The settings by which a variant is known, from a row or from a line of the table."""
    changes = row["settings"] if "settings" in row else json.dumps(row["set"])
    return row["part"], row["tried"], row["config"], changes


def line(row: dict, training: dict) -> dict:
    """A line of the table, from the `training.json` of a variant."""
    return {
        "part": row["part"],
        "tried": row["tried"],
        "metric": METRIC[row["script"]],
        "validation": training["best"]["validation_metric"],
        "best_epoch": training["best"]["epoch"],
        "epochs": training["best"]["epochs_trained"],
        "images": training["dataset"]["splits"]["validation"]["rows"],
        "config": row["config"],
        "settings": json.dumps(row["set"]),
    }


def read(file: Path) -> list[dict]:
    """The lines of a table; an empty list if it doesn't exist yet."""
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def finding(part: str, lines: list[dict]) -> str:
    """Which variants of a part differ from its recipe by more than another seed does, in a sentence."""
    (_, base), *others = [(line["tried"], float(line["validation"])) for line in lines if line["part"] == part]
    changes = {name: value - base for name, value in others}
    noise = abs(changes.pop("another seed", 0.0))
    worse = [name for name, change in changes.items() if change < -noise]
    better = [name for name, change in changes.items() if change > noise]
    loss = f"The {part} loses more than the noise with: {'; '.join(worse)}." if worse else ""
    gain = f"The {part} gains more than the noise with: {'; '.join(better)}." if better else ""
    return " ".join(said for said in (loss, gain) if said) or f"Nothing changes the {part} by more than the noise."


def markdown(lines: list[dict]) -> str:
    """The table as a page: each part's variants, and how far each is from the recipe."""
    text = [
        "# Ablations\n",
        " ".join(finding(part, lines) for part in dict.fromkeys(line["part"] for line in lines)) + "\n",
        "Written by `train/ablations.py`. Each row changes one thing in the recipe; all have the same small budget. "
        'Results are for the validation patients at the best epoch, with a threshold of 0.5. The row "another seed" '
        "shows the noise: differences of that size mean nothing. A small budget favors whatever learns fast, such as "
        "training without augmentation.",
    ]
    for part in dict.fromkeys(line["part"] for line in lines):
        own = [line for line in lines if line["part"] == part]
        base = float(own[0]["validation"])
        text += [f"\n## {part}\n", f"| variant | {own[0]['metric']} | change |", "| --- | ---: | ---: |"]
        for line in own:
            value = float(line["validation"])
            text.append(f"| {line['tried']} | {value:.3f} | {f'{value - base:+.3f}' if line is not own[0] else ''} |")
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    sys.exit(report_errors(main))
