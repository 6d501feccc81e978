"""MixUp and CutMix: an image and its label, with a share of another image and of its label.

MixUp: Zhang et al., "mixup: beyond empirical risk minimization", ICLR 2018; of activations it is manifold mixup at that
layer (Verma et al., "Manifold mixup: better representations by interpolating hidden states", ICML 2019). CutMix: Yun et
al., "CutMix: regularization strategy to train strong classifiers with localizable features", ICCV 2019.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hfft.split.grid import Grid


@dataclass(frozen=True)
class Mixing:
    """How much of the batches is mixed, and how.

    Args:
        mixup: alpha of the Beta distribution that shares are drawn from; 0 for none.
        cutmix: the same of the areas that are cut out; 0 for none. Beside MixUp, every other batch on average.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def __bool__(self) -> bool:
        return bool(self.mixup or self.cutmix)

    def draw(self, seed: int, grid: Grid | None) -> Mix:
        """Draw how the images of one batch are mixed.

        As in the paper, a box's middle lies anywhere and what sticks out of the image is cut off. Its sides are rounded
        to whole places, and the share is what it leaves.

        Args:
            seed: of the batch.
            grid: that boxes are cut on; needed for CutMix.
        """
        random = np.random.RandomState(seed % 2**32)  # whose stream numpy promises
        cuts = bool(self.cutmix) and (not self.mixup or random.random_sample() < 0.5)
        alpha = self.cutmix if cuts else self.mixup
        share, (row, column) = float(random.beta(alpha, alpha)), random.random_sample(2).tolist()
        if not cuts or grid is None:
            return Mix(share)
        edge = (1 - share) ** 0.5
        (top, bottom), (left, right) = _span(row, edge, grid.rows), _span(column, edge, grid.columns)
        return Mix(1 - (bottom - top) * (right - left) / grid.places, (top, bottom, left, right))


@dataclass(frozen=True)
class Mix:
    """How the images of one batch are mixed.

    Args:
        share: of the image itself, 0 to 1.
        box: that its partner fills: first row, end of rows, first column, end of columns; None to blend the whole of
            both.
    """

    share: float
    box: tuple[int, int, int, int] | None = None

    def values(self, own: Tensor, others: Tensor, grid: Grid | None) -> Tensor:
        """Mix what a batch holds with what its partners hold; whole numbers are left alone.

        Args:
            own: shape (batch, ...).
            others: of the partners, in the same shape.
            grid: how both lie on the image; what does not is blended, and so are tokens that stand for all of it.
        """
        if not own.is_floating_point():
            return own
        if self.box is None or grid is None:
            return torch.lerp(others, own, self.share)
        mixed = own.clone()
        before, placed = grid.apart(mixed)
        top, bottom, left, right = self.box
        placed[..., top:bottom, left:right] = grid.apart(others)[1][..., top:bottom, left:right]
        if before is not None:
            before.lerp_(others[:, : grid.prefix], 1 - self.share)
        return mixed

    def labels(self, own: Tensor, others: Tensor) -> Tensor:
        """Mix labels that are shares or numbers, in float32."""
        return torch.lerp(others, own, self.share)


def _span(middle: float, share: float, count: int) -> tuple[int, int]:
    """Return begin and end of a stretch of a share of so many places, around a middle."""
    length = round(share * count)
    begin = round(middle * count - length / 2)
    return max(begin, 0), min(begin + length, count)
