"""Models that do not read three channels are refused where they are loaded, in a line that says so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    TimmWrapperImageProcessor,
    ViTImageProcessor,
)

from hfft.cli import main


def _resnet(channels: int) -> PreTrainedModel:
    config = ResNetConfig(
        num_channels=channels, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    )
    return ResNetForImageClassification(config)


def _timm(channels: int) -> PreTrainedModel:
    config = TimmWrapperConfig(architecture="resnet18", model_args={"in_chans": channels})
    config.pretrained_cfg = {"input_size": [channels, 32, 32], "mean": [0.5], "std": [0.5], "crop_pct": 1.0}
    return TimmWrapperForImageClassification(config)


@pytest.mark.parametrize("kind", ["resnet", "timm"])
@pytest.mark.parametrize(("channels", "words"), [(1, "reads 1 channel;"), (4, "reads 4 channels;")])
def test_other_channels_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, channels: int, words: str
) -> None:
    torch.manual_seed(0)
    model = _resnet(channels) if kind == "resnet" else _timm(channels)
    folder = tmp_path / "grey"
    model.save_pretrained(folder)
    if kind == "timm":
        TimmWrapperImageProcessor(pretrained_cfg=model.config.pretrained_cfg).save_pretrained(folder)
    else:
        ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    for command in (["plan", "--model_name_or_path", str(folder)], ["predict", "x.png", "--model", str(folder)]):
        assert main(command) == 1
        printed = capsys.readouterr().err
        assert words in printed
        assert "--image_size" not in printed
