"""A model's state as a checkpoint can hold it: no two names for one piece of memory that nobody declared."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel


def state_to_save(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the state dict, with a copy for each tensor that shares memory without being declared tied.

    timm shares some modules under two names (CoaT's position encodings), which transformers' wrapper does not
    declare and would refuse to save; written twice, they load as they were.
    """
    state: dict[str, Tensor] = model.state_dict()
    tied = {*model.all_tied_weights_keys, *model.all_tied_weights_keys.values()}
    seen: set[int] = set()
    for name, tensor in state.items():
        if tensor.data_ptr() in seen and name not in tied:
            state[name] = tensor.clone()
        seen.add(tensor.data_ptr())
    return state


def digest(tensors: Mapping[str, torch.Tensor] | Iterator[tuple[str, torch.Tensor]]) -> str:
    """Return the SHA-256 over names, dtypes, shapes and bytes of tensors, in order of name."""
    items = tensors.items() if isinstance(tensors, Mapping) else tensors
    total = hashlib.sha256()
    for name, tensor in sorted(items, key=lambda item: item[0]):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().to("cpu").contiguous().reshape(-1)
        total.update(flat.view(torch.uint8).numpy().data)
    return total.hexdigest()
