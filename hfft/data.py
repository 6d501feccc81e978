"""Where the images come from: folders, a data set, or the embedded default; splits and the label map."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from hfft.arguments import DataArguments
from hfft.columns import read_split
from hfft.demo import EMBEDDED_DATA, embedded_images
from hfft.errors import DataError
from hfft.images import IMAGE_COLUMN, ImageSet
from hfft.labels import NamedImages, indexed, label_map
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
    labels = label_map(splits["train"])
    train = indexed(splits["train"], labels)
    validation = indexed(splits["validation"], labels) if "validation" in splits else None
    # Public benchmarks often keep the labels of their test images to themselves.
    labelled = "test" in splits and any(splits["test"].names)
    test = indexed(splits["test"], labels) if labelled else None
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
