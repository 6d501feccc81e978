"""Reading ahead changes when batches are read, and nothing else."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hfft.cache.read_ahead import read_ahead


class _Rows(Dataset[Any]):
    def __init__(self, broken: int = -1) -> None:
        self.broken, self.read = broken, list[int]()
        self.threads = set[str]()

    def __len__(self) -> int:
        return 10

    def __getitem__(self, row: int) -> Tensor:
        if row == self.broken:
            raise OSError("the disk is gone")
        self.read.append(row)
        self.threads.add(threading.current_thread().name)
        return torch.tensor(row)


def _loader(rows: _Rows, ahead: bool, shuffle: bool = True) -> DataLoader[Any]:
    loader = DataLoader(rows, batch_size=2, shuffle=shuffle)
    if ahead:
        read_ahead(loader)
    return loader


def test_batches_and_random_numbers_are_the_same() -> None:
    drawn = []
    for ahead in (False, True):
        torch.manual_seed(3)
        loader = _loader(_Rows(), ahead)
        epochs = [[[*batch.tolist(), torch.rand(()).item()] for batch in loader] for _ in range(2)]
        drawn.append((epochs, torch.rand(3).tolist()))
    assert drawn[0] == drawn[1]


def test_the_next_batch_is_read_by_another_thread_before_it_is_asked_for() -> None:
    rows = _Rows()
    batches: Any = iter(_loader(rows, ahead=True, shuffle=False))
    next(batches), next(batches)
    batches.close()  # as a training that ends in the middle of an epoch does; what is under way is read
    assert rows.read == list(range(6))
    assert threading.current_thread().name not in rows.threads


def test_what_cannot_be_read_is_raised_where_it_is_asked_for() -> None:
    batches = iter(_loader(_Rows(broken=5), ahead=True, shuffle=False))
    assert [next(batches).tolist(), next(batches).tolist()] == [[0, 1], [2, 3]]
    with pytest.raises(OSError, match="the disk is gone"):
        next(batches)
