"""Training images as augmentation reads them: with a seed for each, and perhaps with a partner to be mixed with.

A seed depends on the run's seed, the image's content and the epoch alone, and so does the partner: neither on
processes, nor on the batch that an image is in, nor on whether activations are cached.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from hfft.data.preprocessing import FAILED, collate

SEEDS, PARTNERS = "augmentation:seeds", "augmentation:partners' labels"


class AugmentedRows(Dataset[dict[str, Tensor]]):
    """A training set whose batches say how they are to be augmented.

    Reads whole batches: each input is (batch, 1 or 2, ...), the image's own and, where images are mixed, its partner's.
    Beside ``labels`` there are the partners', and seeds of shape (batch, 1 or 2), in int64.

    Args:
        whole: the training set; it gives batches and shows views.
        contents: of its images, SHA-256 in hexadecimal digits.
        seed: of the run.
        mixes: whether each image needs a partner.
    """

    def __init__(self, whole: Any, contents: Sequence[str], seed: int, mixes: bool) -> None:
        self.whole, self.contents, self.seed, self.mixes = whole, contents, seed, mixes
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # workers outlive an epoch

    def __len__(self) -> int:
        return len(self.contents)

    def __getitems__(self, rows: Sequence[int]) -> dict[str, Tensor]:
        drawn = [self._drawn(row) for row in rows]
        if not self.mixes:
            return self._read(list(rows), [[seed] for seed, _ in drawn])
        partners = [partner for _, partner in drawn]
        pairs = [[seed, self._drawn(partner)[0]] for seed, partner in drawn]
        return self._read([each for pair in zip(rows, partners, strict=True) for each in pair], pairs)

    def show_view(self, epoch: int) -> None:
        """Augment as in this epoch of the run from now on, and show its view."""
        self._epoch.fill_(epoch)
        self.whole.show_view(epoch)

    def _drawn(self, row: int) -> tuple[int, int]:
        """Return the seed of an image in this epoch, and the row of its partner, another image where there is one."""
        seed, other = seeds_of(self.seed, int(self._epoch), self.contents[row])
        count = len(self)
        return seed, (row + 1 + other % (count - 1)) % count if count > 1 else row

    def _read(self, rows: list[int], seeds: list[list[int]]) -> dict[str, Tensor]:
        batch = collate(self.whole.__getitems__(rows))
        if FAILED in batch:
            return batch
        parted = {name: tensor.unflatten(0, (len(seeds), -1)) for name, tensor in batch.items()}
        labels = parted.pop("labels")
        parted |= {"labels": labels[:, 0], SEEDS: torch.tensor(seeds)}
        return {**parted, PARTNERS: labels[:, 1]} if self.mixes else parted


def seeds_of(*parts: Any) -> tuple[int, int]:
    """Return two seeds below 2**63 that follow from what is given, the same on every machine."""
    found = hashlib.sha256(" ".join(map(str, parts)).encode()).digest()
    return int.from_bytes(found[:8], "big") >> 1, int.from_bytes(found[8:16], "big") >> 1
