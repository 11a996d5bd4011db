"""A simple CNN: the small baseline of the comparison, registered with timm so that it is made by name like the rest.

Remote code: torch, timm and transformers only.
"""

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from transformers import TimmWrapperForImageClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

# Without an entry the image-classification pipeline logs that the class isn't supported, and then runs it.
MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.setdefault("simple_cnn", "SimpleCNNForImageClassification")

# timm reads this by its name. There are no pretrained weights to name.
default_cfgs = generate_default_cfgs(
    {"simple_cnn": {"input_size": (3, 256, 256), "first_conv": "features.0.0", "classifier": "fc"}}
)


class SimpleCNN(nn.Module):
    """Three convolutional and two fully connected layers.

    Args:
        num_classes: outputs of the last layer.
        in_chans: channels of the input.
        drop_rate: dropout between the two fully connected layers.
    """

    def __init__(self, num_classes: int = 2, in_chans: int = 3, drop_rate: float = 0.5):
        super().__init__()
        self.num_classes = num_classes
        channels = [in_chans, 32, 64, 128]
        self.features = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
                for i, o in zip(channels[:-1], channels[1:], strict=True)
            )
        )
        # A fixed grid, so that the fully connected layers fit every input size.
        self.pool = nn.AdaptiveAvgPool2d(4)
        self.fc1 = nn.Linear(128 * 4 * 4, 128)
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(128, num_classes)

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward_features(self, x: Tensor) -> Tensor:
        return self.features(x)  # (B, C, H, W) -> (B, 128, H / 8, W / 8)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.drop(self.fc1(self.pool(x).flatten(1)).relu())
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


@register_model
def simple_cnn(pretrained: bool = False, pretrained_cfg=None, pretrained_cfg_overlay=None, **kwargs) -> SimpleCNN:
    """Three convolutional and two fully connected layers; there are no pretrained weights."""
    return build_model_with_cfg(
        SimpleCNN,
        "simple_cnn",
        pretrained,
        pretrained_cfg=pretrained_cfg,
        pretrained_cfg_overlay=pretrained_cfg_overlay,
        **kwargs,
    )


class SimpleCNNForImageClassification(TimmWrapperForImageClassification):
    """What `AutoModelForImageClassification` loads where bthub isn't installed; importing this file is what counts."""
