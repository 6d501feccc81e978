"""Rows by content: what is computed when a little changes, and filling without training."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runs import Folder, equal, weights

from hfft.cli import main

Start = Callable[..., str]


@pytest.fixture
def flags(image_folder: Folder, pretrained: Folder, tmp_path: Path) -> list[str]:
    model, train = pretrained("vit"), image_folder()
    given = ["--model_name_or_path", model, "--train_dir", train, "--output_dir", tmp_path / "run"]
    given += ["--policy", "head", "--num_train_epochs", 1, "--overwrite_output_dir", "true", "--baselines", "none"]
    return [str(flag) for flag in [*given, "--figures", "false", "--disable_tqdm", "true"]]


@pytest.fixture
def start(flags: list[str], capsys: pytest.CaptureFixture[str]) -> Start:
    """Return a runner that gives back which rows were there."""

    def go(*more: Any) -> str:
        capsys.readouterr()
        assert main(["finetune", *flags, *(str(flag) for flag in more)]) == 0
        said = capsys.readouterr().out
        found = re.search(r"(\d+ of \d+) rows were there", said)
        assert found, said
        return found[1]

    return go


def add(folder: Path) -> None:
    pixels = np.random.default_rng(99).integers(0, 255, (40, 36, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "blue" / "new.png")


def test_only_what_is_new_is_computed(start: Start, tmp_path: Path) -> None:
    images = tmp_path / "images"
    assert start() == "0 of 24"
    assert start("--seed", 7, "--train_val_split", 0.5) == "24 of 24"
    assert start("--max_train_samples", 6).startswith(("12 of 12", "10 of 10", "11 of 11"))
    moved = shutil.move(images, tmp_path / "moved")
    shutil.move(Path(moved) / "red" / "000.png", Path(moved) / "blue" / "red.png")  # another label
    assert start("--train_dir", moved) == "24 of 24"
    add(Path(moved))
    assert start("--train_dir", moved) == "24 of 25"
    assert start("--train_dir", moved) == "25 of 25"


def test_views_belong_to_the_image(start: Start, tmp_path: Path) -> None:
    augment = ("--augment", "crop", "--views", 2, "--num_train_epochs", 2, "--validation_dir", tmp_path / "images")
    assert start(*augment) == "0 of 72"  # 24 twice, and as they are
    add(tmp_path / "images")
    assert start(*augment, "--max_eval_samples", 3) == "51 of 53"
    assert start(*augment, "--max_eval_samples", 3, "--augment", "none", "--views", 1) == "27 of 28"


@pytest.mark.processes
def test_two_processes_fill_one_store_without_training(flags: list[str], start: Start, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hfft", "cache", "fill", *flags]
    parts = [
        subprocess.Popen([*command, "--shard", shard], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for shard in ("1/2", "2/2")
    ]
    said = [part.communicate()[0] for part in parts]
    assert [part.returncode for part in parts] == [0, 0]
    assert ["0 of 16 rows" in said[0], "0 of 8 rows" in said[1]] == [True, True]
    assert not (tmp_path / "run" / "hfft.json").exists()
    assert start() == "24 of 24"
    filled = weights(tmp_path / "run")
    assert main(["finetune", *flags, "--cache", "off"]) == 0
    assert equal(filled, weights(tmp_path / "run"))


@pytest.mark.slow
def test_workers_of_a_cluster_fill_one_store(flags: list[str], start: Start) -> None:
    program = Path(__file__).parents[2] / "scripts" / "fill_with_dask.py"
    done = subprocess.run([sys.executable, program, "--workers", "2", *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("part ")]
    assert sorted(line.partition(",")[0] for line in lines) == ["part 1 of 2 is there", "part 2 of 2 is there"]
    assert start() == "24 of 24"


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "1/0", "a/b", "-1/2", "1/2/3"])
def test_a_wrong_shard_is_refused(capsys: pytest.CaptureFixture[str], shard: str) -> None:
    assert main(["cache", "fill", f"--shard={shard}"]) == 2
    assert "--shard" in capsys.readouterr().err


@pytest.mark.parametrize("more", [("--cache", "memory"), ("--cache", "off"), ("--policy", "full")])
def test_what_cannot_be_filled_is_refused(
    flags: list[str], capsys: pytest.CaptureFixture[str], more: tuple[str, ...]
) -> None:
    assert main(["cache", "fill", *flags, *more]) == 2
    assert "fill" in capsys.readouterr().err
