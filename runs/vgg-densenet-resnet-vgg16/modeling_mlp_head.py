"""timm backbones under several dense layers, as published recipes put them: `resnet50_mlp_head` and the like.

timm's own heads are a single layer, and no `model_args` of its ResNets says otherwise. Remote code: torch, timm and
transformers only.
"""

from collections.abc import Sequence
from functools import partial

import timm
from timm.models import build_model_with_cfg, generate_default_cfgs, get_pretrained_cfg, register_model
from torch import Tensor, nn
from transformers import TimmWrapperForImageClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

# Without an entry the image-classification pipeline logs that the class isn't supported, and then runs it.
MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.setdefault("mlp_head", "MlpHeadForImageClassification")

BACKBONES = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "efficientnet_b0",
    "tf_efficientnet_lite0",
    "densenet121",
    "vgg16",
)

# timm reads this by its name. The weights that timm names are those of the backbone under its own head.
default_cfgs = generate_default_cfgs(
    {
        f"{backbone}_mlp_head": {
            "first_conv": get_pretrained_cfg(backbone).first_conv,
            "classifier": f"{get_pretrained_cfg(backbone).classifier}.fc",
        }
        for backbone in BACKBONES
    }
)


class MlpHead(nn.Module):
    """Dense layers with ReLU, each followed by dropout, and the linear layer that makes the logits.

    Args:
        in_features: channels of the pooled features.
        num_classes: outputs.
        widths: outputs of the dense layers, in order; empty for the last layer alone.
        dropout: share dropped after each dense layer, in the same order; none where it isn't given.
    """

    def __init__(self, in_features: int, num_classes: int, widths: Sequence[int] = (), dropout: Sequence[float] = ()):
        super().__init__()
        if dropout and len(dropout) != len(widths):
            raise ValueError(f"{len(dropout)} dropout rates for {len(widths)} dense layers: give one for each")
        self.widths, self.dropout = list(widths), list(dropout) or [0.0] * len(widths)
        inputs = [in_features, *self.widths]
        self.hidden = nn.Sequential(
            *(
                nn.Sequential(nn.Linear(i, o), nn.ReLU(), nn.Dropout(rate))
                for i, o, rate in zip(inputs[:-1], self.widths, self.dropout, strict=True)
            )
        )
        self.fc = nn.Linear(inputs[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.hidden(x))  # (B, features) -> (B, classes)


def with_mlp_head(
    backbone: str,
    num_classes: int = 2,
    head_widths: Sequence[int] = (),
    head_dropout: Sequence[float] = (),
    pretrained_backbone: bool = False,
    **kwargs,
) -> nn.Module:
    """A timm model whose last linear layer is a `MlpHead`; everything else, and its names, stay timm's.

    Args:
        backbone: one of BACKBONES.
        num_classes: outputs.
        head_widths, head_dropout: see `MlpHead`.
        pretrained_backbone: ask the Hub for the backbone's ImageNet weights.
        kwargs: for timm, `drop_rate` (before the first dense layer) among them.
    """
    model = timm.create_model(backbone, pretrained=pretrained_backbone, num_classes=num_classes, **kwargs)
    if backbone.startswith("vgg"):
        # Its two layers of 4096 are a head already. What stays is the convolutional base, 15 of 138 million weights.
        model.pre_logits = nn.Identity()
    head = MlpHead(model.num_features, num_classes, head_widths, head_dropout)
    model.set_submodule(model.pretrained_cfg["classifier"], head)
    return model


def _register(backbone: str) -> None:
    def create(pretrained: bool = False, pretrained_cfg=None, pretrained_cfg_overlay=None, **kwargs) -> nn.Module:
        return build_model_with_cfg(
            partial(with_mlp_head, backbone),
            f"{backbone}_mlp_head",
            pretrained,
            pretrained_cfg=pretrained_cfg,
            pretrained_cfg_overlay=pretrained_cfg_overlay,
            **kwargs,
        )

    create.__name__ = f"{backbone}_mlp_head"
    create.__doc__ = f"{backbone} under dense layers, see `with_mlp_head`."
    register_model(create)


for _backbone in BACKBONES:
    if not timm.is_model(f"{_backbone}_mlp_head"):  # where bthub is installed it has done so already
        _register(_backbone)


class MlpHeadForImageClassification(TimmWrapperForImageClassification):
    """What `AutoModelForImageClassification` loads where bthub isn't installed; importing this file is what counts."""
