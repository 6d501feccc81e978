"""Gradients in the memory format of what they are the gradient of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def channels_last_gradients(model: nn.Module) -> Iterator[None]:
    """Within this context trainable batch norms get their gradients in channels_last, where that is their output's.

    Global pooling hands back a gradient in the contiguous format, and the backward pass of a batch norm takes 16 times
    as long where both differ (PyTorch 2.15 on a CPU: 36 ms in place of 2 for 32 x 1280 x 7 x 7).
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, nn.BatchNorm2d) and any(each.requires_grad for each in module.parameters())
    ]
    handles = [norm.register_forward_hook(_keep_format) for norm in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _keep_format(module: nn.Module, inputs: Any, output: Tensor) -> None:
    if output.requires_grad and output.is_contiguous(memory_format=torch.channels_last):
        output.register_hook(_channels_last)


def _channels_last(gradient: Tensor) -> Tensor:
    return gradient.contiguous(memory_format=torch.channels_last)
