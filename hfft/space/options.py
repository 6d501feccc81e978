"""Options of ``hfft space`` and of the Space on the Hub."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hfft.arguments import option
from hfft.data.images import MAX_PIXELS
from hfft.errors import ArgumentError

if TYPE_CHECKING:
    from hfft.space.uploads import Limits


@dataclass
class SpaceArguments:
    """What is served, where, and how much a visitor may ask for."""

    model: str | None = option(
        None, "A run's folder or a Hub id. Left out: the environment's HFFT_MODEL, else the newest run of outputs."
    )
    outputs: str = option("outputs", "Folder whose runs can be chosen and compared.")
    host: str | None = option(
        None,
        "Address to listen on, 0.0.0.0 for every network interface; by default the environment's "
        "GRADIO_SERVER_NAME, which a Space on the Hub sets, else 127.0.0.1.",
    )
    port: int | None = option(None, "Port to listen on; by default the first free one from 7860.")
    share: bool = option(False, "Make a public link through Gradio's servers, for anyone who has it.")
    mcp: bool = option(
        False, "Offer tools to assistants by the Model Context Protocol; the environment's GRADIO_MCP_SERVER does too."
    )
    work_dir: str | None = option(
        None, "Where uploads and trainings have a folder, deleted at the end; by default the system's temporary folder."
    )
    max_upload_mb: int = option(200, "Maximum megabytes of one upload, and of what a zip unpacks to.")
    max_images: int = option(2000, "Maximum number of images of one training.")
    max_classes: int = option(50, "Maximum number of classes of one training.")
    max_epochs: int = option(20, "Maximum number of epochs of one training.")
    max_minutes: float = option(20.0, "Maximum minutes that one training may take.")
    max_waiting: int = option(8, "How many trainings may wait in the queue.")
    max_megapixels: int = option(MAX_PIXELS // 10**6, "Maximum megapixels of one image.")
    max_batch: int = option(64, "Maximum number of images of one batch to classify.")
    keep_minutes: int = option(60, "Minutes after which uploads and trained models that nobody uses are removed.")

    def __post_init__(self) -> None:
        self.model = self.model or os.environ.get("HFFT_MODEL") or None
        self.host = self.host or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"
        self.mcp = self.mcp or os.environ.get("GRADIO_MCP_SERVER", "").lower() == "true"
        for name in ("max_upload_mb", "max_images", "max_classes", "max_epochs", "max_megapixels", "max_batch"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"--{name} must be at least 1, not {getattr(self, name)}")
        if self.max_megapixels * 10**6 > MAX_PIXELS:
            raise ArgumentError(f"--max_megapixels must be at most {MAX_PIXELS // 10**6}, as for every image")
        if self.port is not None and not 1 <= self.port <= 65535:
            raise ArgumentError(f"--port must be from 1 to 65535, not {self.port}")
        for name in ("max_minutes", "keep_minutes"):
            if getattr(self, name) <= 0:
                raise ArgumentError(f"--{name} must be above 0, not {getattr(self, name)}")

    @property
    def limits(self) -> Limits:
        """What an upload may take."""
        from hfft.space.uploads import Limits

        pixels = self.max_megapixels * 1_000_000
        return Limits(self.max_upload_mb, self.max_images, self.max_classes, pixels, self.max_batch)
