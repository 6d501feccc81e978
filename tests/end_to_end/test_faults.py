"""What goes wrong outside hfft: disks, vanishing files, damaged bases, Ctrl-C. One clear line, nothing lost."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers import AutoModelForImageClassification

import hfft.cache.store
import hfft.jobs.inputs
import hfft.training.phases
from hfft.cli import main

Folder = Callable[..., Path]
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def start(image_folder: Folder, pretrained: Folder, tmp_path: Path) -> Callable[..., int]:
    """Return a runner of one-epoch jobs that gives the exit code."""
    images, model = image_folder(), pretrained("resnet")

    def go(*flags: Any) -> int:
        given = ["--train_dir", images, "--model_name_or_path", model, "--output_dir", tmp_path / "out"]
        given += ["--num_train_epochs", 1, "--disable_tqdm", "true", "--baselines", "none"]
        given += ["--figures", "false"]
        return main(["finetune", *map(str, [*given, *flags])])

    return go


def one_line(capsys: pytest.CaptureFixture[str], *words: str) -> None:
    """Hold the last line on stderr to be an error in words, and the whole to be free of tracebacks."""
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    last = printed.strip().splitlines()[-1]
    assert last.startswith("hfft: error: ")
    assert all(word in last for word in words), last


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    return fail


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="/proc stands for a disk that nobody may write")
def test_an_output_folder_that_cannot_be_written(start: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert start("--output_dir", "/proc/hfft") == 1
    one_line(capsys, "/proc/hfft", "cannot write")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="/proc stands for a disk that nobody may write")
def test_a_cache_folder_that_cannot_be_written(start: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert start("--cache", "disk", "--cache_dir", "/proc/hfft", "--cache_max_gb", "0.1") == 1
    one_line(capsys, "/proc/hfft")


def test_a_disk_that_fills_while_activations_are_written(
    start: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hfft.cache.store, "write_shard", raising(FULL))
    assert start("--cache", "disk") == 1
    one_line(capsys, "activation cache", "No space left", "--cache off")


def test_a_disk_that_fills_while_a_run_holds_its_activations_costs_the_next_run_alone(
    start: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hfft.cache.store, "write_shard", raising(FULL))
    assert start() == 0
    assert "Not kept on disk for the next run: " in (said := capsys.readouterr().out)
    assert "No space left on device." in said


@pytest.mark.parametrize("target", ["save_pretrained", "save_to_json"])
def test_a_disk_that_fills_while_results_are_written_keeps_the_earlier_run(
    start: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    target: str,
) -> None:
    assert start() == 0
    kept = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    owner = transformers.PreTrainedModel if target == "save_pretrained" else transformers.TrainerState
    monkeypatch.setattr(owner, target, raising(FULL))
    assert start("--overwrite_output_dir", "true", "--seed", 3) == 1
    one_line(capsys, "No space left")
    assert {name: (tmp_path / "out" / name).read_bytes() for name in kept} == kept
    AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert not list((tmp_path / "out").rglob(".saving-*"))


def _remove_after(monkeypatch: pytest.MonkeyPatch, files: list[Path]) -> None:
    """Remove files once the cache is filled and training is about to begin."""
    said: Callable[[Any], str] = getattr(hfft.training.phases, "describe")  # noqa: B009  (imported there, not exported)

    def describe(prepared: Any) -> str:
        for file in files:
            file.unlink(missing_ok=True)
        return said(prepared)

    monkeypatch.setattr(hfft.training.phases, "describe", describe)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_vanishes_is_named_where_it_is_read_again(
    start: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    workers: int,
) -> None:
    _remove_after(monkeypatch, [tmp_path / "images" / "red" / f"{number:03d}.png" for number in range(8)])
    assert start("--cache", "off", "--dataloader_num_workers", workers) == 1
    one_line(capsys, "error: cannot read the image red/00", "No such file or directory")


def test_a_file_that_vanishes_after_it_was_cached_costs_nothing(
    start: Callable[..., int], image_folder: Folder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tests = image_folder("test", per_class=2, seed=4)
    _remove_after(monkeypatch, [*(tmp_path / "images").rglob("*.png"), *tests.rglob("*.png")])
    assert start("--cache", "memory", "--test_dir", tests) == 0
    record = json.loads((tmp_path / "out" / "hfft.json").read_text())
    assert record["data"]["fingerprints"].keys() == {"train", "validation", "test"}


def test_a_test_file_that_vanishes_leaves_the_trained_weights(
    start: Callable[..., int],
    image_folder: Folder,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    tests = image_folder("test", per_class=2, seed=4)
    _remove_after(monkeypatch, list(tests.rglob("*.png")))
    assert start("--test_dir", tests, "--cache", "off") == 1
    one_line(capsys, "blue/000.png", f"The trained weights are saved in {tmp_path / 'out' / 'unfinished'}")
    AutoModelForImageClassification.from_pretrained(tmp_path / "out" / "unfinished")
    assert not (tmp_path / "out" / "hfft.json").exists()
    assert start("--overwrite_output_dir", "true") == 0
    assert not (tmp_path / "out" / "unfinished").exists()


DAMAGE: list[tuple[str, Callable[[Path], Any]]] = [
    ("config", lambda model: (model / "config.json").write_text("{")),
    ("empty config", lambda model: (model / "config.json").write_text("")),
    ("weights cut", lambda model: (model / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")),
    ("weights empty", lambda model: (model / "model.safetensors").write_bytes(b"")),
    ("weights gone", lambda model: (model / "model.safetensors").unlink()),
    ("processor", lambda model: (model / "preprocessor_config.json").write_text("[1, 2")),
]


@pytest.mark.parametrize("damage", [case[1] for case in DAMAGE], ids=[case[0] for case in DAMAGE])
def test_a_damaged_base_is_named(
    start: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path, damage: Callable[[Path], Any]
) -> None:
    damage(tmp_path / "pretrained-resnet")
    assert start() == 1
    one_line(capsys, "pretrained-resnet")


UNFORESEEN = [
    (FULL, "no room is left"),
    (PermissionError(errno.EACCES, "Permission denied", "/x"), "may be written"),
    (MemoryError("17 GB"), "out of memory"),
    (RuntimeError("odd\nthing"), "--debug"),
    (ConnectionResetError("reset by peer"), "reset by peer"),
]


@pytest.mark.parametrize(("error", "words"), UNFORESEEN, ids=[type(error).__name__ for error, _ in UNFORESEEN])
def test_what_nobody_foresaw_is_one_line_too(
    start: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    words: str,
) -> None:
    monkeypatch.setattr(hfft.jobs.inputs, "load_model", raising(error))
    assert start() == 1
    one_line(capsys, words)
    with pytest.raises(type(error)):
        start("--debug")


INTERRUPTED = """
import os, signal, sys, hfft.cache.fill, hfft.training.trainer
place, name, left = PLACE
def interrupted(*arguments, **keywords):
    global left
    left -= 1
    if left == 0:
        os.killpg(0, signal.SIGINT)  # to the whole group, as a terminal does it
    return original(*arguments, **keywords)
