"""Mixed precision of every architecture: in training and in every evaluation alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from runs import Job, record
from small_models import IMAGES, SMALL, small_model
from torch import Tensor
from transformers import PreTrainedModel

from hfft.arguments import FinetuneArguments
from hfft.data.preprocessing import collate
from hfft.errors import UnsupportedModelError
from hfft.planning.freezing import freeze
from hfft.planning.plan import Phase, make_plan
from hfft.planning.registry import find_anatomy
from hfft.split.cut import cut_phase
from hfft.split.halves import Prefix, Suffix, idle_parameters
from hfft.training.trainer import FreezeTrainer

CPU, BF16 = torch.device("cpu"), torch.bfloat16
FEW = ("beit", "convnext", "efficientnet", "mobilevit", "resnet", "swin", "vit")
"""One architecture of each kind; the others are slow."""


@pytest.mark.parametrize("cached", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("policy", [pytest.param("head", marks=pytest.mark.slow), "last_block"])
@pytest.mark.parametrize(
    "model_type", [pytest.param(name, marks=() if name in FEW else pytest.mark.slow) for name in SMALL]
)
def test_every_architecture_trains_and_is_evaluated_in_bfloat16(
    model_type: str, policy: str, cached: bool, tmp_path: Path
) -> None:
    model, inputs = small_model(model_type)
    try:
        anatomy = find_anatomy(model)
    except UnsupportedModelError:
        pytest.skip("it has no blocks to freeze")
    phase = make_plan(model, anatomy, policy, 1).phases[0]
    freeze(model, phase)
    cut = cut_phase(model, anatomy, phase, inputs, autocast=BF16)
    if cached and cut.split is None:
        pytest.skip("its activations are not cached")
    suffix = Suffix(anatomy, cut.split if cached else None, cut.class_token)
    if suffix.split is not None:
        inputs = Prefix(suffix.split, anatomy, cut.class_token, CPU, BF16, torch.contiguous_format).capture(inputs)
    trainer = _trainer(model, phase, suffix, _rows(inputs), tmp_path)
    plain = model.forward
    trainer.train()
    during = _logits(trainer)
    trainer.release()
    assert model.forward == plain
    assert (_logits(trainer) == during).all()
    idle_parameters(model, suffix, collate(_rows(inputs)), BF16)


def _rows(batch: dict[str, Tensor]) -> Any:
    """Each image as an item of a data set, with a label of its own."""
    rows = range(IMAGES)
    return [{name: value[row] for name, value in batch.items()} | {"labels": torch.tensor(row)} for row in rows]


def _trainer(model: PreTrainedModel, phase: Phase, suffix: Suffix, rows: Any, folder: Path) -> FreezeTrainer:
    args = FinetuneArguments(
        output_dir=str(folder), use_cpu=True, bf16=True, num_train_epochs=1, report_to="none", disable_tqdm=True
    )
    args.label_names = ["labels"]
    return FreezeTrainer(model, args, phase, suffix, rows, rows)


def _logits(trainer: FreezeTrainer) -> Any:
    trainer.evaluate()
    assert trainer.predictions is not None
    return trainer.predictions.predictions


@pytest.mark.parametrize(
    ("kind", "policy"),
    [
        ("resnet", "lp_ft"),
        ("vit", "last_block"),
        *(pytest.param("resnet", policy, marks=pytest.mark.slow) for policy in ("head", "last_block")),
        *(pytest.param("vit", policy, marks=pytest.mark.slow) for policy in ("head", "lp_ft")),
    ],
)
def test_cached_and_uncached_runs_are_equal_in_bfloat16(job: Job, kind: str, policy: str) -> None:
    flags = ("--bf16", "true", "--use_cpu", "true", "--policy", policy, "--baselines", "none", "--figures", "false")
    cached, uncached = (job(kind, cache, "--cache", cache, *flags) for cache in ("disk", "off"))
    first, second = (record(folder)["metrics"]["validation"]["values"] for folder in (cached, uncached))
    assert first == second


def test_the_probe_reads_what_a_run_in_bfloat16_trains_on(job: Job) -> None:
    flags = ("--bf16", "true", "--num_train_epochs", "auto", "--figures", "false")
    cached, uncached = (record(job("resnet", cache, "--cache", cache, *flags)) for cache in ("disk", "off"))
    assert cached["baselines"]["linear_probe"] == uncached["baselines"]["linear_probe"]
