"""Fill an activation cache from images, and read it back as a data set."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from hfft.bars import bar
from hfft.cache.rows import Row
from hfft.cache.store import ActivationCache
from hfft.data.images import ImageSet
from hfft.data.preprocessing import Pixels, ShownView, collate, hand_over, of_one_shape, received
from hfft.errors import ModelError
from hfft.machine import worker_processes
from hfft.split.engines import Engine, EngineError
from hfft.split.halves import Prefix

Batches = Iterable[dict[str, Tensor]]
OnFill = Callable[[int, int], None]
_T = TypeVar("_T")
_R = TypeVar("_R")
CHECKED_ROWS = 4
"""Rows that are computed again when a store is opened that has some, spread over shards."""
TOLERANCE = 1e-3
"""How far they may be off, as a share of the largest value among them; narrower number formats may be off by more.
Kernels may add in another order in another batch, which moves the last bits; another image moves 0.4 and more
(ViT and ResNet with random weights)."""


def unheard(done: int, total: int) -> None:
    """Hear how many rows of a filling are done, of how many, and do nothing about it."""


@dataclass(frozen=True)
class FillProgress:
    """Who sees how far a filling is.

    Args:
        title: of the progress bar, which the first process draws.
        on_fill: hears of each batch: rows done, and rows to do.
    """

    title: str = "Frozen prefix"
    on_fill: OnFill = unheard


def fill_batch(device: torch.device) -> int:
    """Return how many images go through the prefix at once.

    On a CPU eight of them leave activations in the caches of the cores: 1.0 to 2.8 times as fast as 32 over
    ResNets, ViTs, Swin, ConvNeXt and EfficientNet-Lite. A GPU wants enough to be busy.
    """
    return 8 if device.type == "cpu" else 64


@dataclass
class FillReport:
    """What a filling did.

    Args:
        rows: rows in the cache.
        computed: rows that this process computes; the rest was there already.
        passed: how many of these are done so far.
        damaged: files that failed their checksum and were computed again.
        unreadable: files that could not be read, and why; they are left alone.
        discarded: whether rows were there that the model does not compute now, and that were deleted.
        wait_seconds: time spent waiting for decoded images.
        prefix_seconds: time spent in the frozen prefix.
    """

    rows: int
    computed: int = 0
    passed: int = 0
    damaged: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    discarded: bool = False
    wait_seconds: float = 0.0
    prefix_seconds: float = 0.0


def fill(
    cache: ActivationCache,
    prefix: Prefix | EnginePrefix,
    source: Callable[[list[int]], Batches],
    share: tuple[int, int],
    progress: FillProgress = FillProgress(),
) -> FillReport:
    """Compute the rows that are missing, one process its share of them.

    Args:
        cache: rows that are there are verified and kept.
        prefix: the frozen part of the model.
        source: from rows to what the prefix takes, in batches of `fill_batch`; see `pixel_batches`.
        share: (rank, processes) among those that fill this folder.
        progress: who sees how far it is.

    Raises:
        DataError: an image cannot be read.
        OutputError: the disk is full or read-only.
    """
    rank, processes = share
    cache.touch()
    rows = cache.find(cache.share(rank, processes))
    report = FillReport(len(cache.distinct), len(rows), damaged=cache.damaged, unreadable=cache.unreadable)
    if not rows:
        return report
    batches = (
        {row.leaf.key: row.pack(values[row.leaf.key]) for row in cache.rows}
        for values in capture_all(prefix, source, rows, report)
    )
    with bar(total=len(rows), hidden=bool(rank), desc=progress.title, unit="image") as shown, _writing(cache) as put:
        for start in range(0, len(rows), cache.shard_rows):
            shard, began = rows[start : start + cache.shard_rows], time.perf_counter()
            packed = []
            for values in islice(batches, -(-len(shard) // fill_batch(prefix.device))):
                packed.append(values)
                size = next(iter(values.values())).shape[0]
                report.passed += size
                shown.update(size)
                progress.on_fill(report.passed, report.computed)
            put(shard, packed, time.perf_counter() - began)
    return report


@contextmanager
def _writing(cache: ActivationCache) -> Iterator[Callable[[list[int], list[dict[str, Tensor]], float], None]]:
    """Within this context shards, given as batches of packed rows and seconds, are stored one at a time in a thread.

    So the next shard is computed meanwhile, and on a GPU need not wait until this one has left it. An error of storing
    is raised with the next shard, or at the end.
    """
    stored: deque[Future[None]] = deque()

    def store(rows: list[int], packed: list[dict[str, Tensor]], computing: float) -> None:
        cache.put(rows, {key: torch.cat([part[key] for part in packed]) for key in packed[0]}, computing)

    def put(rows: list[int], packed: list[dict[str, Tensor]], computing: float) -> None:
        if stored:
            stored.popleft().result()
        stored.append(pool.submit(store, rows, packed, computing))

    with ThreadPoolExecutor(1) as pool:
        yield put
        while stored:
            stored.popleft().result()


def capture_all(
    prefix: Prefix | EnginePrefix,
    source: Callable[[list[int]], Batches],
    rows: list[int],
    report: FillReport | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Yield the activations of rows in order, in batches of `fill_batch`.

    An engine with several lanes has as many threads here, each of which decodes and computes a batch of its own; else
    the next batches are decoded while one is computed.

    Args:
        prefix: what computes.
        source: as for `fill`.
        rows: as for the source.
        report: gets the seconds; with several lanes those of one lane.

    Raises:
        DataError: an image cannot be read.
        ModelError: an engine refuses.
    """
    report = report or FillReport(len(rows))
    lanes = prefix.engine.lanes if isinstance(prefix, EnginePrefix) else 1
    if lanes == 1:
        yield from (_measured(prefix, batch, report) for batch in _timed(source(rows), report))
        return

    def lane(part: list[int]) -> tuple[dict[str, Tensor], FillReport]:
        own = FillReport(len(part))
        (batch,) = _timed(source(part), own)
        return _measured(prefix, batch, own), own

    size = fill_batch(prefix.device)
    parts = (rows[start : start + size] for start in range(0, len(rows), size))
    for values, own in _in_lanes(lane, parts, lanes):
        report.wait_seconds += own.wait_seconds / lanes
        report.prefix_seconds += own.prefix_seconds / lanes
        yield values


