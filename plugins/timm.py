"""Every timm model. What looks at one needs torch, which a list of plugins does not wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hfft.plugin import Anatomy, BackbonePlugin

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Timm(BackbonePlugin):
    """timm models inside transformers' TimmWrapper."""

    model_types = frozenset({"timm_wrapper"})

    def anatomy(self, model: PreTrainedModel) -> Anatomy:
        """See `BackbonePlugin.anatomy`."""
        from .timm_structure import anatomy  # noqa: TID251  (relative: the folder is a package of another name)

        return anatomy(model)
