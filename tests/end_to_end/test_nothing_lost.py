"""Whatever fails after the first step: the weights are there, they can be used, and one line says where they are."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from finished import make_images, make_model
from runs import record, weights
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hfft.cli import main
from hfft.errors import DivergedError, PreemptedError
from hfft.training.trainer import FreezeTrainer

Start = Callable[..., int]
STEP = "hfft.training.trainer.FreezeTrainer.training_step"
STAGES = (
    "hfft.training.trainer.FreezeTrainer.evaluate",
    "hfft.training.checkpointing.PhaseCheckpoints.save",
    "hfft.training.trackers.Trackers.on_log",
    "hfft.training.phases.digest:2",
    "hfft.training.progress.Progress.add",
    "hfft.jobs.finetune.finish",
    "hfft.training.trainer.FreezeTrainer.predict",
    "hfft.training.trackers.Trackers.log_final",
    "hfft.jobs.finetune.unfreeze",
    "hfft.jobs.results.staged_results",
    "hfft.jobs.results.save_checkpoint",
    "hfft.jobs.results.write_delta",
    "hfft.jobs.results.make_record",
    "hfft.report.write.find_mistakes",
    "hfft.report.write.write_mistakes",
    "hfft.jobs.results.write_record",
    "hfft.report.write.write_trace",
    "hfft.report.write.curves_figure",
    "hfft.report.write.confusion_figure",
    "hfft.report.write.reliability_figure",
    "hfft.report.write.model_card",
)
"""Functions that a run calls after its first step, in order; with a number, the call of that number from 1."""


@pytest.fixture
def start(tmp_path: Path) -> Start:
    images, model = make_images(tmp_path / "images"), make_model(tmp_path / "base", kind="resnet")

    def go(*flags: Any) -> int:
        given = ["--train_dir", images, "--validation_dir", images, "--test_dir", images, "--model_name_or_path", model]
        given += ["--output_dir", tmp_path / "out", "--num_train_epochs", 2, "--per_device_train_batch_size", 6]
        given += ["--disable_tqdm", "true", "--baselines", "none"]
        return main(["finetune", *map(str, [*given, *flags])])

    return go


def _fail(monkeypatch: pytest.MonkeyPatch, stage: str, error: BaseException) -> None:
    """Let a function fail, from a call on that is counted from 1."""
    place, _, number = stage.partition(":")
    calls = [int(number or 1)]

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls[0] -= 1
        if calls[0] <= 0:
            raise error
        return original(*args, **kwargs)

    owner, name = _owner(place)
    original = getattr(owner, name)
    monkeypatch.setattr(owner, name, wrapped)


def _owner(place: str) -> tuple[Any, str]:
    from pkgutil import resolve_name

    parent, _, name = place.rpartition(".")
    return resolve_name(parent), name


def _usable(tmp_path: Path, last: str) -> None:
    """The line names a folder with a whole checkpoint whose head is not the base's."""
    folder = tmp_path / "out" / "unfinished"
    assert f"saved in {folder}" in last
    AutoImageProcessor.from_pretrained(folder)
    model = AutoModelForImageClassification.from_pretrained(folder)
    assert len(model.config.id2label) == 3
    before = weights(tmp_path / "base")
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights(folder).items() if "encoder" in name)
    assert not (tmp_path / "out" / "hfft.json").exists()


@pytest.mark.parametrize("stage", STAGES)
def test_an_error_at_any_stage_leaves_weights(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    _fail(monkeypatch, stage, RuntimeError("injected"))
    assert start("--save_strategy", "epoch") == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("hfft: error: RuntimeError: injected")
    _usable(tmp_path, last)


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (MemoryError("17 GB"), 1), (OSError("gone"), 1)]
)
@pytest.mark.parametrize("stage", [f"{STEP}:3", "hfft.jobs.results.make_record"])
def test_whatever_the_error(
    start: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    error: BaseException,
    code: int,
) -> None:
    _fail(monkeypatch, stage, error)
    assert start("--figures", "false") == code
    _usable(tmp_path, capsys.readouterr().err.strip().splitlines()[-1])


