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
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

from hfft.errors import HfftError
from hfft.report.trace import EpochRow

State = Literal["waiting", "running", "done", "cancelled", "failed"]
Station = Literal["load", "fill", "train", "evaluate"]
_JOBS = 20  # trainings after which a worker is replaced, with what memory it has come to hold
_POLL = 0.25  # seconds between looks at a training
_TELLING = 0.1  # share of a station after which its pace tells how long it will take
_ABANDONED = 60.0  # seconds after which a training that nobody follows is ended


@dataclass(frozen=True)
class Job:
    """What to train.

    Args:
        folder: of this training alone; it takes ``run/`` and ``log.txt``.
        cache: folder of the activations; trainings on the same images share it.
        images: folder of ``<split>/<class>/``, or a list of images; None for the embedded ones.
        policy: as ``--policy`` takes it.
        epochs: passes over the training images.
        base: Hub id or folder of the pretrained model; None for the embedded one.
        device: ``cpu`` to keep off a GPU.
    """

    folder: Path
    cache: Path
    images: Path | None = None
    policy: str = "last_block"
    epochs: float = 3
    base: str | None = None
    device: str = ""

    def arguments(self) -> dict[str, dict[str, Any]]:
        """Return the options of the run, grouped as `hfft.training.setup.Settings` groups them."""
        return {
            "model": {"model_name_or_path": self.base},
            "data": data_options(self.images),
            "policy": {"policy": self.policy},
            "cache": {"cache": "auto", "cache_dir": str(self.cache)},
            "training": {
                "output_dir": str(self.folder / "run"),
                "num_train_epochs": float(self.epochs),
                "per_device_train_batch_size": 16,
                "use_cpu": self.device == "cpu",
                "report_to": "none",
                "disable_tqdm": True,
            },
        }


@dataclass(frozen=True)
class Errand:
    """What else a worker can do for a visitor: see `hfft.space.trainings.errands`.

    Args:
        folder: of this errand alone; it takes ``found.json``.
        kind: what to do.
        options: of it.
    """

    folder: Path
    kind: Literal["labels", "next"]
    options: dict[str, Any]
    epochs: float = 0

    @property
    def found(self) -> Path:
        """Where the worker writes what it found, as JSON."""
        return self.folder / "found.json"

    def arguments(self) -> dict[str, Any]:
        """Return what the worker is told."""
        return {"errand": self.kind, "found": str(self.found), **self.options}


def data_options(images: Path | None) -> dict[str, str]:
    """Return the options that name images: a folder of splits, a list of images, or None for the embedded ones."""
    if images is None:
        return {}
    if images.is_file():
        return {"dataset_name": str(images)}
    return {
        f"{split}_dir": str(images / split) for split in ("train", "validation", "test") if (images / split).is_dir()
    }


@dataclass
class Training:
    """A job on its way.

    Args:
        job: what to train, or what else to do.
        state: where it stands.
        message: the same in words.
        station: of the four that a training passes, the one where it is now.
        share: of this station, 0 to 1; None where that is not known.
        arrived: by station, when it was reached, on the monotonic clock.
        rows: the epochs so far.
        passed: how many images had passed the frozen part when it was first and last heard of, with the moments.
        filling: how many of the split that passes now, and how many it has.
        began: when it began to run, on the monotonic clock.
        ended_at: when it ended.
        seen: when somebody last followed it.
    """

    job: Job | Errand
    state: State = "waiting"
    message: str = "Waiting."
    station: Station = "load"
    share: float | None = None
    arrived: dict[Station, float] = field(default_factory=dict)
    rows: list[EpochRow] = field(default_factory=list)
    passed: tuple[tuple[int, float], ...] = ()
    filling: tuple[int, int] = (0, 0)
    began: float | None = None
    ended_at: float | None = None
    seen: float = field(default_factory=time.monotonic)
    process: subprocess.Popen[str] | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ("done", "cancelled", "failed")

    @property
    def seconds(self) -> float:
        """Seconds since it began to run, up to its end."""
        return 0.0 if self.began is None else (self.ended_at or time.monotonic()) - self.began

    @property
    def left(self) -> float | None:
        """Seconds that this station will take still, at the pace so far; None where that cannot be told yet."""
        if not self.share or self.share < _TELLING or self.station not in self.arrived:
            return None
        return (time.monotonic() - self.arrived[self.station]) * (1 - self.share) / self.share

    def reach(self, station: Station, share: float | None) -> None:
        """Say where it is now, and how much of that is done."""
        self.arrived.setdefault(station, time.monotonic())
        self.station, self.share = station, share

    def pass_images(self, done: int, total: int) -> None:
        """Count images that passed the frozen part; splits pass one after the other, each counted from 0 to its end."""
        before = self.passed[-1][0] if self.passed else 0
        so_far, end = self.filling
        now = before + (done - so_far if so_far < end else done)
        self.passed, self.filling = (*self.passed[:1], (now, time.monotonic())), (done, total)

    def end(self, state: State, message: str) -> None:
        """Say how it ended."""
        self.state, self.message, self.ended_at = state, message, time.monotonic()


