"""The class-token shortcut: the same logits and gradients, and refused where it does not apply."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from conftest import MODELS
from small_models import small_model
from timm_models import wrapped
from transformers import PreTrainedModel

from hfft.models.forward import logits_of
from hfft.planning.registry import find_anatomy
from hfft.split.class_token import class_token_only, refusal


def build(name: str) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    if name == "vit":
        model, size = small_model("vit")[0], 32  # conftest's has dropout, where the plugin leaves the shortcut out
    elif name in MODELS:
        model, size = MODELS[name](), 32
    else:
        model, size = wrapped(name, {"img_size": 32, "depth": 2}), 32
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.eval(), {"pixel_values": torch.randn(5, 3, size, size)}


@pytest.mark.parametrize("name", ["vit", "deit_tiny_patch16_224", "vit_tiny_patch16_224"])
def test_logits_and_gradients_are_those_of_the_plain_block(name: str) -> None:
    model, inputs = build(name)
    anatomy = find_anatomy(model)
    assert refusal(model, anatomy, inputs) == ""
    found = []
    for active in (False, True):
        model.zero_grad()
        with class_token_only(model, anatomy, active):
            logits = logits_of(model(**inputs))
        logits.square().sum().backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        found.append((logits.detach(), gradients))
    (plain, gradients), (short, short_gradients) = found
    torch.testing.assert_close(short, plain, rtol=1e-5, atol=1e-5 * float(plain.abs().max()))
    assert gradients.keys() == short_gradients.keys()
    # A bias on keys has no gradient but rounding, so differences are held against the largest gradient.
    scale = max(float(gradient.abs().max()) for gradient in gradients.values())
    for key, gradient in gradients.items():
        torch.testing.assert_close(short_gradients[key], gradient, rtol=1e-5, atol=1e-5 * scale, msg=key)
    assert "forward" not in model.get_submodule(anatomy.blocks[-1][0]).__dict__


def test_a_wrong_claim_is_refused() -> None:
    model, inputs = build("vit")
    anatomy = find_anatomy(model)
    assert anatomy.class_token is not None
    wrong = replace(anatomy, class_token=replace(anatomy.class_token, scale1="", norm1=anatomy.class_token.norm2))
    assert "changes logits" in refusal(model, wrong, inputs)
    assert "not built as" in refusal(
        model, replace(anatomy, class_token=replace(anatomy.class_token, proj="no")), inputs
    )


@pytest.mark.parametrize("name", ["swin", "resnet"])
def test_it_does_not_apply_where_the_head_reads_more(name: str) -> None:
    model, inputs = build(name)
    anatomy = find_anatomy(model)
    assert anatomy.class_token is None
    assert "reads more" in refusal(model, anatomy, inputs)
