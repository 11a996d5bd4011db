"""The configuration of a training script: YAML, `--set key=value`, and the dry run's small one."""

import argparse
import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin

import numpy as np
import yaml

from bthub.errors import BthubError, named_path
from bthub.training.ranges import check_ranges

if TYPE_CHECKING:
    from datasets import Dataset as Rows

CONFIGS = Path(__file__).with_name("configs")
"""The recipes: a YAML file each."""
EXPERIMENTS = Path(__file__).with_name("experiments.yaml")
"""The runs of the comparison: a recipe each, its data set, and what it changes."""
DRY_ROWS = 8


def parse_config(
    kind: type, description: str, arguments: Sequence[str] | None = None, prog: str | None = None
) -> tuple[Any, argparse.Namespace]:
    """The configuration of a script: its dataclass's defaults, then the YAML file, then `--set key=value`.

    Args:
        kind: the dataclass.
        description: one line for `--help`.
        arguments: None for those of the command line.

    Returns:
        An instance of `kind`, and the other arguments: `data`, `output`, `resume`, `finish`, `dry_run`, and `recipe`:
        the `file` of the configuration, and what it says of each value that was `changed`.
    """
    parser = argparse.ArgumentParser(prog, description=description)
    parser.add_argument(
        "--config", type=named_path, required=True, help="a recipe by name, such as resnet18-lgg, or a YAML file"
    )
    parser.add_argument("--data", default="data/lgg", help="folder of `bthub data build`, or a Hub id")
    parser.add_argument("--output", type=named_path, required=True, help="the run folder to write")
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint, if there is one")
    parser.add_argument(
        "--finish", action="store_true", help="stop training here: make the run folder from the last checkpoint"
    )
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="change values of the configuration"
    )
    parser.add_argument("--dry-run", action="store_true", help="smoke test: two steps on a few tiny images")
    args = parser.parse_args(arguments)
    args.resume |= args.finish
    args.config = find_config(args.config)
    try:
        written = yaml.load(args.config.read_text(encoding="utf-8"), _Yaml) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise BthubError(f"can't read the configuration {args.config}, expected YAML in UTF-8: {reason}") from error
    if not isinstance(written, dict):
        raise BthubError(f"can't read the configuration {args.config}: expected keys and values, found {written!r}")
    values = dict(written)
    for setting in args.set:
        key, equals, value = setting.partition("=")
        if not equals:
            raise BthubError(f"--set {setting}: expected KEY=VALUE")
        try:
            values[key] = yaml.load(value, _Yaml)
        except yaml.YAMLError as error:
            raise BthubError(f"--set {setting}: the value isn't YAML ({' '.join(str(error).split())})") from error
    config = build_config(kind, values, str(args.config))
    check_ranges(config, str(args.config))
    args.recipe = recipe(args.config, build_config(kind, written, str(args.config)), config)
    return (shrink(config) if args.dry_run else config), args


def find_config(given: Path) -> Path:
    """A configuration file, or the recipe of bthub that has this name.

    Args:
        given: a path, or a name such as `resnet18-lgg` or `papers/vgg-densenet-resnet`. A path like
            `train/configs/NAME.yaml`, where recipes once were, means the recipe.

    Raises:
        BthubError: there is neither.
    """
    if given.is_file():
        return given
    parts = given.parts
    name = Path(*parts[parts.index("configs") + 1 :]) if "configs" in parts[:-1] else given
    found = CONFIGS / name.with_name(f"{name.name.removesuffix('.yaml')}.yaml")
    if not found.is_file():
        names = sorted(path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml"))
        raise BthubError(f"can't read the configuration {given}: no such file; the recipes are {', '.join(names)}")
    return found


def recipe(file: Path, written: Any, config: Any) -> dict:
    """Which configuration file a run follows, and the file's values where the run has others.

    Args:
        file: of the configuration; below a folder `configs` it is named from there.
        written: the configuration that the file makes by itself.
        config: the one that the run has.
    """
    parts = file.parts
    name = Path(*parts[parts.index("configs") + 1 :]) if "configs" in parts else Path(file.name)
    there, here = dataclasses.asdict(written), dataclasses.asdict(config)
    # How many processes read the images changes nothing.
    changed = {key: value for key, value in there.items() if key != "workers" and value != here[key]}
    return {"file": name.as_posix(), "changed": changed}


class _Yaml(yaml.SafeLoader):
    """YAML 1.2, as people write it: 1e-4 is a number and no is a word. PyYAML's 1.1 has a word and False."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in known if not tag.endswith((":bool", ":float"))]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Yaml.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"(true|false)$", re.IGNORECASE), list("tTfF"))


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?$|[-+]?\.inf$|\.nan$", re.IGNORECASE),
    list("-+.0123456789"),
)


def shrink(config: Any) -> Any:
    """The same recipe for a dry run: tiny, brief, and from random weights, because others may not be there yet."""
    freezes = getattr(config, "freeze_epochs", 0) > 0
    tiny = {
        "pretrained": False,
        "encoder_from": None,
        "weights_from": None,
        "source_shares": {},
        "epoch_samples": None,
        # Both phases of a recipe that freezes are gone through.
        "epochs": 2 if freezes else 1,
        "freeze_epochs": int(freezes),
        "lr_finder_steps": 10,
        "image_sizes": {0: 64},
        "batch_size": DRY_ROWS // 2,
        "accumulation": 1,
        "workers": 0,
    }
    fields = {field.name for field in dataclasses.fields(config)}
    return dataclasses.replace(config, **{key: value for key, value in tiny.items() if key in fields})


def few(rows: "Rows") -> "Rows":
    """What a dry run sees of a split: DRY_ROWS of its rows, as many of each class as there are."""
    labels = np.array(rows["label"][:])
    # The first of each class, then the second of each, and so on.
    rank = [int((labels[:i] == label).sum()) for i, label in enumerate(labels)]
    return rows.select(sorted(np.argsort(rank, kind="stable")[:DRY_ROWS].tolist()))


def build_config(kind: type, values: dict, name: str) -> Any:
    """Fill a dataclass (and the dataclasses in it) from a mapping; an unknown key or kind of value is an error."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = set(values) - set(fields)
    if unknown:
        raise BthubError(
            f"{name}: unknown key {', '.join(sorted(map(str, unknown)))}; expected some of {', '.join(fields)}"
        )
    for key, value in values.items():
        expected = dict if dataclasses.is_dataclass(fields[key].type) else fields[key].type
        if not _is_a(expected, value):
            raise BthubError(f"{name}: {key} is {value!r}, expected {getattr(expected, '__name__', expected)}")
    filled = {
        key: build_config(fields[key].type, value, f"{name}: {key}")
        if dataclasses.is_dataclass(fields[key].type)
        else value
        for key, value in values.items()
    }
    return kind(**filled)


def _is_a(kind: Any, value: Any) -> bool:
    """Whether a value from YAML fits the type of a field."""
    if isinstance(kind, UnionType):
        return any(_is_a(each, value) for each in get_args(kind))
    if isinstance(value, bool):
        return kind is bool
    # A whole number is a number; what is in a list or a mapping shows when it is used.
    return isinstance(value, (int, float) if kind is float else get_origin(kind) or kind)


def size_at(sizes: dict[int, int], epoch: int) -> int:
    """The image size of an epoch, from {first epoch: size}; the last one is the size that is saved and used."""
    if 0 not in sizes:
        raise BthubError(f"image_sizes {sizes}: expected one from epoch 0 on, as in {{0: 128, 10: 192}}")
    return sizes[max(first for first in sizes if first <= epoch)]
