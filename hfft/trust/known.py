"""Unknown images: how far an image is from the training images, in the features that the model's head reads.

The distance is Mahalanobis' (`hfft.trust.distances`), which told better than that to the nearest training images in
most of what was measured (`scripts/bench_trust.py`); those are named to be looked at. What counts as unknown lies
further out than nearly all validation images, which are not trained on. Files of format 1 were written when the
distance was that to the nearest images, and are compared by it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hfft.errors import ModelError
from hfft.trust.conformal import upper_quantile
from hfft.trust.distances import DISTANCES, Distance

SHARE = 0.95
"""Of known images that are to be taken for known."""
DEFAULT = "mahalanobis"
"""Which of `DISTANCES` a run is given."""
FORMAT = 2
_FIRST = {"format": 1, "distance": "neighbours"}  # which stood in no file of that format
_ENTRY = "hfft_known_images"
_LONGEST = 1.01  # of a row of length 1, rounded to float16
_BORDER = 1e-4  # share by which the image at the border lies inside, which float32 and other kernels must not change
_TINY = 1e-6  # a distance that is none: of an image to itself, in the resolution of float16


@dataclass(frozen=True)
class Neighbour:
    """A training image near another image.

    Args:
        file: as the run calls it.
        label: its class.
        similarity: cosine between the features of both, -1 to 1.
    """

    file: str
    label: str
    similarity: float


@dataclass(frozen=True)
class Familiarity:
    """How an image stands to the training images.

    Args:
        score: its distance from them over the largest distance that counts as known.
        nearest: the most similar of them, most similar first, as (row among `KnownImages`, cosine).
    """

    score: float
    nearest: tuple[tuple[int, float], ...]

    @property
    def unknown(self) -> bool:
        """Whether the image is further from the training images than known ones are."""
        return not self.score <= 1


@dataclass(frozen=True)
class KnownRecord:
    """What a run's record says of its known images.

    Args:
        images: training images that others are compared with.
        held_out: validation images that the largest known distance was chosen on.
        share: of known images that are to be taken for known, 0 to 1.
        kept: share of the test images that are; None where there are none.
        missing: why there are no known images; empty where there are.
    """

    images: int = 0
    held_out: int = 0
    share: float = SHARE
    kept: float | None = None
    missing: str = ""


@dataclass(frozen=True)
class KnownImages:
    """The training images that others are compared with, and the largest distance from them that is known.

    Args:
        features: of unit length, shape (images, features).
        labels: class of each, shape (images,).
        files: name of each.
        threshold: the largest distance that counts as known.
        truth: probability that the true label was given of each image that was not trained on, by the model or, fold by
            fold, by others like it, for `hfft.trust.conformal`.
        method: name of the distance among `DISTANCES`.
        fitted: that distance, where it was fitted already.
    """

    features: NDArray[np.float16]
    labels: NDArray[np.int64]
    files: tuple[str, ...]
    threshold: float
    truth: NDArray[np.float32]
    method: str = DEFAULT
    fitted: Distance | None = field(default=None, repr=False, compare=False)

    @cached_property
    def distance(self) -> Distance:
        """The distance from these images; it is fitted when it is first asked for."""
        return self.fitted or DISTANCES[self.method](self.features, self.labels)

    def compare(self, features: NDArray[Any], nearest: int = 3) -> list[Familiarity]:
        """Compare images with the known ones.

        Args:
            features: what the head reads of each, shape (images, features).
            nearest: how many known images to name.
        """
        rows = unit_rows(features)
        similarity = rows @ self.features.astype(np.float32).T
        order = np.argsort(-similarity, axis=1, kind="stable")[:, :nearest]
        return [
            Familiarity(float(score), tuple((int(place), float(similarity[row, place])) for place in order[row]))
            for row, score in enumerate(self.distance(rows) / self.threshold)
        ]

    def neighbours(self, found: Familiarity, labels: tuple[str, ...]) -> tuple[Neighbour, ...]:
        """Name the nearest known images.

        Args:
            found: of these images.
            labels: the classes' names.
        """
        return tuple(
            Neighbour(self.files[row], labels[int(self.labels[row])], similarity) for row, similarity in found.nearest
        )


def learn(
    features: NDArray[Any],
    labels: NDArray[np.int64],
    files: tuple[str, ...],
    held_out: NDArray[Any],
) -> KnownImages:
    """Return known images with the largest known distance, of which `SHARE` of the held-out images keep within.

    Args:
        features: of training images, shape (images, features).
        labels: class of each.
        files: name of each.
        held_out: features of images of the same kinds that were not trained on, shape (others, features).
    """
    rows = unit_rows(features).astype(np.float16)
    distance = DISTANCES[DEFAULT](rows, labels)
    threshold = _largest(distance(unit_rows(held_out)))
    return KnownImages(rows, labels, files, threshold, np.empty(0, np.float32), DEFAULT, distance)


def united(old: KnownImages, new: KnownImages, held_out: NDArray[Any]) -> KnownImages:
    """Return old and new images as one, by the distance that the old ones have.

    The old validation images are gone. Their largest distance is taken for as many times larger or smaller as the
    distances of the old training images have become.

    Args:
        old: of a run.
        new: that join it.
        held_out: features of images like the new ones that were not trained on, shape (others, features).
    """
    features = np.concatenate([old.features, new.features])
    labels = np.concatenate([old.labels, new.labels])
    distance = DISTANCES[old.method](features, labels)
    rows = old.features.astype(np.float32)
    before, after = _largest(old.distance(rows)), _largest(distance(rows))
    grown = after / before if min(before, after) > _TINY else 1.0
    threshold = max(old.threshold * grown, _largest(distance(unit_rows(held_out))))
    # Of the old validation images nobody knows what probability their labels are given now.
    return KnownImages(features, labels, (*old.files, *new.files), threshold, new.truth[:0], old.method, distance)


def _largest(distances: NDArray[np.float64]) -> float:
    """Return the distance within which `SHARE` of images like these lie."""
    largest = min(upper_quantile(distances, SHARE), float(distances.max()))
    return max(largest * (1 + _BORDER), _TINY)


def unit_rows(features: NDArray[Any]) -> NDArray[np.float32]:
    """Scale each row of features to length 1; a row of zeros stays."""
    rows = np.asarray(features, np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)


def write_known(path: Path, known: KnownImages) -> None:
    """Write known images as a safetensors file with one entry of metadata, which is JSON.

    Raises:
        OSError: the file cannot be written.
        SafetensorError: the same, as safetensors says it.
    """
    tensors: dict[str, NDArray[Any]] = {"features": known.features, "labels": known.labels, "truth": known.truth}
    about = {"format": FORMAT, "distance": known.method, "threshold": known.threshold, "files": known.files}
    save_file(tensors, path, {_ENTRY: json.dumps(about)})


def read_known(path: Path, labels: int) -> KnownImages:
    """Read what `write_known` wrote.

    Args:
        path: of the file.
        labels: how many classes the model has.

    Raises:
        ModelError: the file is damaged, of another version, or does not belong to a model of so many classes.
    """
    try:
        with safe_open(path, "np") as file:
            about = json.loads((file.metadata() or {})[_ENTRY])
            about |= _FIRST if about["format"] == _FIRST["format"] else {}
            _check_version(path, about["format"], about.get("distance"))
            tensors = [file.get_tensor(name) for name in ("features", "labels", "truth")]
        known = KnownImages(
            tensors[0],
            tensors[1],
            tuple(map(str, about["files"])),
            float(about["threshold"]),
            tensors[2],
            about["distance"],
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}; copy it again, or delete it to do without") from error
    if problem := _problem(known, labels):
        raise ModelError(f"{path} {problem}; copy it again, or delete it to do without")
    return known


def _check_version(path: Path, version: Any, distance: Any) -> None:
    if version not in (_FIRST["format"], FORMAT):
        raise ModelError(
            f"{path} has format {version}, but this hfft reads {_FIRST['format']} and {FORMAT}; update hfft"
        )
    if distance not in DISTANCES:
        known = " and ".join(DISTANCES)
        raise ModelError(f"{path} is compared by the distance {distance!r}, but this hfft knows {known}; update hfft")


def _problem(known: KnownImages, labels: int) -> str:
    """Return what is wrong with known images that were read; empty where nothing is."""
    count = len(known.files)
    if known.features.ndim != 2 or known.labels.shape != (count,) or len(known.features) != count or not count:
        return "holds features, labels and names that do not belong together"
    if known.labels.min() < 0 or known.labels.max() >= labels:
        return f"names classes that a model of {labels} does not have"
    if not (math.isfinite(known.threshold) and known.threshold > 0 and np.isfinite(known.features).all()):
        return "holds numbers that are not finite"
    if np.linalg.norm(known.features.astype(np.float32), axis=1).max() > _LONGEST:
        return "holds features that are not of length 1"
    return ""
