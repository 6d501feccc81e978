"""From options to image sets: find the splits, map the labels, set a validation share aside."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import numpy as np

from hfft.arguments import DataArguments
from hfft.data.images import ImageSet
from hfft.data.labels import LABEL_COLUMNS, NamedImages, find_column, indexed, label_map, of_folders, read_split
from hfft.data.layout import EXTENSIONS, SPLIT_NAMES, given_to_nothing, hidden, pick_splits
from hfft.data.probe import probe_images
from hfft.data.readers.archives import ARCHIVES, is_archive
from hfft.data.readers.folders import ClassFolders, open_class_folders, read_split_folder, refuse_empty
from hfft.data.readers.shards import read_shards, read_stream, shards_of
from hfft.data.readers.sources import is_saved, load_dataset, walk
from hfft.data.readers.tables import TABLES, is_metadata, read_metadata, read_table, table_columns
from hfft.data.sampling import describe_groups, describe_share, sample, split_off, with_groups
from hfft.demo import EMBEDDED_DATA, embedded_images
from hfft.errors import DataError
from hfft.tasks.contract import Task
from hfft.wording import count_of


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
        notes: what the data set was taken for, and what else was left out.
        held_back: whether no validation images were given, so that a share of the training images was set aside.
    """

    train: ImageSet
    validation: ImageSet
    test: ImageSet | None
    labels: tuple[str, ...]
    name: str
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    held_back: bool = False

    @property
    def task(self) -> Task:
        """What the labels mean."""
        return self.train.task

    def of_task(self, task: Task) -> ImageSets:
        """Return the sets with another task, whose labels are encoded alike."""
        test = None if self.test is None else replace(self.test, task=task)
        return replace(
            self, train=replace(self.train, task=task), validation=replace(self.validation, task=task), test=test
        )


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
    found = find_splits(data)
    splits = found.splits
    labels = label_map(splits["train"])
    task = splits["train"].images.task
    train = with_groups(indexed(splits["train"], labels), data)
    validation = with_groups(indexed(splits["validation"], labels), data) if "validation" in splits else None
    # Public benchmarks often keep the labels of their test images to themselves.
    labelled = "test" in splits and any(splits["test"].names)
    test = with_groups(indexed(splits["test"], labels), data) if labelled else None
    notes = list(found.notes)
    if "test" in splits and not labelled:
        notes.append(
            "Left out: the test split, whose "
            f"{count_of(len(splits['test'].names), 'image has', 'images have')} no labels"
        )
    if validation is None:
        train, validation = split_off(train, data.train_val_split, labels, seed)
        notes += describe_share(train, validation, data.train_val_split)
    most = data.max_train_samples
    if most is not None and most < len(labels) and task.chooses:
        raise DataError(
            f"--max_train_samples {most} is less than one image for each of {len(labels)} classes; raise it"
        )
    sets = ImageSets(
        sample(train, most, seed),
        sample(validation, data.max_eval_samples, seed),
        None if test is None else sample(test, data.max_eval_samples, seed),
        labels,
        found.name,
        notes=(*notes, *describe_groups(train, {"validation": validation, "test": test})),
        held_back="validation" not in splits,
    )
    return sets.of_task(task.told(data).fitted_to(sets.train.labels))


def load_usable_sets(data: DataArguments, seed: int, test: bool = True) -> ImageSets:
    """Return what `load_image_sets` gives, without images that cannot be read where ``--on_bad_image skip`` says so.

    Args:
        data: which images.
        seed: of the split and of the samples.
        test: whether to hand out the test images.

    Raises:
        DataError: the images or their labels cannot be used as they are.
    """
    sets = load_image_sets(data, seed)
    sets = sets if test else replace(sets, test=None)
    return without_bad_images(sets) if data.on_bad_image == "skip" else sets


