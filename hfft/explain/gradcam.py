"""Class activation maps: where in the image the evidence for a class lies.

Grad-CAM of Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization", ICCV 2017 (https://arxiv.org/abs/1610.02391): the gradient of the class's logit, averaged over
positions, weighs the channels of a late feature map. Ready-made versions take channels from the second
dimension, where a transformer keeps its tokens; here the anatomy's token layout says which is which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (its usual name)
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from hfft.explain.forward_pass import called_modules, first_tensor
from hfft.models.forward import logits_of
from hfft.plugin.contract import Anatomy, TokenLayout
from hfft.split.grid import grid_of


@dataclass(frozen=True)
class ActivationMap:
    """Where the evidence for one class lies.

    Args:
        part: of the anatomy, whose output was weighed: the last block, or an earlier one (see
            `class_activation_map`).
        label: number of the class.
        values: shape (rows, columns), from 0 to 1; all 0 where nothing speaks for the class.
    """

    part: str
    label: int
    values: NDArray[np.float32]


def class_activation_map(
    model: nn.Module, anatomy: Anatomy, inputs: Mapping[str, Tensor], label: int | None = None
) -> ActivationMap | None:
    """Return the Grad-CAM of one image.

    It is taken at the output of the last block that the logit depends on at more than one position: a head
    that reads the class token alone gives the last block's other tokens no gradient, so there the block
    before is taken.

    Args:
        model: in eval mode.
        anatomy: of the model.
        inputs: one image's model inputs, with a batch dimension of 1, on the model's device.
        label: number of the class; None for the most likely.

    Returns:
        The map, or None where no block's output lies on the image as a grid.
    """
    for number in range(len(anatomy.blocks), 0, -1):
        found = _at_block(model, anatomy, number, inputs, label)
        if found is not None:
            return found
    return None


def feature_maps(output: Tensor, tokens: TokenLayout | None = None) -> Tensor | None:
    """Lay one image's output of a block on the image.

    Args:
        output: shape (1, channels, height, width), (1, height, width, channels) or (1, tokens, dim).
        tokens: the layout of the last block's tokens; an earlier block with another count of tokens is taken
            for a square grid.

    Returns:
        Shape (channels, height, width), or None where the output is not a grid, or is one of several pieces.
    """
    grid = grid_of(tuple(output.shape[1:]), tokens) if len(output) == 1 else None
    return None if grid is None else grid.apart(output)[1][0]


def overlay(image: Image.Image, values: NDArray[np.float32], opacity: float = 0.5) -> Image.Image:
    """Lay a map over an image.

    Args:
        image: in RGB.
        values: shape (rows, columns), 0 to 1.
        opacity: of the map, 0 to 1.
    """
    heat = heat_image(values).resize(image.size, Image.Resampling.BICUBIC)
    return Image.blend(image, heat, min(max(opacity, 0.0), 1.0))


def heat_image(values: NDArray[np.float32]) -> Image.Image:
    """Colour values from 0 to 1, shape (rows, columns), with matplotlib's magma, dark to bright."""
    import matplotlib

    colours = matplotlib.colormaps["magma"](np.clip(values, 0, 1))[..., :3]
    return Image.fromarray((colours * 255).astype(np.uint8))


def _at_block(
    model: nn.Module, anatomy: Anatomy, number: int, inputs: Mapping[str, Tensor], label: int | None
) -> ActivationMap | None:
    modules = called_modules(model, anatomy.blocks[number - 1])
    if not modules:
        return None
    kept: list[Tensor] = []
    handle = modules[-1].register_forward_hook(_leaf_hook(kept))
    try:
        with torch.no_grad():  # up to the hook, which leaves a graph of what comes after it alone
            logits = logits_of(model(**inputs))
            if not kept or not logits.requires_grad:
                return None
            chosen = int(logits[0].argmax()) if label is None else label
            (gradient,) = torch.autograd.grad(logits[0, chosen], kept[-1], allow_unused=True)
    finally:
        handle.remove()
    if gradient is None:
        return None
    maps, slopes = feature_maps(kept[-1].detach(), anatomy.tokens), feature_maps(gradient, anatomy.tokens)
    if maps is None or slopes is None or min(maps.shape[1:]) < 2 or not slopes.any():
        return None
    weighed = F.relu((slopes.mean(dim=(1, 2), keepdim=True) * maps).sum(0)).float().cpu()
    values = (weighed / weighed.max().clamp_min(1e-12)).numpy()
    return ActivationMap(f"block {number}", chosen, values)


def _leaf_hook(kept: list[Tensor]) -> Any:
    """A hook that begins the graph at a module's output."""

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        tensor = first_tensor(output)
        if tensor is None:
            return None
        torch.set_grad_enabled(True)
        leaf = tensor.detach().requires_grad_()
        kept.append(leaf)
        # A clone: the next module may work in place, which a leaf forbids.
        return _replaced(output, leaf.clone())

    return hook


def _replaced(output: Any, tensor: Tensor) -> Any:
    if isinstance(output, Tensor):
        return tensor
    return type(output)([_replaced(output[0], tensor), *output[1:]])
