"""Numbers of how good a classifier is, from logits and labels alone; `hfft.evaluation` adds those of `evaluate`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfft.errors import DataError

ECE_BINS = 15
TOP_K = 5
FEW_IMAGES = 100
"""Below so many, an accuracy is shown with its count."""
WILSON = "Wilson"
BOOTSTRAP = "the bias-corrected bootstrap"
NEWCOMBE = "Newcombe's for paired proportions"
_CHUNK = 8192  # images turned into float64 at a time, which bounds memory at 1,000 labels to 64 MB


@dataclass(frozen=True)
class Reliability:
    """What a reliability figure shows: bins of equal width over confidence, each (lower, upper].

    Args:
        counts: images per bin, shape (bins,).
        confidence: mean confidence per bin, 0 to 1, NaN where a bin is empty, shape (bins,).
        accuracy: share of right predictions per bin, NaN where a bin is empty, shape (bins,).
    """

    counts: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    @property
    def error(self) -> float:
        """The expected calibration error: the bins' gaps, weighted by their images (Guo et al., 2017, eq. 3)."""
        used = self.counts > 0
        gaps = np.abs(self.confidence[used] - self.accuracy[used])
        return float(np.average(gaps, weights=self.counts[used]))


def probabilities(logits: NDArray[Any], temperature: float) -> NDArray[np.float32]:
    """Return the probabilities that logits stand for: whatever shows a probability asks here.

    Args:
        logits: shape (images, labels).
        temperature: that the logits are divided by, above 0; see `hfft.trust.calibration`. 1 is the plain softmax.

    Returns:
        Of the same shape, each row summing to 1.
    """
    found = np.empty(logits.shape, np.float32)
    for start in range(0, len(logits), _CHUNK):
        found[start : start + _CHUNK] = np.exp(log_probabilities(logits[start : start + _CHUNK], temperature))
    return found