# Where the images come from ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A data set whose splits are read when they are asked for.

    Args:
        name: of the data set, for people.
        splits: its own names for its splits, those without images left out.
        read: returns the images of one of them; its own name, then ours, and how labels are read.
        notes: what it was taken for, and what was left out.
    """

    name: str
    splits: tuple[str, ...]
    read: Callable[[str, str, DataArguments], NamedImages]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """The splits of a data set (``train``, ``validation``, ``test``), labels as they are written there, and notes."""

    name: str
    splits: dict[str, NamedImages]
    notes: tuple[str, ...] = ()


def find_splits(data: DataArguments) -> Found:
    """Read the images that the options name.

    Raises:
        DataError: there are no images, or their labels cannot be told.
    """
    if data.train_dir is not None:
        return _split_folders(data)
    source = open_source(data)
    picked = pick_splits(source.splits)
    if "train" not in picked:
        raise DataError(
            f"{source.name}: it has the splits {', '.join(source.splits)} but no 'train'; name the one to train on so"
        )
    train = source.read(picked["train"], "train", data)
    known = replace(data, task=train.images.task.name)  # a split alone may look like another task
    others = {split: source.read(own, split, known) for split, own in picked.items() if split != "train"}
    splits = {"train": train, **others}
    unused = [own for own in source.splits if own not in picked.values()]
    return Found(source.name, splits, (*source.notes, *splits["train"].notes, *given_to_nothing(unused)))


def _split_folders(data: DataArguments) -> Found:
    folders = {"train": data.train_dir, "validation": data.validation_dir, "test": data.test_dir}
    splits: dict[str, NamedImages] = {}
    notes: list[str] = []
    for split, folder in folders.items():
        if folder:
            known = splits["train"].order if splits else ()
            named, more = read_split_folder(Path(folder).expanduser(), split, known)
            splits[split] = of_folders(named, data)
            more = (*more, *_passed_over(Path(folder).expanduser(), data))
            notes += [f"{split}: {note}" if any(list(folders.values())[1:]) else note for note in more]
    name = _folder_name(Path(str(data.train_dir)).expanduser().resolve())
    return Found(name, splits, (*notes, *splits["train"].notes))


def _passed_over(folder: Path, data: DataArguments) -> Iterator[str]:
    """Yield a note on each table of labels in a folder whose class folders are read instead."""
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if is_metadata(file.name) and _names_labels(table_columns(file), data):
            yield f"Not read: {file.name}, since classes are the folders' names here; --dataset_name {folder} reads it"


def _folder_name(folder: Path) -> str:
    """The folder's name, or that of the folder above where it only says which split this is."""
    return folder.parent.name if folder.name in SPLIT_NAMES["train"] else folder.name


def open_source(data: DataArguments) -> Source:
    """Open what ``--dataset_name`` names: a file, a folder, or a Hub id; the embedded images where it names nothing.

    Raises:
        DataError: it cannot be loaded, or holds no images.
        ArgumentError: ``--streaming`` lacks a limit.
    """
    if data.dataset_name is None:
        return _loaded(EMBEDDED_DATA.partition("==")[0], embedded_images())
    name = data.dataset_name
    path = Path(name).expanduser()
    if data.streaming:
        return _loaded(name, read_stream(name, data))
    if shards := shards_of(path):
        return _loaded(name, read_shards(shards), ("Read as WebDataset shards",))
    if path.is_dir() and not is_saved(path):
        return _folder(name, path, data)
    if is_archive(path):
        return _class_folders(name, open_class_folders(path))
    if path.is_file() and path.suffix.lower() in TABLES:
        return _tabled(name, read_table(path, data))
    if path.is_file():
        known = ", ".join((*ARCHIVES, *TABLES))
        raise DataError(
            f"--dataset_name {path}: this kind of file is not known; give a folder, a Hub id, or one of {known}"
        )
    if not path.exists() and path.name.lower().endswith((*ARCHIVES, *TABLES)):
        raise DataError(f"--dataset_name {path}: there is no such file")
    return _loaded(name, load_dataset(name, data.dataset_config_name))


