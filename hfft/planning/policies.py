"""The policies: what each of them trains, phase by phase, as data.

A policy is a function of a model's `Anatomy`, of what follows the colon of its name and of the epochs that
there are. It returns `PhaseSpec` data, from which `hfft.planning.plan.make_plan` derives everything else. Policies are
found through the entry-point group ``hfft.policies`` (see ``docs/policies.md``); hfft's own use the same door.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.metadata import EntryPoint
from textwrap import shorten

from torch import nn

from hfft.errors import ArgumentError, HfftError, PluginError, one_line
from hfft.models.adapters import adapter_names, require_peft
from hfft.packages import entry_points
from hfft.planning.low_rank import LoraWish, lora
from hfft.plugin.contract import Anatomy, LowRank, PhaseSpec

GROUP = "hfft.policies"
AUTO = "auto"
"""Stands for the policy that `hfft.jobs.advice` recommends."""


Policy = Callable[[Anatomy, str, float], tuple[PhaseSpec, ...]]


def head(anatomy: Anatomy, argument: str, epochs: float) -> tuple[PhaseSpec, ...]:
    """Linear probing: the head alone. Choose it for very few images, or for a first look within seconds.

    Alain and Bengio, "Understanding intermediate layers using linear classifier probes", 2016.
    """
    _no_argument("head", argument)
    return (PhaseSpec("head", frozenset({"head"}), epochs),)


def last_block(anatomy: Anatomy, argument: str, epochs: float) -> tuple[PhaseSpec, ...]:
    """Partial fine-tuning of the last block, the neck and the head. The default: a good first choice.

    Yosinski et al., "How transferable are features in deep neural networks?", 2014.
    """
    _no_argument("last_block", argument)
    return (PhaseSpec("last_block", _last(anatomy, 1), epochs),)


def last_n(anatomy: Anatomy, argument: str, epochs: float) -> tuple[PhaseSpec, ...]:
    """Partial fine-tuning of the last K blocks (``last_n:K``): for images unlike those of pretraining.

    Yosinski et al., "How transferable are features in deep neural networks?", 2014.
    """
    count = len(anatomy.blocks)
    if not argument.isdecimal() or not 1 <= int(argument) <= count:
        raise ArgumentError(
            f"--policy last_n:K needs a whole number K from 1 to {count} for this model, not {argument!r}"
        )
    return (PhaseSpec(f"last_n:{int(argument)}", _last(anatomy, int(argument)), epochs),)


def full(anatomy: Anatomy, argument: str, epochs: float) -> tuple[PhaseSpec, ...]:
    """Full fine-tuning: everything. Choose it for many images; there is no frozen prefix to cache.

    Girshick et al., "Rich feature hierarchies for accurate object detection", 2014.
    """
    _no_argument("full", argument)
    return (PhaseSpec("full", _everything(anatomy), epochs),)


def norm(anatomy: Anatomy, argument: str, epochs: float) -> tuple[PhaseSpec, ...]:
    """The scales and shifts of all normalisations, and the head: for images whose statistics differ most.

    Very few parameters, spread over the whole model, so nothing is cached. Frankle et al., "Training BatchNorm
    and only BatchNorm", 2020.
    """
    _no_argument("norm", argument)
    return (PhaseSpec("norm", _everything(anatomy), epochs, tensors="norm"),)


def bias(anatomy: Anatomy, argument: str, epochs: float) -> tuple[PhaseSpec, ...]:
    """All biases, and the head: the smallest delta that reaches every block.

    Ben Zaken et al., "BitFit", 2021; Cai et al., "TinyTL", 2020, for CNNs.
    """
    _no_argument("bias", argument)
    return (PhaseSpec("bias", _everything(anatomy), epochs, tensors="bias"),)


def attention(anatomy: Anatomy, argument: str, epochs: float) -> tuple[PhaseSpec, ...]:
    """The attention weights of a transformer, and the head: a third of its parameters, close to full fine-tuning.

    Touvron et al., "Three things everyone should know about vision transformers", 2022.
    """
    _no_argument("attention", argument)
    return (PhaseSpec("attention", _everything(anatomy), epochs, tensors="attention"),)


def lp_ft(anatomy: Anatomy, argument: str, epochs: float) -> tuple[PhaseSpec, ...]:
    """Linear probing for the first half of the epochs, then ``lp_ft:last_block`` (the default) or ``lp_ft:full``.

    Choose it where the new images differ from those that will be seen later: a head that is trained first does
    not distort the pretrained features. Kumar et al., "Fine-tuning can distort pretrained features and
    underperform out-of-distribution", 2022.
    """
    targets = {"": last_block, "last_block": last_block, "full": full}
    if argument not in targets:
        raise ArgumentError(f"--policy lp_ft takes last_block or full after the colon, not {argument!r}")
    probing = _first_half("lp_ft", epochs)
    return (*head(anatomy, "", probing), *targets[argument](anatomy, "", epochs - probing))


def gradual(anatomy: Anatomy, argument: str, epochs: float) -> tuple[PhaseSpec, ...]:
    """Gradual unfreezing from the head downwards, one block more every N epochs (``gradual:N``, by default 1).

    Choose it for longer runs in which lower blocks should move late and little. The last phase takes the epochs
    that remain. Howard and Ruder, "Universal language model fine-tuning for text classification", 2018.
    """
    if argument and (not argument.isdecimal() or int(argument) < 1):
        raise ArgumentError(f"--policy gradual:N needs a whole number N of epochs from 1 up, not {argument!r}")
    each, blocks = int(argument or 1), len(anatomy.blocks)
    if epochs < 2 * each:
        raise ArgumentError(
            f"--policy gradual:{each} would train the head alone for all of {epochs:g} epochs; give --num_train_epochs "
            f"{2 * each} or more, or --policy head"
        )
    ladder = [head(anatomy, "", each), last_block(anatomy, "", each)]
    ladder += [last_n(anatomy, str(count), each) for count in range(2, blocks)]
    ladder += [full(anatomy, "", each)]
    steps = [spec for (spec,) in ladder][: int(epochs // each)]
    return (*steps[:-1], replace(steps[-1], epochs=epochs - each * (len(steps) - 1)))


def surgical(anatomy: Anatomy, argument: str, epochs: float) -> tuple[PhaseSpec, ...]:
    """One block alone, with the head: ``surgical:first``, ``surgical:middle`` or ``surgical:last``.

    Choose first where the pixels are of another kind (noise, blur, another camera), last where the labels are.
    The first block comes with the stem. Lee et al., "Surgical fine-tuning improves adaptation to distribution
    shifts", 2023.
    """
    blocks = len(anatomy.blocks)
    chosen = {
        "first": {"stem", "block 1"},
        "middle": {f"block {(blocks + 1) // 2}"},
        "last": {f"block {blocks}"},
    }
    if argument not in chosen:
        raise ArgumentError(f"--policy surgical:WHICH needs first, middle or last after the colon, not {argument!r}")
    return (PhaseSpec(f"surgical:{argument}", frozenset(chosen[argument] | {"head"}), epochs),)


def auto_rgn(anatomy: Anatomy, argument: str, epochs: float) -> tuple[PhaseSpec, ...]:
    """Everything, each tensor as fast as the ratio of its gradient's norm to its own asks for (Auto-RGN).

    Choose it where it is not known which blocks should move. The ratios mean something only under a head that
    knows the labels, so the first half of the epochs is linear probing. Lee et al., "Surgical fine-tuning
    improves adaptation to distribution shifts", 2023, section 4.
    """
    _no_argument("auto_rgn", argument)
    probing = _first_half("auto_rgn", epochs)
    rest = PhaseSpec("auto_rgn", _everything(anatomy), epochs - probing, gradient_ratio=True)
    return (*head(anatomy, "", probing), rest)


KINDS: dict[str, Callable[[nn.Module], Iterator[str]]] = {
    "all": lambda model: (name for name, _ in model.named_parameters()),
    "norm": lambda model: _owned_by(model, lambda kind: "norm" in kind.lower()),
    "bias": lambda model: (name for name, _ in model.named_parameters() if re.search(r"(^|[._])bias$", name)),
    "attention": lambda model: _below(model, _is_attention),
    "adapters": lambda model: iter(adapter_names(model)),
}
"""The kinds of parameters that a phase can be limited to: from a model to their names."""


def installed_policies() -> dict[str, EntryPoint]:
    """Return the entry points of all policies by name, in order of name.

    Raises:
        PluginError: two distributions install a policy of one name.
    """
    found: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        if point.name in found and found[point.name].value != point.value:
            owners = " and ".join(map(_owner, (found[point.name], point)))
            raise PluginError(f"{owners} both install a policy called {point.name!r}; uninstall one of them")
        found[point.name] = point
    return found


def find_policy(policy: str) -> tuple[Policy, str]:
    """Return the function of ``name`` or ``name:argument``, and the argument.

    Raises:
        ArgumentError: no policy has that name.
        PluginError: it does not load, or two have that name.
    """
    name, _, argument = policy.partition(":")
    if policy == AUTO:
        raise ArgumentError(
            f"--policy {AUTO} is decided by the images, so only hfft finetune knows it; hfft advise too"
        )
    if name == AUTO:
        raise ArgumentError(f"--policy {AUTO} takes nothing after a colon, not {argument!r}")
    found = installed_policies()
    if name not in found:
        raise ArgumentError(f"--policy {policy!r} is unknown; choose one of {', '.join(found)}")
    try:
        function: Policy = found[name].load()
    except Exception as error:  # whatever a third party's import raises
        raise PluginError(f"policy {name!r} does not load: {type(error).__name__}: {one_line(error)}") from error
    return function, argument


def check_policy(policy: str) -> None:
    """Refuse what can be refused before images and model are read: a name, a setting, a library that is missing.

    Raises:
        ArgumentError: the policy is unknown, a setting of adapters has no meaning, or their library is missing.
        PluginError: the policy does not load.
    """
    if policy == AUTO:
        return
    function, argument = find_policy(policy)
    if function is lora:
        LoraWish.of(argument)
        require_peft()


def resolve_policy(policy: str, anatomy: Anatomy, epochs: float) -> tuple[PhaseSpec, ...]:
    """Return the phases of a policy.

    Args:
        policy: ``name`` or ``name:argument``.
        anatomy: the model's parts.
        epochs: passes over the training images, in all.

    Raises:
        ArgumentError: the policy is unknown, does not fit the model or wants more epochs.
        PluginError: a policy fails, or returns what is not a tuple of phases for this model.
    """
    function, argument = find_policy(policy)
    whose = f"policy {policy!r} of {_owner(installed_policies()[policy.partition(':')[0]])}"
    try:
        specs: object = function(anatomy, argument, epochs)
    except HfftError:
        raise
    except Exception as error:  # whatever a third party's code raises
        raise PluginError(f"{whose} fails: {type(error).__name__}: {one_line(error)}") from error
    if not isinstance(specs, tuple | list) or not all(isinstance(spec, PhaseSpec) for spec in specs):
        raise PluginError(f"{whose} must return a tuple of PhaseSpec, not {shorten(repr(specs), 100)}")
    labels = [label for label, _ in anatomy.parts()]
    for spec in specs:
        if not _trainable(spec, labels):
            raise PluginError(
                f"{whose} gives a phase that no model can train: {spec}; parts is a frozenset of some of "
                f"{', '.join(labels)}, tensors one of {', '.join(KINDS)}, epochs above 0 and finite, name a text, and "
                "adapters a LowRank where tensors is adapters, else None"
            )
    if not specs:
        raise PluginError(f"{whose} gives no phase")
    return tuple(specs)


def _trainable(spec: PhaseSpec, labels: Sequence[str]) -> bool:
    """Whether a phase is of the right types and names what there is; a third party's may not be."""
    known = isinstance(spec.parts, set | frozenset) and bool(spec.parts) and spec.parts <= set(labels)
    adapters = isinstance(spec.adapters, LowRank) if spec.tensors == "adapters" else spec.adapters is None
    lasting = isinstance(spec.epochs, int | float) and 0 < spec.epochs < math.inf
    return known and lasting and adapters and spec.tensors in tuple(KINDS) and isinstance(spec.name, str)


