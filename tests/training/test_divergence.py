"""A loss that is not finite ends the run in one line; earlier results stay, and so does what was learned before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from finished import make_images, make_model
from safetensors.torch import load_file

from hfft.cli import main
from hfft.errors import DivergedError
from hfft.training.callbacks import EndIfDiverged
from hfft.training.trainer import FreezeTrainer

Start = Callable[..., int]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    images, model = make_images(tmp_path / "images"), make_model(tmp_path / "base", kind="resnet")

    def go(*flags: Any) -> int:
        given = ["--train_dir", images, "--validation_dir", images, "--model_name_or_path", model]
        given += ["--output_dir", tmp_path / "out", "--num_train_epochs", 3, "--per_device_train_batch_size", 6]
        given += ["--disable_tqdm", "true", "--baselines", "none", "--figures", "false"]
        return main(["finetune", *map(str, [*given, *flags])])

    return go


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("hfft: error: the training diverged: ")
    assert "--learning_rate" in last
    return last


@pytest.mark.parametrize(
    "flags",
    [
        ("--learning_rate", "1e30"),
        ("--learning_rate", "1e30", "--num_train_epochs", 1, "--per_device_train_batch_size", 18, "--warmup_steps", 0),
        ("--learning_rate", "1e30", "--ema_decay", 0.5, "--policy", "lp_ft"),
        ("--learning_rate", "1e30", "--keep", "last", "--logging_nan_inf_filter", "false"),
        ("--learning_rate", "1e30", "--gradient_accumulation_steps", 3, "--mixup", 0.4),
    ],
)
def test_a_diverged_run_replaces_nothing(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: tuple[Any, ...]
) -> None:
    assert start("--num_train_epochs", 1) == 0
    kept = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    assert start("--overwrite_output_dir", "true", "--cache", "off", *flags) == 1
    error_of(capsys)
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir() if file.is_file()} == kept


def _diverging(monkeypatch: pytest.MonkeyPatch, where: str, at: int) -> None:
    """Let the training or validation loss be no number from some step or evaluation on."""
    seen = [0]
    train, judge = FreezeTrainer.training_step, FreezeTrainer.evaluation_loop

    def training_step(self: FreezeTrainer, *args: Any, **kwargs: Any) -> Any:
        loss = train(self, *args, **kwargs)
        seen[0] += where == "training"
        if seen[0] >= at and where == "training":
            self.divergence.note(torch.tensor(float("inf")))
        return loss

    def evaluation_loop(self: FreezeTrainer, *args: Any, **kwargs: Any) -> Any:
        output = judge(self, *args, **kwargs)
        seen[0] += where == "validation"
        if seen[0] >= at and where == "validation":
            assert output.metrics is not None
            output.metrics["eval_loss"] = float("nan")
            output.metrics["eval_accuracy"] = 1.0
        return output

    monkeypatch.setattr(FreezeTrainer, "training_step", training_step)
    monkeypatch.setattr(FreezeTrainer, "evaluation_loop", evaluation_loop)


@pytest.mark.parametrize(("where", "at", "moment"), [("training", 8, "step 8"), ("validation", 3, "epoch 3")])
def test_the_best_epoch_before_is_kept(
    start: Start,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    where: str,
    at: int,
    moment: str,
) -> None:
    _diverging(monkeypatch, where, at)
    assert start("--save_strategy", "epoch") == 1
    error = error_of(capsys)
    assert f"the {where} loss is no longer a finite number at {moment} " in error
    assert "the best, are saved in" in error
    epoch = int(error.split("weights of epoch ")[1][0])
    assert epoch in (1, 2)
    saved = load_file(tmp_path / "out" / "unfinished" / "model.safetensors")
    best = load_file(tmp_path / "out" / f"checkpoint-{3 * epoch}" / "tensors.safetensors")
    named = {name.removeprefix("model/"): tensor for name, tensor in best.items() if name.startswith("model/")}
    assert named
    assert all(torch.equal(saved[name], tensor) for name, tensor in named.items())
    assert not (tmp_path / "out" / "hfft.json").exists()


def test_one_process_that_diverges_ends_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process decides by what all of them noted."""
    callback = EndIfDiverged("head")
    args = type("Args", (), {"world_size": 2, "learning_rate": 1.0})
    state = type("State", (), {"global_step": 4})

    def other_diverged(finite: torch.Tensor, operation: Any) -> None:
        assert operation == torch.distributed.ReduceOp.MIN
        finite.fill_(0)

    monkeypatch.setattr(torch.distributed, "all_reduce", other_diverged)
    callback.note(torch.tensor(0.5))
    with pytest.raises(DivergedError, match="step 5"):
        callback.on_pre_optimizer_step(args, state, None)
