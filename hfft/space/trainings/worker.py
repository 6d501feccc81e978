"""One fine-tuning in a process of its own, told what to do on standard input and telling how it goes.

The process can be ended at any moment, and what it takes of memory and threads ends with it. Each line on
its standard output is a JSON object with the key ``event``: ``fill``, ``step``, ``epoch``, ``judge``, ``done`` or
``error``.
"""

from __future__ import annotations

import json
import math
import os
import sys
from dataclasses import asdict
from typing import Any, TextIO

from hfft.arguments import CacheArguments, DataArguments, FinetuneArguments, ModelArguments, PolicyArguments
from hfft.cache.fill import told_of_filling
from hfft.errors import HfftError, one_line
from hfft.jobs.finetune import finetune
from hfft.report.trace import EpochRow, observe
from hfft.training.callbacks import PhaseCallback
from hfft.training.run import Settings


class Reporter(PhaseCallback):
    """Writes a line for each batch that fills the cache, each step and each epoch.

    Args:
        stream: where to.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.phase, self.before, self.training = "", 0.0, False
        self.rows: list[EpochRow] = []
        self.logs: dict[str, float] = {}

    def tell(self, event: str, **values: Any) -> None:
        """Write one line."""
        print(json.dumps({"event": event, **values}), file=self.stream, flush=True)

    def filling(self, done: int, total: int) -> None:
        """Tell how many images have passed the frozen part."""
        self.tell("fill", done=done, total=total)

    def on_phase_begin(self, name: str, before: float) -> None:
        """Remember the phase for its rows, and where its epochs begin."""
        self.phase, self.before, self.logs = name, before, {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell of evaluations from now on."""
        self.training = True

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Pass over what is evaluated after training, which repeats an epoch."""
        self.training = False
        self.tell("judge")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell how many epochs of the run are done, in parts of one."""
        self.tell("step", phase=self.phase, epochs=self.before + state.epoch)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Remember the training loss and the learning rate for the epoch's row."""
        self.logs |= {name: value for name, value in (logs or {}).items() if isinstance(value, int | float)}

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell what the epoch brought."""
        if not self.training:
            return
        metrics = kwargs["metrics"]
        row = EpochRow(
            epoch=self.before + state.epoch,
            phase=self.phase,
            train_loss=self.logs.get("loss", math.nan),
            eval_loss=metrics["eval_loss"],
            accuracy=metrics["eval_accuracy"],
            learning_rate=self.logs.get("learning_rate", math.nan),
            seconds=self.logs.get("epoch_seconds", math.nan),
        )
        self.rows.append(row)
        row.observation = observe(self.rows)
        self.tell("epoch", row=asdict(row))


def main() -> int:
    """Read a job from standard input, run it, and return the exit code."""
    job = json.load(sys.stdin)
    # Whatever else prints goes to standard error, so that every line on standard output is one of ours.
    stream = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    reporter = Reporter(stream)
    try:
        settings = Settings(
            ModelArguments(**job["model"]),
            DataArguments(**job["data"]),
            PolicyArguments(**job["policy"]),
            CacheArguments(**job["cache"]),
            FinetuneArguments(**job["training"]),
        )
        with told_of_filling(reporter.filling):
            finetune(settings, callbacks=(reporter,))
    except HfftError as error:
        reporter.tell("error", text=one_line(error))
        return 1
    reporter.tell("done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
