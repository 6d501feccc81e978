"""Decide what a split must keep, and prove that replaying it gives the same bits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hfft.models.forward import Inputs, Recording, logits_of, record
from hfft.planning.plan import Phase
from hfft.split.split import Leaf, Slot, Split, SplitError, _Output, _run_prefix, boundary_of

_WHITE = 2.7  # what white becomes at the widest normalisation in use, ImageNet's; black is above its negative
_ROUNDED = 0.01  # share of the largest value by which rounding may change an image's rows in another batch
_ROUNDED_HALF = 0.1  # the same in numbers of 16 bits


def split_model(model: nn.Module, phase: Phase, inputs: Inputs, recording: Recording | None = None) -> Split:
    """Find the boundary of a phase, decide what must be kept, and prove that replay is exact.

    Args:
        model: frozen as `phase` says.
        phase: its trainable parameters give the boundary.
        inputs: at least two real images.
        recording: of a forward of these inputs in eval mode, where there is one already.

    Returns:
        A split whose replay gave the full forward's logits to the last bit: on `inputs` in eval mode, in
        train mode under one seed, and with the trainable parameters changed after the capture; in eval mode also on
        dark, bright and noisy images in batches of other sizes.

    Raises:
        SplitError: there is no frozen prefix, or replay is not exact, and why.
    """
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            recording = recording or record(model, inputs)
            batches = [inputs, *unlike(inputs)]
            split = _find_split(model, boundary_of(recording.calls, phase), batches[:2])
            captured = [split.capture(batch) for batch in batches]
            keep_what_is_read(split, captured)
            prove_exact(split, phase, inputs, captured[0], recording.logits)
            for batch, values in zip(batches[1:], captured[1:], strict=True):
                if not _same(logits_of(model(**batch)), _replayed(split, values)):
                    raise SplitError("replay differs from the full forward for darker, brighter or noisy images")
    finally:
        model.train(training)
    return split


def unlike(inputs: Inputs) -> list[dict[str, Tensor]]:
    """Make batches of other content and size: the images with dark, bright and noisy ones, dark ones, bright ones.

    A tensor that is read for some images alone shows only where there are such images.

    Args:
        inputs: a real batch; only floats are varied, anything else is repeated.
    """
    varied = {name: _varied(tensor) for name, tensor in inputs.items()}
    contents: list[dict[str, list[Tensor]]] = [
        {
            name: [tensor, varied[name][0][:1], varied[name][1][:1], varied[name][2][:1]]
            for name, tensor in inputs.items()
        },
        {name: [dark] for name, (dark, _, _) in varied.items()},
        {name: [bright, bright[:1]] for name, (_, bright, _) in varied.items()},
    ]
    return [{name: torch.cat(parts) for name, parts in content.items()} for content in contents]


def _varied(tensor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return two rows each that are dark, bright and noisy, as far as a tensor of this type can be."""
    rows = tensor[[0, -1]]
    if not tensor.is_floating_point():
        return rows, rows, rows
    low, high = min(float(tensor.min()), -_WHITE), max(float(tensor.max()), _WHITE)
    # Computed, not drawn: the proof leaves the random state alone, on every device.
    noise = torch.arange(rows.numel(), device=tensor.device).mul(7919).remainder(1009).to(tensor.dtype).view_as(rows)
    noise = noise / 1009
    return low + noise * 0.1, high - noise * 0.1, low + noise * (high - low)


def _find_split(model: nn.Module, found: tuple[str, tuple[str, ...]], batches: list[Inputs]) -> Split:
    """Record the prefix on a batch and on one that begins with it, to tell images' own tensors from constants."""
    boundary, prefix = found
    inputs, larger = batches
    sizes = [len(next(iter(batch.values()))) for batch in batches]
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
            leaves.append(_make_slot(key, value, value_other, sizes))
        made.append(_Output(name, spec, leaves))
    slots = {name: _make_slot(f"input:{name}", inputs[name], larger[name], sizes) for name in inputs}
    return Split(model, boundary, prefix, made, slots)


