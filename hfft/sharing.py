"""A model's state as a checkpoint can hold it: no two names for one piece of memory that nobody declared."""

from __future__ import annotations

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
