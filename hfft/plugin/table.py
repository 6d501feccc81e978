"""Plugins whose knowledge is a table: one row of name patterns for each model type."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from hfft.errors import UnsupportedModelError
from hfft.plugin.contract import Anatomy, BackbonePlugin, ClassTokenBlock, Pooling, TokenLayout
from hfft.plugin.patterns import anatomy_from_patterns

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class Row:
    """Where one architecture keeps its parts.

    Each part is a string of patterns separated by spaces. ``*`` stands for one part of a name, and a
    pattern that ends in ``?`` for something that exists under some configurations only.

    Args:
        stem: patterns of what comes before the first block.
        blocks: one block for each match; several patterns advance together.
        neck: patterns of what follows the last block.
        head: patterns of the classifier.
        tokens: from the config to the layout of the last block's tokens.
        class_token: from the model to its last block's modules, where the head reads nothing but the class token.
        flat: the matches are single layers; a stage begins at each of them that strides.
        pooling: `Pooling.how` of a backbone that has no classifier of its own; empty for a classifier.
        projections: how the names of attention and MLP projections end, see `Anatomy.projections`.
    """

    stem: str
    blocks: str
    neck: str
    head: str
    tokens: Callable[[Any], TokenLayout] | None = None
    class_token: Callable[[PreTrainedModel], ClassTokenBlock | None] | None = None
    flat: bool = False
    pooling: str = ""
    projections: str = ""

    def anatomy(self, model: PreTrainedModel) -> Anatomy:
        """Fill the patterns in with the names of a model."""
        anatomy = anatomy_from_patterns(
            model,
            stem=self.stem.split(),
            blocks=[self.blocks.split()],
            neck=self.neck.split(),
            head=self.head.split(),
            tokens=self.tokens(backbone_of(model.config)) if self.tokens else None,
            class_token=self.class_token(model) if self.class_token else None,
        )
        anatomy = replace(anatomy, projections=tuple(self.projections.split()))
        return replace(anatomy, blocks=_join_layers(model, anatomy.blocks)) if self.flat else anatomy


class TablePlugin(BackbonePlugin):
    """A plugin that looks its answer up.

    Attributes:
        rows: by model type, where the parts are.
        refused: by model type, why it cannot be fine-tuned block by block.
    """

    rows: ClassVar[Mapping[str, Row]]
    refused: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls) -> None:
        cls.model_types = frozenset({*cls.rows, *cls.refused, *cls.same_encoder})

    def anatomy(self, model: PreTrainedModel) -> Anatomy:
        """See `BackbonePlugin.anatomy`."""
        return self._row(backbone_of(model.config).model_type).anatomy(model)

    def pooling(self, config: PreTrainedConfig) -> Pooling | None:
        """See `BackbonePlugin.pooling`."""
        row = self._row(config.model_type)
        return Pooling(row.pooling, row.tokens(config).prefix if row.tokens else 0) if row.pooling else None

    def _row(self, model_type: str) -> Row:
        if model_type in self.refused:
            raise UnsupportedModelError(f"model type {model_type!r}: {self.refused[model_type]}")
        if model_type not in self.rows:
            raise UnsupportedModelError(f"{type(self).__name__} has no row for model type {model_type!r}")
        return self.rows[model_type]


HEADED = "backbone_classifier"
"""Model type of a backbone that was given a head; its configuration holds the backbone's own."""


def backbone_of(config: PreTrainedConfig) -> PreTrainedConfig:
    """Return the configuration that says what the backbone is: a classifier's own, or the one inside a head's."""
    backbone: PreTrainedConfig = config.backbone_config if config.model_type == HEADED else config
    return backbone


def token_grid(
    image_size: int | Sequence[int], stride: int | Sequence[int], prefix: int = 0, padded: bool = True
) -> TokenLayout:
    """Lay tokens out on an image.

    Args:
        image_size: height and width in pixels.
        stride: vertical and horizontal distance of tokens in pixels.
        prefix: how many tokens come before those of the image.
        padded: whether a patch that reaches over the edge counts.
    """
    to_whole = math.ceil if padded else math.floor
    rows, columns = (to_whole(size / step) for size, step in zip(_pair(image_size), _pair(stride), strict=True))
    return TokenLayout((rows, columns), prefix)


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _join_layers(model: nn.Module, layers: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
    """Join the layers of one resolution into one stage."""
    stages: list[tuple[str, ...]] = []
    for (name,) in layers:
        if stages and not _strides(model.get_submodule(name)):
            stages[-1] += (name,)
        else:
            stages.append((name,))
    return tuple(stages)


def _strides(layer: nn.Module) -> bool:
    from torch import nn

    return any(max(conv.stride) > 1 for conv in layer.modules() if isinstance(conv, nn.Conv2d))