original = getattr(place, name)
setattr(place, name, interrupted)
from hfft.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.processes
@pytest.mark.parametrize(
    ("place", "flags"),
    [
        ("hfft.cache.fill, '_measured', 10", ["--cache", "disk"]),
        ("hfft.training.trainer.FreezeTrainer, 'training_step', 5", ["--num_train_epochs", "100000"]),
    ],
    ids=["filling", "training"],
)
def test_ctrl_c_is_one_line_and_loses_nothing(
    start: Callable[..., int],
    image_folder: Folder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    place: str,
    flags: list[str],
) -> None:
    assert start() == 0
    kept = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    more = image_folder("more", per_class=60, seed=1)
    given = ["--train_dir", more, "--model_name_or_path", tmp_path / "pretrained-resnet"]
    given += ["--output_dir", tmp_path / "out", "--overwrite_output_dir", "true", "--baselines", "none", *flags]
    script = INTERRUPTED.replace("PLACE", place)
    command = [sys.executable, "-c", script, "finetune", *map(str, given), "--disable_tqdm", "true"]
    done = subprocess.run(command, capture_output=True, text=True, start_new_session=True, check=False)
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("hfft: interrupted")
    assert ("The trained weights are saved in" in last) == ("trainer" in place)
    assert {name: (tmp_path / "out" / name).read_bytes() for name in kept} == kept
    capsys.readouterr()
    assert start("--train_dir", more, "--output_dir", tmp_path / "again") == 0
    assert "; 0 of 180 rows were there already" not in capsys.readouterr().out
