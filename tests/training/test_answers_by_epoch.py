"""What is said of the validation images before training and after each epoch, kept without a trace in the weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from runs import Job, equal, losses, record, weights

from hfft.output_folder import EPOCH_ANSWERS
from hfft.report.trace import read_trace
from hfft.training.trainer import KeepAnswers
from hfft.trust.epoch_answers import read_epoch_answers

NOISY = ("--policy", "lp_ft", "--num_train_epochs", 4, "--mixup", 0.4, "--augment", "flip", "--views", 2)


@pytest.mark.parametrize("more", [(), ("--cache", "off"), ("--dataloader_num_workers", 1)])
def test_keeping_them_changes_no_bit_of_the_weights(
    more: tuple[Any, ...], job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = job("vit", "kept", *NOISY, *more)
    monkeypatch.setattr(KeepAnswers, "on_train_begin", lambda *args, **kwargs: None)
    without = job("vit", "without", *NOISY, *more)
    assert (kept / EPOCH_ANSWERS).exists()
    assert not (without / EPOCH_ANSWERS).exists()
    assert equal(weights(kept), weights(without))
    assert losses(kept) == losses(without)
    assert record(kept)["best_epoch"] == record(without)["best_epoch"]


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_they_are_those_of_the_trace_with_one_from_before_training(kind: str, job: Job) -> None:
    folder = job(kind, "run", "--policy", "lp_ft", "--num_train_epochs", 4, "--keep", "best")
    answers, truth = read_epoch_answers(folder / EPOCH_ANSWERS)
    rows = read_trace(folder / "trace.csv")
    assert answers.epochs == sorted({0.0, *(row.epoch for row in rows)})
    right = [float((logits.argmax(1) == truth).mean()) for logits in answers.logits]
    assert right[-len(rows) :] == pytest.approx([row.score for row in rows])
    best = answers.epochs.index(record(folder)["best_epoch"])
    lines = (folder / "predictions.csv").read_text().splitlines()[1:]
    labels = record(folder)["data"]["labels"]
    said = [labels[label] for label in answers.logits[best].argmax(1)]
    assert [line.split(",")[2] for line in lines] == said
    assert [line.split(",")[1] for line in lines] == [labels[label] for label in truth]


def test_epoch_0_is_the_model_as_training_finds_it(job: Job) -> None:
    folders = [job("vit", f"rate-{rate}", "--learning_rate", rate) for rate in (1e-3, 1e-2)]
    one, two = (read_epoch_answers(folder / EPOCH_ANSWERS)[0] for folder in folders)
    assert np.array_equal(one.logits[0], two.logits[0])
    assert not np.array_equal(one.logits[-1], two.logits[-1])


@pytest.mark.parametrize("flags", [("--eval_strategy", "no"), ("--eval_delay", 5)])
def test_a_run_that_was_not_evaluated_has_none(flags: tuple[Any, ...], job: Job) -> None:
    assert not (job("vit", "run", *flags) / EPOCH_ANSWERS).exists()


def test_a_run_with_too_many_has_none(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hfft.trust.epoch_answers.MOST", 20)
    assert not (job("vit", "run") / EPOCH_ANSWERS).exists()
