"""Flips of maps and tokens, and how they are held against those of images."""

from __future__ import annotations

import pytest
import torch

from hfft.plugin.contract import TokenLayout
from hfft.training.augmentation.flips import flip

LAYOUT = TokenLayout((2, 3), 1)


@pytest.mark.parametrize(
    ("shape", "axis"), [((5, 2, 3), -1), ((4, 4, 5), -2), ((7, 5), None), ((9, 5), None), ((5,), None), ((8, 5), None)]
)
def test_left_and_right_change_places(shape: tuple[int, ...], axis: int | None) -> None:
    values = torch.randn(2, *shape)
    flipped = flip(values, torch.tensor([True, False]), LAYOUT)
    assert torch.equal(flipped[1], values[1])
    if axis is not None:
        assert torch.equal(flipped[0], values[0].flip(axis))
    elif shape == (7, 5):  # a class token, then two rows of three
        assert flipped[0, :, 0].tolist() == values[0, [0, 3, 2, 1, 6, 5, 4], 0].tolist()
    elif shape == (9, 5):  # of an earlier block: taken for a square
        assert flipped[0, :, 0].tolist() == values[0, [2, 1, 0, 5, 4, 3, 8, 7, 6], 0].tolist()
    else:
        assert torch.equal(flipped, values)
