"""Plain transformers: a block is an encoder layer, and all of them work at one resolution."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from hfft.plugin import ClassTokenBlock, Row, TablePlugin, TokenLayout, token_grid

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def patches(prefix: int) -> Callable[[Any], TokenLayout]:
    """Lay out one token for each whole patch, after `prefix` others."""

    def layout(config: Any) -> TokenLayout:
        vision = getattr(config, "vision_config", config)
        return token_grid(vision.image_size, vision.patch_size, prefix, padded=False)

    return layout


def registers(config: Any) -> TokenLayout:
    """Lay out the class token, the registers and the patches."""
    return patches(1 + config.num_register_tokens)(config)


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
        "ijepa": Row("ijepa.embeddings", "ijepa.layers.*", "ijepa.layernorm", "classifier", tokens=patches(0)),
        "imagegpt": Row(
            "transformer.wte transformer.wpe", "transformer.h.*", "transformer.ln_f", "score", tokens=pixels
        ),
        "metaclip_2": Row(
            stem="vision_model.embeddings vision_model.pre_layrnorm",
            blocks="vision_model.encoder.layers.*",
            neck="vision_model.post_layernorm",
            head="classifier",
            tokens=patches(1),
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
        "vit": Row("vit.embeddings", "vit.layers.*", "vit.layernorm", "classifier", patches(1), class_token),
        "vit_msn": Row("vit.embeddings", "vit.layers.*", "vit.layernorm", "classifier", patches(1), class_token),
    }
    refused: ClassVar = {
        "shieldgemma2": "it has no classifier to train: its logits are a language model's scores for Yes and No",
    }
