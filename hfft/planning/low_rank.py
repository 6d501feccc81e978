"""The policy of low-rank adapters: what follows its colon, and where a model gets them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from torch import nn

from hfft.errors import ArgumentError
from hfft.models.adapters import add_adapters, projections
from hfft.plugin.contract import Anatomy, LowRank, PhaseSpec


def lora(anatomy: Anatomy, argument: str, epochs: float) -> tuple[PhaseSpec, ...]:
    """Low-rank adapters beside the attention and MLP projections, and the head: ``lora`` or ``lora:last_n=4,r=8``.

    Choose it for large transformers whose weights should hardly move. With ``last_n`` the adapters stand in the last
    blocks alone, behind what is cached. Hu et al., "LoRA", 2021; ``dora=true``: Liu et al., "DoRA", 2024.
    """
    wish, blocks = LoraWish.of(argument), len(anatomy.blocks)
    count = blocks if wish.last_n is None else wish.last_n
    if not 1 <= count <= blocks:
        raise ArgumentError(f"--policy lora:last_n=K needs a whole number K from 1 to {blocks} for this model")
    parts = frozenset({"head", *(f"block {number}" for number in range(blocks - count + 1, blocks + 1))})
    return (PhaseSpec("lora" + f":{argument}" * bool(argument), parts, epochs, "adapters", adapters=wish.adapters),)


@dataclass(frozen=True)
class LoraWish:
    """What ``lora:last_n=4,r=8,alpha=16,dropout=0.1,dora=true`` asks for.

    Args:
        last_n: blocks from the head that get adapters; None for all.
        adapters: what they are.
    """

    last_n: int | None = None
    adapters: LowRank = field(default_factory=LowRank)

    @classmethod
    def of(cls, argument: str) -> LoraWish:
        """Read what follows the colon; without an alpha it is twice the rank.

        Raises:
            ArgumentError: a setting is unknown, stands there twice or has no such value.
        """
        found: dict[str, float] = {}
        for setting in argument.split(",") if argument else ():
            name, _, value = setting.partition("=")
            if name not in _LORA or name in found or not re.fullmatch(_LORA[name], value):
                raise ArgumentError(
                    "--policy lora takes last_n, r (whole numbers from 1 up), alpha (above 0), dropout (at least 0 and "
                    f"below 1) and dora (true or false), as in lora:last_n=4,r=8; not {setting!r}"
                )
            found[name] = {"true": 1.0, "false": 0.0}[value] if name == "dora" else float(value)
        rank = int(found.get("r", 8))
        adapters = LowRank(
            rank, found.get("alpha", 2.0 * rank), found.get("dropout", 0.0), bool(found.get("dora", False))
        )
        return cls(int(found["last_n"]) if "last_n" in found else None, adapters)


_COUNT = r"0*[1-9]\d{0,5}"
_LORA = {
    "last_n": _COUNT,
    "r": _COUNT,
    "alpha": r"(?=.*[1-9])\d+(\.\d+)?",
    "dropout": r"0(\.\d+)?",
    "dora": "true|false",
}
"""What each setting of ``lora`` looks like."""


def put_adapters(model: nn.Module, anatomy: Anatomy, spec: PhaseSpec) -> None:
    """Put a phase's adapters beside the projections of its blocks.

    Raises:
        ArgumentError: there are none, or PEFT can make none.
    """
    if spec.adapters is None:
        return
    blocks = [name for label, names in anatomy.parts() for name in names if label in spec.parts and label != "head"]
    names = projections(model, blocks, anatomy.projections)
    if not names:
        raise ArgumentError(
            f"--policy {spec.name}: {_called(model)} has no attention or MLP projections for adapters in these blocks; "
            "choose last_block or last_n:K, or name them under projections in --anatomy"
        )
    add_adapters(model, names, spec.adapters, anatomy.head)


def _called(model: nn.Module) -> str:
    """Return the class of a model, with the architecture that it wraps where it wraps one."""
    architecture = getattr(getattr(model, "config", None), "architecture", None)
    return type(model).__name__ + (f" ({architecture})" if architecture else "")


def first_block(anatomy: Anatomy, spec: PhaseSpec) -> tuple[str, ...]:
    """Return the names of the first block that a phase trains.

    In front of its first projection, both what the block adds to and what it normalised would have to be cached.
    """
    return next(names for label, names in anatomy.parts() if label in spec.parts)
