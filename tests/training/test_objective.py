"""The training loss and what watches training: class weights, averaged weights, early stopping, range test."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  (PyTorch's own name for it)
from PIL import Image
from runs import Job, equal, losses, record, weights
from torch import nn

from hfft.cli import main
from hfft.errors import DivergedError
from hfft.tasks.single_label import SINGLE_LABEL
from hfft.training.callbacks import Average, Best, KeepBest
from hfft.training.learning_rates import HIGHEST, LOWEST, suggest
from hfft.training.objective import Objective

ARGS = SimpleNamespace(metric_for_best_model=None, greater_is_better=None)


def test_plain_objective_is_cross_entropy() -> None:
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 3, 1])
    torch.testing.assert_close(Objective(4).loss(logits, labels), F.cross_entropy(logits, labels))
    torch.testing.assert_close(Objective(4).loss(logits, labels, 12), F.cross_entropy(logits, labels) / 2)
    smooth = F.cross_entropy(logits, labels, label_smoothing=0.2)
    torch.testing.assert_close(Objective(4, label_smoothing=0.2).loss(logits, labels), smooth)


def test_loss_of_mixed_labels_is_the_mixed_loss() -> None:
    logits, first, second = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1]), torch.tensor([2, 2, 0, 1, 1])
    weights = torch.tensor([0.5, 1, 2])
    objective = Objective(3, label_smoothing=0.1, class_weights=weights)
    shares = 0.3 * F.one_hot(first, 3).float() + 0.7 * F.one_hot(second, 3).float()
    expected = 0.3 * objective.loss(logits, first) + 0.7 * objective.loss(logits, second)
    torch.testing.assert_close(objective.loss(logits, shares), expected)


def test_balanced_weights_make_classes_count_alike() -> None:
    labels = [0] * 6 + [1] * 3 + [3] * 3
    weights = SINGLE_LABEL.class_weights(np.array(labels), 4)
    assert weights.tolist() == [0.5, 1, 0, 1]
    assert sum(float(weights[label]) for label in labels) == 9  # one class of four is empty


def test_weighted_losses_of_accumulated_batches_add_up_to_that_of_one_batch() -> None:
    """Divided by images, not by the sum of weights as torch's mean is, which would depend on how a step is cut."""
    logits, labels = (
        torch.randn(8, 3, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0, 0, 0, 0, 1, 1, 2, 2]),
    )
    objective = Objective(3, class_weights=torch.tensor([0.5, 1, 2]))
    parts = [objective.loss(logits[rows], labels[rows], 8) for rows in (slice(0, 4), slice(4, 8))]
    torch.testing.assert_close(sum(parts), objective.loss(logits, labels, 8))
    means = [
        F.cross_entropy(logits[rows], labels[rows], objective.class_weights) for rows in (slice(0, 4), slice(4, 8))
    ]
    whole = F.cross_entropy(logits, labels, objective.class_weights)
    assert abs(float(sum(means) / 2 - whole)) > 1e-3


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


def state(step: int, epoch: float = 0.0) -> Any:
    return SimpleNamespace(global_step=step, epoch=epoch)


