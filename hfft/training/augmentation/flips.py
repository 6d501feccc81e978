"""Flips of cached activations from left to right, and how much they are those of the flipped images.

Convolutions with symmetric kernels give flipped maps for flipped images where their strides keep the middle. Those of
trained networks come near that (Lenc and Vedaldi, "Understanding image representations by measuring their equivariance
and equivalence", CVPR 2015); position embeddings do not. So it is measured.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hfft.plugin.contract import TokenLayout
from hfft.split.grid import grid_of
from hfft.split.halves import Prefix

BOUND = 0.5
"""Largest difference at which maps may be flipped."""


def flip(values: Tensor, which: Tensor, tokens: TokenLayout | None) -> Tensor:
    """Flip the activations of some images of a batch; those that are not on a grid stay as they are.

    Args:
        values: shape (batch, ...).
        which: shape (batch,), of booleans.
        tokens: the anatomy's layout of tokens.
    """
    grid = grid_of(tuple(values.shape[1:]), tokens)
    if grid is None:
        return values
    flipped = values.clone()
    placed = grid.apart(flipped)[1]
    placed[which] = placed[which].flip(-1)
    return flipped


def flip_difference(prefix: Prefix, inputs: dict[str, Tensor], tokens: TokenLayout | None) -> float:
    """Return how far flipped activations are from those of flipped images.

    Args:
        prefix: what computes them.
        inputs: of a few images, pixels of shape (batch, channels, height, width).
        tokens: the anatomy's layout of tokens.

    Returns:
        Norm of the difference over the norm of the activations: 0 where they are the same, 1.4 where they have nothing
        to do with each other.
    """
    every = torch.ones(next(iter(inputs.values())).shape[0], dtype=torch.bool)
    turned = {name: tensor.flip(-1) if tensor.ndim == 4 else tensor for name, tensor in inputs.items()}
    true, cheap = prefix.capture(turned), prefix.capture(inputs)
    numbers = [name for name, tensor in true.items() if tensor.is_floating_point()]
    far = sum(float((flip(cheap[name].float(), every, tokens) - true[name].float()).square().sum()) for name in numbers)
    size = sum(float(true[name].float().square().sum()) for name in numbers)
    return float((far / size) ** 0.5) if size else 0.0
