"""What a model's image processor does, in numbers that a graph can hold: resize, crop, scale, shift."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from hfft.data.preprocessing import Pixels, is_timm
from hfft.errors import ModelError, one_line

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, TimmWrapperImageProcessor

KERNELS = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers for the ways to resize that a graph can repeat."""
_CROPPED_BELOW = 384  # ConvNeXt's processor stretches images to this size and above, and crops below


@dataclass(frozen=True)
class Geometry:
    """Where the pixels of the model's input come from.

    Args:
        kernel: ``bilinear`` or ``bicubic``, both wide enough to leave no aliasing.
        crop: height and width of the input, cut from the centre of the resized image.
        edge: what the shorter side is resized to, with the image's aspect; None where images are stretched.
        stretched: height and width that images are stretched to; None where they keep their aspect.
        even: the corner of the crop is rounded half to even, as torchvision does; else down.
    """

    kernel: str
    crop: tuple[int, int]
    edge: int | None = None
    stretched: tuple[int, int] | None = None
    even: bool = False


@dataclass(frozen=True)
class Recipe:
    """How an image becomes the model's input ``pixel_values`` of shape (3, height, width).

    Args:
        geometry: from which pixels.
        channels: which of red, green and blue (0, 1, 2) each channel of the input is made of.
        scale: factor of each channel, on values of 0 to 255.
        offset: what is added to each channel after that.
    """

    geometry: Geometry
    channels: tuple[int, ...]
    scale: tuple[float, ...]
    offset: tuple[float, ...]


def recipe_of(pixels: Pixels) -> Recipe:
    """Read the recipe off an image processor; `hfft.inference.export.graphs.prove` holds it against the processor.

    Raises:
        ModelError: the processor does what no recipe says.
    """
    processor = pixels.processor
    try:
        geometry = _of_timm(processor) if is_timm(processor) else _of_settings(processor.to_dict())
        channels, scale, offset = _colours(pixels)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise unfit(processor, one_line(error)) from error
    return Recipe(geometry, channels, scale, offset)


def unfit(processor: BaseImageProcessor, why: str) -> ModelError:
    """Return the error of a processor that no graph repeats."""
    return ModelError(
        f"the preprocessing of {type(processor).__name__} cannot be put into the exported file: {why}; export takes "
        "processors that resize (bilinear or bicubic), crop the centre and normalize"
    )


def _of_timm(processor: TimmWrapperImageProcessor) -> Geometry:
    kernel, resized, crop = "", None, None
    for step in processor.val_transforms.transforms:
        name = type(step).__name__
        if name == "Resize":
            kernel, resized = str(step.interpolation.value), step.size
        elif name == "CenterCrop":
            crop = step.size
        elif name not in ("ToTensor", "MaybeToTensor", "Normalize"):
            raise ValueError(f"it takes the step {name}")
    if kernel not in KERNELS.values():
        raise ValueError(f"it resizes by {kernel or 'no kernel'}")
    sides = (resized, resized) if isinstance(resized, int) else tuple(resized or ())
    size = tuple(crop) if crop is not None else sides
    if not isinstance(resized, int) and len(sides) == 2 and size == sides:
        return Geometry(kernel, (int(size[0]), int(size[1])), stretched=(int(size[0]), int(size[1])))
    return _cropped(kernel, int(sides[0]) if len(sides) != 2 or sides[0] == sides[1] else -1, size, even=True)


def _of_settings(settings: dict[str, Any]) -> Geometry:
    if not settings.get("do_resize"):
        raise ValueError("it leaves images at their own size")
    number = int(settings["resample"])
    if number not in KERNELS:
        raise ValueError(f"it resizes by {Image.Resampling(number).name.lower()}")
    kernel = KERNELS[number]
    size = {name: value for name, value in settings["size"].items() if value is not None}
    crop = settings["crop_size"] if settings.get("do_center_crop") else None
    wanted = (int(crop["height"]), int(crop["width"])) if crop else None
    if set(size) == {"height", "width"}:
        both = int(size["height"]), int(size["width"])
        crop_to = wanted or both
        if crop_to[0] > both[0] or crop_to[1] > both[1]:
            raise ValueError(f"it crops {crop_to[0]} x {crop_to[1]} pixels from {both[0]} x {both[1]}")
        return Geometry(kernel, crop_to, stretched=both)
    if set(size) != {"shortest_edge"}:
        raise ValueError(f"its size is given by {', '.join(sorted(size))}")
    edge = int(size["shortest_edge"])
    if wanted is None and settings.get("crop_pct") is not None:
        if edge >= _CROPPED_BELOW:
            return Geometry(kernel, (edge, edge), stretched=(edge, edge))
        return _cropped(kernel, int(edge / settings["crop_pct"]), (edge, edge))
    return _cropped(kernel, edge, wanted or ())


def _cropped(kernel: str, edge: int, size: tuple[int, ...], even: bool = False) -> Geometry:
    if len(size) != 2:
        raise ValueError("it keeps an image's aspect, so that inputs differ in shape")
    if edge < max(size):
        raise ValueError(f"it crops {size[0]} x {size[1]} pixels from images of {edge}")
    return Geometry(kernel, (int(size[0]), int(size[1])), edge, even=even)


def _colours(pixels: Pixels) -> tuple[tuple[int, ...], tuple[float, ...], tuple[float, ...]]:
    """Find what becomes of colours by showing the processor images of one colour each."""
    black = _shown(pixels, (0, 0, 0))
    changes = np.stack([_shown(pixels, [255 * (place == each) for each in range(3)]) - black for place in range(3)])
    channels = np.abs(changes).argmax(axis=0)
    full = changes[channels, np.arange(3)]
    grey = _shown(pixels, (100, 100, 100))
    if np.abs(changes).sum() - np.abs(full).sum() > 1e-4 or np.abs(black + full * (100 / 255) - grey).max() > 1e-4:
        raise ValueError("it changes colours by more than a factor and a shift")
    scale = full / 255
    return tuple(map(int, channels)), tuple(map(float, scale)), tuple(map(float, black))


def _shown(pixels: Pixels, colour: tuple[int, ...] | list[int]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the three values that the middle of an image of one colour has in the model's input."""
    inputs = pixels(Image.new("RGB", (640, 640), tuple(colour)))
    if set(inputs) != {"pixel_values"} or inputs["pixel_values"].ndim != 3 or len(inputs["pixel_values"]) != 3:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in inputs.items())
        raise ValueError(f"it makes {shapes}")
    values = inputs["pixel_values"]
    return values[:, values.shape[1] // 2, values.shape[2] // 2].cpu().double().numpy()
