"""Load the pretrained model and its image processor, and say exactly which model it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import ModelCard, try_to_load_from_cache
from PIL import Image
from transformers import AutoModelForImageClassification, PreTrainedModel

from hfft.arguments import ModelArguments
from hfft.data.preprocessing import Pixels, reads_grey, resize_processor
from hfft.demo import EMBEDDED_HEAD, EMBEDDED_MODEL, EMBEDDED_MODEL_LICENSE, embedded_model
from hfft.errors import ModelError, one_line
from hfft.models.channels import GREY, check_channels, fit_channels
from hfft.models.head import fit_head
from hfft.models.headless.backbones import classifier_config, encoder_of, load_with_head
from hfft.models.pretrained import in_timm, load_config, load_pretrained, load_processor
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
        notes: what became of a head that has the right shape for other classes, and what else is not as usual.
    """

    name: str
    revision: str = ""
    license: str = ""
    fresh: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def load_model(
    arguments: ModelArguments, labels: Sequence[str], task: Task = SINGLE_LABEL
) -> tuple[PreTrainedModel, BaseImageProcessor, Base]:
    """Load a pretrained image classifier with a head for `labels`, or for the targets of a `task` of numbers.

    The head is new, drawn from torch's global random state, unless the checkpoint's knows the same classes by name;
    its rows then follow the names.

    Raises:
        ModelError: nothing is found there, it is not a vision model, or its files are unusable.
        UnsupportedModelError: it can be given no head, and why.
    """
    model: PreTrainedModel
    processor: BaseImageProcessor
    if arguments.model_name_or_path is None:
        model, processor = embedded_model(labels)
        head = (name for name in model.state_dict() if name.startswith(f"{EMBEDDED_HEAD}."))
        base = Base(EMBEDDED_MODEL, license=EMBEDDED_MODEL_LICENSE, fresh=tuple(sorted(head)))
    else:
        config = load_config(arguments)
        name = arguments.model_name_or_path
        check_channels(config, name)  # before weights are fetched
        encoder = _encoder(config, arguments)
        source = replace(arguments, model_name_or_path=arguments.image_processor_name or name)
        processor = load_processor(source)
        if encoder is None:
            model, fresh, notes = _load_classifier(arguments, _known_classes(config), labels)
        else:
            model, fresh, notes = _give_head(arguments, encoder, labels)
        base = Base(name, _commit_of(arguments), _license_of(arguments), tuple(sorted(fresh)), notes)
    fit_channels(processor, model.config, base.name)
    if reads_grey(processor):
        base = replace(base, notes=(*base.notes, GREY))
    if hasattr(model.config, "label_names"):
        # timm's own list of names, which stock loading believes before id2label.
        model.config.label_names = list(labels)
    task.write(model.config)  # without the temperature or thresholds of the base, fitted to its own logits
    if arguments.image_size is not None:
        resize_processor(processor, arguments.image_size, model.config)
    _try(processor, arguments.image_processor_name or base.name)
    return model, processor, base


def _try(processor: BaseImageProcessor, name: str) -> None:
    """Have a processor prepare an image, so that what is wrong with its own values is not taken for bad images.

    Raises:
        ModelError: it cannot.
    """
    try:
        Pixels(processor)(Image.new("RGB", (256, 256)))
    except Exception as error:  # whatever stands in its file reaches torchvision or Pillow as it is
        raise ModelError(
            f"the image processor of {name!r} cannot prepare an image: {one_line(error)}; check sizes and the other "
            "values in its preprocessor_config.json"
        ) from error


def _encoder(config: PreTrainedConfig, arguments: ModelArguments) -> PreTrainedConfig | None:
    """Return the configuration of an encoder that has no classifier; None where the model is one."""
    own_code = getattr(config, "auto_map", None) or {}
    if arguments.trust_remote_code and "AutoModelForImageClassification" in own_code:
        return None
    return encoder_of(config, str(arguments.model_name_or_path))


def _load_classifier(
    arguments: ModelArguments, known: Sequence[str], labels: Sequence[str]
) -> tuple[PreTrainedModel, set[str], tuple[str, ...]]:
    """Return an image classifier, the tensors that its checkpoint does not give, and what became of its head."""
    model, report = load_pretrained(
        AutoModelForImageClassification,
        arguments,
        **_classes(labels),
        ignore_mismatched_sizes=True,
        use_safetensors=None if arguments.allow_pickle else True,
        dtype=torch.float32,
        output_loading_info=True,
    )
    fresh = {*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])}
    notes = fit_head(model, known, labels, fresh)
    return model, fresh, notes


def _give_head(
    arguments: ModelArguments, encoder: PreTrainedConfig, labels: Sequence[str]
) -> tuple[PreTrainedModel, set[str], tuple[str, ...]]:
    """Return an encoder with a new head, the tensors that its checkpoint does not give, and what it has become."""
    config, note = classifier_config(encoder, arguments.plugin)
    for key, value in _classes(labels).items():
        setattr(config, key, value)
    model, fresh = load_with_head(arguments, encoder, config)
    twin = in_timm(str(arguments.model_name_or_path))
    return model, fresh, (note, *([f"timm holds the same weights as {twin}, a classifier as it is."] if twin else []))


def _classes(labels: Sequence[str]) -> dict[str, Any]:
    """Return what a configuration says of its classes."""
    numbers = {label: index for index, label in enumerate(labels)}
    return {"num_labels": len(labels), "id2label": dict(enumerate(labels)), "label2id": numbers}


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
