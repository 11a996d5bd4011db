"""A run folder is a Hub repo: what training writes is what everything else reads.

    runs/resnet18-lgg/
        config.json               the model: timm's format (classifier, with preprocessing) or transformers' (ResUNet)
        model.safetensors         half-precision weights, calibration folded in
        preprocessor_config.json  ResUNet: its image processor
        *.py                      remote code, of a network that neither timm nor transformers knows
        training.json             configuration, environment, data, protocol, best epoch
        split.csv                 every sample that the run was given, and in which split; where runs side by side were
                                  given the same ones, ../splits/<data set>-<protocol>.csv holds it once
        history.csv               one row an epoch
        lr_finder.csv             one row a step of the learning-rate finder, where the recipe asks for it
        calibration.json          what was fitted on validation: temperature, thresholds, referral band
        input_check.json          `bthub ood-check`: how a detector's pipeline tells what isn't a slice, and how well
        input_check.safetensors   its network and reference features, in half precision
        metrics.json              `bthub evaluate`: one entry a protocol and split
        sources.json              `bthub evaluate`: of a run trained on a mixture, the metrics of each source and kind
        predictions/              `bthub evaluate` and `bthub explain`: one row an image
        gradcam.json              `bthub explain`: how much of a detector's Grad-CAM lies on the tumor
        onnx/                     `bthub export`: the same networks for onnxruntime, and for 8-bit integers
        cost.json                 `bthub cost`: parameters, multiply-adds, time; which weights, their types and size
        figures/                  `bthub evaluate` and `bthub card`: what the card shows
        README.md                 `bthub card`: rendered from the files above
        checkpoint/  logs/        to resume from and to look at while training; never published

The same folder, local or on the Hub, is what `pipeline()`, the apps and `publish` read.
"""

import csv
import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from bthub.data.network import check_hub, client_errors, hub_trouble
from bthub.errors import BthubError
from bthub.project import COMPARISON, shipped_runs
from bthub.runs import schema
from bthub.runs.names import renamed_columns
from bthub.runs.schema import Content

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PREPROCESSOR = "preprocessor_config.json"
TRAINING = "training.json"
SPLIT = "split.csv"
SPLITS = "splits"
HISTORY = "history.csv"
LR_FINDER = "lr_finder.csv"
CALIBRATION = "calibration.json"
INPUT_CHECK = "input_check.json"
INPUT_CHECK_WEIGHTS = "input_check.safetensors"
METRICS = "metrics.json"
SOURCES = "sources.json"
GRADCAM = "gradcam.json"
COST = "cost.json"
ONNX = "onnx"
ONNX_MODEL = "onnx/model.onnx"
ONNX_QUANTIZED = "onnx/model_quantized.onnx"
ONNX_INPUT_CHECK = "onnx/input_check.onnx"
ONNX_RECORD = "onnx/export.json"
ONNX_METRICS = "onnx/metrics.json"
PREDICTIONS = "predictions"
FIGURES = "figures"
CARD = "README.md"
CHECKPOINT = "checkpoint"
LOGS = "logs"

LOSING = ("roc_auc", "balanced_accuracy", "dice_volume_mean", "dice_tumor_slices")
"""The figures of which a backend may lose a little."""
LOSS_ALLOWED = 0.005
"""Largest drop allowed for the int8 network on test."""

CLASSIFICATION = "image-classification"
SEGMENTATION = "image-segmentation"


def _check_name(source: object) -> None:
    if not isinstance(source, (str, os.PathLike)) or not str(source):  # "" as a path would be the current folder
        raise BthubError(f"the run is {source!r}, expected a run folder or a Hub id: is a variable not set?")


def in_comparison(source: str | Path) -> str | Path:
    """`runs/NAME` as it is, or `runs/comparison/NAME` where only that is there."""
    moved = Path(source).parent / COMPARISON / Path(source).name
    return moved if not Path(source).is_dir() and (moved / CONFIG).is_file() else source


def holds_runs(source: str | Path) -> bool:
    """Whether a folder is no run but has some, as `runs/comparison`."""
    return bool(str(source)) and not (Path(source) / CONFIG).is_file() and any(Path(source).glob(f"*/{CONFIG}"))


