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
from hfft.data.label_columns import Column, Labelled, is_label_type, read_column, read_columns
from hfft.data.layout import counted
from hfft.data.sampling import named_groups
from hfft.errors import DataError
from hfft.tasks.contract import Label
from hfft.tasks.label_tree import LABEL_TREE, SEPARATOR
from hfft.tasks.multi_label import MULTI_LABEL
from hfft.tasks.regression import REGRESSION
from hfft.wording import count_of

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
    label_columns = _label_columns(dataset, name, data, image_column)
    labelled = _labelled(dataset, name, data, label_columns)
    images = dataset.with_format(None).select_columns([image_column])
    if image_column != IMAGE_COLUMN:
        images = images.rename_column(image_column, IMAGE_COLUMN)
    images = _undecoded(images, name, image_column)
    if images.data.column(IMAGE_COLUMN).null_count and None in (values := images[IMAGE_COLUMN][:]):
        bare, first = count_of(values.count(None), "row"), values.index(None)
        raise DataError(
            f"{name}: {bare} of {split} without an image in the column {image_column!r}, row {first} is the first; "
            "leave them out"
        )
    path = Path(name).expanduser()
    file = path if path.is_file() else None
    root = path.resolve() if path.is_dir() else path.resolve().parent if file else None
    named = ImageSet(images, np.empty(0, np.int64), f"{name}/{split}", root, task=labelled.task, file=file)
    if data.group_column is not None:
        column = _given_column(dataset, name, data.group_column, "--group_column")
        named = replace(named, groups=named_groups(dataset.with_format(None)[column][:], named.name))
    notes = labelled.notes
    if data.dataset_name is not None:  # nobody chooses among the columns of the embedded images
        notes = (*notes, _columns_read(labelled, label_columns, image_column))
    return NamedImages(named, labelled.labels, labelled.order, notes)


def _label_columns(dataset: datasets.Dataset, name: str, data: DataArguments, image_column: str) -> list[str]:
    if data.label_columns:
        return [_given_column(dataset, name, each, "--label_columns") for each in data.label_columns]
    return [_label_column(dataset, name, data.label_column_name, image_column)]


def _labelled(dataset: datasets.Dataset, name: str, data: DataArguments, names: list[str]) -> Labelled:
    """What the rows are labelled with, in one column or in several."""
    columns = [Column.of(dataset, each, name) for each in names]
    return read_columns(columns, data) if data.label_columns else read_column(columns[0], data)


def _columns_read(labelled: Labelled, label_columns: Sequence[str], image_column: str) -> str:
    """Say which columns were read, and what the labels are: another column may have been meant."""
    columns = f"column{'s' if len(label_columns) > 1 else ''} {', '.join(map(repr, label_columns))}"
    return (
        f"Read as {counted(labelled.order, *labelled.task.noun)} from the {columns}, images from the column "
        f"{image_column!r}"
    )


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
    found = found or [column for column, feature in others.items() if is_label_type(feature)]
    named: list[str] = [column for column in others if column.casefold() in LABEL_COLUMNS]
    if named and (named[0] in found or not found):
        return named[0]  # whatever it holds: what is not a label is refused by name
    named = [column for column in named if column in found]
    if len(found) == 1 or named:
        return (named or found)[0]
    what = f"several columns that may be labels ({', '.join(found)})" if found else "no column of labels"
    raise DataError(f"{name}: {what}; name the one with --label_column_name. {_columns(dataset)}")


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
    """A split whose labels are still as they are written.

    Args:
        images: whose labels are not encoded yet.
        names: the label of each row, None where it has none.
        order: all classes, or the targets, in the data set's order.
        notes: what the labels were taken for.
        folders: of class folders, each row's folder below that of the split, which may lie in its class folder.
    """

    images: ImageSet
    names: list[Label | None]
    order: list[str]
    notes: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()


