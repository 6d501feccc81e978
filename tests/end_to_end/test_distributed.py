"""Several processes on a CPU: the same losses, metrics and weights as one, whichever way they are launched."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from machines import PATIENCE, SCRIPT, run_on_machines
from safetensors.torch import load_file
from small_models import small_model
from tagged import TAGS, make_tagged
from tampering import tamper

from hfft.planning.freezing import freeze
from hfft.planning.plan import make_plan
from hfft.planning.registry import find_anatomy
from hfft.split.halves import Suffix, idle_parameters

pytestmark = pytest.mark.processes

Folder = Callable[..., Path]
LAUNCH = {
    1: ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"],
    2: ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
}


def launch(processes: int, *flags: Any, script: Path = SCRIPT) -> str:
    """Run the script, or another one, with a global batch of 6."""
    batch = ["--per_device_train_batch_size", 6 // processes, "--per_device_eval_batch_size", 4]
    common = ["--num_train_epochs", 2, "--logging_strategy", "steps", "--logging_steps", 1, "--keep", "last"]
    command = [sys.executable, *LAUNCH[processes], script, *batch, *common, "--baselines", "none", *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=environment, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def log_of(folder: Path) -> list[dict[str, Any]]:
    log: list[dict[str, Any]] = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return log[:-1]  # the last evaluation is that of the weights handed back


def logged(folder: Path, name: str) -> torch.Tensor:
    return torch.tensor([entry[name] for entry in log_of(folder) if name in entry], dtype=torch.float64)


WATCH = """
import sys
import torch
from hfft.cli.train import finetune_settings
from hfft.jobs.finetune import finetune
from transformers import TrainerCallback

class Watch(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}
        flat = torch.cat([grad.flatten() for grad in grads.values()])
        both = [torch.empty_like(flat) for _ in range(2)]
        torch.distributed.all_gather(both, flat)
        kinds.append((len(grads), torch.equal(*both)))

