"""A run whose loss is no longer a finite number ends, and what it learned before is kept."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from hfft.errors import DivergedError


class EndIfDiverged(TrainerCallback):
    """Ends a training whose loss is not finite: before the step that would spoil the weights, on all processes at once.

    It comes before whatever keeps the best weights or averages them.

    Args:
        phase: what the trace calls it.
    """

    def __init__(self, phase: str) -> None:
        self.phase = phase
        self._finite: Tensor | None = None

    def note(self, loss: Tensor) -> None:
        """Take the loss of a batch, of this process's share."""
        finite = torch.isfinite(loss.detach()).all()
        self._finite = finite if self._finite is None else self._finite & finite

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Hold every process's losses since the last step to be finite."""
        if self._finite is None:
            return
        finite, self._finite = self._finite.int(), None
        if args.world_size > 1:
            torch.distributed.all_reduce(finite, torch.distributed.ReduceOp.MIN)
        if not finite.item():
            raise self._error("training", f"step {state.global_step + 1}", args)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Hold the validation loss, which all processes know, to be finite."""
        if not math.isfinite(kwargs["metrics"].get("eval_loss", 0.0)):
            raise self._error("validation", f"epoch {state.epoch or 0:g}", args)

    def _error(self, which: str, moment: str, args: Any) -> DivergedError:
        return DivergedError(
            f"the training diverged: the {which} loss is no longer a finite number at {moment} of phase {self.phase}; "
            f"try a lower --learning_rate than {args.learning_rate:g}"
        )
