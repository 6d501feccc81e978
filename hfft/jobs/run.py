"""A finished run: everything that the results are written from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import BaseImageProcessor, PreTrainedModel, TrainerState

from hfft.data.load import ImageSets
from hfft.jobs.trust import Trust
from hfft.metrics import WORDS
from hfft.planning.plan import Plan
from hfft.report.record import ExtensionRecord
from hfft.training.progress import Baselines, PhaseResult, Progress
from hfft.training.setup import Settings, Setup


@dataclass(frozen=True, eq=False)  # models are equal to themselves alone
class Run:
    """A finished run.

    Args:
        setup: what it started from; the model is fine-tuned now, and nothing is frozen.
        progress: what its phases did.
        predictions: by split (validation, test), the Trainer's predictions.
        metrics: the Trainer's, by its own names for the splits (train, eval, test).
        state: the Trainer's at the end, over all phases.
        seconds: of wall time over the whole run, without full fine-tuning as a baseline.
        trust: its temperature, and the training images that others are compared with.
        extended: how it came of another run; None where it did not.
        command: that made it.
        beside: each writes a file of its own into the folder of the results.
    """

    setup: Setup
    progress: Progress
    predictions: dict[str, Any]
    metrics: dict[str, dict[str, float]]
    state: TrainerState
    seconds: float
    trust: Trust = field(default_factory=Trust)
    extended: ExtensionRecord | None = None
    command: str = "finetune"
    beside: tuple[Callable[[Path], None], ...] = ()

    def __repr__(self) -> str:
        """Return a line: its parts hold the model and every image."""
        metric = self.sets.task.metric
        score = self.metrics["eval"][f"eval_{metric}"]
        return f"Run({str(self.folder)!r}, {self.plan.policy}, {WORDS[metric].name} {score:.3f})"

    @property
    def settings(self) -> Settings:
        """Every option, as given."""
        return self.setup.settings

    @property
    def sets(self) -> ImageSets:
        """The images."""
        return self.setup.sets

    @property
    def model(self) -> PreTrainedModel:
        """Fine-tuned, nothing frozen."""
        return self.setup.model

    @property
    def processor(self) -> BaseImageProcessor:
        """The model's image processor."""
        return self.setup.processor

    @property
    def plan(self) -> Plan:
        """What was trained when."""
        return self.setup.plan

    @property
    def folder(self) -> Path:
        """Where the results are."""
        return self.setup.folder

    @property
    def phases(self) -> list[PhaseResult]:
        """What each phase did."""
        return self.progress.phases

    @property
    def best_epoch(self) -> float | None:
        """As of `best_epoch_of`."""
        return best_epoch_of(self.setup, self.progress)

    @property
    def baselines(self) -> Baselines:
        """What the result is compared with."""
        return self.progress.baselines


def best_epoch_of(setup: Setup, progress: Progress) -> float | None:
    """Return the epoch after which the weights that are handed back were seen; 0 for those from before training.

    None where no epoch was chosen.
    """
    if progress.probe_kept:
        return 0.0
    return progress.best.epoch if setup.keeps_best and progress.best.score is not None else None


def judged(prediction: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the logits (images, labels) and the true labels (images,) of the Trainer's prediction of a split."""
    return np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
