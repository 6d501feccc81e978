"""SIGTERM, as a scheduler sends it before it takes a machine away: save, say how to go on, and end."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import torch
from transformers import TrainerCallback

from hfft.errors import PreemptedError

GO_ON = "run the same command with --resume_from_checkpoint true to go on"


class Preemption:
    """Within this context SIGTERM ends a run in good order.

    While a phase trains, the signal is noted and `StopAndSave` acts on it after the step; at any other time it
    raises at once, since what is complete is on the disk.

    Attributes:
        asked: whether the signal came.
        training: whether a phase is training.
    """

    def __init__(self) -> None:
        self.asked = False
        self.training = False
        self._earlier: Any = None

    def __enter__(self) -> Preemption:
        if threading.current_thread() is threading.main_thread():
            self._earlier = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._earlier is not None:
            signal.signal(signal.SIGTERM, self._earlier)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if not self.training:
            raise PreemptedError(f"stopped by SIGTERM; what was complete is kept: {GO_ON}")

    def agreed(self, args: Any) -> bool:
        """Return whether the signal has reached any process; all of them must ask at the same step."""
        if args.world_size == 1:
            return self.asked
        asked = torch.tensor(int(self.asked), device=args.device)
        torch.distributed.all_reduce(asked, torch.distributed.ReduceOp.MAX)
        self.asked = bool(asked.item())
        return self.asked


class StopAndSave(TrainerCallback):
    """Saves a checkpoint and ends the training when a preemption asks for it.

    A checkpoint at an epoch's last step waits for the evaluation that follows, so that resuming does not
    skip it.

    Args:
        preemption: says when.
    """

    def __init__(self, preemption: Preemption) -> None:
        self.preemption = preemption
        self.saved = self.due = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop after this step, unless it is the last of its epoch."""
        steps = max(1, -(-len(kwargs["train_dataloader"]) // args.gradient_accumulation_steps))
        last = state.global_step % steps == 0 or state.global_step >= state.max_steps
        asked = self.preemption.agreed(args)
        if last:
            self.due, control.should_save = control.should_save or asked, False
        elif asked:
            control.should_save = control.should_training_stop = self.saved = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save what was put off; end without an evaluation where the epoch was cut short."""
        if self.saved:
            control.should_save = control.should_evaluate = control.should_log = False
        elif self.due or self.preemption.agreed(args):
            control.should_save = True
            if self.preemption.asked:
                control.should_training_stop = self.saved = True
        self.due = False
