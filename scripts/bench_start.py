"""Time a training of the Space from Train on: to the first epoch, and to the end, with a worker that is ready.

``python scripts/bench_start.py`` trains on 36 drawings three times: new images, the same with less to train, and the
same again. The table is for ``docs/space.md``.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import psutil
from space_tasks import write_classes

from hfft.space.trainings.queue import Job, Training, Trainings

EPOCHS = 5
RESTING = 0.02  # share of a core below which a worker is done with getting ready
ROWS = (
    ("new images, last block", "one", "last_block"),
    ("the same images, head", "one", "head"),
    ("the same again", "one", "head"),
)


def main() -> None:
    """Train and print the table."""
    print("| training of 5 epochs | seconds to the first epoch | in all |\n| --- | ---: | ---: |")
    with tempfile.TemporaryDirectory() as scratch:
        folder, queue = Path(scratch), Trainings()
        write_classes(folder / "images" / "train")
        queue.prepare()
        for number, (name, cache, policy) in enumerate(ROWS):
            wait_until_ready(queue)
            place = folder / f"run-{number}"
            place.mkdir()
            job = Job(place, folder / cache, folder / "images", policy, EPOCHS, device="cpu")
            first, whole = timed(queue, job)
            print(f"| {name} | {first:.1f} | {whole:.1f} |", flush=True)
        queue.stop()


def wait_until_ready(queue: Trainings) -> None:
    """Wait until the spare worker computes no more."""
    assert queue._spare is not None
    worker = psutil.Process(queue._spare.process.pid)
    worker.cpu_percent()
    time.sleep(1)
    while worker.cpu_percent(2) > 100 * RESTING:
        pass


def timed(queue: Trainings, job: Job) -> tuple[float, float]:
    """Return the seconds from the order to the first epoch, and to the end.

    Raises:
        SystemExit: the training failed.
    """
    began, first = time.monotonic(), 0.0
    training: Training = queue.submit(job)
    for now in queue.follow(training):
        first = first or (time.monotonic() - began if now.rows else 0.0)
    if training.state != "done":
        raise SystemExit(training.message)
    return first, time.monotonic() - began


if __name__ == "__main__":
    main()
