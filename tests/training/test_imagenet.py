"""ImageNet weights that come with a package, under timm's names: do they still know what they see?"""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from skimage import data

from bthub.errors import BthubError
from bthub.training import imagenet as module


@pytest.fixture(scope="module")
def imagenet():
    return module


def pixels(photograph: np.ndarray) -> torch.Tensor:
    """The middle square of a photograph, (1, 3, 224, 224) from 0 to 1: no other preprocessing is needed."""
    image = Image.fromarray(photograph)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(square) / 255).permute(2, 0, 1)[None].float()


@pytest.mark.parametrize(
    ("photograph", "classes"),
    [(data.chelsea, {281, 282, 285}), (data.coffee, {967, 504, 968})],  # cats; espresso, mug, cup
    ids=["cat", "coffee"],
)
def test_lite0_names_what_is_in_a_photograph(imagenet, photograph, classes):
    with torch.inference_mode():
        p = imagenet.efficientnet_lite0().eval()(pixels(photograph())).softmax(dim=1)[0]
    assert p.argmax().item() in classes
    assert p[list(classes)].sum() > 0.7


def test_the_command_writes_what_a_run_starts_from(imagenet, tmp_path, monkeypatch):
    file = tmp_path / "new" / "lite0.safetensors"
    monkeypatch.setattr(sys, "argv", ["imagenet.py", "tf_efficientnet_lite0", str(file)])
    imagenet.main()
    written = load_file(file)
    expected = imagenet.efficientnet_lite0().state_dict()
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[key], expected[key]) for key in expected)


def test_a_missing_package_is_named(imagenet):
    with pytest.raises(BthubError, match="pip install no-such-package"):
        imagenet.packaged("no-such-package", ".pth")
