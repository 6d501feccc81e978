"""One property over every image classifier that transformers knows: its plugin is right about it."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from small_models import classes_of, small_model
from transformers import PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from hfft.errors import UnsupportedModelError
from hfft.jobs.check_plugin import CheckResult, check_model
from hfft.planning.registry import find_anatomy
from hfft.plugin.contract import Anatomy
from hfft.plugin.installed import find_plugin
from hfft.split.class_token import refusal

ELSEWHERE = {"timm_wrapper"}  # its architectures are timm's, with tests of their own

REFUSED = {
    "dinat": "needs the natten library",
    "shieldgemma2": "has no classifier to train",
}

# Of the small models. Reviewed by eye against each model's code.
LAST_BLOCK = {
    "beit": "beit.layers.2",
    "bit": "bit.encoder.stages.3",
    "clip": "vision_model.encoder.layers.2",
    "convnext": "convnext.encoder.stages.3",
    "convnextv2": "convnextv2.encoder.stages.3",
    "cvt": "cvt.encoder.stages.2",
    "data2vec-vision": "data2vec_vision.encoder.layer.2",
    "deit": "deit.layers.2",
    "dinov2": "dinov2.encoder.layer.2",
    "dinov2_with_registers": "dinov2_with_registers.encoder.layer.2",
    "donut-swin": "donut.encoder.layers.2",
    "efficientnet": (
        "efficientnet.encoder.blocks.11 efficientnet.encoder.blocks.12 efficientnet.encoder.blocks.13 "
        "efficientnet.encoder.blocks.14 efficientnet.encoder.blocks.15"
    ),
    "focalnet": "focalnet.encoder.stages.2",
    "hgnet_v2": "encoder.stages.3",
    "hiera": "hiera.encoder.stages.3",
    "ijepa": "ijepa.layers.2",
    "imagegpt": "transformer.h.2",
    "levit": "levit.encoder.stages.2",
    "metaclip_2": "vision_model.encoder.layers.2",
    "mobilenet_v1": "mobilenet_v1.layer.22 mobilenet_v1.layer.23 mobilenet_v1.layer.24 mobilenet_v1.layer.25",
    "mobilenet_v2": "mobilenet_v2.layer.12 mobilenet_v2.layer.13 mobilenet_v2.layer.14 mobilenet_v2.layer.15",
    "mobilevit": "mobilevit.encoder.layer.4",
    "mobilevitv2": "mobilevitv2.encoder.layer.4",
    "perceiver": "perceiver.encoder.self_attends.2",
    "poolformer": "poolformer.encoder.patch_embeddings.3 poolformer.encoder.block.3",
    "pp_lcnet": "encoder.blocks.4",
    "pvt": "pvt.encoder.patch_embeddings.3 pvt.encoder.block.3",
    "pvt_v2": "pvt_v2.encoder.layers.3",
    "regnet": "regnet.encoder.stages.3",
    "resnet": "resnet.encoder.stages.3",
    "segformer": "segformer.stages.3",
    "siglip": "vision_model.encoder.layers.2",
    "siglip2": "vision_model.encoder.layers.2",
    "swiftformer": "swiftformer.encoder.network.5 swiftformer.encoder.network.6",
    "swin": "swin.encoder.layers.2",
    "swinv2": "swinv2.encoder.layers.2",
    "textnet": "textnet.encoder.stages.3",
    "vit": "vit.layers.2",
    "vit_msn": "vit.layers.2",
}

# Modules that these checkpoints hold and their logits do not depend on; all of them lie in the neck.
IDLE = {
    "clip": "vision_model.post_layernorm",
    "metaclip_2": "vision_model.post_layernorm",
    "siglip": "vision_model.head",
    "siglip2": "vision_model.head",
}

POLICIES = ("head", "last_block", "last_n:2")

CLASS_TOKEN_ALONE = {"DeiTForImageClassification", "ViTForImageClassification", "ViTMSNForImageClassification"}
NO_TOKEN_LAYOUT = {"perceiver", "siglip2"}  # latents lie nowhere; the grid follows each image's aspect ratio

MODEL_TYPES = sorted(MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.keys() - ELSEWHERE)
CLASSES = [
    pytest.param(model_type, name, id=f"{model_type}-{name}")
    for model_type in MODEL_TYPES
    if model_type not in REFUSED
    for name in classes_of(model_type)
]

# Configurations under which an architecture gains or loses modules.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("beit", {"use_relative_position_bias": False, "use_shared_relative_position_bias": False}),
    ("beit", {"use_mean_pooling": False, "layer_scale_init_value": 0.0, "use_absolute_position_embeddings": True}),
    ("beit", {"use_mask_token": True}),
    ("bit", {"layer_type": "bottleneck", "embedding_dynamic_padding": True}),
    ("convnext", {"layer_scale_init_value": 0.0}),
    ("data2vec-vision", {"use_relative_position_bias": False, "use_shared_relative_position_bias": False}),
    ("data2vec-vision", {"use_mean_pooling": False, "layer_scale_init_value": 0.0}),
    ("dinov2", {"use_swiglu_ffn": True, "use_mask_token": False}),
    ("efficientnet", {"depth_coefficient": 1.4}),
    ("focalnet", {"use_conv_embed": True, "use_layerscale": True, "use_post_layernorm": True}),
    ("hgnet_v2", {"use_learnable_affine_block": True}),
    ("mobilenet_v1", {"tf_padding": False}),
    ("mobilenet_v2", {"output_stride": 8, "finegrained_output": False, "first_layer_is_expansion": False}),
    ("mobilevit", {"output_stride": 16}),
    ("mobilevitv2", {"output_stride": 16}),
    ("poolformer", {"use_layer_scale": False}),
    ("pvt_v2", {"linear_attention": True}),
    ("regnet", {"layer_type": "x"}),
    ("resnet", {"layer_type": "basic", "downsample_in_first_stage": True}),
    ("segformer", {"reshape_last_stage": False}),
    ("swiftformer", {"use_layer_scale": False}),
    ("swin", {"use_absolute_embeddings": True}),
    ("swin", {"image_size": 36}),
    ("vit", {"qkv_bias": False}),
    ("vit", {"image_size": 38}),
]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def test_the_enumeration_finds_the_models() -> None:
    assert len(MODEL_TYPES) >= 40
    assert len(CLASSES) >= 40


def test_the_tables_name_every_model_type_and_no_other() -> None:
    assert LAST_BLOCK.keys() | REFUSED.keys() == set(MODEL_TYPES)
    assert len(REFUSED) <= 2


@pytest.mark.parametrize(("model_type", "class_name"), CLASSES)
def test_every_check_passes(model_type: str, class_name: str) -> None:
    results = _checked(model_type, class_name)
    assert [f"{result.name}: {result.detail}" for result in results.values() if not result.ok] == []
    assert len(results) == 4 + 2 * len(POLICIES)


@pytest.mark.parametrize(("model_type", "class_name"), CLASSES)
def test_last_block_is_the_one_reviewed(model_type: str, class_name: str) -> None:
    assert " ".join(_anatomy(model_type, class_name).blocks[-1]) == LAST_BLOCK[model_type]


@pytest.mark.parametrize(("model_type", "class_name"), CLASSES)
def test_logits_depend_on_all_that_is_trained_but_known_leftovers(model_type: str, class_name: str) -> None:
    idle = _checked(model_type, class_name)["frozen[last_block]"].detail.partition("idle: ")[2]
    leftover = f"{IDLE.get(model_type)}."
    expected = [name for name, _ in small_model(model_type, class_name)[0].named_parameters()]
    assert idle.split() == (sorted(name for name in expected if name.startswith(leftover)) or ["none"])


@pytest.mark.parametrize(("model_type", "class_name"), CLASSES)
def test_tokens_have_a_layout_unless_the_block_gives_maps(model_type: str, class_name: str) -> None:
    detail = _checked(model_type, class_name)["tokens"].detail
    assert detail.startswith("no layout") == (model_type in NO_TOKEN_LAYOUT)


@pytest.mark.parametrize(("model_type", "class_name"), CLASSES)
def test_class_token_is_claimed_exactly_where_the_head_reads_it_alone(model_type: str, class_name: str) -> None:
    model, inputs = small_model(model_type, class_name)
    anatomy = find_anatomy(model)
    assert (anatomy.class_token is not None) == (class_name in CLASS_TOKEN_ALONE)
    if anatomy.class_token is not None:
        assert refusal(model, anatomy, inputs) == ""


@pytest.mark.parametrize("dropout", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_class_token_is_not_claimed_under_dropout(dropout: str) -> None:
    model, _ = small_model("vit", changes={dropout: 0.1})
    assert find_anatomy(model).class_token is None


@pytest.mark.parametrize(("model_type", "changes"), VARIANTS, ids=lambda value: str(value))
def test_anatomy_follows_the_configuration(model_type: str, changes: dict[str, Any]) -> None:
    model, inputs = small_model(model_type, changes=changes)
    results = check_model(model, inputs, find_anatomy(model), ["last_block"])
    assert [f"{result.name}: {result.detail}" for result in results if not result.ok] == []


def test_a_stage_begins_where_a_flat_list_strides() -> None:
    anatomy = _anatomy("mobilenet_v1", "MobileNetV1ForImageClassification")
    assert [len(block) for block in anatomy.blocks] == [2, 4, 4, 12, 4]


@pytest.mark.parametrize(("model_type", "why"), REFUSED.items())
def test_refusals_are_specific(model_type: str, why: str) -> None:
    plugin = find_plugin(model_type).plugin
    assert plugin is not None
    model = cast(PreTrainedModel, SimpleNamespace(config=CONFIG_MAPPING[model_type]()))
    with pytest.raises(UnsupportedModelError, match=f"{model_type}.*{why}"):
        plugin.anatomy(model)


@cache
def _checked(model_type: str, class_name: str) -> dict[str, CheckResult]:
    model, inputs = small_model(model_type, class_name)
    return {result.name: result for result in check_model(model, inputs, find_anatomy(model), POLICIES)}


def _anatomy(model_type: str, class_name: str) -> Anatomy:
    return find_anatomy(small_model(model_type, class_name)[0])
