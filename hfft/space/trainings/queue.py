"""Trainings that people start in the browser: one at a time, each in its own process, the others in a queue."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from hfft.errors import HfftError
from hfft.report.trace import EpochRow

State = Literal["waiting", "running", "done", "cancelled", "failed"]
_POLL = 0.25  # seconds between looks at a training
_ABANDONED = 60.0  # seconds after which a training that nobody follows is ended


@dataclass(frozen=True)
class Job:
    """What to train.

    Args:
        folder: of this training alone; it holds ``images/<class>/`` and takes ``run/`` and ``activations/``.
        policy: as ``--policy`` takes it.
        epochs: passes over the training images.
        base: Hub id or folder of the pretrained model; None for the embedded one.
        embedded: train on the embedded images instead of ``images/``.
        device: ``cpu`` to keep off a GPU.
    """

    folder: Path
    policy: str = "last_block"
    epochs: float = 3
    base: str | None = None
    embedded: bool = False
    device: str = ""

    def arguments(self) -> dict[str, dict[str, Any]]:
        """Return the options of the run, grouped as `hfft.finetune.Settings` groups them."""
        return {
            "model": {"model_name_or_path": self.base},
            "data": {} if self.embedded else {"train_dir": str(self.folder / "images")},
            "policy": {"policy": self.policy},
            "cache": {"cache": "auto", "cache_dir": str(self.folder / "activations")},
            "training": {
                "output_dir": str(self.folder / "run"),
                "num_train_epochs": float(self.epochs),
                "per_device_train_batch_size": 16,
                "use_cpu": self.device == "cpu",
                "report_to": "none",
                "disable_tqdm": True,
            },
        }


@dataclass
class Training:
    """A job on its way.

    Args:
        job: what to train.
        state: where it stands.
        message: the same in words.
        filling: whether it computes activations just now, before it trains.
        share: of the filling or of the training, 0 to 1.
        rows: the epochs so far.
        seconds: since it began to run.
    """

    job: Job
    state: State = "waiting"
    message: str = "Waiting."
    filling: bool = False
    share: float = 0.0
    rows: list[EpochRow] = field(default_factory=list)
    seconds: float = 0.0
    seen: float = field(default_factory=time.monotonic)
    process: subprocess.Popen[str] | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ("done", "cancelled", "failed")


class Trainings:
    """Runs trainings one after the other.

    Args:
        minutes: that one training may take.
        waiting: how many may wait at a time.
    """

    def __init__(self, minutes: float = 20, waiting: int = 8) -> None:
        self.minutes = minutes
        self.waiting = waiting
        self._queue: list[Training] = []
        self._changed = threading.Condition()
        self._server: threading.Thread | None = None

    def submit(self, job: Job) -> Training:
        """Put a job into the queue.

        Raises:
            HfftError: too many are waiting already.
        """
        with self._changed:
            if len(self._queue) > self.waiting:
                raise HfftError(f"{len(self._queue)} trainings are waiting already; please try again in a while")
            training = Training(job)
            self._queue.append(training)
            if self._server is None:
                self._server = threading.Thread(target=self._serve, name="hfft-trainings", daemon=True)
                self._server.start()
            self._changed.notify_all()
        return training

    def follow(self, training: Training) -> Iterator[Training]:
        """Yield a training again and again until it has ended; one that nobody follows is given up after a while."""
        while not training.ended:
            training.seen = time.monotonic()
            place = self.place(training)
            if training.state == "waiting" and place:
                training.message = f"Place {place} in the queue: another training is running."
            yield training
            time.sleep(_POLL)
        yield training

    def place(self, training: Training) -> int:
        """Return how many trainings come before this one."""
        with self._changed:
            return self._queue.index(training) if training in self._queue else 0

    def cancel(self, training: Training) -> None:
        """End a training, or take it out of the queue; one that has ended stays as it is."""
        with self._changed:
            if training.ended:
                return
            training.state, training.message = "cancelled", "Cancelled. Nothing of it is kept."
            _end(training.process)
            self._changed.notify_all()

    def stop(self) -> None:
        """End everything."""
        for training in list(self._queue):
            self.cancel(training)

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue)
                training = self._queue[0]
            try:
                outcome = None if training.ended else self._run(training)
            except Exception as error:  # one training must not take the queue down with it
                outcome = "failed", f"The training failed: {type(error).__name__}: {error}"
            with self._changed:
                final: State = training.state if training.ended or outcome is None else outcome[0]
            # Whoever reads that a training has ended may rely on its uploads being gone.
            _tidy(training, keep=final == "done")
            with self._changed:
                self._queue.remove(training)
                if not training.ended and outcome is not None:
                    training.state, training.message = outcome

    def _run(self, training: Training) -> tuple[State, str] | None:
        """Run a training to its end and return how it ended; None where someone ended it."""
        began = time.monotonic()
        log = (training.job.folder / "log.txt").open("w+", encoding="utf-8", errors="replace")
        with log, _process(training, log) as process:
            with self._changed:
                if training.ended:
                    return None
                training.process, training.state = process, "running"
                training.message = f"Loading {training.job.base or 'the embedded model'} and the images."
            threading.Thread(target=self._watch, args=(training, began), daemon=True).start()
            assert process.stdout is not None
            for line in process.stdout:
                training.seconds = time.monotonic() - began
                outcome = _take(training, json.loads(line))
                if outcome is not None:
                    return outcome
            code = process.wait()
            log.seek(0)
            why = next((line for line in reversed(log.read().splitlines()) if line.strip()), "")
            return None if training.ended else ("failed", f"The training stopped with code {code}: {why[:300]}")

    def _watch(self, training: Training, began: float) -> None:
        while not training.ended and training.process is not None and training.process.poll() is None:
            now = time.monotonic()
            if now - began > self.minutes * 60:
                training.state = "failed"
                training.message = f"Stopped after {self.minutes:g} minutes, the most a training may take here."
            elif now - training.seen > _ABANDONED:
                training.state, training.message = "cancelled", "Cancelled: nobody was following it any more."
            if training.ended:
                _end(training.process)
            time.sleep(_POLL)


@contextlib.contextmanager
def _process(training: Training, log: Any) -> Iterator[subprocess.Popen[str]]:
    """Start the worker, hand it its job, and see to it that it is gone in the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "hfft.space.trainings.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        encoding="utf-8",
        start_new_session=True,
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
    )
    try:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            json.dump(training.job.arguments(), process.stdin)
            process.stdin.close()
        yield process
    finally:
        _end(process)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _end(process: subprocess.Popen[str] | None) -> None:
    if process is not None and process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _take(training: Training, event: dict[str, Any]) -> tuple[State, str] | None:
    """Bring a training up to date with one line of its worker; return how it ended, where the line says so."""
    kind = event["event"]
    if kind == "error":
        return "failed", event["text"]
    if kind == "done":
        training.share = 1.0
        return "done", "Done. Classify now uses the new model."
    if training.ended:
        return None
    training.filling = kind == "fill"
    if kind == "fill":
        training.share = event["done"] / event["total"]
        training.message = f"Through the frozen part, once: {event['done']:,} of {event['total']:,} images."
    elif kind == "step":
        epoch, epochs = event["epochs"], training.job.epochs
        training.share = min(epoch / epochs, 1.0)
        training.message = f"Training {event['phase']}: epoch {math.ceil(epoch)} of {epochs:g}."
    elif kind == "epoch":
        training.rows.append(EpochRow(**event["row"]))
    elif kind == "judge":
        training.message = "Judging the result."
    return None


def _tidy(training: Training, keep: bool) -> None:
    """Remove the uploaded images and the activations; of a training that came to nothing, everything."""
    folder = training.job.folder
    for name in ("images", "activations"):
        shutil.rmtree(folder / name, ignore_errors=True)
    if not keep:
        shutil.rmtree(folder, ignore_errors=True)
