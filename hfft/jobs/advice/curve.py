"""How many more images? What a linear probe reaches over the number of images, and where that leads.

The error falls with the number of images about as an inverse power law with a floor (Hestness et al., "Deep learning
scaling is predictable, empirically", 2017; Figueroa et al., "Predicting sample size required for classification
performance", 2012). The probe is fitted on samples of the cached features, which takes seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hfft.data.sampling import group_folds, stratified
from hfft.metrics import WORDS
from hfft.tasks.contract import Targets, Task
from hfft.tasks.single_label import SINGLE_LABEL
from hfft.training.baselines import choose_strength, fit_with

SHARES = (0.15, 0.25, 0.4, 0.6, 0.8)
"""Of the images that the probe is fitted on. It is evaluated on a fifth, the same for all sizes of a repeat: average
precision, for one, is higher on fewer images."""
_FOLDS = 5
REPEATS = 8
LEVEL = 0.9
_DRAWS = 400  # of the bootstrap
_LEAST = 2  # images of each class, or other stratum, in the smallest sample


@dataclass(frozen=True)
class LearningCurve:
    """The metric that decides, accuracy most often, over the number of images.

    Args:
        sizes: images that were learned from, shape (points,).
        scores: the metric of other images, its mean over repeats, shape (points,).
        images: that there are.
        laws: floor, factor and exponent of ``error = floor + factor * size ** -exponent``, one row for each draw of
            the bootstrap, that of all repeats first; shape (draws, 3). The error is what the metric lacks to 1.
        metric: by its name.
    """

    sizes: NDArray[np.int64]
    scores: NDArray[np.float64]
    images: int
    laws: NDArray[np.float64]
    metric: str = SINGLE_LABEL.metric

    def at(self, size: float) -> tuple[float, float, float]:
        """Return the metric with so many images, 0 at the least, and the ends of its band at `LEVEL`."""
        floor, factor, exponent = self.laws.T
        score = np.clip(1 - floor - factor * size**-exponent, 0.0, 1.0)
        low, high = np.quantile(score, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return float(score[0]), float(min(low, score[0])), float(max(high, score[0]))

    def more(self, count: int) -> str:
        """Say in one line what `count` more images would bring."""
        now, _, _ = self.at(self.images)
        then, low, high = self.at(self.images + count)
        return (
            f"{count:,} more photos: {WORDS[self.metric].name} {now:.3f} -> {then:.3f} ({low:.3f} to {high:.3f}), by "
            f"the linear probe's learning curve ({LEVEL:.0%} band)"
        )


def learning_curve(
    features: NDArray[np.float64],
    labels: Targets,
    seed: int,
    task: Task = SINGLE_LABEL,
    groups: NDArray[np.str_] | None = None,
) -> LearningCurve | None:
    """Measure how a linear probe gets better with the number of images, and fit a law to it.

    Args:
        features: what the pretrained head reads, shape (images, features).
        labels: as the task encodes them, first dimension the images.
        seed: of the samples.
        task: what the labels mean.
        groups: of each image; they are learned from, or held out, as a whole.

    Returns:
        None where there are too few images, or groups, for three sizes.
    """
    from threadpoolctl import threadpool_limits

    strata, count = task.strata(labels), len(labels)
    least = _LEAST * len(np.unique(strata))
    sizes = sorted({round(share * count) for share in SHARES if round(share * count) >= least})
    if len(sizes) < 3 or (groups is not None and len(np.unique(groups)) < _FOLDS):
        return None
    found, drawn = [], []
    repeats = [_samples(strata, groups, sizes, seed + repeat) for repeat in range(REPEATS)]
    points = min(len(samples) for samples, _ in repeats)
    if points < 3 or any(len(np.unique(strata[samples[0]])) < 2 for samples, _ in repeats):
        return None
    with threadpool_limits(1):
        strength = choose_strength(features, labels, seed, task)
        for samples, held_out in repeats:
            samples = samples[-points:]
            probes = [fit_with(features[rows], labels[rows], strength, task) for rows in samples]
            found.append([task.scored(probe(features[held_out]), labels[held_out]) for probe in probes])
            drawn.append([len(rows) for rows in samples])
    scores = np.array([[each.score for each in row] for row in found])
    random = np.random.RandomState(seed % 2**32)
    total = np.mean(drawn, axis=0)
    draws = [scores, *(scores[random.randint(0, REPEATS, REPEATS)] for _ in range(_DRAWS))]
    # All repeats are evaluated on some of the same images, which may be easier than others: a draw moves as a whole.
    spread = found[0][0].spread(float(scores.mean()), count if groups is None else len(np.unique(groups)))
    laws = [
        _fitted_law(total, 1 - draw.mean(0) + (random.normal(0, spread) if number else 0.0))
        for number, draw in enumerate(draws)
    ]
    return LearningCurve(total.round().astype(np.int64), scores.mean(0), count, np.asarray(laws), task.metric)


def _samples(
    strata: NDArray[np.int64], groups: NDArray[np.str_] | None, sizes: list[int], seed: int
) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
    """Return rows to learn from, about so many each, and the rows of a fifth to evaluate on.

    There are fewer samples where whole groups leave no room for all: each has a group more than the one before it, and
    all classes that are not held out altogether.
    """
    if groups is None:
        held_out = stratified(strata, len(strata) - sizes[-1], seed, keep_one=True)
        rest = np.setdiff1d(np.arange(len(strata)), held_out)
        return [rest[stratified(strata[rest], size, seed)] for size in sizes], held_out
    rest, held_out = next(iter(group_folds(strata, groups, _FOLDS, seed)))
    ordered, least = _in_groups(strata[rest], groups[rest], seed)
    ends = np.searchsorted(np.cumsum([len(rows) for rows in ordered]), sizes) + 1
    ends = np.unique(np.clip(ends, least, len(ordered)))
    return [rest[np.sort(np.concatenate(ordered[:end]))] for end in ends], held_out


def _in_groups(strata: NDArray[np.int64], groups: NDArray[np.str_], seed: int) -> tuple[list[NDArray[np.int64]], int]:
    """Return the rows of each group, in a random order, and how many of the first have all classes among them."""
    shuffled = np.random.RandomState(seed % 2**32).permutation(np.unique(groups))
    rows = [np.flatnonzero(groups == group) for group in shuffled]
    first = {next(place for place, each in enumerate(rows) if kind in strata[each]) for kind in np.unique(strata)}
    return [rows[place] for place in sorted(range(len(rows)), key=lambda place: place not in first)], len(first)


def _fitted_law(sizes: NDArray[np.float64], errors: NDArray[np.float64]) -> tuple[float, float, float]:
    """Fit floor, factor and exponent by least squares, none below 0 and the exponent at most 1."""
    from scipy.optimize import nnls

    best: tuple[float, tuple[float, float, float]] | None = None
    for exponent in np.linspace(0.05, 1.0, 20):  # for each of them the rest is linear
        columns = np.stack([np.ones_like(sizes), sizes**-exponent], axis=1)
        (floor, factor), distance = nnls(columns, np.clip(errors, 0.0, 1.0))
        if best is None or distance < best[0] - 1e-12:
            best = (float(distance), (float(floor), float(factor), float(exponent)))
    assert best is not None
    return best[1]
