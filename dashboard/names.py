"""Networks and runs in words: `resnet18-lgg` is read as "ResNet-18"."""

import re
from collections.abc import Iterable

from bthub.data.splits import FOLD_PROTOCOLS
from bthub.errors import BthubError
from bthub.evaluation import published
from bthub.runs import records
from bthub.runs.folder import SEGMENTATION, RunFolder
from bthub.runs.records import Evaluation

# Data sets as a class reads them; what isn't here keeps its name.
DATA = {
    "lgg": "LGG",
    "4class": "the 4-class set",
    "4class-unlike-253": "the 4-class set, without pictures that are also in the 253 set",
    "253": "the 253 set",
    "t1": "the T1 set",
    "mix": "the mixture of sets",
}
# As the papers write them; what isn't here keeps timm's name.
FAMILIES = {
    r"resnet(\d+)": r"ResNet-\1",
    r"vgg(\d+)(_bn)?": r"VGG\1",
    r"densenet(\d+)": r"DenseNet-\1",
    r"efficientnet_b(\d)": r"EfficientNet-B\1",
    r"tf_efficientnet_lite(\d)": r"EfficientNet-Lite\1",
    r"simple_cnn": "Simple CNN",
}


def architecture(name: str) -> str:
    """A network of timm in words."""
    plain = name.removesuffix("_mlp_head")
    for pattern, words in FAMILIES.items():
        if found := re.fullmatch(pattern, plain):
            return found.expand(words)
    return plain


def data_set(name: str) -> str:
    """A built data set in words."""
    return DATA.get(name, name)


def source(key: str) -> str:
    """A source of a mixture, with the view of it, in words: "lgg, FLAIR" is read as "LGG, FLAIR"."""
    data, *view = key.split(", ")
    return ", ".join([data_set(data).removeprefix("the "), *view])


def evaluation(of: Evaluation) -> str:
    """What was measured, in words: "LGG, test patients"."""
    data = data_set(of.data).removeprefix("the ")
    if of.protocol == "patient":
        return f"{data}, {of.split} patients"
    if of.protocol == "slice":
        return f"{data}, {of.split} slices (split by slice)"
    if of.protocol in FOLD_PROTOCOLS:
        return f"{data}, {of.split} patients of {of.protocol.replace('-', ' ')}"
    return f"{data}, {of.split} pictures"


def protocol(name: str) -> str:
    """How a data set is split, in words."""
    words = {"patient": "by patient", "slice": "by slice", "default": "by picture"}
    return words.get(name, name.replace("-", " "))


def network(run: RunFolder) -> str:
    """The network of a run in words; a ResUNet with its encoder."""
    if run.task == SEGMENTATION:
        return f"ResUNet on {architecture(run.localizer_config.backbone)}"
    return architecture(records.network(run))


def qualifiers(run: RunFolder) -> list[str]:
    """What sets a run apart from the plain one of its network: another split, data set, start or recipe."""
    said = []
    if paper := published.recipe_of(records.name(run)):
        said.append(f"recipe of {paper}")
    protocol, data = records.trained_on(run)
    if protocol == "default":
        said.append(f"on {data_set(str(data))}")
    elif protocol == "slice":
        said.append("split by slice")
    elif protocol in FOLD_PROTOCOLS:
        said.append(str(protocol).replace("-", " "))
    elif data == "mix":
        said.append("any MRI")
    elif str(data).startswith("mix-without-"):  # a mixture that lacks a set
        said.append(f"all sets but {data_set(str(data).removeprefix('mix-without-'))}")
    elif str(data).startswith("mix-"):
        said.append(str(data).removeprefix("mix-").replace("-", " "))
    if run.task != SEGMENTATION and not paper and records.initialization(run) == "random":
        said.append("from scratch")
    return said


def start(initialization: str) -> str:
    """What a training started from, in words: of `records.initialization`."""
    kind, _, source = initialization.partition(" of ")
    if kind == "encoder":
        return "encoder of a ResUNet" if source.startswith("resunet") else "encoder of another run"
    return {"random": "random weights", "weights": "weights of another run"}.get(kind, f"{kind} weights")


def of_runs(runs: Iterable[RunFolder]) -> dict[str, str]:
    """Each run's name and how it is read; the first of those with the same words keeps them, others add their name.

    Args:
        runs: in the order of their importance.
    """
    words: dict[str, str] = {}
    for run in runs:
        name = records.name(run)
        try:
            apart = ", ".join(qualifiers(run))
            plain = f"{network(run)} ({apart})" if apart else network(run)
        except BthubError:  # the pages that read its recipe say what is wrong
            plain = f"{network(run)} ({name})"
        words[name] = plain if plain not in words.values() else f"{network(run)} ({name})"
    return words