def of_folders(named: NamedImages, data: DataArguments) -> NamedImages:
    """Return the images of class folders as the task reads them.

    Raises:
        DataError: the task reads columns.
    """
    place = named.images.place
    if data.label_columns or data.label_separator:
        flag = "--label_columns" if data.label_columns else "--label_separator"
        raise DataError(f"{place}: {flag} is for tables, and these are class folders, whose names are the labels")
    if data.task == REGRESSION.name:
        raise DataError(
            f"{place}: class folders hold classes, and --task regression estimates numbers; give a table with a column "
            "of paths and one of numbers"
        )
    if data.task == LABEL_TREE.name:
        return _nested(named)
    return _merged(named) if data.task == MULTI_LABEL.name else named


def _nested(named: NamedImages) -> NamedImages:
    """Return images whose labels are the ways through all folders around them."""
    order = sorted(set(named.folders))
    depth = max((folder.count(SEPARATOR) + 1 for folder in order), default=0)
    note = f"Read as label_tree: {len(order):,} classes at or below these, at most {depth} levels deep"
    return NamedImages(replace(named.images, task=LABEL_TREE), list(named.folders), order, (note,))


def _merged(named: NamedImages) -> NamedImages:
    """Return each image once, with the names of all class folders that hold it."""
    images = replace(named.images, labels=np.zeros(len(named.names), np.int64), task=MULTI_LABEL)
    found: dict[str, dict[str, None]] = {}
    rows: dict[str, int] = {}
    for row, (content, name) in enumerate(zip(images.contents(), named.names, strict=True)):
        rows.setdefault(content, row)
        found.setdefault(content, {})[str(name)] = None
    labels = [tuple(found[content]) for content in rows]
    several = sum(len(label) > 1 for label in labels)
    note = f"Read as multi_label: {several:,} of {len(labels):,} images lie in several class folders"
    return NamedImages(images.select(list(rows.values())), list(labels), named.order, (note,))


def label_map(train: NamedImages) -> tuple[str, ...]:
    """Return the classes that training images have, or their targets, in the data set's own order.

    Raises:
        DataError: there are no images, one has no label, or all are of one class.
    """
    name, task = train.images.place, train.images.task
    if not train.names:
        raise DataError(f"{name}: it holds no images; choose another data set or folder")
    if None in train.names:
        raise _unmapped(train, train.names.index(None))
    labels = task.classes(train.names, train.order)
    if not labels:
        raise DataError(f"{name}: not one of its images has a label; give some")
    if len(labels) < task.least:
        raise DataError(f"{name}: all images are of one class, {labels[0]!r}; a classifier needs two or more")
    if task.name == REGRESSION.name and len(train.names) > 1:
        for target, values in zip(labels, zip(*train.names, strict=True), strict=True):
            if len(set(values)) == 1:
                raise DataError(
                    f"{name}: {target!r} is {values[0]:g} for every training image, so there is nothing to learn; "
                    "leave it out"
                )
    return labels


def _unmapped(split: NamedImages, row: int, labels: Sequence[str] = ()) -> DataError:
    image = split.images.files[row]
    parts = [] if split.names[row] is None else split.images.task.parts(split.names[row])
    name = next((part for part in parts if part not in labels), None)
    if name is None:
        return DataError(f"{split.images.place}: the image {image} has no label; label it or leave it out")
    meant = [label for label in labels if loose(label) == loose(name)]
    hint = f"is it {meant[0]!r}? Names differ where case or spaces do" if meant else "add some to the training images"
    return DataError(
        f"{split.images.place}: the class {name!r} (as of {image}) has no training images; "
        f"{hint}{'; rename it' if meant else ''}, or leave the class out here"
    )


def alike_names(names: Iterable[str]) -> list[list[str]]:
    """Return those names of classes, sorted, that differ from each other in case and spaces alone."""
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        found.setdefault(loose(name), []).append(name)
    return [group for group in found.values() if len(group) > 1]


def loose(name: str) -> str:
    """Return a class's name without case and spaces, by which names that are probably meant to be one are found."""
    return "".join(name.casefold().split())


def indexed(split: NamedImages, labels: tuple[str, ...]) -> ImageSet:
    """Return a split with its labels encoded by the label map.

    Raises:
        DataError: a label is missing, or not in the map.
    """
    task, known = split.images.task, set(labels)
    for row, name in enumerate(split.names):
        if name is None or not known.issuperset(task.parts(name)):
            raise _unmapped(split, row, labels)
    return replace(split.images, labels=task.encode(split.names, labels))
