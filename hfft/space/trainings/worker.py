"""Fine-tunings in a process of their own, told what to do on standard input and telling how it goes.

The process imports what it needs and waits for lines of JSON, a job each, which it runs one after the other. It can be
ended at any moment, ends by itself after a job that failed and when its standard input is closed, and what it takes of
memory and threads ends with it. Each line on its standard output is a JSON object with the key ``event``: ``fill``,
``step``, ``epoch``, ``evaluate``, ``done``, ``found`` (of an errand) or ``error``.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import queue
import sys
import threading
from contextlib import suppress
from dataclasses import asdict
from typing import Any, TextIO

from hfft.arguments import CacheArguments, DataArguments, FinetuneArguments, ModelArguments, PolicyArguments
from hfft.errors import HfftError, one_line
from hfft.jobs.finetune import finetune
from hfft.jobs.inputs import Shared
from hfft.output_folder import RECORD
from hfft.plugin.installed import installed_plugins
from hfft.report.record import read_record
from hfft.report.trace import EpochRow, observe
from hfft.space.trainings.queue import end_family
from hfft.space.trainings.small_set import ANIMALS
from hfft.tasks.single_label import SINGLE_LABEL
from hfft.training.callbacks import PhaseCallback
from hfft.training.setup import Settings


class Reporter(PhaseCallback):
    """Writes a line for each batch that fills the cache, each step and each epoch.

    Args:
        stream: where to.
        epochs: of all phases together.
    """

    def __init__(self, stream: TextIO, epochs: float) -> None:
        self.stream, self.epochs, self.over = stream, epochs, False
        self.phase, self.before, self.training = "", 0.0, False
        self.rows: list[EpochRow] = []
        self.logs: dict[str, float] = {}
        self.evaluated = 0

    def tell(self, event: str, **values: Any) -> None:
        """Write one line."""
        print(json.dumps({"event": event, **values}), file=self.stream, flush=True)

    def on_fill(self, done: int, total: int) -> None:
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
        if self.before + state.epoch > self.epochs - 0.5:  # another phase may follow otherwise
            self.over = True
            self.tell("evaluate", done=0, total=0)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell how many batches of an evaluation after the training are done."""
        if self.over:
            total = len(kwargs["eval_dataloader"])
            self.evaluated = self.evaluated % total + 1
            self.tell("evaluate", done=self.evaluated, total=total)

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
            score=metrics["eval_accuracy"],
            learning_rate=self.logs.get("learning_rate", math.nan),
            seconds=self.logs.get("epoch_seconds", math.nan),
        )
        self.rows.append(row)
        row.observation = observe(self.rows)
        self.tell("epoch", row=asdict(row))


def warm_up(shared: Shared) -> None:
    """Import what a job imports on its way, and load the model of a first visit, while nobody waits."""
    from PIL import Image

    for name in ("hfft.jobs.results", "hfft.report.plots", "matplotlib.pyplot", "sklearn.linear_model"):
        importlib.import_module(name)
    installed_plugins()
    Image.init()
    with suppress(HfftError):  # the embedded model is not installed
        shared.model(ModelArguments(), sorted(ANIMALS), FinetuneArguments.seed)


def incoming() -> queue.SimpleQueue[str]:
    """Return the lines that come in on standard input, a job of JSON each.

    When standard input is closed, as it is when the parent dies, this process and all that it started end, whatever
    they are doing.
    """
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        # Not through sys.stdin: every process that is forked meanwhile closes it first, and would wait for its lock.
        rest = b""
        while chunk := os.read(0, 1 << 16):
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                lines.put(line.decode())
        end_family(os.getpid())

    threading.Thread(target=listen, daemon=True).start()
    return lines


def main() -> int:
    """Run the jobs from standard input one after the other, up to one that fails; return its exit code."""
    # Whatever else prints goes to standard error, so that every line on standard output is one of ours.
    stream = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    lines, shared = incoming(), Shared()
    warm_up(shared)
    code = 0
    while not code:
        job = json.loads(lines.get())
        code = (
            run_errand(job, Reporter(stream, 0.0))
            if "errand" in job
            else train(job, Reporter(stream, job["training"]["num_train_epochs"]), shared)
        )
    return code


def run_errand(job: dict[str, Any], reporter: Reporter) -> int:
    """Do what is not a training, and return the exit code."""
    from hfft.space.trainings.errands import run

    try:
        text = run(job, reporter.on_fill)
    except HfftError as error:
        reporter.tell("error", text=one_line(error))
        return 1
    reporter.tell("found", text=text)
    return 0


def train(job: dict[str, Any], reporter: Reporter, shared: Shared | None = None) -> int:
    """Run a job and return the exit code.

    Args:
        job: its options, grouped as `Settings` groups them.
        reporter: hears how it goes.
        shared: keeps the pretrained model from one job to the next; the images of each are read anew.
    """
    shared = shared or Shared(keep=False)
    shared.forget_images()
    try:
        settings = Settings(
            ModelArguments(**job["model"]),
            DataArguments(**job["data"], task=SINGLE_LABEL.name),  # what the pages show is of one label per image
            PolicyArguments(**job["policy"]),
            CacheArguments(**job["cache"]),
            FinetuneArguments(**job["training"]),
        )
        run = finetune(settings, callbacks=(reporter,), shared=shared)
    except HfftError as error:
        reporter.tell("error", text=one_line(error))
        return 1
    frozen = read_record(run.folder / RECORD).frozen
    reporter.tell("done", frozen=asdict(frozen) if frozen else None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
