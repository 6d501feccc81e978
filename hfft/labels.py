"""Names of classes and the label map that turns them into numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hfft.errors import DataError
from hfft.images import ImageSet


@dataclass(frozen=True)
class NamedImages:
    """A split whose labels are still names; None where a row has no label."""

    images: ImageSet
    names: list[str | None]
    order: list[str]


def label_map(train: NamedImages) -> tuple[str, ...]:
    """Return the classes that training images have, in the data set's own order.

    Raises:
        DataError: there are no images, one has no label, or all are of one class.
    """
    name = train.images.place
    if not train.names:
        raise DataError(f"{name}: it holds no images; choose another data set or folder")
    if None in train.names:
        raise _unmapped(train, train.names.index(None))
    present = set(train.names)
    labels = tuple(label for label in train.order if label in present)
    if len(labels) < 2:
        raise DataError(f"{name}: all images are of one class, {labels[0]!r}; a classifier needs two or more")
    return labels


def _unmapped(split: NamedImages, row: int) -> DataError:
    name, image = split.names[row], split.images.files[row]
    if name is None:
        return DataError(f"{split.images.place}: the image {image} has no label; label it or leave it out")
    return DataError(
        f"{split.images.place}: the class {name!r} (as of {image}) has no training images; "
        "add some to the training images, or leave the class out here"
    )


def indexed(split: NamedImages, labels: tuple[str, ...]) -> ImageSet:
    """Return a split with its labels as places in the label map.

    Raises:
        DataError: a label is missing, or not in the map.
    """
    index = {label: position for position, label in enumerate(labels)}
    for row, name in enumerate(split.names):
        if name not in index:
            raise _unmapped(split, row)
    return replace(split.images, labels=np.array([index[str(name)] for name in split.names], dtype=np.int64))
