"""Vision transformers of transformers."""

from __future__ import annotations

from transformers import PreTrainedModel

from hfft.plugin import Anatomy, BackbonePlugin, ClassTokenBlock, TokenLayout


class ViT(BackbonePlugin):
    """ViT and its relatives."""

    model_types = frozenset({"vit"})

    def anatomy(self, model: PreTrainedModel) -> Anatomy:
        """See `BackbonePlugin.anatomy`."""
        raise NotImplementedError
