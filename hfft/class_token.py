"""The exact shortcut for heads that read nothing but the class token.

In the last block only the keys and values need all tokens; the query, the projection and the MLP are
needed for the class token alone, a sixth of the block's arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F  # noqa: N812  (PyTorch's own name for it)
from torch import Tensor, nn

from hfft.plugin import Anatomy, ClassTokenBlock
from hfft.recording import Inputs, Recording, patched_forward, record

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
        query, key, value = _project(block, spec, parts["norm1"](hidden_states))
        attended = F.scaled_dot_product_attention(query, key, value)
        attended = attended.transpose(1, 2).flatten(2)
        token = hidden_states[:, :1] + parts["scale1"](parts["proj"](attended))
        hidden = parts["norm2"](token)
        for module in mlp:
            hidden = module(hidden)
        token = token + parts["scale2"](hidden)
        return token

    return forward


def _project(block: nn.Module, spec: ClassTokenBlock, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Project to heads: the query (batch, heads, 1, dim), keys and values (batch, heads, tokens, dim)."""
    if spec.qkv:
        joint = block.get_submodule(spec.qkv)
        assert isinstance(joint, nn.Linear)
        dim, bias = joint.out_features // 3, joint.bias
        query = F.linear(normed[:, :1], joint.weight[:dim], None if bias is None else bias[:dim])
        rest = F.linear(normed, joint.weight[dim:], None if bias is None else bias[dim:])
        key, value = rest.chunk(2, dim=-1)
    else:
        query = block.get_submodule(spec.query)(normed[:, :1])
        key = block.get_submodule(spec.key)(normed)
        value = block.get_submodule(spec.value)(normed)
    query, key, value = (part.unflatten(-1, (spec.heads, -1)).transpose(1, 2) for part in (query, key, value))
    return _module(block, spec.q_norm)(query), _module(block, spec.k_norm)(key), value


def _module(block: nn.Module, name: str) -> nn.Module:
    return block.get_submodule(name) if name else nn.Identity()
