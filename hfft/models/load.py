"""Load the pretrained model and its image processor, and say exactly which model it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import ModelCard, try_to_load_from_cache
from safetensors import SafetensorError
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES
from transformers.utils import logging

from hfft.arguments import ModelArguments
from hfft.data.preprocessing import resize_processor
from hfft.demo import EMBEDDED_MODEL, EMBEDDED_MODEL_LICENSE, embedded_model
from hfft.errors import ModelError, one_line
from hfft.models.head import fit_head
from hfft.tasks.contract import Task
from hfft.tasks.single_label import SINGLE_LABEL

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedConfig


@dataclass(frozen=True)
class Base:
    """The pretrained model that a run started from.

    Args:
        name: Hub id, folder, or the embedded model's package and version.
        revision: commit hash on the Hub; empty for a folder.
        license: as its model card states it; empty where unknown.
        fresh: parameters that the checkpoint lacks, or has in another shape, and that are drawn anew.
        notes: what became of a head that has the right shape for other classes.
    """

    name: str
    revision: str = ""
    license: str = ""
    fresh: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


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


def load_model(
    arguments: ModelArguments, labels: Sequence[str], task: Task = SINGLE_LABEL
) -> tuple[PreTrainedModel, BaseImageProcessor, Base]:
    """Load a pretrained image classifier with a head for `labels`, or for the targets of a `task` of numbers.

    The head is new, drawn from torch's global random state, unless the checkpoint's knows the same classes by name;
    its rows then follow the names.

    Raises:
        ModelError: nothing is found there, it is not an image classifier, or its files are unusable.
    """
    if arguments.model_name_or_path is None:
        model, processor = embedded_model(labels)
        base = Base(EMBEDDED_MODEL, license=EMBEDDED_MODEL_LICENSE)
    else:
        known = _known_classes(_check_config(arguments))
        source = replace(arguments, model_name_or_path=arguments.image_processor_name or arguments.model_name_or_path)
        processor = load_pretrained(AutoImageProcessor, source)
        model, report = load_pretrained(
            AutoModelForImageClassification,
            arguments,
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
            ignore_mismatched_sizes=True,
            use_safetensors=None if arguments.allow_pickle else True,
            dtype=torch.float32,
            output_loading_info=True,
        )
        fresh = {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}
        notes = fit_head(model, known, labels, fresh)
        name = arguments.model_name_or_path
        base = Base(name, _commit_of(arguments), _license_of(arguments), tuple(sorted(fresh)), notes)
    check_channels(model.config, base.name)
    if hasattr(model.config, "label_names"):
        # timm's own list of names, which stock loading believes before id2label.
        model.config.label_names = list(labels)
    task.write(model.config)  # without the temperature or thresholds of the base, fitted to its own logits
    if arguments.image_size is not None:
        resize_processor(processor, arguments.image_size, model.config)
    return model, processor, base


def check_channels(config: PreTrainedConfig, name: str) -> None:
    """Make sure that a model reads colours, which is what images are turned into.

    Raises:
        ModelError: it reads another number of channels than 3.
    """
    channels = _channels(config)
    if channels != 3:
        raise ModelError(
            f"{name!r} reads {channels} channel{'' if channels == 1 else 's'}; hfft gives 3 (red, green and blue): "
            "choose a model that reads 3"
        )


def _channels(config: PreTrainedConfig) -> int:
    """Channels of a model's input as its configuration says, timm's included; 3 where it does not."""
    timm_size = (getattr(config, "pretrained_cfg", None) or {}).get("input_size")
    if timm_size is not None:
        timm_given = (getattr(config, "model_args", None) or {}).get("in_chans")
        return int(timm_given or timm_size[0])
    part = getattr(config, "vision_config", None) or config
    return int(getattr(part, "num_channels", 3))


def _commit_of(arguments: ModelArguments) -> str:
    """The commit of the Hub's repository that was loaded just now; empty for a folder."""
    name = str(arguments.model_name_or_path)
    if Path(name).is_dir():
        return ""
    found = try_to_load_from_cache(name, "config.json", revision=arguments.model_revision)
    return Path(found).parent.name if isinstance(found, str) else ""


def _license_of(arguments: ModelArguments) -> str:
    """The license that the model's card states; empty where there is no card or it states none."""
    name = str(arguments.model_name_or_path)
    try:
        card = ModelCard.load(
            Path(name) / "README.md" if Path(name).is_dir() else name,
            token=arguments.token,
            ignore_metadata_errors=True,
        )
    except Exception:  # a card is not needed: whatever is wrong with it, or with the way to it, is not an error here
        return ""
    stated = card.data.to_dict().get("license")
    return stated if isinstance(stated, str) else ""


def _known_classes(config: PreTrainedConfig) -> list[str]:
    """The classes of the checkpoint's head, in its order; timm keeps names of its own."""
    names = getattr(config, "label_names", None)
    return [str(name) for name in names or [name for _, name in sorted((config.id2label or {}).items())]]


def _check_config(arguments: ModelArguments) -> PreTrainedConfig:
    config: PreTrainedConfig = load_pretrained(AutoConfig, arguments)
    if config.model_type not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES and not arguments.trust_remote_code:
        raise ModelError(
            f"{arguments.model_name_or_path!r} is a {config.model_type!r} model, which transformers has no image "
            "classifier for; choose a model that AutoModelForImageClassification can load"
        )
    return config


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
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        what = factory.__name__.removeprefix("Auto")
        place = f"{arguments.model_name_or_path!r} (revision {arguments.model_revision!r})"
        # transformers speaks of a report that is not shown here.
        reason = one_line(error).replace("For more details look at the above report!", "").strip()
        raise ModelError(
            _known_cause(Path(str(arguments.model_name_or_path)), what) or f"cannot load {what} of {place}: {reason}"
        ) from error


def _known_cause(folder: Path, what: str) -> str:
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
    if what == "ModelForImageClassification" and pickled:
        return f"{folder} holds no safetensors but a pickle, pytorch_model.bin: --allow_pickle true reads its tensors"
    return ""
