"""The model cut at a boundary: capture the frozen prefix once, replay it ever after.

No model code is rewritten. One recorded forward gives the order of module calls. The *boundary* is the
first call of a module that holds a trainable parameter; the outermost calls that had finished by then
are the frozen prefix. To replay, each of those modules returns its recorded output instead of computing.
Poisoning the outputs with NaN shows which of them the rest of the model reads; only those are kept.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hfft.models.forward import Call, Inputs, patched_forward, record_calls
from hfft.planning.plan import Phase


class _BoundaryReached(Exception):  # noqa: N818  (a signal, not an error)
    """Ends a capture's forward where the suffix would begin."""


@dataclass(frozen=True)
class Leaf:
    """One tensor that flows from before the boundary to after it.

    Args:
        key: where it comes from: a module's name, or ``input:NAME``; ``NAME:2`` for a third tensor.
        shape: of one image, without the batch dimension; (rows, ...) where an image has several rows in it.
        dtype: as the model computed it.
    """

    key: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes_per_image(self) -> int:
        """Bytes that one image takes."""
        return self.dtype.itemsize * torch.Size(self.shape).numel()


@dataclass
class _Output:
    """What one prefix call returns: its structure, and for each tensor in it what stands for it."""

    name: str
    spec: pytree.TreeSpec
    leaves: list[Any]  # a Slot for a tensor, else the constant itself

    def slots(self) -> list[Slot]:
        return [leaf for leaf in self.leaves if isinstance(leaf, Slot)]


@dataclass
class Slot:
    """A tensor in a prefix output or among the inputs."""

    leaf: Leaf
    constant: Tensor | None = None  # a tensor without a batch dimension, the same for every image
    kept: bool = True
    fault: str = ""  # why it cannot be cached, which matters only where it is read
    written: bool = False  # code between modules writes to its placeholder
    folded: bool = False  # the model keeps the rows of all images in one dimension, image by image

    @property
    def cached(self) -> bool:
        """Whether each image has its own, which the rest of the model reads."""
        return self.kept and self.constant is None

    def rows(self, value: Tensor) -> Tensor:
        """Give the model's own tensor one entry for each image in its first dimension."""
        return value.unflatten(0, (-1, self.leaf.shape[0])) if self.folded else value

    def value(self, values: Mapping[str, Tensor], batch_size: int, device: torch.device) -> Tensor:
        """Return what replay puts here: an image's own tensors, the constant, or a placeholder that nobody reads."""
        if not self.kept:
            shape = self.leaf.shape if self.constant is not None else (batch_size, *self.leaf.shape)
            # NaN, so that the loss shows it should it be read after all; one number of memory stands for all of
            # them, which costs nothing however large it is, unless code between modules writes to it.
            content = float("nan") if self.leaf.dtype.is_floating_point or self.leaf.dtype.is_complex else 0
            value = torch.full((), content, dtype=self.leaf.dtype, device=device).expand(shape)
            value = value.clone(memory_format=torch.contiguous_format) if self.written else value
        elif self.constant is not None:
            return self.constant.to(device, copy=True)
        else:
            value = values[self.leaf.key].to(self.leaf.dtype)
        return value.flatten(0, 1) if self.folded else value


