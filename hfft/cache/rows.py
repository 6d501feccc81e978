"""How an activation is kept: a row of numbers as they are, narrower, or in eight bits with a scale for each channel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hfft.errors import ModelError
from hfft.split.grid import grid_of
from hfft.split.split import Leaf

_SCALE_BYTES = 4


@dataclass(frozen=True)
class Row:
    """How one leaf of the split is kept: a row of an array, perhaps narrower, channels last where it is a map.

    In int8 a row is a row of bytes: the scales of its channels as float32, then its values as multiples of them. A
    channel's scale is its largest absolute value in this image over 127: symmetric quantization per channel
    (Krishnamoorthi 2018, arXiv:1806.08342), with scales of each image's own, so that a row depends on no other.
    """

    leaf: Leaf
    dtype: torch.dtype
    channels_last: bool

    @property
    def bytes_per_image(self) -> int:
        """Bytes that one image takes in the cache."""
        return self.dtype.itemsize * torch.Size(self.packed_shape).numel()

    @property
    def packed_shape(self) -> tuple[int, ...]:
        """Shape of one row as it is kept."""
        if self._is_quantized:
            return (_SCALE_BYTES * self._scales.numel() + torch.Size(self._moved_shape).numel(),)
        return self._moved_shape

    @property
    def resolution(self) -> float:
        """How far a value may be off after `pack`, as a share of the largest."""
        if self._is_quantized:
            return 1 / 127
        return torch.finfo(self.dtype).eps if self.dtype.is_floating_point else 0.0

    def pack(self, values: Tensor) -> Tensor:
        """(batch, *leaf.shape) -> contiguous rows on the same device, in int8 on the CPU.

        Raises:
            ModelError: values are not finite, which int8 has no number for, or too large for float16.
        """
        values = values.movedim(1, -1) if self.channels_last else values
        if self._is_quantized:
            return self._quantize(values.to("cpu", torch.float32))
        packed = values.to(self.dtype).contiguous()
        if self.dtype == torch.float16 != self.leaf.dtype and (packed.isinf() & values.isfinite()).any():
            raise ModelError(f"activations of {self.leaf.key} are too large for --cache_dtype float16; choose bfloat16")
        return packed

    def unpack(self, rows: Tensor) -> Tensor:
        """Rows -> (batch, *leaf.shape), in the dtype that they are kept in; the leaf's own after int8."""
        if self._is_quantized:
            rows = self._dequantize(rows)
        return rows.movedim(-1, 1) if self.channels_last else rows

    def kept(self, values: Tensor) -> Tensor:
        """(batch, *leaf.shape) -> the same as the cache gives them back.

        Raises:
            ModelError: as for `pack`.
        """
        return self.unpack(self.pack(values))

    @property
    def _is_quantized(self) -> bool:
        return self.dtype == torch.int8 and self.leaf.dtype.is_floating_point

    @property
    def _moved_shape(self) -> tuple[int, ...]:
        shape = tuple(self.leaf.shape)
        return (*shape[1:], shape[0]) if self.channels_last else shape

    @property
    def _scales(self) -> torch.Size:
        """Shape of an image's scales: one for each channel, which is a map's first or last axis and a token's last."""
        shape = self._moved_shape
        first = len(shape) == 3 and not (self.channels_last or _ends_with_channels(self.leaf))
        channel = 0 if first else len(shape) - 1 if len(shape) > 1 else None
        return torch.Size(size if axis == channel else 1 for axis, size in enumerate(shape))

    def _quantize(self, values: Tensor) -> Tensor:
        shared = [axis + 1 for axis, size in enumerate(self._scales) if size == 1]
        largest = values.abs().amax(shared, keepdim=True) if shared else values.abs()
        scales = (largest / 127).clamp_min(torch.finfo(torch.float32).tiny)
        if not scales.isfinite().all():
            raise ModelError(f"activations of {self.leaf.key} are not finite; choose another --cache_dtype than int8")
        steps = (values / scales).round().clamp(-127, 127).to(torch.int8)
        return torch.cat([scales.flatten(1).contiguous().view(torch.int8), steps.flatten(1)], dim=1)

    def _dequantize(self, rows: Tensor) -> Tensor:
        scales, steps = rows.split([_SCALE_BYTES * self._scales.numel(), torch.Size(self._moved_shape).numel()], dim=1)
        # A copy, since numbers of four bytes begin at multiples of four, which those of a lone row need not.
        kept = scales.clone(memory_format=torch.contiguous_format).view(torch.float32).reshape(-1, *self._scales)
        values: Tensor = steps.reshape(-1, *self._moved_shape) * kept
        return values.to(self.leaf.dtype)


def make_rows(leaves: list[Leaf], cache_dtype: str, channels_last: bool) -> list[Row]:
    """Decide how each leaf is kept; only floating-point leaves are ever narrowed."""
    return [
        Row(
            leaf,
            leaf.dtype if cache_dtype == "auto" or not leaf.dtype.is_floating_point else getattr(torch, cache_dtype),
            channels_last and len(leaf.shape) == 3 and not _ends_with_channels(leaf),
        )
        for leaf in leaves
    ]


def _ends_with_channels(leaf: Leaf) -> bool:
    """Whether the model itself computes a map of (height, width, channels), as timm's Swin does."""
    grid = grid_of(leaf.shape)
    return grid is not None and grid.channels_last