kinds = []
run = finetune(finetune_settings(sys.argv[1:]), callbacks=[Watch()])
print("SEEN", run.settings.training.process_index, sorted(set(kinds)))
"""
"""The script, which also says how many gradients there were in a step, and whether they were equal on all ranks."""


@pytest.mark.parametrize(
    ("kind", "cache", "policy"),
    [
        ("vit", "disk", "lp_ft"),
        pytest.param("vit", "off", "lp_ft", marks=pytest.mark.slow),
        pytest.param("vit", "disk", "last_block", marks=pytest.mark.slow),
        pytest.param("vit", "disk", "gradual", marks=pytest.mark.slow),
        pytest.param("vit", "off", "auto_rgn", marks=pytest.mark.slow),
        pytest.param("swin", "disk", "last_block", marks=pytest.mark.slow),
    ],
)
def test_two_processes_give_the_losses_of_one(
    kind: str, cache: str, policy: str, pretrained: Folder, image_folder: Folder, tmp_path: Path
) -> None:
    model = pretrained(kind)
    config = json.loads((model / "config.json").read_text())
    # Dropout and drop-path draw from each process's own random state.
    (model / "config.json").write_text(json.dumps({**config, "hidden_dropout_prob": 0.0, "drop_path_rate": 0.0}))
    # 27 validation images: neither batches nor processes divide them evenly.
    flags = ["--model_name_or_path", model, "--train_dir", image_folder()]
    flags += ["--validation_dir", image_folder("validation", per_class=9, seed=3), "--cache", cache]
    flags += ["--policy", policy, "--augment", "flip", "--views", 2, "--mixup", 0.4]
    flags += (
        [] if policy == "auto_rgn" else ["--frofa", "brightness"]
    )  # it has no frozen part whose features could change
    flags += ["--cutmix", 1.0] if policy == "last_block" else []
    filled, watch = set(), tmp_path / "watch.py"
    watch.write_text(WATCH)
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        store = ["--cache_dir", tmp_path / f"cache{processes}"]
        script = SCRIPT if processes == 1 else watch
        printed = launch(processes, *flags, *store, "--output_dir", folder, script=script)
        assert json.loads((folder / "hfft.json").read_text())["processes"] == processes
        if cache == "disk":
            filled |= {int(rows) for rows in re.findall(r" 0 of (\d+) rows were there already", printed)}
    if cache == "disk":
        (rows,) = filled  # of 24 training images as they are or flipped, and 27 validation images
        assert 24 + 27 < rows <= 2 * 24 + 27
    first, second = (line.split(" ", 2)[2] for line in printed.splitlines() if line.startswith("SEEN"))
    assert first == second
    assert "False" not in first
    if policy == "lp_ft":
        assert first == "[(2, True), (20, True)]"
        assert {entry["phase"] for entry in log_of(tmp_path / "2")} == {"head", "last_block"}
    for name in ("loss", "eval_loss", "eval_accuracy"):
        torch.testing.assert_close(logged(tmp_path / "2", name), logged(tmp_path / "1", name), rtol=1e-5, atol=1e-7)
    one, two = (load_file(tmp_path / str(count) / "model.safetensors") for count in (1, 2))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ("--policy", "auto", "--num_train_epochs", "auto", "--keep", "best"),
        ("--head_init", "probe", "--keep", "best"),
    ],
    ids=["auto", "probe"],
)
def test_two_processes_decide_what_one_decides(
    flags: tuple[str, ...], pretrained: Folder, image_folder: Folder, tmp_path: Path
) -> None:
    model = pretrained("vit")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "hidden_dropout_prob": 0.0}))
    common = ["--model_name_or_path", model, "--train_dir", image_folder(), "--cache", "disk"]
    # Of 20 images in batches of 6 the last step has 2; two processes would repeat 4 others beside them.
    common += ["--dataloader_drop_last", "true"]
    found = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        launch(processes, *common, *flags, "--cache_dir", tmp_path / f"cache{processes}", "--output_dir", folder)
        found.append(json.loads((folder / "hfft.json").read_text()))
    for name in ("policy", "decisions", "best_epoch"):
        assert found[0][name] == found[1][name]
    first, second = (load_file(tmp_path / str(count) / "model.safetensors") for count in (1, 2))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-3, atol=1e-5)


TREE = ("cold/blue", "warm/green", "warm/red/dark", "warm/red/light")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["label_tree", "multi_label", "regression"])
def test_two_processes_train_other_tasks(task: str, pretrained: Folder, image_folder: Folder, tmp_path: Path) -> None:
    """A loss is divided by all labels of all ranks, of which an image may have several here."""
    model = pretrained("vit")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "hidden_dropout_prob": 0.0}))
    # Whole batches: accelerate repeats images in others.
    images: dict[str, Callable[[], list[Any]]] = {
        "label_tree": lambda: ["--train_dir", image_folder(per_class=7, classes=TREE), "--label_tree", "true"],
        "multi_label": lambda: ["--dataset_name", make_tagged(tmp_path / "images", 28), "--label_columns", *TAGS],
        "regression": lambda: [
            *("--dataset_name", make_tagged(tmp_path / "images", 28)),
            *("--label_columns", "warmth", "light"),
        ],
    }
    flags = ["--model_name_or_path", model, "--cache", "disk", "--baselines", "probe", *images[task]()]
    for processes in (1, 2):
        folder = ["--output_dir", tmp_path / str(processes), "--cache_dir", tmp_path / f"cache{processes}"]
        launch(processes, *flags, *folder)
        assert json.loads((tmp_path / str(processes) / "hfft.json").read_text())["task"] == task
    for name in ("loss", "eval_loss"):
        torch.testing.assert_close(logged(tmp_path / "2", name), logged(tmp_path / "1", name), rtol=1e-5, atol=1e-7)
    first, second = (load_file(tmp_path / str(count) / "model.safetensors") for count in (1, 2))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["all", "some"])
def test_wrong_rows_in_a_cache_are_computed_again_by_all_ranks(
    wrong: str, pretrained: Folder, image_folder: Folder, tmp_path: Path
) -> None:
    """What is found is compared with what the model computes: the ranks must come to one verdict, or one would wait."""
    flags = ["--model_name_or_path", pretrained("vit"), "--train_dir", image_folder(), "--cache", "disk"]
    flags += ["--cache_dir", tmp_path / "cache", "--policy", "head", "--save_strategy", "no"]
    launch(2, *flags, "--output_dir", tmp_path / "first")
    entries = [file.parent for file in (tmp_path / "cache").glob("*/entry.json")]
    assert entries
    for entry in entries:
        tamper(entry, lambda rows: rows * 1.5, None if wrong == "all" else 1)
    printed = launch(2, *flags, "--output_dir", tmp_path / "second")
    assert "did not match what the model computes now: computed again" in printed
    first, second = (load_file(tmp_path / run / "model.safetensors") for run in ("first", "second"))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


@pytest.mark.slow
def test_two_processes_train_in_mixed_precision(pretrained: Folder, image_folder: Folder, tmp_path: Path) -> None:
    """Cached activations in bfloat16 meet weights in float32 where DDP is asked for idle parameters as well."""
    flags = ["--model_name_or_path", pretrained("resnet"), "--train_dir", image_folder(), "--bf16", "true"]
    launch(2, *flags, "--ddp_backend", "gloo", "--policy", "lp_ft", "--output_dir", tmp_path / "run")
    assert json.loads((tmp_path / "run" / "hfft.json").read_text())["arguments"]["bf16"] is True
    log = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    losses = [entry["eval_loss"] for entry in log if "eval_loss" in entry]
    assert losses[-1] == losses[-2]  # the last evaluation is that of the same weights, and in the same precision


@pytest.mark.slow
def test_a_backend_of_gpus_is_refused_on_cpus(tmp_path: Path) -> None:
    command = [sys.executable, *LAUNCH[2], str(SCRIPT), "--ddp_backend", "nccl", "--use_cpu", "true"]
    done = subprocess.run(
        [*command, "--output_dir", str(tmp_path / "run")], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "--ddp_backend nccl needs GPUs; on CPUs give gloo" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("images", [1, 3])
def test_sets_smaller_than_the_batches_of_all_processes(
    images: int, pretrained: Folder, image_folder: Folder, tmp_path: Path
) -> None:
    """Fewer test images than processes times the batch, and fewer than processes: each is counted once."""
    tests = image_folder("test", per_class=1, classes=("blue", "green", "red")[:images], seed=3)
    flags = ["--model_name_or_path", pretrained("resnet"), "--train_dir", image_folder(per_class=2)]
    flags += ["--validation_dir", image_folder("validation", per_class=1, seed=2), "--test_dir", tests]
    flags += ["--policy", "head", "--per_device_train_batch_size", 8]
    found = []
    for processes in (1, 2):
        launch(processes, *flags, "--output_dir", tmp_path / str(processes))
        found.append(json.loads((tmp_path / str(processes) / "hfft.json").read_text())["metrics"])
    assert {split: metrics["images"] for split, metrics in found[1].items()} == {"validation": 3, "test": images}
    assert found[1]["test"]["values"]["loss"] > 0


def test_the_script_ends_without_a_launcher(pretrained: Folder, image_folder: Folder, tmp_path: Path) -> None:
    flags = ["--model_name_or_path", pretrained("vit"), "--train_dir", image_folder(), "--use_cpu", "true"]
    flags += ["--output_dir", tmp_path / "run", "--baselines", "none", "--num_train_epochs", 1]
    command = [str(part) for part in (sys.executable, SCRIPT, *flags)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "run" / "hfft.json").read_text())["processes"] == 1


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


def spawn(program: str, folder: Path, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Run a Python program in several processes."""
    script = folder / "program.py"
    script.write_text(program)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*launcher, str(script)], capture_output=True, text=True, env=environment, timeout=PATIENCE, check=False
    )


