"""Finished runs on disk: find them, and read what they wrote beside their model."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hfft.arguments import DataArguments
from hfft.data.images import ImageSet, upright_rgb
from hfft.data.load import ImageSets, load_image_sets, load_usable_sets
from hfft.demo import EMBEDDED_DATA, embedded_images
from hfft.errors import DataError, HfftError
from hfft.metrics import PairedDifference, paired_difference
from hfft.models.download import has_weights
from hfft.output_folder import RECORD
from hfft.report.record import RunRecord, lost_images, read_record_here
from hfft.report.trace import EpochRow, read_trace
from hfft.tasks.contract import Task, Told
from hfft.tasks.single_label import SINGLE_LABEL

if TYPE_CHECKING:
    from hfft.inference.classifier import Classifier

_DEEPEST = 3  # folders below the root that may hold a run


@dataclass(frozen=True)
class FinishedRun:
    """A run that has ended, as its folder tells of it.

    Args:
        folder: where it lies.
        name: for people.
        record: of the run.
        rows: its epochs; none where there is no ``trace.csv``.
    """

    folder: Path
    name: str
    record: RunRecord
    rows: tuple[EpochRow, ...]

    @property
    def trained_share(self) -> float:
        """Share of all parameters that were trained, 0 to 1."""
        total = sum(part.parameters for part in self.record.parts)
        return sum(part.trained for part in self.record.parts) / total if total else float("nan")


@dataclass(frozen=True)
class Answer(Told):
    """A line of ``predictions.csv``: an image, its label, and what the model said with which probability.

    Args:
        file: name of the image.
    """

    file: str


def read_run(folder: Path, name: str | None = None) -> FinishedRun:
    """Read a run's folder.

    Raises:
        HfftError: there is no record, or it is damaged.
    """
    record = read_record_here(folder / RECORD)
    try:
        rows = tuple(read_trace(folder / "trace.csv"))
    except (HfftError, OSError):
        rows = ()  # a repository on the Hub holds the model alone
    return FinishedRun(folder, name or folder.name, record, rows)


def find_runs(root: Path) -> list[FinishedRun]:
    """Return the finished runs at and below a folder, the newest first; what cannot be read is passed over."""
    found = []
    for place, folders, files in os.walk(root):
        folder = Path(place)
        depth = len(folder.relative_to(root).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if depth < _DEEPEST else []
        if RECORD not in files or not (has_weights(folder) or "delta.safetensors" in files):
            continue
        try:
            found.append(read_run(folder, str(folder.relative_to(root)) if depth else folder.name))
        except HfftError:
            continue
    return sorted(found, key=lambda run: run.record.created, reverse=True)


def read_answers(folder: Path, task: Task = SINGLE_LABEL, labels: Sequence[str] = ()) -> list[Answer]:
    """Return the lines of ``predictions.csv``; none where it is missing or damaged.

    Args:
        folder: of a run.
        task: that it solves.
        labels: its labels, or the names of its targets.
    """
    try:
        with (folder / "predictions.csv").open(encoding="utf-8", errors="replace", newline="") as stream:
            rows = list(csv.DictReader(stream))
        return [
            Answer(**vars(told), file=row["file"]) for told, row in zip(task.told_of(rows, labels), rows, strict=True)
        ]
    except (OSError, KeyError, ValueError, TypeError, csv.Error):
        return []


def paired(first: FinishedRun, other: FinishedRun) -> PairedDifference | None:
    """Return by how much a run is more accurate than another on the same validation images; None where they differ.

    Args:
        first: the one.
        other: that it is compared with.
    """
    contents = [run.record.data.sha256.get("validation") for run in (first, other)]
    answers = [read_answers(run.folder) for run in (first, other)]
    labels = [[answer.label for answer in found] for found in answers]
    if contents[0] is None or contents[0] != contents[1] or not answers[0] or labels[0] != labels[1]:
        return None
    correct = [np.array([answer.label == answer.prediction for answer in found]) for found in answers]
    return paired_difference(correct[0], correct[1])


@dataclass(frozen=True)
class Disagreement:
    """A validation image that runs answer differently.

    Args:
        file: as ``predictions.csv`` names it.
        label: what it is.
        said: what each run takes it for, in the order of the runs.
    """

    file: str
    label: str
    said: tuple[str, ...]


def disagreements(runs: Sequence[FinishedRun]) -> tuple[list[Disagreement], int] | None:
    """Return the validation images that runs answer differently, and how many images there are.

    Those come first that the fewest runs have right.

    Args:
        runs: two or more.

    Returns:
        None where they were not validated on the same images.
    """
    if any(paired(runs[0], other) is None for other in runs[1:]):
        return None
    answers = [read_answers(run.folder) for run in runs]
    found = [
        Disagreement(row[0].file, row[0].label, tuple(answer.prediction for answer in row))
        for row in zip(*answers, strict=True)
        if len({answer.prediction for answer in row}) > 1
    ]
    return sorted(found, key=lambda each: each.said.count(each.label)), len(answers[0])


def confusion_counts(answers: list[Answer], labels: list[str]) -> NDArray[np.int64]:
    """Return how many images of each class (rows) got which label (columns), shape (labels, labels)."""
    places = {label: place for place, label in enumerate(labels)}
    matrix = np.zeros((len(labels), len(labels)), np.int64)
    for answer in answers:
        if answer.label in places and answer.prediction in places:
            matrix[places[answer.label], places[answer.prediction]] += 1
    return matrix


def worst_answers(answers: list[Answer], most: int = 12) -> list[Answer]:
    """Return the wrong answers, the furthest off first: of single labels the most confident."""
    wrong = [answer for answer in answers if answer.wrong]
    return sorted(wrong, key=lambda answer: -answer.wrong)[:most]


class EvaluationImages:
    """The images that a run was judged on, by the names that ``predictions.csv`` gives them.

    Args:
        record: of the run.
        local: whether the record was written on this machine. The record of a stranger may name any
            folder, so with it the embedded images are served and nothing else.
    """

    def __init__(self, record: RunRecord, local: bool) -> None:
        self.record = record
        self.local = local
        self._sets: ImageSets | None = None
        self._read = False
        self._images: dict[str, tuple[ImageSet, int]] | None = None
        self._trained: dict[str, tuple[ImageSet, int]] | None = None

    def get(self, file: str, least: int | None = None) -> Image.Image | None:
        """Return an image, upright, in RGB; None where it is no longer there.

        Args:
            file: its name.
            least: as for `hfft.data.images.open_image`.
        """
        if self._images is None:
            sets = self._load()
            # Of two images of one name it is the validation image that ``predictions.csv`` means.
            self._images = _by_name([*([sets.test] if sets.test else []), sets.validation] if sets else [])
        return _picture(self._images.get(file), least)

    def trained_on(self, file: str, least: int | None = None) -> Image.Image | None:
        """Return a training image in the same way."""
        if self._trained is None:
            sets = self._load()
            self._trained = _by_name([sets.train] if sets else [])
        return _picture(self._trained.get(file), least)

    def _load(self) -> ImageSets | None:
        if not self._read:
            self._read, self._sets = True, self._load_sets()
        return self._sets

    def _load_sets(self) -> ImageSets | None:
        embedded = self.record.data.name == EMBEDDED_DATA.partition("==")[0]
        if not self.local and not embedded:
            return None
        options = recorded_images(self.record)
        here = options.get("train_dir") or os.path.exists(str(options.get("dataset_name")))
        if not here and not embedded:
            return None  # a data set on the Hub: looking at a few images is not worth a download
        try:
            return load_image_sets(DataArguments(**({} if embedded else options)), self.record.seed)
        except (HfftError, OSError, TypeError):
            return None


def _by_name(sets: list[ImageSet]) -> dict[str, tuple[ImageSet, int]]:
    return {file: (images, row) for images in sets for row, file in enumerate(images.files)}


def _picture(found: tuple[ImageSet, int] | None, least: int | None) -> Image.Image | None:
    try:
        return found and found[0].image(found[1], least)
    except HfftError:
        return None


def recorded_images(record: RunRecord) -> dict[str, Any]:
    """Return the options of `DataArguments` that a run was given."""
    known = {item.name for item in fields(DataArguments)}
    return {name: value for name, value in record.arguments.items() if name in known}


def own_sets(classifier: Classifier) -> ImageSets:
    """Load the images that a run trained on, split as it split them.

    Raises:
        HfftError: the model has no record, or the images are not what or where they were.
    """
    if classifier.record is None:
        raise HfftError(f"{classifier.name} holds no {RECORD}, which names them")
    if lost := lost_images(classifier.record):
        raise DataError(lost)
    sets = load_usable_sets(DataArguments(**recorded_images(classifier.record)), classifier.record.seed)
    if sets.labels != classifier.labels:
        raise HfftError(f"{sets.name} has other labels than {classifier.name} by now")
    return sets


def embedded_examples(count: int = 5) -> list[tuple[str, Image.Image]]:
    """Return a few of the embedded test images with their labels, of different classes.

    Raises:
        HfftError: the package with the images is not installed.
    """
    test = embedded_images()["test"]
    names = test.features["label"].names
    found: dict[str, Image.Image] = {}
    for row in test:
        label = names[row["label"]]
        if label not in found:
            found[label] = upright_rgb(Image.open(io.BytesIO(row["image"]["bytes"])))
        if len(found) == count:
            break
    return list(found.items())
