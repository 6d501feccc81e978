"""Frozen feature augmentation: brightness, contrast and posterise of activations, each channel by itself.

Bär et al., "Frozen Feature Augmentation for Few-Shot Image Classification", CVPR 2024 (arXiv:2403.10519). Values are
taken to 0 .. 1 by the smallest and the largest of each channel, changed as those of a picture would be, and taken back;
what is drawn, is drawn for each channel (the paper's c²FroFA). A pooled vector has one value of each channel: there the
smallest and the largest are those of the whole vector (its cFroFA).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hfft.arguments.augmentation import BITS, FeatureStep

Draw = Callable[[int], Tensor]
"""Numbers drawn evenly between 0 and 1: from how many for each image to (batch, so many)."""


def augment_features(values: Tensor, steps: tuple[FeatureStep, ...], draw: Draw) -> Tensor:
    """Return activations with all steps applied, in the number format that they came in.

    Args:
        values: shape (batch, channels, ...), floating-point.
        steps: in order.
        draw: what is random.
    """
    flat = values.float().reshape(*values.shape[:2], -1)
    over = (2,) if flat.shape[2] > 1 else (1, 2)
    low, high = flat.amin(over, keepdim=True), flat.amax(over, keepdim=True)
    width = high - low
    scaled = (flat - low) / width.clamp_min(torch.finfo(torch.float32).tiny)
    for step in steps:
        scaled = _changed(scaled, step, draw)
    changed = torch.where(width > 0, scaled * width + low, flat)
    return changed.reshape(values.shape).to(values.dtype)


def _changed(scaled: Tensor, step: FeatureStep, draw: Draw) -> Tensor:
    """Change values of 0 .. 1, shape (batch, channels, places), each channel by a number of its own."""
    drawn = draw(scaled.shape[1])[:, :, None].to(scaled)
    if step.name == "brightness":
        return scaled + step.strength * (2 * drawn - 1)
    if step.name == "contrast":
        middle = scaled.mean(2 if scaled.shape[2] > 1 else 1, keepdim=True)
        return middle + (scaled - middle) * (1 + step.strength * (2 * drawn - 1))
    levels = 2 ** (step.strength + torch.floor(drawn * (BITS - step.strength)))
    return torch.minimum(torch.floor(scaled * levels), levels - 1) / (levels - 1)
