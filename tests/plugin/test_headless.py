"""Every vision model of AutoModel without an image classifier is given one that passes all checks, or is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from small_models import HEADLESS, small_encoder, small_headed
from torch import Tensor
from transformers import AutoModel, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_MAPPING_NAMES
from versions import needs

from hfft.errors import UnsupportedModelError
from hfft.jobs.check_plugin import CheckResult, check_model
from hfft.models.headless.backbones import classifier_config, headless_types
from hfft.models.headless.modeling_backbone_classifier import BackboneClassifierConfig
from hfft.planning.registry import find_anatomy
from hfft.plugin.contract import Pooling
from hfft.plugin.installed import find_plugin
from hfft.plugin.table import HEADED, backbone_of

POLICIES = ("head", "last_block", "last_n:2")
STOCK = {
    "clip_vision_model": "clip",
    "metaclip_2_vision_model": "metaclip_2",
    "siglip2_vision_model": "siglip2",
    "siglip_vision_model": "siglip",
    "vit_mae": "vit",
}
REFUSED = {
    "cohere2_vision": "language model",
    "conditional_detr": "queries for objects",
    "dab-detr": "queries for objects",
    "deformable_detr": "queries for objects",
    "depth_pro": "several scales",
    "detr": "queries for objects",
    "llama4": "language model",
    "mllama": "language model",
    "swin2sr": "restores images",
    "table-transformer": "queries for objects",
    "timesformer": "reads videos",
    "timm_backbone": "timm/NAME",
    "videomae": "reads videos",
    "videoprism_vision_model": "reads videos",
    "vivit": "reads videos",
}
OWN_CODE = sorted(HEADLESS.keys() - STOCK.keys())
UNREAD = {"aimv2_vision_model"}
LAST_BLOCK = {
    "aimv2_vision_model": "backbone.encoder.layers.2",
    "dinov3_convnext": "backbone.model.stages.3",
    "dinov3_vit": "backbone.model.layer.2",
    "dpt": "backbone.encoder.layer.2",
    "glpn": "backbone.encoder.patch_embeddings.3 backbone.encoder.block.3 backbone.encoder.layer_norm.3",
    "mlcd_vision_model": "backbone.encoder.layers.2",
    "pixio": "backbone.layers.2",
    "tipsv2_vision_model": "backbone.encoder.layer.2",
    "vitdet": "backbone.encoder.layer.2",
    "yolos": "backbone.encoder.layer.2",
}


@needs("transformers", "5.24")
def test_every_type_passes_or_is_refused() -> None:
    assert set(headless_types()) == HEADLESS.keys() | REFUSED.keys()
    assert len(headless_types()) >= 28
    assert len(MODEL_FOR_IMAGE_MAPPING_NAMES) > 40
    assert len(OWN_CODE) >= 8


def test_the_plugins_and_the_file_beside_the_checkpoint_agree_on_the_type() -> None:
    assert BackboneClassifierConfig.model_type == HEADED


@pytest.mark.parametrize("model_type", sorted(HEADLESS))
def test_every_check_passes(model_type: str) -> None:
    results = _checked(model_type)
    assert [f"{result.name}: {result.detail}" for result in results.values() if not result.ok] == []
    assert results["split[last_block]"].detail.startswith("boundary ")


@pytest.mark.parametrize("model_type", OWN_CODE)
def test_the_last_block_is_the_one_reviewed(model_type: str) -> None:
    assert " ".join(find_anatomy(small_headed(model_type)[0]).blocks[-1]) == LAST_BLOCK[model_type]


@pytest.mark.parametrize("model_type", OWN_CODE)
def test_a_probe_of_the_head_caches_what_it_reads_and_no_more(model_type: str) -> None:
    model, _ = small_headed(model_type)
    assert f"boundary norm; keeps pool ({model.config.features},)" in _checked(model_type)["split[head]"].detail


@pytest.mark.parametrize("model_type", OWN_CODE)
def test_nothing_idle_is_trained_but_a_pooling_that_the_head_does_not_read(model_type: str) -> None:
    idle = _checked(model_type)["frozen[last_block]"].detail.partition("idle: ")[2].split()
    assert all(name.startswith("backbone.head.") for name in idle) if model_type in UNREAD else idle == ["none"]


@pytest.mark.parametrize("model_type", OWN_CODE)
def test_the_head_reads_what_the_plugin_says(model_type: str) -> None:
    model: Any
    model, inputs = small_headed(model_type)
    config = model.config
    with torch.no_grad():
        outputs = model.backbone(**inputs)
        states = outputs.last_hidden_state
        patches = states.mean((2, 3)) if states.ndim == 4 else states[:, config.prefix_tokens :].mean(1)
        reads: dict[str, Callable[[], Tensor]] = {
            "token": lambda: states[:, 0],
            "mean": lambda: patches,
            "token+mean": lambda: torch.cat([states[:, 0], patches], 1),
            "pooler": lambda: outputs.pooler_output,
        }
        expected = model.classifier(model.norm(reads[config.pooling]()))
        assert torch.equal(model(**inputs).logits, expected)


@pytest.mark.parametrize(("model_type", "other"), STOCK.items())
def test_what_transformers_has_under_another_type_becomes_that(model_type: str, other: str) -> None:
    config, note = classifier_config(small_encoder(model_type))
    assert config.model_type == other
    assert "trust_remote_code" not in note


def test_vit_mae_becomes_vit_without_the_mask() -> None:
    """The encoder with nothing masked and nothing shuffled is ViT's."""
    encoder: Any = small_encoder("vit_mae")
    encoder.mask_ratio = 0.0
    torch.manual_seed(0)
    mae = AutoModel.from_config(encoder).eval()
    model: Any
    model, inputs = small_headed("vit_mae")
    model.vit.load_state_dict(mae.state_dict())
    patches = (encoder.image_size // encoder.patch_size) ** 2
    unshuffled = torch.arange(patches, dtype=torch.float32).expand(len(inputs["pixel_values"]), -1)
    with torch.no_grad():
        expected = mae(**inputs, noise=unshuffled).last_hidden_state
        assert torch.equal(model.vit(**inputs).last_hidden_state, expected)
        assert torch.equal(model(**inputs).logits, model(**inputs).logits)
    assert model.config.model_type == "vit"


@needs("transformers", "5.24")
@pytest.mark.parametrize(("model_type", "why"), REFUSED.items())
def test_refusals_are_specific(model_type: str, why: str) -> None:
    config = CONFIG_MAPPING[model_type]()
    plugin = find_plugin(model_type).plugin
    assert plugin is not None
    for refusing in (
        lambda: classifier_config(config),
        lambda: plugin.anatomy(cast(PreTrainedModel, SimpleNamespace(config=config))),
    ):
        with pytest.raises(UnsupportedModelError, match=f"{model_type}.*{why}"):
            refusing()


def test_tokens_before_the_patches_are_not_averaged() -> None:
    plugin = find_plugin("dinov3_vit").plugin
    assert plugin is not None
    assert plugin.pooling(small_encoder("dinov3_vit")) == Pooling("token+mean", prefix=3)
    assert plugin.pooling(CONFIG_MAPPING["vit"]()) is None


@cache
def _checked(model_type: str) -> dict[str, CheckResult]:
    model, inputs = small_headed(model_type)
    assert backbone_of(model.config).model_type in (model_type, STOCK.get(model_type))
    return {result.name: result for result in check_model(model, inputs, find_anatomy(model), POLICIES)}
