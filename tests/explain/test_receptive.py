"""What a cell sees: as much as the convolutions before it reach, and all of the picture through attention."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from finished import make_images, make_model, run_finetune
from PIL import Image
from torch import nn

from hfft.explain.receptive import SHARE, _side, receptive_fields
from hfft.inference.classifier import load_classifier


@pytest.mark.parametrize("layers", [1, 3])
def test_it_is_what_convolutions_reach(layers: int) -> None:
    """All weights are alike, so the gradient is that of a row of ones, convolved with itself once a layer."""
    model = nn.Sequential(*[nn.Conv2d(1, 1, 3, padding=1, bias=False) for _ in range(layers)])
    for weight in model.parameters():
        nn.init.constant_(weight, 1.0)
    pixels = torch.ones(1, 1, 33, 33, requires_grad=True)
    side = _side(model(pixels)[0], pixels)
    line = np.array([1])
    for _ in range(layers):
        line = np.convolve(line, [1, 1, 1])
    weights = np.outer(line, line) / line.sum() ** 2
    reach = next(
        reach
        for reach in range(layers + 1)
        if weights[layers - reach : layers + reach + 1, layers - reach : layers + reach + 1].sum() >= SHARE - 1e-6
    )
    assert side == pytest.approx(2 * reach / 33, abs=1e-5)


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_it_never_shrinks_with_depth_and_changes_nothing(kind: str, tmp_path: Path) -> None:
    base, images = make_model(tmp_path / "base", kind=kind), make_images(tmp_path / "images", count=2)
    run_finetune(base, images, tmp_path / "run")
    classifier = load_classifier(tmp_path / "run", device="cpu")
    image = Image.open(images / "red" / "0.png")
    fields = receptive_fields(classifier, image)
    sides = list(fields.values())
    assert next(iter(fields)) == "stem"
    assert 0 < sides[0] <= sides[-1] <= 2
    if kind == "resnet":  # a ViT of small random weights looks at little but its own patches
        assert sides[0] < sides[-1]
    assert all(parameter.grad is None for parameter in classifier.model.parameters())
    assert receptive_fields(classifier, image) == pytest.approx(fields)
