"""The input check: out-of-distribution detection of pictures that aren't slices of a brain MRI.

A picture is letterboxed to a small square and described by the features of an ImageNet network, scaled to unit length.
Its distance to the k-th nearest of the slices kept for reference decides; no label enters. `bthub ood-check` fits
and measures it. This module travels to the Hub with the two-stage repo, see `bthub.inference.hub_repo`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from bthub.errors import BthubError
from bthub.imaging.kinds import drawings

_NETWORK = "network."
_REFERENCES = "references"
_KIND_WEIGHT, _KIND_BIAS = "kinds.weight", "kinds.bias"


def letterbox(image: Image.Image, size: int) -> Tensor:
    """An RGB image of any size -> float (3, size, size), 0-1: the longest side to `size`, by area, black borders."""
    scale = size / max(image.size)
    small = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BOX)
    square = Image.new("RGB", (size, size))
    square.paste(small, ((size - small.width) // 2, (size - small.height) // 2))
    return torch.from_numpy(np.array(square)).permute(2, 0, 1) / 255


@torch.inference_mode()
def describe(network: nn.Module, images: Sequence[Image.Image], size: int) -> Tensor:
    """Features (N, F) of RGB images, each of unit length, in one batch."""
    device = next(network.parameters()).device
    return normalize(network(torch.stack([letterbox(image, size) for image in images]).to(device)).float())


@dataclass(frozen=True)
class InputCheck:
    """An input check ready to use.

    Attributes:
        network: in evaluation mode, single precision: float (N, 3, S, S), 0-1 -> features (N, F).
        size: side S of the square that it sees, in pixels.
        references: (R, F) features of slices.
        neighbors: k, which of the nearest references the distance is measured to.
        threshold: the largest distance that is accepted.
        kinds: names of the two kinds of gray pictures that are told apart; empty where they aren't.
        kind_weight, kind_bias: (F,) and (1,) of the linear layer that is positive for the first kind.
    """

    network: nn.Module
    size: int
    references: Tensor
    neighbors: int
    threshold: float
    kinds: tuple[str, ...] = ()
    kind_weight: Tensor | None = None
    kind_bias: Tensor | None = None

    @torch.inference_mode()
    def distances(self, features: Tensor) -> np.ndarray:
        """Distance (N,) of features (N, F) of `describe` to their k-th nearest reference, 0 to 2."""
        return torch.cdist(features, self.references).kthvalue(self.neighbors, dim=1).values.cpu().numpy()

    def inspect(self, images: Sequence[Image.Image]) -> list[tuple[bool, str | None]]:
        """Of each RGB image whether it looks like a slice of a brain MRI, and, were it gray, its kind."""
        features = describe(self.network, images, self.size)
        accepted = (self.distances(features) <= self.threshold) & ~drawings(images)
        return list(zip(accepted.tolist(), self.kinds_of(features), strict=True))

    @torch.inference_mode()
    def kinds_of(self, features: Tensor) -> list[str | None]:
        """The kinds of gray pictures by features (N, F) of `describe`; None where kinds aren't told apart."""
        if self.kind_weight is None or self.kind_bias is None:
            return [None] * len(features)
        first = (features @ self.kind_weight + self.kind_bias > 0).tolist()
        return [self.kinds[0] if one else self.kinds[1] for one in first]


def save_input_check(check: InputCheck, weights: Path) -> None:
    """Write the tensors in half precision; the JSON beside them is `bthub ood-check`'s affair."""
    state = {f"{_NETWORK}{name}": value for name, value in check.network.state_dict().items()}
    state[_REFERENCES] = check.references
    if check.kind_weight is not None and check.kind_bias is not None:
        state |= {_KIND_WEIGHT: check.kind_weight, _KIND_BIAS: check.kind_bias}
    halved = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    save_file({name: value.contiguous() for name, value in halved.items()}, weights, metadata={"format": "pt"})


def load_input_check(settings: Path, weights: Path, device: str = "cpu") -> InputCheck:
    """Load an input check.

    Args:
        settings: JSON with `architecture` (a timm name), `image_size`, `neighbors` and `threshold`.
        weights: the tensors of `save_input_check`.
        device: of torch.

    Raises:
        BthubError: one of the two files is missing or damaged, or they don't fit each other.
    """
    try:
        record = json.loads(Path(settings).read_text(encoding="utf-8"))
        state = load_file(weights)
        network = timm.create_model(record["architecture"], num_classes=0)
        network.load_state_dict({n.removeprefix(_NETWORK): v for n, v in state.items() if n.startswith(_NETWORK)})
        return InputCheck(
            network=network.float().eval().to(device, memory_format=torch.channels_last),
            size=int(record["image_size"]),
            references=state[_REFERENCES].float().to(device),
            # Until version 0.2 the key was spelled in British English.
            neighbors=int(record["neighbors"] if "neighbors" in record else record["neighbours"]),  # codespell:ignore
            threshold=float(record["threshold"]),
            kinds=tuple(record.get("kinds", ())),
            kind_weight=state[_KIND_WEIGHT].float().to(device) if _KIND_WEIGHT in state else None,
            kind_bias=state[_KIND_BIAS].float().to(device) if _KIND_BIAS in state else None,
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise BthubError(
            f"the input check in {settings} and {weights.name} cannot be used ({type(error).__name__}: {reason}): "
            "restore both files, remove both, or fit it again with bthub ood-check"
        ) from error
