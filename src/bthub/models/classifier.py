"""timm classifiers: make one, save one as a Hub repo, load one.

The saved `config.json` is timm's own, which transformers reads too: the same folder loads with
`timm.create_model("local-dir:...")`, with `pipeline("image-classification")` and here, and the preprocessing it
names is the one used everywhere.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_data_config
from timm.layers import Conv2dSame
from timm.models import PretrainedCfg
from torch import Tensor, nn

from bthub.errors import BthubError
from bthub.imaging.labels import tumor_index
from bthub.models.mlp_head import BACKBONES, MlpHead, modeling_mlp_head
from bthub.models.simple_cnn import modeling_simple_cnn
from bthub.runs.folder import CLASSIFICATION, CONFIG, WEIGHTS, RunFolder, write_json, written_whole


def create_classifier(
    architecture: str,
    num_classes: int,
    *,
    pretrained: bool = False,
    drop_rate: float = 0.0,
    head_widths: Sequence[int] | None = None,
    head_dropout: Sequence[float] = (),
) -> nn.Module:
    """Make a timm classifier by name.

    Args:
        architecture: any timm name, or `simple_cnn`.
        num_classes: outputs.
        pretrained: ask the Hub for the ImageNet weights that timm names. What they expect of their input is folded
            into the first layer, so that they take what `preprocessing` gives.
        drop_rate: dropout before the head.
        head_widths: outputs of dense layers between the pooled features and the last layer, for the architectures
            that `mlp_head.BACKBONES` names; None for the architecture's own head.
        head_dropout: share dropped after each of them.
    """
    if not timm.is_model(architecture):
        close = ", ".join(timm.list_models(f"*{architecture[:6]}*")[:6])
        raise BthubError(f"timm has no architecture {architecture!r}" + (f"; close names: {close}" if close else ""))
    options = {"num_classes": num_classes, "drop_rate": drop_rate}
    if head_widths is None:
        model = timm.create_model(architecture, pretrained=pretrained, **options)
        # timm draws an EfficientNet's head as for a thousand classes: for two it would begin twenty times too large.
        last_linear(model).reset_parameters()
    else:
        if architecture not in BACKBONES:
            raise BthubError(f"head_widths doesn't work with {architecture!r}, only with {', '.join(BACKBONES)}")
        options |= {"head_widths": head_widths, "head_dropout": head_dropout, "pretrained_backbone": pretrained}
        model = timm.create_model(f"{architecture}_mlp_head", **options)
    if pretrained:
        fold_normalization(model, timm.models.get_pretrained_cfg(architecture))
    return model


def fold_normalization(model: nn.Module, pretrained_cfg: PretrainedCfg) -> None:
    """Fold "subtract the mean, divide by the deviation" of pretrained weights into the first convolution.

    The model then takes pixels of 0 to 1. All is as before but at the very edge, where the convolution's padding now
    is black, as a slice's background is, and not the mean color.

    Raises:
        BthubError: the first layer isn't a plain convolution that has a bias or that batch normalization follows.
    """
    mean, std = torch.tensor(pretrained_cfg.mean), torch.tensor(pretrained_cfg.std)
    name = pretrained_cfg.first_conv
    first = model.get_submodule(name)
    layers = [(path, layer) for path, layer in model.named_modules() if list(layer.parameters(recurse=False))]
    path, norm = layers[1 + [layer for _, layer in layers].index(first)]
    # In the same block: further down a shortcut may carry the constant past it.
    follows = isinstance(norm, nn.BatchNorm2d) and path.rpartition(".")[0] == name.rpartition(".")[0]
    if type(first) not in (nn.Conv2d, Conv2dSame) or (first.bias is None and not follows):
        raise BthubError(
            f"the pretrained {pretrained_cfg.architecture} begins with a {type(first).__name__} and a "
            f"{type(norm).__name__}, expected a plain convolution and batch normalization: start it from random weights"
        )
    with torch.no_grad():
        first.weight /= std.reshape(1, 3, 1, 1)
        shift = (first.weight * mean.reshape(1, 3, 1, 1)).sum((1, 2, 3))  # (out channels,)
        if first.bias is not None:
            first.bias -= shift
        else:
            norm.running_mean += shift


def preprocessing(image_size: int) -> dict:
    """The preprocessing that is saved with a classifier, in timm's terms.

    Longest side to `image_size`, black borders, nothing cropped; pixels scaled to 0-1. The mean of 0 is what makes
    timm's border black, as the background of a scan is.
    """
    return {
        "input_size": [3, image_size, image_size],
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "border",
        "mean": [0.0, 0.0, 0.0],
        "std": [1.0, 1.0, 1.0],
    }


def eval_transform(pretrained_cfg: dict) -> Callable[[Image.Image], Tensor]:
    """timm's own evaluation transform: RGB image of any size -> float (3, S, S)."""
    return create_transform(**resolve_data_config(pretrained_cfg=pretrained_cfg, verbose=False))


