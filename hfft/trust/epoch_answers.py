"""What a model said of each validation image before training and after each epoch, in one file beside the trace."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hfft.errors import OutputError, one_line

MOST = 5_000_000
"""Numbers that are kept of one run, 20 MB: 500 images of 10 classes for a thousand epochs."""
FORMAT = 1
_ENTRY = "hfft_epoch_answers"


@dataclass
class EpochAnswers:
    """The logits of the validation images, evaluation by evaluation, the oldest first.

    Args:
        epochs: done by each evaluation, over all phases; 0 is before any training.
        logits: of each, shape (images, labels).
        gone: whether some were not kept, since there were too many or an earlier part of the run kept none.
    """

    epochs: list[float] = field(default_factory=list)
    logits: list[NDArray[np.float32]] = field(default_factory=list)
    gone: bool = False

    def add(self, epoch: float, logits: NDArray[Any]) -> None:
        """Note an evaluation; one of the same epoch is replaced. All are let go of where there are more than `MOST`."""
        if self.gone:
            return
        if self.epochs and self.epochs[-1] == epoch:
            self.epochs.pop()
            self.logits.pop()
        if (len(self.logits) + 1) * logits.size > MOST:
            self.drop()
            return
        self.epochs.append(epoch)
        self.logits.append(np.array(logits, np.float32))

    def drop(self) -> None:
        """Let go of all, for good: a few epochs of many would be taken for all of them."""
        self.epochs, self.logits, self.gone = [], [], True


def write_epoch_answers(path: Path, answers: EpochAnswers, truth: NDArray[Any]) -> None:
    """Write answers as a safetensors file with one entry of metadata.

    Args:
        path: of the file.
        answers: at least one evaluation.
        truth: the true label of each image, shape (images,).

    Raises:
        OSError: the file cannot be written.
        SafetensorError: the same, as safetensors says it.
    """
    tensors: dict[str, NDArray[Any]] = {
        "epochs": np.asarray(answers.epochs, np.float64),
        "logits": np.stack(answers.logits),
        "truth": np.ascontiguousarray(truth, np.int64),
    }
    save_file(tensors, path, {_ENTRY: json.dumps({"format": FORMAT})})


def read_epoch_answers(path: Path) -> tuple[EpochAnswers, NDArray[np.int64]]:
    """Read what `write_epoch_answers` wrote: the answers, and the true label of each image.

    Raises:
        OutputError: it is not such a file, or is damaged.
    """
    try:
        with safe_open(path, "np") as file:
            if json.loads((file.metadata() or {})[_ENTRY])["format"] != FORMAT:
                raise OutputError(f"{path} was written by another version of hfft; train again to have it anew")
            found = {name: file.get_tensor(name) for name in ("epochs", "logits", "truth")}
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise OutputError(f"{path} is damaged ({one_line(error)}); delete it, or train again") from error
    epochs, logits, truth = found["epochs"], found["logits"], found["truth"]
    if logits.ndim != 3 or logits.shape[:2] != (len(epochs), len(truth)):
        raise OutputError(f"{path} is damaged (its parts do not fit together); delete it, or train again")
    return EpochAnswers(epochs.tolist(), list(logits)), truth
