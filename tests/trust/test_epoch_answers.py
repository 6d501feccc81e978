"""What was said of each validation image, epoch by epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hfft.errors import OutputError
from hfft.trust import epoch_answers
from hfft.trust.epoch_answers import EpochAnswers, read_epoch_answers, write_epoch_answers


def made(epochs: int = 3) -> EpochAnswers:
    answers = EpochAnswers()
    for epoch in range(epochs):
        answers.add(float(epoch), np.random.default_rng(epoch).normal(size=(4, 2)))
    return answers


def test_what_is_written_is_read(tmp_path: Path) -> None:
    answers, truth = made(), np.array([0, 1, 0, 1])
    write_epoch_answers(tmp_path / "answers", answers, truth)
    found, labels = read_epoch_answers(tmp_path / "answers")
    assert found.epochs == [0, 1, 2]
    assert np.array_equal(found.logits, answers.logits)
    assert labels.tolist() == truth.tolist()


def test_an_epoch_that_is_evaluated_again_is_replaced() -> None:
    answers = made()
    answers.add(2.0, np.ones((4, 2)))
    assert answers.epochs == [0, 1, 2]
    assert (answers.logits[-1] == 1).all()


def test_what_would_be_too_much_is_let_go_of_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch_answers, "MOST", 20)
    answers = made()  # 24 numbers
    answers.add(3.0, np.ones((1, 1)))
    assert (answers.epochs, answers.logits, answers.gone) == ([], [], True)


@pytest.mark.parametrize("content", [b"", b"text", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_a_damaged_file_is_said_to_be_damaged(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "answers").write_bytes(content)
    with pytest.raises(OutputError, match="damaged"):
        read_epoch_answers(tmp_path / "answers")


def test_parts_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    write_epoch_answers(tmp_path / "answers", made(), np.array([0, 1]))
    with pytest.raises(OutputError, match="do not fit"):
        read_epoch_answers(tmp_path / "answers")
