"""What a run leaves beside the checkpoint for people to read: predictions, figures, trace, record and card."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hfft.errors import DataError, OutputError
from hfft.report.card import model_card
from hfft.report.plots import confusion_figure, curves_figure, reliability_figure
from hfft.report.record import RunRecord, write_record
from hfft.report.trace import EpochRow, write_trace

if TYPE_CHECKING:
    from hfft.metrics import Reliability


@dataclass(frozen=True)
class Evidence:
    """What figures are drawn from: one split's predictions, summed up.

    Args:
        matrix: `hfft.metrics.confusion` of the split, shape (labels, labels).
        reliability: `hfft.metrics.reliability_of` the split; None leaves its figure out.
        mistakes: whether ``mistakes.png`` lies in the folder already.
    """

    matrix: NDArray[np.int64]
    reliability: Reliability | None = None
    mistakes: bool = False


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
    write_record(folder / "hfft.json", record)
    figures = [] if evidence is None else _draw(folder, record, rows, evidence)
    card = model_card(record, rows, repo_id or str(folder), figures)
    try:
        (folder / "README.md").write_text(str(card), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"cannot write {folder / 'README.md'}: {error.strerror}; free some room") from error
    return [folder / name for name in ("trace.csv", "hfft.json", *figures, "README.md")]


def _draw(folder: Path, record: RunRecord, rows: Sequence[EpochRow], evidence: Evidence) -> list[str]:
    """Write the figures and return their names, with that of the mistakes where those are drawn."""
    figures = ["curves.png", "confusion_matrix.png"]
    curves_figure(rows, folder / "curves.png", record.best_epoch)
    confusion_figure(evidence.matrix, record.data.labels, folder / "confusion_matrix.png")
    if evidence.reliability is not None:
        figures.append("reliability.png")
        reliability_figure(evidence.reliability, folder / "reliability.png")
    return [*figures, *(["mistakes.png"] if evidence.mistakes else [])]


def write_predictions(
    path: str | Path,
    files: Sequence[str],
    labels: Sequence[str],
    predictions: Sequence[str],
    probabilities: NDArray[Any] | Sequence[float],
    unknown: NDArray[Any] | None = None,
) -> None:
    """Write a CSV with a line per image: file, label, prediction, probability, and perhaps unknown_score and unknown.

    Args:
        path: of the CSV.
        files: each image's file, or what else identifies it, (images,).
        labels: the true labels' names, (images,).
        predictions: the predicted labels' names, (images,).
        probabilities: what the model gave to each prediction, 0 to 1, (images,).
        unknown: how unlike the training images each is, above 1 unknown, (images,); None leaves both columns out.

    Raises:
        DataError: the columns differ in length.
        OutputError: the file cannot be written.
    """
    scores = [()] * len(files) if unknown is None else [(f"{each:.4f}", str(each > 1).lower()) for each in unknown]
    lengths = {len(files), len(labels), len(predictions), len(probabilities), len(scores)}
    if len(lengths) != 1:
        raise DataError(f"cannot write {path}: its columns have {sorted(lengths)} lines; they need equally many")
    try:
        with Path(path).open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            writer = csv.writer(file)
            more = [] if unknown is None else ["unknown_score", "unknown"]
            writer.writerow(["file", "label", "prediction", "probability", *more])
            for name, label, chosen, share, score in zip(
                files, labels, predictions, probabilities, scores, strict=True
            ):
                writer.writerow([name, label, chosen, f"{float(share):.6f}", *score])
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}; free some room or choose another folder") from error
