"""How far an image is from the training images, by features of unit length.

Mahalanobis distances are those of Lee, Lee, Lee and Shin, "A simple unified framework for detecting out-of-distribution
samples and adversarial attacks" (NeurIPS 2018): to the nearest class mean, with one covariance for all classes, here
shrunk as Ledoit and Wolf do, "A well-conditioned estimator for large-dimensional covariance matrices" (Journal of
Multivariate Analysis, 2004). The distance to the k-th nearest training image is that of Sun, Ming, Zhu and Li,
"Out-of-distribution detection with deep nearest neighbors" (ICML 2022).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

NEIGHBOUR = 5
"""Which nearest training image the distance goes to, where its class has so many."""
_TINY = float(np.finfo(np.float32).tiny)
_ROUNDING = float(np.finfo(np.float16).eps)  # of a row of length 1, as it is stored


@dataclass(frozen=True)
class Neighbours:
    """One less the cosine to the `place`-th nearest known image.

    Args:
        known: features of unit length, shape (images, features).
        place: from 1.
    """

    known: NDArray[np.float32]
    place: int

    def __call__(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        """Return the distance of each row of unit length, shape (rows,)."""
        similarity = rows @ self.known.T
        return 1 - np.partition(similarity, -self.place, axis=1)[:, -self.place].astype(np.float64)


@dataclass(frozen=True)
class Whitened:
    """The Mahalanobis distance to the nearest class mean, as a plain distance in a space where classes vary by 1.

    Args:
        centre: which is taken from features first, shape (features,).
        matrix: which then takes them to that space, shape (features, features).
        means: of the classes, there, shape (classes, features).
    """

    centre: NDArray[np.float64]
    matrix: NDArray[np.float64]
    means: NDArray[np.float64]

    def __call__(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        """Return the distance of each row of unit length, shape (rows,)."""
        placed = (np.where(rows.any(axis=1, keepdims=True), rows, self.opposite) - self.centre) @ self.matrix
        nearest = (self.halves - placed @ self.means.T).argmin(axis=1)
        # Only the nearest mean is subtracted: differences of squares would lose the digits of what lies close to it.
        return np.asarray(np.linalg.norm(placed - self.means[nearest], axis=1), np.float64)

    @property
    def opposite(self) -> NDArray[np.float64]:
        """What a row of zeros is taken for, since it is like no image: the direction opposite to all."""
        return np.asarray(-self.centre / max(float(np.linalg.norm(self.centre)), _TINY), np.float64)

    @property
    def halves(self) -> NDArray[np.float64]:
        """Half the squared length of each mean: less the products with a row, they are in order of its distances."""
        return np.asarray((self.means**2).sum(axis=1) / 2, np.float64)


Distance = Neighbours | Whitened
"""From features of unit length, shape (images, features), to one distance for each image, shape (images,)."""


def neighbour_distance(known: NDArray[Any], labels: NDArray[np.int64]) -> Neighbours:
    """Return the distance to the `NEIGHBOUR`-th nearest known image; to a nearer one of small classes."""
    return Neighbours(known.astype(np.float32), neighbour_place(labels))


def neighbour_place(labels: NDArray[np.int64]) -> int:
    """Return which nearest known image the distance goes to: one that a class of middling size has twice over."""
    counts = np.bincount(labels)
    return min(NEIGHBOUR, max(1, int(np.median(counts[counts > 0])) // 2))


def mahalanobis_distance(known: NDArray[Any], labels: NDArray[np.int64]) -> Whitened:
    """Return the Mahalanobis distance to the nearest class mean.

    Args:
        known: features of unit length, in the precision of float16, shape (images, features).
        labels: class of each, shape (images,).
    """
    from scipy.linalg.lapack import dtrtri
    from threadpoolctl import threadpool_limits

    rows = known.astype(np.float64)
    classes, members = np.unique(labels, return_inverse=True)
    means = np.stack([rows[members == place].mean(axis=0) for place in range(len(classes))])
    with threadpool_limits(1):  # on busy cores several threads take ten times as long
        factor = np.linalg.cholesky(shrunk_covariance(rows - means[members]))
        matrix = np.ascontiguousarray(dtrtri(factor, lower=1)[0].T)
    centre = rows.mean(axis=0)
    return Whitened(centre, matrix, (means - centre) @ matrix)


def shrunk_covariance(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Ledoit-Wolf covariance of centred rows, shape (features, features).

    Sums of squares in place of products of all pairs give what scikit-learn's `ledoit_wolf` gives in a tenth of its
    time. In no direction is the variance less than what rounding to float16 may add to a row of length 1, so that
    features which do not vary tell nothing by their last digits.
    """
    count, size = rows.shape
    covariance = rows.T @ rows / count
    mean, squares = np.trace(covariance) / size, (covariance**2).sum()
    apart = squares - size * mean**2  # from a multiple of the identity
    noise = (np.square((rows**2).sum(axis=1)).mean() - squares) / count
    shrinkage = min(noise / apart, 1.0) if apart > 0 else 0.0
    covariance *= 1 - shrinkage
    covariance.flat[:: size + 1] += max(shrinkage * mean, _ROUNDING**2 / size)
    return np.asarray(covariance, np.float64)


DISTANCES: dict[str, Callable[[NDArray[Any], NDArray[np.int64]], Distance]] = {
    "mahalanobis": mahalanobis_distance,
    "neighbours": neighbour_distance,
}
"""By the name that stands in a run's file: from features of unit length and labels to a distance."""
