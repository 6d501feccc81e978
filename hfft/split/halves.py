"""The two halves of a split model: the frozen prefix that fills the cache, the suffix that trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hfft.models.forward import logits_of
from hfft.plugin.contract import Anatomy
from hfft.split.class_token import class_token_only
from hfft.split.split import Split


@dataclass(frozen=True)
class Prefix:
    """How to run the frozen prefix: the split, its device, precision and memory format.

    Args:
        split: the model with its boundary.
        anatomy: the model's parts.
        class_token: compute the class token alone in the last block.
        device: that the model lies on.
        autocast: number format of mixed precision, or None.
        memory_format: of inputs of shape (batch, channels, height, width).
        begun: a split of the same model with an earlier boundary, where inputs are its activations.
    """

    split: Split
    anatomy: Anatomy
    class_token: bool
    device: torch.device
    autocast: torch.dtype | None
    memory_format: torch.memory_format
    begun: Split | None = None

    def capture(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the activations of a batch; inputs on any device, first dimension the batch."""
        size = next(iter(inputs.values())).shape[0]
        if size == 1:
            # Some kernels treat a batch of one differently in the last bit.
            doubled = self.capture({name: torch.cat([tensor, tensor]) for name, tensor in inputs.items()})
            return {key: value[:1] for key, value in doubled.items()}
        with torch.inference_mode(), self.precision():
            moved = {name: to_device(tensor, self.device, self.memory_format) for name, tensor in inputs.items()}
            with ExitStack() as stack:
                stack.enter_context(class_token_only(self.split.model, self.anatomy, self.class_token))
                if self.begun is not None:
                    moved = stack.enter_context(self.begun.replay(moved))
                return self.split.capture(moved)

    def precision(self) -> AbstractContextManager[Any]:
        """Return the autocast context that training computes in."""
        return torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None)


def to_device(tensor: Tensor, device: torch.device, memory_format: torch.memory_format) -> Tensor:
    """Move a tensor; one of shape (batch, channels, height, width) also takes the memory format."""
    ahead = device.type == "cuda"  # Apple's MPS would read what has been let go of meanwhile (PyTorch issue 189690)
    if tensor.ndim == 4:
        return tensor.to(device, memory_format=memory_format, non_blocking=ahead)
    return tensor.to(device, non_blocking=ahead)


@dataclass(frozen=True)
class Suffix:
    """How a batch reaches the trainable part of a model.

    Args:
        anatomy: the model's parts; needed for the class token alone.
        split: set where batches may hold cached activations; a batch of pixels runs through all of the model.
        class_token: compute the class token alone in the last block.
        memory_format: of inputs of shape (batch, channels, height, width).
    """

    anatomy: Anatomy | None = None
    split: Split | None = None
    class_token: bool = False
    memory_format: torch.memory_format = torch.contiguous_format

    @contextmanager
    def inputs(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """Within this context `model`, called with what is yielded, computes no more than it must.

        Args:
            model: the bare model, not its DDP wrap.
            batch: cached activations, or the model's inputs; with ``labels`` or without.
        """
        rest = {name: tensor for name, tensor in batch.items() if name != "labels"}
        labels = {name: tensor for name, tensor in batch.items() if name == "labels"}
        with ExitStack() as stack:
            if self.class_token:
                assert self.anatomy is not None
                stack.enter_context(class_token_only(model, self.anatomy))
            if self.split is not None and self.split.leaves[0].key in rest:
                rest = stack.enter_context(self.split.replay(rest))
            else:
                rest = {name: self._formatted(tensor) for name, tensor in rest.items()}
            yield {**rest, **labels}

    @contextmanager
    def answering(
        self, model: nn.Module, batch: Mapping[str, Tensor], precision: torch.dtype | None
    ) -> Iterator[dict[str, Tensor]]:
        """Within this context `model`, called with what is yielded, answers as it does while it is evaluated.

        Args:
            model: the bare model, in eval mode.
            batch: cached activations, or the model's inputs, on any device; labels are left out.
            precision: of mixed precision, or None; activations are cached as narrow as it makes them.
        """
        device = next(model.parameters()).device
        moved = {name: tensor.to(device) for name, tensor in batch.items() if name != "labels"}
        mixed = torch.autocast(device.type, precision, enabled=precision is not None)
        with torch.no_grad(), mixed, self.inputs(model, moved) as inputs:
            yield inputs

    def _formatted(self, tensor: Tensor) -> Tensor:
        return tensor.contiguous(memory_format=self.memory_format) if tensor.ndim == 4 else tensor


def idle_parameters(
    model: nn.Module, suffix: Suffix, batch: Mapping[str, Tensor], autocast: torch.dtype | None = None
) -> list[str]:
    """Return the trainable parameters that a step gives no gradient.

    Some models hold a norm or a pooler that their classifier never reads; DDP waits for its gradient in vain
    unless it is told to look for such parameters.

    Args:
        model: the bare model, frozen as its phase says.
        suffix: how the batch reaches its trainable part.
        batch: activations or pixels, on the model's device.
        autocast: number format of mixed precision, or None.
    """
    training = model.training
    model.eval()
    device = next(iter(batch.values())).device.type
    unlabelled = {name: tensor for name, tensor in batch.items() if name != "labels"}
    with torch.autocast(device, autocast, enabled=autocast is not None), suffix.inputs(model, unlabelled) as inputs:
        logits = logits_of(model(**inputs))
    logits.float().sum().backward()
    idle = [name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]
    model.zero_grad(set_to_none=True)
    model.train(training)
    return idle
