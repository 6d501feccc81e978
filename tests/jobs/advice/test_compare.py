"""Which policy is recommended, and what is said of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from finished import make_images, make_model
from runs import record, run

from hfft.cli import main
from hfft.errors import ArgumentError
from hfft.jobs.advice.compare import PROBE, Candidate, recommend
from hfft.metrics import wilson_interval
from hfft.tasks.scored import Right


def candidate(policy: str, right: int, share: float, images: int = 100) -> Candidate:
    """A candidate whose predictions are right for the first so many images."""
    return Candidate(policy, Right(np.arange(images) < right), 1.0, 1.0, share)


def test_the_most_accurate_is_recommended_and_of_equals_the_cheapest() -> None:
    probe = candidate(PROBE, 60, 0.1)
    head, block, two = candidate("head", 80, 0.1), candidate("last_block", 89, 0.2), candidate("last_n:2", 90, 0.4)
    policy, reason = recommend([head, block, two], probe)
    assert policy == "last_n:2"
    assert reason == (
        "Recommended: last_n:2, the most accurate, 0.900; last_block, 0.890, trains less and is within one standard "
        "error of it (0.014)."
    )
    policy, reason = recommend([head, candidate("last_block", 95, 0.2)], probe)
    assert policy == "last_block"
    assert reason.endswith("the most accurate, 0.950, by more than a standard error above all that train less.")
    assert recommend([head, candidate("last_block", 80, 0.2)], probe)[0] == "head"  # of equals the cheaper one


def test_a_probe_that_is_ahead_is_named() -> None:
    assert "the linear probe, 0.990" in recommend([candidate("head", 80, 0.1)], candidate(PROBE, 99, 0.1))[1]


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


def test_advice_for_programs(advise: Advise) -> None:
    code, out, _ = advise("--policies", "head,last_block", "--folds", "2", "--json")
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
