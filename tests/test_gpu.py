"""What holds on a GPU: run with ``pytest -m gpu`` on a machine that has one; elsewhere these are skipped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MODELS
from machines import run_on_machines
from runs import Folder, Job, equal, losses, record, weights
from safetensors.torch import load_file
from small_models import small_model

from hfft.cli import main
from hfft.models.forward import logits_of
from hfft.planning.freezing import freeze
from hfft.planning.plan import make_plan
from hfft.planning.registry import find_anatomy
from hfft.split.class_token import class_token_only
from hfft.split.cut import cut_phase
from hfft.split.engines import difference, export_engine
from hfft.split.halves import Prefix

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

FLOAT32 = ("--bf16", "false", "--tf32", "false")
KINDS = ("resnet", "vit", "swin", "convnext", "timm")


def test_bfloat16_is_chosen_and_frozen_tensors_stay_to_the_bit(job: Job, tmp_path: Path) -> None:
    folder = job("resnet", "run")
    assert record(folder)["arguments"]["bf16"] is True
    assert torch.cuda.get_device_name() in str(record(folder))
    before, after = load_file(tmp_path / "pretrained-resnet" / "model.safetensors"), weights(folder)
    trained = {name for name in after if name not in before or not torch.equal(before[name], after[name])}
    assert trained
    assert all(name.startswith(("classifier", "resnet.encoder.stages.1")) for name in trained)


@pytest.mark.parametrize("kind", KINDS)
def test_cached_losses_are_those_of_pixels(job: Job, kind: str) -> None:
    flags = ("--policy", "lp_ft", "--augment", "crop", "--views", 2, *FLOAT32)
    cached, uncached = job(kind, "cached", *flags), job(kind, "uncached", "--cache", "off", *flags)
    torch.testing.assert_close(torch.tensor(losses(cached)), torch.tensor(losses(uncached)), rtol=1e-4, atol=1e-5)
    print(kind, "equal to the last bit:", losses(cached) == losses(uncached))


@pytest.mark.parametrize("kind", KINDS)
def test_cached_losses_in_bfloat16_are_within_its_steps(job: Job, kind: str) -> None:
    cached, uncached = job(kind, "cached"), job(kind, "uncached", "--cache", "off")
    torch.testing.assert_close(torch.tensor(losses(cached)), torch.tensor(losses(uncached)), rtol=2e-2, atol=2e-2)


def test_activations_on_the_gpu_train_to_the_same_bits(job: Job) -> None:
    flags = ("--policy", "lp_ft", "--frofa", "brightness", "--mixup", 0.4, *FLOAT32)
    disk, gpu = job("vit", "disk", "--cache", "disk", *flags), job("vit", "gpu", "--cache", "gpu", *flags)
    assert record(gpu)["cache"]["mode"] == "gpu"
    assert losses(gpu) == losses(disk)
    assert equal(weights(gpu), weights(disk))


def test_rows_that_fit_are_kept_on_the_gpu_by_themselves(job: Job) -> None:
    disk, auto = job("resnet", "disk", "--cache", "disk", *FLOAT32), job("resnet", "auto", *FLOAT32)
    assert record(auto)["cache"]["mode"] == "gpu"
    assert losses(auto) == losses(disk)
    assert equal(weights(auto), weights(disk))


def test_rows_in_memory_are_read_ahead_to_the_same_bits(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--cache", "memory", "--policy", "lp_ft", "--mixup", 0.4, "--augment", "crop", "--views", 2, *FLOAT32)
    ahead = job("vit", "ahead", *flags)
    monkeypatch.setattr("hfft.training.trainer.read_ahead", lambda loader: None)
    plain = job("vit", "plain", *flags)
    assert losses(ahead) == losses(plain)
    assert equal(weights(ahead), weights(plain))


def test_rows_multiplied_in_tf32_are_not_taken_for_exact_ones(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the flag, the second run goes on multiplying as the first one does; the third does not."""
    for name, flags in (("tf32", ["true"]), ("as before", []), ("exact", ["false"])):
        job("resnet", name, "--cache", "disk", "--bf16", "false", *(["--tf32", *flags] if flags else []))
    said = capsys.readouterr().out
    assert [f"{count} of 24 rows were there already" in said for count in (0, 24)] == [True, True]
    assert said.count("0 of 24 rows were there already") == 2


