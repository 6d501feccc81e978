"""What the epoch slider shows of a training, epoch by epoch: ``epochs.js`` draws it, and need not ask again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hfft.metrics import confusion, log_probabilities, wilson_interval
from hfft.report.trace import EpochRow
from hfft.trust.epoch_answers import EpochAnswers

CLASSES = 12
"""Classes up to which the matrix is drawn, and of which pictures are shown."""
PICTURES = 48
"""Pictures at most."""
_DIGITS = 4


@dataclass(frozen=True)
class Watched:
    """A validation image whose answers are followed.

    Args:
        row: of the validation images.
        file: its name.
        picture: a small one, as an address of data.
    """

    row: int
    file: str
    picture: str


def watched_rows(truth: NDArray[np.int64]) -> list[int]:
    """Return the rows of the images that are followed: the first of each class, of at most `CLASSES` of them."""
    classes = np.unique(truth)[:CLASSES]
    each = max(1, PICTURES // max(len(classes), 1))
    return sorted(int(row) for label in classes for row in np.flatnonzero(truth == label)[:each])


def epochs_value(
    answers: EpochAnswers,
    truth: NDArray[np.int64],
    labels: Sequence[str],
    rows: Sequence[EpochRow],
    watched: Sequence[Watched],
    kept: float | None = None,
    temperature: float = 1.0,
) -> dict[str, Any]:
    """Return what the epoch slider draws.

    Args:
        answers: of the run.
        truth: the true label of each validation image, shape (images,).
        labels: the classes' names.
        rows: of the run's trace.
        watched: images whose answers are followed.
        kept: the epoch whose weights were kept; None for the last.
        temperature: that the finished model's logits are divided by, before they become probabilities.
    """
    trained = {row.epoch: row for row in rows}
    kept = answers.epochs[-1] if kept is None else kept
    epochs = [
        _epoch(epoch, logits, truth, trained.get(epoch), abs(epoch - kept) < 1e-6)
        for epoch, logits in zip(answers.epochs, answers.logits, strict=True)
    ]
    few = len(labels) <= CLASSES
    matrices = [confusion(logits, truth, len(labels)).tolist() for logits in answers.logits] if few else []
    return {
        "epochs": epochs,
        "labels": list(labels),
        "matrix": matrices,
        "images": [_image(each, answers, truth, temperature) for each in watched],
        "note": _note(len(truth), len(labels), len(watched)),
        "why": "",
    }


def no_epochs(why: str) -> dict[str, Any]:
    """Return what the epoch slider draws where there is nothing to slide over: a sentence."""
    return {"epochs": [], "labels": [], "matrix": [], "images": [], "note": "", "why": why}


def _epoch(
    epoch: float, logits: NDArray[Any], truth: NDArray[np.int64], row: EpochRow | None, kept: bool
) -> dict[str, Any]:
    right, images = int((logits.argmax(1) == truth).sum()), len(truth)
    low, high = wilson_interval(right, images)
    loss = float(-log_probabilities(logits, 1.0)[np.arange(images), truth].mean())
    moment = "Before any training" if not epoch else f"Epoch {epoch:g}"
    return {
        "name": f"{epoch:g}",
        "text": f"{moment}: {right:,} of {images:,} validation images right "
        f"(95 % interval {low:.0%} to {high:.0%}), loss {loss:.3f}" + ("; these weights were kept" if kept else ""),
        "accuracy": round(right / images, _DIGITS),
        "loss": round(loss, _DIGITS),
        "train": round(row.train_loss, _DIGITS) if row is not None and np.isfinite(row.train_loss) else None,
        "phase": row.phase if row is not None else "",
        "kept": kept,
    }


def _image(watched: Watched, answers: EpochAnswers, truth: NDArray[np.int64], temperature: float) -> Mapping[str, Any]:
    shares = np.exp([log_probabilities(logits[watched.row][None], temperature)[0] for logits in answers.logits])
    top = sorted({int(label) for row in shares for label in np.argsort(-row)[:2]} | {int(truth[watched.row])})
    return {
        "file": watched.file,
        "picture": watched.picture,
        "label": int(truth[watched.row]),
        "said": [int(logits[watched.row].argmax()) for logits in answers.logits],
        "sure": [round(float(row.max()), _DIGITS) for row in shares],
        "shares": [{"label": label, "share": np.round(shares[:, label], _DIGITS).tolist()} for label in top[:CLASSES]],
    }


def _note(images: int, labels: int, shown: int) -> str:
    counted = f"Counted on all {images:,} validation images"
    matrix = "" if labels <= CLASSES else f"; the matrix is left out, as there are {labels} classes"
    if not shown:
        return f"{counted}{matrix}. Their pictures are not here any more."
    which = f"; {shown} of them are shown, the first of each class" if shown < images else ", all of which are shown"
    classes = f" (of the first {CLASSES} classes)" if labels > CLASSES else ""
    return f"{counted}{which}{classes}{matrix}. Probabilities are those of the finished model's temperature."