def _make_slot(key: str, value: Tensor, larger: Tensor, sizes: list[int]) -> Slot:
    where = f"the output of {key!r}, of shape {tuple(value.shape)},"
    if value.shape == larger.shape:
        fault = "" if _same(value, larger) else f"{where} depends on the images but has no row for each"
        return Slot(Leaf(key, tuple(value.shape), value.dtype), constant=value, fault=fault)
    size, other = sizes
    rows = value.shape[0] // size if value.ndim else 0
    if not rows or value.shape[0] % size or larger.shape != (rows * other, *value.shape[1:]):
        raise SplitError(f"{where} has no rows for each image")
    fault = "" if _close(value, larger[: len(value)]) else f"{where} mixes the rows of its images"
    if rows == 1:
        return Slot(Leaf(key, tuple(value.shape[1:]), value.dtype), fault=fault)
    return Slot(Leaf(key, (rows, *value.shape[1:]), value.dtype), fault=fault, folded=True)


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal to the last bit, NaN where NaN is."""
    return torch.equal(one, other) or bool(((one == other) | (one.isnan() & other.isnan())).all())


def _close(one: Tensor, other: Tensor) -> bool:
    """Whether rows agree as far as they do in batches of two sizes, whose kernels may round otherwise."""
    if not one.is_floating_point():
        return bool((one != other).float().mean() <= _ROUNDED)
    device = one.device.type
    coarse = one.dtype.itemsize < 4 or torch.is_autocast_enabled(device)
    one, other = one.float().nan_to_num(), other.float().nan_to_num()
    tolerance = (_ROUNDED_HALF if coarse else _ROUNDED) * float(one.abs().max())
    return bool((one - other).abs().max() <= tolerance)


def keep_what_is_read(split: Split, batches: list[dict[str, Tensor]]) -> None:
    """Poison each tensor and keep those that change the logits of any batch.

    Most models hand on one tensor, their last; that is tried first, with all others poisoned at once.

    Raises:
        SplitError: what is read cannot be cached.
    """
    references = [_replayed(split, values) for values in batches]

    def read(slots: list[Slot]) -> bool:
        pairs = zip(batches, references, strict=True)
        return any(_reads_any_of(split, slots, values, reference) for values, reference in pairs)

    slots = split.slots()
    if not read(slots[:-1]):
        for slot in slots[:-1]:
            slot.kept = False
    else:
        for slot in slots:
            slot.kept = read([slot])
    fault = next((slot.fault for slot in slots if slot.kept and slot.fault), "")
    if fault:
        raise SplitError(fault)
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
    return not _same(logits, reference)


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
    if not _same(expected, _writable(split, lambda: _replayed(split, captured))):
        raise SplitError("replay differs from the full forward")
    learning = [parameter for name, parameter in model.named_parameters() if name in phase.trainable]
    before = [(tensor, tensor.clone()) for tensor in (*learning, *model.buffers())]
    try:
        model.train()
        full = _seeded(inputs, lambda: logits_of(model(**inputs)))
        _put_back(before)
        replay = partial(_seeded, inputs, lambda: _replayed(split, captured))
        if not _same(full, _writable(split, replay, partial(_put_back, before))):
            raise SplitError("replay differs from the full forward in train mode: the prefix is not deterministic")
        _put_back(before)
        model.eval()
        for parameter in learning:
            parameter.add_(0.01)
        if not _same(logits_of(model(**inputs)), _replayed(split, captured)):
            raise SplitError("the prefix depends on trainable parameters")
    finally:
        _put_back(before)
        model.eval()


def _writable(split: Split, compute: Callable[[], Tensor], restore: Callable[[], None] = lambda: None) -> Tensor:
    """Compute, and once more with memory behind the placeholders where code between modules writes to them."""
    try:
        return compute()
    except RuntimeError:
        if not split.give_placeholders_memory():
            raise
        restore()
        return compute()


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