DIE = """
import os, sys
from transformers import TrainerCallback
from hfft.cli.train import finetune_settings
from hfft.jobs.finetune import finetune

class Die(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        if args.process_index == 1 and state.global_step == 2:
            os._exit(9)

finetune(finetune_settings(FLAGS), lambda line: None, callbacks=[Die()])
"""


def test_a_rank_that_dies_ends_the_others(pretrained: Folder, image_folder: Folder, tmp_path: Path) -> None:
    flags = ["--model_name_or_path", pretrained("vit"), "--train_dir", image_folder(), "--baselines", "none"]
    flags += ["--per_device_train_batch_size", 3, "--output_dir", tmp_path / "run"]
    done = spawn(DIE.replace("FLAGS", repr([str(flag) for flag in flags])), tmp_path)
    assert done.returncode != 0
    assert "exitcode  : 9" in done.stderr
    assert not (tmp_path / "run" / "hfft.json").exists()


def test_two_machines(pretrained: Folder, image_folder: Folder, tmp_path: Path) -> None:
    """Two launchers as on two machines, each with an activation cache of its own."""
    flags = ["--model_name_or_path", pretrained("vit"), "--train_dir", image_folder(), "--baselines", "none"]
    flags += ["--per_device_train_batch_size", 3, "--num_train_epochs", 2, "--policy", "lp_ft", "--cache", "disk"]
    flags += ["--output_dir", tmp_path / "run"]
    own = [[*flags, "--cache_dir", tmp_path / f"cache-of-{rank}"] for rank in range(2)]
    run_on_machines(own, OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    kept = json.loads((tmp_path / "run" / "hfft.json").read_text())
    assert (kept["processes"], kept["cache"]["hits"]) == (2, 0)
    for rank in range(2):
        assert len(list((tmp_path / f"cache-of-{rank}").glob("*/*.safetensors"))) > 1


def test_the_launch_that_starts_one_process_instead_of_several_is_refused(tmp_path: Path) -> None:
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    command = [sys.executable, *launch, str(SCRIPT), "--output_dir", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "torchrun --nproc_per_node N" in done.stderr
    assert not (tmp_path / "run").exists()
