"""The options of a training run: transformers' TrainingArguments, and hfft's own beside them."""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from transformers import TrainingArguments

from hfft.arguments.augmentation import parse_frofa
from hfft.arguments.groups import EPOCHS, LEARNING_RATE, OWN_GROUPS, option
from hfft.errors import ArgumentError
from hfft.training_flags import SMALLER_IS_BETTER, check_flags


class Epochs(float):
    """A number of epochs that the number of images decides: ``auto``; a number that is given is a plain float.

    Until the images are known it is worth `EPOCHS`.
    """

    def __new__(cls, value: str | float) -> Any:
        """Turn what a flag says into a plain number, or into one that stands for ``auto``.

        Raises:
            ArgumentError: it is neither.
        """
        if value == "auto":
            return cls.of(EPOCHS)
        try:
            return float(value)
        except ValueError:
            raise ArgumentError(f"--num_train_epochs must be a number or auto, not {value!r}") from None

    @classmethod
    def of(cls, number: float) -> Epochs:
        """Return ``auto`` with the number that was decided."""
        return super().__new__(cls, number)

    def __str__(self) -> str:
        return "auto"

    def __reduce__(self) -> tuple[Any, tuple[float]]:
        return Epochs.of, (float(self),)


AUTO_EPOCHS = Epochs.of(EPOCHS)

if TYPE_CHECKING:  # to whoever gives or reads it, it is a number
    EpochsOption = float
else:
    EpochsOption = Epochs


