"""Where the images come from: folders, a data set, or the embedded default; splits and the label map."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from hfft.arguments import DataArguments
from hfft.demo import EMBEDDED_DATA, embedded_images
from hfft.errors import DataError
from hfft.images import IMAGE_COLUMN, ImageSet
from hfft.sampling import sample, split_off

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
EXTENSIONS = (*IMG_EXTENSIONS, ".gif")


@dataclass(frozen=True, eq=False)  # equal are those that were loaded at once
class ImageSets:
    """What a run trains on, is judged by, and is tested on once at the end.

    Args:
        train: training images.
        validation: images that the epochs are judged on.
        test: images for the very end, where there are any.
        labels: class names of the training images, in the order of the class indices.
        name: of the data set, for people.
        skipped: files that cannot be read and were left out.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet | None
    labels: tuple[str, ...]
    name: str
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class NamedImages:
    """A split whose labels are still names; None where a row has no label."""

    images: ImageSet
    names: list[str | None]
    order: list[str]


def load_image_sets(data: DataArguments, seed: int) -> ImageSets:
    """Find the images, their splits and their label map.

    The label map lists the classes of the training images; every other split is read by it. Where no
    validation images are given, a stratified share of the training images is set aside. A test split is
    never used for that.

    Args:
        data: which images.
        seed: for the share that is set aside and for the samples that are drawn.

    Raises:
        DataError: the images or their labels cannot be used as they are; the message says what to do.
    """
    name, splits = find_splits(data)
    labels = _label_map(splits["train"])
    train = _indexed(splits["train"], labels)
    validation = _indexed(splits["validation"], labels) if "validation" in splits else None
    # Public benchmarks often keep the labels of their test images to themselves.
    labelled = "test" in splits and any(splits["test"].names)
    test = _indexed(splits["test"], labels) if labelled else None
    if validation is None:
        train, validation = split_off(train, data.train_val_split, labels, seed)
    most = data.max_train_samples
    if most is not None and most < len(labels):
        raise DataError(
            f"--max_train_samples {most} is less than one image for each of {len(labels)} classes; raise it"
        )
    return ImageSets(
        sample(train, most, seed),
        sample(validation, data.max_eval_samples, seed),
        None if test is None else sample(test, data.max_eval_samples, seed),
        labels,
        name,
    )


# Where the images come from ---------------------------------------------------------------------------


def find_splits(data: DataArguments) -> tuple[str, dict[str, NamedImages]]:
    """The name of the data set and its splits (train, validation, test), labels as they are written there.

    Raises:
        DataError: there are no images, or their labels cannot be told.
    """
    if data.train_dir is not None:
        folders = {"train": data.train_dir, "validation": data.validation_dir, "test": data.test_dir}
        splits = {split: read_folder(Path(path).expanduser(), split) for split, path in folders.items() if path}
        return _folder_name(Path(data.train_dir).expanduser().resolve()), splits
    if data.dataset_name is None:
        name, loaded = EMBEDDED_DATA.partition("==")[0], embedded_images()
    else:
        from hfft.formats import load_source  # it builds on this module

        name, loaded = data.dataset_name, load_source(data)
    return name, {split: read_split(loaded[source], split, name, data) for split, source in _pick_splits(loaded, name)}


def locate(place: str) -> dict[str, str]:
    """Which options of `DataArguments` a folder, a file or a Hub id stands for.

    A folder of class folders is training images; a folder of split folders is read split by split; the rest
    is a data set.
    """
    folder = Path(place).expanduser()
    if not folder.is_dir():
        return {"dataset_name": place}
    inside = {entry.name for entry in os.scandir(folder) if entry.is_dir() and not hidden(entry.name)}
    known = {name: split for split, names in SPLIT_NAMES.items() for name in names}
    if any(entry.is_file() and not hidden(entry.name) for entry in os.scandir(folder)):
        return {"dataset_name": place}
    if inside and inside <= set(known) and any(known[name] == "train" for name in inside):
        return {f"{known[name]}_dir": str(folder / name) for name in sorted(inside)}
    return {"train_dir": place}


def _folder_name(folder: Path) -> str:
    """The folder's name, or that of the folder above where it only says which split this is."""
    return folder.parent.name if folder.name in SPLIT_NAMES["train"] else folder.name


