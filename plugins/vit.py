"""Plain transformers: a block is an encoder layer, and all of them work at one resolution."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from hfft.plugin import ClassTokenBlock, Row, TablePlugin, TokenLayout, token_grid

if TYPE_CHECKING:
    from transformers import PreTrainedModel


NEW_HEAD = "norm classifier"
"""The head of a backbone that has none of its own."""


def patches(prefix: int) -> Callable[[Any], TokenLayout]:
    """Lay out one token for each whole patch, after `prefix` others."""

    def layout(config: Any) -> TokenLayout:
        vision = getattr(config, "vision_config", config)
        return token_grid(vision.image_size, vision.patch_size, prefix, padded=False)

    return layout


def registers(config: Any) -> TokenLayout:
    """Lay out the class token, the registers and the patches."""
    return patches(1 + config.num_register_tokens)(config)


def class_tokens(config: Any) -> TokenLayout:
    """Lay out Pixio's class tokens and the patches."""
    return patches(config.n_cls_tokens)(config)


def pixels(config: Any) -> TokenLayout:
    """Lay out ImageGPT's tokens: one colour cluster for each pixel of a square image."""
    side = math.isqrt(config.n_positions)
    return TokenLayout((side, side))


def class_token(model: PreTrainedModel) -> ClassTokenBlock | None:
    """Name the modules of a ViT layer, unless dropout inside it would make the shortcut inexact."""
    config = model.config
    if config.hidden_dropout_prob or config.attention_probs_dropout_prob:
        return None
    return ClassTokenBlock(
        heads=config.num_attention_heads,
        norm1="layernorm_before",
        query="attention.q_proj",
        key="attention.k_proj",
        value="attention.v_proj",
        proj="attention.o_proj",
        norm2="layernorm_after",
        mlp=("mlp",),
    )


def class_token_without_teacher(model: PreTrainedModel) -> ClassTokenBlock | None:
    """Like `class_token`, unless a second classifier reads the distillation token."""
    return None if hasattr(model, "distillation_classifier") else class_token(model)


