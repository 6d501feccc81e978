"""Run small jobs and read what they leave behind."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from hfft.cli import main

Folder = Callable[..., Path]
Job = Callable[..., Path]


def run(*flags: Any) -> int:
    """Fine-tune; plots and folds take longer than a small training, so only a test that looks at them asks for them."""
    quick = ("--disable_tqdm", "true", "--figures", "false", "--calibration_folds", "0")
    return main(["finetune", *quick, *(str(flag) for flag in flags)])


def losses(folder: Path) -> list[float]:
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in log if "loss" in entry]


def record(folder: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((folder / "hfft.json").read_text())
    return data


def trace(folder: Path) -> list[dict[str, str]]:
    with (folder / "trace.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
