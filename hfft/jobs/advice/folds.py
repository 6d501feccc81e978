"""Train on all folds but one, predict that one, and so on: a prediction of every image by a model that never saw it.

Trainings read cached activations, so that a fold costs no pass through the frozen prefix.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from hfft.cache.prepare import Prepared
from hfft.data.images import ImageSet
from hfft.data.sampling import group_folds
from hfft.tasks.contract import Targets, Task
from hfft.tasks.single_label import SINGLE_LABEL
from hfft.training.baselines import HeadInputs, fit_probe
from hfft.training.phases import ReadyPhase, changing, make_trainer
from hfft.training.progress import Progress
from hfft.training.recipe.head import STARTS, fit_start, fold, why_no_probe
from hfft.training.setup import Setup

Begin = Callable[[NDArray[np.int64]], None]
FREEZES_AGAIN = "the last phase freezes what an earlier one trains"
"""Why a plan cannot be trained on the last phase's boundary alone, nor what it trained be put back from there."""


@dataclass(frozen=True)
class Folds:
    """A stratified partition of images.

    Args:
        number: of each image's fold, shape (images,), counted from 0.
        labels: of the images as their task encodes them, first dimension the images.
    """

    number: NDArray[np.int64]
    labels: Targets

    @classmethod
    def of(cls, images: ImageSet, count: int, seed: int) -> Folds:
        """Deal the images of each class, or other stratum, out to the folds in turn, in a random order.

        Groups of images stay whole.

        Args:
            images: labelled.
            count: of folds, at least 2.
            seed: of the order.
        """
        strata, number = images.strata, np.empty(len(images), np.int64)
        if images.groups is not None:
            parts = [held_out for _, held_out in group_folds(strata, images.groups, count, seed) if len(held_out)]
            for fold, held_out in enumerate(parts):
                number[held_out] = fold
            return cls(number, images.labels)
        random = np.random.RandomState(seed % 2**32)  # whose stream numpy promises
        order = np.concatenate([random.permutation(np.flatnonzero(strata == stratum)) for stratum in np.unique(strata)])
        number[order] = np.arange(len(strata)) % count
        return cls(number, images.labels)

    def __len__(self) -> int:
        return int(self.number.max()) + 1

    def __iter__(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield for each fold the rows to train on and the rows that are held out."""
        for part in range(len(self)):
            yield np.flatnonzero(self.number != part), np.flatnonzero(self.number == part)


class Rows(Dataset[dict[str, Tensor]]):
    """Some rows of a data set that gives whole batches and shows views."""

    def __init__(self, whole: Any, rows: NDArray[np.int64]) -> None:
        self.whole, self.rows = whole, rows.tolist()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        item: dict[str, Tensor] = self.whole[self.rows[row]]
        return item

    def __getitems__(self, rows: list[int]) -> Any:
        return self.whole.__getitems__([self.rows[row] for row in rows])

    def show_view(self, epoch: int) -> None:
        """Show an epoch's augmented view."""
        self.whole.show_view(epoch)


def cross_validate(
    setup: Setup, stages: Sequence[ReadyPhase], start: Mapping[str, Tensor], folds: Folds, begin: Begin | None = None
) -> NDArray[np.float32]:
    """Return the logits of every image by a model that was trained without its fold, shape (images, labels).

    Args:
        setup: its training images are those of `folds`.
        stages: the phases of the training; their data sets ``train`` and ``plain`` hold these images, the latter
            without augmentation.
        start: what each training begins with: all tensors that a phase may change. The model has them again afterwards.
        folds: what is held out in turn.
        begin: changes the model before each training, given the rows that are trained on.
    """
    logits = np.zeros((len(folds.labels), len(setup.sets.labels)), np.float32)
    for held_out, said in fold_by_fold(setup, stages, start, folds, begin):
        logits[held_out] = said
    return logits


def fold_by_fold(
    setup: Setup, stages: Sequence[ReadyPhase], start: Mapping[str, Tensor], folds: Folds, begin: Begin | None = None
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Train without each fold in turn, and yield its rows with their logits; see `cross_validate`.

    A training makes all of its epochs and keeps its last weights: nothing is chosen on what is held out. Between them
    the model has the weights that each begins with.
    """
    quiet = _quiet(setup)
    setup.model.load_state_dict(dict(start), strict=False)
    for train, held_out in folds:
        if begin is not None:
            begin(train)
        for stage in stages:
            trainer = _fold_trainer(quiet, stage, train, held_out)
            trainer.train()
            trainer.release()
        outcome = trainer.predict(trainer.eval_dataset)
        trainer.release()
        setup.model.load_state_dict(dict(start), strict=False)
        yield held_out, np.asarray(outcome.predictions)


def probe_start(setup: Setup, reader: HeadInputs, features: NDArray[np.float64], train: Dataset[Any]) -> Begin | None:
    """Return what begins each training of a fold with a probe of its own images, where the run begins with one.

    Args:
        setup: of the run.
        reader: of what the head reads.
        features: of all images, shape (images, features).
        train: the same images.
    """
    kind = setup.settings.policy.head_init
    if kind not in STARTS or why_no_probe(setup, reader, train):
        return None
    labels, seed = setup.sets.train.labels, setup.settings.training.seed

    def begin(rows: NDArray[np.int64]) -> None:
        assert reader.linear is not None
        fold(fit_start(kind, features[rows], labels[rows], seed), reader.linear)

    return begin


def cross_validate_probe(
    features: NDArray[np.float64], folds: Folds, seed: int, task: Task = SINGLE_LABEL
) -> NDArray[Any]:
    """Return the answer to every image, a label number most often, by a linear probe that was fitted without its fold.

    Args:
        features: what the pretrained head reads, shape (images, features).
        folds: what is held out in turn.
        seed: of the images that the probe's strength is chosen on.
        task: what the labels mean.
    """
    rows, answers = [], []
    for train, held_out in folds:
        rows.append(held_out)
        answers.append(fit_probe(features[train], folds.labels[train], seed, task)(features[held_out]))
    return np.concatenate(answers)[np.concatenate(rows).argsort()]


def starting_tensors(setup: Setup) -> dict[str, Tensor]:
    """Return copies of all tensors that some phase may change, as they are now."""
    names = frozenset[str]().union(*(changing(setup.model, phase) for phase in setup.plan.phases))
    state = setup.model.state_dict()
    return {name: state[name].detach().clone() for name in sorted(names)}


def last_changes_all(setup: Setup) -> bool:
    """Whether the last phase may change all that the phases before it change, so that its boundary serves them too."""
    *before, last = (changing(setup.model, phase) for phase in setup.plan.phases)
    return all(names <= last for names in before)


def _quiet(setup: Setup) -> Setup:
    """Return a setup whose trainings evaluate, save and say nothing on the way."""
    training = copy.copy(setup.settings.training)
    training.eval_strategy = training.save_strategy = training.logging_strategy = "no"
    training.eval_on_start, training.disable_tqdm = False, True
    return replace(setup, settings=replace(setup.settings, training=training))


def _fold_trainer(setup: Setup, stage: ReadyPhase, train: NDArray[np.int64], held_out: NDArray[np.int64]) -> Any:
    datasets = stage.prepared.datasets
    parts: dict[str, Dataset[dict[str, Tensor]]] = {
        "train": Rows(datasets["train"], train),
        "validation": Rows(datasets["plain"], held_out),
    }
    sets = replace(setup.sets, train=setup.sets.train.select(train.tolist()))
    prepared = Prepared(stage.prepared.suffix, parts)
    rate = setup.settings.training.learning_rate
    return make_trainer(replace(setup, sets=sets), Progress(), replace(stage, prepared=prepared), rate)
