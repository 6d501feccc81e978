"""A run with the default amount never ends below its own probe, and says on what that rests."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from finished import make_images, make_model
from runs import equal, record, run, trace, weights

from hfft.errors import DivergedError
from hfft.jobs.advice import choose, folds
from hfft.report.trace import PROBE
from hfft.training import setup
from hfft.training.baselines import LinearProbe
from hfft.training.recipe import amount

RUINED = ("--learning_rate", 30, "--lr_scheduler_type", "constant", "--max_grad_norm", 0)


@pytest.fixture
def start(tmp_path: Path) -> Any:
    """Return a runner of jobs that leave their amount to hfft."""
    images = make_images(tmp_path / "images", count=8)

    def go(name: str, *flags: Any, kind: str = "resnet") -> Path:
        base = tmp_path / f"base-{kind}"
        if not base.exists():
            make_model(base, kind=kind)
        given = ("--model_name_or_path", base, "--train_dir", images, "--output_dir", tmp_path / name)
        assert run(*given, "--figures", "false", "--use_cpu", "true", *flags) == 0
        return tmp_path / name

    return go


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(amount, "MOST_EPOCHS", 2)
    monkeypatch.setattr(amount, "LEAST_EPOCHS", 2)


def decision(folder: Path) -> str:
    found: str = record(folder)["decisions"][-1]
    return found


@pytest.mark.parametrize("enough", [1, 10**6], ids=["validation", "folds"])
@pytest.mark.parametrize("policy", ["head", "lp_ft"])
@pytest.mark.usefixtures("short")
def test_a_training_that_ruins_the_head_hands_back_the_probe(
    start: Any, monkeypatch: pytest.MonkeyPatch, enough: int, policy: str
) -> None:
    monkeypatch.setattr(setup, "ENOUGH", enough)
    folder = start("out", "--policy", policy, *RUINED)
    data = record(folder)
    assert decision(folder).startswith("Handed back is the linear probe: ")
    assert ("3-fold" in decision(folder)) == (enough > 1)
    assert data["best_epoch"] == 0
    accuracy = data["metrics"]["validation"]["values"]["accuracy"]
    assert accuracy == pytest.approx(data["baselines"]["linear_probe"]["accuracy"])
    row = trace(folder)[0]
    assert float(row["epoch"]) == 0
    assert float(row["accuracy"]) == pytest.approx(accuracy)
    assert row["observation"].startswith("Linear probe: ")
    assert row["phase"] == PROBE != trace(folder)[1]["phase"]
    assert "| 0 (best) |" in (folder / "README.md").read_text()
    base = weights(folder.parent / "base-resnet")
    found = weights(folder)
    assert all(torch.equal(found[name], tensor) for name, tensor in base.items() if "classifier" not in name)


@pytest.mark.usefixtures("short")
def test_a_probe_that_is_worse_changes_nothing(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights are those of a training that knows of no probe."""
    monkeypatch.setattr(LinearProbe, "__call__", lambda self, features: self.classes[[0] * len(features)])
    monkeypatch.setattr(setup, "ENOUGH", 10**6)
    folder = start("auto", kind="vit")
    assert decision(folder).startswith("Handed back is what was trained: ")
    data = record(folder)
    given = ("--num_train_epochs", data["plan"][0]["epochs"])
    batch = ("--per_device_train_batch_size", data["arguments"]["per_device_train_batch_size"])
    plain = start("explicit", *given, *batch, kind="vit")
    assert equal(weights(folder), weights(plain))
    assert [line.split(":")[0] for line in record(plain)["decisions"]] == ["Keep auto"]
    assert record(plain)["best_epoch"] == data["best_epoch"]


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("enough", [1, 10**6], ids=["validation", "folds"])
def test_the_same_bits_without_a_cache_and_without_baselines(
    start: Any, monkeypatch: pytest.MonkeyPatch, enough: int
) -> None:
    monkeypatch.setattr(setup, "ENOUGH", enough)
    first = start("first")
    for name, flags in {"again": (), "alone": ("--baselines", "none"), "off": ("--cache", "off")}.items():
        if name == "off" and enough > 1:
            continue  # nothing is cached to fold: the validation images decide
        other = start(name, *flags)
        assert decision(other) == decision(first)
        if name == "off":  # a probe is fitted step by step, which magnifies the last digit of a feature
            for key, tensor in weights(first).items():
                torch.testing.assert_close(weights(other)[key], tensor)
        else:
            assert equal(weights(other), weights(first))


