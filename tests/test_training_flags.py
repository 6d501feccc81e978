"""Every flag of TrainingArguments has a verdict, and what is refused is refused before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from runs import Folder, Job, equal, record, run, weights
from transformers import TrainingArguments
from versions import needs

from hfft.arguments import FinetuneArguments
from hfft.cli import main
from hfft.errors import ArgumentError, HfftError
from hfft.training_flags import FLAGS, NEEDED

REFUSED = {
    "remove_unused_columns": "true",
    "include_for_metrics": "inputs",
    "batch_eval_metrics": "true",
    "eval_do_concat_batches": "false",
    "prediction_loss_only": "true",
    "bf16_full_eval": "true",
    "fp16_full_eval": "true",
    "activation_checkpointing": "true",
    "activation_checkpointing_kwargs": '{"use_reentrant": false}',
    "gradient_checkpointing": "true",
    "gradient_checkpointing_kwargs": '{"use_reentrant": false}',
    "neftune_noise_alpha": "5",
    "use_liger_kernel": "true",
    "enable_jit_checkpoint": "true",
    "fsdp": "full_shard",
    "fsdp_config": '{"version": 2}',
    "deepspeed": "ds.json",
}
NOT_ON_A_COMMAND_LINE = {"liger_kernel_config", "parallelism_config"}
WRONG = (
    *("--seed -1", "--data_seed -1", "--label_smoothing_factor 1.5", "--label_smoothing_factor 1", "--fp16 true"),
    *("--train_sampling_strategy group_by_length", "--do_train false", "--metric_for_best_model f1", "--adam_beta1 2"),
    *("--weight_decay -1", "--warmup_steps -1", "--gradient_accumulation_steps 0", "--max_steps 0", "--eval_delay -1"),
    *(
        "--save_steps 0",
        "--eval_steps 0",
        "--save_total_limit 0",
        "--dataloader_num_workers -1",
        "--max_grad_norm -1",
        "--report_to nonsense",
    ),
    *(f"--lr_scheduler_type {schedule}" for schedule in NEEDED),
    *("--debug underflow_overflow", "--debug=underflow_overflow", "--ddp_backend gloo", "--ddp_backend nccl"),
    *("--torch_compile_backend tvm", "--torch_compile_backend nonsense", "--torch_compile_mode nonsense"),
    *(
        "--load_best_model_at_end true --keep last",
        "--lr_scheduler_kwargs {",
        "--config_name other",
        "--greater_is_better false",
    ),
)


@needs("transformers", "5.24")
def test_every_flag_of_the_installed_transformers_has_a_verdict() -> None:
    assert FLAGS.keys() == {field.name for field in fields(TrainingArguments) if field.init}


def test_every_refused_flag_is_tried() -> None:
    refused = {name for name, flag in FLAGS.items() if flag.verdict == "refused"}
    assert refused == REFUSED.keys() | NOT_ON_A_COMMAND_LINE
    assert all(FLAGS[name].note for name in refused)


@needs("transformers", "5.24")
def test_the_help_says_what_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["finetune", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    kept = ("remove_unused_columns",)  # whose help is hfft's own
    notes = {name: flag.note for name, flag in FLAGS.items() if flag.verdict == "refused" and name not in kept}
    assert not [name for name, note in notes.items() if f"Refused: {note}." not in told]


@pytest.mark.parametrize(
    "flags", [*(f"--{name} {value}" for name, value in REFUSED.items() if name != "fsdp_config"), *WRONG]
)
def test_refused_before_images_are_read(
    flags: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hfft.jobs.inputs.load_usable_sets", lambda *_: pytest.fail("images were read"))
    flag, _, rest = flags.partition(" ")
    values = [rest] if rest.startswith("{") else rest.split()
    assert main(["finetune", "--output_dir", str(tmp_path / "out"), flag, *values]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("hfft: error: ")
    assert "unexpected" not in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("flag", ["--tf32", "--fp16"])
def test_what_only_a_gpu_has_is_refused_on_a_cpu(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hfft.jobs.inputs.load_usable_sets", lambda *_: pytest.fail("images were read"))
    assert main(["finetune", "--output_dir", str(tmp_path / "out"), flag, "true"]) == 2
    assert "GPU" in capsys.readouterr().err


def test_debug_without_a_value_is_of_every_command(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="unknown argument '--nonsense'"):
        main(["finetune", "--debug", "--nonsense"])
    with pytest.raises(HfftError, match="nowhere"):
        main(["check", "--debug", str(tmp_path / "nowhere")])


def test_a_compiler_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ArgumentError, match="needs a C\\+\\+ compiler"):
        FinetuneArguments(output_dir="o", torch_compile=True, use_cpu=True)
    FinetuneArguments(output_dir="o", torch_compile=True, torch_compile_backend="eager", use_cpu=True)


def test_bf16_needs_no_further_flag_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert FinetuneArguments(output_dir="o", bf16=True).use_cpu


@pytest.mark.parametrize(("told", "bf16"), [("bf16", True), ("no", False)])
def test_what_the_launcher_was_told_counts(told: str, bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", told)
    assert FinetuneArguments(output_dir="o", use_cpu=True).bf16 is bf16
    assert FinetuneArguments(output_dir="o", use_cpu=True, bf16=False).bf16 is False
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "EAGER")
    given = FinetuneArguments(output_dir="o", use_cpu=True)
    assert (given.torch_compile, given.torch_compile_backend) == (True, "eager")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    with pytest.raises(ArgumentError, match="fp8 is not supported"):
        FinetuneArguments(output_dir="o", use_cpu=True)


def test_compiled_phases_train_to_the_same_weights(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--policy", "lp_ft", "--baselines", "none", "--figures", "false", "--use_cpu", "true")
    plain = job("resnet", "plain", "--cache", "off", *flags)
    whole = job("resnet", "whole", "--cache", "off", "--torch_compile_backend", "eager", *flags)
    assert "Compiled with" not in capsys.readouterr().out
    suffix = job("resnet", "suffix", "--cache", "disk", "--torch_compile_backend", "eager", *flags)
    said = capsys.readouterr().out
    assert "Compiled with eager: classifier." in said
    assert "Compiled with eager: resnet.encoder.stages.1, classifier." in said
    assert equal(weights(plain), weights(whole))
    assert equal(weights(plain), weights(suffix))


@pytest.mark.parametrize("flags", ["--optim lion_8bit", "--optim schedule_free_adamw"])
def test_a_missing_package_is_named(
    flags: str, pretrained: Folder, image_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, model = image_folder(), pretrained("resnet")
    assert (
        run("--train_dir", images, "--model_name_or_path", model, "--output_dir", tmp_path / "o", *flags.split()) == 2
    )
    assert "You need to install" in capsys.readouterr().err


def test_what_decides_the_best_weights() -> None:
    given = FinetuneArguments(output_dir="o", load_best_model_at_end=True, save_strategy="epoch")
    assert (given.metric_for_best_model, given.greater_is_better, given.load_best_model_at_end) == (
        "loss",
        False,
        False,
    )
    given = FinetuneArguments(output_dir="o", metric_for_best_model="eval_f1_macro")
    assert (given.metric_for_best_model, given.greater_is_better) == ("f1_macro", True)
    given = FinetuneArguments(
        output_dir="o", lr_scheduler_type="reduce_lr_on_plateau", metric_for_best_model="accuracy"
    )
    assert given.lr_scheduler_kwargs == {"mode": "max"}
    with pytest.raises(ArgumentError, match="must be one of accuracy"):
        FinetuneArguments(output_dir="o", metric_for_best_model="f1")


TRIED = (
    "--adam_beta1 0.8 --adam_beta2 0.99 --adam_epsilon 1e-7 --max_grad_norm 0 --optim_args fused=False --data_seed 7 "
    "--logging_first_step true --log_on_each_node false --logging_nan_inf_filter false --log_level error "
    "--average_tokens_across_devices false --log_level_replica error --run_name a --project b --eval_on_start true "
    "--eval_use_gather_object true --eval_accumulation_steps 1 --torch_empty_cache_steps 1 --use_cpu true",
    "--optim sgd --auto_find_batch_size true --include_num_input_tokens_seen true --dataloader_pin_memory false "
    "--dataloader_in_order false --train_sampling_strategy sequential --skip_memory_metrics false --use_cache true "
    "--length_column_name n --label_names other --do_eval true --do_predict true --save_only_model true "
    "--save_on_each_node true --ignore_data_skip true --restore_callback_states_from_checkpoint true "
    "--optim_target_modules all-linear --hub_strategy end --hub_always_push true --hub_revision main",
    "--torch_compile true --torch_compile_backend eager --torch_compile_mode default --use_cpu true",
    "--optim adafactor --eval_strategy steps --eval_steps 2 --ddp_timeout 5 "
    "--ddp_bucket_cap_mb 1 --ddp_broadcast_buffers false --ddp_static_graph false --local_rank -1 "
    "--lr_scheduler_type greedy",
    '--dataloader_num_workers 1 --dataloader_prefetch_factor 1 --accelerator_config {"even_batches":true} '
    "--dataloader_multiprocessing_context fork --lr_scheduler_type polynomial",
)
OF_OTHER_MACHINES = {
    *("tf32", "fp16", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
}
"""Of GPUs, and of a service on the network."""


def test_every_inherited_flag_is_tried() -> None:
    tried = {word[2:] for flags in TRIED for word in flags.split() if word.startswith("--")}
    assert {name for name, flag in FLAGS.items() if flag.verdict == "inherited"} <= tried | OF_OTHER_MACHINES


@needs("transformers", "5.24")
@pytest.mark.parametrize("flags", TRIED)
def test_inherited_flags(flags: str, job: Job) -> None:
    folder = job("resnet", "out", "--baselines", "none", "--figures", "false", "--policy", "head", *flags.split())
    assert record(folder)["metrics"]["validation"]["images"] == 6


def test_a_schedule_that_follows_a_metric(job: Job) -> None:
    plateau = ("--lr_scheduler_type", "reduce_lr_on_plateau", "--metric_for_best_model", "accuracy")
    kwargs = ("--lr_scheduler_kwargs", '{"patience": 0, "factor": 0.5, "threshold": 2}')  # nothing is ever better
    folder = job(
        "resnet", "out", *plateau, *kwargs, "--num_train_epochs", 3, "--baselines", "none", "--figures", "false"
    )
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    rates = [entry["learning_rate"] for entry in log if "learning_rate" in entry]
    assert rates[0] == 5e-4  # of a parameter whose factor is 1
    assert rates[-1] == pytest.approx(2.5e-4)


def test_the_command_line_of_the_example_of_transformers(
    pretrained: Callable[[str], Path], image_folder: Folder, tmp_path: Path
) -> None:
    out, model = tmp_path / "out", pretrained("vit")
    flags = (
        f"--model_name_or_path {model} --config_name {model} --image_processor_name {model} --model_revision main "
        f"--cache_dir {tmp_path / 'c'} --ignore_mismatched_sizes --train_dir {image_folder()} "
        f"--validation_dir {image_folder('v', per_class=2)} --train_val_split 0.2 --max_train_samples 20 "
        f"--max_eval_samples 5 --output_dir {out} --remove_unused_columns False --do_train --do_eval --do_predict "
        "--learning_rate 2e-5 --num_train_epochs 2 --per_device_train_batch_size 8 --per_device_eval_batch_size 8 "
        "--logging_strategy steps --logging_steps 1 --eval_strategy epoch --save_strategy epoch --save_total_limit 3 "
        "--load_best_model_at_end True --seed 1337 --overwrite_output_dir --trust_remote_code False"
    )
    assert main(["finetune", *flags.split()]) == 0
    results = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md", "trainer_state.json"}
    results |= {f"{split}_results.json" for split in ("train", "eval", "all")}
    assert results <= {file.name for file in out.iterdir()}
    assert json.loads((out / "eval_results.json").read_text())["eval_loss"] > 0
