"""Columns, names of classes, and the label map that turns names into numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from hfft.arguments import DataArguments
from hfft.data.images import IMAGE_COLUMN, ImageSet
from hfft.errors import DataError


def read_split(dataset: datasets.Dataset, split: str, name: str, data: DataArguments) -> NamedImages:
    """The images and label names of one split of a data set.

    Args:
        dataset: the split.
        split: its name.
        name: the data set's.
        data: which columns to read, where that is not clear.

    Raises:
        DataError: the columns cannot be told, or hold no images.
    """
    image_column = _image_column(dataset, name, data.image_column_name)
    label_column = _label_column(dataset, name, data.label_column_name, image_column)
    values = dataset.with_format(None)[label_column][:]
    feature = dataset.features[label_column]
    if isinstance(feature, datasets.ClassLabel):
        order = list(feature.names)
        names = [None if value is None or value < 0 else order[value] for value in values]
    else:
        order = [str(value) for value in sorted({value for value in values if value is not None})]
        names = [None if value is None else str(value) for value in values]
    images = dataset.with_format(None).select_columns([image_column])
    if image_column != IMAGE_COLUMN:
        images = images.rename_column(image_column, IMAGE_COLUMN)
    images = _undecoded(images, name, image_column)
    path = Path(name).expanduser().resolve()
    root = path if path.is_dir() else path.parent if path.is_file() else None
    return NamedImages(ImageSet(images, np.empty(0, np.int64), f"{name}/{split}", root), names, order)


def _undecoded(images: datasets.Dataset, name: str, column: str) -> datasets.Dataset:
    try:
        return images.cast_column(IMAGE_COLUMN, datasets.Image(decode=False))
    except (ValueError, TypeError, NotImplementedError) as error:
        raise DataError(
            f"{name}: the column {column!r} holds no images; name another with --image_column_name"
        ) from error


def _image_column(dataset: datasets.Dataset, name: str, wanted: str | None) -> str:
    if wanted is not None:
        return _given_column(dataset, name, wanted, "--image_column_name")
    found = [column for column, feature in dataset.features.items() if isinstance(feature, datasets.Image)]
    if len(found) == 1 or IMAGE_COLUMN in found:
        return IMAGE_COLUMN if IMAGE_COLUMN in found else found[0]
    what = f"several columns of images ({', '.join(found)})" if found else "no column of images"
    raise DataError(f"{name}: {what}; name the one with --image_column_name. {_columns(dataset)}")


def _label_column(dataset: datasets.Dataset, name: str, wanted: str | None, image_column: str) -> str:
    if wanted is not None:
        return _given_column(dataset, name, wanted, "--label_column_name")
    others = {column: feature for column, feature in dataset.features.items() if column != image_column}
    found = [column for column, feature in others.items() if isinstance(feature, datasets.ClassLabel)]
    found = found or [column for column, feature in others.items() if _is_label_type(feature)]
    named = [column for column in ("label", "labels") if column in found]
    if len(found) == 1 or named:
        return (named or found)[0]
    what = f"several columns that may be labels ({', '.join(found)})" if found else "no column of labels"
    raise DataError(f"{name}: {what}; name the one with --label_column_name. {_columns(dataset)}")


def _is_label_type(feature: Any) -> bool:
    kind = getattr(feature, "dtype", "") if isinstance(feature, datasets.Value) else ""
    return kind in ("string", "large_string", "bool") or kind.startswith(("int", "uint"))


def _given_column(dataset: datasets.Dataset, name: str, wanted: str, flag: str) -> str:
    if wanted not in dataset.features:
        raise DataError(f"{name}: there is no column {wanted!r} as {flag} says. {_columns(dataset)}")
    return wanted


def _columns(dataset: datasets.Dataset) -> str:
    kinds = [f"{column} ({getattr(f, 'dtype', type(f).__name__)})" for column, f in dataset.features.items()]
    return f"Its columns: {', '.join(kinds)}"


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