@dataclass
class FinetuneArguments(TrainingArguments):
    """transformers' TrainingArguments under their own names, with defaults for partial fine-tuning."""

    _argument_group_name = "training (TrainingArguments of transformers, and what hfft adds to them)"  # of the help

    output_dir: str | None = option("outputs/finetune", "Folder for everything that the run writes.")
    overwrite_output_dir: bool = option(False, "Replace the run that the output folder holds.")
    num_train_epochs: EpochsOption = option(  # noqa: RUF009  (numbers do not change)
        AUTO_EPOCHS,
        "Passes over the training images; auto makes about 160 steps on small sets (5 to 40 passes), in batches of an "
        "eighth of the images at most, and 5 passes on large ones, and hands back the linear probe where it is better.",
    )
    per_device_train_batch_size: int = option(32, "Training images per step and process.")
    per_device_eval_batch_size: int = option(64, "Evaluation images per step and process.")
    learning_rate: float = option(LEARNING_RATE, "Peak learning rate of the retrained blocks.")
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
        "auto",
        "Which weights to hand back: the best epoch's on validation, the last, or auto: the last where fewer than 100 "
        "validation images would choose, unless a metric, a patience or a known start asks for the best.",
        ["auto", "best", "last"],
    )
    early_stopping_patience: int | None = option(
        None, "End a phase after this many evaluations without a new best of the deciding metric; by default never."
    )
    mixup: float = option(
        0.0,
        "MixUp: alpha of the mixing shares, for example 0.2. Activations are mixed at the boundary, pixels where the "
        "model cannot be cut (Zhang et al. 2018; Verma et al. 2019).",
    )
    cutmix: float = option(
        0.0,
        "CutMix: alpha of the areas that another image fills, for example 1.0; at the boundary, where that is a grid. "
        "With --mixup as well, each batch gets one of the two (Yun et al. 2019).",
    )
    frofa: str = option(
        "none",
        "Frozen feature augmentation: change each channel of what the frozen part gives, by brightness, contrast and "
        "posterise with commas between them, for example brightness:0.5,posterise:4 (Bär et al. 2024).",
    )
    flip_maps: bool = option(
        False,
        "Flip activations left to right, half of the time, in place of images; refused where they differ too much from "
        "those of flipped images (Lenc and Vedaldi 2015).",
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
    calibration_folds: int | None = option(
        None,
        "Where no validation set is given: repeat the training on cached activations, each time without one fold of "
        "the training images, and fit the temperature to the answers on the folds left out; by default 3 folds up to "
        "500 training images, else 0 (off).",
    )
    find_lr: bool = option(
        False, "Find the learning rate of each phase by a range test of 100 steps, in place of --learning_rate."
    )
    do_train: bool = option(True, "Taken for granted; --do_eval and --do_predict as well.")
    remove_unused_columns: bool = option(False, "Only false: hfft's batches hold nothing but model inputs.")
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
        if self.bf16 and not torch.accelerator.is_available():
            self.use_cpu = True  # else transformers refuses, and asks for that
        if not torch.cuda.is_available():
            self.dataloader_pin_memory = False
        self._read_json()
        check_flags(self)
        self._check_machine(torch.cuda.is_available() and not self.use_cpu)
        for name, value in vars(self).items():
            if isinstance(value, float) and math.isnan(value):
                raise ArgumentError(f"--{name} must be a number, not nan")
        if not 0 < self.learning_rate < math.inf:
            raise ArgumentError(f"--learning_rate must be above 0, not {self.learning_rate}")
        if isinstance(self.num_train_epochs, str):  # from Python, where no parser has read it
            self.num_train_epochs = Epochs(self.num_train_epochs)
        if not 0 < self.num_train_epochs < math.inf:
            raise ArgumentError(f"--num_train_epochs must be above 0, not {self.num_train_epochs}")
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"--{name} must be at least 1, not {getattr(self, name)}")
        self._check_own()
        self._choose_best()
        super().__post_init__()  # type: ignore[no-untyped-call]

    @property
    def auto_epochs(self) -> bool:
        """Whether the number of images decides how much is trained."""
        return isinstance(self.num_train_epochs, Epochs)

    def to_dict(self) -> dict[str, Any]:
        """Return every option as a YAML file would hold it."""
        options: dict[str, Any] = super().to_dict()  # type: ignore[no-untyped-call]
        return {**options, "num_train_epochs": "auto" if self.auto_epochs else self.num_train_epochs}

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
        given: object = self.lr_scheduler_kwargs
        if not isinstance(given, dict | None):
            raise ArgumentError(
                f"--lr_scheduler_kwargs must map names to values, as in '{{\"min_lr\": 1e-5}}', not {given!r}"
            )

    def _choose_best(self) -> None:
        """Let the Trainer's options for the best weights decide ``--keep best``, which keeps them in memory."""
        if self.load_best_model_at_end:
            if self.keep == "last":
                raise ArgumentError("--load_best_model_at_end true and --keep last exclude each other")
            self.keep, self.metric_for_best_model = "best", self.metric_for_best_model or "loss"
            self.load_best_model_at_end = False
        if self.metric_for_best_model is None:
            if self.greater_is_better is not None:
                raise ArgumentError("--greater_is_better needs --metric_for_best_model beside it")
            return
        self.metric_for_best_model = self.metric_for_best_model.removeprefix("eval_")
        if self.greater_is_better is None:
            self.greater_is_better = self.metric_for_best_model not in SMALLER_IS_BETTER
        if self.lr_scheduler_type in ("reduce_lr_on_plateau", "greedy"):
            mode = "max" if self.greater_is_better else "min"
            assert not isinstance(self.lr_scheduler_kwargs, str)  # read already
            self.lr_scheduler_kwargs = {"mode": mode, **(self.lr_scheduler_kwargs or {})}

    def _check_own(self) -> None:
        if self.early_stopping_patience is not None and self.early_stopping_patience < 1:
            raise ArgumentError(f"--early_stopping_patience must be at least 1, not {self.early_stopping_patience}")
        if self.early_stopping_patience is not None and self.eval_strategy == "no":
            raise ArgumentError("--early_stopping_patience needs evaluations: leave out --eval_strategy no")
        if self.calibration_folds is not None and (self.calibration_folds < 0 or self.calibration_folds == 1):
            raise ArgumentError(f"--calibration_folds must be 0 or at least 2, not {self.calibration_folds}")
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ArgumentError(f"--{name} must not be below 0 nor infinite, but is {getattr(self, name)}")
        parse_frofa(self.frofa)
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ArgumentError(f"--ema_decay must lie between 0 and 1, not {self.ema_decay}")


RUN_ARGUMENTS = (*OWN_GROUPS, FinetuneArguments)
"""The groups that make up every option of a run, in the order of `hfft.training.setup.Settings`."""
