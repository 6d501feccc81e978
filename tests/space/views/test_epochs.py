"""What the epoch slider is given to draw."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from hfft.report.trace import EpochRow
from hfft.space.views.epochs import CLASSES, Watched, epochs_value, no_epochs, watched_rows
from hfft.trust.epoch_answers import EpochAnswers

TRUTH = np.array([0, 0, 1, 1])
LABELS = ("cat", "<b>dog</b>")
BEFORE = np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]], np.float32)
AFTER = np.array([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [1.0, 0.0]], np.float32)
ANSWERS = EpochAnswers([0.0, 1.0], [BEFORE, AFTER])
ROWS = [EpochRow(1.0, "head", 0.5, 0.4, 0.75, 0.1, 1.0)]
WATCHED = [Watched(0, "0.png", "data:image/jpeg;base64,"), Watched(3, "3.png", "data:image/jpeg;base64,")]


def value(**changed: Any) -> dict[str, Any]:
    return epochs_value(ANSWERS, TRUTH, LABELS, ROWS, WATCHED, **changed)


def test_each_epoch_says_how_many_of_which_images_with_an_interval() -> None:
    first, last = value()["epochs"]
    assert first["text"].startswith("Before any training: 1 of 4 validation images right (95 % interval 5% to 70%)")
    assert last["text"].startswith("Epoch 1: 3 of 4 validation images right")
    assert (first["accuracy"], last["accuracy"]) == (0.25, 0.75)
    assert (first["train"], last["train"]) == (None, 0.5)
    expected = np.mean([math.log(1 + math.exp(-2))] * 3 + [math.log(1 + math.exp(1))])
    assert last["loss"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("kept", "which"), [(None, [False, True]), (0.0, [True, False])])
def test_the_epoch_that_was_kept_is_marked(kept: float | None, which: list[bool]) -> None:
    assert [epoch["kept"] for epoch in value(kept=kept)["epochs"]] == which


def test_the_matrix_counts_all_images_and_the_pictures_some() -> None:
    found = value()
    assert found["matrix"] == [[[0, 2], [1, 1]], [[2, 0], [1, 1]]]
    first, last = found["images"]
    assert (first["label"], first["said"]) == (0, [1, 0])
    assert (last["label"], last["said"]) == (1, [0, 0])
    assert {each["label"]: each["share"][1] for each in first["shares"]}[0] == pytest.approx(
        1 / (1 + math.exp(-2)), abs=1e-4
    )
    assert "all 4 validation images" in str(found["note"])
    assert "2 of them are shown" in str(found["note"])


def test_the_temperature_softens_the_probabilities() -> None:
    plain, soft = (value(temperature=temperature)["images"][0]["sure"][1] for temperature in (1.0, 4.0))
    assert plain > soft > 0.5


def test_the_first_images_of_each_class_are_followed() -> None:
    truth = np.repeat(np.arange(CLASSES + 3), 20)
    rows = watched_rows(truth)
    assert sorted(set(truth[rows].tolist())) == list(range(CLASSES))
    assert rows[:4] == [0, 1, 2, 3]


def test_many_classes_have_no_matrix_and_it_is_said() -> None:
    labels = [str(number) for number in range(CLASSES + 1)]
    logits = np.eye(len(labels), dtype=np.float32)
    found = epochs_value(EpochAnswers([0.0], [logits]), np.arange(len(labels)), labels, [], [])
    assert found["matrix"] == []
    assert f"{len(labels)} classes" in found["note"]
    assert "not here any more" in found["note"]


def test_what_is_drawn_is_plain_data() -> None:
    for each in (value(), no_epochs("nothing")):
        assert json.loads(json.dumps(each)) == each
        assert set(each) == set(no_epochs(""))
