"""Each check fails on the mistake that it is there for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_models import small_model
from torch import Tensor, nn
from transformers import PreTrainedModel

from hfft.jobs.check_plugin import check_model
from hfft.planning.registry import find_anatomy
from hfft.plugin.contract import Anatomy, TokenLayout

Subject = tuple[PreTrainedModel, dict[str, Tensor], Anatomy]


@pytest.fixture
def vit() -> Subject:
    torch.set_num_threads(1)
    model, inputs = small_model("vit")
    return model, inputs, find_anatomy(model)


def failures(subject: Subject) -> dict[str, str]:
    return {result.name: result.detail for result in check_model(*subject) if not result.ok}


def test_a_right_anatomy_fails_nothing(vit: Subject) -> None:
    assert failures(vit) == {}


def test_an_empty_stem_is_no_failure_when_everything_trains() -> None:
    model, inputs = small_model("pvt")
    results = {result.name: result for result in check_model(model, inputs, find_anatomy(model), ["full"])}
    assert results["frozen[full]"].ok
    assert "no frozen prefix" in results["split[full]"].detail


def test_the_model_is_left_as_it_was(vit: Subject) -> None:
    model = vit[0]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check_model(*vit)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_homeless_tensor_fails_the_partition_and_ends_the_checks(vit: Subject) -> None:
    model, inputs, anatomy = vit
    results = check_model(model, inputs, replace(anatomy, neck=()))
    assert [(result.name, result.ok) for result in results] == [("partition", False)]
    assert "'vit.layernorm.weight' in no part" in results[0].detail


def test_a_block_without_parameters_fails_the_partition(vit: Subject) -> None:
    model, inputs, anatomy = vit
    wrong = replace(anatomy, blocks=(*anatomy.blocks, ("vit.embeddings.dropout",)), stem=())
    stem = ("vit.embeddings.cls_token", "vit.embeddings.position_embeddings", "vit.embeddings.patch_embeddings")
    assert failures((model, inputs, replace(wrong, stem=stem))) == {"partition": "no parameter lies in block 4"}


def test_blocks_in_the_wrong_order_are_found(vit: Subject) -> None:
    model, inputs, anatomy = vit
    found = failures((model, inputs, replace(anatomy, blocks=anatomy.blocks[::-1])))
    assert found["order"] == "the forward enters block 2 before block 1"


def test_a_block_that_the_forward_never_enters_is_found(vit: Subject) -> None:
    model, inputs, anatomy = vit
    model.add_module("spare", nn.Linear(2, 2))
    found = failures((model, inputs, replace(anatomy, blocks=(("spare",), *anatomy.blocks))))
    assert found["order"] == "the forward calls no module of block 1"


def test_a_wrong_layout_of_tokens_is_found(vit: Subject) -> None:
    model, inputs, anatomy = vit
    found = failures((model, inputs, replace(anatomy, tokens=TokenLayout((4, 4)))))
    assert found == {"tokens": "the anatomy promises 16 tokens, but the last block gives (3, 17, 16)"}


def test_weights_that_a_checkpoint_does_not_keep_are_found(vit: Subject) -> None:
    model, inputs, anatomy = vit
    model.register_buffer("shift", torch.ones(3), persistent=False)
    model.register_forward_hook(_add_shift)
    found = failures((model, inputs, replace(anatomy, head=("classifier", "shift"))))
    assert found == {"reload": "logits differ after AutoModelForImageClassification.from_pretrained"}


def test_a_prefix_that_is_not_deterministic_is_found(vit: Subject) -> None:
    model, inputs, anatomy = vit
    model.get_submodule("vit.layers.0").register_forward_hook(_add_noise)
    found = failures((model, inputs, anatomy))
    assert found.keys() == {"reload", "split[head]", "split[last_block]"}


def test_a_frozen_tensor_that_the_forward_itself_moves_is_found(vit: Subject) -> None:
    model, inputs, anatomy = vit
    model.get_submodule("vit.embeddings").register_forward_hook(_count)
    model.get_submodule("vit.embeddings").register_buffer("seen", torch.zeros(()))
    found = failures((model, inputs, anatomy))
    assert found["frozen[head]"] == "frozen tensors moved: vit.embeddings.seen"


def test_a_model_that_breaks_in_a_check_fails_that_check_and_the_others_still_run(vit: Subject) -> None:
    model, inputs, anatomy = vit
    model.get_submodule("classifier").register_forward_hook(_detach)
    found = failures((model, inputs, anatomy))
    assert found.keys() == {"frozen[head]", "frozen[last_block]"}
    assert found["frozen[head]"].startswith("RuntimeError: ")


def _add_shift(module: nn.Module, args: object, output: dict[str, Tensor]) -> None:
    output["logits"] = output["logits"] + module.get_buffer("shift")


def _add_noise(module: nn.Module, args: object, output: Tensor) -> Tensor:
    return output + torch.rand_like(output)


def _count(module: nn.Module, args: object, output: Tensor) -> None:
    module.get_buffer("seen").add_(1)


def _detach(module: nn.Module, args: object, output: Tensor) -> Tensor:
    return output.detach()
