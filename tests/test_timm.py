"""The plugin for timm models: which modules are the last block, the neck and the head."""

from __future__ import annotations

import pytest
import torch
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

from hfft.errors import UnsupportedModelError
from hfft.plugin import Anatomy
from hfft.registry import find_anatomy


def on_meta(architecture: str) -> TimmWrapperForImageClassification:
    """Build a model without any memory for its tensors."""
    with torch.device("meta"):
        return TimmWrapperForImageClassification(
            TimmWrapperConfig.from_dict({"architecture": architecture, "num_classes": 3})
        )


def anatomy_of(architecture: str) -> Anatomy:
    return find_anatomy(on_meta(architecture))


def features(first: int, last: int) -> str:
    """The names of VGG's modules from one number to another; VGG has no stages of its own."""
    return " ".join(f"features.{number}" for number in range(first, last + 1))


# architecture: (count of blocks, stem, last block, neck, head)
EXPECTED = {
    "resnet18": (4, "conv1 bn1", "layer4", "", "fc"),
    "vgg16": (5, "", features(24, 30), "pre_logits", "head.fc"),
    "vgg16_bn": (5, "", features(34, 43), "pre_logits", "head.fc"),
    "tf_efficientnet_lite0": (7, "conv_stem bn1", "blocks.6", "conv_head bn2", "classifier"),
    "mobilenetv3_small_100": (5, "conv_stem bn1", "blocks.4", "blocks.5 conv_head", "classifier"),
    "rexnet_100": (5, "stem", " ".join(f"features.{n}" for n in range(11, 16)), "features.16", "head.fc"),
    "convnext_tiny": (4, "stem", "stages.3", "head.norm", "head.fc"),
    "densenet121": (4, "features.conv0 features.norm0", "features.denseblock4", "features.norm5", "classifier"),
    "legacy_xception": (4, "conv1 bn1 conv2 bn2", "block12 conv3 bn3 act3 conv4 bn4 act4", "", "fc"),
    "swin_tiny_patch4_window7_224": (4, "patch_embed", "layers.3", "norm", "head.fc"),
    "hiera_tiny_224": (4, "pos_embed patch_embed", "blocks.10 blocks.11", "head.norm", "head.fc"),
    "deit_tiny_patch16_224": (12, "cls_token pos_embed patch_embed", "blocks.11", "norm", "head"),
    "deit_tiny_distilled_patch16_224": (
        12,
        "cls_token pos_embed dist_token patch_embed",
        "blocks.11",
        "norm",
        "head head_dist",
    ),
    "vit_small_patch16_224": (12, "cls_token pos_embed patch_embed", "blocks.11", "norm", "head"),
    "beit_base_patch16_224": (12, "cls_token patch_embed", "blocks.11", "fc_norm", "head"),
    "cait_xxs24_224": (26, "cls_token pos_embed patch_embed", "blocks_token_only.1", "norm", "head"),
    "volo_d1_224": (6, "pos_embed cls_token patch_embed aux_head", "post_network.1", "norm", "head"),
    "efficientvim_m1": (3, "patch_embed", "stages.2 norm.2", "norm.3", "weights heads.0 heads.1 heads.2 heads.3"),
}


@pytest.mark.parametrize("architecture", EXPECTED)
def test_names_stem_last_block_neck_and_head(architecture: str) -> None:
    anatomy = anatomy_of(architecture)
    parts = (anatomy.stem, anatomy.blocks[-1], anatomy.neck, anatomy.head)
    names = [" ".join(name.removeprefix("timm_model.") for name in part) for part in parts]
    assert (len(anatomy.blocks), *names) == EXPECTED[architecture]


def test_refuses_an_encoder_without_a_classifier() -> None:
    with pytest.raises(UnsupportedModelError, match="mobilenetv5_300m_enc is an encoder"):
        anatomy_of("mobilenetv5_300m_enc")
