"""Shards that are written to disk while a run goes on with what it holds of them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

from hfft.bars import bar
from hfft.cache.placement import gigabytes
from hfft.errors import OutputError

_PATIENCE = 2.0
"""Seconds of writing after a run that are not worth giving up for, however quickly the model computes."""


@dataclass(frozen=True)
class _Write:
    done: Future[float]  # seconds that it took
    computing: float  # seconds that the shard took to compute
    bytes: int


class WriteBehind:
    """Writes shards one after another in a thread, for the next run; this one holds their rows and need not wait.

    When the run is over, the rest is written as well where that takes no longer than computing it again would; where
    the disk is slower than the model, it is left out.

    Args:
        say: prints a line for the user: what was not written, and why.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._pool = ThreadPoolExecutor(1)
        self._waiting: deque[_Write] = deque()
        self._written, self._seconds = 0, 0.0

    def __call__(self, write: Callable[[], object], computing: float, count: int) -> None:
        """Write a shard when its turn comes.

        Args:
            write: what does it; an `OutputError` of it ends the writing, not the run.
            computing: seconds that the shard took to compute.
            count: its bytes.
        """
        self._waiting.append(_Write(self._pool.submit(_timed, write), computing, count))

    def __enter__(self) -> WriteBehind:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Write the rest, or leave it out; after an error what is under way is written, and no more."""
        if kind is None:
            self._finish()
        self._pool.shutdown(cancel_futures=True)

    def _finish(self) -> None:
        with bar(total=len(self._waiting), desc="Activations to disk", unit="shard") as shown:
            while self._waiting:
                if self._too_slow():
                    return self._leave_out("writing it would take longer than computing it again does")
                try:
                    self._seconds += self._waiting[0].done.result()
                except OutputError as error:
                    return self._leave_out(str(error).split(";")[0])
                self._waiting.popleft()
                self._written += 1
                shown.update()

    def _too_slow(self) -> bool:
        left = [each.computing for each in self._waiting if not each.done.done()]
        writing = self._seconds / max(1, self._written)
        return len(left) * writing > sum(left) + _PATIENCE

    def _leave_out(self, why: str) -> None:
        self._pool.shutdown(cancel_futures=True)  # what is under way comes to its end
        left = [each for each in self._waiting if each.done.cancelled() or each.done.exception() is not None]
        size = gigabytes(sum(each.bytes for each in left))
        self._say(f"Not kept on disk for the next run: {size} of activations; {why}.")


def _timed(write: Callable[[], object]) -> float:
    began = time.perf_counter()
    write()
    return time.perf_counter() - began
