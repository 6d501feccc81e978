"""Decide what a split must keep, and prove that replaying it gives the same bits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hfft.models.forward import Inputs, Recording, logits_of, record
from hfft.planning.plan import Phase
from hfft.split.split import Leaf, Slot, Split, SplitError, _Output, _run_prefix, boundary_of


def split_model(model: nn.Module, phase: Phase, inputs: Inputs, recording: Recording | None = None) -> Split:
    """Find the boundary of a phase, decide what must be kept, and prove that replay is exact.

    Args:
        model: frozen as `phase` says.
        phase: its trainable parameters give the boundary.
        inputs: at least two real images.
        recording: of a forward of these inputs in eval mode, where there is one already.

    Returns:
        A split whose replay gave the full forward's logits to the last bit on `inputs`: in eval mode, in
        train mode under one seed, and with the trainable parameters changed after the capture.

    Raises:
        SplitError: there is no frozen prefix, or replay is not exact, and why.
    """
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            recording = recording or record(model, inputs)
            split = _find_split(model, boundary_of(recording.calls, phase), inputs)
            captured = split.capture(inputs)
            keep_what_is_read(split, captured)
            prove_exact(split, phase, inputs, captured, recording.logits)
    finally:
        model.train(training)
    return split


def _find_split(model: nn.Module, found: tuple[str, tuple[str, ...]], inputs: Inputs) -> Split:
    """Record the prefix on two batch sizes, to tell tensors with one row per image from constants."""
    boundary, prefix = found
    larger = {name: torch.cat([tensor, tensor[:1]]) for name, tensor in inputs.items()}
    size = next(iter(inputs.values())).shape[0]
    names = set(prefix)
    outputs = _run_prefix(model, found, inputs, names)
    others = _run_prefix(model, found, larger, names)
    made: list[_Output] = []
    seen: dict[str, int] = defaultdict(int)
    for name, output, other in zip(prefix, outputs, others, strict=True):
        flat, spec = pytree.tree_flatten(output)
        flat_other = pytree.tree_leaves(other)
        leaves: list[Any] = []
        for value, value_other in zip(flat, flat_other, strict=True):
            if not isinstance(value, Tensor):
                leaves.append(value)
                continue
            key = f"{name}:{seen[name]}" if seen[name] else name
            seen[name] += 1
            leaves.append(_make_slot(key, value, value_other, size))
        made.append(_Output(name, spec, leaves))
    slots = {name: _make_slot(f"input:{name}", inputs[name], larger[name], size) for name in inputs}
    return Split(model, boundary, prefix, made, slots)


def _make_slot(key: str, value: Tensor, larger: Tensor, size: int) -> Slot:
    if value.shape == larger.shape:
        return Slot(Leaf(key, tuple(value.shape), value.dtype), constant=value)
    rows = value.shape[0] // size if value.ndim else 0
    if not rows or value.shape[0] % size or larger.shape != (rows * (size + 1), *value.shape[1:]):
        raise SplitError(f"the output of {key!r}, of shape {tuple(value.shape)}, has no rows for each image")
    if rows == 1:
        return Slot(Leaf(key, tuple(value.shape[1:]), value.dtype))
    if not torch.allclose(larger[: len(value)].float(), value.float(), rtol=1e-3, atol=1e-3):
        raise SplitError(f"the output of {key!r}, of shape {tuple(value.shape)}, mixes the rows of its images")
    return Slot(Leaf(key, (rows, *value.shape[1:]), value.dtype), folded=True)


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