class ViT(TablePlugin):
    """ViT and its relatives."""

    rows: ClassVar = {
        "aimv2_vision_model": Row(
            stem="backbone.embeddings",
            blocks="backbone.encoder.layers.*",
            neck="backbone.rms_norm backbone.head?",
            head=NEW_HEAD,
            tokens=patches(0),
            pooling="mean",
        ),
        # The head averages the patches by default, and relative position biases enter the attention.
        "beit": Row(
            stem="beit.embeddings beit.shared_position_bias?",
            blocks="beit.layers.*",
            neck="beit.layernorm beit.pooler",
            head="classifier",
            tokens=patches(1),
        ),
        # The head averages the patches of the last layer; the final norm serves the text side only.
        "clip": Row(
            stem="vision_model.embeddings vision_model.pre_layrnorm",
            blocks="vision_model.encoder.layers.*",
            neck="vision_model.post_layernorm",
            head="classifier",
            tokens=patches(1),
        ),
        "data2vec-vision": Row(
            stem="data2vec_vision.embeddings data2vec_vision.encoder.relative_position_bias?",
            blocks="data2vec_vision.encoder.layer.*",
            neck="data2vec_vision.layernorm data2vec_vision.pooler",
            head="classifier",
            tokens=patches(1),
        ),
        "deit": Row(
            stem="deit.embeddings",
            blocks="deit.layers.*",
            neck="deit.layernorm",
            head="classifier? cls_classifier? distillation_classifier?",
            tokens=patches(2),
            class_token=class_token_without_teacher,
        ),
        # The head reads the class token and the mean of the patches.
        "dinov2": Row(
            stem="dinov2.embeddings",
            blocks="dinov2.encoder.layer.*",
            neck="dinov2.layernorm",
            head="classifier",
            tokens=patches(1),
        ),
        "dinov2_with_registers": Row(
            stem="dinov2_with_registers.embeddings",
            blocks="dinov2_with_registers.encoder.layer.*",
            neck="dinov2_with_registers.layernorm",
            head="classifier",
            tokens=registers,
        ),
        # Like DINOv2's classifier in transformers.
        "dinov3_vit": Row(
            stem="backbone.embeddings backbone.rope_embeddings",
            blocks="backbone.model.layer.*",
            neck="backbone.norm",
            head=NEW_HEAD,
            tokens=registers,
            pooling="token+mean",
        ),
        "dpt": Row(
            stem="backbone.embeddings",
            blocks="backbone.encoder.layer.*",
            neck="backbone.layernorm",
            head=NEW_HEAD,
            tokens=patches(1),
            pooling="token+mean",
        ),
        "ijepa": Row("ijepa.embeddings", "ijepa.layers.*", "ijepa.layernorm", "classifier", tokens=patches(0)),
        "imagegpt": Row(
            stem="transformer.wte transformer.wpe",
            blocks="transformer.h.*",
            neck="transformer.ln_f",
            head="score",
            tokens=pixels,
            projections="attn.c_attn attn.c_proj mlp.c_fc mlp.c_proj",
        ),
        "metaclip_2": Row(
            stem="vision_model.embeddings vision_model.pre_layrnorm",
            blocks="vision_model.encoder.layers.*",
            neck="vision_model.post_layernorm",
            head="classifier",
            tokens=patches(1),
        ),
        # Its own pooling is the class token, normalised.
        "mlcd_vision_model": Row(
            stem=("backbone.embeddings backbone.pre_layrnorm backbone.class_pos_emb backbone.vision_rotary_embedding"),
            blocks="backbone.encoder.layers.*",
            neck="backbone.post_layernorm",
            head=NEW_HEAD,
            tokens=patches(1),
            pooling="pooler",
        ),
        # The latents read the image once; the layers after it are called in turn, `num_blocks` times over.
        # Latents lie nowhere on the image.
        "perceiver": Row(
            stem="perceiver.input_preprocessor perceiver.embeddings perceiver.encoder.cross_attention",
            blocks="perceiver.encoder.self_attends.*",
            neck=(
                "perceiver.decoder.decoder.output_position_encodings perceiver.decoder.decoder.decoding_cross_attention"
            ),
            head="perceiver.decoder.decoder.final_layer",
        ),
        # Its own pooling is the mean of its class tokens.
        "pixio": Row(
            stem="backbone.embeddings",
            blocks="backbone.layers.*",
            neck="backbone.layernorm",
            head=NEW_HEAD,
            tokens=class_tokens,
            pooling="pooler",
        ),
        # The head averages the tokens; the attention pooling is computed and not read.
        "siglip": Row(
            stem="vision_model.embeddings",
            blocks="vision_model.encoder.layers.*",
            neck="vision_model.post_layernorm vision_model.head?",
            head="classifier",
            tokens=patches(0),
        ),
        # The grid follows each image's aspect ratio, so there is no one layout.
        "siglip2": Row(
            stem="vision_model.embeddings",
            blocks="vision_model.encoder.layers.*",
            neck="vision_model.post_layernorm vision_model.head?",
            head="classifier",
        ),
        "tipsv2_vision_model": Row(
            stem="backbone.embeddings",
            blocks="backbone.encoder.layer.*",
            neck="backbone.layernorm",
            head=NEW_HEAD,
            tokens=registers,
            pooling="token+mean",
        ),
        "vit": Row("vit.embeddings", "vit.layers.*", "vit.layernorm", "classifier", patches(1), class_token),
        "vit_msn": Row("vit.embeddings", "vit.layers.*", "vit.layernorm", "classifier", patches(1), class_token),
        # Its last layer hands on a feature map.
        "vitdet": Row("backbone.embeddings", "backbone.encoder.layer.*", "", NEW_HEAD, pooling="mean"),
        # Tokens that stand for objects follow those of the patches.
        "yolos": Row(
            stem="backbone.embeddings backbone.encoder.mid_position_embeddings? backbone.encoder.interpolation?",
            blocks="backbone.encoder.layer.*",
            neck="backbone.layernorm",
            head=NEW_HEAD,
            pooling="token",
        ),
    }
    same_encoder: ClassVar = {"vit_mae": "vit"}  # but for a random mask, which no classifier wants
    refused: ClassVar = {
        **dict.fromkeys(("cohere2_vision", "llama4", "mllama"), "it is a language model that reads images as well"),
        **dict.fromkeys(
            ("conditional_detr", "dab-detr", "deformable_detr", "detr", "table-transformer"),
            "it gives queries for objects, not features of the image; its convolutional backbone is a model of its own",
        ),
        **dict.fromkeys(("timesformer", "videomae", "videoprism_vision_model", "vivit"), "it reads videos"),
        "depth_pro": "it joins patches of several scales, so that its blocks have no single order",
        "timm_backbone": "its weights are timm's; give the model's name in timm, timm/NAME, which has a classifier",
        "shieldgemma2": "it has no classifier to train: its logits are a language model's scores for Yes and No",
    }