def make_folder(path: Path) -> None:
    """Make a folder for results, unless it is there.

    Raises:
        BthubError: it can't be made, or there is a file of this name.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BthubError(f"{path}: the output folder cannot be made ({error.strerror}): name another one") from error


@contextmanager
def results_in(folder: Path) -> Iterator[None]:
    """Make a folder for what the block writes.

    Raises:
        BthubError: it can't be made, or something in it can't be written.
    """
    make_folder(folder)
    try:
        yield
    except OSError as error:
        raise BthubError(
            f"{folder}: the results cannot be written ({error.strerror or error}): free space or name another folder"
        ) from error


def create(path: str | Path, resume: bool = False) -> Path:
    """Make the folder of a new run; refuse to write over another one.

    Args:
        path: the folder to make.
        resume: go on with the run that is there. A folder without a checkpoint is then started anew, unless it
            already holds finished weights.
    """
    path = Path(path)
    if (path / WEIGHTS).exists():
        raise BthubError(f"{path} holds a finished run: choose another output folder, or remove this one")
    if path.is_dir() and any(path.iterdir()) and not resume:
        raise BthubError(f"{path} isn't empty: add --resume to go on with the run in it, or choose another folder")
    make_folder(path)
    return path


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A folder to write a network to, from which all goes into the run folder at the end.

    The weights go last: where they are, the run is finished, and a kill before that leaves one that can be resumed.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished-") as name:
        yield Path(name)
        for file in sorted(Path(name).iterdir(), key=lambda file: file.name == WEIGHTS):
            file.replace(folder / file.name)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write, which then takes the place of another: a reader sees the old one or the new one, never half."""
    temporary = path.with_name(path.name + ".tmp")
    yield temporary
    temporary.replace(path)


