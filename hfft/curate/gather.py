"""The images that a command is about: a data set, those of a finished run, or files without labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import datasets
import numpy as np

from hfft.arguments import DataArguments
from hfft.curate.encoder import run_record
from hfft.data.images import IMAGE_COLUMN, ImageSet
from hfft.data.labels import NamedImages
from hfft.data.layout import EXTENSIONS, hidden
from hfft.data.load import find_splits
from hfft.data.readers.sources import walk
from hfft.data.sampling import stratified, with_groups
from hfft.errors import ArgumentError, DataError, OutputError
from hfft.files import cannot_write, refuse_unwritable
from hfft.inference.classifier import find_images
from hfft.inference.runs import recorded_images
from hfft.output_folder import refuse_unnamable
from hfft.report.record import RunRecord, lost_images
from hfft.tasks.contract import needs_one_label
from hfft.wording import count_of

UNLABELLED = "unlabelled"
"""The split of images without labels."""
_SEED = 0  # of a sample: which images are looked at does not depend on a command's own seed
_TABLES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".arrow")


@dataclass(frozen=True)
class Gathered:
    """Images by split, their labels as they are written.

    Args:
        name: for people.
        splits: as the data set has them; ``train`` alone where it has none.
        notes: what it was taken for, and what was left out.
        record: of the run whose images these are.
    """

    name: str
    splits: dict[str, NamedImages]
    notes: tuple[str, ...] = ()
    record: RunRecord | None = None

    @property
    def sets(self) -> dict[str, ImageSet]:
        """The images alone, with zeros for labels."""
        return {split: unlabelled(named.images, len(named.names)) for split, named in self.splits.items()}

    @property
    def counts(self) -> dict[str, int]:
        """How many images each split has."""
        return {split: len(named.names) for split, named in self.splits.items()}

    def select(self, rows: dict[str, list[int]]) -> Gathered:
        """Return some rows of each split."""
        splits = {
            split: replace(
                named,
                images=unlabelled(named.images, len(named.names)).select(rows[split]),
                names=[named.names[row] for row in rows[split]],
            )
            for split, named in self.splits.items()
        }
        return replace(self, splits=splits)


def gather(data: DataArguments, place: str | None) -> Gathered:
    """Find the images, labelled or not.

    Args:
        data: which, where `place` does not say.
        place: a folder, file or Hub id, or the folder of a finished run; None for what `data` says.

    Raises:
        ArgumentError: they are named twice.
        DataError: there are no images, or their labels cannot be told.
    """
    if place is not None and (data.train_dir or data.dataset_name):
        raise ArgumentError("give the images once: as DATA, or by --train_dir or --dataset_name")
    record = run_record(place)
    if record is not None:
        if lost := lost_images(record):
            raise DataError(f"the images of {place} itself cannot be read here ({lost})")
        data = DataArguments(**recorded_images(record))
    elif place is not None:
        data = replace(data, dataset_name=place)
    if record is None and place is not None and _is_flat(Path(place).expanduser()):
        return gather_unlabelled([place])
    found = find_splits(data)
    for named in found.splits.values():
        needs_one_label(named.images.task, "looking after images (hfft embed, labels and next)")
    splits = {
        split: replace(named, images=with_groups(unlabelled(named.images, len(named.names)), data))
        for split, named in found.splits.items()
    }
    return _sampled(Gathered(found.name, splits, found.notes, record), data)


def _sampled(gathered: Gathered, data: DataArguments) -> Gathered:
    """Return at most as many images of each split as is asked for, keeping the shares of the classes."""
    rows = {}
    for split, named in gathered.splits.items():
        most = data.max_train_samples if split == "train" else data.max_eval_samples
        numbers = np.unique(np.array([str(name) for name in named.names]), return_inverse=True)[1]
        enough = most is None or most >= len(numbers)
        rows[split] = list(range(len(numbers))) if enough else stratified(numbers, int(most or 0), _SEED).tolist()
    return gathered.select(rows)


def gather_unlabelled(places: Sequence[str]) -> Gathered:
    """Find images in files and folders, whatever folders they lie in.

    Raises:
        DataError: a folder holds no images.
    """
    notes: list[str] = []
    expanded = [str(Path(place).expanduser()) for place in places]
    files = find_images(expanded, notes.append)
    values = [{"path": file, "bytes": None} for file in files]
    rows = datasets.Dataset.from_dict(
        {IMAGE_COLUMN: values}, datasets.Features({IMAGE_COLUMN: datasets.Image(decode=False)})
    )
    name = ", ".join(places)
    images = ImageSet(rows, np.zeros(len(files), np.int64), name)
    notes.append(f"Read as {count_of(len(files), 'image')} without labels")
    return Gathered(name, {UNLABELLED: NamedImages(images, [None] * len(files), [])}, tuple(notes))


def refuse_existing(path: str | None, flag: str = "--output") -> Path | None:
    """Return where to write; a file that is there may hold somebody's decisions.

    Args:
        path: as it was given.
        flag: that gave it.

    Raises:
        OutputError: the file exists, or its folder does not, or refuses to be written to.
    """
    if path is None:
        return None
    file = Path(path).expanduser()
    refuse_unnamable(file, flag)
    if file.exists():
        raise OutputError(f"{flag} {file} exists already; remove it, or name another file")
    if not file.absolute().parent.is_dir():
        raise OutputError(f"{flag} {file}: there is no folder {file.parent}; make it first")
    try:
        refuse_unwritable(file.absolute().parent)
    except OSError as error:
        raise cannot_write(file, error) from error
    return file


def path_from(table: Path, path: str) -> str:
    """Return a path as a table names it: relative where it lies below the table's folder, else absolute."""
    file, folder = Path(os.path.abspath(path)), Path(os.path.abspath(table)).parent
    return (file.relative_to(folder) if file.is_relative_to(folder) else file).as_posix()


def unlabelled(images: ImageSet, count: int) -> ImageSet:
    """Return a set whose labels are not numbers yet, with zeros in their place."""
    return replace(images, labels=np.zeros(count, np.int64))


def _is_flat(folder: Path) -> bool:
    """Whether a folder holds images of its own and no folders with images."""
    if not folder.is_dir():
        return False
    shown = [name for name in walk(folder)[0] if not any(map(hidden, name.split("/")))]
    images = [name for name in shown if name.lower().endswith(EXTENSIONS)]
    tables = [name for name in shown if name.lower().endswith(_TABLES)]
    return bool(images) and not tables and all("/" not in name for name in images)