class Trainings:
    """Runs trainings one after the other, each in a worker that was made ready before.

    Gradio's queue ends what it runs when the page that asked is closed. A training has to outlive that: pages are
    reloaded, and phones drop their connection.

    Args:
        minutes: that one training may take.
        waiting: how many may wait at a time.
    """

    def __init__(self, minutes: float = 20, waiting: int = 8) -> None:
        self.minutes = minutes
        self.waiting = waiting
        self._queue: list[Training] = []
        self._changed = threading.Condition()
        self._spare: Worker | None = None
        self._stopped = False
        self._server: threading.Thread | None = None

    def submit(self, job: Job | Errand) -> Training:
        """Put a job into the queue.

        Raises:
            HfftError: too many are waiting already, or the server is about to end.
        """
        with self._changed:
            if self._stopped:
                raise HfftError("the server is about to end; please try again in a while")
            if len(self._queue) > self.waiting:  # the first one runs
                raise HfftError(f"the queue is full: {len(self._queue) - 1} waiting; please try again in a while")
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
            training.end("cancelled", "Nothing of it is kept; your images are.")
            _kill(training.process)
            if training in self._queue[1:]:  # the first one runs, and is taken out when its worker has ended
                self._queue.remove(training)
                shutil.rmtree(training.job.folder, ignore_errors=True)
            self._changed.notify_all()

    def prepare(self) -> None:
        """Start a worker ahead of the next training, so that it need not wait for imports."""
        with self._changed:
            self._prepare()

    def stop(self) -> None:
        """End everything."""
        with self._changed:
            self._stopped = True
            left = list(self._queue)
            spare, self._spare = self._spare, None
        for training in left:
            self.cancel(training)
        if spare is not None:
            spare.close()

    def _prepare(self) -> None:
        if not self._stopped and (self._spare is None or self._spare.process.poll() is not None):
            self._spare = Worker()

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
            if final != "done":
                shutil.rmtree(training.job.folder, ignore_errors=True)
            with self._changed:
                self._queue.remove(training)
                if not training.ended and outcome is not None:
                    training.end(*outcome)
                self._prepare()

    def _run(self, training: Training) -> tuple[State, str] | None:
        """Run a training to its end and return how it ended; None where someone ended it."""
        with self._changed:
            if training.ended or self._stopped:
                return None
            self._prepare()
            worker, self._spare = self._spare, None
            assert worker is not None
            training.process, training.state, training.began = worker.process, "running", time.monotonic()
            training.message = "Reading the model and the images."
        threading.Thread(target=self._watch, args=(training,), daemon=True).start()
        outcome = None
        try:
            for event in worker.events(training.job.arguments()):
                outcome = take(training, event)
                if outcome is not None:
                    return outcome
            code = worker.process.wait()
            return None if training.ended else ("failed", f"The training stopped with code {code}: {worker.said()}")
        finally:
            self._keep_or_close(worker, training, outcome)

    def _keep_or_close(self, worker: Worker, training: Training, outcome: tuple[State, str] | None) -> None:
        """Hold a worker whose training ended well for the next one, for a while: it has all in memory already."""
        with self._changed:
            done = outcome is not None and outcome[0] == "done" and not training.ended
            if outcome and done and worker.jobs < _JOBS and self._spare is None and not self._stopped:
                training.end(*outcome)  # whoever cancels it from here on must not end the worker of the next one
                self._spare = worker
                return
        worker.close()

    def _watch(self, training: Training) -> None:
        while not training.ended and training.process is not None and training.process.poll() is None:
            with self._changed:
                if training.ended:
                    return
                if training.seconds > self.minutes * 60:
                    training.end(
                        "failed", f"Stopped after {self.minutes:g} minutes, the most a training may take here."
                    )
                elif time.monotonic() - training.seen > _ABANDONED:
                    training.end("cancelled", "Nobody was following it any more.")
                if training.ended:
                    _kill(training.process)
            time.sleep(_POLL)