def rows_agree(
    cache: ActivationCache,
    prefix: Prefix,
    source: Callable[[list[int]], Batches],
    share: tuple[int, int] = (0, 1),
    tolerance: float = 0.0,
) -> bool:
    """Compute a few of the rows that are on disk again, and return whether they are what is kept there.

    The key of an entry names all that its rows are known to depend on; this finds what it does not know.
    Bits are not compared: the rows were computed in other batches, for which kernels may add in another order.

    Args:
        cache: its damaged shards are deleted, as `fill` does.
        prefix: the frozen part of the model.
        source: as for `fill`.
        share: as for `fill`; rows are chosen from it.
        tolerance: within which the rows were computed, where an engine computed them.

    Raises:
        DataError: an image cannot be read.
    """
    cache.find(cache.share(*share))
    rows = _spread([row for shard in _spread(cache.found()) for row in _spread(shard)])
    if not rows:
        return True
    batches = [prefix.capture(batch) for batch in source(rows)]
    kept = cache.gather(rows)
    return all(
        _close(
            torch.cat([row.kept(batch[row.leaf.key]) for batch in batches]).to("cpu"),
            kept[row.leaf.key].to("cpu"),
            row,
            prefix,
            tolerance,
        )
        for row in cache.rows
    )


def pixel_batches(images: ImageSet, pixels: Pixels, device: torch.device) -> Callable[[list[int]], Batches]:
    """Return a source of pixels, decoded in worker processes; row ``view * images + image`` is that view of it."""
    size = fill_batch(device)

    def batches(rows: list[int]) -> Batches:
        dataset = _Rows(images, pixels, rows)
        loader: DataLoader[dict[str, Tensor]] = DataLoader(
            dataset,
            batch_size=size,
            collate_fn=collate,
            num_workers=worker_processes(dataset) if len(rows) > size else 0,  # a worker reads whole batches
            pin_memory=device.type == "cuda",
        )
        return map(received, loader)

    return batches


def activation_batches(entry: ActivationCache, device: torch.device) -> Callable[[list[int]], Batches]:
    """Return a source of activations that another boundary's cache holds for the same rows."""
    size = fill_batch(device)
    return lambda rows: (entry.gather(rows[start : start + size]) for start in range(0, len(rows), size))


