"""End a training in the middle, as SIGKILL would."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback


class Killed(BaseException):
    """Stands for SIGKILL: nothing in hfft catches it."""


class KillAt(TrainerCallback):
    """Ends the process, as it were, after some number of steps of the run."""

    def __init__(self, step: int) -> None:
        self.left = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1
