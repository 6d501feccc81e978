"""How many more images? The accuracy of a linear probe over the number of images, and where it leads.

The error falls with the number of images about as an inverse power law with a floor (Hestness et al., "Deep learning
scaling is predictable, empirically", 2017; Figueroa et al., "Predicting sample size required for classification
performance", 2012). The probe is fitted on samples of the cached features, which takes seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hfft.data.sampling import stratified
from hfft.training.baselines import choose_strength, fit_with

SHARES = (0.15, 0.25, 0.4, 0.6, 0.8)
"""Of the images that the probe is fitted on; the rest is what it is evaluated on."""
REPEATS = 8
LEVEL = 0.9
_DRAWS = 400  # of the bootstrap
_SURE = 1e-3  # least variance of an image's outcome: nothing is certain
_LEAST = 2  # images of each class in the smallest sample


@dataclass(frozen=True)
class LearningCurve:
    """Accuracy over the number of images.

    Args:
        sizes: images that were learned from, shape (points,).
        accuracies: mean share of other images that were labelled rightly, shape (points,).
        images: that there are.
        laws: floor, factor and exponent of ``error = floor + factor * size ** -exponent``, one row for each draw of
            the bootstrap, that of all repeats first; shape (draws, 3).
    """

    sizes: NDArray[np.int64]
    accuracies: NDArray[np.float64]
    images: int
    laws: NDArray[np.float64]

    def at(self, size: float) -> tuple[float, float, float]:
        """Return the accuracy with so many images, and the ends of its band at `LEVEL`."""
        floor, factor, exponent = self.laws.T
        accuracy = np.clip(1 - floor - factor * size**-exponent, 0.0, 1.0)
        low, high = np.quantile(accuracy, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return float(accuracy[0]), float(min(low, accuracy[0])), float(max(high, accuracy[0]))

    def more(self, count: int) -> str:
        """Say in one line what `count` more images would bring."""
        now, _, _ = self.at(self.images)
        then, low, high = self.at(self.images + count)
        return (
            f"{count:,} more photos: {now:.3f} -> {then:.3f} ({low:.3f} to {high:.3f}), by the linear probe's "
            f"learning curve ({LEVEL:.0%} band)"
        )


def learning_curve(features: NDArray[np.float64], labels: NDArray[np.int64], seed: int) -> LearningCurve | None:
    """Measure how a linear probe gets better with the number of images, and fit a law to it.

    Args:
        features: what the pretrained head reads, shape (images, features).
        labels: label number of each image, shape (images,).
        seed: of the samples.

    Returns:
        None where there are too few images for three sizes.
    """
    from threadpoolctl import threadpool_limits

    classes, count = len(np.unique(labels)), len(labels)
    sizes = sorted({round(share * count) for share in SHARES if round(share * count) >= _LEAST * classes})
    if len(sizes) < 3:
        return None
    points = np.zeros((REPEATS, len(sizes)))
    with threadpool_limits(1):
        strength = choose_strength(features, labels, seed)
        for repeat in range(REPEATS):
            for place, size in enumerate(sizes):
                points[repeat, place] = _accuracy(features, labels, size, strength, seed + repeat)
    random = np.random.RandomState(seed % 2**32)
    total = np.asarray(sizes, np.float64)
    draws = [points, *(points[random.randint(0, REPEATS, REPEATS)] for _ in range(_DRAWS))]
    # All repeats are evaluated on the same images, which may be easier than others, so a draw moves as a whole.
    spread = float(np.sqrt(max(points.mean() * (1 - points.mean()), _SURE) / count))
    laws = [
        _fitted_law(total, 1 - draw.mean(0) + (random.normal(0, spread) if number else 0.0))
        for number, draw in enumerate(draws)
    ]
    return LearningCurve(np.asarray(sizes), points.mean(0), count, np.asarray(laws))


def _accuracy(features: NDArray[np.float64], labels: NDArray[np.int64], size: int, strength: float, seed: int) -> float:
    rows = stratified(labels, size, seed, keep_one=False)
    rest = np.setdiff1d(np.arange(len(labels)), rows)
    probe = fit_with(features[rows], labels[rows], strength)
    return float((probe(features[rest]) == labels[rest]).mean())


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
