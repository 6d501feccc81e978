"""From a policy's name to a Plan: which parameters are trainable when, and how fast they learn.

A policy is data. It names the parts of the anatomy that are trained; what follows from that (trainable
names, modules held in eval mode, learning rates) is derived here once, for every policy alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import nn

from hfft.errors import ArgumentError
from hfft.plugin import Anatomy, covers


@dataclass(frozen=True)
class Phase:
    """One stretch of training under one static freeze.

    Args:
        name: what the trace calls this phase.
        trainable: the exact set of parameter names that learn.
        eval_modules: the exact set of module names held in eval mode through every ``model.train()``.
        lr_scales: by parameter name, the factor on the learning rate.
        epochs: how many passes over the training images.
    """

    name: str
    trainable: frozenset[str]
    eval_modules: frozenset[str]
    lr_scales: dict[str, float]
    epochs: float


@dataclass(frozen=True)
class Plan:
    """A policy applied to a model: its phases, in order."""

    policy: str
    anatomy: Anatomy
    phases: tuple[Phase, ...]


def head(anatomy: Anatomy, argument: str) -> frozenset[str]:
    """Linear probing: the head alone. Choose it for very few images, or for a first look within seconds."""
    _no_argument("head", argument)
    return frozenset({"head"})


def last_block(anatomy: Anatomy, argument: str) -> frozenset[str]:
    """Partial fine-tuning of the last block, the neck and the head. The default: a good first choice."""
    _no_argument("last_block", argument)
    return _last(anatomy, 1)


def last_n(anatomy: Anatomy, argument: str) -> frozenset[str]:
    """Partial fine-tuning of the last K blocks (``last_n:K``): for images unlike those of pretraining."""
    count = len(anatomy.blocks)
    if not argument.isdecimal() or not 1 <= int(argument) <= count:
        raise ArgumentError(
            f"--policy last_n:K needs a whole number K from 1 to {count} for this model, not {argument!r}"
        )
    return _last(anatomy, int(argument))


def full(anatomy: Anatomy, argument: str) -> frozenset[str]:
    """Full fine-tuning: everything. Choose it for many images; there is no frozen prefix to cache."""
    _no_argument("full", argument)
    return frozenset(label for label, _ in anatomy.parts())


POLICIES: dict[str, Callable[[Anatomy, str], frozenset[str]]] = {
    "head": head,
    "last_block": last_block,
    "last_n": last_n,
    "full": full,
}


def parse_policy(policy: str) -> tuple[str, str]:
    """Split ``name`` or ``name:argument``.

    Raises:
        ArgumentError: no policy has that name.
    """
    name, _, argument = policy.partition(":")
    if name not in POLICIES:
        raise ArgumentError(f"--policy {policy!r} is unknown; choose head, last_block, last_n:K or full")
    return name, argument


def make_plan(
    model: nn.Module,
    anatomy: Anatomy,
    policy: str,
    epochs: float,
    head_lr_scale: float = 1.0,
    layer_decay: float = 1.0,
) -> Plan:
    """Work out what a policy means for a model.

    Args:
        model: any module that `anatomy` fits.
        anatomy: the model's parts.
        policy: ``name`` or ``name:argument``.
        epochs: passes over the training images.
        head_lr_scale: factor on the head's learning rate; a new head starts from nothing and may go faster.
        layer_decay: layer-wise learning-rate decay: each block away from the head learns slower by this
            factor (Clark et al., ELECTRA, 2020; Bao et al., BEiT, 2021).

    Raises:
        ArgumentError: the policy is unknown or does not fit the model.
    """
    name, argument = parse_policy(policy)
    parts = POLICIES[name](anatomy, argument)
    trainable = [tensor for tensor, _ in model.named_parameters() if anatomy.part_of(tensor) in parts]
    scales = _scales_by_part(anatomy, head_lr_scale, layer_decay)
    phase = Phase(
        name=policy,
        trainable=frozenset(trainable),
        eval_modules=_held_in_eval(model, anatomy, frozenset(trainable)),
        lr_scales={tensor: scales[anatomy.part_of(tensor)] for tensor in trainable},
        epochs=epochs,
    )
    return Plan(policy, anatomy, (phase,))


def _last(anatomy: Anatomy, count: int) -> frozenset[str]:
    blocks = len(anatomy.blocks)
    return frozenset({"neck", "head", *(f"block {number}" for number in range(blocks - count + 1, blocks + 1))})


def _no_argument(name: str, argument: str) -> None:
    if argument:
        raise ArgumentError(f"--policy {name} takes no argument, but {argument!r} follows the colon")


def _scales_by_part(anatomy: Anatomy, head_lr_scale: float, layer_decay: float) -> dict[str, float]:
    count = len(anatomy.blocks)
    blocks = {f"block {number}": layer_decay ** (count - number) for number in range(1, count + 1)}
    return {"stem": layer_decay**count, **blocks, "neck": 1.0, "head": head_lr_scale}


def _held_in_eval(model: nn.Module, anatomy: Anatomy, trainable: frozenset[str]) -> frozenset[str]:
    """Return the modules that must behave the same in training and evaluation.

    Everything in a part without trainable parameters is held. In a part with some, a module whose own
    parameters are all frozen is held (a frozen batch norm), while dropout and containers follow the mode.
    A module outside every part has no tensors; it is held if it is registered before the first part that
    trains, as a dropout on embeddings is.
    """
    live = {anatomy.part_of(tensor) for tensor in trainable}
    part_names = [(label, name) for label, names in anatomy.parts() for name in names]
    held, training_began = set(), False
    for name, module in model.named_modules():
        part = next((label for label, part_name in part_names if covers(part_name, name)), None)
        training_began = training_began or part in live
        if part is None:
            container = any(covers(name, part_name) for _, part_name in part_names) or not name
            hold = not container and not training_began
        elif part in live:
            own = [f"{name}.{tensor}" for tensor, _ in module.named_parameters(recurse=False)]
            hold = bool(own) and trainable.isdisjoint(own)
        else:
            hold = True
        if hold:
            held.add(name)
    return frozenset(held)


def count_parameters(model: nn.Module, names: Iterable[str]) -> int:
    """Return the total number of elements of the named parameters."""
    wanted = set(names)
    return sum(tensor.numel() for name, tensor in model.named_parameters() if name in wanted)
