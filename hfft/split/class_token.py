"""The exact shortcut for heads that read nothing but the class token.

In the last block everything but the first norm is then computed for the class token alone: one query needs
neither keys nor values of the other tokens, only their weighted sum (`_attend`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hfft.models.forward import Inputs, Recording, patched_forward, record
from hfft.plugin.contract import Anatomy, ClassTokenBlock

TOLERANCE = 1e-5
"""Largest difference of a logit, relative to the largest logit, that both ways of computing may show."""


@contextmanager
def class_token_only(model: nn.Module, anatomy: Anatomy, active: bool = True) -> Iterator[None]:
    """Within this context the last block returns its class token alone, shape (batch, 1, dim).

    Capturing, replaying and uncached training all run in it or none does, so that they agree to the last bit.
    """
    if not active:
        yield
        return
    assert anatomy.class_token is not None
    block = model.get_submodule(anatomy.blocks[-1][0])
    with patched_forward(block, class_token_forward(block, anatomy.class_token)):
        yield


def refusal(model: nn.Module, anatomy: Anatomy, inputs: Inputs) -> str:
    """Return why the shortcut does not apply to a model, or the empty string where it does.

    Args:
        model: in eval mode, on the device that it will train on.
        anatomy: its plugin's word on whether the head reads the class token alone.
        inputs: a few real images, on which both ways of computing are compared.
    """
    return try_shortcut(model, anatomy, inputs, record(model, inputs))[0]


def try_shortcut(model: nn.Module, anatomy: Anatomy, inputs: Inputs, plain: Recording) -> tuple[str, Recording]:
    """Compare the shortcut with a plain forward of the same inputs.

    Returns:
        Why it does not apply (empty where it does), and the recording of the way that is to be used.
    """
    if anatomy.class_token is None:
        return "the head reads more than the class token of the last block", plain
    if len(anatomy.blocks[-1]) != 1:
        return "the last block is not one module", plain
    try:
        with class_token_only(model, anatomy):
            short = record(model, inputs)
    except (RuntimeError, AttributeError, IndexError, TypeError, ValueError) as error:
        return f"the last block is not built as the plugin says: {error}", plain
    expected, found = plain.logits.float(), short.logits.float()
    difference = float((expected - found).abs().max() / expected.abs().max().clamp_min(1e-12))
    if not difference <= TOLERANCE:
        return f"it changes logits by {difference:.1e} of their scale", plain
    return "", short


def class_token_forward(block: nn.Module, spec: ClassTokenBlock) -> Callable[..., Any]:
    """Build a forward for a pre-norm block: (batch, tokens, dim) -> (batch, 1, dim), the class token's output.

    The returned function has the signature of the block's own forward and ignores what else is passed.
    """
    parts = {name: _module(block, getattr(spec, name)) for name in ("norm1", "proj", "scale1", "norm2", "scale2")}
    mlp = [_module(block, name) for name in spec.mlp]

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        attended = _attend(block, spec, parts["norm1"](hidden_states))
        token = hidden_states[:, :1] + parts["scale1"](parts["proj"](attended))
        hidden = parts["norm2"](token)
        for module in mlp:
            hidden = module(hidden)
        return token + parts["scale2"](hidden)

    return forward


def _attend(block: nn.Module, spec: ClassTokenBlock, normed: Tensor) -> Tensor:
    """Attention of the class token to all tokens: (batch, tokens, dim) -> (batch, 1, heads * head_dim).

    One query needs no keys: ``q . (W x + b) = (W' q) . x + q . b``, so the query goes through the keys'
    projection once instead of every token. Nor values: the attention's weights add up to one, so the tokens
    are averaged first and projected once. A norm on the keys stands in between; then keys are computed.
    """
    query, key, value = (_head_weights(layer, spec.heads) for layer in _projections(block, spec))
    asked = _per_head(normed[:, :1].expand(-1, spec.heads, -1), *query)  # (batch, heads, head_dim)
    asked = _module(block, spec.q_norm)(asked)
    if spec.k_norm:
        keys = torch.einsum("bnc,hdc->bhnd", normed, key[0]) + (0 if key[1] is None else key[1][:, None])
        scores = torch.einsum("bhd,bhnd->bhn", asked, _module(block, spec.k_norm)(keys))
    else:
        scores = torch.einsum("bhd,hdc->bhc", asked, key[0]) @ normed.transpose(1, 2)
        if key[1] is not None:
            scores = scores + (asked * key[1]).sum(-1, keepdim=True)
    weights = (scores * asked.shape[-1] ** -0.5).softmax(-1)  # (batch, heads, tokens)
    return _per_head(weights @ normed, *value).flatten(1)[:, None]


def _per_head(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Project each head's own input: (batch, heads, dim) with (heads, head_dim, dim) -> (batch, heads, head_dim)."""
    outputs = torch.einsum("bhc,hdc->bhd", inputs, weight)
    return outputs if bias is None else outputs + bias


def _projections(block: nn.Module, spec: ClassTokenBlock) -> list[tuple[Tensor, Tensor | None]]:
    """Weight and bias of the query's, the keys' and the values' projection."""
    names = [spec.qkv] if spec.qkv else [spec.query, spec.key, spec.value]
    layers = [block.get_submodule(name) for name in names]
    if not all(isinstance(layer, nn.Linear) for layer in layers):
        raise TypeError("its projections are not plain linear layers (adapters are not)")
    pairs: list[tuple[Tensor, Tensor | None]] = [
        (layer.weight, layer.bias) for layer in layers if isinstance(layer, nn.Linear)
    ]
    if not spec.qkv:
        return pairs
    weight, bias = pairs[0]
    biases = bias.chunk(3) if bias is not None else (None, None, None)
    return list(zip(weight.chunk(3), biases, strict=True))


def _head_weights(layer: tuple[Tensor, Tensor | None], heads: int) -> tuple[Tensor, Tensor | None]:
    """Split a projection by heads: weight (heads, head_dim, dim), bias (heads, head_dim)."""
    weight, bias = layer
    return weight.unflatten(0, (heads, -1)), None if bias is None else bias.unflatten(0, (heads, -1))


def _module(block: nn.Module, name: str) -> nn.Module:
    return block.get_submodule(name) if name else nn.Identity()
