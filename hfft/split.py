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

from hfft.policies import Phase

Inputs = Mapping[str, Tensor]


class SplitError(Exception):
    """This model cannot be cut at this boundary; training goes on uncached and says why."""


class _BoundaryReached(Exception):  # noqa: N818  (a signal, not an error)
    """Ends a capture's forward where the suffix would begin."""


@dataclass
class Call:
    """One call of one module in a recorded forward.

    Args:
        name: of the module.
        start: how many enters and exits came before this call was entered.
        parent: the call that made this one.
        end: the same count at its exit.
        shape: of the first tensor that it returned, with the batch; empty where it returned none.
    """

    name: str
    start: int
    parent: Call | None
    end: int = -1
    shape: tuple[int, ...] = ()


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
    leaves: list[Any]  # a _Slot for a tensor, else the constant itself

    def slots(self) -> list[_Slot]:
        return [leaf for leaf in self.leaves if isinstance(leaf, _Slot)]


@dataclass
class _Slot:
    """A tensor in a prefix output or among the inputs."""

    leaf: Leaf
    constant: Tensor | None = None  # a tensor without a batch dimension, the same for every image
    kept: bool = True
    folded: bool = False  # the model keeps the rows of all images in one dimension, image by image

    @property
    def cached(self) -> bool:
        """Whether each image has its own, which the rest of the model reads."""
        return self.kept and self.constant is None

    def rows(self, value: Tensor) -> Tensor:
        """Give the model's own tensor one entry for each image in its first dimension."""
        return value.unflatten(0, (-1, self.leaf.shape[0])) if self.folded else value

    def value(self, values: Mapping[str, Tensor], batch_size: int, device: torch.device) -> Tensor:
        if not self.kept:
            shape = self.leaf.shape if self.constant is not None else (batch_size, *self.leaf.shape)
            # Nobody reads it, but code between modules may write to it, so it has memory of its own; a float
            # placeholder's content is never set, which costs nothing however large it is.
            make = torch.empty if self.leaf.dtype.is_floating_point else torch.zeros
            value = make(shape, dtype=self.leaf.dtype, device=device)
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
    _inputs: dict[str, _Slot] = field(repr=False)

    @property
    def leaves(self) -> list[Leaf]:
        """The tensors that a cache must hold for each image."""
        return [slot.leaf for slot in self._slots() if slot.cached]

    def capture(self, inputs: Inputs) -> dict[str, Tensor]:
        """Run the model up to the boundary and stop.

        Args:
            inputs: the model's inputs, tensors whose first dimension is the batch.

        Returns:
            For each of `leaves`, its key and a tensor of shape (batch, *leaf.shape).
        """
        wanted = {made.name for made in self._outputs if any(slot.cached for slot in made.slots())}
        outputs = _run_prefix(self.model, self.boundary, self.prefix, inputs, wanted)
        values = {slot.leaf.key: inputs[name] for name, slot in self._inputs.items() if slot.cached}
        for made, output in zip(self._outputs, outputs, strict=True):
            if made.name in wanted:
                pairs = zip(made.leaves, pytree.tree_leaves(output), strict=True)
                cached = [(slot, value) for slot, value in pairs if isinstance(slot, _Slot) and slot.cached]
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
            leaves = [leaf.value(values, *place) if isinstance(leaf, _Slot) else leaf for leaf in output.leaves]
            queues[output.name].append(pytree.tree_unflatten(leaves, output.spec))
        with ExitStack() as stack:
            for name, recorded in queues.items():
                module = self.model.get_submodule(name)
                stack.enter_context(patched_forward(module, _returning(recorded, module.forward)))
            yield {name: slot.value(values, *place) for name, slot in self._inputs.items()}

    def _slots(self) -> list[_Slot]:
        return [*self._inputs.values(), *(slot for made in self._outputs for slot in made.slots())]


def split_model(model: nn.Module, phase: Phase, inputs: Inputs) -> Split:
    """Find the boundary of a phase, decide what must be kept, and prove that replay is exact.

    Args:
        model: frozen as `phase` says.
        phase: its trainable parameters give the boundary.
        inputs: at least two real images.

    Returns:
        A split whose replay gave the full forward's logits to the last bit on `inputs`: in eval mode, in
        train mode under one seed, and with the trainable parameters changed after the capture.

    Raises:
        SplitError: there is no frozen prefix, or replay is not exact, and why.
    """
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            split = _find_split(model, phase, inputs)
            _keep_what_is_read(split, split.capture(inputs))
            _prove_exact(split, phase, inputs)
    finally:
        model.train(training)
    return split


def find_boundary(model: nn.Module, phase: Phase, inputs: Inputs) -> tuple[str, tuple[str, ...]]:
    """Return the boundary's name and the names of the outermost modules that finish before it.

    Raises:
        SplitError: nothing finishes before the boundary.
    """
    calls = record_calls(model, inputs)
    called = {call.name for call in calls}
    owners = {_called_owner(name, called) for name in phase.trainable}
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


