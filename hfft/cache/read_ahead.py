"""Batches of cached rows that are read in a thread while a GPU trains on the ones before."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from torch.utils.data import DataLoader


def read_ahead(loader: DataLoader[Any]) -> None:
    """Let a loader without worker processes read the next batch while its reader is busy with the last one.

    Batches are the same, and so are the random numbers that are drawn: the loader draws them before its first batch,
    for which its reader waits. Gathering and pinning 64 rows of 0.3 MB takes the CPU 15 ms, longer than a GPU trains.

    Args:
        loader: changed in place, since accelerate builds loaders of its own from what it is given.
    """
    loader.__class__ = _ReadAhead


class _ReadAhead(DataLoader[Any]):
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # a loader's own iterator has private parts
        batches = super().__iter__()
        with ThreadPoolExecutor(1) as thread:
            following = thread.submit(next, batches, None)
            while (batch := following.result()) is not None:
                following = thread.submit(next, batches, None)
                yield batch
