"""What a model computes besides its weights: each ingredient changes the signature, names and labels do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from own_code import HELPERS, MODELING, VIT, make_own_code
from torch import nn
from transformers import (
    AutoModelForImageClassification,
    CLIPConfig,
    CLIPForImageClassification,
    PreTrainedModel,
    SwinConfig,
    SwinForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from hfft.models.signature import model_signature


def vit(**change: Any) -> PreTrainedModel:
    return ViTForImageClassification(ViTConfig(**{**VIT, **change}))


def swin(**change: Any) -> PreTrainedModel:
    sizes = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]}
    return SwinForImageClassification(SwinConfig(**{**sizes, "window_size": 4, **change}))


def clip(**change: Any) -> PreTrainedModel:
    text = {"vocab_size": 20, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    config = CLIPConfig(vision_config={**VIT, **change}, text_config={**text, "num_attention_heads": 1})
    return CLIPForImageClassification(config)


def timm(**change: Any) -> PreTrainedModel:
    return TimmWrapperForImageClassification(TimmWrapperConfig(architecture="resnet18", **change))


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (vit, {"hidden_act": "relu"}),
        (vit, {"layer_norm_eps": 1e-3}),
        (vit, {"num_attention_heads": 4}),
        (vit, {"attn_implementation": "eager"}),
        (vit, {"image_size": 64}),
        (swin, {"window_size": 2}),
        (swin, {"hidden_act": "relu"}),
        (clip, {"hidden_act": "relu"}),
        (clip, {"layer_norm_eps": 1e-3}),
        (timm, {"model_args": {"output_stride": 16}}),
    ],
)
def test_whatever_changes_an_activation_changes_the_signature(
    make: Callable[..., PreTrainedModel], change: dict[str, Any]
) -> None:
    assert model_signature(make(**change)) != model_signature(make())


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (vit, {}),
        (vit, {"num_labels": 7}),
        (vit, {"id2label": {0: "x", 1: "y"}, "label2id": {"x": 0, "y": 1}}),
        (vit, {"calibration_temperature": 1.7}),
        (vit, {"problem_type": "single_label_classification"}),
        (vit, {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2}),
        (swin, {"drop_path_rate": 0.3}),
        (clip, {"attention_dropout": 0.3}),
        (timm, {"num_labels": 7}),
        (timm, {"pretrained_cfg": {"url": "elsewhere"}}),
    ],
)
def test_labels_names_and_dropout_do_not(make: Callable[..., PreTrainedModel], change: dict[str, Any]) -> None:
    assert model_signature(make(**change)) == model_signature(make())


def test_neither_do_folder_and_number_format_of_the_file(tmp_path: Path) -> None:
    made = vit()
    made.save_pretrained(tmp_path / "somewhere")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "somewhere")
    assert model_signature(loaded) == model_signature(made)


def test_attention_can_be_changed_after_loading() -> None:
    model = vit()
    before = model_signature(model)
    model.set_attn_implementation("eager")
    assert model_signature(model) != before


def test_a_module_replaced_by_one_of_another_class_counts() -> None:
    model = vit()
    before = model_signature(model)
    model.get_submodule("vit").layernorm = nn.Identity()
    assert model_signature(model) != before


def remote(folder: Path, **files: str) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForImageClassification.from_pretrained(
        make_own_code(folder, **files), trust_remote_code=True
    )
    return model


@pytest.mark.usefixtures("own_modules")
def test_code_that_comes_with_a_model_counts(tmp_path: Path) -> None:
    first = model_signature(remote(tmp_path / "first"))
    assert model_signature(remote(tmp_path / "same")) == first
    other_model = MODELING.replace("bend(pixel_values)", "-bend(pixel_values)")
    assert model_signature(remote(tmp_path / "bent", modeling=other_model)) != first
    assert model_signature(remote(tmp_path / "more", helpers=HELPERS.replace("2", "3"))) != first
