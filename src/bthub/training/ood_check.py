"""Fit the input check of a detector's pipeline, measure it, and save both in the detector's run folder.

    bthub imagenet-weights tf_efficientnet_lite0 data/imagenet-tf_efficientnet_lite0.safetensors
    bthub ood-check --data data/mix --run runs/lite0-mri --weights data/imagenet-tf_efficientnet_lite0.safetensors

References are slices of the train splits, the threshold comes from the validation splits, and test splits and outside
pictures are only measured. No label is looked at. Slices of LGG are three sequences in color; each of them alone, in
gray, counts as slices too, because that is what a person may hand in. A linear layer on the same features then tells
FLAIR in gray from other gray slices.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import timm
import torch
from datasets import Dataset as Rows
from PIL import Image
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from bthub.data.dataset import BuiltDataset, load_split
from bthub.data.fingerprint import describe_rows
from bthub.data.progress import progress_bar
from bthub.data.views import FLAIR_ALONE, THREE_SEQUENCES, View, show, views
from bthub.errors import BthubError, named_path, report_errors
from bthub.imaging.image_io import upright_rgb
from bthub.imaging.kinds import FLAIR_LIKE, OTHER_MRI, drawings
from bthub.models.input_check import InputCheck, describe, load_input_check, save_input_check
from bthub.runs.folder import INPUT_CHECK, INPUT_CHECK_WEIGHTS, ONNX_INPUT_CHECK, RunFolder, provenance, write_json
from bthub.training.ood_images import Outside, outside_pictures

ARCHITECTURE = "tf_efficientnet_lite0"
SIZE = 128
BATCH = 32
REFERENCES = 800
"""At most so many of the slices to train on, spread as widely as they are."""
NEIGHBORS = 3
KIND_C = 100.0
"""Inverse strength of the linear layer's penalty: features have unit length, so weights must be able to grow."""
PASSED = 0.995
"""Share of the slices of each validation split that the threshold lets pass."""
VERSIONS = ("bthub", "torch", "timm", "pillow")
Slices = tuple[str, str, str]
"""Which slices: name of their set or source, split, and `View.name`."""


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    parser = argparse.ArgumentParser(prog, description=__doc__.split("\n")[0])
    parser.add_argument("--data", nargs="+", required=True, help="folders of `bthub data build`")
    parser.add_argument("--weights", type=named_path, required=True, help="weights file of `bthub imagenet-weights`")
    parser.add_argument("--run", type=named_path, required=True, help="the detector's run folder")
    args = parser.parse_args(arguments)
    run = RunFolder.open(args.run)
    outside = outside_pictures()  # before anything takes long: a file may be missing
    network = load_network(args.weights)

    sources, slices = [], {}
    for data in args.data:
        for split, all_rows in splits(data):
            for name, rows in by_source(Path(data).name, all_rows):
                sources.append({"dataset": name, "split": split, **describe_rows(rows)})
                by_view: dict[str, list[View]] = {}
                for view in views(rows):
                    by_view.setdefault(view.name, []).append(view)
                for shown_as, shown in by_view.items():
                    images = (show(upright_rgb(rows[view.row]["image"]), shown_as) for view in shown)
                    key = (name, split, shown_as)
                    slices[key] = described(network, images, " ".join(key), len(shown))
    check = fit(network, slices)
    (run.path / ONNX_INPUT_CHECK).unlink(missing_ok=True)  # of the old one: `bthub export` writes it anew
    save_input_check(check, run.path / INPUT_CHECK_WEIGHTS)
    record = {
        "architecture": ARCHITECTURE,
        "image_size": SIZE,
        "neighbors": NEIGHBORS,
        "threshold": check.threshold,
        "references": len(check.references),
        "kinds": list(check.kinds),
        "criterion": f"about {PASSED:.1%} of the slices of each validation split pass",
        "data": sources,
    }
    write_json(run.path / INPUT_CHECK, record)
    # Measured with what was saved, as it will be used.
    saved = load_input_check(run.path / INPUT_CHECK, run.path / INPUT_CHECK_WEIGHTS)
    record["slices"] = [
        {
            "dataset": data,
            "split": split,
            "colors": view,
            **refused(saved, found),
            **({} if view == THREE_SEQUENCES else told(saved, found)),
        }
        for (data, split, view), found in slices.items()
        if split != "train"
    ]
    found = described(network, (p.image for p in outside), "outside pictures", len(outside))
    record |= measure_outside(saved, outside, found)
    names = " ".join(Path(data).name for data in args.data)
    command = f"bthub ood-check --data {names} --weights {args.weights.name} --run {run.id}"
    record |= provenance(command, VERSIONS)
    write_json(run.path / INPUT_CHECK, record)
    print(summary(record))


def load_network(weights: Path) -> nn.Module:
    """The network without its classifier, in the half precision that it is saved in."""
    network = timm.create_model(ARCHITECTURE, num_classes=0)
    try:
        state = load_file(weights)
        network.load_state_dict({name: state[name].half() for name in network.state_dict()})
    except (OSError, KeyError, RuntimeError) as error:
        raise BthubError(
            f"{weights} doesn't hold the weights of {ARCHITECTURE} ({type(error).__name__}): write it with "
            f"bthub imagenet-weights {ARCHITECTURE} {weights}"
        ) from error
    return network.float().eval().to(memory_format=torch.channels_last)


