"""What a result is compared with: the commonest class, a linear probe, and full fine-tuning.

The probe is a logistic regression, of numbers a ridge regression, on what the pretrained head reads, from one pass
over the images before training begins (Alain and Bengio, "Understanding intermediate layers using linear classifier
probes", 2016). Its regularisation is chosen on a part of the training images; validation and test images are only
evaluated.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from hfft.bars import bar
from hfft.cache.prepare import precision_of
from hfft.data.images import ImageSet
from hfft.data.preprocessing import collate
from hfft.data.sampling import drawn_rows, stratified
from hfft.models.features import head_modules, linear_layer
from hfft.models.forward import logits_of
from hfft.split.halves import Suffix
from hfft.tasks.contract import Targets, Task
from hfft.tasks.single_label import SINGLE_LABEL
from hfft.training.setup import Setup
from hfft.trust.known import unit_rows

PROBE_IMAGES = 10_000
"""Most training images that the probe learns from; more of them are sampled, keeping the class shares."""
STRENGTH_IMAGES = 2_000
"""Most of them that its strength is chosen on, which takes four of its five fits."""
STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""Inverse regularisation strengths that the probe chooses from, on standardised features."""

_HELD_OUT = 0.2  # share of the training images that the strength is chosen on
_BATCH = 64
_NOISE = 1e-5  # of a feature's deviation, relative to its mean

Probe = Callable[[NDArray[np.float64]], NDArray[Any]]
"""From features of shape (images, features) to a task's answers."""


