"""When to believe a finished run's model: its temperature, and the training images that others are compared with."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Subset

from hfft.bars import bar
from hfft.cache.prepare import precision_of
from hfft.data.images import ImageSet
from hfft.data.preprocessing import collate
from hfft.data.sampling import compared_rows, drawn_rows
from hfft.errors import DataError
from hfft.jobs.advice.crossed import Crossed
from hfft.models.features import head_reads
from hfft.tasks.contract import Task
from hfft.tasks.single_label import SINGLE_LABEL
from hfft.training.setup import Setup
from hfft.training.trainer import FreezeTrainer
from hfft.trust.classes import ClassStatistics, Kept, digests
from hfft.trust.feature_map import FeatureMap, feature_map
from hfft.trust.known import KnownImages, KnownRecord, learn

_BATCH = 64


@dataclass(frozen=True)
class Trust:
    """What was learned about a model beside its weights.

    Args:
        task: how its logits are read, with what was fitted to the validation images.
        known: the training images that others are compared with; None where there are none.
        record: what the run's record says of them.
        crossed: what models said of training images that they had not seen, where no validation set was given.
        seconds: that it took.
        map: images as points, before and after training; None where the head reads no features.
        kept: what more images and classes are added by; None where they cannot be.
        held_out: what the head reads of the validation images; None where the head reads no features.
        fitted: images that the temperature was fitted on, where those are not the validation images; else 0.
    """

    task: Task = SINGLE_LABEL
    known: KnownImages | None = field(default=None, repr=False)
    record: KnownRecord = field(default_factory=KnownRecord, repr=False)
    crossed: Crossed = field(default_factory=Crossed, repr=False)
    seconds: float = 0.0
    map: FeatureMap | None = field(default=None, repr=False)
    kept: Kept | None = field(default=None, repr=False)
    held_out: NDArray[np.float32] | None = field(default=None, repr=False)
    fitted: int = 0


@contextmanager
def features_kept(setup: Setup, split: str, seen: dict[str, NDArray[np.float32]]) -> Iterator[None]:
    """Within this context, which evaluates all images of a split in order, what the head reads of them is kept.

    So they need not pass the last block a second time. Nothing is kept where several processes share the images, or
    where they are more than those whose features are wanted.

    Args:
        setup: of the run.
        split: ``validation`` or ``test``.
        seen: gets the features, shape (images, features), by split.
    """
    images: ImageSet = getattr(setup.sets, split)
    few = len(compared_rows(images.labels, setup.settings.training.seed)) == len(images)
    if not few or setup.settings.training.world_size > 1:
        yield
        return
    with head_reads(setup.model, len(setup.sets.labels)) as reads:
        yield
    if len({id(layer) for layer, _ in reads}) != 1:  # else it is not known which of them is the head
        return
    features = np.concatenate([values.float().cpu().numpy() for _, values in reads])
    if len(features) == len(images):
        seen[split] = features


def learn_trust(
    setup: Setup,
    trainer: FreezeTrainer,
    logits: NDArray[Any],
    labels: NDArray[Any],
    crossed: Crossed,
    before: Mapping[str, NDArray[Any]],
    seen: Mapping[str, NDArray[np.float32]],
) -> Trust:
    """Fit temperature or thresholds to images that were not trained on, and note the features of training images.

    Neither reads the test images; the share of them that is taken for known is counted afterwards.

    Args:
        setup: its model is trained, and its suffix reads what the trainer's data sets give.
        trainer: of the last phase, released.
        logits: of the validation images, shape (images, labels).
        labels: of the validation images, as the task encodes them.
        crossed: what models said of training images that they had not seen.
        before: what the pretrained head read of the images that are drawn, by split; empty where it was not asked.
        seen: what the trained head was seen to read, by split; see `features_kept`.
    """
    began = time.perf_counter()
    unseen = _unseen(logits, labels, crossed)
    task = setup.sets.task.calibrated(*unseen)
    if task.missing:
        return Trust(task, None, KnownRecord(missing=task.missing), crossed, time.perf_counter() - began)
    reader = _Features(setup, trainer, seen)
    seed = setup.settings.training.seed
    rows = compared_rows(setup.sets.train.labels, seed)
    features = reader.read(trainer.train_dataset, rows, "training")
    if features is None:
        missing = "the head of this model is not a linear layer, whose inputs could be compared"
        return Trust(task, None, KnownRecord(missing=missing), crossed, time.perf_counter() - began)
    held_out = compared_rows(labels, seed)
    files = setup.sets.train.files
    others = reader.read(trainer.eval_dataset, held_out, "validation")
    known = learn(features, setup.sets.train.labels[rows], tuple(files[row] for row in rows), others)
    known = replace(known, truth=_truth(task, *unseen))
    record = KnownRecord(len(rows), len(held_out), kept=reader.kept(known))
    drawn = _drawn(setup, (rows, features), (held_out, others), logits, before)
    kept = _kept(setup, ClassStatistics.of(features, setup.sets.train.labels[rows], len(setup.sets.labels)))
    return Trust(task, known, record, crossed, time.perf_counter() - began, drawn, kept, others)


def _kept(setup: Setup, statistics: ClassStatistics) -> Kept:
    """Note which images the run had; those of a split from which one went away are left out."""
    sets = {"train": setup.sets.train, "validation": setup.sets.validation, "test": setup.sets.test}
    contents = {name: found for name, images in sets.items() if images and (found := _contents(images)) is not None}
    labels = {name: images.labels for name, images in sets.items() if images is not None and name in contents}
    return Kept(statistics, contents, labels)


def _contents(images: ImageSet) -> NDArray[np.uint8] | None:
    try:
        return digests(images.contents())
    except DataError:
        return None


_Read = tuple[NDArray[np.int64], NDArray[Any]]
"""Rows of a split, and what the head reads of these images."""


def _drawn(
    setup: Setup, train: _Read, validation: _Read, logits: NDArray[Any], before: Mapping[str, NDArray[Any]]
) -> FeatureMap:
    """Lay out some of the images whose features were read, before training and after it."""
    sets, seed = {"train": setup.sets.train, "validation": setup.sets.validation}, setup.settings.training.seed
    drawn = {split: drawn_rows(images.labels, seed) for split, images in sets.items()}
    read = {"train": train, "validation": validation}
    return feature_map(
        before or None,
        {split: values[np.searchsorted(rows, drawn[split])] for split, (rows, values) in read.items()},
        {split: images.labels[drawn[split]] for split, images in sets.items()},
        {split: [images.files[row] for row in drawn[split]] for split, images in sets.items()},
        logits[drawn["validation"]].argmax(axis=1),
    )


def _unseen(logits: NDArray[Any], labels: NDArray[Any], crossed: Crossed) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return logits and labels of all images whose models had not seen them, but others of their class."""
    if not crossed.folds:
        return logits, labels
    rows = crossed.known
    return np.concatenate([logits, crossed.logits[rows]]), np.concatenate([labels, crossed.labels[rows]])


