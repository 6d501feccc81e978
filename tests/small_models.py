"""Every image classifier that transformers knows, built small from its config and seeded; nothing is downloaded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor
from transformers import AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from hfft.models.headless.backbones import classifier_config
from hfft.plugin.table import backbone_of

LABELS = 3
IMAGES = 3

VIT = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}
TOWERS: dict[str, Any] = {
    "vision_config": VIT,
    "text_config": {
        "vocab_size": 20,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "bos_token_id": 0,
        "eos_token_id": 1,
    },
}
STAGES = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 2]}
SWIN = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 8,
    "depths": [1, 1, 2],
    "num_heads": [1, 2, 2],
    "window_size": 4,
}
PYRAMID = {
    "image_size": 64,
    "depths": [1, 1, 1, 2],
    "hidden_sizes": [8, 8, 16, 16],
    "num_attention_heads": [1, 1, 2, 2],
    "mlp_ratios": [2, 2, 2, 2],
}

SMALL: dict[str, dict[str, Any]] = {
    "beit": VIT | {"use_relative_position_bias": True, "use_shared_relative_position_bias": True},
    "bit": STAGES | {"num_groups": 4},
    "clip": TOWERS,
    "convnext": {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 2, 2], "image_size": 32},
    "convnextv2": {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 2, 2], "image_size": 32},
    "cvt": {"embed_dim": [8, 8, 16], "num_heads": [1, 1, 2], "depth": [1, 2, 3], "mlp_ratio": [2.0, 2.0, 2.0]},
    "data2vec-vision": VIT | {"use_relative_position_bias": True, "use_shared_relative_position_bias": True},
    "deit": VIT,
    "dinov2": VIT,
    "dinov2_with_registers": VIT,
    "donut-swin": SWIN,
    "efficientnet": {"width_coefficient": 0.25, "depth_coefficient": 1.0, "hidden_dim": 320, "image_size": 64},
    "focalnet": {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 1, 2], "focal_levels": [1, 1, 1]},
    "hgnet_v2": {
        "stem_channels": [3, 8, 8],
        "stage_in_channels": [8, 16, 16, 16],
        "stage_mid_channels": [8, 8, 8, 8],
        "stage_out_channels": [16, 16, 16, 16],
        "stage_num_blocks": [1, 1, 2, 1],
        "stage_numb_of_layers": [1, 1, 2, 2],
        "hidden_sizes": [16, 16, 16, 16],
        "embedding_size": 8,
    },
    "hiera": {"embed_dim": 8, "image_size": [64, 64], "depths": [1, 2, 2, 2], "num_heads": [1, 1, 2, 2]},
    "ijepa": VIT,
    "imagegpt": {"vocab_size": 17, "n_positions": 64, "n_embd": 16, "n_layer": 3, "n_head": 2},
    "levit": {
        "image_size": 128,
        "hidden_sizes": [16, 16, 32],
        "num_attention_heads": [1, 2, 2],
        "depths": [1, 1, 2],
        "key_dim": [8, 8, 8],
    },
    "metaclip_2": TOWERS,
    "mobilenet_v1": {"depth_multiplier": 0.25, "image_size": 64},
    "mobilenet_v2": {"depth_multiplier": 0.25, "image_size": 64},
    "mobilevit": {
        "image_size": 128,
        "hidden_sizes": [8, 16, 16],
        "neck_hidden_sizes": [8, 8, 8, 8, 16, 16, 16],
        "num_attention_heads": 2,
    },
    "mobilevitv2": {"image_size": 128, "width_multiplier": 0.25, "base_attn_unit_dims": [16, 32, 32]},
    "perceiver": {
        "num_latents": 4,
        "d_latents": 16,
        "d_model": 8,
        "num_blocks": 2,
        "num_self_attends_per_block": 3,
        "num_self_attention_heads": 2,
        "num_cross_attention_heads": 1,
        "image_size": 16,
    },
    "poolformer": {"depths": [1, 1, 1, 2], "hidden_sizes": [8, 8, 16, 16], "mlp_ratio": 2.0},
    "pp_lcnet": {"scale": 0.25, "class_expand": 16},
    "pvt": PYRAMID,
    "pvt_v2": PYRAMID,
    "regnet": STAGES | {"groups_width": 4},
    "resnet": STAGES,
    "segformer": PYRAMID,
    "siglip": TOWERS,
    "siglip2": {
        "text_config": TOWERS["text_config"],
        "vision_config": {name: VIT[name] for name in VIT if name != "image_size"} | {"num_patches": 16},
    },
    "swiftformer": {"image_size": 64, "depths": [1, 1, 1, 2], "embed_dims": [8, 8, 16, 16], "mlp_ratio": 2},
    "swin": SWIN,
    "swinv2": SWIN,
    "textnet": {
        "stem_out_channels": 8,
        "hidden_sizes": [8, 8, 8, 16, 16],
        "conv_layer_kernel_sizes": [[[3, 3]], [[3, 3]], [[3, 1]], [[3, 3], [1, 3]]],
        "conv_layer_strides": [[2], [2], [2], [2, 1]],
        "depths": [1, 1, 1, 2],
        "image_size": [64, 64],
    },
    "vit": VIT,
    "vit_msn": VIT,
}

MLP_RATIO = {name: VIT[name] for name in VIT if name != "intermediate_size"} | {"mlp_ratio": 2}
HEADLESS: dict[str, dict[str, Any]] = {
    "aimv2_vision_model": VIT,
    "clip_vision_model": VIT,
    "dinov3_convnext": {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 2, 2], "image_size": 32},
    "dinov3_vit": VIT | {"num_register_tokens": 2},
    "dpt": VIT,
    "glpn": {name: PYRAMID[name] for name in PYRAMID if name != "image_size"},
    "metaclip_2_vision_model": VIT,
    "mlcd_vision_model": VIT,
    "pixio": MLP_RATIO | {"n_cls_tokens": 2},
    "siglip2_vision_model": SMALL["siglip2"]["vision_config"],
    "siglip_vision_model": VIT,
    "tipsv2_vision_model": MLP_RATIO | {"num_register_tokens": 2},
    "vit_mae": VIT,
    "vitdet": MLP_RATIO | {"pretrain_image_size": 32},
    "yolos": VIT | {"image_size": [32, 32], "num_detection_tokens": 3},
}


def small_encoder(model_type: str) -> PreTrainedConfig:
    """Return the configuration of a small backbone that has no classifier of its own."""
    if model_type not in HEADLESS:
        raise LookupError(f"{model_type} is new in transformers: give it a row in HEADLESS and one in a plugin")
    if model_type not in CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {model_type}")
    return CONFIG_MAPPING[model_type](**HEADLESS[model_type])


def small_headed(model_type: str) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """Build a small backbone with a new head, like `small_model`."""
    torch.manual_seed(0)
    config, _ = classifier_config(small_encoder(model_type))
    config.num_labels = LABELS
    model: PreTrainedModel = AutoModelForImageClassification.from_config(config)
    _shake(model)
    return model.eval(), _inputs(model)


def classes_of(model_type: str) -> tuple[str, ...]:
    """Return the names of the classes that transformers maps a model type to."""
    names = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES[model_type]
    return names if isinstance(names, tuple) else (names,)


def small_model(
    model_type: str, class_name: str | None = None, changes: dict[str, Any] | None = None
) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """Build a model of a few thousand random weights, in eval mode, and inputs for it.

    Args:
        model_type: a key of transformers' mapping of image classifiers.
        class_name: one of `classes_of`; the first of them if not given.
        changes: configuration values that differ from `SMALL`.

    Returns:
        The model and what its image processor makes of `IMAGES` random images, mostly
        ``pixel_values`` of shape (batch, channels, height, width).
    """
    if model_type not in SMALL:
        raise LookupError(f"{model_type} is new in transformers: give it a row in SMALL and one in a plugin")
    torch.manual_seed(0)
    config = CONFIG_MAPPING[model_type](**SMALL[model_type] | {"num_labels": LABELS} | (changes or {}))
    model: PreTrainedModel = getattr(transformers, class_name or classes_of(model_type)[0])(config)
    _shake(model)
    return model.eval(), _inputs(model)


def _shake(model: PreTrainedModel) -> None:
    """Move every weight off its initial value: a layer scale of 1e-6 or a head of zeros would hide mistakes."""
    with torch.no_grad():
        for _, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)


def _inputs(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return what the model's image processor makes of random images."""
    generator = np.random.default_rng(0)
    if model.config.model_type == "siglip2":
        shapes = ((40, 40, 3), (64, 24, 3), (20, 50, 3))
        pictures = [generator.integers(0, 256, shape, np.uint8) for shape in shapes]
        return dict(transformers.Siglip2ImageProcessor(patch_size=8, max_num_patches=16)(pictures, return_tensors="pt"))
    if model.config.model_type == "imagegpt":
        clusters = generator.uniform(-1, 1, (16, 3)).tolist()
        to_tokens = transformers.ImageGPTImageProcessor(clusters=clusters, size={"height": 8, "width": 8})
        pictures = list(generator.integers(0, 256, (IMAGES, 20, 20, 3), np.uint8))
        return dict(to_tokens(pictures, return_tensors="pt"))
    backbone = backbone_of(model.config)
    vision = getattr(backbone, "vision_config", backbone)
    size = getattr(vision, "image_size", 64)
    side = size if isinstance(size, int) else size[0]
    return {"pixel_values": torch.from_numpy(generator.standard_normal((IMAGES, 3, side, side), np.float32))}
