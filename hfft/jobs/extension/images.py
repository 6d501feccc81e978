"""The images of an extended run: those that the run had, found again by their content, and the new ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

from hfft.arguments import DataArguments
from hfft.data.images import IMAGE_COLUMN, ImageSet, concatenated, held
from hfft.data.labels import NamedImages, loose
from hfft.data.load import Found, ImageSets, find_splits, readable, skipped_line
from hfft.data.readers.sources import quiet
from hfft.data.sampling import named_groups, split_off, with_groups
from hfft.errors import DataError, HfftError, one_line
from hfft.files import cannot_write, whole_file
from hfft.tasks.contract import needs_one_label
from hfft.trust.classes import Kept, digests
from hfft.wording import count_of

_ALONE = "The new images stand alone, each a group of its own: {}"
SPLITS = ("train", "validation", "test")
Places = dict[bytes, list[int]]


@dataclass(frozen=True)
class Joined:
    """Old and new images together.

    Args:
        sets: with the run's classes first, then the new ones; in each split the old images come first.
        old: how many images of each split are the run's own.
        new: names of the new classes.
        gone: why the run's own images are not among them; empty where they are.
    """

    sets: ImageSets
    old: dict[str, int]
    new: tuple[str, ...]
    gone: str

    def split(self, name: str) -> ImageSet | None:
        """Return the images of a split."""
        found: ImageSet | None = getattr(self.sets, name)
        return found


def find_old(data: DataArguments, kept: Kept) -> dict[str, ImageSet]:
    """Find the images that a run had, by split, wherever they now are among those that it names.

    Args:
        data: where the run found its images.
        kept: which of them it had, and with which classes.

    Raises:
        DataError: they cannot be read, or not all of them are there.
    """
    found = find_splits(data)
    parts = [replace(named.images, labels=np.zeros(len(named.names), np.int64)) for named in found.splits.values()]
    pool = concatenated([with_groups(images, data) for images in parts])
    places: Places = {}
    for row, digest in enumerate(digests(pool.contents())):
        places.setdefault(digest.tobytes(), []).append(row)
    return {
        split: replace(
            pool.select(_rows(found, contents, places)), labels=kept.labels[split], name=f"{found.name}/{split}"
        )
        for split, contents in kept.contents.items()
    }


def _rows(found: Found, contents: NDArray[np.uint8], places: Places) -> list[int]:
    rows = [places.get(digest.tobytes()) for digest in contents]
    if missing := rows.count(None):
        raise DataError(f"{found.name} lacks {missing:,} of the {len(rows):,} images that the run had; put them back")
    return [row[0] for row in rows if row is not None]


def join(
    run: DataArguments,
    more: DataArguments,
    labels: Sequence[str],
    kept: Kept,
    seed: int,
    say: Callable[[str], None],
) -> Joined:
    """Put the images of a run and new ones together; of the new ones a share is held back, as the run did.

    Args:
        run: where the run found its images, and how they are read.
        more: where the new ones are.
        labels: the run's classes.
        kept: which images it had.
        seed: of the share that is held back.
        say: prints a line for the user.

    Raises:
        DataError: there are no new images, or their labels cannot be used.
    """
    try:
        old, gone = find_old(run, kept), ""
    except HfftError as error:
        old, gone = {}, one_line(error)
    found, more = _find(more, say)
    for named in found.splits.values():
        needs_one_label(named.images.task, "hfft extend")
    new = _new_classes(found, labels)
    names = (*labels, *new)
    known = {digest.tobytes() for contents in kept.contents.values() for digest in contents}
    grouped = run.group_column is not None or run.group_pattern is not None
    added = {split: _fresh(named, names, known, more, grouped, say) for split, named in found.splits.items()}
    if not any(found.splits["train"].names):
        raise DataError(f"{found.name}: not one of its images has a label; fill them in")
    if not len(added["train"]):
        raise DataError(f"{found.name}: the run has every one of its images already; give others")
    if "validation" not in added:
        added |= _held_back(added["train"], more.train_val_split, names, seed)
    together = {split: _together(old.get(split), added.get(split)) for split in SPLITS}
    train, validation = together["train"], together["validation"]
    assert train is not None
    if validation is None:
        raise DataError(
            f"{found.name}: no image can be held back to measure with; give two of a class, or --validation_dir"
        )
    sets = ImageSets(train, validation, together["test"], names, found.name, notes=found.notes)
    return Joined(sets, {split: len(old[split]) if split in old else 0 for split in SPLITS}, new, gone)


def _find(more: DataArguments, say: Callable[[str], None]) -> tuple[Found, DataArguments]:
    """Return new images, and how they are read: without a column of groups where they are a table that lacks it."""
    try:
        return find_splits(more), more
    except DataError as error:
        if more.group_column is None:
            raise
        alone = replace(more, group_column=None)
        found = find_splits(alone)  # which raises whatever else is wrong
        say(_ALONE.format(one_line(error)))
        return found, alone


def _grouped(images: ImageSet, data: DataArguments, say: Callable[[str], None]) -> ImageSet:
    """Return new images with the groups that the run's are told by; where they name none, each stands alone."""
    try:
        images = with_groups(images, data)
    except DataError as error:
        say(_ALONE.format(one_line(error)))
    if images.groups is not None:
        return images
    return replace(images, groups=named_groups([None] * len(images), images.name))