def test_an_error_after_the_results_names_those(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _fail(monkeypatch, "hfft.jobs.results.epoch_table", BrokenPipeError(32, "Broken pipe"))
    assert start("--figures", "false") == 1
    assert f"The results are in {tmp_path / 'out'}" in capsys.readouterr().err
    assert (tmp_path / "out" / "hfft.json").exists()
    assert not (tmp_path / "out" / "unfinished").exists()


def test_before_the_first_step_there_is_nothing_to_save(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fail(monkeypatch, STEP, RuntimeError("injected"))
    assert start() == 1
    assert not (tmp_path / "out" / "unfinished").exists()


def test_a_training_that_ends_early_leaves_its_best_epoch_and_says_how_to_go_on(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _fail(monkeypatch, f"{STEP}:5", RuntimeError("injected"))
    assert start("--save_strategy", "epoch", "--keep", "best") == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "The weights of epoch 1, the best, are saved in" in last
    assert last.endswith("run the same command with --resume_from_checkpoint true to go on")
    monkeypatch.undo()
    assert start("--save_strategy", "epoch", "--keep", "best", "--resume_from_checkpoint", "true") == 0
    assert not (tmp_path / "out" / "unfinished").exists()


@pytest.mark.parametrize("error", [DivergedError("the training diverged"), torch.OutOfMemoryError("out of memory")])
def test_a_full_baseline_that_fails_costs_the_comparison_alone(
    start: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    train = FreezeTrainer.training_step

    def training_step(self: FreezeTrainer, *args: Any, **kwargs: Any) -> Any:
        if self.phase.name == "full":
            raise error
        return train(self, *args, **kwargs)

    monkeypatch.setattr(FreezeTrainer, "training_step", training_step)
    assert start("--baselines", "full", "--figures", "false") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "full fine-tuning failed" in line]
    assert lines == [f"Baseline: full fine-tuning failed, so that nothing is compared with it: {error}"]
    found = record(tmp_path / "out")
    assert "full_fine-tuning" not in found["baselines"]
    assert found["metrics"]["test"]


def test_a_full_baseline_that_diverges_is_left_out(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The real thing: what trains a head well may be too much for a whole model."""
    train = FreezeTrainer.training_step

    def training_step(self: FreezeTrainer, *args: Any, **kwargs: Any) -> Any:
        if self.phase.name == "full" and self.optimizer is not None:
            self.optimizer.param_groups[0]["lr"] = 1e30
        return train(self, *args, **kwargs)

    monkeypatch.setattr(FreezeTrainer, "training_step", training_step)
    assert start("--baselines", "full", "--figures", "false") == 0
    assert "so that nothing is compared with it: the training diverged" in capsys.readouterr().out
    assert (tmp_path / "out" / "hfft.json").exists()


def test_sigterm_names_its_checkpoint_and_nothing_else(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _fail(monkeypatch, f"{STEP}:3", PreemptedError("stopped by SIGTERM", checkpoint=True))
    assert start() == 143
    assert not (tmp_path / "out" / "unfinished").exists()


@pytest.mark.parametrize("stage", ["hfft.jobs.finetune.finish", "hfft.jobs.results.write_record"])
def test_sigterm_after_the_last_step_leaves_the_weights(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    """No checkpoint is written unless it is asked for, so that nothing else holds what was learned."""

    def terminated(*args: Any, **kwargs: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    owner, name = _owner(stage)
    monkeypatch.setattr(owner, name, terminated)
    assert start() == 143
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "stopped by SIGTERM" in last
    assert "resume" not in last  # there is nothing to go on from
    _usable(tmp_path, last)
    assert start("--save_strategy", "epoch") == 143
    assert capsys.readouterr().err.strip().endswith("with --resume_from_checkpoint true to go on")
