"""Where a phase's frozen prefix ends, found on a few real images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hfft.errors import ModelError, one_line
from hfft.models.forward import Recording, record
from hfft.planning.plan import Phase
from hfft.plugin.contract import Anatomy
from hfft.split import class_token
from hfft.split.proof import split_model
from hfft.split.split import Split, SplitError


@dataclass(frozen=True)
class Cut:
    """Where a phase's frozen prefix ends, and how its last block is computed.

    Args:
        split: the model with its boundary; None where it cannot be cut.
        uncached_reason: why not; empty where it can.
        class_token: compute the class token alone in the last block.
        recording: of a plain forward, for the shapes of all outputs.
    """

    split: Split | None
    uncached_reason: str
    class_token: bool
    recording: Recording


def cut_phase(
    model: PreTrainedModel,
    anatomy: Anatomy,
    phase: Phase,
    inputs: dict[str, Tensor],
    shortcut: bool = True,
    autocast: torch.dtype | None = None,
) -> Cut:
    """Find out how a phase can be computed, on a few real images.

    Args:
        model: frozen as `phase` says.
        anatomy: its parts.
        phase: what is trained.
        inputs: at least two images, on the model's device.
        shortcut: whether the class-token shortcut is wanted.
        autocast: number format of mixed precision, or None.

    Raises:
        ModelError: the model does not take these inputs.
    """
    device = next(iter(inputs.values())).device
    model.eval()
    with torch.autocast(device.type, autocast, enabled=autocast is not None):
        plain = record_or_refuse(model, inputs)
        refused, used = class_token.try_shortcut(model, anatomy, inputs, plain) if shortcut else ("switched off", plain)
        try:
            with class_token.class_token_only(model, anatomy, not refused):
                return Cut(split_model(model, phase, inputs, used), "", not refused, plain)
        except SplitError as reason:
            return Cut(None, str(reason), not refused, plain)


def record_or_refuse(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Recording:
    """Record one forward.

    Raises:
        ModelError: the model does not take these inputs, for example at this image size.
    """
    try:
        return record(model, inputs)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in inputs.items())
        reason = one_line(error)
        raise ModelError(
            f"{type(model).__name__} does not take {shapes}: {reason}. "
            "Leave out --image_size, or choose one that it takes"
        ) from error
