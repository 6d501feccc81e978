"""A run repeated from its record: the same bits, or a line for each thing that is not the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from hfft.cli import main

Folder = Callable[..., Path]
FLAGS = [
    *("--num_train_epochs", "2", "--augment", "crop", "--views", "2", "--policy", "last_n:2", "--seed", "7"),
    *("--learning_rate", "0.003", "--per_device_train_batch_size", "5", "--max_train_samples", "15"),
    *("--label_smoothing_factor", "0.1", "--optim", "sgd", "--image_size", "32", "--baselines", "none"),
    *("--figures", "false"),
]


@pytest.fixture
def first(image_folder: Folder, pretrained: Folder, tmp_path: Path) -> Path:
    given = ["--train_dir", str(image_folder()), "--model_name_or_path", str(pretrained("vit"))]
    assert main(["finetune", *given, *FLAGS, "--output_dir", str(tmp_path / "first"), "--disable_tqdm", "true"]) == 0
    return tmp_path / "first"


def again(record: Path, *flags: str) -> int:
    folder = str(record.parent.parent / "again" if record.name == "hfft.json" else record.parent / "again")
    return main(["finetune", "--from_record", str(record), "--output_dir", folder, "--disable_tqdm", "true", *flags])


def test_a_run_is_repeated_to_the_last_bit(first: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert again(first / "hfft.json", "--cache", "off") == 0
    assert "to the last bit" in capsys.readouterr().out.splitlines()[-1]
    second = first.parent / "again"
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    records = [json.loads((folder / "hfft.json").read_text()) for folder in (first, second)]
    for name in ("metrics", "plan", "versions", "seed", "base", "data", "per_class", "mistakes", "files"):
        assert records[0][name] == records[1][name], name
    differing = {key for key, value in records[0]["arguments"].items() if records[1]["arguments"][key] != value}
    assert differing <= {"output_dir", "cache", "logging_dir", "prefix_engine"}  # the engine that won is named


def test_relative_paths_lead_to_the_images_from_any_folder(
    image_folder: Folder, pretrained: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    images, base = (os.path.relpath(folder, tmp_path) for folder in (image_folder(), pretrained("vit")))
    given = ["--train_dir", images, "--model_name_or_path", base, *FLAGS]
    assert main(["finetune", *given, "--output_dir", "runs/first", "--disable_tqdm", "true"]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for command in (
        ["evaluate", "../runs/first", "--output_dir", "judged"],
        ["evaluate", "../runs/first", "--folds", "2", "--output_dir", "folds"],
        ["labels", "../runs/first"],
        ["finetune", "--from_record", "../runs/first", "--output_dir", "again", "--disable_tqdm", "true"],
    ):
        assert main(command) == 0, capfd.readouterr().err
    assert "to the last bit" in capfd.readouterr().out.splitlines()[-1]
    assert str(tmp_path) not in json.dumps(
        json.loads((tmp_path / "elsewhere/again/hfft.json").read_text())["arguments"]
    )
    (tmp_path / images).rename(tmp_path / "gone")
    capfd.readouterr()
    for run in (["evaluate"], ["evaluate", "--folds", "2"], ["labels"]):
        assert main([run[0], "../runs/first", *run[1:]]) == 1
        assert f"there is no {images} here; relative paths count from the folder" in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["resnet", "swin", "timm"])
def test_two_runs_with_one_seed_are_the_same_to_the_last_bit(
    image_folder: Folder, pretrained: Folder, tmp_path: Path, kind: str
) -> None:
    flags = ["--train_dir", str(image_folder()), "--model_name_or_path", str(pretrained(kind)), *FLAGS]
    contents = []
    for number in range(2):  # each with an empty cache, and the first after nothing, the second after a run
        place = ["--output_dir", str(tmp_path / f"run{number}"), "--cache_dir", str(tmp_path / f"cache{number}")]
        assert main(["finetune", *flags, *place, "--disable_tqdm", "true"]) == 0
        folder = tmp_path / f"run{number}"
        contents.append([(folder / name).read_bytes() for name in ("model.safetensors", "predictions.csv")])
    assert contents[0] == contents[1]


@pytest.mark.slow
def test_two_processes_with_one_seed_give_the_same_bits(
    image_folder: Folder, pretrained: Folder, tmp_path: Path
) -> None:
    flags = ["--train_dir", str(image_folder()), "--model_name_or_path", str(pretrained("vit")), *FLAGS]
    for number in range(2):  # sets of names come in another order under another hash seed
        place = ["--output_dir", str(tmp_path / f"run{number}"), "--cache_dir", str(tmp_path / f"cache{number}")]
        command = [sys.executable, "-m", "hfft", "finetune", *flags, *place, "--disable_tqdm", "true"]
        subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": str(number)}, check=True, capture_output=True)
    weights = [(tmp_path / f"run{number}" / "model.safetensors").read_bytes() for number in range(2)]
    assert weights[0] == weights[1]


def test_a_folder_stands_for_its_record_and_flags_win(first: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert again(first, "--seed", "8") == 0
    assert "The weights differ" in capsys.readouterr().out
    before, after = (load_file(first.parent / name / "model.safetensors") for name in ("first", "again"))
    assert any(not tensor.equal(after[name]) for name, tensor in before.items())


def test_other_images_and_versions_are_said(first: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = first.parent / "images" / "red" / "000.png"
    for file in (first.parent / "images" / "red").iterdir():
        file.write_bytes((first.parent / "images" / "blue" / "001.png").read_bytes())
    assert image.exists()
    record = json.loads((first / "hfft.json").read_text())
    record["versions"]["torch"] = "1.0"
    (first / "hfft.json").write_text(json.dumps(record))
    assert again(first / "hfft.json") == 0
    printed = capsys.readouterr().out
    assert "the record has 1.0" in printed
    assert "The train images or labels are not those of the record" in printed


BAD = [
    (["--from_record"], 2, "needs the hfft.json"),
    (["--from_record", "--seed", "1"], 2, "needs the hfft.json"),
    (["--from_record", "nowhere.json"], 1, "nowhere.json"),
    (["--from_record=nowhere.json"], 1, "nowhere.json"),
]


@pytest.mark.parametrize(("flags", "code", "words"), BAD, ids=[" ".join(flags) for flags, _, _ in BAD])
def test_a_bad_record_is_one_line(capsys: pytest.CaptureFixture[str], flags: list[str], code: int, words: str) -> None:
    assert main(["finetune", *flags]) == code
    error = capsys.readouterr().err.strip()
    assert words in error
    assert "\n" not in error
