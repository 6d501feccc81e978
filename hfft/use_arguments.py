"""Options of the commands that use a finished run; see `hfft.arguments` for those of a run itself."""

from __future__ import annotations

from dataclasses import dataclass, field

from hfft.arguments import option
from hfft.errors import ArgumentError


@dataclass
class UseArguments:
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
class PredictArguments:
    """How to show predictions."""

    format: str = option("table", "What is printed.", ["table", "csv", "jsonl"])
    top_k: int = option(3, "How many labels to give per image, likeliest first.")

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ArgumentError(f"--top_k must be at least 1, not {self.top_k}")


@dataclass
class EvaluateArguments:
    """Which labelled images, and where the figures go. Without any: the test images of the embedded ten animals."""

    dataset_name: str | None = option(None, "A Hub id, or a local folder that `datasets` can load.")
    dataset_config_name: str | None = option(None, "Configuration of the data set, where it has several.")
    split: str | None = option(None, "Split of the data set; by default its test split, or else its validation split.")
    validation_dir: str | None = option(None, "Folder with one folder of images per class.")
    max_eval_samples: int | None = option(None, "Use at most so many images, keeping the class shares.")
    image_column_name: str | None = option(None, "Column with the images, where it cannot be told by its type.")
    label_column_name: str | None = option(None, "Column with the labels, where it cannot be told by its type.")
    top_k: int = option(5, "The top-k accuracy counts so many labels per image.")
    seed: int = option(42, "Seed of the bootstrap and of the sample.")
    output_dir: str = option("outputs/evaluate", "Folder for evaluation.json, predictions.csv and the figures.")

    def __post_init__(self) -> None:
        if self.dataset_name and self.validation_dir:
            raise ArgumentError("--dataset_name and --validation_dir exclude each other")
        for name in ("top_k", "max_eval_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ArgumentError(f"--{name} must be at least 1, not {value}")


@dataclass
class MergeArguments:
    """Where the whole checkpoint goes, and where its base is."""

    output_dir: str = option("outputs/merged", "Folder for the whole checkpoint; it may be the delta's own.")
    base: str | None = option(None, "Folder or Hub id of the base model, if not where the delta says.")
    token: str | None = option(None, "Access token for the Hub; by default the one that `hf auth login` stored.")
    trust_remote_code: bool = option(False, "Run code that the base model's repository brings along.")


@dataclass
class ExportArguments:
    """What to export to, and how it is checked."""

    format: str = option("onnx", "File format.", ["onnx"])
    output_file: str | None = option(None, "The file to write; by default model.onnx in the run's folder.")
    images: str | None = option(
        None, "Image or folder for the check against PyTorch; by default the run's own, else the embedded ones."
    )
    check_images: int = option(16, "How many images the check uses.")
    tolerance: float = option(1e-4, "Largest difference of a logit that passes, as a share of the largest logit.")
    token: str | None = option(None, "Access token for the Hub; by default the one that `hf auth login` stored.")

    def __post_init__(self) -> None:
        if self.check_images < 1:
            raise ArgumentError(f"--check_images must be at least 1, not {self.check_images}")
        if self.tolerance < 0:
            raise ArgumentError(f"--tolerance must not be below 0, but is {self.tolerance}")


@dataclass
class PushArguments:
    """Where to push."""

    repo_id: str = field(metadata={"help": "Repository on the Hub, owner/name; the owner may be left out."})
    delta_only: bool = option(False, "Leave out the whole checkpoint; hfft applies the delta to the base model.")
    private: bool = option(False, "Make the repository private; refuse one that is public.")
    space: bool = option(False, "Create or update a Gradio Space for the model as well.")
    space_id: str | None = option(None, "The Space's id, owner/name; by default that of the model.")
    token: str | None = option(None, "Access token for the Hub; by default the one that `hf auth login` stored.")
