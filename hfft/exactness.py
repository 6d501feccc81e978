"""What a split must keep, found by poisoning, and the proof that replaying it is exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hfft.plan import Phase
from hfft.recording import Inputs, logits_of

if TYPE_CHECKING:
    from hfft.split import Slot, Split


class SplitError(Exception):
    """This model cannot be cut at this boundary; training goes on uncached and says why."""


def keep_what_is_read(split: Split, values: dict[str, Tensor]) -> None:
    """Poison each tensor and keep those that change the logits.

    Most models hand on one tensor, their last; that is tried first, with all others poisoned at once.
    """
    reference = _replayed(split, values)
    slots = split.slots()
    if not _reads_any_of(split, slots[:-1], values, reference):
        for slot in slots[:-1]:
            slot.kept = False
        return
    for slot in slots:
        slot.kept = _reads_any_of(split, [slot], values, reference)
    if not split.leaves:
        raise SplitError("no tensor with one row per image crosses the boundary")


def _reads_any_of(split: Split, slots: list[Slot], values: dict[str, Tensor], reference: Tensor) -> bool:
    poisoned = {key: value.clone() for key, value in values.items()}
    constants = {id(slot): slot.constant for slot in slots}
    for slot in slots:
        if slot.constant is not None:
            slot.constant = _poison(slot.constant)
        else:
            poisoned[slot.leaf.key] = _poison(values[slot.leaf.key])
    try:
        with split.replay(poisoned) as replayed:
            logits = logits_of(split.model(**replayed))
    except Exception:  # a poisoned index or shape may well break the code that reads it: it is read
        return True
    finally:
        for slot in slots:
            slot.constant = constants[id(slot)]
    return not torch.equal(logits, reference)


def _poison(tensor: Tensor) -> Tensor:
    if tensor.is_floating_point() or tensor.is_complex():
        return torch.full_like(tensor, float("nan"))
    if tensor.dtype == torch.bool:
        return ~tensor
    return torch.where(tensor == 0, 1, 0).to(tensor.dtype)


def prove_exact(split: Split, phase: Phase, inputs: Inputs, captured: dict[str, Tensor], expected: Tensor) -> None:
    """Compare replay with the full forward, bit for bit, in every state that training will see.

    Args:
        split: what is to be proven.
        phase: names the trainable parameters.
        inputs: real images.
        captured: the prefix's activations of these images.
        expected: the logits of a full forward of them in eval mode.

    Raises:
        SplitError: in which state they differ.
    """
    model = split.model
    if not torch.equal(expected, _replayed(split, captured)):
        raise SplitError("replay differs from the full forward")
    learning = [parameter for name, parameter in model.named_parameters() if name in phase.trainable]
    before = [(tensor, tensor.clone()) for tensor in (*learning, *model.buffers())]
    try:
        model.train()
        full = _seeded(inputs, lambda: logits_of(model(**inputs)))
        _put_back(before)
        if not torch.equal(full, _seeded(inputs, lambda: _replayed(split, captured))):
            raise SplitError("replay differs from the full forward in train mode: the prefix is not deterministic")
        _put_back(before)
        model.eval()
        for parameter in learning:
            parameter.add_(0.01)
        if not torch.equal(logits_of(model(**inputs)), _replayed(split, captured)):
            raise SplitError("the prefix depends on trainable parameters")
    finally:
        _put_back(before)
        model.eval()


def _replayed(split: Split, values: dict[str, Tensor]) -> Tensor:
    with split.replay({key: value.clone() for key, value in values.items()}) as placeholders:
        return logits_of(split.model(**placeholders))


def _seeded(inputs: Inputs, compute: Callable[[], Tensor]) -> Tensor:
    """Compute from one fixed random state, and leave the caller's as it was."""
    devices = [tensor.device for tensor in inputs.values() if tensor.is_cuda]
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        return compute()


def _put_back(before: list[tuple[Tensor, Tensor]]) -> None:
    for tensor, value in before:
        tensor.copy_(value)
