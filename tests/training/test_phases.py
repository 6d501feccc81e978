"""Plans of several phases: one trace, each phase's own cache and optimizer, the same bits with and without it."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from runs import Folder, Job, equal, losses, record, weights
from safetensors.torch import load_file
from small_models import SMALL, small_model
from transformers import Trainer, TrainerCallback, ViTImageProcessor

import hfft.jobs.finetune
from hfft.arguments import FinetuneArguments
from hfft.cache.prepare import software
from hfft.cache.store import ActivationCache
from hfft.cli.train import finetune_settings
from hfft.data.preprocessing import Pixels
from hfft.planning.freezing import freeze
from hfft.planning.plan import Phase, count_fillable_together, make_plan
from hfft.planning.registry import find_anatomy
from hfft.split.cut import cut_phase
from hfft.split.halves import Prefix, Suffix
from hfft.training.callbacks import PhaseCallback
from hfft.training.learning_rates import gradient_ratios
from hfft.training.phases import lies_on_cpu, to_device
from hfft.training.trainer import FreezeTrainer


@pytest.mark.parametrize("kind", ["resnet", "vit", "swin", "timm"])
def test_phases_give_the_same_bits_with_and_without_a_cache(job: Job, kind: str) -> None:
    flags = ("--policy", "gradual", "--num_train_epochs", 3, "--augment", "crop", "--views", 2)
    cached, uncached = job(kind, "cached", *flags), job(kind, "uncached", "--cache", "off", *flags)
    assert len(losses(cached)) == 9
    assert losses(cached) == losses(uncached)
    assert equal(weights(cached), weights(uncached))
    plan = record(cached)["plan"]
    assert [phase["name"] for phase in plan] == [
        "head",
        "last_block",
        "last_n:2" if kind in ("vit", "timm") else "full",
    ]
    trainable = [phase["trainable_parameters"] for phase in plan]
    assert trainable == sorted(set(trainable))


def test_flips_are_two_pictures_however_many_views(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--augment", "flip", "--views", 12, "--num_train_epochs", 4)
    cached = job("vit", "cached", *flags)
    found = re.search(r"0 of (\d+) rows were there already", capsys.readouterr().out)
    assert found
    assert 18 + 6 < int(found[1]) <= 2 * 18 + 6
    job("vit", "plain", "--augment", "none")
    assert "24 of 24 rows were there already" in capsys.readouterr().out
    assert equal(weights(cached), weights(job("vit", "uncached", "--cache", "off", *flags)))


def test_one_trace_runs_through_all_phases(job: Job) -> None:
    folder = job("resnet", "run", "--policy", "lp_ft", "--num_train_epochs", 4)
    with (folder / "trace.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(float(row["epoch"]), row["phase"]) for row in rows] == [
        (1, "head"),
        (2, "head"),
        (3, "last_block"),
        (4, "last_block"),
    ]
    state = json.loads((folder / "trainer_state.json").read_text())
    assert (state["epoch"], state["global_step"]) == (4, 12)
    steps = [entry["step"] for entry in state["log_history"] if "loss" in entry]
    assert steps == list(range(1, 13))
    data = record(folder)
    assert [phase["epochs"] for phase in data["plan"]] == [2, 2]
    assert data["arguments"]["num_train_epochs"] == 4
    results = json.loads((folder / "all_results.json").read_text())
    assert results["epoch"] == 4


class ViewsSeen(TrainerCallback):
    """Notes the views that each epoch of training reads, from the cache or from images."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, images: int) -> None:
        self.epochs: list[set[int]] = []
        gather, augmented = ActivationCache.gather, Pixels._augmented

        def watched_gather(cache: ActivationCache, rows: list[int]) -> dict[str, torch.Tensor]:
            if self.epochs and cache.count > images:  # not those of filling, nor of validation
                self.epochs[-1] |= {row // images for row in rows}
            return gather(cache, rows)

        def watched_augmented(pixels: Pixels, image: Image.Image, content: str, view: int) -> Image.Image:
            if self.epochs:
                self.epochs[-1].add(view)
            return augmented(pixels, image, content, view)

        monkeypatch.setattr(ActivationCache, "gather", watched_gather)
        monkeypatch.setattr(Pixels, "_augmented", watched_augmented)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.epochs.append(set())


def train_with(callback: TrainerCallback, *flags: Any) -> None:
    """Train with a callback, which the command line cannot be given."""
    settings = finetune_settings([str(flag) for flag in flags])
    hfft.jobs.finetune.finetune(settings, lambda line: None, callbacks=[callback])


@pytest.mark.parametrize("cache", ["memory", "off"])
@pytest.mark.parametrize("more", [(), ("--policy", "gradual", "--num_train_epochs", 3, "--views", 2)])
def test_every_epoch_of_the_run_trains_on_its_view(
    image_folder: Folder, pretrained: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str, more: Any
) -> None:
    images = image_folder()
    given: tuple[Any, ...] = ("--model_name_or_path", pretrained("resnet"), "--train_dir", images)
    given += ("--output_dir", tmp_path / "run")
    given += ("--train_val_split", 0.25, "--baselines", "none", "--disable_tqdm", "true", "--augment", "flip")
    given += ("--policy", "lp_ft", "--num_train_epochs", 6, "--views", 4, "--cache", cache, *more)
    seen = ViewsSeen(monkeypatch, 18)
    train_with(seen, *given)
    views = 2 if more else 4
    assert seen.epochs == [{epoch % views} for epoch in range(3 if more else 6)]


class FillHeard(PhaseCallback):
    """Notes each batch of a filling."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, int]] = []

    def on_fill(self, done: int, total: int) -> None:
        self.heard.append((done, total))


def test_a_callback_hears_of_each_batch_that_fills_the_cache(
    image_folder: Folder, pretrained: Folder, tmp_path: Path
) -> None:
    heard = FillHeard()
    given: tuple[Any, ...] = ("--model_name_or_path", pretrained("resnet"), "--train_dir", image_folder())
    given += ("--output_dir", tmp_path / "run", "--train_val_split", 0.25, "--num_train_epochs", 1)
    train_with(heard, *given, "--baselines", "none", "--figures", "false")
    assert heard.heard == [(8, 18), (16, 18), (18, 18), (6, 6)]


def test_images_go_through_the_prefix_once(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head's cache comes from the activations of the last block's, and has the bits of one filled from images."""
    derived = []
    capture = Prefix.capture

    def watched(self: Prefix, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        derived.append((self.split.boundary, self.begun.boundary if self.begun is not None else None))
        return capture(self, inputs)

    monkeypatch.setattr(Prefix, "capture", watched)
    folder = job("resnet", "run", "--policy", "lp_ft", "--cache", "disk")
    last_block = "resnet.encoder.stages.1.layers.0.layer.0.convolution"
    assert set(derived) == {(last_block, None), ("classifier.1", last_block)}
    assert record(folder)["cache"]["hits"] == 0
    derived.clear()
    again = job("resnet", "again", "--policy", "head", "--cache", "disk")
    # A few rows of each split are computed again from their images, and compared.
    assert derived == [("classifier.1", None)] * 2
    assert record(again)["cache"]["hits"] == 24


@pytest.mark.parametrize("kind", sorted(set(SMALL) - {"siglip2", "imagegpt"}))
def test_derived_activations_have_the_bits_of_direct_ones(kind: str) -> None:
    model, inputs = small_model(kind)
    anatomy = find_anatomy(model)
    prefixes = []
    for phase in make_plan(model, anatomy, "lp_ft", 2).phases:
        freeze(model, phase)
        cut = cut_phase(model, anatomy, phase, inputs)
        assert cut.split is not None, cut.uncached_reason
        prefixes.append(Prefix(cut.split, anatomy, cut.class_token, torch.device("cpu"), None, torch.contiguous_format))
    deep, shallow = prefixes
    direct = deep.capture(inputs)
    begun = Prefix(
        deep.split, anatomy, deep.class_token, deep.device, None, torch.contiguous_format, begun=shallow.split
    )
    derived = begun.capture({name: tensor.clone() for name, tensor in shallow.capture(inputs).items()})
    assert direct.keys() == derived.keys()
    assert all(torch.equal(direct[name], derived[name]) for name in direct)


def test_narrow_activations_are_not_derived_from(job: Job) -> None:
    flags = ("--cache_dtype", "bfloat16", "--cache", "disk")
    job("resnet", "both", "--policy", "lp_ft", *flags)
    head = job("resnet", "head", "--policy", "head", *flags)
    assert record(head)["cache"]["hits"] == 24
    alone = job("resnet", "alone", "--policy", "head", "--cache", "memory", "--cache_dtype", "bfloat16")
    assert equal(weights(head), weights(alone))


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("kind", ["resnet", "vit"])
def test_a_policy_that_freezes_again_fills_its_cache_again(job: Job, kind: str) -> None:
    cached = job(kind, "cached", "--policy", "outside", "--keep", "last")
    uncached = job(kind, "uncached", "--policy", "outside", "--keep", "last", "--cache", "off")
    assert losses(cached) == losses(uncached)
    assert equal(weights(cached), weights(uncached))


def test_frozen_tensors_of_each_phase_are_proven(job: Job) -> None:
    folder = job("resnet", "run", "--policy", "lp_ft")
    frozen = record(folder)["frozen"]
    assert frozen["sha256_before"] == frozen["sha256_after"]
    delta = load_file(folder / "delta.safetensors")
    assert delta
    assert all(name.startswith(("resnet.encoder.stages.1", "classifier")) for name in delta)


def test_best_weights_may_be_those_of_an_earlier_phase(job: Job) -> None:
    """A second phase with a ruinous learning rate does not cost what the first one reached."""
    probed = job("vit", "probed", "--policy", "head", "--num_train_epochs", 2)
    constant = ("--lr_scheduler_type", "constant")
    ruined = job("vit", "ruined", "--policy", "lp_ft", "--num_train_epochs", 4, "--keep", "best", *constant)
    best = record(ruined)["best_epoch"]
    with (ruined / "trace.csv").open() as file:
        rows = list(csv.DictReader(file))
    top = max(rows, key=lambda row: (float(row["accuracy"]), -float(row["eval_loss"])))
    assert best == float(top["epoch"])
    accuracy = record(ruined)["metrics"]["validation"]["values"]["accuracy"]
    assert accuracy == pytest.approx(float(top["accuracy"]))
    assert accuracy >= record(probed)["metrics"]["validation"]["values"]["accuracy"] - 0.2


def test_max_steps_does_not_say_which_phase_ends(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AssertionError):
        job("resnet", "run", "--policy", "lp_ft", "--max_steps", 3)
    assert "--max_steps does not say which of the phases" in capsys.readouterr().err


def test_auto_rgn_scales_each_tensor(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: dict[str, float] = {}

    def watched(trainer: Any) -> dict[str, float]:
        before = {name: tensor.clone() for name, tensor in trainer.classifier.state_dict().items()}
        measured.update(gradient_ratios(trainer))
        assert measured.keys() == dict(trainer.classifier.named_parameters()).keys()
        assert equal(before, trainer.classifier.state_dict())
        return measured

    monkeypatch.setattr("hfft.training.phases.gradient_ratios", watched)
    job("vit", "run", "--policy", "auto_rgn")
    assert max(measured.values()) == 1
    assert 0 <= min(measured.values()) < 0.5
    assert len(set(measured.values())) > 10


@pytest.mark.parametrize("kind", ["levit", "mobilevitv2"])
def test_auto_rgn_measures_and_logs_every_model(kind: str, job: Job, tmp_path: Path) -> None:
    """LeViT keeps tensors with their graph in eval mode; the gradient of MobileViTv2's first tensors is 0."""
    model, inputs = small_model(kind)
    folder, side = tmp_path / f"pretrained-{kind}", inputs["pixel_values"].shape[-1]
    model.save_pretrained(folder)
    ViTImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
    output = job(kind, "run", "--policy", "auto_rgn", "--learning_rate", 1e-3, "--lr_scheduler_type", "constant")
    log = json.loads((output / "trainer_state.json").read_text())["log_history"]
    rates = [entry["learning_rate"] for entry in log if "learning_rate" in entry]
    assert rates == [pytest.approx(1e-3)] * len(losses(output))


def test_phases_are_made_ready_until_one_freezes_again() -> None:
    def phase(*names: str) -> Phase:
        return Phase("", frozenset(names), frozenset(), {}, 1)

    assert count_fillable_together([phase("a"), phase("a", "b"), phase("b"), phase("b", "c")]) == 2
    assert count_fillable_together([phase("a")]) == 1


SCHEDULES = [
    *((name, None) for name in ("linear", "cosine", "cosine_with_restarts", "polynomial", "constant_with_warmup")),
    ("inverse_sqrt", None),
    ("cosine_with_min_lr", {"min_lr": 1e-5}),
    ("cosine_warmup_with_min_lr", {"min_lr": 1e-5, "warmup_lr_rate": 0.1}),
    ("warmup_stable_decay", {"num_decay_steps": 4}),
]


@pytest.mark.parametrize(("name", "options"), SCHEDULES, ids=[name for name, _ in SCHEDULES])
@pytest.mark.parametrize(("warmup", "steps"), [(1, 1), (1, 10), (4, 20), (0, 10)])
def test_a_warm_up_begins_above_nothing(
    tmp_path: Path, name: str, options: dict[str, float] | None, warmup: int, steps: int
) -> None:
    """It rises by equal steps to the whole rate; from there, and without one, the schedule is that of transformers."""
    model, _ = small_model("vit")
    phase = make_plan(model, find_anatomy(model), "head", 1, head_lr_scale=1.0).phases[0]
    common: dict[str, Any] = {"output_dir": str(tmp_path), "eval_strategy": "no", "warmup_steps": warmup}
    args = FinetuneArguments(**common, lr_scheduler_type=name, lr_scheduler_kwargs=options)
    rates: list[list[float]] = []
    for create in (FreezeTrainer.create_scheduler, Trainer.create_scheduler):
        trainer = FreezeTrainer(model, args, phase, Suffix(find_anatomy(model)))
        optimizer = trainer.create_optimizer()
        scheduler = create(trainer, steps, optimizer)
        rates.append([])
        for step in range(steps):
            if step > 0:  # transformers' polynomial schedule divides by 0 after the last step of a warm-up
                optimizer.step()
                scheduler.step()
            rates[-1].append(optimizer.param_groups[0]["lr"] / args.learning_rate)
    ours, stock = rates
    assert ours[0] > 0
    assert ours[warmup:] == stock[warmup:]
    if warmup:
        assert ours[:warmup] == [*stock[1:warmup], 1.0]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "polynomial"])
def test_a_phase_of_one_step_trains_and_is_pointed_out(
    job: Job,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    schedule: str,
) -> None:
    flags = ("--num_train_epochs", 1, "--per_device_train_batch_size", 32, "--keep", "last", "--policy", "last_block")
    folder = job("resnet", "run", *flags, "--lr_scheduler_type", schedule)
    before, after = weights(tmp_path / "pretrained-resnet"), weights(folder)
    block = [name for name in before if name.startswith("resnet.encoder.stages.1") and name.endswith("weight")]
    assert block
    assert not any(torch.equal(before[name], after[name]) for name in block)
    said = capsys.readouterr().out
    assert "Phase last_block has only a single optimizer step, which may train little" in said
    assert "--per_device_train_batch_size below 32" in said


def test_a_phase_of_enough_steps_is_not_pointed_out(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    job("resnet", "run", "--policy", "head", "--num_train_epochs", 5, "--per_device_train_batch_size", 8)
    assert "optimizer step" not in capsys.readouterr().out


@pytest.mark.parametrize(("device", "pinned"), [("cpu", True), ("meta", False)])
def test_only_rows_in_the_memory_of_the_cpu_are_pinned(device: str, pinned: bool) -> None:
    assert lies_on_cpu([{"pixel_values": torch.zeros(2, device=device)}]) is pinned


@pytest.fixture
def precisions() -> Iterator[tuple[Any, ...]]:
    """PyTorch's switches for products of float32, which are as before afterwards."""
    backends: Any = torch.backends
    if not hasattr(backends, "fp32_precision"):
        pytest.skip("PyTorch has these since 2.9")
    places = (backends, backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    before = [place.fp32_precision for place in places]
    yield places
    for place, value in zip(places, before, strict=True):
        place.fp32_precision = value


def test_each_run_multiplies_as_its_own_flag_says(precisions: tuple[Any, ...]) -> None:
    """The flags of all runs of a sweep are read before the first one, and reading them sets the precision as well."""
    for wanted, precision in ((True, "tf32"), (False, "ieee"), (True, "tf32"), (None, "tf32")):
        training = SimpleNamespace(tf32=wanted, device=torch.device("cpu"))
        settings = SimpleNamespace(training=training, cache=SimpleNamespace(memory_format="auto"))
        to_device(SimpleNamespace(settings=settings, model=torch.nn.Linear(2, 2)))  # type: ignore[arg-type]
        assert {place.fp32_precision for place in precisions} == {precision}


def test_rows_multiplied_in_tf32_have_a_name_of_their_own(
    precisions: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it came to be: by the flag of this run, by that of an earlier one, or by the user's own code."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    named = []
    for precision in ("ieee", "tf32"):
        precisions[-2].fp32_precision = precision
        named.append(software(torch.device("cuda")))
    assert named[0] != named[1]


def test_a_process_that_sees_several_gpus_trains_on_one_and_says_so(
    image_folder: Folder, pretrained: Folder, tmp_path: Path
) -> None:
    """The Trainer would wrap the model in nn.DataParallel, which here scales the loss as it does there."""
    data = ("--model_name_or_path", pretrained("vit"), "--train_dir", image_folder(), "--num_train_epochs", 2)
    said: list[str] = []
    for name, gpus in (("one", 0), ("several", 2)):
        flags = (*data, "--output_dir", tmp_path / name, "--baselines", "none", "--figures", "false")
        settings = finetune_settings([str(flag) for flag in (*flags, "--per_device_train_batch_size", 6)])
        settings.training._n_gpu = gpus
        hfft.jobs.finetune.finetune(settings, said.append)
    assert losses(tmp_path / "several") == losses(tmp_path / "one")
    assert equal(weights(tmp_path / "several"), weights(tmp_path / "one"))
    assert len([line for line in said if line.startswith("Of 2 GPUs this process uses one: torchrun")]) == 1
