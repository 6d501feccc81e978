"""Options of the commands that use a finished run; see `hfft.arguments` for those of a run itself."""

from __future__ import annotations

from dataclasses import dataclass

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
