"""The run that a sweep's soup becomes: weights evaluated on cached validation rows, and written as any run is."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from hfft.bars import unsaid
from hfft.errors import ArgumentError, HfftError, one_line
from hfft.jobs.advice.crossed import CrossPlan
from hfft.jobs.finetune import check_output_dir, finish, made_output_dir, set_up
from hfft.jobs.inputs import Shared
from hfft.jobs.results import write_results
from hfft.jobs.run import Run
from hfft.models.adapters import adapted
from hfft.output_folder import RECORD
from hfft.report.record import SOUP, RunRecord, read_record
from hfft.training.callbacks import deciding
from hfft.training.phases import changing, make_ready, make_trainer, to_device, untrained
from hfft.training.progress import Progress
from hfft.training.recipe.soup import Ingredient, Score, Soup, greedy_soup
from hfft.training.setup import Settings, Setup
from hfft.training.trainer import FreezeTrainer


def make_soup(
    settings: Settings,
    runs: Sequence[Path],
    kept: Mapping[Path, Sequence[Ingredient]],
    folder: Path,
    say: Callable[[str], None],
) -> Run:
    """Average the weights of several epochs and runs, as far as the validation images do not object.

    Args:
        settings: of the best run.
        runs: folders of all runs, the best first; those of another plan or other images are left out, and said.
        kept: weights of the best epochs by the run's folder; of a run that was made before there are those that it
            handed back.
        folder: where the result goes.
        say: prints a line for the user.

    Raises:
        ArgumentError: the last phase freezes what an earlier one trains.
        HfftError: images, model or folder are not usable.
    """
    began, training = time.perf_counter(), copy.copy(settings.training)
    training.output_dir, training.overwrite_output_dir = str(folder), True
    settings = replace(settings, training=training)
    with made_output_dir(settings):
        check_output_dir(training, say)
        setup = _of_last_phase(set_up(settings, Shared(keep=False), test=False))
        to_device(setup)
        (ready,) = make_ready(setup, setup.plan.phases, unsaid)
        trainer, progress = make_trainer(setup, Progress(), ready, training.learning_rate), Progress()
        names = changing(setup.model, ready.phase)
        ingredients = _fitting(setup, runs, kept, say)
        soup = greedy_soup(ingredients, names, lambda tensors: _evaluate(setup, trainer, tensors))
        setup.model.load_state_dict(soup.tensors, strict=False)
        progress.add(untrained(setup, ready), [])
        trainer.state = progress.continuous(trainer.state, 0)
        progress.decisions.append(_described(soup, len(ingredients), setup))
        run = finish(setup, progress, trainer, began, CrossPlan())
        run = replace(run, command=SOUP)
        write_results(run)
        say(f"{progress.decisions[-1]} It is in {folder}.")
        return run


def _of_last_phase(setup: Setup) -> Setup:
    last = setup.plan.phases[-1]
    if adapted(setup.model):
        raise ArgumentError("--soup averages weights, not adapters; leave one of them out")
    if any(not phase.trainable <= last.trainable for phase in setup.plan.phases):
        raise ArgumentError(f"--soup: the last phase of {setup.plan.policy} freezes what an earlier one trains")
    return replace(setup, plan=replace(setup.plan, phases=setup.plan.phases[-1:]))


def _evaluate(setup: Setup, trainer: FreezeTrainer, tensors: Mapping[str, Tensor]) -> Score:
    setup.model.load_state_dict(dict(tensors), strict=False)
    dataset: Any = trainer.eval_dataset
    metrics = trainer.predict(dataset, metric_key_prefix="eval").metrics or {}
    return deciding(trainer.args, metrics, setup.sets.task.metric), -metrics["eval_loss"]


def _fitting(
    setup: Setup, runs: Sequence[Path], kept: Mapping[Path, Sequence[Ingredient]], say: Callable[[str], None]
) -> list[Ingredient]:
    """Return the weights that may be averaged: of one base and plan, with the same images on either side."""
    best = read_record(runs[0] / RECORD)
    found: list[Ingredient] = []
    for run in runs:
        record = read_record(run / RECORD)
        if other := _difference(best, record):
            say(f"The soup does without {run.name}: {other}.")
            continue
        if run not in kept and setup.sets.task.affine is not None:
            say(f"The soup does without {run.name}: it was made before, and its head is in the targets' own units.")
            continue
        found += kept.get(run) or [_handed_back(run, record, setup)]
    if not found:
        raise HfftError("the soup has no weights to average; run the sweep anew in another --output_dir")
    return found


def _difference(best: RunRecord, record: RunRecord) -> str:
    """Return why the weights of a run cannot be averaged with those of the best one; empty where they can."""
    reasons = {
        "it has another base": best.base.sha256 != record.base.sha256,
        "it has another policy": best.policy != record.policy,
        "it has other training or validation images": best.data.sha256 != record.data.sha256,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _handed_back(run: Path, record: RunRecord, setup: Setup) -> Ingredient:
    """Read the weights that a run handed back.

    Raises:
        HfftError: they are not one file, or cannot be read.
    """
    try:
        tensors = load_file(run / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise HfftError(f"cannot read {run / 'model.safetensors'}: {one_line(error)}") from error
    values, task = record.metrics["validation"].values, setup.sets.task
    metrics = {f"eval_{name}": value for name, value in values.items()}
    score = (deciding(setup.settings.training, metrics, task.metric), -values[task.beside[-1]])
    state = setup.model.state_dict()
    missing = {name: tensor for name, tensor in state.items() if name not in tensors}  # tied, or saved once
    return Ingredient(run.name, score, {**missing, **tensors})


def _described(soup: Soup, ingredients: int, setup: Setup) -> str:
    task, images = setup.sets.task, len(setup.sets.validation)
    return (
        f"Soup of {len(soup.names)} of {ingredients} weights of the sweep ({'; '.join(soup.names)}): "
        f"{task.counted(soup.score[0], images)} on validation, the best alone "
        f"{task.counted(soup.best[0], images)}; optimistic, since they were chosen on these images."
    )
