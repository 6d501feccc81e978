"""A processor that keeps each image's shape: one line that names two images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from transformers import ViTImageProcessor

from hfft.cli import main


@pytest.mark.parametrize("flags", [(), ("--cache", "off")])
@pytest.mark.parametrize("odd", [1, 7])  # among the first images, which the model is probed with, and among the last
def test_two_images_are_named(
    pretrained: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: tuple[str, ...],
    odd: int,
) -> None:
    model = pretrained("resnet")
    ViTImageProcessor(do_resize=False).save_pretrained(model)
    for label in "ab":
        (tmp_path / "x" / label).mkdir(parents=True)
        for number in range(8):
            size = (40, 50) if (label, number) == ("a", odd) else (40, 40)
            Image.new("RGB", size, (number, 9, 9)).save(tmp_path / "x" / label / f"{number}.png")
    folder = str(tmp_path / "x")
    given = ["--train_dir", folder, "--validation_dir", folder, "--model_name_or_path", str(model), *flags]
    assert main(["finetune", *given, "--output_dir", str(tmp_path / "out"), "--baselines", "none"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"a/{odd}.png (3 x 50 x 40)" in error
    assert "--image_size" in error
