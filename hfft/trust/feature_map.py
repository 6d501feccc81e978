"""What the head reads of many images, as points of a plane: before and after fine-tuning, and where one more lands.

The plane is spanned by the two directions in which the training images differ most (principal components). It is the
one projection whose axes are fixed once, so that a new image lands in it without moving the others. Distances in it are
a shadow of those that count: how near the classes are to each other is measured with all features, and so is whether an
image is unlike the training images (`hfft.trust.known`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hfft.errors import HfftError, OutputError, one_line
from hfft.trust.known import unit_rows

FORMAT = 1
_ENTRY = "hfft_feature_map"
_SPLITS = ("train", "validation")
_NOTHING = 1e-12  # share of all variance that is rounding
_FITTED = 5_000  # images that a plane is fitted to

Projection = Callable[[NDArray[Any], NDArray[np.bool_]], NDArray[np.float32]]
"""From features, shape (images, features), and which of them it is fitted to, to points, shape (images, 2)."""


@dataclass(frozen=True)
class Plane:
    """The two directions in which features of unit length differ most.

    Args:
        mean: of the features, shape (features,).
        axes: orthogonal, of length 1, shape (2, features).
        share: of all variance that lies in the plane, 0 to 1.
    """

    mean: NDArray[np.float32]
    axes: NDArray[np.float32]
    share: float

    def place(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """Return the points of features of any length, shape (images, 2)."""
        return np.asarray((unit_rows(features) - self.mean) @ self.axes.T, np.float32)


@dataclass(frozen=True)
class Side:
    """Images as one model sees them.

    Args:
        plane: of the training images.
        points: by split (``train``, ``validation``), shape (images, 2).
        alike: validation images whose nearest training image, in all features, is of their own class; a count.
    """

    plane: Plane
    points: Mapping[str, NDArray[np.float32]]
    alike: int


@dataclass(frozen=True)
class FeatureMap:
    """Training and validation images before and after fine-tuning.

    Args:
        before: as the pretrained model sees them; None where its features were not read.
        after: as the fine-tuned model does.
        labels: by split, the class of each image.
        files: by split, the name of each.
        said: the class that the fine-tuned model takes each validation image for.
    """

    before: Side | None
    after: Side
    labels: Mapping[str, NDArray[np.int64]]
    files: Mapping[str, Sequence[str]]
    said: NDArray[np.int64]

    @property
    def sides(self) -> list[tuple[str, Side]]:
        """What there is of before and after, each with its title."""
        before = [("before fine-tuning", self.before)] if self.before is not None else []
        return [*before, ("after fine-tuning", self.after)]

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """Whether the fine-tuned model has each validation image wrong."""
        return np.asarray(self.said != self.labels["validation"])


def feature_map(
    before: Mapping[str, NDArray[Any]] | None,
    after: Mapping[str, NDArray[Any]],
    labels: Mapping[str, NDArray[np.int64]],
    files: Mapping[str, Sequence[str]],
    said: NDArray[np.int64],
) -> FeatureMap:
    """Lay images out in a plane, before and after fine-tuning.

    Args:
        before: features that the pretrained model's head reads, by split, shape (images, features); None without them.
        after: the same of the fine-tuned model.
        labels: class of each image, by split.
        files: name of each image, by split.
        said: the fine-tuned model's class of each validation image.
    """
    later = _side(after, labels)
    earlier = None if before is None else _side(before, labels, later.points["train"])
    return FeatureMap(earlier, later, labels, files, said)


def fit_plane(features: NDArray[Any]) -> Plane:
    """Return the plane in which features differ most.

    Args:
        features: shape (images, features).
    """
    from scipy.linalg import eigh  # two of the components, where a decomposition into all takes ten times as long

    rows = unit_rows(features)
    mean = rows.mean(axis=0)
    centred = (rows - mean).astype(np.float64)
    wide = len(rows) < rows.shape[1]
    products = centred @ centred.T if wide else centred.T @ centred
    last, total = len(products) - 1, float(np.trace(products))
    sizes, vectors = eigh(products, subset_by_index=[max(0, last - 1), last])
    directions = vectors.T @ centred if wide else vectors.T
    axes = np.zeros((2, rows.shape[1]), np.float32)
    for axis, size, direction in zip(axes, sizes[::-1], directions[::-1], strict=False):
        if size > _NOTHING * total:
            # The sign of a component means nothing; this one is the same on every machine.
            axis[:] = direction * np.sign(direction[np.abs(direction).argmax()]) / np.linalg.norm(direction)
    return Plane(mean, axes, float(sizes.sum()) / total if total else 0.0)


def projection(name: str) -> Projection:
    """Return what lays features out in a plane.

    Args:
        name: ``pca``, or ``umap`` (McInnes, Healy and Melville, 2018), which keeps neighbours together and no distance.

    Raises:
        HfftError: the package that it needs is not installed.
    """
    if name == "pca":
        return lambda features, fitted: fit_plane(_some(features[fitted])).place(features)
    try:
        from umap import UMAP
    except ImportError as error:
        raise HfftError("--projection umap needs umap-learn: pip install umap-learn; or use pca") from error

    def lay_out(features: NDArray[Any], fitted: NDArray[np.bool_]) -> NDArray[np.float32]:
        rows = unit_rows(features)
        found = UMAP(n_components=2, metric="cosine", random_state=0, n_jobs=1).fit(rows[fitted])
        points = np.empty((len(rows), 2), np.float32)
        points[fitted] = found.embedding_
        if not fitted.all():
            points[~fitted] = found.transform(rows[~fitted])
        return points

    return lay_out


def _some(features: NDArray[Any]) -> NDArray[Any]:
    """Return at most so many rows, evenly, as the directions of a plane are fitted to."""
    return features[np.unique(np.linspace(0, len(features) - 1, min(len(features), _FITTED)).astype(np.int64))]


def nearest_alike(
    train: NDArray[Any], train_labels: NDArray[np.int64], others: NDArray[Any], labels: NDArray[np.int64]
) -> int:
    """Count the images whose nearest training image, by cosine, is of their own class.

    Args:
        train: features of training images, shape (images, features).
        train_labels: their classes.
        others: features of images that were not trained on, shape (others, features).
        labels: their classes.
    """
    similarity = unit_rows(others) @ unit_rows(train).T
    return int((train_labels[similarity.argmax(axis=1)] == labels).sum()) if len(others) else 0


def _side(
    features: Mapping[str, NDArray[Any]],
    labels: Mapping[str, NDArray[np.int64]],
    like: NDArray[np.float32] | None = None,
) -> Side:
    """Return images as one model sees them, the plane turned so that its points lie nearest to others."""
    plane = fit_plane(features["train"])
    if like is not None:
        left, _, right = np.linalg.svd(plane.place(features["train"]).T @ like)
        plane = Plane(plane.mean, np.asarray((left @ right).T @ plane.axes, np.float32), plane.share)
    alike = nearest_alike(features["train"], labels["train"], features["validation"], labels["validation"])
    return Side(plane, {split: plane.place(features[split]) for split in _SPLITS}, alike)


def write_map(path: Path, found: FeatureMap) -> None:
    """Write a map as a safetensors file with one entry of metadata, which is JSON.

    Raises:
        OSError: the file cannot be written.
        SafetensorError: the same, as safetensors says it.
    """
    tensors: dict[str, NDArray[Any]] = {"said": found.said}
    about: dict[str, Any] = {"format": FORMAT, "files": {name: list(found.files[name]) for name in _SPLITS}}
    for split in _SPLITS:
        tensors[f"labels.{split}"] = found.labels[split]
    for name, side in (("before", found.before), ("after", found.after)):
        if side is None:
            continue
        about[name] = {"alike": side.alike, "share": side.plane.share}
        tensors |= {f"{name}.mean": side.plane.mean, f"{name}.axes": side.plane.axes}
        tensors |= {f"{name}.{split}": side.points[split] for split in _SPLITS}
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, path, {_ENTRY: json.dumps(about)})


def read_map(path: Path) -> FeatureMap:
    """Read what `write_map` wrote.

    Raises:
        OutputError: it is not such a file, or is damaged.
    """
    try:
        with safe_open(path, "np") as file:
            about = json.loads((file.metadata() or {})[_ENTRY])
            if about["format"] != FORMAT:
                raise OutputError(f"{path} was written by another version of hfft; train again to have it anew")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is not a mapping)
        sides = {name: _read_side(name, about, tensors) for name in ("before", "after") if name in about}
        labels = {split: tensors[f"labels.{split}"] for split in _SPLITS}
        files = {split: tuple(map(str, about["files"][split])) for split in _SPLITS}
        found = FeatureMap(sides.get("before"), sides["after"], labels, files, tensors["said"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise OutputError(f"{path} is damaged ({one_line(error)}); delete it, or train again") from error
    if not _fits(found):
        raise OutputError(f"{path} is damaged (its parts do not fit together); delete it, or train again")
    return found


def _read_side(name: str, about: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Side:
    plane = Plane(tensors[f"{name}.mean"], tensors[f"{name}.axes"], float(about[name]["share"]))
    return Side(plane, {split: tensors[f"{name}.{split}"] for split in _SPLITS}, int(about[name]["alike"]))


def _fits(found: FeatureMap) -> bool:
    """Whether the parts of a map that was read belong together."""
    counts = {split: len(found.files[split]) for split in _SPLITS}
    labels = all(found.labels[split].shape == (counts[split],) for split in _SPLITS)
    points = all(
        side.points[split].shape == (counts[split], 2) and bool(np.isfinite(side.points[split]).all())
        for _, side in found.sides
        for split in _SPLITS
    )
    planes = all(side.plane.axes.shape == (2, *side.plane.mean.shape) for _, side in found.sides)
    return labels and points and planes and found.said.shape == (counts["validation"],)
