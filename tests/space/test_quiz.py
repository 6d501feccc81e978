"""The quiz: what is right, what is wrong and why, and guesses at what was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest
from finished import make_images, make_model, run_finetune

from hfft.inference.runs import FinishedRun, read_run
from hfft.report.record import CacheRecord
from hfft.space.quiz import GENERAL, OWN, Guess, Question, make_quiz


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    folder = tmp_path_factory.mktemp("quiz")
    base, images = make_model(folder / "base"), make_images(folder / "images")
    run_finetune(base, images, folder / "run", num_train_epochs=2.0)
    return read_run(folder / "run")


@pytest.mark.parametrize("item", GENERAL, ids=lambda item: item.text[:30])
def test_a_wrong_choice_is_told_why_it_is_wrong(item: Question) -> None:
    for place, choice in enumerate(item.choices):
        verdict = item.grade(choice)
        assert verdict.right == (place == item.answer)
        assert item.explanation in verdict.text
        assert bool(item.reasons[place]) == (place != item.answer)
        assert item.reasons[place] in verdict.text
    assert item.grade("").right is None
    assert item.grade(None).right is None


@pytest.mark.parametrize("item", GENERAL, ids=lambda item: item.text[:30])
def test_the_length_of_a_choice_tells_nothing(item: Question) -> None:
    lengths = sorted(map(len, item.choices))
    assert lengths[-1] <= 1.3 * lengths[0]


def test_the_right_choices_stand_in_different_places() -> None:
    assert len({item.answer for item in GENERAL}) == 3


def test_own_questions_are_about_what_was_measured(run: FinishedRun) -> None:
    share, passes, probe = make_quiz(run)[len(GENERAL) :]
    assert OWN == 3
    assert isinstance(share, Guess)
    (head,) = (part for part in run.record.parts if part.name == "head")
    assert share.measured == pytest.approx(100 * head.parameters / sum(part.parameters for part in run.record.parts))
    assert f"{100 * run.trained_share:.1f} %" not in share.said  # which stands above the page
    assert isinstance(passes, Question)
    assert passes.choices[passes.answer] == "36"  # 18 images, two epochs, nothing kept
    assert isinstance(probe, Guess)
    assert probe.measured == round(18 * run.record.baselines["linear_probe"]["accuracy"])
    assert "of 18 validation images (95 % interval" in probe.said


def test_with_a_cache_each_image_passes_once(run: FinishedRun) -> None:
    kept = FinishedRun(run.folder, run.name, replace(run.record, cache=CacheRecord("memory", 100)), run.rows)
    passes = make_quiz(kept)[len(GENERAL) + 1]
    assert isinstance(passes, Question)
    assert passes.choices[passes.answer] == "18"
    assert all(bool(reason) == (place != passes.answer) for place, reason in enumerate(passes.reasons))


def test_a_guess_that_is_near_enough_counts() -> None:
    guess = Guess("?", 100, " %", 30.5, 10, "measured were 30.5 %", "So it is.")
    assert guess.grade(38).right
    assert guess.grade("25").right
    assert guess.grade(50).right is False
    assert "19.5 % away" in guess.grade(50).text
    for nothing in (None, "", "x", -1, 101, "nan"):
        assert guess.grade(nothing).right is None


def test_without_a_run_there_are_the_general_questions() -> None:
    assert make_quiz(None) == GENERAL
