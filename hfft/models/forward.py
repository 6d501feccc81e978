"""One forward of a model, recorded or steered: the order of module calls, and one module told to do otherwise."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

Inputs = Mapping[str, Tensor]


@dataclass
class Call:
    """One call of one module in a recorded forward.

    Args:
        name: of the module.
        start: how many enters and exits came before this call was entered.
        parent: the call that made this one.
        end: the same count at its exit.
        shapes: of the tensors that it returned, with the batch.
    """

    name: str
    start: int
    parent: Call | None
    end: int = -1
    shapes: tuple[tuple[int, ...], ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first tensor that it returned; empty where it returned none."""
        return next(iter(self.shapes), ())


@dataclass(frozen=True)
class Recording:
    """One forward: the module calls in the order in which they were entered, and the logits (batch, labels)."""

    calls: list[Call]
    logits: Tensor

    def output_shape(self, name: str) -> tuple[int, ...] | None:
        """Return the shape of the first tensor that a module returned, without the batch; None if it was not called."""
        return next((call.shape[1:] for call in self.calls if call.name == name and call.shapes), None)


def record_calls(model: nn.Module, inputs: Inputs) -> list[Call]:
    """Run one forward and return the module calls in the order in which they were entered."""
    return record(model, inputs).calls


def record(model: nn.Module, inputs: Inputs) -> Recording:
    """Run one forward, without gradients and in the mode that the model is in, and record it."""
    calls: list[Call] = []
    stack: list[Call] = []
    clock = iter(range(2**62))

    def enter(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            stack.append(Call(name, next(clock), stack[-1] if stack else None))
            calls.append(stack[-1])

        return hook

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        call = stack.pop()
        call.end = next(clock)
        call.shapes = tuple(tuple(leaf.shape) for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor))

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            hooks.callback(module.register_forward_pre_hook(enter(name), with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(leave, with_kwargs=True).remove)
        with torch.no_grad():
            logits = logits_of(model(**inputs))
    return Recording(calls, logits)


@contextmanager
def patched_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let one module instance compute something else for a while; restored whatever happens."""
    before = module.__dict__.get("forward")
    object.__setattr__(module, "forward", forward)
    try:
        yield
    finally:
        if before is None:
            del module.__dict__["forward"]
        else:
            object.__setattr__(module, "forward", before)


def logits_of(output: Any) -> Tensor:
    """Return the logits, shape (batch, labels), of whatever an image classifier returned."""
    # Some classifiers return their logits under another name; they are the first output then as well.
    logits = output["logits"] if isinstance(output, Mapping) and "logits" in output else output[0]
    assert isinstance(logits, Tensor)
    return logits
