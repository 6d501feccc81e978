"""How good answers to images are by the metric that decides, and what tells them from other answers to the same images.

An accuracy is a mean over images, whose intervals are known. Average precision and R2 are not: their images are drawn
again, with replacement (Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapters 10 and 12).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hfft.bars import bar
from hfft.metrics import BOOTSTRAP, WILSON, WORDS, counted, difference_error, wilson_interval
from hfft.wording import count_of

DRAWS = 1000
"""Samples of the images, as many images each."""
FEWEST = 100
"""Samples of a set so large that `DRAWS` of them would take minutes."""
LEVEL = 0.95
_REACH = NormalDist().inv_cdf((1 + LEVEL) / 2)
_WORK = 2 * 10**8  # answers, of an image to a label or target, that are looked at in all samples together
_ROUNDING = 1e-12  # share of a variance that is none
_SURE = 1e-3  # least variance of an image's outcome: nothing is certain


class Scored(ABC):
    """How good answers are.

    Attributes:
        method: whose the interval is.
        metric: that decides; higher is better, and 1 is the most that it can be.
        images: that were answered.
    """

    method: ClassVar[str]
    metric: str
    images: int

    def __repr__(self) -> str:
        """Return a line: an answer for each image is too much for one."""
        return f"{type(self).__name__}({self.said}, {count_of(self.images, 'image')})"

    @property
    @abstractmethod
    def score(self) -> float:
        """The metric."""

    @property
    @abstractmethod
    def interval(self) -> tuple[float, float]:
        """Its interval at `LEVEL`, of all images as one sample."""

    @abstractmethod
    def error(self, other: Any) -> float:
        """Return the standard error of the difference from other answers, of the same kind, to the same images."""

    @abstractmethod
    def spread(self, score: float, images: int) -> float:
        """Return the standard error of such a score on so many images like these."""

    @property
    def said(self) -> str:
        """The score with three decimals, and what it is."""
        return f"{WORDS[self.metric].name} {self.score:.3f}"


@dataclass(frozen=True, eq=False, repr=False)
class Right(Scored):
    """Answers that are right or wrong.

    Args:
        correct: whether each is right, shape (images,).
    """

    correct: NDArray[np.bool_]

    method = WILSON
    metric = "accuracy"

    @property
    def images(self) -> int:  # type: ignore[override]
        """That were answered."""
        return len(self.correct)

    @property
    def score(self) -> float:
        """Share of images that were labelled rightly, 0 to 1."""
        return float(self.correct.mean())

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval of the accuracy."""
        return wilson_interval(int(self.correct.sum()), len(self.correct), LEVEL)

    def error(self, other: Right) -> float:
        """Return `hfft.metrics.difference_error`."""
        return difference_error(self.correct, other.correct)

    def spread(self, score: float, images: int) -> float:
        """Return the binomial standard error."""
        return float(np.sqrt(max(score * (1 - score), _SURE) / images))

    @property
    def said(self) -> str:
        """The accuracy, with its count on few images."""
        return counted(self.score, self.images)


@dataclass(frozen=True, eq=False, repr=False)
class Resampled(Scored):
    """Answers that are ranked, or numbers: their metric is of all images together.

    Args:
        metric: that decides.
        images: that were answered.
        weighted: from how often each image counts, shape (images,), to the metric, which is not a number where it has
            no meaning.
        outputs: labels or targets.
    """

    metric: str
    images: int
    weighted: Callable[[NDArray[Any]], float]
    outputs: int = 1

    method = BOOTSTRAP

    @cached_property
    def score(self) -> float:
        """The metric of the images as they are."""
        return self.weighted(np.ones(self.images))

    @cached_property
    def draws(self) -> NDArray[np.float64]:
        """The metric of each sample, shape (draws,); samples are the same for all answers to as many images."""
        random, even = np.random.RandomState(0), np.full(self.images, 1 / self.images)
        count = min(max(_WORK // (self.images * self.outputs), FEWEST), DRAWS)
        samples = (random.multinomial(self.images, even) for _ in bar(range(count), desc="Bootstrap", unit="sample"))
        found: NDArray[np.float64] = np.array([self.weighted(times) for times in samples])
        return found[np.isfinite(found)]

    @property
    def interval(self) -> tuple[float, float]:
        """What the samples' metrics spread, around the metric without what they lie above it on average, 1 at most.

        An image that is drawn twice is ranked beside itself, so that average precision is too high in samples, as it is
        in few images: their percentiles would hold the metric of many images half as often as they say.
        """
        if not len(self.draws):
            return float("nan"), float("nan")
        middle, reach = 2 * self.score - self.draws.mean(), _REACH * self.draws.std()
        return float(min(middle - reach, 1.0)), float(min(middle + reach, 1.0))

    def error(self, other: Resampled) -> float:
        """Return the deviation of the samples' differences."""
        return _deviation(self.draws - other.draws)

    def spread(self, score: float, images: int) -> float:
        """Return the deviation of the samples' metrics, for as many images."""
        return _deviation(self.draws) * float(np.sqrt(self.images / images))


def _deviation(draws: NDArray[np.float64]) -> float:
    """Return the standard deviation; not a number where no sample has a metric."""
    return float(draws.std()) if len(draws) else float("nan")


def weighted_map(scores: NDArray[Any], having: NDArray[np.bool_]) -> Callable[[NDArray[Any]], float]:
    """Return mean average precision as a function of how often each image counts; both are (images, labels).

    It is that of `hfft.evaluation.AveragePrecision` where each counts once. Labels that no image has are left out.
    """
    order = np.argsort(-scores, axis=0, kind="stable")
    ranked, having = np.take_along_axis(scores, order, 0), np.take_along_axis(having, order, 0)
    # Images of one score stand at one rank, which is that of the last of them.
    ends = np.vstack([ranked[1:] != ranked[:-1], np.ones((1, ranked.shape[1]), bool)])
    places = np.where(ends, np.arange(len(ranked))[:, None], len(ranked))
    last = np.minimum.accumulate(places[::-1], axis=0)[::-1]

    def metric(weights: NDArray[Any]) -> float:
        counts = np.asarray(weights, np.float64)[order]
        found = counts * having
        hits, seen = (np.take_along_axis(each.cumsum(axis=0), last, 0) for each in (found, counts))
        totals = found.sum(axis=0)
        there = totals > 0
        precision = (found * hits / np.maximum(seen, 1)).sum(axis=0)[there] / totals[there]
        return float(precision.mean()) if there.any() else float("nan")

    return metric


def weighted_r2(values: NDArray[Any], targets: NDArray[Any]) -> Callable[[NDArray[Any]], float]:
    """Return R2, its mean over targets, as a function of how often each image counts; both are (images, targets).

    It is scikit-learn's where each counts once: of a target that does not vary, 1 where it is met and 0 elsewhere.
    """
    wide = np.asarray(targets, np.float64)
    truth = wide - wide[:1]  # so that what does not vary is 0 to the last bit
    squares = (np.asarray(values, np.float64) - wide) ** 2
    least = _ROUNDING * truth.var(axis=0)  # a sample may hold one image alone

    def metric(weights: NDArray[Any]) -> float:
        shares = np.asarray(weights, np.float64)[:, None] / np.sum(weights)
        mean = (shares * truth).sum(axis=0)
        variance, error = (shares * (truth - mean) ** 2).sum(axis=0), (shares * squares).sum(axis=0)
        flat = np.where(error > 0, 0.0, 1.0)
        varies = variance > least
        return float(np.where(varies, 1 - error / np.where(varies, variance, 1), flat).mean())

    return metric