def _owner(point: EntryPoint) -> str:
    return point.dist.name if point.dist else "an unknown distribution"


def _owned_by(model: nn.Module, wanted: Callable[[str], bool]) -> Iterator[str]:
    """Yield the parameters that belong to a module of a wanted class itself, not to one below it."""
    for name, module in model.named_modules():
        if wanted(type(module).__name__):
            yield from (f"{name}.{own}".lstrip(".") for own, _ in module.named_parameters(recurse=False))


def _below(model: nn.Module, wanted: Callable[[str], bool]) -> Iterator[str]:
    """Yield the parameters at or below a module of a wanted class."""
    for name, module in model.named_modules():
        if wanted(type(module).__name__):
            yield from (f"{name}.{own}".lstrip(".") for own, _ in module.named_parameters())


def _is_attention(kind: str) -> bool:
    """Whether a class computes attention; one that holds attention among other layers does not count."""
    return bool(re.search("Attention|Attn", kind)) and not re.search("Block|Layer|Stage|Encoder|Model|For|Head$", kind)


def _last(anatomy: Anatomy, count: int) -> frozenset[str]:
    blocks = len(anatomy.blocks)
    return frozenset({"neck", "head", *(f"block {number}" for number in range(blocks - count + 1, blocks + 1))})


def _everything(anatomy: Anatomy) -> frozenset[str]:
    return frozenset(label for label, _ in anatomy.parts())


def _first_half(name: str, epochs: float) -> float:
    if epochs < 2:
        raise ArgumentError(f"--policy {name} has two phases and needs --num_train_epochs of at least 2, not {epochs}")
    return float(epochs // 2)


def _no_argument(name: str, argument: str) -> None:
    if argument:
        raise ArgumentError(f"--policy {name} takes no argument, but {argument!r} follows the colon")
