"""Compile what trains on cached activations: those parts of a model that lie behind the boundary as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from hfft.split.halves import Suffix


def compilable(model: nn.Module, suffix: Suffix) -> list[str]:
    """Return the outermost modules with trainable parameters that no replay and no shortcut reaches into.

    Replay gives recorded outputs to modules of the prefix, anew for each batch; a graph that was traced through one of
    them would hold the outputs of the first batch. So a module that holds one is entered, not compiled.

    Args:
        model: the bare model, frozen as its phase says.
        suffix: how a batch of activations reaches its trainable part.
    """
    if suffix.split is None or suffix.class_token:
        return []
    prefix = suffix.split.prefix

    def inside(name: str, module: nn.Module) -> Iterator[str]:
        if not any(parameter.requires_grad for parameter in module.parameters()):
            return
        begins = f"{name}." if name else ""
        replayed = any(each == name or each.startswith(begins) for each in prefix)
        if name and not replayed and not isinstance(module, nn.ModuleList | nn.ModuleDict):
            yield name
            return
        for child, part in module.named_children():
            yield from inside(f"{begins}{child}", part)

    return list(inside("", model))


@contextmanager
def compiled(model: nn.Module, names: list[str], backend: str | None, mode: str | None) -> Iterator[None]:
    """Within this context the modules of these names run as ``torch.compile`` makes them; parameters stay the same."""
    modules = [model.get_submodule(name) for name in names]
    for module in modules:
        module.compile(backend=backend or "inductor", mode=mode)
    try:
        yield
    finally:
        for module in modules:
            module._compiled_call_impl = None
