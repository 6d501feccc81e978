"""Files that are written whole or not at all, and what to do where they cannot be written."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hfft.errors import OutputError, one_line

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; on leaving, it takes the name in one step.

    A reader sees the earlier file or the new one, never half of one. After an error the earlier one is as it was.

    Raises:
        OSError: from the file system.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal digits.

    Raises:
        OSError: from the file system.
    """
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file in one step; see `whole_file`.

    Raises:
        OSError: from the file system.
    """
    with whole_file(path) as partial:
        partial.write_bytes(content)


def refuse_unwritable(folder: Path) -> None:
    """Make sure that files can be written to a folder that is there.

    Raises:
        OSError: from the file system.
    """
    with tempfile.NamedTemporaryFile(dir=folder) as probe:  # each process has its own
        probe.write(bytes(4096))
        probe.flush()


def cannot_write(what: str | Path, error: Exception) -> OutputError:
    """Return the error of what cannot be written: why, and what helps.

    Args:
        what: a file or folder, or what should have become one.
        error: of the file system, or of safetensors, which gives the system's number in its text alone.
    """
    told = re.search(r"\(os error (\d+)\)|Os { code: (\d+)", str(error))  # as safetensors says it, before 0.6 and since
    given = int(told[1] or told[2]) if told else None
    number = getattr(error, "errno", None) or OSError(given, "", None, given).errno  # of Windows' own numbers, too
    helps = "free some room, or " if number in _FULL else "change its permissions, or " if number in _FORBIDDEN else ""
    reason = os.strerror(number) if number else one_line(error)
    return OutputError(f"cannot write {what}: {reason}; {helps}choose another place")


def cache_dir_of(given: str | None) -> Path:
    """Return the folder that ``--cache_dir`` names; where it is not given, `default_cache_dir`."""
    return Path(given).expanduser() if given else default_cache_dir()


def default_cache_dir() -> Path:
    """Return ``$HFFT_CACHE``, or ``~/.cache/hfft`` (under ``$XDG_CACHE_HOME`` where that is set)."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("HFFT_CACHE") or Path(home) / "hfft").expanduser()
