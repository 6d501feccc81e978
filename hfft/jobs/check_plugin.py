"""What must hold for a model and its anatomy: the checks behind ``hfft plugins check`` and the test suite.

Each check answers with a `CheckResult`; none of them changes the model that it is given.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForImageClassification, PreTrainedModel
from transformers.utils.hub import TRANSFORMERS_DYNAMIC_MODULE_NAME

from hfft.arguments import ModelArguments, PluginCheckArguments
from hfft.data.preprocessing import blank_inputs
from hfft.errors import HfftError
from hfft.models.forward import Inputs, logits_of, record_calls
from hfft.models.load import load_model
from hfft.models.tensors import state_to_save
from hfft.planning.anatomy_file import check_anatomy
from hfft.planning.freezing import freeze
from hfft.planning.plan import Phase, make_plan
from hfft.planning.policies import KINDS, resolve_policy
from hfft.planning.registry import find_anatomy
from hfft.plugin.contract import Anatomy, covers
from hfft.split.proof import split_model
from hfft.split.split import SplitError

SMALLEST_GRADIENT = 1e-7
"""Below this AdamW's step may be lost in rounding, so a tensor is not expected to move."""


@dataclass(frozen=True)
class CheckResult:
    """The answer of one check.

    Args:
        name: which check; ``frozen[last_block]`` for one that depends on a policy.
        ok: whether what it checks holds.
        detail: what was found, or what is wrong.
    """

    name: str
    ok: bool
    detail: str


class CheckFailedError(Exception):
    """What a check found wrong."""


def check_model(
    model: PreTrainedModel, inputs: Inputs, anatomy: Anatomy, policies: Iterable[str] = ("head", "last_block")
) -> list[CheckResult]:
    """Hold an anatomy against a model, and the machinery of freezing and replay against both.

    Args:
        model: an image classifier; it is copied, not changed.
        inputs: the model's inputs for at least two different images, tensors whose first dimension is the batch.
        anatomy: what a plugin or a file says about the model.
        policies: those to freeze, split and train under.

    Returns:
        One result for each check. Without a true partition the other checks are not run.
    """
    partition = _result("partition", partial(check_partition, model, anatomy))
    if not partition.ok:
        return [partition]
    checks: dict[str, Callable[[], str]] = {
        "order": partial(check_order, model, inputs, anatomy),
        "tokens": partial(check_tokens, model, inputs, anatomy),
        "reload": partial(check_reload, model, inputs),
    }
    for policy in policies:
        checks[f"split[{policy}]"] = partial(check_split, model, inputs, anatomy, policy)
        checks[f"frozen[{policy}]"] = partial(check_frozen, model, inputs, anatomy, policy)
    return [partition, *(_result(name, check) for name, check in checks.items())]


def check_partition(model: nn.Module, anatomy: Anatomy) -> str:
    """Every parameter and every buffer is in exactly one part, and every part that must not be empty is not."""
    check_anatomy(anatomy, model)
    counts = {label: 0 for label, _ in anatomy.parts()}
    for name, parameter in model.named_parameters():
        counts[anatomy.part_of(name)] += parameter.numel()
    return ", ".join(f"{label} {count}" for label, count in counts.items())


def check_order(model: nn.Module, inputs: Inputs, anatomy: Anatomy) -> str:
    """A forward enters the parts in the order in which the anatomy lists them."""
    calls = record_calls(model, inputs)
    entered: dict[str, int] = {}
    for label, names in anatomy.parts():
        starts = [call.start for call in calls if any(covers(name, call.name) for name in names)]
        if starts:
            entered[label] = min(starts)
        elif label not in ("stem", "neck"):
            raise CheckFailedError(f"the forward calls no module of {label}")
    for (label, start), (following, later) in pairwise(entered.items()):
        if start > later:
            raise CheckFailedError(f"the forward enters {following} before {label}")
    return " -> ".join(entered)


def check_tokens(model: nn.Module, inputs: Inputs, anatomy: Anatomy) -> str:
    """The last block's output has the shape that `Anatomy.tokens` promises."""
    names = anatomy.blocks[-1]
    calls = [call for call in record_calls(model, inputs) if any(covers(name, call.name) for name in names)]
    if not calls:
        raise CheckFailedError("the forward calls no module of the last block")
    shape = max(calls, key=lambda call: call.end).shape
    layout = anatomy.tokens
    if layout is None:
        return f"feature maps {shape}" if len(shape) == 4 else f"no layout for {shape}"
    tokens = layout.grid[0] * layout.grid[1] + layout.prefix
    if len(shape) != 3 or shape[1] != tokens:
        raise CheckFailedError(f"the anatomy promises {tokens} tokens, but the last block gives {shape}")
    return f"{layout.prefix} + {layout.grid[0]} x {layout.grid[1]} tokens {shape}"


