"""Where images lie: folders of class folders, and what the `datasets` library loads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

from hfft.data.images import IMAGE_COLUMN, ImageSet
from hfft.data.labels import NamedImages
from hfft.errors import DataError, one_line

SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
EXTENSIONS = (*IMG_EXTENSIONS, ".gif")


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
        reason = one_line(error)
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
