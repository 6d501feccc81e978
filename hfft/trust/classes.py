"""What is left of a run's training images for more classes to join it: statistics of their features, and who they were.

Classes are taken for normal distributions with one covariance, whose closed form is a linear layer (Fisher 1936; with
shrinkage, Friedman 1989). Statistics of two sets of images add up, so that new ones join without the old ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hfft.errors import ModelError

SHRINKAGE = 0.8
"""Share of the covariance that is replaced by as much noise in all directions alike."""
_TINY = 1e-12
_BYTES = 16  # of an image's SHA-256


@dataclass(frozen=True)
class ClassStatistics:
    """Count, mean and spread of what the head reads of the images of each class.

    Args:
        counts: images of each class, shape (classes,).
        means: shape (classes, features); zeros for a class without images.
        spread: shape (rows, features), at most as many rows as features: its product with itself transposed is the
            scatter of all images around the means of their classes.
    """

    counts: NDArray[np.int64]
    means: NDArray[np.float64]
    spread: NDArray[np.float64]

    @classmethod
    def of(cls, features: NDArray[Any], labels: NDArray[np.int64], classes: int) -> ClassStatistics:
        """Compute them.

        Args:
            features: shape (images, features).
            labels: number of each image's class, shape (images,).
            classes: how many there are.
        """
        rows = np.asarray(features, np.float64)
        counts = np.bincount(labels, minlength=classes).astype(np.int64)
        means = np.zeros((classes, rows.shape[1]))
        np.add.at(means, labels, rows)
        means /= np.maximum(counts, 1)[:, None]
        return cls(counts, means, _compressed(rows - means[labels]))

    def widened(self, classes: int) -> ClassStatistics:
        """Return the same with more classes, of which there are no images."""
        more = classes - len(self.counts)
        return ClassStatistics(np.pad(self.counts, (0, more)), np.pad(self.means, ((0, more), (0, 0))), self.spread)

    def joined(self, other: ClassStatistics) -> ClassStatistics:
        """Return the statistics of the images of both, which have the same classes."""
        counts = self.counts + other.counts
        each = np.maximum(counts, 1)[:, None]
        means = (self.counts[:, None] * self.means + other.counts[:, None] * other.means) / each
        weight = np.sqrt(self.counts * other.counts / np.maximum(counts, 1))
        moved = (weight[:, None] * (self.means - other.means))[weight > 0]
        return ClassStatistics(counts, means, _compressed(np.concatenate([self.spread, other.spread, moved])))

    def layer(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return weight (classes, features) and bias (classes,) of the linear discriminants, all classes as probable.

        That of a class without images is the mean one.
        """
        known = self.counts > 0
        images, width = int(self.counts.sum()), self.means.shape[1]
        degrees = max(images - int(known.sum()), 1)
        noise = max(float(np.square(self.spread).sum()) / degrees / width, _TINY)
        weight = np.zeros_like(self.means)
        weight[known] = _solved(self.spread / math.sqrt(degrees), self.means[known], noise)
        bias = -0.5 * (weight * self.means).sum(axis=1)
        weight[~known], bias[~known] = weight[known].mean(axis=0), bias[known].mean()
        return weight, bias

    def second_moment(self, weight: NDArray[np.float64], other: NDArray[np.float64]) -> float:
        """Return the sum over all images, and over classes, of the product of two layers' centred outputs.

        Args:
            weight: shape (classes, features).
            other: shape (classes, features).
        """
        centre = (self.counts[:, None] * self.means).sum(axis=0) / max(int(self.counts.sum()), 1)
        rows = np.concatenate([self.spread, np.sqrt(self.counts)[:, None] * (self.means - centre)])
        return float(((rows @ weight.T) * (rows @ other.T)).sum())


