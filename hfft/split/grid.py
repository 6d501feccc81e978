"""How what one module hands the next lies on the image: as a feature map, or as a row of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

from torch import Tensor

from hfft.plugin.contract import TokenLayout


@dataclass(frozen=True)
class Grid:
    """Rows and columns of an activation.

    Args:
        rows: from top to bottom.
        columns: from left to right.
        channels_last: whether channels are the last dimension, as tokens and some maps have them.
        tokens: whether rows and columns share one dimension.
        prefix: how many tokens (class, distillation, registers) come before those of the grid.
    """

    rows: int
    columns: int
    channels_last: bool = False
    tokens: bool = False
    prefix: int = 0

    @property
    def places(self) -> int:
        """How many there are; what a pooling leaves has one."""
        return self.rows * self.columns

    def apart(self, values: Tensor) -> tuple[Tensor | None, Tensor]:
        """Part what lies on the grid from what comes before it.

        Args:
            values: shape (batch, channels, rows, columns), (batch, rows, columns, channels) or (batch, tokens,
                channels).

        Returns:
            Tokens before the grid, shape (batch, prefix, channels), or None; and the grid, channels first: a view of
            shape (batch, channels, rows, columns).
        """
        if self.tokens:
            placed = values[:, self.prefix :].unflatten(1, (self.rows, self.columns)).movedim(-1, 1)
            return values[:, : self.prefix] if self.prefix else None, placed
        return None, values.movedim(-1, 1) if self.channels_last else values


def grid_of(shape: tuple[int, ...], tokens: TokenLayout | None = None) -> Grid | None:
    """Return how an activation lies on the image.

    Args:
        shape: of one image's, without the batch dimension.
        tokens: the layout of the last block's tokens; an earlier block with another count of tokens is taken for a
            square grid, unless the layout says that it is none.

    Returns:
        None where it is not a grid.
    """
    if len(shape) == 3:
        # Height and width are most often equal, channels hardly ever equal to both.
        last = shape[0] == shape[1] != shape[2]
        rows, columns = shape[:2] if last else shape[1:]
        return Grid(rows, columns, channels_last=last)
    if len(shape) != 2:
        return None
    if tokens is not None and shape[0] == tokens.prefix + tokens.grid[0] * tokens.grid[1]:
        return Grid(*tokens.grid, channels_last=True, tokens=True, prefix=tokens.prefix)
    if tokens is not None and not tokens.earlier:
        return None
    side = isqrt(shape[0])
    return Grid(side, side, channels_last=True, tokens=True) if side * side == shape[0] else None
