"""Columns, names of classes, and the label map that turns names into numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from hfft.arguments import DataArguments
from hfft.data.images import IMAGE_COLUMN, ImageSet
from hfft.data.layout import composed
from hfft.errors import DataError

LABEL_COLUMNS = ("label", "labels")
"""Columns that hold labels, where none is named and several may."""
PATH_COLUMNS = ("image", "file_name", "image_path", "file", "path", "filename", "filepath")
"""Columns that hold images or their paths, where none is named; the first that is there counts."""


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
    names, order = _label_names(dataset, label_column, name)
    images = dataset.with_format(None).select_columns([image_column])
    if image_column != IMAGE_COLUMN:
        images = images.rename_column(image_column, IMAGE_COLUMN)
    images = _undecoded(images, name, image_column)
    path = Path(name).expanduser().resolve()
    root = path if path.is_dir() else path.parent if path.is_file() else None
    groups = None
    if data.group_column is not None:
        column = _given_column(dataset, name, data.group_column, "--group_column")
        groups = np.array([str(value) for value in dataset.with_format(None)[column][:]])
    return NamedImages(ImageSet(images, np.empty(0, np.int64), f"{name}/{split}", root, groups), names, order)


def _label_names(dataset: datasets.Dataset, column: str, name: str) -> tuple[list[str | None], list[str]]:
    """The label of each row, None where it has none, and all labels in the data set's order."""
    feature = dataset.features[column]
    values = dataset.with_format(None)[column][:]
    if isinstance(feature, datasets.ClassLabel):
        order = [composed(label) for label in feature.names]
        return [None if value is None or value < 0 else order[value] for value in values], order
    dtype = feature.dtype if isinstance(feature, datasets.Value) else None
    if dtype is None or not (_is_label_type(feature) or dtype.startswith("float")):
        what = f"{dtype} values" if dtype else "records" if isinstance(feature, dict) else "lists"
        raise DataError(f"{name}: the column {column!r} holds {what}: hfft gives each image one label")
    plain = [_plain(value) for value in values]
    if broken := [value for value in plain if isinstance(value, float)]:
        raise DataError(f"{name}: the column {column!r} holds numbers such as {broken[0]:g}, which are not classes")
    order = [str(value) for value in sorted({value for value in plain if value is not None})]
    return [None if value is None else str(value) for value in plain], order


def _plain(value: Any) -> Any:
    """A label without spaces around it, composed; whole numbers as such; None where there is nothing."""
    if isinstance(value, str):
        return composed(value.strip()) or None
    if isinstance(value, float):
        return None if value != value else int(value) if value.is_integer() else value
    return value


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
    # Bytes, alone or beside a path, are an image under the usual names alone: anything may be bytes.
    stored = [column for column, feature in dataset.features.items() if holds_images(feature)]
    found = found or [column for each in PATH_COLUMNS if (column := find_column(stored, each)) is not None][:1]
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
    named: list[str] = [column for column in others if column.casefold() in LABEL_COLUMNS]
    if named and (named[0] in found or not found):
        return named[0]  # whatever it holds: what is not a label is refused by name
    named = [column for column in named if column in found]
    if len(found) == 1 or named:
        return (named or found)[0]
    what = f"several columns that may be labels ({', '.join(found)})" if found else "no column of labels"
    raise DataError(f"{name}: {what}; name the one with --label_column_name. {_columns(dataset)}")


def _is_label_type(feature: Any) -> bool:
    kind = getattr(feature, "dtype", "") if isinstance(feature, datasets.Value) else ""
    return kind in ("string", "large_string", "bool") or kind.startswith(("int", "uint"))


def holds_images(feature: Any) -> bool:
    """Whether a column holds files' bytes, alone or beside a path."""
    if isinstance(feature, dict):
        return {"bytes", "path"} == set(feature)
    return isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary")


def find_column(columns: Iterable[str], wanted: str) -> str | None:
    """The column of this name, without regard to case where there is no other; None where there is none."""
    given = list(columns)
    alike = [column for column in given if column.strip().casefold() == wanted.strip().casefold()]
    return wanted if wanted in given else alike[0] if len(alike) == 1 else None


def _given_column(dataset: datasets.Dataset, name: str, wanted: str, flag: str) -> str:
    found = find_column(dataset.features, wanted)
    if found is None:
        raise DataError(f"{name}: there is no column {wanted!r} as {flag} says. {_columns(dataset)}")
    return found


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


def _unmapped(split: NamedImages, row: int, labels: Sequence[str] = ()) -> DataError:
    name, image = split.names[row], split.images.files[row]
    if name is None:
        return DataError(f"{split.images.place}: the image {image} has no label; label it or leave it out")
    alike = [label for label in labels if _loose(label) == _loose(name)]
    hint = f"is it {alike[0]!r}? Names differ where case or spaces do" if alike else "add some to the training images"
    return DataError(
        f"{split.images.place}: the class {name!r} (as of {image}) has no training images; "
        f"{hint}{'; rename it' if alike else ''}, or leave the class out here"
    )


def _loose(name: str) -> str:
    return "".join(name.casefold().split())


def indexed(split: NamedImages, labels: tuple[str, ...]) -> ImageSet:
    """Return a split with its labels as places in the label map.

    Raises:
        DataError: a label is missing, or not in the map.
    """
    index = {label: position for position, label in enumerate(labels)}
    for row, name in enumerate(split.names):
        if name not in index:
            raise _unmapped(split, row, labels)
    return replace(split.images, labels=np.array([index[str(name)] for name in split.names], dtype=np.int64))
