"""The plugin for timm models: which modules are the last block, the neck and the head."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm_models import REFUSED, SMALLEST, family_of, small_timm, wrapped
from transformers import TimmWrapperForImageClassification
from versions import needs

from hfft.errors import UnsupportedModelError
from hfft.jobs.check_plugin import check_model
from hfft.planning.registry import find_anatomy
from hfft.plugin.contract import Anatomy, TokenLayout
from hfft.split.class_token import refusal

# Run by default; the other families take minutes.
FAST = (
    "byobnet",
    "convnext",
    "deit",
    "efficientnet",
    "efficientvim",
    "levit",
    "maxxvit",
    "mobilenetv3",
    "nfnet",
    "resnet",
    "vision_transformer",
    "visformer",
    "xcit",
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads cost more than they give on models and images this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def on_meta(architecture: str, **arguments: Any) -> TimmWrapperForImageClassification:
    """Build a model without any memory for its tensors."""
    with torch.device("meta"):
        return wrapped(architecture, arguments)


def anatomy_of(architecture: str, **arguments: Any) -> Anatomy:
    return find_anatomy(on_meta(architecture, **arguments))


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


@needs("timm", "1.0.31")
def test_the_table_of_families_is_complete() -> None:
    assert set(SMALLEST) == {family_of(architecture) for architecture in timm.list_models()}


def marked(family: str) -> Any:
    """Mark those that take long, and LeViT, whose blocks timm names wrongly before."""
    marks = [] if family in FAST else [pytest.mark.slow]
    return pytest.param(family, marks=[*marks, needs("timm", "1.0.31")] if family == "levit" else marks)


@pytest.mark.parametrize("family", map(marked, SMALLEST))
def test_the_smallest_of_each_family_conforms(family: str) -> None:
    model, inputs = small_timm(family)
    failed = [check for check in check_model(model, inputs, find_anatomy(model)) if not check.ok]
    assert not failed


@pytest.mark.slow
@pytest.mark.parametrize("family", SMALLEST)
def test_every_architecture_resolves(family: str) -> None:
    sizes: dict[str, int] = {}
    for architecture in timm.list_models(module=family):
        model = on_meta(architecture)
        if architecture in REFUSED:
            with pytest.raises(
                UnsupportedModelError, match=f"{architecture} is an encoder that timm gives no classifier"
            ):
                find_anatomy(model)
            continue
        anatomy = find_anatomy(model)
        assert len(anatomy.blocks) >= 3, architecture
        sizes[architecture] = sum(parameter.numel() for parameter in model.parameters())
    assert SMALLEST[family] == min(sizes, key=lambda architecture: sizes[architecture])


def test_the_page_of_architectures_names_every_family() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "architectures.md").read_text()
    assert [f for f, architecture in SMALLEST.items() if f"| {f}: {architecture} |" not in page] == []


@needs("timm", "1.0.31")
def test_at_most_two_percent_are_refused() -> None:
    assert set(REFUSED) <= set(timm.list_models())
    assert len(REFUSED) <= 0.02 * len(timm.list_models())


def test_refuses_an_encoder_without_a_classifier() -> None:
    with pytest.raises(UnsupportedModelError, match="mobilenetv5_300m_enc is an encoder"):
        anatomy_of("mobilenetv5_300m_enc")


@pytest.mark.parametrize("family", ["deit", "vision_transformer", "vision_transformer_hybrid"])
def test_the_class_token_shortcut_holds_where_it_is_offered(family: str) -> None:
    model, inputs = small_timm(family)
    anatomy = find_anatomy(model)
    assert anatomy.class_token is not None
    assert refusal(model, anatomy, inputs) == ""


@pytest.mark.parametrize(
    ("architecture", "arguments"),
    [
        ("deit_tiny_distilled_patch16_224", {}),  # reads two tokens
        ("test_vit", {"global_pool": "avg"}),
        ("test_vit", {"drop_path_rate": 0.1}),  # the shortcut knows no randomness
        ("test_vit", {"proj_drop_rate": 0.1}),
        ("vit_medium_patch16_reg4_gap_256", {}),
        ("test_vit3", {}),  # pools by attention over all tokens
        ("vit_base_patch32_plus_256", {"qk_norm": True, "scale_attn_norm": True}),
        ("vit_relpos_small_patch16_224", {}),
        ("beit_base_patch16_224", {}),
        ("eva02_tiny_patch14_224", {}),
        ("cait_xxs24_224", {}),
        ("resnet18", {}),
    ],
)
def test_no_class_token_shortcut_where_it_would_not_be_exact(architecture: str, arguments: dict[str, Any]) -> None:
    assert anatomy_of(architecture, **arguments).class_token is None


@pytest.mark.parametrize(
    ("architecture", "layout"),
    [
        ("deit_tiny_distilled_patch16_224", TokenLayout((14, 14), 2)),
        ("vit_small_patch14_reg4_dinov2", TokenLayout((37, 37), 5)),
        ("mixer_s32_224", TokenLayout((7, 7), 0)),
        ("swin_tiny_patch4_window7_224", None),
        ("resnet18", None),
    ],
)
def test_layout_of_the_last_blocks_tokens(architecture: str, layout: TokenLayout | None) -> None:
    assert anatomy_of(architecture).tokens == layout
