"""A plugin of one row: what an outsider writes."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from hfft.errors import PluginError, UnsupportedModelError
from hfft.jobs.check_plugin import check_model
from hfft.plugin.contract import TokenLayout
from hfft.plugin.table import Row, TablePlugin, token_grid


class TinyConfig(PreTrainedConfig):
    model_type = "tiny"


class TinyModel(PreTrainedModel):
    config_class = TinyConfig

    def __init__(self, config: TinyConfig) -> None:
        super().__init__(config)
        self.layers = nn.Sequential(_convolution(1), _convolution(2), _convolution(1), _convolution(2))
        self.classifier = nn.Linear(3, 3)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor]:
        return (self.classifier(self.layers(pixel_values).mean((2, 3))),)


class Tiny(TablePlugin):
    rows: ClassVar = {"tiny": Row("", "layers.*", "", "classifier", flat=True), "huge": Row("", "blocks.*", "", "head")}
    refused: ClassVar = {"odd": "it has no head"}


def test_a_plugin_speaks_for_its_rows_and_its_refusals() -> None:
    assert Tiny().model_types == {"tiny", "huge", "odd"}


def test_a_stage_begins_at_each_layer_that_strides() -> None:
    assert Tiny().anatomy(TinyModel(TinyConfig())).blocks == (("layers.0",), ("layers.1", "layers.2"), ("layers.3",))


def test_a_row_passes_every_check_but_the_reload_that_needs_a_registered_class() -> None:
    torch.manual_seed(0)
    model = TinyModel(TinyConfig())
    model.train(False)
    results = check_model(model, {"pixel_values": torch.randn(3, 3, 8, 8)}, Tiny().anatomy(model))
    assert {result.name for result in results if not result.ok} <= {"reload"}


def test_a_row_that_does_not_fit_says_what_is_missing() -> None:
    config = TinyConfig()
    config.model_type = "huge"  # type: ignore[misc]
    with pytest.raises(PluginError, match=r"the model has nothing called 'blocks\.\*'"):
        Tiny().anatomy(TinyModel(config))


def test_a_refusal_names_the_type_and_the_reason() -> None:
    config = TinyConfig()
    config.model_type = "odd"  # type: ignore[misc]
    with pytest.raises(UnsupportedModelError, match="model type 'odd': it has no head"):
        Tiny().anatomy(TinyModel(config))


def test_a_grid_counts_patches_over_the_edge_where_they_are_padded() -> None:
    assert token_grid(33, 16) == TokenLayout((3, 3))
    assert token_grid(33, 16, padded=False) == TokenLayout((2, 2))
    assert token_grid((32, 64), (16, 8), prefix=1) == TokenLayout((2, 8), 1)


def _convolution(stride: int) -> nn.Conv2d:
    return nn.Conv2d(3, 3, 3, stride=stride, padding=1)
