"""Convolutional networks of transformers: a block is a stage, the unit between two changes of resolution."""

from __future__ import annotations

from transformers import PreTrainedModel

from hfft.plugin import Anatomy, BackbonePlugin


class CNN(BackbonePlugin):
    """ResNet and its relatives."""

    model_types = frozenset({"resnet"})

    def anatomy(self, model: PreTrainedModel) -> Anatomy:
        """See `BackbonePlugin.anatomy`."""
        stages = len(model.resnet.encoder.stages)
        return Anatomy(
            stem=("resnet.embedder",),
            blocks=tuple((f"resnet.encoder.stages.{i}",) for i in range(stages)),
            neck=(),
            head=("classifier",),
        )
