"""Which images are near each other, and which are far from all, by the cosine of their features."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hfft.bars import bar

NEAREST = 5
"""An image's distance from all others is that from its fifth nearest neighbour."""
MOST_OTHERS = 20_000
"""Most images that neighbours are looked for among; more of them are sampled evenly."""
VOTERS = 20
"""Nearest neighbours that say what an image is."""
_REACH = 0.1  # in cosine
_DOUBT = 1e-3  # of a vote, for classes that no neighbour has
_BLOCK = 512


def nearest(
    unit: NDArray[np.float32], rows: NDArray[np.int64], count: int, among: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the nearest other images of some images, the nearest first, with their cosines.

    Args:
        unit: what `unit_rows` returns, of all images.
        rows: those that are asked about.
        count: of neighbours.
        among: rows that may be neighbours; by default all.

    Returns:
        Rows and cosines, shape (len(rows), neighbours); where an image is itself `among` the rows it is left out, and
        so has one candidate less.
    """
    others = np.arange(len(unit)) if among is None else among
    others = others[np.unique(np.linspace(0, len(others) - 1, min(len(others), MOST_OTHERS)).astype(np.int64))]
    most = min(count, len(others) - 1)
    found, cosines = [], []
    for start in bar(range(0, len(rows), _BLOCK), desc="Neighbours", unit="block"):
        block = rows[start : start + _BLOCK]
        products = unit[block] @ unit[others].T
        products[block[:, None] == others[None, :]] = -np.inf
        best = np.argpartition(-products, most - 1, axis=1)[:, :most] if most else np.empty((len(block), 0), np.int64)
        values = np.take_along_axis(products, best, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        found.append(others[np.take_along_axis(best, order, axis=1)])
        cosines.append(np.take_along_axis(values, order, axis=1))
    if not found:
        return np.empty((0, most), np.int64), np.empty((0, most), np.float32)
    return np.concatenate(found), np.concatenate(cosines)


def votes(
    unit: NDArray[np.float32], rows: NDArray[np.int64], voters: NDArray[np.int64], labels: NDArray[np.int64], count: int
) -> NDArray[np.float64]:
    """Return what the neighbours of images say they are: shares of each class among the `VOTERS` nearest.

    The nearest neighbour counts most, one that is further by 0.1 in cosine by a factor e less.

    Args:
        unit: of all images.
        rows: those that are asked about.
        voters: rows whose labels count; an image has no vote on itself.
        labels: of all images.
        count: of classes.
    """
    neighbours, cosines = nearest(unit, rows, VOTERS, voters)
    weights = np.exp((cosines - cosines[:, :1]) / _REACH)
    shares = np.full((len(rows), count), _DOUBT)
    np.add.at(shares, (np.arange(len(rows))[:, None], labels[neighbours]), weights)
    return np.asarray(shares / shares.sum(axis=1, keepdims=True), np.float64)


def far_from_all(unit: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the images that are far from everything, the farthest first, and every image's distance.

    The distance from the k-th nearest neighbour among features of length 1 is that of Sun et al. ("Out-of-distribution
    detection with deep nearest neighbors", ICML 2022). Far is beyond the fence of Tukey (1977): 1.5 times the middle
    half of all distances above the upper quartile, in logarithms.
    """
    if len(unit) < 4 * NEAREST:
        return np.empty(0, np.int64), np.zeros(len(unit), np.float32)
    _, cosines = nearest(unit, np.arange(len(unit)), NEAREST)
    distances = np.maximum(1 - cosines[:, -1], 1e-6)
    rows = np.flatnonzero(distances > np.exp(upper_fence(np.log(distances))))
    return rows[np.argsort(-distances[rows], kind="stable")], distances


def upper_fence(values: NDArray[np.floating]) -> float:
    """Return Tukey's fence above the values."""
    low, high = np.percentile(values, [25, 75])
    return float(high + 1.5 * (high - low))