@dataclass
class Split:
    """A model with its boundary; made by `split_model`.

    Attributes:
        boundary: name of the first module, in order of execution, that holds a trainable parameter.
        prefix: names of the outermost modules that finish before it, in order.
    """

    model: nn.Module
    boundary: str
    prefix: tuple[str, ...]
    _outputs: list[_Output] = field(repr=False)
    _inputs: dict[str, Slot] = field(repr=False)

    @property
    def leaves(self) -> list[Leaf]:
        """The tensors that a cache must hold for each image."""
        return [slot.leaf for slot in self.slots() if slot.cached]

    def give_placeholders_memory(self) -> bool:
        """Let code between modules write to placeholders; False if it could before."""
        unread = [slot for slot in self.slots() if not slot.kept and not slot.written]
        for slot in unread:
            slot.written = True
        return bool(unread)

    def capture(self, inputs: Inputs, stop: bool = True) -> dict[str, Tensor]:
        """Run the model up to the boundary and stop.

        Args:
            inputs: the model's inputs, tensors whose first dimension is the batch.
            stop: leave out what is behind the boundary; a tracer of calls does not bear calls that never end.

        Returns:
            For each of `leaves`, its key and a tensor of shape (batch, *leaf.shape).
        """
        wanted = {made.name for made in self._outputs if any(slot.cached for slot in made.slots())}
        outputs = _run_prefix(self.model, (self.boundary, self.prefix), inputs, wanted, stop)
        values = {slot.leaf.key: inputs[name] for name, slot in self._inputs.items() if slot.cached}
        for made, output in zip(self._outputs, outputs, strict=True):
            if made.name in wanted:
                pairs = zip(made.leaves, pytree.tree_leaves(output), strict=True)
                cached = [(slot, value) for slot, value in pairs if isinstance(slot, Slot) and slot.cached]
                values |= {slot.leaf.key: slot.rows(value) for slot, value in cached}
        return values

    @contextmanager
    def replay(self, values: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """Within this context a forward of the model computes the suffix only.

        Args:
            values: what `capture` returned, perhaps gathered from a cache: (batch, *leaf.shape) each. The model
                may change them in place; pass copies of what is needed again.

        Yields:
            The inputs to call the model with; those that the suffix does not read are placeholders.
        """
        first = next(iter(values.values()))
        place = (first.shape[0], first.device)
        queues: dict[str, list[Any]] = defaultdict(list)
        for output in self._outputs:
            leaves = [leaf.value(values, *place) if isinstance(leaf, Slot) else leaf for leaf in output.leaves]
            queues[output.name].append(pytree.tree_unflatten(leaves, output.spec))
        with ExitStack() as stack:
            for name, recorded in queues.items():
                module = self.model.get_submodule(name)
                stack.enter_context(patched_forward(module, _returning(recorded, module.forward)))
            yield {name: slot.value(values, *place) for name, slot in self._inputs.items()}

    def slots(self) -> list[Slot]:
        """Return every tensor that may cross the boundary: the inputs, then the prefix's outputs in order."""
        return [*self._inputs.values(), *(slot for made in self._outputs for slot in made.slots())]


def find_boundary(model: nn.Module, phase: Phase, inputs: Inputs) -> tuple[str, tuple[str, ...]]:
    """Return the boundary's name and the names of the outermost modules that finish before it.

    Raises:
        SplitError: nothing finishes before the boundary.
    """
    return boundary_of(record_calls(model, inputs), phase)


def boundary_of(calls: list[Call], phase: Phase) -> tuple[str, tuple[str, ...]]:
    """Find the boundary as `find_boundary` does, in a forward that was recorded."""
    called = {call.name for call in calls}
    owners = {_called_owner(name, called) for name in phase.trainable} | called.intersection(phase.begins)
    # A parameter held by a module around others, as a position embedding is, is read at some time between
    # them. If that leaves no prefix, it is taken to be read after the first trainable module has begun, which
    # the proof of exactness then holds to.
    around = {call.parent.name for call in calls if call.parent is not None}
    for candidates in (owners, owners - around):
        boundary = next((call for call in calls if call.name in candidates), None)
        prefix = _finished_before(calls, boundary) if boundary is not None else ()
        if boundary is not None and prefix:
            return boundary.name, prefix
    raise SplitError("no module finishes before the first trainable parameter, so there is no frozen prefix")


def _finished_before(calls: list[Call], boundary: Call) -> tuple[str, ...]:
    """Return the names of the outermost calls that had finished when the boundary was entered."""
    finished = {id(call) for call in calls if 0 <= call.end < boundary.start}
    return tuple(
        call.name for call in calls if id(call) in finished and (call.parent is None or id(call.parent) not in finished)
    )


def _called_owner(parameter: str, called: set[str]) -> str:
    """The module that holds a parameter, or its nearest ancestor that the forward calls."""
    owner = parameter.rpartition(".")[0]
    while owner not in called:
        owner = owner.rpartition(".")[0]
    return owner


def _returning(recorded: list[Any], forward: Callable[..., Any]) -> Callable[..., Any]:
    """A forward that returns the recorded outputs call by call, and computes after the last of them."""
    queue = iter(recorded)
    exhausted = object()

    def replayed(*args: Any, **kwargs: Any) -> Any:
        output = next(queue, exhausted)
        return forward(*args, **kwargs) if output is exhausted else output

    return replayed


def _run_prefix(
    model: nn.Module, found: tuple[str, tuple[str, ...]], inputs: Inputs, wanted: set[str], stop: bool = True
) -> list[Any]:
    """Run up to the boundary and return the output of each prefix call (None for names not wanted).

    Outputs are cloned when they appear: code between modules may change them in place, and would change
    them a second time on replay.
    """
    boundary, prefix = found
    outputs: list[Any] = []
    depth, reached = 0, False
    names = set(prefix)

    def enter(module: nn.Module, args: Any) -> None:
        nonlocal depth
        depth += 1

    def leave(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            nonlocal depth
            depth -= 1
            if depth == 0 and not reached:
                clone = pytree.tree_map_only(Tensor, torch.clone, output) if name in wanted else None
                outputs.append(clone)

        return hook

    def end(module: nn.Module, args: Any) -> None:
        nonlocal reached
        reached = reached or depth == 0
        if stop and reached:
            raise _BoundaryReached

    with ExitStack() as hooks:
        hooks.callback(model.get_submodule(boundary).register_forward_pre_hook(end).remove)
        for name in names:
            module = model.get_submodule(name)
            hooks.callback(module.register_forward_pre_hook(enter).remove)
            hooks.callback(module.register_forward_hook(leave(name)).remove)
        with suppress(_BoundaryReached):
            model(**inputs)
    if len(outputs) != len(prefix):
        raise SplitError(f"the forward made {len(outputs)} calls before {boundary!r}, not the {len(prefix)} recorded")
    return outputs


class SplitError(Exception):
    """This model cannot be cut at this boundary; training goes on uncached and says why."""
