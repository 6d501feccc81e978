"""What the head of a classifier is made of, and the vector that its last linear layer turns into logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from hfft.plugin.contract import Anatomy, covers

Reads = list[tuple[nn.Linear, Tensor]]


@contextmanager
def head_reads(model: nn.Module, labels: int) -> Iterator[Reads]:
    """Within this context note what linear layers of `labels` outputs read, as each of them is called.

    The last note after a forward is the head's, with features of shape (batch, features). A model whose head is not
    linear leaves none.
    """
    seen: Reads = []

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        assert isinstance(module, nn.Linear)
        if args and isinstance(args[0], Tensor) and args[0].ndim == 2:
            seen.append((module, args[0]))

    layers = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == labels]
    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def head_modules(model: nn.Module, anatomy: Anatomy) -> list[nn.Module]:
    """Return the head's modules with weights, not a container around them.

    With cached activations, what a container is given may be a placeholder that nobody reads.
    """
    return [
        module
        for name, module in model.named_modules()
        if any(covers(head, name) for head in anatomy.head) and next(module.parameters(recurse=False), None) is not None
    ]


def linear_layer(model: nn.Module, anatomy: Anatomy) -> tuple[nn.Linear | None, str]:
    """Find the linear layer with a bias that a head consists of, perhaps with norms and dropout before it.

    Returns:
        The layer, or None and the reason why there is no such layer.
    """
    layers = [module for module in head_modules(model, anatomy) if "Norm" not in type(module).__name__]
    kinds = ", ".join(type(layer).__name__ for layer in layers)
    if len(layers) != 1 or not isinstance(layers[0], nn.Linear):
        return None, f"the head is not one linear layer but {kinds or 'without weights'}"
    if layers[0].bias is None:
        return None, "the head's linear layer has no bias"
    return layers[0], ""