class Worker:
    """A process that has imported what a training needs, and waits for its job.

    It ends when its standard input is closed, and so with this process, however that ends.

    Attributes:
        jobs: how many it was given.
    """

    def __init__(self) -> None:
        self.jobs = 0
        self.log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  (closed in `close`)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hfft.space.trainings.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            encoding="utf-8",
            start_new_session=True,
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
        )

    def events(self, job: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Hand over a job and yield what the worker says of it, until it is done."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.jobs += 1
        with contextlib.suppress(OSError):  # it has ended, which is a broken pipe, or on Windows an invalid argument
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
        for line in self.process.stdout:
            yield json.loads(line)

    def said(self) -> str:
        """Return the last line of its standard error."""
        self.log.seek(0)
        return next((line for line in reversed(self.log.read().splitlines()) if line.strip()), "")[:300]

    def close(self) -> None:
        """End it."""
        _kill(self.process)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.log):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def _kill(process: subprocess.Popen[str] | None) -> None:
    if process is not None and process.poll() is None:
        end_family(process.pid)


def end_family(leader: int) -> None:
    """End a process that leads a group, and all that it started."""
    with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
        if hasattr(os, "killpg"):
            os.killpg(leader, signal.SIGKILL)
        else:  # Windows
            for process in (*psutil.Process(leader).children(recursive=True), psutil.Process(leader)):
                process.kill()


def found_by(training: Training) -> Any:
    """Return what an errand that is done has found, as JSON has it; names of files may hold what is not UTF-8."""
    assert isinstance(training.job, Errand)
    return json.loads(training.job.found.read_text(encoding="utf-8", errors="surrogateescape"))


def take(training: Training, event: dict[str, Any]) -> tuple[State, str] | None:
    """Bring a training up to date with one event of its worker; return how it ended, where the event says so."""
    kind = event["event"]
    if kind == "error":
        return "failed", _without_folder(event["text"], training.job.folder.parent)
    if kind == "found":
        return "done", event["text"]
    if kind == "done":
        return "done", "The page now uses the new model." + _spared(training) + _proof(event.get("frozen"))
    if training.ended:
        return None
    if kind == "fill":
        training.reach("fill", event["done"] / event["total"])
        training.pass_images(event["done"], event["total"])
        training.message = f"Through the frozen part, once: {event['done']:,} of {event['total']:,} images."
    elif kind == "step":
        epoch, epochs = event["epochs"], training.job.epochs
        training.reach("train", min(epoch / epochs, 1.0))
        training.message = f"Epoch {math.ceil(epoch)} of {epochs:g} (phase {event['phase']})."
    elif kind == "epoch":
        training.rows.append(EpochRow(**event["row"]))
    elif kind == "evaluate":
        training.reach("evaluate", event["done"] / event["total"] if event["total"] else None)
        training.message = "The result is evaluated, and compared with a linear probe."
    return None


def _without_folder(text: str, folder: Path) -> str:
    """Name a visitor's files without the place of their folder on this server."""
    return text.replace(f"{folder}{os.sep}", "").replace(str(folder), "your folder")


def _spared(training: Training) -> str:
    """Say what the frozen part took, and what it would have taken in every epoch; nothing where that is not known."""
    if len(training.passed) < 2 or training.job.epochs <= 1:
        return ""
    (first, began), (last, ended) = training.passed
    seconds = (ended - began) / (last - first) * last
    return (
        f" The frozen part took {seconds:.1f} s for {last:,} images, once; in each of {training.job.epochs:g} epochs "
        f"it would have taken {seconds * training.job.epochs:.0f} s."
    )


def _proof(frozen: dict[str, Any] | None) -> str:
    """Say what the hashes of the frozen part were before and after training."""
    if frozen is None:
        return ""
    before, after = frozen["sha256_before"][:12], frozen["sha256_after"][:12]
    same = "the same to the last bit" if frozen["sha256_before"] == frozen["sha256_after"] else "not the same"
    return f" Hash of the {frozen['tensors']} frozen tensors before training: {before}, after it: {after}; {same}."