def test_average_follows_its_formula() -> None:
    net = model()
    names = frozenset({"0.weight", "1.running_mean", "1.num_batches_tracked"})
    average = Average(names, 0.5)
    average.on_train_begin(None, state(0), None, model=net)
    expected = net.state_dict()["0.weight"].clone()
    for step in range(1, 12):
        with torch.no_grad():
            net[0].weight += 1  # type: ignore[index]
            net[1].num_batches_tracked += 1  # type: ignore[index]
        keep = min(0.5, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * net.state_dict()["0.weight"]
        average.on_step_end(None, state(step), None, model=net)
    torch.testing.assert_close(average.tensors["0.weight"], expected)
    assert average.tensors["1.num_batches_tracked"] == 11
    now = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with average.in_place(net):
        assert torch.equal(net.state_dict()["0.weight"], average.tensors["0.weight"])
        assert torch.equal(net.state_dict()["0.bias"], now["0.bias"])
    assert equal(net.state_dict(), now)


@pytest.mark.parametrize(
    ("metric", "greater", "best_epoch"),
    [(None, None, 2), ("accuracy", True, 2), ("loss", False, 3), ("f1_macro", True, 1), ("loss", True, 1)],
)
def test_the_metric_decides_which_weights_are_the_best(metric: Any, greater: Any, best_epoch: int) -> None:
    net, best = model(), Best()
    keep = KeepBest(best, frozenset({"0.weight"}))
    args = SimpleNamespace(metric_for_best_model=metric, greater_is_better=greater)
    control = SimpleNamespace(should_training_stop=False)
    keep.on_train_begin(None, state(0), control, model=net)
    for epoch, (accuracy, loss, f1) in enumerate(((0.5, 1.0, 0.7), (0.6, 0.9, 0.5), (0.4, 0.1, 0.4)), start=1):
        metrics = {"eval_accuracy": accuracy, "eval_loss": loss, "eval_f1_macro": f1}
        keep.on_evaluate(args, state(epoch, epoch), control, metrics=metrics, model=net)
    assert best.epoch == best_epoch


def test_best_goes_on_over_phases_and_counts_what_is_stale() -> None:
    net, best = model(), Best()
    control = SimpleNamespace(should_training_stop=False)

    def evaluate(keep: KeepBest, epoch: float, accuracy: float, loss: float) -> None:
        metrics = {"eval_accuracy": accuracy, "eval_loss": loss}
        keep.on_evaluate(
            SimpleNamespace(metric_for_best_model=None, greater_is_better=None),
            state(1, epoch),
            control,
            metrics=metrics,
            model=net,
        )

    first = KeepBest(best, frozenset({"0.weight"}), patience=2)
    first.on_train_begin(None, state(0), control, model=net)
    evaluate(first, 1, 0.5, 1.0)
    evaluate(first, 2, 0.5, 0.9)
    reached = net.state_dict()["0.weight"].clone()
    assert (best.epoch, best.stale) == (2, 0)
    with torch.no_grad():
        net[0].weight.zero_()  # type: ignore[index]
    evaluate(first, 3, 0.4, 0.1)
    first.on_train_end(None, state(3), control, model=net)
    assert torch.equal(net.state_dict()["0.weight"], reached)
    second = KeepBest(best, frozenset({"0.weight", "0.bias"}), before=3, patience=2)
    second.on_train_begin(None, state(0), control, model=net)
    assert best.stale == 0
    evaluate(second, 1, 0.3, 0.1)
    assert not control.should_training_stop
    evaluate(second, 2, 0.2, 0.1)
    assert control.should_training_stop
    assert best.epoch == 2
    with torch.no_grad():
        net[0].bias.zero_()  # type: ignore[index]
    second.on_train_end(None, state(2), control, model=net)
    assert net.state_dict()["0.bias"].any()


@pytest.mark.parametrize(
    "flags",
    [
        ("--label_smoothing_factor", 0.1),
        ("--class_weights", "balanced"),
        ("--ema_decay", 0.5),
        ("--early_stopping_patience", 1, "--learning_rate", 1e-9),
    ],
)
def test_options_give_the_same_bits_with_and_without_a_cache(
    job: Job,
    tmp_path: Path,
    flags: tuple[Any, ...],
) -> None:
    for file in sorted((tmp_path / "images" / "red").iterdir())[:4]:  # classes of unequal size
        file.unlink()
    flags = ("--num_train_epochs", 4, *flags)
    cached, uncached = job("resnet", "cached", *flags), job("resnet", "uncached", "--cache", "off", *flags)
    plain = job("resnet", "plain", "--num_train_epochs", 4)
    assert losses(cached) == losses(uncached)
    assert equal(weights(cached), weights(uncached))
    assert not equal(weights(cached), weights(plain))


def test_early_stopping_ends_a_phase_and_not_the_run(job: Job) -> None:
    flags = ("--learning_rate", 1e-12, "--early_stopping_patience", 2, "--num_train_epochs", 10)
    folder = job("resnet", "run", "--policy", "lp_ft", "--lr_scheduler_type", "constant", *flags)
    with (folder / "trace.csv").open() as file:
        phases = [row["phase"] for row in csv.DictReader(file)]
    assert set(phases) == {"head", "last_block"}
    assert len(phases) < 10
    assert [phase["epochs"] for phase in record(folder)["plan"]] == [phases.count("head"), phases.count("last_block")]


def test_class_weights_are_refused_where_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["finetune", "--class_weights", "heavy"]) == 2
    assert "class_weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--mixup", "-1"), "--mixup must not be below 0"),
        (("--cutmix", "inf"), "--cutmix must not be below 0 nor infinite"),
        (("--ema_decay", "1"), "--ema_decay must lie between 0 and 1"),
        (("--early_stopping_patience", "0"), "--early_stopping_patience must be at least 1"),
        (("--early_stopping_patience", "1", "--eval_strategy", "no"), "needs evaluations"),
        (("--fsdp", "full_shard"), "FSDP shards the model"),
    ],
)
def test_refusals(capsys: pytest.CaptureFixture[str], tmp_path: Path, flags: tuple[str, ...], text: str) -> None:
    assert main(["finetune", "--output_dir", str(tmp_path / "out"), *flags]) == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED"])
def test_sharding_launchers_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    from hfft.arguments import FinetuneArguments
    from hfft.errors import ArgumentError
    from hfft.jobs.finetune import check_processes

    training = FinetuneArguments(output_dir=str(tmp_path))
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(ArgumentError, match="shards the model"):
        check_processes(training)


@pytest.mark.parametrize("noise", [0.0, 0.1])
@pytest.mark.parametrize("middle", [1e-4, 1e-3, 1e-2])
def test_suggestion_is_where_the_loss_falls_most(middle: float, noise: float) -> None:
    tried = [LOWEST * (HIGHEST / LOWEST) ** (step / 100) for step in range(100)]
    # A logistic fall around the middle, and a rise beyond ten times that.
    curve = [1 / (1 + (rate / middle)) + max(0.0, rate - 10 * middle) for rate in tried]
    losses = (np.array(curve) + noise * np.random.default_rng(0).standard_normal(100)).tolist()
    assert middle / 4 < suggest(tried, losses) < middle * 4
    assert suggest([1e-6, 1e-5], [1.0, 0.9]) == 1e-6
    with pytest.raises(DivergedError, match="not a finite number at the lowest learning rate"):
        suggest([], [])


@pytest.mark.parametrize("cache", ["memory", "off"])
def test_range_test_is_undone_and_used(job: Job, cache: str) -> None:
    flags = ("--policy", "lp_ft", "--cache", cache)
    found = job("vit", "found", "--find_lr", "true", *flags)
    plan = record(found)["plan"]
    rates = [next(iter(phase["learning_rates"].values())) for phase in plan]
    assert all(LOWEST <= rate <= 5 * HIGHEST for rate in rates)
    assert rates[0] != rates[1]
    assert [Image.open(found / f"lr_finder-{number}.png").format for number in (1, 2)] == ["PNG", "PNG"]
    log = json.loads((found / "trainer_state.json").read_text())["log_history"]
    assert max(entry["step"] for entry in log) == 6  # the test's own steps are not part of the run
    # The first step begins with the weights and the batch that it would have had without the test.
    plain = job("vit", "plain", *flags)
    assert losses(found)[0] == losses(plain)[0]
