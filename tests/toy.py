"""A toy model with every kind of part."""

from __future__ import annotations

import torch
from torch import nn

from hfft.plugin.contract import Anatomy

ANATOMY = Anatomy(stem=("stem",), blocks=(("blocks.0",), ("blocks.1",), ("blocks.2",)), neck=("norm",), head=("head",))


def block() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))


class Toy(nn.Module):
    """A stem, a dropout outside every part, three blocks, a norm and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.drop = nn.Dropout(0.5)
        self.blocks = nn.ModuleList([block() for _ in range(3)])
        self.norm = nn.LayerNorm(4)
        self.head_drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.drop(self.stem(x))
        for layer in self.blocks:
            x = layer(x)
        logits: torch.Tensor = self.head(self.head_drop(self.norm(x)))
        return logits


LAST = {f"blocks.2.{name}" for name in ("0.weight", "0.bias", "1.weight", "1.bias")}


HEAD = {"head.weight", "head.bias"}


NORM = {"norm.weight", "norm.bias"}
