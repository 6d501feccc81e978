"""Convolutional networks of transformers: a block is a stage, the unit between two changes of resolution."""

from __future__ import annotations

from typing import ClassVar

from hfft.plugin import Row, TablePlugin


class CNN(TablePlugin):
    """ResNet and its relatives."""

    rows: ClassVar = {
        "bit": Row("bit.embedder", "bit.encoder.stages.*", "bit.norm", "classifier"),
        "convnext": Row("convnext.embeddings", "convnext.encoder.stages.*", "convnext.layernorm", "classifier"),
        "convnextv2": Row("convnextv2.embeddings", "convnextv2.encoder.stages.*", "convnextv2.layernorm", "classifier"),
        # It has no classifier of its own; its own pooling is the mean of the last map, normalised.
        "dinov3_convnext": Row(
            stem="",
            blocks="backbone.model.stages.*",
            neck="backbone.layer_norm",
            head="norm classifier",
            pooling="pooler",
        ),
        "efficientnet": Row(
            stem="efficientnet.embeddings",
            blocks="efficientnet.encoder.blocks.*",
            neck="efficientnet.encoder.top_conv efficientnet.encoder.top_bn",
            head="classifier",
            flat=True,
        ),
        "hgnet_v2": Row("embedder", "encoder.stages.*", "", "fc"),
        "mobilenet_v1": Row("mobilenet_v1.conv_stem", "mobilenet_v1.layer.*", "", "classifier", flat=True),
        "mobilenet_v2": Row(
            stem="mobilenet_v2.conv_stem",
            blocks="mobilenet_v2.layer.*",
            neck="mobilenet_v2.conv_1x1",
            head="classifier",
            flat=True,
        ),
        "pp_lcnet": Row("encoder.convolution", "encoder.blocks.*", "last_convolution", "head"),
        "regnet": Row("regnet.embedder", "regnet.encoder.stages.*", "", "classifier"),
        "resnet": Row("resnet.embedder", "resnet.encoder.stages.*", "", "classifier"),
        "textnet": Row("textnet.stem", "textnet.encoder.stages.*", "", "fc"),
    }
