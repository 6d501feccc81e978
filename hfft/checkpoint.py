"""A finished model, in a folder or on the Hub: save it and load it again, whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from torch import nn
from transformers import AutoImageProcessor, AutoModelForImageClassification
from transformers.utils import logging

from hfft.arguments import ModelArguments
from hfft.errors import ModelError, OutputError
from hfft.model import load_pretrained
from hfft.sharing import state_to_save

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedModel

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")


def save_checkpoint(model: PreTrainedModel, processor: BaseImageProcessor, folder: Path) -> None:
    """Write model and processor so that stock transformers loads both with no hfft installed."""
    nn.Module.to(model, memory_format=torch.contiguous_format)
    model.eval()
    model.save_pretrained(folder, state_dict=state_to_save(model))
    processor.save_pretrained(folder)
    if not (folder / "preprocessor_config.json").exists():
        # timm's processor keeps itself in config.json alone; every other tool looks here.
        processor.to_json_file(folder / "preprocessor_config.json")


def load(
    path_or_repo: str | Path, revision: str | None = None, token: str | None = None, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Load a finished image classifier with its image processor.

    Args:
        path_or_repo: a folder, or a repository's id on the Hub.
        revision: branch, tag or commit on the Hub.
        token: access token for the Hub; by default the one that ``hf auth login`` stored.
        trust_remote_code: run code that the repository brings along.

    Returns:
        The model, on the CPU in eval mode, and the processor that it was trained with.

    Raises:
        ModelError: nothing is found there, or it is not whole: a tensor is missing or has another shape.

    Example:
        >>> model, processor = hfft.load("outputs/finetune")  # doctest: +SKIP
    """
    folder = fetch(path_or_repo, revision, token, trust_remote_code)
    return load_folder(folder, trust_remote_code)


def fetch(
    path_or_repo: str | Path, revision: str | None = None, token: str | None = None, trust_remote_code: bool = False
) -> Path:
    """Return the folder with a model's files, downloaded where it is on the Hub; never a pickle among them.

    Raises:
        ModelError: there is neither such a folder nor such a repository, or the Hub cannot be reached.
    """
    if Path(path_or_repo).is_dir():
        return Path(path_or_repo)
    patterns = ["*.json", *WEIGHTS, *(["*.py"] if trust_remote_code else [])]
    return _download(str(path_or_repo), revision, token, patterns)


def load_folder(folder: Path, trust_remote_code: bool = False) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Load a model and its processor from a folder; see `load`."""
    arguments = ModelArguments(model_name_or_path=str(folder), trust_remote_code=trust_remote_code)
    if not (folder / "config.json").exists():
        raise ModelError(f"{folder} holds no config.json, so no model; give a run's output folder or a Hub id")
    with _quiet_transformers():
        processor = load_pretrained(AutoImageProcessor, arguments)
        model, report = load_pretrained(
            AutoModelForImageClassification,
            arguments,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(f"{folder} holds no tensor {missing[0]!r} ({len(missing)} missing), so it is no whole model")
    model.eval()
    return model, processor


def make_output_folder(path: str | Path) -> Path:
    """Return a folder to write to, made where it is missing.

    Raises:
        OutputError: it cannot be made.
    """
    folder = Path(path).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}; choose another --output_dir") from error
    return folder


def _download(repo_id: str, revision: str | None, token: str | None, patterns: list[str]) -> Path:
    try:
        return Path(snapshot_download(repo_id, revision=revision, token=token, allow_patterns=patterns))
    except GatedRepoError as error:
        raise ModelError(f"{repo_id} is gated: ask for access on its page, then pass --token") from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        what = f"revision {revision!r} of {repo_id}" if isinstance(error, RevisionNotFoundError) else repo_id
        raise ModelError(
            f"there is neither a folder nor a Hub repository {what}, or the token may not see it; check the name"
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(
            f"{repo_id!r} is no folder, and cannot be fetched from the Hub: {_one_line(error)}; "
            "check the path, or the connection"
        ) from error


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No notes and no bars while a model loads: what matters comes as an error."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _one_line(error: Any) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
