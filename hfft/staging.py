"""Save a checkpoint beside the earlier one and swap them at the end, so that a full disk costs neither."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from safetensors import SafetensorError
from transformers import BaseImageProcessor, PreTrainedModel

from hfft.checkpoint import save_checkpoint
from hfft.errors import OutputError


def save_staged(model: PreTrainedModel, processor: BaseImageProcessor, folder: Path) -> None:
    """Write a checkpoint into `folder`; what lies there is replaced once all of it is written.

    Raises:
        OutputError: it cannot be written; the folder is as it was.
    """
    try:
        staging = Path(tempfile.mkdtemp(dir=folder, prefix=".saving-"))
        try:
            save_checkpoint(model, processor, staging)
            for file in staging.iterdir():
                os.replace(file, folder / file.name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise OutputError(
            f"cannot save the model in {folder}: {reason}; what was there is as it was. Free some room and run again: "
            "cached activations are kept"
        ) from error