def _truth(task: Task, logits: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
    """Return the probability that each image's true label is given, shape (images,)."""
    truth: NDArray[Any] = task.scores(logits)[np.arange(len(labels)), labels]
    return truth


class _Features:
    """Reads what the head of a trained model reads, from activations or pixels.

    Args:
        setup: of the run.
        trainer: of its last phase.
        seen: features that need not be read again, by split.
    """

    def __init__(self, setup: Setup, trainer: FreezeTrainer, seen: Mapping[str, NDArray[np.float32]]) -> None:
        self.setup, self.trainer, self.seen = setup, trainer, seen

    def kept(self, known: KnownImages) -> float | None:
        """Return the share of the test images that is taken for known; None where there are none."""
        test = self.setup.sets.test
        if test is None or self.trainer.test_dataset is None:
            return None
        rows = compared_rows(test.labels, self.setup.settings.training.seed)
        features = self.read(self.trainer.test_dataset, rows, "test")
        return float(np.mean([not each.unknown for each in known.compare(features)]))

    def read(self, dataset: Any, rows: NDArray[np.int64], name: str) -> Any:
        """Return the features of some items of a data set, shape (rows, features); None where the head has none."""
        if name in self.seen:
            return self.seen[name][rows]
        model, found = self.setup.model, []
        model.eval()
        batches: DataLoader[Any] = DataLoader(Subset(_items(dataset), rows.tolist()), _BATCH, collate_fn=collate)
        precision = precision_of(self.setup.settings.training)
        for batch in bar(batches, desc=f"Features of {name} images", unit="batch"):
            with (
                head_reads(model, len(self.setup.sets.labels)) as reads,
                self.trainer.suffix.answering(model, batch, precision) as inputs,
            ):
                model(**inputs)
            if not reads:
                return None
            found.append(reads[-1][1].float().cpu().numpy())
        return np.concatenate(found)


def _items(dataset: Any) -> Dataset[Any]:
    assert dataset is not None
    items: Dataset[Any] = dataset
    return items
