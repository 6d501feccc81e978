"""An image classifier on a vision backbone of transformers: pooled features, a layer norm, a linear layer.

This file lies beside the checkpoints that use it and is loaded with ``trust_remote_code=True``, so it needs torch and
transformers alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils.generic import can_return_tuple


class BackboneClassifierConfig(PreTrainedConfig):
    """What the backbone is, and what the head reads of it.

    Args:
        backbone_config: the backbone's own configuration.
        pooling: ``token`` (the first token), ``mean`` (of the patches' tokens, or of a feature map), ``token+mean``
            (both, one after the other) or ``pooler`` (what the backbone itself pools).
        prefix_tokens: how many tokens (class, registers) come before those of the patches.
        features: how many numbers the head reads of an image.
    """

    model_type = "backbone_classifier"
    sub_configs = {"backbone_config": AutoConfig}  # noqa: RUF012  (transformers' own declaration)

    def __init__(
        self,
        backbone_config: PreTrainedConfig | dict[str, Any] | None = None,
        pooling: str = "mean",
        prefix_tokens: int = 0,
        features: int = 0,
        **kwargs: Any,
    ) -> None:
        if isinstance(backbone_config, dict):
            backbone_config = AutoConfig.for_model(**backbone_config)
        self.backbone_config = backbone_config
        self.pooling = pooling
        self.prefix_tokens = prefix_tokens
        self.features = features
        super().__init__(**kwargs)


class Pool(nn.Module):
    """What the head reads of a backbone's outputs; a module, so that who looks at modules sees where it ends.

    Args:
        how: see `BackboneClassifierConfig.pooling`.
        prefix: how many tokens come before those of the patches.
    """

    def __init__(self, how: str, prefix: int) -> None:
        super().__init__()
        self.how = how
        self.prefix = prefix

    def forward(self, outputs: Any) -> Tensor:
        """Return features of shape (batch, features)."""
        if self.how == "pooler":
            pooled: Tensor = outputs.pooler_output
            return pooled.flatten(1)
        states: Tensor = outputs.last_hidden_state
        if states.ndim == 4:  # a feature map, (batch, channels, height, width)
            return states.mean((2, 3))
        parts = {"token": states[:, 0], "mean": states[:, self.prefix :].mean(1)}
        return torch.cat([parts[part] for part in self.how.split("+")], 1)


class BackboneForImageClassification(PreTrainedModel):
    """A backbone that `AutoModel` loads, with a head."""

    config_class = BackboneClassifierConfig
    base_model_prefix = ""  # with the backbone's, names of the head and of the backbone would be taken for each other
    main_input_name = "pixel_values"
    input_modalities = ["image"]  # noqa: RUF012  (transformers' own declaration)
    accepts_loss_kwargs = False
    # The backbone decides by itself; here they say only that a wish may be passed on to it.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True

    def __init__(self, config: BackboneClassifierConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels or 0
        self.backbone = AutoModel.from_config(config.backbone_config)
        self.supports_gradient_checkpointing = self.backbone.supports_gradient_checkpointing
        if config.pooling != "pooler" and isinstance(getattr(self.backbone, "pooler", None), nn.Module):
            self.backbone.pooler = None  # nobody would read what it computes
        self.pool = Pool(config.pooling, config.prefix_tokens)
        self.norm = nn.LayerNorm(config.features)
        self.classifier = nn.Linear(config.features, self.num_labels)
        self.post_init()  # type: ignore[no-untyped-call]

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self, pixel_values: Tensor | None = None, labels: Tensor | None = None, **kwargs: Any
    ) -> ImageClassifierOutput:
        """Return logits of shape (batch, labels), and with labels the loss."""
        outputs = self.backbone(pixel_values, **kwargs)
        logits = self.classifier(self.norm(self.pool(outputs)))
        loss = None if labels is None else self.loss_function(labels, logits, self.config)
        return ImageClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=getattr(outputs, "hidden_states", None),
            attentions=getattr(outputs, "attentions", None),
        )


BackboneClassifierConfig.register_for_auto_class()  # type: ignore[no-untyped-call]
BackboneForImageClassification.register_for_auto_class("AutoModelForImageClassification")  # type: ignore[no-untyped-call]
