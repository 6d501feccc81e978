"""Accuracy where a model is surest: how right it is if the images that it is least sure of are left to people.

El-Yaniv and Wiener, "On the foundations of noise-free selective classification", Journal of Machine Learning Research
11, 2010; Geifman and El-Yaniv, "Selective classification for deep neural networks", NeurIPS 2017.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

COVERAGES = (1.0, 0.95, 0.9, 0.8)
"""Shares of the images, the surest ones, whose accuracy is shown."""


@dataclass(frozen=True)
class CoverageRow:
    """The accuracy on the images that a model is surest of.

    Args:
        coverage: share of all images, 0 to 1.
        images: how many that are.
        correct: how many of them are labelled rightly.
        probability: the least probability among them: asking for it leaves this share.
    """

    coverage: float
    images: int
    correct: int
    probability: float

    @property
    def accuracy(self) -> float:
        """Share of those images that are labelled rightly, 0 to 1."""
        return self.correct / self.images


@dataclass(frozen=True)
class Selective:
    """How well a model knows when it is wrong.

    Args:
        rows: one for each of `COVERAGES`.
        auroc: probability that a right answer is given a higher probability than a wrong one; None where all answers
            are right, or all are wrong.
    """

    rows: list[CoverageRow] = field(default_factory=list)
    auroc: float | None = None


def selective(confidence: NDArray[Any], correct: NDArray[np.bool_]) -> Selective:
    """Return the accuracy on the surest images, and how well confidence tells right from wrong.

    Args:
        confidence: probability of each predicted label, shape (images,).
        correct: whether each is right, shape (images,).
    """
    order = np.argsort(-confidence, kind="stable")
    rows = []
    for coverage in COVERAGES:
        kept = order[: max(1, math.ceil(coverage * len(order) - 1e-9))]
        rows.append(CoverageRow(coverage, len(kept), int(correct[kept].sum()), float(confidence[kept[-1]])))
    return Selective(rows, auroc(confidence[correct], confidence[~correct]))


def auroc(higher: NDArray[Any], lower: NDArray[Any]) -> float | None:
    """Return the probability that one of `higher` exceeds one of `lower`, ties counting half; None without either."""
    from scipy.stats import rankdata

    if not len(higher) or not len(lower):
        return None
    ranks = rankdata(np.concatenate([higher, lower]))[: len(higher)]
    return float((ranks.sum() - len(higher) * (len(higher) + 1) / 2) / (len(higher) * len(lower)))
