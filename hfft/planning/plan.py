"""From a policy's phases to a Plan: exact parameter names, modules held in eval mode, learning rates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from hfft.errors import ArgumentError
from hfft.planning.low_rank import first_block, put_adapters
from hfft.planning.policies import KINDS, resolve_policy
from hfft.plugin.contract import Anatomy, PhaseSpec, covers
from hfft.wording import count_of

HEAD_ALONE = 5.0
"""Factor on the learning rate of a new head where nothing else is trained."""


@dataclass(frozen=True)
class Phase:
    """One stretch of training under one static freeze.

    Args:
        name: what the trace calls this phase.
        trainable: the exact set of parameter names that learn.
        eval_modules: the exact set of module names held in eval mode through every ``model.train()``.
        lr_scales: by parameter name, the factor on the learning rate.
        epochs: how many passes over the training images.
        gradient_ratio: whether `lr_scales` are multiplied by ratios that are measured when the phase begins.
        begins: modules at which the suffix begins at the latest, where more than what learns belongs to it.
    """

    name: str
    trainable: frozenset[str]
    eval_modules: frozenset[str]
    lr_scales: dict[str, float]
    epochs: float
    gradient_ratio: bool = False
    begins: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Return a line: the names of all that learns are too much for one."""
        return f"Phase({self.name!r}, {count_of(len(self.trainable), 'tensor')}, {count_of(self.epochs, 'epoch')})"


@dataclass(frozen=True)
class Plan:
    """A policy applied to a model: its phases, in order.

    Example:
        ``run`` is what `hfft.finetune` gave back:

        >>> [phase.name for phase in run.plan.phases], run.plan.anatomy.head
        (['last_block'], ('timm_model.classifier',))
    """

    policy: str
    anatomy: Anatomy
    phases: tuple[Phase, ...]

    def __repr__(self) -> str:
        """Return a line: the anatomy names every part."""
        return f"Plan({self.policy!r}, {list(self.phases)})"


def make_plan(
    model: nn.Module,
    anatomy: Anatomy,
    policy: str,
    epochs: float,
    head_lr_scale: float | None = None,
    layer_decay: float = 1.0,
) -> Plan:
    """Work out what a policy means for a model.

    Args:
        model: any module that `anatomy` fits; adapters that the policy asks for are put into it.
        anatomy: the model's parts.
        policy: ``name`` or ``name:argument``.
        epochs: passes over the training images, in all phases together.
        head_lr_scale: factor on the head's learning rate in the first phase, where it is new; None for `HEAD_ALONE`
            where that phase trains nothing else, and 1 beside blocks, which a fast head leaves little to learn.
        layer_decay: layer-wise learning-rate decay: each block away from the head learns slower by this
            factor (Clark et al., ELECTRA, 2020; Bao et al., BEiT, 2021).

    Raises:
        ArgumentError: the policy is unknown or does not fit the model.
        PluginError: the policy is a third party's and does not load, or gives no usable phases.
    """
    specs = resolve_policy(policy, anatomy, epochs)
    for spec in specs:
        put_adapters(model, anatomy, spec)
    if head_lr_scale is None:
        head_lr_scale = HEAD_ALONE if specs[0].parts == {"head"} else 1.0
    scales = [
        _scales_by_part(anatomy, head_lr_scale if not number else 1.0, layer_decay) for number in range(len(specs))
    ]
    phases = tuple(_phase(model, anatomy, spec, scale) for spec, scale in zip(specs, scales, strict=True))
    return Plan(policy, anatomy, phases)


def count_fillable_together(phases: Sequence[Phase]) -> int:
    """Return how many of the first phases have a frozen part that none before them changes.

    Their activations can be computed before the first of them has been trained.
    """
    count = 1
    while count < len(phases) and phases[count - 1].trainable <= phases[count].trainable:
        count += 1
    return count


def count_parameters(model: nn.Module, names: Iterable[str]) -> int:
    """Return the total number of elements of the named parameters."""
    wanted = set(names)
    return sum(tensor.numel() for name, tensor in model.named_parameters() if name in wanted)


def _phase(model: nn.Module, anatomy: Anatomy, spec: PhaseSpec, scales: dict[str, float]) -> Phase:
    part_of = {name: anatomy.part_of(name) for name, _ in model.named_parameters()}
    kind = set(KINDS[spec.tensors](model))
    learning = [name for name, part in part_of.items() if part in spec.parts and (name in kind or part == "head")]
    if not any(part_of[name] != "head" for name in learning) and spec.parts != {"head"}:
        raise ArgumentError(f"--policy {spec.name}: {type(model).__name__} has no {spec.tensors} parameters to train")
    return Phase(
        name=spec.name,
        trainable=frozenset(learning),
        eval_modules=_held_in_eval(model, anatomy, frozenset(learning)),
        lr_scales={name: scales[part_of[name]] for name in learning},
        epochs=spec.epochs,
        gradient_ratio=spec.gradient_ratio,
        begins=first_block(anatomy, spec) if spec.adapters else (),
    )


def _scales_by_part(anatomy: Anatomy, head_lr_scale: float, layer_decay: float) -> dict[str, float]:
    count = len(anatomy.blocks)
    blocks = {f"block {number}": layer_decay ** (count - number) for number in range(1, count + 1)}
    return {"stem": layer_decay**count, **blocks, "neck": 1.0, "head": head_lr_scale}


def _held_in_eval(model: nn.Module, anatomy: Anatomy, trainable: frozenset[str]) -> frozenset[str]:
    """Return the modules that must behave the same in training and evaluation.

    Everything in a part without trainable parameters is held. In a part with some, a module with a frozen
    parameter of its own is held (a frozen batch norm), while dropout and containers follow the mode.
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
            hold = not trainable.issuperset(own)
        else:
            hold = True
        if hold:
            held.add(name)
    return frozenset(held)
