"""From options to image sets: find the splits, map the labels, set a validation share aside."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import numpy as np

from hfft.arguments import DataArguments
from hfft.data.archives import load_source
from hfft.data.images import ImageSet
from hfft.data.labels import NamedImages, indexed, label_map, read_split
from hfft.data.probe import look_at_all
from hfft.data.sampling import sample, split_off
from hfft.data.sources import SPLIT_NAMES, hidden, read_folder
from hfft.demo import EMBEDDED_DATA, embedded_images
from hfft.errors import DataError


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


def without_bad_images(sets: ImageSets) -> ImageSets:
    """Return the sets without the images that cannot be read; their files are named in ``skipped``.

    Every image is decoded once for this, with all cores.

    Raises:
        DataError: a class is left without training images, or a split without any.
    """
    train, skipped = _readable(sets.train)
    validation, more = _readable(sets.validation)
    skipped += more
    test = sets.test
    if test is not None:
        test, more = _readable(test)
        skipped += more
    lost = sorted({*range(len(sets.labels))} - set(train.labels.tolist()))
    if lost:
        raise DataError(
            f"{sets.train.place}: no training image of the class {sets.labels[lost[0]]!r} can be read; "
            "see hfft check, and repair them or leave the class out"
        )
    return replace(sets, train=train, validation=validation, test=test, skipped=tuple(skipped))


def _readable(images: ImageSet) -> tuple[ImageSet, list[str]]:
    bad = [look for look in look_at_all(images) if look.problem]
    if not bad:
        return images, []
    if len(bad) == len(images):
        raise DataError(f"{images.place}: not one of its {len(images)} images can be read; see hfft check")
    rows = np.setdiff1d(np.arange(len(images)), [look.row for look in bad])
    return images.select(rows), [images.files[look.row] for look in bad]
