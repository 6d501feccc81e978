"""Backbones without an image classifier in transformers: they get a head, or become a classifier that it has."""

from __future__ import annotations

from functools import cache
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
    MODEL_FOR_IMAGE_MAPPING_NAMES,
    MODEL_MAPPING,
    MODEL_MAPPING_NAMES,
)

from hfft.errors import ModelError, PluginError, UnsupportedModelError, one_line
from hfft.models.headless.modeling_backbone_classifier import BackboneClassifierConfig, BackboneForImageClassification
from hfft.models.pretrained import load_pretrained, quiet
from hfft.output_folder import CODE
from hfft.plugin.contract import Pooling
from hfft.plugin.installed import find_plugin, installed_plugins
from hfft.plugin.table import HEADED

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from hfft.arguments import ModelArguments

# To transformers they are classifiers like its own from here on, so that nothing else needs to tell them apart and no
# code of a repository is run.
AutoConfig.register(HEADED, BackboneClassifierConfig, exist_ok=True)
AutoModelForImageClassification.register(BackboneClassifierConfig, BackboneForImageClassification, exist_ok=True)

_WORDS = {
    "token": "the class token",
    "mean": "the mean over the image",
    "token+mean": "the class token and the mean over the patches",
    "pooler": "what the backbone itself pools",
}


@cache
def headless_types() -> tuple[str, ...]:
    """Return the types of vision models that `AutoModel` loads and transformers has no image classifier for."""
    named = {CONFIG_MAPPING[name].model_type for name in MODEL_FOR_IMAGE_MAPPING_NAMES if name in MODEL_MAPPING_NAMES}
    return tuple(sorted((_towers().keys() | named) - {*MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES}))


def encoder_of(config: PreTrainedConfig, name: str) -> PreTrainedConfig | None:
    """Return the configuration of an encoder that has no classifier; None where the model is a classifier.

    Args:
        config: of the model; of one of images and text, the vision tower is the encoder.
        name: what an error calls it.

    Raises:
        ModelError: it is not a vision model that transformers loads.
    """
    if config.model_type in (*MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, HEADED):
        return None
    for found in (config, getattr(config, "vision_config", None)):
        if found is not None and (found.model_type in headless_types() or _reads_images_alone(found)):
            return found
    raise ModelError(
        f"{name!r} is a {config.model_type!r} model, which transformers has no image classifier for and which hfft "
        "cannot give a head; choose a model that AutoModelForImageClassification can load, or a vision model that "
        "AutoModel can"
    )


def classifier_config(encoder: PreTrainedConfig, plugin: str | None = None) -> tuple[PreTrainedConfig, str]:
    """Return the configuration of a classifier around an encoder, and a sentence about it for people.

    Args:
        encoder: the encoder's configuration.
        plugin: which plugin is asked for the pooling; by default the one that speaks for the type.

    Raises:
        UnsupportedModelError: it cannot be given a head, and why.
        PluginError: its plugin fails, or gives what a head cannot read.
        ModelError: its configuration does not say how wide its features are.
    """
    stock = _stock_config(encoder)
    if stock is not None:
        return stock, (
            f"It has no classifier of its own ({encoder.model_type}); it becomes a {stock.model_type} model with a new "
            "one, which transformers loads as it is."
        )
    pooling, guessed = _pooling(encoder, plugin)
    width = getattr(encoder, "hidden_size", None) or (getattr(encoder, "hidden_sizes", None) or [0])[-1]
    if not width:
        raise ModelError(f"the configuration of a {encoder.model_type} model does not say how wide its features are")
    features = width * len(pooling.how.split("+"))
    config = BackboneClassifierConfig(encoder, pooling.how, pooling.prefix, features)
    return config, (
        f"It has no classifier of its own ({encoder.model_type}); a new one reads {_WORDS[pooling.how]}{guessed}. "
        f"transformers has no class for that: the checkpoint brings {CODE} along, and is loaded with "
        "trust_remote_code=True."
    )


