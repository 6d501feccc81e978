"""A step costs what is trained, and gives what the Trainer gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MODELS
from small_models import small_model
from torch import nn
from transformers import Trainer

from hfft.arguments import FinetuneArguments
from hfft.planning.freezing import freeze
from hfft.planning.plan import make_plan
from hfft.planning.registry import find_anatomy
from hfft.training.trainer import FreezeTrainer

IMAGES = 12


class Stock(FreezeTrainer):
    """The same with the Trainer's own steps."""

    train = Trainer.train
    floating_point_ops = Trainer.floating_point_ops
    _clip_grad_norm = Trainer._clip_grad_norm


def trained(kind: type[FreezeTrainer], name: str, folder: Path, batch: int = 4, **options: Any) -> FreezeTrainer:
    torch.manual_seed(0)
    model = MODELS[name]()
    pixels = torch.rand(IMAGES, 3, 32, 32)
    rows: Any = [{"pixel_values": image, "labels": torch.tensor(row % 2)} for row, image in enumerate(pixels)]
    options |= {"num_train_epochs": 2, "per_device_train_batch_size": batch, "label_names": ["labels"]}
    options |= {"use_cpu": True, "report_to": "none", "disable_tqdm": True}
    args = FinetuneArguments(output_dir=str(folder), **options)
    phase = make_plan(model, find_anatomy(model), "last_block", 2).phases[0]
    trainer = kind(model, args, phase, None, rows, rows)
    trainer.train()
    return trainer


@pytest.mark.parametrize("name", ["resnet", "vit", "timm"])
@pytest.mark.parametrize("options", [{"max_grad_norm": 0.01}, {"max_grad_norm": 0.0, "gradient_accumulation_steps": 2}])
def test_steps_are_the_trainers_to_the_bit(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    ours, stock = (trained(kind, name, tmp_path, **options) for kind in (FreezeTrainer, Stock))
    expected = stock.classifier.state_dict()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in ours.classifier.state_dict().items())
    norms = [[entry.get("grad_norm") for entry in each.state.log_history] for each in (ours, stock)]
    assert norms[0] == norms[1]


def test_no_step_walks_through_the_frozen_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    walks: list[str] = []
    for method in ("named_modules", "train", "zero_grad", "parameters"):
        whole = getattr(nn.Module, method)
        monkeypatch.setattr(nn.Module, method, _noting(walks, method, whole))
    counts = []
    for batch in (IMAGES, 3):
        walks.clear()
        trainer = trained(FreezeTrainer, "vit", tmp_path, batch)
        counts.append((trainer.state.global_step, sorted(walks)))
    assert [steps for steps, _ in counts] == [2, 8]
    assert counts[0][1] == counts[1][1]


def test_zero_grad_is_the_models_own_afterwards(tmp_path: Path) -> None:
    model = trained(FreezeTrainer, "vit", tmp_path).classifier
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    model.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_mode_that_somebody_changes_is_put_right() -> None:
    model, _ = small_model("resnet")
    phase = make_plan(model, find_anatomy(model), "last_block", 1).phases[0]
    freeze(model, phase)
    model.train()
    right = {name: module.training for name, module in model.named_modules()}
    for module in model.modules():
        module.training = not module.training
        model.train()
        assert {name: module.training for name, module in model.named_modules()} == right


def _noting(walks: list[str], method: str, whole: Any) -> Any:
    def noting(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        walks.append(method)
        return whole(self, *args, **kwargs)

    return noting