def _folder(name: str, path: Path, data: DataArguments) -> Source:
    """A folder: class folders before anything else, unless it holds tables that say more."""
    paths, _ = walk(path)
    shown = [each for each in paths if not any(map(hidden, each.split("/")))]
    if any(each.lower().endswith((".parquet", ".arrow")) and not is_metadata(Path(each).name) for each in shown):
        return _loaded(name, load_dataset(name, data.dataset_config_name))
    metadata = [path / each for each in sorted(shown) if is_metadata(each.rpartition("/")[2])]
    labelled = [file for file in metadata if _names_labels(table_columns(file), data)]
    images = [each for each in shown if each.lower().endswith(EXTENSIONS)]
    if labelled:
        return _tabled(name, read_metadata(path, labelled, data, images))
    found = open_class_folders(path)
    if len(found.layout.classes) < 2 and metadata:
        return _tabled(name, read_metadata(path, metadata, data, images))
    if not images and any(each.lower().endswith(tuple(TABLES)) for each in shown):
        return _loaded(name, load_dataset(name, data.dataset_config_name))
    source = _class_folders(name, found)
    captions = [f"Not read: {file.relative_to(path)}, which has no column 'label'" for file in metadata]
    return replace(source, notes=(*source.notes, *captions))


def _names_labels(columns: list[str], data: DataArguments) -> bool:
    wanted = data.label_columns or ([data.label_column_name] if data.label_column_name else LABEL_COLUMNS)
    return any(find_column(columns, name) is not None for name in wanted)


def _class_folders(name: str, found: ClassFolders) -> Source:
    refuse_empty(found, "train")
    splits = tuple(found.layout.splits)
    return Source(name, splits, lambda own, split, data: of_folders(found.read(own, name), data), found.notes)


def _tabled(name: str, read: tuple[datasets.DatasetDict, list[str]]) -> Source:
    return _loaded(name, read[0], read[1])


def _loaded(name: str, loaded: datasets.DatasetDict, notes: Sequence[str] = ()) -> Source:
    # A training split stays where it is empty: its absence would be told as something else.
    splits = tuple(split for split in loaded if len(loaded[split]) or pick_splits([split]).get("train"))
    return Source(name, splits, lambda own, split, data: read_split(loaded[own], split, name, data), tuple(notes))


def without_bad_images(sets: ImageSets) -> ImageSets:
    """Return the sets without the images that cannot be read; their files are named in ``skipped``.

    Every image is decoded once for this, with all cores.

    Raises:
        DataError: a class is left without training images, or a split without any.
    """
    train, skipped = readable(sets.train)
    validation, more = readable(sets.validation)
    skipped += more
    test = sets.test
    if test is not None:
        test, more = readable(test)
        skipped += more
    left = train.task.classes(train.task.decode(train.labels, sets.labels), sets.labels)
    lost = [label for label in sets.labels if label not in left]
    if lost:
        raise DataError(
            f"{sets.train.place}: no training image of the class {lost[0]!r} can be read; "
            "see hfft check, and repair them or leave the class out"
        )
    return replace(sets, train=train, validation=validation, test=test, skipped=tuple(skipped))


def readable(images: ImageSet) -> tuple[ImageSet, list[str]]:
    """Return the images that can be read, and the files of the others.

    Raises:
        DataError: not one can.
    """
    bad = [probe for probe in probe_images(images) if probe.problem]
    if not bad:
        return images, []
    if len(bad) == len(images):
        raise DataError(f"{images.place}: not one of its {len(images):,} images can be read; see hfft check")
    rows = np.setdiff1d(np.arange(len(images)), [probe.row for probe in bad])
    return images.select(rows), [images.files[probe.row] for probe in bad]


def skipped_line(files: Sequence[str], listed: str = "") -> str:
    """Say how many images cannot be read, and name a few; of many, `listed` says where all are named."""
    more = f", ...{listed and f'; {listed}'}" if len(files) > 3 else ""
    return f"Skipped {count_of(len(files), 'image')} that cannot be read: {', '.join(files[:3])}{more}"