def extended_layer(
    weight: NDArray[Any], bias: NDArray[Any], statistics: ClassStatistics
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a trained layer with a row for each class that it lacks; its own rows stay as they are.

    The closed form is first brought to the scale of the trained layer, by least squares over the images. A new class is
    where the closed form puts it, beside the mean of the trained rows.

    Args:
        weight: of the trained layer, shape (classes, features).
        bias: shape (classes,).
        statistics: of its classes and of the new ones behind them.
    """
    old = len(weight)
    closed, offset = statistics.layer()
    known = np.flatnonzero(statistics.counts[:old])
    images = ClassStatistics(statistics.counts[known], statistics.means[known], statistics.spread)
    trained, alike = _centred(np.asarray(weight, np.float64)[known]), _centred(closed[known])
    scale = images.second_moment(trained, alike) / max(images.second_moment(alike, alike), _TINY)
    rows = weight.mean(axis=0) + scale * (closed[old:] - closed[known].mean(axis=0))
    biases = bias.mean() + scale * (offset[old:] - offset[known].mean())
    return np.concatenate([weight, rows]), np.concatenate([bias, biases])


def _centred(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    centred: NDArray[np.float64] = weight - weight.mean(axis=0)
    return centred


def _compressed(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return at most as many rows as columns with the same product with themselves transposed."""
    if len(rows) <= rows.shape[1]:
        return rows
    return np.asarray(np.linalg.qr(rows, mode="r"), np.float64)


def _solved(spread: NDArray[np.float64], means: NDArray[np.float64], noise: float) -> NDArray[np.float64]:
    """Return each mean times the inverse of the shrunk covariance, shape (classes, features)."""
    from scipy.linalg import solve

    covariance = (1 - SHRINKAGE) * spread.T @ spread
    covariance.flat[:: len(covariance) + 1] += SHRINKAGE * noise
    solved: NDArray[np.float64] = solve(covariance, means.T, assume_a="pos").T
    return solved


@dataclass(frozen=True)
class Kept:
    """What a run keeps of its images.

    Args:
        statistics: of the training images, or of a sample.
        contents: by split, the beginning of the SHA-256 of each image's file, shape (images, 16).
        labels: by split, the number of each image's class, shape (images,).
    """

    statistics: ClassStatistics
    contents: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    labels: Mapping[str, NDArray[np.int64]] = field(default_factory=dict)


def digests(contents: Sequence[str]) -> NDArray[np.uint8]:
    """Return the beginnings of hexadecimal digests as bytes, shape (images, 16)."""
    joined = b"".join(bytes.fromhex(content[: 2 * _BYTES]) for content in contents)
    return np.frombuffer(joined, np.uint8).reshape(-1, _BYTES)


def write_kept(path: Path, kept: Kept) -> None:
    """Write a safetensors file.

    Raises:
        OSError: the file cannot be written.
        SafetensorError: the same, as safetensors says it.
    """
    found = kept.statistics
    tensors: dict[str, NDArray[Any]] = {
        "counts": found.counts,
        "means": found.means.astype(np.float32),
        "spread": found.spread.astype(np.float32),
    }
    tensors |= {f"contents.{split}": rows for split, rows in kept.contents.items()}
    tensors |= {f"labels.{split}": np.asarray(rows, np.int64) for split, rows in kept.labels.items()}
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, path)


def read_kept(path: Path) -> Kept:
    """Read what `write_kept` wrote.

    Raises:
        ModelError: the file is not there, or is damaged.
    """
    try:
        with safe_open(path, "np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is not a mapping)
        statistics = ClassStatistics(
            tensors["counts"], tensors["means"].astype(np.float64), tensors["spread"].astype(np.float64)
        )
    except (OSError, SafetensorError, KeyError) as error:
        raise ModelError(f"cannot read {path}: {error}; train the run again with this hfft") from error
    by_split = {
        kind: {name.removeprefix(kind): rows for name, rows in tensors.items() if name.startswith(kind)}
        for kind in ("contents.", "labels.")
    }
    return Kept(statistics, by_split["contents."], by_split["labels."])
