"""Every timm model, through timm's own description of its structure."""

from __future__ import annotations

from transformers import PreTrainedModel

from hfft.plugin import Anatomy, BackbonePlugin


class Timm(BackbonePlugin):
    """timm models inside transformers' TimmWrapper."""

    model_types = frozenset({"timm_wrapper"})

    def anatomy(self, model: PreTrainedModel) -> Anatomy:
        """See `BackbonePlugin.anatomy`."""
        raise NotImplementedError
