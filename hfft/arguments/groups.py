"""Options of hfft's own, each defined once; nothing here imports a library."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field
from typing import Any

from hfft.arguments.augmentation import AUGMENTATIONS
from hfft.errors import ArgumentError

EPOCHS, LEARNING_RATE = 5.0, 5e-4
"""Defaults of a run, which `hfft plan` shows."""


def option(default: Any, text: str, choices: list[str] | None = None) -> Any:
    """A dataclass field with its help text, as HfArgumentParser reads it."""
    metadata: dict[str, Any] = {"help": text}
    if choices:
        metadata["choices"] = choices
    return field(default=default, metadata=metadata)


@dataclass
class ModelArguments:
    """Which model, and who describes it."""

    _argument_group_name = "model"  # of the help

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
        None, "Resize images to this height and width in pixels, in place of the model's own."
    )
    plugin: str | None = option(None, "Name of the plugin to use where several match the model.")
    anatomy: str | None = option(None, "YAML file that describes the model's parts, in place of a plugin.")
    image_processor_name: str | None = option(
        None, "A Hub id or a folder to take the image processor from; by default the model's own."
    )
    config_name: str | None = option(None, "If given, must be the model: a checkpoint's configuration is its own.")
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
        if self.image_size is not None and self.image_size < 1:
            raise ArgumentError(f"--image_size must be at least 1, not {self.image_size}")
        for name in ("model_name_or_path", "image_processor_name", "anatomy"):
            if (given := getattr(self, name)) is not None:
                setattr(self, name, os.path.expanduser(given))  # no shell has seen what stands in a YAML file


@dataclass
class DataArguments:
    """Which images, and how they are read. Left out altogether: the embedded ten animals."""

    _argument_group_name = "images and labels"  # of the help

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
        0.15,
        "Share of the training images to validate on where no validation set is given; each class gives one at least.",
    )
    max_train_samples: int | None = option(None, "Maximum number of training images, keeping the class shares.")
    max_eval_samples: int | None = option(
        None, "Maximum number of validation and test images, keeping the class shares."
    )
    image_column_name: str | None = option(None, "Column with the images, where it cannot be told by its type.")
    label_column_name: str | None = option(None, "Column with the labels, where it cannot be told by its type.")
    task: str = option(
        "auto",
        "What the labels mean (docs/tasks.md): one class for each image (single_label), one in a tree of classes "
        "(label_tree), any number of them (multi_label), or numbers (regression). auto tells by the labels, and says "
        "so where they are not single.",
        ["auto", "single_label", "label_tree", "multi_label", "regression"],
    )
    label_separator: str | None = option(
        None, "Separator between the labels of an image in a column of text, ',' for instance (multi_label)."
    )
    label_columns: list[str] | None = field(
        default=None,
        metadata={"help": "Columns that each hold one label as 1 or 0 (multi_label), or one number (regression)."},
    )
    label_tree: bool = option(
        False, "Classes are paths in a tree, 'dog/terrier', or folders in folders: the same as --task label_tree."
    )
    tree_threshold: float = option(
        0.8, "With a tree, the answer is its deepest node of at least this probability, between 0.5 and 1."
    )
    group_column: str | None = option(
        None, "Column that says which images belong together (a patient, a burst): a split keeps them on one side."
    )
    group_pattern: str | None = option(
        None,
        "The same from file names, as a regular expression: its first group, or all that it matches, for example "
        "'(patient[0-9]+)_'.",
    )
    on_bad_image: str = option(
        "error",
        "What to do about an image that cannot be read: end the run (error), or leave it out and list it in hfft.json "
        "(skip), for which all images are decoded once.",
        ["error", "skip"],
    )
    augment: str = option(
        "none",
        "Random augmentation of the training images, seeded, in as many views as --views says: flip, crop (and flip), "
        "randaugment (flip, and two changes of colour or shape; Cubuk et al. 2020), or jitter (flip, and brightness, "
        "contrast, saturation and hue).",
        list(AUGMENTATIONS),
    )
    views: int = option(4, "How many augmented views of each image there are; epoch e trains on view e modulo this.")

    def __post_init__(self) -> None:
        if self.dataset_name and (self.train_dir or self.validation_dir or self.test_dir):
            raise ArgumentError("--dataset_name and --train_dir, --validation_dir or --test_dir exclude each other")
        if (self.validation_dir or self.test_dir) and not self.train_dir:
            raise ArgumentError("--validation_dir and --test_dir need --train_dir beside them")
        self._check_labels()
        if not 0 < self.train_val_split < 1:
            raise ArgumentError(f"--train_val_split must lie between 0 and 1, not {self.train_val_split}")
        for name in ("max_train_samples", "max_eval_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ArgumentError(f"--{name} must be at least 1, not {value}")
        if self.group_column and self.group_pattern:
            raise ArgumentError("--group_column and --group_pattern exclude each other")
        if self.group_pattern:
            try:
                re.compile(self.group_pattern)
            except re.error as error:
                raise ArgumentError(
                    f"--group_pattern {self.group_pattern!r} is not a regular expression: {error}"
                ) from error
        if self.views < 1:
            raise ArgumentError(f"--views must be at least 1, not {self.views}")

    def _check_labels(self) -> None:
        if self.label_tree and self.task not in ("auto", "label_tree"):
            raise ArgumentError(f"--label_tree excludes --task {self.task}")
        if self.label_tree:
            self.task = "label_tree"
        if not 0.5 < self.tree_threshold < 1:
            raise ArgumentError(f"--tree_threshold must lie between 0.5 and 1, not {self.tree_threshold}")
        if self.label_columns and (self.label_column_name or self.label_separator):
            raise ArgumentError("--label_columns excludes --label_column_name and --label_separator")
        if self.label_columns and self.task in ("single_label", "label_tree"):
            raise ArgumentError("--label_columns is for --task multi_label or regression; name the one column")
        if self.label_separator is not None and self.task in ("single_label", "label_tree", "regression"):
            raise ArgumentError(f"--label_separator is for --task multi_label, not {self.task}")
        if self.label_separator == "":
            raise ArgumentError("--label_separator must not be empty; give for example ','")


@dataclass
class PolicyArguments:
    """What is trained, and how fast each part learns."""

    _argument_group_name = "what is trained"  # of the help

    policy: str = option(
        "last_block",
        "What is trained: head, last_block, last_n:K, full, norm, bias, attention, surgical:first|middle|last, "
        "lora[:last_n=K,r=R,alpha=A,dropout=P,dora=true] (low-rank adapters by PEFT), or in "
        "phases: lp_ft[:last_block|full], gradual[:N], auto_rgn, or the policy of an installed package; "
        "auto compares head, last_block, last_n:2 and lp_ft on the training images first (see hfft advise).",
    )
    head_init: str = option(
        "random",
        "What the head starts from: random numbers (or the checkpoint's head, where it knows the same classes), probe "
        "(the linear probe; epoch 0 is then evaluated too, and may be the best), ensemble (likewise, the mean of many "
        "linear heads of several rates, decays and seeds), or pretrained (the checkpoint's head, or an error).",
        ["random", "probe", "ensemble", "pretrained"],
    )
    head_lr_scale: float | None = option(
        None,
        "Factor on the learning rate of the head in the first phase, where it is new; by default 5 where the head is "
        "trained alone, and 1 beside blocks.",
    )
    layer_decay: float = option(1.0, "Factor on the learning rate for each block further from the head.")

    def __post_init__(self) -> None:
        for name in ("head_lr_scale", "layer_decay"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ArgumentError(f"--{name} must be above 0 and finite, not {value}")


@dataclass
class CacheArguments:
    """The activations of the frozen prefix: computed once, then read."""

    _argument_group_name = "activation cache"  # of the help

    cache: str = option(
        "auto",
        "Where activations are kept: gpu, memory, disk, off, or auto: on disk if there is room, and also on the GPU "
        "that trains if they fit a quarter of its free memory, else in memory if they fit half of what is free.",
        ["auto", "gpu", "memory", "disk", "off"],
    )
    cache_dir: str | None = option(None, "Folder of the disk cache; by default $HFFT_CACHE, else ~/.cache/hfft.")
    cache_max_gb: float | None = option(
        None, "Maximum size of the activations in gigabytes; by default half of what is free."
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
        False, "Allow no tolerance: torch computes the frozen prefix, and every JPEG is decoded whole."
    )

    def __post_init__(self) -> None:
        if not self.engine_tolerance > 0:
            raise ArgumentError(f"--engine_tolerance must be above 0, not {self.engine_tolerance}")
        if self.exact and self.prefix_engine not in ("auto", "torch"):
            raise ArgumentError(f"--exact computes with torch: leave out --prefix_engine {self.prefix_engine}")
        if self.cache_max_gb is not None and not self.cache_max_gb > 0:
            raise ArgumentError(f"--cache_max_gb must be above 0, not {self.cache_max_gb}")


OWN_GROUPS = (ModelArguments, DataArguments, PolicyArguments, CacheArguments)
"""The groups of a run's options beside those that `hfft.arguments.training` adds."""


