"""Frozen means frozen: the exact sets, and a hold that outlives every ``model.train()``."""

from __future__ import annotations

import pytest
import torch
from toy import ANATOMY, HEAD, LAST, NORM, Toy

from hfft.errors import ArgumentError
from hfft.models.tensors import digest
from hfft.planning.freezing import freeze, frozen_tensors, unfreeze
from hfft.planning.plan import make_plan


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("head", HEAD),
        ("last_block", HEAD | NORM | LAST),
        ("last_n:1", HEAD | NORM | LAST),
        ("full", {name for name, _ in Toy().named_parameters()}),
    ],
)
def test_policy_trains_exactly(policy: str, expected: set[str]) -> None:
    model = Toy()
    freeze(model, make_plan(model, ANATOMY, policy, 1).phases[0])
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == expected


@pytest.mark.parametrize("policy", ["last_n:0", "last_n:4", "last_n:x", "last_n", "head:2", "best", "last_n:-1"])
def test_policy_that_does_not_fit_is_refused(policy: str) -> None:
    with pytest.raises(ArgumentError, match="--policy"):
        make_plan(Toy(), ANATOMY, policy, 1)


def test_frozen_modules_stay_in_eval_mode() -> None:
    model = Toy()
    phase = make_plan(model, ANATOMY, "last_block", 1).phases[0]
    freeze(model, phase)
    for _ in range(2):
        model.train()
        training = {name for name, module in model.named_modules() if module.training}
        live = {f"blocks.2.{index}" for index in range(3)}
        assert training == {"", "blocks", "blocks.2", "norm", "head_drop", "head"} | live
        model.eval()
        assert not any(module.training for module in model.modules())


def test_steps_move_trainable_tensors_only() -> None:
    torch.manual_seed(0)
    model = Toy()
    phase = make_plan(model, ANATOMY, "last_block", 1).phases[0]
    freeze(model, phase)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    frozen = digest(frozen_tensors(model, phase))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        model.train()
        model(torch.randn(8, 4)).square().sum().backward()
        optimizer.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    statistics = {f"blocks.2.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert changed == phase.trainable | statistics
    assert digest(frozen_tensors(model, phase)) == frozen


def test_unfreeze_undoes_freeze() -> None:
    model = Toy()
    freeze(model, make_plan(model, ANATOMY, "head", 1).phases[0])
    unfreeze(model)
    model.train()
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(module.training for module in model.modules())


def test_learning_rates_by_part() -> None:
    scales = make_plan(Toy(), ANATOMY, "full", 1, head_lr_scale=5, layer_decay=0.5).phases[0].lr_scales
    found = {name.partition(".")[0] if "blocks" not in name else name[:8]: scale for name, scale in scales.items()}
    assert found == {"stem": 0.125, "blocks.0": 0.25, "blocks.1": 0.5, "blocks.2": 1, "norm": 1, "head": 5}


def test_digest_sees_every_bit() -> None:
    tensors = {"a": torch.zeros(3), "b": torch.ones(2, dtype=torch.bfloat16)}
    first = digest(tensors)
    assert digest(dict(reversed(tensors.items()))) == first
    tensors["a"][2] = -0.0
    assert digest(tensors) != first
