"""When a run evaluates, and that neither evaluations nor batch norms depend on how many images make a batch."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from runs import Folder, Job, record, run
from transformers import LevitConfig, LevitForImageClassification, LevitImageProcessor


def _trace(folder: Path) -> list[dict[str, str]]:
    with (folder / "trace.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "flags",
    [
        ("--eval_strategy", "no"),
        ("--eval_strategy", "no", "--keep", "last", "--policy", "lp_ft", "--logging_strategy", "no"),
        ("--eval_delay", 5, "--policy", "lp_ft"),
    ],
)
def test_a_run_without_evaluations_is_evaluated_at_its_end(job: Job, flags: tuple[object, ...]) -> None:
    folder = job("resnet", "out", "--figures", "true", *flags)
    rows = _trace(folder)
    assert [float(row["epoch"]) for row in rows] == [2.0]
    assert float(rows[0]["accuracy"]) == record(folder)["metrics"]["validation"]["values"]["accuracy"]
    assert record(folder)["best_epoch"] is None
    assert (folder / "curves.png").exists()
    assert "linear_probe" in record(folder)["baselines"]


def test_the_delay_of_evaluations_counts_over_the_whole_run(job: Job) -> None:
    folder = job("resnet", "out", "--eval_delay", 2, "--policy", "lp_ft", "--num_train_epochs", 4)
    assert [float(row["epoch"]) for row in _trace(folder)] == [2.0, 3.0, 4.0]


def test_the_last_step_is_evaluated_whatever_the_steps_between_evaluations(job: Job) -> None:
    folder = job("resnet", "out", "--eval_strategy", "steps", "--eval_steps", 4, "--figures", "false")
    assert [float(row["epoch"]) for row in _trace(folder)][-1] == 2.0


def test_a_row_shows_a_training_loss_of_its_own_or_none(job: Job) -> None:
    steps = ("--eval_strategy", "steps", "--eval_steps", 1, "--logging_strategy", "epoch")
    folder = job("resnet", "out", *steps, "--figures", "false")
    losses = [float(row["train_loss"]) for row in _trace(folder)]
    logged = [loss for loss in losses if not math.isnan(loss)]
    assert 0 < len(logged) < len(losses)
    assert len(set(logged)) == len(logged)


def test_evaluation_drops_no_image(job: Job) -> None:
    flags = ("--dataloader_drop_last", "true", "--per_device_eval_batch_size", 4, "--figures", "false")
    folder = job("resnet", "out", *flags, "--baselines", "none")
    assert len((folder / "predictions.csv").read_text().splitlines()) == 1 + 6
    assert record(folder)["metrics"]["validation"]["images"] == 6


def test_no_whole_batch_is_one_line(
    pretrained: Folder, image_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = (
        "--model_name_or_path",
        pretrained("resnet"),
        "--train_dir",
        image_folder(),
        "--output_dir",
        tmp_path / "o",
        "--num_train_epochs",
        1,
    )
    assert run(*flags, "--dataloader_drop_last", "true") == 2
    assert "--dataloader_drop_last true leaves no batch" in capsys.readouterr().err


@pytest.fixture
def levit(tmp_path: Path) -> Path:
    """A model whose batch norms see one value per channel and image."""
    torch.manual_seed(0)
    config = LevitConfig(hidden_sizes=[16, 24, 32], num_attention_heads=[1, 2, 2], depths=[1, 1, 1], key_dim=[8, 8, 8])
    LevitForImageClassification(config).save_pretrained(tmp_path / "levit")
    LevitImageProcessor().save_pretrained(tmp_path / "levit")
    return tmp_path / "levit"


def test_a_last_batch_of_one_is_left_out_for_batch_norms(
    levit: Path, image_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--model_name_or_path", levit, "--train_dir", image_folder(per_class=5), "--output_dir", tmp_path / "o"]
    flags += ["--validation_dir", image_folder("v", per_class=1), "--policy", "head", "--num_train_epochs", 1]
    flags += ["--baselines", "none", "--figures", "false"]
    assert run(*flags, "--per_device_train_batch_size", 7) == 0  # 15 images
    assert "it is left out" in capsys.readouterr().out
    assert json.loads((tmp_path / "o" / "trainer_state.json").read_text())["global_step"] == 2
    assert run(*flags, "--per_device_train_batch_size", 1, "--overwrite_output_dir") == 2
    assert "--per_device_train_batch_size 2 or more" in capsys.readouterr().err
