"""The command line: argv in, one call, one exit code; one module for each group of commands."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from hfft.errors import TerminatedError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; see `hfft.cli.dispatch.main`."""
    with _ended_in_order():
        try:
            from hfft.cli.dispatch import main as run  # here, since an interrupt may come while it is imported
        except KeyboardInterrupt as error:
            print(f"hfft: {str(error) or 'interrupted'}", file=sys.stderr)
            return 143 if isinstance(error, TerminatedError) else 130
        return run(argv)


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Within this context SIGTERM ends a lone process as an interrupt does, unless a job has a handler of its own.

    Of several processes those that wait for one that has failed could not hear it.
    """

    def end(number: int, frame: FrameType | None) -> None:
        raise TerminatedError("stopped by SIGTERM")

    alone = os.environ.get("WORLD_SIZE", "1") == "1" and threading.current_thread() is threading.main_thread()
    if not alone or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
