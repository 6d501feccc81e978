"""Every flag of transformers' TrainingArguments, and whether hfft takes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from hfft.errors import ArgumentError

Verdict = Literal["works", "inherited", "refused"]
METRICS = (
    *("accuracy", "f1_macro", "top5_accuracy", "loss", "ece"),
    *("map", "f1_micro", "subset_accuracy", "r2", "mae", "rmse"),
)
"""What may decide the best weights: the metrics of all tasks (`hfft.tasks`) by name."""
SMALLER_IS_BETTER = ("loss", "ece", "mae", "rmse")


COMPILERS = ("inductor", "aot_eager", "eager")
"""Backends of torch.compile that train; the others are of inference alone or of other hardware."""
COMPILER_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


@dataclass(frozen=True)
class Flag:
    """What hfft makes of one flag.

    Args:
        verdict: works (with tests of its own), inherited (the Trainer's; each is tried once), or refused.
        note: why it is refused, or what is to be known of it.
    """

    verdict: Verdict
    note: str = ""


def _flags(verdict: Verdict, names: str) -> dict[str, Flag]:
    return {name: Flag(verdict) for name in names.split()}


FLAGS: dict[str, Flag] = {
    **_flags(
        "works",
        """output_dir per_device_train_batch_size per_device_eval_batch_size num_train_epochs learning_rate weight_decay
        gradient_accumulation_steps label_smoothing_factor bf16 logging_strategy logging_steps disable_tqdm
        save_strategy save_steps save_total_limit hub_token hub_private_repo hub_model_id seed
        full_determinism dataloader_num_workers dataloader_persistent_workers ddp_find_unused_parameters""",
    ),
    **_flags(
        "inherited",
        """optim_args adam_beta1 adam_beta2 adam_epsilon average_tokens_across_devices max_grad_norm
        torch_empty_cache_steps auto_find_batch_size
        logging_first_step log_on_each_node logging_nan_inf_filter include_num_input_tokens_seen log_level
        log_level_replica run_name project trackio_space_id trackio_bucket_id trackio_static_space_id eval_steps
        eval_on_start eval_use_gather_object eval_accumulation_steps save_on_each_node hub_revision ignore_data_skip
        restore_callback_states_from_checkpoint data_seed use_cpu accelerator_config dataloader_pin_memory
        dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order ddp_bucket_cap_mb
        ddp_broadcast_buffers ddp_static_graph ddp_timeout skip_memory_metrics local_rank""",
    ),
    "max_steps": Flag("works", "refused for policies of several phases"),
    "lr_scheduler_type": Flag(
        "works", "`reduce_lr_on_plateau` and `greedy` have no warm-up; some need `--lr_scheduler_kwargs`, see below"
    ),
    "lr_scheduler_kwargs": Flag("works"),
    "warmup_steps": Flag("works", "begins at 1/n of the rate, not at 0"),
    "optim": Flag("inherited", "those whose package is missing are refused, naming it"),
    "optim_target_modules": Flag("inherited", "read by GaLore, APOLLO and LOMO alone"),
    "fp16": Flag("inherited", "refused on a CPU"),
    "tf32": Flag("inherited", "refused where there is no GPU that has it"),
    "torch_compile": Flag(
        "works", "of what trains on cached activations; where they are not cached, of whole forwards"
    ),
    "torch_compile_backend": Flag("works", f"{', '.join(COMPILERS)}; inductor by default"),
    "torch_compile_mode": Flag("works", f"{', '.join(COMPILER_MODES)}"),
    "ddp_backend": Flag("works", "of several processes: `nccl` on GPUs, `gloo` on CPUs"),
    "debug": Flag("works", "without a value it shows tracebacks, in every command; the Trainer's values are refused"),
    "use_cache": Flag("inherited", "of generated text; without effect on images"),
    "length_column_name": Flag("inherited", "read by `group_by_length` alone, which is refused"),
    "train_sampling_strategy": Flag("inherited", "`random` or `sequential`"),
    "report_to": Flag("works", "one run over all phases; see below"),
    "eval_strategy": Flag("works", "with `no`, and before `--eval_delay` is over, the last weights are handed back"),
    "eval_delay": Flag("works", "epochs or steps of the whole run, not of each phase"),
    "dataloader_drop_last": Flag("works", "of training batches; evaluation never drops images"),
    "save_only_model": Flag("inherited", "without effect: checkpoints of hfft can always be resumed from"),
    "label_names": Flag("inherited", "without effect: the label of an image is `labels`"),
    "load_best_model_at_end": Flag("works", "`--keep best`, by the loss unless `--metric_for_best_model` is given"),
    "metric_for_best_model": Flag(
        "works", f"decides `--keep best`: {', '.join(METRICS)}; by default accuracy, map or r2, by the task"
    ),
    "greater_is_better": Flag("works", "by default false for the loss, ece, mae and rmse, true for all else"),
    "do_train": Flag("works", "true; false is refused"),
    "do_eval": Flag("inherited", "without effect: the result is always evaluated"),
    "do_predict": Flag("inherited", "without effect: where there are test images, they are always predicted"),
    "push_to_hub": Flag("works", "once, at the end, as hfft push does"),
    "resume_from_checkpoint": Flag("works", "`true` for the newest in the output folder, or a checkpoint's folder"),
    "hub_strategy": Flag("inherited", "without effect: the result is pushed once, at the end"),
    "hub_always_push": Flag("inherited", "without effect: the result is pushed once, at the end"),
    "remove_unused_columns": Flag("refused", "hfft's batches hold what the model reads, and nothing else"),
    "include_for_metrics": Flag("refused", "the metrics are hfft's own and read logits and labels"),
    "batch_eval_metrics": Flag("refused", "metrics are computed over all images at once"),
    "eval_do_concat_batches": Flag("refused", "metrics are computed over all images at once; leave it true"),
    "prediction_loss_only": Flag("refused", "the result is written from the predictions"),
    "bf16_full_eval": Flag("refused", "it would turn the model's own weights to bfloat16; --bf16 evaluates in it too"),
    "fp16_full_eval": Flag("refused", "it would turn the model's own weights to float16; --fp16 evaluates in it too"),
    "activation_checkpointing": Flag(
        "refused", "the frozen part keeps no activations for the backward pass; lower the batch size to save memory"
    ),
    "activation_checkpointing_kwargs": Flag("refused", "--activation_checkpointing is refused"),
    "gradient_checkpointing": Flag(
        "refused", "the frozen part keeps no activations for the backward pass; lower the batch size to save memory"
    ),
    "gradient_checkpointing_kwargs": Flag("refused", "--gradient_checkpointing is refused"),
    "neftune_noise_alpha": Flag(
        "refused", "it adds noise to embeddings of text; --augment, --frofa and --mixup are for images"
    ),
    "use_liger_kernel": Flag("refused", "its kernels are of language models"),
    "liger_kernel_config": Flag("refused", "--use_liger_kernel is refused"),
    "enable_jit_checkpoint": Flag("refused", "hfft saves a checkpoint on SIGTERM by itself"),
    "parallelism_config": Flag("refused", "it shards the model, which hfft does not; see docs/distributed.md"),
    "fsdp": Flag("refused", "it shards the model, which hfft does not; see docs/distributed.md"),
    "fsdp_config": Flag("refused", "--fsdp is refused"),
    "deepspeed": Flag("refused", "it shards the model, which hfft does not; see docs/distributed.md"),
}
"""By name; a test holds the names against those of the installed transformers."""


def help_of(name: str, text: str | None) -> str | None:
    """Return the help of a flag with what hfft makes of it: transformers' own may promise what is refused here.

    Args:
        name: of the flag, or of another option.
        text: its help.
    """
    flag = FLAGS.get(name)
    if flag is None or not flag.note:
        return text
    note = flag.note.replace("see below", "see docs/flags.md")
    return f"Refused: {note}." if flag.verdict == "refused" else f"{text} In hfft: {note}."


_ASKED_ELSEWHERE = ("fsdp", "fsdp_config", "deepspeed")
"""Refused by `hfft.jobs.finetune.check_processes`, which knows of accelerate's own way to ask for them as well."""


@dataclass(frozen=True)
class Limit:
    """Values of a flag that are refused: which, and why."""

    flag: str
    is_wrong: Callable[[Any], bool]
    reason: str


LIMITS = (
    Limit("seed", lambda value: not 0 <= value < 2**32, "must be at least 0 and below 2**32"),
    Limit("data_seed", lambda value: value is not None and value < 0, "must not be below 0"),
    Limit("label_smoothing_factor", lambda value: not 0 <= value < 1, "must be at least 0 and below 1"),
    Limit("weight_decay", lambda value: value < 0, "must not be below 0"),
    Limit("warmup_steps", lambda value: value < 0, "must not be below 0"),
    Limit("max_grad_norm", lambda value: value < 0, "must not be below 0 (0 for no clipping)"),
    Limit("adam_beta1", lambda value: not 0 <= value < 1, "must be at least 0 and below 1"),
    Limit("adam_beta2", lambda value: not 0 <= value < 1, "must be at least 0 and below 1"),
    Limit("adam_epsilon", lambda value: value < 0, "must not be below 0"),
    Limit("gradient_accumulation_steps", lambda value: value < 1, "must be at least 1"),
    Limit("max_steps", lambda value: value == 0 or value < -1, "must be at least 1 (-1 for none)"),
    Limit("save_total_limit", lambda value: value is not None and value < 1, "must be at least 1"),
    Limit("save_steps", lambda value: value <= 0, "must be above 0 (--save_strategy no for none)"),
    Limit(
        "eval_steps", lambda value: value is not None and value <= 0, "must be above 0 (--eval_strategy no for none)"
    ),
    Limit("eval_delay", lambda value: value < 0, "must not be below 0"),
    Limit("dataloader_num_workers", lambda value: value < 0, "must not be below 0"),
    Limit("do_train", lambda value: not value, "must be true; to evaluate a finished model: hfft evaluate"),
    Limit(
        "debug",
        bool,
        "takes no value: it shows tracebacks, and the Trainer's own ways to debug do not know replayed activations",
    ),
    Limit(
        "torch_compile_backend",
        lambda value: value is not None and value not in COMPILERS,
        f"must be one of {', '.join(COMPILERS)}",
    ),
    Limit(
        "torch_compile_mode",
        lambda value: value is not None and value not in COMPILER_MODES,
        f"must be one of {', '.join(COMPILER_MODES)}",
    ),
    Limit(
        "train_sampling_strategy",
        lambda value: str(value) not in ("random", "sequential"),
        "must be random or sequential: images have no lengths",
    ),
    Limit(
        "metric_for_best_model",
        lambda value: value is not None and str(value).removeprefix("eval_") not in METRICS,
        f"must be one of {', '.join(METRICS)}",
    ),
)

NEEDED = {
    "warmup_stable_decay": ("num_decay_steps",),
    "cosine_with_min_lr": ("min_lr", "min_lr_rate"),
    "cosine_warmup_with_min_lr": ("min_lr", "min_lr_rate"),
}
"""What schedules need in ``--lr_scheduler_kwargs``: one of these."""


def check_flags(values: Any) -> None:
    """Refuse what would not work, before anything is loaded.

    Args:
        values: has each flag as an attribute.

    Raises:
        ArgumentError: naming the flag, its value and the reason.
    """
    for name, flag in FLAGS.items():
        value = getattr(values, name, None)
        asked = not value if name == "eval_do_concat_batches" else value  # the one whose default is true
        if flag.verdict == "refused" and name not in _ASKED_ELSEWHERE and asked:
            raise ArgumentError(f"--{name} {_shown(value)} is refused: {flag.note}")
    for limit in LIMITS:
        value = getattr(values, limit.flag)
        if limit.is_wrong(value):
            raise ArgumentError(f"--{limit.flag} {limit.reason}, not {_shown(value)}")
    _check_schedule(str(getattr(values.lr_scheduler_type, "value", values.lr_scheduler_type)), values)


def _check_schedule(schedule: str, values: Any) -> None:
    given, needed = values.lr_scheduler_kwargs or {}, NEEDED.get(schedule, ())
    if needed and not any(name in given for name in needed):
        raise ArgumentError(
            f"--lr_scheduler_type {schedule} needs {' or '.join(needed)}, for example "
            f"--lr_scheduler_kwargs '{{\"{needed[0]}\": {10 if 'steps' in needed[0] else 1e-05:g}}}'"
        )


def _shown(value: Any) -> str:
    items = value if isinstance(value, list | tuple) else [value]
    return " ".join(str(item).lower() if isinstance(item, bool) else str(item) for item in items)
