"""Ask a Space for labels from many clients at once, and hold every answer against the model's own.

Serves a finished run in a process of its own on loopback and watches that process's memory:
``python scripts/load_space.py OUTPUTS_FOLDER [--clients 32] [--seconds 60] [--images FOLDER]``.
"""

from __future__ import annotations

import argparse
import io
import itertools
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from hfft.inference.classifier import Prediction, classify, load_classifier
from hfft.inference.runs import embedded_examples, find_runs
from hfft.space.service import NONE

TOLERANCE = 1e-4
"""How far a probability or a distance may be from the model's own: images in one batch can round differently."""


@dataclass
class Load:
    """What the clients and the watcher saw.

    Args:
        answers: seconds that each right answer took.
        wrong: answers that are not the model's own.
        errors: requests that failed.
        refused: hostile images that were turned away, as they should be.
        memory: resident bytes of the server, with the seconds since the first client asked.
    """

    answers: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    refused: int = 0
    memory: list[tuple[float, int]] = field(default_factory=list)

    def resident(self, share: float) -> int:
        """Return the server's memory after a share of the time, 0 to 1."""
        return self.memory[round(share * (len(self.memory) - 1))][1]

    def table(self, clients: int) -> str:
        """Return the figures as Markdown."""
        marks = " / ".join(f"{self.resident(share) / 1e6:,.0f}" for share in (0, 0.25, 0.5, 0.75, 1))
        rows = [
            ("clients at once", f"{clients}"),
            ("seconds", f"{self.memory[-1][0]:.0f}"),
            ("right answers", f"{len(self.answers):,}"),
            ("wrong answers", f"{len(self.wrong)}"),
            ("errors", f"{len(self.errors)}"),
            ("hostile images refused", f"{self.refused:,}"),
            ("seconds per answer, median", f"{statistics.median(self.answers):.2f}" if self.answers else "-"),
            ("seconds per answer, slowest", f"{max(self.answers):.2f}" if self.answers else "-"),
            ("memory in MB, start / 25 % / 50 % / 75 % / end", marks),
        ]
        return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows)])


@contextmanager
def served(outputs: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Serve the newest run of a folder in a process of its own; yield its address and the process."""
    command = [sys.executable, "-m", "hfft", "space", "--outputs", str(outputs)]
    with subprocess.Popen(  # noqa: S603  (our own command)
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        line = next((line for line in process.stdout if line.startswith("hfft space: ")), "")
        try:
            if not line:
                raise SystemExit(f"the Space did not start: exit code {process.wait()}")
            yield line.removeprefix("hfft space: ").strip(), psutil.Process(process.pid)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def drive(
    url: str,
    server: psutil.Process,
    known: Sequence[tuple[Path, Prediction]],
    clients: int,
    seconds: float,
    hostile: Sequence[Path] = (),
) -> Load:
    """Let clients ask again and again until the time is up.

    Args:
        url: of the Space.
        server: its process.
        known: images, each with the model's own answer.
        clients: how many at once, each with a connection of its own.
        seconds: after which no new question is asked.
        hostile: images that must be refused; each client sends one of them after each right answer.
    """
    load, every = Load(), [Client(url, verbose=False) for _ in range(clients)]
    every[0].predict(handle_file(str(known[0][0])), api_name="/classify")  # loads the model
    began = time.monotonic()
    end = began + seconds

    def ask(client: Client, first: int) -> None:
        for path, expected in itertools.islice(itertools.cycle(known), first, None):
            if time.monotonic() > end:
                return
            asked = time.perf_counter()
            try:
                label = client.predict(handle_file(str(path)), api_name="/classify")[0]
            except Exception as error:  # whatever the client raises is what this script counts
                load.errors.append(f"{path.name}: {error}")
                continue
            if same_answer(label, expected):
                load.answers.append(time.perf_counter() - asked)
                if hostile:
                    send(client, hostile[len(load.answers) % len(hostile)])
            else:
                load.wrong.append(f"{path.name}: {label} instead of {expected}")

    def send(client: Client, path: Path) -> None:
        try:
            answer = client.predict(handle_file(str(path)), api_name="/classify")[0]
        except AppError:
            load.refused += 1
        else:
            load.wrong.append(f"{path.name}: {answer} instead of a refusal")

    threads = [threading.Thread(target=ask, args=item) for item in zip(every, itertools.count(), strict=False)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        load.memory.append((time.monotonic() - began, server.memory_info().rss))
        time.sleep(0.25)
    return load


def main() -> int:
    """Run the clients and print what they saw; return 1 where an answer was wrong or a request failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("outputs", type=Path)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--images", type=Path, help="folder of images; by default five of the embedded ones")
    parser.add_argument("--hostile", action="store_true", help="send images among them that must be refused")
    options = parser.parse_args()
    runs = find_runs(options.outputs)
    if not runs:
        parser.error(f"there is no finished run in {options.outputs}")
    with tempfile.TemporaryDirectory() as place:
        files = sorted(options.images.rglob("*.*")) if options.images else write_examples(Path(place))
        known = answers_of(runs[0].folder, files)
        with served(options.outputs) as (url, server):
            hostile = write_hostile(Path(place)) if options.hostile else []
            load = drive(url, server, known, options.clients, options.seconds, hostile)
    print(load.table(options.clients))
    for problem in (load.wrong + load.errors)[:5]:
        print(problem)
    return int(bool(load.wrong or load.errors))


def answers_of(folder: Path, files: Sequence[Path]) -> list[tuple[Path, Prediction]]:
    """Return files, each with what a run's model makes of it."""
    return list(zip(files, classify(load_classifier(folder), files), strict=True))


def same_answer(shown: dict[str, Any], expected: Prediction) -> bool:
    """Return whether the page's answer, as its label component sends it, is the model's own.

    The page gives no probabilities for an image that the model takes for unlike all its training images. One at the
    very limit may be on either side.
    """
    score = expected.unknown_score
    if not shown["confidences"]:
        return shown["label"] == NONE and score is not None and score > 1 - TOLERANCE
    first, top = shown["confidences"][0], expected.top[0]
    near = abs(first["confidence"] - top.probability) < TOLERANCE
    return first["label"] == top.label and near and (score is None or score < 1 + TOLERANCE)


def write_examples(folder: Path) -> list[Path]:
    """Write a few of the embedded test images into a folder."""
    paths = []
    for label, image in embedded_examples():
        image.save(folder / f"{label}.png")
        paths.append(folder / f"{label}.png")
    return paths


def write_hostile(folder: Path) -> list[Path]:
    """Write images that must be refused: too long, too many pixels, cut off, empty, and none at all."""
    stream = io.BytesIO()
    Image.new("RGB", (300, 300), "red").save(stream, "PNG")
    kept = stream.getvalue()
    Image.new("1", (16_000, 1)).save(folder / "long.png")  # 100 bytes that would be scaled to 3 GB
    Image.new("1", (9_500, 9_500)).save(folder / "bomb.png")
    (folder / "cut.png").write_bytes(kept[: len(kept) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("this is not an image")
    return [folder / name for name in ("long.png", "bomb.png", "cut.png", "empty.png", "text.jpg")]


if __name__ == "__main__":
    raise SystemExit(main())
