"""Patterns over the names of a model's modules and tensors, in which ``*`` stands for one part of a name.

``resnet.encoder.stages.*`` matches ``resnet.encoder.stages.0`` and not what lies below it. A pattern that
ends in ``?`` may match nothing: what it names exists under some configurations only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from hfft.errors import PluginError
from hfft.plugin.contract import Anatomy, ClassTokenBlock, TokenLayout

if TYPE_CHECKING:
    from torch import nn


def known_names(model: nn.Module) -> list[str]:
    """Return every name that an anatomy may use: modules, parameters and buffers."""
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    names += [name for name, _ in model.named_parameters(remove_duplicate=False)]
    names += [name for name, _ in model.named_buffers(remove_duplicate=False)]
    return names


def expand(names: Iterable[str], patterns: Iterable[str]) -> tuple[str, ...]:
    """Replace each pattern by the names that it matches, in natural order (``layer.9``, ``layer.10``).

    Raises:
        PluginError: a pattern without a trailing ``?`` matches nothing.
    """
    names = list(names)
    return tuple(name for pattern in patterns for name in _matches(names, pattern))


def expand_blocks(names: Iterable[str], blocks: Iterable[str | Sequence[str]]) -> tuple[tuple[str, ...], ...]:
    """Replace each entry by the blocks that it stands for.

    ``"encoder.layer.*"`` is one block for each match. Several patterns in one entry advance together:
    ``("encoder.embed.*", "encoder.layer.*")`` is ``(embed.0, layer.0)``, ``(embed.1, layer.1)`` and so on.

    Raises:
        PluginError: a pattern matches nothing, or the patterns of one entry match unequal counts.
    """
    names = list(names)
    expanded: list[tuple[str, ...]] = []
    for entry in blocks:
        patterns = (entry,) if isinstance(entry, str) else tuple(entry)
        columns = [_matches(names, pattern) for pattern in patterns]
        if len({len(column) for column in columns}) > 1:
            counts = ", ".join(f"{p!r} {len(c)}" for p, c in zip(patterns, columns, strict=True))
            raise PluginError(f"patterns of one block must match equally often, but here it is: {counts}")
        expanded += zip(*columns, strict=True)
    return tuple(expanded)


def anatomy_from_patterns(
    model: nn.Module,
    *,
    stem: Iterable[str],
    blocks: Iterable[str | Sequence[str]],
    neck: Iterable[str],
    head: Iterable[str],
    tokens: TokenLayout | None = None,
    class_token: ClassTokenBlock | None = None,
) -> Anatomy:
    """Build an anatomy from name patterns, with ``*`` for one part of a name (see this module).

    Example:
        >>> anatomy_from_patterns(
        ...     resnet, stem=["embedder"], blocks=["encoder.stages.*"], neck=[], head=["classifier"]
        ... )

    Raises:
        PluginError: a pattern matches nothing.
    """
    names = known_names(model)
    return Anatomy(
        stem=expand(names, stem),
        blocks=expand_blocks(names, blocks),
        neck=expand(names, neck),
        head=expand(names, head),
        tokens=tokens,
        class_token=class_token,
    )


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sort key under which ``layer.9`` comes before ``layer.10``."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]


def _matches(names: Sequence[str], pattern: str) -> list[str]:
    wanted = pattern.removesuffix("?")
    expression = re.compile(r"[^.]*".join(map(re.escape, wanted.split("*"))))
    found = sorted({name for name in names if expression.fullmatch(name)}, key=natural_key)
    if not found and not pattern.endswith("?"):
        raise PluginError(f"the model has nothing called {wanted!r}")
    return found
