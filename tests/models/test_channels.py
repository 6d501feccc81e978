"""A model of one channel is fed grey; one of neither one nor three is refused before anything is computed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finished import make_images, run_finetune
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    TimmWrapperImageProcessor,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

import hfft
from hfft.arguments import ModelArguments
from hfft.cli import main
from hfft.data.preprocessing import Pixels, reads_grey
from hfft.errors import ModelError
from hfft.explain.pipeline import pipeline_trace
from hfft.models.load import load_model


def _resnet(channels: int) -> PreTrainedModel:
    config = ResNetConfig(
        num_channels=channels, embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    )
    return ResNetForImageClassification(config)


def _vit(channels: int) -> PreTrainedModel:
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    return ViTForImageClassification(ViTConfig(num_channels=channels, image_size=32, patch_size=8, **sizes))


def _timm(channels: int) -> PreTrainedModel:
    config = TimmWrapperConfig(architecture="resnet18", model_args={"in_chans": channels})
    config.pretrained_cfg = {"input_size": [channels, 32, 32], "mean": [0.5], "std": [0.5], "crop_pct": 1.0}
    return TimmWrapperForImageClassification(config)


def _timm_of_three(channels: int) -> PreTrainedModel:
    """A timm model whose first convolution was changed, and whose ``pretrained_cfg`` was not."""
    model = _timm(channels)
    model.config.pretrained_cfg = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0}
    return model


KINDS: dict[str, Callable[[int], PreTrainedModel]] = {
    "resnet": _resnet,
    "vit": _vit,
    "timm": _timm,
    "timm_of_three": _timm_of_three,
}


def _folder(place: Path, kind: str, channels: int, **processor: Any) -> Path:
    torch.manual_seed(0)
    model = KINDS[kind](channels)
    model.save_pretrained(place)
    if "timm" in kind:
        TimmWrapperImageProcessor(pretrained_cfg=model.config.pretrained_cfg).save_pretrained(place)
    else:
        ViTImageProcessor(size={"height": 32, "width": 32}, **processor).save_pretrained(place)
    return place


@pytest.mark.parametrize("kind", ["resnet", "timm"])
@pytest.mark.parametrize("channels", [2, 4])
def test_other_channels_are_refused_before_weights_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, channels: int
) -> None:
    folder = _folder(tmp_path / "model", kind, channels)
    (folder / "model.safetensors").write_bytes(b"not a model")
    images = str(make_images(tmp_path / "images"))
    for command in (
        ["plan", "--model_name_or_path", str(folder)],
        ["finetune", "--model_name_or_path", str(folder), "--train_dir", images, "--output_dir", str(tmp_path / "run")],
        ["predict", "x.png", "--model", str(folder)],
        ["evaluate", "--model", str(folder), "--validation_dir", images, "--output_dir", str(tmp_path / "evaluation")],
    ):
        assert main(command) == 1, command
        printed = capsys.readouterr().err
        assert f"reads {channels} channels; hfft gives 3 (red, green and blue) or 1 (grey)" in printed


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_one_channel_is_fed_grey(tmp_path: Path, kind: str) -> None:
    folder = _folder(tmp_path / "model", kind, 1)
    images = make_images(tmp_path / "images")
    run = run_finetune(folder, images, tmp_path / "run")
    assert any("grey" in note for note in run.setup.base.notes)
    classifier = hfft.load_classifier(tmp_path / "run")
    picture = Image.open(images / "red" / "0.png")
    mine = classifier.logits({"pixel_values": classifier.pixels(picture)["pixel_values"][None]})

    stock = AutoModelForImageClassification.from_pretrained(tmp_path / "run").eval()
    processor = AutoImageProcessor.from_pretrained(tmp_path / "run")
    inputs = processor(picture.convert("L"), return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 1, 32, 32)
    with torch.no_grad():
        assert torch.allclose(stock(**inputs).logits, mine, atol=1e-6)

    card = (tmp_path / "run" / "README.md").read_text()
    assert 'convert("L")' in card
    assert 'pipeline("image-classification"' not in card
    seen = pipeline_trace(classifier, picture).seen
    assert seen is not None
    red, green, _ = seen.split()
    assert red.tobytes() == green.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_another_image_size_keeps_the_one_channel(tmp_path: Path, kind: str) -> None:
    folder = _folder(tmp_path / "model", kind, 1)
    _, processor, _ = load_model(ModelArguments(model_name_or_path=str(folder), image_size=64), ["a", "b"])
    assert Pixels(processor)(Image.new("RGB", (50, 40)))["pixel_values"].shape == (1, 64, 64)


def test_grey_is_pillows(tmp_path: Path) -> None:
    _, processor, _ = load_model(ModelArguments(model_name_or_path=str(_folder(tmp_path / "m", "vit", 1))), ["a", "b"])
    flat = Image.new("RGB", (32, 32), (200, 30, 90))
    value = Pixels(processor)(flat)["pixel_values"].unique()
    grey = int(np.asarray(flat.convert("L"))[0, 0])
    assert value.tolist() == pytest.approx([(grey / 255 - 0.5) / 0.5], abs=1e-6)


def test_which_of_several_means_is_greys_is_not_guessed(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "model", "vit", 1, image_mean=[0.485, 0.456, 0.406])
    with pytest.raises(ModelError, match=r"reads 1 channel, but its image processor normalises 3 by unlike numbers"):
        load_model(ModelArguments(model_name_or_path=str(folder)), ["a", "b"])


def test_one_mean_for_three_channels_stays_in_colour(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "model", "vit", 3, image_mean=[0.4], image_std=[0.5])
    assert json.loads((folder / "preprocessor_config.json").read_text())["image_mean"] == [0.4]
    _, processor, base = load_model(ModelArguments(model_name_or_path=str(folder)), ["a", "b"])
    assert not reads_grey(processor)
    assert not any("grey" in note for note in base.notes)
    picture = Image.new("RGB", (32, 32), (200, 30, 90))
    red, green, blue = (channel.unique().item() for channel in Pixels(processor)(picture)["pixel_values"])
    assert [red, green, blue] == pytest.approx([(value / 255 - 0.4) / 0.5 for value in (200, 30, 90)], abs=1e-6)
