"""ResUNet: residual encoder, residual decoder, skip connections. Remote code: torch, timm and transformers only.

After Zhang, Liu and Wang 2018, "Road Extraction by Deep Residual U-Net", with a timm backbone as the encoder.
"""

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES

from .configuration_resunet import ResUNetConfig

# Without an entry the image-segmentation pipeline logs that the class isn't supported, and then runs it.
MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES.setdefault("resunet", "ResUNetForSemanticSegmentation")

STRIDES = [2, 4, 8, 16, 32]


class ResidualBlock(nn.Module):
    """Upsample by two, join the skip connection, two 3x3 convolutions around a 1x1 shortcut."""

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int):
        super().__init__()
        channels = in_channels + skip_channels
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Conv2d(channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        x = F.interpolate(x, scale_factor=2, mode="nearest")  # (B, C, H, W) -> (B, C, 2H, 2W)
        if skip is not None:
            x = torch.cat([x, skip], dim=1)
        y = F.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class ResUNetDecoder(nn.Module):
    """From the encoder's deepest features back to the input's resolution, one block a stride."""

    def __init__(self, encoder_channels: list[int], decoder_channels: list[int]):
        super().__init__()
        deepest, *skips = reversed(encoder_channels)
        in_channels = [deepest, *decoder_channels[:-1]]
        # The last block works at full resolution, where the encoder has no features to skip from.
        self.blocks = nn.ModuleList(
            ResidualBlock(i, s, o) for i, s, o in zip(in_channels, [*skips, 0], decoder_channels, strict=True)
        )

    def forward(self, features: list[Tensor]) -> Tensor:
        x, *skips = reversed(features)
        for block, skip in zip(self.blocks, [*skips, None], strict=True):
            x = block(x, skip)
        return x


class ResUNetForSemanticSegmentation(PreTrainedModel):
    """ResUNet with a one-channel head: a pixel is tumor where its logit is above zero."""

    config_class = ResUNetConfig
    base_model_prefix = "resunet"
    main_input_name = "pixel_values"

    def __init__(self, config: ResUNetConfig):
        super().__init__(config)
        self.encoder = timm.create_model(
            config.backbone, features_only=True, pretrained=False, in_chans=config.num_channels
        )
        reductions = self.encoder.feature_info.reduction()
        if reductions != STRIDES:
            raise ValueError(
                f"backbone {config.backbone!r} has features at strides {reductions}, the decoder needs {STRIDES}: "
                "choose a backbone such as resnet18 or resnet50"
            )
        self.decoder = ResUNetDecoder(self.encoder.feature_info.channels(), config.decoder_channels)
        self.head = nn.Conv2d(config.decoder_channels[-1], 1, 1)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # He et al. 2015, for every convolution; batch normalization keeps torch's defaults.
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, return_dict: bool | None = None
    ) -> SemanticSegmenterOutput | tuple:
        """Segment a batch.

        Args:
            pixel_values: (B, 3, H, W), preprocessed by `ResUNetImageProcessor`; H and W divisible by 32.
            labels: (B, H, W) or (B, 1, H, W), 1 where there is tumor. With them the output has a `loss`
                (binary cross-entropy; the project's training scripts bring their own losses).

        Returns:
            `SemanticSegmenterOutput` with `logits` (B, 1, H, W): sigmoid gives the tumor probability.
        """
        height, width = pixel_values.shape[-2:]
        if height % 32 or width % 32:
            raise ValueError(f"ResUNet needs a height and width divisible by 32, received {height} x {width}")
        logits = self.head(self.decoder(self.encoder(pixel_values)))  # (B, 1, H, W)
        loss = None
        if labels is not None:
            loss = F.binary_cross_entropy_with_logits(logits, labels.reshape(logits.shape).to(logits.dtype))
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return SemanticSegmenterOutput(loss=loss, logits=logits)
