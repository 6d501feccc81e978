"""What a run's own training says of training images that it did not see: the same training again, fold by fold.

Where no validation set is given, few images are held back, and they may have chosen the epoch. Trainings without a fold
read the cached activations, begin with the weights that the run began with, go through the same phases and end at the
epoch whose weights it keeps; so what they say of their fold is as unbiased as a test, on as many images as there are to
train on. A probe on the features of the finished model would not do: its last block has seen the labels.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import TrainerCallback

from hfft.cache.prepare import Prepared
from hfft.errors import DivergedError, one_line
from hfft.jobs.advice.folds import (
    FREEZES_AGAIN,
    Begin,
    Folds,
    cross_validate,
    last_changes_all,
    probe_start,
    starting_tensors,
)
from hfft.training.baselines import HeadInputs
from hfft.training.phases import ReadyPhase
from hfft.training.progress import PhaseResult
from hfft.training.recipe.head import STARTS
from hfft.training.setup import Setup
from hfft.training.trainer import FreezeTrainer

FOLDS = 3
MOST = 500
"""Training images above which the images that are held back are enough to fit one temperature to."""
_ROUNDING = 1e-6  # epochs are sums of fractions
_ALONE = (
    " Training images without another of their class outside their fold: {}, whose answers count as wrong and "
    "calibrate nothing."
)


@dataclass(frozen=True)
class Crossed:
    """Logits of training images by models that never saw them.

    Args:
        logits: shape (images, labels); no rows where there are none.
        labels: the true labels, shape (images,).
        number: of each image's fold, shape (images,).
        known: whether its model had seen other images of its class, shape (images,); those of others are wrong.
        folds: how many models; 0 where there are none.
        missing: why there are none although no validation set was given; empty where nobody would expect any.
        seconds: that it took.
        diverged: whether that is why there are none.
    """

    logits: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    number: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    known: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    folds: int = 0
    missing: str = ""
    seconds: float = 0.0
    diverged: bool = False


@dataclass(frozen=True)
class CrossPlan:
    """Whether a run cross-fits, decided before it trains.

    Args:
        folds: how many there are; 0 for none.
        start: all tensors that training may change, as they are before it.
        missing: as of `Crossed`.
        alone: images without whose fold nothing is left of their class.
    """

    folds: int = 0
    start: Mapping[str, Tensor] = field(default_factory=dict)
    missing: str = ""
    alone: int = 0

    @classmethod
    def of(cls, setup: Setup) -> CrossPlan:
        """Decide, and remember the weights that the training begins with.

        Args:
            setup: its model holds the pretrained weights.
        """
        images, wanted = len(setup.sets.train), setup.settings.training.calibration_folds
        if not setup.sets.held_back or not setup.sets.task.chooses:
            return cls()
        folds = min(wanted if wanted is not None else FOLDS if images <= MOST else 0, images // 2)
        if folds < 2:
            return cls()
        missing, parts = _why_not(setup), Folds.of(setup.sets.train, folds, setup.settings.training.seed)
        alone = int((~_known(parts)).sum())
        if missing or alone == images:
            return cls(missing=missing or "no class has two training images")
        return cls(len(parts), starting_tensors(setup), alone=alone)

    def after(self, best_epoch: float | None) -> CrossPlan:
        """Return what is left of the plan once it is known which weights are handed back.

        Args:
            best_epoch: after which they were seen; 0 for those from before training, None where none was chosen.
        """
        if self.folds and best_epoch == 0:
            return CrossPlan(missing="the weights are those from before training")
        return self

    def begins(self, results: Sequence[PhaseResult]) -> str:
        """Say what is about to be done after the phases; empty for nothing."""
        if not self.folds or results[-1].cache.mode == "off":
            return ""
        return (
            f"{self.folds} more trainings, each without a fold of the training images, calibrate the probabilities "
            "(--calibration_folds 0 does without)." + (_ALONE.format(self.alone) if self.alone else "")
        )


def cross_fit(plan: CrossPlan, setup: Setup, trainer: FreezeTrainer, results: Sequence[PhaseResult]) -> Crossed:
    """Train without each fold in turn; the model's weights are the same afterwards.

    Args:
        plan: made before the training.
        setup: its model is trained.
        trainer: of the last phase, released.
        results: of all phases.
    """
    if not plan.folds or results[-1].cache.mode == "off":
        off = "activations are not cached, so that each fold would take as long as the run" if plan.folds else ""
        return Crossed(missing=plan.missing or off)
    began = time.perf_counter()
    folds = Folds.of(setup.sets.train, plan.folds, setup.settings.training.seed)
    trained = starting_tensors(setup)
    setup.model.load_state_dict(dict(plan.start), strict=False)
    try:
        begin, stages = _beginning(setup, trainer), repeated(setup, trainer, results)
        logits = cross_validate(_repeating(setup, results), stages, plan.start, folds, begin)
    except DivergedError as error:
        return Crossed(missing=f"the training without one fold diverged: {one_line(error)}", diverged=True)
    finally:
        setup.model.load_state_dict(trained, strict=False)
    seconds = time.perf_counter() - began
    return Crossed(logits, folds.labels, folds.number, _known(folds), plan.folds, seconds=seconds)


def _why_not(setup: Setup) -> str:
    """Return why the training cannot be repeated cheaply and exactly; empty where it can."""
    training, phases = setup.settings.training, setup.plan.phases
    several = len(phases) > 1
    reasons = {
        "several processes train together": training.world_size > 1,
        "each phase begins with the best weights of the one before": several and setup.keeps_best,
        "each phase finds its own learning rate": several and training.find_lr,
        FREEZES_AGAIN: not last_changes_all(setup),
        "learning rates follow measured gradients": any(phase.gradient_ratio for phase in phases),
        "the weights are averages over steps": training.ema_decay is not None,
        "training images are augmented": setup.settings.data.augment != "none",
        "parts are compiled": bool(training.torch_compile),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _beginning(setup: Setup, trainer: FreezeTrainer) -> Begin | None:
    """Return what gives the head of each training its start, where the run's was fitted; weights are the pretrained."""
    if setup.settings.policy.head_init not in STARTS:
        return None
    reader, train = HeadInputs(setup, trainer.suffix), trainer.train_dataset
    assert train is not None
    return probe_start(setup, reader, reader.features(train, "training"), train)