def check_reload(model: PreTrainedModel, inputs: Inputs) -> str:
    """A saved checkpoint, loaded by transformers alone, gives the same logits to the last bit."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # Windows: they are mapped
        model.save_pretrained(folder, state_dict=state_to_save(model))
        own_code = type(model).__module__.startswith(f"{TRANSFORMERS_DYNAMIC_MODULE_NAME}.")  # which runs already
        by = "AutoModelForImageClassification"
        loaded = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=own_code)
        if type(loaded).__qualname__ != type(model).__qualname__:  # own code is a module of its own for each folder
            loaded, by = type(model).from_pretrained(folder), type(model).__name__
        # Weights mapped from a file lie unaligned, and some kernels round differently there: compare in fresh memory.
        again: nn.Module = copy.deepcopy(loaded)
    again.to(next(iter(inputs.values())).device)
    if not torch.equal(_logits(copy.deepcopy(model).eval(), inputs), _logits(again.eval(), inputs)):
        raise CheckFailedError(f"logits differ after {by}.from_pretrained")
    return f"loaded by {by}"


def check_split(model: nn.Module, inputs: Inputs, anatomy: Anatomy, policy: str) -> str:
    """Replay from the boundary equals the full forward to the last bit."""
    model, phase = _frozen_copy(model, anatomy, policy)
    split = split_model(model, phase, inputs)
    size = sum(leaf.bytes_per_image for leaf in split.leaves)
    kept = ", ".join(f"{leaf.key} {leaf.shape}" for leaf in split.leaves)
    return f"boundary {split.boundary}; keeps {kept}: {size} bytes per image"


def check_frozen(model: nn.Module, inputs: Inputs, anatomy: Anatomy, policy: str) -> str:
    """Two optimizer steps in train mode move what the policy trains, and nothing else by a single bit.

    The detail names idle tensors: a checkpoint may hold modules that its logits do not depend on.
    """
    model, _ = _frozen_copy(model, anatomy, policy)
    spec = resolve_policy(policy, anatomy, 1)[0]
    kind, live = set(KINDS[spec.tensors](model)), spec.parts
    parts = {name: anatomy.part_of(name) for name, _ in model.named_parameters()}
    expected = {name for name, part in parts.items() if part == "head" or (part in live and name in kind)}
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if trainable != expected:
        raise CheckFailedError(f"trainable are not the parameters of {sorted(live)}: {sorted(trainable ^ expected)}")
    before = _tensors(model)
    reached, idle = _train_two_steps(model, inputs)
    after = _tensors(model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    if thawed := sorted(name for name in moved if anatomy.part_of(name) not in live):
        raise CheckFailedError(f"frozen tensors moved: {', '.join(thawed[:5])}")
    if stuck := sorted(reached - moved):
        raise CheckFailedError(f"trainable tensors did not move: {', '.join(stuck[:5])}")
    filled = {anatomy.part_of(name) for name in trainable} - {"neck"}
    if still := sorted(filled - {anatomy.part_of(name) for name in moved}):
        raise CheckFailedError(f"nothing in {', '.join(still)} moved")
    return f"{len(trainable)} trainable, idle: {' '.join(sorted(idle)) or 'none'}"


def _result(name: str, check: Callable[[], str]) -> CheckResult:
    try:
        return CheckResult(name, True, check())
    except (CheckFailedError, HfftError, SplitError) as error:
        return CheckResult(name, False, str(error))
    except Exception as error:  # a model that breaks in a check fails it, and the other checks still run
        return CheckResult(name, False, f"{type(error).__name__}: {error}")


def _frozen_copy(model: nn.Module, anatomy: Anatomy, policy: str) -> tuple[nn.Module, Phase]:
    model = copy.deepcopy(model)
    phase = make_plan(model, anatomy, policy, epochs=1).phases[0]
    freeze(model, phase)
    return model, phase


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in (*model.named_parameters(), *model.named_buffers())}


def _train_two_steps(model: nn.Module, inputs: Inputs) -> tuple[set[str], set[str]]:
    """Train on the batch with made-up labels.

    Returns:
        The names of the parameters that a gradient must have moved, and of those that the logits do not
        depend on. Some are in neither: a key's bias has a gradient of nothing but rounding.
    """
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    optimizer = torch.optim.AdamW(trainable.values(), lr=1e-2, weight_decay=0)
    reached: set[str] = set()
    model.train()
    for _ in range(2):
        logits = logits_of(model(**inputs))
        labels = torch.arange(len(logits), device=logits.device) % logits.shape[-1]
        optimizer.zero_grad()
        cross_entropy(logits, labels).backward()
        gradients = {name: p.grad for name, p in trainable.items() if p.grad is not None}
        reached |= {name for name, gradient in gradients.items() if float(gradient.abs().max()) > SMALLEST_GRADIENT}
        optimizer.step()
    return reached, trainable.keys() - gradients.keys()


def _logits(model: nn.Module, inputs: Inputs) -> Tensor:
    with torch.no_grad():
        return logits_of(model(**inputs))


def check_plugin(name: str, options: PluginCheckArguments) -> tuple[str, list[CheckResult]]:
    """Hold a plugin's anatomy of a model against everything hfft does with it.

    Args:
        name: of the plugin.
        options: which model.

    Returns:
        A line for each check, and the checks.

    Raises:
        PluginError: the plugin is not installed, or its anatomy does not fit the model at all.
        ModelError: the model cannot be loaded.
    """
    arguments = ModelArguments(
        model_name_or_path=options.model,
        model_revision=options.revision or "main",
        token=options.token,
        trust_remote_code=options.trust_remote_code,
        plugin=name,
    )
    model, processor, base = load_model(arguments, ["a", "b", "c"])
    anatomy = find_anatomy(model, name)
    results = check_model(model, blank_inputs(processor), anatomy)
    lines = [f"{'ok  ' if result.ok else 'FAIL'}  {result.name:<18} {result.detail}" for result in results]
    return "\n".join([f"Plugin {name} on {base.name}:", *lines]), results