def log_probabilities(logits: NDArray[Any], temperature: float) -> NDArray[np.float64]:
    """Return the natural logarithms of `probabilities`, exact where those are too small for a number."""
    rows: NDArray[np.float64] = np.asarray(logits, dtype=np.float64) / temperature
    rows = rows - rows.max(axis=1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return rows


def reliability(confidences: NDArray[Any], correct: NDArray[np.bool_], bins: int = ECE_BINS) -> Reliability:
    """Sort predictions into bins by how confident they were (Guo et al., ICML 2017).

    Args:
        confidences: probability of each predicted label, 0 to 1, shape (images,).
        correct: whether each prediction is right, shape (images,).
        bins: how many bins of equal width.

    Raises:
        DataError: there are no images.
    """
    if len(confidences) == 0:
        raise DataError("there are no images to evaluate; give at least one")
    values = np.asarray(confidences, dtype=np.float64)
    # The bin of a confidence that is not a number does not matter: its mean becomes NaN, and so the error.
    index = np.clip(np.ceil(np.nan_to_num(values) * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(index, weights=values, minlength=bins) / counts
        accuracy = np.bincount(index, weights=correct, minlength=bins) / counts
    return Reliability(counts, confidence, accuracy)


def reliability_of(logits: NDArray[Any], labels: NDArray[Any], temperature: float) -> Reliability:
    """Return `reliability` for logits (images, labels), their temperature, and true labels (images,)."""
    check_shapes(logits, labels)
    ranked, confidences, _ = reduce_logits(logits, labels, 1, temperature)
    return reliability(confidences, ranked[:, 0] == labels)


def confusion(logits: NDArray[Any], labels: NDArray[Any], n: int) -> NDArray[np.int64]:
    """Return how many images of each true label (rows) were given each label (columns), shape (n, n)."""
    check_shapes(logits, labels)
    pairs = np.asarray(labels, dtype=np.int64) * n + logits.argmax(axis=1)
    return np.asarray(np.bincount(pairs, minlength=n * n).reshape(n, n))


def class_confidence(probabilities: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean probability of the label of the images that are given each label, NaN where none is.

    Args:
        probabilities: shape (images, labels).
    """
    images, labels = probabilities.shape
    chosen = probabilities.argmax(axis=1)
    with np.errstate(invalid="ignore"):
        sums = np.bincount(chosen, weights=probabilities[np.arange(images), chosen], minlength=labels)
        return np.asarray(sums / np.bincount(chosen, minlength=labels), dtype=np.float64)


def per_class(
    matrix: NDArray[np.int64], labels: list[str], confidence: NDArray[np.float64] | None = None
) -> list[ClassRow]:
    """Return precision, recall, F1, support and confidence of each class, in the order of the labels.

    Args:
        matrix: what `confusion` returns, shape (labels, labels).
        labels: the classes' names.
        confidence: what `class_confidence` returns, shape (labels,).
    """
    given = [None] * len(labels) if confidence is None else confidence.tolist()
    sure = [value if value is not None and math.isfinite(value) else None for value in given]
    hits = np.diag(matrix).astype(np.float64)
    predicted, support = matrix.sum(axis=0), matrix.sum(axis=1)
    precision = hits / np.maximum(predicted, 1)
    recall = hits / np.maximum(support, 1)
    f1 = 2 * hits / np.maximum(predicted + support, 1)
    return [
        ClassRow(label, float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]), sure[i])
        for i, label in enumerate(labels)
    ]


def wilson_interval(correct: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion (Wilson, J. Am. Stat. Assoc. 22, 1927, 209-212).

    Brown, Cai and DasGupta ("Interval estimation for a binomial proportion", Statistical Science 16, 2001) advise
    it for small samples: unlike the bootstrap's, it keeps near its level where nearly all predictions are right.

    Args:
        correct: how many predictions are right.
        total: how many there are.
        level: how often the interval is to hold the true accuracy, over many samples of images.

    Raises:
        DataError: there are no images.
    """
    if total == 0:
        raise DataError("there are no images to evaluate; give at least one")
    share, square = correct / total, _quantile(level) ** 2
    middle = share + square / (2 * total)
    half = math.sqrt(square * (share * (1 - share) / total + square / (4 * total**2)))
    low, high = ((middle + sign * half) / (1 + square / total) for sign in (-1, 1))
    return (low if correct else 0.0), (high if correct < total else 1.0)


def paired_difference(correct: NDArray[np.bool_], other: NDArray[np.bool_], level: float = 0.95) -> PairedDifference:
    """Compare the accuracies of two models on the same images.

    The interval is method 10 of Newcombe ("Improved confidence intervals for the difference between binomial
    proportions based on paired data", Statistics in Medicine 17, 1998, 2635-2650), made of Wilson's; the p-value is
    that of McNemar's test (Psychometrika 12, 1947, 153-157) in its exact form: among the images that only one of
    the models labels rightly, are they as often the one as the other?

    Args:
        correct: whether each prediction of the one is right, shape (images,).
        other: the same of the other model.
        level: of the interval.

    Raises:
        DataError: there are no images, or not equally many.
    """
    if len(correct) != len(other):
        raise DataError(f"{len(correct)} and {len(other)} predictions are not of the same images")
    total, counts = len(correct), (int(correct.sum()), int(other.sum()))
    limits = [wilson_interval(count, total, level) for count in counts]
    (down, up), (other_down, other_up) = (
        (count / total - low, high - count / total) for count, (low, high) in zip(counts, limits, strict=True)
    )
    correlation = _correlation(correct, other)
    value = (counts[0] - counts[1]) / total
    low = value - _summed(down, other_up, correlation)
    high = value + _summed(up, other_down, correlation)
    return PairedDifference(value, max(low, -1.0), min(high, 1.0), _mcnemar(correct, other), level)


def _summed(one: float, other: float, correlation: float) -> float:
    return math.sqrt(max(one**2 - 2 * correlation * one * other + other**2, 0.0))


def _correlation(correct: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Return the phi coefficient, positive ones corrected for continuity, as in Newcombe's method 10."""
    total, one, two = len(correct), int(correct.sum()), int(other.sum())
    margins = one * (total - one) * two * (total - two)
    if not margins:
        return 0.0
    covariance = float(total * int((correct & other).sum()) - one * two)
    return (max(covariance - total / 2, 0.0) if covariance > 0 else covariance) / math.sqrt(margins)


def _mcnemar(correct: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    from scipy.stats import binomtest

    first, second = int((correct & ~other).sum()), int((other & ~correct).sum())
    return float(binomtest(first, first + second).pvalue) if first + second else 1.0


def _quantile(level: float) -> float:
    """Return the standard normal's quantile that leaves half of what is outside the level above it."""
    return NormalDist().inv_cdf((1 + level) / 2)


@dataclass(frozen=True)
class Words:
    """What people read of a metric that decides which epoch is best.

    Args:
        name: within a sentence.
        meaning: on an axis.
        loss: what the loss beside it is, on an axis.
    """

    name: str
    meaning: str
    loss: str

    @property
    def title(self) -> str:
        """The name at the beginning of a line."""
        return self.name.capitalize() if self.name.islower() else self.name


WORDS = {
    "accuracy": Words("accuracy", "share of images", "cross-entropy (nats)"),
    "map": Words("mAP", "mean average precision", "binary cross-entropy (nats)"),
    "r2": Words("R2", "share of variance explained", "squared error (variances)"),
}


def difference_error(correct: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Return the standard error of the difference of two accuracies on the same images.

    Half an image is added to each of the four outcomes, or a single image that tells them apart would count as sure
    (Agresti and Min, "Simple improved confidence intervals for comparing matched proportions", 2005).

    Args:
        correct: whether each prediction of the one is right, shape (images,).
        other: the same of the other model.
    """
    only_one, only_other = (correct & ~other).sum() + 0.5, (other & ~correct).sum() + 0.5
    images = len(correct) + 2
    return float(np.sqrt(only_one + only_other - (only_one - only_other) ** 2 / images) / images)


def counted(accuracy: float, images: int) -> str:
    """Return an accuracy with three decimals, and beside it the count where a single image weighs 1 % or more."""
    if images >= FEW_IMAGES or not math.isfinite(accuracy):
        return f"{accuracy:.3f}"
    return f"{accuracy:.3f} ({round(accuracy * images)} of {images})"


def described(difference: PairedDifference) -> str:
    """Say a difference between two accuracies in a few words."""
    interval = f"{difference.level:.0%} interval {difference.low:+.3f} to {difference.high:+.3f}"
    return f"{difference.value:+.3f} ({interval}, {difference.method}; McNemar's exact p {difference.p:.2g})"


def check_shapes(logits: NDArray[Any], labels: NDArray[Any]) -> None:
    """Make sure that logits (images, labels) and true labels (images,) belong together.

    Raises:
        DataError: they do not, or there are no images.
    """
    if logits.ndim != 2 or labels.ndim != 1 or len(logits) != len(labels):
        raise DataError(f"logits of shape {logits.shape} and labels of shape {labels.shape} do not belong together")
    if len(labels) == 0:
        raise DataError("there are no images to evaluate; give at least one")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise DataError(
            f"labels from {labels.min()} to {labels.max()} do not fit a model with {logits.shape[1]} labels"
        )


def reduce_logits(
    logits: NDArray[Any], labels: NDArray[Any], k: int, temperature: float = 1.0
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Return each image's k most likely labels (images, k), best confidence (images,) and loss in nats (images,)."""
    ranked, confidences, losses = [], [], []
    for start in range(0, len(logits), _CHUNK):
        rows = log_probabilities(logits[start : start + _CHUNK], temperature)
        ranked.append(_ranked(rows, k))
        confidences.append(np.exp(rows.max(axis=1)))
        losses.append(-rows[np.arange(len(rows)), labels[start : start + _CHUNK]])
    return np.concatenate(ranked), np.concatenate(confidences), np.concatenate(losses)


def _ranked(rows: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """Return the k greatest columns of each row, greatest first; of equals the first, as argmax does."""
    ranked = np.empty((len(rows), k), dtype=np.int64)
    left = rows.copy()
    for place in range(k):
        ranked[:, place] = left.argmax(axis=1)
        left[np.arange(len(left)), ranked[:, place]] = -np.inf
    return ranked


@dataclass
class SplitMetrics:
    """Metrics of one split.

    Args:
        images: how many were evaluated.
        values: what `hfft.evaluation.classification_metrics` returns.
        intervals: by metric, the lower and upper end of its interval.
        level: how often such intervals hold the true value, over many samples of images.
        method: whose intervals they are; empty in records of versions that did not say.
        methods: by metric, whose interval it is where that is another one's.
    """

    images: int
    values: dict[str, float]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    level: float = 0.95
    method: str = ""
    methods: dict[str, str] = field(default_factory=dict)

    def method_of(self, metric: str) -> str:
        """Return whose interval a metric's is."""
        return self.methods.get(metric, self.method)


@dataclass(frozen=True)
class PairedDifference:
    """How much more accurate one model is than another on the same images.

    Args:
        value: the one's accuracy less the other's.
        low: lower end of the interval.
        high: upper end of the interval.
        p: of McNemar's exact test that both are equally accurate.
        level: of the interval.
        method: whose interval it is.
    """

    value: float
    low: float
    high: float
    p: float
    level: float = 0.95
    method: str = NEWCOMBE


@dataclass(frozen=True)
class ClassRow:
    """One line of the per-class table.

    Args:
        label: the class's name.
        precision: share of the images predicted to be of this class that are; 0 where none is.
        recall: share of this class's images that are recognised; 0 where there are none.
        f1: the harmonic mean of both.
        support: how many evaluated images are of this class.
        confidence: mean probability, 0 to 1, that the images predicted to be of this class were given for it; the
            precision is what it should be. None where no image is, and in records of versions that did not say.
    """

    label: str
    precision: float
    recall: float
    f1: float
    support: int
    confidence: float | None = None