def _new_classes(found: Found, labels: Sequence[str]) -> tuple[str, ...]:
    """Return the classes that the run does not know, in the order of the new images.

    Raises:
        DataError: one has no training images, or differs from a known one in case or spaces alone.
    """
    given = {split: {name for name in named.names if name is not None} for split, named in found.splits.items()}
    order = [name for named in found.splits.values() for name in named.order]
    new = tuple(dict.fromkeys(name for name in order if name in given["train"] and name not in labels))
    if lacking := sorted(str(name) for names in given.values() for name in names - {*labels, *new}):
        raise DataError(f"{found.name}: the class {lacking[0]!r} has no training images; add some, or leave it out")
    alike = {loose(label): label for label in labels}
    for name in new:
        if loose(name) in alike:
            raise DataError(
                f"{found.name}: the class {name!r} and the run's {alike[loose(name)]!r} differ in case or spaces "
                "alone; rename it to add to that class"
            )
    return new


def _fresh(
    named: NamedImages,
    labels: tuple[str, ...],
    known: set[bytes],
    data: DataArguments,
    grouped: bool,
    say: Callable[[str], None],
) -> ImageSet:
    """Return the images that have a label and that the run did not have, with the numbers of their classes."""
    rows = [row for row, name in enumerate(named.names) if name is not None]
    numbers = {label: number for number, label in enumerate(labels)}
    encoded = np.array([numbers[str(named.names[row])] for row in rows], np.int64)
    images = replace(named.images, labels=np.zeros(len(named.names), np.int64)).select(rows)
    images = replace(images, labels=encoded)
    images = _grouped(images, data, say) if grouped else images
    new = [row for row, digest in enumerate(digests(images.contents())) if digest.tobytes() not in known]
    if unlabelled := len(named.names) - len(rows):
        say(f"Left out: {count_of(unlabelled, 'image')} of {named.images.place} without a label.")
    if doubled := len(rows) - len(new):
        say(f"Left out: {count_of(doubled, 'image')} of {named.images.place} that the run has already.")
    images = images.select(new)
    if data.on_bad_image != "skip" or not new:
        return images
    images, skipped = readable(images)
    if skipped:
        say(skipped_line(skipped))
    return images


def _held_back(train: ImageSet, share: float, labels: tuple[str, ...], seed: int) -> dict[str, ImageSet]:
    """Part new images; a class with a single one keeps it for training."""
    counts = np.bincount(train.labels, minlength=len(labels))
    several = counts[train.labels] > 1
    if not several.any():
        return {}
    rest, held_out = split_off(train.select(np.flatnonzero(several)), share, labels, seed)
    single = train.select(np.flatnonzero(~several))
    return {"train": concatenated([rest, single]) if len(single) else rest, "validation": held_out}


def _together(old: ImageSet | None, new: ImageSet | None) -> ImageSet | None:
    found = [images for images in (old, new) if images is not None and len(images)]
    return concatenated(found) if found else None


def write_list(sets: ImageSets, target: Path) -> None:
    """Write the list of all images: columns ``image``, ``label``, ``split``, and ``group`` where there are groups.

    Images that are not files of their own are in it as a whole.

    Raises:
        OutputError: it cannot be written.
    """
    rows = [row for split in SPLITS for row in _listed(sets, split)]
    whole = any(value["bytes"] is not None for value, *_ in rows)
    columns: dict[str, list[Any]] = {
        IMAGE_COLUMN: [held(value, file) if whole else value["path"] for value, file, *_ in rows],
        "label": [label for *_, label, _, _ in rows],
        "split": [split for *_, split, _ in rows],
    }
    kinds: dict[str, Any] = {
        IMAGE_COLUMN: datasets.Image(decode=False) if whole else datasets.Value("string"),
        "label": datasets.ClassLabel(names=list(sets.labels)),  # which keeps their order
        "split": datasets.Value("string"),
    }
    if sets.train.groups is not None:
        columns["group"], kinds["group"] = [group for *_, group in rows], datasets.Value("string")
    try:
        with quiet(True), whole_file(target) as partial:
            datasets.Dataset.from_dict(columns, datasets.Features(kinds)).to_parquet(str(partial))
    except OSError as error:
        raise cannot_write(target, error) from error


def _listed(sets: ImageSets, split: str) -> Iterator[tuple[dict[str, Any], str, int, str, str]]:
    images: ImageSet | None = getattr(sets, split)
    if images is None:
        return
    groups = [""] * len(images) if images.groups is None else images.groups.tolist()
    for value, file, label, group in zip(images.values(), images.files, images.labels.tolist(), groups, strict=True):
        yield value, file, label, split, group
