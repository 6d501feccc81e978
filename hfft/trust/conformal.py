"""Sets of labels that hold the right one as often as asked: split conformal prediction.

Sadinle, Lei and Wasserman, "Least ambiguous set-valued classifiers with bounded error levels", Journal of the American
Statistical Association 114, 2019; the quantile is that of Vovk, Gammerman and Shafer, "Algorithmic learning in a random
world", 2005. Over images that come as the held-out ones came, the set holds the right label in at least the share that
was asked for: on average over all images, not within each class, and not for images of another kind. Where training
images speak as well, through models of folds that had not seen them, this is the cross-conformal predictor of Vovk,
"Cross-conformal predictors", Annals of Mathematics and Artificial Intelligence 74, 2015.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def upper_quantile(scores: NDArray[Any], share: float) -> float:
    """Return what the score of one more image exceeds with a probability of 1 - share at most.

    Args:
        scores: of held-out images, shape (images,).
        share: 0 to 1.

    Returns:
        The ceil((images + 1) share)-th smallest score; infinity where there are too few images to tell.
    """
    place = math.ceil((len(scores) + 1) * share - 1e-9)
    return math.inf if place > len(scores) else float(np.sort(scores)[place - 1])


def label_sets(probabilities: NDArray[Any], truth: NDArray[Any], coverage: float) -> list[list[int]]:
    """Return for each image the labels that are probable enough, the most probable first, and at least one.

    Args:
        probabilities: shape (images, labels).
        truth: probability of the true label of each held-out image, shape (others,).
        coverage: how often the set is to hold the right label, 0 to 1.
    """
    least = 1 - upper_quantile(1 - np.asarray(truth, np.float64), coverage)
    order = np.argsort(-probabilities, axis=1, kind="stable")
    counts = np.maximum((probabilities >= least - 1e-7).sum(axis=1), 1)
    return [row[:count].tolist() for row, count in zip(order, counts, strict=True)]