def record_calls(model: nn.Module, inputs: Inputs) -> list[Call]:
    """Run one forward and return the module calls in the order in which they were entered."""
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
        call.shape = next((tuple(leaf.shape) for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)), ())

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            hooks.callback(module.register_forward_pre_hook(enter(name), with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(leave, with_kwargs=True).remove)
        with torch.no_grad():
            model(**inputs)
    return calls


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
    model: nn.Module, boundary: str, prefix: tuple[str, ...], inputs: Inputs, wanted: set[str]
) -> list[Any]:
    """Run up to the boundary and return the output of each prefix call (None for names not wanted).

    Outputs are cloned when they appear: code between modules may change them in place, and would change
    them a second time on replay.
    """
    outputs: list[Any] = []
    depth = 0
    names = set(prefix)

    def enter(module: nn.Module, args: Any) -> None:
        nonlocal depth
        depth += 1

    def leave(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            nonlocal depth
            depth -= 1
            if depth == 0:
                clone = pytree.tree_map_only(Tensor, torch.clone, output) if name in wanted else None
                outputs.append(clone)

        return hook

    def stop(module: nn.Module, args: Any) -> None:
        if depth == 0:
            raise _BoundaryReached

    with ExitStack() as hooks:
        hooks.callback(model.get_submodule(boundary).register_forward_pre_hook(stop).remove)
        for name in names:
            module = model.get_submodule(name)
            hooks.callback(module.register_forward_pre_hook(enter).remove)
            hooks.callback(module.register_forward_hook(leave(name)).remove)
        with suppress(_BoundaryReached):
            model(**inputs)
    if len(outputs) != len(prefix):
        raise SplitError(f"the forward made {len(outputs)} calls before {boundary!r}, not the {len(prefix)} recorded")
    return outputs


def _find_split(model: nn.Module, phase: Phase, inputs: Inputs) -> Split:
    """Record the prefix on two batch sizes, to tell tensors with one row per image from constants."""
    boundary, prefix = find_boundary(model, phase, inputs)
    larger = {name: torch.cat([tensor, tensor[:1]]) for name, tensor in inputs.items()}
    size = next(iter(inputs.values())).shape[0]
    names = set(prefix)
    outputs = _run_prefix(model, boundary, prefix, inputs, names)
    others = _run_prefix(model, boundary, prefix, larger, names)
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
            leaves.append(_make_slot(key, value, value_other, size))
        made.append(_Output(name, spec, leaves))
    slots = {name: _make_slot(f"input:{name}", inputs[name], larger[name], size) for name in inputs}
    return Split(model, boundary, prefix, made, slots)


def _make_slot(key: str, value: Tensor, larger: Tensor, size: int) -> _Slot:
    if value.shape == larger.shape:
        return _Slot(Leaf(key, tuple(value.shape), value.dtype), constant=value)
    rows = value.shape[0] // size if value.ndim else 0
    if not rows or value.shape[0] % size or larger.shape != (rows * (size + 1), *value.shape[1:]):
        raise SplitError(f"the output of {key!r}, of shape {tuple(value.shape)}, has no rows for each image")
    if rows == 1:
        return _Slot(Leaf(key, tuple(value.shape[1:]), value.dtype))
    if not torch.allclose(larger[: len(value)].float(), value.float(), rtol=1e-3, atol=1e-3):
        raise SplitError(f"the output of {key!r}, of shape {tuple(value.shape)}, mixes the rows of its images")
    return _Slot(Leaf(key, (rows, *value.shape[1:]), value.dtype), folded=True)


def _keep_what_is_read(split: Split, values: dict[str, Tensor]) -> None:
    """Poison each tensor and keep those that change the logits.

    Most models hand on one tensor, their last; that is tried first, with all others poisoned at once.
    """
    reference = _replayed(split, values)
    slots = split._slots()
    if not _reads_any_of(split, slots[:-1], values, reference):
        for slot in slots[:-1]:
            slot.kept = False
        return
    for slot in slots:
        slot.kept = _reads_any_of(split, [slot], values, reference)
    if not split.leaves:
        raise SplitError("no tensor with one row per image crosses the boundary")


def _reads_any_of(split: Split, slots: list[_Slot], values: dict[str, Tensor], reference: Tensor) -> bool:
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
    return not torch.equal(logits, reference)


def _poison(tensor: Tensor) -> Tensor:
    if tensor.is_floating_point() or tensor.is_complex():
        return torch.full_like(tensor, float("nan"))
    if tensor.dtype == torch.bool:
        return ~tensor
    return torch.where(tensor == 0, 1, 0).to(tensor.dtype)


def _prove_exact(split: Split, phase: Phase, inputs: Inputs) -> None:
    """Compare replay with the full forward, bit for bit, in every state that training will see."""
    model = split.model
    captured = split.capture(inputs)
    if not torch.equal(logits_of(model(**inputs)), _replayed(split, captured)):
        raise SplitError("replay differs from the full forward")
    learning = [parameter for name, parameter in model.named_parameters() if name in phase.trainable]
    before = [(tensor, tensor.clone()) for tensor in (*learning, *model.buffers())]
    try:
        model.train()
        full = _seeded(inputs, lambda: logits_of(model(**inputs)))
        _put_back(before)
        if not torch.equal(full, _seeded(inputs, lambda: _replayed(split, captured))):
            raise SplitError("replay differs from the full forward in train mode: the prefix is not deterministic")
        _put_back(before)
        model.eval()
        for parameter in learning:
            parameter.add_(0.01)
        if not torch.equal(logits_of(model(**inputs)), _replayed(split, captured)):
            raise SplitError("the prefix depends on trainable parameters")
    finally:
        _put_back(before)
        model.eval()


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
