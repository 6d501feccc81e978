"""The trained model or the linear probe: a run hands back the better one, so that training does not cost accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from hfft.errors import DivergedError
from hfft.jobs.advice.crossed import Crossed, CrossPlan, cross_fit, repeated
from hfft.jobs.advice.folds import (
    FREEZES_AGAIN,
    Folds,
    cross_validate,
    cross_validate_probe,
    last_changes_all,
    starting_tensors,
)
from hfft.training.baselines import HeadInputs, LinearProbe
from hfft.training.callbacks import deciding
from hfft.training.progress import Progress
from hfft.training.recipe.head import fit_shared, fold, from_first_process, why_no_probe
from hfft.training.setup import Setup
from hfft.training.trainer import FreezeTrainer

FOLDS, FEW = 3, 1000
"""Validation images that are too few are helped by cross-validation, where that many training images make it quick."""


@dataclass(frozen=True)
class Comparison:
    """How the linear probe did beside the training.

    Args:
        trained: what decides, accuracy by default, of the training.
        probe: the same of the probe.
        better: whether the probe is the better one.
        where: on which images, in words.
    """

    trained: float
    probe: float
    better: bool
    where: str

    def __str__(self) -> str:
        kept = "the linear probe" if self.better else "what was trained"
        return f"Handed back is {kept}: {self.trained:.3f} trained, {self.probe:.3f} the linear probe, {self.where}."


def hand_back_the_better(
    setup: Setup, progress: Progress, trainer: FreezeTrainer, crossing: CrossPlan, say: Callable[[str], None]
) -> Crossed | None:
    """Give the model the pretrained features and the linear probe where these are better than what was trained.

    Args:
        setup: its model holds the weights that the training hands back.
        progress: with all phases; what was decided is added.
        trainer: of the last phase.
        crossing: with what the training began with, and whether its probabilities are calibrated by trainings on folds,
            which then decide here as well.
        say: prints a line for the user.

    Returns:
        What those trainings said; None where there were none.
    """
    start = crossing.start
    reason, comparison, crossed = _why_not(setup, progress), None, None
    if not reason:
        trained = starting_tensors(setup)
        setup.model.load_state_dict(dict(start), strict=False)
        try:
            reader = HeadInputs(setup, trainer.suffix)
            reason = why_no_probe(setup, reader, _pretrained_rows(trainer))
            if not reason:
                comparison, crossed = _compare(setup, progress, trainer, crossing, reader, say)
        finally:
            if comparison is None or not comparison.better:
                setup.model.load_state_dict(trained, strict=False)
    progress.probe_kept = comparison is not None and comparison.better
    line = str(comparison or f"The linear probe was not a candidate for the result: {reason}.")
    progress.decisions.append(line)
    say(line)
    return crossed


def _why_not(setup: Setup, progress: Progress) -> str:
    """Return why the pretrained weights cannot be put back beside those that were trained; nothing where they can."""
    if progress.best.score is None:
        return "no epoch was evaluated"
    if not last_changes_all(setup):
        return FREEZES_AGAIN
    return ""


def _pretrained_rows(trainer: FreezeTrainer) -> Any:
    train: Any = trainer.train_dataset
    train.show_view(0)
    return train


def _compare(
    setup: Setup,
    progress: Progress,
    trainer: FreezeTrainer,
    crossing: CrossPlan,
    reader: HeadInputs,
    say: Callable[[str], None],
) -> tuple[Comparison, Crossed | None]:
    """Compare both, and leave the model with the pretrained features and the probe."""
    train = _pretrained_rows(trainer)
    if progress.probe is None:  # the run was interrupted
        probe = fit_shared(setup, reader, train)
        assert isinstance(probe, LinearProbe)
        progress.probe = probe
    folds = Folds.of(setup.sets.train, crossing.folds or FOLDS, setup.settings.training.seed)
    folded, crossed = None, None
    if _may_fold(setup, trainer, folds):
        if line := crossing.begins(progress.phases):
            say(line)
        crossed = cross_fit(crossing, setup, trainer, progress.phases)
        try:
            folded = _by_folds(setup, progress, trainer, crossing.start, folds, crossed)
        except DivergedError:
            setup.model.load_state_dict(dict(crossing.start), strict=False)
            say("Without one fold of the training images the training diverged, so that the validation images decide.")
    assert reader.linear is not None
    fold(progress.probe, reader.linear)
    metrics = trainer.predict(trainer.eval_dataset, metric_key_prefix="eval").metrics  # type: ignore[arg-type]
    progress.untrained = metrics or {}
    return folded or _by_validation(setup, progress, trainer), crossed


def _may_fold(setup: Setup, trainer: FreezeTrainer, folds: Folds) -> bool:
    """Whether there are too few validation images to tell, and trainings on folds are quick and those of the run."""
    training, train = setup.settings.training, setup.sets.train
    quick = trainer.suffix.split is not None and len(train) <= FEW
    same = (
        setup.settings.data.augment == "none"
        and not training.find_lr
        and not any(phase.gradient_ratio for phase in setup.plan.phases)
        and training.metric_for_best_model in (None, "accuracy")
    )
    whole = all(len(np.unique(train.labels[rows])) > 1 for rows, _ in folds)
    return not setup.enough_to_choose and quick and same and whole


def _by_validation(setup: Setup, progress: Progress, trainer: FreezeTrainer) -> Comparison:
    last = next(entry for entry in reversed(progress.log) if "eval_loss" in entry)
    trained = progress.best.score if setup.keeps_best else _score(last, trainer)
    assert trained is not None
    probe = _score(progress.untrained, trainer)
    where = f"on the {len(setup.sets.validation):,} validation images"
    return Comparison(trained[0], probe[0], probe > trained, where)


def _score(metrics: Mapping[str, float], trainer: FreezeTrainer) -> tuple[float, float]:
    """Return how some weights did on the validation images, as `Best` holds it."""
    return deciding(trainer.args, metrics, trainer.objective.task.metric), -metrics["eval_loss"]


def _by_folds(
    setup: Setup,
    progress: Progress,
    trainer: FreezeTrainer,
    start: Mapping[str, Tensor],
    folds: Folds,
    crossed: Crossed,
) -> Comparison:
    """Compare both on training images, each by models that never saw it; the boundary of the last phase serves all."""
    if crossed.diverged:
        raise DivergedError(crossed.missing)
    train, seed = _pretrained_rows(trainer), setup.settings.training.seed
    features = HeadInputs(setup, trainer.suffix).features(train, "train")
    right = from_first_process(
        setup.settings.training, lambda: int((cross_validate_probe(features, folds, seed) == folds.labels).sum())
    )
    if crossed.folds:
        logits = crossed.logits
    else:
        stages = repeated(setup, trainer, progress.phases)
        logits = cross_validate(replace(setup, callbacks=()), stages, start, folds)
    trained, images, count = int((logits.argmax(1) == folds.labels).sum()), len(train), len(list(folds))
    few = f"{len(setup.sets.validation)} for validation are too few to tell"
    where = f"in {count}-fold cross-validation on {images} training images ({few})"
    return Comparison(trained / images, right / images, right > trained, where)
