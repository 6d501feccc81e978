"""Hierarchical transformers and hybrids: a block is a stage, whose tokens or feature maps share one resolution."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

from hfft.plugin import Row, TablePlugin, TokenLayout, token_grid


def halved(config: Any) -> TokenLayout:
    """Lay out the patches after each stage but the last has halved both sides."""
    return token_grid(config.image_size, config.patch_size * 2 ** (len(config.depths) - 1))


def halved_after_convolution(config: Any) -> TokenLayout:
    """Like `halved`; FocalNet's convolutional patch embedding strides by 4 whatever the patch size."""
    first = 4 if config.use_conv_embed else config.patch_size
    return token_grid(config.image_size, first * 2 ** (len(config.depths) - 1))


def query_pooled(config: Any) -> TokenLayout:
    """Lay out Hiera's patches after `num_query_pool` poolings of the queries.

    Until then they stand in the order in which they are pooled.
    """
    rows, columns = (
        stride * pool**config.num_query_pool
        for stride, pool in zip(config.patch_stride, config.query_stride, strict=True)
    )
    return replace(token_grid(config.image_size, (rows, columns)), earlier=False)


def subsampled(config: Any) -> TokenLayout:
    """Lay out LeViT's patches after the subsampling that ends each stage but the last."""
    strides = [operation[5] for operation in config.down_ops if operation[0] == "Subsample"]
    return token_grid(config.image_size, config.patch_size * math.prod(strides))


def embedded_again(prefix: int) -> Callable[[Any], TokenLayout]:
    """Lay out the patches of models that embed their patches anew in every stage, after `prefix` other tokens."""

    def layout(config: Any) -> TokenLayout:
        return token_grid(config.image_size, math.prod(config.strides), prefix)

    return layout


class Hierarchical(TablePlugin):
    """Swin and its relatives."""

    rows: ClassVar = {
        # Every stage embeds its own input, so nothing comes before the first. The class token joins in the last.
        "cvt": Row("", "cvt.encoder.stages.*", "layernorm", "classifier"),
        "donut-swin": Row("donut.embeddings", "donut.encoder.layers.*", "", "classifier", tokens=halved),
        "focalnet": Row(
            stem="focalnet.embeddings",
            blocks="focalnet.encoder.stages.*",
            neck="focalnet.layernorm",
            head="classifier",
            tokens=halved_after_convolution,
        ),
        # It has no classifier of its own.
        "glpn": Row(
            stem="",
            blocks="backbone.encoder.patch_embeddings.* backbone.encoder.block.* backbone.encoder.layer_norm.*",
            neck="",
            head="norm classifier",
            pooling="mean",
        ),
        "hiera": Row("hiera.embeddings", "hiera.encoder.stages.*", "hiera.pooler", "classifier", tokens=query_pooled),
        "levit": Row(
            stem="levit.patch_embeddings",
            blocks="levit.encoder.stages.*",
            neck="",
            head="classifier classifier_distill?",
            tokens=subsampled,
        ),
        "mobilevit": Row("mobilevit.conv_stem", "mobilevit.encoder.layer.*", "mobilevit.conv_1x1_exp", "classifier"),
        "mobilevitv2": Row("mobilevitv2.conv_stem", "mobilevitv2.encoder.layer.*", "", "classifier"),
        "poolformer": Row("", "poolformer.encoder.patch_embeddings.* poolformer.encoder.block.*", "norm", "classifier"),
        "pvt": Row(
            stem="",
            blocks="pvt.encoder.patch_embeddings.* pvt.encoder.block.*",
            neck="pvt.encoder.layer_norm",
            head="classifier",
            tokens=embedded_again(prefix=1),
        ),
        "pvt_v2": Row("", "pvt_v2.encoder.layers.*", "", "classifier", tokens=embedded_again(prefix=0)),
        "segformer": Row("", "segformer.stages.*", "", "classifier"),
        # Stages and the embeddings that stride between them share one list.
        "swiftformer": Row(
            "swiftformer.patch_embed", "swiftformer.encoder.network.*", "norm", "head dist_head", flat=True
        ),
        "swin": Row("swin.embeddings", "swin.encoder.layers.*", "swin.layernorm", "classifier", tokens=halved),
        "swinv2": Row("swinv2.embeddings", "swinv2.encoder.layers.*", "swinv2.layernorm", "classifier", tokens=halved),
    }
    refused: ClassVar = {
        "swin2sr": "it restores images pixel by pixel, and says nothing of what is on them",
        "dinat": "its neighbourhood attention needs the natten library, which hfft is not tested with",
    }
