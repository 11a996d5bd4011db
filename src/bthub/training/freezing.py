"""Which layers of a classifier are trained: the head alone at first, then the body or its last layers.

A layer is a module with parameters of its own: a convolution, a batch normalization, a linear layer. The head, that
is what timm's `get_classifier()` gives, always learns and isn't counted.
"""

from torch import nn


def body_layers(model: nn.Module) -> list[nn.Module]:
    """The layers before the head, from the input on."""
    head = set(model.get_classifier().modules())
    return [module for module in model.modules() if module not in head and _own(module)]


def train_last(model: nn.Module, count: int | None) -> None:
    """Let the head and the last `count` layers of the body learn, and nothing else; None for the whole body."""
    layers = body_layers(model)
    frozen = len(layers) - (len(layers) if count is None else min(count, len(layers)))
    for position, layer in enumerate(layers):
        for parameter in _own(layer):
            parameter.requires_grad_(position >= frozen)


def train_mode(model: nn.Module) -> None:
    """`model.train()`, but for frozen layers.

    In training mode a batch normalization takes each batch's own statistics and moves its running ones towards them,
    learning or not: the frozen features would change under the layers that learn from them.
    """
    model.train()
    for module in model.modules():
        own = _own(module)
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()


def trainable_parameters(model: nn.Module) -> int:
    """Number of weights that learn."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _own(module: nn.Module) -> list[nn.Parameter]:
    return list(module.parameters(recurse=False))
