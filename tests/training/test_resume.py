"""Interrupted anywhere and run again: the weights of a run that was never interrupted, to the last bit."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killed import KillAt, Killed
from runs import Folder, equal, losses, record, weights
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback
from versions import needs

import hfft.jobs.finetune
from hfft.cli import main
from hfft.cli.train import finetune_settings
from hfft.errors import PreemptedError
from hfft.output_folder import EPOCH_ANSWERS, FEATURE_MAP
from hfft.training import checkpointing, resume
from hfft.training.progress import PhaseResult
from hfft.training.recipe import amount
from hfft.training.resume import MAY_CHANGE
from hfft.training.trainer import FreezeTrainer

SCRIPT = Path(__file__).parents[2] / "scripts" / "finetune.py"
FLAGS = ("--policy", "lp_ft", "--num_train_epochs", 4, "--augment", "crop", "--views", 2)
STEPS = ("--save_strategy", "steps", "--save_steps", 1)


def new_seed() -> int:
    """Return another seed at every call; tests print it."""
    return int(np.random.default_rng().integers(10**6))


def start(folder: Path, flags: tuple[Any, ...], kill_at: int = -1) -> None:
    settings = finetune_settings(
        ["--output_dir", str(folder), "--disable_tqdm", "true", *(str(flag) for flag in flags)]
    )
    hfft.jobs.finetune.finetune(settings, lambda line: None, callbacks=[KillAt(kill_at)])


@pytest.fixture
def flags(image_folder: Folder, pretrained: Folder) -> Callable[..., tuple[Any, ...]]:
    images = image_folder()

    def make(kind: str, *more: Any) -> tuple[Any, ...]:
        data = ("--model_name_or_path", pretrained(kind), "--train_dir", images, "--train_val_split", 0.25)
        small = ("--per_device_train_batch_size", 6, "--baselines", "none", "--figures", "false")
        return (*data, *small, "--logging_strategy", "steps", "--logging_steps", 1, *FLAGS, *more)

    return make


Flags = Callable[..., tuple[Any, ...]]


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("vit", ("--baselines", "probe")),
        ("resnet", ("--cache", "off", "--mixup", 0.4, "--frofa", "contrast")),
        ("vit", ("--ema_decay", 0.9, "--early_stopping_patience", 9, "--class_weights", "balanced")),
        pytest.param(
            *("timm", ("--optim", "sgd", "--lr_scheduler_type", "polynomial", "--label_smoothing_factor", 0.1)),
            marks=pytest.mark.slow,
        ),
        pytest.param("vit", ("--policy", "auto_rgn", "--find_lr", "true"), marks=pytest.mark.slow),
    ],
)
def test_killed_after_any_step_and_resumed(flags: Flags, tmp_path: Path, kind: str, more: tuple[Any, ...]) -> None:
    given = flags(kind, *STEPS, *more)
    start(tmp_path / "whole", given)
    assert len(losses(tmp_path / "whole")) == 12
    folder = tmp_path / "killed"
    seed = new_seed()
    print(f"kill seed {seed}")
    moments = sorted(np.random.default_rng(seed).choice(12, 3, replace=False).tolist())
    for index, moment in enumerate(moments):  # counted from the last one, since a resumed run goes on from there
        before = moments[index - 1] if index else 0
        with pytest.raises(Killed):
            start(folder, (*given, "--resume_from_checkpoint", "true"), moment - before)
    start(folder, (*given, "--resume_from_checkpoint", "true"))
    assert equal(weights(folder), weights(tmp_path / "whole"))
    assert losses(folder) == losses(tmp_path / "whole")
    for name in ("predictions.csv", EPOCH_ANSWERS, FEATURE_MAP):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    for name in ("best_epoch", "plan", "baselines"):
        assert record(folder)[name] == record(tmp_path / "whole")[name]


@pytest.mark.parametrize(
    "more",
    [
        ("--num_train_epochs", "auto"),
        ("--num_train_epochs", "auto", "--head_init", "probe", "--policy", "lp_ft"),
        ("--policy", "auto", "--num_train_epochs", 4),
    ],
    ids=["auto epochs", "from the probe", "auto policy"],
)
def test_what_was_decided_is_decided_again(
    flags: Flags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[Any, ...]
) -> None:
    """Killed after any step, a run that decides by its images ends with the same bits, and compares with the probe."""
    monkeypatch.setattr(amount, "MOST_EPOCHS", 4)
    given = flags("vit", *STEPS, "--augment", "none", "--views", 1, "--policy", "last_block", *more)
    start(tmp_path / "whole", given)
    steps = len(losses(tmp_path / "whole"))
    folder = tmp_path / "killed"
    seed = new_seed()
    print(f"kill seed {seed}")
    first, second = sorted(np.random.default_rng(seed).choice(steps - 1, 2, replace=False).tolist())
    for moment in (first, second - first):
        with pytest.raises(Killed):
            start(folder, (*given, "--resume_from_checkpoint", "true"), moment)
    start(folder, (*given, "--resume_from_checkpoint", "true"))
    assert equal(weights(folder), weights(tmp_path / "whole"))
    assert losses(folder) == losses(tmp_path / "whole")
    for name in ("best_epoch", "plan", "policy"):
        assert record(folder)[name] == record(tmp_path / "whole")[name]
    assert record(folder)["decisions"][1:] == record(tmp_path / "whole")["decisions"][1:]


AGAIN = ("--resume_from_checkpoint", "true")
TOGETHER = ("--augment", "jitter", "--views", 4, "--ema_decay", 0.9, "--mixup", 0.4, "--num_train_epochs", 4)


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("--cache", "off"),
        pytest.param(
            ("--dataloader_num_workers", 1, "--dataloader_persistent_workers", "true"), marks=pytest.mark.slow
        ),
    ],
    ids=["cached", "uncached", "workers that outlive epochs"],
)
def test_stopped_after_every_step(flags: Flags, tmp_path: Path, more: tuple[Any, ...]) -> None:
    """Two phases with jitter, averaged weights and mixup together; with workers, the steps of the second phase."""
    given = flags("vit", *STEPS, *TOGETHER, *more)
    start(tmp_path / "whole", given)
    folder = tmp_path / "killed"
    for step in (7, 4) if "--dataloader_num_workers" in more else [1] * 11:  # each goes on from the one before
        with pytest.raises(Killed):
            start(folder, (*given, *AGAIN), step)
    start(folder, (*given, *AGAIN))
    assert losses(folder) == losses(tmp_path / "whole")
    assert equal(weights(folder), weights(tmp_path / "whole"))


def test_a_checkpoint_is_small_and_holds_no_pickle(flags: Flags, tmp_path: Path) -> None:
    start(tmp_path / "run", flags("vit", *STEPS, "--save_total_limit", 2, "--optim", "adamw_torch"))
    found = sorted(path.name for path in (tmp_path / "run").glob("*checkpoint*"))
    assert found == ["checkpoint-11", "checkpoint-12"]
    folder = tmp_path / "run" / "checkpoint-12"
    assert sorted(path.name for path in folder.iterdir()) == [
        "checkpoint.json",
        "rank-0.json",
        "tensors.safetensors",
        "trainer_state.json",
    ]
    tensors = load_file(folder / "tensors.safetensors")
    names = {key.partition("/")[2] for key in tensors if key.startswith("model/")}
    assert names == {key.partition("/")[2] for key in tensors if key.startswith("best/")}
    assert all(name.startswith(("vit.layers.2", "vit.layernorm", "classifier")) for name in names)
    entries = {key.rpartition("/")[2] for key in tensors if key.startswith("optimizer/")}
    assert entries == {"step", "exp_avg", "exp_avg_sq"}


def interrupt_saving(monkeypatch: pytest.MonkeyPatch, step: str, call: int) -> None:
    """Let the n-th call of one of the steps of saving fail as a kill would."""
    owner, _, name = step.rpartition(".")
    original, calls = getattr(importlib.import_module(owner), name), []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if len(calls) == call:
            raise Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(step, counted)


@pytest.mark.parametrize(
    ("step", "call"),
    [
        ("hfft.training.checkpointing._write_json", 4),
        ("hfft.training.checkpointing.save_file", 2),
        ("os.fsync", 6),
        ("hfft.training.checkpointing._publish", 2),
    ],
)
def test_a_half_written_checkpoint_is_never_picked(
    flags: Flags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, call: int
) -> None:
    given = flags("vit", *STEPS)
    with monkeypatch.context() as patched:
        interrupt_saving(patched, step, call)
        with pytest.raises(Killed):
            start(tmp_path / "run", given)
    assert list((tmp_path / "run").glob(".checkpoint-*.partial"))
    assert len(resume.list_checkpoints(tmp_path / "run")) == 1
    start(tmp_path / "run", (*given, "--resume_from_checkpoint", "true"))
    start(tmp_path / "whole", given)
    assert equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    assert not list((tmp_path / "run").glob(".checkpoint-*"))


def test_a_checkpoint_that_was_about_to_be_replaced_is_found(
    flags: Flags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between the two renames that put one checkpoint in another one's place, where a step is saved twice."""
    given = flags("vit", *STEPS)
    with pytest.raises(Killed):
        start(tmp_path / "run", given, kill_at=5)
    (newest,) = resume.list_checkpoints(tmp_path / "run")[-1:]
    partial = newest.with_name(f".{newest.name}.partial")
    shutil.copytree(newest, partial)
    with monkeypatch.context() as patched:
        interrupt_saving(patched, "os.replace", 2)
        with pytest.raises(Killed):
            checkpointing._publish(partial, newest)
    assert not newest.exists()
    found = resume.find_checkpoint("true", tmp_path / "run")
    assert found is not None
    assert found.folder == newest
    start(tmp_path / "run", (*given, "--resume_from_checkpoint", "true"))
    start(tmp_path / "whole", given)
    assert equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_a_full_disk_keeps_the_earlier_checkpoint(
    flags: Flags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[Any] = []

    def full(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        save_file(*args)

    monkeypatch.setattr("hfft.training.checkpointing.save_file", full)
    given = ("finetune", "--output_dir", tmp_path / "run", *flags("vit", *STEPS))
    assert main([str(flag) for flag in given]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "cannot write" in error
    assert "No space left on device; earlier checkpoints are as they were" in error
    assert [path.name for path in resume.list_checkpoints(tmp_path / "run")] == ["checkpoint-2"]


@pytest.mark.parametrize(
    ("more", "difference"),
    [
        (("--policy", "last_block"), "policy: 'lp_ft' there, 'last_block' here"),
        (("--learning_rate", 0.1), "learning_rate: 0.0005 there, 0.1 here"),
        (("--seed", 7), "seed: 42 there, 7 here"),
        (("--image_size", 40), "preprocessing: "),
        (("--max_train_samples", 12), "training images: '18 images"),
        (("--lr_scheduler_kwargs", '{"num_cycles": 2}'), "lr_scheduler_kwargs: None there, {'num_cycles': 2} here"),
        (("--optim_args", "x=1"), "optim_args: None there, 'x=1' here"),
        (("--dataloader_drop_last", "true"), "dataloader_drop_last: False there, True here"),
        (("--eval_delay", 1), "eval_delay: 0 there, 1.0 here"),
        (("--full_determinism", "true"), "full_determinism: False there, True here"),
    ],
)
def test_another_run_is_refused_with_the_difference(
    flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[Any, ...], difference: str
) -> None:
    given = flags("resnet", *STEPS)
    with pytest.raises(Killed):
        start(tmp_path / "run", given, 3)
    again = ("finetune", "--output_dir", tmp_path / "run", *given, "--resume_from_checkpoint", "true", *more)
    assert main([str(flag) for flag in again]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "belongs to another run" in error
    assert difference in error


def test_another_model_is_refused(flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = flags("resnet", *STEPS)
    with pytest.raises(Killed):
        start(tmp_path / "run", given, 3)
    weights_file = tmp_path / "pretrained-resnet" / "model.safetensors"
    tensors = load_file(weights_file)
    tensors["resnet.embedder.embedder.convolution.weight"][0] += 1
    save_file(tensors, weights_file, metadata={"format": "pt"})
    again = ("finetune", "--output_dir", tmp_path / "run", *given, "--resume_from_checkpoint", "true")
    assert main([str(flag) for flag in again]) == 2
    assert "; model: '" in capsys.readouterr().err.replace("another run: ", "; ")


def table(folder: Path, labels: dict[str, str]) -> Path:
    """Write a CSV file with fixed splits, whose labels are those of the folders or others."""
    lines = ["image,label,split"]
    for number, path in enumerate(sorted((folder / "images").rglob("*.png"))):
        label = labels.get(path.parent.name, path.parent.name)
        lines.append(f"{path.relative_to(folder)},{label},{'validation' if number % 4 == 0 else 'train'}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv"


def test_other_labels_of_the_same_images_are_refused(
    image_folder: Folder, pretrained: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image_folder()
    given: tuple[Any, ...] = ("--model_name_or_path", pretrained("resnet"), "--dataset_name", table(tmp_path, {}))
    given += ("--per_device_train_batch_size", 6, "--baselines", "none", *STEPS)
    with pytest.raises(Killed):
        start(tmp_path / "run", given, 3)
    table(tmp_path, {"red": "blue", "blue": "green", "green": "red"})
    again = ("finetune", "--output_dir", tmp_path / "run", *given, *AGAIN)
    assert main([str(flag) for flag in again]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "training images: '18 images" in error
    assert "validation images: '6 images" in error


def test_other_test_images_and_baselines_are_refused(
    flags: Flags, image_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A probe reads pretrained features, which a run that goes on no longer has."""
    given = flags("resnet", *STEPS, "--baselines", "probe")
    with pytest.raises(Killed):
        start(tmp_path / "run", given, 3)
    more = ("--test_dir", image_folder("test", per_class=2, seed=5))
    for change, words in (
        (more, "test images: None there, '6 images"),
        (("--baselines", "none"), "baselines: 'probe'"),
    ):
        again = ("finetune", "--output_dir", tmp_path / "run", *given, *AGAIN, *change)
        assert main([str(flag) for flag in again]) == 2
        assert words in capsys.readouterr().err.splitlines()[-1]


def test_what_does_not_change_the_result_may_change(flags: Flags, tmp_path: Path) -> None:
    given = flags("resnet", *STEPS)
    start(tmp_path / "whole", given)
    with pytest.raises(Killed):
        start(tmp_path / "run", given, 3)
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    more = ("--save_steps", 2, "--save_total_limit", 3, "--dataloader_num_workers", 1, "--figures", "false")
    start(moved, (*given, *AGAIN, *more, "--run_name", "again", "--cache_dir", tmp_path / "elsewhere"))
    assert equal(weights(moved), weights(tmp_path / "whole"))


@needs("transformers", "5.24")
def test_every_option_of_the_trainer_that_may_change_exists(flags: Flags, tmp_path: Path) -> None:
    settings = finetune_settings(["--output_dir", str(tmp_path), "--hub_token", "secret"])
    parts = (settings.model, settings.data, settings.policy, settings.cache, settings.training)
    assert {item.name for part in parts for item in fields(part)} >= MAY_CHANGE


def test_a_checkpoint_holds_no_token(flags: Flags, tmp_path: Path) -> None:
    start(tmp_path / "run", flags("resnet", *STEPS, "--token", "hf_secret", "--hub_token", "hf_secret"))
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {"checkpoint.json", "training_args.bin"} & {path.name for path in files} >= {"checkpoint.json"}
    assert not [path for path in files if b"hf_secret" in path.read_bytes()]


def test_a_path_that_is_no_checkpoint_is_refused(
    flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("finetune", "--output_dir", tmp_path / "run", *flags("resnet"), "--resume_from_checkpoint", tmp_path)
    assert main([str(flag) for flag in given]) == 2
    assert "holds no checkpoint.json" in capsys.readouterr().err


def test_false_does_not_resume(flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = flags("resnet")
    start(tmp_path / "run", given)
    again = ("finetune", "--output_dir", tmp_path / "run", *given, "--resume_from_checkpoint", "false")
    assert main([str(flag) for flag in again]) == 1
    assert "already holds a run" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_named(flags: Flags, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = flags("resnet", *STEPS)
    with pytest.raises(Killed):
        start(tmp_path / "run", given, 3)
    file = tmp_path / "run" / "checkpoint-3" / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    again = ("finetune", "--output_dir", tmp_path / "run", *given, "--resume_from_checkpoint", "true")
    assert main([str(flag) for flag in again]) == 1
    assert "checkpoint-3 is damaged" in capsys.readouterr().err


def test_overwriting_removes_the_checkpoints_of_the_run_before(flags: Flags, tmp_path: Path) -> None:
    start(tmp_path / "run", flags("resnet", *STEPS))
    assert resume.list_checkpoints(tmp_path / "run")
    start(tmp_path / "run", flags("resnet", "--overwrite_output_dir", "true"))
    assert not resume.list_checkpoints(tmp_path / "run")


class Terminate(TrainerCallback):
    """Sends SIGTERM to this process in the middle of an epoch, or at its end."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.step -= 1
        if self.step == 0:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("step", [2, 3, 8, 12])
def test_sigterm_saves_and_says_how_to_go_on(flags: Flags, tmp_path: Path, step: int) -> None:
    given = flags("vit")  # no checkpoints otherwise
    settings = finetune_settings(["--output_dir", str(tmp_path / "run"), *(str(flag) for flag in given)])
    with pytest.raises(PreemptedError, match=rf"checkpoint-{step} holds its state.*--resume_from_checkpoint true"):
        hfft.jobs.finetune.finetune(settings, lambda line: None, callbacks=[Terminate(step)])
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    start(tmp_path / "run", (*given, "--resume_from_checkpoint", "true"))
    start(tmp_path / "whole", given)
    assert equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


@pytest.mark.parametrize(("evaluations", "step"), [("epoch", 3), ("steps", 2)])
def test_sigterm_saves_what_is_not_the_best_as_well(
    flags: Flags, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluations: str, step: int
) -> None:
    monkeypatch.setattr(FreezeTrainer, "_determine_best_metric", lambda *args, **kwargs: False)
    given = flags("vit", "--save_strategy", "best", "--eval_strategy", evaluations, "--eval_steps", 1)
    settings = finetune_settings(["--output_dir", str(tmp_path / "run"), *(str(flag) for flag in given)])
    with pytest.raises(PreemptedError, match=f"checkpoint-{step} holds its state"):
        hfft.jobs.finetune.finetune(settings, lambda line: None, callbacks=[Terminate(step)])
    start(tmp_path / "run", (*given, *AGAIN))
    start(tmp_path / "whole", given)
    assert equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def test_the_best_may_be_saved_at_the_last_step_of_an_epoch(flags: Flags, tmp_path: Path) -> None:
    """What the Trainer logs at its end is not lost, and not counted again in the next one."""
    best = ("--save_strategy", "best", "--metric_for_best_model", "loss", "--eval_strategy", "steps", "--eval_steps", 3)
    given = flags("vit", "--policy", "last_block", "--logging_strategy", "epoch", *best)
    start(tmp_path / "whole", given)
    with pytest.raises(Killed):
        start(tmp_path / "run", given, 5)
    start(tmp_path / "run", (*given, *AGAIN))
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert equal(weights(tmp_path / "run"), weights(tmp_path / "whole"))


def command(processes: int, folder: Path, given: tuple[Any, ...]) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", processes] if processes > 1 else []
    more = ("--output_dir", folder, "--resume_from_checkpoint", "true", "--disable_tqdm", "true")
    return [str(part) for part in (sys.executable, *launcher, SCRIPT, *given, *more)]


def kill_and_resume(processes: int, kills: int, given: tuple[Any, ...], tmp_path: Path, seed: int) -> None:
    """Kill a run with SIGKILL at random moments until so many kills were made, then let it end."""
    print(f"kill seed {seed}")
    chance = np.random.default_rng(seed)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HFFT_CACHE": str(tmp_path / "cache")}
    whole = tmp_path / "whole"
    began = time.perf_counter()
    subprocess.run(command(processes, whole, given), env=environment, check=True, capture_output=True, timeout=3600)
    seconds = time.perf_counter() - began
    shutil.rmtree(tmp_path / "cache")
    folder = tmp_path / "killed"
    for _ in range(kills):
        process = subprocess.Popen(
            command(processes, folder, given),
            env=environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(timeout=seconds * chance.uniform(0.3, 1))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if (folder / "hfft.json").exists():
            shutil.rmtree(folder)
            shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    done = subprocess.run(
        command(processes, folder, given), env=environment, capture_output=True, text=True, timeout=3600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert equal(weights(folder), weights(whole)), f"kill seed {seed}"


@pytest.mark.slow  # in one process, every step is tried by the tests above
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_at_a_random_moment(flags: Flags, tmp_path: Path, processes: int) -> None:
    given = flags("vit", *STEPS, "--cache", "disk")
    kill_and_resume(processes, 2 if processes == 1 else 4, given, tmp_path, new_seed())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_killed_many_times(flags: Flags, tmp_path: Path, kind: str) -> None:
    given = flags(kind, *STEPS, "--cache", "disk", "--policy", "gradual", "--ema_decay", 0.9)
    kill_and_resume(1, 20, given, tmp_path, new_seed())


def test_records_survive_json(flags: Flags, tmp_path: Path) -> None:
    settings = finetune_settings(["--output_dir", str(tmp_path / "run"), *(str(flag) for flag in flags("resnet"))])
    run = hfft.jobs.finetune.finetune(settings, lambda line: None)
    assert len(run.phases) == 2
    for result in run.phases:
        assert PhaseResult.from_dict(json.loads(json.dumps(asdict(result)))) == result
    assert torch.is_tensor(next(iter(run.progress.best.tensors.values())))
