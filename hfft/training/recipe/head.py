"""What the head begins with: random numbers, the linear probe, or what the checkpoint brought.

A probe that is folded into the head makes epoch 0 as good as the probe; training starts from there (the idea of LP-FT:
Kumar et al., "Fine-tuning can distort pretrained features and underperform out-of-distribution", 2022).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset
from transformers import TrainingArguments

from hfft.cache.prepare import Prepared
from hfft.errors import ArgumentError
from hfft.training.baselines import (
    HeadInputs,
    LinearProbe,
    Probe,
    fit_on_images,
    fit_probe,
    predict_baselines,
    probed,
)
from hfft.training.progress import Baselines, Progress
from hfft.training.recipe.ensemble import fit_ensemble
from hfft.training.setup import Setup

Found = TypeVar("Found")
ENSEMBLE = "ensemble"
STARTS = {"probe": "the linear probe", ENSEMBLE: "the ensemble of linear heads"}
"""What is fitted to the pretrained features for the head to start from."""


def begin_with_probe(setup: Setup, progress: Progress, prepared: Prepared, say: Callable[[str], None]) -> None:
    """Fit the probe where anything needs it, compare with it, and give the head what it begins with.

    Args:
        setup: its model holds the pretrained weights.
        progress: its probe and its baselines are filled in here.
        prepared: the first phase, its activations cached where they can be, those of the test images as well.
        say: prints a line for the user.
    """
    began, training, data = time.perf_counter(), setup.settings.training, prepared.datasets
    reader = HeadInputs(setup, prepared.suffix)
    starts = setup.settings.policy.head_init in STARTS
    folds = (starts or probe_may_win(setup)) and not (reason := why_no_probe(setup, reader, data["train"]))
    if folds or training.baselines != "none":
        probe = fit_shared(setup, reader, data["train"])
        progress.probe = probe if folds and isinstance(probe, LinearProbe) else None
        if training.baselines != "none" and training.process_index == 0:
            predictions = predict_baselines(setup, reader, probe, data)
            progress.baselines = Baselines(predictions, time.perf_counter() - began, setup.sets.task, reader.kept)
    if starts and progress.probe is not None:
        assert reader.linear is not None
        if setup.settings.policy.head_init == ENSEMBLE:
            progress.probe = fit_ensemble_shared(setup, reader, data["train"])
        fold(progress.probe, reader.linear)
    elif starts:
        line = f"The head starts from random numbers, not from {STARTS[setup.settings.policy.head_init]}: {reason}."
        progress.decisions.append(line)
        say(line)


def probe_may_win(setup: Setup) -> bool:
    """Return whether the run hands back the linear probe where that is better: where the amount is left to hfft.

    A head that starts as the probe has it in epoch 0 anyway.
    """
    training = setup.settings.training
    return (
        setup.settings.policy.head_init not in STARTS
        and training.auto_epochs
        and training.keep != "last"
        and training.eval_strategy != "no"
    )


def starts_known(setup: Setup, progress: Progress) -> bool:
    """Return whether the head begins with something that is worth an evaluation before training: epoch 0."""
    wanted = setup.settings.policy.head_init
    return wanted == "pretrained" or (wanted in STARTS and progress.probe is not None)


def check_head_init(setup: Setup) -> None:
    """Make sure that a wanted head was there to load.

    Raises:
        ArgumentError: the checkpoint's head is wanted, and it brought none for these classes.
    """
    wanted, anatomy = setup.settings.policy.head_init, setup.plan.anatomy
    fresh = [name for name in setup.base.fresh if anatomy.part_of(name) == "head"]
    if wanted == "pretrained" and fresh:
        raise ArgumentError(
            f"--head_init pretrained: {setup.base.name} brings no head for these {len(setup.sets.labels)} classes "
            f"({', '.join(fresh)}); use probe or random"
        )


def fit_shared(setup: Setup, reader: HeadInputs, train: Dataset[Any]) -> Probe:
    """Fit the probe in the first process, and give it to the others."""
    return from_first_process(setup.settings.training, lambda: fit_on_images(setup, reader, train))


def fit_start(kind: str, features: NDArray[np.float64], labels: NDArray[np.int64], seed: int) -> LinearProbe:
    """Fit what the head starts from, one of `STARTS`, on what it reads of some images.

    Args:
        kind: of start.
        features: shape (images, features).
        labels: number of each image's class, shape (images,).
        seed: of what is random.
    """
    probe = fit_ensemble(features, labels, seed) if kind == ENSEMBLE else fit_probe(features, labels, seed)
    assert isinstance(probe, LinearProbe)
    return probe


def fit_ensemble_shared(setup: Setup, reader: HeadInputs, train: Dataset[Any]) -> LinearProbe:
    """Fit an ensemble of heads in the first process, and give it to the others."""
    seed = setup.settings.training.seed
    return from_first_process(setup.settings.training, lambda: fit_start(ENSEMBLE, *probed(setup, reader, train), seed))


def from_first_process(training: TrainingArguments, compute: Callable[[], Found]) -> Found:
    """Return to every process what the first one computes."""
    found = [compute() if training.process_index == 0 else None]
    if training.world_size > 1:
        torch.distributed.broadcast_object_list(found, device=training.device)
    assert found[0] is not None
    return found[0]


def fold(probe: LinearProbe, linear: nn.Linear) -> None:
    """Give a linear layer a probe's weights, so that it computes the probe's logits.

    Args:
        probe: of all the layer's classes, or of some; nothing speaks for the others.
        linear: with a bias.
    """
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.fill_(float(probe.bias.min()))
        linear.weight[probe.classes] = torch.from_numpy(probe.weight).to(linear.weight)
        linear.bias[probe.classes] = torch.from_numpy(probe.bias).to(linear.bias)


def why_no_probe(setup: Setup, reader: HeadInputs, train: Dataset[Any]) -> str:
    """Return why the head cannot hold a probe; nothing where it can. It is the same in every process."""
    if not setup.sets.task.chooses:
        return f"a {setup.sets.task.name} task has another loss than the probe"
    if reader.linear is None:
        return reader.not_linear
    missing = set(range(len(setup.sets.labels))) - set(np.unique(setup.sets.train.labels).tolist())
    if missing:
        return f"{len(missing)} of the classes have no training image"
    return "" if reader.gives_logits(train) else "its linear layer does not give the logits of pooled features"