@dataclass
class PlanArguments:
    """How to show a plan."""

    num_train_epochs: float = option(EPOCHS, "Passes over the training images.")
    learning_rate: float = option(LEARNING_RATE, "Peak learning rate of the retrained blocks.")
    suggest_anatomy: bool = option(
        False, "Print a starting point for --anatomy FILE.yaml, found from a recorded forward, and nothing else."
    )

    def __post_init__(self) -> None:
        for name in ("num_train_epochs", "learning_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise ArgumentError(f"--{name} must be above 0 and finite, not {getattr(self, name)}")


@dataclass
class AdviseArguments:
    """What is compared, and how it is shown."""

    policies: list[str] = field(
        default_factory=lambda: ["head", "last_block", "last_n:2", "lp_ft"],
        metadata={
            "help": "Policies to compare, with spaces or commas between them; full and others without a frozen part "
            "take long."
        },
    )
    models: list[str] = field(
        default_factory=list,
        metadata={"help": "Compare these pretrained models instead, by linear probes: folders or Hub ids."},
    )
    folds: int | None = option(None, "Folds of the cross-validation; by default 5 up to 500 images, else 3.")

    def __post_init__(self) -> None:
        if self.folds is not None and self.folds < 2:
            raise ArgumentError(f"--folds must be at least 2, not {self.folds}")


@dataclass
class ExtendArguments:
    """Which images join a finished run, and how."""

    train_dir: str | None = option(None, "Folder with one folder of new images per class, old classes or new ones.")
    validation_dir: str | None = option(
        None,
        "The same to measure with; left out, a share of the new images is held back, as in a run.",
    )
    dataset_name: str | None = option(
        None, "In place of --train_dir: a list as `hfft next` writes it, an archive, or whatever hfft finetune takes."
    )
    image_column_name: str | None = option(None, "Column with the images, where it cannot be told by its type.")
    label_column_name: str | None = option(None, "Column with the labels, where it cannot be told by its type.")
    output_dir: str | None = option(None, "Folder for the extended run; by default the run's own with -extended.")
    overwrite_output_dir: bool = option(False, "Replace the run that the output folder holds.")
    num_train_epochs: float = option(
        0.0,
        "Passes over old and new images together, starting from the extended head; 0 trains nothing: new classes join "
        "in closed form.",
    )
    learning_rate: float | None = option(None, "Peak learning rate of these passes; by default that of the run.")
    trust_remote_code: bool = option(
        False, "Run code that the run and its base model bring along; needed here even if the run was trained with it."
    )

    def __post_init__(self) -> None:
        if not (self.train_dir or self.dataset_name):
            raise ArgumentError("say where the new images are: --train_dir FOLDER or --dataset_name LIST")
        if not 0 <= self.num_train_epochs < math.inf:
            raise ArgumentError(f"--num_train_epochs must be finite and not below 0, but is {self.num_train_epochs:g}")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise ArgumentError(f"--learning_rate must be above 0 and finite, not {self.learning_rate}")


@dataclass
class CheckArguments:
    """Which findings fail."""

    strict: bool = option(False, "Exit with 1 for warnings as well as for errors.")


@dataclass
class CacheToolArguments:
    """Which cache folder, and how much of it to keep."""

    cache_dir: str | None = option(None, "Folder of the disk cache; by default $HFFT_CACHE, else ~/.cache/hfft.")
    keep_gb: float = option(0.0, "For prune: keep the most recently used entries, up to this many gigabytes.")

    def __post_init__(self) -> None:
        if not 0 <= self.keep_gb < math.inf:
            raise ArgumentError(f"--keep_gb must be finite and not below 0, but is {self.keep_gb:g}")


@dataclass
class FillArguments:
    """Which part of a cache to fill."""

    shard: str = option("1/1", "Part i of n of the activations, as i/n; parts need not know of each other.")


@dataclass
class PluginCheckArguments:
    """Which model to check a plugin on."""

    model: str | None = option(None, "A Hub id or a folder; left out: the embedded model.")
    revision: str | None = option(None, "Branch, tag or commit of the model on the Hub.")
    token: str | None = option(None, "Access token for the Hub; by default the one that `hf auth login` stored.")
    trust_remote_code: bool = option(False, "Run code that the model's repository brings along.")


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


@dataclass
class FeatureArguments:
    """Which model computes features."""

    model: str | None = option(
        None, "A run's output folder, a model's folder or a Hub id. Left out: the embedded EfficientNet-Lite0."
    )
    revision: str | None = option(None, "Branch, tag or commit of the model on the Hub.")
    token: str | None = option(None, "Access token for the Hub; by default the one that `hf auth login` stored.")
    trust_remote_code: bool = option(False, "Run code that the model's repository brings along.")


@dataclass
class EmbedArguments:
    """Which features, and where they go."""

    output: str = field(metadata={"help": "The file to write, FILE.parquet or FILE.safetensors."})
    block: str | None = option(
        None,
        "Part whose output is pooled: stem, block N or neck, as `hfft plan` names them. Left out: what the head reads.",
    )
    map: str | None = option(
        None, "File for a plot, .png: the images as points of a plane, coloured by label, a run's mistakes crossed."
    )
    projection: str = option(
        "pca",
        "What the plane is made of: pca (principal components) or umap (needs the package umap-learn).",
        choices=["pca", "umap"],
    )

    def __post_init__(self) -> None:
        check_ending("--output", self.output, (".parquet", ".safetensors"))
        if self.map is not None:
            check_ending("--map", self.map, (".png",))


@dataclass
class DepthArguments:
    """How accuracy over depth is measured, and where its figure goes."""

    output: str | None = option(None, "File for the figure, .png.")
    folds: int | None = option(None, "Folds of the cross-validation; by default 5 up to 500 images, else 3.")
    seed: int = option(0, "Seed of the folds.")

    def __post_init__(self) -> None:
        if self.folds is not None and self.folds < 2:
            raise ArgumentError(f"--folds must be at least 2, not {self.folds}")
        if self.output is not None:
            check_ending("--output", self.output, (".png",))


@dataclass
class LabelsArguments:
    """How findings are shown and where they go, or which of them are applied."""

    output: str | None = option(
        None, "File for all findings, .csv or .json; with --apply the new list, .csv or .parquet (fixed.csv)."
    )
    apply: str | None = option(
        None, "CSV of findings with decisions in its column action (keep, relabel, drop): write a new list by them."
    )
    seed: int = option(0, "Seed of the folds.")

    def __post_init__(self) -> None:
        if self.apply is None and self.output is not None:
            check_ending("--output", self.output, (".csv", ".json"))
        if self.apply is not None:
            check_ending("--apply", self.apply, (".csv",))
            check_ending("--output", self.new_list, (".csv", ".parquet"))

    @property
    def new_list(self) -> str:
        """Where the new list goes."""
        return self.output or "fixed.csv"


@dataclass
class NextArguments:
    """How many images to choose, and where they are listed."""

    count: int = option(20, "How many images to choose, those first that would teach the model most.")
    output: str | None = option(None, "File for the list, .csv or .json.")

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ArgumentError(f"--count must be at least 1, not {self.count}")
        if self.output is not None:
            check_ending("--output", self.output, (".csv", ".json"))


def check_ending(flag: str, path: str, endings: tuple[str, ...]) -> None:
    """Make sure that a file's ending says one of the formats that are written or read.

    Raises:
        ArgumentError: it does not.
    """
    if not path.lower().endswith(endings):
        raise ArgumentError(f"{flag} {path} must end in {' or '.join(endings)}")


@dataclass
class EvaluateArguments:
    """Which labelled images, and where the figures go. Without any: the run's own test or validation images."""

    dataset_name: str | None = option(None, "A Hub id, a folder, an archive or a table, as hfft finetune takes it.")
    dataset_config_name: str | None = option(None, "Configuration of the data set, where it has several.")
    split: str | None = option(
        None, "Split of the data set; by default the test split, else validation, else the only one."
    )
    validation_dir: str | None = option(None, "Folder with one folder of images per class.")
    max_eval_samples: int | None = option(None, "Maximum number of images to use, keeping the class shares.")
    image_column_name: str | None = option(None, "Column with the images, where it cannot be told by its type.")
    label_column_name: str | None = option(None, "Column with the labels, where it cannot be told by its type.")
    label_separator: str | None = option(
        None, "Separator between the labels of an image in a column of text, for a multi_label model."
    )
    label_columns: list[str] | None = field(
        default=None,
        metadata={
            "help": "Columns that each hold one label as 1 or 0, or one number; for a regression model its targets."
        },
    )
    top_k: int = option(5, "How many labels per image the top-k accuracy counts.")
    against: str | None = option(
        None, "Another finished model, a folder or a Hub id, to compare with on the same images."
    )
    folds: int | None = option(
        None,
        "Cross-validate the recipe of a finished run on its own training and validation images: train it this many "
        "times, each time without one fold, and predict that fold.",
    )
    seed: int = option(42, "Seed of the sample.")
    output_dir: str = option("outputs/evaluate", "Folder for evaluation.json, predictions.csv and the figures.")

    def __post_init__(self) -> None:
        if self.dataset_name and self.validation_dir:
            raise ArgumentError("--dataset_name and --validation_dir exclude each other")
        if self.folds is not None:
            self._check_folds(self.folds)
        for name in ("top_k", "max_eval_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ArgumentError(f"--{name} must be at least 1, not {value}")

    def _check_folds(self, folds: int) -> None:
        if folds < 2:
            raise ArgumentError(f"--folds must be at least 2, not {folds}")
        for name in ("dataset_name", "dataset_config_name", "split", "validation_dir", "max_eval_samples", "against"):
            if getattr(self, name) is not None:
                raise ArgumentError(f"--folds takes the images of the run itself; leave out --{name}")


@dataclass
class ExportArguments:
    """What to export to, and how it is checked."""

    to: list[str] = field(
        default_factory=lambda: ["onnx"],
        metadata={
            "help": "Formats, one or several; each goes into a folder of its name. executorch, coreml and tflite are "
            "refused, with the reason.",
            "choices": ["onnx", "openvino", "int8", "web", "executorch", "coreml", "tflite"],
        },
    )
    output_dir: str | None = option(None, "Folder for the exports; by default export in the run's folder.")
    images: str | None = option(
        None,
        "Image or folder for the check against PyTorch; by default the run's test or validation images, else the "
        "embedded ones.",
    )
    check_images: int = option(200, "How many images the check uses.")
    calibration_images: int = option(128, "How many training images int8 is calibrated with.")
    tolerance: float = option(0.01, "Largest difference of a probability that passes; int8 goes by accuracy.")
    token: str | None = option(None, "Access token for the Hub; by default the one that `hf auth login` stored.")
    trust_remote_code: bool = option(False, "Run code that the model's repository brings along.")

    def __post_init__(self) -> None:
        self.to = list(dict.fromkeys(self.to))
        for name in ("check_images", "calibration_images"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"--{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.tolerance < 1:
            raise ArgumentError(f"--tolerance must lie between 0 and 1, not {self.tolerance}")


@dataclass
class MergeArguments:
    """Where the whole checkpoint goes, and where its base is."""

    output_dir: str = option("outputs/merged", "Folder for the whole checkpoint; it may be the delta's own.")
    base: str | None = option(None, "Folder or Hub id of the base model, if not where the delta says.")
    token: str | None = option(None, "Access token for the Hub; by default the one that `hf auth login` stored.")
    trust_remote_code: bool = option(False, "Run code that the base model's repository brings along.")


@dataclass
class PushArguments:
    """Where to push."""

    repo_id: str = field(metadata={"help": "Repository on the Hub, owner/name; the owner may be left out."})
    delta_only: bool = option(False, "Leave out the whole checkpoint; hfft applies the delta to the base model.")
    private: bool = option(False, "Make the repository private; refuse one that is public.")
    space: bool = option(False, "Create or update a Gradio Space for the model as well.")
    space_id: str | None = option(None, "The Space's id, owner/name; by default that of the model.")
    token: str | None = option(None, "Access token for the Hub; by default the one that `hf auth login` stored.")


@dataclass
class PredictArguments:
    """How to show predictions."""

    format: str = option("table", "What is printed.", ["table", "csv", "jsonl"])
    top_k: int = option(3, "How many labels to give per image, most likely first.")
    coverage: float | None = option(
        None,
        "Also give each image a set of labels that holds the right one for this share of images like the validation "
        "images, 0.95 for instance (docs/trust.md).",
    )

    def __post_init__(self) -> None:
        if self.coverage is not None and not 0 < self.coverage < 1:
            raise ArgumentError(f"--coverage must lie between 0 and 1, not {self.coverage}")
        if self.top_k < 1:
            raise ArgumentError(f"--top_k must be at least 1, not {self.top_k}")
