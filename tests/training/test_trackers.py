"""Trackers see one training, whatever its phases, and the test metrics at its end."""

from __future__ import annotations

import importlib.util
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from runs import Folder, run


@pytest.fixture
def flags(pretrained: Folder, image_folder: Folder, tmp_path: Path) -> list[Any]:
    return [
        *(
            "--model_name_or_path",
            pretrained("resnet"),
            "--train_dir",
            image_folder(),
            "--output_dir",
            tmp_path / "out",
        ),
        *("--test_dir", image_folder("test", per_class=2), "--policy", "lp_ft", "--num_train_epochs", 2),
        *("--baselines", "none", "--figures", "false", "--per_device_train_batch_size", 6),
    ]


def test_tensorboard(flags: list[Any], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert run(*flags, "--report_to", "tensorboard") == 0
    (events,) = (tmp_path / "out" / "runs").rglob("events.*")
    log = EventAccumulator(str(events)).Reload()
    accuracies = log.Scalars("eval/accuracy")
    steps = [event.step for event in accuracies]
    assert steps == sorted(steps)
    marks = {event.step: event.value for event in log.Scalars("train/phase")}
    assert marks[min(marks)] == 1
    assert marks[max(marks)] == 2
    assert [event.step for event in log.Scalars("test/accuracy")] == [max(steps)]


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed")
def test_mlflow(flags: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    assert run(*flags, "--report_to", "mlflow") == 0
    (found,) = mlflow.MlflowClient().search_runs(["0"])
    assert found.info.status == "FINISHED"
    assert found.data.metrics["phase"] == 2
    assert "test_accuracy" in found.data.metrics
    assert found.data.params["num_train_epochs"] == "2.0"  # of the run, not of a phase


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_offline(flags: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    for number in (1, 2):
        assert run(*flags, "--report_to", "wandb", "--overwrite_output_dir") == 0
        assert wandb.run is None
        assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == number


@pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="trackio is not installed")
def test_trackio(flags: list[Any], tmp_path: Path) -> None:
    """In a process of its own, since trackio reads where to write when it is imported."""
    environment = os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio")}
    tracked = ("--report_to", "trackio", "--project", "ours", "--run_name", "first")
    command = [sys.executable, "-m", "hfft", "finetune", *map(str, flags), *tracked]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    with closing(sqlite3.connect(tmp_path / "trackio" / "ours.db")) as base:
        found = base.execute("select run_name, metrics from metrics order by step").fetchall()
    assert {name for name, _ in found} == {"first"}
    entries = [json.loads(metrics) for _, metrics in found]
    assert [entry["train/phase"] for entry in entries if "train/loss" in entry] == [1, 2]
    assert "test/accuracy" in entries[-1]


def test_a_tracker_that_is_not_installed_is_one_line(
    flags: list[Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.integrations.integration_utils.is_comet_available", lambda: False)
    assert run(*flags, "--report_to", "comet_ml") == 2
    assert "--report_to comet_ml: CometCallback requires comet-ml" in capsys.readouterr().err
