"""Every option of hfft, each defined once: the dataclasses that flags, YAML keys and keywords come from."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

from hfft.errors import ArgumentError
from hfft.training_flags import SMALLER_IS_BETTER, check_flags


def option(default: Any, text: str, choices: list[str] | None = None) -> Any:
    """A dataclass field with its help text, as HfArgumentParser reads it."""
    metadata: dict[str, Any] = {"help": text}
    if choices:
        metadata["choices"] = choices
    return field(default=default, metadata=metadata)


@dataclass
class ModelArguments:
    """Which model, and who describes it."""

    model_name_or_path: str | None = option(
        None, "A Hub id or a folder. Left out: the embedded EfficientNet-Lite0 with ImageNet weights."
    )
    model_revision: str = option("main", "Branch, tag or commit of the model on the Hub.")
    token: str | None = option(None, "Access token for the Hub; by default the one that `hf auth login` stored.")
    trust_remote_code: bool = option(False, "Run code that the model's repository brings along.")
    allow_pickle: bool = option(
        False, "Where there is no safetensors file, read the tensors in pytorch_model.bin, which is a pickle."
    )
    image_size: int | None = option(
        None, "Height and width in pixels that images are resized to, where not the model's own."
    )
    plugin: str | None = option(None, "Name of the plugin to use where several know the model.")
    anatomy: str | None = option(None, "YAML file that describes the model's parts, in place of a plugin.")
    image_processor_name: str | None = option(
        None, "A Hub id or a folder to take the image processor from, where not the model's own."
    )
    config_name: str | None = option(None, "Must be the model, if given: a checkpoint's configuration is its own.")
    ignore_mismatched_sizes: bool = option(
        True, "Taken for granted: a head for other classes than the checkpoint's is drawn anew."
    )

    def __post_init__(self) -> None:
        if self.config_name not in (None, self.model_name_or_path):
            raise ArgumentError(
                f"--config_name {self.config_name} is not --model_name_or_path: the configuration of a checkpoint is "
                "its own; leave it out"
            )
        if self.image_processor_name is not None and self.model_name_or_path is None:
            raise ArgumentError("--image_processor_name needs --model_name_or_path beside it")


@dataclass
class DataArguments:
    """Which images, and how they are read. Left out altogether: the embedded ten animals."""

    dataset_name: str | None = option(
        None,
        "A Hub id, a folder that `datasets` can load or that holds WebDataset shards, a zip or tar of class folders, "
        "or a CSV, JSON lines or Parquet file with a column of paths.",
    )
    dataset_config_name: str | None = option(None, "Configuration of the data set, where it has several.")
    streaming: bool = option(
        False, "Read the data set from the Hub as a stream, and only as many images as --max_*_samples say."
    )
    train_dir: str | None = option(None, "Folder with one folder of training images per class.")
    validation_dir: str | None = option(
        None, "The same for validation; left out, a share of the training images is used."
    )
    test_dir: str | None = option(None, "The same for a test at the very end; never used to choose anything.")
    train_val_split: float = option(
        0.15, "Share of the training images to validate on where no validation set is given."
    )
    max_train_samples: int | None = option(None, "Maximum number of training images, keeping the class shares.")
    max_eval_samples: int | None = option(
        None, "Maximum number of validation and test images, keeping the class shares."
    )
    image_column_name: str | None = option(None, "Column with the images, where it cannot be told by its type.")
    label_column_name: str | None = option(None, "Column with the labels, where it cannot be told by its type.")
    on_bad_image: str = option(
        "error",
        "What an image that cannot be read does: end the run, or be left out and listed in hfft.json (all images "
        "are decoded once for that).",
        ["error", "skip"],
    )
    augment: str = option("none", "Random augmentation of the training images, seeded.", ["none", "flip", "crop"])
    views: int = option(4, "How many augmented views of each image there are; epoch e trains on view e modulo this.")

    def __post_init__(self) -> None:
        if self.dataset_name and (self.train_dir or self.validation_dir or self.test_dir):
            raise ArgumentError("--dataset_name and --train_dir, --validation_dir or --test_dir exclude each other")
        if (self.validation_dir or self.test_dir) and not self.train_dir:
            raise ArgumentError("--validation_dir and --test_dir need --train_dir beside them")
        if not 0 < self.train_val_split < 1:
            raise ArgumentError(f"--train_val_split must lie between 0 and 1, not {self.train_val_split}")
        for name in ("max_train_samples", "max_eval_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ArgumentError(f"--{name} must be at least 1, not {value}")
        if self.views < 1:
            raise ArgumentError(f"--views must be at least 1, not {self.views}")


@dataclass
class PolicyArguments:
    """What is trained, and how fast each part learns."""

    policy: str = option(
        "last_block",
        "What is trained: head, last_block, last_n:K, full, norm, bias, attention, surgical:first|middle|last, or in "
        "phases: lp_ft[:last_block|full], gradual[:N], auto_rgn, or the policy of an installed package.",
    )
    head_lr_scale: float = option(
        5.0, "Factor on the learning rate of the head in the first phase, where it starts from nothing."
    )
    layer_decay: float = option(1.0, "Factor on the learning rate for each block further from the head.")

    def __post_init__(self) -> None:
        for name in ("head_lr_scale", "layer_decay"):
            if getattr(self, name) <= 0:
                raise ArgumentError(f"--{name} must be above 0, not {getattr(self, name)}")


@dataclass
class CacheArguments:
    """The activations of the frozen prefix: computed once, then read."""

    cache: str = option(
        "auto",
        "Where activations are kept: memory, disk, off, or auto: on disk while there is room, and in memory as well "
        "while they fit half of what is free.",
        ["auto", "memory", "disk", "off"],
    )
    cache_dir: str | None = option(None, "Folder of the disk cache; by default ~/.cache/hfft.")
    cache_max_gb: float | None = option(
        None, "Most gigabytes that activations may take; by default half of what is free."
    )
    cache_dtype: str = option(
        "auto",
        "Number format of the cached activations; auto keeps the model's own, int8 takes a quarter of float32.",
        ["auto", "float32", "bfloat16", "float16", "int8"],
    )
    memory_format: str = option(
        "auto",
        "Memory format of convolutions: auto takes channels_last, which was measured to be the faster one.",
        ["auto", "contiguous", "channels_last"],
    )
    class_token_shortcut: bool = option(
        True, "Compute only the class token in the last block where the head reads nothing else."
    )
    prefix_engine: str = option(
        "auto",
        "What computes the frozen prefix: torch, compile (inductor), onnxruntime, openvino, or auto: the fastest of "
        "those installed, where it saves more time than it takes to set up (docs/engines.md).",
        ["auto", "torch", "compile", "onnxruntime", "openvino"],
    )
    engine_tolerance: float = option(
        1e-4, "Largest difference of an engine's activations from torch's, relative to the largest activation."
    )
    exact: bool = option(
        False, "Nothing within a tolerance: torch computes the frozen prefix, and every JPEG is decoded whole."
    )

    def __post_init__(self) -> None:
        if self.engine_tolerance <= 0:
            raise ArgumentError(f"--engine_tolerance must be above 0, not {self.engine_tolerance}")
        if self.exact and self.prefix_engine not in ("auto", "torch"):
            raise ArgumentError(f"--exact computes with torch: leave out --prefix_engine {self.prefix_engine}")
        if self.cache_max_gb is not None and self.cache_max_gb <= 0:
            raise ArgumentError(f"--cache_max_gb must be above 0, not {self.cache_max_gb}")


@dataclass
class FinetuneArguments(TrainingArguments):
    """transformers' TrainingArguments under their own names, with defaults for partial fine-tuning."""

    output_dir: str | None = option("outputs/finetune", "Folder for everything that the run writes.")
    overwrite_output_dir: bool = option(False, "Replace the run that the output folder holds.")
    num_train_epochs: float = option(5.0, "Passes over the training images.")
    per_device_train_batch_size: int = option(32, "Training images per step and process.")
    per_device_eval_batch_size: int = option(64, "Evaluation images per step and process.")
    learning_rate: float = option(5e-4, "Peak learning rate of the retrained blocks.")
    lr_scheduler_type: str = option("cosine", "Schedule of the learning rate.")
    warmup_steps: float = option(0.1, "Steps, or share of all steps, in which the learning rate rises to its peak.")
    weight_decay: float = option(0.05, "Decoupled weight decay (AdamW), on matrices and convolutions only.")
    bf16: bool | None = option(  # type: ignore[assignment]  # None: decided in __post_init__
        None, "Mixed precision in bfloat16; by default on where a GPU supports it."
    )
    eval_strategy: str = option("epoch", "When to evaluate.")
    logging_strategy: str = option("epoch", "When to log the training loss.")
    save_strategy: str = option("no", "When to save a checkpoint to resume from; the result is always saved.")
    save_total_limit: int | None = option(1, "How many checkpoints to keep.")
    baselines: str = option(
        "probe",
        "What the result is compared with: none, probe (the commonest class, and a logistic regression on the "
        "pretrained features, within seconds), or full (full fine-tuning as well).",
        ["none", "probe", "full"],
    )
    figures: bool = option(
        True,
        "Draw curves, confusion matrix, reliability and the most confident mistakes; the figures of `hfft sweep` "
        "compare its runs instead.",
    )
    keep: str = option(
        "best", "Which weights to hand back: the best epoch's on validation, or the last.", ["best", "last"]
    )
    early_stopping_patience: int | None = option(
        None, "End a phase after so many evaluations without a new best accuracy; never if not given."
    )
    mixup: float = option(
        0.0, "MixUp: alpha of the mixing shares, for example 0.2. Cached activations are mixed at the boundary."
    )
    class_weights: str = option(
        "none",
        "Weigh each class in the training loss: none, or balanced, for classes of unequal size.",
        ["none", "balanced"],
    )
    ema_decay: float | None = option(
        None,
        "Evaluate and hand back an exponential moving average of the weights, for example 0.99; none if not given.",
    )
    find_lr: bool = option(
        False, "Find the learning rate of each phase by a range test of 100 steps, in place of --learning_rate."
    )
    do_train: bool = option(True, "Taken for granted; --do_eval and --do_predict as well.")
    remove_unused_columns: bool = option(False, "Ignored; hfft batches contain only model inputs.")
    ddp_find_unused_parameters: bool | None = option(
        False, "Off: the frozen set is fixed, so the search only costs time."
    )

    def __post_init__(self) -> None:
        import torch

        if str(self.resume_from_checkpoint).lower() in ("false", ""):
            self.resume_from_checkpoint = None  # a text, so "false" would count as true wherever it is asked
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available():
            self.use_cpu = True  # else each process would assume it is the only one
        self._read_launcher()
        if self.bf16 is None:
            cuda = torch.cuda.is_available() and not self.use_cpu and not self.fp16
            self.bf16 = cuda and torch.cuda.is_bf16_supported()
        if not torch.cuda.is_available():
            self.dataloader_pin_memory = False
        self._read_json()
        check_flags(self)
        self._check_machine(torch.cuda.is_available() and not self.use_cpu)
        if self.learning_rate <= 0:
            raise ArgumentError(f"--learning_rate must be above 0, not {self.learning_rate}")
        if self.num_train_epochs <= 0:
            raise ArgumentError(f"--num_train_epochs must be above 0, not {self.num_train_epochs}")
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"--{name} must be at least 1, not {getattr(self, name)}")
        self._check_own()
        self._choose_best()
        super().__post_init__()  # type: ignore[no-untyped-call]

    def _read_launcher(self) -> None:
        """Take over what `accelerate launch` was told: the cache must know how training computes."""
        precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
        if precision not in ("no", "bf16", "fp16"):
            raise ArgumentError(f"accelerate's --mixed_precision {precision} is not supported: give bf16, fp16 or no")
        if self.bf16 is None and not self.fp16 and precision != "no":
            self.bf16, self.fp16 = precision == "bf16", precision == "fp16"
        backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()
        if backend != "no" and self.torch_compile_backend is None:
            self.torch_compile_backend = backend

    def _check_machine(self, cuda: bool) -> None:
        if self.fp16 and not cuda:
            raise ArgumentError("--fp16 true needs a GPU; on a CPU use --bf16 true, or neither")
        if self.ddp_backend is not None and int(os.environ.get("WORLD_SIZE", "1")) < 2:
            raise ArgumentError(
                f"--ddp_backend {self.ddp_backend} is for several processes, and this is one; start N with torchrun "
                "--nproc_per_node N (docs/distributed.md)"
            )
        if self.ddp_backend not in (None, "gloo", "mpi") and not cuda:
            raise ArgumentError(f"--ddp_backend {self.ddp_backend} needs GPUs; on CPUs give gloo, or leave it out")
        compiles = self.torch_compile or self.torch_compile_backend or self.torch_compile_mode
        inductor = self.torch_compile_backend in (None, "inductor")
        if compiles and inductor and not cuda and not shutil.which(os.environ.get("CXX", "g++")):
            raise ArgumentError("--torch_compile true needs a C++ compiler; install g++, or leave it out")

    def _read_json(self) -> None:
        """Read what TrainingArguments reads itself, but only after the checks."""
        if isinstance(self.lr_scheduler_kwargs, str):
            try:
                self.lr_scheduler_kwargs = json.loads(self.lr_scheduler_kwargs)
            except ValueError as error:
                raise ArgumentError(f"--lr_scheduler_kwargs is not JSON: {error}") from error

    def _choose_best(self) -> None:
        """Let the Trainer's options for the best weights decide ``--keep best``, which keeps them in memory."""
        if self.load_best_model_at_end:
            if self.keep == "last":
                raise ArgumentError("--load_best_model_at_end true and --keep last exclude each other")
            self.metric_for_best_model = self.metric_for_best_model or "loss"
            self.load_best_model_at_end = False
        if self.metric_for_best_model is None and self.save_strategy == "best":
            self.metric_for_best_model = "accuracy"
        if self.metric_for_best_model is None:
            if self.greater_is_better is not None:
                raise ArgumentError("--greater_is_better needs --metric_for_best_model beside it")
            return
        self.metric_for_best_model = self.metric_for_best_model.removeprefix("eval_")
        if self.greater_is_better is None:
            self.greater_is_better = self.metric_for_best_model not in SMALLER_IS_BETTER
        if self.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy"):
            mode = "max" if self.greater_is_better else "min"
            given = self.lr_scheduler_kwargs
            self.lr_scheduler_kwargs = {"mode": mode, **(json.loads(given) if isinstance(given, str) else given or {})}

    def _check_own(self) -> None:
        if self.early_stopping_patience is not None and self.early_stopping_patience < 1:
            raise ArgumentError(f"--early_stopping_patience must be at least 1, not {self.early_stopping_patience}")
        if self.early_stopping_patience is not None and self.eval_strategy == "no":
            raise ArgumentError("--early_stopping_patience needs evaluations: leave out --eval_strategy no")
        if self.mixup < 0:
            raise ArgumentError(f"--mixup must not be below 0, but is {self.mixup}")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ArgumentError(f"--ema_decay must lie between 0 and 1, not {self.ema_decay}")