@dataclass(frozen=True)
class LinearProbe:
    """A logistic regression as one linear layer on features as they are.

    Args:
        classes: label number of each row, shape (classes,).
        weight: shape (classes, features).
        bias: shape (classes,).
    """

    classes: NDArray[np.int64]
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]

    def __call__(self, features: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the label number of each row of features."""
        numbers: NDArray[np.int64] = self.classes[(features @ self.weight.T + self.bias).argmax(axis=1)]
        return numbers


def fit_on_images(setup: Setup, reader: HeadInputs, train: Dataset[Any]) -> Probe:
    """Fit a linear probe on what the head reads of the training images.

    Args:
        setup: its images and its seed.
        reader: of the model with the pretrained weights.
        train: the training images.
    """
    images, seed = setup.sets.train, setup.settings.training.seed
    rows = _sampled(images, seed)
    features = reader.features(Subset(train, rows.tolist()), "train")
    if setup.sets.task.chooses:
        drawn = drawn_rows(images.labels, seed)
        every = len(rows) == len(images)
        reader.keep("train", features[drawn] if every else reader.features(Subset(train, drawn.tolist()), "train"))
    return fit_probe(features, images.labels[rows], seed, setup.sets.task)


def probed(setup: Setup, reader: HeadInputs, train: Dataset[Any]) -> tuple[NDArray[np.float64], Targets]:
    """Return what a probe is fitted on: features and labels of the training images, or of a sample."""
    rows = _sampled(setup.sets.train, setup.settings.training.seed)
    return reader.features(Subset(train, rows.tolist()), "train"), setup.sets.train.labels[rows]


def predict_baselines(
    setup: Setup, reader: HeadInputs, probe: Probe, data: Mapping[str, Dataset[Any]]
) -> dict[str, dict[str, NDArray[Any]]]:
    """Return what the commonest class and a linear probe say of the validation and the test images.

    Args:
        setup: its images.
        reader: of the model with the pretrained weights.
        probe: fitted on the training images.
        data: by split, what batches come from.
    """
    sets = setup.sets
    evaluated = {"validation": sets.validation, **({"test": sets.test} if sets.test is not None else {})}
    probed = {}
    for split, images in evaluated.items():
        features = reader.features(data[split], split)
        probed[split] = probe(features)
        if split == "validation" and sets.task.chooses:
            reader.keep(split, features[drawn_rows(images.labels, setup.settings.training.seed)])
    return {
        "majority": {split: sets.task.constant(sets.train.labels, len(images)) for split, images in evaluated.items()},
        "linear_probe": probed,
    }


class HeadInputs:
    """Collects what the head of a model reads, one row of features per image.

    Args:
        setup: its model has pretrained weights and is left in the mode that it was in; it computes as it trains, in
            mixed precision where that is asked for.
        suffix: how a batch reaches the model.

    Attributes:
        kept: by split, features of some images at unit length, which outlast the training of the model.
    """

    def __init__(self, setup: Setup, suffix: Suffix) -> None:
        model, anatomy = setup.model, setup.plan.anatomy
        self.model, self.suffix, self.precision = model, suffix, precision_of(setup.settings.training)
        self.linear, self.not_linear = linear_layer(model, anatomy)
        # The linear layer itself where there is one: a norm before it belongs to the features.
        self.heads = [self.linear] if self.linear is not None else head_modules(model, anatomy)
        self.kept: dict[str, NDArray[np.float16]] = {}

    def keep(self, split: str, features: NDArray[np.float64]) -> None:
        """Keep features, shape (images, features), at unit length and in half precision."""
        self.kept[split] = unit_rows(features).astype(np.float16)

    def features(self, dataset: Dataset[Any], name: str) -> NDArray[np.float64]:
        """Return the features of all items, shape (images, features); `name` is that of the split."""
        rows: list[NDArray[np.float64]] = []
        with self._evaluating():
            batches = DataLoader(dataset, batch_size=_BATCH, collate_fn=collate)
            for batch in bar(batches, desc=f"Linear probe, {name} images", unit="batch"):
                rows.append(self._read(batch))
        return np.concatenate(rows)

    def gives_logits(self, dataset: Dataset[Any]) -> bool:
        """Return whether what the linear layer makes of one row per image are the model's logits, untouched."""
        assert self.linear is not None
        seen: list[Tensor] = []
        handle = self.linear.register_forward_hook(lambda module, args, output: seen.append(output))
        try:
            with self._evaluating(), self._forward(collate([dataset[0]])) as inputs:
                logits = logits_of(self.model(**inputs))
        finally:
            handle.remove()
        return len(seen) == 1 and seen[0].ndim == 2 and torch.equal(seen[0], logits)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(training)

    def _forward(self, batch: Mapping[str, Tensor]) -> AbstractContextManager[dict[str, Tensor]]:
        return self.suffix.answering(self.model, batch, self.precision)

    def _read(self, batch: Mapping[str, Tensor]) -> NDArray[np.float64]:
        seen: list[Tensor] = []

        def remember(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
            seen.extend(tensors[:1])

        handles = [head.register_forward_pre_hook(remember, with_kwargs=True) for head in self.heads]
        try:
            with self._forward(batch) as inputs:
                self.model(**inputs)
        finally:
            for handle in handles:
                handle.remove()
        # Double precision: features that hardly vary are divided by a deviation too small for single.
        return pooled(seen[0]).cpu().double().numpy()


def pooled(features: Tensor) -> Tensor:
    """Average maps of shape (batch, channels, height, width) and tokens (batch, tokens, dim) to (batch, features)."""
    if features.ndim == 4:
        return features.mean(dim=(2, 3))
    return features.mean(dim=1) if features.ndim == 3 else features.flatten(1)


def fit_probe(features: NDArray[np.float64], labels: Targets, seed: int, task: Task = SINGLE_LABEL) -> Probe:
    """Fit a linear probe whose strength is chosen on a held-out part of the same images.

    Args:
        features: shape (images, features).
        labels: as the task encodes them; at least two different ones.
        seed: of the part that is held out.
        task: what the labels mean.

    Returns:
        A `LinearProbe` where labels exclude each other, else a function from features to the task's answers.
    """
    from threadpoolctl import threadpool_limits

    # Matrices are small here: on busy cores several threads wait for each other fifty times as long as one computes.
    with threadpool_limits(1):
        strength = choose_strength(features, labels, seed, task)
        return fit_with(features, labels, strength, task)


def choose_strength(features: NDArray[np.float64], labels: Targets, seed: int, task: Task = SINGLE_LABEL) -> float:
    """Return the inverse strength of regularisation that does best on a held-out part."""
    if len(labels) > STRENGTH_IMAGES:
        rows = stratified(task.strata(labels), STRENGTH_IMAGES, seed)
        features, labels = features[rows], labels[rows]
    held_out = held_out_rows(task.strata(labels), seed)
    if not len(held_out):
        return STRENGTHS[-1]
    rest = np.setdiff1d(np.arange(len(labels)), held_out)

    def score(strength: float) -> float:
        answers = fit_with(features[rest], labels[rest], strength, task)(features[held_out])
        return task.compared(answers, labels[held_out])[task.metric]

    fits = bar(STRENGTHS, desc="Linear probe, fits", unit="fit")
    scores = [score(strength) for strength in fits]
    return STRENGTHS[int(np.argmax(scores))]


def held_out_rows(strata: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return rows of the images that something is chosen on; none where there is a single image of each class."""
    count = min(max(round(_HELD_OUT * len(strata)), 1), len(strata) - len(np.unique(strata)))
    return stratified(strata, count, seed, keep_one=True) if count > 0 else np.zeros(0, np.int64)


def fit_with(features: NDArray[np.float64], labels: Targets, strength: float, task: Task = SINGLE_LABEL) -> Probe:
    """Fit a linear probe of one inverse strength of regularisation, on standardised features."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the last step is as good as is needed
        warnings.filterwarnings("ignore", "Label .* is present in all training examples")  # a constant answers it
        if task.chooses:
            return _linear(features, labels, task.probe(strength))
        mean, deviation = standardised(features)
        fitted = task.probe(strength).fit((features - mean) / deviation, labels)
    return _Fitted(task, fitted, mean, deviation)


@dataclass(frozen=True)
class _Fitted:
    """A task's own linear probe on standardised features; one that can be sent to other processes."""

    task: Task
    fitted: Any
    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]

    def __call__(self, features: NDArray[np.float64]) -> NDArray[Any]:
        answers: NDArray[Any] = self.task.probed(self.fitted, (features - self.mean) / self.deviation)
        return answers


def standardised(features: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and deviation of each feature, shape (features,) each; infinity for one that does not vary."""
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    # What varies by no more than the rounding of single precision is noise, however it is scaled.
    return mean, np.where(deviation > _NOISE * np.abs(mean), deviation, np.inf)


def _linear(features: NDArray[np.float64], labels: NDArray[np.int64], model: Any) -> LinearProbe:
    """Fit a logistic regression on standardised features, and fold their standardisation into its weights."""
    mean, scale = standardised(features)
    model.fit((features - mean) / scale, labels)
    weight, bias = model.coef_ / scale, model.intercept_
    if len(model.classes_) == 2:  # one row of odds; two rows of half of it each have the same softmax
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return LinearProbe(model.classes_, weight, bias - weight @ np.where(np.isinf(scale), 0.0, mean))


def _sampled(train: ImageSet, seed: int) -> NDArray[np.int64]:
    most = max(PROBE_IMAGES, len(np.unique(train.strata)))
    return np.arange(len(train)) if len(train) <= most else stratified(train.strata, most, seed)