def last_linear(model: nn.Module) -> nn.Linear:
    """The layer that makes the logits."""
    layer = model.get_classifier()
    if isinstance(layer, MlpHead):
        return layer.fc
    if not isinstance(layer, nn.Linear):
        raise BthubError(
            f"the last layer of {type(model).__name__} is a {type(layer).__name__}, expected a Linear: "
            "choose an architecture whose get_classifier() gives its last linear layer"
        )
    return layer


def save_classifier(
    folder: Path,
    model: nn.Module,
    architecture: str,
    labels: Sequence[str],
    image_size: int,
    temperature: float,
) -> None:
    """Write `model.safetensors` (half precision) and `config.json`.

    Args:
        folder: the run folder.
        model: the trained model; it isn't changed.
        architecture: its timm name, that of the backbone for a model with dense layers.
        labels: class names, in the order of the outputs.
        image_size: side of the square input.
        temperature: logits are divided by this. It is folded into the last linear layer, so that every loader,
            timm's and transformers' among them, gives calibrated probabilities.
    """
    state = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
    layer = last_linear(model)
    prefix = next(name for name, module in model.named_modules() if module is layer)
    for key in (f"{prefix}.weight", f"{prefix}.bias"):
        state[key] = state[key] / temperature
    state = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state.items()}
    source = getattr(model, "pretrained_cfg", {})
    config = {
        "architecture": architecture,
        "num_classes": len(labels),
        "num_features": layer.in_features,
        "label_names": list(labels),
        # Weights are stored in half precision and run in single: transformers takes what is written here.
        "dtype": "float32",
        "pretrained_cfg": {
            **{key: source[key] for key in ("first_conv", "classifier", "pool_size") if source.get(key)},
            "num_classes": len(labels),
            **preprocessing(image_size),
        },
    }
    code = None
    if architecture == "simple_cnn":
        # timm doesn't have it, so its code goes with it; where bthub is installed that isn't asked for.
        config["auto_map"] = {"AutoModelForImageClassification": "modeling_simple_cnn.SimpleCNNForImageClassification"}
        code = modeling_simple_cnn
    head = model.get_classifier()
    if isinstance(head, MlpHead):
        config["architecture"] = f"{architecture}_mlp_head"
        config["model_args"] = {"head_widths": head.widths, "head_dropout": head.dropout}
        config["auto_map"] = {"AutoModelForImageClassification": "modeling_mlp_head.MlpHeadForImageClassification"}
        code = modeling_mlp_head
    with written_whole(folder) as whole:
        write_json(whole / CONFIG, config)
        if code is not None:
            shutil.copy(code.__file__, whole)
        save_file(state, whole / WEIGHTS, metadata={"format": "pt"})


@dataclass(frozen=True)
class Classifier:
    """A classifier ready to use.

    Attributes:
        model: in evaluation mode, single precision.
        transform: RGB image of any size -> float (3, S, S), made from the run's `config.json`.
        labels: class names, in the order of the outputs.
        device: where the model is.
    """

    model: nn.Module
    transform: Callable[[Image.Image], Tensor]
    labels: list[str]
    device: str

    @property
    def tumor_index(self) -> int:
        """The output that means tumor, for a model that tells tumor from no tumor."""
        return tumor_index(self.labels)

    @torch.inference_mode()
    def predict(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Calibrated probabilities (N, classes) of N RGB images, in one batch."""
        batch = torch.stack([self.transform(image) for image in images]).to(self.device)  # (N, 3, S, S)
        return self.model(batch).float().softmax(dim=1).cpu().numpy()


def untrained(run: RunFolder) -> nn.Module:
    """The network of a classifier's run, with random weights."""
    run.require(CLASSIFICATION)
    options = run.config.get("model_args", {})
    architecture = run.config["architecture"]
    if "head_widths" in options:
        architecture = architecture.removesuffix("_mlp_head")
    return create_classifier(architecture, run.config["num_classes"], **options)


def load_classifier(run: RunFolder, device: str = "cpu") -> Classifier:
    """Load the classifier of a run.

    Raises:
        BthubError: it isn't a classifier, or its files are damaged or don't belong together.
    """
    model = untrained(run)
    try:
        model.load_state_dict(load_file(run.path / WEIGHTS))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise BthubError(f"the weights of {run.id} are damaged or don't fit its {CONFIG}: {error}") from error
    model = model.float().eval().to(device)
    return Classifier(model, eval_transform(run.config["pretrained_cfg"]), run.config["label_names"], device)
