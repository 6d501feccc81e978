"""Trainings in processes of their own: what they tell while they fill and train, and that they end when told to."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from finished import make_images, make_model

from hfft.errors import HfftError
from hfft.report.record import read_record
from hfft.report.trace import read_trace
from hfft.space.trainings.queue import Job, Training, Trainings, Worker, end_family, take

pytestmark = pytest.mark.processes


@pytest.fixture
def trainings() -> Iterator[Trainings]:
    trainings = Trainings()
    yield trainings
    trainings.stop()


def make_job(folder: Path, policy: str, epochs: float, images: int = 6) -> Job:
    base = make_model(folder / "base")
    make_images(folder / "images" / "train", count=images)
    (folder / "training").mkdir()
    return Job(folder / "training", folder / "activations", folder / "images", policy, epochs, str(base), "cpu")


def heard(trainings: Trainings, job: Job) -> tuple[Training, list[str]]:
    """Run a job to its end; return it with all that it said on the way."""
    training = trainings.submit(job)
    said: list[str] = []
    for now in trainings.follow(training):
        if not said or said[-1] != now.message:
            said.append(now.message)
    return training, said


def test_a_training_of_two_phases_tells_what_its_trace_tells(trainings: Trainings, tmp_path: Path) -> None:
    training, said = heard(trainings, make_job(tmp_path, "lp_ft", 4))
    assert training.state == "done", training.message
    frozen = read_record(tmp_path / "training" / "run" / "hfft.json").frozen
    assert frozen is not None
    assert f"before training: {frozen.sha256_before[:12]}, after it: {frozen.sha256_after[:12]}; the same" in said[-1]
    written = read_trace(tmp_path / "training" / "run" / "trace.csv")
    assert [(row.epoch, row.phase) for row in training.rows] == [
        (1, "head"),
        (2, "head"),
        (3, "last_block"),
        (4, "last_block"),
    ]
    told = [(row.epoch, row.phase, row.eval_loss, row.score) for row in training.rows]
    assert told == [(row.epoch, row.phase, row.eval_loss, row.score) for row in written]


@pytest.mark.parametrize(
    ("event", "station", "share", "message"),
    [
        ({"event": "fill", "done": 8, "total": 32}, "fill", 0.25, "8 of 32 images"),
        ({"event": "step", "phase": "head", "epochs": 2.5}, "train", 0.625, "Epoch 3 of 4 (phase head)."),
        ({"event": "evaluate", "done": 0, "total": 0}, "evaluate", None, "evaluated"),
        ({"event": "evaluate", "done": 1, "total": 2}, "evaluate", 0.5, "evaluated"),
    ],
)
def test_what_a_worker_tells_is_where_the_training_stands(
    event: dict[str, Any], station: str, share: float | None, message: str, tmp_path: Path
) -> None:
    training = Training(Job(tmp_path, tmp_path, epochs=4), "running")
    assert take(training, event) is None
    assert (training.station, training.share) == (station, share)
    assert message in training.message


def test_an_error_names_no_folder_of_the_server(tmp_path: Path) -> None:
    training = Training(Job(tmp_path / "run-3", tmp_path / "activations"), "running")
    text = f"{tmp_path}/images-1/train: the class 'a' has no images; cannot write to {tmp_path}: it is full"
    said = "images-1/train: the class 'a' has no images; cannot write to your folder: it is full"
    assert take(training, {"event": "error", "text": text}) == ("failed", said)


def test_a_changed_frozen_part_would_be_said(tmp_path: Path) -> None:
    frozen = {"tensors": 3, "sha256_before": "a" * 64, "sha256_after": "b" * 64}
    outcome = take(Training(Job(tmp_path, tmp_path), "running"), {"event": "done", "frozen": frozen})
    assert outcome is not None
    assert outcome[1].endswith("aaaaaaaaaaaa, after it: bbbbbbbbbbbb; not the same.")


def test_the_pace_of_a_station_tells_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training = Training(Job(tmp_path, tmp_path, epochs=4), "running")
    now = 100.0
    monkeypatch.setattr("hfft.space.trainings.queue.time.monotonic", lambda: now)
    take(training, {"event": "fill", "done": 1, "total": 32})
    assert training.left is None  # too early to tell
    now = 106.0
    take(training, {"event": "fill", "done": 8, "total": 32})
    assert training.left == pytest.approx(18)
    take(training, {"event": "step", "phase": "head", "epochs": 2})
    now = 107.0
    assert training.left == pytest.approx(1)  # another station, another pace


@pytest.mark.parametrize(
    "heard",
    [
        ((8, 24, 100.0), (16, 24, 101.0), (24, 24, 102.0), (8, 8, 103.0)),
        ((16, 16, 100.0), (16, 16, 102.0)),  # one event each, of splits of one size
        ((6, 6, 100.0), (8, 26, 101.0), (26, 26, 103.25)),  # the next split is larger
    ],
)
def test_what_keeping_spared_is_said_as_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: tuple[tuple[int, int, float], ...]
) -> None:
    training = Training(Job(tmp_path, tmp_path, epochs=5), "running")
    for done, total, now in heard:
        monkeypatch.setattr("hfft.space.trainings.queue.time.monotonic", lambda now=now: now)
        take(training, {"event": "fill", "done": done, "total": total})
    outcome = take(training, {"event": "done"})
    assert outcome is not None
    assert "The frozen part took 4.0 s for 32 images, once; in each of 5 epochs it would have taken 20 s." in outcome[1]


def test_it_is_cancelled_while_the_cache_fills(trainings: Trainings, tmp_path: Path) -> None:
    training = trainings.submit(make_job(tmp_path, "last_block", 20, images=600))
    shares = []
    for now in trainings.follow(training):
        if now.station == "fill" and now.share and not now.ended:
            shares.append(now.share)
            assert "frozen part" in now.message
            trainings.cancel(training)
    assert shares
    assert 0 < shares[0] <= 1
    assert training.state == "cancelled"
    assert not training.rows
    assert not list((tmp_path / "training").glob("run/model*"))
    assert (tmp_path / "images").exists()


def test_a_training_that_is_cancelled_while_it_waits_leaves_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    monkeypatch.setattr(Trainings, "_run", lambda self, training: over.wait() and None)
    monkeypatch.setattr(Trainings, "prepare", lambda self: None)
    monkeypatch.setattr(Trainings, "_prepare", lambda self: None)
    trainings = Trainings(waiting=1)
    jobs = [Job(tmp_path / name, tmp_path) for name in ("first", "second", "third")]
    for job in jobs:
        job.folder.mkdir()
    trainings.submit(jobs[0])
    trainings.cancel(trainings.submit(jobs[1]))
    assert not jobs[1].folder.exists()
    assert trainings.place(trainings.submit(jobs[2])) == 1
    over.set()


def test_a_training_that_is_done_keeps_its_worker_whoever_cancels_it_then(tmp_path: Path) -> None:
    trainings, training = Trainings(), Training(Job(tmp_path / "job", tmp_path), "running")
    worker = Worker()
    training.process = worker.process
    trainings._keep_or_close(worker, training, ("done", "It is done."))
    trainings.cancel(training)
    assert (training.state, worker.process.poll(), trainings._spare) == ("done", None, worker)
    trainings.stop()


def test_a_training_that_was_cancelled_keeps_no_worker(tmp_path: Path) -> None:
    trainings, training = Trainings(), Training(Job(tmp_path / "job", tmp_path), "running")
    worker = Worker()
    training.process = worker.process
    trainings.cancel(training)
    trainings._keep_or_close(worker, training, ("done", "It is done."))
    assert trainings._spare is None


def test_nothing_is_taken_in_once_it_was_stopped(tmp_path: Path) -> None:
    trainings = Trainings()
    trainings.stop()
    with pytest.raises(HfftError, match="about to end"):
        trainings.submit(Job(tmp_path / "job", tmp_path))


def test_the_one_that_runs_is_not_counted_as_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(Trainings, "_run", lambda self, training: over.wait() and None)
    monkeypatch.setattr(Trainings, "_prepare", lambda self: None)
    trainings = Trainings(waiting=1)
    for name in ("runs", "waits"):
        trainings.submit(Job(tmp_path / name, tmp_path))
    with pytest.raises(HfftError, match="1 waiting"):
        trainings.submit(Job(tmp_path / "third", tmp_path))
    over.set()


def test_a_worker_ends_where_there_are_no_groups_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.killpg")  # as on Windows
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(1800)'])"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        family = psutil.Process(process.pid)
        while not (children := family.children()):
            time.sleep(0.05)
        end_family(process.pid)
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive


def test_a_worker_ends_with_whoever_started_it(tmp_path: Path) -> None:
    code = (
        "import os; from hfft.space.trainings.queue import Worker; "
        "one, two = Worker(), Worker(); two.process.stdin.write('{'); "
        "print(one.process.pid, two.process.pid, flush=True); os._exit(1)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    for pid in map(int, told.stdout.split()):
        psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=1800)
        assert not psutil.pid_exists(pid)


def test_a_worker_is_ready_before_it_is_asked(trainings: Trainings, tmp_path: Path) -> None:
    trainings.prepare()
    spare = trainings._spare
    assert spare is not None
    training, _ = heard(trainings, make_job(tmp_path, "head", 1))
    assert training.process is spare.process


def test_a_worker_trains_again_with_the_same_result_and_one_that_failed_does_not(
    trainings: Trainings, tmp_path: Path
) -> None:
    job = make_job(tmp_path, "last_block", 2)
    first, _ = heard(trainings, job)
    for name in ("again", "wrong", "after"):
        (tmp_path / name).mkdir()
    again, _ = heard(trainings, replace(job, folder=tmp_path / "again"))
    assert again.process is first.process
    assert [(row.eval_loss, row.train_loss) for row in again.rows] == [
        (row.eval_loss, row.train_loss) for row in first.rows
    ]
    record = read_record(tmp_path / "again" / "run" / "hfft.json")
    assert record.cache.hits == sum(record.data.counts.values())
    wrong, _ = heard(trainings, replace(job, folder=tmp_path / "wrong", policy="last_n:99"))
    assert wrong.state == "failed"
    after, _ = heard(trainings, replace(job, folder=tmp_path / "after"))
    assert after.state == "done"
    assert after.process is not first.process
