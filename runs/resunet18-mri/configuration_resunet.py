"""Configuration of the ResUNet. This file travels to the Hub as remote code: torch, timm and transformers only."""

from transformers import PreTrainedConfig


class ResUNetConfig(PreTrainedConfig):
    """A residual U-Net for one-class segmentation.

    Args:
        backbone: name of the timm network that is the encoder; it must have features at strides 2, 4, 8, 16 and 32.
        decoder_channels: output channels of the decoder's five blocks, deepest first.
        num_channels: channels of the input image.
    """

    model_type = "resunet"

    def __init__(
        self,
        backbone: str = "resnet18",
        decoder_channels: tuple[int, ...] = (256, 128, 64, 32, 16),
        num_channels: int = 3,
        **kwargs,
    ):
        self.backbone = backbone
        self.decoder_channels = list(decoder_channels)
        self.num_channels = num_channels
        kwargs.setdefault("id2label", {0: "background", 1: "tumor"})
        kwargs.setdefault("label2id", {"background": 0, "tumor": 1})
        super().__init__(**kwargs)
