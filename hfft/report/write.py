"""What a run leaves beside the checkpoint for people to read: predictions, figures, trace, record and card."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfft.data.images import ImageSet
from hfft.errors import DataError
from hfft.files import cannot_write
from hfft.metrics import confusion, reliability
from hfft.output_folder import RECORD
from hfft.report.card import model_card
from hfft.report.mistakes import Mistake, find_mistakes, write_mistakes
from hfft.report.plots import (
    MapPlot,
    confusion_figure,
    curves_figure,
    feature_map_figure,
    predicted_figure,
    reliability_figure,
)
from hfft.report.record import RunRecord, write_record
from hfft.report.trace import EpochRow, write_trace
from hfft.tasks.contract import Task


@dataclass(frozen=True)
class Evidence:
    """What plots are drawn from: one split's images, and what a model gives out for them.

    Args:
        task: how logits are read, and which plots show that.
        images: of the split.
        labels: names of the classes or targets.
        logits: shape (images, labels).
        map: images as points of a plane; None for no such plot.
    """

    task: Task
    images: ImageSet
    labels: Sequence[str]
    logits: NDArray[Any]
    map: MapPlot | None = None

    @cached_property
    def scores(self) -> NDArray[np.float32]:
        """What the logits stand for, of the same shape."""
        return self.task.scores(self.logits)

    @cached_property
    def mistakes(self) -> list[Mistake]:
        """The most confident mistakes; none of a task that draws none."""
        drawn = "mistakes.png" in self.task.plots
        return find_mistakes(self.images, self.labels, self.scores) if drawn else []


def write_report(
    folder: str | Path,
    record: RunRecord,
    rows: Sequence[EpochRow],
    evidence: Evidence | None,
    repo_id: str | None = None,
) -> list[Path]:
    """Write ``trace.csv``, ``hfft.json``, the figures and ``README.md`` into an existing folder.

    Args:
        folder: where to.
        record: the run's record.
        rows: its trace.
        evidence: what the figures show; None for no figures.
        repo_id: the Hub repository that the card's examples load; by default the folder.

    Returns:
        The files written, in order.

    Raises:
        OutputError: a file cannot be written.
    """
    folder = Path(folder)
    write_trace(folder / "trace.csv", rows)
    write_record(folder / RECORD, record)
    figures = [] if evidence is None else _draw(folder, record, rows, evidence)
    card = model_card(record, rows, repo_id or str(folder), figures)
    try:
        (folder / "README.md").write_text(str(card), encoding="utf-8")
    except OSError as error:
        raise cannot_write(folder / "README.md", error) from error
    return [folder / name for name in ("trace.csv", RECORD, *figures, "README.md")]


def _draw(folder: Path, record: RunRecord, rows: Sequence[EpochRow], evidence: Evidence) -> list[str]:
    """Write the plots and return their names."""
    curves_figure(rows, folder / "curves.png", record.best_epoch)
    drawn = ["curves.png", *draw_evidence(folder, evidence, evidence.task.plots)]
    if evidence.map is None:
        return drawn
    feature_map_figure(evidence.map, evidence.labels, folder / "feature_map.png")
    return [*drawn, "feature_map.png"]


def draw_evidence(folder: Path, evidence: Evidence, names: Iterable[str]) -> list[str]:
    """Write plots of a split's answers by name.

    Args:
        folder: where to.
        evidence: what they show.
        names: of the plots, some of the task's.

    Returns:
        The names of those that were drawn: without mistakes there is nothing to draw of them.

    Raises:
        OutputError: a file cannot be written.
    """
    return [name for name in names if _PLOTS[name](evidence, folder / name)]


def _confusion(evidence: Evidence, path: Path) -> bool:
    counts = confusion(evidence.logits, evidence.images.labels, len(evidence.labels))
    confusion_figure(counts, evidence.labels, path)
    return True


def _reliability(evidence: Evidence, path: Path) -> bool:
    shares = evidence.scores
    reliability_figure(reliability(shares.max(axis=1), shares.argmax(axis=1) == evidence.images.labels), path)
    return True


def _mistakes(evidence: Evidence, path: Path) -> bool:
    return write_mistakes(path, evidence.images, evidence.labels, evidence.mistakes)


def _against_true(evidence: Evidence, path: Path) -> bool:
    predicted_figure(evidence.scores, evidence.images.labels, evidence.labels, path)
    return True


_PLOTS: dict[str, Callable[[Evidence, Path], bool]] = {
    "confusion_matrix.png": _confusion,
    "reliability.png": _reliability,
    "mistakes.png": _mistakes,
    "predicted_against_true.png": _against_true,
}
"""By the names that tasks call their plots by; each says whether it drew one."""


def write_predictions(
    path: str | Path,
    files: Sequence[str],
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    unknown: NDArray[Any] | None = None,
) -> None:
    """Write a CSV with a line per image: its file, what a task tells of it, and perhaps unknown_score and unknown.

    Args:
        path: of the CSV.
        files: each image's file, or what else identifies it, (images,).
        titles: of the columns beside the file.
        rows: the cells of each image under them, (images,).
        unknown: how unlike the training images each is, above 1 unknown, (images,); None leaves both columns out.

    Raises:
        DataError: the columns differ in length.
        OutputError: the file cannot be written.
    """
    scores = [()] * len(files) if unknown is None else [(f"{each:.4f}", str(not each <= 1).lower()) for each in unknown]
    lengths = {len(files), len(rows), len(scores)}
    if len(lengths) != 1:
        raise DataError(f"cannot write {path}: its columns have {sorted(lengths)} lines; they need equally many")
    try:
        with Path(path).open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = csv.writer(file)
            more = [] if unknown is None else ["unknown_score", "unknown"]
            writer.writerow(["file", *titles, *more])
            for name, cells, score in zip(files, rows, scores, strict=True):
                writer.writerow([name, *cells, *score])
    except OSError as error:
        raise cannot_write(path, error) from error