def load_with_head(
    arguments: ModelArguments, encoder: PreTrainedConfig, config: PreTrainedConfig
) -> tuple[PreTrainedModel, set[str]]:
    """Load an encoder's weights into a classifier.

    Args:
        arguments: where the weights are.
        encoder: the encoder's configuration.
        config: of the classifier, which `classifier_config` or a finished run gives.

    Returns:
        The classifier, and the names of what the checkpoint does not give: the head's tensors above all.

    Raises:
        ModelError: the weights cannot be loaded, or are not the encoder's.
    """
    backbone, report = load_pretrained(
        AutoModel,
        arguments,
        config=encoder,
        use_safetensors=None if arguments.allow_pickle else True,
        dtype=torch.float32,
        output_loading_info=True,
    )
    if set(report["missing_keys"]) >= {name for name, _ in backbone.named_parameters()}:
        raise ModelError(f"{arguments.model_name_or_path!r} holds no tensor of a {encoder.model_type} model")
    with quiet():
        model = AutoModelForImageClassification.from_config(config, dtype=torch.float32)
    place = next(name for name, module in model.named_modules() if name and isinstance(module, PreTrainedModel))
    given = {name: tensor for name, tensor in backbone.state_dict().items() if name not in report["missing_keys"]}
    try:
        lacking = model.get_submodule(place).load_state_dict(given, strict=False).missing_keys
    except RuntimeError as error:
        raise ModelError(
            f"{arguments.model_name_or_path!r} is not the {encoder.model_type} model that is wanted: {one_line(error)}"
        ) from error
    head = {name for name in model.state_dict() if not name.startswith(f"{place}.")}
    return model, head | {f"{place}.{name}" for name in lacking}


def _reads_images_alone(config: PreTrainedConfig) -> bool:
    """Return whether `AutoModel` loads a type and takes nothing but images, whatever list transformers has it on."""
    found = MODEL_MAPPING.get(type(config), None)
    model = found[0] if isinstance(found, tuple) else found
    return model is not None and model.main_input_name == "pixel_values" and "text" not in model.input_modalities


def _stock_config(encoder: PreTrainedConfig) -> PreTrainedConfig | None:
    """Return the configuration of the classifier that transformers has for an encoder under another type."""
    plugins = [found.plugin for found in installed_plugins() if found.plugin]
    other = next(
        (each.same_encoder[encoder.model_type] for each in plugins if encoder.model_type in each.same_encoder), ""
    )
    if other:
        if other not in CONFIG_MAPPING:
            raise PluginError(f"a plugin makes {encoder.model_type!r} a {other!r} model, which transformers lacks")
        wanted: Any = CONFIG_MAPPING[other]
        fields = wanted().to_dict().keys() - {"model_type", "architectures", "transformers_version"}
        same: PreTrainedConfig = wanted(**{key: value for key, value in encoder.to_dict().items() if key in fields})
        return same
    whole = _towers().get(encoder.model_type)
    with quiet():  # nobody builds the part for text, whose configuration is the default
        return None if whole is None else whole(vision_config=encoder.to_dict())


@cache
def _towers() -> dict[str, Any]:
    """By an encoder's type, the configuration of the classifier that it is the vision tower of."""
    names = [name for name in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES if f"{name}_vision_model" in CONFIG_MAPPING]
    return {f"{name}_vision_model": CONFIG_MAPPING[name] for name in names}


def _pooling(encoder: PreTrainedConfig, plugin: str | None) -> tuple[Pooling, str]:
    """Return what a head reads, and what is to be said of that.

    Raises:
        PluginError: the plugin fails, or gives something else.
    """
    types = {name for found in installed_plugins() if found.plugin for name in found.plugin.model_types}
    if plugin is None and encoder.model_type not in types:
        return Pooling("mean"), ", which is a guess, as no plugin knows this type"
    found = find_plugin(encoder.model_type, plugin)
    assert found.plugin is not None
    try:
        pooling: object = found.plugin.pooling(encoder)
    except UnsupportedModelError:
        raise
    except Exception as error:  # whatever a third party's code raises
        raise PluginError(
            f"{found.whose} fails on the pooling of {encoder.model_type}: {type(error).__name__}: {one_line(error)}"
        ) from error
    if pooling is None:
        return Pooling("mean"), ", which is a guess, as its plugin does not say"
    if not (
        isinstance(pooling, Pooling)
        and pooling.how in tuple(_WORDS)
        and isinstance(pooling.prefix, int)
        and pooling.prefix >= 0
    ):
        raise PluginError(
            f"{found.whose} must give a Pooling of how {', '.join(_WORDS)} and a count of tokens as prefix, not "
            f"{shorten(repr(pooling), 100)}"
        )
    return pooling, ""
