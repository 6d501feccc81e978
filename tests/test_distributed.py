"""Several processes on a CPU: the same losses, metrics and weights as one, whichever way they are launched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_models import small_model

from hfft.freezing import freeze
from hfft.plan import make_plan
from hfft.registry import find_anatomy
from hfft.trainer import Suffix, idle_parameters

Folder = Callable[..., Path]
SCRIPT = Path(__file__).parent.parent / "scripts" / "finetune.py"
LAUNCH = {
    1: ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"],
    2: ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"],
}


def launch(processes: int, *flags: Any) -> str:
    """Run the script with a global batch of 6."""
    batch = ["--per_device_train_batch_size", 6 // processes, "--per_device_eval_batch_size", 4]
    common = ["--num_train_epochs", 2, "--logging_strategy", "steps", "--logging_steps", 1, "--keep", "last"]
    command = [sys.executable, *LAUNCH[processes], SCRIPT, *batch, *common, "--baselines", "none", *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def logged(folder: Path, name: str) -> torch.Tensor:
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return torch.tensor([entry[name] for entry in log if name in entry], dtype=torch.float64)


@pytest.mark.parametrize(
    ("kind", "cache"),
    [
        ("vit", "disk"),
        pytest.param("vit", "off", marks=pytest.mark.slow),
        pytest.param("swin", "disk", marks=pytest.mark.slow),
    ],
)
def test_two_processes_give_the_losses_of_one(
    kind: str, cache: str, pretrained: Folder, image_folder: Folder, tmp_path: Path
) -> None:
    model = pretrained(kind)
    config = json.loads((model / "config.json").read_text())
    # Dropout and drop-path draw from each process's own random state.
    (model / "config.json").write_text(json.dumps({**config, "hidden_dropout_prob": 0.0, "drop_path_rate": 0.0}))
    # 27 validation images: neither batches nor processes divide them evenly.
    flags = ["--model_name_or_path", model, "--train_dir", image_folder()]
    flags += ["--validation_dir", image_folder("validation", per_class=9, seed=3), "--cache", cache]
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        store = ["--cache_dir", tmp_path / f"cache{processes}"]
        printed = launch(processes, *flags, *store, "--output_dir", folder)
        assert json.loads((folder / "hfft.json").read_text())["processes"] == processes
        if cache == "disk":
            assert "0 of 51 rows were there already" in printed
    for name in ("loss", "eval_loss", "eval_accuracy"):
        torch.testing.assert_close(logged(tmp_path / "2", name), logged(tmp_path / "1", name), rtol=1e-5, atol=1e-7)
    first, second = (load_file(tmp_path / str(count) / "model.safetensors") for count in (1, 2))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-3, atol=1e-5)


def test_idle_parameters_are_found() -> None:
    model, inputs = small_model("clip")
    anatomy = find_anatomy(model)
    phase = make_plan(model, anatomy, "last_block", 1).phases[0]
    freeze(model, phase)
    idle = idle_parameters(model, Suffix(anatomy), inputs)
    assert idle
    assert all("post_layernorm" in name for name in idle)
    assert all(parameter.grad is None for parameter in model.parameters())
    model, inputs = small_model("vit")
    anatomy = find_anatomy(model)
    freeze(model, make_plan(model, anatomy, "last_block", 1).phases[0])
    assert idle_parameters(model, Suffix(anatomy), inputs) == []
