"""A Space that does its worker's jobs at once, in this process, and a visitor with one mislabelled image."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from finished import make_images, make_model, run_finetune

pytest.importorskip("gradio", reason="the extra 'space' is not installed")

from hfft.space.options import SpaceArguments
from hfft.space.service import Space
from hfft.space.trainings.queue import Errand, Job, Training, take
from hfft.space.trainings.sessions import Session
from hfft.space.trainings.worker import Reporter, run_errand, train

MEANWHILE = 0.5
"""Seconds that one request takes longer than another, where that one does not wait."""


@dataclass(frozen=True)
class Visit:
    """A visitor of a Space that serves the run ``run``."""

    space: Space
    session: Session


def done_at_once(job: Job | Errand) -> Training:
    """Do what a worker does, and tell of it as it does."""
    stream, told, training = io.StringIO(), job.arguments(), Training(job)
    _ = run_errand(told, Reporter(stream, 0)) if "errand" in told else train(told, Reporter(stream, job.epochs))
    for line in stream.getvalue().splitlines():
        outcome = take(training, json.loads(line))
        if outcome is not None:
            training.end(*outcome)
    return training


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curation")
    base, images = make_model(folder / "base"), make_images(folder / "images", count=10)
    run_finetune(base, images, folder / "outputs" / "run", learning_rate=0.05, num_train_epochs=3.0)
    (images / "red" / "9.png").rename(images / "blue" / "stray.png")
    shutil.make_archive(str(folder / "images"), "zip", images)
    return folder


@pytest.fixture
def visit(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Visit]:
    space = Space(SpaceArguments(outputs=str(folder / "outputs")), tmp_path, "cpu")
    monkeypatch.setattr(space.trainings.queue, "submit", done_at_once)
    session = Session()
    archive = shutil.copy(folder / "images.zip", tmp_path / "given.zip")
    space.trainings.read_zip(session, str(archive))
    yield Visit(space, session)
    space.close()
