"""Watch one forward pass: what each part of a model's anatomy gives out, how long it takes, what it computes."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hfft.models.forward import logits_of
from hfft.plugin.contract import Anatomy


@dataclass(frozen=True)
class PartPass:
    """One part of the anatomy during one forward pass.

    Args:
        output: what it hands on (see `tallies`), shape (batch, ...), float32 on the CPU; None where that is not a
            tensor.
        seconds: of wall time within its modules.
        flops: floating-point operations within its modules, two for each multiply-add.
    """

    output: Tensor | None
    seconds: float
    flops: int


@dataclass(frozen=True)
class ForwardPass:
    """One forward pass, part by part.

    Args:
        parts: by label (stem, block 1 .. block n, neck, head), in order of depth.
        logits: shape (batch, labels), float32 on the CPU.
        seconds: of the whole pass.
        flops: of the whole pass; more than the parts' sum where the model computes between its parts.
    """

    parts: dict[str, PartPass]
    logits: Tensor
    seconds: float
    flops: int


@dataclass
class Tally:
    """What the hooks of one part gather.

    Args:
        total: of what is read.
        began: what was read when its module that runs now began.
        outputs: of its modules, the last of each shape in the order in which they came.
        output: what the part hands on.
    """

    total: float = 0.0
    began: float = 0.0
    outputs: dict[torch.Size, Tensor] = field(default_factory=dict)
    output: Tensor | None = None

    def close(self, given: Tensor | None) -> None:
        """Choose what is handed on, once: the last output of the shape that the next part is given, or the last."""
        if self.output is None and self.outputs:
            last = next(reversed(self.outputs.values()))
            self.output = last if given is None else self.outputs.get(given.shape, last)


def watch(model: nn.Module, anatomy: Anatomy, inputs: Mapping[str, Tensor]) -> ForwardPass:
    """Run a model over the same inputs once to count and keep, and then to time, the fastest pass of three.

    Timing and counting need separate passes: counting slows each operation, and the first pass of a process
    is slower than those after it.

    Args:
        model: in eval mode.
        anatomy: of the model.
        inputs: a batch of model inputs, on the model's device.
    """
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter, tallies(model, anatomy, lambda: float(counter.get_total_flops())) as counted:
        logits = logits_of(model(**inputs)).float().cpu()
    flops = int(counter.get_total_flops())
    seconds, timed = min((_timed(model, anatomy, inputs) for _ in range(3)), key=itemgetter(0))
    parts = {label: PartPass(tally.output, timed[label], int(tally.total)) for label, tally in counted.items()}
    return ForwardPass(parts, logits, seconds, flops)


def part_output(model: nn.Module, anatomy: Anatomy, part: str, inputs: Mapping[str, Tensor]) -> Tensor | None:
    """Return what one part gives out, as `PartPass.output`, from a single pass."""
    return part_outputs(model, anatomy, inputs)[0][part]


def part_outputs(
    model: nn.Module, anatomy: Anatomy, inputs: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor | None], Tensor]:
    """Return what each part gives out, as `PartPass.output`, and the logits, from a single pass.

    The logits have shape (batch, labels), in float32 on the CPU.
    """
    with torch.no_grad(), tallies(model, anatomy) as found:
        logits = logits_of(model(**inputs)).float().cpu()
    return {name: tally.output for name, tally in found.items()}, logits


def called_modules(model: nn.Module, names: tuple[str, ...]) -> list[nn.Module]:
    """Return the modules of these names, and in place of a mere list of modules its members."""
    modules = dict(model.named_modules(remove_duplicate=False))
    found: list[nn.Module] = []
    waiting = [modules[name] for name in names if name in modules]
    while waiting:
        module = waiting.pop(0)
        if isinstance(module, nn.ModuleList | nn.ModuleDict):
            waiting = [*module.children(), *waiting]
        else:
            found.append(module)
    return found


def first_tensor(output: Any) -> Tensor | None:
    """Return a module's output, or its first member where it gives out several."""
    while isinstance(output, tuple | list) and output:
        output = output[0]
    return output if isinstance(output, Tensor) else None


def _timed(model: nn.Module, anatomy: Anatomy, inputs: Mapping[str, Tensor]) -> tuple[float, dict[str, float]]:
    """Return the seconds of one pass, and of each part within it."""
    device = next(model.parameters()).device
    with torch.no_grad(), tallies(model, anatomy, lambda: _now(device)) as found:
        began = _now(device)
        model(**inputs)
        seconds = _now(device) - began
    return seconds, {label: tally.total for label, tally in found.items()}


def _copy(tensor: Tensor) -> Tensor:
    """Keep a tensor as it is: the next module may work in place."""
    return tensor.detach().float().cpu().clone()


@contextmanager
def tallies(
    model: nn.Module,
    anatomy: Anatomy,
    read: Callable[[], float] = lambda: 0.0,
    keep: Callable[[Tensor], Tensor] = _copy,
    parts: Collection[str] | None = None,
) -> Iterator[dict[str, Tally]]:
    """Within this context each part's tally grows by what `read` grows within the part's modules.

    Of a part with several modules, such as an embedding and a table of positions, one output is what the part hands
    on. It is there when the next part begins: the last one of the shape that this is given, or else the last one.

    Args:
        model: run within this context.
        anatomy: of the model.
        read: what is counted.
        keep: what is kept of an output.
        parts: which are watched; None for all.
    """
    found = {label: Tally() for label, _ in anatomy.parts() if parts is None or label in parts}
    before, handles = Tally(), []
    for label, names in anatomy.parts():
        tally = found.get(label, Tally())
        for module in called_modules(model, names):
            handles.append(module.register_forward_pre_hook(_opening(tally, before, read), with_kwargs=True))
            if label in found:
                handles.append(module.register_forward_hook(_closing(tally, read, keep)))
        before = tally
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
        for tally in found.values():
            tally.close(None)


def _opening(tally: Tally, before: Tally, read: Callable[[], float]) -> Callable[[nn.Module, Any, Any], None]:
    def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
        before.close(first_tensor((*args, *kwargs.values())))
        tally.began = read()

    return hook


def _closing(
    tally: Tally, read: Callable[[], float], keep: Callable[[Tensor], Tensor]
) -> Callable[[nn.Module, Any, Any], None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        tally.total += read() - tally.began
        tensor = first_tensor(output)
        if tensor is not None:
            tally.outputs.pop(tensor.shape, None)
            tally.outputs[tensor.shape] = keep(tensor)

    return hook


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
