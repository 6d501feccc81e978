"""Which policy is recommended, and what is said of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from finished import make_images, make_model
from runs import record, run

from hfft.arguments import AdviseArguments
from hfft.cli import main
from hfft.errors import ArgumentError
from hfft.jobs.advice.compare import PROBE, Advice, Candidate, Entrant, race, recommend, train_all
from hfft.metrics import wilson_interval
from hfft.tasks.scored import Right
from hfft.tasks.single_label import SINGLE_LABEL
from hfft.training.setup import Settings


def candidate(policy: str, right: int, share: float, images: int = 100, folds: int = 5) -> Candidate:
    """A candidate whose predictions are right for the first so many images."""
    return Candidate(policy, Right(np.arange(images) < right), 1.0, 1.0, share, folds)


PROBED = candidate(PROBE, 60, 0.1)


def test_a_notebook_shows_a_line() -> None:
    advice = Advice((PROBED, candidate("head", 80, 0.1)), "head", "It is.", 100, 5)
    assert repr(advice) == "Advice('head', of 2 recipes on 100 images)"
    assert "Right(0.600, 100 images)" in repr(PROBED)


def test_the_favourite_is_recommended_unless_another_is_clearly_ahead() -> None:
    block = candidate("last_block", 80, 0.2)
    assert recommend([block, candidate("last_n:2", 82, 0.4)], PROBED) == (
        "last_block",
        "Recommended: last_block, 0.800; last_n:2, 0.820, is ahead by less than two standard errors (0.034).",
    )
    assert recommend([block, candidate("last_n:2", 90, 0.4)], PROBED) == (
        "last_n:2",
        "Recommended: last_n:2, 0.900, ahead of last_block, 0.800, by more than two standard errors (0.062).",
    )
    policy, reason = recommend([candidate("head", 79, 0.1), block], PROBED)
    assert (policy, reason) == ("last_block", "Recommended: last_block, 0.800, the most accurate.")


def test_without_the_favourite_the_most_accurate_is_recommended_and_of_equals_the_cheapest() -> None:
    head, two = candidate("head", 80, 0.1), candidate("last_n:2", 81, 0.4)
    assert recommend([head, two], PROBED)[0] == "last_n:2"
    assert recommend([head, candidate("last_n:2", 80, 0.4)], PROBED)[0] == "head"


def test_who_went_no_further_is_said_and_not_recommended() -> None:
    behind = [candidate("head", 20, 0.1, images=20, folds=1), candidate("last_n:2", 40, 0.4, images=40, folds=2)]
    policy, reason = recommend([behind[0], candidate("last_block", 80, 0.2), behind[1]], PROBED)
    assert policy == "last_block"
    assert reason.endswith(
        "not ahead of last_block by a standard error were head after 1, last_n:2 after 2 of its trainings."
    )


def test_who_was_asked_about_fewer_images_is_not_held_against_the_probe() -> None:
    early = [candidate(policy, 15, 0.1, images=20, folds=1) for policy in ("head", "last_block")]
    assert recommend(early, candidate(PROBE, 99, 0.1)) == (
        "last_block",
        "Recommended: last_block, 0.750 (15 of 20), the most accurate.",
    )


def test_a_probe_that_is_ahead_is_named() -> None:
    assert "the linear probe, 0.990" in recommend([candidate("head", 80, 0.1)], candidate(PROBE, 99, 0.1))[1]


IMAGES = 100
LABELS = np.arange(IMAGES) % 2


def entrant(policy: str, wrong: Sequence[int]) -> Entrant:
    """One that answers folds of 20 images each, all rightly but so many of each fold."""

    def trainings() -> Iterator[Any]:
        for fold, mistakes in enumerate(wrong):
            rows = np.arange(20 * fold, 20 * fold + 20)
            said = LABELS[rows] ^ (np.arange(20) < mistakes)
            yield rows, np.eye(2, dtype=np.float32)[said]

    sets = SimpleNamespace(task=SINGLE_LABEL, train=SimpleNamespace(labels=LABELS))
    setup: Any = SimpleNamespace(sets=sets, plan=SimpleNamespace(policy=policy))
    return Entrant(setup, [], trainings())


def trainings(*entrants: Entrant, go_on: Any = race) -> list[int]:
    """Return how many trainings each of them has had in the end."""
    train_all(entrants, 5, go_on)
    return [len(each.said) for each in entrants]


def test_who_is_not_clearly_ahead_goes_no_further() -> None:
    favourite, ahead = entrant("last_block", (8, 8, 8, 8, 8)), entrant("lp_ft", (0, 0, 0, 0, 0))
    equal, fading = entrant("head", (8, 0, 0, 0, 0)), entrant("last_n:2", (2, 14, 0, 0, 0))
    assert trainings(equal, favourite, ahead, fading) == [1, 5, 5, 2]
    assert favourite.scored().score == 0.6
    assert ahead.scored().score == 1


def test_the_favourite_alone_is_no_question() -> None:
    assert trainings(entrant("head", (8, 0)), entrant("last_block", (8, 8))) == [1, 1]


@pytest.mark.parametrize(("policy", "go_on"), [("full", race), ("last_block", list)])
def test_without_a_race_or_a_favourite_all_go_all_the_way(policy: str, go_on: Any) -> None:
    bad, good = entrant("head", (20, 20, 20, 20, 20)), entrant(policy, (0, 0, 0, 0, 0))
    assert trainings(bad, good, go_on=go_on) == [5, 5]


def test_intervals_are_wilsons() -> None:
    assert candidate("head", 80, 0.1).interval == wilson_interval(80, 100)


Advise = Callable[..., tuple[int, str, str]]


@pytest.fixture
def advise(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Advise:
    """Return a runner of ``hfft advise`` on small images, which gives the exit code and what was printed."""
    model, images = make_model(tmp_path / "base", kind="resnet"), make_images(tmp_path / "images", count=8)
    monkeypatch.chdir(tmp_path)

    def start(*flags: str) -> tuple[int, str, str]:
        code = main(["advise", str(images), "--model_name_or_path", str(model), "--num_train_epochs", "2", *flags])
        return code, *capsys.readouterr()

    return start


def test_advice_in_the_terminal(advise: Advise, tmp_path: Path) -> None:
    code, out, _ = advise("--policies", "head,last_block", "--folds", "2")
    assert code == 0
    assert "By 2-fold cross-validation on 24 images" in out
    assert out.count("<- recommended") == 1
    assert "\nRecommended: " in out
    assert " more photos: " in out
    command = out.strip().splitlines()[-1]
    base, images = tmp_path / "base", tmp_path / "images"
    assert command.startswith(f"hfft finetune --model_name_or_path {base} --dataset_name {images} ")
    assert command.partition(" --num_train_epochs 2.0 --policy ")[2] in ("head", "last_block")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["activations", "base", "images"]  # nothing else


def test_what_is_left_out_is_said(advise: Advise, tmp_path: Path) -> None:
    (tmp_path / "images" / "red" / "broken.png").write_text("no image")
    code, out, _ = advise("--policies", "head", "--folds", "2", "--on_bad_image", "skip")
    assert code == 0
    assert "Skipped 1 image that cannot be read: " in out
    code, out, _ = advise("--models", str(tmp_path / "base"), "--folds", "2", "--on_bad_image", "skip")
    assert code == 0
    assert "Skipped 1 image that cannot be read: " in out


def test_advice_for_programs(advise: Advise) -> None:
    code, out, _ = advise("--policies", "head", "last_block", "--folds", "2", "--json")
    data = json.loads(out)["result"]
    assert code == 0
    assert [row["policy"] for row in data["candidates"]] == [PROBE, "head", "last_block"]
    assert data["policy"] in ("head", "last_block")
    assert data["images"] == 24
    for row in data["candidates"]:
        assert row["interval"][0] <= row["accuracy"] <= row["interval"][1]
        assert row["seconds"] > 0
        assert 0 < row["share"] <= 1
    assert data["candidates"][1]["megabytes"] < data["candidates"][2]["megabytes"]


def test_the_images_may_stand_behind_the_policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str | None, list[str]]] = []

    def compared(settings: Settings, options: AdviseArguments, say: object) -> Advice:
        seen.append((settings.data.dataset_name, options.policies))
        return Advice((PROBED,), "head", "It is.", 100, 5)

    monkeypatch.setattr("hfft.jobs.advise.advise", compared)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for words in (
        ["photos", "--policies", "head", "last_block"],
        ["--policies", "head", "last_block", "photos"],
        ["--policies", "head", "last_block", "someone/photos"],
        ["--dataset_name", "photos", "--policies", "head", "last_block"],
    ):
        assert main(["advise", *words]) == 0
    policies = ["head", "last_block"]
    assert seen == [(data, policies) for data in ("photos", "photos", "someone/photos", "photos")]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--policies", "heads"), "--policy 'heads' is unknown"),
        (("--policies", ","), "--policies names none"),
        (("--folds", "1"), "--folds must be at least 2"),
        (("--folds", "99"), "--folds 99 is more than the 24 training images"),
    ],
)
def test_wrong_arguments(advise: Advise, flags: tuple[str, ...], message: str) -> None:
    code, _, err = advise(*flags)
    assert code == 2
    assert message in err


def test_the_policy_is_decided_by_the_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, images = make_model(tmp_path / "base", kind="resnet"), make_images(tmp_path / "images", count=8)
    given = ("--model_name_or_path", model, "--train_dir", images, "--num_train_epochs", 2, "--figures", "false")
    assert run(*given, "--policy", "auto", "--output_dir", tmp_path / "auto") == 0
    assert "Policy auto: Recommended: " in capsys.readouterr().out
    data = record(tmp_path / "auto")
    assert data["policy"] in ("head", "last_block", "last_n:2", "lp_ft")
    assert data["arguments"]["policy"] == data["policy"]
    assert data["decisions"][0].startswith("Policy auto: ")
    assert run(*given, "--policy", data["policy"], "--output_dir", tmp_path / "again") == 0
    assert record(tmp_path / "again")["files"] == data["files"]


def test_a_plan_has_no_images_to_decide_by(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--policy", "auto"]) == 2
    assert "--policy auto is decided by the images" in capsys.readouterr().err


def test_a_class_alone_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With each class a group of its own, what is left beside a fold has one label."""
    images = make_images(tmp_path / "images", count=4)
    for folder in sorted(images.iterdir())[2:]:
        shutil.rmtree(folder)
    model = make_model(tmp_path / "base")
    flags = ("--model_name_or_path", str(model), "--validation_dir", str(images), "--group_pattern", "^[^/]+")
    assert main(["advise", "--train_dir", str(images), *flags, "--policies", "head"]) == 1
    assert "all images have the same label" in capsys.readouterr().err


def test_a_policy_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    from hfft.jobs.advise import advise_with

    model, images = make_model(tmp_path / "base"), make_images(tmp_path / "images")
    with pytest.raises(ArgumentError, match="last_n:K needs a whole number"):
        advise_with(model_name_or_path=model, train_dir=images, policies="last_n:99", use_cpu=True)
