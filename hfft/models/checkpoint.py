"""A finished model, in a folder or on the Hub: save it and load it again, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForImageClassification

from hfft.arguments import ModelArguments
from hfft.errors import ModelError, OutputError
from hfft.files import cannot_write, write_whole
from hfft.models.adapters import fold
from hfft.models.channels import check_channels, fit_channels
from hfft.models.delta import has_delta, load_delta
from hfft.models.download import DELTA, fetch, has_weights
from hfft.models.headless.backbones import encoder_of
from hfft.models.pretrained import load_config, load_pretrained, load_processor, quiet
from hfft.models.tensors import state_to_save
from hfft.output_folder import (
    ADAPTER,
    CLASSES,
    CODE,
    CONFIG,
    KNOWN,
    RECORD,
    RESULTS,
    WEIGHTS,
    claim,
    refuse_foreign,
    refuse_overlap,
    refuse_unnamable,
)

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedModel


BESIDE = ("config.json", "preprocessor_config.json", RECORD, "README.md", KNOWN, CLASSES)
"""What belongs to a checkpoint besides its tensors."""


def save_checkpoint(model: PreTrainedModel, processor: BaseImageProcessor, folder: Path) -> None:
    """Write model and processor so that stock transformers loads both with no hfft installed, adapters folded in."""
    fold(model)
    nn.Module.to(model, memory_format=torch.contiguous_format)
    model.eval()
    with quiet():
        model.save_pretrained(folder, state_dict=state_to_save(model))
        processor.save_pretrained(folder)
    if not (folder / "preprocessor_config.json").exists():
        # timm's processor keeps itself in config.json alone; every other tool looks here.
        processor.to_json_file(folder / "preprocessor_config.json")


def load(
    path_or_repo: str | Path,
    revision: str | None = None,
    token: str | None = None,
    trust_remote_code: bool = False,
    base: str | None = None,
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Load a finished image classifier with its image processor.

    Where there is no whole checkpoint but a delta, or the adapters of ``--policy lora``, the base model is fetched,
    held against the hash that lies beside them, and they are applied to it.

    Args:
        path_or_repo: a folder, or a repository's id on the Hub.
        revision: branch, tag or commit on the Hub.
        token: access token for the Hub; by default the one that ``hf auth login`` stored.
        trust_remote_code: run code that the repository brings along.
        base: where a delta's base model lies, if not where the delta says.

    Returns:
        The model, on the CPU in eval mode, and the processor that it was trained with.

    Raises:
        ModelError: nothing is found there, it is not whole (a tensor is missing or has another shape), or it reads
            neither 1 nor 3 channels.

    Example:
        >>> model, processor = hfft.load("outputs/photos")
        >>> sorted(model.config.label2id), model.training
        (['blue', 'green', 'red'], False)
    """
    folder = fetch(path_or_repo, revision, token, trust_remote_code)
    return load_folder(folder, token, trust_remote_code, base)


def load_folder(
    folder: Path, token: str | None = None, trust_remote_code: bool = False, base: str | None = None
) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """Load a model and its processor from a folder, see `load`; the token is for the base of a delta."""
    if not (folder / "config.json").exists():
        raise ModelError(f"{folder} holds no config.json, so no model; give a run's output folder or a Hub id")
    if not has_weights(folder):
        if not has_delta(folder):
            raise ModelError(f"{folder} holds neither model.safetensors nor {DELTA}; other files are never read")
        return load_delta(folder, base, token, trust_remote_code)
    arguments = ModelArguments(model_name_or_path=str(folder), trust_remote_code=trust_remote_code)
    config = load_config(arguments)
    check_channels(config, str(folder))  # before weights are read
    if not trust_remote_code and encoder_of(config, str(folder)) is not None:
        raise ModelError(
            f"{folder} holds a {config.model_type} model without a classifier; give it one with hfft finetune "
            f"--model_name_or_path {folder}"
        )
    processor = load_processor(arguments)
    model, report = load_pretrained(
        AutoModelForImageClassification,
        arguments,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
    )
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"{folder} holds no tensor {missing[0]!r} ({len(missing)} missing), so it is not a whole model"
        )
    fit_channels(processor, model.config, str(folder))
    model.eval()
    return model, processor


def merge(
    delta_folder: str | Path,
    output_dir: str | Path,
    base: str | None = None,
    token: str | None = None,
    trust_remote_code: bool = False,
) -> Path:
    """Write the whole checkpoint that a delta or adapters and their base model make, which stock transformers loads.

    Args:
        delta_folder: a folder with a delta, or a repository's id on the Hub.
        output_dir: where to; it may be the delta's own folder.
        base: where the base model lies, if not where the delta says.
        token: access token for the Hub.
        trust_remote_code: run code that the repositories bring along.

    Returns:
        The folder written to.

    Raises:
        ModelError: delta or base cannot be loaded or do not belong together.
        OutputError: the folder holds a checkpoint already, or cannot be written.
    """
    source = fetch(delta_folder, None, token, trust_remote_code)
    output = Path(output_dir).expanduser()
    if has_weights(output):
        raise OutputError(f"{output} holds a checkpoint already; choose another --output_dir")
    if not has_delta(source):
        raise ModelError(f"{source} holds no {DELTA} and no {ADAPTER}; give the folder or the Hub id of a delta")
    refuse_overlap(output, {"base": base})
    if not (output.is_dir() and output.samefile(source)):
        refuse_foreign(output, RESULTS)
    model, processor = load_delta(source, base, token, trust_remote_code)
    make_output_folder(output)
    beside = {name: (source / name).read_bytes() for name in BESIDE if (source / name).exists()}
    try:
        save_checkpoint(model, processor, output)
        for name, content in beside.items():
            # The run's own files, to the byte: saving a loaded configuration may leave out what is not the model's.
            write_whole(output / name, content)
        weights = [file.name for pattern in (*WEIGHTS, CODE) for file in output.glob(pattern)]
        claim(output, [*beside, CONFIG, "preprocessor_config.json", *weights])
    except (OSError, SafetensorError) as error:
        raise cannot_write(f"the checkpoint to {output}", error) from error
    return output


def make_output_folder(path: str | Path) -> Path:
    """Return a folder to write to, made where it is missing.

    Raises:
        OutputError: it cannot be made.
    """
    folder = Path(path).expanduser()
    refuse_unnamable(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}; choose another --output_dir") from error
    return folder
