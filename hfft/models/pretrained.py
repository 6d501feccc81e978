"""One call of transformers' ``from_pretrained``, quiet, and with an error of one line that says what to do."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoImageProcessor
from transformers.utils import logging

from hfft.arguments import ModelArguments
from hfft.errors import ModelError, one_line

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedConfig

_TIMM = (
    (r"dinov3-vit(s16|s16plus|b16|l16|h16plus|7b16)-pretrain-(\w+)", "vit_{}_patch16_dinov3.{}"),
    (r"dinov3-convnext-(tiny|small|base|large)-pretrain-(\w+)", "convnext_{}.dinov3_{}"),
    (r"vit-mae-(base|large)", "vit_{}_patch16_224.mae"),
    (r"vit-mae-(huge)", "vit_{}_patch14_224.mae"),
    (r"aimv2-(large|huge|1B|3B)-patch14-(224|336|448)", "aimv2_{}_patch14_{}.apple_pt"),
)
"""Ends of names on the Hub, and what timm calls the same weights."""
_SIZES = {
    **{"s16": "small", "s16plus": "small_plus", "b16": "base", "l16": "large", "h16plus": "huge_plus", "7b16": "7b"},
    **{"1B": "1b", "3B": "3b"},
}
_FAILURES = (
    *(OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError, TypeError),
    *(SafetensorError, StrictDataclassError, UnpicklingError, EOFError),
)
"""What transformers raises on files that are missing, damaged, or hold something else than they should."""
_LOCAL = "; mend its files, or copy the model into this folder again"
_OWN_CODE = "Please pass the argument `trust_remote_code=True`"
"""How transformers says that a model brings code, which it was not told to run."""
_LONGEST = 400
"""Characters of its message that are shown: some list every architecture there is."""


@contextmanager
def quiet() -> Iterator[None]:
    """Within this context transformers prints no progress bars and no reports; errors are raised all the same."""
    log = logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()


def load_pretrained(factory: Any, arguments: ModelArguments, **options: Any) -> Any:
    """Call ``factory.from_pretrained`` as the arguments say.

    Raises:
        ModelError: it fails, for whatever reason.
    """
    try:
        with quiet():
            return factory.from_pretrained(
                arguments.model_name_or_path,
                revision=arguments.model_revision,
                token=arguments.token,
                trust_remote_code=arguments.trust_remote_code,
                **options,
            )
    except _FAILURES as error:
        what = factory.__name__.removeprefix("Auto")
        name = str(arguments.model_name_or_path)
        local = os.path.exists(name)  # which takes a name of any length
        place = repr(name) if local else f"{name!r} (revision {arguments.model_revision!r})"
        # transformers speaks of a report that is not shown here.
        reason = one_line(error).replace("For more details look at the above report!", "").strip()
        if isinstance(error, UnpicklingError | EOFError):  # PyTorch would have it read with fewer precautions
            reason = "pytorch_model.bin is damaged, or holds more than tensors"
        if _OWN_CODE in reason:
            raise ModelError(
                f"{place} brings code of its own, which runs only where you say so: read it, then add "
                "--trust_remote_code true"
            ) from error
        twin = in_timm(name)
        advice = f"; timm holds the same weights as {twin}" if twin else _LOCAL if local else ""
        known = _known_cause(Path(name), what, arguments.allow_pickle) if local else ""
        raise ModelError(known or f"cannot load {what} of {place}: {shorten(reason, _LONGEST)}{advice}") from error


def load_config(arguments: ModelArguments) -> PreTrainedConfig:
    """Load the configuration of a model whose weights are floating-point numbers.

    Raises:
        ModelError: it cannot be loaded, or the weights are quantised.
    """
    config: PreTrainedConfig = load_pretrained(AutoConfig, arguments)
    if getattr(config, "quantization_config", None):
        raise ModelError(
            f"{arguments.model_name_or_path!r} holds quantised weights, which hfft does not read; give the "
            "model that it was made from"
        )
    return config


def load_processor(arguments: ModelArguments) -> BaseImageProcessor:
    """Load the image processor that a model's files describe.

    Raises:
        ModelError: it cannot be loaded, or its file is empty, so that its sizes and means would be guessed.
    """
    processor: BaseImageProcessor = load_pretrained(AutoImageProcessor, arguments)
    name, where = str(arguments.model_name_or_path), {"revision": arguments.model_revision, "token": arguments.token}
    if not processor.get_image_processor_dict(name, **where)[0]:
        raise ModelError(
            f"the preprocessor_config.json of {name!r} is empty; copy that of the base model, or give "
            "--image_processor_name"
        )
    return processor


def _known_cause(folder: Path, what: str, allow_pickle: bool) -> str:
    """What is wrong with a folder that is not a whole model, in a line; empty where that is not known."""
    if folder.is_file():
        return f"{folder} is a file, not a model's folder; give the folder that holds config.json and model.safetensors"
    if not folder.is_dir():
        return ""
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        return f"{folder} holds an adapter alone; merge it into its base model first, and give the merged model"
    if what == "ImageProcessor" and not any(folder.glob("*processor_config.json")):
        return (
            f"{folder} holds no image processor (preprocessor_config.json); copy that file from the folder above it or "
            "from the base model"
        )
    pickled = (folder / "pytorch_model.bin").is_file() and not any(folder.glob("*.safetensors"))
    if what == "ModelForImageClassification" and pickled and not allow_pickle:
        return f"{folder} holds no safetensors but a pickle, pytorch_model.bin: --allow_pickle true reads its tensors"
    return ""


def in_timm(name: str) -> str:
    """Return how timm names the weights of a repository on the Hub; empty where it has none that are known here."""
    for pattern, timm_name in _TIMM:
        if found := re.search(f"{pattern}$", name):
            return "timm/" + timm_name.format(*(_SIZES.get(each, each) for each in found.groups()))
    return ""
