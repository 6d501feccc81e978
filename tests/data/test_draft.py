"""Large JPEGs: decoded at a fraction of their size, close to the whole, and the same wherever a model looks at them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runs import Job, record
from transformers import TimmWrapperImageProcessor, ViTImageProcessor

from hfft.data.images import open_image
from hfft.data.preprocessing import Pixels, resized_edge
from hfft.inference.classifier import load_classifier

VIT = ViTImageProcessor(size={"height": 64, "width": 64})


def photo(path: Path, size: tuple[int, int], **options: object) -> Path:
    """Write a picture that is smooth, as photos are when they are seen from far."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(path, **options)  # type: ignore[arg-type]
    return path


@pytest.mark.parametrize(
    ("least", "size"),
    [
        (None, (1600, 1200)),
        (1201, (1600, 1200)),
        (601, (1600, 1200)),
        (600, (800, 600)),
        (301, (800, 600)),
        (300, (400, 300)),
        (10, (200, 150)),
    ],
)
def test_a_jpeg_keeps_as_many_pixels_as_are_needed(least: int | None, size: tuple[int, int], tmp_path: Path) -> None:
    image = open_image(str(photo(tmp_path / "photo.jpg", (1600, 1200))), "photo", least)
    assert image.size == size


def test_other_formats_are_decoded_whole(tmp_path: Path) -> None:
    assert open_image(str(photo(tmp_path / "photo.png", (1600, 1200))), "photo", 10).size == (1600, 1200)
    assert open_image(str(photo(tmp_path / "photo.webp", (1600, 1200))), "photo", 10).size == (1600, 1200)


def test_a_turned_jpeg_is_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = open_image(str(photo(tmp_path / "photo.jpg", (1600, 1200), exif=exif)), "photo", 300)
    assert image.size == (300, 400)


def test_pixels_hardly_change_and_exact_leaves_them(tmp_path: Path) -> None:
    path = str(photo(tmp_path / "photo.jpg", (1600, 1200), quality=95))
    pixels, exact = Pixels(VIT), Pixels(VIT, exact=True)
    assert (pixels.least, exact.least) == (128, None)
    quick = pixels(open_image(path, "photo", pixels.least))["pixel_values"]
    whole = exact(open_image(path, "photo", exact.least))["pixel_values"]
    assert not torch.equal(quick, whole)
    assert float((quick - whole).abs().mean()) < 0.02  # of a range of 2
    assert pixels.fingerprint() != exact.fingerprint()


def test_the_edge_is_read_off_each_kind_of_processor() -> None:
    cfg = {"input_size": [3, 224, 224], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 0.875}
    timm = TimmWrapperImageProcessor(pretrained_cfg=cfg)
    assert timm.val_transforms.transforms[0].size == 256
    assert resized_edge(timm) == 256
    assert resized_edge(ViTImageProcessor(size={"shortest_edge": 300})) == 300
    assert resized_edge(ViTImageProcessor(size={"height": 20, "width": 30})) == 30
    assert resized_edge(ViTImageProcessor(do_resize=False)) is None
    assert Pixels(VIT, "crop").least == 256


@pytest.mark.parametrize("exact", [False, True])
def test_prediction_decodes_as_training_did(exact: bool, job: Job) -> None:
    folder = job("resnet", "run", "--exact", str(exact))
    assert record(folder)["arguments"]["exact"] is exact
    assert load_classifier(folder).pixels.least == (None if exact else 64)


def test_a_model_of_before_decodes_whole(job: Job) -> None:
    folder = job("resnet", "run")
    data = json.loads((folder / "hfft.json").read_text())
    del data["arguments"]["exact"]
    (folder / "hfft.json").write_text(json.dumps(data))
    assert load_classifier(folder).pixels.least is None