def test_activations_on_the_gpu_are_on_disk_for_the_next_run(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--cache", "gpu", *FLOAT32)
    first, second = job("convnext", "first", *flags), job("convnext", "second", *flags)
    assert "24 of 24 rows were there already" in capsys.readouterr().out
    assert losses(second) == losses(first)


@pytest.mark.parametrize(("kind", "cache"), [("resnet", "gpu"), ("vit", "gpu"), ("resnet", "auto"), ("vit", "auto")])
def test_every_command_works_with_activations_on_the_gpu(
    kind: str, cache: str, job: Job, image_folder: Folder, tmp_path: Path
) -> None:
    new = image_folder("new", per_class=3, seed=9)
    run, images, base = (
        job(kind, "run", "--cache", cache, "--calibration_folds", 2),
        tmp_path / "images",
        tmp_path / f"pretrained-{kind}",
    )
    model = ["--model_name_or_path", base, "--train_dir", images, "--num_train_epochs", 2, "--cache", cache]
    commands: list[list[Any]] = [
        ["advise", *model, "--train_val_split", 0.25, "--output_dir", tmp_path / "advice"],
        ["finetune", *model, "--policy", "auto", "--output_dir", tmp_path / "auto"],
        ["finetune", *model, "--head_init", "probe", "--cutmix", 1.0, "--output_dir", tmp_path / "probe"],
        ["sweep", *model, "--output_dir", tmp_path / "sweep", "--soup", "--sweep", "seed=1,2"],
        ["labels", images, "--model", base],
        ["depth", images, "--model", base],
        ["embed", images, "--model", base, "--output", tmp_path / "features.parquet"],
        ["next", new / "red", "--model", run, "--count", 2],
        ["extend", run, "--train_dir", new, "--output_dir", tmp_path / "more"],
        ["predict", images, "--model", run],
        ["evaluate", "--validation_dir", images, "--model", run],
    ]
    codes = {" ".join(map(str, command)): main([str(part) for part in command]) for command in commands}
    assert {command: code for command, code in codes.items() if code} == {}


def test_a_run_twice_gives_the_same_bits(job: Job) -> None:
    first, second = (job("vit", name, *FLOAT32) for name in ("first", "second"))
    assert losses(first) == losses(second)
    assert equal(weights(first), weights(second))


def test_the_class_token_alone_gives_the_logits_of_the_whole_block() -> None:
    model = small_model("vit")[0].eval().to("cuda")
    inputs = {"pixel_values": torch.randn(5, 3, 32, 32, device="cuda")}
    anatomy, found = find_anatomy(model), []
    for active in (False, True):
        with class_token_only(model, anatomy, active), torch.no_grad():
            found.append(logits_of(model(**inputs)))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4 * float(found[0].abs().max()))


@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_a_compiled_prefix_is_within_the_tolerance(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = MODELS[kind]().eval().to("cuda")
    anatomy = find_anatomy(model)
    phase = make_plan(model, anatomy, "last_block", epochs=1).phases[0]
    freeze(model, phase)
    batch = {"pixel_values": torch.randn(4, 3, 32, 32, device="cuda")}
    cut = cut_phase(model, anatomy, phase, batch)
    assert cut.split is not None
    prefix = Prefix(cut.split, anatomy, cut.class_token, torch.device("cuda"), None, torch.channels_last)
    engine = export_engine("compile", prefix, batch, tmp_path)
    assert difference(engine.capture(batch), prefix.capture(batch)) < 1e-4


@pytest.mark.parametrize("cache", ["disk", "gpu"])
def test_two_processes_on_one_card_give_the_losses_of_one(
    cache: str, pretrained: Folder, image_folder: Folder, tmp_path: Path
) -> None:
    # Batch norms would see other batches, and dropout draws from each process's own random state.
    flags: list[Any] = ["--model_name_or_path", pretrained("convnext"), "--train_dir", image_folder(), *FLOAT32]
    flags += ["--validation_dir", image_folder("validation", per_class=9, seed=3), "--num_train_epochs", 2]
    flags += ["--policy", "lp_ft", "--cache", cache, "--logging_strategy", "steps", "--logging_steps", 1]
    flags += ["--keep", "last", "--baselines", "none", "--per_device_eval_batch_size", 4, "--disable_tqdm", "true"]
    for processes in (1, 2):
        own = ["--per_device_train_batch_size", 6 // processes, "--output_dir", tmp_path / str(processes)]
        own += ["--cache_dir", tmp_path / f"cache{processes}"]
        own += ["--ddp_backend", "gloo"] if processes == 2 else []
        run_on_machines([[*flags, *own]] * processes)  # so that all see card 0
    one, two = (torch.tensor(losses(tmp_path / str(count)), dtype=torch.float64) for count in (1, 2))
    torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-7)