def write_json(path: Path, content: dict[str, Any] | msgspec.Struct) -> None:
    """Write JSON in this way. Bytes of a file's name that aren't UTF-8 become escapes, which are read as the same."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False, default=msgspec.to_builtins) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def provenance(command: str, packages: Sequence[str] = (), **environment: str) -> dict[str, Any]:
    """What wrote an entry, when, and with which versions of the packages."""
    found: dict[str, Any] = {"command": command, "date": datetime.now(UTC).isoformat(timespec="seconds")}
    versions = {"python": platform.python_version(), **{name: version(name) for name in packages}}
    return found | ({"environment": versions | environment} if packages else {})


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write a CSV file with a header, in the same way."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


@dataclass(frozen=True)
class RunFolder:
    """A run to read. Use `RunFolder.open`.

    Attributes:
        path: where its files are on this machine.
        id: the folder's name, or the Hub id.
        revision: the Hub's commit, or `sha256:` and the first 12 digits of the weights' digest for a local folder; of
            one that doesn't hold them what `cost.json` says.
    """

    path: Path
    id: str
    revision: str

    @classmethod
    def open(
        cls, source: "str | Path | RunFolder", revision: str | None = None, *, weights: bool = True, onnx: bool = False
    ) -> "RunFolder":
        """Open a local run folder or a Hub repo.

        Args:
            source: a folder, or `org/name` on the Hub (downloaded once, then read from the cache).
            revision: branch, tag or commit on the Hub.
            weights: False for what reads figures alone: a local folder need not hold its weights, as in a clone that
                ships the figures of all runs and the weights of a few. From the Hub they aren't fetched.
            onnx: fetch from the Hub what `bthub export` wrote, too; a run that has it need not hold the weights.

        Raises:
            BthubError: nothing there, or what is there isn't a run.
        """
        if isinstance(source, RunFolder):
            return source
        _check_name(source)
        source = in_comparison(source)
        if Path(source).is_dir():
            if revision is not None:
                raise BthubError(f"{source} is a local folder, which has no revision {revision!r}: leave out revision")
            run = cls(Path(source), Path(source).resolve().name, "")
            run._check(weights, onnx)
            if (run.path / WEIGHTS).exists():
                digest = hashlib.sha256((run.path / WEIGHTS).read_bytes()).hexdigest()
                return cls(run.path, run.id, f"sha256:{digest[:12]}")
            return cls(run.path, run.id, run.cost.weights if (run.path / COST).is_file() else "")
        if any(Path(source).parent.glob(f"*/{CONFIG}")):
            # Not to be looked up on the Hub, where anyone may own the name "runs".
            raise BthubError(
                f"{Path(source).parent} has runs, but no {Path(source).name}: choose one of its folders, or, for a "
                f"run of the comparison, train it with `make reproduce RUN={Path(source).name}`"
            )
        run = cls(*_download(str(source), revision, weights, onnx))
        run._check(weights, onnx)
        return run

    @classmethod
    def local(cls, path: str | Path, *, weights: bool = True) -> "RunFolder":
        """Open a run folder of this machine, for what writes into it.

        Raises:
            BthubError: it isn't a folder here, or not a run.
        """
        _check_name(path)
        path = in_comparison(path)
        if not Path(path).is_dir():
            raise BthubError(
                f"{path} isn't a local folder: download the run first, because results are written into it"
            )
        return cls.open(path, weights=weights)

    def same_weights(self, weights: str) -> bool:
        """Whether it has the weights of this revision, or is from the Hub, whose commits don't tell."""
        return not self.revision.startswith("sha256:") or weights == self.revision

    def check_weights(self, what: str, weights: str, command: str) -> None:
        """Refuse figures that were measured with other weights than the folder has.

        Args:
            what: the figures, for the message.
            weights: the revision that they were measured with.
            command: what measures them.
        """
        if not self.same_weights(weights):
            raise BthubError(
                f"{self.id}: {what} was measured with the weights {weights}, but the folder now has {self.revision}: "
                f"run {command} again with the paths of the folders"
            )

    @property
    def task(self) -> str:
        """`image-classification` or `image-segmentation`."""
        return SEGMENTATION if self.config.get("model_type") == "resunet" else CLASSIFICATION

    def require(self, task: str) -> None:
        """Refuse a run of the other task."""
        if self.task != task:
            raise BthubError(f"{self.id} is made for {self.task}, expected {task}: swap detector and localizer?")

    @cached_property
    def config(self) -> dict[str, Any]:
        return self._json(CONFIG)

    @cached_property
    def training(self) -> schema.Training:
        return self._read(TRAINING, schema.Training)

    @property
    def detector_calibration(self) -> schema.DetectorCalibration:
        """What was fitted for a classifier.

        Raises:
            BthubError: the run is a localizer, or its file isn't laid out so.
        """
        return self._read(CALIBRATION, schema.DetectorCalibration)

    @property
    def localizer_calibration(self) -> schema.LocalizerCalibration:
        """What was chosen for a ResUNet; it raises like `detector_calibration`."""
        return self._read(CALIBRATION, schema.LocalizerCalibration)

    @property
    def detector_config(self) -> schema.ClassifierConfig:
        """What a classifier is; it raises like `detector_calibration`."""
        return self._read(CONFIG, schema.ClassifierConfig)

    @property
    def localizer_config(self) -> schema.LocalizerConfig:
        """What a ResUNet is; it raises like `detector_calibration`."""
        return self._read(CONFIG, schema.LocalizerConfig)

    @cached_property
    def input_check(self) -> schema.InputCheck:
        return self._read(INPUT_CHECK, schema.InputCheck)

    @cached_property
    def preprocessor(self) -> schema.Preprocessor:
        return self._read(PREPROCESSOR, schema.Preprocessor)

    @cached_property
    def metrics(self) -> dict[str, schema.Measured]:
        """The entries of `bthub evaluate`, by `<protocol>/<split>`."""
        return self._read(METRICS, dict[str, schema.Measured])

    @cached_property
    def sources(self) -> dict[str, schema.MeasuredSources]:
        """The entries of `bthub evaluate` on a mixture, by split; none where it wasn't run on one."""
        return self._read(SOURCES, dict[str, schema.MeasuredSources], {})

    @cached_property
    def gradcam(self) -> dict[str, schema.GradCam]:
        """The entries of `bthub explain`; none where it wasn't run."""
        return self._read(GRADCAM, dict[str, schema.GradCam], {})

    @cached_property
    def cost(self) -> schema.Cost:
        return self._read(COST, schema.Cost)

    @cached_property
    def onnx(self) -> schema.Export:
        """What `bthub export` wrote of its files; without any where the run has none."""
        return self._read(ONNX_RECORD, schema.Export, schema.Export())

    @cached_property
    def onnx_metrics(self) -> dict[str, dict[str, schema.MeasuredBackend]]:
        """What `bthub evaluate --backend` found, by backend and `<protocol>/<split>`; empty where it was not run."""
        return self._read(ONNX_METRICS, dict[str, dict[str, schema.MeasuredBackend]], {})

    def record(self, file: str, entry: dict[str, Any], *keys: str) -> "RunFolder":
        """Put an entry into a JSON file of the run, beside those that are there by now.

        Args:
            file: its name.
            entry: what is written.
            keys: where it goes, an inner key after the outer one.

        Returns:
            The run as it is then: a folder remembers what it has read.
        """
        content = self._json(file) if (self.path / file).exists() else {}
        place = content
        for key in keys[:-1]:
            place = place.setdefault(key, {})
        place[keys[-1]] = entry
        write_json(self.path / file, content)
        return replace(self)

    def quantized_ships(self) -> bool:
        """Whether the eight-bit network may stand in for the other: on test it lost at most LOSS_ALLOWED of a figure.

        One that was measured in another state, or not at all, doesn't.
        """
        file = self.onnx.files.get(ONNX_QUANTIZED)
        measured = [
            entry
            for key, entry in self.onnx_metrics.get("int8", {}).items()
            if file and key.endswith("/test") and entry.file_sha256 == file.sha256
        ]
        return bool(measured) and all(entry.loss <= LOSS_ALLOWED for entry in measured)

    def predictions(self, key: str) -> list[dict[str, str]]:
        """The rows of the predictions of `<protocol>/<split>`, for example `patient/test`."""
        return self.rows(f"{PREDICTIONS}/{key.replace('/', '-')}.csv")

    @property
    def split_file(self) -> Path:
        """`split.csv`: the run's own, or else the one that it shares with the runs beside it."""
        own = self.path / SPLIT
        if own.is_file() or not (self.path / TRAINING).is_file():
            return own
        shared = f"{self.training.dataset.name}-{self.training.protocol}.csv"
        found = self.path.parent / SPLITS / shared
        return found if found.is_file() else own

    def rows(self, name: str) -> list[dict[str, str]]:
        """The rows of a CSV file of the run."""
        path = self._file(name)
        try:
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                reader.fieldnames = renamed_columns(reader.fieldnames or ())
                return list(reader)
        except (UnicodeDecodeError, csv.Error) as error:
            raise BthubError(
                f"{path} isn't a table in CSV and UTF-8 ({error}): restore it or write it again"
            ) from error

    def _read(self, name: str, kind: type[Content], none: Content | None = None) -> Content:
        """A file as a class of `schema`, or `none`, where that is given and the file isn't there."""
        if none is not None and not (self.path / name).is_file():
            return none
        return schema.read(self._file(name), self.id, kind)

    def _json(self, name: str) -> dict[str, Any]:
        try:
            content = json.loads(self._file(name).read_bytes())
        except ValueError as error:
            raise BthubError(f"{self.path / name} isn't valid JSON ({error}): restore it or train again") from error
        if not isinstance(content, dict):
            raise BthubError(
                f"{self.path / name} holds {json.dumps(content)[:40]}, expected an object: restore it or train again"
            )
        return content

    def _file(self, name: str) -> Path:
        file = self.split_file if name == SPLIT else self.path / name
        if not file.is_file():
            hint = {
                METRICS: "bthub evaluate writes it",
                COST: "bthub cost writes it",
                CARD: "bthub card writes it",
                WEIGHTS: self._weights_hint(),
            }.get(name.split("/")[0], "the folder isn't a complete run")
            raise BthubError(f"{self.id} has no {name} (looked at {file}): {hint}")
        return file

    def _weights_hint(self) -> str:
        """What to do about a run without weights: a clone ships the records of all runs, but the weights of a few."""
        if "/" in self.id:
            return "give the Hub id of a detector or of a localizer, whose repos hold weights"
        others = [run.name for run in shipped_runs() if (run / WEIGHTS).is_file()]
        have = f" Runs with weights here: {', '.join(others)}." if others else ""
        return (
            f"this run comes without its weights.{have} To train it again, if it is a run of "
            f"the comparison: make reproduce RUN={self.path.name}"
        )

    def _check(self, weights: bool = True, onnx: bool = False) -> None:
        if holds_runs(self.path):
            raise BthubError(
                f"{self.path} is a folder of runs, not a run: name one of them, or all with {self.path}/*/"
            )
        needed_file = weights and not (onnx and (self.path / ONNX_MODEL).is_file())
        for name in (CONFIG, WEIGHTS) if needed_file else (CONFIG,):
            self._file(name)
        # What a network is made from; figures alone are read without.
        needed = {"architecture", "num_classes", "label_names", "pretrained_cfg"} if weights else {"architecture"}
        lacking = needed - self.config.keys()
        if self.task == CLASSIFICATION and lacking:
            raise BthubError(
                f"{self.path / CONFIG} has no {', '.join(sorted(lacking))}: it isn't a run of bthub, which "
                "`bthub train` writes"
            )


def _download(repo_id: str, revision: str | None, weights: bool, onnx: bool) -> tuple[Path, str, str]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    patterns = ["*.json", "*.py", "*.csv", *(["*.safetensors"] if weights else []), *(["onnx/*"] if onnx else [])]
    check_hub()
    try:
        path = snapshot_download(repo_id, revision=revision, allow_patterns=patterns)
    except HFValidationError as error:
        raise BthubError(f"{repo_id} is neither a folder here nor a Hub id like org/name") from error
    except RevisionNotFoundError as error:
        raise BthubError(f"{repo_id} has no revision {revision!r} on the Hub") from error
    except RepositoryNotFoundError as error:
        raise BthubError(
            f"{repo_id} is neither a folder here nor a repo on the Hub that this token may read"
        ) from error
    except client_errors() as error:
        raise BthubError(
            f"{repo_id} isn't a folder here, and it can't be downloaded from the Hub: {hub_trouble(error)}"
        ) from error
    # The last part of a snapshot's path is the commit that was fetched.
    return Path(path), repo_id, Path(path).name
