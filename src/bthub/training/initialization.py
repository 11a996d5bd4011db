"""Initial weights: from ImageNet, from another run, or from a file."""

import hashlib
from pathlib import Path

import torch
from datasets import Dataset as Rows
from safetensors.torch import load
from torch import nn

from bthub.data.fingerprint import listed
from bthub.errors import BthubError
from bthub.models.classifier import create_classifier
from bthub.runs.folder import SPLIT, TRAINING, WEIGHTS, RunFolder
from bthub.runs.records import data_facts


def load_imagenet(model: nn.Module, architecture: str) -> None:
    """Start an encoder from the ImageNet weights that timm names for an architecture (needs the Hub)."""
    load_matching(model, create_classifier(architecture, 2, pretrained=True).state_dict(), f"ImageNet's {architecture}")


def load_weights(model: nn.Module, source: str, validation: Rows) -> dict:
    """Start from all weights of a run, or of a `.safetensors` file with timm's names; returns where they are from."""
    state, origin = initial_weights(source, validation)
    load_matching(model, state, source)
    return origin


def load_encoder(model: nn.Module, source: str, validation: Rows) -> dict:
    """Start from the encoder of a ResUNet run, or from such a file; returns where the weights are from."""
    state, origin = initial_weights(source, validation)
    encoder = {key.removeprefix("encoder."): v for key, v in state.items() if key.startswith("encoder.")}
    load_matching(model, encoder or state, f"the encoder of {source}")
    return origin


def initial_weights(source: str, validation: Rows) -> tuple[dict[str, torch.Tensor], dict]:
    """The weights of a run, or of a `.safetensors` file with timm's names.

    Args:
        source: run folder, local or on the Hub, or the file.
        validation: the rows that the new run is validated on.

    Returns:
        The weights, and where they are from: `source`, the run or the file; `weights`, the first 12 digits of their
        digest; `lgg`, whether they are derived from LGG, whose license they then carry on.

    Raises:
        BthubError: the file isn't there, or the run was trained on some of these rows, as it is under another protocol.
    """
    path = Path(source)
    if path.suffix == ".safetensors" and not path.is_file():
        raise BthubError(f"{source} isn't there: bthub imagenet-weights makes such files from installed packages")
    name, lgg = path.name, False
    if path.suffix != ".safetensors" or (path.parent / TRAINING).is_file():
        folder = RunFolder.open(path.parent if path.suffix == ".safetensors" else source)
        seen = listed(validation, folder.rows(SPLIT), "train")
        if seen:
            raise BthubError(
                f"{source} was trained on {len(seen)} of the {len(validation)} images that this run is validated on, "
                f"under the protocol {folder.training.protocol!r}: start from a run that was trained "
                "under the same protocol"
            )
        path, name = folder.path / WEIGHTS, folder.id
        origins = folder.training.initial_weights
        lgg = data_facts(folder).license is not None or any(origin.lgg for origin in origins)
    content = path.read_bytes()
    origin = {"source": name, "weights": f"sha256:{hashlib.sha256(content).hexdigest()[:12]}", "lgg": lgg}
    return {key: value.float() for key, value in load(content).items()}, origin


def load_matching(model: nn.Module, source: dict[str, torch.Tensor], name: str) -> None:
    """Copy all weights that the source has in the same shape: it may have more layers than the model, or another head.

    Raises:
        BthubError: more than a tenth of the model's weights below its head aren't among them.
    """
    own = model.state_dict()
    # timm's encoders of some networks join nested names: features.conv0 is features_conv0 there.
    names = {key.replace(".", "_"): key for key in own}
    source = {names.get(key.replace(".", "_"), key): value for key, value in source.items()}
    copied = {key: v for key, v in source.items() if key in own and v.shape == own[key].shape}
    head = head_keys(model)
    lacking = own.keys() - copied.keys() - head
    if 10 * len(lacking) > len(own.keys() - head):
        raise BthubError(
            f"{name} lack {len(lacking)} of the model's weights, such as {min(lacking)}: is it the same architecture?"
        )
    model.load_state_dict(copied, strict=False)


def head_keys(model: nn.Module) -> set[str]:
    """Names of the weights of a classifier's head; none for an encoder."""
    if not hasattr(model, "get_classifier"):
        return set()
    head = model.get_classifier()
    prefix = next(name for name, module in model.named_modules() if module is head)
    return {f"{prefix}.{key}" for key in head.state_dict()}
