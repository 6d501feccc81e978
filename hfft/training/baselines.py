"""What a result is compared with: the commonest class, a linear probe, and full fine-tuning.

The probe is a logistic regression, of numbers a ridge regression, on what the pretrained head reads, from one pass
over the images before training begins (Alain and Bengio, "Understanding intermediate layers using linear classifier
probes", 2016). Its regularisation is chosen on a part of the training images; validation and test images are only
judged.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm.auto import tqdm

from hfft.data.images import ImageSet
from hfft.data.preprocessing import collate
from hfft.data.sampling import stratified
from hfft.plugin.contract import Anatomy, covers
from hfft.tasks.contract import Targets, Task
from hfft.tasks.single_label import SINGLE_LABEL
from hfft.training.progress import Baselines
from hfft.training.setup import Setup

if TYPE_CHECKING:
    from hfft.cache.prepare import Prepared


PROBE_IMAGES = 10_000
"""Most training images that the probe learns from; more of them are sampled, keeping the class shares."""
STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""Inverse regularisation strengths that the probe chooses from, on standardised features."""

_HELD_OUT = 0.2  # share of the training images that the strength is chosen on
_BATCH = 64
_PATIENCE = 2.0  # seconds without a progress bar


def probe_baselines(setup: Setup, prepared: Prepared) -> Baselines:
    """Evaluate the commonest class and a linear probe, before training changes the model.

    Args:
        setup: its model holds the pretrained weights.
        prepared: the first phase, its activations cached where they can be, those of the test images as well.
    """
    began = time.perf_counter()
    sets = setup.sets
    judged = {"validation": sets.validation, **({"test": sets.test} if sets.test is not None else {})}
    task = sets.task
    majority = {split: task.constant(sets.train.labels, len(images)) for split, images in judged.items()}
    rows = _sampled(sets.train, setup.settings.training.seed)
    data = prepared.datasets
    reader = HeadInputs(setup.model, setup.plan.anatomy, prepared)
    train = reader.features(Subset(data["train"], rows.tolist()), "train")
    predict = fit_probe(train, sets.train.labels[rows], setup.settings.training.seed, task)
    probe = {split: predict(reader.features(data[split], split)) for split in judged}
    return Baselines({"majority": majority, "linear_probe": probe}, time.perf_counter() - began, task)


class HeadInputs:
    """Collects what the head of a model reads, one row of features per image.

    Args:
        model: with pretrained weights; left in the mode that it was in.
        anatomy: names the head.
        prepared: says how a batch reaches the model.
    """

    def __init__(self, model: nn.Module, anatomy: Anatomy, prepared: Prepared) -> None:
        self.model, self.prepared = model, prepared
        self.heads = head_modules(model, anatomy)

    def features(self, dataset: Dataset[Any], name: str) -> NDArray[np.float64]:
        """Return the features of all items, shape (images, features); `name` is that of the split."""
        rows: list[NDArray[np.float64]] = []
        device = next(self.model.parameters()).device
        training = self.model.training
        self.model.eval()
        try:
            batches = DataLoader(dataset, batch_size=_BATCH, collate_fn=collate)
            for batch in tqdm(
                batches, desc=f"Linear probe, {name} images", unit="batch", delay=_PATIENCE, disable=None
            ):
                moved = {name: tensor.to(device) for name, tensor in batch.items() if name != "labels"}
                rows.append(self._read(moved))
        finally:
            self.model.train(training)
        return np.concatenate(rows)

    def _read(self, batch: dict[str, Tensor]) -> NDArray[np.float64]:
        seen: list[Tensor] = []

        def remember(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
            seen.extend(tensors[:1])

        handles = [head.register_forward_pre_hook(remember, with_kwargs=True) for head in self.heads]
        try:
            with torch.no_grad(), self.prepared.suffix.inputs(self.model, batch) as inputs:
                self.model(**inputs)
        finally:
            for handle in handles:
                handle.remove()
        # Double precision: features that hardly vary are divided by a deviation too small for single.
        return pooled(seen[0]).cpu().double().numpy()


def head_modules(model: nn.Module, anatomy: Anatomy) -> list[nn.Module]:
    """Return the head's modules with weights, not a container around them.

    With cached activations, what a container is given may be a placeholder that nobody reads.
    """
    return [
        module
        for name, module in model.named_modules()
        if any(covers(head, name) for head in anatomy.head) and next(module.parameters(recurse=False), None) is not None
    ]


def pooled(features: Tensor) -> Tensor:
    """Average maps of shape (batch, channels, height, width) and tokens (batch, tokens, dim) to (batch, features)."""
    if features.ndim == 4:
        return features.mean(dim=(2, 3))
    return features.mean(dim=1) if features.ndim == 3 else features.flatten(1)


def fit_probe(
    features: NDArray[np.float64], labels: Targets, seed: int, task: Task = SINGLE_LABEL
) -> Callable[[NDArray[np.float64]], NDArray[Any]]:
    """Fit a linear probe whose strength is chosen on a held-out part of the same images.

    Args:
        features: shape (images, features).
        labels: as the task encodes them; at least two different ones.
        seed: of the part that is held out.
        task: what the labels mean.

    Returns:
        A function from features to the task's answers.
    """
    from threadpoolctl import threadpool_limits

    # Matrices are small here: on busy cores several threads wait for each other fifty times as long as one computes.
    with threadpool_limits(1):
        strength = choose_strength(features, labels, seed, task)
        return partial(task.probed, fit_with(features, labels, strength, task))


def choose_strength(features: NDArray[np.float64], labels: Targets, seed: int, task: Task = SINGLE_LABEL) -> float:
    """Return the inverse strength of regularisation that does best on a held-out part."""
    strata = task.strata(labels)
    count = min(max(round(_HELD_OUT * len(labels)), 1), len(labels) - len(np.unique(strata)))
    if count < 1:  # a single image of each class: nothing can be held out
        return STRENGTHS[-1]
    held_out = stratified(strata, count, seed, keep_one=True)
    rest = np.setdiff1d(np.arange(len(labels)), held_out)

    def score(strength: float) -> float:
        answers = task.probed(fit_with(features[rest], labels[rest], strength, task), features[held_out])
        return task.compared(answers, labels[held_out])[task.metric]

    fits = tqdm(STRENGTHS, desc="Linear probe, fits", unit="fit", delay=_PATIENCE, disable=None)
    scores = [score(strength) for strength in fits]
    return STRENGTHS[int(np.argmax(scores))]


def fit_with(features: NDArray[np.float64], labels: Targets, strength: float, task: Task = SINGLE_LABEL) -> Any:
    """Fit a linear probe of one inverse strength of regularisation, on standardised features."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), task.probe(strength))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the last step is as good as is needed
        warnings.filterwarnings("ignore", "Label .* is present in all training examples")  # a constant answers it
        return model.fit(features, labels)


def _sampled(train: ImageSet, seed: int) -> NDArray[np.int64]:
    most = max(PROBE_IMAGES, len(np.unique(train.strata)))
    return np.arange(len(train)) if len(train) <= most else stratified(train.strata, most, seed)
