"""One run at a time in an output folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from hfft.errors import OutputError

LOCK = ".hfft.lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other runs out of an existing folder within this context; the system lets go when the process dies.

    Raises:
        OutputError: another run is at work there, or the file system refuses.
    """
    path = folder / LOCK
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
        while not path.exists():  # the run before removed what was just locked
            lock.release()
            lock.acquire(timeout=0)
    except Timeout as error:
        raise OutputError(
            f"another run is writing to {folder}; wait until it has ended, or choose another --output_dir"
        ) from error
    except (OSError, NotImplementedError) as error:
        raise OutputError(f"cannot lock {path}: {error}; choose another --output_dir") from error
    try:
        yield
    finally:
        with suppress(OSError):  # some systems do not remove what is open
            path.unlink(missing_ok=True)
        lock.release()
