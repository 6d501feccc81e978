"""What ``lora`` asks for, and where each architecture gets adapters."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_models import HEADLESS, SMALL, small_headed, small_model
from torch.nn.functional import cross_entropy

from hfft.errors import ArgumentError
from hfft.models.adapters import adapter_names, fold
from hfft.models.forward import logits_of
from hfft.planning.freezing import freeze
from hfft.planning.low_rank import LoraWish
from hfft.planning.plan import make_plan
from hfft.planning.policies import check_policy
from hfft.planning.registry import find_anatomy
from hfft.plugin.contract import LowRank
from hfft.split.proof import split_model

NONE = {
    *("bit", "efficientnet", "hgnet_v2", "mobilenet_v1", "mobilenet_v2", "mobilevitv2", "poolformer", "pp_lcnet"),
    *("regnet", "resnet", "textnet"),
}
"""Types whose blocks are convolutions throughout."""


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_what_follows_the_colon() -> None:
    assert LoraWish.of("") == LoraWish(None, LowRank(8, 16.0, 0.0, False))
    assert LoraWish.of("last_n=4,r=4,dropout=0.1,dora=true") == LoraWish(4, LowRank(4, 8.0, 0.1, True))
    assert LoraWish.of("alpha=0.5,dora=false").adapters == LowRank(8, 0.5)


@pytest.mark.parametrize(
    "argument",
    ["r=0", "r=1.5", "r=-1", "r", "r=", "rank=4", "r=4,r=8", "alpha=0", "alpha=0.0", "alpha=x", "dropout=1", "dora=1"],
)
def test_other_settings_are_refused_by_name(argument: str) -> None:
    with pytest.raises(ArgumentError, match=r"--policy lora takes last_n, r .* not"):
        check_policy(f"lora:{argument}")


@pytest.mark.parametrize("count", [4, 100])
def test_more_blocks_than_there_are(count: int) -> None:
    model, _ = small_model("vit")
    with pytest.raises(ArgumentError, match=r"lora:last_n=K needs a whole number K from 1 to 3"):
        make_plan(model, find_anatomy(model), f"lora:last_n={count}", 1)


def test_a_head_of_tensors_is_refused_before_training() -> None:
    model, _ = small_model("vit")
    anatomy = replace(find_anatomy(model), head=("classifier.weight", "classifier.bias"))
    with pytest.raises(ArgumentError, match=r"classifier\.weight, classifier\.bias of the head is a tensor"):
        make_plan(model, anatomy, "lora", 1)


@pytest.mark.parametrize("model_type", sorted({*SMALL, *HEADLESS} - NONE))
def test_every_adapter_learns_alone_and_folds_in(model_type: str) -> None:
    """Put in they change nothing; each learns, with the head alone; folded in, names and logits are stock."""
    model, inputs = (small_model if model_type in SMALL else small_headed)(model_type)
    names, anatomy = list(model.state_dict()), find_anatomy(model)
    with torch.no_grad():
        plain = logits_of(model(**inputs))
    phase = make_plan(model, anatomy, "lora:r=2,dora=true" if model_type == "swin" else "lora:r=2", 1).phases[0]
    adapters = adapter_names(model)
    assert phase.trainable == {*adapters, *(n for n, _ in model.named_parameters() if anatomy.part_of(n) == "head")}
    freeze(model, phase)
    torch.testing.assert_close(logits_of(model(**inputs)), plain, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in adapters:
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    trained = logits_of(model(**inputs))
    assert not torch.equal(trained, plain)
    cross_entropy(trained, torch.arange(len(trained)) % trained.shape[1]).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if name in adapters}
    assert all(gradient is not None and gradient.any() for gradient in gradients.values())
    fold(model)
    assert list(model.state_dict()) == names
    with torch.no_grad():
        torch.testing.assert_close(logits_of(model.eval()(**inputs)), trained.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model_type", sorted(NONE))
def test_a_model_without_projections_is_refused_by_name(model_type: str) -> None:
    model, _ = small_model(model_type)
    with pytest.raises(ArgumentError, match=f"{type(model).__name__} has no attention or MLP projections"):
        make_plan(model, find_anatomy(model), "lora", 1)


@pytest.mark.parametrize("model_type", ["vit", "swin", "convnext"])
def test_the_suffix_begins_with_the_first_adapted_block(model_type: str) -> None:
    """One tensor for each image crosses the boundary, not what each projection reads."""
    model, inputs = small_model(model_type)
    anatomy = find_anatomy(model)
    phase = make_plan(model, anatomy, "lora:last_n=1", 1).phases[0]
    freeze(model, phase)
    split = split_model(model, phase, inputs)
    assert (split.boundary, len(split.leaves)) == (anatomy.blocks[-1][0], 1)


def test_adapters_depend_on_the_seed_alone() -> None:
    """Whatever was drawn since the seed was set, and drawing them leaves random numbers as they were."""
    drawn = []
    for numbers in (0, 5):
        model, _ = small_model("vit")
        torch.manual_seed(3)
        torch.rand(numbers)
        state = torch.get_rng_state()
        make_plan(model, find_anatomy(model), "lora", 1)
        assert torch.equal(torch.get_rng_state(), state)
        drawn.append({name: p.detach() for name, p in model.named_parameters() if ".lora_A." in name})
    assert all(torch.equal(tensor, drawn[1][name]) for name, tensor in drawn[0].items())
