"""Trackers (TensorBoard, MLflow, Weights & Biases, ...): one run at each of them over all phases of a training."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from transformers import TrainerCallback
from transformers.integrations.integration_utils import get_reporting_integration_callbacks

from hfft.errors import ArgumentError, one_line


class Trackers(TrainerCallback):
    """The callbacks of transformers for ``--report_to``, told of one training instead of one for each phase.

    Every entry has a ``phase`` beside it, counted from 1, and the epochs and steps of the whole run.

    Args:
        args: of the whole run, not of a phase.

    Raises:
        ArgumentError: there is no such tracker, or its package is missing.
    """

    def __init__(self, args: Any = None) -> None:
        self.args = args
        names = args.report_to if args is not None else []
        self.phase, self.steps, self.epochs = 0, 0, 0.0
        self._last: dict[str, Any] | None = None
        self._own_wandb = getattr(sys.modules.get("wandb"), "run", None) is None
        try:
            self._callbacks = [kind() for kind in get_reporting_integration_callbacks(names)]
        except (ImportError, RuntimeError, ValueError, AssertionError) as error:
            raise ArgumentError(f"--report_to {' '.join(names)}: {one_line(error)}") from error

    def place(self, phase: int, steps: int, epochs: float) -> None:
        """Hear that a phase begins, by its number, and after how many steps and epochs of the run."""
        self.phase, self.steps, self.epochs = phase, steps, epochs

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin the one run with the first phase."""
        if self._last is None:
            self._tell("on_train_begin", state, control, **kwargs)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Hand an entry on."""
        if self._last is not None and logs:
            self._tell("on_log", state, control, logs={**logs, "phase": self.phase}, **kwargs)

    def log_final(self, metrics: dict[str, float]) -> None:
        """Log metrics of the finished training, at its last step."""
        if self._last is not None:
            self._tell("on_log", **self._last, logs=metrics)

    def close(self) -> None:
        """End the run, also where the training failed."""
        if self._last is None:
            return
        self._tell("on_train_end", **self._last)
        self._last = None
        if self._own_wandb and "wandb" in self.args.report_to:
            sys.modules["wandb"].finish()  # the callback leaves that to the end of the process

    def _tell(self, event: str, state: Any, control: Any, **kwargs: Any) -> None:
        moved = replace(state, global_step=state.global_step + self.steps, epoch=(state.epoch or 0) + self.epochs)
        self._last = {"state": state, "control": control, "model": kwargs.get("model")}
        for callback in self._callbacks:
            getattr(callback, event)(self.args, moved, control, **kwargs)
