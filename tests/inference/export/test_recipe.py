"""The preprocessing inside the graph is the image processor's, or the export is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import (
    BaseImageProcessor,
    CLIPImageProcessor,
    ConvNextImageProcessor,
    DeiTImageProcessor,
    EfficientNetImageProcessor,
    LevitImageProcessor,
    MobileNetV2ImageProcessor,
    PerceiverImageProcessor,
    TimmWrapperImageProcessor,
    ViTImageProcessor,
    ViTImageProcessorPil,
)
from versions import OLD_RESIZE

from hfft.data.preprocessing import Pixels
from hfft.errors import ModelError
from hfft.inference.export.graphs import front_graph, prove, session_of
from hfft.inference.export.recipe import recipe_of
from hfft.inference.export.web import preprocessor_config


def timm(**changes: Any) -> BaseImageProcessor:
    config = {"input_size": [3, 40, 40], "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "crop_pct": 1.0}
    return TimmWrapperImageProcessor(pretrained_cfg=config | {"interpolation": "bicubic"} | changes)


SQUARE = {"height": 40, "width": 40}
FIT: dict[str, BaseImageProcessor] = {
    "vit, Pillow": ViTImageProcessorPil(size=SQUARE),
    "vit, torchvision": ViTImageProcessor(size=SQUARE),
    "vit, upright": ViTImageProcessor(size={"height": 48, "width": 32}, resample=3),
    "timm": timm(),
    "timm, cropped": timm(crop_pct=0.8),
    "timm, bilinear": timm(crop_pct=0.9, interpolation="bilinear"),
    "timm, stretched": timm(crop_mode="squash"),
    "convnext": ConvNextImageProcessor(size={"shortest_edge": 40}),
    "convnext, large": ConvNextImageProcessor(size={"shortest_edge": 384}),
    "clip": CLIPImageProcessor(size={"shortest_edge": 45}, crop_size=SQUARE),
    "deit": DeiTImageProcessor(size={"height": 50, "width": 50}, crop_size=SQUARE),
    "efficientnet": EfficientNetImageProcessor(size=SQUARE, include_top=True),
    "mobilenet": MobileNetV2ImageProcessor(),
}


@pytest.mark.parametrize("kind", FIT)
def test_the_graph_makes_the_processors_pixels(kind: str) -> None:
    pixels = Pixels(FIT[kind])
    recipe = recipe_of(pixels)
    prove(recipe, pixels)
    session = session_of(front_graph(recipe))
    random = np.random.default_rng(1)
    scale = np.reshape(recipe.scale, (3, 1, 1))
    for height, width in ((31, 140), (90, 47), (500, 333)):
        smooth = Image.fromarray(random.integers(0, 256, (5, 7, 3), np.uint8)).resize((width, height))
        image = np.asarray(smooth)
        expected = pixels(smooth)["pixel_values"].numpy()
        (found,) = session.run(None, {"images": np.stack([image, image[::-1]])})
        assert found.shape == (2, *expected.shape)
        levels = np.abs((found[0] - expected) / scale)
        assert levels.max() < 2.1, "of 255, by which Pillow and torchvision differ as well"
        assert levels.mean() < (0.2 if OLD_RESIZE else 0.1)


@pytest.mark.parametrize(
    ("processor", "why"),
    [
        (ViTImageProcessor(size=SQUARE, resample=1), "it resizes by lanczos"),
        (ViTImageProcessorPil(size=SQUARE, resample=0), "it resizes by nearest"),
        (ViTImageProcessor(do_resize=False), "it leaves images at their own size"),
        (LevitImageProcessor(), "levels"),  # it resizes to more than it says
        (PerceiverImageProcessor(), "it crops 256 x 256 pixels from 224 x 224"),
        (timm(crop_mode="border", crop_pct=0.9), "it takes the step ResizeKeepRatio"),
        (CLIPImageProcessor(do_center_crop=False), "inputs differ in shape"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_no_graph_repeats_is_refused(processor: BaseImageProcessor, why: str) -> None:
    pixels = Pixels(processor)
    with pytest.raises(ModelError, match=f"{type(processor).__name__} cannot be put into .*{why}.*bicubic"):
        prove(recipe_of(pixels), pixels)


def test_a_recipe_that_is_not_the_processors_is_refused() -> None:
    with pytest.raises(ModelError, match="differ by up to"):
        prove(recipe_of(Pixels(timm())), Pixels(timm(interpolation="bilinear")))


def test_an_order_of_channels_that_no_word_is_for_is_refused() -> None:
    recipe = replace(recipe_of(Pixels(timm())), channels=(1, 0, 2))
    with pytest.raises(ModelError, match=r"in the order \(1, 0, 2\); transformers.js knows"):
        preprocessor_config(recipe)


@pytest.mark.parametrize("kind", [kind for kind in FIT if kind != "mobilenet"])
def test_the_recipe_in_the_words_of_an_image_processor(kind: str) -> None:
    again = ViTImageProcessorPil(**preprocessor_config(recipe_of(Pixels(FIT[kind]))))
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (6, 9, 3), np.uint8)).resize((120, 77))
    found, expected = Pixels(again)(image)["pixel_values"], Pixels(FIT[kind])(image)["pixel_values"]
    assert found.shape == expected.shape
    assert (found - expected).abs().mean() < 0.02
