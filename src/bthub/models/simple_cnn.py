"""A simple CNN: the small baseline of the comparison, registered with timm so that it is made by name like the rest."""

from timm.models import register_model
from torch import Tensor, nn


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
    from timm.models import build_model_with_cfg

    return build_model_with_cfg(
        SimpleCNN,
        "simple_cnn",
        pretrained,
        pretrained_cfg=pretrained_cfg,
        pretrained_cfg_overlay=pretrained_cfg_overlay,
        **kwargs,
    )
