"""What the head of a classifier reads: the vector that its last linear layer turns into logits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

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
        if isinstance(args[0], Tensor) and args[0].ndim == 2:
            seen.append((module, args[0]))

    layers = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == labels]
    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