RUN_ARGUMENTS = (ModelArguments, DataArguments, PolicyArguments, CacheArguments, FinetuneArguments)
"""The groups that make up every option of a run, in the order of `hfft.training.setup.Settings`."""


@dataclass
class PlanArguments:
    """How to show a plan."""

    num_train_epochs: float = option(FinetuneArguments.num_train_epochs, "Passes over the training images.")
    learning_rate: float = option(FinetuneArguments.learning_rate, "Peak learning rate of the retrained blocks.")

    json: bool = option(False, "Print JSON, for programs.")
    suggest_anatomy: bool = option(
        False, "Print a starting point for --anatomy FILE.yaml, found from a recorded forward, and nothing else."
    )


@dataclass
class CheckArguments:
    """How findings are shown, and which of them fail."""

    json: bool = option(False, "Print JSON with every file of every finding, for programs.")
    strict: bool = option(False, "Exit with 1 for warnings as well as for errors.")


@dataclass
class CacheToolArguments:
    """Which cache folder, and how much of it to keep."""

    cache_dir: str | None = option(None, "Folder of the disk cache; by default ~/.cache/hfft.")
    keep_gb: float = option(0.0, "For prune: keep the most recently used entries up to so many gigabytes.")


@dataclass
class FillArguments:
    """Which part of a cache to fill."""

    shard: str = option("1/1", "Part i of n of the activations, as i/n; parts need not know of each other.")


@dataclass
class PluginCheckArguments:
    """Which model to check a plugin on."""

    model: str | None = option(None, "A Hub id or a folder; left out: the embedded model.")


@dataclass
class CheckpointArguments:
    """Which finished model, and how fast it works."""

    model: str | None = option(
        None, "A run's output folder or a Hub id. Left out: the embedded model with its 1000 ImageNet classes."
    )
    revision: str | None = option(None, "Branch, tag or commit of the model on the Hub.")
    token: str | None = option(None, "Access token for the Hub; by default the one that `hf auth login` stored.")
    trust_remote_code: bool = option(False, "Run code that the model's repository brings along.")
    batch_size: int = option(32, "Images per forward pass.")

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ArgumentError(f"--batch_size must be at least 1, not {self.batch_size}")
