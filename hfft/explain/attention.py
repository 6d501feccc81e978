"""Attention maps: which patches the class token of a vision transformer looks at, head by head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from hfft.explain.forward_pass import called_modules
from hfft.plugin.contract import Anatomy, TokenLayout

_SOFTMAX = (torch.ops.aten._softmax.default, torch.ops.aten._safe_softmax.default)


def class_token_attention(
    model: nn.Module, anatomy: Anatomy, part: str, inputs: Mapping[str, Tensor]
) -> tuple[Tensor | None, str]:
    """Return how much of the class token's attention goes to each patch.

    The weights are taken where a softmax makes them, with fused attention spelled out, so it does not matter how
    a model is written or how it names its attention.

    Args:
        model: in eval mode.
        anatomy: of the model.
        part: whose attention is wanted, ``block 2`` for instance; of several layers the last one counts.
        inputs: one image's model inputs, with a batch dimension of 1, on the model's device.

    Returns:
        Shape (heads, rows, columns), on the CPU, and an empty text; or None and the reason why there is no map.
    """
    layout = anatomy.tokens
    if layout is None:
        return None, "its output is not a row of tokens"
    if not (layout.prefix and layout.class_token):
        return None, "it has no class token"
    modules = called_modules(model, dict(anatomy.parts())[part])
    weights = _attention_weights(model, modules, layout, inputs)
    if weights is None:
        return None, f"{part} does not let every token attend to every other"
    rows, columns = layout.grid
    return weights[:, 0, layout.prefix :].reshape(-1, rows, columns), ""


def _attention_weights(
    model: nn.Module, modules: list[nn.Module], layout: TokenLayout, inputs: Mapping[str, Tensor]
) -> Tensor | None:
    """Return the last attention weights within modules, shape (heads, tokens, tokens); None where there are none."""
    recorder = _Softmaxes(layout.prefix + layout.grid[0] * layout.grid[1])
    handles = []
    for module in modules:
        handles.append(module.register_forward_pre_hook(recorder.begin))
        handles.append(module.register_forward_hook(recorder.end))
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), recorder:
            model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    return recorder.found


class _Softmaxes(TorchDispatchMode):
    """Keeps the last softmax over all tokens that is computed between `begin` and `end`.

    Args:
        tokens: how many there are.
    """

    def __init__(self, tokens: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tokens = tokens
        self.within = False
        self.found: Tensor | None = None

    def begin(self, module: nn.Module, args: Any) -> None:
        self.within = True

    def end(self, module: nn.Module, args: Any, output: Any) -> None:
        self.within = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.within and func in _SOFTMAX and result.ndim == 4:
            batch, _, *sides = result.shape
            if batch == 1 and sides == [self.tokens, self.tokens]:
                self.found = result[0].detach().float().cpu().clone()
        return result