@dataclass(frozen=True)
class EnginePrefix:
    """A frozen prefix that an engine computes, in the place of a `Prefix`."""

    engine: Engine

    @property
    def device(self) -> torch.device:
        """The device of PyTorch's activations."""
        return self.engine.device

    def capture(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the activations of a batch.

        Raises:
            ModelError: the engine refuses.
        """
        try:
            return self.engine.capture(inputs)
        except EngineError as error:
            raise ModelError(
                f"{self.engine.name} cannot compute the frozen prefix: {error}; choose --prefix_engine torch"
            ) from error


def engine_batches(pixels: Callable[[list[int]], Batches], prefix: EnginePrefix) -> Callable[[list[int]], Batches]:
    """Return a source of an engine's activations, computed from pixels and kept nowhere."""
    return lambda rows: capture_all(prefix, pixels, rows)


class CachedDataset(Dataset[dict[str, Any]]):
    """A set of images as cached activations with labels.

    Reads whole batches: ``dataset.__getitems__(rows)`` gives each leaf as (batch, *leaf.shape) and
    ``labels`` of shape (batch,).
    """

    def __init__(self, cache: ActivationCache, images: ImageSet, views: int) -> None:
        self.cache = cache
        self.labels = torch.as_tensor(images.labels)
        self._view = ShownView(views)

    def __len__(self) -> int:
        return len(self.labels)

    def show_view(self, epoch: int) -> None:
        """Show the view of this epoch of the run from now on."""
        self._view.show(epoch)

    def __getitem__(self, image: int) -> dict[str, Any]:
        return {key: value[0] for key, value in self.__getitems__([image]).items()}

    def __getitems__(self, images: list[int]) -> dict[str, Tensor]:
        offset = int(self._view) * len(self)
        batch = self.cache.gather([offset + image for image in images])
        return {**batch, "labels": self.labels[images]}


class _Rows(Dataset[dict[str, Tensor]]):
    """The pixels of chosen cache rows, decoded in worker processes."""

    def __init__(self, images: ImageSet, pixels: Pixels, rows: list[int]) -> None:
        self.images, self.pixels, self.rows = images, pixels, rows
        self.contents = images.contents()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        view, image = divmod(self.rows[index], len(self.images))
        return self.pixels(self.images.image(image, self.pixels.least), self.contents[image], view)

    @hand_over
    def __getitems__(self, indices: list[int]) -> list[dict[str, Tensor]]:
        rows = [self.rows[index] % len(self.images) for index in indices]
        return of_one_shape([self[index] for index in indices], self.images, rows)


def _spread(items: list[_T]) -> list[_T]:
    count = min(CHECKED_ROWS, len(items))
    return [items[number * (len(items) - 1) // max(1, count - 1)] for number in range(count)]


def _close(computed: Tensor, kept: Tensor, row: Row, prefix: Prefix, allowed: float) -> bool:
    """Whether what was kept is what is computed now, but for what the number formats on the way lose."""
    if computed.shape != kept.shape:
        return False
    if not kept.dtype.is_floating_point:
        return torch.equal(computed, kept)
    loss = torch.finfo(prefix.autocast).eps if prefix.autocast else 0.0
    tolerance = max(TOLERANCE, 2 * allowed, 4 * loss, 4 * row.resolution)
    scale = kept.float().nan_to_num(posinf=0, neginf=0).abs().max().item()
    return torch.allclose(computed.float(), kept.float(), rtol=0, atol=tolerance * scale, equal_nan=True)


def _timed(batches: Batches, report: FillReport) -> Iterator[dict[str, Tensor]]:
    remaining = iter(batches)
    while True:
        start = time.perf_counter()
        batch = next(remaining, None)
        report.wait_seconds += time.perf_counter() - start
        if batch is None:
            return
        yield batch


def _measured(prefix: Prefix | EnginePrefix, batch: dict[str, Tensor], report: FillReport) -> dict[str, Tensor]:
    start = time.perf_counter()
    values = prefix.capture(batch)
    report.prefix_seconds += time.perf_counter() - start
    return values


def _in_lanes(work: Callable[[_T], _R], items: Iterable[_T], lanes: int) -> Iterator[_R]:
    """Yield what each item gives, in order; only a few are under way at a time, since results take memory."""
    waiting: deque[Future[_R]] = deque()
    with ThreadPoolExecutor(lanes) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > 2 * lanes:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
