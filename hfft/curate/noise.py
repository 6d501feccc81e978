"""Confident learning: which labels are contradicted by those of all other images (Northcutt, Jiang, Chuang, JAIR 2021).

An image is suspect where an opinion that has not seen its label is confident of another one: its probability reaches
the mean probability that images of that label get. Thresholds of each class's own make up for classes that are hard to
tell. The opinion is the mean of two that err differently, a cross-validated probe and the nearest neighbours, on each
kind of features (`scripts/bench_labels.py` measures it).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hfft.bars import bar
from hfft.curate.neighbours import votes
from hfft.data.sampling import stratified
from hfft.training.baselines import standardised
from hfft.trust.known import unit_rows

FOLDS = 5
STRENGTH = 0.01
"""Inverse regularisation of the probe, a logistic regression on standardised features."""
MOST_ROWS = 10_000
"""Most images that a probe learns from; more of them are sampled, keeping the class shares."""

_STEPS = 200  # of L-BFGS at most

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Opinion:
    """What probes say that have not seen the labels in question.

    Args:
        probabilities: of each class, shape (images, classes).
        labels: as given, shape (images,).
    """

    probabilities: Floats
    labels: Rows

    @property
    def given(self) -> Floats:
        """Probability of the label that each image has."""
        return self.probabilities[np.arange(len(self.labels)), self.labels]

    @property
    def suggestions(self) -> Rows:
        """The most probable label besides the one that each image has."""
        others = self.probabilities.copy()
        others[np.arange(len(self.labels)), self.labels] = -1
        return np.asarray(others.argmax(axis=1), np.int64)

    @property
    def confidences(self) -> Floats:
        """Probability of the suggestion."""
        return self.probabilities[np.arange(len(self.labels)), self.suggestions]

    @property
    def scores(self) -> Floats:
        """How well the label fits, -1 to 1, the worst first: roots of its probability less that of the suggestion.

        Roots tell an image that is surely not what its label says from one that may be either.
        """
        return np.asarray(np.sqrt(self.given) - np.sqrt(self.confidences), np.float64)

    def suspects(self) -> Rows:
        """Return the rows whose label a probe confidently contradicts, the worst first."""
        thresholds = self.thresholds()[self.suggestions]
        rows = np.flatnonzero((self.confidences >= thresholds) & (self.scores < 0))
        return rows[np.argsort(self.scores[rows], kind="stable")]

    def thresholds(self) -> Floats:
        """Return each class's mean probability among images of that label; 1 for a class without any."""
        count = self.probabilities.shape[1]
        sums = np.bincount(self.labels, self.given, minlength=count)
        sizes = np.bincount(self.labels, minlength=count)
        return np.where(sizes > 0, sums / np.maximum(sizes, 1), 1.0)


def cross_validated(views: Sequence[Floats], labels: Rows, seed: int) -> Opinion:
    """Form an opinion of each image from the labels of all others.

    Probes are asked twice: the second time they learn without the first opinion's suspects.

    Args:
        views: features of several kinds, shape (images, features) each.
        labels: shape (images,), from 0; two different ones at least, each of two images at least.
        seed: of the folds.
    """
    folds, count, rows = _folds(labels, seed), int(labels.max()) + 1, np.arange(len(labels))
    near = [votes(unit_rows(view), rows, rows, labels, count) for view in views]
    with bar(total=2 * len(views) * len(folds), desc="Probes", unit="fit") as progress:

        def ask(view: Floats, trusted: NDArray[np.bool_]) -> Floats:
            probabilities = np.zeros((len(labels), count))
            for held_out in folds:
                learned = np.setdiff1d(np.flatnonzero(trusted), held_out)
                probabilities[held_out] = fitted(view, labels, learned, seed)(view[held_out])
                progress.update()
            return probabilities

        everything = np.ones(len(labels), bool)
        first = Opinion(np.mean([*near, *(ask(view, everything) for view in views)], axis=0), labels)
        trusted = trusted_rows(first)
        return Opinion(np.mean([*near, *(ask(view, trusted) for view in views)], axis=0), labels)


def opinion_of_others(views: Sequence[Floats], labels: Rows, learning: Rows, asked: Rows, seed: int) -> Opinion:
    """Form an opinion of images from whose labels nothing is learned.

    Args:
        views: features of several kinds, of all images.
        labels: of all images.
        learning: rows to learn from; suspects are best left out.
        asked: rows that the opinion is about.
        seed: of the sample of very many images.
    """
    count = int(labels.max()) + 1
    said = [fitted(view, labels, learning, seed)(view[asked]) for view in views]
    said += [votes(unit_rows(view), asked, learning, labels, count) for view in views]
    return Opinion(np.mean(said, axis=0), labels[asked])


def fitted(features: Floats, labels: Rows, rows: Rows, seed: int) -> Callable[[Floats], Floats]:
    """Fit a logistic regression on some rows; return its probabilities as a function of features.

    Classes that none of the rows has get the probability 0.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    count = int(labels.max()) + 1
    if len(rows) > max(MOST_ROWS, count):
        rows = rows[stratified(labels[rows], max(MOST_ROWS, count), seed)]
    mean, deviation = standardised(features[rows])
    probe = LogisticRegression(C=STRENGTH, max_iter=_STEPS)
    # On busy cores several threads wait for each other; the last step is as good as is needed.
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit((features[rows] - mean) / deviation, labels[rows])

    def probabilities(asked: Floats) -> Floats:
        found = np.zeros((len(asked), count))
        if len(asked):
            found[:, probe.classes_] = probe.predict_proba((asked - mean) / deviation)
        return found

    return probabilities


def trusted_rows(opinion: Opinion) -> NDArray[np.bool_]:
    """Return which rows are not suspect; of a class that would lose all its rows but one, all are trusted."""
    trusted = np.ones(len(opinion.labels), bool)
    trusted[opinion.suspects()] = False
    left = np.bincount(opinion.labels[trusted], minlength=opinion.probabilities.shape[1])
    return trusted | (left < 2)[opinion.labels]


def _folds(labels: Rows, seed: int) -> list[Rows]:
    """Part the rows into folds, those of each class spread evenly over them."""
    random = np.random.RandomState(seed % 2**32)
    order = random.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    count = min(FOLDS, len(labels))
    return [np.sort(order[start::count]) for start in range(count)]