def read_folder(folder: Path, split: str) -> NamedImages:
    """One folder per class, as torchvision's ImageFolder reads it, hidden files left out.

    Raises:
        DataError: there is no such folder, or it holds no images in folders.
    """
    flag = {"train": "--train_dir", "validation": "--validation_dir", "test": "--test_dir"}[split]
    if not folder.is_dir():
        raise DataError(f"{flag} {folder}: there is no such folder; give a folder that holds one folder per class")
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not hidden(entry.name))
    _check_classes(folder, flag, classes)
    index = {name: position for position, name in enumerate(classes)}
    found = make_dataset(str(folder), index, extensions=EXTENSIONS, allow_empty=True)
    rows = [(path, classes[label]) for path, label in found if not hidden(Path(path).name)]
    if not rows:
        raise DataError(f"{flag} {folder}: its folders hold no images ({', '.join(EXTENSIONS)}); put some in")
    empty = sorted(set(classes) - {label for _, label in rows})
    if empty and split == "train":
        raise DataError(f"{flag} {folder}: the class {empty[0]!r} has no images; add some or remove the folder")
    table = {IMAGE_COLUMN: [{"path": path, "bytes": None} for path, _ in rows]}
    features = datasets.Features({IMAGE_COLUMN: datasets.Image(decode=False)})
    images = ImageSet(datasets.Dataset.from_dict(table, features), np.empty(0, np.int64), folder.name, folder)
    return NamedImages(images, [label for _, label in rows], classes)


def hidden(name: str) -> bool:
    """Whether a file or folder is the system's own business."""
    return name.startswith((".", "__MACOSX"))


def _check_classes(folder: Path, flag: str, classes: Sequence[str]) -> None:
    if not classes:
        raise DataError(f"{flag} {folder}: it holds no folders; put the images of each class into a folder of its own")
    known = {name for names in SPLIT_NAMES.values() for name in names}
    if set(classes) <= known:
        raise DataError(
            f"{flag} {folder}: its folders {', '.join(classes)} look like splits, not classes; "
            f"pass them as --train_dir {folder / classes[0]} and so on, or {folder} as --dataset_name"
        )


def load_dataset(
    name: str, config: str | None, files: dict[str, list[str]] | None = None, **options: Any
) -> datasets.DatasetDict:
    """The splits of a data set on the Hub or in a folder, as the datasets library reads it.

    Args:
        name: Hub id, folder, or one of the library's own formats.
        config: configuration of the data set, where it has several.
        files: by split, the files of a format.
        options: of `datasets.load_dataset`, ``streaming`` for instance.

    Raises:
        DataError: it cannot be loaded.
    """
    folder = Path(name)
    saved = any((folder / marker).is_file() for marker in ("dataset_dict.json", "dataset_info.json", "state.json"))
    try:
        with quiet(folder.is_dir() or files is not None):
            if saved:
                loaded = datasets.load_from_disk(name)
            else:
                loaded = datasets.load_dataset(name, config, data_files=files, **options)
    except (OSError, ValueError, LookupError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(
            f"--dataset_name {next(iter(files.values()))[0] if files else name}: cannot be loaded ({reason}); "
            "give a Hub id, or a folder that the datasets library can load"
        ) from error
    return loaded if isinstance(loaded, dict) else datasets.DatasetDict(train=loaded)


@contextmanager
def quiet(active: bool) -> Iterator[None]:
    """No progress bars of `datasets` for what is on this machine; downloads keep theirs."""
    active = active and not datasets.are_progress_bars_disabled()
    if active:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if active:
            datasets.enable_progress_bars()


def _pick_splits(loaded: datasets.DatasetDict, name: str) -> list[tuple[str, str]]:
    """Pairs of our name for a split and the data set's own."""
    found = {}
    for split, names in SPLIT_NAMES.items():
        source = next((each for each in names if each in loaded and (split == "train" or len(loaded[each]))), None)
        if source is not None:
            found[split] = source
    if "train" not in found:
        raise DataError(f"{name}: it has the splits {', '.join(loaded)} but no 'train'; name the one to train on so")
    return list(found.items())


# Columns and labels -----------------------------------------------------------------------------------


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


def _label_map(train: NamedImages) -> tuple[str, ...]:
    """The classes that training images have, in the data set's own order."""
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


def _indexed(split: NamedImages, labels: tuple[str, ...]) -> ImageSet:
    index = {label: position for position, label in enumerate(labels)}
    for row, name in enumerate(split.names):
        if name not in index:
            raise _unmapped(split, row)
    return replace(split.images, labels=np.array([index[str(name)] for name in split.names], dtype=np.int64))