@pytest.mark.parametrize(
    "flags",
    [
        ("--num_train_epochs", 2),
        ("--keep", "last"),
        ("--eval_strategy", "no"),
        ("--head_init", "probe"),
        ("--max_steps", 2),
    ],
    ids=lambda flags: flags[0],
)
@pytest.mark.usefixtures("short")
def test_where_the_probe_is_no_candidate(start: Any, flags: tuple[Any, ...]) -> None:
    decisions = record(start("out", "--policy", "head", *flags))["decisions"]
    assert not [line for line in decisions if "Handed back" in line]


@pytest.mark.usefixtures("short")
def test_a_run_is_repeated_from_its_record(start: Any) -> None:
    folder = start("out", "--policy", "head", *RUINED)
    assert run("--from_record", folder / "hfft.json", "--output_dir", folder.parent / "again") == 0
    digests = {
        hashlib.sha256((place / "model.safetensors").read_bytes()).hexdigest()
        for place in (folder, folder.parent / "again")
    }
    assert len(digests) == 1


@pytest.mark.usefixtures("short", "installed")
def test_a_probe_that_cannot_be_put_back_is_said(start: Any) -> None:
    """The last phase of that policy freezes the block which the first one trained."""
    folder = start("out", "--policy", "outside")
    assert decision(folder) == (
        "The linear probe was not a candidate for the result: the last phase freezes what an earlier one trains."
    )
    assert record(folder)["best_epoch"] is None
    assert float(trace(folder)[0]["epoch"]) == 1


@pytest.mark.usefixtures("short")
def test_a_refused_probe_shows_as_epoch_0_and_the_star_stays_with_what_is_kept(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By folds the training wins, whatever the few validation images say."""
    monkeypatch.setattr(choose, "cross_validate_probe", lambda features, folds, seed: folds.labels * 0 - 1)
    folder = start("out", "--keep", "best")
    assert decision(folder).startswith("Handed back is what was trained: ")
    data = record(folder)
    assert data["best_epoch"] > 0
    assert float(trace(folder)[0]["epoch"]) == 0
    assert f"| {data['best_epoch']:g} (best) |" in (folder / "README.md").read_text()


@pytest.mark.parametrize("flags", [(), ("--calibration_folds", 0)], ids=["calibrated", "not calibrated"])
@pytest.mark.usefixtures("short")
def test_a_fold_that_diverges_leaves_the_choice_to_the_validation_images(
    start: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flags: tuple[Any, ...]
) -> None:
    began = []

    def diverges(*args: Any) -> None:
        began.append(args)
        raise DivergedError("the training diverged")

    monkeypatch.setattr(folds, "_fold_trainer", diverges)
    folder = start("out", *flags)
    assert "Without one fold of the training images the training diverged" in capsys.readouterr().out
    assert "validation images" in decision(folder)
    assert len(began) == 1


@pytest.mark.usefixtures("short")
def test_a_run_that_stopped_early_is_repeated_from_its_record(start: Any) -> None:
    """Its learning rate falls as if all epochs were made."""
    flags = ("--num_train_epochs", 9, "--early_stopping_patience", 1, "--learning_rate", 0.3)
    folder = start("out", "--policy", "head", *flags)
    made = sum(phase["epochs"] for phase in record(folder)["plan"])
    assert made < 9
    assert run("--from_record", folder / "hfft.json", "--output_dir", folder.parent / "again") == 0
    assert equal(weights(folder), weights(folder.parent / "again"))