def splits(data: str) -> Iterator[tuple[str, Rows]]:
    """Name and rows of the splits that are looked at, those of LGG by patient."""
    there = BuiltDataset(data).splits()
    if "train" not in there or "validation" not in there:
        raise BthubError(f"{data} has the splits {', '.join(there)}, expected train and validation at least")
    for split in ("train", "validation", "test"):
        if split in there:
            yield split, load_split(data, split)


def by_source(name: str, rows: Rows) -> Iterator[tuple[str, Rows]]:
    """The sources of a mixture, each by itself; any other set whole, under its own name."""
    if "source" not in rows.column_names:
        yield name, rows
        return
    source = rows["source"][:]
    for one in dict.fromkeys(source):
        yield one, rows.select([i for i, each in enumerate(source) if each == one])


class Described(NamedTuple):
    """What the check sees of N images: `features` (N, F), each of unit length, and `drawn`, bool (N,)."""

    features: Tensor
    drawn: np.ndarray


def described(network: nn.Module, images: Iterable[Image.Image], name: str, count: int) -> Described:
    rest = iter(progress_bar(images, desc=name, total=count))
    features, drawn = [], []
    while batch := list(islice(rest, BATCH)):
        features.append(describe(network, batch, SIZE))
        drawn.append(drawings(batch))
    return Described(torch.cat(features), np.concatenate(drawn))


def fit(network: nn.Module, slices: dict[Slices, Described]) -> InputCheck:
    """References and the linear layer from the train splits, the threshold from the validation splits."""
    train = {key: found.features for key, found in slices.items() if key[1] == "train"}
    check = InputCheck(network, SIZE, spread(torch.cat(list(train.values())), REFERENCES), NEIGHBORS, threshold=0.0)
    validation = [check.distances(found.features) for (_, split, _), found in slices.items() if split == "validation"]
    # Each by itself: a large split of slices that are easy to know must not hide what a small one loses.
    threshold = float(max(np.quantile(found, PASSED) for found in validation))
    gray = {key: found for key, found in train.items() if key[2] != THREE_SEQUENCES}
    is_flair = [key[2] == FLAIR_ALONE for key in gray]
    if len(set(is_flair)) < 2:  # no LGG, or nothing else: there is nothing to tell apart
        return replace(check, threshold=threshold)
    x = torch.cat(list(gray.values())).numpy()
    y = np.repeat(is_flair, [len(found) for found in gray.values()])
    # Every set and view weighs the same, so that the large ones don't decide.
    weight = np.concatenate([np.full(len(found), 1 / len(found)) for found in gray.values()])
    layer = LogisticRegression(C=KIND_C, max_iter=1000, class_weight="balanced").fit(x, y, weight / weight.mean())
    return replace(
        check,
        threshold=threshold,
        kinds=(FLAIR_LIKE, OTHER_MRI),
        kind_weight=torch.from_numpy(layer.coef_[0]).float(),
        kind_bias=torch.from_numpy(layer.intercept_).float(),
    )


def told(check: InputCheck, found: Described) -> dict[str, int]:
    """How many of some slices are taken for each kind of gray picture."""
    kinds = check.kinds_of(found.features)
    return {kind: kinds.count(kind) for kind in check.kinds}


def spread(features: Tensor, count: int) -> Tensor:
    """At most `count` rows: the nearest to the mean, then again and again the farthest from those taken.

    So a kind of slice that is rare has its reference too, and one that is frequent not many.
    """
    taken = [int((features - features.mean(dim=0)).norm(dim=1).argmin())]
    nearest = (features - features[taken[0]]).norm(dim=1)
    while len(taken) < min(count, len(features)):
        taken.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (features - features[taken[-1]]).norm(dim=1))
    return features[taken]


def accepted(check: InputCheck, found: Described) -> np.ndarray:
    return (check.distances(found.features) <= check.threshold) & ~found.drawn


def refused(check: InputCheck, found: Described) -> dict[str, int]:
    """How many of some slices are refused."""
    return {"samples": len(found.drawn), "refused": int((~accepted(check, found)).sum())}


def measure_outside(check: InputCheck, outside: list[Outside], found: Described) -> dict:
    """How many outside pictures of each half and kind are refused, and which are not."""
    passed = accepted(check, found).tolist()
    halves: dict[str, dict[str, dict[str, int]]] = {}
    for one, passes in zip(outside, passed, strict=True):
        count = halves.setdefault(one.half, {}).setdefault(one.kind, {"samples": 0, "refused": 0})
        count["samples"] += 1
        count["refused"] += not passes
    return {
        "outside": halves,
        "outside_accepted": [one.name for one, passes in zip(outside, passed, strict=True) if passes],
    }


def summary(record: dict) -> str:
    lines = [f"threshold {record['threshold']:.4f}, {record['references']} references"]
    lines += [
        f"{entry['dataset']} {entry['split']}, {entry['colors']}: {entry['refused']} of {entry['samples']} refused"
        + "".join(f", {entry[kind]} {kind}" for kind in record["kinds"] if kind in entry)
        for entry in record["slices"]
    ]
    for half, kinds in record["outside"].items():
        lines += [f"{half}, {kind}: {n['refused']} of {n['samples']} refused" for kind, n in kinds.items()]
    return "\n".join([*lines, f"accepted: {', '.join(record['outside_accepted']) or 'none'}"])


if __name__ == "__main__":
    sys.exit(report_errors(main))
