"""Class folders, on disk or in an archive: one layout, and the images of each split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np

from hfft.data.images import IMAGE_COLUMN, ImageSet
from hfft.data.labels import NamedImages
from hfft.data.layout import Layout, composed, layout, seen_endings, split_of
from hfft.data.readers.archives import ARCHIVES, is_archive, members, pack
from hfft.data.readers.sources import refuse_odd_name, walk
from hfft.errors import DataError


@dataclass(frozen=True)
class ClassFolders:
    """A folder or an archive of class folders.

    Args:
        path: of the folder or archive.
        layout: what it was taken for.
        names: of an archive: the members' own names by path.
    """

    path: Path
    layout: Layout
    names: dict[str, str]

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of how it was read."""
        return self.layout.describe(), *self.layout.notes

    def read(self, split: str, name: str = "") -> NamedImages:
        """Return the images of a split.

        Args:
            split: one of those in the layout.
            name: of the data set; by default each set is called as its folder is.

        Raises:
            DataError: an archive's member cannot be read.
        """
        entries = self.layout.splits[split]
        labels: list[str | None] = [entry.label for entry in entries]
        if self.path.is_dir():
            place = self.path / self.layout.place(split)
            values = [{"path": str(self.path / entry.source), "bytes": None} for entry in entries]
            features = datasets.Features({IMAGE_COLUMN: datasets.Image(decode=False)})
            rows, root = datasets.Dataset.from_dict({IMAGE_COLUMN: values}, features), place
        else:
            rows, root = pack(self.path, entries, self.names), self.path.parent
        title = f"{name}/{split}" if name else root.name
        order, folders = sorted({entry.label for entry in entries}), tuple(composed(entry.folder) for entry in entries)
        images = ImageSet(rows, np.empty(0, np.int64), title, root, file=None if self.path.is_dir() else self.path)
        return NamedImages(images, labels, order, folders=folders)


def open_class_folders(path: Path, known: Collection[str] = ()) -> ClassFolders:
    """Look into a folder or an archive.

    Args:
        path: of the folder or archive.
        known: classes that are known already.

    Raises:
        DataError: it cannot be read, or it is not clear which folders are splits.
    """
    if path.is_dir():
        refuse_odd_name(path)
    names, dropped = members(path) if is_archive(path) else (None, None)
    paths, dropped = (list(names), dropped) if names is not None else walk(path)
    try:
        tops = {name.partition("/")[0] for name in known}  # of a tree of classes
        return ClassFolders(path, layout(paths, tops, dropped), names or {})
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def read_split_folder(path: Path, split: str, known: Collection[str] = ()) -> tuple[NamedImages, tuple[str, ...]]:
    """Return the images that ``--train_dir``, ``--validation_dir`` or ``--test_dir`` names, and notes.

    Args:
        path: a folder that holds one folder per class, or an archive of one.
        split: ``train``, ``validation`` or ``test``.
        known: the classes of the training images, where they are known.

    Raises:
        DataError: there is no such folder, or it holds no images in folders.
    """
    flag = {"train": "--train_dir", "validation": "--validation_dir", "test": "--test_dir"}[split]
    if not path.is_dir() and not is_archive(path):
        what = "it is not a folder" if path.exists() else "there is no such folder"
        raise DataError(f"{flag} {path}: {what}; give a folder that holds one folder per class, or a zip or tar of one")
    try:
        found = open_class_folders(path, known)
        plan = found.layout
        if plan.folders and set(plan.folders) != {split}:
            folders = ", ".join(plan.folders.values())
            raise DataError(
                f"{path}: its folders {folders} look like splits, not classes; pass them as --train_dir "
                f"{path / next(iter(plan.folders.values()))} and so on, or {path} as --dataset_name"
            )
        own = split if plan.folders else "train"
        refuse_empty(found, own if split == "train" else "")
        return found.read(own), found.notes
    except DataError as error:
        raise DataError(f"{flag} {error}") from error


def refuse_empty(found: ClassFolders, training: str) -> None:
    """Refuse folders without images, and a class without training images.

    Args:
        found: the folders.
        training: the split to train on, whose classes must all have images; empty where there is none.

    Raises:
        DataError: no images lie in folders, or a class has none.
    """
    plan = found.layout
    if not plan.splits and "in no class folder" in plan.left_out:
        raise DataError(
            f"{found.path}: its images lie in no folders; put the images of each class into a folder of its own"
        )
    if not plan.splits and plan.empty:
        endings = sum(plan.empty.values(), Counter[str]())
        raise DataError(f"{found.path}: its folders hold no images{seen_endings(endings)}; put some in")
    packed = sorted(name for names in plan.left_out.values() for name in names if name.lower().endswith(ARCHIVES))
    if not plan.splits and packed:
        first = next((name for name in packed if split_of(Path(name).name) == "train"), packed[0])
        raise DataError(
            f"{found.path}: it holds no folders of images, but {', '.join(packed[:3])}{', ...' * (len(packed) > 3)}; "
            f"give each archive by itself: --train_dir {found.path / first}{' and so on' * (len(packed) > 1)}"
        )
    if not plan.splits:
        raise DataError(
            f"{found.path}: it holds no folders of images; put the images of each class into a folder of its own"
        )
    if training in plan.splits and plan.empty:
        name, endings = next(iter(plan.empty.items()))
        raise DataError(
            f"{found.path}: the class {name!r} has no images{seen_endings(endings)}; add some or remove the folder"
        )
