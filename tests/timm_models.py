"""Every family of timm through its smallest member, seeded and on small images; nothing is downloaded."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.models import _registry as registry
from torch import Tensor
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

LABELS = 3
SIZE = 64

# By the count of parameters; a test holds this against what timm lists.
SMALLEST = {
    "beit": "beit_base_patch16_224",
    "byoanet": "halonet_h1",
    "byobnet": "test_byobnet",
    "cait": "cait_xxs24_224",
    "coat": "coat_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_768_32",
    "convnext": "test_convnext",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240",
    "csatv2": "csatv2",
    "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deepseek_vit": "deepseek_vit_412m",
    "deit": "deit_tiny_patch16_224",
    "densenet": "densenet121",
    "dla": "dla46x_c",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "test_efficientnet",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "eva": "vit_tiny_patch16_dinov3_qkvb",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "gemma4_vit": "gemma4_vit_167m",
    "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "test_mambaout",
    "maxxvit": "test_coatnet",
    "metaformer": "poolformerv2_s12",
    "mlp_mixer": "gmlp_ti16_224",
    "mobilenetv3": "lcnet_035",
    "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_parfac_gap",
    "nasnet": "nasnetalarge",
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "test_nfnet",
    "pit": "pit_ti_224",
    "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0",
    "qwen3_vit": "qwen3_vit_88m",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m1",
    "res2net": "res2next50",
    "resnest": "resnest14d",
    "resnet": "test_resnet",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_legacy_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_svt_small",
    "vgg": "vgg11",
    "visformer": "visformer_tiny",
    "vision_transformer": "test_vit",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "test_vit_relpos",
    "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim_dw",
    "xception": "legacy_xception",
    "xception_aligned": "xception41p",
    "xcit": "xcit_nano_12_p8_224",
}

# Encoders, which timm gives no classifier.
REFUSED = (
    "deepseek_vit_412m_enc",
    "gemma4_vit_167m_enc",
    "gemma4_vit_570m_enc",
    "mobilenetv5_300m_enc",
    "qwen3_vit_88m_enc",
    "qwen3_vit_306m_enc",
    "qwen3_vit_416m_enc",
)

# Side of the images, for families that cannot take SIZE: fixed position encodings, or too many strides.
SIZES = {
    "byoanet": 256,
    "crossvit": 240,
    "efficientformer": 224,
    "inception_resnet_v2": 96,
    "inception_v3": 96,
    "inception_v4": 96,
}

# Families whose smallest member takes long or much memory, with what makes it smaller and keeps its structure.
SMALLER: dict[str, dict[str, Any]] = {
    "beit": {"depth": 2},
    "deepseek_vit": {"depth": 2, "img_size": 84},
    "gemma4_vit": {"img_size": 96},
    "mobilenetv5": {"channel_multiplier": 0.25},
    "naflexvit": {"depth": 2},
    "vgg": {"mlp_ratio": 1 / 16},
    "vision_transformer_sam": {"depth": 2},
}


def family_of(architecture: str) -> str:
    """Return the name of the timm module that defines an architecture."""
    return registry._model_to_module[architecture]


def small_timm(family: str) -> tuple[TimmWrapperForImageClassification, dict[str, Tensor]]:
    """Build the smallest member of a family in eval mode, with inputs of shape (batch, 3, height, width)."""
    architecture = SMALLEST[family]
    arguments = dict(SMALLER.get(family, {}))
    size = arguments.get("img_size", SIZES.get(family, SIZE))
    pretrained_cfg = timm.get_pretrained_cfg(architecture)
    if pretrained_cfg is not None and pretrained_cfg.fixed_input_size and family not in SIZES:
        arguments["img_size"] = size
    torch.manual_seed(0)
    model = wrapped(architecture, arguments)
    return model.eval(), {"pixel_values": torch.randn(2, 3, size, size)}


def wrapped(architecture: str, arguments: dict[str, Any] | None = None) -> TimmWrapperForImageClassification:
    """Build a timm model inside transformers' wrapper."""
    if architecture not in registry._model_to_module:
        pytest.skip(f"timm {timm.__version__} has no {architecture}")
    config = {"architecture": architecture, "num_classes": LABELS, "model_args": arguments or None}
    return TimmWrapperForImageClassification(TimmWrapperConfig.from_dict(config))