def _repeating(setup: Setup, results: Sequence[PhaseResult]) -> Setup:
    """Return a setup that trains as the run did, to the epoch whose weights it keeps."""
    training = copy.copy(setup.settings.training)
    training.learning_rate = results[-1].learning_rate
    until = (_EndAt(results[-1].best_epoch or results[-1].epochs),) if len(results) == 1 else ()
    return replace(setup, settings=replace(setup.settings, training=training), callbacks=until)


def repeated(setup: Setup, trainer: FreezeTrainer, results: Sequence[PhaseResult]) -> list[ReadyPhase]:
    """Return the phases of a run, all of them on its training images at the boundary of the last one.

    Args:
        setup: of the run; see `last_changes_all`.
        trainer: of the last phase.
        results: of all phases.
    """
    data: dict[str, Any] = {"train": trainer.train_dataset, "plain": trainer.train_dataset}
    prepared = Prepared(trainer.suffix, data)
    return [ReadyPhase(phase, prepared, result.view) for phase, result in zip(setup.plan.phases, results, strict=True)]


def _known(folds: Folds) -> NDArray[np.bool_]:
    """Return which images are of a class that the models without their fold have seen."""
    found = np.zeros(len(folds.labels), bool)
    for train, held_out in folds:
        found[held_out] = np.isin(folds.labels[held_out], folds.labels[train])
    return found


class _EndAt(TrainerCallback):
    """Ends a training after so many epochs of its schedule."""

    def __init__(self, epochs: float) -> None:
        self.epochs = epochs

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End it there."""
        if state.epoch >= self.epochs - _ROUNDING:
            control.should_training_stop = True
