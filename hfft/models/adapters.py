"""Low-rank adapters by PEFT: put beside a model's projections, written in PEFT's format, folded into the weights."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from hfft.errors import ArgumentError, ModelError, one_line
from hfft.output_folder import note
from hfft.plugin.contract import LowRank, covers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
"""How PEFT calls the two files of `hfft.output_folder.ADAPTER`."""
_NAME = "default"
_OURS = re.compile(r"\.lora_[a-zA-Z_]+\." + _NAME + r"(\.|$)")
_NO_PROJECTION = re.compile(r"downsample|reduction|bias|relative")
"""In the names of linear layers that change the resolution or make position biases."""


def require_peft() -> None:
    """Make sure that PEFT is there.

    Raises:
        ArgumentError: it is not, and how to install it.
    """
    if find_spec("peft") is None:
        raise ArgumentError('--policy lora needs peft: pip install "hfft[lora]"')


def projections(model: nn.Module, blocks: Iterable[str], ends: Sequence[str] = ()) -> list[str]:
    """Return the names of the projections that adapters stand beside.

    Args:
        model: any module.
        blocks: names of the modules that they lie below.
        ends: how their names end; if empty, every linear layer of a block is one, but those that change the resolution,
            make position biases or are read by attention without being called.
    """
    inside = [
        name for name, _ in model.named_modules() if any(name != block and covers(block, name) for block in blocks)
    ]
    if ends:
        return [name for name in inside if any(f".{name}".endswith(f".{end}") for end in ends)]
    return [name for name in inside if _is_projection(model, name)]


def _is_projection(model: nn.Module, name: str) -> bool:
    parent = model.get_submodule(name.rpartition(".")[0])
    linear = isinstance(model.get_submodule(name), nn.Linear)
    return linear and not isinstance(parent, nn.MultiheadAttention) and not _NO_PROJECTION.search(name)


def add_adapters(model: nn.Module, names: Sequence[str], wish: LowRank, head: Sequence[str]) -> None:
    """Put an adapter beside each projection, in place; the model gives what it gave before.

    Adapters are drawn from the seed that torch was last given, whatever has been drawn since.

    Args:
        model: any module.
        names: of its projections.
        wish: what the adapters are.
        head: names of the modules that are trained whole, which PEFT keeps beside the adapters.

    Raises:
        ArgumentError: PEFT is missing, the model has other adapters, one of the modules can have none, or the head
            is not made of modules.
    """
    require_peft()
    from peft import LoraConfig, inject_adapter_in_model
    from transformers.pytorch_utils import Conv1D

    config = LoraConfig(
        r=wish.r,
        lora_alpha=wish.alpha,  # type: ignore[arg-type]  # any number will do
        lora_dropout=wish.dropout,
        use_dora=wish.dora,
        fan_in_fan_out=any(isinstance(model.get_submodule(name), Conv1D) for name in names),
        target_modules=list(names),
        base_model_name_or_path=getattr(model, "name_or_path", None),
    )
    if adapted(model):
        raise ArgumentError("the model has adapters already; hfft sweep compares policies, each with its own model")
    modules = {name for name, _ in model.named_modules()}
    if loose := [name for name in head if name not in modules]:
        raise ArgumentError(
            f"--policy lora: PEFT keeps modules beside adapters, and {', '.join(loose)} of the head is a tensor; name "
            "the module that holds it as the anatomy's head, or choose last_block"
        )
    try:
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(torch.initial_seed())
            inject_adapter_in_model(config, model, _NAME)
    except ValueError as error:
        raise ArgumentError(f"PEFT makes no adapters for {type(model).__name__}: {error}") from error
    config.modules_to_save = list(head)  # not before: they would be copied, and the copies trained


def adapted(model: nn.Module) -> bool:
    """Return whether a model has adapters that are not folded in."""
    return hasattr(model, "peft_config")


def adapter_names(model: nn.Module) -> list[str]:
    """Return the names of the parameters of all adapters."""
    return [name for name, _ in model.named_parameters() if _OURS.search(name)]


def fold(model: nn.Module) -> None:
    """Add what adapters learned to the weights that they stand beside, in place, and take the adapters out."""
    if not adapted(model):
        return
    from peft.tuners.lora import LoraLayer

    for name, module in [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]:
        module.merge(safe_merge=True)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module.get_base_layer())
    del model.peft_config


def adapter_tensors(model: Any) -> dict[str, Tensor]:
    """Return what PEFT saves of a model with adapters: the adapters, and the head beside them."""
    from peft import get_peft_model_state_dict

    found = get_peft_model_state_dict(model, adapter_name=_NAME, save_embedding_layers=False)
    for head in model.peft_config[_NAME].modules_to_save:
        found |= {f"{head}.{name}": tensor for name, tensor in model.get_submodule(head).state_dict().items()}
    return {
        f"base_model.model.{name}": tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in found.items()
    }


def write_adapter(folder: Path, model: Any, base: str, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write adapters as PEFT does, into a new folder that ``PeftModel.from_pretrained`` reads.

    Args:
        folder: is made.
        model: with adapters.
        base: what the configuration calls the base model.
        tensors: of `adapter_tensors`.
        metadata: goes beside them.
    """
    folder.mkdir()
    note(folder, (CONFIG, TENSORS))
    save_file(tensors, folder / TENSORS, metadata)
    config = copy.copy(model.peft_config[_NAME])
    config.base_model_name_or_path, config.inference_mode = base, True
    config.target_modules = sorted(config.target_modules)  # a set, which every process orders in its own way
    config.save_pretrained(folder)


def apply_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Fold adapters from a folder into their base model.

    Raises:
        ArgumentError: PEFT is missing.
        ModelError: they do not fit the model.
    """
    require_peft()
    from peft import PeftModel

    try:
        merged: PreTrainedModel = PeftModel.from_pretrained(model, folder).merge_and_unload(safe_merge=True)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ModelError(f"the adapters in {folder} do not fit {type(model).__name__}: {one_line(error)}") from error
    return merged
