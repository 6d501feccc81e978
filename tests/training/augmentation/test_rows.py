"""Seeds and partners follow from the run's seed, the image's content and the epoch, whatever batch asks for them."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import Tensor

from hfft.training.augmentation.rows import PARTNERS, SEEDS, AugmentedRows

CONTENTS = [hashlib.sha256(bytes([number])).hexdigest() for number in range(9)]


class Numbered:
    """Rows that hold their number, as a batch or one by one, and note the view that they are asked to show."""

    def __init__(self, one_by_one: bool = False) -> None:
        self.one_by_one, self.shown = one_by_one, -1

    def __getitems__(self, rows: list[int]) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        items = [{"leaf": torch.full((2, 3), float(row)), "labels": torch.tensor(row)} for row in rows]
        if self.one_by_one:
            return items
        return {name: torch.stack([item[name] for item in items]) for name in items[0]}

    def show_view(self, epoch: int) -> None:
        self.shown = epoch


@pytest.mark.parametrize("one_by_one", [False, True])
def test_each_image_comes_with_its_partner(one_by_one: bool) -> None:
    batch = AugmentedRows(Numbered(one_by_one), CONTENTS, 3, mixes=True).__getitems__([4, 0, 7])
    assert batch["labels"].tolist() == [4, 0, 7]
    assert batch["leaf"].shape == (3, 2, 2, 3)
    assert torch.equal(batch["leaf"][:, 0, 0, 0], batch["labels"].float())
    assert torch.equal(batch["leaf"][:, 1, 0, 0], batch[PARTNERS].float())
    assert (batch[PARTNERS] != batch["labels"]).all()


def test_neither_batch_nor_partner_changes_what_is_drawn() -> None:
    rows = AugmentedRows(Numbered(), CONTENTS, 3, mixes=True)
    every, some = rows.__getitems__(list(range(9))), rows.__getitems__([5, 2])
    assert torch.equal(some[SEEDS], every[SEEDS][[5, 2]])
    assert torch.equal(some[PARTNERS], every[PARTNERS][[5, 2]])
    assert torch.equal(every[SEEDS][every[PARTNERS], 0], every[SEEDS][:, 1])  # a partner is changed by its own seed
    alone = AugmentedRows(Numbered(), CONTENTS, 3, mixes=False).__getitems__([5, 2])
    assert alone["leaf"].shape == (2, 1, 2, 3)
    assert torch.equal(alone[SEEDS], some[SEEDS][:, :1])


def test_another_epoch_and_another_seed_draw_anew() -> None:
    whole = Numbered()
    rows = AugmentedRows(whole, CONTENTS, 3, mixes=True)
    first = rows.__getitems__([1, 2, 3])
    rows.show_view(1)
    assert whole.shown == 1
    second, other = rows.__getitems__([1, 2, 3]), AugmentedRows(whole, CONTENTS, 4, mixes=True).__getitems__([1, 2, 3])
    assert len({tuple(each[SEEDS].flatten().tolist()) for each in (first, second, other)}) == 3
    rows.show_view(0)
    assert torch.equal(rows.__getitems__([1, 2, 3])[SEEDS], first[SEEDS])


def test_all_images_become_partners_about_as_often() -> None:
    rows = AugmentedRows(Numbered(), CONTENTS, 3, mixes=True)
    counts = torch.zeros(9)
    for epoch in range(200):
        rows.show_view(epoch)
        counts += torch.bincount(rows.__getitems__(list(range(9)))[PARTNERS], minlength=9)
    assert counts.min() > 150
    assert counts.max() < 250


def test_a_single_image_is_its_own_partner() -> None:
    batch = AugmentedRows(Numbered(), CONTENTS[:1], 3, mixes=True).__getitems__([0])
    assert batch[PARTNERS].tolist() == [0]
